//! Whose folder this is: written in both databases, so that parts that do not belong together are told apart.
//!
//! The log database is written first and synced, the state database follows with a flush. So a crash in between
//! leaves the log's copy ahead by one step, and the next start finishes the step; every other difference means that
//! somebody moved, copied or deleted a part of the folder.

use std::{fs::File, io::Read, path::Path};

use flotilla_proto::v1 as proto;
use flotilla_shards::raft::{EntryId, HardState};

use super::{OpenError, RocksLog, RocksState, StorageError};

/// Layout of the folder that this version writes and reads.
pub const FORMAT: u32 = 2;

/// The oldest layout that this version reads, and makes a present one of: it has no rows of positions in the state.
const FORMAT_OLDEST: u32 = 1;

const STORE_ID_BYTES: usize = 16;

/// The identity of an opened folder; a new one gets a random store id, and one of an older layout the present layout.
pub(super) fn reconcile(
    data: &Path,
    log: &RocksLog,
    state: &RocksState,
) -> Result<proto::Identity, OpenError> {
    let mut found = [log.identity()?, state.identity()?];
    let mut older = false;
    for identity in found.iter_mut().flatten() {
        if !(FORMAT_OLDEST..=FORMAT).contains(&identity.format) {
            return Err(OpenError::Format {
                path: data.to_owned(),
                found: identity.format,
                expected: FORMAT,
            });
        }
        // A crash may have left the log's copy alone with the present one.
        older |= identity.format < FORMAT;
        identity.format = FORMAT;
    }
    let identity = agree(data, log, state, found)?;
    if older {
        log.adopt(&identity, [], EntryId::default(), HardState::default())?;
        state.set_identity(&identity)?;
    }
    Ok(identity)
}

/// What both databases say, or what an interrupted start was about to make them say.
fn agree(
    data: &Path,
    log: &RocksLog,
    state: &RocksState,
    [in_log, in_state]: [Option<proto::Identity>; 2],
) -> Result<proto::Identity, OpenError> {
    let foreign = |what, found: String, expected: String, advice| OpenError::Foreign {
        path: data.to_owned(),
        what,
        found,
        expected,
        advice,
    };
    match (in_log, in_state) {
        (None, None) => {
            let identity = proto::Identity {
                format: FORMAT,
                store_id: random_store_id()?.into(),
                genesis: None,
                node_id: 0,
            };
            log.adopt(&identity, [], EntryId::default(), HardState::default())?;
            state.set_identity(&identity)?;
            Ok(identity)
        }
        (Some(identity), None) if identity.genesis.is_none() => {
            state.set_identity(&identity)?;
            Ok(identity)
        }
        (Some(identity), None) => Err(foreign(
            "the state database's store id",
            "missing".into(),
            hex(&identity.store_id),
            "its folder \"state\" was removed or replaced; put it back, or start with an empty data folder as a new node",
        )),
        (None, Some(identity)) => Err(foreign(
            "the log database's store id",
            "missing".into(),
            hex(&identity.store_id),
            "its folder \"log\" was removed or replaced; put it back, or start with an empty data folder as a new node",
        )),
        (Some(in_log), Some(in_state)) => {
            if in_log.store_id != in_state.store_id {
                return Err(foreign(
                    "the state database's store id",
                    hex(&in_state.store_id),
                    hex(&in_log.store_id),
                    "its folders \"log\" and \"state\" come from different nodes; put back those that belong together",
                ));
            }
            if in_log != in_state {
                if in_state.genesis.is_some() {
                    return Err(foreign(
                        "the state database's cluster and node",
                        describe(&in_state),
                        describe(&in_log),
                        "its folders \"log\" and \"state\" come from different times or nodes; put back those that \
                         belong together",
                    ));
                }
                state.set_identity(&in_log)?;
            }
            Ok(in_log)
        }
    }
}

/// Refuses to make something else of a folder that belongs to a cluster.
pub(super) fn same(
    data: &Path,
    found: &proto::Identity,
    wanted: &proto::Identity,
) -> Result<(), OpenError> {
    if found == wanted {
        return Ok(());
    }
    Err(OpenError::Foreign {
        path: data.to_owned(),
        what: "its cluster and node",
        found: describe(found),
        expected: describe(wanted),
        advice: "a folder never changes hands; start with an empty data folder to join another cluster",
    })
}

fn describe(identity: &proto::Identity) -> String {
    match &identity.genesis {
        Some(genesis) => format!(
            "node {} of cluster {}",
            identity.node_id,
            hex(&genesis.cluster_id)
        ),
        None => "no cluster".into(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn random_store_id() -> Result<Vec<u8>, StorageError> {
    random::<STORE_ID_BYTES>().map(Vec::from)
}

/// What tells a start of the process from every other one.
pub(super) fn random_start() -> Result<u64, StorageError> {
    random().map(u64::from_be_bytes)
}

fn random<const N: usize>() -> Result<[u8; N], StorageError> {
    let path = Path::new("/dev/urandom");
    let mut bytes = [0; N];
    File::open(path)
        .and_then(|mut source| source.read_exact(&mut bytes))
        .map_err(|error| StorageError::io("storage::identity::random", path, &error))?;
    Ok(bytes)
}
