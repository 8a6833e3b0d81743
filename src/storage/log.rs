//! The log database: entries, hard states and the beginning of every shard's log, in one RocksDB of its own.
//!
//! One write carries what all shards have at that moment, and one sync makes it durable. Nothing here decides when:
//! that is the [`StorageWriter`](super::StorageWriter)'s part.
//!
//! Positions of one shard, from the front to the end of its log:
//!
//! ```text
//!   filtered ≤ compacted ≤ last          filtered:  rows up to here may vanish from the disk at any time
//!      │           │         │           compacted: the log begins behind it; moved by `Compaction` and snapshots
//!  ────┴───────────┴─────────┴────▶      last:      the last entry
//! ```
//!
//! *Invariant:* `filtered` moves only when the row that says `compacted` is durable; else a crash could find the row
//! old and the entries gone.
//!
//! **Cutting the front** writes one row and no tombstones: RocksDB drops the entries when it next rewrites the files
//! they are in (a compaction filter). **Cutting the end** deletes only the rows that the new entries don't overwrite.
//!
//! **Recovery.** A torn last record of RocksDB's WAL is what a crash leaves: it was never synced, and is cut off. Any
//! other damage there refuses the start; point-in-time recovery, RocksDB's default, would instead drop everything
//! behind the damage, acknowledged entries and votes included, and it is the only mode in which WAL files can be
//! recycled. The price of files that grow is a metadata write per sync (0.15 instead of 0.13 ms). Beneath that each row
//! has a checksum over its key and body, and the entries of a shard must be without a gap. What remains: a flipped bit in
//! the length of one of the newest records (in the last 32 KiB of the WAL) looks to RocksDB like a torn end.

use std::{
    collections::VecDeque,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use dashmap::DashMap;
use flotilla_proto::v1 as proto;
use flotilla_shards::{
    engine::{Compaction, LogAppend, LogReader},
    ids::{NodeId, ShardId},
    lineage::{Acquaintances, Lineage, Mark},
    raft::{Entry, EntryId, HardState, Index, Term},
    recovery::RecoveredLog,
    wire,
};
use parking_lot::Mutex;
use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, DBRecoveryMode, Options, ReadOptions,
    WriteBatch, WriteOptions,
};

use crate::marks::Marks;

use super::{
    DatabaseStats, StorageError, StorageOptions,
    filter::DropCompacted,
    rows::{self, Key},
    sizes::Sizes,
    stats,
};

/// The durable logs of all shards, as the storage writer sees them. A trait, so that another form of log can take
/// RocksDB's place, and so that tests can make each call fail.
pub trait LogStore: Send + Sync {
    /// Writes all of it as one, in the order given, and syncs if any part of it has to be awaited. On return with
    /// [`Written::synced`] everything written so far is durable.
    ///
    /// An append with a snapshot cuts the log to begin behind it; the state must be installed by then.
    ///
    /// # Errors
    /// The write or its sync failed. The store must not be written again: what it holds is not known any more.
    fn write(
        &self,
        appends: &[LogAppend],
        compactions: &[Compaction],
    ) -> Result<Written, StorageError>;

    /// Writes how far the stores of other nodes were seen, durably, if there is news of them. [`LogStore::write`] does so
    /// with every sync; this is for a node that has nothing else to write.
    ///
    /// # Errors
    /// As with [`LogStore::write`].
    fn write_marks(&self) -> Result<(), StorageError>;
}

/// What one write did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Whether it ended with a sync.
    pub synced: bool,
    /// Entries, of all shards.
    pub entries: u64,
    /// Bytes of rows.
    pub bytes: u64,
    /// Logs that were cut at the front.
    pub cuts: u64,
    /// Entries that went with them.
    pub cut_entries: u64,
}

/// What is known of a shard's log without reading. See the module for the order of the positions.
#[derive(Debug, Default)]
pub(super) struct ShardLog {
    pub(super) filtered: Index,
    compacted: EntryId,
    last: EntryId,
    sizes: Sizes,
}

pub(super) type ShardLogs = Arc<DashMap<ShardId, ShardLog>>;

/// The log database. Written by one thread, read by any.
pub struct RocksLog {
    db: DB,
    /// They hold what the database counts.
    options: Options,
    shards: ShardLogs,
    marks: Arc<Marks>,
    /// Whether any start of this store used leases.
    leased: AtomicBool,
    writing: Mutex<Writing>,
    synced: WriteOptions,
    unsynced: WriteOptions,
}

