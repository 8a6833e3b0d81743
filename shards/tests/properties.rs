//! Parts of the Raft core against plain twins, on many random cases. A case is drawn from its number alone, so a
//! failure names what to repeat.

use bytes::Bytes;
use fastrand::Rng;
use flotilla_shards::raft::confchange::{
    Changer, ConfChange, ConfChangeAny, ConfChangeKind, ConfChangeSingle, ConfChangeTransition,
    ConfChangeV2,
};
use flotilla_shards::raft::quorum::{JointConfig, MajorityConfig, VoteResult};
use flotilla_shards::raft::raft_log::{LogSlice, RaftLog};
use flotilla_shards::raft::size::{NO_LIMIT, limit_size};
use flotilla_shards::raft::storage::{MemoryStorage, StorageError};
use flotilla_shards::raft::tracker::ProgressTracker;
use flotilla_shards::raft::{ConfState, Entry, EntryId, Index, ReplicaId, Snapshot, Term};
use std::collections::{BTreeMap, BTreeSet};

/// Runs `test` for each case with a generator of its own, and says which one failed.
fn cases(count: u64, test: impl Fn(&mut Rng)) {
    struct Case(u64);
    impl Drop for Case {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("case {} failed", self.0);
            }
        }
    }
    for number in 0..count {
        let _case = Case(number);
        test(&mut Rng::with_seed(number));
    }
}

fn random_ids(rng: &mut Rng, max_count: usize, max_id: u64) -> BTreeSet<ReplicaId> {
    (0..rng.usize(0..=max_count))
        .map(|_| ReplicaId(rng.u64(1..=max_id)))
        .collect()
}

mod quorum {
    use super::*;

    /// The greatest index that enough voters have acknowledged, by trying each.
    fn committed(voters: &BTreeSet<ReplicaId>, acked: &BTreeMap<ReplicaId, Index>) -> Index {
        if voters.is_empty() {
            return Index(u64::MAX);
        }
        let enough = |index: &Index| {
            voters
                .iter()
                .filter(|id| acked.get(id) >= Some(index))
                .count()
                > voters.len() / 2
        };
        acked
            .values()
            .copied()
            .filter(enough)
            .max()
            .unwrap_or_default()
    }

    /// Won or lost if every way to cast the missing votes says so.
    fn result(voters: &BTreeSet<ReplicaId>, votes: &BTreeMap<ReplicaId, bool>) -> VoteResult {
        let missing: Vec<_> = voters.iter().filter(|id| !votes.contains_key(id)).collect();
        let outcomes: BTreeSet<bool> = (0..1u32 << missing.len())
            .map(|cast| {
                let late = |id| {
                    missing
                        .iter()
                        .position(|&other| other == id)
                        .is_some_and(|at| cast >> at & 1 == 1)
                };
                let yes = voters
                    .iter()
                    .filter(|&id| votes.get(id).copied().unwrap_or_else(|| late(id)))
                    .count();
                voters.is_empty() || yes > voters.len() / 2
            })
            .collect();
        match (outcomes.contains(&true), outcomes.contains(&false)) {
            (true, true) => VoteResult::Pending,
            (true, false) => VoteResult::Won,
            (false, _) => VoteResult::Lost,
        }
    }

    #[test]
    fn k02_committed_index_is_what_a_majority_acknowledged() {
        cases(50_000, |rng| {
            let (incoming, outgoing) = (random_ids(rng, 9, 12), random_ids(rng, 9, 12));
            let top = rng.u64(1..30);
            let acked: BTreeMap<_, _> = random_ids(rng, 24, 12)
                .into_iter()
                .map(|id| (id, Index(rng.u64(0..top))))
                .collect();
            let lookup = |id: ReplicaId| acked.get(&id).copied();
            let half = |ids: &BTreeSet<ReplicaId>| ids.iter().copied().collect::<MajorityConfig>();

            let expected = committed(&incoming, &acked);
            assert_eq!(
                half(&incoming).committed_index(lookup),
                expected,
                "{incoming:?} {acked:?}"
            );
            let joint = JointConfig {
                incoming: half(&incoming),
                outgoing: half(&outgoing),
            };
            let expected = expected.min(committed(&outgoing, &acked));
            assert_eq!(joint.committed_index(lookup), expected, "{joint} {acked:?}");
        });
    }

