//! Where to send a request: the client's copy of the range map, the leaders it knows of, and the streams to the nodes.
//!
//! The copy is a hint and may be old. It is mended by the errors that requests meet (a newer descriptor, another
//! leader), and read again from any node when an error says only that it is wrong. A request that goes to the wrong
//! node is still served: nodes pass it on.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use dashmap::DashMap;
use flotilla_proto::v1::{self, kv_client::KvClient};
use flotilla_shards::{
    descriptor::Descriptor,
    ids::{NodeId, ShardId},
    range_map::RangeMap,
};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    error::{Error, Result},
    stream::{MAX_ANSWER_BYTES, NodeStream, StreamOptions},
};

/// The routes are read again at most this often.
const REFRESH_PAUSE: Duration = Duration::from_millis(200);
const REFRESH_TIMEOUT: Duration = Duration::from_secs(2);
/// Pages of routes, of 4 MiB or so, that one node is asked for at most: some ten million shards.
const ROUTE_PAGES_MAX: usize = 128;

/// The place in the keyspace that a request is about.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place<'a> {
    /// The shard that holds this key.
    Key(&'a [u8]),
    /// The shard that holds the greatest key below this one; empty: the greatest of all.
    Before(&'a [u8]),
}

/// Where a request goes, and on what belief.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) stream: NodeStream,
    /// The shard, if its route is known.
    pub(crate) shard: Option<ShardId>,
    /// The node is believed to lead the shard; otherwise it will pass the request on.
    pub(crate) leads: bool,
}

#[derive(Debug)]
pub(crate) struct Routes {
    options: StreamOptions,
    /// The nodes that the user named; always at least one.
    endpoints: Vec<NodeStream>,
    map: ArcSwap<RangeMap>,
    nodes: ArcSwap<Nodes>,
    /// By shard; entries are replaced as hints come, and an absent one means "not known". No guard outlives a statement.
    leaders: DashMap<ShardId, NodeId>,
    /// One stream per address, shared by endpoints and nodes.
    streams: Mutex<HashMap<String, NodeStream>>,
    turn: AtomicUsize,
    /// Counts successful refreshes.
    generation: AtomicU64,
    refreshing: tokio::sync::Mutex<Option<Instant>>,
    /// Somebody waits until they may be read again.
    refreshes_later: AtomicBool,
}

/// The members of the cluster, as a node told it.
#[derive(Debug, Default)]
pub(crate) struct Nodes {
    by_id: BTreeMap<NodeId, (v1::Node, NodeStream)>,
}

impl Nodes {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &v1::Node> {
        self.by_id.values().map(|(node, _)| node)
    }
}

impl Routes {
    /// Routes that know the endpoints only.
    pub(crate) fn new(endpoints: &[String], options: StreamOptions) -> Result<Self> {
        if endpoints.is_empty() {
            return Err(Error::InvalidArgument {
                message: "no endpoint is given; name at least one node as host:port".to_owned(),
            });
        }
        let mut routes = Self {
            options,
            endpoints: Vec::new(),
            map: ArcSwap::default(),
            nodes: ArcSwap::default(),
            leaders: DashMap::new(),
            streams: Mutex::default(),
            turn: AtomicUsize::new(0),
            generation: AtomicU64::new(0),
            refreshing: tokio::sync::Mutex::new(None),
            refreshes_later: AtomicBool::new(false),
        };
        routes.endpoints = endpoints
            .iter()
            .map(|endpoint| routes.stream_to(endpoint))
            .collect::<Result<_>>()?;
        Ok(routes)
    }

    fn stream_to(&self, address: &str) -> Result<NodeStream> {
        let mut streams = self.streams.lock();
        if let Some(stream) = streams.get(address) {
            return Ok(stream.clone());
        }
        let stream = NodeStream::new(address, self.options.clone())?;
        streams.insert(address.to_owned(), stream.clone());
        Ok(stream)
    }

    pub(crate) fn nodes(&self) -> Arc<Nodes> {
        self.nodes.load_full()
    }

