//! What revisions say, and what weak reads promise.
//!
//! A key's revisions grow with time, so for linearizable operations they are a second, independent way to see a stale read.
//! A weak read may be old, but somebody must have written what it found, before; and where it claims not to go back, its
//! revision is held against those of earlier ones.

use super::report::{Report, Rule, Violation};
use crate::history::History;
use crate::operation::{Answer, Call, Change, ClientId, Found, Level, OpId, Operation, Test};
use bytes::Bytes;
use std::collections::BTreeMap;

/// A version of a key that an operation wrote or found.
#[derive(Clone, Copy)]
struct Sighting<'a> {
    op: OpId,
    client: ClientId,
    invoked: u64,
    returned: u64,
    /// Nothing: the key was absent.
    value: Option<&'a Bytes>,
    /// 0 if it is not known, or the key was absent.
    revision: u64,
    /// Nothing for a write.
    level: Option<Level>,
}

#[derive(Default)]
struct OfKey<'a> {
    sightings: Vec<Sighting<'a>>,
    /// First invocation of a write of each value that did not fail.
    written: BTreeMap<&'a Bytes, (u64, OpId)>,
    /// First invocation of a delete that did not fail.
    deleted: Option<u64>,
}

pub(super) fn check(history: &History, report: &mut Report) {
    let mut keys: BTreeMap<&Bytes, OfKey<'_>> = BTreeMap::new();
    for operation in history.operations() {
        writes(operation, &mut keys);
        sightings(operation, &mut keys);
    }
    for (key, of_key) in &keys {
        if report.is_full() {
            return;
        }
        let weak = of_key.sightings.iter().filter(|sighting| sighting.weak());
        report.judged.weak_reads += weak.count();
        let found = weak_sources(history, key, of_key)
            .or_else(|| names_two(key, of_key))
            .or_else(|| grows(key, of_key))
            .or_else(|| goes_back(key, of_key));
        if let Some(violation) = found {
            report.violation(violation);
        }
    }
}

impl Sighting<'_> {
    fn weak(&self) -> bool {
        self.level.is_some_and(|level| level != Level::Linearizable)
    }
}

fn writes<'a>(operation: &'a Operation, keys: &mut BTreeMap<&'a Bytes, OfKey<'a>>) {
    if operation.failed() || matches!(operation.answer(), Some(Answer::ConditionFailed { .. })) {
        return;
    }
    let at = operation.invoked.order;
    let mut write = |key: &'a Bytes, value: Option<&'a Bytes>| {
        let of_key = keys.entry(key).or_default();
        match value {
            Some(value) => {
                of_key.written.entry(value).or_insert((at, operation.id));
            }
            None => of_key.deleted = of_key.deleted.or(Some(at)),
        }
    };
    match &operation.call {
        Call::Put { key, value } => write(key, Some(value)),
        Call::Delete { key } => write(key, None),
        Call::Batch { changes, .. } => {
            for change in changes {
                match change {
                    Change::Put { key, value } => write(key, Some(value)),
                    Change::Delete { key } => write(key, None),
                }
            }
        }
        _ => {}
    }
}

fn sightings<'a>(operation: &'a Operation, keys: &mut BTreeMap<&'a Bytes, OfKey<'a>>) {
    let Some(answer) = operation.answer() else {
        return;
    };
    let mut see = |key: &'a Bytes, value: Option<&'a Bytes>, revision, level| {
        keys.entry(key).or_default().sightings.push(Sighting {
            op: operation.id,
            client: operation.client,
            invoked: operation.invoked.order,
            returned: operation.return_order(),
            value,
            revision,
            level,
        });
    };
    let parts = |found: &'a Option<Found>| match found {
        None => (None, 0),
        Some(found) => (Some(&found.value), found.revision),
    };
    match (&operation.call, answer) {
        (Call::Get { key, level }, Answer::Get(found)) => {
            let (value, revision) = parts(found);
            see(key, value, revision, Some(*level));
        }
        (Call::BatchGet { keys, level, .. }, Answer::BatchGet(answers)) => {
            for (key, found) in keys.iter().zip(answers) {
                let (value, revision) = parts(found);
                see(key, value, revision, Some(*level));
            }
        }
        (Call::Scan { level, .. }, Answer::Scan { rows, .. }) => {
            for row in rows {
                if let Some(value) = &row.value {
                    see(&row.key, Some(value), row.revision, Some(*level));
                }
            }
        }
        (Call::Put { key, value }, Answer::Put { revision }) => {
            see(key, Some(value), *revision, None);
        }
        (
            Call::Delete { key },
            Answer::Delete {
                deleted: true,
                revision,
            },
        ) => see(key, None, *revision, None),
        (Call::Batch { changes, .. }, Answer::Batch { revision, .. }) => {
            // The last change of a key is what others can see. A delete may have found nothing to delete.
            let mut last: BTreeMap<&Bytes, Option<&Bytes>> = BTreeMap::new();
            for change in changes {
                match change {
                    Change::Put { key, value } => last.insert(key, Some(value)),
                    Change::Delete { key } => last.insert(key, None),
                };
            }
            for (key, value) in last {
                if value.is_some() {
                    see(key, value, *revision, None);
                }
            }
        }
        _ => {}
    }
}

