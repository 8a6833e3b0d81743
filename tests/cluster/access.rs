//! Users, tokens and roles on real nodes: as the README walks through it, over restarts, and what must never be told to whom.

use std::{
    fs,
    io::Write as _,
    path::PathBuf,
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use flotilla_harness::{Cluster, Plan, Split, http_get};

/// How long nodes may take to follow a change of the access tables.
const FOLLOWED_WITHIN: Duration = Duration::from_secs(20);

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Three nodes, and two shards with a border between a and z.
fn start(settings: Vec<(&'static str, &'static str)>) -> Cluster {
    Cluster::start(Plan {
        split: Split::At(vec!["m".to_owned()]),
        settings,
        ..Plan::default()
    })
}

/// Runs a command as whoever has this token.
fn run_as(cluster: &Cluster, token: &str, arguments: &[&str]) -> Output {
    let mut command = cluster.command(arguments);
    command.env("FLOTILLA_TOKEN", token);
    command.output().expect("the binary starts")
}

/// Runs a command that has to succeed; returns what it printed.
fn done_as(cluster: &Cluster, token: &str, arguments: &[&str]) -> String {
    let output = run_as(cluster, token, arguments);
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        text(&output.stderr)
    );
    text(&output.stdout).trim_end().to_owned()
}

/// Runs a command that has to be refused; returns what it said.
fn refused_as(cluster: &Cluster, token: &str, arguments: &[&str]) -> String {
    let output = run_as(cluster, token, arguments);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
    assert_eq!(text(&output.stdout), "", "{arguments:?}");
    said
}

/// Makes an admin and turns access control on; returns the admin's token.
fn enforce(cluster: &Cluster) -> String {
    for arguments in [
        &["role", "create", "operator"][..],
        &["role", "grant", "operator", "read,write,admin", "--all"],
        &["user", "create", "alice", "--role", "operator"],
    ] {
        assert!(cluster.run(arguments).status.success(), "{arguments:?}");
    }
    let token = text(&cluster.run(&["token", "create", "alice"]).stdout);
    let token = token.trim_end().to_owned();
    done_as(cluster, &token, &["auth", "enable"]);
    until_all_refuse(cluster);
    token
}

/// A command that asks one node.
fn ask_one(cluster: &Cluster, node: usize, token: Option<&str>, arguments: &[&str]) -> Command {
    let mut command = cluster.command_at(node, arguments);
    if let Some(token) = token {
        command.env("FLOTILLA_TOKEN", token);
    }
    command
}

/// Whether a node takes this token.
fn is_known(cluster: &Cluster, node: usize, token: &str) -> bool {
    let output = ask_one(cluster, node, Some(token), &["auth", "whoami"]).output();
    output.expect("the binary starts").status.success()
}

fn until_all_refuse(cluster: &Cluster) {
    let begin = Instant::now();
    for node in 0..cluster.len() {
        loop {
            let output = ask_one(cluster, node, None, &["auth", "whoami"]).output();
            if output.expect("the binary starts").status.code() == Some(1) {
                break;
            }
            assert!(
                begin.elapsed() < FOLLOWED_WITHIN,
                "node {node} lets everybody in"
            );
            thread::sleep(Duration::from_millis(100));
        }
    }
}

