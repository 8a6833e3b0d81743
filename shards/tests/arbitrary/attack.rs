//! A replica under attack: bytes decide its configuration, its log, and what is done to it, messages of any content
//! among that. It may refuse and ignore; it must not panic, and its own invariants must hold throughout.
//!
//! Shared by the test beside this file, which makes the bytes from seeds, and by the `cargo fuzz` targets, which evolve
//! them. Nothing random happens here.

use bytes::Bytes;
use flotilla_proto::v1 as proto;
use flotilla_shards::raft::confchange::ConfChangeAny;
use flotilla_shards::raft::{
    Config, Entry, HardState, Index, MemoryStorage, Message, MessageKind, RawNode, ReadOnlyOption,
    ReplicaId, Role, Snapshot, SnapshotMeta, Storage, Term,
};
use flotilla_shards::wire;
use prost::Message as _;
use std::collections::VecDeque;

#[path = "choices.rs"]
mod choices;

use choices::{Choices, members};

const KINDS: [MessageKind; 25] = [
    MessageKind::Hup,
    MessageKind::Beat,
    MessageKind::Prop,
    MessageKind::App,
    MessageKind::AppResp,
    MessageKind::Vote,
    MessageKind::VoteResp,
    MessageKind::Snap,
    MessageKind::Heartbeat,
    MessageKind::HeartbeatResp,
    MessageKind::Quiesce,
    MessageKind::Unreachable,
    MessageKind::SnapStatus,
    MessageKind::CheckQuorum,
    MessageKind::TransferLeader,
    MessageKind::TimeoutNow,
    MessageKind::ReadIndex,
    MessageKind::ReadIndexResp,
    MessageKind::PreVote,
    MessageKind::PreVoteResp,
    MessageKind::StorageAppend,
    MessageKind::StorageAppendResp,
    MessageKind::StorageApply,
    MessageKind::StorageApplyResp,
    MessageKind::ForgetLeader,
];

/// What is known of the replica's past, to hold it against.
#[derive(Clone, Default)]
struct Past {
    hard_state: HardState,
    /// Last entry handed out for application, or covered by a snapshot.
    applying: Index,
}

/// How much happened: an attack in which nothing does proves nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Coverage {
    /// Replicas that started from what was stored.
    pub(crate) started: u64,
    /// Messages that were taken, and that were refused.
    pub(crate) taken: u64,
    pub(crate) refused: u64,
    /// Moments with a leader, with a candidate or pre-candidate, with a snapshot to be written.
    pub(crate) leading: u64,
    pub(crate) campaigning: u64,
    pub(crate) snapshots: u64,
    /// Entries handed out for application, and membership changes among them that took effect.
    pub(crate) applied: u64,
    pub(crate) changes: u64,
    pub(crate) compactions: u64,
    pub(crate) restarts: u64,
    /// Replicas that stood still in the end, as their storage had lied.
    pub(crate) stopped: u64,
}

impl Coverage {
    /// The counts by name.
    pub(crate) fn counts(&self) -> [(&'static str, u64); 11] {
        [
            ("started", self.started),
            ("taken", self.taken),
            ("refused", self.refused),
            ("leading", self.leading),
            ("campaigning", self.campaigning),
            ("snapshots", self.snapshots),
            ("applied", self.applied),
            ("changes", self.changes),
            ("compactions", self.compactions),
            ("restarts", self.restarts),
            ("stopped", self.stopped),
        ]
    }
}

struct Attack<'a> {
    choices: Choices<'a>,
    config: Config,
    node: RawNode<MemoryStorage>,
    appends: VecDeque<Message>,
    applies: VecDeque<Message>,
    past: Past,
    /// Somebody spoke in the name of the storage: what is durable and applied may be a lie from then on, and standing
    /// still is the right answer to that.
    storage_lied: bool,
    coverage: Coverage,
}

/// Does to a replica what `data` say.
///
/// # Panics
/// If the replica panics, stops without reason, or breaks an invariant of its own.
pub(crate) fn step(data: &[u8]) -> Coverage {
    let mut choices = Choices(data);
    let Some(mut attack) = Attack::new(&mut choices) else {
        return Coverage::default();
    };
    attack.coverage.started += 1;
    while !attack.choices.0.is_empty() && attack.node.failure().is_none() {
        attack.act();
        attack.check();
    }
    attack.coverage.stopped += u64::from(attack.node.failure().is_some());
    attack.coverage
}

