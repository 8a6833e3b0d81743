//! What all sections share: replicas and messages in few words, and one replica driven by hand.

pub(crate) use crate::network::Network;
pub(crate) use crate::words::*;
pub(crate) use flotilla_shards::raft::MessageKind::*;
pub(crate) use flotilla_shards::raft::Role::{Candidate, Follower, Leader, PreCandidate};
pub(crate) use flotilla_shards::raft::confchange::{
    ConfChange, ConfChangeAny, ConfChangeKind, ConfChangeSingle, ConfChangeTransition,
    ConfChangeV2, parse_operations,
};
pub(crate) use flotilla_shards::raft::error::{ConfigError, ProtocolError, StoredStateError};
pub(crate) use flotilla_shards::raft::inflights::Inflights;
pub(crate) use flotilla_shards::raft::progress::{Progress, ProgressState};
pub(crate) use flotilla_shards::raft::raft_log::{LogSlice, RaftLog};
pub(crate) use flotilla_shards::raft::size::{NO_LIMIT, entries_size, entry_size, limit_size};
pub(crate) use flotilla_shards::raft::unstable::Unstable;
pub(crate) use flotilla_shards::raft::{
    ConfState, Config, DropReason, Entry, EntryId, EntryKind, Error, HardState, Index,
    MemoryStorage, Message, MessageKind, Peer, Raft, RawNode, ReadOnlyOption, Ready, ReplicaId,
    Role, Snapshot, SnapshotMeta, SoftState, Storage, StorageError, Term,
};
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Whether `f` panics.
pub(crate) fn panics<T>(f: impl FnOnce() -> T) -> bool {
    catch_unwind(AssertUnwindSafe(f)).is_err()
}

/// A replica to be built: election tick 10, heartbeat tick 1, no size limits, an empty log.
pub(crate) struct Setup {
    pub(crate) config: Config,
    pub(crate) storage: MemoryStorage,
}

impl Setup {
    pub(crate) fn new(id: u64, voters: &[u64]) -> Self {
        Self::of(id, members(voters, &[]))
    }

    pub(crate) fn of(id: u64, conf_state: ConfState) -> Self {
        Self {
            config: Config {
                max_size_per_msg: NO_LIMIT,
                seed: id,
                ..Config::new(ReplicaId(id))
            },
            storage: MemoryStorage::with_conf_state(conf_state),
        }
    }

    /// With a log over a snapshot instead of an empty one.
    pub(crate) fn over(mut self, snapshot: Snapshot) -> Self {
        let (term, commit) = (snapshot.meta.term, snapshot.meta.index);
        self.storage
            .apply_snapshot(snapshot)
            .expect("the storage is new");
        self.storage.set_hard_state(HardState {
            term,
            commit,
            ..HardState::default()
        });
        self
    }

    /// With entries behind what is there; the own term becomes that of the last one.
    pub(crate) fn log(mut self, terms: &[u64]) -> Self {
        let first = self.storage.last_index().next();
        self.storage
            .append(&entries(first.0, terms))
            .expect("no gap");
        let term = terms.last().copied().unwrap_or_default();
        self.term(term)
    }

    pub(crate) fn term(mut self, term: u64) -> Self {
        self.storage.set_hard_state(HardState {
            term: Term(term),
            ..self.storage.hard_state()
        });
        self
    }

    pub(crate) fn vote(mut self, vote: u64) -> Self {
        self.storage.set_hard_state(HardState {
            vote: ReplicaId(vote),
            ..self.storage.hard_state()
        });
        self
    }

    pub(crate) fn commit(mut self, commit: u64) -> Self {
        self.storage.set_hard_state(HardState {
            commit: Index(commit),
            ..self.storage.hard_state()
        });
        self
    }

    pub(crate) fn with(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self
    }

    pub(crate) fn node(self) -> Node {
        Node {
            raft: Raft::new(&self.config, self.storage).expect("a sound setup"),
            outbox: Vec::new(),
        }
    }

    pub(crate) fn raw(self) -> RawNode<MemoryStorage> {
        RawNode::new(&self.config, self.storage).expect("a sound setup")
    }