    #[test]
    fn vote_result_is_settled_when_missing_votes_cannot_change_it() {
        cases(10_000, |rng| {
            let (incoming, outgoing) = (random_ids(rng, 7, 9), random_ids(rng, 7, 9));
            let votes: BTreeMap<_, _> = random_ids(rng, 12, 9)
                .into_iter()
                .map(|id| (id, rng.u8(..) < 150))
                .collect();
            let lookup = |id: ReplicaId| votes.get(&id).copied();
            let half = |ids: &BTreeSet<ReplicaId>| ids.iter().copied().collect::<MajorityConfig>();

            let (a, b) = (result(&incoming, &votes), result(&outgoing, &votes));
            assert_eq!(
                half(&incoming).vote_result(lookup),
                a,
                "{incoming:?} {votes:?}"
            );
            let joint = JointConfig {
                incoming: half(&incoming),
                outgoing: half(&outgoing),
            };
            let expected = match (a, b) {
                (VoteResult::Won, VoteResult::Won) => VoteResult::Won,
                (VoteResult::Lost, _) | (_, VoteResult::Lost) => VoteResult::Lost,
                _ => VoteResult::Pending,
            };
            assert_eq!(joint.vote_result(lookup), expected, "{joint} {votes:?}");
        });
    }
}

mod confchange {
    use super::*;

    fn tracker() -> ProgressTracker {
        ProgressTracker::new(10, 0)
    }

