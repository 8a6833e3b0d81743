//! Bytes and requests that nobody should send: the node lives on, everybody else is served, and what can be answered is
//! answered with what was wrong.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::http::uri::PathAndQuery;
use bytes::{Buf as _, BufMut as _, Bytes};
use flotilla::client::Error;
use flotilla_proto::v1::{
    self, admin_client::AdminClient, condition, operation, peer_client::PeerClient, request,
};
use tonic::{
    Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::{Channel, Endpoint},
};

use flotilla_harness::{Cluster, Plan, Split, get, put, value};

const TIMEOUT: Duration = Duration::from_secs(30);

fn cluster() -> Cluster {
    Cluster::start(Plan {
        split: Split::At(vec!["m".to_owned()]),
        ..Plan::default()
    })
}

/// Runs something while a well-behaved client writes and reads, which must not notice.
pub(crate) fn unnoticed(cluster: &Cluster, hostile: impl FnOnce(&Cluster)) {
    let client = cluster.client(Default::default());
    let stop = Arc::<AtomicBool>::default();
    let stopped = Arc::clone(&stop);
    let user = cluster.spawn(async move {
        let mut number = 0_u64;
        while !stopped.load(Ordering::Relaxed) {
            let (key, value) = (format!("{}", number % 100), number.to_string());
            client.put(key.clone(), value.clone()).await?;
            let found = client.get(key).await?.map(|found| found.value);
            assert_eq!(found, Some(Bytes::from(value)));
            number += 1;
        }
        Ok::<_, Error>(number)
    });
    hostile(cluster);
    stop.store(true, Ordering::Relaxed);
    let done = cluster.block_on(user).expect("no panic");
    assert!(done.expect("others are served as ever") > 0);
    for node in 0..cluster.len() {
        let log = cluster.logged(node);
        assert!(
            cluster.status(node).is_some() && !log.contains("panicked"),
            "{log}"
        );
    }
}

#[test]
fn garbage_on_every_port_hurts_nobody() {
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let cluster = cluster();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    unnoticed(&cluster, |cluster| {
        let ports = [
            cluster.address(0),
            cluster.peer_address(0),
            cluster.status_address(0).to_string(),
        ];
        for round in 0..90 {
            let mut garbage = match round % 4 {
                0 => Vec::new(),
                1 => preface.to_vec(),
                // A client that wants TLS.
                2 => vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3],
                _ => b"GET / HTTP/1.1\r\n".to_vec(),
            };
            garbage.extend((0..random.usize(1..4096)).map(|_| random.u8(..)));
            let mut stream = TcpStream::connect(&ports[round % 3]).expect("the port is open");
            stream
                .set_read_timeout(Some(Duration::from_millis(50)))
                .expect("a timeout");
            // The node may end the connection at any moment.
            let _ = stream.write_all(&garbage);
            let _ = stream.read(&mut [0; 64]);
        }
    });
}

/// Messages as they come.
#[derive(Clone, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut item = vec![0; buffer.remaining()];
        buffer.copy_to_slice(&mut item);
        Ok(Some(item))
    }
}

/// Calls a method with messages that are whatever they are.
async fn call(channel: Channel, path: &'static str, messages: Vec<Vec<u8>>) -> Result<(), Status> {
    let mut client = Grpc::new(channel);
    client
        .ready()
        .await
        .map_err(|error| Status::unavailable(error.to_string()))?;
    let request = tonic::Request::new(tokio_stream::iter(messages));
    let path = PathAndQuery::from_static(path);
    let mut answers = client.streaming(request, path, Raw).await?.into_inner();
    while answers.message().await?.is_some() {}
    Ok(())
}

fn channel(cluster: &Cluster, address: &str) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}"));
    let endpoint = endpoint.expect("an address").timeout(TIMEOUT);
    let connected = cluster.block_on(endpoint.connect());
    connected.expect("the node listens")
}

