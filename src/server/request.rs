//! What the kinds of requests have in common, over the pure rules of [`flotilla_shards::kv`]: checks on the way in,
//! the read itself, and the answer on the way out.

use bytes::Bytes;
use flotilla_metrics::Operation;
use flotilla_proto::v1::{self as proto, command_answer, error::Code, request, response};
use flotilla_shards::{
    descriptor::{Descriptor, KeyRange},
    ids::ShardId,
    keys,
    kv::{
        ShardState, StateView,
        read::{self, ReadError},
        request::{self as rules, Proposal, RequestError, RouteError},
    },
    limits::Limits,
};

use super::error;
use crate::router::{Route, Router};

/// The label of a request in the metrics.
pub(super) fn operation(kind: &request::Kind) -> Operation {
    match kind {
        request::Kind::Get(_) => Operation::Get,
        request::Kind::BatchGet(_) => Operation::BatchGet,
        request::Kind::Put(_) => Operation::Put,
        request::Kind::Delete(_) => Operation::Delete,
        request::Kind::Scan(_) => Operation::Scan,
        request::Kind::Batch(_) => Operation::Batch,
        request::Kind::OpenSession(_) => Operation::OpenSession,
        request::Kind::CloseSession(_) => Operation::CloseSession,
    }
}

/// Whether the request becomes a command.
pub(super) fn is_write(kind: &request::Kind) -> bool {
    match kind {
        request::Kind::Get(_) | request::Kind::BatchGet(_) | request::Kind::Scan(_) => false,
        request::Kind::Put(_)
        | request::Kind::Delete(_)
        | request::Kind::Batch(_)
        | request::Kind::OpenSession(_)
        | request::Kind::CloseSession(_) => true,
    }
}

/// Whether the write may be proposed twice without being applied twice: it has a session, or closes one.
pub(super) fn is_repeatable(kind: &request::Kind) -> bool {
    match kind {
        request::Kind::Put(put) => put.session.is_some(),
        request::Kind::Delete(delete) => delete.session.is_some(),
        request::Kind::Batch(batch) => batch.session.is_some(),
        // A session that nobody got to know expires by itself.
        request::Kind::OpenSession(_) | request::Kind::CloseSession(_) => true,
        request::Kind::Get(_) | request::Kind::BatchGet(_) | request::Kind::Scan(_) => true,
    }
}

/// Whether a read takes what the local replica has.
pub(super) fn is_serializable(kind: &request::Kind) -> bool {
    let consistency = match kind {
        request::Kind::Get(get) => get.consistency,
        request::Kind::BatchGet(get) => get.consistency,
        request::Kind::Scan(scan) => scan.consistency,
        _ => return false,
    };
    consistency == i32::from(proto::Consistency::Serializable)
}

fn invalid(error: RequestError) -> proto::Error {
    error::of(Code::InvalidArgument, error.to_string())
}

fn check_consistency(consistency: i32) -> Result<(), proto::Error> {
    match proto::Consistency::try_from(consistency) {
        Ok(_) => Ok(()),
        Err(_) => Err(error::of(
            Code::InvalidArgument,
            format!("consistency is {consistency}, expected 0 (linearizable) or 1 (serializable)"),
        )),
    }
}

/// The checked command of a write.
pub(super) fn proposal(kind: &request::Kind, limits: &Limits) -> Result<Proposal, proto::Error> {
    match kind.clone() {
        request::Kind::Put(put) => Proposal::put(put, limits),
        request::Kind::Delete(delete) => Proposal::delete(delete, limits),
        request::Kind::Batch(batch) => Proposal::batch(batch, limits),
        request::Kind::OpenSession(open) => Proposal::open_session(open, limits),
        request::Kind::CloseSession(close) => Proposal::close_session(close, limits),
        request::Kind::Get(_) | request::Kind::BatchGet(_) | request::Kind::Scan(_) => {
            unreachable!("a read has no command")
        }
    }
    .map_err(invalid)
}

