//! One replica in the engine: its Raft group, what waits for it, and how a turn of it becomes outputs.
//!
//! Nothing here knows of other shards; what they share (the wheel, the turn, the bounds) is the engine's.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use flotilla_proto::v1::{Command, CommandBatch};
use prost::Message as _;

use super::{
    EngineConfig,
    census::Load,
    io::{
        Apply, Compaction, LogAppend, LogReader, Outgoing, Output, Proposal, RecoveredReplica,
        Refused, Release, RoleChange, SnapshotSend,
    },
    liveness::Liveness,
    log_view::LogView,
    reads::AskedReads,
    rest::Rest,
};
use crate::{
    descriptor::Descriptor,
    genesis::GENESIS_INDEX,
    ids::{NodeId, ShardId},
    raft::{
        self, ConfState, Config, Entry, EntryId, EntryKind, Index, Message, MessageKind, RawNode,
        Ready, ReplicaId, Role, confchange::ConfChangeAny, config::ReadOnlyOption,
    },
};

#[derive(Debug)]
pub(super) struct Replica<C, L: LogReader> {
    pub(super) shard: ShardId,
    pub(super) descriptor: Arc<Descriptor>,
    pub(super) node: RawNode<LogView<L>>,
    /// Tick up to which the group's own clock has run.
    pub(super) clock: u64,
    /// Tick at which the wheel has a live entry for this replica; 0 for none.
    pub(super) armed: u64,
    /// Whether the replica is in the engine's list of those to visit this turn.
    pub(super) dirty: bool,
    /// Log writes on their way whose answer is outstanding. While there are any, proposals gather: the sync in flight
    /// is the window in which a batch forms.
    pub(super) writes_in_flight: u32,
    /// Requests on their way. Most replicas have none, and those that rest have no room for any.
    pub(super) waiting: Option<Box<Waiting<C>>>,
    pub(super) rest: Rest,
    pub(super) load: Load,
    reported: RoleChange,
    /// Highest index known to be in the log store, for the cache.
    persisted: Index,
    /// Applied index that a flush of the state database has made durable. *Invariant:* the log is never cut above it.
    applied_durable: Index,
    /// For the first replica of a newborn group: the tick at which it next asks for the office, and for how long it waits
    /// then.
    first_campaign: Option<(u64, u32)>,
    /// It is to campaign whatever its timer says.
    pub(super) called: bool,
    /// Whether it waits for its turn to campaign.
    pub(super) queued_campaign: bool,
    /// Whether the engine counts it among those under way to rest or to work.
    pub(super) counted_settling: bool,
    /// Whether anything was asked of it since it rested last.
    pub(super) busy: bool,
    /// The tick up to which its lease is open, as was told last; 0: it is not.
    pub(super) open_lease: u64,
    /// Whether the next survey looks at it.
    pub(super) touched: bool,
}

/// Requests that wait for something.
#[derive(Debug)]
pub(super) struct Waiting<C> {
    pub(super) queued: Vec<Proposal<C>>,
    queued_bytes: usize,
    /// Appended here as leader, by ascending index; answered when an entry with that index is committed.
    pub(super) proposed: VecDeque<(EntryId, Vec<C>)>,
    pub(super) new_reads: Vec<C>,
    pub(super) asked: VecDeque<AskedReads<C>>,
    /// Confirmed, by ascending index, and whether by the lease; served once that index is applied.
    pub(super) confirmed: VecDeque<(Index, bool, Vec<C>)>,
}

