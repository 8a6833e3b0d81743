//! Snapshots that a follower receives: until one is in the state, and what it takes the place of.

use super::*;

/// A snapshot up to index 50, as the leader of `term` sends it.
fn snapshot(term: Term, from: u64, to: u64) -> Message {
    let meta = SnapshotMeta {
        index: Index(50),
        term,
        conf_state: descriptor(SHARD, 3, 1).conf_state(),
    };
    Message {
        kind: MessageKind::Snap,
        from: ReplicaId(from),
        to: ReplicaId(to),
        term,
        snapshot: Some(Box::new(Snapshot {
            meta,
            data: bytes::Bytes::new(),
        })),
        ..Message::default()
    }
}

/// Engine of a node that nothing reaches, and its term.
fn alone(fleet: &mut Fleet, id: u64) -> (&mut Engine<u64, Disk>, Term) {
    fleet.cut.insert(NodeId(id));
    let engine = &mut fleet.node(id).engine;
    let term = engine.status(SHARD).expect("open").term;
    (engine, term)
}

#[test]
fn no_read_is_served_before_a_snapshot_is_in_the_state() {
    let mut fleet = Fleet::new(3, 1);
    let (engine, term) = alone(&mut fleet, 3);
    engine.read(SHARD, 1);
    let asked = engine.turn(1_000).messages.remove(0).message;
    engine
        .handle_message(SHARD, snapshot(term, 1, 3))
        .expect("taken");
    let append = engine.turn(1_000).appends.remove(0);
    let confirmed = Message {
        kind: MessageKind::ReadIndexResp,
        from: ReplicaId(1),
        to: ReplicaId(3),
        term,
        index: Index(50),
        context: asked.context,
        ..Message::default()
    };
    engine.handle_message(SHARD, confirmed).expect("taken");
    assert!(
        engine.turn(1_000).reads.is_empty(),
        "the state is still old"
    );
    for (shard, message) in append.release.local {
        engine.handle_local(shard, message);
    }
    let out = engine.turn(1_000);
    let served: Vec<_> = out.reads.iter().map(|read| read.reply).collect();
    assert_eq!(served, [1]);
}

#[test]
fn entries_that_come_with_a_snapshot_are_part_of_the_log() {
    let mut fleet = Fleet::new(3, 1);
    let (engine, term) = alone(&mut fleet, 3);
    let append = |index: u64| Message {
        kind: MessageKind::App,
        from: ReplicaId(1),
        to: ReplicaId(3),
        term,
        log_term: term,
        index: Index(index),
        entries: vec![Entry {
            term,
            index: Index(index + 1),
            ..Entry::default()
        }],
        ..Message::default()
    };
    // Both come before the engine's next turn.
    engine
        .handle_message(SHARD, snapshot(term, 1, 3))
        .expect("taken");
    engine.handle_message(SHARD, append(50)).expect("taken");
    let written = engine.turn(1_000).appends;
    for (shard, message) in written.into_iter().flat_map(|append| append.release.local) {
        engine.handle_local(shard, message);
    }
    engine.handle_message(SHARD, append(51)).expect("taken");
    let out = engine.turn(1_000);
    assert!(out.failures.is_empty(), "{:?}", out.failures);
    assert_eq!(engine.status(SHARD).expect("open").last, Index(52));
}

#[test]
fn nobody_knows_whether_a_write_is_part_of_a_snapshot() {
    let mut fleet = Fleet::new(3, 1);
    let (_, term) = alone(&mut fleet, 1);
    fleet.node(1).put(SHARD, 1);
    fleet.settle();
    let node = fleet.node(1);
    assert!(node.answered.is_empty() && node.refused.is_empty());
    let next = snapshot(term.next(), 2, 1);
    node.engine.handle_message(SHARD, next).expect("taken");
    // As "superseded" it would be tried again, and may be written twice.
    let refusals = node.engine.turn(1_000).refusals;
    assert_eq!(refusals, [(1, Refused::OutcomeUnknown)]);
}
