//! Processor time of a program that is watched and of those who ask it, from outside.

use std::fs;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use crate::measure::{Doing, Failed, Result};

/// Processor time in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Of the program, in its own code.
    pub user: f64,
    /// Of the program, in the kernel.
    pub kernel: f64,
    /// Of those who ask it, in both.
    pub clients: f64,
}

impl Usage {
    /// What the process of this id has used so far, and those who ask it: processes of ours that
    /// have ended, or this one.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn of(pid: u32, clients: UsageWho) -> Result<Usage> {
        let path = format!("/proc/{pid}/stat");
        let stat = fs::read_to_string(&path).doing(format!("reading {path}"))?;
        // After the name, which is in brackets and may hold anything, utime and stime are the 12th
        // and 13th fields, in clock ticks.
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        let ticks = |i: usize| fields.split_whitespace().nth(i).and_then(|t| t.parse::<u32>().ok());
        let (Some(user), Some(kernel)) = (ticks(11), ticks(12)) else {
            return Err(Failed("no processor times".to_owned()));
        };
        let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK);
        let per_second = per_second.ok().flatten().unwrap_or(100) as f64;
        let clients = getrusage(clients).doing("asking for processor times")?;
        let seconds = |time: nix::sys::time::TimeVal| time.num_microseconds() as f64 / 1e6;
        Ok(Usage {
            user: f64::from(user) / per_second,
            kernel: f64::from(kernel) / per_second,
            clients: seconds(clients.user_time()) + seconds(clients.system_time()),
        })
    }

    /// What was used since.
    pub fn since(self, before: Usage) -> Usage {
        Usage {
            user: self.user - before.user,
            kernel: self.kernel - before.kernel,
            clients: self.clients - before.clients,
        }
    }

    /// How much of all cores was in use for so many seconds, in percent.
    pub fn share(self, seconds: f64) -> f64 {
        (self.user + self.kernel + self.clients) / (seconds * n_cores()) * 100.0
    }

    /// Where the time of one run of Bonded's went, `seconds` long.
    pub fn text(self, seconds: f64) -> String {
        let Usage { user, kernel, clients } = self;
        let (n_cores, share) = (n_cores(), self.share(seconds));
        format!(
            "of {seconds:.2} s on {n_cores} cores: bonded {user:.2} s in its own code (hashing) \
             and {kernel:.2} s in the kernel (copying, I/O, syncing), bond {clients:.2} s; \
             the cores were {share:.0} % in use"
        )
    }
}

fn n_cores() -> f64 {
    std::thread::available_parallelism().map_or(1, usize::from) as f64
}
