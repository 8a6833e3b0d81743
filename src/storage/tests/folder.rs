//! Whose folder it is, and who may have it.

use flotilla_shards::lineage::{Lineage, Mark};
use tempfile::tempdir;

use super::*;

#[test]
fn a_second_process_is_refused_and_the_first_goes_on() {
    let folder = tempdir().unwrap();
    let stores = adopted(folder.path(), 1);
    let error = open(folder.path(), &small()).err().expect("locked");
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
    assert!(
        error.to_string().contains("in use by another process"),
        "{error}"
    );
    stores
        .log
        .write(&[append(2, hard_state(6, 5), vec![entry(6, 6, "x")])], &[])
        .unwrap();
    drop(stores);
    open(folder.path(), &small()).expect("free again");
}

#[test]
fn a_folder_keeps_its_identity_and_its_replicas() {
    let folder = tempdir().unwrap();
    let stores = open(folder.path(), &small()).unwrap();
    let fresh = stores.identity();
    assert!(fresh.genesis.is_none() && fresh.store_id.len() == 16);
    assert!(stores.recover().unwrap().is_empty());
    stores.adopt(&genesis(3), NodeId(1)).unwrap();
    stores
        .adopt(&genesis(3), NodeId(1))
        .expect("once more does no harm");
    drop(stores);
    let stores = open(folder.path(), &small()).unwrap();
    assert_eq!(stores.identity().store_id, fresh.store_id);
    assert_eq!(stores.identity().genesis, Some((&genesis(3)).into()));
    let shards: Vec<u64> = stores
        .recover()
        .unwrap()
        .iter()
        .map(|r| r.descriptor.shard.0)
        .collect();
    assert_eq!(shards, [1, 2, 3, 4]);
    let other = stores.adopt(&genesis(2), NodeId(1)).unwrap_err();
    assert!(matches!(other, OpenError::Foreign { .. }), "{other}");
    let other = stores.adopt(&genesis(3), NodeId(2)).unwrap_err();
    assert!(
        other.to_string().contains("node 1 of cluster 0707"),
        "{other}"
    );
}

#[test]
fn parts_that_do_not_belong_together_are_refused_by_name() {
    let (ours, theirs) = (tempdir().unwrap(), tempdir().unwrap());
    drop(adopted(ours.path(), 1));
    drop(adopted(theirs.path(), 1));
    for (part, missing) in [
        ("state", true),
        ("log", true),
        ("state", false),
        ("log", false),
    ] {
        let mixed = tempdir().unwrap();
        copy(ours.path(), mixed.path());
        fs::remove_dir_all(mixed.path().join(part)).unwrap();
        if !missing {
            copy(&theirs.path().join(part), &mixed.path().join(part));
        }
        let error = open(mixed.path(), &small()).err().expect("refused");
        assert!(
            matches!(error, OpenError::Foreign { .. }),
            "{part}, missing {missing}: {error}"
        );
    }
    // The originals still open.
    open(ours.path(), &small()).unwrap().recover().unwrap();
}

#[test]
fn a_store_counts_its_synced_writes_and_remembers_other_stores() {
    let folder = tempdir().unwrap();
    let other = Mark {
        start: 77,
        written: 5,
    };
    let stores = adopted(folder.path(), 1);
    let marks = stores.log.marks();
    let (first, before) = (marks.lineage().newest().unwrap(), marks.written());
    let mut theirs = Lineage::default();
    theirs.begin(other);
    marks.meet(NodeId(2), &theirs).unwrap();
    stores
        .log
        .write(&[append(2, hard_state(6, 5), vec![entry(6, 6, "x")])], &[])
        .unwrap();
    assert_eq!(marks.written(), before + 1);
    let copied = tempdir().unwrap();
    copy(folder.path(), copied.path());
    let later = Mark {
        written: 9,
        ..other
    };
    marks.hear(NodeId(2), later);
    stores.log.write_marks().unwrap();
    assert_eq!(marks.written(), before + 1, "nothing rests on it");
    stores
        .log
        .write(&[append(2, hard_state(7, 5), vec![])], &[])
        .unwrap();
    let seen = Mark {
        start: first.start,
        written: marks.written(),
    };
    drop(stores);

    let stores = open(folder.path(), &small()).unwrap();
    let marks = stores.log.marks();
    assert_eq!(marks.written(), before + 2);
    assert_eq!(marks.seen(NodeId(2)), Some(later));
    assert!(marks.lineage().starts().any(|start| start == first));
    assert_eq!(marks.lineage().follows(seen), Ok(()));

    let past = open(copied.path(), &small()).unwrap();
    let marks = past.log.marks();
    assert_eq!(marks.seen(NodeId(2)), Some(other));
    assert!(marks.lineage().follows(seen).is_err());
}

