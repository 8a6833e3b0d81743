//! The way of one request to one shard on the node that was asked, as a state machine.
//!
//! [`Call::resume`] takes an [`Event`] (the first is [`Event::Retry`]) and says in a [`Step`] what to do: to propose or
//! read here, to ask the node that leads, to wait for one. Whoever does it comes back with the next event, or, when the
//! deadline has passed first, with [`Call::expired`].
//!
//! A write is tried again only if it is proven that nothing was appended, or if its session makes a second try harmless.

use std::ops::{Add, Sub};
use std::sync::Arc;
use std::time::Duration;

use flotilla_proto::v1::{self as proto, error::Code, request, response};

use super::{Routes, error, request as requests};
use crate::descriptor::Descriptor;
use crate::engine::Refused;
use crate::ids::{NodeId, ShardId};
use crate::limits::Limits;

/// How long a call waits for news of a leader before it looks again by itself.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Tries without a pause.
const QUICK_TRIES: u32 = 3;
/// First and longest pause between later tries.
const PAUSE_FIRST: Duration = Duration::from_millis(5);
const PAUSE_LAST: Duration = Duration::from_millis(160);

/// A moment of the clock that the embedder has; it never goes back.
pub trait Moment: Copy + Ord + Add<Duration, Output = Self> + Sub<Output = Duration> {}

impl<T: Copy + Ord + Add<Duration, Output = T> + Sub<Output = Duration>> Moment for T {}

/// What comes back to a call.
#[derive(Debug)]
pub enum Event {
    /// Begin, or begin again: the wait is over.
    Retry,
    /// The local state machine's answer to the write.
    Written(proto::CommandAnswer),
    /// The local state may be read.
    ReadReady,
    /// The local engine refused.
    Refused(Refused),
    /// This node has no room for the request.
    Busy(proto::Error),
    /// Another node's word.
    Remote(Result<response::Kind, Failure>),
    /// Whoever had to answer is gone.
    Dropped,
}

/// Why another node did not do what it was asked: its own word, or what was found out on the way.
#[derive(Clone, Debug)]
pub enum Failure {
    /// The node answered so.
    Node(proto::Error),
    /// The request was not sent.
    Unreachable(String),
    /// The connection broke before the answer came.
    ConnectionLost(String),
    /// No answer in time.
    Late(String),
}

impl Failure {
    /// Whether it is proven that nothing was written. False means "not known".
    #[must_use]
    pub fn nothing_written(&self) -> bool {
        match self {
            Self::Node(error) => error::nothing_written(error.code()),
            Self::Unreachable(_) => true,
            Self::ConnectionLost(_) | Self::Late(_) => false,
        }
    }

    /// Whether another node, or the same one later, may do it. One that is busy is left alone: its client is told.
    fn is_worth_another_try(&self) -> bool {
        match self {
            Self::Node(error) => match error.code() {
                Code::NotLeader
                | Code::EpochMismatch
                | Code::NotInitialized
                | Code::ShuttingDown
                | Code::OutcomeUnknown => true,
                Code::InvalidArgument
                | Code::Busy
                | Code::Unavailable
                | Code::SessionUnknown
                | Code::CrossShard
                | Code::Unauthenticated
                | Code::PermissionDenied
                | Code::Internal
                | Code::Unspecified => false,
            },
            Self::Unreachable(_) | Self::ConnectionLost(_) => true,
            Self::Late(_) => false,
        }
    }

    /// What the asked node tells its own client.
    #[must_use]
    pub fn into_proto(self, write: bool) -> proto::Error {
        let unknown = write && !self.nothing_written();
        match self {
            Self::Node(error) => error,
            Self::Unreachable(text) | Self::ConnectionLost(text) | Self::Late(text) => {
                let code = match unknown {
                    true => Code::OutcomeUnknown,
                    false => Code::Unavailable,
                };
                error::of(code, text)
            }
        }
    }
}

