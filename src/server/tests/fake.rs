//! Nodes with the real services over real sockets, and in place of engine and disk a machine that applies at once and
//! can be told to misbehave.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use flotilla_metrics::Port;
use flotilla_proto::v1::{admin_client::AdminClient, kv_client::KvClient, peer_client::PeerClient};
use flotilla_shards::{
    engine::{Refused, RoleChange},
    genesis::{self, Split},
    ids::ShardId,
    kv::{MemoryState, StateBatch, StateMachine, StateView},
    limits::Limits,
    lineage::Mark,
    raft::{Entry, EntryKind, Index, Message, Role, Term},
};
use futures_util::future::{BoxFuture, FutureExt as _};
use prost::Message as _;
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};
use tonic::transport::Channel;

use super::super::{
    access::{Access, AccessOptions},
    audit::Audit,
    door::DoorOptions,
    forward::NodeStreams,
    *,
};
use crate::{
    router::Router,
    runtime::{Answer, Busy, Reply, ShardRequest},
    shutdown::Gate,
    transport::{
        Inbound, LocalNode, Transport, TransportOptions,
        snapshot::{SnapshotRefused, SnapshotSink},
    },
};
use flotilla_proto::v1 as proto;

/// What the machine does with the next request of a shard.
pub(super) enum Act {
    /// Does it, and answers so.
    Refuse(Refused),
    /// Keeps the reply; nothing is applied.
    Keep,
    /// Applies it, and loses the answer.
    ApplyAndForget,
    /// Drops the reply.
    Drop,
    /// Takes nothing.
    Busy,
}

/// A machine that applies at once: engine, log and state database of one node.
#[derive(Default)]
pub(super) struct Machine {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    state: MemoryState,
    machines: BTreeMap<ShardId, StateMachine>,
    script: VecDeque<Act>,
    kept: Vec<Reply>,
    open_leases: BTreeSet<ShardId>,
    submitted: usize,
    transfers: Vec<(ShardId, NodeId)>,
}

impl Machine {
    pub(super) fn script(&self, acts: impl IntoIterator<Item = Act>) {
        self.inner.lock().script.extend(acts);
    }

    /// How many requests came to this machine.
    pub(super) fn submitted(&self) -> usize {
        self.inner.lock().submitted
    }

    /// Lets reads of a shard go without this machine.
    pub(super) fn open_lease(&self, shard: ShardId) {
        self.inner.lock().open_leases.insert(shard);
    }

    pub(super) fn kept(&self) -> usize {
        self.inner.lock().kept.len()
    }

    /// Answers the kept requests.
    pub(super) fn release(&self, outcome: impl Fn() -> crate::runtime::Outcome) {
        let kept = std::mem::take(&mut self.inner.lock().kept);
        for reply in kept {
            reply.send(outcome());
        }
    }

    pub(super) fn transfers(&self) -> Vec<(ShardId, NodeId)> {
        self.inner.lock().transfers.clone()
    }
}

impl Inner {
    fn apply(&mut self, shard: ShardId, command: proto::Command) -> proto::CommandAnswer {
        let Self {
            state, machines, ..
        } = self;
        let machine = machines.entry(shard).or_insert_with(|| {
            let loaded = StateMachine::load(&*state, shard).expect("the state reads");
            loaded.expect("the shard was born")
        });
        let commands = proto::CommandBatch {
            time_ms: 1,
            commands: vec![command],
        };
        let entry = Entry {
            term: Term(6),
            index: machine.state().applied_index.next(),
            kind: EntryKind::Normal,
            data: commands.encode_to_vec().into(),
        };
        let mut batch = StateBatch::default();
        let mut answers = Vec::new();
        machine
            .apply_entry(&*state, &mut batch, &entry, &mut answers)
            .expect("the entry applies");
        machine.finish(&mut batch);
        state.write(&batch);
        answers.pop().expect("one answer per command")
    }
}

impl RuntimeHandle for Machine {
    fn submit(&self, shard: ShardId, request: ShardRequest, reply: Reply) -> Result<(), Busy> {
        let mut inner = self.inner.lock();
        inner.submitted += 1;
        let outcome = match inner.script.pop_front() {
            Some(Act::Refuse(refused)) => Err(refused),
            Some(Act::Keep) => {
                inner.kept.push(reply);
                return Ok(());
            }
            Some(Act::Drop) => return Ok(()),
            Some(Act::Busy) => {
                return Err(Busy {
                    reason: "scripted".into(),
                    retry_after_ms: 77,
                });
            }
            act => {
                let answer = match request {
                    ShardRequest::Write { command, .. } => {
                        Answer::Write(inner.apply(shard, command))
                    }
                    ShardRequest::Read => Answer::ReadReady(Index(5)),
                };
                if act.is_some() {
                    Err(Refused::OutcomeUnknown)
                } else {
                    Ok(answer)
                }
            }
        };
        drop(inner);
        reply.send(outcome);
        Ok(())
    }

    fn may_read(&self, shard: ShardId) -> bool {
        self.inner.lock().open_leases.contains(&shard)
    }

