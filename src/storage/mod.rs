//! Everything that a node keeps on disk.
//!
//! ```text
//! data/
//!   lock          held by the process that uses the folder
//!   log/          RocksDB with a WAL, synced: entries, hard states (log.rs, written by writer.rs)
//!   state/        RocksDB without a WAL: the applied state (state.rs, written by runtime::applier)
//!   snapshots/    received snapshots that are not installed yet (snapshot.rs)
//! ```
//!
//! The log is the truth. The state database's rows and applied indexes reach the disk when it is flushed, and the log
//! is cut only below what is flushed; after a crash the rest is replayed. How the two may lie to each other at a start
//! is a table in `flotilla_shards::recovery`.
//!
//! What may not live here: gRPC, the router, the server, and what a key or value means.

mod error;
mod filter;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod identity;
mod log;
mod records;
mod rows;
mod sizes;
mod snapshot;
mod state;
mod stats;
mod writer;

#[cfg(test)]
pub(crate) mod tests;

use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
    sync::Arc,
    thread::{self, JoinHandle},
};

use flotilla_metrics::Database;
use flotilla_proto::v1 as proto;
use flotilla_shards::{
    engine::RecoveredReplica,
    genesis::{self, GENESIS_INDEX, GENESIS_TERM, Genesis},
    ids::NodeId,
    kv::JournalLimits,
    raft::EntryId,
    recovery::{self, Recovered, RecoveryError},
};
use parking_lot::Mutex;

pub use error::{Fault, OpenError, StorageError};
pub use identity::FORMAT;
pub use log::{LogStore, RocksLog, RocksLogReader, Written};
pub use snapshot::{Export, Import, ImportError};
pub use state::{RocksState, View};
pub use stats::DatabaseStats;
pub use writer::{Install, OnDurable, OnFatal, StorageWriter};

const LOCK_FILE: &str = "lock";

/// Sizes and bounds of the two databases, in bytes where nothing else is said.
#[derive(Clone, Debug)]
pub struct StorageOptions {
    /// One memtable of the log database.
    pub log_memtable_bytes: usize,
    /// Memtables of the log database, the ones being flushed included.
    pub log_memtables: i32,
    /// One memtable of the state database.
    pub state_memtable_bytes: usize,
    /// Memtables of the state database, the ones being flushed included.
    pub state_memtables: i32,
    /// Cache of the state database's blocks.
    pub block_cache_bytes: usize,
    /// Threads for flushes and compactions, of both databases together.
    pub background_jobs: i32,
    /// Files that each database keeps open.
    pub open_files: i32,
    /// When how far shards have come is written, and how.
    pub journal: JournalLimits,
}

impl Default for StorageOptions {
    /// Some 200 MiB when everything is full; a node at rest has less.
    fn default() -> Self {
        Self {
            log_memtable_bytes: 16 << 20,
            log_memtables: 3,
            state_memtable_bytes: 32 << 20,
            state_memtables: 3,
            block_cache_bytes: 64 << 20,
            background_jobs: 2,
            open_files: 512,
            journal: JournalLimits::default(),
        }
    }
}

/// An opened data folder. The folder stays locked until this is dropped.
pub struct Stores {
    path: PathBuf,
    identity: Mutex<proto::Identity>,
    /// The logs of all shards.
    pub log: Arc<RocksLog>,
    /// The applied state of all shards.
    pub state: Arc<RocksState>,
    _lock: File,
}

/// Opens a data folder, or makes one, finishes what an interrupted start began, and notes this start. [`Stores::recover`]
/// must follow before the logs are used.
///
/// # Errors
/// Someone else has the folder, it is not the folder of one node, or disk or content failed.
pub fn open(data: &Path, options: &StorageOptions) -> Result<Stores, OpenError> {
    const PLACE: &str = "storage::open";
    let io = |path: &Path| {
        let path = path.to_owned();
        move |error| StorageError::io(PLACE, &path, &error)
    };
    fs::create_dir_all(data).map_err(io(data))?;
    let lock_path = data.join(LOCK_FILE);
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&lock_path)
        .map_err(io(&lock_path))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(OpenError::Locked {
                path: data.to_owned(),
            });
        }
        Err(TryLockError::Error(error)) => return Err(io(&lock_path)(error).into()),
    }
    let folder = |name| {
        let path = data.join(name);
        fs::create_dir_all(&path).map_err(io(&path))?;
        Ok::<_, StorageError>(path)
    };
    let (log, state, snapshots) = (folder("log")?, folder("state")?, folder("snapshots")?);
    // The names must survive a crash as well as what will be in the folders.
    sync_dir(data)?;
    if let Some(parent) = data.canonicalize().map_err(io(data))?.parent() {
        sync_dir(parent)?;
    }
    records::check(&log)?;
    records::check(&state)?;
    let log = RocksLog::open(&log, options)?;
    let state = RocksState::open(&state, &snapshots, options)?;
    let identity = identity::reconcile(data, &log, &state)?;
    log.recover_marks()?;
    log.begin(identity::random_start()?)?;
    Ok(Stores {
        path: data.to_owned(),
        identity: Mutex::new(identity),
        log: Arc::new(log),
        state: Arc::new(state),
        _lock: lock,
    })
}

