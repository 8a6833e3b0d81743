//! The Flotilla node: everything that touches the world. The rules of Raft, shards and the key-value state machine are
//! in `flotilla-shards`; here are threads, disks, sockets and the command line.

pub mod client;
pub mod runtime;
