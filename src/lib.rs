//! The Flotilla node: everything that touches the world. The rules of Raft, shards and the key-value state machine are
//! in `flotilla-shards`; here are threads, disks, sockets and the command line.

mod answers;
pub mod bench;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod console;
pub mod disk;
mod escape;
pub mod events;
pub mod exit;
mod http;
pub mod logging;
pub mod marks;
pub mod node;
pub mod process;
pub mod router;
pub mod runtime;
pub mod server;
pub mod shutdown;
pub mod status;
pub mod storage;
pub mod tls;
pub mod token;
pub mod transport;

#[cfg(test)]
#[path = "../shards/tests/bytes/feed.rs"]
mod feed;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
