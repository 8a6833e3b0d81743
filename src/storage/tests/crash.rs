//! What a crash leaves of the log, at any point of the storage writer's work, and what damage does to a start.

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use flotilla_metrics::Metrics;
use flotilla_shards::{
    descriptor::KeyRange,
    engine::Compaction,
    keys,
    kv::{JournalLimits, Order, StateBatch, StateView as _},
    raft::{Message, Snapshot},
};
use tempfile::{TempDir, tempdir};

use super::*;

/// One state of one shard's log.
#[derive(Clone, Debug, Default, PartialEq)]
struct LogState {
    hard_state: HardState,
    compacted: EntryId,
    entries: Vec<Entry>,
}

/// All states of a shard's log, in the order in which they were submitted.
type History = Vec<LogState>;

fn read(path: &Path) -> Result<BTreeMap<u64, LogState>, StorageError> {
    let log = Arc::new(RocksLog::open(path, &small())?);
    let mut states = BTreeMap::new();
    for (shard, found) in log.recover()? {
        let (low, high) = (found.compacted.index.next(), found.last.index.next());
        let entries = if low == high {
            Vec::new()
        } else {
            use flotilla_shards::engine::LogReader as _;
            RocksLogReader(Arc::clone(&log))
                .entries(shard, low, high, u64::MAX)
                .expect("recovered")
        };
        states.insert(
            shard.0,
            LogState {
                hard_state: found.hard_state,
                compacted: found.compacted,
                entries,
            },
        );
    }
    Ok(states)
}

/// A copy of the folder, and how far each shard's history was acknowledged at that moment.
struct Image {
    folder: TempDir,
    acknowledged: BTreeMap<u64, usize>,
    point: &'static str,
}

#[derive(Default)]
struct Witness {
    images: Vec<Image>,
    acknowledged: BTreeMap<u64, usize>,
    /// Length of the WAL that is surely durable.
    synced: u64,
}

/// A log that copies the folder now and then.
struct Photographed {
    log: RocksLog,
    data: PathBuf,
    random: Mutex<fastrand::Rng>,
    witness: Arc<Mutex<Witness>>,
}

impl Photographed {
    /// Takes an image in one of five calls; `torn` cuts the WAL somewhere behind what is durable.
    fn maybe_image(&self, point: &'static str, torn: bool) {
        let mut random = self.random.lock().unwrap();
        if random.u8(..5) != 0 {
            return;
        }
        let mut witness = self.witness.lock().unwrap();
        let folder = tempdir().unwrap();
        copy(&self.data, folder.path());
        if torn {
            let wal = newest_wal(folder.path());
            tear(&wal, random.u64(witness.synced..=length(&wal)));
        }
        let acknowledged = witness.acknowledged.clone();
        witness.images.push(Image {
            folder,
            acknowledged,
            point,
        });
    }
}

impl LogStore for Photographed {
    fn write(
        &self,
        appends: &[LogAppend],
        compactions: &[Compaction],
    ) -> Result<Written, StorageError> {
        self.maybe_image("before the write", true);
        let written = self.log.write(appends, compactions)?;
        self.maybe_image("during the sync", true);
        if written.synced {
            self.witness.lock().unwrap().synced = length(&newest_wal(&self.data));
            self.maybe_image("after the sync", false);
        }
        Ok(written)
    }

    fn write_marks(&self) -> Result<(), StorageError> {
        self.log.write_marks()
    }
}

struct NoSnapshots;

impl Install for NoSnapshots {
    fn install(&self, shard: ShardId, _: &Snapshot) -> Result<(), StorageError> {
        panic!("no snapshot was sent to shard {shard}");
    }
}

/// The next random change of a shard's log, and what it leads to.
fn change(shard: u64, state: &LogState, random: &mut fastrand::Rng) -> (LogAppend, LogState) {
    let mut next = state.clone();
    let last = next.entries.last().map_or(next.compacted, |e| EntryId {
        index: e.index,
        term: e.term,
    });
    let term = last.term.0.max(next.hard_state.term.0).max(1) + u64::from(random.u8(..8) == 0);
    let mut first = last.index.0 + 1;
    if random.u8(..6) == 0 && !next.entries.is_empty() {
        next.entries.truncate(random.usize(..next.entries.len()));
        first = next
            .entries
            .last()
            .map_or(next.compacted.index.0, |e| e.index.0)
            + 1;
    }
    let count = random.u64(1..4);
    let new: Vec<Entry> = (first..first + count)
        .map(|i| entry(i, term, vec![shard as u8; random.usize(..300)]))
        .collect();
    next.entries.extend(new.iter().cloned());
    next.hard_state = hard_state(term, next.hard_state.commit.0 + 1);
    (append(shard, next.hard_state, new), next)
}

