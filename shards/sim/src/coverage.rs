//! What happened while which fault was in effect: a fault that never fires, or never meets a step of the nodes, tests
//! nothing, and the report says so.

use std::fmt;

use crate::fault::{Fault, FaultCounts};
use crate::queue::{MILLIS, Micros};
use crate::trace::Kind;

/// How long a fault that happens at a moment counts as being in effect.
const ECHO: Micros = 200 * MILLIS;

/// Steps whose meeting with faults is of interest.
const STEPS: [Kind; 12] = [
    Kind::Turn,
    Kind::Role,
    Kind::Log,
    Kind::Apply,
    Kind::Flush,
    Kind::Compact,
    Kind::Snapshot,
    Kind::Frame,
    Kind::Request,
    Kind::Answer,
    Kind::Recover,
    Kind::Return,
];

/// Faults by the steps that were taken while they were in effect.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    /// Until when each fault is in effect.
    until: [Micros; Fault::ALL.len()],
    steps: [[u64; STEPS.len()]; Fault::ALL.len()],
}

impl Coverage {
    /// A fault is in effect for so long.
    pub(crate) fn begin(&mut self, fault: Fault, now: Micros, spell: Micros) {
        let until = &mut self.until[fault as usize];
        *until = (*until).max(now + spell.max(ECHO));
    }

    /// A step was taken.
    pub(crate) fn note(&mut self, kind: Kind, now: Micros) {
        let Some(step) = STEPS.iter().position(|step| *step == kind) else {
            return;
        };
        for (until, steps) in self.until.iter().zip(&mut self.steps) {
            if now <= *until && *until > 0 {
                steps[step] += 1;
            }
        }
    }

    /// Adds the steps of another run.
    pub fn add(&mut self, other: &Self) {
        for (sums, counts) in self.steps.iter_mut().zip(&other.steps) {
            for (sum, count) in sums.iter_mut().zip(counts) {
                *sum += count;
            }
        }
    }

    /// Pairs of a fault and a step that never met, by name.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        for (fault, steps) in Fault::ALL.iter().zip(&self.steps) {
            for (step, count) in STEPS.iter().zip(steps) {
                if *count == 0 {
                    missing.push(format!("{fault:?} x {step:?}"));
                }
            }
        }
        missing
    }

    /// The table, with how often each fault fired.
    pub fn table<'a>(&'a self, faults: &'a FaultCounts) -> impl fmt::Display + 'a {
        Table(self, faults)
    }
}

struct Table<'a>(&'a Coverage, &'a FaultCounts);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(coverage, faults) = self;
        write!(f, "{:<13}{:>10}", "fault", "fired")?;
        for step in STEPS {
            write!(f, "{:>10}", format!("{step:?}"))?;
        }
        for (fault, steps) in Fault::ALL.into_iter().zip(&coverage.steps) {
            let fired = match faults.of(fault) {
                0 => "NEVER".to_owned(),
                fired => fired.to_string(),
            };
            write!(f, "\n{:<13}{fired:>10}", format!("{fault:?}"))?;
            for count in steps {
                write!(f, "{count:>10}")?;
            }
        }
        Ok(())
    }
}
