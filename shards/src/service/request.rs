//! What the kinds of requests have in common, over the rules of [`kv`](crate::kv): checks on the way in, routes, the
//! read itself, and the answer on the way out.

use bytes::Bytes;
use flotilla_proto::v1::{self as proto, command_answer, error::Code, request, response};

use super::{Route, Routes, error};
use crate::descriptor::{Descriptor, KeyRange};
use crate::ids::ShardId;
use crate::keys;
use crate::kv::read::{self, ReadError};
use crate::kv::request::{self as rules, Proposal, RequestError, RouteError};
use crate::kv::{ShardState, StateView, positions};
use crate::limits::Limits;

/// Whether the request becomes a command.
#[must_use]
pub fn is_write(kind: &request::Kind) -> bool {
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
#[must_use]
pub fn is_repeatable(kind: &request::Kind) -> bool {
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
#[must_use]
pub fn is_serializable(kind: &request::Kind) -> bool {
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
///
/// # Errors
/// What is wrong with it.
///
/// # Panics
/// On a read.
pub fn proposal(kind: &request::Kind, limits: &Limits) -> Result<Proposal, proto::Error> {
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
///
/// # Errors
/// Its keys lie in more than one shard, or in none that is known.
pub fn route_write(proposal: &Proposal, routes: &impl Routes) -> Result<Route, proto::Error> {
    let found = routes.with_map(|map| proposal.route(map).cloned());
    let descriptor = found.map_err(|error| {
        let code = match error {
            RouteError::Unknown { .. } => Code::Unavailable,
            RouteError::CrossShard { .. } => Code::CrossShard,
        };
        error::of(code, error.to_string())
    })?;
    Ok(routes.with_leader(descriptor))
}

/// The way to the meta shard, which holds keys of its own.
///
/// # Errors
/// The map does not know it.
pub fn route_meta(routes: &impl Routes) -> Result<Route, proto::Error> {
    let found = routes.with_map(|map| map.by_id(ShardId::META).cloned());
    let descriptor =
        found.ok_or_else(|| error::of(Code::Unavailable, "the meta shard is not known"))?;
    Ok(routes.with_leader(descriptor))
}

/// Checks a read.
///
/// # Errors
/// What is wrong with it.
///
/// # Panics
/// On a write.
pub fn check_read(kind: &request::Kind, limits: &Limits) -> Result<(), proto::Error> {
    match kind {
        request::Kind::Get(get) => {
            rules::get(get, limits).map_err(invalid)?;
            check_consistency(get.consistency)
        }
        request::Kind::BatchGet(get) => check_batch_get(get, limits),
        request::Kind::Scan(scan) => {
            rules::scan(scan, limits).map_err(invalid)?;
            check_consistency(scan.consistency)
        }
        _ => unreachable!("a write has no read"),
    }
}

/// The way of a read. A batched get goes by its first key, a scan by the edge where it begins.
///
/// # Errors
/// No shard is known there.
///
/// # Panics
/// On a write.
pub fn route_read(kind: &request::Kind, routes: &impl Routes) -> Result<Route, proto::Error> {
    match kind {
        request::Kind::Get(get) => route_key(&get.key, routes),
        request::Kind::BatchGet(get) => {
            route_key(get.keys.first().unwrap_or(&Bytes::new()), routes)
        }
        request::Kind::Scan(scan) => route_scan(scan, routes),
        _ => unreachable!("a write has no read"),
    }
}

fn unknown_key(key: &[u8]) -> proto::Error {
    let key = key.escape_ascii();
    error::of(
        Code::Unavailable,
        format!("no shard is known for the key \"{key}\""),
    )
}

/// The shard that holds `key`.
///
/// # Errors
/// The map has a gap there.
pub fn route_key(key: &[u8], routes: &impl Routes) -> Result<Route, proto::Error> {
    let found = routes.with_map(|map| map.lookup(key).cloned());
    let descriptor = found.ok_or_else(|| unknown_key(key))?;
    Ok(routes.with_leader(descriptor))
}

/// The shard in which a scan begins.
///
/// # Errors
/// The map has a gap there.
pub fn route_scan(scan: &proto::ScanRequest, routes: &impl Routes) -> Result<Route, proto::Error> {
    if !scan.reverse {
        return route_key(&scan.start, routes);
    }
    let found = routes.with_map(|map| map.lookup_before(&scan.end).cloned());
    let descriptor = found.ok_or_else(|| unknown_key(&scan.end))?;
    Ok(routes.with_leader(descriptor))
}

/// Checks a batched get.
///
/// # Errors
/// What is wrong with it.
pub fn check_batch_get(get: &proto::BatchGetRequest, limits: &Limits) -> Result<(), proto::Error> {
    rules::batch_get(get, limits).map_err(invalid)?;
    check_consistency(get.consistency)
}

/// Checks a scan and sets its number of rows, if it left that open.
///
/// # Errors
/// What is wrong with it.
pub fn check_scan(scan: &mut proto::ScanRequest, limits: &Limits) -> Result<(), proto::Error> {
    let page = rules::scan(scan, limits).map_err(invalid)?;
    scan.limit = u32::try_from(page.rows).unwrap_or(u32::MAX);
    check_consistency(scan.consistency)
}

/// The part of a scan that lies in a range; none if there is no such key.
#[must_use]
pub fn clip(scan: &proto::ScanRequest, range: &KeyRange) -> Option<proto::ScanRequest> {
    let wanted = KeyRange::new(scan.start.clone(), scan.end.clone()).ok()?;
    let part = wanted.intersection(range)?;
    Some(proto::ScanRequest {
        start: part.start().clone(),
        end: part.end().clone(),
        ..scan.clone()
    })
}

/// A batched get whose parts were small enough and whose whole is not.
#[must_use]
pub fn batch_get_too_large(bytes: usize, limits: &Limits) -> proto::Error {
    error::of(
        Code::InvalidArgument,
        format!(
            "the values of the asked keys have {bytes} bytes, more than the limit batch_get_bytes of {}: ask for fewer \
             keys at once",
            limits.batch_get_bytes
        ),
    )
}

/// What a shard is, as of a view: all that a read has to know, for the price of one row. How far it has come may be newer
/// than that row, see [`positions`].
///
/// # Errors
/// There is no replica, or it can't be read.
pub fn descriptor(view: &dyn StateView, shard: ShardId) -> Result<Descriptor, proto::Error> {
    let row = view
        .get(&keys::state(shard))
        .map_err(|error| internal(&error))?;
    let row = row.ok_or_else(|| error::not_leader(shard, None))?;
    let state = ShardState::decode(row).map_err(|error| internal(&error))?;
    Ok(state.descriptor)
}

/// A replica's own state, exactly, as of a view.
///
/// # Errors
/// There is none, or it can't be read.
pub fn shard_state(view: &dyn StateView, shard: ShardId) -> Result<ShardState, proto::Error> {
    let state = positions::shard_state(view, shard).map_err(|error| internal(&error))?;
    state.ok_or_else(|| error::not_leader(shard, None))
}

/// An error of this node, with its causes.
#[must_use]
pub fn internal(error: &dyn std::error::Error) -> proto::Error {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    error::of(Code::Internal, text)
}

/// Reads from a view. The shard's range is that of the view, not that of the route: an old route gives an error that
/// carries the newer descriptor, never an empty answer.
///
/// # Errors
/// See above; or the state can't be read, or is too large for one answer.
///
/// # Panics
/// On a write.
pub fn read(
    kind: &request::Kind,
    routed: &Descriptor,
    view: &dyn StateView,
    limits: &Limits,
) -> Result<response::Kind, proto::Error> {
    let descriptor = descriptor(view, routed.shard)?;
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

/// Makes a client's answer of the state machine's. `newest` is the newest description of the shard that is known.
///
/// # Errors
/// The state machine's refusal.
pub fn finish_write(
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
