//! One Raft group as a pure, deterministic state machine in the shape of etcd-raft.

pub mod confchange;
pub mod fmt;
pub mod inflights;
pub mod progress;
pub mod quorum;
pub mod tracker;
pub mod types;

pub use types::*;
