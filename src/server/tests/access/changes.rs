//! What becomes of callers when the tables change, and of the tables when callers change them.

use std::collections::BTreeSet;

use flotilla_proto::v1::{
    self as proto, change_access_request::Change, error::Code, request, response,
};
use flotilla_shards::access::{Row, User, tables::Tables};
use tonic::Status;

use super::super::super::access::AccessOptions;
use super::super::fake::{Bounds, Node, cluster, detail, single};
use super::{Guarded, Verdict, of_answer};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_loses_its_rights_with_its_token() {
    let guarded = Guarded::new().await;
    let (requests, messages) = tokio::sync::mpsc::channel(4);
    let messages = tokio_stream::wrappers::ReceiverStream::new(messages);
    let opened = guarded.request("reader", messages);
    let answers = guarded.node.kv().await.stream(opened).await;
    let mut answers = answers.expect("a stream").into_inner();
    let mut ask = async || {
        let get = request::Kind::Get(proto::GetRequest {
            key: "app/x".into(),
            consistency: 0,
        });
        let request = proto::Request {
            kind: Some(get),
            ..proto::Request::default()
        };
        let message = proto::StreamRequest {
            requests: vec![request],
        };
        requests.send(message).await.expect("the stream is open");
        let answer = answers
            .message()
            .await
            .expect("no error")
            .expect("an answer");
        of_answer(answer.responses[0].kind.as_ref().expect("a kind"))
    };
    assert_eq!(ask().await, Verdict::Through);
    let without = |reader: &str| {
        let rows = guarded.tables.rows().map(|row| match row {
            Row::User(user) if user.name == "reader" => Row::User(User {
                roles: if reader == "role" { vec![] } else { user.roles },
                tokens: if reader == "token" {
                    vec![]
                } else {
                    user.tokens
                },
                name: user.name,
            }),
            row => row,
        });
        guarded.node.services().access.set(Tables::new(rows));
    };
    without("role");
    assert_eq!(ask().await, Verdict::Denied);
    without("token");
    assert_eq!(ask().await, Verdict::WhoAreYou);
    guarded.node.services().access.set(Tables::default());
    assert_eq!(ask().await, Verdict::Through, "nobody is asked any more");
    without("nothing");
    assert_eq!(ask().await, Verdict::Through);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_is_no_node_whatever_it_says() {
    let guarded = Guarded::new().await;
    let get = |meta, forwarded| proto::StreamRequest {
        requests: vec![proto::Request {
            kind: Some(request::Kind::Get(proto::GetRequest {
                key: "access/policy".into(),
                consistency: 1,
            })),
            meta,
            forwarded,
            ..proto::Request::default()
        }],
    };
    let first = |message: Option<proto::StreamResponse>| {
        let answer = message.expect("a message").responses.remove(0);
        answer.kind.expect("a kind")
    };
    for (caller, meta, code) in [
        ("nobody", false, Code::Unauthenticated),
        ("reader", false, Code::PermissionDenied),
        ("root", true, Code::InvalidArgument),
    ] {
        let messages = tokio_stream::iter([get(meta, true)]);
        let request = guarded.request(caller, messages);
        let answers = guarded.node.kv().await.stream(request).await;
        let answer = first(
            answers
                .expect("a stream")
                .into_inner()
                .message()
                .await
                .expect("no error"),
        );
        let response::Kind::Error(error) = answer else {
            panic!("{caller}: {answer:?}");
        };
        assert_eq!(error.code(), code, "{caller}: {}", error.message);
    }
    // At the service of nodes both are taken.
    for meta in [false, true] {
        let answers = guarded
            .node
            .peer()
            .await
            .forward(tokio_stream::iter([get(meta, true)]))
            .await;
        let answer = first(
            answers
                .expect("a stream")
                .into_inner()
                .message()
                .await
                .expect("no error"),
        );
        assert_eq!(of_answer(&answer), Verdict::Through);
        assert!(matches!(answer, response::Kind::Get(_)), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_does_not_know_who_may_do_what_lets_nobody_in() {
    let bounds = |max_age| Bounds {
        access: AccessOptions {
            max_age,
            ..AccessOptions::default()
        },
        ..Bounds::default()
    };
    let get = proto::GetRequest {
        key: "k".into(),
        consistency: 1,
    };
    let node = single(bounds(std::time::Duration::from_secs(300))).await;
    let status = node
        .kv()
        .await
        .get(get.clone())
        .await
        .expect_err("it has just started");
    assert_eq!(detail(&status).code(), Code::Unavailable);
    assert!(status.message().contains("has just started"), "{status}");
    node.services().access.set(Tables::default());
    node.kv().await.get(get).await.expect("nothing is enforced");

    let guarded = Guarded::new().await;
    let node = single(bounds(std::time::Duration::ZERO)).await;
    node.services().access.set(guarded.tables.clone());
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    let get = guarded.request("root", proto::GetRequest::default());
    let status = node
        .kv()
        .await
        .get(get)
        .await
        .expect_err("the tables are too old");
    assert!(status.message().contains("could not confirm"), "{status}");
}

/// A change of the access tables that is made through one node.
async fn change(node: &Node, change: Change) -> Result<u64, Status> {
    let request = proto::ChangeAccessRequest {
        change: Some(change),
    };
    let changed = node.admin().await.change_access(request).await?;
    Ok(changed.into_inner().changes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_go_to_the_meta_shard_from_any_node_and_follow_each_other() {
    // Node 2 leads the meta shard and is the only one with a machine that is asked.
    let nodes = cluster(3, 1, Bounds::default()).await;
    let holder = nodes.iter().position(|node| {
        let meta = node
            .router()
            .by_id(flotilla_shards::ids::ShardId::META)
            .expect("a route");
        meta.descriptor.replica_on(node.id).is_some()
    });
    let holder = holder.expect("somebody has the meta shard");
    for node in &nodes {
        node.leader(1, Some(nodes[holder].id.0));
    }
    let other = &nodes[(holder + 1) % 3];
    let role = |name: &str| Change::CreateRole(proto::CreateRole { name: name.into() });
    assert_eq!(change(other, role("a")).await.expect("it is made"), 1);
    // A dozen at once, through all nodes.
    let names: Vec<String> = (0..6).map(|number| format!("role-{number}")).collect();
    let changes = names.iter().zip(nodes.iter().cycle());
    let changes = changes.map(|(name, node)| change(node, role(name)));
    let made = futures_util::future::join_all(changes).await;
    let made: BTreeSet<u64> = made
        .into_iter()
        .map(|made| made.expect("it is made"))
        .collect();
    assert_eq!(made, (2..=7).collect(), "each change has its number");
    let shown = nodes[holder]
        .admin()
        .await
        .show_access(proto::ShowAccessRequest {})
        .await;
    let shown = shown.expect("shown").into_inner();
    assert_eq!(
        (shown.roles.len(), shown.changes, shown.enforced),
        (7, 7, false)
    );

    // What makes no sense is refused with a reason, and changes nothing.
    let again = change(other, role("a")).await.expect_err("it exists");
    assert!(again.message().contains("role a exists already"), "{again}");
    let assign = Change::AssignRole(proto::AssignRole {
        user: "bob".into(),
        role: "a".into(),
    });
    let missing = change(other, assign).await.expect_err("there is no bob");
    assert!(
        missing.message().contains("user bob does not exist"),
        "{missing}"
    );
    let shown = nodes[holder]
        .admin()
        .await
        .show_access(proto::ShowAccessRequest {})
        .await;
    assert_eq!(shown.expect("shown").into_inner().changes, 7);
}
