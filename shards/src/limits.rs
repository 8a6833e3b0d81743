//! How large anything may be. One place for all bounds, with the relations between them proved at compile time.
//!
//! There are two kinds. Bounds of *requests* are checked where a request comes in; configuration may lower them
//! ([`Limits`]), not raise them. Bounds of the *replicated state machine* (sessions, delete-range) are constants and
//! nothing else: a replica that refused a command which another one applied would be a different state machine.

/// Bytes of a key.
pub const KEY_BYTES_MAX: usize = 4 << 10;
/// Bytes of a value.
pub const VALUE_BYTES_MAX: usize = 4 << 20;
/// Operations of one batch; also its conditions, and the keys of one batched get.
pub const BATCH_OPS_MAX: usize = 1024;
/// Bytes of all keys and values of one batch, conditions included.
pub const BATCH_BYTES_MAX: usize = 8 << 20;
/// Rows of one page of a scan.
pub const SCAN_ROWS_MAX: usize = 10_000;
/// Bytes of keys and values after which a page of a scan ends. The page may pass it by its last row, so that a page
/// always holds at least one.
pub const SCAN_BYTES_MAX: usize = 4 << 20;
/// Bytes of all values that one batched get may return.
pub const BATCH_GET_BYTES_MAX: usize = 8 << 20;
/// Bytes of the data of one log entry: one command of the largest size, or many small ones.
pub const ENTRY_BYTES_MAX: usize = 16 << 20;
/// Bytes of one frame between nodes, and of one message between a client and a node.
pub const MESSAGE_BYTES_MAX: usize = 32 << 20;
/// Bytes of the context of a Raft message, which names a read request or a campaign.
pub const CONTEXT_BYTES_MAX: usize = 4 << 10;
/// Replicas of one shard, learners and leaving voters included.
pub const REPLICAS_MAX: usize = 32;
/// Nodes of a cluster at its birth.
pub const GENESIS_NODES_MAX: usize = 1024;
/// Shards of a cluster at its birth, if they follow from a rule.
pub const GENESIS_SHARDS_MAX: usize = 1_000_000;
/// Shards of a cluster at its birth, if they are listed: their descriptors travel in one message.
pub const GENESIS_LISTED_MAX: usize = 65_536;
/// Bytes of one split key of a genesis.
pub const SPLIT_KEY_BYTES_MAX: usize = 256;
/// Bytes of all split keys of a genesis.
pub const SPLIT_KEYS_BYTES_MAX: usize = 4 << 20;
/// Bytes of `host:port`.
pub const ADDRESS_BYTES_MAX: usize = 512;

/// Replicated: keys that one command's delete-ranges may remove.
pub const DELETE_RANGE_KEYS_MAX: usize = 10_000;
/// Replicated: sessions that one shard remembers.
pub const SESSIONS_MAX: usize = 100_000;
/// Replicated: answers that all sessions of a shard keep for retries, about 64 bytes each. Beyond that the sessions that
/// were not used for the longest time are forgotten before they expire.
pub const SESSION_ANSWERS_MAX: usize = 512 << 10;
/// Replicated: how far ahead of its lowest unacknowledged sequence a session may write, hence its stored answers.
pub const SESSION_WINDOW: u64 = 1024;
/// Replicated: milliseconds of logged time after which an unused session is forgotten.
pub const SESSION_IDLE_MS: u64 = 60 * 60 * 1000;
/// Replicated: expired sessions that the opening of one session removes at most, so that no entry takes long.
pub const SESSION_EVICTIONS_MAX: usize = 1024;

/// What protobuf adds to a key and a value of an operation, a condition or a row: at most four nested tags with
/// lengths (`commands > kind > operations > kind`, 6 bytes each), and two fields (6 bytes each).
pub const ROW_OVERHEAD: usize = 40;
/// What a command, an entry, a Raft message and a frame add around their rows.
pub const ENVELOPE_OVERHEAD: usize = 4 << 10;

