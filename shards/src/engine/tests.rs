//! The engine's own rules, shown with a few engines whose surroundings are a handful of queues. Faults in every order
//! are the simulator's business (`shards/sim`).
#![expect(
    clippy::disallowed_types,
    reason = "a disk that an engine and a test hold at once"
)]

mod census;
mod leases;
mod reads;
mod rest;
mod snapshots;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex},
};

use flotilla_proto::v1::{Command, CommandBatch, OpenSession, command};
use prost::Message as _;

use super::*;
use crate::{
    descriptor::{Descriptor, Epoch, KeyRange, Replica as Member},
    raft::{ConfState, Entry, EntryId, HardState, ReplicaId, Role, Snapshot, SnapshotMeta, Term},
};

const SHARD: ShardId = ShardId(2);
const GENESIS: EntryId = EntryId {
    term: Term(1),
    index: Index(5),
};

/// What a node's log store holds, per shard.
#[derive(Clone, Debug, Default)]
struct Disk(Arc<Mutex<BTreeMap<ShardId, DiskLog>>>);

#[derive(Clone, Debug, Default)]
struct DiskLog {
    hard_state: HardState,
    entries: BTreeMap<Index, Entry>,
    compacted: EntryId,
}

impl LogReader for Disk {
    fn entries(
        &self,
        shard: ShardId,
        low: Index,
        high: Index,
        _: u64,
    ) -> Result<Vec<Entry>, String> {
        let logs = self.0.lock().map_err(|error| error.to_string())?;
        let log = logs.get(&shard).ok_or("no such log")?;
        Ok(log
            .entries
            .range(low..high)
            .map(|(_, entry)| entry.clone())
            .collect())
    }

    fn term(&self, shard: ShardId, index: Index) -> Result<Term, String> {
        let logs = self.0.lock().map_err(|error| error.to_string())?;
        let entry = logs.get(&shard).and_then(|log| log.entries.get(&index));
        entry
            .map(|entry| entry.term)
            .ok_or_else(|| format!("no entry at {index}"))
    }
}

struct Node {
    id: NodeId,
    engine: Engine<u64, Disk>,
    disk: Disk,
    writes: VecDeque<LogAppend>,
    /// While set, log writes wait in `writes`.
    disk_stalled: bool,
    applied: BTreeMap<ShardId, Vec<Entry>>,
    answered: Vec<u64>,
    read: Vec<u64>,
    refused: Vec<(u64, Refused)>,
    changes: Vec<RoleChange>,
    compactions: Vec<Compaction>,
    sent: usize,
    incarnation: u64,
    says_alive: bool,
    /// Up to which tick the lease of the first shard is open.
    open_lease: u64,
}

struct Fleet {
    nodes: Vec<Node>,
    wire: VecDeque<(NodeId, Outgoing)>,
    /// Words of nodes that they live, with the number of their start.
    alive: Vec<(NodeId, u64)>,
    cut: BTreeSet<NodeId>,
    tick: u64,
    /// How nodes are started from now on.
    leases: bool,
    leased_before: bool,
}

fn descriptor(shard: ShardId, nodes: u64, first: u64) -> Descriptor {
    let member = |n: u64| Member {
        id: ReplicaId(n),
        node: NodeId(n),
        learner: false,
    };
    Descriptor {
        shard,
        range: KeyRange::all(),
        epoch: Epoch {
            membership: 1,
            range: 1,
        },
        replicas: (0..nodes)
            .map(|n| member((first - 1 + n) % nodes + 1))
            .collect(),
    }
}

fn recovered(disk: &Disk, descriptor: Descriptor, applied: EntryId) -> RecoveredReplica {
    let mut logs = disk.0.lock().expect("no thread panicked");
    let log = logs.entry(descriptor.shard).or_insert_with(|| DiskLog {
        compacted: GENESIS,
        ..DiskLog::default()
    });
    let last = log
        .entries
        .values()
        .next_back()
        .map_or(log.compacted, |entry| EntryId {
            term: entry.term,
            index: entry.index,
        });
    RecoveredReplica {
        conf_state: descriptor.conf_state(),
        descriptor: Arc::new(descriptor),
        hard_state: HardState {
            commit: log.hard_state.commit.max(applied.index),
            ..log.hard_state
        },
        compacted: log.compacted,
        last,
        applied,
        log_bytes: 0,
    }
}

