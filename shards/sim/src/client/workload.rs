//! What clients go on asking for: the workloads of scenarios.md that fit the product of today, mixed as the seed says. It
//! draws operations of a history and nothing else, so that clients of real clusters can ask for the same.
//!
//! How lists and counters lie in keys is decided here too: a list is a value, its elements joined by commas; a counter is a
//! number in digits; both are changed by reading, and writing on the condition that nobody else has.

use std::sync::Arc;

use bytes::Bytes;
use fastrand::Rng;
use flotilla_history::{Answer, Call, Change, Condition, Found, Level, Test};
use flotilla_shards::range_map::RangeMap;

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

/// What a workload is like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mix {
    /// Kinds of loads, with their weights.
    pub loads: Vec<(Load, u32)>,
    /// Registers.
    pub keys: usize,
    /// Share of writes that are in sessions, in percent.
    pub sessions: u8,
    /// Ends all keys: workloads with other names have other keys.
    pub name: &'static str,
}

/// One operation that a client wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// As the history knows it.
    pub call: Call,
    /// Whether the write is to be made in a session.
    pub in_session: bool,
    /// The batch has keys of two shards, and must be refused.
    pub cross: bool,
    /// To be asked of this node alone, counted from 0, and once.
    pub pinned: Option<usize>,
    /// Rows of one page of a scan; 0: as many as the node gives.
    pub page_rows: u32,
}

impl Wish {
    fn write(call: Call, in_session: bool) -> Self {
        Self {
            call,
            in_session,
            cross: false,
            pinned: None,
            page_rows: 0,
        }
    }

    fn read(call: Call) -> Self {
        Self::write(call, false)
    }

    fn get(key: Bytes, level: Level) -> Self {
        Self::read(Call::Get { key, level })
    }

    /// Of keys that lie in one shard.
    fn batch_get(keys: Vec<Bytes>) -> Self {
        Self::read(Call::BatchGet {
            keys,
            level: Level::Linearizable,
            at_once: true,
        })
    }

    fn batch(conditions: Vec<Condition>, changes: Vec<Change>, in_session: bool) -> Self {
        let call = Call::Batch {
            conditions,
            changes,
        };
        Self::write(call, in_session)
    }
}

/// See the module.
#[derive(Debug)]
pub struct Workload {
    client: u64,
    count: u64,
    inserts: u64,
    appends: u64,
    mix: Mix,
    map: Arc<RangeMap>,
    /// Keys of registers.
    pub registers: Vec<Bytes>,
    /// Keys of lists.
    pub lists: Vec<Bytes>,
    /// Keys of counters.
    pub counters: Vec<Bytes>,
    /// Keys of accounts, all in one shard.
    pub accounts: Vec<Bytes>,
    /// What the last look at the accounts found.
    balances: Option<Vec<Option<Found>>>,
}

impl Workload {
    /// That of one client.
    ///
    /// # Panics
    /// If the map is empty.
    #[must_use]
    pub fn new(client: usize, mix: Mix, map: &Arc<RangeMap>) -> Self {
        let named = |kind: &str, count: usize| -> Vec<Bytes> {
            let shards = map.shards();
            (0..count)
                .map(|at| {
                    let shard = &shards[(at * 7 + 3) % shards.len()];
                    [
                        &shard.range.start()[..],
                        b"\0",
                        format!("{kind}{at}{}", mix.name).as_bytes(),
                    ]
                    .concat()
                    .into()
                })
                .collect()
        };
        let shard = &map.shards()[map.shards().len() / 2];
        let accounts = (0..4).map(|at| {
            let name = format!("account{at}{}", mix.name);
            Bytes::from([&shard.range.start()[..], b"\0", name.as_bytes()].concat())
        });
        Self {
            client: client as u64,
            count: 0,
            inserts: 0,
            appends: 0,
            registers: registers(&mix, map),
            lists: named("list", 3),
            counters: named("counter", 2),
            accounts: accounts.filter(|key| shard.range.contains(key)).collect(),
            balances: None,
            map: Arc::clone(map),
            mix,
        }
    }

