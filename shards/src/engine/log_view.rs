//! A replica's log as its Raft group reads it: the recent end from memory, the rest from the log store.
//!
//! The view holds what has been handed to the storage writer, in that order, so it is at most ahead of the disk; what
//! is durable is Raft's own knowledge. Entries stay cached until they are durable, applied and acknowledged by the
//! followers that keep up, or until the cache is full; a follower further behind is served from the store.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use super::io::LogReader;
use crate::{
    ids::ShardId,
    raft::{
        ConfState, Entry, EntryId, HardState, Index, Snapshot, SnapshotMeta, Term,
        storage::{Storage, StorageError},
    },
};

/// Counts the cached bytes and look-ups of all replicas of an engine.
#[derive(Debug, Default)]
pub struct CacheCount {
    /// Bytes of entries held in memory.
    pub bytes: AtomicU64,
    /// Reads answered from memory.
    pub hits: AtomicU64,
    /// Reads that went to the log store.
    pub misses: AtomicU64,
}

/// See the module. *Invariant:* `compacted.index <= cache_start <= last.index + 1`, the cache holds exactly
/// `[cache_start, last.index]`, and `applied.index >= compacted.index`.
#[derive(Debug)]
pub struct LogView<L> {
    shard: ShardId,
    reader: L,
    count: Arc<CacheCount>,
    /// As of the start; Raft keeps the present one itself.
    initial: HardState,
    /// Shared by all replicas that have the same.
    conf_state: Arc<ConfState>,
    compacted: EntryId,
    last: EntryId,
    /// Durable and in the state database, or on the way there: what a snapshot would cover.
    applied: EntryId,
    cache: VecDeque<Entry>,
    cache_bytes: u64,
    /// Bytes of the whole log, cached or not, roughly.
    log_bytes: u64,
}

fn cost(entry: &Entry) -> u64 {
    (entry.data.len() + size_of::<Entry>()) as u64
}

impl<L: LogReader> LogView<L> {
    pub(super) fn new(
        shard: ShardId,
        reader: L,
        count: Arc<CacheCount>,
        conf_state: Arc<ConfState>,
        found: &super::io::RecoveredReplica,
    ) -> Self {
        Self {
            shard,
            reader,
            count,
            initial: found.hard_state,
            conf_state,
            compacted: found.compacted,
            last: found.last,
            applied: found.applied,
            cache: VecDeque::new(),
            cache_bytes: 0,
            log_bytes: found.log_bytes,
        }
    }

    /// Position of the last entry that was cut.
    pub(super) fn compacted(&self) -> EntryId {
        self.compacted
    }

    /// Position up to which the state database has the entries.
    pub(super) fn applied(&self) -> EntryId {
        self.applied
    }

    /// Bytes in memory.
    pub(super) fn cache_bytes(&self) -> u64 {
        self.cache_bytes
    }

    /// Bytes of the log as a whole, roughly.
    pub(super) fn log_bytes(&self) -> u64 {
        self.log_bytes
    }

    fn cache_start(&self) -> Index {
        Index(self.last.index.0 + 1 - self.cache.len() as u64)
    }

    fn charge(&mut self, entry: &Entry) {
        let cost = cost(entry);
        self.cache_bytes += cost;
        self.log_bytes += cost;
        self.count.bytes.fetch_add(cost, Relaxed);
    }

    fn discharge(&mut self, cost: u64) {
        self.cache_bytes -= cost;
        self.count.bytes.fetch_sub(cost, Relaxed);
    }

