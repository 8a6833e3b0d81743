//! Many requests on one stream.

use std::{collections::BTreeMap, time::Duration};

use flotilla_proto::v1::{self as proto, error::Code, request, response};
use flotilla_shards::{engine::Refused, ids::NodeId};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::super::ServiceOptions;
use super::fake::{Act, Bounds, Node, cluster, single};
use crate::runtime::Answer;

const PATIENCE: Duration = Duration::from_secs(20);

struct Client {
    requests: mpsc::Sender<proto::StreamRequest>,
    answers: Streaming<proto::StreamResponse>,
}

impl Client {
    async fn open(node: &Node) -> Self {
        let (requests, messages) = mpsc::channel(16);
        let answers = node.kv().await.stream(ReceiverStream::new(messages)).await;
        Self {
            requests,
            answers: answers.expect("a stream").into_inner(),
        }
    }

    async fn send(&self, requests: Vec<proto::Request>) {
        let message = proto::StreamRequest { requests };
        self.requests
            .send(message)
            .await
            .expect("the stream is open");
    }

    /// The next message's answers, by id.
    async fn next(&mut self) -> Option<Vec<(u64, response::Kind)>> {
        let message = tokio::time::timeout(PATIENCE, self.answers.message())
            .await
            .expect("an answer in time")
            .expect("no error")?;
        let answers = message.responses.into_iter();
        Some(answers.map(|a| (a.id, a.kind.expect("a kind"))).collect())
    }

    /// So many answers, by id.
    async fn collect(&mut self, count: usize) -> BTreeMap<u64, response::Kind> {
        let mut all = BTreeMap::new();
        while all.len() < count {
            all.extend(self.next().await.expect("more answers"));
        }
        assert_eq!(all.len(), count);
        all
    }
}

fn of(id: u64, kind: request::Kind) -> proto::Request {
    proto::Request {
        id,
        kind: Some(kind),
        ..proto::Request::default()
    }
}

fn put(id: u64, key: &str) -> proto::Request {
    let put = proto::PutRequest {
        key: key.to_owned().into(),
        value: format!("value of {key}").into(),
        session: None,
    };
    of(id, request::Kind::Put(put))
}

fn get(id: u64, key: &str) -> proto::Request {
    let get = proto::GetRequest {
        key: key.to_owned().into(),
        consistency: 0,
    };
    of(id, request::Kind::Get(get))
}