/// Decodes `data` as a message between nodes. What passes the gate is encoded to the same again, and stepped. Returns
/// whether it passed.
///
/// # Panics
/// If decoding panics, or what passes the gate does harm.
pub(crate) fn decode(data: &[u8]) -> bool {
    let Ok(message) = proto::ShardMessage::decode(data) else {
        return false;
    };
    let Ok((shard, message)) = wire::decode_message(message) else {
        return false;
    };
    let encoded = wire::encode_message(shard, message.clone());
    let again = wire::decode_message(encoded).map_err(|error| format!("{error}: {message:?}"));
    assert_eq!(again, Ok((shard, message.clone())), "decoded again");
    for role in 0..4 {
        // A follower, a pre-candidate, a candidate and a leader.
        let mut choices = Choices(&[]);
        let Some(mut attack) = Attack::new(&mut choices) else {
            return false;
        };
        attack.become_role(role);
        attack.step(message.clone());
        attack.settle();
        attack.check();
    }
    true
}

/// Decodes a message that was sound until some of its bytes were changed: `data` say which one, and where.
///
/// # Panics
/// As [`decode`].
pub(crate) fn decode_damaged(data: &[u8]) -> bool {
    let mut choices = Choices(data);
    let Some(mut attack) = Attack::new(&mut choices) else {
        return false;
    };
    let kind = [
        MessageKind::Prop,
        MessageKind::App,
        MessageKind::Heartbeat,
        MessageKind::Snap,
        MessageKind::Vote,
        MessageKind::AppResp,
    ][usize::from(attack.choices.below(6))];
    let mut message = attack.sound_append();
    message.kind = kind;
    match kind {
        MessageKind::App => {}
        MessageKind::Prop => message.term = Term(0),
        MessageKind::Snap => {
            message.entries.clear();
            message.snapshot = Some(Box::new(Snapshot {
                meta: SnapshotMeta {
                    index: message.index.next(),
                    term: message.term,
                    conf_state: members(&[1, 2, 3]),
                },
                data: Bytes::new(),
            }));
        }
        _ => message.entries.clear(),
    }
    let message = wire::encode_message(flotilla_shards::ids::ShardId(1), message);
    let mut bytes = message.encode_to_vec();
    for _ in 0..attack.choices.below(4) {
        let at = usize::from(attack.choices.byte()) % bytes.len();
        bytes[at] ^= attack.choices.byte();
    }
    decode(&bytes)
}

impl<'a> Attack<'a> {
    /// `None` if what is stored makes no sense to the replica.
    fn new(choices: &mut Choices<'a>) -> Option<Self> {
        let id = ReplicaId(1);
        let flags = choices.byte();
        let check_quorum = flags & 1 != 0;
        let config = Config {
            id,
            election_ticks: 5,
            check_quorum,
            pre_vote: flags & 2 != 0,
            async_storage_writes: flags & 4 != 0,
            step_down_on_removal: flags & 8 != 0,
            liveness_fixes: flags & 16 != 0,
            disable_conf_change_validation: flags & 32 != 0,
            disable_proposal_forwarding: flags & 64 != 0,
            read_only: match flags & 128 != 0 && check_quorum {
                true => ReadOnlyOption::LeaseBased,
                false => ReadOnlyOption::Safe,
            },
            max_size_per_msg: [1 << 20, 0, 60][usize::from(choices.below(3))],
            max_committed_size_per_ready: [0, 1, 100][usize::from(choices.below(3))],
            max_uncommitted_size: [0, 50][usize::from(choices.below(2))],
            max_inflight_msgs: [256, 1, 2][usize::from(choices.below(3))],
            vote_hold_off_ticks: [0, 5][usize::from(choices.below(2))],
            ..Config::default()
        };
        let storage = stored(choices);
        let node = RawNode::new(&config, storage).ok()?;
        let mut attack = Self {
            choices: Choices(std::mem::take(&mut choices.0)),
            past: Past {
                hard_state: node.hard_state(),
                applying: node.applied(),
            },
            config,
            node,
            appends: VecDeque::new(),
            applies: VecDeque::new(),
            storage_lied: false,
            coverage: Coverage::default(),
        };
        let role = attack.choices.below(8);
        attack.become_role(role);
        Some(attack)
    }

    /// Tries to bring the replica into a role; others may come out, if that is not possible here.
    fn become_role(&mut self, role: u8) {
        if role == 0 {
            return;
        }
        self.call(RawNode::campaign);
        self.settle();
        for answer in [MessageKind::PreVoteResp, MessageKind::VoteResp]
            .into_iter()
            .take(usize::from(role - 1))
        {
            for from in [2, 3] {
                let term = match answer {
                    MessageKind::PreVoteResp => Term(self.node.term().0 + 1),
                    _ => self.node.term(),
                };
                self.step(Message {
                    kind: answer,
                    from: ReplicaId(from),
                    to: self.node.id(),
                    term,
                    ..Message::default()
                });
                self.settle();
            }
        }
    }