impl<C> Waiting<C> {
    fn new() -> Self {
        Self {
            queued: Vec::new(),
            queued_bytes: 0,
            proposed: VecDeque::new(),
            new_reads: Vec::new(),
            asked: VecDeque::new(),
            confirmed: VecDeque::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queued.is_empty()
            && self.new_reads.is_empty()
            && self.asked.is_empty()
            && self.confirmed.is_empty()
            && self.proposed.is_empty()
    }

    /// The first of those that were appended, if `test` says so.
    fn pop_proposed(&mut self, test: impl FnOnce(EntryId) -> bool) -> Option<(EntryId, Vec<C>)> {
        pop_if(&mut self.proposed, |(id, _)| test(*id))
    }

    fn refuse_queued(&mut self, leader: Option<NodeId>, out: &mut Output<C>) {
        self.queued_bytes = 0;
        let queued = self.queued.drain(..);
        out.refusals
            .extend(queued.map(|proposal| (proposal.reply, Refused::NotLeader { leader })));
    }
}

impl<C, L: LogReader + Clone> Replica<C, L> {
    pub(super) fn open(
        config: &EngineConfig,
        seed: u64,
        now: u64,
        found: RecoveredReplica,
        view: LogView<L>,
    ) -> Result<Self, raft::Error> {
        let shard = found.descriptor.shard;
        let id = found
            .descriptor
            .replica_on(config.node)
            .map_or(ReplicaId::NONE, |replica| replica.id);
        // A group without votes and entries has just been born. Its first replica asks for the office at once, so that a
        // new cluster serves without waiting for a timeout, and its leaders are spread as the replicas are.
        let newborn = found.hard_state.vote.is_none()
            && found.last == found.compacted
            && found.compacted.index <= GENESIS_INDEX;
        let node = RawNode::new(
            &Config {
                id,
                election_ticks: config.election_ticks,
                heartbeat_ticks: config.heartbeat_ticks,
                applied: found.applied.index,
                max_size_per_msg: config.append_bytes_max,
                max_committed_size_per_ready: config.apply_bytes_max,
                max_uncommitted_size: config.uncommitted_bytes_max,
                max_inflight_msgs: config.inflight_messages_max,
                max_inflight_bytes: config.inflight_bytes_max,
                check_quorum: true,
                pre_vote: true,
                liveness_fixes: true,
                lazy_commit: true,
                read_only: match config.leases {
                    true => ReadOnlyOption::LeaseBased,
                    false => ReadOnlyOption::Safe,
                },
                // It may have promised its vote away before this start.
                vote_hold_off_ticks: match (config.leases || config.leased_before) && !newborn {
                    true => config.election_ticks,
                    false => 0,
                },
                async_storage_writes: true,
                step_down_on_removal: true,
                disable_proposal_forwarding: true,
                manual_elections: true,
                seed,
                ..Config::default()
            },
            view,
        )?;
        let first = found.descriptor.replicas.first();
        let first_campaign = (newborn && first.is_some_and(|first| first.id == id))
            .then_some((now, config.heartbeat_ticks));
        Ok(Self {
            shard,
            reported: RoleChange {
                shard,
                role: Role::Follower,
                term: node.term(),
                leader: None,
            },
            persisted: found.last.index,
            applied_durable: found.applied.index,
            descriptor: found.descriptor,
            node,
            clock: now,
            armed: 0,
            dirty: false,
            writes_in_flight: 0,
            waiting: None,
            rest: Rest::default(),
            load: Load::default(),
            first_campaign,
            called: false,
            queued_campaign: false,
            counted_settling: false,
            busy: false,
            open_lease: 0,
            touched: false,
        })
    }

    /// While a newborn group has no leader, its first replica asks again and again: whom it asks may not be there yet, as
    /// the nodes of a new cluster come one after the other.
    fn campaign_first(&mut self, config: &EngineConfig) {
        let Some((due, wait)) = self.first_campaign else {
            return;
        };
        let undecided = matches!(self.node.role(), Role::Follower | Role::PreCandidate)
            && self.node.leader().is_none();
        if !undecided {
            self.first_campaign = None;
        } else if self.clock >= due {
            self.called = true;
            let longer = (2 * wait).min(config.election_ticks);
            self.first_campaign = Some((self.clock + u64::from(wait), longer));
        }
    }

    /// Whether it should ask for votes as soon as it is its turn.
    pub(super) fn wants_campaign(&self) -> bool {
        self.called || self.node.is_election_due()
    }

    /// Asks for votes if that is still wanted. Returns whether it was.
    pub(super) fn campaign(&mut self, now: u64) -> bool {
        self.catch_up(now);
        // A leader that was heard meanwhile has taken the mark away.
        let due = self.node.take_election_due();
        if !std::mem::take(&mut self.called) && !due {
            return false;
        }
        // Refused only if the replica may not campaign; the election timeout does the rest then.
        let _ = self.node.campaign();
        true
    }

