//! One row of the log database, of any content.

use bytes::Bytes;
use flotilla_proto::v1 as proto;
use flotilla_shards::{
    ids::ShardId,
    raft::{Entry, EntryId, EntryKind, HardState, Index, ReplicaId, Term},
    wire,
};

use super::is_a_line;
use crate::{
    fuzz::{byte, number, piece},
    storage::{
        Fault, StorageError, identity,
        rows::{self, Key},
    },
};

/// What lies under a key of the log database.
#[derive(Debug, PartialEq)]
pub(super) enum Row {
    Identity(proto::Identity),
    Starts(proto::StoreStarts),
    Marks(proto::StoreMarks),
    HardState(HardState),
    Compacted(EntryId),
    Entry(Entry),
}

impl Row {
    fn read(key: Key, value: &[u8]) -> Result<Self, StorageError> {
        let encoded = key.encode();
        match key {
            Key::Identity => rows::unseal(encoded.as_ref(), value).map(Self::Identity),
            Key::Starts => rows::unseal(encoded.as_ref(), value).map(Self::Starts),
            Key::Marks => rows::unseal(encoded.as_ref(), value).map(Self::Marks),
            Key::HardState(_) => {
                rows::hard_state_from_row(encoded.as_ref(), value).map(Self::HardState)
            }
            Key::Compacted(_) => {
                rows::compacted_from_row(encoded.as_ref(), value).map(Self::Compacted)
            }
            Key::Entry(shard, index) => rows::entry_from_row(shard, index, value).map(Self::Entry),
        }
    }

    pub(super) fn write(&self, key: Key) -> Vec<u8> {
        let (key, mut value) = (key.encode(), Vec::new());
        let key = key.as_ref();
        match self {
            Self::Identity(row) => rows::seal(key, row, &mut value),
            Self::Starts(row) => rows::seal(key, row, &mut value),
            Self::Marks(row) => rows::seal(key, row, &mut value),
            Self::HardState(row) => rows::seal(key, &wire::encode_hard_state(*row), &mut value),
            Self::Compacted(row) => rows::seal(key, &rows::compacted_to_row(*row), &mut value),
            Self::Entry(row) => rows::seal(key, &wire::encode_entry(row.clone()), &mut value),
        }
        value
    }
}

/// A body of any content under the checksum that belongs to it.
pub(super) fn sealed(key: Key, body: &[u8]) -> Vec<u8> {
    let checksum = rows::checksum(key.encode().as_ref(), body);
    [&checksum.to_be_bytes(), body].concat()
}

pub(super) fn any_key(data: &mut &[u8]) -> Key {
    let kind = byte(data);
    let (shard, index) = (ShardId(number(data)), Index(number(data)));
    match kind % 6 {
        0 => Key::Identity,
        1 => Key::HardState(shard),
        2 => Key::Compacted(shard),
        4 => Key::Starts,
        5 => Key::Marks,
        _ => Key::Entry(shard, index),
    }
}

fn mark(term: Term, index: Index) -> proto::StoreMark {
    proto::StoreMark {
        start: term.0,
        written: index.0,
    }
}

/// A row that can be under `key`; a sound one if the numbers are in their bounds.
pub(super) fn any_row(key: Key, data: &mut &[u8]) -> Row {
    let (term, index) = (Term(number(data)), Index(number(data)));
    match key {
        Key::Identity => Row::Identity(proto::Identity {
            format: identity::FORMAT,
            store_id: Bytes::copy_from_slice(data),
            genesis: None,
            node_id: index.0,
        }),
        Key::Starts => Row::Starts(proto::StoreStarts {
            starts: vec![mark(term, index)],
            leased: index.0 % 2 == 1,
        }),
        Key::Marks => Row::Marks(proto::StoreMarks {
            written: number(data),
            others: vec![proto::SeenMark {
                node_id: number(data),
                mark: Some(mark(term, index)),
            }],
        }),
        Key::HardState(_) => Row::HardState(HardState {
            term,
            vote: ReplicaId(number(data)),
            commit: index,
        }),
        Key::Compacted(_) => Row::Compacted(EntryId { term, index }),
        Key::Entry(_, index) => Row::Entry(Entry {
            term,
            index,
            kind: [
                EntryKind::Normal,
                EntryKind::ConfChange,
                EntryKind::ConfChangeV2,
            ][usize::from(byte(data) % 3)],
            data: Bytes::copy_from_slice(data),
        }),
    }
}

