//! Section 17: limits and options.

use crate::harness::*;
use flotilla_shards::raft::size::payloads_size;

const VOTERS: [u64; 3] = [1, 2, 3];

/// What leader 1 of two sends to 2, which is caught up with in one go, of 20 entries of 1,000 bytes.
fn messages(max_size_per_msg: u64) -> Vec<Message> {
    let mut leader = Setup::new(1, &[1, 2])
        .with(|config| config.max_size_per_msg = max_size_per_msg)
        .leader();
    for _ in 0..20 {
        leader.deliver(prop(1, 1, blob(1000)));
    }
    let mut sent = leader.sent();
    let last = sent[0].entries.last().expect("the probe has entries").index;
    sent.extend(leader.answer(msg(AppResp, 2, 1).log(last.0, 0)));
    sent.retain(|append| !append.entries.is_empty());
    let entries: usize = sent.iter().map(|append| append.entries.len()).sum();
    assert_eq!(entries, 21);
    sent
}

#[test]
fn o01_message_size() {
    let sizes: Vec<_> = messages(2048)
        .iter()
        .map(|append| entries_size(&append.entries))
        .collect();
    assert!(sizes.iter().all(|&size| size <= 2048), "{sizes:?}");
    assert!(sizes.iter().any(|&size| size > 1024), "{sizes:?}");
    assert!(messages(0).iter().all(|append| append.entries.len() == 1));
}

#[test]
fn o02_committed_size_per_ready() {
    for (per_ready, per_message) in [(2048, NO_LIMIT), (0, 2048)] {
        let mut node = lone_leader(Setup::new(1, &[1]).with(|config| {
            config.max_committed_size_per_ready = per_ready;
            config.max_size_per_msg = per_message;
        }));
        node.propose_batch(vec![vec![b'a'; 1000].into(); 3])
            .expect("leading");
        let counts = [(); 3].map(|()| {
            let ready = turn(&mut node);
            (ready.entries.len(), ready.committed_entries.len())
        });
        assert_eq!(counts, [(3, 0), (0, 2), (0, 1)]);
    }
}

/// Leader of three with a limit of 1,024 proposals of 8 bytes.
fn limited() -> Node {
    let mut leader = Setup::new(1, &VOTERS)
        .with(|config| config.max_uncommitted_size = 1024 * 8)
        .leader();
    leader.sent();
    leader
}

fn busy<T>() -> Result<T, Error> {
    Err(Error::ProposalDropped(DropReason::Busy))
}

#[test]
fn o03_uncommitted_size() {
    let mut leader = limited();
    for proposal in 0..1024 {
        assert_eq!(
            leader.step(prop(1, 1, data("12345678"))),
            Ok(()),
            "{proposal}"
        );
    }
    assert_eq!(leader.step(prop(1, 1, data("12345678"))), busy());
    assert_eq!((leader.uncommitted_size(), leader.last()), (8192, 1025));
    leader.sent();
    leader.answer(msg(AppResp, 2, 1).log(1025, 0));
    assert_eq!(leader.apply().len(), 1025);
    assert_eq!(leader.uncommitted_size(), 0);
    assert_eq!(leader.step(prop(1, 1, data("12345678"))), Ok(()));
}

#[test]
fn o04_one_large_proposal_and_empty_ones_are_always_taken() {
    let mut leader = limited();
    let large = msg(Prop, 1, 1).entries(vec![data("12345678"); 2048]);
    assert_eq!(leader.step(large.clone()), Ok(()));
    assert_eq!(leader.step(prop(1, 1, data("1"))), busy());
    assert_eq!(leader.step(prop(1, 1, data(""))), Ok(()));
    assert_eq!(leader.last(), 1 + 2048 + 1);

    let mut unlimited = Setup::new(1, &VOTERS).leader();
    for _ in 0..2 {
        assert_eq!(unlimited.step(large.clone()), Ok(()));
    }
}

#[test]
fn o05_empty_entry_of_a_new_leader_counts_nothing() {
    let leader = limited();
    assert_eq!((leader.last(), leader.uncommitted_size()), (1, 0));
}

