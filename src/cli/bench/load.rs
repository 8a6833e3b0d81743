//! The clients of a benchmark.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use flotilla_proto::v1::{self, kv_client::KvClient};
use futures_util::{StreamExt as _, stream};
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use tokio::task::JoinSet;

use super::keys::Keys;
use crate::{
    answers::Connection,
    cli::failure::Outcome,
    client::{self, Client, Error, stream as node_stream, stream::StreamOptions},
};

/// Clients share so many histograms: few enough to be small, enough not to wait for each other.
const HISTOGRAMS: usize = 8;
/// Latencies above are counted as this: in microseconds.
const LATENCY_MAX: u64 = 60_000_000;
/// Writes in flight while the keys are filled in.
const FILL: usize = 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Put,
    Get,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Unary { connections: usize },
    Stream,
}

/// What the clients do.
pub(super) struct Load {
    client: Client,
    kind: Kind,
    way: Way,
    keys: Keys,
    value: Bytes,
    seed: u64,
    /// For unary calls, by address.
    channels: BTreeMap<String, Vec<KvClient<Connection>>>,
}

const WARMING_UP: u8 = 0;
const MEASURING: u8 = 1;
const STOPPED: u8 = 2;

/// Clients at work.
pub(super) struct Running {
    shared: Arc<Shared>,
    clients: JoinSet<()>,
    started: Mutex<Instant>,
}

struct Shared {
    phase: AtomicU8,
    done: AtomicU64,
    failed: AtomicU64,
    histograms: Vec<Mutex<Histogram<u64>>>,
    errors: Mutex<Errors>,
}

#[derive(Debug, Default, Clone)]
pub(super) struct Errors {
    pub(super) by_kind: BTreeMap<&'static str, u64>,
    pub(super) first: Option<String>,
}

/// What the clients saw while measuring.
pub(super) struct Measured {
    pub(super) elapsed: Duration,
    /// In microseconds; successful operations only.
    pub(super) latencies: Histogram<u64>,
    pub(super) errors: Errors,
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_MAX, 3).expect("the bounds are ours")
}

impl Load {
    pub(super) fn new(
        client: Client,
        kind: Kind,
        way: Way,
        keys: Keys,
        value_bytes: usize,
        seed: u64,
    ) -> Outcome<Self> {
        let mut random = fastrand::Rng::with_seed(seed);
        let value: Bytes = (0..value_bytes).map(|_| random.u8(..)).collect();
        let mut channels = BTreeMap::new();
        if let Way::Unary { connections } = way {
            for node in client.nodes() {
                let mut pool = Vec::with_capacity(connections);
                for _ in 0..connections {
                    let channel = node_stream::channel(&node.address, &StreamOptions::default())?;
                    pool.push(KvClient::new(channel));
                }
                channels.insert(node.address, pool);
            }
        }
        Ok(Self {
            client,
            kind,
            way,
            keys,
            value,
            seed,
            channels,
        })
    }

    /// Writes every key once.
    pub(super) async fn fill(&self) -> Outcome {
        let mut writes = stream::iter(0..self.keys.count())
            .map(|number| self.client.put(self.keys.get(number), self.value.clone()))
            .buffer_unordered(FILL);
        while let Some(result) = writes.next().await {
            result?;
        }
        Ok(())
    }

    /// Sets the clients to work.
    pub(super) fn start(self, clients: u32) -> Running {
        let shared = Arc::new(Shared {
            phase: AtomicU8::new(WARMING_UP),
            done: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            histograms: (0..HISTOGRAMS).map(|_| Mutex::new(histogram())).collect(),
            errors: Mutex::default(),
        });
        let load = Arc::new(self);
        let mut tasks = JoinSet::new();
        for client in 0..clients {
            tasks.spawn(work(Arc::clone(&load), Arc::clone(&shared), client));
        }
        Running {
            shared,
            clients: tasks,
            started: Mutex::new(Instant::now()),
        }
    }

    async fn once(&self, client: u32, key: Bytes) -> client::Result<()> {
        match (self.way, self.kind) {
            (Way::Stream, Kind::Put) => self.client.put(key, self.value.clone()).await.map(drop),
            (Way::Stream, Kind::Get) => self.client.get(key).await.map(drop),
            (Way::Unary { .. }, kind) => {
                let target = self.client.target(&key);
                let address = target.stream.address();
                let mut connection = match self.channels.get(address) {
                    Some(pool) => pool[client as usize % pool.len()].clone(),
                    // An endpoint under a name that the cluster does not use itself.
                    None => KvClient::new(target.stream.channel()),
                };
                let result = match kind {
                    Kind::Put => {
                        let put = v1::PutRequest {
                            key,
                            value: self.value.clone(),
                            session: None,
                        };
                        connection.put(put).await.map(drop)
                    }
                    Kind::Get => {
                        let get = v1::GetRequest {
                            key,
                            ..v1::GetRequest::default()
                        };
                        connection.get(get).await.map(drop)
                    }
                };
                result.map_err(|status| {
                    let error = Error::from_status(address, &status);
                    self.client.learn(&target, &error);
                    error
                })
            }
        }
    }
}

async fn work(load: Arc<Load>, shared: Arc<Shared>, client: u32) {
    let mut random = fastrand::Rng::with_seed(load.seed ^ (u64::from(client) << 32));
    let histogram = &shared.histograms[client as usize % HISTOGRAMS];
    loop {
        let phase = shared.phase.load(Ordering::Relaxed);
        if phase == STOPPED {
            return;
        }
        let key = load.keys.get(random.u64(0..load.keys.count()));
        let begun = Instant::now();
        let result = load.once(client, key).await;
        let measured = phase == MEASURING && shared.phase.load(Ordering::Relaxed) == MEASURING;
        match result {
            Ok(()) if measured => {
                let micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
                histogram.lock().saturating_record(micros);
                shared.done.fetch_add(1, Ordering::Relaxed);
            }
            Ok(()) => {}
            Err(error) => {
                if measured {
                    shared.failed.fetch_add(1, Ordering::Relaxed);
                    let mut errors = shared.errors.lock();
                    *errors.by_kind.entry(error.kind()).or_default() += 1;
                    errors.first.get_or_insert_with(|| error.to_string());
                }
                // A cluster that refuses at once must not turn this loop into a storm.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

impl Running {
    /// From now on operations count.
    pub(super) fn measure(&self) {
        *self.started.lock() = Instant::now();
        self.shared.phase.store(MEASURING, Ordering::Relaxed);
    }

    /// Successful operations since [`Running::measure`].
    pub(super) fn done(&self) -> u64 {
        self.shared.done.load(Ordering::Relaxed)
    }

    /// Failed operations since [`Running::measure`].
    pub(super) fn errors(&self) -> u64 {
        self.shared.failed.load(Ordering::Relaxed)
    }

    /// From now on nothing counts, and no client begins anything.
    pub(super) fn stop(&self) -> Measured {
        self.shared.phase.store(STOPPED, Ordering::Relaxed);
        let elapsed = self.started.lock().elapsed();
        let mut latencies = histogram();
        for part in &self.shared.histograms {
            latencies
                .add(&*part.lock())
                .expect("all have the same bounds");
        }
        Measured {
            elapsed,
            latencies,
            errors: self.shared.errors.lock().clone(),
        }
    }

    /// Waits for the last answers.
    pub(super) async fn join(mut self) {
        while self.clients.join_next().await.is_some() {}
    }
}
