//! How far shards have come: the part of their state that every entry changes, and who has the truth about it.
//!
//! An ordinary entry changes of a shard's state its position alone. To write the whole state row for that, for each of the
//! shards of a round, costs more than the data that most of them write. So the positions of all shards of a round lie in
//! one row, and their state rows stay as they are, until the [`Journal`] writes them out and deletes the rows of positions.
//!
//! *Invariant:* a shard's state is its state row, brought to the newest position that a row of positions has for it, if that
//! is newer by applied index. A shard's applied index never falls, and an installed snapshot has a higher one, so nothing
//! has to be taken back: neither when a state row is written, nor when a snapshot is installed. Whoever needs to know the
//! position exactly reads the state by one of the functions here, or asks the [`Journal`].
//!
//! [`Journal`]: super::Journal

use super::journal::{Journal, JournalLimits};
use super::machine::ApplyError;
use super::state::ShardState;
use super::view::{Order, StateView, ViewError, Visit};
use crate::ids::ShardId;
use crate::keys::{self, RowKey};
use crate::raft::EntryId;
use crate::wire::{self, WireError};
use bytes::Bytes;
use flotilla_proto::v1 as proto;
use prost::Message as _;
use std::ops::ControlFlow;

/// How far a shard has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Last entry whose effects are in the state.
    pub applied: EntryId,
    /// The shard's writes up to there.
    pub revision: u64,
    /// The logged clock there.
    pub clock_ms: u64,
}

