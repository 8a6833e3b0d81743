//! What a leader does with proposals, answers and reports (Raft paper 5.3, thesis 3.10 for handing over).

use super::{LeaderState, Raft};
use crate::raft::confchange::ConfChangeAny;
use crate::raft::error::{DropReason, Error, ProtocolError};
use crate::raft::progress::ProgressState;
use crate::raft::size::payloads_size;
use crate::raft::storage::Storage;
use crate::raft::types::{
    Entry, EntryId, EntryKind, Index, Message, MessageKind, ReplicaId, Role, Term,
};

impl<S: Storage> Raft<S> {
    /// Handles what concerns a leader. Takes out of the message what it keeps.
    pub(super) fn step_leader(&mut self, message: &mut Message) -> Result<(), Error> {
        match message.kind {
            MessageKind::Beat => {
                self.broadcast_heartbeat();
                Ok(())
            }
            MessageKind::CheckQuorum => {
                self.check_quorum();
                Ok(())
            }
            MessageKind::Prop => {
                let entries = std::mem::take(&mut message.entries);
                self.append_proposal(entries).map(|_| ())
            }
            MessageKind::ReadIndex => {
                let context = std::mem::take(&mut message.context);
                self.take_read(message.from, context)
            }
            // From here on the sender must be a member.
            _ if !self.tracker.progress.contains(message.from) => Ok(()),
            MessageKind::AppResp => self.handle_append_response(message),
            MessageKind::HeartbeatResp => self.handle_heartbeat_response(message),
            MessageKind::SnapStatus => {
                self.handle_snapshot_status(message.from, message.reject);
                Ok(())
            }
            MessageKind::Unreachable => {
                if let Some(progress) = self.tracker.progress.get_mut(message.from) {
                    // Appends were sent ahead in the belief that they arrive; likely they were lost.
                    if progress.state == ProgressState::Replicate {
                        progress.become_probe();
                    }
                }
                Ok(())
            }
            MessageKind::TransferLeader => self.handle_transfer_leader(message.from),
            _ => Ok(()),
        }
    }

    pub(super) fn check_quorum(&mut self) {
        if !self.tracker.quorum_active() {
            self.become_follower(self.term, ReplicaId::NONE);
        }
        let own = self.id;
        self.tracker
            .visit(|id, progress| progress.recent_active &= id == own);
    }

    /// Appends proposed entries and sends them. Returns the position of the first one.
    pub(super) fn append_proposal(&mut self, mut entries: Vec<Entry>) -> Result<EntryId, Error> {
        if !self.tracker.progress.contains(self.id) {
            return Err(Error::ProposalDropped(DropReason::Removed));
        }
        if !self.lead_transferee().is_none() {
            return Err(Error::ProposalDropped(DropReason::Transferring));
        }
        let first = self.log.last_index().next();
        let pending = self.check_conf_changes(&mut entries, first)?;
        if self.append_entries(entries).is_none() {
            return Err(Error::ProposalDropped(DropReason::Busy));
        }
        if let (Some(leader), Some(pending)) = (&mut self.leader, pending) {
            leader.pending_conf_index = pending;
        }
        self.broadcast_append()?;
        Ok(EntryId {
            term: self.term,
            index: first,
        })
    }

    /// Looks for membership changes among entries that are to be appended from `first` on, and makes those empty that
    /// must not enter the log now. Returns the index of the last one that may.
    fn check_conf_changes(
        &self,
        entries: &mut [Entry],
        first: Index,
    ) -> Result<Option<Index>, Error> {
        let mut pending = None;
        for (position, entry) in entries.iter_mut().enumerate() {
            if entry.kind == EntryKind::Normal {
                continue;
            }
            let change = ConfChangeAny::decode(entry.kind, &entry.data)
                .map_err(|error| ProtocolError::BadConfChange(error.to_string()))?
                .into_v2();
            let under_way =
                pending.unwrap_or_else(|| self.pending_conf_index()) > self.log.applied();
            let joint = self.tracker.config.voters.is_joint();
            let fits = !under_way && joint == change.changes.is_empty();
            if fits || self.settings.disable_conf_change_validation {
                pending = Some(Index(first.0 + position as u64));
            } else {
                *entry = Entry::default();
            }
        }
        Ok(pending)
    }

