//! The client against a daemon that says whatever a test wants it to say.

use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use cas::digest::Digest;
use cas::disk::ForeignFile;
use cas::media;
use cas::oci::{Descriptor, Limits, media_type};
use http::{Method, Request, Response};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::UnixListener;
use wire::api::{self, ACCEPT_DESCRIPTORS, DESCRIPTORS};
use wire::stream::DescriptorStream;
use wire::{Code, Problem};

use crate::connection::{Ask, Connection};
use crate::payload::{Brings, Payload, Piece};
use crate::pool::plain;
use crate::{Client, Error, FileBytes, FileOptions, Progress};

mod early;

/// A request as the fake daemon saw it.
#[derive(Clone, Debug)]
struct Seen {
    method: Method,
    path: String,
    /// The body, or what the descriptor holds.
    bytes: Bytes,
    by_descriptor: bool,
    accepts_descriptor: bool,
}

/// What the fake daemon does about it.
enum Say {
    Json(u16, String),
    Bytes(Vec<u8>),
    Descriptor(Vec<u8>),
    /// Announces more bytes than come.
    BreakOff(Vec<u8>),
    Nothing,
}

impl Say {
    fn json(value: &impl serde::Serialize) -> Say {
        Say::Json(200, serde_json::to_string(value).expect("JSON"))
    }

    fn problem(code: Code) -> Say {
        let error = Problem::new(code, "no").hint("yes");
        Say::Json(400, serde_json::to_string(&api::ErrorBody { error }).expect("JSON"))
    }
}

type Script = Arc<dyn Fn(&Seen) -> Say + Send + Sync>;

struct Fake {
    socket: PathBuf,
    seen: Arc<Mutex<Vec<Seen>>>,
    scratch: tempfile::TempDir,
}

impl Fake {
    /// With `one_each`, a connection is closed after each answer, and the answer does not say so.
    #[allow(clippy::disallowed_methods, reason = "the fake daemon is its own app")]
    fn start(one_each: bool, script: impl Fn(&Seen) -> Say + Send + Sync + 'static) -> Fake {
        let scratch = tempfile::tempdir().expect("a folder");
        let socket = scratch.path().join("socket");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (script, log): (Script, _) = (Arc::new(script), Arc::clone(&seen));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (script, log) = (Arc::clone(&script), Arc::clone(&log));
                tokio::spawn(serve(stream, script, log, one_each));
            }
        });
        Fake { socket, seen, scratch }
    }

    async fn client(&self) -> Client {
        Client::connect_with(&self.socket, 2).await.expect("connected")
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("the log").clone()
    }

    fn file(&self, bytes: &[u8]) -> ForeignFile {
        ForeignFile::open(&self.path("file", bytes)).expect("open")
    }

    #[allow(clippy::disallowed_methods, reason = "tests make their own files")]
    fn path(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.scratch.path().join(name);
        std::fs::write(&path, bytes).expect("written");
        path
    }
}

async fn serve(
    stream: tokio::net::UnixStream,
    script: Script,
    log: Arc<Mutex<Vec<Seen>>>,
    one_each: bool,
) {
    let stream = DescriptorStream::new(stream);
    let descriptors = stream.descriptors();
    let answered = tokio::sync::Notify::new();
    let service = service_fn(|request: Request<Incoming>| {
        let (descriptors, script, log) = (descriptors.clone(), &script, &log);
        let answered = &answered;
        async move {
            let seen = see(request, descriptors.take()).await?;
            let said = script(&seen);
            log.lock().expect("the log").push(seen);
            let mut response = Response::builder();
            let whole = |bytes: Bytes| Payload::Whole(bytes);
            let body = match said {
                Say::Json(status, text) => {
                    response = response.status(status);
                    whole(text.into())
                }
                Say::Bytes(bytes) => whole(bytes.into()),
                Say::Descriptor(bytes) => {
                    descriptors.put(unnamed(&bytes)).expect("put");
                    response = response.header(DESCRIPTORS, "1");
                    whole(Bytes::new())
                }
                Say::BreakOff(bytes) => {
                    let (send, pieces) = tokio::sync::mpsc::channel(1);
                    let left = Some(bytes.len() as u64 + 1);
                    send.send(Piece::Bytes(bytes.into())).await.expect("there is room");
                    Payload::Pieces { pieces, left, is_over: false, flow: Arc::default() }
                }
                Say::Nothing => std::future::pending().await,
            };
            if one_each {
                answered.notify_one();
            }
            Ok::<_, hyper::Error>(response.body(body).expect("a response"))
        }
    });
    let serving = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        _ = serving => {}
        () = async { answered.notified().await; tokio::time::sleep(Duration::from_millis(20)).await } => {}
    }
}