impl Fleet {
    fn new(nodes: u64, shards: u64) -> Self {
        let mut fleet = Self::begin(nodes, shards, false);
        fleet.settle();
        fleet
    }

    /// Nodes that have not had a turn yet.
    fn begin(nodes: u64, shards: u64, leases: bool) -> Self {
        let nodes = (1..=nodes)
            .map(|n| {
                let disk = Disk::default();
                let config = EngineConfig {
                    leases,
                    ..EngineConfig::new(NodeId(n), 77 + n)
                };
                let mut engine = Engine::new(config, disk.clone(), Arc::default(), 0);
                for shard in 0..shards {
                    let descriptor = descriptor(ShardId(SHARD.0 + shard), nodes, shard % nodes + 1);
                    let found = recovered(&disk, descriptor, GENESIS);
                    engine.open(found).expect("a new replica opens");
                }
                Node {
                    id: NodeId(n),
                    engine,
                    disk,
                    writes: VecDeque::new(),
                    disk_stalled: false,
                    applied: BTreeMap::new(),
                    answered: Vec::new(),
                    read: Vec::new(),
                    refused: Vec::new(),
                    changes: Vec::new(),
                    compactions: Vec::new(),
                    sent: 0,
                    incarnation: 1,
                    says_alive: false,
                    open_lease: 0,
                }
            })
            .collect();
        Self {
            nodes,
            wire: VecDeque::new(),
            alive: Vec::new(),
            cut: BTreeSet::new(),
            tick: 0,
            leases,
            leased_before: leases,
        }
    }

    fn node(&mut self, id: u64) -> &mut Node {
        &mut self.nodes[id as usize - 1]
    }

    /// Runs without time passing until nothing moves.
    fn settle(&mut self) {
        self.settle_losing(|_| false);
    }

    /// As [`Fleet::settle`], with a network that loses some messages.
    fn settle_losing(&mut self, lost: impl Fn(&Outgoing) -> bool) {
        loop {
            let mut moved = false;
            for node in &mut self.nodes {
                let out = node.engine.turn(1_000);
                moved |= !out.is_empty();
                let sent = node.take(out);
                if std::mem::take(&mut node.says_alive) {
                    self.alive.push((node.id, node.incarnation));
                }
                self.wire
                    .extend(sent.into_iter().map(|message| (node.id, message)));
                if !node.disk_stalled {
                    moved |= !node.writes.is_empty();
                    let released = node.write();
                    self.wire
                        .extend(released.into_iter().map(|message| (node.id, message)));
                }
            }
            for (from, incarnation) in std::mem::take(&mut self.alive) {
                for node in &mut self.nodes {
                    if node.id != from && !self.cut.contains(&from) && !self.cut.contains(&node.id)
                    {
                        node.engine.handle_alive(from, incarnation);
                    }
                }
            }
            while let Some((from, outgoing)) = self.wire.pop_front() {
                moved = true;
                if self.cut.contains(&from) || self.cut.contains(&outgoing.node) || lost(&outgoing)
                {
                    continue;
                }
                let node = self.node(outgoing.node.0);
                node.engine
                    .handle_message(outgoing.shard, outgoing.message)
                    .expect("correct replicas understand each other");
            }
            if !moved {
                return;
            }
        }
    }

    fn tick(&mut self, ticks: u64) {
        for _ in 0..ticks {
            self.tick += 1;
            for node in &mut self.nodes {
                node.engine.handle_tick(self.tick);
            }
            self.settle();
        }
    }

    fn leader(&self, shard: ShardId) -> Option<u64> {
        let leads = |node: &&Node| {
            !self.cut.contains(&node.id)
                && node
                    .engine
                    .status(shard)
                    .is_some_and(|status| status.role == Role::Leader)
        };
        self.nodes.iter().find(leads).map(|node| node.id.0)
    }
}

