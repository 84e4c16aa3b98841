//! `GET /v1/workspaces/W/artifacts/DIGEST/blobs/DIGEST`: one member, checked: as a read-only
//! descriptor of the file that was just hashed, or as bytes whose last ones come only after the
//! digest of all of them agrees.

use std::io::{self, Read as _};

use bytes::Bytes;
use cas::digest::Digest;
use cas::workspace::Workspace;
use cas::{Sealed, Stop};
use tokio::sync::mpsc::{Sender, channel};
use tokio::sync::oneshot;
use wire::{Code, Problem};

use crate::answer::Answer;
use crate::ask::Ask;
use crate::bridge::Kind;
use crate::policy::Right;
use crate::refusal;

/// Bytes handed to the connection at once.
const PIECE: usize = 128 << 10;
/// Pieces between the job and the connection.
const N_PIECES: usize = 4;

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

/// The job goes at the peer's pace and ends when the connection does. The first piece is read
/// before the answer begins, so that damage to a small blob is told in words.
async fn stream(ask: &Ask, wanted: Wanted) -> Result<Answer, Problem> {
    let store = ask.app.store.clone();
    let (begin, begun) = oneshot::channel();
    let (pieces, coming) = channel(N_PIECES);
    let place = ask.app.bridge.place(Kind::Sending, ask.caller.peer.raw_uid()).await?;
    place.start(move || {
        let opened = wanted.sealed(&store).and_then(|sealed| {
            let mut reader = sealed.stream(&wanted.member).map_err(|e| wanted.told(e))?;
            let size = reader.size();
            match piece(&mut reader, size) {
                Ok(first) => Ok((size, first, reader)),
                Err(error) => Err(broken(&wanted, &error)),
            }
        });
        match opened {
            Err(problem) => drop(begin.send(Err(problem))),
            Ok((size, first, reader)) => {
                if begin.send(Ok(size)).is_ok() {
                    pass_on(reader, size, first, &pieces);
                }
            }
        }
    });
    let size = begun.await.map_err(|_| Problem::new(Code::Internal, "the reading job died"))??;
    Ok(Answer::stream(coming, size))
}

fn pass_on(
    mut reader: cas::reader::Verified,
    size: u64,
    first: Bytes,
    pieces: &Sender<io::Result<Bytes>>,
) {
    let mut left = size.saturating_sub(first.len() as u64);
    if pieces.blocking_send(Ok(first)).is_err() {
        return;
    }
    while left > 0 {
        let next = match piece(&mut reader, left) {
            Ok(bytes) if bytes.is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
            other => other,
        };
        left = left.saturating_sub(next.as_ref().map_or(left, |bytes| bytes.len() as u64));
        // An error ends the answer before its announced length, and so does a peer that left.
        if pieces.blocking_send(next).is_err() {
            return;
        }
    }
}

fn piece(reader: &mut cas::reader::Verified, left: u64) -> io::Result<Bytes> {
    let mut bytes = vec![0; PIECE.min(usize::try_from(left).unwrap_or(PIECE))];
    let mut filled = 0;
    while filled < bytes.len() {
        match reader.read(&mut bytes[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes.into())
}

/// A member that failed before its first piece. The reader found out and had it quarantined.
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
