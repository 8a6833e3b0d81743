//! Conditions and operations: what a write batch does to a shard's data.

use super::batch::StateBatch;
use super::machine::{ApplyError, answer, refused};
use super::state::ShardState;
use super::view::StateView;
use crate::descriptor::{Descriptor, KeyRange};
use crate::keys;
use crate::limits::DELETE_RANGE_KEYS_MAX;
use crate::value;
use bytes::Bytes;
use flotilla_proto::v1::{
    CommandAnswer, Condition, DeleteRangeOperation, WriteAnswer, WriteBatch, command_answer,
    condition, operation, refusal::Reason,
};
use std::ops::ControlFlow;

/// Applies a write batch whole or not at all. What is refused is refused before the first change.
pub(super) fn apply<V>(
    state: &mut ShardState,
    view: &V,
    batch: &mut StateBatch,
    commands: &WriteBatch,
) -> Result<CommandAnswer, ApplyError>
where
    V: StateView + ?Sized,
{
    if let Err((reason, detail)) = check(&state.descriptor, commands) {
        return Ok(refused(reason, detail));
    }
    for (at, condition) in commands.conditions.iter().enumerate() {
        if !holds(&state.descriptor, view, batch, condition)? {
            return Ok(answer(command_answer::Kind::Write(WriteAnswer {
                succeeded: false,
                revision: state.revision,
                deleted: 0,
                failed_condition: u32::try_from(at).unwrap_or(u32::MAX),
            })));
        }
    }
    if let Some(detail) = covers_too_much(&state.descriptor, view, batch, commands)? {
        return Ok(refused(Reason::TooManyKeys, detail));
    }
    let shard = state.descriptor.shard;
    let revision = state.revision + 1;
    let (mut put, mut deleted) = (false, 0);
    for operation in &commands.operations {
        match operation.kind.as_ref().expect("checked above") {
            operation::Kind::Put(operation) => {
                let key = batch.data_key(shard, &operation.key);
                batch.put_value(key, revision, &operation.value);
                put = true;
            }
            operation::Kind::Delete(operation) => {
                let key = batch.data_key(shard, &operation.key);
                if batch.get(view, &key)?.is_some() {
                    batch.delete(key);
                    deleted += 1;
                }
            }
            operation::Kind::DeleteRange(operation) => {
                let range = deleted_range(&state.descriptor, operation).expect("checked above");
                let mut found: Vec<Bytes> = Vec::new();
                batch.scan(view, &keys::data_rows(shard, &range), &mut |key, _| {
                    found.push(Bytes::copy_from_slice(key));
                    ControlFlow::Continue(())
                })?;
                deleted += found.len() as u64;
                for key in found {
                    batch.delete(key);
                }
            }
        }
    }
    if put || deleted > 0 {
        state.revision = revision;
    }
    Ok(answer(command_answer::Kind::Write(WriteAnswer {
        succeeded: true,
        revision: state.revision,
        deleted,
        failed_condition: 0,
    })))
}

type Refused = (Reason, String);

/// What can be said without reading: every part is understood, and every key is the shard's.
fn check(descriptor: &Descriptor, commands: &WriteBatch) -> Result<(), Refused> {
    let malformed = |what: &str, at: usize| {
        (
            Reason::Malformed,
            format!("{what} {at} is not known to this version"),
        )
    };
    let in_range = |key: &[u8]| {
        if descriptor.range.contains(key) {
            Ok(())
        } else {
            Err(out_of_range(descriptor, key))
        }
    };
    for (at, condition) in commands.conditions.iter().enumerate() {
        if condition.test.is_none() {
            return Err(malformed("condition", at));
        }
        in_range(&condition.key)?;
    }
    for (at, operation) in commands.operations.iter().enumerate() {
        match &operation.kind {
            None => return Err(malformed("operation", at)),
            Some(operation::Kind::Put(operation)) => in_range(&operation.key)?,
            Some(operation::Kind::Delete(operation)) => in_range(&operation.key)?,
            Some(operation::Kind::DeleteRange(operation)) => {
                deleted_range(descriptor, operation)?;
            }
        }
    }
    Ok(())
}

/// The keys that a delete-range means: an empty end is the end of the shard.
fn deleted_range(
    descriptor: &Descriptor,
    operation: &DeleteRangeOperation,
) -> Result<KeyRange, Refused> {
    if !descriptor.range.contains(&operation.start) {
        return Err(out_of_range(descriptor, &operation.start));
    }
    let end = if operation.end.is_empty() {
        descriptor.range.end()
    } else {
        &operation.end
    };
    let range = KeyRange::new(operation.start.clone(), end.clone())
        .map_err(|error| (Reason::Malformed, error.to_string()))?;
    if descriptor.range.covers(&range) {
        Ok(range)
    } else {
        Err(out_of_range(descriptor, range.end()))
    }
}

fn out_of_range(descriptor: &Descriptor, key: &[u8]) -> Refused {
    let detail = format!(
        "\"{}\" is not in shard {} {}",
        key.escape_ascii(),
        descriptor.shard,
        descriptor.range
    );
    (Reason::OutOfRange, detail)
}

fn holds<V>(
    descriptor: &Descriptor,
    view: &V,
    batch: &mut StateBatch,
    condition: &Condition,
) -> Result<bool, ApplyError>
where
    V: StateView + ?Sized,
{
    let key = batch.data_key(descriptor.shard, &condition.key);
    let stored = batch.get(view, &key)?.map(value::decode).transpose()?;
    Ok(match condition.test.as_ref().expect("checked above") {
        condition::Test::Exists(expected) => stored.is_some() == *expected,
        condition::Test::ValueEquals(expected) => {
            stored.is_some_and(|stored| stored.value == *expected)
        }
        // Revisions begin at 1, so 0 is that of a key that does not exist.
        condition::Test::RevisionEquals(expected) => {
            stored.map_or(0, |stored| stored.revision) == *expected
        }
    })
}

/// Whether the delete-ranges of a command cover too many keys, counted before its first change: keys that the command
/// itself puts are bounded by its size. Keys in two ranges count twice.
fn covers_too_much<V>(
    descriptor: &Descriptor,
    view: &V,
    batch: &StateBatch,
    commands: &WriteBatch,
) -> Result<Option<String>, ApplyError>
where
    V: StateView + ?Sized,
{
    let mut count = 0;
    for operation in &commands.operations {
        let Some(operation::Kind::DeleteRange(operation)) = &operation.kind else {
            continue;
        };
        let range = deleted_range(descriptor, operation).expect("checked above");
        let rows = keys::data_rows(descriptor.shard, &range);
        batch.scan(view, &rows, &mut |_, _| {
            count += 1;
            if count > DELETE_RANGE_KEYS_MAX {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })?;
        if count > DELETE_RANGE_KEYS_MAX {
            return Ok(Some(format!(
                "one command deletes at most {DELETE_RANGE_KEYS_MAX} keys by ranges: delete in steps"
            )));
        }
    }
    Ok(None)
}