#[test]
fn o06_bounded_growth() {
    let mut node =
        lone_leader(Setup::new(1, &[1]).with(|config| config.max_uncommitted_size = 16 * 8));
    for proposal in 0..1024 {
        let expected = if proposal < 16 {
            Ok(Some(position(2 + proposal, 1)))
        } else {
            busy()
        };
        assert_eq!(node.propose("12345678".into()), expected);
    }
    assert_eq!(
        (node.last_index(), node.raft.uncommitted_size()),
        (Index(17), 128)
    );
    assert_eq!(turn(&mut node).entries.len(), 16);
    assert_eq!(node.raft.uncommitted_size(), 128);
    assert_eq!(turn(&mut node).committed_entries.len(), 16);
    assert_eq!(node.raft.uncommitted_size(), 0);
}

#[test]
fn o07_window_in_messages_and_bytes() {
    for (messages, bytes, sent) in [(4, 0, 4), (256, 0, 20), (256, 2500, 3)] {
        let set = |config: &mut Config| {
            (config.max_inflight_msgs, config.max_inflight_bytes) = (messages, bytes);
            config.max_size_per_msg = 0;
        };
        let mut leader = Setup::new(1, &[1, 2]).with(set).leader();
        leader.drain();
        leader.replicate_to(2);
        let appends = (0..20).flat_map(|_| leader.answer(prop(1, 1, blob(1000))));
        // Empty ones carry the commit index only.
        let full = appends.filter(|append| !append.entries.is_empty()).count();
        assert_eq!(full, sent, "{messages} {bytes}");
    }
}

#[test]
fn o08_step_down_on_removal() {
    for operation in ["r1", "l1"] {
        for (option, role) in [(true, Follower), (false, Leader)] {
            let mut node = Setup::new(1, &VOTERS)
                .with(|config| config.step_down_on_removal = option)
                .leader();
            node.apply_change(&change(operation));
            assert_eq!(node.at(), (role, 1), "{operation} {option}");
        }
    }
}

#[test]
fn o09_proposals_need_not_be_forwarded() {
    for disabled in [true, false] {
        let set = |config: &mut Config| config.disable_proposal_forwarding = disabled;
        let mut follower = Setup::new(1, &VOTERS).with(set).term(1).node();
        follower.become_follower(Term(1), ReplicaId(2));
        let result = follower.step(prop(1, 1, data("x")));
        let refused = Err(Error::ProposalDropped(DropReason::NotForwarded));
        assert_eq!(result, if disabled { refused } else { Ok(()) });
        assert_eq!(follower.sent().len(), usize::from(!disabled));
    }
}

#[test]
fn o10_membership_changes_need_not_be_validated() {
    let mut leader = Setup::new(1, &VOTERS)
        .with(|config| config.disable_conf_change_validation = true)
        .leader();
    // The second while the first is pending, the third leaving what is not joint.
    for (index, proposed) in (2..).zip([change("r2"), change("v4"), change("")]) {
        let entry = Entry {
            index: Index(index),
            term: Term(1),
            ..change_entry(proposed)
        };
        leader.deliver(prop(1, 1, entry.clone()));
        assert_eq!(leader.entries().last(), Some(&entry));
        assert_eq!(leader.pending_conf_index(), Index(index));
    }
}

#[test]
fn o11_forget_leader() {
    let follower = |set: fn(&mut Config)| {
        let mut node = Setup::new(1, &VOTERS).with(set).term(1).node();
        node.deliver(msg(Heartbeat, 2, 1).term(1));
        node.sent();
        node.ticks(3);
        node.deliver(msg(ForgetLeader, 1, 1));
        node
    };
    let mut node = follower(|_| {});
    assert_eq!(
        (node.leader(), node.at(), node.election_elapsed()),
        (0, (Follower, 1), 3)
    );
    node.deliver(msg(Heartbeat, 2, 1).term(1));
    assert_eq!(node.leader(), 2);

    let mut checking = follower(|config| config.check_quorum = true);
    let answers = checking.answer(msg(Vote, 3, 1).term(2));
    assert_eq!(answers, [msg(VoteResp, 1, 3).term(2)], "the lease is gone");

    let mut leased = follower(|config| {
        config.check_quorum = true;
        config.read_only = ReadOnlyOption::LeaseBased;
    });
    assert_eq!(leased.leader(), 2);
    assert_eq!(leased.answer(msg(Vote, 3, 1).term(2)), []);

    let mut leader = Setup::new(1, &VOTERS).leader();
    leader.deliver(msg(ForgetLeader, 1, 1));
    assert_eq!((leader.at(), leader.leader()), ((Leader, 1), 1));
    let mut candidate = Setup::new(1, &VOTERS).node();
    candidate.become_candidate();
    candidate.deliver(msg(ForgetLeader, 1, 1));
    assert_eq!(candidate.at(), (Candidate, 1));
}

