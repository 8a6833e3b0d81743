//! The node's gRPC side: what clients, operators and other nodes may ask.
//!
//! - `kv`, `stream`: the client API, one request at a time and many at once.
//! - `call`, `perform`: carry out what the rules of a request's way decide: local engine or forward, hold, answer.
//! - [`services`]: what that stands on; the engine and the state database are traits here.
//! - `admin`, `peer`, [`bootstrap`]: operators, other nodes, and how nodes become a cluster.
//! - [`door`]: which connections come in, at the port for clients and at that for nodes.
//! - `flow`: what clients' connections may hold of the node's memory.
//! - [`access`], [`audit`]: who calls, and whether they may; what operators did.
//! - [`pages`]: pages of the status port, for those who reach this one only.
//! - `error`: what an error is to gRPC and to the metrics.
//! - [`trace`], [`slow`]: a request's id and where its time goes; the requests that took long.
//!
//! What may not live here: rules about data and requests (see [`flotilla_shards::kv`] and [`flotilla_shards::service`]) and
//! decisions about shards.

#![allow(
    clippy::result_large_err,
    reason = "an error is no larger than an answer, and both travel through the same few frames"
)]

pub mod access;
mod admin;
pub mod audit;
pub mod bootstrap;
mod call;
pub mod door;
mod error;
mod flow;
pub mod forward;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod kv;
pub mod pages;
mod peer;
mod perform;
mod request;
pub mod services;
pub mod slow;
mod stream;
#[cfg(test)]
mod tests;
pub mod trace;

use std::{
    future::Future,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use flotilla_metrics::Metrics;
use flotilla_proto::v1::{admin_server::AdminServer, kv_server::KvServer, peer_server::PeerServer};
use flotilla_shards::{genesis::Genesis, ids::NodeId, limits};
use parking_lot::Mutex;
use tokio::sync::watch;
use tonic::transport::Server;
use tonic_health::{
    ServingStatus,
    pb::health_server::HealthServer,
    server::{HealthReporter, HealthService},
};

pub use self::services::{RuntimeHandle, ServiceOptions, Services, StateReader};
use self::{
    bootstrap::{AdoptError, ClusterBootstrap},
    door::Door,
    flow::Flow,
    pages::Pages,
};

/// Bounds of the connections.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Calls that one connection may have open at the same time, streams included.
    pub calls_per_connection: u32,
    /// Bytes of requests of clients that have not arrived in full, and as much again of answers that they do not take.
    pub unfinished_bytes: usize,
    /// How long a request may take to arrive, and an answer to be taken.
    pub unfinished_timeout: Duration,
    /// After this long without traffic a connection is pinged.
    pub keepalive_interval: Duration,
    /// A connection whose ping is not answered within this time is closed.
    pub keepalive_timeout: Duration,
    /// How long open calls may take to end once the server is told to stop.
    pub stop_timeout: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            calls_per_connection: 1024,
            unfinished_bytes: 256 << 20,
            unfinished_timeout: Duration::from_secs(30),
            keepalive_interval: Duration::from_secs(10),
            keepalive_timeout: Duration::from_secs(10),
            stop_timeout: Duration::from_secs(1),
        }
    }
}

/// Bytes that a stream of a client or node may send ahead: a few of the largest frames of ordinary size.
const STREAM_WINDOW: u32 = 4 << 20;
/// The same for all streams of a connection.
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Bytes of one HTTP/2 frame: large, so that bulk data need few of them.
const HTTP_FRAME: u32 = 256 << 10;
/// Bytes of the headers of one request: a path and some words about the request.
const HEADER_BYTES: u32 = 16 << 10;

// A single message of the largest size moves on with the windows, and must not need them to grow.
const _: () = assert!(STREAM_WINDOW <= CONNECTION_WINDOW);
const _: () = assert!(limits::MESSAGE_BYTES_MAX <= u32::MAX as usize);

/// What all services of a node share, before and after it becomes part of a cluster.
pub struct Front {
    bootstrap: Arc<dyn ClusterBootstrap>,
    services: OnceLock<Arc<Services>>,
    pages: OnceLock<Arc<dyn Pages>>,
    adopting: tokio::sync::Mutex<()>,
    initializing: tokio::sync::Mutex<()>,
    /// Why the node is not ready.
    not_ready: Mutex<Option<String>>,
    health: HealthReporter,
    metrics: Arc<Metrics>,
    started: Instant,
    stopping: watch::Sender<bool>,
}

/// The services whose health is told, beside the whole node's.
const SERVICES: [&str; 3] = ["", "flotilla.v1.Kv", "flotilla.v1.Admin"];