    /// Does one thing.
    fn act(&mut self) {
        match self.choices.below(32) {
            0..=13 => {
                let message = self.message();
                self.storage_lied |=
                    message.from.is_storage_thread() || message.from == self.node.id();
                self.step(message);
            }
            14..=16 => self.take_ready(),
            17 => self.write(),
            18 => self.apply(),
            19 => self.settle(),
            20 => {
                let ticks = u32::from(self.choices.byte());
                self.node.advance_ticks(ticks);
            }
            21 => self.node.tick(),
            22 => self.call(RawNode::campaign),
            23 => {
                let data = self.choices.data();
                self.call(|node| node.propose(data));
            }
            24 => {
                let change = self.choices.change();
                self.call(|node| node.propose_conf_change(change));
            }
            25 => {
                let data = self.choices.data();
                self.call(|node| node.read_index(data));
            }
            26 => {
                let to = self.choices.replica();
                self.node.transfer_leader(to);
            }
            27 => {
                let to = self.choices.replica();
                match self.choices.below(3) {
                    0 => self.node.report_unreachable(to),
                    choice => self.node.report_snapshot(to, choice == 1),
                }
            }
            28 => self.compact(),
            29 => match self.choices.below(4) {
                0 => self.node.forget_leader(),
                1 => self.node.heartbeat_now(),
                2 => drop(self.node.quiesce(|_| false)),
                _ => self.node.wake(),
            },
            30 if self.choices.one_in(8) => self.lie(),
            30 => self.restart(),
            _ => {
                // Sound work of a leader, so that the log grows.
                let message = self.sound_append();
                self.step(message);
            }
        }
    }

    /// A message of any content.
    fn message(&mut self) -> Message {
        let (term, last) = (self.node.term().0, self.node.last_index().0);
        let committed = self.node.committed().0;
        let marks = [last, committed, self.node.applied().0];
        let choices = &mut self.choices;
        let index = choices.number(&marks);
        let mut at = index;
        let entries = (0..choices.below(4).saturating_sub(1))
            .map(|_| {
                at = match choices.one_in(8) {
                    true => choices.number(&marks),
                    false => at.wrapping_add(1),
                };
                let (kind, data) = choices.content();
                Entry {
                    term: Term(choices.number(&[term])),
                    index: Index(at),
                    kind,
                    data,
                }
            })
            .collect();
        let snapshot = choices.one_in(3).then(|| {
            Box::new(Snapshot {
                meta: SnapshotMeta {
                    index: Index(choices.number(&marks)),
                    term: Term(choices.number(&[term])),
                    conf_state: choices.conf_state(),
                },
                data: choices.data(),
            })
        });
        Message {
            kind: KINDS[usize::from(choices.below(24))],
            to: choices.replica(),
            from: choices.replica(),
            term: Term(choices.number(&[term])),
            log_term: Term(choices.number(&[term])),
            index: Index(index),
            commit: Index(choices.number(&marks)),
            vote: choices.replica(),
            reject: choices.one_in(2),
            reject_hint: Index(choices.number(&marks)),
            round: choices.number(&[1]),
            promise: choices.one_in(2),
            context: match choices.below(4) {
                0 => Bytes::from_static(b"CampaignTransfer"),
                1 => Bytes::copy_from_slice(&[7; 16]),
                _ => choices.data(),
            },
            entries,
            snapshot,
            responses: Vec::new(),
        }
    }

    /// An append of a leader, in the replica's term or the next, that fits its log.
    fn sound_append(&mut self) -> Message {
        let last = self.node.last_index();
        let log_term = self.node.raft.log().term(last).unwrap_or_default();
        let leads = self.node.role() == Role::Leader;
        let term = Term(self.node.term().0 + u64::from(leads))
            .max(log_term)
            .max(Term(1));
        let (kind, data) = self.choices.content();
        Message {
            kind: MessageKind::App,
            from: match self.node.leader() {
                ReplicaId(leader @ 2..=5) if !leads => ReplicaId(leader),
                _ => ReplicaId(2),
            },
            to: self.node.id(),
            term,
            log_term,
            index: last,
            commit: Index(last.0 + u64::from(self.choices.below(2))),
            entries: vec![Entry {
                term,
                index: last.next(),
                kind,
                data,
            }],
            ..Message::default()
        }
    }