async fn see(request: Request<Incoming>, descriptor: Option<OwnedFd>) -> hyper::Result<Seen> {
    let (head, mut body) = request.into_parts();
    let mut bytes = Vec::new();
    while let Some(frame) =
        std::future::poll_fn(|cx| std::pin::Pin::new(&mut body).poll_frame(cx)).await
    {
        bytes.extend_from_slice(&frame?.into_data().unwrap_or_default());
    }
    let by_descriptor = descriptor.is_some();
    assert_eq!(by_descriptor, head.headers.contains_key(DESCRIPTORS), "announced as it is");
    if let Some(descriptor) = descriptor {
        assert!(bytes.is_empty(), "a descriptor comes without a body");
        let file = ForeignFile::from_descriptor(descriptor).expect("a regular file");
        bytes = vec![0; usize::try_from(file.stat().expect("stat").size).expect("small")];
        assert_eq!(file.read_at(&mut bytes, 0).expect("read"), bytes.len());
    }
    Ok(Seen {
        method: head.method,
        path: head.uri.to_string(),
        bytes: bytes.into(),
        by_descriptor,
        accepts_descriptor: head.headers.contains_key(ACCEPT_DESCRIPTORS),
    })
}

fn unnamed(bytes: &[u8]) -> OwnedFd {
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(bytes).expect("written");
    file.into()
}

fn put() -> api::Put {
    let path = "artifacts/default/sha256/00".to_owned();
    api::Put {
        handle: api::PersistenceHandle {
            kind: "oci_layout".to_owned(),
            oci_layout: api::OciLayoutHandle { path },
        },
        digest: Digest::of(b"root"),
        workspace: "default".to_owned(),
        media_type: media_type::IMAGE_MANIFEST.to_owned(),
        size: 1,
        n_blobs: 3,
        n_written: 3,
        n_healed: 0,
        existed: false,
        file_digest: None,
        absent: Vec::new(),
    }
}

fn status(limits: Limits) -> api::Status {
    api::Status {
        version: "0".to_owned(),
        store: "0".to_owned(),
        uid: 0,
        rights: Vec::new(),
        free: 0,
        limits: limits.into(),
    }
}

fn options(names: &[&str]) -> FileOptions {
    FileOptions {
        title: "a b".to_owned(),
        names: names.iter().map(|name| name.parse().expect("a name")).collect(),
        ..FileOptions::default()
    }
}

