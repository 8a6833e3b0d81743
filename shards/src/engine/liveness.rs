//! Which nodes live, as far as this engine has heard: the stand-in for the heartbeats of shards that rest.
//!
//! Nodes tell each other that they live once per interval, however many shards they share. A resting follower has no
//! timer of its own; this table watches over its leader's node instead. Here is only the table; who wakes when it changes
//! is the engine's business, and it asks by level, not by edge: each change has a number, and whoever rests remembers the
//! number at which it lay down.

use std::collections::BTreeMap;

use crate::ids::NodeId;

/// Ticks that one step of the clock counts at most. An engine that stood still can't say that others were silent.
const STEP_MAX: u64 = 2;

#[derive(Clone, Copy, Debug)]
struct Peer {
    /// Own clock when it was last heard.
    heard: u64,
    /// Differs at each of its starts: who was restarted leads nothing any more.
    incarnation: u64,
    alive: bool,
    /// Number of the change that led here.
    changed: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Liveness {
    /// A node that is silent for so many ticks is dead.
    window: u64,
    clock: u64,
    changes: u64,
    peers: BTreeMap<NodeId, Peer>,
}

impl Liveness {
    pub(super) fn new(window: u64) -> Self {
        Self {
            window,
            clock: 0,
            changes: 0,
            peers: BTreeMap::new(),
        }
    }

    /// Number of the newest change.
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    /// A node has said that it lives.
    pub(super) fn heard(&mut self, node: NodeId, incarnation: u64) {
        let peer = self.peers.entry(node).or_insert(Peer {
            heard: self.clock,
            incarnation,
            alive: false,
            changed: 0,
        });
        peer.heard = self.clock;
        if !peer.alive || peer.incarnation != incarnation {
            self.changes += 1;
            peer.alive = true;
            peer.incarnation = incarnation;
            peer.changed = self.changes;
        }
    }

    /// Lets `ticks` pass: who has been silent for too long is dead from now on.
    pub(super) fn advance(&mut self, ticks: u64) {
        self.clock += ticks.min(STEP_MAX);
        for peer in self.peers.values_mut() {
            if peer.alive && self.clock - peer.heard >= self.window {
                self.changes += 1;
                peer.alive = false;
                peer.changed = self.changes;
            }
        }
    }

    pub(super) fn is_alive(&self, node: NodeId) -> bool {
        self.peers.get(&node).is_some_and(|peer| peer.alive)
    }

    /// Whether the node died, came back or was restarted after the change with this number.
    pub(super) fn changed_since(&self, node: NodeId, change: u64) -> bool {
        self.peers
            .get(&node)
            .is_some_and(|peer| peer.changed > change)
    }

    /// Ticks since a living node was heard.
    pub(super) fn silent_for(&self, node: NodeId) -> Option<u64> {
        let peer = self.peers.get(&node).filter(|peer| peer.alive)?;
        Some(self.clock - peer.heard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(2);

    #[test]
    fn a_node_dies_of_silence_and_comes_back() {
        let mut table = Liveness::new(10);
        assert!(!table.is_alive(NODE), "never heard");
        table.heard(NODE, 1);
        let born = table.changes();
        for _ in 0..9 {
            table.advance(1);
        }
        assert!(table.is_alive(NODE));
        assert_eq!(table.silent_for(NODE), Some(9));
        assert!(!table.changed_since(NODE, born));
        table.advance(1);
        assert!(!table.is_alive(NODE) && table.changed_since(NODE, born));
        let dead = table.changes();
        table.heard(NODE, 1);
        assert!(table.is_alive(NODE) && table.changed_since(NODE, dead));
    }

    #[test]
    fn a_restart_is_a_change_even_if_nobody_missed_the_node() {
        let mut table = Liveness::new(10);
        table.heard(NODE, 1);
        let born = table.changes();
        table.heard(NODE, 1);
        assert!(!table.changed_since(NODE, born));
        table.heard(NODE, 2);
        assert!(table.changed_since(NODE, born));
    }

    #[test]
    fn who_stood_still_takes_nobody_for_dead() {
        let mut table = Liveness::new(10);
        table.heard(NODE, 1);
        table.advance(1_000_000);
        assert!(table.is_alive(NODE));
    }
}
