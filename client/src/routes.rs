//! Each request of `wire::api` as a method of the client.

use std::time::Duration;

use bytes::Bytes;
use cas::digest::Digest;
use http::Method;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;
use wire::api;

use crate::connection::Ask;
use crate::payload::Brings;
use crate::pool::{Client, plain};
use crate::problem::Error;

/// Everything but what RFC 3986 leaves alone everywhere.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What hashing or copying may take: the slowest disk that anybody would run a store on.
const SLOWEST_BYTES_PER_SECOND: u64 = 5 << 20;
/// What checking an artifact of unknown size may take.
pub(crate) const CHECK_PATIENCE: Duration = Duration::from_secs(4 * 3600);
/// A collection paces its deletes.
const GC_PATIENCE: Duration = Duration::from_secs(12 * 3600);
/// Artifacts on a page of a listing.
const PAGE: usize = 1000;

/// How long an answer may take that needs so many bytes hashed: also as long as bonded lets a
/// request wait for its turn (`timeouts.queue`, five minutes).
pub(crate) fn patience(bytes: u64) -> Duration {
    Duration::from_secs(360) + moving(bytes)
}

/// How long the slowest disk takes for so many bytes.
pub(crate) fn moving(bytes: u64) -> Duration {
    Duration::from_secs(bytes / SLOWEST_BYTES_PER_SECOND)
}

/// One piece of a path or query.
pub(crate) fn escape(text: &str) -> impl std::fmt::Display + '_ {
    utf8_percent_encode(text, ESCAPED)
}

/// Appends the values that are there to a path as its query.
pub(crate) fn with_query(path: String, pairs: &[(&str, Option<String>)]) -> String {
    let mut path = path;
    let mut separator = '?';
    for (key, value) in pairs {
        if let Some(value) = value {
            path.push(separator);
            path.push_str(&format!("{key}={}", escape(value)));
            separator = '&';
        }
    }
    path
}

