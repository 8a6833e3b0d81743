//! Section 16: writes and applications as messages to storage threads.

use crate::harness::*;

type Replica = RawNode<MemoryStorage>;

fn asynchronous(setup: Setup) -> Replica {
    setup
        .with(|config| config.async_storage_writes = true)
        .raw()
}

/// Follower 1 of 2, at term 1, with nothing in its log.
fn follower() -> Replica {
    asynchronous(Setup::new(1, &[1, 2]).term(1))
}

fn step(node: &mut Replica, message: Message) {
    node.step(message).expect("a sound message");
}

/// The message of a [`Ready`] to a storage thread.
fn request(ready: &Ready, kind: MessageKind) -> Option<Message> {
    let found = of_kind(&ready.messages, kind);
    assert!(found.len() <= 1, "{ready:?}");
    found.first().map(|&message| message.clone())
}

/// Does a write and delivers its answers to the node itself.
fn write(node: &mut Replica, append: &Message) {
    assert_eq!(
        (append.kind, append.to),
        (StorageAppend, ReplicaId::APPEND_THREAD)
    );
    let storage = node.storage_mut();
    if let Some(snapshot) = &append.snapshot {
        storage
            .apply_snapshot(Snapshot::clone(snapshot))
            .expect("newer than the one before");
    }
    storage.append(&append.entries).expect("no gap");
    for response in append
        .responses
        .iter()
        .filter(|response| response.to == ReplicaId(1))
    {
        step(node, response.clone());
    }
}

/// Says that an application is done.
fn applied(node: &mut Replica, apply: &Message) {
    assert_eq!(
        (apply.kind, apply.to),
        (StorageApply, ReplicaId::APPLY_THREAD)
    );
    for response in &apply.responses {
        step(node, response.clone());
    }
}

/// Writes and applies until nothing is left to do.
fn settle_all(node: &mut Replica) {
    while node.has_ready() {
        let ready = node.ready();
        if let Some(append) = request(&ready, StorageAppend) {
            write(node, &append);
        }
        if let Some(apply) = request(&ready, StorageApply) {
            applied(node, &apply);
        }
    }
}

/// A leader of one, with its empty entry applied.
fn leader(setup: Setup) -> Replica {
    let mut node = asynchronous(setup);
    node.campaign().expect("in memory");
    settle_all(&mut node);
    assert_eq!((node.role(), node.applied()), (Leader, Index(1)));
    node
}

/// An append of leader 2.
fn append(term: u64, prev: (u64, u64), terms: &[u64]) -> Message {
    msg(App, 2, 1)
        .term(term)
        .log(prev.0, prev.1)
        .entries(entries(prev.0 + 1, terms))
}

#[test]
fn y01_acknowledgements_and_votes_wait_for_the_append_thread() {
    for (message, answer) in [
        (append(1, (0, 0), &[1]), AppResp),
        (msg(Vote, 2, 1).term(1), VoteResp),
        (msg(PreVote, 2, 1).term(2), PreVoteResp),
    ] {
        let mut node = follower();
        step(&mut node, message);
        let ready = node.ready();
        let write = request(&ready, StorageAppend).expect("a write");
        assert_eq!(ready.messages.len(), 1, "{ready:?}");
        assert_eq!(of_kind(&write.responses, answer).len(), 1, "{write:?}");
    }
    let mut node = follower();
    step(&mut node, msg(Heartbeat, 2, 1).term(1));
    assert_eq!(node.ready().messages, [msg(HeartbeatResp, 1, 2).term(1)]);

    let mut node = asynchronous(Setup::new(1, &[1, 2]));
    node.campaign().expect("in memory");
    let ready = node.ready();
    assert_eq!(of_kind(&ready.messages, Vote).len(), 1);
    let own = request(&ready, StorageAppend).expect("a write").responses;
    assert_eq!(own, [msg(VoteResp, 1, 1).term(1)], "the own vote");
}

#[test]
fn y02_acknowledgement_of_a_lower_term() {
    let mut node = follower();
    step(&mut node, append(1, (0, 0), &[1]));
    let write = request(&node.ready(), StorageAppend).expect("a write");
    step(&mut node, msg(Heartbeat, 2, 1).term(2));
    let response = of_kind(&write.responses, StorageAppendResp)[0].clone();
    assert_eq!((response.term, response.index), (Term(1), Index(1)));
    step(&mut node, response);
    assert_eq!(positions(node.raft.log().unstable().entries()), [(1, 1)]);

    let mut node = follower();
    step(
        &mut node,
        msg(Snap, 2, 1)
            .term(1)
            .snapshot(snapshot(11, 1, voters(&[1, 2]))),
    );
    let write = request(&node.ready(), StorageAppend).expect("a write");
    step(&mut node, msg(Heartbeat, 2, 1).term(2));
    node.storage_mut()
        .apply_snapshot(snapshot(11, 1, voters(&[1, 2])))
        .expect("the first");
    step(
        &mut node,
        of_kind(&write.responses, StorageAppendResp)[0].clone(),
    );
    assert_eq!(
        (node.applied(), node.raft.log().has_unstable_snapshot()),
        (Index(11), false)
    );
}

