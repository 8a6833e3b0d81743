//! Clients that ask for what a workload draws, through the real client library, and record what they are told.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use fastrand::Rng;
use flotilla::client::{
    Client, Consistency, Error, Options, ScanOptions, Session, Value, WriteBatch,
    stream::NodeStream,
};
use flotilla_harness::{Cluster, ask};
use flotilla_history::{Answer, Call, Change, ClientId, Condition, Found, Level, Row, Test};
use flotilla_proto::v1::{self, request, response};
use flotilla_shards::range_map::RangeMap;
use flotilla_sim::workload::{self, Load, Mix, Wish, Workload};
use tokio::task::JoinHandle;

use crate::{
    probe,
    readers::Reader,
    record::{End, Record},
};

/// Clients at the same time.
pub(crate) const CLIENTS: usize = 8;
/// The keys change this often, so that the judge has few operations on each.
pub(crate) const GENERATION: Duration = Duration::from_secs(30);
/// Between two operations of a client, at most.
const THINK: Duration = Duration::from_millis(60);
/// Time of one request of a client, tries included.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Of one try.
const TRY_TIMEOUT: Duration = Duration::from_millis(700);
/// Of the reads at the end.
const LAST_TIMEOUT: Duration = Duration::from_secs(60);
/// Of a read of one replica.
const PINNED_TIMEOUT: Duration = Duration::from_millis(300);
/// Between two reads of registers at one node, which wait whatever happens to it.
const READ_PAUSE: Duration = Duration::from_millis(100);
/// Pages of one scan, which then ends before its range does: pages may be of one row, and keys become more and more.
const PAGES_MAX: usize = 40;
/// How often a list or counter is read anew because somebody else has changed it meanwhile.
const CHANGES_MAX: usize = 20;

/// What clients ask for: everything that the product has, with keys that hug the borders of shards.
fn mix(name: &'static str) -> Mix {
    Mix {
        loads: vec![
            (Load::Register, 10),
            (Load::Append, 3),
            (Load::Counter, 3),
            (Load::Bank, 2),
            (Load::Set, 1),
            (Load::Scan, 2),
            (Load::Mono, 2),
        ],
        keys: 24,
        sessions: 50,
        name,
    }
}

/// How often each node was about to end or to start: what began and ended at one count was answered by one process.
#[derive(Clone)]
pub(crate) struct Starts(Arc<[AtomicU64]>);

impl Starts {
    pub(crate) fn new(nodes: usize) -> Self {
        Self((0..nodes).map(|_| AtomicU64::new(0)).collect())
    }

    /// A process is about to end, or to start.
    pub(crate) fn changes(&self, node: usize) {
        self.0[node].fetch_add(1, Ordering::SeqCst);
    }

    /// The number of a node's process, among all processes.
    fn of(&self, node: usize) -> u64 {
        let count = self.0.len() as u64;
        self.0[node].load(Ordering::SeqCst) * count + node as u64
    }
}

/// All clients of a run.
pub(crate) struct Clients {
    stop: Arc<AtomicBool>,
    map: Arc<RangeMap>,
    clients: Vec<JoinHandle<()>>,
}

impl Clients {
    pub(crate) fn begin(
        cluster: &Cluster,
        record: &Arc<Record>,
        starts: &Starts,
        map: &Arc<RangeMap>,
        seed: u64,
    ) -> Self {
        let (stop, map) = (Arc::<AtomicBool>::default(), Arc::clone(map));
        let readers = (0..cluster.len()).map(|node| {
            let reader = Reader {
                stream: cluster.stream(node),
                record: Arc::clone(record),
                client: ClientId(CLIENTS as u64),
                pause: READ_PAUSE,
            };
            let mut random = Rng::with_seed(seed.wrapping_add((CLIENTS + node) as u64));
            let (map, mut born, mut keys) = (Arc::clone(&map), usize::MAX, Vec::new());
            let key_at = move |now| {
                if born != generation(now) {
                    born = generation(now);
                    keys = Workload::new(CLIENTS, mix(name(born)), &map).registers;
                }
                keys[random.usize(..keys.len())].clone()
            };
            cluster.spawn(reader.go_on(key_at, Arc::clone(&stop)))
        });
        let readers: Vec<JoinHandle<()>> = readers.collect();
        let clients = (0..CLIENTS)
            .map(|number| {
                let client = One {
                    number,
                    random: Rng::with_seed(seed.wrapping_add(number as u64)),
                    asker: Asker::new(cluster, starts, TIMEOUT),
                    record: Arc::clone(record),
                };
                cluster.spawn(client.go_on(Arc::clone(&map), Arc::clone(&stop)))
            })
            .chain(readers)
            .collect();
        Self { stop, map, clients }
    }

