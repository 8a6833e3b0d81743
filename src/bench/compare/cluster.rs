//! Three processes of one system on this machine, with fresh folders; gone when dropped.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    net::{Ipv4Addr, TcpListener},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use flotilla_proto::v1;

use crate::{
    bench::{
        Address, Read,
        error::{Error, Result},
        target::Etcd,
    },
    client::Admin,
};

pub(super) const NODES: usize = 3;
/// How long a cluster may take until all of it serves.
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK_AGAIN: Duration = Duration::from_millis(100);
const ASK_TIMEOUT: Duration = Duration::from_secs(10);
/// Durable and fast; no compaction within a run.
const ETCD_FLAGS: [&str; 14] = [
    "--heartbeat-interval",
    "100",
    "--election-timeout",
    "1000",
    "--snapshot-count",
    "100000",
    "--quota-backend-bytes",
    "8589934592",
    "--max-txn-ops",
    "1024",
    "--experimental-backend-bbolt-freelist-type",
    "map",
    "--log-level",
    "error",
];

/// See the module.
pub(super) struct Cluster {
    processes: Vec<Child>,
    /// Of clients, then of metrics, in the order of the processes.
    addresses: Vec<String>,
    metrics: Vec<String>,
    is_etcd: bool,
    folder: PathBuf,
}

/// host:port of ports that are free now.
fn free(count: usize) -> Result<Vec<String>> {
    // All are held until all are found, so that none is given twice.
    let listeners = (0..count).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
    let listeners = listeners.collect::<std::io::Result<Vec<_>>>();
    let listeners = listeners.map_err(Error::io("a free port"))?;
    let address = |listener: &TcpListener| listener.local_addr().map(|address| address.to_string());
    let addresses = listeners
        .iter()
        .map(address)
        .collect::<std::io::Result<_>>();
    addresses.map_err(Error::io("a free port"))
}

/// The first line of `etcd --version`.
pub(super) fn etcd_version() -> Result<String> {
    let missing = |source| Error::Io {
        what: "etcd (Debian: apt-get install etcd-server)".to_owned(),
        source,
    };
    let output = Command::new("etcd")
        .arg("--version")
        .output()
        .map_err(missing)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.lines().next().and_then(|line| line.rsplit(' ').next());
    Ok(version.unwrap_or("of unknown version").to_owned())
}

impl Cluster {
    fn new(folder: &Path, is_etcd: bool) -> Result<Self> {
        let folder = folder.join("data");
        // Left over from a run that was killed.
        if folder.exists() {
            fs::remove_dir_all(&folder).map_err(Error::io(folder.display().to_string()))?;
        }
        fs::create_dir_all(&folder).map_err(Error::io(folder.display().to_string()))?;
        Ok(Self {
            processes: Vec::new(),
            addresses: Vec::new(),
            metrics: Vec::new(),
            is_etcd,
            folder,
        })
    }

    /// Starts a process whose log lies beside its data. It does not get our Ctrl-C, and dies with us.
    fn start(&mut self, program: &Path, arguments: &[String], settings: &[(&str, &str)]) -> Result {
        let log = self
            .folder
            .join(format!("node{}.log", self.processes.len()));
        let name = log.display().to_string();
        let log = File::create(&log).map_err(Error::io(name))?;
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(program)
            .args(arguments)
            .envs(settings.iter().copied())
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        let name = format!("starting {} with setpriv (util-linux)", program.display());
        self.processes.push(child.map_err(Error::io(name))?);
        Ok(())
    }

