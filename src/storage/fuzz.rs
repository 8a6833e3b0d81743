//! Rows of the databases and snapshots of any content, at the gates where storage reads them.

use std::{fs, ops::ControlFlow, path::Path, path::PathBuf, sync::Arc};

use bytes::Bytes;
use flotilla_proto::v1 as proto;
use flotilla_shards::{
    engine::{LogAppend, Release},
    genesis::{self, GENESIS_INDEX, GENESIS_TERM, Genesis, Split},
    ids::{NodeId, ShardId},
    keys,
    kv::{
        Order, ShardState, StateBatch, StateView as _,
        positions::{self, Position},
    },
    raft::{Entry, EntryId, EntryKind, HardState, Index, SnapshotMeta, Term},
    wire::POSITION_MAX,
};
use prost::Message as _;

use super::{
    Import, ImportError, LogStore as _, RocksState, StorageOptions, Stores, identity, open,
    rows::Key, snapshot::checksum_row,
};
use crate::fuzz::{byte, number, piece};

mod log_rows;

pub use log_rows::log_rows;
use log_rows::{Row, any_key, any_row, sealed};

/// What is said about one fault, in characters: it must fit a log line and the answer to another node.
const FAULT_CHARS_MAX: usize = 2_000;

/// Rows, changes and chunks of one input at most.
const STEPS_MAX: usize = 16;

/// Rows of positions are numbered up to here.
const POSITIONS_LAST: u64 = 3;

/// The key of a row of positions.
fn any_positions(data: &mut &[u8]) -> Bytes {
    keys::positions(u64::from(byte(data)) % (POSITIONS_LAST + 1))
}

fn is_a_line(text: &str) {
    assert!(!text.contains(char::is_control), "{text:?}");
    assert!(text.chars().count() <= FAULT_CHARS_MAX, "{text}");
}

/// The data folder of a node with a replica.
pub struct Disk {
    path: PathBuf,
    stores: Stores,
    identity: proto::Identity,
    shards: Vec<ShardState>,
    /// The replica whose snapshots are received.
    shard: ShardState,
    /// How far those reach.
    position: EntryId,
}

