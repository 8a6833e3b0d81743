//! What a shard is: its key range, its replicas, and the epochs that count their changes.
//!
//! The types here are checked: they come from [`flotilla_proto`]'s messages by `TryFrom`, and behind that gate nobody
//! checks again.

use crate::ids::{NodeId, ShardId};
use crate::limits::{KEY_BYTES_MAX, REPLICAS_MAX};
use crate::raft::{ConfState, ReplicaId};
use crate::wire::POSITION_MAX;
use bytes::Bytes;
use flotilla_proto::v1 as proto;
use std::fmt;

/// Keys `[start, end)`; an empty end means "to the end of the keyspace".
///
/// *Invariant:* start < end, unless end is open.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct KeyRange {
    start: Bytes,
    end: Bytes,
}

/// A range that holds no key: its end is not above its start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the range end \"{}\" is not above its start \"{}\"",
    end.escape_ascii(),
    start.escape_ascii()
)]
pub struct EmptyRange {
    /// Where it starts.
    pub start: Bytes,
    /// Where it ends.
    pub end: Bytes,
}

impl KeyRange {
    /// All keys.
    #[must_use]
    pub const fn all() -> Self {
        Self {
            start: Bytes::new(),
            end: Bytes::new(),
        }
    }

    /// The keys from `start` up to, without, `end`.
    ///
    /// # Errors
    /// If there can be no such key.
    pub fn new(start: Bytes, end: Bytes) -> Result<Self, EmptyRange> {
        if end.is_empty() || start < end {
            Ok(Self { start, end })
        } else {
            Err(EmptyRange { start, end })
        }
    }

    /// First key.
    #[must_use]
    pub fn start(&self) -> &Bytes {
        &self.start
    }

    /// First key that is no longer part; empty if the range is open.
    #[must_use]
    pub fn end(&self) -> &Bytes {
        &self.end
    }

    /// Whether the range goes to the end of the keyspace.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.end.is_empty()
    }

    /// Whether `key` is in the range.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= &self.start[..] && (self.is_open() || key < &self.end[..])
    }

    /// Whether every key of `other` is in this range.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.start <= other.start && (self.is_open() || (!other.is_open() && other.end <= self.end))
    }

    /// Whether some key is in both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        (other.is_open() || self.start < other.end) && (self.is_open() || other.start < self.end)
    }

    /// The keys that are in both, if any.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        if !self.overlaps(other) {
            return None;
        }
        let start = (&self.start).max(&other.start).clone();
        let end = match (self.is_open(), other.is_open()) {
            (true, _) => other.end.clone(),
            (_, true) => self.end.clone(),
            _ => (&self.end).min(&other.end).clone(),
        };
        Some(Self { start, end })
    }
}

impl fmt::Display for KeyRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[\"{}\", ", self.start.escape_ascii())?;
        if self.is_open() {
            f.write_str("end)")
        } else {
            write!(f, "\"{}\")", self.end.escape_ascii())
        }
    }
}

impl fmt::Debug for KeyRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Counts the changes of a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Epoch {
    /// Changes of the replica set.
    pub membership: u64,
    /// Splits and merges.
    pub range: u64,
}

impl Epoch {
    /// Whether this is of a later state of the same shard. The range counts first: membership changes within it.
    #[must_use]
    pub fn is_newer_than(self, other: Self) -> bool {
        (self.range, self.membership) > (other.range, other.membership)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.range, self.membership)
    }
}

/// One replica of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Replica {
    /// Unique for all time within the shard.
    pub id: ReplicaId,
    /// Where it lives.
    pub node: NodeId,
    /// Receives the log and does not vote.
    pub learner: bool,
}

/// A shard: what it holds and who holds it.
///
/// *Invariant:* ids are not 0; replicas ascend by id and live on different nodes; there is a voter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Which shard.
    pub shard: ShardId,
    /// Its keys.
    pub range: KeyRange,
    /// Version of this description.
    pub epoch: Epoch,
    /// Who holds it, ascending by replica id.
    pub replicas: Vec<Replica>,
}

