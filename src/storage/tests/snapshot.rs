//! A shard's state from one folder to another, and a crash at each step of its arrival.

use std::{ops::ControlFlow, sync::Arc};

use flotilla_shards::{
    keys,
    kv::{Order, ShardState, StateBatch, StateView as _},
    raft::{Snapshot, SnapshotMeta},
};
use tempfile::{TempDir, tempdir};

use super::*;
use crate::storage::snapshot::KEPT;

const SHARD: ShardId = ShardId(3);

/// Rows of a shard's data, sessions and state.
type Rows = Vec<(Bytes, Bytes)>;

fn rows(stores: &Stores, shard: ShardId) -> Rows {
    let state = stores
        .state
        .shard_state(shard)
        .unwrap()
        .expect("there is a replica");
    let mut rows = Vec::new();
    for range in keys::shard_rows(&state.descriptor) {
        let view = stores.state.view();
        let read = view.scan(&range, Order::Ascending, &mut |key, value| {
            rows.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
            ControlFlow::Continue(())
        });
        read.unwrap();
    }
    rows
}

/// Fills a shard with `count` values that depend on `seed`, at the given applied position.
fn fill(stores: &Stores, shard: ShardId, count: usize, seed: u64, applied: EntryId) {
    let mut random = fastrand::Rng::with_seed(seed);
    let state = stores
        .state
        .shard_state(shard)
        .unwrap()
        .expect("there is a replica");
    let mut batch = StateBatch::default();
    let start = state.descriptor.range.start().clone();
    for number in 0..count {
        let mut key = start.to_vec();
        key.extend_from_slice(format!("{number:06}").as_bytes());
        let value: Vec<u8> = (0..random.usize(1..200)).map(|_| random.u8(..)).collect();
        batch.put(keys::data(shard, &key), value.into());
    }
    for number in 0..count as u64 / 10 {
        let session = keys::SessionId {
            opened_in: shard,
            number: number + seed,
        };
        batch.put(
            keys::session(shard, session),
            Bytes::from_static(b"answers"),
        );
    }
    let state = ShardState {
        applied_index: applied.index,
        applied_term: applied.term,
        revision: seed,
        ..state
    };
    batch.put(keys::state(shard), state.encode());
    stores.state.write(&batch).unwrap();
}

fn chunks(stores: &Stores, shard: ShardId) -> (SnapshotMeta, Vec<proto::SnapshotChunk>) {
    let export = Export::start(Arc::clone(&stores.state), shard).unwrap();
    (
        export.meta.clone(),
        export.map(|chunk| chunk.unwrap()).collect(),
    )
}

fn receive(
    stores: &Stores,
    meta: &SnapshotMeta,
    chunks: impl IntoIterator<Item = proto::SnapshotChunk>,
) -> Result<SnapshotMeta, ImportError> {
    let position = EntryId {
        index: meta.index,
        term: meta.term,
    };
    let mut import = Import::begin(Arc::clone(&stores.state), SHARD, position)?;
    for chunk in chunks {
        import.chunk(chunk)?;
    }
    import.finish()
}

fn append_of(meta: &SnapshotMeta) -> LogAppend {
    let snapshot = Some(Box::new(Snapshot {
        meta: meta.clone(),
        data: Bytes::new(),
    }));
    LogAppend {
        snapshot,
        ..append(SHARD.0, hard_state(9, meta.index.0), vec![])
    }
}

fn left(data: &Path) -> usize {
    fs::read_dir(data.join("snapshots")).unwrap().count()
}

#[test]
fn a_snapshot_replaces_exactly_the_shards_rows() {
    let (from, to) = (tempdir().unwrap(), tempdir().unwrap());
    let (source, target) = (adopted(from.path(), 4), adopted(to.path(), 4));
    fill(&source, SHARD, 5000, 1, id(100, 7));
    for shard in 1..=5 {
        // More keys than the source has, some of them in memory only: they must all go.
        fill(&target, ShardId(shard), 6000, 2, id(20, 6));
    }
    let others: Vec<Rows> = [1, 2, 4, 5]
        .map(|shard| rows(&target, ShardId(shard)))
        .into();
    let (meta, chunks) = chunks(&source, SHARD);
    assert!(chunks.len() > 1, "one chunk shows little");
    assert_eq!((meta.index, meta.term), (Index(100), Term(7)));
    assert_eq!(receive(&target, &meta, chunks).unwrap(), meta);
    assert_eq!(
        rows(&target, SHARD).len(),
        6000 + 600 + 1,
        "nothing changes before it is installed"
    );
    target.state.install(SHARD, id(100, 7)).unwrap();
    assert_eq!(rows(&target, SHARD), rows(&source, SHARD));
    let now: Vec<Rows> = [1, 2, 4, 5]
        .map(|shard| rows(&target, ShardId(shard)))
        .into();
    assert!(now == others, "another shard's rows have changed");
    assert_eq!(left(to.path()), 0);
    target
        .state
        .install(SHARD, id(100, 7))
        .expect("once more does no harm");
    // Later writes lie above it.
    fill(&target, SHARD, 10, 3, id(101, 7));
    assert_eq!(rows(&target, SHARD).len(), 5000 + 500 + 1);
}

