//! The daemon's life: how it begins, what it is told, who may do what, how it ends, and that rude
//! company costs it nothing.

mod begin;
mod crowd;
mod end;
mod index;
mod leaving;
mod limits;
mod policy;
mod refused;
mod rude;
mod systemd;
