//! Leases: what a process that stood still, a restart or a handed over leadership does to them, and that a leader who dies
//! is replaced as soon as without.

use super::*;

fn election_ticks() -> u64 {
    u64::from(EngineConfig::new(NodeId(1), 0).election_ticks)
}

/// Three nodes with leases, and a leader of each shard that was read just now.
fn leased_fleet(shards: u64) -> Fleet {
    let mut fleet = Fleet::begin(3, shards, true);
    fleet.settle();
    fleet.tick(2);
    fleet.read_all(shards);
    assert!(fleet.lease_end(1).is_some());
    fleet
}

/// Whether node 2 votes for another replica than the leader at `tick`.
fn votes(engine: &mut Engine<u64, Disk>, tick: u64) -> bool {
    let vote = Message {
        kind: MessageKind::Vote,
        from: ReplicaId(3),
        to: ReplicaId(2),
        term: Term(100 + tick),
        log_term: Term(90),
        index: Index(90),
        ..Message::default()
    };
    engine.handle_tick(tick);
    engine.handle_message(SHARD, vote).expect("a vote");
    let out = engine.turn(1_000);
    let mut responses = (out.appends.iter()).flat_map(|append| &append.release.messages);
    responses.any(|out| out.message.kind == MessageKind::VoteResp && !out.message.reject)
}

impl Fleet {
    fn lease_end(&self, id: u64) -> Option<u64> {
        self.nodes[id as usize - 1].engine.lease_end(SHARD)
    }

    /// Reads each shard at its leader.
    fn read_all(&mut self, shards: u64) {
        for shard in (0..shards).map(|shard| ShardId(SHARD.0 + shard)) {
            let leader = self.leader(shard).expect("led");
            self.node(leader).engine.read(shard, shard.0);
        }
        self.settle();
    }

    /// Time passes for all but node 1, which stands still and can't be reached.
    fn tick_without_1(&mut self, ticks: u64) {
        self.cut.insert(NodeId(1));
        for _ in 0..ticks {
            self.tick += 1;
            let tick = self.tick;
            for node in &mut self.nodes[1..] {
                node.engine.handle_tick(tick);
            }
            self.settle();
        }
    }
}

#[test]
fn a_lease_answers_at_once() {
    let mut fleet = leased_fleet(1);
    let sent = fleet.node(1).sent;
    fleet.node(1).engine.read(SHARD, 5);
    let out = fleet.node(1).engine.turn(1_000);
    assert!(out.messages.is_empty());
    assert!(matches!(&out.reads[..], [read] if read.leased && read.reply == 5));
    assert_eq!(fleet.node(1).sent, sent);
}

#[test]
fn a_leader_that_stood_still_answers_nothing_by_its_old_lease() {
    let mut fleet = leased_fleet(1);
    fleet.tick_without_1(4 * election_ticks());
    assert!(fleet.leader(SHARD).is_some(), "somebody else leads");
    let asked = Message {
        kind: MessageKind::ReadIndex,
        from: ReplicaId(2),
        to: ReplicaId(1),
        context: vec![7; 16].into(),
        ..Message::default()
    };
    let tick = fleet.tick;
    let engine = &mut fleet.node(1).engine;
    // In the order of a worker: what came in meanwhile, then the clock.
    engine.read(SHARD, 9);
    engine.handle_message(SHARD, asked).expect("a request");
    engine.handle_tick(tick);
    let out = engine.turn(1_000);
    assert!(out.reads.is_empty());
    let answered = |out: &Outgoing| out.message.kind == MessageKind::ReadIndexResp;
    assert!(!out.messages.iter().any(answered));
}

#[test]
fn a_follower_that_stood_still_promises_from_now_on() {
    let mut fleet = leased_fleet(1);
    fleet.node(1).engine.read(SHARD, 5);
    fleet.settle();
    // The heartbeat that renews the lease, as it was used.
    fleet.tick += u64::from(EngineConfig::new(NodeId(1), 0).heartbeat_ticks);
    let tick = fleet.tick;
    fleet.node(1).engine.handle_tick(tick);
    let out = fleet.node(1).engine.turn(1_000);
    let round = |out: &Outgoing| out.message.round != 0 && out.node == NodeId(2);
    let beat = out.messages.into_iter().find(round).expect("a round");
    let promised = tick + 5;
    let engine = &mut fleet.node(2).engine;
    engine
        .handle_message(SHARD, beat.message)
        .expect("a heartbeat");
    engine.handle_tick(promised);
    let out = engine.turn(1_000);
    assert!(out.messages.iter().any(|out| out.message.promise));
    let end = promised + election_ticks();
    assert!((promised..end).all(|tick| !votes(engine, tick)));
    assert!(votes(engine, end));
}

