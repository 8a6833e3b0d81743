//! What a leader knows about one peer's log, and whether it may send more (etcd `tracker/progress.go`).

use super::inflights::Inflights;
use super::types::Index;

/// How the leader sends to a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ProgressState {
    /// The peer's last index is unknown: at most one append per heartbeat interval.
    #[default]
    Probe,
    /// The peer follows: appends are pipelined up to the window's limits.
    Replicate,
    /// The peer needs entries that are compacted away: nothing is sent until the snapshot has arrived.
    Snapshot,
}

/// A peer's progress as the leader sees it.
///
/// Invariant: `match_index < next`. While replicating, `next` runs ahead of the acknowledgements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The highest index known to be durable on the peer (etcd `Match`).
    pub match_index: Index,
    /// The index to send next.
    pub next: Index,
    /// The highest commit index that was sent and cannot have been lost together with entries; saves telling the
    /// peer what it knows.
    pub sent_commit: Index,
    /// Index of the snapshot on its way; 0 outside [`ProgressState::Snapshot`].
    pub pending_snapshot: Index,
    /// Appends that are not acknowledged.
    pub inflights: Inflights,
    /// How to send.
    pub state: ProgressState,
    /// Whether the peer was heard from since the last quorum check.
    pub recent_active: bool,
    /// Whether appends wait for an acknowledgement or the next heartbeat's answer.
    pub msg_app_flow_paused: bool,
    /// Whether the peer is a learner.
    pub is_learner: bool,
    /// Whether entries were sent since a heartbeat was last due: they tell the peer as much as one.
    pub appended: bool,
}

impl Progress {
    /// A probing progress that knows nothing before `next`.
    #[must_use]
    pub fn new(next: Index, inflights: Inflights) -> Self {
        Self {
            match_index: Index(0),
            next,
            sent_commit: Index(0),
            pending_snapshot: Index(0),
            inflights,
            state: ProgressState::Probe,
            recent_active: false,
            msg_app_flow_paused: false,
            is_learner: false,
            appended: false,
        }
    }

    fn reset_state(&mut self, state: ProgressState) {
        self.msg_app_flow_paused = false;
        self.pending_snapshot = Index(0);
        self.state = state;
        self.inflights.reset();
    }

    /// Starts probing after what is known to match; after a snapshot, behind it if that is further.
    pub fn become_probe(&mut self) {
        let after_snapshot = match self.state {
            ProgressState::Snapshot => self.pending_snapshot.next(),
            ProgressState::Probe | ProgressState::Replicate => Index(0),
        };
        self.reset_state(ProgressState::Probe);
        self.next = self.match_index.next().max(after_snapshot);
        self.sent_commit = self.sent_commit.min(self.next.prev());
    }

    /// Starts pipelining after what is known to match.
    pub fn become_replicate(&mut self) {
        self.reset_state(ProgressState::Replicate);
        self.next = self.match_index.next();
    }

    /// Waits for the snapshot at `index` to arrive.
    pub fn become_snapshot(&mut self, index: Index) {
        self.reset_state(ProgressState::Snapshot);
        self.pending_snapshot = index;
        self.next = index.next();
        self.sent_commit = index;
    }

    /// Notes that an append with `entries` entries and `bytes` of data was sent.
    ///
    /// # Panics
    /// While waiting for a snapshot: nothing may be sent then.
    pub fn sent_entries(&mut self, entries: usize, bytes: u64) {
        match self.state {
            ProgressState::Replicate => {
                if entries > 0 {
                    self.appended = true;
                    self.next = Index(self.next.0 + entries as u64);
                    self.inflights.add(self.next.prev(), bytes);
                }
                // An empty append tells a peer with a full window the commit index, once.
                self.msg_app_flow_paused = self.inflights.full();
            }
            ProgressState::Probe => {
                if entries > 0 {
                    self.msg_app_flow_paused = true;
                }
            }
            ProgressState::Snapshot => {
                panic!("append sent to a peer that waits for a snapshot: {self:?}")
            }
        }
    }

    /// Whether telling the peer commit index `index` can move its commit on.
    #[must_use]
    pub fn can_bump_commit(&self, index: Index) -> bool {
        index > self.sent_commit && self.sent_commit < self.next.prev()
    }

    /// Notes that commit index `commit` was sent.
    pub fn sent_commit(&mut self, commit: Index) {
        self.sent_commit = commit;
    }

    /// The peer acknowledged everything up to `index`. Returns whether that is news.
    pub fn maybe_update(&mut self, index: Index) -> bool {
        if index <= self.match_index {
            return false;
        }
        self.match_index = index;
        self.next = self.next.max(index.next());
        self.msg_app_flow_paused = false;
        true
    }

    /// The peer rejected an append after index `rejected`; `match_hint` is the highest index at which its log may
    /// match. Returns whether the rejection is genuine and not a late one.
    pub fn maybe_decr_to(&mut self, rejected: Index, match_hint: Index) -> bool {
        if self.state == ProgressState::Replicate {
            // What is acknowledged cannot be rejected: a late message.
            if rejected <= self.match_index {
                return false;
            }
            // The hint is not used: probing from the match is at most one window back.
            self.next = self.match_index.next();
            self.sent_commit = self.sent_commit.min(self.next.prev());
            return true;
        }
        // While probing, next stays at what the one outstanding append started from.
        if self.next.prev() != rejected {
            return false;
        }
        self.next = rejected.min(match_hint.next()).max(self.match_index.next());
        self.sent_commit = self.sent_commit.min(self.next.prev());
        self.msg_app_flow_paused = false;
        true
    }

    /// Whether no append may be sent now.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        match self.state {
            ProgressState::Probe | ProgressState::Replicate => self.msg_app_flow_paused,
            ProgressState::Snapshot => true,
        }
    }
}
