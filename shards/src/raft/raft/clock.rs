//! Ticks, timeouts and quiescence. Time is counted in ticks that the embedder passes in; there is no other clock.

use super::Raft;
use crate::raft::error::Error;
use crate::raft::progress::ProgressState;
use crate::raft::storage::Storage;
use crate::raft::types::{Index, Message, MessageKind, ReplicaId, Role};
use smallvec::SmallVec;

impl<S: Storage> Raft<S> {
    /// Passes one tick.
    ///
    /// # Errors
    /// If the storage fails.
    #[inline]
    pub fn tick(&mut self) -> Result<(), Error> {
        match self.count(1) {
            true => self.timed_out(),
            false => Ok(()),
        }
    }

    /// Passes `ticks` ticks, as that many calls of [`Raft::tick`] would.
    ///
    /// # Errors
    /// If the storage fails.
    pub fn advance_ticks(&mut self, ticks: u32) -> Result<(), Error> {
        let mut left = ticks;
        while left > 0 {
            let passed = self.ticks_until_due().map_or(left, |due| due.min(left));
            left -= passed;
            if self.count(passed) {
                self.timed_out()?;
            }
        }
        Ok(())
    }

    /// Counts ticks, of which only the last one may be one at which something is due. Returns whether that is so. This
    /// is all that an idle replica costs, so no more than one addition and one comparison is done here.
    #[inline]
    pub(in crate::raft) fn count(&mut self, ticks: u32) -> bool {
        debug_assert_eq!(self.due, self.next_due(), "{}", self.describe());
        self.now += u64::from(ticks);
        self.now >= self.due
    }

    /// Sets the alarm again. To be called wherever something changes that [`Raft::next_due`] looks at.
    pub(super) fn rearm(&mut self) {
        self.due = self.next_due();
    }

    /// The tick from which on [`Raft::timed_out`] has something to do as long as nothing else happens.
    fn next_due(&self) -> u64 {
        if self.quiescent {
            return u64::MAX;
        }
        let after = |since: u64, ticks: u32| since.wrapping_add(u64::from(ticks));
        if self.role != Role::Leader {
            return after(self.election_since, self.randomized_election_timeout);
        }
        // The transfer is given up together with the check of the quorum.
        let election = after(self.election_since, self.settings.election_ticks);
        match self.settings.manual_heartbeats {
            true => election,
            false => election.min(after(self.heartbeat_since, self.settings.heartbeat_ticks)),
        }
    }

    /// Does what is due at a tick for which [`Raft::count`] said so.
    #[cold]
    pub(in crate::raft) fn timed_out(&mut self) -> Result<(), Error> {
        let done = match self.role {
            Role::Leader => self.leader_timeouts(),
            _ if self.promotable() => self.election_timed_out(),
            _ => Ok(()),
        };
        self.rearm();
        done
    }

    /// After how many ticks something may happen by itself: an election, a heartbeat, a check of the quorum, the end
    /// of a transfer. At least 1. `None` if nothing will; ticks must still be passed in before the next message, as
    /// leases and timeouts are counted in them.
    #[must_use]
    pub fn ticks_until_due(&self) -> Option<u32> {
        let waits = !self.quiescent && (self.role == Role::Leader || self.promotable());
        waits.then(|| {
            let left = self.due.saturating_sub(self.now);
            u32::try_from(left).unwrap_or(u32::MAX).max(1)
        })
    }

    fn election_timed_out(&mut self) -> Result<(), Error> {
        if self.settings.manual_elections {
            // The leader is still silent, so that votes are granted meanwhile; the mark comes again later.
            self.election_due = true;
            self.restart_election_timer();
            return Ok(());
        }
        if self.holds_votes() {
            // The leader is still silent: votes are granted as soon as they are free.
            self.wait_for_own_vote();
            return Ok(());
        }
        self.restart_election_clock(0);
        self.hup_by_timeout()
    }

    fn leader_timeouts(&mut self) -> Result<(), Error> {
        if self.election_elapsed() >= self.settings.election_ticks {
            self.restart_election_clock(0);
            if self.settings.check_quorum {
                self.check_quorum();
            }
            // A transfer that takes longer than an election would is given up.
            self.abort_leader_transfer();
            if self.settings.liveness_fixes {
                self.maybe_leave_joint()?;
            }
        }
        if self.role == Role::Leader
            && !self.settings.manual_heartbeats
            && self.heartbeat_elapsed() >= self.settings.heartbeat_ticks
        {
            self.heartbeat_since = self.now;
            self.heartbeat_due();
        }
        Ok(())
    }

    /// Whether the election timeout has passed. Whether that leads to an election is another question.
    #[inline]
    #[must_use]
    pub fn past_election_timeout(&self) -> bool {
        self.election_elapsed() >= self.randomized_election_timeout
    }

    /// Draws an election timeout from `[election_ticks, 2 * election_ticks)`.
    pub(super) fn draw_election_timeout(&mut self) {
        let ticks = self.settings.election_ticks;
        self.randomized_election_timeout = ticks + self.rng.u32(0..ticks);
    }

    /// Draws a timeout that begins now, without forgetting for how long no leader was heard.
    fn restart_election_timer(&mut self) {
        let elapsed = self.election_elapsed().min(self.settings.election_ticks);
        self.draw_election_timeout();
        self.randomized_election_timeout += elapsed;
        self.restart_election_clock(elapsed);
    }

    /// Lets the election timeout end soon after the own vote is free again.
    pub(super) fn wait_for_own_vote(&mut self) {
        let held = self.votes_held_until.saturating_sub(self.now);
        let held = u32::try_from(held).unwrap_or(u32::MAX);
        // The others promised at about the same time, and must not be in the way.
        let wait = held.saturating_add(2);
        self.randomized_election_timeout = self.election_elapsed().saturating_add(wait);
        self.rearm();
    }