    /// Stops all clients, and reads everything that they have written once more.
    pub(crate) fn end(self, cluster: &Cluster, record: &Record, starts: &Starts) {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            cluster.block_on(client).expect("no panic");
        }
        let last = generation(record.now());
        let mut asker = Asker::new(cluster, starts, LAST_TIMEOUT);
        for generation in 0..=last {
            let workload = Workload::new(CLIENTS, mix(name(generation)), &self.map);
            for wish in workload.last() {
                let id = record.invoke(ClientId(CLIENTS as u64), wish.call.clone());
                let end = cluster.block_on(asker.perform(&wish));
                let end = match end {
                    End::Failed => End::Wrong("it fails in calm weather".to_owned()),
                    end => end,
                };
                record.end(id, end, false);
            }
        }
    }
}

/// The cluster's shards, as its directory has them.
pub(crate) fn range_map(cluster: &Cluster) -> Arc<RangeMap> {
    let routes = cluster.client(Options::default()).routes();
    Arc::new(RangeMap::new(
        routes.into_iter().map(|route| route.descriptor),
    ))
}

fn generation(now: Duration) -> usize {
    (now.as_nanos() / GENERATION.as_nanos()) as usize
}

/// The name of a generation's keys.
fn name(generation: usize) -> &'static str {
    // A handful of bytes each half minute.
    format!("g{generation}").leak()
}

/// One client.
struct One {
    number: usize,
    random: Rng,
    asker: Asker,
    record: Arc<Record>,
}

impl One {
    async fn go_on(mut self, map: Arc<RangeMap>, stop: Arc<AtomicBool>) {
        for born in 0.. {
            // Another client for the judge, as its sessions' numbers begin anew.
            let id = born * (CLIENTS + 1) + self.number;
            let mut workload = Workload::new(id, mix(name(born)), &map);
            while generation(self.record.now()) <= born {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let mut wish = workload.next(&mut self.random);
                self.asker.pin(&mut wish);
                // What must be refused is no operation.
                let op = (!wish.cross)
                    .then(|| self.record.invoke(ClientId(id as u64), wish.call.clone()));
                let mut end = self.asker.perform(&wish).await;
                if let End::Ok(answer) = &end
                    && let Some(wrong) = workload.observe(&wish.call, answer)
                {
                    end = End::Wrong(wrong);
                }
                match (op, end) {
                    (Some(op), end) => self.record.end(op, end, wish.pinned.is_some()),
                    (None, End::Wrong(wrong)) => self.record.wrong(wrong),
                    (None, _) => {}
                }
                let think = self.random.u64(..=THINK.as_micros() as u64);
                tokio::time::sleep(Duration::from_micros(think)).await;
            }
        }
    }
}

/// Asks one node for a key, once.
pub(crate) async fn get_of(
    stream: &NodeStream,
    key: &Bytes,
    level: Level,
    timeout: Duration,
) -> End {
    let kind = request::Kind::Get(v1::GetRequest {
        key: key.clone(),
        consistency: v1::Consistency::from(consistency(level)).into(),
    });
    match ask(stream, kind, timeout).await {
        Ok(response::Kind::Get(got)) => {
            let revision = got.revision;
            End::Ok(Answer::Get(
                got.value.map(|value| Found { value, revision }),
            ))
        }
        Ok(other) => End::Wrong(format!("{other:?} is no answer to a get")),
        Err(error) if is_wrong(&error) => End::Wrong(format!("{error:?}")),
        Err(_) => End::Failed,
    }
}

/// Makes requests of wishes.
struct Asker {
    client: Client,
    session: Session,
    nodes: Vec<NodeStream>,
    starts: Starts,
}

