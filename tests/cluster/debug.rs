//! `flotilla debug zip`, and profiles of running nodes.

use std::{
    fs::File,
    io::Read as _,
    net::TcpStream,
    time::{Duration, Instant},
};

use flotilla_harness::{Cluster, Plan, Split, http_get, http_get_bytes};
use serde_json::Value;

/// Planted where a report must not have it.
const CANARY: &str = "canary-7f3a";

/// All files of an archive, without the folder that they are in.
pub(crate) fn unpacked(path: &std::path::Path) -> Vec<(String, String)> {
    let file = File::open(path).expect("the archive is there");
    let mut archive = zip::ZipArchive::new(file).expect("an archive");
    let names: Vec<String> = archive.file_names().map(str::to_owned).collect();
    let mut read = |name: String| {
        let mut text = String::new();
        let mut entry = archive.by_name(&name).expect("it is listed");
        entry.read_to_string(&mut text).expect("pages are text");
        let (_, inside) = name.split_once('/').expect("a folder");
        (inside.to_owned(), text)
    };
    names.into_iter().map(&mut read).collect()
}

#[test]
fn a_report_has_all_nodes_that_live_and_no_keys_values_or_secrets() {
    let mut cluster = Cluster::start(Plan {
        split: Split::At(vec![format!("{CANARY}-border")]),
        settings: vec![
            ("log.slow_request", "1us"),
            ("log.slow_request_keys", "true"),
        ],
        ..Plan::default()
    });
    let (key, value) = (format!("{CANARY}-key"), format!("{CANARY}-value"));
    assert!(cluster.run(&["put", &key, &value]).status.success());
    assert!(cluster.run(&["get", &key]).status.success());
    let paused = 1;
    cluster.kill(0);
    cluster.pause(paused);

    let file = cluster.folder().join("report.zip");
    let (name, log) = (
        file.display().to_string(),
        cluster.folder().join("node2.log"),
    );
    let begin = Instant::now();
    let arguments = [
        "debug",
        "zip",
        &name,
        "--timeout",
        "5s",
        "--log",
        &log.display().to_string(),
    ];
    let output = cluster.run(&arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    // One bound for the list of nodes at each endpoint, one for their pages.
    assert!(
        begin.elapsed() < Duration::from_secs(60),
        "a dead node holds it up"
    );

    let files = unpacked(&file);
    let page = |name: &str| {
        &files
            .iter()
            .find(|(known, _)| known == name)
            .unwrap_or_else(|| panic!("{name}"))
            .1
    };
    let lives = cluster.id(2);
    for page_of_node in [
        "status.json",
        "config.json",
        "metrics.txt",
        "events.json",
        "slow.json",
        "shards.json",
        "ready.txt",
    ] {
        page(&format!("nodes/{lives}/{page_of_node}"));
    }
    let manifest: Value = serde_json::from_str(page("manifest.json")).expect("JSON");
    let missing = manifest["missing"].to_string();
    for gone in [cluster.id(0), cluster.id(paused)] {
        assert!(missing.contains(&format!("node {gone} at ")), "{missing}");
        assert!(
            files
                .iter()
                .all(|(name, _)| !name.starts_with(&format!("nodes/{gone}/")))
        );
    }
    assert!(page(&format!("nodes/{lives}/slow.json")).contains("stage_micros"));
    assert!(page(&format!("nodes/{lives}/events.json")).contains("started with"));
    assert!(page("logs/1-node2.log").contains("starting"));
    for (name, text) in &files {
        assert!(!text.contains(CANARY), "{name}: {text}");
    }
    // The canary is where it would be found.
    let again = cluster.folder().join("with-keys.zip");
    let output = cluster.run(&[
        "debug",
        "zip",
        &again.display().to_string(),
        "--timeout",
        "5s",
        "--keys",
    ]);
    assert!(output.status.success());
    let shards = format!("nodes/{lives}/shards.json");
    let with_keys = unpacked(&again);
    let shown = |(name, text): &(String, String)| *name == shards && text.contains(CANARY);
    assert!(with_keys.iter().any(shown));
    assert!(
        with_keys.iter().all(|(_, text)| !text.contains(&value)),
        "values are nowhere"
    );
    // A file is not written over.
    let output = cluster.run(&["debug", "zip", &name]);
    assert_eq!(output.status.code(), Some(2));
    cluster.resume(paused);
}

#[test]
fn nobody_to_ask_is_said_and_leaves_no_file() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("report.zip");
    let mut cluster = Cluster::start_apart(Plan {
        nodes: 1,
        ..Plan::default()
    });
    cluster.kill(0);
    let output = cluster.run(&[
        "debug",
        "zip",
        &file.display().to_string(),
        "--timeout",
        "2s",
    ]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains("no node answers") && !file.exists(), "{said}");
}

#[test]
fn a_node_that_was_told_to_notes_where_memory_comes_from() {
    let mut cluster = Cluster::start_apart(Plan {
        nodes: 1,
        ..Plan::default()
    });
    let status = cluster.status_address(0);
    cluster.until("the node listens", |_| TcpStream::connect(status).is_ok());
    let without = http_get(status, "/debug/pprof/heap");
    assert!(without.contains("--heap-profiling"), "{without}");
    assert!(cluster.terminate(0).success());
    cluster.start_node_with(0, &["--heap-profiling"]);
    cluster.until("the node listens", |_| TcpStream::connect(status).is_ok());
    let profile = http_get_bytes(status, "/debug/pprof/heap");
    assert_eq!(
        profile.get(..2),
        Some(&[0x1f, 0x8b][..]),
        "{}",
        String::from_utf8_lossy(&profile)
    );
    assert!(profile.len() > 100);
    // Its own process, under the same id: a signal still ends it in order.
    assert!(cluster.terminate(0).success());
}
