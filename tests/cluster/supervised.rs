//! What those are told who start and watch a node: systemd, and the health checks of containers.

use std::{os::unix::net::UnixDatagram, process::Child, time::Duration};

use flotilla_harness::{Cluster, PATIENCE, Plan, address, end};
use rustix::process::{Pid, Signal, kill_process};

/// Killed when dropped.
struct Node(Child);

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended by itself, which the test has seen then.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn systemd_is_told_when_a_node_listens_and_when_it_drains() {
    let cluster = Cluster::start_apart(Plan {
        nodes: 1,
        ..Plan::default()
    });
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name| folder.path().join(name).display().to_string();
    let socket = UnixDatagram::bind(path("notify")).expect("the folder is writable");
    socket.set_read_timeout(Some(PATIENCE)).expect("a time");
    let (listen, status) = (address::fresh(), address::fresh().to_string());
    let (own, data) = (listen.to_string(), path("data"));
    let mut command = cluster.other_command(
        0,
        &[
            ("--data", &data),
            ("--listen", &own),
            ("--advertise", &own),
            ("--status-listen", &status),
        ],
    );
    let node = command.env("NOTIFY_SOCKET", path("notify")).spawn();
    let mut node = Node(node.expect("the binary starts"));
    let told = || {
        let mut word = [0; 64];
        let bytes = socket.recv(&mut word).expect("the node says something");
        String::from_utf8_lossy(&word[..bytes]).trim().to_owned()
    };
    assert_eq!(told(), "READY=1");
    let connected = std::net::TcpStream::connect_timeout(&listen, Duration::from_secs(5));
    connected.expect("it listens when it says so");
    kill_process(Pid::from_child(&node.0), Signal::TERM).expect("the process is our child");
    assert_eq!(told(), "STOPPING=1");
    assert!(node.0.wait().expect("it is our child").success());
}

#[test]
fn health_is_the_node_s_own_and_ready_is_more() {
    let mut cluster = Cluster::start_apart(Plan {
        nodes: 1,
        ..Plan::default()
    });
    let ask = |cluster: &Cluster, flags: &[&str]| {
        let status = cluster.status_address(0).to_string();
        let mut command = cluster.command(&["health", "--status-listen", &status]);
        command.args(flags);
        end(command)
    };
    cluster.until("it lives", |cluster| ask(cluster, &[]).0 == Some(0));
    let (code, text) = ask(&cluster, &["--ready"]);
    assert_eq!(code, Some(4), "{text}");
    assert!(text.contains("not part of a cluster yet"), "{text}");
    cluster.init();
    cluster.until("it is ready", |cluster| {
        ask(cluster, &["--ready"]).0 == Some(0)
    });
    cluster.kill(0);
    let (code, text) = ask(&cluster, &[]);
    assert_eq!(code, Some(4), "{text}");
}
