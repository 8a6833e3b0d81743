//! One node: from an opened data folder to a running member of a cluster, and back.
//!
//! A node that is started for the first time knows nobody. It serves its identity, waits for `init` to hand it a genesis,
//! and only then starts its engine. A node that has a genesis starts its engine at once. What runs behind the services is
//! put together in `engine`, and connected in `links`.

mod census;
mod console;
mod engine;
mod fatal;
mod links;
mod neighbours;
mod reader;
mod report;
mod scrub;
mod stall;
mod vitals;

use std::{
    io,
    path::PathBuf,
    sync::{Arc, OnceLock, Weak},
    time::{Duration, Instant},
};

use bytes::Bytes;
use flotilla_metrics::{Metrics, Port};
use flotilla_proto::v1 as proto;
use flotilla_shards::{
    genesis::Genesis,
    ids::NodeId,
    lineage::{Mark, WentBack},
};
use futures_util::future::BoxFuture;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

pub use self::fatal::FatalError;
use self::{census::Census, engine::Running, fatal::Fatal};
use crate::{
    config::{Address, Config},
    disk::DiskWatch,
    events::{Event, Events},
    exit::ExitCode,
    logging::LogControl,
    runtime,
    server::{
        self, Doors, Front, ServerOptions, access,
        bootstrap::ClusterBootstrap,
        door::{Door, DoorOptions},
        slow::SlowRequests,
    },
    shutdown::Gate,
    status,
    storage::{self, OpenError, StorageError, StorageOptions, Stores},
    tls::{ClientTls, NodeTls, TlsError},
    transport::{PROTOCOL, handshake::short_hex},
};

/// How often readiness and free disk space are looked at.
/// A quarter of the usual election timeout, as that of [`stall::watch`]: so one awakening serves both.
const WATCH_INTERVAL: Duration = Duration::from_millis(250);
const DISK_INTERVAL: Duration = Duration::from_millis(100);

/// Why a node did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The data folder was not opened.
    #[error(transparent)]
    Open(OpenError),
    /// The disk failed while starting.
    #[error("storage: {0}")]
    Storage(StorageError),
    /// The data folder does not belong where it was started.
    #[error(
        "{} belongs to cluster {ours}, but the node at {address}, which node.join names, to cluster {theirs}: check \
         node.data and node.join", .data.display()
    )]
    OtherCluster {
        /// The data folder.
        data: PathBuf,
        /// Its cluster.
        ours: String,
        /// Where somebody else answered.
        address: String,
        /// The cluster there.
        theirs: String,
    },
    /// The data folder was copied.
    #[error(
        "{} is a copy of the data folder of node {node}, which runs at {address}: a node's folder can't be used twice; \
         start a new node with an empty folder", .data.display()
    )]
    Twin {
        /// The data folder.
        data: PathBuf,
        /// Whose folder it is.
        node: u64,
        /// Where it answered.
        address: String,
    },
    /// The data folder is from the past.
    #[error(
        "{} can't be used: {why}; so says the node at {address}. Votes and entries that this node confirmed are missing \
         there: put its newest data folder back", .data.display()
    )]
    Outdated {
        /// The data folder.
        data: PathBuf,
        /// Where it was seen, and where it is.
        why: WentBack,
        /// Who has seen it.
        address: String,
    },
    /// An address can't be listened at.
    #[error(
        "cannot listen at {address} ({key}): {error}; choose another address, or stop who has it"
    )]
    Listen {
        /// The address.
        address: String,
        /// The configuration key that it came from.
        key: &'static str,
        /// What the system said.
        error: io::Error,
    },
    /// Its certificates can't be used.
    #[error(transparent)]
    Tls(TlsError),
    /// The certificate is not that of the node whose data it is.
    #[error(
        "the certificate in security.cert names node {certified} of cluster {cluster}, but {} is the data folder of node \
         {node} of cluster {ours}: give the node its own certificate (`flotilla cert create-node --id {node}`; the authority \
         must be made for the cluster: `create-ca --cluster {ours}`)", .data.display()
    )]
    Certificate {
        /// The data folder.
        data: PathBuf,
        /// The node that the certificate names.
        certified: u64,
        /// And its cluster.
        cluster: String,
        /// The node whose folder it is.
        node: u64,
        /// And its cluster.
        ours: String,
    },
    /// The stored genesis makes no sense.
    #[error("the data folder's record of its cluster is damaged: {0}")]
    Genesis(String),
    /// The engine did not start.
    #[error(transparent)]
    Start(runtime::StartError),
    /// The data folder's free space can't be asked for.
    #[error("cannot ask for the free space of the data folder: {0}")]
    Disk(io::Error),
    /// Something that a running node can't go on after.
    #[error(transparent)]
    Fatal(FatalError),
    /// The metrics were declared twice, or such.
    #[error("metrics: {0}")]
    Metrics(flotilla_metrics::Error),
}

