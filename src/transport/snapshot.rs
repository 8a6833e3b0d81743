//! Sending and receiving a shard's state.
//!
//! Each transfer has a stream and a connection of its own, so that it delays no message of Raft. Few run at the same
//! time, and all of them together stay below a byte rate. A transfer that breaks, stalls or does not add up is given
//! up as a whole: the receiver throws away what it got, Raft learns of the failure and asks again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use flotilla_metrics::SnapshotOutcome;
use flotilla_proto::v1::{self as proto, peer_client::PeerClient};
use flotilla_shards::{
    ids::{NodeId, ShardId},
    raft::{Message, MessageKind},
    wire,
};
use futures_util::{Stream, StreamExt as _, stream};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::{
    sync::{Semaphore, mpsc},
    task::spawn_blocking,
    time::{Instant, sleep_until},
};
use tonic::Status;

use super::{
    Shared, TransportOptions,
    handshake::{Admitted, HandshakeError},
    innermost,
};
use crate::answers::Readable;

/// Chunks that may be ready ahead of the network, or of the disk on the other side.
const CHUNKS_AHEAD: usize = 2;

/// A shard's state, opened when its transfer begins: it pins a version of the database for as long as it lives.
pub trait SnapshotSource: Send {
    /// Fixes the content. May block.
    ///
    /// # Errors
    /// A text for the operator.
    fn open(self: Box<Self>) -> Result<OpenSnapshot, String>;
}

/// An opened snapshot.
pub struct OpenSnapshot {
    /// The announcing `MsgSnap`, with position and membership of exactly this content.
    pub message: Message,
    /// The content in key order, without header; checksums and the final row count are set. May block.
    pub chunks: Box<dyn Iterator<Item = Result<proto::SnapshotChunk, String>> + Send>,
}

/// How sending ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SendOutcome {
    /// The follower has it, durably.
    Done,
    /// It was given up, for this reason.
    Failed(String),
}

/// Takes the content of one snapshot. Dropped without [`SnapshotSink::finish`], it forgets what it got.
pub trait SnapshotSink: Send {
    /// Takes the next chunk and checks it (order of rows, checksum, number of rows). May block.
    ///
    /// # Errors
    /// [`SnapshotRefused`]; the transfer ends.
    fn chunk(&mut self, chunk: proto::SnapshotChunk) -> Result<(), SnapshotRefused>;

    /// The content is complete: makes it durable and gives the announcing message to the replica. May block.
    ///
    /// # Errors
    /// [`SnapshotRefused`]; nothing of it is used.
    fn finish(self: Box<Self>) -> Result<(), SnapshotRefused>;
}

/// Why a snapshot is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotRefused {
    /// It can't be taken now; later it can.
    #[error("busy: {0}")]
    Busy(String),
    /// The replica has no use for it.
    #[error("not wanted: {0}")]
    Unwanted(String),
    /// It does not add up.
    #[error("malformed: {0}")]
    Malformed(String),
    /// The disk failed.
    #[error("storage: {0}")]
    Storage(String),
}

impl From<SnapshotRefused> for Status {
    fn from(refused: SnapshotRefused) -> Self {
        let text = refused.to_string();
        match refused {
            SnapshotRefused::Busy(_) => Self::resource_exhausted(text),
            SnapshotRefused::Unwanted(_) => Self::aborted(text),
            SnapshotRefused::Malformed(_) => Self::invalid_argument(text),
            SnapshotRefused::Storage(_) => Self::internal(text),
        }
    }
}

/// What all outgoing transfers share.
pub(super) struct Senders {
    turns: Arc<Semaphore>,
    waiting: AtomicUsize,
    rate: Mutex<TokenBucket>,
}

impl Senders {
    pub(super) fn new(options: &TransportOptions) -> Self {
        Self {
            turns: Arc::new(Semaphore::new(options.snapshot_sends)),
            waiting: AtomicUsize::new(0),
            rate: Mutex::new(TokenBucket::new(options.snapshot_bytes_per_second)),
        }
    }
}

/// One transfer to be made.
pub(super) struct SendJob {
    node: NodeId,
    shard: ShardId,
    source: Box<dyn SnapshotSource>,
    done: Box<dyn FnOnce(SendOutcome) + Send>,
}

