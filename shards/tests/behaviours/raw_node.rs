//! Section 15: Ready and Advance.

use crate::harness::*;

type Replica = RawNode<MemoryStorage>;

/// Every kind of message.
const KINDS: [MessageKind; 25] = [
    Hup,
    Beat,
    Prop,
    App,
    AppResp,
    Vote,
    VoteResp,
    Snap,
    Heartbeat,
    HeartbeatResp,
    Unreachable,
    SnapStatus,
    CheckQuorum,
    TransferLeader,
    TimeoutNow,
    ReadIndex,
    ReadIndexResp,
    PreVote,
    PreVoteResp,
    StorageAppend,
    StorageAppendResp,
    StorageApply,
    StorageApplyResp,
    ForgetLeader,
    Quiesce,
];

/// A message of this kind with what the kind asks for.
fn some(kind: MessageKind, from: u64) -> Message {
    let message = msg(kind, from, 1);
    match kind {
        Prop => message.entries(vec![data("x")]),
        Snap => message.term(1).snapshot(snapshot(1, 1, voters(&[1]))),
        _ => message,
    }
}

#[test]
fn w01_local_messages_do_not_travel() {
    let local = [
        Hup,
        Beat,
        Unreachable,
        SnapStatus,
        CheckQuorum,
        StorageAppend,
        StorageAppendResp,
        StorageApply,
        StorageApplyResp,
    ];
    for kind in KINDS {
        let mut node = Setup::new(1, &[1, 2]).raw();
        let result = node.step(some(kind, 2));
        assert_eq!(
            result == Err(Error::StepLocalMessage),
            local.contains(&kind),
            "{kind}: {result:?}"
        );
    }
    // From a storage thread its messages are welcome.
    let mut node = Setup::new(1, &[1, 2]).raw();
    for (kind, thread) in [
        (StorageAppendResp, ReplicaId::APPEND_THREAD),
        (StorageApplyResp, ReplicaId::APPLY_THREAD),
    ] {
        assert_eq!(node.step(msg(kind, thread.0, 1)), Ok(()), "{kind}");
    }
}

#[test]
fn w02_answers_of_strangers_are_refused() {
    let answers = [
        AppResp,
        VoteResp,
        HeartbeatResp,
        Unreachable,
        ReadIndexResp,
        PreVoteResp,
        StorageAppendResp,
        StorageApplyResp,
    ];
    let local = [
        Hup,
        Beat,
        Unreachable,
        SnapStatus,
        CheckQuorum,
        StorageAppend,
        StorageAppendResp,
        StorageApply,
        StorageApplyResp,
    ];
    for kind in KINDS {
        let mut node = Setup::new(1, &[1, 2]).raw();
        let result = node.step(some(kind, 9));
        // Those that are local as well fail as such.
        let refused = answers.contains(&kind) && !local.contains(&kind);
        assert_eq!(
            result == Err(Error::StepPeerNotFound),
            refused,
            "{kind}: {result:?}"
        );
    }
}

#[test]
fn w03_start_over_a_snapshot() {
    let mut storage = MemoryStorage::new();
    storage
        .apply_snapshot(snapshot(1, 0, voters(&[1])))
        .expect("the storage is new");
    let mut node = Setup {
        storage,
        ..Setup::new(1, &[])
    }
    .raw();
    assert!(!node.has_ready());
    node.campaign().expect("in memory");
    assert_eq!(turn(&mut node).entries, [], "the vote must be stable first");
    node.propose("foo".into()).expect("leading");
    let log = vec![entry(2, 1), data_entry(3, 1, "foo")];
    assert!(node.has_ready());
    assert_eq!(turn(&mut node).entries, log);
    assert!(node.has_ready());
    let ready = turn(&mut node);
    let hard_state = HardState {
        term: Term(1),
        vote: ReplicaId(1),
        commit: Index(3),
    };
    let expected = Ready {
        hard_state: Some(hard_state),
        committed_entries: log,
        ..Ready::default()
    };
    assert_eq!(ready, expected);
    assert!(!ready.must_sync && !node.has_ready());
}

