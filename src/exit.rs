//! Exit codes: what a script or a supervisor can tell from how the process ended.

use std::io;

use crate::storage::{Fault, OpenError};

/// How the process ends. The numbers are part of the interface and never change their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// All done.
    Ok = 0,
    /// Something failed that has no code of its own.
    Error = 1,
    /// The command line or the configuration is wrong; nothing was done.
    Usage = 2,
    /// What was asked for does not exist.
    NotFound = 3,
    /// The cluster did not answer in time, or is not able to: try again.
    Unavailable = 4,
    /// Another process uses the data folder.
    DataLocked = 10,
    /// The data folder belongs to another cluster, another node, or another version, or comes from the past.
    ForeignData = 11,
    /// An address to listen at is in use or not of this machine.
    Address = 12,
    /// The disk is full.
    DiskFull = 13,
    /// A read, write or sync of the data folder failed; nothing that was not acknowledged before is trusted.
    SyncFailed = 14,
    /// What is on disk does not agree with its checksums or with itself.
    Corruption = 15,
    /// Ended by a second signal, or because draining took too long; requests may have been cut off.
    Forced = 16,
    /// The disk did not answer for longer than `storage.stall_limit`.
    Stalled = 17,
}

impl ExitCode {
    /// All codes with their meaning, in ascending order; the README lists them.
    pub const ALL: &'static [(Self, &'static str)] = &[
        (Self::Ok, "all done"),
        (
            Self::Error,
            "something failed that has no code of its own; the message says what",
        ),
        (
            Self::Usage,
            "the command line or the configuration is wrong; nothing was done",
        ),
        (Self::NotFound, "what was asked for does not exist"),
        (
            Self::Unavailable,
            "the cluster did not answer in time, or cannot: try again",
        ),
        (Self::DataLocked, "another process uses the data folder"),
        (
            Self::ForeignData,
            "the data folder belongs to another cluster, node or version, or is older than what other nodes have seen of it",
        ),
        (
            Self::Address,
            "an address to listen at is in use or not of this machine",
        ),
        (Self::DiskFull, "the disk is full"),
        (
            Self::SyncFailed,
            "a read, write or sync of the data folder failed",
        ),
        (
            Self::Corruption,
            "what is on disk does not agree with its checksums or with itself",
        ),
        (
            Self::Forced,
            "ended by a second signal or because draining took too long",
        ),
        (
            Self::Stalled,
            "the disk did not answer for longer than storage.stall_limit",
        ),
    ];

    /// The number that the operating system sees.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The code for an error of the operating system.
    pub fn of_io(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull,
            io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable => Self::Address,
            io::ErrorKind::NotFound => Self::NotFound,
            io::ErrorKind::TimedOut | io::ErrorKind::ConnectionRefused => Self::Unavailable,
            _ => Self::Error,
        }
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code.code())
    }
}

impl From<Fault> for ExitCode {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::DiskFull => Self::DiskFull,
            Fault::Io => Self::SyncFailed,
            Fault::Corruption => Self::Corruption,
            Fault::Stalled => Self::Stalled,
        }
    }
}

impl From<&OpenError> for ExitCode {
    fn from(error: &OpenError) -> Self {
        match error {
            OpenError::Locked { .. } => Self::DataLocked,
            OpenError::Format { .. } | OpenError::Foreign { .. } => Self::ForeignData,
            OpenError::Storage { source } => source.fault.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_complete() {
        assert!(
            ExitCode::ALL
                .windows(2)
                .all(|pair| pair[0].0.code() < pair[1].0.code())
        );
        assert_eq!(ExitCode::ALL.len(), 13);
    }

    #[test]
    fn errors_of_the_system_have_codes() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let taken = std::net::TcpListener::bind(listener.local_addr().expect("address"))
            .expect_err("in use");
        assert_eq!(ExitCode::of_io(&taken), ExitCode::Address);
        assert_eq!(
            ExitCode::of_io(&io::ErrorKind::StorageFull.into()),
            ExitCode::DiskFull
        );
    }
}
