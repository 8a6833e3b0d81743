//! What clients go on asking for: the workloads of scenarios.md that fit the product of today, mixed as the seed says.

use std::sync::Arc;

use bytes::Bytes;
use fastrand::Rng;
use flotilla_history::{Answer, Call, Change, Condition, Found, Level, Test};
use flotilla_shards::range_map::RangeMap;

use super::task::Task;
use crate::settings::Settings;

/// What an account holds in the beginning.
const BALANCE: u64 = 100;
/// Keys that each client inserts at most, so that scans stay short.
const INSERTS_MAX: u64 = 10;
/// Elements that each client appends at most: each append writes the whole list.
const APPENDS_MAX: u64 = 40;

/// Kinds of workloads, each with a weight of its own in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// W-REG: gets, puts, deletes and conditional batches of a few keys with unique values.
    Register,
    /// W-APPEND: lists that everybody appends to.
    Append,
    /// W-CTR: counters that everybody increments.
    Counter,
    /// W-BANK: money that moves between accounts of one shard; batches over two shards.
    Bank,
    /// W-SET: keys that are only inserted.
    Set,
    /// W-SCAN: scans of everything, of a shard, or of some keys, forward and back.
    Scan,
    /// W-MONO: serializable reads of one replica.
    Mono,
}

impl Load {
    /// All kinds.
    pub const ALL: [Self; 7] = [
        Self::Register,
        Self::Append,
        Self::Counter,
        Self::Bank,
        Self::Set,
        Self::Scan,
        Self::Mono,
    ];
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Workload {
    client: u64,
    count: u64,
    inserts: u64,
    appends: u64,
    loads: Vec<(Load, u32)>,
    sessions: u8,
    map: Arc<RangeMap>,
    pub(crate) registers: Vec<Bytes>,
    pub(crate) lists: Vec<Bytes>,
    pub(crate) counters: Vec<Bytes>,
    pub(crate) accounts: Vec<Bytes>,
    /// What the last look at the accounts found.
    balances: Option<Vec<Option<Found>>>,
}

impl Workload {
    pub(crate) fn new(client: usize, settings: &Settings, map: &Arc<RangeMap>) -> Self {
        let named = |kind: &str, count: usize| -> Vec<Bytes> {
            let shards = map.shards();
            (0..count)
                .map(|at| {
                    let shard = &shards[(at * 7 + 3) % shards.len()];
                    [
                        &shard.range.start()[..],
                        b"\0",
                        format!("{kind}{at}").as_bytes(),
                    ]
                    .concat()
                    .into()
                })
                .collect()
        };
        let shard = &map.shards()[map.shards().len() / 2];
        let accounts = (0..4).map(|at| {
            let name = format!("account{at}");
            Bytes::from([&shard.range.start()[..], b"\0", name.as_bytes()].concat())
        });
        Self {
            client: client as u64,
            count: 0,
            inserts: 0,
            appends: 0,
            loads: settings.loads.clone(),
            sessions: settings.sessions,
            registers: registers(settings, map),
            lists: named("list", 3),
            counters: named("counter", 2),
            accounts: accounts.filter(|key| shard.range.contains(key)).collect(),
            balances: None,
            map: Arc::clone(map),
        }
    }

    /// The total of all accounts.
    pub(crate) fn total(&self) -> u64 {
        BALANCE * self.accounts.len() as u64
    }