/// Flushed memtables that gather before they are compacted: at the usual sizes twice what a start may have to replay, so
/// that most of what a compaction reads has been cut by then and is dropped, not copied. Reading costs more with many
/// files, but only those who are far behind read from them.
const LEVEL0_FILES: i32 = 32;

/// A row goes behind the last one of its shard: RocksDB remembers that place for each, and need not search for it from the top
/// of the memtable.
fn insert_hints() -> String {
    let prefix = size_of::<ShardId>();
    format!("memtable_insert_with_hint_prefix_extractor=fixed:{prefix}")
}

/// What only a write uses.
#[derive(Default)]
struct Writing {
    /// The row being made.
    row: Vec<u8>,
    /// Beginnings written since the last sync.
    unsynced_cuts: Vec<(ShardId, Index)>,
}

impl RocksLog {
    /// Opens the database in `path`, or makes an empty one. [`RocksLog::recover`] must follow before anything else.
    pub(super) fn open(path: &Path, options: &StorageOptions) -> Result<Self, StorageError> {
        let shards = ShardLogs::default();
        let mut db_options = super::db_options(options, &insert_hints())
            .map_err(|error| StorageError::rocks("storage::log::open", &error))?;
        db_options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
        db_options.set_track_and_verify_wals_in_manifest(true);
        // One thread writes: nothing to coordinate.
        db_options.set_allow_concurrent_memtable_write(false);
        db_options.set_enable_write_thread_adaptive_yield(false);
        db_options.set_write_buffer_size(options.log_memtable_bytes);
        db_options.set_max_write_buffer_number(options.log_memtables);
        // Entries live for minutes and are read once at most: packing them would cost more than it saves.
        db_options.set_compression_type(DBCompressionType::None);
        // What is read back has left the engine's cache long ago and is wanted once.
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&Cache::new_lru_cache(4 << 20));
        db_options.set_block_based_table_factory(&table);
        db_options.set_level_zero_file_num_compaction_trigger(LEVEL0_FILES);
        db_options.set_level_zero_slowdown_writes_trigger(2 * LEVEL0_FILES);
        db_options.set_level_zero_stop_writes_trigger(3 * LEVEL0_FILES);
        db_options.set_target_file_size_base(64 << 20);
        db_options.set_max_bytes_for_level_base(512 << 20);
        db_options.set_compaction_filter_factory(DropCompacted::new(Arc::clone(&shards)));
        let db = DB::open(&db_options, path)
            .map_err(|error| StorageError::rocks("storage::log::open", &error))?;
        let mut synced = WriteOptions::default();
        synced.set_sync(true);
        Ok(Self {
            db,
            options: db_options,
            shards,
            marks: Arc::default(),
            leased: AtomicBool::new(false),
            writing: Mutex::default(),
            synced,
            unsynced: WriteOptions::default(),
        })
    }

    /// Reads and checks everything; returns what each shard has, by shard.
    ///
    /// # Errors
    /// A row is damaged or not ours, or a log has a gap.
    pub(super) fn recover(&self) -> Result<Vec<(ShardId, RecoveredLog)>, StorageError> {
        const PLACE: &str = "storage::log::recover";
        let mut found: Vec<(ShardId, RecoveredLog)> = Vec::new();
        let mut read = ReadOptions::default();
        read.fill_cache(false);
        read.set_readahead_size(4 << 20);
        let mut rows = self.db.raw_iterator_opt(read);
        rows.seek_to_first();
        while let Some((key, value)) = rows.item() {
            let decoded = Key::decode(key).ok_or_else(|| {
                StorageError::corrupt(PLACE, format!("unknown row {}", key.escape_ascii()))
            })?;
            let (Key::HardState(shard) | Key::Compacted(shard) | Key::Entry(shard, _)) = decoded
            else {
                rows.next();
                continue;
            };
            if found.last().is_none_or(|last| last.0 != shard) {
                found.push((shard, RecoveredLog::default()));
                self.shards.insert(shard, ShardLog::default());
            }
            let (_, log) = found.last_mut().expect("pushed above");
            match decoded {
                Key::HardState(_) => log.hard_state = rows::hard_state_from_row(key, value)?,
                Key::Compacted(_) => {
                    // Precedes the entries in the order of the keys.
                    log.compacted = rows::compacted_from_row(key, value)?;
                    log.last = log.compacted;
                    let mut known = self.shard(shard);
                    (known.compacted, known.last) = (log.compacted, log.compacted);
                    known.filtered = log.compacted.index;
                }
                // Not yet dropped by a compaction.
                Key::Entry(_, index) if index <= log.compacted.index => {}
                Key::Entry(_, index) => {
                    let entry = rows::entry_from_row(shard, index, value)?;
                    if index != log.last.index.next() || entry.term < log.last.term {
                        let detail = format!(
                            "the log of shard {shard} has an entry at index {index}, term {} behind index {}, term {}",
                            entry.term, log.last.index, log.last.term
                        );
                        return Err(StorageError::corrupt(PLACE, detail));
                    }
                    log.last = EntryId {
                        index,
                        term: entry.term,
                    };
                    let bytes = (key.len() + value.len()) as u64;
                    log.bytes += bytes;
                    let mut known = self.shard(shard);
                    known.last = log.last;
                    known.sizes.push(index, bytes);
                }
                Key::Identity | Key::Starts | Key::Marks => unreachable!("skipped above"),
            }
            rows.next();
        }
        rows.status()
            .map_err(|error| StorageError::rocks(PLACE, &error))?;
        Ok(found)
    }

    /// Bytes of a shard's log, roughly.
    #[must_use]
    pub fn log_bytes(&self, shard: ShardId) -> u64 {
        self.shards.get(&shard).map_or(0, |log| log.sizes.bytes())
    }

    /// First index that is in a shard's log, or would be, and its last position.
    #[must_use]
    pub fn bounds(&self, shard: ShardId) -> (Index, EntryId) {
        self.shards
            .get(&shard)
            .map_or((Index(1), EntryId::default()), |log| {
                (log.compacted.index.next(), log.last)
            })
    }

    /// Where the database stands; obsolete entries count.
    pub(super) fn stats(&self) -> DatabaseStats {
        stats::of(&self.db, &self.options)
    }

    /// Makes a shard's log begin behind `position` with nothing in it; durable on return.
    pub(super) fn reset(
        &self,
        shard: ShardId,
        position: EntryId,
        hard_state: HardState,
    ) -> Result<(), StorageError> {
        let writing = &mut *self.writing.lock();
        let mut batch = WriteBatch::default();
        put(
            &mut batch,
            Key::HardState(shard),
            &wire::encode_hard_state(hard_state),
            &mut writing.row,
        );
        self.stage_reset(&mut batch, writing, shard, position);
        self.commit(batch, writing, true, "storage::log::reset")
    }

    /// Stores who the folder belongs to from now on, and with it the empty logs of replicas that begin at `position`;
    /// durable on return, all or nothing.
    pub(super) fn adopt(
        &self,
        identity: &proto::Identity,
        shards: impl IntoIterator<Item = ShardId>,
        position: EntryId,
        hard_state: HardState,
    ) -> Result<(), StorageError> {
        let writing = &mut *self.writing.lock();
        let mut batch = WriteBatch::default();
        put(&mut batch, Key::Identity, identity, &mut writing.row);
        for shard in shards {
            put(
                &mut batch,
                Key::HardState(shard),
                &wire::encode_hard_state(hard_state),
                &mut writing.row,
            );
            self.stage_reset(&mut batch, writing, shard, position);
        }
        self.commit(batch, writing, true, "storage::log::adopt")
    }

    /// Who the folder belongs to, if anybody.
    pub(super) fn identity(&self) -> Result<Option<proto::Identity>, StorageError> {
        self.row(Key::Identity, "storage::log::identity")
    }

    /// How far this store is and how far others were seen.
    #[must_use]
    pub fn marks(&self) -> &Arc<Marks> {
        &self.marks
    }

    /// Reads how far this store and those of other nodes are.
    pub(super) fn recover_marks(&self) -> Result<(), StorageError> {
        const PLACE: &str = "storage::log::recover_marks";
        let starts: proto::StoreStarts = self.row(Key::Starts, PLACE)?.unwrap_or_default();
        let marks: proto::StoreMarks = self.row(Key::Marks, PLACE)?.unwrap_or_default();
        self.leased.store(starts.leased, Relaxed);
        let starts: VecDeque<Mark> = starts.starts.into_iter().map(Mark::from).collect();
        let lineage = Lineage::new(starts);
        let lineage = lineage.and_then(|lineage| {
            // The writes of this start are those that the next one begins with.
            let mut next = lineage.clone();
            next.begin(Mark {
                start: 0,
                written: marks.written,
            });
            Lineage::new(next.starts().collect::<VecDeque<_>>()).map(|_| lineage)
        });
        let lineage = lineage.map_err(|error| {
            StorageError::corrupt(PLACE, format!("the starts of this store: {error}"))
        })?;
        let others = marks.others.into_iter().map(|seen| {
            let mark = seen.mark.unwrap_or_default().into();
            (NodeId(seen.node_id), mark)
        });
        let others = Acquaintances::new(others.collect());
        self.marks.set(lineage, marks.written, others);
        Ok(())
    }

    /// Notes that a process has started from this store, durably; nothing may be sent before.
    pub(super) fn begin(&self, start: u64) -> Result<(), StorageError> {
        self.marks.begin(start);
        self.write_starts("storage::log::begin")
    }

    /// Notes durably that this start uses leases, if it does; none may be given before. Returns whether an earlier start
    /// did.
    ///
    /// # Errors
    /// If the disk failed.
    pub fn note_leases(&self, uses: bool) -> Result<bool, StorageError> {
        let before = self.leased.fetch_or(uses, Relaxed);
        if uses && !before {
            self.write_starts("storage::log::note_leases")?;
        }
        Ok(before)
    }

    fn write_starts(&self, place: &'static str) -> Result<(), StorageError> {
        let writing = &mut *self.writing.lock();
        let starts = proto::StoreStarts {
            starts: (self.marks.lineage().starts()).map(Into::into).collect(),
            leased: self.leased.load(Relaxed),
        };
        let mut batch = WriteBatch::default();
        put(&mut batch, Key::Starts, &starts, &mut writing.row);
        self.commit(batch, writing, true, place)
    }

    fn row<M: prost::Message + Default>(
        &self,
        key: Key,
        place: &'static str,
    ) -> Result<Option<M>, StorageError> {
        let key = key.encode();
        let row = self
            .db
            .get_pinned(key)
            .map_err(|error| StorageError::rocks(place, &error))?;
        row.map(|row| rows::unseal(key.as_ref(), &row)).transpose()
    }

    /// Puts rows of any content in the place of all that there are, as if they had been found at a start.
    #[cfg(any(test, fuzzing))]
    pub(super) fn replace(&self, rows: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>) {
        let mut batch = WriteBatch::default();
        for row in self.db.iterator(rocksdb::IteratorMode::Start) {
            batch.delete(row.expect("the rows can be read").0);
        }
        for (key, value) in rows {
            batch.put(key, value);
        }
        self.db
            .write_opt(batch, &self.unsynced)
            .expect("the rows can be written");
        self.shards.clear();
        self.writing.lock().unsynced_cuts.clear();
    }

    /// Rewrites all files, as compactions do by and by.
    #[cfg(test)]
    pub(super) fn rewrite(&self) {
        let mut options = rocksdb::CompactOptions::default();
        options.set_bottommost_level_compaction(rocksdb::BottommostLevelCompaction::Force);
        self.db.flush().expect("memtable flushes");
        self.db
            .compact_range_opt(None::<&[u8]>, None::<&[u8]>, &options);
    }

    /// Rows of entries that a shard has in the database, cut or not.
    #[cfg(test)]
    pub(super) fn entry_rows(&self, shard: ShardId) -> usize {
        let mut read = ReadOptions::default();
        read.set_iterate_lower_bound(Key::Entry(shard, Index(0)).encode().as_ref());
        read.set_iterate_upper_bound(Key::HardState(ShardId(shard.0 + 1)).encode().as_ref());
        self.db
            .iterator_opt(rocksdb::IteratorMode::Start, read)
            .count()
    }

    fn shard(&self, shard: ShardId) -> dashmap::mapref::one::RefMut<'_, ShardId, ShardLog> {
        self.shards.entry(shard).or_default()
    }

    /// Writes a batch; after a sync the compaction filter may act on the beginnings written so far.
    fn commit(
        &self,
        batch: WriteBatch,
        writing: &mut Writing,
        sync: bool,
        place: &'static str,
    ) -> Result<(), StorageError> {
        let options = if sync { &self.synced } else { &self.unsynced };
        self.db
            .write_opt(batch, options)
            .map_err(|error| StorageError::rocks(place, &error))?;
        if sync {
            for (shard, index) in writing.unsynced_cuts.drain(..) {
                self.shard(shard).filtered = index;
            }
        }
        Ok(())
    }

    fn stage_append(
        &self,
        batch: &mut WriteBatch,
        writing: &mut Writing,
        append: &LogAppend,
    ) -> u64 {
        let shard = append.shard;
        if let Some(hard_state) = append.hard_state {
            put(
                batch,
                Key::HardState(shard),
                &wire::encode_hard_state(hard_state),
                &mut writing.row,
            );
        }
        if let Some(snapshot) = &append.snapshot {
            let position = EntryId {
                index: snapshot.meta.index,
                term: snapshot.meta.term,
            };
            self.stage_reset(batch, writing, shard, position);
        }
        let (Some(first), Some(end)) = (append.entries.first(), append.entries.last()) else {
            return 0;
        };
        let mut log = self.shard(shard);
        assert!(
            log.compacted.index < first.index && first.index <= log.last.index.next(),
            "append to shard {shard} from index {} on, but its log is {log:?}",
            first.index
        );
        if first.index <= log.last.index {
            log.sizes.truncate(first.index);
        }
        for (entry, index) in append.entries.iter().zip(first.index.0..) {
            assert!(
                entry.index.0 == index,
                "append to shard {shard} has {} in place of index {index}",
                entry.index
            );
            let bytes = put(
                batch,
                Key::Entry(shard, entry.index),
                &wire::encode_entry(entry.clone()),
                &mut writing.row,
            );
            log.sizes.push(entry.index, bytes);
        }
        delete_entries(batch, shard, end.index, log.last.index);
        log.last = EntryId {
            index: end.index,
            term: end.term,
        };
        append.entries.len() as u64
    }

    fn stage_reset(
        &self,
        batch: &mut WriteBatch,
        writing: &mut Writing,
        shard: ShardId,
        position: EntryId,
    ) {
        put(
            batch,
            Key::Compacted(shard),
            &rows::compacted_to_row(position),
            &mut writing.row,
        );
        writing.unsynced_cuts.push((shard, position.index));
        let mut log = self.shard(shard);
        assert!(
            position.index >= log.compacted.index,
            "the log of shard {shard} would begin at {position:?} again, but it is {log:?}"
        );
        // Those below vanish as after any compaction; those above would look like entries behind the snapshot.
        delete_entries(batch, shard, position.index, log.last.index);
        (log.compacted, log.last) = (position, position);
        log.sizes.clear();
    }

    /// Returns how many entries went.
    fn stage_compaction(
        &self,
        batch: &mut WriteBatch,
        writing: &mut Writing,
        compaction: &Compaction,
    ) -> u64 {
        let Compaction { shard, upto } = *compaction;
        let mut log = self.shard(shard);
        if upto.index <= log.compacted.index {
            return 0;
        }
        assert!(
            upto.index <= log.last.index,
            "the log of shard {shard} is to be cut up to {upto:?}, but it is {log:?}"
        );
        put(
            batch,
            Key::Compacted(shard),
            &rows::compacted_to_row(upto),
            &mut writing.row,
        );
        writing.unsynced_cuts.push((shard, upto.index));
        let entries = upto.index.0 - log.compacted.index.0;
        log.compacted = upto;
        if upto.index == log.last.index {
            log.sizes.clear();
        } else {
            log.sizes.compact(upto.index);
        }
        entries
    }

    /// Entries of `[low, high)` as [`LogReader::entries`].
    fn read(
        &self,
        shard: ShardId,
        low: Index,
        high: Index,
        max_bytes: u64,
    ) -> Result<Vec<Entry>, StorageError> {
        const PLACE: &str = "storage::log::read";
        let mut read = ReadOptions::default();
        read.set_iterate_upper_bound(Key::Entry(shard, high).encode().as_ref());
        let mut rows = self.db.raw_iterator_opt(read);
        rows.seek(Key::Entry(shard, low).encode());
        let (mut entries, mut bytes, mut next) = (Vec::new(), 0, low);
        while next < high {
            let Some((key, value)) = rows.item() else {
                break;
            };
            if Key::decode(key) != Some(Key::Entry(shard, next)) {
                let detail = format!(
                    "shard {shard} has no entry at index {next}, but {}",
                    key.escape_ascii()
                );
                return Err(StorageError::corrupt(PLACE, detail));
            }
            bytes += value.len() as u64;
            if bytes > max_bytes && !entries.is_empty() {
                break;
            }
            entries.push(rows::entry_from_row(shard, next, value)?);
            next = next.next();
            rows.next();
        }
        rows.status()
            .map_err(|error| StorageError::rocks(PLACE, &error))?;
        if entries.is_empty() {
            let detail = format!(
                "shard {shard} has no entries from index {low} to {high}: its log is {:?}",
                self.bounds(shard)
            );
            return Err(StorageError::corrupt(PLACE, detail));
        }
        Ok(entries)
    }

    /// Term of the entry at `index`, which must be in the log, or just before it.
    pub(super) fn read_term(&self, shard: ShardId, index: Index) -> Result<Term, StorageError> {
        let known = self
            .shards
            .get(&shard)
            .map_or_else(Default::default, |log| [log.compacted, log.last]);
        if let Some(known) = known.into_iter().find(|known| known.index == index) {
            return Ok(known.term);
        }
        let entries = self.read(shard, index, index.next(), 0)?;
        Ok(entries.first().expect("one at least").term)
    }
}