#[test]
fn nothing_acknowledged_is_lost_wherever_the_writer_is_cut_off() {
    let seed = 0xc4a5;
    let mut random = fastrand::Rng::with_seed(seed);
    let folder = tempdir().unwrap();
    fs::create_dir(folder.path().join("log")).unwrap();
    let log = RocksLog::open(&folder.path().join("log"), &small()).unwrap();
    let witness = Arc::new(Mutex::new(Witness::default()));
    let log = Photographed {
        log,
        data: folder.path().to_owned(),
        random: Mutex::new(random.fork()),
        witness: Arc::clone(&witness),
    };
    let acknowledge = Arc::clone(&witness);
    let writer = StorageWriter::start(
        Arc::new(log),
        Box::new(NoSnapshots),
        Box::new(move |releases| {
            let mut witness = acknowledge.lock().unwrap();
            for (shard, message) in releases.into_iter().flat_map(|release| release.local) {
                witness
                    .acknowledged
                    .insert(shard.0, message.index.0 as usize);
            }
        }),
        Arc::new(|error| panic!("{error}")),
        Arc::new(Metrics::new().unwrap()),
    )
    .unwrap();

    let mut histories: BTreeMap<u64, History> = (1..=3)
        .map(|shard| (shard, vec![LogState::default()]))
        .collect();
    for _ in 0..400 {
        let shard = random.u64(1..=3);
        let history = histories.get_mut(&shard).unwrap();
        let state = history.last().expect("begins with one");
        if random.u8(..12) == 0 && !state.entries.is_empty() {
            let mut next = state.clone();
            let cut = random.usize(..next.entries.len());
            let upto = next
                .entries
                .drain(..=cut)
                .next_back()
                .expect("one at least");
            next.compacted = EntryId {
                index: upto.index,
                term: upto.term,
            };
            writer.compact(vec![Compaction {
                shard: ShardId(shard),
                upto: next.compacted,
            }]);
            // Written behind the appends of the same round, so what follows has to wait for it.
            history.push(next);
            settle(&writer, &witness, shard, history);
            continue;
        }
        let (mut append, next) = change(shard, state, &mut random);
        history.push(next);
        let position = Message {
            index: Index(history.len() as u64 - 1),
            ..Message::default()
        };
        append.release.local.push((ShardId(shard), position));
        writer.submit(vec![append]);
        if random.u8(..30) == 0 {
            settle(&writer, &witness, shard, history);
        }
    }
    writer.stop();

    let witness = witness.lock().unwrap();
    assert!(witness.images.len() > 20, "{} images", witness.images.len());
    for image in &witness.images {
        let found = read(&image.folder.path().join("log"))
            .unwrap_or_else(|error| panic!("{}, seed {seed}: {error}", image.point));
        for (shard, history) in &histories {
            let acknowledged = image.acknowledged.get(shard).copied().unwrap_or(0);
            let state = found.get(shard).cloned().unwrap_or_default();
            assert!(
                history[acknowledged..].contains(&state),
                "{}, seed {seed}: shard {shard} has {state:?}, acknowledged was {:?}",
                image.point,
                history[acknowledged]
            );
        }
    }
    for point in ["before the write", "during the sync", "after the sync"] {
        assert!(
            witness.images.iter().any(|image| image.point == point),
            "no image {point}"
        );
    }
}

/// Waits until the writer has nothing to do any more.
fn settle(writer: &StorageWriter, witness: &Mutex<Witness>, shard: u64, history: &mut History) {
    let state = history.last().expect("begins with one").clone();
    let mut append = append(shard, state.hard_state, vec![]);
    history.push(state);
    let number = history.len() - 1;
    append.release.local.push((
        ShardId(shard),
        Message {
            index: Index(number as u64),
            ..Message::default()
        },
    ));
    writer.submit(vec![append]);
    while witness.lock().unwrap().acknowledged.get(&shard).copied() != Some(number) {
        std::thread::yield_now();
    }
}

