//! Every way in which a request can fail, as the protocol's `Error`.
//!
//! The rule behind it: a code promises something about what was written. Whatever can't prove that nothing was
//! written becomes "outcome unknown" for a write.

use std::time::Duration;

use flotilla_proto::v1::{self as proto, error::Code, refusal::Reason};

use crate::descriptor::Descriptor;
use crate::engine::Refused;
use crate::ids::{NodeId, ShardId};

/// When a client should come back if a bound of the server is met, in milliseconds.
const RETRY_AFTER_MS: u32 = 50;

/// An error with a code and a text.
#[must_use]
pub fn of(code: Code, message: impl Into<String>) -> proto::Error {
    proto::Error {
        code: code.into(),
        message: message.into(),
        ..proto::Error::default()
    }
}

/// The node is going down.
#[must_use]
pub fn shutting_down() -> proto::Error {
    of(
        Code::ShuttingDown,
        "this node is shutting down: ask another one",
    )
}

/// A bound is met.
#[must_use]
pub fn busy(message: impl Into<String>) -> proto::Error {
    proto::Error {
        retry_after_ms: RETRY_AFTER_MS,
        ..of(Code::Busy, message)
    }
}

/// The replica does not lead.
#[must_use]
pub fn not_leader(shard: ShardId, leader: Option<NodeId>) -> proto::Error {
    let message = match leader {
        Some(leader) => format!("shard {shard} is led by node {leader}"),
        None => format!("this node does not lead shard {shard} and knows no leader"),
    };
    proto::Error {
        leader: leader.unwrap_or_default().0,
        ..of(Code::NotLeader, message)
    }
}

/// The route was old.
#[must_use]
pub fn epoch_mismatch(descriptor: &Descriptor, detail: &str) -> proto::Error {
    proto::Error {
        descriptor: Some(descriptor.into()),
        ..of(Code::EpochMismatch, detail)
    }
}

/// No leader was known for the whole time.
#[must_use]
pub fn no_leader(shard: ShardId, waited: Duration) -> proto::Error {
    of(
        Code::Unavailable,
        format!(
            "shard {shard} had no reachable leader for {} ms: most of its replicas may be down or out of reach of this \
             node; nothing was done",
            waited.as_millis()
        ),
    )
}

/// A read was not confirmed in time.
#[must_use]
pub fn unconfirmed(shard: ShardId, waited: Duration) -> proto::Error {
    of(
        Code::Unavailable,
        format!(
            "shard {shard}: no quorum confirmed the read within {} ms; this node may be cut off from most replicas. A \
             serializable read is possible, and may be old",
            waited.as_millis()
        ),
    )
}

/// A write went out and no answer came in time.
#[must_use]
pub fn unanswered_write(shard: ShardId, waited: Duration) -> proto::Error {
    of(
        Code::OutcomeUnknown,
        format!(
            "shard {shard}: the write was handed to the leader, and no quorum confirmed it within {} ms; it may still \
             be applied",
            waited.as_millis()
        ),
    )
}

/// Why the engine ended a request, where that is final.
#[must_use]
pub fn refused(shard: ShardId, refused: Refused) -> proto::Error {
    match refused {
        Refused::NotLeader { leader } => not_leader(shard, leader),
        Refused::NoReplica { .. } => not_leader(shard, None),
        Refused::Busy => busy(format!("shard {shard} has too much in flight")),
        Refused::OutcomeUnknown => of(
            Code::OutcomeUnknown,
            format!(
                "shard {shard}: leadership changed after the write was appended; it may still be applied"
            ),
        ),
        Refused::Superseded => of(
            Code::Unavailable,
            format!(
                "shard {shard}: another leader's entry took the place of the write; it was not applied"
            ),
        ),
        Refused::Unconfirmed => of(
            Code::Unavailable,
            format!("shard {shard}: leadership could not be confirmed for the read"),
        ),
        Refused::State(refusal) => state_refusal(refusal, None),
    }
}

/// What the state machine refused. `descriptor` is the newest that is known of the shard.
#[must_use]
pub fn state_refusal(refusal: proto::Refusal, descriptor: Option<&Descriptor>) -> proto::Error {
    let code = match refusal.reason() {
        Reason::EpochMismatch | Reason::OutOfRange => Code::EpochMismatch,
        Reason::SessionUnknown => Code::SessionUnknown,
        Reason::TooManySessions => {
            return busy(refusal.detail);
        }
        Reason::SequenceOutOfWindow | Reason::TooManyKeys | Reason::Malformed => {
            Code::InvalidArgument
        }
        // A reason of a later version: it says that nothing was written, and no more.
        Reason::Unspecified => Code::Internal,
    };
    proto::Error {
        descriptor: descriptor
            .filter(|_| code == Code::EpochMismatch)
            .map(Into::into),
        ..of(code, refusal.detail)
    }
}

/// Whether it is proven that a write that ended in this error had no effect. False means "not known".
#[must_use]
pub fn nothing_written(code: Code) -> bool {
    match code {
        Code::InvalidArgument
        | Code::NotLeader
        | Code::EpochMismatch
        | Code::Busy
        | Code::Unavailable
        | Code::SessionUnknown
        | Code::CrossShard
        | Code::NotInitialized
        | Code::ShuttingDown
        | Code::Unauthenticated
        | Code::PermissionDenied => true,
        Code::OutcomeUnknown | Code::Internal | Code::Unspecified => false,
    }
}
