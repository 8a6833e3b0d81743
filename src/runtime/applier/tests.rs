//! The applier on a real state database: answers, order, flushes, and what crash images of log and state replay to.

use std::{ops::ControlFlow, path::Path};

use bytes::Bytes;
use flotilla_proto::v1 as proto;
use flotilla_shards::{
    engine::{Compaction, LogAppend, LogReader as _, Release},
    genesis::{Genesis, Split},
    ids::NodeId,
    keys::{self, RowRange},
    kv::{JournalLimits, MemoryState, Order, StateMachine, StateView as _},
    raft::{HardState, MessageKind, SnapshotMeta, Term},
};
use prost::Message as _;
use tempfile::tempdir;

use super::*;
use crate::storage::{
    self, Export, Import, LogStore as _, RocksLogReader, StorageOptions, Stores, tests::copy,
};

fn options() -> StorageOptions {
    StorageOptions {
        log_memtable_bytes: 4 << 20,
        state_memtable_bytes: 4 << 20,
        block_cache_bytes: 1 << 20,
        // Few shards and small rounds meet what is for many.
        journal: JournalLimits {
            bytes: 1_000,
            shards_min: 1,
            batch_bytes: 200,
        },
        ..StorageOptions::default()
    }
}

/// A folder of a cluster of one node with three user shards, whose keys are those that [`key`] makes.
fn stores(data: &Path) -> Stores {
    let node = proto::Node {
        node_id: 1,
        address: "a:1".into(),
        peer_address: String::new(),
        status_address: String::new(),
        store_id: vec![1; 16].into(),
    };
    let split = Split::At(vec![Bytes::from_static(b"3"), Bytes::from_static(b"4")]);
    let genesis = Genesis::plan([7; 16], vec![node], &split, 1, 1).unwrap();
    let stores = storage::open(data, &options()).unwrap();
    stores.adopt(&genesis, NodeId(1)).unwrap();
    stores.recover().unwrap();
    stores
}

/// A key of a user shard: 2, 3 or 4.
fn key(shard: u64, number: u64) -> Bytes {
    format!("{shard}/{number:04}").into()
}

fn put(key: Bytes, value: impl Into<Bytes>) -> proto::Command {
    let put = proto::PutOperation {
        key,
        value: value.into(),
    };
    let operations = vec![proto::Operation {
        kind: Some(proto::operation::Kind::Put(put)),
    }];
    let write = proto::WriteBatch {
        conditions: vec![],
        operations,
    };
    proto::Command {
        range_epoch: 1,
        session: None,
        kind: Some(proto::command::Kind::Write(write)),
    }
}

fn entry(index: u64, term: u64, commands: Vec<proto::Command>) -> Entry {
    let data = proto::CommandBatch {
        time_ms: index,
        commands,
    }
    .encode_to_vec()
    .into();
    Entry {
        index: Index(index),
        term: Term(term),
        data,
        ..Entry::default()
    }
}

fn apply(shard: u64, entries: Vec<Entry>) -> Apply<Reply> {
    let index = entries.last().map_or(Index(0), |entry| entry.index);
    let done = vec![Message {
        kind: MessageKind::StorageApplyResp,
        index,
        ..Message::default()
    }];
    Apply {
        shard: ShardId(shard),
        entries,
        conf_states: vec![],
        waiters: vec![],
        done,
    }
}

fn id(index: u64, term: u64) -> EntryId {
    EntryId {
        index: Index(index),
        term: Term(term),
    }
}

fn metrics() -> Arc<Metrics> {
    Arc::new(Metrics::new().unwrap())
}

struct Bench {
    applier: Applier,
    events: Receiver<ApplierEvent>,
    fatal: Receiver<StorageError>,
}

impl Bench {
    fn start(state: &Arc<RocksState>, limits: ApplierLimits) -> Self {
        let (events_tx, events) = crossbeam_channel::unbounded();
        let (fatal_tx, fatal) = crossbeam_channel::unbounded();
        let applier = Applier::start(
            Arc::clone(state),
            limits,
            Box::new(move |event| drop(events_tx.send(event))),
            Arc::new(move |error| drop(fatal_tx.send(error))),
            metrics(),
        )
        .unwrap();
        Self {
            applier,
            events,
            fatal,
        }
    }

