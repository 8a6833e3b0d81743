//! The state machine against a naive twin: random commands, in and out of sessions, with retries, wrong epochs, jumps of
//! the logged clock, and restarts at random points. Answers and rows must be the twin's, and two replicas that were
//! restarted at different moments must hold the same bytes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use flotilla_proto::v1::{
    CloseSession, Command, CommandAnswer, CommandBatch, Condition, DeleteOperation,
    DeleteRangeOperation, OpenSession, Operation, PutOperation, SessionRef, WriteAnswer,
    WriteBatch, command, command_answer, condition, operation, refusal::Reason,
};
use flotilla_shards::descriptor::{Descriptor, Epoch, KeyRange, Replica};
use flotilla_shards::ids::{NodeId, ShardId};
use flotilla_shards::keys::{self, RowRange};
use flotilla_shards::kv::{
    ApplyError, MemoryState, Order, ShardState, StateBatch, StateMachine, StateView, ViewError,
    Visit,
};
use flotilla_shards::raft::{Entry, EntryKind, Index, ReplicaId, Term};
use flotilla_shards::value;
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message as _;
use std::collections::BTreeMap;

const SHARD: ShardId = ShardId(2);
const RANGE_EPOCH: u64 = 3;
const HOUR_MS: u64 = 60 * 60 * 1000;

/// The state machine as one would write it without a thought for speed: every command works on a copy of everything.
#[derive(Clone, Default)]
struct Twin {
    data: BTreeMap<Bytes, (u64, Bytes)>,
    revision: u64,
    clock_ms: u64,
    sessions: BTreeMap<u64, TwinSession>,
    opened: u64,
}

#[derive(Clone)]
struct TwinSession {
    last_used_ms: u64,
    acknowledged_below: u64,
    answers: BTreeMap<u64, TwinAnswer>,
}

#[derive(Clone, Debug, PartialEq)]
enum TwinAnswer {
    Wrote { revision: u64, deleted: u64 },
    ConditionFailed { revision: u64, at: u32 },
    Opened(u64),
    Closed,
    Refused(Reason),
}

impl Twin {
    fn apply(&mut self, batch: &CommandBatch) -> Vec<TwinAnswer> {
        self.clock_ms = self.clock_ms.max(batch.time_ms);
        batch
            .commands
            .iter()
            .map(|command| self.command(command))
            .collect()
    }

    fn command(&mut self, command: &Command) -> TwinAnswer {
        if command.range_epoch != RANGE_EPOCH {
            return TwinAnswer::Refused(Reason::EpochMismatch);
        }
        match (&command.kind, &command.session) {
            (Some(command::Kind::OpenSession(_)), None) => {
                let now = self.clock_ms;
                self.sessions
                    .retain(|_, session| now - session.last_used_ms <= HOUR_MS);
                self.opened += 1;
                let session = TwinSession {
                    last_used_ms: now,
                    acknowledged_below: 1,
                    answers: BTreeMap::new(),
                };
                self.sessions.insert(self.opened, session);
                TwinAnswer::Opened(self.opened)
            }
            (Some(command::Kind::CloseSession(_)), Some(session)) => {
                if session.shard_id == SHARD.0 {
                    self.sessions.remove(&session.number);
                }
                TwinAnswer::Closed
            }
            (Some(command::Kind::Write(write)), None) => self.write(write),
            (Some(command::Kind::Write(write)), Some(session)) => self.in_session(write, session),
            _ => TwinAnswer::Refused(Reason::Malformed),
        }
    }

