//! What a message must be like to be looked at.
//!
//! Everything that a message says is checked here, before it changes anything, as far as it can be checked without
//! the state of the log; behind the gate it is trusted. What needs the log is checked where it is used, and is an error
//! there as well: conflicts with committed entries, commit indexes and acknowledgements beyond the log.

use super::Raft;
use crate::raft::error::ProtocolError;
use crate::raft::raft_log::check_slice;
use crate::raft::storage::Storage;
use crate::raft::types::{EntryId, Index, Message, MessageKind, ReplicaId, Term};

/// The highest term that is believed. No group gets there by elections, and sums don't overflow.
pub(super) const MAX_TERM: Term = Term(1 << 62);

/// The highest index that is believed of a snapshot.
const MAX_INDEX: Index = Index(1 << 62);

impl<S: Storage> Raft<S> {
    /// Whether a message of this kind can come from there.
    fn may_send(&self, kind: MessageKind, from: ReplicaId) -> bool {
        match kind {
            MessageKind::StorageAppendResp | MessageKind::StorageApplyResp => true,
            // What is followed, or answered.
            MessageKind::App
            | MessageKind::Heartbeat
            | MessageKind::HeartbeatResp
            | MessageKind::Quiesce
            | MessageKind::Snap
            | MessageKind::Vote
            | MessageKind::PreVote => {
                !from.is_none() && from != self.id && !from.is_storage_thread()
            }
            _ => !from.is_storage_thread(),
        }
    }

    /// Checks what `message` says against itself and the protocol.
    pub(super) fn check_message(&self, message: &Message) -> Result<(), ProtocolError> {
        let kind = message.kind;
        if message.term > MAX_TERM {
            return Err(ProtocolError::TermOutOfRange {
                kind,
                term: message.term,
            });
        }
        // A message without a term counts as one of the present term.
        let term = match message.term {
            Term(0) => self.term,
            term => term,
        };
        if !self.may_send(kind, message.from) {
            return Err(ProtocolError::BadSender {
                kind,
                from: message.from,
            });
        }
        match kind {
            MessageKind::Vote | MessageKind::PreVote if message.term == Term(0) => {
                Err(ProtocolError::NoTerm { kind })
            }
            MessageKind::App => {
                let prev = EntryId {
                    term: message.log_term,
                    index: message.index,
                };
                check_slice(term, prev, &message.entries)
            }
            MessageKind::Snap => {
                let Some(snapshot) = &message.snapshot else {
                    return Err(ProtocolError::NoSnapshot);
                };
                let meta = &snapshot.meta;
                if meta.index > MAX_INDEX {
                    return Err(ProtocolError::BadSnapshot {
                        index: meta.index,
                        reason: format!("the index is above {MAX_INDEX}"),
                    });
                }
                // Only a message that names its term vouches for it.
                if message.term != Term(0) && meta.term > term {
                    return Err(ProtocolError::TermAboveLeader {
                        index: meta.index,
                        term: meta.term,
                        leader: term,
                    });
                }
                Ok(())
            }
            MessageKind::Prop if message.entries.is_empty() => Err(ProtocolError::EmptyProposal),
            _ => Ok(()),
        }
    }
}
