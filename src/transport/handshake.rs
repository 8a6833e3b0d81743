//! Which streams of other nodes are let in.
//!
//! Every stream begins with a handshake that says from whom it comes and whom it means. A node of another cluster, a
//! second data folder under a known node's id, and a stream that reached the wrong address are refused with an error
//! that names both sides; both ends log it once per cause.

use std::{
    collections::VecDeque,
    fmt::Write as _,
    sync::Arc,
    time::{Duration, Instant},
};

use flotilla_metrics::{HandshakeRefusal, Metrics};
use flotilla_proto::v1 as proto;
use flotilla_shards::{
    ids::NodeId,
    lineage::{Lineage, LineageError, Mark, WentBack},
    node::{Node, NodeError},
};
use parking_lot::Mutex;
use tonic::{Status, metadata::AsciiMetadataValue};

use super::{
    LocalNode, PROTOCOL,
    peers::{Peer, Peers},
};

/// Why a stream was refused. The text goes back to the other end and says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// The first message has no handshake.
    #[error("the stream does not begin with a handshake; is the other end a Flotilla node?")]
    Missing,
    /// The handshake came too late.
    #[error("no handshake came within {} ms", .0.as_millis())]
    Late(Duration),
    /// The other end speaks another version.
    #[error(
        "node {node} speaks version {theirs} of the peer protocol and this node version {PROTOCOL}: run the same \
         release on all nodes"
    )]
    Protocol {
        /// Who asks.
        node: u64,
        /// Its version.
        theirs: u32,
    },
    /// The other end belongs to another cluster.
    #[error(
        "node {node} belongs to cluster {theirs}, but this node to cluster {ours}: check the addresses and the data \
         folders of both"
    )]
    ForeignCluster {
        /// Who asks.
        node: u64,
        /// Its cluster.
        theirs: String,
        /// Ours.
        ours: String,
    },
    /// The stream means another node.
    #[error(
        "wrong address: node {node} looks for node {wanted}, but this is node {me}: check the addresses that the nodes \
         advertise"
    )]
    WrongNode {
        /// Who asks.
        node: u64,
        /// Whom it means.
        wanted: u64,
        /// Who we are.
        me: NodeId,
    },
    /// The other end claims our own id.
    #[error(
        "twin node: another process also says that it is node {me}: one of the two runs on a copied data folder and \
         must be stopped"
    )]
    OwnId {
        /// Our id.
        me: NodeId,
    },
    /// The cluster has no such node.
    #[error("node {node} is not a node of this cluster")]
    UnknownNode {
        /// Who asks.
        node: u64,
    },
    /// Another data folder under a known node's id.
    #[error(
        "twin node: node {node} is known with data folder {known}, but comes with {theirs}: it was wiped or copied, and \
         must not come back under the same id"
    )]
    Twin {
        /// Who asks.
        node: u64,
        /// The store that the cluster knows.
        known: String,
        /// The store that it has.
        theirs: String,
    },
    /// The other end's store is older than it was seen.
    #[error(
        "node {node} must not take part: {why}. Votes and entries that it confirmed are missing there. Stop it and put its \
         newest data folder back"
    )]
    WentBack {
        /// Who asks.
        node: u64,
        /// Where it was seen, and where it is.
        why: WentBack,
    },
    /// What it says of its starts makes no sense.
    #[error("what node {node} says of the starts of its store makes no sense: {why}")]
    Starts {
        /// Who asks.
        node: u64,
        /// What is wrong.
        why: LineageError,
    },
    /// It does not say when its store was started.
    #[error("node {node} does not say when its store was started")]
    NoStart {
        /// Who asks.
        node: u64,
    },
    /// The other end measures leases otherwise.
    #[error(
        "node {node} uses leases with an election timeout of {} and ticks of {}, this node with {} and {}: reads could \
         return old values. Give both the same raft.election_timeout and raft.heartbeat_interval, or switch raft.leases off \
         at one of them",
        ms(theirs.tick_ns.saturating_mul(theirs.election_ticks.into())), ms(theirs.tick_ns),
        ms(ours.tick_ns.saturating_mul(ours.election_ticks.into())), ms(ours.tick_ns)
    )]
    Leases {
        /// Who asks.
        node: u64,
        /// How it measures.
        theirs: proto::LeaseClock,
        /// How this node does.
        ours: proto::LeaseClock,
    },
    /// It is another node than its certificate says.
    #[error(
        "the stream says that it comes from node {node}, but its certificate names node {certified}: give each node the \
         certificate that was made for it"
    )]
    Certificate {
        /// Who it says that it is.
        node: u64,
        /// Who its certificate says that it is.
        certified: NodeId,
    },
    /// A lane that this version does not know.
    #[error("node {node} opened lane {lane}, which this version does not know")]
    Lane {
        /// Who asks.
        node: u64,
        /// The lane's number.
        lane: i32,
    },
    /// What it says of itself makes no sense.
    #[error("what the other end says of itself makes no sense: {0}")]
    Description(NodeError),
}

