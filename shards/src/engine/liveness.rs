//! Which nodes live, as far as this engine has heard: the stand-in for the heartbeats of shards that rest.
//!
//! Nodes tell each other that they live once per interval, however many shards they share. A resting follower has no
//! timer of its own; this table watches over its leader's node instead. Here is only the table; who wakes when it changes
//! is the engine's business, and it asks by level, not by edge: each change has a number, and whoever rests remembers the
//! number at which it lay down.

use std::collections::BTreeMap;

use crate::ids::NodeId;

/// Ticks that one step of the clock counts at most, if no longer one was planned. An engine that stood still can't say that
/// others were silent.
const STEP_MAX: u64 = 2;

#[derive(Clone, Copy, Debug)]
struct Peer {
    /// Own clock when it was last heard.
    heard: u64,
    /// Heard since the last step of the clock and in the same turn: so it was at the end of the next step.
    fresh: bool,
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
    /// Whether any peer is fresh.
    fresh: bool,
}

impl Liveness {
    pub(super) fn new(window: u64) -> Self {
        Self {
            window,
            clock: 0,
            changes: 0,
            peers: BTreeMap::new(),
            fresh: false,
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
            fresh: false,
            incarnation,
            alive: false,
            changed: 0,
        });
        peer.heard = self.clock;
        (peer.fresh, self.fresh) = (true, true);
        if !peer.alive || peer.incarnation != incarnation {
            self.changes += 1;
            peer.alive = true;
            peer.incarnation = incarnation;
            peer.changed = self.changes;
        }
    }

    /// Ends a turn: whoever is heard later is not older than the step after that.
    pub(super) fn end_turn(&mut self) {
        if std::mem::take(&mut self.fresh) {
            self.peers.values_mut().for_each(|peer| peer.fresh = false);
        }
    }

    /// Ticks until somebody dies of silence, if anybody lives.
    pub(super) fn ticks_until_death(&self) -> Option<u64> {
        let living = self.peers.values().filter(|peer| peer.alive);
        let left = living.map(|peer| (peer.heard + self.window).saturating_sub(self.clock));
        left.min()
    }

    /// Lets `ticks` pass, of which `planned` were meant to pass at once: who has been silent for too long is dead from now
    /// on.
    pub(super) fn advance(&mut self, ticks: u64, planned: u64) {
        self.clock += ticks.min(planned.max(STEP_MAX));
        for peer in self.peers.values_mut() {
            if std::mem::take(&mut peer.fresh) {
                peer.heard = self.clock;
            }
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
        table.end_turn();
        let born = table.changes();
        for _ in 0..9 {
            table.advance(1, 1);
        }
        assert!(table.is_alive(NODE));
        assert_eq!(table.silent_for(NODE), Some(9));
        assert!(!table.changed_since(NODE, born));
        table.advance(1, 1);
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
    fn a_word_that_came_during_a_step_counts_from_its_end() {
        let mut table = Liveness::new(10);
        table.heard(NODE, 1);
        table.advance(5, 5);
        assert_eq!(table.silent_for(NODE), Some(0));
        assert_eq!(table.ticks_until_death(), Some(10));
        // Heard in a turn in which the clock did not move on.
        table.heard(NODE, 1);
        table.end_turn();
        table.advance(5, 5);
        assert_eq!(table.silent_for(NODE), Some(5));
        assert_eq!(table.ticks_until_death(), Some(5));
    }

    #[test]
    fn who_stood_still_takes_nobody_for_dead() {
        let mut table = Liveness::new(10);
        table.heard(NODE, 1);
        table.advance(1_000_000, 5);
        assert!(table.is_alive(NODE));
    }
}
