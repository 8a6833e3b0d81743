//! How a replica goes to rest and is woken: quiescence.
//!
//! A shard that is idle and up to date costs memory alone. Its leader says once more what is committed and lies down;
//! followers that have all of that lie down as well. From then on nobody has a timer. What wakes them:
//!
//! - a request or a message: the core does that by itself;
//! - the liveness table: a follower whose leader's node died or was restarted; a leader one of whose followers' nodes came
//!   back or was restarted, and may have missed something; and a leader who is left with a minority.
//!
//! *Invariant:* who rests has compared itself with the table after its newest change, or is in a sweep that will.

use super::{EngineConfig, LogReader, Output, liveness::Liveness, replica::Replica};
use crate::{
    ids::NodeId,
    raft::{Index, Message, MessageKind, Role, Term},
};

/// What a replica remembers of rest.
#[derive(Debug, Default)]
pub(super) struct Rest {
    /// Tick of the last request or message that was more than an answer.
    active: u64,
    /// The leader's word: rest, in this term, with everything up to this index.
    asked: Option<(Term, Index)>,
    /// While resting: the newest change of the liveness table that was looked at.
    seen: u64,
    /// Whether the engine counts this replica among those that rest.
    pub(super) counted: bool,
}

/// Why a replica is woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    /// A follower may have missed something: tell it where things stand.
    FollowerBack,
    /// The nodes of a majority are silent: find out whether this replica still leads.
    QuorumGone,
    /// The leader is gone. `first`: this replica is the one that asks for votes at once.
    LeaderGone { first: bool },
}

impl<C, L: LogReader + Clone> Replica<C, L> {
    /// Something was asked of this replica, or it took office.
    pub(super) fn note_active(&mut self) {
        self.rest.active = self.clock;
        self.rest.asked = None;
    }

    /// Notes what a message from another replica says about rest.
    pub(super) fn note_message(&mut self, message: &Message) {
        match message.kind {
            MessageKind::Quiesce => self.rest.asked = Some((message.term, message.commit)),
            // Answers to what was sent before.
            MessageKind::HeartbeatResp | MessageKind::AppResp => {}
            // What every leader sends that has not gone to rest, idle or not.
            MessageKind::Heartbeat => self.rest.asked = None,
            _ => self.note_active(),
        }
    }

    /// Before anything is asked of a resting follower: the liveness of its leader's node stands for the heartbeats that
    /// it did not get.
    pub(super) fn vouch(&mut self, config: &EngineConfig, liveness: &Liveness) {
        if !self.node.is_quiescent() || self.is_leader() {
            return;
        }
        if let Some(leader) = self.leader()
            && !liveness.changed_since(leader, self.rest.seen)
            && let Some(silent) = liveness.silent_for(leader)
        {
            // Other nodes hear the leader's node at other moments, up to an interval apart: whoever is asked for a vote
            // by the first to find it dead must not be in its way.
            let ticks = silent + u64::from(config.alive_ticks()) + 2;
            self.node
                .vouch_for_leader(u32::try_from(ticks).unwrap_or(u32::MAX));
        }
    }

    /// Lies down at tick `now` if there is nothing to do and everybody else can do without this replica.
    pub(super) fn maybe_rest(
        &mut self,
        config: &EngineConfig,
        liveness: &Liveness,
        now: u64,
        out: &mut Output<C>,
    ) {
        if config.quiesce_ticks == 0 || self.node.is_quiescent() || !self.is_idle() {
            return;
        }
        let rests = match self.node.role() {
            Role::Leader => {
                now.saturating_sub(self.rest.active) >= u64::from(config.quiesce_ticks)
                    && self.rest_as_leader(liveness)
            }
            Role::Follower => {
                let has_all =
                    |(term, commit)| term == self.node.term() && commit == self.node.last_index();
                self.rest.asked.is_some_and(has_all)
                    && self
                        .leader()
                        .is_some_and(|leader| liveness.is_alive(leader))
                    && self.node.quiesce(|_| false)
            }
            Role::Candidate | Role::PreCandidate => false,
        };
        if rests {
            self.rest.seen = liveness.changes();
            self.rest.asked = None;
            self.busy = false;
            // Empty, as it was idle.
            self.waiting = None;
            while self.node.has_ready() {
                let ready = self.node.ready();
                self.take_ready(ready, out);
            }
        }
    }

