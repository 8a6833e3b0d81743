//! Rules between settings. A contradiction stops the start; nothing is repaired silently.

use super::source::{Fault, Layers};

// The relations of sizes are those of `flotilla_shards::limits`, where they are proved for the greatest values. They
// are repeated here for the configured ones because only here is known who set them.
/// What protobuf adds to one operation, condition or row.
const ROW_OVERHEAD: u64 = flotilla_shards::limits::ROW_OVERHEAD as u64;
/// What a command, an entry, a message and a frame add around their rows.
const ENVELOPE_OVERHEAD: u64 = flotilla_shards::limits::ENVELOPE_OVERHEAD as u64;

/// Section and name of a key.
type Name = (&'static str, &'static str);

impl Layers {
    /// Holds the values against each other.
    pub(crate) fn check(&mut self) {
        let c = &self.config;
        let mut broken: Vec<(Name, &'static str, Name)> = Vec::new();
        let mut rule = |holds: bool, left, rule, right| {
            if !holds {
                broken.push((left, rule, right));
            }
        };

        let (heartbeat, election) = (c.raft.heartbeat_interval, c.raft.election_timeout);
        let timing = ("raft", "election_timeout");
        rule(
            election > heartbeat * 2,
            timing,
            "must be more than twice",
            ("raft", "heartbeat_interval"),
        );
        rule(
            c.limits.request_timeout > election,
            ("limits", "request_timeout"),
            "must be longer than an election takes:",
            timing,
        );

        let timeout = ("limits", "request_timeout");
        rule(
            c.limits.request_timeout <= c.limits.request_timeout_max,
            timeout,
            "must not be longer than",
            ("limits", "request_timeout_max"),
        );

        let l = &c.limits;
        let (batch, entry, value) = (
            ("limits", "batch_bytes"),
            ("limits", "entry_bytes"),
            ("limits", "value_bytes"),
        );
        let largest_put = l.key_bytes.bytes() + l.value_bytes.bytes();
        rule(
            l.batch_bytes.bytes() >= largest_put,
            batch,
            "must hold the longest key and",
            value,
        );
        rule(
            l.batch_get_bytes >= l.value_bytes,
            ("limits", "batch_get_bytes"),
            "must not be less than",
            value,
        );
        let wrapped =
            l.batch_bytes.bytes() + 2 * l.batch_ops as u64 * ROW_OVERHEAD + ENVELOPE_OVERHEAD;
        rule(
            l.entry_bytes.bytes() >= wrapped,
            entry,
            "must hold the largest batch with what is around it:",
            batch,
        );
        rule(
            c.raft.uncommitted_bytes >= l.entry_bytes,
            ("raft", "uncommitted_bytes"),
            "must not be less than one entry,",
            entry,
        );
        rule(
            l.in_flight_bytes.bytes() >= wrapped,
            ("limits", "in_flight_bytes"),
            "must hold the largest batch with what is around it:",
            batch,
        );
        let queue = ("transport", "queue_bytes");
        rule(
            c.transport.queue_bytes.bytes() >= l.entry_bytes.bytes() + 2 * ENVELOPE_OVERHEAD,
            queue,
            "must hold an entry with what is around it:",
            entry,
        );
        let append = ("raft", "append_bytes");
        rule(
            c.transport.queue_bytes >= c.raft.append_bytes,
            queue,
            "must not be less than",
            append,
        );

        rule(
            c.raft.inflight_bytes >= c.raft.append_bytes,
            ("raft", "inflight_bytes"),
            "must not be less than",
            append,
        );

        let replay = ("storage", "replay_limit");
        let memtable = ("storage", "state_memtable");
        rule(
            c.storage.replay_limit >= c.storage.state_memtable,
            replay,
            "must not be less than what is flushed at once:",
            memtable,
        );

        let (listen, status) = (&c.node.listen, &c.node.status_listen);
        let status_name = ("node", "status_listen");
        rule(
            listen.port() == 0 || listen != status,
            status_name,
            "must not be the same as",
            ("node", "listen"),
        );
        let reachable = c
            .node
            .advertise
            .as_ref()
            .map_or(!listen.is_unspecified(), |a| !a.is_unspecified());
        rule(
            reachable,
            ("node", "advertise"),
            "must be an address at which other machines reach this one, because of",
            ("node", "listen"),
        );

        let faults: Vec<Fault> = broken
            .into_iter()
            .map(|(left, rule, right)| Fault::Contradiction {
                left: self.named(left.0, left.1),
                rule,
                right: self.named(right.0, right.1),
            })
            .collect();
        self.faults.extend(faults);
    }
}
