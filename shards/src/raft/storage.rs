//! What a group reads from its durable log, and an implementation in memory.
//!
//! The group only reads here. Writing is the embedder's part: it takes entries, hard states and snapshots from a
//! [`Ready`](super::Ready) and makes them durable as the contract in [`super`] says.

use super::size::limit_size;
use super::types::{ConfState, Entry, EntryId, HardState, Index, Snapshot, Term};
use std::collections::VecDeque;

/// Why a storage could not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StorageError {
    /// The position was compacted away; a snapshot stands in for it.
    #[error("requested index is unavailable due to compaction")]
    Compacted,
    /// The position is beyond the end of the log, or a hole.
    #[error("requested entry at index is unavailable")]
    Unavailable,
    /// The snapshot is older than the one that is already there.
    #[error("requested index is older than the existing snapshot")]
    SnapshotOutOfDate,
    /// The snapshot is still being made; the group asks again later.
    #[error("snapshot is temporarily unavailable")]
    SnapshotTemporarilyUnavailable,
    /// Anything else, such as a failed read or a failed checksum. It ends the group: see
    /// [`RawNode::failure`](super::RawNode::failure).
    #[error("log storage failed: {0}")]
    Other(String),
}

impl StorageError {
    /// Whether this only says that the position is not in the log, as opposed to a storage that can't be trusted.
    #[must_use]
    pub fn is_out_of_bounds(&self) -> bool {
        matches!(self, Self::Compacted | Self::Unavailable)
    }
}

/// The durable log of one group, as far as the group reads it (etcd `Storage`).
///
/// The bounds and the initial state are things that any storage knows without I/O, hence without errors; the bounds
/// must reflect exactly what the embedder has reported as durable, or more.
pub trait Storage {
    /// Hard state and membership as of the last start. The membership is that of the applied state.
    ///
    /// # Errors
    /// [`StorageError::Other`] if they could not be read.
    fn initial_state(&self) -> Result<(HardState, ConfState), StorageError>;

    /// Entries `[low, high)`: as many as fit in `max_size` bytes ([`super::size::entry_size`]), at least one.
    ///
    /// # Errors
    /// [`StorageError::Compacted`] if `low` is below the first index, [`StorageError::Unavailable`] if the log ends
    /// before `high`, [`StorageError::Other`] if they could not be read.
    fn entries(&self, low: Index, high: Index, max_size: u64) -> Result<Vec<Entry>, StorageError>;

    /// Term of the entry at `index`, which may be from one below the first index on (the compacted position whose
    /// term is kept for matching) to the last index.
    ///
    /// # Errors
    /// [`StorageError::Compacted`] or [`StorageError::Unavailable`] outside of that, [`StorageError::Other`] if it
    /// could not be read.
    fn term(&self, index: Index) -> Result<Term, StorageError>;

    /// Index of the first entry that is there, or would be: one above the compacted position.
    fn first_index(&self) -> Index;

    /// Index of the last entry; the compacted position if there is none.
    fn last_index(&self) -> Index;

    /// A snapshot for a follower that needs what was compacted. Its index is at least the compacted position.
    ///
    /// # Errors
    /// [`StorageError::SnapshotTemporarilyUnavailable`] if it is being made, [`StorageError::Other`] on failure.
    fn snapshot(&self) -> Result<Snapshot, StorageError>;
}

/// A log in memory (etcd `MemoryStorage`): for tests, simulation and benchmarks.
#[derive(Clone, Debug, Default)]
pub struct MemoryStorage {
    hard_state: HardState,
    snapshot: Snapshot,
    /// The position before the first entry.
    compacted: EntryId,
    entries: VecDeque<Entry>,
}

impl MemoryStorage {
    /// An empty log of a group without members.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty log of a group with these members.
    #[must_use]
    pub fn with_conf_state(conf_state: ConfState) -> Self {
        let mut storage = Self::default();
        storage.snapshot.meta.conf_state = conf_state;
        storage
    }

    /// Stores a hard state.
    pub fn set_hard_state(&mut self, hard_state: HardState) {
        self.hard_state = hard_state;
    }

    /// The hard state stored last.
    #[must_use]
    pub fn hard_state(&self) -> HardState {
        self.hard_state
    }