impl SendJob {
    pub(super) fn new(
        node: NodeId,
        shard: ShardId,
        source: Box<dyn SnapshotSource>,
        done: Box<dyn FnOnce(SendOutcome) + Send>,
    ) -> Self {
        Self {
            node,
            shard,
            source,
            done,
        }
    }
}

/// Queues a transfer.
pub(super) fn send(shared: &Arc<Shared>, job: SendJob) {
    let limit = shared.options.snapshot_waiting;
    if shared.senders.waiting.fetch_add(1, Ordering::Relaxed) >= limit {
        shared.senders.waiting.fetch_sub(1, Ordering::Relaxed);
        (job.done)(SendOutcome::Failed(format!(
            "{limit} snapshots wait to be sent already"
        )));
        return;
    }
    let shared = Arc::clone(shared);
    shared.runtime.clone().spawn(async move {
        let turns = Arc::clone(&shared.senders.turns);
        let turn = tokio::select! {
            turn = turns.acquire_owned() => turn.ok(),
            () = shared.stopped() => None,
        };
        shared.senders.waiting.fetch_sub(1, Ordering::Relaxed);
        let SendJob {
            node,
            shard,
            source,
            done,
        } = job;
        let stopping = || Err("the node is shutting down".to_owned());
        let result = if turn.is_none() {
            stopping()
        } else {
            shared.metrics.snapshots_running.inc();
            let started = Instant::now();
            let result = tokio::select! {
                result = transfer(&shared, node, shard, source) => result,
                () = shared.stopped() => stopping(),
            };
            shared.metrics.snapshots_running.dec();
            shared
                .metrics
                .snapshot_seconds
                .observe(started.elapsed().as_secs_f64());
            result
        };
        let (label, outcome) = match result {
            Ok(()) => (SnapshotOutcome::Done, SendOutcome::Done),
            Err(reason) => {
                tracing::warn!(%node, %shard, reason, "snapshot not sent");
                (SnapshotOutcome::Failed, SendOutcome::Failed(reason))
            }
        };
        shared.metrics.snapshots_sent.of(label).inc();
        done(outcome);
    });
}

/// Sends one snapshot and waits until the follower has it.
async fn transfer(
    shared: &Arc<Shared>,
    node: NodeId,
    shard: ShardId,
    source: Box<dyn SnapshotSource>,
) -> Result<(), String> {
    let peer = shared.peers.load().get(node).cloned();
    let peer = peer.ok_or_else(|| format!("{node} is not a node of this cluster"))?;
    let address = peer.node.borrow().for_peers().to_owned();
    let connected = shared.connect(node, &address).await;
    let channel = connected.map_err(|reason| format!("{address}: {reason}"))?;

    let (chunks, ready) = mpsc::channel(CHUNKS_AHEAD);
    let handshake = shared.handshake(node, proto::Lane::Bulk);
    let mut reading = spawn_blocking(move || read_source(source, shard, handshake, &chunks));
    let progress = Arc::new(AtomicU64::new(0));
    let paced = paced(Arc::clone(shared), ready, Arc::clone(&progress));
    let mut client = PeerClient::new(Readable::new(channel));
    let call = client.install_snapshot(paced);
    let mut call = std::pin::pin!(call);
    let mut read = false;
    let mut seen = 0;
    let mut stalled = tokio::time::interval(shared.options.snapshot_stall);
    stalled.tick().await;
    loop {
        tokio::select! {
            answer = &mut call => {
                return answer.map(drop).map_err(|status| match status.code() {
                    tonic::Code::Unavailable | tonic::Code::Unknown => format!("{address}: {}", innermost(&status)),
                    _ => format!("{address}: {}", status.message()),
                });
            }
            result = &mut reading, if !read => {
                read = true;
                // A source that failed leaves the stream short: the call is dropped before it can end in order.
                result.map_err(|error| format!("reading the shard failed: {error}"))??;
            }
            _ = stalled.tick() => {
                let now = progress.load(Ordering::Relaxed);
                if now == seen {
                    return Err(format!(
                        "{address}: no progress for {} s",
                        shared.options.snapshot_stall.as_secs()
                    ));
                }
                seen = now;
            }
        }
    }
}

