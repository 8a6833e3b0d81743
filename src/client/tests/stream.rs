//! The stream to one node: multiplexing, bounds, deadlines and lost connections.

use std::{sync::mpsc, time::Duration};

use flotilla_proto::v1::{self, Request, request, response};
use futures_util::future::join_all;
use tokio::net::TcpListener;

use super::fake::{Act, Fake};
use crate::client::{
    Error,
    stream::{NodeStream, StreamOptions},
};

const LONG: Duration = Duration::from_secs(20);

fn put(key: impl Into<Vec<u8>>) -> Request {
    let put = v1::PutRequest {
        key: key.into().into(),
        value: "v".into(),
        session: None,
    };
    Request {
        kind: Some(request::Kind::Put(put)),
        ..Request::default()
    }
}

fn key_number(kind: &request::Kind) -> u64 {
    let request::Kind::Put(put) = kind else {
        panic!("not a put: {kind:?}");
    };
    std::str::from_utf8(&put.key)
        .expect("test keys are text")
        .parse()
        .expect("test keys are numbers")
}

fn stream(fake: &Fake) -> NodeStream {
    NodeStream::new(fake.address(), StreamOptions::default()).expect("a valid address")
}

#[tokio::test]
async fn answers_find_their_callers_in_any_order() {
    let fake = Fake::start(|kind| {
        let number = key_number(&kind);
        let answer = response::Kind::Put(v1::PutResponse { revision: number });
        match number % 3 {
            0 => Act::After(Duration::from_millis(20), answer),
            1 => Act::After(Duration::from_millis(5), answer),
            _ => Act::Answer(answer),
        }
    })
    .await;
    let stream = stream(&fake);
    let calls = (0..300_u64).map(|number| {
        let stream = stream.clone();
        async move { (number, stream.call(put(number.to_string()), LONG).await) }
    });
    for (number, result) in join_all(calls).await {
        let Some(response::Kind::Put(answer)) = result.expect("answered").kind else {
            panic!("a put is answered by a put");
        };
        assert_eq!(answer.revision, number);
    }
    let messages = fake.messages();
    assert_eq!(messages.iter().sum::<usize>(), 300);
    assert!(
        messages.len() < 100,
        "requests at hand at the same moment travel together: {messages:?}"
    );
}

#[tokio::test]
async fn a_callback_is_called_from_any_thread() {
    let fake = Fake::start(|_| Act::put(5)).await;
    let stream = stream(&fake);
    let (sender, receiver) = mpsc::channel();
    let submitter = std::thread::spawn(move || {
        stream.submit(put("1"), LONG, move |result| {
            sender.send(result).expect("the test waits");
        });
        stream // lives until the answer is there
    });
    let result = tokio::task::spawn_blocking(move || receiver.recv())
        .await
        .expect("no panic")
        .expect("called");
    assert!(result.is_ok(), "{result:?}");
    submitter.join().expect("no panic");
}

#[tokio::test]
async fn error_answers_become_errors() {
    let fake = Fake::start(|_| Act::error(v1::error::Code::CrossShard)).await;
    let error = stream(&fake)
        .call(put("1"), LONG)
        .await
        .expect_err("scripted");
    assert!(matches!(error, Error::CrossShard { .. }), "{error:?}");
}

#[tokio::test]
async fn a_node_is_given_less_time_than_its_caller_waits() {
    let fake = Fake::start(|_| Act::put(1)).await;
    let stream = stream(&fake);
    for timeout in [LONG, Duration::from_millis(500)] {
        stream.call(put("1"), timeout).await.expect("answered");
    }
    let given: Vec<u32> = fake.seen().iter().map(|seen| seen.timeout_ms).collect();
    let [long, short] = given[..] else {
        panic!("two requests: {given:?}");
    };
    assert!((10_000..=19_900).contains(&long), "{long} ms of 20 s");
    assert!((1..=450).contains(&short), "{short} ms of 500 ms");
}

#[tokio::test]
async fn a_refused_connection_proves_that_nothing_was_written() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    drop(listener);
    let stream = NodeStream::new(address, StreamOptions::default()).expect("a valid address");
    let error = stream
        .call(put("1"), LONG)
        .await
        .expect_err("nobody listens");
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    assert!(error.nothing_written());
    assert!(stream.is_down());
}

#[tokio::test]
async fn the_stream_finds_a_node_that_comes_back() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    drop(listener);
    let stream =
        NodeStream::new(address.to_string(), StreamOptions::default()).expect("a valid address");
    stream
        .call(put("1"), LONG)
        .await
        .expect_err("nobody listens");
    let listener = TcpListener::bind(address).await.expect("the same port");
    let _fake = Fake::start_on(listener, |_| Act::put(1));
    while stream.call(put("2"), LONG).await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!stream.is_down());
}

