//! The threads that run the engine: workers that own the shards, and the applier. They feed inputs to the sans-IO core
//! and carry its outputs to storage, transport and router; they decide nothing about a shard.

mod applier;
mod reply;
mod request;

pub use applier::{Applier, ApplierEvent, ApplierLimits, OnApplied};
pub use reply::{Answer, Budget, Busy, Outcome, Permit, Reply};
pub use request::ShardRequest;
