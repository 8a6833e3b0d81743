//! The state database, as the services read it. A read that fails is this node's failure and no answer to a request: the
//! node ends, and others serve what it could not.

use std::sync::Arc;

use bytes::Bytes;
use flotilla_shards::{
    keys::RowRange,
    kv::{Order, StateView, ViewError, Visit},
};

use super::fatal::Fatal;
use crate::{
    server::StateReader,
    storage::{RocksState, StorageError, View},
};

pub(super) struct Reader {
    pub(super) state: Arc<RocksState>,
    pub(super) fatal: Fatal,
}

impl StateReader for Reader {
    fn with_view(&self, read: &mut dyn FnMut(&dyn StateView)) {
        let view = self.state.view();
        read(&Watched {
            view,
            fatal: &self.fatal,
        });
    }
}

/// A view whose errors end the node.
struct Watched<'a> {
    view: View<'a>,
    fatal: &'a Fatal,
}

impl Watched<'_> {
    fn tell<T>(&self, result: Result<T, ViewError>) -> Result<T, ViewError> {
        result.inspect_err(|error| {
            self.fatal
                .storage(StorageError::view("node::reader", error));
        })
    }
}

impl StateView for Watched<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        self.tell(self.view.get(key))
    }

    fn scan(&self, range: &RowRange, order: Order, visit: &mut Visit<'_>) -> Result<(), ViewError> {
        self.tell(self.view.scan(range, order, visit))
    }
}
