//! How long shards are out of service: a small write to each shard, again and again, whatever happens.
//!
//! Each shard is asked every [`PAUSE`], also while an earlier probe is under way, so that what is measured is as exact as
//! that. A probe is a write without a session through the client library: it needs the route, a leader and a quorum. Its
//! time is short, so that the client soon turns from a node that does not answer; while a node drains, it is what was
//! promised. An answer to a probe that was sent after a fault was in effect shows that the shard serves again.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use flotilla::client::{Client, Options};
use flotilla_harness::Cluster;
use flotilla_shards::{ids::ShardId, range_map::RangeMap};
use tokio::task::JoinHandle;

/// Between two probes of a shard.
const PAUSE: Duration = Duration::from_millis(40);
/// How long a request may take while nothing but a restart with drain goes on.
pub(crate) const PROMPT: Duration = Duration::from_secs(1);
/// Probes of a shard that may be under way: more than its time has room for.
const UNDER_WAY_MAX: u64 = 40;
const MARK: &[u8] = b"\0probe";

/// Whether a key is one that probes write.
pub(crate) fn is_probe(key: &[u8]) -> bool {
    key.windows(MARK.len()).any(|part| part == MARK)
}

/// One probe: when it was sent, when it was answered or given up, and why if not answered.
#[derive(Clone, Debug)]
pub(crate) struct Probe {
    pub(crate) sent: Instant,
    pub(crate) ended: Instant,
    pub(crate) error: Option<String>,
}

type Probes = Arc<Mutex<BTreeMap<ShardId, Vec<Probe>>>>;

/// See the module.
pub(crate) struct Prober {
    stop: Arc<AtomicBool>,
    patient: Arc<AtomicBool>,
    probes: Probes,
    shards: Vec<JoinHandle<()>>,
}

impl Prober {
    /// Begins to probe all shards of the map.
    pub(crate) fn begin(cluster: &Cluster, map: &RangeMap, time: Duration) -> Self {
        let client = |timeout| {
            cluster.client(Options {
                timeout,
                ..Options::default()
            })
        };
        let clients = [client(time), client(PROMPT)];
        let (stop, patient) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let probes = Probes::default();
        let shards = map.shards().iter().map(|shard| {
            let key: Bytes = [&shard.range.start()[..], MARK].concat().into();
            let one = One {
                clients: clients.clone(),
                shard: shard.shard,
                key,
                probes: Arc::clone(&probes),
                patient: Arc::clone(&patient),
            };
            cluster.spawn(one.go_on(Arc::clone(&stop)))
        });
        Self {
            shards: shards.collect(),
            stop,
            patient,
            probes,
        }
    }

    /// From now on probes have [`PROMPT`], or no longer.
    pub(crate) fn be_patient(&self, patient: bool) {
        self.patient.store(patient, Ordering::Relaxed);
    }

    /// When a shard has answered the first probe that was sent after this moment, if it has.
    pub(crate) fn served_since(&self, shard: ShardId, since: Instant) -> Option<Instant> {
        let probes = self.probes.lock().expect("no panic");
        let of_shard = probes.get(&shard).into_iter().flatten();
        let served = of_shard.filter(|probe| probe.error.is_none() && probe.sent > since);
        served.map(|probe| probe.ended).min()
    }

    /// The newest error of a shard's probes.
    pub(crate) fn last_error(&self, shard: ShardId) -> Option<String> {
        let probes = self.probes.lock().expect("no panic");
        let mut of_shard = probes.get(&shard).into_iter().flatten().rev();
        of_shard.find_map(|probe| probe.error.clone())
    }

    /// Forgets all probes, and returns those that had ended.
    pub(crate) fn take(&self) -> Vec<Probe> {
        let probes = std::mem::take(&mut *self.probes.lock().expect("no panic"));
        probes.into_values().flatten().collect()
    }

    pub(crate) fn end(&mut self, cluster: &Cluster) {
        self.stop.store(true, Ordering::Relaxed);
        for shard in self.shards.drain(..) {
            cluster.block_on(shard).expect("no panic");
        }
    }
}

/// Who probes one shard.
struct One {
    /// The usual one, and the patient one.
    clients: [Client; 2],
    shard: ShardId,
    key: Bytes,
    probes: Probes,
    patient: Arc<AtomicBool>,
}

impl One {
    async fn go_on(self, stop: Arc<AtomicBool>) {
        let under_way = Arc::<AtomicU64>::default();
        while !stop.load(Ordering::Relaxed) {
            if under_way.load(Ordering::Relaxed) < UNDER_WAY_MAX {
                under_way.fetch_add(1, Ordering::Relaxed);
                let patient = self.patient.load(Ordering::Relaxed);
                let client = self.clients[usize::from(patient)].clone();
                let (key, shard) = (self.key.clone(), self.shard);
                let (under_way, probes) = (Arc::clone(&under_way), Arc::clone(&self.probes));
                tokio::spawn(async move {
                    let sent = Instant::now();
                    let answer = client.put(key, "probe").await;
                    let probe = Probe {
                        sent,
                        ended: Instant::now(),
                        error: answer.err().map(|error| error.to_string()),
                    };
                    let mut probes = probes.lock().expect("no panic");
                    probes.entry(shard).or_default().push(probe);
                    under_way.fetch_sub(1, Ordering::Relaxed);
                });
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}
