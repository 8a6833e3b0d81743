//! The way of one request to one shard, as a state machine without a task of its own.
//!
//! [`Call::start`] sends the request off: to the local engine, or to the node that leads. What comes back arrives as an
//! [`Event`] through a [`Completion`]; [`Call::resume`] makes an answer of it, or another try. Two drive it: an `async`
//! function for single requests, and the stream, which has thousands of calls and one task. A completion is made only if
//! something is sent off.
//!
//! A write is tried again only if it is proven that nothing was appended, or if its session makes a second try
//! harmless.

use std::{sync::Arc, time::Duration};

use flotilla_metrics::Operation;
use flotilla_proto::v1::{self as proto, error::Code, request, response};
use flotilla_shards::{
    descriptor::Descriptor,
    engine::Refused,
    ids::{NodeId, ShardId},
};
use tokio::time::Instant;

use super::{error, request as requests, services::Services};
use crate::{
    client,
    router::Router,
    runtime::{Answer, Outcome, Reply, ShardRequest},
};

/// How long a call waits for news of a leader before it looks again by itself.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Tries without a pause.
const QUICK_TRIES: u32 = 3;
/// First and longest pause between later tries.
const PAUSE_FIRST: Duration = Duration::from_millis(5);
const PAUSE_LAST: Duration = Duration::from_millis(160);

/// What comes back to a call that was sent off.
pub(super) enum Event {
    /// The local engine's word.
    Local(Outcome),
    /// Another node's.
    Remote(client::Result<proto::Response>),
    /// Whoever had to answer is gone.
    Dropped,
    /// The pause is over.
    Retry,
}

/// Takes the event of one try. Called from threads of the engine and tasks of connections: must be quick and must not
/// block. Dropped unused it must report [`Event::Dropped`].
pub(super) trait Completion: Send + 'static {
    fn complete(self, event: Event);
}

/// What is to be done next for a call.
pub(super) enum Step {
    /// An event will come.
    Pending,
    /// Wait, then start again.
    Hold(Hold),
    /// The local state of this shard may be read now.
    Read(Arc<Descriptor>),
    /// Answered.
    Done(Result<response::Kind, proto::Error>),
}

impl Step {
    fn fail(error: impl Into<proto::Error>) -> Self {
        Self::Done(Err(error.into()))
    }
}

/// A wait for a leader.
pub(super) struct Hold {
    shard: ShardId,
    denied: Option<NodeId>,
    not_before: Option<Instant>,
    until: Instant,
}

impl Hold {
    /// Waits for a leader other than the one that denied it, or until it is time to look again.
    pub(super) async fn over(self, router: &Router) -> Result<(), proto::Error> {
        if let Some(moment) = self.not_before {
            tokio::time::sleep_until(moment).await;
        }
        router
            .wait_for_leader(self.shard, self.denied, self.until)
            .await?;
        Ok(())
    }
}

/// Who was asked last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Nobody,
    Here,
    Node(NodeId),
}

/// One request to one shard. A scan or a batched get must have been cut to the shard before.
pub(super) struct Call {
    kind: request::Kind,
    /// Another node passed it on: it may not travel further, and is not held.
    forwarded: bool,
    started: Instant,
    deadline: Instant,
    tries: u32,
    asked: Asked,
    route: Option<Arc<Descriptor>>,
    /// An earlier try may have been appended; only a session's write goes on then.
    maybe_written: bool,
    /// The last try ended because no quorum confirmed the read.
    unconfirmed: bool,
}

