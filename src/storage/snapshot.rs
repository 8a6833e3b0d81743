//! A shard's applied state on its way from node to node.
//!
//! **Out:** [`Export`] pins a view of the state database and yields the shard's rows as chunks; a thread reads ahead
//! while the caller sends. **In:** [`Import`] checks the chunks and writes them as SST files; they become part of the
//! state database by one atomic ingestion ([`RocksState::install`]), at the moment when the log writer gets to the
//! append that carries the snapshot.
//!
//! | step of a received snapshot | a crash before the next step leaves | the next start |
//! |---|---|---|
//! | chunks are written to a folder `*.partial` | part of it | deletes it |
//! | files are synced, the folder is renamed | files that nobody has heard of | deletes them; the leader sends again |
//! | the files are ingested, with deletions of old rows | the state ahead of the log | resets the log (`shards::recovery`) |
//! | the log is cut to begin behind the snapshot | everything | - |
//!
//! A chunk's checksum continues the one before it, so chunks can't be lost, doubled or exchanged unnoticed.

use std::{
    fs, io,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use crossbeam_channel::Receiver;
use flotilla_proto::v1 as proto;
use flotilla_shards::{
    ids::ShardId,
    keys::{self, RowKey, RowRange},
    kv::{ShardState, positions},
    raft::{EntryId, Index, SnapshotMeta},
};
use rocksdb::SstFileWriter;

use super::{RocksState, StorageError, state::sst_options, sync_dir};

/// Rows of a chunk, in bytes; a chunk holds one row at least.
const CHUNK_BYTES: usize = 256 << 10;
/// Chunks that are read ahead of the caller.
const CHUNKS_AHEAD: usize = 2;
/// Received snapshots of a shard that are kept until one is installed, the newest ones. Which of them Raft has taken is not
/// known here, and the log writer may be about to install any of those: there must be room for all that can arrive while
/// one write of the log takes its longest.
pub(super) const KEPT: usize = 16;

const PARTIAL: &str = "partial";

/// Continues `checksum` over a row.
pub(super) fn checksum_row(checksum: u32, key: &[u8], value: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(checksum);
    for part in [key, value] {
        hasher.update(&(part.len() as u32).to_be_bytes());
        hasher.update(part);
    }
    hasher.finalize()
}

/// A shard's state as of one moment, chunk by chunk; the last one has `total_rows`. Headers are the sender's part.
pub struct Export {
    /// Position and membership of the state.
    pub meta: SnapshotMeta,
    chunks: Receiver<Result<proto::SnapshotChunk, StorageError>>,
}

impl Export {
    /// Pins the state of `shard` and starts to read it. The view is let go when all is read or the export is dropped.
    ///
    /// # Errors
    /// There is no such replica, or the database failed.
    pub fn start(state: Arc<RocksState>, shard: ShardId) -> Result<Self, StorageError> {
        const PLACE: &str = "storage::snapshot::export";
        let (meta_tx, meta) = crossbeam_channel::bounded(1);
        let (chunks_tx, chunks) = crossbeam_channel::bounded(CHUNKS_AHEAD);
        super::spawn("snapshot-export", move || {
            let view = state.view();
            let replica = match view.shard_state(shard) {
                Ok(Some(replica)) => replica,
                Ok(None) => {
                    let detail = format!("there is no state of shard {shard}");
                    return drop(meta_tx.send(Err(StorageError::corrupt(PLACE, detail))));
                }
                Err(error) => return drop(meta_tx.send(Err(error))),
            };
            let found = SnapshotMeta {
                index: replica.applied_index,
                term: replica.applied_term,
                conf_state: replica.conf_state.clone(),
            };
            if meta_tx.send(Ok(found)).is_err() {
                return;
            }
            let mut packer = Packer::default();
            let mut wanted = true;
            let read = positions::visit_shard(&view, &replica, &mut |key, value| {
                if let Some(chunk) = packer.push(key, value) {
                    wanted = chunks_tx.send(Ok(chunk)).is_ok();
                }
                if wanted {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            });
            let last = match read {
                Ok(()) if wanted => Ok(packer.last()),
                Ok(()) => return,
                Err(error) => Err(StorageError::view(PLACE, &error)),
            };
            let _ = chunks_tx.send(last);
        })?;
        let meta = meta.recv().map_err(|_| {
            StorageError::corrupt(PLACE, format!("the reader of shard {shard} has panicked"))
        })??;
        Ok(Self { meta, chunks })
    }
}

impl Iterator for Export {
    type Item = Result<proto::SnapshotChunk, StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.chunks.recv().ok()
    }
}

/// Rows to chunks.
#[derive(Default)]
struct Packer {
    rows: Vec<proto::SnapshotRow>,
    bytes: usize,
    checksum: u32,
    total: u64,
}

impl Packer {
    fn push(&mut self, key: &[u8], value: &[u8]) -> Option<proto::SnapshotChunk> {
        self.checksum = checksum_row(self.checksum, key, value);
        self.bytes += key.len() + value.len();
        self.total += 1;
        let (key, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
        self.rows.push(proto::SnapshotRow { key, value });
        (self.bytes >= CHUNK_BYTES).then(|| self.take())
    }

    fn take(&mut self) -> proto::SnapshotChunk {
        self.bytes = 0;
        proto::SnapshotChunk {
            header: None,
            rows: std::mem::take(&mut self.rows),
            checksum: self.checksum,
            total_rows: None,
        }
    }

    fn last(mut self) -> proto::SnapshotChunk {
        let total_rows = Some(self.total);
        proto::SnapshotChunk {
            total_rows,
            ..self.take()
        }
    }
}

/// Why a received snapshot is not taken. Nothing of it stays; the leader may send it again.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// It does not hold what it must.
    #[error("the received snapshot of shard {shard} is not usable: {what}")]
    Malformed {
        /// Whose state it should be.
        shard: ShardId,
        /// What was found, and what was expected.
        what: String,
    },
    /// It could not be written.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A snapshot that is being received. Dropped before [`Import::finish`], it leaves nothing behind.
pub struct Import {
    state: Arc<RocksState>,
    shard: ShardId,
    position: EntryId,
    /// Where the files are; taken when it is finished.
    folder: Option<PathBuf>,
    /// Data, sessions and state, as [`keys::shard_rows`].
    files: [SstFileWriter<'static>; 3],
    checksum: u32,
    total: u64,
    announced: Option<u64>,
    first_data: Option<Bytes>,
    last_data: Option<Bytes>,
    last_row: Bytes,
    found: Option<ShardState>,
}

impl Import {
    const PLACE: &str = "storage::snapshot::import";

    /// Begins to receive the state of `shard` at `position`.
    ///
    /// # Errors
    /// The files cannot be made.
    pub fn begin(
        state: Arc<RocksState>,
        shard: ShardId,
        position: EntryId,
    ) -> Result<Self, StorageError> {
        // Two leaders may be sending at the same time, one of them not knowing that it no longer leads.
        static ATTEMPTS: AtomicU64 = AtomicU64::new(0);
        let attempt = ATTEMPTS.fetch_add(1, Relaxed);
        let folder = state
            .snapshots()
            .join(format!("{shard}-{attempt}.{PARTIAL}"));
        fs::create_dir(&folder).map_err(|error| StorageError::io(Self::PLACE, &folder, &error))?;
        let files = FILES.map(|_| SstFileWriter::create(sst_options()));
        let import = Self {
            state,
            shard,
            position,
            folder: Some(folder.clone()),
            files,
            checksum: 0,
            total: 0,
            announced: None,
            first_data: None,
            last_data: None,
            last_row: Bytes::new(),
            found: None,
        };
        for (file, name) in import.files.iter().zip(FILES) {
            file.open(folder.join(name)).map_err(rocks)?;
        }
        Ok(import)
    }

    /// Takes the next chunk.
    ///
    /// # Errors
    /// It does not continue the ones before it, or holds rows that are not the shard's; or the disk failed.
    pub fn chunk(&mut self, chunk: proto::SnapshotChunk) -> Result<(), ImportError> {
        if let Some(total) = self.announced {
            return Err(self.malformed(format!(
                "a chunk follows the last one, which announced {total} rows"
            )));
        }
        for row in chunk.rows {
            self.row(row)?;
        }
        if chunk.checksum != self.checksum {
            let (found, expected) = (chunk.checksum, self.checksum);
            return Err(self.malformed(format!(
                "checksum {found:08x}, but the rows give {expected:08x}"
            )));
        }
        self.announced = chunk.total_rows;
        Ok(())
    }

    fn row(&mut self, row: proto::SnapshotRow) -> Result<(), ImportError> {
        let proto::SnapshotRow { key, value } = row;
        if key <= self.last_row {
            let (key, last) = (keys::shown(&key), keys::shown(&self.last_row));
            return Err(self.malformed(format!("row {key} follows row {last}")));
        }
        let file = match keys::decode(key.clone()) {
            Ok(RowKey::User(_)) if !self.shard.is_meta() => DATA,
            Ok(RowKey::Meta(_)) if self.shard.is_meta() => DATA,
            Ok(RowKey::Session { shard, .. }) if shard == self.shard => SESSIONS,
            Ok(RowKey::State(shard)) if shard == self.shard => STATE,
            Ok(_) => {
                let key = keys::shown(&key);
                return Err(self.malformed(format!("row {key} is not one of the shard's")));
            }
            Err(error) => return Err(self.malformed(error.to_string())),
        };
        match file {
            DATA => {
                self.first_data.get_or_insert_with(|| key.clone());
                self.last_data = Some(key.clone());
            }
            STATE => {
                let found = ShardState::decode(value.clone())
                    .map_err(|error| self.malformed(error.to_string()))?;
                self.found = Some(found);
            }
            _ => {}
        }
        self.files[file].put(&key, &value).map_err(rocks)?;
        self.checksum = checksum_row(self.checksum, &key, &value);
        self.total += 1;
        self.last_row = key;
        Ok(())
    }

    /// Checks that the whole is there and makes it durable, to be installed by [`RocksState::install`].
    ///
    /// # Errors
    /// Something is missing or contradicts the announcement; or the disk failed.
    pub fn finish(mut self) -> Result<SnapshotMeta, ImportError> {
        if self.announced != Some(self.total) {
            let (total, announced) = (self.total, self.announced);
            return Err(self.malformed(format!("{total} rows, but {announced:?} were announced")));
        }
        let Some(found) = self.found.take() else {
            return Err(self.malformed("the row of the shard's state is missing".into()));
        };
        let position = EntryId {
            index: found.applied_index,
            term: found.applied_term,
        };
        if position != self.position {
            let announced = self.position;
            return Err(self.malformed(format!(
                "it ends at {position:?}, but {announced:?} was announced"
            )));
        }
        if found.descriptor.shard != self.shard {
            return Err(self.malformed(format!("it describes shard {}", found.descriptor.shard)));
        }
        let ranges = keys::shard_rows(&found.descriptor);
        self.check_data(&ranges[DATA])?;
        for ((file, range), kind) in self.files.iter_mut().zip(&ranges).zip(FILES) {
            // Hides what the replica has there; it does not reach the rows of its own file.
            if kind != FILES[STATE] {
                file.delete_range(&range.start, &range.end).map_err(rocks)?;
            }
            file.finish().map_err(rocks)?;
        }
        let folder = self.folder.take().expect("set until here");
        self.state.received(self.shard, position, &folder)?;
        Ok(SnapshotMeta {
            index: position.index,
            term: position.term,
            conf_state: found.conf_state,
        })
    }

    /// The rows of data ascend, so the first and the last tell of all.
    fn check_data(&self, range: &RowRange) -> Result<(), ImportError> {
        let ends = [self.first_data.as_ref(), self.last_data.as_ref()];
        match ends.into_iter().flatten().find(|key| !range.contains(key)) {
            Some(key) => Err(self.malformed(format!(
                "row {} is outside of the shard's range",
                keys::shown(key)
            ))),
            None => Ok(()),
        }
    }

    fn malformed(&self, what: String) -> ImportError {
        ImportError::Malformed {
            shard: self.shard,
            what,
        }
    }
}

impl Drop for Import {
    fn drop(&mut self) {
        if let Some(folder) = &self.folder
            && let Err(error) = fs::remove_dir_all(folder)
        {
            tracing::warn!(
                "cannot remove {}: {error}; the next start will",
                folder.display()
            );
        }
    }
}

const FILES: [&str; 3] = ["data.sst", "sessions.sst", "state.sst"];
const DATA: usize = 0;
const SESSIONS: usize = 1;
const STATE: usize = 2;

fn rocks(error: rocksdb::Error) -> StorageError {
    StorageError::rocks(Import::PLACE, &error)
}

/// The folders of received snapshots, beside the state database.
pub(super) struct Received {
    folder: PathBuf,
}

impl Received {
    const PLACE: &str = "storage::snapshot::received";

    /// Nothing in the folder outlives a restart: no one remembers that it was received.
    pub(super) fn open(folder: &Path) -> Result<Self, StorageError> {
        for (path, _) in entries(folder)? {
            fs::remove_dir_all(&path)
                .map_err(|error| StorageError::io(Self::PLACE, &path, &error))?;
        }
        Ok(Self {
            folder: folder.to_owned(),
        })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Gives the files of a complete snapshot their name, durably, and removes older ones of the shard.
    pub(super) fn add(
        &self,
        shard: ShardId,
        position: EntryId,
        partial: &Path,
    ) -> Result<(), StorageError> {
        sync_dir(partial)?;
        let path = self.path(shard, position);
        // Received twice: the same content under the same name.
        remove(&path)?;
        fs::rename(partial, &path).map_err(|error| StorageError::io(Self::PLACE, &path, &error))?;
        sync_dir(&self.folder)?;
        let mut received = self.of(shard)?;
        received.sort_unstable_by_key(|(index, _)| std::cmp::Reverse(*index));
        for (_, old) in received.into_iter().skip(KEPT) {
            remove(&old)?;
        }
        Ok(())
    }

    /// The files to ingest.
    pub(super) fn files(&self, shard: ShardId, position: EntryId) -> [PathBuf; 3] {
        let path = self.path(shard, position);
        FILES.map(|file| path.join(file))
    }

    /// Removes the snapshots of a shard up to an index.
    pub(super) fn remove(&self, shard: ShardId, upto: Index) -> Result<(), StorageError> {
        for (index, path) in self.of(shard)? {
            if index <= upto {
                remove(&path)?;
            }
        }
        Ok(())
    }

    fn path(&self, shard: ShardId, position: EntryId) -> PathBuf {
        self.folder
            .join(format!("{shard}-{}-{}", position.index, position.term))
    }

    /// Complete snapshots of a shard, with their index.
    fn of(&self, shard: ShardId) -> Result<Vec<(Index, PathBuf)>, StorageError> {
        let found = entries(&self.folder)?
            .into_iter()
            .filter_map(|(path, name)| {
                let mut numbers = name.split('-').map(str::parse::<u64>);
                match (numbers.next()?, numbers.next()?, numbers.next()?) {
                    (Ok(found), Ok(index), Ok(_)) if found == shard.0 => Some((Index(index), path)),
                    _ => None,
                }
            });
        Ok(found.collect())
    }
}

fn remove(folder: &Path) -> Result<(), StorageError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(StorageError::io(Received::PLACE, folder, &error))
        }
        _ => Ok(()),
    }
}

/// Paths and names in a folder.
fn entries(folder: &Path) -> Result<Vec<(PathBuf, String)>, StorageError> {
    let failed = |error| StorageError::io(Received::PLACE, folder, &error);
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        found.push((
            entry.path(),
            entry.file_name().to_string_lossy().into_owned(),
        ));
    }
    Ok(found)
}
