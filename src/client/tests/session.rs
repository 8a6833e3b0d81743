//! Exactly-once writes when answers are lost and sessions are forgotten.

use std::collections::BTreeMap;

use flotilla_proto::v1::{self, SessionRef, error::Code, request, response};

use super::{
    connect,
    fake::{Act, Fake},
    node, patient, route,
};
use crate::client::Error;

/// Opens sessions with numbers from 101; `put` answers the puts, which are counted from 1.
fn script(
    mut put: impl FnMut(u64, &v1::PutRequest) -> Act + Send + 'static,
) -> impl FnMut(request::Kind) -> Act + Send + 'static {
    let mut opened = 100;
    let mut puts = 0;
    move |kind| match kind {
        request::Kind::OpenSession(_) => {
            opened += 1;
            Act::Answer(response::Kind::OpenSession(v1::OpenSessionResponse {
                shard_id: 2,
                number: opened,
            }))
        }
        request::Kind::Put(request) => {
            puts += 1;
            put(puts, &request)
        }
        request::Kind::CloseSession(_) => Act::Answer(response::Kind::CloseSession(
            v1::CloseSessionResponse::default(),
        )),
        kind => panic!("unexpected {kind:?}"),
    }
}

/// The sessions of all puts that came, in order.
fn sessions(fake: &Fake) -> Vec<SessionRef> {
    fake.seen()
        .into_iter()
        .filter_map(|request| match request.kind {
            Some(request::Kind::Put(put)) => Some(put.session.expect("in a session")),
            _ => None,
        })
        .collect()
}

fn reference(number: u64, sequence: u64, lowest_unacknowledged: u64) -> SessionRef {
    SessionRef {
        shard_id: 2,
        number,
        sequence,
        lowest_unacknowledged,
    }
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_under_the_same_sequence() {
    let fake = Fake::start(script(|count, _| match count {
        1 => Act::Break,
        2 => Act::error(Code::OutcomeUnknown),
        3 => Act::error(Code::NotLeader),
        _ => Act::put(9),
    }))
    .await;
    let session = connect(&fake, patient()).await.session();
    assert_eq!(session.put("k", "v").await, Ok(9));
    assert_eq!(sessions(&fake), [reference(101, 1, 1); 4]);
}

#[tokio::test]
async fn sequences_ascend_and_tell_what_is_acknowledged() {
    let fake = Fake::start(script(|count, _| Act::put(count))).await;
    let session = connect(&fake, patient()).await.session();
    for _ in 0..3 {
        session.put("k", "v").await.expect("scripted");
    }
    let expected = [1, 2, 3].map(|sequence| reference(101, sequence, sequence));
    assert_eq!(sessions(&fake), expected);
}

#[tokio::test]
async fn a_write_without_answer_keeps_later_ones_from_passing_it_as_acknowledged() {
    let fake = Fake::start(script(|_, put| match &put.key[..] {
        b"slow" => Act::Silence,
        _ => Act::put(1),
    }))
    .await;
    let session = connect(&fake, patient()).await.session();
    session.put("first", "v").await.expect("scripted");
    let mut slow = Box::pin(session.put("slow", "v"));
    tokio::select! {
        biased;
        _ = &mut slow => panic!("nobody answers"),
        () = async {
            while sessions(&fake).len() < 2 {
                tokio::task::yield_now().await;
            }
        } => {}
    }
    session.put("fast", "v").await.expect("scripted");
    assert_eq!(sessions(&fake)[1], reference(101, 2, 2));
    assert_eq!(sessions(&fake)[2], reference(101, 3, 2));
    drop(slow); // its caller has given up: nobody will ask for the answer
    session.put("last", "v").await.expect("scripted");
    assert_eq!(sessions(&fake)[3], reference(101, 4, 4));
}

#[tokio::test]
async fn a_forgotten_session_is_replaced_if_nothing_can_have_been_written() {
    let fake = Fake::start(script(|count, _| match count {
        2 => Act::error(Code::SessionUnknown),
        _ => Act::put(count),
    }))
    .await;
    let session = connect(&fake, patient()).await.session();
    session.put("k", "1").await.expect("scripted");
    assert_eq!(session.put("k", "2").await, Ok(3));
    assert_eq!(
        sessions(&fake),
        [
            reference(101, 1, 1),
            reference(101, 2, 2),
            reference(102, 1, 1)
        ]
    );
}

#[tokio::test]
async fn a_session_forgotten_between_two_tries_leaves_the_outcome_open() {
    let fake = Fake::start(script(|count, _| match count {
        1 => Act::error(Code::OutcomeUnknown),
        _ => Act::error(Code::SessionUnknown),
    }))
    .await;
    let session = connect(&fake, patient()).await.session();
    let error = session.put("k", "v").await.expect_err("scripted");
    assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error:?}");
    assert_eq!(
        sessions(&fake),
        [reference(101, 1, 1); 2],
        "never under a new session"
    );
}

#[tokio::test]
async fn each_shard_has_a_session_of_its_own_and_each_is_closed() {
    let mut opened = BTreeMap::new();
    let fake = Fake::start(move |kind| match kind {
        request::Kind::OpenSession(open) => {
            let shard_id = if open.key < "m" { 2 } else { 3 };
            let count = opened.entry(shard_id).or_insert(0);
            *count += 1;
            Act::Answer(response::Kind::OpenSession(v1::OpenSessionResponse {
                shard_id,
                number: *count,
            }))
        }
        request::Kind::Put(put) => Act::put(put.session.expect("in a session").shard_id),
        request::Kind::CloseSession(_) => Act::Answer(response::Kind::CloseSession(
            v1::CloseSessionResponse::default(),
        )),
        kind => panic!("unexpected {kind:?}"),
    })
    .await;
    fake.set_routes(v1::RoutesResponse {
        routes: vec![route(2, "", "m", 1, 1), route(3, "m", "", 1, 1)],
        nodes: vec![node(1, fake.address())],
        ..v1::RoutesResponse::default()
    });
    let session = connect(&fake, patient()).await.session();
    for (key, shard) in [("a", 2), ("z", 3), ("b", 2), ("y", 3)] {
        assert_eq!(session.put(key, "v").await, Ok(shard));
    }
    session.close().await.expect("scripted");
    let seen = fake.seen();
    let opens = seen
        .iter()
        .filter(|request| matches!(request.kind, Some(request::Kind::OpenSession(_))));
    assert_eq!(opens.count(), 2);
    let mut closed: Vec<u64> = seen
        .iter()
        .filter_map(|request| match &request.kind {
            Some(request::Kind::CloseSession(close)) => Some(close.shard_id),
            _ => None,
        })
        .collect();
    closed.sort_unstable();
    assert_eq!(closed, [2, 3]);
}

#[tokio::test]
async fn concurrent_first_writes_open_one_session() {
    let fake = Fake::start(script(|count, _| Act::put(count))).await;
    let session = connect(&fake, patient()).await.session();
    let writes = (0..50).map(|number: u64| session.put(number.to_string(), "v"));
    for result in futures_util::future::join_all(writes).await {
        result.expect("scripted");
    }
    let mut seen = sessions(&fake);
    assert!(seen.iter().all(|session| session.number == 101));
    seen.sort_unstable_by_key(|session| session.sequence);
    let sequences: Vec<u64> = seen.iter().map(|session| session.sequence).collect();
    assert_eq!(sequences, (1..=50).collect::<Vec<_>>());
}