    fn changer(tracker: &ProgressTracker) -> Changer<'_> {
        Changer {
            tracker,
            last_index: Index(10),
        }
    }

    fn random_changes(rng: &mut Rng, max: usize) -> Vec<ConfChangeSingle> {
        let kinds = [
            ConfChangeKind::AddNode,
            ConfChangeKind::RemoveNode,
            ConfChangeKind::AddLearnerNode,
            ConfChangeKind::UpdateNode,
        ];
        let change = |rng: &mut Rng| ConfChangeSingle {
            kind: kinds[rng.usize(..4)],
            id: ReplicaId(rng.u64(2..10)),
        };
        (0..rng.usize(1..=max)).map(|_| change(rng)).collect()
    }

    /// Changes one by one.
    fn apply_singly(tracker: &mut ProgressTracker, changes: &[ConfChangeSingle]) {
        for &change in changes {
            let (config, progress) = changer(tracker)
                .simple(&[change])
                .expect("one change, and node 1 stays");
            (tracker.config, tracker.progress) = (config, progress);
        }
    }

    #[test]
    fn g15_joint_change_leads_where_single_ones_do() {
        cases(1_000, |rng| {
            let mut start = tracker();
            apply_singly(
                &mut start,
                &[ConfChangeSingle {
                    kind: ConfChangeKind::AddNode,
                    id: ReplicaId(1),
                }],
            );
            apply_singly(&mut start, &random_changes(rng, 5));
            let changes = random_changes(rng, 9);

            let mut singly = start.clone();
            apply_singly(&mut singly, &changes);

            for auto_leave in [false, true] {
                let mut joint = start.clone();
                let (config, progress) = changer(&joint)
                    .enter_joint(auto_leave, &changes)
                    .expect("node 1 stays");
                (joint.config, joint.progress) = (config, progress);
                assert_eq!(joint.config.auto_leave, auto_leave);
                assert!(
                    changer(&joint).enter_joint(auto_leave, &changes).is_err(),
                    "entered twice"
                );
                let (config, progress) = changer(&joint).leave_joint().expect("it is joint");
                (joint.config, joint.progress) = (config, progress);
                assert_eq!(joint, singly, "{changes:?}");
            }
        });
    }

    fn ids(list: &[u64]) -> Vec<ReplicaId> {
        list.iter().copied().map(ReplicaId).collect()
    }

    fn assert_restores(state: &ConfState) {
        let mut restored = tracker();
        let (config, progress) = changer(&restored)
            .restore(state)
            .unwrap_or_else(|e| panic!("{state}: {e}"));
        (restored.config, restored.progress) = (config, progress);
        assert_eq!(restored.conf_state(), *state);
    }

    #[test]
    fn g16_restore_gives_the_conf_state_back() {
        assert_restores(&ConfState::default());
        assert_restores(&ConfState {
            voters: ids(&[1, 2, 3]),
            ..ConfState::default()
        });
        assert_restores(&ConfState {
            voters: ids(&[1, 2, 3]),
            learners: ids(&[4, 5, 6]),
            ..ConfState::default()
        });
        assert_restores(&ConfState {
            voters: ids(&[1, 2, 3]),
            voters_outgoing: ids(&[1, 2, 4, 6]),
            learners: ids(&[5]),
            learners_next: ids(&[4]),
            auto_leave: false,
        });
        cases(1_000, |rng| {
            let mut pool: Vec<_> = (1..=20).map(ReplicaId).collect();
            rng.shuffle(&mut pool);
            let mut take = |count: usize| pool.split_off(pool.len() - count);
            let sorted = |mut ids: Vec<ReplicaId>| {
                ids.sort_unstable();
                ids
            };
            let voters = take(rng.usize(1..=5));
            let learners = take(rng.usize(0..=5));
            let joint = rng.bool();
            // The outgoing half may share voters with the incoming one; of the others some become learners.
            let leaving = if joint {
                take(rng.usize(0..=3))
            } else {
                Vec::new()
            };
            let learners_next = leaving.iter().copied().filter(|_| rng.bool()).collect();
            let mut outgoing = leaving.clone();
            if joint {
                let at_least = usize::from(leaving.is_empty());
                outgoing.extend(&voters[..rng.usize(at_least..=voters.len())]);
            }
            assert_restores(&ConfState {
                voters: sorted(voters),
                voters_outgoing: sorted(outgoing),
                learners: sorted(learners),
                learners_next: sorted(learners_next),
                auto_leave: joint && rng.bool(),
            });
        });
    }

    #[test]
    fn restore_refuses_what_contradicts_itself() {
        for (what, state) in [
            (
                "learners alone",
                ConfState {
                    learners: ids(&[1]),
                    ..ConfState::default()
                },
            ),
            (
                "voter and learner",
                ConfState {
                    voters: ids(&[1, 2]),
                    learners: ids(&[2]),
                    ..ConfState::default()
                },
            ),
            (
                "auto-leave alone",
                ConfState {
                    voters: ids(&[1]),
                    auto_leave: true,
                    ..ConfState::default()
                },
            ),
            (
                "next without joint",
                ConfState {
                    voters: ids(&[1]),
                    learners_next: ids(&[2]),
                    ..ConfState::default()
                },
            ),
            (
                "a voter twice",
                ConfState {
                    voters: ids(&[1, 1]),
                    ..ConfState::default()
                },
            ),
            (
                "replica 0",
                ConfState {
                    voters: ids(&[0, 1]),
                    ..ConfState::default()
                },
            ),
        ] {
            assert!(
                changer(&tracker()).restore(&state).is_err(),
                "accepted {what}"
            );
        }
    }

    #[test]
    fn encoding_is_read_back_and_is_the_only_one() {
        let roundtrip = |change: ConfChangeAny| {
            let (kind, data) = change.encode();
            assert_eq!(
                ConfChangeAny::decode(kind, &data),
                Ok(change.clone()),
                "{change:?}"
            );
            (kind, data)
        };
        cases(5_000, |rng| {
            let mut changes = random_changes(rng, 6);
            changes[0].id = ReplicaId(rng.u64(..u64::MAX - 1) >> rng.u32(..64));
            let context: Bytes = (0..rng.usize(..6))
                .map(|_| rng.u8(..))
                .collect::<Vec<_>>()
                .into();
            roundtrip(
                ConfChange {
                    change: changes[0],
                    context: context.clone(),
                }
                .into(),
            );
            let transition = [
                ConfChangeTransition::Auto,
                ConfChangeTransition::JointImplicit,
                ConfChangeTransition::JointExplicit,
            ][rng.usize(..3)];
            if rng.u8(..) < 20 {
                changes.clear();
            }
            let (kind, data) = roundtrip(
                ConfChangeV2 {
                    transition,
                    changes,
                    context,
                }
                .into(),
            );
            // Whatever else is read from damaged bytes has to be written in that very way again.
            let mut damaged = data.to_vec();
            if !damaged.is_empty() {
                let at = rng.usize(..damaged.len());
                damaged[at] = rng.u8(..);
                damaged.truncate(rng.usize(1..=damaged.len()));
                if let Ok(other) = ConfChangeAny::decode(kind, &damaged) {
                    let empty = ConfChangeAny::V2(ConfChangeV2::default());
                    assert!(
                        other == empty || other.encode() == (kind, damaged.into()),
                        "{other:?}"
                    );
                }
            }
        });
    }
}

