//! What etcd-raft has no tests for, because it does not have it: rounds of read confirmation, leases counted from
//! sending, promises that outlive restarts, ticks passed in bulk, paced elections and heartbeats, quiescence, and
//! errors instead of panics for what a message or a storage says.

use bytes::Bytes;
use flotilla_shards::raft::confchange::{ConfChangeV2, parse_operations};
use flotilla_shards::raft::{
    ConfState, Config, DropReason, Entry, Error, HardState, Index, MemoryStorage, Message,
    MessageKind, ProtocolError, RawNode, ReadOnlyOption, ReadState, ReplicaId, Role, Snapshot,
    SnapshotMeta, Storage, StorageError, Term,
};

/// Replicas 1 to n over a network that delivers in order, or not at all to and from those who are cut off.
struct Network {
    nodes: Vec<RawNode<MemoryStorage>>,
    mail: Vec<Message>,
    cut: Vec<ReplicaId>,
    /// Everything that was delivered.
    seen: Vec<Message>,
    read_states: Vec<(ReplicaId, ReadState)>,
}

fn members(n: u64) -> ConfState {
    ConfState {
        voters: (1..=n).map(ReplicaId).collect(),
        ..ConfState::default()
    }
}

fn config(id: u64) -> Config {
    Config {
        id: ReplicaId(id),
        check_quorum: true,
        pre_vote: true,
        max_clock_drift_permille: 0,
        seed: id,
        ..Config::default()
    }
}

fn leases(id: u64) -> Config {
    Config {
        read_only: ReadOnlyOption::LeaseBased,
        ..config(id)
    }
}

impl Network {
    fn new(n: u64, config: impl Fn(u64) -> Config) -> Self {
        let node = |id| {
            RawNode::new(&config(id), MemoryStorage::with_conf_state(members(n)))
                .expect("a valid configuration")
        };
        Self {
            nodes: (1..=n).map(node).collect(),
            mail: Vec::new(),
            cut: Vec::new(),
            seen: Vec::new(),
            read_states: Vec::new(),
        }
    }

    /// The same, with replica 1 elected and its first entry applied everywhere.
    fn led(n: u64, config: impl Fn(u64) -> Config) -> Self {
        let mut network = Self::new(n, config);
        network.node(1).campaign().expect("storage in memory");
        network.settle();
        assert_eq!(network.node(1).role(), Role::Leader);
        network.seen.clear();
        network
    }

    fn node(&mut self, id: u64) -> &mut RawNode<MemoryStorage> {
        &mut self.nodes[id as usize - 1]
    }

    /// Takes and does the work of everybody; messages wait in `mail`.
    fn work(&mut self) {
        for node in &mut self.nodes {
            while node.has_ready() {
                let ready = node.ready();
                let storage = node.storage_mut();
                storage
                    .append(&ready.entries)
                    .expect("entries follow the log");
                if let Some(hard_state) = ready.hard_state {
                    storage.set_hard_state(hard_state);
                }
                let id = node.id();
                self.read_states
                    .extend(ready.read_states.into_iter().map(|state| (id, state)));
                self.mail.extend(ready.messages);
                node.advance();
            }
        }
    }

    /// Delivers what is in the mail. Returns whether that was anything.
    fn deliver(&mut self) -> bool {
        let mail = std::mem::take(&mut self.mail);
        let some = !mail.is_empty();
        for message in mail {
            if !self.cut.contains(&message.from) && !self.cut.contains(&message.to) {
                self.seen.push(message.clone());
                // Requests may be dropped, which their senders learn by timeout.
                let _ = self.node(message.to.0).step(message);
            }
        }
        some
    }

    fn settle(&mut self) {
        self.work();
        while self.deliver() {
            self.work();
        }
    }

    fn tick(&mut self) {
        for node in &mut self.nodes {
            node.tick();
        }
        self.settle();
    }

    fn count(&self, kind: MessageKind) -> usize {
        self.seen.iter().filter(|m| m.kind == kind).count()
    }

    /// Asks replica `id` to read; returns the answers that come of it.
    fn read(&mut self, id: u64) -> usize {
        let before = self.read_states.len();
        self.node(id)
            .read_index(Bytes::from_static(b"ctx"))
            .expect("a leader is known");
        self.settle();
        self.read_states.len() - before
    }
}

fn vote(from: u64, term: u64, context: &'static [u8]) -> Message {
    Message {
        kind: MessageKind::Vote,
        from: ReplicaId(from),
        to: ReplicaId(2),
        term: Term(term),
        log_term: Term(term),
        index: Index(100),
        context: Bytes::from_static(context),
        ..Message::default()
    }
}

