//! The gate for clients' requests: what passes here may be routed, proposed and applied.
//!
//! Every error names the field, its value and the limit that it breaks; nothing has happened by then.

use super::read::Page;
use super::view::Order;
use crate::descriptor::{Descriptor, EmptyRange, KeyRange};
use crate::ids::ShardId;
use crate::limits::{Limits, SESSION_WINDOW};
use crate::range_map::RangeMap;
use bytes::Bytes;
use flotilla_proto::v1::{
    BatchGetRequest, BatchRequest, CloseSession, CloseSessionRequest, Command, DeleteOperation,
    DeleteRequest, GetRequest, OpenSession, OpenSessionRequest, Operation, PutOperation,
    PutRequest, ScanRequest, SessionRef, WriteBatch, command, condition, operation,
};
use std::sync::Arc;

/// Why a request is refused. Sending it again does not help.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Something that must be there is not.
    #[error("{field} is empty or not set")]
    Missing {
        /// The field.
        field: String,
    },
    /// One field is too long.
    #[error("{field} has {bytes} bytes, the limit {limit_name} is {limit}")]
    TooLong {
        /// The field.
        field: String,
        /// Its length.
        bytes: usize,
        /// Name of the limit.
        limit_name: &'static str,
        /// The limit.
        limit: usize,
    },
    /// All fields together are too large.
    #[error("keys and values of the batch have {bytes} bytes, the limit batch_bytes is {limit}")]
    BatchTooLarge {
        /// Their sum.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Too many of something.
    #[error("{field}: {count} are too many, the limit {limit_name} is {limit}")]
    TooMany {
        /// The field.
        field: &'static str,
        /// How many.
        count: usize,
        /// Name of the limit.
        limit_name: &'static str,
        /// The limit.
        limit: usize,
    },
    /// A range without keys.
    #[error("{field}: {source}")]
    Range {
        /// The field.
        field: String,
        /// What is wrong with it.
        source: EmptyRange,
    },
    /// Two operations of a batch on one key, of which only the later would count.
    #[error("operations {first} and {second} are both on key \"{}\"", key.escape_ascii())]
    Duplicate {
        /// The key.
        key: Bytes,
        /// The operation that would be lost.
        first: usize,
        /// The operation that would hide it.
        second: usize,
    },
    /// A sequence that no session can be at.
    #[error(
        "session.sequence is {sequence} and session.lowest_unacknowledged {lowest}: the sequence must be at least that, at least 1, and less than {SESSION_WINDOW} above it"
    )]
    Sequence {
        /// The write's number.
        sequence: u64,
        /// What the client says it is waiting for.
        lowest: u64,
    },
}

/// Why a proposal has no shard to go to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// The directory is not complete here yet.
    #[error("the shard of key \"{}\" is not known yet", key.escape_ascii())]
    Unknown {
        /// The key.
        key: Bytes,
    },
    /// What is to be atomic lies in more than one shard.
    #[error(
        "a batch must stay within one shard: \"{}\" is in shard {shard}, \"{}\" is not",
        first.escape_ascii(), other.escape_ascii()
    )]
    CrossShard {
        /// Key that decided on the shard.
        first: Bytes,
        /// Its shard.
        shard: ShardId,
        /// Key, or end of a range, outside that shard.
        other: Bytes,
    },
}

/// A checked command that is not routed yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Proposal {
    key: Bytes,
    command: Command,
}

impl Proposal {
    /// Writes one value.
    ///
    /// # Errors
    /// If the request breaks a limit.
    pub fn put(request: PutRequest, limits: &Limits) -> Result<Self, RequestError> {
        check_key(&request.key, limits, || "key".into())?;
        check_value(&request.value, limits, || "value".into())?;
        let operation = operation::Kind::Put(PutOperation {
            key: request.key.clone(),
            value: request.value,
        });
        Self::single(request.key, operation, request.session)
    }

    /// Deletes one key.
    ///
    /// # Errors
    /// If the request breaks a limit.
    pub fn delete(request: DeleteRequest, limits: &Limits) -> Result<Self, RequestError> {
        check_key(&request.key, limits, || "key".into())?;
        let operation = operation::Kind::Delete(DeleteOperation {
            key: request.key.clone(),
        });
        Self::single(request.key, operation, request.session)
    }

    /// Conditions and operations, applied as one.
    ///
    /// # Errors
    /// If the request breaks a limit.
    pub fn batch(request: BatchRequest, limits: &Limits) -> Result<Self, RequestError> {
        let key = check_batch(&request, limits)?;
        Self::write(
            key,
            WriteBatch {
                conditions: request.conditions,
                operations: request.operations,
            },
            request.session,
        )
    }

    /// Opens a session in the shard of a key.
    ///
    /// # Errors
    /// If the request breaks a limit.
    pub fn open_session(
        request: OpenSessionRequest,
        limits: &Limits,
    ) -> Result<Self, RequestError> {
        check_key(&request.key, limits, || "key".into())?;
        Ok(Self {
            key: request.key,
            command: Command {
                range_epoch: 0,
                session: None,
                kind: Some(command::Kind::OpenSession(OpenSession {})),
            },
        })
    }

