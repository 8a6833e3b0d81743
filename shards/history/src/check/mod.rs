//! The judge: one module for each promise.

mod counters;
mod lists;
mod open;
mod order;
mod registers;
mod report;
mod scans;
mod search;
mod shrink;
mod step;
mod zones;

pub use report::{Judged, Report, Rule, Undecided, Verdict, Violation};

use crate::history::History;
use crate::operation::OpId;
use crate::show::short;
use bytes::Bytes;
use registers::Registers;
use search::{Budget, Found};
use step::{ByValue, Component, Expect, Seen, Step};
use zones::{Cluster, Zones};

/// What judging may cost. Beyond that the verdict is that there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How often the search for one order may look at a step, for each component (a key, or keys that are connected). As many
    /// looks as the default take some seconds.
    pub search_steps: u64,
    /// Bytes that it may remember for each component.
    pub search_bytes: usize,
    /// Violations after which the judge stops.
    pub violations: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            search_steps: 1_000_000_000,
            search_bytes: 1 << 30,
            violations: 10,
        }
    }
}

/// Judges a whole history.
#[must_use]
pub fn check(history: &History, limits: &Limits) -> Report {
    let mut report = Report::new(history.operations().len(), limits.violations);
    scans::check(history, &mut report);
    lists::check(history, &mut report);
    counters::check(history, &mut report);
    order::check(history, &mut report);
    check_registers(history, limits, &mut report);
    report
}

fn check_registers(history: &History, limits: &Limits, report: &mut Report) {
    let mut registers = Registers::new(history);
    for (keys, mut component) in std::mem::take(&mut registers.components) {
        if report.is_full() {
            return;
        }
        report.judged.keys += keys.len();
        report.judged.components += 1;
        let names = registers.names(&keys);
        if let Some(violation) = sources(history, &component, &names) {
            report.violation(violation);
            continue;
        }
        open::resolve(&mut component);
        match zones::judge(&component) {
            Zones::Order => report.judged.by_zones += 1,
            Zones::Conflict(first, second) => {
                report.judged.by_zones += 1;
                report.violation(conflict(&component, names, &first, &second));
            }
            Zones::NotApplicable => {
                report.judged.by_search += 1;
                let budget = Budget {
                    steps: limits.search_steps,
                    words: limits.search_bytes / 8,
                };
                match search::search(&component, budget) {
                    Found::Order => {}
                    Found::NoOrder => report.violation(Violation {
                        rule: Rule::Linearizable,
                        keys: names,
                        explanation: "no order of these operations explains all answers".to_owned(),
                        window: shrink::shrink(&component),
                    }),
                    Found::BudgetExhausted => report.undecided.push(Undecided {
                        keys: names,
                        operations: component.steps.len(),
                    }),
                }
            }
        }
    }
}

/// Whether everything that was seen can have been written when it was seen: what a person would look at first.
fn sources(history: &History, component: &Component, names: &[Bytes]) -> Option<Violation> {
    let by_value = ByValue::new(component);
    // For each version, its first write.
    let mut first: Vec<Option<&Step>> = vec![None; component.versions.len()];
    for step in &component.steps {
        for (_, version) in &step.changes {
            let first = &mut first[*version as usize];
            if first.is_none_or(|first| first.invoked > step.invoked) {
                *first = Some(step);
            }
        }
    }
    for step in &component.steps {
        if !step.required() || step.expect != Expect::All {
            continue;
        }
        for (key, seen) in &step.tests {
            let Seen::Value(value, revision) = *seen else {
                continue;
            };
            let name = &names[*key as usize];
            let writers = component
                .candidates(&by_value, *key, *seen)
                .into_iter()
                .filter_map(|version| first[version as usize]);
            let Some(first) = writers.min_by_key(|step| step.invoked) else {
                let other = component.candidates(&by_value, *key, Seen::Value(value, 0));
                let other = other
                    .into_iter()
                    .find_map(|version| first[version as usize]);
                return Some(unwritten(history, step.op, name, revision, other));
            };
            if first.invoked > step.returned {
                return Some(Violation {
                    rule: Rule::FromTheFuture,
                    keys: vec![name.clone()],
                    explanation: format!(
                        "{} saw what {} wrote, which was invoked after it had returned",
                        step.op, first.op
                    ),
                    window: vec![step.op, first.op],
                });
            }
        }
    }
    None
}

/// Somebody saw a value that no write that may have happened wrote.
fn unwritten(
    history: &History,
    reader: OpId,
    key: &Bytes,
    revision: u64,
    other: Option<&Step>,
) -> Violation {
    let keys = vec![key.clone()];
    if let Some(other) = other {
        return Violation {
            rule: Rule::OutOfThinAir,
            keys,
            explanation: format!(
                "{reader} saw revision {revision} of a value that was written by {} alone, with another revision",
                other.op
            ),
            window: vec![other.op, reader],
        };
    }
    order::unwritten(history, reader, key)
}

fn conflict(
    component: &Component,
    names: Vec<Bytes>,
    first: &Cluster,
    second: &Cluster,
) -> Violation {
    let id = |at: usize| component.steps[at].op;
    let name = |cluster: &Cluster| match cluster.writer {
        None => "absence in the beginning".to_owned(),
        Some(at) => format!("value of {}", id(at)),
    };
    let from = |at: Option<usize>| {
        at.map_or_else(
            || "the beginning".to_owned(),
            |at| format!("the return of {}", id(at)),
        )
    };
    let to = |at: Option<usize>| {
        at.map_or_else(
            || "the beginning".to_owned(),
            |at| format!("the call of {}", id(at)),
        )
    };
    let had = |cluster: &Cluster| {
        format!(
            "from {} to {} the key can only have had the {}",
            from(cluster.first_return.1),
            to(cluster.last_call.1),
            name(cluster)
        )
    };
    let explanation = if second.first_return.0 < second.last_call.0 {
        format!("{}; but {}", had(first), had(second))
    } else {
        format!(
            "{}; but the {} was written and seen within that time alone, between {} and {}",
            had(first),
            name(second),
            to(second.last_call.1),
            from(second.first_return.1)
        )
    };
    let mut window: Vec<OpId> = [first, second]
        .into_iter()
        .flat_map(|cluster| [cluster.writer, cluster.first_return.1, cluster.last_call.1])
        .flatten()
        .map(id)
        .collect();
    window.sort_unstable();
    window.dedup();
    Violation {
        rule: Rule::Linearizable,
        keys: names,
        explanation,
        window,
    }
}

/// Names of keys for people.
fn show_keys(keys: &[Bytes]) -> String {
    let shown: Vec<String> = keys.iter().take(8).map(|key| short(key)).collect();
    let more = keys.len().saturating_sub(shown.len());
    let more = if more == 0 {
        String::new()
    } else {
        format!(" and {more} more")
    };
    format!("{}{more}", shown.join(", "))
}
