//! Where every message goes: first the order of terms decides, then the role.

use super::Raft;
use crate::raft::error::{Error, ProtocolError};
use crate::raft::size::{entries_size, payloads_size};
use crate::raft::storage::Storage;
use crate::raft::types::{
    Entry, EntryId, Index, Message, MessageKind, ReplicaId, Role, Snapshot, Term,
};
use std::cmp::Ordering;

/// Whether messages of this kind never travel between replicas (etcd `IsLocalMsg`).
#[must_use]
pub fn is_local_message(kind: MessageKind) -> bool {
    matches!(
        kind,
        MessageKind::Hup
            | MessageKind::Beat
            | MessageKind::Unreachable
            | MessageKind::SnapStatus
            | MessageKind::CheckQuorum
            | MessageKind::StorageAppend
            | MessageKind::StorageAppendResp
            | MessageKind::StorageApply
            | MessageKind::StorageApplyResp
    )
}

/// Whether messages of this kind answer one, so that they make sense from members only (etcd `IsResponseMsg`).
#[must_use]
pub fn is_response_message(kind: MessageKind) -> bool {
    matches!(
        kind,
        MessageKind::AppResp
            | MessageKind::VoteResp
            | MessageKind::HeartbeatResp
            | MessageKind::Unreachable
            | MessageKind::ReadIndexResp
            | MessageKind::PreVoteResp
            | MessageKind::StorageAppendResp
            | MessageKind::StorageApplyResp
    )
}

/// Committed entries that are applied, as far as it matters.
#[derive(Clone, Copy, Debug)]
pub(in crate::raft) struct Applied {
    /// Index of the last one.
    pub(in crate::raft) index: Index,
    /// Sum of [`entry_size`](crate::raft::size::entry_size).
    pub(in crate::raft) size: u64,
    /// Sum of the sizes of the bare data.
    payload: u64,
}

impl Applied {
    /// `None` if there are no entries.
    pub(in crate::raft) fn new(entries: &[Entry]) -> Option<Self> {
        entries.last().map(|last| Self {
            index: last.index,
            size: entries_size(entries),
            payload: payloads_size(entries),
        })
    }
}

impl<S: Storage> Raft<S> {
    /// Takes a message in: from another replica, from a storage thread, or local.
    ///
    /// # Errors
    /// If the message breaks the protocol or is a request that is dropped, without an effect other than that a higher
    /// term is followed; if the storage fails, with any.
    pub fn step(&mut self, mut message: Message) -> Result<(), Error> {
        self.check_message(&message)?;
        if self.quiescent && self.disturbs(&message) {
            self.wake();
        }
        let order = if message.term == Term(0) {
            Ordering::Equal
        } else {
            message.term.cmp(&self.term)
        };
        match order {
            Ordering::Less => return self.step_lower_term(&message),
            Ordering::Greater => {
                if !self.enter_higher_term(&message) {
                    return Ok(());
                }
            }
            Ordering::Equal => {}
        }
        match message.kind {
            MessageKind::Hup => self.hup_by_timeout(),
            MessageKind::Vote | MessageKind::PreVote => self.handle_vote(&message),
            MessageKind::StorageAppendResp => {
                self.log.written_to(EntryId {
                    term: message.log_term,
                    index: message.index,
                })?;
                match &message.snapshot {
                    Some(snapshot) => self.applied_snapshot(snapshot),
                    None => Ok(()),
                }
            }
            MessageKind::StorageApplyResp => match Applied::new(&message.entries) {
                Some(applied) => {
                    self.check_applied(applied.index, self.log.applying())?;
                    self.entries_applied(applied)
                }
                None => Ok(()),
            },
            _ => match self.role {
                Role::Leader => self.step_leader(&mut message),
                Role::Follower => self.step_follower(&mut message),
                Role::Candidate | Role::PreCandidate => self.step_candidate(&mut message),
            },
        }
    }

    /// Follows a message of a higher term, or doesn't. Returns whether the message is to be looked at further.
    fn enter_higher_term(&mut self, message: &Message) -> bool {
        match message.kind {
            // Who hears from a leader, or promised one not to vote, does not let himself be disturbed (thesis 4.2.3).
            MessageKind::Vote | MessageKind::PreVote if self.refuses_votes(message) => {
                return false;
            }
            // A pre-vote changes no term. A granted one answers with the future term that was asked for; it becomes
            // real when a quorum has answered so.
            MessageKind::PreVote => {}
            MessageKind::PreVoteResp if !message.reject => {}
            MessageKind::App
            | MessageKind::Heartbeat
            | MessageKind::Quiesce
            | MessageKind::Snap => {
                self.become_follower(message.term, message.from);
            }
            _ => self.become_follower(message.term, ReplicaId::NONE),
        }
        true
    }

    /// Handles a message of a lower term, of which most are ignored.
    fn step_lower_term(&mut self, message: &Message) -> Result<(), Error> {
        match message.kind {
            // The leader of a lower term may be alive while this replica, cut off for a while, has raised its own
            // term and can neither win (its votes are refused) nor return (its term is higher). An answer with its
            // term makes that leader step down, which frees it. With pre-vote it doesn't come to that, except after
            // switching it on. With neither option its votes would do the same.
            MessageKind::App | MessageKind::Heartbeat | MessageKind::Quiesce
                if self.settings.check_quorum || self.settings.pre_vote =>
            {
                self.send(Message {
                    kind: MessageKind::AppResp,
                    to: message.from,
                    ..Message::default()
                });
            }
            // A candidate from before pre-vote was switched on may have a higher term and a shorter log. Dropping its
            // requests could leave both sides without a winner.
            MessageKind::PreVote => {
                self.send(Message {
                    kind: MessageKind::PreVoteResp,
                    to: message.from,
                    term: self.term,
                    reject: true,
                    ..Message::default()
                });
            }
            // The entries may have been overwritten since in the unstable log; the write of the later ones will be
            // acknowledged too. A snapshot is committed state of no particular term.
            MessageKind::StorageAppendResp => {
                if let Some(snapshot) = &message.snapshot {
                    self.applied_snapshot(snapshot)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether a message is a reason to wake from quiescence.
    fn disturbs(&self, message: &Message) -> bool {
        match message.kind {
            // Late answers to what was sent before.
            MessageKind::HeartbeatResp | MessageKind::AppResp => {
                message.term > self.term || message.reject
            }
            MessageKind::StorageAppendResp | MessageKind::StorageApplyResp => false,
            // The peer will be probed when there is something to send.
            MessageKind::Unreachable => false,
            _ => message.term == Term(0) || message.term >= self.term,
        }
    }

    /// Entries that were handed out for application are applied.
    pub(in crate::raft) fn entries_applied(&mut self, applied: Applied) -> Result<(), Error> {
        self.applied_to(applied.index, applied.size)?;
        self.reduce_uncommitted_size(applied.payload);
        Ok(())
    }

    /// Checks what a storage thread says to have been applied against what it can have been given.
    fn check_applied(&self, index: Index, given: Index) -> Result<(), ProtocolError> {
        if index > given {
            return Err(ProtocolError::AppliedOutOfRange { index, given });
        }
        Ok(())
    }

    fn applied_snapshot(&mut self, snapshot: &Snapshot) -> Result<(), Error> {
        let index = snapshot.meta.index;
        self.check_applied(index, self.log.committed())?;
        self.log.snapshot_written(index)?;
        self.applied_to(index, 0)
    }
}