impl NodeError {
    /// What the process ends with.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Open(error) => error.into(),
            Self::Storage(error) => error.fault.into(),
            Self::Fatal(FatalError::Storage(error)) => error.fault.into(),
            Self::OtherCluster { .. }
            | Self::Twin { .. }
            | Self::Outdated { .. }
            | Self::Fatal(FatalError::Outdated(_)) => ExitCode::ForeignData,
            Self::Listen { .. } => ExitCode::Address,
            Self::Tls(_) | Self::Certificate { .. } => ExitCode::Usage,
            Self::Genesis(_)
            | Self::Start(runtime::StartError::Open(_))
            | Self::Fatal(FatalError::Shard { .. }) => ExitCode::Corruption,
            Self::Start(runtime::StartError::Thread(_)) | Self::Metrics(_) => ExitCode::Error,
            Self::Disk(error) => ExitCode::of_io(error),
        }
    }
}

/// What the parts of a node share.
struct Shared {
    config: Arc<Config>,
    stores: Stores,
    disk: Arc<DiskWatch>,
    metrics: Arc<Metrics>,
    events: Arc<Events>,
    slow: Arc<SlowRequests>,
    fatal: Fatal,
    /// Requests in progress; closed when the node drains.
    gate: Gate,
    /// Set right after both exist; the services ask it through [`ClusterBootstrap`].
    front: OnceLock<Weak<Front>>,
    running: OnceLock<Running>,
    census: Census,
    draining: watch::Sender<bool>,
    /// Certificates, if the node has any.
    tls: Option<Arc<NodeTls>>,
    address: String,
    peer_address: String,
    status_address: String,
    started: Instant,
}