impl Call {
    pub(super) fn new(
        kind: request::Kind,
        started: Instant,
        deadline: Instant,
        forwarded: bool,
    ) -> Self {
        Self {
            kind,
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

    pub(super) fn kind(&self) -> &request::Kind {
        &self.kind
    }

    pub(super) fn into_kind(self) -> request::Kind {
        self.kind
    }

    pub(super) fn operation(&self) -> Operation {
        requests::operation(&self.kind)
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    fn shard(&self) -> ShardId {
        self.route.as_ref().map_or(ShardId(0), |route| route.shard)
    }

    /// Sends the request off.
    pub(super) fn start<C: Completion>(
        &mut self,
        services: &Services,
        completion: impl FnOnce() -> C,
    ) -> Step {
        if Instant::now() >= self.deadline {
            return Step::Done(Err(self.expired()));
        }
        self.tries += 1;
        self.asked = Asked::Nobody;
        let started = if requests::is_write(&self.kind) {
            self.start_write(services, completion)
        } else {
            self.start_read(services, completion)
        };
        started.unwrap_or_else(Step::fail)
    }

    fn start_write<C: Completion>(
        &mut self,
        services: &Services,
        completion: impl FnOnce() -> C,
    ) -> Result<Step, proto::Error> {
        // Checked on the node that the client asked: a bad request costs no hop.
        let proposal = requests::proposal(&self.kind, &services.limits)?;
        let route = requests::route_write(&proposal, &services.router)?;
        let descriptor = self.route.insert(route.descriptor);
        let shard = descriptor.shard;
        Ok(match route.leader {
            Some(leader) if leader == services.router.local() => {
                let command = proposal.into_command(descriptor.epoch.range);
                let bytes = prost::Message::encoded_len(&command);
                let request = ShardRequest::Write { command, bytes };
                self.submit(services, shard, request, completion)
            }
            leader if self.forwarded => Step::fail(error::not_leader(shard, leader)),
            Some(leader) => self.forward(services, leader, completion),
            None if route.local => self.hold(services, None),
            None => self.forward_somewhere(services, completion),
        })
    }

    fn start_read<C: Completion>(
        &mut self,
        services: &Services,
        completion: impl FnOnce() -> C,
    ) -> Result<Step, proto::Error> {
        let route = requests::route_read(&self.kind, &services.router, &services.limits)?;
        let descriptor = self.route.insert(route.descriptor);
        let shard = descriptor.shard;
        Ok(match route.leader {
            _ if route.local && requests::is_serializable(&self.kind) => {
                Step::Read(Arc::clone(descriptor))
            }
            _ if route.local => self.submit(services, shard, ShardRequest::Read, completion),
            leader if self.forwarded => Step::fail(error::not_leader(shard, leader)),
            Some(leader) => self.forward(services, leader, completion),
            None => self.forward_somewhere(services, completion),
        })
    }

    fn submit<C: Completion>(
        &mut self,
        services: &Services,
        shard: ShardId,
        request: ShardRequest,
        completion: impl FnOnce() -> C,
    ) -> Step {
        let completion = completion();
        let reply = Reply::new(move |outcome| completion.complete(Event::Local(outcome)));
        match services.runtime.submit(shard, request, reply) {
            Ok(()) => {
                self.asked = Asked::Here;
                Step::Pending
            }
            Err(busy) => Step::fail(busy),
        }
    }

    fn forward<C: Completion>(
        &mut self,
        services: &Services,
        leader: NodeId,
        completion: impl FnOnce() -> C,
    ) -> Step {
        let Some(node) = services.router.node(leader) else {
            return self.hold(services, Some(leader));
        };
        services.metrics.forwarded.of(self.operation()).inc();
        self.asked = Asked::Node(leader);
        let request = proto::Request {
            kind: Some(self.kind.clone()),
            forwarded: true,
            ..proto::Request::default()
        };
        let timeout = self.deadline.saturating_duration_since(Instant::now());
        let completion = completion();
        let done = Box::new(move |result| completion.complete(Event::Remote(result)));
        services.forward.forward(&node, request, timeout, done);
        Step::Pending
    }

    /// No leader is known and there is no replica here: one of those who have one is asked, another one at each try.
    fn forward_somewhere<C: Completion>(
        &mut self,
        services: &Services,
        completion: impl FnOnce() -> C,
    ) -> Step {
        let replicas = self.route.as_ref().map_or(&[][..], |route| &route.replicas);
        let mut turn = replicas.iter().cycle().skip(self.tries as usize);
        match turn.next().map(|replica| replica.node) {
            Some(node) => self.forward(services, node, completion),
            None => self.hold(services, None),
        }
    }

    /// What follows from an event. `completion` is for the next try.
    pub(super) fn resume<C: Completion>(
        &mut self,
        services: &Services,
        event: Event,
        completion: impl FnOnce() -> C,
    ) -> Step {
        let asked = std::mem::replace(&mut self.asked, Asked::Nobody);
        match event {
            Event::Retry => self.start(services, completion),
            Event::Local(Ok(Answer::ReadReady(_))) => match &self.route {
                Some(route) => Step::Read(Arc::clone(route)),
                None => self.start(services, completion),
            },
            Event::Local(Ok(Answer::Write(answer))) => self.written(services, answer),
            Event::Local(Err(refused)) => self.refused(services, refused),
            Event::Remote(Ok(response)) => match response.kind {
                Some(kind) => Step::Done(Ok(kind)),
                None => Step::fail(error::of(Code::Internal, "the leader's answer is empty")),
            },
            Event::Remote(Err(error)) => self.remote_failed(services, asked, error),
            Event::Dropped if requests::is_write(&self.kind) => Step::fail(error::of(
                Code::OutcomeUnknown,
                "the node stopped before the write was answered; it may still be applied",
            )),
            Event::Dropped => Step::fail(error::shutting_down()),
        }
    }

    /// The state machine's answer to a write.
    fn written(&mut self, services: &Services, answer: proto::CommandAnswer) -> Step {
        let newest = services.router.by_id(self.shard()).ok();
        let newest = newest.as_ref().map(|route| &*route.descriptor);
        match requests::finish_write(&self.kind, self.shard(), answer, newest) {
            Err(error) if error.code() == Code::EpochMismatch && self.may_retry() => {
                // The route was older than the shard. Once a newer one is known it is worth another try.
                let used = self.route.as_ref().map(|route| route.epoch.range);
                match newest {
                    Some(newest) if Some(newest.epoch.range) != used => self.hold(services, None),
                    _ => Step::fail(error),
                }
            }
            result => Step::Done(result),
        }
    }

    fn refused(&mut self, services: &Services, refused: Refused) -> Step {
        let shard = self.shard();
        let here = services.router.local();
        match refused {
            Refused::NotLeader { leader } => {
                if let Some(leader) = leader {
                    services.router.note_leader(shard, leader);
                }
                self.try_elsewhere(services, here, Refused::NotLeader { leader })
            }
            Refused::NoReplica { .. } | Refused::Superseded => {
                self.try_elsewhere(services, here, refused)
            }
            // The engine waited for the confirmation: there is no hurry to ask again.
            Refused::Unconfirmed if self.may_retry() => {
                self.tries = self.tries.max(QUICK_TRIES);
                self.unconfirmed = true;
                self.hold(services, None)
            }
            Refused::OutcomeUnknown if requests::is_repeatable(&self.kind) && self.may_retry() => {
                self.maybe_written = true;
                self.hold(services, None)
            }
            Refused::Unconfirmed | Refused::OutcomeUnknown | Refused::Busy | Refused::State(_) => {
                Step::Done(Err(self.final_error(error::refused(shard, refused))))
            }
        }
    }

    fn try_elsewhere(&mut self, services: &Services, here: NodeId, refused: Refused) -> Step {
        if self.may_retry() {
            self.hold(services, Some(here))
        } else {
            Step::Done(Err(self.final_error(error::refused(self.shard(), refused))))
        }
    }

    /// Another node could not be asked, or did not do what was asked.
    fn remote_failed(&mut self, services: &Services, asked: Asked, error: client::Error) -> Step {
        let write = requests::is_write(&self.kind);
        let Asked::Node(node) = asked else {
            unreachable!("an answer of another node came to a call that asked {asked:?}");
        };
        match &error {
            client::Error::NotLeader { leader, .. } => {
                services.router.note_not_leader(self.shard(), node);
                services.router.note_leader(self.shard(), NodeId(*leader));
            }
            client::Error::EpochMismatch {
                descriptor: Some(descriptor),
                ..
            } => {
                if let Ok(descriptor) = Descriptor::try_from((**descriptor).clone()) {
                    services.router.update(Arc::new(descriptor));
                }
            }
            client::Error::Unreachable { .. } => {
                services.router.note_not_leader(self.shard(), node);
            }
            _ => {}
        }
        let harmless = !write || error.nothing_written() || requests::is_repeatable(&self.kind);
        let elsewhere = match &error {
            client::Error::NotLeader { .. }
            | client::Error::EpochMismatch { .. }
            | client::Error::NotInitialized { .. }
            | client::Error::ShuttingDown { .. }
            | client::Error::Unreachable { .. }
            | client::Error::ConnectionLost { .. }
            | client::Error::OutcomeUnknown { .. } => true,
            client::Error::InvalidArgument { .. }
            | client::Error::Busy { .. }
            | client::Error::Unavailable { .. }
            | client::Error::SessionUnknown { .. }
            | client::Error::CrossShard { .. }
            | client::Error::Internal { .. }
            | client::Error::DeadlineExceeded { .. }
            | client::Error::Protocol { .. } => false,
        };
        if !(harmless && elsewhere && self.may_retry()) {
            let error = error.into_proto(write);
            return Step::Done(Err(self.final_error(error)));
        }
        if write && !error.nothing_written() {
            self.maybe_written = true;
        }
        self.hold(services, Some(node))
    }

    /// Whether another try is allowed at all.
    fn may_retry(&self) -> bool {
        !self.forwarded && Instant::now() < self.deadline
    }

    fn hold(&self, services: &Services, denied: Option<NodeId>) -> Step {
        services.metrics.held.inc();
        let now = Instant::now();
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

    /// An error that an earlier try, whose outcome is not known, turns into "outcome unknown".
    fn final_error(&self, error: proto::Error) -> proto::Error {
        if self.maybe_written {
            error::of(
                Code::OutcomeUnknown,
                format!(
                    "an earlier try may have been applied; the last one: {}",
                    error.message
                ),
            )
        } else {
            error
        }
    }

    /// The error of a call whose time is over.
    pub(super) fn expired(&self) -> proto::Error {
        let shard = self.shard();
        let waited = self.started.elapsed();
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
