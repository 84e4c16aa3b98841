//! What stands in a folder in place of a regular file, and folders that are no layouts.

use std::os::unix::fs::symlink;
use std::path::Path;

use nix::sys::stat::{Mode, SFlag};

use super::*;

/// A good layout on disk, its root and its layer.
fn written(folder: &Path) -> (Value, Digest) {
    let mut layout = Layout::default();
    let (config, layer) = parts(&mut layout);
    let root = layout.manifest(&config, &[layer.clone()]);
    layout.list(&root);
    layout.write(folder);
    (root, digest(&layer))
}

/// Moves a file out of the layout and returns where it is then.
fn aside(path: &Path) -> std::path::PathBuf {
    let aside = path.with_extension("aside");
    let aside = path.ancestors().nth(4).unwrap().join(aside.file_name().unwrap());
    std::fs::rename(path, &aside).unwrap();
    aside
}

struct FolderRow {
    name: &'static str,
    code: Code,
    hinted: bool,
    needs_root: bool,
    /// Does the damage; returns what the message must name.
    damage: fn(&Path, &Digest) -> String,
}

fn folder_row(name: &'static str, code: Code, damage: fn(&Path, &Digest) -> String) -> FolderRow {
    FolderRow { name, code, hinted: false, needs_root: false, damage }
}

fn at(path: &Path, make: impl FnOnce(&Path)) {
    std::fs::remove_file(path).unwrap();
    make(path);
}

fn fifo(path: &Path) {
    nix::unistd::mkfifo(path, Mode::S_IRWXU).unwrap();
}

