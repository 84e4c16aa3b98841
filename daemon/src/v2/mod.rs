//! The front door: the OCI distribution API as every tool speaks it, under `/v2/`.
//!
//! Here is what all its verbs share: the grammar of paths, queries and ranges, the one map from
//! what went wrong to status and code, the sessions of uploads, and who is let in over TCP. The verbs
//! themselves are in `ops/v2`. Everything follows the distribution specification 1.1 and what its main branch has
//! added; where it leaves a choice, `docs/http.md` says which one was made.

pub mod fault;
pub mod listener;
pub mod login;
pub mod path;
pub mod range;
pub mod sessions;
pub mod tls;
pub mod users;
