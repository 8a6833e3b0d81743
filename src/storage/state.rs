//! The state database: the rows of all shards' applied state, in one RocksDB without a WAL.
//!
//! The layout of its keys and values is not decided here but in `flotilla_shards::keys` and `kv`. One thread writes,
//! the applier; any thread reads. What is written can be read at once and is durable after the next flush; the rows of
//! a batch become durable together, a shard's applied index among them, so a crash loses whole batches from the end
//! on and the log replays them. An installed snapshot is durable at once.
//!
//! How far shards have come may lie apart from their state rows (`kv::positions`). What of that is in the rows is kept in
//! memory, in a `kv::Journal`.

use std::{ops::ControlFlow, path::Path, sync::LazyLock};

use bytes::Bytes;
use flotilla_proto::v1 as proto;
use flotilla_shards::{
    ids::ShardId,
    keys::{self, RowRange},
    kv::{
        Journal, Order, ShardState, StateBatch, StateMachine, StateView, ViewError, Visit,
        positions,
    },
    raft::EntryId,
};
use parking_lot::{Mutex, MutexGuard};
use prost::Message;
use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, DBRawIterator, IngestExternalFileOptions,
    Options, Range, ReadOptions, Snapshot, WriteBatch, WriteOptions,
};

use super::{DatabaseStats, StorageError, StorageOptions, snapshot::Received, stats};

/// Rows of a new cluster that are written at once: those of a million shards would take a GiB.
const BEGIN_BATCH_BYTES: usize = 4 << 20;

/// The state database.
///
/// Reading it directly sees each row as it is at that moment; only the thread that writes may take that for one
/// moment. All others take a [`View`].
pub struct RocksState {
    db: DB,
    /// They hold what the database counts.
    options: Options,
    write: WriteOptions,
    received: Received,
    /// Knows no rows of before the start until [`RocksState::recover_positions`].
    journal: Mutex<Journal>,
}

impl RocksState {
    /// Opens the database in `path`, or makes an empty one; removes what is left of received snapshots in `snapshots`.
    pub(super) fn open(
        path: &Path,
        snapshots: &Path,
        options: &StorageOptions,
    ) -> Result<Self, StorageError> {
        let mut db_options = super::db_options(options, "")
            .map_err(|error| StorageError::rocks("storage::state::open", &error))?;
        table_options(
            &mut db_options,
            Some(&Cache::new_lru_cache(options.block_cache_bytes)),
        );
        db_options.set_write_buffer_size(options.state_memtable_bytes);
        db_options.set_max_write_buffer_number(options.state_memtables);
        // One thread writes: nothing to coordinate.
        db_options.set_allow_concurrent_memtable_write(false);
        db_options.set_enable_write_thread_adaptive_yield(false);
        db_options.set_memtable_whole_key_filtering(true);
        db_options.set_memtable_prefix_bloom_ratio(0.02);
        let db = DB::open(&db_options, path)
            .map_err(|error| StorageError::rocks("storage::state::open", &error))?;
        let mut write = WriteOptions::default();
        write.disable_wal(true);
        Ok(Self {
            db,
            options: db_options,
            write,
            received: Received::open(snapshots)?,
            journal: Mutex::new(Journal::new(options.journal)),
        })
    }

    /// Writes the changes as one. Durable after the next [`RocksState::flush`].
    ///
    /// # Errors
    /// The database refused; it must not be written again.
    pub fn write(&self, batch: &StateBatch) -> Result<(), StorageError> {
        let mut rows = WriteBatch::with_capacity_bytes(batch.bytes() + 16 * batch.len());
        for (key, value) in batch.rows() {
            match value {
                Some(value) => rows.put(key, value),
                None => rows.delete(key),
            }
        }
        self.db
            .write_opt(rows, &self.write)
            .map_err(|error| StorageError::rocks("storage::state::write", &error))
    }

