//! The daemon on a store of its own: started, asked, stopped, killed and started again.

use std::fs::File;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::programs::{Run, own, run, run_with};
use crate::raw::Connection;
use crate::{scratch, wait_until};

/// So many lines of a failed test's log are shown.
const MOST_SHOWN: usize = 40;

/// Where one daemon lives: its store, socket, configuration and log, gone with the test.
#[derive(Debug)]
pub struct Home {
    folder: tempfile::TempDir,
    store: PathBuf,
    /// More words for the daemon's command line.
    words: Vec<String>,
}

/// A daemon that runs, or did.
#[derive(Debug)]
pub struct Daemon {
    home: Home,
    child: Option<Child>,
}

// === impl Home ===

impl Home {
    /// A place for a daemon with this configuration.
    pub fn new(config: &str) -> Home {
        let folder = scratch();
        let home = Home { store: folder.path().join("store"), folder, words: Vec::new() };
        home.configure(config);
        home
    }

    /// The same with its store elsewhere.
    #[must_use]
    pub fn store_at(mut self, store: &Path) -> Home {
        self.store = store.to_owned();
        self
    }

    /// The same with more words on the command line.
    #[must_use]
    pub fn words(mut self, words: &[&str]) -> Home {
        self.words = words.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Replaces the configuration.
    pub fn configure(&self, config: &str) {
        std::fs::write(self.config(), config).expect("the configuration is written");
    }

    /// The folder around all of it, free for the test's own files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The store.
    pub fn store(&self) -> &Path {
        &self.store
    }

    /// The socket.
    pub fn socket(&self) -> PathBuf {
        self.folder().join("socket")
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.folder().join("bonded.toml")
    }

    fn log(&self) -> PathBuf {
        self.folder().join("log")
    }

    /// What the daemon wrote so far.
    pub fn logged(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log()).unwrap_or_default()).into_owned()
    }

    /// `bonded` as it is started here.
    pub fn bonded(&self) -> Command {
        let mut command = Command::new(own("bonded"));
        command.arg("--store").arg(&self.store).arg("--socket").arg(self.socket());
        command.arg("--config").arg(self.config()).args(&self.words);
        command.stdin(Stdio::null());
        for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID"] {
            command.env_remove(name);
        }
        command
    }

    /// `bond` as it talks to the daemon here.
    pub fn bond(&self) -> Command {
        let mut command = Command::new(own("bond"));
        command.env("BOND_SOCKET", self.socket()).env_remove("BOND_WORKSPACE");
        command
    }

    /// Starts the daemon and waits until it answers.
    #[track_caller]
    pub fn start(self) -> Daemon {
        let command = self.bonded();
        self.start_as(command)
    }

    /// Starts it by a command of the test's, and waits until it answers.
    #[track_caller]
    pub fn start_as(self, command: Command) -> Daemon {
        let mut daemon = Daemon { home: self, child: None };
        daemon.spawn(command);
        daemon
    }
}

// === impl Daemon ===

impl Daemon {
    /// A daemon with nothing but defaults.
    #[track_caller]
    pub fn start() -> Daemon {
        Home::new("").start()
    }

    /// A daemon with this configuration.
    #[track_caller]
    pub fn with(config: &str) -> Daemon {
        Home::new(config).start()
    }

    #[track_caller]
    fn spawn(&mut self, mut command: Command) {
        let log = File::options().create(true).append(true).open(self.home.log()).expect("a log");
        let same = log.try_clone().expect("the log twice");
        let child = command.stdout(log).stderr(same).spawn();
        self.child = Some(child.expect("bonded starts"));
        wait_until("bonded is ready", || {
            if let Some(status) = self.child.as_mut().expect("a child").try_wait().expect("wait") {
                self.child = None;
                panic!("bonded ended before it was ready ({status}):\n{}", self.home.logged());
            }
            Connection::open(&self.home.socket())
                .is_ok_and(|mut connection| connection.get("/v1/health").status == 200)
        });
    }

    /// Where it lives.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// Its store.
    pub fn store(&self) -> &Path {
        self.home.store()
    }

    /// The folder around its store.
    pub fn folder(&self) -> &Path {
        self.home.folder()
    }

    /// A connection to its socket.
    #[track_caller]
    pub fn connect(&self) -> Connection {
        Connection::open(&self.home.socket()).expect("bonded takes a connection")
    }

    /// Runs `bond` with these words.
    #[track_caller]
    pub fn bond(&self, words: &[&str]) -> Run {
        run(self.home.bond().args(words))
    }

    /// Runs `bond` with these words and this standard input.
    #[track_caller]
    pub fn bond_fed(&self, words: &[&str], input: impl Into<Stdio>) -> Run {
        run_with(self.home.bond().args(words), input)
    }

    /// Runs `bond` with these words and this file on its standard input, by way of a pipe.
    #[track_caller]
    pub fn bond_piped(&self, words: &[&str], file: &Path) -> Run {
        let cat = Command::new("cat").arg(file).stdout(Stdio::piped()).spawn();
        let mut cat = cat.expect("cat starts");
        let run = self.bond_fed(words, cat.stdout.take().expect("a pipe"));
        let _ = cat.wait();
        run
    }

    /// `bond` with these words, not started yet.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = self.home.bond();
        command.args(words);
        command
    }

    /// Its process id.
    #[track_caller]
    pub fn pid(&self) -> Pid {
        let id = self.child.as_ref().expect("bonded runs").id();
        Pid::from_raw(i32::try_from(id).expect("a process id"))
    }

    /// Sends it a signal.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("the signal is sent");
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("bonded runs");
        let mut ended = None;
        let patience = Duration::from_secs(60);
        crate::wait_at_most(patience, "bonded ends", || {
            ended = child.try_wait().expect("wait");
            ended.is_some()
        });
        ended.expect("an end")
    }

    /// Stops it the way a service manager does; it must end in peace.
    #[track_caller]
    pub fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        let status = self.wait();
        assert!(status.success(), "bonded ended with {status}:\n{}", self.home.logged());
    }

    /// Kills it at once.
    #[track_caller]
    pub fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        assert_eq!(self.wait().signal(), Some(Signal::SIGKILL as i32));
    }

    /// Starts it again on the same store.
    #[track_caller]
    pub fn start_again(&mut self) {
        self.start_again_as(self.home.bonded());
    }

    /// How many descriptors it has open.
    #[track_caller]
    pub fn n_descriptors(&self) -> usize {
        let folder = std::fs::read_dir(format!("/proc/{}/fd", self.pid()));
        folder.expect("the process's descriptors").count()
    }

    /// Starts it again by a command of the test's.
    #[track_caller]
    pub fn start_again_as(&mut self, command: Command) {
        assert!(self.child.is_none(), "bonded runs already");
        self.spawn(command);
    }

    /// The most memory that it had resident at any time, in bytes.
    #[track_caller]
    pub fn most_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()));
        let status = status.expect("the process's status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
        let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kibibytes << 10
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let logged = self.home.logged();
            let skipped = logged.lines().count().saturating_sub(MOST_SHOWN);
            let last: Vec<&str> = logged.lines().skip(skipped).collect();
            eprintln!("=== the end of bonded's log\n{}\n===", last.join("\n"));
        }
    }
}
