//! The verbs of the front door, one a file: parse, find, check rights, act, answer.
//!
//! Rights are those of the control plane: to read needs `read`, to push `put`, to delete `retire`.
//! A workspace that the peer may not read is answered for as if it were not there.

use std::fmt::Display;

use cas::Repository;
use cas::digest::Digest;
use cas::workspace::Workspace;
use http::{HeaderName, HeaderValue, header};
use wire::api::WORKSPACE;

use crate::answer::Answer;
use crate::ask::{Ask, Door};
use crate::body;
use crate::bridge;
use crate::policy::Right;
use crate::query::Query;
use crate::routes::{self, Op};
use crate::status;
use crate::v2::fault::{Fault, Kind};
use crate::v2::path::{Access, Path, Target};
use crate::v2::{listener, login};

mod base;
mod blob_delete;
mod blob_get;
mod blob_head;
mod manifest_delete;
mod manifest_get;
mod manifest_head;
mod manifest_put;
mod referrers;
mod tags;
mod upload_begin;
mod upload_cancel;
mod upload_patch;
mod upload_put;
mod upload_status;

const VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const UPLOAD_UUID: HeaderName = HeaderName::from_static("docker-upload-uuid");
const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const TAG: HeaderName = HeaderName::from_static("oci-tag");
const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

/// Runs the op of a request to the front door.
///
/// # Errors
/// What the peer is to be told.
pub async fn run(op: Op, ask: &mut Ask) -> Result<Answer, Fault> {
    admit(op, ask).await?;
    dispatch(op, ask).await.map(signed)
}

/// What the peer is told of a fault.
pub fn told(fault: Fault) -> Answer {
    let (status, headers, body) = fault.answer();
    let mut answer = Answer::bytes(status, body)
        .header(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    for (name, value) in headers {
        answer = answer.header(name, value);
    }
    signed(answer)
}

fn signed(answer: Answer) -> Answer {
    answer.header(VERSION, HeaderValue::from_static("registry/2.0"))
}

async fn admit(op: Op, ask: &mut Ask) -> Result<(), Fault> {
    match ask.caller.door.clone() {
        Door::Socket => ask.check_descriptors()?,
        Door::Plain => listener::admit_unasked(&ask.head)?,
        Door::Tls(visitor) => {
            listener::admit(&ask.head)?;
            let (is_base, connection) = (op == Op::V2Base, ask.caller.connection);
            let peer = visitor.identify(&ask.app, connection, &ask.head, is_base).await?;
            ask.record.is_of(&peer);
            ask.caller.peer = peer;
        }
    }
    within(ask)?;
    match ask.descriptor {
        None => Ok(()),
        Some(_) => Err(Fault::new(Kind::Unsupported, "no request under /v2/ takes a descriptor")),
    }
}

/// The workspace within which the request is made, if it says so.
///
/// Rights do not hang on it. Off the socket it is refused and not passed over: who believes to be
/// within a workspace would push into another one.
fn within(ask: &Ask) -> Result<Option<Workspace>, Fault> {
    let mut told = ask.head.headers.get_all(WORKSPACE).iter();
    let Some(name) = told.next() else {
        return Ok(None);
    };
    if !matches!(ask.caller.door, Door::Socket) {
        let message = format!("{WORKSPACE} is heard on the socket alone");
        return Err(Fault::new(Kind::Unsupported, message));
    }
    if told.next().is_some() {
        return Err(Fault::new(Kind::Unsupported, format!("{WORKSPACE} comes once")));
    }
    let name = name.to_str().unwrap_or_default();
    let name = name.parse::<Workspace>();
    name.map(Some).map_err(|error| Fault::new(Kind::NameInvalid, error.to_string()))
}

async fn dispatch(op: Op, ask: &mut Ask) -> Result<Answer, Fault> {
    match op {
        Op::V2Base => base::run(ask),
        Op::V2BlobGet => blob_get::run(ask).await,
        Op::V2BlobHead => blob_head::run(ask).await,
        Op::V2BlobDelete => blob_delete::run(ask).await,
        Op::V2UploadBegin => upload_begin::run(ask).await,
        Op::V2UploadStatus => upload_status::run(ask).await,
        Op::V2UploadPatch => upload_patch::run(ask).await,
        Op::V2UploadPut => upload_put::run(ask).await,
        Op::V2UploadCancel => upload_cancel::run(ask).await,
        Op::V2ManifestGet => manifest_get::run(ask).await,
        Op::V2ManifestHead => manifest_head::run(ask).await,
        Op::V2ManifestPut => manifest_put::run(ask).await,
        Op::V2ManifestDelete => manifest_delete::run(ask).await,
        Op::V2Tags => tags::run(ask).await,
        Op::V2Referrers => referrers::run(ask).await,
        _ => Err(unknown(ask)),
    }
}

fn unknown(ask: &Ask) -> Fault {
    let (method, path) = (&ask.head.method, ask.head.uri.path());
    let shown: String = path.chars().take(200).collect();
    match routes::find_at_door(method, path).1 {
        Some(path) => {
            let message = format!("{shown} is not there for {method}");
            let allowed = routes::methods(path.form);
            Fault::new(Kind::NoSuchMethod, message).with(header::ALLOW, &allowed)
        }
        None => Fault::new(Kind::NoSuchPath, format!("there is no {shown}")),
    }
}

// What several verbs do in the same way.

fn path(ask: &Ask) -> Result<Path<'_>, Fault> {
    let path = routes::find_at_door(&ask.head.method, ask.head.uri.path()).1;
    path.ok_or_else(|| Fault::new(Kind::NoSuchPath, "there is no such path"))
}

