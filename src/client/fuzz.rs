//! What a node answers, of any content, as the client reads it.

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::{Ready, ready},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use flotilla_proto::v1::{self, kv_client::KvClient, request, response};
use http_body::Frame;
use parking_lot::Mutex;
use prost::Message as _;
use tokio::runtime;
use tonic::{
    Status,
    body::Body,
    codegen::{
        Bytes, Service,
        http::{self, HeaderMap, HeaderName, HeaderValue},
    },
};

use super::{
    error::{Error, reason_of},
    stream::fuzz::{Waiting, waiting},
};
use crate::{
    answers::Readable,
    fuzz::{byte, number, piece},
};

thread_local! {
    static RUNTIME: runtime::Runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime of one thread");
}

/// An HTTP answer that was written before: its headers, and what comes after them.
#[derive(Clone)]
struct Written {
    headers: HeaderMap,
    frames: VecDeque<Frames>,
}

#[derive(Clone)]
enum Frames {
    Data(Bytes),
    Trailers(HeaderMap),
}

/// Headers, each a name of those that matter (or any) and a value; what HTTP forbids can't come.
fn headers(data: &mut &[u8]) -> HeaderMap {
    const NAMES: [&str; 5] = [
        "grpc-status",
        "grpc-message",
        "grpc-status-details-bin",
        "content-type",
        "grpc-encoding",
    ];
    let mut headers = HeaderMap::new();
    for _ in 0..byte(data) % 6 {
        let name = match NAMES.get(usize::from(byte(data) % 8)) {
            Some(name) => HeaderName::from_static(name),
            None => match HeaderName::from_bytes(piece(data).unwrap_or_default()) {
                Ok(name) => name,
                Err(_) => continue,
            },
        };
        if let Ok(value) = HeaderValue::from_bytes(piece(data).unwrap_or_default()) {
            headers.append(name, value);
        }
    }
    headers
}

impl Service<http::Request<Body>> for Written {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Request<Body>) -> Self::Future {
        let mut answer = http::Response::new(Body::new(self.clone()));
        answer.headers_mut().clone_from(&self.headers);
        ready(Ok(answer))
    }
}

impl http_body::Body for Written {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = self.frames.pop_front();
        Poll::Ready(frame.map(|frame| {
            Ok(match frame {
                Frames::Data(data) => Frame::data(data),
                Frames::Trailers(trailers) => Frame::trailers(trailers),
            })
        }))
    }
}

/// A status of a unary call, or of a stream: it becomes an error, which says that nothing was written only if the node said
/// so in as many words.
fn judge(status: &Status) {
    let error = Error::from_status("n:1", status);
    let said = v1::Error::decode(status.details()).ok();
    let said = said.filter(|said| !status.details().is_empty() && said.code != 0);
    let refused = matches!(
        status.code(),
        tonic::Code::InvalidArgument | tonic::Code::OutOfRange
    );
    let proven = said.map_or(refused, |said| Error::from(said).nothing_written());
    assert_eq!(error.nothing_written(), proven, "{status:?}: {error:?}");
    // Who passes it on must not claim more than is known.
    let passed_on = Error::from(error.clone().into_proto(true));
    assert!(
        proven || !passed_on.nothing_written(),
        "{error:?}: {passed_on:?}"
    );
    let _ = (reason_of(status), error.to_string(), error.kind());
}

/// The answer to a unary call, and to a stream: headers, messages and trailers.
///
/// # Panics
/// If an error claims more than is known.
pub fn answers(mut data: &[u8]) {
    let written = Written {
        headers: headers(&mut data),
        frames: (0..byte(&mut data) % 4)
            .map(|_| match byte(&mut data) & 1 {
                0 => Frames::Data(Bytes::copy_from_slice(piece(&mut data).unwrap_or_default())),
                _ => Frames::Trailers(headers(&mut data)),
            })
            .collect(),
    };
    let mut client = KvClient::new(Readable::new(written));
    RUNTIME.with(|runtime| {
        runtime.block_on(async {
            if let Err(status) = client.put(v1::PutRequest::default()).await {
                judge(&status);
            }
            let requests = tokio_stream::iter([v1::StreamRequest::default()]);
            match client.stream(requests).await {
                Ok(answer) => {
                    let mut answers = answer.into_inner();
                    loop {
                        match answers.message().await {
                            Ok(Some(_)) => {}
                            Ok(None) => break,
                            Err(status) => {
                                judge(&status);
                                break;
                            }
                        }
                    }
                }
                Err(status) => judge(&status),
            }
        });
    });
}

/// Requests whose answers are looked for.
const REQUESTS: u64 = 6;