#[tokio::test]
async fn a_file_goes_the_fastest_way_that_is_taken() {
    let fake = Fake::start(false, |seen| match seen.by_descriptor {
        true => Say::problem(Code::DescriptorRefused),
        false => Say::json(&put()),
    });
    let client = fake.client().await.in_workspace("team").expect("a workspace");
    let large = vec![7; 1 << 20];

    assert_eq!(client.put_file("t", "small").await.expect("put").digest, put().digest);
    let bytes = FileBytes::File { file: fake.file(b"..small"), offset: 2 };
    client.put_file_with(bytes, &options(&[]), &Progress::default()).await.expect("put");
    let bytes = FileBytes::File { file: fake.file(&large), offset: 1 };
    client
        .put_file_with(bytes, &options(&["a:b", "a:c"]), &Progress::default())
        .await
        .expect("put");
    let bytes = FileBytes::Stream(Box::new(std::io::Cursor::new(large.clone())));
    client.put_file_with(bytes, &options(&[]), &Progress::default()).await.expect("put");

    let seen: Vec<_> = fake
        .seen()
        .iter()
        .map(|s| {
            assert_eq!(s.method, Method::POST);
            let query = s.path.strip_prefix("/v1/workspaces/team/files?title=").expect("the path");
            (query.to_owned(), s.by_descriptor, s.bytes.len())
        })
        .collect();
    let n = large.len();
    let expected = [
        ("t&size=5".to_owned(), false, 5),
        ("a%20b&size=5".to_owned(), false, 5),
        (format!("a%20b&size={}&offset=1&names=a%3Ab%2Ca%3Ac", n - 1), true, n),
        (format!("a%20b&size={}&names=a%3Ab%2Ca%3Ac", n - 1), false, n - 1),
        ("a%20b".to_owned(), false, n),
    ];
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn what_cannot_be_read_to_its_end_is_not_put() {
    struct Broken;
    impl std::io::Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("torn"))
        }
    }
    let fake = Fake::start(false, |_| Say::json(&put()));
    let client = fake.client().await;
    let bytes = FileBytes::Stream(Box::new(Broken));
    let torn = client.put_file_with(bytes, &options(&[]), &Progress::default()).await;
    assert!(matches!(torn, Err(Error::Source { .. })), "{torn:?}");
    assert!(fake.seen().is_empty(), "no whole request came");

    // A file that is shorter by now than it was said to be.
    let file = Arc::new(fake.file(&[0; 1000]));
    let brings = Brings::Range { file, offset: 0, len: 2000 };
    let ask = Ask { brings, ..plain("putting", Method::PUT, "/".to_owned()) };
    let shrunk = client.call(&ask).await;
    assert!(matches!(shrunk, Err(Error::SourceChanged { .. })), "{shrunk:?}");
    assert_eq!(shrunk.expect_err("refused").code(), Code::SourceChanged);
    client.health().await.expect_err("the fake answers a put to everything");
    assert_eq!(fake.seen().len(), 1, "and the client goes on");
}

#[tokio::test]
async fn an_answer_is_what_it_says_or_an_error() {
    let fake = Fake::start(false, |seen| match seen.path.as_str() {
        "/v1/health" => Say::problem(Code::Forbidden),
        "/v1/status" => Say::Json(500, "oops".to_owned()),
        "/v1/doctor" => Say::Json(200, "[]".to_owned()),
        "/v1/metrics" => Say::BreakOff(b"half".to_vec()),
        _ => Say::Descriptor(b"unasked".to_vec()),
    });
    let client = fake.client().await;
    let problem = client.health().await.expect_err("refused").problem();
    assert_eq!((problem.code, problem.hint.as_deref()), (Code::Forbidden, Some("yes")));
    let code = |error: Error| error.code();
    assert_eq!(client.status().await.map_err(code).map(drop), Err(Code::Internal));
    assert_eq!(client.doctor().await.map_err(code).map(drop), Err(Code::Internal));
    assert_eq!(client.metrics().await.map_err(code), Err(Code::Unreachable));
    assert_eq!(client.resolve("x").await.map_err(code), Err(Code::Internal));
}

