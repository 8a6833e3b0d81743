//! Rules between settings. A contradiction stops the start; nothing is repaired silently.

use super::setting::Address;
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

        let (listen, status, peers) = (&c.node.listen, &c.node.status_listen, c.peer_listen());
        let (listen_name, status_name) = (("node", "listen"), ("node", "status_listen"));
        // Who said where nodes connect.
        let (peer_name, not_peers) = match &c.node.peer_listen {
            Some(_) => (("node", "peer_listen"), "must not be the same as"),
            None => (
                listen_name,
                "must not be the port for nodes, which is the one after that of",
            ),
        };
        for (one, name, not, other, other_name) in [
            (
                status,
                status_name,
                "must not be the same as",
                listen,
                listen_name,
            ),
            (listen, listen_name, not_peers, &peers, peer_name),
            (status, status_name, not_peers, &peers, peer_name),
        ] {
            rule(one.port() == 0 || one != other, name, not, other_name);
        }
        let advertise = &c.node.advertise;
        let reachable = |told: Option<&Address>, at: &Address| {
            told.map_or(!at.is_unspecified(), |told| !told.is_unspecified())
        };
        rule(
            reachable(advertise.as_ref(), listen),
            ("node", "advertise"),
            "must be an address at which other machines reach this one, because of",
            listen_name,
        );
        rule(
            reachable(
                c.node.peer_advertise.as_ref().or(advertise.as_ref()),
                &peers,
            ),
            ("node", "peer_advertise"),
            "must be an address at which other nodes reach this one, because of",
            peer_name,
        );

        let files = [
            ("ca", &c.security.ca),
            ("cert", &c.security.cert),
            ("key", &c.security.key),
        ];
        let given = files.iter().find(|(_, file)| file.is_some());
        let missing = files.iter().find(|(_, file)| file.is_none());
        let insecure = ("security", "insecure");
        match (given, missing) {
            (Some((given, _)), Some((missing, _))) => rule(
                false,
                ("security", given),
                "is of no use without a file in",
                ("security", missing),
            ),
            (Some(_), None) => rule(
                !c.security.insecure,
                insecure,
                "makes no sense with certificates:",
                ("security", "cert"),
            ),
            (None, _) => {
                let own = c.node.peer_listen.as_ref().map(|peers| (peers, peer_name));
                for (address, name) in own.into_iter().chain([(listen, listen_name)]) {
                    rule(
                        c.security.insecure || address.is_loopback(),
                        name,
                        "can be reached from other machines, which needs certificates in security.ca, security.cert and \
                         security.key (`flotilla cert` makes them), or the word that plaintext is wanted (--insecure):",
                        insecure,
                    );
                }
            }
        }

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
