//! Requests and answers between clients and nodes, and what a failed one proves.

use flotilla_proto::v1::{error::Code, request, response};
pub(crate) use flotilla_shards::service::call::Failure;

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

/// Whether another try of a client may succeed, as `client::Error::is_transient`.
pub(crate) fn is_transient(failure: &Failure) -> bool {
    match failure {
        Failure::Node(error) => match error.code() {
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
            | Code::Unauthenticated
            | Code::PermissionDenied
            | Code::Internal
            | Code::Unspecified => false,
        },
        Failure::Unreachable(_) | Failure::ConnectionLost(_) | Failure::Late(_) => true,
    }
}

/// No answer came in time.
pub(crate) fn late() -> Failure {
    Failure::Late("no answer in time".to_owned())
}
