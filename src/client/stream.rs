//! One bidirectional stream to one node, on which many requests are multiplexed.
//!
//! Callers hand their request to a queue; one task per node takes all that has gathered, sends it as one message, and
//! gives answers back as they come, in any order. So the cost of a message is shared by all requests of that moment,
//! and batches grow by themselves when the network or the node is slow. The client library and the node (when it
//! forwards a request to the leader's node) share this room. It knows nothing of keys, shards or retries.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher as _, Hasher as _, RandomState},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use flotilla_proto::v1::{
    self, Request, Response, kv_client::KvClient, peer_client::PeerClient, response,
};
use prost::Message as _;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::error::{Error, Result, reason_of};
use crate::{
    answers::{Connection, Readable},
    tls::{self, ClientTls},
    token::Token,
};

/// Bounds of one message; a single larger request still travels, alone. The node's limit for a message must leave room
/// for this plus one request of the greatest size.
const MAX_MESSAGE_BYTES: usize = 1 << 20;
const MAX_MESSAGE_REQUESTS: usize = 1024;
/// Messages handed to the connection and not yet taken by it: one being written, one waiting.
const MESSAGES_AHEAD: usize = 2;
/// The greatest answer that is taken: what a node may send.
pub(crate) const MAX_ANSWER_BYTES: usize = flotilla_shards::limits::MESSAGE_BYTES_MAX;
/// How exactly deadlines are kept.
const DEADLINE_GRAIN: Duration = Duration::from_millis(20);
/// An answer that is due at the end of a caller's time is given this long to arrive.
const ANSWER_TRAVELS: Duration = Duration::from_millis(100);
const BACKOFF_FIRST: Duration = Duration::from_millis(50);
const BACKOFF_LAST: Duration = Duration::from_secs(2);

/// Bounds of a [`NodeStream`].
#[derive(Debug, Clone)]
pub struct StreamOptions {
    /// Requests that may be queued or in flight at once; beyond it callers get [`Error::Busy`].
    pub max_requests: usize,
    /// Bytes of requests that may be queued or in flight at once; a single request is let in even if larger.
    pub max_bytes: usize,
    /// How long making a connection and opening the stream may take.
    pub connect_timeout: Duration,
    /// After this time without a sign of life the node is pinged, and given as long again to answer.
    pub keepalive: Duration,
    /// What is shown to nodes and demanded of them; none: plaintext.
    pub tls: Option<ClientTls>,
    /// Says who asks; none: nobody in particular.
    pub token: Option<Token>,
    /// Whom the stream is opened as.
    pub side: Side,
}

/// Which service a stream is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The one for clients.
    Client,
    /// The one for other nodes.
    Node,
}

impl Default for StreamOptions {
    fn default() -> Self {
        Self {
            max_requests: 16 * 1024,
            max_bytes: 64 << 20,
            connect_timeout: Duration::from_secs(2),
            keepalive: Duration::from_secs(3),
            tls: None,
            token: None,
            side: Side::Client,
        }
    }
}

/// How much less time a node is given than its caller waits, at most a tenth of it: so that what arrives last is the
/// node's reason, not the end of the caller's patience.
pub(super) fn answer_travels(time: Duration) -> Duration {
    ANSWER_TRAVELS.min(time / 10)
}

/// A handle to the stream to one node; clones share it. The stream is opened by the first request, closed with the
/// last handle, and reopened with growing pauses once a try to connect failed. During these pauses requests fail at
/// once with [`Error::Unreachable`], so that the caller can turn to another node.
#[derive(Debug, Clone)]
pub struct NodeStream {
    queue: mpsc::UnboundedSender<Pending>,
    shared: Arc<Shared>,
    channel: Connection,
}

#[derive(Debug)]
struct Shared {
    address: String,
    options: StreamOptions,
    /// Queued and in flight.
    requests: AtomicUsize,
    bytes: AtomicUsize,
    /// The last try to connect failed.
    down: AtomicBool,
    /// Nothing has come from the node since a request was sent whose time is over.
    silent: AtomicBool,
}

