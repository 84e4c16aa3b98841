//! `POST /v2/**/blobs/uploads/`: begins an upload; or takes a whole blob at once (`digest`); or
//! lists a blob that the workspace has already (`mount`), with or without being told where.

use cas::UploadId;
use cas::digest::{Algorithm, Digest};
use http::{HeaderValue, StatusCode, header};

use super::{UPLOAD_UUID, bring, job, made, query, repository, target, text};
use crate::answer::Answer;
use crate::ask::Ask;
use crate::bridge;
use crate::policy::Right;
use crate::status;
use crate::v2::fault::{Fault, Kind};
use crate::v2::path::{self, Access, Target};

pub(super) async fn run(ask: &mut Ask) -> Result<Answer, Fault> {
    let target = target(ask, Access::Write, Right::Put)?;
    let query = query(ask)?;
    let algorithm = algorithm(query.once("digest-algorithm")?)?;
    if let Some(digest) = query.once("mount")? {
        let digest = path::digest(digest)?;
        ask.record.digest = Some(digest);
        if mount(ask, &target, digest, query.once("from")?).await? {
            return made(&target.blob(&digest), &digest);
        }
    } else if let Some(digest) = query.once("digest")? {
        let digest = path::digest(digest)?;
        take(ask, &target, digest).await?;
        return made(&target.blob(&digest), &digest);
    }
    let (owner, repository) = (ask.caller.peer.owner(), repository(ask, &target));
    let make = |id: &UploadId| repository.upload(id.clone(), &owner, algorithm);
    let id = ask.app.uploads.begin(&owner, &target, make)?;
    so_far(status::ACCEPTED, &target, &id.to_string(), 0)
}

fn algorithm(name: Option<&str>) -> Result<Algorithm, Fault> {
    let Some(name) = name else {
        return Ok(Algorithm::Sha256);
    };
    Algorithm::from_name(name).ok_or_else(|| {
        let message = format!("{name:.40?} is not supported: sha256 and sha512 are");
        Fault::new(Kind::DigestInvalid, message)
    })
}

/// Lists a blob that another repository of the workspace has; says whether there was one.
async fn mount(
    ask: &Ask,
    target: &Target,
    digest: Digest,
    from: Option<&str>,
) -> Result<bool, Fault> {
    // Who may not read here must not learn by mounting what is here.
    let rights = ask.app.policy.rights(&ask.caller.peer, target.workspace.as_str());
    if !rights.has(Right::Read) {
        return Ok(false);
    }
    let from = match from.filter(|name| !name.is_empty()) {
        None => None,
        // No mount crosses workspaces, and what is no name has nothing: the client uploads then.
        Some(name) => match target.beside(name) {
            Ok(from) if from.workspace == target.workspace => Some(from.repository),
            Ok(_) | Err(_) => return Ok(false),
        },
    };
    let repository = repository(ask, target);
    let mount = move || Ok(repository.mount(&digest, from.as_ref())?.is_some());
    job(ask, bridge::Kind::Short, mount).await
}

/// Takes the request's body in as a blob: durable, and listed in the repository.
pub(super) async fn take(ask: &mut Ask, target: &Target, digest: Digest) -> Result<(), Fault> {
    ask.record.digest = Some(digest);
    let repository = repository(ask, target);
    bring(ask, move |source, size| {
        repository.take(&digest, size, source)?;
        Ok(())
    })
    .await
}

/// Where an upload goes on, and how far it has come.
pub(super) fn so_far(
    status: StatusCode,
    target: &Target,
    id: &str,
    offset: u64,
) -> Result<Answer, Fault> {
    Ok(Answer::empty(status)
        .header(header::LOCATION, text(&target.upload(id))?)
        .header(header::RANGE, text(&come_so_far(offset))?)
        .header(UPLOAD_UUID, HeaderValue::from_str(id).unwrap_or(HeaderValue::from_static(""))))
}

/// The last byte counts, so nothing at all reads like one byte: clients know it so.
pub(super) fn come_so_far(offset: u64) -> String {
    format!("0-{}", offset.saturating_sub(1))
}
