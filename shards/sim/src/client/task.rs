//! What clients want: one task at a time, each made of one or more requests.

use std::sync::Arc;

use bytes::Bytes;
use fastrand::Rng;
use flotilla_proto::v1::{
    self as proto, BatchRequest, Consistency, DeleteRequest, GetRequest, PutRequest, operation,
    request, response,
};
use flotilla_shards::range_map::RangeMap;

use super::Ended;
use crate::settings::Settings;

/// What a task does next.
pub(crate) enum Next {
    /// Ask for this.
    Ask(request::Kind),
    /// It is over.
    Over(End),
}

/// How a task ended.
#[derive(Clone, Debug)]
pub(crate) enum End {
    Ok(response::Kind),
    Failed,
    Unknown,
}

/// One task.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) key: Bytes,
    pub(crate) kind: request::Kind,
}

impl Task {
    /// After a request of it has ended; none at the beginning.
    pub(crate) fn advance(&mut self, ended: Option<Ended>) -> Next {
        match ended {
            None => Next::Ask(self.kind.clone()),
            Some(Ended::Answered(kind)) => Next::Over(End::Ok(kind)),
            Some(Ended::Failed) => Next::Over(End::Failed),
            Some(Ended::Unknown) => Next::Over(End::Unknown),
        }
    }
}

/// The key that decides on the shard of a batch.
pub(crate) fn first_key(batch: &BatchRequest) -> Bytes {
    let condition = batch.conditions.first().map(|condition| &condition.key);
    let operation = batch.operations.first().and_then(|operation| {
        Some(match operation.kind.as_ref()? {
            operation::Kind::Put(put) => &put.key,
            operation::Kind::Delete(delete) => &delete.key,
            operation::Kind::DeleteRange(range) => &range.start,
        })
    });
    condition.or(operation).cloned().unwrap_or_default()
}

/// What a client goes on asking for.
#[derive(Debug)]
pub(crate) struct Workload {
    client: usize,
    count: u64,
    keys: Vec<Bytes>,
}

impl Workload {
    pub(crate) fn new(
        client: usize,
        settings: &Settings,
        map: &Arc<RangeMap>,
        _: &mut Rng,
    ) -> Self {
        Self {
            client,
            count: 0,
            keys: keys(settings, map),
        }
    }

    pub(crate) fn next(&mut self, rng: &mut Rng) -> Task {
        self.count += 1;
        let key = self.keys[rng.usize(..self.keys.len())].clone();
        let kind = match rng.u8(..10) {
            0..5 => request::Kind::Put(PutRequest {
                key: key.clone(),
                value: format!("{}.{}", self.client, self.count).into(),
                session: None,
            }),
            5 => request::Kind::Delete(DeleteRequest {
                key: key.clone(),
                session: None,
            }),
            _ => request::Kind::Get(GetRequest {
                key: key.clone(),
                consistency: Consistency::Linearizable.into(),
            }),
        };
        Task { key, kind }
    }
}

/// Keys that hug the borders of shards: the first key of a shard and one just before it.
fn keys(settings: &Settings, map: &Arc<RangeMap>) -> Vec<Bytes> {
    let shards = map.shards();
    let mut keys = Vec::new();
    for at in 0..settings.keys {
        let shard = &shards[at * shards.len() / settings.keys.max(1) % shards.len()];
        let mut key = shard.range.start().to_vec();
        if at % 2 == 1 && !key.is_empty() {
            // The last byte is not 0 (see `even_split`): this lies just below.
            if let Some(last) = key.last_mut() {
                *last -= 1;
            }
            key.push(0xff);
        }
        if key.is_empty() || keys.iter().any(|known: &Bytes| known[..] == key[..]) {
            key.extend_from_slice(format!("k{at}").as_bytes());
        }
        keys.push(key.into());
    }
    keys
}

/// Revision that a write got.
pub(crate) fn revision(answer: &response::Kind) -> Option<u64> {
    match answer {
        response::Kind::Put(put) => Some(put.revision),
        response::Kind::Delete(delete) => Some(delete.revision),
        response::Kind::Get(proto::GetResponse { value, revision }) => {
            value.is_some().then_some(*revision)
        }
        _ => None,
    }
}
