//! Certificates and keys as they lie on disk. Everything is checked before anything of it is used: what can be wrong with
//! a file is said with its path and with what to do.

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use flotilla_shards::{genesis::ClusterId, ids::NodeId};
use tokio_rustls::rustls::{
    Error as Rustls, RootCertStore,
    client::verify_server_cert_signed_by_trust_anchor,
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject},
    server::ParsedCertificate,
    sign::CertifiedKey,
};

use super::{
    explain,
    identity::{Facts, Identity, NameError, Subject, cluster_hex},
    provider,
};

/// Bytes of one file at most; a chain of certificates has some kilobytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The files of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFiles {
    /// Certificates of the authorities that nodes' certificates come from (PEM).
    pub ca: PathBuf,
    /// The same for clients' certificates; none: `ca` as well.
    pub client_ca: Option<PathBuf>,
    /// The node's certificate, with those between it and the authority behind it (PEM).
    pub cert: PathBuf,
    /// Its private key (PEM).
    pub key: PathBuf,
}

/// The files of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientFiles {
    /// Certificates of the authorities that nodes' certificates come from (PEM).
    pub ca: PathBuf,
    /// The client's certificate and its private key (PEM), if it has one.
    pub pair: Option<(PathBuf, PathBuf)>,
}

/// What is wrong with certificates or keys.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read.
    #[error("{} ({what}) can't be read: {error}; check the path and who may read it", path.display())]
    Unreadable {
        /// What it should hold.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{} holds no {what} in PEM (-----BEGIN …-----){}: `flotilla cert` makes such files", path.display(), detail)]
    Content {
        /// What it should hold.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// What the parser said, behind a colon, or nothing.
        detail: String,
    },
    /// Key and certificate are not a pair.
    #[error(
        "the key in {} does not belong to the certificate in {}: give both files of one `flotilla cert`", key.display(),
        cert.display()
    )]
    Mismatch {
        /// The certificate.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// The certificate's time is over, or has not come.
    #[error(
        "the certificate in {} is valid from {} to {}, and now it is {}: {remedy}", cert.display(),
        humantime::format_rfc3339_seconds(*from), humantime::format_rfc3339_seconds(*until),
        humantime::format_rfc3339_seconds(*now)
    )]
    Time {
        /// The certificate.
        cert: PathBuf,
        /// Valid from here…
        from: SystemTime,
        /// …to here.
        until: SystemTime,
        /// The machine's clock.
        now: SystemTime,
        /// What to do.
        remedy: &'static str,
    },
    /// The certificate names nobody.
    #[error("the certificate in {}: {error}; `flotilla cert create-node` and `create-client` make such", cert.display())]
    Name {
        /// The certificate.
        cert: PathBuf,
        /// What is wrong.
        error: NameError,
    },
    /// The certificate is that of somebody else.
    #[error("the certificate in {} names {found}, expected {expected}: give the file that was made for it", cert.display())]
    Holder {
        /// The certificate.
        cert: PathBuf,
        /// Whose it is.
        found: String,
        /// Whose it should be.
        expected: String,
    },
    /// The certificate comes from another authority.
    #[error("the certificate in {} is not one of the authority in {}: {reason}", cert.display(), ca.display())]
    Untrusted {
        /// The certificate.
        cert: PathBuf,
        /// The authority's.
        ca: PathBuf,
        /// What rustls said.
        reason: String,
    },
    /// The certificate may not be used at both ends of a connection.
    #[error(
        "the certificate in {} was made for one end of a connection only (extended key usage); a node's must allow server \
         and client authentication", cert.display()
    )]
    OneWay {
        /// The certificate.
        cert: PathBuf,
    },
    /// Something that TLS itself refuses.
    #[error("TLS can't be set up with {}: {reason}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// What rustls said.
        reason: String,
    },
}

/// The content of a file, which is not longer than such files are.
pub(super) fn read(path: &Path, what: &'static str) -> Result<Vec<u8>, TlsError> {
    let mut content = Vec::new();
    let read = fs::File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut content));
    let unreadable = |error| TlsError::Unreadable {
        what,
        path: path.to_owned(),
        error,
    };
    read.map_err(unreadable)?;
    if content.len() as u64 > FILE_BYTES_MAX {
        return Err(unreadable(io::ErrorKind::FileTooLarge.into()));
    }
    Ok(content)
}

