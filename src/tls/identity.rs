//! Whose certificate it is: the name that a certificate of a cluster carries, as a URI in its subject alternative names.
//!
//! - `flotilla://CLUSTER/ca`: the authority that made the others,
//! - `flotilla://CLUSTER/node/ID`: a node,
//! - `flotilla://CLUSTER/client/NAME`: a client.
//!
//! CLUSTER is the id of the cluster in hex, which the authority draws and the cluster takes over when it is made: so a
//! certificate names the same two ids as the handshake between nodes, and both are known before there is a cluster.

use std::{
    fmt,
    hash::{BuildHasher as _, Hasher as _, RandomState},
    net::SocketAddr,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Context,
    time::{Duration, SystemTime},
};

use flotilla_shards::{genesis::ClusterId, ids::NodeId};
use futures_util::task::AtomicWaker;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

const SCHEME: &str = "flotilla://";
/// Characters of a client's name at most.
const CLIENT_CHARS_MAX: usize = 64;

/// Who holds a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Identity {
    /// A node of the cluster.
    Node(NodeId),
    /// A client, by its name.
    Client(Arc<str>),
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => write!(f, "node {node}"),
            Self::Client(name) => write!(f, "client {name}"),
        }
    }
}

/// A connection, as those see it who may have to end it. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Line(Arc<Cut>);

#[derive(Debug, Default)]
struct Cut {
    done: AtomicBool,
    reader: AtomicWaker,
}

impl Line {
    /// Ends it, whatever is still on its way.
    pub(crate) fn cut(&self) {
        self.0.done.store(true, Ordering::Release);
        self.0.reader.wake();
    }

    /// Whether it was ended.
    pub(crate) fn is_cut(&self) -> bool {
        self.0.done.load(Ordering::Acquire)
    }

    /// The same; if it was not, the task is woken when it is.
    pub(crate) fn poll_cut(&self, context: &Context<'_>) -> bool {
        self.0.reader.register(context.waker());
        self.is_cut()
    }
}

/// Who is at the other end of a connection: in the extensions of each request that came over it.
#[derive(Clone, Debug, Default)]
pub struct Caller {
    /// What its certificate says, which was verified; none if it came without one.
    pub identity: Option<Identity>,
    /// Where it comes from.
    pub address: Option<SocketAddr>,
    /// The connection.
    pub(crate) line: Line,
}

/// What a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// It makes others.
    Authority,
    /// It proves who its holder is.
    Holder(Identity),
}

/// The name in a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// The cluster.
    pub cluster: ClusterId,
    /// Whom it names there.
    pub subject: Subject,
}

impl Name {
    /// The name of a node or client.
    #[must_use]
    pub fn of(cluster: ClusterId, identity: Identity) -> Self {
        Self {
            cluster,
            subject: Subject::Holder(identity),
        }
    }
}

/// The id of a new cluster. All that it needs is to differ from others; it is no secret.
pub fn new_cluster() -> ClusterId {
    // Keyed by the system's random source.
    let random = || RandomState::new().build_hasher().finish();
    (u128::from(random()) << 64 | u128::from(random())).to_le_bytes()
}

/// 16 bytes as hex.
pub fn cluster_hex(cluster: &ClusterId) -> String {
    format!("{:032x}", u128::from_be_bytes(*cluster))
}

/// 32 hex digits as the id of a cluster.
pub fn read_cluster(text: &str) -> Option<ClusterId> {
    let digits = text.len() == 32 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    let number = u128::from_str_radix(text, 16).ok().filter(|_| digits)?;
    Some(number.to_be_bytes())
}

/// Whether a client may have this name: it goes into URIs and logs as it is.
pub fn is_client_name(name: &str) -> bool {
    let sound = |byte: u8| byte.is_ascii_alphanumeric() || b"-._@".contains(&byte);
    (1..=CLIENT_CHARS_MAX).contains(&name.len()) && name.bytes().all(sound)
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", cluster_hex(&self.cluster))?;
        match &self.subject {
            Subject::Authority => f.write_str("/ca"),
            Subject::Holder(Identity::Node(node)) => write!(f, "/node/{node}"),
            Subject::Holder(Identity::Client(name)) => write!(f, "/client/{name}"),
        }
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let broken = || {
            NameError::Broken(
                text.chars()
                    .take(120)
                    .flat_map(char::escape_debug)
                    .collect(),
            )
        };
        let rest = text.strip_prefix(SCHEME).ok_or_else(broken)?;
        let mut parts = rest.split('/');
        let cluster = parts.next().and_then(read_cluster).ok_or_else(broken)?;
        let subject = match (parts.next(), parts.next(), parts.next()) {
            (Some("ca"), None, None) => Subject::Authority,
            (Some("node"), Some(id), None) => match id.parse() {
                Ok(id) if id > 0 => Subject::Holder(Identity::Node(NodeId(id))),
                _ => return Err(broken()),
            },
            (Some("client"), Some(name), None) if is_client_name(name) => {
                Subject::Holder(Identity::Client(name.into()))
            }
            _ => return Err(broken()),
        };
        Ok(Self { cluster, subject })
    }
}

