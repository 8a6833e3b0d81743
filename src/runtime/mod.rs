//! The threads that run the engine: workers that own the shards, and the applier. They feed inputs to the sans-IO core
//! and carry its outputs to storage, transport and router; they decide nothing about a shard.

pub mod applier;
mod inbox;
mod leases;
mod reply;
mod worker;

use std::{
    io,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use flotilla_metrics::Metrics;
use flotilla_shards::{
    engine::{
        CacheCount, Engine, EngineConfig, InputError, Load, RecoveredReplica, ReplicaStatus, Totals,
    },
    ids::{NodeId, ShardId},
};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

pub use inbox::{Inboxes, NodeEngine, ShardRequest};
pub use reply::{Answer, Budget, Busy, Outcome, Permit, Reply, StageTimes};
pub use worker::Surroundings;

use self::leases::Leases;
use crate::storage::RocksLogReader;

/// How long to wait between two looks at what is still led while draining.
const DRAIN_PAUSE: Duration = Duration::from_millis(50);

/// Replicas that a worker is asked about at once by whoever looks at all of them: other inputs wait for so many at most.
pub const PAGE: usize = 2048;

/// How the runtime is set up.
#[derive(Clone, Debug)]
pub struct RuntimeOptions {
    /// Length of a tick.
    pub tick: Duration,
    /// Bytes of requests in flight.
    pub in_flight_bytes_max: u64,
}

/// The workers before they run: their mailboxes exist, so that whatever feeds them can be built first.
pub struct Workers {
    inboxes: Inboxes,
    mailboxes: Vec<inbox::Mailbox>,
}

impl Workers {
    /// Mailboxes for so many workers, at least one.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        let (inboxes, mailboxes) = Inboxes::new(workers);
        Self { inboxes, mailboxes }
    }

    /// Where inputs go.
    #[must_use]
    pub fn inboxes(&self) -> Inboxes {
        self.inboxes.clone()
    }
}