// --- rounds ---------------------------------------------------------------------------------------------------------

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

// --- leases ---------------------------------------------------------------------------------------------------------

#[test]
fn a_lease_starts_with_the_election_and_ends_with_its_ticks() {
    let mut network = Network::led(3, leases);
    // Ten ticks of promise, of which the first may be cut short.
    assert_eq!(network.node(1).lease_remaining_ticks(), 9);
    network.cut = vec![ReplicaId(1)];
    for left in (0..9).rev() {
        assert_eq!(network.read(1), 1, "within the lease");
        network.tick();
        assert_eq!(network.node(1).lease_remaining_ticks(), left);
    }
    assert_eq!(network.node(1).role(), Role::Leader);
    assert_eq!(network.read(1), 0, "without a lease a quorum is needed");
}

#[test]
fn drift_shortens_a_lease() {
    let drifting = |id| Config {
        max_clock_drift_permille: 250,
        ..leases(id)
    };
    let mut network = Network::led(3, drifting);
    assert_eq!(network.node(1).lease_remaining_ticks(), 6);
}

#[test]
fn a_lease_counts_from_the_sending_of_a_heartbeat_and_not_from_its_answer() {
    let mut network = Network::led(3, leases);
    for _ in 0..3 {
        network.node(1).tick();
    }
    network.work();
    let first = network
        .mail
        .iter()
        .position(|m| m.kind == MessageKind::Heartbeat && m.to == ReplicaId(2));
    let first = network.mail.remove(first.expect("a heartbeat was sent"));
    network.mail.clear();
    // It was sent at tick 1, and travels for four more.
    for _ in 0..4 {
        network.node(1).tick();
    }
    network.work();
    network.mail = vec![first];
    let before = network.node(1).lease_remaining_ticks();
    network.work();
    network.deliver();
    network.work();
    network
        .mail
        .retain(|m| m.kind == MessageKind::HeartbeatResp);
    network.deliver();
    assert_eq!((before, network.node(1).lease_remaining_ticks()), (2, 3));
}

#[test]
fn heartbeats_renew_a_lease_only_with_a_quorum() {
    let mut network = Network::led(5, leases);
    network.cut = vec![ReplicaId(3), ReplicaId(4), ReplicaId(5)];
    network.tick();
    network.tick();
    assert_eq!(network.node(1).lease_remaining_ticks(), 7);
    network.cut.clear();
    network.tick();
    assert_eq!(network.node(1).lease_remaining_ticks(), 9);
}

#[test]
fn handing_over_ends_the_lease_for_the_term() {
    let mut network = Network::led(3, leases);
    network.node(1).transfer_leader(ReplicaId(2));
    assert_eq!(network.node(1).lease_remaining_ticks(), 0);
    // The message is lost, the transfer given up; but it might still arrive.
    let _ = network.node(1).ready();
    network.node(1).advance();
    for _ in 0..10 {
        network.tick();
    }
    assert_eq!(network.node(1).role(), Role::Leader);
    assert!(network.node(1).raft.lead_transferee().is_none());
    assert_eq!(network.node(1).lease_remaining_ticks(), 0);
    network.seen.clear();
    assert_eq!(network.read(1), 1);
    assert_eq!(network.count(MessageKind::Heartbeat), 2, "by a round");
}

#[test]
fn a_new_member_counts_for_the_lease_only_when_it_has_answered() {
    let mut network = Network::led(1, leases);
    let change = ConfChangeV2 {
        changes: parse_operations("v2 v3").expect("operations"),
        ..ConfChangeV2::default()
    };
    assert_eq!(network.node(1).lease_remaining_ticks(), 9);
    network.node(1).apply_conf_change(&change).expect("fits");
    assert_eq!(network.node(1).lease_remaining_ticks(), 0);
}

#[test]
fn a_promise_outlives_the_leader_that_it_was_given_to() {
    let mut network = Network::led(3, leases);
    network.cut = vec![ReplicaId(1)];
    // A higher term from anybody makes the follower forget its leader, but not its promise.
    let stray = Message {
        kind: MessageKind::AppResp,
        from: ReplicaId(3),
        to: ReplicaId(2),
        term: Term(2),
        ..Message::default()
    };
    network
        .node(2)
        .step(stray)
        .expect("a message of the protocol");
    assert_eq!(network.node(2).leader(), ReplicaId::NONE);
    for _ in 0..10 {
        let node = network.node(2);
        node.step(vote(3, 2, b"")).expect("ignored");
        node.step(vote(3, 3, b"")).expect("ignored");
        node.campaign().expect("ignored");
        assert_eq!((node.role(), node.term()), (Role::Follower, Term(2)));
        assert!(node.raft.vote().is_none());
        node.tick();
    }
    network.node(2).step(vote(3, 3, b"")).expect("granted");
    assert_eq!(network.node(2).raft.vote(), ReplicaId(3));
}

