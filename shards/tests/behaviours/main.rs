//! The facts that etcd-raft's own unit tests check, tested here in our own words: a test's name begins with the id of
//! its fact.

mod async_storage;
mod check_quorum;
mod commit;
mod confchange;
mod delayed;
mod election;
mod harness;
mod learner;
mod limits;
mod log;
mod log_slices;
mod network;
mod prevote;
mod progress;
mod quorum;
mod raw_node;
mod read_index;
mod replication;
mod roles;
mod snapshot;
mod storage;
mod transfer;
mod unstable;
mod words;

use std::collections::BTreeMap;

/// Letter of each section, how many facts it has, and the source of their tests.
const SECTIONS: [(char, u32, &str); 18] = [
    (
        'e',
        35,
        concat!(include_str!("election.rs"), include_str!("roles.rs")),
    ),
    ('p', 14, include_str!("prevote.rs")),
    ('q', 13, include_str!("check_quorum.rs")),
    (
        'l',
        29,
        concat!(include_str!("log.rs"), include_str!("log_slices.rs")),
    ),
    ('u', 12, include_str!("unstable.rs")),
    ('s', 8, include_str!("storage.rs")),
    ('r', 25, include_str!("replication.rs")),
    ('c', 13, include_str!("commit.rs")),
    ('f', 24, include_str!("progress.rs")),
    ('n', 15, include_str!("snapshot.rs")),
    ('g', 21, include_str!("confchange.rs")),
    ('t', 12, include_str!("transfer.rs")),
    ('i', 11, include_str!("read_index.rs")),
    ('a', 8, include_str!("learner.rs")),
    ('w', 15, include_str!("raw_node.rs")),
    ('y', 10, include_str!("async_storage.rs")),
    ('o', 15, include_str!("limits.rs")),
    ('k', 5, include_str!("quorum.rs")),
];

/// Every id has exactly one test among those of its section, or a reason in NOT_APPLICABLE.md.
#[test]
fn every_behaviour_is_covered() {
    let excused = |id: &str| {
        let id = id.to_uppercase();
        let rows = include_str!("NOT_APPLICABLE.md")
            .lines()
            .filter_map(|line| line.strip_prefix("| "));
        rows.filter_map(|row| row.split_once(" | "))
            .filter(|(first, reason)| *first == id && reason.len() > 10)
            .count()
    };
    let mut facts = 0;
    for (letter, count, source) in SECTIONS {
        let mut tests = BTreeMap::<String, usize>::new();
        for (attribute, function) in source.lines().zip(source.lines().skip(1)) {
            let name = function
                .strip_prefix("fn ")
                .filter(|_| attribute == "#[test]");
            let Some((id, _)) = name.and_then(|name| name.split_once('_')) else {
                continue;
            };
            *tests.entry(id.into()).or_default() += 1;
        }
        for number in 1..=count {
            let id = format!("{letter}{number:02}");
            let found = tests.remove(&id).unwrap_or_default() + excused(&id);
            assert_eq!(
                found, 1,
                "{id} must have one test, or one reason why it does not apply"
            );
            facts += 1;
        }
        assert!(tests.is_empty(), "tests of no known fact: {tests:?}");
    }
    assert_eq!(facts, 285);
}
