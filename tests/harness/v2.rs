//! Cases of the front door, as data: what is asked, and what must be answered.
//!
//! A case is a list of steps, each with its own expectation, so that what prepares a case is
//! checked as well. Texts of a step may hold `{r}` and `{s}`, the repositories `one` and `two` of a
//! workspace that the case has for itself, `{w}`, that workspace's name, `{o}`, a repository of
//! another workspace, `{loc}`, where the last upload goes on, and `{id}`, its name.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use cas::digest::{Algorithm, Digest};
use serde_json::Value;

use crate::Daemon;
use crate::tls::Certificate;

/// Where the front door is.
#[derive(Clone, Debug)]
pub enum Door {
    /// At a Unix socket.
    Socket(PathBuf),
    /// At `127.0.0.1:PORT`.
    Loopback(String),
    /// At `127.0.0.1:PORT`, over TLS.
    Tls(Tls),
}

/// A door over TLS.
#[derive(Clone, Debug)]
pub struct Tls {
    /// `127.0.0.1:PORT`.
    pub address: String,
    /// The one certificate that is believed.
    pub certificate: Certificate,
    /// What every request says in `Authorization`.
    pub authorization: Option<String>,
}

/// A case.
#[derive(Clone, Debug)]
pub struct Case {
    name: String,
    steps: Vec<Step>,
}

/// One request, and what must be answered.
#[derive(Clone, Debug)]
pub struct Step {
    method: &'static str,
    path: String,
    headers: Vec<(String, String)>,
    body: Body,
    status: Vec<u16>,
    wants: Vec<Want>,
}

#[derive(Clone, Debug)]
enum Body {
    Sized(Vec<u8>),
    /// Sent in chunks, its length unsaid.
    Chunked(Vec<u8>),
    /// Announced as longer than it is; then the client leaves.
    Torn(Vec<u8>),
}