#[test]
fn w04_restart() {
    let mut setup = Setup::new(1, &[1]).log(&[1]).commit(1);
    setup
        .storage
        .append(&[data_entry(2, 1, "foo")])
        .expect("no gap");
    let mut node = setup.raw();
    let expected = Ready {
        committed_entries: entries(1, &[1]),
        ..Ready::default()
    };
    assert_eq!(turn(&mut node), expected);
    assert!(!node.has_ready());
}

#[test]
fn w05_restart_over_a_snapshot() {
    let setup = Setup::of(1, ConfState::default()).over(snapshot(2, 1, voters(&[1, 2])));
    let mut node = setup.log(&[1]).commit(3).raw();
    let expected = Ready {
        committed_entries: entries(3, &[1]),
        ..Ready::default()
    };
    assert_eq!(turn(&mut node), expected);
    assert!(!node.has_ready());
}

#[test]
fn w06_bootstrap() {
    let peers = [1, 2, 3].map(|id| Peer {
        id: ReplicaId(id),
        context: "host".into(),
    });
    let mut node = Setup::new(1, &[]).raw();
    node.bootstrap(&peers).expect("an empty storage");
    let ready = turn(&mut node);
    let hard_state = HardState {
        term: Term(1),
        commit: Index(3),
        ..HardState::default()
    };
    assert_eq!(
        (ready.hard_state, ready.must_sync),
        (Some(hard_state), true)
    );
    let expected: Vec<_> = (1..=3)
        .map(|id| {
            let change = ConfChange {
                context: "host".into(),
                ..change_v1(&format!("v{id}"))
            };
            Entry {
                index: Index(id),
                term: Term(1),
                ..change_entry(change)
            }
        })
        .collect();
    assert_eq!(
        (&ready.entries, &ready.committed_entries),
        (&expected, &expected)
    );
    assert_eq!(node.raft.conf_state(), voters(&[1, 2, 3]));

    let refused = |result| matches!(result, Err(Error::Stored(StoredStateError::Bootstrap(_))));
    assert!(
        refused(Setup::new(1, &[1]).log(&[1]).raw().bootstrap(&peers)),
        "a log is there"
    );
    assert!(
        refused(Setup::new(1, &[]).raw().bootstrap(&[])),
        "without peers"
    );
}

#[test]
fn w07_status() {
    let mut node = Setup::new(1, &[1]).raw();
    let status = node.status();
    assert_eq!(
        (status.progress, status.soft_state),
        (vec![], SoftState::default())
    );
    node.campaign().expect("in memory");
    settle(&mut node);
    let status = node.status();
    assert_eq!(
        status.soft_state,
        SoftState {
            lead: ReplicaId(1),
            role: Leader
        }
    );
    assert_eq!(
        status.progress,
        [(
            ReplicaId(1),
            node.raft
                .tracker()
                .progress
                .get(ReplicaId(1))
                .expect("own")
                .clone()
        )]
    );
    assert_eq!(
        (status.config, status.id),
        (node.raft.tracker().config.clone(), ReplicaId(1))
    );
    assert_eq!(
        (status.applied, status.hard_state.commit),
        (Index(1), Index(1))
    );
}

/// A follower of 2 with an answer to a heartbeat waiting.
fn heard(times: usize) -> Replica {
    let mut node = Setup::new(1, &[1, 2]).term(1).raw();
    for _ in 0..times {
        node.step(msg(Heartbeat, 2, 1).term(1))
            .expect("a sound message");
    }
    node
}

#[test]
fn w08_messages_are_taken_once() {
    let mut node = heard(1);
    assert!(node.has_ready() && node.has_ready());
    assert_eq!(node.raft.messages().len(), 1, "looking takes nothing");
    let ready = node.ready();
    assert_eq!((ready.messages.len(), node.raft.messages().len()), (1, 0));
    node.step(msg(Heartbeat, 2, 1).term(1))
        .expect("a sound message");
    node.advance();
    assert_eq!(
        node.ready().messages,
        ready.messages,
        "what came up before advancing"
    );
}

