//! A cluster of real processes, each node with its data on a disk that fails on command.
//!
//! Everything lies in temporary folders and ends with the test, however that ends; a failing test prints the end of each
//! node's log. What waits, waits for a condition, with a patience that only a broken cluster exhausts.

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    process::{self, Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    thread,
    time::{Duration, Instant},
};

use fastrand::Rng;
use flotilla::client::{Admin, Client, Options, Result, stream::NodeStream};
use flotilla_faultfs::{FaultFs, Loss, PowerLoss};
use flotilla_proto::v1::{
    self, Consistency, ReplicaInfo, ScanRequest, StatusResponse, request, response,
    show_shard_request::Which,
};
use tokio::{runtime::Runtime, task::JoinHandle};

/// How long anything may take before the test gives up: far above what it takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks at a condition.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How long one node may take to say how it is.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// Small files, and flushes and cuts of the log every second, so that faults meet all of them.
const SETTINGS: [(&str, &str); 7] = [
    ("raft.election_timeout", "500ms"),
    ("raft.reserve_entries", "16"),
    ("raft.log_bytes", "1MiB"),
    ("storage.log_memtable", "1MiB"),
    ("storage.state_memtable", "1MiB"),
    ("storage.replay_limit", "4MiB"),
    ("storage.flush_age", "1s"),
];

/// Draws of this run, from the seed of the environment or a new one, which is shown if the test fails.
pub(crate) fn seeded() -> Rng {
    let given = env::var("FLOTILLA_TEST_SEED").ok();
    let seed = given.map_or_else(|| fastrand::u64(..), |seed| seed.parse().expect("a number"));
    eprintln!("FLOTILLA_TEST_SEED={seed}");
    Rng::with_seed(seed)
}

/// How often to do something that is to be done so often in an ordinary run.
pub(crate) fn rounds(ordinary: usize) -> usize {
    let times = env::var("FLOTILLA_TEST_ROUNDS").ok();
    ordinary * times.map_or(1, |times| times.parse().expect("a number"))
}

/// See the module.
pub(crate) struct Cluster {
    /// End first: a process that waits for its disk can't be killed.
    pub(crate) disks: Vec<FaultFs>,
    nodes: Vec<Node>,
    settings: Vec<(&'static str, &'static str)>,
    logs: tempfile::TempDir,
    runtime: Runtime,
}

