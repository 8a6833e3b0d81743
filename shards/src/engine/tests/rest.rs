//! Shards that rest: what it costs, and everything that must wake them.

use super::*;

const SHARDS: u64 = 30;

/// Ticks after which an idle shard rests, with room for the last heartbeats.
fn idle_ticks() -> u64 {
    let config = EngineConfig::new(NodeId(1), 0);
    u64::from(config.quiesce_ticks + 4 * config.heartbeat_ticks)
}

fn election_ticks() -> u64 {
    u64::from(EngineConfig::new(NodeId(1), 0).election_ticks)
}

/// Three nodes whose shards all rest.
fn resting_fleet() -> Fleet {
    let mut fleet = Fleet::new(3, SHARDS);
    fleet.tick(2);
    for shard in 0..SHARDS {
        let leader = fleet.leader(ShardId(SHARD.0 + shard)).expect("led");
        fleet.node(leader).put(ShardId(SHARD.0 + shard), shard);
    }
    fleet.tick(idle_ticks());
    assert_eq!(fleet.resting(), [SHARDS as usize; 3]);
    fleet
}

impl Fleet {
    fn resting(&self) -> Vec<usize> {
        let engines = self.nodes.iter().map(|node| &node.engine);
        engines.map(Engine::resting).collect()
    }

    fn sent(&self) -> usize {
        self.nodes.iter().map(|node| node.sent).sum()
    }

    fn all_led_without(&self, dead: u64) -> bool {
        (0..SHARDS).all(|shard| {
            let leader = self.leader(ShardId(SHARD.0 + shard));
            leader.is_some_and(|leader| leader != dead)
        })
    }

    /// A new process on what is on a node's disk.
    pub(super) fn restart(&mut self, id: u64) {
        let (disk, tick) = (self.node(id).disk.clone(), self.tick);
        let config = EngineConfig {
            leases: self.leases,
            leased_before: self.leased_before,
            ..EngineConfig::new(NodeId(id), 1000 + tick)
        };
        let mut engine = Engine::new(config, disk.clone(), Arc::default(), tick);
        let shards: Vec<ShardId> = self.node(id).engine.shards().collect();
        for shard in shards.into_iter().map(|shard| shard.0 - SHARD.0) {
            let descriptor = descriptor(ShardId(SHARD.0 + shard), 3, shard % 3 + 1);
            let found = recovered(&disk, descriptor, GENESIS);
            engine.open(found).expect("what was written is consistent");
        }
        let node = self.node(id);
        node.engine = engine;
        node.incarnation += 1;
        node.applied.clear();
    }
}

#[test]
fn a_write_to_a_resting_shard_costs_no_heartbeat() {
    let mut fleet = resting_fleet();
    let before = fleet.sent();
    let leader = fleet.leader(SHARD).expect("led");
    fleet.node(leader).put(SHARD, 1);
    fleet.tick(idle_ticks());
    assert_eq!(fleet.resting(), [SHARDS as usize; 3]);
    // The append and the word that the shard rests, to both followers; acknowledgements leave with the log writes.
    assert_eq!(fleet.sent() - before, 4);
}

#[test]
fn a_node_whose_shards_all_rest_sleeps_from_word_to_word() {
    let mut fleet = resting_fleet();
    let config = EngineConfig::new(NodeId(1), 0);
    let mut wakes = 0;
    let begin = fleet.tick;
    while fleet.tick < begin + 1000 {
        let quiet = |node: &mut Node| node.engine.quiet_until();
        fleet.tick = fleet
            .nodes
            .iter_mut()
            .map(quiet)
            .min()
            .expect("three nodes");
        let tick = fleet.tick;
        for node in &mut fleet.nodes {
            node.engine.handle_tick(tick);
        }
        fleet.settle();
        wakes += 1;
    }
    assert!(
        wakes <= 1000 / u64::from(config.alive_ticks()) + 1,
        "{wakes}"
    );
    assert_eq!(fleet.resting(), [SHARDS as usize; 3]);
    // Who dies is missed as soon as by somebody who looks at every tick.
    fleet.cut.insert(NodeId(3));
    let died = fleet.tick;
    while !fleet.all_led_without(3) {
        let quiet = |node: &mut Node| node.engine.quiet_until();
        let next = fleet.nodes.iter_mut().map(quiet).min();
        let next = next.expect("three nodes");
        fleet.tick(next - fleet.tick);
    }
    assert!(
        fleet.tick - died <= election_ticks() + 2,
        "{}",
        fleet.tick - died
    );
}