    /// Whether it is on its way to a leader that works or rests: it asks for votes, and not only for its turn to do so; or
    /// it leads, and a quorum does not have the first entry of its term yet, or nobody has asked anything of it and it does
    /// not rest yet.
    pub(super) fn is_settling(&self, config: &EngineConfig) -> bool {
        match self.node.role() {
            Role::PreCandidate | Role::Candidate => !self.queued_campaign,
            Role::Leader => {
                let idle = config.quiesce_ticks > 0 && !self.busy && !self.node.is_quiescent();
                idle || matches!(self.node.raft.has_committed_in_term(), Ok(false))
            }
            Role::Follower => false,
        }
    }

    pub(super) fn is_leader(&self) -> bool {
        self.node.role() == Role::Leader
    }

    pub(super) fn node_of(&self, id: ReplicaId) -> Option<NodeId> {
        self.descriptor.replica(id).map(|replica| replica.node)
    }

    pub(super) fn waiting_mut(&mut self) -> &mut Waiting<C> {
        self.waiting.get_or_insert_with(|| Box::new(Waiting::new()))
    }

    fn replica_on(&self, node: NodeId) -> Option<ReplicaId> {
        self.descriptor.replica_on(node).map(|replica| replica.id)
    }

    pub(super) fn leader(&self) -> Option<NodeId> {
        self.node_of(self.node.leader())
    }

    /// Brings the group's clock up to `now`. The wheel fires before anything is due, so no event lies between, except
    /// after the process stood still.
    pub(super) fn catch_up(&mut self, now: u64) {
        let ticks = now.saturating_sub(self.clock);
        if ticks > 0 {
            self.clock = now;
            self.node
                .advance_ticks(u32::try_from(ticks).unwrap_or(u32::MAX));
        }
    }

    /// See [`Engine::lease_end`](super::Engine::lease_end).
    pub(super) fn lease_end(&self) -> Option<u64> {
        let left = self.node.lease_remaining_ticks();
        (left > 0).then(|| self.clock + u64::from(left))
    }

    /// Tick at which the group next has something to do by itself.
    pub(super) fn due(&self) -> Option<u64> {
        let ticks = self.node.ticks_until_due();
        let due = ticks.map(|ticks| self.clock + u64::from(ticks));
        let first = self.first_campaign.map(|(due, _)| due);
        due.into_iter().chain(first).min()
    }

    pub(super) fn step(&mut self, message: Message) -> Result<(), raft::Error> {
        self.note_message(&message);
        self.node.step(message)
    }

    /// Takes the answer of a local thread: a log write is durable, or entries are applied.
    pub(super) fn step_local(&mut self, message: Message, out: &mut Output<C>) {
        match message.kind {
            MessageKind::StorageAppendResp => {
                self.writes_in_flight = self.writes_in_flight.saturating_sub(1);
                if message.index > self.persisted && message.term == self.node.term() {
                    self.persisted = message.index;
                }
            }
            MessageKind::StorageApplyResp => {
                if let Some(last) = message.entries.last() {
                    let applied = EntryId {
                        term: last.term,
                        index: last.index,
                    };
                    self.node.storage_mut().set_applied(applied);
                }
            }
            _ => {}
        }
        if let Err(error) = self.node.step(message) {
            // Own answers can be stale (the term has moved on), never wrong.
            debug_assert!(
                matches!(error, raft::Error::StepPeerNotFound),
                "{}: {error}",
                self.shard
            );
        }
        self.serve_confirmed(out);
    }

    /// Queues a write; refuses it if this replica can't take it now.
    pub(super) fn propose(
        &mut self,
        config: &EngineConfig,
        proposal: Proposal<C>,
        out: &mut Output<C>,
    ) {
        self.note_active();
        self.busy = true;
        if !self.is_leader() {
            let leader = self.leader();
            out.refusals
                .push((proposal.reply, Refused::NotLeader { leader }));
            return;
        }
        let waiting = self.waiting_mut();
        if waiting.queued_bytes + proposal.bytes > config.queued_bytes_max
            && !waiting.queued.is_empty()
        {
            out.refusals.push((proposal.reply, Refused::Busy));
        } else {
            waiting.queued_bytes += proposal.bytes;
            waiting.queued.push(proposal);
        }
    }