#[test]
fn an_export_is_of_one_moment() {
    let folder = tempdir().unwrap();
    let stores = adopted(folder.path(), 2);
    fill(&stores, SHARD, 20_000, 1, id(10, 6));
    let before = rows(&stores, SHARD);
    let export = Export::start(Arc::clone(&stores.state), SHARD).unwrap();
    fill(&stores, SHARD, 20_000, 2, id(11, 6));
    let seen: Rows = export
        .flat_map(|chunk| chunk.unwrap().rows)
        .map(|row| (row.key, row.value))
        .collect();
    assert!(seen == before);
}

#[test]
fn an_export_that_nobody_reads_ends() {
    let folder = tempdir().unwrap();
    let stores = adopted(folder.path(), 1);
    fill(&stores, ShardId(2), 20_000, 1, id(10, 6));
    drop(Export::start(Arc::clone(&stores.state), ShardId(2)).unwrap());
    assert!(Export::start(Arc::clone(&stores.state), ShardId(77)).is_err());
    // The reader holds the database until it has noticed.
    let state = Arc::clone(&stores.state);
    drop(stores);
    while Arc::strong_count(&state) > 1 {
        std::thread::yield_now();
    }
}

#[test]
fn every_mangled_transfer_is_refused_and_leaves_nothing() {
    let (from, to) = (tempdir().unwrap(), tempdir().unwrap());
    let (source, target) = (adopted(from.path(), 4), adopted(to.path(), 4));
    fill(&source, SHARD, 6000, 1, id(100, 7));
    fill(&source, ShardId(4), 10, 1, id(100, 7));
    let before = rows(&target, SHARD);
    let (meta, good) = chunks(&source, SHARD);
    assert!(good.len() >= 3);
    let foreign = chunks(&source, ShardId(4)).1;
    let mut cases: Vec<(&str, SnapshotMeta, Vec<proto::SnapshotChunk>)> = Vec::new();
    let mut case = |name, change: &dyn Fn(&mut SnapshotMeta, &mut Vec<proto::SnapshotChunk>)| {
        let (mut meta, mut chunks) = (meta.clone(), good.clone());
        change(&mut meta, &mut chunks);
        cases.push((name, meta, chunks));
    };
    case("a chunk is missing", &|_, chunks| drop(chunks.remove(1)));
    case("the first chunk is missing", &|_, chunks| {
        drop(chunks.remove(0))
    });
    case("the end is missing", &|_, chunks| drop(chunks.pop()));
    case("a chunk comes twice", &|_, chunks| {
        chunks.insert(1, chunks[0].clone())
    });
    case("chunks are exchanged", &|_, chunks| chunks.swap(0, 1));
    case("a value is damaged", &|_, chunks| {
        chunks[1].rows[3].value = Bytes::from_static(b"other")
    });
    case("a key is damaged", &|_, chunks| {
        chunks[0].rows[0].key = Bytes::from_static(b"\x01")
    });
    case("a row is missing", &|_, chunks| {
        drop(chunks[1].rows.remove(3))
    });
    case("rows are exchanged", &|_, chunks| chunks[1].rows.swap(0, 1));
    case("a wrong number of rows", &|_, chunks| {
        chunks.last_mut().unwrap().total_rows = Some(1)
    });
    case("something behind the end", &|_, chunks| {
        chunks.push(chunks[0].clone())
    });
    case("another position", &|meta, _| meta.index = Index(99));
    case("another shard", &|_, chunks| *chunks = foreign.clone());
    case("an unknown kind of row", &|_, chunks| {
        chunks[0].rows[0].key = Bytes::from_static(b"\x00identity")
    });
    case("nothing", &|_, chunks| chunks.clear());
    for (name, meta, chunks) in cases {
        let error = receive(&target, &meta, chunks).expect_err(name);
        assert!(
            matches!(error, ImportError::Malformed { shard: SHARD, .. }),
            "{name}: {error}"
        );
        assert_eq!(left(to.path()), 0, "{name}");
    }
    assert!(rows(&target, SHARD) == before);
    receive(&target, &meta, good).expect("the good one is taken");
}

#[test]
fn rows_beyond_the_described_range_are_refused() {
    let (from, to) = (tempdir().unwrap(), tempdir().unwrap());
    let (source, target) = (adopted(from.path(), 4), adopted(to.path(), 4));
    fill(&source, SHARD, 3, 1, id(100, 7));
    let (meta, mut chunks) = chunks(&source, SHARD);
    let [chunk] = &mut chunks[..] else {
        panic!("three rows in one chunk")
    };
    chunk.rows[2].key = keys::data(SHARD, b"\xff\xff");
    chunk.checksum = chunk.rows.iter().fold(0, |sum, row| {
        crate::storage::snapshot::checksum_row(sum, &row.key, &row.value)
    });
    let error = receive(&target, &meta, chunks).unwrap_err();
    assert!(
        error.to_string().contains("outside of the shard's range"),
        "{error}"
    );
}

