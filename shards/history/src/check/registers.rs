//! Keys as registers: reads, writes and conditional batches, cut into components that can be judged one by one.
//!
//! Linearizability is local (Herlihy and Wing 1990, theorem 1), so each key may be judged alone. A batch touches several
//! keys at once, as do reads of one moment: keys that are connected by such operations form one object.

use super::step::{ByValue, Component, Expect, KeyAt, Seen, Step, Version, VersionInfo};
use crate::history::History;
use crate::operation::{Answer, Call, Change, Level, OpId, Operation, Row, Test};
use bytes::Bytes;
use smallvec::{SmallVec, smallvec};
use std::collections::{BTreeMap, BTreeSet};

/// Components of a history, with the keys of each.
pub(super) struct Registers {
    /// All keys that register operations name or found, sorted.
    keys: Vec<Bytes>,
    /// Keys (as numbers in `keys`) and what happened to them.
    pub components: Vec<(Vec<u32>, Component)>,
}

/// What a step saw, by key.
type Tests = SmallVec<[(u32, Seen); 2]>;
/// What was written, by key: a value and its revision, or nothing for a delete.
type Written = SmallVec<[(u32, Option<(u32, u64)>); 2]>;

/// A step before keys are numbered within a component and versions are known.
struct Raw {
    op: OpId,
    invoked: u64,
    returned: u64,
    tests: Tests,
    expect: Expect,
    changes: Written,
    deleted: Option<u64>,
    revision: u64,
}

impl Registers {
    /// Takes all linearizable register operations out of a history.
    pub(super) fn new(history: &History) -> Self {
        let mut reader = Reader {
            keys: all_keys(history),
            values: BTreeMap::new(),
            raws: Vec::new(),
        };
        for operation in history.operations() {
            if !operation.failed() {
                reader.operation(operation);
            }
        }
        let Reader { keys, raws, .. } = reader;
        let components = connect(keys.len(), raws);
        Self { keys, components }
    }

    /// Names of a component's keys.
    pub(super) fn names(&self, keys: &[u32]) -> Vec<Bytes> {
        keys.iter()
            .map(|key| self.keys[*key as usize].clone())
            .collect()
    }
}

fn all_keys(history: &History) -> Vec<Bytes> {
    let mut keys = BTreeSet::new();
    for operation in history.operations() {
        match &operation.call {
            Call::Get { key, .. } | Call::Put { key, .. } | Call::Delete { key } => {
                keys.insert(key);
            }
            Call::BatchGet { keys: several, .. } => keys.extend(several),
            Call::Batch {
                conditions,
                changes,
            } => {
                keys.extend(conditions.iter().map(|condition| &condition.key));
                keys.extend(changes.iter().map(Change::key));
            }
            Call::Scan { .. } => {
                if let Some(Answer::Scan { rows, .. }) = operation.answer() {
                    keys.extend(rows.iter().map(|row| &row.key));
                }
            }
            Call::Append { .. }
            | Call::ReadList { .. }
            | Call::Increment { .. }
            | Call::ReadCounter { .. } => {}
        }
    }
    keys.into_iter().cloned().collect()
}

/// The part of a scan's range that its answer speaks of: start, and end unless that is the end of the keyspace.
pub(super) fn covered<'a>(
    start: &'a Bytes,
    end: &'a Bytes,
    reverse: bool,
    next: Option<&'a Bytes>,
) -> (&'a Bytes, Option<&'a Bytes>) {
    let end = Some(end).filter(|end| !end.is_empty());
    match next {
        None => (start, end),
        Some(next) if reverse => (next, end),
        Some(next) => (start, Some(next)),
    }
}

struct Reader {
    keys: Vec<Bytes>,
    values: BTreeMap<Bytes, u32>,
    raws: Vec<Raw>,
}

impl Reader {
    fn key(&self, key: &Bytes) -> u32 {
        let at = self
            .keys
            .binary_search(key)
            .expect("all keys of the history were collected");
        u32::try_from(at).expect("keys are counted in 32 bits")
    }

    fn value(&mut self, value: &Bytes) -> u32 {
        let next = u32::try_from(self.values.len()).expect("values are counted in 32 bits");
        match self.values.get(value) {
            Some(number) => *number,
            None => {
                self.values.insert(value.clone(), next);
                next
            }
        }
    }

    fn push(&mut self, operation: &Operation, raw: Raw) {
        self.raws.push(Raw {
            op: operation.id,
            invoked: operation.invoked.order,
            returned: operation.return_order(),
            revision: match operation.answer() {
                Some(
                    Answer::Put { revision }
                    | Answer::Delete { revision, .. }
                    | Answer::Batch { revision, .. },
                ) => *revision,
                _ => 0,
            },
            ..raw
        });
    }

    fn read(&mut self, operation: &Operation, tests: Tests) {
        if !tests.is_empty() {
            self.push(operation, raw(tests, Expect::All, smallvec![], None));
        }
    }