    fn in_session(&mut self, write: &WriteBatch, reference: &SessionRef) -> TwinAnswer {
        let now = self.clock_ms;
        let live = |session: &&mut TwinSession| now - session.last_used_ms <= HOUR_MS;
        let session = self.sessions.get_mut(&reference.number).filter(live);
        let Some(session) = session.filter(|_| reference.shard_id == SHARD.0) else {
            return TwinAnswer::Refused(Reason::SessionUnknown);
        };
        let low = session
            .acknowledged_below
            .max(reference.lowest_unacknowledged);
        if !(low..low.saturating_add(1024)).contains(&reference.sequence) {
            return TwinAnswer::Refused(Reason::SequenceOutOfWindow);
        }
        session.acknowledged_below = low;
        session.last_used_ms = now;
        session.answers.retain(|&sequence, _| sequence >= low);
        if let Some(answer) = session.answers.get(&reference.sequence) {
            return answer.clone();
        }
        let answer = self.write(write);
        if answer != TwinAnswer::Refused(Reason::OutOfRange) {
            let session = self.sessions.get_mut(&reference.number).unwrap();
            session.answers.insert(reference.sequence, answer.clone());
        }
        answer
    }

    fn write(&mut self, write: &WriteBatch) -> TwinAnswer {
        let before = self.clone();
        match self.try_write(write) {
            Ok(answer) => answer,
            Err(reason) => {
                *self = before;
                TwinAnswer::Refused(reason)
            }
        }
    }

    fn try_write(&mut self, write: &WriteBatch) -> Result<TwinAnswer, Reason> {
        // Out of range or not understood anywhere: refused whatever the conditions say.
        let known = |key: &Bytes| (key[..] >= b"b"[..] && key[..] < b"y"[..]).then_some(());
        for condition in &write.conditions {
            condition.test.as_ref().ok_or(Reason::Malformed)?;
            known(&condition.key).ok_or(Reason::OutOfRange)?;
        }
        for operation in &write.operations {
            match operation.kind.as_ref().ok_or(Reason::Malformed)? {
                operation::Kind::Put(put) => known(&put.key).ok_or(Reason::OutOfRange)?,
                operation::Kind::Delete(delete) => known(&delete.key).ok_or(Reason::OutOfRange)?,
                operation::Kind::DeleteRange(range) => {
                    known(&range.start).ok_or(Reason::OutOfRange)?;
                    if !range.end.is_empty() && range.end <= range.start {
                        return Err(Reason::Malformed);
                    }
                    if range.end[..] > b"y"[..] {
                        return Err(Reason::OutOfRange);
                    }
                }
            }
        }
        for (at, condition) in write.conditions.iter().enumerate() {
            let stored = self.data.get(&condition.key);
            let holds = match condition.test.as_ref().unwrap() {
                condition::Test::Exists(exists) => stored.is_some() == *exists,
                condition::Test::ValueEquals(value) => stored.is_some_and(|(_, v)| v == value),
                condition::Test::RevisionEquals(0) => stored.is_none(),
                condition::Test::RevisionEquals(n) => stored.is_some_and(|(r, _)| r == n),
            };
            if !holds {
                let (revision, at) = (self.revision, u32::try_from(at).unwrap());
                return Ok(TwinAnswer::ConditionFailed { revision, at });
            }
        }
        let next = self.revision + 1;
        let (mut wrote, mut deleted) = (false, 0);
        for operation in &write.operations {
            match operation.kind.as_ref().unwrap() {
                operation::Kind::Put(put) => {
                    self.data.insert(put.key.clone(), (next, put.value.clone()));
                    wrote = true;
                }
                operation::Kind::Delete(delete) => {
                    deleted += u64::from(self.data.remove(&delete.key).is_some());
                }
                operation::Kind::DeleteRange(range) => {
                    let keys = self.data.len();
                    let hit = |key: &Bytes| {
                        *key >= range.start && (range.end.is_empty() || *key < range.end)
                    };
                    self.data.retain(|key, _| !hit(key));
                    deleted += (keys - self.data.len()) as u64;
                }
            }
        }
        if wrote || deleted > 0 {
            self.revision = next;
        }
        let revision = self.revision;
        Ok(TwinAnswer::Wrote { revision, deleted })
    }
}

