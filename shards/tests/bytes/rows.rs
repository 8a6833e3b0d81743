//! Rows of the databases: what they hold is read as what was written, or refused; and a shard whose rows were damaged goes
//! on or says what is wrong.

use crate::shard::{self, encoded, open, piece, pieces, puts, session, write};
use bytes::Bytes;
use flotilla_proto::v1 as proto;
use flotilla_shards::descriptor::Descriptor;
use flotilla_shards::genesis::{Genesis, Split};
use flotilla_shards::keys::{self, SessionId};
use flotilla_shards::kv::positions::{self, Position};
use flotilla_shards::kv::{
    ApplyError, Journal, JournalLimits, MemoryState, ShardState, StateBatch, StateMachine, read,
};
use flotilla_shards::meta::MetaRow;
use flotilla_shards::raft::{EntryId, EntryKind, HardState, Index, ReplicaId, Term};
use flotilla_shards::{value, wire};
use prost::Message as _;

pub(crate) fn run(data: &[u8]) {
    let Some((kind, mut data)) = data.split_first() else {
        return;
    };
    let row = Bytes::copy_from_slice(data);
    match kind % 10 {
        0 => {
            if let Ok(state) = ShardState::decode(row) {
                assert_eq!(ShardState::decode(state.encode()), Ok(state));
            }
        }
        1 => {
            if let Ok(message) = proto::Descriptor::decode(row)
                && let Ok(descriptor) = Descriptor::try_from(message)
            {
                let again = proto::Descriptor::from(&descriptor);
                assert_eq!(Descriptor::try_from(again), Ok(descriptor));
            }
        }
        2 => {
            if let Ok(message) = proto::Genesis::decode(row)
                && let Ok(genesis) = Genesis::try_from(message)
            {
                let again = proto::Genesis::from(&genesis);
                assert_eq!(Genesis::try_from(again), Ok(genesis));
            }
        }
        3 => {
            if let Some(key) = piece(&mut data) {
                let key = Bytes::copy_from_slice(key);
                let value = Bytes::copy_from_slice(data);
                if let Ok(row) = MetaRow::decode(&key, value) {
                    assert_eq!(MetaRow::decode(&row.key(), row.value()), Ok(row));
                }
            }
        }
        4 => {
            if let Ok(message) = proto::HardState::decode(row)
                && let Ok(state) = wire::decode_hard_state(message)
            {
                let again = wire::encode_hard_state(state);
                assert_eq!(wire::decode_hard_state(again), Ok(state));
            }
        }
        5 => {
            if let Ok(message) = proto::ConfState::decode(row)
                && let Ok(state) = wire::decode_conf_state(message)
            {
                let again = wire::encode_conf_state(&state);
                assert_eq!(wire::decode_conf_state(again), Ok(state));
            }
        }
        6 => {
            if let Ok(message) = proto::Entry::decode(row)
                && let Ok(entry) = wire::decode_entry(message)
            {
                let again = wire::encode_entry(entry.clone());
                assert_eq!(wire::decode_entry(again), Ok(entry));
            }
        }
        7 => drop(value::decode(row)),
        8 => {
            if let Ok(found) = positions::decode(&row) {
                assert_eq!(positions::decode(&positions::encode(&found)), Ok(found));
            }
        }
        _ => database(data),
    }
}

/// A sound shard, of which some rows are replaced.
fn database(mut data: &[u8]) {
    let (_, mut rows) = shard::shard();
    while let Some((which, rest)) = data.split_first() {
        data = rest;
        let Some(row) = piece(&mut data) else {
            break;
        };
        rows.put(key_of(*which), Bytes::copy_from_slice(row));
    }
    let loaded = StateMachine::load(&rows, shard::SHARD);
    started(rows.clone());
    if let Ok(Some(machine)) = loaded {
        goes_on(machine, rows);
    }
}

/// What a start makes of rows of positions: all of it is damage, or nothing is lost.
fn started(mut rows: MemoryState) {
    let Ok(states) = positions::shard_states(&rows) else {
        return;
    };
    let journal = Journal::read(&rows, JournalLimits::default());
    let mut journal = journal.expect("read before");
    let mut batch = StateBatch::default();
    while journal.checkpoint(&rows, &mut batch).expect("read before") {
        rows.write(&batch);
        batch.clear();
    }
    assert_eq!(positions::shard_states(&rows).expect("sound"), states);
    assert!(
        rows.rows()
            .all(|(key, _)| !keys::positions_rows().contains(key))
    );
}

