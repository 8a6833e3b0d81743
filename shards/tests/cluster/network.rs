//! Messages on their way, in any order, once, twice or never.

use crate::settings::Settings;
use fastrand::Rng;
use flotilla_shards::raft::{Message, ReplicaId};
use std::collections::{BTreeSet, VecDeque};

/// Messages that are in flight at most; the oldest are lost beyond that.
const CAPACITY: usize = 200;

#[derive(Default)]
pub(crate) struct Network {
    messages: Vec<Message>,
    /// Messages that were delivered long ago and may be so again.
    echoes: VecDeque<Message>,
    /// Messages that wait for the end of a partition.
    held: Vec<Message>,
    /// Pairs of sender and receiver that cannot reach each other.
    blocked: BTreeSet<(ReplicaId, ReplicaId)>,
    pub(crate) calm: bool,
}

impl Network {
    pub(crate) fn send(&mut self, message: Message, settings: &Settings, rng: &mut Rng) {
        let chance = |rng: &mut Rng, permille| rng.u32(..1000) < permille;
        if self.calm {
            self.messages.push(message);
            return;
        }
        if chance(rng, settings.loss) {
            return;
        }
        if chance(rng, settings.duplication) {
            self.messages.push(message.clone());
        }
        if chance(rng, settings.duplication) {
            self.echoes.push_back(message.clone());
            if self.echoes.len() > 30 {
                self.echoes.pop_front();
            }
        }
        self.messages.push(message);
        if self.messages.len() > CAPACITY {
            self.messages.remove(0);
        }
    }

    /// Takes the next message off the network.
    pub(crate) fn next(&mut self, settings: &Settings, rng: &mut Rng) -> Option<Message> {
        if !self.calm && !self.echoes.is_empty() && rng.u32(..3000) < settings.duplication {
            return self.echoes.remove(rng.usize(..self.echoes.len()));
        }
        if self.messages.is_empty() {
            return None;
        }
        let disordered = !self.calm && rng.u32(..1000) < settings.reordering;
        let at = if disordered {
            rng.usize(..self.messages.len())
        } else {
            0
        };
        let message = self.messages.remove(at);
        if !self.calm && self.blocked.contains(&(message.from, message.to)) {
            // Lost, or held up until the partition ends.
            if rng.bool() && self.held.len() < CAPACITY {
                self.held.push(message);
            }
            return None;
        }
        Some(message)
    }

    /// Cuts some pairs off from each other.
    pub(crate) fn partition(&mut self, replicas: u64, rng: &mut Rng) {
        self.heal();
        let side: Vec<bool> = (0..replicas).map(|_| rng.bool()).collect();
        let one_way = rng.u8(..4) == 0;
        for (from, to) in (0..replicas).flat_map(|from| (0..replicas).map(move |to| (from, to))) {
            let cut = if one_way {
                rng.u8(..3) == 0
            } else {
                side[from as usize] != side[to as usize]
            };
            if cut {
                self.blocked
                    .insert((ReplicaId(from + 1), ReplicaId(to + 1)));
            }
        }
    }

    /// Ends all partitions.
    pub(crate) fn heal(&mut self) {
        self.blocked.clear();
        // They were sent before everything that is under way.
        self.held.append(&mut self.messages);
        std::mem::swap(&mut self.held, &mut self.messages);
    }

    /// No more loss, repetition or disorder from now on.
    pub(crate) fn calm_down(&mut self) {
        self.heal();
        self.echoes.clear();
        self.calm = true;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }
}