    pub(crate) fn next(&mut self, rng: &mut Rng) -> Task {
        self.count += 1;
        let sum: u32 = self.loads.iter().map(|(_, weight)| weight).sum();
        let mut at = rng.u32(..sum);
        let mut load = Load::Register;
        for &(kind, weight) in &self.loads {
            if at < weight {
                load = kind;
                break;
            }
            at -= weight;
        }
        let in_session = rng.u8(..100) < self.sessions;
        match load {
            Load::Register => self.register(rng, in_session),
            Load::Append => {
                let list = pick(rng, &self.lists);
                if rng.bool() || self.appends >= APPENDS_MAX {
                    return Task::read_list(list);
                }
                self.appends += 1;
                let element = format!("{}.{}", self.client, self.count);
                let session = in_session.then_some((self.client, self.count));
                Task::append(list, element.into(), session)
            }
            Load::Counter => {
                let counter = pick(rng, &self.counters);
                if rng.bool() {
                    Task::read_counter(counter)
                } else {
                    Task::increment(counter, in_session)
                }
            }
            Load::Bank => self.bank(rng, in_session),
            Load::Set if self.inserts < INSERTS_MAX => {
                self.inserts += 1;
                let shards = self.map.shards();
                let start = shards[rng.usize(..shards.len())].range.start();
                let name = format!("set{}.{}", self.client, self.inserts);
                let key = [&start[..], b"\0", name.as_bytes()].concat();
                Task::put(key.into(), self.value(), in_session)
            }
            Load::Set | Load::Scan => self.scan(rng),
            Load::Mono => self.pinned(rng),
        }
    }

    fn value(&self) -> Bytes {
        format!("{}-{}", self.client, self.count).into()
    }

    fn register(&self, rng: &mut Rng, in_session: bool) -> Task {
        let key = pick(rng, &self.registers);
        match rng.u8(..20) {
            0..7 => Task::put(key, self.value(), in_session),
            7 => Task::delete(key, in_session),
            8 => {
                let test = match rng.u8(..3) {
                    0 => Test::Exists(rng.bool()),
                    1 => Test::RevisionEquals(0),
                    _ => Test::ValueEquals(format!("{}-{}", self.client, self.count / 2).into()),
                };
                let change = Change::Put {
                    key: key.clone(),
                    value: self.value(),
                };
                Task::batch(vec![Condition { key, test }], vec![change], in_session)
            }
            9 => Task::get(key, Level::Serializable),
            10 => {
                let shard = self.map.lookup(&key).map(|found| found.shard);
                let beside = self
                    .registers
                    .iter()
                    .filter(|other| self.map.lookup(other).map(|found| found.shard) == shard);
                Task::batch_get(beside.take(3).cloned().collect(), Level::Linearizable)
            }
            _ => Task::get(key, Level::Linearizable),
        }
    }

    fn bank(&mut self, rng: &mut Rng, in_session: bool) -> Task {
        if rng.u8(..16) == 0
            && let Some(other) = self.elsewhere(rng)
        {
            let put = |key: &Bytes| Change::Put {
                key: key.clone(),
                value: self.value(),
            };
            return Task::cross(vec![put(&self.accounts[0]), put(&other)]);
        }
        let Some(balances) = self.balances.take() else {
            return Task::batch_get(self.accounts.clone(), Level::Linearizable);
        };
        let put = |key: &Bytes, balance: u64| Change::Put {
            key: key.clone(),
            // The writer's mark makes values unique, which makes histories easy to judge.
            value: format!("{balance}:{}.{}", self.client, self.count).into(),
        };
        let found: Option<Vec<Found>> = balances.into_iter().collect();
        let Some(found) = found else {
            let conditions = self.accounts.iter().map(|key| Condition {
                key: key.clone(),
                test: Test::Exists(false),
            });
            let changes = self.accounts.iter().map(|key| put(key, BALANCE));
            return Task::batch(conditions.collect(), changes.collect(), in_session);
        };
        let from = rng.usize(..found.len());
        let to = (from + 1 + rng.usize(..found.len() - 1)) % found.len();
        let (rich, poor) = (balance(&found[from]), balance(&found[to]));
        let moved = rng.u64(..=rich);
        let condition = |at: usize| Condition {
            key: self.accounts[at].clone(),
            test: Test::RevisionEquals(found[at].revision),
        };
        Task::batch(
            vec![condition(from), condition(to)],
            vec![
                put(&self.accounts[from], rich - moved),
                put(&self.accounts[to], poor + moved),
            ],
            in_session,
        )
    }

