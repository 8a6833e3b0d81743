//! Section 6: the storage in memory.

use crate::harness::*;

/// A storage compacted at 3/3, with entries of these terms from 4 on.
fn storage(terms: &[u64]) -> MemoryStorage {
    let mut storage = MemoryStorage::new();
    storage
        .apply_snapshot(snapshot(3, 3, ConfState::default()))
        .expect("the storage is new");
    storage.append(&entries(4, terms)).expect("no gap");
    storage
}

fn all(storage: &MemoryStorage) -> Vec<(u64, u64)> {
    let (first, last) = (storage.first_index(), storage.last_index());
    positions(
        &storage
            .entries(first, last.next(), NO_LIMIT)
            .expect("the whole log is there"),
    )
}

#[test]
fn s01_term() {
    let storage = storage(&[4, 5]);
    assert_eq!(storage.term(Index(2)), Err(StorageError::Compacted));
    for index in [3, 4, 5] {
        assert_eq!(storage.term(Index(index)), Ok(Term(index)));
    }
    assert_eq!(storage.term(Index(6)), Err(StorageError::Unavailable));
}

#[test]
fn s02_entries() {
    let storage = storage(&[4, 5, 6]);
    let read = |low, high, size| {
        storage
            .entries(Index(low), Index(high), size)
            .map(|list| terms(&list))
    };
    assert_eq!(read(2, 6, NO_LIMIT), Err(StorageError::Compacted));
    assert_eq!(read(3, 4, NO_LIMIT), Err(StorageError::Compacted));
    assert_eq!(read(4, 5, NO_LIMIT), Ok(vec![4]));
    assert_eq!(read(4, 6, NO_LIMIT), Ok(vec![4, 5]));
    assert_eq!(read(4, 7, NO_LIMIT), Ok(vec![4, 5, 6]));
    let one = entry_size(&entry(4, 4));
    for (limit, count) in [
        (0, 1),
        (2 * one, 2),
        (2 * one + one / 2, 2),
        (3 * one - 1, 2),
        (3 * one, 3),
    ] {
        assert_eq!(read(4, 7, limit), Ok((4..4 + count).collect()), "{limit}");
    }
}

#[test]
fn s03_first_and_last_index() {
    let mut storage = storage(&[4, 5]);
    assert_eq!(
        (storage.first_index(), storage.last_index()),
        (Index(4), Index(5))
    );
    storage.append(&entries(6, &[5])).expect("no gap");
    assert_eq!(storage.last_index(), Index(6));
    storage.compact(Index(4)).expect("there");
    assert_eq!(storage.first_index(), Index(5));
}

#[test]
fn s04_compact() {
    for (at, result, left) in [
        (2, Err(StorageError::Compacted), vec![(4, 4), (5, 5)]),
        (3, Err(StorageError::Compacted), vec![(4, 4), (5, 5)]),
        (4, Ok(()), vec![(5, 5)]),
        (5, Ok(()), vec![]),
    ] {
        let mut storage = storage(&[4, 5]);
        assert_eq!(storage.compact(Index(at)), result, "{at}");
        assert_eq!(all(&storage), left, "{at}");
        let compacted = at.max(3);
        assert_eq!(storage.first_index(), Index(compacted + 1));
        assert_eq!(storage.term(Index(compacted)), Ok(Term(compacted)));
    }
}

#[test]
fn s05_create_snapshot() {
    for at in [4, 5] {
        let mut storage = storage(&[4, 5]);
        let expected = Snapshot {
            data: "data".into(),
            ..snapshot(at, at, voters(&[1, 2, 3]))
        };
        let made = storage.create_snapshot(Index(at), Some(voters(&[1, 2, 3])), "data".into());
        assert_eq!(made, Ok(&expected));
        assert_eq!(storage.snapshot(), Ok(expected));
    }
}

#[test]
fn s06_append() {
    let cases: [(u64, &[u64], &[u64]); 7] = [
        (1, &[1, 2], &[4, 5]),
        (3, &[3, 4, 5], &[4, 5]),
        (3, &[3, 6, 6], &[6, 6]),
        (3, &[3, 4, 5, 5], &[4, 5, 5]),
        (2, &[3, 3, 5], &[5]),
        (4, &[5], &[5]),
        (6, &[5], &[4, 5, 5]),
    ];
    for (first, terms, left) in cases {
        let mut storage = storage(&[4, 5]);
        storage.append(&entries(first, terms)).expect("no gap");
        assert_eq!(
            all(&storage),
            positions(&entries(4, left)),
            "{terms:?} from {first}"
        );
        assert_eq!(storage.first_index(), Index(4));
    }
}

#[test]
fn s07_append_leaves_no_gap() {
    let mut storage = storage(&[4, 5]);
    assert_eq!(
        storage.append(&entries(7, &[5])),
        Err(StorageError::Unavailable)
    );
    assert_eq!(all(&storage), [(4, 4), (5, 5)]);
}

#[test]
fn s08_apply_snapshot() {
    let mut storage = MemoryStorage::new();
    storage
        .apply_snapshot(snapshot(0, 0, voters(&[1, 2])))
        .expect("a membership for an empty log");
    assert_eq!(
        storage.initial_state().map(|(_, members)| members),
        Ok(voters(&[1, 2]))
    );
    storage
        .apply_snapshot(snapshot(4, 4, voters(&[1, 2, 3])))
        .expect("the first snapshot");
    assert_eq!(
        (storage.first_index(), storage.last_index()),
        (Index(5), Index(4))
    );
    for index in [3, 4] {
        let outdated = storage.apply_snapshot(snapshot(index, 3, voters(&[9])));
        assert_eq!(outdated, Err(StorageError::SnapshotOutOfDate), "{index}");
        assert_eq!(storage.snapshot(), Ok(snapshot(4, 4, voters(&[1, 2, 3]))));
    }
}