#[test]
fn y03_acknowledgement_of_what_is_not_there() {
    let mut node = follower();
    step(&mut node, append(1, (0, 0), &[1, 1]));
    node.ready();
    for (index, log_term) in [(1, 2), (3, 1), (2, 7)] {
        let stable = Message {
            from: ReplicaId::APPEND_THREAD,
            ..msg(StorageAppendResp, 1, 1)
        };
        step(&mut node, stable.term(1).log(index, log_term));
        assert_eq!(
            positions(node.raft.log().unstable().entries()),
            [(1, 1), (2, 1)],
            "{index}/{log_term}"
        );
    }
}

#[test]
fn y04_every_write_acknowledges_what_is_unstable() {
    let mut node = follower();
    step(&mut node, append(1, (0, 0), &[1]));
    let first = request(&node.ready(), StorageAppend).expect("a write");
    step(&mut node, msg(Heartbeat, 2, 1).term(2));
    let second = request(&node.ready(), StorageAppend).expect("a write");
    assert_eq!(
        (second.entries.len(), second.term),
        (0, Term(2)),
        "only a hard state"
    );
    let stable = Message {
        from: ReplicaId::APPEND_THREAD,
        ..msg(StorageAppendResp, 1, 1)
    };
    assert_eq!(second.responses, [stable.term(2).log(1, 1)]);
    write(&mut node, &first);
    assert!(
        node.raft.log().has_unstable_entries(),
        "the first is outdated"
    );
    write(&mut node, &second);
    assert!(!node.raft.log().has_unstable_entries());
}

#[test]
fn y05_entries_are_applied_when_stable_here() {
    let mut node = follower();
    step(&mut node, append(1, (0, 0), &[1]).commit(1));
    let ready = node.ready();
    assert_eq!(node.committed(), Index(1));
    assert_eq!(request(&ready, StorageApply), None);
    write(&mut node, &request(&ready, StorageAppend).expect("a write"));
    let apply = request(&node.ready(), StorageApply).expect("an application");
    assert_eq!(positions(&apply.entries), [(1, 1)]);
}

#[test]
fn y06_acknowledged_application() {
    let mut node = leader(Setup::new(1, &[1]));
    node.propose("12345678".into()).expect("leading");
    let ready = node.ready();
    write(&mut node, &request(&ready, StorageAppend).expect("a write"));
    let apply = request(&node.ready(), StorageApply).expect("an application");
    let size = entries_size(&apply.entries);
    let state = |node: &Replica| {
        (
            node.applied().0,
            node.raft.log().applying_size(),
            node.raft.uncommitted_size(),
        )
    };
    assert_eq!(state(&node), (1, size, 8));
    applied(&mut node, &apply);
    assert_eq!(state(&node), (2, 0, 0));
}

#[test]
fn y07_advance_panics() {
    let mut node = follower();
    assert!(panics(|| node.advance()));
}

#[test]
fn y08_applications_are_limited_in_size() {
    let mut node =
        leader(Setup::new(1, &[1]).with(|config| config.max_committed_size_per_ready = 2048));
    let mut applications = Vec::new();
    for proposal in 1..=3 {
        node.propose(vec![b'a'; 1024].into()).expect("leading");
        let ready = node.ready();
        write(&mut node, &request(&ready, StorageAppend).expect("a write"));
        assert_eq!(node.committed(), Index(1 + proposal));
        let apply = request(&node.ready(), StorageApply);
        assert_eq!(apply.is_some(), proposal < 3, "{proposal}");
        applications.extend(apply);
    }
    assert!(!node.has_ready());
    applied(&mut node, &applications[0]);
    let apply = request(&node.ready(), StorageApply).expect("an application");
    assert_eq!(positions(&apply.entries), [(4, 1)]);
}

#[test]
fn y09_entries_in_progress_are_not_handed_out_again() {
    let mut node = follower();
    let handed_out = |node: &mut Replica| {
        request(&node.ready(), StorageAppend).map_or(vec![], |write| write.entries)
    };
    step(&mut node, append(1, (0, 0), &[1, 1]));
    assert_eq!(handed_out(&mut node), entries(1, &[1, 1]));
    step(&mut node, append(1, (2, 1), &[1]));
    assert_eq!(handed_out(&mut node), entries(3, &[1]));
    step(&mut node, append(1, (0, 0), &[1, 1, 1]));
    assert_eq!(handed_out(&mut node), []);
    step(&mut node, append(2, (1, 1), &[2]));
    assert_eq!(handed_out(&mut node), entries(2, &[2]), "overwritten");
}

#[test]
fn y10_no_write_and_no_response_without_reason() {
    let mut node = asynchronous(Setup::new(1, &[1, 2]).log(&[1]));
    step(&mut node, msg(Heartbeat, 2, 1).term(1));
    assert_eq!(
        request(&node.ready(), StorageAppend),
        None,
        "nothing to store"
    );

    step(&mut node, msg(Heartbeat, 2, 1).term(1).commit(1));
    let write = request(&node.ready(), StorageAppend).expect("a write");
    assert_eq!((write.term, write.commit), (Term(1), Index(1)));
    assert_eq!(write.responses, [], "a hard state alone");
}
