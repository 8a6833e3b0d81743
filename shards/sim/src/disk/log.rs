//! The model of the log database: entries and hard states of all shards, written together, durable after a sync.
//!
//! Writes reach the disk in the order in which they were made (one write-ahead log), each whole or not at all: a torn
//! one is told by its checksum. What was synced stays, but for injected damage, which every later read notices.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use flotilla_shards::engine::{Compaction, LogAppend, LogReader};
use flotilla_shards::ids::ShardId;
use flotilla_shards::lineage::{Acquaintances, Lineage};
use flotilla_shards::raft::{Entry, EntryId, HardState, Index, Term, size::entry_size};
use flotilla_shards::recovery::RecoveredLog;

use super::Unsynced;

/// One shard's rows.
#[derive(Clone, Debug, Default)]
pub(crate) struct ShardLog {
    pub(crate) hard_state: HardState,
    pub(crate) compacted: EntryId,
    entries: VecDeque<Entry>,
}

impl ShardLog {
    /// Where it ends.
    pub(crate) fn last(&self) -> EntryId {
        self.entries.back().map_or(self.compacted, |entry| EntryId {
            term: entry.term,
            index: entry.index,
        })
    }

    fn entry(&self, index: Index) -> Option<&Entry> {
        let at = index.0.checked_sub(self.compacted.index.0 + 1)?;
        self.entries.get(usize::try_from(at).ok()?)
    }

    /// Term of the entry at `index`, the position before the first one included.
    pub(crate) fn term(&self, index: Index) -> Option<Term> {
        if index == self.compacted.index {
            return Some(self.compacted.term);
        }
        self.entry(index).map(|entry| entry.term)
    }

    fn apply(&mut self, operation: Operation) {
        match operation {
            Operation::HardState(state) => self.hard_state = state,
            Operation::Reset(position) => {
                self.entries.clear();
                self.compacted = position;
            }
            Operation::Append(entries) => {
                let Some(first) = entries.first() else { return };
                let keep = first.index.0 - self.compacted.index.0 - 1;
                self.entries.truncate(usize::try_from(keep).unwrap_or(0));
                self.entries.extend(entries);
            }
            Operation::Compact(upto) => {
                let cut = upto.index.0.saturating_sub(self.compacted.index.0);
                if cut > 0 {
                    self.entries.drain(
                        ..usize::try_from(cut)
                            .unwrap_or(usize::MAX)
                            .min(self.entries.len()),
                    );
                    self.compacted = upto;
                }
            }
        }
    }
}

/// What a write does to one shard.
#[derive(Clone, Debug)]
enum Operation {
    HardState(HardState),
    Reset(EntryId),
    Append(Vec<Entry>),
    Compact(EntryId),
}

/// Everything that goes to the disk at once.
#[derive(Clone, Debug, Default)]
pub(crate) struct LogWrite {
    operations: Vec<(ShardId, Operation)>,
    /// What it says of this store and of others.
    marks: Option<Marks>,
    pub(crate) sync: bool,
    pub(crate) entries: usize,
    pub(crate) bytes: u64,
}

impl LogWrite {
    /// The write of these appends and cuts, as `LogStore::write` of the node makes it.
    pub(crate) fn new(appends: &[LogAppend], compactions: &[Compaction]) -> Self {
        let mut write = Self::default();
        for append in appends {
            let shard = append.shard;
            if let Some(state) = append.hard_state {
                write.operations.push((shard, Operation::HardState(state)));
            }
            if let Some(snapshot) = &append.snapshot {
                let position = EntryId {
                    term: snapshot.meta.term,
                    index: snapshot.meta.index,
                };
                write.operations.push((shard, Operation::Reset(position)));
            }
            if !append.entries.is_empty() {
                write.entries += append.entries.len();
                write.bytes += append.entries.iter().map(entry_size).sum::<u64>();
                let entries = append.entries.clone();
                write.operations.push((shard, Operation::Append(entries)));
            }
            write.sync |= append.must_sync || append.snapshot.is_some();
        }
        for compaction in compactions {
            let operation = Operation::Compact(compaction.upto);
            write.operations.push((compaction.shard, operation));
        }
        write
    }

