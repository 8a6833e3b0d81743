//! The applier: one thread that carries out what the shards have committed.
//!
//! It takes the committed entries of all shards that have gathered in its queue, lets the state machines turn them
//! into changes, writes the changes of many shards as one batch, and only then answers the waiting clients and tells
//! the engine. It is the only thread that writes to the state database, so everything that must happen between two
//! entries of a shard (a received snapshot that replaces its state) comes through the same queue.
//!
//! **Flushes.** The database has no WAL: what is written since the last flush would be replayed from the log after a
//! crash. A second thread flushes when half of the allowed replay has gathered, or when the oldest unflushed change has
//! reached an age; applying goes on meanwhile and waits only if the other half fills up before the flush is done. When
//! a flush has ended, the engine learns up to where each shard's log may be cut.
//!
//! How far shards have come is written apart from their state rows (`kv::positions`). Before a flush begins the state rows
//! are written, so that a stop leaves nothing to be put together.
//!
//! *Invariant:* a [`ApplierEvent::Flushed`] names no index that was not in the database before that flush began.

use std::{
    collections::BTreeMap,
    mem,
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, select};
use flotilla_metrics::{Metrics, Stage};
use flotilla_proto::v1::CommandAnswer;
use flotilla_shards::{
    engine::{Apply, Refused},
    ids::ShardId,
    kv::{ApplyError, StateBatch, StateMachine},
    raft::{Entry, EntryId, Index, Message, Snapshot},
};
use parking_lot::Mutex;

use super::{Answer, Outcome, Reply};
use crate::storage::{Fault, Install, OnFatal, RocksState, StorageError, spawn};

const PLACE: &str = "runtime::applier::apply";

/// Jobs taken from the queue before everything else is looked at again.
const JOBS_MAX: usize = 256;

/// State machines of shards that have applied nothing for so long, or up to twice as long, are closed.
const MACHINE_IDLE: Duration = Duration::from_secs(30);

/// How the applier batches and flushes.
#[derive(Clone, Copy, Debug)]
pub struct ApplierLimits {
    /// Changes of one write to the state database, in bytes; the entries of one shard that pass it stay together.
    pub batch_bytes: usize,
    /// Log that a start after a crash replays at most, in bytes.
    pub replay_bytes: u64,
    /// Oldest change that is not flushed.
    pub flush_age: Duration,
}

impl Default for ApplierLimits {
    fn default() -> Self {
        Self {
            batch_bytes: 1 << 20,
            replay_bytes: 256 << 20,
            flush_age: Duration::from_secs(60),
        }
    }
}

/// What the applier tells the engine's workers.
#[derive(Debug)]
pub enum ApplierEvent {
    /// The `done` messages of what can be read now.
    Applied(Vec<(ShardId, Message)>),
    /// Applied indexes that survive a crash: the log may be cut up to there.
    Flushed(Vec<(ShardId, Index)>),
}

/// Takes events, on the applier's thread.
pub type OnApplied = Box<dyn Fn(ApplierEvent) + Send>;

enum Job {
    Apply(Vec<Apply<Reply>>),
    Install {
        shard: ShardId,
        position: EntryId,
        done: Sender<Result<(), StorageError>>,
    },
    Stop,
}