// The largest put is a legal batch.
const _: () = assert!(KEY_BYTES_MAX + VALUE_BYTES_MAX <= BATCH_BYTES_MAX);
// Every legal command fits into an entry of its own: its keys and values are at most BATCH_BYTES_MAX, and there are at
// most BATCH_OPS_MAX operations and as many conditions to wrap. So a command that was accepted can be proposed.
const _: () = assert!(
    BATCH_BYTES_MAX + 2 * BATCH_OPS_MAX * ROW_OVERHEAD + ENVELOPE_OVERHEAD <= ENTRY_BYTES_MAX
);
// Every entry fits into a frame of its own, so a follower can always be served (no endless reconnects).
const _: () = assert!(ENTRY_BYTES_MAX + ENVELOPE_OVERHEAD + CONTEXT_BYTES_MAX <= MESSAGE_BYTES_MAX);
// Every page of a scan fits into an answer: it ends with the row that passes SCAN_BYTES_MAX.
const _: () = assert!(
    SCAN_BYTES_MAX
        + KEY_BYTES_MAX
        + VALUE_BYTES_MAX
        + SCAN_ROWS_MAX * ROW_OVERHEAD
        + ENVELOPE_OVERHEAD
        <= MESSAGE_BYTES_MAX
);
// Every answer to a batched get fits into a message, and every single value can be got by it.
const _: () = assert!(
    BATCH_GET_BYTES_MAX + BATCH_OPS_MAX * ROW_OVERHEAD + ENVELOPE_OVERHEAD <= MESSAGE_BYTES_MAX
);
const _: () = assert!(VALUE_BYTES_MAX <= BATCH_GET_BYTES_MAX);
// A genesis that lists its shards travels in one message. Half of it is for the nodes, each with two addresses and three
// short fields, and for the descriptors without their keys, each at most 160 bytes with the usual three replicas; the other
// half is for the split keys, each of which is the end of a shard and the start of another.
const _: () = assert!(
    GENESIS_NODES_MAX * (2 * ADDRESS_BYTES_MAX + 2 * ROW_OVERHEAD) + GENESIS_LISTED_MAX * 160
        <= MESSAGE_BYTES_MAX / 2
);
const _: () = assert!(2 * SPLIT_KEYS_BYTES_MAX <= MESSAGE_BYTES_MAX / 2);
const _: () = assert!(SPLIT_KEY_BYTES_MAX <= KEY_BYTES_MAX);
// What one command deletes fits comfortably into the batch that a round of applying writes.
const _: () = assert!((DELETE_RANGE_KEYS_MAX + BATCH_OPS_MAX) * (KEY_BYTES_MAX + 1) <= 64 << 20);
// A session's full window of answers fits among a shard's.
const _: () = assert!(SESSION_WINDOW as usize * 8 <= SESSION_ANSWERS_MAX);
// A delete-range can clear what one page of a scan shows.
const _: () = assert!(SCAN_ROWS_MAX <= DELETE_RANGE_KEYS_MAX);

/// Bounds of requests as configured. [`Limits::default`] are the largest values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a key, at most [`KEY_BYTES_MAX`].
    pub key_bytes: usize,
    /// Bytes of a value, at most [`VALUE_BYTES_MAX`].
    pub value_bytes: usize,
    /// Operations of a batch, conditions of a batch, keys of a batched get; each at most [`BATCH_OPS_MAX`].
    pub batch_ops: usize,
    /// Bytes of all keys and values of a batch, at most [`BATCH_BYTES_MAX`].
    pub batch_bytes: usize,
    /// Rows of a page of a scan, at most [`SCAN_ROWS_MAX`].
    pub scan_rows: usize,
    /// Bytes after which a page of a scan ends, at most [`SCAN_BYTES_MAX`].
    pub scan_bytes: usize,
    /// Bytes of all values of a batched get, at most [`BATCH_GET_BYTES_MAX`].
    pub batch_get_bytes: usize,
    /// Bytes of the data of a log entry, at most [`ENTRY_BYTES_MAX`].
    pub entry_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            key_bytes: KEY_BYTES_MAX,
            value_bytes: VALUE_BYTES_MAX,
            batch_ops: BATCH_OPS_MAX,
            batch_bytes: BATCH_BYTES_MAX,
            scan_rows: SCAN_ROWS_MAX,
            scan_bytes: SCAN_BYTES_MAX,
            batch_get_bytes: BATCH_GET_BYTES_MAX,
            entry_bytes: ENTRY_BYTES_MAX,
        }
    }
}

