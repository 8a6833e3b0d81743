//! Conditional batches: what may be asked of one shard in one step.

use bytes::Bytes;
use flotilla_proto::v1::{self, condition, operation, request};

use super::error::{Error, Result};

/// Conditions and, if all of them hold, operations; applied as one. All keys must lie in one shard.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WriteBatch {
    conditions: Vec<v1::Condition>,
    operations: Vec<v1::Operation>,
}

impl WriteBatch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Only if the key exists (or, with `false`, does not).
    #[must_use]
    pub fn if_exists(self, key: impl Into<Bytes>, exists: bool) -> Self {
        self.condition(key, condition::Test::Exists(exists))
    }

    /// Only if the key has this value.
    #[must_use]
    pub fn if_value(self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        self.condition(key, condition::Test::ValueEquals(value.into()))
    }

    /// Only if the key's value has this revision.
    #[must_use]
    pub fn if_revision(self, key: impl Into<Bytes>, revision: u64) -> Self {
        self.condition(key, condition::Test::RevisionEquals(revision))
    }

    /// Writes a value.
    #[must_use]
    pub fn put(self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        self.operation(operation::Kind::Put(v1::PutOperation {
            key: key.into(),
            value: value.into(),
        }))
    }

    /// Deletes a key.
    #[must_use]
    pub fn delete(self, key: impl Into<Bytes>) -> Self {
        self.operation(operation::Kind::Delete(v1::DeleteOperation {
            key: key.into(),
        }))
    }

    /// Deletes the keys of [start, end); an empty end means "to the end of the shard".
    #[must_use]
    pub fn delete_range(self, start: impl Into<Bytes>, end: impl Into<Bytes>) -> Self {
        self.operation(operation::Kind::DeleteRange(v1::DeleteRangeOperation {
            start: start.into(),
            end: end.into(),
        }))
    }

    fn condition(mut self, key: impl Into<Bytes>, test: condition::Test) -> Self {
        self.conditions.push(v1::Condition {
            key: key.into(),
            test: Some(test),
        });
        self
    }

    fn operation(mut self, kind: operation::Kind) -> Self {
        self.operations.push(v1::Operation { kind: Some(kind) });
        self
    }

    /// The key by which the batch finds its shard.
    pub(super) fn first_key(&self) -> Result<Bytes> {
        let of_operation = |operation: &v1::Operation| match &operation.kind {
            Some(operation::Kind::Put(put)) => Some(put.key.clone()),
            Some(operation::Kind::Delete(delete)) => Some(delete.key.clone()),
            Some(operation::Kind::DeleteRange(range)) => Some(range.start.clone()),
            None => None,
        };
        self.conditions
            .first()
            .map(|condition| condition.key.clone())
            .or_else(|| self.operations.first().and_then(of_operation))
            .ok_or_else(|| Error::InvalidArgument {
                message: "the batch is empty: give it a condition or an operation".to_owned(),
            })
    }

    pub(super) fn to_request(&self, session: Option<v1::SessionRef>) -> request::Kind {
        request::Kind::Batch(v1::BatchRequest {
            conditions: self.conditions.clone(),
            operations: self.operations.clone(),
            session,
        })
    }
}