/// Why the runtime could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A replica could not be opened from what was found on disk.
    #[error("a replica could not be opened: {0}")]
    Open(#[from] InputError),
    /// The system gave no thread.
    #[error("a worker thread could not be started: {0}")]
    Thread(#[from] io::Error),
}

/// The running workers.
#[derive(Debug)]
pub struct Runtime {
    inboxes: Inboxes,
    /// Of each worker; none if there are no leases.
    leases: Vec<Arc<Leases>>,
    budget: Arc<Budget>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Runtime {
    /// Opens all replicas and starts the workers.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start<S: Surroundings + Clone + 'static>(
        workers: Workers,
        options: &RuntimeOptions,
        config: &EngineConfig,
        log: &RocksLogReader,
        replicas: Vec<RecoveredReplica>,
        surroundings: &S,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, StartError> {
        let Workers { inboxes, mailboxes } = workers;
        let cache = Arc::<CacheCount>::default();
        let mut engines: Vec<NodeEngine> = mailboxes
            .iter()
            .map(|_| Engine::new(config.clone(), log.clone(), Arc::clone(&cache), 0))
            .collect();
        let worker = |replica: &RecoveredReplica| inboxes.worker_of(replica.descriptor.shard);
        for (number, engine) in engines.iter_mut().enumerate() {
            let own = replicas.iter().filter(|replica| worker(replica) == number);
            engine.reserve(own.count());
        }
        for replica in replicas {
            engines[worker(&replica)].open(replica)?;
        }
        let mut threads = Vec::new();
        let leases = engines.iter().map(|_| Arc::new(Leases::new(options.tick)));
        let leases: Vec<_> = leases.collect();
        let pulses = worker::Pulse::new(engines.len());
        let workers = engines.into_iter().zip(mailboxes).zip(pulses);
        for (number, ((engine, mailbox), pulse)) in workers.enumerate() {
            let worker = worker::Worker {
                engine,
                mailbox,
                surroundings: surroundings.clone(),
                metrics: Arc::clone(metrics),
                tick: options.tick,
                leases: Arc::clone(&leases[number]),
                states: std::collections::BTreeMap::new(),
                resting: 0,
                pulse,
            };
            let thread = thread::Builder::new()
                .name(format!("shards-{number}"))
                .spawn(move || worker.run())?;
            threads.push(thread);
        }
        Ok(Self {
            inboxes,
            leases: match config.leases {
                true => leases,
                false => Vec::new(),
            },
            budget: Budget::new(options.in_flight_bytes_max, Arc::clone(metrics)),
            threads: Mutex::new(threads),
        })
    }

    /// Asks something of a shard. Never blocks.
    ///
    /// # Errors
    /// If too much is in flight; the reply is dropped unused.
    pub fn submit(
        &self,
        shard: ShardId,
        request: ShardRequest,
        mut reply: Reply,
    ) -> Result<(), Busy> {
        let bytes = match &request {
            ShardRequest::Write { bytes, .. } => *bytes as u64,
            ShardRequest::Read => 0,
        };
        reply.hold(self.budget.take(bytes)?);
        self.inboxes.request(shard, request, reply);
        Ok(())
    }

    /// Whether a linearizable read of a shard, that came before this is asked, may read what is applied now: by an open
    /// lease, without asking the worker.
    #[must_use]
    pub fn may_read(&self, shard: ShardId) -> bool {
        let leases = self.leases.get(self.inboxes.worker_of(shard));
        leases.is_some_and(|leases| leases.may_read(shard))
    }

    /// Threads that own shards.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.inboxes.workers()
    }

    /// Where the local replica of a shard stands; none if there is no replica here.
    pub async fn status(&self, shard: ShardId) -> Option<ReplicaStatus> {
        let (sender, receiver) = oneshot::channel();
        self.inboxes.ask(shard, move |engine| {
            // The asker may have gone away.
            let _ = sender.send(engine.status(shard));
        });
        receiver.await.ok().flatten()
    }

    /// Where the local replicas of the next `limit` shards behind `after` stand, by shard.
    pub async fn census(&self, after: ShardId, limit: usize) -> Vec<ReplicaStatus> {
        let parts = self.ask_each(move |engine| engine.census(after, limit));
        let mut found: Vec<ReplicaStatus> = parts.await.into_iter().flatten().collect();
        // Each worker gave its own next ones; only the first of all of them have no gap between them.
        found.sort_unstable_by_key(|status| status.shard);
        found.truncate(limit);
        found
    }

    /// What was asked of the replicas that something happened to since the last survey, and sums over all replicas.
    pub async fn survey(&self) -> (Vec<(ShardId, Load)>, Totals) {
        let (mut loads, mut pages) = (Vec::new(), 1);
        // As many pages as there were at first: what happens meanwhile is for the next survey.
        while pages > 0 {
            let found = self.ask_each(|engine| engine.survey(PAGE)).await;
            let left = found.iter().map(|page| page.left).max().unwrap_or(0);
            pages = match loads.is_empty() {
                true => left.div_ceil(PAGE),
                false => pages - 1,
            };
            loads.extend(found.into_iter().flat_map(|page| page.loads));
        }
        let totals = self.ask_each(|engine| engine.totals()).await;
        (
            loads,
            totals.into_iter().fold(Totals::default(), Totals::and),
        )
    }

    /// What each worker answers; none from those that have stopped.
    async fn ask_each<T: Send + 'static>(
        &self,
        ask: impl Fn(&mut NodeEngine) -> T + Clone + Send + 'static,
    ) -> Vec<T> {
        let (sender, mut receiver) = mpsc::channel(self.inboxes.workers());
        self.inboxes.ask_all(move |engine| {
            // There is a place for each worker; the asker may have gone away.
            let _ = sender.try_send(ask(engine));
        });
        let mut answers = Vec::with_capacity(self.inboxes.workers());
        while let Some(answer) = receiver.recv().await {
            answers.push(answer);
        }
        answers
    }

    /// Hands a shard's leadership to another node. Returns whether this node leads the shard and has begun.
    pub async fn transfer_leader(&self, shard: ShardId, node: NodeId) -> bool {
        let (sender, receiver) = oneshot::channel();
        self.inboxes.ask(shard, move |engine| {
            // The asker may have gone away.
            let _ = sender.send(engine.transfer_leader(shard, node));
        });
        receiver.await.unwrap_or(false)
    }

    /// Begins to hand over all leaderships that someone else can take. Doing it again while some are on their way does
    /// no harm.
    pub fn hand_over(&self) {
        self.inboxes.ask_all(|engine| {
            engine.drain();
        });
    }

    /// Hands over all leaderships, and returns when none is left or the time is over; the answer is the number left.
    pub async fn drain(&self, bound: Duration) -> usize {
        let until = tokio::time::Instant::now() + bound;
        loop {
            let left = self.ask_each(|engine| engine.drain()).await;
            let left = left.into_iter().sum();
            if left == 0 || tokio::time::Instant::now() >= until {
                return left;
            }
            tokio::time::sleep(DRAIN_PAUSE).await;
        }
    }

    /// Stops the workers. Requests that are still waiting are dropped.
    pub fn stop(&self) {
        self.inboxes.stop();
        for thread in std::mem::take(&mut *self.threads.lock()) {
            if thread.join().is_err() {
                tracing::error!("a worker thread has panicked");
            }
        }
    }
}
