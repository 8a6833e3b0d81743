//! Answers of other processes, as tonic may read them.
//!
//! tonic takes the details of a status for base64 without a look, and panics where they are not: in the task that carries
//! the requests of everybody. So what carries gRPC to another process, client or node, goes through [`Readable`], which takes
//! away what tonic could not read; the status stays.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;
use futures_util::{TryFutureExt as _, future::MapOk};
use http_body::{Frame, SizeHint};
use tonic::{
    Status,
    body::Body,
    codegen::{Service, http},
    transport::Channel,
};

use crate::token::Token;

const DETAILS: &str = "grpc-status-details-bin";
/// As tonic reads it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A connection whose answers are looked at before tonic reads them.
pub(crate) type Connection = Readable<Channel>;

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Readable<S> {
    inner: S,
    /// Goes with each request: who asks.
    authorization: Option<http::HeaderValue>,
}

impl<S> Readable<S> {
    pub(crate) fn new(inner: S) -> Self {
        Self {
            inner,
            authorization: None,
        }
    }

    /// The same, with a token that each request shows.
    pub(crate) fn with_token(mut self, token: Option<&Token>) -> Self {
        self.authorization = token.and_then(|token| {
            let text = format!("Bearer {}", token.reveal());
            // Always a legal header: hexadecimal digits.
            let mut header = http::HeaderValue::try_from(text).ok()?;
            header.set_sensitive(true);
            Some(header)
        });
        self
    }
}

type Looked<F> = MapOk<F, fn(http::Response<Body>) -> http::Response<Body>>;

impl<S> Service<http::Request<Body>> for Readable<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Looked<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        if let Some(authorization) = &self.authorization {
            let header = http::header::AUTHORIZATION;
            request.headers_mut().insert(header, authorization.clone());
        }
        self.inner.call(request).map_ok(|mut answer| {
            look_at(answer.headers_mut());
            answer.map(|body| Body::new(Trailed(body)))
        })
    }
}

/// Takes details away that are no base64.
fn look_at(headers: &mut http::HeaderMap) {
    let mut details = headers.get_all(DETAILS).iter();
    if details.any(|details| BASE64.decode(details).is_err()) {
        headers.remove(DETAILS);
    }
}

/// A body whose trailers are looked at.
struct Trailed(Body);

impl http_body::Body for Trailed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut polled = Pin::new(&mut self.0).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &mut polled
            && let Some(trailers) = frame.trailers_mut()
        {
            look_at(trailers);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}
