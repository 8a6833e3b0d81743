//! The sans-IO core of Flotilla: everything that must be decided alike on all replicas, and nothing that touches the
//! world.
//!
//! # The contract
//!
//! There are no threads, clocks, sockets, files or random sources in here, and nothing depends on the order of a hash map
//! (`clippy.toml`, `tests/dependencies.rs` and the house rules' test hold that). Time and randomness are arguments. So the
//! same code runs in a node, with threads and disks around it, and in a simulator, with neither.
//!
//! - [`raft`] is one Raft group as a state machine. It does not know that there are many groups, nor what entries mean.
//! - [`kv`] is what the entries mean: commands, sessions, answers, reads. [`meta`] is the same for the directory, which
//!   is a shard of its own, and [`genesis`] says how all of it begins.
//! - [`access`] is who may do what: the tables, which lie in the directory, and the one place that decides.
//! - [`engine`] is many groups at once: their batching, timers, reads and outputs; [`recovery`] says with what they
//!   start after a crash.
//! - [`wire`], [`descriptor`], [`keys`] and [`value`] are the gates. What comes from the network or from a disk becomes a
//!   checked type there, or a typed error; behind the gates nobody checks again, and a broken invariant is our own fault
//!   and stops the process.
//! - [`limits`] bounds everything that anyone outside can make large.
//!
//! The embedder keeps two stores. The *log* holds entries and hard states, and is durable before anything that rests on it
//! is said to anybody. The *state* holds the rows that [`keys`] lays out; each batch that is written to it carries the
//! applied index of every shard that it changes, so that it may lose its newest batches in a crash, in order, and get
//! them again from the log.

pub mod access;
pub mod descriptor;
pub mod engine;
pub mod genesis;
pub mod ids;
pub mod keys;
pub mod kv;
pub mod limits;
pub mod lineage;
pub mod meta;
pub mod node;
pub mod raft;
pub mod range_map;
pub mod recovery;
pub mod service;
pub mod value;
pub mod wire;
