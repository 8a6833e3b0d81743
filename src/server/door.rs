//! The door of a port: which connections come in, before anything is known of what they will ask.
//!
//! A connection costs next to nothing until TLS, where the node has certificates, and HTTP/2 have begun: a place among so
//! many, in all and per address, and a task that waits for so long. So who connects and says nothing, or says it byte by
//! byte, or speaks something else, takes no memory and nobody's place but those of its own address.

use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use flotilla_metrics::{ConnectionRefusal, Metrics, Port};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

use crate::{
    tls::{self, Caller, NodeTls},
    transport::handshake::Repeats,
};

/// With this a client begins HTTP/2.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// With this byte a client begins TLS.
const TLS_BEGINS: u8 = 0x16;
/// Connections that wait to be taken over by the server.
const AHEAD: usize = 64;
/// How long, and how many bytes, the other end may go on to send after it was told why it is refused.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 64 << 10;
/// Pause after the system could not hand over a connection: mostly it has no file descriptors left.
const PAUSE: Duration = Duration::from_millis(100);

/// Bounds of a port's connections.
#[derive(Clone, Debug)]
pub struct DoorOptions {
    /// At the same time.
    pub connections: usize,
    /// At the same time from one IP address.
    pub connections_per_address: usize,
    /// How long each may take to begin.
    pub handshake_timeout: Duration,
}

impl Default for DoorOptions {
    fn default() -> Self {
        Self {
            connections: 4096,
            connections_per_address: 256,
            handshake_timeout: Duration::from_secs(5),
        }
    }
}

/// A port that is listened at.
pub struct Door {
    listener: TcpListener,
    shared: Arc<Shared>,
}

struct Shared {
    port: Port,
    tls: Option<Arc<NodeTls>>,
    options: DoorOptions,
    metrics: Arc<Metrics>,
    places: Mutex<Places>,
    repeats: Mutex<Repeats>,
}

/// Who is inside.
#[derive(Default)]
struct Places {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// A connection's place; free again when it is dropped.
struct Place {
    shared: Arc<Shared>,
    address: IpAddr,
}

impl Place {
    fn take(shared: &Arc<Shared>, address: IpAddr) -> Result<Self, ConnectionRefusal> {
        let mut places = shared.places.lock();
        if places.all >= shared.options.connections {
            return Err(ConnectionRefusal::Full);
        }
        let of_address = places.by_address.entry(address).or_default();
        if *of_address >= shared.options.connections_per_address {
            return Err(ConnectionRefusal::Address);
        }
        *of_address += 1;
        places.all += 1;
        shared.metrics.connections.of(shared.port).inc();
        Ok(Self {
            shared: Arc::clone(shared),
            address,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.metrics.connections.of(self.shared.port).dec();
        let mut places = self.shared.places.lock();
        places.all -= 1;
        if let Some(of_address) = places.by_address.get_mut(&self.address) {
            *of_address -= 1;
            if *of_address == 0 {
                places.by_address.remove(&self.address);
            }
        }
    }
}

/// Why a connection does not begin.
enum Refusal {
    /// It ended without a word, as those that only look whether somebody listens.
    Silent,
    /// Anything else, as text for the operator.
    Told(ConnectionRefusal, String),
}

impl From<io::Error> for Refusal {
    fn from(_: io::Error) -> Self {
        Self::Silent
    }
}

impl Door {
    /// A port for clients or for nodes.
    #[must_use]
    pub fn new(
        listener: TcpListener,
        port: Port,
        tls: Option<Arc<NodeTls>>,
        options: DoorOptions,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            listener,
            shared: Arc::new(Shared {
                port,
                tls,
                options,
                metrics,
                places: Mutex::default(),
                repeats: Mutex::default(),
            }),
        }
    }

    /// The connections that have begun, until nobody takes them any more. Must be called within a tokio runtime.
    pub(super) fn open(self) -> ReceiverStream<io::Result<Connection>> {
        let (begun, taken) = mpsc::channel(AHEAD);
        tokio::spawn(self.run(begun));
        ReceiverStream::new(taken)
    }

    async fn run(self, begun: mpsc::Sender<io::Result<Connection>>) {
        let shared = &self.shared;
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = begun.closed() => return,
            };
            let (stream, remote) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    let port = shared.port;
                    shared.say(&format!(
                        "the port of {} can't take a connection: {error}",
                        describe(port)
                    ));
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let place = match Place::take(shared, remote.ip()) {
                Ok(place) => place,
                Err(reason) => {
                    shared.refused(reason, &over(reason, &shared.options, remote.ip()));
                    continue;
                }
            };
            let (shared, begun) = (Arc::clone(shared), begun.clone());
            tokio::spawn(async move {
                let patience = shared.options.handshake_timeout;
                let caller = Caller {
                    address: Some(remote),
                    ..Caller::default()
                };
                let beginning = timeout(patience, begin(&shared, stream, caller, place));
                let connection = match beginning.await {
                    Ok(Ok(connection)) => connection,
                    Ok(Err(Refusal::Silent)) => return,
                    Ok(Err(Refusal::Told(reason, text))) => {
                        return shared.refused(reason, &format!("{}: {text}", remote.ip()));
                    }
                    Err(_) => {
                        let text =
                            format!("{}: nothing has begun within {patience:?}", remote.ip());
                        return shared.refused(ConnectionRefusal::Slow, &text);
                    }
                };
                // If the server is gone, so is the connection.
                let _ = begun.send(Ok(connection)).await;
            });
        }
    }
}

