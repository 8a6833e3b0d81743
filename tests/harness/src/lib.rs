//! A cluster of real processes: started, killed, stopped, cut off from each other, and asked.
//!
//! Nodes reach each other, and clients reach them, through the proxies of [`net`]. Everything lies in a temporary folder
//! and ends with the test, however that ends; a failing test prints the end of each node's log. What waits, waits for a
//! condition, with a patience that only a broken cluster exhausts.
//!
//! The binary is the one that lies beside the test's own: tests that use this crate belong to the package `flotilla`,
//! which has it built for them.

pub mod address;
pub mod certificates;
pub mod clock;
pub mod load;
pub mod net;
mod process;
pub mod records;

use std::{
    collections::BTreeMap,
    env, fs,
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Output},
    thread,
    time::{Duration, Instant, SystemTime},
};

use fastrand::Rng;
use flotilla::client::{
    self, Admin, Client,
    stream::{NodeStream, StreamOptions},
};
use flotilla_faultfs::{FaultFs, Loss, PowerLoss};
use flotilla_proto::v1::{self, request, response, show_shard_request::Which};
use tokio::{runtime::Runtime, task::JoinHandle};

pub use self::process::{Process, binary};
use self::{certificates::Certificates, clock::Clocks, net::Net};

/// How long anything may take before the test gives up: far above what it takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks at a condition.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How long one node may take to say how it is.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// Draws of this run, from the seed of the environment (`FLOTILLA_TEST_SEED`) or a new one, which is shown if the test
/// fails.
pub fn seeded() -> Rng {
    let given = env::var("FLOTILLA_TEST_SEED").ok();
    let seed = given.map_or_else(|| fastrand::u64(..), |seed| seed.parse().expect("a number"));
    eprintln!("FLOTILLA_TEST_SEED={seed}");
    Rng::with_seed(seed)
}

/// What a cluster is like.
pub struct Plan {
    /// How many.
    pub nodes: usize,
    /// Where the keyspace is cut.
    pub split: Split,
    /// Settings of all nodes, as `section.key` and value, over the defaults.
    pub settings: Vec<(&'static str, &'static str)>,
    /// Disks that fail on command, of the first nodes; the data of the others lies in the folder.
    pub disks: Vec<FaultFs>,
    /// What steps their clocks, if they are to be stepped.
    pub clocks: Option<Clocks>,
    /// Whether nodes and clients have certificates, and speak TLS.
    pub secure: bool,
    /// Where everything lies.
    pub folder: tempfile::TempDir,
}

/// Where the keyspace is cut.
pub enum Split {
    /// Into so many shards of equal size.
    Even(u32),
    /// At these keys.
    At(Vec<String>),
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            nodes: 3,
            split: Split::Even(8),
            settings: Vec::new(),
            disks: Vec::new(),
            clocks: None,
            secure: false,
            folder: tempfile::tempdir().expect("a temporary folder"),
        }
    }
}

/// See the module. Must be used by the thread that made it: nodes die with the thread that started them.
pub struct Cluster {
    plan: Plan,
    nodes: Vec<Node>,
    net: Net,
    runtime: Runtime,
    certificates: Option<Certificates>,
}

/// One node, running or not.
struct Node {
    listen: SocketAddr,
    status: SocketAddr,
    /// Its id in the cluster; 0 before there is one.
    id: u64,
    process: Option<Process>,
    paused: bool,
    /// It is no longer behind its proxy.
    moved: bool,
}

impl Cluster {
    /// Starts all nodes and makes them a cluster that serves.
    pub fn start(plan: Plan) -> Self {
        let mut cluster = Self::start_apart(plan);
        cluster.init();
        cluster
    }

