//! Disks that return something else than what was written: it is found, and never served.

use std::{collections::BTreeMap, fs, path::PathBuf};

use flotilla_harness::{
    Cluster,
    load::{Acknowledged, Load, assert_complete, assert_kept, assert_written},
    seeded,
};
use flotilla_proto::v1::Consistency;

use crate::{rounds, start};

const CORRUPTION: i32 = 15;
/// The node whose disk rots.
const ROTTEN: usize = 0;

/// A kind of files in a data folder, by the beginning and the end of their paths.
type Kind = (&'static str, &'static str);

const KINDS: [Kind; 9] = [
    ("log/", ".log"),
    ("log/", ".sst"),
    ("log/MANIFEST", ""),
    ("log/CURRENT", ""),
    ("state/", ".sst"),
    ("state/MANIFEST", ""),
    ("state/CURRENT", ""),
    ("log/OPTIONS", ""),
    ("state/OPTIONS", ""),
];

/// The largest file of a kind, with its size.
fn largest(cluster: &Cluster, kind: Kind) -> Option<(PathBuf, u64)> {
    let files = cluster.disk(ROTTEN).files().into_iter();
    let of_kind = files.filter(|(path, size)| {
        let path = path.to_string_lossy();
        *size > 0 && path.starts_with(kind.0) && path.ends_with(kind.1)
    });
    of_kind.max_by_key(|(_, size)| *size)
}

/// Reads everything through the node: what it has itself, and what is linearizable. Right, or it can't say and ends. Returns
/// whether it ended.
fn ends_or_is_right(cluster: &mut Cluster, acknowledged: &Acknowledged, when: &str) -> bool {
    cluster.until("the node serves or ends", |cluster| {
        cluster.serves(ROTTEN) || cluster.has_ended(ROTTEN)
    });
    let ends = 'ends: {
        if cluster.has_ended(ROTTEN) {
            break 'ends true;
        }
        for how in [Consistency::Serializable, Consistency::Linearizable] {
            let Ok(found) = cluster.try_rows(ROTTEN, how) else {
                break 'ends true;
            };
            let found = found.into_iter().collect();
            assert_written(&found, when);
            if how == Consistency::Linearizable {
                assert_complete(&found, acknowledged, when);
            }
        }
        false
    };
    if ends {
        let status = cluster.wait(ROTTEN);
        assert_eq!(
            status.code(),
            Some(CORRUPTION),
            "{when}: {}",
            cluster.logged(ROTTEN)
        );
    }
    ends
}

#[test]
fn a_bit_that_flips_in_any_file_is_found_at_the_next_start() {
    /// Damage in the last block of the WAL looks like the torn end that a crash leaves.
    const WAL_BLOCK: u64 = 32 << 10;
    let mut random = seeded();
    let Some(mut cluster) = start("flipped bits", 8, &[]) else {
        return;
    };
    let load = Load::begin(&cluster, "load");
    let complete = |cluster: &Cluster| {
        let wal = largest(cluster, KINDS[0]);
        wal.is_some_and(|(_, size)| size > 2 * WAL_BLOCK)
            && KINDS.iter().all(|kind| largest(cluster, *kind).is_some())
    };
    // The node writes on, so that what was there a moment ago may be another file, or a short one, when it ends.
    let mut tries = 0;
    loop {
        cluster.until("there are files of each kind", complete);
        cluster.kill(ROTTEN);
        if complete(&cluster) {
            break;
        }
        tries += 1;
        assert!(tries < 20, "a killed node never leaves files of each kind");
        cluster.start_node(ROTTEN);
    }
    let acknowledged = load.end(&cluster);
    let mut found: BTreeMap<Kind, (usize, usize)> = BTreeMap::new();
    for round in 0..rounds(KINDS.len()) {
        let kind = KINDS[round % KINDS.len()];
        let Some((path, size)) = largest(&cluster, kind) else {
            continue;
        };
        let end = if kind == KINDS[0] {
            size.saturating_sub(WAL_BLOCK)
        } else {
            size
        };
        if end == 0 {
            continue;
        }
        let (byte, bit) = (random.u64(..end), random.u8(..8));
        let when = format!("bit {bit} of byte {byte} of {}", path.display());
        let disk = cluster.disk(ROTTEN);
        disk.flip_bit(&path, byte, bit).expect("it is there");
        let flipped = fs::read(disk.path().join(&path)).expect("it is there");
        cluster.start_node(ROTTEN);
        let counts = found.entry(kind).or_default();
        if ends_or_is_right(&mut cluster, &acknowledged, &when) {
            counts.0 += 1;
        } else {
            cluster.kill(ROTTEN);
            counts.1 += 1;
        }
        // Unless the node has written the file anew.
        let disk = cluster.disk(ROTTEN);
        if fs::read(disk.path().join(&path)).ok() == Some(flipped) {
            disk.flip_bit(&path, byte, bit).expect("it is there");
        }
    }
    for (kind, (ended, right)) in &found {
        eprintln!("{kind:?}: {ended} ended the node, {right} did no harm");
    }
    assert_eq!(
        found.len(),
        KINDS.len(),
        "not all kinds of files have rotted"
    );
    cluster.start_node(ROTTEN);
    cluster.until_all_serve();
    assert_kept(&cluster, ROTTEN, &acknowledged, "at the end");
    cluster.assert_replicas_agree();
}

#[test]
fn rows_that_rot_under_a_running_node_are_never_served() {
    let Some(mut cluster) = start("rows that rot", 2, &[]) else {
        return;
    };
    let kind = ("state/", ".sst");
    let load = Load::begin(&cluster, "load");
    cluster.until("there is a file of rows", |cluster| {
        largest(cluster, kind).is_some_and(|(_, size)| size > 100_000)
    });
    let acknowledged = load.end(&cluster);
    // A node that has nothing in its caches.
    cluster.kill(ROTTEN);
    cluster.start_node(ROTTEN);
    cluster.until_all_serve();
    cluster.until("a file has rotted", |cluster| {
        let disk = cluster.disk(ROTTEN);
        let (path, size) = largest(cluster, kind).expect("it was there");
        // A compaction may take it away meanwhile.
        let flips = (1..8).map(|part| disk.flip_bit(&path, part * size / 8, part as u8));
        // And a piece of another place.
        let copied = disk.copy_piece(&path, 0, size / 2, size / 16);
        flips.chain([copied]).all(|done| done.is_ok())
    });
    let ended = ends_or_is_right(&mut cluster, &acknowledged, "rotten rows");
    assert!(ended, "the file can't be read");
    assert_kept(&cluster, 1, &acknowledged, "through another node");
}