fn code(kind: &response::Kind) -> Option<Code> {
    match kind {
        response::Kind::Error(error) => Some(error.code()),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_kinds_are_answered_under_their_ids() {
    let node = single(Bounds::default()).await;
    let mut client = Client::open(&node).await;
    client
        .send((0..100).map(|id| put(id, &format!("k{id:03}"))).collect())
        .await;
    let answers = client.collect(100).await;
    assert!(
        answers
            .values()
            .all(|kind| matches!(kind, response::Kind::Put(_)))
    );

    client
        .send((0..100).map(|id| get(id, &format!("k{id:03}"))).collect())
        .await;
    for (id, kind) in client.collect(100).await {
        let response::Kind::Get(got) = kind else {
            panic!("{kind:?}");
        };
        assert_eq!(got.value, Some(format!("value of k{id:03}").into()));
    }

    let scan = request::Kind::Scan(proto::ScanRequest::default());
    let batch_get = request::Kind::BatchGet(proto::BatchGetRequest {
        keys: vec!["k001".into(), "z".into()],
        consistency: 0,
    });
    let delete = request::Kind::Delete(proto::DeleteRequest {
        key: "nothing".into(),
        session: None,
    });
    client
        .send(vec![
            of(1, scan),
            of(2, batch_get),
            of(3, delete),
            proto::Request {
                id: 4,
                ..Default::default()
            },
        ])
        .await;
    let answers = client.collect(4).await;
    let response::Kind::Scan(page) = &answers[&1] else {
        panic!("{answers:?}");
    };
    assert_eq!(page.rows.len(), 100);
    assert!(matches!(&answers[&2], response::Kind::BatchGet(got) if got.results.len() == 2));
    assert!(matches!(&answers[&3], response::Kind::Delete(deleted) if !deleted.deleted));
    assert_eq!(code(&answers[&4]), Some(Code::InvalidArgument));

    // The client closes its side: what is in flight is answered, then the stream ends.
    client.send(vec![put(9, "last")]).await;
    let Client { requests, answers } = client;
    drop(requests);
    let mut rest = Client {
        requests: mpsc::channel(1).0,
        answers,
    };
    assert_eq!(rest.collect(1).await.len(), 1);
    assert!(rest.next().await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_request_holds_up_no_other() {
    let node = single(Bounds::default()).await;
    let mut client = Client::open(&node).await;
    node.machine.script([Act::Keep]);
    client.send(vec![put(1, "slow"), put(2, "fast")]).await;
    assert_eq!(client.collect(1).await.into_keys().collect::<Vec<_>>(), [2]);
    node.machine.release(|| {
        let write = proto::WriteAnswer {
            succeeded: true,
            revision: 99,
            ..proto::WriteAnswer::default()
        };
        Ok(Answer::Write(proto::CommandAnswer {
            kind: Some(proto::command_answer::Kind::Write(write)),
        }))
    });
    let answers = client.collect(1).await;
    assert!(matches!(&answers[&1], response::Kind::Put(put) if put.revision == 99));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_request_keeps_its_own_deadline() {
    let node = single(Bounds::default()).await;
    let mut client = Client::open(&node).await;
    node.machine.script([Act::Keep, Act::Keep, Act::Drop]);
    let short = |request| proto::Request {
        timeout_ms: 50,
        ..request
    };
    client
        .send(vec![
            short(put(1, "a")),
            short(get(2, "a")),
            short(get(3, "a")),
        ])
        .await;
    let answers = client.collect(3).await;
    assert_eq!(code(&answers[&1]), Some(Code::OutcomeUnknown));
    assert_eq!(code(&answers[&2]), Some(Code::Unavailable));
    assert_eq!(code(&answers[&3]), Some(Code::ShuttingDown));

    // A late word of the engine is nobody's.
    node.machine.release(|| Err(Refused::OutcomeUnknown));
    client.send(vec![put(4, "a")]).await;
    assert_eq!(client.collect(1).await.into_keys().collect::<Vec<_>>(), [4]);
    assert_eq!(
        node.services()
            .requests
            .load(std::sync::atomic::Ordering::Relaxed),
        0
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_held_retried_and_forwarded_on_a_stream_too() {
    let nodes = cluster(3, 3, Bounds::default()).await;
    for node in &nodes {
        node.leader(3, Some(2));
    }
    let mut client = Client::open(&nodes[0]).await;
    // Shard 2 has no leader yet, shard 3 is led elsewhere.
    client
        .send(vec![put(1, "a"), put(2, "z"), get(3, "z")])
        .await;
    let answers = client.collect(2).await;
    assert!(matches!(answers[&2], response::Kind::Put(_)), "{answers:?}");
    // Node 1 is chosen, and loses its office before it has done anything.
    nodes[0]
        .machine
        .script((0..1000).map(|_| Act::Refuse(Refused::NotLeader { leader: None })));
    nodes[0].leader(2, Some(1));
    while nodes[0].machine.submitted() < 2 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    for node in &nodes {
        node.leader(2, Some(3));
    }
    let answers = client.collect(1).await;
    assert!(matches!(answers[&1], response::Kind::Put(_)), "{answers:?}");
    assert_eq!(nodes[2].machine.submitted(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_works_on_a_bounded_number_of_requests() {
    let options = ServiceOptions {
        max_stream_requests: 4,
        ..ServiceOptions::default()
    };
    let bounds = Bounds {
        options,
        ..Bounds::default()
    };
    let node = single(bounds).await;
    let mut client = Client::open(&node).await;
    node.machine.script((0..4).map(|_| Act::Keep));
    client.send((0..50).map(|id| put(id, "a")).collect()).await;
    while node.machine.kept() < 4 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(node.machine.submitted(), 4, "the others wait");
    node.machine.release(|| {
        Err(Refused::NotLeader {
            leader: Some(NodeId(1)),
        })
    });
    let answers = client.collect(50).await;
    assert!(
        answers
            .values()
            .all(|kind| matches!(kind, response::Kind::Put(_)))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_node_answers_what_it_has_and_refuses_more() {
    let node = single(Bounds::default()).await;
    let mut client = Client::open(&node).await;
    node.machine.script([Act::Keep]);
    client.send(vec![put(1, "a")]).await;
    while node.machine.kept() == 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    node.services().gate.close();
    client.send(vec![put(2, "a")]).await;
    let answers = client.collect(1).await;
    assert_eq!(code(&answers[&2]), Some(Code::ShuttingDown));
    node.machine.release(|| Err(Refused::Busy));
    let answers = client.collect(1).await;
    assert_eq!(code(&answers[&1]), Some(Code::Busy));
    let drained = node.services().gate.drain(PATIENCE).await;
    assert!(drained.is_ok(), "{drained:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_server_ends_its_streams_once_they_are_answered() {
    let mut node = single(Bounds::default()).await;
    let mut client = Client::open(&node).await;
    node.machine.script([Act::Keep]);
    client.send(vec![put(1, "a")]).await;
    while node.machine.kept() == 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let machine = std::sync::Arc::clone(&node.machine);
    let stopped = node.stop();
    let answered = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        client.send(vec![put(2, "b")]).await;
        machine.release(|| Err(Refused::Busy));
        let answers = client.collect(1).await;
        assert_eq!(code(&answers[&1]), Some(Code::Busy));
        // Too late: nobody takes it in any more.
        let last = tokio::time::timeout(PATIENCE, client.answers.message()).await;
        let last = last.expect("in time").expect("no error").expect("a word");
        assert_eq!((last.responses.len(), last.taken_in), (0, Some(1)));
        assert!(client.next().await.is_none());
    };
    tokio::join!(stopped, answered);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_answers_are_cut_into_messages() {
    let node = single(Bounds::default()).await;
    let mut client = Client::open(&node).await;
    let big = proto::PutRequest {
        key: "big".into(),
        value: vec![1; 600 << 10].into(),
        session: None,
    };
    client.send(vec![of(1, request::Kind::Put(big))]).await;
    client.collect(1).await;
    client
        .send((0..10).map(|id| get(id, "big")).collect())
        .await;
    let mut seen = 0;
    while seen < 10 {
        let message = client.next().await.expect("more");
        assert!(
            message.len() <= 2,
            "{} answers of 600 KiB in one message",
            message.len()
        );
        seen += message.len();
    }
}
