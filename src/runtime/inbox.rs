//! The mailboxes of the workers: everything that the engine is told comes through here, in batches where it comes in
//! batches. A shard belongs to one worker, by its id; nobody else touches it.
//!
//! The channels have no bound of their own. What flows in them has: requests by the node's [`Budget`](super::Budget),
//! messages of peers by [`PEER_BYTES_MAX`], answers of local threads by the writes and entries that the engine has
//! handed out.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use crossbeam_channel::{Receiver, Sender, unbounded};
use flotilla_proto::v1::Command;
use flotilla_shards::{
    engine::Engine,
    ids::{NodeId, ShardId},
    raft::{Index, Message},
};

use super::Reply;
use crate::storage::RocksLogReader;

/// Bytes of peers' messages that may wait for one worker. Beyond that frames are dropped: Raft sends again, and the
/// sender's flow control slows it down.
const PEER_BYTES_MAX: usize = 64 << 20;
/// What a message weighs at least, so that no more than 65,536 wait: a worker needs some microseconds for each, and who
/// hears from a node a second too late takes it for dead.
const MESSAGE_WEIGHT: usize = 1 << 10;

/// The engine as the node runs it.
pub type NodeEngine = Engine<Reply, RocksLogReader>;

/// What a client asks of a shard.
#[derive(Debug)]
pub enum ShardRequest {
    /// A write, checked against the limits.
    Write {
        /// What to do.
        command: Command,
        /// Its encoded length.
        bytes: usize,
    },
    /// Confirmation that the local state may be read linearizably.
    Read,
}

/// One input of a worker.
pub(super) enum Input {
    Request(ShardId, ShardRequest, Reply),
    Peer {
        messages: Vec<(ShardId, Message)>,
        bytes: usize,
    },
    Local(Vec<(ShardId, Message)>),
    Flushed(Vec<(ShardId, Index)>),
    Alive {
        node: NodeId,
        incarnation: u64,
    },
    Unreachable(NodeId),
    SnapshotSent {
        shard: ShardId,
        node: NodeId,
        ok: bool,
    },
    /// Rare questions and commands of operators.
    Ask(Box<dyn FnOnce(&mut NodeEngine) + Send>),
    Stop,
}

struct Inbox {
    sender: Sender<Input>,
    peer_bytes: Arc<AtomicUsize>,
}

/// A worker's end of its mailbox.
pub(super) struct Mailbox {
    pub(super) receiver: Receiver<Input>,
    pub(super) peer_bytes: Arc<AtomicUsize>,
}

/// All workers' mailboxes, from the outside.
#[derive(Clone)]
pub struct Inboxes {
    inboxes: Arc<[Inbox]>,
}

impl std::fmt::Debug for Inboxes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Inboxes({})", self.inboxes.len())
    }
}

impl Inboxes {
    /// Mailboxes for so many workers, at least one.
    pub(super) fn new(workers: usize) -> (Self, Vec<Mailbox>) {
        let (inboxes, mailboxes): (Vec<_>, Vec<_>) = (0..workers.max(1))
            .map(|_| {
                let (sender, receiver) = unbounded();
                let peer_bytes = Arc::new(AtomicUsize::new(0));
                let mailbox = Mailbox {
                    receiver,
                    peer_bytes: Arc::clone(&peer_bytes),
                };
                (Inbox { sender, peer_bytes }, mailbox)
            })
            .unzip();
        let inboxes = inboxes.into();
        (Self { inboxes }, mailboxes)
    }

