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
