//! Changes as the data of log entries.
//!
//! ```text
//! V1   version (1 byte) · operation · context (the rest)
//! V2   version (1 byte) · transition (1 byte) · count (varint) · count × operation · context (the rest)
//! operation   kind (1 byte) · replica id (varint)
//! ```
//!
//! Varints are LEB128 in their shortest form, so every change has exactly one encoding. The empty V2 change has no
//! bytes at all: that is what a leader proposes to leave a joint configuration.

use super::{
    ConfChange, ConfChangeAny, ConfChangeKind, ConfChangeSingle, ConfChangeTransition, ConfChangeV2,
};
use crate::raft::types::{EntryKind, ReplicaId};
use bytes::Bytes;

const VERSION: u8 = 1;

/// Why bytes are not a membership change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The entry is not of a kind that holds a membership change.
    #[error("a normal entry holds no membership change")]
    NotAConfChange,
    /// The data end within a field.
    #[error("membership change ends within its {0}")]
    Truncated(&'static str),
    /// Written by a newer version.
    #[error(
        "membership change has encoding version {0}, expected {VERSION}: written by a newer version"
    )]
    Version(u8),
    /// Not a known operation.
    #[error("membership change has unknown operation {0}")]
    Kind(u8),
    /// Not a known transition.
    #[error("membership change has unknown transition {0}")]
    Transition(u8),
    /// A number that is too large, or not in its shortest form.
    #[error("membership change has a malformed number in its {0}")]
    Number(&'static str),
    /// The ids of the storage threads are no replicas.
    #[error("membership change names replica {0}, which is reserved")]
    Reserved(ReplicaId),
}

impl ConfChangeAny {
    /// The entry kind and data that hold this change.
    #[must_use]
    pub fn encode(&self) -> (EntryKind, Bytes) {
        match self {
            Self::V1(change) => {
                let mut out = vec![VERSION];
                put_operation(&mut out, change.change);
                out.extend_from_slice(&change.context);
                (EntryKind::ConfChange, out.into())
            }
            Self::V2(change) if *change == ConfChangeV2::default() => {
                (EntryKind::ConfChangeV2, Bytes::new())
            }
            Self::V2(change) => {
                let transition = match change.transition {
                    ConfChangeTransition::Auto => 0,
                    ConfChangeTransition::JointImplicit => 1,
                    ConfChangeTransition::JointExplicit => 2,
                };
                let mut out = vec![VERSION, transition];
                put_varint(&mut out, change.changes.len() as u64);
                for &operation in &change.changes {
                    put_operation(&mut out, operation);
                }
                out.extend_from_slice(&change.context);
                (EntryKind::ConfChangeV2, out.into())
            }
        }
    }

    /// Reads the change from the data of an entry of the given kind.
    ///
    /// # Errors
    /// Says which part of the data is not as written by [`Self::encode`].
    pub fn decode(kind: EntryKind, data: &[u8]) -> Result<Self, DecodeError> {
        let mut input = Input(data);
        match kind {
            EntryKind::Normal => Err(DecodeError::NotAConfChange),
            EntryKind::ConfChange => {
                input.version()?;
                let change = input.operation()?;
                Ok(Self::V1(ConfChange {
                    change,
                    context: input.rest(),
                }))
            }
            EntryKind::ConfChangeV2 if data.is_empty() => Ok(Self::V2(ConfChangeV2::default())),
            EntryKind::ConfChangeV2 => {
                input.version()?;
                let transition = match input.byte("transition")? {
                    0 => ConfChangeTransition::Auto,
                    1 => ConfChangeTransition::JointImplicit,
                    2 => ConfChangeTransition::JointExplicit,
                    other => return Err(DecodeError::Transition(other)),
                };
                let count = input.varint("count of operations")?;
                // An operation takes two bytes or more: a count that cannot be true must not allocate.
                if count > input.0.len() as u64 / 2 {
                    return Err(DecodeError::Truncated("operations"));
                }
                let changes = (0..count)
                    .map(|_| input.operation())
                    .collect::<Result<_, _>>()?;
                Ok(Self::V2(ConfChangeV2 {
                    transition,
                    changes,
                    context: input.rest(),
                }))
            }
        }
    }
}

fn put_operation(out: &mut Vec<u8>, operation: ConfChangeSingle) {
    out.push(match operation.kind {
        ConfChangeKind::AddNode => 0,
        ConfChangeKind::RemoveNode => 1,
        ConfChangeKind::UpdateNode => 2,
        ConfChangeKind::AddLearnerNode => 3,
    });
    put_varint(out, operation.id.0);
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        let (&first, rest) = self.0.split_first().ok_or(DecodeError::Truncated(field))?;
        self.0 = rest;
        Ok(first)
    }

    fn version(&mut self) -> Result<(), DecodeError> {
        match self.byte("version")? {
            VERSION => Ok(()),
            other => Err(DecodeError::Version(other)),
        }
    }

    fn varint(&mut self, field: &'static str) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte(field)?;
            let bits = u64::from(byte & 0x7f);
            if (bits << shift) >> shift != bits || (byte == 0 && shift > 0) {
                return Err(DecodeError::Number(field));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::Number(field))
    }

    fn operation(&mut self) -> Result<ConfChangeSingle, DecodeError> {
        let kind = match self.byte("operation")? {
            0 => ConfChangeKind::AddNode,
            1 => ConfChangeKind::RemoveNode,
            2 => ConfChangeKind::UpdateNode,
            3 => ConfChangeKind::AddLearnerNode,
            other => return Err(DecodeError::Kind(other)),
        };
        let id = ReplicaId(self.varint("replica id")?);
        if id.is_storage_thread() {
            return Err(DecodeError::Reserved(id));
        }
        Ok(ConfChangeSingle { kind, id })
    }

    fn rest(&self) -> Bytes {
        Bytes::copy_from_slice(self.0)
    }
}