fn seen(answer: &CommandAnswer) -> TwinAnswer {
    match answer.kind.as_ref().unwrap() {
        command_answer::Kind::Write(WriteAnswer {
            succeeded: true,
            revision,
            deleted,
            failed_condition: 0,
        }) => TwinAnswer::Wrote {
            revision: *revision,
            deleted: *deleted,
        },
        command_answer::Kind::Write(answer) => {
            assert!(!answer.succeeded && answer.deleted == 0, "{answer:?}");
            TwinAnswer::ConditionFailed {
                revision: answer.revision,
                at: answer.failed_condition,
            }
        }
        command_answer::Kind::SessionOpened(number) => TwinAnswer::Opened(*number),
        command_answer::Kind::SessionClosed(true) => TwinAnswer::Closed,
        command_answer::Kind::SessionClosed(false) => panic!("a session that was not closed"),
        command_answer::Kind::Refused(refusal) => TwinAnswer::Refused(refusal.reason()),
    }
}

/// One replica: a database, the machine above it, and what it has applied but not written.
struct Machine {
    stored: MemoryState,
    machine: StateMachine,
    batch: StateBatch,
}

impl Machine {
    fn new() -> Self {
        let descriptor = Descriptor {
            shard: SHARD,
            range: KeyRange::new(Bytes::from_static(b"b"), Bytes::from_static(b"y")).unwrap(),
            epoch: Epoch {
                membership: 1,
                range: RANGE_EPOCH,
            },
            replicas: vec![Replica {
                id: ReplicaId(1),
                node: NodeId(1),
                learner: false,
            }],
        };
        let state = ShardState {
            applied_index: Index(5),
            applied_term: Term(5),
            revision: 0,
            clock_ms: 0,
            next_session: 1,
            conf_state: descriptor.conf_state(),
            descriptor,
        };
        let mut stored = MemoryState::default();
        stored.put(keys::state(SHARD), state.encode());
        // Neighbours that nothing may touch.
        for key in ["a", "y", "z"] {
            let key = keys::data(SHARD, key.as_bytes());
            stored.put(key, Bytes::from_static(b"\x01\x02\x08\x01theirs"));
        }
        Self {
            stored,
            machine: StateMachine::new(state),
            batch: StateBatch::default(),
        }
    }

    fn apply(&mut self, entry: &Entry) -> Vec<CommandAnswer> {
        let mut answers = Vec::new();
        (self.machine)
            .apply_entry(&self.stored, &mut self.batch, entry, &mut answers)
            .unwrap();
        answers
    }

    fn write(&mut self) {
        self.machine.finish(&mut self.batch);
        self.stored.write(&self.batch);
        self.batch.clear();
    }

    /// Forgets all that was not written, and applies the log again from `from`, an index not above what is applied.
    fn crash_and_replay(&mut self, log: &[Entry], from: usize) {
        self.batch.clear();
        self.machine = StateMachine::load(&self.stored, SHARD).unwrap().unwrap();
        for entry in &log[from..] {
            self.apply(entry);
        }
    }

    fn data(&self) -> BTreeMap<Bytes, (u64, Bytes)> {
        let mut rows = BTreeMap::new();
        let range = keys::data_rows(SHARD, &self.machine.state().descriptor.range);
        (self.stored)
            .scan(&range, Order::Ascending, &mut |key, row| {
                let (revision, value) = value::split(row).unwrap();
                let key = Bytes::copy_from_slice(keys::user_part(key));
                rows.insert(key, (revision, Bytes::copy_from_slice(value)));
                std::ops::ControlFlow::Continue(())
            })
            .unwrap();
        rows
    }
}

fn key() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        30 => "[b-f]".prop_map(Bytes::from),
        3 => "[bx][a-c]".prop_map(Bytes::from),
        1 => "[ayz]?".prop_map(Bytes::from),
    ]
}

