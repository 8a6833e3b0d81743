//! Campaigns, votes and candidates (Raft paper 5.2, thesis 9.6 for pre-votes).

use super::{Raft, invariant};
use crate::raft::error::{DropReason, Error, ProtocolError};
use crate::raft::quorum::VoteResult;
use crate::raft::storage::{Storage, StorageError};
use crate::raft::types::{EntryId, EntryKind, Index, Message, MessageKind, ReplicaId, Role, Term};
use bytes::Bytes;

/// Context of a vote request that a leader has asked for by handing over its leadership: followers grant it although
/// they hear from a leader.
pub const CAMPAIGN_TRANSFER: &[u8] = b"CampaignTransfer";

/// Why and how to campaign (etcd `CampaignType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Campaign {
    /// Ask first; a real election follows if it can be won.
    PreElection,
    /// A real election.
    Election,
    /// A real election at the leader's request.
    Transfer,
}

impl<S: Storage> Raft<S> {
    /// Whether a leader is known.
    #[must_use]
    pub fn has_leader(&self) -> bool {
        !self.lead.is_none()
    }

    /// Whether this replica may lead: it is a voter, and has no snapshot to install first.
    #[must_use]
    pub fn promotable(&self) -> bool {
        !self.log.has_unstable_snapshot()
            && self
                .tracker
                .progress
                .get(self.id)
                .is_some_and(|own| !own.is_learner)
    }

    /// Starts an election as after a timeout; does nothing where that is not possible.
    pub(super) fn hup_by_timeout(&mut self) -> Result<(), Error> {
        self.hup(if self.settings.pre_vote {
            Campaign::PreElection
        } else {
            Campaign::Election
        })
    }

    pub(super) fn hup(&mut self, campaign: Campaign) -> Result<(), Error> {
        // The own vote is a vote too, and may be promised away like any other.
        let promised = campaign != Campaign::Transfer && self.holds_votes();
        if self.role == Role::Leader || !self.promotable() {
            return Ok(());
        }
        if promised {
            self.wait_for_own_vote();
            return Ok(());
        }
        // A membership change that is committed may have made this replica's voters outdated.
        if self.has_unapplied_conf_changes()? {
            return Ok(());
        }
        self.campaign(campaign)
    }

    fn has_unapplied_conf_changes(&self) -> Result<bool, Error> {
        /// Ends the scan.
        enum Stop {
            Found,
            Failed(StorageError),
        }
        impl From<StorageError> for Stop {
            fn from(error: StorageError) -> Self {
                Self::Failed(error)
            }
        }
        if self.log.applied() >= self.log.committed() {
            return Ok(false);
        }
        let (low, high) = (self.log.applied().next(), self.log.committed().next());
        // Pages of the size that is handed out for application, for the same reason: memory.
        let scanned = self.log.scan(
            low,
            high,
            self.settings.max_applying_size,
            |page| match page.iter().any(|entry| entry.kind != EntryKind::Normal) {
                true => Err(Stop::Found),
                false => Ok(()),
            },
        );
        match scanned {
            Ok(()) => Ok(false),
            Err(Stop::Found) => Ok(true),
            Err(Stop::Failed(error)) => Err(error.into()),
        }
    }

    fn campaign(&mut self, campaign: Campaign) -> Result<(), Error> {
        let last = self.log.last_entry_id()?;
        let (kind, answer, term) = match campaign {
            Campaign::PreElection => {
                self.become_pre_candidate();
                (
                    MessageKind::PreVote,
                    MessageKind::PreVoteResp,
                    self.term.next(),
                )
            }
            Campaign::Election | Campaign::Transfer => {
                self.become_candidate();
                (MessageKind::Vote, MessageKind::VoteResp, self.term)
            }
        };
        let context = match campaign {
            Campaign::Transfer => Bytes::from_static(CAMPAIGN_TRANSFER),
            Campaign::PreElection | Campaign::Election => Bytes::new(),
        };
        for to in self.tracker.voter_nodes().iter() {
            if to == self.id {
                // The own vote counts when it is durable, like any other.
                self.send(Message {
                    kind: answer,
                    to,
                    term,
                    ..Message::default()
                });
            } else {
                self.send(Message {
                    kind,
                    to,
                    term,
                    index: last.index,
                    log_term: last.term,
                    context: context.clone(),
                    ..Message::default()
                });
            }
        }
        Ok(())
    }

    /// Whether a vote request of a higher term is to be ignored: a leader is alive as far as this replica knows, or
    /// its vote is promised away. Not if that leader itself wants to be succeeded.
    pub(super) fn refuses_votes(&self, request: &Message) -> bool {
        let hears_leader = self.settings.check_quorum
            && self.has_leader()
            && self.election_elapsed() < self.settings.election_ticks;
        (hears_leader || self.holds_votes()) && request.context != CAMPAIGN_TRANSFER
    }

