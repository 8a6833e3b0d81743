//! Single requests to one node that leads everything.

use std::time::Duration;

use flotilla_metrics::{Operation, Outcome};
use flotilla_proto::v1::{self as proto, condition, error::Code, operation};
use flotilla_shards::{
    engine::Refused,
    ids::{NodeId, ShardId},
    limits::Limits,
};
use tonic::Status;

use super::super::{ServiceOptions, kv::routes};
use super::fake::{Act, Bounds, Node, detail, single};

fn put(key: &str, value: &str) -> proto::PutRequest {
    proto::PutRequest {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        session: None,
    }
}

fn get(key: &str) -> proto::GetRequest {
    proto::GetRequest {
        key: key.to_owned().into(),
        consistency: 0,
    }
}

fn scan(start: &str, end: &str) -> proto::ScanRequest {
    proto::ScanRequest {
        start: start.to_owned().into(),
        end: end.to_owned().into(),
        ..proto::ScanRequest::default()
    }
}

fn put_operation(key: &str, value: &str) -> proto::Operation {
    proto::Operation {
        kind: Some(operation::Kind::Put(proto::PutOperation {
            key: key.to_owned().into(),
            value: value.to_owned().into(),
        })),
    }
}

async fn error_of(node: &Node, key: &str) -> (Status, proto::Error) {
    let status = node
        .kv()
        .await
        .put(put(key, "v"))
        .await
        .expect_err("the put fails");
    let error = detail(&status);
    (status, error)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_operation_answers() {
    let node = single(Bounds::default()).await;
    let mut kv = node.kv().await;
    let first = kv.put(put("a", "1")).await.expect("put").into_inner();
    let second = kv.put(put("a", "2")).await.expect("put").into_inner();
    assert!(second.revision > first.revision);

    let got = kv.get(get("a")).await.expect("get").into_inner();
    assert_eq!(got.value.as_deref(), Some(&b"2"[..]));
    assert_eq!(got.revision, second.revision);
    let missing = kv.get(get("b")).await.expect("get").into_inner();
    assert_eq!(missing.value, None);

    let swap = |expected: &str| proto::BatchRequest {
        conditions: vec![proto::Condition {
            key: "a".into(),
            test: Some(condition::Test::ValueEquals(expected.to_owned().into())),
        }],
        operations: vec![put_operation("a", "3"), put_operation("b", "4")],
        session: None,
    };
    let failed = kv.batch(swap("1")).await.expect("batch").into_inner();
    assert!(!failed.succeeded);
    assert_eq!(failed.failed_condition, 0);
    let done = kv.batch(swap("2")).await.expect("batch").into_inner();
    assert!(done.succeeded);

    let delete = proto::DeleteRequest {
        key: "a".into(),
        session: None,
    };
    let deleted = kv
        .delete(delete.clone())
        .await
        .expect("delete")
        .into_inner();
    assert!(deleted.deleted);
    let again = kv.delete(delete).await.expect("delete").into_inner();
    assert!(!again.deleted);

    let answered = |operation, outcome| node.metrics.requests.of(operation, outcome).get();
    assert_eq!(answered(Operation::Put, Outcome::Ok), 2);
    assert_eq!(answered(Operation::Delete, Outcome::Ok), 2);
    assert_eq!(answered(Operation::Batch, Outcome::Ok), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retried_write_of_a_session_gets_its_first_answer() {
    let node = single(Bounds::default()).await;
    let mut kv = node.kv().await;
    let open = proto::OpenSessionRequest { key: "a".into() };
    let session = kv.open_session(open).await.expect("open").into_inner();
    assert_eq!(session.shard_id, 2);
    let write = proto::PutRequest {
        session: Some(proto::SessionRef {
            shard_id: session.shard_id,
            number: session.number,
            sequence: 1,
            lowest_unacknowledged: 1,
        }),
        ..put("a", "1")
    };
    let first = kv.put(write.clone()).await.expect("put").into_inner();
    kv.put(put("a", "other")).await.expect("put");
    let again = kv.put(write.clone()).await.expect("put").into_inner();
    assert_eq!(again.revision, first.revision);
    let got = kv.get(get("a")).await.expect("get").into_inner();
    assert_eq!(got.value.as_deref(), Some(&b"other"[..]), "applied once");

    let close = proto::CloseSessionRequest {
        key: "a".into(),
        shard_id: session.shard_id,
        number: session.number,
    };
    kv.close_session(close).await.expect("close");
    let status = kv.put(write).await.expect_err("the session is closed");
    assert_eq!(detail(&status).code(), Code::SessionUnknown);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scans_and_batched_gets_cross_shards() {
    let node = single(Bounds::default()).await;
    let mut kv = node.kv().await;
    for key in ["a", "b", "l", "m", "n", "z"] {
        kv.put(put(key, &key.to_uppercase())).await.expect("put");
    }
    let keys = |page: &proto::ScanResponse| {
        let keys = page
            .rows
            .iter()
            .map(|row| row.key.escape_ascii().to_string());
        keys.collect::<Vec<_>>().concat()
    };
    let page = kv.scan(scan("", "")).await.expect("scan").into_inner();
    assert_eq!((keys(&page).as_str(), page.next), ("ablmnz", None));
    let page = kv.scan(scan("b", "n")).await.expect("scan").into_inner();
    assert_eq!((keys(&page).as_str(), page.next), ("blm", None));

    for (reverse, expected) in [(false, "ablmnz"), (true, "znmlba")] {
        for limit in 1..=6 {
            let mut request = proto::ScanRequest {
                limit,
                reverse,
                keys_only: true,
                ..scan("", "")
            };
            let mut seen = String::new();
            loop {
                let page = kv.scan(request.clone()).await.expect("scan").into_inner();
                assert!(page.rows.len() <= limit as usize);
                assert!(page.rows.iter().all(|row| row.value.is_empty()));
                seen += &keys(&page);
                match page.next {
                    None => break,
                    Some(next) if reverse => request.end = next,
                    Some(next) => request.start = next,
                }
            }
            assert_eq!(seen, expected, "pages of {limit}");
        }
    }

    let request = proto::BatchGetRequest {
        keys: ["z", "a", "nothing", "m"].map(Into::into).to_vec(),
        consistency: 0,
    };
    let got = kv.batch_get(request).await.expect("batch get").into_inner();
    let values: Vec<Option<&[u8]>> = got.results.iter().map(|got| got.value.as_deref()).collect();
    assert_eq!(values, [Some(&b"Z"[..]), Some(b"A"), None, Some(b"M")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_requests_name_field_value_and_limit_and_write_nothing() {
    let limits = Limits {
        key_bytes: 8,
        value_bytes: 16,
        batch_get_bytes: 20,
        ..Limits::default()
    };
    let bounds = Bounds {
        limits,
        ..Bounds::default()
    };
    let node = single(bounds).await;
    let mut kv = node.kv().await;
    let expect = |status: Status, code: Code, text: &str| {
        assert_eq!(detail(&status).code(), code, "{status}");
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        assert!(status.message().contains(text), "{status} lacks {text:?}");
    };
    let status = kv.put(put("far too long", "v")).await.expect_err("key");
    expect(
        status,
        Code::InvalidArgument,
        "key has 12 bytes, the limit key_bytes is 8",
    );
    let status = kv
        .put(put("k", "a value of 19 bytes"))
        .await
        .expect_err("value");
    expect(
        status,
        Code::InvalidArgument,
        "value has 19 bytes, the limit value_bytes is 16",
    );
    let status = kv.put(put("", "v")).await.expect_err("no key");
    expect(status, Code::InvalidArgument, "key is empty");
    let status = kv.get(get("far too long")).await.expect_err("key");
    expect(status, Code::InvalidArgument, "12 bytes");
    let status = kv.scan(scan("b", "a")).await.expect_err("no range");
    expect(status, Code::InvalidArgument, "start and end");
    let odd = proto::GetRequest {
        consistency: 9,
        ..get("a")
    };
    let status = kv.get(odd).await.expect_err("no such consistency");
    expect(status, Code::InvalidArgument, "consistency is 9");
    let batch = proto::BatchRequest {
        operations: vec![put_operation("a", "1"), put_operation("z", "2")],
        ..proto::BatchRequest::default()
    };
    let status = kv.batch(batch).await.expect_err("two shards");
    expect(status, Code::CrossShard, "must stay within one shard");
    assert_eq!(node.machine.submitted(), 0);

    for key in ["a", "z"] {
        kv.put(put(key, "12 bytes ...")).await.expect("put");
    }
    let request = proto::BatchGetRequest {
        keys: vec!["a".into(), "z".into()],
        consistency: 0,
    };
    let status = kv.batch_get(request).await.expect_err("too large");
    expect(status, Code::InvalidArgument, "24 bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_of_the_engine_become_errors_of_the_protocol() {
    let options = ServiceOptions {
        default_timeout: Duration::from_millis(300),
        ..ServiceOptions::default()
    };
    let bounds = Bounds {
        options,
        ..Bounds::default()
    };
    let node = single(bounds).await;

    node.machine.script([Act::Refuse(Refused::OutcomeUnknown)]);
    let (status, error) = error_of(&node, "a").await;
    assert_eq!(error.code(), Code::OutcomeUnknown);
    assert_eq!(status.code(), tonic::Code::Unknown);
    assert_eq!(node.machine.submitted(), 1, "never tried again");

    node.machine.script([Act::Busy]);
    let (status, error) = error_of(&node, "a").await;
    assert_eq!((error.code(), error.retry_after_ms), (Code::Busy, 77));
    assert_eq!(status.code(), tonic::Code::ResourceExhausted);

    node.machine.script([Act::Refuse(Refused::Busy)]);
    let (_, error) = error_of(&node, "a").await;
    assert_eq!(error.code(), Code::Busy);
    assert!(error.retry_after_ms > 0);

    node.machine.script([Act::Drop]);
    let (_, error) = error_of(&node, "a").await;
    assert_eq!(error.code(), Code::OutcomeUnknown);
    node.machine.script([Act::Drop]);
    let status = node.kv().await.get(get("a")).await.expect_err("no answer");
    assert_eq!(detail(&status).code(), Code::ShuttingDown);

    // No answer at all.
    node.machine.script([Act::Keep]);
    let (_, error) = error_of(&node, "a").await;
    assert_eq!(error.code(), Code::OutcomeUnknown);
    assert!(
        error.message.contains("may still be applied"),
        "{}",
        error.message
    );
    node.machine.script([Act::Keep]);
    let status = node.kv().await.get(get("a")).await.expect_err("no answer");
    assert_eq!(detail(&status).code(), Code::Unavailable);
    assert!(status.message().contains("no quorum confirmed"), "{status}");

    // The overwritten write was not applied: it is tried again.
    let before = node.machine.submitted();
    node.machine.script([Act::Refuse(Refused::Superseded)]);
    node.kv().await.put(put("a", "v")).await.expect("put");
    assert_eq!(node.machine.submitted(), before + 2);

    // The leader stepped down and a new one is not known for the whole time.
    node.leader(2, None);
    let (status, error) = error_of(&node, "a").await;
    assert_eq!(error.code(), Code::Unavailable);
    assert_eq!(status.code(), tonic::Code::Unavailable);
    assert!(error.message.contains("shard 2 had no reachable leader"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sessions_write_goes_on_after_an_unknown_outcome() {
    let node = single(Bounds::default()).await;
    let mut kv = node.kv().await;
    let open = proto::OpenSessionRequest { key: "a".into() };
    let session = kv.open_session(open).await.expect("open").into_inner();
    let write = proto::PutRequest {
        session: Some(proto::SessionRef {
            shard_id: session.shard_id,
            number: session.number,
            sequence: 1,
            lowest_unacknowledged: 1,
        }),
        ..put("a", "1")
    };
    node.machine.script([Act::ApplyAndForget]);
    let first = kv.put(write.clone()).await.expect("put").into_inner();
    let again = kv.put(write).await.expect("put").into_inner();
    assert_eq!(first.revision, again.revision);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_held_during_an_election_and_then_served() {
    let node = single(Bounds::default()).await;
    node.machine
        .script([Act::Refuse(Refused::NotLeader { leader: None })]);
    node.leader(2, None);
    let mut kv = node.kv().await;
    let held = tokio::spawn(async move { kv.put(put("a", "1")).await });
    let holding = async {
        while node.metrics.held.get() == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), holding)
        .await
        .expect("the request is held");
    assert_eq!(node.machine.submitted(), 0);
    node.leader(2, Some(1));
    held.await.expect("a task").expect("put");
    assert_eq!(
        node.machine.submitted(),
        2,
        "also the refused try was repeated"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serializable_reads_need_no_quorum() {
    let options = ServiceOptions {
        default_timeout: Duration::from_millis(200),
        ..ServiceOptions::default()
    };
    let bounds = Bounds {
        options,
        ..Bounds::default()
    };
    let node = single(bounds).await;
    let mut kv = node.kv().await;
    kv.put(put("a", "1")).await.expect("put");
    node.leader(2, None);
    node.machine
        .script((0..100).map(|_| Act::Refuse(Refused::Unconfirmed)));
    let status = kv.get(get("a")).await.expect_err("no quorum");
    assert_eq!(detail(&status).code(), Code::Unavailable);
    assert!(
        status.message().contains("A serializable read is possible"),
        "{status}"
    );
    let serializable = proto::GetRequest {
        consistency: proto::Consistency::Serializable.into(),
        ..get("a")
    };
    let got = kv.get(serializable).await.expect("get").into_inner();
    assert_eq!(got.value.as_deref(), Some(&b"1"[..]));
    let page = proto::ScanRequest {
        consistency: proto::Consistency::Serializable.into(),
        ..scan("", "m")
    };
    let page = kv.scan(page).await.expect("scan").into_inner();
    assert_eq!(page.rows.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overload_and_drain_are_told_clearly() {
    let options = ServiceOptions {
        max_requests: 1,
        ..ServiceOptions::default()
    };
    let bounds = Bounds {
        options,
        ..Bounds::default()
    };
    let node = single(bounds).await;
    node.machine.script([Act::Keep]);
    let mut kv = node.kv().await;
    let waiting = tokio::spawn(async move { kv.put(put("a", "1")).await });
    while node.machine.kept() == 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let (status, error) = error_of(&node, "b").await;
    assert_eq!(error.code(), Code::Busy);
    assert!(error.retry_after_ms > 0);
    assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    assert!(
        error.message.contains("1 requests already"),
        "{}",
        error.message
    );

    node.machine.release(|| {
        Err(Refused::NotLeader {
            leader: Some(NodeId(1)),
        })
    });
    // The refused write is tried again, and done.
    waiting.await.expect("a task").expect("put");

    node.services().gate.close();
    let (status, error) = error_of(&node, "b").await;
    assert_eq!(error.code(), Code::ShuttingDown);
    assert_eq!(status.code(), tonic::Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_init_every_request_says_what_to_do() {
    let node = Node::lonely(1).await;
    let (status, error) = error_of(&node, "a").await;
    assert_eq!(error.code(), Code::NotInitialized);
    assert_eq!(status.code(), tonic::Code::FailedPrecondition);
    assert!(error.message.contains("flotilla init"));
    let routes = node
        .kv()
        .await
        .routes(proto::RoutesRequest::default())
        .await;
    assert!(routes.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_name_shards_leaders_and_nodes() {
    let node = single(Bounds::default()).await;
    let routes = node
        .kv()
        .await
        .routes(proto::RoutesRequest::default())
        .await;
    let routes = routes.expect("routes").into_inner();
    let shards: Vec<_> = (routes.routes.iter())
        .map(|route| {
            let descriptor = route.descriptor.clone().unwrap_or_default();
            (descriptor.shard_id, route.leader)
        })
        .collect();
    assert_eq!(shards, [(2, 1), (3, 1)]);
    assert_eq!(routes.nodes.len(), 1);
    assert_eq!(routes.nodes[0].address, node.address);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_come_in_pages() {
    let node = single(Bounds::default()).await;
    let mut after = ShardId(0);
    let mut pages = Vec::new();
    loop {
        let page = routes(node.services(), after, 1);
        assert_eq!(page.nodes.len(), 1);
        let ids = page.routes.iter().map(|route| {
            let descriptor = route.descriptor.as_ref();
            descriptor.expect("each has one").shard_id
        });
        pages.push(ids.collect::<Vec<_>>());
        if page.next_after_shard_id == 0 {
            break;
        }
        after = ShardId(page.next_after_shard_id);
    }
    assert_eq!(pages, [[2], [3]]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_by_an_open_lease_asks_nobody() {
    let node = single(Bounds::default()).await;
    node.kv().await.put(put("b", "1")).await.expect("written");
    let read = async || {
        let found = node.kv().await.get(get("b")).await.expect("read");
        assert_eq!(found.into_inner().value.as_deref(), Some(&b"1"[..]));
        node.machine.submitted()
    };
    let before = node.machine.submitted();
    assert_eq!(read().await, before + 1);
    (2..=3).for_each(|shard| node.machine.open_lease(ShardId(shard)));
    assert_eq!(read().await, before + 1);
    // Writes always ask.
    node.kv().await.put(put("b", "1")).await.expect("written");
    assert_eq!(node.machine.submitted(), before + 2);
}