/// What weak reads found was written before they returned.
fn weak_sources(history: &History, key: &Bytes, of_key: &OfKey<'_>) -> Option<Violation> {
    for sighting in of_key.sightings.iter().filter(|sighting| sighting.weak()) {
        let Some(value) = sighting.value else {
            continue;
        };
        match of_key.written.get(value) {
            None => return Some(unwritten(history, sighting.op, key)),
            Some((invoked, writer)) if *invoked > sighting.returned => {
                return Some(Violation {
                    rule: Rule::FromTheFuture,
                    keys: vec![key.clone()],
                    explanation: format!(
                        "{} saw what {writer} wrote, which was invoked after it had returned",
                        sighting.op
                    ),
                    window: vec![sighting.op, *writer],
                });
            }
            Some(_) => {}
        }
    }
    None
}

/// A revision is that of one write.
fn names_two(key: &Bytes, of_key: &OfKey<'_>) -> Option<Violation> {
    let mut known: BTreeMap<u64, Sighting<'_>> = BTreeMap::new();
    for sighting in of_key.sightings.iter().filter(|s| s.revision > 0) {
        let other = *known.entry(sighting.revision).or_insert(*sighting);
        let both_write =
            other.op != sighting.op && other.level.is_none() && sighting.level.is_none();
        if other.value != sighting.value || both_write {
            return Some(Violation {
                rule: Rule::Revision,
                keys: vec![key.clone()],
                explanation: format!(
                    "revision {} is that of two writes, seen by {} and {}",
                    sighting.revision, other.op, sighting.op
                ),
                window: vec![other.op, sighting.op],
            });
        }
        if other.level.is_some() && sighting.level.is_none() {
            known.insert(sighting.revision, *sighting);
        }
    }
    None
}

/// Revisions of linearizable operations grow with time.
fn grows(key: &Bytes, of_key: &OfKey<'_>) -> Option<Violation> {
    let strong: Vec<Sighting<'_>> = of_key
        .sightings
        .iter()
        .filter(|sighting| sighting.revision > 0 && !sighting.weak())
        .copied()
        .collect();
    let wrong = |earlier: &Sighting<'_>, later: &Sighting<'_>| {
        earlier.revision > later.revision
            || (earlier.revision == later.revision && later.level.is_none())
    };
    let (earlier, later) = first_pair(&strong, wrong)?;
    Some(went_back(Rule::Revision, key, &earlier, &later))
}

/// Weak reads that claim so never go back: those of one replica among each other, those of a session behind what its client
/// wrote or read.
fn goes_back(key: &Bytes, of_key: &OfKey<'_>) -> Option<Violation> {
    let mut replicas: BTreeMap<u64, Vec<Sighting<'_>>> = BTreeMap::new();
    let mut clients: BTreeMap<ClientId, Vec<Sighting<'_>>> = BTreeMap::new();
    for sighting in &of_key.sightings {
        if let Some(Level::Replica(replica)) = sighting.level {
            replicas.entry(replica).or_default().push(*sighting);
        }
        clients.entry(sighting.client).or_default().push(*sighting);
    }
    let monotonic = |s: &Sighting<'_>| s.level == Some(Level::Monotonic);
    clients.retain(|_, sightings| sightings.iter().any(monotonic));
    // A read whose revision is not known says nothing. An absent key is behind every revision, unless it was deleted.
    let judged = |s: &Sighting<'_>| match s.value {
        Some(_) => s.revision > 0,
        None => of_key.deleted.is_none_or(|deleted| deleted > s.returned),
    };
    let behind =
        |earlier: &Sighting<'_>, s: &Sighting<'_>| earlier.revision > s.revision && judged(s);
    let of_clients = clients.values().find_map(|sightings| {
        first_pair(sightings, |earlier, s| monotonic(s) && behind(earlier, s))
    });
    let (earlier, later) = replicas
        .values()
        .find_map(|sightings| first_pair(sightings, behind))
        .or(of_clients)?;
    Some(went_back(Rule::Monotonic, key, &earlier, &later))
}