#[test]
fn idle_shards_cost_one_message_per_node_and_interval() {
    let mut fleet = resting_fleet();
    let before = fleet.sent();
    let mut words = 0;
    for _ in 0..1000 {
        fleet.tick += 1;
        let tick = fleet.tick;
        for node in &mut fleet.nodes {
            node.engine.handle_tick(tick);
            let out = node.engine.turn(1_000);
            words += usize::from(out.alive);
            assert!(
                Output {
                    alive: false,
                    ..out
                }
                .is_empty()
            );
        }
        for node in &mut fleet.nodes {
            for id in [1, 2, 3] {
                if node.id != NodeId(id) {
                    node.engine.handle_alive(NodeId(id), 1);
                }
            }
        }
    }
    let interval = u64::from(EngineConfig::new(NodeId(1), 0).heartbeat_ticks);
    assert_eq!(words as u64, 3 * 1000 / interval);
    assert_eq!(fleet.sent(), before);
    assert_eq!(fleet.resting(), [SHARDS as usize; 3]);
}

#[test]
fn a_write_wakes_its_shard_alone_and_it_rests_again() {
    let mut fleet = resting_fleet();
    let leader = fleet.leader(SHARD).expect("led");
    fleet.node(leader).put(SHARD, 77);
    fleet.settle();
    assert_eq!(fleet.node(leader).answered.last(), Some(&77));
    assert_eq!(fleet.resting(), [SHARDS as usize - 1; 3]);
    fleet.tick(idle_ticks());
    assert_eq!(fleet.resting(), [SHARDS as usize; 3]);
}

#[test]
fn reads_wake_leaders_and_followers() {
    let mut fleet = resting_fleet();
    let leader = fleet.leader(SHARD).expect("led");
    for reader in [leader, leader % 3 + 1] {
        fleet.node(reader).engine.read(SHARD, 5);
        fleet.settle();
        assert_eq!(fleet.node(reader).read, [5], "read at node {reader}");
        fleet.tick(idle_ticks());
    }
    assert_eq!(fleet.resting(), [SHARDS as usize; 3]);
}

#[test]
fn resting_shards_of_a_dead_node_are_led_again_without_traffic() {
    let mut fleet = resting_fleet();
    fleet.tick(500);
    fleet.cut.insert(NodeId(1));
    // The silence must be noticed; the elections themselves take no time here.
    fleet.tick(election_ticks() + 2);
    assert!(fleet.all_led_without(1));
    // They rest although a node is down, and those that it did not lead were not woken.
    fleet.tick(idle_ticks());
    assert_eq!(fleet.resting()[1..], [SHARDS as usize; 2]);
}

#[test]
fn a_node_that_comes_back_catches_up_without_traffic() {
    let mut fleet = resting_fleet();
    fleet.cut.insert(NodeId(3));
    fleet.tick(election_ticks() + idle_ticks());
    for shard in 0..SHARDS {
        let leader = fleet.leader(ShardId(SHARD.0 + shard)).expect("led");
        fleet
            .node(leader)
            .put(ShardId(SHARD.0 + shard), 100 + shard);
    }
    fleet.tick(idle_ticks());
    assert_eq!(
        fleet.resting()[..2],
        [SHARDS as usize; 2],
        "a dead third node keeps nobody awake"
    );
    fleet.cut.clear();
    fleet.tick(3 * election_ticks() + idle_ticks());
    for shard in 0..SHARDS {
        let shard = ShardId(SHARD.0 + shard);
        let [one, _, three] = [1, 2, 3].map(|id| fleet.node(id).applied[&shard].len());
        assert_eq!(one, three, "shard {shard}");
    }
    assert_eq!(fleet.resting(), [SHARDS as usize; 3]);
}