    /// Leader at once, with nothing drained.
    pub(crate) fn leader(self) -> Node {
        let mut node = self.node();
        node.become_candidate();
        node.become_leader();
        node
    }
}

/// A replica without [`RawNode`] around it. Nothing is written to its storage unless asked for.
pub(crate) struct Node {
    raft: Raft<MemoryStorage>,
    outbox: Vec<Message>,
}

impl Deref for Node {
    type Target = Raft<MemoryStorage>;

    fn deref(&self) -> &Self::Target {
        &self.raft
    }
}

impl DerefMut for Node {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.raft
    }
}

impl Node {
    /// Steps a message of a correct sender: requests may be dropped, but nothing else may be wrong with it.
    pub(crate) fn deliver(&mut self, message: Message) {
        let shown = format!("{message:?}");
        match self.raft.step(message) {
            Ok(()) | Err(Error::ProposalDropped(_) | Error::ReadDropped(_)) => {}
            Err(error) => panic!("{error} on {shown}"),
        }
    }

    /// Steps messages to the replica itself and sends the others.
    pub(crate) fn release(&mut self, messages: Vec<Message>) {
        for message in messages {
            if message.to == self.raft.id() {
                self.deliver(message);
            } else {
                self.outbox.push(message);
            }
        }
    }

    /// Treats everything that waits for stable storage as persisted.
    pub(crate) fn drain(&mut self) {
        loop {
            let waiting = self.raft.take_messages_after_append();
            if waiting.is_empty() {
                return;
            }
            self.release(waiting);
        }
    }

    /// Drains, and takes what was sent.
    pub(crate) fn sent(&mut self) -> Vec<Message> {
        self.drain();
        let mut sent = self.raft.take_messages();
        sent.append(&mut self.outbox);
        sent
    }

    /// Steps a message and takes what that sent, drained.
    pub(crate) fn answer(&mut self, message: Message) -> Vec<Message> {
        self.deliver(message);
        self.sent()
    }

    pub(crate) fn propose_data(&mut self, text: &str) {
        self.raft
            .propose(vec![data(text)])
            .expect("the proposal is accepted");
    }

    /// Ticks so many times.
    pub(crate) fn ticks(&mut self, ticks: u32) {
        for _ in 0..ticks {
            self.raft
                .tick()
                .expect("the storage in memory does not fail");
        }
    }

    /// Writes what is unstable to the storage, and drains.
    pub(crate) fn persist(&mut self) {
        let hard_state = self.raft.hard_state();
        let last = self
            .raft
            .log()
            .last_entry_id()
            .expect("the last term is known");
        let log = self.raft.log_mut();
        let entries = log.next_unstable().to_vec();
        let snapshot = log.unstable().snapshot().cloned();
        if let Some(snapshot) = snapshot {
            let index = snapshot.meta.index;
            log.storage_mut()
                .apply_snapshot(snapshot)
                .expect("newer than the one before");
            log.stable_snapshot_to(index);
            log.applied_to(index, 0);
        }
        log.storage_mut().append(&entries).expect("no gap");
        log.storage_mut().set_hard_state(hard_state);
        log.stable_to(last);
        self.drain();
    }

    /// Persists, and applies what is committed, membership changes too. Returns it.
    pub(crate) fn apply(&mut self) -> Vec<Entry> {
        self.persist();
        let committed = self
            .raft
            .log()
            .next_committed(true)
            .expect("the storage in memory does not fail");
        let Some(last) = committed.last() else {
            return committed;
        };
        self.raft
            .log_mut()
            .accept_applying(last.index, entries_size(&committed), true);
        for entry in committed
            .iter()
            .filter(|entry| entry.kind != EntryKind::Normal)
        {
            let change = ConfChangeAny::decode(entry.kind, &entry.data)
                .expect("own encoding")
                .into_v2();
            self.apply_change(&change);
        }
        self.acknowledge_applied(committed.clone());
        committed
    }

    pub(crate) fn apply_change(&mut self, change: &ConfChangeV2) -> ConfState {
        self.raft
            .apply_conf_change(change)
            .expect("the change fits")
    }