#[test]
fn a_leader_that_hands_over_breaks_the_promise_for_its_successor() {
    let mut network = Network::led(3, leases);
    network.node(1).transfer_leader(ReplicaId(3));
    network.settle();
    assert_eq!(network.node(3).role(), Role::Leader);
}

#[test]
fn after_a_restart_votes_are_held_off() {
    let config = Config {
        vote_hold_off_ticks: 10,
        ..leases(2)
    };
    let storage = MemoryStorage::with_conf_state(members(3));
    let mut node = RawNode::new(&config, storage).expect("a valid configuration");
    for _ in 0..10 {
        node.step(vote(3, 1, b"")).expect("ignored");
        node.campaign().expect("ignored");
        assert!(node.raft.vote().is_none() && node.term() == Term(0));
        node.tick();
    }
    node.step(vote(3, 1, b"")).expect("granted");
    assert_eq!(node.raft.vote(), ReplicaId(3));
}

// --- ticks ----------------------------------------------------------------------------------------------------------

#[test]
fn ticks_in_bulk_are_ticks_one_by_one() {
    for seed in 0..200 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let configure = |id| Config {
            seed: seed + id,
            heartbeat_ticks: 3,
            manual_heartbeats: seed % 3 == 0,
            ..config(id)
        };
        let mut single = Network::led(3, configure);
        let mut bulk = Network::led(3, configure);
        for _ in 0..30 {
            let (id, ticks) = (rng.u64(1..=3), rng.u32(1..25));
            for _ in 0..ticks {
                single.node(id).tick();
            }
            bulk.node(id).advance_ticks(ticks);
            if rng.bool() {
                single.settle();
                bulk.settle();
            }
            for (a, b) in single.nodes.iter().zip(&bulk.nodes) {
                assert_eq!(a.status(), b.status(), "seed {seed}");
                assert_eq!(a.raft.messages(), b.raft.messages(), "seed {seed}");
                assert_eq!(
                    (a.raft.election_elapsed(), a.ticks_until_due()),
                    (b.raft.election_elapsed(), b.ticks_until_due()),
                    "seed {seed}"
                );
            }
        }
    }
}

#[test]
fn nothing_happens_before_it_is_due() {
    for seed in 0..50 {
        let configure = |id| Config {
            seed: seed * 3 + id,
            heartbeat_ticks: 4,
            ..config(id)
        };
        let mut network = Network::led(3, configure);
        for _ in 0..40 {
            for node in &mut network.nodes {
                let due = node.ticks_until_due().expect("members have timers");
                node.advance_ticks(due - 1);
                assert!(!node.has_ready(), "seed {seed}");
                let elapsed = node.raft.election_elapsed();
                node.tick();
                assert!(
                    node.has_ready() || node.raft.election_elapsed() <= elapsed,
                    "seed {seed}: something was due"
                );
            }
            network.settle();
        }
    }
}

// --- pacing ---------------------------------------------------------------------------------------------------------

#[test]
fn a_manual_election_is_announced_and_left_to_the_caller() {
    let manual = |id| Config {
        manual_elections: true,
        ..config(id)
    };
    let mut network = Network::led(3, manual);
    network.cut = vec![ReplicaId(1)];
    for _ in 0..20 {
        network.tick();
    }
    assert!(network.node(2).take_election_due());
    assert!(!network.node(2).take_election_due(), "announced once");
    assert_eq!(network.node(2).role(), Role::Follower);
    // A leader that is heard takes the announcement back.
    let heartbeat = Message {
        kind: MessageKind::Heartbeat,
        from: ReplicaId(1),
        to: ReplicaId(3),
        term: Term(1),
        ..Message::default()
    };
    network.node(3).step(heartbeat).expect("from the leader");
    assert!(!network.node(3).take_election_due());
    for _ in 0..20 {
        network.node(3).tick();
    }
    network.node(2).campaign().expect("storage in memory");
    network.settle();
    assert_eq!(network.node(2).role(), Role::Leader);
}

#[test]
fn manual_heartbeats_come_when_told() {
    let manual = |id| Config {
        manual_heartbeats: true,
        ..config(id)
    };
    let mut network = Network::led(3, manual);
    for _ in 0..5 {
        network.tick();
    }
    assert_eq!(network.count(MessageKind::Heartbeat), 0);
    network.node(1).heartbeat_now();
    network.node(2).heartbeat_now();
    network.settle();
    assert_eq!(network.count(MessageKind::Heartbeat), 2);
}

