//! The model of the state database: rows without a write-ahead log. Batches are readable at once and durable after a
//! flush; a crash loses them from the newest on, in order, at most back to the last flush.
//!
//! Beside the rows it keeps, for the checks only, a hash of each shard's data and sessions that costs what a batch changes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use flotilla_shards::ids::ShardId;
use flotilla_shards::keys::{self, RowKey, RowRange};
use flotilla_shards::kv::{
    ApplyError, Journal, JournalLimits, MemoryState, Order, ShardState, StateBatch, StateView,
    ViewError, Visit, positions,
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
    /// Of all rows but those that say how far shards have come.
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
            if let Some(shard) = shard_of(&self.map, key) {
                *self.hashes.entry(shard).or_default() ^= row_hash(key, value);
            }
        }
        let replicas = self.replicas();
        let replicas =
            replicas.unwrap_or_else(|error| unreachable!("rows are not damaged: {error}"));
        self.durable_applied = (replicas.into_iter())
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
        let new = value.as_ref().map_or(0, |value| row_hash(&key, value));
        let old = self.current.replace(key.clone(), value);
        if let Some(shard) = shard_of(&self.map, &key) {
            let change = new ^ old.map_or(0, |old| row_hash(&key, &old));
            *self.hashes.entry(shard).or_default() ^= change;
        }
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
            for (shard, index) in batch.applied {
                // A snapshot that is further may have been installed meanwhile.
                let durable = self.durable_applied.entry(shard).or_insert(index);
                *durable = index.max(*durable);
            }
        }
    }

    /// Puts a received snapshot in the place of a shard's rows, durably. If unflushed batches hold rows of the shard they
    /// are flushed first, as RocksDB does before it ingests files: positions are none of its rows. Returns whether it did.
    pub(crate) fn install(&mut self, shard: ShardId, rows: &[(Bytes, Bytes)]) -> bool {
        let states = rows.iter().filter(|(key, _)| *key == keys::state(shard));
        let state = states.map(|(_, value)| ShardState::decode(value.clone()));
        let Some(Ok(state)) = state.last() else {
            unreachable!("a snapshot without the state of {shard} was taken in");
        };
        let ranges = keys::shard_rows(&state.descriptor);
        let touched = |key| ranges.iter().any(|range| range.contains(key));
        let overlaps =
            (self.pending.iter()).any(|batch| batch.rows.iter().any(|(key, _)| touched(key)));
        if overlaps {
            self.flush(self.written());
        }
        for range in ranges {
            self.current.remove(&range);
            self.durable.remove(&range);
        }
        let mut hash = 0;
        for (key, value) in rows {
            if shard_of(&self.map, key) == Some(shard) {
                hash ^= row_hash(key, value);
            }
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
        let state = positions::shard_state(&self.current, shard).ok()??;
        Some(state.position().applied)
    }

    /// Hash of everything that a shard's applied state consists of.
    pub(crate) fn hash(&self, shard: ShardId) -> u64 {
        let hash = self.hashes.get(&shard).copied().unwrap_or_default();
        match positions::shard_state(&self.current, shard) {
            Ok(Some(state)) => hash ^ row_hash(&keys::state(shard), &state.encode()),
            Ok(None) => hash,
            Err(error) => unreachable!("rows are not damaged: {error}"),
        }
    }

    /// The applied state of all replicas, by shard.
    pub(crate) fn replicas(&self) -> Result<Vec<ShardState>, ApplyError> {
        positions::shard_states(&self.current)
    }

    /// What a start makes of rows of positions.
    pub(crate) fn recover(&mut self, limits: JournalLimits) -> Result<Journal, ApplyError> {
        let mut journal = Journal::read(&self.current, limits)?;
        self.checkpoint(&mut journal)?;
        Ok(journal)
    }

    /// Writes the state rows for which rows of positions stand.
    pub(crate) fn checkpoint(&mut self, journal: &mut Journal) -> Result<(), ApplyError> {
        let mut batch = StateBatch::default();
        while journal.checkpoint(&self.current, &mut batch)? {
            self.write(&batch, Vec::new());
            batch.clear();
        }
        Ok(())
    }

    /// A shard's rows as of now, for a snapshot.
    pub(crate) fn export(&self, shard: ShardId) -> Option<(ShardState, Vec<(Bytes, Bytes)>)> {
        let state = positions::shard_state(&self.current, shard).ok()??;
        let mut rows = Vec::new();
        let visited = positions::visit_shard(&self.current, &state, &mut |key, value| {
            rows.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
            std::ops::ControlFlow::Continue(())
        });
        visited.ok()?;
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

/// Whose data or session a row is.
fn shard_of(map: &RangeMap, key: &Bytes) -> Option<ShardId> {
    match keys::decode(key.clone()) {
        Ok(RowKey::User(key)) => map.lookup(&key).map(|found| found.shard),
        Ok(RowKey::Meta(_)) => Some(ShardId::META),
        Ok(RowKey::Session { shard, .. }) => Some(shard),
        Ok(RowKey::Identity | RowKey::State(_) | RowKey::Positions(_)) | Err(_) => None,
    }
}
