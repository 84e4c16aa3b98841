//! Descriptors and bodies that a good client would never send.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;

use nix::fcntl::OFlag;
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::*;

/// A descriptor of something with the given bytes, where it has bytes.
fn descriptor_of(what: &str, folder: &Path, bytes: &[u8]) -> OwnedFd {
    use std::io::{Seek as _, Write as _};
    let path = folder.join("bytes");
    std::fs::write(&path, bytes).unwrap();
    let open = |flags: OFlag| File::options().read(true).custom_flags(flags.bits()).open(&path);
    let memfd = |seals: bool| {
        let fd = memfd_create("bytes", MFdFlags::MFD_ALLOW_SEALING).unwrap();
        File::from(fd.try_clone().unwrap()).write_all(bytes).unwrap();
        if seals {
            use nix::fcntl::{FcntlArg, SealFlag, fcntl};
            let all = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW;
            fcntl(&fd, FcntlArg::F_ADD_SEALS(all)).unwrap();
        }
        fd
    };
    match what {
        "file" => open(OFlag::empty()).unwrap().into(),
        "file open for both" => File::options().read(true).write(true).open(&path).unwrap().into(),
        "file whose position is elsewhere" => {
            let mut file = open(OFlag::empty()).unwrap();
            file.seek(std::io::SeekFrom::End(0)).unwrap();
            file.into()
        }
        "deleted file" => {
            let file = open(OFlag::empty()).unwrap();
            std::fs::remove_file(&path).unwrap();
            file.into()
        }
        "sealed memfd" => memfd(true),
        "memfd" => memfd(false),
        "pipe" => {
            let (read, write) = nix::unistd::pipe().unwrap();
            File::from(write).write_all(bytes).unwrap();
            read
        }
        "folder" => File::open(folder).unwrap().into(),
        "null device" => File::open("/dev/null").unwrap().into(),
        "zero device" => File::open("/dev/zero").unwrap().into(),
        "file open for writing" => File::options().write(true).open(&path).unwrap().into(),
        "path" => open(OFlag::O_PATH).unwrap().into(),
        "file of the kernel" => File::open("/proc/self/status").unwrap().into(),
        "socket" => std::os::unix::net::UnixStream::pair().unwrap().0.into(),
        other => panic!("{other}?"),
    }
}

#[test]
fn descriptors_of_what_is_no_regular_file() {
    let daemon = Daemon::start();
    let bytes = noise("handed over", 100_000);
    let blob = Digest::of(&bytes);
    let rows = [
        ("file", true),
        ("file open for both", true),
        ("file whose position is elsewhere", true),
        ("deleted file", true),
        ("sealed memfd", true),
        ("memfd", false),
        ("pipe", false),
        ("folder", false),
        ("null device", false),
        ("zero device", false),
        ("file open for writing", false),
        ("path", false),
        ("file of the kernel", false),
        ("socket", false),
    ];
    for (what, is_taken) in rows {
        // A pipe holds no more than 64 KiB.
        let bytes = if what == "pipe" { &bytes[..1000] } else { &bytes };
        let n = bytes.len();
        let descriptor = descriptor_of(what, daemon.folder(), bytes);
        let mut connection = daemon.connect();
        let draft = connection.draft("default");
        let blob = if n == 1000 { Digest::of(bytes) } else { blob };
        let path = format!("/v1/drafts/{draft}/blobs/{blob}?size={n}");
        let answer = connection.hand("PUT", &path, &descriptor);
        match is_taken {
            true => assert_eq!(answer.status, 200, "{what}: {answer:?}"),
            false => assert_eq!(answer.code(), "descriptor_refused", "{what}"),
        }
        // The same as a file of its own, on the same connection.
        let path = format!("/v1/workspaces/default/files?title=x&size={n}");
        let answer = connection.hand("POST", &path, &descriptor);
        match is_taken {
            true => assert_eq!(answer.status, 201, "{what}: {answer:?}"),
            false => assert_eq!(answer.code(), "descriptor_refused", "{what}"),
        }
        let answer = connection.ask("DELETE", &format!("/v1/drafts/{draft}"));
        assert_eq!(answer.status, 204, "{what}");
        // The descriptor's own position is the giver's, and nobody moved it.
        if what == "file" {
            use std::io::Seek as _;
            assert_eq!(File::from(descriptor).stream_position().unwrap(), 0);
        }
    }
    let listed = daemon.bond(&["ls", "--format", "json"]).ok().json();
    assert_eq!(listed["artifacts"].as_array().map(Vec::len), Some(1), "{listed}");
    assert!(tree::names(&daemon.store().join("staging")).is_empty());
}

