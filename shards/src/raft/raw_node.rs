//! The way to use a replica: events go in by methods, work comes out in [`Ready`] (etcd `rawnode.go`).
//!
//! What must be done with a [`Ready`], and in which order, stands in [`super`].

use super::confchange::{
    ConfChange, ConfChangeAny, ConfChangeKind, ConfChangeSingle, ConfChangeV2,
};
use super::config::Config;
use super::error::{Error, StoredStateError};
use super::progress::Progress;
use super::raft::{Applied, Raft, is_local_message, is_response_message};
use super::read_only::ReadState;
use super::storage::{Storage, StorageError};
use super::tracker;
use super::types::{
    ConfState, Entry, EntryId, HardState, Index, Message, MessageKind, ReplicaId, Role, Snapshot,
    SoftState, Term,
};
use bytes::Bytes;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// How far the stored commit index may be behind ([`Config::lazy_commit`]), in entries.
const LAZY_COMMITS: u64 = 64;

/// Work for the embedder: everything that has come up since the last one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// Role and leader, if changed.
    pub soft_state: Option<SoftState>,
    /// Term, vote and commit index to be made durable, if changed.
    pub hard_state: Option<HardState>,
    /// Answers to read requests of this replica.
    pub read_states: Vec<ReadState>,
    /// With synchronous writes: entries to be made durable, replacing what the storage has from the index of the first
    /// one on. With asynchronous ones they are in the `StorageAppend` among `messages`, as is the snapshot.
    pub entries: Vec<Entry>,
    /// With synchronous writes: a snapshot to be made durable before `entries`, replacing the whole log and the state
    /// machine.
    pub snapshot: Option<Box<Snapshot>>,
    /// With synchronous writes: entries to be applied to the state machine, in this order. With asynchronous ones they
    /// are in the `StorageApply` among `messages`.
    pub committed_entries: Vec<Entry>,
    /// Messages to be sent: with synchronous writes, after the other parts are durable; with asynchronous ones, at
    /// once. In the latter case the writes themselves are among them.
    pub messages: Vec<Message>,
    /// Whether the write must be synced before messages are sent. A changed commit index alone need not be.
    pub must_sync: bool,
}

impl Ready {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.soft_state.is_none()
            && self.hard_state.is_none()
            && self.read_states.is_empty()
            && self.entries.is_empty()
            && self.snapshot.is_none()
            && self.committed_entries.is_empty()
            && self.messages.is_empty()
    }
}

/// A member of a new group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Its id.
    pub id: ReplicaId,
    /// Opaque bytes that go into the log with it.
    pub context: Bytes,
}

/// Where a replica stands, for people and tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The own id.
    pub id: ReplicaId,
    /// Term, vote, commit index.
    pub hard_state: HardState,
    /// Role and leader.
    pub soft_state: SoftState,
    /// Highest index applied.
    pub applied: Index,
    /// To whom leadership is being handed over, or none.
    pub lead_transferee: ReplicaId,
    /// The membership in force.
    pub config: tracker::Config,
    /// What a leader knows of the members, ascending by id; empty on others.
    pub progress: Vec<(ReplicaId, Progress)>,
}

/// What follows when a [`Ready`] of synchronous writes is done.
#[derive(Debug, Default)]
struct OnAdvance {
    /// Messages to the replica itself.
    steps: Vec<Message>,
    applied: Option<Applied>,
}

/// One replica of a group.
#[derive(Debug)]
pub struct RawNode<S> {
    /// The state behind it, to look at. Changing it is for tests.
    pub raft: Raft<S>,
    prev_soft_state: SoftState,
    prev_hard_state: HardState,
    /// With synchronous writes: what follows when the last [`Ready`] is done.
    on_advance: Option<Box<OnAdvance>>,
    failure: Option<Box<StorageError>>,
    async_storage_writes: bool,
}

impl<S: Storage> RawNode<S> {
    /// A replica as of its storage, as follower.
    ///
    /// # Errors
    /// If the configuration or what is stored contradicts itself, or the storage fails.
    pub fn new(config: &Config, storage: S) -> Result<Self, Error> {
        let raft = Raft::new(config, storage)?;
        Ok(Self {
            prev_soft_state: raft.soft_state(),
            prev_hard_state: raft.hard_state(),
            raft,
            on_advance: None,
            failure: None,
            async_storage_writes: config.async_storage_writes,
        })
    }

