//! What clients ask for, what they are told, and one operation of a history.

use crate::text;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A client process: it has at most the order of its own calls in common with others.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct ClientId(pub u64);

/// An operation of a history: its number in the order of invocations, from 0.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct OpId(pub u64);

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c{}", self.0)
    }
}

impl fmt::Display for OpId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// What a read promises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// The newest acknowledged value, from whichever replica.
    #[default]
    Linearizable,
    /// Some value that was written before: possibly old.
    Serializable,
    /// As serializable, and never older than what this client has written or read before (a session's token).
    Monotonic,
    /// As serializable, and answered by one replica (any number that names it), whose answers never go back.
    Replica(u64),
}

impl Level {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A condition of a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    /// On which key.
    #[serde(with = "text")]
    pub key: Bytes,
    /// What must hold for it.
    pub test: Test,
}

/// What a condition says about its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Test {
    /// The key exists, or does not.
    Exists(bool),
    /// The key exists with this value.
    ValueEquals(#[serde(with = "text")] Bytes),
    /// The key has this revision; 0 is that of a key that does not exist.
    RevisionEquals(u64),
}

/// What a batch does to a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Change {
    /// Writes a value.
    Put {
        /// Where.
        #[serde(with = "text")]
        key: Bytes,
        /// What.
        #[serde(with = "text")]
        value: Bytes,
    },
    /// Removes a key, if it exists.
    Delete {
        /// Which.
        #[serde(with = "text")]
        key: Bytes,
    },
}

impl Change {
    /// The key that is changed.
    #[must_use]
    pub fn key(&self) -> &Bytes {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Call {
    /// Reads a key.
    Get {
        /// Which.
        #[serde(with = "text")]
        key: Bytes,
        /// What the read promises.
        #[serde(default, skip_serializing_if = "Level::is_default")]
        level: Level,
    },
    /// Reads several keys.
    BatchGet {
        /// Which, in the order of the answers.
        #[serde(with = "text::list")]
        keys: Vec<Bytes>,
        /// What the read promises.
        #[serde(default, skip_serializing_if = "Level::is_default")]
        level: Level,
        /// Whether all are promised to be of one moment: they lie in one shard, and it was asked once.
        #[serde(default, skip_serializing_if = "is_false")]
        at_once: bool,
    },
    /// Writes a key.
    Put {
        /// Where.
        #[serde(with = "text")]
        key: Bytes,
        /// What. Values that are unique among those written to a key make histories far easier to judge.
        #[serde(with = "text")]
        value: Bytes,
    },
    /// Removes a key.
    Delete {
        /// Which.
        #[serde(with = "text")]
        key: Bytes,
    },
    /// If all conditions hold, makes all changes, in order and as one.
    Batch {
        /// Held against the state before the first change.
        conditions: Vec<Condition>,
        /// What is done if all of them hold.
        changes: Vec<Change>,
    },
    /// Reads the rows of `[start, end)`; an empty end is the end of the keyspace.
    Scan {
        /// First key.
        #[serde(with = "text")]
        start: Bytes,
        /// Key behind the last one.
        #[serde(with = "text")]
        end: Bytes,
        /// From the end back.
        #[serde(default, skip_serializing_if = "is_false")]
        reverse: bool,
        /// What the read promises.
        #[serde(default, skip_serializing_if = "Level::is_default")]
        level: Level,
        /// Whether all rows are promised to be of one moment: one page of one shard.
        #[serde(default, skip_serializing_if = "is_false")]
        at_once: bool,
    },
    /// Puts an element at the end of a list, which is empty in the beginning. How the list lies in keys is the
    /// workload's affair.
    Append {
        /// Name of the list.
        #[serde(with = "text")]
        list: Bytes,
        /// The element: no other append to this list has the same one.
        #[serde(with = "text")]
        element: Bytes,
        /// The session's number and the append's sequence in it, if the elements of the session are promised to stand
        /// in the order of their sequences.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        session: Option<(u64, u64)>,
    },
    /// Reads a whole list.
    ReadList {
        /// Its name.
        #[serde(with = "text")]
        list: Bytes,
    },
    /// Adds one to a counter, which is 0 in the beginning. How the counter lies in a key is the workload's affair.
    Increment {
        /// Name of the counter.
        #[serde(with = "text")]
        counter: Bytes,
    },
    /// Reads a counter.
    ReadCounter {
        /// Its name.
        #[serde(with = "text")]
        counter: Bytes,
    },
}

/// The answer to a call that succeeded, its kind that of the call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Answer {
    /// To `Get`: nothing, or a value.
    Get(Option<Found>),
    /// To `BatchGet`: one per key.
    BatchGet(Vec<Option<Found>>),
    /// To `Put`.
    Put {
        /// The revision that the write got; 0 if it is not known.
        #[serde(default, skip_serializing_if = "is_zero")]
        revision: u64,
    },
    /// To `Delete`.
    Delete {
        /// Whether the key existed.
        deleted: bool,
        /// The revision that the delete got, if it deleted; 0 if it is not known.
        #[serde(default, skip_serializing_if = "is_zero")]
        revision: u64,
    },
    /// To `Batch`, if its conditions held.
    Batch {
        /// The revision that the batch got, if it changed anything; 0 if it is not known.
        #[serde(default, skip_serializing_if = "is_zero")]
        revision: u64,
        /// How many keys its deletes found; nothing if it is not known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        deleted: Option<u64>,
    },
    /// To `Batch`, if a condition did not hold. Nothing was changed.
    ConditionFailed {
        /// Which was the first, from 0; nothing if it is not known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        first: Option<u32>,
    },
    /// To `Scan`.
    Scan {
        /// In the order in which they came.
        rows: Vec<Row>,
        /// Where the scan would go on, if it was ended before the end of its range (forward: the next start; reverse:
        /// the next end).
        #[serde(
            default,
            skip_serializing_if = "Option::is_none",
            with = "text::optional"
        )]
        next: Option<Bytes>,
    },
    /// To `Append`.
    Append,
    /// To `ReadList`: its elements, in order.
    ReadList(#[serde(with = "text::list")] Vec<Bytes>),
    /// To `Increment`.
    Increment {
        /// What the counter became, if the answer says so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        value: Option<u64>,
    },
    /// To `ReadCounter`.
    ReadCounter(u64),
}

