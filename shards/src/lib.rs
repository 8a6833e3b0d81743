//! The sans-IO core of Flotilla.
pub mod raft;
