//! What the daemon does, one verb a file: parse, find, check rights, act, answer.

use cas::digest::Digest;
use cas::workspace::Name;
use http::{HeaderValue, header};
use wire::api::{MOST_NAMES, OciLayoutHandle, PersistenceHandle};
use wire::{Code, Problem};

use crate::answer::Answer;
use crate::ask::{Ask, Door};
use crate::body;
use crate::metrics::{End, Metrics};
use crate::refusal;
use crate::routes::{self, Op};
use crate::v2::path;

mod artifact;
mod artifacts;
mod blob;
mod check;
mod doctor;
mod draft_blob;
mod draft_drop;
mod draft_open;
mod draft_progress;
mod draft_seal;
mod file_put;
mod gc;
mod health;
mod holders;
mod metrics;
pub(crate) mod openapi;
mod refs;
mod retire;
mod status;
pub mod v2;

/// Runs the op of a request: what the peer is told, and how it ended.
pub async fn run(op: Op, ask: &mut Ask) -> (Answer, End) {
    let is_at_door = path::is_ours(ask.head.uri.path());
    if let Err(problem) = wire::framing::check(&ask.head) {
        let end = End::Failed(problem.code);
        let answer = match is_at_door {
            true => v2::told(problem.into()),
            false => Answer::problem(problem),
        };
        return (answer.header(header::CONNECTION, HeaderValue::from_static("close")), end);
    }
    let outcome = match is_at_door {
        true => v2::run(op, ask).await.map_err(|fault| (fault.code, v2::told(fault))),
        false => {
            let told = |problem: Problem| (problem.code, Answer::problem(problem));
            dispatch(op, ask).await.map_err(told)
        }
    };
    match outcome {
        Ok(answer) => (answer, End::Done),
        Err((code, answer)) => {
            // Who waits for a word before it sends its body has sent none.
            if !ask.head.headers.contains_key(header::EXPECT) {
                body::drain(&mut ask.body).await;
            }
            (answer, End::Failed(code))
        }
    }
}

async fn dispatch(op: Op, ask: &mut Ask) -> Result<Answer, Problem> {
    ask.check_descriptors()?;
    if !matches!(ask.caller.door, Door::Socket) {
        return Err(Problem::new(Code::NotFound, "only /v2/ is here"));
    }
    match op {
        Op::OpenApi => openapi::run(ask),
        Op::Health => health::run(ask),
        Op::Metrics => metrics::run(ask).await,
        Op::Status => status::run(ask).await,
        Op::Doctor => doctor::run(ask).await,
        Op::Gc => gc::run(ask).await,
        Op::DraftOpen => draft_open::run(ask).await,
        Op::DraftBlob => draft_blob::run(ask).await,
        Op::DraftProgress => draft_progress::run(ask),
        Op::DraftSeal => draft_seal::run(ask).await,
        Op::DraftDrop => draft_drop::run(ask).await,
        Op::FilePut => file_put::run(ask).await,
        Op::Refs => refs::run(ask).await,
        Op::Artifacts => artifacts::run(ask).await,
        Op::Artifact => artifact::run(ask).await,
        Op::Check => check::run(ask).await,
        Op::Blob => blob::run(ask).await,
        Op::Retire => retire::run(ask).await,
        Op::Holders => holders::run(ask).await,
        _ => Err(unknown(ask)),
    }
}

fn unknown(ask: &Ask) -> Problem {
    let (method, path) = (&ask.head.method, ask.head.uri.path());
    let path: String = path.chars().take(200).collect();
    if routes::is_path(&path) {
        return Problem::new(Code::Usage, format!("{path} is not there for {method}"));
    }
    Problem::new(Code::NotFound, format!("there is no {path}"))
}

// What several verbs say in the same words.

fn texts(names: &[Name]) -> Vec<String> {
    names.iter().map(Name::to_string).collect()
}

fn handle(path: &cas::disk::RelPath) -> PersistenceHandle {
    let path = path.as_str().to_owned();
    PersistenceHandle { kind: "oci_layout".to_owned(), oci_layout: OciLayoutHandle { path } }
}

fn names<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Vec<Name>, Problem> {
    let mut names = names.into_iter();
    let parsed = names.by_ref().take(MOST_NAMES).map(|n| n.parse().map_err(|e| refusal::name(&e)));
    let parsed = parsed.collect::<Result<_, _>>()?;
    match names.next() {
        None => Ok(parsed),
        Some(_) => {
            let message = format!("one put gives at most {MOST_NAMES} names");
            Err(Problem::new(Code::Usage, message))
        }
    }
}

fn line(summary: cas::Summary) -> wire::api::Artifact {
    let cas::Summary { digest, facts, names, sealed_at, verified_at } = summary;
    wire::api::Artifact {
        digest,
        media_type: facts.media_type,
        artifact_type: facts.artifact_type,
        title: facts.title,
        size: facts.size,
        n_blobs: facts.n_blobs,
        names: texts(&names),
        sealed_at,
        verified_at,
    }
}

/// The answer to a put, after the store's receipt for it.
fn put(
    metrics: &Metrics,
    sealed: &cas::Sealed,
    receipt: cas::Receipt,
    media_type: String,
    file_digest: Option<Digest>,
) -> wire::api::Put {
    metrics.put(&receipt);
    let cas::Receipt { existed, workspace, size, n_blobs, absent, .. } = receipt;
    let cas::Tally { n_written, n_healed } = workspace;
    wire::api::Put {
        handle: handle(&sealed.path()),
        digest: sealed.digest(),
        workspace: sealed.workspace().to_string(),
        media_type,
        size,
        n_blobs,
        n_written,
        n_healed,
        existed,
        file_digest,
        absent,
    }
}
