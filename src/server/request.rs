//! What requests weigh, and what the metrics call them. The rules are in [`flotilla_shards::service`].

use bytes::Bytes;
use flotilla_metrics::Operation;
use flotilla_proto::v1::{self as proto, request, response};

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

/// The key that a request is about, or the first of several: of a scan the one at which it begins.
pub(super) fn first_key(kind: &request::Kind) -> Option<&Bytes> {
    use flotilla_proto::v1::operation;
    match kind {
        request::Kind::Get(get) => Some(&get.key),
        request::Kind::BatchGet(get) => get.keys.first(),
        request::Kind::Put(put) => Some(&put.key),
        request::Kind::Delete(delete) => Some(&delete.key),
        request::Kind::Scan(scan) if scan.reverse => Some(&scan.end),
        request::Kind::Scan(scan) => Some(&scan.start),
        request::Kind::Batch(batch) => {
            let condition = batch.conditions.first().map(|condition| &condition.key);
            let operation = batch.operations.first().and_then(|operation| {
                Some(match operation.kind.as_ref()? {
                    operation::Kind::Put(put) => &put.key,
                    operation::Kind::Delete(delete) => &delete.key,
                    operation::Kind::DeleteRange(delete) => &delete.start,
                })
            });
            operation.or(condition)
        }
        request::Kind::OpenSession(open) => Some(&open.key),
        request::Kind::CloseSession(close) => Some(&close.key),
    }
}

/// Bytes of keys and values.
pub(super) fn rows_bytes(rows: &[proto::Row]) -> usize {
    rows.iter().map(|row| row.key.len() + row.value.len()).sum()
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
