//! Rounds of read confirmation.

use crate::network::{Network, config};
use bytes::Bytes;
use flotilla_shards::raft::{
    Error, Index, Message, MessageKind, ProtocolError, ReplicaId, Role, Term,
};

#[test]
fn requests_before_a_round_is_sent_share_it() {
    let mut network = Network::led(3, config);
    for context in ["a", "b", "a"] {
        network
            .node(1)
            .read_index(Bytes::from_static(context.as_bytes()))
            .expect("leading");
    }
    network.settle();
    assert_eq!(network.count(MessageKind::Heartbeat), 2, "one round");
    let contexts: Vec<_> = network
        .read_states
        .iter()
        .map(|(_, state)| &state.context[..])
        .collect();
    assert_eq!(contexts, [b"a", b"b", b"a"], "each answered once, in order");
}

#[test]
fn a_request_after_a_round_was_sent_needs_the_next_one() {
    let mut network = Network::led(3, config);
    network.node(1).read_index(Bytes::new()).expect("leading");
    network.work();
    network.node(1).read_index(Bytes::new()).expect("leading");
    network.work();
    let rounds: Vec<_> = network.mail.iter().map(|m| m.round).collect();
    assert_eq!(rounds, [1, 1, 2, 2]);
    // Only the first round arrives: it must not confirm the second request.
    network.mail.truncate(2);
    network.settle();
    assert_eq!(network.read_states.len(), 1);
    // The next heartbeat carries a round, as a request waits.
    network.node(1).tick();
    network.settle();
    assert_eq!(network.read_states.len(), 2);
}

#[test]
fn a_later_round_confirms_earlier_requests() {
    let mut network = Network::led(3, config);
    network.node(1).read_index(Bytes::new()).expect("leading");
    network.work();
    network.mail.clear();
    network.node(1).read_index(Bytes::new()).expect("leading");
    network.settle();
    assert_eq!(network.read_states.len(), 2);
}

#[test]
fn a_confirmation_of_a_round_that_was_never_started_is_an_error() {
    let mut network = Network::led(3, config);
    let answer = Message {
        kind: MessageKind::HeartbeatResp,
        from: ReplicaId(2),
        to: ReplicaId(1),
        term: Term(1),
        round: 7,
        ..Message::default()
    };
    assert!(matches!(
        network.node(1).step(answer),
        Err(Error::Protocol(ProtocolError::RoundOutOfRange { .. }))
    ));
}

#[test]
fn a_single_voter_serves_no_read_before_its_first_commit() {
    let mut network = Network::new(1, config);
    let node = network.node(1);
    node.campaign().expect("storage in memory");
    // With its pre-vote and its vote durable it leads.
    for _ in 0..2 {
        let _ = node.ready();
        node.advance();
    }
    assert_eq!((node.role(), node.committed()), (Role::Leader, Index(0)));
    node.read_index(Bytes::new()).expect("leading");
    assert!(node.raft.read_states().is_empty());
    network.settle();
    assert_eq!(network.read_states[0].1.index, Index(1));
}
