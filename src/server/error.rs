//! What the protocol's `Error` (made by [`flotilla_shards::service::error`]) is to gRPC and to the metrics: exhaustive maps.

use bytes::Bytes;
use flotilla_metrics::Outcome;
use flotilla_proto::v1::{self as proto, error::Code};
pub(super) use flotilla_shards::service::error::*;
use prost::Message as _;
use tonic::Status;

use super::trace::REQUEST_ID;
use crate::{router::RouteError, runtime::Busy};

/// The node is not part of a cluster.
pub(super) fn not_initialized() -> proto::Error {
    of(
        Code::NotInitialized,
        "this node is not part of a cluster yet: run `flotilla init` once, on any of its nodes",
    )
}

impl From<RouteError> for proto::Error {
    fn from(error: RouteError) -> Self {
        match error {
            RouteError::UnknownShard(_) => of(Code::InvalidArgument, error.to_string()),
            RouteError::TooManyWaiters => busy(error.to_string()),
        }
    }
}

impl From<Busy> for proto::Error {
    fn from(busy: Busy) -> Self {
        proto::Error {
            retry_after_ms: busy.retry_after_ms,
            ..of(Code::Busy, busy.to_string())
        }
    }
}

/// The gRPC status of an error; the whole of it is in the details. A request's id is in the metadata too.
pub(super) fn status(error: &proto::Error) -> Status {
    let code = match error.code() {
        Code::InvalidArgument | Code::CrossShard => tonic::Code::InvalidArgument,
        Code::NotLeader | Code::EpochMismatch | Code::SessionUnknown | Code::NotInitialized => {
            tonic::Code::FailedPrecondition
        }
        Code::Busy => tonic::Code::ResourceExhausted,
        Code::Unavailable | Code::ShuttingDown => tonic::Code::Unavailable,
        Code::OutcomeUnknown => tonic::Code::Unknown,
        Code::Unauthenticated => tonic::Code::Unauthenticated,
        Code::PermissionDenied => tonic::Code::PermissionDenied,
        Code::Internal | Code::Unspecified => tonic::Code::Internal,
    };
    let details = Bytes::from(error.encode_to_vec());
    let mut status = Status::with_details(code, error.message.clone(), details);
    if let Ok(id) = error.request_id.parse()
        && !error.request_id.is_empty()
    {
        status.metadata_mut().insert(REQUEST_ID, id);
    }
    status
}

/// The label of a result in the metrics.
pub(super) fn outcome<T>(result: &Result<T, proto::Error>) -> Outcome {
    let Err(error) = result else {
        return Outcome::Ok;
    };
    match error.code() {
        Code::InvalidArgument => Outcome::InvalidArgument,
        Code::NotLeader => Outcome::NotLeader,
        Code::EpochMismatch => Outcome::EpochMismatch,
        Code::Busy => Outcome::Busy,
        Code::Unavailable => Outcome::Unavailable,
        Code::OutcomeUnknown => Outcome::OutcomeUnknown,
        Code::SessionUnknown => Outcome::SessionUnknown,
        Code::CrossShard => Outcome::CrossShard,
        Code::NotInitialized => Outcome::NotInitialized,
        Code::ShuttingDown => Outcome::ShuttingDown,
        Code::Unauthenticated => Outcome::Unauthenticated,
        Code::PermissionDenied => Outcome::PermissionDenied,
        Code::Internal | Code::Unspecified => Outcome::Internal,
    }
}
