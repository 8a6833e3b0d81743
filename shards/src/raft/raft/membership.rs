//! Which configuration is in force (thesis 4, etcd `applyConfChange` and `switchToConfig`).

use super::Raft;
use crate::raft::confchange::{Changer, ConfChangeError, ConfChangeV2};
use crate::raft::error::Error;
use crate::raft::storage::Storage;
use crate::raft::tracker::{Config, ProgressMap, ProgressTracker};
use crate::raft::types::{ConfState, Index, ReplicaId, Role};

impl<S: Storage> Raft<S> {
    /// Puts a committed membership change in force. The embedder calls this when it applies the entry, unless it
    /// decides that the change shall have no effect, which all replicas must decide in the same way.
    ///
    /// # Errors
    /// If the change doesn't fit the configuration; nothing is changed then, and it is so on all replicas.
    pub fn apply_conf_change(&mut self, change: &ConfChangeV2) -> Result<ConfState, Error> {
        let changer = Changer {
            tracker: &self.tracker,
            last_index: self.log.last_index(),
        };
        let (config, progress) = if change.leave_joint() {
            changer.leave_joint()
        } else if let Some(auto_leave) = change.enter_joint() {
            changer.enter_joint(auto_leave, &change.changes)
        } else {
            changer.simple(&change.changes)
        }?;
        self.switch_to_config(config, progress)
    }

    /// Builds the configuration of a stored state or a snapshot whose last index is `last_index`.
    pub(super) fn restore_conf_state(
        &mut self,
        conf_state: &ConfState,
        last_index: Index,
    ) -> Result<(), ConfChangeError> {
        let lists = [
            &conf_state.voters,
            &conf_state.voters_outgoing,
            &conf_state.learners,
        ];
        if let Some(id) = lists
            .into_iter()
            .flatten()
            .find(|id| id.is_storage_thread())
        {
            let reason = format!("replica {id} is reserved: {conf_state}");
            return Err(ConfChangeError::Invalid(reason));
        }
        let mut tracker =
            ProgressTracker::new(self.tracker.max_inflight, self.tracker.max_inflight_bytes);
        let changer = Changer {
            tracker: &tracker,
            last_index,
        };
        (tracker.config, tracker.progress) = changer.restore(conf_state)?;
        self.tracker = tracker;
        self.update_is_learner();
        Ok(())
    }

    fn update_is_learner(&mut self) {
        self.is_learner = self
            .tracker
            .progress
            .get(self.id)
            .is_some_and(|own| own.is_learner);
    }

    fn switch_to_config(
        &mut self,
        config: Config,
        progress: ProgressMap,
    ) -> Result<ConfState, Error> {
        self.tracker.config = config;
        self.tracker.progress = progress;
        self.update_is_learner();
        let conf_state = self.tracker.conf_state();
        if self.role != Role::Leader {
            return Ok(conf_state);
        }
        if self.is_learner || !self.tracker.progress.contains(self.id) {
            // The leader has been removed or demoted. It may go on until another one takes over: it does not count
            // itself, so that what it commits is safe.
            if self.settings.step_down_on_removal {
                self.become_follower(self.term, ReplicaId::NONE);
            }
            return Ok(conf_state);
        }
        if self.maybe_commit()? {
            // The new quorum has what the old one hadn't.
            self.release_waiting_reads()?;
            self.broadcast_append()?;
        } else {
            // New members need not wait for the next heartbeat.
            for to in self.other_members() {
                self.maybe_send_append(to, false)?;
            }
        }
        let transferee = self.lead_transferee();
        if !transferee.is_none() && !self.tracker.config.voters.contains(transferee) {
            self.abort_leader_transfer();
        }
        Ok(conf_state)
    }
}