/// What is to be done next for a call.
#[derive(Debug)]
pub enum Step<T> {
    /// Propose this to the local engine; [`Event::Written`], [`Event::Refused`] or [`Event::Busy`] comes of it.
    Propose {
        /// To which shard.
        shard: ShardId,
        /// What.
        command: proto::Command,
        /// Its encoded length.
        bytes: usize,
    },
    /// Ask the local engine for a read; [`Event::ReadReady`], [`Event::Refused`] or [`Event::Busy`] comes of it.
    Confirm(ShardId),
    /// Ask this node; [`Event::Remote`] comes of it.
    Forward(NodeId),
    /// Wait; [`Event::Retry`] comes of it.
    Hold(Hold<T>),
    /// Read the local state of this shard now; that is the answer.
    Read(Arc<Descriptor>),
    /// Answered.
    Done(Result<response::Kind, proto::Error>),
}

/// A wait for a leader: at least until `not_before`, then for a leader other than the one that denied it, or `until` it
/// is time to look again.
#[derive(Clone, Copy, Debug)]
pub struct Hold<T> {
    /// Whose leader.
    pub shard: ShardId,
    /// Who has just said that it does not lead.
    pub denied: Option<NodeId>,
    /// No try before this moment, if there were many.
    pub not_before: Option<T>,
    /// The end of the wait.
    pub until: T,
}

/// Who was asked last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Nobody,
    Here,
    Node(NodeId),
}

/// One request to one shard. A scan or a batched get must have been cut to the shard before.
#[derive(Debug)]
pub struct Call<T> {
    kind: request::Kind,
    /// Its keys are those of the meta shard.
    meta: bool,
    /// Another node passed it on: it may not travel further, and is not held.
    forwarded: bool,
    started: T,
    deadline: T,
    tries: u32,
    asked: Asked,
    route: Option<Arc<Descriptor>>,
    /// An earlier try may have been appended; only a session's write goes on then.
    maybe_written: bool,
    /// The last try ended because no quorum confirmed the read.
    unconfirmed: bool,
}

impl<T: Moment> Call<T> {
    /// A call that has not begun.
    #[must_use]
    pub fn new(kind: request::Kind, started: T, deadline: T, forwarded: bool) -> Self {
        Self {
            kind,
            meta: false,
            forwarded,
            started,
            deadline,
            tries: 0,
            asked: Asked::Nobody,
            route: None,
            maybe_written: false,
            unconfirmed: false,
        }
    }

    /// The same call, about keys of the meta shard. What it writes and reads is the cluster's own, and is held against the
    /// largest limits, not against those that were configured for clients.
    #[must_use]
    pub fn in_meta(mut self) -> Self {
        self.meta = true;
        self
    }

    /// Whether its keys are those of the meta shard.
    #[must_use]
    pub fn is_meta(&self) -> bool {
        self.meta
    }

    /// What is asked.
    #[must_use]
    pub fn kind(&self) -> &request::Kind {
        &self.kind
    }

    /// What was asked.
    #[must_use]
    pub fn into_kind(self) -> request::Kind {
        self.kind
    }

    /// When the asker stops waiting.
    #[must_use]
    pub fn deadline(&self) -> T {
        self.deadline
    }

