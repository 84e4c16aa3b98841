//! What `bonded` and its clients say to each other.
//!
//! Types of requests and answers, the closed list of error codes, the stream that carries open
//! descriptors beside bytes, and which requests there is one way to read. This crate knows digests
//! and descriptors and nothing of stores, files or command lines.

pub mod api;
pub mod code;
pub mod framing;
mod refusal;
pub mod stream;

pub use code::{Code, Problem};
