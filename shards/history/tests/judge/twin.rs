//! A naive judge: tries every order of the operations. For histories of a handful of operations, and for holding the real
//! judge against.

use bytes::Bytes;
use flotilla_history::{Answer, Call, Change, Found, History, Operation, Test};
use std::collections::BTreeMap;

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct State {
    /// Value and revision, 0 for one that is not known.
    keys: BTreeMap<Bytes, (Bytes, u64)>,
    lists: BTreeMap<Bytes, Vec<Bytes>>,
    counters: BTreeMap<Bytes, u64>,
}

/// Whether there is an order, true to time, that explains all answers.
pub(crate) fn linearizable(history: &History) -> bool {
    let left: Vec<Operation> = history
        .operations()
        .iter()
        .filter(|operation| !operation.failed())
        .cloned()
        .collect();
    goes_on(&State::default(), &left)
}

fn goes_on(state: &State, left: &[Operation]) -> bool {
    if left.iter().all(|operation| operation.answer().is_none()) {
        return true;
    }
    let first_return = left.iter().map(Operation::return_order).min();
    left.iter().enumerate().any(|(at, operation)| {
        Some(operation.invoked.order) < first_return
            && after(state, operation).is_some_and(|state| {
                let mut rest = left.to_vec();
                rest.remove(at);
                goes_on(&state, &rest)
            })
    })
}

fn same(found: Option<&Found>, row: Option<&(Bytes, u64)>) -> bool {
    match (found, row) {
        (None, None) => true,
        (Some(found), Some((value, revision))) => {
            found.value == *value
                && (found.revision == 0 || *revision == 0 || found.revision == *revision)
        }
        _ => false,
    }
}

/// The state after an operation; nothing if its answer is not so in this state.
pub(crate) fn after(state: &State, operation: &Operation) -> Option<State> {
    let mut state = state.clone();
    let answer = operation.answer();
    let explained = match (&operation.call, answer) {
        (Call::Get { key, .. }, Some(Answer::Get(found))) => {
            same(found.as_ref(), state.keys.get(key))
        }
        (Call::BatchGet { keys, .. }, Some(Answer::BatchGet(answers))) => keys
            .iter()
            .zip(answers)
            .all(|(key, found)| same(found.as_ref(), state.keys.get(key))),
        (Call::Scan { start, end, .. }, Some(Answer::Scan { rows, .. })) => {
            let range = state.keys.range(start.clone()..end.clone());
            let now: Vec<(&Bytes, &Bytes)> = range.map(|(key, (value, _))| (key, value)).collect();
            let told: Vec<(&Bytes, &Bytes)> = rows
                .iter()
                .map(|row| (&row.key, row.value.as_ref().expect("scans give values")))
                .collect();
            now == told
        }
        (Call::Put { key, value }, answer) => {
            let revision = match answer {
                Some(Answer::Put { revision }) => *revision,
                _ => 0,
            };
            state.keys.insert(key.clone(), (value.clone(), revision));
            true
        }
        (Call::Delete { key }, answer) => {
            let existed = state.keys.remove(key).is_some();
            match answer {
                Some(Answer::Delete { deleted, .. }) => *deleted == existed,
                _ => true,
            }
        }
        (Call::Batch { conditions, .. }, Some(Answer::ConditionFailed { first })) => {
            let failed = conditions
                .iter()
                .position(|condition| !holds(&state, condition));
            match first {
                Some(first) => failed == Some(*first as usize),
                None => failed.is_some(),
            }
        }
        (
            Call::Batch {
                conditions,
                changes,
            },
            answer,
        ) => {
            let hold = conditions.iter().all(|condition| holds(&state, condition));
            match answer {
                None if !hold => true,
                answer => {
                    let (revision, told) = match answer {
                        Some(Answer::Batch { revision, deleted }) => (*revision, *deleted),
                        _ => (0, None),
                    };
                    let mut deleted = 0;
                    for change in changes {
                        match change {
                            Change::Put { key, value } => {
                                drop(state.keys.insert(key.clone(), (value.clone(), revision)))
                            }
                            Change::Delete { key } => {
                                deleted += u64::from(state.keys.remove(key).is_some());
                            }
                        }
                    }
                    hold && told.is_none_or(|told| told == deleted)
                }
            }
        }
        (Call::Append { list, element, .. }, _) => {
            let list = state.lists.entry(list.clone()).or_default();
            list.push(element.clone());
            true
        }
        (Call::ReadList { list }, Some(Answer::ReadList(elements))) => {
            state.lists.get(list).map_or(&[][..], Vec::as_slice) == elements
        }
        (Call::Increment { counter }, answer) => {
            let value = state.counters.entry(counter.clone()).or_default();
            *value += 1;
            match answer {
                Some(Answer::Increment { value: Some(told) }) => *told == *value,
                _ => true,
            }
        }
        (Call::ReadCounter { counter }, Some(Answer::ReadCounter(value))) => {
            state.counters.get(counter).copied().unwrap_or_default() == *value
        }
        // A read without an answer says nothing.
        _ => true,
    };
    explained.then_some(state)
}

fn holds(state: &State, condition: &flotilla_history::Condition) -> bool {
    let row = state.keys.get(&condition.key);
    match &condition.test {
        Test::Exists(exists) => row.is_some() == *exists,
        Test::ValueEquals(value) => row.is_some_and(|(of, _)| of == value),
        Test::RevisionEquals(revision) => row.map_or(0, |(_, of)| *of) == *revision,
    }
}