#[test]
fn a_cluster_is_secured_as_the_readme_says() {
    let mut cluster = start(Vec::new());
    assert!(cluster.run(&["put", "app/1", "one"]).status.success());
    assert!(cluster.run(&["put", "zoo", "other"]).status.success());

    // Nobody turns it on who would lock himself out.
    let output = cluster.run(&["auth", "enable"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    let admin = enforce(&cluster);

    let said = refused_as(&cluster, "", &["get", "app/1"]);
    assert!(
        said.contains("FLOTILLA_TOKEN") && said.contains("flotilla token create"),
        "{said}"
    );
    assert_eq!(done_as(&cluster, &admin, &["get", "app/1"]), "one");

    for arguments in [
        &["role", "create", "app"][..],
        &["role", "grant", "app", "read,write", "--prefix", "app/"],
        &["user", "create", "bob", "--role", "app"],
    ] {
        done_as(&cluster, &admin, arguments);
    }
    let bob = done_as(&cluster, &admin, &["token", "create", "bob"]);
    cluster.until("all nodes know bob", |cluster| {
        (0..cluster.len()).all(|node| is_known(cluster, node, &bob))
    });
    let who = done_as(&cluster, &bob, &["auth", "whoami"]);
    assert_eq!(who, "bob (roles: app)\nread,write  app/*");
    assert_eq!(done_as(&cluster, &bob, &["get", "app/1"]), "one");
    done_as(&cluster, &bob, &["put", "app/2", "two"]);
    done_as(
        &cluster,
        &bob,
        &["cas", "app/2", "--expect", "two", "--value", "too"],
    );
    assert_eq!(
        done_as(&cluster, &bob, &["scan", "--prefix", "app/", "--keys-only"]),
        "app/1\napp/2"
    );
    for arguments in [
        &["get", "zoo"][..],
        &["get", "zoology"],
        &["put", "zoo", "mine"],
        &["delete", "app0"],
        &["scan"],
        &["scan", "--prefix", "ap"],
        &["user", "list"],
        &["shard", "ls"],
        &["auth", "disable"],
        &["token", "create", "alice"],
    ] {
        let said = refused_as(&cluster, &bob, arguments);
        assert!(said.contains("user bob lacks the"), "{said}");
        assert!(said.contains("flotilla role grant"), "{said}");
    }
    // Whether there is such a key is not told.
    let (there, not_there) = (["get", "zoo"], ["get", "zoology"]);
    assert_eq!(
        refused_as(&cluster, &bob, &there),
        refused_as(&cluster, &bob, &not_there)
    );

    // What does not exist, has expired, or is no token: cause and remedy, and nothing is changed.
    let before = done_as(&cluster, &admin, &["user", "list", "-w", "json"]);
    let said = refused_as(
        &cluster,
        &admin,
        &["user", "create", "eve", "--role", "none"],
    );
    assert!(
        said.contains("role none does not exist") && said.contains("flotilla role list"),
        "{said}"
    );
    let said = refused_as(&cluster, &admin, &["role", "delete", "app"]);
    assert!(said.contains("in use by user bob"), "{said}");
    let said = refused_as(&cluster, &admin, &["user", "delete", "alice"]);
    assert!(said.contains("nobody could administer"), "{said}");
    assert_eq!(
        done_as(&cluster, &admin, &["user", "list", "-w", "json"]),
        before
    );
    let brief = done_as(
        &cluster,
        &admin,
        &["token", "create", "bob", "--expires", "1s"],
    );
    cluster.until("its time is over, as all nodes know", |cluster| {
        let said = text(&run_as(cluster, &brief, &["get", "app/1"]).stderr);
        said.contains("expired") && said.contains("flotilla token create bob")
    });
    let output = run_as(&cluster, "flotilla_nonsense", &["get", "app/1"]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains("that is no token") && !said.contains("nonsense"),
        "{said}"
    );

    // From a file; and what is shown of it is never the secret.
    let file = cluster.folder().join("token");
    fs::write(&file, format!("{bob}\n")).expect("the folder is writable");
    let file = file.to_str().expect("temporary folders have plain names");
    let output = cluster.run(&["get", "app/1", "--token-file", file]);
    assert_eq!(text(&output.stdout), "one\n");
    let listed = done_as(&cluster, &admin, &["token", "list", "-w", "json"]);
    assert!(!listed.contains(&bob[26..]), "{listed}");
    let id = &bob["flotilla_".len()..][..16];
    assert!(listed.contains(id), "{listed}");

    // A node that was killed knows it from its first answer on.
    let restarted = 1;
    cluster.kill(restarted);
    cluster.start_node(restarted);
    let begin = Instant::now();
    loop {
        let output = ask_one(&cluster, restarted, None, &["auth", "whoami"]).output();
        let output = output.expect("the binary starts");
        let said = text(&output.stderr);
        assert!(!output.status.success(), "it let somebody in: {said}");
        if said.contains("this cluster asks who calls") {
            break;
        }
        assert!(begin.elapsed() < FOLLOWED_WITHIN, "{said}");
    }
    cluster.until("it serves those it knows", |cluster| {
        is_known(cluster, restarted, &bob)
    });

    // A token that was deleted is worth nothing, soon and everywhere.
    done_as(&cluster, &admin, &["token", "delete", id]);
    let begin = Instant::now();
    for node in 0..cluster.len() {
        while is_known(&cluster, node, &bob) {
            assert!(
                begin.elapsed() < FOLLOWED_WITHIN,
                "node {node} still takes it"
            );
        }
    }

    // Who did what.
    let logs: String = (0..cluster.len())
        .map(|node| cluster.logged(node))
        .collect();
    let audit: Vec<&str> = logs
        .lines()
        .filter(|line| line.contains("\"target\":\"audit\""))
        .collect();
    for (who, what, result) in [
        ("unknown", "create role operator", "done"),
        ("alice", "enforce access control", "done"),
        (
            "alice",
            "grant read,write on [\\\"app/\\\", \\\"app0\\\") to role app",
            "done",
        ),
        ("alice", "create user bob with roles [app]", "done"),
        ("bob", "end access control", "PermissionDenied"),
        ("alice", "delete user alice", "InvalidArgument"),
        ("alice", &format!("delete token {id}"), "done"),
    ] {
        let line = audit.iter().find(|line| {
            let field = |name: &str, value: &str| line.contains(&format!("\"{name}\":\"{value}\""));
            field("who", who) && field("action", what) && field("result", result)
        });
        let line = line.unwrap_or_else(|| {
            panic!("{who}: {what}: {result} is not among\n{}", audit.join("\n"))
        });
        assert!(
            line.contains("\"from\":\"127.0.0.1:") && line.contains("\"timestamp\":"),
            "{line}"
        );
    }
    done_as(&cluster, &admin, &["auth", "disable"]);
    cluster.until("everybody is let in again", |cluster| {
        cluster.run(&["get", "zoo"]).stdout == b"other\n"
    });
}

#[test]
fn an_operator_without_a_token_comes_back_in_by_the_configuration() {
    let mut cluster = start(Vec::new());
    enforce(&cluster);
    cluster.kill(0);
    let mut command = cluster.node_command(0);
    command.env("FLOTILLA_ACCESS__ENFORCE", "false");
    let mut node = command
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts");
    cluster.until("it lets the operator in", |cluster| {
        ask_one(cluster, 0, None, &["auth", "disable"])
            .output()
            .expect("the binary starts")
            .status
            .success()
    });
    node.kill().expect("it is our child");
    node.wait().expect("it is our child");
    cluster.until("the others do as well", |cluster| {
        ask_one(cluster, 1, None, &["auth", "whoami"])
            .output()
            .expect("the binary starts")
            .status
            .success()
    });
}

/// What nobody must find anywhere but in the data.
struct Canaries {
    key: String,
    value: String,
    secret: String,
}

impl Canaries {
    fn assert_absent(&self, place: &str, text: &str) {
        for (what, canary) in [
            ("key", &self.key),
            ("value", &self.value),
            ("token", &self.secret),
        ] {
            // Also as bytes in a list, as hexadecimal digits and as base64 it would be told.
            let bytes = canary.as_bytes();
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            let list: Vec<String> = bytes.iter().map(u8::to_string).collect();
            for form in [canary.clone(), hex, list.join(", ")] {
                if let Some(at) = text.find(&form) {
                    let from = text[..at].rfind('\n').map_or(0, |line| line + 1);
                    let line: String = text[from..].chars().take(600).collect();
                    panic!("{place} tells the {what}: {line}");
                }
            }
        }
    }
}

#[test]
fn secrets_planted_in_keys_values_and_tokens_are_found_nowhere() {
    let mut cluster = start(vec![("log.level", "trace")]);
    let admin = enforce(&cluster);
    let canaries = Canaries {
        key: "canary-key-2f9c51".to_owned(),
        value: "canary-value-7be3d0".to_owned(),
        secret: admin[admin.len() - 64..].to_owned(),
    };
    let (key, value) = (&*canaries.key, &*canaries.value);
    let file = |name: &str, content: String| -> PathBuf {
        let path = cluster.folder().join(name);
        let mut file = fs::File::create(&path).expect("the folder is writable");
        file.write_all(content.as_bytes())
            .expect("the folder is writable");
        path
    };
    let rows: String = (0..50)
        .map(|row| format!("{{\"key\":\"{key}-{row}\",\"value\":\"{value}\"}}\n"))
        .collect();
    let rows = file("rows.ndjson", rows).display().to_string();
    let exported = cluster.folder().join("out.csv").display().to_string();
    let long = format!("{key}{}", "x".repeat(5000));
    let across = format!("z-{key}");
    for arguments in [
        &["put", key, value][..],
        &["put", &across, value],
        &["get", key],
        &["get", key, "--serializable"],
        &["scan", "--prefix", "canary"],
        &["cas", key, "--expect", value, "--value", value],
        &["cas", key, "--expect", "other", "--value", value],
        &["put", &long, value],
        &["get", &long],
        &["shard", "show", key],
        &["import", &rows],
        &["export", &exported],
        &["role", "create", "reader"],
        &["user", "create", "carol", "--role", "reader"],
        &["shard", "ls"],
        &["node", "ls"],
        &["status"],
    ] {
        // Whether it succeeds is not the question: failures have more to tell.
        let output = run_as(&cluster, &admin, arguments);
        let said = text(&output.stderr).replace(&long, "LONG");
        // The user's own terminal may show the key that it asked for, and nothing else.
        assert!(
            !said.contains(value) && !said.contains(&canaries.secret),
            "{arguments:?}: {said}"
        );
    }
    let carol = done_as(&cluster, &admin, &["token", "create", "carol"]);
    for token in ["", &carol, &admin.replace("flotilla_", "flotilla-")] {
        for arguments in [
            &["get", key][..],
            &["put", key, value],
            &["scan", "--prefix", key],
            &["delete", key],
        ] {
            let output = run_as(&cluster, token, arguments);
            assert!(!output.status.success());
            canaries.assert_absent("a refusal", &text(&output.stderr));
        }
    }
    // Over forwards, elections and a restart.
    for node in 0..cluster.len() {
        for arguments in [
            &["put", key, value][..],
            &["get", key],
            &["delete", &across],
        ] {
            let mut command = ask_one(&cluster, node, Some(&admin), arguments);
            let output = command.output().expect("the binary starts");
            assert!(
                output.status.success(),
                "{arguments:?}: {}",
                text(&output.stderr)
            );
        }
    }
    assert!(cluster.terminate(0).success());
    cluster.start_node(0);
    cluster.until("it is back", |cluster| {
        let mut command = ask_one(cluster, 0, Some(&admin), &["get", key]);
        command.output().expect("the binary starts").stdout == format!("{value}\n").as_bytes()
    });
    for node in 0..cluster.len() {
        for page in [
            "/",
            "/metrics",
            "/status",
            "/ready?verbose",
            "/config",
            "/shards",
            "/shards?hottest=10",
            "/shards/1",
            "/shards/2",
            "/events",
            "/slow",
            "/log-level",
            "/console/api/cluster",
            "/console/api/history",
            "/console/api/events",
            "/console/api/slow",
            "/console/api/heat",
            "/console/api/shards",
            "/console/node/report",
        ] {
            canaries.assert_absent(page, &http_get(cluster.status_address(node), page));
        }
        let log = cluster.logged(node);
        assert!(
            log.contains("\"level\":\"TRACE\""),
            "the log was to tell everything"
        );
        canaries.assert_absent(&format!("the log of node {node}"), &log);
    }
    // What goes into a report of a fault, its logs included.
    let report = cluster.folder().join("report.zip");
    let mut arguments = vec!["debug".to_owned(), "zip".to_owned()];
    arguments.push(report.display().to_string());
    for node in 0..cluster.len() {
        let log = cluster.folder().join(format!("node{node}.log"));
        arguments.extend(["--log".to_owned(), log.display().to_string()]);
    }
    let arguments: Vec<&str> = arguments.iter().map(|argument| &**argument).collect();
    done_as(&cluster, &admin, &arguments);
    let files = super::debug::unpacked(&report);
    assert!(
        files.iter().any(|(name, _)| name == "logs/3-node2.log"),
        "logs are in it"
    );
    for (name, text) in files {
        canaries.assert_absent(&name, &text);
    }
}