/// One node, running or not.
struct Node {
    listen: SocketAddr,
    status: SocketAddr,
    process: Option<Child>,
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            // It may have ended by itself, which the test has seen then.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// A loopback address of this process alone (127.64.0.0/10, by process id), so that tests that run at the same time can't
/// meet; with a port below those that the system gives to outgoing connections, so that a node that was killed finds its
/// port free when it comes back.
fn fresh_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(10_000);
    let [_, high, middle, low] = process::id().to_be_bytes();
    let own = Ipv4Addr::new(127, 64 | (high & 63), middle, low);
    loop {
        let address = SocketAddr::from((own, NEXT.fetch_add(1, Ordering::Relaxed)));
        // Somebody may listen at this port of all addresses.
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

impl Cluster {
    /// Three nodes with so many shards, and settings beside the usual ones. None, said on stderr, if this machine lets
    /// nobody mount such disks.
    pub(crate) fn start(
        test: &str,
        shards: u32,
        settings: &[(&'static str, &'static str)],
    ) -> Option<Self> {
        let disks = (0..3).map(|_| FaultFs::mount_or_say_not_tested(test));
        let node = |_| Node {
            listen: fresh_address(),
            status: fresh_address(),
            process: None,
        };
        let mut cluster = Self {
            disks: disks.collect::<Option<_>>()?,
            nodes: (0..3).map(node).collect(),
            settings: [&SETTINGS, settings].concat(),
            logs: tempfile::tempdir().expect("a temporary folder"),
            runtime: Runtime::new().expect("threads"),
        };
        for node in 0..cluster.len() {
            cluster.start_node(node);
        }
        cluster.until("the cluster is made", |cluster| {
            let mut init = Command::new(env!("CARGO_BIN_EXE_flotilla"));
            init.args(["--endpoints", &cluster.addresses().join(",")]);
            let output = init
                .args(["init", "--shards", &shards.to_string()])
                .output();
            output.expect("the binary starts").status.success()
        });
        cluster.until_all_serve();
        Some(cluster)
    }

    /// Number of nodes.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    fn address(&self, node: usize) -> String {
        self.nodes[node].listen.to_string()
    }

    fn addresses(&self) -> Vec<String> {
        (0..self.len()).map(|node| self.address(node)).collect()
    }

    fn log(&self, node: usize) -> PathBuf {
        self.logs.path().join(format!("node{node}.log"))
    }

    /// All that a node has logged.
    pub(crate) fn logged(&self, node: usize) -> String {
        fs::read_to_string(self.log(node)).unwrap_or_default()
    }

    // Processes

    /// Starts a node that does not run.
    pub(crate) fn start_node(&mut self, node: usize) {
        assert!(self.nodes[node].process.is_none(), "node {node} runs");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log(node));
        let mut command = Command::new(env!("CARGO_BIN_EXE_flotilla"));
        command
            .arg("start")
            .args(["--data".as_ref(), self.disks[node].path().as_os_str()])
            .args(["--listen", &self.address(node)])
            .args(["--status-listen", &self.nodes[node].status.to_string()])
            .args(["--join", &self.addresses().join(",")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.expect("the folder is writable"));
        for (key, value) in &self.settings {
            command.env(
                format!("FLOTILLA_{}", key.replace('.', "__").to_ascii_uppercase()),
                value,
            );
        }
        self.nodes[node].process = Some(command.spawn().expect("the binary starts"));
    }

    /// Whether a node has been started and not been seen to end.
    pub(crate) fn runs(&self, node: usize) -> bool {
        self.nodes[node].process.is_some()
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, node: usize) {
        let mut process = self.nodes[node].process.take().expect("the node runs");
        process.kill().expect("it is our child");
        process.wait().expect("it is our child");
    }

    /// Kills a node if it runs, and takes the power from its disk.
    pub(crate) fn lose_power(&mut self, node: usize, how: PowerLoss, seed: u64) -> Loss {
        if self.runs(node) {
            self.kill(node);
        }
        let loss = self.disks[node].power_loss(how, seed);
        loss.expect("the machine's own disk works")
    }

    /// Whether a node that was started has ended by itself; [`Cluster::wait`] tells how.
    pub(crate) fn has_ended(&self, node: usize) -> bool {
        let process = self.nodes[node]
            .process
            .as_ref()
            .expect("the node was started");
        let stat = fs::read_to_string(format!("/proc/{}/stat", process.id()));
        let stat = stat.expect("it is our child");
        // Its state follows the name, which may hold anything but ends with the last parenthesis.
        stat.rsplit(") ")
            .next()
            .is_some_and(|rest| rest.starts_with('Z'))
    }

    /// Waits until a node ends by itself.
    pub(crate) fn wait(&mut self, node: usize) -> ExitStatus {
        self.until(&format!("node {node} ends"), |cluster| {
            cluster.has_ended(node)
        });
        let mut process = self.nodes[node]
            .process
            .take()
            .expect("it has ended just now");
        process.wait().expect("it is our child")
    }

    // Waiting

    /// Waits for a condition.
    pub(crate) fn until(&self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        self.until_some(what, |cluster| done(cluster).then_some(()));
    }

    fn until_some<T>(&self, what: &str, mut get: impl FnMut(&Self) -> Option<T>) -> T {
        let begin = Instant::now();
        loop {
            if let Some(found) = get(self) {
                return found;
            }
            assert!(begin.elapsed() < PATIENCE, "not in {PATIENCE:?}: {what}");
            thread::sleep(LOOK_AGAIN);
        }
    }

    /// Whether a node is ready and knows a leader for each of its shards.
    pub(crate) fn serves(&self, node: usize) -> bool {
        let status = self.status(node);
        status.is_some_and(|status| status.ready && status.shards_without_leader == 0)
    }

    pub(crate) fn until_serves(&self, node: usize) {
        self.until(&format!("node {node} serves"), |cluster| {
            cluster.serves(node)
        });
    }

    pub(crate) fn until_all_serve(&self) {
        for node in 0..self.len() {
            self.until_serves(node);
        }
    }

    // Asking

    pub(crate) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Runs something beside the test.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.runtime.spawn(future)
    }

