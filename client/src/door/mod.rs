//! The front door of one command: what `bond exec` opens, prepares, runs and closes again.
//!
//! | room | owns |
//! |---|---|
//! | `listener` | the port and its connections |
//! | `relay`, `bodies` | one request: let in or not, carried to the daemon; what it carries |
//! | `credential`, `certificate` | what is made for one command |
//! | `patient` | the end of those who do not read |
//! | `tools`, `logins` | what the tools find: variables and files; formats of logins |
//! | `folder` | every call to the filesystem |
//! | `command` | the command and its signals |
//!
//! Nothing here knows what a registry is: that is the daemon's.

mod bodies;
mod certificate;
pub(crate) mod command;
mod credential;
mod folder;
mod listener;
mod logins;
mod patient;
mod relay;
pub(crate) mod tools;

pub(crate) use listener::Door;