    /// Number of workers.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.inboxes.len()
    }

    /// Which worker owns a shard.
    #[must_use]
    pub fn worker_of(&self, shard: ShardId) -> usize {
        (shard.0 % self.inboxes.len() as u64) as usize
    }

    /// Splits a batch by worker; with one worker it passes through untouched.
    fn split<T>(
        &self,
        items: Vec<(ShardId, T)>,
    ) -> impl Iterator<Item = (&Inbox, Vec<(ShardId, T)>)> {
        let mut parts: Vec<Vec<(ShardId, T)>>;
        if let [_] = &*self.inboxes {
            parts = vec![items];
        } else {
            parts = self.inboxes.iter().map(|_| Vec::new()).collect();
            for (shard, item) in items {
                parts[self.worker_of(shard)].push((shard, item));
            }
        }
        self.inboxes
            .iter()
            .zip(parts)
            .filter(|(_, part)| !part.is_empty())
    }

    /// Sends are lost only after the workers have stopped, when nobody waits for an effect any more.
    fn send(inbox: &Inbox, input: Input) {
        let _ = inbox.sender.send(input);
    }

    pub(super) fn request(&self, shard: ShardId, request: ShardRequest, reply: Reply) {
        let inbox = &self.inboxes[self.worker_of(shard)];
        Self::send(inbox, Input::Request(shard, request, reply));
    }

    /// Messages of another node. Returns how many were dropped because the worker is behind.
    pub fn peer(&self, messages: Vec<(ShardId, Message)>) -> usize {
        let mut dropped = 0;
        for (inbox, messages) in self.split(messages) {
            let bytes = messages.iter().map(|(_, message)| weight(message)).sum();
            if inbox.peer_bytes.fetch_add(bytes, Relaxed) + bytes > PEER_BYTES_MAX {
                inbox.peer_bytes.fetch_sub(bytes, Relaxed);
                dropped += messages.len();
            } else {
                Self::send(inbox, Input::Peer { messages, bytes });
            }
        }
        dropped
    }

    /// Answers of the storage writer and the applier.
    pub fn local(&self, messages: Vec<(ShardId, Message)>) {
        for (inbox, messages) in self.split(messages) {
            Self::send(inbox, Input::Local(messages));
        }
    }

    /// Applied indexes that are durable in the state database.
    pub fn flushed(&self, flushed: Vec<(ShardId, Index)>) {
        for (inbox, flushed) in self.split(flushed) {
            Self::send(inbox, Input::Flushed(flushed));
        }
    }

    /// Another node lives.
    pub fn alive(&self, node: NodeId, incarnation: u64) {
        for inbox in &*self.inboxes {
            Self::send(inbox, Input::Alive { node, incarnation });
        }
    }

    /// The link to a node broke.
    pub fn unreachable(&self, node: NodeId) {
        for inbox in &*self.inboxes {
            Self::send(inbox, Input::Unreachable(node));
        }
    }

    /// How a snapshot's sending ended.
    pub fn snapshot_sent(&self, shard: ShardId, node: NodeId, ok: bool) {
        let inbox = &self.inboxes[self.worker_of(shard)];
        Self::send(inbox, Input::SnapshotSent { shard, node, ok });
    }

    /// Runs a closure on the worker that owns a shard.
    pub(super) fn ask(&self, shard: ShardId, ask: impl FnOnce(&mut NodeEngine) + Send + 'static) {
        let inbox = &self.inboxes[self.worker_of(shard)];
        Self::send(inbox, Input::Ask(Box::new(ask)));
    }

    /// Runs a closure on every worker.
    pub(super) fn ask_all(&self, ask: impl Fn(&mut NodeEngine) + Clone + Send + 'static) {
        for inbox in &*self.inboxes {
            let ask = ask.clone();
            Self::send(inbox, Input::Ask(Box::new(move |engine| ask(engine))));
        }
    }

    pub(super) fn stop(&self) {
        for inbox in &*self.inboxes {
            Self::send(inbox, Input::Stop);
        }
    }
}

fn weight(message: &Message) -> usize {
    let entries: usize = message.entries.iter().map(|entry| entry.data.len()).sum();
    MESSAGE_WEIGHT + entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_messages_wait_for_a_worker_than_it_takes_in_time() {
        let (inboxes, mailboxes) = Inboxes::new(1);
        let frame = |messages: usize| vec![(ShardId(2), Message::default()); messages];
        let most = PEER_BYTES_MAX / MESSAGE_WEIGHT;
        assert_eq!(inboxes.peer(frame(most)), 0);
        assert_eq!(inboxes.peer(frame(3)), 3, "dropped and counted");
        let taken = mailboxes[0].receiver.try_recv();
        let Ok(Input::Peer { messages, bytes }) = taken else {
            panic!("the first frame waits");
        };
        assert_eq!((messages.len(), bytes), (65_536, PEER_BYTES_MAX));
        mailboxes[0].peer_bytes.fetch_sub(bytes, Relaxed);
        assert_eq!(inboxes.peer(frame(3)), 0, "there is room again");
    }
}