    fn found(&mut self, found: Option<&crate::operation::Found>) -> Seen {
        match found {
            None => Seen::Exists(false),
            Some(found) => Seen::Value(self.value(&found.value), found.revision),
        }
    }

    fn operation(&mut self, operation: &Operation) {
        match (&operation.call, operation.answer()) {
            (
                Call::Get {
                    key,
                    level: Level::Linearizable,
                },
                Some(Answer::Get(found)),
            ) => {
                let seen = self.found(found.as_ref());
                let key = self.key(key);
                self.read(operation, smallvec![(key, seen)]);
            }
            (
                Call::BatchGet {
                    keys,
                    level: Level::Linearizable,
                    at_once,
                },
                Some(Answer::BatchGet(answers)),
            ) => {
                let tests: Vec<(u32, Seen)> = keys
                    .iter()
                    .zip(answers)
                    .map(|(key, found)| (self.key(key), self.found(found.as_ref())))
                    .collect();
                self.several(operation, tests, *at_once);
            }
            (
                Call::Scan {
                    start,
                    end,
                    reverse,
                    level: Level::Linearizable,
                    at_once,
                },
                Some(Answer::Scan { rows, next }),
            ) => {
                let (start, end) = covered(start, end, *reverse, next.as_ref());
                let tests = self.scanned(start, end, rows);
                self.several(operation, tests, *at_once);
            }
            (Call::Put { key, value }, answer) => {
                let revision = match answer {
                    Some(Answer::Put { revision }) => *revision,
                    _ => 0,
                };
                let written = Some((self.value(value), revision));
                let changes = smallvec![(self.key(key), written)];
                self.push(operation, raw(smallvec![], Expect::All, changes, None));
            }
            (Call::Delete { key }, answer) => {
                let key = self.key(key);
                let deleted: Written = smallvec![(key, None)];
                let raw = match answer {
                    // As reads, where they say as much as one: that makes them easier to judge.
                    Some(Answer::Delete { deleted: false, .. }) => raw(
                        smallvec![(key, Seen::Exists(false))],
                        Expect::All,
                        smallvec![],
                        None,
                    ),
                    Some(Answer::Delete { deleted: true, .. }) => raw(
                        smallvec![(key, Seen::Exists(true))],
                        Expect::All,
                        deleted,
                        None,
                    ),
                    _ => raw(smallvec![], Expect::All, deleted, None),
                };
                self.push(operation, raw);
            }
            (
                Call::Batch {
                    conditions,
                    changes,
                },
                answer,
            ) => self.batch(operation, conditions, changes, answer),
            // Reads of other levels are judged elsewhere, and reads without an answer say nothing.
            (
                Call::Get { .. }
                | Call::BatchGet { .. }
                | Call::Scan { .. }
                | Call::Append { .. }
                | Call::ReadList { .. }
                | Call::Increment { .. }
                | Call::ReadCounter { .. },
                _,
            ) => {}
        }
    }

    fn several(&mut self, operation: &Operation, tests: Vec<(u32, Seen)>, at_once: bool) {
        if at_once {
            self.read(operation, tests.into());
        } else {
            for test in tests {
                self.read(operation, smallvec![test]);
            }
        }
    }

    /// What a scan says of every key of the history in the range that it covered.
    fn scanned(&mut self, start: &Bytes, end: Option<&Bytes>, rows: &[Row]) -> Vec<(u32, Seen)> {
        let from = self.keys.partition_point(|key| key < start);
        let to = match end {
            None => self.keys.len(),
            Some(end) => self.keys.partition_point(|key| key < end).max(from),
        };
        // A row that comes twice or out of range is judged by the rules of scans.
        let mut found: BTreeMap<u32, Seen> = BTreeMap::new();
        for row in rows {
            let key = self.key(&row.key);
            let seen = match &row.value {
                Some(value) => Seen::Value(self.value(value), row.revision),
                None => Seen::Exists(true),
            };
            found.insert(key, seen);
        }
        (from..to)
            .map(|key| u32::try_from(key).expect("keys are counted in 32 bits"))
            .map(|key| (key, found.get(&key).copied().unwrap_or(Seen::Exists(false))))
            .collect()
    }

    fn batch(
        &mut self,
        operation: &Operation,
        conditions: &[crate::operation::Condition],
        changes: &[Change],
        answer: Option<&Answer>,
    ) {
        let (expect, revision, deleted) = match answer {
            Some(Answer::Batch { revision, deleted }) => (Expect::All, *revision, *deleted),
            Some(Answer::ConditionFailed { first: Some(first) }) => {
                (Expect::FirstFails(*first as usize), 0, None)
            }
            Some(Answer::ConditionFailed { first: None }) => (Expect::SomeFails, 0, None),
            _ => (Expect::All, 0, None),
        };
        let tests = conditions
            .iter()
            .map(|condition| {
                let seen = match &condition.test {
                    Test::Exists(exists) => Seen::Exists(*exists),
                    Test::ValueEquals(value) => Seen::Value(self.value(value), 0),
                    Test::RevisionEquals(revision) => Seen::Revision(*revision),
                };
                (self.key(&condition.key), seen)
            })
            .collect();
        let changes = if expect == Expect::All {
            let written = |change: &Change| match change {
                Change::Put { key, value } => (self.key(key), Some((self.value(value), revision))),
                Change::Delete { key } => (self.key(key), None),
            };
            changes.iter().map(written).collect()
        } else {
            smallvec![]
        };
        self.push(operation, raw(tests, expect, changes, deleted));
    }
}