    /// What rows of positions there are, for the thread that writes: it says what a batch has to hold of the shards' own
    /// states, and the batch must be written next.
    pub fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock()
    }

    /// Opens a shard's machine, if the shard is here. For the thread that writes.
    ///
    /// # Errors
    /// Its rows are damaged, or the database failed.
    pub fn open_machine(&self, shard: ShardId) -> Result<Option<StateMachine>, StorageError> {
        (self.journal().open(self, shard))
            .map_err(|error| StorageError::state("storage::state::open_machine", &error))
    }

    /// Writes the state rows of all shards that are further than these, and deletes the rows of positions. Must be called
    /// by the thread that writes. What it writes is durable after the next flush, before which nothing is lost: the rows
    /// are deleted by the last batch.
    ///
    /// # Errors
    /// State rows are damaged, or the database failed.
    pub fn checkpoint(&self) -> Result<(), StorageError> {
        let mut journal = self.journal();
        let mut batch = StateBatch::default();
        while (journal.checkpoint(self, &mut batch))
            .map_err(|error| StorageError::state("storage::state::checkpoint", &error))?
        {
            self.write(&batch)?;
            batch.clear();
        }
        Ok(())
    }

    /// Reads the rows of positions that a crash has left, and writes the state rows for which they stand.
    pub(super) fn recover_positions(&self) -> Result<(), StorageError> {
        let limits = self.journal().limits();
        *self.journal() = Journal::read(self, limits)
            .map_err(|error| StorageError::state("storage::state::recover_positions", &error))?;
        self.checkpoint()
    }

    /// Makes everything written so far durable. Reads and writes go on meanwhile.
    ///
    /// # Errors
    /// The database refused.
    pub fn flush(&self) -> Result<(), StorageError> {
        self.db
            .flush()
            .map_err(|error| StorageError::rocks("storage::state::flush", &error))
    }

    /// All rows as of now, for as long as it lives; a long-lived view keeps old versions of rows on disk.
    #[must_use]
    pub fn view(&self) -> View<'_> {
        View {
            snapshot: self.db.snapshot(),
        }
    }

    /// Puts the received snapshot of a shard in the place of what the shard has; durable on return. Must be called by
    /// the thread that writes. Once more after success, it does nothing.
    ///
    /// # Errors
    /// The files are not there, or the database refused.
    pub fn install(&self, shard: ShardId, position: EntryId) -> Result<(), StorageError> {
        const PLACE: &str = "storage::state::install";
        if let Some(found) = self.shard_state(shard)?
            && found.position().applied == position
        {
            return self.received.remove(shard, position.index);
        }
        let mut options = IngestExternalFileOptions::default();
        options.set_move_files(true);
        // All files become part of the database by one edit of its manifest.
        self.db
            .ingest_external_file_opts(&options, self.received.files(shard, position).to_vec())
            .map_err(|error| StorageError::rocks(PLACE, &error))?;
        self.received.remove(shard, position.index)
    }

    /// Takes over the files of a complete snapshot.
    pub(super) fn received(
        &self,
        shard: ShardId,
        position: EntryId,
        partial: &Path,
    ) -> Result<(), StorageError> {
        self.received.add(shard, position, partial)
    }

    /// Where snapshots are received.
    pub(super) fn snapshots(&self) -> &Path {
        self.received.folder()
    }

    /// The applied state of one replica, if it is here, without a look at rows of positions.
    ///
    /// # Errors
    /// The row is damaged, or the database failed.
    pub fn shard_state(&self, shard: ShardId) -> Result<Option<ShardState>, StorageError> {
        let machine = self.open_machine(shard)?;
        Ok(machine.map(|machine| machine.state().clone()))
    }

    /// The applied state of all replicas, by shard.
    pub(super) fn replicas(&self) -> Result<Vec<ShardState>, StorageError> {
        positions::shard_states(&self.view())
            .map_err(|error| StorageError::state("storage::state::replicas", &error))
    }

    /// Bytes that rows take in the files, compressed and without what is not flushed yet: an estimate from the files' indexes,
    /// in the order of the ranges.
    #[must_use]
    pub fn disk_bytes(&self, ranges: &[RowRange]) -> Vec<u64> {
        let ranges = ranges
            .iter()
            .map(|range| Range::new(&range.start, &range.end));
        self.db.get_approximate_sizes(&ranges.collect::<Vec<_>>())
    }

    /// Replaces everything but the identity by these rows; durable on return.
    pub(super) fn begin(
        &self,
        rows: impl IntoIterator<Item = (Bytes, Bytes)>,
    ) -> Result<(), StorageError> {
        const PLACE: &str = "storage::state::begin";
        let mut batch = StateBatch::default();
        // Left by an attempt with another genesis that was not finished.
        let all = RowRange {
            start: Bytes::from_static(&[1]),
            end: Bytes::from_static(&[u8::MAX]),
        };
        let read = self.scan(&all, Order::Ascending, &mut |key, _| {
            batch.delete(Bytes::copy_from_slice(key));
            ControlFlow::Continue(())
        });
        read.map_err(|error| StorageError::view(PLACE, &error))?;
        for (key, value) in rows {
            batch.put(key, value);
            if batch.bytes() >= BEGIN_BATCH_BYTES {
                self.write(&batch)?;
                batch.clear();
            }
        }
        self.write(&batch)?;
        self.flush()
    }

    /// Who the folder belongs to, if anybody.
    pub(super) fn identity(&self) -> Result<Option<proto::Identity>, StorageError> {
        const PLACE: &str = "storage::state::identity";
        let row = self
            .get(keys::IDENTITY)
            .map_err(|error| StorageError::view(PLACE, &error))?;
        row.map(proto::Identity::decode)
            .transpose()
            .map_err(|error| StorageError::corrupt(PLACE, error.to_string()))
    }

    /// Stores who the folder belongs to; durable on return.
    pub(super) fn set_identity(&self, identity: &proto::Identity) -> Result<(), StorageError> {
        let mut batch = StateBatch::default();
        batch.put(
            Bytes::from_static(keys::IDENTITY),
            identity.encode_to_vec().into(),
        );
        self.write(&batch)?;
        self.flush()
    }

    /// Where the database stands.
    pub(super) fn stats(&self) -> DatabaseStats {
        stats::of(&self.db, &self.options)
    }
}