#[test]
fn messages_that_are_none_are_refused_by_every_method() {
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let cluster = cluster();
    let methods = [
        "/flotilla.v1.Kv/Get",
        "/flotilla.v1.Kv/BatchGet",
        "/flotilla.v1.Kv/Put",
        "/flotilla.v1.Kv/Delete",
        "/flotilla.v1.Kv/Scan",
        "/flotilla.v1.Kv/Batch",
        "/flotilla.v1.Kv/OpenSession",
        "/flotilla.v1.Kv/CloseSession",
        "/flotilla.v1.Kv/Stream",
        "/flotilla.v1.Peer/Deliver",
        "/flotilla.v1.Peer/InstallSnapshot",
        "/flotilla.v1.Peer/Adopt",
        "/flotilla.v1.Admin/ShowShard",
        "/flotilla.v1.Admin/TransferLeader",
        "/flotilla.v1.Admin/Init",
        "/flotilla.v1.Nobody/Nothing",
    ];
    unnoticed(&cluster, |cluster| {
        let for_clients = channel(cluster, &cluster.address(0));
        let for_nodes = channel(cluster, &cluster.peer_address(0));
        for method in methods {
            let (channel, other) = if method.contains("Peer") {
                (&for_nodes, &for_clients)
            } else {
                (&for_clients, &for_nodes)
            };
            // What one port offers, the other does not know.
            let unknown = cluster.block_on(call(other.clone(), method, Vec::new()));
            let status = unknown.expect_err("it is not the port for this");
            assert_eq!(
                status.code(),
                tonic::Code::Unimplemented,
                "{method}: {status}"
            );
            // A field whose length goes past the end is no message of any kind.
            let mut torn = vec![0x0a, 0xff, 0xff, 0x03];
            torn.extend((0..random.usize(0..1000)).map(|_| random.u8(..)));
            let refused = cluster.block_on(call(channel.clone(), method, vec![torn]));
            let status = refused.expect_err("it is no message");
            assert_ne!(status.code(), tonic::Code::Ok, "{method}");
            for _ in 0..20 {
                let message = (0..random.usize(0..200)).map(|_| random.u8(..)).collect();
                let messages = vec![message; random.usize(1..3)];
                // By chance it may be a message that makes sense.
                let _ = cluster.block_on(call(channel.clone(), method, messages));
            }
            let huge = vec![0; 64 << 20];
            let refused = cluster.block_on(call(channel.clone(), method, vec![huge]));
            refused.expect_err("larger than any message may be");
        }
        let malformed = cluster.metric(0, "flotilla_transport_malformed_messages_total");
        assert!(malformed >= 1.0, "what peers send is counted: {malformed}");
    });
}