/// Handle of the thread. Dropping it stops the thread as [`Applier::stop`] does.
pub struct Applier {
    queue: Sender<Job>,
    metrics: Arc<Metrics>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Applier {
    /// Starts the thread.
    ///
    /// # Errors
    /// The operating system has no thread to give.
    pub fn start(
        state: Arc<RocksState>,
        limits: ApplierLimits,
        on_applied: OnApplied,
        on_fatal: OnFatal,
        metrics: Arc<Metrics>,
    ) -> Result<Self, StorageError> {
        // Unbounded in length, as a worker that waits here could not take what the applier tells it. What lies in it
        // is bounded by the engine: each shard hands out its next entries after the last ones are done.
        let (queue, jobs) = crossbeam_channel::unbounded();
        let flusher = Flusher::start(Arc::clone(&state), Arc::clone(&metrics))?;
        let mut worker = Worker {
            jobs,
            flusher,
            state,
            limits,
            on_applied,
            on_fatal,
            metrics: Arc::clone(&metrics),
            machines: BTreeMap::new(),
            machines_looked_at: Instant::now(),
            round: Round::default(),
            unflushed: Unflushed::default(),
            flushing: None,
        };
        let thread = spawn("applier", move || worker.run())?;
        Ok(Self {
            queue,
            metrics,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Queues committed entries; those of one shard are applied in the order of the calls. Never blocks.
    pub fn submit(&self, applies: Vec<Apply<Reply>>) {
        let entries: usize = applies.iter().map(|apply| apply.entries.len()).sum();
        self.metrics.apply_lag.add(entries as i64);
        // The thread ends by a stop only, or after a failure that ends the process.
        let _ = self.queue.send(Job::Apply(applies));
    }

    /// For the storage writer: installs received snapshots in order with the entries that were submitted before.
    #[must_use]
    pub fn installer(&self) -> Box<dyn Install> {
        Box::new(Installer {
            queue: self.queue.clone(),
        })
    }

    /// Applies what is queued, flushes and ends the thread. What is submitted later is dropped. The storage writer must
    /// be stopped first, as it may wait for an installation.
    pub fn stop(&self) {
        let _ = self.queue.send(Job::Stop);
        let thread = self.thread.lock().take();
        if let Some(thread) = thread
            && thread.thread().id() != thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("the applier has panicked");
        }
    }
}

impl Drop for Applier {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Installer {
    queue: Sender<Job>,
}

impl Install for Installer {
    fn install(&self, shard: ShardId, snapshot: &Snapshot) -> Result<(), StorageError> {
        let gone = || StorageError {
            fault: Fault::Io,
            place: "runtime::applier::install",
            detail: format!("shard {}: the applier has stopped", shard),
        };
        let position = EntryId {
            index: snapshot.meta.index,
            term: snapshot.meta.term,
        };
        let (done, installed) = crossbeam_channel::bounded(1);
        self.queue
            .send(Job::Install {
                shard,
                position,
                done,
            })
            .map_err(|_| gone())?;
        installed.recv().map_err(|_| gone())?
    }
}

/// What is going to be written as one, and what waits for it.
#[derive(Default)]
struct Round {
    batch: StateBatch,
    /// Shards with changes.
    shards: Vec<ShardId>,
    answers: Vec<(Reply, Outcome)>,
    done: Vec<(ShardId, Message)>,
    entries: u64,
    commands: u64,
    bytes: u64,
    start: Option<Instant>,
}

/// What a crash would lose from the state database, and the log would replay.
#[derive(Default)]
struct Unflushed {
    bytes: u64,
    since: Option<Instant>,
    applied: BTreeMap<ShardId, Index>,
}

/// The state machine of a shard that is busy.
struct Machine {
    machine: StateMachine,
    /// Whether it was used since the last look at all of them.
    used: bool,
}

struct Worker {
    jobs: Receiver<Job>,
    flusher: Flusher,
    state: Arc<RocksState>,
    limits: ApplierLimits,
    on_applied: OnApplied,
    on_fatal: OnFatal,
    metrics: Arc<Metrics>,
    /// Opened when a shard's first entry comes, from its rows.
    machines: BTreeMap<ShardId, Machine>,
    machines_looked_at: Instant,
    round: Round,
    unflushed: Unflushed,
    /// What the flush that is under way will have made durable.
    flushing: Option<Unflushed>,
}

impl Worker {
    fn run(&mut self) {
        let end = self.serve();
        if let Err(error) = end {
            (self.on_fatal)(error);
        }
    }

    fn serve(&mut self) -> Result<(), StorageError> {
        loop {
            let job = select! {
                recv(self.jobs) -> job => job.unwrap_or(Job::Stop),
                recv(self.flusher.flushed) -> outcome => {
                    self.flushed(outcome)?;
                    continue;
                }
                default(self.until_flush().min(MACHINE_IDLE)) => {
                    if self.until_flush().is_zero() {
                        self.begin_flush()?;
                    }
                    self.close_idle_machines();
                    continue;
                }
            };
            let mut stop = self.take(job)?;
            // Bounded, so that the end of a flush is noticed under any load.
            for _ in 0..JOBS_MAX {
                let (false, Ok(job)) = (stop, self.jobs.try_recv()) else {
                    break;
                };
                stop = self.take(job)?;
            }
            self.write()?;
            self.close_idle_machines();
            if stop {
                return self.flush_all();
            }
        }
    }

    /// Returns whether it was the stop.
    fn take(&mut self, job: Job) -> Result<bool, StorageError> {
        match job {
            Job::Apply(applies) => {
                for apply in applies {
                    self.apply(apply)?;
                    if self.round.batch.bytes() >= self.limits.batch_bytes {
                        self.write()?;
                    }
                }
            }
            Job::Install {
                shard,
                position,
                done,
            } => {
                self.write()?;
                let installed = self.state.install(shard, position);
                self.machines.remove(&shard);
                // The storage writer gives up too, and says so.
                let _ = done.send(installed);
            }
            Job::Stop => return Ok(true),
        }
        Ok(false)
    }

    fn apply(&mut self, apply: Apply<Reply>) -> Result<(), StorageError> {
        let Apply {
            shard,
            entries,
            waiters,
            done,
            ..
        } = apply;
        let round = &mut self.round;
        round.start.get_or_insert_with(Instant::now);
        self.metrics.apply_lag.sub(entries.len() as i64);
        let Machine { machine, used } = match self.machines.entry(shard) {
            std::collections::btree_map::Entry::Occupied(machine) => machine.into_mut(),
            std::collections::btree_map::Entry::Vacant(slot) => {
                let machine = self.state.open_machine(shard)?;
                let machine = machine.ok_or_else(|| {
                    corrupt(shard, "it has committed entries and no state".into())
                })?;
                slot.insert(Machine {
                    machine,
                    used: true,
                })
            }
        };
        *used = true;
        if round.shards.last() != Some(&shard) {
            round.shards.push(shard);
        }
        let mut waiters = waiters.into_iter().peekable();
        for entry in entries {
            // After a start the engine replays from the applied index on, so there should be none.
            if entry.index <= machine.state().applied_index {
                continue;
            }
            while let Some((_, replies)) = waiters.next_if(|waiter| waiter.0.index < entry.index) {
                refuse(round, replies, &Refused::OutcomeUnknown);
            }
            let mut answers = Vec::new();
            machine
                .apply_entry(&*self.state, &mut round.batch, &entry, &mut answers)
                .map_err(|error| failed(shard, &error))?;
            round.entries += 1;
            round.commands += answers.len() as u64;
            round.bytes += entry.data.len() as u64 + size_of::<Entry>() as u64;
            if let Some((waiting, replies)) =
                waiters.next_if(|waiter| waiter.0.index == entry.index)
            {
                if waiting.term == entry.term {
                    answer(round, replies, answers);
                } else {
                    refuse(round, replies, &Refused::Superseded);
                }
            }
        }
        // Whether they were among what a snapshot brought is not known here.
        for (_, replies) in waiters {
            refuse(round, replies, &Refused::OutcomeUnknown);
        }
        round
            .done
            .extend(done.into_iter().map(|message| (shard, message)));
        Ok(())
    }

    /// Closes the state machines that nothing has come for lately: between two rounds there is nothing in them that their
    /// rows don't have.
    fn close_idle_machines(&mut self) {
        let now = Instant::now();
        if now.saturating_duration_since(self.machines_looked_at) >= MACHINE_IDLE {
            self.machines_looked_at = now;
            self.machines
                .retain(|_, machine| mem::take(&mut machine.used));
        }
    }

    /// Writes the round, then tells everybody who waits for it.
    fn write(&mut self) -> Result<(), StorageError> {
        let Some(start) = self.round.start.take() else {
            return Ok(());
        };
        let Round {
            mut batch,
            mut shards,
            answers,
            done,
            entries,
            commands,
            bytes,
            ..
        } = mem::take(&mut self.round);
        shards.sort_unstable();
        shards.dedup();
        // The next thing to be written must be this batch, and a flush that ends begins none.
        self.make_room(bytes)?;
        let mut journal = self.state.journal();
        let count = shards.len();
        for shard in shards {
            let machine = self.machines.get_mut(&shard).expect("opened in this round");
            let machine = &mut machine.machine;
            journal.finish(machine, count, &mut batch);
            self.unflushed
                .applied
                .insert(shard, machine.state().applied_index);
        }
        journal.end_round(&mut batch);
        let full = journal.is_full();
        drop(journal);
        self.state.write(&batch)?;
        batch.clear();
        self.round.batch = batch;
        self.unflushed.bytes += bytes;
        self.unflushed.since.get_or_insert(start);

        let now = Instant::now();
        let metrics = &self.metrics;
        let mut written = 0;
        for (mut reply, outcome) in answers {
            if outcome.is_ok() {
                written += reply.payload();
            }
            reply.stage(metrics, Stage::Apply, now);
            reply.send(outcome);
        }
        metrics.written_bytes.inc_by(written);
        if !done.is_empty() {
            (self.on_applied)(ApplierEvent::Applied(done));
        }
        metrics.apply_batches.inc();
        metrics.apply_entries.inc_by(entries);
        metrics.apply_commands.inc_by(commands);
        metrics.apply_entries_per_batch.observe(entries as f64);
        metrics
            .apply_seconds
            .observe(now.saturating_duration_since(start).as_secs_f64());
        self.note_replay();
        if full {
            self.state.checkpoint()?;
        }
        if self.unflushed.bytes >= self.limits.replay_bytes / 2 || self.until_flush().is_zero() {
            self.begin_flush()?;
        }
        Ok(())
    }

    /// Time until the oldest change must be flushed.
    fn until_flush(&self) -> Duration {
        match self.unflushed.since {
            Some(since) if self.flushing.is_none() => {
                self.limits.flush_age.saturating_sub(since.elapsed())
            }
            _ => self.limits.flush_age,
        }
    }

    fn begin_flush(&mut self) -> Result<(), StorageError> {
        if self.flushing.is_none() && self.unflushed.since.is_some() {
            self.state.checkpoint()?;
            self.flushing = Some(mem::take(&mut self.unflushed));
            self.flusher.begin();
        }
        Ok(())
    }

    fn flushed(
        &mut self,
        outcome: Result<Result<(), StorageError>, crossbeam_channel::RecvError>,
    ) -> Result<(), StorageError> {
        outcome.map_err(|_| StorageError {
            fault: Fault::Io,
            place: "runtime::applier::flushed",
            detail: "the flusher has panicked".into(),
        })??;
        if let Some(flushed) = self.flushing.take() {
            (self.on_applied)(ApplierEvent::Flushed(flushed.applied.into_iter().collect()));
        }
        self.note_replay();
        Ok(())
    }

    /// Waits for the flush that is under way if `bytes` more would pass the bound on replay.
    fn make_room(&mut self, bytes: u64) -> Result<(), StorageError> {
        if let Some(flushing) = &self.flushing
            && flushing.bytes + self.unflushed.bytes + bytes > self.limits.replay_bytes
        {
            let outcome = self.flusher.flushed.recv();
            self.flushed(outcome)?;
        }
        Ok(())
    }

    fn flush_all(&mut self) -> Result<(), StorageError> {
        while self.flushing.is_some() || self.unflushed.since.is_some() {
            self.begin_flush()?;
            let outcome = self.flusher.flushed.recv();
            self.flushed(outcome)?;
        }
        Ok(())
    }

    fn note_replay(&self) {
        let flushing = self.flushing.as_ref().map_or(0, |flushing| flushing.bytes);
        self.metrics
            .log_replay_bytes
            .set((flushing + self.unflushed.bytes) as i64);
    }
}

fn answer(round: &mut Round, replies: Vec<Reply>, answers: Vec<CommandAnswer>) {
    assert!(
        replies.len() == answers.len(),
        "{} replies wait for {} answers",
        replies.len(),
        answers.len()
    );
    let outcomes = answers.into_iter().map(|answer| Ok(Answer::Write(answer)));
    round.answers.extend(replies.into_iter().zip(outcomes));
}

fn refuse(round: &mut Round, replies: Vec<Reply>, why: &Refused) {
    round
        .answers
        .extend(replies.into_iter().map(|reply| (reply, Err(why.clone()))));
}

/// A client can't cause it: the state is damaged or can't be read.
fn failed(shard: ShardId, error: &ApplyError) -> StorageError {
    match error {
        ApplyError::View(error) => StorageError::view(PLACE, error),
        error => corrupt(shard, error.to_string()),
    }
}

fn corrupt(shard: ShardId, what: String) -> StorageError {
    StorageError::corrupt(PLACE, format!("shard {shard}: {what}"))
}

/// The thread that flushes the state database. At most one flush is under way.
struct Flusher {
    /// `None` once dropped, which ends the thread.
    begin: Option<Sender<()>>,
    flushed: Receiver<Result<(), StorageError>>,
    thread: Option<JoinHandle<()>>,
}

impl Flusher {
    fn start(state: Arc<RocksState>, metrics: Arc<Metrics>) -> Result<Self, StorageError> {
        let (begin, begun) = crossbeam_channel::bounded::<()>(1);
        let (flushed_tx, flushed) = crossbeam_channel::bounded(1);
        let thread = spawn("state-flusher", move || {
            for () in begun {
                let start = Instant::now();
                let outcome = state.flush();
                metrics.state_flushes.inc();
                metrics
                    .state_flush_seconds
                    .observe(start.elapsed().as_secs_f64());
                if flushed_tx.send(outcome).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self {
            begin: Some(begin),
            flushed,
            thread: Some(thread),
        })
    }

    fn begin(&self) {
        let begin = self.begin.as_ref().expect("taken by drop only");
        // If the thread is gone, the next receive from it says so.
        let _ = begin.send(());
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.begin = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the flusher has panicked");
        }
    }
}

#[cfg(test)]
mod tests;
