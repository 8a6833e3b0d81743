//! The meta shard's rules: what lies in the directory, and the commands that change it.
//!
//! The meta shard is a shard like any other; its keys lie in a namespace of their own (see [`keys`](crate::keys)).
//!
//! ```text
//! key                          value
//! node/<id, 16 hex digits>     Node
//! shard/<id, 16 hex digits>    Descriptor
//! next/node, next/shard        the next id to give (8 bytes, big endian)
//! access/…                     who may do what, see [`access`](crate::access)
//! ```
//!
//! Ids have a fixed width so that rows sort by id. All changes are conditional on the revision that was read, so two
//! nodes that change the same row at once can't undo each other's work: the second is told that its condition failed,
//! reads again, and decides again.

use crate::access;
use crate::descriptor::{Descriptor, DescriptorError, KeyRange};
use crate::ids::{NodeId, ShardId};
use crate::node::{Node, NodeError};
use bytes::Bytes;
use flotilla_proto::v1::{
    self as proto, Condition, Operation, PutOperation, WriteBatch, condition, operation,
};
use prost::Message as _;

const NODE: &str = "node/";
const SHARD: &str = "shard/";
const NEXT: &str = "next/";

/// What ids are given for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Allocator {
    /// Nodes that join.
    Node,
    /// Shards that are split off.
    Shard,
}

impl Allocator {
    fn name(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Shard => "shard",
        }
    }
}

/// One row of the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetaRow {
    /// A node.
    Node(Node),
    /// A shard, as it was when it last told the directory.
    Shard(Descriptor),
    /// The next id that an allocator gives.
    Next(Allocator, u64),
    /// A row of the access tables.
    Access(access::Row),
}

/// Why a row of the directory cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetaError {
    /// A key that this version does not know.
    #[error("directory row \"{}\" is not known to this version", .0.escape_ascii())]
    Key(Bytes),
    /// The value does not parse.
    #[error("directory row \"{}\": {source}", key.escape_ascii())]
    Message {
        /// Which row.
        key: Bytes,
        /// What is wrong.
        source: prost::DecodeError,
    },
    /// A broken node.
    #[error("directory row \"{}\": {source}", key.escape_ascii())]
    Node {
        /// Which row.
        key: Bytes,
        /// What is wrong.
        source: NodeError,
    },
    /// A broken descriptor.
    #[error("directory row \"{}\": {source}", key.escape_ascii())]
    Shard {
        /// Which row.
        key: Bytes,
        /// What is wrong.
        source: DescriptorError,
    },
    /// A broken row of the access tables.
    #[error("directory row \"{}\": {source}", key.escape_ascii())]
    Access {
        /// Which row.
        key: Bytes,
        /// What is wrong.
        source: access::RowError,
    },
    /// An allocator's value is a number of 8 bytes.
    #[error("directory row \"{}\" has {bytes} bytes, expected 8", key.escape_ascii())]
    Next {
        /// Which row.
        key: Bytes,
        /// Length of its value.
        bytes: usize,
    },
    /// The row of one thing describes another one.
    #[error("directory row \"{}\" describes id {id}", key.escape_ascii())]
    WrongId {
        /// Which row.
        key: Bytes,
        /// The id in its value.
        id: u64,
    },
}

/// Key of a node's row.
#[must_use]
pub fn node_key(node: NodeId) -> Bytes {
    numbered(NODE, node.0)
}

/// Key of a shard's row.
#[must_use]
pub fn shard_key(shard: ShardId) -> Bytes {
    numbered(SHARD, shard.0)
}

/// Key of an allocator's row.
#[must_use]
pub fn next_key(allocator: Allocator) -> Bytes {
    format!("{NEXT}{}", allocator.name()).into()
}

/// Keys of all nodes' rows.
#[must_use]
pub fn node_keys() -> KeyRange {
    prefixed(NODE)
}

/// Keys of all shards' rows.
#[must_use]
pub fn shard_keys() -> KeyRange {
    prefixed(SHARD)
}

impl MetaRow {
    /// Reads a row.
    ///
    /// # Errors
    /// If the row is damaged, or of another version.
    pub fn decode(key: &Bytes, value: Bytes) -> Result<Self, MetaError> {
        let unknown = || MetaError::Key(key.clone());
        let message = |source| MetaError::Message {
            key: key.clone(),
            source,
        };
        let text = std::str::from_utf8(key).map_err(|_| unknown())?;
        if text.starts_with(access::PREFIX) {
            let row = access::Row::decode(key, value).map_err(|source| MetaError::Access {
                key: key.clone(),
                source,
            })?;
            return Ok(Self::Access(row));
        }
        let (row, id) = if text.starts_with(NODE) {
            let node = proto::Node::decode(value).map_err(message)?;
            let node = Node::try_from(node).map_err(|source| MetaError::Node {
                key: key.clone(),
                source,
            })?;
            let id = node.id.0;
            (Self::Node(node), id)
        } else if text.starts_with(SHARD) {
            let shard = proto::Descriptor::decode(value).map_err(message)?;
            let shard = Descriptor::try_from(shard).map_err(|source| MetaError::Shard {
                key: key.clone(),
                source,
            })?;
            let id = shard.shard.0;
            (Self::Shard(shard), id)
        } else {
            let allocator = [Allocator::Node, Allocator::Shard]
                .into_iter()
                .find(|&allocator| next_key(allocator) == *key)
                .ok_or_else(unknown)?;
            let next = value[..].try_into().map_err(|_| MetaError::Next {
                key: key.clone(),
                bytes: value.len(),
            })?;
            return Ok(Self::Next(allocator, u64::from_be_bytes(next)));
        };
        if row.key() == *key {
            Ok(row)
        } else {
            Err(MetaError::WrongId {
                key: key.clone(),
                id,
            })
        }
    }

