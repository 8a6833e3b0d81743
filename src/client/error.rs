//! Why a request failed, what that means for what was written, and what to do next.

use std::time::Duration;

use flotilla_proto::v1;
use prost::Message as _;

/// The outcome of every call of this library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a request failed.
///
/// The first group comes from a node and mirrors `flotilla.v1.Error`; the second is found by the client itself. For a
/// write, [`Error::nothing_written`] says whether it is proven that the write had no effect.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// The request breaks a rule; sending it again cannot help.
    #[error("{message}")]
    InvalidArgument {
        /// Field, value and limit.
        message: String,
    },
    /// The asked replica does not lead.
    #[error("{message}")]
    NotLeader {
        /// What the node said.
        message: String,
        /// Node id of the leader as far as known, or 0.
        leader: u64,
    },
    /// The request was routed by an old view of the shard.
    #[error("{message}")]
    EpochMismatch {
        /// What the node said.
        message: String,
        /// The newer view, if the node had it.
        descriptor: Option<Box<v1::Descriptor>>,
    },
    /// Too much is in flight, at the node or in this process.
    #[error("busy: {message}")]
    Busy {
        /// Which bound was met.
        message: String,
        /// When it makes sense to try again.
        retry_after: Duration,
    },
    /// No leader or no quorum within the time.
    #[error("unavailable: {message}")]
    Unavailable {
        /// What the node was waiting for.
        message: String,
    },
    /// A write was sent, but whether it took effect is not known.
    #[error("the write may or may not have taken effect: {message}")]
    OutcomeUnknown {
        /// What happened to the last try.
        message: String,
    },
    /// The session does not exist or has expired.
    #[error("{message}")]
    SessionUnknown {
        /// What the node said.
        message: String,
    },
    /// The keys of a batch lie in more than one shard.
    #[error("{message}")]
    CrossShard {
        /// What the node said.
        message: String,
    },
    /// The node is not part of a cluster yet.
    #[error("{message}")]
    NotInitialized {
        /// What the node said.
        message: String,
    },
    /// The node is going down.
    #[error("{message}")]
    ShuttingDown {
        /// What the node said.
        message: String,
    },
    /// The cluster asks who calls, and was not told, or not credibly.
    #[error("not let in: {message}")]
    Unauthenticated {
        /// What the node said.
        message: String,
    },
    /// The caller may not do this.
    #[error("not allowed: {message}")]
    PermissionDenied {
        /// What is missing.
        message: String,
    },
    /// The node met an error of its own.
    #[error("the node reports an internal error: {message}")]
    Internal {
        /// What the node said.
        message: String,
    },

    /// There is no connection to the node; the request was not sent.
    #[error("cannot reach {address}: {reason}")]
    Unreachable {
        /// host:port.
        address: String,
        /// What the network said.
        reason: String,
    },
    /// The connection broke after the request was sent and before it was answered.
    #[error("connection to {address} lost before the answer came: {reason}")]
    ConnectionLost {
        /// host:port.
        address: String,
        /// What the network said.
        reason: String,
    },
    /// The deadline passed.
    #[error("no answer from {address} within the deadline{}", if *sent { "" } else { ": the request was never sent" })]
    DeadlineExceeded {
        /// host:port.
        address: String,
        /// Whether the request had left this process: if so, a write may have taken effect.
        sent: bool,
    },
    /// The node's answer breaks the protocol.
    #[error("answer of {address} does not fit the protocol: {message}")]
    Protocol {
        /// host:port.
        address: String,
        /// What was wrong.
        message: String,
    },
}

impl Error {
    /// Whether it is proven that a write that ended in this error had no effect. False means "not known".
    #[must_use]
    pub fn nothing_written(&self) -> bool {
        match self {
            Self::InvalidArgument { .. }
            | Self::NotLeader { .. }
            | Self::EpochMismatch { .. }
            | Self::Busy { .. }
            | Self::Unavailable { .. }
            | Self::SessionUnknown { .. }
            | Self::CrossShard { .. }
            | Self::NotInitialized { .. }
            | Self::ShuttingDown { .. }
            | Self::Unauthenticated { .. }
            | Self::PermissionDenied { .. }
            | Self::Unreachable { .. } => true,
            Self::DeadlineExceeded { sent, .. } => !sent,
            Self::OutcomeUnknown { .. }
            | Self::Internal { .. }
            | Self::ConnectionLost { .. }
            | Self::Protocol { .. } => false,
        }
    }

