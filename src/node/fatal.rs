//! The first failure that a node can't go on after. Shards share one disk and one memory: when one of them can't be
//! trusted, the process ends, with its own message and exit code.

use std::sync::Arc;

use flotilla_shards::ids::ShardId;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::storage::StorageError;

/// What went wrong.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FatalError {
    /// A write, a sync or a read of the disk failed, or what was read makes no sense.
    #[error("{0}")]
    Storage(Arc<StorageError>),
    /// A replica can't go on.
    #[error("shard {shard} can't go on: {reason}")]
    Shard {
        /// Which shard.
        shard: ShardId,
        /// Why.
        reason: String,
    },
    /// Another node has seen this one's store further than it is.
    #[error("another node refuses this one: {0}")]
    Outdated(String),
}

/// Takes the first failure and wakes who waits for it; later ones are logged only.
#[derive(Clone, Debug)]
pub(super) struct Fatal {
    first: Arc<Mutex<Option<FatalError>>>,
    happened: watch::Sender<bool>,
}

impl Fatal {
    pub(super) fn new() -> Self {
        Self {
            first: Arc::default(),
            happened: watch::Sender::new(false),
        }
    }

    pub(super) fn storage(&self, error: StorageError) {
        self.set(FatalError::Storage(Arc::new(error)));
    }

    pub(super) fn shard(&self, shard: ShardId, reason: String) {
        self.set(FatalError::Shard { shard, reason });
    }

    pub(super) fn outdated(&self, reason: String) {
        self.set(FatalError::Outdated(reason));
    }

    fn set(&self, error: FatalError) {
        tracing::error!(%error, "this node can't go on");
        self.first.lock().get_or_insert(error);
        self.happened.send_replace(true);
    }

    /// Resolves when something fatal has happened.
    pub(super) async fn wait(&self) -> FatalError {
        let mut happened = self.happened.subscribe();
        loop {
            if let Some(error) = self.first.lock().clone() {
                return error;
            }
            // The sender is owned by `self`, so this ends by a change only.
            let _ = happened.changed().await;
        }
    }
}