impl Stores {
    /// Where the databases stand.
    #[must_use]
    pub fn stats(&self) -> [(Database, DatabaseStats); 2] {
        [
            (Database::Log, self.log.stats()),
            (Database::State, self.state.stats()),
        ]
    }

    /// Whose folder this is; without a genesis until the node is part of a cluster.
    #[must_use]
    pub fn identity(&self) -> proto::Identity {
        self.identity.lock().clone()
    }

    /// Makes the folder that of `node` in a new cluster, with the initial state of each replica that the
    /// genesis places here; durable on return. Doing it again with the same arguments does no harm.
    ///
    /// # Errors
    /// The folder belongs to another cluster or node, or the disk failed.
    pub fn adopt(&self, genesis: &Genesis, node: NodeId) -> Result<(), OpenError> {
        let mut identity = self.identity.lock();
        let adopted = proto::Identity {
            genesis: Some(genesis.into()),
            node_id: node.0,
            ..identity.clone()
        };
        if identity.genesis.is_some() {
            return identity::same(&self.path, &identity, &adopted);
        }
        // Whoever has a genesis has the replicas too, hence this order.
        self.state.begin(genesis.rows(node))?;
        let shards = genesis.shards_on(node).map(|descriptor| descriptor.shard);
        let position = EntryId {
            index: GENESIS_INDEX,
            term: GENESIS_TERM,
        };
        self.log
            .adopt(&adopted, shards, position, genesis::hard_state())?;
        self.state.set_identity(&adopted)?;
        *identity = adopted;
        Ok(())
    }

    /// Reads the whole log, checks it against the state, finishes interrupted installations of snapshots, writes out how far
    /// shards have come, and returns all replicas of this node by shard.
    ///
    /// # Errors
    /// What was found cannot come from a crash; see the table of cases.
    pub fn recover(&self) -> Result<Vec<RecoveredReplica>, OpenError> {
        const PLACE: &str = "storage::recover";
        let logs = self.log.recover()?;
        if self.identity.lock().genesis.is_none() {
            // An adoption may have been interrupted; it will begin anew.
            return Ok(Vec::new());
        }
        let recovered = recovery::recover(logs, self.state.replicas()?, |shard, index| {
            self.log.read_term(shard, index)
        });
        let recovered = recovered.map_err(|error| match error {
            RecoveryError::Read(error) => error,
            error => StorageError::corrupt(PLACE, error.to_string()),
        })?;
        let mut replicas = Vec::with_capacity(recovered.len());
        for Recovered { replica, reset } in recovered {
            if let Some(label) = reset {
                let (shard, applied) = (replica.descriptor.shard, replica.applied);
                tracing::info!(
                    shard = shard.0,
                    index = applied.index.0,
                    "finishing a snapshot: {label}"
                );
                self.log.reset(shard, applied, replica.hard_state)?;
            }
            replicas.push(replica);
        }
        self.state.recover_positions()?;
        Ok(replicas)
    }
}

/// Makes the names in a folder durable.
fn sync_dir(path: &Path) -> Result<(), StorageError> {
    File::open(path)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| StorageError::io("storage::sync_dir", path, &error))
}

/// What both databases have in common.
///
/// `more` is in RocksDB's own syntax, for what its C API has no function for. It must come first: options that are made from
/// a string don't keep alive what was set before.
fn db_options(options: &StorageOptions, more: &str) -> Result<rocksdb::Options, rocksdb::Error> {
    let mut db_options = rocksdb::Options::default().get_options_from_string(more)?;
    db_options.create_if_missing(true);
    db_options.set_paranoid_checks(true);
    db_options.set_max_background_jobs(options.background_jobs);
    db_options.set_max_open_files(options.open_files);
    // RocksDB's own text log: enough for a diagnosis, no more.
    db_options.set_max_log_file_size(4 << 20);
    db_options.set_keep_log_file_num(4);
    db_options.set_stats_dump_period_sec(0);
    stats::count(&mut db_options);
    Ok(db_options)
}

/// Starts a named thread.
pub(crate) fn spawn(
    name: &str,
    body: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, StorageError> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .map_err(|error| StorageError::io("storage::spawn", Path::new(name), &error))
}
