//! The bounded queue of one lane, and the stream of frames that empties it.
//!
//! Many threads push, one stream takes. The lock guards an append or a swap of a whole list, never the conversion or
//! the encoding of a message. Bytes are counted from the push until the message is part of a frame.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use flotilla_metrics::{Counter, DropReason, Gauge, Metrics};
use flotilla_proto::v1 as proto;
use flotilla_shards::{
    ids::{NodeId, ShardId},
    raft::Message,
    wire,
};
use futures_util::Stream;
use parking_lot::Mutex;
use prost::Message as _;

use crate::marks::Marks;

/// A message that waits, with the share of the queue's bound that it takes.
#[derive(Debug)]
pub struct Queued {
    shard: ShardId,
    message: Message,
    bytes: usize,
}

/// What a message takes in memory beside its payload, roughly.
const MESSAGE_OVERHEAD: usize = 256;
/// What an entry takes in memory beside its payload, roughly.
const ENTRY_OVERHEAD: usize = 64;
/// Room for messages that an emptied list keeps: what the elections of thousands of shards took is given back.
const KEPT: usize = 256;

impl Queued {
    /// Weighs a message.
    #[must_use]
    pub fn new(shard: ShardId, message: Message) -> Self {
        let entries: usize = message
            .entries
            .iter()
            .map(|entry| ENTRY_OVERHEAD + entry.data.len())
            .sum();
        let snapshot = message
            .snapshot
            .as_ref()
            .map_or(0, |snapshot| snapshot.data.len());
        let bytes = MESSAGE_OVERHEAD + message.context.len() + entries + snapshot;
        Self {
            shard,
            message,
            bytes,
        }
    }
}

/// The queue of one peer and lane.
#[derive(Debug)]
pub struct LaneQueue {
    waiting: Mutex<Waiting>,
    /// Bytes of everything that is not part of a frame yet.
    bytes: AtomicUsize,
    limit: usize,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Waiting {
    messages: VecDeque<Queued>,
    /// A word to pass on that this node lives; a newer one takes its place.
    alive: Option<proto::Alive>,
    waker: Option<Waker>,
    closed: bool,
    /// Number of the newest stream: an older one, whose connection is not torn down yet, takes nothing any more.
    stream: u64,
}

/// Resolved handles: counting costs one addition.
#[derive(Debug)]
struct Counters {
    full: Counter,
    disconnected: Counter,
    too_large: Counter,
    queue_bytes: Gauge,
    frames: Counter,
    messages: Counter,
    sent_bytes: Counter,
}

impl LaneQueue {
    /// An empty queue that holds up to `limit` bytes.
    #[must_use]
    pub fn new(node: NodeId, lane: proto::Lane, limit: usize, metrics: &Metrics) -> Self {
        let label = super::lane_label(lane);
        let dropped = metrics.dropped_messages.peer(node.0);
        Self {
            waiting: Mutex::default(),
            bytes: AtomicUsize::new(0),
            limit,
            counters: Counters {
                full: dropped.of(DropReason::QueueFull).clone(),
                disconnected: dropped.of(DropReason::Disconnected).clone(),
                too_large: dropped.of(DropReason::TooLarge).clone(),
                queue_bytes: metrics.queue_bytes.peer(node.0).of(label).clone(),
                frames: metrics.sent_frames.peer(node.0).of(label).clone(),
                messages: metrics.sent_messages.peer(node.0).of(label).clone(),
                sent_bytes: metrics.sent_bytes.peer(node.0).of(label).clone(),
            },
        }
    }

