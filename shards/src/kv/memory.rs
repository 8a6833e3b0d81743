//! A state database in memory, for the simulator and for tests.

use super::batch::StateBatch;
use super::view::{Order, StateView, ViewError, Visit};
use crate::keys::RowRange;
use bytes::Bytes;
use std::collections::BTreeMap;

/// Rows in a sorted map. A clone is a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryState {
    rows: BTreeMap<Bytes, Bytes>,
}

impl MemoryState {
    /// Takes over all changes of a batch, as one.
    pub fn write(&mut self, batch: &StateBatch) {
        for (key, value) in batch.rows() {
            match value {
                // Copied: the batch reuses its buffers.
                Some(value) => {
                    let (key, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
                    self.rows.insert(key, value);
                }
                None => {
                    self.rows.remove(key);
                }
            }
        }
    }

    /// Sets one row.
    pub fn put(&mut self, key: Bytes, value: Bytes) {
        self.rows.insert(key, value);
    }

    /// Sets or deletes one row; returns what it was.
    pub fn replace(&mut self, key: Bytes, value: Option<Bytes>) -> Option<Bytes> {
        match value {
            Some(value) => self.rows.insert(key, value),
            None => self.rows.remove(&key),
        }
    }

    /// Removes all rows of a range, as before a snapshot is installed.
    pub fn remove(&mut self, range: &RowRange) {
        if range.start >= range.end {
            return;
        }
        let rows = self.rows.range::<Bytes, _>(&range.start..&range.end);
        let keys: Vec<Bytes> = rows.map(|(key, _)| key.clone()).collect();
        for key in keys {
            self.rows.remove(&key);
        }
    }

    /// All rows, ascending by key.
    pub fn rows(&self) -> impl Iterator<Item = (&Bytes, &Bytes)> {
        self.rows.iter()
    }
}

impl StateView for MemoryState {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        Ok(self.rows.get(key).cloned())
    }

    fn scan(&self, range: &RowRange, order: Order, visit: &mut Visit<'_>) -> Result<(), ViewError> {
        if range.start >= range.end {
            return Ok(());
        }
        let mut rows = self.rows.range::<Bytes, _>(&range.start..&range.end);
        loop {
            let row = match order {
                Order::Ascending => rows.next(),
                Order::Descending => rows.next_back(),
            };
            match row {
                Some((key, value)) if visit(key, value).is_continue() => {}
                _ => return Ok(()),
            }
        }
    }
}
