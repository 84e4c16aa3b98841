//! Whole requests as bytes: odd ones with one meaning, and what is wrong with those that have two.

use cas::digest::Digest;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::Raw;

/// One request, before it is written out.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) method: &'static str,
    target: String,
    version: &'static str,
    fields: Vec<&'static str>,
    framing: Framing,
    body: Raw,
    /// Line ends of the header.
    line: &'static str,
}

/// How the end of a body is told.
#[derive(Clone, Debug)]
enum Framing {
    Length,
    /// In chunks of so many bytes, each with this extension; then these trailers.
    Chunks(usize, &'static str, &'static str),
}

/// What makes a request one that two readers could read differently.
#[derive(Clone, Copy, Debug)]
pub(super) enum Flaw {
    /// In the header: these fields instead of those that tell the length.
    Fields(&'static str),
    /// In the request's line: this instead of it.
    Line(&'static str),
    /// In the body: these chunks.
    Chunks(&'static str),
}

const METHODS: [&str; 13] = [
    "GET", "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "get",
    "X", "GET-",
];

/// Requests' targets; `{d}` is the digest of the body.
const TARGETS: [&str; 34] = [
    "/v2/",
    "/v2",
    "/",
    "/v1/health",
    "*",
    "/v2/fuzz/r/tags/list",
    "/v2/fuzz/r/blobs/{d}",
    "/v2/fuzz/r/blobs/uploads/?digest={d}",
    "/v2/fuzz/r/blobs/uploads/",
    "/v2/fuzz/r/blobs/uploads/?digest={d}&digest={d}",
    "/v2/fuzz/r/blobs/uploads/no-such?digest={d}",
    "/v2/fuzz/r/manifests/1",
    "/v2/fuzz/r/manifests/{d}",
    "/v2/fuzz/r/referrers/{d}",
    "/v2/fuzz/../../r/tags/list",
    "/v2/%2e%2e/r/tags/list",
    "/v2/fuzz/%2e%2e%2fr/tags/list",
    "/v2/fuzz/r%00/tags/list",
    "/v2/fuzz/r%0d%0a/tags/list",
    "/v2/fuzz/%ff/tags/list",
    "/v2/fuzz/%/tags/list",
    "/v2/fuzz/r/tags/list?n=99999999999999999999&last=%00",
    "/v2/fuzz/r/tags/list?%ff=%ff",
    "//v2/",
    "/v2//",
    "/v2/fuzz//tags/list",
    "/v2/fuzz/_tags/x",
    "/v2/fuzz/r/blobs/uploads/?mount={d}&from=../../etc",
    "/v2/fuzz\\r/tags/list",
    "/v2/?#/v2/",
    "http://127.0.0.1/v2/",
    "http://127.0.0.1:1/v2/fuzz/r/tags/list",
    "http://x@127.0.0.1/v2/",
    "https://evil.example/v2/",
];

/// Fields that many servers stumble over and that tell no length.
const FIELDS: [&str; 22] = [
    "expect: 100-continue",
    "expect: 200-ok",
    "connection: keep-alive",
    "connection: close, x",
    "connection: upgrade, http2-settings",
    "upgrade: h2c",
    "upgrade: websocket",
    "range: bytes=0-0",
    "range: bytes=5-1,2",
    "content-range: 0-18446744073709551615",
    "content-range: bytes 0-1/2",
    "content-type: \u{e9}",
    "content-type: a/b; c=\"\\",
    "te: trailers",
    "trailer: content-length",
    "content-encoding: gzip",
    "authorization: Basic ====",
    "x-http-method-override: DELETE",
    "bonded-descriptors: 1",
    "cookie: a=b",
    "x:",
    "host: 127.0.0.1",
];

fn digest_of(body: &[u8]) -> String {
    Digest::of(body).to_string()
}

/// A request with one meaning, whatever it asks for; `body` may itself look like a request.
pub(super) fn requests(body: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Request> {
    let extension = select(&["", "", "", ";x", ";x=y", ";x=\"y\"", " ", ";\u{e9}"][..]);
    let trailers = select(&["", "", "", "x: y\r\n", "content-length: 0\r\n", "host: x\r\n"][..]);
    let framing = prop_oneof![
        3 => Just(Framing::Length),
        2 => (1..400_usize, extension, trailers).prop_map(|(n, e, t)| Framing::Chunks(n, e, t)),
    ];
    let version = select(&["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0"][..]);
    let line = select(&["\r\n", "\r\n", "\r\n", "\n"][..]);
    let parts =
        (select(&METHODS[..]), select(&TARGETS[..]), version, vec(select(&FIELDS[..]), 0..3));
    (parts, framing, body, line).prop_map(|(parts, framing, body, line)| {
        let (method, target, version, fields) = parts;
        let target = target.replace("{d}", &digest_of(&body));
        // Chunks are a matter of HTTP/1.1.
        let framing = if version == "HTTP/1.0" { Framing::Length } else { framing };
        Request { method, target, version, fields, framing, body: Raw(body), line }
    })
}

/// A push that would be taken if it were not for its flaw.
pub(super) fn flawed() -> impl Strategy<Value = (Request, Flaw)> {
    let body = "[a-z]{5}".prop_map(|text| text.into_bytes());
    let fields = vec(select(&["x: y", "accept: */*", "te: trailers"][..]), 0..3);
    (any::<bool>(), fields, body, select(flaws()))
        .prop_map(|(is_manifest, fields, body, flaw)| (push(is_manifest, fields, body), flaw))
}

/// A good push of five bytes.
pub(super) fn push(is_manifest: bool, fields: Vec<&'static str>, body: Vec<u8>) -> Request {
    let d = digest_of(&body);
    let (method, target) = match is_manifest {
        true => ("PUT", "/v2/fuzz/flawed/manifests/1".to_owned()),
        false => ("POST", format!("/v2/fuzz/flawed/blobs/uploads/?digest={d}")),
    };
    let (version, framing, line) = ("HTTP/1.1", Framing::Length, "\r\n");
    Request { method, target, version, fields, framing, body: Raw(body), line }
}

/// All of them.
pub(super) fn flaws() -> Vec<Flaw> {
    let fields = FIELD_FLAWS.iter().copied().map(Flaw::Fields);
    let lines = LINE_FLAWS.iter().copied().map(Flaw::Line);
    let chunks = CHUNK_FLAWS.iter().copied().map(Flaw::Chunks);
    fields.chain(lines).chain(chunks).collect()
}

/// Fields that tell a length of five bytes in a way that somebody could read otherwise.
const FIELD_FLAWS: &[&str] = &[
    "content-length: 5\r\ncontent-length: 6",
    "content-length: 0\r\ncontent-length: 5",
    "content-length: 5, 6",
    "content-length: 5, 5",
    "content-length: +5",
    "content-length: -5",
    "content-length: 0x5",
    "content-length: 5 5",
    "content-length: 5.0",
    "content-length: 5e0",
    "content-length: ",
    "content-length: five",
    "content-length: \u{665}",
    "content-length: 5;",
    "content-length: 5\0",
    "content-length: 5\u{b}",
    "content-length: 18446744073709551616",
    "content-length: 18446744073709551621",
    "content-length: 99999999999999999999999999999999",
    "content-length : 5",
    "content-length\t: 5",
    " content-length: 5",
    "content-length\0: 5",
    "content-length: 5\r\n folded: y",
    "x: y\r\n\tcontent-length: 5\r\ncontent-length: 5",
    "content-length: 5\r\nx: a\rb",
    "content-length: 5\r\nx: a\0b",
    "content-length: 5\r\n: y",
    "content-length: 5\r\nno colon",
    "content-length: 5\r\nx(y): z",
    "transfer-encoding: gzip, chunked",
    "transfer-encoding: chunked, chunked",
    "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
    "transfer-encoding: identity\r\ntransfer-encoding: chunked",
    "transfer-encoding: gzip",
    "transfer-encoding: identity",
    "transfer-encoding: chunked, gzip",
    "transfer-encoding: xchunked",
    "transfer-encoding: chunkedx",
    "transfer-encoding: \"chunked\"",
    "transfer-encoding: chunked\0",
    "transfer-encoding : chunked",
    "transfer-encoding: ,",
    "transfer-encoding:\r\n chunked",
];

/// Lines that begin no request of ours.
const LINE_FLAWS: &[&str] = &[
    "POST /v2/",
    "POST",
    "/v2/ HTTP/1.1",
    "POST  /v2/ HTTP/1.1",
    "POST /v2/  HTTP/1.1",
    "POST\t/v2/\tHTTP/1.1",
    "POST /v2/ HTTP/1.1 ",
    "POST /v2/ HTTP/2.0",
    "POST /v2/ HTTP/0.9",
    "POST /v2/ HTTP/1.1x",
    "POST /v2/ http/1.1",
    "POST /v2/\0 HTTP/1.1",
    "PO\0ST /v2/ HTTP/1.1",
    "PO(ST /v2/ HTTP/1.1",
    "\u{b}POST /v2/ HTTP/1.1",
    "POST /v2/ x HTTP/1.1",
    "PRI * HTTP/2.0",
];

/// Bodies in chunks of which the end, or the length, is not sure. `abcde` is the body.
const CHUNK_FLAWS: &[&str] = &[
    "+5\r\nabcde\r\n0\r\n\r\n",
    "-5\r\nabcde\r\n0\r\n\r\n",
    "0x5\r\nabcde\r\n0\r\n\r\n",
    "5_\r\nabcde\r\n0\r\n\r\n",
    "g\r\nabcde\r\n0\r\n\r\n",
    "\r\nabcde\r\n0\r\n\r\n",
    " 5\r\nabcde\r\n0\r\n\r\n",
    "5 5\r\nabcde\r\n0\r\n\r\n",
    "5,\r\nabcde\r\n0\r\n\r\n",
    "5\nabcde\n0\n\n",
    "5\nabcde\r\n0\r\n\r\n",
    "5\rabcde\r\n0\r\n\r\n",
    "5\r\nabcde0\r\n\r\n",
    "5\r\nabcdef\r\n0\r\n\r\n",
    "5\r\nabcde\n0\r\n\r\n",
    "5\r\nabcde\r0\r\n\r\n",
    "5;x\nabcde\r\n0\r\n\r\n",
    "5;x\n\r\nabcde\r\n0\r\n\r\n",
    "5;\u{0}\nabcde\r\n0\r\n\r\n",
    "10000000000000005\r\nabcde\r\n0\r\n\r\n",
    "fffffffffffffffb\r\nabcde\r\n0\r\n\r\n",
    "FFFFFFFFFFFFFFFF5\r\nabcde\r\n0\r\n\r\n",
    "5\r\nabcde\r\nx\r\n\r\n",
    "5\r\nabcde\r\n+0\r\n\r\n",
    "5\r\nabcde\r\n0\n\r\n",
    "5\r\nabcde\r\n0\r\nx\r\n\r\n",
    "5\r\nabcde\r\n0\r\nx : y\r\n\r\n",
    "5\r\nabcde\r\n0;\n\r\n",
    "5\r\nabcde\r\n-0\r\n\r\n",
];

impl Request {
    /// As it goes over the wire; with this credential, and with no other, if it needs one.
    pub(super) fn bytes(&self, credential: Option<&str>) -> Vec<u8> {
        let told = match self.framing {
            Framing::Length => format!("content-length: {}", self.body.0.len()),
            Framing::Chunks(..) => "transfer-encoding: chunked".to_owned(),
        };
        let mut bytes = self.head(&self.line_of_request(), &told, credential);
        match self.framing {
            Framing::Length => bytes.extend_from_slice(&self.body.0),
            Framing::Chunks(n, extension, trailers) => {
                for piece in self.body.0.chunks(n) {
                    bytes.extend_from_slice(format!("{:x}{extension}\r\n", piece.len()).as_bytes());
                    bytes.extend_from_slice(piece);
                    bytes.extend_from_slice(b"\r\n");
                }
                bytes.extend_from_slice(format!("0{extension}\r\n{trailers}\r\n").as_bytes());
            }
        }
        bytes
    }

    /// The same with a flaw.
    pub(super) fn bytes_with(&self, flaw: Flaw, credential: Option<&str>) -> Vec<u8> {
        let head = |line: &str, told: &str| self.head(line, told, credential);
        let length = format!("content-length: {}", self.body.0.len());
        let body = String::from_utf8_lossy(&self.body.0);
        let (head, body) = match flaw {
            Flaw::Fields(fields) if fields.contains("transfer") => {
                let body = format!("{:x}\r\n{body}\r\n0\r\n\r\n", self.body.0.len());
                (head(&self.line_of_request(), fields), body)
            }
            Flaw::Fields(fields) => (head(&self.line_of_request(), fields), body.into_owned()),
            Flaw::Line(line) => (head(line, &length), body.into_owned()),
            Flaw::Chunks(chunks) => {
                let head = head(&self.line_of_request(), "transfer-encoding: chunked");
                (head, chunks.replace("abcde", &body))
            }
        };
        [head, body.into_bytes()].concat()
    }

    fn line_of_request(&self) -> String {
        format!("{} {} {}", self.method, self.target, self.version)
    }

    fn head(&self, line: &str, told: &str, credential: Option<&str>) -> Vec<u8> {
        let credential = credential.map(|value| format!("authorization: {value}"));
        let mut lines = vec![line, "host: 127.0.0.1"];
        let is_other = |field: &&&str| credential.is_none() || !field.starts_with("authorization");
        lines.extend(self.fields.iter().filter(is_other));
        lines.extend(credential.as_deref());
        lines.extend([told, "", ""]);
        lines.join(self.line).into_bytes()
    }
}
