//! `bonded` under measurement: started on a store of its own, asked through `bond`, and watched from
//! outside, through `/proc`.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cas::digest::Digest;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use crate::corpus;
use crate::measure::{Doing, Failed, Result, timed};
use crate::programs::{Programs, Running};

/// How long a daemon may take to listen.
const STARTS_WITHIN: Duration = Duration::from_secs(10);

/// A daemon, gone with its store when it is dropped.
pub(crate) struct Daemon<'a> {
    programs: &'a Programs,
    running: Option<Running>,
    home: PathBuf,
}

impl<'a> Daemon<'a> {
    /// Starts a daemon on a new store in `dir`.
    pub(crate) fn start(programs: &'a Programs, dir: &Path) -> Result<Daemon<'a>> {
        let home = dir.join("bonded");
        let _ = fs::remove_dir_all(&home);
        fs::create_dir_all(&home).doing("making a home for bonded")?;
        let mut daemon = Daemon { programs, running: None, home };
        let (store, socket) = (daemon.store(), daemon.socket());
        let arguments =
            ["--store".as_ref(), store.as_os_str(), "--socket".as_ref(), socket.as_os_str()];
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
    pub(crate) fn store(&self) -> PathBuf {
        self.home.join("store")
    }

    /// Where it listens.
    pub(crate) fn socket(&self) -> PathBuf {
        self.home.join("socket")
    }

    /// The file of a blob in the store.
    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        corpus::blob(&self.store(), digest)
    }

    /// Runs `bond`, and says how long that took from the process's start to its end.
    pub(crate) fn bond(&self, arguments: &[&str]) -> Result<(String, Duration)> {
        let socket = self.socket();
        let mut all = vec!["--quiet", "--socket"];
        let socket = socket.to_string_lossy();
        all.push(&socket);
        all.extend(arguments);
        timed(|| self.programs.run("bond", &all))
    }

    /// Ends the hold on an artifact and frees its bytes.
    pub(crate) fn forget(&self, root: &Digest) -> Result<()> {
        self.bond(&["retire", &root.to_string()])?;
        self.bond(&["gc"])?;
        Ok(())
    }

    /// What `/proc/PID/<file>` says.
    fn proc(&self, file: &str) -> Result<String> {
        let pid = self.running.as_ref().map_or(0, Running::pid);
        fs::read_to_string(format!("/proc/{pid}/{file}"))
            .doing(format!("reading /proc/{pid}/{file}"))
    }

    /// Bytes that it has caused to be written so far (`write_bytes`; proc(5)).
    pub(crate) fn written(&self) -> Result<u64> {
        let io = self.proc("io")?;
        let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
        line.and_then(|n| n.parse().ok()).ok_or_else(|| Failed("no write_bytes".to_owned()))
    }

    /// The most memory that it has ever had resident, in bytes.
    pub(crate) fn peak_memory(&self) -> Result<u64> {
        let status = self.proc("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kib.map(|kib| kib << 10).ok_or_else(|| Failed("no VmHWM".to_owned()))
    }

    /// The processor time that it and every `bond` so far have used.
    pub(crate) fn usage(&self) -> Result<Usage> {
        let stat = self.proc("stat")?;
        // After the name, which is in brackets and may hold anything, utime and stime are the 12th
        // and 13th fields, in clock ticks.
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        let ticks = |i: usize| fields.split_whitespace().nth(i).and_then(|t| t.parse::<u32>().ok());
        let (Some(user), Some(kernel)) = (ticks(11), ticks(12)) else {
            return Err(Failed("no processor times".to_owned()));
        };
        let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK);
        let per_second = per_second.ok().flatten().unwrap_or(100) as f64;
        let clients = getrusage(UsageWho::RUSAGE_CHILDREN).doing("asking for processor times")?;
        let seconds = |time: nix::sys::time::TimeVal| time.num_microseconds() as f64 / 1e6;
        Ok(Usage {
            daemon_user: f64::from(user) / per_second,
            daemon_kernel: f64::from(kernel) / per_second,
            clients: seconds(clients.user_time()) + seconds(clients.system_time()),
        })
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        drop(self.running.take());
        let _ = fs::remove_dir_all(&self.home);
    }
}

/// Processor time in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    daemon_user: f64,
    daemon_kernel: f64,
    clients: f64,
}

impl Usage {
    /// What was used since.
    pub(crate) fn since(self, before: Usage) -> Usage {
        Usage {
            daemon_user: self.daemon_user - before.daemon_user,
            daemon_kernel: self.daemon_kernel - before.daemon_kernel,
            clients: self.clients - before.clients,
        }
    }

    /// Where the time of one run went, `seconds` long.
    pub(crate) fn text(self, seconds: f64) -> String {
        let n_cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        let Usage { daemon_user, daemon_kernel, clients } = self;
        let share = (daemon_user + daemon_kernel + clients) / (seconds * n_cores) * 100.0;
        format!(
            "of {seconds:.2} s on {n_cores} cores: bonded {daemon_user:.2} s in its own code (hashing) \
             and {daemon_kernel:.2} s in the kernel (copying, I/O, syncing), bond {clients:.2} s; \
             the cores were {share:.0} % in use"
        )
    }
}
