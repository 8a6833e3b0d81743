//! The log database against a model, and what becomes of it on disk.

use std::{collections::BTreeMap, sync::Arc};

use flotilla_shards::{
    engine::{Compaction, LogReader as _},
    raft::{Snapshot, SnapshotMeta},
    recovery::RecoveredLog,
};
use tempfile::tempdir;

use super::*;

fn open_log(path: &Path) -> RocksLog {
    RocksLog::open(path, &small()).expect("opens")
}

fn compaction(shard: u64, index: u64, term: u64) -> Compaction {
    Compaction {
        shard: ShardId(shard),
        upto: id(index, term),
    }
}

/// The dumb twin of one shard's log.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    hard_state: HardState,
    compacted: EntryId,
    entries: BTreeMap<u64, Entry>,
}

impl Model {
    fn last(&self) -> EntryId {
        self.entries
            .values()
            .next_back()
            .map_or(self.compacted, |e| EntryId {
                index: e.index,
                term: e.term,
            })
    }

    fn pick(&self, random: &mut fastrand::Rng) -> Option<EntryId> {
        let (&first, &last) = (
            self.entries.keys().next()?,
            self.entries.keys().next_back()?,
        );
        let entry = &self.entries[&random.u64(first..=last)];
        Some(EntryId {
            index: entry.index,
            term: entry.term,
        })
    }
}

fn check(log: &Arc<RocksLog>, models: &BTreeMap<u64, Model>, context: &str) {
    let reader = RocksLogReader(Arc::clone(log));
    for (&shard, model) in models {
        let shard = ShardId(shard);
        let last = model.last();
        assert_eq!(
            log.bounds(shard),
            (model.compacted.index.next(), last),
            "{context}, shard {shard}"
        );
        assert_eq!(
            reader.term(shard, model.compacted.index),
            Ok(model.compacted.term),
            "{context}, shard {shard}"
        );
        if model.entries.is_empty() {
            assert_eq!(log.log_bytes(shard), 0, "{context}, shard {shard}");
            continue;
        }
        let low = model.compacted.index.next();
        let read = reader
            .entries(shard, low, last.index.next(), u64::MAX)
            .expect("entries are there");
        assert!(
            read.iter().eq(model.entries.values()),
            "{context}, shard {shard}: {read:?}"
        );
        // A bound on bytes shortens the answer, but never to nothing.
        let some = reader
            .entries(shard, low, last.index.next(), 300)
            .expect("entries are there");
        assert!(
            !some.is_empty() && read.starts_with(&some),
            "{context}, shard {shard}"
        );
        assert_eq!(
            reader.term(shard, read[0].index),
            Ok(read[0].term),
            "{context}, shard {shard}"
        );
    }
}

#[test]
fn random_operations_agree_with_a_model() {
    let seed = 0xf1_07;
    let mut random = fastrand::Rng::with_seed(seed);
    let folder = tempdir().unwrap();
    let mut log = Arc::new(open_log(folder.path()));
    let mut models: BTreeMap<u64, Model> = (1..=4).map(|shard| (shard, Model::default())).collect();
    for step in 0..1500 {
        let context = format!("step {step} of seed {seed}");
        let (mut appends, mut compactions) = (Vec::new(), Vec::new());
        for _ in 0..random.usize(1..6) {
            let shard = random.u64(1..=4);
            let model = models.get_mut(&shard).unwrap();
            let term =
                model.last().term.0.max(model.hard_state.term.0) + u64::from(random.u8(..10) == 0);
            match random.u32(..20) {
                0..=1 if !model.entries.is_empty() => {
                    let upto = model.pick(&mut random).unwrap();
                    compactions.push(Compaction {
                        shard: ShardId(shard),
                        upto,
                    });
                    model.entries.retain(|index, _| *index > upto.index.0);
                    model.compacted = upto;
                }
                2 => {
                    let position = id(model.compacted.index.0 + random.u64(1..40), term);
                    model.hard_state = hard_state(term, position.index.0);
                    model.compacted = position;
                    model.entries.clear();
                    let meta = SnapshotMeta {
                        index: position.index,
                        term: position.term,
                        ..SnapshotMeta::default()
                    };
                    let snapshot = Some(Box::new(Snapshot {
                        meta,
                        ..Snapshot::default()
                    }));
                    appends.push(LogAppend {
                        snapshot,
                        ..append(shard, model.hard_state, vec![])
                    });
                }
                kind => {
                    let (mut first, mut count) = (model.last().index.0 + 1, random.u64(0..5));
                    if kind < 6
                        && let Some(position) = model.pick(&mut random)
                    {
                        first = position.index.0;
                        // Raft cuts the end only to put something else there.
                        count += 1;
                        model.entries.retain(|index, _| *index < first);
                    }
                    // Terms may not sink from one entry to the next.
                    let term = term.max(model.last().term.0).max(1);
                    let new: Vec<Entry> = (first..first + count)
                        .map(|index| entry(index, term, vec![index as u8; random.usize(..200)]))
                        .collect();
                    model.hard_state = hard_state(term, model.hard_state.commit.0);
                    for e in &new {
                        model.entries.insert(e.index.0, e.clone());
                    }
                    appends.push(append(shard, model.hard_state, new));
                }
            }
            // Compactions are written behind all appends, so one closes the write.
            if !compactions.is_empty() {
                break;
            }
        }
        let written = log.write(&appends, &compactions).expect("writes");
        assert_eq!(written.synced, !appends.is_empty(), "{context}");
        check(&log, &models, &context);
        if random.u8(..40) == 0 {
            log.rewrite();
            check(&log, &models, &context);
        }
        if random.u8(..40) == 0 {
            drop(log);
            log = Arc::new(open_log(folder.path()));
            let found: BTreeMap<ShardId, RecoveredLog> =
                log.recover().expect("recovers").into_iter().collect();
            for (&shard, model) in &models {
                let found = found.get(&ShardId(shard)).copied().unwrap_or_default();
                assert_eq!(found.hard_state, model.hard_state, "{context}");
                assert_eq!(
                    (found.compacted, found.last),
                    (model.compacted, model.last()),
                    "{context}"
                );
            }
            check(&log, &models, &context);
        }
    }
}