    /// Counts the election timeout from `elapsed` ticks ago.
    pub(super) fn restart_election_clock(&mut self, elapsed: u32) {
        self.election_since = self.now.wrapping_sub(u64::from(elapsed));
        self.rearm();
    }

    /// Both clocks of a role begin.
    pub(super) fn restart_clocks(&mut self) {
        self.heartbeat_since = self.now;
        self.restart_election_clock(0);
    }

    /// A leader of this term was heard.
    pub(super) fn heard_leader(&mut self, leader: ReplicaId) {
        self.restart_election_clock(0);
        self.election_due = false;
        self.lead = leader;
        self.hold_votes();
    }

    /// Ticks since a leader was heard, or since the last check of the quorum if leading.
    #[must_use]
    pub fn election_elapsed(&self) -> u32 {
        self.elapsed_since(self.election_since)
    }

    /// Ticks since the last heartbeat that this leader sent.
    #[must_use]
    pub fn heartbeat_elapsed(&self) -> u32 {
        self.elapsed_since(self.heartbeat_since)
    }

    fn elapsed_since(&self, since: u64) -> u32 {
        u32::try_from(self.now.wrapping_sub(since)).unwrap_or(u32::MAX)
    }

    /// The election timeout drawn last.
    #[must_use]
    pub fn randomized_election_timeout(&self) -> u32 {
        self.randomized_election_timeout
    }

    /// Sets the election timeout until the next one is drawn. For tests.
    #[doc(hidden)]
    pub fn set_randomized_election_timeout(&mut self, ticks: u32) {
        self.randomized_election_timeout = ticks;
        self.rearm();
    }

    /// Sets the ticks since a leader was heard. For tests.
    #[doc(hidden)]
    pub fn set_election_elapsed(&mut self, ticks: u32) {
        self.restart_election_clock(ticks);
    }

    /// Switches pre-votes on or off, as a restart with another configuration would. For tests.
    #[doc(hidden)]
    pub fn set_pre_vote(&mut self, pre_vote: bool) {
        self.settings.pre_vote = pre_vote;
    }

    /// Whether the election timeout has passed since this was last asked
    /// ([`Config::manual_elections`](crate::raft::Config::manual_elections)). The mark is dropped when a leader is
    /// heard.
    pub fn take_election_due(&mut self) -> bool {
        std::mem::take(&mut self.election_due)
    }

    /// Whether [`Raft::take_election_due`] would say so.
    #[must_use]
    pub fn is_election_due(&self) -> bool {
        self.election_due
    }

    /// Whether the timers rest.
    #[must_use]
    pub fn is_quiescent(&self) -> bool {
        self.quiescent
    }

    /// Lets the timers rest until a message or a request comes in, or [`Raft::wake`] is called. Possible only when
    /// there is nothing to do: everything is committed, durable and applied here; a leader's followers all have it
    /// acknowledged, but for those that are `absent`, and a follower knows its leader. Returns whether the replica rests
    /// now.
    ///
    /// A follower may do this only when its leader has said so ([`MessageKind::Quiesce`]), for this term and this
    /// commit index, and if somebody watches over that leader for it. A leader must be woken when an absent follower
    /// is back.
    pub fn quiesce(&mut self, absent: impl Fn(ReplicaId) -> bool) -> bool {
        let last = self.log.last_index();
        let idle = self.log.applied() == last
            && !self.log.has_unstable_entries()
            && !self.log.has_unstable_snapshot()
            && !self.has_output();
        let agreed = match self.role {
            Role::Follower => self.has_leader(),
            Role::Candidate | Role::PreCandidate => false,
            Role::Leader => {
                let peers_done = self.tracker.progress.iter().all(|(id, progress)| {
                    id == self.id
                        || (progress.state == ProgressState::Replicate
                            && progress.match_index == last)
                        || absent(id)
                });
                peers_done
                    && !self.tracker.config.auto_leave
                    && self.leader.as_ref().is_some_and(|leader| {
                        leader.transferee.is_none() && leader.reads.is_empty()
                    })
            }
        };
        self.quiescent |= idle && agreed;
        self.rearm();
        self.quiescent
    }

    /// Says that whoever watches over the leader of a resting follower knew it to be alive `ticks` ago: so the follower
    /// promises nobody its vote as if it had not heard from it.
    pub fn vouch_for_leader(&mut self, ticks: u32) {
        if self.quiescent && self.role == Role::Follower {
            self.restart_election_clock(self.election_elapsed().min(ticks));
        }
    }

    /// Tells everybody that this leader rests. To be called when it does.
    pub fn announce_quiescence(&mut self) {
        if self.role != Role::Leader || !self.quiescent {
            return;
        }
        let (own, commit) = (self.id, self.log.committed());
        let peers: SmallVec<[(ReplicaId, Index); 4]> = self
            .tracker
            .progress
            .iter()
            .filter(|(id, _)| *id != own)
            .map(|(id, progress)| (id, progress.match_index))
            .collect();
        for (to, matched) in peers {
            self.send(Message {
                kind: MessageKind::Quiesce,
                to,
                commit: commit.min(matched),
                ..Message::default()
            });
        }
    }

    /// Ends quiescence. A leader gives everybody an election timeout to show up. A follower remembers whether its
    /// leader has been silent for an election timeout (it grants votes then, as other followers may ask before it
    /// does), but waits a whole one before it campaigns, as the leader may rest as well.
    pub fn wake(&mut self) {
        if !std::mem::take(&mut self.quiescent) {
            return;
        }
        if self.role == Role::Leader {
            self.restart_clocks();
            self.tracker
                .visit(|_, progress| progress.recent_active = true);
        } else {
            self.restart_election_timer();
        }
    }
}