fn key_of(which: u8) -> Bytes {
    match which % 6 {
        0 => keys::state(shard::SHARD),
        1 => keys::data(shard::SHARD, b"a"),
        4 => keys::positions(0),
        5 => keys::positions(1),
        other => keys::session(
            shard::SHARD,
            SessionId {
                opened_in: shard::SHARD,
                number: u64::from(other) - 1,
            },
        ),
    }
}

/// Commands of all kinds, on rows that nobody vouches for: they are answered, or the database is found to be damaged.
pub(crate) fn goes_on(mut machine: StateMachine, mut rows: MemoryState) {
    let epoch = machine.state().descriptor.epoch.range;
    let (conditions, operations) = shard::all_kinds();
    let conditional = proto::Command {
        kind: Some(proto::command::Kind::Write(proto::WriteBatch {
            conditions,
            operations,
        })),
        ..write(vec![], None)
    };
    let commands = [
        write(puts(&["a"]), Some(session(1))),
        conditional,
        open(),
        open(),
        write(puts(&["z"]), None),
    ];
    let membership = crate::entry::seeds();
    for mut command in commands {
        command.range_epoch = epoch;
        let entry = encoded(&[command]);
        let result: Result<usize, ApplyError> =
            shard::apply(&mut machine, &mut rows, EntryKind::Normal, &entry);
        if result.is_err() {
            return;
        }
    }
    for seed in membership.iter().filter(|seed| seed[0] == 1) {
        let applied = shard::apply(&mut machine, &mut rows, EntryKind::ConfChangeV2, &seed[2..]);
        if applied.is_err() {
            return;
        }
    }
    let descriptor = &machine.state().descriptor;
    drop(read::get(&rows, descriptor, &Bytes::from_static(b"a")));
    drop(read::checksum(&rows, descriptor));
}

/// A row that says how far the shard has come.
fn positions(index: u64) -> Bytes {
    let position = Position {
        applied: EntryId {
            index: Index(index),
            term: Term(3),
        },
        revision: index,
        clock_ms: 3_000 + index,
    };
    positions::encode(&[(shard::SHARD, position)])
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let state = shard::state();
    let address = |n: u64| proto::Node {
        node_id: n,
        address: format!("host:{n}"),
        store_id: Bytes::from(vec![u8::try_from(n).unwrap(); 16]),
        ..proto::Node::default()
    };
    let split = Split::Even(2);
    let cluster = [7; 16];
    let genesis = Genesis::plan(cluster, (1..=3).map(address).collect(), &split, 3, 1_000);
    let genesis = genesis.unwrap();
    let hard_state = HardState {
        term: Term(3),
        vote: ReplicaId(2),
        commit: state.applied_index,
    };
    let entry = proto::Entry {
        term: 3,
        index: 9,
        kind: proto::EntryKind::Normal.into(),
        data: "data".into(),
    };
    let mut stored = bytes::BytesMut::new();
    value::encode(&mut stored, 7, b"value");
    let record = proto::SessionRecord {
        last_used_ms: 1_500,
        lowest_unacknowledged: 1,
        answers: vec![proto::StoredAnswer {
            sequence: 1,
            answer: Some(proto::CommandAnswer::default()),
        }],
    };
    let tagged = |tag: u8, data: &[u8]| [&[tag], data].concat();
    let mut seeds = vec![
        tagged(0, &state.encode()),
        tagged(
            1,
            &proto::Descriptor::from(&state.descriptor).encode_to_vec(),
        ),
        tagged(2, &proto::Genesis::from(&genesis).encode_to_vec()),
        tagged(4, &wire::encode_hard_state(hard_state).encode_to_vec()),
        tagged(
            5,
            &wire::encode_conf_state(&state.conf_state).encode_to_vec(),
        ),
        tagged(6, &entry.encode_to_vec()),
        tagged(7, &stored),
        tagged(8, &positions(9)),
    ];
    for row in genesis.directory() {
        let key = pieces(&[&row.key()]);
        seeds.push(tagged(3, &[&key[..], &row.value()].concat()));
    }
    let one = |which: u8, row: &[u8]| [&[which], &pieces(&[row])[..]].concat();
    let record = record.encode_to_vec();
    for replaced in [
        one(0, &state.encode()),
        one(1, &stored),
        one(2, &record),
        [one(0, &state.encode()), one(2, &record), one(3, &record)].concat(),
        one(4, &positions(9)),
        [one(4, &positions(9)), one(5, &positions(12))].concat(),
    ] {
        seeds.push(tagged(9, &replaced));
    }
    seeds
}