impl Disk {
    /// Makes the folder in an empty one.
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        let options = StorageOptions {
            log_memtable_bytes: 1 << 20,
            state_memtable_bytes: 1 << 20,
            block_cache_bytes: 1 << 20,
            ..StorageOptions::default()
        };
        let stores = open(path, &options).expect("an empty folder");
        let node = proto::Node {
            node_id: 1,
            address: "127.0.0.1:1".into(),
            peer_address: String::new(),
            status_address: String::new(),
            store_id: Bytes::from_static(&[8; 16]),
        };
        let genesis = Genesis::plan([7; 16], vec![node], &Split::Even(2), 1, 1_000);
        let genesis = genesis.expect("a plan for one node");
        stores.adopt(&genesis, NodeId(1)).expect("an empty folder");
        stores.recover().expect("a new folder");
        let shards = stores.state.replicas().expect("a new folder");
        Self {
            path: path.to_owned(),
            identity: stores.identity(),
            shard: shards.last().expect("three shards").clone(),
            shards,
            position: EntryId {
                index: Index(100),
                term: Term(7),
            },
            stores,
        }
    }

    /// A start with rows of any content in both databases: it is refused, or the logs that were found go on.
    ///
    /// # Panics
    /// If that does not hold.
    pub fn recovery(&self, mut data: &[u8]) {
        let (mut log, mut state) = (self.sound_log(), self.sound_state());
        for _ in 0..STEPS_MAX {
            if data.is_empty() {
                break;
            }
            self.damage(&mut log, &mut state, &mut data);
        }
        self.stores.log.replace(log);
        self.stores.state.write(&state).expect("a sound disk");
        self.start();
        // The next input begins as this one did.
        self.stores.log.replace(self.sound_log());
        let state = self.sound_state();
        self.stores.state.write(&state).expect("a sound disk");
        self.stores.recover().expect("sound rows");
    }

    /// The rows that say what was applied.
    fn sound_state(&self) -> StateBatch {
        let mut state = StateBatch::default();
        state.put(
            Bytes::from_static(keys::IDENTITY),
            self.identity.encode_to_vec().into(),
        );
        for shard in &self.shards {
            state.put(keys::state(shard.descriptor.shard), shard.encode());
        }
        for row in 0..=POSITIONS_LAST {
            state.delete(keys::positions(row));
        }
        state
    }

    /// A row that says that the first shard has come so far.
    #[cfg(test)]
    fn at_position(&self, index: u64) -> Bytes {
        let shard = &self.shards[0];
        let at = Position {
            applied: EntryId {
                index: Index(index),
                term: shard.applied_term,
            },
            ..shard.position()
        };
        positions::encode(&[(shard.descriptor.shard, at)])
    }

    /// The rows of a log with some entries behind the genesis.
    fn sound_log(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let front = EntryId {
            index: GENESIS_INDEX,
            term: GENESIS_TERM,
        };
        let mut log = vec![(Key::Identity, Row::Identity(self.identity.clone()))];
        for shard in &self.shards {
            let shard = shard.descriptor.shard;
            log.push((Key::HardState(shard), Row::HardState(genesis::hard_state())));
            log.push((Key::Compacted(shard), Row::Compacted(front)));
            for index in [front.index.next(), front.index.next().next()] {
                let entry = Entry {
                    term: front.term,
                    index,
                    kind: EntryKind::Normal,
                    data: Bytes::from_static(b"data"),
                };
                log.push((Key::Entry(shard, index), Row::Entry(entry)));
            }
        }
        let row = |(key, row): (Key, Row)| (key.encode().as_ref().to_vec(), row.write(key));
        log.into_iter().map(row).collect()
    }

    /// Changes one row.
    fn damage(&self, log: &mut Vec<(Vec<u8>, Vec<u8>)>, state: &mut StateBatch, data: &mut &[u8]) {
        let kind = byte(data);
        let shard = &self.shards[usize::from(byte(data)) % self.shards.len()];
        match kind % 10 {
            0 => {
                let at = usize::from(byte(data)) % log.len();
                log.remove(at);
            }
            1 => {
                let at = usize::from(byte(data)) % log.len();
                log[at].1 = piece(data).unwrap_or_default().to_vec();
            }
            2 => {
                let key = piece(data).unwrap_or_default().to_vec();
                log.push((key, piece(data).unwrap_or_default().to_vec()));
            }
            3 => {
                let key = any_key(data);
                let value = sealed(key, piece(data).unwrap_or_default());
                log.push((key.encode().as_ref().to_vec(), value));
            }
            4 => {
                let key = any_key(data);
                let value = any_row(key, data).write(key);
                log.push((key.encode().as_ref().to_vec(), value));
            }
            5 => {
                let moved = ShardState {
                    applied_index: Index(number(data)),
                    applied_term: Term(number(data)),
                    ..shard.clone()
                };
                state.put(keys::state(shard.descriptor.shard), moved.encode());
            }
            6 => {
                let row = Bytes::copy_from_slice(piece(data).unwrap_or_default());
                state.put(keys::state(shard.descriptor.shard), row);
            }
            7 => {
                let row = Bytes::copy_from_slice(piece(data).unwrap_or_default());
                state.put(Bytes::from_static(keys::IDENTITY), row);
            }
            8 => {
                let row = Bytes::copy_from_slice(piece(data).unwrap_or_default());
                state.put(any_positions(data), row);
            }
            _ => {
                let at = Position {
                    applied: EntryId {
                        index: Index(number(data)),
                        term: Term(number(data)),
                    },
                    revision: number(data),
                    clock_ms: 1_000 + number(data) % 1_000,
                };
                let row = positions::encode(&[(shard.descriptor.shard, at)]);
                state.put(any_positions(data), row);
            }
        }
    }

    fn start(&self) {
        let (log, state) = (&self.stores.log, &self.stores.state);
        match identity::reconcile(&self.path, log, state) {
            Ok(identity) => {
                let stored = [log.identity(), state.identity()];
                let stored = stored.map(|found| found.expect("it was read before"));
                assert_eq!(stored, [Some(identity.clone()), Some(identity)]);
            }
            Err(error) => is_a_line(&error.to_string()),
        }
        let replicas = match self.stores.recover() {
            Ok(replicas) => replicas,
            Err(error) => return is_a_line(&error.to_string()),
        };
        for replica in replicas {
            if replica.last.index.0 >= POSITION_MAX {
                continue;
            }
            let shard = replica.descriptor.shard;
            let entry = Entry {
                term: replica.last.term.max(replica.hard_state.term).max(Term(1)),
                index: replica.last.index.next(),
                kind: EntryKind::Normal,
                data: Bytes::new(),
            };
            let hard_state = HardState {
                term: entry.term,
                ..replica.hard_state
            };
            let append = LogAppend {
                shard,
                hard_state: Some(hard_state),
                entries: vec![entry.clone()],
                snapshot: None,
                must_sync: false,
                release: Release::default(),
            };
            log.write(&[append], &[]).expect("a sound disk");
            let found = log.read_term(shard, entry.index).expect("just written");
            assert_eq!(found, entry.term);
        }
        if let Err(error) = self.stores.recover() {
            panic!("what was opened once cannot be opened again: {error}");
        }
        let read =
            self.stores
                .state
                .scan(&keys::positions_rows(), Order::Ascending, &mut |key, _| {
                    panic!("a start leaves {key:?}")
                });
        read.expect("a sound disk");
    }

    /// A stream of chunks of any content: it is refused, says why and leaves nothing behind; or what is installed is
    /// what was sent.
    ///
    /// # Panics
    /// If that does not hold.
    pub fn snapshot(&self, mut data: &[u8]) {
        let sound = self.sound_chunks();
        let mut chunks = sound.clone();
        let (mut shard, mut position) = (self.shard.descriptor.shard, self.position);
        for _ in 0..STEPS_MAX {
            if data.is_empty() {
                break;
            }
            match byte(&mut data) {
                255 => shard = ShardId(number(&mut data)),
                254 => {
                    position = EntryId {
                        index: Index(number(&mut data)),
                        term: Term(number(&mut data)),
                    };
                }
                kind => change(&mut chunks, kind, &mut data),
            }
        }
        let as_sent =
            chunks == sound && (shard, position) == (self.shard.descriptor.shard, self.position);
        let state = &self.stores.state;
        match receive(state, shard, position, &chunks) {
            Ok(meta) => {
                assert_eq!((meta.index, meta.term), (position.index, position.term));
                assert_eq!(self.left(), 1);
                let rows = chunks.into_iter().flat_map(|chunk| chunk.rows).collect();
                self.installs(shard, position, rows);
            }
            Err(ImportError::Malformed { shard: named, what }) => {
                assert!(!as_sent, "refused although it is sound: {what}");
                assert_eq!(named, shard);
                is_a_line(&ImportError::Malformed { shard, what }.to_string());
            }
            Err(ImportError::Storage(error)) => panic!("the disk is sound: {error}"),
        }
        assert_eq!(self.left(), 0);
    }

    fn installs(&self, shard: ShardId, position: EntryId, sent: Vec<proto::SnapshotRow>) {
        let state = &self.stores.state;
        let before = state.shard_state(shard).expect("a sound disk");
        let known = before.as_ref().is_some_and(|state| {
            (state.applied_index, state.applied_term) == (position.index, position.term)
        });
        state.install(shard, position).expect("a sound disk");
        if known {
            return;
        }
        let found = state.shard_state(shard).expect("checked when received");
        let found = found.expect("just installed");
        let mut rows = Vec::new();
        for range in keys::shard_rows(&found.descriptor) {
            let read = state.scan(&range, Order::Ascending, &mut |key, value| {
                let (key, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
                rows.push(proto::SnapshotRow { key, value });
                ControlFlow::Continue(())
            });
            read.expect("a sound disk");
        }
        assert_eq!(rows, sent);
        let mut again = StateBatch::default();
        match before {
            Some(before) => again.put(keys::state(shard), before.encode()),
            None => again.delete(keys::state(shard)),
        }
        state.write(&again).expect("a sound disk");
    }

    fn left(&self) -> usize {
        let left = fs::read_dir(self.stores.state.snapshots());
        left.expect("the folder can be read").count()
    }

    /// Data, sessions and state of the replica, in three chunks.
    fn sound_chunks(&self) -> Vec<proto::SnapshotChunk> {
        let descriptor = &self.shard.descriptor;
        let data = |key: &[u8]| {
            let key = [&descriptor.range.start()[..], key].concat();
            (
                keys::data(descriptor.shard, &key),
                Bytes::from_static(b"value"),
            )
        };
        let session = |number| {
            let session = keys::SessionId {
                opened_in: descriptor.shard,
                number,
            };
            (keys::session(descriptor.shard, session), Bytes::new())
        };
        let state = ShardState {
            applied_index: self.position.index,
            applied_term: self.position.term,
            ..self.shard.clone()
        };
        let chunk = |rows: Vec<(Bytes, Bytes)>| proto::SnapshotChunk {
            rows: rows
                .into_iter()
                .map(|(key, value)| proto::SnapshotRow { key, value })
                .collect(),
            ..proto::SnapshotChunk::default()
        };
        let mut chunks = vec![
            chunk(vec![data(b""), data(b"a"), data(b"b")]),
            chunk(vec![data(b"c"), session(1), session(2)]),
            chunk(vec![(keys::state(descriptor.shard), state.encode())]),
        ];
        mend(&mut chunks);
        chunks
    }
}

