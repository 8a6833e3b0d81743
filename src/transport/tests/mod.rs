//! Two endpoints and more over real sockets of this machine.

mod restart;
mod snapshot;

use std::{net::SocketAddr, time::Duration};

use flotilla_metrics::{DropReason, HandshakeRefusal};
use flotilla_proto::v1::{peer_client::PeerClient, peer_server};
use flotilla_shards::raft::{Entry, Index, MessageKind, ReplicaId, Term};
use parking_lot::{Condvar, Mutex};
use tokio::{net::TcpListener, runtime::Runtime, sync::oneshot, time::timeout};
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Channel, Endpoint, server::TcpIncoming},
};

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

/// Records what arrives.
#[derive(Default)]
struct Recorder {
    arrived: Mutex<Arrived>,
    news: Condvar,
}

#[derive(Default)]
struct Arrived {
    messages: Vec<(NodeId, ShardId, Message)>,
    alive: Vec<(NodeId, u64)>,
    broken: Vec<NodeId>,
    outdated: Vec<String>,
    moved: Vec<proto::Node>,
    snapshots: Vec<(ShardId, Message, Vec<proto::SnapshotRow>)>,
    refuse_snapshots: Option<SnapshotRefused>,
    snapshots_open: usize,
}

impl Recorder {
    /// Waits until `enough` of what arrived, and returns its answer.
    async fn until<T: Send + 'static>(
        self: &Arc<Self>,
        mut enough: impl FnMut(&mut Arrived) -> Option<T> + Send + 'static,
    ) -> T {
        let this = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            let end = std::time::Instant::now() + PATIENCE;
            let mut arrived = this.arrived.lock();
            loop {
                if let Some(answer) = enough(&mut arrived) {
                    return answer;
                }
                let timed_out = this.news.wait_until(&mut arrived, end).timed_out();
                assert!(!timed_out, "nothing more came");
            }
        })
        .await
        .expect("waiting does not panic")
    }

    fn note(&self, change: impl FnOnce(&mut Arrived)) {
        change(&mut self.arrived.lock());
        self.news.notify_all();
    }
}

struct Inbox(Arc<Recorder>);

impl Inbound for Inbox {
    fn deliver(&self, from: NodeId, messages: Vec<(ShardId, Message)>) {
        self.0.note(|arrived| {
            let messages = messages
                .into_iter()
                .map(|(shard, message)| (from, shard, message));
            arrived.messages.extend(messages);
        });
    }

    fn alive(&self, node: NodeId, incarnation: u64) {
        self.0
            .note(|arrived| arrived.alive.push((node, incarnation)));
    }

    fn outdated(&self, reason: String) {
        self.0.note(|arrived| arrived.outdated.push(reason));
    }

    fn unreachable(&self, node: NodeId) {
        self.0.note(|arrived| arrived.broken.push(node));
    }

    fn moved(&self, node: proto::Node) {
        self.0.note(|arrived| arrived.moved.push(node));
    }

    fn begin_snapshot(
        &self,
        _from: NodeId,
        shard: ShardId,
        message: Message,
    ) -> Result<Box<dyn SnapshotSink>, SnapshotRefused> {
        let mut arrived = self.0.arrived.lock();
        if let Some(refused) = arrived.refuse_snapshots.clone() {
            return Err(refused);
        }
        arrived.snapshots_open += 1;
        Ok(Box::new(Sink {
            recorder: Arc::clone(&self.0),
            shard,
            message,
            rows: Vec::new(),
        }))
    }
}

struct Sink {
    recorder: Arc<Recorder>,
    shard: ShardId,
    message: Message,
    rows: Vec<proto::SnapshotRow>,
}

impl SnapshotSink for Sink {
    fn chunk(&mut self, chunk: proto::SnapshotChunk) -> Result<(), SnapshotRefused> {
        if chunk.checksum != 7 {
            return Err(SnapshotRefused::Malformed("the checksum".to_owned()));
        }
        self.rows.extend(chunk.rows);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), SnapshotRefused> {
        let received = (self.shard, self.message.clone(), self.rows.clone());
        self.recorder
            .note(|arrived| arrived.snapshots.push(received));
        Ok(())
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.recorder.note(|arrived| arrived.snapshots_open -= 1);
    }
}

/// The gRPC service with the transport alone behind it.
struct Service(Transport);

#[tonic::async_trait]
impl peer_server::Peer for Service {
    type DeliverStream = Delivery;
    type ForwardStream = tokio_stream::Empty<Result<proto::StreamResponse, Status>>;