impl LogStore for RocksLog {
    fn write(
        &self,
        appends: &[LogAppend],
        compactions: &[Compaction],
    ) -> Result<Written, StorageError> {
        let writing = &mut *self.writing.lock();
        let payload: usize = appends
            .iter()
            .flat_map(|append| &append.entries)
            .map(|entry| entry.data.len() + 64)
            .sum();
        let mut batch =
            WriteBatch::with_capacity_bytes(payload + 64 * (appends.len() + compactions.len()));
        let mut written = Written::default();
        for append in appends {
            written.entries += self.stage_append(&mut batch, writing, append);
            written.synced |= append.must_sync || append.snapshot.is_some();
        }
        for compaction in compactions {
            let entries = self.stage_compaction(&mut batch, writing, compaction);
            written.cut_entries += entries;
            written.cuts += u64::from(entries > 0);
        }
        if written.synced {
            let count = self.marks.written() + 1;
            // What comes after this is news again.
            self.marks.take_news();
            put(
                &mut batch,
                Key::Marks,
                &self.marks.row(count),
                &mut writing.row,
            );
            written.bytes = batch.size_in_bytes() as u64;
            self.commit(batch, writing, true, "storage::log::write")?;
            self.marks.advance(count);
        } else if !batch.is_empty() {
            written.bytes = batch.size_in_bytes() as u64;
            self.commit(batch, writing, false, "storage::log::write")?;
        }
        Ok(written)
    }

