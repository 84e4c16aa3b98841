//! What can go wrong on the client's side, and the one map from it to the closed list of codes.

use std::io;
use std::time::Duration;

use cas::digest::{Digest, ParseError};
use cas::disk::ForeignError;
use cas::media;
use cas::oci::Refusal;
use cas::workspace::NameError;
use wire::{Code, Problem};

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The daemon said no, and why.
    #[error("{0}")]
    Answered(Box<Problem>),
    /// There is no connection to the daemon.
    #[error("bonded cannot be reached at {socket}: {source}")]
    Unreachable {
        /// The socket's path.
        socket: String,
        /// What the system said.
        source: io::Error,
    },
    /// The connection broke off.
    #[error("{doing}: the connection to bonded broke off: {reason}")]
    Lost {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        reason: String,
    },
    /// The connection was closed before the request went out.
    #[error("{doing}: the connection to bonded was closed")]
    NeverSent {
        /// What was being done.
        doing: &'static str,
    },
    /// The answer did not come in time.
    #[error("{doing}: no answer within {} s", after.as_secs())]
    Late {
        /// What was being done.
        doing: &'static str,
        /// How long was waited.
        after: Duration,
    },
    /// The answer is not one that this version understands.
    #[error("{doing}: the answer makes no sense: {reason}")]
    Odd {
        /// What was being done.
        doing: &'static str,
        /// What is odd about it.
        reason: String,
    },
    /// A layout, archive or file of the user is not taken, or a copy cannot be made.
    #[error(transparent)]
    Media(#[from] media::Error),
    /// What the user wants to put in cannot be read.
    #[error("{doing}: what was to be read failed: {source}")]
    Source {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A file changed while it was read.
    #[error("{doing}: the file changed while it was read")]
    SourceChanged {
        /// What was being done.
        doing: &'static str,
    },
    /// What the daemon handed out does not fit together.
    #[error("what was handed out of {artifact} is not right: {refusal}")]
    HandedOut {
        /// The artifact.
        artifact: Digest,
        /// What is wrong.
        refusal: Refusal,
    },
    /// An artifact of many parts was asked for as one file.
    #[error("{artifact} is not a single file")]
    NotOneFile {
        /// The artifact.
        artifact: Digest,
    },
    /// The artifact has no such member.
    #[error("{member} is not part of {artifact}")]
    NoMember {
        /// The artifact.
        artifact: Digest,
        /// What was asked for.
        member: Digest,
    },
    /// A workspace, repository or tag is outside the grammar.
    #[error(transparent)]
    Name(NameError),
    /// A text is no digest.
    #[error(transparent)]
    Digest(#[from] ParseError),
    /// What the user typed does not make sense.
    #[error("{message}")]
    Usage {
        /// What does not.
        message: String,
        /// What to type.
        hint: Option<String>,
        /// What could have been meant.
        candidates: Vec<String>,
    },
    /// Standard output, or another file of the user, does not take what is written.
    #[error("writing {what} failed: {source}")]
    Output {
        /// What was written.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl Error {
    /// What the user typed does not make sense.
    pub(crate) fn usage(message: impl Into<String>, hint: impl Into<String>) -> Error {
        Error::Usage { message: message.into(), hint: Some(hint.into()), candidates: Vec::new() }
    }

    /// The connection broke off. Hyper's own text says where, the cause below it says why.
    pub(crate) fn lost(doing: &'static str, error: &dyn std::error::Error) -> Error {
        let mut reason = error.to_string();
        let mut cause = error.source();
        while let Some(below) = cause {
            reason = format!("{reason}: {below}");
            cause = below.source();
        }
        Error::Lost { doing, reason }
    }

    /// Whether somebody closed our standard output because he had seen enough.
    pub(crate) fn is_closed_output(&self) -> bool {
        matches!(self, Error::Output { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
    }

    /// The code, and so the exit code of `bond`.
    pub fn code(&self) -> Code {
        self.problem().code
    }

    /// What a user is told: the same as the daemon would say it.
    pub fn problem(&self) -> Problem {
        let plain = |code| Problem::new(code, self.to_string());
        match self {
            Error::Answered(problem) => (**problem).clone(),
            Error::Unreachable { source, .. } => plain(Code::Unreachable).hint(reach(source)),
            Error::Lost { .. } | Error::NeverSent { .. } => plain(Code::Unreachable)
                .hint("look whether bonded still runs; to do it again does no harm"),
            Error::Late { .. } => plain(Code::Timeout).hint("bonded may be busy: try again later"),
            Error::Odd { .. } => {
                plain(Code::Internal).hint("bond and bonded should be of the same version")
            }
            Error::Media(error) => media(error),
            Error::Source { .. } | Error::Output { .. } => plain(Code::LocalIo),
            Error::SourceChanged { .. } => {
                plain(Code::SourceChanged).hint("put it again when nothing writes to it any more")
            }
            Error::HandedOut { artifact, .. } => {
                plain(Code::Corrupt).about(*artifact).hint("`bond verify` says what is damaged")
            }
            Error::NotOneFile { artifact } => plain(Code::Usage).about(*artifact).hint(
                "get it as a layout (oci:DIR) or archive (oci-archive:FILE), or one member of it \
                 with --blob DIGEST; `bond tree` lists them",
            ),
            Error::NoMember { member, .. } => {
                plain(Code::NotFound).about(*member).hint("`bond tree` lists the members")
            }
            Error::Name(_) => plain(Code::NameInvalid),
            Error::Digest(error) => Problem::from(error),
            Error::Usage { hint, candidates, .. } => {
                let mut problem = plain(Code::Usage);
                problem.hint.clone_from(hint);
                problem.candidates.clone_from(candidates);
                problem
            }
        }
    }
}

impl From<NameError> for Error {
    fn from(error: NameError) -> Error {
        Error::Name(error)
    }
}

fn reach(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => {
            "there is no such socket: is bonded running, and does --socket (or BOND_SOCKET) say \
             where it listens?"
        }
        io::ErrorKind::ConnectionRefused => "nobody listens there any more: start bonded",
        io::ErrorKind::PermissionDenied => {
            "the socket's mode and group say who may connect: are you in that group?"
        }
        io::ErrorKind::TimedOut => "it listens and does not answer: is it overloaded?",
        _ => "does --socket (or BOND_SOCKET) say where bonded listens?",
    }
}

fn media(error: &media::Error) -> Problem {
    use media::Error as M;
    let plain = |code| Problem::new(code, error.to_string());
    match error {
        M::Refused(refusal) => Problem::from(refusal),
        M::Index(refusal) => {
            let Problem { code, .. } = Problem::from(refusal);
            Problem::new(code, error.to_string()).file("index.json")
        }
        M::IndexTooLarge { .. } => plain(Code::ManifestTooLarge).file("index.json"),
        M::File(foreign) => file(foreign),
        M::NotLayout { is_docker, .. } => {
            let problem = plain(Code::LayoutInvalid);
            match is_docker {
                true => problem.hint(
                    "it is a docker-archive; `skopeo copy docker-archive:FILE oci-archive:NEW` \
                     makes an OCI archive of it, and so does `docker save` since version 25",
                ),
                false => problem.hint("a layout has oci-layout, index.json and blobs/"),
            }
        }
        M::Ambiguous { candidates, .. } => Problem {
            candidates: candidates.clone(),
            ..plain(Code::Ambiguous).hint("say which one")
        },
        M::NotListed { candidates, .. } => {
            let problem = Problem { candidates: candidates.clone(), ..plain(Code::NotFound) };
            match candidates.is_empty() {
                true => problem.hint("its index.json lists nothing"),
                false => problem.hint("this is what there is"),
            }
        }
        M::Compressed { with } => plain(Code::ArchiveInvalid)
            .hint(format!("unpack it on the way: {with} -dc FILE | bond put oci-archive:-")),
        M::NotArchive { .. } => plain(Code::ArchiveInvalid),
        M::Truncated { .. } => plain(Code::ArchiveTruncated),
        M::Link { entry } => plain(Code::ArchiveLink).file(entry),
        M::Special { entry, .. } => plain(Code::NotRegular).file(entry),
        M::Duplicate { entry } => plain(Code::ArchiveDuplicate).file(entry),
        M::Name { entry, .. } => plain(Code::ArchiveName).file(entry),
        M::TooManyEntries { .. } => plain(Code::TooManyEntries),
        M::NotProved { digest, .. } => plain(Code::Corrupt).about(*digest),
        M::Exists { path } => {
            plain(Code::LocalIo).file(path).hint("nothing is replaced: name another place")
        }
        M::Read { source, .. } if source.kind() == io::ErrorKind::UnexpectedEof => {
            plain(Code::SourceChanged).hint("put it again when nothing writes to it any more")
        }
        M::Read { .. } | M::Write { .. } => plain(Code::LocalIo),
    }
}

fn file(error: &ForeignError) -> Problem {
    use ForeignError as F;
    let plain = |code| Problem::new(code, error.to_string());
    match error {
        F::Symlink { file } => plain(Code::Symlink).file(file).hint(
            "--follow-symlinks takes what symlinks inside a layout lead to, as Bazel writes them",
        ),
        F::NotRegular { file, kind } => {
            let problem = plain(Code::NotRegular).file(file);
            match *kind {
                "a FIFO" => problem.hint("a stream is put with `-`: COMMAND | bond put -"),
                _ => problem,
            }
        }
        F::Missing { file } | F::Unreadable { file, .. } => plain(Code::LocalIo).file(file),
        F::Network { file, .. } => plain(Code::DescriptorRefused).file(file),
    }
}
