//! A linearizable store with concurrent clients: every operation takes effect at one moment between its call and its return.
//! What it makes is true by construction.

use crate::script::{Script, found, get, put};
use bytes::Bytes;
use fastrand::Rng;
use flotilla_history::{Answer, Call, Change, Condition, Found, Level, Row, Test};
use std::collections::BTreeMap;

/// What clients do. Each kind of operation has a weight.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mix {
    pub(crate) clients: usize,
    pub(crate) operations: usize,
    /// Keys that are read, written and deleted.
    pub(crate) keys: usize,
    /// Of 100 writes, how many are left without an answer, and how many fail.
    pub(crate) unknown: u32,
    pub(crate) failed: u32,
    pub(crate) puts: u32,
    pub(crate) gets: u32,
    pub(crate) deletes: u32,
    pub(crate) cas: u32,
    /// Pairs of keys that are written and read together.
    pub(crate) pairs: u32,
    pub(crate) scans: u32,
    pub(crate) weak: u32,
    pub(crate) appends: u32,
    pub(crate) increments: u32,
    pub(crate) revisions: bool,
}

impl Mix {
    pub(crate) const EVERYTHING: Self = Self {
        clients: 6,
        operations: 220,
        keys: 4,
        unknown: 4,
        failed: 4,
        puts: 20,
        gets: 25,
        deletes: 5,
        cas: 15,
        pairs: 8,
        scans: 4,
        weak: 10,
        appends: 8,
        increments: 8,
        revisions: true,
    };

    /// Reads and writes alone: what zones are for.
    pub(crate) const REGISTERS: Self = Self {
        deletes: 0,
        cas: 0,
        pairs: 0,
        scans: 0,
        weak: 0,
        appends: 0,
        increments: 0,
        ..Self::EVERYTHING
    };
}

/// Keys that are written in the beginning and never deleted.
const ANCHORS: usize = 8;
/// Replicas that lag behind.
const REPLICAS: usize = 2;

type Data = BTreeMap<Bytes, (Bytes, u64)>;

/// A change that a replica has yet to apply.
type Applied = (Bytes, Option<(Bytes, u64)>);

struct Store<'a> {
    rng: &'a mut Rng,
    mix: Mix,
    data: Data,
    log: Vec<Applied>,
    replicas: Vec<(usize, Data)>,
    revision: u64,
    lists: BTreeMap<Bytes, Vec<Bytes>>,
    counters: BTreeMap<Bytes, u64>,
    next_value: u64,
    /// Values that each key had or nearly had.
    values: BTreeMap<Bytes, Vec<Bytes>>,
}

struct Flight {
    op: usize,
    answer: Option<Answer>,
    /// Never answers.
    lost: bool,
    /// Never happens.
    never: bool,
}

pub(crate) fn key(at: usize) -> Bytes {
    format!("k{at}").into()
}

pub(crate) fn anchor(at: usize) -> Bytes {
    format!("s{at:02}").into()
}

pub(crate) fn pair() -> [Bytes; 2] {
    ["p-left".into(), "p-right".into()]
}

pub(crate) fn list() -> Bytes {
    "list".into()
}

pub(crate) fn counter() -> Bytes {
    "counter".into()
}

/// Lets clients run. In the end everything is read once more, with nothing else under way.
pub(crate) fn run(rng: &mut Rng, mix: Mix) -> Script {
    let mut script = Script::default();
    let mut store = Store {
        rng,
        mix,
        data: Data::new(),
        log: Vec::new(),
        replicas: vec![(0, Data::new()); REPLICAS],
        revision: 0,
        lists: BTreeMap::new(),
        counters: BTreeMap::new(),
        next_value: 0,
        values: BTreeMap::new(),
    };
    for call in store.beginning() {
        let op = script.invoke(0, call.clone());
        let answer = store.apply(&call);
        script.ok(op, answer);
    }
    let mut flights: Vec<Option<Flight>> = (0..mix.clients).map(|_| None).collect();
    // A client whose operation got no answer goes on as another process.
    let mut processes: Vec<u64> = (1..).take(mix.clients).collect();
    let mut sequences: BTreeMap<u64, u64> = BTreeMap::new();
    let mut left = mix.operations;
    while left > 0 || flights.iter().any(Option::is_some) {
        let client = store.rng.usize(..mix.clients);
        store.replicate();
        let Some(flight) = &mut flights[client] else {
            if left > 0 {
                left -= 1;
                let process = processes[client];
                let call = store.call(process, &mut sequences);
                let writes = !matches!(
                    call,
                    Call::Get { .. }
                        | Call::BatchGet { .. }
                        | Call::Scan { .. }
                        | Call::ReadList { .. }
                        | Call::ReadCounter { .. }
                );
                let fate = store.rng.u32(..100);
                let lost = writes && fate < mix.unknown;
                let failed = writes && (mix.unknown..mix.unknown + mix.failed).contains(&fate);
                let op = script.invoke(process, call);
                flights[client] = Some(Flight {
                    op,
                    answer: None,
                    lost,
                    never: failed || (lost && store.rng.bool()),
                });
            }
            continue;
        };
        if flight.never {
            if !flight.lost {
                script.failed(flight.op);
            }
            if flight.lost {
                processes[client] += mix.clients as u64;
            }
            flights[client] = None;
        } else if let Some(answer) = flight.answer.take() {
            if flight.lost {
                processes[client] += mix.clients as u64;
            } else {
                script.ok(flight.op, answer);
            }
            flights[client] = None;
        } else {
            let call = script.ops[flight.op].call.clone();
            flight.answer = Some(store.apply(&call));
        }
    }
    for call in store.end() {
        let op = script.invoke(0, call.clone());
        let answer = store.apply(&call);
        script.ok(op, answer);
    }
    script
}

