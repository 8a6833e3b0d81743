//! The row that says how far a replica's applied state has come.

use super::positions::Position;
use crate::descriptor::{Descriptor, DescriptorError};
use crate::raft::{ConfState, EntryId, Index, Term};
use crate::wire::{self, WireError};
use bytes::Bytes;
use flotilla_proto::v1 as proto;
use prost::Message as _;

/// The applied state of one replica but for its data and sessions.
///
/// Its row may be behind in the first four fields: [`positions`](super::positions) has the rest. The others, the descriptor
/// among them, are always as new in the row as the rows that they describe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardState {
    /// Last entry whose effects are in the state.
    pub applied_index: Index,
    /// Term of that entry.
    pub applied_term: Term,
    /// Counts the shard's writes.
    pub revision: u64,
    /// The logged clock in milliseconds: the greatest time that an applied entry carried.
    pub clock_ms: u64,
    /// Number that the next session gets.
    pub next_session: u64,
    /// Raft's membership.
    pub conf_state: ConfState,
    /// What the shard is.
    pub descriptor: Descriptor,
}

/// Why a row is no shard state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShardStateError {
    /// Not the expected message.
    #[error("stored shard state does not parse: {0}")]
    Message(#[from] prost::DecodeError),
    /// A field that every state has.
    #[error("stored shard state has no {0}")]
    Missing(&'static str),
    /// A broken descriptor.
    #[error("stored shard state: {0}")]
    Descriptor(#[from] DescriptorError),
    /// A broken membership or position.
    #[error("stored shard state: {0}")]
    Raft(#[from] WireError),
    /// A position that is ahead of the state and behind it.
    #[error(
        "stored shard state is at {state:?}, and a later position at {later:?}: nothing may fall"
    )]
    Fallen {
        /// What the state says.
        state: Box<Position>,
        /// What the position says.
        later: Box<Position>,
    },
}

impl ShardState {
    /// Reads the value of a state row.
    ///
    /// # Errors
    /// If it is damaged, or of another version.
    pub fn decode(row: Bytes) -> Result<Self, ShardStateError> {
        proto::ShardState::decode(row)?.try_into()
    }

    /// How far it has come.
    #[must_use]
    pub fn position(&self) -> Position {
        Position {
            applied: EntryId {
                index: self.applied_index,
                term: self.applied_term,
            },
            revision: self.revision,
            clock_ms: self.clock_ms,
        }
    }

    /// Brings a state as of its row to a position that is stored apart from it. One that is not newer is left alone: the
    /// row was written since, or a snapshot was installed. Returns whether it was newer.
    ///
    /// # Errors
    /// If the two contradict each other.
    pub(super) fn advance(&mut self, to: Position) -> Result<bool, ShardStateError> {
        if to.applied.index <= self.applied_index {
            return Ok(false);
        }
        let from = self.position();
        if to.applied.term < from.applied.term
            || to.revision < from.revision
            || to.clock_ms < from.clock_ms
        {
            return Err(ShardStateError::Fallen {
                state: Box::new(from),
                later: Box::new(to),
            });
        }
        self.applied_index = to.applied.index;
        self.applied_term = to.applied.term;
        self.revision = to.revision;
        self.clock_ms = to.clock_ms;
        Ok(true)
    }

    /// The value of the state row.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        proto::ShardState::from(self).encode_to_vec().into()
    }
}

impl TryFrom<proto::ShardState> for ShardState {
    type Error = ShardStateError;

    fn try_from(message: proto::ShardState) -> Result<Self, Self::Error> {
        let conf_state = (message.conf_state).ok_or(ShardStateError::Missing("conf_state"))?;
        let descriptor = (message.descriptor).ok_or(ShardStateError::Missing("descriptor"))?;
        Ok(Self {
            applied_index: wire::index("applied_index", message.applied_index)?,
            applied_term: wire::term("applied_term", message.applied_term)?,
            revision: wire::position("revision", message.revision)?,
            clock_ms: message.clock_ms,
            next_session: wire::position("next_session", message.next_session)?,
            conf_state: wire::decode_conf_state(conf_state)?,
            descriptor: descriptor.try_into()?,
        })
    }
}

impl From<&ShardState> for proto::ShardState {
    fn from(state: &ShardState) -> Self {
        Self {
            applied_index: state.applied_index.0,
            applied_term: state.applied_term.0,
            revision: state.revision,
            clock_ms: state.clock_ms,
            next_session: state.next_session,
            conf_state: Some(wire::encode_conf_state(&state.conf_state)),
            descriptor: Some((&state.descriptor).into()),
        }
    }
}
