//! Linearizable reads without the log: read indexes, rounds of confirmation and leases (thesis 6.4).
//!
//! A read may be served at index *i* if everything committed before the read was asked for is at or below *i*. The
//! leader knows *i*, its commit index, provided that it has committed an entry of its own term and that nobody else
//! leads yet. The latter it learns in one of two ways:
//!
//! - **A round**: a quorum answers a heartbeat that was sent after the read was asked for.
//! - **The lease**: a quorum that answered a round has promised not to vote for some time, counted on the follower's side
//!   from the moment at which its answer leaves, on the leader's side from the sending of the round, which is earlier, and
//!   shortened by the clocks' drift ([`Config::lease_ticks`](crate::raft::Config::lease_ticks)).
//!
//! The promise behind the lease is kept by `votes_held_until`, which outlives roles, terms and leaders heard: while it
//! lasts, no vote is given, not even to oneself. Only a leader that hands over may break it, and then it has no lease
//! any more for the rest of its term, as the message that says so may arrive at any later time. Membership changes do
//! no harm: quorums of neighbouring configurations intersect, and no replica is more than one change ahead of the
//! leader's applied configuration.
//!
//! A message may be taken in with a clock that is behind, as the process may have stood still. So nothing about leases is
//! decided then, but when what rests on it leaves: whether an answer promises anything and from which tick on
//! (`promise`), and whether the lease confirms a read (`settle_leased_reads`).
//!
//! A lease lives by being used: a round begins with the first read, and others as long as there are reads. Who does not
//! keep promises (`ReadOnlyOption::Safe`) answers rounds all the same, and says so by not promising.

use super::Raft;
use crate::raft::config::ReadOnlyOption;
use crate::raft::error::{DropReason, Error};
use crate::raft::read_only::{ReadRequest, ReadState, sent_at};
use crate::raft::storage::Storage;
use crate::raft::types::{Index, Message, MessageKind, ReplicaId, Role};
use bytes::Bytes;

impl<S: Storage> Raft<S> {
    pub(super) fn uses_leases(&self) -> bool {
        self.settings.read_only == ReadOnlyOption::LeaseBased
    }

    /// Whether votes are promised away.
    pub(super) fn holds_votes(&self) -> bool {
        self.now < self.votes_held_until
    }

    /// Gives no votes for an election timeout, as a leader was heard.
    pub(super) fn hold_votes(&mut self) {
        if self.uses_leases() {
            let until = self.now + u64::from(self.settings.election_ticks);
            self.votes_held_until = self.votes_held_until.max(until);
        }
    }

    /// Makes the answers to rounds that leave now promises, and keeps them from now on. To be called when the messages are
    /// taken, with a clock that is up to date.
    ///
    /// Only who has an entry of the leader's term on its disk promises: a replica without any such entry may look newborn
    /// after a restart, and would vote at once.
    pub(super) fn promise(&mut self) {
        if !std::mem::take(&mut self.asked_to_promise)
            || self.role != Role::Follower
            || !self.log.has_durable_of(self.term)
        {
            return;
        }
        for message in &mut self.msgs {
            message.promise = message.kind == MessageKind::HeartbeatResp
                && message.round != 0
                && message.term == self.term;
        }
        self.hold_votes();
    }

    /// Whether the commit index is of the own term, so that nothing committed is above it.
    pub(crate) fn has_committed_in_term(&self) -> Result<bool, Error> {
        let committed = self.log.committed();
        Ok(match &self.leader {
            // A leader's term begins at its first entry, and no entry behind that is of another one.
            Some(leader) => committed >= leader.first_index,
            None => self.log.maybe_term(committed)? == Some(self.term),
        })
    }

    /// Takes a read request on the leader.
    pub(super) fn take_read(&mut self, from: ReplicaId, context: Bytes) -> Result<(), Error> {
        let from = if from.is_none() { self.id } else { from };
        let committed = self.has_committed_in_term()?;
        let index = self.log.committed();
        // Not by the size of the quorum alone: a demoted leader may face a single voter that is somebody else.
        let alone = self.tracker.is_singleton() && self.tracker.config.voters.contains(self.id);
        let request = ReadRequest::new(from, context);
        if committed && alone {
            self.answer_read(request, index, false);
            return Ok(());
        }
        let leased = committed && self.lease_ticks_left() > 0;
        let round = match committed && !leased {
            true => self.round_to_join(),
            false => 0,
        };
        let Some(leader) = self.leader_state() else {
            return Err(Error::ReadDropped(DropReason::NoLeader));
        };
        if leader.reads.is_full() {
            return Err(Error::ReadDropped(DropReason::Busy));
        }
        match leased {
            true => leader.reads.add_leased(request, index),
            false => leader.reads.add(request, index, round),
        }
        Ok(())
    }