/// A request that is not answered yet.
#[derive(Debug)]
struct Pending {
    request: Request,
    bytes: usize,
    deadline: Instant,
    answer: Answer,
}

enum Answer {
    Channel(oneshot::Sender<Result<Response>>),
    Callback(Box<dyn FnOnce(Result<Response>) + Send>),
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Answer")
    }
}

/// A connection channel to `address` (host:port) with our settings; connects on first use and again when it broke. Must
/// be called within a tokio runtime.
///
/// # Errors
/// [`Error::InvalidArgument`] if the address is not host:port.
pub(crate) fn channel(address: &str, options: &StreamOptions) -> Result<Connection> {
    let invalid = |reason: &dyn std::fmt::Display| Error::InvalidArgument {
        message: format!("address {address:?} is not host:port: {reason}"),
    };
    if !address.contains(':') {
        return Err(invalid(&"the port is missing"));
    }
    let tls = options.tls.as_ref();
    let endpoint = tls::client::endpoint(address, tls)
        .map_err(|error| invalid(&error))?
        .connect_timeout(options.connect_timeout)
        .http2_keep_alive_interval(options.keepalive)
        .keep_alive_timeout(options.keepalive)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(16 << 20)
        .tcp_nodelay(true);
    Ok(Readable::new(tls::client::connect_lazy(&endpoint, tls)).with_token(options.token.as_ref()))
}

impl NodeStream {
    /// A stream to the node at `address` (host:port). Must be called within a tokio runtime; afterwards the handle may
    /// be used from any thread.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if the address is not host:port.
    pub fn new(address: impl Into<String>, options: StreamOptions) -> Result<Self> {
        let (stream, driver) = Self::with_driver(address.into(), options)?;
        tokio::spawn(driver.run());
        Ok(stream)
    }

    /// A stream, and the task that carries its requests, which does not run yet.
    fn with_driver(address: String, options: StreamOptions) -> Result<(Self, Driver)> {
        let channel = channel(&address, &options)?;
        let shared = Arc::new(Shared {
            address,
            options,
            requests: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            down: AtomicBool::new(false),
            silent: AtomicBool::new(false),
        });
        let (queue, incoming) = mpsc::unbounded_channel();
        let driver = Driver {
            shared: Arc::clone(&shared),
            channel: channel.clone(),
            incoming,
            backlog: VecDeque::new(),
            in_flight: HashMap::new(),
            earliest: None,
            next_id: 1,
            heard_before: 0,
            silent_until: None,
            refused_from: None,
            random: fastrand::Rng::with_seed(RandomState::new().build_hasher().finish()),
        };
        let stream = Self {
            queue,
            shared,
            channel,
        };
        Ok((stream, driver))
    }

