//! Connections that come in, and those that do not.

use std::{net::IpAddr, path::Path};

use flotilla_metrics::{ConnectionRefusal, Port};
use flotilla_proto::v1::{self as proto, peer_client::PeerClient};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::mpsc,
};
use tokio_stream::StreamExt as _;
use tonic::transport::server::Connected as _;

use super::super::{
    door::{Door, DoorOptions},
    *,
};
use crate::tls::{
    self, Caller, ClientFiles, ClientTls, Identity, NodeFiles, NodeTls,
    create::{Authority, Issued, Validity},
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A door, and who has come in through it.
struct Opened {
    address: std::net::SocketAddr,
    metrics: Arc<Metrics>,
    inside: mpsc::UnboundedReceiver<Caller>,
}

impl Opened {
    async fn new(port: Port, tls: Option<Arc<NodeTls>>, options: DoorOptions) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let metrics = Arc::new(Metrics::new().expect("metrics"));
        let door = Door::new(listener, port, tls, options, Arc::clone(&metrics));
        let mut connections = door.open();
        let (sender, inside) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut open = Vec::new();
            while let Some(Ok(mut connection)) = connections.next().await {
                let _ = sender.send(connection.connect_info());
                // What was looked at is there to be read again.
                let mut preface = [0; 24];
                connection
                    .read_exact(&mut preface)
                    .await
                    .expect("the preface");
                assert_eq!(preface, PREFACE);
                open.push(connection);
            }
        });
        Self {
            address,
            metrics,
            inside,
        }
    }

    fn refused(&self, port: Port, reason: ConnectionRefusal) -> u64 {
        self.metrics.connections_refused.of(port, reason).get()
    }

    async fn from(&self, ip: &str) -> TcpStream {
        let socket = TcpSocket::new_v4().expect("a socket");
        let ip: IpAddr = ip.parse().expect("an address");
        socket.bind((ip, 0).into()).expect("this machine's own");
        socket.connect(self.address).await.expect("it listens")
    }
}

/// Whether the other end has closed the connection, in a while.
async fn is_closed(stream: &mut TcpStream) -> bool {
    let mut byte = [0; 1];
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read(&mut byte)).await;
    !matches!(read, Ok(Ok(1..)) | Err(_))
}

