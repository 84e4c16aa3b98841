//! A client of a registry that is as fast as it can be and believes nothing: every status, length,
//! digest header and byte of an answer is checked.
//!
//! The distribution specification 1.1. A blob is pushed by POST and PUT, a connection is kept.

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cas::digest::{Algorithm, Digest, Hasher};
use cas::oci::{file_manifest, media_type};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, LOCATION};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::fresh::Blob;
use crate::measure::{Doing, Failed, Result};

/// How long one answer may take; a registry that needs longer hangs.
const ANSWERS_WITHIN: Duration = Duration::from_secs(60);
/// Bytes of an answer that is no blob.
const DOCUMENT: usize = 4 << 20;
const CONTENT_DIGEST: &str = "docker-content-digest";

/// Where a registry listens.
#[derive(Clone, Debug)]
pub enum At {
    /// At an address, over plain HTTP.
    Tcp(SocketAddr),
    /// At a Unix socket.
    Socket(PathBuf),
}

/// A manifest as somebody pushed it.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// Its tag.
    pub tag: String,
    /// Its bytes.
    pub bytes: Bytes,
    /// Their digest.
    pub digest: Digest,
}

/// How a manifest is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// By its tag.
    Tag,
    /// By its digest.
    Digest,
}

/// One connection to a registry, for one repository.
pub struct Registry {
    sender: SendRequest<Parts>,
    host: String,
    repository: String,
}

impl Registry {
    /// Connects.
    ///
    /// # Errors
    /// When nobody listens.
    pub async fn connect(at: &At, repository: &str) -> Result<Registry> {
        let doing = "connecting to the registry";
        let (sender, host) = match at {
            At::Tcp(address) => {
                let stream = TcpStream::connect(address).await.doing(doing)?;
                stream.set_nodelay(true).doing(doing)?;
                let (sender, connection) = handshake(TokioIo::new(stream)).await.doing(doing)?;
                tokio::spawn(connection);
                (sender, address.to_string())
            }
            At::Socket(path) => {
                let stream = UnixStream::connect(path).await.doing(doing)?;
                let (sender, connection) = handshake(TokioIo::new(stream)).await.doing(doing)?;
                tokio::spawn(connection);
                (sender, "localhost".to_owned())
            }
        };
        Ok(Registry { sender, host, repository: repository.to_owned() })
    }

    /// Turns to another repository on the same connection.
    pub fn visit(&mut self, repository: &str) {
        if self.repository != repository {
            repository.clone_into(&mut self.repository);
        }
    }

    /// Pushes the empty config that all small artifacts have.
    ///
    /// # Errors
    /// What the registry answered that is not right.
    pub async fn push_config(&mut self) -> Result<()> {
        self.push_blob(&Blob::of(&b"{}"[..])).await
    }

    /// Pushes a blob as an artifact, with the same manifest that Bonded wraps a file in; the empty
    /// config must be there.
    ///
    /// # Errors
    /// What the registry answered that is not right.
    pub async fn push_artifact(&mut self, tag: &str, blob: &Blob) -> Result<Manifest> {
        self.push_blob(blob).await?;
        let (kind, digest) = (media_type::OCTETS, blob.digest);
        let bytes =
            file_manifest(tag, kind, kind, digest, blob.size()).doing("making a manifest")?;
        let bytes = Bytes::from(bytes);
        let manifest = Manifest { tag: tag.to_owned(), digest: Digest::of(&bytes), bytes };
        let path = format!("manifests/{tag}");
        let pushed =
            Blob { parts: [manifest.bytes.clone(), Bytes::new()], digest: manifest.digest };
        let answer =
            self.ask(Method::PUT, &path, media_type::IMAGE_MANIFEST, Some(&pushed)).await?;
        let headers = document(answer, StatusCode::CREATED).await?.0;
        check_digest_if_said(&headers, &manifest.digest)?;
        Ok(manifest)
    }