/// Rounds of applying, whose positions lie apart from the state rows; flushes, checkpoints and images in between. Each image
/// starts with what some round has left, all shards alike, and no earlier one than the last flush.
#[test]
fn positions_survive_a_crash_with_what_they_belong_to() {
    let seed = 0x9051;
    let mut random = fastrand::Rng::with_seed(seed);
    let folder = tempdir().unwrap();
    let data = folder.path().join("data");
    let shards: Vec<ShardId> = (2..=6).map(ShardId).collect();
    let options = StorageOptions {
        journal: JournalLimits {
            shards_min: 2,
            batch_bytes: 200,
            ..JournalLimits::default()
        },
        ..small()
    };
    let stores = open(&data, &options).unwrap();
    stores.adopt(&genesis(shards.len()), NodeId(1)).unwrap();
    stores.recover().unwrap();
    for shard in &shards {
        let entries = (6..400).map(|index| entry(index, 6, "x")).collect();
        let log = append(shard.0, hard_state(6, 399), entries);
        stores.log.write(&[log], &[]).unwrap();
    }
    let positions = |stores: &Stores| -> Vec<u64> {
        let known = |shard: &ShardId| stores.state.shard_state(*shard).unwrap().unwrap();
        shards
            .iter()
            .map(|shard| known(shard).applied_index.0)
            .collect()
    };
    let rows = |stores: &Stores| {
        let (mut data, mut apart) = (0, 0);
        for (range, count) in [
            (keys::data_rows(ShardId(2), &KeyRange::all()), &mut data),
            (keys::positions_rows(), &mut apart),
        ] {
            let read = stores.state.scan(&range, Order::Ascending, &mut |_, _| {
                *count += 1;
                ControlFlow::Continue(())
            });
            read.unwrap();
        }
        (data, apart)
    };
    // Positions, and rows of data, after each round.
    let mut history = vec![(positions(&stores), 0)];
    let (mut flushed, mut left_apart) = (0, 0);
    for round in 1..=300u64 {
        let mut batch = StateBatch::default();
        let count = random.usize(1..=shards.len());
        let busy = random.choose_multiple(shards.iter().copied(), count);
        for shard in &busy {
            let mut machine = stores.state.open_machine(*shard).unwrap().unwrap();
            let next = entry(machine.state().applied_index.0 + 1, 6, "");
            (machine.apply_entry(&*stores.state, &mut batch, &next, &mut Vec::new())).unwrap();
            stores
                .state
                .journal()
                .finish(&mut machine, count, &mut batch);
        }
        stores.state.journal().end_round(&mut batch);
        let key = round.to_be_bytes();
        batch.put(keys::data(ShardId(2), &key), Bytes::from_static(b"row"));
        stores.state.write(&batch).unwrap();
        history.push((positions(&stores), round));
        match random.u8(..16) {
            0 => stores.state.checkpoint().unwrap(),
            1 => {
                stores.state.flush().unwrap();
                flushed = history.len() - 1;
            }
            2 => {
                let image = folder.path().join("image");
                copy(&data, &image);
                let found = open(&image, &options).unwrap();
                left_apart += rows(&found).1;
                let replicas = found.recover().unwrap();
                let state = (positions(&found), rows(&found).0);
                let at = history.iter().position(|known| *known == state);
                assert!(
                    at.is_some_and(|at| at >= flushed),
                    "{at:?}, seed {seed}: {state:?}"
                );
                let applied = replicas
                    .iter()
                    .skip(1)
                    .map(|replica| replica.applied.index.0);
                assert_eq!(applied.collect::<Vec<_>>(), state.0);
                assert_eq!(rows(&found).1, 0, "a start leaves none");
                drop(found);
                fs::remove_dir_all(&image).unwrap();
            }
            _ => {}
        }
    }
    assert!(
        left_apart > 0,
        "no image had rows of positions, seed {seed}"
    );
}