    /// Starts a new group: its members become the first entries of the log, committed at once. To be called on every
    /// member with the same list; simpler is a storage that starts with a snapshot of the membership.
    ///
    /// # Errors
    /// If the storage is not empty, or there are no members.
    pub fn bootstrap(&mut self, peers: &[Peer]) -> Result<(), Error> {
        if peers.is_empty() {
            return Err(StoredStateError::Bootstrap("a group needs at least one member").into());
        }
        if self.raft.log().last_index() != Index(0) {
            return Err(StoredStateError::Bootstrap("the storage has a log already").into());
        }
        let mut entries = Vec::with_capacity(peers.len());
        let mut changes = Vec::with_capacity(peers.len());
        for (index, peer) in (1..).map(Index).zip(peers) {
            let change = ConfChange {
                change: ConfChangeSingle {
                    kind: ConfChangeKind::AddNode,
                    id: peer.id,
                },
                context: peer.context.clone(),
            };
            let (kind, data) = ConfChangeAny::V1(change.clone()).encode();
            entries.push(Entry {
                term: Term(1),
                index,
                kind,
                data,
            });
            changes.push(ConfChangeV2::from(change));
        }
        self.guard(|raft| {
            raft.bootstrap(entries);
            for change in &changes {
                raft.apply_conf_change(change)?;
            }
            Ok(())
        })?;
        // Nothing of this is stored yet, the hard state included.
        self.prev_hard_state = HardState::default();
        Ok(())
    }

    /// Runs something on the replica unless its storage has failed, and remembers if it does.
    #[inline]
    fn guard<T>(&mut self, run: impl FnOnce(&mut Raft<S>) -> Result<T, Error>) -> Result<T, Error> {
        if let Some(failure) = &self.failure {
            return Err(Error::Storage(StorageError::clone(failure)));
        }
        let run = AssertUnwindSafe(|| run(&mut self.raft));
        let result = catch_unwind(run).unwrap_or_else(|cause| self.last_words(cause));
        if let Err(Error::Storage(failure)) = &result {
            self.failure = Some(Box::new(failure.clone()));
        }
        result
    }

    /// An assertion failed in a part that doesn't see the whole: goes on panicking, with the state of the replica.
    #[cold]
    fn last_words(&self, cause: Box<dyn Any + Send>) -> ! {
        let text = cause.downcast_ref::<String>().map(String::as_str);
        let what = text.or_else(|| cause.downcast_ref::<&str>().copied());
        let what = what.unwrap_or("a broken invariant");
        let state = self.raft.describe();
        if what.ends_with(&state) {
            resume_unwind(cause);
        }
        panic!("{what}: {state}");
    }

    /// The storage's failure at which this replica stopped. From then on it does nothing, and every call that can
    /// fail returns this error: what it knows can't be trusted any more. It must be started anew from storage.
    #[must_use]
    pub fn failure(&self) -> Option<&StorageError> {
        self.failure.as_deref()
    }

    /// Passes one tick. A failing storage shows in [`RawNode::failure`].
    #[inline]
    pub fn tick(&mut self) {
        if self.raft.count(1) {
            self.timed_out();
        }
    }

    /// Apart from [`RawNode::tick`], so that a tick at which nothing is due needs no frame on the stack.
    #[cold]
    #[inline(never)]
    fn timed_out(&mut self) {
        // Other errors than the storage's don't come up without a message.
        let _ = self.guard(Raft::timed_out);
    }

    /// Passes `ticks` ticks at once, as that many calls of [`RawNode::tick`] would. A failing storage shows in
    /// [`RawNode::failure`].
    pub fn advance_ticks(&mut self, ticks: u32) {
        // Other errors than the storage's don't come up without a message.
        let _ = self.guard(|raft| raft.advance_ticks(ticks));
    }

    /// After how many ticks something may happen by itself, at least 1; `None` if nothing will. Then no timer is
    /// needed, but ticks must still be passed in before the next event: timeouts and leases are counted in them.
    #[must_use]
    pub fn ticks_until_due(&self) -> Option<u32> {
        self.raft.ticks_until_due()
    }