    /// Waits until a shard is applied up to `index`; returns the flushes seen meanwhile.
    fn applied(&self, shard: u64, index: u64) -> Vec<(ShardId, Index)> {
        let mut flushed = Vec::new();
        loop {
            match self
                .events
                .recv_timeout(Duration::from_secs(60))
                .expect("the applier is at work")
            {
                ApplierEvent::Flushed(marks) => flushed.extend(marks),
                ApplierEvent::Applied(done) => {
                    if done
                        .iter()
                        .any(|(s, m)| s.0 == shard && m.index == Index(index))
                    {
                        return flushed;
                    }
                }
            }
        }
    }
}

/// All rows of the database but the identity.
fn rows(state: &RocksState) -> Vec<(Bytes, Bytes)> {
    let mut rows = Vec::new();
    let all = RowRange {
        start: Bytes::from_static(&[1]),
        end: Bytes::from_static(&[255]),
    };
    let read = state
        .view()
        .scan(&all, Order::Ascending, &mut |key, value| {
            rows.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
            ControlFlow::Continue(())
        });
    read.unwrap();
    rows
}

fn reply(outcomes: &Sender<(u64, Outcome)>, number: u64) -> Reply {
    let outcomes = outcomes.clone();
    Reply::new(move |outcome, _| outcomes.send((number, outcome)).unwrap())
}

#[test]
fn waiters_get_the_answers_of_their_own_entry_only() {
    let folder = tempdir().unwrap();
    let stores = stores(folder.path());
    let bench = Bench::start(&stores.state, ApplierLimits::default());
    let (tx, outcomes) = crossbeam_channel::unbounded();
    let two = vec![put(key(2, 1), "a"), put(key(3, 1), "not of this shard")];
    let mut first = apply(
        2,
        vec![
            entry(6, 6, two),
            entry(7, 7, vec![put(key(2, 2), "b")]),
            entry(8, 7, vec![]),
        ],
    );
    first.waiters = vec![
        (id(6, 6), vec![reply(&tx, 0), reply(&tx, 1)]),
        (id(7, 6), vec![reply(&tx, 2)]),
        (id(9, 7), vec![reply(&tx, 3)]),
    ];
    bench.applier.submit(vec![first]);
    bench.applied(2, 8);
    let got: Vec<_> = outcomes.try_iter().collect();
    let [
        (0, Ok(Answer::Write(written))),
        (1, Ok(Answer::Write(refused))),
        (2, Err(Refused::Superseded)),
        (3, unknown),
    ] = &got[..]
    else {
        panic!("{got:?}");
    };
    use proto::command_answer::Kind;
    assert!(
        matches!(&written.kind, Some(Kind::Write(answer)) if answer.succeeded && answer.revision == 1),
        "{written:?}"
    );
    assert!(
        matches!(&refused.kind, Some(Kind::Refused(_))),
        "{refused:?}"
    );
    assert!(
        matches!(unknown, Err(Refused::OutcomeUnknown)),
        "{unknown:?}"
    );
    // What is answered can be read.
    assert!(
        stores
            .state
            .get(&keys::data(ShardId(2), &key(2, 2)))
            .unwrap()
            .is_some()
    );
    assert_eq!(
        stores
            .state
            .shard_state(ShardId(2))
            .unwrap()
            .unwrap()
            .applied_index,
        Index(8)
    );
}

#[test]
fn applying_again_changes_nothing() {
    let folder = tempdir().unwrap();
    let stores = stores(folder.path());
    let entries: Vec<Entry> = (6..50)
        .map(|index| entry(index, 6, vec![put(key(2, index), vec![index as u8; 50])]))
        .collect();
    let mut states = Vec::new();
    for _ in 0..2 {
        let bench = Bench::start(&stores.state, ApplierLimits::default());
        bench.applier.submit(vec![apply(2, entries.clone())]);
        bench.applied(2, 49);
        bench.applier.stop();
        assert!(bench.fatal.is_empty());
        states.push(rows(&stores.state));
    }
    assert!(states[0] == states[1]);
}

