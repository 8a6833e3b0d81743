//! The keyspace of the state database: which row lies where, as pure functions.
//!
//! ```text
//! row            key                                                       value                lives as long as
//! identity       00 "identity"                                             Identity             the data folder
//! user data      01 user key                                               header · value       its key
//! meta data      02 meta key                                               header · value       its key
//! session        03 shard (8, BE) · opened in (8, BE) · number (8, BE)     SessionRecord        the session
//! shard state    04 shard (8, BE)                                          ShardState           the replica
//! positions      05 number (8, BE)                                         Positions            the next checkpoint
//! ```
//!
//! The rows of all shards' user data lie in one keyspace, without the shard's id, so that a split or a merge moves no
//! data. The meta shard's keys lie under a prefix of their own. Everything that a replica's applied state consists of is
//! in the ranges of [`shard_rows`]; snapshots and clean-up go over these and nothing else. Positions are of many shards at
//! once and say how far these are beyond their state rows (`kv::positions`): whoever wants to know that exactly, or takes a
//! shard's rows elsewhere, asks there. Keys of one kind sort as what they were made of, so ranges of keys are ranges of rows.

use crate::descriptor::{Descriptor, KeyRange};
use crate::ids::ShardId;
use bytes::{BufMut, Bytes, BytesMut};

const NODE: u8 = 0x00;
const USER: u8 = 0x01;
const META: u8 = 0x02;
const SESSION: u8 = 0x03;
const STATE: u8 = 0x04;
const POSITIONS: u8 = 0x05;

const ID: usize = size_of::<u64>();

/// Bytes of the key of a row of positions.
pub const POSITIONS_KEY_BYTES: usize = 1 + ID;

/// Key of the row that says to which node and cluster the database belongs.
pub const IDENTITY: &[u8] = b"\x00identity";

/// Rows `[start, end)` of the state database; the end is never open.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RowRange {
    /// First row key.
    pub start: Bytes,
    /// First row key that is no longer part.
    pub end: Bytes,
}

impl RowRange {
    /// Whether `key` is in the range.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= &self.start[..] && key < &self.end[..]
    }
}

/// Names one session: numbers are unique together with the shard in which the session was opened, which is not always
/// the shard that remembers it now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId {
    /// Where it was opened.
    pub opened_in: ShardId,
    /// Its number there, from 1.
    pub number: u64,
}

/// What a row key names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowKey {
    /// The node's own [`IDENTITY`].
    Identity,
    /// A key of a user shard.
    User(Bytes),
    /// A key of the meta shard.
    Meta(Bytes),
    /// A session that a shard remembers.
    Session {
        /// Who remembers it.
        shard: ShardId,
        /// Which one.
        session: SessionId,
    },
    /// A shard's own state.
    State(ShardId),
    /// How far the shards of a round have come.
    Positions(u64),
}

/// Bytes of a row key that are shown.
const SHOWN_BYTES_MAX: usize = 64;

/// Why bytes are no row key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No bytes at all.
    #[error("a row of the state database has an empty key")]
    Empty,
    /// A first byte that no kind of row has.
    #[error("row key \"{}\" has kind {kind}, expected 0 to 5", shown(key))]
    Kind {
        /// The first byte.
        kind: u8,
        /// All of it.
        key: Bytes,
    },
    /// Too long or too short for its kind.
    #[error(
        "{kind} row key \"{}\" has {} bytes, expected {expected}",
        shown(key), key.len()
    )]
    Length {
        /// Which kind.
        kind: &'static str,
        /// All of it.
        key: Bytes,
        /// The length of such keys.
        expected: usize,
    },
}

/// A row key as a part of a message: escaped, and cut if it is long.
#[must_use]
pub fn shown(key: &[u8]) -> String {
    match key.get(..SHOWN_BYTES_MAX) {
        Some(start) if start.len() < key.len() => format!("{}…", start.escape_ascii()),
        _ => key.escape_ascii().to_string(),
    }
}

/// Appends the row key of a shard's data at `key`.
pub fn put_data(out: &mut BytesMut, shard: ShardId, key: &[u8]) {
    out.reserve(1 + key.len());
    out.put_u8(data_prefix(shard));
    out.put_slice(key);
}

