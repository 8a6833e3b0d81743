//! Reads of one shard, bounded in rows and bytes.
//!
//! Every read is held against the shard's range as of the state that it reads, so that a route which was right when the
//! request set out, and no longer is, gives an error and never an empty answer. Whether the state is new enough is the
//! caller's to say.

use super::view::{Order, StateView, ViewError};
use crate::descriptor::{Descriptor, KeyRange};
use crate::keys;
use crate::limits::Limits;
use crate::value::{self, ValueError};
use bytes::{Bytes, BytesMut};
use flotilla_proto::v1::{GetResponse, Row, ScanResponse};
use std::ops::ControlFlow;

/// Why a read has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The database failed: the node's fault.
    #[error(transparent)]
    View(#[from] ViewError),
    /// A value without a legible header: the node's fault.
    #[error(transparent)]
    Value(#[from] ValueError),
    /// The shard does not hold what was asked for: the route was old.
    #[error("\"{}\" is not in {range}", key.escape_ascii())]
    OutOfRange {
        /// The key that was asked for.
        key: Bytes,
        /// What the shard holds.
        range: KeyRange,
    },
    /// The answer would be too large: ask for less at once.
    #[error("the values of the {keys} keys up to \"{}\" have {bytes} bytes, more than the limit batch_get_bytes of {limit}: ask for fewer keys at once", key.escape_ascii())]
    TooLarge {
        /// The key at which the limit was passed.
        key: Bytes,
        /// How many keys came up to it.
        keys: usize,
        /// Bytes of values so far.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
}

/// What to scan: made by [`request::scan`](super::request::scan), which checks it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Keys of interest, in this shard or beyond it.
    pub range: KeyRange,
    /// Rows at most.
    pub rows: usize,
    /// Which end to begin with.
    pub order: Order,
    /// Leave the values out.
    pub keys_only: bool,
}

/// What a shard holds, as a number that is equal on all replicas at the same applied index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checksum {
    /// Number of keys.
    pub keys: u64,
    /// CRC-32 over key, value header and value of each row in key order; each key and each stored value is preceded by
    /// its length (4 bytes, little endian), so that no two contents read alike.
    pub crc32: u32,
}

/// Reads one key.
///
/// # Errors
/// If the key is not the shard's, or the state cannot be read.
pub fn get<V>(view: &V, descriptor: &Descriptor, key: &Bytes) -> Result<GetResponse, ReadError>
where
    V: StateView + ?Sized,
{
    if !descriptor.range.contains(key) {
        return Err(out_of_range(descriptor, key));
    }
    let Some(row) = view.get(&keys::data(descriptor.shard, key))? else {
        return Ok(GetResponse::default());
    };
    let stored = value::decode(row)?;
    Ok(GetResponse {
        value: Some(stored.value),
        revision: stored.revision,
    })
}

/// Reads many keys of one shard, in the order in which they were asked for.
///
/// # Errors
/// If a key is not the shard's, the values are too large for one answer, or the state cannot be read.
pub fn batch_get<V>(
    view: &V,
    descriptor: &Descriptor,
    keys: &[Bytes],
    limits: &Limits,
) -> Result<Vec<GetResponse>, ReadError>
where
    V: StateView + ?Sized,
{
    let (mut results, mut bytes) = (Vec::with_capacity(keys.len()), 0);
    for key in keys {
        let result = get(view, descriptor, key)?;
        bytes += result.value.as_ref().map_or(0, Bytes::len);
        if bytes > limits.batch_get_bytes {
            return Err(ReadError::TooLarge {
                key: key.clone(),
                keys: results.len() + 1,
                bytes,
                limit: limits.batch_get_bytes,
            });
        }
        results.push(result);
    }
    Ok(results)
}

