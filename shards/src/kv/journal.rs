//! Where the newest positions of shards lie while their state rows are behind: the memory of whoever writes the state.
//!
//! The [`Journal`] decides what the rounds of applying write of the shards' own states (see
//! [`positions`](super::positions)), knows by heart what the rows of positions say, so that opening a state machine reads
//! none of them, and writes the state rows out before too much has gathered. It can be had again from the rows at any time.

use super::batch::StateBatch;
use super::machine::{ApplyError, StateMachine};
use super::positions::{self, Position, PositionsError};
use super::view::{Order, StateView};
use crate::ids::ShardId;
use crate::keys;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// When the journal writes what.
#[derive(Clone, Copy, Debug)]
pub struct JournalLimits {
    /// Rows of positions, in bytes, above which they are written out. It bounds what a start after a crash, and any exact
    /// look at one shard, has to read, and the journal in memory; the more there is, the fewer state rows are written.
    pub bytes: usize,
    /// Shards of a round from which on their positions lie in one row. Such a row costs two changes of the database, its
    /// own and its deletion: a few state rows cost no more.
    pub shards_min: usize,
    /// State rows of a checkpoint that are written as one, in bytes: few enough to lie in memory beside everything else.
    pub batch_bytes: usize,
}

impl Default for JournalLimits {
    /// A MiB holds some hundred thousand positions: with ten thousand busy shards, one state row is written for ten
    /// positions; and it is read in some milliseconds.
    fn default() -> Self {
        Self {
            bytes: 1 << 20,
            shards_min: 4,
            batch_bytes: 1 << 20,
        }
    }
}

/// What the rows of positions say. The changes of a round are in it once [`Journal::end_round`] was called; the batch must
/// be written then before anything else.
///
/// *Invariant:* the rows in the database are numbered from 0 on, without a gap; a shard's newest position among them is the
/// journal's, unless its state row is newer.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    limits: JournalLimits,
    positions: BTreeMap<ShardId, Position>,
    /// How many rows there are.
    rows: u64,
    /// What they take.
    bytes: usize,
    /// Of the shards of the round that is being finished.
    round: Vec<(ShardId, Position)>,
}

impl Journal {
    /// A journal of a database without rows of positions.
    #[must_use]
    pub fn new(limits: JournalLimits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// Reads what the rows of positions say: at a start. After a crash there may be some.
    ///
    /// # Errors
    /// If they cannot be read, or are not what a crash leaves.
    pub fn read<V>(view: &V, limits: JournalLimits) -> Result<Self, ApplyError>
    where
        V: StateView + ?Sized,
    {
        let mut journal = Self::new(limits);
        positions::visit_rows(view, Order::Ascending, &mut |row, value| {
            let damaged = |source| ApplyError::Positions { row, source };
            if row != journal.rows {
                return Err(damaged(PositionsError::Missing));
            }
            journal.note_row(value.len());
            for (shard, position) in positions::decode(value).map_err(damaged)? {
                let known = journal.positions.entry(shard).or_insert(position);
                if position.applied.index > known.applied.index {
                    *known = position;
                }
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(journal)
    }

    /// When it writes what.
    #[must_use]
    pub fn limits(&self) -> JournalLimits {
        self.limits
    }

    /// The newest position of a shard that lies in a row of positions.
    #[must_use]
    pub fn position(&self, shard: ShardId) -> Option<Position> {
        self.positions.get(&shard).copied()
    }

    /// The shards that rows of positions name, ascending; state rows of some may have been written since.
    pub fn shards(&self) -> impl Iterator<Item = ShardId> {
        self.positions.keys().copied()
    }

    /// Opens a shard's machine, as [`StateMachine::load`] does, but without reading rows of positions.
    ///
    /// # Errors
    /// If the state row cannot be read.
    pub fn open<V>(&self, view: &V, shard: ShardId) -> Result<Option<StateMachine>, ApplyError>
    where
        V: StateView + ?Sized,
    {
        let Some(row) = positions::state_row(view, shard)? else {
            return Ok(None);
        };
        let state = positions::brought_to(row, self.position(shard))?;
        Ok(Some(StateMachine::new(state)))
    }

    /// Ends a round for one of the `shards` shards that have changed in it; [`Journal::end_round`] must follow when all of
    /// them have.
    pub fn finish(&mut self, machine: &mut StateMachine, shards: usize, batch: &mut StateBatch) {
        if shards < self.limits.shards_min {
            return machine.finish(batch);
        }
        if let Some(position) = machine.finish_apart(batch) {
            let shard = machine.state().descriptor.shard;
            self.round.push((shard, position));
        }
    }

    /// Adds the row of those positions that no state row of the round has, if any.
    pub fn end_round(&mut self, batch: &mut StateBatch) {
        if self.round.is_empty() {
            return;
        }
        self.round.sort_unstable_by_key(|position| position.0);
        let row = positions::encode(&self.round);
        let key = keys::positions(self.rows);
        self.note_row(row.len());
        batch.put(key, row);
        self.positions.extend(self.round.drain(..));
    }

    /// Whether a checkpoint is due.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.bytes > self.limits.bytes
    }

    /// Adds a part of a checkpoint to the batch, which must be written before anything else; the parts end with the one
    /// that deletes the rows of positions, when all state rows that they stand for are written. Returns whether there was
    /// something to add: after the last part there is not.
    ///
    /// # Errors
    /// If a state row cannot be read, or is not there.
    pub fn checkpoint<V>(&mut self, view: &V, batch: &mut StateBatch) -> Result<bool, ApplyError>
    where
        V: StateView + ?Sized,
    {
        if self.rows == 0 {
            return Ok(false);
        }
        while let Some((&shard, &position)) = self.positions.first_key_value() {
            if batch.bytes() >= self.limits.batch_bytes {
                return Ok(true);
            }
            let row = positions::state_row(view, shard)?.ok_or(ApplyError::Orphan(shard))?;
            // Else it was written since.
            if row.applied_index < position.applied.index {
                let state = positions::brought_to(row, Some(position))?;
                batch.put(keys::state(shard), state.encode());
            }
            self.positions.pop_first();
        }
        // The numbers are used again, so that deleted rows don't pile up in the database.
        for number in 0..self.rows {
            batch.delete(keys::positions(number));
        }
        (self.rows, self.bytes) = (0, 0);
        Ok(true)
    }

    fn note_row(&mut self, value: usize) {
        self.rows += 1;
        self.bytes += keys::POSITIONS_KEY_BYTES + value;
    }
}

#[cfg(test)]
mod tests;