    /// Appends entries, overwriting from the index of the first one on. What is below the first index is skipped.
    ///
    /// # Errors
    /// [`StorageError::Unavailable`] if they would leave a hole behind the last entry; nothing is changed then.
    pub fn append(&mut self, entries: &[Entry]) -> Result<(), StorageError> {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return Ok(());
        };
        if last.index <= self.compacted.index {
            return Ok(());
        }
        if first.index > self.last_index().next() {
            return Err(StorageError::Unavailable);
        }
        let known = self.compacted.index.next().0.saturating_sub(first.index.0);
        let new = &entries[known as usize..];
        let keep = new
            .first()
            .map_or(0, |entry| entry.index.0 - self.compacted.index.next().0);
        self.entries.truncate(keep as usize);
        self.entries.extend(new.iter().cloned());
        Ok(())
    }

    /// Drops the entries up to and including `index`, which becomes the compacted position.
    ///
    /// # Errors
    /// [`StorageError::Compacted`] if that has happened before, [`StorageError::Unavailable`] beyond the last entry.
    pub fn compact(&mut self, index: Index) -> Result<(), StorageError> {
        if index <= self.compacted.index {
            return Err(StorageError::Compacted);
        }
        let term = self.term(index)?;
        self.entries
            .drain(..(index.0 - self.compacted.index.0) as usize);
        self.compacted = EntryId { term, index };
        Ok(())
    }

    /// Makes a snapshot at `index` with the given state machine data; `conf_state` replaces the membership if given.
    /// The log is not touched.
    ///
    /// # Errors
    /// [`StorageError::SnapshotOutOfDate`] if there is one at `index` or above, [`StorageError::Unavailable`] beyond
    /// the last entry.
    pub fn create_snapshot(
        &mut self,
        index: Index,
        conf_state: Option<ConfState>,
        data: bytes::Bytes,
    ) -> Result<&Snapshot, StorageError> {
        if index <= self.snapshot.meta.index {
            return Err(StorageError::SnapshotOutOfDate);
        }
        self.snapshot.meta.term = self.term(index)?;
        self.snapshot.meta.index = index;
        if let Some(conf_state) = conf_state {
            self.snapshot.meta.conf_state = conf_state;
        }
        self.snapshot.data = data;
        Ok(&self.snapshot)
    }

    /// Replaces everything but the hard state by a snapshot. One with index 0 may set the membership of an empty log.
    ///
    /// # Errors
    /// [`StorageError::SnapshotOutOfDate`] if there is one at its index or above.
    pub fn apply_snapshot(&mut self, snapshot: Snapshot) -> Result<(), StorageError> {
        if self.snapshot.meta.index > Index(0) && self.snapshot.meta.index >= snapshot.meta.index {
            return Err(StorageError::SnapshotOutOfDate);
        }
        self.compacted = EntryId {
            term: snapshot.meta.term,
            index: snapshot.meta.index,
        };
        self.snapshot = snapshot;
        self.entries.clear();
        Ok(())
    }

    /// Position in `entries`, which must be above the compacted one.
    fn offset(&self, index: Index) -> usize {
        (index.0 - self.compacted.index.0 - 1) as usize
    }
}

impl Storage for MemoryStorage {
    fn initial_state(&self) -> Result<(HardState, ConfState), StorageError> {
        Ok((self.hard_state, self.snapshot.meta.conf_state.clone()))
    }

    fn entries(&self, low: Index, high: Index, max_size: u64) -> Result<Vec<Entry>, StorageError> {
        if low <= self.compacted.index {
            return Err(StorageError::Compacted);
        }
        if high > self.last_index().next() || low > high {
            return Err(StorageError::Unavailable);
        }
        let range = self.entries.range(self.offset(low)..self.offset(high));
        let count = limit_size(range.clone(), max_size);
        Ok(range.take(count).cloned().collect())
    }

    fn term(&self, index: Index) -> Result<Term, StorageError> {
        if index < self.compacted.index {
            return Err(StorageError::Compacted);
        }
        if index == self.compacted.index {
            return Ok(self.compacted.term);
        }
        self.entries
            .get(self.offset(index))
            .map(|entry| entry.term)
            .ok_or(StorageError::Unavailable)
    }

    fn first_index(&self) -> Index {
        self.compacted.index.next()
    }

    fn last_index(&self) -> Index {
        Index(self.compacted.index.0 + self.entries.len() as u64)
    }

    fn snapshot(&self) -> Result<Snapshot, StorageError> {
        Ok(self.snapshot.clone())
    }
}