    /// Says that committed entries are applied.
    pub(crate) fn acknowledge_applied(&mut self, entries: Vec<Entry>) {
        let (from, to) = (ReplicaId::APPLY_THREAD, self.raft.id());
        self.deliver(Message {
            kind: StorageApplyResp,
            from,
            to,
            entries,
            ..Message::default()
        });
    }

    /// Role and term.
    pub(crate) fn at(&self) -> (Role, u64) {
        (self.raft.role(), self.raft.term().0)
    }

    pub(crate) fn commit(&self) -> u64 {
        self.raft.log().committed().0
    }

    pub(crate) fn last(&self) -> u64 {
        self.raft.log().last_index().0
    }

    pub(crate) fn leader(&self) -> u64 {
        self.raft.lead().0
    }

    pub(crate) fn voted(&self) -> u64 {
        self.raft.vote().0
    }

    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.raft
            .log()
            .entries(self.raft.log().first_index(), NO_LIMIT)
            .expect("the whole log is there")
    }

    pub(crate) fn terms(&self) -> Vec<u64> {
        terms(&self.entries())
    }

    pub(crate) fn progress(&self, id: u64) -> &Progress {
        self.raft
            .tracker()
            .progress
            .get(ReplicaId(id))
            .expect("tracked")
    }

    pub(crate) fn progress_mut(&mut self, id: u64) -> &mut Progress {
        self.raft
            .tracker_mut()
            .progress
            .get_mut(ReplicaId(id))
            .expect("tracked")
    }

    /// Match and next of a peer.
    pub(crate) fn flow(&self, id: u64) -> (u64, u64) {
        let progress = self.progress(id);
        (progress.match_index.0, progress.next.0)
    }

    /// Peers are taken to be caught up with and replicated to.
    pub(crate) fn replicate_to(&mut self, id: u64) {
        let last = self.raft.log().last_index();
        let progress = self.progress_mut(id);
        progress.maybe_update(last);
        progress.become_replicate();
    }

    pub(crate) fn granted(&self) -> usize {
        self.raft.tracker().tally_votes().granted
    }

    /// Index and context of the read states that have not been taken.
    pub(crate) fn reads(&mut self) -> Vec<(u64, String)> {
        let text = |context: &[u8]| String::from_utf8_lossy(context).into_owned();
        self.raft
            .take_read_states()
            .iter()
            .map(|read| (read.index.0, text(&read.context)))
            .collect()
    }
}

/// Does what a [`Ready`] asks of the storage.
pub(crate) fn store(node: &mut RawNode<MemoryStorage>, ready: &Ready) {
    let storage = node.storage_mut();
    if let Some(snapshot) = &ready.snapshot {
        storage
            .apply_snapshot(Snapshot::clone(snapshot))
            .expect("newer than the one before");
    }
    if let Some(hard_state) = ready.hard_state {
        storage.set_hard_state(hard_state);
    }
    storage.append(&ready.entries).expect("no gap");
}

/// Takes a [`Ready`], stores it and advances. Membership changes are put in force.
pub(crate) fn turn(node: &mut RawNode<MemoryStorage>) -> Ready {
    let ready = node.ready();
    store(node, &ready);
    for entry in ready
        .committed_entries
        .iter()
        .filter(|entry| entry.kind != EntryKind::Normal)
    {
        let change = ConfChangeAny::decode(entry.kind, &entry.data)
            .expect("own encoding")
            .into_v2();
        node.apply_conf_change(&change).expect("the change fits");
    }
    node.advance();
    ready
}

/// Turns until nothing is left to do. Returns what was committed and what was sent.
pub(crate) fn settle(node: &mut RawNode<MemoryStorage>) -> (Vec<Entry>, Vec<Message>) {
    let (mut committed, mut sent) = (Vec::new(), Vec::new());
    while node.has_ready() {
        let ready = turn(node);
        committed.extend(ready.committed_entries);
        sent.extend(ready.messages);
    }
    (committed, sent)
}

/// A group of one, leading, with its first entry applied.
pub(crate) fn lone_leader(setup: Setup) -> RawNode<MemoryStorage> {
    let mut node = setup.raw();
    node.campaign()
        .expect("the storage in memory does not fail");
    settle(&mut node);
    assert_eq!(node.role(), Leader);
    node
}
