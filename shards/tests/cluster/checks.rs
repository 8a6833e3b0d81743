//! What must hold after every step, seen from outside the cluster.
//!
//! Raft's own five properties (paper, figure 3): *election safety*, *leader append-only*, *log matching*, *leader
//! completeness*, *state machine safety*. And what an acknowledgement is worth: what a leader calls committed is durable
//! on a quorum; what a replica answers is durable on it; terms and votes never go back, also not through a crash; a
//! read index is never below what was committed when the read was asked for; nobody but the holder of a lease commits.

use crate::disk::{Disk, Machine, View};
use crate::trace::fnv;
use flotilla_shards::raft::size::NO_LIMIT;
use flotilla_shards::raft::{
    Entry, EntryId, HardState, Index, Message, MessageKind, RawNode, ReadState, ReplicaId, Role,
    Term,
};
use std::collections::BTreeMap;

/// An entry, as far as it matters that two are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Print {
    term: Term,
    digest: u64,
}

impl Print {
    fn of(entry: &Entry) -> Self {
        Self {
            term: entry.term,
            digest: fnv(entry.kind as u64, &entry.data),
        }
    }
}

/// What a replica looked like when it was checked last.
#[derive(Clone, Default)]
struct Seen {
    start: u64,
    role: Role,
    term: Term,
    commit: Index,
    /// Index of the first entry in `log`.
    first: Index,
    log: Vec<Print>,
}

impl Seen {
    fn last(&self) -> Index {
        Index(self.first.0 + self.log.len() as u64 - 1)
    }

    fn at(&self, index: Index) -> Option<Print> {
        let at = index.0.checked_sub(self.first.0)?;
        self.log.get(at as usize).copied()
    }
}

struct Committed {
    print: Print,
    /// Term of the leader that committed it.
    by: Term,
}

struct Read {
    at: ReplicaId,
    start: u64,
    /// What was committed when it was asked for.
    committed: Index,
}

#[derive(Default)]
pub(crate) struct Checks {
    /// The index that all replicas start from.
    base: Index,
    leaders: BTreeMap<Term, ReplicaId>,
    /// Every entry ever seen in a log, with the term of the one before.
    entries: BTreeMap<EntryId, (Option<Term>, Print)>,
    committed: Vec<Committed>,
    /// Digest of the machine after each index above `base`.
    applied: Vec<u64>,
    votes: BTreeMap<(Term, ReplicaId), ReplicaId>,
    durable: BTreeMap<ReplicaId, HardState>,
    seen: BTreeMap<ReplicaId, Seen>,
    reads: BTreeMap<u64, Read>,
}

impl Checks {
    pub(crate) fn new(base: Index) -> Self {
        Self {
            base,
            ..Self::default()
        }
    }

    /// The highest index that anybody has called committed.
    pub(crate) fn committed(&self) -> Index {
        Index(self.base.0 + self.committed.len() as u64)
    }

    /// Terms that had a leader.
    pub(crate) fn elections(&self) -> u64 {
        self.leaders.len() as u64
    }

    fn committed_at(&self, index: Index) -> Option<&Committed> {
        self.committed
            .get(index.0.checked_sub(self.base.0 + 1)? as usize)
    }

