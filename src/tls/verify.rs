//! Which certificates of others are believed: those that an authority of the file has signed, are valid now and name a
//! node, or whoever else is expected, of the right cluster.

use std::sync::Arc;

use flotilla_shards::genesis::ClusterId;
use tokio_rustls::rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error as Rustls, OtherError,
    RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        ParsedCertificate, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

use super::{
    identity::{Facts, Identity, cluster_hex},
    provider,
};

/// Why a certificate that an authority has signed is not believed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refusal(String);

fn refusal(text: String) -> Rustls {
    let reason = OtherError(Arc::new(Refusal(text)));
    Rustls::InvalidCertificate(CertificateError::Other(reason))
}

/// Whom a certificate names.
///
/// # Errors
/// Nobody, or somebody of another cluster than the one that is asked for.
fn holder(certificate: &CertificateDer<'_>, ours: Option<ClusterId>) -> Result<Identity, Rustls> {
    let facts = Facts::of(certificate).and_then(Facts::holder);
    let (cluster, identity) = facts.map_err(|error| refusal(error.to_string()))?;
    match ours {
        Some(ours) if ours != cluster => Err(refusal(format!(
            "it names {identity} of cluster {}, but this side belongs to cluster {}",
            cluster_hex(&cluster),
            cluster_hex(&ours)
        ))),
        _ => Ok(identity),
    }
}

/// Whom the verified certificate of a connection names.
pub(crate) fn identity_of(chain: Option<&[CertificateDer<'_>]>) -> Option<Identity> {
    let leaf = chain?.first()?;
    Facts::of(leaf)
        .and_then(Facts::holder)
        .ok()
        .map(|(_, identity)| identity)
}

/// For those who connect: the other end must be a node.
#[derive(Debug)]
pub(super) struct OfNodes {
    roots: Arc<RootCertStore>,
    cluster: Option<ClusterId>,
    /// Checks signatures of handshakes.
    signatures: Arc<WebPkiServerVerifier>,
}

impl OfNodes {
    pub(super) fn new(
        roots: Arc<RootCertStore>,
        cluster: Option<ClusterId>,
    ) -> Result<Self, String> {
        let signatures =
            WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), provider());
        Ok(Self {
            signatures: signatures.build().map_err(|error| error.to_string())?,
            roots,
            cluster,
        })
    }
}

impl ServerCertVerifier for OfNodes {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Rustls> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = provider().signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            intermediates,
            now,
            algorithms,
        )?;
        match holder(end_entity, self.cluster)? {
            Identity::Node(_) => Ok(ServerCertVerified::assertion()),
            other => Err(refusal(format!("it names {other}; expected a node"))),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Rustls> {
        self.signatures.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Rustls> {
        self.signatures.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signatures.supported_verify_schemes()
    }
}

/// Who may connect to a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Welcome {
    /// Nodes.
    Nodes,
    /// Whoever has a certificate of the cluster.
    Holders,
    /// Also who has none.
    Everybody,
}

/// For those who are connected to.
#[derive(Debug)]
pub(super) struct OfCallers {
    /// For certificates that name nodes, and for those that name clients: an authority for clients makes no nodes.
    nodes: Arc<dyn ClientCertVerifier>,
    clients: Arc<dyn ClientCertVerifier>,
    cluster: ClusterId,
    welcome: Welcome,
}

impl OfCallers {
    pub(super) fn new(
        node_roots: &Arc<RootCertStore>,
        client_roots: &Arc<RootCertStore>,
        cluster: ClusterId,
        welcome: Welcome,
    ) -> Result<Self, String> {
        let chain = |roots: &Arc<RootCertStore>| {
            let chain = WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), provider());
            chain.build().map_err(|error| error.to_string())
        };
        Ok(Self {
            nodes: chain(node_roots)?,
            clients: chain(client_roots)?,
            cluster,
            welcome,
        })
    }
}

impl ClientCertVerifier for OfCallers {
    fn client_auth_mandatory(&self) -> bool {
        self.welcome != Welcome::Everybody
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // None: whoever has a certificate shows it, and hears why it is refused.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Rustls> {
        // Nothing that it says is believed before the chain is verified; it only tells which authority it must have.
        let named = holder(end_entity, Some(self.cluster));
        let chain = match &named {
            Ok(Identity::Client(_)) => &self.clients,
            _ => &self.nodes,
        };
        let verified = chain.verify_client_cert(end_entity, intermediates, now)?;
        match (named?, self.welcome) {
            (Identity::Client(name), Welcome::Nodes) => Err(refusal(format!(
                "it names client {name}, and this is the port for nodes: clients use the one of node.listen"
            ))),
            _ => Ok(verified),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Rustls> {
        self.nodes.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Rustls> {
        self.nodes.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.nodes.supported_verify_schemes()
    }
}
