//! Tests of the data folder as a whole. Crash images are copies of the folder, taken while it is in use, whose WAL is
//! torn within what was not synced.

mod crash;
mod folder;
mod log;
mod snapshot;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use flotilla_proto::v1 as proto;
use flotilla_shards::{
    engine::{LogAppend, Release},
    genesis::Split,
    ids::{NodeId, ShardId},
    raft::{Entry, EntryId, EntryKind, HardState, Index, ReplicaId, Term},
};

use super::*;

fn id(index: u64, term: u64) -> EntryId {
    EntryId {
        index: Index(index),
        term: Term(term),
    }
}

fn hard_state(term: u64, commit: u64) -> HardState {
    HardState {
        term: Term(term),
        vote: ReplicaId(1),
        commit: Index(commit),
    }
}

fn entry(index: u64, term: u64, data: impl Into<Bytes>) -> Entry {
    Entry {
        term: Term(term),
        index: Index(index),
        kind: EntryKind::Normal,
        data: data.into(),
    }
}

fn append(shard: u64, hard_state: HardState, entries: Vec<Entry>) -> LogAppend {
    LogAppend {
        shard: ShardId(shard),
        hard_state: Some(hard_state),
        entries,
        snapshot: None,
        must_sync: true,
        release: Release::default(),
    }
}

/// A cluster of one node with the meta shard and `shards` user shards.
fn genesis(shards: usize) -> Genesis {
    let node = proto::Node {
        node_id: 1,
        address: "127.0.0.1:1".into(),
        peer_address: String::new(),
        status_address: String::new(),
        store_id: Bytes::from_static(&[8; 16]),
    };
    Genesis::plan([7; 16], vec![node], &Split::Even(shards), 1, 1_000).expect("plans")
}

/// A folder that was opened and adopted.
fn adopted(data: &Path, shards: usize) -> Stores {
    let stores = open(data, &small()).expect("opens");
    stores.adopt(&genesis(shards), NodeId(1)).expect("adopts");
    stores.recover().expect("recovers");
    stores
}

/// Options with little memory.
fn small() -> StorageOptions {
    StorageOptions {
        log_memtable_bytes: 4 << 20,
        state_memtable_bytes: 4 << 20,
        block_cache_bytes: 1 << 20,
        ..StorageOptions::default()
    }
}

/// Copies a folder with everything in it but the locks, as a crash at this moment would leave it.
pub(crate) fn copy(from: &Path, to: &Path) {
    // RocksDB makes and deletes files in the background: a copy counts if the names were the same before and after.
    loop {
        let before = names(from);
        let whole = before.iter().all(|name| {
            let (from, to) = (from.join(name), to.join(name));
            fs::create_dir_all(to.parent().expect("it has a folder"))
                .expect("the folder can be made");
            fs::copy(from, to).is_ok()
        });
        if whole && names(from) == before {
            return;
        }
        fs::remove_dir_all(to).expect("the incomplete copy can be removed");
    }
}

/// All files below a folder, but for locks.
fn names(folder: &Path) -> BTreeSet<PathBuf> {
    let mut names = BTreeSet::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(below) = folders.pop() {
        for found in fs::read_dir(folder.join(&below)).into_iter().flatten() {
            let found = found.expect("the folder can be read");
            let name = below.join(found.file_name());
            match found.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(name),
                Ok(_) if !name.ends_with("LOCK") && !name.ends_with(LOCK_FILE) => {
                    names.insert(name);
                }
                _ => {}
            }
        }
    }
    names
}

/// The log database's newest WAL file.
fn newest_wal(data: &Path) -> PathBuf {
    let files = fs::read_dir(data.join("log")).expect("the folder can be read");
    let wals = files.map(|file| file.expect("the folder can be read").path());
    wals.filter(|path| path.extension().is_some_and(|e| e == "log"))
        .max()
        .expect("there is a WAL")
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).expect("the file exists").len()
}

/// Cuts a file, as a crash cuts what was not synced.
fn tear(path: &Path, len: u64) {
    let file = fs::File::options()
        .write(true)
        .open(path)
        .expect("the file opens");
    file.set_len(len).expect("the file can be cut");
}

/// Flips one bit of a file.
fn damage(path: &Path, offset: u64) {
    let mut bytes = fs::read(path).expect("the file can be read");
    bytes[offset as usize] ^= 1;
    fs::write(path, bytes).expect("the file can be written");
}
