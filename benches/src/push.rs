//! A client of a registry, as small and as fast as it can be: it pushes small artifacts over HTTP.
//!
//! The distribution specification 1.1, "Pushing": POST opens an upload, PUT brings a blob, PUT brings
//! the manifest by its tag.

use std::net::SocketAddr;

use bytes::Bytes;
use cas::digest::Digest;
use cas::oci::{file_manifest, media_type};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST, LOCATION};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::measure::{Doing, Failed, Result};

/// One connection to a registry.
pub(crate) struct Registry {
    sender: SendRequest<Full<Bytes>>,
    host: String,
    repository: String,
}

impl Registry {
    /// Connects, and pushes the empty config that all small artifacts have.
    pub(crate) async fn connect(address: SocketAddr, repository: String) -> Result<Registry> {
        let stream = TcpStream::connect(address).await.doing("connecting to the registry")?;
        stream.set_nodelay(true).doing("connecting to the registry")?;
        let (sender, connection) =
            handshake(TokioIo::new(stream)).await.doing("connecting to the registry")?;
        tokio::spawn(connection);
        let mut registry = Registry { sender, host: address.to_string(), repository };
        registry.push_blob(Bytes::from_static(b"{}"), &Digest::of(b"{}")).await?;
        Ok(registry)
    }

    /// Pushes a file as an artifact, with the same manifest that Bonded wraps it in.
    pub(crate) async fn push_file(&mut self, title: &str, bytes: Bytes) -> Result<()> {
        let (digest, size) = (Digest::of(&bytes), bytes.len() as u64);
        self.push_blob(bytes, &digest).await?;
        let manifest = file_manifest(title, media_type::OCTETS, media_type::OCTETS, digest, size)
            .doing("making a manifest")?;
        let path = format!("/v2/{}/manifests/{title}", self.repository);
        self.ask(Method::PUT, &path, media_type::IMAGE_MANIFEST, manifest.into()).await?;
        Ok(())
    }

    async fn push_blob(&mut self, bytes: Bytes, digest: &Digest) -> Result<()> {
        let path = format!("/v2/{}/blobs/uploads/", self.repository);
        let place = self.ask(Method::POST, &path, media_type::OCTETS, Bytes::new()).await?;
        let joint = if place.contains('?') { '&' } else { '?' };
        let path = format!("{place}{joint}digest={digest}");
        self.ask(Method::PUT, &path, media_type::OCTETS, bytes).await?;
        Ok(())
    }

    /// Makes one request. Answers with the path that the answer's `Location` leads to.
    async fn ask(&mut self, method: Method, path: &str, kind: &str, body: Bytes) -> Result<String> {
        let request = Request::builder()
            .method(&method)
            .uri(path)
            .header(HOST, &self.host)
            .header(CONTENT_TYPE, kind)
            .body(Full::new(body))
            .doing("making a request")?;
        self.sender.ready().await.doing("waiting for the registry")?;
        let answer = self.sender.send_request(request).await.doing("asking the registry")?;
        let (parts, body) = answer.into_parts();
        let body = body.collect().await.doing("reading the registry's answer")?.to_bytes();
        if !matches!(parts.status, StatusCode::CREATED | StatusCode::ACCEPTED) {
            let text = String::from_utf8_lossy(&body);
            return Err(Failed(format!("{method} {path}: {}: {text}", parts.status)));
        }
        let location = parts.headers.get(LOCATION).and_then(|value| value.to_str().ok());
        let location = location.unwrap_or_default();
        // Some answer with a whole URL.
        let prefix = format!("http://{}", self.host);
        Ok(location.strip_prefix(&prefix).unwrap_or(location).to_owned())
    }
}