    /// The same, saying this too.
    pub(crate) fn with_marks(self, marks: Marks) -> Self {
        Self {
            marks: Some(marks),
            sync: true,
            ..self
        }
    }

    /// Writes of the store that are synced with it, if it says so.
    pub(crate) fn written(&self) -> Option<u64> {
        self.marks.as_ref().map(|marks| marks.written)
    }
}

/// How far this store is, and how far those of other nodes were seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Marks {
    pub(crate) written: u64,
    pub(crate) others: Acquaintances,
}

type Logs = BTreeMap<ShardId, ShardLog>;

/// The log of one node.
#[derive(Clone, Debug, Default)]
pub(crate) struct LogDisk {
    /// As the node reads it.
    current: Logs,
    /// As a crash that drops everything unsynced would leave it.
    durable: Logs,
    /// What lies between the two, oldest first.
    unsynced: VecDeque<LogWrite>,
    /// Entries whose rows no longer match their checksums.
    damaged: BTreeSet<(ShardId, Index)>,
    /// The starts from this disk.
    pub(crate) starts: Lineage,
    /// The durable marks.
    pub(crate) marks: Marks,
}

impl LogDisk {
    /// The logs that a node is born with.
    pub(crate) fn born(
        shards: impl Iterator<Item = ShardId>,
        position: EntryId,
        hard_state: HardState,
    ) -> Self {
        let log = ShardLog {
            hard_state,
            compacted: position,
            entries: VecDeque::new(),
        };
        let durable: Logs = shards.map(|shard| (shard, log.clone())).collect();
        Self {
            current: durable.clone(),
            durable,
            ..Self::default()
        }
    }

    /// A write has reached the operating system; with a sync, the disk.
    pub(crate) fn complete(&mut self, write: LogWrite) {
        for (shard, operation) in &write.operations {
            let log = self.current.entry(*shard).or_default();
            log.apply(operation.clone());
        }
        let sync = write.sync;
        self.unsynced.push_back(write);
        if sync {
            self.persist(self.unsynced.len());
        }
    }

    /// What the disk would be found to be after a crash now that drops everything unsynced.
    pub(crate) fn image(&self) -> Self {
        Self {
            current: self.durable.clone(),
            unsynced: VecDeque::new(),
            ..self.clone()
        }
    }

    fn persist(&mut self, writes: usize) {
        for write in self.unsynced.drain(..writes) {
            if let Some(marks) = write.marks {
                self.marks = marks;
            }
            for (shard, operation) in write.operations {
                if let Operation::Append(entries) = &operation
                    && !self.damaged.is_empty()
                {
                    for entry in entries {
                        self.damaged.remove(&(shard, entry.index));
                    }
                }
                self.durable.entry(shard).or_default().apply(operation);
            }
        }
    }

    /// The power goes: of the unsynced writes, and of the one that was under way, some are left.
    pub(crate) fn crash(
        &mut self,
        under_way: Option<LogWrite>,
        unsynced: Unsynced,
        rng: &mut fastrand::Rng,
    ) {
        self.unsynced.extend(under_way);
        let survivors = unsynced.survivors(self.unsynced.len(), rng);
        self.persist(survivors);
        self.unsynced.clear();
        self.current.clone_from(&self.durable);
    }

    /// Flips a bit in the row of a durable entry, if there is one. Returns which.
    pub(crate) fn damage(&mut self, rng: &mut fastrand::Rng) -> Option<(ShardId, Index)> {
        let filled: Vec<_> = (self.durable.iter())
            .filter(|(_, log)| !log.entries.is_empty())
            .collect();
        let (shard, log) = filled.get(rng.usize(..filled.len().max(1)))?;
        let at = rng.usize(..log.entries.len());
        let damaged = (**shard, log.entries[at].index);
        self.damaged.insert(damaged);
        Some(damaged)
    }

