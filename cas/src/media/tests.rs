//! Layouts and archives that are read and made, and a table of those that are refused, each with
//! an accepted twin.

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use std::io::Read as _;

use super::*;
use crate::digest::Algorithm;
use crate::disk::ForeignError;

struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Scratch {
        static N: AtomicU32 = AtomicU32::new(0);
        let name = format!("media-{}-{}", std::process::id(), N.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).expect("a folder");
        Scratch(path)
    }

    fn file(&self, bytes: &[u8]) -> ForeignFile {
        let path = self.0.join("archive.tar");
        fs::write(&path, bytes).expect("written");
        ForeignFile::open(&path).expect("open")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The files of a layout by name, and the descriptor of its image.
struct Sample {
    files: Vec<(String, Vec<u8>)>,
    image: Descriptor,
    layer: Descriptor,
}

fn json(value: serde_json::Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

fn sample(text: &str) -> Sample {
    let layer = Descriptor::new(
        "application/vnd.oci.image.layer.v1.tar",
        Digest::compute(Algorithm::Sha512, text.as_bytes()),
        text.len() as u64,
    );
    let config = Descriptor::new(media_type::EMPTY, Digest::of(b"{}"), 2);
    let manifest = json(serde_json::json!({
        "schemaVersion": 2, "mediaType": media_type::IMAGE_MANIFEST,
        "config": config, "layers": [layer], "unknown": {"kept": true},
    }));
    let image =
        Descriptor::new(media_type::IMAGE_MANIFEST, Digest::of(&manifest), manifest.len() as u64);
    let files = vec![
        (OCI_LAYOUT_FILE.to_owned(), crate::layout::OCI_LAYOUT.to_vec()),
        (blob_file(&config.digest), b"{}".to_vec()),
        (blob_file(&layer.digest), text.as_bytes().to_vec()),
        (blob_file(&image.digest), manifest),
        (INDEX_FILE.to_owned(), crate::layout::index_json(&image)),
    ];
    Sample { files, image, layer }
}

impl Sample {
    fn write(&self, folder: &Path) {
        for (name, bytes) in &self.files {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
            fs::write(path, bytes).expect("written");
        }
    }

    fn set(&mut self, name: &str, bytes: Vec<u8>) {
        self.files.retain(|(n, _)| n != name);
        self.files.push((name.to_owned(), bytes));
    }

    /// An index that lists these, each with annotations.
    fn list(&mut self, entries: &[(&Descriptor, &[(&str, &str)])]) {
        let entries: Vec<_> = entries
            .iter()
            .map(|(descriptor, annotations)| {
                let mut entry = (*descriptor).clone();
                entry.annotations =
                    annotations.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
                entry
            })
            .collect();
        let index = serde_json::json!({"schemaVersion": 2, "manifests": entries});
        self.set(INDEX_FILE, json(index));
    }

    fn tar(&self) -> Tar {
        let mut tar = Tar::default();
        for (name, bytes) in &self.files {
            tar.file(name, bytes);
        }
        tar
    }
}

#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn entry(&mut self, kind: u8, name: &[u8], bytes: &[u8]) -> &mut Tar {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..name.len().min(100)]
            .copy_from_slice(&name[..name.len().min(100)]);
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        if name.len() > 100 {
            self.entry(b'L', b"././@LongLink", name);
        }
        self.0.extend(header.as_bytes());
        self.0.extend(bytes);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(&mut self, name: &str, bytes: &[u8]) -> &mut Tar {
        self.entry(b'0', name.as_bytes(), bytes)
    }

    fn end(&self) -> Vec<u8> {
        [self.0.as_slice(), &[0; 1024]].concat()
    }
}

/// One record of an extended header: its length counts itself.
fn record(key: &str, value: &str) -> String {
    let rest = key.len() + value.len() + 3;
    let length = (rest + 1..).find(|n| n.to_string().len() + rest == *n).expect("a length");
    format!("{length} {key}={value}\n")
}

fn open_archive(bytes: &[u8]) -> Result<(Layout, Descriptor), Error> {
    let scratch = Scratch::new();
    let layout = Layout::open_archive(scratch.file(bytes), 0, "oci-archive:X", &Limits::default())?;
    let root = layout.pick(None, None)?;
    layout.closure(&root)?;
    Ok((layout, root))
}

fn open_dir(sample: &Sample, change: &dyn Fn(&Path)) -> Result<(Layout, Descriptor), Error> {
    let scratch = Scratch::new();
    sample.write(&scratch.0);
    change(&scratch.0);
    let layout = Layout::open_dir(&scratch.0, "oci:X", false, &Limits::default())?;
    let root = layout.pick(None, None)?;
    layout.closure(&root)?;
    Ok((layout, root))
}

#[test]
fn a_layout_is_the_same_from_a_folder_an_archive_and_a_copy_of_either() {
    let sample = sample("a layer");
    let (_, root) = open_dir(&sample, &|_| {}).expect("a folder");
    let (layout, from_archive) = open_archive(&sample.tar().end()).expect("an archive");
    assert_eq!((root.digest, from_archive.digest), (sample.image.digest, sample.image.digest));

    let scratch = Scratch::new();
    let closure = layout.closure(&root).expect("a closure");
    let copy_to = |name: Option<&str>| {
        let mut archive = ArchiveSink::begin(Vec::new(), "X").expect("begun");
        for node in closure.nodes() {
            let bytes = layout.part(&node.descriptor()).expect("a part").read("X").expect("read");
            archive.blob(&node.descriptor(), &mut bytes.as_slice()).expect("taken");
        }
        archive.finish(&root, name).expect("finished")
    };
    let folder = DirSink::begin(&scratch.0.join("copy"), &Algorithm::ALL).expect("begun");
    for node in closure.nodes() {
        let bytes = layout.part(&node.descriptor()).expect("a part").read("X").expect("read");
        folder.blob(&node.descriptor(), &mut bytes.as_slice()).expect("taken");
    }
    folder.finish(&root, Some("v\"1")).expect("finished");

    let (copy, copied) = open_archive(&copy_to(None)).expect("the copy is an archive");
    assert_eq!(copied.digest, root.digest);
    assert_eq!(copy_to(Some("v1")), copy_to(Some("v1")), "deterministic");
    let bytes = copy.part(&sample.layer).expect("a part").read("X").expect("read");
    assert_eq!(bytes, b"a layer", "a name of more than 100 bytes is found again");
    let copy = Layout::open_dir(&scratch.0.join("copy"), "oci:Y", false, &Limits::default());
    assert_eq!(copy.expect("the copy is a layout").candidates(), ["oci:Y:v\"1"]);
    assert!(matches!(
        DirSink::begin(&scratch.0.join("copy"), &Algorithm::ALL),
        Err(Error::Exists { .. })
    ));
}

#[test]
fn an_archive_may_begin_anywhere_in_its_file_and_hold_what_docker_and_tar_add() {
    let sample = sample("a layer");
    let mut tar = Tar::default();
    tar.entry(b'5', b"./", b"").entry(b'5', b"./blobs/", b"").entry(b'5', b"./blobs/", b"");
    tar.entry(b'g', b"pax_global_header", record("comment", "x").as_bytes());
    for (name, bytes) in &sample.files {
        tar.file(&format!("./{name}"), bytes);
    }
    tar.file("manifest.json", b"[]").file("repositories", b"{}");
    open_archive(&tar.end()).expect("accepted");

    let scratch = Scratch::new();
    let shifted = [b"before it".as_slice(), &tar.end()].concat();
    let file = scratch.file(&shifted);
    let layout = Layout::open_archive(file, 9, "-", &Limits::default()).expect("accepted");
    let part = layout.part(&sample.layer).expect("a part");
    assert_eq!(part.read("X").expect("read"), b"a layer");
}

#[test]
fn which_artifact_is_meant_is_never_guessed() {
    let mut layout = sample("one");
    let other = sample("two");
    let inner = json(serde_json::json!({"schemaVersion": 2, "manifests": [other.image]}));
    let index = Descriptor::new(media_type::IMAGE_INDEX, Digest::of(&inner), inner.len() as u64);
    let (one, digest) = (layout.image.clone(), index.digest);
    layout.files.extend(other.files.clone().into_iter().filter(|(n, _)| n.starts_with("blobs")));
    layout.set(&blob_file(&index.digest), inner);
    let scratch = Scratch::new();
    let reopen = |layout: &Sample| {
        layout.write(&scratch.0);
        Layout::open_dir(&scratch.0, "oci:L", false, &Limits::default()).expect("a layout")
    };

    // One image under two names, and an index beside it that shares one of them.
    layout.list(&[
        (&one, &[(REF_NAME, "a"), (IMAGE_NAME, "docker.io/library/x:a")]),
        (&one, &[(REF_NAME, "shared")]),
        (&index, &[(REF_NAME, "shared")]),
    ]);
    let opened = reopen(&layout);
    let pick = |name: Option<&str>, digest: Option<&Digest>| opened.pick(name, digest);
    for name in ["a", "docker.io/library/x:a"] {
        assert_eq!(pick(Some(name), None).expect("picked").digest, one.digest);
    }
    assert_eq!(pick(Some("shared"), Some(&digest)).expect("picked").digest, digest);
    assert_eq!(pick(None, Some(&digest)).expect("picked").digest, digest);
    let child = pick(None, Some(&other.image.digest)).expect("a manifest inside the index");
    assert_eq!(child.media_type, media_type::IMAGE_MANIFEST);

    let (one_at, index_at) = (format!("oci:L@{}", one.digest), format!("oci:L@{digest}"));
    let all = ["oci:L:a".to_owned(), one_at.clone(), index_at.clone()];
    let Err(Error::Ambiguous { candidates, .. }) = pick(None, None) else { panic!("guessed") };
    assert_eq!(candidates, ["oci:L:a".to_owned(), index_at.clone()]);
    let Err(Error::Ambiguous { candidates, .. }) = pick(Some("shared"), None) else {
        panic!("guessed")
    };
    assert_eq!(candidates, [one_at, index_at]);
    for (name, digest) in
        [(Some("b"), None), (Some("a"), Some(&digest)), (None, Some(&digest_of("z")))]
    {
        let refused = pick(name, digest);
        assert!(matches!(&refused, Err(Error::NotListed { candidates, .. }) if *candidates == all));
    }
    // The same image twice is one image, and an empty list is none.
    layout.list(&[(&one, &[(REF_NAME, "a")]), (&one, &[(REF_NAME, "b")])]);
    assert_eq!(reopen(&layout).pick(None, None).expect("picked").digest, one.digest);
    layout.list(&[]);
    assert!(matches!(reopen(&layout).pick(None, None), Err(Error::NotListed { .. })));
}

fn digest_of(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}

#[test]
fn what_is_wrong_with_a_folder_is_said() {
    let layer = |path: &Path| path.join(blob_file(&sample("a layer").layer.digest));
    type Change = Box<dyn Fn(&Path)>;
    type Check = fn(&Error) -> bool;
    let cases: Vec<(&str, Change, Check)> = vec![
        (
            "no oci-layout",
            Box::new(|p| fs::remove_file(p.join("oci-layout")).expect("removed")),
            |e| matches!(e, Error::NotLayout { .. }),
        ),
        (
            "another version",
            Box::new(|p| {
                fs::write(p.join("oci-layout"), r#"{"imageLayoutVersion":"2.0.0"}"#)
                    .expect("write");
            }),
            |e| matches!(e, Error::NotLayout { .. }),
        ),
        ("no index", Box::new(|p| fs::remove_file(p.join("index.json")).expect("removed")), |e| {
            matches!(e, Error::NotLayout { .. })
        }),
        (
            "an index over the limit",
            Box::new(|p| fs::write(p.join("index.json"), vec![b' '; 5 << 20]).expect("write")),
            |e| matches!(e, Error::IndexTooLarge { .. }),
        ),
        (
            "bytes after the index",
            Box::new(|p| {
                let bytes = fs::read(p.join("index.json")).expect("read");
                fs::write(p.join("index.json"), [bytes, b"{}".to_vec()].concat()).expect("write");
            }),
            |e| matches!(e, Error::Index(Refusal::TrailingBytes { .. })),
        ),
        (
            "a digest that leaves the folder",
            Box::new(|p| {
                let text = fs::read_to_string(p.join("index.json")).expect("read");
                let bad = text.replace("\"sha256:", "\"sha256:../");
                fs::write(p.join("index.json"), bad).expect("write");
            }),
            |e| matches!(e, Error::Index(Refusal::Digest { .. })),
        ),
        (
            "a symlinked blob",
            Box::new(move |p| {
                fs::rename(layer(p), p.join("elsewhere")).expect("moved");
                std::os::unix::fs::symlink(p.join("elsewhere"), layer(p)).expect("a symlink");
            }),
            |e| matches!(e, Error::File(ForeignError::Symlink { .. })),
        ),
        (
            "a FIFO",
            Box::new(move |p| {
                fs::remove_file(layer(p)).expect("removed");
                nix::unistd::mkfifo(&layer(p), nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
            }),
            |e| matches!(e, Error::File(ForeignError::NotRegular { .. })),
        ),
        ("a missing blob", Box::new(move |p| fs::remove_file(layer(p)).expect("removed")), |e| {
            matches!(e, Error::Refused(Refusal::Missing { .. }))
        }),
        ("a cut blob", Box::new(move |p| fs::write(layer(p), "a laye").expect("write")), |e| {
            matches!(e, Error::Refused(Refusal::WrongSize { .. }))
        }),
        (
            "a changed manifest",
            Box::new(move |p| {
                let path = p.join(blob_file(&sample("a layer").image.digest));
                let text = fs::read_to_string(&path).expect("read");
                fs::write(&path, text.replace("true", "null")).expect("write");
            }),
            |e| matches!(e, Error::Refused(Refusal::Mismatch { .. })),
        ),
    ];
    for (name, change, is_expected) in cases {
        let refused = open_dir(&sample("a layer"), &*change).map(drop);
        assert!(refused.as_ref().is_err_and(is_expected), "{name}: {refused:?}");
    }
    open_dir(&sample("a layer"), &|_| {}).expect("their twin is accepted");
}

#[test]
fn symlinks_are_followed_when_asked_and_inline_data_stands_in_for_a_file() {
    let scratch = Scratch::new();
    let mut sample = sample("a layer");
    sample.write(&scratch.0);
    let blob = scratch.0.join(blob_file(&sample.layer.digest));
    fs::rename(&blob, scratch.0.join("elsewhere")).expect("moved");
    std::os::unix::fs::symlink("../../elsewhere", &blob).expect("a symlink");
    let layout = Layout::open_dir(&scratch.0, "oci:X", true, &Limits::default()).expect("a layout");
    layout.closure(&sample.image).expect("followed");

    let mut layer = sample.layer.clone();
    layer.data = Some("YSBsYXllcg==".to_owned());
    sample.files.retain(|(name, _)| *name != blob_file(&layer.digest));
    let manifest = json(serde_json::json!({
        "schemaVersion": 2,
        "config": Descriptor::new(media_type::EMPTY, digest_of("{}"), 2),
        "layers": [layer],
    }));
    let image =
        Descriptor::new(media_type::IMAGE_MANIFEST, Digest::of(&manifest), manifest.len() as u64);
    sample.set(&blob_file(&image.digest), manifest);
    sample.list(&[(&image, &[])]);
    let (layout, _) = open_archive(&sample.tar().end()).expect("accepted");
    assert!(matches!(layout.part(&layer), Ok(Part::Inline(bytes)) if bytes == b"a layer"));
}

#[test]
fn what_is_wrong_with_an_archive_is_said() {
    let good = || sample("a layer").tar();
    let with = |kind: u8, name: &[u8], bytes: &[u8]| good().entry(kind, name, bytes).end();
    let pax = |records: &[(&str, &str)]| {
        let text: String = records.iter().map(|(key, value)| record(key, value)).collect();
        let mut tar = good();
        tar.entry(b'x', b"pax", text.as_bytes()).file("extra", b"12345");
        tar.end()
    };
    let malformed = good().entry(b'x', b"pax", b"99 path=x\n").file("extra", b"").end();
    let many = {
        let mut tar = good();
        for n in 0..20 {
            tar.file(&format!("extra{n}"), b"");
        }
        tar.end()
    };
    type Check = fn(&Error) -> bool;
    let cases: Vec<(&str, Vec<u8>, Check)> = vec![
        ("a symlink", with(b'2', b"extra", b""), |e| matches!(e, Error::Link { .. })),
        ("a hard link", with(b'1', b"extra", b""), |e| matches!(e, Error::Link { .. })),
        ("a FIFO", with(b'6', b"extra", b""), |e| matches!(e, Error::Special { .. })),
        ("a device", with(b'3', b"extra", b""), |e| matches!(e, Error::Special { .. })),
        ("a sparse file", pax(&[("GNU.sparse.major", "1")]), |e| {
            matches!(e, Error::NotArchive { .. })
        }),
        ("an unknown type", with(b'Z', b"extra", b""), |e| matches!(e, Error::NotArchive { .. })),
        ("twice", with(b'0', b"./index.json", b"{}"), |e| matches!(e, Error::Duplicate { .. })),
        ("file and folder", with(b'5', b"index.json/", b""), |e| {
            matches!(e, Error::Duplicate { .. })
        }),
        ("absolute", with(b'0', b"/etc/passwd", b""), |e| matches!(e, Error::Name { .. })),
        ("escaping", with(b'0', b"blobs/../../x", b""), |e| matches!(e, Error::Name { .. })),
        ("no text", with(b'0', b"\xff", b""), |e| matches!(e, Error::Name { .. })),
        ("a name in a pax header", pax(&[("path", "../else")]), |e| {
            matches!(e, Error::Name { .. })
        }),
        ("two names", pax(&[("path", "ab"), ("path", "cd")]), |e| {
            matches!(e, Error::NotArchive { .. })
        }),
        ("two sizes", pax(&[("size", "4")]), |e| matches!(e, Error::NotArchive { .. })),
        ("a size for all", with(b'g', b"g", record("size", "4").as_bytes()), |e| {
            matches!(e, Error::NotArchive { .. })
        }),
        ("a malformed pax header", malformed, |e| matches!(e, Error::NotArchive { .. })),
        ("gzip", b"\x1f\x8b\x08\0\0\0\0\0".to_vec(), |e| {
            matches!(e, Error::Compressed { with: "gzip" })
        }),
        ("no tar", vec![b'x'; 2048], |e| matches!(e, Error::NotArchive { .. })),
        ("nothing", Vec::new(), |e| matches!(e, Error::Truncated { .. })),
        ("a header of 2 MiB", pax(&[("x", &"y".repeat(2 << 20))]), |e| {
            matches!(e, Error::NotArchive { .. })
        }),
    ];
    for (name, bytes, is_expected) in cases {
        let refused = open_archive(&bytes).map(drop);
        assert!(refused.as_ref().is_err_and(is_expected), "{name}: {refused:?}");
    }
    for twin in [
        with(b'0', b"extra", b"more"),
        with(b'5', b"extra/", b""),
        with(b'0', b"blobs/sha256/..x", b""),
        pax(&[("path", "fine")]),
        pax(&[("size", "5")]),
        pax(&[("mtime", "1234567.89")]),
        many.clone(),
    ] {
        open_archive(&twin).expect("a twin");
    }

    let scratch = Scratch::new();
    let limits = Limits { entries: 0, ..Limits::default() };
    let mut tar = good();
    for n in 0..1100 {
        tar.file(&format!("extra{n}"), b"");
    }
    let refused = Layout::open_archive(scratch.file(&tar.end()), 0, "X", &limits);
    assert!(matches!(refused, Err(Error::TooManyEntries { .. })), "{refused:?}");

    let docker = Tar::default().file("manifest.json", b"[]").end();
    let refused = open_archive(&docker).map(drop);
    assert!(matches!(refused, Err(Error::NotLayout { is_docker: true, .. })), "{refused:?}");
}

#[test]
fn an_archive_cut_anywhere_is_refused() {
    let whole = sample("a layer").tar().end();
    let end = whole.len() - 1024;
    for cut in (0..end + 512).step_by(37).chain([512, 1024, end, end + 511]) {
        let refused = open_archive(&whole[..cut]).map(drop);
        assert!(matches!(refused, Err(Error::Truncated { .. })), "at {cut}: {refused:?}");
    }
    open_archive(&whole[..end + 512]).expect("one block of zeros ends it");
}

#[test]
fn bytes_that_are_not_proved_never_come_out_whole() {
    for size in [0, 1, 1000, (256 << 10) - 1, 256 << 10, (256 << 10) + 1, 1 << 20] {
        let bytes: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
        let descriptor = Descriptor::new("text/plain", Digest::of(&bytes), size as u64);
        let take = |given: &[u8]| {
            let mut out = Vec::new();
            let mut given = Cursor::new(given.to_vec());
            let done = copy(&mut Proved::new(&descriptor, &mut given), &mut out);
            let mut read = Vec::new();
            given.set_position(0);
            let end = Proved::new(&descriptor, &mut given).read_to_end(&mut read);
            assert_eq!(done.is_ok(), end.is_ok(), "both ways say the same");
            assert_eq!(out, read);
            done.map(|()| out)
        };
        assert_eq!(take(&bytes).expect("the right bytes"), bytes);
        let mut wrong = vec![[&bytes[..], b"x"].concat()];
        if size > 0 {
            let mut flipped = bytes.clone();
            flipped[size / 2] ^= 1;
            wrong.extend([flipped, bytes[..size - 1].to_vec(), Vec::new()]);
        }
        for given in wrong {
            let refused = take(&given).map(|out| out.len());
            assert!(matches!(refused, Err(Error::NotProved { .. })), "{size}: {refused:?}");
        }
    }
}
