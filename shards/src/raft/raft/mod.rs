//! The state of one replica and what every room of it needs (etcd `raft.go`).
//!
//! | room | what |
//! | --- | --- |
//! | `gate` | what a message must be like to be looked at |
//! | `step` | the order of terms, and which role handles what |
//! | `clock` | ticks, timeouts, quiescence |
//! | `election` | campaigns, votes, candidates |
//! | `leader` | proposals, acknowledgements, transfer of leadership |
//! | `replication` | appends, snapshots, heartbeats, commits |
//! | `follower` | what leaders send |
//! | `reads` | read indexes, rounds, leases |
//! | `membership` | configurations and restoring them |
//!
//! What comes out is collected in `msgs`, `msgs_after_append` and `read_states`, and taken by
//! [`RawNode`](super::RawNode).

mod clock;
mod election;
mod follower;
mod gate;
mod leader;
mod membership;
mod reads;
mod replication;
mod step;

pub use election::CAMPAIGN_TRANSFER;
pub(in crate::raft) use step::Applied;
pub use step::{is_local_message, is_response_message};

use super::config::{Config, ReadOnlyOption};
use super::error::{ConfigError, Error, StoredStateError};
use super::progress::Progress;
use super::raft_log::RaftLog;
use super::read_only::{ReadOnly, ReadState};
use super::storage::Storage;
use super::tracker::ProgressTracker;
use super::types::{
    ConfState, Entry, HardState, Index, Message, MessageKind, ReplicaId, Role, SoftState, Term,
};

/// One replica of a group (etcd `raft`). [`RawNode`](super::RawNode) is the way to use it.
///
/// The fields that an idle follower needs are here; what only a leader needs is in a box that followers don't have.
#[derive(Debug)]
pub struct Raft<S> {
    id: ReplicaId,
    term: Term,
    vote: ReplicaId,
    lead: ReplicaId,
    role: Role,
    is_learner: bool,
    /// Timers stand still until something happens.
    quiescent: bool,
    /// A round was answered: the answer is to be a promise.
    asked_to_promise: bool,
    /// The election timeout has passed, and the embedder decides what follows.
    election_due: bool,
    log: RaftLog<S>,
    tracker: ProgressTracker,
    leader: Option<Box<LeaderState>>,

    /// Messages that may be sent at once.
    msgs: Vec<Message>,
    /// Messages that may be sent, or stepped here, when everything unstable up to now is durable.
    msgs_after_append: Vec<Message>,
    read_states: Vec<ReadState>,

    /// Ticks since the start.
    now: u64,
    /// Until this tick no vote is given, as a leader counts on it; see `reads`.
    votes_held_until: u64,
    /// The tick at which something is due; see `clock`.
    due: u64,
    /// Tick at which a leader was heard, or of the last check of the quorum if leading. May lie before the start, and
    /// wraps then.
    election_since: u64,
    /// Tick of the last heartbeat sent.
    heartbeat_since: u64,
    randomized_election_timeout: u32,
    rng: fastrand::Rng,
    settings: Settings,
}

/// The part of [`Config`] that is looked at while running.
#[derive(Clone, Debug)]
struct Settings {
    max_size_per_msg: u64,
    max_uncommitted_size: u64,
    max_applying_size: u64,
    election_ticks: u32,
    heartbeat_ticks: u32,
    lease_ticks: u32,
    read_only: ReadOnlyOption,
    check_quorum: bool,
    pre_vote: bool,
    liveness_fixes: bool,
    lazy_commit: bool,
    step_down_on_removal: bool,
    disable_proposal_forwarding: bool,
    disable_conf_change_validation: bool,
    manual_elections: bool,
    manual_heartbeats: bool,
}

/// What a replica knows only while it leads.
#[derive(Debug)]
struct LeaderState {
    /// Tick of the election.
    since: u64,
    /// Index of the first entry of the term. Who has it, has heard of this leader since the election.
    first_index: Index,
    /// To whom leadership is being handed over, or none.
    transferee: ReplicaId,
    /// Whether anybody was told in this term to campaign without regard to leases.
    timeout_now_sent: bool,
    /// At least the index of the last membership change in the log that may not be applied yet. Only one at a time
    /// may be under way.
    pending_conf_index: Index,
    /// Bytes of data that were proposed and not applied yet: an estimate that is never too high.
    uncommitted_size: u64,
    /// Whether the heartbeats of the last round are still in `msgs`, so that a request may join it.
    round_open: bool,
    /// Whether the lease has confirmed reads since the last round was begun.
    lease_used: bool,
    reads: ReadOnly,
}

impl LeaderState {
    fn start_round(&mut self, now: u64) -> u64 {
        self.lease_used = false;
        self.reads.start_round(now - self.since)
    }
}

