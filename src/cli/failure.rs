//! How a command ends badly: one exit code per kind, and a word on what to do next.

use std::{fmt, io, path::PathBuf};

use crate::{client, config::ConfigError, exit::ExitCode};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The cluster's answer, or its silence.
    #[error(transparent)]
    Client(#[from] client::Error),
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Arguments that parse but contradict each other or name nothing.
    #[error("{0}")]
    Usage(String),
    /// There is no such key or shard.
    #[error("{0}")]
    NotFound(String),
    /// The condition of `cas` did not hold.
    #[error("{0}")]
    Condition(String),
    /// The command ended, but not with all that was asked for.
    #[error("{0}")]
    Incomplete(String),
    /// A file, or standard input or output.
    #[error("{}: {source}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Whoever reads our output has seen enough; not a failure.
    #[error("standard output is closed")]
    PipeClosed,
    /// None of the nodes that were asked answered.
    #[error("{0}")]
    NobodyAnswers(String),
    /// A node did not start, or ended.
    #[error("{message}")]
    Ended {
        /// What the process ends with.
        code: ExitCode,
        /// Why.
        message: String,
    },
}

/// The result of a command.
pub(super) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// A failure to read or write `path`.
    pub(super) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File {
            path: path.into(),
            source,
        }
    }

    /// A failure to write to standard output.
    pub(super) fn stdout(source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::BrokenPipe {
            Self::PipeClosed
        } else {
            Self::File {
                path: "standard output".into(),
                source,
            }
        }
    }

    /// The process's exit code; `None` is success.
    pub(super) fn code(&self) -> Option<ExitCode> {
        use client::Error;
        Some(match self {
            Self::PipeClosed => return None,
            Self::Config(_) | Self::Usage(_) => ExitCode::Usage,
            Self::NotFound(_) => ExitCode::NotFound,
            Self::NobodyAnswers(_) => ExitCode::Unavailable,
            Self::Ended { code, .. } => *code,
            Self::Condition(_) | Self::Incomplete(_) | Self::File { .. } => ExitCode::Error,
            Self::Client(error) => match error {
                Error::NotLeader { .. }
                | Error::EpochMismatch { .. }
                | Error::Busy { .. }
                | Error::Unavailable { .. }
                | Error::OutcomeUnknown { .. }
                | Error::NotInitialized { .. }
                | Error::ShuttingDown { .. }
                | Error::Unreachable { .. }
                | Error::ConnectionLost { .. }
                | Error::DeadlineExceeded { .. } => ExitCode::Unavailable,
                Error::InvalidArgument { .. }
                | Error::SessionUnknown { .. }
                | Error::CrossShard { .. }
                | Error::Unauthenticated { .. }
                | Error::PermissionDenied { .. }
                | Error::Internal { .. }
                | Error::Protocol { .. } => ExitCode::Error,
            },
        })
    }

    /// What to do next, if the message does not say so itself.
    pub(super) fn hint(&self) -> Option<&'static str> {
        use client::Error;
        Some(match self {
            Self::Client(error) => match error {
                // It runs, and the message says what to do.
                Error::Unreachable { reason, .. } if reason.contains("certificate") => return None,
                Error::Unreachable { .. } => {
                    "is the node running? Name other nodes with --endpoints HOST:PORT,…"
                }
                Error::NotInitialized { .. } => {
                    "make the cluster first: flotilla init --endpoints HOST:PORT"
                }
                Error::Unavailable { .. }
                | Error::NotLeader { .. }
                | Error::DeadlineExceeded { .. }
                | Error::ShuttingDown { .. } => {
                    "try again; `flotilla status` shows which nodes and shards are missing, --timeout waits longer"
                }
                Error::Busy { .. } => {
                    "the cluster has more work than it can do: try again, with fewer requests at once"
                }
                Error::OutcomeUnknown { .. } | Error::ConnectionLost { .. } => {
                    "read the key to see whether the write took effect, before you write it again"
                }
                Error::CrossShard { .. } => {
                    "a batch must stay within one shard: `flotilla shard show KEY` tells which one holds a key"
                }
                Error::EpochMismatch { .. } | Error::SessionUnknown { .. } => "try again",
                Error::Protocol { .. } => {
                    "do client and nodes have the same version? Compare `flotilla version` and `flotilla status`"
                }
                Error::Internal { .. } => "the node's log has the details",
                Error::PermissionDenied { .. } => "`flotilla auth whoami` shows what you may do",
                Error::InvalidArgument { .. } | Error::Unauthenticated { .. } => return None,
            },
            Self::NobodyAnswers(_) => {
                "are the nodes running? Name others with --endpoints HOST:PORT,…"
            }
            Self::Condition(_) => "read the key again and decide anew",
            Self::Config(_)
            | Self::Usage(_)
            | Self::NotFound(_)
            | Self::Incomplete(_)
            | Self::File { .. }
            | Self::Ended { .. }
            | Self::PipeClosed => return None,
        })
    }
}

/// Prints what went wrong to standard error and gives the exit code.
pub(super) fn report(failure: &Failure, color: bool) -> ExitCode {
    let Some(code) = failure.code() else {
        return ExitCode::Ok;
    };
    // Standard error may be closed; there is nobody left to tell then.
    let tell = |line: fmt::Arguments<'_>| drop(io::Write::write_fmt(&mut io::stderr(), line));
    let (bold_red, bold, plain) = if color {
        ("\x1b[1;31m", "\x1b[1m", "\x1b[0m")
    } else {
        ("", "", "")
    };
    tell(format_args!("{bold_red}error:{plain} {failure}\n"));
    if let Some(hint) = failure.hint() {
        tell(format_args!("{bold}hint:{plain} {hint}\n"));
    }
    code
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Error;

    #[test]
    fn exit_codes_are_as_promised() {
        let message = String::new;
        let cases: [(Failure, Option<ExitCode>); 12] = [
            (Failure::Usage(message()), Some(ExitCode::Usage)),
            (Failure::NotFound(message()), Some(ExitCode::NotFound)),
            (Failure::Condition(message()), Some(ExitCode::Error)),
            (Failure::Incomplete(message()), Some(ExitCode::Error)),
            (
                Failure::NobodyAnswers(message()),
                Some(ExitCode::Unavailable),
            ),
            (Failure::stdout(io::ErrorKind::BrokenPipe.into()), None),
            (
                Failure::stdout(io::ErrorKind::StorageFull.into()),
                Some(ExitCode::Error),
            ),
            (
                Error::InvalidArgument { message: message() }.into(),
                Some(ExitCode::Error),
            ),
            (
                Error::Unavailable { message: message() }.into(),
                Some(ExitCode::Unavailable),
            ),
            (
                Error::OutcomeUnknown { message: message() }.into(),
                Some(ExitCode::Unavailable),
            ),
            (
                Error::Unreachable {
                    address: message(),
                    reason: message(),
                }
                .into(),
                Some(ExitCode::Unavailable),
            ),
            (
                Error::CrossShard { message: message() }.into(),
                Some(ExitCode::Error),
            ),
        ];
        for (failure, code) in cases {
            assert_eq!(failure.code(), code, "{failure:?}");
        }
    }
}