/// Why a row is no row of positions.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PositionsError {
    /// Not the expected message.
    #[error("it does not parse: {0}")]
    Message(#[from] prost::DecodeError),
    /// Lists that do not belong together.
    #[error("its lists have different lengths")]
    Lengths,
    /// Shards that do not ascend from 1.
    #[error("shard {0} is followed by one that is not above it")]
    Order(ShardId),
    /// A position out of reach.
    #[error(transparent)]
    Value(#[from] WireError),
    /// The row before it is not there.
    #[error("the row before it is missing")]
    Missing,
}

/// The value of a row of positions, which ascend by shard.
#[must_use]
pub fn encode(positions: &[(ShardId, Position)]) -> Bytes {
    let mut message = proto::Positions::default();
    let (mut last_shard, mut last_clock) = (0, 0);
    for (shard, position) in positions {
        message.shards.push(shard.0.wrapping_sub(last_shard));
        message.applied_indexes.push(position.applied.index.0);
        message.applied_terms.push(position.applied.term.0);
        message.revisions.push(position.revision);
        let above = position.clock_ms.wrapping_sub(last_clock);
        message.clocks_ms.push(above.cast_signed());
        (last_shard, last_clock) = (shard.0, position.clock_ms);
    }
    message.encode_to_vec().into()
}

/// Reads the value of a row of positions; they ascend by shard.
///
/// # Errors
/// If it is damaged, or of another version.
pub fn decode(row: &[u8]) -> Result<Vec<(ShardId, Position)>, PositionsError> {
    let message = proto::Positions::decode(row)?;
    let count = message.shards.len();
    let lengths = [
        message.applied_indexes.len(),
        message.applied_terms.len(),
        message.revisions.len(),
        message.clocks_ms.len(),
    ];
    if lengths != [count; 4] {
        return Err(PositionsError::Lengths);
    }
    let (mut last_shard, mut last_clock) = (0u64, 0u64);
    let indexes = message.applied_indexes.into_iter();
    let rest = indexes
        .zip(message.applied_terms)
        .zip(message.revisions)
        .zip(message.clocks_ms);
    let decoded = message.shards.into_iter().zip(rest);
    let decoded = decoded.map(|(above, (((index, term), revision), clock))| {
        let shard = last_shard.checked_add(above).filter(|_| above > 0);
        last_shard = shard.ok_or(PositionsError::Order(ShardId(last_shard)))?;
        last_clock = last_clock.wrapping_add(clock.cast_unsigned());
        let position = Position {
            applied: EntryId {
                index: wire::index("applied_index", index)?,
                term: wire::term("applied_term", term)?,
            },
            revision: wire::position("revision", revision)?,
            clock_ms: last_clock,
        };
        Ok((ShardId(last_shard), position))
    });
    decoded.collect()
}

/// The applied state of one replica, exactly. `None` if it is not here.
///
/// # Errors
/// If the rows cannot be read.
pub fn shard_state<V>(view: &V, shard: ShardId) -> Result<Option<ShardState>, ApplyError>
where
    V: StateView + ?Sized,
{
    match state_row(view, shard)? {
        Some(row) => brought_to(row, newest(view, shard)?).map(Some),
        None => Ok(None),
    }
}

/// The applied state of all replicas, exactly, by shard.
///
/// # Errors
/// If the rows cannot be read.
pub fn shard_states<V>(view: &V) -> Result<Vec<ShardState>, ApplyError>
where
    V: StateView + ?Sized,
{
    let journal = Journal::read(view, JournalLimits::default())?;
    let mut states = Ok(Vec::new());
    view.scan(
        &keys::all_state_rows(),
        Order::Ascending,
        &mut |key, value| {
            let read = shard_of_key(key).and_then(|shard| {
                let row = decode_state(shard, Bytes::copy_from_slice(value))?;
                brought_to(row, journal.position(shard))
            });
            collect(&mut states, read)
        },
    )?;
    let states = states?;
    let known =
        |shard| (states.binary_search_by_key(&shard, |state| state.descriptor.shard)).is_ok();
    match journal.shards().find(|shard| !known(*shard)) {
        Some(orphan) => Err(ApplyError::Orphan(orphan)),
        None => Ok(states),
    }
}

/// Visits all rows of a replica's applied state in ascending order, as they go into a snapshot: the state row is one of
/// `state`, which the same view has given exactly.
///
/// # Errors
/// If the view cannot be read.
pub fn visit_shard<V>(view: &V, state: &ShardState, visit: &mut Visit<'_>) -> Result<(), ViewError>
where
    V: StateView + ?Sized,
{
    let [data, sessions, _] = keys::shard_rows(&state.descriptor);
    for range in [data, sessions] {
        let mut flow = ControlFlow::Continue(());
        view.scan(&range, Order::Ascending, &mut |key, value| {
            flow = visit(key, value);
            flow
        })?;
        if flow.is_break() {
            return Ok(());
        }
    }
    let _ = visit(&keys::state(state.descriptor.shard), &state.encode());
    Ok(())
}

/// A replica's state as its row has it: behind in its position, perhaps.
pub(super) fn state_row<V>(view: &V, shard: ShardId) -> Result<Option<ShardState>, ApplyError>
where
    V: StateView + ?Sized,
{
    let row = view.get(&keys::state(shard))?;
    row.map(|row| decode_state(shard, row)).transpose()
}

/// The truth about a shard, of its row and its newest position.
pub(super) fn brought_to(
    mut row: ShardState,
    newest: Option<Position>,
) -> Result<ShardState, ApplyError> {
    if let Some(position) = newest {
        let shard = row.descriptor.shard;
        row.advance(position)
            .map_err(|source| ApplyError::State { shard, source })?;
    }
    Ok(row)
}

/// What is called with the number and the value of each row of positions.
type VisitRow<'a> = dyn FnMut(u64, &[u8]) -> Result<ControlFlow<()>, ApplyError> + 'a;

/// Visits the rows of positions with their numbers, until `visit` breaks or fails.
pub(super) fn visit_rows<V>(
    view: &V,
    order: Order,
    visit: &mut VisitRow<'_>,
) -> Result<(), ApplyError>
where
    V: StateView + ?Sized,
{
    let mut failure = Ok(());
    view.scan(&keys::positions_rows(), order, &mut |key, value| {
        let visited = match keys::decode(Bytes::copy_from_slice(key)) {
            Ok(RowKey::Positions(number)) => visit(number, value),
            Ok(_) => Ok(ControlFlow::Continue(())),
            Err(error) => Err(error.into()),
        };
        visited.unwrap_or_else(|error| {
            failure = Err(error);
            ControlFlow::Break(())
        })
    })?;
    failure
}

/// The newest position of a shard that a row has.
fn newest<V>(view: &V, shard: ShardId) -> Result<Option<Position>, ApplyError>
where
    V: StateView + ?Sized,
{
    let mut newest = None;
    visit_rows(view, Order::Descending, &mut |row, value| {
        let positions = decode(value).map_err(|source| ApplyError::Positions { row, source })?;
        let found = positions.binary_search_by_key(&shard, |position| position.0);
        newest = (found.ok())
            .and_then(|at| positions.get(at))
            .map(|found| found.1);
        Ok(match newest {
            Some(_) => ControlFlow::Break(()),
            None => ControlFlow::Continue(()),
        })
    })?;
    Ok(newest)
}

fn shard_of_key(key: &[u8]) -> Result<ShardId, ApplyError> {
    match keys::decode(Bytes::copy_from_slice(key))? {
        RowKey::State(shard) => Ok(shard),
        other => unreachable!("{other:?} in the range of state rows"),
    }
}

fn decode_state(shard: ShardId, row: Bytes) -> Result<ShardState, ApplyError> {
    let state = ShardState::decode(row).map_err(|source| ApplyError::State { shard, source })?;
    let found = state.descriptor.shard;
    if found == shard {
        Ok(state)
    } else {
        Err(ApplyError::WrongShard { shard, found })
    }
}

fn collect<T>(all: &mut Result<Vec<T>, ApplyError>, one: Result<T, ApplyError>) -> ControlFlow<()> {
    match (all.as_mut(), one) {
        (Ok(all), Ok(one)) => {
            all.push(one);
            ControlFlow::Continue(())
        }
        (_, Err(error)) => {
            *all = Err(error);
            ControlFlow::Break(())
        }
        (Err(_), Ok(_)) => ControlFlow::Break(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::{Index, Term};
    use crate::wire::POSITION_MAX;
    use proptest::prelude::*;

    fn position() -> impl Strategy<Value = Position> {
        let number = || prop_oneof![0u64..300, 0..=POSITION_MAX];
        let clock = prop_oneof![0u64..300, any::<u64>()];
        (number(), number(), number(), clock).prop_map(|(index, term, revision, clock_ms)| {
            Position {
                applied: EntryId {
                    index: Index(index),
                    term: Term(term),
                },
                revision,
                clock_ms,
            }
        })
    }

    proptest! {
        #[test]
        fn rows_of_positions_round_trip(
            positions in proptest::collection::btree_map(
                prop_oneof![1u64..300, 1..=u64::MAX], position(), 0..20
            )
        ) {
            let positions: Vec<_> = positions.into_iter().map(|(shard, at)| (ShardId(shard), at)).collect();
            prop_assert_eq!(decode(&encode(&positions)), Ok(positions));
        }

        #[test]
        fn any_bytes_are_positions_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(positions) = decode(&bytes) {
                prop_assert!(positions.iter().all(|(shard, _)| shard.0 > 0));
                prop_assert!(positions.windows(2).all(|pair| pair[0].0 < pair[1].0));
                prop_assert_eq!(decode(&encode(&positions)), Ok(positions));
            }
        }
    }

    #[test]
    fn a_busy_shard_takes_a_dozen_bytes() {
        let at = |shard: u64| {
            let position = Position {
                applied: EntryId {
                    index: Index(1_000_000 + shard),
                    term: Term(7),
                },
                revision: 900_000 + 7 * shard,
                clock_ms: 1_800_000_000_000 + shard % 50,
            };
            (ShardId(3 * shard + 1), position)
        };
        let positions: Vec<_> = (0..1000).map(at).collect();
        let bytes = encode(&positions).len();
        assert!(bytes <= 12 * positions.len(), "{bytes}");
    }

    #[test]
    fn damaged_rows_are_refused() {
        let sound = proto::Positions {
            shards: vec![3, 1],
            applied_indexes: vec![7, 8],
            applied_terms: vec![2, 2],
            revisions: vec![5, 0],
            clocks_ms: vec![100, -1],
        };
        assert_eq!(decode(&sound.encode_to_vec()).unwrap().len(), 2);
        let refused = |change: &dyn Fn(&mut proto::Positions)| {
            let mut row = sound.clone();
            change(&mut row);
            decode(&row.encode_to_vec()).unwrap_err()
        };
        for change in [
            |row: &mut proto::Positions| row.shards.truncate(1),
            |row: &mut proto::Positions| row.applied_indexes.truncate(1),
            |row: &mut proto::Positions| row.applied_terms.truncate(1),
            |row: &mut proto::Positions| row.revisions.truncate(1),
            |row: &mut proto::Positions| row.clocks_ms.truncate(1),
        ] {
            assert_eq!(refused(&change), PositionsError::Lengths);
        }
        let order = refused(&|row| row.shards[1] = 0);
        assert_eq!(order, PositionsError::Order(ShardId(3)));
        let order = refused(&|row| row.shards[1] = u64::MAX);
        assert_eq!(order, PositionsError::Order(ShardId(3)));
        let order = refused(&|row| row.shards[0] = 0);
        assert_eq!(order, PositionsError::Order(ShardId(0)));
        let value = refused(&|row| row.revisions[0] = POSITION_MAX + 1);
        assert!(matches!(value, PositionsError::Value(_)), "{value}");
    }
}