// --- quiescence -----------------------------------------------------------------------------------------------------

#[test]
fn a_group_rests_only_when_everything_is_done_and_wakes_by_a_proposal() {
    let mut network = Network::led(3, config);
    network
        .node(1)
        .propose(Bytes::from_static(b"x"))
        .expect("leading");
    assert!(
        !network.node(1).quiesce(|_| false),
        "an entry is not committed"
    );
    network.settle();
    // One follower hasn't acknowledged the last entry.
    network.cut = vec![ReplicaId(3)];
    network
        .node(1)
        .propose(Bytes::from_static(b"y"))
        .expect("leading");
    network.settle();
    assert!(!network.node(1).quiesce(|_| false));
    network.cut.clear();
    network.tick();
    for node in &mut network.nodes {
        assert!(node.quiesce(|_| false));
        assert_eq!(node.ticks_until_due(), None);
        node.advance_ticks(1000);
        assert!(!node.has_ready());
    }
    network
        .node(2)
        .propose(Bytes::from_static(b"z"))
        .expect("forwarded");
    network.settle();
    let committed: Vec<_> = network.nodes.iter().map(RawNode::committed).collect();
    assert_eq!(committed, [Index(4); 3]);
    assert!(network.nodes.iter().all(|node| !node.is_quiescent()));
    network.tick();
    assert_eq!(network.node(1).role(), Role::Leader);
    assert_eq!(network.node(1).term(), Term(1));
}

#[test]
fn woken_followers_of_a_dead_leader_elect_at_once_if_told_to() {
    let mut network = Network::led(3, config);
    for node in &mut network.nodes {
        assert!(node.quiesce(|_| false));
        node.advance_ticks(1000);
    }
    network.cut = vec![ReplicaId(1)];
    // Replica 3 still rests when it is asked for its vote.
    network.node(2).wake();
    assert!(
        network.node(2).ticks_until_due() >= Some(10),
        "its own timer starts anew"
    );
    network.node(2).campaign().expect("storage in memory");
    network.settle();
    assert_eq!(network.node(2).role(), Role::Leader);
    assert_eq!(network.node(3).leader(), ReplicaId(2));
}

#[test]
fn a_woken_leader_gives_its_followers_time() {
    let mut network = Network::led(3, config);
    for node in &mut network.nodes {
        assert!(node.quiesce(|_| false));
    }
    network.node(1).advance_ticks(1000);
    network.node(1).wake();
    network.node(1).advance_ticks(10);
    assert_eq!(network.node(1).role(), Role::Leader);
    network.node(1).advance_ticks(10);
    assert_eq!(
        network.node(1).role(),
        Role::Follower,
        "nobody has answered"
    );
}

// --- errors instead of panics ---------------------------------------------------------------------------------------

#[test]
fn messages_that_no_replica_sends_are_errors_and_change_nothing() {
    let mut network = Network::led(3, config);
    let entry = |term, index| Entry {
        term: Term(term),
        index: Index(index),
        ..Entry::default()
    };
    let append = |log_term, index, entries: &[Entry]| Message {
        kind: MessageKind::App,
        from: ReplicaId(1),
        to: ReplicaId(2),
        term: Term(1),
        log_term: Term(log_term),
        index: Index(index),
        entries: entries.to_vec(),
        ..Message::default()
    };
    let of_kind = |kind, term| Message {
        kind,
        from: ReplicaId(1),
        to: ReplicaId(2),
        term: Term(term),
        ..Message::default()
    };
    let snapshot = |index, term| Message {
        snapshot: Some(Box::new(Snapshot {
            meta: SnapshotMeta {
                index: Index(index),
                term: Term(term),
                conf_state: members(3),
            },
            ..Snapshot::default()
        })),
        ..of_kind(MessageKind::Snap, 1)
    };
    let bad = [
        append(1, 1, &[entry(1, 3)]),
        append(1, 1, &[entry(1, 2), entry(0, 3)]),
        append(1, 1, &[entry(2, 2)]),
        append(2, 1, &[]),
        append(1, u64::MAX, &[entry(1, 0)]),
        of_kind(MessageKind::Snap, 1),
        snapshot(9, 2),
        snapshot(u64::MAX, 1),
        of_kind(MessageKind::Vote, 0),
        of_kind(MessageKind::App, u64::MAX),
        of_kind(MessageKind::Prop, 0),
        Message {
            commit: Index(9),
            ..of_kind(MessageKind::Heartbeat, 1)
        },
        Message {
            from: ReplicaId(2),
            ..append(1, 1, &[])
        },
        Message {
            from: ReplicaId::NONE,
            ..append(1, 1, &[])
        },
    ];
    let before = network.node(2).status();
    for message in bad {
        let result = network.node(2).step(message.clone());
        assert!(
            matches!(result, Err(Error::Protocol(_))),
            "{message:?} gave {result:?}"
        );
        assert_eq!(network.node(2).status(), before);
    }
    let ack = Message {
        index: Index(9),
        to: ReplicaId(1),
        from: ReplicaId(2),
        ..of_kind(MessageKind::AppResp, 1)
    };
    assert!(matches!(
        network.node(1).step(ack),
        Err(Error::Protocol(ProtocolError::AckOutOfRange { .. }))
    ));
}

