//! What a journal writes, against a model that writes every state row in every round; with crashes at any batch.

use super::*;
use crate::descriptor::{Descriptor, Epoch, KeyRange, Replica};
use crate::ids::NodeId;
use crate::kv::positions::{shard_state, shard_states, visit_shard};
use crate::kv::{MemoryState, ShardState};
use crate::raft::{Entry, EntryKind, Index, ReplicaId, Term};
use bytes::Bytes;
use flotilla_proto::v1 as proto;
use proptest::prelude::*;
use prost::Message as _;

const SHARDS: std::ops::Range<u64> = 2..8;

fn born(shard: ShardId) -> ShardState {
    let bound = |id: u64| Bytes::from(vec![u8::try_from(id).unwrap()]);
    let descriptor = Descriptor {
        shard,
        range: KeyRange::new(bound(shard.0), bound(shard.0 + 1)).unwrap(),
        epoch: Epoch {
            membership: 1,
            range: 1,
        },
        replicas: vec![Replica {
            id: ReplicaId(1),
            node: NodeId(1),
            learner: false,
        }],
    };
    ShardState {
        applied_index: Index(5),
        applied_term: Term(5),
        revision: 0,
        clock_ms: 100,
        next_session: 1,
        conf_state: descriptor.conf_state(),
        descriptor,
    }
}

/// What an entry does.
#[derive(Clone, Copy, Debug)]
enum Does {
    Nothing,
    Put(u8),
    OpenSession,
}

fn entry(state: &ShardState, does: Does) -> Entry {
    let put = |key: u8| proto::Operation {
        kind: Some(proto::operation::Kind::Put(proto::PutOperation {
            key: vec![u8::try_from(state.descriptor.shard.0).unwrap(), key].into(),
            value: "value".into(),
        })),
    };
    let kind = match does {
        Does::Nothing => None,
        Does::Put(key) => Some(proto::command::Kind::Write(proto::WriteBatch {
            conditions: vec![],
            operations: vec![put(key)],
        })),
        Does::OpenSession => Some(proto::command::Kind::OpenSession(proto::OpenSession {})),
    };
    let commands = kind.map(|kind| proto::CommandBatch {
        time_ms: state.clock_ms + 3,
        commands: vec![proto::Command {
            range_epoch: 1,
            session: None,
            kind: Some(kind),
        }],
    });
    Entry {
        index: state.applied_index.next(),
        term: state.applied_term,
        kind: EntryKind::Normal,
        data: commands.map_or(Bytes::new(), |commands| commands.encode_to_vec().into()),
    }
}

/// What happens to a node.
#[derive(Clone, Debug)]
enum Step {
    Round(Vec<(u64, Does)>),
    /// At most so many batches of it.
    Checkpoint(usize),
    CloseMachines,
    /// A snapshot of one shard, of so many entries later.
    Install(u64, u64),
    /// What is left of the batches since the last flush, in 256ths; and how many batches of a checkpoint are written at
    /// the start that follows, before the next crash, if any.
    Crash(u8, Option<usize>),
    Flush,
}

fn step() -> impl Strategy<Value = Step> {
    let does = prop_oneof![
        1 => Just(Does::Nothing),
        6 => (0u8..4).prop_map(Does::Put),
        1 => Just(Does::OpenSession),
    ];
    prop_oneof![
        8 => proptest::collection::vec((SHARDS, does), 1..8).prop_map(Step::Round),
        2 => (1usize..4).prop_map(Step::Checkpoint),
        1 => Just(Step::CloseMachines),
        1 => (SHARDS, 1u64..9).prop_map(|(shard, later)| Step::Install(shard, later)),
        2 => (any::<u8>(), proptest::option::of(0usize..4)).prop_map(|(left, parts)| Step::Crash(left, parts)),
        1 => Just(Step::Flush),
    ]
}

struct World {
    limits: JournalLimits,
    journal: Journal,
    machines: BTreeMap<ShardId, StateMachine>,
    state: MemoryState,
    /// With all state rows, and without positions.
    plain: MemoryState,
    /// Both, after each batch since the last flush, that of the flush first.
    since_flush: Vec<(MemoryState, MemoryState)>,
}

impl World {
    fn new(limits: JournalLimits) -> Self {
        let mut state = MemoryState::default();
        for shard in SHARDS {
            state.put(keys::state(ShardId(shard)), born(ShardId(shard)).encode());
        }
        Self {
            limits,
            journal: Journal::new(limits),
            machines: BTreeMap::new(),
            plain: state.clone(),
            since_flush: vec![(state.clone(), state.clone())],
            state,
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Round(entries) => self.round(entries),
            Step::Checkpoint(batches) => drop(self.checkpoint(*batches)),
            Step::CloseMachines => self.machines.clear(),
            Step::Install(shard, later) => self.install(ShardId(*shard), *later),
            Step::Crash(left, parts) => self.crash(*left, *parts),
            Step::Flush => self.since_flush = vec![(self.state.clone(), self.plain.clone())],
        }
        self.compare();
    }