fn rows() -> Vec<FolderRow> {
    use Code::*;
    let hinted = |row: FolderRow| FolderRow { hinted: true, ..row };
    vec![
        hinted(folder_row("symlinked blob", Symlink, |folder, layer| {
            let path = place(folder, layer);
            symlink(aside(&path), &path).unwrap();
            layer.hex()
        })),
        hinted(folder_row("blob that links to another blob", Symlink, |folder, layer| {
            let path = place(folder, layer);
            std::fs::rename(&path, path.with_file_name("same")).unwrap();
            symlink("same", &path).unwrap();
            layer.hex()
        })),
        hinted(folder_row("symlinked folder of blobs", Symlink, |folder, _| {
            std::fs::rename(folder.join("blobs/sha256"), folder.join("elsewhere")).unwrap();
            symlink("../elsewhere", folder.join("blobs/sha256")).unwrap();
            "blobs/sha256".to_owned()
        })),
        hinted(folder_row("symlinked index.json", Symlink, |folder, _| {
            std::fs::rename(folder.join("index.json"), folder.join("real.json")).unwrap();
            symlink("real.json", folder.join("index.json")).unwrap();
            "index.json".to_owned()
        })),
        hinted(folder_row("symlinked oci-layout", Symlink, |folder, _| {
            std::fs::rename(folder.join("oci-layout"), folder.join("real")).unwrap();
            symlink("real", folder.join("oci-layout")).unwrap();
            "oci-layout".to_owned()
        })),
        folder_row("FIFO for a blob", NotRegular, |folder, layer| {
            at(&place(folder, layer), fifo);
            layer.hex()
        }),
        folder_row("FIFO for index.json", NotRegular, |folder, _| {
            at(&folder.join("index.json"), fifo);
            "index.json".to_owned()
        }),
        folder_row("FIFO for oci-layout", NotRegular, |folder, _| {
            at(&folder.join("oci-layout"), fifo);
            "oci-layout".to_owned()
        }),
        folder_row("folder for a blob", NotRegular, |folder, layer| {
            at(&place(folder, layer), |path| std::fs::create_dir(path).unwrap());
            layer.hex()
        }),
        folder_row("socket for a blob", NotRegular, |folder, layer| {
            // The path of a socket is short, that of a blob is not.
            let short = tests::scratch();
            let socket = short.path().join("s");
            std::os::unix::net::UnixListener::bind(&socket).unwrap();
            at(&place(folder, layer), |path| std::fs::rename(&socket, path).unwrap());
            layer.hex()
        }),
        FolderRow {
            needs_root: true,
            ..folder_row("device for a blob", NotRegular, |folder, layer| {
                at(&place(folder, layer), |path| {
                    let null = nix::sys::stat::makedev(1, 3);
                    nix::sys::stat::mknod(path, SFlag::S_IFCHR, Mode::S_IRUSR, null).unwrap();
                });
                layer.hex()
            })
        },
        folder_row("no oci-layout", LayoutInvalid, |folder, _| {
            std::fs::remove_file(folder.join("oci-layout")).unwrap();
            "oci-layout".to_owned()
        }),
        folder_row("oci-layout of a version to come", LayoutInvalid, |folder, _| {
            let version = r#"{"imageLayoutVersion":"2.0.0"}"#;
            std::fs::write(folder.join("oci-layout"), version).unwrap();
            "2.0.0".to_owned()
        }),
        folder_row("oci-layout that is no JSON", LayoutInvalid, |folder, _| {
            std::fs::write(folder.join("oci-layout"), "1.0.0").unwrap();
            "oci-layout".to_owned()
        }),
        folder_row("no index.json", LayoutInvalid, |folder, _| {
            std::fs::remove_file(folder.join("index.json")).unwrap();
            "index.json".to_owned()
        }),
        folder_row("index.json that is no JSON", ManifestInvalid, |folder, _| {
            std::fs::write(folder.join("index.json"), "{").unwrap();
            "index.json".to_owned()
        }),
        folder_row("index.json with bytes after its end", TrailingBytes, |folder, _| {
            let path = folder.join("index.json");
            let text = std::fs::read_to_string(&path).unwrap();
            std::fs::write(path, text + "{}").unwrap();
            "index.json".to_owned()
        }),
        folder_row("index.json over the limit", ManifestTooLarge, |folder, _| {
            let path = folder.join("index.json");
            let text = std::fs::read_to_string(&path).unwrap();
            let room = (4 << 20) + 1 - text.len();
            std::fs::write(path, text + &" ".repeat(room)).unwrap();
            "index.json".to_owned()
        }),
        folder_row("index.json with a digest that leads out", DigestInvalid, |folder, _| {
            let path = folder.join("index.json");
            let text = std::fs::read_to_string(&path).unwrap();
            std::fs::write(path, text.replace("sha256:", "sha256:../")).unwrap();
            "index.json".to_owned()
        }),
        hinted(folder_row("index.json that lists nothing", NotFound, |folder, _| {
            let empty = json!({ "schemaVersion": 2, "manifests": [] }).to_string();
            std::fs::write(folder.join("index.json"), empty).unwrap();
            folder.display().to_string()
        })),
        hinted(folder_row("folder of `docker save` before OCI", LayoutInvalid, |folder, _| {
            std::fs::remove_file(folder.join("oci-layout")).unwrap();
            std::fs::write(folder.join("manifest.json"), "[]").unwrap();
            "oci-layout".to_owned()
        })),
        folder_row("no folder at all", LocalIo, |folder, _| {
            std::fs::remove_dir_all(folder).unwrap();
            folder.display().to_string()
        }),
    ]
}

#[test]
fn folders_with_something_else_in_place_of_a_file() {
    let daemon = Daemon::start();
    daemon.bond_fed(&["put", "-", "--title", "warm"], std::process::Stdio::null()).ok();
    for row in rows() {
        if row.needs_root && !tests::peers::need_root(row.name) {
            continue;
        }
        let folder = daemon.folder().join("layout");
        let (root, layer) = written(&folder);
        let before = Before::of(&daemon);

        let says = (row.damage)(&folder, &layer);
        refused(daemon.bond(&["put", &oci(&folder)]), row.code, &says, row.hinted);

        before.is_all_there_is(&daemon, row.name);
        let _ = std::fs::remove_dir_all(&folder);
        written(&folder);
        assert_eq!(daemon.bond(&["put", &oci(&folder)]).ok().digest(), digest(&root));
        // For the next row everything is new again.
        daemon.bond(&["retire", &digest(&root).to_string()]).ok();
        daemon.bond(&["gc"]).ok();
        std::fs::remove_dir_all(&folder).unwrap();
    }
}

