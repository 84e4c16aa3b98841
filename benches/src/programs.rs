//! Other programs: found, run, waited for.
//!
//! Peers are those of `tests/peers.sh`; Bonded's own programs stand beside this one.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::measure::{Doing, Failed, Result, timed};

/// Where programs are looked for.
pub struct Programs {
    path: OsString,
}

impl Programs {
    /// Beside this program, among the peers, and where the system has them.
    pub fn find() -> Programs {
        let mut folders = Vec::new();
        folders.extend(env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned)));
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/peers.sh");
        // Without the script there are still the peers that the system has.
        if let Ok(output) = Command::new("sh").arg(script).arg("path").output() {
            let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            folders.extend(env::split_paths(&text));
        }
        folders.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
        Programs { path: env::join_paths(folders).unwrap_or_default() }
    }

    fn locate(&self, name: &str) -> Result<PathBuf> {
        env::split_paths(&self.path)
            .map(|folder| folder.join(name))
            .find(|path| path.is_file())
            .ok_or_else(|| Failed(format!("{name} is missing (make peers installs the peers)")))
    }

    fn command(&self, name: &str, arguments: &[&OsStr]) -> Result<Command> {
        let mut command = Command::new(self.locate(name)?);
        command.args(arguments).env("PATH", &self.path).stdin(Stdio::null());
        // Distribution would look for a collector of traces and complain that there is none.
        command.env("OTEL_TRACES_EXPORTER", "none");
        Ok(command)
    }

    /// Runs a program to its end. Answers with what it printed; fails with what it complained of.
    pub fn run<S: AsRef<OsStr>>(&self, name: &str, arguments: &[S]) -> Result<String> {
        let arguments: Vec<&OsStr> = arguments.iter().map(AsRef::as_ref).collect();
        let output = self.command(name, &arguments)?.output().doing(format!("starting {name}"))?;
        if !output.status.success() {
            let complaint = String::from_utf8_lossy(&output.stderr);
            let line = complaint.lines().rfind(|line| !line.is_empty()).unwrap_or("no message");
            return Err(Failed(format!("{name} failed: {line}")));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// How long a program takes until what it made at `output` is durable.
    pub fn time_durable<S: AsRef<OsStr>>(
        &self,
        name: &str,
        arguments: &[S],
        output: &Path,
    ) -> Result<Duration> {
        let work = || {
            self.run(name, arguments)?;
            self.run("sync", &[OsStr::new("-f"), output.as_os_str()])
        };
        timed(work).map(|(_, time)| time)
    }

    /// Starts a program that goes on. What it prints goes to a file.
    pub fn start<S: AsRef<OsStr>>(
        &self,
        name: &str,
        arguments: &[S],
        log: &Path,
    ) -> Result<Running> {
        let arguments: Vec<&OsStr> = arguments.iter().map(AsRef::as_ref).collect();
        let log = std::fs::File::create(log).doing(format!("making {}", log.display()))?;
        let also = log.try_clone().doing("sharing the log")?;
        let mut command = self.command(name, &arguments)?;
        let child = command.stdout(log).stderr(also).spawn().doing(format!("starting {name}"))?;
        Ok(Running { child })
    }
}

/// A program that goes on until it is dropped.
pub struct Running {
    child: Child,
}

impl Running {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_some())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        use nix::sys::signal::{Signal, kill};
        use nix::unistd::Pid;
        // Asked to stop first: a daemon may have files to close.
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        for _ in 0..100 {
            if self.has_ended() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
