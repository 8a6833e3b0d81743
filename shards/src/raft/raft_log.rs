//! The log as the group sees it: the durable part in the storage, and behind it the unstable tail (etcd `log.go`).
//!
//! ```text
//!      compacted                                            last_index
//!          |  first_index                                        |
//!          v  v                                                  v
//!   -------+--+----------------+-----------+-------------+-------+
//!          |    applied <= applying <= committed                 |
//!          |                                                     |
//!          |  storage ............... | unstable.offset .........|
//! ```
//!
//! `committed` may be on either side of `unstable.offset`. Nothing here knows of roles, terms or peers.

use super::error::{Error, ProtocolError};
use super::size::{entries_size, limit_size};
use super::storage::{Storage, StorageError};
use super::types::{Entry, EntryId, Index, Message, Snapshot, Term};
use super::unstable::Unstable;
use std::fmt;

/// Entries that a leader sends, with what they follow on (etcd `logSlice`).
///
/// What [`LogSlice::validate`] checks is a promise from there on:
/// 1. the entries follow `prev` without a gap;
/// 2. terms never fall along `prev` and the entries;
/// 3. no term is above the leader's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogSlice {
    /// Term of the leader who vouches for the entries.
    pub term: Term,
    /// The position before the first entry.
    pub prev: EntryId,
    /// The entries.
    pub entries: Vec<Entry>,
}

impl LogSlice {
    /// The slice of an append message that was checked at the gate (`raft/gate.rs`).
    pub(crate) fn from_checked(message: &mut Message) -> Self {
        Self {
            term: message.term,
            prev: EntryId {
                term: message.log_term,
                index: message.index,
            },
            entries: std::mem::take(&mut message.entries),
        }
    }

    /// Position of the last entry, or `prev`.
    #[must_use]
    pub fn last(&self) -> EntryId {
        self.entries.last().map_or(self.prev, |last| EntryId {
            term: last.term,
            index: last.index,
        })
    }

    /// Checks the promises of the type.
    ///
    /// # Errors
    /// Names the one that does not hold, and where.
    pub fn validate(&self) -> Result<(), ProtocolError> {
        check_slice(self.term, self.prev, &self.entries)
    }
}

/// Checks the promises of [`LogSlice`] on its parts.
pub(crate) fn check_slice(
    leader: Term,
    mut prev: EntryId,
    entries: &[Entry],
) -> Result<(), ProtocolError> {
    for entry in entries {
        let expected = prev.index.0.checked_add(1).map(Index);
        if expected != Some(entry.index) {
            return Err(ProtocolError::Gap {
                expected: expected.unwrap_or(prev.index),
                got: entry.index,
            });
        }
        if entry.term < prev.term {
            return Err(ProtocolError::TermRegression {
                index: entry.index,
                term: entry.term,
                previous: prev.term,
            });
        }
        prev = EntryId {
            term: entry.term,
            index: entry.index,
        };
    }
    if prev.term > leader {
        return Err(ProtocolError::TermAboveLeader {
            index: prev.index,
            term: prev.term,
            leader,
        });
    }
    Ok(())
}

/// The log of one replica. Invariant: `applied <= applying <= committed <= last_index`.
#[derive(Clone, Debug)]
pub struct RaftLog<S> {
    storage: S,
    unstable: Unstable,
    committed: Index,
    applying: Index,
    applied: Index,
    /// Limit of `applying_size` at which application pauses.
    max_applying_size: u64,
    /// Bytes handed out for application and not acknowledged.
    applying_size: u64,
    applying_paused: bool,
}

/// Where the log stands, for assertions and traces.
impl<S: Storage> fmt::Display for RaftLog<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "first={} last={} committed={} applying={} applied={} unstable.offset={} \
             unstable.offset_in_progress={} unstable.entries={} unstable.snapshot={:?}",
            self.first_index(),
            self.last_index(),
            self.committed,
            self.applying,
            self.applied,
            self.unstable.offset,
            self.unstable.offset_in_progress,
            self.unstable.entries.len(),
            self.unstable.snapshot.as_ref().map(|s| s.meta.index),
        )
    }
}