#[test]
fn w09_second_ready_before_advancing_panics() {
    let mut node = Setup::new(1, &[1]).raw();
    node.campaign().expect("in memory");
    node.ready();
    assert!(panics(|| node.ready()), "the own vote is outstanding");
    let mut node = heard(1);
    node.ready();
    assert!(!panics(|| node.ready()), "nothing is outstanding");
}

#[test]
fn w10_must_sync() {
    let mut entries_only = lone_leader(Setup::new(1, &[1]));
    entries_only.propose("x".into()).expect("leading");
    let ready = turn(&mut entries_only);
    assert!(ready.must_sync && !ready.entries.is_empty() && ready.hard_state.is_none());
    let ready = turn(&mut entries_only);
    assert!(
        !ready.must_sync && ready.hard_state.is_some(),
        "the commit index alone"
    );

    let mut term = Setup::new(1, &[1, 2]).raw();
    term.step(msg(Heartbeat, 2, 1).term(5))
        .expect("a sound message");
    assert!(turn(&mut term).must_sync);
    let mut vote = Setup::new(1, &[1, 2]).term(5).raw();
    vote.step(msg(Vote, 2, 1).term(5)).expect("a sound message");
    assert!(turn(&mut vote).must_sync);
    assert!(!heard(1).ready().must_sync);
}

#[test]
fn w11_equality_of_states() {
    let hard = HardState {
        term: Term(1),
        vote: ReplicaId(2),
        commit: Index(3),
    };
    assert_eq!(hard, hard.clone());
    for other in [
        HardState {
            term: Term(2),
            ..hard
        },
        HardState {
            vote: ReplicaId(1),
            ..hard
        },
        HardState {
            commit: Index(1),
            ..hard
        },
    ] {
        assert_ne!(other, hard);
        assert!(!other.is_empty());
    }
    assert!(HardState::default().is_empty());
    let soft = SoftState {
        lead: ReplicaId(1),
        role: Leader,
    };
    assert_ne!(
        SoftState {
            lead: ReplicaId(2),
            ..soft
        },
        soft
    );
    assert_ne!(
        SoftState {
            role: Follower,
            ..soft
        },
        soft
    );
    assert_eq!(
        SoftState::default(),
        SoftState {
            lead: ReplicaId(0),
            role: Follower
        }
    );
}

#[test]
fn w12_has_ready_agrees_with_ready() {
    let leader = || lone_leader(Setup::new(1, &[1]));
    let follower = || Setup::new(1, &[1, 2]).term(1).raw();
    let with = |mut node: Replica, run: &dyn Fn(&mut Replica)| {
        run(&mut node);
        node
    };
    type Part = fn(&Ready) -> bool;
    let cases: [(&str, Replica, Part); 8] = [
        (
            "soft state",
            with(follower(), &|node| node.raft.become_pre_candidate()),
            |ready| ready.soft_state.is_some(),
        ),
        (
            "hard state",
            with(follower(), &|node| {
                node.raft.become_follower(Term(2), ReplicaId(0))
            }),
            |ready| ready.hard_state.is_some(),
        ),
        (
            "snapshot",
            with(follower(), &|node| {
                node.step(
                    msg(Snap, 2, 1)
                        .term(1)
                        .snapshot(snapshot(9, 1, voters(&[1, 2]))),
                )
                .expect("sound");
            }),
            |ready| ready.snapshot.is_some(),
        ),
        ("messages", heard(1), |ready| !ready.messages.is_empty()),
        (
            "waiting messages",
            with(follower(), &|node| {
                node.step(msg(Vote, 2, 1).term(1)).expect("sound")
            }),
            |ready| of_kind(&ready.messages, VoteResp).len() == 1,
        ),
        (
            "entries",
            with(leader(), &|node| drop(node.propose("x".into()))),
            |ready| !ready.entries.is_empty(),
        ),
        (
            "committed entries",
            Setup::new(1, &[1]).log(&[1]).commit(1).raw(),
            |ready| !ready.committed_entries.is_empty(),
        ),
        (
            "read states",
            with(leader(), &|node| {
                node.read_index("ctx".into()).expect("leading")
            }),
            |ready| !ready.read_states.is_empty(),
        ),
    ];
    for (what, mut node, part) in cases {
        assert!(node.has_ready(), "{what}");
        let ready = node.ready();
        assert!(part(&ready) && !ready.is_empty(), "{what}: {ready:?}");
    }
    let mut idle = follower();
    assert!(!idle.has_ready());
    assert!(idle.ready().is_empty());
}