    /// Closes a session in the shard of a key.
    ///
    /// # Errors
    /// If the request breaks a limit.
    pub fn close_session(
        request: CloseSessionRequest,
        limits: &Limits,
    ) -> Result<Self, RequestError> {
        check_key(&request.key, limits, || "key".into())?;
        for (field, id) in [("shard_id", request.shard_id), ("number", request.number)] {
            if id == 0 {
                return Err(missing(field));
            }
        }
        let session = SessionRef {
            shard_id: request.shard_id,
            number: request.number,
            sequence: 0,
            lowest_unacknowledged: 0,
        };
        Ok(Self {
            key: request.key,
            command: Command {
                range_epoch: 0,
                session: Some(session),
                kind: Some(command::Kind::CloseSession(CloseSession {})),
            },
        })
    }

    /// The key that decides on the shard.
    #[must_use]
    pub fn key(&self) -> &Bytes {
        &self.key
    }

    /// Whether the command may be proposed again without being applied twice.
    #[must_use]
    pub fn has_session(&self) -> bool {
        self.command.session.is_some()
    }

    /// The one shard that all keys of the command are in.
    ///
    /// # Errors
    /// If there is none, or it is not known.
    pub fn route<'a>(&self, map: &'a RangeMap) -> Result<&'a Arc<Descriptor>, RouteError> {
        let descriptor = map.lookup(&self.key).ok_or_else(|| RouteError::Unknown {
            key: self.key.clone(),
        })?;
        match self.first_outside(&descriptor.range) {
            None => Ok(descriptor),
            Some(other) => Err(RouteError::CrossShard {
                first: self.key.clone(),
                shard: descriptor.shard,
                other: other.clone(),
            }),
        }
    }

    /// The command, as routed by a descriptor of this range epoch.
    #[must_use]
    pub fn into_command(mut self, range_epoch: u64) -> Command {
        self.command.range_epoch = range_epoch;
        self.command
    }

    fn single(
        key: Bytes,
        operation: operation::Kind,
        session: Option<SessionRef>,
    ) -> Result<Self, RequestError> {
        let operations = vec![Operation {
            kind: Some(operation),
        }];
        Self::write(
            key,
            WriteBatch {
                conditions: Vec::new(),
                operations,
            },
            session,
        )
    }

    fn write(
        key: Bytes,
        batch: WriteBatch,
        session: Option<SessionRef>,
    ) -> Result<Self, RequestError> {
        if let Some(session) = &session {
            check_session(session)?;
        }
        Ok(Self {
            key,
            command: Command {
                range_epoch: 0,
                session,
                kind: Some(command::Kind::Write(batch)),
            },
        })
    }

    fn first_outside(&self, range: &KeyRange) -> Option<&Bytes> {
        let Some(command::Kind::Write(batch)) = &self.command.kind else {
            return None;
        };
        let conditions = batch.conditions.iter().map(|condition| &condition.key);
        let operations = batch.operations.iter().filter_map(|operation| {
            Some(match operation.kind.as_ref()? {
                operation::Kind::Put(operation) => &operation.key,
                operation::Kind::Delete(operation) => &operation.key,
                operation::Kind::DeleteRange(operation) => {
                    let reaches_out = !range.is_open() && operation.end > *range.end();
                    if reaches_out {
                        &operation.end
                    } else {
                        &operation.start
                    }
                }
            })
        });
        // The end of a range that reaches out lies above the shard's end, so it is no key of the shard either.
        (conditions.chain(operations)).find(|key| !range.contains(key))
    }
}

/// Checks a get.
///
/// # Errors
/// If the request breaks a limit.
pub fn get(request: &GetRequest, limits: &Limits) -> Result<(), RequestError> {
    check_key(&request.key, limits, || "key".into())
}

/// Checks a batched get.
///
/// # Errors
/// If the request breaks a limit.
pub fn batch_get(request: &BatchGetRequest, limits: &Limits) -> Result<(), RequestError> {
    if request.keys.is_empty() {
        return Err(missing("keys"));
    }
    check_count("keys", request.keys.len(), limits)?;
    for (at, key) in request.keys.iter().enumerate() {
        check_key(key, limits, || format!("keys[{at}]"))?;
    }
    Ok(())
}

/// Checks a scan.
///
/// # Errors
/// If the request breaks a limit.
pub fn scan(request: &ScanRequest, limits: &Limits) -> Result<Page, RequestError> {
    check_bound(&request.start, limits, || "start".into())?;
    check_bound(&request.end, limits, || "end".into())?;
    let range = KeyRange::new(request.start.clone(), request.end.clone()).map_err(|source| {
        RequestError::Range {
            field: "start and end".into(),
            source,
        }
    })?;
    let rows = match usize::try_from(request.limit).unwrap_or(usize::MAX) {
        0 => limits.scan_rows,
        rows if rows > limits.scan_rows => {
            return Err(RequestError::TooMany {
                field: "limit",
                count: rows,
                limit_name: "scan_rows",
                limit: limits.scan_rows,
            });
        }
        rows => rows,
    };
    Ok(Page {
        range,
        rows,
        order: if request.reverse {
            Order::Descending
        } else {
            Order::Ascending
        },
        keys_only: request.keys_only,
    })
}

