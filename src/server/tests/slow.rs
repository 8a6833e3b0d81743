//! Requests that take long, and the names of requests: what both nodes of a forwarded one tell of it.

use std::{collections::BTreeSet, time::Duration};

use flotilla_proto::v1::{self as proto, error::Code, kv_client::KvClient, request, response};
use serde_json::Value;
use tonic::{Request, transport::Channel};

use super::super::ServiceOptions;
use super::fake::{Act, Bounds, Node, cluster, detail, single};

/// Everything is slow, and nothing takes long.
async fn nodes(count: u8) -> Vec<Node> {
    let nodes = cluster(
        count,
        count.into(),
        Bounds {
            slow: Duration::from_nanos(1),
            options: ServiceOptions {
                default_timeout: Duration::from_millis(300),
                ..ServiceOptions::default()
            },
            ..Bounds::default()
        },
    );
    nodes.await
}

fn put(key: &str) -> proto::PutRequest {
    proto::PutRequest {
        key: key.to_owned().into(),
        value: "a-secret".into(),
        session: None,
    }
}

fn named<T>(message: T, id: &str) -> Request<T> {
    let mut request = Request::new(message);
    let id = id.parse().expect("ascii");
    request.metadata_mut().insert("x-request-id", id);
    request
}

/// All that a node tells, the oldest first.
fn told(node: &Node) -> Vec<Value> {
    let page = node.services().slow.to_json(usize::MAX);
    let mut requests = page["requests"].as_array().expect("a list").clone();
    requests.reverse();
    requests
}

fn stages(request: &Value) -> BTreeSet<&str> {
    let stages = request["stage_micros"].as_object().expect("an object");
    stages.keys().map(String::as_str).collect()
}

async fn over_a_stream(kv: &mut KvClient<Channel>, request: proto::Request) -> response::Kind {
    let requests = tokio_stream::iter([proto::StreamRequest {
        requests: vec![request],
    }]);
    let mut answers = kv.stream(requests).await.expect("a stream").into_inner();
    let message = answers.message().await.expect("answers");
    let responses = message.expect("a message").responses;
    responses
        .into_iter()
        .find_map(|response| response.kind)
        .expect("an answer")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_nodes_of_a_forwarded_request_tell_its_id() {
    let nodes = nodes(3).await;
    for node in &nodes {
        node.leader(2, Some(2));
    }
    let mut kv = nodes[0].kv().await;
    kv.put(named(put("a"), "order-7")).await.expect("put");
    let kind = Some(request::Kind::Put(put("b")));
    let request = proto::Request {
        kind,
        request_id: "order-8".to_owned(),
        ..proto::Request::default()
    };
    over_a_stream(&mut kv, request).await;
    kv.put(put("c")).await.expect("put");

    let (asked, led) = (told(&nodes[0]), told(&nodes[1]));
    assert_eq!((asked.len(), led.len()), (3, 3));
    for (number, key) in ["a", "b", "c"].into_iter().enumerate() {
        let (asked, led) = (&asked[number], &led[number]);
        assert_eq!(asked["request_id"], led["request_id"]);
        assert_eq!((&asked["key"], &led["key"]), (&key.into(), &key.into()));
        assert_eq!((&asked["shard"], &led["shard"]), (&2.into(), &2.into()));
        assert_eq!(
            (&asked["forwarded"], &led["forwarded"]),
            (&false.into(), &true.into())
        );
        assert_eq!(
            (&asked["passed_on_to"], &led["passed_on_to"]),
            (&2.into(), &Value::Null)
        );
        assert_eq!(stages(asked), ["forward"].into());
    }
    assert_eq!(asked[0]["request_id"], "order-7");
    assert_eq!(asked[1]["request_id"], "order-8");
    let made = asked[2]["request_id"].as_str().expect("an id");
    assert!(
        made.len() == 16 && u64::from_str_radix(made, 16).is_ok(),
        "{made}"
    );
    assert!(told(&nodes[2]).is_empty());
    let all = format!("{asked:?}{led:?}");
    assert!(!all.contains("a-secret"), "{all}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_carry_the_id_in_their_details_and_metadata() {
    let nodes = nodes(1).await;
    let node = &nodes[0];
    node.leader(2, Some(1));
    let mut kv = node.kv().await;
    let too_long = put(&"k".repeat(5000));
    for (given, sent) in [
        ("order-9", named(too_long.clone(), "order-9")),
        ("", Request::new(too_long.clone())),
    ] {
        let status = kv.put(sent).await.expect_err("a key that is too long");
        let error = detail(&status);
        assert_eq!(error.code(), Code::InvalidArgument);
        let carried = status.metadata().get("x-request-id").expect("an id");
        assert_eq!(carried.to_str().expect("ascii"), error.request_id);
        assert!(!error.request_id.is_empty());
        assert!(given.is_empty() || error.request_id == given);
    }
    let request = proto::Request {
        kind: Some(request::Kind::Put(too_long)),
        request_id: "order-10".to_owned(),
        ..proto::Request::default()
    };
    let response::Kind::Error(error) = over_a_stream(&mut kv, request).await else {
        panic!("a key that is too long is refused");
    };
    assert_eq!(error.request_id, "order-10");
    // A name that would break a log line is not taken over.
    let status = kv.put(named(put(&"k".repeat(5000)), "two words")).await;
    let error = detail(&status.expect_err("a key that is too long"));
    assert!(error.request_id != "two words" && !error.request_id.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_request_waited_for_is_told() {
    let nodes = nodes(1).await;
    let node = &nodes[0];
    let mut kv = node.kv().await;
    // No leader.
    kv.put(put("a")).await.expect_err("nobody leads");
    node.leader(2, Some(1));
    node.leader(3, Some(1));
    // A write that is never answered, once alone and once on a stream.
    node.machine.script([Act::Keep, Act::Keep]);
    kv.put(put("b")).await.expect_err("no answer");
    let request = proto::Request {
        kind: Some(request::Kind::Put(put("c"))),
        ..proto::Request::default()
    };
    over_a_stream(&mut kv, request).await;
    let scan = proto::ScanRequest::default();
    kv.scan(scan.clone()).await.expect("a page");
    let request = proto::Request {
        kind: Some(request::Kind::Scan(scan)),
        ..proto::Request::default()
    };
    over_a_stream(&mut kv, request).await;

    let told = told(node);
    let results: Vec<&str> = told
        .iter()
        .filter_map(|request| request["result"].as_str())
        .collect();
    assert_eq!(
        results,
        [
            "unavailable",
            "outcome_unknown",
            "outcome_unknown",
            "ok",
            "ok"
        ]
    );
    assert_eq!(stages(&told[0]), ["hold"].into());
    for unanswered in &told[1..3] {
        assert_eq!(stages(unanswered), ["unanswered"].into());
        let micros = unanswered["stage_micros"]["unanswered"]
            .as_u64()
            .expect("a number");
        assert!(micros >= 250_000, "{micros}");
    }
    for scan in &told[3..] {
        assert!(stages(scan).contains("read"), "{scan}");
        assert_eq!(scan["tries"], 2, "one for each shard");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_not_shown_and_nothing_is_told_of_what_is_fast() {
    let fast = single(Bounds {
        slow: Duration::from_secs(3600),
        ..Bounds::default()
    });
    let fast = fast.await;
    fast.kv().await.put(put("a")).await.expect("put");
    assert!(told(&fast).is_empty());

    let silent = super::super::slow::SlowRequests::new(Duration::from_nanos(1), false);
    assert!(!silent.wants_keys());
}
