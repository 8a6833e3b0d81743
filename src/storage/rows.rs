//! The rows of the log database: keys, values, checksums. Numbers are for ever.
//!
//! | kind | key | value | written |
//! |---|---|---|---|
//! | identity | shard 0, kind 0 | `Identity` | when the folder is made and when it joins a cluster |
//! | starts | shard 0, kind 4 | `StoreStarts` | at each start of the process |
//! | marks | shard 0, kind 5 | `StoreMarks` | with every synced write |
//! | hard state | shard, kind 1 | `HardState` | with the entries of the same step |
//! | compacted | shard, kind 2 | `Compacted` | when the prefix is cut or replaced by a snapshot |
//! | entry | shard, kind 3, index | `Entry` | appended, overwritten; dropped by compaction |
//!
//! Shard and index are eight bytes, the kind is one, all big-endian, so that the rows of a shard lie together and its
//! entries in order. A value begins with the CRC-32 of key and body: a row that was damaged, or that ended up under
//! another key, is told from a good one whatever the layers below checked.

use bytes::Bytes;
use flotilla_proto::v1 as proto;
use flotilla_shards::{
    ids::ShardId,
    raft::{Entry, EntryId, HardState, Index},
    wire,
};
use prost::Message;

use super::StorageError;

const IDENTITY: u8 = 0;
const HARD_STATE: u8 = 1;
const COMPACTED: u8 = 2;
const ENTRY: u8 = 3;
const STARTS: u8 = 4;
const MARKS: u8 = 5;

const CHECKSUM: usize = 4;
const PREFIX: usize = 9;
const FULL: usize = 17;

/// A decoded key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// Who the folder belongs to.
    Identity,
    /// When the process was started.
    Starts,
    /// How far this store is, and how far those of other nodes were seen.
    Marks,
    /// A shard's hard state.
    HardState(ShardId),
    /// Where a shard's log begins.
    Compacted(ShardId),
    /// One entry.
    Entry(ShardId, Index),
}

impl Key {
    /// The key as it lies in the database.
    pub(super) fn encode(self) -> Encoded {
        let (shard, kind, index) = match self {
            Self::Identity => (0, IDENTITY, None),
            Self::Starts => (0, STARTS, None),
            Self::Marks => (0, MARKS, None),
            Self::HardState(shard) => (shard.0, HARD_STATE, None),
            Self::Compacted(shard) => (shard.0, COMPACTED, None),
            Self::Entry(shard, index) => (shard.0, ENTRY, Some(index)),
        };
        let mut bytes = [0; FULL];
        bytes[..8].copy_from_slice(&shard.to_be_bytes());
        bytes[8] = kind;
        if let Some(index) = index {
            bytes[PREFIX..].copy_from_slice(&index.0.to_be_bytes());
        }
        Encoded {
            bytes,
            len: if index.is_some() { FULL } else { PREFIX },
        }
    }

    /// The reverse of [`Key::encode`]; `None` for anything that it would not have made.
    pub(super) fn decode(key: &[u8]) -> Option<Self> {
        let (shard, rest) = key.split_first_chunk::<8>()?;
        let shard = ShardId(u64::from_be_bytes(*shard));
        match rest {
            [IDENTITY] if shard.0 == 0 => Some(Self::Identity),
            [STARTS] if shard.0 == 0 => Some(Self::Starts),
            [MARKS] if shard.0 == 0 => Some(Self::Marks),
            [HARD_STATE] => Some(Self::HardState(shard)),
            [COMPACTED] => Some(Self::Compacted(shard)),
            [ENTRY, index @ ..] => Some(Self::Entry(
                shard,
                Index(u64::from_be_bytes(index.try_into().ok()?)),
            )),
            _ => None,
        }
    }
}

/// An encoded key, without an allocation.
#[derive(Clone, Copy)]
pub(super) struct Encoded {
    bytes: [u8; FULL],
    len: usize,
}