#[tokio::test]
async fn a_daemon_that_is_gone_slow_or_new_is_told_apart() {
    let nowhere = Client::connect("/nonexistent/socket").await.expect_err("unreachable");
    assert_eq!(nowhere.code(), Code::Unreachable);
    assert!(nowhere.problem().hint.is_some());

    let fake = Fake::start(false, |_| Say::Nothing);
    let mut connection = Connection::open(&fake.socket).await.expect("connected");
    let patience = Duration::from_millis(50);
    let ask = Ask { patience, ..plain("waiting", Method::GET, "/".to_owned()) };
    let late = connection.ask(&ask).await.map(drop).expect_err("late");
    assert_eq!(late.code(), Code::Timeout);

    // It closes what is idle; the client notices and connects again.
    let fake = Fake::start(true, |_| Say::json(&put()));
    let client = fake.client().await;
    for _ in 0..3 {
        client.put_file("t", "x").await.expect("put");
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    for _ in 0..20 {
        client.put_file("t", "x").await.expect("put, closed or not");
        tokio::time::sleep(Duration::from_millis(19)).await;
    }
}

/// An artifact as a daemon shows it: `bytes` in one layer, handed out as `handed_out`.
fn artifact(bytes: &[u8], handed_out: Vec<u8>) -> (Digest, impl Fn(&Seen) -> Say + use<>) {
    let layer = Descriptor::new("text/plain", Digest::of(bytes), bytes.len() as u64);
    let manifest =
        cas::oci::file_manifest("t", "text/plain", "text/plain", layer.digest, layer.size)
            .expect("a manifest");
    let digest = Digest::of(&manifest);
    let root = Descriptor::new(media_type::IMAGE_MANIFEST, digest, manifest.len() as u64);
    let config = Descriptor::new(media_type::EMPTY, Digest::of(b"{}"), 2);
    let member = |descriptor: &Descriptor| api::Member {
        descriptor: descriptor.clone(),
        children: Vec::new(),
        subject: None,
        absent: false,
    };
    let closure = api::Closure {
        artifact: api::Artifact {
            digest,
            media_type: root.media_type.clone(),
            artifact_type: None,
            title: None,
            size: 0,
            n_blobs: 3,
            names: Vec::new(),
            sealed_at: 0,
            verified_at: None,
        },
        members: vec![member(&config), member(&layer), member(&root)],
        root,
    };
    let script = move |seen: &Seen| match seen.path.rsplit_once("/blobs/") {
        None if seen.path == "/v1/status" => Say::json(&status(Limits::default())),
        None => Say::json(&closure),
        Some((_, blob)) if blob == digest.to_string() => Say::Bytes(manifest.clone()),
        Some((_, blob)) if blob == Digest::of(b"{}").to_string() => Say::Bytes(b"{}".to_vec()),
        Some(_) if seen.accepts_descriptor => Say::Descriptor(handed_out.clone()),
        Some(_) => Say::Bytes(handed_out.clone()),
    };
    (digest, script)
}

#[tokio::test]
async fn a_descriptor_is_what_the_daemon_handed_over_and_nothing_else_will_do() {
    let bytes = vec![7; 1 << 20];
    let (digest, script) = artifact(&bytes, bytes.clone());
    let fake = Fake::start(false, script);
    let handed = fake.client().await.descriptor(&digest, &Digest::of(&bytes)).await;
    let file = std::fs::File::from(handed.expect("a descriptor"));
    let mut read = vec![0; bytes.len() + 1];
    assert_eq!(file.read_at(&mut read, 0).expect("read"), bytes.len());
    assert_eq!(read[..bytes.len()], bytes);

    let fake = Fake::start(false, move |_: &Seen| Say::Bytes(bytes.clone()));
    let told = fake.client().await.descriptor(&digest, &digest).await.map(drop);
    assert!(matches!(told, Err(Error::Odd { .. })), "{told:?}");
}

#[tokio::test]
async fn what_is_handed_out_is_hashed_again() {
    for size in [10, 1 << 20] {
        let good: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
        let mut flipped = good.clone();
        flipped[size / 2] ^= 1;
        let cut = good[..size - 1].to_vec();
        let longer = [good.clone(), b"x".to_vec()].concat();
        for (what, handed_out) in
            [("good", good.clone()), ("flipped", flipped), ("cut", cut), ("longer", longer)]
        {
            let (digest, script) = artifact(&good, handed_out);
            let fake = Fake::start(false, script);
            let client = fake.client().await;
            let is_good = what == "good";
            let progress = Progress::default();
            let place = |name: &str| fake.scratch.path().join(name);

            let got = client.write_file(&digest, None, Vec::new(), &progress).await;
            assert_eq!(got.as_ref().is_ok_and(|bytes| *bytes == good), is_good, "{what} {size}");
            let ends = [
                got.map(drop),
                client.get_file(&digest, None, &place("file"), &progress).await,
                client.get_dir(&digest, &place("layout"), None, &progress).await,
                client.get_archive(&digest, &place("archive"), None, &progress).await,
            ];
            for end in ends {
                match end {
                    Ok(()) => assert!(is_good, "{what} {size}"),
                    Err(error) => {
                        assert!(!is_good, "{what} {size}: {error}");
                        assert!(matches!(error, Error::Media(media::Error::NotProved { .. })));
                        assert_eq!(error.code(), Code::Corrupt);
                    }
                }
            }
            let names = listing(fake.scratch.path());
            let expected: &[&str] =
                if is_good { &["archive", "file", "layout", "socket"] } else { &["socket"] };
            assert_eq!(names, expected, "{what} {size}: whole or not at all");
        }
    }
}

#[tokio::test]
async fn a_manifest_that_is_not_its_digest_is_not_followed() {
    let (digest, script) = artifact(b"bytes", b"bytes".to_vec());
    let fake = Fake::start(false, move |seen| match script(seen) {
        Say::Bytes(bytes) if seen.path.ends_with(&digest.to_string()) => {
            Say::Bytes(String::from_utf8_lossy(&bytes).replace("\"t\"", "\"u\"").into_bytes())
        }
        other => other,
    });
    let client = fake.client().await;
    let target = fake.scratch.path().join("layout");
    let refused = client.get_dir(&digest, &target, None, &Progress::default()).await;
    assert!(matches!(refused, Err(Error::HandedOut { .. })), "{refused:?}");
    assert_eq!(refused.expect_err("refused").code(), Code::Corrupt);
    assert_eq!(listing(fake.scratch.path()), ["socket"]);
}

#[tokio::test]
async fn the_daemon_is_asked_for_its_limits_once_and_believed_within_reason() {
    let told = Limits { manifest_size: 7, manifests_size: 8, depth: usize::MAX, entries: 9 };
    let fake = Fake::start(false, move |_| Say::json(&status(told)));
    let client = fake.client().await;
    let limits = client.limits().await.expect("limits");
    let elsewhere = client.in_workspace("team").expect("a workspace");
    assert_eq!(elsewhere.limits().await.expect("limits"), limits);
    assert_eq!((limits.manifest_size, limits.manifests_size, limits.entries), (7, 8, 9));
    assert_eq!(limits.depth, api::DocumentLimits::WIDEST.depth);
    assert_eq!(fake.seen().len(), 1);
}

#[tokio::test]
async fn a_put_gives_no_more_names_than_it_may() {
    let fake = Fake::start(false, |_| Say::json(&put()));
    let client = fake.client().await;
    for (n, code) in [(api::MOST_NAMES, None), (api::MOST_NAMES + 1, Some(Code::Usage))] {
        let names: Vec<String> = (0..n).map(|n| format!("a:{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let bytes = FileBytes::Whole(Bytes::from_static(b"x"));
        let put = client.put_file_with(bytes, &options(&names), &Progress::default()).await;
        assert_eq!(put.err().map(|error| error.code()), code, "{n}");
    }
}

#[allow(clippy::disallowed_methods, reason = "tests look at what was made")]
fn listing(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a listing");
    let name = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.expect("an entry").file_name().into_string().expect("text")
    };
    let mut names: Vec<String> = entries.map(name).collect();
    names.sort();
    names
}