    /// host:port of the node.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.shared.address
    }

    /// The connection below, for unary calls.
    #[must_use]
    pub(crate) fn channel(&self) -> Connection {
        self.channel.clone()
    }

    /// Whether the last try to connect failed, or the node has been silent since a request whose time is over: a reason
    /// to ask another node first. The stream goes on trying; a silent node is given another chance when it says anything,
    /// when its connection ends, and after twice [`StreamOptions::keepalive`].
    #[must_use]
    pub fn is_down(&self) -> bool {
        let Shared { down, silent, .. } = &*self.shared;
        down.load(Ordering::Relaxed) || silent.load(Ordering::Relaxed)
    }

    /// Sends a request and waits for its answer, `timeout` at most. The request's `id` and `timeout_ms` are set here.
    /// An error answer of the node becomes an `Err`.
    ///
    /// # Errors
    /// The node's own error; [`Error::Busy`], [`Error::Unreachable`] (not sent), [`Error::ConnectionLost`],
    /// [`Error::DeadlineExceeded`].
    pub fn call(
        &self,
        request: Request,
        timeout: Duration,
    ) -> impl Future<Output = Result<Response>> + Send + use<> {
        let (sender, receiver) = oneshot::channel();
        self.enqueue(request, timeout, Answer::Channel(sender));
        let shared = Arc::clone(&self.shared);
        async move {
            // The sender is dropped unused only when the runtime goes down.
            receiver
                .await
                .unwrap_or_else(|_| Err(shared.lost("this process is shutting down")))
        }
    }

    /// Like [`NodeStream::call`], with a callback. It runs on the stream's task, or on the caller's thread if the
    /// request is refused at once, and must be quick and must not block.
    pub fn submit(
        &self,
        request: Request,
        timeout: Duration,
        done: impl FnOnce(Result<Response>) + Send + 'static,
    ) {
        self.enqueue(request, timeout, Answer::Callback(Box::new(done)));
    }

    fn enqueue(&self, request: Request, timeout: Duration, answer: Answer) {
        let shared = &self.shared;
        let bytes = request.encoded_len();
        let requests_before = shared.requests.fetch_add(1, Ordering::Relaxed);
        let bytes_before = shared.bytes.fetch_add(bytes, Ordering::Relaxed);
        let pending = Pending {
            request,
            bytes,
            deadline: Instant::now() + timeout,
            answer,
        };
        let StreamOptions {
            max_requests,
            max_bytes,
            ..
        } = shared.options;
        if requests_before >= max_requests
            || (bytes_before + bytes > max_bytes && requests_before > 0)
        {
            shared.finish(
                pending,
                Err(Error::Busy {
                    message: format!(
                        "{requests_before} requests ({bytes_before} bytes) are in flight to {}; at most {max_requests} \
                         requests ({max_bytes} bytes) may be",
                        shared.address
                    ),
                    retry_after: Duration::from_millis(10),
                }),
            );
            return;
        }
        if let Err(mpsc::error::SendError(pending)) = self.queue.send(pending) {
            shared.finish(
                pending,
                Err(shared.unreachable("this process is shutting down")),
            );
        }
    }
}

impl Shared {
    /// Gives back the request's share of the bounds, then its answer.
    fn finish(&self, pending: Pending, result: Result<Response>) {
        self.requests.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(pending.bytes, Ordering::Relaxed);
        match pending.answer {
            // A caller that no longer waits is nothing to report.
            Answer::Channel(sender) => drop(sender.send(result)),
            Answer::Callback(done) => done(result),
        }
    }

    fn unreachable(&self, reason: impl Into<String>) -> Error {
        Error::Unreachable {
            address: self.address.clone(),
            reason: reason.into(),
        }
    }

    fn lost(&self, reason: impl Into<String>) -> Error {
        Error::ConnectionLost {
            address: self.address.clone(),
            reason: reason.into(),
        }
    }

    fn expired(&self, sent: bool) -> Error {
        Error::DeadlineExceeded {
            address: self.address.clone(),
            sent,
        }
    }
}

/// The task behind a stream.
struct Driver {
    shared: Arc<Shared>,
    channel: Connection,
    incoming: mpsc::UnboundedReceiver<Pending>,
    /// Taken from the queue and not sent yet. Bounded, as is `in_flight`, by the counts of `Shared`.
    backlog: VecDeque<Pending>,
    in_flight: HashMap<u64, Pending>,
    /// No deadline lies before this moment.
    earliest: Option<Instant>,
    next_id: u64,
    /// Requests below this id were sent before the node was last heard.
    heard_before: u64,
    /// When a silent node is given another chance.
    silent_until: Option<Instant>,
    /// The node is going down. Requests from this id on were not looked at.
    refused_from: Option<u64>,
    random: fastrand::Rng,
}

type Opened = std::result::Result<Open, String>;

struct Open {
    outgoing: mpsc::Sender<v1::StreamRequest>,
    answers: Streaming<v1::StreamResponse>,
}