    pub(super) fn transfer_leader(&mut self, node: NodeId) -> bool {
        match self.replica_on(node) {
            Some(id) if self.is_leader() => {
                self.note_active();
                self.node.transfer_leader(id);
                true
            }
            _ => false,
        }
    }

    /// The replica on the node that is easiest to hand leadership to, other than this one. Who answered lately is known
    /// from the group's own heartbeats while it is awake, and from the liveness of nodes while it rests.
    pub(super) fn successor(&self, liveness: &Liveness) -> Option<NodeId> {
        let (own, rests) = (self.node.id(), self.node.is_quiescent());
        let members = self.node.raft.tracker().progress.iter();
        let voters = members.filter(|(id, progress)| !progress.is_learner && *id != own);
        let reachable = voters.filter_map(|(id, progress)| {
            let node = self.node_of(id)?;
            let reachable = match rests {
                true => liveness.is_alive(node),
                false => progress.recent_active,
            };
            reachable.then_some((progress.match_index, node))
        });
        reachable
            .max_by_key(|(matched, _)| *matched)
            .map(|(_, node)| node)
    }

    pub(super) fn report_unreachable(&mut self, node: NodeId) {
        if let Some(id) = self.replica_on(node) {
            // Only refused for replicas that the group does not know; then there is nothing to hold back.
            self.node.report_unreachable(id);
        }
    }

    pub(super) fn report_snapshot(&mut self, node: NodeId, ok: bool) {
        if let Some(id) = self.replica_on(node) {
            // As above.
            self.node.report_snapshot(id, ok);
        }
    }

    /// Turns what has gathered since the last turn into outputs. Returns the number of a read batch that was asked, so
    /// that the engine can bound its time.
    pub(super) fn turn(
        &mut self,
        config: &EngineConfig,
        now_ms: u64,
        next_batch: &mut u64,
        out: &mut Output<C>,
        on_proposed: &mut impl FnMut(&mut C),
    ) -> Option<u64> {
        self.campaign_first(config);
        self.propose_queued(config, now_ms, out, on_proposed);
        let asked = self.ask_reads(config, next_batch, out);
        while self.node.has_ready() {
            let ready = self.node.ready();
            self.take_ready(ready, out);
        }
        if let Some(failure) = self.node.failure() {
            out.failures.push((self.shard, failure.to_string()));
        }
        self.report_change(out);
        self.trim_cache(config);
        asked
    }

    fn propose_queued(
        &mut self,
        config: &EngineConfig,
        now_ms: u64,
        out: &mut Output<C>,
        on_proposed: &mut impl FnMut(&mut C),
    ) {
        let (leads, leader) = (self.is_leader(), self.leader());
        let waiting = self.waiting.as_deref_mut();
        let Some(waiting) = waiting.filter(|waiting| !waiting.queued.is_empty()) else {
            return;
        };
        if !leads {
            waiting.refuse_queued(leader, out);
            return;
        }
        if self.writes_in_flight >= config.writes_in_flight_max
            && waiting.queued_bytes < config.entry_bytes_target
        {
            return;
        }
        waiting.queued_bytes = 0;
        let queued = std::mem::take(&mut waiting.queued);
        let mut queued = queued.into_iter().peekable();
        while queued.peek().is_some() {
            let mut bytes = 0;
            let mut commands = Vec::with_capacity(queued.len());
            let mut replies = Vec::with_capacity(queued.len());
            while let Some(proposal) = queued.next_if(|next| {
                commands.is_empty() || bytes + next.bytes <= config.entry_bytes_target
            }) {
                bytes += proposal.bytes;
                commands.push(proposal.command);
                replies.push(proposal.reply);
            }
            match self.node.propose(encode(now_ms, commands)) {
                Ok(Some(id)) => {
                    self.load.writes += replies.len() as u64;
                    self.load.written_bytes += bytes as u64;
                    replies.iter_mut().for_each(&mut *on_proposed);
                    self.waiting_mut().proposed.push_back((id, replies));
                }
                // Forwarding is off: a leader either appends or says why not.
                Ok(None) => refuse(out, replies, &Refused::NotLeader { leader: None }),
                Err(raft::Error::ProposalDropped(reason)) => {
                    let refused = match reason {
                        raft::DropReason::Busy => Refused::Busy,
                        _ => Refused::NotLeader {
                            leader: self.leader().filter(|leader| *leader != config.node),
                        },
                    };
                    refuse(out, replies, &refused);
                }
                Err(error) => {
                    out.failures.push((self.shard, error.to_string()));
                    refuse(out, replies, &Refused::NotLeader { leader: None });
                }
            }
        }
    }

