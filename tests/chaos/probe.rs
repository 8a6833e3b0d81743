//! How long shards are out of service: a small write to each shard, again and again, whatever happens; and reads of what it
//! wrote, at each node.
//!
//! Each shard is asked every [`PAUSE`], also while an earlier probe is under way, so that what is measured is as exact as
//! that. A probe is a write without a session through the client library: it needs the route, a leader and a quorum. Its
//! time is short, so that the client soon turns from a node that does not answer; while nodes restart one after the other,
//! it is what was promised. An answer to a probe that was sent after a fault was in effect shows that the shard serves again.
//!
//! Witnesses ask one node each for what probes have written, and wait for as long as it takes. So there are reads on both
//! sides of every cut, and in the sockets of a node that stands still, while the other side goes on writing: the moments in
//! which a leader that does not know that it is none any more would answer. Probes and witnesses have a history of their
//! own, whose keys nobody else writes.

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
use flotilla_history::{Answer, Call, ClientId};
use flotilla_shards::{ids::ShardId, range_map::RangeMap};
use tokio::task::JoinHandle;

use crate::{clients::written, readers::Reader, record::Record};

/// Between two probes of a shard.
const PAUSE: Duration = Duration::from_millis(40);
/// How long a request may take while nothing but a rolling restart goes on.
pub(crate) const PROMPT: Duration = Duration::from_secs(1);
/// Probes of a shard that may be under way: more than its time has room for.
const UNDER_WAY_MAX: u64 = 40;
/// Between two reads of witnesses, all nodes together: each looks at each shard several times while nodes elect.
const WITNESS_PAUSE: Duration = Duration::from_millis(8);
const MARK: &[u8] = b"\0probe";

/// Whether a key is one that probes write.
pub(crate) fn is_probe(key: &[u8]) -> bool {
    key.windows(MARK.len()).any(|part| part == MARK)
}

fn key(start: &[u8]) -> Bytes {
    [start, MARK].concat().into()
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
    tasks: Vec<JoinHandle<()>>,
    /// What probes wrote and witnesses read.
    pub(crate) record: Arc<Record>,
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
        let (probes, record) = (Probes::default(), Arc::new(Record::new()));
        let shards = map.shards().iter().map(|shard| {
            let one = One {
                clients: clients.clone(),
                shard: shard.shard,
                key: key(shard.range.start()),
                probes: Arc::clone(&probes),
                record: Arc::clone(&record),
                patient: Arc::clone(&patient),
            };
            cluster.spawn(one.go_on(Arc::clone(&stop)))
        });
        let witnesses = (0..cluster.len()).map(|node| {
            let witness = Reader {
                stream: cluster.stream(node),
                record: Arc::clone(&record),
                // No shard has such a number.
                client: ClientId(u64::MAX - node as u64),
                pause: WITNESS_PAUSE * cluster.len() as u32,
            };
            let keys = map.shards().iter().map(|shard| key(shard.range.start()));
            let mut keys = keys.collect::<Vec<_>>().into_iter().cycle();
            let key_at = move |_| keys.next().expect("there are shards");
            cluster.spawn(witness.go_on(key_at, Arc::clone(&stop)))
        });
        Self {
            tasks: shards.chain(witnesses).collect(),
            stop,
            patient,
            probes,
            record,
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

    /// Asks for nothing more; what was asked for may still be answered.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub(crate) fn end(&mut self, cluster: &Cluster) {
        self.stop();
        for task in self.tasks.drain(..) {
            cluster.block_on(task).expect("no panic");
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
    record: Arc<Record>,
    patient: Arc<AtomicBool>,
}

impl One {
    async fn go_on(self, stop: Arc<AtomicBool>) {
        let under_way = Arc::<AtomicU64>::default();
        let mut probes = Vec::new();
        for number in 0_u64.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            probes.retain(|probe: &JoinHandle<()>| !probe.is_finished());
            if under_way.load(Ordering::Relaxed) < UNDER_WAY_MAX {
                under_way.fetch_add(1, Ordering::Relaxed);
                let patient = self.patient.load(Ordering::Relaxed);
                let client = self.clients[usize::from(patient)].clone();
                let (key, shard) = (self.key.clone(), self.shard);
                let (under_way, probes_done) = (Arc::clone(&under_way), Arc::clone(&self.probes));
                let record = Arc::clone(&self.record);
                probes.push(tokio::spawn(async move {
                    let value = Bytes::from(number.to_string());
                    let call = Call::Put {
                        key: key.clone(),
                        value: value.clone(),
                    };
                    let op = record.invoke(ClientId(shard.0), call);
                    let sent = Instant::now();
                    let answer = client.put(key, value).await;
                    let probe = Probe {
                        sent,
                        ended: Instant::now(),
                        error: answer.as_ref().err().map(ToString::to_string),
                    };
                    let end = written(answer.map(|revision| Answer::Put { revision }));
                    record.end(op, end, false);
                    let mut done = probes_done.lock().expect("no panic");
                    done.entry(shard).or_default().push(probe);
                    under_way.fetch_sub(1, Ordering::Relaxed);
                }));
            }
            tokio::time::sleep(PAUSE).await;
        }
        for probe in probes {
            probe.await.expect("no panic");
        }
    }
}
