//! Connecting: what clients and the outgoing connections of nodes show and demand.

use std::{
    fmt,
    future::poll_fn,
    io,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::SystemTime,
};

use arc_swap::ArcSwap;
use flotilla_shards::{genesis::ClusterId, ids::NodeId};
use futures_util::future::BoxFuture;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore, pki_types::ServerName, sign::SingleCertAndKey, version::TLS13,
    },
};
use tonic::{
    codegen::{Service, http::Uri},
    transport::{Channel, Endpoint, Error},
};

use super::{
    explained,
    files::{ClientFiles, Pair, TlsError, authorities, pair},
    identity::Identity,
    protocols, provider,
    verify::{OfNodes, identity_of},
};

/// What a client shows to nodes and demands of them. Clones share it: what one of them reads again, all have.
#[derive(Clone)]
pub struct ClientTls {
    config: Arc<ArcSwap<ClientConfig>>,
    files: Option<Arc<ClientFiles>>,
    /// The node that must be at the other end.
    expected: Option<NodeId>,
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls")
            .field("files", &self.files)
            .field("expected", &self.expected)
            .finish_non_exhaustive()
    }
}

impl ClientTls {
    /// Reads the files.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn load(files: ClientFiles) -> Result<Self, TlsError> {
        let config = read(&files)?;
        Ok(Self {
            config: Arc::new(ArcSwap::from_pointee(config)),
            files: Some(Arc::new(files)),
            expected: None,
        })
    }

    /// Reads the files again, for connections that are made from now on.
    ///
    /// # Errors
    /// What is wrong with them; what was read before stays in use.
    pub fn reload(&self) -> Result<(), TlsError> {
        if let Some(files) = &self.files {
            self.config.store(Arc::new(read(files)?));
        }
        Ok(())
    }

    /// What a node shows when it connects to others; the node replaces it when its own files change.
    pub(super) fn shared(config: Arc<ArcSwap<ClientConfig>>) -> Self {
        Self {
            config,
            files: None,
            expected: None,
        }
    }

    /// The same, for connections to one node, which must be at the other end.
    #[must_use]
    pub(crate) fn expecting(&self, node: NodeId) -> Self {
        Self {
            expected: Some(node),
            ..self.clone()
        }
    }

    async fn connect(self, uri: Uri) -> io::Result<Secured> {
        let host = uri.host().unwrap_or_default();
        let plain_host = host.trim_start_matches('[').trim_end_matches(']');
        let port = uri.port_u16().unwrap_or(443);
        let tcp = TcpStream::connect((plain_host, port)).await?;
        tcp.set_nodelay(true)?;
        // Nobody looks at it but proxies that route by it; a name that TLS can't carry is left out.
        let name = ServerName::try_from(plain_host.to_owned())
            .or_else(|_| ServerName::try_from("flotilla"))
            .map_err(io::Error::other)?;
        let connector = TlsConnector::from(self.config.load_full());
        let mut stream = connector.connect(name, tcp).await.map_err(|error| {
            if error.kind() == io::ErrorKind::UnexpectedEof {
                let text = "the other end closed the connection during the TLS handshake: it speaks no TLS, or has too \
                            many connections";
                return io::Error::new(error.kind(), text);
            }
            explained(error)
        })?;
        // The other end reads our certificate when this handshake is over, and then says something in any case: that the
        // session can be resumed, or that it refuses us, which would come too late to be told once requests are sent.
        let (socket, _) = stream.get_ref();
        socket.readable().await?;
        poll_fn(|context| {
            let polled = Pin::new(&mut stream).poll_read(context, &mut ReadBuf::new(&mut []));
            match polled {
                Poll::Ready(Err(error)) => Poll::Ready(Err(explained(error))),
                _ => Poll::Ready(Ok(())),
            }
        })
        .await?;
        let (_, session) = stream.get_ref();
        match (self.expected, identity_of(session.peer_certificates())) {
            (Some(wanted), Some(Identity::Node(found))) if wanted != found => {
                Err(io::Error::other(format!(
                    "node {found} is at this address, expected node {wanted}: check the addresses that the nodes advertise, \
                     and that each was given its own certificate"
                )))
            }
            _ => Ok(Secured(stream)),
        }
    }
}

/// What is shown and demanded, from parts.
pub(super) fn config(
    roots: Arc<RootCertStore>,
    cluster: Option<ClusterId>,
    pair: Option<&Pair>,
) -> Result<ClientConfig, String> {
    let verifier = OfNodes::new(roots, cluster)?;
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match pair {
        Some(pair) => {
            let shown = SingleCertAndKey::from(Arc::clone(&pair.key));
            builder.with_client_cert_resolver(Arc::new(shown))
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = protocols();
    Ok(config)
}

fn read(files: &ClientFiles) -> Result<ClientConfig, TlsError> {
    let roots = authorities(&files.ca)?;
    let now = SystemTime::now();
    let own = match &files.pair {
        Some((cert, key)) => Some(pair(cert, key, now)?),
        None => None,
    };
    let cluster = own.as_ref().map(|own| own.cluster);
    config(roots, cluster, own.as_ref()).map_err(|reason| TlsError::Refused {
        path: PathBuf::clone(&files.ca),
        reason,
    })
}

/// An endpoint at host:port, for calls that are made without the client library.
///
/// # Errors
/// The address makes no URI.
pub fn endpoint(address: &str, tls: Option<&ClientTls>) -> Result<Endpoint, Error> {
    let scheme = if tls.is_some() { "https" } else { "http" };
    Endpoint::from_shared(format!("{scheme}://{address}"))
}

/// Connects now.
///
/// # Errors
/// There is nobody, or TLS refuses who is there.
pub async fn connect(endpoint: &Endpoint, tls: Option<&ClientTls>) -> Result<Channel, Error> {
    match tls {
        Some(tls) => {
            endpoint
                .connect_with_connector(Connector(tls.clone()))
                .await
        }
        None => endpoint.connect().await,
    }
}

/// Connects when it is first used, and again when it broke.
pub(crate) fn connect_lazy(endpoint: &Endpoint, tls: Option<&ClientTls>) -> Channel {
    match tls {
        Some(tls) => endpoint.connect_with_connector_lazy(Connector(tls.clone())),
        None => endpoint.connect_lazy(),
    }
}

/// Makes TLS connections for tonic.
struct Connector(ClientTls);

impl Service<Uri> for Connector {
    type Response = TokioIo<Secured>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<TokioIo<Secured>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let tls = self.0.clone();
        Box::pin(async move { tls.connect(uri).await.map(TokioIo::new) })
    }
}

/// A connection whose errors say what to do: that this side's certificate is refused comes with the first answer only.
struct Secured(TlsStream<TcpStream>);

impl AsyncRead for Secured {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.0).poll_read(context, buffer);
        polled.map_err(explained)
    }
}

impl AsyncWrite for Secured {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