/// Reads the source chunk by chunk, on a thread that may block. Ends early if nobody takes the chunks any more.
fn read_source(
    source: Box<dyn SnapshotSource>,
    shard: ShardId,
    handshake: proto::Handshake,
    out: &mpsc::Sender<proto::SnapshotChunk>,
) -> Result<(), String> {
    let OpenSnapshot { message, chunks } = source.open()?;
    let mut header = Some(proto::SnapshotHeader {
        handshake: Some(handshake),
        message: Some(wire::encode_message(shard, message)),
    });
    let mut complete = false;
    for chunk in chunks {
        let mut chunk = chunk?;
        chunk.header = header.take();
        complete = chunk.total_rows.is_some();
        if out.blocking_send(chunk).is_err() {
            return Ok(());
        }
    }
    assert!(
        complete,
        "the chunks of {shard} do not end with the number of rows"
    );
    Ok(())
}

/// The chunks at the pace that the rate limit allows.
fn paced(
    shared: Arc<Shared>,
    ready: mpsc::Receiver<proto::SnapshotChunk>,
    progress: Arc<AtomicU64>,
) -> impl futures_util::Stream<Item = proto::SnapshotChunk> + Send + 'static {
    stream::unfold(
        (shared, ready, progress),
        |(shared, mut ready, progress)| async move {
            let chunk = ready.recv().await?;
            let bytes = chunk.encoded_len() as u64;
            let now = Instant::now();
            let turn = shared.senders.rate.lock().take(bytes, now);
            // A timer takes a millisecond even for a moment that has come, which would be a rate of its own.
            if turn > now {
                sleep_until(turn).await;
            }
            shared.metrics.snapshot_sent_bytes.inc_by(bytes);
            progress.fetch_add(1, Ordering::Relaxed);
            Some((chunk, (shared, ready, progress)))
        },
    )
}

/// What the receiving task tells the thread that writes.
pub(super) enum Step {
    Chunk(proto::SnapshotChunk),
    /// The stream ended in order.
    End,
}

/// Takes one snapshot from another node.
pub(super) async fn receive(
    shared: &Arc<Shared>,
    mut chunks: tonic::Streaming<proto::SnapshotChunk>,
    certified: Option<NodeId>,
) -> Result<proto::InstallSnapshotResponse, Status> {
    let patience = shared.options.handshake_timeout;
    let mut first = tokio::time::timeout(patience, chunks.message())
        .await
        .map_err(|_| {
            let error = HandshakeError::Late(patience);
            shared.door.note(&error);
            Status::failed_precondition(error.to_string())
        })??
        .unwrap_or_default();
    let header = first.header.take().unwrap_or_default();
    let Admitted { peer, .. } = shared.admit(header.handshake, certified)?;
    let (shard, message) = announced(header.message).map_err(|reason| {
        shared.metrics.malformed_messages.inc();
        Status::invalid_argument(format!("the snapshot's announcing message: {reason}"))
    })?;
    let Ok(_turn) = shared.receives.try_acquire() else {
        return Err(SnapshotRefused::Busy(format!(
            "{} snapshots are being received",
            shared.options.snapshot_receives
        ))
        .into());
    };

    shared.metrics.snapshots_running.inc();
    let started = Instant::now();
    let (steps, taken) = mpsc::channel(CHUNKS_AHEAD);
    let inbound = Arc::clone(&shared.inbound);
    let from = peer.id;
    let writing =
        spawn_blocking(move || write_sink(|| inbound.begin_snapshot(from, shard, message), taken));
    let count = |chunk: &proto::SnapshotChunk| {
        let bytes = chunk.encoded_len() as u64;
        shared.metrics.snapshot_received_bytes.inc_by(bytes);
    };
    let fed = tokio::select! {
        fed = feed(first, &mut chunks, steps, shared.options.snapshot_stall, count) => fed,
        () = shared.stopped() => Err(Status::unavailable("the node is shutting down")),
    };
    // What the writer says comes first: if it refused, the feeder only found nobody listening.
    let written = writing
        .await
        .unwrap_or_else(|error| Err(SnapshotRefused::Storage(error.to_string())));
    shared.metrics.snapshots_running.dec();
    let malformed = matches!(written, Err(SnapshotRefused::Malformed(_)));
    let result = match (written, fed) {
        (Ok(true), Ok(())) => Ok(proto::InstallSnapshotResponse {}),
        (Err(refused), _) => Err(refused.into()),
        (Ok(_), Err(status)) => Err(status),
        (Ok(false), Ok(())) => Err(Status::internal("the snapshot was not written to its end")),
    };
    let label = match &result {
        Ok(_) => {
            let seconds = started.elapsed().as_secs_f64();
            shared.metrics.snapshot_seconds.observe(seconds);
            SnapshotOutcome::Done
        }
        Err(status) if status.code() == tonic::Code::Aborted => SnapshotOutcome::Abandoned,
        Err(status) => {
            tracing::warn!(node = %from, %shard, reason = status.message(), "snapshot not received");
            if malformed {
                SnapshotOutcome::Malformed
            } else {
                SnapshotOutcome::Failed
            }
        }
    };
    shared.metrics.snapshots_received.of(label).inc();
    result
}