#[test]
fn a_peer_that_is_none_is_refused_and_one_that_breaks_the_protocol_is_cut_off() {
    let cluster = cluster();
    let client = || PeerClient::new(channel(&cluster, &cluster.peer_address(0)));
    let identify = |node, asker| {
        let mut client = PeerClient::new(channel(&cluster, &cluster.peer_address(node)));
        let request = v1::IdentifyRequest { node_id: asker };
        let answer = cluster.block_on(client.identify(request));
        answer.expect("any node may ask").into_inner()
    };
    let theirs = identify(1, 0);
    let ours = identify(0, theirs.node_id);
    let newest = ours.seen.expect("they have met");
    let good = v1::Handshake {
        protocol: ours.protocol,
        cluster_id: ours.genesis.clone().expect("it is initialized").cluster_id,
        from_node: theirs.node_id,
        from_store: theirs.store_id.clone(),
        to_node: ours.node_id,
        lane: v1::Lane::Bulk.into(),
        address: theirs.address.clone(),
        peer_address: theirs.peer_address.clone(),
        status_address: theirs.status_address.clone(),
        starts: vec![newest],
        leases: None,
    };
    let frame = |handshake: Option<v1::Handshake>, messages| v1::Frame {
        handshake,
        messages,
        ..v1::Frame::default()
    };
    let deliver = |frames: Vec<v1::Frame>| {
        let mut client = client();
        let end = cluster.block_on(async {
            let mut answer = client
                .deliver(tokio_stream::iter(frames))
                .await?
                .into_inner();
            answer.message().await
        });
        end.map(|said| assert_eq!(said, None))
            .map_err(|status| status.message().to_owned())
    };
    assert_eq!(deliver(vec![frame(Some(good.clone()), Vec::new())]), Ok(()));
    let unknown = v1::ShardMessage {
        shard_id: 1,
        kind: 4711,
        ..v1::ShardMessage::default()
    };
    unnoticed(&cluster, |_| {
        for (frames, reason) in [
            (
                vec![frame(None, Vec::new())],
                "does not begin with a handshake",
            ),
            (
                vec![frame(
                    Some(v1::Handshake {
                        protocol: 99,
                        ..good.clone()
                    }),
                    Vec::new(),
                )],
                "version 99",
            ),
            (
                vec![frame(
                    Some(v1::Handshake {
                        cluster_id: vec![7; 16].into(),
                        ..good.clone()
                    }),
                    Vec::new(),
                )],
                "belongs to cluster 0707",
            ),
            (
                vec![frame(
                    Some(v1::Handshake {
                        to_node: 77,
                        ..good.clone()
                    }),
                    Vec::new(),
                )],
                "looks for node 77",
            ),
            (
                vec![frame(
                    Some(v1::Handshake {
                        from_node: 77,
                        ..good.clone()
                    }),
                    Vec::new(),
                )],
                "node 77 is not a node of this cluster",
            ),
            (
                vec![frame(
                    Some(v1::Handshake {
                        from_store: vec![7; 16].into(),
                        ..good.clone()
                    }),
                    Vec::new(),
                )],
                "twin node",
            ),
            (
                vec![frame(
                    Some(v1::Handshake {
                        starts: vec![v1::StoreMark {
                            start: !newest.start,
                            written: 0,
                        }],
                        ..good.clone()
                    }),
                    Vec::new(),
                )],
                "its data folder went back in time",
            ),
            (vec![frame(Some(good.clone()), vec![unknown])], "4711"),
            (
                vec![
                    frame(Some(good.clone()), Vec::new()),
                    frame(Some(good.clone()), Vec::new()),
                ],
                "only the first frame",
            ),
        ] {
            let refused = deliver(frames).expect_err(reason);
            assert!(refused.contains(reason), "{refused}, expected {reason}");
        }
    });
}