/// Reads one page. The page ends with the asked number of rows, with the row that reaches `limits.scan_bytes`, or at the
/// end of the shard, whatever comes first; `next` says where the next page begins, in this shard or another one.
///
/// # Errors
/// If none of the asked keys is the shard's, or the state cannot be read.
pub fn scan<V>(
    view: &V,
    descriptor: &Descriptor,
    page: &Page,
    limits: &Limits,
) -> Result<ScanResponse, ReadError>
where
    V: StateView + ?Sized,
{
    let Some(range) = page.range.intersection(&descriptor.range) else {
        return Err(out_of_range(descriptor, page.range.start()));
    };
    // A page must begin where it was asked to: an edge beyond the shard means that rows in between are elsewhere.
    let begins_here = match page.order {
        Order::Ascending => range.start() == page.range.start(),
        Order::Descending => range.end() == page.range.end(),
    };
    if !begins_here {
        let edge = match page.order {
            Order::Ascending => page.range.start(),
            Order::Descending => page.range.end(),
        };
        return Err(out_of_range(descriptor, edge));
    }
    let mut rows: Vec<Row> = Vec::new();
    let (mut bytes, mut next, mut damaged) = (0, None, None);
    let mut arena = BytesMut::new();
    let mut cut = |part: &[u8]| {
        arena.extend_from_slice(part);
        arena.split().freeze()
    };
    let row_range = keys::data_rows(descriptor.shard, &range);
    view.scan(&row_range, page.order, &mut |row_key, row| {
        let key = keys::user_part(row_key);
        if rows.len() >= page.rows.min(limits.scan_rows) || bytes >= limits.scan_bytes {
            next = match page.order {
                Order::Ascending => Some(Bytes::copy_from_slice(key)),
                Order::Descending => rows.last().map(|row| row.key.clone()),
            };
            return ControlFlow::Break(());
        }
        let (revision, value) = match value::split(row) {
            Ok(stored) => stored,
            Err(error) => {
                damaged = Some(error);
                return ControlFlow::Break(());
            }
        };
        let value = if page.keys_only { &[] } else { value };
        bytes += key.len() + value.len();
        rows.push(Row {
            key: cut(key),
            value: cut(value),
            revision,
        });
        ControlFlow::Continue(())
    })?;
    if let Some(error) = damaged {
        return Err(error.into());
    }
    let next = next.or_else(|| match page.order {
        Order::Ascending => (range.end() != page.range.end()).then(|| range.end().clone()),
        Order::Descending => (range.start() != page.range.start()).then(|| range.start().clone()),
    });
    Ok(ScanResponse { rows, next })
}

/// Reads all of a shard's data.
///
/// # Errors
/// If the state cannot be read.
pub fn checksum<V>(view: &V, descriptor: &Descriptor) -> Result<Checksum, ViewError>
where
    V: StateView + ?Sized,
{
    let mut hasher = crc32fast::Hasher::new();
    let mut keys = 0;
    let range = keys::data_rows(descriptor.shard, &descriptor.range);
    view.scan(&range, Order::Ascending, &mut |key, value| {
        keys += 1;
        for part in [keys::user_part(key), value] {
            // Rows are bounded far below this.
            let length = u32::try_from(part.len()).unwrap_or(u32::MAX);
            hasher.update(&length.to_le_bytes());
            hasher.update(part);
        }
        ControlFlow::Continue(())
    })?;
    Ok(Checksum {
        keys,
        crc32: hasher.finalize(),
    })
}