/// Row key of a shard's data at `key`.
#[must_use]
pub fn data(shard: ShardId, key: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(1 + key.len());
    put_data(&mut out, shard, key);
    out.freeze()
}

/// The key that a data row's key stands for: without the prefix, sharing the bytes.
///
/// # Panics
/// If the row key is empty: data rows come out of a data range only.
#[must_use]
pub fn user_part(row: &[u8]) -> &[u8] {
    &row[1..]
}

/// Row key of a session.
#[must_use]
pub fn session(shard: ShardId, session: SessionId) -> Bytes {
    let mut out = BytesMut::with_capacity(1 + 3 * ID);
    out.put_u8(SESSION);
    out.put_u64(shard.0);
    out.put_u64(session.opened_in.0);
    out.put_u64(session.number);
    out.freeze()
}

/// Row key of a shard's state.
#[must_use]
pub fn state(shard: ShardId) -> Bytes {
    let mut out = BytesMut::with_capacity(1 + ID);
    out.put_u8(STATE);
    out.put_u64(shard.0);
    out.freeze()
}

/// Row key of positions.
#[must_use]
pub fn positions(number: u64) -> Bytes {
    let mut out = BytesMut::with_capacity(POSITIONS_KEY_BYTES);
    out.put_u8(POSITIONS);
    out.put_u64(number);
    out.freeze()
}

/// The rows of a shard's data with keys in `range`.
#[must_use]
pub fn data_rows(shard: ShardId, range: &KeyRange) -> RowRange {
    RowRange {
        start: data(shard, range.start()),
        end: if range.is_open() {
            Bytes::copy_from_slice(&[data_prefix(shard) + 1])
        } else {
            data(shard, range.end())
        },
    }
}

/// The rows of a shard's sessions.
#[must_use]
pub fn session_rows(shard: ShardId) -> RowRange {
    numbered_rows(SESSION, shard)
}

/// The row of a shard's state as a range.
#[must_use]
pub fn state_row(shard: ShardId) -> RowRange {
    numbered_rows(STATE, shard)
}

/// The rows of all shards' states: what a node reads at start.
#[must_use]
pub fn all_state_rows() -> RowRange {
    RowRange {
        start: Bytes::from_static(&[STATE]),
        end: Bytes::from_static(&[STATE + 1]),
    }
}

/// All rows of positions.
#[must_use]
pub fn positions_rows() -> RowRange {
    RowRange {
        start: Bytes::from_static(&[POSITIONS]),
        end: Bytes::from_static(&[POSITIONS + 1]),
    }
}

/// All rows of a shard's applied state, in key order; how far it is beyond its state row is said elsewhere.
#[must_use]
pub fn shard_rows(descriptor: &Descriptor) -> [RowRange; 3] {
    let shard = descriptor.shard;
    [
        data_rows(shard, &descriptor.range),
        session_rows(shard),
        state_row(shard),
    ]
}

/// Takes a row key apart.
///
/// # Errors
/// If no function of this module made it.
pub fn decode(row: Bytes) -> Result<RowKey, KeyError> {
    let id = |at: usize| {
        let from = 1 + at * ID;
        u64::from_be_bytes(row[from..from + ID].try_into().expect("length is checked"))
    };
    let check = |kind, expected| {
        if row.len() == expected {
            Ok(())
        } else {
            Err(KeyError::Length {
                kind,
                key: row.clone(),
                expected,
            })
        }
    };
    match *row.first().ok_or(KeyError::Empty)? {
        NODE => {
            check("identity", IDENTITY.len())?;
            Ok(RowKey::Identity)
        }
        USER => Ok(RowKey::User(row.slice(1..))),
        META => Ok(RowKey::Meta(row.slice(1..))),
        SESSION => {
            check("session", 1 + 3 * ID)?;
            Ok(RowKey::Session {
                shard: ShardId(id(0)),
                session: SessionId {
                    opened_in: ShardId(id(1)),
                    number: id(2),
                },
            })
        }
        STATE => {
            check("shard state", 1 + ID)?;
            Ok(RowKey::State(ShardId(id(0))))
        }
        POSITIONS => {
            check("positions", POSITIONS_KEY_BYTES)?;
            Ok(RowKey::Positions(id(0)))
        }
        kind => Err(KeyError::Kind { kind, key: row }),
    }
}