#[test]
fn requests_that_break_a_limit_are_refused_with_field_value_and_limit() {
    let cluster = cluster();
    let long_key = "k".repeat(4097);
    let delete_range = |start: &str, end: &str| {
        batch(operation::Kind::DeleteRange(v1::DeleteRangeOperation {
            start: start.to_owned().into(),
            end: end.to_owned().into(),
        }))
    };
    let scan = |start: &str, end: &str, consistency| {
        request::Kind::Scan(v1::ScanRequest {
            start: start.to_owned().into(),
            end: end.to_owned().into(),
            consistency,
            ..v1::ScanRequest::default()
        })
    };
    let puts = |count: usize, bytes: usize| {
        let operation = |number| v1::Operation {
            kind: Some(operation::Kind::Put(v1::PutOperation {
                key: format!("a{number}").into(),
                value: vec![b'v'; bytes].into(),
            })),
        };
        request::Kind::Batch(v1::BatchRequest {
            operations: (0..count).map(operation).collect(),
            ..v1::BatchRequest::default()
        })
    };
    let with_session = |sequence, lowest_unacknowledged| {
        request::Kind::Put(v1::PutRequest {
            key: "a".into(),
            value: "v".into(),
            session: Some(v1::SessionRef {
                shard_id: 2,
                number: 1,
                sequence,
                lowest_unacknowledged,
            }),
        })
    };
    let linearizable = v1::Consistency::Linearizable;
    let cases: Vec<(request::Kind, &[&str])> = vec![
        (put(&long_key, "v"), &["key", "4097", "key_bytes", "4096"]),
        (
            get(&long_key, linearizable),
            &["key", "4097", "key_bytes", "4096"],
        ),
        (put("", "v"), &["key is empty"]),
        (get("", linearizable), &["key is empty"]),
        (
            put("a", &"v".repeat((4 << 20) + 1)),
            &["value", "4194305", "value_bytes", "4194304"],
        ),
        (scan("b", "a", 0), &["\"b\"", "\"a\""]),
        (scan("a", "b", 7), &["consistency is 7"]),
        (delete_range("b", "a"), &["\"b\"", "\"a\""]),
        (puts(1025, 1), &["operations", "1025", "batch_ops", "1024"]),
        (puts(9, 1 << 20), &["batch_bytes", "8388608"]),
        (puts(0, 0), &["operations"]),
        (with_session(0, 0), &["session.sequence is 0"]),
        (
            with_session(1, 2),
            &["session.sequence is 1", "lowest_unacknowledged 2"],
        ),
        (
            request::Kind::BatchGet(v1::BatchGetRequest {
                keys: vec!["a".into(); 1025],
                consistency: 0,
            }),
            &["keys", "1025", "batch_ops", "1024"],
        ),
        (
            request::Kind::Batch(v1::BatchRequest {
                conditions: vec![v1::Condition {
                    key: "a".into(),
                    test: None,
                }],
                operations: vec![v1::Operation { kind: None }],
                session: None,
            }),
            &["conditions[0]", "not set"],
        ),
    ];
    unnoticed(&cluster, |cluster| {
        for (kind, parts) in &cases {
            for node in 0..cluster.len() {
                let answer = cluster.ask(node, kind.clone(), TIMEOUT);
                let Err(Error::InvalidArgument { message }) = &answer else {
                    panic!("expected a refusal that names {parts:?}: {answer:?}");
                };
                for part in *parts {
                    assert!(message.contains(part), "{message} lacks {part}");
                }
            }
        }
        let across = request::Kind::Batch(v1::BatchRequest {
            conditions: vec![v1::Condition {
                key: "a".into(),
                test: Some(condition::Test::Exists(false)),
            }],
            operations: vec![v1::Operation {
                kind: Some(operation::Kind::Put(v1::PutOperation {
                    key: "z".into(),
                    value: "v".into(),
                })),
            }],
            session: None,
        });
        let answer = cluster.ask(0, across, TIMEOUT);
        assert!(
            matches!(answer, Err(Error::CrossShard { .. })),
            "{answer:?}"
        );
    });
    // Nothing was written: the keys of all these requests begin with a letter, those of the user with a digit.
    let letters = cluster
        .rows(0)
        .into_iter()
        .find(|row| !row.0.starts_with(|c: char| c.is_ascii_digit()));
    assert_eq!(letters, None);
    let found = cluster.ask(1, get("a", linearizable), TIMEOUT).map(value);
    assert_eq!(found.expect("it serves"), None);
}

fn batch(kind: operation::Kind) -> request::Kind {
    request::Kind::Batch(v1::BatchRequest {
        operations: vec![v1::Operation { kind: Some(kind) }],
        ..v1::BatchRequest::default()
    })
}

#[test]
fn operators_questions_about_nothing_are_answered() {
    let cluster = cluster();
    let mut client = AdminClient::new(channel(&cluster, &cluster.address(0)));
    let answer = cluster.block_on(client.show_shard(v1::ShowShardRequest { which: None }));
    assert_eq!(
        answer.expect_err("nothing is asked").code(),
        tonic::Code::InvalidArgument
    );
    let answer = cluster.block_on(client.checksum(v1::ChecksumRequest { shard_id: 4711 }));
    assert!(
        answer
            .expect_err("no such shard")
            .message()
            .contains("4711")
    );
    let transfer = v1::TransferLeaderRequest {
        shard_id: 1,
        node_id: 4711,
    };
    let answer = cluster.block_on(client.transfer_leader(transfer));
    assert!(answer.expect_err("no such node").message().contains("4711"));
}