    /// Appends entries with term and index put in, unless too much is uncommitted. Returns the new last index.
    pub(super) fn append_entries(&mut self, mut entries: Vec<Entry>) -> Option<Index> {
        let mut index = self.log.last_index();
        for entry in &mut entries {
            index = index.next();
            entry.term = self.term;
            entry.index = index;
        }
        let size = payloads_size(&entries);
        let limit = self.settings.max_uncommitted_size;
        let leader = self.leader.as_mut()?;
        // Whatever its size, something may be under way; and entries without data always may: that of a new leader,
        // and the one that leaves a joint configuration.
        if leader.uncommitted_size > 0
            && size > 0
            && leader.uncommitted_size.saturating_add(size) > limit
        {
            return None;
        }
        leader.uncommitted_size += size;
        let last = self.log.append(entries);
        // The leader acknowledges to itself, as any follower does, once the entries are durable.
        self.send(Message {
            kind: MessageKind::AppResp,
            to: self.id,
            index: last,
            ..Message::default()
        });
        Some(last)
    }

    pub(super) fn reduce_uncommitted_size(&mut self, size: u64) {
        if let Some(leader) = &mut self.leader {
            // Entries of earlier terms were not counted, so that the estimate may be too low.
            leader.uncommitted_size = leader.uncommitted_size.saturating_sub(size);
        }
    }

    fn handle_append_response(&mut self, answer: &Message) -> Result<(), Error> {
        if answer.reject {
            return self.handle_append_rejection(answer);
        }
        let (from, last) = (answer.from, self.log.last_index());
        if answer.index > last {
            return Err(ProtocolError::AckOutOfRange {
                from,
                index: answer.index,
                last,
            }
            .into());
        }
        let first_index = self.log.first_index();
        let Some(progress) = self.tracker.progress.get_mut(from) else {
            return Ok(());
        };
        progress.recent_active = true;
        let news = progress.maybe_update(answer.index);
        // A probe of a peer that is up to date tells nothing new but that it can be replicated to.
        let found = progress.match_index == answer.index && progress.state == ProgressState::Probe;
        if !news && !found {
            return Ok(());
        }
        match progress.state {
            ProgressState::Probe => progress.become_replicate(),
            // Whatever snapshot it installed, the log goes on from there.
            ProgressState::Snapshot if progress.match_index.next() >= first_index => {
                progress.become_probe();
                progress.become_replicate();
            }
            ProgressState::Snapshot => {}
            ProgressState::Replicate => progress.inflights.free_le(answer.index),
        }
        let up_to_date = progress.match_index == last;
        let can_bump_commit = progress.can_bump_commit(self.log.committed());
        let tells = self.tells_commit();
        if self.maybe_commit()? {
            self.release_waiting_reads()?;
            if tells {
                self.broadcast_append()?;
            }
        } else if from != self.id && can_bump_commit && tells {
            // The next heartbeat would tell the commit index too, but later.
            self.maybe_send_append(from, true)?;
        }
        if from != self.id {
            // The window has room now, maybe for several messages.
            while self.maybe_send_append(from, false)? {}
            if up_to_date && from == self.lead_transferee() {
                self.send_timeout_now(from);
            }
        }
        Ok(())
    }

    /// Whether a commit is worth a message of its own. A membership change is, as what follows depends on it.
    fn tells_commit(&self) -> bool {
        !self.settings.lazy_commit || self.pending_conf_index() > self.log.applied()
    }

    /// Finds the place from where to try next.
    ///
    /// The answer says with which term the follower's log ends, or where it stops to match for sure (see the
    /// follower's side). All entries of the own log with higher terms above that place can't be there, so they need
    /// not be tried: at most one try per term, and not one per entry.
    fn handle_append_rejection(&mut self, answer: &Message) -> Result<(), Error> {
        let from = answer.from;
        let mut hint = answer.reject_hint.min(self.log.last_index());
        if answer.log_term > Term(0) {
            (hint, _) = self.log.find_conflict_by_term(hint, answer.log_term)?;
        }
        let Some(progress) = self.tracker.progress.get_mut(from) else {
            return Ok(());
        };
        progress.recent_active = true;
        if !progress.maybe_decr_to(answer.index, hint) {
            return Ok(());
        }
        if progress.state == ProgressState::Replicate {
            progress.become_probe();
        }
        self.maybe_send_append(from, true)?;
        Ok(())
    }