#[test]
fn what_was_cut_leaves_the_disk_once_the_cut_is_durable() {
    let folder = tempdir().unwrap();
    let log = open_log(folder.path());
    let entries = (1..=1000)
        .map(|index| entry(index, 1, vec![0; 100]))
        .collect();
    log.write(
        &[
            append(3, hard_state(1, 1000), entries),
            append(4, hard_state(1, 1), vec![entry(1, 1, "x")]),
        ],
        &[],
    )
    .unwrap();
    let written = log.write(&[], &[compaction(3, 900, 1)]).unwrap();
    assert_eq!(
        (written.synced, written.cuts, written.cut_entries),
        (false, 1, 900)
    );
    log.rewrite();
    assert_eq!(
        log.entry_rows(ShardId(3)),
        1000,
        "dropped before the cut was durable"
    );
    log.write(&[append(4, hard_state(1, 1), vec![])], &[])
        .unwrap();
    log.rewrite();
    assert_eq!(log.entry_rows(ShardId(3)), 100);
    assert_eq!(log.entry_rows(ShardId(4)), 1);
    assert!(log.log_bytes(ShardId(3)) >= 100 * 100);
    // A cut that was made before does nothing.
    assert_eq!(
        log.write(&[], &[compaction(3, 900, 1), compaction(3, 5, 1)])
            .unwrap(),
        Written::default()
    );
}

#[test]
fn a_changed_commit_index_alone_is_not_synced() {
    let folder = tempdir().unwrap();
    let log = open_log(folder.path());
    let written = log
        .write(
            &[LogAppend {
                must_sync: false,
                ..append(3, hard_state(1, 5), vec![])
            }],
            &[],
        )
        .unwrap();
    assert!(!written.synced && written.bytes > 0);
}

#[test]
fn a_read_outside_of_the_log_is_an_error() {
    let folder = tempdir().unwrap();
    let log = Arc::new(open_log(folder.path()));
    log.write(&[append(3, hard_state(1, 0), vec![entry(1, 1, "a")])], &[])
        .unwrap();
    let reader = RocksLogReader(log);
    for (low, high) in [(2, 3), (5, 9)] {
        let error = reader
            .entries(ShardId(3), Index(low), Index(high), 1)
            .unwrap_err();
        assert!(error.contains("shard 3"), "{error}");
    }
    assert!(reader.term(ShardId(3), Index(2)).is_err());
    assert!(reader.term(ShardId(9), Index(1)).is_err());
}

#[test]
#[should_panic(expected = "append to shard 3 from index 7 on")]
fn a_gap_is_a_broken_promise_of_ours() {
    let folder = tempdir().unwrap();
    let _ =
        open_log(folder.path()).write(&[append(3, hard_state(1, 0), vec![entry(7, 1, "a")])], &[]);
}