    /// Starts an election, as after a timeout. Does nothing on a leader, on who may not lead, and while a committed
    /// membership change is not applied; while the own vote is promised away it waits until that is over.
    ///
    /// # Errors
    /// If the storage fails.
    pub fn campaign(&mut self) -> Result<(), Error> {
        self.guard(|raft| {
            raft.step(Message {
                kind: MessageKind::Hup,
                ..Message::default()
            })
        })
    }

    /// Whether the election timeout has passed since this was last asked ([`Config::manual_elections`]). What follows
    /// is up to the caller: [`RawNode::campaign`] now, later or not at all.
    pub fn take_election_due(&mut self) -> bool {
        self.raft.take_election_due()
    }

    /// Whether [`RawNode::take_election_due`] would say so.
    #[must_use]
    pub fn is_election_due(&self) -> bool {
        self.raft.is_election_due()
    }

    /// Sends heartbeats now, if leading ([`Config::manual_heartbeats`]).
    pub fn heartbeat_now(&mut self) {
        self.notify(MessageKind::Beat, self.raft.id());
    }

    /// Proposes data. Returns where they were appended if this replica leads, `None` if they were forwarded. Neither
    /// is a promise: they are committed when they come up in [`Ready::committed_entries`] with that very position.
    ///
    /// # Errors
    /// [`Error::ProposalDropped`] with the reason; [`Error::Storage`].
    pub fn propose(&mut self, data: Bytes) -> Result<Option<EntryId>, Error> {
        self.propose_entries(vec![Entry {
            data,
            ..Entry::default()
        }])
    }

    /// Proposes several entries at once: they get consecutive positions, of which the first is returned, and travel
    /// together.
    ///
    /// # Errors
    /// As [`RawNode::propose`]; all or none are dropped. An empty batch is an error.
    pub fn propose_batch(&mut self, batch: Vec<Bytes>) -> Result<Option<EntryId>, Error> {
        let entries = batch.into_iter().map(|data| Entry {
            data,
            ..Entry::default()
        });
        self.propose_entries(entries.collect())
    }

    /// Proposes a membership change. One that doesn't fit now (another is under way, or it leaves a configuration that
    /// is not joint …) is appended as an empty entry instead.
    ///
    /// # Errors
    /// As [`RawNode::propose`].
    pub fn propose_conf_change(
        &mut self,
        change: impl Into<ConfChangeAny>,
    ) -> Result<Option<EntryId>, Error> {
        let (kind, data) = change.into().encode();
        self.propose_entries(vec![Entry {
            kind,
            data,
            ..Entry::default()
        }])
    }

    fn propose_entries(&mut self, entries: Vec<Entry>) -> Result<Option<EntryId>, Error> {
        self.guard(|raft| raft.propose(entries))
    }

    /// Puts a committed membership change in force; to be called when its entry is applied, before the application
    /// is acknowledged. Returns the membership to be stored with the applied state.
    ///
    /// # Errors
    /// [`Error::ConfChange`] if the change doesn't fit: it has no effect then, on no replica; [`Error::Storage`].
    pub fn apply_conf_change(&mut self, change: &ConfChangeV2) -> Result<ConfState, Error> {
        self.guard(|raft| raft.apply_conf_change(change))
    }

    /// Takes in a message from another replica or from a storage thread.
    ///
    /// # Errors
    /// [`Error::StepLocalMessage`], [`Error::StepPeerNotFound`] and [`Error::Protocol`] for messages that must not
    /// come, [`Error::ProposalDropped`] and [`Error::ReadDropped`] for requests that can't be served, all without an
    /// effect other than that a higher term is followed; [`Error::Storage`].
    pub fn step(&mut self, message: Message) -> Result<(), Error> {
        if !message.from.is_storage_thread() {
            if is_local_message(message.kind) {
                return Err(Error::StepLocalMessage);
            }
            if is_response_message(message.kind)
                && !self.raft.tracker().progress.contains(message.from)
            {
                return Err(Error::StepPeerNotFound);
            }
        }
        self.guard(|raft| raft.step(message))
    }

    /// Steps a message that can only fail with the storage, which [`RawNode::failure`] tells.
    fn notify(&mut self, kind: MessageKind, from: ReplicaId) {
        let message = Message {
            kind,
            from,
            ..Message::default()
        };
        let _ = self.guard(|raft| raft.step(message));
    }

