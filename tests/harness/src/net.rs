//! The network between the nodes of a test, and between clients and nodes: a proxy in front of each port of a node, whose links
//! can be cut, slowed down and reset while everything runs.
//!
//! There is a link per *direction and pair*. A node advertises its proxy's address, so whoever wants to reach it comes
//! through the proxy; which node that is, the proxy learns from the system: a connection's other end belongs to a process.
//! What is no node's process is a client.
//!
//! A cut loses nothing and refuses nothing: bytes wait in the proxy as packets are repeated on a real network, and a
//! connection that is made meanwhile hangs. So both ends have to find out by their own timeouts, and a healed link goes
//! on where it was.

use std::{
    fs, io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    runtime::Handle,
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use super::address;

/// Bytes that are read at once, and such pieces that may be on their way over a link, per connection.
const CHUNK_BYTES: usize = 64 << 10;
const CHUNKS: usize = 64;

/// An end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Party {
    /// Everybody who is no node.
    Client,
    /// A node of the cluster, by its number in the test.
    Node(usize),
}

/// One direction between two parties.
#[derive(Clone, Copy, Debug, Default)]
struct Link {
    cut: bool,
    delay: Duration,
    /// Counts the resets; connections end when it changes.
    resets: u64,
}

/// All links, and the proxies in front of the nodes.
pub struct Net {
    shared: Arc<Shared>,
    fronts: Vec<SocketAddr>,
}

struct Shared {
    /// The nodes' own addresses for clients.
    behind: Vec<SocketAddr>,
    /// By process id; none while the node is down.
    processes: Mutex<Vec<Option<u32>>>,
    /// By (from, to), row by row; clients have the last place.
    links: Vec<watch::Sender<Link>>,
}

impl Shared {
    fn place(&self, party: Party) -> usize {
        match party {
            Party::Node(node) => node,
            Party::Client => self.behind.len(),
        }
    }

    fn link(&self, from: Party, to: Party) -> &watch::Sender<Link> {
        &self.links[self.place(from) * (self.behind.len() + 1) + self.place(to)]
    }
}

impl Net {
    /// Proxies in front of nodes that listen for clients at these addresses, and for nodes at the next ports.
    pub fn new(runtime: &Handle, behind: Vec<SocketAddr>) -> Self {
        let parties = behind.len() + 1;
        let shared = Arc::new(Shared {
            processes: Mutex::new(vec![None; behind.len()]),
            links: (0..parties * parties)
                .map(|_| watch::Sender::new(Link::default()))
                .collect(),
            behind,
        });
        let front = |node| {
            let (front, behind) = (address::fresh(), shared.behind[node]);
            let for_peers = (address::of_peers(front), address::of_peers(behind));
            for (front, behind) in [(front, behind), for_peers] {
                let listener = runtime
                    .block_on(TcpListener::bind(front))
                    .expect("the address is free");
                runtime.spawn(accept(Arc::clone(&shared), listener, front, node, behind));
            }
            front
        };
        let fronts = (0..shared.behind.len()).map(front).collect();
        Self { shared, fronts }
    }

    /// Where clients reach a node; other nodes do at the next port.
    pub fn front(&self, node: usize) -> SocketAddr {
        self.fronts[node]
    }

    /// The nodes' process ids. Held while a node starts, so that its first connection is known as its own.
    pub fn processes(&self) -> MutexGuard<'_, Vec<Option<u32>>> {
        let processes = self.shared.processes.lock();
        processes.unwrap_or_else(PoisonError::into_inner)
    }

    /// Loses what goes from one to the other, until the link is healed.
    pub fn cut(&self, from: Party, to: Party) {
        self.shared
            .link(from, to)
            .send_modify(|link| link.cut = true);
    }

    /// Ends cuts and delays of one direction.
    pub fn heal(&self, from: Party, to: Party) {
        self.shared.link(from, to).send_modify(|link| {
            link.cut = false;
            link.delay = Duration::ZERO;
        });
    }

    /// Cuts a node off from all other nodes, in both directions; clients still reach it.
    pub fn isolate(&self, node: usize) {
        for other in (0..self.fronts.len()).filter(|other| *other != node) {
            self.cut(Party::Node(node), Party::Node(other));
            self.cut(Party::Node(other), Party::Node(node));
        }
    }

    /// Ends all cuts and delays.
    pub fn heal_all(&self) {
        let nodes = (0..self.fronts.len()).map(Party::Node);
        let parties: Vec<Party> = nodes.chain([Party::Client]).collect();
        for from in &parties {
            for to in &parties {
                self.heal(*from, *to);
            }
        }
    }

    /// Everything from one to the other arrives this much later.
    pub fn delay(&self, from: Party, to: Party, delay: Duration) {
        self.shared
            .link(from, to)
            .send_modify(|link| link.delay = delay);
    }

    /// Breaks all connections between the two with a reset; new ones can be made.
    pub fn reset(&self, one: Party, other: Party) {
        for (from, to) in [(one, other), (other, one)] {
            self.shared
                .link(from, to)
                .send_modify(|link| link.resets += 1);
        }
    }
}