#[tokio::test]
async fn who_says_nothing_or_too_slowly_is_shown_out() {
    let options = DoorOptions {
        handshake_timeout: Duration::from_millis(300),
        ..DoorOptions::default()
    };
    let mut door = Opened::new(Port::Clients, None, options).await;
    let mut silent = door.from("127.0.0.1").await;
    let mut slow = door.from("127.0.0.1").await;
    let drip = async {
        for byte in PREFACE {
            if slow.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    drip.await;
    assert!(is_closed(&mut slow).await && is_closed(&mut silent).await);
    assert_eq!(door.refused(Port::Clients, ConnectionRefusal::Slow), 2);

    let mut other = door.from("127.0.0.1").await;
    other
        .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .expect("written");
    assert!(is_closed(&mut other).await);
    assert_eq!(door.refused(Port::Clients, ConnectionRefusal::Protocol), 1);

    let mut good = door.from("127.0.0.1").await;
    good.write_all(PREFACE).await.expect("written");
    let caller = door.inside.recv().await.expect("it came in");
    assert_eq!(caller.identity, None);
    assert_eq!(caller.address, Some(good.local_addr().expect("an address")));
}

#[tokio::test]
async fn places_are_bounded_in_all_and_per_address() {
    let options = DoorOptions {
        connections: 5,
        connections_per_address: 3,
        ..DoorOptions::default()
    };
    let mut door = Opened::new(Port::Clients, None, options).await;
    let mut come = async |ip: &str| {
        let mut stream = door.from(ip).await;
        stream.write_all(PREFACE).await.expect("written");
        let came = tokio::select! {
            caller = door.inside.recv() => caller.is_some(),
            closed = is_closed(&mut stream) => !closed,
        };
        (stream, came)
    };
    let mut inside = Vec::new();
    for _ in 0..3 {
        let (stream, came) = come("127.0.0.2").await;
        assert!(came);
        inside.push(stream);
    }
    assert!(!come("127.0.0.2").await.1, "one address has three already");
    for _ in 0..2 {
        let (stream, came) = come("127.0.0.3").await;
        assert!(came, "another address is not harmed by that");
        inside.push(stream);
    }
    assert!(!come("127.0.0.4").await.1, "there are five");
    assert_eq!(door.refused(Port::Clients, ConnectionRefusal::Address), 1);
    assert_eq!(door.refused(Port::Clients, ConnectionRefusal::Full), 1);
    assert_eq!(door.metrics.connections.of(Port::Clients).get(), 5);
}

/// Certificates of a cluster, and of another one.
struct Files {
    folder: tempfile::TempDir,
    authority: Authority,
}

impl Files {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (authority, issued) = Authority::new([7; 16], lasting()).expect("an authority");
        let files = Self { folder, authority };
        files.put("ca", &issued);
        files
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn put(&self, name: &str, issued: &Issued) {
        let write = |path: &Path, content: &str| std::fs::write(path, content).expect("written");
        write(&self.path(&format!("{name}.crt")), &issued.cert);
        write(&self.path(&format!("{name}.key")), &issued.key);
    }

    fn pair(&self, name: &str, identity: &Identity) -> (std::path::PathBuf, std::path::PathBuf) {
        let issued = self
            .authority
            .issue(identity, &[], lasting())
            .expect("issued");
        self.put(name, &issued);
        (
            self.path(&format!("{name}.crt")),
            self.path(&format!("{name}.key")),
        )
    }

    fn node(&self, id: u64, open: bool) -> Arc<NodeTls> {
        let (cert, key) = self.pair(&format!("node{id}"), &Identity::Node(NodeId(id)));
        let files = NodeFiles {
            ca: self.path("ca.crt"),
            client_ca: None,
            cert,
            key,
        };
        Arc::new(NodeTls::load(files, open).expect("sound files"))
    }

    fn client(&self, identity: Option<Identity>) -> ClientTls {
        let pair = identity.map(|identity| self.pair("client", &identity));
        let ca = self.path("ca.crt");
        ClientTls::load(ClientFiles { ca, pair }).expect("sound files")
    }
}

fn lasting() -> Validity {
    Validity::lasting(Duration::from_secs(3600))
}

/// Connects and asks something; what the client hears if it does not come in.
async fn knock(door: &mut Opened, tls: &ClientTls) -> Result<Caller, String> {
    let address = door.address.to_string();
    let endpoint = tls::client::endpoint(&address, Some(tls)).expect("an address");
    let endpoint = endpoint.connect_timeout(Duration::from_secs(20));
    let channel = tls::client::connect(&endpoint, Some(tls)).await;
    let channel = channel.map_err(|error| crate::transport::innermost(&error))?;
    // Nobody answers; it is sent all the same.
    tokio::spawn(async move {
        let _ = PeerClient::new(channel)
            .identify(proto::IdentifyRequest::default())
            .await;
    });
    Ok(door.inside.recv().await.expect("it came in"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_carry_whom_the_certificate_names() {
    let files = Files::new();
    let alice = Identity::Client("alice".into());
    let mut clients = Opened::new(
        Port::Clients,
        Some(files.node(1, false)),
        DoorOptions::default(),
    )
    .await;
    for identity in [alice.clone(), Identity::Node(NodeId(2))] {
        let caller = knock(&mut clients, &files.client(Some(identity.clone()))).await;
        assert_eq!(caller.expect("welcome").identity, Some(identity));
    }
    let heard = knock(&mut clients, &files.client(None))
        .await
        .expect_err("no certificate");
    assert!(heard.contains("demands a certificate"), "{heard}");

    // Clients that prove otherwise who they are.
    let mut open = Opened::new(
        Port::Clients,
        Some(files.node(1, true)),
        DoorOptions::default(),
    )
    .await;
    let caller = knock(&mut open, &files.client(None))
        .await
        .expect("welcome");
    assert_eq!(caller.identity, None);
    let caller = knock(&mut open, &files.client(Some(alice.clone())))
        .await
        .expect("welcome");
    assert_eq!(caller.identity, Some(alice.clone()));

    let mut nodes = Opened::new(
        Port::Nodes,
        Some(files.node(1, true)),
        DoorOptions::default(),
    )
    .await;
    let caller = knock(&mut nodes, &files.client(Some(Identity::Node(NodeId(2))))).await;
    assert_eq!(
        caller.expect("welcome").identity,
        Some(Identity::Node(NodeId(2)))
    );
    for identity in [Some(alice), None] {
        knock(&mut nodes, &files.client(identity))
            .await
            .expect_err("no node");
    }
    // It is counted once the other end was told.
    let refused = || nodes.refused(Port::Nodes, ConnectionRefusal::Tls);
    while refused() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_connects_makes_sure_of_the_node_at_the_other_end() {
    let files = Files::new();
    let mut nodes = Opened::new(
        Port::Nodes,
        Some(files.node(3, false)),
        DoorOptions::default(),
    )
    .await;
    let ours = files.node(2, false).outgoing();
    knock(&mut nodes, &ours.expecting(NodeId(3)))
        .await
        .expect("it is node 3");
    let heard = knock(&mut nodes, &ours.expecting(NodeId(1)))
        .await
        .expect_err("it is not node 1");
    assert!(
        heard.contains("node 3 is at this address, expected node 1"),
        "{heard}"
    );

    // A node of another cluster, although the authority is believed.
    let theirs = Files::new();
    let (authority, issued) = Authority::new([8; 16], lasting()).expect("an authority");
    let both = std::fs::read_to_string(files.path("ca.crt")).expect("it is there") + &issued.cert;
    std::fs::write(files.path("ca.crt"), both).expect("written");
    let stranger = Files {
        folder: theirs.folder,
        authority,
    };
    std::fs::copy(files.path("ca.crt"), stranger.path("ca.crt")).expect("copied");
    let stranger = stranger.client(Some(Identity::Node(NodeId(2))));
    let mut nodes = Opened::new(
        Port::Nodes,
        Some(files.node(3, false)),
        DoorOptions::default(),
    )
    .await;
    let heard = knock(&mut nodes, &stranger)
        .await
        .expect_err("another cluster");
    assert!(heard.contains("belongs to cluster 0808"), "{heard}");
}