    /// Takes over what is being handed to the storage writer. Overwrites from the first entry's index on.
    pub(super) fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else {
            return;
        };
        assert!(
            first.index > self.compacted.index && first.index <= self.last.index.next(),
            "{}: append from {} to a log of ({}, {}], applied {}: Raft hands out entries without gaps and never below \
             the compacted position",
            self.shard,
            first.index,
            self.compacted.index,
            self.last.index,
            self.applied.index,
        );
        while self.last.index >= first.index {
            if let Some(entry) = self.cache.pop_back() {
                let cost = cost(&entry);
                self.discharge(cost);
                self.log_bytes = self.log_bytes.saturating_sub(cost);
                self.last.index = self.last.index.prev();
            } else {
                self.last.index = first.index.prev();
            }
        }
        for entry in entries {
            self.charge(entry);
            self.cache.push_back(entry.clone());
            self.last = EntryId {
                term: entry.term,
                index: entry.index,
            };
        }
    }

    /// Replaces everything by a snapshot that is being installed.
    pub(super) fn install(&mut self, meta: &SnapshotMeta) {
        self.discharge(self.cache_bytes);
        self.cache.clear();
        self.log_bytes = 0;
        self.compacted = EntryId {
            term: meta.term,
            index: meta.index,
        };
        self.last = self.compacted;
        self.applied = self.compacted;
        self.conf_state = Arc::new(meta.conf_state.clone());
    }

    /// Notes that entries up to here are applied.
    pub(super) fn set_applied(&mut self, applied: EntryId) {
        if applied.index > self.applied.index {
            self.applied = applied;
        }
    }

    /// Notes the membership that a snapshot at the applied position has.
    pub(super) fn set_conf_state(&mut self, conf_state: ConfState) {
        self.conf_state = Arc::new(conf_state);
    }

    /// Drops cached entries up to and including `upto`. They must be durable, since from now on they are read from the
    /// store.
    pub(super) fn trim(&mut self, upto: Index) {
        let start = self.cache_start();
        if upto < start {
            return;
        }
        let mut freed = 0;
        for _ in start.0..=upto.0.min(self.last.index.0) {
            if let Some(entry) = self.cache.pop_front() {
                freed += cost(&entry);
            }
        }
        self.discharge(freed);
        if self.cache.is_empty() {
            self.cache = VecDeque::new();
        } else if self.cache.capacity() > 64 && self.cache.capacity() > 4 * self.cache.len() {
            self.cache.shrink_to(2 * self.cache.len());
        }
    }

    /// Moves the log's beginning behind `upto`.
    pub(super) fn compact(&mut self, upto: EntryId) {
        let entries = self.last.index.0 - self.compacted.index.0;
        let cut = upto.index.0 - self.compacted.index.0;
        if entries > 0 {
            // Entries are taken to be of equal size here: the sum is a bound for compaction and replay, not an account.
            self.log_bytes -=
                (u128::from(self.log_bytes) * u128::from(cut) / u128::from(entries)) as u64;
        }
        self.trim(upto.index);
        self.compacted = upto;
    }
}

impl<L> Drop for LogView<L> {
    fn drop(&mut self) {
        self.count.bytes.fetch_sub(self.cache_bytes, Relaxed);
    }
}

impl<L: LogReader> Storage for LogView<L> {
    fn initial_state(&self) -> Result<(HardState, ConfState), StorageError> {
        Ok((self.initial, ConfState::clone(&self.conf_state)))
    }

    fn entries(&self, low: Index, high: Index, max_size: u64) -> Result<Vec<Entry>, StorageError> {
        if low <= self.compacted.index {
            return Err(StorageError::Compacted);
        }
        if high > self.last.index.next() {
            return Err(StorageError::Unavailable);
        }
        if low >= high {
            return Ok(Vec::new());
        }
        let start = self.cache_start();
        if low < start {
            self.count.misses.fetch_add(1, Relaxed);
            return self
                .reader
                .entries(self.shard, low, high.min(start), max_size)
                .map_err(StorageError::Other);
        }
        self.count.hits.fetch_add(1, Relaxed);
        let mut size = 0;
        let from = (low.0 - start.0) as usize;
        let to = (high.0 - start.0) as usize;
        let mut entries = Vec::new();
        for entry in self.cache.range(from..to) {
            size += crate::raft::size::entry_size(entry);
            if size > max_size && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
        }
        Ok(entries)
    }

    fn term(&self, index: Index) -> Result<Term, StorageError> {
        if index == self.compacted.index {
            return Ok(self.compacted.term);
        }
        if index < self.compacted.index {
            return Err(StorageError::Compacted);
        }
        if index == self.last.index {
            return Ok(self.last.term);
        }
        if index > self.last.index {
            return Err(StorageError::Unavailable);
        }
        let start = self.cache_start();
        if index >= start {
            return Ok(self.cache[(index.0 - start.0) as usize].term);
        }
        if index == self.applied.index {
            return Ok(self.applied.term);
        }
        self.count.misses.fetch_add(1, Relaxed);
        self.reader
            .term(self.shard, index)
            .map_err(StorageError::Other)
    }

    fn first_index(&self) -> Index {
        self.compacted.index.next()
    }

    fn last_index(&self) -> Index {
        self.last.index
    }

    fn snapshot(&self) -> Result<Snapshot, StorageError> {
        Ok(Snapshot {
            meta: SnapshotMeta {
                index: self.applied.index,
                term: self.applied.term,
                conf_state: ConfState::clone(&self.conf_state),
            },
            data: bytes::Bytes::new(),
        })
    }
}