#[test]
fn o12_contradictions_in_a_configuration() {
    // That there is a storage is known to the compiler.
    let with = |change: fn(&mut Config)| {
        let mut config = Config::new(ReplicaId(1));
        change(&mut config);
        config.validate()
    };
    let max = ReplicaId(u64::MAX);
    assert_eq!(with(|_| {}), Ok(()));
    assert_eq!(
        with(|config| config.id = ReplicaId(0)),
        Err(ConfigError::Id(ReplicaId(0)))
    );
    assert_eq!(
        with(|config| config.id = ReplicaId::APPEND_THREAD),
        Err(ConfigError::Id(max))
    );
    let apply = Err(ConfigError::Id(ReplicaId::APPLY_THREAD));
    assert_eq!(with(|config| config.id = ReplicaId::APPLY_THREAD), apply);
    assert_eq!(
        with(|config| config.heartbeat_ticks = 0),
        Err(ConfigError::HeartbeatTicks)
    );
    let equal = Err(ConfigError::ElectionTicks {
        election: 10,
        heartbeat: 10,
    });
    assert_eq!(with(|config| config.heartbeat_ticks = 10), equal);
    assert_eq!(
        with(|config| config.max_inflight_msgs = 0),
        Err(ConfigError::MaxInflightMsgs)
    );
    let set_bytes: fn(&mut Config) = |config| {
        config.max_size_per_msg = 100;
        config.max_inflight_bytes = 99;
    };
    assert_eq!(
        with(set_bytes),
        Err(ConfigError::MaxInflightBytes {
            inflight: 99,
            msg: 100
        })
    );
    let lease = Err(ConfigError::LeaseWithoutCheckQuorum);
    assert_eq!(
        with(|config| config.read_only = ReadOnlyOption::LeaseBased),
        lease
    );
}

#[test]
fn o13_stored_commit_index_outside_the_log() {
    for (commit, sound) in [(4, false), (5, true), (7, true), (8, false)] {
        let setup = Setup::of(1, ConfState::default()).over(snapshot(5, 1, voters(&[1])));
        let Setup { config, storage } = setup.log(&[1, 1]).commit(commit);
        let result = Raft::new(&config, storage).map(|raft| raft.log().committed());
        let error = StoredStateError::CommitOutOfRange {
            commit: Index(commit),
            low: Index(5),
            last: Index(7),
        };
        assert_eq!(
            result,
            if sound {
                Ok(Index(commit))
            } else {
                Err(Error::Stored(error))
            }
        );
    }
}

#[test]
fn o14_sizes() {
    // Kind, term and index are a byte each behind a tag; data have a length, too.
    assert_eq!(entry_size(&entry(1, 1)), 6);
    assert_eq!(entry_size(&data_entry(1, 1, "abc")), 6 + 2 + 3);
    assert_eq!(entry_size(&entry(128, 16384)), 6 + 1 + 2);
    assert_eq!(
        entry_size(&Entry {
            index: Index(1),
            term: Term(1),
            ..blob(200)
        }),
        6 + 3 + 200
    );
    assert_eq!(
        payloads_size(&[entry(1, 1), data_entry(2, 1, "abc"), data_entry(3, 1, "de")]),
        5
    );
    // Which is what counts as uncommitted and in flight.
    let mut leader = limited();
    leader.replicate_to(2);
    leader.propose_data("abc");
    assert_eq!(
        (
            leader.uncommitted_size(),
            leader.progress(2).inflights.bytes()
        ),
        (3, 3)
    );
}

#[test]
fn o15_limit_size() {
    let entries = entries(4, &[4, 5, 6]);
    let one = entry_size(&entries[0]);
    for (limit, count) in [
        (NO_LIMIT, 3),
        (0, 1),
        (2 * one, 2),
        (2 * one + one / 2, 2),
        (3 * one - 1, 2),
        (3 * one, 3),
    ] {
        assert_eq!(limit_size(&entries, limit), count, "{limit}");
    }
}