    fn replica_info(&self, shard: ShardId) -> BoxFuture<'_, Option<proto::ReplicaInfo>> {
        let info = proto::ReplicaInfo {
            role: "leader".to_owned(),
            term: shard.0,
            ..proto::ReplicaInfo::default()
        };
        async move { Some(info) }.boxed()
    }

    fn transfer_leader(&self, shard: ShardId, node: NodeId) -> BoxFuture<'_, bool> {
        self.inner.lock().transfers.push((shard, node));
        async move { shard != ShardId(3) }.boxed()
    }
}

impl StateReader for Machine {
    fn with_view(&self, read: &mut dyn FnMut(&dyn StateView)) {
        read(&self.inner.lock().state);
    }
}

struct NoInbound;

impl Inbound for NoInbound {
    fn deliver(&self, _: NodeId, _: Vec<(ShardId, Message)>) {}

    fn alive(&self, _: NodeId, _: u64) {}

    fn outdated(&self, reason: String) {
        panic!("{reason}");
    }

    fn unreachable(&self, _: NodeId) {}

    fn moved(&self, _: proto::Node) {}

    fn begin_snapshot(
        &self,
        _: NodeId,
        _: ShardId,
        _: Message,
    ) -> Result<Box<dyn SnapshotSink>, SnapshotRefused> {
        Err(SnapshotRefused::Unwanted("no snapshots here".to_owned()))
    }
}

/// A data folder in memory.
pub(super) struct Folder {
    pub(super) identity: Mutex<proto::IdentifyResponse>,
    pub(super) join: Mutex<Vec<String>>,
    pub(super) fail: Mutex<Option<String>>,
    pub(super) adopted: Mutex<Vec<(Genesis, NodeId)>>,
}

impl ClusterBootstrap for Folder {
    fn identity(&self) -> proto::IdentifyResponse {
        self.identity.lock().clone()
    }

    fn seen(&self, _: NodeId) -> Option<Mark> {
        None
    }

    fn join(&self) -> Vec<String> {
        self.join.lock().clone()
    }

    fn adopt(&self, genesis: Genesis, node: NodeId) -> BoxFuture<'_, Result<(), String>> {
        async move {
            if let Some(reason) = self.fail.lock().take() {
                return Err(reason);
            }
            let mut identity = self.identity.lock();
            identity.genesis = Some((&genesis).into());
            identity.node_id = node.0;
            self.adopted.lock().push((genesis, node));
            Ok(())
        }
        .boxed()
    }
}

/// One node.
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) address: String,
    pub(super) peer_address: String,
    pub(super) front: Arc<Front>,
    pub(super) folder: Arc<Folder>,
    pub(super) machine: Arc<Machine>,
    pub(super) metrics: Arc<Metrics>,
    stop: Option<oneshot::Sender<()>>,
    server: JoinHandle<()>,
}

/// Bounds for a test.
#[derive(Clone)]
pub(super) struct Bounds {
    pub(super) access: AccessOptions,
    pub(super) limits: Limits,
    pub(super) options: ServiceOptions,
    /// From when on requests are slow.
    pub(super) slow: Duration,
}

impl Default for Bounds {
    /// Nobody is asked who calls.
    fn default() -> Self {
        Self {
            access: AccessOptions {
                enforce: false,
                ..AccessOptions::default()
            },
            limits: Limits::default(),
            options: ServiceOptions::default(),
            slow: Duration::default(),
        }
    }
}

impl Node {
    /// A node that belongs to no cluster.
    pub(super) async fn lonely(store: u8) -> Self {
        let listen = async || TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let (clients, nodes) = (listen().await, listen().await);
        let address = clients.local_addr().expect("an address").to_string();
        let peer_address = nodes.local_addr().expect("an address").to_string();
        let metrics = Arc::new(Metrics::new().expect("metrics"));
        let folder = Arc::new(Folder {
            identity: Mutex::new(proto::IdentifyResponse {
                store_id: vec![store; 16].into(),
                address: address.clone(),
                peer_address: peer_address.clone(),
                protocol: crate::transport::PROTOCOL,
                ..proto::IdentifyResponse::default()
            }),
            join: Mutex::default(),
            fail: Mutex::default(),
            adopted: Mutex::default(),
        });
        let bootstrap = Arc::clone(&folder) as Arc<dyn ClusterBootstrap>;
        let front = Front::new(bootstrap, Arc::clone(&metrics));
        let (stop, stopped) = oneshot::channel::<()>();
        let options = ServerOptions {
            stop_timeout: Duration::from_secs(5),
            ..ServerOptions::default()
        };
        let door = |listener, port| {
            Door::new(
                listener,
                port,
                None,
                DoorOptions::default(),
                Arc::clone(&metrics),
            )
        };
        let doors = Doors {
            clients: door(clients, Port::Clients),
            nodes: door(nodes, Port::Nodes),
        };
        let serving = serve(Arc::clone(&front), doors, options, async move {
            // Dropping the other end stops as well.
            let _ = stopped.await;
        });
        let server = tokio::spawn(async move { serving.await.expect("the server runs") });
        Self {
            id: NodeId(0),
            address,
            peer_address,
            front,
            folder,
            machine: Arc::default(),
            metrics,
            stop: Some(stop),
            server,
        }
    }

