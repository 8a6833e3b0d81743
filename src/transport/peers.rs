//! The table of the other nodes: address, store, queues and what is known of their health.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, Guard};
use flotilla_metrics::{Counter, Gauge, Metrics};
use flotilla_proto::v1 as proto;
use flotilla_shards::ids::NodeId;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::{TransportOptions, lane_label, offset::ClockOffset, queue::LaneQueue};
use crate::clock::wall_ms;

/// One other node.
pub(super) struct Peer {
    pub(super) id: NodeId,
    /// Newest address and store; the links follow its changes.
    pub(super) node: watch::Sender<proto::Node>,
    urgent: Arc<LaneQueue>,
    bulk: Arc<LaneQueue>,
    /// When the table began; `heard_ms` counts from there.
    epoch: Instant,
    /// Milliseconds since `epoch` when a frame last came, plus one; 0 for never.
    heard_ms: AtomicU64,
    /// Bit per lane: the outgoing connection stands.
    up: AtomicU8,
    /// Per lane: the peer has connected to this node since the link last looked, so that it can be reached again.
    back: [Notify; 2],
    /// The break of the links was reported and none was made since.
    broken_reported: AtomicBool,
    received: [(Counter, Counter); 2],
    connected: [Gauge; 2],
    clock: Mutex<ClockOffset>,
    pub(super) connects: [Counter; 2],
}

impl Peer {
    fn new(node: proto::Node, options: &TransportOptions, metrics: &Metrics) -> Self {
        let id = NodeId(node.node_id);
        let queue = |lane| Arc::new(LaneQueue::new(id, lane, options.queue_bytes, metrics));
        let lanes = [proto::Lane::Urgent, proto::Lane::Bulk];
        Self {
            id,
            urgent: queue(proto::Lane::Urgent),
            bulk: queue(proto::Lane::Bulk),
            node: watch::Sender::new(node),
            epoch: Instant::now(),
            heard_ms: AtomicU64::new(0),
            up: AtomicU8::new(0),
            back: Default::default(),
            broken_reported: AtomicBool::new(false),
            received: lanes.map(|lane| {
                let lane = lane_label(lane);
                (
                    metrics.received_messages.peer(id.0).of(lane).clone(),
                    metrics.received_bytes.peer(id.0).of(lane).clone(),
                )
            }),
            connected: lanes.map(|lane| metrics.connected.peer(id.0).of(lane_label(lane)).clone()),
            clock: Mutex::new(ClockOffset::new(metrics.clock_offset.peer(id.0))),
            connects: lanes.map(|lane| metrics.connects.peer(id.0).of(lane_label(lane)).clone()),
        }
    }

    /// The queue of a lane.
    pub(super) fn lane(&self, lane: proto::Lane) -> &Arc<LaneQueue> {
        match lane {
            proto::Lane::Urgent => &self.urgent,
            proto::Lane::Bulk => &self.bulk,
        }
    }

    /// Notes and counts a frame of this peer.
    pub(super) fn heard(&self, lane: proto::Lane, messages: usize, bytes: usize) {
        let now = u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.heard_ms.store(now + 1, Ordering::Relaxed);
        let (message_count, byte_count) = &self.received[lane as usize];
        message_count.inc_by(messages as u64);
        byte_count.inc_by(bytes as u64);
    }

    /// Notes what time it is there.
    pub(super) fn heard_time(&self, their_ms: u64) {
        let mut clock = self.clock.lock();
        clock.heard(Instant::now(), wall_ms(), their_ms);
    }

    /// Notes that the connection of a lane stands.
    pub(super) fn link_up(&self, lane: proto::Lane) {
        self.up.fetch_or(1 << lane as u8, Ordering::Relaxed);
        self.broken_reported.store(false, Ordering::Relaxed);
        self.connected[lane as usize].set(1);
    }

    /// Notes that the connection of a lane is gone. True if this is to be reported: the other lane's break, which
    /// mostly follows at once, is not news.
    pub(super) fn link_down(&self, lane: proto::Lane) -> bool {
        let bit = 1 << lane as u8;
        let before = self.up.fetch_and(!bit, Ordering::Relaxed);
        self.connected[lane as usize].set(0);
        before & bit != 0 && !self.broken_reported.swap(true, Ordering::Relaxed)
    }

    /// Whether it was heard from within `window`, or a connection to it stands.
    pub(super) fn is_reachable(&self, window: Duration) -> bool {
        if self.up.load(Ordering::Relaxed) != 0 {
            return true;
        }
        let heard = self.heard_ms.load(Ordering::Relaxed);
        heard != 0 && self.epoch.elapsed() <= Duration::from_millis(heard) + window
    }

    /// The peer has connected to this node: whoever waits before the next try need not wait any longer.
    pub(super) fn is_back(&self) {
        self.back.iter().for_each(Notify::notify_one);
    }

    /// Waits until the peer has connected to this node.
    pub(super) async fn returned(&self, lane: proto::Lane) {
        self.back[lane as usize].notified().await;
    }

    /// Ends both streams.
    pub(super) fn close(&self) {
        self.urgent.close();
        self.bulk.close();
    }
}

/// The peers in the order of their ids. Read without a lock.
pub(super) struct Peers {
    table: ArcSwap<Table>,
    /// Held while the table is replaced.
    changing: Mutex<()>,
}

/// One version of the table.
#[derive(Default)]
pub(super) struct Table(Vec<Arc<Peer>>);

impl Table {
    pub(super) fn get(&self, node: NodeId) -> Option<&Arc<Peer>> {
        // A cluster has few nodes; the ids lie side by side behind few pointers.
        let at = self.0.binary_search_by_key(&node, |peer| peer.id).ok()?;
        self.0.get(at)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Peer>> {
        self.0.iter()
    }
}

impl Peers {
    pub(super) fn new() -> Self {
        Self {
            table: ArcSwap::default(),
            changing: Mutex::new(()),
        }
    }

    pub(super) fn load(&self) -> Guard<Arc<Table>> {
        self.table.load()
    }

    /// Takes in a node. Returns its peer if it is new and needs links.
    pub(super) fn update(
        &self,
        node: proto::Node,
        options: &TransportOptions,
        metrics: &Metrics,
    ) -> Option<Arc<Peer>> {
        let _one_at_a_time = self.changing.lock();
        let table = self.table.load();
        if let Some(peer) = table.get(NodeId(node.node_id)) {
            peer.node.send_if_modified(|known| {
                let changed = *known != node;
                *known = node;
                changed
            });
            return None;
        }
        let peer = Arc::new(Peer::new(node, options, metrics));
        let mut peers = table.0.clone();
        peers.push(Arc::clone(&peer));
        peers.sort_by_key(|peer| peer.id);
        self.table.store(Arc::new(Table(peers)));
        Some(peer)
    }
}