/// Receives a snapshot as the node does: after the first refusal, what came is dropped.
fn receive(
    state: &Arc<RocksState>,
    shard: ShardId,
    position: EntryId,
    chunks: &[proto::SnapshotChunk],
) -> Result<SnapshotMeta, ImportError> {
    let mut import = Import::begin(Arc::clone(state), shard, position)?;
    for chunk in chunks {
        import.chunk(chunk.clone())?;
    }
    import.finish()
}

/// Makes checksums and total those of the rows.
fn mend(chunks: &mut [proto::SnapshotChunk]) {
    let (mut checksum, mut total) = (0, 0);
    for chunk in &mut *chunks {
        for row in &chunk.rows {
            checksum = checksum_row(checksum, &row.key, &row.value);
            total += 1;
        }
        chunk.checksum = checksum;
        chunk.total_rows = None;
    }
    if let Some(last) = chunks.last_mut() {
        last.total_rows = Some(total);
    }
}

/// Changes a stream of chunks in one way.
fn change(chunks: &mut Vec<proto::SnapshotChunk>, kind: u8, data: &mut &[u8]) {
    if chunks.is_empty() {
        return;
    }
    let at = usize::from(byte(data)) % chunks.len();
    let other = usize::from(byte(data)) % chunks.len();
    let rows = &mut chunks[at].rows;
    let row = usize::from(byte(data)) % rows.len().max(1);
    match kind % 13 {
        0 => drop(chunks.remove(at)),
        1 => {
            let double = chunks[at].clone();
            chunks.insert(other, double);
        }
        2 => chunks.swap(at, other),
        3 => chunks[at].checksum ^= 1 << (byte(data) % 32),
        4 => chunks[at].total_rows = Some(number(data)),
        5 => chunks[at].total_rows = None,
        6 => {
            if let (Some(row), Some(key)) = (rows.get_mut(row), piece(data)) {
                row.key = Bytes::copy_from_slice(key);
            }
        }
        7 => {
            if let (Some(row), Some(value)) = (rows.get_mut(row), piece(data)) {
                row.value = Bytes::copy_from_slice(value);
            }
        }
        8 => {
            if let (Some(key), Some(value)) = (piece(data), piece(data)) {
                let (key, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
                rows.insert(row, proto::SnapshotRow { key, value });
            }
        }
        9 => drop((!rows.is_empty()).then(|| rows.remove(row))),
        10 => {
            if let Some(row) = rows.get_mut(row) {
                let (in_key, place, change) = (byte(data), byte(data), byte(data));
                let part = if in_key % 2 == 0 {
                    &mut row.key
                } else {
                    &mut row.value
                };
                let mut bytes = part.to_vec();
                if let Some(byte) = bytes.get_mut(usize::from(place)) {
                    *byte ^= change;
                }
                *part = bytes.into();
            }
        }
        11 => {
            if let Ok(chunk) = proto::SnapshotChunk::decode(piece(data).unwrap_or_default()) {
                chunks.insert(at, chunk);
            }
        }
        _ => mend(chunks),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::feed;
    use crate::fuzz::pieces;

    #[test]
    fn starts_with_rows_of_any_content() {
        let folder = tempfile::tempdir().expect("a folder");
        let disk = Disk::new(folder.path());
        let seeds = [
            vec![],
            b"\x00\x00\x02".to_vec(),
            b"\x01\x00\x03\x04abcd".to_vec(),
            [b"\x02\x00", &pieces(&[b"key", b"value"])[..]].concat(),
            [b"\x03\x00\x02\x01\x00", &pieces(&[b"\x08\x05\x10\x03"])[..]].concat(),
            b"\x04\x00\x03\x01\x04\x01\x04\x00data".to_vec(),
            b"\x04\x00\x02\x01\x00\x01\xff".to_vec(),
            b"\x04\x00\x01\x01\x00\x05\x05\x01".to_vec(),
            b"\x05\x01\x03\x01".to_vec(),
            [b"\x06\x01", &pieces(&[&disk.shard.encode()])[..]].concat(),
            [b"\x07\x00", &pieces(&[b"\x08\x01\x12\x01a"])[..]].concat(),
            [b"\x08\x00", &pieces(&[&disk.at_position(6)])[..], b"\x00"].concat(),
            [b"\x08\x00", &pieces(&[&disk.at_position(7)])[..], b"\x01"].concat(),
            [
                b"\x08\x00",
                &pieces(&[&disk.at_position(6)])[..],
                b"\x00\x08\x00",
                &pieces(&[&disk.at_position(7)])[..],
                b"\x01",
            ]
            .concat(),
            b"\x09\x01\x06\x05\x01\x03\x00".to_vec(),
        ];
        feed("recovery", &seeds, 1_000, |data| disk.recovery(data));
    }

    #[test]
    fn snapshots_of_any_content() {
        let folder = tempfile::tempdir().expect("a folder");
        let disk = Disk::new(folder.path());
        let key = keys::data(disk.shard.descriptor.shard, b"\xff\xff");
        let state = ShardState {
            applied_index: disk.position.index,
            applied_term: disk.position.term,
            ..disk.shard.clone()
        };
        let chunk = disk.sound_chunks().remove(1).encode_to_vec();
        let seeds = [
            vec![],
            b"\x00\x01\x00\x00\x0c\x00\x00\x00".to_vec(),
            b"\x01\x01\x02\x00".to_vec(),
            b"\x02\x00\x01\x00\x0c\x00\x00\x00".to_vec(),
            b"\x03\x01\x00\x00\x05".to_vec(),
            b"\x04\x02\x00\x00\x08\x05\x02\x00\x00".to_vec(),
            [
                b"\x06\x00\x00\x02",
                &pieces(&[&key])[..],
                b"\x0c\x00\x00\x00",
            ]
            .concat(),
            b"\x07\x00\x00\x01\x03new\x0c\x00\x00\x00".to_vec(),
            [
                b"\x07\x02\x00\x00",
                &pieces(&[&state.encode()])[..],
                b"\x0c\x00\x00\x00",
            ]
            .concat(),
            [
                b"\x08\x01\x00\x00",
                &pieces(&[&key, b"v"])[..],
                b"\x0c\x00\x00\x00",
            ]
            .concat(),
            b"\x09\x00\x00\x01\x0c\x00\x00\x00".to_vec(),
            b"\x0a\x00\x00\x01\x01\x02\x20\x0c\x00\x00\x00".to_vec(),
            [b"\x0b\x01\x00\x00", &pieces(&[&chunk])[..]].concat(),
            b"\xff\x01\xfe\x64\x07".to_vec(),
        ];
        feed("snapshot", &seeds, 300, |data| disk.snapshot(data));
    }
}