    /// Starts all nodes, which are no cluster yet.
    pub fn start_apart(plan: Plan) -> Self {
        let runtime = Runtime::new().expect("threads");
        let nodes: Vec<Node> = (0..plan.nodes)
            .map(|_| Node {
                listen: address::fresh(),
                status: address::fresh(),
                id: 0,
                process: None,
                paused: false,
                moved: false,
            })
            .collect();
        let listens = nodes.iter().map(|node| node.listen).collect();
        let certificates = (plan.secure)
            .then(|| Certificates::create(plan.folder.path().join("certs"), plan.nodes));
        let mut cluster = Self {
            net: Net::new(runtime.handle(), listens),
            certificates,
            plan,
            nodes,
            runtime,
        };
        for node in 0..cluster.len() {
            cluster.set_clock(node, 0);
            cluster.start_node(node);
        }
        cluster
    }

    /// Makes the nodes a cluster and waits until all of it serves.
    pub fn init(&mut self) {
        let keys = self.folder().join("split-keys");
        let arguments = match &self.plan.split {
            Split::Even(shards) => ["--shards".to_owned(), shards.to_string()],
            Split::At(words) => {
                fs::write(&keys, words.join("\n")).expect("the folder is writable");
                ["--split-keys".to_owned(), keys.display().to_string()]
            }
        };
        self.until("the cluster is made", |cluster| {
            let replicas = cluster.replicas().to_string();
            let mut command = cluster.command(&["init", "--replicas", &replicas]);
            let output = command.args(&arguments).output();
            output.expect("the binary starts").status.success()
        });
        for node in 0..self.len() {
            // It tells nobody anything before the meta shard has told it who may ask.
            let status = self.until_some("it is initialized", |cluster| cluster.status(node));
            self.nodes[node].id = status.node_id;
        }
        self.until_all_serve();
    }

    /// Number of nodes.
    #[expect(clippy::len_without_is_empty, reason = "a cluster is never empty")]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Replicas of each shard: one on each node, or on all but one, as their number must be odd.
    pub fn replicas(&self) -> usize {
        self.len() - (self.len() + 1) % 2
    }

    /// The network between nodes, and between clients and nodes.
    pub fn net(&self) -> &Net {
        &self.net
    }

    /// The certificates, of [`Plan::secure`].
    pub fn certificates(&self) -> &Certificates {
        self.certificates.as_ref().expect("the plan is secure")
    }

    fn reached_at(&self, node: usize) -> SocketAddr {
        let Node { listen, moved, .. } = self.nodes[node];
        if moved { listen } else { self.net.front(node) }
    }

    /// Where clients reach a node.
    pub fn address(&self, node: usize) -> String {
        self.reached_at(node).to_string()
    }

    /// Where a node itself listens for clients, without a proxy in between.
    pub fn direct_address(&self, node: usize) -> SocketAddr {
        self.nodes[node].listen
    }

    /// Where other nodes reach a node.
    pub fn peer_address(&self, node: usize) -> String {
        address::of_peers(self.reached_at(node)).to_string()
    }

    /// How clients connect.
    pub fn stream_options(&self) -> StreamOptions {
        let tls = self.certificates.as_ref().map(Certificates::client);
        StreamOptions {
            tls,
            ..StreamOptions::default()
        }
    }

    /// Where a node's status is served.
    pub fn status_address(&self, node: usize) -> SocketAddr {
        self.nodes[node].status
    }

    /// The node's id in the cluster.
    pub fn id(&self, node: usize) -> u64 {
        self.nodes[node].id
    }

    /// Where everything lies but for the data on [`Plan::disks`].
    pub fn folder(&self) -> &Path {
        self.plan.folder.path()
    }

    /// A node's data folder.
    pub fn data(&self, node: usize) -> PathBuf {
        self.plan.disks.get(node).map_or_else(
            || self.folder().join(format!("node{node}")),
            |disk| disk.path().to_owned(),
        )
    }

    /// A node's disk, of those in [`Plan::disks`].
    pub fn disk(&self, node: usize) -> &FaultFs {
        &self.plan.disks[node]
    }