/// A storage that returns all it is asked for, whatever the limit.
struct Generous(MemoryStorage);

impl Storage for Generous {
    fn initial_state(&self) -> Result<(HardState, ConfState), StorageError> {
        self.0.initial_state()
    }

    fn entries(&self, low: Index, high: Index, _: u64) -> Result<Vec<Entry>, StorageError> {
        self.0.entries(low, high, NO_LIMIT)
    }

    fn term(&self, index: Index) -> Result<Term, StorageError> {
        self.0.term(index)
    }

    fn first_index(&self) -> Index {
        self.0.first_index()
    }

    fn last_index(&self) -> Index {
        self.0.last_index()
    }

    fn snapshot(&self) -> Result<Snapshot, StorageError> {
        self.0.snapshot()
    }
}

#[test]
fn w13_storage_may_return_more_than_fits() {
    let mut setup = Setup::new(1, &[1, 2]);
    let log: Vec<_> = (1..=10).map(|index| data_entry(index, 1, "a")).collect();
    setup.storage.append(&log).expect("no gap");
    setup
        .storage
        .append(&[data_entry(11, 1, "boom")])
        .expect("no gap");
    let Setup {
        mut config,
        storage,
    } = setup.term(1).vote(1).commit(10);
    config.max_size_per_msg = entries_size(&log[..9]) - 1;
    let mut node = RawNode::new(&config, Generous(storage)).expect("a sound setup");
    let (mut applied, mut committed) = (0, Index(10));
    for _ in 0..11 {
        let ready = node.ready();
        assert!(
            ready
                .hard_state
                .is_none_or(|state| state.commit >= committed),
            "{ready:?}"
        );
        committed = ready.hard_state.map_or(committed, |state| state.commit);
        for entry in &ready.committed_entries {
            assert_eq!(entry.index, Index(applied + 1));
            applied += 1;
        }
        node.advance();
        node.step(msg(Heartbeat, 2, 1).term(1).commit(11))
            .expect("a sound message");
        if applied == 11 {
            return;
        }
    }
    panic!("applied up to {applied} only");
}

#[test]
fn w14_advance_steps_own_messages_before_acknowledgements() {
    let mut node = Setup::new(1, &[1]).raw();
    node.campaign().expect("in memory");
    let ready = node.ready();
    store(&mut node, &ready);
    node.advance();
    assert_eq!(
        (node.role(), node.last_index()),
        (Leader, Index(1)),
        "its own vote is stepped"
    );
    let ready = node.ready();
    store(&mut node, &ready);
    assert_eq!((ready.entries.len(), node.committed()), (1, Index(0)));
    node.advance();
    // Its own acknowledgement came first: the entry was still unstable when it was looked up, and is not any more.
    assert_eq!(
        (node.committed(), node.raft.log().has_unstable_entries()),
        (Index(1), false)
    );
}

#[test]
fn w15_tick_counts() {
    let mut node = Setup::new(1, &[1, 2]).raw();
    assert_eq!(node.raft.election_elapsed(), 0);
    node.tick();
    assert_eq!(node.raft.election_elapsed(), 1);
}