/// Why a message is no description of a shard.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DescriptorError {
    /// No such shard.
    #[error("a descriptor names shard 0, expected an id from 1")]
    Shard,
    /// A field that every description has.
    #[error("the descriptor of shard {shard} has no {field}")]
    Missing {
        /// Which shard.
        shard: ShardId,
        /// The absent field.
        field: &'static str,
    },
    /// The range holds no key.
    #[error("shard {shard}: {source}")]
    Range {
        /// Which shard.
        shard: ShardId,
        /// What is wrong with it.
        source: EmptyRange,
    },
    /// An epoch that no number of changes can reach.
    #[error(
        "shard {shard} has the epoch {membership}.{range}, expected at most {POSITION_MAX} each"
    )]
    Epoch {
        /// Which shard.
        shard: ShardId,
        /// Changes of the replica set.
        membership: u64,
        /// Splits and merges.
        range: u64,
    },
    /// A bound that no key can reach.
    #[error("the {field} of shard {shard} has {bytes} bytes, at most {KEY_BYTES_MAX} are possible")]
    KeyTooLong {
        /// Which shard.
        shard: ShardId,
        /// Start or end.
        field: &'static str,
        /// Its length.
        bytes: usize,
    },
    /// A shard without voters can decide nothing.
    #[error("shard {shard} has no voting replica")]
    NoVoter {
        /// Which shard.
        shard: ShardId,
    },
    /// More than any placement makes.
    #[error("shard {shard} has {count} replicas, at most {REPLICAS_MAX} are possible")]
    TooManyReplicas {
        /// Which shard.
        shard: ShardId,
        /// How many.
        count: usize,
    },
    /// A reserved id.
    #[error("shard {shard} has replica {replica} on node {node}: neither id may be reserved")]
    Reserved {
        /// Which shard.
        shard: ShardId,
        /// Its replica.
        replica: ReplicaId,
        /// The replica's node.
        node: NodeId,
    },
    /// Two replicas with one id.
    #[error("shard {shard} names replica {replica} twice")]
    DuplicateReplica {
        /// Which shard.
        shard: ShardId,
        /// The id.
        replica: ReplicaId,
    },
    /// Two replicas on one node.
    #[error("shard {shard} has two replicas on node {node}")]
    DuplicateNode {
        /// Which shard.
        shard: ShardId,
        /// The node.
        node: NodeId,
    },
}

impl Descriptor {
    /// The replica on `node`, if there is one.
    #[must_use]
    pub fn replica_on(&self, node: NodeId) -> Option<&Replica> {
        self.replicas.iter().find(|replica| replica.node == node)
    }

    /// The replica with this id, if there is one.
    #[must_use]
    pub fn replica(&self, id: ReplicaId) -> Option<&Replica> {
        self.replicas.iter().find(|replica| replica.id == id)
    }

    /// The membership that the list of replicas describes.
    #[must_use]
    pub fn conf_state(&self) -> ConfState {
        let ids = |learner| {
            self.replicas
                .iter()
                .filter(|replica| replica.learner == learner)
                .map(|replica| replica.id)
                .collect()
        };
        ConfState {
            voters: ids(false),
            learners: ids(true),
            ..ConfState::default()
        }
    }
}

impl TryFrom<proto::Descriptor> for Descriptor {
    type Error = DescriptorError;

    fn try_from(message: proto::Descriptor) -> Result<Self, Self::Error> {
        let shard = ShardId(message.shard_id);
        if shard.0 == 0 {
            return Err(DescriptorError::Shard);
        }
        let epoch = message.epoch.ok_or(DescriptorError::Missing {
            shard,
            field: "epoch",
        })?;
        if epoch.membership > POSITION_MAX || epoch.range > POSITION_MAX {
            return Err(DescriptorError::Epoch {
                shard,
                membership: epoch.membership,
                range: epoch.range,
            });
        }
        for (field, key) in [("start", &message.start), ("end", &message.end)] {
            if key.len() > KEY_BYTES_MAX {
                return Err(DescriptorError::KeyTooLong {
                    shard,
                    field,
                    bytes: key.len(),
                });
            }
        }
        let range = KeyRange::new(message.start, message.end)
            .map_err(|source| DescriptorError::Range { shard, source })?;
        if message.replicas.len() > REPLICAS_MAX {
            return Err(DescriptorError::TooManyReplicas {
                shard,
                count: message.replicas.len(),
            });
        }
        let mut replicas: Vec<Replica> = Vec::with_capacity(message.replicas.len());
        for replica in message.replicas {
            let (id, node) = (ReplicaId(replica.replica_id), NodeId(replica.node_id));
            if id.is_none() || id.is_storage_thread() || node == NodeId::NONE {
                return Err(DescriptorError::Reserved {
                    shard,
                    replica: id,
                    node,
                });
            }
            if replicas.iter().any(|other| other.id == id) {
                return Err(DescriptorError::DuplicateReplica { shard, replica: id });
            }
            if replicas.iter().any(|other| other.node == node) {
                return Err(DescriptorError::DuplicateNode { shard, node });
            }
            replicas.push(Replica {
                id,
                node,
                learner: replica.learner,
            });
        }
        if replicas.iter().all(|replica| replica.learner) {
            return Err(DescriptorError::NoVoter { shard });
        }
        replicas.sort_unstable_by_key(|replica| replica.id);
        Ok(Self {
            shard,
            range,
            epoch: Epoch {
                membership: epoch.membership,
                range: epoch.range,
            },
            replicas,
        })
    }
}

