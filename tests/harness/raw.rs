//! Requests by hand: what a good client sends, and what none would.

use std::collections::BTreeMap;
use std::io::{self, IoSlice, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use cas::digest::Digest;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde_json::{Value, json};
use wire::api::DESCRIPTORS;

/// One connection to the daemon.
#[derive(Debug)]
pub struct Connection {
    /// The socket itself.
    pub stream: UnixStream,
}

/// What the daemon answered.
#[derive(Debug)]
pub struct Answer {
    /// The status code; 0 when the connection ended without a whole answer.
    pub status: u16,
    /// Header fields, with lower-case names.
    pub headers: BTreeMap<String, String>,
    /// The body, or what came of it.
    pub body: Vec<u8>,
    /// Whether the body is as long as was announced.
    pub is_whole: bool,
}

impl Connection {
    /// Connects; an answer that takes a minute is none.
    ///
    /// # Errors
    /// When nobody listens.
    pub fn open(socket: &Path) -> io::Result<Connection> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.set_write_timeout(Some(Duration::from_secs(60)))?;
        Ok(Connection { stream })
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// When the daemon closed the connection.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// Sends bytes and, with the first of them, descriptors.
    ///
    /// # Errors
    /// When the daemon closed the connection.
    pub fn send_with<F: AsFd>(&mut self, bytes: &str, descriptors: &[F]) -> io::Result<()> {
        let raw: Vec<_> = descriptors.iter().map(|d| d.as_fd().as_raw_fd()).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let slices = [IoSlice::new(bytes.as_bytes())];
        let flags = MsgFlags::MSG_NOSIGNAL;
        let n = sendmsg::<()>(self.stream.as_raw_fd(), &slices, &rights, flags, None)?;
        self.send(&bytes.as_bytes()[n..])
    }

    /// A request without body.
    #[track_caller]
    pub fn ask(&mut self, method: &str, path: &str) -> Answer {
        let body: &[u8] = &[];
        self.bring(method, path, body)
    }

    /// A `GET`.
    #[track_caller]
    pub fn get(&mut self, path: &str) -> Answer {
        self.ask("GET", path)
    }

    /// A request with a body.
    #[track_caller]
    pub fn bring(&mut self, method: &str, path: &str, body: impl AsRef<[u8]>) -> Answer {
        let head = head(method, path, body.as_ref().len() as u64);
        // The daemon may answer before it has read everything, and close.
        let sent = self.send(head).and_then(|()| self.send(body));
        let answer = self.answer();
        assert!(sent.is_ok() || answer.status != 0, "{method} {path}: {sent:?}");
        answer
    }

    /// A request with a descriptor.
    #[track_caller]
    pub fn hand(&mut self, method: &str, path: &str, descriptor: &impl AsFd) -> Answer {
        let descriptor = descriptor.as_fd();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: bonded\r\n{DESCRIPTORS}: 1\r\n\
             content-length: 0\r\n\r\n"
        );
        self.send_with(&head, &[descriptor]).expect("the daemon takes the request");
        self.answer()
    }

    /// Reads one answer.
    pub fn answer(&mut self) -> Answer {
        let head = self.read_head();
        let mut answer = parse_head(&head);
        let length = answer.headers.get("content-length").and_then(|n| n.parse().ok());
        let length: u64 = length.unwrap_or(0);
        let read = (&mut self.stream).take(length).read_to_end(&mut answer.body);
        answer.is_whole = answer.status != 0 && read.is_ok_and(|n| n as u64 == length);
        answer
    }

    /// Reads one answer that carries what was asked for and says how many bytes came of it, which
    /// are not kept; `None` when they were not all that was announced.
    pub fn answer_unkept(&mut self) -> Option<u64> {
        let head = self.read_head();
        let answer = parse_head(&head);
        let length: u64 = answer.headers.get("content-length")?.parse().ok()?;
        let read = io::copy(&mut (&mut self.stream).take(length), &mut io::sink()).ok()?;
        (answer.status == 200 && read == length).then_some(length)
    }

    fn read_head(&mut self) -> Vec<u8> {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") && matches!(self.stream.read(&mut byte), Ok(1)) {
            head.push(byte[0]);
        }
        head
    }

    /// Whether the daemon closes this connection without another word, within a minute.
    pub fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(n) => n == 0,
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        }
    }

    /// Opens a draft and returns its name.
    #[track_caller]
    pub fn draft(&mut self, workspace: &str) -> String {
        let answer = self.ask("POST", &format!("/v1/workspaces/{workspace}/drafts"));
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.json()["draft"].as_str().expect("the draft's name").to_owned()
    }

    /// Asks for one blob in the form of a descriptor.
    #[track_caller]
    pub fn receive(self, workspace: &str, artifact: &Digest, blob: &Digest) -> Option<OwnedFd> {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let path = format!("/v1/workspaces/{workspace}/artifacts/{artifact}/blobs/{blob}");
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: bonded\r\n{}: 1\r\n\r\n",
            wire::api::ACCEPT_DESCRIPTORS
        );
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
        runtime.expect("a runtime").block_on(async {
            self.stream.set_nonblocking(true).expect("a socket");
            let stream = tokio::net::UnixStream::from_std(self.stream).expect("a socket");
            let mut stream = wire::stream::DescriptorStream::new(stream);
            stream.write_all(request.as_bytes()).await.expect("sent");
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.expect("an answer"));
            }
            let answer = parse_head(&head);
            assert_eq!(answer.status, 200, "{answer:?}");
            assert_eq!(answer.headers.get(DESCRIPTORS).map(String::as_str), Some("1"));
            stream.descriptors().take()
        })
    }
}

/// The header of a request with so long a body.
pub fn head(method: &str, path: &str, length: u64) -> String {
    format!("{method} {path} HTTP/1.1\r\nhost: bonded\r\ncontent-length: {length}\r\n\r\n")
}

/// The body that seals a draft.
pub fn seal(root: &Value) -> String {
    json!({ "root": root }).to_string()
}

fn parse_head(head: &[u8]) -> Answer {
    let head = String::from_utf8_lossy(head);
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
    let fields = lines.filter_map(|line| line.split_once(':'));
    let headers =
        fields.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
    Answer { status: status.unwrap_or(0), headers, body: Vec::new(), is_whole: false }
}

impl Answer {
    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    /// The name of the error that it tells; empty when it tells none.
    pub fn code(&self) -> String {
        let body: Option<Value> = serde_json::from_slice(&self.body).ok();
        body.and_then(|body| Some(body["error"]["code"].as_str()?.to_owned())).unwrap_or_default()
    }
}
