//! Linearizable reads without the log: read indexes, rounds of confirmation and leases (thesis 6.4).
//!
//! A read may be served at index *i* if everything committed before the read was asked for is at or below *i*. The
//! leader knows *i*, its commit index, provided that it has committed an entry of its own term and that nobody else
//! leads yet. The latter it learns in one of two ways:
//!
//! - **A round**: a quorum answers a heartbeat that was sent after the read was asked for.
//! - **The lease**: a quorum has promised not to vote for some time, counted on the follower's side from the receipt
//!   of a message, on the leader's side from its sending, which is earlier, and shortened by the clocks' drift
//!   ([`Config::lease_ticks`](crate::raft::Config::lease_ticks)).
//!
//! The promise behind the lease is kept by `votes_held_until`, which outlives roles, terms and leaders heard: while it
//! lasts, no vote is given, not even to oneself. Only a leader that hands over may break it, and then it has no lease
//! any more for the rest of its term, as the message that says so may arrive at any later time. Membership changes do
//! no harm: quorums of neighbouring configurations intersect, and no replica is more than one change ahead of the
//! leader's applied configuration.

use super::Raft;
use crate::raft::config::ReadOnlyOption;
use crate::raft::error::{DropReason, Error};
use crate::raft::read_only::{ReadRequest, ReadState, sent_at};
use crate::raft::storage::Storage;
use crate::raft::types::{Index, Message, MessageKind, ReplicaId};
use bytes::Bytes;

impl<S: Storage> Raft<S> {
    pub(super) fn uses_leases(&self) -> bool {
        self.settings.read_only == ReadOnlyOption::LeaseBased
    }

    /// Whether votes are promised away.
    pub(super) fn holds_votes(&self) -> bool {
        self.now < self.votes_held_until
    }

    /// Promises a leader that was heard not to vote for an election timeout.
    pub(super) fn hold_votes(&mut self) {
        if self.uses_leases() {
            let until = self.now + u64::from(self.settings.election_ticks);
            self.votes_held_until = self.votes_held_until.max(until);
        }
    }

    /// Whether the commit index is of the own term, so that nothing committed is above it.
    pub(super) fn has_committed_in_term(&self) -> Result<bool, Error> {
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
        let confirmed = committed && (alone || self.lease_ticks_left() > 0);
        if confirmed {
            self.answer_read(ReadRequest::new(from, context), index);
            return Ok(());
        }
        let round = if committed { self.round_to_join() } else { 0 };
        let Some(leader) = self.leader_state() else {
            return Err(Error::ReadDropped(DropReason::NoLeader));
        };
        if leader.reads.is_full() {
            return Err(Error::ReadDropped(DropReason::Busy));
        }
        leader
            .reads
            .add(ReadRequest::new(from, context), index, round);
        Ok(())
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

    fn answer_read(&mut self, request: ReadRequest, index: Index) {
        let ReadRequest { from, context, .. } = request;
        if from == self.id {
            self.read_states.push(ReadState { index, context });
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
        let round = leader.reads.start_round(now - leader.since);
        leader.round_open = true;
        self.broadcast_heartbeat_round(round);
        round
    }

    /// The round that a heartbeat carries: a new one if requests wait (the last may have been lost) or the lease is
    /// to be renewed, else none.
    pub(super) fn next_round(&mut self) -> u64 {
        let (now, leases) = (self.now, self.uses_leases());
        match self.leader_state() {
            Some(leader) if leases || !leader.reads.is_empty() => {
                leader.round_open = true;
                leader.reads.start_round(now - leader.since)
            }
            _ => 0,
        }
    }

    /// Notes that `from` confirmed `round`, and answers the requests that a quorum has confirmed now.
    pub(super) fn confirm_round(&mut self, from: ReplicaId, round: u64) {
        let Some(leader) = self.leader.as_deref_mut().filter(|_| round != 0) else {
            return;
        };
        leader.reads.acknowledge(from, round);
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
            self.answer_read(request, index);
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
        // Per voter, one above the tick in office when something was sent that it has received for sure; 0 if nothing.
        let promised = |id: ReplicaId| {
            if id == self.id {
                return Some(Index(in_office + 1));
            }
            let progress = self.tracker.progress.get(id)?;
            let round = leader.reads.acked(id).map(sent_at);
            // Who has an entry of the term has received it, which cannot have been sent before the election.
            let entry = (progress.match_index >= leader.first_index).then_some(0);
            round.max(entry).map(|tick| Index(tick + 1))
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
