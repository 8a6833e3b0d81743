//! How far this store has come and how far others were seen, as the running node has it: the log database stores it, the
//! transport tells it and learns it, and neither knows the other. The rules are in [`flotilla_shards::lineage`].

use std::sync::atomic::{AtomicU64, Ordering};

use flotilla_proto::v1 as proto;
use flotilla_shards::{
    ids::NodeId,
    lineage::{Acquaintances, Lineage, Mark, WentBack},
};
use parking_lot::Mutex;

/// See the module. One for each open store; written by the log, read by everybody.
#[derive(Debug, Default)]
pub struct Marks {
    lineage: Mutex<Lineage>,
    /// Synced writes of this store.
    written: AtomicU64,
    others: Mutex<Acquaintances>,
}

impl Marks {
    /// Those of a store that was opened, before its start is noted.
    pub(crate) fn set(&self, lineage: Lineage, written: u64, others: Acquaintances) {
        *self.lineage.lock() = lineage;
        self.written.store(written, Ordering::Release);
        *self.others.lock() = others;
    }

    /// The process has started from this store.
    pub fn begin(&self, start: u64) {
        let written = self.written();
        self.lineage.lock().begin(Mark { start, written });
    }

    /// Synced writes of this store. Whatever a sent message rests on is among them.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// So many writes are durable.
    pub(crate) fn advance(&self, written: u64) {
        self.written.store(written, Ordering::Release);
    }

    /// The starts of this store.
    #[must_use]
    pub fn lineage(&self) -> Lineage {
        self.lineage.lock().clone()
    }

    /// Another node comes with this store.
    ///
    /// # Errors
    /// [`WentBack`] if it is older than it was seen.
    pub fn meet(&self, node: NodeId, lineage: &Lineage) -> Result<(), WentBack> {
        self.others.lock().meet(node, lineage)
    }

    /// A node that was met tells how far its store is.
    pub fn hear(&self, node: NodeId, mark: Mark) {
        self.others.lock().hear(node, mark);
    }

    /// How far the store of a node was seen.
    #[must_use]
    pub fn seen(&self, node: NodeId) -> Option<Mark> {
        self.others.lock().seen(node)
    }

    /// Whether there is news of other stores since they were last written.
    pub(crate) fn take_news(&self) -> bool {
        self.others.lock().take_changed()
    }

    /// The row that says so, once `written` writes are durable.
    pub(crate) fn row(&self, written: u64) -> proto::StoreMarks {
        let others = self.others.lock();
        proto::StoreMarks {
            written,
            others: (others.iter())
                .map(|(node, mark)| proto::SeenMark {
                    node_id: node.0,
                    mark: Some(mark.into()),
                })
                .collect(),
        }
    }
}