fn query(ask: &Ask) -> Result<Query, Fault> {
    Ok(Query::lenient(ask.head.uri.query())?)
}

/// The repository that the path names, where the peer may do this.
fn target(ask: &mut Ask, access: Access, right: Right) -> Result<Target, Fault> {
    let within = within(ask)?;
    let target = path(ask)?.target(access, within.as_ref())?;
    ask.record.workspace = Some(target.workspace.to_string());
    let rights = ask.app.policy.rights(&ask.caller.peer, target.workspace.as_str());
    if rights.has(right) {
        return Ok(target);
    }
    // Whoever has not said who it is may turn out to be one who may. It is told the same whether
    // anything is there or not.
    if let Door::Tls(visitor) = &ask.caller.door
        && ask.caller.peer.is_anonymous()
        && visitor.may_log_in()
    {
        return Err(login::unauthorized("this needs a user who may"));
    }
    if !rights.has(Right::Read) {
        return Err(no_repository(&target));
    }
    let message = format!("you may not {} in the workspace {}", right.name(), target.workspace);
    Err(Fault::new(Kind::Denied, message))
}

fn repository(ask: &Ask, target: &Target) -> Repository {
    ask.app.store.repository(&target.workspace, &target.repository)
}

fn no_repository(target: &Target) -> Fault {
    Fault::new(Kind::NameUnknown, format!("there is no repository {target}"))
}

/// An error of the store about something in a repository; `kind` when it is not there.
fn inside(
    error: cas::Error,
    (repository, target): (&Repository, &Target),
    kind: Kind,
    what: &dyn Display,
) -> Fault {
    let cas::Error::NotFound { .. } = error else {
        return Fault::from(error);
    };
    match repository.is_known() {
        Ok(true) => Fault::new(kind, format!("{what} is not in {target}")),
        Ok(false) => no_repository(target),
        Err(error) => Fault::from(error),
    }
}

/// Runs a blocking job for the peer.
async fn job<T: Send + 'static>(
    ask: &Ask,
    kind: bridge::Kind,
    job: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    ask.run(kind, move || Ok(job())).await?
}

/// Hands the request's bytes to a blocking job, and says how many there are when that is known.
async fn bring<T, F>(ask: &mut Ask, job: F) -> Result<T, Fault>
where
    T: Send + 'static,
    F: FnOnce(cas::Source<'_>, Option<u64>) -> Result<T, Fault> + Send + 'static,
{
    let job = move |source: cas::Source<'_>, size| Ok(job(source, size));
    body::bring(ask, body::Range::default(), job).await?
}

/// A header field that says a number.
fn number(n: u64) -> HeaderValue {
    HeaderValue::from(n)
}

/// A header field that says this text.
fn text(text: &str) -> Result<HeaderValue, Fault> {
    HeaderValue::from_str(text).map_err(|_| {
        tracing::error!(text, "this is no text for a header");
        Fault::new(Kind::Broken, "the answer could not be written")
    })
}

fn quoted(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

/// What was made, and where it is.
fn made(location: &str, digest: &Digest) -> Result<Answer, Fault> {
    Ok(Answer::empty(status::MADE)
        .header(header::LOCATION, text(location)?)
        .header(CONTENT_DIGEST, text(&digest.to_string())?))
}
