//! The compaction filter of the log database: entries that were cut from the front of a log are dropped when RocksDB
//! rewrites the files they are in. It looks at `filtered` only, which follows what is durable, see [`super::log`].

use std::{ffi::CStr, sync::Arc};

use flotilla_shards::{ids::ShardId, raft::Index};
use rocksdb::{
    CompactionDecision,
    compaction_filter::CompactionFilter,
    compaction_filter_factory::{CompactionFilterContext, CompactionFilterFactory},
};

use super::{log::ShardLogs, rows::Key};

/// Makes the filters that drop what was cut from the logs.
pub(super) struct DropCompacted {
    shards: ShardLogs,
}

impl DropCompacted {
    const NAME: &CStr = c"flotilla.log.compacted";

    pub(super) fn new(shards: ShardLogs) -> Self {
        Self { shards }
    }
}

impl CompactionFilterFactory for DropCompacted {
    type Filter = CompactedFilter;

    fn create(&mut self, _: CompactionFilterContext) -> CompactedFilter {
        CompactedFilter {
            shards: Arc::clone(&self.shards),
            shard: ShardId(0),
            filtered: Index(0),
        }
    }

    fn name(&self) -> &CStr {
        Self::NAME
    }
}

/// Passes over the rows of one compaction, in order of their keys.
pub(super) struct CompactedFilter {
    shards: ShardLogs,
    /// The shard of the last entry, and what was known of it when its first one came by.
    shard: ShardId,
    filtered: Index,
}

impl CompactionFilter for CompactedFilter {
    fn filter(&mut self, _: u32, key: &[u8], _: &[u8]) -> CompactionDecision {
        let Some(Key::Entry(shard, index)) = Key::decode(key) else {
            return CompactionDecision::Keep;
        };
        if shard != self.shard {
            self.shard = shard;
            self.filtered = self.shards.get(&shard).map_or(Index(0), |log| log.filtered);
        }
        if index <= self.filtered {
            CompactionDecision::Remove
        } else {
            CompactionDecision::Keep
        }
    }

    fn name(&self) -> &CStr {
        DropCompacted::NAME
    }
}
