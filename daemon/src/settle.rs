//! From what was typed and what stands in the file to one configuration that can run.

use std::path::{Path, PathBuf};

use crate::args::Args;
use crate::config::{Config, ConfigError};
use crate::policy::Anonymous;
use crate::v2::listener::Front;

/// A configuration with a store and, unless the service manager brings one, a socket.
#[derive(Debug)]
pub struct Settled {
    /// All of it, the command line's words in place.
    pub config: Config,
    /// The folder of the store.
    pub store: PathBuf,
    /// The listener beside the socket, if there is to be one.
    pub front: Option<Front>,
}

/// Reads the file, if there is one, and lets the command line override it.
///
/// # Errors
/// What is wrong, with the line where there is one.
pub fn settle(args: &Args) -> Result<Settled, ConfigError> {
    let mut config = match &args.config {
        Some(path) => Config::load(path)?,
        None => Config::default(),
    };
    if let Some(store) = &args.store {
        config.store.path = Some(store.clone());
    }
    if let Some(socket) = &args.socket {
        if crate::socket::is_abstract(socket) {
            return Err(ConfigError::elsewhere("--socket", "abstract sockets are not listened on"));
        }
        config.socket.path = Some(socket.clone());
    }
    if args.listen.is_some() {
        config.registry.listen = args.listen;
    }
    if args.allow_anonymous {
        config.registry.allow_anonymous = Anonymous::Everything;
    }
    if let Some(format) = args.log_format {
        config.log.format = format;
    }
    let Some(store) = config.store.path.clone() else {
        let reason = "name the store's folder with --store or in the configuration";
        return Err(ConfigError::elsewhere("store.path", reason));
    };
    let front = Front::load(&config.registry);
    let front = front.map_err(|(key, reason)| ConfigError::elsewhere(key, reason))?;
    Ok(Settled { config, store: absolute(&store), front })
}

/// `resolve` answers with absolute paths, so a relative one is completed once, at the start.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