    pub(crate) fn map(&self) -> Arc<RangeMap> {
        self.map.load_full()
    }

    pub(crate) fn leader(&self, shard: ShardId) -> Option<NodeId> {
        self.leaders.get(&shard).map(|leader| *leader)
    }

    pub(crate) fn shard_of(&self, place: Place<'_>) -> Option<ShardId> {
        let map = self.map.load();
        let found = match place {
            Place::Key(key) => map.lookup(key),
            Place::Before(end) => map.lookup_before(end),
        };
        found.map(|descriptor| descriptor.shard)
    }

    /// The leader's node if it is known and within reach, else any node.
    pub(crate) fn target(&self, place: Place<'_>) -> Target {
        let shard = self.shard_of(place);
        if let Some(leader) = shard.and_then(|shard| self.leader(shard))
            && let Some((_, stream)) = self.nodes.load().by_id.get(&leader)
            && !stream.is_down()
        {
            return Target {
                stream: stream.clone(),
                shard,
                leads: true,
            };
        }
        Target {
            stream: self.anyone(),
            shard,
            leads: false,
        }
    }

    /// Nodes in turn, those within reach first.
    pub(crate) fn anyone(&self) -> NodeStream {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let nodes = self.nodes.load();
        let known = nodes.by_id.len();
        if known > 0 {
            let in_turn = nodes.by_id.values().cycle().skip(turn % known).take(known);
            if let Some((_, stream)) = in_turn.into_iter().find(|(_, stream)| !stream.is_down()) {
                return stream.clone();
            }
        }
        let named = self.endpoints.len();
        let in_turn = self.endpoints.iter().cycle().skip(turn % named).take(named);
        let up = in_turn.clone().find(|stream| !stream.is_down());
        up.or_else(|| in_turn.clone().next())
            .expect("there is at least one endpoint")
            .clone()
    }

    /// Takes from an error what it says about routes. True: it told enough to try again at once.
    pub(crate) fn learn(&self, target: &Target, error: &Error) -> bool {
        match error {
            Error::NotLeader { leader, .. } => {
                let Some(shard) = target.shard else {
                    return false;
                };
                let leader = NodeId(*leader);
                if leader == NodeId::NONE {
                    self.leaders.remove(&shard);
                    return false;
                }
                let before = self.leaders.insert(shard, leader);
                before != Some(leader) && self.nodes.load().by_id.contains_key(&leader)
            }
            Error::EpochMismatch {
                descriptor: Some(descriptor),
                ..
            } => Descriptor::try_from((**descriptor).clone()).is_ok_and(|descriptor| {
                let before = self.map.load_full();
                let descriptor = Arc::new(descriptor);
                self.map
                    .rcu(|map| Arc::new(map.with(Arc::clone(&descriptor))));
                let known = before.by_id(descriptor.shard);
                known.is_none_or(|known| descriptor.epoch.is_newer_than(known.epoch))
            }),
            Error::Unreachable { .. }
            | Error::ConnectionLost { .. }
            | Error::ShuttingDown { .. }
            | Error::Unavailable { .. }
            | Error::OutcomeUnknown { .. }
            | Error::DeadlineExceeded { .. } => {
                // Until somebody says who leads now, others may know better than this node does. A node that finds no
                // leader or no quorum, or that hands a write to a leader and hears no more of it, may be the one that is
                // cut off.
                if let Some(shard) = target.shard
                    && target.leads
                {
                    self.leaders.remove(&shard);
                }
                false
            }
            _ => false,
        }
    }