mod log {
    use super::*;

    /// The log as a plain vector, with the marks that the real one keeps.
    struct Twin {
        /// The position before the first entry.
        compacted: EntryId,
        entries: Vec<Entry>,
        committed: Index,
    }

    impl Twin {
        fn last(&self) -> EntryId {
            self.entries.last().map_or(self.compacted, |entry| EntryId {
                term: entry.term,
                index: entry.index,
            })
        }

        fn term(&self, index: Index) -> Result<Term, StorageError> {
            match index.0.checked_sub(self.compacted.index.0) {
                None => Err(StorageError::Compacted),
                Some(0) => Ok(self.compacted.term),
                Some(at) => self
                    .entries
                    .get(at as usize - 1)
                    .map(|entry| entry.term)
                    .ok_or(StorageError::Unavailable),
            }
        }

        fn from(&self, low: Index) -> &[Entry] {
            &self.entries[(low.0 - self.compacted.index.0 - 1) as usize..]
        }

        fn put(&mut self, entries: &[Entry]) {
            if let Some(first) = entries.first() {
                self.entries.retain(|entry| entry.index < first.index);
                self.entries.extend_from_slice(entries);
            }
        }
    }

    fn entry(rng: &mut Rng, term: Term, index: Index) -> Entry {
        Entry {
            term,
            index,
            data: vec![b'x'; rng.usize(..12)].into(),
            ..Entry::default()
        }
    }

    /// A write that is under way: what it wrote up to, and the state of the storage after it.
    struct Write {
        last: Option<EntryId>,
        snapshot: Option<Index>,
    }

    struct Run {
        log: RaftLog<MemoryStorage>,
        twin: Twin,
        term: Term,
        writes: Vec<Write>,
    }

    impl Run {
        fn new(rng: &mut Rng) -> Self {
            let limit = if rng.bool() { NO_LIMIT } else { rng.u64(1..60) };
            Self {
                log: RaftLog::new(MemoryStorage::new(), limit),
                twin: Twin {
                    compacted: EntryId::default(),
                    entries: Vec::new(),
                    committed: Index(0),
                },
                term: Term(1),
                writes: Vec::new(),
            }
        }

        fn step(&mut self, rng: &mut Rng) {
            match rng.u8(..100) {
                0..25 => self.append_as_leader(rng),
                25..45 => self.append_as_follower(rng),
                45..60 => self.commit(rng),
                60..75 => self.write(),
                75..85 => self.finish_write(),
                85..92 => self.apply(),
                92..98 => self.compact(rng),
                _ => self.restore(rng),
            }
        }

        fn append_as_leader(&mut self, rng: &mut Rng) {
            self.term = Term(self.term.0 + rng.u64(..2));
            let mut index = self.twin.last().index;
            let entries: Vec<_> = (0..rng.usize(..5))
                .map(|_| {
                    index = index.next();
                    entry(rng, self.term, index)
                })
                .collect();
            self.twin.put(&entries);
            assert_eq!(self.log.append(entries), self.twin.last().index);
        }