    /// A key of another shard than that of the accounts.
    fn elsewhere(&self, rng: &mut Rng) -> Option<Bytes> {
        let shard = self.map.lookup(&self.accounts[0])?.shard;
        let key = pick(rng, &self.registers);
        (self.map.lookup(&key)?.shard != shard).then_some(key)
    }

    fn scan(&self, rng: &mut Rng) -> Task {
        let level = if rng.u8(..5) == 0 {
            Level::Serializable
        } else {
            Level::Linearizable
        };
        let reverse = rng.u8(..3) == 0;
        let shards = self.map.shards();
        let shard = &shards[rng.usize(..shards.len())].range;
        let (start, end) = (shard.start().clone(), shard.end().clone());
        if rng.u8(..3) > 0 {
            return Task::scan((start, end), reverse, level, true, 0);
        }
        // Over shards, in pages that may be tiny.
        let limit = *[0, 1, 3].get(rng.usize(..3)).unwrap_or(&0);
        let range = if rng.bool() {
            (start, Bytes::new())
        } else {
            (Bytes::new(), end)
        };
        Task::scan(range, reverse, level, false, limit)
    }

    /// What the replica of one node has; who asks has to say which start of the node answered.
    fn pinned(&self, rng: &mut Rng) -> Task {
        let key = pick(rng, &self.registers);
        let mut task = Task::get(key.clone(), Level::Serializable);
        if let Some(shard) = self.map.lookup(&key) {
            let replica = &shard.replicas[rng.usize(..shard.replicas.len())];
            task.pinned = Some((replica.node.0 - 1) as usize);
        }
        task
    }

    /// Takes note of an answer. Returns what is wrong with it as far as one answer can tell.
    pub(crate) fn observe(&mut self, call: &Call, answer: &Answer) -> Option<String> {
        let (Call::BatchGet { keys, .. }, Answer::BatchGet(found)) = (call, answer) else {
            return None;
        };
        if *keys != self.accounts {
            return None;
        }
        let sum: u64 = found.iter().flatten().map(balance).sum();
        let missing = found.iter().filter(|found| found.is_none()).count();
        self.balances = Some(found.clone());
        let right = missing == found.len() || (missing == 0 && sum == self.total());
        (!right).then(|| {
            format!(
                "the accounts hold {sum} and {missing} are missing, expected {}: {found:?}",
                self.total()
            )
        })
    }
}

/// Whether a key holds a list or a counter.
pub(crate) fn is_composite(key: &[u8]) -> bool {
    ["\0list", "\0counter"]
        .iter()
        .any(|mark| key.windows(mark.len()).any(|part| part == mark.as_bytes()))
}

fn balance(found: &Found) -> u64 {
    let digits = found.value.split(|byte| *byte == b':').next();
    digits
        .and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok())
        .unwrap_or_default()
}

fn pick(rng: &mut Rng, keys: &[Bytes]) -> Bytes {
    keys[rng.usize(..keys.len())].clone()
}

/// Keys that hug the borders of shards: the first key of a shard and one just before it.
fn registers(settings: &Settings, map: &RangeMap) -> Vec<Bytes> {
    let shards = map.shards();
    let mut keys: Vec<Bytes> = Vec::new();
    for at in 0..settings.keys {
        let shard = &shards[at * shards.len() / settings.keys % shards.len()];
        let mut key = shard.range.start().to_vec();
        if at % 2 == 1
            && let Some(last) = key.last_mut()
        {
            // The last byte is not 0 (see `even_split`): this lies just below.
            *last -= 1;
            key.push(0xff);
        }
        if key.is_empty() || keys.iter().any(|known| known[..] == key[..]) {
            key.extend_from_slice(format!("k{at}").as_bytes());
        }
        keys.push(key.into());
    }
    keys
}
