//! What the judge says.

use super::show_keys;
use crate::history::History;
use crate::operation::OpId;
use bytes::Bytes;
use std::fmt;

/// The promise that was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// There is no order of the operations, true to time, that explains the answers.
    Linearizable,
    /// A value was seen that nobody wrote.
    OutOfThinAir,
    /// What a failed operation would have written was seen.
    FailedIsSeen,
    /// A value was seen before its write was asked for.
    FromTheFuture,
    /// A revision went back in time, or names two writes.
    Revision,
    /// A read that promised so went back behind an earlier one.
    Monotonic,
    /// A scan's rows are out of order or range, or a key came twice.
    Scan,
    /// Elements of a list are lost, doubled, or out of order.
    List,
    /// A counter is not the sum of its increments.
    Counter,
}

impl Rule {
    /// Its name, for people and for machines.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Linearizable => "linearizable",
            Self::OutOfThinAir => "out of thin air",
            Self::FailedIsSeen => "failed write is seen",
            Self::FromTheFuture => "from the future",
            Self::Revision => "revision",
            Self::Monotonic => "monotonic",
            Self::Scan => "scan",
            Self::List => "list",
            Self::Counter => "counter",
        }
    }
}

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which one.
    pub rule: Rule,
    /// Of which keys, list or counter.
    pub keys: Vec<Bytes>,
    /// Why.
    pub explanation: String,
    /// The operations that show it, in the order of their invocation where that is the point.
    pub window: Vec<OpId>,
}

/// Keys that could not be judged within the limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undecided {
    /// Which keys.
    pub keys: Vec<Bytes>,
    /// How many operations they have.
    pub operations: usize,
}

/// How much was judged, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Judged {
    /// Keys of registers.
    pub keys: usize,
    /// Keys or connected keys.
    pub components: usize,
    /// Of these, by the test of zones.
    pub by_zones: usize,
    /// Of these, by search.
    pub by_search: usize,
    /// Scans.
    pub scans: usize,
    /// Reads of other levels than linearizable: keys that they read.
    pub weak_reads: usize,
    /// Lists.
    pub lists: usize,
    /// Counters.
    pub counters: usize,
}

/// The end of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A correct store could have said all of this.
    Passed,
    /// No correct store could.
    Violated,
    /// Not known: the limits were too narrow for some keys. The run failed.
    BudgetExhausted,
}

/// What the judge found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Operations of the history.
    pub operations: usize,
    /// How much was judged.
    pub judged: Judged,
    /// Broken promises, at most as many as the limits ask for.
    pub violations: Vec<Violation>,
    /// What could not be judged.
    pub undecided: Vec<Undecided>,
    violations_max: usize,
}

impl Report {
    pub(super) fn new(operations: usize, violations_max: usize) -> Self {
        Self {
            operations,
            judged: Judged::default(),
            violations: Vec::new(),
            undecided: Vec::new(),
            violations_max: violations_max.max(1),
        }
    }

    pub(super) fn violation(&mut self, violation: Violation) {
        if !self.is_full() {
            self.violations.push(violation);
        }
    }

    /// Whether enough was found.
    pub(super) fn is_full(&self) -> bool {
        self.violations.len() >= self.violations_max
    }

    /// The end of it.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        if !self.violations.is_empty() {
            Verdict::Violated
        } else if !self.undecided.is_empty() {
            Verdict::BudgetExhausted
        } else {
            Verdict::Passed
        }
    }

    /// Whether everything was judged, and nothing was wrong.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.verdict() == Verdict::Passed
    }

    /// The report for people, with the operations that show what is wrong.
    #[must_use]
    pub fn display<'a>(&'a self, history: &'a History) -> impl fmt::Display + 'a {
        Display {
            report: self,
            history,
        }
    }
}

struct Display<'a> {
    report: &'a Report,
    history: &'a History,
}

/// Operations of one window that are shown.
const WINDOW_SHOWN: usize = 40;

impl fmt::Display for Display<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { report, history } = self;
        let Judged {
            keys,
            components,
            by_zones,
            by_search,
            scans,
            weak_reads,
            lists,
            counters,
        } = report.judged;
        let verdict = match report.verdict() {
            Verdict::Passed => "passed",
            Verdict::Violated => "VIOLATED",
            Verdict::BudgetExhausted => "UNDECIDED (the budget of the search is exhausted)",
        };
        write!(
            f,
            "{verdict}: {} operations; {keys} keys in {components} components ({by_zones} by zones, {by_search} by \
             search), {scans} scans, {weak_reads} weak reads, {lists} lists, {counters} counters",
            report.operations
        )?;
        for violation in &report.violations {
            write!(
                f,
                "\n\n{} of {}: {}",
                violation.rule.name(),
                show_keys(&violation.keys),
                violation.explanation
            )?;
            for id in violation.window.iter().take(WINDOW_SHOWN) {
                write!(f, "\n  {}", history.operation(*id))?;
            }
            if let Some(more) = violation.window.len().checked_sub(WINDOW_SHOWN + 1) {
                write!(f, "\n  … and {} more", more + 1)?;
            }
        }
        for undecided in &report.undecided {
            write!(
                f,
                "\n\nundecided: {} operations on {}",
                undecided.operations,
                show_keys(&undecided.keys)
            )?;
        }
        Ok(())
    }
}