    /// Says in the name of the storage that something is durable or applied.
    fn lie(&mut self) {
        self.storage_lied = true;
        let log = self.node.raft.log();
        let (index, choices) = (log.last_index(), &mut self.choices);
        let index = Index(index.0.saturating_sub(u64::from(choices.below(3))));
        let log_term = log.term(index).unwrap_or_default();
        let term = self.node.term();
        let (kind, from) = match choices.one_in(2) {
            true => (MessageKind::StorageApplyResp, ReplicaId::APPLY_THREAD),
            false => (MessageKind::StorageAppendResp, ReplicaId::APPEND_THREAD),
        };
        let snapshot = log.unstable().snapshot().cloned().map(Box::new);
        let entries = vec![Entry {
            term: log_term,
            index,
            ..Entry::default()
        }];
        self.step(Message {
            kind,
            from,
            to: self.node.id(),
            term,
            log_term,
            index,
            snapshot,
            entries,
            ..Message::default()
        });
    }

    fn step(&mut self, message: Message) {
        match self.node.step(message) {
            Ok(()) => self.coverage.taken += 1,
            Err(_) => self.coverage.refused += 1,
        }
    }

    /// Errors are as good an answer as any.
    fn call<T, E>(&mut self, call: impl FnOnce(&mut RawNode<MemoryStorage>) -> Result<T, E>) {
        let _ = call(&mut self.node);
    }

    fn take_ready(&mut self) {
        if !self.node.has_ready() {
            return;
        }
        let ready = self.node.ready();
        if self.config.async_storage_writes {
            for message in ready.messages {
                match message.to {
                    ReplicaId::APPEND_THREAD => self.appends.push_back(message),
                    ReplicaId::APPLY_THREAD => {
                        self.hand_out(&message.entries);
                        self.applies.push_back(message);
                    }
                    _ => {}
                }
            }
            return;
        }
        let hard_state = ready.hard_state.unwrap_or_default();
        self.store(hard_state, &ready.entries, ready.snapshot.as_deref());
        self.hand_out(&ready.committed_entries);
        self.node.advance();
    }

    /// The append thread does its next work.
    fn write(&mut self) {
        let Some(append) = self.appends.pop_front() else {
            return;
        };
        let hard_state = HardState {
            term: append.term,
            vote: append.vote,
            commit: append.commit,
        };
        self.store(hard_state, &append.entries, append.snapshot.as_deref());
        self.respond(append.responses);
    }

    /// The apply thread does its next work.
    fn apply(&mut self) {
        if let Some(apply) = self.applies.pop_front() {
            self.respond(apply.responses);
        }
    }

    fn respond(&mut self, responses: Vec<Message>) {
        for response in responses {
            if response.to == self.node.id() {
                self.step(response);
            }
        }
    }

    fn store(&mut self, hard_state: HardState, entries: &[Entry], snapshot: Option<&Snapshot>) {
        let storage = self.node.storage_mut();
        if let Some(snapshot) = snapshot {
            storage
                .apply_snapshot(snapshot.clone())
                .expect("a snapshot beyond the log");
        }
        let written = storage.append(entries);
        assert!(
            written.is_ok() || self.storage_lied,
            "a hole in the log: {entries:?}"
        );
        if !hard_state.is_empty() {
            storage.set_hard_state(hard_state);
        }
    }

    /// Applies committed entries as far as membership is concerned, and checks that they follow each other.
    fn hand_out(&mut self, entries: &[Entry]) {
        for entry in entries {
            let expected = self
                .past
                .applying
                .max(self.node.raft.log().first_index().prev());
            assert!(
                entry.index == self.past.applying.next() || entry.index == expected.next(),
                "entry {} was handed out after {}",
                entry.index,
                self.past.applying
            );
            self.past.applying = entry.index;
            self.coverage.applied += 1;
            // Covered by a snapshot that has come meanwhile.
            if entry.index < self.node.raft.log().first_index() {
                continue;
            }
            if let Ok(change) = ConfChangeAny::decode(entry.kind, &entry.data) {
                let applied = self.node.apply_conf_change(&change.into_v2());
                self.coverage.changes += u64::from(applied.is_ok());
            }
        }
    }

    /// Everything that is under way is done.
    fn settle(&mut self) {
        for _ in 0..50 {
            self.take_ready();
            self.write();
            self.apply();
            if !self.node.has_ready() && self.appends.is_empty() && self.applies.is_empty() {
                return;
            }
        }
        assert!(
            self.node.failure().is_some() || self.config.max_committed_size_per_ready == 1,
            "the replica keeps itself busy for ever"
        );
    }

