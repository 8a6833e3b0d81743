//! Why a benchmark can't go on.

use crate::client;

/// See the module.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Flags that contradict each other, or ask for what the target does not have.
    #[error("{0}")]
    Usage(String),
    /// A cluster of ours said so.
    #[error(transparent)]
    Client(#[from] client::Error),
    /// A target that can't be reached, or that refuses.
    #[error("{0}")]
    Target(String),
    /// A file, or what the system says of itself.
    #[error("{what}: {source}")]
    Io {
        /// Which one.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// It began, but what it shows is not all that was asked for.
    #[error("{0}")]
    Incomplete(String),
}

/// The outcome of what a benchmark does.
pub type Result<T = (), E = Error> = std::result::Result<T, E>;

impl Error {
    /// What the system said of `what`.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io {
            what: what.into(),
            source,
        }
    }
}