/// Opens the stream. No request leaves before the node has accepted it, so that a failure proves that nothing was sent.
async fn open(channel: Connection, side: Side, timeout: Duration) -> Opened {
    let (outgoing, messages) = mpsc::channel(MESSAGES_AHEAD);
    let messages = ReceiverStream::new(messages);
    let opening = async {
        match side {
            Side::Client => {
                let mut client = KvClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES);
                client.stream(messages).await
            }
            Side::Node => {
                let mut client =
                    PeerClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES);
                client.forward(messages).await
            }
        }
    };
    match tokio::time::timeout(timeout, opening).await {
        Ok(Ok(answer)) => Ok(Open {
            outgoing,
            answers: answer.into_inner(),
        }),
        Ok(Err(status)) => Err(reason_of(&status)),
        Err(_) => Err(format!("no answer within {timeout:?}")),
    }
}

/// Why a connection was left.
enum End {
    /// All handles are gone.
    Closed,
    Broken(String),
}

impl Driver {
    async fn run(mut self) {
        while let Some(pending) = self.next().await {
            self.push(pending);
            let Some(mut opened) = self.open().await else {
                return;
            };
            let mut failures = 0;
            let connection = loop {
                let reason = match opened {
                    Ok(connection) => break connection,
                    Err(reason) => reason,
                };
                self.shared.down.store(true, Ordering::Relaxed);
                let pause = tokio::time::sleep(backoff(failures, &mut self.random));
                failures += 1;
                let opening = self.opening();
                let retry = async {
                    pause.await;
                    opening.await
                };
                match self.refuse_during(retry, &reason).await {
                    Some(result) => opened = result,
                    None => return,
                }
            };
            self.shared.down.store(false, Ordering::Relaxed);
            let end = self.drive(connection).await;
            self.heard();
            match end {
                End::Closed => return self.fail_all("the stream was closed"),
                End::Broken(reason) => self.fail_in_flight(&reason),
            }
        }
    }

    /// The request that makes a connection necessary. None: all handles are gone.
    async fn next(&mut self) -> Option<Pending> {
        match self.backlog.pop_front() {
            Some(pending) => Some(pending),
            None => self.incoming.recv().await,
        }
    }

    fn push(&mut self, pending: Pending) {
        self.earliest = Some(
            self.earliest
                .map_or(pending.deadline, |earliest| earliest.min(pending.deadline)),
        );
        self.backlog.push_back(pending);
    }

    fn opening(&self) -> impl Future<Output = Opened> + Send + use<> {
        let StreamOptions {
            side,
            connect_timeout,
            ..
        } = self.shared.options;
        open(self.channel.clone(), side, connect_timeout)
    }

    /// Opens the stream while requests gather. None: all handles are gone.
    async fn open(&mut self) -> Option<Opened> {
        let opening = self.opening();
        tokio::pin!(opening);
        let mut grain = tokio::time::interval(DEADLINE_GRAIN);
        loop {
            tokio::select! {
                opened = &mut opening => return Some(opened),
                pending = self.incoming.recv() => match pending {
                    Some(pending) => self.push(pending),
                    None => {
                        self.fail_all("the stream was closed");
                        return None;
                    }
                },
                _ = grain.tick() => self.expire(Instant::now()),
            }
        }
    }

    /// Awaits `event` and meanwhile fails all that is queued and all that comes. None: all handles are gone.
    async fn refuse_during<T>(
        &mut self,
        event: impl Future<Output = T>,
        reason: &str,
    ) -> Option<T> {
        while let Some(pending) = self.backlog.pop_front() {
            self.shared
                .finish(pending, Err(self.shared.unreachable(reason)));
        }
        tokio::pin!(event);
        loop {
            tokio::select! {
                outcome = &mut event => return Some(outcome),
                pending = self.incoming.recv() => match pending {
                    Some(pending) => self.shared.finish(pending, Err(self.shared.unreachable(reason))),
                    None => return None,
                },
            }
        }
    }

    /// The node has said something, or nobody waits for it any more.
    fn heard(&mut self) {
        self.heard_before = self.next_id;
        if self.silent_until.take().is_some() {
            self.shared.silent.store(false, Ordering::Relaxed);
        }
    }