#[test]
fn entries_that_contradict_committed_ones_are_an_error() {
    let mut network = Network::led(3, config);
    let message = Message {
        kind: MessageKind::App,
        from: ReplicaId(3),
        to: ReplicaId(2),
        term: Term(2),
        entries: vec![Entry {
            term: Term(2),
            index: Index(1),
            ..Entry::default()
        }],
        ..Message::default()
    };
    // Below the commit index nothing is even looked at; so it takes a restart that lost the commit index to see it.
    network
        .node(2)
        .step(message.clone())
        .expect("answered with the commit index");
    let storage = network.node(2).storage().clone();
    let mut storage_without_commit = storage.clone();
    storage_without_commit.set_hard_state(HardState {
        term: Term(1),
        vote: ReplicaId(1),
        commit: Index(0),
    });
    let mut node = RawNode::new(&config(2), storage_without_commit).expect("valid");
    node.step(message)
        .expect("replaces an entry that may be uncommitted");
}

/// A log whose reads fail when told to.
struct Failing {
    log: MemoryStorage,
    fail: std::cell::Cell<bool>,
}

impl Storage for Failing {
    fn initial_state(&self) -> Result<(HardState, ConfState), StorageError> {
        self.log.initial_state()
    }

    fn entries(&self, low: Index, high: Index, max: u64) -> Result<Vec<Entry>, StorageError> {
        match self.fail.get() {
            true => Err(StorageError::Other("checksum".into())),
            false => self.log.entries(low, high, max),
        }
    }

    fn term(&self, index: Index) -> Result<Term, StorageError> {
        match self.fail.get() {
            true => Err(StorageError::Other("checksum".into())),
            false => self.log.term(index),
        }
    }

    fn first_index(&self) -> Index {
        self.log.first_index()
    }

    fn last_index(&self) -> Index {
        self.log.last_index()
    }

    fn snapshot(&self) -> Result<Snapshot, StorageError> {
        self.log.snapshot()
    }
}

#[test]
fn a_failed_storage_stops_the_replica_and_says_so() {
    let storage = Failing {
        log: MemoryStorage::with_conf_state(members(3)),
        fail: std::cell::Cell::new(false),
    };
    let mut node = RawNode::new(&config(1), storage).expect("valid");
    node.storage().fail.set(true);
    node.advance_ticks(40);
    let failure = StorageError::Other("checksum".into());
    assert_eq!(node.failure(), Some(&failure));
    node.storage().fail.set(false);
    assert!(!node.has_ready());
    assert!(node.ready().is_empty());
    assert_eq!(node.campaign(), Err(Error::Storage(failure)));
    assert_eq!(node.role(), Role::Follower);
}

#[test]
fn requests_without_a_leader_say_why_they_are_dropped() {
    let mut network = Network::new(3, config);
    let node = network.node(1);
    assert_eq!(
        node.propose(Bytes::new()),
        Err(Error::ProposalDropped(DropReason::NoLeader))
    );
    assert_eq!(
        node.read_index(Bytes::new()),
        Err(Error::ReadDropped(DropReason::NoLeader))
    );
    assert_eq!(
        node.propose_batch(Vec::new()),
        Err(Error::Protocol(ProtocolError::EmptyProposal))
    );
}

#[test]
fn a_broken_invariant_shows_the_whole_state() {
    let mut network = Network::led(1, config);
    let node = network.node(1);
    // The log has forgotten what is committed.
    *node.storage_mut() = MemoryStorage::new();
    let propose = std::panic::AssertUnwindSafe(|| node.propose(Bytes::from_static(b"x")));
    let cause = std::panic::catch_unwind(propose).expect_err("the log would contradict itself");
    let words = cause.downcast_ref::<String>().expect("a text");
    for part in [
        "replace committed entries",
        "replica 1 is",
        "configuration: voters=(1)",
        "ticks: now",
    ] {
        assert!(words.contains(part), "no {part:?} in: {words}");
    }
}
