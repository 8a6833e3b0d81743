//! `flotilla top`, with and without a terminal.

use std::{
    fs,
    io::Write as _,
    process::{Command, Stdio},
};

use flotilla_harness::{Cluster, Plan, end};

#[test]
fn a_terminal_shows_the_cluster_until_q_is_pressed() {
    let cluster = Cluster::start(Plan::default());
    let printed = cluster.run(&["top", "--once"]);
    let text = String::from_utf8_lossy(&printed.stdout).into_owned();
    assert!(printed.status.success(), "{printed:?}");
    let ready = text.lines().filter(|line| line.contains(" ready "));
    assert_eq!(ready.count(), 3, "{text}");
    assert!(
        text.contains("WRITE P99") && text.contains("KEYS"),
        "{text}"
    );
    let json = cluster.run(&["top", "-w", "ndjson"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!(json["nodes"].as_array().map(Vec::len), Some(3));

    // A real terminal, by util-linux' `script`, which every Debian has.
    let shown = cluster.folder().join("shown");
    let top = cluster.command(&["top", "--interval", "200ms"]);
    let words = std::iter::once(top.get_program()).chain(top.get_args());
    let words: Vec<String> = words
        .map(|word| format!("'{}'", word.to_string_lossy()))
        .collect();
    let line = format!("stty rows 24 cols 80; {}", words.join(" "));
    // It ends with the test, and what it runs with it.
    let mut script = Command::new("setpriv");
    script
        .args(["--pdeathsig", "KILL", "script"])
        .args(["--quiet", "--flush", "--return", "--command", &line])
        .arg(&shown);
    script
        .env("TERM", "xterm-256color")
        .stdin(Stdio::piped())
        .stdout(Stdio::null());
    let mut script = script.spawn().expect("util-linux is there");
    let mut keys = script.stdin.take().expect("piped");
    let screen = || {
        fs::read(&shown)
            .map(|text| String::from_utf8_lossy(&text).into_owned())
            .unwrap_or_default()
    };
    cluster.until("the nodes are shown", |_| {
        // Between words the cursor is moved: nothing is drawn there.
        let screen = screen();
        screen.contains("ready") && screen.contains("SHARD")
    });
    keys.write_all(b"q").expect("it reads keys");
    let ended = script.wait().expect("it ends");
    assert!(ended.success(), "{ended}");
    let screen = screen();
    assert!(
        screen.contains("\u{1b}[?1049h") && screen.contains("\u{1b}[?1049l"),
        "the terminal is as it was"
    );
}

#[test]
fn who_reaches_nobody_is_told_so() {
    let mut cluster = Cluster::start_apart(Plan {
        nodes: 1,
        ..Plan::default()
    });
    cluster.until(
        "there is no cluster, and it is said how to make one",
        |cluster| {
            let (code, said) = end(cluster.command(&["top", "--once"]));
            code == Some(4) && said.contains("flotilla init")
        },
    );
    cluster.kill(0);
    let (code, said) = end(cluster.command(&["top"]));
    assert!(
        code == Some(4) && said.contains(&cluster.address(0)),
        "{code:?}: {said}"
    );
}