    /// The row's key.
    #[must_use]
    pub fn key(&self) -> Bytes {
        match self {
            Self::Node(node) => node_key(node.id),
            Self::Shard(descriptor) => shard_key(descriptor.shard),
            Self::Next(allocator, _) => next_key(*allocator),
            Self::Access(row) => row.key(),
        }
    }

    /// The row's value.
    #[must_use]
    pub fn value(&self) -> Bytes {
        match self {
            Self::Node(node) => proto::Node::from(node).encode_to_vec().into(),
            Self::Shard(descriptor) => proto::Descriptor::from(descriptor).encode_to_vec().into(),
            Self::Next(_, next) => Bytes::copy_from_slice(&next.to_be_bytes()),
            Self::Access(row) => row.value(),
        }
    }

    /// Writes the row if it still is as it was read: at this revision, or absent for 0.
    #[must_use]
    pub fn replace(&self, revision: u64) -> WriteBatch {
        let key = self.key();
        WriteBatch {
            conditions: vec![Condition {
                key: key.clone(),
                test: Some(condition::Test::RevisionEquals(revision)),
            }],
            operations: vec![Operation {
                kind: Some(operation::Kind::Put(PutOperation {
                    key,
                    value: self.value(),
                })),
            }],
        }
    }
}

/// Takes `count` ids from an allocator whose row says `next` at `revision`: if the batch succeeds, the ids from `next`
/// on are the caller's. `None` if the ids are used up.
#[must_use]
pub fn allocate(allocator: Allocator, next: u64, revision: u64, count: u64) -> Option<WriteBatch> {
    let after = next.checked_add(count)?;
    Some(MetaRow::Next(allocator, after).replace(revision))
}

fn numbered(kind: &str, id: u64) -> Bytes {
    format!("{kind}{id:016x}").into()
}

fn prefixed(kind: &'static str) -> KeyRange {
    // All prefixes end with a slash; the next character is a zero.
    let end = format!("{}0", kind.trim_end_matches('/'));
    KeyRange::new(Bytes::from_static(kind.as_bytes()), end.into()).expect("'0' follows '/'")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::descriptor::{Epoch, Replica};
    use crate::raft::ReplicaId;
    use proptest::prelude::*;

    fn rows() -> [MetaRow; 4] {
        [
            MetaRow::Node(Node {
                id: NodeId(0x1f),
                address: "host:1".into(),
                peer_address: String::new(),
                status_address: "host:2".into(),
                store: [9; 16],
            }),
            MetaRow::Shard(Descriptor {
                shard: ShardId(77),
                range: KeyRange::all(),
                epoch: Epoch {
                    membership: 3,
                    range: 4,
                },
                replicas: vec![Replica {
                    id: ReplicaId(5),
                    node: NodeId(6),
                    learner: false,
                }],
            }),
            MetaRow::Next(Allocator::Node, 4),
            MetaRow::Next(Allocator::Shard, u64::MAX),
        ]
    }

    #[test]
    fn rows_round_trip_under_their_keys() {
        for row in rows() {
            assert_eq!(MetaRow::decode(&row.key(), row.value()), Ok(row.clone()));
        }
        assert_eq!(&node_key(NodeId(0x1f))[..], b"node/000000000000001f");
        assert!(node_keys().contains(&node_key(NodeId(u64::MAX))));
        assert!(shard_keys().contains(&shard_key(ShardId(0))));
        assert!(!node_keys().overlaps(&shard_keys()));
        assert!(!node_keys().contains(&next_key(Allocator::Node)));
    }

    #[test]
    fn broken_rows_are_named() {
        let [node, shard, next, _] = rows();
        let broken =
            |key: Bytes, value: Bytes| MetaRow::decode(&key, value).unwrap_err().to_string();
        assert!(broken("nodes".into(), node.value()).contains("\"nodes\" is not known"));
        assert!(broken("\u{e4}".into(), node.value()).contains("not known"));
        assert!(broken(node_key(NodeId(2)), node.value()).contains("describes id 31"));
        assert!(broken("node/1f".into(), node.value()).contains("describes id 31"));
        assert!(broken(shard.key(), Bytes::from_static(b"\xff")).contains("shard/"));
        assert!(broken(shard.key(), Bytes::new()).contains("shard 0"));
        assert!(broken(node.key(), Bytes::new()).contains("id 0"));
        assert!(broken(next.key(), Bytes::from_static(b"12")).contains("2 bytes, expected 8"));
    }

    #[test]
    fn ids_run_out_rather_than_around() {
        assert_eq!(allocate(Allocator::Shard, u64::MAX, 1, 1), None);
        let batch = allocate(Allocator::Shard, 5, 9, 3).unwrap();
        let Some(operation::Kind::Put(put)) = &batch.operations[0].kind else {
            panic!("{batch:?}");
        };
        let row = MetaRow::decode(&put.key, put.value.clone());
        assert_eq!(row, Ok(MetaRow::Next(Allocator::Shard, 8)));
        assert_eq!(
            batch.conditions[0].test,
            Some(condition::Test::RevisionEquals(9))
        );
    }

    proptest! {
        #[test]
        fn any_row_is_understood_or_refused(
            key in prop_oneof![
                Just("node/".to_string()),
                Just("shard/".to_string()),
                "access/(policy|role/r?|user/u?)",
                "next/(node|shard)|.{0,8}",
            ],
            id in prop_oneof![Just(String::new()), (0u64..4).prop_map(|id| format!("{id:016x}"))],
            value in proptest::collection::vec(any::<u8>(), 0..32),
        ) {
            let _ = MetaRow::decode(&Bytes::from(key + &id), value.into());
        }
    }
}
