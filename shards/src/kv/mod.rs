//! The key-value state machine's rules: what a command does to a shard's state, and what a read may see of it.
//!
//! The state itself lies in a database of the embedder, seen through [`StateView`] and changed through [`StateBatch`].
//! [`StateMachine`] is the part of it that is kept in memory; it can be had again from the rows at any time. All that
//! happens here is a function of the log: no clock, no configuration, no order of a hash map.
//!
//! - a request comes in through [`request`], which holds it against the limits and makes a command of it;
//! - the command comes back out of the log into [`StateMachine::apply_entry`];
//! - how far each shard has come is kept by a [`Journal`] and read by [`positions`];
//! - reads go through [`read`].

mod batch;
mod journal;
mod machine;
pub mod membership;
mod memory;
pub mod positions;
pub mod read;
pub mod request;
mod sessions;
mod state;
mod view;
mod write;

pub use batch::StateBatch;
pub use journal::{Journal, JournalLimits};
pub use machine::{ApplyError, StateMachine};
pub use memory::MemoryState;
pub use state::{ShardState, ShardStateError};
pub use view::{Order, StateView, ViewError, Visit};
