//! Source: scenarios.md, row D9. Who comes back with an older disk is refused by everybody who has heard of its later writes
//! and could make that durable; who comes back with its own is let in.

use super::{Checked, ensure};

const CHECK: &str = "stores";

/// Synced writes of each node's store, as each other node has heard of them, counted by the simulator.
pub(crate) struct Stores {
    nodes: usize,
    /// By who heard and who was heard.
    heard: Vec<u64>,
    /// What was heard when the write began that is under way.
    writing: Vec<u64>,
    /// What was heard when the last write began that was synced.
    stored: Vec<u64>,
}

impl Stores {
    pub(super) fn new(nodes: usize) -> Self {
        let none = vec![0; nodes * nodes];
        Self {
            nodes,
            heard: none.clone(),
            writing: none.clone(),
            stored: none,
        }
    }

    fn row(&self, of: usize) -> std::ops::Range<usize> {
        of * self.nodes..(of + 1) * self.nodes
    }

    /// A running node got a frame from the newest process of another.
    pub(crate) fn heard(&mut self, by: usize, from: usize, synced: u64) {
        let heard = &mut self.heard[by * self.nodes + from];
        *heard = synced.max(*heard);
    }

    /// A node begins to write.
    pub(crate) fn writes(&mut self, at: usize) {
        let row = self.row(at);
        self.writing[row.clone()].copy_from_slice(&self.heard[row]);
    }

    /// That write is synced.
    pub(crate) fn synced(&mut self, at: usize) {
        let row = self.row(at);
        self.stored[row.clone()].copy_from_slice(&self.writing[row]);
    }

    /// A process ended: it has only what it stored.
    pub(super) fn ended(&mut self, at: usize) {
        let row = self.row(at);
        self.heard[row.clone()].copy_from_slice(&self.stored[row]);
    }

    /// Whether `by` must know that the store of `of` was further than after so many synced writes.
    pub(crate) fn knows(&self, by: usize, of: usize, synced: u64) -> bool {
        self.heard[by * self.nodes + of] > synced
    }
}

/// A node was refused, or let in, with its disk.
pub(crate) fn judged(at: usize, by: usize, refused: bool, went_back: bool) -> Checked {
    ensure(refused == went_back, CHECK, || {
        format!(
            "node {} is {} by node {}, but its disk {} an older one",
            at + 1,
            if refused { "refused" } else { "let in" },
            by + 1,
            if went_back { "is" } else { "is not" }
        )
    })
}
