//! The one place that decides whether a caller may do something.
//!
//! A request is taken apart here to its last member: each operation and condition of a batch, each key of a batched get, both
//! bounds of a scan. What is allowed costs no allocation; what is not says which permission is missing on which part, and
//! nothing of what the store holds.

use std::fmt;

use bytes::Bytes;
use flotilla_proto::v1::{self as proto, operation, request};

use super::{Grant, Permission};
use crate::descriptor::KeyRange;

/// Keys, as disjoint ranges.
///
/// *Invariant:* ascending, and no two of them touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges(Vec<KeyRange>);

impl Ranges {
    /// The keys that are in any of these ranges.
    #[must_use]
    pub fn new<'a>(ranges: impl IntoIterator<Item = &'a KeyRange>) -> Self {
        let mut all: Vec<&KeyRange> = ranges.into_iter().collect();
        all.sort_by(|one, other| one.start().cmp(other.start()));
        let mut merged: Vec<KeyRange> = Vec::new();
        for range in all {
            match merged.last_mut() {
                Some(last) if last.is_open() || range.start() <= last.end() => {
                    if !last.is_open() && (range.is_open() || range.end() > last.end()) {
                        let longer = KeyRange::new(last.start().clone(), range.end().clone());
                        *last = longer.expect("it ends behind where it ended");
                    }
                }
                _ => merged.push(range.clone()),
            }
        }
        Self(merged)
    }

    /// The range that holds `key`, if any.
    fn around(&self, key: &[u8]) -> Option<&KeyRange> {
        let after = self.0.partition_point(|range| &range.start()[..] <= key);
        let range = self.0.get(after.checked_sub(1)?)?;
        range.contains(key).then_some(range)
    }

    /// Whether `key` is among them.
    #[must_use]
    pub fn contain(&self, key: &[u8]) -> bool {
        self.around(key).is_some()
    }

    /// Whether all keys of `[start, end)` are among them; an empty end means "to the end of the keyspace". Of a range that
    /// holds no key its start decides.
    #[must_use]
    pub fn cover(&self, start: &[u8], end: &[u8]) -> bool {
        let Some(range) = self.around(start) else {
            return false;
        };
        range.is_open() || (!end.is_empty() && end <= &range.end()[..])
    }

    /// The ranges.
    #[must_use]
    pub fn as_slice(&self) -> &[KeyRange] {
        &self.0
    }
}

/// What a user may do: the sum of its roles.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    read: Ranges,
    write: Ranges,
    admin: Ranges,
}

impl Rights {
    /// The sum of these grants.
    #[must_use]
    pub fn new<'a>(grants: impl IntoIterator<Item = &'a Grant> + Clone) -> Self {
        let of = |permission| {
            let grants = grants.clone().into_iter();
            let grants = grants.filter(|grant| grant.permits(permission));
            Ranges::new(grants.map(|grant| &grant.range))
        };
        Self {
            read: of(Permission::Read),
            write: of(Permission::Write),
            admin: of(Permission::Admin),
        }
    }

    /// The keys on which this is permitted.
    #[must_use]
    pub fn on(&self, permission: Permission) -> &Ranges {
        match permission {
            Permission::Read => &self.read,
            Permission::Write => &self.write,
            Permission::Admin => &self.admin,
        }
    }

    /// Whether everything that operators do is permitted.
    #[must_use]
    pub fn is_admin(&self) -> bool {
        self.admin.cover(b"", b"")
    }
}

