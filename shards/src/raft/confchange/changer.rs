//! Applies changes to a configuration (etcd `confchange/confchange.go`, `confchange/restore.go`).

use super::{ConfChangeKind, ConfChangeSingle};
use crate::raft::progress::Progress;
use crate::raft::tracker::{Config, ProgressMap, ProgressTracker};
use crate::raft::types::{ConfState, Index, ReplicaId};

/// Why a change cannot be applied to the present configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfChangeError {
    /// Entering a joint configuration while in one.
    #[error("config is already joint")]
    AlreadyJoint,
    /// Entering a joint configuration without voters.
    #[error("can't make a zero-voter config joint")]
    ZeroVoters,
    /// Leaving a joint configuration while not in one.
    #[error("can't leave a non-joint config")]
    NotJoint,
    /// A simple change while in a joint configuration.
    #[error("can't apply simple config change in joint config")]
    SimpleInJoint,
    /// No voter would be left.
    #[error("removed all voters")]
    RemovedAllVoters,
    /// A simple change of two voters, whose old and new majorities need not overlap.
    #[error("more than one voter changed without entering joint config")]
    MoreThanOneVoter,
    /// A stored membership that contradicts itself.
    #[error("invalid membership: {0}")]
    Invalid(String),
}

/// The configuration and progress that a change leads to. Nothing is in force until the caller installs it.
type Outcome = Result<(Config, ProgressMap), ConfChangeError>;

/// Computes what changes lead to, from the configuration of a tracker.
///
/// The tracker is only read. New members start with match 0 and next `max(last_index, 1)`: the leader expects them to
/// be empty, and probing from the end of its log finds that out in one round trip.
#[derive(Clone, Copy, Debug)]
pub struct Changer<'a> {
    /// The present configuration and progress.
    pub tracker: &'a ProgressTracker,
    /// The last index of the own log.
    pub last_index: Index,
}

impl Changer<'_> {
    /// Enters a joint configuration: the present voters become the outgoing half, and `changes` are applied to the
    /// incoming half (thesis 4.3).
    ///
    /// # Errors
    /// If the configuration is joint, has no voters, or would have none.
    pub fn enter_joint(&self, auto_leave: bool, changes: &[ConfChangeSingle]) -> Outcome {
        let mut draft = self.draft();
        draft.enter_joint(auto_leave, changes)?;
        draft.finish()
    }

    /// Leaves a joint configuration: the incoming half decides alone, demoted voters become learners, and who is in
    /// neither half is no longer tracked.
    ///
    /// # Errors
    /// If the configuration is not joint.
    pub fn leave_joint(&self) -> Outcome {
        let mut draft = self.draft();
        if !draft.config.voters.is_joint() {
            return Err(ConfChangeError::NotJoint);
        }
        for id in std::mem::take(&mut draft.config.learners_next).iter() {
            draft.config.learners.insert(id);
            if let Some(progress) = draft.progress.get_mut(id) {
                progress.is_learner = true;
            }
        }
        for id in std::mem::take(&mut draft.config.voters.outgoing).iter() {
            if !draft.config.voters.incoming.contains(id) && !draft.config.learners.contains(id) {
                draft.progress.remove(id);
            }
        }
        draft.config.auto_leave = false;
        draft.finish()
    }

    /// Applies `changes` directly; they may change at most one voter, so that old and new majorities overlap (thesis
    /// 4.1).
    ///
    /// # Errors
    /// If the configuration is joint, would have no voters, or more than one voter changes.
    pub fn simple(&self, changes: &[ConfChangeSingle]) -> Outcome {
        let mut draft = self.draft();
        draft.simple(changes)?;
        draft.finish()
    }

    /// Builds the configuration that `state` describes, as found in a snapshot or at start. The tracker must have no
    /// members.
    ///
    /// # Errors
    /// If the lists of `state` contradict each other.
    pub fn restore(&self, state: &ConfState) -> Outcome {
        assert!(
            self.tracker.progress.is_empty(),
            "restoring over existing members: {:?}",
            self.tracker
        );
        let change = |kind| move |&id: &ReplicaId| ConfChangeSingle { kind, id };
        let mut draft = self.draft();
        // First the outgoing half as if it were the only one, then a joint change from there.
        let incoming: Vec<_> = (state
            .voters_outgoing
            .iter()
            .map(change(ConfChangeKind::RemoveNode)))
        .chain(state.voters.iter().map(change(ConfChangeKind::AddNode)))
        .chain(
            state
                .learners
                .iter()
                .map(change(ConfChangeKind::AddLearnerNode)),
        )
        .chain(
            state
                .learners_next
                .iter()
                .map(change(ConfChangeKind::AddLearnerNode)),
        )
        .collect();
        if state.voters_outgoing.is_empty() {
            for &change in &incoming {
                draft.simple(&[change])?;
            }
        } else {
            for change in state
                .voters_outgoing
                .iter()
                .map(change(ConfChangeKind::AddNode))
            {
                draft.simple(&[change])?;
            }
            draft.enter_joint(state.auto_leave, &incoming)?;
        }
        let (config, progress) = draft.finish()?;
        if !config.conf_state().equivalent(state) {
            return Err(ConfChangeError::Invalid(format!(
                "{state} comes out as {config}"
            )));
        }
        Ok((config, progress))
    }

    fn draft(&self) -> Draft<'_> {
        let (config, progress) = (self.tracker.config.clone(), self.tracker.progress.clone());
        Draft {
            changer: self,
            config,
            progress,
        }
    }
}

