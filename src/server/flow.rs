//! What connections may hold of a node's memory: requests that have not arrived in full, and answers that the other end does
//! not take.
//!
//! HTTP/2 bounds neither: every call of a connection may be in the middle of the largest message, and an answer stays with
//! the node for as long as the other end leaves its window closed. Small ones are not counted, as their number is bounded.
//! Beyond the bound, requests and answers are refused as busy; who is too slow with one loses it, or the connection. This is
//! for clients: nodes bound what they send to each other themselves.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body::{Body as _, Frame, SizeHint};
use tokio::{task::AbortHandle, time::Sleep};
use tonic::{
    Status,
    body::Body,
    codegen::{Service, http},
    server::NamedService,
};

use super::error;
use crate::tls::{Caller, identity::Line};

/// Bytes of one request or answer that are not counted.
const FREE: usize = 64 << 10;
/// Bytes in front of each message: whether it is compressed, and its length.
const PREFIX: usize = 5;
/// The method whose answer is a stream, which says its first word when it likes.
const STREAM: &str = "/flotilla.v1.Kv/Stream";

/// The bounds of a node, and what is used of them.
#[derive(Debug)]
pub(super) struct Flow {
    /// Of requests, and as much again of answers.
    limit: usize,
    /// How long one request may take to arrive, and one answer to be taken.
    patience: Duration,
    requests: AtomicUsize,
    answers: AtomicUsize,
}

impl Flow {
    pub(super) fn new(limit: usize, patience: Duration) -> Arc<Self> {
        Arc::new(Self {
            limit,
            patience,
            requests: AtomicUsize::new(0),
            answers: AtomicUsize::new(0),
        })
    }

    /// Puts a service behind these bounds.
    pub(super) fn bound<S>(self: &Arc<Self>, service: S) -> Bounded<S> {
        Bounded {
            service,
            flow: Arc::clone(self),
        }
    }

    fn take(&self, of: &AtomicUsize, bytes: usize) -> bool {
        let before = of.fetch_add(bytes, Ordering::Relaxed);
        let fits = before + bytes <= self.limit;
        if !fits {
            of.fetch_sub(bytes, Ordering::Relaxed);
        }
        fits
    }

    fn too_many(&self, what: &str) -> Status {
        error::status(&error::busy(format!(
            "{what} hold {} bytes of this node, as many as limits.unfinished_bytes allows",
            self.limit
        )))
    }
}

/// A service whose requests and answers are counted.
#[derive(Clone, Debug)]
pub(super) struct Bounded<S> {
    service: S,
    flow: Arc<Flow>,
}

impl<S: NamedService> NamedService for Bounded<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Bounded<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let flow = Arc::clone(&self.flow);
        let caller = request.extensions().get::<Caller>();
        let line = caller.map(|caller| caller.line.clone()).unwrap_or_default();
        let streams = request.uri().path() == STREAM;
        let request = request.map(|body| Body::new(Arriving::new(body, Arc::clone(&flow))));
        let answer = self.service.call(request);
        Box::pin(async move {
            let (head, body) = answer.await?.into_parts();
            let mut leaving = Leaving {
                body,
                flow,
                line,
                first: None,
            };
            if !streams && !leaving.body.is_end_stream() {
                // What waits for the window of the other end is the message itself, not what it is made from.
                let first = std::future::poll_fn(|context| leaving.next(context)).await;
                if let Some(Err(status)) = first {
                    return Ok(status.into_http());
                }
                leaving.first = first;
            }
            Ok(http::Response::from_parts(head, Body::new(leaving)))
        })
    }
}

/// A request on its way in.
struct Arriving {
    body: Body,
    flow: Arc<Flow>,
    /// Of the prefix of the next message.
    prefix: [u8; PREFIX],
    prefix_bytes: usize,
    /// Bytes of the message that have come, and that are missing.
    come: usize,
    missing: usize,
    /// What of it is counted.
    counted: usize,
    /// When it must be complete; set once it is counted.
    due: Option<Pin<Box<Sleep>>>,
}

impl Arriving {
    fn new(body: Body, flow: Arc<Flow>) -> Self {
        Self {
            body,
            flow,
            prefix: [0; PREFIX],
            prefix_bytes: 0,
            come: 0,
            missing: 0,
            counted: 0,
            due: None,
        }
    }

    /// Follows the messages through their bytes.
    fn follow(&mut self, mut data: &[u8]) -> Result<(), Status> {
        while let Some((first, rest)) = data.split_first() {
            if self.missing == 0 {
                // `prefix_bytes` goes back to 0 when it gets as far as `PREFIX`.
                self.prefix[self.prefix_bytes] = *first;
                self.prefix_bytes += 1;
                data = rest;
                if self.prefix_bytes == PREFIX {
                    let [_, length @ ..] = self.prefix;
                    self.prefix_bytes = 0;
                    self.missing = u32::from_be_bytes(length) as usize;
                    self.come = 0;
                }
            } else {
                let now = data.len().min(self.missing);
                self.missing -= now;
                self.come += now;
                data = data.get(now..).unwrap_or_default();
                if self.missing == 0 {
                    self.release();
                }
            }
        }
        if self.missing > 0 && self.come > FREE {
            let more = self.come - self.counted;
            if !self.flow.take(&self.flow.requests, more) {
                return Err(self.flow.too_many("requests that have not arrived in full"));
            }
            self.counted += more;
            let patience = self.flow.patience;
            self.due
                .get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        }
        Ok(())
    }

