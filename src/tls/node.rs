//! What a node shows and demands. Its files are read again when they change: connections that are made from then on have
//! the new ones, those that stand go on, and what can't be used changes nothing.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use flotilla_metrics::{Metrics, TlsReload};
use flotilla_shards::{genesis::ClusterId, ids::NodeId};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_rustls::rustls::{ClientConfig, ServerConfig, sign::SingleCertAndKey, version::TLS13};

use super::{
    client::{self, ClientTls},
    files::{NodeFiles, Pair, TlsError, authorities, node_pair},
    identity::cluster_hex,
    protocols, provider,
    verify::{OfCallers, Welcome},
};

/// How often the files are looked at. Certificate and key are two files, so a change is taken when nothing has changed
/// since the look before.
const LOOK: Duration = Duration::from_secs(1);

/// See the module.
pub struct NodeTls {
    files: NodeFiles,
    /// Whether clients may come without a certificate.
    open: bool,
    loaded: ArcSwap<Loaded>,
    outgoing: Arc<ArcSwap<ClientConfig>>,
    /// The files as they were when they were last read.
    seen: Mutex<Stamp>,
    wanted: Notify,
}

/// What was read from the files.
struct Loaded {
    for_clients: Arc<ServerConfig>,
    for_nodes: Arc<ServerConfig>,
    cluster: ClusterId,
    node: NodeId,
    until: SystemTime,
}

/// What tells one state of the files from another; none for a file that can't be looked at.
type Stamp = Vec<Option<(u64, i64, i64, u64)>>;

impl NodeTls {
    /// Reads the files. `open`: clients may come without a certificate, to prove who they are in another way.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn load(files: NodeFiles, open: bool) -> Result<Self, TlsError> {
        let seen = stamp(&files);
        let (loaded, outgoing) = read(&files, open)?;
        Ok(Self {
            files,
            open,
            loaded: ArcSwap::from_pointee(loaded),
            outgoing: Arc::new(ArcSwap::from_pointee(outgoing)),
            seen: Mutex::new(seen),
            wanted: Notify::new(),
        })
    }

    /// The cluster and the node that the certificate names.
    #[must_use]
    pub fn name(&self) -> (ClusterId, NodeId) {
        let loaded = self.loaded.load();
        (loaded.cluster, loaded.node)
    }

    /// Until when the certificate is valid.
    #[must_use]
    pub fn until(&self) -> SystemTime {
        self.loaded.load().until
    }

    /// For connections of clients.
    pub(crate) fn for_clients(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.loaded.load().for_clients)
    }

    /// For connections of nodes.
    pub(crate) fn for_nodes(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.loaded.load().for_nodes)
    }

    /// For connections to nodes.
    #[must_use]
    pub fn outgoing(&self) -> ClientTls {
        ClientTls::shared(Arc::clone(&self.outgoing))
    }

    /// Has the files read again, whether they seem to have changed or not.
    pub fn want_reload(&self) {
        self.wanted.notify_one();
    }

    /// Reads the files again.
    ///
    /// # Errors
    /// What is wrong with them, or that they name another node; what was read before stays in use.
    pub fn reload(&self) -> Result<(), TlsError> {
        // Before they are read: a change that comes meanwhile is seen by the next look.
        *self.seen.lock() = stamp(&self.files);
        let (loaded, outgoing) = read(&self.files, self.open)?;
        let (cluster, node) = self.name();
        if (loaded.cluster, loaded.node) != (cluster, node) {
            let name = |cluster: &ClusterId, node| {
                format!("node {node} of cluster {}", cluster_hex(cluster))
            };
            return Err(TlsError::Holder {
                cert: self.files.cert.clone(),
                found: name(&loaded.cluster, loaded.node),
                expected: name(&cluster, node),
            });
        }
        self.loaded.store(Arc::new(loaded));
        self.outgoing.store(Arc::new(outgoing));
        Ok(())
    }

    /// Keeps what is used up to date with the files, for as long as the task lives.
    pub async fn watch(&self, metrics: &Metrics) {
        let note_expiry = || {
            let until = self.until().duration_since(SystemTime::UNIX_EPOCH);
            let seconds = until.map_or(0, |until| until.as_secs());
            metrics
                .certificate_expiry
                .set(i64::try_from(seconds).unwrap_or(i64::MAX));
        };
        note_expiry();
        let mut before = self.seen.lock().clone();
        loop {
            let told = tokio::select! {
                () = tokio::time::sleep(LOOK) => false,
                () = self.wanted.notified() => true,
            };
            let now = stamp(&self.files);
            let settled = now == before && now != *self.seen.lock();
            before = now;
            if !told && !settled {
                continue;
            }
            match self.reload() {
                Ok(()) => {
                    note_expiry();
                    metrics.tls_reloads.of(TlsReload::Done).inc();
                    let until = humantime::format_rfc3339_seconds(self.until()).to_string();
                    tracing::info!(
                        until,
                        "certificates were read again; new connections use them"
                    );
                }
                Err(error) => {
                    metrics.tls_reloads.of(TlsReload::Refused).inc();
                    tracing::error!(%error, "new certificates are not used; those from before stay in use");
                }
            }
        }
    }
}

fn stamp(files: &NodeFiles) -> Stamp {
    let look = |path: &Path| {
        let about = fs::metadata(path).ok()?;
        Some((about.ino(), about.mtime(), about.mtime_nsec(), about.len()))
    };
    let NodeFiles {
        ca,
        client_ca,
        cert,
        key,
    } = files;
    let paths = [Some(ca), client_ca.as_ref(), Some(cert), Some(key)];
    paths.into_iter().flatten().map(|path| look(path)).collect()
}

fn read(files: &NodeFiles, open: bool) -> Result<(Loaded, ClientConfig), TlsError> {
    let refused = |path: &PathBuf, reason| TlsError::Refused {
        path: path.clone(),
        reason,
    };
    let node_roots = authorities(&files.ca)?;
    let client_roots = match &files.client_ca {
        Some(path) => authorities(path)?,
        None => Arc::clone(&node_roots),
    };
    let (pair, node) = node_pair(files, &node_roots, SystemTime::now())?;
    let server = |welcome| {
        let callers = OfCallers::new(&node_roots, &client_roots, pair.cluster, welcome)?;
        server_config(callers, &pair)
    };
    let for_callers = if open {
        Welcome::Everybody
    } else {
        Welcome::Holders
    };
    let loaded = Loaded {
        for_clients: server(for_callers).map_err(|reason| refused(&files.cert, reason))?,
        for_nodes: server(Welcome::Nodes).map_err(|reason| refused(&files.cert, reason))?,
        cluster: pair.cluster,
        node,
        until: pair.until,
    };
    let outgoing = client::config(Arc::clone(&node_roots), Some(pair.cluster), Some(&pair));
    let outgoing = outgoing.map_err(|reason| refused(&files.ca, reason))?;
    Ok((loaded, outgoing))
}

fn server_config(callers: OfCallers, pair: &Pair) -> Result<Arc<ServerConfig>, String> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| error.to_string())?
        .with_client_cert_verifier(Arc::new(callers))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&pair.key))));
    config.alpn_protocols = protocols();
    // The other end waits for this word: see `ClientTls::connect`.
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}