impl Asker {
    fn new(cluster: &Cluster, starts: &Starts, timeout: Duration) -> Self {
        let client = cluster.client(Options {
            timeout,
            try_timeout: TRY_TIMEOUT,
            ..Options::default()
        });
        Self {
            session: client.session(),
            client,
            nodes: (0..cluster.len())
                .map(|node| cluster.stream(node))
                .collect(),
            starts: starts.clone(),
        }
    }

    /// A read of one replica promises something for the time of one process.
    fn pin(&self, wish: &mut Wish) {
        if let (Some(node), Call::Get { level, .. }) = (wish.pinned, &mut wish.call) {
            *level = Level::Replica(self.starts.of(node));
        }
    }

    async fn perform(&mut self, wish: &Wish) -> End {
        let ended = match &wish.call {
            Call::Get { key, level } => match wish.pinned {
                Some(node) => return self.pinned(node, key, *level).await,
                None => {
                    let got = self.client.get_with(key.clone(), consistency(*level)).await;
                    got.map(|got| Answer::Get(got.map(found)))
                }
            },
            Call::BatchGet { keys, level, .. } => {
                let got = self.client.batch_get(keys, consistency(*level)).await;
                got.map(|got| Answer::BatchGet(got.into_iter().map(|got| got.map(found)).collect()))
            }
            Call::Scan { .. } => self.scan(wish).await,
            Call::ReadList { list } => {
                let got = self.client.get(list.clone()).await;
                got.map(|got| {
                    let value = got.map(|got| got.value).unwrap_or_default();
                    Answer::ReadList(workload::elements(&value))
                })
            }
            Call::ReadCounter { counter } => match self.client.get(counter.clone()).await {
                Ok(got) => {
                    let value = got.map(|got| got.value).unwrap_or_default();
                    match workload::number(&value) {
                        Some(number) => Ok(Answer::ReadCounter(number)),
                        None => return End::Wrong(format!("{value:?} is no counter")),
                    }
                }
                Err(error) => Err(error),
            },
            Call::Put { key, value } => {
                let revision = if wish.in_session {
                    self.session.put(key.clone(), value.clone()).await
                } else {
                    self.client.put(key.clone(), value.clone()).await
                };
                return written(revision.map(|revision| Answer::Put { revision }));
            }
            Call::Delete { key } => {
                let done = if wish.in_session {
                    self.session.delete(key.clone()).await
                } else {
                    self.client.delete(key.clone()).await
                };
                return written(done.map(|done| Answer::Delete {
                    deleted: done.deleted,
                    revision: if done.deleted { done.revision } else { 0 },
                }));
            }
            Call::Batch {
                conditions,
                changes,
            } => {
                let batch = self
                    .batch(batch(conditions, changes), wish.in_session)
                    .await;
                return match batch {
                    Err(Error::CrossShard { .. }) if wish.cross => End::Failed,
                    Ok(answer) if wish.cross => {
                        End::Wrong(format!("a batch over two shards was answered: {answer:?}"))
                    }
                    batch => written(batch),
                };
            }
            Call::Append { list: key, .. } | Call::Increment { counter: key } => {
                return self.change(&wish.call, key, wish.in_session).await;
            }
        };
        match ended {
            Ok(answer) => End::Ok(answer),
            Err(error) if is_wrong(&error) => End::Wrong(format!("{error:?}")),
            Err(_) => End::Failed,
        }
    }

    async fn batch(&self, batch: WriteBatch, in_session: bool) -> Result<Answer, Error> {
        let done = if in_session {
            self.session.batch(batch).await?
        } else {
            self.client.batch(batch).await?
        };
        Ok(match done.failed_condition {
            None => Answer::Batch {
                revision: done.revision,
                deleted: Some(done.deleted),
            },
            Some(first) => Answer::ConditionFailed {
                first: Some(first as u32),
            },
        })
    }

