//! Making certificates: an authority for a cluster, and what it issues to nodes and clients.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use flotilla_shards::genesis::ClusterId;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData as _, SanType,
};

use super::{
    files::{TlsError, certificates, read},
    identity::{Facts, Identity, Name, Subject, cluster_hex},
};

/// A new certificate is valid from a little before it is made, as clocks differ.
const CLOCKS_DIFFER: Duration = Duration::from_secs(5 * 60);

/// When a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// From here…
    pub from: SystemTime,
    /// …to here.
    pub until: SystemTime,
}

impl Validity {
    /// From now on.
    #[must_use]
    pub fn lasting(time: Duration) -> Self {
        let now = SystemTime::now();
        Self {
            from: now - CLOCKS_DIFFER,
            until: now + time,
        }
    }
}

/// Why a certificate was not made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The authority's files can't be used.
    #[error(transparent)]
    Authority(#[from] TlsError),
    /// Its key can't be read.
    #[error("{path} holds no private key that can sign: {reason}")]
    Key {
        /// The file.
        path: String,
        /// What rcgen said.
        reason: String,
    },
    /// A host that none can have.
    #[error("{host:?} is neither a host name nor an IP address")]
    Host {
        /// What was given.
        host: String,
    },
    /// It would be valid longer than what it rests on.
    #[error(
        "the authority's certificate in {path} is valid until {}, so none that it makes can be valid longer: ask for fewer \
         --days, or make a new authority", humantime::format_rfc3339_seconds(*until)
    )]
    Outlives {
        /// The authority's file.
        path: String,
        /// Its end.
        until: SystemTime,
    },
    /// Something else that rcgen refuses.
    #[error("the certificate could not be made: {0}")]
    Refused(#[from] rcgen::Error),
}

/// A certificate and its private key, both in PEM.
#[derive(Clone)]
pub struct Issued {
    /// The certificate.
    pub cert: String,
    /// The key: a secret.
    pub key: String,
}

/// Who vouches for nodes and clients of one cluster.
pub struct Authority {
    cluster: ClusterId,
    issuer: Issuer<'static, KeyPair>,
    /// Where it lies, and its end.
    file: Option<(String, SystemTime)>,
}

impl Authority {
    /// A new one.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub fn new(cluster: ClusterId, validity: Validity) -> Result<(Self, Issued), CreateError> {
        let hex = cluster_hex(&cluster);
        let name = Name {
            cluster,
            subject: Subject::Authority,
        };
        let mut params = params(&name, &format!("Flotilla CA {}", &hex[..8]), validity)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let issued = Issued {
            cert: params.self_signed(&key)?.pem(),
            key: key.serialize_pem(),
        };
        let authority = Self {
            cluster,
            issuer: Issuer::new(params, key),
            file: None,
        };
        Ok((authority, issued))
    }

    /// Reads one that was made before.
    ///
    /// # Errors
    /// What is wrong with the files.
    pub fn load(cert: &Path, key: &Path) -> Result<Self, CreateError> {
        let wrong = |reason: String| CreateError::Key {
            path: key.display().to_string(),
            reason,
        };
        let certificate = certificates(cert)?.swap_remove(0);
        let named = |error| TlsError::Name {
            cert: cert.to_owned(),
            error,
        };
        let facts = Facts::of(&certificate).map_err(named)?;
        let (cluster, until) = match facts.name.map_err(named)? {
            Name {
                cluster,
                subject: Subject::Authority,
            } => (cluster, facts.until),
            other => {
                return Err(CreateError::Authority(TlsError::Holder {
                    cert: cert.to_owned(),
                    found: other.to_string(),
                    expected: "an authority (flotilla://CLUSTER/ca)".to_owned(),
                }));
            }
        };
        let pem = read(key, "private key")?;
        let pem = String::from_utf8(pem).map_err(|error| wrong(error.to_string()))?;
        let pair = KeyPair::from_pem(&pem).map_err(|error| wrong(error.to_string()))?;
        let public = x509_parser::parse_x509_certificate(&certificate);
        let public = public.map(|(_, certificate)| certificate.public_key().raw.to_vec());
        if public.ok() != Some(pair.subject_public_key_info()) {
            return Err(CreateError::Authority(TlsError::Mismatch {
                cert: cert.to_owned(),
                key: key.to_owned(),
            }));
        }
        Ok(Self {
            cluster,
            issuer: Issuer::from_ca_cert_der(&certificate, pair)?,
            file: Some((cert.display().to_string(), until)),
        })
    }

    /// The cluster that it is for.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// Makes a certificate. `hosts` are for programs other than Flotilla's own, which look at the host name.
    ///
    /// # Errors
    /// A host that is none, or a validity beyond the authority's own.
    pub fn issue(
        &self,
        identity: &Identity,
        hosts: &[String],
        validity: Validity,
    ) -> Result<Issued, CreateError> {
        if let Some((path, until)) = &self.file
            && validity.until > *until
        {
            return Err(CreateError::Outlives {
                path: path.clone(),
                until: *until,
            });
        }
        let name = Name::of(self.cluster, identity.clone());
        let mut params = params(&name, &identity.to_string(), validity)?;
        for host in hosts {
            let name = match host.parse() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) if is_host_name(host) => SanType::DnsName(host.as_str().try_into()?),
                Err(_) => return Err(CreateError::Host { host: host.clone() }),
            };
            params.subject_alt_names.push(name);
        }
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match identity {
            // Nodes connect to each other in both directions.
            Identity::Node(_) => vec![
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ],
            Identity::Client(_) => vec![ExtendedKeyUsagePurpose::ClientAuth],
        };
        let key = KeyPair::generate()?;
        Ok(Issued {
            cert: params.signed_by(&key, &self.issuer)?.pem(),
            key: key.serialize_pem(),
        })
    }
}

/// Whether it may be the name of a host, or of all in a domain (`*.example`).
fn is_host_name(host: &str) -> bool {
    let label = |label: &str| {
        let sound = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        !label.is_empty() && label.bytes().all(sound)
    };
    host.strip_prefix("*.")
        .unwrap_or(host)
        .split('.')
        .all(label)
}

fn params(name: &Name, common: &str, validity: Validity) -> Result<CertificateParams, CreateError> {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, "Flotilla");
    subject.push(DnType::CommonName, common);
    let mut params = CertificateParams::default();
    params.distinguished_name = subject;
    params.subject_alt_names = vec![SanType::URI(name.to_string().try_into()?)];
    params.not_before = validity.from.into();
    params.not_after = validity.until.into();
    Ok(params)
}
