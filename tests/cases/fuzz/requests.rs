//! Whole requests over a raw connection, each with a polite one right behind it. Whatever the
//! first one is, the daemon never takes a part of it for a request of its own: the polite one gets
//! its own answer, or the connection is closed. It never waits longer than it may, and serves
//! everybody else as before.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use cas::digest::Digest;
use proptest::prelude::*;
use tests::scratch;
use tests::v2::{Door, Step, daemon, get, push};

use super::shapes::{Flaw, Request, flawed, flaws, push as pushed, requests};
use super::{Raw, fuzz};
use crate::exec::{Bench, Open};

/// What the polite request asks for, and what only a request inside of a body asks for.
const POLITE: &[u8] = b"the answer to the polite request";
const SMUGGLED: &[u8] = b"what nobody but a smuggler asked for";

const CONFIG: &str = "[timeouts]\nheader = \"2s\"\nstall = \"2s\"\nkeep_alive = \"2s\"\n";
/// Longer than every timeout above, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

trait Stream: Read + Write {}
impl<S: Read + Write> Stream for S {}

/// A daemon, its doors, and what is asked of them.
struct House {
    bench: Bench,
    /// The door of a command.
    open: Open,
    /// What it lets in.
    authorization: String,
    /// All of them, that of the command last.
    doors: Vec<Door>,
    polite: Vec<u8>,
    smuggled: Vec<u8>,
}

/// The doors of a house, by their numbers.
const DOORS: std::ops::Range<usize> = 0..3;

/// One answer as it came.
#[derive(Debug)]
struct Told {
    status: u16,
    body: Raw,
}

impl House {
    fn new() -> House {
        let bench = Bench { daemon: daemon(CONFIG), folder: scratch() };
        let open = bench.open();
        let authorization = open.authorization();
        let mut doors = Door::of(&bench.daemon);
        doors.push(open.door());
        let request = |bytes: &[u8], end: &str| {
            let d = Digest::of(bytes);
            for door in [&doors[0], &doors[2]] {
                let push = push("good/r", &d, bytes).with("authorization", &authorization);
                assert_eq!(door.ask(&push).status, 201);
            }
            let head = format!("host: 127.0.0.1\r\nauthorization: {authorization}\r\n{end}");
            format!("GET /v2/good/r/blobs/{d} HTTP/1.1\r\n{head}\r\n").into_bytes()
        };
        let (polite, smuggled) = (request(POLITE, "connection: close\r\n"), request(SMUGGLED, ""));
        House { bench, open, authorization, doors, polite, smuggled }
    }

    /// What a request needs to be let in.
    fn credential(&self, door: usize) -> Option<&str> {
        (door == 2).then_some(&*self.authorization)
    }

    /// Sends bytes and the polite request behind them; what came back until the daemon closed.
    fn send(&self, door: usize, bytes: &[u8]) -> Result<Vec<u8>, TestCaseError> {
        let begun = Instant::now();
        let connect = || -> io::Result<Box<dyn Stream>> {
            Ok(match &self.doors[door] {
                Door::Socket(path) => {
                    let stream = UnixStream::connect(path)?;
                    stream.set_read_timeout(Some(PATIENCE))?;
                    Box::new(stream)
                }
                Door::Loopback(address) => {
                    let stream = TcpStream::connect(address)?;
                    stream.set_read_timeout(Some(PATIENCE))?;
                    Box::new(stream)
                }
                Door::Tls(_) => return Err(io::Error::other("nothing is fuzzed over TLS")),
            })
        };
        let mut stream =
            connect().map_err(|e| TestCaseError::fail(format!("no connection: {e}")))?;
        // It may have answered and closed before all of it was sent, or read.
        let _ = stream.write_all(&[bytes, &self.polite].concat());
        let mut came = Vec::new();
        if let Err(error) = stream.read_to_end(&mut came) {
            prop_assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "it hangs: {}", error);
        }
        prop_assert!(begun.elapsed() < PATIENCE, "it took {:?}", begun.elapsed());
        Ok(came)
    }

    /// Ends it, and looks at what must be so after all of it.
    fn close(self) {
        for door in &self.doors {
            let bytes = b"pushed after all of it";
            let ask = |step: Step| door.ask(&step.with("authorization", &self.authorization));
            assert_eq!(ask(push("good/after", &Digest::of(bytes), bytes)).status, 201);
            let read = ask(get(format!("/v2/good/r/blobs/{}", Digest::of(POLITE))));
            assert_eq!(read.body, POLITE);
        }
        let logged = self.bench.daemon.home().logged();
        assert!(!logged.contains("panicked"), "the daemon panicked");
        tests::wait_until("nothing is left open", || self.bench.daemon.n_descriptors() < 60);
        assert_eq!(self.open.close(), Some(1), "the command read to the end of its input");
    }
}

