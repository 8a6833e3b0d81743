//! The storage writer: one thread that makes the logs of all shards durable.
//!
//! It takes everything that has gathered in its queue, hands it to the [`LogStore`] as one write with one sync, and
//! then lets go what waited for it, all at once. What arrives meanwhile is the next batch, so batches grow by
//! themselves when the disk is slow, and nobody waits for a timer when it is fast.
//!
//! *Invariant:* what an append releases (votes, acknowledgements) leaves after the sync that covers the append, or
//! never. A failed write or sync is remembered: nothing is written or released afterwards, and `on_fatal` is called
//! once, to end the process. Trying again would be wrong even if it succeeded, for the kernel may have dropped the
//! pages that it could not write (Rebello et al., ATC'20).

use std::{
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use flotilla_metrics::{Metrics, Stage};
use flotilla_shards::{
    engine::{Compaction, LogAppend, Release},
    ids::ShardId,
    raft::{EntryKind, Snapshot},
};
use parking_lot::Mutex;
use prost::encoding::{self, DecodeContext};

use super::{LogStore, StorageError};

/// Entries of one write, in bytes of payload; what is queued beyond that forms the next one. It bounds the memory of
/// a write and the time until its first append is durable.
const WRITE_BYTES_MAX: usize = 8 << 20;

/// How long a writer with nothing to do waits before it stores what it knows of the stores of other nodes.
const MARKS_INTERVAL: Duration = Duration::from_secs(1);

/// Puts a received snapshot in the place of a shard's state, durably, in order with what is applied to the shard.
pub trait Install: Send {
    /// Returns when the state is durable. Doing it again does no harm.
    ///
    /// # Errors
    /// The received files or the state database failed.
    fn install(&self, shard: ShardId, snapshot: &Snapshot) -> Result<(), StorageError>;
}

/// Takes what a durable write lets go, on the writer's thread.
pub type OnDurable = Box<dyn Fn(Vec<Release>) + Send>;

/// Told once that the disk can't be trusted any more; ends the process.
pub type OnFatal = Arc<dyn Fn(StorageError) + Send + Sync>;

enum Job {
    Append(Vec<LogAppend>, Instant),
    Compact(Vec<Compaction>),
    Stop,
}

/// Handle of the thread. Dropping it stops the thread as [`StorageWriter::stop`] does.
pub struct StorageWriter {
    queue: Sender<Job>,
    metrics: Arc<Metrics>,
    write_began: WriteBegan,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// When the write began that is under way, if one is.
type WriteBegan = Arc<Mutex<Option<Instant>>>;

impl StorageWriter {
    /// Starts the thread.
    ///
    /// # Errors
    /// The operating system has no thread to give.
    pub fn start(
        log: Arc<dyn LogStore>,
        installer: Box<dyn Install>,
        on_durable: OnDurable,
        on_fatal: OnFatal,
        metrics: Arc<Metrics>,
    ) -> Result<Self, StorageError> {
        // Unbounded in length, as a worker that waits here could not take what a write releases. What lies in it is
        // bounded by what the engine has uncommitted, which in turn is refused beyond a limit.
        let (queue, jobs) = crossbeam_channel::unbounded();
        let write_began = WriteBegan::default();
        let mut writer = Writer {
            jobs,
            log,
            installer,
            on_durable,
            on_fatal,
            metrics: Arc::clone(&metrics),
            write_began: Arc::clone(&write_began),
        };
        let thread = super::spawn("log-writer", move || writer.run())?;
        Ok(Self {
            queue,
            metrics,
            write_began,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Queues appends; those of one shard are written in the order of the calls. Never blocks.
    pub fn submit(&self, appends: Vec<LogAppend>) {
        self.metrics.log_queue.add(appends.len() as i64);
        self.send(Job::Append(appends, Instant::now()));
    }

    /// Queues cuts at the front; written with the next append, or by themselves and then without a sync.
    pub fn compact(&self, compactions: Vec<Compaction>) {
        self.send(Job::Compact(compactions));
    }

    /// How long the disk has been at the write that is under way; zero if none is.
    #[must_use]
    pub fn write_takes(&self) -> Duration {
        self.write_began
            .lock()
            .map_or(Duration::ZERO, |began| began.elapsed())
    }

    /// Writes and releases all that is queued, then ends the thread. What is submitted later is dropped.
    pub fn stop(&self) {
        self.send(Job::Stop);
        let thread = self.thread.lock().take();
        if let Some(thread) = thread
            && thread.thread().id() != thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("the log writer has panicked");
        }
    }

    fn send(&self, job: Job) {
        // The thread ends by a stop only: whoever submits after it has no one left to answer to.
        let _ = self.queue.send(job);
    }
}

impl Drop for StorageWriter {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Writer {
    jobs: Receiver<Job>,
    log: Arc<dyn LogStore>,
    installer: Box<dyn Install>,
    on_durable: OnDurable,
    on_fatal: OnFatal,
    metrics: Arc<Metrics>,
    write_began: WriteBegan,
}

/// What goes into one write.
#[derive(Default)]
struct Gathered {
    appends: Vec<LogAppend>,
    /// How many of the appends with entries came at which moment.
    came: Vec<(Instant, usize)>,
    compactions: Vec<Compaction>,
    bytes: usize,
    stop: bool,
}

impl Gathered {
    fn add(&mut self, job: Job) {
        match job {
            Job::Append(appends, moment) => {
                let mut with_entries = 0;
                for append in &appends {
                    let entries = append.entries.iter().map(|entry| entry.data.len());
                    self.bytes += entries.sum::<usize>();
                    with_entries += usize::from(!append.entries.is_empty());
                }
                self.came.push((moment, with_entries));
                if self.appends.is_empty() {
                    self.appends = appends;
                } else {
                    self.appends.extend(appends);
                }
            }
            Job::Compact(compactions) => self.compactions.extend(compactions),
            Job::Stop => self.stop = true,
        }
    }

    fn is_full(&self) -> bool {
        self.stop || self.bytes >= WRITE_BYTES_MAX
    }
}

impl Writer {
    fn run(&mut self) {
        loop {
            let first = match self.jobs.recv_timeout(MARKS_INTERVAL) {
                Ok(first) => first,
                Err(RecvTimeoutError::Timeout) => {
                    if let Err(error) = self.log.write_marks() {
                        (self.on_fatal)(error);
                        return;
                    }
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let mut gathered = Gathered::default();
            gathered.add(first);
            while !gathered.is_full()
                && let Ok(job) = self.jobs.try_recv()
            {
                gathered.add(job);
            }
            let stop = gathered.stop;
            let written = self.write(gathered).and_then(|()| match stop {
                true => self.log.write_marks(),
                false => Ok(()),
            });
            if let Err(error) = written {
                (self.on_fatal)(error);
                // Whoever still submits finds the queue closed.
                return;
            }
            if stop {
                return;
            }
        }
    }

    /// Writes, and releases what the write covers.
    fn write(
        &self,
        Gathered {
            mut appends,
            came,
            compactions,
            ..
        }: Gathered,
    ) -> Result<(), StorageError> {
        if appends.is_empty() && compactions.is_empty() {
            return Ok(());
        }
        // Rows in the order of their keys are inserted at a fraction of the cost of rows in any order. Stable, so that each
        // shard's appends stay in theirs.
        appends.sort_by_key(|append| append.shard);
        for append in &appends {
            if let Some(snapshot) = &append.snapshot {
                self.installer.install(append.shard, snapshot)?;
            }
        }
        let start = Instant::now();
        *self.write_began.lock() = Some(start);
        let written = self.log.write(&appends, &compactions)?;
        *self.write_began.lock() = None;
        let metrics = &self.metrics;
        metrics.log_entries.inc_by(written.entries);
        metrics.log_bytes.inc_by(written.bytes);
        metrics.log_compactions.inc_by(written.cuts);
        metrics.log_compacted_entries.inc_by(written.cut_entries);
        if written.synced {
            metrics
                .log_fsync_seconds
                .observe(start.elapsed().as_secs_f64());
            metrics.log_fsyncs.inc();
            metrics
                .log_entries_per_fsync
                .observe(written.entries as f64);
            metrics.log_bytes_per_fsync.observe(written.bytes as f64);
            metrics
                .log_synced_writes
                .inc_by(appends.iter().map(commands).sum());
        }
        metrics.log_queue.sub(appends.len() as i64);
        let now = Instant::now();
        let sync_seconds = metrics.stage_seconds.of(Stage::Sync);
        for (moment, with_entries) in came {
            let seconds = now.saturating_duration_since(moment).as_secs_f64();
            (0..with_entries).for_each(|_| sync_seconds.observe(seconds));
        }
        let releases: Vec<Release> = appends
            .drain(..)
            .map(|append| append.release)
            .filter(is_some)
            .collect();
        if !releases.is_empty() {
            (self.on_durable)(releases);
        }
        Ok(())
    }
}

fn is_some(release: &Release) -> bool {
    !release.messages.is_empty() || !release.local.is_empty()
}

/// Client commands in an append: the repeated field `commands` of each entry's `CommandBatch`, counted by a walk over
/// the field tags.
fn commands(append: &LogAppend) -> u64 {
    const COMMANDS: u32 = 2;
    let mut count = 0;
    for entry in append
        .entries
        .iter()
        .filter(|entry| entry.kind == EntryKind::Normal)
    {
        let mut data = &entry.data[..];
        while !data.is_empty() {
            let Ok((tag, wire_type)) = encoding::decode_key(&mut data) else {
                break;
            };
            count += u64::from(tag == COMMANDS);
            if encoding::skip_field(wire_type, tag, &mut data, DecodeContext::default()).is_err() {
                break;
            }
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        sync::atomic::{AtomicUsize, Ordering::SeqCst},
    };

    use bytes::Bytes;
    use flotilla_proto::v1 as proto;
    use flotilla_shards::raft::{Entry, Index, Message, SnapshotMeta, Term};
    use prost::Message as _;

    use super::*;
    use crate::storage::Written;

    /// A log that blocks in each write until it is told how the write ends.
    struct Scripted {
        entered: Sender<(usize, usize)>,
        outcomes: Receiver<Result<(), StorageError>>,
    }

    impl LogStore for Scripted {
        fn write(
            &self,
            appends: &[LogAppend],
            compactions: &[Compaction],
        ) -> Result<Written, StorageError> {
            self.entered
                .send((appends.len(), compactions.len()))
                .unwrap();
            self.outcomes.recv().unwrap()?;
            Ok(Written {
                synced: true,
                entries: appends.len() as u64,
                ..Written::default()
            })
        }

        fn write_marks(&self) -> Result<(), StorageError> {
            Ok(())
        }
    }

    struct Installed(Sender<ShardId>);

    impl Install for Installed {
        fn install(&self, shard: ShardId, _: &Snapshot) -> Result<(), StorageError> {
            self.0.send(shard).unwrap();
            Ok(())
        }
    }

    struct Bench {
        writer: StorageWriter,
        entered: Receiver<(usize, usize)>,
        outcomes: Sender<Result<(), StorageError>>,
        released: Receiver<Vec<u64>>,
        installed: Receiver<ShardId>,
        fatal: Arc<AtomicUsize>,
        metrics: Arc<Metrics>,
    }

    fn bench() -> Bench {
        let (entered_tx, entered) = crossbeam_channel::unbounded();
        let (outcomes, outcomes_rx) = crossbeam_channel::unbounded();
        let (released_tx, released) = crossbeam_channel::unbounded();
        let (installed_tx, installed) = crossbeam_channel::unbounded();
        let fatal = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&fatal);
        let metrics = Arc::new(Metrics::new().unwrap());
        let writer = StorageWriter::start(
            Arc::new(Scripted {
                entered: entered_tx,
                outcomes: outcomes_rx,
            }),
            Box::new(Installed(installed_tx)),
            Box::new(move |releases| {
                let shards = releases
                    .iter()
                    .flat_map(|release| &release.local)
                    .map(|(shard, _)| shard.0);
                released_tx.send(shards.collect()).unwrap();
            }),
            Arc::new(move |_| {
                counter.fetch_add(1, SeqCst);
            }),
            Arc::clone(&metrics),
        )
        .unwrap();
        Bench {
            writer,
            entered,
            outcomes,
            released,
            installed,
            fatal,
            metrics,
        }
    }

    fn append(shard: u64) -> LogAppend {
        LogAppend {
            shard: ShardId(shard),
            hard_state: None,
            entries: Vec::new(),
            snapshot: None,
            must_sync: true,
            release: Release {
                messages: Vec::new(),
                local: vec![(ShardId(shard), Message::default())],
            },
        }
    }

    #[test]
    fn what_arrives_during_a_sync_forms_the_next_write() {
        let bench = bench();
        bench.writer.submit(vec![append(1)]);
        assert_eq!(bench.entered.recv().unwrap(), (1, 0));
        for shard in 2..=5 {
            bench.writer.submit(vec![append(shard)]);
        }
        bench.writer.compact(vec![Compaction {
            shard: ShardId(1),
            upto: Default::default(),
        }]);
        assert!(bench.released.is_empty(), "released before the sync");
        let takes = bench.writer.write_takes();
        thread::sleep(Duration::from_millis(5));
        assert!(bench.writer.write_takes() > takes, "the write is under way");
        bench.outcomes.send(Ok(())).unwrap();
        assert_eq!(bench.released.recv().unwrap(), [1]);
        assert_eq!(bench.entered.recv().unwrap(), (4, 1));
        bench.outcomes.send(Ok(())).unwrap();
        assert_eq!(bench.released.recv().unwrap(), [2, 3, 4, 5]);
        assert_eq!(bench.writer.write_takes(), Duration::ZERO);
        assert_eq!(bench.metrics.log_fsyncs.get(), 2);
        assert_eq!(bench.metrics.log_queue.get(), 0);
    }

    #[test]
    fn nothing_is_released_after_a_failure_and_it_is_told_once() {
        let bench = bench();
        bench.writer.submit(vec![append(1)]);
        bench.entered.recv().unwrap();
        bench.writer.submit(vec![append(2)]);
        bench
            .outcomes
            .send(Err(StorageError::corrupt("test", "failed sync")))
            .unwrap();
        // The second write would succeed.
        let _ = bench.outcomes.send(Ok(()));
        bench.writer.stop();
        bench.writer.submit(vec![append(3)]);
        assert!(bench.entered.is_empty(), "written after a failed sync");
        assert!(bench.released.is_empty(), "released after a failed sync");
        assert_eq!(bench.fatal.load(SeqCst), 1);
    }

    #[test]
    fn stop_drains_the_queue() {
        let bench = bench();
        for shard in 1..=3 {
            bench.writer.submit(vec![append(shard)]);
        }
        for _ in 0..3 {
            bench.outcomes.send(Ok(())).unwrap();
        }
        bench.writer.stop();
        let released: VecDeque<u64> = bench.released.try_iter().flatten().collect();
        assert_eq!(released, [1, 2, 3]);
    }

    #[test]
    fn snapshots_are_installed_before_the_log_is_cut() {
        let bench = bench();
        let meta = SnapshotMeta {
            index: Index(7),
            term: Term(2),
            ..SnapshotMeta::default()
        };
        let snapshot = Some(Box::new(Snapshot {
            meta,
            data: Bytes::new(),
        }));
        bench.writer.submit(vec![LogAppend {
            snapshot,
            ..append(9)
        }]);
        assert_eq!(
            bench.entered.recv_timeout(Duration::from_secs(60)).unwrap(),
            (1, 0)
        );
        assert_eq!(bench.installed.try_recv().unwrap(), ShardId(9));
        bench.outcomes.send(Ok(())).unwrap();
    }

    #[test]
    fn commands_are_counted_without_decoding_them() {
        let write = proto::Command {
            range_epoch: 300,
            ..proto::Command::default()
        };
        let batch = proto::CommandBatch {
            time_ms: 1 << 40,
            commands: vec![write; 5],
        };
        let entry = |data: Vec<u8>| Entry {
            data: data.into(),
            ..Entry::default()
        };
        let mut torn = batch.encode_to_vec();
        torn.pop();
        let append = LogAppend {
            entries: vec![entry(batch.encode_to_vec()), entry(Vec::new())],
            ..append(1)
        };
        assert_eq!(commands(&append), 5);
        assert_eq!(
            commands(&LogAppend {
                entries: vec![entry(torn)],
                ..append
            }),
            5
        );
    }
}