    async fn deliver(
        &self,
        request: Request<Streaming<proto::Frame>>,
    ) -> Result<Response<Delivery>, Status> {
        self.0
            .deliver(request.into_inner(), None)
            .await
            .map(Response::new)
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<proto::SnapshotChunk>>,
    ) -> Result<Response<proto::InstallSnapshotResponse>, Status> {
        let answer = self.0.install_snapshot(request.into_inner(), None).await;
        answer.map(Response::new)
    }

    async fn forward(
        &self,
        _: Request<Streaming<proto::StreamRequest>>,
    ) -> Result<Response<Self::ForwardStream>, Status> {
        Err(Status::unimplemented("not part of these tests"))
    }

    async fn checksum(
        &self,
        _: Request<proto::ChecksumRequest>,
    ) -> Result<Response<proto::ChecksumResponse>, Status> {
        Err(Status::unimplemented("not part of these tests"))
    }

    async fn identify(
        &self,
        _: Request<proto::IdentifyRequest>,
    ) -> Result<Response<proto::IdentifyResponse>, Status> {
        Err(Status::unimplemented("not part of these tests"))
    }

    async fn adopt(
        &self,
        _: Request<proto::AdoptRequest>,
    ) -> Result<Response<proto::AdoptResponse>, Status> {
        Err(Status::unimplemented("not part of these tests"))
    }

    async fn page(
        &self,
        _: Request<proto::PageRequest>,
    ) -> Result<Response<proto::PageResponse>, Status> {
        Err(Status::unimplemented("not part of these tests"))
    }
}

/// A node with nothing but a transport.
struct Node {
    transport: Transport,
    recorder: Arc<Recorder>,
    metrics: Arc<Metrics>,
    marks: Arc<Marks>,
    address: SocketAddr,
    server: Option<Runtime>,
}

fn store_of(node: u64) -> Bytes {
    vec![node as u8; 16].into()
}

fn entry_of(node: u64, address: SocketAddr) -> proto::Node {
    proto::Node {
        node_id: node,
        address: address.to_string(),
        peer_address: String::new(),
        status_address: String::new(),
        store_id: store_of(node),
    }
}

fn options() -> TransportOptions {
    TransportOptions {
        handshake_timeout: Duration::from_millis(500),
        backoff_first: Duration::from_millis(10),
        backoff_last: Duration::from_millis(50),
        ..TransportOptions::default()
    }
}

/// A server on a runtime of its own, so that its connections break with it as they do when a process dies.
fn serve(transport: &Transport, listener: std::net::TcpListener) -> Runtime {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    listener.set_nonblocking(true).expect("a socket");
    let listener = {
        let _within = runtime.enter();
        TcpListener::from_std(listener).expect("a listener")
    };
    let service = peer_server::PeerServer::new(Service(transport.clone()))
        .max_decoding_message_size(options().max_frame_bytes);
    let server = tonic::transport::Server::builder()
        .add_service(service)
        .serve_with_incoming(TcpIncoming::from(listener));
    runtime.spawn(server);
    runtime
}

impl Node {
    async fn start(id: u64, cluster: &'static [u8], options: TransportOptions) -> Self {
        Self::start_with_store(id, cluster, store_of(id), options).await
    }

    async fn start_with_store(
        id: u64,
        cluster: &'static [u8],
        store_id: Bytes,
        options: TransportOptions,
    ) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let recorder = Arc::<Recorder>::default();
        let metrics = Arc::new(Metrics::new().expect("metrics"));
        let marks = Arc::<Marks>::default();
        marks.begin(id);
        let local = LocalNode {
            marks: Arc::clone(&marks),
            cluster_id: Bytes::from_static(cluster),
            node_id: NodeId(id),
            store_id,
            address: address.to_string(),
            peer_address: String::new(),
            status_address: String::new(),
            leases: Some(LEASES),
        };
        let transport = Transport::start(
            local,
            Vec::new(),
            options,
            Arc::new(Inbox(Arc::clone(&recorder))),
            Arc::clone(&metrics),
        );
        let server = serve(&transport, listener);
        Self {
            transport,
            recorder,
            metrics,
            marks,
            address,
            server: Some(server),
        }
    }

    /// A connection that no transport made.
    async fn client(&self) -> PeerClient<Channel> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address));
        let channel = endpoint.expect("an address").connect().await;
        PeerClient::new(channel.expect("a connection"))
    }

    fn stop_serving(&mut self) {
        if let Some(runtime) = self.server.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.transport.stop();
        self.stop_serving();
    }
}

