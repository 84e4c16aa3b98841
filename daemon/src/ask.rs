//! One request as an op sees it: who asks, about what, and what came with it.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use cas::Stop;
use cas::digest::{Digest, ParseError};
use cas::workspace::Workspace;
use http::HeaderMap;
use http::request::Parts;
use hyper::body::Incoming;
use wire::api::{ACCEPT_DESCRIPTORS, DESCRIPTORS};
use wire::stream::Descriptors;
use wire::{Code, Problem};

use crate::app::App;
use crate::bridge::{Kind, Wanted};
use crate::peer::{Peer, Whom};
use crate::policy::Right;
use crate::query::{Query, decode};
use crate::record::Record;
use crate::refusal;
use crate::routes::Captures;
use crate::v2::login::Visitor;

/// By which way a connection came in.
#[derive(Clone)]
pub enum Door {
    /// The Unix socket: all of the API, and the kernel says who it is.
    Socket,
    /// The TCP listener in plain HTTP: the front door alone, and nobody says who it is.
    Plain,
    /// The TCP listener over TLS: the front door alone, and each request says who it is.
    Tls(Arc<Visitor>),
}

/// A connection, as its requests see it.
#[derive(Clone)]
pub struct Caller {
    /// By which way it came.
    pub door: Door,
    /// Who is at the other end; over TLS nobody in particular, until a request said who it is.
    pub peer: Arc<Peer>,
    /// The connection's number.
    pub connection: u64,
    /// Descriptors on their way in and out.
    pub descriptors: Descriptors,
}

impl Caller {
    /// By what the connection's limits are counted, as far as is known.
    pub fn whom(&self) -> Whom {
        match &self.door {
            Door::Socket | Door::Plain => self.peer.whom(),
            Door::Tls(visitor) => visitor.whom(),
        }
    }
}

/// One request.
pub struct Ask {
    /// The daemon.
    pub app: Arc<App>,
    /// Who asks.
    pub caller: Caller,
    /// The request's line and header.
    pub head: Parts,
    /// Its body.
    pub body: Incoming,
    /// The descriptor that came with it.
    pub descriptor: Option<OwnedFd>,
    /// What the log is going to say.
    pub record: Record,
}

impl Ask {
    /// A request whose header was read. A descriptor that came with it is taken now, whatever the
    /// op does: one that is not for this request must not be found by the next.
    pub fn new(app: Arc<App>, caller: Caller, head: Parts, body: Incoming, record: Record) -> Ask {
        let descriptor = caller.descriptors.take();
        Ask { app, caller, head, body, descriptor, record }
    }

    /// Whether as many descriptors came as the header says.
    ///
    /// # Errors
    /// [`Code::DescriptorRefused`].
    pub fn check_descriptors(&self) -> Result<(), Problem> {
        let message = match (count(&self.head.headers, DESCRIPTORS), &self.descriptor) {
            (Some(0), None) | (Some(1), Some(_)) => return Ok(()),
            (Some(1), None) => "no descriptor came with the request",
            (Some(0), Some(_)) => "a descriptor came with a request that announced none",
            _ => "a request comes with at most one descriptor",
        };
        Err(Problem::new(Code::DescriptorRefused, message))
    }