/// A configuration in the making.
struct Draft<'a> {
    changer: &'a Changer<'a>,
    config: Config,
    progress: ProgressMap,
}

impl Draft<'_> {
    fn enter_joint(
        &mut self,
        auto_leave: bool,
        changes: &[ConfChangeSingle],
    ) -> Result<(), ConfChangeError> {
        if self.config.voters.is_joint() {
            return Err(ConfChangeError::AlreadyJoint);
        }
        if self.config.voters.incoming.is_empty() {
            return Err(ConfChangeError::ZeroVoters);
        }
        self.config.voters.outgoing = self.config.voters.incoming.clone();
        self.apply(changes)?;
        self.config.auto_leave = auto_leave;
        Ok(())
    }

    fn simple(&mut self, changes: &[ConfChangeSingle]) -> Result<(), ConfChangeError> {
        if self.config.voters.is_joint() {
            return Err(ConfChangeError::SimpleInJoint);
        }
        let before = self.config.voters.incoming.clone();
        self.apply(changes)?;
        if before.symmetric_difference(&self.config.voters.incoming) > 1 {
            return Err(ConfChangeError::MoreThanOneVoter);
        }
        Ok(())
    }

    fn apply(&mut self, changes: &[ConfChangeSingle]) -> Result<(), ConfChangeError> {
        for &ConfChangeSingle { kind, id } in changes.iter().filter(|change| !change.id.is_none()) {
            match kind {
                ConfChangeKind::AddNode => self.make_voter(id),
                ConfChangeKind::AddLearnerNode => self.make_learner(id),
                ConfChangeKind::RemoveNode => self.remove(id),
                ConfChangeKind::UpdateNode => {}
            }
        }
        if self.config.voters.incoming.is_empty() {
            return Err(ConfChangeError::RemovedAllVoters);
        }
        Ok(())
    }

    fn make_voter(&mut self, id: ReplicaId) {
        match self.progress.get_mut(id) {
            Some(progress) => progress.is_learner = false,
            None => self.track(id, false),
        }
        self.config.learners.remove(id);
        self.config.learners_next.remove(id);
        self.config.voters.incoming.insert(id);
    }

    fn make_learner(&mut self, id: ReplicaId) {
        let Some(progress) = self.progress.get_mut(id) else {
            self.track(id, true);
            self.config.learners.insert(id);
            return;
        };
        if progress.is_learner {
            return;
        }
        self.config.voters.incoming.remove(id);
        // A voter of the outgoing half goes on voting there until the joint configuration is left: it is staged.
        if self.config.voters.outgoing.contains(id) {
            self.config.learners_next.insert(id);
        } else {
            progress.is_learner = true;
            self.config.learners.insert(id);
        }
    }

    fn remove(&mut self, id: ReplicaId) {
        self.config.voters.incoming.remove(id);
        self.config.learners.remove(id);
        self.config.learners_next.remove(id);
        if !self.config.voters.outgoing.contains(id) {
            self.progress.remove(id);
        }
    }

    fn track(&mut self, id: ReplicaId, is_learner: bool) {
        let next = self.changer.last_index.max(Index(1));
        let mut progress = Progress::new(next, self.changer.tracker.new_inflights());
        progress.is_learner = is_learner;
        // Otherwise the next quorum check could count a member as dead that nobody had time to contact.
        progress.recent_active = true;
        self.progress.insert(id, progress);
    }

    /// Checks the invariants of [`Config`] and gives the result out.
    fn finish(self) -> Outcome {
        let Self {
            config, progress, ..
        } = self;
        let voters = &config.voters;
        let members = voters.ids();
        let is_learner = |id| progress.get(id).map(|p| p.is_learner);
        let valid = members.iter().all(|id| is_learner(id) == Some(false))
            && config
                .learners
                .iter()
                .all(|id| !members.contains(id) && is_learner(id) == Some(true))
            && config
                .learners_next
                .iter()
                .all(|id| voters.outgoing.contains(id) && !voters.incoming.contains(id))
            && (voters.is_joint() || !config.auto_leave)
            && progress
                .ids()
                .all(|id| members.contains(id) || config.learners.contains(id));
        if !valid {
            return Err(ConfChangeError::Invalid(format!(
                "{config}, progress {progress:?}"
            )));
        }
        Ok((config, progress))
    }
}
