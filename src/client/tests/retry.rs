//! What is tried again, where, and what is not.

use std::time::Duration;

use bytes::Bytes;
use flotilla_proto::v1::{self, error::Code, request, response};
use flotilla_shards::ids::NodeId;
use tokio::net::TcpListener;

use super::{
    connect, descriptor,
    fake::{Act, Fake},
    node, patient, route,
};
use crate::client::{Client, Consistency, Error, Options, ScanOptions, WriteBatch};

/// A script that plays these acts in turn, the last one again and again.
fn acts(acts: Vec<fn() -> Act>) -> impl FnMut(request::Kind) -> Act + Send {
    let mut step = 0;
    move |_| {
        let act = acts[step.min(acts.len() - 1)];
        step += 1;
        act()
    }
}

fn found() -> Act {
    Act::Answer(response::Kind::Get(v1::GetResponse {
        value: Some("v".into()),
        revision: 3,
    }))
}

#[tokio::test]
async fn a_write_goes_on_until_an_error_leaves_its_fate_open() {
    let fake = Fake::start(acts(vec![
        || Act::error(Code::NotLeader),
        || Act::error(Code::Busy),
        || Act::error(Code::Unavailable),
        || Act::error(Code::ShuttingDown),
        || Act::put(8),
    ]))
    .await;
    let client = connect(&fake, patient()).await;
    assert_eq!(client.put("k", "v").await, Ok(8));
    assert_eq!(fake.seen().len(), 5);
}

#[tokio::test]
async fn a_write_without_session_is_not_sent_twice_once_it_may_have_been_written() {
    for fate in [
        (|| Act::error(Code::OutcomeUnknown)) as fn() -> Act,
        || Act::Break,
        || Act::error(Code::Internal),
        || {
            Act::Answer(response::Kind::Get(v1::GetResponse::default())) // not the answer to a write
        },
    ] {
        let fake = Fake::start(acts(vec![|| Act::error(Code::Busy), fate, || Act::put(1)])).await;
        let client = connect(&fake, patient()).await;
        let batch = WriteBatch::new().if_exists("k", false).put("k", "v");
        let error = client.batch(batch).await.expect_err("scripted");
        assert_eq!(fake.seen().len(), 2, "{error:?}");
        assert!(!error.nothing_written(), "{error:?}");
    }
}

#[tokio::test]
async fn a_write_that_gets_no_answer_ends_with_its_deadline() {
    let fake = Fake::start(|_| Act::Silence).await;
    let options = Options {
        timeout: Duration::from_secs(1),
        ..Options::default()
    };
    let client = connect(&fake, options).await;
    let error = client.put("k", "v").await.expect_err("scripted");
    assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error:?}");
    assert_eq!(fake.seen().len(), 1);
}

#[tokio::test]
async fn a_read_is_tried_again_after_whatever_may_pass() {
    let fake = Fake::start(acts(vec![
        || Act::Break,
        || Act::error(Code::OutcomeUnknown),
        || Act::Silence,
        found,
    ]))
    .await;
    let options = Options {
        try_timeout: Duration::from_millis(500),
        ..patient()
    };
    let client = connect(&fake, options).await;
    let value = client.get("k").await.expect("in the end").expect("found");
    assert_eq!((&value.value[..], value.revision), (&b"v"[..], 3));
    assert!(fake.seen().len() >= 4);
}

#[tokio::test]
async fn a_read_without_quorum_ends_within_the_deadline_and_says_why() {
    let fake = Fake::start(|_| Act::error(Code::Unavailable)).await;
    let options = Options {
        timeout: Duration::from_secs(1),
        ..Options::default()
    };
    let client = connect(&fake, options).await;
    let error = client.get("k").await.expect_err("scripted");
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    assert!(fake.seen().len() > 1);
}

#[tokio::test]
async fn a_refused_request_is_not_sent_again() {
    for code in [Code::InvalidArgument, Code::CrossShard] {
        let fake = Fake::start(move |_| Act::error(code)).await;
        let client = connect(&fake, patient()).await;
        let error = client.put("", "v").await.expect_err("scripted");
        assert!(error.nothing_written(), "{error:?}");
        assert_eq!(fake.seen().len(), 1);
    }
}

