//! Reads while nodes are cut off and stand still.

use std::time::{Duration, Instant};

use flotilla::client::{Error, Result};
use flotilla_proto::v1::{Consistency, response, show_shard_request::Which};

use flotilla_harness::{Cluster, Plan, ask, get, put, value};

/// `raft.election_timeout` of these clusters.
const ELECTION_TIMEOUT: Duration = Duration::from_millis(500);
const LONG: Duration = Duration::from_secs(30);
const KEY: &str = "key";

fn cluster() -> Cluster {
    cluster_with(&[])
}

fn cluster_with(settings: &[(&'static str, &'static str)]) -> Cluster {
    let timeout = ("raft.election_timeout", "500ms");
    let cluster = Cluster::start(Plan {
        settings: settings.iter().copied().chain([timeout]).collect(),
        ..Plan::default()
    });
    let node = cluster.leader(KEY, &[]);
    write(&cluster, node, "old");
    cluster
}

fn write(cluster: &Cluster, node: usize, value: &str) {
    let written = cluster.ask(node, put(KEY, value), LONG);
    written.unwrap_or_else(|error| panic!("{value} was not written: {error}"));
}

fn read(
    cluster: &Cluster,
    node: usize,
    consistency: Consistency,
    timeout: Duration,
) -> Result<Option<String>> {
    cluster.ask(node, get(KEY, consistency), timeout).map(value)
}

/// Fails unless a read that was refused says why.
fn assert_says_why(error: &Error) {
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    let text = error.to_string();
    let reasons = ["no quorum confirmed the read", "had no reachable leader"];
    assert!(reasons.iter().any(|reason| text.contains(reason)), "{text}");
}

#[test]
fn in_a_minority_reads_and_writes_fail_in_time_and_say_why_and_serializable_reads_go_on() {
    let cluster = cluster();
    let leader = cluster.leader(KEY, &[]);
    let follower = (leader + 1) % cluster.len();
    cluster.until("the follower has applied the write", |cluster| {
        let found = read(
            cluster,
            follower,
            Consistency::Serializable,
            ELECTION_TIMEOUT,
        );
        found.is_ok_and(|value| value.as_deref() == Some("old"))
    });
    let timeout = 4 * ELECTION_TIMEOUT;
    // A leader that can't confirm itself, and then a follower that has no leader.
    for minority in [leader, follower] {
        cluster.net().isolate(minority);
        let begin = Instant::now();
        let error = read(&cluster, minority, Consistency::Linearizable, timeout)
            .expect_err("no quorum, no linearizable read");
        assert_says_why(&error);
        let error = cluster
            .ask(minority, put(KEY, "lost"), timeout)
            .expect_err("no quorum, no write");
        assert!(
            matches!(
                error,
                Error::Unavailable { .. } | Error::OutcomeUnknown { .. }
            ),
            "{error:?}"
        );
        // The bound is that of the requests; the rest is for a busy machine.
        assert!(
            begin.elapsed() < 2 * timeout + Duration::from_secs(2),
            "{:?}",
            begin.elapsed()
        );
        let found = read(&cluster, minority, Consistency::Serializable, timeout);
        assert_eq!(found.expect("needs no quorum").as_deref(), Some("old"));
        cluster.net().heal_all();
        cluster.until("the minority serves again", |cluster| {
            read(cluster, minority, Consistency::Linearizable, timeout).is_ok()
        });
    }
}

#[test]
fn a_leader_that_was_cut_off_refuses_reads_or_is_current() {
    let cluster = cluster();
    let old = cluster.leader(KEY, &[]);
    cluster.net().isolate(old);
    // From before the others have a leader until after the cut is healed, reads are always under way at the old one.
    let stream = cluster.stream(old);
    let new = cluster.leader(KEY, &[old]);
    write(&cluster, new, "new");
    let reads: Vec<_> = (0..100)
        .map(|_| {
            cluster.spawn(ask(
                &stream,
                get(KEY, Consistency::Linearizable),
                6 * ELECTION_TIMEOUT,
            ))
        })
        .collect();
    let early = read(&cluster, old, Consistency::Linearizable, ELECTION_TIMEOUT);
    assert_says_why(&early.expect_err("cut off from the quorum"));
    cluster.net().heal_all();
    assert_refused_or(&cluster, reads, "new");
}