#[test]
fn an_unknown_layout_is_refused() {
    let folder = tempdir().unwrap();
    let stores = open(folder.path(), &small()).unwrap();
    let other = proto::Identity {
        format: 9,
        ..stores.identity()
    };
    stores
        .log
        .adopt(&other, [], EntryId::default(), HardState::default())
        .unwrap();
    drop(stores);
    let error = open(folder.path(), &small()).err().expect("refused");
    assert!(
        matches!(
            error,
            OpenError::Format {
                found: 9,
                expected: FORMAT,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn an_older_layout_becomes_the_present_one() {
    let folder = tempdir().unwrap();
    let data = folder.path().join("data");
    let stores = adopted(&data, 2);
    let old = proto::Identity {
        format: 1,
        ..stores.identity()
    };
    let nothing = (EntryId::default(), HardState::default());
    stores.log.adopt(&old, [], nothing.0, nothing.1).unwrap();
    stores.state.set_identity(&old).unwrap();
    drop(stores);
    let half = folder.path().join("half");
    copy(&data, &half);
    let stores = open(&data, &small()).unwrap();
    assert_eq!(stores.identity().format, FORMAT);
    assert_eq!(stores.recover().unwrap().len(), 3);
    let stored = [stores.log.identity(), stores.state.identity()];
    assert_eq!(
        stored.map(|found| found.unwrap()),
        [Some(stores.identity()), Some(stores.identity())]
    );
    // A crash between the two.
    let log = RocksLog::open(&half.join("log"), &small()).unwrap();
    log.adopt(&stores.identity(), [], nothing.0, nothing.1)
        .unwrap();
    drop(log);
    let again = open(&half, &small()).unwrap();
    assert_eq!(again.identity(), stores.identity());
    assert_eq!(again.state.identity().unwrap(), Some(stores.identity()));
    assert_eq!(again.recover().unwrap().len(), 3);
}

#[test]
fn adoption_is_finished_or_never_happened() {
    let folder = tempdir().unwrap();
    let image = |name: &str| {
        let to = folder.path().join(name);
        copy(&folder.path().join("data"), &to);
        to
    };
    let stores = open(&folder.path().join("data"), &small()).unwrap();
    stores.state.begin(genesis(3).rows(NodeId(1))).unwrap();
    let created = image("created");
    let adopted = proto::Identity {
        genesis: Some((&genesis(3)).into()),
        node_id: 1,
        ..stores.identity()
    };
    let shards = [1, 2, 3, 4].map(ShardId);
    stores
        .log
        .adopt(&adopted, shards, id(5, 5), hard_state(5, 5))
        .unwrap();
    let half = image("half");

    let stores = open(&created, &small()).unwrap();
    assert_eq!(stores.identity().genesis, None);
    assert!(stores.recover().unwrap().is_empty());
    // With another genesis than the first time: nothing of that one is left.
    stores.adopt(&genesis(1), NodeId(1)).unwrap();
    assert_eq!(stores.recover().unwrap().len(), 2);
    let stores = open(&half, &small()).unwrap();
    assert_eq!(stores.identity(), adopted);
    assert_eq!(stores.recover().unwrap().len(), 4);
    drop(stores);
    let stores = open(&half, &small()).unwrap();
    assert_eq!(stores.state.identity().unwrap(), Some(adopted));
}

#[test]
fn a_log_without_state_is_refused() {
    let folder = tempdir().unwrap();
    let stores = adopted(folder.path(), 1);
    stores
        .log
        .write(&[append(9, hard_state(1, 0), vec![entry(1, 1, "x")])], &[])
        .unwrap();
    drop(stores);
    let error = open(folder.path(), &small())
        .unwrap()
        .recover()
        .unwrap_err();
    assert!(
        error.to_string().contains("shard 9 has a log and no state"),
        "{error}"
    );
}

#[test]
fn a_database_that_names_a_file_that_is_not_there_is_damaged() {
    for part in ["log", "state"] {
        let folder = tempdir().unwrap();
        drop(adopted(folder.path(), 1));
        let current = folder.path().join(part).join("CURRENT");
        let mut text = std::fs::read(&current).unwrap();
        // One flipped bit: MANIFEST-000005 is MANIFEST-002005 now, or the like.
        text[11] ^= 2;
        std::fs::write(&current, text).unwrap();
        let error = open(folder.path(), &small()).err().expect("damaged");
        let OpenError::Storage { source } = &error else {
            panic!("{error}");
        };
        assert_eq!(source.fault, Fault::Corruption, "{error}");
    }
}
