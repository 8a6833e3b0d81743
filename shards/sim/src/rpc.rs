//! Requests and answers between clients and nodes, and what a failed one proves.

use flotilla_proto::v1::{self as proto, error::Code, request, response};

use crate::queue::Micros;

/// Who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Party {
    /// A client, by its number.
    Client(usize),
    /// A node that passes a request on, by its index, and which start of it that was.
    Node(usize, u32),
}

/// A request on its way.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// Names the try for whoever asked.
    pub(crate) id: u64,
    pub(crate) from: Party,
    pub(crate) kind: request::Kind,
    /// Another node passed it on: it may not travel further.
    pub(crate) forwarded: bool,
    /// How long the asker waits.
    pub(crate) timeout: Micros,
}

/// The end of a try.
pub(crate) type Reply = Result<response::Kind, Failure>;

/// Why a try failed: the node's own word, or what was found out on the way. The node's client library has the same cases.
#[derive(Clone, Debug)]
pub(crate) enum Failure {
    /// The node answered so.
    Node(proto::Error),
    /// No connection: the request was not sent.
    Unreachable,
    /// The connection broke before the answer came.
    ConnectionLost,
    /// No answer in time.
    Late,
}

/// An error with a code and a short text.
pub(crate) fn error(code: Code, text: &str) -> proto::Error {
    proto::Error {
        code: code.into(),
        message: text.to_owned(),
        ..proto::Error::default()
    }
}

impl Failure {
    /// Whether it is proven that nothing was written, as `client::Error::nothing_written`.
    pub(crate) fn nothing_written(&self) -> bool {
        match self {
            Self::Node(error) => match error.code() {
                Code::InvalidArgument
                | Code::NotLeader
                | Code::EpochMismatch
                | Code::Busy
                | Code::Unavailable
                | Code::SessionUnknown
                | Code::CrossShard
                | Code::NotInitialized
                | Code::ShuttingDown => true,
                Code::OutcomeUnknown | Code::Internal | Code::Unspecified => false,
            },
            Self::Unreachable => true,
            Self::ConnectionLost | Self::Late => false,
        }
    }

    /// Whether another try may succeed, as `client::Error::is_transient`.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Node(error) => match error.code() {
                Code::NotLeader
                | Code::EpochMismatch
                | Code::Busy
                | Code::Unavailable
                | Code::OutcomeUnknown
                | Code::NotInitialized
                | Code::ShuttingDown => true,
                Code::InvalidArgument
                | Code::SessionUnknown
                | Code::CrossShard
                | Code::Internal
                | Code::Unspecified => false,
            },
            Self::Unreachable | Self::ConnectionLost | Self::Late => true,
        }
    }

    /// What a node passes on to its own client, as `client::Error::into_proto`.
    pub(crate) fn into_proto(self, write: bool) -> proto::Error {
        let safe = !write || self.nothing_written();
        match self {
            Self::Node(error) => error,
            Self::Unreachable | Self::ConnectionLost | Self::Late if safe => {
                error(Code::Unavailable, "the leader could not be asked")
            }
            Self::Unreachable | Self::ConnectionLost | Self::Late => {
                error(Code::OutcomeUnknown, "the leader's answer was lost")
            }
        }
    }
}

/// Whether the request becomes a command.
pub(crate) fn is_write(kind: &request::Kind) -> bool {
    match kind {
        request::Kind::Get(_) | request::Kind::BatchGet(_) | request::Kind::Scan(_) => false,
        request::Kind::Put(_)
        | request::Kind::Delete(_)
        | request::Kind::Batch(_)
        | request::Kind::OpenSession(_)
        | request::Kind::CloseSession(_) => true,
    }
}

/// Whether the request may be made twice with the effect of one.
pub(crate) fn is_repeatable(kind: &request::Kind) -> bool {
    match kind {
        request::Kind::Put(put) => put.session.is_some(),
        request::Kind::Delete(delete) => delete.session.is_some(),
        request::Kind::Batch(batch) => batch.session.is_some(),
        _ => true,
    }
}

/// Whether a read takes what the local replica has.
pub(crate) fn is_serializable(kind: &request::Kind) -> bool {
    let consistency = match kind {
        request::Kind::Get(get) => get.consistency,
        request::Kind::BatchGet(get) => get.consistency,
        request::Kind::Scan(scan) => scan.consistency,
        _ => return false,
    };
    consistency == i32::from(proto::Consistency::Serializable)
}
