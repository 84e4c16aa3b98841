//! Registries to be measured: started on loopback with their files in a folder of their own, or
//! somebody else's that run already.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::resource::UsageWho;

use crate::cache;
use crate::daemon::Daemon;
use crate::measure::{Doing, Failed, Result};
use crate::programs::{Programs, Running};
use crate::registry::At;
use crate::usage::Usage;

/// How long a registry may take to listen.
const STARTS_WITHIN: Duration = Duration::from_secs(10);

/// A registry that can be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// olareg, with OCI layouts on disk; never synced, never verified.
    Olareg,
    /// Distribution, the reference registry, with files on disk; never synced, never verified.
    Distribution,
    /// The registry that is part of crane, with files on disk.
    Crane,
}

impl Peer {
    /// All of them.
    pub const ALL: [Peer; 3] = [Peer::Olareg, Peer::Distribution, Peer::Crane];

    /// What the table calls it.
    pub fn name(self) -> &'static str {
        match self {
            Peer::Olareg => "olareg",
            Peer::Distribution => "distribution",
            Peer::Crane => "crane",
        }
    }
}

/// A registry that runs. One that was started here ends when this is dropped; its files stay where
/// they are, hollowed out, until somebody removes the folder.
pub struct Server<'a> {
    at: At,
    own: Option<Own<'a>>,
}

enum Own<'a> {
    Bonded(Daemon<'a>, #[expect(dead_code, reason = "only its end is of use")] Folder),
    Peer(Running, #[expect(dead_code, reason = "only its end is of use")] Folder),
}

/// A folder that is hollowed out when this is dropped.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        cache::hollow_out(&self.0);
    }
}

impl<'a> Server<'a> {
    /// `bonded` with a store in `dir`, asked over loopback or over its Unix socket.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn bonded(programs: &'a Programs, dir: &Path, over_socket: bool) -> Result<Server<'a>> {
        let daemon = Daemon::start_on_loopback(programs, dir)?;
        let at = match over_socket {
            true => At::Socket(daemon.socket()),
            false => At::Tcp(daemon.address()?),
        };
        let folder = Folder(daemon.store());
        Ok(Server { at, own: Some(Own::Bonded(daemon, folder)) })
    }

    /// One that runs already.
    pub fn foreign(address: SocketAddr) -> Server<'a> {
        Server { at: At::Tcp(address), own: None }
    }

    /// A peer with its files in `dir`.
    ///
    /// # Errors
    /// When it is not here or does not come up.
    pub fn peer(programs: &Programs, dir: &Path, peer: Peer) -> Result<Server<'a>> {
        let name = peer.name();
        let home = dir.join(name);
        let _ = fs::remove_dir_all(&home);
        fs::create_dir_all(&home).doing(format!("making a folder for {name}"))?;
        let folder = Folder(home.clone());
        // Free a moment ago; not every peer can be told to choose one itself.
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|free| free.local_addr());
        let address = free.doing("looking for a free port")?;
        let (listen, port) = (address.to_string(), address.port().to_string());
        let files = home.to_string_lossy();
        let log = dir.join(format!("{name}.log"));
        let mut running = match peer {
            Peer::Olareg => {
                let words = ["serve", "--addr", "127.0.0.1", "--port", &port, "--dir", &files];
                programs.start("olareg", &words, &log)?
            }
            Peer::Crane => {
                let words = ["registry", "serve", "--address", &listen, "--disk", &files];
                programs.start("crane", &words, &log)?
            }
            Peer::Distribution => {
                let config = home.join("config.yml");
                fs::write(&config, distribution(&listen, &home.join("files")))
                    .doing("configuring distribution")?;
                programs.start("registry", &["serve".as_ref(), config.as_os_str()], &log)?
            }
        };
        let begun = Instant::now();
        while TcpStream::connect(address).is_err() {
            if running.has_ended() || begun.elapsed() > STARTS_WITHIN {
                return Err(Failed(format!("{name} does not listen, see {}", log.display())));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(Server { at: At::Tcp(address), own: Some(Own::Peer(running, folder)) })
    }

    /// Where it listens.
    pub fn at(&self) -> &At {
        &self.at
    }

    /// The socket of `bonded`, where it is that.
    pub fn socket(&self) -> Option<PathBuf> {
        match &self.own {
            Some(Own::Bonded(daemon, _)) => Some(daemon.socket()),
            Some(Own::Peer(..)) | None => None,
        }
    }

    /// The processor time that it and this process have used so far; nothing where it is foreign.
    ///
    /// # Errors
    /// When it has ended.
    pub fn usage(&self) -> Result<Option<Usage>> {
        let pid = match &self.own {
            Some(Own::Bonded(daemon, _)) => daemon.pid(),
            Some(Own::Peer(running, _)) => running.pid(),
            None => return Ok(None),
        };
        Usage::of(pid, UsageWho::RUSAGE_SELF).map(Some)
    }
}

/// A configuration as its documentation shows it, without what costs time and is no part of serving.
fn distribution(listen: &str, files: &Path) -> String {
    format!(
        "version: 0.1\n\
         log: {{level: error, accesslog: {{disabled: true}}}}\n\
         storage:\n\
         \x20 filesystem: {{rootdirectory: {files:?}}}\n\
         http: {{addr: {listen:?}, secret: not-a-secret}}\n"
    )
}
