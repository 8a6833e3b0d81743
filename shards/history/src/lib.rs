//! Histories of what clients asked a store and were told, and the judge of whether a correct one could have said so.
//!
//! A test, a simulator or a chaos run records what its clients do in a [`History`], and [`check`] judges it:
//!
//! ```
//! use flotilla_history::{Answer, Call, ClientId, Found, History, Level, Limits, check};
//!
//! let mut history = History::new();
//! let put = Call::Put { key: "a".into(), value: "v1".into() };
//! let write = history.invoke(ClientId(1), put, 10);
//! history.ok(write, Answer::Put { revision: 1 }, 25);
//! let get = Call::Get { key: "a".into(), level: Level::Linearizable };
//! let read = history.invoke(ClientId(2), get, 30);
//! history.ok(read, Answer::Get(None), 35); // but it was written!
//!
//! let report = check(&history, &Limits::default());
//! assert!(!report.passed());
//! println!("{}", report.display(&history));
//! ```
//!
//! # What is judged
//!
//! - **Registers** (get, put, delete, conditional batch, scan): linearizable, key by key; keys that a batch, or a read of
//!   one moment, touches together are judged together. A scan of several pages is one read for each key in its range.
//! - **Revisions**: they grow with time for each key, and one names one write.
//! - **Reads of other levels**: what they found was written before and did not fail; where a replica or a session claims it,
//!   they never go back.
//! - **Lists** (append): exactly once, linearizable, in the order of the session where one is named.
//! - **Counters** (increment): exactly once, linearizable.
//! - **Scans**: in order, in range, no key twice.
//!
//! *Unknown* writes may have happened at any time after their call, or never; what *failed* must never be seen. A judge
//! who gives up is no judge who found nothing: [`Verdict::BudgetExhausted`] is a failure of the run.
//!
//! # What does not live here
//!
//! Clocks, threads, files, and any knowledge of Flotilla's insides: the judge sees what clients see. It is deterministic.
//! A history can be kept as a file of JSON lines, described at [`mod@file`].

mod check;
pub mod file;
mod history;
mod operation;
mod show;
mod text;

pub use check::{Judged, Limits, Report, Rule, Undecided, Verdict, Violation, check};
pub use file::ReadError;
pub use history::{History, Misuse};
pub use operation::{
    Answer, Call, Change, ClientId, Condition, Found, Level, Moment, OpId, Operation, Outcome, Row,
    Test,
};