#[test]
fn a_stop_applies_and_flushes_what_was_submitted() {
    let folder = tempdir().unwrap();
    let (data, image) = (folder.path().join("data"), folder.path().join("image"));
    let stores = stores(&data);
    let bench = Bench::start(&stores.state, ApplierLimits::default());
    for index in 6..20 {
        bench.applier.submit(vec![apply(
            3,
            vec![entry(index, 6, vec![put(key(3, index), "v")])],
        )]);
    }
    bench.applier.stop();
    copy(&data, &image);
    let found = storage::open(&image, &options()).unwrap();
    assert_eq!(
        found
            .state
            .shard_state(ShardId(3))
            .unwrap()
            .unwrap()
            .applied_index,
        Index(19)
    );
    assert!(rows(&found.state) == rows(&stores.state));
}

#[test]
fn a_flush_is_made_by_age_and_none_without_a_change() {
    let folder = tempdir().unwrap();
    let stores = stores(folder.path());
    let limits = ApplierLimits {
        flush_age: Duration::from_millis(1),
        ..ApplierLimits::default()
    };
    let bench = Bench::start(&stores.state, limits);
    bench
        .applier
        .submit(vec![apply(2, vec![entry(6, 6, vec![put(key(2, 1), "v")])])]);
    let flushed = loop {
        if let ApplierEvent::Flushed(marks) =
            bench.events.recv_timeout(Duration::from_secs(60)).unwrap()
        {
            break marks;
        }
    };
    assert_eq!(flushed, [(ShardId(2), Index(6))]);
    bench.applier.stop();
    assert!(
        bench
            .events
            .try_iter()
            .all(|event| matches!(event, ApplierEvent::Applied(_))),
        "flushed without a change"
    );
}

#[test]
fn an_entry_that_does_not_fit_the_state_stops_everything() {
    let folder = tempdir().unwrap();
    let stores = stores(folder.path());
    let bench = Bench::start(&stores.state, ApplierLimits::default());
    bench
        .applier
        .submit(vec![apply(2, vec![entry(9, 6, vec![])])]);
    let error = bench.fatal.recv_timeout(Duration::from_secs(60)).unwrap();
    assert_eq!(error.fault, Fault::Corruption);
    assert!(error.to_string().contains("shard 2"), "{error}");
    bench
        .applier
        .submit(vec![apply(3, vec![entry(6, 6, vec![])])]);
    bench.applier.stop();
    assert!(bench.events.is_empty() && bench.fatal.is_empty());
}

#[test]
fn a_snapshot_is_installed_between_the_entries_around_it() {
    let (from, to) = (tempdir().unwrap(), tempdir().unwrap());
    let (source, target) = (stores(from.path()), stores(to.path()));
    let entries: Vec<Entry> = (6..300)
        .map(|index| entry(index, 6, vec![put(key(2, index), "new")]))
        .collect();
    let leader = Bench::start(&source.state, ApplierLimits::default());
    leader
        .applier
        .submit(vec![apply(2, entries[..200].to_vec())]);
    leader.applied(2, 205);
    let export = Export::start(Arc::clone(&source.state), ShardId(2)).unwrap();
    let meta = export.meta.clone();
    let mut import = Import::begin(Arc::clone(&target.state), ShardId(2), id(205, 6)).unwrap();
    for chunk in export {
        import.chunk(chunk.unwrap()).unwrap();
    }
    import.finish().unwrap();

    let follower = Bench::start(&target.state, ApplierLimits::default());
    follower
        .applier
        .submit(vec![apply(2, entries[..5].to_vec())]);
    let snapshot = Snapshot {
        meta: SnapshotMeta { ..meta },
        data: Bytes::new(),
    };
    follower
        .applier
        .installer()
        .install(ShardId(2), &snapshot)
        .unwrap();
    follower
        .applier
        .submit(vec![apply(2, entries[200..].to_vec())]);
    follower.applied(2, 299);
    leader
        .applier
        .submit(vec![apply(2, entries[200..].to_vec())]);
    leader.applied(2, 299);
    // One that was never received can't be installed.
    let other = Snapshot {
        meta: SnapshotMeta {
            index: Index(400),
            term: Term(6),
            ..SnapshotMeta::default()
        },
        data: Bytes::new(),
    };
    follower
        .applier
        .installer()
        .install(ShardId(2), &other)
        .unwrap_err();
    leader.applier.stop();
    follower.applier.stop();
    assert!(rows(&source.state) == rows(&target.state));
}