    /// Pushes a blob.
    ///
    /// # Errors
    /// What the registry answered that is not right.
    pub async fn push_blob(&mut self, blob: &Blob) -> Result<()> {
        let answer = self.ask(Method::POST, "blobs/uploads/", media_type::OCTETS, None).await?;
        let headers = document(answer, StatusCode::ACCEPTED).await?.0;
        let place = header(&headers, LOCATION.as_str()).ok_or(Failed("no Location".to_owned()))?;
        // Some answer with a whole URL.
        let place = place.strip_prefix(&format!("http://{}", self.host)).unwrap_or(place);
        let joint = if place.contains('?') { '&' } else { '?' };
        let path = format!("{place}{joint}digest={}", blob.digest);
        let answer = self.ask(Method::PUT, &path, media_type::OCTETS, Some(blob)).await?;
        let headers = document(answer, StatusCode::CREATED).await?.0;
        check_digest_if_said(&headers, &blob.digest)
    }

    /// Pulls a blob and hashes it.
    ///
    /// # Errors
    /// What the registry answered that is not right.
    pub async fn pull_blob(&mut self, digest: &Digest, size: u64) -> Result<()> {
        let answer = self.ask(Method::GET, &format!("blobs/{digest}"), "", None).await?;
        let (parts, mut body) = answer.into_parts();
        check_status(parts.status, StatusCode::OK)?;
        check_digest(&parts.headers, digest)?;
        check_length(&parts.headers, size)?;
        let (mut hasher, mut n_bytes) = (Hasher::new(Algorithm::Sha256), 0);
        while let Some(frame) = timely(body.frame()).await? {
            if let Ok(bytes) = frame.doing("reading a blob")?.into_data() {
                hasher.update(&bytes);
                n_bytes += bytes.len() as u64;
            }
        }
        let actual = hasher.finish();
        expect("bytes", n_bytes, size)?;
        expect("digest of the bytes", actual, *digest)
    }

    /// Pulls a manifest and compares it byte by byte.
    ///
    /// # Errors
    /// What the registry answered that is not right.
    pub async fn pull_manifest(&mut self, manifest: &Manifest, by: By) -> Result<()> {
        let answer = self.ask(Method::GET, &place_of(manifest, by), "", None).await?;
        let (headers, body) = document(answer, StatusCode::OK).await?;
        check_manifest(&headers, manifest)?;
        match body == manifest.bytes {
            true => Ok(()),
            false => Err(Failed("other bytes than were pushed".to_owned())),
        }
    }

    /// Asks whether a manifest is there.
    ///
    /// # Errors
    /// What the registry answered that is not right.
    pub async fn head_manifest(&mut self, manifest: &Manifest, by: By) -> Result<()> {
        let answer = self.ask(Method::HEAD, &place_of(manifest, by), "", None).await?;
        let (headers, _) = document(answer, StatusCode::OK).await?;
        check_manifest(&headers, manifest)
    }

    /// Lists the tags, which must be these, in the order of their bytes.
    ///
    /// # Errors
    /// What the registry answered that is not right.
    pub async fn list_tags(&mut self, expected: &[String]) -> Result<()> {
        #[derive(Deserialize)]
        struct List {
            name: String,
            tags: Vec<String>,
        }
        let answer = self.ask(Method::GET, "tags/list", "", None).await?;
        let (_, body) = document(answer, StatusCode::OK).await?;
        let list: List = serde_json::from_slice(&body).doing("reading the list of tags")?;
        expect("name", list.name.as_str(), self.repository.as_str())?;
        match list.tags == expected {
            true => Ok(()),
            false => Err(Failed(format!("other tags: {} of them", list.tags.len()))),
        }
    }