#[test]
fn ranges_and_sizes_that_do_not_fit_the_bytes() {
    let daemon = Daemon::start();
    let bytes = noise("ranges", 90_000);
    let path = daemon.folder().join("bytes");
    std::fs::write(&path, &bytes).unwrap();
    let open = File::open(&path).unwrap();
    let middle = Digest::of(&bytes[10_000..30_000]);
    let rows: [(Digest, &str, &str); 8] = [
        (middle, "size=20000&offset=10000", ""),
        (Digest::of(&bytes), "size=90000", ""),
        (middle, "size=20000&offset=10001", "mismatch"),
        (middle, "size=20000", "mismatch"),
        (Digest::of(&bytes), "size=90001", "wrong_size"),
        (Digest::of(&bytes), "size=90000&offset=1", "wrong_size"),
        (Digest::of(&bytes), "size=90000&offset=18446744073709551615", "wrong_size"),
        (Digest::of(&bytes), "size=18446744073709551615", "wrong_size"),
    ];
    for (blob, query, code) in rows {
        let mut connection = daemon.connect();
        let draft = connection.draft("default");
        let answer =
            connection.hand("PUT", &format!("/v1/drafts/{draft}/blobs/{blob}?{query}"), &open);
        assert_eq!(answer.code(), code, "{query}: {answer:?}");
        assert!(code.is_empty() == (answer.status == 200), "{query}: {answer:?}");
        assert_eq!(connection.ask("DELETE", &format!("/v1/drafts/{draft}")).status, 204);
    }
    // Bodies: as many bytes as announced, or fewer or more than the query says.
    for (size, code) in [(90_000, ""), (89_999, "wrong_size"), (90_001, "wrong_size")] {
        let mut connection = daemon.connect();
        let draft = connection.draft("default");
        let path = format!("/v1/drafts/{draft}/blobs/{}?size={size}", Digest::of(&bytes));
        let answer = connection.bring("PUT", &path, &bytes);
        assert_eq!(answer.code(), code, "{size}: {answer:?}");
        let answer = daemon.connect().ask("DELETE", &format!("/v1/drafts/{draft}"));
        assert_eq!(answer.status, 204);
    }
    assert!(tree::names(&daemon.store().join("staging")).is_empty());
    assert!(tree::names(&daemon.store().join("blobs")).is_empty());
}

#[test]
fn a_file_that_changes_while_the_daemon_reads_it() {
    let daemon = Daemon::start();
    const N: u64 = 1 << 30;
    let path = daemon.folder().join("large");
    type Change = fn(&File);
    let changes: [(&str, Change, &[&str]); 4] = [
        ("is left alone", |_| {}, &[""]),
        ("shrinks", |file| file.set_len(N / 2).unwrap(), &["source_changed", "wrong_size"]),
        ("grows", |file| file.set_len(N + 1).unwrap(), &["source_changed"]),
        (
            "is written to",
            |file| std::os::unix::fs::FileExt::write_all_at(file, b"x", N - 1).unwrap(),
            &["source_changed", "mismatch"],
        ),
    ];
    for (name, change, codes) in changes {
        let large = File::options().create(true).write(true).truncate(true).open(&path).unwrap();
        large.set_len(N).unwrap();
        let read_only = File::open(&path).unwrap();
        let mut connection = daemon.connect();
        let draft = connection.draft("default");
        let blob = ZEROS_1_GIB;
        let put = format!("/v1/drafts/{draft}/blobs/{blob}?size={N}");
        let answer = std::thread::scope(|scope| {
            let putting = scope.spawn(|| connection.hand("PUT", &put, &read_only));
            // The daemon is at it when the draft's progress says so.
            let mut observer = daemon.connect();
            tests::wait_until("the daemon reads", || {
                let progress = observer.get(&format!("/v1/drafts/{draft}")).json();
                progress["bytes"].as_u64().is_some_and(|n| n > 0) || putting.is_finished()
            });
            change(&large);
            putting.join().unwrap()
        });
        let told = answer.code();
        assert!(codes.contains(&told.as_str()), "a file that {name}: {answer:?}");
        assert_eq!(daemon.connect().ask("DELETE", &format!("/v1/drafts/{draft}")).status, 204);
        assert!(tree::names(&daemon.store().join("staging")).is_empty(), "{name}");
        assert!(tree::names(&daemon.store().join("blobs")).is_empty(), "{name}");
    }
}