/// A started node.
pub struct Node {
    shared: Arc<Shared>,
    front: Arc<Front>,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Node {
    /// Opens the data folder, listens, and starts the engine if the node is part of a cluster.
    ///
    /// # Errors
    /// See [`NodeError`].
    pub async fn start(config: Config, log: LogControl) -> Result<Self, NodeError> {
        let metrics = Arc::new(Metrics::new().map_err(NodeError::Metrics)?);
        let tls = match config.tls_files() {
            Some(files) => {
                let open = !config.security.require_client_certificate;
                let tls = NodeTls::load(files, open).map_err(NodeError::Tls)?;
                Some(Arc::new(tls))
            }
            None => None,
        };
        let stores = {
            let (data, options) = (config.node.data.clone(), storage_options(&config));
            blocking(move || storage::open(&data, &options)).await
        };
        let stores = stores.map_err(NodeError::Open)?;
        check_certificate(&config, &stores, tls.as_deref())?;
        let outgoing = tls.as_ref().map(|tls| tls.outgoing());
        neighbours::check(&config, &stores, outgoing.as_ref()).await?;
        let reserve = config.storage.disk_reserve;
        let events = Arc::new(Events::default());
        let disk = DiskWatch::new(&config.node.data, reserve, Arc::clone(&events))
            .map_err(NodeError::Disk)?;
        let slow = SlowRequests::new(config.log.slow_request, config.log.slow_request_keys);
        let listener = listen(&config.node.listen, "node.listen").await?;
        let peer_listen = config.peer_listen();
        let peer_listener = listen(&peer_listen, "node.peer_listen").await?;
        let status_listener = listen(&config.node.status_listen, "node.status_listen").await?;
        let peer_port = peer_listener
            .local_addr()
            .map_or(peer_listen.port(), |at| at.port());
        let address = match &config.node.advertise {
            Some(address) => address.to_string(),
            None => bound(&config.node.listen, &listener),
        };
        if tls.is_none() && config.security.insecure {
            tracing::warn!(
                "security.insecure: connections are plaintext; whoever reaches the ports can read and change everything"
            );
        }
        if tls.is_some() && !config.security.require_client_certificate {
            tracing::warn!(
                "security.require_client_certificate: clients need no certificate; unless `flotilla auth enable` was said, \
                 whoever reaches the port can read and change everything"
            );
        }
        let shared = Arc::new(Shared {
            tls,
            address,
            peer_address: config.peer_advertised(peer_port).to_string(),
            status_address: bound(&config.node.status_listen, &status_listener),
            config: Arc::new(config),
            stores,
            disk: Arc::new(disk),
            metrics: Arc::clone(&metrics),
            events,
            slow: Arc::new(slow),
            fatal: Fatal::new(),
            gate: Gate::default(),
            front: OnceLock::new(),
            running: OnceLock::new(),
            census: Census::default(),
            draining: watch::Sender::new(false),
            started: Instant::now(),
        });
        let front = Front::new(Arc::new(Bootstrap(Arc::clone(&shared))), metrics);
        // The only call: `shared` was made above.
        let _ = shared.front.set(Arc::downgrade(&front));
        if shared.stores.identity().genesis.is_some() {
            shared.clone().run(&front).await?;
        }
        let mut node = Self {
            shared,
            front,
            stop: watch::Sender::new(false),
            tasks: Vec::new(),
        };
        node.serve(listener, peer_listener, status_listener, log);
        Ok(node)
    }

    fn serve(
        &mut self,
        listener: TcpListener,
        peer_listener: TcpListener,
        status_listener: TcpListener,
        log: LogControl,
    ) {
        let stopped = |stop: &watch::Sender<bool>| {
            let mut stop = stop.subscribe();
            async move {
                // An error means that the node itself is gone, which is a stop as well.
                let _ = stop.wait_for(|stop| *stop).await;
            }
        };
        let shared = &self.shared;
        let limits = &shared.config.limits;
        let door = |listener, port| {
            let options = DoorOptions {
                connections: limits.connections,
                connections_per_address: limits.connections_per_address,
                handshake_timeout: limits.handshake_timeout,
            };
            let (tls, metrics) = (shared.tls.clone(), Arc::clone(&shared.metrics));
            Door::new(listener, port, tls, options, metrics)
        };
        let doors = Doors {
            clients: door(listener, Port::Clients),
            nodes: door(peer_listener, Port::Nodes),
        };
        let options = ServerOptions {
            calls_per_connection: u32::try_from(limits.calls_per_connection).unwrap_or(u32::MAX),
            unfinished_bytes: limits.unfinished_bytes.len(),
            unfinished_timeout: limits.unfinished_timeout,
            ..ServerOptions::default()
        };
        let grpc = server::serve(Arc::clone(&self.front), doors, options, stopped(&self.stop));
        let source = Arc::new(report::Source {
            shared: Arc::clone(shared),
        });
        let console = crate::console::router(Arc::clone(&source) as _);
        let pages = status::router(source, console, Arc::clone(&shared.config), log);
        let served = console::StatusPages(pages.clone());
        self.front.set_pages(Arc::new(served));
        let http = status::serve(status_listener, pages, stopped(&self.stop));
        self.tasks.push(tokio::spawn(async move {
            if let Err(error) = grpc.await {
                tracing::error!(%error, "the server for clients and nodes has failed");
            }
        }));
        self.tasks.push(tokio::spawn(async move {
            if let Err(error) = http.await {
                tracing::error!(%error, "the status server has failed");
            }
        }));
        let space = Arc::clone(&shared.disk).watch(DISK_INTERVAL, Arc::clone(&shared.metrics));
        let (watching, front) = (Arc::clone(shared), Arc::clone(&self.front));
        let stop = stopped(&self.stop);
        self.tasks.push(tokio::spawn(async move {
            let dead_disk = stall::watch(&watching);
            tokio::select! {
                () = space => {}
                () = watching.keep_ready(&front) => {}
                () = dead_disk => {}
                () = census::watch(&watching) => {}
                () = scrub::watch(&watching) => {}
                () = access::watch(&front) => {}
                () = watching.find_moved() => {}
                () = watching.keep_certificates() => {}
                () = stop => {}
            }
        }));
    }

    /// Where clients reach it.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.shared.address
    }

