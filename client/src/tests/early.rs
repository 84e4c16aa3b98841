//! A daemon that ends a request before it has read all of it.

use std::io::Read;
use std::time::Duration;

use http::Method;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use wire::{Code, Problem, api};

use super::options;
use crate::connection::Ask;
use crate::payload::Brings;
use crate::pool::plain;
use crate::{Client, Error, FileBytes, Progress};

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(20);

/// A pipe whose writer never stops.
struct Endless;

impl Read for Endless {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        buf.fill(7);
        Ok(buf.len())
    }
}

/// A pipe whose writer gives some bytes and then nothing, as long as somebody holds the other end.
struct Stuck {
    left: usize,
    writer: std::sync::mpsc::Receiver<()>,
}

impl Read for Stuck {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        if self.left == 0 {
            let _ = self.writer.recv();
        }
        let n = buf.len().min(self.left);
        self.left -= n;
        Ok(n)
    }
}

/// Listens, and ends every request after so many bytes of it: with these words, then the end.
#[allow(clippy::disallowed_methods, reason = "the fake daemon is its own app")]
fn listen(after: usize, say: String) -> (tempfile::TempDir, std::path::PathBuf) {
    let scratch = tempfile::tempdir().expect("a folder");
    let socket = scratch.path().join("socket");
    let listener = UnixListener::bind(&socket).expect("a socket");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(end(stream, after, say.clone()));
        }
    });
    (scratch, socket)
}

async fn end(mut stream: UnixStream, after: usize, say: String) {
    let mut n = 0;
    let mut buffer = vec![0; 64 << 10];
    while n < after {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(more) => n += more,
        }
    }
    let _ = stream.write_all(say.as_bytes()).await;
}

async fn put(client: &Client, stream: impl Read + Send + 'static) -> Error {
    let bytes = FileBytes::Stream(Box::new(stream));
    let (options, progress) = (options(&[]), Progress::default());
    let putting = client.put_file_with(bytes, &options, &progress);
    let put = tokio::time::timeout(LONG, putting).await.expect("it comes to an end");
    put.expect_err("refused")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_before_the_end_of_the_body_is_heard() {
    let error = Problem::new(Code::DiskFull, "full");
    let body = serde_json::to_string(&api::ErrorBody { error }).expect("JSON");
    let n = body.len();
    let answer = format!("HTTP/1.1 507 Full\r\ncontent-length: {n}\r\n\r\n{body}");
    for after in [1, 100_000, 3_000_000] {
        let (_scratch, socket) = listen(after, answer.clone());
        let client = Client::connect_with(&socket, 1).await.expect("connected");
        for _ in 0..40 {
            assert_eq!(put(&client, Endless).await.code(), Code::DiskFull, "after {after}");
        }
    }
    // Its own source has nothing more to give just then, and is not waited for.
    let (_scratch, socket) = listen(1000, answer);
    let client = Client::connect_with(&socket, 1).await.expect("connected");
    let (hold, writer) = std::sync::mpsc::channel();
    let stuck = Stuck { left: 1 << 20, writer };
    assert_eq!(put(&client, stuck).await.code(), Code::DiskFull);
    drop(hold);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_waits_for_its_source_and_not_for_a_daemon_that_never_answers() {
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_owned();
    let patience = Duration::from_millis(100);
    let ask = |stream| {
        let brings = Brings::stream(stream, Progress::default());
        Ask { brings, patience, ..plain("putting", Method::POST, "/".to_owned()) }
    };
    // All of it is there, and the daemon waits for more.
    let (_scratch, socket) = listen(1 << 20, answer.clone());
    let client = Client::connect_with(&socket, 1).await.expect("connected");
    let whole = Box::new(std::io::Cursor::new(vec![7; 1000]));
    let late = client.call(&ask(whole)).await.expect_err("no answer");
    assert!(matches!(late, Error::Late { .. }), "{late:?}");
    // The source takes its time.
    let (_scratch, socket) = listen(2000, answer);
    let client = Client::connect_with(&socket, 1).await.expect("connected");
    let (hold, writer) = std::sync::mpsc::channel::<()>();
    let slow = Box::new(Stuck { left: 1000, writer }.chain(std::io::repeat(7).take(1 << 20)));
    let ask = ask(slow);
    let (answered, ()) = tokio::join!(client.call(&ask), async {
        tokio::time::sleep(patience * 4).await;
        drop(hold);
    });
    answered.expect("an answer in the end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_without_an_answer_is_the_end() {
    for after in [1, 100_000, 3_000_000] {
        let (_scratch, socket) = listen(after, String::new());
        let client = Client::connect_with(&socket, 1).await.expect("connected");
        for _ in 0..5 {
            assert_eq!(put(&client, Endless).await.code(), Code::Unreachable, "after {after}");
        }
    }
}
