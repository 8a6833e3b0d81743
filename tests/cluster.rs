//! Real processes: three nodes that are killed and restarted while a real client writes. What is decided inside a shard
//! is tested in `flotilla-shards`; here it is shown that the thin shell around it keeps the promises.

use std::{
    fs,
    io::Write as _,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    thread,
    time::{Duration, Instant},
};

/// Words of the list that are imported.
const RECORDS: usize = 20_000;
/// How long anything may take before the test gives up: far above what it takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Three processes, ended when the test ends however it ends.
struct Cluster {
    folder: tempfile::TempDir,
    ports: Vec<u16>,
    nodes: Vec<Option<Child>>,
}

/// A port that nobody listens at, from below the range that the system takes the ports of outgoing connections from: a
/// node that is killed must find its port free when it comes back.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = std::process::id() as u16 % 997 * 20;
    loop {
        let port = 10_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

impl Cluster {
    fn start() -> Self {
        let ports = (0..6).map(|_| free_port()).collect();
        let mut cluster = Self {
            folder: tempfile::tempdir().expect("a temporary folder"),
            ports,
            nodes: vec![None, None, None],
        };
        for node in 0..3 {
            cluster.start_node(node);
        }
        cluster.until("the cluster is made", |cluster| {
            cluster.run(&["init", "--shards", "16"]).status.success()
        });
        cluster.until("all nodes are ready", |cluster| {
            let output = cluster.run(&["status"]);
            String::from_utf8_lossy(&output.stdout)
                .matches("ready")
                .count()
                == 3
        });
        cluster
    }

    fn address(&self, node: usize) -> String {
        format!("127.0.0.1:{}", self.ports[node])
    }

    fn endpoints(&self) -> String {
        (0..3)
            .map(|node| self.address(node))
            .collect::<Vec<_>>()
            .join(",")
    }

    fn data(&self, node: usize) -> PathBuf {
        self.folder.path().join(format!("node{node}"))
    }

    fn start_node(&mut self, node: usize) {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join(format!("node{node}.log")))
            .expect("the folder is writable");
        let child = Command::new(env!("CARGO_BIN_EXE_flotilla"))
            .arg("start")
            .args(["--data".as_ref(), self.data(node).as_os_str()])
            .args(["--listen", &self.address(node)])
            .args([
                "--status-listen",
                &format!("127.0.0.1:{}", self.ports[node + 3]),
            ])
            .args(["--join", &self.endpoints()])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the node's binary starts");
        self.nodes[node] = Some(child);
    }

    fn kill(&mut self, node: usize) {
        let mut child = self.nodes[node].take().expect("the node runs");
        child.kill().expect("SIGKILL");
        child.wait().expect("the node is our child");
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_flotilla"));
        command.args(["--endpoints", &self.endpoints(), "--timeout", "60s"]);
        command.args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments)
            .output()
            .expect("the client's binary starts")
    }

    fn until(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let begin = Instant::now();
        while !done(self) {
            assert!(
                begin.elapsed() < PATIENCE,
                "not in {PATIENCE:?}: {what}\n{}",
                self.logs()
            );
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn logs(&self) -> String {
        let log = |node| {
            let path = self.folder.path().join(format!("node{node}.log"));
            let text = fs::read_to_string(path).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(10)..].join("\n")
        };
        (0..3)
            .map(|node| format!("node {node}:\n{}\n", log(node)))
            .collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for mut child in self.nodes.iter_mut().filter_map(Option::take) {
            // It may have ended by itself, which the test has seen then.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Lines of the largest English word list that Debian has, as records.
fn write_records(path: &Path) -> Vec<String> {
    let list = "/usr/share/dict/american-english-insane";
    let text = fs::read_to_string(list)
        .unwrap_or_else(|error| panic!("{list}: {error}; run scripts/setup, which installs it"));
    let words: Vec<String> = text.lines().take(RECORDS).map(str::to_owned).collect();
    let mut file = fs::File::create(path).expect("the folder is writable");
    for (number, word) in words.iter().enumerate() {
        let record = serde_json::json!({ "key": word, "value": number.to_string() });
        writeln!(file, "{record}").expect("the folder is writable");
    }
    words
}

#[test]
fn no_acknowledged_write_is_lost_when_a_node_is_killed_and_comes_back() {
    let mut cluster = Cluster::start();
    let records = cluster.folder.path().join("records.ndjson");
    let mut words = write_records(&records);
    let path = records
        .to_str()
        .expect("temporary folders have plain names");
    let import = cluster
        .command(&["import", path])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the client's binary starts");
    // In the middle of the import: some of it is there, not all.
    cluster.until("the import has begun", |cluster| {
        let output = cluster.run(&["scan", "--keys-only", "--limit", "100"]);
        output.stdout.iter().filter(|byte| **byte == b'\n').count() == 100
    });
    cluster.kill(1);
    thread::sleep(Duration::from_secs(1));
    cluster.start_node(1);
    let output = import.wait_with_output().expect("the import is our child");
    let talk = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{talk}\n{}", cluster.logs());

    words.sort_unstable();
    words.dedup();
    let everything = |cluster: &Cluster, node: usize| {
        let output = Command::new(env!("CARGO_BIN_EXE_flotilla"))
            .args([
                "--endpoints",
                &cluster.address(node),
                "--timeout",
                "60s",
                "-w",
                "ndjson",
            ])
            .args(["scan", "--keys-only", "--limit", "1000000"])
            .output()
            .expect("the client's binary starts");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let key = |line: &str| {
            let row: serde_json::Value = serde_json::from_str(line).expect("one document per line");
            row["key"].as_str().expect("rows have keys").to_owned()
        };
        let text = String::from_utf8(output.stdout).expect("escaped output is text");
        text.lines().map(key).collect::<Vec<_>>()
    };
    for node in 0..3 {
        let keys = everything(&cluster, node);
        assert_eq!(
            keys.len(),
            words.len(),
            "through node {node}: none lost, none twice"
        );
        assert!(keys.is_sorted(), "a scan over all shards is in order");
    }
}

#[test]
fn a_restarted_node_needs_the_same_command_only_and_a_second_process_is_refused() {
    let mut cluster = Cluster::start();
    assert!(cluster.run(&["put", "key", "value"]).status.success());
    let second = Command::new(env!("CARGO_BIN_EXE_flotilla"))
        .args(["start", "--data"])
        .arg(cluster.data(0))
        .args(["--listen", "127.0.0.1:0", "--status-listen", "127.0.0.1:0"])
        .output()
        .expect("the node's binary starts");
    assert_eq!(
        second.status.code(),
        Some(10),
        "{}",
        String::from_utf8_lossy(&second.stderr)
    );
    for node in 0..3 {
        cluster.kill(node);
    }
    for node in 0..3 {
        cluster.start_node(node);
    }
    cluster.until("the value is served again", |cluster| {
        cluster.run(&["get", "key"]).stdout == b"value\n"
    });
}
