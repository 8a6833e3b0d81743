//! A real Prometheus watches a real cluster under load, from `deploy/prometheus`: every expression of every panel and alert
//! has a value, and alerts for faults that can be made here are seen to begin and to end.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use flotilla::client::Options;
use flotilla_harness::{Cluster, Plan, address, http_get, load::Load};
use serde_json::Value;

use super::{
    agree::{deploy, expressions},
    alerts::alerts,
    tools::installed,
};

/// Expressions that have no value before a follower that was away for long has got a snapshot.
const AFTER_A_SNAPSHOT: &[&str] = &["flotilla_snapshot_transfer_seconds_bucket"];

/// A server of its own, with the files of `deploy/prometheus`; it ends with the test.
struct Prometheus {
    process: Child,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    fn start(cluster: &Cluster) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let write =
            |name: &str, text: &str| fs::write(folder.path().join(name), text).expect("written");
        let config = fs::read_to_string(deploy("prometheus/prometheus.yml")).expect("it is there");
        assert!(config.contains("interval: 10s"));
        write(
            "prometheus.yml",
            &config.replace("interval: 10s", "interval: 500ms"),
        );
        fs::copy(
            deploy("prometheus/rules.yml"),
            folder.path().join("rules.yml"),
        )
        .expect("copied");
        let targets: Vec<String> = (0..cluster.len())
            .map(|node| cluster.status_address(node).to_string())
            .collect();
        write("targets.yml", &format!("- targets: {targets:?}\n"));
        let address = address::fresh();
        let log = fs::File::create(folder.path().join("log")).expect("writable");
        let process = Command::new("setpriv")
            .args([
                "--pdeathsig",
                "KILL",
                "prometheus",
                "--config.file=prometheus.yml",
                "--storage.tsdb.path=data",
            ])
            .arg(format!("--web.listen-address={address}"))
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("it is installed");
        Self {
            process,
            address,
            _folder: folder,
        }
    }

    /// The answer of the API; nothing while it is not up yet.
    fn get(&self, path: &str) -> Option<Value> {
        let mut stream = TcpStream::connect(self.address).ok()?;
        // By version 1.0 the body comes in one piece.
        let request = format!("GET {path} HTTP/1.0\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
    }

    /// The values that an expression has now. They are numbers or not.
    fn values(&self, expression: &str) -> Vec<f64> {
        let encoded: String = expression
            .bytes()
            .map(|byte| format!("%{byte:02X}"))
            .collect();
        let Some(answer) = self.get(&format!("/api/v1/query?query={encoded}")) else {
            return Vec::new();
        };
        assert_eq!(answer["status"], "success", "{expression}: {answer}");
        let series = answer["data"]["result"]
            .as_array()
            .expect("a vector")
            .iter();
        let value = |series: &Value| {
            series["value"][1]
                .as_str()
                .and_then(|text| text.parse().ok())
        };
        series.filter_map(value).collect()
    }

    fn has_value(&self, expression: &str) -> bool {
        self.values(expression)
            .iter()
            .any(|value| value.is_finite())
    }

    fn is_alarming(&self, alert: &str) -> bool {
        let alerts = alerts();
        let alert = alerts
            .iter()
            .find(|known| known.name == alert)
            .expect("it is described");
        !self.values(&alert.expression()).is_empty()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It may have ended by itself, which the test has seen then.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Reads what the load writes, in all the ways that are measured.
async fn read(client: flotilla::client::Client) {
    loop {
        // Errors are counted by the nodes, as all else.
        let _ = client.get("!-load-0-0".to_owned()).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until all expressions have a value, and says which have none if that does not happen.
fn until_all_have_values(prometheus: &Prometheus, mut missing: Vec<(String, String)>) {
    let begin = Instant::now();
    while !missing.is_empty() {
        missing.retain(|(_, expression)| !prometheus.has_value(expression));
        assert!(
            begin.elapsed() < flotilla_harness::PATIENCE / 2,
            "no values:\n{}",
            missing
                .iter()
                .map(|(place, expression)| format!("{place}: {expression}\n"))
                .collect::<String>()
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Changes the end of one value of the load.
fn turn_a_bit(state: &Path) {
    let database = rocksdb::DB::open_default(state).expect("nobody has it open");
    let mut rows = database
        .iterator(rocksdb::IteratorMode::Start)
        .map(|row| row.expect("readable"));
    let row = rows.find(|(_, value)| value.ends_with(b";"));
    let (key, value) = row.expect("the load has written such values");
    let mut value = value.into_vec();
    *value.last_mut().expect("it ends with something") ^= 1;
    database.put(key, value).expect("written");
    database.flush().expect("flushed");
}

#[test]
fn a_real_prometheus_sees_a_real_cluster() {
    if !installed("prometheus", "panels and alerts against a real cluster") {
        return;
    }
    let mut cluster = Cluster::start(Plan {
        settings: vec![
            // Flushes, cuts and snapshots within the time of a test.
            ("storage.flush_age", "1s"),
            ("storage.scrub_interval", "5s"),
            ("raft.reserve_entries", "16"),
            ("raft.log_bytes", "1MiB"),
        ],
        ..Plan::default()
    });
    let prometheus = Prometheus::start(&cluster);
    let load = Load::begin(&cluster, "load");
    let client = cluster.client(Options::default());
    let reader = cluster.spawn(read(client));

    let filled: Vec<(String, String)> = expressions()
        .into_iter()
        .map(|(place, expression)| {
            let expression = expression
                .replace("$job", "flotilla")
                .replace("$instance", ".*");
            (place, expression)
        })
        .collect();
    let alert_names: Vec<&str> = alerts().iter().map(|alert| alert.name).collect();
    let (later, now): (Vec<_>, Vec<_>) = filled
        .into_iter()
        .filter(|(place, _)| !alert_names.contains(&place.as_str()))
        .partition(|(_, expression)| {
            AFTER_A_SNAPSHOT
                .iter()
                .any(|metric| expression.contains(metric))
        });
    assert_eq!(later.len(), AFTER_A_SNAPSHOT.len());
    // Of an alert, what is watched has a value in good times too.
    let watched = alerts()
        .into_iter()
        .map(|alert| (alert.name.to_owned(), alert.watched()));
    let (panels, all) = (now.len(), now.into_iter().chain(watched).collect());
    until_all_have_values(&prometheus, all);
    let rules = prometheus.get("/api/v1/rules").expect("it is up");
    let loaded = rules["data"]["groups"][0]["rules"]
        .as_array()
        .expect("a list");
    assert_eq!(loaded.len(), alert_names.len());
    assert!(loaded.iter().all(|rule| rule["health"] == "ok"), "{rules}");

    const FAULTS: [&str; 4] = [
        "FlotillaNodeDown",
        "FlotillaUnderReplicated",
        "FlotillaShardWithoutLeader",
        "FlotillaNoMetaLeader",
    ];
    for alert in FAULTS {
        assert!(
            !prometheus.is_alarming(alert),
            "{alert} before anything has happened"
        );
    }
    let alarms = |cluster: &Cluster, alert: &str, alarming: bool| {
        let what = format!("{alert} {}", if alarming { "begins" } else { "ends" });
        cluster.until(&what, |_| prometheus.is_alarming(alert) == alarming);
    };
    // One node goes; whoever led the meta shard, so that its followers know that nobody does once another one has gone.
    let meta = http_get(cluster.status_address(0), "/shards/1");
    let meta: Value = serde_json::from_str(&meta).expect("JSON");
    let gone = (0..3)
        .find(|node| meta["leader"] == cluster.id(*node))
        .expect("somebody leads it");
    cluster.kill(gone);
    alarms(&cluster, "FlotillaNodeDown", true);
    alarms(&cluster, "FlotillaUnderReplicated", true);
    alarms(&cluster, "FlotillaTransportDrops", true);
    load.until_more(&cluster, 500);
    alarms(&cluster, "FlotillaShardWithoutLeader", false);
    // More than a log holds, so that it is cut although a follower is away.
    let client = cluster.client(Options::default());
    for _ in 0..8 {
        let written = cluster.block_on(client.put("large".to_owned(), vec![7; 1 << 20]));
        written.expect("two of three are there");
    }
    let others: Vec<usize> = (0..3).filter(|node| *node != gone).collect();
    cluster.until("logs are cut", |cluster| {
        others
            .iter()
            .all(|node| cluster.metric(*node, "flotilla_log_compactions_total") > 0.0)
    });

    // It comes back and gets what the logs no longer have.
    cluster.start_node(gone);
    until_all_have_values(&prometheus, later);
    alarms(&cluster, "FlotillaNodeDown", false);
    alarms(&cluster, "FlotillaUnderReplicated", false);

    // Two go, among them whoever leads the meta shard now: no quorum is left.
    reader.abort();
    let survivor = (0..3).find(|node| {
        let page = http_get(cluster.status_address(*node), "/shards/1");
        let page: Value = serde_json::from_str(&page).expect("JSON");
        page["role"] == "follower"
    });
    let survivor = survivor.expect("a follower of the meta shard");
    for node in (0..3).filter(|node| *node != survivor) {
        cluster.kill(node);
    }
    alarms(&cluster, "FlotillaShardWithoutLeader", true);
    alarms(&cluster, "FlotillaNoMetaLeader", true);
    for node in (0..3).filter(|node| *node != survivor) {
        cluster.start_node(node);
    }
    for alert in FAULTS {
        alarms(&cluster, alert, false);
    }
    load.end(&cluster);

    // A bit turns in memory or on the way to the disk: no checksum of the database notices.
    let alert = "FlotillaChecksumMismatch";
    assert!(
        !prometheus.is_alarming(alert),
        "before anything was changed"
    );
    assert!(cluster.terminate(survivor).success());
    turn_a_bit(&cluster.data(survivor).join("state"));
    cluster.start_node(survivor);
    alarms(&cluster, alert, true);
    eprintln!(
        "{panels} expressions of panels and {} alerts have values",
        alert_names.len()
    );
}