    /// Kills a node if it runs, and takes the power from its disk.
    pub fn lose_power(&mut self, node: usize, how: PowerLoss, seed: u64) -> Loss {
        if self.runs(node) {
            self.kill(node);
        }
        let loss = self.plan.disks[node].power_loss(how, seed);
        loss.expect("the machine's own disk works")
    }

    fn clock(&self, node: usize) -> PathBuf {
        self.folder().join(format!("node{node}.clock"))
    }

    /// Steps a node's wall clock to so many seconds before or after the machine's. It stays so over restarts. To be felt
    /// within [`clock::FELT_WITHIN`], if the plan has what steps clocks.
    pub fn set_clock(&self, node: usize, seconds: i64) {
        clock::set(&self.clock(node), seconds).expect("the folder is writable");
    }

    /// What a running node takes the wall time to be: it is made to write a line into its log.
    pub fn wall_clock(&self, node: usize) -> Option<SystemTime> {
        let before = self.logged(node).len();
        http(self.nodes[node].status, "PUT", "/log-level", "info").ok()?;
        let log = self.logged(node);
        let mut lines = log.get(before..)?.lines().rev();
        lines
            .find(|line| line.contains("log level was changed"))
            .and_then(clock::logged_at)
    }

    fn log(&self, node: usize) -> PathBuf {
        self.folder().join(format!("node{node}.log"))
    }

    /// All that a node has logged.
    pub fn logged(&self, node: usize) -> String {
        fs::read_to_string(self.log(node)).unwrap_or_default()
    }

    /// The command that starts a node: the same at each start.
    pub fn node_command(&self, node: usize) -> Command {
        self.other_command(node, &[])
    }

    /// As the command that starts a node, with some of its flags otherwise.
    pub fn other_command(&self, node: usize, other: &[(&str, &str)]) -> Command {
        let Node { listen, status, .. } = &self.nodes[node];
        let peers: Vec<String> = (0..self.len())
            .map(|node| self.peer_address(node))
            .collect();
        let data = self.data(node);
        let mut flags = BTreeMap::from([
            (
                "--data",
                data.to_str()
                    .expect("temporary folders have plain names")
                    .to_owned(),
            ),
            ("--listen", listen.to_string()),
            ("--advertise", self.address(node)),
            ("--peer-advertise", self.peer_address(node)),
            ("--status-listen", status.to_string()),
            ("--join", peers.join(",")),
        ]);
        if let Some(certificates) = &self.certificates {
            flags.extend(certificates.flags(&format!("node{}", node + 1)));
        }
        if other.iter().any(|(flag, _)| *flag == "--listen") {
            // Elsewhere, so without our proxies.
            flags.remove("--peer-advertise");
        }
        flags.extend(
            other
                .iter()
                .map(|(flag, value)| (*flag, (*value).to_owned())),
        );
        let mut command = process::command();
        command.arg("start");
        for (flag, value) in flags {
            command.args([flag, &value]);
        }
        for (key, value) in &self.plan.settings {
            let variable = key.replace('.', "__").to_ascii_uppercase();
            command.env(format!("FLOTILLA_{variable}"), value);
        }
        if let Some(clocks) = &self.plan.clocks {
            clocks.apply(&mut command, &self.clock(node));
        }
        command
    }

    /// Gives a node that does not run another address, past the proxies.
    pub fn relocate(&mut self, node: usize) {
        assert!(self.nodes[node].process.is_none(), "node {node} runs");
        self.nodes[node].listen = address::fresh();
        self.nodes[node].moved = true;
    }

    /// Starts a node that does not run.
    pub fn start_node(&mut self, node: usize) {
        self.start_node_with(node, &[]);
    }

    /// Starts a node that does not run, with more arguments than others have.
    pub fn start_node_with(&mut self, node: usize, arguments: &[&str]) {
        assert!(self.nodes[node].process.is_none(), "node {node} runs");
        let mut processes = self.net.processes();
        let mut command = self.node_command(node);
        command.args(arguments);
        let process = Process::start(command, &self.log(node));
        processes[node] = Some(process.id());
        drop(processes);
        self.nodes[node].process = Some(process);
    }

