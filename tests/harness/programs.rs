//! Programs: where ours are, and how any of them is run to its end.
//!
//! Nothing is built here, and nothing waits for ever.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use cas::digest::Digest;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use wire::Code;

/// Longer than any program here takes on a busy machine.
const LONGEST: Duration = Duration::from_secs(240);

/// One of our programs. It lies beside the test executable, where cargo puts what it built with
/// the same target folder and profile, or where `BONDED_BIN_DIR` says.
pub fn own(name: &str) -> PathBuf {
    let path = folder().join(name);
    assert!(
        path.is_file(),
        "{} is not there: build it first, with the profile of these tests \
         (cargo build --release -p client -p daemon), or say in BONDED_BIN_DIR where it is",
        path.display()
    );
    path
}

fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| match std::env::var_os("BONDED_BIN_DIR") {
        Some(folder) => folder.into(),
        None => {
            // target/PROFILE/deps/cases-HASH
            let test = std::env::current_exe().expect("the test's own path");
            test.ancestors().nth(2).expect("a target folder").to_owned()
        }
    })
}

/// A program that ran to its end.
#[derive(Debug)]
pub struct Run {
    /// What was typed.
    pub typed: String,
    /// Its exit code; absent when a signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub out: Vec<u8>,
    /// Its standard error.
    pub err: String,
    /// How long it took.
    pub took: Duration,
}

/// Runs a program without input.
#[track_caller]
pub fn run(command: &mut Command) -> Run {
    run_with(command, Stdio::null())
}

/// Runs a program to its end; one that does not come to it in time is killed and fails the test.
#[track_caller]
pub fn run_with(command: &mut Command, input: impl Into<Stdio>) -> Run {
    let typed = typed(command);
    let begun = Instant::now();
    let command = command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap_or_else(|error| panic!("{typed}: {error}"));
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
    let (done, ended) = channel();
    std::thread::spawn(move || done.send(child.wait_with_output()));
    let output = match ended.recv_timeout(LONGEST) {
        Ok(output) => output.expect("the program's output"),
        Err(RecvTimeoutError::Timeout) => {
            let _ = kill(pid, Signal::SIGKILL);
            let Output { stdout, stderr, .. } = ended.recv().expect("its end").expect("output");
            let [out, err] = [stdout, stderr].map(|b| String::from_utf8_lossy(&b).into_owned());
            panic!("{typed}: not at its end after {LONGEST:?}\n{out}\n{err}");
        }
        Err(RecvTimeoutError::Disconnected) => panic!("{typed}: nobody waited for it"),
    };
    Run {
        typed,
        code: output.status.code(),
        out: output.stdout,
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
        took: begun.elapsed(),
    }
}

fn typed(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

impl Run {
    /// It did what it was told.
    #[track_caller]
    pub fn ok(self) -> Run {
        assert_eq!(self.code, Some(0), "{}", self.told());
        self
    }

    /// It ended with this error and nothing on standard output.
    #[track_caller]
    pub fn fails(self, code: Code) -> Run {
        assert_eq!(self.code, Some(code.exit().into()), "not {}: {}", code.name(), self.told());
        assert!(self.out.is_empty(), "it answered all the same: {}", self.told());
        self
    }

    /// The error that it ended with, when that is one of ours.
    pub fn code(&self) -> Option<Code> {
        Code::ALL.iter().copied().find(|code| Some(i32::from(code.exit())) == self.code)
    }

    /// Standard error has all of these.
    #[track_caller]
    pub fn says(self, texts: &[impl AsRef<str>]) -> Run {
        for text in texts {
            assert!(self.err.contains(text.as_ref()), "no {:?} in: {}", text.as_ref(), self.told());
        }
        self
    }

    /// Everything about it.
    pub fn told(&self) -> String {
        let Run { typed, code, out, err, took } = self;
        let out = String::from_utf8_lossy(&out[..out.len().min(4000)]).into_owned();
        format!("{typed}\n  exit {code:?} after {took:?}\n  out: {out}\n  err: {err}")
    }

    /// Standard output as text.
    #[track_caller]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.out).unwrap_or_else(|_| panic!("no text: {}", self.told()))
    }

    /// The lines of standard output.
    #[track_caller]
    pub fn lines(&self) -> Vec<&str> {
        self.text().lines().collect()
    }

    /// The first line of standard output, which is a digest and nothing else.
    #[track_caller]
    pub fn digest(&self) -> Digest {
        let first = self.text().split('\n').next().unwrap_or_default();
        first.parse().unwrap_or_else(|error| panic!("{error}: {}", self.told()))
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.out)
            .unwrap_or_else(|error| panic!("no JSON: {error}: {}", self.told()))
    }
}
