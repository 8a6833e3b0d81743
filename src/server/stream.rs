//! One client's stream: many requests at once, answered in any order.
//!
//! The stream of answers is all there is: the connection polls it, and it takes in requests, sends them off, collects
//! what came back and cuts it into messages. A write or a point read needs no task and no channel of its own. Threads of
//! the engine leave their outcomes in a list and wake the connection's task once; what has gathered by then leaves in
//! one message.

use std::{
    collections::HashMap,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use flotilla_proto::v1::{self as proto, error::Code, request, response};
use futures_util::{Stream, future::BoxFuture};
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep};
use tonic::{Status, Streaming};

use super::{
    access::Caller,
    call::{Call, Completion, Event, Step, hold},
    error, request as requests,
    services::{Services, Slot},
    trace::{RequestId, Trace},
};
use crate::runtime::StageTimes;

/// How exactly deadlines are kept.
const DEADLINE_GRAIN: Duration = Duration::from_millis(20);
/// An answer message is closed when it has grown to this size.
const MESSAGE_BYTES: usize = 1 << 20;
/// Request messages that are taken in before others get their turn.
const MESSAGES_PER_POLL: usize = 16;

/// What came back, by ticket.
enum Back {
    Event(Event, Option<StageTimes>),
    /// The whole answer of a request that had a task.
    Answer(Result<response::Kind, proto::Error>, Box<Trace>),
}

/// Where outcomes are left.
#[derive(Default)]
struct Returns {
    list: Vec<(u64, Back)>,
    waker: Option<Waker>,
}

/// Leaves the outcome of one ticket; dropped unused, it says so.
struct Ticket {
    returns: Arc<Mutex<Returns>>,
    number: u64,
    used: bool,
}