/// Asserts an invariant of this replica's own; on failure its last words hold the whole state.
macro_rules! invariant {
    ($raft:expr, $condition:expr, $($message:tt)+) => {
        assert!($condition, "{}: {}", format_args!($($message)+), $raft.describe())
    };
}
use invariant;

impl<S: Storage> Raft<S> {
    /// A replica as of its storage, as follower.
    ///
    /// # Errors
    /// If the configuration or what is stored contradicts itself, or the storage fails.
    pub fn new(config: &Config, storage: S) -> Result<Self, Error> {
        config.validate()?;
        let (hard_state, conf_state) = storage.initial_state()?;
        let mut raft = Self {
            id: config.id,
            term: Term(0),
            vote: ReplicaId::NONE,
            lead: ReplicaId::NONE,
            role: Role::Follower,
            is_learner: false,
            quiescent: false,
            asked_to_promise: false,
            election_due: false,
            log: RaftLog::new(storage, config.max_applying_size()),
            tracker: ProgressTracker::new(config.max_inflight_msgs, config.max_inflight_bytes),
            leader: None,
            msgs: Vec::new(),
            msgs_after_append: Vec::new(),
            read_states: Vec::new(),
            now: 0,
            votes_held_until: u64::from(config.vote_hold_off_ticks),
            due: 0,
            election_since: 0,
            heartbeat_since: 0,
            randomized_election_timeout: 0,
            rng: fastrand::Rng::with_seed(config.seed),
            settings: Settings {
                max_size_per_msg: config.max_size_per_msg,
                max_uncommitted_size: config.uncommitted_limit(),
                max_applying_size: config.max_applying_size(),
                election_ticks: config.election_ticks,
                heartbeat_ticks: config.heartbeat_ticks,
                lease_ticks: config.lease_ticks(),
                read_only: config.read_only,
                check_quorum: config.check_quorum,
                pre_vote: config.pre_vote,
                liveness_fixes: config.liveness_fixes,
                lazy_commit: config.lazy_commit,
                step_down_on_removal: config.step_down_on_removal,
                disable_proposal_forwarding: config.disable_proposal_forwarding,
                disable_conf_change_validation: config.disable_conf_change_validation,
                manual_elections: config.manual_elections,
                manual_heartbeats: config.manual_heartbeats,
            },
        };
        raft.restore_conf_state(&conf_state, raft.log.last_index())
            .map_err(|error| StoredStateError::ConfState(error.to_string()))?;
        raft.load(hard_state, config.applied)?;
        raft.become_follower(raft.term, ReplicaId::NONE);
        Ok(raft)
    }

    fn load(&mut self, hard_state: HardState, applied: Index) -> Result<(), Error> {
        let (compacted, last) = (self.log.committed(), self.log.last_index());
        if !hard_state.is_empty() {
            let commit = hard_state.commit;
            if commit < compacted || commit > last {
                return Err(StoredStateError::CommitOutOfRange {
                    commit,
                    low: compacted,
                    last,
                }
                .into());
            }
            if hard_state.term > gate::MAX_TERM {
                return Err(StoredStateError::TermOutOfRange(hard_state.term).into());
            }
            self.log.restore_commit(commit);
            self.term = hard_state.term;
            self.vote = hard_state.vote;
        }
        if applied > Index(0) {
            let committed = self.log.committed();
            if applied < compacted || applied > committed {
                return Err(ConfigError::Applied {
                    applied,
                    compacted,
                    committed,
                }
                .into());
            }
            self.log.applied_to(applied, 0);
        }
        Ok(())
    }

    /// The own id.
    #[must_use]
    pub fn id(&self) -> ReplicaId {
        self.id
    }

    /// Latest term seen.
    #[must_use]
    pub fn term(&self) -> Term {
        self.term
    }

    /// Whom this replica voted for in its term.
    #[must_use]
    pub fn vote(&self) -> ReplicaId {
        self.vote
    }

    /// The leader as far as known.
    #[must_use]
    pub fn lead(&self) -> ReplicaId {
        self.lead
    }

    /// The own role.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// Whether this replica is a learner in its own configuration.
    #[must_use]
    pub fn is_learner(&self) -> bool {
        self.is_learner
    }

    /// The log.
    #[must_use]
    pub fn log(&self) -> &RaftLog<S> {
        &self.log
    }

    /// The log, to write to its storage; anything else is for tests.
    pub fn log_mut(&mut self) -> &mut RaftLog<S> {
        &mut self.log
    }

    /// Membership, progress and votes.
    #[must_use]
    pub fn tracker(&self) -> &ProgressTracker {
        &self.tracker
    }