    /// The last message to `id` could not be sent.
    pub fn report_unreachable(&mut self, id: ReplicaId) {
        self.notify(MessageKind::Unreachable, id);
    }

    /// The snapshot to `id` was sent, or could not be. Until one of both is reported, or it acknowledges one, it gets
    /// nothing.
    pub fn report_snapshot(&mut self, id: ReplicaId, ok: bool) {
        let message = Message {
            kind: MessageKind::SnapStatus,
            from: id,
            reject: !ok,
            ..Message::default()
        };
        let _ = self.guard(|raft| raft.step(message));
    }

    /// Hands leadership over to `id`, within an election timeout or not at all. A follower passes the wish on.
    pub fn transfer_leader(&mut self, id: ReplicaId) {
        self.notify(MessageKind::TransferLeader, id);
    }

    /// Forgets who leads, so that votes are granted again at once: for a caller that knows the leader to be dead. No
    /// effect on leaders and candidates, nor while a leader may count on the promise not to vote (lease-based reads).
    pub fn forget_leader(&mut self) {
        self.notify(MessageKind::ForgetLeader, ReplicaId::NONE);
    }

    /// Asks for a read index; the answer comes in [`Ready::read_states`] with the same context. It may not come at
    /// all: messages get lost, leaders change. The caller needs a timeout of its own, and may ask again.
    ///
    /// # Errors
    /// [`Error::ReadDropped`] with the reason; [`Error::Storage`].
    pub fn read_index(&mut self, context: Bytes) -> Result<(), Error> {
        self.guard(|raft| {
            raft.step(Message {
                kind: MessageKind::ReadIndex,
                context,
                ..Message::default()
            })
        })
    }

    /// For how many more ticks this leader may serve reads at its commit index without asking; 0 if it has no lease.
    #[must_use]
    pub fn lease_remaining_ticks(&self) -> u32 {
        self.raft.lease_remaining_ticks()
    }

    /// Reads were served by the lease, at the commit index, without asking: it is renewed as long as that goes on. To be
    /// called before the answers' messages are taken.
    pub fn use_lease(&mut self) {
        self.raft.use_lease();
    }

    /// See [`Raft::quiesce`].
    pub fn quiesce(&mut self, absent: impl Fn(ReplicaId) -> bool) -> bool {
        !self.has_ready() && self.raft.quiesce(absent)
    }

    /// See [`Raft::announce_quiescence`].
    pub fn announce_quiescence(&mut self) {
        self.raft.announce_quiescence();
    }

    /// See [`Raft::vouch_for_leader`].
    pub fn vouch_for_leader(&mut self, ticks: u32) {
        self.raft.vouch_for_leader(ticks);
    }

    /// See [`Raft::wake`].
    pub fn wake(&mut self) {
        self.raft.wake();
    }

    /// Whether the timers rest.
    #[must_use]
    pub fn is_quiescent(&self) -> bool {
        self.raft.is_quiescent()
    }

    /// Whether [`RawNode::ready`] would return something to do.
    #[must_use]
    pub fn has_ready(&self) -> bool {
        if self.failure.is_some() {
            return false;
        }
        let log = self.raft.log();
        self.raft.has_output()
            || !log.next_unstable().is_empty()
            || log.has_next_committed(self.applies_unstable())
            || self.changed_hard_state().is_some()
            || self.raft.soft_state() != self.prev_soft_state
            || log.unstable().next_snapshot().is_some()
    }

    /// The hard state, if it is to be stored anew. Term and vote are whenever they change, and the commit index with a
    /// snapshot, whose beginning of the log it must not be below. Otherwise a lazy commit index waits: it promises
    /// nothing, and who has lost it learns it from the leader.
    fn changed_hard_state(&self) -> Option<HardState> {
        let (new, prev) = (self.raft.hard_state(), self.prev_hard_state);
        let log = self.raft.log();
        let waits = self.raft.lazy_commit()
            && (new.term, new.vote) == (prev.term, prev.vote)
            && new.commit.0 < prev.commit.0 + LAZY_COMMITS
            && log.unstable().next_snapshot().is_none();
        (!waits && new != prev && !new.is_empty()).then_some(new)
    }

