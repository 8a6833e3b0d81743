//! A deterministic simulator of whole clusters: several nodes, many shards, clients, a network, disks and clocks, in one
//! thread and from one seed.
//!
//! The engine, the state machines, sessions, the rules for requests, routes, tries and recovery are the code that a real
//! node runs (`flotilla_shards`). What a node's threads do around them is modelled, see `node`'s table; disks, network and
//! clocks are models that fail in the ways that real ones do. After every event the invariants in `checks` are held
//! against the whole cluster, from a god's view, and what clients were told is held against what they asked.
//!
//! A run has two phases: faults, then calm weather in which everything must recover within a bounded simulated time.
//! The same seed gives the same run in every process: nothing here reads a clock, starts a thread or depends on the
//! order of a hash map. So a failure is told by its seed: `flotilla-sim --seed N --trace` shows what led to it.

mod checks;
mod client;
mod clock;
mod coverage;
mod disk;
mod fault;
mod network;
mod node;
mod queue;
mod report;
mod rpc;
mod settings;
mod sim;
mod trace;

pub use checks::Violation;
pub use client::workload::{self, Load};
pub use coverage::Coverage;
pub use fault::{Fault, FaultCounts};
pub use queue::{MILLIS, Micros, SECOND};
pub use report::{Operations, Report};
pub use settings::Settings;
pub use sim::{Outcome, run, run_with};
pub use trace::Listener;