impl From<&Descriptor> for proto::Descriptor {
    fn from(descriptor: &Descriptor) -> Self {
        Self {
            shard_id: descriptor.shard.0,
            start: descriptor.range.start.clone(),
            end: descriptor.range.end.clone(),
            epoch: Some(proto::Epoch {
                membership: descriptor.epoch.membership,
                range: descriptor.epoch.range,
            }),
            replicas: (descriptor.replicas.iter())
                .map(|replica| proto::Replica {
                    replica_id: replica.id.0,
                    node_id: replica.node.0,
                    learner: replica.learner,
                })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key() -> impl Strategy<Value = Bytes> {
        proptest::collection::vec(0u8..4, 0..3).prop_map(Bytes::from)
    }

    fn range() -> impl Strategy<Value = KeyRange> {
        (key(), key()).prop_filter_map("empty range", |(a, b)| KeyRange::new(a, b).ok())
    }

    fn universe() -> Vec<Vec<u8>> {
        let mut keys = vec![vec![]];
        for _ in 0..4 {
            let longer: Vec<_> = (keys.iter())
                .flat_map(|key: &Vec<u8>| {
                    (0u8..5).map(move |byte| [key.as_slice(), &[byte]].concat())
                })
                .collect();
            keys.extend(longer);
        }
        keys.sort();
        keys.dedup();
        keys
    }

    proptest! {
        #[test]
        fn range_algebra_agrees_with_sets_of_keys(a in range(), b in range()) {
            let universe = universe();
            let in_a: Vec<_> = universe.iter().filter(|key| a.contains(key)).collect();
            let in_b: Vec<_> = universe.iter().filter(|key| b.contains(key)).collect();
            let both: Vec<_> = in_a.iter().filter(|key| in_b.contains(key)).copied().collect();
            prop_assert_eq!(a.overlaps(&b), !both.is_empty());
            prop_assert_eq!(a.covers(&b), in_b.iter().all(|key| in_a.contains(key)));
            let meet = a.intersection(&b);
            let in_meet: Vec<_> = (universe.iter())
                .filter(|key| meet.as_ref().is_some_and(|meet| meet.contains(key)))
                .collect();
            prop_assert_eq!(in_meet, both);
        }
    }

    fn message() -> proto::Descriptor {
        proto::Descriptor {
            shard_id: 7,
            start: Bytes::from_static(b"a"),
            end: Bytes::from_static(b"b"),
            epoch: Some(proto::Epoch {
                membership: 2,
                range: 1,
            }),
            replicas: vec![
                proto::Replica {
                    replica_id: 1,
                    node_id: 3,
                    learner: false,
                },
                proto::Replica {
                    replica_id: 2,
                    node_id: 1,
                    learner: true,
                },
            ],
        }
    }

    #[test]
    fn descriptors_round_trip() {
        let descriptor = Descriptor::try_from(message()).unwrap();
        assert_eq!(proto::Descriptor::from(&descriptor), message());
        let conf_state = descriptor.conf_state();
        assert_eq!(conf_state.voters, [ReplicaId(1)]);
        assert_eq!(conf_state.learners, [ReplicaId(2)]);
    }

    #[test]
    fn broken_descriptors_are_refused() {
        let broken = |change: &dyn Fn(&mut proto::Descriptor)| {
            let mut message = message();
            change(&mut message);
            Descriptor::try_from(message).unwrap_err().to_string()
        };
        assert!(broken(&|m| m.shard_id = 0).contains("shard 0"));
        assert!(broken(&|m| m.epoch = None).contains("no epoch"));
        assert!(broken(&|m| m.end = m.start.clone()).contains("not above"));
        assert!(broken(&|m| m.end = vec![b'z'; 5000].into()).contains("5000 bytes"));
        assert!(broken(&|m| m.replicas[0].learner = true).contains("no voting"));
        assert!(broken(&|m| m.replicas[0].node_id = 1).contains("two replicas on node 1"));
        assert!(broken(&|m| m.replicas[0].replica_id = 2).contains("replica 2 twice"));
        assert!(broken(&|m| m.replicas[0].replica_id = u64::MAX).contains("reserved"));
        assert!(broken(&|m| m.replicas = vec![m.replicas[0]; 33]).contains("33 replicas"));
    }

    #[test]
    fn the_range_epoch_counts_first() {
        let epoch = |range, membership| Epoch { membership, range };
        assert!(epoch(2, 1).is_newer_than(epoch(1, 9)));
        assert!(epoch(1, 2).is_newer_than(epoch(1, 1)));
        assert!(!epoch(1, 1).is_newer_than(epoch(1, 1)));
    }
}
