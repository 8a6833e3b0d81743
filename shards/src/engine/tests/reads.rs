//! Answers that come late.

use super::*;

/// Found by the simulator: only the batch's number was compared, which begins anew with each process.
#[test]
fn an_answer_to_a_read_of_an_earlier_process_confirms_nothing() {
    let mut fleet = Fleet::new(3, 1);
    fleet.node(2).engine.read(SHARD, 1);
    let asked = fleet.node(2).engine.turn(1_000).messages;
    let asked = asked.into_iter().next().expect("the leader is asked");
    assert_eq!(asked.message.kind, MessageKind::ReadIndex);
    let leader = fleet.node(1);
    leader
        .engine
        .handle_message(SHARD, asked.message)
        .expect("a request");
    let begun = leader.engine.turn(1_000).messages;
    fleet
        .wire
        .extend(begun.into_iter().map(|message| (NodeId(1), message)));
    fleet.cut.insert(NodeId(2));
    // Node 3 confirms the leader; its answer to node 2 is on its way.
    let mut answer = None;
    while answer.is_none() {
        let (from, outgoing) = fleet.wire.pop_front().expect("something is on its way");
        if outgoing.message.kind == MessageKind::ReadIndexResp {
            answer = Some(outgoing.message);
        } else if outgoing.node != NodeId(2) {
            assert_ne!(from, NodeId(2));
            let node = fleet.node(outgoing.node.0);
            node.engine
                .handle_message(SHARD, outgoing.message)
                .expect("correct replicas understand each other");
            let out = node.engine.turn(1_000);
            let id = node.id;
            let mut sent = node.take(out);
            sent.extend(node.write());
            fleet
                .wire
                .extend(sent.into_iter().map(|message| (id, message)));
        }
    }
    fleet.wire.clear();
    fleet.node(1).put(SHARD, 2);
    fleet.settle();
    assert_eq!(fleet.node(1).answered, [2]);

    let disk = fleet.node(2).disk.clone();
    let config = EngineConfig::new(NodeId(2), 1234);
    let mut engine = Engine::new(config, disk.clone(), Arc::default(), fleet.tick);
    let found = recovered(&disk, descriptor(SHARD, 3, 1), GENESIS);
    engine.open(found).expect("what was written is consistent");
    fleet.node(2).engine = engine;
    fleet.cut.clear();
    fleet.tick(4);
    // The new process asks for a read, whose batch has the same number, and hears nothing but the old answer.
    fleet.cut.insert(NodeId(2));
    fleet.node(2).engine.read(SHARD, 3);
    fleet.settle();
    let answer = answer.expect("caught above");
    fleet
        .node(2)
        .engine
        .handle_message(SHARD, answer)
        .expect("a message of the protocol");
    fleet.settle();
    assert!(fleet.node(2).read.is_empty(), "{:?}", fleet.node(2).read);
}
