//! Carries out what a [`service::call::Call`](flotilla_shards::service::call) decides: submits to the local engine,
//! passes on to other nodes, waits for leaders.
//!
//! Two drive it: an `async` function for single requests, and the stream, which has thousands of calls and one task.
//! What comes back arrives as an [`Event`] through a [`Completion`], which is made only if something is sent off.

use std::sync::Arc;

use flotilla_metrics::Operation;
use flotilla_proto::v1::{self as proto, error::Code, request, response};
pub(super) use flotilla_shards::service::call::Event;
use flotilla_shards::{
    descriptor::Descriptor,
    ids::{NodeId, ShardId},
    service::{
        call::{self, Failure, Hold},
        error,
    },
};
use tokio::time::Instant;

use super::{
    request as requests,
    services::Services,
    trace::{Trace, Wait},
};
use crate::{
    client,
    router::Router,
    runtime::{Answer, Outcome, Reply, ShardRequest, StageTimes},
};

/// Takes the event of one try; with a write's word come its times in the engine. Called from threads of the engine and
/// tasks of connections: must be quick and must not block. Dropped unused it must report [`Event::Dropped`].
pub(super) trait Completion: Send + 'static {
    fn complete(self, event: Event, times: Option<StageTimes>);
}

/// What is to be done next for a call.
pub(super) enum Step {
    /// An event will come.
    Pending,
    /// Wait, then go on with [`Event::Retry`].
    Hold(Hold<Instant>),
    /// The local state of this shard may be read now.
    Read(Arc<Descriptor>),
    /// Answered.
    Done(Result<response::Kind, proto::Error>),
}

/// Waits as a call asks for; then the event to go on with.
pub(super) async fn hold(hold: Hold<Instant>, router: &Router) -> Event {
    if let Some(moment) = hold.not_before {
        tokio::time::sleep_until(moment).await;
    }
    let leader = router.wait_for_leader(hold.shard, hold.denied, hold.until);
    match leader.await {
        Ok(_) => Event::Retry,
        Err(error) => Event::Busy(error.into()),
    }
}

/// One request to one shard. A scan or a batched get must have been cut to the shard before.
pub(super) struct Call(call::Call<Instant>);

impl Call {
    pub(super) fn new(
        kind: request::Kind,
        started: Instant,
        deadline: Instant,
        trace: &Trace,
    ) -> Self {
        let call = call::Call::new(kind, started, deadline, trace.forwarded);
        Self(match trace.meta {
            true => call.in_meta(),
            false => call,
        })
    }

    pub(super) fn kind(&self) -> &request::Kind {
        self.0.kind()
    }

    pub(super) fn into_kind(self) -> request::Kind {
        self.0.into_kind()
    }

    pub(super) fn operation(&self) -> Operation {
        requests::operation(self.0.kind())
    }

    pub(super) fn deadline(&self) -> Instant {
        self.0.deadline()
    }

    /// The error of a call whose time is over.
    pub(super) fn expired(&self) -> proto::Error {
        self.0.expired(Instant::now())
    }

    /// Does what follows from an event that came with these `times`. `completion` is for what is sent off.
    pub(super) fn resume<C: Completion>(
        &mut self,
        services: &Services,
        trace: &mut Trace,
        mut event: Event,
        times: Option<StageTimes>,
        completion: impl FnOnce() -> C,
    ) -> Step {
        let now = Instant::now();
        trace.settle(times, now);
        let mut completion = Some(completion);
        let mut completion = || completion.take().expect("only one try is sent off")();
        let mut routes: &Router = &services.router;
        loop {
            let step = (self.0).resume(event, &mut routes, &services.limits, now);
            trace.shard = self.0.shard();
            let sent = match step {
                call::Step::Propose {
                    shard,
                    command,
                    bytes,
                } => {
                    trace.wait(Wait::Write, now);
                    let request = ShardRequest::Write { command, bytes };
                    submit(services, shard, request, completion())
                }
                call::Step::Confirm(shard) if services.runtime.may_read(shard) => {
                    Err(Event::ReadReady)
                }
                call::Step::Confirm(shard) => {
                    trace.wait(Wait::Confirm, now);
                    submit(services, shard, ShardRequest::Read, completion())
                }
                call::Step::Forward(node) => {
                    trace.wait(Wait::Forward(node), now);
                    self.forward(services, trace, node, &mut completion)
                }
                call::Step::Hold(hold) => {
                    trace.wait(Wait::Hold, now);
                    services.metrics.held.inc();
                    return Step::Hold(hold);
                }
                call::Step::Read(descriptor) => {
                    trace.wait(Wait::Read, now);
                    return Step::Read(descriptor);
                }
                call::Step::Done(result) => return Step::Done(result),
            };
            match sent {
                Ok(()) => return Step::Pending,
                Err(answered) => event = answered,
            }
        }
    }

    fn forward<C: Completion>(
        &self,
        services: &Services,
        trace: &mut Trace,
        leader: NodeId,
        completion: impl FnOnce() -> C,
    ) -> Result<(), Event> {
        let Some(node) = services.router.node(leader) else {
            let text = format!("the address of node {leader} is not known");
            return Err(Event::Remote(Err(Failure::Unreachable(text))));
        };
        services.metrics.forwarded.of(self.operation()).inc();
        let request = proto::Request {
            kind: Some(self.kind().clone()),
            forwarded: true,
            meta: self.0.is_meta(),
            request_id: trace.id(&services.request_ids).to_string(),
            ..proto::Request::default()
        };
        let write = flotilla_shards::service::request::is_write(self.kind());
        let timeout = self.deadline().saturating_duration_since(Instant::now());
        let completion = completion();
        let done =
            Box::new(move |result| completion.complete(Event::Remote(remote(result, write)), None));
        services.forward.forward(&node, request, timeout, done);
        Ok(())
    }
}

/// Asks the local engine. What it can't take comes back as the event.
fn submit<C: Completion>(
    services: &Services,
    shard: ShardId,
    request: ShardRequest,
    completion: C,
) -> Result<(), Event> {
    let reply = Reply::new(move |outcome, times| completion.complete(local(outcome), Some(times)));
    let submitted = services.runtime.submit(shard, request, reply);
    submitted.map_err(|busy| Event::Busy(busy.into()))
}

/// The local engine's word.
fn local(outcome: Outcome) -> Event {
    match outcome {
        Ok(Answer::Write(answer)) => Event::Written(answer),
        Ok(Answer::ReadReady(_)) => Event::ReadReady,
        Err(refused) => Event::Refused(refused),
    }
}

/// Another node's word.
fn remote(result: client::Result<proto::Response>, write: bool) -> Result<response::Kind, Failure> {
    use client::Error;
    match result {
        Ok(response) => response.kind.ok_or_else(|| {
            Failure::Node(error::of(Code::Internal, "the leader's answer is empty"))
        }),
        Err(error) => {
            let text = error.to_string();
            Err(match error {
                Error::Unreachable { .. } | Error::DeadlineExceeded { sent: false, .. } => {
                    Failure::Unreachable(text)
                }
                Error::ConnectionLost { .. } => Failure::ConnectionLost(text),
                Error::DeadlineExceeded { sent: true, .. } => Failure::Late(text),
                said => Failure::Node(said.into_proto(write)),
            })
        }
    }
}
