//! What other nodes say of themselves, and the order in which they send a snapshot, of any content.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use flotilla_metrics::Metrics;
use flotilla_proto::v1 as proto;
use flotilla_shards::{ids::NodeId, node::Node};
use futures_util::{StreamExt as _, stream};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::{runtime, sync::mpsc};
use tonic::Status;

use super::{
    LocalNode, TransportOptions,
    handshake::Door,
    peers::Peers,
    snapshot::{SnapshotRefused, SnapshotSink, announced, feed, write_sink},
};
use crate::fuzz::{byte, piece};

/// What is said about one fault, in characters: it must fit a log line and the answer to another node.
const FAULT_CHARS_MAX: usize = 2_000;

const CLUSTER: [u8; 16] = [7; 16];
const STORE: [u8; 16] = [2; 16];

fn is_a_line(text: &str) {
    assert!(!text.contains(char::is_control), "{text:?}");
    assert!(text.chars().count() <= FAULT_CHARS_MAX, "{text}");
}

/// The door of node 1, which knows node 2.
fn door() -> Door {
    let local = LocalNode {
        cluster_id: Bytes::from_static(&CLUSTER),
        node_id: NodeId(1),
        store_id: Bytes::from_static(&[1; 16]),
        address: "host:1".to_owned(),
        peer_address: String::new(),
        status_address: String::new(),
        leases: None,
        marks: Arc::default(),
    };
    let peer = proto::Node {
        node_id: 2,
        address: "host:2".to_owned(),
        peer_address: String::new(),
        status_address: String::new(),
        store_id: Bytes::from_static(&STORE),
    };
    let (peers, metrics) = (
        Peers::new(),
        Arc::new(Metrics::new().expect("the metrics are sound")),
    );
    peers.update(peer, &TransportOptions::default(), &metrics);
    Door::new(local, Arc::new(peers), metrics)
}

thread_local! {
    static DOOR: Door = door();
    static RUNTIME: runtime::Runtime = runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime of one thread");
}

/// A handshake: who is let in is the node that it says to be, and describes itself soundly.
///
/// # Panics
/// If that does not hold.
pub fn handshake(data: &[u8]) {
    let Ok(handshake) = proto::Handshake::decode(data) else {
        return;
    };
    match DOOR.with(|door| door.check(Some(handshake.clone()), None)) {
        Ok(admitted) => {
            assert_eq!(admitted.peer.id, NodeId(handshake.from_node));
            assert_eq!((handshake.from_node, handshake.to_node), (2, 1));
            assert_eq!(handshake.cluster_id[..], CLUSTER);
            assert_eq!(handshake.from_store[..], STORE);
            if let Some(node) = admitted.moved {
                Node::try_from(node).expect("checked at the door");
            }
        }
        Err(error) => {
            is_a_line(&error.to_string());
            let _ = error.label();
        }
    }
}

/// What a [`Sink`] was given.
#[derive(Default)]
struct Kept {
    chunks: Vec<proto::SnapshotChunk>,
    finished: bool,
}

/// Keeps what comes; refuses a chunk with the checksum [`UNWANTED`].
struct Sink(Arc<Mutex<Kept>>);

const UNWANTED: u32 = 13;

impl SnapshotSink for Sink {
    fn chunk(&mut self, chunk: proto::SnapshotChunk) -> Result<(), SnapshotRefused> {
        if chunk.checksum == UNWANTED {
            return Err(SnapshotRefused::Malformed("the unlucky number".to_owned()));
        }
        self.0.lock().chunks.push(chunk);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), SnapshotRefused> {
        self.0.lock().finished = true;
        Ok(())
    }
}

