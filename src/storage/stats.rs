//! What the two databases tell of themselves, for operators.

use std::time::Duration;

use rocksdb::{
    DB, Options, properties,
    statistics::{StatsLevel, Ticker},
};

/// Where a database stands. Counts begin when it is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatabaseStats {
    /// Bytes of its files.
    pub disk_bytes: u64,
    /// Bytes of writes that are in memory only.
    pub memtable_bytes: u64,
    /// Memtables that wait to be flushed.
    pub full_memtables: u64,
    /// Files in level 0.
    pub level0_files: u64,
    /// Bytes that compactions still have to rewrite, roughly.
    pub compaction_debt: u64,
    /// Flushes and compactions that run.
    pub jobs: u64,
    /// Whether it takes no writes for now.
    pub stopped: bool,
    /// How long writes were held back.
    pub stalled: Duration,
    /// Bytes written by flushes.
    pub flushed_bytes: u64,
    /// Bytes read by compactions.
    pub compaction_read_bytes: u64,
    /// Bytes written by compactions.
    pub compaction_written_bytes: u64,
    /// Blocks that reads found in the cache.
    pub cache_hits: u64,
    /// Blocks that reads had to take from files.
    pub cache_misses: u64,
    /// Bytes of blocks in the cache.
    pub cache_bytes: u64,
}

/// Has a database count what it does: counters per core, no histograms and no clocks.
pub(super) fn count(options: &mut Options) {
    options.enable_statistics();
    options.set_statistics_level(StatsLevel::ExceptHistogramOrTimers);
}

/// Asks a database that was opened with these options.
pub(super) fn of(db: &DB, options: &Options) -> DatabaseStats {
    let now = |name: &properties::PropName| db.property_int_value(name).ok().flatten().unwrap_or(0);
    let counted = |ticker| options.get_ticker_count(ticker);
    DatabaseStats {
        disk_bytes: now(properties::TOTAL_SST_FILES_SIZE),
        memtable_bytes: now(properties::CUR_SIZE_ALL_MEM_TABLES),
        full_memtables: now(properties::NUM_IMMUTABLE_MEM_TABLE),
        level0_files: level0_files(db),
        compaction_debt: now(properties::ESTIMATE_PENDING_COMPACTION_BYTES),
        jobs: now(properties::NUM_RUNNING_FLUSHES) + now(properties::NUM_RUNNING_COMPACTIONS),
        stopped: now(properties::IS_WRITE_STOPPED) != 0,
        stalled: Duration::from_micros(counted(Ticker::StallMicros)),
        flushed_bytes: counted(Ticker::FlushWriteBytes),
        compaction_read_bytes: counted(Ticker::CompactReadBytes),
        compaction_written_bytes: counted(Ticker::CompactWriteBytes),
        cache_hits: counted(Ticker::BlockCacheHit),
        cache_misses: counted(Ticker::BlockCacheMiss),
        cache_bytes: now(properties::BLOCK_CACHE_USAGE),
    }
}

/// The one property that RocksDB gives as text only.
fn level0_files(db: &DB) -> u64 {
    let text = db.property_value(properties::num_files_at_level(0));
    let count = text.ok().flatten().and_then(|text| text.parse().ok());
    count.unwrap_or(0)
}