#[test]
fn a_promise_outlives_a_restart_also_one_without_leases() {
    for leases in [true, false] {
        let mut fleet = leased_fleet(1);
        fleet.leases = leases;
        fleet.restart(2);
        let (start, engine) = (fleet.tick, &mut fleet.node(2).engine);
        let end = start + election_ticks();
        assert!((start..end).all(|tick| !votes(engine, tick)), "{leases}");
        assert!(votes(engine, end), "{leases}");
    }
}

#[test]
fn who_hands_over_has_no_lease_when_the_word_leaves() {
    let mut fleet = leased_fleet(1);
    assert!(fleet.node(1).engine.transfer_leader(SHARD, NodeId(2)));
    assert_eq!(fleet.lease_end(1), None);
    fleet.settle();
    assert_eq!(fleet.leader(SHARD), Some(2));
    // As when it drains.
    fleet.node(2).engine.read(SHARD, 1);
    fleet.settle();
    assert!(fleet.lease_end(2).is_some());
    fleet.node(2).engine.drain();
    assert_eq!(fleet.lease_end(2), None);
}

/// Ticks until the shards of a leader are led again that dies when they have been idle for so long.
fn failover(leases: bool, idle: u64) -> u64 {
    const SHARDS: u64 = 12;
    let mut fleet = Fleet::begin(3, SHARDS, leases);
    fleet.settle();
    fleet.tick(20);
    fleet.read_all(SHARDS);
    fleet.tick(idle);
    let died = fleet.tick;
    fleet.cut.insert(NodeId(1));
    let shards = || (0..SHARDS).map(|shard| ShardId(SHARD.0 + shard));
    while !shards().all(|shard| fleet.leader(shard).is_some()) {
        fleet.tick(1);
    }
    fleet.tick - died
}

#[test]
fn a_leader_that_dies_is_replaced_as_soon_as_without_leases() {
    // Shards that are read until the end, such that have just gone to rest, and such that have rested for a while.
    for idle in 0..12 {
        let (leased, safe) = (failover(true, idle), failover(false, idle));
        assert!(leased <= safe + 3, "idle for {idle}: {leased} and {safe}");
    }
}

/// What the engine said last about the lease.
fn said(out: &Output<u64>) -> Option<u64> {
    out.leases.last().map(|lease| lease.until)
}

#[test]
fn an_open_lease_closes_before_anybody_learns_of_a_commit_and_opens_when_it_is_applied() {
    let mut fleet = leased_fleet(1);
    let end = fleet.lease_end(1);
    assert_eq!(Some(fleet.node(1).open_lease), end);
    for node in &mut fleet.nodes {
        node.disk_stalled = true;
    }
    fleet.node(1).put(SHARD, 1);
    fleet.settle();
    assert_eq!(Some(fleet.node(1).open_lease), end, "nothing is committed");
    // The leader's own write, and that of a follower.
    let acknowledged = fleet.node(2).write();
    fleet.node(1).write();
    for out in acknowledged {
        let engine = &mut fleet.node(1).engine;
        engine.handle_message(SHARD, out.message).expect("sound");
    }
    let mut out = fleet.node(1).engine.turn(1_000);
    assert_eq!(out.applies.len(), 1, "committed");
    assert_eq!(said(&out), Some(0), "closed in the same turn");
    let engine = &mut fleet.node(1).engine;
    for message in std::mem::take(&mut out.applies[0].done) {
        engine.handle_local(SHARD, message);
    }
    assert_eq!(said(&engine.turn(1_000)), end);
}

#[test]
fn reads_by_an_open_lease_keep_it_open() {
    let mut fleet = leased_fleet(1);
    for _ in 0..4 * election_ticks() {
        let tick = fleet.tick;
        assert!(fleet.node(1).open_lease > tick, "at tick {tick}");
        fleet.node(1).engine.handle_leased_reads(SHARD, 3);
        fleet.tick(1);
    }
    let status = fleet.node(1).engine.status(SHARD).expect("open");
    assert_eq!(status.load.reads, 1 + 3 * 4 * election_ticks());
    fleet.tick(4 * election_ticks());
    let tick = fleet.tick;
    assert!(
        fleet.node(1).open_lease <= tick,
        "nobody reads: it is not renewed"
    );
}

#[test]
fn who_hands_over_closes_its_lease_first() {
    let mut fleet = leased_fleet(1);
    assert!(fleet.node(1).engine.transfer_leader(SHARD, NodeId(2)));
    let out = fleet.node(1).engine.turn(1_000);
    let told = |out: &Outgoing| out.message.kind == MessageKind::TimeoutNow;
    assert!(out.messages.iter().any(told));
    assert_eq!(said(&out), Some(0));
}