impl HandshakeError {
    /// The label in the metrics.
    #[must_use]
    pub fn label(&self) -> HandshakeRefusal {
        match self {
            Self::Missing
            | Self::Late(_)
            | Self::Lane { .. }
            | Self::Description(_)
            | Self::Starts { .. }
            | Self::NoStart { .. } => HandshakeRefusal::Malformed,
            Self::WentBack { .. } => HandshakeRefusal::WentBack,
            Self::Protocol { .. } => HandshakeRefusal::Protocol,
            Self::ForeignCluster { .. } => HandshakeRefusal::Cluster,
            Self::WrongNode { .. } => HandshakeRefusal::WrongNode,
            Self::OwnId { .. } | Self::Twin { .. } => HandshakeRefusal::TwinNode,
            Self::UnknownNode { .. } => HandshakeRefusal::UnknownNode,
            Self::Leases { .. } => HandshakeRefusal::Leases,
            Self::Certificate { .. } => HandshakeRefusal::Certificate,
        }
    }
}

fn ms(ns: u64) -> String {
    format!("{} ms", ns as f64 / 1e6)
}

/// Marks a refusal after which the other end must stop, as its store is from the past.
const OUTDATED: &str = "flotilla-outdated";

impl From<HandshakeError> for Status {
    fn from(error: HandshakeError) -> Self {
        let mut status = Self::failed_precondition(error.to_string());
        if matches!(error, HandshakeError::WentBack { .. }) {
            let yes = AsciiMetadataValue::from_static("yes");
            status.metadata_mut().insert(OUTDATED, yes);
        }
        status
    }
}

/// Whether a refusal says that the own store is from the past.
pub(super) fn is_outdated(status: &Status) -> bool {
    status.metadata().contains_key(OUTDATED)
}