#[test]
fn symlinks_are_followed_when_that_is_asked_for() {
    let daemon = Daemon::start();
    daemon.bond_fed(&["put", "-", "--title", "warm"], std::process::Stdio::null()).ok();
    let folder = daemon.folder().join("layout");
    let (root, layer) = written(&folder);
    // As Bazel writes layouts: every file a symlink to somewhere else, absolute or not, some by
    // way of another.
    for (number, name) in tree::names(&folder).into_iter().enumerate() {
        let path = folder.join(name);
        let real = daemon.folder().join(format!("real-{number}"));
        let middle = daemon.folder().join(format!("middle-{number}"));
        std::fs::rename(&path, &real).unwrap();
        symlink(format!("real-{number}"), &middle).unwrap();
        symlink(&middle, &path).unwrap();
    }
    let put = || daemon.bond(&["put", "--follow-symlinks", &oci(&folder)]);
    let before = Before::of(&daemon);

    refused(daemon.bond(&["put", &oci(&folder)]), Code::Symlink, "symlink", true);
    before.is_all_there_is(&daemon, "not followed");

    // Followed, what they lead to is looked at all the same.
    let path = place(&folder, &layer);
    let target = std::fs::read_link(&path).unwrap();
    for (code, damage) in [
        (Code::Missing, "nowhere"),
        (Code::Symlink, "itself"),
        (Code::NotRegular, "FIFO"),
        (Code::NotRegular, "folder"),
        (Code::WrongSize, "another file"),
        (Code::Mismatch, "another file of the same size"),
    ] {
        std::fs::remove_file(&path).unwrap();
        let other = daemon.folder().join(damage);
        match damage {
            "itself" => symlink(&path, &other).unwrap(),
            "FIFO" => fifo(&other),
            "folder" => std::fs::create_dir(&other).unwrap(),
            "another file" => std::fs::write(&other, "other").unwrap(),
            "another file of the same size" => std::fs::write(&other, noise("?", 2_000)).unwrap(),
            _ => {}
        }
        symlink(&other, &path).unwrap();
        refused(put(), code, &layer.hex(), false);
        before.is_all_there_is(&daemon, damage);
    }

    std::fs::remove_file(&path).unwrap();
    symlink(target, &path).unwrap();
    assert_eq!(put().ok().digest(), digest(&root));
    // What was sealed are files, not links.
    let sealed = daemon.bond(&["resolve", &digest(&root).to_string()]).ok();
    for name in tree::names(Path::new(sealed.lines()[0])) {
        let path = Path::new(sealed.lines()[0]).join(name);
        assert!(std::fs::symlink_metadata(path).unwrap().is_file());
    }
}

/// The client needs no right but to read its own files: what the user cannot read is not read
/// with the daemon's rights.
#[test]
fn what_the_user_may_not_read_is_not_read_for_him() {
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::process::CommandExt as _;
    const TEST: &str = "what_the_user_may_not_read_is_not_read_for_him";
    if !tests::peers::need_root(TEST) {
        return;
    }
    let daemon = Daemon::with(
        "[socket]\nmode = \"0666\"\n[[policy]]\nuid = 12345\nworkspaces = [\"*\"]\n\
         may = [\"put\", \"read\"]\n",
    );
    let open = |path: &Path| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    open(daemon.folder());
    let bond = daemon.folder().join("bond");
    std::fs::copy(tests::programs::own("bond"), &bond).unwrap();
    open(&bond);
    let secret = daemon.folder().join("secret");
    let as_user = |words: &[&str]| {
        let mut command = std::process::Command::new(&bond);
        command.env("BOND_SOCKET", daemon.home().socket()).args(words);
        tests::run(command.uid(12345).gid(12345))
    };
    for (mode, is_read) in [(0o600, false), (0o644, true)] {
        std::fs::write(&secret, "root's own").unwrap();
        std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(mode)).unwrap();
        let put = as_user(&["put", &file(&secret)]);
        match is_read {
            true => drop(put.ok()),
            false => drop(put.fails(Code::LocalIo).says(&["secret"])),
        }
    }
}
