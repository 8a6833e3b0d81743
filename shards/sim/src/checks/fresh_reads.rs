//! Source: scenarios R1 (stale leader), R4 (tikv PR#6340), R5. A linearizable read sees at least the newest write of its
//! key that anybody was told of before the read began. (The history checker judges the rest; this one tells at once.)

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{Checked, ensure};

/// Newest acknowledged revision by key.
#[derive(Default)]
pub(crate) struct FreshReads(BTreeMap<Bytes, u64>);

impl FreshReads {
    /// A client was told that its write of `key` has this revision.
    pub(crate) fn written(&mut self, key: &Bytes, revision: u64) {
        match self.0.get_mut(key) {
            Some(newest) => *newest = revision.max(*newest),
            None => {
                self.0.insert(key.clone(), revision);
            }
        }
    }

    /// What a read that begins now must see at least.
    pub(crate) fn bound(&self, key: &Bytes) -> u64 {
        self.0.get(key).copied().unwrap_or_default()
    }

    /// A read that had to see `bound` found this.
    pub(crate) fn check(&self, key: &Bytes, bound: u64, found: Option<u64>) -> Checked {
        // A key that is not there may have been deleted by a write that nobody was told of; the history checker knows.
        ensure(
            found.is_none_or(|found| found >= bound),
            "fresh_reads",
            || {
                format!(
                    "\"{}\": a read found revision {found:?}, but revision {bound} was acknowledged before it began",
                    key.escape_ascii()
                )
            },
        )
    }
}