/// A start of a store with so many writes.
fn start(start: u64, written: u64) -> proto::StoreMark {
    proto::StoreMark { start, written }
}

async fn pair(options: TransportOptions) -> (Node, Node) {
    let a = Node::start(1, b"cluster", options.clone()).await;
    let b = Node::start(2, b"cluster", options).await;
    a.transport.update_peer(entry_of(2, b.address));
    b.transport.update_peer(entry_of(1, a.address));
    (a, b)
}

fn heartbeat(node: u64, shard: u64, round: u64) -> Outgoing {
    Outgoing {
        node: NodeId(node),
        shard: ShardId(shard),
        message: Message {
            kind: MessageKind::Heartbeat,
            to: ReplicaId(2),
            from: ReplicaId(1),
            term: Term(3),
            round,
            ..Message::default()
        },
    }
}

fn append(node: u64, shard: u64, index: u64, payload: usize) -> Outgoing {
    Outgoing {
        node: NodeId(node),
        shard: ShardId(shard),
        message: Message {
            kind: MessageKind::App,
            to: ReplicaId(2),
            from: ReplicaId(1),
            term: Term(3),
            log_term: Term(3),
            index: Index(index),
            entries: vec![Entry {
                term: Term(3),
                index: Index(index + 1),
                data: vec![1; payload].into(),
                ..Entry::default()
            }],
            ..Message::default()
        },
    }
}

