//! What connects the workers with storage, transport and router, in both directions. No decisions: each method hands
//! something on.

use std::sync::Arc;

use flotilla_proto::v1 as proto;
use flotilla_shards::{
    engine::{Apply, Compaction, LogAppend, Outgoing, Release, RoleChange, SnapshotSend},
    ids::{NodeId, ShardId},
    raft::{EntryId, Message, Role},
};

use super::fatal::Fatal;
use crate::{
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
        let inboxes = self.inboxes.clone();
        let done = move |outcome| {
            if let SendOutcome::Failed(reason) = &outcome {
                tracing::warn!(%shard, %node, reason, "snapshot was not sent; Raft asks for it again");
            }
            inboxes.snapshot_sent(shard, node, outcome == SendOutcome::Done);
        };
        self.transport
            .send_snapshot(node, shard, Box::new(source), Box::new(done));
    }

    fn changed(&self, changes: &[RoleChange]) {
        for change in changes {
            self.router.note_change(change);
            if change.role == Role::Leader {
                tracing::info!(shard = %change.shard, term = %change.term, "leads");
            } else if let Some(leader) = change.leader {
                tracing::debug!(shard = %change.shard, term = %change.term, %leader, "follows");
            }
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

/// From other nodes to the workers.
pub(super) struct Inwards {
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
        self.inboxes.alive(from, incarnation);
    }

    fn outdated(&self, reason: String) {
        self.fatal.outdated(reason);
    }

    fn unreachable(&self, node: NodeId) {
        self.inboxes.unreachable(node);
    }

    fn moved(&self, node: proto::Node) {
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
        Ok(Box::new(Sink {
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
            import,
            inboxes,
            shard,
            mut message,
        } = *self;
        let meta = import.finish().map_err(refused)?;
        if let Some(snapshot) = &mut message.snapshot {
            snapshot.meta = meta;
        }
        // From here on Raft decides whether it is installed; if not, the next one replaces it.
        inboxes.peer(vec![(shard, message)]);
        Ok(())
    }
}

fn refused(error: ImportError) -> SnapshotRefused {
    let text = error.to_string();
    match error {
        ImportError::Storage(_) => SnapshotRefused::Storage(text),
        _ => SnapshotRefused::Malformed(text),
    }
}