/// The rows that say how far shards have come.
fn positions_rows(state: &RocksState) -> usize {
    let of_positions = keys::positions_rows();
    let rows = rows(state).into_iter();
    rows.filter(|(key, _)| of_positions.contains(key)).count()
}

#[test]
fn how_far_shards_have_come_is_known_before_their_rows_are_written() {
    let folder = tempdir().unwrap();
    let stores = stores(folder.path());
    let bench = Bench::start(&stores.state, ApplierLimits::default());
    let row = |shard: u64| stores.state.get(&keys::state(ShardId(shard))).unwrap();
    let before = [2, 3].map(row);
    for index in 6..9 {
        let put = |shard| {
            apply(
                shard,
                vec![entry(index, 6, vec![put(key(shard, index), "v")])],
            )
        };
        bench.applier.submit(vec![put(2), put(3)]);
    }
    bench.applied(3, 8);
    assert!(positions_rows(&stores.state) > 0);
    assert_eq!([2, 3].map(row), before);
    for shard in [2, 3].map(ShardId) {
        let known = stores.state.shard_state(shard).unwrap().unwrap();
        assert_eq!((known.applied_index, known.revision), (Index(8), 3));
        let read = stores.state.view().shard_state(shard).unwrap().unwrap();
        assert_eq!(read, known);
        let export = Export::start(Arc::clone(&stores.state), shard).unwrap();
        assert_eq!(export.meta.index, Index(8));
        let rows: Vec<_> = export.flat_map(|chunk| chunk.unwrap().rows).collect();
        let last = rows.last().unwrap();
        assert_eq!(last.key, keys::state(shard));
        assert_eq!(last.value, known.encode());
        assert_eq!(rows.len(), 3 + 1);
    }
    bench.applier.stop();
    assert_eq!(positions_rows(&stores.state), 0);
    for shard in [2, 3].map(ShardId) {
        let known = stores.state.shard_state(shard).unwrap().unwrap();
        assert_eq!(row(shard.0), Some(known.encode()));
    }
}

#[test]
fn rows_are_written_when_enough_positions_have_gathered() {
    let folder = tempdir().unwrap();
    let stores = stores(folder.path());
    let bench = Bench::start(&stores.state, ApplierLimits::default());
    let before = stores.state.get(&keys::state(ShardId(2))).unwrap();
    let mut most = 0;
    for index in 6..200 {
        let entries = vec![entry(index, 6, vec![put(key(2, index), "v")])];
        bench.applier.submit(vec![apply(2, entries)]);
        bench.applied(2, index);
        most = most.max(positions_rows(&stores.state));
    }
    assert!(most > 5 && most < 100, "{most}");
    assert_ne!(stores.state.get(&keys::state(ShardId(2))).unwrap(), before);
}