/// Bytes as lower-case hex, at most 16 of them: ids of clusters and stores in messages.
#[must_use]
pub fn short_hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(32);
    for byte in bytes.iter().take(16) {
        // Writing to a string can't fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Whose stream was let in.
pub(super) struct Admitted {
    pub(super) peer: Arc<Peer>,
    pub(super) lane: proto::Lane,
    /// The start of the other process.
    pub(super) start: u64,
    /// Set if the node is reached at other addresses than were known.
    pub(super) moved: Option<proto::Node>,
}

/// Decides who comes in.
pub(super) struct Door {
    local: LocalNode,
    peers: Arc<Peers>,
    metrics: Arc<Metrics>,
    repeats: Mutex<Repeats>,
}

impl Door {
    pub(super) fn new(local: LocalNode, peers: Arc<Peers>, metrics: Arc<Metrics>) -> Self {
        Self {
            local,
            peers,
            metrics,
            repeats: Mutex::default(),
        }
    }

    pub(super) fn local(&self) -> &LocalNode {
        &self.local
    }

    /// Checks a handshake. A refusal is counted, and logged unless it repeats the one before.
    pub(super) fn admit(
        &self,
        handshake: Option<proto::Handshake>,
        certified: Option<NodeId>,
    ) -> Result<Admitted, HandshakeError> {
        let checked = self.check(handshake, certified);
        checked.inspect_err(|error| self.note(error))
    }

    /// Counts and logs a refusal.
    pub(super) fn note(&self, error: &HandshakeError) {
        self.metrics.handshakes_refused.of(error.label()).inc();
        let text = error.to_string();
        if self.repeats.lock().is_news(&text) {
            tracing::warn!(reason = text, "stream of another node refused");
        }
    }

    pub(super) fn check(
        &self,
        handshake: Option<proto::Handshake>,
        certified: Option<NodeId>,
    ) -> Result<Admitted, HandshakeError> {
        let handshake = handshake.ok_or(HandshakeError::Missing)?;
        let node = handshake.from_node;
        // The certificate's cluster was held against ours when the connection was made.
        if let Some(certified) = certified.filter(|certified| certified.0 != node) {
            return Err(HandshakeError::Certificate { node, certified });
        }
        if handshake.protocol != PROTOCOL {
            return Err(HandshakeError::Protocol {
                node,
                theirs: handshake.protocol,
            });
        }
        if handshake.cluster_id != self.local.cluster_id {
            return Err(HandshakeError::ForeignCluster {
                node,
                theirs: short_hex(&handshake.cluster_id),
                ours: short_hex(&self.local.cluster_id),
            });
        }
        if handshake.to_node != self.local.node_id.0 {
            return Err(HandshakeError::WrongNode {
                node,
                wanted: handshake.to_node,
                me: self.local.node_id,
            });
        }
        if node == self.local.node_id.0 {
            return Err(HandshakeError::OwnId {
                me: self.local.node_id,
            });
        }
        let peers = self.peers.load();
        let peer = peers
            .get(NodeId(node))
            .ok_or(HandshakeError::UnknownNode { node })?;
        let known = peer.node.borrow().clone();
        if known.store_id != handshake.from_store {
            return Err(HandshakeError::Twin {
                node,
                known: short_hex(&known.store_id),
                theirs: short_hex(&handshake.from_store),
            });
        }
        if let (Some(theirs), Some(ours)) = (handshake.leases, self.local.leases)
            && theirs != ours
        {
            return Err(HandshakeError::Leases { node, theirs, ours });
        }
        let lane = proto::Lane::try_from(handshake.lane).map_err(|_| HandshakeError::Lane {
            node,
            lane: handshake.lane,
        })?;
        let starts: VecDeque<Mark> = handshake.starts.into_iter().map(Mark::from).collect();
        let lineage = Lineage::new(starts).map_err(|why| HandshakeError::Starts { node, why })?;
        let newest = lineage.newest().ok_or(HandshakeError::NoStart { node })?;
        let says = proto::Node {
            address: handshake.address,
            peer_address: handshake.peer_address,
            status_address: handshake.status_address,
            ..known.clone()
        };
        let moved = (says != known).then(|| Node::try_from(says.clone()).map(|_| says));
        let moved = moved.transpose().map_err(HandshakeError::Description)?;
        let met = self.local.marks.meet(NodeId(node), &lineage);
        met.map_err(|why| HandshakeError::WentBack { node, why })?;
        Ok(Admitted {
            peer: Arc::clone(peer),
            lane,
            start: newest.start,
            moved,
        })
    }
}

/// Keeps the log from repeating itself: the same text is news once a minute.
#[derive(Debug, Default)]
pub(crate) struct Repeats {
    last: Option<(String, Instant)>,
}

impl Repeats {
    const SILENCE: Duration = Duration::from_secs(60);

    pub(crate) fn is_news(&mut self, text: &str) -> bool {
        let repeated = self
            .last
            .as_ref()
            .is_some_and(|(last, at)| last == text && at.elapsed() < Self::SILENCE);
        if !repeated {
            self.last = Some((text.to_owned(), Instant::now()));
        }
        !repeated
    }
}