    fn round(&mut self, entries: &[(u64, Does)]) {
        let (mut batch, mut plain) = (StateBatch::default(), StateBatch::default());
        let mut shards: BTreeMap<ShardId, StateMachine> = BTreeMap::new();
        for &(shard, does) in entries {
            let shard = ShardId(shard);
            let machine = self.machines.entry(shard).or_insert_with(|| {
                let opened = self.journal.open(&self.state, shard).unwrap();
                opened.unwrap()
            });
            let model = shards
                .entry(shard)
                .or_insert_with(|| StateMachine::load(&self.plain, shard).unwrap().unwrap());
            assert_eq!(machine.state(), model.state());
            let entry = entry(machine.state(), does);
            let mut answers = (Vec::new(), Vec::new());
            machine
                .apply_entry(&self.state, &mut batch, &entry, &mut answers.0)
                .unwrap();
            model
                .apply_entry(&self.plain, &mut plain, &entry, &mut answers.1)
                .unwrap();
            assert_eq!(answers.0, answers.1);
        }
        let count = shards.len();
        for (shard, model) in &mut shards {
            let machine = self.machines.get_mut(shard).unwrap();
            self.journal.finish(machine, count, &mut batch);
            model.finish(&mut plain);
        }
        self.journal.end_round(&mut batch);
        self.plain.write(&plain);
        self.write(&batch);
    }

    fn write(&mut self, batch: &StateBatch) {
        self.state.write(batch);
        self.since_flush
            .push((self.state.clone(), self.plain.clone()));
    }

    /// Returns whether it ended.
    fn checkpoint(&mut self, batches: usize) -> bool {
        for _ in 0..batches {
            let mut batch = StateBatch::default();
            if !self.journal.checkpoint(&self.state, &mut batch).unwrap() {
                return true;
            }
            self.write(&batch);
            self.compare();
        }
        false
    }

    /// Durable at once; what was written before is not, if it does not overlap.
    fn install(&mut self, shard: ShardId, later: u64) {
        let here = shard_state(&self.state, shard).unwrap().unwrap();
        let installed = ShardState {
            applied_index: Index(here.applied_index.0 + later),
            revision: here.revision + later - 1,
            ..here
        };
        let mut batch = StateBatch::default();
        batch.put(keys::state(shard), installed.encode());
        // Whatever a crash leaves of the batches since the flush, the snapshot lies above.
        for (state, plain) in &mut self.since_flush {
            let behind = shard_state(plain, shard).unwrap().unwrap().applied_index;
            assert!(behind < installed.applied_index);
            state.write(&batch);
            plain.write(&batch);
        }
        self.state.write(&batch);
        self.plain.write(&batch);
        self.machines.remove(&shard);
    }

    fn crash(&mut self, left: u8, parts: Option<usize>) {
        let left = usize::from(left) * self.since_flush.len() / 256;
        self.since_flush.truncate(left + 1);
        (self.state, self.plain) = self.since_flush.last().cloned().unwrap();
        self.machines.clear();
        self.journal = Journal::read(&self.state, self.limits).unwrap();
        self.compare();
        if let Some(parts) = parts
            && !self.checkpoint(parts)
        {
            self.since_flush
                .truncate(self.since_flush.len() - parts / 2);
            (self.state, self.plain) = self.since_flush.last().cloned().unwrap();
            self.journal = Journal::read(&self.state, self.limits).unwrap();
        }
        assert!(self.checkpoint(usize::MAX));
        // All of it is as if it had been written in every round.
        assert_eq!(self.state, self.plain);
    }

    /// By each way of reading, all is as in the model.
    fn compare(&self) {
        assert_eq!(
            shard_states(&self.state).unwrap(),
            shard_states(&self.plain).unwrap()
        );
        for shard in SHARDS.map(ShardId) {
            let state = shard_state(&self.state, shard).unwrap().unwrap();
            let plain = shard_state(&self.plain, shard).unwrap().unwrap();
            assert_eq!(state, plain);
            let opened = self.journal.open(&self.state, shard).unwrap().unwrap();
            assert_eq!(opened.state(), &plain);
            let rows = |view: &MemoryState| {
                let mut rows = Vec::new();
                let read = visit_shard(view, &state, &mut |key, value| {
                    rows.push((key.to_vec(), value.to_vec()));
                    ControlFlow::Continue(())
                });
                read.unwrap();
                rows
            };
            assert_eq!(rows(&self.state), rows(&self.plain));
            // What serves reads is never behind.
            let row = positions::state_row(&self.state, shard).unwrap().unwrap();
            assert_eq!(row.descriptor, plain.descriptor);
            assert_eq!(row.next_session, plain.next_session);
        }
        let again = Journal::read(&self.state, self.limits).unwrap();
        assert_eq!(
            (again.rows, again.bytes),
            (self.journal.rows, self.journal.bytes)
        );
    }
}

