//! From the store's errors to what a peer is told: one exhaustive map.
//!
//! A message says what happened to which digest or file and never where the store keeps it. What
//! only the keeper may know is logged here, in other words.

use std::io;

use cas::digest::Digest;
use cas::disk::ForeignError;
use cas::workspace::{NameError, Workspace};
use wire::{Code, Problem};

/// What to do about damage.
pub const HEAL_HINT: &str = "put the same artifact again: its good bytes heal the store's copy";

/// What the peer is told of an error of the store. Damage and its details were logged by the
/// store, where they were found.
pub fn problem(error: cas::Error) -> Problem {
    use cas::Error as E;
    match error {
        E::Refused(refusal) => Problem::from(&refusal),
        E::Name(error) => name(&error),
        E::NotFound { what } => Problem::new(Code::NotFound, format!("{what} is not in the store")),
        E::Ambiguous { reference, candidates } => {
            let message = format!("{reference} fits {} artifacts", candidates.len());
            let mut problem = Problem::new(Code::Ambiguous, message)
                .hint("say which one, by its digest or a longer part of it");
            problem.candidates = candidates.iter().map(Digest::to_string).collect();
            problem
        }
        E::Corrupt { artifact, damages } => {
            let shown: Vec<String> = damages.iter().take(3).map(ToString::to_string).collect();
            let more = match damages.len().saturating_sub(3) {
                0 => String::new(),
                n => format!("; and {n} more"),
            };
            let message = format!("{artifact} is damaged: {}{more}", shown.join("; "));
            let mut problem = Problem::new(Code::Corrupt, message).about(artifact).hint(HEAL_HINT);
            problem.files = damages.into_iter().take(1000).map(|damage| damage.file).collect();
            problem
        }
        E::Needed { digest, by } => {
            let message = format!("{digest} is needed by {by}, which is listed here");
            Problem::new(Code::Needed, message).hint("delete that one first")
        }
        E::TagTaken { name, digest } => {
            let message = format!("{name} leads to {digest}, and tags like it are not moved");
            Problem::new(Code::TagTaken, message).hint("give it another tag")
        }
        E::Incomplete { missing } => incomplete(&missing),
        E::DamagedName { name } => {
            Problem::new(Code::Corrupt, format!("the name {name} is damaged in the store"))
                .hint("put its artifact again with the same name")
        }
        E::Busy => Problem::new(Code::Busy, "too many manifests are in memory just now")
            .hint("try again later"),
        // The one who would be told has left.
        E::Stopped => {
            tracing::debug!("a job ended early: nobody waits for it any more");
            Problem::new(Code::Internal, "nobody waits for this any more")
        }
        E::SourceRead { source } => source_read(&source),
        E::SourceChanged { what } => {
            Problem::new(Code::SourceChanged, format!("{what} changed while it was read"))
                .hint("put it again when nothing writes to it any more")
        }
        E::Full => {
            tracing::warn!("a put was refused: the disk is full");
            Problem::new(Code::DiskFull, "the store's disk is full")
                .hint("retire what is no longer needed and run `bond gc`")
        }
        E::Quota { limit } => {
            Problem::new(Code::Quota, format!("the workspace's quota of {limit} bytes is used up"))
                .hint("retire what the workspace no longer needs")
        }
        E::Disk { doing, path, source } => {
            tracing::error!(%path, error = %source, "{doing} failed");
            Problem::new(Code::StoreIo, format!("the store's disk failed: {}", source.kind()))
                .hint("the log of bonded says more")
        }
        E::Locked { holder } => {
            Problem::new(Code::Locked, format!("the store is held by {holder}"))
                .hint("one store has one daemon: stop that one first")
        }
        E::Format { found } => Problem::new(Code::Config, format!("the store's format is {found}"))
            .hint("use the version of bonded that made it"),
        E::Dedup { made } => {
            let made = format!("{made:?}").to_lowercase();
            Problem::new(Code::Config, format!("the store was made with dedup = {made:?}"))
                .hint("set store.dedup to that, or use another folder for the store")
        }
    }
}

/// A manifest lacks what it names; those who can be told more than one digest look at the error
/// themselves.
fn incomplete(missing: &[Digest]) -> Problem {
    let more = match missing.len().saturating_sub(1) {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    let (first, what) = (missing.first(), "not in this repository");
    let message = match first {
        Some(digest) => format!("the manifest needs {digest}{more}, {what}"),
        None => format!("the manifest needs what is {what}"),
    };
    let problem = Problem::new(Code::Missing, message).hint("push blobs and children first");
    match first {
        Some(digest) => problem.about(*digest),
        None => problem,
    }
}

/// A workspace, repository or tag outside the grammar.
pub fn name(error: &NameError) -> Problem {
    Problem::new(Code::NameInvalid, error.to_string())
}

/// Something is not in a workspace, or the peer may not know of it: both read the same.
pub fn not_found(what: &str, workspace: &Workspace) -> Problem {
    let what: String = what.chars().take(200).collect();
    Problem::new(Code::NotFound, format!("{what} is not in the workspace {workspace}"))
}

/// A workspace is not there, or the peer may not know of it.
pub fn no_workspace(workspace: &Workspace) -> Problem {
    Problem::new(Code::NotFound, format!("there is no workspace {workspace}"))
}

/// A descriptor that is not read.
pub fn descriptor(error: &ForeignError) -> Problem {
    let problem = Problem::new(Code::DescriptorRefused, error.to_string());
    match error {
        ForeignError::Network { .. } => problem.hint("send the bytes in a body instead"),
        _ => problem,
    }
}

/// An error of the store about `what` in a workspace.
pub fn inside(error: cas::Error, what: &str, workspace: &Workspace) -> Problem {
    match error {
        cas::Error::NotFound { .. } => not_found(what, workspace),
        other => problem(other),
    }
}

/// The peer's bytes could not be read: its file failed, or it stopped sending.
fn source_read(source: &io::Error) -> Problem {
    match source.kind() {
        io::ErrorKind::TimedOut => Problem::new(Code::Timeout, "the body stopped coming"),
        io::ErrorKind::UnexpectedEof => {
            Problem::new(Code::WrongSize, "there are fewer bytes than were announced")
        }
        _ => Problem::new(Code::LocalIo, format!("reading what was brought failed: {source}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cas::disk::RelPath;

    #[test]
    fn no_message_tells_a_path_of_the_store() {
        let path = RelPath::new("blobs").join("secret");
        let source = io::Error::from_raw_os_error(5);
        let told = problem(cas::Error::Disk { doing: "reading", path, source });
        assert_eq!(told.code, Code::StoreIo);
        assert!(!format!("{told:?}").contains("secret"), "{told:?}");
    }

    #[test]
    fn what_is_absent_and_what_is_hidden_read_the_same() {
        let workspace: Workspace = "ci-1".parse().expect("a workspace");
        let absent = cas::Error::NotFound { what: "something else".to_owned() };
        assert_eq!(inside(absent, "app:1", &workspace), not_found("app:1", &workspace));
    }
}