    fn write_marks(&self) -> Result<(), StorageError> {
        if !self.marks.take_news() {
            return Ok(());
        }
        let writing = &mut *self.writing.lock();
        let mut batch = WriteBatch::default();
        // Nothing rests on this write, so it does not count: nodes would tell each other of their news for ever.
        let row = self.marks.row(self.marks.written());
        put(&mut batch, Key::Marks, &row, &mut writing.row);
        self.commit(batch, writing, true, "storage::log::write_marks")
    }
}

/// For the engine, which keeps a handle of its own.
#[derive(Clone)]
pub struct RocksLogReader(pub Arc<RocksLog>);

impl LogReader for RocksLogReader {
    fn entries(
        &self,
        shard: ShardId,
        low: Index,
        high: Index,
        max_bytes: u64,
    ) -> Result<Vec<Entry>, String> {
        self.0
            .read(shard, low, high, max_bytes)
            .map_err(|error| error.to_string())
    }

    fn term(&self, shard: ShardId, index: Index) -> Result<Term, String> {
        self.0
            .read_term(shard, index)
            .map_err(|error| error.to_string())
    }
}

/// Returns the bytes of key and value.
fn put(batch: &mut WriteBatch, key: Key, body: &impl prost::Message, row: &mut Vec<u8>) -> u64 {
    let key = key.encode();
    rows::seal(key.as_ref(), body, row);
    batch.put(key, &row);
    (key.as_ref().len() + row.len()) as u64
}

/// Deletes the entries of `(after, upto]`.
fn delete_entries(batch: &mut WriteBatch, shard: ShardId, after: Index, upto: Index) {
    for index in after.0 + 1..=upto.0 {
        batch.delete(Key::Entry(shard, Index(index)).encode());
    }
}