/// What comes on the stream to a node: each request that waits gets one answer at most, which is the node's if the node gave
/// one; and all that are left get an error when the stream ends.
///
/// # Panics
/// If that does not hold.
pub fn stream(mut data: &[u8]) {
    type Answer = (u64, Result<v1::Response, Error>);
    let first_id = number(&mut data).clamp(1, u64::MAX - REQUESTS);
    let got: Arc<Mutex<Vec<Answer>>> = Arc::default();
    let _inside = RUNTIME.with(|runtime| runtime.handle().clone());
    let _inside = _inside.enter();
    let mut waiting: Waiting = waiting(first_id, REQUESTS, |id| {
        let got = Arc::clone(&got);
        Box::new(move |answer| got.lock().push((id, answer)))
    });
    let mut given: Vec<v1::Response> = Vec::new();
    let mut taken_in = None;
    while let Some(message) = piece(&mut data) {
        let Ok(message) = v1::StreamResponse::decode(message) else {
            continue;
        };
        let ours = |id: u64| id >= first_id && id - first_id < REQUESTS;
        for response in &message.responses {
            if ours(response.id) && given.iter().all(|known| known.id != response.id) {
                given.push(response.clone());
            }
        }
        taken_in = message.taken_in.or(taken_in);
        waiting.take(message);
    }
    let answered = got.lock().len();
    assert_eq!(answered, given.len(), "one answer each");
    waiting.end("it ended");
    let got = std::mem::take(&mut *got.lock());
    assert_eq!(got.len() as u64, REQUESTS, "and all have one in the end");
    for (id, answer) in got {
        let expected = given.iter().find(|response| response.id == id);
        match (expected.map(|response| &response.kind), answer) {
            (Some(Some(response::Kind::Error(error))), Err(answer)) => {
                assert_eq!(answer, Error::from(error.clone()));
            }
            (Some(Some(kind)), Ok(answer)) => assert_eq!(answer.kind.as_ref(), Some(kind)),
            (Some(None), Err(answer)) => assert!(matches!(answer, Error::Protocol { .. })),
            // What the node did not look at may be sent again; all others may have been done.
            (None, Err(answer)) => {
                let refused = taken_in.is_some_and(|count| id - first_id >= count);
                assert_eq!(answer.nothing_written(), refused, "{answer:?}");
            }
            (expected, answer) => panic!("{expected:?} became {answer:?}"),
        }
    }
    assert_eq!(waiting.in_use(), (0, 0), "all bounds are given back");
}

/// A request of a client, for those that wait.
pub(super) fn a_request() -> v1::Request {
    v1::Request {
        kind: Some(request::Kind::Get(v1::GetRequest::default())),
        ..v1::Request::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{feed::feed, fuzz::pieces};

    fn head(lines: &[(u8, &[u8])]) -> Vec<u8> {
        let mut data = vec![lines.len() as u8];
        for (name, value) in lines {
            data.push(*name);
            data.extend_from_slice(&pieces(&[value]));
        }
        data
    }

    fn framed(message: &[u8]) -> Vec<u8> {
        let length = (message.len() as u32).to_be_bytes();
        [&[0][..], &length, message].concat()
    }

    #[test]
    fn answers_of_any_content() {
        const STATUS: u8 = 0;
        const MESSAGE: u8 = 1;
        const DETAILS: u8 = 2;
        let grpc = (3, &b"application/grpc"[..]);
        let put = framed(&v1::PutResponse { revision: 7 }.encode_to_vec());
        let data = |data: &[u8]| [&[0][..], &pieces(&[data])].concat();
        let trailers = |lines: &[(u8, &[u8])]| [&[1][..], &head(lines)].concat();
        let ok = trailers(&[(STATUS, b"0")]);
        let busy = [
            (STATUS, &b"8"[..]),
            (MESSAGE, b"busy%20now"),
            (DETAILS, b"CAQSAW0"),
        ];
        let seeds = [
            [&head(&[grpc])[..], &[2], &data(&put), &ok].concat(),
            [&head(&[grpc])[..], &[3], &data(&put), &data(&put), &ok].concat(),
            [&head(&[grpc])[..], &[1], &trailers(&busy)].concat(),
            [&head(&[grpc, busy[0], busy[1], busy[2]])[..], &[0]].concat(),
            // What tonic would have panicked at.
            [&head(&[grpc, (STATUS, b"13"), (DETAILS, b"!")])[..], &[0]].concat(),
            [
                &head(&[grpc])[..],
                &[1],
                &trailers(&[(STATUS, b"13"), (DETAILS, b"=a")]),
            ]
            .concat(),
            [&head(&[(STATUS, b"14"), (MESSAGE, b"%ff")])[..], &[0]].concat(),
            [&head(&[grpc, (4, b"gzip")])[..], &[2], &data(&put), &ok].concat(),
        ];
        feed("answers", &seeds, 20_000, answers);
    }

    #[test]
    fn streams_of_answers_of_any_content() {
        let response = |id, kind| v1::Response { id, kind };
        let found = Some(response::Kind::Get(v1::GetResponse {
            value: Some("v".into()),
            revision: 3,
        }));
        let error = Some(response::Kind::Error(v1::Error {
            code: v1::error::Code::Busy.into(),
            message: "busy".to_owned(),
            ..v1::Error::default()
        }));
        let message = |responses, taken_in| {
            let message = v1::StreamResponse {
                responses,
                taken_in,
            };
            message.encode_to_vec()
        };
        let all = message((1..7).map(|id| response(id, found.clone())).collect(), None);
        let some = message(
            vec![response(2, error), response(9, None), response(3, None)],
            None,
        );
        let last = message(Vec::new(), Some(4));
        let seeds = [
            [&[1][..], &pieces(&[&all])].concat(),
            [&[1][..], &pieces(&[&some, &all, &last])].concat(),
            [&[1][..], &pieces(&[&last, &some, &some])].concat(),
            [&[255][..], &pieces(&[&last])].concat(),
        ];
        feed("stream", &seeds, 20_000, stream);
    }
}