    /// Whether committed entries may be applied before they are durable here: with synchronous writes, as they are
    /// written before by the same hand.
    fn applies_unstable(&self) -> bool {
        !self.async_storage_writes
    }

    /// Takes the work that has come up. With synchronous writes it must be done, and [`RawNode::advance`] called,
    /// before the next one is taken. If committed entries can't be read it is empty, and [`RawNode::failure`] says so.
    ///
    /// # Panics
    /// With synchronous writes, if the last one has not been advanced.
    pub fn ready(&mut self) -> Ready {
        let applies_unstable = self.applies_unstable();
        let Ok(committed_entries) =
            self.guard(|raft| Ok(raft.log().next_committed(applies_unstable)?))
        else {
            return Ready::default();
        };
        let soft_state = self.raft.soft_state();
        let hard_state = self.changed_hard_state();
        let log = self.raft.log();
        let entries = log.next_unstable().to_vec();
        let snapshot = log
            .unstable()
            .next_snapshot()
            .map(|snapshot| Box::new(snapshot.clone()));
        let prev = self.prev_hard_state;
        let must_sync = !entries.is_empty()
            || hard_state.is_some_and(|new| new.term != prev.term || new.vote != prev.vote);
        let mut ready = Ready {
            soft_state: (soft_state != self.prev_soft_state).then_some(soft_state),
            hard_state,
            read_states: self.raft.take_read_states(),
            entries,
            snapshot,
            committed_entries,
            messages: self.raft.take_messages(),
            must_sync,
        };
        let waiting = self.raft.take_messages_after_append();
        let applying = Applied::new(&ready.committed_entries);
        if self.async_storage_writes {
            self.add_storage_messages(&mut ready, waiting);
        } else {
            self.plan_advance(&mut ready, waiting, applying);
        }
        self.prev_soft_state = soft_state;
        self.prev_hard_state = ready.hard_state.unwrap_or(prev);
        let log = self.raft.log_mut();
        log.accept_unstable();
        if let Some(applying) = applying {
            log.accept_applying(applying.index, applying.size, applies_unstable);
        }
        ready
    }

    /// With asynchronous writes: the writes become messages, with what may be sent after them attached.
    fn add_storage_messages(&self, ready: &mut Ready, waiting: Vec<Message>) {
        let id = self.raft.id();
        let entries = std::mem::take(&mut ready.entries);
        let snapshot = ready.snapshot.take();
        let committed = std::mem::take(&mut ready.committed_entries);
        if !entries.is_empty()
            || ready.hard_state.is_some()
            || snapshot.is_some()
            || !waiting.is_empty()
        {
            let hard_state = ready.hard_state.unwrap_or_default();
            let mut responses = waiting;
            // Behind the replica's own acknowledgement, so that its terms are still looked up in the unstable log.
            responses.extend(self.storage_append_response(snapshot.as_deref()));
            ready.messages.push(Message {
                kind: MessageKind::StorageAppend,
                to: ReplicaId::APPEND_THREAD,
                from: id,
                term: hard_state.term,
                vote: hard_state.vote,
                commit: hard_state.commit,
                entries,
                snapshot,
                responses,
                ..Message::default()
            });
        }
        if !committed.is_empty() {
            // What says that these entries are applied. Of no term: they are committed.
            let response = Message {
                kind: MessageKind::StorageApplyResp,
                to: id,
                from: ReplicaId::APPLY_THREAD,
                entries: committed.clone(),
                ..Message::default()
            };
            ready.messages.push(Message {
                kind: MessageKind::StorageApply,
                to: ReplicaId::APPLY_THREAD,
                from: id,
                entries: committed,
                responses: vec![response],
                ..Message::default()
            });
        }
    }

    /// With synchronous writes: messages that wait for the write go out behind it, those to the replica itself and
    /// the acknowledgements of the write are stepped when it is done.
    fn plan_advance(
        &mut self,
        ready: &mut Ready,
        waiting: Vec<Message>,
        applying: Option<Applied>,
    ) {
        let append = self.storage_append_response(ready.snapshot.as_deref());
        let id = self.raft.id();
        let on_advance = self.on_advance.get_or_insert_default();
        assert!(
            on_advance.steps.is_empty() && on_advance.applied.is_none(),
            "a Ready was taken before the last one was advanced: {}",
            self.raft.describe()
        );
        for message in waiting {
            if message.to == id {
                on_advance.steps.push(message);
            } else {
                ready.messages.push(message);
            }
        }
        on_advance.steps.extend(append);
        on_advance.applied = applying;
    }