impl Node {
    fn take(&mut self, out: Output<u64>) -> Vec<Outgoing> {
        assert_eq!(out.failures, Vec::new());
        self.writes.extend(out.appends);
        for apply in out.applies {
            for (id, replies) in apply.waiters {
                let entry = apply.entries.iter().find(|entry| entry.index == id.index);
                let data = &entry.expect("waiters name entries of their batch").data;
                let batch = CommandBatch::decode(data.clone()).expect("encoded by the engine");
                assert_eq!(batch.commands.len(), replies.len());
                self.answered.extend(replies);
            }
            self.applied
                .entry(apply.shard)
                .or_default()
                .extend(apply.entries);
            for message in apply.done {
                self.engine.handle_local(apply.shard, message);
            }
        }
        self.read
            .extend(out.reads.into_iter().map(|read| read.reply));
        self.refused.extend(out.refusals);
        self.changes.extend(out.changes);
        self.compactions.extend(out.compactions);
        self.says_alive |= out.alive;
        let mut leases = out.leases.iter().filter(|lease| lease.shard == SHARD);
        self.open_lease = (leases.next_back()).map_or(self.open_lease, |lease| lease.until);
        self.sent += out.messages.len();
        out.messages
    }

    /// Makes all waiting writes durable, and lets go what waited for them.
    fn write(&mut self) -> Vec<Outgoing> {
        let mut messages = Vec::new();
        for append in std::mem::take(&mut self.writes) {
            {
                let mut logs = self.disk.0.lock().expect("no thread panicked");
                let log = logs.entry(append.shard).or_default();
                if let Some(hard_state) = append.hard_state {
                    log.hard_state = hard_state;
                }
                if let Some(first) = append.entries.first() {
                    log.entries.split_off(&first.index);
                }
                for entry in append.entries {
                    log.entries.insert(entry.index, entry);
                }
            }
            messages.extend(append.release.messages);
            for (shard, message) in append.release.local {
                self.engine.handle_local(shard, message);
            }
        }
        messages
    }

    fn put(&mut self, shard: ShardId, reply: u64) {
        let command = Command {
            kind: Some(command::Kind::OpenSession(OpenSession {})),
            ..Command::default()
        };
        let bytes = command.encoded_len();
        self.engine.propose(
            shard,
            Proposal {
                command,
                bytes,
                reply,
            },
        );
    }
}

#[test]
fn the_first_replica_of_a_new_shard_leads_at_once() {
    let fleet = Fleet::new(3, 6);
    for shard in 0..6 {
        assert_eq!(fleet.leader(ShardId(SHARD.0 + shard)), Some(shard % 3 + 1));
    }
}

#[test]
fn commands_that_come_during_a_write_become_one_entry() {
    let mut fleet = Fleet::new(3, 1);
    fleet.node(1).disk_stalled = true;
    fleet.node(1).put(SHARD, 0);
    fleet.settle();
    for reply in 1..=100 {
        fleet.node(1).put(SHARD, reply);
        fleet.settle();
    }
    fleet.node(1).disk_stalled = false;
    fleet.settle();
    assert_eq!(fleet.node(1).answered, (0..=100).collect::<Vec<_>>());
    let entries = fleet.node(1).applied[&SHARD]
        .iter()
        .filter(|entry| !entry.data.is_empty());
    assert_eq!(entries.count(), 2);
}

#[test]
fn followers_commit_while_the_leaders_own_disk_stands_still() {
    let mut fleet = Fleet::new(3, 1);
    fleet.node(1).disk_stalled = true;
    fleet.node(1).put(SHARD, 7);
    fleet.settle();
    let commit = fleet.node(1).engine.status(SHARD).expect("open").commit;
    assert_eq!(
        fleet.node(1).applied[&SHARD]
            .last()
            .map(|entry| entry.index),
        Some(commit.prev())
    );
    assert!(
        fleet.node(1).answered.is_empty(),
        "it applies what is durable here"
    );
    fleet.node(1).disk_stalled = false;
    fleet.settle();
    assert_eq!(fleet.node(1).answered, [7]);
}