impl StateView for RocksState {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        let row = self.db.get_pinned(key).map_err(unreadable)?;
        Ok(row.map(|row| Bytes::copy_from_slice(&row)))
    }

    fn scan(&self, range: &RowRange, order: Order, visit: &mut Visit<'_>) -> Result<(), ViewError> {
        visit_rows(self.db.raw_iterator_opt(within(range)), order, visit)
    }
}

/// The state database as of one moment.
pub struct View<'a> {
    snapshot: Snapshot<'a>,
}

impl View<'_> {
    /// The applied state of one replica, if it is here.
    ///
    /// # Errors
    /// Its rows are damaged, or the database failed.
    pub fn shard_state(&self, shard: ShardId) -> Result<Option<ShardState>, StorageError> {
        positions::shard_state(self, shard)
            .map_err(|error| StorageError::state("storage::state::shard_state", &error))
    }
}

impl StateView for View<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        let row = self.snapshot.get_pinned(key).map_err(unreadable)?;
        Ok(row.map(|row| Bytes::copy_from_slice(&row)))
    }

    fn scan(&self, range: &RowRange, order: Order, visit: &mut Visit<'_>) -> Result<(), ViewError> {
        visit_rows(self.snapshot.raw_iterator_opt(within(range)), order, visit)
    }
}

fn within(range: &RowRange) -> ReadOptions {
    let mut read = ReadOptions::default();
    read.set_iterate_lower_bound(&range.start[..]);
    read.set_iterate_upper_bound(&range.end[..]);
    read
}

fn visit_rows(
    mut rows: DBRawIterator<'_>,
    order: Order,
    visit: &mut Visit<'_>,
) -> Result<(), ViewError> {
    match order {
        Order::Ascending => rows.seek_to_first(),
        Order::Descending => rows.seek_to_last(),
    }
    while let Some((key, value)) = rows.item() {
        if visit(key, value).is_break() {
            return Ok(());
        }
        match order {
            Order::Ascending => rows.next(),
            Order::Descending => rows.prev(),
        }
    }
    rows.status().map_err(unreadable)
}

fn unreadable(error: rocksdb::Error) -> ViewError {
    ViewError(Box::new(StorageError::rocks(
        "storage::state::read",
        &error,
    )))
}

/// The form of SST files, of the database's own and of received ones.
fn table_options(options: &mut Options, cache: Option<&Cache>) {
    let mut table = BlockBasedOptions::default();
    table.set_format_version(5);
    table.set_bloom_filter(10.0, false);
    table.set_block_size(16 << 10);
    if let Some(cache) = cache {
        table.set_block_cache(cache);
        // Index and filters are bounded with the rest, and those of the newest files stay.
        table.set_cache_index_and_filter_blocks(true);
        table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    }
    options.set_block_based_table_factory(&table);
    options.set_compression_type(DBCompressionType::Lz4);
}

/// How received rows are written.
pub(super) fn sst_options() -> &'static Options {
    static OPTIONS: LazyLock<Options> = LazyLock::new(|| {
        let mut options = Options::default();
        table_options(&mut options, None);
        // The disk writes while more is received, and has little left to do when all must be durable.
        options.set_bytes_per_sync(1 << 20);
        options
    });
    &OPTIONS
}
