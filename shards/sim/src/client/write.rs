//! A write, plain or in a session. Sessions belong to shards: one is opened in each shard that the client writes to, when
//! it first writes there, as the node's `client::session` does.

use std::collections::BTreeMap;

use bytes::Bytes;
use flotilla_proto::v1::{
    BatchRequest, Condition, DeleteRequest, OpenSessionRequest, Operation, PutRequest, SessionRef,
    error::Code, request, response,
};
use flotilla_shards::ids::ShardId;
use flotilla_shards::range_map::RangeMap;

use super::Ended;
use crate::rpc::{self, Failure};

/// A write that finds its session forgotten is given a new one this often.
const REOPENINGS: u32 = 3;

/// A session in one shard.
#[derive(Clone, Copy, Debug)]
struct Opened {
    shard_id: u64,
    number: u64,
    next: u64,
}

/// The sessions of one client, by shard.
#[derive(Debug, Default)]
pub(crate) struct Sessions(BTreeMap<ShardId, Opened>);

/// What is written.
#[derive(Clone, Debug)]
pub(crate) enum What {
    Put(Bytes, Bytes),
    Delete(Bytes),
    Batch(Vec<Condition>, Vec<Operation>),
}

impl What {
    /// The key that decides on the shard.
    fn key(&self) -> Bytes {
        match self {
            Self::Put(key, _) | Self::Delete(key) => key.clone(),
            Self::Batch(conditions, operations) => super::task::first_key(conditions, operations),
        }
    }

    fn request(&self, session: Option<SessionRef>) -> request::Kind {
        match self.clone() {
            Self::Put(key, value) => request::Kind::Put(PutRequest {
                key,
                value,
                session,
            }),
            Self::Delete(key) => request::Kind::Delete(DeleteRequest { key, session }),
            Self::Batch(conditions, operations) => request::Kind::Batch(BatchRequest {
                conditions,
                operations,
                session,
            }),
        }
    }
}

/// What a write does next.
pub(crate) enum Progress {
    Ask(request::Kind),
    Over(Ended),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Write {
    what: What,
    in_session: bool,
    opening: bool,
    reopenings: u32,
}

impl Write {
    pub(crate) fn new(what: What, in_session: bool) -> Self {
        Self {
            what,
            in_session,
            opening: false,
            reopenings: 0,
        }
    }

    /// Its first request.
    pub(crate) fn begin(&mut self, sessions: &mut Sessions, map: &RangeMap) -> request::Kind {
        self.opening = false;
        if !self.in_session {
            return self.what.request(None);
        }
        let key = self.what.key();
        let shard = map.lookup(&key).map(|descriptor| descriptor.shard);
        let opened = shard.and_then(|shard| sessions.0.get_mut(&shard));
        let Some(opened) = opened else {
            self.opening = true;
            return request::Kind::OpenSession(OpenSessionRequest { key });
        };
        let sequence = opened.next;
        opened.next += 1;
        // One write at a time: everything before this one is acknowledged, or given up.
        self.what.request(Some(SessionRef {
            shard_id: opened.shard_id,
            number: opened.number,
            sequence,
            lowest_unacknowledged: sequence,
        }))
    }

    /// A request of it has ended.
    pub(crate) fn ended(
        &mut self,
        ended: Ended,
        sessions: &mut Sessions,
        map: &RangeMap,
    ) -> Progress {
        let shard = map
            .lookup(&self.what.key())
            .map(|descriptor| descriptor.shard);
        match ended {
            Ended::Answered(response::Kind::OpenSession(answer)) if self.opening => {
                if let Some(shard) = shard {
                    sessions.0.insert(
                        shard,
                        Opened {
                            shard_id: answer.shard_id,
                            number: answer.number,
                            next: 1,
                        },
                    );
                }
                Progress::Ask(self.begin(sessions, map))
            }
            // Nothing was written yet.
            Ended::Unknown if self.opening => Progress::Over(Ended::Failed(rpc::late())),
            Ended::Failed(Failure::Node(error))
                if error.code() == Code::SessionUnknown && self.reopenings < REOPENINGS =>
            {
                self.reopenings += 1;
                if let Some(shard) = shard {
                    sessions.0.remove(&shard);
                }
                Progress::Ask(self.begin(sessions, map))
            }
            ended => Progress::Over(ended),
        }
    }
}