fn text() -> impl Strategy<Value = Bytes> {
    "[xy]?".prop_map(Bytes::from)
}

fn condition() -> impl Strategy<Value = Condition> {
    let test = prop_oneof![
        20 => any::<bool>().prop_map(|exists| Some(condition::Test::Exists(exists))),
        20 => text().prop_map(|value| Some(condition::Test::ValueEquals(value))),
        20 => (0u64..20).prop_map(|revision| Some(condition::Test::RevisionEquals(revision))),
        1 => Just(None),
    ];
    (key(), test).prop_map(|(key, test)| Condition { key, test })
}

fn operation() -> impl Strategy<Value = Operation> {
    let kind = prop_oneof![
        30 => (key(), text()).prop_map(|(key, value)| Some(operation::Kind::Put(PutOperation { key, value }))),
        10 => key().prop_map(|key| Some(operation::Kind::Delete(DeleteOperation { key }))),
        6 => (key(), key()).prop_map(|(start, end)| Some(operation::Kind::DeleteRange(DeleteRangeOperation { start, end }))),
        1 => Just(None),
    ];
    kind.prop_map(|kind| Operation { kind })
}

fn reference() -> impl Strategy<Value = SessionRef> {
    let shard = prop_oneof![20 => Just(SHARD.0), 1 => Just(3)];
    let sequence = prop_oneof![20 => 0u64..8, 1 => 1020u64..1030, 1 => any::<u64>()];
    (shard, 0u64..5, sequence, 0u64..5).prop_map(|(shard_id, number, sequence, lowest)| {
        SessionRef {
            shard_id,
            number,
            sequence,
            lowest_unacknowledged: lowest,
        }
    })
}

fn any_command() -> impl Strategy<Value = Command> {
    let write = || {
        (vec(condition(), 0..2), vec(operation(), 0..4)).prop_map(|(conditions, operations)| {
            command::Kind::Write(WriteBatch {
                conditions,
                operations,
            })
        })
    };
    let kind = prop_oneof![
        30 => (write(), Just(None)).boxed(),
        30 => (write(), reference().prop_map(Some)).boxed(),
        10 => (Just(command::Kind::OpenSession(OpenSession {})), Just(None)).boxed(),
        3 => (Just(command::Kind::CloseSession(CloseSession {})), reference().prop_map(Some)).boxed(),
        1 => (Just(command::Kind::OpenSession(OpenSession {})), reference().prop_map(Some)).boxed(),
        1 => (Just(command::Kind::CloseSession(CloseSession {})), Just(None)).boxed(),
    ];
    let epoch = prop_oneof![20 => Just(RANGE_EPOCH), 1 => Just(RANGE_EPOCH - 1)];
    (kind, epoch, 0..40).prop_map(|((kind, session), range_epoch, known)| Command {
        range_epoch,
        session,
        kind: (known > 0).then_some(kind),
    })
}

fn command_batch() -> impl Strategy<Value = CommandBatch> {
    // Mostly small steps of time, some of them back, and now and then one that ends sessions.
    let time =
        prop_oneof![10 => 0..1000u64, 1 => HOUR_MS..HOUR_MS + 1000, 1 => 2 * HOUR_MS..3 * HOUR_MS];
    (time, vec(any_command(), 0..5))
        .prop_map(|(time_ms, commands)| CommandBatch { time_ms, commands })
}

