//! A shard with something in it, and pieces of input.

use bytes::Bytes;
use flotilla_proto::v1::{
    Command, CommandBatch, Condition, DeleteOperation, DeleteRangeOperation, OpenSession,
    Operation, PutOperation, SessionRef, WriteBatch, command, condition, operation,
};
use flotilla_shards::descriptor::{Descriptor, Epoch, KeyRange, Replica};
use flotilla_shards::ids::{NodeId, ShardId};
use flotilla_shards::kv::{MemoryState, ShardState, StateBatch, StateMachine};
use flotilla_shards::raft::{Entry, EntryKind, Index, ReplicaId, Term};
use prost::Message as _;

pub(crate) const SHARD: ShardId = ShardId(2);

/// The state of a shard of three replicas that holds all keys and has applied one entry.
pub(crate) fn state() -> ShardState {
    let descriptor = Descriptor {
        shard: SHARD,
        range: KeyRange::all(),
        epoch: Epoch {
            membership: 1,
            range: 1,
        },
        replicas: (1..=3)
            .map(|id| Replica {
                id: ReplicaId(id),
                node: NodeId(id),
                learner: false,
            })
            .collect(),
    };
    ShardState {
        applied_index: Index(1),
        applied_term: Term(1),
        revision: 0,
        clock_ms: 1_000,
        next_session: 1,
        conf_state: descriptor.conf_state(),
        descriptor,
    }
}

/// A shard with two keys and a session.
pub(crate) fn shard() -> (StateMachine, MemoryState) {
    let mut machine = StateMachine::new(state());
    let mut rows = MemoryState::default();
    let first = [write(puts(&["a", "b"]), None), open()];
    apply(&mut machine, &mut rows, EntryKind::Normal, &encoded(&first)).unwrap();
    (machine, rows)
}

/// Applies the next entry, and writes what comes of it.
pub(crate) fn apply(
    machine: &mut StateMachine,
    rows: &mut MemoryState,
    kind: EntryKind,
    data: &[u8],
) -> Result<usize, flotilla_shards::kv::ApplyError> {
    let mut batch = StateBatch::default();
    let mut answers = Vec::new();
    let entry = Entry {
        index: machine.state().applied_index.next(),
        term: machine.state().applied_term,
        kind,
        data: Bytes::copy_from_slice(data),
    };
    machine.apply_entry(rows, &mut batch, &entry, &mut answers)?;
    machine.finish(&mut batch);
    rows.write(&batch);
    Ok(answers.len())
}

pub(crate) fn encoded(commands: &[Command]) -> Vec<u8> {
    let batch = CommandBatch {
        time_ms: 2_000,
        commands: commands.to_vec(),
    };
    batch.encode_to_vec()
}

pub(crate) fn write(operations: Vec<Operation>, session: Option<SessionRef>) -> Command {
    Command {
        range_epoch: 1,
        session,
        kind: Some(command::Kind::Write(WriteBatch {
            conditions: vec![],
            operations,
        })),
    }
}

pub(crate) fn open() -> Command {
    Command {
        range_epoch: 1,
        session: None,
        kind: Some(command::Kind::OpenSession(OpenSession {})),
    }
}

pub(crate) fn session(sequence: u64) -> SessionRef {
    SessionRef {
        shard_id: SHARD.0,
        number: 1,
        sequence,
        lowest_unacknowledged: 1,
    }
}

pub(crate) fn puts(keys: &[&'static str]) -> Vec<Operation> {
    let put = |key: &&'static str| Operation {
        kind: Some(operation::Kind::Put(PutOperation {
            key: Bytes::from_static(key.as_bytes()),
            value: "value".into(),
        })),
    };
    keys.iter().map(put).collect()
}

/// Operations and conditions of all kinds.
pub(crate) fn all_kinds() -> (Vec<Condition>, Vec<Operation>) {
    let on = |test| Condition {
        key: "a".into(),
        test: Some(test),
    };
    let conditions = vec![
        on(condition::Test::Exists(true)),
        on(condition::Test::ValueEquals("value".into())),
        on(condition::Test::RevisionEquals(1)),
    ];
    let mut operations = puts(&["c"]);
    operations.push(Operation {
        kind: Some(operation::Kind::Delete(DeleteOperation { key: "b".into() })),
    });
    operations.push(Operation {
        kind: Some(operation::Kind::DeleteRange(DeleteRangeOperation {
            start: "d".into(),
            end: "e".into(),
        })),
    });
    (conditions, operations)
}

/// Takes a piece off the front: its length in one byte (or all that is left), then its bytes.
pub(crate) fn piece<'a>(data: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = data.split_first()?;
    let (piece, rest) = rest.split_at(rest.len().min(usize::from(*length)));
    *data = rest;
    Some(piece)
}

/// The reverse of [`piece`].
pub(crate) fn pieces(pieces: &[&[u8]]) -> Vec<u8> {
    let mut data = Vec::new();
    for piece in pieces {
        data.push(u8::try_from(piece.len()).expect("seeds are short"));
        data.extend_from_slice(piece);
    }
    data
}