/// SHA-256 of 2³⁰ zero bytes, as coreutils compute it.
const ZEROS_1_GIB: &str = "sha256:49bc20df15e412a64472421e13fe86ff1c5165e18b2afccf160d4dc19fe68a14";

#[test]
fn requests_that_make_no_sense() {
    let daemon = Daemon::start();
    let path = daemon.folder().join("tool");
    std::fs::write(&path, "a tool").unwrap();
    let artifact = daemon.bond(&["put", &file(&path)]).ok().digest();
    let blob = Digest::of(b"x");
    let draft = daemon.connect().draft("default");
    let drafts = format!("/v1/drafts/{draft}");
    let upper = "SHA256:".to_owned() + &blob.hex();
    let rows: Vec<(&str, String, &str, &str)> = vec![
        ("PUT", format!("{drafts}/blobs/{upper}?size=1"), "x", "digest_"),
        ("PUT", format!("{drafts}/blobs/sha256:..%2F..%2Fx?size=1"), "x", "digest_invalid"),
        ("PUT", format!("{drafts}/blobs/md5:{}?size=1", &blob.hex()[..32]), "x", "digest_unsupp"),
        ("PUT", format!("{drafts}/blobs/{blob}?size=-1"), "x", "usage"),
        ("PUT", format!("{drafts}/blobs/{blob}?size=1&size=1"), "x", "usage"),
        ("PUT", format!("{drafts}/blobs/{blob}?size=1&offset=1"), "x", "usage"),
        ("PUT", format!("{drafts}/blobs/{blob}?sizes=1"), "x", "usage"),
        ("PUT", format!("/v1/drafts/none/blobs/{blob}?size=1"), "x", "not_found"),
        ("POST", format!("{drafts}/seal"), "{", "usage"),
        ("POST", format!("{drafts}/seal"), "{}", "usage"),
        ("POST", "/v1/workspaces/..%2f..%2fx/drafts".to_owned(), "", "name_invalid"),
        ("POST", "/v1/workspaces/Upper/drafts".to_owned(), "", "name_invalid"),
        ("POST", "/v1/workspaces/default/files?title=a%2Fb".to_owned(), "x", ""),
        ("POST", "/v1/workspaces/default/files?title=".to_owned(), "x", ""),
        ("POST", "/v1/workspaces/default/files".to_owned(), "x", "usage"),
        ("GET", "/v1/workspaces/default/refs".to_owned(), "", "usage"),
        ("GET", format!("/v1/workspaces/default/artifacts/{blob}"), "", "not_found"),
        ("GET", format!("/v1/workspaces/default/artifacts/{artifact}/blobs/{blob}"), "", "not_"),
        ("GET", "/v1/workspaces/default/artifacts?limit=x".to_owned(), "", "usage"),
        ("GET", "/v1/nothing".to_owned(), "", ""),
        ("DELETE", "/v1/health".to_owned(), "", ""),
        ("GET", "/v1/drafts/../../etc/passwd".to_owned(), "", ""),
        ("POST", "/v1/gc?dry_run=perhaps".to_owned(), "", "usage"),
    ];
    for (method, path, body, code) in rows {
        let answer = daemon.connect().bring(method, &path, body);
        assert!((400..500).contains(&answer.status), "{method} {path}: {answer:?}");
        let told = answer.code();
        assert!(!told.is_empty() && told.starts_with(code), "{method} {path}: {answer:?}");
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        let store = daemon.store().display().to_string();
        assert!(!text.contains(&store), "it tells where the store is: {text}");
    }
    // All of that did not hurt the draft, nor what is sealed.
    let answer = daemon.connect().bring("PUT", &format!("{drafts}/blobs/{blob}?size=1"), "x");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(daemon.connect().ask("DELETE", &drafts).status, 204);
    daemon.bond(&["verify", "--all"]).ok();
}