fn raw(tests: Tests, expect: Expect, changes: Written, deleted: Option<u64>) -> Raw {
    Raw {
        op: OpId(0),
        invoked: 0,
        returned: 0,
        tests,
        expect,
        changes,
        deleted,
        revision: 0,
    }
}

/// Puts steps whose keys are connected together.
fn connect(keys: usize, raws: Vec<Raw>) -> Vec<(Vec<u32>, Component)> {
    let mut parents: Vec<u32> = (0..u32::try_from(keys).expect("checked above")).collect();
    for raw in &raws {
        let mut of_step = keys_of(raw);
        if let Some(first) = of_step.next() {
            for key in of_step {
                let (a, b) = (root(&mut parents, first), root(&mut parents, key));
                parents[a.max(b) as usize] = a.min(b);
            }
        }
    }
    let mut members: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    let mut place = vec![0; keys];
    for key in 0..u32::try_from(keys).expect("checked above") {
        let of_root = members.entry(root(&mut parents, key)).or_default();
        place[key as usize] = u32::try_from(of_root.len()).expect("fewer than all keys");
        of_root.push(key);
    }
    let mut steps: BTreeMap<u32, Vec<Raw>> = BTreeMap::new();
    for raw in raws {
        let first = keys_of(&raw).next();
        if let Some(first) = first {
            let root = root(&mut parents, first);
            steps.entry(root).or_default().push(raw);
        }
    }
    steps
        .into_iter()
        .map(|(root, raws)| {
            let keys = members.remove(&root).expect("a root has members");
            let component = component(keys.len(), &place, raws);
            (keys, component)
        })
        .collect()
}

fn keys_of(raw: &Raw) -> impl Iterator<Item = u32> {
    let tested = raw.tests.iter().map(|(key, _)| *key);
    tested.chain(raw.changes.iter().map(|(key, _)| *key))
}

fn root(parents: &mut [u32], key: u32) -> u32 {
    let mut at = key;
    while parents[at as usize] != at {
        let up = parents[at as usize];
        parents[at as usize] = parents[up as usize];
        at = up;
    }
    at
}

fn component(keys: usize, place: &[KeyAt], raws: Vec<Raw>) -> Component {
    let keys = u32::try_from(keys).expect("fewer than all keys");
    let absent = |key| VersionInfo {
        key,
        value: None,
        revision: 0,
    };
    let mut component = Component {
        keys,
        versions: (0..keys).map(absent).collect(),
        steps: Vec::with_capacity(raws.len()),
    };
    let mut versions: BTreeMap<(KeyAt, u32, u64), Version> = BTreeMap::new();
    for raw in raws {
        let changes = raw.changes.iter().map(|(key, written)| {
            let key = place[*key as usize];
            let Some((value, revision)) = *written else {
                return (key, key);
            };
            let version = *versions.entry((key, value, revision)).or_insert_with(|| {
                component.versions.push(VersionInfo {
                    key,
                    value: Some(value),
                    revision,
                });
                Version::try_from(component.versions.len() - 1)
                    .expect("versions are counted in 32 bits")
            });
            (key, version)
        });
        let changes = changes.collect();
        let tests = raw.tests.iter();
        component.steps.push(Step {
            op: raw.op,
            invoked: raw.invoked,
            returned: raw.returned,
            tests: tests
                .map(|(key, seen)| (place[*key as usize], *seen))
                .collect(),
            expect: raw.expect,
            changes,
            deleted: raw.deleted,
            revision: raw.revision,
        });
    }
    learn_revisions(&mut component);
    component
}

/// A write whose revision nobody told is known by it if a read found its value, and no other write wrote that.
fn learn_revisions(component: &mut Component) {
    let by_value = ByValue::new(component);
    let mut learnt: Vec<(Version, u64)> = Vec::new();
    for step in component
        .steps
        .iter()
        .filter(|step| step.expect == Expect::All)
    {
        for (key, seen) in &step.tests {
            if let Seen::Value(value, revision @ 1..) = seen
                && let [only] = component.candidates(&by_value, *key, Seen::Value(*value, 0))[..]
                && component.info(only).revision == 0
            {
                learnt.push((only, *revision));
            }
        }
    }
    for (version, revision) in learnt {
        let info = &mut component.versions[version as usize];
        if info.revision == 0 {
            info.revision = revision;
        }
    }
}
