//! Who belongs to the group, how far each peer is, and who voted (etcd `tracker/tracker.go`).

use super::inflights::Inflights;
use super::progress::Progress;
use super::quorum::{JointConfig, ReplicaSet, VoteResult};
use super::types::{ConfState, Index, ReplicaId};

/// The membership (etcd `tracker.Config`).
///
/// Invariants, checked by [`Changer`](super::confchange::Changer): voters and learners are disjoint, also the voters
/// of the outgoing half; `learners_next` is a part of the outgoing voters and empty unless joint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Who votes.
    pub voters: JointConfig,
    /// Whether the leader leaves the joint configuration by itself.
    pub auto_leave: bool,
    /// Who receives the log and does not vote.
    pub learners: ReplicaSet,
    /// Outgoing voters that become learners when the joint configuration is left: they cannot be learners at once,
    /// as they still vote.
    pub learners_next: ReplicaSet,
}

/// Progress by replica, in ascending order of id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProgressMap(Vec<(ReplicaId, Progress)>);

impl ProgressMap {
    fn position(&self, id: ReplicaId) -> Option<usize> {
        // A handful of entries: scanning is faster than halving.
        self.0.iter().position(|&(other, _)| other == id)
    }

    /// The progress of `id`, if it is tracked.
    #[must_use]
    pub fn get(&self, id: ReplicaId) -> Option<&Progress> {
        self.position(id).map(|at| &self.0[at].1)
    }

    /// The progress of `id`, if it is tracked.
    pub fn get_mut(&mut self, id: ReplicaId) -> Option<&mut Progress> {
        self.position(id).map(|at| &mut self.0[at].1)
    }

    /// Whether `id` is tracked.
    #[must_use]
    pub fn contains(&self, id: ReplicaId) -> bool {
        self.position(id).is_some()
    }

    /// Tracks `id`, or replaces its progress.
    pub fn insert(&mut self, id: ReplicaId, progress: Progress) {
        match self.0.binary_search_by_key(&id, |&(id, _)| id) {
            Ok(at) => self.0[at].1 = progress,
            Err(at) => {
                self.0.reserve_exact(1);
                self.0.insert(at, (id, progress));
            }
        }
    }

    /// Tracks `id` no longer.
    pub fn remove(&mut self, id: ReplicaId) -> Option<Progress> {
        let (_, progress) = self.0.remove(self.position(id)?);
        self.0.shrink_to_fit();
        Some(progress)
    }

    /// All, ascending by id.
    pub fn iter(
        &self,
    ) -> impl DoubleEndedIterator<Item = (ReplicaId, &Progress)> + ExactSizeIterator {
        self.0.iter().map(|(id, progress)| (*id, progress))
    }

    /// All, ascending by id.
    pub fn iter_mut(
        &mut self,
    ) -> impl DoubleEndedIterator<Item = (ReplicaId, &mut Progress)> + ExactSizeIterator {
        self.0.iter_mut().map(|(id, progress)| (*id, progress))
    }

    /// The ids, ascending.
    pub fn ids(&self) -> impl DoubleEndedIterator<Item = ReplicaId> + ExactSizeIterator + '_ {
        self.0.iter().map(|&(id, _)| id)
    }

    /// The id at position `at` of the ascending order: lets a loop change what it walks over.
    #[must_use]
    pub fn id_at(&self, at: usize) -> Option<ReplicaId> {
        self.0.get(at).map(|&(id, _)| id)
    }

    /// Number of tracked replicas.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none is tracked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Membership, progress and votes of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgressTracker {
    /// The membership in force.
    pub config: Config,
    /// How far everyone is; keys are exactly the members.
    pub progress: ProgressMap,
    /// Votes of the running election, ascending by id.
    pub votes: Vec<(ReplicaId, bool)>,
    /// Window of appends to one peer, in messages.
    pub max_inflight: usize,
    /// Window of appends to one peer, in bytes of entry data; 0 means no limit.
    pub max_inflight_bytes: u64,
}