impl Front {
    /// A node that serves nothing yet but its own identity.
    #[must_use]
    pub fn new(bootstrap: Arc<dyn ClusterBootstrap>, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            bootstrap,
            services: OnceLock::new(),
            pages: OnceLock::new(),
            adopting: tokio::sync::Mutex::new(()),
            initializing: tokio::sync::Mutex::new(()),
            not_ready: Mutex::new(Some("starting".to_owned())),
            health: HealthReporter::new(),
            metrics,
            started: Instant::now(),
            stopping: watch::Sender::new(false),
        })
    }

    /// The node is part of a cluster and its engine runs: from now on requests are served. Only the first call counts.
    pub fn open(&self, services: Arc<Services>) {
        // A second one would be a second engine on the same data, which the folder's lock excludes.
        let _ = self.services.set(services);
    }

    /// What requests are served with; none before the node is part of a cluster.
    #[must_use]
    pub fn services(&self) -> Option<&Arc<Services>> {
        self.services.get()
    }

    /// Where pages of the status port come from. Only the first call counts.
    pub fn set_pages(&self, pages: Arc<dyn Pages>) {
        // A second one would be the same pages again.
        let _ = self.pages.set(pages);
    }

    /// Pages of the status port; none while the node starts.
    #[must_use]
    pub fn pages(&self) -> Option<&Arc<dyn Pages>> {
        self.pages.get()
    }

    /// Says whether the node is ready to serve, or why not: in its status, its metrics and the gRPC health service.
    pub async fn set_ready(&self, ready: Result<(), String>) {
        let status = match ready {
            Ok(()) => ServingStatus::Serving,
            Err(_) => ServingStatus::NotServing,
        };
        self.metrics.ready.set(i64::from(ready.is_ok()));
        *self.not_ready.lock() = ready.err();
        for service in SERVICES {
            self.health.set_service_status(service, status).await;
        }
    }

    /// Whether the node is ready, or why not.
    ///
    /// # Errors
    /// The reason, for the operator.
    pub fn readiness(&self) -> Result<(), String> {
        self.not_ready.lock().clone().map_or(Ok(()), Err)
    }

    /// Makes the node part of a cluster, unless it is that already.
    ///
    /// # Errors
    /// See [`AdoptError`].
    pub async fn adopt(&self, genesis: Genesis, node: NodeId) -> Result<(), AdoptError> {
        let _one_at_a_time = self.adopting.lock().await;
        if !bootstrap::may_adopt(&self.bootstrap.identity(), &genesis, node)? {
            return Ok(());
        }
        let adopted = self.bootstrap.adopt(genesis, node).await;
        adopted.map_err(AdoptError::Failed)
    }

    fn bootstrap(&self) -> &dyn ClusterBootstrap {
        &*self.bootstrap
    }

    fn initializing(&self) -> &tokio::sync::Mutex<()> {
        &self.initializing
    }

    fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Resolves when the server is told to stop.
    fn stopping(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut stopping = self.stopping.subscribe();
        async move {
            // An error means that the node is gone, which is as good as being told.
            let _ = stopping.wait_for(|stopping| *stopping).await;
        }
    }
}

/// The two ports of a node.
pub struct Doors {
    /// For clients and operators.
    pub clients: Door,
    /// For other nodes.
    pub nodes: Door,
}

/// Serves until `stop` resolves. Then clients' streams are ended as soon as they have no request in flight, other calls
/// get `stop_timeout` to end, and the rest is left to the end of the process.
///
/// # Errors
/// If the listener fails.
pub async fn serve(
    front: Arc<Front>,
    doors: Doors,
    options: ServerOptions,
    stop: impl Future<Output = ()> + Send,
) -> Result<(), tonic::transport::Error> {
    let message_bytes = limits::MESSAGE_BYTES_MAX;
    let kv =
        KvServer::new(kv::KvService(Arc::clone(&front))).max_decoding_message_size(message_bytes);
    let admin = AdminServer::new(admin::AdminService(Arc::clone(&front)))
        .max_decoding_message_size(message_bytes);
    let peer = PeerServer::new(peer::PeerService(Arc::clone(&front)))
        .max_decoding_message_size(message_bytes);
    // The reporter begins with "serving".
    front.set_ready(front.readiness()).await;
    let health = HealthServer::new(HealthService::from_health_reporter(front.health.clone()));
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(flotilla_proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .expect("the descriptors were compiled by the build");
    let server = || {
        Server::builder()
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(HTTP_FRAME)
            .http2_max_header_list_size(HEADER_BYTES)
            .max_concurrent_streams(options.calls_per_connection)
            .http2_keepalive_interval(Some(options.keepalive_interval))
            .http2_keepalive_timeout(Some(options.keepalive_timeout))
    };
    let flow = Flow::new(options.unfinished_bytes, options.unfinished_timeout);
    let for_clients = server()
        .add_service(flow.bound(kv))
        .add_service(flow.bound(admin))
        .add_service(health)
        .add_service(reflection)
        .serve_with_incoming_shutdown(doors.clients.open(), front.stopping());
    let for_nodes = server()
        .add_service(peer)
        .serve_with_incoming_shutdown(doors.nodes.open(), front.stopping());
    let cut_off = async {
        stop.await;
        front.stopping.send_replace(true);
        tokio::time::sleep(options.stop_timeout).await;
    };
    tokio::select! {
        result = async { tokio::try_join!(for_clients, for_nodes) } => result.map(drop),
        () = cut_off => Ok(()),
    }
}
