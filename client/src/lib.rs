//! Everything that runs with the user's own rights: the client of `bonded`, as a library and as
//! the command `bond`.
//!
//! ```no_run
//! # async fn example() -> Result<(), client::Error> {
//! use client::Client;
//!
//! let client = Client::connect("/run/bonded/bonded.sock").await?.in_workspace("ci")?;
//! let put = client.put_file("notes.txt", "exact bytes").await?;
//! println!("{} is kept in {}", put.digest, put.handle.oci_layout.path);
//! # Ok(())
//! # }
//! ```
//!
//! A [`Client`] is cheap to clone and safe to share; it keeps a few connections to one daemon and
//! speaks for one workspace. It must be used inside a tokio runtime with I/O and time enabled. What
//! it gets is hashed here again, but for what [`Client::descriptor`] hands over; what it puts is proved
//! by the daemon, byte by byte.
//!
//! This crate knows the wire and the formats, and nothing of how the store keeps things.

mod bridge;
pub mod cli;
mod connection;
mod door;
mod get;
mod hearing;
mod payload;
mod pool;
mod problem;
mod progress;
mod put;
mod routes;

pub use pool::Client;
pub use problem::Error;
pub use progress::Progress;
pub use put::{FileBytes, FileOptions};

#[cfg(test)]
mod tests;