    /// Reads all routes from the first node that answers, unless another caller has just done so.
    ///
    /// # Errors
    /// The last node's error if none answered.
    pub(crate) async fn refresh(&self) -> Result<()> {
        let seen = self.generation.load(Ordering::Acquire);
        let mut last = self.refreshing.lock().await;
        if self.generation.load(Ordering::Acquire) != seen
            || last.is_some_and(|last| last.elapsed() < REFRESH_PAUSE)
        {
            return Ok(());
        }
        *last = Some(Instant::now());
        let nodes = self.nodes.load_full();
        let others = nodes.by_id.values().map(|(_, stream)| stream);
        let mut all: Vec<&NodeStream> = self.endpoints.iter().chain(others).collect();
        all.sort_by_key(|stream| stream.is_down());
        let mut result = Ok(());
        let mut asked: Vec<&str> = Vec::new();
        for stream in all {
            if asked.contains(&stream.address()) {
                continue;
            }
            asked.push(stream.address());
            match fetch(stream).await {
                Ok(routes) => {
                    self.take(routes)?;
                    self.generation.fetch_add(1, Ordering::Release);
                    return Ok(());
                }
                Err(error) => result = Err(error),
            }
        }
        result
    }

    /// Whether the caller is the one who shall read the routes by [`Routes::refresh_later`].
    pub(crate) fn begin_refresh_later(&self) -> bool {
        !self.refreshes_later.swap(true, Ordering::AcqRel)
    }

    /// Reads all routes when they may be read again, for those that come then.
    pub(crate) async fn refresh_later(&self) {
        tokio::time::sleep(REFRESH_PAUSE).await;
        self.refreshes_later.store(false, Ordering::Release);
        // If no node answers, requests will say so themselves.
        let _ = self.refresh().await;
    }

    fn take(&self, routes: v1::RoutesResponse) -> Result<()> {
        let mut by_id = BTreeMap::new();
        for node in routes.nodes {
            let stream = self.stream_to(&node.address)?;
            by_id.insert(NodeId(node.node_id), (node, stream));
        }
        // Streams to nodes that are no longer part of the cluster end here.
        self.streams.lock().retain(|address, _| {
            by_id.values().any(|(node, _)| node.address == *address)
                || self
                    .endpoints
                    .iter()
                    .any(|stream| stream.address() == address)
        });
        self.nodes.store(Arc::new(Nodes { by_id }));
        let mut descriptors = Vec::with_capacity(routes.routes.len());
        for route in routes.routes {
            let Some(Ok(descriptor)) = route.descriptor.map(Descriptor::try_from) else {
                continue; // a description that this version does not understand: requests find their way without it
            };
            if route.leader != 0 {
                self.leaders.insert(descriptor.shard, NodeId(route.leader));
            }
            descriptors.push(Arc::new(descriptor));
        }
        self.map
            .rcu(|map| Arc::new(map.with_all(descriptors.iter().cloned())));
        let map = self.map.load();
        self.leaders.retain(|shard, _| map.by_id(*shard).is_some());
        Ok(())
    }
}

/// Reads all routes of a node, page by page.
async fn fetch(stream: &NodeStream) -> Result<v1::RoutesResponse> {
    let mut client = KvClient::new(stream.channel()).max_decoding_message_size(MAX_ANSWER_BYTES);
    let mut all = v1::RoutesResponse::default();
    for _ in 0..ROUTE_PAGES_MAX {
        let after_shard_id = all.next_after_shard_id;
        let call = client.routes(v1::RoutesRequest { after_shard_id });
        let page = match tokio::time::timeout(REFRESH_TIMEOUT, call).await {
            Ok(Ok(page)) => page.into_inner(),
            Ok(Err(status)) => return Err(Error::from_status(stream.address(), &status)),
            Err(_) => {
                return Err(Error::DeadlineExceeded {
                    address: stream.address().to_owned(),
                    sent: true,
                });
            }
        };
        all.routes.extend(page.routes);
        all.nodes = page.nodes;
        // Ids rise from page to page; a node whose don't would be asked for ever.
        if page.next_after_shard_id <= after_shard_id {
            return Ok(all);
        }
        all.next_after_shard_id = page.next_after_shard_id;
    }
    Err(Error::Protocol {
        address: stream.address().to_owned(),
        message: format!("more than {ROUTE_PAGES_MAX} pages of routes"),
    })
}
