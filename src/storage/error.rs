//! What can go wrong with the disk, as far as someone can do something about it.
//!
//! Two kinds. [`OpenError`] ends a start: it says what was found, what was expected and what to do. [`StorageError`]
//! ends a running node: after a failed write, a failed sync or a failed checksum nothing on this disk is trusted any
//! more, and no call is repeated as if nothing had happened.

use std::{
    io,
    path::{Path, PathBuf},
};

use flotilla_shards::kv::{ApplyError, ViewError};

/// What an operator has to look after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No space, quota or file descriptors are left.
    DiskFull,
    /// The operating system refused a read, a write or a sync.
    Io,
    /// What was read is not what was written.
    Corruption,
    /// The operating system has not answered for so long that the disk must be taken for dead.
    Stalled,
}

/// A failed access to the data folder.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{place}: {detail}")]
pub struct StorageError {
    /// What kind of trouble it is.
    pub fault: Fault,
    /// Which step failed, by its place in the code.
    pub place: &'static str,
    /// What the layer below said, with the file or the row.
    pub detail: String,
}

impl StorageError {
    /// What was read contradicts itself or its surroundings.
    pub(crate) fn corrupt(place: &'static str, detail: impl Into<String>) -> Self {
        Self {
            fault: Fault::Corruption,
            place,
            detail: detail.into(),
        }
    }

    /// RocksDB refused.
    pub(crate) fn rocks(place: &'static str, error: &rocksdb::Error) -> Self {
        let text = error.as_ref();
        // RocksDB passes the text of `strerror` on; its C interface has no code for it.
        let fault = if text.contains("No space left") || text.contains("Disk quota exceeded") {
            Fault::DiskFull
        } else if error.kind() == rocksdb::ErrorKind::Corruption
            // A file that another one names, as `CURRENT` names the manifest, is gone, or its name is not what was written.
            || text.contains("No such file or directory")
        {
            Fault::Corruption
        } else {
            Fault::Io
        };
        Self {
            fault,
            place,
            detail: text.to_owned(),
        }
    }

    /// A view of the state database could not be read.
    pub(crate) fn view(place: &'static str, error: &ViewError) -> Self {
        match error.0.downcast_ref::<Self>() {
            Some(error) => error.clone(),
            None => Self {
                fault: Fault::Io,
                place,
                detail: error.0.to_string(),
            },
        }
    }

    /// A replica's state could not be read, or makes no sense.
    pub(crate) fn state(place: &'static str, error: &ApplyError) -> Self {
        match error {
            ApplyError::View(error) => Self::view(place, error),
            error => Self::corrupt(place, error.to_string()),
        }
    }

    /// The operating system refused.
    pub(crate) fn io(place: &'static str, path: &Path, error: &io::Error) -> Self {
        let fault = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Fault::DiskFull,
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => Fault::Corruption,
            _ => Fault::Io,
        };
        Self {
            fault,
            place,
            detail: format!("{}: {error}", path.display()),
        }
    }
}

/// Why a data folder was not opened. Nothing in it was changed, but for steps that finish what an interrupted start or
/// snapshot began.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error(
        "{} is in use by another process (it holds the lock on {}): stop that process, or give this one a folder of \
         its own with --data",
        .path.display(), .path.join(super::LOCK_FILE).display()
    )]
    Locked {
        /// The data folder.
        path: PathBuf,
    },
    /// The folder was written by a version that lays it out differently.
    #[error(
        "{} has the layout {found}; this version knows {expected} only: start it with the version that wrote it, or \
         with a newer one that can read both", .path.display()
    )]
    Format {
        /// The data folder.
        path: PathBuf,
        /// The layout that was found.
        found: u32,
        /// The layout that this version writes.
        expected: u32,
    },
    /// The parts of the folder, or the folder and its node, do not belong together.
    #[error("{} is not the folder of this node: {what} is {found}, expected {expected}: {advice}", .path.display())]
    Foreign {
        /// The data folder.
        path: PathBuf,
        /// What differs.
        what: &'static str,
        /// What was found.
        found: String,
        /// What was expected.
        expected: String,
        /// What to do.
        advice: &'static str,
    },
    /// Disk or content failed.
    #[error("cannot open the data folder: {source}{}", advice(.source.fault))]
    Storage {
        /// What failed.
        #[from]
        source: StorageError,
    },
}

fn advice(fault: Fault) -> &'static str {
    match fault {
        Fault::DiskFull => ": free some space and start again; nothing acknowledged is lost",
        Fault::Io | Fault::Stalled => {
            ": see to the disk and to the rights on the folder, then start again"
        }
        Fault::Corruption => {
            ": the disk returned something else than what was written; do not start from this folder again, keep it \
             for analysis and bring the node back as a new one"
        }
    }
}
