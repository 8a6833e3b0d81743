//! Peers that go away and come back.

use super::*;

/// A listener at an address whose last one is being closed.
async fn rebind(address: SocketAddr) -> std::net::TcpListener {
    let binding = async {
        loop {
            if let Ok(listener) = std::net::TcpListener::bind(address) {
                return listener;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let bound = timeout(PATIENCE, binding).await;
    bound.expect("the port becomes free")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_peer_is_found_again_also_at_a_new_address() {
    let (a, mut b) = pair(options()).await;
    connected(&a, &b, 2).await;
    eventually("both lanes stand", || {
        let connected = a.metrics.connected.peer(2);
        flotilla_metrics::Lane::ALL
            .iter()
            .all(|lane| connected.of(*lane).get() == 1)
    })
    .await;
    b.stop_serving();
    a.recorder
        .until(|arrived| (arrived.broken == [NodeId(2)]).then_some(()))
        .await;
    eventually("unreachable", || {
        a.metrics
            .connected
            .peer(2)
            .of(flotilla_metrics::Lane::Urgent)
            .get()
            == 0
    })
    .await;

    b.recorder.note(|arrived| arrived.messages.clear());
    let listener = rebind(b.address).await;
    b.server = Some(serve(&b.transport, listener));
    connected(&a, &b, 2).await;

    b.stop_serving();
    b.recorder.note(|arrived| arrived.messages.clear());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    b.address = listener.local_addr().expect("an address");
    b.server = Some(serve(&b.transport, listener));
    a.transport.update_peer(entry_of(2, b.address));
    connected(&a, &b, 2).await;
}

/// Found by timing a restart: the others found out a backoff later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_connects_is_connected_to_at_once() {
    let patient = TransportOptions {
        backoff_first: Duration::from_secs(600),
        backoff_last: Duration::from_secs(600),
        ..options()
    };
    let a = Node::start(1, b"cluster", patient).await;
    let mut b = Node::start(2, b"cluster", options()).await;
    b.stop_serving();
    // Until the port is free, nobody refuses connections to it.
    let listener = rebind(b.address).await;
    drop(listener);
    a.transport.update_peer(entry_of(2, b.address));
    eventually("both lanes have been tried", || {
        let connects = a.metrics.connects.peer(2);
        flotilla_metrics::Lane::ALL
            .iter()
            .all(|lane| connects.of(*lane).get() == 1)
    })
    .await;
    let listener = rebind(b.address).await;
    b.server = Some(serve(&b.transport, listener));
    b.transport.update_peer(entry_of(1, a.address));
    connected(&a, &b, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_comes_back_at_another_address_says_so_itself() {
    let (a, b) = pair(options()).await;
    connected(&a, &b, 2).await;
    drop(b);
    let b = Node::start(2, b"cluster", options()).await;
    b.transport.update_peer(entry_of(1, a.address));
    let there = entry_of(2, b.address);
    a.recorder
        .until(move |arrived| arrived.moved.contains(&there).then_some(()))
        .await;
    connected(&a, &b, 2).await;
}