    /// Whether any row that is still part of a log is damaged.
    pub(crate) fn is_damaged(&self) -> bool {
        (self.damaged.iter()).any(|(shard, index)| {
            (self.durable.get(shard)).is_some_and(|log| log.entry(*index).is_some())
        })
    }

    /// What a shard has on the disk for sure.
    pub(crate) fn durable(&self, shard: ShardId) -> Option<&ShardLog> {
        self.durable.get(&shard)
    }

    /// Makes a log begin behind a position, durably.
    pub(crate) fn reset(&mut self, shard: ShardId, position: EntryId, hard_state: HardState) {
        self.complete(LogWrite {
            operations: vec![
                (shard, Operation::HardState(hard_state)),
                (shard, Operation::Reset(position)),
            ],
            sync: true,
            ..LogWrite::default()
        });
    }

    /// Reads and checks everything, as the node does at its start.
    ///
    /// # Errors
    /// What is damaged.
    pub(crate) fn recover(&self) -> Result<Vec<(ShardId, RecoveredLog)>, String> {
        let mut found = Vec::with_capacity(self.current.len());
        for (&shard, log) in &self.current {
            let mut last = log.compacted;
            let mut bytes = 0;
            for entry in &log.entries {
                if self.damaged.contains(&(shard, entry.index)) {
                    return Err(bad_checksum(shard, entry.index));
                }
                if entry.index != last.index.next() || entry.term < last.term {
                    return Err(format!("shard {shard}: entry {entry:?} follows {last:?}"));
                }
                last = EntryId {
                    term: entry.term,
                    index: entry.index,
                };
                bytes += entry_size(entry);
            }
            let recovered = RecoveredLog {
                hard_state: log.hard_state,
                compacted: log.compacted,
                last,
                bytes,
            };
            found.push((shard, recovered));
        }
        Ok(found)
    }

    /// Durable entries of a shard, in order.
    pub(crate) fn entries(&self, shard: ShardId) -> impl Iterator<Item = &Entry> {
        self.current
            .get(&shard)
            .into_iter()
            .flat_map(|log| &log.entries)
    }
}

fn bad_checksum(shard: ShardId, index: Index) -> String {
    format!("entry {index} of shard {shard} does not match its checksum")
}

/// The node's log, shared with its engine.
#[derive(Clone, Debug)]
pub(crate) struct SharedLog(pub(crate) Rc<RefCell<LogDisk>>);

impl LogReader for SharedLog {
    fn entries(
        &self,
        shard: ShardId,
        low: Index,
        high: Index,
        max_bytes: u64,
    ) -> Result<Vec<Entry>, String> {
        let disk = self.0.borrow();
        let log = disk.current.get(&shard);
        let mut entries = Vec::new();
        let mut bytes = 0;
        for index in (low.0..high.0).map(Index) {
            let Some(entry) = log.and_then(|log| log.entry(index)) else {
                return Err(format!("shard {shard} has no entry {index}"));
            };
            bytes += entry_size(entry);
            if bytes > max_bytes && !entries.is_empty() {
                break;
            }
            if disk.damaged.contains(&(shard, index)) {
                return Err(bad_checksum(shard, index));
            }
            entries.push(entry.clone());
        }
        Ok(entries)
    }

    fn term(&self, shard: ShardId, index: Index) -> Result<Term, String> {
        let disk = self.0.borrow();
        if disk.damaged.contains(&(shard, index)) {
            return Err(bad_checksum(shard, index));
        }
        (disk.current.get(&shard).and_then(|log| log.term(index)))
            .ok_or_else(|| format!("shard {shard} has no entry {index}"))
    }
}
