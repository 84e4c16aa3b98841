//! Archives that readers could disagree about, or that are not all there.

use tests::archive::{BLOCK, Tar};

use super::*;

struct ArchiveRow {
    name: &'static str,
    code: Code,
    hinted: bool,
    /// What the message must name.
    says: &'static str,
    /// The bytes of the archive, bad or not.
    make: fn(&Layout, bool) -> Vec<u8>,
}

fn archive_row(
    name: &'static str,
    code: Code,
    says: &'static str,
    make: fn(&Layout, bool) -> Vec<u8>,
) -> ArchiveRow {
    ArchiveRow { name, code, hinted: false, says, make }
}

/// The layout's archive with one more entry before it, when that is wanted.
fn with_entry(layout: &Layout, bad: bool, add: fn(&mut Tar) -> &mut Tar) -> Vec<u8> {
    let mut tar = Tar::default();
    if bad {
        add(&mut tar);
    }
    for (name, bytes) in layout.files() {
        tar.file(&name, &bytes);
    }
    tar.end()
}

fn rows() -> Vec<ArchiveRow> {
    use Code::*;
    vec![
        archive_row("symlink", ArchiveLink, "a-link", |layout, bad| {
            with_entry(layout, bad, |tar| tar.entry(b'2', "a-link", "/etc/passwd", b""))
        }),
        archive_row("hard link", ArchiveLink, "a-link", |layout, bad| {
            with_entry(layout, bad, |tar| tar.entry(b'1', "a-link", "index.json", b""))
        }),
        archive_row("symlink in place of index.json", ArchiveLink, "index.json", |layout, bad| {
            let mut tar = Tar::default();
            for (name, bytes) in layout.files() {
                match name.as_str() {
                    "index.json" if bad => {
                        tar.file("real.json", &bytes).entry(b'2', "index.json", "real.json", b"")
                    }
                    _ => tar.file(&name, &bytes),
                };
            }
            tar.end()
        }),
        archive_row("FIFO", NotRegular, "a-fifo", |layout, bad| {
            with_entry(layout, bad, |tar| tar.entry(b'6', "a-fifo", "", b""))
        }),
        archive_row("device", NotRegular, "a-device", |layout, bad| {
            with_entry(layout, bad, |tar| tar.entry(b'3', "a-device", "", b""))
        }),
        archive_row("the same name twice", ArchiveDuplicate, "index.json", |layout, bad| {
            with_entry(layout, bad, |tar| tar.file("index.json", b"{}"))
        }),
        archive_row("the same name in two spellings", ArchiveDuplicate, "oci-layout", |l, bad| {
            with_entry(l, bad, |tar| tar.file("./oci-layout", b"{}"))
        }),
        archive_row("a name that is a folder too", ArchiveDuplicate, "index.json", |l, bad| {
            with_entry(l, bad, |tar| tar.folder("index.json/"))
        }),
        archive_row("absolute name", ArchiveName, "/etc/cron.d/x", |layout, bad| {
            with_entry(layout, bad, |tar| tar.file("/etc/cron.d/x", b"x"))
        }),
        archive_row("name that leads out", ArchiveName, "../x", |layout, bad| {
            with_entry(layout, bad, |tar| tar.file("../x", b"x"))
        }),
        archive_row("name that leads out and in again", ArchiveName, "..", |layout, bad| {
            with_entry(layout, bad, |tar| tar.file("blobs/../../x/y", b"x"))
        }),
        archive_row("folder that leads out", ArchiveName, "..", |layout, bad| {
            with_entry(layout, bad, |tar| tar.folder("blobs/../../x/"))
        }),
        archive_row("long name that leads out", ArchiveName, "..", |layout, bad| {
            let long = "blobs/".to_owned() + &"../".repeat(50) + "x";
            with_entry_named(layout, bad, &long)
        }),
        archive_row("cut inside of a blob", ArchiveTruncated, "", |layout, bad| {
            let whole = layout.tar().end();
            let n = whole.len() - if bad { 3 * BLOCK } else { 0 };
            whole[..n].to_vec()
        }),
        archive_row("cut before the last file's end", ArchiveTruncated, "", |layout, bad| {
            let whole = layout.tar();
            if bad { whole.unended()[..whole.unended().len() - 1].to_vec() } else { whole.end() }
        }),
        archive_row("cut between two files", ArchiveTruncated, "end mark", |layout, bad| {
            let whole = layout.tar();
            if bad { whole.unended().to_vec() } else { whole.end() }
        }),
        archive_row("cut inside of a header", ArchiveTruncated, "", |layout, bad| {
            let mut tar = layout.tar();
            let before = tar.unended().len();
            tar.file("one-more", b"x");
            if bad { tar.unended()[..before + 100].to_vec() } else { tar.end() }
        }),
        archive_row("no bytes at all", ArchiveTruncated, "", |layout, bad| {
            if bad { Vec::new() } else { layout.tar().end() }
        }),
        archive_row("something that is no archive", ArchiveInvalid, "", |layout, bad| {
            if bad { noise("no archive", 4096) } else { layout.tar().end() }
        }),
        archive_row("header whose sum is wrong", ArchiveInvalid, "", |layout, bad| {
            let mut bytes = layout.tar().end();
            bytes[1] ^= u8::from(bad);
            bytes
        }),
        ArchiveRow {
            hinted: true,
            ..archive_row("compressed archive", ArchiveInvalid, "gzip", |layout, bad| {
                let whole = layout.tar().end();
                if bad { [b"\x1f\x8b\x08\0".as_slice(), &whole].concat() } else { whole }
            })
        },
        archive_row("sparse file", ArchiveInvalid, "sparse", |layout, bad| {
            with_entry(layout, bad, |tar| tar.entry(b'S', "sparse", "", b""))
        }),
        archive_row("no layout in it", LayoutInvalid, "oci-layout", |layout, bad| {
            let mut tar = Tar::default();
            tar.file("README", b"nothing to see");
            if bad { tar.end() } else { layout.tar().end() }
        }),
        ArchiveRow {
            hinted: true,
            ..archive_row("docker-archive", LayoutInvalid, "oci-layout", |layout, bad| {
                let mut tar = Tar::default();
                tar.file("manifest.json", b"[]").file("repositories", b"{}");
                if bad { tar.end() } else { layout.tar().end() }
            })
        },
        archive_row("too many entries", TooManyEntries, "", |layout, bad| {
            let mut tar = layout.tar();
            let n = 101_024 - layout.files().len() + usize::from(bad);
            for number in 0..n {
                tar.file(&format!("more/{number}"), b"");
            }
            tar.end()
        }),
    ]
}