    /// Where other nodes reach it.
    #[must_use]
    pub fn peer_address(&self) -> &str {
        &self.shared.peer_address
    }

    /// Its certificates, if it has any.
    #[must_use]
    pub fn certificates(&self) -> Option<&Arc<NodeTls>> {
        self.shared.tls.as_ref()
    }

    /// Where its status is served.
    #[must_use]
    pub fn status_address(&self) -> &str {
        &self.shared.status_address
    }

    /// Whether it is part of a cluster.
    #[must_use]
    pub fn is_initialized(&self) -> bool {
        self.front.services().is_some()
    }

    /// Resolves when something has happened that the node can't go on after.
    pub async fn failed(&self) -> NodeError {
        NodeError::Fatal(self.shared.fatal.wait().await)
    }

    /// Hands leaderships over if `hand_over` says so (there is no sense in it if the whole cluster stops), lets requests
    /// in flight end, writes and flushes everything, and ends.
    pub async fn shutdown(self, hand_over: bool) {
        let shared = &self.shared;
        shared.draining.send_replace(true);
        shared.events.note(Event::Draining);
        self.front.set_ready(Err("draining".to_owned())).await;
        if hand_over && let Some(running) = shared.running.get() {
            let left = running
                .runtime
                .drain(shared.config.node.drain_timeout)
                .await;
            if left > 0 {
                tracing::warn!(
                    left,
                    "shards are still led by this node; the others will elect new leaders"
                );
            }
        }
        if let Err(held) = shared.gate.drain(shared.config.node.drain_timeout).await {
            tracing::warn!(%held, "requests are still running and will be cut off");
        }
        self.stop.send_replace(true);
        for task in self.tasks {
            if let Err(error) = task.await {
                tracing::error!(%error, "a task of the node has panicked");
            }
        }
        let shared = Arc::clone(&self.shared);
        blocking(move || {
            if let Some(running) = shared.running.get() {
                running.stop();
            }
            if let Err(error) = shared.stores.state.flush() {
                tracing::error!(%error, "the state was not flushed; the log will be replayed at the next start");
            }
        })
        .await;
        tracing::info!("stopped");
    }
}

impl Shared {
    /// Starts the engine and opens the services.
    async fn run(self: Arc<Self>, front: &Front) -> Result<(), NodeError> {
        let shared = Arc::clone(&self);
        blocking(move || {
            let running = Running::start(&shared)?;
            // A second start is excluded by the front, which adopts once.
            let _ = shared.running.set(running);
            Ok(())
        })
        .await?;
        if let Some(running) = self.running.get() {
            front.open(Arc::clone(&running.services));
        }
        Ok(())
    }

    /// Keeps the certificates up to date with their files, for as long as the task lives.
    async fn keep_certificates(&self) {
        match &self.tls {
            Some(tls) => tls.watch(&self.metrics).await,
            None => std::future::pending().await,
        }
    }

    /// Keeps what the probes are told true, for as long as the task lives.
    async fn keep_ready(&self, front: &Front) {
        let mut last = None;
        let mut looks = tokio::time::interval(WATCH_INTERVAL);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            looks.tick().await;
            let now = self.first_problem().map_or(Ok(()), Err);
            if last.as_ref() != Some(&now) {
                match &now {
                    Ok(()) => {
                        tracing::info!("ready");
                        self.events.note(Event::Ready);
                    }
                    Err(reason) => {
                        tracing::info!(reason, "not ready");
                        let reason = reason.clone();
                        self.events.note(Event::NotReady { reason });
                    }
                }
                front.set_ready(now.clone()).await;
                last = Some(now);
            }
        }
    }
}

