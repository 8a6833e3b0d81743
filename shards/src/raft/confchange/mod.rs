//! Membership changes: what a change says, its encoding in log entries, and how it is applied to a configuration
//! (thesis 4, etcd `raftpb/confchange.go` and `confchange/`).
//!
//! Whether a change may enter the log now is the leader's business and is decided in `raft`.

mod changer;
mod codec;
mod text;

pub use changer::{Changer, ConfChangeError};
pub use codec::DecodeError;
pub use text::{ParseError, format_operations, parse_operations};

use super::types::ReplicaId;
use bytes::Bytes;

/// What one operation does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ConfChangeKind {
    /// Add a voter, or promote a learner.
    #[default]
    AddNode,
    /// Remove a voter or a learner.
    RemoveNode,
    /// No change of the membership; carries a context through the log.
    UpdateNode,
    /// Add a learner, or demote a voter.
    AddLearnerNode,
}

/// One operation on one replica. Id 0 is skipped when applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ConfChangeSingle {
    /// What to do.
    pub kind: ConfChangeKind,
    /// On whom.
    pub id: ReplicaId,
}

/// A change of one operation (etcd `ConfChange`, V1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfChange {
    /// The operation.
    pub change: ConfChangeSingle,
    /// Opaque bytes of the caller.
    pub context: Bytes,
}

/// How a [`ConfChangeV2`] is carried out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ConfChangeTransition {
    /// Directly if it is one operation, else through a joint configuration that is left automatically.
    #[default]
    Auto,
    /// Through a joint configuration that is left automatically.
    JointImplicit,
    /// Through a joint configuration that is left by another change.
    JointExplicit,
}

/// A change of any number of operations (etcd `ConfChangeV2`). Without operations, transition auto: leave the joint
/// configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfChangeV2 {
    /// How to get there.
    pub transition: ConfChangeTransition,
    /// What to do, in this order.
    pub changes: Vec<ConfChangeSingle>,
    /// Opaque bytes of the caller.
    pub context: Bytes,
}

impl ConfChangeV2 {
    /// `Some(auto_leave)` if the change goes through a joint configuration.
    #[must_use]
    pub fn enter_joint(&self) -> Option<bool> {
        let joint = self.transition != ConfChangeTransition::Auto || self.changes.len() > 1;
        joint.then_some(self.transition != ConfChangeTransition::JointExplicit)
    }

    /// Whether the change asks to leave the joint configuration.
    #[must_use]
    pub fn leave_joint(&self) -> bool {
        self.changes.is_empty() && self.transition == ConfChangeTransition::Auto
    }
}

impl From<ConfChange> for ConfChangeV2 {
    fn from(change: ConfChange) -> Self {
        Self {
            transition: ConfChangeTransition::Auto,
            changes: vec![change.change],
            context: change.context,
        }
    }
}

/// A change of either form, as proposed and as found in log entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfChangeAny {
    /// One operation.
    V1(ConfChange),
    /// Any number of operations.
    V2(ConfChangeV2),
}

impl ConfChangeAny {
    /// The general form.
    #[must_use]
    pub fn into_v2(self) -> ConfChangeV2 {
        match self {
            Self::V1(change) => change.into(),
            Self::V2(change) => change,
        }
    }
}

impl From<ConfChange> for ConfChangeAny {
    fn from(change: ConfChange) -> Self {
        Self::V1(change)
    }
}

impl From<ConfChangeV2> for ConfChangeAny {
    fn from(change: ConfChangeV2) -> Self {
        Self::V2(change)
    }
}