fn out_of_range(descriptor: &Descriptor, key: &Bytes) -> ReadError {
    ReadError::OutOfRange {
        key: key.clone(),
        range: descriptor.range.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::MemoryState;
    use super::*;
    use crate::descriptor::{Epoch, Replica};
    use crate::ids::{NodeId, ShardId};
    use crate::raft::ReplicaId;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    type Data = BTreeMap<Bytes, Bytes>;

    fn key() -> impl Strategy<Value = Bytes> {
        proptest::collection::vec(0u8..5, 0..3).prop_map(Bytes::from)
    }

    fn stored(data: &Data) -> MemoryState {
        let mut state = MemoryState::default();
        for (key, value) in data {
            let mut row = BytesMut::new();
            value::encode(&mut row, 7, value);
            state.put(keys::data(ShardId::FIRST_USER, key), row.freeze());
        }
        // Rows of other kinds, which no read may see.
        state.put(
            keys::data(ShardId::META, b"\x01"),
            Bytes::from_static(b"meta"),
        );
        state.put(keys::state(ShardId(2)), Bytes::from_static(b"state"));
        state
    }

    /// Shards between the given keys.
    fn shards(splits: &std::collections::BTreeSet<Bytes>) -> Vec<Descriptor> {
        let splits = splits.iter().filter(|key| !key.is_empty());
        let starts = std::iter::once(Bytes::new()).chain(splits.clone().cloned());
        let ends = splits.cloned().chain([Bytes::new()]);
        (2..)
            .zip(starts.zip(ends))
            .map(|(id, (start, end))| Descriptor {
                shard: ShardId(id),
                range: KeyRange::new(start, end).unwrap(),
                epoch: Epoch::default(),
                replicas: vec![Replica {
                    id: ReplicaId(1),
                    node: NodeId(1),
                    learner: false,
                }],
            })
            .collect()
    }

    proptest! {
        /// R9: whatever the boundaries and limits, the pages of a scan hold each row exactly once, in order.
        #[test]
        fn pages_hold_each_row_once(
            data in proptest::collection::btree_map(key(), key(), 0..12),
            splits in proptest::collection::btree_set(key(), 0..4),
            (start, end) in (key(), key()),
            (rows, scan_bytes) in (1usize..5, 1usize..12),
            (reverse, keys_only) in (any::<bool>(), any::<bool>()),
        ) {
            let Ok(mut rest) = KeyRange::new(start, end) else { return Ok(()) };
            let order = if reverse { Order::Descending } else { Order::Ascending };
            let mut expected: Vec<_> = (data.iter())
                .filter(|(key, _)| rest.contains(key))
                .map(|(key, value)| (key.clone(), if keys_only { Bytes::new() } else { value.clone() }))
                .collect();
            if reverse {
                expected.reverse();
            }
            let (state, shards) = (stored(&data), shards(&splits));
            let limits = Limits { scan_bytes, ..Limits::default() };
            let mut found = Vec::new();
            for _ in 0..100 {
                let shard = shards.iter().rfind(|shard| match order {
                    Order::Ascending => shard.range.contains(rest.start()),
                    Order::Descending => rest.is_open() || shard.range.start() < rest.end(),
                });
                let page = Page { range: rest.clone(), rows, order, keys_only };
                let answer = scan(&state, shard.unwrap(), &page, &limits).unwrap();
                prop_assert!(answer.rows.len() <= rows);
                prop_assert!(answer.rows.iter().all(|row| row.revision == 7));
                found.extend(answer.rows.into_iter().map(|row| (row.key, row.value)));
                let Some(next) = answer.next else {
                    prop_assert_eq!(found, expected);
                    return Ok(());
                };
                rest = match order {
                    Order::Ascending => KeyRange::new(next, rest.end().clone()),
                    Order::Descending => KeyRange::new(rest.start().clone(), next),
                }.unwrap();
            }
            prop_assert!(false, "the scan does not end");
        }

        #[test]
        fn checksums_tell_contents_apart(
            a in proptest::collection::btree_map(key(), key(), 0..6),
            b in proptest::collection::btree_map(key(), key(), 0..6),
        ) {
            let [all] = &shards(&Default::default())[..] else { unreachable!() };
            let (of_a, of_b) = (checksum(&stored(&a), all).unwrap(), checksum(&stored(&b), all).unwrap());
            prop_assert_eq!(of_a.keys, a.len() as u64);
            prop_assert_eq!(of_a == of_b, a == b);
        }
    }

    #[test]
    fn what_the_shard_does_not_hold_is_an_error_and_never_absent() {
        let splits = [Bytes::from_static(b"m")].into();
        let [left, right] = &shards(&splits)[..] else {
            unreachable!()
        };
        let data = [(Bytes::from_static(b"a"), Bytes::from_static(b"value"))].into();
        let state = stored(&data);
        let found = get(&state, left, &Bytes::from_static(b"a")).unwrap();
        assert_eq!(found.value.as_deref(), Some(&b"value"[..]));
        assert_eq!(
            get(&state, left, &Bytes::from_static(b"b")).unwrap().value,
            None
        );
        let error = get(&state, right, &Bytes::from_static(b"a")).unwrap_err();
        assert_eq!(error.to_string(), "\"a\" is not in [\"m\", end)");
        let page = |range: KeyRange, order| Page {
            range,
            rows: 9,
            order,
            keys_only: false,
        };
        let limits = Limits::default();
        for (shard, order) in [(right, Order::Ascending), (left, Order::Descending)] {
            let error = scan(&state, shard, &page(KeyRange::all(), order), &limits).unwrap_err();
            assert!(matches!(error, ReadError::OutOfRange { .. }), "{error}");
        }
    }

    #[test]
    fn a_batched_get_is_bounded() {
        let [all] = &shards(&Default::default())[..] else {
            unreachable!()
        };
        let keys = [Bytes::from_static(b"a"), Bytes::from_static(b"b")];
        let state = stored(
            &keys
                .iter()
                .cloned()
                .map(|key| (key, "1234".into()))
                .collect(),
        );
        let limits = |batch_get_bytes| Limits {
            batch_get_bytes,
            ..Limits::default()
        };
        let results = batch_get(&state, all, &keys, &limits(8)).unwrap();
        assert_eq!(results.len(), 2);
        let error = batch_get(&state, all, &keys, &limits(7))
            .unwrap_err()
            .to_string();
        assert!(error.contains("2 keys up to \"b\" have 8 bytes"), "{error}");
    }

    #[test]
    fn damaged_rows_are_errors() {
        let [all] = &shards(&Default::default())[..] else {
            unreachable!()
        };
        let mut state = MemoryState::default();
        state.put(
            keys::data(ShardId::FIRST_USER, b"a"),
            Bytes::from_static(b"\x09"),
        );
        let error = get(&state, all, &Bytes::from_static(b"a")).unwrap_err();
        assert!(matches!(error, ReadError::Value(_)), "{error}");
        let page = Page {
            range: KeyRange::all(),
            rows: 9,
            order: Order::Ascending,
            keys_only: true,
        };
        let error = scan(&state, all, &page, &Limits::default()).unwrap_err();
        assert!(matches!(error, ReadError::Value(_)), "{error}");
    }
}
