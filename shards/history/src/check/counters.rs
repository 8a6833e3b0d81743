//! Counters: what is read is the number of increments, each counted once.
//!
//! Increments are all alike, so only their places matter. A read of `v` stands behind the `v`-th increment and before the
//! next: that gives every place a first and a last moment, both growing from place to place. An increment fits the places
//! whose time its own overlaps; all places up to the highest value are filled, and all acknowledged increments have one.
//! That is scheduling of unit jobs, and the earliest deadline first solves it exactly.

use super::report::{Report, Rule, Violation};
use crate::history::History;
use crate::operation::{Answer, Call, OpId, Operation};
use bytes::Bytes;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

#[derive(Default)]
struct Counter<'a> {
    /// Without those that failed.
    increments: Vec<&'a Operation>,
    /// Who saw which value: reads, and increments that say what the counter became.
    seen: Vec<(u64, &'a Operation)>,
    /// Increments that say so.
    placed: BTreeMap<u64, &'a Operation>,
    twice: Option<(&'a Operation, &'a Operation)>,
}

pub(super) fn check(history: &History, report: &mut Report) {
    let mut counters: BTreeMap<&Bytes, Counter<'_>> = BTreeMap::new();
    for operation in history.operations() {
        match (&operation.call, operation.answer()) {
            (Call::Increment { counter }, answer) if !operation.failed() => {
                let counter = counters.entry(counter).or_default();
                match answer {
                    Some(Answer::Increment { value: Some(value) }) => {
                        counter.seen.push((*value, operation));
                        if let Some(other) = counter.placed.insert(*value, operation) {
                            counter.twice = Some((other, operation));
                        }
                    }
                    _ => counter.increments.push(operation),
                }
            }
            (Call::ReadCounter { counter }, Some(Answer::ReadCounter(value))) => {
                let counter = counters.entry(counter).or_default();
                counter.seen.push((*value, operation));
            }
            _ => {}
        }
    }
    report.judged.counters += counters.len();
    for (name, counter) in counters {
        if let Some((explanation, window)) = judge(&counter) {
            report.violation(Violation {
                rule: Rule::Counter,
                keys: vec![name.clone()],
                explanation,
                window,
            });
        }
    }
}

type Wrong = (String, Vec<OpId>);

fn judge(counter: &Counter<'_>) -> Option<Wrong> {
    if let Some((one, other)) = counter.twice {
        let explanation = format!(
            "{} and {} both made the counter the same value",
            one.id, other.id
        );
        return Some((explanation, vec![one.id, other.id]));
    }
    if let Some(zero) = counter.placed.get(&0) {
        return Some((format!("{} made the counter 0", zero.id), vec![zero.id]));
    }
    let mut seen = counter.seen.clone();
    seen.sort_by_key(|(value, operation)| (*value, operation.invoked.order));
    let (highest, reader) = *seen.last()?;
    let possible = (counter.increments.len() + counter.placed.len()) as u64;
    if highest > possible {
        let explanation = format!(
            "{} saw {highest}, but there were {possible} increments that did not fail",
            reader.id
        );
        return Some((explanation, vec![reader.id]));
    }
    // From behind: who returned first among those that saw this value or a higher one.
    let mut first_returns: Vec<&Operation> = Vec::with_capacity(seen.len());
    for (_, operation) in seen.iter().rev() {
        let first = first_returns.last().map_or(*operation, |first| {
            if first.return_order() < operation.return_order() {
                first
            } else {
                operation
            }
        });
        first_returns.push(first);
    }
    first_returns.reverse();

    let mut increments = counter.increments.clone();
    increments.sort_by_key(|operation| operation.invoked.order);
    let mut increments = increments.into_iter().peekable();
    // Increments that may have a place by now, that of the first return on top.
    let mut open: BinaryHeap<Reverse<(u64, OpId)>> = BinaryHeap::new();
    let mut at = 0;
    // Who was invoked last among those that saw a lower value.
    let mut last_call: Option<&Operation> = None;
    for place in 1..=highest {
        while let Some((_, operation)) = seen.get(at).filter(|(value, _)| *value < place) {
            last_call = later(last_call, operation);
            at += 1;
        }
        let deadline = first_returns[at];
        if let Some(wrong) = went_back(deadline, last_call) {
            return Some(wrong);
        }
        if let Some(placed) = counter.placed.get(&place) {
            if let Some(wrong) =
                went_back(deadline, Some(placed)).or_else(|| went_back(placed, last_call))
            {
                return Some(wrong);
            }
            continue;
        }
        let in_time = |operation: &&Operation| operation.invoked.order < deadline.return_order();
        while let Some(operation) = increments.next_if(in_time) {
            open.push(Reverse((operation.return_order(), operation.id)));
        }
        match open.pop() {
            None => {
                let explanation = format!(
                    "{} saw at least {place}, more than the increments that were invoked before it returned",
                    deadline.id
                );
                return Some((explanation, vec![deadline.id]));
            }
            Some(Reverse((returned, id))) => {
                if let Some(after) = last_call.filter(|after| after.invoked.order > returned) {
                    return Some(lost(id, after));
                }
            }
        }
    }
    for (_, operation) in &seen[at..] {
        last_call = later(last_call, operation);
    }
    let rest = increments.map(|operation| (operation.return_order(), operation.id));
    let rest = open.into_iter().map(|Reverse(open)| open).chain(rest);
    let (returned, id) = rest.min()?;
    let after = last_call.filter(|after| after.invoked.order > returned)?;
    Some(lost(id, after))
}

fn later<'a>(one: Option<&'a Operation>, other: &'a Operation) -> Option<&'a Operation> {
    one.filter(|one| one.invoked.order > other.invoked.order)
        .or(Some(other))
}

/// Somebody saw less than somebody who had returned before.
fn went_back(higher: &Operation, lower: Option<&Operation>) -> Option<Wrong> {
    let lower = lower.filter(|lower| lower.invoked.order > higher.return_order())?;
    let explanation = format!(
        "{} had returned before {} was invoked, which saw a lower value",
        higher.id, lower.id
    );
    Some((explanation, vec![higher.id, lower.id]))
}

fn lost(increment: OpId, after: &Operation) -> Wrong {
    let explanation = format!(
        "{increment} is not counted: it had returned before {} was invoked, which saw too little for it",
        after.id
    );
    (explanation, vec![increment, after.id])
}