#[test]
fn received_snapshots_stay_until_a_later_one_is_installed_in_bounded_number() {
    let (from, to) = (tempdir().unwrap(), tempdir().unwrap());
    let (source, target) = (adopted(from.path(), 2), adopted(to.path(), 2));
    let kept = KEPT as u64;
    for number in 0..kept + 2 {
        fill(&source, SHARD, 10, number, id(100 + number, 7));
        let (meta, chunks) = chunks(&source, SHARD);
        receive(&target, &meta, chunks).unwrap();
    }
    assert_eq!(left(to.path()), KEPT);
    target
        .state
        .install(SHARD, id(102, 7))
        .expect("the oldest of those that are kept is there");
    assert_eq!(left(to.path()), KEPT - 1);
    target
        .state
        .install(SHARD, id(101 + kept, 7))
        .expect("the newest one is there");
    assert_eq!(left(to.path()), 0);
    assert_eq!(rows(&target, SHARD), rows(&source, SHARD));
}

#[test]
fn a_crash_at_each_step_ends_before_or_behind_the_snapshot() {
    let (from, to, images) = (tempdir().unwrap(), tempdir().unwrap(), tempdir().unwrap());
    let (source, target) = (adopted(from.path(), 4), adopted(to.path(), 4));
    fill(&source, SHARD, 6000, 1, id(100, 7));
    fill(&target, SHARD, 7000, 2, id(7, 6));
    target.state.flush().unwrap();
    // An uncommitted end that the snapshot contradicts.
    let entries = (6..=120).map(|index| entry(index, 6, "old")).collect();
    target
        .log
        .write(&[append(SHARD.0, hard_state(6, 7), entries)], &[])
        .unwrap();
    let (old, new) = (rows(&target, SHARD), rows(&source, SHARD));

    let (meta, chunks) = chunks(&source, SHARD);
    let image = |name: &str| {
        let path = images.path().join(name);
        copy(to.path(), &path);
        path
    };
    let mut import = Import::begin(Arc::clone(&target.state), SHARD, id(100, 7)).unwrap();
    let count = chunks.len();
    let mut before = Vec::new();
    for (number, chunk) in chunks.into_iter().enumerate() {
        import.chunk(chunk).unwrap();
        if number + 1 == count / 2 {
            before.push(image("half received"));
        }
    }
    import.finish().unwrap();
    before.push(image("received"));
    target.state.install(SHARD, id(100, 7)).unwrap();
    let mut behind = vec![image("installed")];
    target.log.write(&[append_of(&meta)], &[]).unwrap();
    behind.push(image("log cut"));

    let reopen = |path: &Path| {
        let stores = open(path, &small()).unwrap();
        assert_eq!(left(path), 0, "{}", path.display());
        let replicas = stores.recover().unwrap();
        let replica = replicas
            .into_iter()
            .find(|replica| replica.descriptor.shard == SHARD);
        (stores, replica.expect("it is recovered"))
    };
    for path in before {
        let (stores, replica) = reopen(&path);
        assert!(rows(&stores, SHARD) == old, "{}", path.display());
        assert_eq!(
            (replica.applied, replica.last),
            (id(7, 6), id(120, 6)),
            "{}",
            path.display()
        );
    }
    for path in behind {
        for _ in 0..2 {
            let (stores, replica) = reopen(&path);
            assert!(rows(&stores, SHARD) == new, "{}", path.display());
            assert_eq!(replica.applied, id(100, 7), "{}", path.display());
            assert_eq!(
                (replica.compacted, replica.last),
                (id(100, 7), id(100, 7)),
                "{}",
                path.display()
            );
            assert!(replica.hard_state.commit == Index(100) && replica.hard_state.term >= Term(7));
            stores
                .log
                .write(&[append(SHARD.0, hard_state(9, 100), vec![])], &[])
                .unwrap();
        }
    }
    drop((source, target));
    let _keep: [TempDir; 3] = [from, to, images];
}

/// It goes back to the leader, and into the log: whole keys of a size that only a broken sender has would not fit there.
#[test]
fn a_refusal_shows_only_the_beginning_of_a_key() {
    let folder = tempdir().unwrap();
    let target = adopted(folder.path(), 4);
    let row = |kind: u8, length| proto::SnapshotRow {
        key: vec![kind; length].into(),
        value: Bytes::new(),
    };
    let user = keys::data(SHARD, b"")[0];
    let session = keys::session(
        SHARD,
        keys::SessionId {
            opened_in: SHARD,
            number: 1,
        },
    )[0];
    let meta = keys::data(ShardId::META, b"")[0];
    for rows in [
        vec![row(255, 1 << 20)],
        vec![row(session, 1 << 20)],
        vec![row(meta, 1 << 20)],
        vec![row(user, 1 << 20), row(user, 1 << 19)],
    ] {
        let mut import = Import::begin(Arc::clone(&target.state), SHARD, id(100, 7)).unwrap();
        let chunk = proto::SnapshotChunk {
            rows,
            ..proto::SnapshotChunk::default()
        };
        let refusal = import.chunk(chunk).unwrap_err().to_string();
        assert!(refusal.len() < 1_000, "{} bytes", refusal.len());
        drop(import);
        assert_eq!(left(folder.path()), 0);
    }
}