/// The way of a write.
pub(super) fn route_write(proposal: &Proposal, router: &Router) -> Result<Route, proto::Error> {
    let map = router.map();
    match proposal.route(&map) {
        Ok(descriptor) => Ok(router.with_leader(descriptor.clone())),
        Err(error @ RouteError::Unknown { .. }) => {
            Err(error::of(Code::Unavailable, error.to_string()))
        }
        Err(error @ RouteError::CrossShard { .. }) => {
            Err(error::of(Code::CrossShard, error.to_string()))
        }
    }
}

/// Checks a read, and finds its way. A batched get goes by its first key, a scan by the edge where it begins.
pub(super) fn route_read(
    kind: &request::Kind,
    router: &Router,
    limits: &Limits,
) -> Result<Route, proto::Error> {
    match kind {
        request::Kind::Get(get) => {
            rules::get(get, limits).map_err(invalid)?;
            check_consistency(get.consistency)?;
            Ok(router.route(&get.key)?)
        }
        request::Kind::BatchGet(get) => {
            check_batch_get(get, limits)?;
            Ok(router.route(get.keys.first().unwrap_or(&Bytes::new()))?)
        }
        request::Kind::Scan(scan) => {
            rules::scan(scan, limits).map_err(invalid)?;
            check_consistency(scan.consistency)?;
            route_scan(scan, router)
        }
        _ => unreachable!("a write has no read"),
    }
}

/// The shard in which a scan begins.
pub(super) fn route_scan(
    scan: &proto::ScanRequest,
    router: &Router,
) -> Result<Route, proto::Error> {
    Ok(if scan.reverse {
        router.route_before(&scan.end)?
    } else {
        router.route(&scan.start)?
    })
}

/// Checks a batched get.
pub(super) fn check_batch_get(
    get: &proto::BatchGetRequest,
    limits: &Limits,
) -> Result<(), proto::Error> {
    rules::batch_get(get, limits).map_err(invalid)?;
    check_consistency(get.consistency)
}

/// Checks a scan and sets its number of rows, if it left that open.
pub(super) fn check_scan(
    scan: &mut proto::ScanRequest,
    limits: &Limits,
) -> Result<(), proto::Error> {
    let page = rules::scan(scan, limits).map_err(invalid)?;
    scan.limit = u32::try_from(page.rows).unwrap_or(u32::MAX);
    check_consistency(scan.consistency)
}

/// The part of a scan that lies in a range; none if there is no such key.
pub(super) fn clip(scan: &proto::ScanRequest, range: &KeyRange) -> Option<proto::ScanRequest> {
    let wanted = KeyRange::new(scan.start.clone(), scan.end.clone()).ok()?;
    let part = wanted.intersection(range)?;
    Some(proto::ScanRequest {
        start: part.start().clone(),
        end: part.end().clone(),
        ..scan.clone()
    })
}

/// Bytes of keys and values.
pub(super) fn rows_bytes(rows: &[proto::Row]) -> usize {
    rows.iter().map(|row| row.key.len() + row.value.len()).sum()
}

/// A batched get whose parts were small enough and whose whole is not.
pub(super) fn batch_get_too_large(bytes: usize, limits: &Limits) -> proto::Error {
    error::of(
        Code::InvalidArgument,
        format!(
            "the values of the asked keys have {bytes} bytes, more than the limit batch_get_bytes of {}: ask for fewer \
             keys at once",
            limits.batch_get_bytes
        ),
    )
}

/// A replica's own state, as of a view.
pub(super) fn shard_state(
    view: &dyn StateView,
    shard: ShardId,
) -> Result<ShardState, proto::Error> {
    let row = view
        .get(&keys::state(shard))
        .map_err(|error| internal(&error))?;
    let row = row.ok_or_else(|| error::not_leader(shard, None))?;
    ShardState::decode(row).map_err(|error| internal(&error))
}

/// An error of this node, with its cause.
pub(super) fn internal(error: &dyn std::error::Error) -> proto::Error {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    tracing::error!(error = text, "a request met an error of this node");
    error::of(Code::Internal, text)
}