    /// Membership, progress and votes, for tests to set.
    #[doc(hidden)]
    pub fn tracker_mut(&mut self) -> &mut ProgressTracker {
        &mut self.tracker
    }

    /// Role and leader.
    #[must_use]
    pub fn soft_state(&self) -> SoftState {
        SoftState {
            lead: self.lead,
            role: self.role,
        }
    }

    /// What must be durable beside the entries.
    #[must_use]
    pub fn hard_state(&self) -> HardState {
        HardState {
            term: self.term,
            vote: self.vote,
            commit: self.log.committed(),
        }
    }

    pub(in crate::raft) fn lazy_commit(&self) -> bool {
        self.settings.lazy_commit
    }

    /// To whom leadership is being handed over, or none.
    #[must_use]
    pub fn lead_transferee(&self) -> ReplicaId {
        self.leader
            .as_ref()
            .map_or(ReplicaId::NONE, |leader| leader.transferee)
    }

    /// Until this index is applied the leader refuses further membership changes; 0 unless leading.
    #[must_use]
    pub fn pending_conf_index(&self) -> Index {
        self.leader
            .as_ref()
            .map_or(Index(0), |leader| leader.pending_conf_index)
    }

    /// Sets [`Raft::pending_conf_index`] of a leader, for tests.
    #[doc(hidden)]
    pub fn set_pending_conf_index(&mut self, index: Index) {
        if let Some(leader) = &mut self.leader {
            leader.pending_conf_index = index;
        }
    }

    /// Bytes of data that were proposed and not applied yet; 0 unless leading.
    #[must_use]
    pub fn uncommitted_size(&self) -> u64 {
        self.leader
            .as_ref()
            .map_or(0, |leader| leader.uncommitted_size)
    }

    /// Messages that may be sent at once and have not been taken.
    #[must_use]
    pub fn messages(&self) -> &[Message] {
        &self.msgs
    }

    /// Messages that wait for what is unstable to become durable.
    #[must_use]
    pub fn messages_after_append(&self) -> &[Message] {
        &self.msgs_after_append
    }

    /// Answers to read requests that have not been taken.
    #[must_use]
    pub fn read_states(&self) -> &[ReadState] {
        &self.read_states
    }

    /// Takes [`Raft::messages`]. For tests that drive a replica without [`RawNode`](super::RawNode).
    #[doc(hidden)]
    pub fn take_messages(&mut self) -> Vec<Message> {
        self.settle_leased_reads();
        if let Some(leader) = &mut self.leader {
            leader.round_open = false;
        }
        self.promise();
        std::mem::take(&mut self.msgs)
    }

    /// Takes [`Raft::messages_after_append`]. For tests that drive a replica without [`RawNode`](super::RawNode).
    #[doc(hidden)]
    pub fn take_messages_after_append(&mut self) -> Vec<Message> {
        std::mem::take(&mut self.msgs_after_append)
    }

    /// Takes [`Raft::read_states`]. For tests that drive a replica without [`RawNode`](super::RawNode).
    #[doc(hidden)]
    pub fn take_read_states(&mut self) -> Vec<ReadState> {
        self.settle_leased_reads();
        std::mem::take(&mut self.read_states)
    }

    /// Whether anything waits in messages or read states.
    pub(super) fn has_output(&self) -> bool {
        !self.msgs.is_empty()
            || !self.msgs_after_append.is_empty()
            || !self.read_states.is_empty()
            || (self.leader.as_ref()).is_some_and(|leader| leader.reads.has_leased())
    }

    /// Everything that matters, for assertions and traces.
    pub(crate) fn describe(&self) -> String {
        format!(
            "replica {} is {} at term {} (vote {}, lead {}, learner {}); log: {}; configuration: {}; progress: \
             {:?}; votes: {:?}; leading: {:?}; ticks: now {} election {}/{} heartbeat {} votes held until {}; quiescent \
             {}; messages: {} and {} after append",
            self.id,
            self.role,
            self.term,
            self.vote,
            self.lead,
            self.is_learner,
            self.log,
            self.tracker.config,
            self.tracker.progress,
            self.tracker.votes,
            self.leader,
            self.now,
            self.election_elapsed(),
            self.randomized_election_timeout,
            self.heartbeat_elapsed(),
            self.votes_held_until,
            self.quiescent,
            self.msgs.len(),
            self.msgs_after_append.len(),
        )
    }