fn went_back(rule: Rule, key: &Bytes, earlier: &Sighting<'_>, later: &Sighting<'_>) -> Violation {
    Violation {
        rule,
        keys: vec![key.clone()],
        explanation: format!(
            "{} had returned with revision {} before {} was invoked, which has {}",
            earlier.op,
            earlier.revision,
            later.op,
            if later.value.is_none() && later.revision == 0 {
                "none".to_owned()
            } else {
                format!("revision {}", later.revision)
            }
        ),
        window: vec![earlier.op, later.op],
    }
}

/// The first sighting (by invocation) that is wrong against the one of the greatest revision among all that returned before.
fn first_pair<'a>(
    sightings: &[Sighting<'a>],
    wrong: impl Fn(&Sighting<'a>, &Sighting<'a>) -> bool,
) -> Option<(Sighting<'a>, Sighting<'a>)> {
    let mut by_call: Vec<&Sighting<'a>> = sightings.iter().collect();
    let mut by_return = by_call.clone();
    by_call.sort_by_key(|sighting| sighting.invoked);
    by_return.sort_by_key(|sighting| sighting.returned);
    let mut returned = by_return.into_iter().peekable();
    let mut greatest: Option<&Sighting<'a>> = None;
    for sighting in by_call {
        while let Some(before) = returned.next_if(|before| before.returned < sighting.invoked) {
            if greatest.is_none_or(|greatest| greatest.revision < before.revision) {
                greatest = Some(before);
            }
        }
        if let Some(greatest) = greatest
            && wrong(greatest, sighting)
        {
            return Some((*greatest, *sighting));
        }
    }
    None
}

/// A reader saw a value of a key that no write which may have happened wrote: a failed one, or none at all.
pub(super) fn unwritten(history: &History, reader: OpId, key: &Bytes) -> Violation {
    let values = seen_values(history.operation(reader), key);
    let failed = history.operations().iter().find(|operation| {
        let without_effect = operation.failed()
            || matches!(operation.answer(), Some(Answer::ConditionFailed { .. }));
        without_effect && puts(&operation.call, key).any(|value| values.contains(&value))
    });
    let keys = vec![key.clone()];
    match failed {
        Some(failed) => Violation {
            rule: Rule::FailedIsSeen,
            keys,
            explanation: format!(
                "{reader} saw what {} would have written, which failed",
                failed.id
            ),
            window: vec![failed.id, reader],
        },
        None => Violation {
            rule: Rule::OutOfThinAir,
            keys,
            explanation: format!("{reader} saw a value that was never written"),
            window: vec![reader],
        },
    }
}

/// The values that a call puts at a key.
fn puts<'a>(call: &'a Call, key: &'a Bytes) -> impl Iterator<Item = &'a Bytes> {
    let (single, several) = match call {
        Call::Put { key: of, value } if of == key => (Some(value), &[][..]),
        Call::Batch { changes, .. } => (None, &changes[..]),
        _ => (None, &[][..]),
    };
    let several = several.iter().filter_map(move |change| match change {
        Change::Put { key: of, value } if of == key => Some(value),
        Change::Put { .. } | Change::Delete { .. } => None,
    });
    single.into_iter().chain(several)
}

/// The values that an operation found at a key.
fn seen_values<'a>(operation: &'a Operation, key: &Bytes) -> Vec<&'a Bytes> {
    match (&operation.call, operation.answer()) {
        (Call::Get { .. }, Some(Answer::Get(Some(found)))) => vec![&found.value],
        (Call::BatchGet { keys, .. }, Some(Answer::BatchGet(answers))) => keys
            .iter()
            .zip(answers)
            .filter(|(of, _)| *of == key)
            .filter_map(|(_, found)| found.as_ref().map(|found| &found.value))
            .collect(),
        (Call::Scan { .. }, Some(Answer::Scan { rows, .. })) => rows
            .iter()
            .filter(|row| row.key == *key)
            .filter_map(|row| row.value.as_ref())
            .collect(),
        (Call::Batch { conditions, .. }, Some(Answer::Batch { .. })) => conditions
            .iter()
            .filter(|condition| condition.key == *key)
            .filter_map(|condition| match &condition.test {
                Test::ValueEquals(value) => Some(value),
                Test::Exists(_) | Test::RevisionEquals(_) => None,
            })
            .collect(),
        _ => Vec::new(),
    }
}
