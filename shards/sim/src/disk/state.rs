//! The model of the state database: rows without a write-ahead log. Batches are readable at once and durable after a
//! flush; a crash loses them from the newest on, in order, at most back to the last flush.
//!
//! Beside the rows it keeps, for the checks only, a hash of each shard's content that costs what a batch changes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use flotilla_shards::ids::ShardId;
use flotilla_shards::keys::{self, RowKey, RowRange};
use flotilla_shards::kv::{
    MemoryState, Order, ShardState, StateBatch, StateView, ViewError, Visit,
};
use flotilla_shards::raft::{EntryId, Index};
use flotilla_shards::range_map::RangeMap;

use super::Unsynced;
use crate::trace::hash_bytes;

/// One batch: its rows, and how far it brings which shards.
#[derive(Clone, Debug, Default)]
struct Batch {
    rows: Vec<(Bytes, Option<Bytes>)>,
    applied: Vec<(ShardId, Index)>,
}

/// The state of one node.
#[derive(Clone, Debug)]
pub(crate) struct StateDisk {
    map: Arc<RangeMap>,
    current: MemoryState,
    durable: MemoryState,
    pending: VecDeque<Batch>,
    /// Batches that have become durable since the beginning.
    flushed: u64,
    durable_applied: BTreeMap<ShardId, Index>,
    hashes: BTreeMap<ShardId, u64>,
}

impl StateDisk {
    /// The rows that a node is born with.
    pub(crate) fn born(map: Arc<RangeMap>, rows: impl Iterator<Item = (Bytes, Bytes)>) -> Self {
        let mut durable = MemoryState::default();
        for (key, value) in rows {
            durable.put(key, value);
        }
        let mut disk = Self {
            map,
            current: MemoryState::default(),
            durable,
            pending: VecDeque::new(),
            flushed: 0,
            durable_applied: BTreeMap::new(),
            hashes: BTreeMap::new(),
        };
        disk.reopen();
        disk
    }

    /// Starts from what is durable.
    fn reopen(&mut self) {
        self.current.clone_from(&self.durable);
        self.hashes.clear();
        for (key, value) in self.current.rows() {
            let shard = shard_of(&self.map, key);
            *self.hashes.entry(shard).or_default() ^= row_hash(key, value);
        }
        self.durable_applied = (self.replicas().into_iter())
            .map(|state| (state.descriptor.shard, state.applied_index))
            .collect();
    }

    /// What a crash that drops everything unflushed would leave now.
    pub(crate) fn image(&self) -> Self {
        let mut image = Self {
            pending: VecDeque::new(),
            ..self.clone()
        };
        image.reopen();
        image
    }

    /// Writes a batch of the applier that brings these shards so far.
    pub(crate) fn write(&mut self, batch: &StateBatch, applied: Vec<(ShardId, Index)>) {
        let mut rows = Vec::with_capacity(batch.len());
        for (key, value) in batch.rows() {
            let row = (
                Bytes::copy_from_slice(key),
                value.map(Bytes::copy_from_slice),
            );
            self.set(row.0.clone(), row.1.clone());
            rows.push(row);
        }
        self.pending.push_back(Batch { rows, applied });
    }

    fn set(&mut self, key: Bytes, value: Option<Bytes>) {
        let hash = self.hashes.entry(shard_of(&self.map, &key)).or_default();
        let new = value.as_ref().map_or(0, |value| row_hash(&key, value));
        let old = self.current.replace(key.clone(), value);
        *hash ^= new ^ old.map_or(0, |old| row_hash(&key, &old));
    }

    /// Up to which batch a flush that begins now will make everything durable.
    pub(crate) fn written(&self) -> u64 {
        self.flushed + self.pending.len() as u64
    }

    /// Everything up to a batch has become durable.
    pub(crate) fn flush(&mut self, upto: u64) {
        while self.flushed < upto
            && let Some(batch) = self.pending.pop_front()
        {
            self.flushed += 1;
            for (key, value) in batch.rows {
                self.durable.replace(key, value);
            }
            self.durable_applied.extend(batch.applied);
        }
    }