    pub(super) fn take_ready(&mut self, ready: Ready, out: &mut Output<C>) {
        for state in ready.read_states {
            self.confirm(&state, out);
        }
        for message in ready.messages {
            match message.to {
                ReplicaId::APPEND_THREAD => self.hand_out_append(message, ready.must_sync, out),
                ReplicaId::APPLY_THREAD => self.hand_out_apply(message, out),
                _ => self.send(message, out),
            }
        }
    }

    fn send(&self, message: Message, out: &mut Output<C>) {
        // A replica that the descriptor does not know (any more) has no address; Raft sends again if it must.
        let Some(node) = self.node_of(message.to) else {
            return;
        };
        let shard = self.shard;
        if message.kind == MessageKind::Snap {
            out.snapshots.push(SnapshotSend {
                node,
                shard,
                message,
            });
        } else {
            out.messages.push(Outgoing {
                node,
                shard,
                message,
            });
        }
    }

    fn hand_out_append(&mut self, message: Message, must_sync: bool, out: &mut Output<C>) {
        let hard_state = raft::HardState {
            term: message.term,
            vote: message.vote,
            commit: message.commit,
        };
        let mut release = Release::default();
        for response in message.responses {
            if response.kind == MessageKind::StorageAppendResp {
                self.writes_in_flight += 1;
            }
            if response.to == self.node.id() {
                release.local.push((self.shard, response));
            } else if let Some(node) = self.node_of(response.to) {
                release.messages.push(Outgoing {
                    node,
                    shard: self.shard,
                    message: response,
                });
            }
        }
        let must_sync = must_sync || message.snapshot.is_some();
        if let Some(snapshot) = &message.snapshot {
            self.node.storage_mut().install(&snapshot.meta);
            // What was proposed here below the snapshot may or may not be part of it.
            if let Some(waiting) = &mut self.waiting {
                while let Some((_, replies)) =
                    waiting.pop_proposed(|id| id.index <= snapshot.meta.index)
                {
                    refuse(out, replies, &Refused::OutcomeUnknown);
                }
            }
        }
        // Entries that came behind a snapshot before it was handed out are in the same write.
        self.node.storage_mut().append(&message.entries);
        out.appends.push(LogAppend {
            shard: self.shard,
            hard_state: (!hard_state.is_empty()).then_some(hard_state),
            entries: message.entries,
            snapshot: message.snapshot,
            must_sync,
            release,
        });
    }

    fn hand_out_apply(&mut self, message: Message, out: &mut Output<C>) {
        let mut conf_states = Vec::new();
        let mut waiters = Vec::new();
        for entry in &message.entries {
            if entry.kind != EntryKind::Normal
                && let Some(conf_state) = self.change_membership(entry, out)
            {
                conf_states.push((entry.index, conf_state));
            }
            // Terms never fall along a log: behind a committed entry of a later term nothing of ours will ever be, even if
            // no entry comes to its index for a long time.
            let Some(waiting) = &mut self.waiting else {
                continue;
            };
            while let Some((id, replies)) =
                waiting.pop_proposed(|id| id.index <= entry.index || id.term < entry.term)
            {
                if id.index == entry.index && id.term == entry.term {
                    waiters.push((id, replies));
                } else {
                    refuse(out, replies, &Refused::Superseded);
                }
            }
        }
        out.applies.push(Apply {
            shard: self.shard,
            entries: message.entries,
            conf_states,
            waiters,
            done: message.responses,
        });
    }

