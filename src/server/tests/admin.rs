//! What operators and probes ask.

use flotilla_proto::v1::{self as proto, error::Code, show_shard_request::Which};
use flotilla_shards::ids::{NodeId, ShardId};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use super::fake::{Bounds, Node, cluster, detail, single};

async fn status(node: &Node) -> proto::StatusResponse {
    let answer = node.admin().await.status(proto::StatusRequest {}).await;
    answer.expect("status").into_inner()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_tells_the_way_from_birth_to_ready() {
    let newborn = Node::lonely(1).await;
    let told = status(&newborn).await;
    assert!(!told.initialized && !told.ready);
    assert_eq!(told.not_ready_reason, "starting");
    assert_eq!(told.address, newborn.address);

    let node = single(Bounds::default()).await;
    node.leader(3, None);
    node.front.set_ready(Ok(())).await;
    let told = status(&node).await;
    assert!(told.initialized && told.ready);
    assert_eq!((told.node_id, told.cluster_id), (1, vec![7; 16].into()));
    assert_eq!(
        (told.shards, told.leaders, told.shards_without_leader),
        (3, 2, 1)
    );
    assert_eq!(told.version, env!("CARGO_PKG_VERSION"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_follows_readiness() {
    let node = single(Bounds::default()).await;
    let health = async |service: &str| {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let answer = node.health().await.check(request).await;
        answer.expect("a check").into_inner().status()
    };
    assert_eq!(health("").await, ServingStatus::NotServing);
    node.front.set_ready(Ok(())).await;
    assert_eq!(health("").await, ServingStatus::Serving);
    assert_eq!(health("flotilla.v1.Kv").await, ServingStatus::Serving);
    node.front.set_ready(Err("draining".to_owned())).await;
    assert_eq!(health("flotilla.v1.Kv").await, ServingStatus::NotServing);
    assert_eq!(status(&node).await.not_ready_reason, "draining");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reflection_names_the_services() {
    let node = single(Bounds::default()).await;
    let channel = tonic::transport::Channel::from_shared(format!("http://{}", node.address))
        .expect("an address")
        .connect()
        .await
        .expect("a connection");
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = ServerReflectionClient::new(channel)
        .server_reflection_info(tokio_stream::iter([request]))
        .await
        .expect("reflection")
        .into_inner();
    let answer = answers
        .message()
        .await
        .expect("no error")
        .expect("an answer");
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("{answer:?}");
    };
    let names: Vec<String> = list
        .service
        .into_iter()
        .map(|service| service.name)
        .collect();
    for name in [
        "flotilla.v1.Kv",
        "flotilla.v1.Admin",
        "flotilla.v1.Peer",
        "grpc.health.v1.Health",
    ] {
        assert!(
            names.iter().any(|known| known == name),
            "{names:?} lack {name}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shards_and_nodes_are_listed() {
    let nodes = cluster(3, 3, Bounds::default()).await;
    let node = &nodes[0];
    node.leader(2, Some(3));
    let mut admin = node.admin().await;

    let list = admin.list_nodes(proto::ListNodesRequest {}).await;
    let list = list.expect("nodes").into_inner().nodes;
    let facts: Vec<_> = (list.iter())
        .map(|info| (info.reachable, info.leaders, info.replicas))
        .collect();
    // Their transports were told of no peers.
    assert_eq!(facts, [(true, 0, 3), (false, 0, 3), (false, 1, 3)]);

    let mut after = 0;
    let mut seen = Vec::new();
    loop {
        let request = proto::ListShardsRequest { after, limit: 2 };
        let page = admin
            .list_shards(request)
            .await
            .expect("shards")
            .into_inner();
        for info in &page.shards {
            let descriptor = info.descriptor.as_ref().expect("a descriptor");
            after = descriptor.shard_id;
            assert_eq!(info.local.as_ref().map(|local| local.term), Some(after));
            seen.push((after, info.leader));
        }
        if !page.more {
            break;
        }
    }
    assert_eq!(seen, [(1, 0), (2, 3), (3, 0)]);

    let show = async |which: Option<Which>| {
        let answer = node
            .admin()
            .await
            .show_shard(proto::ShowShardRequest { which })
            .await;
        answer.map(|answer| {
            let shard = answer.into_inner().shard.expect("a shard");
            shard.descriptor.expect("a descriptor").shard_id
        })
    };
    assert_eq!(show(Some(Which::Key("n".into()))).await.expect("by key"), 3);
    assert_eq!(show(Some(Which::ShardId(2))).await.expect("by id"), 2);
    let unknown = show(Some(Which::ShardId(77))).await.expect_err("unknown");
    assert_eq!(detail(&unknown).code(), Code::InvalidArgument);
    assert!(show(None).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_to_replicas_only_and_by_leaders_only() {
    let nodes = cluster(3, 3, Bounds::default()).await;
    let node = &nodes[0];
    let transfer = async |shard_id: u64, node_id: u64| {
        let request = proto::TransferLeaderRequest { shard_id, node_id };
        node.admin().await.transfer_leader(request).await
    };
    transfer(2, 3).await.expect("handed over");
    assert_eq!(node.machine.transfers(), [(ShardId(2), NodeId(3))]);
    let status = transfer(2, 9).await.expect_err("no such replica");
    assert_eq!(detail(&status).code(), Code::InvalidArgument);
    assert_eq!(node.machine.transfers().len(), 1);
    // The machine does not lead shard 3.
    node.leader(3, Some(2));
    let error = detail(&transfer(3, 3).await.expect_err("not the leader"));
    assert_eq!((error.code(), error.leader), (Code::NotLeader, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_content_has_equal_checksums() {
    let nodes = [
        single(Bounds::default()).await,
        single(Bounds::default()).await,
    ];
    let sum = async |node: &Node| {
        let request = proto::ChecksumRequest { shard_id: 2 };
        let answer = node.admin().await.checksum(request).await;
        answer.expect("a checksum").into_inner()
    };
    for node in &nodes {
        for key in ["a", "b"] {
            let put = proto::PutRequest {
                key: key.into(),
                value: "v".into(),
                session: None,
            };
            node.kv().await.put(put).await.expect("put");
        }
    }
    let first = sum(&nodes[0]).await;
    assert_eq!(first, sum(&nodes[1]).await);
    assert_eq!(first.keys, 2);
    assert_eq!(first.revision, 2);
    let delete = proto::DeleteRequest {
        key: "b".into(),
        session: None,
    };
    nodes[1].kv().await.delete(delete).await.expect("delete");
    let changed = sum(&nodes[1]).await;
    assert_ne!(first.checksum, changed.checksum);
    assert_eq!(changed.keys, 1);
    let unknown = proto::ChecksumRequest { shard_id: 77 };
    assert!(nodes[0].admin().await.checksum(unknown).await.is_err());
}
