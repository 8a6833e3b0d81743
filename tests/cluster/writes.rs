//! Writes whose answer is lost, and processes that die at any moment.

use std::{collections::BTreeMap, thread, time::Duration};

use flotilla_proto::v1::{self, condition, operation, request, response};

use flotilla_harness::{
    Cluster, Plan, ask, get,
    load::{Load, assert_kept},
    net::Party,
    value,
};

const QUICK: (&str, &str) = ("raft.election_timeout", "500ms");

/// Appends to the value of a key, as a client does that has read it: only if it is still what was read.
fn append(key: &str, before: &str, added: &str, session: v1::SessionRef) -> request::Kind {
    let key = bytes::Bytes::from(key.to_owned());
    request::Kind::Batch(v1::BatchRequest {
        conditions: vec![v1::Condition {
            key: key.clone(),
            test: Some(condition::Test::ValueEquals(before.to_owned().into())),
        }],
        operations: vec![v1::Operation {
            kind: Some(operation::Kind::Put(v1::PutOperation {
                key,
                value: format!("{before}{added}").into(),
            })),
        }],
        session: Some(session),
    })
}

#[test]
fn a_sessions_write_is_applied_once_when_its_answer_is_lost_with_the_leader() {
    let mut cluster = Cluster::start(Plan {
        settings: vec![QUICK],
        ..Plan::default()
    });
    let key = "list";
    let timeout = Duration::from_secs(30);
    let leader = cluster.leader(key, &[]);
    let open = request::Kind::OpenSession(v1::OpenSessionRequest { key: key.into() });
    let Ok(response::Kind::OpenSession(session)) = cluster.ask(leader, open, timeout) else {
        panic!("no session");
    };
    let reference = |sequence| v1::SessionRef {
        shard_id: session.shard_id,
        number: session.number,
        sequence,
        lowest_unacknowledged: 1,
    };
    let first = request::Kind::Put(v1::PutRequest {
        key: key.into(),
        value: "a".into(),
        session: Some(reference(1)),
    });
    cluster.ask(leader, first, timeout).expect("a quorum");

    // The request gets through and its answer does not.
    let stream = cluster.stream(leader);
    let warm = cluster.block_on(ask(
        &stream,
        get(key, v1::Consistency::Linearizable),
        timeout,
    ));
    assert_eq!(warm.map(value).expect("it leads").as_deref(), Some("a"));
    cluster.net().cut(Party::Node(leader), Party::Client);
    let write = append(key, "a", "b", reference(2));
    let lost = cluster.spawn(ask(&stream, write.clone(), timeout));
    let others: Vec<usize> = (0..cluster.len()).filter(|node| *node != leader).collect();
    cluster.until("the write is applied on the others", |cluster| {
        others.iter().all(|node| {
            let kind = get(key, v1::Consistency::Serializable);
            let found = cluster.ask(*node, kind, Duration::from_secs(1)).map(value);
            found.is_ok_and(|value| value.as_deref() == Some("ab"))
        })
    });
    // The answer that waits in the network is lost with its connection.
    cluster.net().reset(Party::Node(leader), Party::Client);
    cluster.kill(leader);
    cluster.net().heal_all();
    let error = cluster
        .block_on(lost)
        .expect("no panic")
        .expect_err("the answer was lost");
    assert!(!error.nothing_written(), "{error:?}");

    // The same sequence again, through both others: the first answer, though the condition no longer holds.
    let new = cluster.leader(key, &[leader]);
    let repeats: Vec<response::Kind> = others
        .iter()
        .map(|node| {
            cluster
                .ask(*node, write.clone(), timeout)
                .expect("a quorum")
        })
        .collect();
    let response::Kind::Batch(answer) = &repeats[0] else {
        panic!("{repeats:?}");
    };
    assert!(answer.succeeded, "the first answer: {answer:?}");
    assert_eq!(repeats[0], repeats[1]);
    let found = cluster.ask(new, get(key, v1::Consistency::Linearizable), timeout);
    let response::Kind::Get(found) = found.expect("a quorum") else {
        panic!("not the answer to a get");
    };
    assert_eq!(found.value.as_deref(), Some(&b"ab"[..]), "appended once");
    assert_eq!(found.revision, answer.revision, "nothing was written since");

    // And after a restart of everything: the answers are part of the state.
    for node in others {
        cluster.kill(node);
    }
    for node in 0..cluster.len() {
        cluster.start_node(node);
    }
    cluster.until_all_serve();
    let again = cluster.ask(leader, write, timeout).expect("a quorum");
    assert_eq!(again, repeats[0]);
    // Without the session the same request is what it looks like: its condition fails.
    let other = append(key, "a", "b", reference(3));
    let Ok(response::Kind::Batch(answer)) = cluster.ask(leader, other, timeout) else {
        panic!("no answer to a batch");
    };
    assert!(!answer.succeeded, "{answer:?}");
}

#[test]
fn all_processes_killed_at_random_moments_lose_nothing_acknowledged() {
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut cluster = Cluster::start(Plan {
        // Frequent flushes and cuts of the log, so that kills meet them.
        settings: vec![
            QUICK,
            ("storage.flush_age", "1s"),
            ("raft.reserve_entries", "16"),
            ("raft.log_bytes", "1MiB"),
        ],
        ..Plan::default()
    });
    let mut acknowledged = BTreeMap::new();
    for round in 0..4 {
        let load = Load::begin(&cluster, &round.to_string());
        thread::sleep(Duration::from_millis(random.u64(100..1500)));
        let mut order: Vec<usize> = (0..cluster.len()).collect();
        random.shuffle(&mut order);
        for node in order {
            cluster.kill(node);
        }
        acknowledged.extend(load.end(&cluster));
        for node in 0..cluster.len() {
            cluster.start_node(node);
        }
        cluster.until_all_serve();
        let when = format!("round {round}, seed {seed}");
        assert_kept(&cluster, round % cluster.len(), &acknowledged, &when);
    }
    assert!(
        acknowledged.len() > 200,
        "too little was written: {}",
        acknowledged.len()
    );
    cluster.assert_replicas_agree();
}
