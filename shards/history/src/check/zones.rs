//! The fast way for keys that are only read and written, each value once (Gibbons and Korach 1997).
//!
//! A write and all reads that found its value form a *cluster*. Its *zone* lies between the first return and the last
//! invocation in it. If the first return comes first, the key must have had this value all through the zone (a forward
//! zone); else there is one moment at least, inside the (backward) zone, at which the whole cluster can have happened. All
//! clusters fit one order if and only if no two forward zones overlap and no backward zone lies inside a forward one.

use super::step::{ByValue, Component, Expect, Seen, Step, Version};

/// What the test says.
pub(super) enum Zones {
    /// It does not apply: values repeat, or there is more than reads and writes.
    NotApplicable,
    /// There is an order.
    Order,
    /// There is none, because of these two.
    Conflict(Cluster, Cluster),
}

/// A write and the reads of its value, as numbers of steps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cluster {
    /// Who wrote; nothing for the absence in the beginning.
    pub writer: Option<usize>,
    /// Whose return was the first, and when. The beginning returned before all.
    pub first_return: (u64, Option<usize>),
    /// Whose invocation was the last, and when.
    pub last_call: (u64, Option<usize>),
}

impl Cluster {
    fn forward(&self) -> bool {
        self.first_return.0 < self.last_call.0
    }
}

/// Judges a component of one key. Each read has a write that was invoked before the read returned.
pub(super) fn judge(component: &Component) -> Zones {
    if component.keys != 1 {
        return Zones::NotApplicable;
    }
    let by_value = ByValue::new(component);
    let mut clusters: Vec<Option<Cluster>> = vec![None; component.versions.len()];
    // Places are moved by one, to have one before all.
    clusters[0] = Some(Cluster {
        writer: None,
        first_return: (0, None),
        last_call: (0, None),
    });
    for (at, step) in component.steps.iter().enumerate() {
        if let Some(version) = written(step) {
            let cluster = &mut clusters[version as usize];
            if cluster.is_some() {
                return Zones::NotApplicable;
            }
            *cluster = Some(Cluster {
                writer: Some(at),
                first_return: (step.returned.saturating_add(1), Some(at)),
                last_call: (step.invoked + 1, Some(at)),
            });
        }
    }
    for (at, step) in component.steps.iter().enumerate() {
        if written(step).is_some() {
            continue;
        }
        let (true, Expect::All, [(key, seen)]) =
            (step.changes.is_empty(), step.expect, &step.tests[..])
        else {
            return Zones::NotApplicable;
        };
        if *seen == Seen::Exists(true) {
            return Zones::NotApplicable;
        }
        let [version] = component.candidates(&by_value, *key, *seen)[..] else {
            return Zones::NotApplicable;
        };
        let Some(cluster) = &mut clusters[version as usize] else {
            return Zones::NotApplicable;
        };
        let (returned, invoked) = (step.returned.saturating_add(1), step.invoked + 1);
        if returned < cluster.first_return.0 {
            cluster.first_return = (returned, Some(at));
        }
        if invoked > cluster.last_call.0 {
            cluster.last_call = (invoked, Some(at));
        }
    }
    let (mut forward, backward): (Vec<Cluster>, Vec<Cluster>) =
        clusters.into_iter().flatten().partition(Cluster::forward);
    forward.sort_by_key(|cluster| cluster.first_return.0);
    for pair in forward.windows(2) {
        if pair[1].first_return.0 < pair[0].last_call.0 {
            return Zones::Conflict(pair[0], pair[1]);
        }
    }
    for cluster in backward {
        let (start, end) = (cluster.last_call.0, cluster.first_return.0);
        let before = forward.partition_point(|other| other.first_return.0 < start);
        if let Some(around) = before.checked_sub(1).map(|at| forward[at])
            && end < around.last_call.0
        {
            return Zones::Conflict(around, cluster);
        }
    }
    Zones::Order
}

/// The version that a plain write wrote.
fn written(step: &Step) -> Option<Version> {
    match step.changes[..] {
        [(key, version)]
            if key != version && step.tests.is_empty() && step.deleted.is_none_or(|n| n == 0) =>
        {
            Some(version)
        }
        _ => None,
    }
}
