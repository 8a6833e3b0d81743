//! How nodes talk: Raft messages of all shards in batches, and the content of snapshots.
//!
//! Between two nodes there are two *lanes* per direction, each a gRPC stream on a connection of its own: votes,
//! heartbeats and read confirmations never wait behind bulk appends. A lane has a queue that is bounded in bytes; what
//! does not fit is dropped and counted, because Raft repeats it. The stream of frames takes straight from that queue:
//! no task and no channel lie between the thread that sends and the connection.
//!
//! - [`queue`]: the bounded queue, and the stream that cuts it into frames.
//! - `link`: the task that keeps one lane connected.
//! - [`handshake`]: which streams of other nodes are accepted.
//! - `inbound`: frames of other nodes on their way to the engine.
//! - [`snapshot`]: sending and receiving a shard's state.
//!
//! What may not live here: any decision about a shard. A message is handed over or lost, never answered.

#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod handshake;
mod inbound;
mod link;
mod offset;
mod peers;
pub mod queue;
pub mod snapshot;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use flotilla_metrics::Metrics;
use flotilla_proto::v1 as proto;
use flotilla_shards::{
    engine::Outgoing,
    ids::{NodeId, ShardId},
    limits::MESSAGE_BYTES_MAX,
    raft::Message,
};
use smallvec::SmallVec;
use tokio::sync::watch;
use tonic::transport::Channel;

use crate::{
    marks::Marks,
    tls::{self, ClientTls},
};

use self::{
    handshake::{Admitted, Door},
    peers::{Peer, Peers},
    queue::Queued,
    snapshot::{SendJob, SendOutcome, Senders, SnapshotRefused, SnapshotSink},
};

pub use self::{
    inbound::Delivery,
    snapshot::{OpenSnapshot, SnapshotSource},
};
use crate::clock::wall_ms;

/// Version of what nodes say to each other; both ends must have the same.
pub const PROTOCOL: u32 = 2;

/// Who this node is.
#[derive(Clone, Debug)]
pub struct LocalNode {
    /// The cluster that it belongs to, 16 bytes.
    pub cluster_id: Bytes,
    /// Its id in that cluster.
    pub node_id: NodeId,
    /// The id of its data folder, 16 bytes.
    pub store_id: Bytes,
    /// host:port at which clients reach it; told to each of the others.
    pub address: String,
    /// host:port at which other nodes reach it.
    pub peer_address: String,
    /// host:port of its status server.
    pub status_address: String,
    /// By what it measures leases, if it uses any.
    pub leases: Option<proto::LeaseClock>,
    /// How far its store is, which it tells, and how far those of others were seen.
    pub marks: Arc<Marks>,
}

/// Bounds and times of the transport.
#[derive(Clone, Debug)]
pub struct TransportOptions {
    /// A frame is closed when it has grown to this size, in encoded bytes.
    pub frame_bytes: usize,
    /// The largest frame that nodes accept from each other, in bytes. A single message may make a frame larger than
    /// `frame_bytes`, never larger than this.
    pub max_frame_bytes: usize,
    /// Bytes that may wait, per peer and lane.
    pub queue_bytes: usize,
    /// How long a connection attempt may take.
    pub connect_timeout: Duration,
    /// After this long without traffic a ping is sent.
    pub keepalive_interval: Duration,
    /// A connection whose ping is not answered within this time is broken.
    pub keepalive_timeout: Duration,
    /// How long a stream may stay without its handshake.
    pub handshake_timeout: Duration,
    /// First pause before a connection is tried again; doubles from try to try.
    pub backoff_first: Duration,
    /// Longest pause.
    pub backoff_last: Duration,
    /// A peer counts as reachable for this long after it was heard from.
    pub liveness: Duration,
    /// Bytes of snapshots sent per second, over all transfers.
    pub snapshot_bytes_per_second: u64,
    /// Snapshots that are sent at the same time.
    pub snapshot_sends: usize,
    /// Snapshots that are received at the same time.
    pub snapshot_receives: usize,
    /// Snapshots that may wait to be sent; more are refused at once, and asked for again by Raft.
    pub snapshot_waiting: usize,
    /// A transfer without any progress for this long is given up.
    pub snapshot_stall: Duration,
    /// What is shown to other nodes and demanded of them; none: plaintext.
    pub tls: Option<ClientTls>,
}

impl Default for TransportOptions {
    fn default() -> Self {
        Self {
            frame_bytes: 1 << 20,
            max_frame_bytes: MESSAGE_BYTES_MAX,
            queue_bytes: 64 << 20,
            connect_timeout: Duration::from_secs(2),
            keepalive_interval: Duration::from_secs(2),
            keepalive_timeout: Duration::from_secs(4),
            handshake_timeout: Duration::from_secs(5),
            backoff_first: Duration::from_millis(50),
            backoff_last: Duration::from_secs(2),
            liveness: Duration::from_secs(3),
            snapshot_bytes_per_second: 64 << 20,
            snapshot_sends: 2,
            snapshot_receives: 2,
            snapshot_waiting: 64,
            snapshot_stall: Duration::from_secs(30),
            tls: None,
        }
    }
}

