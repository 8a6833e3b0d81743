//! From a component that fits no order to the few operations that show it.

use super::open::Helps;
use super::search::{Budget, Found, search};
use super::step::{Component, Expect, Step};
use crate::operation::OpId;

/// Searches that one shrinking may cost, and the steps that all of them may look at.
const SEARCHES_MAX: usize = 3_000;
const STEPS_MAX: usize = 30_000_000;
/// What each of them may cost; one that is not through in time counts as not known to fail.
const BUDGET: Budget = Budget {
    steps: 200_000,
    words: 4 << 20,
};

/// The operations of a small part of the component that fits no order either, by invocation.
pub(super) fn shrink(component: &Component) -> Vec<OpId> {
    let mut shrink = Shrink {
        component: component.clone(),
        searches: SEARCHES_MAX,
        steps: STEPS_MAX,
    };
    shrink.cut_the_end();
    while shrink.leave_out_reads() | shrink.forget_answers() | shrink.leave_out_writes() {}
    let mut operations: Vec<OpId> = shrink.component.steps.iter().map(|step| step.op).collect();
    operations.sort_unstable();
    operations.dedup();
    operations
}

struct Shrink {
    component: Component,
    searches: usize,
    steps: usize,
}

impl Shrink {
    /// Whether these steps are known to fit no order.
    fn fails(&mut self, steps: Vec<Step>) -> bool {
        if self.searches == 0 || self.steps < steps.len() {
            return false;
        }
        self.searches -= 1;
        self.steps -= steps.len();
        let candidate = Component {
            keys: self.component.keys,
            versions: self.component.versions.clone(),
            steps,
        };
        let fails = search(&candidate, BUDGET) == Found::NoOrder;
        if fails {
            self.component.steps = candidate.steps;
        }
        fails
    }

    /// A history that fits an order does so at each of its moments: finds the first at which it does not.
    fn cut_the_end(&mut self) {
        let whole = self.component.steps.clone();
        let mut ends: Vec<u64> = whole
            .iter()
            .filter(|step| step.required())
            .map(|step| step.returned)
            .collect();
        ends.sort_unstable();
        let (mut fits, mut fails) = (0, ends.len());
        while fits + 1 < fails {
            let middle = fits + (fails - fits) / 2;
            if self.fails(until(&whole, ends[middle - 1])) {
                fails = middle;
            } else {
                fits = middle;
            }
        }
    }

    /// Leaves out steps that changed nothing.
    fn leave_out_reads(&mut self) -> bool {
        let may = |component: &Component| -> Vec<bool> {
            let steps = component.steps.iter();
            steps.map(|step| step.changes.is_empty()).collect()
        };
        self.with_less(may, |_| None)
    }

    /// Forgets what writes were told: what fits no order without that does so with it.
    fn forget_answers(&mut self) -> bool {
        let may = |component: &Component| -> Vec<bool> {
            let told = |step: &Step| !step.tests.is_empty() || step.deleted.is_some();
            let steps = component.steps.iter();
            steps
                .map(|step| !step.changes.is_empty() && told(step))
                .collect()
        };
        self.with_less(may, |step| {
            let mut step = step.clone();
            step.tests.clear();
            step.deleted = None;
            Some(step)
        })
    }

    /// Leaves out writes whose versions nobody looks at any more.
    fn leave_out_writes(&mut self) -> bool {
        let may = |component: &Component| -> Vec<bool> {
            let helps = Helps::new(component);
            let unseen = |step: &Step| {
                let unseen = !step.changes.iter().any(|(_, version)| helps.any(*version));
                unseen && !step.changes.is_empty()
            };
            component.steps.iter().map(unseen).collect()
        };
        self.with_less(may, |_| None)
    }

    /// Makes less of the steps that allow it, as many at a time as possible, as long as they fit no order.
    fn with_less(
        &mut self,
        may: impl Fn(&Component) -> Vec<bool>,
        less: impl Fn(&Step) -> Option<Step>,
    ) -> bool {
        let mut any = false;
        let mut size = self.component.steps.len().max(1);
        loop {
            let mut at = 0;
            loop {
                let candidates: Vec<usize> = may(&self.component)
                    .iter()
                    .enumerate()
                    .filter_map(|(at, may)| may.then_some(at))
                    .collect();
                let chunk = candidates.get(at..).unwrap_or_default();
                let chunk = &chunk[..size.min(chunk.len())];
                if chunk.is_empty() {
                    break;
                }
                let steps = self.component.steps.iter().enumerate();
                let steps = steps
                    .filter_map(|(at, step)| match chunk.binary_search(&at) {
                        Ok(_) => less(step),
                        Err(_) => Some(step.clone()),
                    })
                    .collect();
                if self.fails(steps) {
                    any = true;
                } else {
                    at += size;
                }
            }
            if size == 1 || self.searches == 0 {
                return any;
            }
            size /= 2;
        }
    }
}

/// The steps as they were known when the event at `end` had happened.
fn until(steps: &[Step], end: u64) -> Vec<Step> {
    let known = steps.iter().filter(|step| step.invoked < end);
    known
        .filter_map(|step| {
            if step.returned <= end {
                return Some(step.clone());
            }
            // Not returned yet: a read says nothing, and a write may happen later.
            let open = !step.changes.is_empty() && step.expect == Expect::All;
            open.then(|| Step {
                returned: u64::MAX,
                ..step.clone()
            })
        })
        .collect()
}
