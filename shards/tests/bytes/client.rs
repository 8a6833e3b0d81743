//! A frame of a client: decoded, held against the limits, routed, proposed, applied; and its reads.

use crate::shard::{self, all_kinds, puts, session};
use flotilla_proto::v1::{
    BatchGetRequest, BatchRequest, CloseSessionRequest, CommandBatch, DeleteRequest, GetRequest,
    OpenSessionRequest, PutRequest, Request, ScanRequest, StreamRequest, request::Kind,
};
use flotilla_shards::kv::read;
use flotilla_shards::kv::request::{self, Proposal};
use flotilla_shards::limits::Limits;
use flotilla_shards::raft::EntryKind;
use flotilla_shards::range_map::RangeMap;
use prost::Message as _;
use std::sync::Arc;

pub(crate) fn run(data: &[u8]) {
    let Ok(frame) = StreamRequest::decode(data) else {
        return;
    };
    let limits = Limits::default();
    let (mut machine, mut rows) = shard::shard();
    let descriptor = machine.state().descriptor.clone();
    let map = RangeMap::new([Arc::new(descriptor.clone())]);
    for request in frame.requests {
        let proposal = match request.kind {
            None => continue,
            Some(Kind::Put(put)) => Proposal::put(put, &limits),
            Some(Kind::Delete(delete)) => Proposal::delete(delete, &limits),
            Some(Kind::Batch(batch)) => Proposal::batch(batch, &limits),
            Some(Kind::OpenSession(open)) => Proposal::open_session(open, &limits),
            Some(Kind::CloseSession(close)) => Proposal::close_session(close, &limits),
            Some(Kind::Get(get)) => {
                if request::get(&get, &limits).is_ok() {
                    read::get(&rows, &descriptor, &get.key).expect("the shard holds all keys");
                }
                continue;
            }
            Some(Kind::BatchGet(get)) => {
                if request::batch_get(&get, &limits).is_ok() {
                    let answers = read::batch_get(&rows, &descriptor, &get.keys, &limits);
                    assert_eq!(answers.expect("small values").len(), get.keys.len());
                }
                continue;
            }
            Some(Kind::Scan(scan)) => {
                if let Ok(page) = request::scan(&scan, &limits) {
                    let answer = read::scan(&rows, &descriptor, &page, &limits);
                    answer.expect("the shard holds all keys");
                }
                continue;
            }
        };
        let Ok(proposal) = proposal else {
            continue;
        };
        proposal.route(&map).expect("the shard holds all keys");
        // What passed the gate becomes exactly one command with exactly one answer.
        let command = proposal.into_command(descriptor.epoch.range);
        let batch = CommandBatch {
            time_ms: 3_000,
            commands: vec![command],
        };
        let entry = batch.encode_to_vec();
        let answers = shard::apply(&mut machine, &mut rows, EntryKind::Normal, &entry);
        assert_eq!(answers.expect("the state is sound"), 1);
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let (conditions, operations) = all_kinds();
    let kinds = [
        Kind::Get(GetRequest {
            key: "a".into(),
            consistency: 1,
        }),
        Kind::BatchGet(BatchGetRequest {
            keys: vec!["a".into(), "x".into()],
            consistency: 0,
        }),
        Kind::Put(PutRequest {
            key: "k".into(),
            value: "v".into(),
            session: Some(session(1)),
        }),
        Kind::Delete(DeleteRequest {
            key: "a".into(),
            session: None,
        }),
        Kind::Scan(ScanRequest {
            start: "a".into(),
            end: "z".into(),
            limit: 1,
            reverse: true,
            ..ScanRequest::default()
        }),
        Kind::Batch(BatchRequest {
            conditions,
            operations,
            session: Some(session(2)),
        }),
        Kind::Batch(BatchRequest {
            operations: puts(&["c", "d"]),
            ..BatchRequest::default()
        }),
        Kind::OpenSession(OpenSessionRequest { key: "k".into() }),
        Kind::CloseSession(CloseSessionRequest {
            key: "k".into(),
            shard_id: shard::SHARD.0,
            number: 1,
        }),
    ];
    let request = |kind: &Kind| Request {
        id: 7,
        kind: Some(kind.clone()),
        timeout_ms: 100,
        forwarded: false,
        ..Request::default()
    };
    let all = StreamRequest {
        requests: kinds.iter().map(request).collect(),
    };
    let mut seeds = vec![all.encode_to_vec()];
    for kind in &kinds {
        let requests = vec![request(kind)];
        seeds.push(StreamRequest { requests }.encode_to_vec());
    }
    seeds
}
