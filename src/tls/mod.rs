//! TLS between processes: certificates, who they name, and what both ends of a connection demand of each other.
//!
//! - [`identity`]: the name in a certificate, and the [`Caller`] that requests carry.
//! - `files`: certificates and keys as they lie on disk, and all that can be wrong with them.
//! - [`create`]: making certificates.
//! - `verify`: which certificates of others are believed.
//! - [`node`]: what a node shows and demands; read again when the files change.
//! - [`client`]: what clients and outgoing connections of nodes show and demand.
//!
//! All is TLS 1.3. Who a node is says the URI in its certificate, never the host name that it was reached by: addresses
//! change, and proxies stand in between. What may not live here: what a caller may do, and sockets that listen.

pub mod client;
pub mod create;
mod files;
pub mod identity;
pub mod node;
mod verify;

use std::{io, sync::Arc};

use tokio_rustls::rustls::{
    AlertDescription, CertificateError, Error as Rustls, crypto::CryptoProvider, crypto::ring,
};

pub(crate) use self::verify::identity_of;
pub use self::{
    client::ClientTls,
    files::{ClientFiles, NodeFiles, TlsError},
    identity::{Caller, Identity},
    node::NodeTls,
};

/// The one cryptography of this process; a configuration that would take the process's default could meet another.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// What both ends speak above TLS.
fn protocols() -> Vec<Vec<u8>> {
    vec![b"h2".to_vec()]
}

/// What TLS says, with what an operator can do about it.
pub fn explain(error: &Rustls) -> String {
    match error {
        Rustls::InvalidCertificate(error) => match error {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "the certificate of the other end comes from another authority than those in this side's CA file: both \
                 sides need certificates of one `flotilla cert create-ca`"
                    .to_owned()
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                format!(
                    "the certificate of the other end can't be used ({error}): renew it there (`flotilla cert create-node` \
                     or `create-client`)"
                )
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                format!("the certificate of the other end is not valid yet ({error}): check the clocks of both machines")
            }
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                "the certificate of the other end was not made for its side of a connection: a client's can't serve as a \
                 node's, nor the reverse"
                    .to_owned()
            }
            CertificateError::Other(reason) => format!("the certificate of the other end is refused: {}", reason.0),
            other => format!("the certificate of the other end is refused: {other}"),
        },
        Rustls::NoCertificatesPresented => {
            "the other end has shown no certificate; this port demands one (--cert and --key of a client, security.cert and \
             security.key of a node)"
                .to_owned()
        }
        Rustls::AlertReceived(AlertDescription::CertificateRequired) => {
            "the other end demands a certificate: give --cert and --key".to_owned()
        }
        Rustls::AlertReceived(
            alert @ (AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRevoked
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::AccessDenied
            | AlertDescription::DecryptError),
        ) => format!(
            "the other end refuses this side's certificate ({alert:?}): check from which authority it comes, until when it \
             is valid and whom it names; the log of the other end says which of these it is"
        ),
        Rustls::InvalidMessage(_) => {
            "the other end does not speak TLS: it was started without certificates, or this is the port of something else"
                .to_owned()
        }
        other => format!("TLS: {other}"),
    }
}

/// An error of a TLS connection; those of TLS itself are explained.
pub(crate) fn explained(error: io::Error) -> io::Error {
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Rustls>());
    match inner.map(explain) {
        Some(text) => io::Error::new(error.kind(), text),
        None => error,
    }
}
