//! Arbitrary messages at a replica in an arbitrary state, from seeds: the bounded run of what `fuzz/` does without end.
//!
//! `ARBITRARY_SEEDS` says how many seeds are run, `ARBITRARY_SEED` runs a single one.

#![allow(
    clippy::disallowed_methods,
    reason = "the seeds to run come from outside"
)]

mod attack;

use flotilla_shards::raft::{ConfState, Config, Error, Index, MemoryStorage, RawNode, ReplicaId};

/// Seeds of an ordinary run: some seconds in the development profile.
const SEEDS: u64 = 40_000;

fn variable(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    let number = value.parse();
    Some(number.unwrap_or_else(|_| panic!("{name} is {value:?}, expected a number")))
}

/// Says which seed it was, if it panics.
struct Replay(u64);

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with ARBITRARY_SEED={}", self.0);
        }
    }
}

/// Runs the seeds. `take` gets what comes out of each.
fn run<T>(run: impl Fn(&[u8]) -> T, mut take: impl FnMut(T)) {
    let seeds = match variable("ARBITRARY_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..variable("ARBITRARY_SEEDS").unwrap_or(SEEDS),
    };
    for seed in seeds {
        let _replay = Replay(seed);
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut data = vec![0; rng.usize(..1500)];
        rng.fill(&mut data);
        take(run(&data));
    }
}

#[test]
fn arbitrary_messages_do_no_harm() {
    let mut total = std::collections::BTreeMap::<_, u64>::new();
    run(attack::step, |coverage| {
        for (name, count) in coverage.counts() {
            *total.entry(name).or_default() += count;
        }
    });
    println!("{total:?}");
    if variable("ARBITRARY_SEED").is_none() {
        let never = total.iter().filter(|(_, count)| **count == 0);
        assert_eq!(never.collect::<Vec<_>>(), [], "never happened");
    }
}

#[test]
fn arbitrary_bytes_do_no_harm() {
    run(attack::decode, |_| {});
}

#[test]
fn messages_with_flipped_bytes_do_no_harm() {
    let mut passed = 0_u64;
    run(attack::decode_damaged, |through| {
        passed += u64::from(through)
    });
    println!("{passed} passed the gate");
    assert!(passed > 0 || variable("ARBITRARY_SEED").is_some());
}

/// Found by these attacks: the log forgot entries that were said to be durable and were not, and ended before its
/// commit index.
#[test]
fn a_storage_that_says_too_much_stops_the_replica() {
    let config = Config {
        async_storage_writes: true,
        ..Config::new(ReplicaId(1))
    };
    let members = ConfState {
        voters: vec![ReplicaId(1)],
        ..ConfState::default()
    };
    let storage = MemoryStorage::with_conf_state(members);
    let mut node = RawNode::new(&config, storage).expect("a valid configuration");
    node.campaign().expect("storage in memory");
    let mut answered = Ok(());
    while node.has_ready() {
        for message in node.ready().messages {
            // Nothing is written.
            for response in message.responses {
                answered = answered.and(node.step(response));
            }
        }
    }
    let error = answered.expect_err("the storage ends at 0");
    assert!(matches!(error, Error::Storage(_)), "{error}");
    assert!(node.failure().is_some());
    assert_eq!(node.last_index(), Index(1), "the entry is still there");
}