#[test]
fn votes_and_acknowledgements_wait_for_the_disk() {
    let mut fleet = Fleet::new(3, 1);
    fleet.node(2).disk_stalled = true;
    fleet.node(3).disk_stalled = true;
    fleet.node(1).put(SHARD, 1);
    fleet.settle();
    assert!(
        fleet.node(1).answered.is_empty(),
        "no follower has it on disk"
    );
    fleet.node(3).disk_stalled = false;
    fleet.settle();
    assert_eq!(fleet.node(1).answered, [1]);
}

#[test]
fn one_confirmation_serves_all_reads_of_a_turn() {
    let mut fleet = Fleet::new(3, 1);
    let before = fleet.node(1).sent;
    for reply in 0..50 {
        fleet.node(1).engine.read(SHARD, reply);
    }
    fleet.settle();
    assert_eq!(fleet.node(1).read, (0..50).collect::<Vec<_>>());
    assert_eq!(
        fleet.node(1).sent - before,
        2,
        "one heartbeat to each follower"
    );
}

#[test]
fn a_follower_serves_reads_at_the_leaders_index() {
    let mut fleet = Fleet::new(3, 1);
    fleet.node(1).put(SHARD, 1);
    fleet.node(2).engine.read(SHARD, 9);
    fleet.settle();
    assert_eq!(fleet.node(2).read, [9]);
}

#[test]
fn a_leader_that_is_cut_off_refuses_reads_in_bounded_time() {
    let mut fleet = Fleet::new(3, 1);
    fleet.cut.insert(NodeId(1));
    fleet.node(1).engine.read(SHARD, 1);
    let ticks = u64::from(EngineConfig::new(NodeId(1), 0).read_ticks);
    fleet.tick(ticks + 1);
    assert_eq!(fleet.node(1).refused, [(1, Refused::Unconfirmed)]);
    assert!(fleet.node(1).read.is_empty());
}

#[test]
fn a_new_leader_serves_no_read_before_an_entry_of_its_own_term_is_committed() {
    let mut fleet = Fleet::new(3, 1);
    // The others have the entry, and only the leader knows that it is committed.
    fleet.node(1).put(SHARD, 1);
    fleet.settle_losing(|outgoing| {
        outgoing.node != NodeId(1) && outgoing.message.kind != MessageKind::App
    });
    assert_eq!(fleet.node(1).answered, [1]);
    let committed = fleet.node(1).engine.status(SHARD).expect("it is there");
    fleet.cut.insert(NodeId(1));
    // They elect a leader, whose own first entry nobody acknowledges.
    let acknowledges = |outgoing: &Outgoing| outgoing.message.kind == MessageKind::AppResp;
    for _ in 0..60 {
        fleet.tick += 1;
        for node in &mut fleet.nodes {
            node.engine.handle_tick(fleet.tick);
        }
        fleet.settle_losing(acknowledges);
        if fleet.leader(SHARD).is_some() {
            break;
        }
    }
    let new = fleet.leader(SHARD).expect("the others elect one");
    let behind = fleet.node(new).engine.status(SHARD).expect("it is there");
    assert!(
        behind.commit < committed.commit,
        "or the test shows nothing"
    );
    // Heartbeats are answered all the time: that it leads is not in doubt.
    let follower = 5 - new;
    fleet.node(new).engine.read(SHARD, 7);
    fleet.node(follower).engine.read(SHARD, 8);
    for _ in 0..5 {
        fleet.tick += 1;
        for node in &mut fleet.nodes {
            node.engine.handle_tick(fleet.tick);
        }
        fleet.settle_losing(acknowledges);
    }
    assert_eq!(fleet.node(new).read, [0; 0]);
    assert_eq!(fleet.node(follower).read, [0; 0]);
    fleet.tick(3);
    assert_eq!(fleet.node(new).read, [7]);
    assert_eq!(fleet.node(follower).read, [8]);
    let status = fleet.node(new).engine.status(SHARD).expect("it is there");
    assert!(status.applied > committed.commit);
}

