//! What a membership entry does to a shard's description.
//!
//! A pure function, so that whoever needs its outcome reaches the same verdict: every replica's state machine, which stores
//! the new membership, and an engine before it tells Raft. An entry that cannot be applied changes nothing.

use crate::descriptor::{Descriptor, DescriptorError};
use crate::raft::confchange::{Changer, ConfChangeAny, ConfChangeError, ConfChangeV2, DecodeError};
use crate::raft::tracker::ProgressTracker;
use crate::raft::{ConfState, Entry, Index, ReplicaId};
use flotilla_proto::v1 as proto;
use prost::Message as _;

/// Why a membership entry changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// The data are no change.
    #[error(transparent)]
    Encoding(#[from] DecodeError),
    /// The change does not fit the present membership.
    #[error(transparent)]
    Change(#[from] ConfChangeError),
    /// The context is not the description of the added replicas.
    #[error("the context of the membership change does not parse: {0}")]
    Context(#[from] prost::DecodeError),
    /// A new replica, and nothing says where it lives.
    #[error("the membership change adds replica {0} without naming its node in the context")]
    NodeUnknown(ReplicaId),
    /// The outcome is no legal shard.
    #[error(transparent)]
    Descriptor(#[from] DescriptorError),
}

/// The membership and the description that a membership entry leads to.
///
/// Replicas that are new to the shard must be named, with their nodes, in the replicas of a `Descriptor` that is the
/// change's context; all else in it is ignored.
///
/// # Errors
/// If the entry cannot be applied; nothing changes then.
pub fn apply(
    conf_state: &ConfState,
    descriptor: &Descriptor,
    entry: &Entry,
) -> Result<(ConfState, Descriptor), MembershipError> {
    let change = ConfChangeAny::decode(entry.kind, &entry.data)?.into_v2();
    let conf_state = changed(conf_state, &change)?;
    let named = proto::Descriptor::decode(change.context)?.replicas;
    // Through the message, so that the outcome is held against all rules for descriptors.
    let mut message = proto::Descriptor::from(descriptor);
    let learners = [&conf_state.learners, &conf_state.learners_next];
    let voters = [&conf_state.voters, &conf_state.voters_outgoing];
    let mut members: Vec<ReplicaId> = (voters.iter().chain(&learners))
        .flat_map(|list| list.iter().copied())
        .collect();
    members.sort_unstable();
    members.dedup();
    message.replicas.clear();
    for id in members {
        let known = descriptor.replica(id).map(|replica| replica.node.0);
        let node_id = known
            .or_else(|| {
                let named = named.iter().find(|named| named.replica_id == id.0);
                named.map(|named| named.node_id)
            })
            .ok_or(MembershipError::NodeUnknown(id))?;
        message.replicas.push(proto::Replica {
            replica_id: id.0,
            node_id,
            learner: voters.iter().all(|list| !list.contains(&id)),
        });
    }
    let mut descriptor = Descriptor::try_from(message)?;
    descriptor.epoch.membership += 1;
    Ok((conf_state, descriptor))
}

fn changed(conf_state: &ConfState, change: &ConfChangeV2) -> Result<ConfState, ConfChangeError> {
    // Progress is of no interest here; the changer wants some to carry over.
    let mut tracker = ProgressTracker::new(1, 0);
    let (config, progress) = Changer {
        tracker: &tracker,
        last_index: Index(0),
    }
    .restore(conf_state)?;
    tracker.config = config;
    tracker.progress = progress;
    let changer = Changer {
        tracker: &tracker,
        last_index: Index(0),
    };
    let (config, _) = if change.leave_joint() {
        changer.leave_joint()?
    } else if let Some(auto_leave) = change.enter_joint() {
        changer.enter_joint(auto_leave, &change.changes)?
    } else {
        changer.simple(&change.changes)?
    };
    Ok(config.conf_state())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::descriptor::{Epoch, KeyRange, Replica};
    use crate::ids::{NodeId, ShardId};
    use crate::raft::confchange::{ConfChangeKind, ConfChangeSingle, ConfChangeTransition};
    use crate::raft::{EntryKind, Term};
    use bytes::Bytes;

    fn shard() -> (ConfState, Descriptor) {
        let descriptor = Descriptor {
            shard: ShardId(2),
            range: KeyRange::all(),
            epoch: Epoch {
                membership: 1,
                range: 1,
            },
            replicas: (1..=3)
                .map(|n| Replica {
                    id: ReplicaId(n),
                    node: NodeId(n),
                    learner: false,
                })
                .collect(),
        };
        (descriptor.conf_state(), descriptor)
    }

    fn entry(changes: &[(ConfChangeKind, u64)], named: &[(u64, u64)]) -> Entry {
        let replica = |&(replica_id, node_id): &(u64, u64)| proto::Replica {
            replica_id,
            node_id,
            learner: false,
        };
        let context = proto::Descriptor {
            replicas: named.iter().map(replica).collect(),
            ..proto::Descriptor::default()
        };
        let change = ConfChangeAny::V2(ConfChangeV2 {
            transition: ConfChangeTransition::Auto,
            changes: (changes.iter())
                .map(|&(kind, id)| ConfChangeSingle {
                    kind,
                    id: ReplicaId(id),
                })
                .collect(),
            context: context.encode_to_vec().into(),
        });
        let (kind, data) = change.encode();
        Entry {
            term: Term(6),
            index: Index(6),
            kind,
            data,
        }
    }

    fn members(descriptor: &Descriptor) -> Vec<(u64, u64, bool)> {
        (descriptor.replicas.iter())
            .map(|replica| (replica.id.0, replica.node.0, replica.learner))
            .collect()
    }

    #[test]
    fn replicas_come_and_go() {
        let (conf_state, descriptor) = shard();
        let add = entry(&[(ConfChangeKind::AddLearnerNode, 4)], &[(4, 9)]);
        let (conf_state, descriptor) = apply(&conf_state, &descriptor, &add).unwrap();
        let voters = [(1, 1, false), (2, 2, false), (3, 3, false)];
        assert_eq!(
            members(&descriptor),
            [&voters[..], &[(4, 9, true)]].concat()
        );
        assert_eq!(descriptor.epoch.membership, 2);
        assert_eq!(descriptor.conf_state(), conf_state);

        // Replacing a voter goes through a joint configuration, of which both halves are members.
        let replace = [
            (ConfChangeKind::AddNode, 4),
            (ConfChangeKind::RemoveNode, 3),
        ];
        let (conf_state, descriptor) =
            apply(&conf_state, &descriptor, &entry(&replace, &[])).unwrap();
        assert_eq!(
            members(&descriptor),
            [&voters[..], &[(4, 9, false)]].concat()
        );
        let (conf_state, descriptor) = apply(&conf_state, &descriptor, &entry(&[], &[])).unwrap();
        assert_eq!(
            members(&descriptor),
            [(1, 1, false), (2, 2, false), (4, 9, false)]
        );
        assert_eq!(descriptor.conf_state(), conf_state);
        assert_eq!(descriptor.epoch.membership, 4);
    }

    #[test]
    fn what_cannot_be_applied_is_refused() {
        let (conf_state, descriptor) = shard();
        let refused = |entry: &Entry| apply(&conf_state, &descriptor, entry).unwrap_err();
        let nowhere = refused(&entry(&[(ConfChangeKind::AddNode, 4)], &[]));
        assert_eq!(nowhere, MembershipError::NodeUnknown(ReplicaId(4)));
        let taken = refused(&entry(&[(ConfChangeKind::AddNode, 4)], &[(4, 1)]));
        assert!(
            taken.to_string().contains("two replicas on node 1"),
            "{taken}"
        );
        let remove = |id| (ConfChangeKind::RemoveNode, id);
        let nobody = refused(&entry(&[remove(1), remove(2), remove(3)], &[]));
        assert!(matches!(nobody, MembershipError::Change(_)), "{nobody}");
        let noise = refused(&Entry {
            kind: EntryKind::ConfChange,
            data: Bytes::from_static(b"\xff"),
            ..Entry::default()
        });
        assert!(matches!(noise, MembershipError::Encoding(_)), "{noise}");
    }
}
