//! What connects the workers with storage, transport and router, in both directions. No decisions: each method hands
//! something on.

use std::{collections::BTreeMap, sync::Arc};

use flotilla_proto::v1 as proto;
use flotilla_shards::{
    engine::{Apply, Compaction, LogAppend, Outgoing, Release, RoleChange, SnapshotSend},
    ids::{NodeId, ShardId},
    raft::{EntryId, Message, Role},
};

use parking_lot::Mutex;
use smallvec::SmallVec;

use super::fatal::Fatal;
use crate::{
    events::{Event, Events},
    router::Router,
    runtime::{
        Inboxes, Reply, Surroundings,
        applier::{Applier, ApplierEvent},
    },
    storage::{Export, Import, ImportError, RocksState, StorageError, StorageWriter},
    transport::{
        Inbound, OpenSnapshot, SnapshotSource, Transport,
        snapshot::{SendOutcome, SnapshotRefused, SnapshotSink},
    },
};

/// From the workers outwards.
#[derive(Clone)]
pub(super) struct Outwards {
    pub(super) transport: Transport,
    pub(super) writer: Arc<StorageWriter>,
    pub(super) applier: Arc<Applier>,
    pub(super) router: Arc<Router>,
    pub(super) state: Arc<RocksState>,
    pub(super) inboxes: Inboxes,
    pub(super) fatal: Fatal,
    pub(super) events: Arc<Events>,
    /// Different at each start.
    pub(super) incarnation: u64,
}

impl Surroundings for Outwards {
    fn send(&self, messages: Vec<Outgoing>) {
        self.transport.send(messages);
    }

    fn write(&self, appends: Vec<LogAppend>) {
        self.writer.submit(appends);
    }

    fn apply(&self, applies: Vec<Apply<Reply>>) {
        self.applier.submit(applies);
    }

    fn compact(&self, compactions: Vec<Compaction>) {
        self.writer.compact(compactions);
    }

    fn alive(&self) {
        self.transport.say_alive(self.incarnation);
    }

    fn snapshot(&self, send: SnapshotSend) {
        let SnapshotSend {
            node,
            shard,
            message,
        } = send;
        let source = Source {
            state: Arc::clone(&self.state),
            fatal: self.fatal.clone(),
            shard,
            message,
        };
        let (inboxes, events) = (self.inboxes.clone(), Arc::clone(&self.events));
        let done = move |outcome| {
            if let SendOutcome::Failed(reason) = &outcome {
                tracing::warn!(%shard, %node, reason, "snapshot was not sent; Raft asks for it again");
                let reason = reason.clone();
                events.note(Event::SnapshotNotSent {
                    shard,
                    node,
                    reason,
                });
            } else if outcome == SendOutcome::Done {
                events.note(Event::SnapshotSent { shard, node });
            }
            inboxes.snapshot_sent(shard, node, outcome == SendOutcome::Done);
        };
        self.transport
            .send_snapshot(node, shard, Box::new(source), Box::new(done));
    }

    fn changed(&self, changes: &[RoleChange]) {
        let mut events = SmallVec::<[Event; 4]>::new();
        for change in changes {
            let RoleChange {
                shard,
                term,
                leader,
                role,
            } = *change;
            let led = self.router.leader(shard) == Some(self.router.local());
            self.router.note_change(change);
            if role == Role::Leader {
                tracing::info!(%shard, %term, "leads");
                events.push(Event::Leads { shard, term });
            } else if led {
                events.push(Event::StepsDown {
                    shard,
                    term,
                    leader,
                });
            }
            if let Some(leader) = leader
                && role != Role::Leader
            {
                tracing::debug!(%shard, %term, %leader, "follows");
            }
        }
        if !events.is_empty() {
            self.events.note_all(events);
        }
    }

    fn failed(&self, shard: ShardId, reason: String) {
        self.fatal.shard(shard, reason);
    }
}

/// What a durable log write lets go: messages to other nodes, answers to the workers.
pub(super) fn release(transport: &Transport, inboxes: &Inboxes, releases: Vec<Release>) {
    let mut messages = Vec::new();
    let mut local = Vec::new();
    for release in releases {
        messages.extend(release.messages);
        local.extend(release.local);
    }
    if !messages.is_empty() {
        transport.send(messages);
    }
    if !local.is_empty() {
        inboxes.local(local);
    }
}

/// What the applier has done, for the workers.
pub(super) fn applied(inboxes: &Inboxes, event: ApplierEvent) {
    match event {
        ApplierEvent::Applied(done) => inboxes.local(done),
        ApplierEvent::Flushed(flushed) => inboxes.flushed(flushed),
    }
}

/// The other nodes that live, with the number of their start.
#[derive(Default)]
pub(super) struct Heard(Mutex<BTreeMap<NodeId, Start>>);

struct Start {
    incarnation: u64,
    lost: bool,
}

impl Heard {
    /// A node says that it lives. What is news in that.
    fn alive(&self, node: NodeId, incarnation: u64) -> Option<Event> {
        let now = Start {
            incarnation,
            lost: false,
        };
        match self.0.lock().insert(node, now) {
            Some(before) if before.incarnation != incarnation => {
                Some(Event::NodeRestarted { node })
            }
            Some(Start { lost: false, .. }) => None,
            _ => Some(Event::NodeHeard { node }),
        }
    }