fn refused(error: &StorageError) {
    assert_eq!(error.fault, Fault::Corruption, "{error}");
    is_a_line(&error.to_string());
}

/// One row of the log database: what is read is what was written, damage is refused.
///
/// # Panics
/// If that does not hold.
pub fn log_rows(mut data: &[u8]) {
    match byte(&mut data) % 3 {
        0 => {
            let Some(key) = piece(&mut data) else {
                return;
            };
            if let Some(decoded) = Key::decode(key) {
                assert_eq!(decoded.encode().as_ref(), key);
                drop(Row::read(decoded, data));
            }
        }
        1 => {
            let key = any_key(&mut data);
            match Row::read(key, &sealed(key, data)) {
                Ok(row) => {
                    let again = Row::read(key, &row.write(key));
                    assert_eq!(again.expect("what was read can be written"), row);
                }
                Err(error) => refused(&error),
            }
        }
        _ => {
            let (key, other) = (any_key(&mut data), any_key(&mut data));
            let (kind, at, change) = (byte(&mut data), number(&mut data), byte(&mut data));
            let row = any_row(key, &mut data);
            let mut value = row.write(key);
            match Row::read(key, &value) {
                Ok(read) => assert_eq!(read, row),
                Err(error) => return refused(&error),
            }
            let at = usize::try_from(at).unwrap_or(0) % value.len();
            // A checksum of 32 bits finds all damage within 32 bits, and nearly all other.
            let mut place = key;
            match kind % 4 {
                0 => value[at] ^= change.max(1),
                1 => value.truncate(at),
                2 => value.push(change),
                _ if other == key => return,
                _ => place = other,
            }
            let error = Row::read(place, &value).expect_err("damage is noticed");
            refused(&error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{feed::feed, fuzz::pieces};

    #[test]
    fn rows_of_the_log_database_of_any_content() {
        let key = |key: Key| [&[0], &pieces(&[key.encode().as_ref()])[..]].concat();
        let entry = Row::Entry(Entry {
            term: Term(3),
            index: Index(5),
            kind: EntryKind::Normal,
            data: Bytes::from_static(b"data"),
        });
        let entry = entry.write(Key::Entry(ShardId(2), Index(5)));
        let seeds = [
            key(Key::Identity),
            key(Key::HardState(ShardId(2))),
            key(Key::Marks),
            [&key(Key::Entry(ShardId(2), Index(5)))[..], &entry].concat(),
            b"\x01\x01\x02\x00\x08\x03\x10\x01\x18\x05".to_vec(),
            b"\x01\x02\x02\x00\x08\x05\x10\x03".to_vec(),
            [b"\x01\x03\x02\x05", &entry[4..]].concat(),
            b"\x01\x04\x00\x00\x0a\x02\x10\x05".to_vec(),
            b"\x02\x05\x00\x00\x04\x00\x00\x02\x03\x10\x03\x05\x07\x02".to_vec(),
            b"\x02\x00\x00\x00\x00\x00\x00\x00\x03\x10\x01\x01store".to_vec(),
            b"\x02\x01\x02\x00\x02\x02\x00\x01\x03\x10\x03\x05\x01".to_vec(),
            b"\x02\x02\x02\x00\x02\x03\x00\x02\x03\x10\x03\x05".to_vec(),
            b"\x02\x03\x02\x05\x03\x02\x06\x03\x03\x10\x03\x05\x00data".to_vec(),
        ];
        feed("log_rows", &seeds, 50_000, log_rows);
    }
}