    /// The total of all accounts.
    #[must_use]
    pub fn total(&self) -> u64 {
        BALANCE * self.accounts.len() as u64
    }

    /// What the client wants next.
    pub fn next(&mut self, rng: &mut Rng) -> Wish {
        self.count += 1;
        let sum: u32 = self.mix.loads.iter().map(|(_, weight)| weight).sum();
        let mut at = rng.u32(..sum);
        let mut load = Load::Register;
        for &(kind, weight) in &self.mix.loads {
            if at < weight {
                load = kind;
                break;
            }
            at -= weight;
        }
        let in_session = rng.u8(..100) < self.mix.sessions;
        match load {
            Load::Register => self.register(rng, in_session),
            Load::Append => {
                let list = pick(rng, &self.lists);
                if rng.bool() || self.appends >= APPENDS_MAX {
                    return Wish::read(Call::ReadList { list });
                }
                self.appends += 1;
                let element = format!("{}.{}", self.client, self.count);
                let session = in_session.then_some((self.client, self.count));
                let call = Call::Append {
                    list,
                    element: element.into(),
                    session,
                };
                Wish::write(call, in_session)
            }
            Load::Counter => {
                let counter = pick(rng, &self.counters);
                if rng.bool() {
                    Wish::read(Call::ReadCounter { counter })
                } else {
                    Wish::write(Call::Increment { counter }, in_session)
                }
            }
            Load::Bank => self.bank(rng, in_session),
            Load::Set if self.inserts < INSERTS_MAX => {
                self.inserts += 1;
                let shards = self.map.shards();
                let start = shards[rng.usize(..shards.len())].range.start();
                let name = format!("set{}.{}{}", self.client, self.inserts, self.mix.name);
                let key = [&start[..], b"\0", name.as_bytes()].concat();
                let call = Call::Put {
                    key: key.into(),
                    value: self.value(),
                };
                Wish::write(call, in_session)
            }
            Load::Set | Load::Scan => self.scan(rng),
            Load::Mono => self.pinned(rng),
        }
    }

    /// Reads of everything that was written.
    pub fn last(&self) -> impl Iterator<Item = Wish> {
        let registers = self.registers.iter().cloned();
        let gets = registers.map(|key| Wish::get(key, Level::Linearizable));
        let lists = self.lists.iter().cloned();
        let counters = self.counters.iter().cloned();
        let scan = |reverse| {
            Wish::read(Call::Scan {
                start: Bytes::new(),
                end: Bytes::new(),
                reverse,
                level: Level::Linearizable,
                at_once: false,
            })
        };
        gets.chain(lists.map(|list| Wish::read(Call::ReadList { list })))
            .chain(counters.map(|counter| Wish::read(Call::ReadCounter { counter })))
            .chain([Wish::batch_get(self.accounts.clone())])
            .chain([scan(false), scan(true)])
    }

    fn value(&self) -> Bytes {
        format!("{}-{}", self.client, self.count).into()
    }

