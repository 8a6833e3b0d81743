//! Certificates: who has the right ones is served over TLS, everybody else hears what is wrong, and what is wrong with
//! files is said before anything has changed.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use flotilla::{
    client::{self, Client, Options},
    tls::{
        self, ClientFiles, ClientTls, Identity,
        create::{Authority, Validity},
        identity::new_cluster,
    },
};
use flotilla_harness::{
    Cluster, Plan, Split, address,
    certificates::{LASTING, expired},
    end, http_get, put,
};
use flotilla_proto::v1::{self, peer_client::PeerClient};
use flotilla_shards::ids::NodeId;

fn secure() -> Plan {
    Plan {
        secure: true,
        split: Split::Even(4),
        ..Plan::default()
    }
}

fn alone() -> Plan {
    Plan {
        nodes: 1,
        ..secure()
    }
}

/// Standard error of a command that must fail.
fn complaint(output: &Output) -> String {
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What a client hears that comes to a node in this way.
fn attempt(cluster: &Cluster, address: String, tls: Option<ClientTls>) -> String {
    let mut options = Options {
        timeout: Duration::from_secs(20),
        ..Options::default()
    };
    options.stream.tls = tls;
    let connected = cluster.block_on(Client::connect([address], options));
    connected.expect_err("it must not come in").to_string()
}

#[test]
fn who_has_a_certificate_is_served_and_everybody_else_hears_why_not() {
    let cluster = Cluster::start(secure());
    // Through every node, most of which pass it on to another.
    for node in 0..cluster.len() {
        for key in ["a", "h", "p", "z"] {
            let written = cluster.ask(node, put(key, "value"), Duration::from_secs(60));
            written.expect("it is written");
        }
    }
    cluster.assert_replicas_agree();
    for command in [
        &["get", "a"][..],
        &["status"],
        &["node", "ls"],
        &["shard", "show", "a", "--checksum"],
        &[
            "bench",
            "put",
            "--seconds",
            "1",
            "--warmup",
            "100ms",
            "--clients",
            "8",
        ],
    ] {
        let output = cluster.run(command);
        assert!(output.status.success(), "{command:?}: {output:?}");
    }

    let certificates = cluster.certificates();
    let here = || cluster.address(0);
    let refused = || {
        cluster.metric(
            0,
            "flotilla_connection_refused_total{port=\"clients\",reason=\"tls\"}",
        )
    };
    let expect = |what: &str, heard: String, counted: bool, before: f64| {
        assert!(heard.contains(what), "{heard:?} lacks {what:?}");
        if counted {
            cluster.until("it is counted", |_| refused() > before);
        }
    };
    let before = refused();
    expect("give --ca", attempt(&cluster, here(), None), true, before);

    let [ca, _] = certificates.paths("ca");
    let files = |ca, pair| ClientFiles { ca, pair };
    let load = |files| ClientTls::load(files).expect("sound files");
    let before = refused();
    let nobody = load(files(ca, None));
    expect(
        "demands a certificate",
        attempt(&cluster, here(), Some(nobody)),
        true,
        before,
    );

    let validity = Validity::lasting(LASTING);
    let mallory = Identity::Client("mallory".into());
    let (theirs, authority) =
        Authority::new(certificates.authority.cluster(), validity).expect("an authority");
    certificates.put("their-ca", &authority);
    let issued = theirs
        .issue(&mallory, &[], validity)
        .expect("a certificate");
    certificates.put("mallory", &issued);
    let before = refused();
    let forged = certificates.client_named("mallory");
    expect(
        "refuses this side's certificate",
        attempt(&cluster, here(), Some(forged)),
        true,
        before,
    );
    cluster.until("it is logged why", |cluster| {
        cluster.logged(0).contains("comes from another authority")
    });

    let [their_ca, _] = certificates.paths("their-ca");
    let [cert, key] = certificates.paths("mallory");
    let elsewhere = load(files(their_ca, Some((cert, key))));
    expect(
        "comes from another authority",
        attempt(&cluster, here(), Some(elsewhere)),
        true,
        before,
    );

    // Not even a node is served as a client there.
    let as_node = certificates.client_named("node2");
    let wrong_port = attempt(&cluster, cluster.peer_address(0), Some(as_node));
    expect("does not serve this call", wrong_port, false, before);
    let wrong_port = attempt(
        &cluster,
        cluster.peer_address(0),
        Some(certificates.client()),
    );
    expect("refuses this side's certificate", wrong_port, false, before);
    cluster.until("it is logged why", |cluster| {
        cluster.logged(0).contains("is the port for nodes")
    });

    // Nobody was harmed.
    cluster.until_all_serve();

    // What nodes ask of each other for people goes over the port between them as well.
    for node in 0..cluster.len() {
        let answer = http_get(cluster.status_address(node), "/console/api/cluster");
        let overview: serde_json::Value = serde_json::from_str(&answer).expect("JSON");
        let nodes = overview["nodes"].as_array().expect("a list");
        assert_eq!(nodes.len(), cluster.len());
        for other in nodes {
            assert!(other["report"].is_object(), "{other}");
        }
    }
    let report = cluster.folder().join("report.zip").display().to_string();
    let output = cluster.run(&["debug", "zip", &report]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && !said.contains("nodes.json"),
        "{said}"
    );
}

#[test]
fn files_that_are_wrong_are_named_with_what_to_do_and_change_nothing() {
    let mut cluster = Cluster::start(alone());
    cluster.kill(0);
    let certificates = cluster.certificates();
    let validity = Validity::lasting(LASTING);
    let node = |id| Identity::Node(NodeId(id));
    certificates.put("old", &certificates.issue(&node(1), expired()));
    certificates.put("other", &certificates.issue(&node(2), validity));
    let (theirs, authority) = Authority::new(new_cluster(), validity).expect("an authority");
    certificates.put("their-ca", &authority);
    certificates.put(
        "foreign",
        &theirs
            .issue(&node(1), &[], validity)
            .expect("a certificate"),
    );
    let path = |name: &str, part: usize| certificates.paths(name)[part].display().to_string();
    let nowhere = certificates.folder.join("nowhere").display().to_string();
    let folder = certificates.folder.display().to_string();
    for (other, expected) in [
        (
            vec![("--key", nowhere.clone())],
            ["can't be read", "check the path"],
        ),
        (vec![("--key", folder)], ["can't be read", "check the path"]),
        (
            vec![("--key", path("node1", 0))],
            ["holds no private key", "flotilla cert"],
        ),
        (
            vec![("--cert", path("node1", 1))],
            ["holds no certificate", "flotilla cert"],
        ),
        (vec![("--ca", nowhere)], ["can't be read", "check the path"]),
        (
            vec![("--key", path("other", 1))],
            ["does not belong to the certificate", "both files"],
        ),
        (
            vec![("--cert", path("old", 0)), ("--key", path("old", 1))],
            ["is valid from", "make a new one"],
        ),
        (
            vec![
                ("--cert", path("client-test", 0)),
                ("--key", path("client-test", 1)),
            ],
            ["names client test", "expected a node's"],
        ),
        (
            vec![
                ("--cert", path("foreign", 0)),
                ("--key", path("foreign", 1)),
            ],
            [
                "is not one of the authority",
                "both sides need certificates",
            ],
        ),
        (
            vec![
                ("--ca", path("their-ca", 0)),
                ("--cert", path("foreign", 0)),
                ("--key", path("foreign", 1)),
            ],
            ["is the data folder of node 1", "create-ca --cluster"],
        ),
        (
            vec![("--cert", path("other", 0)), ("--key", path("other", 1))],
            ["names node 2", "create-node --id 1"],
        ),
    ] {
        let flags: Vec<(&str, &str)> = other
            .iter()
            .map(|(flag, value)| (*flag, &**value))
            .collect();
        let (code, text) = end(cluster.other_command(0, &flags));
        assert_eq!(code, Some(2), "{flags:?}: {text}");
        for part in expected {
            assert!(text.contains(part), "{flags:?}: {text} lacks {part:?}");
        }
    }
    cluster.start_node(0);
    cluster.until_serves(0);
}

#[test]
fn plaintext_beyond_this_machine_needs_the_word_for_it() {
    let cluster = Cluster::start_apart(Plan {
        nodes: 1,
        ..Plan::default()
    });
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data").display().to_string();
    let status = address::fresh().to_string();
    let other = [
        ("--data", &*data),
        ("--listen", "0.0.0.0:0"),
        ("--advertise", "127.0.0.1:1"),
        ("--status-listen", &*status),
    ];
    let (code, text) = end(cluster.other_command(0, &other));
    assert_eq!(code, Some(2), "{text}");
    for part in ["node.listen", "flotilla cert", "--insecure"] {
        assert!(text.contains(part), "{text}");
    }
    assert!(!folder.path().join("data").exists());
    let mut allowed = cluster.other_command(0, &other);
    allowed.arg("--insecure").stderr(Stdio::piped());
    let mut process = allowed.spawn().expect("the binary starts");
    let mut told = String::new();
    let mut lines = BufReader::new(process.stderr.take().expect("it is piped"));
    while !told.contains("security.insecure: connections are plaintext") {
        let read = lines.read_line(&mut told).expect("it is text");
        assert!(read > 0, "it ended: {told}");
    }
    process.kill().expect("it is our child");
    process.wait().expect("it is our child");
}

#[test]
fn certificates_are_replaced_under_load_and_no_request_fails() {
    let mut cluster = Cluster::start(secure());
    let tls = cluster.certificates().client();
    let mut options = Options::default();
    options.stream.tls = Some(tls.clone());
    let endpoints: Vec<String> = (0..cluster.len())
        .map(|node| cluster.address(node))
        .collect();
    let stop = Arc::<AtomicBool>::default();
    let stopped = Arc::clone(&stop);
    let user = cluster.spawn(async move {
        let mut done = 0_u64;
        while !stopped.load(Ordering::Relaxed) {
            // A connection of its own each time: so all that nodes show is seen.
            let client = Client::connect(endpoints.clone(), options.clone()).await?;
            client.put(format!("{}", done % 50), "value").await?;
            done += 1;
        }
        Ok::<_, client::Error>(done)
    });
    let expiry = |cluster: &Cluster, node| {
        cluster.metric(node, "flotilla_tls_certificate_expiry_timestamp_seconds")
    };
    let reloads = |cluster: &Cluster, node, result: &str| {
        cluster.metric(
            node,
            &format!("flotilla_tls_reloads_total{{result=\"{result}\"}}"),
        )
    };
    let identity = |node: usize| Identity::Node(NodeId(cluster.id(node)));
    let name = |node: usize| format!("node{}", node + 1);

    // A new pair, which lasts longer.
    for node in 0..cluster.len() {
        let before = expiry(&cluster, node);
        assert!(before > 0.0);
        let longer = Validity::lasting(2 * LASTING);
        let issued = cluster.certificates().issue(&identity(node), longer);
        cluster.certificates().put(&name(node), &issued);
        cluster.until("it is in use", |cluster| expiry(cluster, node) > before);
    }

    // A pair that is none: the one from before goes on.
    let (good, kept) = (cluster.certificates().paths("node1"), expiry(&cluster, 0));
    let good = good.map(|path| fs::read(path).expect("it is there"));
    let mut bad = cluster
        .certificates()
        .issue(&identity(0), Validity::lasting(3 * LASTING));
    bad.key = cluster
        .certificates()
        .issue(&identity(0), Validity::lasting(LASTING))
        .key;
    cluster.certificates().put("node1", &bad);
    cluster.until("it is refused", |cluster| {
        reloads(cluster, 0, "refused") > 0.0
    });
    assert_eq!(expiry(&cluster, 0), kept);
    assert!(
        cluster
            .logged(0)
            .contains("does not belong to the certificate")
    );
    let answer = cluster.ask(0, put("key", "value"), Duration::from_secs(60));
    answer.expect("new connections are made as before");
    for (path, content) in cluster.certificates().paths("node1").iter().zip(good) {
        fs::write(path, content).expect("the folder is writable");
    }

    // Another authority: first it is believed beside the old one, then used, then the old one is forgotten.
    let validity = Validity::lasting(4 * LASTING);
    let (authority, issued) =
        Authority::new(cluster.certificates().authority.cluster(), validity).expect("an authority");
    let [ca, _] = cluster.certificates().paths("ca");
    let old = fs::read_to_string(&ca).expect("it is there");
    let write = |content: &str| {
        let new = ca.with_extension("new");
        fs::write(&new, content).expect("the folder is writable");
        fs::rename(&new, &ca).expect("the folder is writable");
    };
    let all_reload = |cluster: &mut Cluster, change: &dyn Fn(&Cluster)| {
        let before: Vec<f64> = (0..cluster.len())
            .map(|node| reloads(cluster, node, "done"))
            .collect();
        change(cluster);
        for (node, before) in before.iter().enumerate() {
            cluster.hang_up(node);
            cluster.until("it has read them", |cluster| {
                reloads(cluster, node, "done") > *before
            });
        }
        tls.reload().expect("sound files");
    };
    all_reload(&mut cluster, &|_| write(&format!("{old}{}", issued.cert)));
    all_reload(&mut cluster, &|cluster| {
        for node in 0..cluster.len() {
            let issued = authority.issue(
                &Identity::Node(NodeId(cluster.id(node))),
                &[],
                Validity::lasting(3 * LASTING),
            );
            cluster
                .certificates()
                .put(&name(node), &issued.expect("a certificate"));
        }
        let issued = authority.issue(
            &Identity::Client("test".into()),
            &[],
            Validity::lasting(3 * LASTING),
        );
        cluster
            .certificates()
            .put("client-test", &issued.expect("a certificate"));
    });
    all_reload(&mut cluster, &|_| write(&issued.cert));

    stop.store(true, Ordering::Relaxed);
    let done = cluster.block_on(user).expect("no panic");
    let done = done.unwrap_or_else(|error| panic!("a request failed: {error}"));
    assert!(done > 10, "{done} requests");

    // Nodes find each other again with what they have now.
    cluster.kill(1);
    cluster.start_node(1);
    cluster.until_serves(1);
}

/// A node's certificate is good for that node alone.
#[test]
fn a_node_can_not_say_that_it_is_another() {
    let cluster = Cluster::start(secure());
    let node2 = cluster.certificates().client_named("node2");
    let endpoint = tls::client::endpoint(&cluster.peer_address(0), Some(&node2));
    let endpoint = endpoint.expect("an address");
    let channel = cluster.block_on(tls::client::connect(&endpoint, Some(&node2)));
    let mut client = PeerClient::new(channel.expect("it is a node of the cluster"));
    let identify = v1::IdentifyRequest { node_id: 2 };
    let ours = cluster.block_on(client.identify(identify));
    let ours = ours.expect("any node may ask").into_inner();
    assert_eq!(ours.certified_node, 1);
    let genesis = ours.genesis.expect("it is initialized");
    // The certificates' cluster and nodes are those of the cluster.
    assert_eq!(
        genesis.cluster_id[..],
        cluster.certificates().authority.cluster()
    );
    for node in 0..cluster.len() {
        assert_eq!(cluster.id(node), node as u64 + 1);
    }
    let node3 = genesis.nodes.iter().find(|node| node.node_id == 3);
    let handshake = v1::Handshake {
        protocol: ours.protocol,
        cluster_id: genesis.cluster_id.clone(),
        from_node: 3,
        from_store: node3.expect("there are three").store_id.clone(),
        to_node: 1,
        ..v1::Handshake::default()
    };
    let frame = v1::Frame {
        handshake: Some(handshake),
        ..v1::Frame::default()
    };
    let delivered = cluster.block_on(client.deliver(tokio_stream::iter([frame])));
    let refused = delivered.expect_err("it is not node 3");
    let text = refused.message();
    assert!(text.contains("its certificate names node 2"), "{text}");
    let reason = "flotilla_transport_handshakes_refused_total{reason=\"certificate\"}";
    assert!(cluster.metric(0, reason) > 0.0);
}

#[test]
fn files_are_made_for_their_holder_alone_and_never_written_over() {
    use std::os::unix::fs::PermissionsExt as _;
    let cluster = Cluster::start_apart(Plan {
        nodes: 1,
        ..Plan::default()
    });
    let dir = cluster.folder().join("made").display().to_string();
    let run = |arguments: &[&str]| cluster.run(&[&["cert"], arguments, &["--dir", &dir]].concat());
    for arguments in [
        &["create-ca"][..],
        &["create-node", "--id", "1", "--host", "localhost,127.0.0.1"],
        &["create-client", "alice"],
    ] {
        let output = run(arguments);
        assert!(output.status.success(), "{output:?}");
        let heard = complaint(&run(arguments));
        assert!(
            heard.contains("is there already") && heard.contains("--out"),
            "{heard}"
        );
    }
    for (name, mode) in [
        ("ca.key", 0o600),
        ("node1.key", 0o600),
        ("client-alice.key", 0o600),
        ("node1.crt", 0o644),
    ] {
        let about = fs::metadata(format!("{dir}/{name}")).expect(name);
        assert_eq!(about.permissions().mode() & 0o777, mode, "{name}");
    }
    let heard = complaint(&run(&["create-node", "--id", "2", "--host", "a b"]));
    assert!(
        heard.contains("neither a host name nor an IP address"),
        "{heard}"
    );
    let heard = complaint(&run(&["create-node", "--id", "2", "--days", "30000"]));
    assert!(heard.contains("fewer --days"), "{heard}");
    fs::copy(format!("{dir}/node1.key"), format!("{dir}/ca.key")).expect("copied");
    let heard = complaint(&run(&["create-node", "--id", "2"]));
    assert!(
        heard.contains("does not belong to the certificate"),
        "{heard}"
    );
    let heard = complaint(&cluster.run(&["cert", "create-node", "--id", "2", "--dir", "nowhere"]));
    assert!(
        heard.contains("nowhere/ca.crt") && heard.contains("can't be read"),
        "{heard}"
    );
    assert!(!fs::exists(format!("{dir}/node2.crt")).expect("a folder"));
}
