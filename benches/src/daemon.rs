//! `bonded` under measurement: started on a store of its own, asked through `bond`, and watched from
//! outside, through `/proc`.

use std::ffi::OsStr;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cas::digest::Digest;
use nix::sys::resource::UsageWho;

use crate::corpus;
use crate::measure::{Doing, Failed, Result, timed};
use crate::programs::{Programs, Running};
pub use crate::usage::Usage;

/// How long a daemon may take to listen.
const STARTS_WITHIN: Duration = Duration::from_secs(10);

/// A daemon, gone with its store when it is dropped, unless it was started on loopback: then the
/// store is for others to remove.
pub struct Daemon<'a> {
    programs: &'a Programs,
    running: Option<Running>,
    keeps_store: bool,
    home: PathBuf,
}

impl<'a> Daemon<'a> {
    /// Starts a daemon on a new store in `dir`.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(programs: &'a Programs, dir: &Path) -> Result<Daemon<'a>> {
        Daemon::start_with(programs, dir, &[])
    }

    /// The same with its front door on loopback as well.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start_on_loopback(programs: &'a Programs, dir: &Path) -> Result<Daemon<'a>> {
        let words = ["--listen", "127.0.0.1:0", "--allow-anonymous"];
        let mut daemon = Daemon::start_with(programs, dir, &words)?;
        daemon.keeps_store = true;
        Ok(daemon)
    }

    fn start_with(programs: &'a Programs, dir: &Path, words: &[&str]) -> Result<Daemon<'a>> {
        let home = dir.join("bonded");
        let _ = fs::remove_dir_all(&home);
        fs::create_dir_all(&home).doing("making a home for bonded")?;
        let mut daemon = Daemon { programs, running: None, keeps_store: false, home };
        let (store, socket) = (daemon.store(), daemon.socket());
        let mut arguments =
            vec!["--store".as_ref(), store.as_os_str(), "--socket".as_ref(), socket.as_os_str()];
        arguments.extend(words.iter().map(OsStr::new));
        let mut running = programs.start("bonded", &arguments, &daemon.home.join("log"))?;
        let begun = Instant::now();
        while UnixStream::connect(&socket).is_err() {
            if running.has_ended() || begun.elapsed() > STARTS_WITHIN {
                let log = fs::read_to_string(daemon.home.join("log")).unwrap_or_default();
                return Err(Failed(format!("bonded does not listen: {}", log.trim())));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        daemon.running = Some(running);
        Ok(daemon)
    }

    /// The folder of the store.
    pub fn store(&self) -> PathBuf {
        self.home.join("store")
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.home.join("socket")
    }

    /// Where its front door listens on loopback, as its log says.
    ///
    /// # Errors
    /// When its log does not say so in time.
    pub fn address(&self) -> Result<SocketAddr> {
        let begun = Instant::now();
        // The log is written by a thread of its own, and may say so after the first answer.
        while begun.elapsed() < STARTS_WITHIN {
            let log = fs::read_to_string(self.home.join("log")).unwrap_or_default();
            let said = log.rsplit_once("address=").and_then(|(_, rest)| rest.lines().next());
            let address = said.and_then(|rest| rest.split(' ').next()?.parse().ok());
            if let Some(address) = address {
                return Ok(address);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Err(Failed("bonded does not say where it listens".to_owned()))
    }

    /// The file of a blob in the store.
    pub fn blob(&self, digest: &Digest) -> PathBuf {
        corpus::blob(&self.store(), digest)
    }

    /// Runs `bond`, and says how long that took from the process's start to its end.
    ///
    /// # Errors
    /// What it complained of.
    pub fn bond(&self, arguments: &[&str]) -> Result<(String, Duration)> {
        let socket = self.socket();
        let mut all = vec!["--quiet", "--socket"];
        let socket = socket.to_string_lossy();
        all.push(&socket);
        all.extend(arguments);
        timed(|| self.programs.run("bond", &all))
    }

    /// Ends the hold on an artifact and frees its bytes.
    ///
    /// # Errors
    /// What `bond` complained of.
    pub fn forget(&self, root: &Digest) -> Result<()> {
        self.bond(&["retire", &root.to_string()])?;
        self.bond(&["gc"])?;
        Ok(())
    }

    /// What `/proc/PID/<file>` says.
    fn proc(&self, file: &str) -> Result<String> {
        let pid = self.pid();
        fs::read_to_string(format!("/proc/{pid}/{file}"))
            .doing(format!("reading /proc/{pid}/{file}"))
    }

    /// Bytes that it has caused to be written so far (`write_bytes`; proc(5)).
    pub fn written(&self) -> Result<u64> {
        let io = self.proc("io")?;
        let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
        line.and_then(|n| n.parse().ok()).ok_or_else(|| Failed("no write_bytes".to_owned()))
    }

    /// The most memory that it has ever had resident, in bytes.
    pub fn peak_memory(&self) -> Result<u64> {
        let status = self.proc("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kib.map(|kib| kib << 10).ok_or_else(|| Failed("no VmHWM".to_owned()))
    }

    /// The processor time that it and every `bond` so far have used.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn usage(&self) -> Result<Usage> {
        Usage::of(self.pid(), UsageWho::RUSAGE_CHILDREN)
    }

    /// Its process id; 0 when it does not run.
    pub fn pid(&self) -> u32 {
        self.running.as_ref().map_or(0, Running::pid)
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        drop(self.running.take());
        if !self.keeps_store {
            let _ = fs::remove_dir_all(&self.home);
        }
    }
}
