//! Lists: every acknowledged append once, none that failed, and all reads beginnings of one list.
//!
//! The longest read fixes the order of the appends that it shows, and a read of `n` elements stands behind the `n`-th
//! append. So there is one order to be held against time, and no search: each operation must not have returned before one
//! that stands before it was invoked.

use super::report::{Report, Rule, Violation};
use crate::history::History;
use crate::operation::{Answer, Call, OpId, Operation};
use crate::show::short;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Default)]
struct List<'a> {
    appends: BTreeMap<&'a Bytes, &'a Operation>,
    reads: Vec<Read<'a>>,
}

#[derive(Clone, Copy)]
struct Read<'a> {
    operation: &'a Operation,
    elements: &'a [Bytes],
}

pub(super) fn check(history: &History, report: &mut Report) {
    let mut lists: BTreeMap<&Bytes, List<'_>> = BTreeMap::new();
    for operation in history.operations() {
        match (&operation.call, operation.answer()) {
            (Call::Append { list, element, .. }, _) => {
                let list = lists.entry(list).or_default();
                list.appends.insert(element, operation);
            }
            (Call::ReadList { list }, Some(Answer::ReadList(elements))) => {
                lists.entry(list).or_default().reads.push(Read {
                    operation,
                    elements,
                });
            }
            _ => {}
        }
    }
    report.judged.lists += lists.len();
    for (name, list) in lists {
        if let Some((rule, explanation, window)) = judge(list) {
            report.violation(Violation {
                rule,
                keys: vec![name.clone()],
                explanation,
                window,
            });
        }
    }
}

type Wrong = (Rule, String, Vec<OpId>);

fn judge(mut list: List<'_>) -> Option<Wrong> {
    list.reads
        .sort_by_key(|read| (read.elements.len(), read.operation.invoked.order));
    let longest = *list.reads.last()?;
    contents(&list)
        .or_else(|| beginnings(&list.reads, longest))
        .or_else(|| sessions(&list, longest))
        .or_else(|| order(&list, longest))
}

/// Every element that was read was appended, once.
fn contents(list: &List<'_>) -> Option<Wrong> {
    for read in &list.reads {
        let id = read.operation.id;
        let mut seen = BTreeSet::new();
        for element in read.elements {
            let shown = short(element);
            let Some(append) = list.appends.get(element) else {
                let explanation = format!("{id} saw the element {shown}, which was never appended");
                return Some((Rule::OutOfThinAir, explanation, vec![id]));
            };
            if append.failed() {
                let explanation = format!(
                    "{id} saw the element {shown} of {}, which failed",
                    append.id
                );
                return Some((Rule::FailedIsSeen, explanation, vec![append.id, id]));
            }
            if append.invoked.order > read.operation.return_order() {
                let explanation = format!(
                    "{id} saw the element {shown} of {}, which was invoked after it had returned",
                    append.id
                );
                return Some((Rule::FromTheFuture, explanation, vec![id, append.id]));
            }
            if !seen.insert(element) {
                let explanation = format!("{id} saw the element {shown} of {} twice", append.id);
                return Some((Rule::List, explanation, vec![append.id, id]));
            }
        }
    }
    None
}

/// All reads are beginnings of the longest one.
fn beginnings(reads: &[Read<'_>], longest: Read<'_>) -> Option<Wrong> {
    for read in reads {
        let mut pairs = read.elements.iter().zip(longest.elements).enumerate();
        if let Some((at, (one, other))) = pairs.find(|(_, (one, other))| one != other) {
            let explanation = format!(
                "{} and {} saw different lists: element {at} is {} to one and {} to the other",
                read.operation.id,
                longest.operation.id,
                short(one),
                short(other)
            );
            return Some((
                Rule::List,
                explanation,
                vec![read.operation.id, longest.operation.id],
            ));
        }
    }
    None
}

/// The elements of a session stand in the order of their sequences.
fn sessions(list: &List<'_>, longest: Read<'_>) -> Option<Wrong> {
    let mut newest: BTreeMap<u64, (u64, OpId)> = BTreeMap::new();
    for element in longest.elements {
        let append = list.appends[element];
        let Call::Append {
            session: Some((session, sequence)),
            ..
        } = append.call
        else {
            continue;
        };
        if let Some((before, other)) = newest.insert(session, (sequence, append.id))
            && before >= sequence
        {
            let explanation = format!(
                "{} is {sequence} of session {session}, and stands behind {other}, which is {before}",
                append.id
            );
            return Some((
                Rule::List,
                explanation,
                vec![append.id, other, longest.operation.id],
            ));
        }
    }
    None
}

/// The one order that the longest read leaves is true to time.
fn order(list: &List<'_>, longest: Read<'_>) -> Option<Wrong> {
    let mut reads = list.reads.iter().peekable();
    // The operation with the last invocation among those that stand before.
    let mut latest: Option<&Operation> = None;
    for length in 0..=longest.elements.len() {
        if let Some(element) = length.checked_sub(1).map(|last| &longest.elements[last]) {
            let append = list.appends[element];
            if let Some(before) = too_early(latest, append) {
                return Some(misplaced(append, before, longest.operation));
            }
            if later(latest, append) {
                latest = Some(append);
            }
        }
        // Reads of one length have no order among themselves.
        let mut newest = latest;
        while let Some(read) = reads.next_if(|read| read.elements.len() == length) {
            if let Some(before) = too_early(latest, read.operation) {
                return Some(misplaced(read.operation, before, longest.operation));
            }
            if later(newest, read.operation) {
                newest = Some(read.operation);
            }
        }
        latest = newest;
    }
    let shown: BTreeSet<&Bytes> = longest.elements.iter().collect();
    let hidden = list
        .appends
        .iter()
        .filter(|(element, append)| !append.failed() && !shown.contains(*element));
    for (element, append) in hidden {
        if let Some(after) = too_early(latest, append) {
            let explanation = format!(
                "the element {} is lost: {} had returned before {} was invoked, but no list has it",
                short(element),
                append.id,
                after.id
            );
            let mut window = vec![append.id, after.id, longest.operation.id];
            window.dedup();
            return Some((Rule::List, explanation, window));
        }
    }
    None
}

/// What stands before an operation, if that had returned before it was invoked.
fn too_early<'a>(latest: Option<&'a Operation>, operation: &Operation) -> Option<&'a Operation> {
    latest.filter(|latest| latest.invoked.order > operation.return_order())
}

fn later(latest: Option<&Operation>, operation: &Operation) -> bool {
    latest.is_none_or(|latest| latest.invoked.order < operation.invoked.order)
}

fn misplaced(operation: &Operation, before: &Operation, longest: &Operation) -> Wrong {
    let explanation = format!(
        "{} had returned before {} was invoked, but by the order of the list it comes after it",
        operation.id, before.id
    );
    let mut window = vec![operation.id, before.id, longest.id];
    window.dedup();
    (Rule::List, explanation, window)
}