fn data_prefix(shard: ShardId) -> u8 {
    if shard.is_meta() { META } else { USER }
}

fn numbered_rows(kind: u8, shard: ShardId) -> RowRange {
    let key = |id: u64| {
        let mut out = BytesMut::with_capacity(1 + ID);
        out.put_u8(kind);
        out.put_u64(id);
        out.freeze()
    };
    RowRange {
        start: key(shard.0),
        end: match shard.0.checked_add(1) {
            Some(next) => key(next),
            None => Bytes::copy_from_slice(&[kind + 1]),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn row_key() -> impl Strategy<Value = RowKey> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..9).prop_map(Bytes::from);
        let id = || prop_oneof![0u64..4, any::<u64>(), Just(u64::MAX)];
        prop_oneof![
            Just(RowKey::Identity),
            bytes().prop_map(RowKey::User),
            bytes().prop_map(RowKey::Meta),
            (id(), id(), id()).prop_map(|(shard, opened_in, number)| RowKey::Session {
                shard: ShardId(shard),
                session: SessionId {
                    opened_in: ShardId(opened_in),
                    number
                },
            }),
            id().prop_map(|shard| RowKey::State(ShardId(shard))),
            id().prop_map(RowKey::Positions),
        ]
    }

    fn encode(key: &RowKey) -> Bytes {
        match key {
            RowKey::Identity => Bytes::from_static(IDENTITY),
            RowKey::User(key) => data(ShardId::FIRST_USER, key),
            RowKey::Meta(key) => data(ShardId::META, key),
            RowKey::Session { shard, session: id } => session(*shard, *id),
            RowKey::State(shard) => state(*shard),
            RowKey::Positions(number) => positions(*number),
        }
    }

    /// What the order of keys must follow, by kind.
    fn order(key: &RowKey) -> (u8, Bytes, [u64; 3]) {
        match key {
            RowKey::Identity => (0, Bytes::new(), [0; 3]),
            RowKey::User(key) => (1, key.clone(), [0; 3]),
            RowKey::Meta(key) => (2, key.clone(), [0; 3]),
            RowKey::Session { shard, session } => (
                3,
                Bytes::new(),
                [shard.0, session.opened_in.0, session.number],
            ),
            RowKey::State(shard) => (4, Bytes::new(), [shard.0, 0, 0]),
            RowKey::Positions(number) => (5, Bytes::new(), [*number, 0, 0]),
        }
    }

    proptest! {
        #[test]
        fn keys_round_trip_and_keep_their_order(a in row_key(), b in row_key()) {
            let (row_a, row_b) = (encode(&a), encode(&b));
            prop_assert_eq!(decode(row_a.clone()), Ok(a.clone()));
            prop_assert_eq!(row_a.cmp(&row_b), order(&a).cmp(&order(&b)));
        }

        #[test]
        fn any_bytes_are_a_key_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let row = Bytes::from(bytes);
            if let Ok(key) = decode(row.clone())
                && key != RowKey::Identity
            {
                prop_assert_eq!(encode(&key), row);
            }
        }

        #[test]
        fn ranges_hold_exactly_their_own_rows(key in row_key(), id in prop_oneof![1u64..4, Just(u64::MAX)]) {
            let shard = ShardId(id);
            let row = encode(&key);
            let of_session = matches!(key, RowKey::Session { shard: s, .. } if s == shard);
            prop_assert_eq!(session_rows(shard).contains(&row), of_session);
            prop_assert_eq!(state_row(shard).contains(&row), key == RowKey::State(shard));
            prop_assert_eq!(all_state_rows().contains(&row), matches!(key, RowKey::State(_)));
            prop_assert_eq!(positions_rows().contains(&row), matches!(key, RowKey::Positions(_)));
            let all = KeyRange::all();
            prop_assert_eq!(data_rows(ShardId::META, &all).contains(&row), matches!(key, RowKey::Meta(_)));
            let range = KeyRange::new(Bytes::from_static(b"\x20"), Bytes::from_static(b"\x80")).unwrap();
            let of_data = matches!(&key, RowKey::User(key) if range.contains(key));
            prop_assert_eq!(data_rows(ShardId(9), &range).contains(&row), of_data);
        }
    }
}
