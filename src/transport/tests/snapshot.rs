//! Shards' states on their way from node to node.

use std::collections::VecDeque;

use flotilla_metrics::SnapshotOutcome;
use flotilla_shards::raft::{ConfState, Snapshot, SnapshotMeta};

use super::*;

/// A shard's state as a list of chunks.
struct Source(VecDeque<Result<proto::SnapshotChunk, String>>);

impl SnapshotSource for Source {
    fn open(self: Box<Self>) -> Result<OpenSnapshot, String> {
        Ok(OpenSnapshot {
            message: announcement(),
            chunks: Box::new(self.0.into_iter()),
        })
    }
}

fn announcement() -> Message {
    Message {
        kind: MessageKind::Snap,
        to: ReplicaId(2),
        from: ReplicaId(1),
        term: Term(3),
        snapshot: Some(Box::new(Snapshot {
            meta: SnapshotMeta {
                index: Index(40),
                term: Term(2),
                conf_state: ConfState {
                    voters: vec![ReplicaId(1), ReplicaId(2)],
                    ..Default::default()
                },
            },
            data: Bytes::new(),
        })),
        ..Message::default()
    }
}

fn chunk(row: u8, checksum: u32, last: bool) -> Result<proto::SnapshotChunk, String> {
    Ok(proto::SnapshotChunk {
        header: None,
        rows: vec![proto::SnapshotRow {
            key: vec![row].into(),
            value: vec![row; 1000].into(),
        }],
        checksum,
        total_rows: last.then_some(u64::from(row) + 1),
    })
}

async fn send_snapshot(
    from: &Node,
    chunks: impl IntoIterator<Item = Result<proto::SnapshotChunk, String>>,
) -> SendOutcome {
    let (done, outcome) = oneshot::channel();
    from.transport.send_snapshot(
        NodeId(2),
        ShardId(5),
        Box::new(Source(chunks.into_iter().collect())),
        Box::new(move |outcome| drop(done.send(outcome))),
    );
    timeout(PATIENCE, outcome)
        .await
        .expect("an outcome in time")
        .expect("an outcome")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_arrives_whole_or_not_at_all() {
    let (a, b) = pair(options()).await;
    let whole = (0..20).map(|row| chunk(row, 7, row == 19));
    assert_eq!(send_snapshot(&a, whole).await, SendOutcome::Done);
    {
        let arrived = b.recorder.arrived.lock();
        let [(shard, message, rows)] = &arrived.snapshots[..] else {
            panic!("{} snapshots", arrived.snapshots.len());
        };
        assert_eq!(*shard, ShardId(5));
        assert_eq!(*message, announcement());
        assert_eq!(rows.len(), 20);
    }

    // The content does not add up.
    let wrong = (0..20).map(|row| chunk(row, 7 + u32::from(row == 9), row == 19));
    let SendOutcome::Failed(reason) = send_snapshot(&a, wrong).await else {
        panic!("a wrong checksum was accepted");
    };
    assert!(reason.contains("malformed: the checksum"), "{reason}");

    // The source fails half way.
    let failing = (0..20).map(|row| {
        if row == 9 {
            Err("disk on fire".to_owned())
        } else {
            chunk(row, 7, row == 19)
        }
    });
    assert_eq!(
        send_snapshot(&a, failing).await,
        SendOutcome::Failed("disk on fire".to_owned())
    );

    // The receiver does not want it.
    b.recorder.arrived.lock().refuse_snapshots =
        Some(SnapshotRefused::Unwanted("up to date".to_owned()));
    let SendOutcome::Failed(reason) = send_snapshot(&a, [chunk(0, 7, true)]).await else {
        panic!("a refused snapshot was sent");
    };
    assert!(reason.contains("not wanted: up to date"), "{reason}");

    // And after all that one arrives again.
    b.recorder.arrived.lock().refuse_snapshots = None;
    assert_eq!(
        send_snapshot(&a, [chunk(0, 7, true)]).await,
        SendOutcome::Done
    );
    b.recorder
        .until(|arrived| (arrived.snapshots_open == 0).then_some(()))
        .await;
    assert_eq!(b.recorder.arrived.lock().snapshots.len(), 2);
    assert_eq!(a.metrics.snapshots_sent.of(SnapshotOutcome::Done).get(), 2);
    assert_eq!(
        a.metrics.snapshots_sent.of(SnapshotOutcome::Failed).get(),
        3
    );
    assert_eq!(
        b.metrics.snapshots_received.of(SnapshotOutcome::Done).get(),
        2
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_snapshots_than_may_wait_are_refused_at_once() {
    let options = TransportOptions {
        snapshot_sends: 0,
        snapshot_waiting: 3,
        ..options()
    };
    let (a, _b) = pair(options).await;
    let (done, mut outcomes) = tokio::sync::mpsc::unbounded_channel();
    for _ in 0..4 {
        let done = done.clone();
        a.transport.send_snapshot(
            NodeId(2),
            ShardId(5),
            Box::new(Source(VecDeque::new())),
            Box::new(move |outcome| drop(done.send(outcome))),
        );
    }
    assert_eq!(
        outcomes.try_recv().expect("the fourth is refused"),
        SendOutcome::Failed("3 snapshots wait to be sent already".to_owned())
    );
    a.transport.stop();
    for _ in 0..3 {
        let outcome = timeout(PATIENCE, outcomes.recv()).await.expect("in time");
        assert_eq!(
            outcome,
            Some(SendOutcome::Failed("the node is shutting down".to_owned()))
        );
    }
}