    /// Puts a received snapshot in the place of a shard's rows, durably. If unflushed batches hold rows of the shard they
    /// are flushed first, as RocksDB does before it ingests files. Returns whether it did.
    pub(crate) fn install(&mut self, shard: ShardId, rows: &[(Bytes, Bytes)]) -> bool {
        let overlaps = (self.pending.iter())
            .any(|batch| batch.applied.iter().any(|(applied, _)| *applied == shard));
        if overlaps {
            self.flush(self.written());
        }
        let states = rows.iter().filter(|(key, _)| *key == keys::state(shard));
        let state = states.map(|(_, value)| ShardState::decode(value.clone()));
        let Some(Ok(state)) = state.last() else {
            unreachable!("a snapshot without the state of {shard} was taken in");
        };
        for range in keys::shard_rows(&state.descriptor) {
            self.current.remove(&range);
            self.durable.remove(&range);
        }
        let mut hash = 0;
        for (key, value) in rows {
            hash ^= row_hash(key, value);
            self.current.put(key.clone(), value.clone());
            self.durable.put(key.clone(), value.clone());
        }
        self.hashes.insert(shard, hash);
        self.durable_applied.insert(shard, state.applied_index);
        overlaps
    }

    /// The power goes.
    pub(crate) fn crash(&mut self, unsynced: Unsynced, rng: &mut fastrand::Rng) {
        let survivors = unsynced.survivors(self.pending.len(), rng);
        self.flush(self.flushed + survivors as u64);
        self.pending.clear();
        self.reopen();
    }

    /// Applied index of a shard that survives a crash.
    pub(crate) fn durable_applied(&self, shard: ShardId) -> Option<Index> {
        self.durable_applied.get(&shard).copied()
    }

    /// Where a shard's readable state stands.
    pub(crate) fn position(&self, shard: ShardId) -> Option<EntryId> {
        let row = self.current.get(&keys::state(shard)).ok()??;
        let state = ShardState::decode(row).ok()?;
        Some(EntryId {
            term: state.applied_term,
            index: state.applied_index,
        })
    }

    /// Hash of everything that a shard's applied state consists of.
    pub(crate) fn hash(&self, shard: ShardId) -> u64 {
        self.hashes.get(&shard).copied().unwrap_or_default()
    }

    /// The applied state of all replicas, by shard.
    pub(crate) fn replicas(&self) -> Vec<ShardState> {
        let mut found = Vec::new();
        let scanned = self.current.scan(
            &keys::all_state_rows(),
            Order::Ascending,
            &mut |_, value| {
                if let Ok(state) = ShardState::decode(Bytes::copy_from_slice(value)) {
                    found.push(state);
                }
                std::ops::ControlFlow::Continue(())
            },
        );
        scanned.unwrap_or_else(|error| unreachable!("memory can be read: {error}"));
        found
    }

    /// A shard's rows as of now, for a snapshot.
    pub(crate) fn export(&self, shard: ShardId) -> Option<(ShardState, Vec<(Bytes, Bytes)>)> {
        let row = self.current.get(&keys::state(shard)).ok()??;
        let state = ShardState::decode(row).ok()?;
        let mut rows = Vec::new();
        for range in keys::shard_rows(&state.descriptor) {
            let scanned = self
                .current
                .scan(&range, Order::Ascending, &mut |key, value| {
                    rows.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
                    std::ops::ControlFlow::Continue(())
                });
            scanned.ok()?;
        }
        Some((state, rows))
    }
}

impl StateView for StateDisk {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        self.current.get(key)
    }

    fn scan(&self, range: &RowRange, order: Order, visit: &mut Visit<'_>) -> Result<(), ViewError> {
        self.current.scan(range, order, visit)
    }
}

fn row_hash(key: &[u8], value: &[u8]) -> u64 {
    hash_bytes(hash_bytes(1, key), value)
}

/// Whose state a row is part of.
fn shard_of(map: &RangeMap, key: &Bytes) -> ShardId {
    match keys::decode(key.clone()) {
        Ok(RowKey::User(key)) => map.lookup(&key).map_or(ShardId(0), |found| found.shard),
        Ok(RowKey::Meta(_)) => ShardId::META,
        Ok(RowKey::Session { shard, .. } | RowKey::State(shard)) => shard,
        Ok(RowKey::Identity) | Err(_) => ShardId(0),
    }
}