    /// Whether the same request may succeed later or at another node.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::NotLeader { .. }
            | Self::EpochMismatch { .. }
            | Self::Busy { .. }
            | Self::Unavailable { .. }
            | Self::OutcomeUnknown { .. }
            | Self::NotInitialized { .. }
            | Self::ShuttingDown { .. }
            | Self::Unreachable { .. }
            | Self::ConnectionLost { .. }
            | Self::DeadlineExceeded { .. } => true,
            Self::InvalidArgument { .. }
            | Self::SessionUnknown { .. }
            | Self::CrossShard { .. }
            | Self::Unauthenticated { .. }
            | Self::PermissionDenied { .. }
            | Self::Internal { .. }
            | Self::Protocol { .. } => false,
        }
    }

    /// A short name of the kind, for counting: one of a closed set.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::InvalidArgument { .. } => "invalid_argument",
            Self::NotLeader { .. } => "not_leader",
            Self::EpochMismatch { .. } => "epoch_mismatch",
            Self::Busy { .. } => "busy",
            Self::Unavailable { .. } => "unavailable",
            Self::OutcomeUnknown { .. } => "outcome_unknown",
            Self::SessionUnknown { .. } => "session_unknown",
            Self::CrossShard { .. } => "cross_shard",
            Self::NotInitialized { .. } => "not_initialized",
            Self::ShuttingDown { .. } => "shutting_down",
            Self::Unauthenticated { .. } => "unauthenticated",
            Self::PermissionDenied { .. } => "permission_denied",
            Self::Internal { .. } => "internal",
            Self::Unreachable { .. } => "unreachable",
            Self::ConnectionLost { .. } => "connection_lost",
            Self::DeadlineExceeded { .. } => "deadline_exceeded",
            Self::Protocol { .. } => "protocol",
        }
    }

    /// The form in which a node passes this error on to its own client. What this process found out about the other
    /// node becomes "unavailable" if it is proven that nothing was written or if `write` is false, else "outcome
    /// unknown".
    #[must_use]
    pub fn into_proto(self, write: bool) -> v1::Error {
        use v1::error::Code;
        let safe = !write || self.nothing_written();
        let text = self.to_string();
        let of = |code: Code, message: String| v1::Error {
            code: code.into(),
            message,
            ..v1::Error::default()
        };
        match self {
            Self::InvalidArgument { message } => of(Code::InvalidArgument, message),
            Self::NotLeader { message, leader } => v1::Error {
                leader,
                ..of(Code::NotLeader, message)
            },
            Self::EpochMismatch {
                message,
                descriptor,
            } => v1::Error {
                descriptor: descriptor.map(|boxed| *boxed),
                ..of(Code::EpochMismatch, message)
            },
            Self::Busy {
                message,
                retry_after,
            } => v1::Error {
                retry_after_ms: u32::try_from(retry_after.as_millis()).unwrap_or(u32::MAX),
                ..of(Code::Busy, message)
            },
            Self::Unavailable { message } => of(Code::Unavailable, message),
            Self::OutcomeUnknown { message } => of(Code::OutcomeUnknown, message),
            Self::SessionUnknown { message } => of(Code::SessionUnknown, message),
            Self::CrossShard { message } => of(Code::CrossShard, message),
            Self::NotInitialized { message } => of(Code::NotInitialized, message),
            Self::ShuttingDown { message } => of(Code::ShuttingDown, message),
            Self::Unauthenticated { message } => of(Code::Unauthenticated, message),
            Self::PermissionDenied { message } => of(Code::PermissionDenied, message),
            Self::Internal { message } => of(Code::Internal, message),
            Self::Unreachable { .. }
            | Self::ConnectionLost { .. }
            | Self::DeadlineExceeded { .. }
            | Self::Protocol { .. } => of(
                if safe {
                    Code::Unavailable
                } else {
                    Code::OutcomeUnknown
                },
                text,
            ),
        }
    }

    /// What a failed unary call means: the node's own error if the status carries one, else the transport's.
    #[must_use]
    pub fn from_status(address: &str, status: &tonic::Status) -> Self {
        if !status.details().is_empty()
            && let Ok(error) = v1::Error::decode(status.details())
            && error.code() != v1::error::Code::Unspecified
        {
            return error.into();
        }
        let reason = reason_of(status);
        match status.code() {
            tonic::Code::InvalidArgument | tonic::Code::OutOfRange => {
                Self::InvalidArgument { message: reason }
            }
            tonic::Code::Unavailable if never_connected(status) => Self::Unreachable {
                address: address.to_owned(),
                reason,
            },
            tonic::Code::DeadlineExceeded | tonic::Code::Cancelled => Self::DeadlineExceeded {
                address: address.to_owned(),
                sent: true,
            },
            tonic::Code::Unimplemented => Self::Protocol {
                address: address.to_owned(),
                message: format!("it does not serve this call ({reason}); is it a Flotilla node?"),
            },
            tonic::Code::Internal => Self::Internal { message: reason },
            _ => Self::ConnectionLost {
                address: address.to_owned(),
                reason,
            },
        }
    }
}