    /// A client as programs have it.
    pub(crate) fn client(&self, options: Options) -> Client {
        let client = self.block_on(Client::connect(self.addresses(), options));
        client.expect("a node answers")
    }

    fn admin(&self, node: usize) -> Admin {
        let _inside = self.runtime.enter();
        Admin::new([self.address(node)], ASK_TIMEOUT).expect("an address")
    }

    /// What a node says of itself, if it answers.
    pub(crate) fn status(&self, node: usize) -> Option<StatusResponse> {
        if !self.runs(node) {
            return None;
        }
        let mut answers = self.block_on(self.admin(node).status());
        answers.pop().and_then(|(_, answer)| answer.ok())
    }

    /// A node's replica of the shard of a key, if there is an answer.
    pub(crate) fn replica(&self, node: usize, key: &str) -> Option<ReplicaInfo> {
        if !self.runs(node) {
            return None;
        }
        let which = Which::Key(key.to_owned().into());
        let mut answers = self.block_on(self.admin(node).show_shard(which));
        let shard = answers.pop().and_then(|(_, answer)| answer.ok());
        shard.and_then(|shard| shard.local)
    }

    /// Waits until a node leads the shard of a key, other than the ones left out.
    pub(crate) fn leader(&self, key: &str, except: &[usize]) -> usize {
        self.until_some(&format!("the shard of {key} has a leader"), |cluster| {
            let others = (0..cluster.len()).filter(|node| !except.contains(node));
            let replicas = others.filter_map(|node| Some((node, cluster.replica(node, key)?)));
            let leaders = replicas.filter(|(_, replica)| replica.role == "leader");
            let newest = leaders.max_by_key(|(_, replica)| replica.term);
            newest.map(|(node, _)| node)
        })
    }

    /// All rows that a node finds, or what it says instead. It is not helped by a client that knows a better one.
    pub(crate) fn rows(&self, node: usize, how: Consistency) -> Result<BTreeMap<String, String>> {
        let stream = {
            let _inside = self.runtime.enter();
            NodeStream::new(self.address(node), Default::default()).expect("an address")
        };
        let mut rows = BTreeMap::new();
        let mut start = bytes::Bytes::new();
        loop {
            let request = v1::Request {
                kind: Some(request::Kind::Scan(ScanRequest {
                    start,
                    consistency: how.into(),
                    ..ScanRequest::default()
                })),
                ..v1::Request::default()
            };
            let page = match self.block_on(stream.call(request, PATIENCE))?.kind {
                Some(response::Kind::Scan(page)) => page,
                other => panic!("not the answer to a scan: {other:?}"),
            };
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            rows.extend(
                page.rows
                    .iter()
                    .map(|row| (text(&row.key), text(&row.value))),
            );
            match page.next {
                Some(next) => start = next,
                None => return Ok(rows),
            }
        }
    }

    /// Waits until all replicas of each shard have applied the same, and fails unless their content is the same then.
    pub(crate) fn assert_replicas_agree(&self) {
        let shards = self
            .block_on(self.admin(0).list_shards())
            .expect("node 0 answers");
        for shard in shards {
            let shard = shard.descriptor.unwrap_or_default().shard_id;
            let sums = self.until_some(&format!("shard {shard} is alike applied"), |cluster| {
                let sum = |node| {
                    let mut sums = cluster.block_on(cluster.admin(node).checksum(shard));
                    sums.pop().and_then(|(_, sum)| sum.ok())
                };
                let sums = (0..cluster.len()).map(sum).collect::<Option<Vec<_>>>()?;
                let mut pairs = sums.windows(2);
                let alike = pairs.all(|pair| pair[0].applied_index == pair[1].applied_index);
                alike.then_some(sums)
            });
            assert!(
                sums.windows(2).all(|pair| pair[0] == pair[1]),
                "shard {shard}: replicas that have applied the same differ: {sums:?}"
            );
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if thread::panicking() {
            for node in 0..self.len() {
                let log = self.logged(node);
                let lines: Vec<&str> = log.lines().collect();
                let tail = lines[lines.len().saturating_sub(15)..].join("\n");
                eprintln!("end of the log of node {node}:\n{tail}\n");
            }
        }
    }
}
