//! One Raft group as a pure, deterministic state machine in the shape of etcd-raft.
//!
//! No threads, clocks, disks or networks: time comes in as ticks, randomness as a seed, what is stored is read through
//! [`Storage`], and everything to be done comes out in a [`Ready`]. [`RawNode`] is the door; the concepts behind it
//! have the names that etcd-raft gave them, and the text forms in [`fmt`] are those of its test data.
//!
//! # The contract
//!
//! The embedder has four duties, for each [`Ready`] it takes:
//!
//! 1. **Persist** hard state, entries and snapshot. Entries replace whatever the log has from the index of the first
//!    one on; a snapshot replaces the whole log, and comes before entries.
//! 2. **Send** the messages; each goes to the replica in its `to`. Any of them may be lost, repeated and reordered.
//!    Tell [`RawNode::report_unreachable`] of losses that are known, and [`RawNode::report_snapshot`] how it went with
//!    every `Snap`.
//! 3. **Apply** the committed entries to the state machine, in order. For a membership change call
//!    [`RawNode::apply_conf_change`] and keep the [`ConfState`] that it returns with the applied state: a restart
//!    needs the membership *as applied* ([`Storage::initial_state`]) and the applied index ([`Config::applied`]).
//! 4. **Acknowledge**, so that the group forgets what is durable and goes on with what is applied.
//!
//! What must be durable before what is sent is one rule: **a vote, and the acknowledgement of an append, may leave only
//! when everything handed out up to then is durable**; they promise what a crash must not undo. All other messages
//! promise nothing and may leave at once, also those with entries that the leader has yet to write itself.
//!
//! ## Asynchronous writes ([`Config::async_storage_writes`])
//!
//! The rule is data. Everything in [`Ready::messages`] may be sent at once. The writes are messages among them, and
//! what must wait for a write is attached to it as `responses`:
//!
//! - `StorageAppend` to [`ReplicaId::APPEND_THREAD`]: make `entries`, `snapshot` and, unless all of it is 0, the hard
//!   state `(term, vote, commit)` durable. Then deliver the responses, those to the own id by [`RawNode::step`].
//! - `StorageApply` to [`ReplicaId::APPLY_THREAD`]: apply `entries`, then deliver the responses.
//!
//! | may overlap | must not |
//! | --- | --- |
//! | appends with applications | two appends of one group: in the order given, responses in that order too |
//! | any number of appends in one write and one sync, also of many groups | two applications of one group: the same |
//! | taking the next [`Ready`] and sending its messages with all writes in flight | responses before their write is durable |
//!
//! Committed entries come up for application only when they are durable here. [`Storage`] must show what is durable
//! before its response is stepped, and may show it earlier.
//!
//! Three things to mind where writes, applications and compaction run beside each other:
//!
//! - A received snapshot puts its membership in force as soon as its `Snap` is stepped. Committed entries that were
//!   handed out before and are covered by it (`index < raft.log().first_index()`) must not change the membership any
//!   more: call [`RawNode::apply_conf_change`] when entries are handed out, or skip those. Their application is
//!   acknowledged all the same.
//! - The log may be compacted up to [`RawNode::applied`], which is what was acknowledged, and not beyond.
//! - What is applied is committed, though the commit index may not have been written yet when a crash comes: a restart
//!   raises the stored commit index to the applied index.
//!
//! ## Synchronous writes
//!
//! Persist, sync if [`Ready::must_sync`], send, apply, call [`RawNode::advance`]; only then take the next [`Ready`].
//! Sending may begin before persisting for all messages but `AppResp`, `VoteResp` and `PreVoteResp`. Simple, and one
//! write after the other: for tests and small embedders.
//!
//! ## Time
//!
//! Call [`RawNode::tick`] at a fixed interval, or pass ticks in when something is due ([`RawNode::ticks_until_due`])
//! and before every other call, so that timeouts and leases are never looked at with a clock that is behind. A quiet
//! group can rest ([`RawNode::quiesce`]), elections and heartbeats can be paced from outside
//! ([`Config::manual_elections`], [`Config::manual_heartbeats`]).
//!
//! ## What can go wrong
//!
//! A message that breaks the protocol, a request that can't be served, a membership change that doesn't fit: an
//! [`Error`], and the group goes on. A storage that fails: the group stops ([`RawNode::failure`]). A broken invariant
//! of the group's own: a panic that prints its state. Messages whose `from` is a storage thread are trusted, as are
//! acknowledgements and votes from the own id: who decodes messages from a network must refuse them.

pub mod confchange;
pub mod config;
pub mod error;
pub mod fmt;
pub mod inflights;
pub mod progress;
pub mod quorum;
#[allow(
    clippy::module_inception,
    reason = "the file that a reader of etcd-raft looks for first"
)]
pub mod raft;
pub mod raft_log;
pub mod raw_node;
pub mod read_only;
pub mod size;
pub mod storage;
pub mod tracker;
pub mod types;
pub mod unstable;

pub use config::{Config, ReadOnlyOption};
pub use error::{ConfigError, DropReason, Error, ProtocolError, StoredStateError};
pub use raft::Raft;
pub use raw_node::{Peer, RawNode, Ready, Status};
pub use read_only::ReadState;
pub use storage::{MemoryStorage, Storage, StorageError};
pub use types::*;
