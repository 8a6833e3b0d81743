//! What is put under load: a cluster of ours, or one of etcd, by the same operations.

mod etcd;
mod flotilla;

use clap::ValueEnum;

pub(crate) use self::{etcd::Etcd, flotilla::Flotilla};
use super::{load::Operation, servers::Servers};

/// How operations travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Transport {
    /// One gRPC call each
    Unary,
    /// On one stream per node, which joins what is there at the same moment into one message
    Stream,
    /// Several of one shard in one gRPC call
    Batch,
}

impl Transport {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Unary => "unary",
            Self::Stream => "stream",
            Self::Batch => "batch",
        }
    }
}

/// Who answers reads, and how new the answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Read {
    /// The leader, which makes sure that it still leads: the newest value
    Linearizable,
    /// A follower, which asks the leader how far it has to be: the newest value
    Follower,
    /// Any replica, at once: possibly an older value
    Serializable,
}

impl Read {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Linearizable => "linearizable",
            Self::Follower => "follower",
            Self::Serializable => "serializable",
        }
    }
}

/// Why an operation failed.
#[derive(Debug, Clone)]
pub(crate) struct Failed {
    /// One of a closed set.
    pub(crate) kind: &'static str,
    pub(crate) message: String,
}

/// See the module.
pub(crate) enum Target {
    Flotilla(Box<Flotilla>),
    Etcd(Box<Etcd>),
}

impl Target {
    /// Carries an operation out for a client; says whether it found what it looked for.
    pub(crate) async fn perform(
        &self,
        client: usize,
        operation: &Operation,
    ) -> Result<bool, Failed> {
        match self {
            Self::Flotilla(flotilla) => Ok(flotilla.perform(client, operation).await?),
            Self::Etcd(etcd) => etcd.perform(client, operation).await,
        }
    }

    /// Writes the pairs of an operation, by whatever way is fastest.
    pub(crate) async fn fill(&self, operation: &Operation) -> Result<(), Failed> {
        match self {
            Self::Flotilla(flotilla) => Ok(flotilla.fill(operation).await?),
            Self::Etcd(etcd) => etcd.fill(operation).await,
        }
    }

    /// Its processes.
    pub(crate) fn servers(&self) -> Servers {
        match self {
            Self::Flotilla(flotilla) => flotilla.servers(),
            Self::Etcd(etcd) => etcd.servers(),
        }
    }
}
