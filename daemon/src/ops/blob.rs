//! `GET /v1/workspaces/W/artifacts/DIGEST/blobs/DIGEST`: one member, checked: as a read-only
//! descriptor of the file that was just hashed, or as bytes whose last ones come only after the
//! digest of all of them agrees.

use std::io;

use cas::digest::Digest;
use cas::workspace::Workspace;
use cas::{Sealed, Stop};
use wire::{Code, Problem};

use crate::answer::Answer;
use crate::ask::Ask;
use crate::bridge::Kind;
use crate::outgoing::{self, Outgoing};
use crate::policy::Right;
use crate::refusal;

/// What is asked for.
struct Wanted {
    workspace: Workspace,
    artifact: Digest,
    member: Digest,
}

impl Wanted {
    fn sealed(&self, store: &cas::Store) -> Result<Sealed, Problem> {
        store
            .sealed(&self.workspace, &self.artifact)
            .map_err(|e| refusal::inside(e, &self.artifact.to_string(), &self.workspace))
    }

    fn told(&self, error: cas::Error) -> Problem {
        refusal::inside(error, &self.member.to_string(), &self.workspace)
    }
}

pub(super) async fn run(ask: &mut Ask) -> Result<Answer, Problem> {
    ask.query(&[])?;
    let workspace = ask.workspace()?;
    let artifact = ask.digest()?;
    let member = ask.member()?;
    let as_descriptor = ask.accepts_descriptor()?;
    ask.check(Right::Read, &workspace, Some(&artifact.to_string()))?;
    let wanted = Wanted { workspace, artifact, member };
    match as_descriptor {
        true => descriptor(ask, wanted).await,
        false => stream(ask, wanted).await,
    }
}

async fn descriptor(ask: &Ask, wanted: Wanted) -> Result<Answer, Problem> {
    let store = ask.app.store.clone();
    let hash = move |stop: &Stop| {
        let sealed = wanted.sealed(&store)?.stopped_by(stop);
        let blob = sealed.blob(&wanted.member).map_err(|e| wanted.told(e))?;
        blob.descriptor().map_err(|error| {
            tracing::error!(digest = %wanted.member, %error, "a checked file could not be opened");
            Problem::new(Code::StoreIo, "the checked file could not be handed over")
        })
    };
    ask.run_while_wanted(Kind::Hashing, hash).await.map(Answer::descriptor)
}

async fn stream(ask: &Ask, wanted: Wanted) -> Result<Answer, Problem> {
    let store = ask.app.store.clone();
    let open = move || {
        let sealed = wanted.sealed(&store)?;
        let reader = sealed.stream(&wanted.member).map_err(|e| wanted.told(e))?;
        let size = reader.size();
        Ok(Outgoing { reader, size, broken: move |error: &_| broken(&wanted, error) })
    };
    let (pieces, size) = outgoing::start(ask, open).await?;
    Ok(Answer::stream(pieces, size))
}

/// A member that failed before its answer began. The reader found out and had it quarantined.
fn broken(wanted: &Wanted, error: &io::Error) -> Problem {
    let Wanted { artifact, member, .. } = wanted;
    if error.kind() == io::ErrorKind::InvalidData {
        let file = format!("blobs/{}/{}", member.algorithm().name(), member.hex());
        let message = format!("{artifact} is damaged: {file} is not what it was");
        return Problem::new(Code::Corrupt, message)
            .about(*artifact)
            .file(file)
            .hint(refusal::HEAL_HINT);
    }
    tracing::error!(digest = %member, %error, "a blob could not be read");
    Problem::new(Code::StoreIo, format!("the store's disk failed: {}", error.kind()))
}