/// Two nodes, of which the first is taken for the leader of everything.
async fn two_nodes(first: fn(request::Kind) -> Act) -> (Fake, Fake) {
    let (first, second) = (Fake::start(first).await, Fake::start(|_| Act::put(2)).await);
    for fake in [&first, &second] {
        fake.set_routes(v1::RoutesResponse {
            routes: vec![route(2, "", "", 1, 1)],
            nodes: vec![node(1, first.address()), node(2, second.address())],
            ..v1::RoutesResponse::default()
        });
    }
    (first, second)
}

#[tokio::test]
async fn a_node_that_finds_no_leader_is_not_asked_for_ever() {
    let (first, _second) = two_nodes(|_| Act::error(Code::Unavailable)).await;
    let client = connect(&first, patient()).await;
    assert_eq!(client.put("k", "v").await, Ok(2));
}

#[tokio::test]
async fn a_node_that_hands_writes_to_a_leader_and_hears_no_more_of_them_is_not_asked_again() {
    let (first, second) = two_nodes(|_| Act::error(Code::OutcomeUnknown)).await;
    let client = connect(&first, patient()).await;
    first.set_routes(v1::RoutesResponse {
        routes: vec![route(2, "", "", 1, 2)],
        nodes: vec![node(1, first.address()), node(2, second.address())],
        ..v1::RoutesResponse::default()
    });
    let error = client.put("k", "v").await.expect_err("nobody knows");
    assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error:?}");
    // It need not be asked again for the client to learn who leads.
    while client.routes()[0].leader != Some(NodeId(2)) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for _ in 0..5 {
        assert_eq!(client.put("k", "v").await, Ok(2));
    }
    assert_eq!((first.seen().len(), second.seen().len()), (1, 5));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_has_fallen_silent_is_asked_last_until_it_speaks_again() {
    let (first, second) = two_nodes(|_| {
        Act::After(
            Duration::from_secs(2),
            response::Kind::Put(v1::PutResponse { revision: 1 }),
        )
    })
    .await;
    let options = Options {
        timeout: Duration::from_millis(300),
        ..Options::default()
    };
    let client = connect(&first, options).await;
    let error = client.put("k", "v").await.expect_err("it is silent");
    assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error:?}");
    for _ in 0..10 {
        assert_eq!(client.put("k", "v").await, Ok(2));
    }
    assert_eq!((first.seen().len(), second.seen().len()), (1, 10));
    tokio::time::sleep(Duration::from_secs(2)).await;
    for _ in 0..2 {
        let _in_time_or_not = client.put("k", "v").await;
    }
    assert_eq!(first.seen().len(), 2, "its late answer has been heard");
}

#[tokio::test]
async fn requests_follow_the_leader() {
    let second = Fake::start(|_| Act::put(2)).await;
    let first = Fake::start(|_| {
        Act::Answer(response::Kind::Error(v1::Error {
            code: Code::NotLeader.into(),
            leader: 2,
            ..v1::Error::default()
        }))
    })
    .await;
    first.set_routes(v1::RoutesResponse {
        routes: vec![route(2, "", "", 1, 1)],
        nodes: vec![node(1, first.address()), node(2, second.address())],
        ..v1::RoutesResponse::default()
    });
    let client = connect(&first, patient()).await;
    for _ in 0..3 {
        assert_eq!(client.put("k", "v").await, Ok(2));
    }
    assert_eq!((first.seen().len(), second.seen().len()), (1, 3));
}

#[tokio::test]
async fn requests_find_a_way_around_a_dead_leader() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let dead = listener.local_addr().expect("bound").to_string();
    drop(listener);
    let alive = Fake::start(|_| Act::put(2)).await;
    alive.set_routes(v1::RoutesResponse {
        routes: vec![route(2, "", "", 1, 7)],
        nodes: vec![node(7, dead), node(8, alive.address())],
        ..v1::RoutesResponse::default()
    });
    let client = connect(&alive, patient()).await;
    for _ in 0..3 {
        assert_eq!(client.put("k", "v").await, Ok(2));
    }
}

