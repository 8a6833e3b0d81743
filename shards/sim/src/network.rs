//! The simulated network: which frames arrive, when and how often.
//!
//! A frame holds the messages that one turn of a node has for one peer in one lane, as the node's transport packs them.
//! Frames of a lane arrive in order, as on a stream, unless a fault says otherwise.

use std::collections::VecDeque;
use std::rc::Rc;

use fastrand::Rng;
use flotilla_shards::ids::ShardId;
use flotilla_shards::lineage::Lineage;
use flotilla_shards::raft::Message;

use crate::fault::{Fault, FaultCounts};
use crate::queue::{MILLIS, Micros};
use crate::settings::Settings;

/// Frames of the past that may be replayed.
const REMEMBERED: usize = 64;

/// Messages on their way from node to node.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    /// Index of the sending node.
    pub(crate) from: usize,
    /// Index of the receiving node.
    pub(crate) to: usize,
    pub(crate) urgent: bool,
    pub(crate) messages: Vec<(ShardId, Message)>,
    /// The sender's word that it lives, with the number of its start.
    pub(crate) alive: Option<u64>,
    /// What the handshake of the stream said: the starts of the sender's store.
    pub(crate) starts: Rc<Lineage>,
    /// Synced writes of the sender's store.
    pub(crate) written: u64,
    /// The same as the checks count it.
    pub(crate) synced: u64,
}

#[derive(Clone, Debug, Default)]
struct Link {
    cut: bool,
    /// When the last frame of each lane arrives.
    last: [Micros; 2],
}

/// Chances in a million of what may happen to a frame.
#[derive(Clone, Copy, Debug, Default)]
struct Chances {
    loss: u64,
    duplication: u64,
    delay: u64,
    reordering: u64,
    replay: u64,
}

/// See the module.
pub(crate) struct Network {
    nodes: usize,
    delay: Micros,
    jitter: Micros,
    chances: Chances,
    links: Vec<Link>,
    past: VecDeque<Frame>,
}

impl Network {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            nodes: settings.nodes,
            delay: settings.delay,
            jitter: settings.jitter,
            chances: Chances {
                loss: settings.chance(Fault::Loss),
                duplication: settings.chance(Fault::Duplication),
                delay: settings.chance(Fault::Delay),
                reordering: settings.chance(Fault::Reordering),
                replay: settings.chance(Fault::Replay),
            },
            links: vec![Link::default(); settings.nodes * settings.nodes],
            past: VecDeque::new(),
        }
    }

    fn link(&mut self, from: usize, to: usize) -> &mut Link {
        &mut self.links[from * self.nodes + to]
    }

    /// Time that something takes from one process to another.
    pub(crate) fn latency(&self, rng: &mut Rng) -> Micros {
        self.delay + rng.u64(..=self.jitter)
    }

    /// Whether a request is to come twice.
    pub(crate) fn doubles(&self, rng: &mut Rng) -> bool {
        let chance = self.chances.duplication;
        chance > 0 && rng.u64(..1_000_000) < chance
    }

    /// Whether nothing gets from one node to another.
    pub(crate) fn is_cut(&self, from: usize, to: usize) -> bool {
        self.links[from * self.nodes + to].cut
    }

    /// Cuts or mends one direction.
    pub(crate) fn set_cut(&mut self, from: usize, to: usize, cut: bool) {
        self.link(from, to).cut = cut;
    }

    /// Mends everything and ends all faults of frames.
    pub(crate) fn heal(&mut self) {
        for link in &mut self.links {
            link.cut = false;
        }
        self.chances = Chances::default();
        self.past.clear();
    }

    /// Sends a frame: calls `arrive` with each time of arrival, and what arrives then.
    pub(crate) fn send(
        &mut self,
        frame: Frame,
        now: Micros,
        rng: &mut Rng,
        counts: &mut FaultCounts,
        mut arrive: impl FnMut(Micros, Frame),
    ) {
        let chances = self.chances;
        let mut happens = |chance: u64| chance > 0 && rng.u64(..1_000_000) < chance;
        let (lost, doubled, delayed, reordered, replayed) = (
            happens(chances.loss),
            happens(chances.duplication),
            happens(chances.delay),
            happens(chances.reordering),
            happens(chances.replay),
        );
        if chances.replay > 0 {
            if replayed && let Some(old) = self.past.get(rng.usize(..self.past.len().max(1))) {
                counts.note(Fault::Replay);
                let old = old.clone();
                if !self.is_cut(old.from, old.to) {
                    arrive(now + self.latency(rng), old);
                }
            }
            if self.past.len() >= REMEMBERED {
                // Some stay for long, so that frames of earlier starts are among them.
                let at = rng.usize(..self.past.len());
                self.past.swap_remove_back(at);
            }
            self.past.push_back(frame.clone());
        }
        if self.is_cut(frame.from, frame.to) {
            return;
        }
        if lost {
            counts.note(Fault::Loss);
            return;
        }
        let mut at = now + self.latency(rng);
        if delayed {
            counts.note(Fault::Delay);
            at += rng.u64(..1_500 * MILLIS);
        }
        if reordered {
            counts.note(Fault::Reordering);
            at += rng.u64(..10 * MILLIS);
        } else {
            let last = &mut self.link(frame.from, frame.to).last[usize::from(frame.urgent)];
            at = at.max(*last);
            *last = at;
        }
        if doubled {
            counts.note(Fault::Duplication);
            arrive(at + rng.u64(..100 * MILLIS), frame.clone());
        }
        arrive(at, frame);
    }
}