/// The certificates in a file; at least one.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let what = "certificate";
    let content = read(path, what)?;
    let wrong = |detail: String| TlsError::Content {
        what,
        path: path.to_owned(),
        detail,
    };
    let certificates = CertificateDer::pem_slice_iter(&content).collect::<Result<Vec<_>, _>>();
    let certificates = certificates.map_err(|error| wrong(format!(": {error}")))?;
    if certificates.is_empty() {
        return Err(wrong(String::new()));
    }
    Ok(certificates)
}

/// Those who are believed when they vouch for others.
pub(super) fn authorities(path: &Path) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| TlsError::Refused {
            path: path.to_owned(),
            reason: explain(&error),
        })?;
    }
    Ok(Arc::new(roots))
}

/// A certificate with its key.
pub(super) struct Pair {
    pub(super) key: Arc<CertifiedKey>,
    pub(super) cluster: ClusterId,
    pub(super) identity: Identity,
    pub(super) until: SystemTime,
}

/// Reads a certificate and its key, and checks them against each other and the clock.
pub(super) fn pair(cert: &Path, key: &Path, now: SystemTime) -> Result<Pair, TlsError> {
    let chain = certificates(cert)?;
    let what = "private key";
    let private = PrivateKeyDer::from_pem_slice(&read(key, what)?);
    let private = private.map_err(|error| TlsError::Content {
        what,
        path: key.to_owned(),
        detail: format!(": {error}"),
    })?;
    let name = |error| TlsError::Name {
        cert: cert.to_owned(),
        error,
    };
    let leaf = chain.first().map(AsRef::as_ref).unwrap_or_default();
    let facts = Facts::of(leaf).map_err(name)?;
    let (from, until) = (facts.from, facts.until);
    if now < from || now >= until {
        return Err(TlsError::Time {
            cert: cert.to_owned(),
            from,
            until,
            now,
            remedy: if now < from {
                "check the clock of this machine and of the one that made it"
            } else {
                "make a new one by `flotilla cert create-node` or `create-client`"
            },
        });
    }
    if facts
        .name
        .as_ref()
        .is_ok_and(|name| name.subject == Subject::Authority)
    {
        return Err(TlsError::Holder {
            cert: cert.to_owned(),
            found: "the authority itself".to_owned(),
            expected: "a node's or client's".to_owned(),
        });
    }
    let (cluster, identity) = facts.holder().map_err(name)?;
    let certified = CertifiedKey::from_der(chain, private, &provider());
    let certified = certified.map_err(|error| match error {
        Rustls::InconsistentKeys(_) => TlsError::Mismatch {
            cert: cert.to_owned(),
            key: key.to_owned(),
        },
        error => TlsError::Refused {
            path: key.to_owned(),
            reason: explain(&error),
        },
    })?;
    Ok(Pair {
        key: Arc::new(certified),
        cluster,
        identity,
        until,
    })
}

/// A node's certificate with its key: what [`pair`] checks, that it is one of a node, and that the other nodes will
/// believe it.
pub(super) fn node_pair(
    files: &NodeFiles,
    roots: &RootCertStore,
    now: SystemTime,
) -> Result<(Pair, NodeId), TlsError> {
    let cert = || files.cert.clone();
    let pair = pair(&files.cert, &files.key, now)?;
    let Identity::Node(node) = pair.identity else {
        return Err(TlsError::Holder {
            cert: cert(),
            found: format!(
                "{} of cluster {}",
                pair.identity,
                cluster_hex(&pair.cluster)
            ),
            expected: "a node's".to_owned(),
        });
    };
    let untrusted = |error: Rustls| TlsError::Untrusted {
        cert: cert(),
        ca: files.ca.clone(),
        reason: explain(&error),
    };
    let (leaf, between) =
        (pair.key.cert.split_first()).ok_or_else(|| untrusted(Rustls::NoCertificatesPresented))?;
    let parsed = ParsedCertificate::try_from(leaf).map_err(untrusted)?;
    let since = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let algorithms = provider().signature_verification_algorithms;
    let time = UnixTime::since_unix_epoch(since);
    verify_server_cert_signed_by_trust_anchor(&parsed, roots, between, time, algorithms.all)
        .map_err(untrusted)?;
    if !Facts::of(leaf).is_ok_and(|facts| facts.both_ways) {
        return Err(TlsError::OneWay { cert: cert() });
    }
    Ok((pair, node))
}