impl Ticket {
    fn leave(&mut self, back: Back) {
        self.used = true;
        let waker = {
            let mut returns = self.returns.lock();
            returns.list.push((self.number, back));
            returns.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Completion for Ticket {
    fn complete(mut self, event: Event, times: Option<StageTimes>) {
        self.leave(Back::Event(event, times));
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.used {
            self.leave(Back::Event(Event::Dropped, None));
        }
    }
}

/// A request that is not answered yet.
struct Flight {
    id: u64,
    /// None for a request that has a task.
    call: Option<Call>,
    deadline: Instant,
    slot: Slot,
}

/// The answers of one stream.
pub(super) struct Answers {
    services: Arc<Services>,
    /// Asked about for each request: what it may do can end while the stream goes on.
    caller: Caller,
    /// None once the client has closed its side, or the server stops.
    incoming: Option<Streaming<proto::StreamRequest>>,
    /// Requests that were begun or refused.
    taken_in: u64,
    /// What is left to be said about them, when the server has stopped before the client.
    farewell: bool,
    /// Requests of a message that found no place yet.
    backlog: std::vec::IntoIter<proto::Request>,
    /// Resolves when the server stops.
    stopping: BoxFuture<'static, ()>,
    flights: HashMap<u64, Flight>,
    next_ticket: u64,
    returns: Arc<Mutex<Returns>>,
    /// Taken from `returns`; kept to reuse its memory.
    taken: Vec<(u64, Back)>,
    timer: Pin<Box<Sleep>>,
    timer_set: bool,
    out: Vec<proto::Response>,
}

impl Answers {
    pub(super) fn new(
        services: Arc<Services>,
        caller: Caller,
        incoming: Streaming<proto::StreamRequest>,
        stopping: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        services.metrics.streams.inc();
        Self {
            services,
            caller,
            incoming: Some(incoming),
            taken_in: 0,
            farewell: false,
            backlog: Vec::new().into_iter(),
            stopping: Box::pin(stopping),
            flights: HashMap::new(),
            next_ticket: 0,
            returns: Arc::default(),
            taken: Vec::new(),
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            timer_set: false,
            out: Vec::new(),
        }
    }

    /// Takes in requests while there is place. An error is the connection's.
    fn take_in(&mut self, cx: &mut Context<'_>) -> Result<(), Status> {
        let limit = self.services.options.max_stream_requests;
        let mut messages = 0;
        loop {
            while self.flights.len() < limit {
                let Some(request) = self.backlog.next() else {
                    break;
                };
                self.begin(request);
            }
            if self.flights.len() >= limit {
                // Answers free places, and answers wake this task.
                return Ok(());
            }
            let Some(incoming) = &mut self.incoming else {
                return Ok(());
            };
            if messages == MESSAGES_PER_POLL {
                cx.waker().wake_by_ref();
                return Ok(());
            }
            match Pin::new(incoming).poll_next(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Some(Ok(message))) => {
                    messages += 1;
                    self.backlog = message.requests.into_iter();
                }
                Poll::Ready(Some(Err(status))) => return Err(status),
                Poll::Ready(None) => self.incoming = None,
            }
        }
    }

    fn ticket(&self, number: u64) -> Ticket {
        Ticket {
            returns: Arc::clone(&self.returns),
            number,
            used: false,
        }
    }

    /// Sends one request off.
    fn begin(&mut self, request: proto::Request) {
        self.taken_in += 1;
        let id = request.id;
        let Some(kind) = request.kind else {
            let error = error::of(Code::InvalidArgument, "the request has no kind");
            return self.put_out(id, Err(error));
        };
        if request.meta && !self.caller.is_node() {
            let error = error::of(
                Code::InvalidArgument,
                "the field meta is for requests between nodes",
            );
            return self.put_out(id, Err(error));
        }
        let now = Instant::now();
        let mut trace = Trace::new(
            RequestId::given(&request.request_id),
            request.forwarded,
            now,
        );
        trace.meta = request.meta;
        let mut slot = match self.services.admit(&self.caller, &kind, now, trace) {
            Ok(slot) => slot,
            Err(error) => return self.put_out(id, Err(error)),
        };
        let wish = match request.timeout_ms {
            0 => None,
            ms => Some(Duration::from_millis(ms.into())),
        };
        let deadline = self.services.deadline(now, wish);
        let number = self.next_ticket;
        self.next_ticket += 1;
        if let request::Kind::Scan(_) | request::Kind::BatchGet(_) = kind {
            let mut trace = Box::new(slot.trace.clone());
            let flight = Flight {
                id,
                call: None,
                deadline,
                slot,
            };
            self.flights.insert(number, flight);
            let mut ticket = self.ticket(number);
            let services = Arc::clone(&self.services);
            tokio::spawn(async move {
                let answer = services.perform(kind, deadline, &mut trace).await;
                ticket.leave(Back::Answer(answer, trace));
            });
            return;
        }
        let mut call = Call::new(kind, now, deadline, &slot.trace);
        let ticket = || self.ticket(number);
        let step = call.resume(&self.services, &mut slot.trace, Event::Retry, None, ticket);
        let flight = Flight {
            id,
            call: Some(call),
            deadline,
            slot,
        };
        self.follow(number, flight, step);
    }

    /// Does what a call asks for.
    fn follow(&mut self, number: u64, flight: Flight, step: Step) {
        match step {
            Step::Pending => {
                self.flights.insert(number, flight);
            }
            Step::Done(result) => self.finish(flight, result),
            Step::Read(descriptor) => {
                let result = match &flight.call {
                    Some(call) => self.services.read_now(call.kind(), &descriptor),
                    None => Err(error::of(Code::Internal, "a read without its request")),
                };
                self.finish(flight, result);
            }
            Step::Hold(wait) => {
                self.flights.insert(number, flight);
                let mut ticket = self.ticket(number);
                let services = Arc::clone(&self.services);
                tokio::spawn(async move {
                    let event = hold(wait, &services.router).await;
                    ticket.leave(Back::Event(event, None));
                });
            }
        }
    }

    /// Answers a request.
    fn finish(&mut self, mut flight: Flight, result: Result<response::Kind, proto::Error>) {
        let result = flight.slot.end(result);
        self.put_out(flight.id, result);
    }

    fn put_out(&mut self, id: u64, result: Result<response::Kind, proto::Error>) {
        let kind = match result {
            Ok(kind) => kind,
            Err(error) => response::Kind::Error(error),
        };
        self.out.push(proto::Response {
            id,
            kind: Some(kind),
        });
    }

    /// Takes what came back. False: nothing had.
    fn collect(&mut self, cx: &Context<'_>) -> bool {
        {
            let mut returns = self.returns.lock();
            if returns.list.is_empty() {
                match &mut returns.waker {
                    Some(waker) => waker.clone_from(cx.waker()),
                    none => *none = Some(cx.waker().clone()),
                }
                return false;
            }
            std::mem::swap(&mut returns.list, &mut self.taken);
        }
        let mut taken = std::mem::take(&mut self.taken);
        for (number, back) in taken.drain(..) {
            // Answered by its deadline already, or by an earlier word of the same try.
            let Some(mut flight) = self.flights.remove(&number) else {
                continue;
            };
            match (back, &mut flight.call) {
                (Back::Answer(result, trace), _) => {
                    flight.slot.trace = *trace;
                    self.finish(flight, result);
                }
                (Back::Event(event, times), Some(call)) => {
                    // Each try has a ticket of its own under the same number; the one before is used up.
                    let (ticket, trace) = (|| self.ticket(number), &mut flight.slot.trace);
                    let step = call.resume(&self.services, trace, event, times, ticket);
                    self.follow(number, flight, step);
                }
                (Back::Event(..), None) => {
                    let error = error::of(Code::Internal, "the request's task broke off");
                    self.finish(flight, Err(error));
                }
            }
        }
        self.taken = taken;
        true
    }

    /// Answers what has run out of time, and sets the timer for the rest.
    fn keep_deadlines(&mut self, cx: &mut Context<'_>) {
        loop {
            if self.flights.is_empty() {
                self.timer_set = false;
                return;
            }
            if !self.timer_set {
                let earliest = self.flights.values().map(|flight| flight.deadline).min();
                let soonest = Instant::now() + DEADLINE_GRAIN;
                let at = earliest.map_or(soonest, |earliest| earliest.max(soonest));
                self.timer.as_mut().reset(at);
                self.timer_set = true;
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return;
            }
            self.timer_set = false;
            let now = Instant::now();
            let late: Vec<u64> = (self.flights.iter())
                .filter(|(_, flight)| flight.deadline <= now)
                .map(|(number, _)| *number)
                .collect();
            for number in late {
                if let Some(flight) = self.flights.remove(&number) {
                    let error = match &flight.call {
                        Some(call) => call.expired(),
                        None => error::of(Code::Unavailable, "the read did not end in time"),
                    };
                    self.finish(flight, Err(error));
                }
            }
        }
    }

    /// The next message of answers, cut by size.
    fn message(&mut self) -> Option<proto::StreamResponse> {
        let mut bytes = 0;
        let fits = self.out.iter().take_while(|response| {
            let before = bytes;
            bytes += requests::response_bytes(response);
            before < MESSAGE_BYTES
        });
        let count = fits.count();
        if count == 0 {
            return None;
        }
        let responses = if count == self.out.len() {
            std::mem::take(&mut self.out)
        } else {
            self.out.drain(..count).collect()
        };
        Some(proto::StreamResponse {
            responses,
            taken_in: None,
        })
    }
}

impl Stream for Answers {
    type Item = Result<proto::StreamResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        // What is ready leaves before more is taken in: so answers that nobody fetches stop the intake.
        if let Some(message) = this.message() {
            return Poll::Ready(Some(Ok(message)));
        }
        if this.incoming.is_some() && this.stopping.as_mut().poll(cx).is_ready() {
            this.incoming = None;
            this.farewell = true;
        }
        loop {
            if let Err(status) = this.take_in(cx) {
                return Poll::Ready(Some(Err(status)));
            }
            let more = this.collect(cx);
            this.keep_deadlines(cx);
            if let Some(message) = this.message() {
                return Poll::Ready(Some(Ok(message)));
            }
            let ended = this.incoming.is_none() && this.backlog.len() == 0;
            if ended && this.flights.is_empty() {
                // What the client had sent and nobody took in is not lost without a word.
                let last = std::mem::take(&mut this.farewell).then(|| proto::StreamResponse {
                    responses: Vec::new(),
                    taken_in: Some(this.taken_in),
                });
                return Poll::Ready(last.map(Ok));
            }
            if !more {
                return Poll::Pending;
            }
        }
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.services.metrics.streams.dec();
    }
}