    /// What says that the entries and the snapshot of this and all earlier [`Ready`]s are durable.
    ///
    /// It names the last entry of the log whenever anything is unstable, also if this [`Ready`] has no entries: an
    /// acknowledgement of a lower term is ignored, because the entries it speaks of may have been overwritten, and
    /// overwritten again by equal ones whose write is still on the way. So after a change of term the next write, of
    /// the hard state at least, must acknowledge for it.
    fn storage_append_response(&self, snapshot: Option<&Snapshot>) -> Option<Message> {
        let log = self.raft.log();
        let last = log.unstable().entries().last();
        if last.is_none() && snapshot.is_none() {
            return None;
        }
        Some(Message {
            kind: MessageKind::StorageAppendResp,
            to: self.raft.id(),
            from: ReplicaId::APPEND_THREAD,
            term: self.raft.term(),
            log_term: last.map_or(Term(0), |entry| entry.term),
            index: last.map_or(Index(0), |entry| entry.index),
            snapshot: snapshot.cloned().map(Box::new),
            ..Message::default()
        })
    }

    /// Says that the last [`Ready`] is done: durable, applied, sent. A failing storage shows in [`RawNode::failure`].
    ///
    /// # Panics
    /// With asynchronous writes, where messages from the storage threads say so.
    pub fn advance(&mut self) {
        assert!(
            !self.async_storage_writes,
            "advance must not be called with asynchronous storage writes"
        );
        let Some(mut on_advance) = self.on_advance.take() else {
            return;
        };
        for message in on_advance.steps.drain(..) {
            // Outdated ones are refused, which is as it should be.
            let _ = self.guard(|raft| raft.step(message));
        }
        if let Some(applied) = on_advance.applied.take() {
            let _ = self.guard(|raft| raft.entries_applied(applied));
        }
        self.on_advance = Some(on_advance);
    }

    /// Where the replica stands. Copies the membership and, on a leader, the progress of all members.
    #[must_use]
    pub fn status(&self) -> Status {
        let raft = &self.raft;
        let progress = match raft.role() {
            Role::Leader => {
                let progress = raft.tracker().progress.iter();
                progress
                    .map(|(id, progress)| (id, progress.clone()))
                    .collect()
            }
            Role::Follower | Role::Candidate | Role::PreCandidate => Vec::new(),
        };
        Status {
            id: raft.id(),
            hard_state: raft.hard_state(),
            soft_state: raft.soft_state(),
            applied: self.applied(),
            lead_transferee: raft.lead_transferee(),
            config: raft.tracker().config.clone(),
            progress,
        }
    }

    /// The own id.
    #[must_use]
    pub fn id(&self) -> ReplicaId {
        self.raft.id()
    }

    /// The own role.
    #[must_use]
    pub fn role(&self) -> Role {
        self.raft.role()
    }

    /// Latest term seen.
    #[must_use]
    pub fn term(&self) -> Term {
        self.raft.term()
    }

    /// The leader as far as known.
    #[must_use]
    pub fn leader(&self) -> ReplicaId {
        self.raft.lead()
    }

    /// Highest index known to be committed.
    #[must_use]
    pub fn committed(&self) -> Index {
        self.raft.log().committed()
    }

    /// Highest index acknowledged as applied.
    #[must_use]
    pub fn applied(&self) -> Index {
        self.raft.log().applied()
    }

    /// Index of the last entry, durable or not.
    #[must_use]
    pub fn last_index(&self) -> Index {
        self.raft.log().last_index()
    }

    /// What must be durable beside the entries.
    #[must_use]
    pub fn hard_state(&self) -> HardState {
        self.raft.hard_state()
    }

    /// Role and leader.
    #[must_use]
    pub fn soft_state(&self) -> SoftState {
        self.raft.soft_state()
    }

    /// The storage.
    #[must_use]
    pub fn storage(&self) -> &S {
        self.raft.log().storage()
    }

    /// The storage, to write to.
    pub fn storage_mut(&mut self) -> &mut S {
        self.raft.log_mut().storage_mut()
    }
}