/// How the services see the data folder.
struct Bootstrap(Arc<Shared>);

impl ClusterBootstrap for Bootstrap {
    fn identity(&self) -> proto::IdentifyResponse {
        let identity = self.0.stores.identity();
        let certified = self.0.tls.as_ref().map(|tls| tls.name());
        proto::IdentifyResponse {
            store_id: identity.store_id,
            address: self.0.address.clone(),
            peer_address: self.0.peer_address.clone(),
            status_address: self.0.status_address.clone(),
            genesis: identity.genesis,
            node_id: identity.node_id,
            protocol: PROTOCOL,
            seen: None,
            certified_node: certified.map_or(0, |(_, node)| node.0),
            certified_cluster: certified
                .map_or_else(Bytes::new, |(cluster, _)| cluster.to_vec().into()),
        }
    }

    fn seen(&self, node: NodeId) -> Option<Mark> {
        self.0.stores.log.marks().seen(node)
    }

    fn join(&self) -> Vec<String> {
        let join = self.0.config.node.join.iter();
        join.map(Address::to_string).collect()
    }

    fn tls(&self) -> Option<ClientTls> {
        self.0.tls.as_ref().map(|tls| tls.outgoing())
    }

    fn adopt(&self, genesis: Genesis, node: NodeId) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            let shared = Arc::clone(&self.0);
            let adopt = move || shared.stores.adopt(&genesis, node);
            blocking(adopt).await.map_err(|error| error.to_string())?;
            self.0.events.note(Event::Joined { node });
            // The front owns this object, so it is still there.
            let front = self.0.front.get().and_then(Weak::upgrade);
            let front = front.ok_or("the node is going down")?;
            let run = Arc::clone(&self.0).run(&front).await;
            run.map_err(|error| error.to_string())
        })
    }
}

/// Whether the certificate is that of the node whose data it is.
fn check_certificate(
    config: &Config,
    stores: &Stores,
    tls: Option<&NodeTls>,
) -> Result<(), NodeError> {
    let identity = stores.identity();
    let (Some(tls), Some(genesis)) = (tls, identity.genesis) else {
        return Ok(());
    };
    let (cluster, certified) = tls.name();
    if (&cluster[..], certified.0) == (&genesis.cluster_id[..], identity.node_id) {
        return Ok(());
    }
    Err(NodeError::Certificate {
        data: config.node.data.clone(),
        certified: certified.0,
        cluster: short_hex(&cluster),
        node: identity.node_id,
        ours: short_hex(&genesis.cluster_id),
    })
}

fn storage_options(config: &Config) -> StorageOptions {
    StorageOptions {
        log_memtable_bytes: config.storage.log_memtable.len(),
        state_memtable_bytes: config.storage.state_memtable.len(),
        block_cache_bytes: config.storage.state_cache.len(),
        background_jobs: i32::try_from(config.storage.background_jobs).unwrap_or(i32::MAX),
        open_files: i32::try_from(config.storage.open_files).unwrap_or(i32::MAX),
        ..StorageOptions::default()
    }
}

async fn listen(address: &Address, key: &'static str) -> Result<TcpListener, NodeError> {
    let listener = TcpListener::bind(address.to_string()).await;
    listener.map_err(|error| NodeError::Listen {
        address: address.to_string(),
        key,
        error,
    })
}

/// The configured address; with the port that the system chose, if that was left to it.
fn bound(address: &Address, listener: &TcpListener) -> String {
    match listener.local_addr() {
        Ok(local) if address.port() == 0 => local.to_string(),
        _ => address.to_string(),
    }
}

/// Runs something that blocks without holding up the tasks of the runtime.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        // The closure's panic is the caller's.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
