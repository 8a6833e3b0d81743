//! Source: Raft paper 5.3 (Log Matching). If two logs have an entry with the same index and term, these are equal, and so
//! is everything before them.

use std::collections::BTreeMap;

use flotilla_shards::engine::LogAppend;
use flotilla_shards::ids::ShardId;
use flotilla_shards::raft::{Entry, EntryId, Index, Term};

use super::{ByIndex, Checked, ensure, entry_hash};

const CHECK: &str = "log_matching";

/// All entries that were ever seen at one index: usually one.
#[derive(Clone, Debug, Default)]
struct Seen(Vec<(Term, u64, Term)>);

/// See the module. By induction it is enough to look at each entry and the term before it.
pub(crate) struct LogMatching {
    seen: BTreeMap<ShardId, ByIndex<Seen>>,
    /// The terms of each node's logs as handed to its storage writer, with where they begin.
    logs: Vec<BTreeMap<ShardId, (EntryId, ByIndex<Term>)>>,
}

impl LogMatching {
    pub(super) fn new(nodes: usize) -> Self {
        Self {
            seen: BTreeMap::new(),
            logs: vec![BTreeMap::new(); nodes],
        }
    }

    /// Term at a position of a node's log, as handed out; none if it is not in the log, or before its beginning.
    pub(super) fn term(&self, at: usize, shard: ShardId, index: Index) -> Option<Term> {
        let (base, log) = self.logs[at].get(&shard)?;
        if index == base.index {
            return Some(base.term);
        }
        log.get(index).copied()
    }

    /// Where a node's log begins and ends.
    pub(super) fn bounds(&self, at: usize, shard: ShardId) -> (Index, Index) {
        self.logs[at]
            .get(&shard)
            .map_or((Index(0), Index(0)), |(base, log)| (base.index, log.last()))
    }

    pub(super) fn append(&mut self, at: usize, append: &LogAppend) -> Checked {
        if let Some(snapshot) = &append.snapshot {
            let base = EntryId {
                term: snapshot.meta.term,
                index: snapshot.meta.index,
            };
            self.begin(at, append.shard, base);
        }
        let Some(first) = append.entries.first() else {
            return Ok(());
        };
        let shard = append.shard;
        let before = self.term(at, shard, first.index.prev());
        let Some(mut before) = before else {
            let bounds = self.bounds(at, shard);
            return ensure(false, CHECK, || {
                format!(
                    "node {}, shard {shard}: entry {} is appended to a log of {bounds:?}",
                    at + 1,
                    first.index
                )
            });
        };
        let (base, log) = self.logs[at]
            .get_mut(&shard)
            .unwrap_or_else(|| unreachable!("the log has a term"));
        log.truncate(first.index);
        let seen = (self.seen.entry(shard)).or_insert_with(|| ByIndex::starting(base.index.next()));
        for entry in &append.entries {
            while seen.last() < entry.index {
                seen.push(Seen::default());
            }
            let hash = entry_hash(entry);
            if let Some(seen) = seen.get_mut(entry.index) {
                match seen.0.iter().find(|(term, ..)| *term == entry.term) {
                    Some(&(_, known, prior)) => {
                        ensure(known == hash && prior == before, CHECK, || {
                            format!(
                                "node {}, shard {shard}: entry {} of term {} differs from another log's, or follows \
                                 term {before} here and {prior} there",
                                at + 1,
                                entry.index,
                                entry.term
                            )
                        })?;
                    }
                    None => seen.0.push((entry.term, hash, before)),
                }
            }
            log.push(entry.term);
            before = entry.term;
        }
        Ok(())
    }

    fn begin(&mut self, at: usize, shard: ShardId, base: EntryId) {
        self.logs[at].insert(shard, (base, ByIndex::starting(base.index.next())));
    }

    /// After a start the log is what was found on disk.
    pub(super) fn recovered<'a>(
        &mut self,
        at: usize,
        shard: ShardId,
        compacted: EntryId,
        entries: impl Iterator<Item = &'a Entry>,
    ) {
        self.begin(at, shard, compacted);
        if let Some((_, log)) = self.logs[at].get_mut(&shard) {
            for entry in entries.filter(|entry| entry.index > compacted.index) {
                log.push(entry.term);
            }
        }
    }
}