/// Votes of an election, counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally {
    /// Voters that said yes.
    pub granted: usize,
    /// Voters that said no.
    pub rejected: usize,
    /// What that decides.
    pub result: VoteResult,
}

impl ProgressTracker {
    /// A tracker without members.
    #[must_use]
    pub fn new(max_inflight: usize, max_inflight_bytes: u64) -> Self {
        Self {
            config: Config::default(),
            progress: ProgressMap::default(),
            votes: Vec::new(),
            max_inflight,
            max_inflight_bytes,
        }
    }

    /// An empty window with this tracker's limits.
    #[must_use]
    pub fn new_inflights(&self) -> Inflights {
        Inflights::new(self.max_inflight, self.max_inflight_bytes)
    }

    /// The membership as stored with snapshots.
    #[must_use]
    pub fn conf_state(&self) -> ConfState {
        self.config.conf_state()
    }

    /// Whether the one voter decides alone.
    #[must_use]
    pub fn is_singleton(&self) -> bool {
        self.config.voters.incoming.len() == 1 && !self.config.voters.is_joint()
    }

    /// The greatest index that is durable on a quorum.
    #[must_use]
    pub fn committed(&self) -> Index {
        self.config
            .voters
            .committed_index(|id| self.progress.get(id).map(|progress| progress.match_index))
    }

    /// Calls `f` for every member, ascending by id.
    pub fn visit(&mut self, mut f: impl FnMut(ReplicaId, &mut Progress)) {
        for (id, progress) in self.progress.iter_mut() {
            f(id, progress);
        }
    }

    /// Whether a quorum was heard from since the last check.
    #[must_use]
    pub fn quorum_active(&self) -> bool {
        let active = |id| {
            self.progress
                .get(id)
                .filter(|p| !p.is_learner)
                .map(|p| p.recent_active)
        };
        self.config.voters.vote_result(active) == VoteResult::Won
    }

    /// The voters of both halves, ascending.
    #[must_use]
    pub fn voter_nodes(&self) -> ReplicaSet {
        self.config.voters.ids()
    }

    /// The learners, ascending.
    #[must_use]
    pub fn learner_nodes(&self) -> &ReplicaSet {
        &self.config.learners
    }

    /// Forgets all votes.
    pub fn reset_votes(&mut self) {
        self.votes = Vec::new();
    }

    /// Notes a vote. The first of each replica counts: a repeated message must not change it.
    pub fn record_vote(&mut self, id: ReplicaId, granted: bool) {
        if let Err(at) = self.votes.binary_search_by_key(&id, |&(id, _)| id) {
            self.votes.insert(at, (id, granted));
        }
    }

    fn vote(&self, id: ReplicaId) -> Option<bool> {
        self.votes
            .iter()
            .find(|&&(other, _)| other == id)
            .map(|&(_, granted)| granted)
    }

    /// Counts the votes of tracked voters, and says what they decide.
    #[must_use]
    pub fn tally_votes(&self) -> Tally {
        let (mut granted, mut rejected) = (0, 0);
        for (id, progress) in self.progress.iter() {
            match self.vote(id) {
                _ if progress.is_learner => {}
                Some(true) => granted += 1,
                Some(false) => rejected += 1,
                None => {}
            }
        }
        let result = self.config.voters.vote_result(|id| self.vote(id));
        Tally {
            granted,
            rejected,
            result,
        }
    }
}

impl Config {
    /// The membership as stored with snapshots.
    #[must_use]
    pub fn conf_state(&self) -> ConfState {
        ConfState {
            voters: self.voters.incoming.as_slice().to_vec(),
            voters_outgoing: self.voters.outgoing.as_slice().to_vec(),
            learners: self.learners.as_slice().to_vec(),
            learners_next: self.learners_next.as_slice().to_vec(),
            auto_leave: self.auto_leave,
        }
    }
}