/// Sends heartbeats until one arrives: from then on the urgent lane stands.
async fn connected(from: &Node, to: &Node, node: u64) {
    let transport = from.transport.clone();
    let beating = tokio::spawn(async move {
        loop {
            transport.send(vec![heartbeat(node, 1, 0)]);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    to.recorder
        .until(|arrived| (!arrived.messages.is_empty()).then_some(()))
        .await;
    beating.abort();
}

/// Waits for something that no recorder sees.
async fn eventually(what: &str, mut test: impl FnMut() -> bool) {
    let waiting = async {
        while !test() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(PATIENCE, waiting).await.is_ok(), "never: {what}");
}

/// By what the nodes of these tests measure leases. Who uses none is let in as well.
const LEASES: proto::LeaseClock = proto::LeaseClock {
    tick_ns: 50_000_000,
    election_ticks: 20,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_arrive_unchanged_and_in_order_within_their_lane() {
    let (a, b) = pair(options()).await;
    connected(&a, &b, 2).await;
    eventually("the bulk lane stands", || {
        let connected = a.metrics.connected.peer(2);
        connected.of(flotilla_metrics::Lane::Bulk).get() == 1
    })
    .await;
    for index in 0..500 {
        a.transport
            .send(vec![append(2, 7, index, 100), heartbeat(2, 7, index + 1)]);
    }
    let (appends, rounds) = b
        .recorder
        .until(|arrived| {
            let of = |kind| {
                let of_kind = arrived.messages.iter().filter(move |m| m.2.kind == kind);
                of_kind.cloned().collect::<Vec<_>>()
            };
            let appends = of(MessageKind::App);
            let mut beats = of(MessageKind::Heartbeat);
            beats.retain(|(.., beat)| beat.round > 0);
            (appends.len() == 500 && beats.len() == 500).then_some((appends, beats))
        })
        .await;
    for (at, (from, shard, message)) in appends.into_iter().enumerate() {
        assert_eq!((from, shard), (NodeId(1), ShardId(7)));
        assert_eq!(message, append(2, 7, at as u64, 100).message);
    }
    let rounds: Vec<u64> = rounds.iter().map(|(.., beat)| beat.round).collect();
    assert_eq!(rounds, (1..=500).collect::<Vec<_>>());
    assert!(a.transport.is_reachable(NodeId(2)));
    assert!(b.transport.is_reachable(NodeId(1)));
    assert!(!a.transport.is_reachable(NodeId(3)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_urgent_message_does_not_wait_behind_bulk() {
    let options = TransportOptions {
        queue_bytes: 512 << 20,
        ..options()
    };
    let (a, b) = pair(options).await;
    connected(&a, &b, 2).await;
    let bulk = (0..256).map(|index| append(2, 7, index, 1 << 20)).collect();
    a.transport.send(bulk);
    a.transport.send(vec![heartbeat(2, 7, 99)]);
    let before = b
        .recorder
        .until(|arrived| {
            let beat = arrived.messages.iter().position(|m| m.2.round == 99)?;
            let before = &arrived.messages[..beat];
            Some(
                before
                    .iter()
                    .filter(|m| m.2.kind == MessageKind::App)
                    .count(),
            )
        })
        .await;
    assert!(
        before < 128,
        "{before} of 256 MiB came before the heartbeat"
    );
}

/// How an accepted stream of these frames ends.
async fn end_of<const N: usize>(
    client: &mut PeerClient<Channel>,
    frames: [proto::Frame; N],
) -> Result<(), Status> {
    let answer = client.deliver(tokio_stream::iter(frames)).await;
    let mut answer = answer.expect("the handshake is accepted").into_inner();
    answer.message().await.map(|said| assert_eq!(said, None))
}

/// What `to` says to a stream that begins with this handshake.
async fn refusal(to: &Node, handshake: proto::Handshake) -> String {
    let mut client = to.client().await;
    let frame = proto::Frame {
        handshake: Some(handshake),
        ..proto::Frame::default()
    };
    let status = client
        .deliver(tokio_stream::iter([frame]))
        .await
        .expect_err("a refusal");
    assert_eq!(status.code(), tonic::Code::FailedPrecondition, "{status}");
    status.message().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_refused_with_an_error_that_names_both_sides() {
    let b = Node::start(2, b"cluster", options()).await;
    b.transport
        .update_peer(entry_of(1, "127.0.0.1:1".parse().expect("an address")));
    let good = proto::Handshake {
        protocol: PROTOCOL,
        cluster_id: Bytes::from_static(b"cluster"),
        from_node: 1,
        from_store: store_of(1),
        to_node: 2,
        lane: proto::Lane::Urgent.into(),
        address: "127.0.0.1:1".to_owned(),
        peer_address: String::new(),
        status_address: String::new(),
        starts: vec![start(1, 5)],
        leases: None,
    };
    let cases = [
        (
            proto::Handshake {
                protocol: 9,
                ..good.clone()
            },
            "speaks version 9",
            HandshakeRefusal::Protocol,
        ),
        (
            proto::Handshake {
                cluster_id: Bytes::from_static(b"other"),
                ..good.clone()
            },
            "belongs to cluster 6f74686572, but this node to cluster 636c7573746572",
            HandshakeRefusal::Cluster,
        ),
        (
            proto::Handshake {
                to_node: 3,
                ..good.clone()
            },
            "wrong address: node 1 looks for node 3, but this is node 2",
            HandshakeRefusal::WrongNode,
        ),
        (
            proto::Handshake {
                from_node: 2,
                from_store: store_of(2),
                ..good.clone()
            },
            "another process also says that it is node 2",
            HandshakeRefusal::TwinNode,
        ),
        (
            proto::Handshake {
                from_store: store_of(9),
                ..good.clone()
            },
            "twin node: node 1 is known with data folder 0101",
            HandshakeRefusal::TwinNode,
        ),
        (
            proto::Handshake {
                from_node: 8,
                ..good.clone()
            },
            "node 8 is not a node of this cluster",
            HandshakeRefusal::UnknownNode,
        ),
        (
            proto::Handshake {
                lane: 5,
                ..good.clone()
            },
            "lane 5",
            HandshakeRefusal::Malformed,
        ),
        (
            proto::Handshake {
                address: "nowhere".to_owned(),
                ..good.clone()
            },
            "node 1: address \"nowhere\" is not host:port",
            HandshakeRefusal::Malformed,
        ),
        (
            proto::Handshake {
                starts: Vec::new(),
                ..good.clone()
            },
            "node 1 does not say when its store was started",
            HandshakeRefusal::Malformed,
        ),
        (
            proto::Handshake {
                leases: Some(proto::LeaseClock::default()),
                ..good.clone()
            },
            "node 1 uses leases with an election timeout of 0 ms and ticks of 0 ms, this node with 1000 ms and 50 ms",
            HandshakeRefusal::Leases,
        ),
        (
            proto::Handshake {
                starts: vec![start(1, 5), start(2, 4)],
                ..good.clone()
            },
            "node 1 says of the starts of its store makes no sense",
            HandshakeRefusal::Malformed,
        ),
    ];
    for (handshake, expected, label) in cases {
        let before = b.metrics.handshakes_refused.of(label).get();
        let text = refusal(&b, handshake).await;
        assert!(text.contains(expected), "{text:?} lacks {expected:?}");
        assert_eq!(b.metrics.handshakes_refused.of(label).get(), before + 1);
    }

    let mut client = b.client().await;
    let good = proto::Frame {
        handshake: Some(good),
        ..proto::Frame::default()
    };
    let end = end_of(&mut client, [good]).await;
    end.expect("the right one is let in, and may end");
    let silent = client.deliver(tokio_stream::pending()).await;
    let status = silent.expect_err("silence is no handshake");
    assert!(status.message().contains("no handshake came"), "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_from_the_past_is_refused_and_told_so() {
    let (a, b) = pair(options()).await;
    // What it has written travels with whatever is sent.
    a.marks.advance(7);
    let heard = || {
        a.transport.send(vec![heartbeat(2, 1, 1)]);
        b.marks.seen(NodeId(1)).map(|mark| mark.written)
    };
    eventually("heard of 7 writes", || heard() == Some(7)).await;
    drop(a);

    // A copy of the store after 3 writes; then the store itself.
    let start_of = |written, start| {
        let (node, address) = (entry_of(2, b.address), b.address);
        async move {
            let again = Node::start(1, b"cluster", options()).await;
            again.marks.advance(written);
            again.marks.begin(start);
            again.transport.update_peer(node);
            (again, address)
        }
    };
    let (copy, _) = start_of(3, 100).await;
    let reason = copy.recorder.until(|arrived| arrived.outdated.pop()).await;
    let expected = "node 1 must not take part: its data folder went back in time: it was seen after 7 synced writes";
    assert!(reason.contains(expected), "{reason}");
    assert!(
        b.metrics
            .handshakes_refused
            .of(HandshakeRefusal::WentBack)
            .get()
            > 0
    );
    drop(copy);
    let (good, _) = start_of(7, 101).await;
    good.transport.send(vec![heartbeat(2, 1, 1)]);
    let met = || b.marks.seen(NodeId(1)).map(|mark| mark.start);
    eventually("met in its new run", || met() == Some(101)).await;
    assert!(good.recorder.arrived.lock().outdated.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_node_is_not_reachable_and_its_messages_are_dropped() {
    let a = Node::start(1, b"one cluster", options()).await;
    let b = Node::start(2, b"another", options()).await;
    a.transport.update_peer(entry_of(2, b.address));
    a.transport.send(vec![heartbeat(2, 1, 1)]);
    eventually("refused more than once", || {
        let refused = b.metrics.handshakes_refused.of(HandshakeRefusal::Cluster);
        refused.get() >= 4
    })
    .await;
    assert!(!a.transport.is_reachable(NodeId(2)));
    assert!(b.recorder.arrived.lock().messages.is_empty());
    assert!(a.recorder.arrived.lock().broken.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_ends_its_stream_and_nothing_else() {
    let (a, b) = pair(options()).await;
    connected(&a, &b, 2).await;
    let handshake = a.transport.shared.handshake(NodeId(2), proto::Lane::Bulk);
    let garbage = proto::ShardMessage {
        shard_id: 4,
        kind: 250,
        ..proto::ShardMessage::default()
    };
    let mut client = b.client().await;
    let frames = [
        proto::Frame {
            handshake: Some(handshake.clone()),
            ..proto::Frame::default()
        },
        proto::Frame {
            messages: vec![garbage],
            ..proto::Frame::default()
        },
    ];
    let status = end_of(&mut client, frames)
        .await
        .expect_err("an unknown kind");
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    assert!(status.message().contains("message of shard 4"), "{status}");

    let twice = proto::Frame {
        handshake: Some(handshake),
        ..proto::Frame::default()
    };
    let status = end_of(&mut client, [twice.clone(), twice])
        .await
        .expect_err("a second handshake");
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    assert_eq!(b.metrics.malformed_messages.get(), 2);

    a.transport.send(vec![heartbeat(2, 1, 77)]);
    b.recorder
        .until(|arrived| {
            let beat = arrived.messages.iter().find(|m| m.2.round == 77);
            beat.map(drop)
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_does_not_answer_costs_a_bounded_queue() {
    let options = TransportOptions {
        queue_bytes: 64 << 10,
        backoff_first: Duration::from_secs(600),
        backoff_last: Duration::from_secs(600),
        ..options()
    };
    let a = Node::start(1, b"cluster", options).await;
    // Nobody listens at a port that was free a moment ago.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    a.transport.update_peer(entry_of(2, address));
    for index in 0..1000 {
        a.transport.send(vec![append(2, 7, index, 1000)]);
    }
    let dropped = a.metrics.dropped_messages.peer(2);
    assert!(dropped.of(DropReason::QueueFull).get() >= 900);
    let peers = a.transport.shared.peers.load();
    let peer = peers.get(NodeId(2)).expect("the peer");
    assert!(peer.lane(proto::Lane::Bulk).bytes() <= 64 << 10);
}