/// Where messages from other nodes go. Called from the tasks of the connections: must be quick and must not block.
pub trait Inbound: Send + Sync + 'static {
    /// Checked messages of one frame, in the order in which the other node sent them.
    fn deliver(&self, from: NodeId, messages: Vec<(ShardId, Message)>);

    /// Another node says that it lives; `incarnation` differs at each of its starts.
    fn alive(&self, from: NodeId, incarnation: u64);

    /// A node has seen this one's store further than it is now, and lets it in no more: its folder is from the past.
    fn outdated(&self, reason: String);

    /// The link to a node broke; messages that were on their way may be lost.
    fn unreachable(&self, node: NodeId);

    /// A known node is reached at another address than before. The transport itself has taken it over already.
    fn moved(&self, node: proto::Node);

    /// Another node offers the state of a shard. `message` is the announcing `MsgSnap`; the sink gives it to the
    /// replica once the content is complete and durable.
    ///
    /// # Errors
    /// [`SnapshotRefused`] if it is not wanted, or can't be taken now.
    fn begin_snapshot(
        &self,
        from: NodeId,
        shard: ShardId,
        message: Message,
    ) -> Result<Box<dyn SnapshotSink>, SnapshotRefused>;
}

/// The node's connections to all others. Cheap to clone.
#[derive(Clone)]
pub struct Transport {
    shared: Arc<Shared>,
}

/// Messages of one lane to one peer.
type Group<'a> = (&'a Arc<Peer>, proto::Lane, Vec<Queued>);

/// What the tasks of the transport have in common.
struct Shared {
    door: Door,
    options: TransportOptions,
    inbound: Arc<dyn Inbound>,
    metrics: Arc<Metrics>,
    peers: Arc<Peers>,
    senders: Senders,
    receives: tokio::sync::Semaphore,
    runtime: tokio::runtime::Handle,
    stop: watch::Sender<bool>,
}

impl Transport {
    /// Connects to the peers and keeps connected. Must be called within a tokio runtime. The own node may be among
    /// `peers`; it is left out.
    pub fn start(
        local: LocalNode,
        peers: Vec<proto::Node>,
        options: TransportOptions,
        inbound: Arc<dyn Inbound>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let table = Arc::new(Peers::new());
        let shared = Arc::new(Shared {
            door: Door::new(local, Arc::clone(&table), Arc::clone(&metrics)),
            senders: Senders::new(&options),
            receives: tokio::sync::Semaphore::new(options.snapshot_receives),
            options,
            inbound,
            metrics,
            peers: table,
            runtime: tokio::runtime::Handle::current(),
            stop: watch::Sender::new(false),
        });
        let transport = Self { shared };
        for node in peers {
            transport.update_peer(node);
        }
        transport
    }