    /// Queues a message, with sender and term put in.
    ///
    /// Votes and acknowledgements of entries rest on what this replica has stored: published before that is durable,
    /// a crash would make them lies (thesis 3.8). So they wait, also those to the replica itself, and rejections too,
    /// which rest on stored votes and entries as well. All other messages promise nothing.
    fn send(&mut self, mut message: Message) {
        if message.from.is_none() {
            message.from = self.id;
        }
        match message.kind {
            // Votes speak about the term that is campaigned for, which in a pre-vote is not the sender's.
            MessageKind::Vote
            | MessageKind::VoteResp
            | MessageKind::PreVote
            | MessageKind::PreVoteResp => {
                invariant!(self, message.term != Term(0), "{message:?} without a term");
            }
            // Forwarded requests belong to no term.
            MessageKind::Prop | MessageKind::ReadIndex => {}
            _ => message.term = self.term,
        }
        match message.kind {
            MessageKind::AppResp | MessageKind::VoteResp | MessageKind::PreVoteResp => {
                self.msgs_after_append.push(message);
            }
            _ => {
                invariant!(self, message.to != self.id, "{message:?} to itself");
                self.msgs.push(message);
            }
        }
    }

    /// Enters `term`, if it is another one, with everything of the old role and leader forgotten.
    fn reset(&mut self, term: Term) {
        if self.term != term {
            self.term = term;
            self.vote = ReplicaId::NONE;
        }
        self.lead = ReplicaId::NONE;
        self.leader = None;
        self.quiescent = false;
        self.election_due = false;
        self.draw_election_timeout();
        self.restart_clocks();
        self.tracker.reset_votes();
        let last = self.log.last_index();
        let inflights = self.tracker.new_inflights();
        for (id, progress) in self.tracker.progress.iter_mut() {
            let is_learner = progress.is_learner;
            *progress = Progress::new(last.next(), inflights.clone());
            progress.is_learner = is_learner;
            if id == self.id {
                progress.match_index = last;
            }
        }
    }

    fn enter(&mut self, role: Role) {
        self.role = role;
        self.rearm();
    }

    /// Becomes follower at `term` of `lead`, which may be none. Public for tests.
    #[doc(hidden)]
    pub fn become_follower(&mut self, term: Term, lead: ReplicaId) {
        self.reset(term);
        self.lead = lead;
        self.enter(Role::Follower);
    }

    /// Becomes candidate in the next term, with its own vote. Public for tests.
    ///
    /// # Panics
    /// On a leader.
    #[doc(hidden)]
    pub fn become_candidate(&mut self) {
        invariant!(
            self,
            self.role != Role::Leader,
            "invalid transition [leader -> candidate]"
        );
        self.reset(self.term.next());
        self.vote = self.id;
        self.enter(Role::Candidate);
    }

    /// Becomes pre-candidate; term and vote stay. Public for tests.
    ///
    /// # Panics
    /// On a leader.
    #[doc(hidden)]
    pub fn become_pre_candidate(&mut self) {
        invariant!(
            self,
            self.role != Role::Leader,
            "invalid transition [leader -> pre-candidate]"
        );
        self.tracker.reset_votes();
        self.lead = ReplicaId::NONE;
        self.enter(Role::PreCandidate);
    }

    /// Becomes leader and appends the entry that commits those of earlier terms with it (thesis 3.6.2). Public for
    /// tests.
    ///
    /// # Panics
    /// On a follower, and on a replica outside its own configuration.
    #[doc(hidden)]
    pub fn become_leader(&mut self) {
        invariant!(
            self,
            self.role != Role::Follower,
            "invalid transition [follower -> leader]"
        );
        self.reset(self.term);
        self.lead = self.id;
        self.enter(Role::Leader);
        let last = self.log.last_index();
        self.leader = Some(Box::new(LeaderState {
            since: self.now,
            first_index: last.next(),
            transferee: ReplicaId::NONE,
            timeout_now_sent: false,
            // There may be a membership change in the tail of the log. Scanning for it costs more than to refuse
            // further ones until all of that is applied.
            pending_conf_index: last,
            uncommitted_size: 0,
            round_open: false,
            lease_used: false,
            reads: ReadOnly::default(),
        }));
        let own = self.tracker.progress.get_mut(self.id);
        invariant!(self, own.is_some(), "leader outside its configuration");
        if let Some(own) = self.tracker.progress.get_mut(self.id) {
            own.become_replicate();
            own.recent_active = true;
        }
        let appended = self.append_entries(vec![Entry::default()]);
        invariant!(
            self,
            appended.is_some(),
            "the first entry of the term was refused"
        );
    }

    /// The membership.
    #[must_use]
    pub fn conf_state(&self) -> ConfState {
        self.tracker.conf_state()
    }

    fn other_members(&self) -> smallvec::SmallVec<[ReplicaId; 8]> {
        self.tracker
            .progress
            .ids()
            .filter(|&id| id != self.id)
            .collect()
    }
}
