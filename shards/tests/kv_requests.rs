//! What clients may ask for: every rule that a request can break, and which shard a legal one goes to.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use flotilla_proto::v1::{
    BatchGetRequest, BatchRequest, CloseSessionRequest, Condition, DeleteOperation,
    DeleteRangeOperation, DeleteRequest, GetRequest, OpenSessionRequest, Operation, PutOperation,
    PutRequest, ScanRequest, SessionRef, command, condition, operation,
};
use flotilla_shards::descriptor::Descriptor;
use flotilla_shards::genesis::{Genesis, Split};
use flotilla_shards::ids::ShardId;
use flotilla_shards::kv::request::{self, Proposal, RequestError, RouteError};
use flotilla_shards::kv::{Order, request::Proposal as P};
use flotilla_shards::limits::Limits;
use flotilla_shards::range_map::RangeMap;
use prost::Message as _;
use std::sync::Arc;

fn limits() -> Limits {
    Limits {
        key_bytes: 8,
        value_bytes: 16,
        batch_ops: 4,
        batch_bytes: 40,
        scan_rows: 10,
        ..Limits::default()
    }
}

fn b(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn put(key: &str, value: &str) -> Operation {
    let (key, value) = (b(key), b(value));
    Operation {
        kind: Some(operation::Kind::Put(PutOperation { key, value })),
    }
}

fn delete(key: &str) -> Operation {
    Operation {
        kind: Some(operation::Kind::Delete(DeleteOperation { key: b(key) })),
    }
}

fn delete_range(start: &str, end: &str) -> Operation {
    let (start, end) = (b(start), b(end));
    Operation {
        kind: Some(operation::Kind::DeleteRange(DeleteRangeOperation {
            start,
            end,
        })),
    }
}

fn exists(key: &str) -> Condition {
    Condition {
        key: b(key),
        test: Some(condition::Test::Exists(true)),
    }
}

fn batch(conditions: Vec<Condition>, operations: Vec<Operation>) -> Result<Proposal, RequestError> {
    let request = BatchRequest {
        conditions,
        operations,
        session: None,
    };
    Proposal::batch(request, &limits())
}

fn refusal<T: std::fmt::Debug>(result: Result<T, RequestError>) -> String {
    result.unwrap_err().to_string()
}

fn put_request(key: &str, value: &str, session: Option<SessionRef>) -> Result<P, RequestError> {
    let request = PutRequest {
        key: b(key),
        value: b(value),
        session,
    };
    Proposal::put(request, &limits())
}

#[test]
fn keys_and_values_are_bounded() {
    assert_eq!(
        refusal(put_request("", "v", None)),
        "key is empty or not set"
    );
    let long = "key has 9 bytes, the limit key_bytes is 8";
    assert_eq!(refusal(put_request("123456789", "v", None)), long);
    let value = refusal(put_request("k", "12345678901234567", None));
    assert_eq!(value, "value has 17 bytes, the limit value_bytes is 16");
    assert!(put_request("12345678", "1234567890123456", None).is_ok());
    assert!(put_request("k", "", None).is_ok());
    let key = b("123456789");
    let get = GetRequest {
        key: key.clone(),
        consistency: 0,
    };
    assert_eq!(refusal(request::get(&get, &limits())), long);
    let delete = DeleteRequest {
        key: key.clone(),
        session: None,
    };
    assert_eq!(refusal(Proposal::delete(delete, &limits())), long);
    let open = OpenSessionRequest { key };
    assert_eq!(refusal(Proposal::open_session(open, &limits())), long);
    let close = CloseSessionRequest {
        key: b("k"),
        shard_id: 2,
        number: 0,
    };
    assert_eq!(
        refusal(Proposal::close_session(close, &limits())),
        "number is empty or not set"
    );
}

#[test]
fn batches_are_bounded() {
    assert_eq!(
        refusal(batch(vec![], vec![])),
        "operations is empty or not set"
    );
    assert!(batch(vec![exists("a")], vec![]).is_ok(), "a mere check");
    let many = refusal(batch(
        vec![],
        (0..5).map(|n| delete(&format!("{n}"))).collect(),
    ));
    assert_eq!(many, "operations: 5 are too many, the limit batch_ops is 4");
    let many = refusal(batch((0..5).map(|_| exists("a")).collect(), vec![]));
    assert_eq!(many, "conditions: 5 are too many, the limit batch_ops is 4");
    let value = "1234567890123";
    let sum = [put("a", value), put("b", value)];
    assert!(batch(vec![exists("12345678")], sum.to_vec()).is_ok());
    let large = refusal(batch(
        vec![exists("12345678")],
        [&sum[..], &[put("c", "1234")]].concat(),
    ));
    assert_eq!(
        large,
        "keys and values of the batch have 41 bytes, the limit batch_bytes is 40"
    );
    let nested = refusal(batch(vec![], vec![delete("a"), put("", "v")]));
    assert_eq!(nested, "operations[1].put.key is empty or not set");
    let nested = refusal(batch(vec![exists("123456789")], vec![]));
    assert_eq!(
        nested,
        "conditions[0].key has 9 bytes, the limit key_bytes is 8"
    );
    assert_eq!(
        refusal(batch(vec![], vec![Operation { kind: None }])),
        "operations[0] is empty or not set"
    );
    let test = Condition {
        key: b("a"),
        test: None,
    };
    assert_eq!(
        refusal(batch(vec![test], vec![])),
        "conditions[0].test is empty or not set"
    );
    let range = refusal(batch(vec![], vec![delete_range("b", "b")]));
    assert_eq!(
        range,
        "operations[0].delete_range: the range end \"b\" is not above its start \"b\""
    );
    assert!(batch(vec![], vec![delete_range("", "")]).is_ok());
}

#[test]
fn an_operation_that_would_be_lost_is_refused() {
    let twice = refusal(batch(vec![], vec![put("a", "1"), delete("b"), delete("a")]));
    assert_eq!(twice, "operations 0 and 2 are both on key \"a\"");
    assert!(
        batch(
            vec![exists("a"), exists("a")],
            vec![delete_range("a", "b"), put("a", "1")]
        )
        .is_ok()
    );
}

#[test]
fn sequences_are_checked_against_each_other() {
    let session = |sequence, lowest_unacknowledged| {
        let session = SessionRef {
            shard_id: 2,
            number: 1,
            sequence,
            lowest_unacknowledged,
        };
        put_request("k", "v", Some(session))
    };
    for (sequence, lowest) in [
        (1, 0),
        (1, 1),
        (1024, 0),
        (1024, 1),
        (1025, 2),
        (u64::MAX, u64::MAX),
    ] {
        assert!(session(sequence, lowest).is_ok_and(|proposal| proposal.has_session()));
    }
    for (sequence, lowest) in [(0, 0), (1, 2), (1025, 1), (1025, 0), (u64::MAX, 0)] {
        let error = session(sequence, lowest).unwrap_err();
        assert_eq!(error, RequestError::Sequence { sequence, lowest });
    }
    let unnumbered = SessionRef {
        shard_id: 2,
        sequence: 1,
        ..SessionRef::default()
    };
    assert_eq!(
        refusal(put_request("k", "v", Some(unnumbered))),
        "session.number is empty or not set"
    );
}

#[test]
fn reads_are_bounded() {
    let keys = |keys: &[&str]| BatchGetRequest {
        keys: keys.iter().map(|key| b(key)).collect(),
        consistency: 0,
    };
    assert_eq!(
        refusal(request::batch_get(&keys(&[]), &limits())),
        "keys is empty or not set"
    );
    assert_eq!(
        refusal(request::batch_get(&keys(&["a", ""]), &limits())),
        "keys[1] is empty or not set"
    );
    let many = refusal(request::batch_get(&keys(&["a"; 5]), &limits()));
    assert_eq!(many, "keys: 5 are too many, the limit batch_ops is 4");
    let scan = |start: &str, end: &str, limit| {
        let request = ScanRequest {
            start: b(start),
            end: b(end),
            limit,
            reverse: true,
            ..ScanRequest::default()
        };
        request::scan(&request, &limits())
    };
    let page = scan("", "", 0).unwrap();
    assert_eq!((page.rows, page.order), (10, Order::Descending));
    assert_eq!(scan("a", "b", 3).unwrap().rows, 3);
    assert_eq!(
        refusal(scan("", "", 11)),
        "limit: 11 are too many, the limit scan_rows is 10"
    );
    let empty = "start and end: the range end \"a\" is not above its start \"b\"";
    assert_eq!(refusal(scan("b", "a", 0)), empty);
    assert_eq!(
        refusal(scan("123456789", "", 0)),
        "start has 9 bytes, the limit key_bytes is 8"
    );
}

/// Shards 2, 3 and 4, split at "g" and "p".
fn map() -> RangeMap {
    let nodes = (1..=3)
        .map(|n| flotilla_proto::v1::Node {
            node_id: 0,
            address: format!("host:{n}"),
            peer_address: String::new(),
            status_address: String::new(),
            store_id: Bytes::copy_from_slice(&[n; 16]),
        })
        .collect();
    let genesis = Genesis::plan([1; 16], nodes, &Split::At(vec![b("g"), b("p")]), 3, 0).unwrap();
    RangeMap::new(genesis.shards().map(Arc::new))
}

#[test]
fn a_batch_stays_within_one_shard() {
    let map = map();
    let route = |conditions: Vec<Condition>, operations: Vec<Operation>| {
        let proposal = batch(conditions, operations).unwrap();
        proposal
            .route(&map)
            .map(|descriptor: &Arc<Descriptor>| descriptor.shard)
    };
    assert_eq!(
        route(vec![exists("g")], vec![put("o", "v"), delete("h")]),
        Ok(ShardId(3))
    );
    assert_eq!(route(vec![], vec![delete_range("g", "p")]), Ok(ShardId(3)));
    assert_eq!(
        route(vec![], vec![delete_range("h", "")]),
        Ok(ShardId(3)),
        "to the end of the shard"
    );
    assert_eq!(route(vec![], vec![delete_range("q", "r")]), Ok(ShardId(4)));
    let crosses = |first: &str, shard, other: &str| {
        Err(RouteError::CrossShard {
            first: b(first),
            shard: ShardId(shard),
            other: b(other),
        })
    };
    assert_eq!(
        route(vec![exists("a")], vec![put("g", "v")]),
        crosses("a", 2, "g")
    );
    assert_eq!(
        route(vec![], vec![put("g", "v"), delete("p")]),
        crosses("g", 3, "p")
    );
    assert_eq!(
        route(vec![], vec![delete_range("h", "p\0")]),
        crosses("h", 3, "p\0")
    );
    assert_eq!(
        route(vec![], vec![put("z", "v"), delete_range("a", "b")]),
        crosses("z", 4, "a")
    );
    let proposal = batch(vec![], vec![delete("a")]).unwrap();
    assert_eq!(
        proposal.route(&RangeMap::default()),
        Err(RouteError::Unknown { key: b("a") })
    );
}

#[test]
fn a_proposal_becomes_a_command_of_its_epoch() {
    let command = put_request("k", "v", None).unwrap().into_command(9);
    assert_eq!(command.range_epoch, 9);
    let Some(command::Kind::Write(write)) = command.kind else {
        panic!("{command:?}");
    };
    assert_eq!(write.operations, [put("k", "v")]);
    let open = OpenSessionRequest { key: b("h") };
    let open = Proposal::open_session(open, &limits()).unwrap();
    assert_eq!(open.route(&map()).unwrap().shard, ShardId(3));
    assert!(!open.has_session());
}

/// The overheads that `limits` counts with are true, so that the largest legal batch fits into an entry.
#[test]
fn the_largest_batch_fits_into_an_entry() {
    use flotilla_shards::limits::{
        BATCH_BYTES_MAX, BATCH_OPS_MAX, ENVELOPE_OVERHEAD, ROW_OVERHEAD,
    };
    let share = BATCH_BYTES_MAX / BATCH_OPS_MAX / 2;
    let key = |n: usize| Bytes::from(format!("{n:04}").repeat(share / 4 / 2));
    let value = Bytes::from(vec![0; share / 2]);
    let conditions = (0..BATCH_OPS_MAX).map(|n| Condition {
        key: key(n),
        test: Some(condition::Test::ValueEquals(value.clone())),
    });
    let operations = (0..BATCH_OPS_MAX).map(|n| Operation {
        kind: Some(operation::Kind::Put(PutOperation {
            key: key(n),
            value: value.clone(),
        })),
    });
    let request = BatchRequest {
        conditions: conditions.collect(),
        operations: operations.collect(),
        session: Some(SessionRef {
            shard_id: u64::MAX,
            number: u64::MAX,
            sequence: u64::MAX,
            lowest_unacknowledged: u64::MAX,
        }),
    };
    let proposal = Proposal::batch(request, &Limits::default()).unwrap();
    let entry = flotilla_proto::v1::CommandBatch {
        time_ms: u64::MAX,
        commands: vec![proposal.into_command(u64::MAX)],
    };
    let bytes = entry.encoded_len();
    assert!(bytes > BATCH_BYTES_MAX);
    assert!(bytes <= BATCH_BYTES_MAX + 2 * BATCH_OPS_MAX * ROW_OVERHEAD + ENVELOPE_OVERHEAD);
}