/// Checks a batch; returns the key that decides on its shard.
fn check_batch(request: &BatchRequest, limits: &Limits) -> Result<Bytes, RequestError> {
    check_count("conditions", request.conditions.len(), limits)?;
    check_count("operations", request.operations.len(), limits)?;
    let mut bytes = 0;
    let mut first = None;
    for (at, condition) in request.conditions.iter().enumerate() {
        check_key(&condition.key, limits, || format!("conditions[{at}].key"))?;
        bytes += condition.key.len();
        match &condition.test {
            None => return Err(missing(&format!("conditions[{at}].test"))),
            Some(condition::Test::ValueEquals(value)) => {
                check_value(value, limits, || format!("conditions[{at}].value_equals"))?;
                bytes += value.len();
            }
            Some(condition::Test::Exists(_) | condition::Test::RevisionEquals(_)) => {}
        }
        first = first.or(Some(&condition.key));
    }
    let mut points: Vec<(&Bytes, usize)> = Vec::with_capacity(request.operations.len());
    for (at, operation) in request.operations.iter().enumerate() {
        let key = match &operation.kind {
            None => return Err(missing(&format!("operations[{at}]"))),
            Some(operation::Kind::Put(put)) => {
                check_key(&put.key, limits, || format!("operations[{at}].put.key"))?;
                check_value(&put.value, limits, || format!("operations[{at}].put.value"))?;
                bytes += put.key.len() + put.value.len();
                points.push((&put.key, at));
                &put.key
            }
            Some(operation::Kind::Delete(delete)) => {
                check_key(&delete.key, limits, || {
                    format!("operations[{at}].delete.key")
                })?;
                bytes += delete.key.len();
                points.push((&delete.key, at));
                &delete.key
            }
            Some(operation::Kind::DeleteRange(range)) => {
                let field = |part: &str| format!("operations[{at}].delete_range{part}");
                check_bound(&range.start, limits, || field(".start"))?;
                check_bound(&range.end, limits, || field(".end"))?;
                KeyRange::new(range.start.clone(), range.end.clone()).map_err(|source| {
                    RequestError::Range {
                        field: field(""),
                        source,
                    }
                })?;
                bytes += range.start.len() + range.end.len();
                &range.start
            }
        };
        first = first.or(Some(key));
    }
    if bytes > limits.batch_bytes {
        return Err(RequestError::BatchTooLarge {
            bytes,
            limit: limits.batch_bytes,
        });
    }
    points.sort_unstable();
    if let Some(pair) = points.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(RequestError::Duplicate {
            key: pair[0].0.clone(),
            first: pair[0].1,
            second: pair[1].1,
        });
    }
    first.cloned().ok_or_else(|| missing("operations"))
}

fn check_session(session: &SessionRef) -> Result<(), RequestError> {
    for (field, id) in [
        ("session.shard_id", session.shard_id),
        ("session.number", session.number),
    ] {
        if id == 0 {
            return Err(missing(field));
        }
    }
    let (sequence, lowest) = (session.sequence, session.lowest_unacknowledged);
    // 0 is "nothing acknowledged", as is 1.
    if sequence == 0 || sequence < lowest || sequence - lowest.max(1) >= SESSION_WINDOW {
        return Err(RequestError::Sequence { sequence, lowest });
    }
    Ok(())
}

fn check_key(key: &Bytes, limits: &Limits, field: impl Fn() -> String) -> Result<(), RequestError> {
    if key.is_empty() {
        return Err(RequestError::Missing { field: field() });
    }
    check_bound(key, limits, field)
}

fn check_bound(
    key: &Bytes,
    limits: &Limits,
    field: impl Fn() -> String,
) -> Result<(), RequestError> {
    check_length(key, "key_bytes", limits.key_bytes, field)
}

fn check_value(
    value: &Bytes,
    limits: &Limits,
    field: impl Fn() -> String,
) -> Result<(), RequestError> {
    check_length(value, "value_bytes", limits.value_bytes, field)
}

fn check_length(
    bytes: &Bytes,
    limit_name: &'static str,
    limit: usize,
    field: impl Fn() -> String,
) -> Result<(), RequestError> {
    if bytes.len() > limit {
        return Err(RequestError::TooLong {
            field: field(),
            bytes: bytes.len(),
            limit_name,
            limit,
        });
    }
    Ok(())
}

fn check_count(field: &'static str, count: usize, limits: &Limits) -> Result<(), RequestError> {
    if count > limits.batch_ops {
        return Err(RequestError::TooMany {
            field,
            count,
            limit_name: "batch_ops",
            limit: limits.batch_ops,
        });
    }
    Ok(())
}

fn missing(field: &str) -> RequestError {
    RequestError::Missing {
        field: field.into(),
    }
}