#[test]
fn a_leader_that_stood_still_with_reads_in_its_sockets_refuses_them_or_is_current() {
    stand_still(&mut cluster(), "old", "new");
}

#[test]
fn a_leader_that_stood_still_answers_nothing_by_its_old_lease() {
    let mut cluster = cluster_with(&[("raft.leases", "true")]);
    let mut before = "old".to_owned();
    for round in 0..5 {
        let leader = cluster.leader(KEY, &[]);
        let leased =
            |cluster: &Cluster| cluster.metric(leader, "flotilla_shard_reads_total{by=\"lease\"}");
        let begin = leased(&cluster);
        for _ in 0..20 {
            let found = read(&cluster, leader, Consistency::Linearizable, LONG);
            assert_eq!(found.expect("it leads").as_ref(), Some(&before));
        }
        assert!(
            leased(&cluster) > begin,
            "some of these reads need no round"
        );
        let current = format!("round {round}");
        stand_still(&mut cluster, &before, &current);
        before = current;
        cluster.until_all_serve();
    }
}

/// A leader stands still, another one is elected and writes `current`, and the old one goes on with reads in its sockets.
fn stand_still(cluster: &mut Cluster, before: &str, current: &str) {
    let old = cluster.leader(KEY, &[]);
    let stream = cluster.stream(old);
    // The connection stands before the process does.
    let found = cluster.block_on(ask(
        &stream,
        get(KEY, Consistency::Linearizable),
        ELECTION_TIMEOUT,
    ));
    assert_eq!(found.map(value).expect("it leads").as_deref(), Some(before));
    cluster.pause(old);
    let new = cluster.leader(KEY, &[old]);
    write(cluster, new, current);
    // Only now, so that the old value is wrong for each of them.
    let reads: Vec<_> = (0..100)
        .map(|_| {
            cluster.spawn(ask(
                &stream,
                get(KEY, Consistency::Linearizable),
                10 * ELECTION_TIMEOUT,
            ))
        })
        .collect();
    std::thread::sleep(3 * ELECTION_TIMEOUT);
    cluster.resume(old);
    assert_refused_or(cluster, reads, current);
}

type Read = tokio::task::JoinHandle<Result<response::Kind>>;

/// Fails if a read has found anything but the value, or if none has ended.
fn assert_refused_or(cluster: &Cluster, reads: Vec<Read>, current: &str) {
    let mut found = 0;
    for read in reads {
        match cluster.block_on(read).expect("no panic") {
            Ok(answer) => {
                assert_eq!(value(answer).as_deref(), Some(current), "a stale read");
                found += 1;
            }
            Err(error) => assert!(error.is_transient(), "{error:?}"),
        }
    }
    eprintln!("{found} of the reads found the current value, the others were refused");
}

#[test]
fn a_new_leader_and_its_followers_serve_no_read_from_before_its_term() {
    let mut cluster = cluster();
    let which = Which::Key(KEY.into());
    for round in 0..3 {
        let old = cluster.leader(KEY, &[]);
        let term = cluster.replica(old, &which).expect("it answers").term;
        let others: Vec<usize> = (0..cluster.len()).filter(|node| *node != old).collect();
        let current = format!("round {round}");
        write(&cluster, old, &current);
        cluster.kill(old);
        // Reads that wait through the election, at the new leader and at its follower, must see the last write.
        let reads: Vec<Read> = others
            .iter()
            .flat_map(|node| {
                let stream = cluster.stream(*node);
                (0..20).map(move |_| (stream.clone(), get(KEY, Consistency::Linearizable)))
            })
            .map(|(stream, kind)| cluster.spawn(async move { ask(&stream, kind, LONG).await }))
            .collect();
        for read in reads {
            let answer = cluster.block_on(read).expect("no panic");
            let answer = answer.unwrap_or_else(|error| panic!("the others are a quorum: {error}"));
            assert_eq!(value(answer), Some(current.clone()));
        }
        let new = cluster.leader(KEY, &[old]);
        assert!(cluster.replica(new, &which).expect("it answers").term > term);
        cluster.start_node(old);
        cluster.until_serves(old);
    }
}