/// A value that a read found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Found {
    /// The value.
    #[serde(with = "text")]
    pub value: Bytes,
    /// The revision of the write that wrote it; 0 if it is not known.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub revision: u64,
}

/// A row that a scan found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// The key.
    #[serde(with = "text")]
    pub key: Bytes,
    /// The value; nothing if only keys were asked for.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "text::optional"
    )]
    pub value: Option<Bytes>,
    /// The revision of the write that wrote it; 0 if it is not known.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub revision: u64,
}

/// When something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Its place among all events of the history, from 0. What precedes what is decided by this alone.
    pub order: u64,
    /// The clock at that moment, in microseconds, for people who read the explanation.
    pub at: u64,
}

/// What became of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It succeeded.
    Ok {
        /// What the client was told.
        answer: Answer,
        /// When it was told.
        returned: Moment,
    },
    /// It failed, and is promised to have had and never to have an effect.
    Failed,
    /// Nobody knows: it may take effect at any time after it was invoked, or never.
    Unknown,
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Its number.
    pub id: OpId,
    /// Who asked.
    pub client: ClientId,
    /// What for.
    pub call: Call,
    /// When.
    pub invoked: Moment,
    /// What came of it.
    pub outcome: Outcome,
}

impl Operation {
    /// The answer, if it succeeded.
    #[must_use]
    pub fn answer(&self) -> Option<&Answer> {
        match &self.outcome {
            Outcome::Ok { answer, .. } => Some(answer),
            Outcome::Failed | Outcome::Unknown => None,
        }
    }

    /// Place of its return among the events: [`u64::MAX`] if it has none.
    #[must_use]
    pub fn return_order(&self) -> u64 {
        match &self.outcome {
            Outcome::Ok { returned, .. } => returned.order,
            Outcome::Failed | Outcome::Unknown => u64::MAX,
        }
    }

    /// Whether it is known to have had no effect.
    #[must_use]
    pub fn failed(&self) -> bool {
        self.outcome == Outcome::Failed
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_false(flag: &bool) -> bool {
    !*flag
}