async fn accept(
    shared: Arc<Shared>,
    listener: TcpListener,
    front: SocketAddr,
    node: usize,
    behind: SocketAddr,
) {
    // An error means that the test has run out of file descriptors, which its nodes will tell.
    while let Ok((stream, peer)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let looking = {
                let shared = Arc::clone(&shared);
                tokio::task::spawn_blocking(move || owner(&shared, peer, front))
            };
            // It has no way to fail but by the end of the test.
            let from = looking.await.unwrap_or(Party::Client);
            connection(&shared, stream, from, node, behind).await;
        });
    }
}

/// One connection from its beginning to its end, however it ends.
async fn connection(
    shared: &Shared,
    mut stream: TcpStream,
    from: Party,
    node: usize,
    behind: SocketAddr,
) {
    let to = Party::Node(node);
    let mut there = shared.link(from, to).subscribe();
    let mut back = shared.link(to, from).subscribe();
    let (mut resets, seen) = (there.clone(), there.borrow().resets);
    let carried = async {
        // Making a connection takes a packet in each direction.
        open(&mut there).await;
        open(&mut back).await;
        let mut server = TcpStream::connect(behind).await?;
        for stream in [&stream, &server] {
            stream.set_nodelay(true)?;
        }
        let (client_reads, client_writes) = stream.split();
        let (server_reads, server_writes) = server.split();
        // Whoever ends the connection ends both directions.
        tokio::select! {
            done = pump(client_reads, server_writes, there) => done,
            done = pump(server_reads, client_writes, back) => done,
        }
    };
    let carried = tokio::select! {
        carried = carried => carried,
        _ = resets.wait_for(|link| link.resets != seen) => Err(io::ErrorKind::ConnectionReset.into()),
    };
    if carried.is_err() {
        // The other end hears of it at once, as it would from the system of a dead node. If not, it is gone itself.
        let _ = stream.set_zero_linger();
    }
}

/// Resolves when nothing is lost on the link. The sender lives as long as the test.
async fn open(link: &mut watch::Receiver<Link>) {
    let _ = link.wait_for(|link| !link.cut).await;
}

/// Carries one direction of a connection until its source ends it.
async fn pump(
    mut source: ReadHalf<'_>,
    mut sink: WriteHalf<'_>,
    mut link: watch::Receiver<Link>,
) -> io::Result<()> {
    let (sender, mut chunks) = mpsc::channel::<(Instant, Vec<u8>)>(CHUNKS);
    let delays = link.clone();
    let read = async move {
        loop {
            let mut chunk = vec![0; CHUNK_BYTES];
            let length = source.read(&mut chunk).await?;
            chunk.truncate(length);
            let due = Instant::now() + delays.borrow().delay;
            if length == 0 || sender.send((due, chunk)).await.is_err() {
                return Ok(());
            }
        }
    };
    let write = async {
        while let Some((due, chunk)) = chunks.recv().await {
            sleep_until(due).await;
            open(&mut link).await;
            sink.write_all(&chunk).await?;
        }
        open(&mut link).await;
        sink.shutdown().await
    };
    tokio::try_join!(read, write).map(drop)
}

/// Whose connection it is that comes from `peer` and has reached the proxy at `front`.
fn owner(shared: &Shared, peer: SocketAddr, front: SocketAddr) -> Party {
    let processes = shared.processes.lock();
    let processes = processes.unwrap_or_else(PoisonError::into_inner).clone();
    let Some(socket) = socket(peer, front) else {
        // Closed already.
        return Party::Client;
    };
    let has = |process: Option<u32>| {
        let files = process.map(|id| fs::read_dir(format!("/proc/{id}/fd")));
        let mut files = files.and_then(Result::ok).into_iter().flatten().flatten();
        files.any(|file| fs::read_link(file.path()).is_ok_and(|to| to.as_os_str() == &*socket))
    };
    let node = processes.into_iter().position(has);
    node.map_or(Party::Client, Party::Node)
}