impl<S: Storage> RaftLog<S> {
    /// The log in `storage`, with everything applied and committed that was compacted. Application pauses at
    /// `max_applying_size` bytes in progress.
    #[must_use]
    pub fn new(storage: S, max_applying_size: u64) -> Self {
        let compacted = storage.first_index().prev();
        Self {
            unstable: Unstable::new(storage.last_index()),
            committed: compacted,
            applying: compacted,
            applied: compacted,
            // With 0 nothing could ever be handed out; with 1 it is one entry at a time.
            max_applying_size: max_applying_size.max(1),
            applying_size: 0,
            applying_paused: false,
            storage,
        }
    }

    /// The durable part.
    #[must_use]
    pub fn storage(&self) -> &S {
        &self.storage
    }

    /// The durable part, for the embedder to write to.
    pub fn storage_mut(&mut self) -> &mut S {
        &mut self.storage
    }

    /// The part that is not known to be durable.
    #[must_use]
    pub fn unstable(&self) -> &Unstable {
        &self.unstable
    }

    /// Highest index known to be committed.
    #[must_use]
    pub fn committed(&self) -> Index {
        self.committed
    }

    /// Highest index handed out for application.
    #[must_use]
    pub fn applying(&self) -> Index {
        self.applying
    }

    /// Highest index acknowledged as applied.
    #[must_use]
    pub fn applied(&self) -> Index {
        self.applied
    }

    /// Bytes handed out for application and not acknowledged.
    #[must_use]
    pub fn applying_size(&self) -> u64 {
        self.applying_size
    }

    /// Whether application waits for acknowledgements.
    #[must_use]
    pub fn is_applying_paused(&self) -> bool {
        self.applying_paused
    }

    /// Index of the first entry that is there, or would be.
    #[must_use]
    pub fn first_index(&self) -> Index {
        self.unstable
            .maybe_first_index()
            .unwrap_or_else(|| self.storage.first_index())
    }

    /// Index of the last entry, or of what was compacted if there is none.
    #[must_use]
    pub fn last_index(&self) -> Index {
        self.unstable
            .maybe_last_index()
            .unwrap_or_else(|| self.storage.last_index())
    }

    /// Position of the last entry.
    ///
    /// # Errors
    /// If the storage does not know the term of its own last entry.
    pub fn last_entry_id(&self) -> Result<EntryId, StorageError> {
        let index = self.last_index();
        Ok(EntryId {
            term: self.term(index)?,
            index,
        })
    }

    /// Term at `index`, which is known from one below the first index on.
    ///
    /// # Errors
    /// [`StorageError::Compacted`] below that, [`StorageError::Unavailable`] beyond the last entry, or any error of
    /// the storage.
    pub fn term(&self, index: Index) -> Result<Term, StorageError> {
        // The tail first: that is what is asked for most, and the answer proves that the index is within bounds.
        if let Some(term) = self.unstable.maybe_term(index) {
            return Ok(term);
        }
        if index < self.first_index().prev() {
            return Err(StorageError::Compacted);
        }
        if index > self.last_index() {
            return Err(StorageError::Unavailable);
        }
        self.storage.term(index)
    }