#[tokio::test]
async fn any_endpoint_will_do() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let dead = listener.local_addr().expect("bound").to_string();
    drop(listener);
    let error = Client::connect([dead.clone()], patient())
        .await
        .expect_err("nobody listens");
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    let alive = Fake::start(|_| Act::put(2)).await;
    let client = Client::connect([dead, alive.address()], patient())
        .await
        .expect("one answers");
    assert_eq!(client.put("k", "v").await, Ok(2));
}

#[tokio::test]
async fn a_newer_descriptor_mends_the_routes() {
    let fake = Fake::start(acts(vec![
        || {
            Act::Answer(response::Kind::Error(v1::Error {
                code: Code::EpochMismatch.into(),
                descriptor: Some(descriptor(2, "", "m", 2)),
                ..v1::Error::default()
            }))
        },
        || Act::put(4),
    ]))
    .await;
    fake.set_routes(v1::RoutesResponse {
        routes: vec![route(2, "", "", 1, 1)],
        nodes: vec![node(1, fake.address())],
        ..v1::RoutesResponse::default()
    });
    let client = connect(&fake, patient()).await;
    assert_eq!(client.put("k", "v").await, Ok(4));
    let routes = client.routes();
    assert_eq!(routes.len(), 1);
    assert_eq!(routes[0].descriptor.range.end(), &Bytes::from("m"));
}

#[tokio::test]
async fn many_keys_are_asked_of_their_shards() {
    let fake = Fake::start(|kind| {
        let request::Kind::BatchGet(get) = kind else {
            panic!("not a batch get: {kind:?}");
        };
        // Every key is its own value; "gone" does not exist.
        let result = |key: Bytes| v1::GetResponse {
            value: (key != "gone").then_some(key),
            revision: 1,
        };
        Act::Answer(response::Kind::BatchGet(v1::BatchGetResponse {
            results: get.keys.into_iter().map(result).collect(),
        }))
    })
    .await;
    fake.set_routes(v1::RoutesResponse {
        routes: vec![route(2, "", "m", 1, 1), route(3, "m", "", 1, 1)],
        nodes: vec![node(1, fake.address())],
        ..v1::RoutesResponse::default()
    });
    let client = connect(&fake, patient()).await;
    let keys = ["z", "a", "gone", "y"].map(Bytes::from);
    let values = client
        .batch_get(&keys, Consistency::Linearizable)
        .await
        .expect("answered");
    let values: Vec<_> = values
        .into_iter()
        .map(|value| value.map(|value| value.value))
        .collect();
    let expected = [Some("z"), Some("a"), None, Some("y")].map(|key| key.map(Bytes::from));
    assert_eq!(values, expected);
    assert_eq!(fake.seen().len(), 2, "one request per shard");
}

/// A node that holds a, b, c, d and gives pages of at most two rows, and of none at the border of a shard.
fn pages(kind: request::Kind) -> Act {
    let request::Kind::Scan(scan) = kind else {
        panic!("not a scan: {kind:?}");
    };
    let mut keys: Vec<&'static str> = ["a", "b", "c", "d"]
        .into_iter()
        .filter(|key| {
            key.as_bytes() >= &scan.start[..]
                && (scan.end.is_empty() || key.as_bytes() < &scan.end[..])
        })
        .collect();
    if scan.reverse {
        keys.reverse();
    }
    let limit = match scan.limit {
        0 => 2,
        limit => limit.min(2) as usize,
    };
    let more = keys.len() > limit;
    keys.truncate(limit);
    let next = match (more, scan.reverse) {
        (true, false) => keys.last().map(|key| format!("{key}\0").into()),
        (true, true) => keys.last().map(|key| (*key).into()),
        (false, _) => None,
    };
    let row = |key: &str| v1::Row {
        key: Bytes::copy_from_slice(key.as_bytes()),
        ..v1::Row::default()
    };
    Act::Answer(response::Kind::Scan(v1::ScanResponse {
        rows: keys.into_iter().map(row).collect(),
        next,
    }))
}