/// The name that the system gives to the socket with these ends, as processes' lists of open files have it.
fn socket(own: SocketAddr, other: SocketAddr) -> Option<String> {
    let hex = |address: SocketAddr| match address {
        SocketAddr::V4(address) => {
            let ip = u32::from_ne_bytes(address.ip().octets());
            format!("{ip:08X}:{:04X}", address.port())
        }
        SocketAddr::V6(_) => unreachable!("tests use IPv4 only"),
    };
    let (own, other) = (hex(own), hex(other));
    let table = fs::read_to_string("/proc/net/tcp").expect("Linux tells about sockets");
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let found = fields.get(1) == Some(&&*own) && fields.get(2) == Some(&&*other);
        let inode = fields.get(9).filter(|_| found)?;
        Some(format!("socket:[{inode}]"))
    })
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpStream,
        time::Instant,
    };

    use super::*;

    const SHORT: Duration = Duration::from_millis(300);

    /// A node that sends back what it gets.
    fn echo() -> (tokio::runtime::Runtime, Net, TcpStream) {
        let runtime = tokio::runtime::Runtime::new().expect("threads");
        let address = address::fresh();
        let listener = runtime
            .block_on(TcpListener::bind(address))
            .expect("a free address");
        runtime.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut reads, mut writes) = stream.split();
                    tokio::io::copy(&mut reads, &mut writes).await
                });
            }
        });
        let net = Net::new(runtime.handle(), vec![address]);
        let stream = TcpStream::connect(net.front(0)).expect("the proxy listens");
        let patience = Some(Duration::from_secs(60));
        stream.set_read_timeout(patience).expect("a timeout");
        (runtime, net, stream)
    }

    fn say(stream: &mut TcpStream, word: &[u8]) -> io::Result<Vec<u8>> {
        stream.write_all(word)?;
        let mut heard = vec![0; word.len()];
        stream.read_exact(&mut heard)?;
        Ok(heard)
    }

    #[test]
    fn a_cut_holds_bytes_back_and_a_healed_link_brings_them() {
        let (_runtime, net, mut stream) = echo();
        assert_eq!(say(&mut stream, b"one").expect("a link"), b"one");
        for (from, to) in [
            (Party::Client, Party::Node(0)),
            (Party::Node(0), Party::Client),
        ] {
            net.cut(from, to);
            stream.set_read_timeout(Some(SHORT)).expect("a timeout");
            let error = say(&mut stream, b"two").expect_err("the link is cut");
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
            net.heal(from, to);
            let patience = Some(Duration::from_secs(60));
            stream.set_read_timeout(patience).expect("a timeout");
            let mut heard = [0; 3];
            stream.read_exact(&mut heard).expect("a healed link");
            assert_eq!(&heard, b"two");
        }
    }

    #[test]
    fn a_slow_link_is_slow_in_its_direction_only() {
        let (_runtime, net, mut stream) = echo();
        net.delay(Party::Node(0), Party::Client, SHORT);
        let begin = Instant::now();
        assert_eq!(say(&mut stream, b"one").expect("a link"), b"one");
        assert!(begin.elapsed() >= SHORT, "{:?}", begin.elapsed());
    }

    #[test]
    fn a_reset_ends_connections_and_lets_new_ones_in() {
        let (_runtime, net, mut stream) = echo();
        assert_eq!(say(&mut stream, b"one").expect("a link"), b"one");
        net.reset(Party::Client, Party::Node(0));
        let mut heard = [0; 1];
        let error = stream.read(&mut heard).expect_err("the connection is gone");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        let mut stream = TcpStream::connect(net.front(0)).expect("the proxy listens");
        assert_eq!(say(&mut stream, b"two").expect("a link"), b"two");
    }

    #[test]
    fn connections_of_this_process_are_its_own() {
        let (_runtime, net, mut stream) = echo();
        assert_eq!(say(&mut stream, b"one").expect("a link"), b"one");
        let own = stream.local_addr().expect("an address");
        assert_eq!(owner(&net.shared, own, net.front(0)), Party::Client);
        net.processes()[0] = Some(std::process::id());
        assert_eq!(owner(&net.shared, own, net.front(0)), Party::Node(0));
    }
}
