//! `bonded`: the process that owns the store, listens on a Unix socket, and connects to nothing.
//!
//! A request goes straight down: [`serve`] accepts it, [`routes`] names its op, the op's file in
//! [`ops`] tells its story, [`bridge`] runs what blocks, and one value comes back up. Nothing
//! here knows how bytes lie on disk; nothing below knows of sockets, peers or time.

pub mod answer;
pub mod app;
pub mod args;
pub mod ask;
pub mod body;
pub mod body_room;
pub mod bridge;
pub mod clocked;
pub mod config;
pub mod connections;
pub mod drafts;
pub mod log;
pub mod metrics;
pub mod named_file;
pub mod ops;
pub mod outgoing;
pub mod peer;
pub mod policy;
pub mod query;
pub mod record;
pub mod refusal;
pub mod routes;
pub mod serve;
pub mod settle;
pub mod socket;
pub mod status;
pub mod units;
pub mod v2;
