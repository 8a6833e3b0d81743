//! Requests that come to a node that does not lead.

use std::time::Duration;

use flotilla_metrics::Operation;
use flotilla_proto::v1::{self as proto, error::Code, request, response};
use flotilla_shards::{
    engine::Refused,
    ids::{NodeId, ShardId},
};

use super::super::ServiceOptions;
use super::fake::{Act, Bounds, Node, cluster, detail};

fn put(key: &str) -> proto::PutRequest {
    proto::PutRequest {
        key: key.to_owned().into(),
        value: "v".into(),
        session: None,
    }
}

fn everywhere(nodes: &[Node], shard: u64, leader: Option<u64>) {
    for node in nodes {
        node.leader(shard, leader);
    }
}

async fn quick(nodes: u8, replicas: usize) -> Vec<Node> {
    let options = ServiceOptions {
        default_timeout: Duration::from_millis(400),
        ..ServiceOptions::default()
    };
    let bounds = Bounds {
        options,
        ..Bounds::default()
    };
    cluster(nodes, replicas, bounds).await
}

/// One request over a stream, as another node passes it on.
async fn forwarded(node: &Node, kind: request::Kind) -> response::Kind {
    let request = proto::StreamRequest {
        requests: vec![proto::Request {
            id: 5,
            forwarded: true,
            kind: Some(kind),
            ..proto::Request::default()
        }],
    };
    let answers = node.kv().await.stream(tokio_stream::iter([request])).await;
    let mut answers = answers.expect("a stream").into_inner();
    let message = answers
        .message()
        .await
        .expect("answers")
        .expect("a message");
    let response = message.responses.into_iter().next().expect("a response");
    assert_eq!(response.id, 5);
    response.kind.expect("a kind")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_is_passed_on_to_the_leader() {
    let nodes = cluster(3, 3, Bounds::default()).await;
    everywhere(&nodes, 2, Some(2));
    nodes[0].kv().await.put(put("a")).await.expect("put");
    assert_eq!(nodes[0].machine.submitted(), 0);
    assert_eq!(nodes[1].machine.submitted(), 1);
    assert_eq!(nodes[0].metrics.forwarded.of(Operation::Put).get(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forwarded_request_is_not_passed_on_again() {
    let nodes = cluster(3, 3, Bounds::default()).await;
    everywhere(&nodes, 2, Some(2));
    let answer = forwarded(&nodes[0], request::Kind::Put(put("a"))).await;
    let response::Kind::Error(error) = answer else {
        panic!("a second hop: {answer:?}");
    };
    assert_eq!((error.code(), error.leader), (Code::NotLeader, 2));
    assert_eq!(nodes[1].machine.submitted(), 0);

    // Nor is it held.
    everywhere(&nodes, 2, None);
    let answer = forwarded(&nodes[0], request::Kind::Put(put("a"))).await;
    let response::Kind::Error(error) = answer else {
        panic!("an answer without a leader: {answer:?}");
    };
    assert_eq!((error.code(), error.leader), (Code::NotLeader, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_hint_is_mended_by_the_answer() {
    let nodes = cluster(3, 3, Bounds::default()).await;
    everywhere(&nodes, 2, Some(3));
    // Node 1 believes in 2, which knows better.
    nodes[0].leader(2, Some(2));
    nodes[0].kv().await.put(put("a")).await.expect("put");
    assert_eq!(nodes[2].machine.submitted(), 1);
    assert_eq!(nodes[0].router().leader(ShardId(2)), Some(NodeId(3)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_a_replica_finds_the_leader() {
    // Shard 2 lies on nodes 2, 3 and 4, or others: node ids wrap around.
    let nodes = cluster(5, 3, Bounds::default()).await;
    let route = nodes[0].router().by_id(ShardId(2)).expect("a route");
    let holders: Vec<u64> = route.descriptor.replicas.iter().map(|r| r.node.0).collect();
    let outside = nodes
        .iter()
        .find(|node| !holders.contains(&node.id.0))
        .expect("five nodes, three replicas");
    for node in &nodes {
        if holders.contains(&node.id.0) {
            node.leader(2, Some(holders[2]));
        }
    }
    outside.kv().await.put(put("a")).await.expect("put");
    let get = proto::GetRequest {
        key: "a".into(),
        consistency: 0,
    };
    let got = outside.kv().await.get(get).await.expect("get").into_inner();
    assert_eq!(got.value.as_deref(), Some(&b"v"[..]));
    let page = proto::ScanRequest::default();
    let page = outside.kv().await.scan(page).await;
    // Shard 3 has no leader, and reads go to its replicas, which answer for themselves here.
    assert_eq!(page.expect("scan").into_inner().rows.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_leader_gives_an_error_that_proves_nothing_was_written() {
    let mut nodes = quick(3, 3).await;
    everywhere(&nodes, 2, Some(2));
    nodes[1].stop().await;
    let status = nodes[0].kv().await.put(put("a")).await;
    let error = detail(&status.expect_err("nobody leads"));
    assert_eq!(error.code(), Code::Unavailable, "{}", error.message);

    // With a new leader it goes on.
    let mut kv = nodes[0].kv().await;
    let held = tokio::spawn(async move { kv.put(put("a")).await });
    tokio::time::sleep(Duration::from_millis(20)).await;
    nodes[2].leader(2, Some(3));
    nodes[0].leader(2, Some(3));
    held.await.expect("a task").expect("put");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_outcome_elsewhere_is_told_and_not_repeated() {
    let nodes = cluster(3, 3, Bounds::default()).await;
    everywhere(&nodes, 2, Some(2));
    nodes[1]
        .machine
        .script([Act::Refuse(Refused::OutcomeUnknown)]);
    let status = nodes[0].kv().await.put(put("a")).await;
    let error = detail(&status.expect_err("unknown"));
    assert_eq!(error.code(), Code::OutcomeUnknown);
    assert_eq!(nodes[1].machine.submitted(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_batch_costs_no_hop() {
    let nodes = cluster(3, 3, Bounds::default()).await;
    everywhere(&nodes, 2, Some(2));
    let long = proto::PutRequest {
        key: vec![b'a'; 5000].into(),
        ..put("a")
    };
    let status = nodes[0].kv().await.put(long).await;
    let error = detail(&status.expect_err("too long"));
    assert_eq!(error.code(), Code::InvalidArgument);
    assert_eq!(nodes[0].metrics.forwarded.of(Operation::Put).get(), 0);
}