impl AsRef<[u8]> for Encoded {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Writes `body` as the value that belongs under `key` into `value`, which is cleared first.
pub(super) fn seal(key: &[u8], body: &impl Message, value: &mut Vec<u8>) {
    value.clear();
    value.reserve(CHECKSUM + body.encoded_len());
    value.extend_from_slice(&[0; CHECKSUM]);
    body.encode_raw(value);
    let checksum = checksum(key, &value[CHECKSUM..]);
    value[..CHECKSUM].copy_from_slice(&checksum.to_be_bytes());
}

/// The reverse of [`seal`].
pub(super) fn unseal<M: Message + Default>(key: &[u8], value: &[u8]) -> Result<M, StorageError> {
    let damaged = |what: &str| {
        StorageError::corrupt(
            "storage::rows::unseal",
            format!("row {}: {what}", key.escape_ascii()),
        )
    };
    let (found, body) = value
        .split_first_chunk::<CHECKSUM>()
        .ok_or_else(|| damaged("no checksum"))?;
    let (found, expected) = (u32::from_be_bytes(*found), checksum(key, body));
    if found != expected {
        return Err(damaged(&format!(
            "checksum {found:08x}, expected {expected:08x}"
        )));
    }
    // The copy makes the payloads slices of one allocation.
    M::decode(Bytes::copy_from_slice(body)).map_err(|error| damaged(&error.to_string()))
}

pub(super) fn checksum(key: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(body);
    hasher.finalize()
}

/// The entry that lies under `key`.
pub(super) fn entry_from_row(
    shard: ShardId,
    index: Index,
    value: &[u8],
) -> Result<Entry, StorageError> {
    let row = unseal(Key::Entry(shard, index).encode().as_ref(), value)?;
    let damaged = |what| {
        let detail = format!("entry {index} of shard {shard}: {what}");
        StorageError::corrupt("storage::rows::entry", detail)
    };
    let entry = wire::decode_entry(row).map_err(|error| damaged(error.to_string()))?;
    if entry.index == index {
        Ok(entry)
    } else {
        Err(damaged(format!("it says to be entry {}", entry.index)))
    }
}

/// The hard state that lies under `key`.
pub(super) fn hard_state_from_row(key: &[u8], value: &[u8]) -> Result<HardState, StorageError> {
    wire::decode_hard_state(unseal(key, value)?).map_err(|error| {
        StorageError::corrupt(
            "storage::rows::hard_state",
            format!("row {}: {error}", key.escape_ascii()),
        )
    })
}

/// The disk form of the position at which a log begins.
pub(super) fn compacted_to_row(position: EntryId) -> proto::Compacted {
    proto::Compacted {
        index: position.index.0,
        term: position.term.0,
    }
}

/// The position that lies under `key`, at which a log begins.
pub(super) fn compacted_from_row(key: &[u8], value: &[u8]) -> Result<EntryId, StorageError> {
    let row: proto::Compacted = unseal(key, value)?;
    let position = wire::index("compacted.index", row.index).and_then(|index| {
        let term = wire::term("compacted.term", row.term)?;
        Ok(EntryId { term, index })
    });
    position.map_err(|error| {
        StorageError::corrupt(
            "storage::rows::compacted",
            format!("row {}: {error}", key.escape_ascii()),
        )
    })
}

#[cfg(test)]
mod tests {
    use flotilla_shards::raft::{EntryKind, Term};

    use super::*;
    use crate::storage::Fault;

    fn entry() -> Entry {
        Entry {
            term: Term(7),
            index: Index(300),
            kind: EntryKind::ConfChangeV2,
            data: Bytes::from_static(b"payload"),
        }
    }

    #[test]
    fn keys_round_trip_and_sort_by_shard_kind_index() {
        let ascending = [
            Key::Identity,
            Key::Starts,
            Key::Marks,
            Key::HardState(ShardId(1)),
            Key::Compacted(ShardId(1)),
            Key::Entry(ShardId(1), Index(1)),
            Key::Entry(ShardId(1), Index(256)),
            Key::Entry(ShardId(1), Index(u64::MAX)),
            Key::HardState(ShardId(256)),
        ];
        for key in ascending {
            assert_eq!(Key::decode(key.encode().as_ref()), Some(key));
        }
        for pair in ascending.windows(2) {
            assert!(
                pair[0].encode().as_ref() < pair[1].encode().as_ref(),
                "{pair:?}"
            );
        }
    }

    #[test]
    fn foreign_keys_are_not_understood() {
        let mut long = Key::Entry(ShardId(1), Index(1)).encode().as_ref().to_vec();
        long.push(0);
        let mut kind = Key::HardState(ShardId(1)).encode().as_ref().to_vec();
        kind[8] = 9;
        for key in [&b""[..], b"short", &long, &kind, &long[..12]] {
            assert_eq!(Key::decode(key), None, "{}", key.escape_ascii());
        }
    }

    #[test]
    fn every_flipped_bit_and_every_other_place_is_noticed() {
        let (shard, index) = (ShardId(5), Index(300));
        let key = Key::Entry(shard, index).encode();
        let mut value = Vec::new();
        seal(key.as_ref(), &wire::encode_entry(entry()), &mut value);
        assert_eq!(entry_from_row(shard, index, &value).unwrap(), entry());
        for bit in 0..value.len() * 8 {
            let mut damaged = value.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let error = entry_from_row(shard, index, &damaged).unwrap_err();
            assert_eq!(error.fault, Fault::Corruption);
        }
        for len in 0..value.len() {
            assert!(
                entry_from_row(shard, index, &value[..len]).is_err(),
                "cut to {len}"
            );
        }
        assert!(entry_from_row(ShardId(6), index, &value).is_err());
        assert!(entry_from_row(shard, Index(301), &value).is_err());
    }
}