    async fn drive(&mut self, mut connection: Open) -> End {
        let first_id = self.next_id;
        let mut arrived = Vec::with_capacity(64);
        let mut grain = tokio::time::interval(DEADLINE_GRAIN);
        grain.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                answer = connection.answers.message() => match answer {
                    Ok(Some(answer)) => self.take(answer, first_id),
                    Ok(None) => return End::Broken("the node ended the stream".to_owned()),
                    Err(status) => return End::Broken(reason_of(&status)),
                },
                permit = connection.outgoing.reserve(), if !self.backlog.is_empty() => match permit {
                    Ok(permit) => {
                        // Callers that were woken by the same event get their request into this message.
                        tokio::task::yield_now().await;
                        while let Ok(pending) = self.incoming.try_recv() {
                            self.push(pending);
                        }
                        permit.send(self.next_message());
                    }
                    // The connection dropped its end: the reason comes as an answer.
                    Err(_) => match connection.answers.message().await {
                        Ok(Some(answer)) => self.take(answer, first_id),
                        Ok(None) => return End::Broken("the node ended the stream".to_owned()),
                        Err(status) => return End::Broken(reason_of(&status)),
                    },
                },
                count = self.incoming.recv_many(&mut arrived, MAX_MESSAGE_REQUESTS) => {
                    if count == 0 {
                        return End::Closed;
                    }
                    for pending in arrived.drain(..) {
                        self.push(pending);
                    }
                },
                _ = grain.tick(), if self.earliest.is_some() => self.expire(Instant::now()),
            }
        }
    }

    /// The next message: as much of the backlog as fits.
    fn next_message(&mut self) -> v1::StreamRequest {
        let now = Instant::now();
        let mut requests = Vec::with_capacity(self.backlog.len().min(MAX_MESSAGE_REQUESTS));
        let mut bytes = 0;
        while requests.len() < MAX_MESSAGE_REQUESTS
            && let Some(next) = self.backlog.front()
            && (bytes == 0 || bytes + next.bytes <= MAX_MESSAGE_BYTES)
        {
            let mut pending = self.backlog.pop_front().expect("front() saw it");
            if pending.deadline <= now {
                self.shared.finish(pending, Err(self.shared.expired(false)));
                continue;
            }
            bytes += pending.bytes;
            let id = self.next_id;
            self.next_id += 1;
            let mut request = std::mem::take(&mut pending.request);
            request.id = id;
            let left = pending.deadline.saturating_duration_since(now);
            let left = (left - answer_travels(left)).as_millis();
            request.timeout_ms = u32::try_from(left).unwrap_or(u32::MAX).max(1);
            requests.push(request);
            self.in_flight.insert(id, pending);
        }
        v1::StreamRequest { requests }
    }

    /// Takes answers from a connection whose first request had the id `first_id`; ids ascend by one.
    fn take(&mut self, answer: v1::StreamResponse, first_id: u64) {
        self.heard();
        if let Some(count) = answer.taken_in {
            self.refused_from = Some(first_id.saturating_add(count));
        }
        for mut response in answer.responses {
            // An answer to nobody is one that came after its deadline.
            let Some(pending) = self.in_flight.remove(&response.id) else {
                continue;
            };
            let result = match response.kind.take() {
                Some(response::Kind::Error(error)) => Err(error.into()),
                Some(kind) => Ok(Response {
                    id: response.id,
                    kind: Some(kind),
                }),
                None => Err(Error::Protocol {
                    address: self.shared.address.clone(),
                    message: "an answer without content".to_owned(),
                }),
            };
            self.shared.finish(pending, result);
        }
    }

    fn expire(&mut self, now: Instant) {
        if self.earliest.is_none_or(|earliest| now < earliest) {
            return;
        }
        if self.silent_until.is_some_and(|until| until <= now) {
            self.heard();
        }
        let expired: Vec<(u64, Pending)> = self
            .in_flight
            .extract_if(|_, pending| pending.deadline <= now)
            .collect();
        for (id, pending) in expired {
            // Before the caller hears of it, so that its next request goes elsewhere.
            if id >= self.heard_before && self.silent_until.is_none() {
                self.silent_until = Some(now + 2 * self.shared.options.keepalive);
                self.shared.silent.store(true, Ordering::Relaxed);
            }
            self.shared.finish(pending, Err(self.shared.expired(true)));
        }
        for index in (0..self.backlog.len()).rev() {
            if self.backlog[index].deadline <= now
                && let Some(pending) = self.backlog.remove(index)
            {
                self.shared.finish(pending, Err(self.shared.expired(false)));
            }
        }
        let waiting = self.in_flight.values().chain(&self.backlog);
        let deadlines = waiting.map(|pending| pending.deadline);
        self.earliest = deadlines.chain(self.silent_until).min();
    }

    fn fail_all(&mut self, reason: &str) {
        self.fail_in_flight(reason);
        while let Some(pending) = self.backlog.pop_front() {
            self.shared
                .finish(pending, Err(self.shared.unreachable(reason)));
        }
    }

    fn fail_in_flight(&mut self, reason: &str) {
        let refused_from = self.refused_from.take();
        for (id, pending) in self.in_flight.drain() {
            let error = match refused_from {
                Some(from) if id >= from => Error::ShuttingDown {
                    message: format!(
                        "{} is shutting down and did not look at the request",
                        self.shared.address
                    ),
                },
                _ => self.shared.lost(reason),
            };
            self.shared.finish(pending, Err(error));
        }
        self.earliest = self.backlog.iter().map(|pending| pending.deadline).min();
    }
}

