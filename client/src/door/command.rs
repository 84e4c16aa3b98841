//! The command itself: started with the process's own standard streams, told of every signal that
//! bond gets, waited for.
//!
//! What a terminal says with Ctrl-C goes to the whole foreground group, and so to the command as
//! well; to pass it on would say it twice. What somebody sends to bond alone is passed on. The
//! kernel says which of the two it was, to those who read signals instead of being interrupted by
//! them: so they are blocked, and read. All of it blocks, and knows no async.

use std::collections::HashMap;
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawnp};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd, siginfo};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::problem::Error;

/// Signals that are passed on to the command.
const PASSED_ON: [Signal; 9] = [
    Signal::SIGALRM,
    Signal::SIGCONT,
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
];

/// Those of them that are to end bond while there is no command yet.
const ENDING: [Signal; 4] = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM];

/// The signals of this process, from now on read and not delivered.
pub(crate) struct Signals {
    coming: SignalFd,
    /// What was blocked before, and is for the command.
    before: SigSet,
    /// What came before there was a command, and is for it.
    early: Vec<Signal>,
}

/// How a command came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// With this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// It could not be started.
    NotStarted(Errno),
}

// === impl Signals ===

impl Signals {
    /// Takes the signals of the process. To be called before there is another thread: it would get
    /// them.
    ///
    /// # Errors
    /// [`Error::Source`] when the system refuses.
    pub(crate) fn take() -> Result<Signals, Error> {
        take().map_err(|errno| failed(errno.into()))
    }

    /// Takes what has come as any process does that waits: what is to end it ends it here. What is left, is
    /// ignored or was blocked from above is kept for the command.
    ///
    /// # Errors
    /// [`Error::Source`] when the system refuses.
    pub(crate) fn obey(&mut self) -> Result<(), Error> {
        let mut obey = || {
            for signal in self.pending()? {
                if ENDING.contains(&signal) && !self.before.contains(signal) {
                    let only = SigSet::from(signal);
                    only.thread_unblock()?;
                    raise(signal)?;
                    only.thread_block()?;
                }
                self.early.push(signal);
            }
            Ok::<(), Errno>(())
        };
        obey().map_err(|errno| failed(errno.into()))
    }

    /// What has come for the command, be it from the terminal.
    fn pending(&self) -> Result<Vec<Signal>, Errno> {
        let mut pending = Vec::new();
        loop {
            let mut ready = [PollFd::new(self.coming.as_fd(), PollFlags::POLLIN)];
            match poll(&mut ready, PollTimeout::ZERO) {
                Ok(0) => return Ok(pending),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
            if let Some(info) = self.coming.read_signal()? {
                pending.extend(told_of(&info).filter(|signal| *signal != Signal::SIGCHLD));
            }
        }
    }
}

fn take() -> Result<Signals, Errno> {
    let mut own = SigSet::empty();
    own.add(Signal::SIGCHLD);
    PASSED_ON.into_iter().for_each(|signal| own.add(signal));
    let before = own.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    let coming = SignalFd::with_flags(&own, SfdFlags::SFD_CLOEXEC)?;
    Ok(Signals { coming, before, early: Vec::new() })
}

fn failed(source: io::Error) -> Error {
    Error::Source { doing: "running the command", source }
}

/// Runs a command to its end. It blocks until then.
///
/// # Errors
/// [`Error::Usage`] when a word holds a zero byte, [`Error::Source`] when the system refuses to say
/// how it ended.
pub(crate) fn run(
    signals: &Signals,
    words: &[OsString],
    variables: &HashMap<OsString, OsString>,
) -> Result<End, Error> {
    let late = signals.pending().map_err(|errno| failed(errno.into()))?;
    match start(&signals.before, words, variables)? {
        Ok(child) => {
            for signal in signals.early.iter().chain(&late) {
                let _ = kill(child, *signal);
            }
            attend(signals, child).map_err(|errno| failed(errno.into()))
        }
        Err(errno) => Ok(End::NotStarted(errno)),
    }
}

fn told_of(info: &siginfo) -> Option<Signal> {
    i32::try_from(info.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok())
}

/// Waits for its end, and passes on to it what comes meanwhile.
fn attend(signals: &Signals, child: Pid) -> Result<End, Errno> {
    loop {
        let info = match signals.coming.read_signal() {
            Ok(Some(info)) => info,
            Ok(None) | Err(Errno::EINTR) => continue,
            Err(errno) => return Err(errno),
        };
        match told_of(&info) {
            Some(Signal::SIGCHLD) => match waitpid(child, Some(WaitPidFlag::WNOHANG))? {
                WaitStatus::Exited(_, code) => return Ok(End::Code(code)),
                WaitStatus::Signaled(_, signal, _) => return Ok(End::Signal(signal as i32)),
                _ => {}
            },
            // A number above 0 says that the kernel sent it, for the terminal, to the whole group.
            Some(signal) if info.ssi_code <= 0 => {
                // It is there until it was waited for, so nobody else can be meant.
                let _ = kill(child, signal);
            }
            _ => {}
        }
    }
}

/// Starts it, with the signals as bond itself was started with them.
fn start(
    before: &SigSet,
    words: &[OsString],
    variables: &HashMap<OsString, OsString>,
) -> Result<Result<Pid, Errno>, Error> {
    let text = |bytes: &[u8]| {
        let refused = |_| Error::usage("a zero byte stands in the command", "leave it out");
        CString::new(bytes).map_err(refused)
    };
    let of = |word: &OsString| text(word.as_bytes());
    let variable = |(name, value): (&OsString, &OsString)| {
        text(&[name.as_bytes(), b"=", value.as_bytes()].concat())
    };
    let words: Vec<CString> = words.iter().map(of).collect::<Result<_, _>>()?;
    let variables: Vec<CString> = variables.iter().map(variable).collect::<Result<_, _>>()?;
    let program = words.first().ok_or_else(|| Error::usage("no command is named", "name one"))?;
    Ok(spawn(before, program, &words, &variables))
}

fn spawn(
    before: &SigSet,
    program: &CString,
    words: &[CString],
    variables: &[CString],
) -> Result<Pid, Errno> {
    let mut attributes = PosixSpawnAttr::init()?;
    let flags = PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF;
    attributes.set_flags(flags)?;
    attributes.set_sigmask(before)?;
    // Rust's runtime ignores it; programs that write into closed pipes count on it.
    attributes.set_sigdefault(&SigSet::from_iter([Signal::SIGPIPE]))?;
    posix_spawnp(program, &PosixSpawnFileActions::init()?, &attributes, words, variables)
}

// === impl End ===

impl End {
    /// The exit code that says so, as shells have it.
    pub(crate) fn exit(&self) -> u8 {
        let code = match self {
            End::Code(code) => *code,
            End::Signal(signal) => 128 + signal,
            End::NotStarted(Errno::ENOENT | Errno::ENOTDIR) => 127,
            End::NotStarted(_) => 126,
        };
        u8::try_from(code & 0xff).unwrap_or(u8::MAX)
    }

    /// Why it was not started.
    pub(crate) fn complaint(&self, command: &OsStr) -> Option<String> {
        let command = command.display();
        match self {
            End::NotStarted(Errno::ENOENT) => Some(format!("{command}: there is no such command")),
            End::NotStarted(errno) => Some(format!("{command}: {}", errno.desc())),
            End::Code(_) | End::Signal(_) => None,
        }
    }
}