fn describe(port: Port) -> &'static str {
    match port {
        Port::Clients => "clients",
        Port::Nodes => "nodes",
    }
}

fn over(reason: ConnectionRefusal, options: &DoorOptions, address: IpAddr) -> String {
    match reason {
        ConnectionRefusal::Full => {
            format!(
                "there are {} connections, as many as limits.connections allows",
                options.connections
            )
        }
        _ => format!(
            "{address} has {} connections, as many as limits.connections_per_address allows",
            options.connections_per_address
        ),
    }
}

impl Shared {
    fn refused(&self, reason: ConnectionRefusal, text: &str) {
        self.metrics.connections_refused.of(self.port, reason).inc();
        self.say(&format!(
            "connection refused at the port of {}: {text}",
            describe(self.port)
        ));
    }

    fn say(&self, text: &str) {
        if self.repeats.lock().is_news(text) {
            tracing::warn!("{text}");
        }
    }
}

/// TLS, if the node has certificates, and the first bytes of HTTP/2.
async fn begin(
    shared: &Shared,
    mut stream: TcpStream,
    mut caller: Caller,
    place: Place,
) -> Result<Connection, Refusal> {
    stream.set_nodelay(true)?;
    let mut first = [0];
    if stream.peek(&mut first).await? == 0 {
        return Err(Refusal::Silent);
    }
    let wants_tls = first == [TLS_BEGINS];
    let io = match &shared.tls {
        None if wants_tls => {
            linger(stream).await;
            let text = "it wants TLS, and this node has no certificates (security.cert)";
            return Err(Refusal::Told(ConnectionRefusal::Tls, text.to_owned()));
        }
        None => Io::Plain(stream),
        Some(_) if !wants_tls => {
            let _ = stream.write_all(&plaintext_refused()).await;
            linger(stream).await;
            let text = "it speaks plaintext, and this port TLS only: clients need --ca";
            return Err(Refusal::Told(ConnectionRefusal::Tls, text.to_owned()));
        }
        Some(tls) => {
            let config = match shared.port {
                Port::Clients => tls.for_clients(),
                Port::Nodes => tls.for_nodes(),
            };
            let accepting = TlsAcceptor::from(config).accept(stream).into_fallible();
            match accepting.await {
                Ok(stream) => {
                    caller.identity = tls::identity_of(stream.get_ref().1.peer_certificates());
                    Io::Tls(Box::new(stream))
                }
                Err((error, stream)) => {
                    // It is to hear the alert, which a reset would outrun.
                    linger(stream).await;
                    let text = tls::explained(error).to_string();
                    return Err(Refusal::Told(ConnectionRefusal::Tls, text));
                }
            }
        }
    };
    let mut connection = Connection {
        io,
        preface_left: &[],
        caller,
        _place: place,
    };
    let mut preface = [0; PREFACE.len()];
    connection.read_exact(&mut preface).await?;
    if preface != *PREFACE {
        return Err(Refusal::Told(
            ConnectionRefusal::Protocol,
            "it does not begin with HTTP/2, which gRPC is carried by".to_owned(),
        ));
    }
    connection.preface_left = PREFACE;
    Ok(connection)
}

/// Ends a connection so that the other end reads what it was sent: a close with unread bytes would be a reset.
async fn linger(mut stream: TcpStream) {
    let _ = stream.shutdown().await;
    let drained = async {
        let mut unread = [0; 1024];
        let mut left = LINGER_BYTES;
        while let Ok(count @ 1..) = stream.read(&mut unread).await {
            left = left.saturating_sub(count);
            if left == 0 {
                break;
            }
        }
    };
    let _ = timeout(LINGER, drained).await;
}

/// What a client that speaks HTTP/2 without TLS can read: settings, and that the connection ends, with the reason.
fn plaintext_refused() -> Vec<u8> {
    const INADEQUATE_SECURITY: u32 = 0xc;
    const REASON: &[u8] = b"this port speaks TLS only: give --ca, --cert and --key";
    let mut bytes = vec![0, 0, 0, 4, 0, 0, 0, 0, 0];
    // Fits, as the reason above is short.
    let length = 8 + REASON.len() as u8;
    bytes.extend([0, 0, length, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend(INADEQUATE_SECURITY.to_be_bytes());
    bytes.extend(REASON);
    bytes
}

/// A connection that has begun.
pub(super) struct Connection {
    io: Io,
    /// What was read to see how it begins, for the server to read again.
    preface_left: &'static [u8],
    caller: Caller,
    _place: Place,
}

enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.preface_left.is_empty() {
            let (now, later) = self
                .preface_left
                .split_at(self.preface_left.len().min(buffer.remaining()));
            buffer.put_slice(now);
            self.preface_left = later;
            return Poll::Ready(Ok(()));
        }
        if self.caller.line.poll_cut(context) {
            let text = "the other end did not take what it had asked for";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, text)));
        }
        match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Io::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Io::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_write_vectored(context, pieces),
            Io::Tls(stream) => Pin::new(stream).poll_write_vectored(context, pieces),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Plain(stream) => stream.is_write_vectored(),
            Io::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_flush(context),
            Io::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Io::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