proptest! {
    #[test]
    fn the_state_is_that_of_a_model_that_writes_every_row(
        steps in proptest::collection::vec(step(), 1..40),
        shards_min in 1usize..4,
        batch_bytes in prop_oneof![Just(1usize), Just(150), Just(1 << 20)],
    ) {
        let limits = JournalLimits { bytes: 1 << 20, shards_min, batch_bytes };
        let mut world = World::new(limits);
        for step in &steps {
            world.step(step);
        }
        prop_assert!(world.checkpoint(usize::MAX));
        prop_assert_eq!(&world.state, &world.plain);
    }
}

/// A round of one put in each of these shards.
fn puts(shards: impl Iterator<Item = u64>) -> Step {
    Step::Round(shards.map(|shard| (shard, Does::Put(1))).collect())
}

#[test]
fn rounds_of_many_shards_write_one_row_until_there_are_enough() {
    let limits = JournalLimits {
        bytes: 200,
        shards_min: 3,
        ..JournalLimits::default()
    };
    let mut world = World::new(limits);
    let states = |world: &World| {
        let rows = world.state.rows();
        let states = rows.filter(|(key, _)| keys::all_state_rows().contains(key));
        states.map(|(_, value)| value.clone()).collect::<Vec<_>>()
    };
    let before = states(&world);
    let mut rounds = 0;
    while !world.journal.is_full() {
        world.step(&puts(SHARDS));
        rounds += 1;
    }
    assert!(rounds > 2, "{rounds}");
    assert_eq!(world.journal.rows, rounds);
    assert_eq!(states(&world), before);
    assert!(world.checkpoint(2));
    assert!(!world.journal.is_full());
    assert_eq!(world.journal.shards().count(), 0);
    let after = states(&world);
    assert!(
        after
            .iter()
            .zip(&before)
            .all(|(after, before)| after != before)
    );
    // Few shards: their rows are written at once.
    world.step(&puts(2..4));
    assert_eq!(world.journal.rows, 0);
    assert_ne!(states(&world), after);
    // What only the row has is written at once, too.
    world.step(&Step::Round(vec![
        (2, Does::OpenSession),
        (3, Does::Put(1)),
        (4, Does::Put(1)),
    ]));
    assert_eq!(
        world.journal.shards().collect::<Vec<_>>(),
        [3, 4].map(ShardId)
    );
}

#[test]
fn damage_is_found() {
    let mut world = World::new(JournalLimits::default());
    world.step(&puts(SHARDS));
    world.step(&puts(SHARDS));
    let sound = world.state.clone();
    let refused = |state: &MemoryState| {
        let all = shard_states(state).unwrap_err().to_string();
        if let Ok(mut journal) = Journal::read(state, world.limits) {
            journal
                .checkpoint(state, &mut StateBatch::default())
                .expect_err("found as well");
        }
        all
    };
    let mut state = sound.clone();
    state.replace(keys::positions(0), None);
    assert_eq!(
        refused(&state),
        "row 1 of the shards' positions: the row before it is missing"
    );
    let mut state = sound.clone();
    state.put(keys::positions(1), Bytes::from_static(b"\x08\x01"));
    let why = "row 1 of the shards' positions: its lists have different lengths";
    assert_eq!(refused(&state), why);
    assert_eq!(
        shard_state(&state, ShardId(2)).unwrap_err().to_string(),
        why
    );
    let mut state = sound.clone();
    state.replace(keys::state(ShardId(4)), None);
    assert_eq!(refused(&state), "shard 4 has a position and no state");
    assert_eq!(shard_state(&state, ShardId(4)).unwrap(), None);
    let mut state = sound;
    let ahead = ShardState {
        revision: 1000,
        ..born(ShardId(3))
    };
    state.put(keys::state(ShardId(3)), ahead.encode());
    let found = refused(&state);
    assert!(
        found.contains("shard 3") && found.contains("nothing may fall"),
        "{found}"
    );
    assert!(shard_state(&state, ShardId(3)).is_err());
}
