//! Sizes of entries, by which batches and windows are limited (etcd `util.go`).
//!
//! Two measures: what an entry takes on the wire limits messages and batches to apply, its bare data limit what is
//! uncommitted and in flight. The entry that a new leader appends has no data, so that the second kind of limit can
//! never refuse it.

use super::types::{Entry, EntryKind};

/// No limit, for all sizes.
pub const NO_LIMIT: u64 = u64::MAX;

/// Bytes of an entry in the protobuf encoding of etcd's `raftpb.Entry` (kind 1, term 2, index 3, data 4). It stands
/// for any similar encoding: limits are about magnitude.
#[must_use]
pub fn entry_size(entry: &Entry) -> u64 {
    let kind = match entry.kind {
        EntryKind::Normal => 0,
        EntryKind::ConfChange => 1,
        EntryKind::ConfChangeV2 => 2,
    };
    let data = entry.data.len() as u64;
    let data = if data == 0 {
        0
    } else {
        1 + varint_size(data) + data
    };
    3 + varint_size(kind) + varint_size(entry.term.0) + varint_size(entry.index.0) + data
}

/// Sum of [`entry_size`].
pub fn entries_size<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> u64 {
    entries.into_iter().map(entry_size).sum()
}

/// Sum of the sizes of the bare data.
pub fn payloads_size<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> u64 {
    entries
        .into_iter()
        .map(|entry| entry.data.len() as u64)
        .sum()
}

/// How many of the entries, from the first on, fit in `max_size` bytes by [`entry_size`]; the first one always does.
pub fn limit_size<'a>(entries: impl IntoIterator<Item = &'a Entry>, max_size: u64) -> usize {
    let mut size = 0;
    let mut count = 0;
    for entry in entries {
        size += entry_size(entry);
        if count > 0 && size > max_size {
            break;
        }
        count += 1;
    }
    count
}

fn varint_size(value: u64) -> u64 {
    // Seven bits a byte, and one byte for zero.
    u64::from((64 - (value | 1).leading_zeros()).div_ceil(7))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::{Index, Term};

    #[test]
    fn varints_grow_by_seven_bits() {
        for (value, size) in [
            (0, 1),
            (1, 1),
            (127, 1),
            (128, 2),
            (16_383, 2),
            (16_384, 3),
            (u64::MAX, 10),
        ] {
            assert_eq!(varint_size(value), size, "{value}");
        }
    }

    #[test]
    fn o15_limit_keeps_one_entry_and_never_exceeds() {
        let entries: Vec<_> = (4..7)
            .map(|i| Entry {
                term: Term(i),
                index: Index(i),
                ..Entry::default()
            })
            .collect();
        let one = entry_size(&entries[0]);
        for (limit, count) in [
            (NO_LIMIT, 3),
            (0, 1),
            (2 * one, 2),
            (2 * one + one / 2, 2),
            (3 * one - 1, 2),
            (3 * one, 3),
        ] {
            assert_eq!(limit_size(&entries, limit), count, "{limit}");
        }
    }
}
