//! Nodes become a cluster.

use flotilla_proto::v1 as proto;
use flotilla_shards::ids::NodeId;
use tonic::Status;

use super::fake::Node;

async fn lonely_nodes(count: u8) -> Vec<Node> {
    let mut nodes = Vec::new();
    for store in 1..=count {
        nodes.push(Node::lonely(store).await);
    }
    let join: Vec<String> = nodes.iter().map(|node| node.peer_address.clone()).collect();
    for node in &nodes {
        *node.folder.join.lock() = join.clone();
    }
    nodes
}

async fn init(node: &Node) -> Result<proto::InitResponse, Status> {
    let wish = proto::InitRequest {
        shards: 8,
        ..proto::InitRequest::default()
    };
    let answer = node.admin().await.init(wish).await;
    answer.map(tonic::Response::into_inner)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_adopt_one_genesis_and_ids_go_by_address() {
    let nodes = lonely_nodes(3).await;
    let answer = init(&nodes[1]).await.expect("a cluster");
    assert!(!answer.existed);
    assert_eq!(answer.shards, 8);
    let mut addresses: Vec<&String> = nodes.iter().map(|node| &node.address).collect();
    addresses.sort();
    for node in &nodes {
        let adopted = node.folder.adopted.lock();
        let [(genesis, id)] = &adopted[..] else {
            panic!("adopted {} times", adopted.len());
        };
        assert_eq!(genesis.cluster()[..], answer.cluster_id[..]);
        let expected = addresses
            .iter()
            .position(|address| **address == node.address);
        assert_eq!(expected.map(|at| NodeId(at as u64 + 1)), Some(*id));
        assert_eq!(genesis.shards().count(), 9);
    }

    // Again, from another node: nothing changes.
    let again = init(&nodes[0]).await.expect("the cluster");
    assert!(again.existed);
    assert_eq!(again.cluster_id, answer.cluster_id);
    assert_eq!(again.nodes, answer.nodes);
    assert!(
        nodes
            .iter()
            .all(|node| node.folder.adopted.lock().len() == 1)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn init_that_broke_off_half_way_is_completed_by_the_next() {
    let nodes = lonely_nodes(3).await;
    // The last one in order fails.
    let mut order: Vec<&Node> = nodes.iter().collect();
    order.sort_by(|a, b| a.address.cmp(&b.address));
    *order[2].folder.fail.lock() = Some("the disk is full".to_owned());
    let status = init(order[0]).await.expect_err("one fails");
    assert!(
        status.message().contains(&order[2].peer_address),
        "{status}"
    );
    assert!(status.message().contains("the disk is full"), "{status}");
    assert!(status.message().contains("again"), "{status}");

    let answer = init(order[2]).await.expect("completed");
    assert!(answer.existed);
    for node in &nodes {
        let adopted = node.folder.adopted.lock();
        assert_eq!(adopted.len(), 1);
        assert_eq!(adopted[0].0.cluster()[..], answer.cluster_id[..]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_inits_at_once_make_one_cluster() {
    let nodes = lonely_nodes(3).await;
    let (a, b) = tokio::join!(init(&nodes[0]), init(&nodes[2]));
    assert!(a.is_ok() || b.is_ok(), "{a:?} {b:?}");
    let again = init(&nodes[1]).await.expect("the cluster");
    assert!(again.existed);
    for node in &nodes {
        let identity = node.folder.identity.lock();
        let genesis = identity.genesis.as_ref().expect("adopted");
        assert_eq!(genesis.cluster_id, again.cluster_id);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_are_not_there_are_named() {
    let mut nodes = lonely_nodes(3).await;
    nodes[2].stop().await;
    let status = init(&nodes[0]).await.expect_err("one is missing");
    assert_eq!(status.code(), tonic::Code::Unavailable);
    assert!(
        status.message().contains(&nodes[2].peer_address),
        "{status}"
    );
    assert!(
        !status.message().contains(&nodes[1].peer_address),
        "{status}"
    );
    assert!(nodes[0].folder.adopted.lock().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_that_make_no_cluster_are_refused() {
    let nodes = lonely_nodes(3).await;
    let expect = async |text: &str| {
        let status = init(&nodes[0]).await.expect_err(text);
        assert!(status.message().contains(text), "{status} lacks {text:?}");
        assert!(
            nodes
                .iter()
                .all(|node| node.folder.adopted.lock().is_empty())
        );
    };
    let join = nodes[0].folder.join.lock().clone();

    nodes[0].folder.join.lock().clear();
    expect("--join").await;

    *nodes[0].folder.join.lock() = join[1..].to_vec();
    expect("is not among the addresses").await;

    // One node under two names.
    let port = nodes[1].peer_address.rsplit(':').next().expect("a port");
    let mut twice = join.clone();
    twice.push(format!("localhost:{port}"));
    *nodes[0].folder.join.lock() = twice;
    expect("lead to the same node").await;
    *nodes[0].folder.join.lock() = join.clone();

    // Two nodes that advertise one address.
    let own = nodes[2].folder.identity.lock().address.clone();
    nodes[2].folder.identity.lock().address = nodes[1].address.clone();
    expect("both advertise the address").await;
    nodes[2].folder.identity.lock().address = own;

    // A copied folder.
    let store = nodes[2].folder.identity.lock().store_id.clone();
    nodes[2].folder.identity.lock().store_id = nodes[1].folder.identity.lock().store_id.clone();
    expect("lead to the same node").await;
    nodes[2].folder.identity.lock().store_id = store;

    nodes[2].folder.identity.lock().protocol = 9;
    expect("speaks version 9").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clusters_do_not_mix() {
    let nodes = lonely_nodes(4).await;
    let join = nodes[0].folder.join.lock().clone();
    let join_two = |from: usize| {
        for node in &nodes[from..from + 2] {
            *node.folder.join.lock() = join[from..from + 2].to_vec();
        }
    };
    join_two(0);
    init(&nodes[0]).await.expect("the first cluster");

    // A new node is no part of a cluster that exists.
    *nodes[0].folder.join.lock() = join[..3].to_vec();
    let status = init(&nodes[0]).await.expect_err("a stranger");
    assert!(
        status.message().contains("is not part of cluster"),
        "{status}"
    );
    assert!(
        status.message().contains(&nodes[2].peer_address),
        "{status}"
    );

    join_two(2);
    init(&nodes[2]).await.expect("the second cluster");
    *nodes[0].folder.join.lock() = join.clone();
    let status = init(&nodes[0]).await.expect_err("two clusters");
    assert!(status.message().contains("different clusters"), "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_keeps_to_its_cluster_and_its_folder() {
    let nodes = lonely_nodes(2).await;
    init(&nodes[0]).await.expect("a cluster");
    let identity = nodes[0].folder.identity.lock().clone();
    let genesis = identity.genesis.clone().expect("adopted");
    let adopt = async |node: &Node, genesis: proto::Genesis, node_id: u64| {
        let request = proto::AdoptRequest {
            genesis: Some(genesis),
            node_id,
        };
        node.peer().await.adopt(request).await
    };
    adopt(&nodes[0], genesis.clone(), identity.node_id)
        .await
        .expect("the same again is fine");
    let status = adopt(&nodes[0], genesis.clone(), 3 - identity.node_id).await;
    let status = status.expect_err("another id");
    assert!(
        status.message().contains("of the cluster, not node"),
        "{status}"
    );
    let other = proto::Genesis {
        cluster_id: vec![9; 16].into(),
        ..genesis.clone()
    };
    let status = adopt(&nodes[0], other, identity.node_id).await;
    let status = status.expect_err("another cluster");
    assert!(
        status.message().contains("can't join cluster 0909"),
        "{status}"
    );

    let stranger = Node::lonely(9).await;
    let status = adopt(&stranger, genesis.clone(), 1).await;
    let status = status.expect_err("not listed");
    assert!(
        status
            .message()
            .contains("does not list the data folder 0909"),
        "{status}"
    );
    let broken = proto::Genesis {
        cluster_id: vec![1].into(),
        ..genesis
    };
    let status = adopt(&stranger, broken, 1).await.expect_err("broken");
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    assert!(stranger.folder.adopted.lock().is_empty());
}