#[test]
fn a_restart_that_nobody_noticed_as_silence_leaves_no_shard_without_leader() {
    let mut fleet = resting_fleet();
    let terms = |fleet: &Fleet| -> Vec<u64> {
        let shards = (0..SHARDS).map(|shard| ShardId(SHARD.0 + shard));
        let status = |shard| fleet.nodes[1].engine.status(shard).expect("open");
        shards.map(|shard| status(shard).term.0).collect()
    };
    let before = terms(&fleet);
    let led_by_1: Vec<bool> = (0..SHARDS)
        .map(|shard| fleet.leader(ShardId(SHARD.0 + shard)) == Some(1))
        .collect();
    fleet.restart(1);
    fleet.tick(2 * election_ticks());
    assert!((0..SHARDS).all(|shard| fleet.leader(ShardId(SHARD.0 + shard)).is_some()));
    // Shards that others lead had no election.
    for ((before, after), led) in before.iter().zip(terms(&fleet)).zip(led_by_1) {
        assert_eq!(after > *before, led);
    }
    fleet.tick(2 * election_ticks() + idle_ticks());
    assert_eq!(fleet.resting(), [SHARDS as usize; 3]);
}

#[test]
fn a_follower_that_missed_the_word_to_rest_disturbs_nobody_for_long() {
    let mut fleet = Fleet::new(3, 1);
    fleet.tick(idle_ticks() / 2);
    let term = fleet.nodes[0].engine.status(SHARD).expect("open").term;
    for _ in 0..5 * idle_ticks() {
        fleet.tick += 1;
        let tick = fleet.tick;
        for node in &mut fleet.nodes {
            node.engine.handle_tick(tick);
        }
        fleet.settle_losing(|outgoing| {
            outgoing.message.kind == MessageKind::Quiesce && outgoing.node == NodeId(3)
        });
    }
    assert_eq!(fleet.leader(SHARD), Some(1));
    fleet.tick(3 * election_ticks() + idle_ticks());
    assert_eq!(fleet.resting(), [1; 3]);
    let after = fleet.nodes[0].engine.status(SHARD).expect("open").term;
    assert_eq!(after, term, "the leader stays");
}

#[test]
fn who_hears_from_a_minority_only_does_not_rest() {
    let mut fleet = Fleet::new(3, 1);
    fleet.tick(2);
    fleet.cut.extend([NodeId(2), NodeId(3)]);
    fleet.tick(10 * election_ticks());
    assert_eq!(fleet.node(1).engine.resting(), 0);
    let status = fleet.node(1).engine.status(SHARD).expect("open");
    assert_ne!(status.role, Role::Leader, "it has found out");
}

#[test]
fn a_node_that_stood_still_does_not_depose_living_leaders() {
    let mut fleet = resting_fleet();
    let terms_before: Vec<_> = (0..SHARDS)
        .map(|shard| {
            fleet.nodes[0]
                .engine
                .status(ShardId(SHARD.0 + shard))
                .expect("open")
                .term
        })
        .collect();
    // Node 2 sleeps for less than an election timeout of the others' patience, then its clock jumps.
    fleet.tick += 500;
    let tick = fleet.tick;
    fleet.node(2).engine.handle_tick(tick);
    fleet.settle();
    for (shard, before) in (0..SHARDS).zip(terms_before) {
        let status = fleet.nodes[0]
            .engine
            .status(ShardId(SHARD.0 + shard))
            .expect("open");
        assert_eq!(status.term, before);
    }
}

#[test]
fn a_node_hands_over_what_rests_and_not_to_the_dead() {
    let mut fleet = resting_fleet();
    fleet.cut.insert(NodeId(3));
    fleet.tick(election_ticks() + idle_ticks());
    assert!(fleet.all_led_without(3));
    let led = (0..SHARDS).filter(|shard| fleet.leader(ShardId(SHARD.0 + shard)) == Some(1));
    let led = led.count();
    assert_eq!(fleet.node(1).engine.drain(), led);
    fleet.settle();
    for shard in 0..SHARDS {
        assert_eq!(fleet.leader(ShardId(SHARD.0 + shard)), Some(2));
    }
}