    fn process(&mut self, node: usize) -> &mut Process {
        let process = self.nodes[node].process.as_mut();
        process.unwrap_or_else(|| panic!("node {node} does not run"))
    }

    /// SIGKILL.
    pub fn kill(&mut self, node: usize) {
        self.process(node).kill();
        self.ended(node);
    }

    /// SIGTERM; returns how the process ended.
    pub fn terminate(&mut self, node: usize) -> ExitStatus {
        self.process(node).terminate();
        self.wait(node)
    }

    /// Whether a node that was started has ended by itself; [`Cluster::wait`] tells how.
    pub fn has_ended(&self, node: usize) -> bool {
        let process = self.nodes[node].process.as_ref();
        process.is_some_and(Process::has_ended)
    }

    /// Waits until a node ends by itself.
    pub fn wait(&mut self, node: usize) -> ExitStatus {
        let status = self.process(node).wait(PATIENCE);
        let status = status.unwrap_or_else(|| panic!("node {node} still runs after {PATIENCE:?}"));
        self.ended(node);
        status
    }

    fn ended(&mut self, node: usize) {
        self.nodes[node].process = None;
        self.nodes[node].paused = false;
        if let Some(process) = self.net.processes()[node].take() {
            clock::sweep(process);
        }
    }

    /// SIGHUP.
    pub fn hang_up(&mut self, node: usize) {
        self.process(node).hang_up();
    }

    /// SIGSTOP.
    pub fn pause(&mut self, node: usize) {
        self.process(node).pause();
        self.nodes[node].paused = true;
    }

    /// SIGCONT.
    pub fn resume(&mut self, node: usize) {
        self.process(node).resume();
        self.nodes[node].paused = false;
    }

    /// Whether a node has been started and not been seen to end.
    pub fn runs(&self, node: usize) -> bool {
        self.nodes[node].process.is_some()
    }

    /// Whether the process of a node runs and is not paused.
    pub fn is_up(&self, node: usize) -> bool {
        self.nodes[node].process.is_some() && !self.nodes[node].paused
    }

    /// The process's memory: the greatest amount that it has had so far, in bytes.
    pub fn peak_memory(&mut self, node: usize) -> u64 {
        self.process(node).peak_memory()
    }