    fn compact(&mut self) {
        let applied = self.node.applied();
        let conf_state = self.node.raft.conf_state();
        let storage = self.node.storage_mut();
        if applied >= storage.first_index() && applied <= storage.last_index() {
            let _ = storage.create_snapshot(applied, Some(conf_state), Bytes::new());
            storage.compact(applied).expect("a position of the log");
            self.coverage.compactions += 1;
        }
    }

    /// The process ends and starts again, with what is durable.
    fn restart(&mut self) {
        if self.storage_lied {
            return;
        }
        let applied = self.node.applied();
        let conf_state = self.node.raft.conf_state();
        let mut storage = self.node.storage().clone();
        let mut hard_state = storage.hard_state();
        // A snapshot may be applied before its write is acknowledged, never before it is done.
        let applied = applied
            .min(storage.last_index())
            .max(storage.first_index().prev());
        hard_state.commit = hard_state.commit.max(applied).min(storage.last_index());
        storage.set_hard_state(hard_state);
        let _ = storage.create_snapshot(applied, Some(conf_state), Bytes::new());
        self.config.applied = applied;
        // A membership that changed under a snapshot which got lost again is no state to start from.
        let Ok(node) = RawNode::new(&self.config, storage) else {
            return;
        };
        self.node = node;
        self.coverage.restarts += 1;
        self.appends.clear();
        self.applies.clear();
        self.past = Past {
            hard_state: self.node.hard_state(),
            applying: self.node.applied(),
        };
    }

    fn check(&mut self) {
        if let Some(failure) = self.node.failure() {
            assert!(
                self.storage_lied,
                "the storage did nothing wrong: {failure}"
            );
            return;
        }
        let (raft, now) = (&self.node.raft, self.node.hard_state());
        let log = raft.log();
        let role = raft.role();
        self.coverage.leading += u64::from(role == Role::Leader);
        self.coverage.campaigning +=
            u64::from(matches!(role, Role::Candidate | Role::PreCandidate));
        self.coverage.snapshots += u64::from(log.has_unstable_snapshot());
        let before = std::mem::replace(&mut self.past.hard_state, now);
        assert!(
            before.term <= now.term,
            "the term fell: {before:?} to {now:?}"
        );
        assert!(
            before.term != now.term || before.vote.is_none() || before.vote == now.vote,
            "a second vote in a term: {before:?} to {now:?}"
        );
        assert!(
            before.commit <= now.commit,
            "the commit fell: {before:?} to {now:?}"
        );
        assert!(
            log.applied() <= log.applying()
                && log.applying() <= log.committed()
                && log.committed() <= log.last_index(),
            "the marks are out of order: {log}"
        );
        if raft.role() == Role::Leader {
            assert_eq!(raft.lead(), raft.id(), "who leads follows himself");
            for (id, progress) in raft.tracker().progress.iter() {
                assert!(progress.match_index < progress.next, "{id}: {progress:?}");
                assert!(
                    progress.match_index <= log.last_index(),
                    "{id}: {progress:?}"
                );
            }
        }
        assert!(
            log.last_entry_id().is_ok(),
            "the last entry has no term: {log}"
        );
    }
}

/// A storage as it may be found at a start.
fn stored(choices: &mut Choices<'_>) -> MemoryStorage {
    let conf_state = choices.conf_state();
    let compacted = u64::from(choices.below(3)) * 5;
    let mut storage = MemoryStorage::with_conf_state(conf_state.clone());
    let mut term = u64::from(choices.below(3));
    if compacted > 0 {
        term = term.max(1);
        let snapshot = Snapshot {
            meta: SnapshotMeta {
                index: Index(compacted),
                term: Term(term),
                conf_state,
            },
            data: Bytes::new(),
        };
        storage.apply_snapshot(snapshot).expect("an empty log");
    }
    let mut last = compacted;
    let entries: Vec<_> = (0..choices.below(6))
        .map(|_| {
            last += 1;
            term += u64::from(choices.below(2));
            term = term.max(1);
            let (kind, data) = choices.content();
            Entry {
                term: Term(term),
                index: Index(last),
                kind,
                data,
            }
        })
        .collect();
    storage.append(&entries).expect("entries follow the log");
    let commit = compacted + u64::from(choices.below(8)).min(last - compacted);
    storage.set_hard_state(HardState {
        term: Term(term + u64::from(choices.below(2))),
        vote: ReplicaId(u64::from(choices.below(4))),
        commit: Index(commit),
    });
    storage
}
