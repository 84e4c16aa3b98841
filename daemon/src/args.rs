//! What was typed on the command line of `bonded`, and nothing of what it means.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// Keeps build artifacts under seal, by digest, and hands back exactly the bytes that came in.
#[derive(Debug, Parser)]
#[command(name = "bonded", version)]
pub struct Args {
    /// The folder of the store; made when it is absent
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,
    /// The Unix socket to listen on
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// An address to serve the distribution API on as well, as 127.0.0.1:5000
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,
    /// Whoever connects to that address, on loopback, may do what the policy gives to anonymous peers
    #[arg(long)]
    pub allow_anonymous: bool,
    /// The configuration file; without one, the defaults hold
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// How lines of the log look
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// Read the configuration, say what is wrong with it, and end
    #[arg(long)]
    pub check_config: bool,
    /// Print a configuration file with every key at its default, and end
    #[arg(long)]
    pub print_config: bool,
}

/// How lines of the log look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}
