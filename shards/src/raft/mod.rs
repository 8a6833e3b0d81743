//! One Raft group as a pure, deterministic state machine in the shape of etcd-raft.

pub mod types;

pub use types::*;