impl Store<'_> {
    fn beginning(&mut self) -> Vec<Call> {
        let mut calls = Vec::new();
        if self.mix.scans > 0 {
            for at in 0..ANCHORS {
                let value = self.fresh(&anchor(at));
                calls.push(put(&anchor(at), &value));
            }
        }
        calls
    }

    fn end(&mut self) -> Vec<Call> {
        let mut calls: Vec<Call> = (0..self.mix.keys).map(|at| get(&key(at))).collect();
        if self.mix.pairs > 0 {
            calls.push(Call::BatchGet {
                keys: pair().into(),
                level: Level::Linearizable,
                at_once: true,
            });
        }
        if self.mix.scans > 0 {
            calls.push(scan(false));
        }
        if self.mix.appends > 0 {
            calls.push(Call::ReadList { list: list() });
        }
        if self.mix.increments > 0 {
            calls.push(Call::ReadCounter { counter: counter() });
        }
        calls
    }

    fn fresh(&mut self, key: &Bytes) -> Bytes {
        self.next_value += 1;
        let value = Bytes::from(format!("v{}", self.next_value));
        self.values
            .entry(key.clone())
            .or_default()
            .push(value.clone());
        value
    }

    fn replicate(&mut self) {
        for (applied, data) in &mut self.replicas {
            if *applied < self.log.len() && self.rng.u8(..4) == 0 {
                match &self.log[*applied] {
                    (key, Some(row)) => data.insert(key.clone(), row.clone()),
                    (key, None) => data.remove(key),
                };
                *applied += 1;
            }
        }
    }

    fn call(&mut self, process: u64, sequences: &mut BTreeMap<u64, u64>) -> Call {
        let mix = self.mix;
        let weights = [
            mix.puts,
            mix.gets,
            mix.deletes,
            mix.cas,
            mix.pairs,
            mix.scans,
            mix.weak,
            mix.appends,
            mix.increments,
        ];
        let mut pick = self.rng.u32(..weights.iter().sum::<u32>());
        let kind = weights
            .iter()
            .position(|weight| {
                let here = pick < *weight;
                pick = pick.saturating_sub(*weight);
                here
            })
            .expect("a pick is below the sum");
        let key = key(self.rng.usize(..mix.keys));
        match kind {
            0 if mix.scans > 0 && self.rng.u8(..4) == 0 => {
                let key = anchor(self.rng.usize(..ANCHORS));
                let value = self.fresh(&key);
                put(&key, &value)
            }
            0 => {
                let value = self.fresh(&key);
                put(&key, &value)
            }
            1 => get(&key),
            2 => Call::Delete { key },
            3 => self.cas(key),
            4 if self.rng.bool() => Call::BatchGet {
                keys: pair().into(),
                level: Level::Linearizable,
                at_once: true,
            },
            4 => {
                let changes = pair().map(|key| Change::Put {
                    value: self.fresh(&key),
                    key,
                });
                Call::Batch {
                    conditions: Vec::new(),
                    changes: changes.into(),
                }
            }
            5 => scan(self.rng.bool()),
            6 => {
                let level = match self.rng.u8(..3) {
                    0 => Level::Serializable,
                    1 => Level::Monotonic,
                    _ => Level::Replica(self.rng.u64(..REPLICAS as u64)),
                };
                // Reads that claim not to go back are easiest to follow where nothing is deleted.
                let key = anchor(self.rng.usize(..ANCHORS));
                Call::Get { key, level }
            }
            7 if self.rng.u8(..3) == 0 => Call::ReadList { list: list() },
            7 => {
                let sequence = sequences.entry(process).or_default();
                *sequence += 1;
                Call::Append {
                    list: list(),
                    element: format!("{process}.{sequence}").into(),
                    session: Some((process, *sequence)),
                }
            }
            _ if self.rng.u8(..3) == 0 => Call::ReadCounter { counter: counter() },
            _ => Call::Increment { counter: counter() },
        }
    }

    fn cas(&mut self, key: Bytes) -> Call {
        let now = self.data.get(&key).cloned();
        let old = self.values.get(&key).cloned().unwrap_or_default();
        let test = match (self.rng.u8(..6), now) {
            (0, _) => Test::Exists(self.rng.bool()),
            (1, Some((_, revision))) if self.mix.revisions => Test::RevisionEquals(revision),
            (2, _) if !old.is_empty() => {
                Test::ValueEquals(old[self.rng.usize(..old.len())].clone())
            }
            (_, Some((value, _))) => Test::ValueEquals(value),
            (_, None) => Test::Exists(false),
        };
        let value = self.fresh(&key);
        Call::Batch {
            conditions: vec![Condition {
                key: key.clone(),
                test,
            }],
            changes: vec![Change::Put { key, value }],
        }
    }

    fn write(&mut self, key: &Bytes, value: Option<&Bytes>) -> bool {
        let row = value.map(|value| (value.clone(), self.revision));
        self.log.push((key.clone(), row.clone()));
        match row {
            Some(row) => self.data.insert(key.clone(), row).is_some(),
            None => self.data.remove(key).is_some(),
        }
    }

    fn told(&self, revision: u64) -> u64 {
        if self.mix.revisions { revision } else { 0 }
    }

    fn found(&self, row: Option<&(Bytes, u64)>) -> Option<Found> {
        row.map(|(value, revision)| found(value, self.told(*revision)))
    }

    fn apply(&mut self, call: &Call) -> Answer {
        match call {
            Call::Get { key, level } => {
                let replica = match level {
                    Level::Linearizable | Level::Monotonic => None,
                    Level::Serializable => Some(self.rng.usize(..REPLICAS)),
                    Level::Replica(replica) => Some(usize::try_from(*replica).expect("small")),
                };
                let data = replica.map_or(&self.data, |replica| &self.replicas[replica].1);
                Answer::Get(self.found(data.get(key)))
            }
            Call::BatchGet { keys, .. } => {
                let answers = keys.iter().map(|key| self.found(self.data.get(key)));
                Answer::BatchGet(answers.collect())
            }
            Call::Put { key, value } => {
                self.revision += 1;
                self.write(key, Some(value));
                Answer::Put {
                    revision: self.told(self.revision),
                }
            }
            Call::Delete { key } => {
                let deleted = self.data.contains_key(key);
                if deleted {
                    self.revision += 1;
                    self.write(key, None);
                }
                Answer::Delete {
                    deleted,
                    revision: self.told(self.revision),
                }
            }
            Call::Batch {
                conditions,
                changes,
            } => {
                let failed = conditions.iter().position(|condition| {
                    let row = self.data.get(&condition.key);
                    !match &condition.test {
                        Test::Exists(exists) => row.is_some() == *exists,
                        Test::ValueEquals(value) => row.is_some_and(|(of, _)| of == value),
                        Test::RevisionEquals(revision) => row.map_or(0, |(_, of)| *of) == *revision,
                    }
                });
                if let Some(first) = failed {
                    return Answer::ConditionFailed {
                        first: Some(u32::try_from(first).expect("few conditions")),
                    };
                }
                self.revision += 1;
                let mut deleted = 0;
                for change in changes {
                    match change {
                        Change::Put { key, value } => drop(self.write(key, Some(value))),
                        Change::Delete { key } => deleted += u64::from(self.write(key, None)),
                    }
                }
                Answer::Batch {
                    revision: self.told(self.revision),
                    deleted: Some(deleted),
                }
            }
            Call::Scan {
                start,
                end,
                reverse,
                ..
            } => {
                let range = self.data.range(start.clone()..end.clone());
                let mut rows: Vec<Row> = range
                    .map(|(key, (value, revision))| Row {
                        key: key.clone(),
                        value: Some(value.clone()),
                        revision: self.told(*revision),
                    })
                    .collect();
                if *reverse {
                    rows.reverse();
                }
                Answer::Scan { rows, next: None }
            }
            Call::Append { list, element, .. } => {
                let list = self.lists.entry(list.clone()).or_default();
                list.push(element.clone());
                Answer::Append
            }
            Call::ReadList { list } => {
                Answer::ReadList(self.lists.get(list).cloned().unwrap_or_default())
            }
            Call::Increment { counter } => {
                let value = self.counters.entry(counter.clone()).or_default();
                *value += 1;
                Answer::Increment {
                    value: self.rng.bool().then_some(*value),
                }
            }
            Call::ReadCounter { counter } => {
                Answer::ReadCounter(self.counters.get(counter).copied().unwrap_or_default())
            }
        }
    }
}

/// A scan over the anchors.
fn scan(reverse: bool) -> Call {
    Call::Scan {
        start: "s".into(),
        end: "t".into(),
        reverse,
        level: Level::Linearizable,
        at_once: false,
    }
}