    fn lost(&self, node: NodeId) {
        if let Some(start) = self.0.lock().get_mut(&node) {
            start.lost = true;
        }
    }
}

/// From other nodes to the workers.
pub(super) struct Inwards {
    pub(super) events: Arc<Events>,
    pub(super) heard: Heard,
    pub(super) inboxes: Inboxes,
    pub(super) router: Arc<Router>,
    pub(super) state: Arc<RocksState>,
    pub(super) fatal: Fatal,
}

impl Inbound for Inwards {
    fn deliver(&self, from: NodeId, messages: Vec<(ShardId, Message)>) {
        let dropped = self.inboxes.peer(messages);
        if dropped > 0 {
            tracing::debug!(%from, dropped, "the worker is behind: messages dropped");
        }
    }

    fn alive(&self, from: NodeId, incarnation: u64) {
        if let Some(event) = self.heard.alive(from, incarnation) {
            self.events.note(event);
        }
        self.inboxes.alive(from, incarnation);
    }

    fn outdated(&self, reason: String) {
        self.fatal.outdated(reason);
    }

    fn unreachable(&self, node: NodeId) {
        self.heard.lost(node);
        self.events.note(Event::NodeLost { node });
        self.inboxes.unreachable(node);
    }

    fn moved(&self, node: proto::Node) {
        self.events.note(Event::NodeMoved {
            node: NodeId(node.node_id),
            address: node.address.clone(),
        });
        self.router.update_node(node);
    }

    fn begin_snapshot(
        &self,
        from: NodeId,
        shard: ShardId,
        message: Message,
    ) -> Result<Box<dyn SnapshotSink>, SnapshotRefused> {
        let meta = message.snapshot.as_ref().map(|snapshot| &snapshot.meta);
        let meta = meta.ok_or_else(|| {
            SnapshotRefused::Malformed("the announcing message holds no snapshot".to_owned())
        })?;
        let position = EntryId {
            term: meta.term,
            index: meta.index,
        };
        tracing::info!(%from, %shard, index = %meta.index, "receiving a snapshot");
        let import = Import::begin(Arc::clone(&self.state), shard, position)
            .map_err(|error| SnapshotRefused::Storage(error.to_string()))?;
        let (node, index) = (from, meta.index);
        self.events
            .note(Event::SnapshotBegun { shard, node, index });
        Ok(Box::new(Sink {
            told: Told {
                events: Arc::clone(&self.events),
                shard,
                node,
                complete: false,
            },
            import,
            inboxes: self.inboxes.clone(),
            shard,
            message,
        }))
    }
}

/// A snapshot to send: opened when its turn comes, so that it is as new as can be.
struct Source {
    state: Arc<RocksState>,
    fatal: Fatal,
    shard: ShardId,
    message: Message,
}

impl SnapshotSource for Source {
    fn open(self: Box<Self>) -> Result<OpenSnapshot, String> {
        let Self {
            state,
            fatal,
            shard,
            mut message,
        } = *self;
        // The own disk could not be read: a failure of this node, not of the sending.
        let failed = move |error: StorageError| {
            let text = error.to_string();
            fatal.storage(error);
            text
        };
        let export = Export::start(state, shard).map_err(&failed)?;
        // The message speaks of the content that is really sent.
        if let Some(snapshot) = &mut message.snapshot {
            snapshot.meta = export.meta.clone();
        }
        let chunks = export.map(move |chunk| chunk.map_err(&failed));
        Ok(OpenSnapshot {
            message,
            chunks: Box::new(chunks),
        })
    }
}

/// A snapshot that is being received.
struct Sink {
    told: Told,
    import: Import,
    inboxes: Inboxes,
    shard: ShardId,
    message: Message,
}

impl SnapshotSink for Sink {
    fn chunk(&mut self, chunk: proto::SnapshotChunk) -> Result<(), SnapshotRefused> {
        self.import.chunk(chunk).map_err(refused)
    }

    fn finish(self: Box<Self>) -> Result<(), SnapshotRefused> {
        let Self {
            mut told,
            import,
            inboxes,
            shard,
            mut message,
        } = *self;
        let meta = import.finish().map_err(refused)?;
        told.complete = true;
        if let Some(snapshot) = &mut message.snapshot {
            snapshot.meta = meta;
        }
        // From here on Raft decides whether it is installed; if not, the next one replaces it.
        inboxes.peer(vec![(shard, message)]);
        Ok(())
    }
}

/// Notes how the receiving of a snapshot ended, in whatever way it does.
struct Told {
    events: Arc<Events>,
    shard: ShardId,
    node: NodeId,
    complete: bool,
}

impl Drop for Told {
    fn drop(&mut self) {
        let (shard, node) = (self.shard, self.node);
        self.events.note(match self.complete {
            true => Event::SnapshotReceived { shard, node },
            false => Event::SnapshotNotReceived { shard, node },
        });
    }
}

fn refused(error: ImportError) -> SnapshotRefused {
    let text = error.to_string();
    match error {
        ImportError::Storage(_) => SnapshotRefused::Storage(text),
        _ => SnapshotRefused::Malformed(text),
    }
}