#[derive(Clone, Debug)]
enum Want {
    Eq(&'static str, String),
    Has(&'static str),
    Absent(&'static str),
    Body(Vec<u8>),
    Code(&'static str),
    Says(String),
    Json(&'static str, Value),
}

/// What was answered.
#[derive(Debug)]
pub struct Answer {
    /// The status; 0 when there was no whole answer.
    pub status: u16,
    /// Header fields, with lower-case names.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: Vec<u8>,
    /// Whether the body is as long as was announced.
    pub is_whole: bool,
}

/// A connection to a front door.
pub struct Line {
    door: Door,
    stream: BufReader<Box<dyn Stream>>,
}

trait Stream: Read + Write {}
impl<S: Read + Write> Stream for S {}

/// A case of these steps.
pub fn case(name: impl Into<String>, steps: impl Into<Vec<Step>>) -> Case {
    Case { name: name.into(), steps: steps.into() }
}

/// A request; without more said, it must be answered with 200.
pub fn ask(method: &'static str, path: impl Into<String>) -> Step {
    Step {
        method,
        path: path.into(),
        headers: Vec::new(),
        body: Body::Sized(Vec::new()),
        status: vec![200],
        wants: Vec::new(),
    }
}

/// A `GET`.
pub fn get(path: impl Into<String>) -> Step {
    ask("GET", path)
}

/// A `HEAD`.
pub fn head(path: impl Into<String>) -> Step {
    ask("HEAD", path)
}

/// A `POST`, of which the answer must be 202.
pub fn post(path: impl Into<String>) -> Step {
    ask("POST", path).is(202)
}

/// A `PUT`, of which the answer must be 201.
pub fn put(path: impl Into<String>, body: impl Into<Vec<u8>>) -> Step {
    ask("PUT", path).body(body).is(201)
}

/// A `PATCH`, of which the answer must be 202.
pub fn patch(path: impl Into<String>, body: impl Into<Vec<u8>>) -> Step {
    ask("PATCH", path).body(body).is(202)
}

/// A `DELETE`, of which the answer must be 202.
pub fn delete(path: impl Into<String>) -> Step {
    ask("DELETE", path).is(202)
}

/// A blob pushed at once into a repository.
pub fn push(repository: &str, digest: &Digest, bytes: &[u8]) -> Step {
    ask("POST", format!("/v2/{repository}/blobs/uploads/?digest={digest}")).body(bytes).is(201)
}

/// A manifest pushed by tag or digest.
pub fn manifest(at: &str, media_type: &str, document: &Value) -> Step {
    put(at, document.to_string()).with("content-type", media_type)
}

/// The digest of these bytes.
pub fn digest(algorithm: Algorithm, bytes: impl AsRef<[u8]>) -> Digest {
    Digest::compute(algorithm, bytes.as_ref())
}

// === impl Step ===

impl Step {
    /// With a field in the header.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Step {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// With this body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Step {
        self.body = Body::Sized(body.into());
        self
    }

    /// With its body in chunks.
    #[must_use]
    pub fn chunked(mut self) -> Step {
        self.body = Body::Chunked(self.body.into_bytes());
        self
    }

    /// With a body that breaks off; nothing is answered to that.
    #[must_use]
    pub fn torn(mut self) -> Step {
        self.body = Body::Torn(self.body.into_bytes());
        self.status = vec![0, 400];
        self
    }

    /// The answer has this status.
    #[must_use]
    pub fn is(mut self, status: u16) -> Step {
        self.status = vec![status];
        self
    }

    /// The answer has a field of this value.
    #[must_use]
    pub fn eq(self, name: &'static str, value: impl Into<String>) -> Step {
        self.want(Want::Eq(name, value.into()))
    }

    /// The answer has this field.
    #[must_use]
    pub fn has(self, name: &'static str) -> Step {
        self.want(Want::Has(name))
    }

    /// The answer lacks this field.
    #[must_use]
    pub fn lacks(self, name: &'static str) -> Step {
        self.want(Want::Absent(name))
    }

    /// The answer's body is this.
    #[must_use]
    pub fn gives(self, bytes: impl Into<Vec<u8>>) -> Step {
        self.want(Want::Body(bytes.into()))
    }

    /// The answer is an error of this status and code.
    #[must_use]
    pub fn fails(self, status: u16, code: &'static str) -> Step {
        self.is(status).want(Want::Code(code))
    }

    /// The answer's body has this text in it.
    #[must_use]
    pub fn says(self, text: impl Into<String>) -> Step {
        self.want(Want::Says(text.into()))
    }

    /// The answer's JSON has this value at that place.
    #[must_use]
    pub fn json(self, place: &'static str, value: Value) -> Step {
        self.want(Want::Json(place, value))
    }

    fn want(mut self, want: Want) -> Step {
        self.wants.push(want);
        self
    }

    fn check(&self, answer: &Answer, fill: &dyn Fn(&str) -> String) -> Result<(), String> {
        if !self.status.contains(&answer.status) {
            return Err(format!("the status is not {:?}", self.status));
        }
        if answer.status == 0 {
            return Ok(());
        }
        let version = answer.headers.get("docker-distribution-api-version").map(String::as_str);
        if version != Some("registry/2.0") {
            return Err("the API's version is not told".to_owned());
        }
        if !answer.is_whole {
            return Err("the body broke off".to_owned());
        }
        for want in &self.wants {
            let field = |name: &str| answer.headers.get(name).map(String::as_str);
            let is_so = match want {
                Want::Eq(name, value) => field(name) == Some(&fill(value)),
                Want::Has(name) => field(name).is_some(),
                Want::Absent(name) => field(name).is_none(),
                Want::Body(bytes) => answer.body == *bytes,
                Want::Code(code) => self.method == "HEAD" || answer.code() == *code,
                Want::Says(text) => String::from_utf8_lossy(&answer.body).contains(&fill(text)),
                Want::Json(place, value) => {
                    let filled = serde_json::from_str(&fill(&value.to_string()));
                    answer.json().pointer(place) == Some(&filled.expect("JSON"))
                }
            };
            if !is_so {
                let told = format!("{want:?}");
                return Err(format!("not so: {}", told.chars().take(400).collect::<String>()));
            }
        }
        Ok(())
    }
}

impl Body {
    fn into_bytes(self) -> Vec<u8> {
        match self {
            Body::Sized(bytes) | Body::Chunked(bytes) | Body::Torn(bytes) => bytes,
        }
    }
}

// === impl Door ===

impl Door {
    /// The front doors of a daemon: its socket, and its loopback listener if it has one.
    pub fn of(daemon: &Daemon) -> Vec<Door> {
        let loopback = loopback(daemon).map(Door::Loopback);
        std::iter::once(Door::Socket(daemon.home().socket())).chain(loopback).collect()
    }

    /// Its name, short enough for a workspace.
    pub fn name(&self) -> &'static str {
        match self {
            Door::Socket(_) => "socket",
            Door::Loopback(_) => "loopback",
            Door::Tls(_) => "tls",
        }
    }

    fn connect(&self) -> io::Result<Box<dyn Stream>> {
        let patience = Some(Duration::from_secs(60));
        match self {
            Door::Socket(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(patience)?;
                Ok(Box::new(stream))
            }
            Door::Loopback(address) => {
                let stream = TcpStream::connect(address)?;
                stream.set_read_timeout(patience)?;
                Ok(Box::new(stream))
            }
            Door::Tls(door) => {
                let stream = TcpStream::connect(&door.address)?;
                stream.set_read_timeout(patience)?;
                Ok(Box::new(door.certificate.shake_hands(stream)?))
            }
        }
    }

    /// Asks by hand, on a connection of its own.
    #[track_caller]
    pub fn ask(&self, step: &Step) -> Answer {
        self.open().ask(step)
    }

    /// A connection, for several requests one after the other.
    #[track_caller]
    pub fn open(&self) -> Line {
        let stream = self.connect().expect("the daemon takes a connection");
        Line { door: self.clone(), stream: BufReader::new(stream) }
    }

    /// Runs cases; the n-th has the workspaces `wN-DOOR` and `owN-DOOR` for itself.
    #[track_caller]
    pub fn run(&self, cases: &[Case]) {
        let mut wrong = Vec::new();
        for (number, case) in cases.iter().enumerate() {
            if let Err(told) = self.run_one(case, number) {
                wrong.push(told);
            }
        }
        assert!(
            wrong.is_empty(),
            "{} of {} cases:\n{}",
            wrong.len(),
            cases.len(),
            wrong.join("\n")
        );
    }

    fn run_one(&self, case: &Case, number: usize) -> Result<(), String> {
        let workspace = format!("w{number}-{}", self.name());
        let (mut location, mut id) = (String::new(), String::new());
        for (n, step) in case.steps.iter().enumerate() {
            let fill = |text: &str| {
                text.replace("{r}", &format!("{workspace}/one"))
                    .replace("{s}", &format!("{workspace}/two"))
                    .replace("{o}", &format!("o{workspace}/one"))
                    .replace("{w}", &workspace)
                    .replace("{loc}", &location)
                    .replace("{id}", &id)
            };
            let mut asked = step.clone();
            asked.path = fill(&step.path);
            for (_, value) in &mut asked.headers {
                *value = fill(value);
            }
            let answer = self.ask(&asked);
            if let Err(told) = step.check(&answer, &fill) {
                let Step { method, .. } = step;
                let path: String = asked.path.chars().take(300).collect();
                let body = String::from_utf8_lossy(&answer.body[..answer.body.len().min(400)]);
                let (name, door, headers) = (&case.name, self.name(), &answer.headers);
                return Err(format!(
                    "- {name}, over the {door}, step {n}: {method} {path}\n    {told}\n    \
                     answered {} {headers:?}\n    {body}",
                    answer.status
                ));
            }
            // What was made is elsewhere; what goes on is where the last answer said.
            if let Some(told) = answer.headers.get("location").filter(|_| answer.status != 201) {
                location.clone_from(told);
            }
            if let Some(told) = answer.headers.get("docker-upload-uuid") {
                id.clone_from(told);
            }
        }
        Ok(())
    }
}

// === impl Line ===

impl Line {
    /// Asks by hand; after a `HEAD` the daemon closes.
    #[track_caller]
    pub fn ask(&mut self, step: &Step) -> Answer {
        let Line { door, stream } = self;
        let mut head = format!("{} {} HTTP/1.1\r\n", step.method, step.path);
        if !step.headers.iter().any(|(name, _)| name == "host") {
            head += "host: 127.0.0.1\r\n";
        }
        if step.method == "HEAD" {
            head += "connection: close\r\n";
        }
        if let Door::Tls(Tls { authorization: Some(said), .. }) = &*door
            && !step.headers.iter().any(|(name, _)| name == "authorization")
        {
            head += &format!("authorization: {said}\r\n");
        }
        for (name, value) in &step.headers {
            head += &format!("{name}: {value}\r\n");
        }
        let mut bytes = match &step.body {
            Body::Sized(body) => format!("{head}content-length: {}\r\n\r\n", body.len()),
            Body::Chunked(_) => format!("{head}transfer-encoding: chunked\r\n\r\n"),
            Body::Torn(body) => format!("{head}content-length: {}\r\n\r\n", body.len() + 10),
        }
        .into_bytes();
        match &step.body {
            Body::Sized(body) | Body::Torn(body) => bytes.extend_from_slice(body),
            Body::Chunked(body) => {
                for piece in body.chunks(10_000) {
                    bytes.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                    bytes.extend_from_slice(piece);
                    bytes.extend_from_slice(b"\r\n");
                }
                bytes.extend_from_slice(b"0\r\n\r\n");
            }
        }
        // The daemon may answer before it has read everything, and close.
        let sent = stream.get_mut().write_all(&bytes);
        if let Body::Torn(_) = step.body {
            return Answer::none();
        }
        let answer = read(stream, step.method);
        assert!(sent.is_ok() || answer.status != 0, "{} {}: {sent:?}", step.method, step.path);
        answer
    }
}

/// Where a daemon's loopback listener is, as its log says.
pub fn loopback(daemon: &Daemon) -> Option<String> {
    let logged = daemon.home().logged();
    let address = logged.rsplit("address=").next().filter(|_| logged.contains("address="))?;
    Some(address.split_whitespace().next()?.to_owned())
}

/// A daemon with a loopback listener, and this configuration.
#[track_caller]
pub fn daemon(config: &str) -> Daemon {
    let words = ["--listen", "127.0.0.1:0", "--allow-anonymous"];
    let daemon = crate::Home::new(config).words(&words).start();
    // Its log is written by a thread of its own, and may say so after the first answer.
    crate::wait_until("the log says where", || loopback(&daemon).is_some());
    daemon
}

// === impl Answer ===

impl Answer {
    fn none() -> Answer {
        Answer { status: 0, headers: BTreeMap::new(), body: Vec::new(), is_whole: false }
    }

    /// The body as JSON; null when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The code of the error that it tells; empty when it tells none.
    pub fn code(&self) -> String {
        let told = self.json();
        told["errors"][0]["code"].as_str().unwrap_or_default().to_owned()
    }
}

fn read(stream: &mut BufReader<Box<dyn Stream>>, method: &str) -> Answer {
    let mut answer = Answer::none();
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).is_err() || line.is_empty() {
            return answer;
        }
        match line.trim_end() {
            "" => break,
            text => lines.push(text.to_owned()),
        }
    }
    let mut lines = lines.into_iter();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
    answer.status = status.unwrap_or(0);
    answer.headers = lines
        .filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_ascii_lowercase(), value.trim().to_owned()))
        })
        .collect();
    let length = answer.headers.get("content-length").and_then(|n| n.parse().ok()).unwrap_or(0);
    if method == "HEAD" {
        // Not one byte may follow before the daemon closes.
        answer.is_whole = stream.read_to_end(&mut answer.body).is_ok_and(|n| n == 0);
        return answer;
    }
    let read = stream.take(length).read_to_end(&mut answer.body);
    answer.is_whole = read.is_ok_and(|n| n as u64 == length);
    answer
}
