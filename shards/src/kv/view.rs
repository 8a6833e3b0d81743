//! How the rules see the state database.

use crate::keys::RowRange;
use bytes::Bytes;
use std::error::Error;
use std::ops::ControlFlow;

/// Reading the state database failed: the disk's or the database's fault, never an answer to a request. A node that
/// cannot read its state cannot go on.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the state database")]
pub struct ViewError(#[source] pub Box<dyn Error + Send + Sync>);

/// In which order rows are visited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// From the start of the range on.
    #[default]
    Ascending,
    /// From its end back.
    Descending,
}

/// What a scan calls with each row's key and value. It says whether to go on.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// Rows of the state database as of one moment. Keys are those of [`keys`](crate::keys).
///
/// All calls on one view see the same moment: the node takes a snapshot of its database, and nobody writes while the
/// applier reads.
pub trait StateView {
    /// The value of the row at `key`.
    ///
    /// # Errors
    /// If the database cannot be read.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError>;

    /// Visits the rows of `range` until `visit` breaks.
    ///
    /// # Errors
    /// If the database cannot be read.
    fn scan(&self, range: &RowRange, order: Order, visit: &mut Visit<'_>) -> Result<(), ViewError>;
}

impl<V: StateView + ?Sized> StateView for &V {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        (**self).get(key)
    }

    fn scan(&self, range: &RowRange, order: Order, visit: &mut Visit<'_>) -> Result<(), ViewError> {
        (**self).scan(range, order, visit)
    }
}