    /// Runs a blocking job for the peer.
    ///
    /// # Errors
    /// The job's own, [`Code::Busy`], [`Code::Internal`].
    pub async fn run<T: Send + 'static>(
        &self,
        kind: Kind,
        job: impl FnOnce() -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        self.app.bridge.run(kind, self.caller.peer.whom(), job).await
    }

    /// Runs a long job for the peer; what it is given says when the peer has left.
    ///
    /// # Errors
    /// The job's own, [`Code::Busy`], [`Code::Internal`].
    pub async fn run_while_wanted<T: Send + 'static>(
        &self,
        kind: Kind,
        job: impl FnOnce(&Stop) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let wanted = Wanted::default();
        let stop = wanted.stop().clone();
        self.run(kind, move || job(&stop)).await
    }

    /// The segment of the path at a route's n-th `*`.
    fn segment(&self, n: usize) -> Result<std::borrow::Cow<'_, str>, Problem> {
        let captures: Captures<'_> = crate::routes::find(&self.head.method, self.head.uri.path()).1;
        decode(captures[n])
    }

    /// The draft that the path names.
    ///
    /// # Errors
    /// [`Code::Usage`] when it is no UTF-8.
    pub fn draft(&self) -> Result<String, Problem> {
        self.segment(0).map(std::borrow::Cow::into_owned)
    }

    /// The workspace that the path names.
    ///
    /// # Errors
    /// [`Code::NameInvalid`].
    pub fn workspace(&mut self) -> Result<Workspace, Problem> {
        let workspace: Workspace = self.segment(0)?.parse().map_err(|e| refusal::name(&e))?;
        self.record.workspace = Some(workspace.to_string());
        Ok(workspace)
    }

    /// The digest that the path names in its second place.
    ///
    /// # Errors
    /// [`Code::DigestInvalid`], [`Code::DigestUnsupported`].
    pub fn digest(&mut self) -> Result<Digest, Problem> {
        let digest: Digest = self.segment(1)?.parse().map_err(|e: ParseError| Problem::from(&e))?;
        self.record.digest = Some(digest);
        Ok(digest)
    }

    /// The digest that the path names in its third place.
    ///
    /// # Errors
    /// [`Code::DigestInvalid`], [`Code::DigestUnsupported`].
    pub fn member(&self) -> Result<Digest, Problem> {
        self.segment(2)?.parse().map_err(|e: ParseError| Problem::from(&e))
    }

    /// The query, of which only these keys are known.
    ///
    /// # Errors
    /// [`Code::Usage`].
    pub fn query(&self, known: &[&str]) -> Result<Query, Problem> {
        Query::parse(self.head.uri.query(), known)
    }

    /// Whether the peer may do this with `what` in the workspace, or with the workspace itself.
    ///
    /// # Errors
    /// [`Code::Forbidden`] to a peer that may know of the workspace; to any other the answer that
    /// it would get if nothing were there.
    pub fn check(
        &self,
        right: Right,
        workspace: &Workspace,
        what: Option<&str>,
    ) -> Result<(), Problem> {
        let rights = self.app.policy.rights(&self.caller.peer, workspace.as_str());
        if rights.has(right) {
            return Ok(());
        }
        if !rights.has(Right::Read) {
            return Err(match what {
                Some(what) => refusal::not_found(what, workspace),
                None => refusal::no_workspace(workspace),
            });
        }
        let (uid, right) = (self.caller.peer.raw_uid(), right.name());
        Err(Problem::new(
            Code::Forbidden,
            format!("uid {uid} may not {right} in the workspace {workspace}"),
        )
        .hint("the policy of bonded says who may"))
    }

    /// Whether the peer keeps the house.
    ///
    /// # Errors
    /// [`Code::Forbidden`].
    pub fn check_admin(&self) -> Result<(), Problem> {
        if self.app.policy.is_admin(&self.caller.peer) {
            return Ok(());
        }
        let uid = self.caller.peer.raw_uid();
        Err(Problem::new(Code::Forbidden, format!("uid {uid} may not administer this store"))
            .hint("the policy of bonded gives the right \"admin\""))
    }

    /// Whether the answer may come as a descriptor.
    ///
    /// # Errors
    /// [`Code::Usage`] when the header makes no sense.
    pub fn accepts_descriptor(&self) -> Result<bool, Problem> {
        count(&self.head.headers, ACCEPT_DESCRIPTORS).map(|n| n > 0).ok_or_else(|| {
            Problem::new(Code::Usage, format!("{ACCEPT_DESCRIPTORS} is a number, 0 or 1"))
        })
    }
}

/// The number in a header; 0 when it is absent, `None` when it makes no sense.
fn count(headers: &HeaderMap, name: &str) -> Option<u8> {
    match headers.get(name) {
        None => Some(0),
        Some(value) => value.to_str().ok()?.parse().ok(),
    }
}
