//! The services over real sockets, with a machine in place of engine and disk.

mod access;
mod admin;
mod bootstrap;
mod door;
mod fake;
mod forward;
mod kv;
mod slow;
mod stream;