/// Reads from a view. The shard's range is that of the view, not that of the route: an old route gives an error that
/// carries the newer descriptor, never an empty answer.
pub(super) fn read(
    kind: &request::Kind,
    routed: &Descriptor,
    view: &dyn StateView,
    limits: &Limits,
) -> Result<response::Kind, proto::Error> {
    let descriptor = shard_state(view, routed.shard)?.descriptor;
    let answer = match kind {
        request::Kind::Get(get) => read::get(view, &descriptor, &get.key).map(response::Kind::Get),
        request::Kind::BatchGet(get) => read::batch_get(view, &descriptor, &get.keys, limits)
            .map(|results| response::Kind::BatchGet(proto::BatchGetResponse { results })),
        request::Kind::Scan(scan) => {
            let page = rules::scan(scan, limits).map_err(invalid)?;
            read::scan(view, &descriptor, &page, limits).map(response::Kind::Scan)
        }
        _ => unreachable!("a write has no read"),
    };
    answer.map_err(|failure| match failure {
        ReadError::View(_) | ReadError::Value(_) => internal(&failure),
        ReadError::OutOfRange { .. } => error::epoch_mismatch(&descriptor, &failure.to_string()),
        ReadError::TooLarge { .. } => error::of(Code::InvalidArgument, failure.to_string()),
    })
}

/// Bytes of keys and values that a read found.
pub(super) fn read_bytes(answer: &response::Kind) -> u64 {
    let value = |got: &proto::GetResponse| got.value.as_ref().map_or(0, Bytes::len);
    let bytes = match answer {
        response::Kind::Get(got) => value(got),
        response::Kind::BatchGet(got) => got.results.iter().map(value).sum(),
        response::Kind::Scan(page) => rows_bytes(&page.rows),
        _ => 0,
    };
    bytes as u64
}

/// What an answer weighs in a message, roughly.
pub(super) fn response_bytes(response: &proto::Response) -> usize {
    const FIXED: usize = 32;
    let rows = match &response.kind {
        Some(response::Kind::BatchGet(got)) => got.results.len(),
        Some(response::Kind::Scan(page)) => page.rows.len(),
        _ => 0,
    };
    let payload = response.kind.as_ref().map_or(0, read_bytes);
    FIXED * (rows + 1) + usize::try_from(payload).unwrap_or(usize::MAX)
}

/// Makes a client's answer of the state machine's. `newest` is the newest description of the shard that is known.
pub(super) fn finish_write(
    kind: &request::Kind,
    shard: ShardId,
    answer: proto::CommandAnswer,
    newest: Option<&Descriptor>,
) -> Result<response::Kind, proto::Error> {
    use command_answer::Kind as Answer;
    match (kind, answer.kind) {
        (_, Some(Answer::Refused(refusal))) => Err(error::state_refusal(refusal, newest)),
        (request::Kind::Put(_), Some(Answer::Write(write))) => {
            Ok(response::Kind::Put(proto::PutResponse {
                revision: write.revision,
            }))
        }
        (request::Kind::Delete(_), Some(Answer::Write(write))) => {
            Ok(response::Kind::Delete(proto::DeleteResponse {
                revision: write.revision,
                deleted: write.deleted > 0,
            }))
        }
        (request::Kind::Batch(_), Some(Answer::Write(write))) => {
            Ok(response::Kind::Batch(proto::BatchResponse {
                succeeded: write.succeeded,
                revision: write.revision,
                deleted: write.deleted,
                failed_condition: write.failed_condition,
            }))
        }
        (request::Kind::OpenSession(_), Some(Answer::SessionOpened(number))) => {
            Ok(response::Kind::OpenSession(proto::OpenSessionResponse {
                shard_id: shard.0,
                number,
            }))
        }
        (request::Kind::CloseSession(_), Some(Answer::SessionClosed(_))) => {
            Ok(response::Kind::CloseSession(proto::CloseSessionResponse {}))
        }
        // A stored answer of a session whose number of a write was used again for another kind of request.
        (_, Some(_)) => Err(error::of(
            Code::InvalidArgument,
            "the session's sequence was used before, for another kind of request",
        )),
        (_, None) => Err(error::of(
            Code::Internal,
            "the state machine's answer is empty",
        )),
    }
}