#[derive(Clone, Debug)]
enum Step {
    Apply(CommandBatch),
    /// The same batch again, as a client would retry it.
    Retry(prop::sample::Index),
    Write,
    /// Back to what is written, then the log again from this part of what is applied.
    Crash(f64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => command_batch().prop_map(Step::Apply),
        3 => any::<prop::sample::Index>().prop_map(Step::Retry),
        3 => Just(Step::Write),
        2 => (0.0..1.0).prop_map(Step::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn machine_and_twin_agree(steps in vec(step(), 1..40)) {
        let mut twin = Twin::default();
        // One replica is stopped and started as the steps say; the other writes once, at the end.
        let (mut replica, mut steady) = (Machine::new(), Machine::new());
        let (mut log, mut batches, mut written) = (Vec::new(), Vec::<CommandBatch>::new(), 0);
        for step in steps {
            let batch = match step {
                Step::Apply(batch) => batch,
                Step::Retry(_) if batches.is_empty() => continue,
                Step::Retry(which) => which.get(&batches).clone(),
                Step::Write => {
                    replica.write();
                    written = log.len();
                    continue;
                }
                Step::Crash(part) => {
                    // Replay may begin anywhere at or below what is written.
                    replica.crash_and_replay(&log, (part * (written + 1) as f64) as usize);
                    continue;
                }
            };
            let entry = Entry {
                term: Term(6),
                index: Index(6 + log.len() as u64),
                kind: EntryKind::Normal,
                data: batch.encode_to_vec().into(),
            };
            log.push(entry.clone());
            let answers = replica.apply(&entry);
            if !entry.data.is_empty() {
                let expected = twin.apply(&batch);
                prop_assert_eq!(answers.iter().map(seen).collect::<Vec<_>>(), expected);
            }
            prop_assert_eq!(answers, steady.apply(&entry));
            prop_assert_eq!(replica.machine.state(), steady.machine.state());
            batches.push(batch);
        }
        replica.write();
        steady.write();
        prop_assert_eq!(replica.data(), twin.data);
        prop_assert_eq!(replica.machine.state().revision, twin.revision);
        prop_assert_eq!(replica.machine.state().clock_ms, twin.clock_ms);
        prop_assert_eq!(&replica.stored, &steady.stored);
        let again = StateMachine::load(&replica.stored, SHARD).unwrap().unwrap();
        prop_assert_eq!(again.state(), steady.machine.state());
    }
}

fn entry(index: u64, commands: Vec<Command>) -> Entry {
    let batch = CommandBatch {
        time_ms: 1,
        commands,
    };
    Entry {
        term: Term(6),
        index: Index(index),
        kind: EntryKind::Normal,
        data: batch.encode_to_vec().into(),
    }
}

fn write(operations: Vec<operation::Kind>) -> Command {
    Command {
        range_epoch: RANGE_EPOCH,
        session: None,
        kind: Some(command::Kind::Write(WriteBatch {
            conditions: Vec::new(),
            operations: operations
                .into_iter()
                .map(|kind| Operation { kind: Some(kind) })
                .collect(),
        })),
    }
}

fn put(key: &str) -> operation::Kind {
    operation::Kind::Put(PutOperation {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::from_static(b"value"),
    })
}

#[test]
fn a_delete_range_is_bounded_by_what_was_there_before() {
    let mut replica = Machine::new();
    let keys = |count: usize| {
        (0..count)
            .map(|n| put(&format!("k{n:05}")))
            .collect::<Vec<_>>()
    };
    let clear = || {
        operation::Kind::DeleteRange(DeleteRangeOperation {
            start: Bytes::from_static(b"k"),
            end: Bytes::new(),
        })
    };
    // Half of the keys are written, half are in the batch of the same round.
    replica.apply(&entry(6, vec![write(keys(5_000))]));
    replica.write();
    replica.apply(&entry(7, vec![write(keys(10_001))]));
    let answers = replica.apply(&entry(8, vec![write(vec![put("k"), clear()])]));
    assert_eq!(seen(&answers[0]), TwinAnswer::Refused(Reason::TooManyKeys));
    assert_eq!(replica.machine.state().revision, 2);
    let one = operation::Kind::Delete(DeleteOperation {
        key: Bytes::from_static(b"k00000"),
    });
    let answers = replica.apply(&entry(
        9,
        vec![write(vec![one]), write(vec![put("k"), clear()])],
    ));
    let expected = TwinAnswer::Wrote {
        revision: 4,
        deleted: 10_001,
    };
    assert_eq!(
        seen(&answers[1]),
        expected,
        "the command's own put does not count against it"
    );
    replica.write();
    assert!(replica.data().is_empty());
}

#[test]
fn entries_are_applied_once_and_in_order() {
    let mut replica = Machine::new();
    let first = entry(6, vec![write(vec![put("key")])]);
    assert_eq!(replica.apply(&first).len(), 1);
    assert!(replica.apply(&first).is_empty());
    assert_eq!(replica.machine.state().revision, 1);
    let mut answers = Vec::new();
    let late = entry(8, vec![write(vec![put("key")])]);
    let error = (replica.machine)
        .apply_entry(&replica.stored, &mut replica.batch, &late, &mut answers)
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "shard 2 has applied entry 6 and is given entry 8: those between are missing"
    );
    let empty = Entry {
        data: Bytes::new(),
        ..entry(7, Vec::new())
    };
    assert!(replica.apply(&empty).is_empty());
    assert_eq!(replica.machine.state().applied_index, Index(7));
}

proptest! {
    #[test]
    fn no_entry_can_stop_a_replica(
        entries in vec((vec(any::<u8>(), 0..40), 0usize..3, any::<bool>(), any::<prop::sample::Index>()), 1..8),
        batch in command_batch(),
    ) {
        let mut replica = Machine::new();
        for (index, (noise, kind, wrap, at)) in (6..).zip(entries) {
            let data = if wrap {
                // A legal batch with some bytes of noise in it goes further than noise alone.
                let mut data = batch.encode_to_vec();
                let at = at.index(data.len() + 1);
                let until = (at + noise.len()).min(data.len());
                data[at..until].copy_from_slice(&noise[..until - at]);
                data
            } else {
                noise
            };
            let entry = Entry {
                term: Term(6),
                index: Index(index),
                kind: [EntryKind::Normal, EntryKind::ConfChange, EntryKind::ConfChangeV2][kind],
                data: data.into(),
            };
            let empty = entry.data.is_empty();
            let answers = replica.apply(&entry);
            prop_assert_eq!(replica.machine.state().applied_index, Index(index));
            if entry.kind == EntryKind::Normal && !empty && CommandBatch::decode(entry.data).is_err() {
                prop_assert_eq!(answers.len(), 1);
                prop_assert_eq!(seen(&answers[0]), TwinAnswer::Refused(Reason::Malformed));
            }
        }
        replica.write();
        prop_assert!(StateMachine::load(&replica.stored, SHARD).unwrap().is_some());
    }
}

/// A database that fails at every read.
struct Unreadable;

impl StateView for Unreadable {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        Err(ViewError(format!("read of {key:?}").into()))
    }

    fn scan(&self, range: &RowRange, _: Order, _: &mut Visit<'_>) -> Result<(), ViewError> {
        Err(ViewError(format!("scan of {range:?}").into()))
    }
}

#[test]
fn a_plain_put_does_not_read() {
    let Machine {
        mut machine,
        mut batch,
        ..
    } = Machine::new();
    let mut answers = Vec::new();
    let puts = entry(
        6,
        vec![
            write(vec![put("key")]),
            write(vec![put("key"), put("other")]),
        ],
    );
    (machine.apply_entry(&Unreadable, &mut batch, &puts, &mut answers)).unwrap();
    machine.finish(&mut batch);
    assert_eq!(answers.len(), 2);
    assert_eq!(batch.len(), 3, "two keys and the shard's state");
    let delete = operation::Kind::Delete(DeleteOperation {
        key: Bytes::from_static(b"unread"),
    });
    let error = machine
        .apply_entry(
            &Unreadable,
            &mut batch,
            &entry(7, vec![write(vec![delete])]),
            &mut answers,
        )
        .unwrap_err();
    assert!(matches!(error, ApplyError::View(_)), "{error}");
}