    /// Answers `Vote` and `PreVote` of the own or, for `PreVote`, a higher term.
    ///
    /// Learners vote as well: they may have been promoted without knowing it yet, and without their votes the group
    /// might have no leader who could tell them. A candidate that takes a learner for a voter wrongly does not win by
    /// it, as its configuration is older than a quorum's.
    pub(super) fn handle_vote(&mut self, request: &Message) -> Result<(), Error> {
        if self.holds_votes() && request.context != CAMPAIGN_TRANSFER {
            return Ok(());
        }
        let pre = request.kind == MessageKind::PreVote;
        // A repeated vote; or a first one, with no leader in this term; or a promise for a later term.
        let can_vote = self.vote == request.from
            || (self.vote.is_none() && !self.has_leader())
            || (pre && request.term > self.term);
        let candidate = EntryId {
            term: request.log_term,
            index: request.index,
        };
        let granted = can_vote && self.log.is_up_to_date(candidate)?;
        // A granted pre-vote answers at the term it was asked for, or the asker would ignore it as outdated.
        let term = match request.term {
            term if granted && term != Term(0) => term,
            _ => self.term,
        };
        self.send(Message {
            kind: if pre {
                MessageKind::PreVoteResp
            } else {
                MessageKind::VoteResp
            },
            to: request.from,
            term,
            reject: !granted,
            context: match !granted && self.settings.liveness_fixes {
                true => self.commit_hint()?,
                false => Bytes::new(),
            },
            ..Message::default()
        });
        if granted && !pre {
            self.restart_election_clock(0);
            self.vote = request.from;
        }
        Ok(())
    }

    /// The committed position, for a candidate that is refused.
    ///
    /// A replica that led its own removal or demotion to the commit and then failed may be the only one to know of the
    /// commit, and have the longest log. It can't lead any more, and others, to whom it still is a voter, can't win
    /// without its vote. What it tells them about the commit lets them apply the change and go on without it. etcd-raft
    /// has no such hint (and blocks in that case).
    fn commit_hint(&self) -> Result<Bytes, StorageError> {
        let index = self.log.committed();
        let term = self.log.term(index)?;
        let mut hint = Vec::with_capacity(16);
        hint.extend_from_slice(&term.0.to_be_bytes());
        hint.extend_from_slice(&index.0.to_be_bytes());
        Ok(hint.into())
    }

    /// Takes in the [`Raft::commit_hint`] of a refusal: an entry that is committed anywhere is committed here as well.
    fn take_commit_hint(&mut self, refusal: &Message) -> Result<(), StorageError> {
        // Replicas that are set up otherwise send none.
        let Ok(hint) = <[u8; 16]>::try_from(refusal.context.as_ref()) else {
            return Ok(());
        };
        let hint = u128::from_be_bytes(hint);
        let committed = EntryId {
            term: Term((hint >> 64) as u64),
            index: Index(hint as u64),
        };
        self.log.maybe_commit(committed)?;
        Ok(())
    }

    /// Handles what concerns candidates and pre-candidates.
    pub(super) fn step_candidate(&mut self, message: &mut Message) -> Result<(), Error> {
        match message.kind {
            MessageKind::Prop => Err(Error::ProposalDropped(DropReason::NoLeader)),
            MessageKind::ReadIndex => Err(Error::ReadDropped(DropReason::NoLeader)),
            // There is a leader in this term.
            MessageKind::App
            | MessageKind::Heartbeat
            | MessageKind::Quiesce
            | MessageKind::Snap => {
                self.become_follower(self.term, message.from);
                self.step_follower(message)
            }
            // A candidate may still hear answers to its own pre-vote.
            MessageKind::VoteResp if self.role == Role::Candidate => self.poll(message),
            MessageKind::PreVoteResp if self.role == Role::PreCandidate => self.poll(message),
            _ => Ok(()),
        }
    }

    fn poll(&mut self, answer: &Message) -> Result<(), Error> {
        if answer.reject {
            self.take_commit_hint(answer)?;
        }
        self.tracker.record_vote(answer.from, !answer.reject);
        match self.tracker.tally_votes().result {
            VoteResult::Pending => Ok(()),
            VoteResult::Lost => {
                self.become_follower(self.term, ReplicaId::NONE);
                Ok(())
            }
            VoteResult::Won if self.role == Role::PreCandidate => self.campaign(Campaign::Election),
            // Removed or demoted while campaigning: the others will elect somebody else.
            VoteResult::Won if !self.promotable() => {
                self.become_follower(self.term, ReplicaId::NONE);
                Ok(())
            }
            VoteResult::Won => {
                self.become_leader();
                self.broadcast_append()
            }
        }
    }

    /// Forgets who leads, so that votes are granted again, without a change of term: for an embedder that knows the
    /// leader to be dead. Refused while a leader may count on the promise not to vote. Nothing on leaders and
    /// candidates.
    pub(super) fn forget_leader(&mut self) {
        let promised = self.uses_leases() && self.holds_votes();
        if self.role == Role::Follower && !promised {
            self.lead = ReplicaId::NONE;
        }
    }

    /// Appends the membership of a new group as its first entries, committed at once.
    pub(crate) fn bootstrap(&mut self, entries: Vec<crate::raft::types::Entry>) {
        invariant!(
            self,
            self.log.last_index() == Index(0),
            "bootstrapping a group that has a log"
        );
        self.become_follower(Term(1), ReplicaId::NONE);
        let last = self.log.append(entries);
        self.log.commit_to(last);
    }

    /// Checks a commit index that a leader sent against the own log.
    pub(super) fn check_commit(&self, commit: Index) -> Result<(), ProtocolError> {
        let last = self.log.last_index();
        if commit > last {
            return Err(ProtocolError::CommitOutOfRange { commit, last });
        }
        Ok(())
    }
}