    fn release(&mut self) {
        self.flow
            .requests
            .fetch_sub(self.counted, Ordering::Relaxed);
        self.counted = 0;
        self.due = None;
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        self.release();
    }
}

impl http_body::Body for Arriving {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if polled.is_pending()
            && let Some(due) = &mut self.due
            && due.as_mut().poll(context).is_ready()
        {
            let patience = self.flow.patience;
            return Poll::Ready(Some(Err(Status::deadline_exceeded(format!(
                "the request has not arrived in full within {patience:?}"
            )))));
        }
        let Some(Ok(frame)) = ready!(polled) else {
            return Poll::Ready(None);
        };
        if let Some(data) = frame.data_ref() {
            self.follow(data)?;
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer on its way out.
struct Leaving {
    body: Body,
    flow: Arc<Flow>,
    line: Line,
    /// Taken from the body ahead of time.
    first: Option<Result<Frame<Bytes>, Status>>,
}

impl Leaving {
    /// The next part of it, counted until the connection lets go of it.
    fn next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(context)) else {
            return Poll::Ready(None);
        };
        Poll::Ready(Some(frame.and_then(|frame| match frame.into_data() {
            Ok(data) if data.len() > FREE => self.count(data).map(Frame::data),
            Ok(data) => Ok(Frame::data(data)),
            Err(frame) => Ok(frame),
        })))
    }

    fn count(&self, data: Bytes) -> Result<Bytes, Status> {
        if !self.flow.take(&self.flow.answers, data.len()) {
            return Err(self.flow.too_many("answers that nobody takes"));
        }
        let (line, patience) = (self.line.clone(), self.flow.patience);
        let impatience = tokio::spawn(async move {
            tokio::time::sleep(patience).await;
            line.cut();
        });
        Ok(Bytes::from_owner(Waiting {
            data,
            flow: Arc::clone(&self.flow),
            impatience: impatience.abort_handle(),
        }))
    }
}

impl http_body::Body for Leaving {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(first)),
            None => self.next(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.body.is_end_stream()
    }
}

/// Bytes of an answer that wait to be taken. The connection drops them when it has sent them, or when it ends.
struct Waiting {
    data: Bytes,
    flow: Arc<Flow>,
    /// Cuts the connection off if they wait for too long.
    impatience: AbortHandle,
}

impl AsRef<[u8]> for Waiting {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.impatience.abort();
        let bytes = self.data.len();
        self.flow.answers.fetch_sub(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(length: usize) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend(u32::try_from(length).expect("short").to_be_bytes());
        bytes.resize(PREFIX + length, 7);
        bytes
    }

    #[tokio::test]
    async fn requests_count_while_they_are_incomplete() {
        let flow = Flow::new(3 * FREE, Duration::from_secs(60));
        let used = || flow.requests.load(Ordering::Relaxed);
        let mut one = Arriving::new(Body::empty(), Arc::clone(&flow));
        let bytes = message(2 * FREE);
        // However it is cut.
        for piece in bytes[..FREE].chunks(7) {
            one.follow(piece).expect("room");
        }
        assert_eq!(used(), 0, "small ones are free");
        one.follow(&bytes[FREE..FREE + 100]).expect("room");
        assert_eq!(used(), FREE + 100 - PREFIX);
        let mut other = Arriving::new(Body::empty(), Arc::clone(&flow));
        let status = other
            .follow(&message(4 * FREE)[..3 * FREE])
            .expect_err("no room");
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
        assert!(
            status.message().contains("limits.unfinished_bytes"),
            "{status}"
        );
        assert_eq!(
            used(),
            FREE + 100 - PREFIX,
            "what was refused does not count"
        );

        // The end of it, two small ones, and the beginning of another.
        let mut rest = bytes[FREE + 100..].to_vec();
        rest.extend(message(0));
        rest.extend(message(10));
        rest.extend(&message(3 * FREE)[..2 * FREE]);
        one.follow(&rest).expect("room");
        assert_eq!(used(), 2 * FREE - PREFIX);
        drop((one, other));
        assert_eq!(used(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn answers_count_until_they_are_let_go_and_end_the_connection_that_does_not() {
        let flow = Flow::new(3 * FREE, Duration::from_secs(60));
        let line = Line::default();
        let leaving = Leaving {
            body: Body::empty(),
            flow: Arc::clone(&flow),
            line: line.clone(),
            first: None,
        };
        let used = || flow.answers.load(Ordering::Relaxed);
        let one = leaving.count(vec![7; 2 * FREE].into()).expect("room");
        let status = leaving
            .count(vec![7; 2 * FREE].into())
            .expect_err("no room");
        assert!(
            status.message().contains("limits.unfinished_bytes"),
            "{status}"
        );
        assert_eq!(used(), 2 * FREE);
        // As it is sent: part by part, without a copy.
        let mut rest = one;
        drop(rest.split_to(FREE));
        assert_eq!(used(), 2 * FREE);
        drop(rest);
        assert_eq!(used(), 0);
        tokio::time::sleep(Duration::from_secs(120)).await;
        assert!(!line.is_cut());

        let stuck = leaving.count(vec![7; 2 * FREE].into()).expect("room");
        tokio::time::sleep(Duration::from_secs(61)).await;
        assert!(line.is_cut());
        drop(stuck);
        assert_eq!(used(), 0);
    }
}