    /// Checks a replica that was touched. `disk` finds the disk of any replica.
    pub(crate) fn replica<'a>(
        &mut self,
        raw: &RawNode<View>,
        start: u64,
        disk: impl Fn(ReplicaId) -> &'a Disk,
    ) {
        let id = raw.id();
        let before = self.seen.remove(&id).filter(|seen| seen.start == start);
        let log = raw.raft.log();
        let (first, last) = (log.first_index(), log.last_index());
        let entries = log
            .slice(first, last.next(), NO_LIMIT)
            .expect("the log is in memory");
        let now = Seen {
            start,
            role: raw.role(),
            term: raw.term(),
            commit: raw.committed(),
            first,
            log: entries.iter().map(Print::of).collect(),
        };
        assert_eq!(now.last(), last, "replica {id}: entries are missing");
        assert!(
            now.commit <= last,
            "replica {id} committed {} of {last}",
            now.commit
        );
        self.log_matching(id, &entries, &now, before.as_ref());
        // What the group takes for durable is.
        let stable = log.unstable().offset().prev();
        if !log.has_unstable_snapshot()
            && let Some(print) = now.at(stable)
        {
            let stable = EntryId {
                term: print.term,
                index: stable,
            };
            let durable = disk(id).has_synced(stable);
            assert!(durable, "replica {id} takes {stable:?} for durable: {log}");
        }
        if let Some(before) = &before {
            assert!(
                before.term <= now.term,
                "replica {id}: term went from {} to {}",
                before.term,
                now.term
            );
            assert!(
                before.commit <= now.commit,
                "replica {id}: commit went from {} to {}",
                before.commit,
                now.commit
            );
            if before.role == Role::Leader && now.role == Role::Leader && before.term == now.term {
                leader_append_only(id, before, &now);
            }
        }
        if now.role == Role::Leader {
            self.election(id, &now);
        }
        let led = before
            .as_ref()
            .is_some_and(|seen| seen.role == Role::Leader)
            || now.role == Role::Leader;
        self.commit(
            raw,
            &now,
            before.as_ref().map(|seen| seen.commit),
            led,
            disk,
        );
        self.seen.insert(id, now);
    }

    /// Log matching: two logs that have an entry of the same index and term are the same up to there. It is so if
    /// every entry has one content, and one predecessor.
    fn log_matching(
        &mut self,
        id: ReplicaId,
        entries: &[Entry],
        now: &Seen,
        before: Option<&Seen>,
    ) {
        let known = |index| {
            before.is_some_and(|seen| seen.at(index).is_some() && seen.at(index) == now.at(index))
        };
        let mut prev = None;
        for (entry, &print) in entries.iter().zip(&now.log) {
            let at = EntryId {
                term: entry.term,
                index: entry.index,
            };
            if !known(at.index) || prev.is_none() {
                let (known_prev, known_print) = self.entries.entry(at).or_insert((prev, print));
                assert_eq!(
                    *known_print, print,
                    "log matching: replica {id} has another entry at {at:?}"
                );
                match (&known_prev, prev) {
                    (Some(known), Some(prev)) => {
                        assert_eq!(
                            *known, prev,
                            "log matching: replica {id} differs before {at:?}"
                        );
                    }
                    _ => *known_prev = known_prev.or(prev),
                }
            }
            assert!(
                prev <= Some(entry.term),
                "replica {id}: terms fall before {at:?}"
            );
            prev = Some(entry.term);
        }
    }

    /// Election safety, and leader completeness.
    fn election(&mut self, id: ReplicaId, now: &Seen) {
        let known = self.leaders.insert(now.term, id);
        if known == Some(id) {
            return;
        }
        assert_eq!(
            known, None,
            "election safety: two leaders in term {}",
            now.term
        );
        self.vote(now.term, id, id);
        for (at, committed) in (self.base.0 + 1..).zip(&self.committed) {
            if at >= now.first.0 && committed.by < now.term {
                let own = now.at(Index(at));
                assert_eq!(
                    own,
                    Some(committed.print),
                    "leader completeness: {at} at leader {id} of {}",
                    now.term
                );
            }
        }
    }

    fn vote(&mut self, term: Term, voter: ReplicaId, candidate: ReplicaId) {
        let other = *self.votes.entry((term, voter)).or_insert(candidate);
        assert_eq!(
            other, candidate,
            "replica {voter} voted twice in term {term}"
        );
    }

    fn commit<'a>(
        &mut self,
        raw: &RawNode<View>,
        now: &Seen,
        before: Option<Index>,
        led: bool,
        disk: impl Fn(ReplicaId) -> &'a Disk,
    ) {
        let id = raw.id();
        let known = self.committed().min(now.commit);
        for index in before.unwrap_or(self.base).0 + 1..=known.0 {
            let index = Index(index);
            if index >= now.first {
                let committed = self.committed_at(index).map(|committed| committed.print);
                assert_eq!(
                    now.at(index),
                    committed,
                    "replica {id} calls another entry committed at {index}"
                );
            }
        }
        if now.commit <= self.committed() {
            return;
        }
        assert!(
            led,
            "replica {id} commits {} before any leader: {}",
            now.commit,
            self.committed()
        );
        for index in self.committed().0 + 1..=now.commit.0 {
            let print = now.at(Index(index)).expect("a leader has what it commits");
            self.committed.push(Committed {
                print,
                by: now.term,
            });
        }
        let newest = now.at(now.commit).expect("a leader has what it commits");
        assert_eq!(
            newest.term, now.term,
            "leader {id} committed an entry of an old term at {}",
            now.commit
        );
        let newest = EntryId {
            term: newest.term,
            index: now.commit,
        };
        let voters = &raw.raft.tracker().config.voters;
        for half in [&voters.incoming, &voters.outgoing] {
            let durable = half
                .iter()
                .filter(|&id| disk(id).has_synced(newest))
                .count();
            assert!(
                half.is_empty() || durable > half.len() / 2,
                "leader {id} committed {newest:?}, which {durable} of {half} have on disk"
            );
        }
    }

    /// Checks what a crash would leave of a replica, after it was written.
    pub(crate) fn durable(&mut self, id: ReplicaId, disk: &Disk) {
        let now = disk.hard_state();
        let before = self.durable.insert(id, now).unwrap_or_default();
        assert!(
            before.term <= now.term,
            "replica {id}: durable term went from {before} to {now}"
        );
        if before.term == now.term && !before.vote.is_none() {
            assert_eq!(
                before.vote, now.vote,
                "replica {id}: durable vote went from {before} to {now}"
            );
        }
    }

    /// Checks a message as it leaves a replica: what it claims must survive a crash.
    pub(crate) fn sent(&mut self, message: &Message, disk: &Disk) {
        let durable = disk.hard_state();
        match message.kind {
            MessageKind::VoteResp if !message.reject => {
                let kept = durable.term > message.term
                    || (durable.term, durable.vote) == (message.term, message.to);
                assert!(kept, "a vote that is not durable ({durable}): {message}");
                self.vote(message.term, message.from, message.to);
            }
            MessageKind::AppResp if !message.reject => {
                assert!(
                    durable.term >= message.term,
                    "an answer in a term that is not durable ({durable}): {message}"
                );
                // A leader of a later term may have replaced the entries meanwhile. It was elected without them, so
                // they never had a quorum, and the acknowledgement does no harm.
                let last = disk.last_synced();
                let kept = message.index <= last || durable.term > message.term;
                assert!(
                    kept,
                    "an acknowledgement beyond the durable {last}: {message}"
                );
            }
            _ => {}
        }
    }

    /// State machine safety: every machine goes through the same states.
    pub(crate) fn applied(&mut self, id: ReplicaId, machine: &Machine) {
        let Some(at) = machine.at.index.0.checked_sub(self.base.0 + 1) else {
            return;
        };
        let at = at as usize;
        assert!(
            machine.at.index <= self.committed(),
            "replica {id} applied {:?} before it was committed",
            machine.at
        );
        if at == self.applied.len() {
            self.applied.push(machine.digest);
        }
        assert_eq!(
            self.applied.get(at),
            Some(&machine.digest),
            "replica {id} applied something else: {machine:?}"
        );
    }

    pub(crate) fn read_asked(&mut self, context: u64, at: ReplicaId, start: u64) {
        let committed = self.committed();
        self.reads.insert(
            context,
            Read {
                at,
                start,
                committed,
            },
        );
    }

    /// Checks the answer to a read. It may come twice, as requests may be repeated on their way.
    pub(crate) fn read_answered(&self, id: ReplicaId, start: u64, state: &ReadState) {
        let context = state
            .context
            .as_ref()
            .try_into()
            .map(u64::from_be_bytes)
            .expect("a context of ours");
        let read = self
            .reads
            .get(&context)
            .expect("an answer to what was asked");
        assert_eq!(read.at, id, "an answer that went astray");
        // An answer to what was asked before a restart is of no use, but right.
        assert!(read.start <= start);
        assert!(
            state.index >= read.committed,
            "stale read: index {} where {} was committed when it was asked for",
            state.index,
            read.committed
        );
    }

    /// A leader that holds a lease knows all that is committed.
    pub(crate) fn lease(&self, raw: &RawNode<View>) -> bool {
        let left = raw.lease_remaining_ticks();
        if left > 0 {
            let (own, all) = (raw.committed(), self.committed());
            assert_eq!(
                own,
                all,
                "replica {} of term {} has a lease of {left} ticks",
                raw.id(),
                raw.term()
            );
        }
        left > 0
    }
}

/// Leader append-only: a leader never changes or drops an entry of its log.
fn leader_append_only(id: ReplicaId, before: &Seen, now: &Seen) {
    for index in before.first.max(now.first).0..=before.last().0 {
        let (old, new) = (before.at(Index(index)), now.at(Index(index)));
        assert_eq!(
            old, new,
            "leader append-only: leader {id} of term {} changed {index}",
            now.term
        );
    }
}
