//! What etcd-raft has no tests for, because it does not have it: rounds of read confirmation, leases counted from
//! sending, promises that outlive restarts, lazy commits, ticks passed in bulk, paced elections and heartbeats,
//! quiescence, and errors instead of panics for what a message or a storage says.

mod commits;
mod errors;
mod leases;
mod network;
mod quiescence;
mod rounds;
mod time;