    /// Nodes of ours, from the binary that runs here, with these settings.
    pub(super) async fn flotilla(
        folder: &Path,
        shards: u32,
        settings: &[(&str, &str)],
    ) -> Result<Self> {
        let binary = std::env::current_exe().map_err(Error::io("our own binary"))?;
        let mut cluster = Self::new(folder, false)?;
        cluster.addresses = free(3 * NODES)?;
        let peers = cluster.addresses.split_off(2 * NODES);
        cluster.metrics = cluster.addresses.split_off(NODES);
        for node in 0..NODES {
            let data = cluster.folder.join(format!("node{node}"));
            let arguments = [
                "start".to_owned(),
                "--data".to_owned(),
                data.display().to_string(),
                "--listen".to_owned(),
                cluster.addresses[node].clone(),
                "--peer-listen".to_owned(),
                peers[node].clone(),
                "--status-listen".to_owned(),
                cluster.metrics[node].clone(),
                "--join".to_owned(),
                peers.join(","),
            ];
            cluster.start(&binary, &arguments, settings)?;
        }
        let admin = Admin::new(cluster.addresses.iter().cloned(), ASK_TIMEOUT)?;
        let init = v1::InitRequest {
            shards,
            ..v1::InitRequest::default()
        };
        cluster
            .until("a cluster of ours is made", async || {
                admin.init(init.clone()).await.is_ok()
            })
            .await?;
        let serves =
            |status: &v1::StatusResponse| status.ready && status.shards_without_leader == 0;
        cluster
            .until("all shards are led", async || {
                let mut answers = admin.status().await.into_iter();
                answers.all(|(_, answer)| answer.is_ok_and(|status| serves(&status)))
            })
            .await?;
        Ok(cluster)
    }

    /// Members of etcd.
    pub(super) async fn etcd(folder: &Path) -> Result<Self> {
        let mut cluster = Self::new(folder, true)?;
        cluster.addresses = free(2 * NODES)?;
        let peers = cluster.addresses.split_off(NODES);
        cluster.metrics = cluster.addresses.clone();
        let url = |address: &String| format!("http://{address}");
        let members = peers.iter().enumerate();
        let members: Vec<String> = members
            .map(|(node, peer)| format!("n{node}={}", url(peer)))
            .collect();
        for (node, peer) in peers.iter().enumerate() {
            let client = url(&cluster.addresses[node]);
            let data = cluster.folder.join(format!("node{node}"));
            let own = [
                ("--name", format!("n{node}")),
                ("--data-dir", data.display().to_string()),
                ("--listen-client-urls", client.clone()),
                ("--advertise-client-urls", client),
                ("--listen-peer-urls", url(peer)),
                ("--initial-advertise-peer-urls", url(peer)),
                ("--initial-cluster", members.join(",")),
                ("--initial-cluster-state", "new".to_owned()),
            ];
            let own = own
                .into_iter()
                .flat_map(|(flag, value)| [flag.to_owned(), value]);
            let arguments: Vec<String> = own.chain(ETCD_FLAGS.map(str::to_owned)).collect();
            cluster.start(Path::new("etcd"), &arguments, &[])?;
        }
        let addresses = cluster.addresses.clone();
        cluster
            .until("etcd has a leader", async || {
                Etcd::connect(&addresses, Read::Linearizable, 1, ASK_TIMEOUT)
                    .await
                    .is_ok()
            })
            .await?;
        Ok(cluster)
    }

    /// Waits for something, unless a process ends.
    async fn until(&mut self, what: &str, mut done: impl AsyncFnMut() -> bool) -> Result {
        let begun = Instant::now();
        while !done().await {
            for (node, process) in self.processes.iter_mut().enumerate() {
                if let Ok(Some(status)) = process.try_wait() {
                    let log = self.folder.join(format!("node{node}.log"));
                    let log = fs::read_to_string(log).unwrap_or_default();
                    let last = log.lines().last().unwrap_or("it said nothing");
                    return Err(Error::Target(format!(
                        "node {node} ended, {status}: {last}"
                    )));
                }
            }
            if begun.elapsed() > PATIENCE {
                return Err(Error::Target(format!("not within {PATIENCE:?}: {what}")));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    pub(super) fn address(&self) -> Address {
        match self.is_etcd {
            true => Address::Etcd(self.addresses.clone()),
            false => Address::Flotilla(self.addresses.clone()),
        }
    }

    /// Processes by the address of their metrics.
    pub(super) fn processes(&self) -> BTreeMap<String, u32> {
        let processes = self.processes.iter().map(Child::id);
        self.metrics.iter().cloned().zip(processes).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for process in &mut self.processes {
            // It may have ended by itself.
            let _ = process.kill();
            let _ = process.wait();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}
