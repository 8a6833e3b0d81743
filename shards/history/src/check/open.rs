//! Writes whose outcome nobody knows. They make the search long, so what can be known of them is found out first.

use super::step::{ByValue, Component, Expect, KeyAt, Seen, Version};

/// Gives an end to every open write that must have happened, and leaves those out that make no difference.
pub(super) fn resolve(component: &mut Component) {
    if component.steps.iter().all(super::step::Step::required) {
        return;
    }
    while end_what_was_seen(component) {}
    while leave_out_what_helps_nobody(component) {}
}

/// If somebody saw a version that only one open write can have written, that write happened, before the sight of it
/// returned.
fn end_what_was_seen(component: &mut Component) -> bool {
    let mut writers: Vec<Writer> = vec![Writer::None; component.versions.len()];
    // Every key is absent once without anybody's doing.
    writers[..component.keys as usize].fill(Writer::Several);
    for (at, step) in component.steps.iter().enumerate() {
        for (_, version) in &step.changes {
            let writer = &mut writers[*version as usize];
            *writer = match writer {
                Writer::None => Writer::One(at),
                Writer::One(same) if *same == at => Writer::One(at),
                Writer::One(_) | Writer::Several => Writer::Several,
            };
        }
    }
    let by_value = ByValue::new(component);
    let mut ends: Vec<(usize, u64)> = Vec::new();
    for step in &component.steps {
        if !step.required() || step.expect != Expect::All {
            continue;
        }
        for (key, seen) in &step.tests {
            if let [only] = component.candidates(&by_value, *key, *seen)[..]
                && let Writer::One(writer) = writers[only as usize]
                && component.steps[writer].returned > step.returned
            {
                ends.push((writer, step.returned));
            }
        }
    }
    // What returned is left as it is: if it was seen before, it took effect before, and the search will see to that.
    ends.retain(|(writer, _)| !component.steps[*writer].required());
    for (writer, returned) in &ends {
        let step = &mut component.steps[*writer];
        step.returned = step.returned.min(*returned);
    }
    !ends.is_empty()
}

#[derive(Clone, Copy)]
enum Writer {
    None,
    One(usize),
    Several,
}

/// An open write may be left out if nobody's answer can rest on any of its versions: where it happened, its versions were
/// overwritten before anyone looked.
fn leave_out_what_helps_nobody(component: &mut Component) -> bool {
    let helps = Helps::new(component);
    let before = component.steps.len();
    let Component { steps, .. } = component;
    steps.retain(|step| {
        step.required() || step.changes.iter().any(|(_, version)| helps.any(*version))
    });
    steps.len() != before
}

/// Which versions make somebody's answer true.
pub(super) struct Helps {
    versions: Vec<bool>,
}

impl Helps {
    pub(super) fn new(component: &Component) -> Self {
        let by_value = ByValue::new(component);
        let mut versions = vec![false; component.versions.len()];
        // Whether somebody needs the key to be there, whatever its value.
        let mut present = vec![false; component.keys as usize];
        let mut whole_key = |key: KeyAt, versions: &mut Vec<bool>| {
            present[key as usize] = true;
            versions[key as usize] = true;
        };
        for step in &component.steps {
            for (key, seen) in &step.tests {
                match (step.expect, seen) {
                    // Any version may be the one for which a test fails.
                    (Expect::FirstFails(_) | Expect::SomeFails, _) => {
                        whole_key(*key, &mut versions);
                    }
                    (Expect::All, Seen::Exists(true)) => whole_key(*key, &mut versions),
                    (Expect::All, seen) => {
                        for version in component.candidates(&by_value, *key, *seen) {
                            versions[version as usize] = true;
                        }
                    }
                }
            }
            if step.deleted.is_some() {
                for (key, version) in &step.changes {
                    if key == version {
                        whole_key(*key, &mut versions);
                    }
                }
            }
        }
        for (at, info) in component.versions.iter().enumerate() {
            if present[info.key as usize] {
                versions[at] = true;
            }
        }
        Self { versions }
    }

    /// Whether an answer can rest on this version.
    pub(super) fn any(&self, version: Version) -> bool {
        self.versions[version as usize]
    }
}