/// The answers that these bytes are, the first of them to a request of this method. What is no
/// answer, or half of one, is a desynchronised connection.
fn answers(mut came: &[u8], method: &str) -> Result<Vec<Told>, TestCaseError> {
    let mut told = Vec::new();
    while !came.is_empty() {
        let end = came.windows(4).position(|four| four == b"\r\n\r\n");
        let Some(end) = end else {
            return Err(TestCaseError::fail(format!(
                "half a header: {:?}",
                String::from_utf8_lossy(came)
            )));
        };
        let head = String::from_utf8_lossy(&came[..end]).to_ascii_lowercase();
        let status = head.strip_prefix("http/1.").and_then(|rest| rest.get(2..5)?.parse().ok());
        let Some(status) = status else {
            return Err(TestCaseError::fail(format!("no answer: {head:?}")));
        };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
        let length: usize = length.and_then(|n| n.trim().parse().ok()).unwrap_or(0);
        let is_first = told.iter().all(|told: &Told| told.status < 200);
        let has_body = status >= 200 && status != 204 && !(is_first && method == "HEAD");
        let rest = &came[end + 4..];
        let length = if has_body { length } else { 0 };
        prop_assert!(length <= rest.len(), "half a body: {head:?}");
        told.push(Told { status, body: Raw(rest[..length].to_vec()) });
        came = &rest[length..];
    }
    told.retain(|told| told.status >= 200);
    Ok(told)
}

#[test]
fn what_stands_in_a_body_is_no_request() {
    let house = House::new();
    let smuggled = house.smuggled.clone();
    let bodies = prop_oneof![
        4 => Just(smuggled.clone()),
        1 => Just([b"\r\n\r\n", &smuggled[..]].concat()),
        1 => Just([b"0\r\n\r\n", &smuggled[..]].concat()),
        1 => (0..9_usize).prop_map(move |n| smuggled.repeat(n)),
        1 => prop::collection::vec(any::<u8>(), 0..300),
    ];
    fuzz("requests with one meaning", 1_500, (requests(bodies), DOORS), |(request, door)| {
        let came = house.send(door, &request.bytes(house.credential(door)))?;
        let told = answers(&came, request.method)?;
        prop_assert!(told.iter().all(|told| told.body.0 != SMUGGLED), "smuggled: {told:?}");
        prop_assert!(told.len() <= 2, "more answers than requests: {told:?}");
        if let [_, second] = &told[..] {
            prop_assert_eq!(second.status, 200);
            prop_assert_eq!(&second.body.0[..], POLITE, "it is the answer to something else");
        }
        Ok(told.len() == 2)
    });
    house.close();
}

/// Refused, and nothing behind it is heard.
fn is_refused(
    house: &House,
    door: usize,
    request: &Request,
    flaw: Flaw,
) -> Result<(), TestCaseError> {
    let came = house.send(door, &request.bytes_with(flaw, house.credential(door)))?;
    let told = answers(&came, request.method)?;
    prop_assert!(told.len() <= 1, "it went on: {told:?}");
    prop_assert!(told.iter().all(|told| told.status >= 400), "it was taken: {told:?}");
    Ok(())
}

#[test]
fn what_has_two_meanings_has_none() {
    let house = House::new();
    let good = pushed(false, Vec::new(), b"abcde".to_vec());
    let mut wrong = Vec::new();
    for door in DOORS {
        for flaw in flaws() {
            if let Err(told) = is_refused(&house, door, &good, flaw) {
                wrong.push(format!("{flaw:?} at door {door}: {told}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} flaws:\n{}", wrong.len(), wrong.join("\n"));
    // The same among other fields, and its twin without a flaw.
    let inputs = (prop::bool::weighted(0.8), flawed(), DOORS);
    fuzz("requests with two meanings", 1_000, inputs, |(is_flawed, (request, flaw), door)| {
        if is_flawed {
            return is_refused(&house, door, &request, flaw).map(|()| false);
        }
        let told =
            answers(&house.send(door, &request.bytes(house.credential(door)))?, request.method)?;
        prop_assert_eq!(told.len(), 2, "{:?}", told);
        Ok(told[0].status == 201)
    });
    house.close();
}

#[test]
fn a_length_beside_chunks_ends_the_connection() {
    // RFC 9112, section 6.1: the chunks count, and nothing that follows them is believed.
    let house = House::new();
    let d = Digest::of(b"abcde");
    let begin = format!(
        "POST /v2/fuzz/both/blobs/uploads/?digest={d} HTTP/1.1\r\nhost: 127.0.0.1\r\n\
         authorization: {}\r\n",
        house.authorization
    );
    let (length, chunks) = ("content-length: 15\r\n", "transfer-encoding: chunked\r\n");
    let body = "5\r\nabcde\r\n0\r\n\r\n";
    for (fields, n_answers) in [
        (chunks.to_owned(), 2),
        (format!("{length}{chunks}"), 1),
        (format!("{chunks}{length}"), 1),
        (format!("{chunks}content-length: 4\r\n"), 1),
        (format!("{chunks}content-length: x\r\n"), 1),
    ] {
        for door in DOORS {
            let came = house.send(door, format!("{begin}{fields}\r\n{body}").as_bytes()).unwrap();
            let told = answers(&came, "POST").unwrap();
            assert_eq!(told.len(), n_answers, "{fields:?}: {told:?}");
        }
    }
    house.close();
}