    /// Answers the requests that came while the lease held, if it still does; else they wait for a round. To be called
    /// when the answers are taken, with a clock that is up to date.
    pub(super) fn settle_leased_reads(&mut self) {
        let left = self.lease_ticks_left();
        let Some(leader) = self
            .leader
            .as_deref_mut()
            .filter(|leader| leader.reads.has_leased())
        else {
            return;
        };
        let requests = leader.reads.take_leased();
        if left == 0 {
            let round = self.round_to_join();
            if let Some(leader) = self.leader_state() {
                for request in requests {
                    let index = request.index;
                    leader.reads.add(request, index, round);
                }
            }
            return;
        }
        for request in requests {
            let index = request.index;
            self.answer_read(request, index, true);
        }
        self.use_lease();
    }

    /// The lease has answered reads, here or where this replica was not asked ([`Raft::lease_remaining_ticks`]): it is
    /// renewed as long as it is used.
    pub(crate) fn use_lease(&mut self) {
        let (left, now) = (self.lease_ticks_left(), self.now);
        let Some(leader) = self.leader.as_deref_mut().filter(|_| left > 0) else {
            return;
        };
        leader.lease_used = true;
        // In good time, so that no read has to wait for it; but once in a tick is enough, should a round have been lost.
        let last = leader.reads.last_round();
        if 2 * left < self.settings.lease_ticks && sent_at(last) < now - leader.since {
            self.round_to_join();
        }
    }

    /// Takes up the requests that came before the first commit of the term.
    pub(super) fn release_waiting_reads(&mut self) -> Result<(), Error> {
        if !self.has_committed_in_term()? {
            return Ok(());
        }
        let waiting = match self.leader_state() {
            Some(leader) => leader.reads.take_waiting(),
            None => return Ok(()),
        };
        for request in waiting {
            self.take_read(request.from, request.context)?;
        }
        Ok(())
    }

    fn answer_read(&mut self, request: ReadRequest, index: Index, leased: bool) {
        let ReadRequest { from, context, .. } = request;
        if from == self.id {
            self.read_states.push(ReadState {
                index,
                context,
                leased,
            });
        } else {
            self.send(Message {
                kind: MessageKind::ReadIndexResp,
                to: from,
                index,
                context,
                ..Message::default()
            });
        }
    }

    /// The round whose confirmation will confirm a request that is made now: one that is still to be sent, or a new
    /// one.
    fn round_to_join(&mut self) -> u64 {
        let now = self.now;
        let Some(leader) = self.leader_state() else {
            return 0;
        };
        if leader.round_open {
            return leader.reads.last_round();
        }
        leader.round_open = true;
        let round = leader.start_round(now);
        self.broadcast_heartbeat_round(round);
        round
    }

    /// Whether requests wait for a round.
    pub(super) fn awaits_round(&self) -> bool {
        (self.leader.as_ref()).is_some_and(|leader| !leader.reads.is_empty())
    }

    /// The round that a heartbeat carries: a new one if requests wait (the last may have been lost) or the lease was used
    /// since the last one, else none.
    pub(super) fn next_round(&mut self) -> u64 {
        let (now, awaited) = (self.now, self.awaits_round());
        match self.leader_state() {
            Some(leader) if awaited || leader.lease_used => {
                // What nobody waits for need not go to everybody.
                leader.round_open = awaited;
                leader.start_round(now)
            }
            _ => 0,
        }
    }

    /// Notes that `from` confirmed `round`, and answers the requests that a quorum has confirmed now.
    pub(super) fn confirm_round(&mut self, from: ReplicaId, round: u64, promise: bool) {
        let Some(leader) = self.leader.as_deref_mut().filter(|_| round != 0) else {
            return;
        };
        leader.reads.acknowledge(from, round, promise);
        if leader.reads.is_empty() {
            return;
        }
        let confirmed = leader
            .reads
            .confirmed_round(&self.tracker.config.voters, self.id);
        while let Some(request) = self
            .leader_state()
            .and_then(|leader| leader.reads.pop_confirmed(confirmed))
        {
            let index = request.index;
            self.answer_read(request, index, false);
        }
    }

    /// For how many more ticks this leader may answer reads without asking anybody; 0 if it has no lease. As good as
    /// the ticks passed in: they must be up to date.
    #[must_use]
    pub fn lease_remaining_ticks(&self) -> u32 {
        match self.has_committed_in_term() {
            Ok(true) => self.lease_ticks_left(),
            Ok(false) | Err(_) => 0,
        }
    }

    /// [`Raft::lease_remaining_ticks`] without a look at the log.
    fn lease_ticks_left(&self) -> u32 {
        let Some(leader) = self.leader.as_deref().filter(|leader| {
            self.uses_leases() && leader.transferee.is_none() && !leader.timeout_now_sent
        }) else {
            return 0;
        };
        let in_office = self.now - leader.since;
        // Per voter, one above the tick in office when the last round was sent that it has answered with a promise.
        let promised = |id: ReplicaId| match id == self.id {
            true => Some(Index(in_office + 1)),
            false => (leader.reads.promised(id)).map(|round| Index(sent_at(round) + 1)),
        };
        let Index(start) = self.tracker.config.voters.committed_index(promised);
        if start == 0 {
            return 0;
        }
        let passed = in_office.saturating_sub(start - 1);
        u64::from(self.settings.lease_ticks)
            .saturating_sub(passed)
            .try_into()
            .unwrap_or(0)
    }
}