    /// Reads and writes until nobody comes between.
    async fn change(&self, call: &Call, key: &Bytes, in_session: bool) -> End {
        for _ in 0..CHANGES_MAX {
            let (revision, old) = match self.client.get(key.clone()).await {
                Ok(got) => got.map_or((0, Bytes::new()), |got| (got.revision, got.value)),
                Err(error) if is_wrong(&error) => return End::Wrong(format!("{error:?}")),
                Err(_) => return End::Failed,
            };
            let Some(value) = workload::changed(call, &old) else {
                return End::Wrong(format!("{old:?} is no counter"));
            };
            let batch = WriteBatch::new()
                .if_revision(key.clone(), revision)
                .put(key.clone(), value.clone());
            match self.batch(batch, in_session).await {
                Ok(Answer::ConditionFailed { .. }) => {}
                Ok(_) if matches!(call, Call::Increment { .. }) => {
                    return End::Ok(Answer::Increment {
                        value: workload::number(&value),
                    });
                }
                done => return written(done.map(|_| Answer::Append)),
            }
        }
        End::Failed
    }

    async fn scan(&self, wish: &Wish) -> Result<Answer, Error> {
        let Call::Scan {
            start,
            end,
            reverse,
            level,
            ..
        } = &wish.call
        else {
            unreachable!("called for a scan");
        };
        let mut scan = self.client.scan(ScanOptions {
            start: start.clone(),
            end: end.clone(),
            page_rows: wish.page_rows,
            reverse: *reverse,
            consistency: consistency(*level),
            ..ScanOptions::default()
        });
        let (mut rows, mut pages) = (Vec::new(), 0);
        let mut next = None;
        while let Some(page) = scan.next_page().await? {
            pages += 1;
            if pages == PAGES_MAX {
                next = page.last().map(|row| match reverse {
                    true => row.key.clone(),
                    false => [&row.key[..], b"\0"].concat().into(),
                });
            }
            // These are no registers, and are read by calls of their own.
            let of_page = page
                .into_iter()
                .filter(|row| !workload::is_composite(&row.key) && !probe::is_probe(&row.key));
            rows.extend(of_page.map(|row| Row {
                key: row.key,
                value: Some(row.value),
                revision: row.revision,
            }));
            if next.is_some() {
                break;
            }
        }
        Ok(Answer::Scan { rows, next })
    }

    /// What the replica of one node has. Unknown if another process may have answered.
    async fn pinned(&self, node: usize, key: &Bytes, level: Level) -> End {
        let end = get_of(&self.nodes[node], key, level, PINNED_TIMEOUT).await;
        if level == Level::Replica(self.starts.of(node)) {
            end
        } else {
            End::Unknown
        }
    }
}

/// Errors that a correct request never meets, whatever happens to the cluster.
fn is_wrong(error: &Error) -> bool {
    matches!(
        error,
        Error::InvalidArgument { .. }
            | Error::CrossShard { .. }
            | Error::NotInitialized { .. }
            | Error::Internal { .. }
            | Error::Protocol { .. }
    )
}

/// How a write ended.
pub(crate) fn written(done: Result<Answer, Error>) -> End {
    match done {
        Ok(answer) => End::Ok(answer),
        Err(error) if is_wrong(&error) => End::Wrong(format!("{error:?}")),
        Err(error) if error.nothing_written() => End::Failed,
        Err(_) => End::Unknown,
    }
}

fn consistency(level: Level) -> Consistency {
    match level {
        Level::Linearizable => Consistency::Linearizable,
        Level::Serializable | Level::Monotonic | Level::Replica(_) => Consistency::Serializable,
    }
}

fn found(value: Value) -> Found {
    Found {
        value: value.value,
        revision: value.revision,
    }
}

fn batch(conditions: &[Condition], changes: &[Change]) -> WriteBatch {
    let mut batch = WriteBatch::new();
    for Condition { key, test } in conditions {
        batch = match test {
            Test::Exists(exists) => batch.if_exists(key.clone(), *exists),
            Test::ValueEquals(value) => batch.if_value(key.clone(), value.clone()),
            Test::RevisionEquals(revision) => batch.if_revision(key.clone(), *revision),
        };
    }
    for change in changes {
        batch = match change {
            Change::Put { key, value } => batch.put(key.clone(), value.clone()),
            Change::Delete { key } => batch.delete(key.clone()),
        };
    }
    batch
}