    /// A command of the command line, told all nodes.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let endpoints: Vec<String> = (0..self.len()).map(|node| self.address(node)).collect();
        let mut command = process::command();
        command.args(["--endpoints", &endpoints.join(","), "--timeout", "60s"]);
        if let Some(certificates) = &self.certificates {
            for (flag, value) in certificates.flags("client-test") {
                command.args([flag, &value]);
            }
        }
        command.args(arguments);
        command
    }

    /// A command of the command line, told one node.
    pub fn command_at(&self, node: usize, arguments: &[&str]) -> Command {
        let mut command = process::command();
        command.args(["--endpoints", &self.address(node)]);
        command.args(arguments);
        command
    }

    /// Runs a command of the command line to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the binary starts")
    }

    /// Waits for a condition.
    pub fn until(&self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        self.until_some(what, |cluster| done(cluster).then_some(()));
    }

    /// Waits for something.
    pub fn until_some<T>(&self, what: &str, mut get: impl FnMut(&Self) -> Option<T>) -> T {
        let begin = Instant::now();
        loop {
            if let Some(found) = get(self) {
                return found;
            }
            assert!(begin.elapsed() < PATIENCE, "not in {PATIENCE:?}: {what}");
            thread::sleep(LOOK_AGAIN);
        }
    }

    /// Runs something to its end.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Runs something beside the test.
    pub fn spawn<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.runtime.spawn(future)
    }

    /// A client as programs have it.
    pub fn client(&self, mut options: client::Options) -> Client {
        options.stream.tls = self.stream_options().tls;
        let endpoints = (0..self.len()).map(|node| self.address(node));
        let client = self.block_on(Client::connect(endpoints, options));
        client.expect("a node answers")
    }

    /// A connection to one node, which gets every request that is sent over it.
    pub fn stream(&self, node: usize) -> NodeStream {
        let _inside = self.runtime.enter();
        NodeStream::new(self.address(node), self.stream_options()).expect("an address")
    }

    /// Asks one node, once.
    pub fn ask(
        &self,
        node: usize,
        kind: request::Kind,
        timeout: Duration,
    ) -> client::Result<response::Kind> {
        let stream = self.stream(node);
        self.block_on(ask(&stream, kind, timeout))
    }

    /// The operators' side of one node.
    pub fn admin(&self, node: usize) -> Admin {
        let _inside = self.runtime.enter();
        let options = self.stream_options();
        Admin::with_options([self.address(node)], ASK_TIMEOUT, &options).expect("an address")
    }

    /// What a node says of itself, if it answers.
    pub fn status(&self, node: usize) -> Option<v1::StatusResponse> {
        if !self.is_up(node) {
            return None;
        }
        let mut answers = self.block_on(self.admin(node).status());
        answers.pop().and_then(|(_, answer)| answer.ok())
    }

    /// Whether a node is ready and knows a leader for each of its shards.
    pub fn serves(&self, node: usize) -> bool {
        let status = self.status(node);
        status.is_some_and(|status| status.ready && status.shards_without_leader == 0)
    }

    /// Waits until a node serves.
    pub fn until_serves(&self, node: usize) {
        self.until(&format!("node {node} serves"), |cluster| {
            cluster.serves(node)
        });
    }

    /// Waits until all nodes serve.
    pub fn until_all_serve(&self) {
        for node in 0..self.len() {
            self.until_serves(node);
        }
    }

    /// A shard's replica on a node, if there is an answer.
    pub fn replica(&self, node: usize, which: &Which) -> Option<v1::ReplicaInfo> {
        if !self.is_up(node) {
            return None;
        }
        let mut answers = self.block_on(self.admin(node).show_shard(which.clone()));
        let shard = answers.pop().and_then(|(_, answer)| answer.ok());
        shard.and_then(|shard| shard.local)
    }

    /// Waits until a node leads the shard of a key, other than the ones left out.
    pub fn leader(&self, key: &str, except: &[usize]) -> usize {
        let which = Which::Key(key.to_owned().into());
        self.until_some(&format!("the shard of {key} has a leader"), |cluster| {
            let others = (0..cluster.len()).filter(|node| !except.contains(node));
            let replicas = others.filter_map(|node| Some((node, cluster.replica(node, &which)?)));
            let leaders = replicas.filter(|(_, replica)| replica.role == "leader");
            let newest = leaders.max_by_key(|(_, replica)| replica.term);
            newest.map(|(node, _)| node)
        })
    }

    /// All shards, as a node sees them.
    pub fn shards(&self, node: usize) -> Vec<v1::ShardInfo> {
        let shards = self.block_on(self.admin(node).list_shards());
        shards.unwrap_or_else(|error| panic!("the shards of node {node}: {error}"))
    }

    /// Waits until all replicas of each shard have applied the same, and fails unless their content is the same then.
    pub fn assert_replicas_agree(&self) {
        for shard in self.shards(0) {
            let descriptor = shard.descriptor.unwrap_or_default();
            let shard = descriptor.shard_id;
            let has = |node: &usize| {
                let id = self.id(*node);
                descriptor
                    .replicas
                    .iter()
                    .any(|replica| replica.node_id == id)
            };
            let sums = self.until_some(&format!("shard {shard} is alike applied"), |cluster| {
                let nodes = (0..cluster.len()).filter(has);
                let sum = |node| {
                    let mut sums = cluster.block_on(cluster.admin(node).checksum(shard));
                    sums.pop().and_then(|(_, sum)| sum.ok())
                };
                let sums = nodes.map(sum).collect::<Option<Vec<_>>>()?;
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

    /// All rows, read linearizably from this node, which is not helped by a client that knows a better one.
    pub fn rows(&self, node: usize) -> Vec<(String, String)> {
        self.try_rows(node, v1::Consistency::Linearizable)
            .unwrap_or_else(|error| panic!("a scan through node {node}: {error}"))
    }

    /// All rows that a node finds, or what it says instead.
    ///
    /// # Errors
    /// The node's.
    pub fn try_rows(
        &self,
        node: usize,
        how: v1::Consistency,
    ) -> client::Result<Vec<(String, String)>> {
        let stream = self.stream(node);
        let mut rows = Vec::new();
        let mut start = bytes::Bytes::new();
        loop {
            let scan = request::Kind::Scan(v1::ScanRequest {
                start,
                consistency: how.into(),
                ..v1::ScanRequest::default()
            });
            let page = match self.block_on(ask(&stream, scan, PATIENCE))? {
                response::Kind::Scan(page) => page,
                other => panic!("not the answer to a scan: {other:?}"),
            };
            let text = |bytes: bytes::Bytes| String::from_utf8_lossy(&bytes).into_owned();
            let page_rows = page.rows.into_iter();
            rows.extend(page_rows.map(|row| (text(row.key), text(row.value))));
            match page.next {
                Some(next) => start = next,
                None => return Ok(rows),
            }
        }
    }

    /// One of the node's metrics, as `name` or `name{label="value"}`.
    pub fn metric(&self, node: usize, name: &str) -> f64 {
        let page = http_get(self.nodes[node].status, "/metrics");
        let value = page
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
            .unwrap_or_else(|| panic!("node {node} has no metric {name}:\n{page}"));
        value.parse().expect("metrics are numbers")
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
        // A process that waits for its disk can't be killed.
        self.plan.disks.clear();
        // Before the proxies end, so that nobody notices.
        self.nodes.clear();
    }
}

/// Sends one request over a stream; it leaves also if nobody waits for its answer yet.
pub fn ask(
    stream: &NodeStream,
    kind: request::Kind,
    timeout: Duration,
) -> impl Future<Output = client::Result<response::Kind>> + Send + use<> {
    let request = v1::Request {
        kind: Some(kind),
        ..v1::Request::default()
    };
    let call = stream.call(request, timeout);
    async move { Ok(call.await?.kind.expect("an answer has content")) }
}

/// How a command ends that can't go on, and what it says.
pub fn end(mut command: Command) -> (Option<i32>, String) {
    let output = command.output().expect("the binary starts");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), text)
}

/// A read of one key.
pub fn get(key: &str, consistency: v1::Consistency) -> request::Kind {
    request::Kind::Get(v1::GetRequest {
        key: key.to_owned().into(),
        consistency: consistency.into(),
    })
}

/// A write of one key, without a session.
pub fn put(key: &str, value: &str) -> request::Kind {
    request::Kind::Put(v1::PutRequest {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        session: None,
    })
}

/// What a read has found.
pub fn value(answer: response::Kind) -> Option<String> {
    match answer {
        response::Kind::Get(answer) => answer
            .value
            .map(|value| String::from_utf8(value.to_vec()).expect("text")),
        other => panic!("not the answer to a get: {other:?}"),
    }
}

/// The body of a page of a status port.
pub fn http_get(address: SocketAddr, path: &str) -> String {
    String::from_utf8(http_get_bytes(address, path)).expect("the page is text")
}

/// The same of a page that is no text.
pub fn http_get_bytes(address: SocketAddr, path: &str) -> Vec<u8> {
    http(address, "GET", path, "").expect("the status port answers")
}

/// Asks a status port, and returns the body of its answer.
fn http(address: SocketAddr, method: &str, path: &str, body: &str) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let head = answer.windows(4).position(|part| part == b"\r\n\r\n");
    Ok(answer.split_off(head.expect("HTTP has a head") + 4))
}