impl Client {
    /// Whether the daemon is alive.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn health(&self) -> Result<api::Health, Error> {
        self.get("asking for health", "/v1/health".to_owned()).await
    }

    /// What the daemon is, and what this user may do.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn status(&self) -> Result<api::Status, Error> {
        self.get("asking for the status", "/v1/status".to_owned()).await
    }

    /// The daemon's metrics as Prometheus text.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn metrics(&self) -> Result<String, Error> {
        let doing = "asking for metrics";
        let bytes = self.call(&plain(doing, Method::GET, "/v1/metrics".to_owned())).await?;
        String::from_utf8(bytes.into())
            .map_err(|error| Error::Odd { doing, reason: error.to_string() })
    }

    /// What the daemon finds when it looks at its own house.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn doctor(&self) -> Result<api::Doctor, Error> {
        let ask = plain("examining the store", Method::GET, "/v1/doctor".to_owned());
        self.json(Ask { patience: CHECK_PATIENCE, ..ask }).await
    }

    /// Frees what nobody holds, or says what that would free.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn gc(&self, dry_run: bool) -> Result<api::Gc, Error> {
        let ask = plain("collecting", Method::POST, format!("/v1/gc?dry_run={dry_run}"));
        self.json(Ask { patience: GC_PATIENCE, ..ask }).await
    }

    /// Which artifact a reference means: a digest, the start of one, `NAME:TAG`, or a handle's path.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn resolve(&self, reference: &str) -> Result<Digest, Error> {
        let path = with_query(self.here("refs"), &[("ref", Some(reference.to_owned()))]);
        let resolved: api::Resolved = self.get("resolving", path).await?;
        Ok(resolved.digest)
    }

    /// All artifacts of the workspace, ordered by digest.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list(&self) -> Result<Vec<api::Artifact>, Error> {
        let mut artifacts = Vec::new();
        let mut after: Option<Digest> = None;
        loop {
            let query =
                [("after", after.map(|d| d.to_string())), ("limit", Some(PAGE.to_string()))];
            let path = with_query(self.here("artifacts"), &query);
            let page: api::Artifacts = self.get("listing", path).await?;
            artifacts.extend(page.artifacts);
            match page.next {
                // A daemon that goes round in circles is not followed.
                Some(next) if after.is_none_or(|after| next > after) => after = Some(next),
                _ => return Ok(artifacts),
            }
        }
    }

    /// What hangs on an artifact.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn closure(&self, artifact: &Digest) -> Result<api::Closure, Error> {
        self.get("reading the artifact", self.artifact(artifact)).await
    }

    /// Hashes every byte of an artifact now. `size` is the artifact's, where it is known: it says
    /// how long that may take.
    ///
    /// # Errors
    /// See [`Error`]; [`wire::Code::Corrupt`] among what the daemon answers.
    pub async fn check(&self, artifact: &Digest, size: Option<u64>) -> Result<api::Checked, Error> {
        let path = format!("{}/check", self.artifact(artifact));
        let ask = plain("checking", Method::POST, path);
        self.json(Ask { patience: size.map_or(CHECK_PATIENCE, patience), ..ask }).await
    }

    /// Ends the workspace's hold on an artifact.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn retire(&self, artifact: &Digest) -> Result<api::Retired, Error> {
        self.json(plain("retiring", Method::DELETE, self.artifact(artifact))).await
    }

    /// Who holds a blob or artifact.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn holders(&self, digest: &Digest) -> Result<api::Holders, Error> {
        self.get("asking who holds it", self.here(&format!("holders/{digest}"))).await
    }

    pub(crate) async fn open_draft(&self) -> Result<String, Error> {
        let ask = plain("opening a draft", Method::POST, self.here("drafts"));
        let opened: api::DraftOpened = self.json(ask).await?;
        Ok(opened.draft)
    }

    /// Brings one blob or manifest of a draft.
    pub(crate) async fn bring(
        &self,
        draft: &str,
        digest: &Digest,
        size: u64,
        offset: u64,
        brings: Brings,
    ) -> Result<api::Taken, Error> {
        let offset = matches!(brings, Brings::Descriptor(_)).then(|| offset.to_string());
        let path = format!("/v1/drafts/{}/blobs/{digest}", escape(draft));
        let path = with_query(path, &[("size", Some(size.to_string())), ("offset", offset)]);
        let ask = plain("putting a blob", Method::PUT, path);
        self.json(Ask { brings, patience: patience(size), ..ask }).await
    }

    pub(crate) async fn draft_progress(&self, draft: &str) -> Result<api::DraftProgress, Error> {
        self.get("asking how far it is", format!("/v1/drafts/{}", escape(draft))).await
    }

    pub(crate) async fn seal(
        &self,
        draft: &str,
        seal: &api::Seal,
        size: u64,
    ) -> Result<api::Put, Error> {
        let doing = "sealing";
        let bytes = serde_json::to_vec(seal)
            .map_err(|error| Error::Odd { doing, reason: error.to_string() })?;
        let ask = plain(doing, Method::POST, format!("/v1/drafts/{}/seal", escape(draft)));
        self.json(Ask { brings: Brings::Bytes(bytes.into()), patience: patience(size), ..ask })
            .await
    }

    pub(crate) async fn give_up_draft(&self, draft: &str) -> Result<(), Error> {
        let path = format!("/v1/drafts/{}", escape(draft));
        self.call(&plain("giving up a draft", Method::DELETE, path)).await.map(|_: Bytes| ())
    }

    pub(crate) async fn bring_file(
        &self,
        query: &api::FileQuery,
        brings: Brings,
    ) -> Result<api::Put, Error> {
        let api::FileQuery { title, size, offset, media_type, artifact_type, digest, names } =
            query;
        let pairs = [
            ("title", Some(title.clone())),
            ("size", size.map(|n| n.to_string())),
            ("offset", offset.map(|n| n.to_string())),
            ("media_type", media_type.clone()),
            ("artifact_type", artifact_type.clone()),
            ("digest", digest.map(|d| d.to_string())),
            ("names", names.clone()),
        ];
        let ask = plain("putting a file", Method::POST, with_query(self.here("files"), &pairs));
        // How long a stream takes is its writer's business; what follows it is not.
        let patience = patience(size.unwrap_or(0));
        // The same bytes twice are one artifact.
        self.json(Ask { brings, patience, is_idempotent: true, ..ask }).await
    }

    /// The request for the bytes of one member.
    pub(crate) fn blob(&self, artifact: &Digest, member: &Digest, size: u64) -> Ask {
        let path = format!("{}/blobs/{member}", self.artifact(artifact));
        Ask { patience: patience(size), ..plain("getting a blob", Method::GET, path) }
    }

    fn here(&self, rest: &str) -> String {
        format!("/v1/workspaces/{}/{rest}", escape(self.workspace().as_str()))
    }

    fn artifact(&self, digest: &Digest) -> String {
        self.here(&format!("artifacts/{digest}"))
    }

    async fn get<T: DeserializeOwned>(
        &self,
        doing: &'static str,
        path: String,
    ) -> Result<T, Error> {
        self.json(plain(doing, Method::GET, path)).await
    }

    async fn json<T: DeserializeOwned>(&self, ask: Ask) -> Result<T, Error> {
        let bytes = self.call(&ask).await?;
        serde_json::from_slice(&bytes)
            .map_err(|error| Error::Odd { doing: ask.doing, reason: error.to_string() })
    }
}
