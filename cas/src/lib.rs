//! Truth on disk: exact bytes by digest, taken in once, sealed, checked at every hand-over.
//!
//! This crate is blocking code over one seam, [`disk`]. It knows no async, no sockets, no HTTP, no
//! keys, no clock (but for how old a change on the disk is) and no environment: what it needs of them
//! its callers pass in.
//!
//! What may be done to bytes follows from how far they have come, and the types say so:
//! [`Draft`] (being taken in) → [`Sealed`] (whole and durable since some time) → [`Checked`]
//! (every byte hashed just now).

mod absent;
mod buffer;
pub mod digest;
pub mod disk;
mod draft;
mod durable;
mod error;
mod index;
mod intake;
mod keeper;
pub mod layout;
mod leases;
mod linking;
mod locks;
pub mod media;
mod memory;
mod names;
pub mod oci;
mod proofs;
mod proving;
mod pushed;
mod quarantine;
pub mod reader;
mod repository;
mod sealed;
mod source;
mod stop;
mod store;
mod unsettled;
mod wal;
pub mod workspace;

pub use buffer::Buffer;
pub use draft::{Draft, Receipt, Taken, Tally};
pub use error::{Damage, DamageKind, Error};
pub use index::Facts;
pub use keeper::{Collected, Observation, Retired};
pub use leases::{Count, Leases, Listed};
pub use reader::Verified;
pub use repository::{Held, Push, Pushed, Repository, Upload, UploadId};
pub use sealed::{Checked, CheckedBlob, Reached, Sealed};
pub use source::Source;
pub use stop::Stop;
pub use store::{Dedup, Options, Store, Summary};