    fn rest_as_leader(&mut self, liveness: &Liveness) -> bool {
        let descriptor = &self.descriptor;
        let own = self.node.id();
        // A follower on a dead node keeps nobody awake: it is told when its node is back. But who hears from a minority
        // only stays awake, and finds out that it leads no more.
        let absent = |id| {
            let replica = descriptor.replica(id);
            !replica.is_some_and(|replica| id == own || liveness.is_alive(replica.node))
        };
        let rests = self.hears_majority(liveness) && self.node.quiesce(absent);
        if rests {
            self.node.announce_quiescence();
        }
        rests
    }

    /// Whether most voters are on nodes that live, this one included.
    fn hears_majority(&self, liveness: &Liveness) -> bool {
        let own = self.node.id();
        let voters = self.descriptor.replicas.iter();
        let voters = voters.filter(|replica| !replica.learner);
        let (mut living, mut all) = (0, 0);
        for replica in voters {
            all += 1;
            living += usize::from(replica.id == own || liveness.is_alive(replica.node));
        }
        2 * living > all
    }

    fn is_idle(&self) -> bool {
        let waiting = self.waiting.as_ref();
        waiting.is_none_or(|waiting| waiting.is_empty()) && self.writes_in_flight == 0
    }

    /// Compares a resting replica with the liveness table, and wakes it if it must not rest any longer. Returns whether
    /// it was woken.
    pub(super) fn check_rest(&mut self, now: u64, liveness: &Liveness) -> bool {
        if !self.node.is_quiescent() {
            return false;
        }
        let reason = match self.is_leader() {
            true => self
                .follower_back(liveness)
                .or_else(|| self.quorum_gone(liveness)),
            false => self.leader_gone(liveness),
        };
        let Some(reason) = reason else {
            return false;
        };
        self.catch_up(now);
        self.node.wake();
        match reason {
            Reason::FollowerBack | Reason::QuorumGone => self.node.heartbeat_now(),
            Reason::LeaderGone { first } => {
                // Nobody can be asked to wait for that leader any more.
                self.node.forget_leader();
                self.called = first;
            }
        }
        true
    }

    fn follower_back(&self, liveness: &Liveness) -> Option<Reason> {
        let back = |node| liveness.changed_since(node, self.rest.seen) && liveness.is_alive(node);
        let mut replicas = self.descriptor.replicas.iter();
        replicas
            .any(|replica| back(replica.node))
            .then_some(Reason::FollowerBack)
    }

    fn quorum_gone(&self, liveness: &Liveness) -> Option<Reason> {
        (!self.hears_majority(liveness)).then_some(Reason::QuorumGone)
    }

    fn leader_gone(&self, liveness: &Liveness) -> Option<Reason> {
        let gone = self.leader().is_none_or(|leader| {
            !liveness.is_alive(leader) || liveness.changed_since(leader, self.rest.seen)
        });
        gone.then(|| Reason::LeaderGone {
            first: self.campaigns_first(liveness),
        })
    }

    /// Whether this replica is the one of the survivors that campaigns at once. All survivors choose alike if they agree
    /// on who is alive, so that votes are not split; the shard's id spreads the new leaders over the survivors.
    fn campaigns_first(&self, liveness: &Liveness) -> bool {
        let leader = self.leader();
        let own = self.node.id();
        let survives = |node: NodeId| Some(node) != leader && liveness.is_alive(node);
        let survivors =
            self.descriptor.replicas.iter().filter(|replica| {
                !replica.learner && (replica.id == own || survives(replica.node))
            });
        let count = survivors.clone().count() as u64;
        let chosen = self.shard.0.checked_rem(count);
        let chosen = chosen.and_then(|place| survivors.clone().nth(place as usize));
        chosen.is_some_and(|replica| replica.id == own)
    }
}
