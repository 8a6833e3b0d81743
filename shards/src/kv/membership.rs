//! What a membership entry does to a shard's description.
//!
//! A pure function, so that the two who need its outcome reach the same verdict apart from each other: the state machine,
//! which stores the new membership, and the engine, which tells Raft. An entry that cannot be applied changes nothing,
//! on every replica alike; Raft is then told of no change.

use crate::descriptor::{Descriptor, DescriptorError, Replica};
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

/// The replicas that `to` has and `from` has not.
#[must_use]
pub fn added<'a>(from: &Descriptor, to: &'a Descriptor) -> Vec<&'a Replica> {
    (to.replicas.iter())
        .filter(|replica| from.replica(replica.id).is_none())
        .collect()
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
