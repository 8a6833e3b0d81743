//! What a round of applying is going to write.

use super::view::{Order, StateView, ViewError, Visit};
use crate::ids::ShardId;
use crate::keys::{self, RowRange};
use crate::value;
use bytes::{Bytes, BytesMut};
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// Keys and values are cut from buffers of this size, so that a small put allocates nothing of its own.
const ARENA_BYTES: usize = 64 << 10;

/// Changes of many commands of many shards that are to be written as one. Commands see the changes of those before
/// them.
///
/// Rows are kept in key order: of a row that changes often only the last state is written, and the database takes sorted
/// rows at a fraction of the cost of random ones.
#[derive(Debug, Default)]
pub struct StateBatch {
    /// The new value, or `None` for a deleted row.
    rows: BTreeMap<Bytes, Option<Bytes>>,
    arena: BytesMut,
    bytes: usize,
}

impl StateBatch {
    /// The changes in ascending order of row keys; `None` deletes the row.
    pub fn rows(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        (self.rows.iter()).map(|(key, value)| (&key[..], value.as_deref()))
    }

    /// Number of rows that change.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Bytes of all keys and values that were put or deleted, those that were overwritten within the batch included:
    /// what the batch holds in memory. The embedder writes a batch once this passes its bound.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Forgets all changes, keeping a buffer for the next round.
    pub fn clear(&mut self) {
        self.rows.clear();
        self.bytes = 0;
    }

    /// Sets a row.
    pub fn put(&mut self, key: Bytes, value: Bytes) {
        self.bytes += key.len() + value.len();
        self.rows.insert(key, Some(value));
    }

    /// Deletes a row.
    pub fn delete(&mut self, key: Bytes) {
        self.bytes += key.len();
        self.rows.insert(key, None);
    }

    /// The row as it will be once the batch is written.
    ///
    /// # Errors
    /// If the view cannot be read.
    pub fn get<V>(&self, view: &V, key: &[u8]) -> Result<Option<Bytes>, ViewError>
    where
        V: StateView + ?Sized,
    {
        match self.rows.get(key) {
            Some(change) => Ok(change.clone()),
            None => view.get(key),
        }
    }

    /// Visits the rows of `range`, as they will be once the batch is written, in ascending order.
    ///
    /// # Errors
    /// If the view cannot be read.
    pub fn scan<V>(
        &self,
        view: &V,
        range: &RowRange,
        visit: &mut Visit<'_>,
    ) -> Result<(), ViewError>
    where
        V: StateView + ?Sized,
    {
        if range.start >= range.end {
            return Ok(());
        }
        let mut changes = self
            .rows
            .range::<Bytes, _>(&range.start..&range.end)
            .peekable();
        let mut stopped = false;
        view.scan(range, Order::Ascending, &mut |key, value| {
            while let Some((changed, change)) = changes.next_if(|(changed, _)| &changed[..] <= key)
            {
                let flow = change
                    .as_ref()
                    .map_or(ControlFlow::Continue(()), |change| visit(changed, change));
                // A change hides the stored row of the same key.
                if flow.is_break() || changed == key {
                    stopped = flow.is_break();
                    return flow;
                }
            }
            let flow = visit(key, value);
            stopped = flow.is_break();
            flow
        })?;
        if !stopped {
            for (changed, change) in changes {
                if let Some(change) = change
                    && visit(changed, change).is_break()
                {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Row key of a shard's data at `key`, cut from the batch's buffer.
    pub(super) fn data_key(&mut self, shard: ShardId, key: &[u8]) -> Bytes {
        self.make_room(1 + key.len());
        keys::put_data(&mut self.arena, shard, key);
        self.arena.split().freeze()
    }

    /// Sets a data row to a user's value.
    pub(super) fn put_value(&mut self, key: Bytes, revision: u64, value: &[u8]) {
        self.make_room(value::HEADER_BYTES_MAX + value.len());
        value::encode(&mut self.arena, revision, value);
        let stored = self.arena.split().freeze();
        self.put(key, stored);
    }

    /// Reuses the buffer if nobody holds a part of it any more, else starts a new one.
    fn make_room(&mut self, bytes: usize) {
        if self.arena.capacity() < bytes {
            self.arena.reserve(bytes.max(ARENA_BYTES));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::MemoryState;
    use super::*;
    use proptest::prelude::*;

    fn key() -> impl Strategy<Value = Bytes> {
        proptest::collection::vec(0u8..3, 1..3).prop_map(Bytes::from)
    }

    proptest! {
        #[test]
        fn reads_see_the_store_after_the_write(
            stored in proptest::collection::btree_map(key(), key(), 0..8),
            changes in proptest::collection::vec((key(), proptest::option::of(key())), 0..8),
            (start, end) in (key(), key()),
            limit in 1usize..9,
        ) {
            let mut before = MemoryState::default();
            for (key, value) in stored {
                before.put(key, value);
            }
            let mut batch = StateBatch::default();
            for (key, change) in changes {
                match change {
                    Some(value) => batch.put(key, value),
                    None => batch.delete(key),
                }
            }
            let mut after = before.clone();
            after.write(&batch);

            let range = RowRange { start, end };
            let collect = |scan: &dyn Fn(&mut Visit<'_>)| {
                let mut rows = Vec::new();
                scan(&mut |key, value| {
                    rows.push((key.to_vec(), value.to_vec()));
                    if rows.len() == limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                });
                rows
            };
            prop_assert_eq!(
                collect(&|visit| batch.scan(&before, &range, visit).unwrap()),
                collect(&|visit| after.scan(&range, Order::Ascending, visit).unwrap())
            );
            for key in [&range.start, &range.end] {
                prop_assert_eq!(batch.get(&before, key).unwrap(), after.get(key).unwrap());
            }
        }
    }

    #[test]
    fn small_puts_share_one_buffer() {
        let mut batch = StateBatch::default();
        let key = batch.data_key(ShardId(2), b"key");
        batch.put_value(key, 1, b"value");
        let room = batch.arena.capacity();
        assert!(room > ARENA_BYTES / 2, "{room}");
        let key = batch.data_key(ShardId(2), b"another");
        batch.put_value(key, 2, b"value");
        assert!(batch.arena.capacity() < room && batch.arena.capacity() > ARENA_BYTES / 2);
        assert_eq!(batch.len(), 2);
        assert_eq!(
            batch.bytes(),
            "-key".len() + "-another".len() + 2 * (4 + "value".len())
        );
        batch.clear();
        assert!(batch.is_empty() && batch.bytes() == 0);
    }
}