    /// Appends messages, in order; those that do not fit are dropped and counted, and so is everything once the queue
    /// is closed. An empty queue takes one message of any size.
    pub fn push(&self, mut messages: Vec<Queued>) {
        let held = self.bytes.load(Ordering::Relaxed);
        let mut added = 0;
        let mut fitting = 0;
        for queued in &messages {
            let total = held + added;
            if total > 0 && total + queued.bytes > self.limit {
                break;
            }
            added += queued.bytes;
            fitting += 1;
        }
        let refused = messages.len() - fitting;
        if refused > 0 {
            messages.truncate(fitting);
            self.counters.full.inc_by(refused as u64);
        }
        if messages.is_empty() {
            return;
        }
        let waker = {
            let mut waiting = self.waiting.lock();
            if waiting.closed {
                drop(waiting);
                self.counters.disconnected.inc_by(fitting as u64);
                return;
            }
            // Counted before the stream can take them, so that the sum never falls below zero.
            self.bytes.fetch_add(added, Ordering::Relaxed);
            waiting.messages.extend(messages);
            waiting.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Passes on that this node lives, with the next frame. Takes no room.
    pub fn say_alive(&self, alive: proto::Alive) {
        let waker = {
            let mut waiting = self.waiting.lock();
            waiting.alive = Some(alive);
            waiting.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Bytes that wait.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Drops and counts what waits: it was for a connection that does not exist.
    pub fn discard(&self) {
        let dropped = {
            let mut waiting = self.waiting.lock();
            waiting.alive = None;
            std::mem::take(&mut waiting.messages)
        };
        self.release_unsent(&dropped);
    }

    /// Ends the stream once it has taken what waits; later messages are dropped.
    pub fn close(&self) {
        let waker = {
            let mut waiting = self.waiting.lock();
            waiting.closed = true;
            waiting.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn release_unsent(&self, dropped: &VecDeque<Queued>) {
        if !dropped.is_empty() {
            let bytes = dropped.iter().map(|queued| queued.bytes).sum();
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.counters.disconnected.inc_by(dropped.len() as u64);
        }
        self.counters.queue_bytes.set(self.bytes() as i64);
    }
}

/// The messages of a queue as frames, the handshake first. Taken by the connection itself, as fast as the peer's flow
/// control allows; what is queued meanwhile travels in one frame.
#[derive(Debug)]
pub struct Frames {
    queue: Arc<LaneQueue>,
    stream: u64,
    handshake: Option<proto::Handshake>,
    /// Taken from the queue and not framed yet.
    taken: VecDeque<Queued>,
    frame_bytes: usize,
    max_frame_bytes: usize,
    marks: Arc<Marks>,
    /// A message that was converted and did not fit into the frame before.
    carried: Option<(proto::ShardMessage, usize)>,
}

/// Bytes of a message's tag and length within a frame, at most.
const FIELD_OVERHEAD: usize = 6;

impl Frames {
    /// A stream that begins with `handshake`. Ends every older stream of the same queue.
    #[must_use]
    pub fn new(
        queue: Arc<LaneQueue>,
        handshake: proto::Handshake,
        frame_bytes: usize,
        max_frame_bytes: usize,
        marks: Arc<Marks>,
    ) -> Self {
        let stream = {
            let mut waiting = queue.waiting.lock();
            waiting.stream += 1;
            waiting.stream
        };
        Self {
            queue,
            stream,
            handshake: Some(handshake),
            taken: VecDeque::new(),
            frame_bytes,
            max_frame_bytes,
            marks,
            carried: None,
        }
    }

    /// Cuts the next frame from what was taken, by the messages' real size.
    fn next_frame(&mut self, alive: Option<proto::Alive>) -> Option<proto::Frame> {
        let mut messages = Vec::with_capacity(self.taken.len().min(256) + 1);
        let mut frame_bytes = 0;
        if let Some((message, bytes)) = self.carried.take() {
            frame_bytes = bytes;
            messages.push(message);
        }
        let mut released = 0;
        while frame_bytes < self.frame_bytes
            && let Some(queued) = self.taken.pop_front()
        {
            released += queued.bytes;
            let message = wire::encode_message(queued.shard, queued.message);
            let bytes = message.encoded_len() + FIELD_OVERHEAD;
            if bytes > self.max_frame_bytes {
                // The limits of entries forbid it; the peer would end the stream, and all shards would suffer.
                tracing::error!(
                    shard = message.shard_id,
                    bytes,
                    limit = self.max_frame_bytes,
                    "message dropped: it is larger than peers accept"
                );
                self.queue.counters.too_large.inc();
                continue;
            }
            if frame_bytes + bytes > self.frame_bytes && !messages.is_empty() {
                self.carried = Some((message, bytes));
                break;
            }
            frame_bytes += bytes;
            messages.push(message);
        }
        let counters = &self.queue.counters;
        let left = self.queue.bytes.fetch_sub(released, Ordering::Relaxed) - released;
        counters.queue_bytes.set(left as i64);
        if messages.is_empty() && alive.is_none() {
            return None;
        }
        counters.frames.inc();
        counters.messages.inc_by(messages.len() as u64);
        counters.sent_bytes.inc_by(frame_bytes as u64);
        Some(proto::Frame {
            handshake: None,
            messages,
            alive,
            // Read after the messages were taken, which came after the writes that they rest on.
            written: self.marks.written(),
        })
    }
}

impl Stream for Frames {
    type Item = proto::Frame;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<proto::Frame>> {
        let this = self.get_mut();
        if let Some(handshake) = this.handshake.take() {
            return Poll::Ready(Some(proto::Frame {
                handshake: Some(handshake),
                ..proto::Frame::default()
            }));
        }
        loop {
            let mut alive = None;
            if this.taken.is_empty() && this.carried.is_none() {
                let mut waiting = this.queue.waiting.lock();
                if waiting.stream != this.stream {
                    return Poll::Ready(None);
                }
                alive = waiting.alive.take();
                if waiting.messages.is_empty() && alive.is_none() {
                    if waiting.closed {
                        return Poll::Ready(None);
                    }
                    match &mut waiting.waker {
                        Some(waker) => waker.clone_from(cx.waker()),
                        none => *none = Some(cx.waker().clone()),
                    }
                    return Poll::Pending;
                }
                // The emptied list goes back, so that neither side allocates again.
                this.taken.shrink_to(KEPT);
                std::mem::swap(&mut waiting.messages, &mut this.taken);
            }
            if let Some(frame) = this.next_frame(alive) {
                return Poll::Ready(Some(frame));
            }
        }
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        self.queue.release_unsent(&self.taken);
        if self.carried.take().is_some() {
            self.queue.counters.disconnected.inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, StreamExt as _};

    use super::*;
    use flotilla_shards::raft::{Entry, Index, MessageKind};

    fn message(index: u64, payload: usize) -> Queued {
        let message = Message {
            kind: MessageKind::App,
            to: flotilla_shards::raft::ReplicaId(2),
            from: flotilla_shards::raft::ReplicaId(1),
            index: Index(index),
            entries: vec![Entry {
                index: Index(index + 1),
                data: vec![7; payload].into(),
                ..Entry::default()
            }],
            ..Message::default()
        };
        Queued::new(ShardId(9), message)
    }

    fn queue(limit: usize) -> (Arc<LaneQueue>, Metrics) {
        let metrics = Metrics::new().expect("metrics");
        let queue = LaneQueue::new(NodeId(2), proto::Lane::Bulk, limit, &metrics);
        (Arc::new(queue), metrics)
    }

    fn frames(queue: &Arc<LaneQueue>, frame_bytes: usize) -> Frames {
        let mut frames = Frames::new(
            Arc::clone(queue),
            proto::Handshake::default(),
            frame_bytes,
            1 << 20,
            Arc::default(),
        );
        let first = frames.next().now_or_never().flatten().expect("handshake");
        assert!(first.handshake.is_some() && first.messages.is_empty());
        frames
    }

    #[test]
    fn frames_are_cut_by_their_encoded_size_and_keep_the_order() {
        let (queue, _metrics) = queue(1 << 20);
        queue.push((0..100).map(|index| message(index, 100)).collect());
        let mut frames = frames(&queue, 1000);
        let (mut indexes, mut count) = (Vec::new(), 0);
        while let Some(Some(frame)) = frames.next().now_or_never() {
            count += 1;
            assert!(frame.encoded_len() <= 1000, "{}", frame.encoded_len());
            indexes.extend(frame.messages.iter().map(|message| message.index));
        }
        assert_eq!(indexes, (0..100).collect::<Vec<_>>());
        assert!(count < 20, "{count} frames for about 12 KiB");
        assert_eq!(queue.bytes(), 0);
    }

    #[test]
    fn a_message_larger_than_a_frame_travels_alone_and_one_beyond_the_limit_not_at_all() {
        let (queue, metrics) = queue(8 << 20);
        queue.push(vec![
            message(0, 10),
            message(1, 5000),
            message(2, 2 << 20),
            message(3, 10),
        ]);
        let mut frames = frames(&queue, 1000);
        let mut seen = Vec::new();
        while let Some(Some(frame)) = frames.next().now_or_never() {
            seen.push(
                frame
                    .messages
                    .iter()
                    .map(|message| message.index)
                    .collect::<Vec<_>>(),
            );
        }
        assert_eq!(seen, [vec![0], vec![1], vec![3]]);
        let dropped = metrics.dropped_messages.peer(2);
        assert_eq!(dropped.of(DropReason::TooLarge).get(), 1);
    }

    #[test]
    fn a_full_queue_drops_the_newest_and_counts_them() {
        let (queue, metrics) = queue(10 * (MESSAGE_OVERHEAD + ENTRY_OVERHEAD + 100));
        queue.push((0..25).map(|index| message(index, 100)).collect());
        queue.push(vec![message(25, 100)]);
        let dropped = metrics.dropped_messages.peer(2);
        assert_eq!(dropped.of(DropReason::QueueFull).get(), 16);
        let mut frames = frames(&queue, 1 << 20);
        let frame = frames.next().now_or_never().flatten().expect("a frame");
        let indexes: Vec<u64> = frame.messages.iter().map(|message| message.index).collect();
        assert_eq!(indexes, (0..10).collect::<Vec<_>>());
        queue.push(vec![message(26, 100)]);
        assert!(frames.next().now_or_never().flatten().is_some());
    }

    #[test]
    fn what_a_broken_connection_leaves_behind_is_dropped_and_counted() {
        let (queue, metrics) = queue(1 << 20);
        queue.push((0..20).map(|index| message(index, 100)).collect());
        let mut taken = frames(&queue, 300);
        assert!(taken.next().now_or_never().flatten().is_some());
        queue.push(vec![message(20, 100)]);
        let sent = metrics
            .sent_messages
            .peer(2)
            .of(flotilla_metrics::Lane::Bulk)
            .get();
        drop(taken);
        queue.discard();
        assert_eq!(queue.bytes(), 0);
        let dropped = metrics.dropped_messages.peer(2);
        assert_eq!(dropped.of(DropReason::Disconnected).get(), 21 - sent);
    }

    #[test]
    fn a_sign_of_life_travels_with_what_waits_or_alone_and_only_the_newest() {
        let (queue, _metrics) = queue(1 << 20);
        let mut frames = frames(&queue, 1 << 20);
        let word = |incarnation| proto::Alive {
            incarnation,
            wall_ms: 7,
        };
        for incarnation in [1, 2] {
            queue.say_alive(word(incarnation));
        }
        queue.push(vec![message(0, 1)]);
        let frame = frames.next().now_or_never().flatten().expect("a frame");
        assert_eq!(frame.messages.len(), 1);
        assert_eq!(frame.alive, Some(word(2)));
        assert!(frames.next().now_or_never().is_none());
        queue.say_alive(word(2));
        let frame = frames.next().now_or_never().flatten().expect("a frame");
        assert!(frame.messages.is_empty() && frame.alive.is_some());
    }

    #[test]
    fn a_newer_stream_takes_over() {
        let (queue, _metrics) = queue(1 << 20);
        let mut old = frames(&queue, 1000);
        assert!(old.next().now_or_never().is_none());
        let mut new = frames(&queue, 1000);
        queue.push(vec![message(0, 1)]);
        assert_eq!(old.next().now_or_never(), Some(None));
        assert!(new.next().now_or_never().flatten().is_some());
    }

    #[test]
    fn a_closed_queue_ends_its_stream() {
        let (queue, _metrics) = queue(1 << 20);
        let mut frames = frames(&queue, 1000);
        assert!(frames.next().now_or_never().is_none());
        queue.push(vec![message(0, 1)]);
        queue.close();
        queue.push(vec![message(1, 1)]);
        let frame = frames.next().now_or_never().flatten().expect("the rest");
        assert_eq!(frame.messages.len(), 1);
        assert_eq!(frames.next().now_or_never(), Some(None));
    }
}