        /// A message from a leader whose log agrees up to some point and goes on differently, or not at all.
        fn append_as_follower(&mut self, rng: &mut Rng) {
            let from = Index(rng.u64(self.twin.committed.0..=self.twin.last().index.0 + 2));
            let known = self.twin.term(from);
            let term = match &known {
                Ok(term) if rng.u8(..) < 200 => *term,
                _ => Term(rng.u64(..=self.term.0)),
            };
            let prev = EntryId { term, index: from };
            let mut entries = Vec::new();
            // Some entries that are there already, then new ones.
            if known == Ok(term) {
                let same = self.twin.from(from.next());
                entries.extend_from_slice(&same[..rng.usize(..=same.len())]);
            }
            let mut last = entries.last().map_or(prev, |e: &Entry| EntryId {
                term: e.term,
                index: e.index,
            });
            // Then new ones of new terms: a term and an index stand for one entry for ever.
            for _ in 0..rng.usize(..4) {
                if last.term < self.term || rng.bool() {
                    self.term = self.term.next();
                }
                last = EntryId {
                    term: self.term,
                    index: last.index.next(),
                };
                entries.push(entry(rng, last.term, last.index));
            }
            let conflict = entries
                .iter()
                .position(|e| self.twin.term(e.index) != Ok(e.term));
            assert_eq!(
                self.log.find_conflict(&entries),
                Ok(conflict.map(|at| entries[at].index))
            );

            let commit = Index(rng.u64(self.twin.committed.0..=last.index.0 + 1));
            let slice = LogSlice {
                term: self.term,
                prev,
                entries: entries.clone(),
            };
            slice.validate().expect("a correct message");
            let outcome = self
                .log
                .maybe_append(slice, commit)
                .expect("nothing committed is replaced");
            if known != Ok(term) {
                assert_eq!(outcome, None);
                return;
            }
            assert_eq!(outcome, Some(last.index));
            if let Some(at) = conflict {
                self.twin.put(&entries[at..]);
            }
            self.twin.committed = self.twin.committed.max(commit.min(last.index));
        }

        fn commit(&mut self, rng: &mut Rng) {
            let index = Index(rng.u64(self.twin.compacted.index.0..=self.twin.last().index.0));
            if rng.bool() {
                self.log.commit_to(index);
                self.twin.committed = self.twin.committed.max(index);
                return;
            }
            let id = EntryId {
                term: Term(rng.u64(..=self.term.0)),
                index,
            };
            let news = id.term != Term(0)
                && index > self.twin.committed
                && self.twin.term(index) == Ok(id.term);
            assert_eq!(self.log.maybe_commit(id), Ok(news));
            if news {
                self.twin.committed = index;
            }
        }

        /// Hands out what is unstable, and stores it without saying so yet.
        fn write(&mut self) {
            let snapshot = self.log.unstable().next_snapshot().cloned();
            let entries = self.log.next_unstable().to_vec();
            let last = entries.last().map(|entry| EntryId {
                term: entry.term,
                index: entry.index,
            });
            self.log.accept_unstable();
            assert!(self.log.next_unstable().is_empty(), "handed out twice");
            let meta = snapshot.as_ref().map(|snapshot| snapshot.meta.index);
            if let Some(snapshot) = snapshot {
                self.log
                    .storage_mut()
                    .apply_snapshot(snapshot)
                    .expect("snapshots only get newer");
            }
            self.log.storage_mut().append(&entries).expect("no holes");
            if last.is_some() || meta.is_some() {
                self.writes.push(Write {
                    last,
                    snapshot: meta,
                });
            }
        }

        fn finish_write(&mut self) {
            if self.writes.is_empty() {
                return;
            }
            let write = self.writes.remove(0);
            if let Some(index) = write.snapshot {
                self.log.stable_snapshot_to(index);
                if index > self.log.applied() && index <= self.log.committed() {
                    self.log.applied_to(index, 0);
                }
            }
            if let Some(id) = write.last {
                self.log.stable_to(id);
            }
        }