/// Why limits cannot be used. Both sides are named: what is set, and what it contradicts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitsError {
    /// Zero would refuse everything.
    #[error("limit {name} is 0, expected 1 to {max}")]
    Zero {
        /// The limit.
        name: &'static str,
        /// Its greatest value.
        max: usize,
    },
    /// Above what the program can handle.
    #[error("limit {name} is {value}, above the greatest possible value {max}")]
    AboveMax {
        /// The limit.
        name: &'static str,
        /// What is configured.
        value: usize,
        /// Its greatest value.
        max: usize,
    },
    /// Two limits that exclude each other.
    #[error(
        "{needs} need {value} bytes, but limit {name} is {limit}: raise it, or lower the others"
    )]
    Contradiction {
        /// What does not fit.
        needs: &'static str,
        /// How many bytes that takes.
        value: usize,
        /// The limit that is too low.
        name: &'static str,
        /// What is configured for it.
        limit: usize,
    },
}

impl Limits {
    /// Checks that no limit is zero or too high and that they fit each other, as the constants do.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn validate(&self) -> Result<(), LimitsError> {
        for (name, value, max) in [
            ("key_bytes", self.key_bytes, KEY_BYTES_MAX),
            ("value_bytes", self.value_bytes, VALUE_BYTES_MAX),
            ("batch_ops", self.batch_ops, BATCH_OPS_MAX),
            ("batch_bytes", self.batch_bytes, BATCH_BYTES_MAX),
            ("scan_rows", self.scan_rows, SCAN_ROWS_MAX),
            ("scan_bytes", self.scan_bytes, SCAN_BYTES_MAX),
            ("batch_get_bytes", self.batch_get_bytes, BATCH_GET_BYTES_MAX),
            ("entry_bytes", self.entry_bytes, ENTRY_BYTES_MAX),
        ] {
            if value == 0 {
                return Err(LimitsError::Zero { name, max });
            }
            if value > max {
                return Err(LimitsError::AboveMax { name, value, max });
            }
        }
        // All are at most their constants by now, so no sum overflows.
        for (needs, value, name, limit) in [
            (
                "the largest key with the largest value",
                self.key_bytes + self.value_bytes,
                "batch_bytes",
                self.batch_bytes,
            ),
            (
                "the largest value",
                self.value_bytes,
                "batch_get_bytes",
                self.batch_get_bytes,
            ),
            (
                "the largest batch with its envelope",
                self.batch_bytes + 2 * self.batch_ops * ROW_OVERHEAD + ENVELOPE_OVERHEAD,
                "entry_bytes",
                self.entry_bytes,
            ),
        ] {
            if value > limit {
                return Err(LimitsError::Contradiction {
                    needs,
                    value,
                    name,
                    limit,
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_valid() {
        assert_eq!(Limits::default().validate(), Ok(()));
    }

    #[test]
    fn limits_may_be_lowered_but_not_passed() {
        let lower = Limits {
            value_bytes: 1 << 20,
            ..Limits::default()
        };
        assert_eq!(lower.validate(), Ok(()));
        let higher = Limits {
            value_bytes: VALUE_BYTES_MAX + 1,
            ..Limits::default()
        };
        let error = higher.validate().unwrap_err().to_string();
        assert_eq!(
            error,
            "limit value_bytes is 4194305, above the greatest possible value 4194304"
        );
    }

    #[test]
    fn contradictions_name_both_sides() {
        let limits = Limits {
            batch_bytes: 1000,
            ..Limits::default()
        };
        let error = limits.validate().unwrap_err().to_string();
        assert!(error.contains("4198400") && error.contains("batch_bytes is 1000"));
        let limits = Limits {
            entry_bytes: 8 << 20,
            ..Limits::default()
        };
        let error = limits.validate().unwrap_err().to_string();
        assert!(error.contains("entry_bytes is 8388608"), "{error}");
        let limits = Limits {
            scan_rows: 0,
            ..Limits::default()
        };
        assert!(matches!(limits.validate(), Err(LimitsError::Zero { .. })));
    }
}
