//! What a leader sends: appends, snapshots, heartbeats; and what it may commit (Raft paper 5.3, 5.4.2).

use super::Raft;
use crate::raft::error::{Error, ProtocolError};
use crate::raft::progress::ProgressState;
use crate::raft::size::payloads_size;
use crate::raft::storage::{Storage, StorageError};
use crate::raft::types::{EntryId, Message, MessageKind, ReplicaId};

impl<S: Storage> Raft<S> {
    /// Sends an append to every other member that can take one, empty ones included.
    pub(super) fn broadcast_append(&mut self) -> Result<(), Error> {
        for to in self.other_members() {
            self.maybe_send_append(to, true)?;
        }
        Ok(())
    }

    /// Sends the next entries to `to`, or a snapshot if they are compacted away. Without entries it sends an append
    /// only if `send_if_empty`, which is how commit indexes travel. Returns whether something was sent.
    pub(super) fn maybe_send_append(
        &mut self,
        to: ReplicaId,
        send_if_empty: bool,
    ) -> Result<bool, Error> {
        let Some(progress) = self.tracker.progress.get_mut(to) else {
            return Ok(false);
        };
        if progress.is_paused() || to == self.id {
            return Ok(false);
        }
        if !send_if_empty && progress.next > self.log.last_index() {
            return Ok(false);
        }
        let index = progress.next.prev();
        let Some(log_term) = self.log.maybe_term(index)? else {
            return self.maybe_send_snapshot(to);
        };
        // With a full window only empty appends: should all of it have been lost, their rejection reveals that.
        let full = progress.state == ProgressState::Replicate && progress.inflights.full();
        let entries = if full {
            Vec::new()
        } else {
            match self
                .log
                .entries(progress.next, self.settings.max_size_per_msg)
            {
                Ok(entries) => entries,
                Err(StorageError::Compacted) => return self.maybe_send_snapshot(to),
                Err(error) => return Err(error.into()),
            }
        };
        if entries.is_empty() && !send_if_empty {
            return Ok(false);
        }
        let commit = self.log.committed();
        progress.sent_entries(entries.len(), payloads_size(&entries));
        progress.sent_commit(commit);
        self.send(Message {
            kind: MessageKind::App,
            to,
            index,
            log_term,
            commit,
            entries,
            ..Message::default()
        });
        Ok(true)
    }

    fn maybe_send_snapshot(&mut self, to: ReplicaId) -> Result<bool, Error> {
        let Some(progress) = self.tracker.progress.get_mut(to) else {
            return Ok(false);
        };
        // A snapshot is too much to be sent to somebody who may be gone.
        if !progress.recent_active {
            return Ok(false);
        }
        let snapshot = match self.log.snapshot() {
            Ok(snapshot) => snapshot,
            Err(StorageError::SnapshotTemporarilyUnavailable) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        if snapshot.is_empty() {
            let reason = format!(
                "the log starts at {}, but there is no snapshot before it",
                self.log.first_index()
            );
            return Err(StorageError::Other(reason).into());
        }
        progress.become_snapshot(snapshot.meta.index);
        self.send(Message {
            kind: MessageKind::Snap,
            to,
            snapshot: Some(Box::new(snapshot)),
            ..Message::default()
        });
        Ok(true)
    }

    /// Sends heartbeats to all other members, with a round if reads or the lease need one.
    pub(super) fn broadcast_heartbeat(&mut self) {
        let round = self.next_round();
        self.broadcast_heartbeat_round(round);
    }

    /// Sends the heartbeats that are due. With lazy commits, who was sent entries in the interval gets none, unless reads
    /// wait for its answer: they said that there is a leader, and their acknowledgement that there is a follower. Were they
    /// lost, the next interval without entries finds out.
    pub(super) fn heartbeat_due(&mut self) {
        let skips = self.settings.lazy_commit && !self.awaits_round();
        let round = self.next_round();
        self.send_heartbeats(round, skips);
    }

    pub(super) fn broadcast_heartbeat_round(&mut self, round: u64) {
        self.send_heartbeats(round, false);
    }

    fn send_heartbeats(&mut self, round: u64, skips: bool) {
        for to in self.other_members() {
            let Some(progress) = self.tracker.progress.get_mut(to) else {
                continue;
            };
            let appended = std::mem::take(&mut progress.appended);
            if skips && appended && progress.state == ProgressState::Replicate {
                continue;
            }
            // Not beyond what the peer is known to have: its log might differ there.
            let commit = progress.match_index.min(self.log.committed());
            progress.sent_commit(commit);
            self.send(Message {
                kind: MessageKind::Heartbeat,
                to,
                commit,
                round,
                ..Message::default()
            });
        }
    }

    /// Commits what a quorum has, if it is of the own term: entries of earlier terms are committed with it only (Raft
    /// paper 5.4.2, figure 8). Returns whether the commit index moved. Public for tests.
    ///
    /// # Errors
    /// If the storage fails.
    #[doc(hidden)]
    pub fn maybe_commit(&mut self) -> Result<bool, Error> {
        let index = self.tracker.committed();
        if index <= self.log.committed() {
            return Ok(false);
        }
        Ok(self.log.maybe_commit(EntryId {
            term: self.term,
            index,
        })?)
    }

    /// Checks a round that a follower confirmed against those that were started.
    pub(super) fn check_round(&self, from: ReplicaId, round: u64) -> Result<(), ProtocolError> {
        let last = self
            .leader
            .as_ref()
            .map_or(0, |leader| leader.reads.last_round());
        if round > last {
            return Err(ProtocolError::RoundOutOfRange { from, round, last });
        }
        Ok(())
    }
}