impl From<v1::Error> for Error {
    fn from(error: v1::Error) -> Self {
        use v1::error::Code;
        let code = error.code();
        let message = error.message;
        match code {
            Code::InvalidArgument => Self::InvalidArgument { message },
            Code::NotLeader => Self::NotLeader {
                message,
                leader: error.leader,
            },
            Code::EpochMismatch => Self::EpochMismatch {
                message,
                descriptor: error.descriptor.map(Box::new),
            },
            Code::Busy => Self::Busy {
                message,
                retry_after: Duration::from_millis(error.retry_after_ms.into()),
            },
            Code::Unavailable => Self::Unavailable { message },
            Code::OutcomeUnknown => Self::OutcomeUnknown { message },
            Code::SessionUnknown => Self::SessionUnknown { message },
            Code::CrossShard => Self::CrossShard { message },
            Code::NotInitialized => Self::NotInitialized { message },
            Code::ShuttingDown => Self::ShuttingDown { message },
            Code::Unauthenticated => Self::Unauthenticated { message },
            Code::PermissionDenied => Self::PermissionDenied { message },
            // A code of a later version says nothing about what was written: the cautious reading.
            Code::Internal | Code::Unspecified => Self::Internal { message },
        }
    }
}

/// The innermost cause: tonic wraps "connection refused" in several layers that say "transport error".
pub(crate) fn reason_of(status: &tonic::Status) -> String {
    let mut cause: &dyn std::error::Error = status;
    while let Some(source) = cause.source() {
        cause = source;
    }
    match cause.downcast_ref::<tonic::Status>() {
        Some(status) if status.message().is_empty() => status.code().to_string(),
        Some(status) => status.message().to_owned(),
        None => cause.to_string(),
    }
}

/// Whether the status stems from a connection that could not be made at all, so that no request can have left.
fn never_connected(status: &tonic::Status) -> bool {
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_codes() -> impl Iterator<Item = v1::error::Code> {
        (1..=13).map(|number| v1::error::Code::try_from(number).expect("codes 1 to 13 exist"))
    }

    #[test]
    fn a_node_error_survives_being_passed_on() {
        for code in all_codes() {
            let proto = v1::Error {
                code: code.into(),
                message: "why".to_owned(),
                retry_after_ms: if code == v1::error::Code::Busy { 7 } else { 0 },
                leader: if code == v1::error::Code::NotLeader {
                    3
                } else {
                    0
                },
                descriptor: (code == v1::error::Code::EpochMismatch).then(|| v1::Descriptor {
                    shard_id: 9,
                    ..v1::Descriptor::default()
                }),
                request_id: String::new(),
            };
            assert_eq!(
                Error::from(proto.clone()).into_proto(true),
                proto,
                "{code:?}"
            );
        }
    }

    #[test]
    fn a_lost_connection_is_harmless_for_reads_only() {
        let lost = Error::ConnectionLost {
            address: "n:1".to_owned(),
            reason: "reset".to_owned(),
        };
        assert_eq!(
            lost.clone().into_proto(true).code(),
            v1::error::Code::OutcomeUnknown
        );
        assert_eq!(lost.into_proto(false).code(), v1::error::Code::Unavailable);
        let unsent = Error::DeadlineExceeded {
            address: "n:1".to_owned(),
            sent: false,
        };
        assert_eq!(unsent.into_proto(true).code(), v1::error::Code::Unavailable);
    }

    #[test]
    fn a_status_with_details_becomes_the_error_in_them() {
        let proto = v1::Error {
            code: v1::error::Code::Busy.into(),
            message: "too much".to_owned(),
            retry_after_ms: 40,
            ..v1::Error::default()
        };
        let status = tonic::Status::with_details(
            tonic::Code::ResourceExhausted,
            "too much",
            proto.encode_to_vec().into(),
        );
        assert_eq!(
            Error::from_status("n:1", &status),
            Error::Busy {
                message: "too much".to_owned(),
                retry_after: Duration::from_millis(40)
            }
        );
    }

    #[test]
    fn an_unknown_code_is_never_taken_as_nothing_written() {
        let error = Error::from(v1::Error {
            code: 4711,
            ..v1::Error::default()
        });
        assert!(!error.nothing_written());
        assert!(!error.is_transient());
    }
}
