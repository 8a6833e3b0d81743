//! Source: scenarios W5 (tikv#18139: callback dropped; openraft 13df5b32: stranded responder). The engine answers every
//! request exactly once while its node lives, and owes nobody an answer when everything has settled.

use std::collections::BTreeSet;

use super::{Checked, ensure};
use crate::node::Handle;

const CHECK: &str = "requests";

/// Requests that each node's engine has taken and not answered.
pub(crate) struct Requests(Vec<BTreeSet<Handle>>);

impl Requests {
    pub(super) fn new(nodes: usize) -> Self {
        Self(vec![BTreeSet::new(); nodes])
    }

    pub(super) fn asked(&mut self, at: usize, handle: Handle) -> Checked {
        ensure(self.0[at].insert(handle), CHECK, || {
            format!("node {}: call {handle} is asked twice at once", at + 1)
        })
    }

    pub(super) fn answered(&mut self, at: usize, handle: Handle) -> Checked {
        ensure(self.0[at].remove(&handle), CHECK, || {
            format!(
                "node {}: call {handle} is answered without having been asked, or twice",
                at + 1
            )
        })
    }

    pub(super) fn ended(&mut self, at: usize) {
        self.0[at].clear();
    }

    /// Requests that the engine of a node owes an answer.
    pub(crate) fn owed(&self, at: usize) -> usize {
        self.0[at].len()
    }
}