    /// Queues messages for other nodes. Never blocks: what does not fit is dropped and counted. Messages to the same
    /// node and of the same lane stay in order.
    pub fn send(&self, messages: Vec<Outgoing>) {
        let peers = self.shared.peers.load();
        // One push per peer and lane, so that each queue's lock is taken once.
        let mut groups: SmallVec<[Group<'_>; 8]> = SmallVec::new();
        let count = messages.len();
        for outgoing in messages {
            let lane = if outgoing.is_urgent() {
                proto::Lane::Urgent
            } else {
                proto::Lane::Bulk
            };
            let Some(peer) = peers.get(outgoing.node) else {
                // A descriptor may name a node before the node table does.
                tracing::debug!(node = %outgoing.node, shard = %outgoing.shard, "message to an unknown node dropped");
                continue;
            };
            let queued = Queued::new(outgoing.shard, outgoing.message);
            match groups
                .iter_mut()
                .find(|(known, known_lane, _)| *known_lane == lane && Arc::ptr_eq(known, peer))
            {
                Some((_, _, group)) => group.push(queued),
                None => {
                    let mut group = Vec::with_capacity(count.min(64));
                    group.push(queued);
                    groups.push((peer, lane, group));
                }
            }
        }
        for (peer, lane, group) in groups {
            peer.lane(lane).push(group);
        }
    }

    /// Tells all other nodes that this one lives. Never blocks.
    pub fn say_alive(&self, incarnation: u64) {
        let alive = proto::Alive {
            incarnation,
            wall_ms: wall_ms(),
        };
        for peer in self.shared.peers.load().iter() {
            peer.lane(proto::Lane::Urgent).say_alive(alive);
        }
    }

    /// Takes in a node's address and store, or new ones of a known node: its links then connect to the new address.
    pub fn update_peer(&self, node: proto::Node) {
        let shared = &self.shared;
        if NodeId(node.node_id) == shared.door.local().node_id {
            return;
        }
        if let Some(peer) = shared.peers.update(node, &shared.options, &shared.metrics) {
            for lane in [proto::Lane::Urgent, proto::Lane::Bulk] {
                shared
                    .runtime
                    .spawn(link::run(Arc::clone(shared), Arc::clone(&peer), lane));
            }
        }
    }

    /// Whether the node was heard from a moment ago, or a connection to it stands (which pings prove).
    #[must_use]
    pub fn is_reachable(&self, node: NodeId) -> bool {
        let shared = &self.shared;
        node == shared.door.local().node_id
            || shared
                .peers
                .load()
                .get(node)
                .is_some_and(|peer| peer.is_reachable(shared.options.liveness))
    }

    /// Sends a shard's state to a follower. The source is opened when it is this transfer's turn; `done` is called
    /// exactly once, on a task of the runtime or at once if too many transfers wait already.
    pub fn send_snapshot(
        &self,
        node: NodeId,
        shard: ShardId,
        source: Box<dyn SnapshotSource>,
        done: Box<dyn FnOnce(SendOutcome) + Send>,
    ) {
        snapshot::send(&self.shared, SendJob::new(node, shard, source, done));
    }

    /// A stream of frames of another node: `Peer.Deliver`. Returns once its handshake is accepted; the frames are taken in
    /// as the answer is polled. `certified`: the node that the certificate of the connection names, if it has one.
    ///
    /// # Errors
    /// A refused handshake as status; the answer ends with one after a malformed frame or when the stream breaks.
    pub async fn deliver(
        &self,
        frames: tonic::Streaming<proto::Frame>,
        certified: Option<NodeId>,
    ) -> Result<Delivery, tonic::Status> {
        inbound::deliver(Arc::clone(&self.shared), frames, certified).await
    }

    /// A shard's state from another node: `Peer.InstallSnapshot`. `certified` as for [`Transport::deliver`].
    ///
    /// # Errors
    /// A refused handshake or snapshot, or a broken or malformed stream, as status.
    pub async fn install_snapshot(
        &self,
        chunks: tonic::Streaming<proto::SnapshotChunk>,
        certified: Option<NodeId>,
    ) -> Result<proto::InstallSnapshotResponse, tonic::Status> {
        snapshot::receive(&self.shared, chunks, certified).await
    }

    /// Ends all links and transfers. What is still queued is lost.
    pub fn stop(&self) {
        self.shared.stop.send_replace(true);
        for peer in self.shared.peers.load().iter() {
            peer.close();
        }
    }
}

impl Shared {
    /// Resolves when the transport is stopped.
    async fn stopped(&self) {
        let mut stop = self.stop.subscribe();
        // An error would mean that the sender is gone, which `self` owns.
        let _ = stop.wait_for(|stopped| *stopped).await;
    }

    /// Connects to the node that must be at an address.
    ///
    /// # Errors
    /// Why there is no connection, for the operator.
    async fn connect(&self, node: NodeId, address: &str) -> Result<Channel, String> {
        let options = &self.options;
        let tls = options.tls.as_ref().map(|tls| tls.expecting(node));
        let endpoint = tls::client::endpoint(address, tls.as_ref());
        let endpoint = endpoint
            .map_err(|error| format!("not an address: {}", innermost(&error)))?
            .tcp_nodelay(true)
            .connect_timeout(options.connect_timeout)
            .http2_keep_alive_interval(options.keepalive_interval)
            .keep_alive_timeout(options.keepalive_timeout)
            .keep_alive_while_idle(true);
        let connected = tls::client::connect(&endpoint, tls.as_ref()).await;
        connected.map_err(|error| innermost(&error))
    }

    /// The handshake of a stream to `peer`.
    fn handshake(&self, peer: NodeId, lane: proto::Lane) -> proto::Handshake {
        let local = self.door.local();
        proto::Handshake {
            protocol: PROTOCOL,
            cluster_id: local.cluster_id.clone(),
            from_node: local.node_id.0,
            from_store: local.store_id.clone(),
            to_node: peer.0,
            lane: lane.into(),
            address: local.address.clone(),
            peer_address: local.peer_address.clone(),
            status_address: local.status_address.clone(),
            starts: (local.marks.lineage().starts()).map(Into::into).collect(),
            leases: local.leases,
        }
    }

    /// Checks the handshake of another node's stream, and counts and logs a refusal. Takes over the addresses that a node
    /// says it has now.
    fn admit(
        &self,
        handshake: Option<proto::Handshake>,
        certified: Option<NodeId>,
    ) -> Result<Admitted, tonic::Status> {
        let admitted = self.door.admit(handshake, certified);
        let mut admitted = admitted.map_err(tonic::Status::from)?;
        if let Some(node) = admitted.moved.take() {
            tracing::info!(node = %admitted.peer.id, address = node.address, "the node has another address now");
            self.peers
                .update(node.clone(), &self.options, &self.metrics);
            self.inbound.moved(node);
        }
        Ok(admitted)
    }
}

/// The label of a lane in the metrics.
fn lane_label(lane: proto::Lane) -> flotilla_metrics::Lane {
    match lane {
        proto::Lane::Urgent => flotilla_metrics::Lane::Urgent,
        proto::Lane::Bulk => flotilla_metrics::Lane::Bulk,
    }
}

/// The innermost cause of an error: tonic wraps "connection refused" in several layers.
pub(crate) fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