#[test]
fn leaders_of_a_new_cluster_are_spread_also_if_its_nodes_come_late() {
    let mut fleet = Fleet::begin(3, 30, false);
    fleet.cut.extend((1..=3).map(NodeId));
    fleet.tick(u64::from(EngineConfig::new(NodeId(1), 0).election_ticks) / 2);
    assert_eq!(fleet.leader(SHARD), None);
    fleet.cut.clear();
    fleet.tick(u64::from(EngineConfig::new(NodeId(1), 0).heartbeat_ticks) + 1);
    for shard in 0..30 {
        let first = shard % 3 + 1;
        assert_eq!(fleet.leader(ShardId(SHARD.0 + shard)), Some(first));
    }
}

#[test]
fn candidates_that_wait_for_another_turn_hold_nobody_back() {
    let shards = 12_000;
    let mut fleet = Fleet::begin(3, shards, false);
    // Nobody answers anybody, until those that began first have lost their elections and wait once more.
    fleet.cut.extend((1..=3).map(NodeId));
    fleet.tick(4 * u64::from(EngineConfig::new(NodeId(1), 0).election_ticks));
    fleet.cut.clear();
    let led = |fleet: &Fleet| {
        let shards = (0..shards).map(|shard| ShardId(SHARD.0 + shard));
        shards
            .filter(|shard| fleet.leader(*shard).is_some())
            .count()
    };
    // With the fewest that begin in a tick it would take twice as long on three nodes.
    fleet.tick(shards / (2 * 3 * 64));
    assert_eq!(led(&fleet), shards as usize);
}

#[test]
fn a_dead_leaders_shards_are_led_again_within_two_timeouts() {
    let mut fleet = Fleet::new(3, 30);
    fleet.tick(50);
    fleet.cut.insert(NodeId(1));
    let config = EngineConfig::new(NodeId(1), 0);
    fleet.tick(u64::from(config.election_ticks) * 4);
    for shard in 0..30 {
        assert!(
            fleet.leader(ShardId(SHARD.0 + shard)).is_some(),
            "shard {shard}"
        );
    }
}

#[test]
fn a_write_overwritten_by_the_next_leader_was_not_applied() {
    let mut fleet = Fleet::new(3, 1);
    fleet.cut.insert(NodeId(1));
    fleet.node(1).put(SHARD, 1);
    fleet.settle();
    fleet.tick(60);
    let leader = fleet.leader(SHARD).expect("the others elect one");
    fleet.node(leader).put(SHARD, 2);
    fleet.settle();
    assert_eq!(fleet.node(leader).answered, [2]);
    fleet.cut.clear();
    fleet.tick(10);
    assert!(fleet.node(1).answered.is_empty());
    assert_eq!(fleet.node(1).refused, [(1, Refused::Superseded)]);
}

#[test]
fn writes_beyond_the_next_leaders_log_are_answered_without_another_write() {
    let mut fleet = Fleet::new(3, 1);
    fleet.cut.insert(NodeId(1));
    for reply in 1..=5 {
        fleet.node(1).put(SHARD, reply);
        fleet.settle();
    }
    fleet.tick(60);
    fleet.cut.clear();
    fleet.tick(10);
    // The next leader's only entry is at the index of the first.
    let expected: Vec<_> = (1..=5).map(|reply| (reply, Refused::Superseded)).collect();
    assert_eq!(fleet.node(1).refused, expected);
}

#[test]
fn a_follower_refuses_writes_and_names_the_leader() {
    let mut fleet = Fleet::new(3, 1);
    fleet.node(2).put(SHARD, 1);
    fleet.node(2).put(ShardId(99), 2);
    fleet.settle();
    let leader = Some(NodeId(1));
    assert_eq!(
        fleet.node(2).refused,
        [
            (2, Refused::NoReplica { shard: ShardId(99) }),
            (1, Refused::NotLeader { leader }),
        ]
        .into_iter()
        .rev()
        .collect::<Vec<_>>()
    );
}