    /// The shard that the request was last routed to; 0 before.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.route.as_ref().map_or(ShardId(0), |route| route.shard)
    }

    /// What follows from an event.
    ///
    /// # Panics
    /// If another node's word comes to a call that asked none.
    pub fn resume(
        &mut self,
        event: Event,
        routes: &mut impl Routes,
        limits: &Limits,
        now: T,
    ) -> Step<T> {
        let asked = std::mem::replace(&mut self.asked, Asked::Nobody);
        match event {
            Event::Retry => self.start(routes, limits, now),
            Event::ReadReady => match &self.route {
                Some(route) => Step::Read(Arc::clone(route)),
                None => self.start(routes, limits, now),
            },
            Event::Written(answer) => self.written(routes, answer, now),
            Event::Refused(refused) => self.refused(routes, refused, now),
            Event::Busy(error) => self.fail(error),
            Event::Remote(Ok(kind)) => Step::Done(Ok(kind)),
            Event::Remote(Err(failure)) => {
                let Asked::Node(node) = asked else {
                    unreachable!("an answer of another node came to a call that asked {asked:?}");
                };
                self.remote_failed(routes, node, failure, now)
            }
            Event::Dropped if requests::is_write(&self.kind) => self.fail(error::of(
                Code::OutcomeUnknown,
                "the node stopped before the write was answered; it may still be applied",
            )),
            Event::Dropped => self.fail(error::shutting_down()),
        }
    }

    /// Sends the request off.
    fn start(&mut self, routes: &impl Routes, limits: &Limits, now: T) -> Step<T> {
        if now >= self.deadline {
            return Step::Done(Err(self.expired(now)));
        }
        self.tries += 1;
        let limits = match self.meta {
            true => &Limits::default(),
            false => limits,
        };
        let started = if requests::is_write(&self.kind) {
            self.start_write(routes, limits, now)
        } else {
            self.start_read(routes, limits, now)
        };
        started.unwrap_or_else(|error| self.fail(error))
    }

    fn start_write(
        &mut self,
        routes: &impl Routes,
        limits: &Limits,
        now: T,
    ) -> Result<Step<T>, proto::Error> {
        // Checked on the node that the client asked: a bad request costs no hop.
        let proposal = requests::proposal(&self.kind, limits)?;
        let route = match self.meta {
            true => requests::route_meta(routes)?,
            false => requests::route_write(&proposal, routes)?,
        };
        let descriptor = self.route.insert(route.descriptor);
        let (shard, epoch) = (descriptor.shard, descriptor.epoch.range);
        Ok(match route.leader {
            Some(leader) if leader == routes.local() => {
                let command = proposal.into_command(epoch);
                let bytes = prost::Message::encoded_len(&command);
                self.asked = Asked::Here;
                Step::Propose {
                    shard,
                    command,
                    bytes,
                }
            }
            leader if self.forwarded => self.fail(error::not_leader(shard, leader)),
            Some(leader) => self.forward(leader),
            None if route.local => self.hold(None, now),
            None => self.forward_somewhere(now),
        })
    }

    fn start_read(
        &mut self,
        routes: &impl Routes,
        limits: &Limits,
        now: T,
    ) -> Result<Step<T>, proto::Error> {
        requests::check_read(&self.kind, limits)?;
        let route = match self.meta {
            true => requests::route_meta(routes)?,
            false => requests::route_read(&self.kind, routes)?,
        };
        let descriptor = self.route.insert(route.descriptor);
        let shard = descriptor.shard;
        Ok(match route.leader {
            _ if route.local && requests::is_serializable(&self.kind) => {
                Step::Read(Arc::clone(descriptor))
            }
            _ if route.local => {
                self.asked = Asked::Here;
                Step::Confirm(shard)
            }
            leader if self.forwarded => self.fail(error::not_leader(shard, leader)),
            Some(leader) => self.forward(leader),
            None => self.forward_somewhere(now),
        })
    }

    fn forward(&mut self, node: NodeId) -> Step<T> {
        self.asked = Asked::Node(node);
        Step::Forward(node)
    }

    /// No leader is known and there is no replica here: one of those who have one is asked, another one at each try.
    fn forward_somewhere(&mut self, now: T) -> Step<T> {
        let replicas = self.route.as_ref().map_or(&[][..], |route| &route.replicas);
        let mut turn = replicas.iter().cycle().skip(self.tries as usize);
        match turn.next().map(|replica| replica.node) {
            Some(node) => self.forward(node),
            None => self.hold(None, now),
        }
    }

    /// The state machine's answer to a write.
    fn written(&mut self, routes: &impl Routes, answer: proto::CommandAnswer, now: T) -> Step<T> {
        let shard = self.shard();
        let newest = routes.with_map(|map| map.by_id(shard).cloned());
        match requests::finish_write(&self.kind, shard, answer, newest.as_deref()) {
            Err(error) if error.code() == Code::EpochMismatch && self.may_retry(now) => {
                // The route was older than the shard. Once a newer one is known it is worth another try.
                let used = self.route.as_ref().map(|route| route.epoch.range);
                match newest {
                    Some(newest) if Some(newest.epoch.range) != used => self.hold(None, now),
                    _ => self.fail(error),
                }
            }
            Err(error) => self.fail(error),
            Ok(answer) => Step::Done(Ok(answer)),
        }
    }

    fn refused(&mut self, routes: &mut impl Routes, refused: Refused, now: T) -> Step<T> {
        let shard = self.shard();
        let here = routes.local();
        match refused {
            Refused::NotLeader { leader } => {
                if let Some(leader) = leader {
                    routes.note_leader(shard, leader);
                }
                self.try_elsewhere(here, Refused::NotLeader { leader }, now)
            }
            Refused::NoReplica { .. } | Refused::Superseded => {
                self.try_elsewhere(here, refused, now)
            }
            // The engine waited for the confirmation: there is no hurry to ask again.
            Refused::Unconfirmed if self.may_retry(now) => {
                self.tries = self.tries.max(QUICK_TRIES);
                self.unconfirmed = true;
                self.hold(None, now)
            }
            Refused::OutcomeUnknown
                if requests::is_repeatable(&self.kind) && self.may_retry(now) =>
            {
                self.maybe_written = true;
                self.hold(None, now)
            }
            Refused::Unconfirmed | Refused::OutcomeUnknown | Refused::Busy | Refused::State(_) => {
                self.fail(error::refused(shard, refused))
            }
        }
    }

    fn try_elsewhere(&mut self, here: NodeId, refused: Refused, now: T) -> Step<T> {
        if self.may_retry(now) {
            self.hold(Some(here), now)
        } else {
            self.fail(error::refused(self.shard(), refused))
        }
    }

    /// Another node could not be asked, or did not do what was asked.
    fn remote_failed(
        &mut self,
        routes: &mut impl Routes,
        node: NodeId,
        failure: Failure,
        now: T,
    ) -> Step<T> {
        let (write, shard) = (requests::is_write(&self.kind), self.shard());
        match &failure {
            Failure::Node(error) if error.code() == Code::NotLeader => {
                routes.note_not_leader(shard, node);
                routes.note_leader(shard, NodeId(error.leader));
            }
            Failure::Node(error) if error.code() == Code::EpochMismatch => {
                if let Some(Ok(descriptor)) = error.descriptor.clone().map(Descriptor::try_from) {
                    routes.update(descriptor);
                }
            }
            Failure::Unreachable(_) => routes.note_not_leader(shard, node),
            _ => {}
        }
        let harmless = !write || failure.nothing_written() || requests::is_repeatable(&self.kind);
        if !(harmless && failure.is_worth_another_try() && self.may_retry(now)) {
            return self.fail(failure.into_proto(write));
        }
        if write && !failure.nothing_written() {
            self.maybe_written = true;
        }
        self.hold(Some(node), now)
    }

    /// Whether another try is allowed at all.
    fn may_retry(&self, now: T) -> bool {
        !self.forwarded && now < self.deadline
    }

    fn hold(&self, denied: Option<NodeId>, now: T) -> Step<T> {
        let not_before = self.tries.checked_sub(QUICK_TRIES).map(|late| {
            let pause = PAUSE_FIRST.saturating_mul(2_u32.saturating_pow(late.min(8)));
            (now + pause.min(PAUSE_LAST)).min(self.deadline)
        });
        Step::Hold(Hold {
            shard: self.shard(),
            denied,
            not_before,
            until: (now + LOOK_AGAIN).min(self.deadline),
        })
    }

    /// Ends with an error, which an earlier try whose outcome is not known turns into "outcome unknown".
    fn fail(&self, error: proto::Error) -> Step<T> {
        let error = if self.maybe_written {
            let text = format!(
                "an earlier try may have been applied; the last one: {}",
                error.message
            );
            error::of(Code::OutcomeUnknown, text)
        } else {
            error
        };
        Step::Done(Err(error))
    }

    /// The error of a call whose time is over.
    pub fn expired(&self, now: T) -> proto::Error {
        let shard = self.shard();
        let waited = now.max(self.started) - self.started;
        let write = requests::is_write(&self.kind);
        if write && (self.asked != Asked::Nobody || self.maybe_written) {
            error::unanswered_write(shard, waited)
        } else if self.asked == Asked::Here || self.unconfirmed {
            error::unconfirmed(shard, waited)
        } else {
            error::no_leader(shard, waited)
        }
    }
}
