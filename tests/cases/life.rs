//! The daemon's life: how it begins, what it is told, who may do what, how it ends, and that rude
//! company costs it nothing.

mod begin;
mod end;
mod index;
mod policy;
mod rude;
mod systemd;
