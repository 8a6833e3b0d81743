//! What a follower does with appends, heartbeats and snapshots, and with requests that are the leader's business.

use super::Raft;
use super::election::Campaign;
use crate::raft::error::{DropReason, Error};
use crate::raft::raft_log::LogSlice;
use crate::raft::read_only::ReadState;
use crate::raft::storage::Storage;
use crate::raft::types::{Index, Message, MessageKind, ReplicaId, Snapshot, Term};

impl<S: Storage> Raft<S> {
    /// Handles what concerns a follower. Takes out of the message what it keeps.
    pub(super) fn step_follower(&mut self, message: &mut Message) -> Result<(), Error> {
        match message.kind {
            MessageKind::Prop => {
                let reason = match self.has_leader() {
                    false => DropReason::NoLeader,
                    true if self.settings.disable_proposal_forwarding => DropReason::NotForwarded,
                    true => {
                        self.forward(message);
                        return Ok(());
                    }
                };
                Err(Error::ProposalDropped(reason))
            }
            MessageKind::ReadIndex if !self.has_leader() => {
                Err(Error::ReadDropped(DropReason::NoLeader))
            }
            MessageKind::TransferLeader if !self.has_leader() => Ok(()),
            MessageKind::ReadIndex | MessageKind::TransferLeader => {
                self.forward(message);
                Ok(())
            }
            MessageKind::App => {
                self.heard_leader(message.from);
                self.handle_append(message)
            }
            MessageKind::Heartbeat => {
                self.heard_leader(message.from);
                self.handle_heartbeat(message)
            }
            MessageKind::Quiesce => {
                self.heard_leader(message.from);
                self.check_commit(message.commit)?;
                self.log.commit_to(message.commit);
                Ok(())
            }
            MessageKind::Snap => {
                self.heard_leader(message.from);
                self.handle_snapshot(message)
            }
            MessageKind::ForgetLeader => {
                self.forget_leader();
                Ok(())
            }
            // Without a pre-vote: it is the leader's wish, so nobody is disturbed.
            MessageKind::TimeoutNow => self.hup(Campaign::Transfer),
            MessageKind::ReadIndexResp => {
                self.read_states.push(ReadState {
                    index: message.index,
                    context: std::mem::take(&mut message.context),
                    leased: false,
                });
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Passes a request on to the leader, in the name of who made it.
    fn forward(&mut self, message: &mut Message) {
        self.send(Message {
            to: self.lead,
            term: Term(0),
            ..std::mem::take(message)
        });
    }

    fn handle_append(&mut self, message: &mut Message) -> Result<(), Error> {
        let (from, commit) = (message.from, message.commit);
        let slice = LogSlice::from_checked(message);
        let prev = slice.prev;
        // What is committed is the same everywhere: no need to look at it.
        if prev.index < self.log.committed() {
            self.acknowledge(from, self.log.committed());
            return Ok(());
        }
        if let Some(last) = self.log.maybe_append(slice, commit)? {
            self.acknowledge(from, last);
            return Ok(());
        }
        // The logs differ at `prev`. The leader's terms up to there are at most that of `prev`, so they differ at
        // every index where the own term is above: the first place below where they may match is the best hint. The
        // leader does the same from its side.
        let hint = prev.index.min(self.log.last_index());
        let (reject_hint, log_term) = self.log.find_conflict_by_term(hint, prev.term)?;
        self.send(Message {
            kind: MessageKind::AppResp,
            to: from,
            index: prev.index,
            reject: true,
            reject_hint,
            log_term,
            ..Message::default()
        });
        Ok(())
    }

    fn handle_heartbeat(&mut self, message: &mut Message) -> Result<(), Error> {
        self.check_commit(message.commit)?;
        self.log.commit_to(message.commit);
        self.asked_to_promise |= self.uses_leases() && message.round != 0;
        self.send(Message {
            kind: MessageKind::HeartbeatResp,
            to: message.from,
            round: message.round,
            context: std::mem::take(&mut message.context),
            ..Message::default()
        });
        Ok(())
    }

    fn handle_snapshot(&mut self, message: &mut Message) -> Result<(), Error> {
        let Some(snapshot) = message.snapshot.take() else {
            return Ok(());
        };
        // A snapshot that is not needed is answered with what is there instead.
        let index = match self.restore(snapshot)? {
            true => self.log.last_index(),
            false => self.log.committed(),
        };
        self.acknowledge(message.from, index);
        Ok(())
    }

    fn acknowledge(&mut self, to: ReplicaId, index: Index) {
        self.send(Message {
            kind: MessageKind::AppResp,
            to,
            index,
            ..Message::default()
        });
    }

    /// Replaces log and membership by a snapshot. Returns `false` if it is not needed or not meant for this replica.
    ///
    /// # Errors
    /// If its membership contradicts itself; nothing is changed then.
    pub fn restore(&mut self, snapshot: Box<Snapshot>) -> Result<bool, Error> {
        let meta = &snapshot.meta;
        if meta.index <= self.log.committed() {
            return Ok(false);
        }
        let members = &meta.conf_state;
        // Everywhere the own membership is taken for granted once there is one.
        let member = [&members.voters, &members.voters_outgoing, &members.learners]
            .iter()
            .any(|list| list.contains(&self.id));
        if !member {
            return Ok(false);
        }
        let id = crate::raft::types::EntryId {
            term: meta.term,
            index: meta.index,
        };
        if self.log.match_term(id)? {
            self.log.commit_to(meta.index);
            return Ok(false);
        }
        self.restore_conf_state(members, meta.index)
            .map_err(|error| crate::raft::error::ProtocolError::BadSnapshot {
                index: meta.index,
                reason: error.to_string(),
            })?;
        self.log.restore(snapshot);
        Ok(true)
    }
}