        fn apply(&mut self) {
            let entries = self
                .log
                .next_committed(false)
                .expect("memory does not fail");
            let Some(last) = entries.last() else { return };
            assert_eq!(
                entries[0].index,
                self.log.applying().next(),
                "applied in order"
            );
            assert!(
                last.index <= self.twin.committed,
                "applied before committed"
            );
            assert!(
                last.index < self.log.unstable().offset(),
                "applied before durable"
            );
            assert_eq!(entries, self.twin.from(entries[0].index)[..entries.len()]);
            let size = flotilla_shards::raft::size::entries_size(&entries);
            self.log.accept_applying(last.index, size, false);
            self.log.applied_to(last.index, size);
        }

        fn compact(&mut self, rng: &mut Rng) {
            let applied = self.log.applied();
            if !self.writes.is_empty()
                || self.log.has_unstable_snapshot()
                || applied <= self.twin.compacted.index
            {
                return;
            }
            let index = Index(rng.u64(self.twin.compacted.index.0 + 1..=applied.0));
            self.log
                .storage_mut()
                .compact(index)
                .expect("an applied index above the compacted one");
            self.twin.compacted = EntryId {
                term: self.twin.term(index).expect("it is applied"),
                index,
            };
            self.twin.entries.retain(|entry| entry.index > index);
        }

        fn restore(&mut self, rng: &mut Rng) {
            self.term = self.term.next();
            let index = Index(self.twin.committed.0 + rng.u64(1..10));
            let mut snapshot = Snapshot::default();
            (snapshot.meta.index, snapshot.meta.term) = (index, self.term);
            self.log.restore(Box::new(snapshot));
            self.twin.compacted = EntryId {
                term: self.term,
                index,
            };
            self.twin.entries.clear();
            self.twin.committed = index;
        }

        fn check(&self, rng: &mut Rng) {
            let (log, twin) = (&self.log, &self.twin);
            let (first, last) = (twin.compacted.index.next(), twin.last());
            assert_eq!(
                (log.first_index(), log.last_index()),
                (first, last.index),
                "{log}"
            );
            assert_eq!(log.last_entry_id(), Ok(last), "{log}");
            assert_eq!(log.committed(), twin.committed, "{log}");
            assert!(
                log.applied() <= log.applying() && log.applying() <= log.committed(),
                "{log}"
            );
            for index in first.0.saturating_sub(3)..last.index.0 + 3 {
                assert_eq!(
                    log.term(Index(index)),
                    twin.term(Index(index)),
                    "term at {index}: {log}"
                );
            }
            let low = Index(rng.u64(first.0..=last.index.0 + 1));
            let high = Index(rng.u64(low.0..=last.index.0 + 1));
            let limit = if rng.bool() { NO_LIMIT } else { rng.u64(..80) };
            let expected = &twin.from(low)[..(high.0 - low.0) as usize];
            let expected = &expected[..limit_size(expected, limit)];
            assert_eq!(
                log.slice(low, high, limit),
                Ok(expected.to_vec()),
                "[{low},{high}) {limit}: {log}"
            );

            let probe = EntryId {
                term: Term(rng.u64(..=self.term.0)),
                index: Index(rng.u64(..last.index.0 + 3)),
            };
            assert_eq!(log.is_up_to_date(probe), Ok(probe >= last), "{log}");
            let guess =
                (0..=probe.index.0)
                    .rev()
                    .map(Index)
                    .find_map(|index| match twin.term(index) {
                        _ if index == Index(0) => Some((index, Term(0))),
                        Err(_) => Some((index, Term(0))),
                        Ok(term) if term <= probe.term => Some((index, term)),
                        Ok(_) => None,
                    });
            assert_eq!(
                log.find_conflict_by_term(probe.index, probe.term).ok(),
                guess,
                "{probe:?} {log}"
            );
        }
    }

    #[test]
    fn operations_do_what_they_do_to_a_vector() {
        cases(1_500, |rng| {
            let mut run = Run::new(rng);
            for _ in 0..rng.usize(1..120) {
                run.step(rng);
                run.check(rng);
            }
        });
    }
}