    /// Makes one request; `path` is below the repository unless it begins with a slash.
    async fn ask(
        &mut self,
        method: Method,
        path: &str,
        kind: &str,
        body: Option<&Blob>,
    ) -> Result<Response<Incoming>> {
        let uri = match path.starts_with('/') {
            true => path.to_owned(),
            false => format!("/v2/{}/{path}", self.repository),
        };
        let mut request = Request::builder().method(method).uri(uri).header(HOST, &self.host);
        request = match kind {
            "" => request.header(ACCEPT, media_type::IMAGE_MANIFEST),
            kind => request.header(CONTENT_TYPE, kind),
        };
        let body = Parts(body.map_or([const { Bytes::new() }; 2], |body| body.parts.clone()));
        let request = request.body(body).doing("making a request")?;
        let asking = async {
            self.sender.ready().await.doing("waiting for the registry")?;
            self.sender.send_request(request).await.doing("asking the registry")
        };
        timely(asking).await?
    }
}

async fn timely<T>(waiting: impl Future<Output = T>) -> Result<T> {
    timeout(ANSWERS_WITHIN, waiting).await.doing("waiting for an answer")
}

/// The header and the whole body of an answer that must have this status.
async fn document(answer: Response<Incoming>, status: StatusCode) -> Result<(HeaderMap, Bytes)> {
    let (parts, mut body) = answer.into_parts();
    let mut bytes = BytesMut::new();
    while let Some(frame) = timely(body.frame()).await? {
        if let Ok(piece) = frame.doing("reading an answer")?.into_data() {
            bytes.extend_from_slice(&piece);
        }
        if bytes.len() > DOCUMENT {
            return Err(Failed("an endless answer".to_owned()));
        }
    }
    if parts.status != status {
        let text: String = String::from_utf8_lossy(&bytes).chars().take(200).collect();
        return Err(Failed(format!("{} and not {status}: {}", parts.status, text.trim())));
    }
    Ok((parts.headers, bytes.freeze()))
}

fn place_of(manifest: &Manifest, by: By) -> String {
    match by {
        By::Tag => format!("manifests/{}", manifest.tag),
        By::Digest => format!("manifests/{}", manifest.digest),
    }
}

fn check_manifest(headers: &HeaderMap, manifest: &Manifest) -> Result<()> {
    check_digest(headers, &manifest.digest)?;
    check_length(headers, manifest.bytes.len() as u64)?;
    let kind = header(headers, CONTENT_TYPE.as_str()).unwrap_or_default();
    expect("Content-Type", kind, media_type::IMAGE_MANIFEST)
}

fn check_status(actual: StatusCode, status: StatusCode) -> Result<()> {
    expect("status", actual, status)
}

fn check_digest(headers: &HeaderMap, digest: &Digest) -> Result<()> {
    let said = header(headers, CONTENT_DIGEST).unwrap_or_default();
    match said.parse() == Ok(*digest) {
        true => Ok(()),
        false => Err(Failed(format!("Docker-Content-Digest {said:?} and not {digest}"))),
    }
}

/// After a push the specification leaves it to the registry whether to say it again.
fn check_digest_if_said(headers: &HeaderMap, digest: &Digest) -> Result<()> {
    match headers.contains_key(CONTENT_DIGEST) {
        true => check_digest(headers, digest),
        false => Ok(()),
    }
}

fn check_length(headers: &HeaderMap, size: u64) -> Result<()> {
    let said = header(headers, CONTENT_LENGTH.as_str()).unwrap_or_default();
    match said.parse() == Ok(size) {
        true => Ok(()),
        false => Err(Failed(format!("Content-Length {said:?} and not {size}"))),
    }
}

fn expect<T: PartialEq + Display>(what: &str, actual: T, expected: T) -> Result<()> {
    match actual == expected {
        true => Ok(()),
        false => Err(Failed(format!("{what} {actual} and not {expected}"))),
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The body of a request: the parts of a blob, one after the other, never copied.
struct Parts([Bytes; 2]);

impl Body for Parts {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Self::Error>>> {
        let next = self.0.iter_mut().find(|part| !part.is_empty());
        Poll::Ready(next.map(|part| Ok(Frame::data(std::mem::take(part)))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.iter().all(Bytes::is_empty)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.iter().map(|part| part.len() as u64).sum())
    }
}