fn with_entry_named(layout: &Layout, bad: bool, name: &str) -> Vec<u8> {
    let mut tar = layout.tar();
    if bad {
        tar.file(name, b"x");
    }
    tar.end()
}

#[test]
fn archives_that_are_not_what_they_seem() {
    let daemon = Daemon::start();
    daemon.bond_fed(&["put", "-", "--title", "warm"], std::process::Stdio::null()).ok();
    let mut layout = Layout::default();
    let root = layout.image("archived");
    layout.list(&root);
    let path = daemon.folder().join("archive.tar");
    for row in rows() {
        let before = Before::of(&daemon);
        for bad in [true, false] {
            std::fs::write(&path, (row.make)(&layout, bad)).unwrap();
            // In place, and from standard input.
            for from_input in [false, true] {
                let put = match from_input {
                    false => daemon.bond(&["put", &archive(&path)]),
                    true => {
                        let input = std::fs::File::open(&path).unwrap();
                        daemon.bond_fed(&["put", "oci-archive:-"], input)
                    }
                };
                if bad {
                    refused(put, row.code, row.says, row.hinted);
                    before.is_all_there_is(&daemon, row.name);
                } else {
                    assert_eq!(put.ok().digest(), digest(&root), "{}", row.name);
                }
            }
        }
        daemon.bond(&["retire", &digest(&root).to_string()]).ok();
        daemon.bond(&["gc"]).ok();
    }
}

#[test]
fn an_archive_that_is_no_regular_file() {
    let daemon = Daemon::start();
    let fifo = daemon.folder().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for path in [fifo.as_path(), daemon.folder(), Path::new("/dev/null")] {
        for source in [archive(path), file(path)] {
            let put = daemon.bond(&["put", &source]);
            refused(put, Code::NotRegular, &path.display().to_string(), false);
        }
    }
}
