//! Real processes: three nodes that are killed, stopped, cut off and filled up while real clients use them. What is
//! decided inside a shard is tested in `flotilla-shards`; here it is shown that the thin shell around it keeps the
//! promises of the README. The cluster of a test, and the network between its nodes, come from `flotilla-harness`.
//!
//! - [`abuse`]: clients that are slow on purpose, or ask for more than they take.
//! - [`import`]: a real data set through kills and pauses.
//! - [`reads`], [`writes`]: what clients were promised, while nodes are cut off, stand still and die.
//! - [`recovery`]: followers that come back.
//! - [`disks`]: disks that fill up.
//! - [`hostile`]: bytes and requests that nobody should send.
//! - [`overload`]: more than a node can take.
//! - [`many`]: ten thousand shards, and what a write costs.
//! - [`places`]: nodes that move, folders that are somewhere else than they belong, the first leaders.
//! - [`access`]: who may do what, and what is told to nobody.
//! - [`bench`]: loads of `flotilla bench`, and how they end.
//! - [`secure`]: certificates, and who comes in without the right ones.
//! - [`start`]: what ends a node, and with which exit code.
//! - [`debug`]: what goes into a report of a fault.
//! - [`supervised`]: what systemd and health checks are told.

mod abuse;
mod access;
mod bench;
mod debug;
mod disks;
mod hostile;
mod import;
mod many;
mod overload;
mod places;
mod reads;
mod recovery;
mod secure;
mod start;
mod supervised;
mod writes;