    fn change_membership(&mut self, entry: &Entry, out: &mut Output<C>) -> Option<ConfState> {
        let change = ConfChangeAny::decode(entry.kind, &entry.data)
            .map_err(|error| error.to_string())
            .and_then(|change| {
                self.node
                    .apply_conf_change(&change.into_v2())
                    .map_err(|error| error.to_string())
            });
        match change {
            Ok(conf_state) => {
                self.node.storage_mut().set_conf_state(conf_state.clone());
                Some(conf_state)
            }
            Err(error) => {
                out.failures.push((
                    self.shard,
                    format!(
                        "committed membership change at index {}: {error}",
                        entry.index
                    ),
                ));
                None
            }
        }
    }

    fn report_change(&mut self, out: &mut Output<C>) {
        let change = RoleChange {
            shard: self.shard,
            role: self.node.role(),
            term: self.node.term(),
            leader: self.leader(),
        };
        if change == self.reported {
            return;
        }
        self.reported = change;
        self.note_active();
        out.changes.push(change);
        self.give_up_reads(out);
        if change.role != Role::Leader
            && let Some(waiting) = &mut self.waiting
        {
            waiting.refuse_queued(change.leader, out);
        }
    }

    /// Forgets cached entries that nobody is likely to ask for: durable, applied, and acknowledged by the followers that
    /// keep up.
    fn trim_cache(&mut self, config: &EngineConfig) {
        let view = self.node.storage();
        let bytes = view.cache_bytes();
        if bytes == 0 {
            return;
        }
        let mut upto = view.applied().index.min(self.persisted);
        if self.is_leader() && bytes <= config.cache_bytes_per_shard {
            upto = upto.min(self.slowest_match(true));
        }
        self.node.storage_mut().trim(upto);
    }

    /// As leader: how far all other members are, or only those that were heard from lately.
    fn slowest_match(&self, active_only: bool) -> Index {
        let own = self.node.id();
        let members = self.node.raft.tracker().progress.iter();
        members
            .filter(|(id, progress)| *id != own && (progress.recent_active || !active_only))
            .map(|(_, progress)| progress.match_index)
            .min()
            .unwrap_or(Index(u64::MAX))
    }

    /// Notes that a flush made the applied state durable up to `index`, and cuts the log if it is worth it.
    pub(super) fn flushed(&mut self, config: &EngineConfig, index: Index, out: &mut Output<C>) {
        self.applied_durable = self.applied_durable.max(index);
        let view = self.node.storage();
        let compacted = view.compacted().index;
        let log_bytes = view.log_bytes();
        let mut upto = self.applied_durable;
        if self.is_leader() && log_bytes <= config.log_bytes_per_shard {
            upto = upto.min(self.slowest_match(false));
        }
        let entries = upto.0.saturating_sub(compacted.0);
        if entries == 0
            || (entries < config.compact_entries_min && log_bytes < config.compact_bytes_min)
        {
            return;
        }
        // Slow followers get by without a snapshot as long as the reserve lasts.
        if log_bytes <= config.log_bytes_per_shard {
            upto = Index(
                upto.0
                    .saturating_sub(config.reserve_entries.min(entries / 2)),
            );
        }
        if upto <= compacted {
            return;
        }
        match raft::storage::Storage::term(self.node.storage(), upto) {
            Ok(term) => {
                let upto = EntryId { term, index: upto };
                self.node.storage_mut().compact(upto);
                out.compactions.push(Compaction {
                    shard: self.shard,
                    upto,
                });
            }
            Err(error) => out.failures.push((self.shard, error.to_string())),
        }
    }
}

fn encode(time_ms: u64, commands: Vec<Command>) -> Bytes {
    CommandBatch { time_ms, commands }.encode_to_vec().into()
}

pub(super) fn refuse<C>(out: &mut Output<C>, replies: Vec<C>, refused: &Refused) {
    let refusals = replies.into_iter().map(|reply| (reply, refused.clone()));
    out.refusals.extend(refusals);
}

pub(super) fn pop_if<T>(queue: &mut VecDeque<T>, test: impl FnOnce(&T) -> bool) -> Option<T> {
    if queue.front().is_some_and(test) {
        queue.pop_front()
    } else {
        None
    }
}