/// What a caller wants to do.
#[derive(Clone, Copy, Debug)]
pub enum Operation<'a> {
    /// Something that every user may: ask who it is, or for the way to shards.
    Greet,
    /// A request for data.
    Request(&'a request::Kind),
    /// Something that operators do with one shard of this range.
    Shard(&'a KeyRange),
    /// Something that operators do with the cluster.
    Cluster,
}

/// Which part of an operation is not permitted. Keys are not named: errors end in logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The one key.
    Key,
    /// A key of a batched get, counted from 0.
    KeyAt(usize),
    /// The range of a scan, up to its last key.
    Range,
    /// An operation of a batch, counted from 0.
    OperationAt(usize),
    /// A condition of a batch, counted from 0.
    ConditionAt(usize),
    /// The range of the shard.
    Shard,
    /// All keys.
    Everything,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key => f.write_str("the key"),
            Self::KeyAt(at) => write!(f, "key {at}"),
            Self::Range => f.write_str("all of the asked range"),
            Self::OperationAt(at) => write!(f, "the keys of operation {at}"),
            Self::ConditionAt(at) => write!(f, "the key of condition {at}"),
            Self::Shard => f.write_str("the whole range of the shard"),
            Self::Everything => f.write_str("all keys"),
        }
    }
}

/// What is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {permission} permission on {part}")]
pub struct Missing {
    /// The permission.
    pub permission: Permission,
    /// On what.
    pub part: Part,
}

fn missing(permission: Permission, part: Part) -> Result<(), Missing> {
    Err(Missing { permission, part })
}

/// Whether `rights` are enough for `operation`.
///
/// # Errors
/// The first permission that is missing.
pub fn decide(rights: &Rights, operation: Operation<'_>) -> Result<(), Missing> {
    match operation {
        Operation::Greet => Ok(()),
        Operation::Request(kind) => decide_request(rights, kind),
        Operation::Shard(range) if rights.admin.cover(range.start(), range.end()) => Ok(()),
        Operation::Shard(_) => missing(Permission::Admin, Part::Shard),
        Operation::Cluster if rights.is_admin() => Ok(()),
        Operation::Cluster => missing(Permission::Admin, Part::Everything),
    }
}

fn decide_request(rights: &Rights, kind: &request::Kind) -> Result<(), Missing> {
    use request::Kind;
    let reads = |key: &Bytes, part| match rights.read.contain(key) {
        true => Ok(()),
        false => missing(Permission::Read, part),
    };
    let writes = |key: &Bytes, part| match rights.write.contain(key) {
        true => Ok(()),
        false => missing(Permission::Write, part),
    };
    match kind {
        Kind::Get(get) => reads(&get.key, Part::Key),
        Kind::BatchGet(get) => {
            let mut keys = get.keys.iter().enumerate();
            keys.try_for_each(|(at, key)| reads(key, Part::KeyAt(at)))
        }
        Kind::Scan(scan) if rights.read.cover(&scan.start, &scan.end) => Ok(()),
        Kind::Scan(_) => missing(Permission::Read, Part::Range),
        Kind::Put(put) => writes(&put.key, Part::Key),
        Kind::Delete(delete) => writes(&delete.key, Part::Key),
        Kind::Batch(batch) => {
            // Whether a condition holds tells what the key holds.
            for (at, condition) in batch.conditions.iter().enumerate() {
                reads(&condition.key, Part::ConditionAt(at))?;
            }
            for (at, operation) in batch.operations.iter().enumerate() {
                decide_operation(rights, operation, Part::OperationAt(at))?;
            }
            Ok(())
        }
        // Sessions are for writes.
        Kind::OpenSession(open) => writes(&open.key, Part::Key),
        Kind::CloseSession(close) => writes(&close.key, Part::Key),
    }
}

fn decide_operation(
    rights: &Rights,
    operation: &proto::Operation,
    part: Part,
) -> Result<(), Missing> {
    use operation::Kind;
    let may = match &operation.kind {
        Some(Kind::Put(put)) => rights.write.contain(&put.key),
        Some(Kind::Delete(delete)) => rights.write.contain(&delete.key),
        Some(Kind::DeleteRange(range)) => rights.write.cover(&range.start, &range.end),
        // Nothing that could be done; the batch is refused as invalid.
        None => true,
    };
    match may {
        true => Ok(()),
        false => missing(Permission::Write, part),
    }
}
