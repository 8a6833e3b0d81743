//! Loads on a real cluster, and how they end: well, by Ctrl-C, at a target that is not there, and at one that can't keep up.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    process::{Command, Output, Stdio},
};

use flotilla_harness::{Cluster, Plan};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const UNAVAILABLE: Option<i32> = Some(4);

fn run(cluster: &Cluster, arguments: &str) -> Output {
    let mut words = vec!["-w", "json", "bench"];
    words.extend(arguments.split(' '));
    cluster.run(&words)
}

fn json(output: &Output) -> Value {
    let said = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"))
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_load_is_measured_with_what_it_costs_and_reported() {
    let cluster = Cluster::start(Plan::default());
    let page = cluster.folder().join("report.html");
    let output = run(
        &cluster,
        &format!(
            "mix get=60,put=20,insert=10,modify=10 --distribution latest --clients 8 --keys 400 --seconds 1 --warmup 100ms \
             --report {}",
            page.display()
        ),
    );
    assert!(output.status.success(), "{}", said(&output));
    let report = json(&output);
    assert!(report["operations"].as_u64() > Some(0), "{report}");
    for figure in [
        "server_cpu_us_per_operation",
        "client_cpu_us_per_operation",
        "writes_per_fsync",
        "fsyncs_per_operation_and_node",
        "disk_bytes_per_operation",
        "messages_per_operation",
    ] {
        assert!(report[figure].as_f64() > Some(0.0), "{figure}: {report}");
    }
    assert_eq!(report["servers"].as_array().map(Vec::len), Some(3));
    assert_eq!(
        report["by_kind"].as_object().map(|kinds| kinds.len()),
        Some(4)
    );
    assert_eq!(report["errors"], serde_json::json!({}), "{report}");
    assert_eq!(report["missing"], 0, "all keys were written before");
    assert!(report["conditions"]["fdatasync_before"]["p50_us"].as_u64() > Some(0));
    let page = fs::read_to_string(page).expect("the report");
    assert!(page.contains("Latency percentiles") && page.contains("sync"));

    // Keys are there now, in each transport and by each kind of reader.
    for load in [
        "get --read follower",
        "get --read serializable --stream",
        "get --transport batch --batch-ops 4",
        "put --transport batch --batch-ops 4",
        "scan --rows 3 --stream",
        "batch --batch-ops 4",
        "session",
        "put --rate 200 --stream",
    ] {
        let flags = "--keys 400 --no-fill --clients 4 --seconds 1 --warmup 100ms";
        let output = run(&cluster, &format!("{load} {flags}"));
        assert!(output.status.success(), "{load}: {}", said(&output));
        let report = json(&output);
        assert!(report["operations"].as_u64() > Some(0), "{load}: {report}");
        assert_eq!(report["errors"], serde_json::json!({}), "{load}: {report}");
        assert_eq!(report["missing"], 0, "{load}: {report}");
    }
}

#[test]
fn what_goes_wrong_is_said_and_what_was_measured_is_kept() {
    let mut cluster = Cluster::start(Plan::default());

    let output = run(
        &cluster,
        "put --rate 100000 --cap 20 --keys 100 --seconds 5 --warmup 100ms",
    );
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("overloaded"), "{}", said(&output));
    assert!(
        json(&output)["partial"][0]
            .as_str()
            .is_some_and(|why| why.contains("more than 20"))
    );

    for (contradiction, word) in [
        ("session --transport unary", "--transport stream"),
        ("put --read follower", "nothing is read"),
        ("scan --transport batch", "get and put only"),
        ("put --stream --target etcd://127.0.0.1:1", "no stream"),
        ("batch --keys 8 --batch-ops 100", "raise --keys"),
        ("put --shards 9", "8 usable shards"),
    ] {
        let output = run(&cluster, contradiction);
        assert_eq!(
            output.status.code(),
            Some(2),
            "{contradiction}: {}",
            said(&output)
        );
        assert!(
            said(&output).contains(word),
            "{contradiction}: {}",
            said(&output)
        );
    }

    let output = run(&cluster, "put --target etcd://127.0.0.1:1");
    assert_eq!(output.status.code(), UNAVAILABLE);
    assert!(
        said(&output).contains("etcd at 127.0.0.1:1 does not answer"),
        "{}",
        said(&output)
    );

    let output = interrupted(cluster.command(&[
        "-w",
        "json",
        "bench",
        "put",
        "--seconds",
        "600",
        "--clients",
        "4",
    ]));
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let report = json(&output);
    assert!(report["operations"].as_u64() > Some(0), "{report}");
    assert!(
        report["partial"][0]
            .as_str()
            .is_some_and(|why| why.contains("interrupted")),
        "{report}"
    );

    for node in 0..cluster.len() {
        cluster.kill(node);
    }
    let output = run(&cluster, "put");
    assert_eq!(output.status.code(), UNAVAILABLE, "{}", said(&output));
}

/// Runs a load until it has told its rate for the first time, then presses Ctrl-C.
fn interrupted(mut command: Command) -> Output {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut lines = BufReader::new(child.stderr.take().expect("it is piped"));
    let mut line = String::new();
    while !line.contains("/s ") {
        line.clear();
        let read = lines.read_line(&mut line).expect("it is text");
        assert_ne!(read, 0, "it ended without a word about its rate");
    }
    kill_process(Pid::from_child(&child), Signal::INT).expect("the process is our child");
    let mut stderr = Vec::new();
    lines.read_to_end(&mut stderr).expect("it ends");
    let output = child.wait_with_output().expect("it ends");
    Output { stderr, ..output }
}