    /// Opens the services as the node of a cluster.
    fn open(&mut self, genesis: &Genesis, bounds: &Bounds) {
        {
            let mut inner = self.machine.inner.lock();
            for (key, value) in genesis.rows(self.id) {
                inner.state.put(key, value);
            }
        }
        let shards = genesis.shards().map(Arc::new);
        let nodes = genesis.nodes().iter().map(proto::Node::from);
        let router = Router::new(self.id, shards, nodes.clone());
        let local = LocalNode {
            cluster_id: genesis.cluster().to_vec().into(),
            node_id: self.id,
            store_id: Bytes::new(),
            address: String::new(),
            peer_address: String::new(),
            status_address: String::new(),
            leases: None,
            marks: Arc::default(),
        };
        let transport = Transport::start(
            local,
            Vec::new(),
            TransportOptions::default(),
            Arc::new(NoInbound),
            Arc::clone(&self.metrics),
        );
        self.front.open(Arc::new(Services {
            router: Arc::new(router),
            runtime: Arc::clone(&self.machine) as Arc<dyn RuntimeHandle>,
            state: Arc::clone(&self.machine) as Arc<dyn StateReader>,
            forward: Arc::new(NodeStreams::default()),
            transport,
            access: Access::new(bounds.access.clone()),
            audit: Audit::default(),
            limits: bounds.limits.clone(),
            options: bounds.options.clone(),
            metrics: Arc::clone(&self.metrics),
            gate: Gate::default(),
            requests: Default::default(),
            long_reads: tokio::sync::Semaphore::new(super::super::services::LONG_READS),
            slow: Arc::new(slow::SlowRequests::new(bounds.slow, true)),
            request_ids: Default::default(),
        }));
    }

    pub(super) fn services(&self) -> &Arc<Services> {
        self.front.services().expect("the node is open")
    }

    pub(super) fn router(&self) -> &Router {
        &self.services().router
    }

    /// The local replica's word about its leader.
    pub(super) fn leader(&self, shard: u64, leader: Option<u64>) {
        self.router().note_change(&RoleChange {
            shard: ShardId(shard),
            role: if leader == Some(self.id.0) {
                Role::Leader
            } else {
                Role::Follower
            },
            term: Term(6),
            leader: leader.map(NodeId),
        });
    }

    async fn channel(&self) -> Channel {
        Self::channel_to(&self.address).await
    }

    async fn channel_to(address: &str) -> Channel {
        Channel::from_shared(format!("http://{address}"))
            .expect("an address")
            .connect()
            .await
            .expect("a connection")
    }

    pub(super) async fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel().await)
    }

    pub(super) async fn admin(&self) -> AdminClient<Channel> {
        AdminClient::new(self.channel().await)
    }

    pub(super) async fn peer(&self) -> PeerClient<Channel> {
        PeerClient::new(Self::channel_to(&self.peer_address).await)
    }

    pub(super) async fn health(&self) -> tonic_health::pb::health_client::HealthClient<Channel> {
        tonic_health::pb::health_client::HealthClient::new(self.channel().await)
    }

    /// Takes the node away.
    pub(super) async fn stop(&mut self) {
        self.stop = None;
        (&mut self.server).await.expect("the server ends");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(services) = self.front.services() {
            services.transport.stop();
        }
        self.server.abort();
    }
}

/// A cluster of nodes with the user shards 2 ("" to "m") and 3 ("m" on), each on `replicas` nodes; no leader is known.
pub(super) async fn cluster(nodes: u8, replicas: usize, bounds: Bounds) -> Vec<Node> {
    let mut all = Vec::new();
    for store in 1..=nodes {
        let mut node = Node::lonely(store).await;
        node.id = NodeId(store.into());
        all.push(node);
    }
    let entries = all
        .iter()
        .map(|node| proto::Node {
            node_id: 0,
            address: node.address.clone(),
            peer_address: node.peer_address.clone(),
            status_address: String::new(),
            store_id: node.folder.identity().store_id,
        })
        .collect();
    let split = Split::At(vec![Bytes::from_static(b"m")]);
    let genesis = genesis::Genesis::plan([7; 16], entries, &split, replicas, 1000).expect("a plan");
    for node in &mut all {
        let id = node.id;
        node.front
            .adopt(genesis.clone(), id)
            .await
            .expect("it is adopted");
        node.open(&genesis, &bounds);
    }
    all
}

/// A cluster of one node that leads all shards.
pub(super) async fn single(bounds: Bounds) -> Node {
    let mut nodes = cluster(1, 1, bounds).await;
    let node = nodes.remove(0);
    for shard in 1..=3 {
        node.leader(shard, Some(1));
    }
    node
}

/// The error inside a status.
pub(super) fn detail(status: &tonic::Status) -> proto::Error {
    proto::Error::decode(status.details()).expect("the details hold an error")
}