/// Pause before try `failures + 1`: doubling, half of it random, so that clients of a node that comes back do not come
/// all at once.
pub(super) fn backoff(failures: u32, random: &mut fastrand::Rng) -> Duration {
    let full = BACKOFF_LAST.min(BACKOFF_FIRST * 2_u32.pow(failures.min(10)));
    full / 2 + full.mul_f64(random.f64() / 2.0)
}

/// Requests that wait on a stream, for the test of what may come on it.
#[cfg(any(test, fuzzing))]
pub(super) mod fuzz {
    use super::*;
    use crate::client::fuzz::a_request;

    /// Who hears the answer to a request.
    pub(in crate::client) type Heard = Box<dyn FnOnce(Result<Response>) + Send>;

    /// A stream whose requests have been sent.
    pub(in crate::client) struct Waiting {
        driver: Driver,
        first_id: u64,
    }

    /// A stream with so many requests, whose ids count up from the first.
    pub(in crate::client) fn waiting(
        first_id: u64,
        requests: u64,
        heard: impl Fn(u64) -> Heard,
    ) -> Waiting {
        let options = StreamOptions::default();
        let (stream, mut driver) =
            NodeStream::with_driver("n:1".to_owned(), options).expect("an address");
        driver.next_id = first_id;
        for id in first_id..first_id + requests {
            stream.submit(a_request(), Duration::from_secs(60), heard(id));
        }
        while let Ok(pending) = driver.incoming.try_recv() {
            driver.push(pending);
        }
        assert_eq!(driver.next_message().requests.len() as u64, requests);
        Waiting { driver, first_id }
    }

    impl Waiting {
        /// A message has come.
        pub(in crate::client) fn take(&mut self, message: v1::StreamResponse) {
            self.driver.take(message, self.first_id);
        }

        /// The stream has ended.
        pub(in crate::client) fn end(&mut self, reason: &str) {
            self.driver.fail_all(reason);
        }

        /// Requests and bytes that count against the bounds.
        pub(in crate::client) fn in_use(&self) -> (usize, usize) {
            let Shared {
                requests, bytes, ..
            } = &*self.driver.shared;
            (
                requests.load(Ordering::Relaxed),
                bytes.load(Ordering::Relaxed),
            )
        }
    }
}