/// Why a certificate has no name of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Its bytes are no certificate.
    #[error("it can't be parsed: {0}")]
    Malformed(String),
    /// It was not made for Flotilla.
    #[error(
        "it holds no name of a cluster (a URI flotilla://… among its subject alternative names)"
    )]
    Missing,
    /// It was made for more than one.
    #[error("it holds more than one name of a cluster; expected one")]
    Several,
    /// A URI of ours that says nothing.
    #[error(
        "\"{0}\" is no name of a cluster's certificate: expected flotilla://CLUSTER/ca, …/node/ID or …/client/NAME"
    )]
    Broken(String),
}

/// What is read from a certificate beside its signature, which rustls checks.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The name, if it has one.
    pub name: Result<Name, NameError>,
    /// Valid from here…
    pub from: SystemTime,
    /// …until here.
    pub until: SystemTime,
    /// Whether it may be used by both ends of a connection, as that of a node must.
    pub both_ways: bool,
}

impl Facts {
    /// Reads a certificate in DER.
    ///
    /// # Errors
    /// The bytes are no certificate.
    pub fn of(der: &[u8]) -> Result<Self, NameError> {
        let malformed = |error: &dyn fmt::Display| NameError::Malformed(error.to_string());
        let (_, certificate) = X509Certificate::from_der(der).map_err(|error| malformed(&error))?;
        let names = certificate
            .subject_alternative_name()
            .map_err(|error| malformed(&error))?;
        let names = names.iter().flat_map(|names| &names.value.general_names);
        let mut ours = names.filter_map(|name| match name {
            GeneralName::URI(uri) if uri.starts_with(SCHEME) => Some(*uri),
            _ => None,
        });
        let name = match (ours.next(), ours.next()) {
            (None, _) => Err(NameError::Missing),
            (Some(_), Some(_)) => Err(NameError::Several),
            (Some(uri), None) => uri.parse(),
        };
        let usage = certificate
            .extended_key_usage()
            .map_err(|error| malformed(&error))?;
        let both_ways = usage.is_none_or(|usage| {
            usage.value.any || (usage.value.server_auth && usage.value.client_auth)
        });
        let validity = certificate.validity();
        let time = |seconds: i64| {
            SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
        };
        Ok(Self {
            name,
            from: time(validity.not_before.timestamp()),
            until: time(validity.not_after.timestamp()),
            both_ways,
        })
    }

    /// Who holds the certificate, in which cluster.
    ///
    /// # Errors
    /// It has no name, or is an authority's.
    pub fn holder(self) -> Result<(ClusterId, Identity), NameError> {
        match self.name? {
            Name {
                cluster,
                subject: Subject::Holder(identity),
            } => Ok((cluster, identity)),
            Name { .. } => Err(NameError::Missing),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_broken_ones_are_refused() {
        let cluster = *b"0123456789abcdef";
        let hex = "30313233343536373839616263646566";
        for (subject, rest) in [
            (Subject::Authority, "ca"),
            (Subject::Holder(Identity::Node(NodeId(7))), "node/7"),
            (
                Subject::Holder(Identity::Client("web-1@eu.example".into())),
                "client/web-1@eu.example",
            ),
        ] {
            let name = Name { cluster, subject };
            assert_eq!(name.to_string(), format!("flotilla://{hex}/{rest}"));
            assert_eq!(name.to_string().parse(), Ok(name));
        }
        let long = "x".repeat(65);
        for wrong in [
            "",
            "node",
            "ca/",
            "node/0",
            "node/x",
            "node/1/2",
            "client/",
            "client/a b",
            "client/ä",
            &format!("client/{long}"),
        ] {
            let uri = format!("flotilla://{hex}/{wrong}");
            assert!(uri.parse::<Name>().is_err(), "{uri}");
        }
        for wrong in [
            "https://x/ca".to_owned(),
            format!("flotilla://{}/ca", &hex[1..]),
            format!("flotilla://+{}/ca", &hex[1..]),
        ] {
            assert!(wrong.parse::<Name>().is_err(), "{wrong}");
        }
        assert!(matches!(
            Facts::of(b"garbage"),
            Err(NameError::Malformed(_))
        ));
    }
}
