//! What ends a node, or keeps it from starting: each with a message and an exit code of its own.

use std::{
    fs,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use flotilla_proto::v1::Consistency;

use flotilla_harness::{
    Cluster, PATIENCE, Plan, Process, Split, address, binary, end, get, put, value,
};
use rustix::process::Signal;

/// One node that is a cluster.
fn alone() -> Plan {
    Plan {
        nodes: 1,
        split: Split::Even(2),
        ..Plan::default()
    }
}

fn assert_serves(cluster: &Cluster) {
    let timeout = Duration::from_secs(30);
    cluster
        .ask(0, put("key", "value"), timeout)
        .expect("it serves");
    let found = cluster.ask(0, get("key", Consistency::Linearizable), timeout);
    assert_eq!(
        found.map(value).expect("it serves").as_deref(),
        Some("value")
    );
}

#[test]
fn a_restarted_cluster_needs_the_same_commands_only() {
    let mut cluster = Cluster::start(Plan::default());
    assert!(cluster.run(&["put", "key", "value"]).status.success());
    for node in 0..cluster.len() {
        cluster.kill(node);
    }
    for node in 0..cluster.len() {
        cluster.start_node(node);
    }
    cluster.until("the value is served again", |cluster| {
        cluster.run(&["get", "key"]).stdout == b"value\n"
    });
}

#[test]
fn a_second_process_on_the_same_data_folder_is_refused_and_the_first_goes_on() {
    let cluster = Cluster::start(alone());
    let (listen, status) = (address::fresh().to_string(), address::fresh().to_string());
    let other = [("--listen", &*listen), ("--status-listen", &*status)];
    let (code, text) = end(cluster.other_command(0, &other));
    assert_eq!(code, Some(10), "{text}");
    assert!(text.contains("is in use by another process"), "{text}");
    assert_serves(&cluster);
}

#[test]
fn an_address_in_use_is_named_with_its_setting() {
    let cluster = Cluster::start(alone());
    let taken = cluster.address(0);
    for (flag, key) in [
        ("--listen", "node.listen"),
        ("--peer-listen", "node.peer_listen"),
        ("--status-listen", "node.status_listen"),
    ] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let data = folder
            .path()
            .to_str()
            .expect("temporary folders have plain names");
        let (listen, status) = (address::fresh().to_string(), address::fresh().to_string());
        let free = [
            ("--data", data),
            ("--listen", &*listen),
            ("--status-listen", &*status),
        ];
        // The last one counts.
        let other = [&free[..], &[(flag, &*taken)]].concat();
        let (code, text) = end(cluster.other_command(0, &other));
        assert_eq!(code, Some(12), "{text}");
        assert!(text.contains(&taken) && text.contains(key), "{text}");
    }
    assert_serves(&cluster);
}

#[test]
fn parts_of_another_nodes_folder_are_refused_and_nothing_changes() {
    let mut cluster = Cluster::start(Plan {
        nodes: 3,
        ..alone()
    });
    cluster
        .ask(0, put("key", "value"), Duration::from_secs(30))
        .expect("a quorum");
    for node in 0..cluster.len() {
        assert!(cluster.terminate(node).success());
    }
    let swap = |cluster: &Cluster| {
        let (ours, theirs) = (cluster.data(0).join("state"), cluster.data(1).join("state"));
        let aside = cluster.folder().join("aside");
        for (from, to) in [(&ours, &aside), (&theirs, &ours), (&aside, &theirs)] {
            fs::rename(from, to).expect("one file system");
        }
    };
    swap(&cluster);
    for node in [0, 1] {
        let (code, text) = end(cluster.node_command(node));
        assert_eq!(code, Some(11), "{text}");
        assert!(text.contains("come from different nodes"), "{text}");
    }
    swap(&cluster);
    for node in 0..cluster.len() {
        cluster.start_node(node);
    }
    cluster.until_all_serve();
    let rows = cluster.rows(0);
    assert_eq!(rows, [("key".to_owned(), "value".to_owned())]);
}

#[test]
fn contradictions_and_unknown_names_in_the_configuration_are_named_with_their_place() {
    let cluster = Cluster::start_apart(alone());
    let file = cluster.folder().join("flotilla.toml");
    for (text, place, what) in [
        (
            "[raft]\nelection_timout = \"2s\"\n",
            "flotilla.toml:2:1",
            "did you mean raft.election_timeout",
        ),
        (
            "[raft]\nheartbeat_interval = \"2s\"\n",
            "flotilla.toml:2",
            "raft.election_timeout",
        ),
        (
            "[limits]\nkey_bytes = \"5KiB\"\n",
            "flotilla.toml:2",
            "from 1B to 4KiB",
        ),
        (
            "[limits]\nkey_bytes = {}\n",
            "flotilla.toml:2",
            "limits.key_bytes",
        ),
        ("[raft\n", "flotilla.toml:1", ""),
    ] {
        fs::write(&file, text).expect("the folder is writable");
        let mut command = cluster.node_command(0);
        command.arg("--config").arg(&file);
        let (code, said) = end(command);
        assert_eq!(code, Some(2), "{text}: {said}");
        assert!(
            said.contains(place) && said.contains(what),
            "{text}: {said}"
        );
    }
}

#[test]
fn sigterm_ends_requests_in_flight_hands_leaders_over_and_flushes() {
    let mut cluster = Cluster::start(Plan::default());
    let client = cluster.client(Default::default());
    let led: u64 = cluster.status(0).expect("it answers").leaders;
    // Nobody may notice: all the time there are requests, with sessions and without, and none fails.
    let stop = std::sync::Arc::<std::sync::atomic::AtomicBool>::default();
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let (client, stop) = (client.clone(), std::sync::Arc::clone(&stop));
            let session = (writer % 2 == 0).then(|| client.session());
            cluster.spawn(async move {
                let mut written = 0_u64;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let key = format!(
                        "{}{writer}-{written}",
                        char::from(b'!' + written as u8 % 94)
                    );
                    match &session {
                        Some(session) => session.put(key, "value").await?,
                        None => client.put(key, "value").await?,
                    };
                    written += 1;
                }
                Ok::<_, flotilla::client::Error>(written)
            })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(300));
    let status = cluster.terminate(0);
    std::thread::sleep(Duration::from_millis(300));
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(status.code(), Some(0), "{}", cluster.logged(0));
    let mut written = 0;
    for writer in writers {
        let result = cluster.block_on(writer).expect("no panic");
        written += result.unwrap_or_else(|error| panic!("a write failed: {error}"));
    }
    assert!(written > 100, "{written}");
    let log = cluster.logged(0);
    assert!(
        !log.contains("still led by this node"),
        "{led} were led before: {log}"
    );
    cluster.start_node(0);
    cluster.until_all_serve();
    assert_eq!(cluster.rows(0).len() as u64, written);
}

/// What `make run` does on a fresh machine.
#[test]
fn the_demo_imports_its_sample_into_a_new_folder() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("demo");
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/sample.ndjson");
    let log = folder.path().join("log");
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(binary());
    command.args(["demo", "--base-port", "0", "--sample", sample, "--data"]);
    command.arg(&data);
    let mut demo = Process::start(command, &log);
    let begin = Instant::now();
    while !data.join("sample-imported").exists() {
        let log = || fs::read_to_string(&log).unwrap_or_default();
        assert!(!demo.has_ended(), "{}", log());
        assert!(begin.elapsed() < PATIENCE, "{}", log());
        thread::sleep(Duration::from_millis(50));
    }
    demo.signal(Signal::INT);
    let ended = demo.wait(PATIENCE).expect("it stops");
    assert!(ended.success(), "{ended}");
}