    /// [`RaftLog::term`] with `None` where the position is outside the log.
    ///
    /// # Errors
    /// Errors of the storage.
    pub fn maybe_term(&self, index: Index) -> Result<Option<Term>, StorageError> {
        match self.term(index) {
            Ok(term) => Ok(Some(term)),
            Err(error) if error.is_out_of_bounds() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether the log has that very entry, as far as it knows.
    ///
    /// # Errors
    /// Errors of the storage.
    pub fn match_term(&self, id: EntryId) -> Result<bool, StorageError> {
        Ok(self.maybe_term(id.index)? == Some(id.term))
    }

    /// Whether a log that ends at `last` is at least as up to date as this one (Raft paper, 5.4.1).
    ///
    /// # Errors
    /// Errors of the storage.
    pub fn is_up_to_date(&self, last: EntryId) -> Result<bool, StorageError> {
        // The order of positions is by term, then by index.
        Ok(last >= self.last_entry_id()?)
    }

    /// Appends what a leader sent if the log has what it follows on; the conflicting tail is replaced. Then commits
    /// up to `committed`, but not beyond what the message vouches for. Returns the last index that it vouches for, or
    /// `None` if the log doesn't match.
    ///
    /// # Errors
    /// [`ProtocolError::CommittedConflict`] if a committed entry would be replaced; errors of the storage.
    pub fn maybe_append(
        &mut self,
        slice: LogSlice,
        committed: Index,
    ) -> Result<Option<Index>, Error> {
        if !self.match_term(slice.prev)? {
            return Ok(None);
        }
        let last = slice.last().index;
        if let Some(conflict) = self.find_conflict(&slice.entries)? {
            let mut entries = slice.entries;
            let known = (conflict.0 - slice.prev.index.next().0) as usize;
            if conflict <= self.committed {
                return Err(ProtocolError::CommittedConflict {
                    index: conflict,
                    term: entries[known].term,
                    committed: self.committed,
                }
                .into());
            }
            entries.drain(..known);
            self.append(entries);
        }
        self.commit_to(committed.min(last));
        Ok(Some(last))
    }

    /// Appends entries, replacing what is there from the index of the first one on. Returns the new last index.
    ///
    /// # Panics
    /// If a committed entry would be replaced, or a hole left.
    pub fn append(&mut self, entries: Vec<Entry>) -> Index {
        if let Some(first) = entries.first() {
            assert!(
                first.index > self.committed,
                "appending from {} on would replace committed entries: {self}",
                first.index
            );
            self.unstable.truncate_and_append(entries);
        }
        self.last_index()
    }

    /// Index of the first of the entries that is new or has another term than the log's; `None` if all are there.
    ///
    /// # Errors
    /// Errors of the storage.
    pub fn find_conflict(&self, entries: &[Entry]) -> Result<Option<Index>, StorageError> {
        for entry in entries {
            let id = EntryId {
                term: entry.term,
                index: entry.index,
            };
            if !self.match_term(id)? {
                return Ok(Some(entry.index));
            }
        }
        Ok(None)
    }

    /// A best guess on where this log stops matching another one of which only one position is known: the greatest
    /// index up to `index` whose term is at most `term` or unknown. Comes with that term, 0 if unknown.
    ///
    /// # Errors
    /// Errors of the storage.
    pub fn find_conflict_by_term(
        &self,
        mut index: Index,
        term: Term,
    ) -> Result<(Index, Term), StorageError> {
        while index > Index(0) {
            match self.maybe_term(index)? {
                None => return Ok((index, Term(0))),
                Some(ours) if ours <= term => return Ok((index, ours)),
                Some(_) => index = index.prev(),
            }
        }
        Ok((Index(0), Term(0)))
    }

    /// Raises the commit index; never lowers it.
    ///
    /// # Panics
    /// If it is beyond the last entry.
    pub fn commit_to(&mut self, commit: Index) {
        if commit > self.committed {
            assert!(
                commit <= self.last_index(),
                "committing {commit}, which is beyond the log: {self}"
            );
            self.committed = commit;
        }
    }

    /// Commits up to `id` if the log has it. Returns whether that is news.
    ///
    /// # Errors
    /// Errors of the storage.
    pub fn maybe_commit(&mut self, id: EntryId) -> Result<bool, StorageError> {
        if id.term == Term(0) || id.index <= self.committed || !self.match_term(id)? {
            return Ok(false);
        }
        self.commit_to(id.index);
        Ok(true)
    }

    /// Entries up to `index` are applied, which frees `size` bytes.
    ///
    /// # Panics
    /// If they are not committed, or more were applied before.
    pub fn applied_to(&mut self, index: Index, size: u64) {
        assert!(
            self.applied <= index && index <= self.committed,
            "applied({index}) is out of range: {self}"
        );
        self.applied = index;
        self.applying = self.applying.max(index);
        self.applying_size = self.applying_size.saturating_sub(size);
        self.applying_paused = self.applying_size >= self.max_applying_size;
    }

    /// Committed entries up to `index` of `size` bytes were handed out for application. Pauses application if that
    /// reaches the limit, or if the limit cut them short.
    ///
    /// # Panics
    /// If they are not committed.
    pub fn accept_applying(&mut self, index: Index, size: u64, allow_unstable: bool) {
        assert!(
            index <= self.committed,
            "applying({index}) is out of range: {self}"
        );
        self.applying = index;
        self.applying_size += size;
        self.applying_paused = self.applying_size >= self.max_applying_size
            || index < self.max_appliable_index(allow_unstable);
    }

    /// Highest index that may be applied now: committed and, unless `allow_unstable`, known to be durable here.
    fn max_appliable_index(&self, allow_unstable: bool) -> Index {
        if allow_unstable {
            self.committed
        } else {
            self.committed.min(self.unstable.offset.prev())
        }
    }

    /// Whether there are committed entries to be handed out for application.
    #[must_use]
    pub fn has_next_committed(&self, allow_unstable: bool) -> bool {
        // Not beside a snapshot: what would have to be applied first?
        !self.applying_paused
            && self.unstable.snapshot.is_none()
            && self.applying < self.max_appliable_index(allow_unstable)
    }

    /// The committed entries to be handed out for application next, limited in size.
    ///
    /// # Errors
    /// Errors of the storage.
    pub fn next_committed(&self, allow_unstable: bool) -> Result<Vec<Entry>, StorageError> {
        if !self.has_next_committed(allow_unstable) {
            return Ok(Vec::new());
        }
        let (low, high) = (
            self.applying.next(),
            self.max_appliable_index(allow_unstable).next(),
        );
        assert!(
            self.applying_size < self.max_applying_size,
            "application is not paused with {} of {} bytes outstanding: {self}",
            self.applying_size,
            self.max_applying_size
        );
        self.slice(low, high, self.max_applying_size - self.applying_size)
    }

    /// Entries that are still to be handed out to be written.
    #[must_use]
    pub fn next_unstable(&self) -> &[Entry] {
        self.unstable.next_entries()
    }

    /// Whether a snapshot waits to become durable, handed out or not.
    #[must_use]
    pub fn has_unstable_snapshot(&self) -> bool {
        self.unstable.snapshot.is_some()
    }

    /// Whether any entry is not known to be durable, handed out or not.
    #[must_use]
    pub fn has_unstable_entries(&self) -> bool {
        !self.unstable.entries.is_empty()
    }

    /// Whether the last entry that is durable for sure is of this term. Without an entry, or if the storage fails: no.
    pub(crate) fn has_durable_of(&self, term: Term) -> bool {
        !self.has_unstable_snapshot()
            && matches!(self.maybe_term(self.unstable.offset.prev()), Ok(found) if found == Some(term))
    }

    /// Everything unstable was handed out to be written.
    pub fn accept_unstable(&mut self) {
        self.unstable.accept_in_progress();
    }

    /// Entries up to `id` are durable; see [`Unstable::stable_to`].
    pub fn stable_to(&mut self, id: EntryId) {
        self.unstable.stable_to(id);
    }

    /// The snapshot at `index` is durable.
    pub fn stable_snapshot_to(&mut self, index: Index) {
        self.unstable.stable_snapshot_to(index);
    }

    /// [`RaftLog::stable_to`] for what a storage thread says. Nothing if `id` is not unstable, or of index 0; nor if it is
    /// not being written: then an earlier write of that very entry is meant, which a snapshot has taken away since. The
    /// entry will be written again, and that be acknowledged by itself.
    ///
    /// # Errors
    /// If the storage does not show what is said to be in it: the log would end in a hole.
    pub(crate) fn written_to(&mut self, id: EntryId) -> Result<(), StorageError> {
        if id.index >= self.unstable.offset
            && id.index < self.unstable.offset_in_progress
            && self.unstable.maybe_term(id.index) == Some(id.term)
        {
            self.check_written(id.index)?;
            self.stable_to(id);
        }
        Ok(())
    }

    /// [`RaftLog::stable_snapshot_to`] for what a storage thread says.
    ///
    /// # Errors
    /// As [`RaftLog::written_to`].
    pub(crate) fn snapshot_written(&mut self, index: Index) -> Result<(), StorageError> {
        if (self.unstable.snapshot.as_ref()).is_some_and(|snapshot| snapshot.meta.index == index) {
            self.check_written(index)?;
            self.stable_snapshot_to(index);
        }
        Ok(())
    }

    fn check_written(&self, index: Index) -> Result<(), StorageError> {
        let last = self.storage.last_index();
        if index > last {
            let reason = format!("it says to be durable up to {index}, but ends at {last}");
            return Err(StorageError::Other(reason));
        }
        Ok(())
    }

    /// Replaces the log by a snapshot.
    pub fn restore(&mut self, snapshot: Box<Snapshot>) {
        self.committed = snapshot.meta.index;
        self.unstable.restore(snapshot);
    }

    /// A snapshot for a follower.
    ///
    /// # Errors
    /// Those of [`Storage::snapshot`].
    pub fn snapshot(&self) -> Result<Snapshot, StorageError> {
        match &self.unstable.snapshot {
            Some(snapshot) => Ok(Snapshot::clone(snapshot)),
            None => self.storage.snapshot(),
        }
    }

    /// Entries from `low` on that fit in `max_size` bytes, at least one; none beyond the last entry.
    ///
    /// # Errors
    /// [`StorageError::Compacted`] if `low` is below the first index; errors of the storage.
    pub fn entries(&self, low: Index, max_size: u64) -> Result<Vec<Entry>, StorageError> {
        let last = self.last_index();
        if low > last {
            return Ok(Vec::new());
        }
        self.slice(low, last.next(), max_size)
    }

    /// Calls `visit` with the entries `[low, high)` page by page; a page has at most `page_size` bytes, or one entry.
    ///
    /// # Errors
    /// The first error of `visit`, at which the scan ends; else those of [`RaftLog::slice`].
    pub fn scan<E: From<StorageError>>(
        &self,
        mut low: Index,
        high: Index,
        page_size: u64,
        mut visit: impl FnMut(&[Entry]) -> Result<(), E>,
    ) -> Result<(), E> {
        while low < high {
            let page = self.slice(low, high, page_size)?;
            let Some(last) = page.last() else {
                return Err(StorageError::Other(format!("no entries in [{low},{high})")).into());
            };
            low = last.index.next();
            visit(&page)?;
        }
        Ok(())
    }

    /// Entries `[low, high)` that fit in `max_size` bytes, at least one unless the range is empty.
    ///
    /// # Errors
    /// [`StorageError::Compacted`] if `low` is below the first index; errors of the storage.
    ///
    /// # Panics
    /// If the range is inverted or ends beyond the last entry.
    pub fn slice(
        &self,
        low: Index,
        high: Index,
        max_size: u64,
    ) -> Result<Vec<Entry>, StorageError> {
        self.check_bounds(low, high)?;
        if low == high {
            return Ok(Vec::new());
        }
        let offset = self.unstable.offset;
        if low >= offset {
            let unstable = self.unstable.slice(low, high);
            return Ok(unstable[..limit_size(unstable, max_size)].to_vec());
        }
        let cut = high.min(offset);
        let mut entries = self.storage.entries(low, cut, max_size)?;
        // A storage may return less than was asked for, and more than fits.
        if high <= offset || (entries.len() as u64) < cut.0 - low.0 {
            return Ok(entries);
        }
        let size = entries_size(&entries);
        if size < max_size {
            let unstable = self.unstable.slice(offset, high);
            let left = max_size - size;
            let count = limit_size(unstable, left);
            // The first entry is taken whatever its size, which is right only if nothing came before it.
            if count > 1 || entries_size(&unstable[..count]) <= left {
                entries.extend_from_slice(&unstable[..count]);
            }
        }
        Ok(entries)
    }

    /// Checks that `[low, high)` can be read.
    ///
    /// # Errors
    /// [`StorageError::Compacted`] if `low` is below the first index.
    ///
    /// # Panics
    /// If the range is inverted or ends beyond the last entry.
    pub fn check_bounds(&self, low: Index, high: Index) -> Result<(), StorageError> {
        assert!(low <= high, "inverted range [{low},{high}): {self}");
        if low < self.first_index() {
            return Err(StorageError::Compacted);
        }
        assert!(
            high <= self.last_index().next(),
            "range [{low},{high}) ends beyond the log: {self}"
        );
        Ok(())
    }

    /// Sets the commit index that was stored, which must be within the log.
    pub(crate) fn restore_commit(&mut self, commit: Index) {
        self.committed = commit;
    }
}