#[tokio::test]
async fn what_a_node_that_goes_down_did_not_look_at_is_not_lost() {
    let fake = Fake::start(|kind| match key_number(&kind) {
        0 => Act::put(7),
        1 => Act::Silence,
        _ => Act::Farewell,
    })
    .await;
    let stream = stream(&fake);
    // A connection before, so that ids don't begin with the connection.
    stream.call(put("0"), LONG).await.expect("an answer");
    let results = join_all((1..4).map(|number| stream.call(put(number.to_string()), LONG))).await;
    for (number, result) in (1..).zip(results) {
        match result.expect_err("the node went down") {
            Error::ConnectionLost { .. } => assert_eq!(number, 1, "it was taken in"),
            Error::ShuttingDown { message } => {
                assert!(number > 1, "request {number} was taken in");
                assert!(message.contains("did not look at"), "{message}");
            }
            other => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn a_broken_stream_leaves_the_outcome_open_and_is_reopened() {
    let fake = Fake::start(|kind| match key_number(&kind) {
        1 => Act::Break,
        _ => Act::put(2),
    })
    .await;
    let stream = stream(&fake);
    let error = stream.call(put("1"), LONG).await.expect_err("scripted");
    assert!(matches!(error, Error::ConnectionLost { .. }), "{error:?}");
    assert!(!error.nothing_written());
    stream.call(put("2"), LONG).await.expect("reopened at once");
}

#[tokio::test]
async fn deadlines_are_kept_and_late_answers_dropped() {
    let fake = Fake::start(|kind| match key_number(&kind) {
        1 => Act::After(
            Duration::from_millis(400),
            response::Kind::Put(v1::PutResponse { revision: 1 }),
        ),
        2 => Act::Silence,
        number => Act::put(number),
    })
    .await;
    let stream = stream(&fake);
    // The connection stands: the deadlines are for requests that were sent.
    stream.call(put("0"), LONG).await.expect("answered");
    let short = Duration::from_millis(100);
    let (late, never) = tokio::join!(stream.call(put("1"), short), stream.call(put("2"), short));
    for error in [late.expect_err("late"), never.expect_err("never")] {
        assert!(
            matches!(error, Error::DeadlineExceeded { sent: true, .. }),
            "{error:?}"
        );
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    stream.call(put("3"), LONG).await.expect("still in order");
    for request in fake.seen() {
        assert!(request.timeout_ms > 0, "the node knows how long we wait");
    }
}

#[tokio::test]
async fn what_is_in_flight_is_bounded() {
    let fake = Fake::start(|_| Act::Silence).await;
    let options = StreamOptions {
        max_requests: 4,
        ..StreamOptions::default()
    };
    let stream = NodeStream::new(fake.address(), options).expect("a valid address");
    let short = Duration::from_millis(100);
    let calls = (0..10).map(|number: u64| stream.call(put(number.to_string()), short));
    let results = join_all(calls).await;
    let busy = results
        .iter()
        .filter(|result| matches!(result, Err(Error::Busy { .. })))
        .count();
    assert_eq!(busy, 6);
    let again = stream.call(put("11"), short).await;
    assert!(
        matches!(again, Err(Error::DeadlineExceeded { .. })),
        "finished requests give their share back: {again:?}"
    );
}

#[tokio::test]
async fn bytes_in_flight_are_bounded_but_one_large_request_passes() {
    let fake = Fake::start(|_| Act::put(1)).await;
    let options = StreamOptions {
        max_bytes: 1000,
        ..StreamOptions::default()
    };
    let stream = NodeStream::new(fake.address(), options).expect("a valid address");
    stream
        .call(put(vec![b'1'; 4000]), LONG)
        .await
        .expect("alone it passes");
    let (first, second) = tokio::join!(
        stream.call(put(vec![b'1'; 800]), LONG),
        stream.call(put(vec![b'1'; 800]), LONG)
    );
    first.expect("within the bound");
    assert!(matches!(second, Err(Error::Busy { .. })), "{second:?}");
}

#[tokio::test]
async fn a_large_backlog_is_cut_into_messages() {
    let fake = Fake::start(|_| Act::put(1)).await;
    let stream = stream(&fake);
    let calls = (0..8).map(|_| stream.call(put(vec![b'1'; 400_000]), LONG));
    for result in join_all(calls).await {
        result.expect("answered");
    }
    let messages = fake.messages();
    assert!(
        messages.iter().all(|count| *count <= 2),
        "no message is much larger than 1 MiB: {messages:?}"
    );
}

#[tokio::test]
async fn an_address_without_port_is_refused() {
    let error = NodeStream::new("localhost", StreamOptions::default()).expect_err("no port");
    assert!(error.to_string().contains("port"), "{error}");
}