/// A log of `count` synced writes of one entry each, not closed; returns the length of its WAL after each of them.
fn written(folder: &Path, count: u64) -> (RocksLog, Vec<u64>) {
    fs::create_dir(folder.join("log")).unwrap();
    let log = RocksLog::open(&folder.join("log"), &small()).unwrap();
    let lengths = (1..=count).map(|index| {
        log.write(
            &[append(
                5,
                hard_state(1, index),
                vec![entry(index, 1, vec![b'x'; 700])],
            )],
            &[],
        )
        .unwrap();
        length(&newest_wal(folder))
    });
    let lengths = lengths.collect();
    (log, lengths)
}

#[test]
fn a_torn_last_write_is_cut_off_at_every_length() {
    let folder = tempdir().unwrap();
    // The last record crosses a block of the WAL (32 KiB).
    let writes = 42;
    let (log, lengths) = written(folder.path(), writes);
    let [.., before, after] = lengths[..] else {
        panic!("two writes at least")
    };
    assert!(
        before / (32 << 10) == 0 && after / (32 << 10) == 1,
        "{before} to {after}"
    );
    for len in (before..after).step_by(41).chain([after]) {
        let image = tempdir().unwrap();
        copy(folder.path(), image.path());
        tear(&newest_wal(image.path()), len);
        let found = read(&image.path().join("log"))
            .unwrap_or_else(|error| panic!("torn at {len}: {error}"));
        let left = if len == after { writes } else { writes - 1 };
        assert_eq!(found[&5].entries.len() as u64, left, "torn at {len}");
        assert_eq!(found[&5].hard_state, hard_state(1, left), "torn at {len}");
    }
    drop(log);
}

#[test]
fn damage_to_an_acknowledged_entry_refuses_the_start() {
    let folder = tempdir().unwrap();
    let (log, lengths) = written(folder.path(), 60);
    let seed = 0xdada;
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..40 {
        let image = tempdir().unwrap();
        copy(folder.path(), image.path());
        // Within the payload of some write, the last one included.
        let write = random.usize(1..lengths.len());
        let offset = random.u64(lengths[write - 1] + 100..lengths[write]);
        damage(&newest_wal(image.path()), offset);
        let error = read(&image.path().join("log")).expect_err("refused");
        assert_eq!(
            error.fault,
            Fault::Corruption,
            "offset {offset}, seed {seed}: {error}"
        );
    }
    drop(log);
}

#[test]
fn damage_to_a_file_of_entries_refuses_the_start() {
    let folder = tempdir().unwrap();
    let (log, _) = written(folder.path(), 60);
    log.rewrite();
    drop(log);
    let files = fs::read_dir(folder.path().join("log"))
        .unwrap()
        .map(|file| file.unwrap().path());
    let sst = files
        .filter(|path| path.extension().is_some_and(|e| e == "sst"))
        .max()
        .expect("rewritten");
    damage(&sst, length(&sst) / 2);
    let error = read(&folder.path().join("log")).expect_err("refused");
    assert_eq!(error.fault, Fault::Corruption, "{error}");
}

#[test]
fn a_failed_write_ends_the_writer() {
    struct Full(AtomicUsize);
    impl LogStore for Full {
        fn write(&self, _: &[LogAppend], _: &[Compaction]) -> Result<Written, StorageError> {
            self.0.fetch_add(1, SeqCst);
            let error = std::io::Error::from(std::io::ErrorKind::StorageFull);
            Err(StorageError::io("test", Path::new("log"), &error))
        }

        fn write_marks(&self) -> Result<(), StorageError> {
            Ok(())
        }
    }
    let log = Arc::new(Full(AtomicUsize::new(0)));
    let (fatal_tx, fatal) = crossbeam_channel::unbounded();
    let writer = StorageWriter::start(
        Arc::clone(&log) as Arc<dyn LogStore>,
        Box::new(NoSnapshots),
        Box::new(|_| panic!("released without a write")),
        Arc::new(move |error: StorageError| fatal_tx.send(error.fault).unwrap()),
        Arc::new(Metrics::new().unwrap()),
    )
    .unwrap();
    for _ in 0..3 {
        let mut append = append(1, hard_state(1, 0), vec![]);
        append.release.local.push((ShardId(1), Message::default()));
        writer.submit(vec![append]);
    }
    writer.stop();
    assert_eq!(fatal.try_iter().collect::<Vec<_>>(), [Fault::DiskFull]);
    assert_eq!(log.0.load(SeqCst), 1);
}