    fn register(&self, rng: &mut Rng, in_session: bool) -> Wish {
        let key = pick(rng, &self.registers);
        match rng.u8(..20) {
            0..7 => {
                let value = self.value();
                Wish::write(Call::Put { key, value }, in_session)
            }
            7 => Wish::write(Call::Delete { key }, in_session),
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
                Wish::batch(vec![Condition { key, test }], vec![change], in_session)
            }
            9 => Wish::get(key, Level::Serializable),
            10 => {
                let shard = self.map.lookup(&key).map(|found| found.shard);
                let beside = self
                    .registers
                    .iter()
                    .filter(|other| self.map.lookup(other).map(|found| found.shard) == shard);
                Wish::batch_get(beside.take(3).cloned().collect())
            }
            _ => Wish::get(key, Level::Linearizable),
        }
    }

    fn bank(&mut self, rng: &mut Rng, in_session: bool) -> Wish {
        if rng.u8(..16) == 0
            && let Some(other) = self.elsewhere(rng)
        {
            let put = |key: &Bytes| Change::Put {
                key: key.clone(),
                value: self.value(),
            };
            let changes = vec![put(&self.accounts[0]), put(&other)];
            return Wish {
                cross: true,
                ..Wish::batch(Vec::new(), changes, false)
            };
        }
        let Some(balances) = self.balances.take() else {
            return Wish::batch_get(self.accounts.clone());
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
            return Wish::batch(conditions.collect(), changes.collect(), in_session);
        };
        let from = rng.usize(..found.len());
        let to = (from + 1 + rng.usize(..found.len() - 1)) % found.len();
        let (rich, poor) = (balance(&found[from]), balance(&found[to]));
        let moved = rng.u64(..=rich);
        let condition = |at: usize| Condition {
            key: self.accounts[at].clone(),
            test: Test::RevisionEquals(found[at].revision),
        };
        Wish::batch(
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

    fn scan(&self, rng: &mut Rng) -> Wish {
        let level = if rng.u8(..5) == 0 {
            Level::Serializable
        } else {
            Level::Linearizable
        };
        let reverse = rng.u8(..3) == 0;
        let shards = self.map.shards();
        let shard = &shards[rng.usize(..shards.len())].range;
        let (start, end) = (shard.start().clone(), shard.end().clone());
        let scan = |(start, end), at_once, page_rows| Wish {
            page_rows,
            ..Wish::read(Call::Scan {
                start,
                end,
                reverse,
                level,
                at_once,
            })
        };
        if rng.u8(..3) > 0 {
            return scan((start, end), true, 0);
        }
        // Over shards, in pages that may be tiny.
        let page_rows = *[0, 1, 3].get(rng.usize(..3)).unwrap_or(&0);
        let range = if rng.bool() {
            (start, Bytes::new())
        } else {
            (Bytes::new(), end)
        };
        scan(range, false, page_rows)
    }

    /// What the replica of one node has; who asks has to say which start of the node answered.
    fn pinned(&self, rng: &mut Rng) -> Wish {
        let key = pick(rng, &self.registers);
        let mut wish = Wish::get(key.clone(), Level::Serializable);
        if let Some(shard) = self.map.lookup(&key) {
            let replica = &shard.replicas[rng.usize(..shard.replicas.len())];
            wish.pinned = Some((replica.node.0 - 1) as usize);
        }
        wish
    }

    /// Takes note of an answer. Returns what is wrong with it as far as one answer can tell.
    pub fn observe(&mut self, call: &Call, answer: &Answer) -> Option<String> {
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

/// What a list or counter becomes by an append or increment. Nothing if the value is none of the kind.
#[must_use]
pub fn changed(call: &Call, old: &Bytes) -> Option<Bytes> {
    match call {
        Call::Append { element, .. } if old.is_empty() => Some(element.clone()),
        Call::Append { element, .. } => Some([&old[..], b",", element].concat().into()),
        Call::Increment { .. } => Some((number(old)? + 1).to_string().into()),
        _ => None,
    }
}

/// The elements of a list's value.
#[must_use]
pub fn elements(value: &Bytes) -> Vec<Bytes> {
    if value.is_empty() {
        return Vec::new();
    }
    let parts = value.split(|byte| *byte == b',');
    parts.map(|part| value.slice_ref(part)).collect()
}

/// The number in a counter's value; 0 if there is none. Nothing if it is no number.
#[must_use]
pub fn number(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return Some(0);
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// Whether a key holds a list or a counter.
#[must_use]
pub fn is_composite(key: &[u8]) -> bool {
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
fn registers(mix: &Mix, map: &RangeMap) -> Vec<Bytes> {
    let shards = map.shards();
    let mut keys: Vec<Bytes> = Vec::new();
    for at in 0..mix.keys {
        let shard = &shards[at * shards.len() / mix.keys % shards.len()];
        let mut key = shard.range.start().to_vec();
        if at % 2 == 1
            && let Some(last) = key.last_mut()
        {
            // The last byte is not 0 (see `even_split`): this lies just below.
            *last -= 1;
            key.push(0xff);
        }
        key.extend_from_slice(mix.name.as_bytes());
        if key.is_empty() || keys.iter().any(|known| known[..] == key[..]) {
            key.extend_from_slice(format!("k{at}").as_bytes());
        }
        keys.push(key.into());
    }
    keys
}