    fn handle_heartbeat_response(&mut self, answer: &Message) -> Result<(), Error> {
        let from = answer.from;
        self.check_round(from, answer.round)?;
        let Some(progress) = self.tracker.progress.get_mut(from) else {
            return Ok(());
        };
        progress.recent_active = true;
        progress.msg_app_flow_paused = false;
        // A full window may be full of lost messages: an empty append finds out. And one that is up to date but
        // probed returns to replication by the answer to an empty append.
        if progress.match_index < self.log.last_index() || progress.state == ProgressState::Probe {
            self.maybe_send_append(from, true)?;
        }
        self.confirm_round(from, answer.round, answer.promise);
        Ok(())
    }

    fn handle_snapshot_status(&mut self, from: ReplicaId, failed: bool) {
        let Some(progress) = self.tracker.progress.get_mut(from) else {
            return;
        };
        if progress.state != ProgressState::Snapshot {
            return;
        }
        if failed {
            // Before probing, which would start behind the snapshot otherwise.
            progress.pending_snapshot = Index(0);
        }
        progress.become_probe();
        // On success its acknowledgement is on the way; on failure the next heartbeat is soon enough.
        progress.msg_app_flow_paused = true;
    }

    fn handle_transfer_leader(&mut self, to: ReplicaId) -> Result<(), Error> {
        let last = self.log.last_index();
        let Some(progress) = self.tracker.progress.get(to) else {
            return Ok(());
        };
        let up_to_date = progress.match_index == last;
        if progress.is_learner || to == self.lead_transferee() {
            return Ok(());
        }
        // A new target replaces an earlier one; the leader as its own target just ends the transfer.
        self.abort_leader_transfer();
        if to == self.id {
            return Ok(());
        }
        // The transfer has an election timeout of time.
        self.restart_election_clock(0);
        if let Some(leader) = &mut self.leader {
            leader.transferee = to;
        }
        if up_to_date {
            self.send_timeout_now(to);
        } else {
            self.maybe_send_append(to, true)?;
        }
        Ok(())
    }

    fn send_timeout_now(&mut self, to: ReplicaId) {
        if let Some(leader) = &mut self.leader {
            leader.timeout_now_sent = true;
        }
        self.send(Message {
            kind: MessageKind::TimeoutNow,
            to,
            ..Message::default()
        });
    }

    pub(super) fn abort_leader_transfer(&mut self) {
        if let Some(leader) = &mut self.leader {
            leader.transferee = ReplicaId::NONE;
        }
    }

    /// Entries up to `index` are applied here.
    pub(super) fn applied_to(&mut self, index: Index, size: u64) -> Result<(), Error> {
        self.log.applied_to(index.max(self.log.applied()), size);
        self.maybe_leave_joint()
    }

    /// Proposes to leave a joint configuration that is to be left by itself, as soon as the entry that entered it is
    /// applied.
    pub(super) fn maybe_leave_joint(&mut self) -> Result<(), Error> {
        if self.role != Role::Leader
            || !self.tracker.config.auto_leave
            || self.log.applied() < self.pending_conf_index()
        {
            return Ok(());
        }
        // No data: so it can't be refused for its size. A transfer of leadership may refuse it; then this comes again
        // at the new leader, or here when the next entry is applied or (`liveness_fixes`) the transfer given up.
        let leave = Entry {
            kind: EntryKind::ConfChangeV2,
            ..Entry::default()
        };
        match self.append_proposal(vec![leave]) {
            Ok(_) | Err(Error::ProposalDropped(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub(super) fn leader_state(&mut self) -> Option<&mut LeaderState> {
        self.leader.as_deref_mut()
    }
}

impl<S: Storage> Raft<S> {
    /// Proposes entries: appends them here, or forwards them to the leader. Returns the position of the first one in
    /// the former case.
    ///
    /// # Errors
    /// If they are dropped, or the storage fails.
    pub fn propose(&mut self, entries: Vec<Entry>) -> Result<Option<EntryId>, Error> {
        if entries.is_empty() {
            return Err(ProtocolError::EmptyProposal.into());
        }
        self.wake();
        if self.role == Role::Leader {
            return self.append_proposal(entries).map(Some);
        }
        self.step(Message {
            kind: MessageKind::Prop,
            from: self.id,
            entries,
            ..Message::default()
        })?;
        Ok(None)
    }
}
