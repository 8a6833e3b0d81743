//! The tail of the log that is not yet known to be durable (etcd `log_unstable.go`).
//!
//! Entries pass through two marks: *in progress* (handed out to be written) and *stable* (the write is durable; they
//! are dropped here, the storage has them). A snapshot that was received waits here in the same way.

use super::types::{Entry, EntryId, Index, Snapshot, Term};

/// Entries and a snapshot that the storage may not have yet. `entries[i]` has index `offset + i`.
#[derive(Clone, Debug)]
pub struct Unstable {
    /// A received snapshot that is to be written before any entry.
    pub(crate) snapshot: Option<Box<Snapshot>>,
    pub(crate) entries: Vec<Entry>,
    /// Index of the first unstable entry, whether or not it exists.
    pub(crate) offset: Index,
    /// Index behind the last entry that was handed out to be written; never below `offset`.
    pub(crate) offset_in_progress: Index,
    pub(crate) snapshot_in_progress: bool,
}

impl Unstable {
    /// An empty tail behind a log whose last stable entry is at `last`.
    #[must_use]
    pub fn new(last: Index) -> Self {
        Self {
            snapshot: None,
            entries: Vec::new(),
            offset: last.next(),
            offset_in_progress: last.next(),
            snapshot_in_progress: false,
        }
    }

    /// A tail of given content, for tests.
    #[doc(hidden)]
    #[must_use]
    pub fn from_parts(
        offset: Index,
        entries: Vec<Entry>,
        snapshot: Option<Snapshot>,
        offset_in_progress: Index,
        snapshot_in_progress: bool,
    ) -> Self {
        Self {
            snapshot: snapshot.map(Box::new),
            entries,
            offset,
            offset_in_progress,
            snapshot_in_progress,
        }
    }

    /// Index of the first unstable entry, whether or not it exists.
    #[must_use]
    pub fn offset(&self) -> Index {
        self.offset
    }

    /// Index behind the last entry that was handed out to be written.
    #[must_use]
    pub fn offset_in_progress(&self) -> Index {
        self.offset_in_progress
    }

    /// All unstable entries, in progress or not.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The snapshot that waits to become durable, in progress or not.
    #[must_use]
    pub fn snapshot(&self) -> Option<&Snapshot> {
        self.snapshot.as_deref()
    }

    /// Whether the snapshot was handed out to be written.
    #[must_use]
    pub fn is_snapshot_in_progress(&self) -> bool {
        self.snapshot_in_progress
    }

    /// First index of the whole log, known here only with a snapshot.
    #[must_use]
    pub fn maybe_first_index(&self) -> Option<Index> {
        self.snapshot
            .as_ref()
            .map(|snapshot| snapshot.meta.index.next())
    }

    /// Last index of the whole log, unless it is all stable.
    #[must_use]
    pub fn maybe_last_index(&self) -> Option<Index> {
        match self.entries.last() {
            Some(last) => Some(last.index),
            None => self.snapshot.as_ref().map(|snapshot| snapshot.meta.index),
        }
    }

    /// Term at `index`, if an unstable entry or the snapshot is there.
    #[must_use]
    pub fn maybe_term(&self, index: Index) -> Option<Term> {
        match index.0.checked_sub(self.offset.0) {
            Some(position) => self
                .entries
                .get(usize::try_from(position).ok()?)
                .map(|entry| entry.term),
            None => self
                .snapshot
                .as_ref()
                .filter(|s| s.meta.index == index)
                .map(|s| s.meta.term),
        }
    }

    /// Entries that are still to be handed out to be written.
    #[must_use]
    pub fn next_entries(&self) -> &[Entry] {
        &self.entries[(self.offset_in_progress.0 - self.offset.0) as usize..]
    }

    /// The snapshot, if it is still to be handed out to be written.
    #[must_use]
    pub fn next_snapshot(&self) -> Option<&Snapshot> {
        self.snapshot
            .as_deref()
            .filter(|_| !self.snapshot_in_progress)
    }

    /// Marks all entries and the snapshot as handed out.
    pub fn accept_in_progress(&mut self) {
        if let Some(last) = self.entries.last() {
            self.offset_in_progress = last.index.next();
        }
        self.snapshot_in_progress |= self.snapshot.is_some();
    }

    /// Drops the entries up to `id`, which became durable. Does nothing unless `id` is among the entries: the write
    /// may be of entries that have been replaced since.
    pub fn stable_to(&mut self, id: EntryId) {
        if id.index < self.offset || self.maybe_term(id.index) != Some(id.term) {
            return;
        }
        self.offset = id.index.next();
        self.offset_in_progress = self.offset_in_progress.max(self.offset);
        match self.entries.last() {
            // An idle group holds no buffer.
            Some(last) if last.index == id.index => self.entries = Vec::new(),
            _ => {
                let stable = self
                    .entries
                    .partition_point(|entry| entry.index <= id.index);
                self.entries.drain(..stable);
            }
        }
    }

    /// Drops the snapshot if it is the one at `index`, which became durable.
    pub fn stable_snapshot_to(&mut self, index: Index) {
        if self
            .snapshot
            .as_ref()
            .is_some_and(|snapshot| snapshot.meta.index == index)
        {
            self.snapshot = None;
            self.snapshot_in_progress = false;
        }
    }

    /// Replaces everything by a snapshot.
    pub fn restore(&mut self, snapshot: Box<Snapshot>) {
        self.offset = snapshot.meta.index.next();
        self.offset_in_progress = self.offset;
        self.entries = Vec::new();
        self.snapshot = Some(snapshot);
        self.snapshot_in_progress = false;
    }

    /// Appends entries, which must not leave a hole, dropping what was there from the index of the first one on.
    pub fn truncate_and_append(&mut self, mut entries: Vec<Entry>) {
        let Some(from) = entries.first().map(|entry| entry.index) else {
            return;
        };
        let end = Index(self.offset.0 + self.entries.len() as u64);
        assert!(
            from <= end,
            "entries from {from} on leave a hole in the unstable log: {self:?}"
        );
        if from <= self.offset {
            self.offset = from;
            self.offset_in_progress = from;
            self.entries = entries;
            return;
        }
        if from < end {
            self.entries.truncate((from.0 - self.offset.0) as usize);
            // Only entries before the first new one are still on their way to the storage.
            self.offset_in_progress = self.offset_in_progress.min(from);
        }
        self.entries.append(&mut entries);
    }

    /// Entries `[low, high)`, which must be here.
    #[must_use]
    pub fn slice(&self, low: Index, high: Index) -> &[Entry] {
        let end = self.offset.0 + self.entries.len() as u64;
        assert!(
            self.offset <= low && low <= high && high.0 <= end,
            "unstable slice [{low},{high}) out of bounds [{},{end}): {self:?}",
            self.offset
        );
        &self.entries[(low.0 - self.offset.0) as usize..(high.0 - self.offset.0) as usize]
    }
}