/// Log and state together: entries are logged, applied, flushed and cut at random, and copies of the folder are taken
/// at any time. Each copy must open, its log must reach from its state on, and what it replays must lead to the state
/// of a machine that has applied everything.
#[test]
fn every_crash_image_replays_to_the_same_state() {
    let seed = 0xa991;
    let mut random = fastrand::Rng::with_seed(seed);
    let folder = tempdir().unwrap();
    let data = folder.path().join("data");
    let stores = stores(&data);
    // Flushes all the time, so that images fall in between.
    let limits = ApplierLimits {
        replay_bytes: 4096,
        batch_bytes: 2048,
        ..ApplierLimits::default()
    };
    let bench = Bench::start(&stores.state, limits);
    let mut model = MemoryState::default();
    for (key, value) in rows(&stores.state) {
        model.put(key, value);
    }
    let mut last = [5u64; 3];
    let mut images = Vec::new();
    let mut cuts = 0;
    for step in 0..300 {
        let shard = random.u64(2..=4);
        let last = &mut last[shard as usize - 2];
        let entries: Vec<Entry> = (0..random.u64(1..4))
            .map(|_| {
                *last += 1;
                let value = vec![random.u8(..); random.usize(..200)];
                entry(*last, 6, vec![put(key(shard, random.u64(..50)), value)])
            })
            .collect();
        let append = LogAppend {
            shard: ShardId(shard),
            hard_state: Some(HardState {
                term: Term(6),
                commit: Index(*last),
                ..HardState::default()
            }),
            entries: entries.clone(),
            snapshot: None,
            must_sync: true,
            release: Release::default(),
        };
        stores.log.write(&[append], &[]).unwrap();
        bench.applier.submit(vec![apply(shard, entries.clone())]);
        let mut batch = StateBatch::default();
        let mut machine = StateMachine::load(&model, ShardId(shard)).unwrap().unwrap();
        for entry in &entries {
            machine
                .apply_entry(&model, &mut batch, entry, &mut Vec::new())
                .unwrap();
        }
        machine.finish(&mut batch);
        model.write(&batch);
        for event in bench.events.try_iter() {
            if let ApplierEvent::Flushed(marks) = event {
                let cut = |(shard, index)| Compaction {
                    shard,
                    upto: EntryId {
                        index,
                        term: Term(6),
                    },
                };
                let cut: Vec<Compaction> = marks.into_iter().map(cut).collect();
                cuts += cut.len();
                stores.log.write(&[], &cut).unwrap();
            }
        }
        if random.u8(..12) == 0 {
            let image = folder.path().join(format!("image-{step}"));
            copy(&data, &image);
            images.push((image, model.clone()));
        }
    }
    assert!(
        images.len() > 5 && cuts > 20,
        "{} images, {cuts} cuts, seed {seed}",
        images.len()
    );
    bench.applier.stop();
    assert!(bench.fatal.is_empty());
    assert!(
        model
            .rows()
            .eq(rows(&stores.state).iter().map(|(key, value)| (key, value)))
    );

    let mut replayed = 0;
    for (path, model) in images {
        let stores = storage::open(&path, &options()).unwrap();
        let reader = RocksLogReader(Arc::clone(&stores.log));
        for replica in stores
            .recover()
            .unwrap_or_else(|error| panic!("{}, seed {seed}: {error}", path.display()))
        {
            let shard = replica.descriptor.shard;
            assert!(
                replica.compacted.index <= replica.applied.index,
                "{shard} of {}",
                path.display()
            );
            assert!(replica.applied.index <= replica.last.index);
            let mut machine = StateMachine::load(&*stores.state, shard).unwrap().unwrap();
            let (low, high) = (replica.applied.index.next(), replica.last.index.next());
            let missing = if low < high {
                reader.entries(shard, low, high, u64::MAX).unwrap()
            } else {
                vec![]
            };
            let mut batch = StateBatch::default();
            for entry in &missing {
                replayed += 1;
                machine
                    .apply_entry(&*stores.state, &mut batch, entry, &mut Vec::new())
                    .unwrap();
            }
            machine.finish(&mut batch);
            stores.state.write(&batch).unwrap();
        }
        let expected: Vec<_> = model
            .rows()
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        assert!(
            rows(&stores.state) == expected,
            "{}, seed {seed}",
            path.display()
        );
    }
    assert!(replayed > 0, "no image had anything to replay");
}