async fn scan(client: &Client, options: ScanOptions) -> Vec<Bytes> {
    let mut scan = client.scan(options);
    let mut keys = Vec::new();
    while let Some(page) = scan.next_page().await.expect("answered") {
        assert!(!page.is_empty());
        keys.extend(page.into_iter().map(|row| row.key));
    }
    keys
}

#[tokio::test]
async fn a_scan_goes_from_page_to_page() {
    let fake = Fake::start(pages).await;
    let client = connect(&fake, patient()).await;
    let all = ScanOptions::default();
    assert_eq!(scan(&client, all.clone()).await, ["a", "b", "c", "d"]);
    let reverse = ScanOptions {
        reverse: true,
        ..all.clone()
    };
    assert_eq!(scan(&client, reverse).await, ["d", "c", "b", "a"]);
    let limited = ScanOptions {
        limit: Some(3),
        ..all.clone()
    };
    assert_eq!(scan(&client, limited).await, ["a", "b", "c"]);
    let part = ScanOptions {
        start: "b".into(),
        end: "d".into(),
        ..all.clone()
    };
    assert_eq!(scan(&client, part).await, ["b", "c"]);
    let before = fake.seen().len();
    let nothing = ScanOptions {
        limit: Some(0),
        ..all
    };
    assert!(scan(&client, nothing).await.is_empty());
    assert_eq!(fake.seen().len(), before, "nothing is asked for nothing");
}

#[tokio::test]
async fn a_scan_that_stands_still_is_an_error() {
    let fake = Fake::start(|_| {
        Act::Answer(response::Kind::Scan(v1::ScanResponse {
            rows: Vec::new(),
            next: Some("a".into()),
        }))
    })
    .await;
    let client = connect(&fake, patient()).await;
    let mut scan = client.scan(ScanOptions {
        start: "a".into(),
        ..ScanOptions::default()
    });
    let error = scan.next_page().await.expect_err("no progress");
    assert!(matches!(error, Error::Protocol { .. }), "{error:?}");
}

#[tokio::test]
async fn calls_in_flight_wait_for_their_turn() {
    let fake = Fake::start(|_| Act::Silence).await;
    let options = Options {
        max_in_flight: 1,
        ..patient()
    };
    let client = connect(&fake, options).await;
    let seen = async |count| {
        while fake.seen().len() < count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let mut first = Box::pin(client.put("a", "1"));
    let mut second = Box::pin(client.put("b", "2"));
    tokio::select! {
        biased;
        _ = &mut first => panic!("nobody answers"),
        () = seen(1) => {}
    }
    tokio::select! {
        biased;
        _ = &mut second => panic!("nobody answers"),
        () = tokio::time::sleep(Duration::from_millis(50)) => {}
    }
    assert_eq!(fake.seen().len(), 1, "the first one has the only place");
    drop(first);
    tokio::select! {
        biased;
        _ = &mut second => panic!("nobody answers"),
        () = seen(2) => {}
    }
}

#[tokio::test]
async fn a_node_that_has_more_and_more_routes_is_not_listened_to_for_ever() {
    let fake = Fake::start(|_| Act::put(1)).await;
    let routes = |count: u64| v1::RoutesResponse {
        routes: (2..2 + count).map(|id| route(id, "", "", 1, 1)).collect(),
        nodes: vec![node(1, fake.address())],
        ..v1::RoutesResponse::default()
    };
    // The fake tells one on each page.
    fake.set_routes(routes(128));
    connect(&fake, patient()).await;
    fake.set_routes(routes(129));
    let refused = Client::connect([fake.address()], patient()).await;
    let error = refused.expect_err("one page too many");
    assert!(matches!(error, Error::Protocol { .. }), "{error:?}");
}