/// A stream of a snapshot: it is finished if all of it came, in order and once; else it is given up.
///
/// # Panics
/// If that does not hold.
pub fn snapshot_stream(mut data: &[u8]) {
    let mut sent: Vec<Result<proto::SnapshotChunk, Status>> = Vec::new();
    while !data.is_empty() && sent.len() < 16 {
        let form = byte(&mut data);
        let announcement = piece(&mut data).unwrap_or_default();
        sent.push(if form & 8 == 0 {
            Ok(proto::SnapshotChunk {
                header: (form & 1 != 0).then(|| proto::SnapshotHeader {
                    handshake: None,
                    message: proto::ShardMessage::decode(announcement).ok(),
                }),
                total_rows: (form & 2 != 0).then_some(5),
                checksum: if form & 4 == 0 { form.into() } else { UNWANTED },
                rows: Vec::new(),
            })
        } else {
            Err(Status::unknown("the connection broke"))
        });
    }
    let mut stream = stream::iter(sent.clone());
    let Some(Ok(mut first)) = sent.first().cloned() else {
        return;
    };
    drop(RUNTIME.with(|runtime| runtime.block_on(stream.next())));
    match announced(first.header.take().unwrap_or_default().message) {
        Ok((_, message)) => assert!(message.snapshot.is_some()),
        Err(reason) => is_a_line(&reason),
    }

    let (steps, taken) = mpsc::channel(sent.len() + 1);
    let fed = RUNTIME.with(|runtime| {
        let stall = Duration::from_secs(1);
        runtime.block_on(feed(first, &mut stream, steps, stall, |_| ()))
    });
    let kept = Arc::new(Mutex::new(Kept::default()));
    let sink = Sink(Arc::clone(&kept));
    let written = write_sink(|| Ok(Box::new(sink)), taken);
    let Kept { chunks, finished } = std::mem::take(&mut *kept.lock());

    let mut expected: Vec<proto::SnapshotChunk> = Vec::new();
    let mut whole = true;
    for (at, chunk) in sent.iter().enumerate() {
        match chunk {
            Ok(chunk) => {
                let last = at + 1 == sent.len();
                whole &= chunk.total_rows.is_some() == last;
                whole &= at == 0 || chunk.header.is_none();
                whole &= chunk.checksum != UNWANTED;
                expected.push(proto::SnapshotChunk {
                    header: None,
                    ..chunk.clone()
                });
            }
            Err(_) => whole = false,
        }
    }
    assert_eq!(finished, whole, "{sent:?}");
    if whole {
        assert_eq!(chunks, expected);
        assert!(fed.is_ok() && written == Ok(true));
    } else {
        assert!(fed.is_err() || written.is_err(), "given up, and said so");
        assert!(expected.starts_with(&chunks), "what came is what was sent");
    }
    if let Err(status) = fed {
        is_a_line(status.message());
    }
}

#[cfg(test)]
mod tests {
    use flotilla_shards::{
        ids::ShardId,
        raft::{ConfState, Index, Message, MessageKind, ReplicaId, Snapshot, SnapshotMeta, Term},
        wire,
    };

    use super::*;
    use crate::{feed::feed, fuzz::pieces};

    #[test]
    fn handshakes_of_any_content() {
        let sound = proto::Handshake {
            protocol: crate::transport::PROTOCOL,
            cluster_id: Bytes::from_static(&CLUSTER),
            from_node: 2,
            from_store: Bytes::from_static(&STORE),
            to_node: 1,
            lane: proto::Lane::Bulk.into(),
            address: "host:2".to_owned(),
            peer_address: String::new(),
            status_address: "host:3".to_owned(),
            starts: vec![proto::StoreMark {
                start: 1,
                written: 2,
            }],
            leases: None,
        };
        assert!(
            DOOR.with(|door| door.check(Some(sound.clone()), None))
                .is_ok()
        );
        let foreign = proto::Handshake {
            cluster_id: Bytes::new(),
            ..sound.clone()
        };
        let unsound = proto::Handshake {
            address: "two\nlines".to_owned(),
            ..sound.clone()
        };
        let back = proto::Handshake {
            starts: vec![proto::StoreMark {
                start: 3,
                written: 1,
            }],
            ..sound.clone()
        };
        let seeds = [sound, foreign, unsound, back].map(|seed| seed.encode_to_vec());
        feed("handshake", &seeds, 20_000, handshake);
    }

    #[test]
    fn streams_of_snapshots_in_any_order() {
        let message = Message {
            kind: MessageKind::Snap,
            to: ReplicaId(1),
            from: ReplicaId(2),
            term: Term(5),
            snapshot: Some(Box::new(Snapshot {
                meta: SnapshotMeta {
                    term: Term(4),
                    index: Index(6),
                    conf_state: ConfState {
                        voters: vec![ReplicaId(1), ReplicaId(2)],
                        ..ConfState::default()
                    },
                },
                data: Bytes::new(),
            })),
            ..Message::default()
        };
        let message = wire::encode_message(ShardId(2), message).encode_to_vec();
        let chunk =
            |form: u8, announcement: &[u8]| [&[form], &pieces(&[announcement])[..]].concat();
        let (first, middle, last) = (chunk(1, &message), chunk(0, b""), chunk(2, b""));
        let seeds = [
            chunk(3, &message),
            [&first[..], &last].concat(),
            [&first[..], &middle, &last].concat(),
            [&first[..], &middle, &last, &middle].concat(),
            [&first[..], &first, &last].concat(),
            [&first[..], &chunk(4, b""), &last].concat(),
            [&first[..], &chunk(8, b"")].concat(),
        ];
        feed("snapshot_stream", &seeds, 20_000, snapshot_stream);
    }
}