#[test]
fn a_drained_node_leads_nothing() {
    let mut fleet = Fleet::new(3, 9);
    assert_eq!(fleet.node(1).engine.drain(), 3);
    fleet.settle();
    fleet.tick(1);
    assert_eq!(fleet.node(1).engine.drain(), 0);
    for shard in 0..9 {
        assert!(
            fleet
                .leader(ShardId(SHARD.0 + shard))
                .is_some_and(|leader| leader != 1)
        );
    }
}

#[test]
fn the_log_is_cut_only_below_what_is_flushed() {
    let mut fleet = Fleet::new(3, 1);
    for reply in 0..10_000 {
        fleet.node(1).put(SHARD, reply);
        fleet.settle();
    }
    let applied = fleet.node(1).engine.status(SHARD).expect("open").applied;
    assert!(fleet.node(1).compactions.is_empty());
    let flushed = Index(applied.0 - 3_000);
    fleet.node(1).engine.handle_flushed(&[(SHARD, flushed)]);
    fleet.settle();
    let cut = fleet.node(1).compactions[0].upto.index;
    assert!(
        cut <= flushed && cut.0 > 1_000,
        "cut at {cut}, flushed {flushed}"
    );
    assert_eq!(
        fleet.node(1).engine.status(SHARD).expect("open").compacted,
        cut
    );
}

#[test]
fn an_idle_log_keeps_nothing_in_memory() {
    let mut fleet = Fleet::new(3, 1);
    for reply in 0..1_000 {
        fleet.node(1).put(SHARD, reply);
    }
    fleet.settle();
    fleet.tick(10);
    for node in &fleet.nodes {
        let bytes = node
            .engine
            .cache()
            .bytes
            .load(std::sync::atomic::Ordering::Relaxed);
        assert_eq!(bytes, 0, "node {}", node.id);
    }
}

#[test]
fn a_follower_that_was_away_is_served_from_the_log_store() {
    let mut fleet = Fleet::new(3, 1);
    fleet.cut.insert(NodeId(3));
    for reply in 0..500 {
        fleet.node(1).put(SHARD, reply);
        fleet.settle();
    }
    // Long enough for the leader to stop counting on node 3, and to drop what only it would need.
    fleet.tick(40);
    fleet.cut.clear();
    fleet.tick(60);
    let applied = |fleet: &Fleet, n: usize| fleet.nodes[n].applied[&SHARD].len();
    assert_eq!(applied(&fleet, 2), applied(&fleet, 0));
}

#[test]
fn a_restarted_engine_goes_on_from_what_is_on_disk() {
    let mut fleet = Fleet::new(3, 1);
    for reply in 0..20 {
        fleet.node(1).put(SHARD, reply);
        fleet.settle();
    }
    let before = fleet.node(2).applied[&SHARD].clone();
    let disk = fleet.node(2).disk.clone();
    let mut engine = Engine::new(
        EngineConfig::new(NodeId(2), 5),
        disk.clone(),
        Arc::default(),
        fleet.tick,
    );
    // Nothing of the state was flushed: everything is applied again, in the same order.
    let found = recovered(&disk, descriptor(SHARD, 3, 1), GENESIS);
    engine.open(found).expect("what was written is consistent");
    fleet.node(2).engine = engine;
    fleet.node(2).applied.clear();
    fleet.tick(20);
    assert_eq!(fleet.node(2).applied[&SHARD][..before.len()], before[..]);
}

#[test]
fn recovered_replicas_that_contradict_themselves_are_refused() {
    let disk = Disk::default();
    let mut engine: Engine<u64, Disk> = Engine::new(
        EngineConfig::new(NodeId(1), 1),
        disk.clone(),
        Arc::default(),
        0,
    );
    let mut found = recovered(&disk, descriptor(SHARD, 3, 1), GENESIS);
    found.hard_state.commit = Index(900);
    assert!(
        engine.open(found.clone()).is_err(),
        "committed beyond the log"
    );
    found.hard_state.commit = GENESIS.index;
    found.conf_state = ConfState::default();
    found.conf_state.voters = vec![ReplicaId(1), ReplicaId(2), ReplicaId(3)];
    engine.open(found.clone()).expect("now it is sound");
    assert!(matches!(engine.open(found), Err(InputError::Exists(SHARD))));
}