/// What the first chunk announces: the Raft message that goes with the content.
pub(super) fn announced(
    message: Option<proto::ShardMessage>,
) -> Result<(ShardId, Message), String> {
    let message = message.ok_or("it is missing")?;
    let (shard, message) = wire::decode_message(message).map_err(|error| error.to_string())?;
    if message.kind == MessageKind::Snap && message.snapshot.is_some() {
        Ok((shard, message))
    } else {
        Err(format!("it is {:?}, not a snapshot", message.kind))
    }
}

/// Hands the stream's chunks to the writer. Ends well only if the stream ended behind the chunk with the row count.
pub(super) async fn feed(
    first: proto::SnapshotChunk,
    chunks: &mut (impl Stream<Item = Result<proto::SnapshotChunk, Status>> + Unpin),
    steps: mpsc::Sender<Step>,
    stall: Duration,
    count: impl Fn(&proto::SnapshotChunk),
) -> Result<(), Status> {
    let mut chunk = first;
    loop {
        count(&chunk);
        let last = chunk.total_rows.is_some();
        if steps.send(Step::Chunk(chunk)).await.is_err() {
            return Err(Status::aborted("the receiver gave up"));
        }
        let next = tokio::time::timeout(stall, chunks.next())
            .await
            .map_err(|_| {
                Status::deadline_exceeded(format!("no chunk came for {} s", stall.as_secs()))
            })?
            .transpose()?;
        chunk = match next {
            Some(_) if last => {
                return Err(Status::invalid_argument("a chunk follows the last one"));
            }
            Some(next) if next.header.is_some() => {
                return Err(Status::invalid_argument(
                    "only the first chunk may hold a header",
                ));
            }
            Some(next) => next,
            None if last => {
                // The writer's own result tells whether it got here.
                let _ = steps.send(Step::End).await;
                return Ok(());
            }
            None => {
                return Err(Status::invalid_argument(
                    "the stream ended before the last chunk",
                ));
            }
        };
    }
}

/// Writes what the feeder hands over, on a thread that may block. True: it was complete, and is durable.
pub(super) fn write_sink(
    begin: impl FnOnce() -> Result<Box<dyn SnapshotSink>, SnapshotRefused>,
    mut steps: mpsc::Receiver<Step>,
) -> Result<bool, SnapshotRefused> {
    let mut sink = begin()?;
    while let Some(step) = steps.blocking_recv() {
        match step {
            Step::Chunk(chunk) => sink.chunk(chunk)?,
            Step::End => {
                sink.finish()?;
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Spreads bytes over time: up to a quarter of a second's worth at once, the rate in the long run.
struct TokenBucket {
    bytes_per_second: u64,
    /// When everything that was taken will have had its time.
    busy_until: Option<Instant>,
}

impl TokenBucket {
    const BURST: Duration = Duration::from_millis(250);

    fn new(bytes_per_second: u64) -> Self {
        Self {
            bytes_per_second: bytes_per_second.max(1),
            busy_until: None,
        }
    }

    /// Takes `bytes`; they may leave at the returned time.
    fn take(&mut self, bytes: u64, now: Instant) -> Instant {
        let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let begin = self.busy_until.map_or(now, |until| until.max(now));
        self.busy_until = Some(begin + cost);
        begin.checked_sub(Self::BURST).map_or(now, |at| at.max(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bucket_lets_a_burst_pass_and_then_keeps_the_rate() {
        let mut bucket = TokenBucket::new(1000);
        let now = Instant::now();
        assert_eq!(bucket.take(250, now), now);
        assert_eq!(bucket.take(1000, now), now);
        assert_eq!(bucket.take(500, now), now + Duration::from_secs(1));
        assert_eq!(bucket.take(1, now), now + Duration::from_millis(1500));
        let later = now + Duration::from_secs(60);
        assert_eq!(bucket.take(1, later), later, "unused time is not saved up");
    }
}
