//! The labels: closed sets, so that the number of series is known when the code is written. A label whose values come
//! from outside (a key, a shard id, a message text) may not be added here.

/// A closed set of label values.
pub trait Label: Copy + 'static {
    /// The label's name in the exported text.
    const NAME: &'static str;
    /// All values, ordered as the variants are.
    const VALUES: &'static [&'static str];

    /// Position of this value in [`Label::VALUES`].
    fn index(self) -> usize;

    /// The value as exported.
    fn as_str(self) -> &'static str {
        Self::VALUES[self.index()]
    }
}

/// Declares an enum that is a [`Label`]: the label's name, and for each variant the value as exported.
macro_rules! label {
    ($(#[$meta:meta])* $set:ident($name:literal) { $($(#[$doc:meta])* $variant:ident = $value:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $set { $($(#[$doc])* $variant,)+ }

        impl $set {
            /// Every variant, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
        }

        impl Label for $set {
            const NAME: &'static str = $name;
            const VALUES: &'static [&'static str] = &[$($value),+];

            fn index(self) -> usize {
                self as usize
            }
        }
    };
}

label! {
    /// What a client asked for.
    Operation("op") {
        /// `Kv.Get`.
        Get = "get",
        /// `Kv.BatchGet`.
        BatchGet = "batch_get",
        /// `Kv.Put`.
        Put = "put",
        /// `Kv.Delete`.
        Delete = "delete",
        /// `Kv.Scan`.
        Scan = "scan",
        /// `Kv.Batch`.
        Batch = "batch",
        /// `Kv.OpenSession`.
        OpenSession = "open_session",
        /// `Kv.CloseSession`.
        CloseSession = "close_session",
        /// `Kv.Routes`.
        Routes = "routes",
    }
}

label! {
    /// How a request ended; one value per code of the protocol's `Error`.
    Outcome("result") {
        /// Answered as asked; a batch whose condition did not hold counts here too.
        Ok = "ok",
        /// The request broke a rule.
        InvalidArgument = "invalid_argument",
        /// The asked replica did not lead.
        NotLeader = "not_leader",
        /// The route was old.
        EpochMismatch = "epoch_mismatch",
        /// Too much was in flight.
        Busy = "busy",
        /// No leader or no quorum within the time.
        Unavailable = "unavailable",
        /// The write was appended, its fate is not known.
        OutcomeUnknown = "outcome_unknown",
        /// The session does not exist or has expired.
        SessionUnknown = "session_unknown",
        /// The keys of a batch lay in more than one shard.
        CrossShard = "cross_shard",
        /// The node was not part of a cluster.
        NotInitialized = "not_initialized",
        /// The node was going down.
        ShuttingDown = "shutting_down",
        /// The caller did not say who it is, or not credibly.
        Unauthenticated = "unauthenticated",
        /// The caller may not do this.
        PermissionDenied = "permission_denied",
        /// A fault of this node.
        Internal = "internal",
    }
}

label! {
    /// A stage on the way of a write.
    Stage("stage") {
        /// From the arrival of the request until the owning worker takes it from its mailbox.
        Queue = "queue",
        /// From the mailbox until the command's entry is in the log's memory and on its way to the followers.
        Propose = "propose",
        /// From there until the log write that holds the entry is durable; on followers too, once per shard and write.
        Sync = "sync",
        /// From the proposal until a quorum has the entry.
        Commit = "commit",
        /// From the commit until the command is applied and its answer known.
        Apply = "apply",
    }
}

label! {
    /// What a local replica is. Each replica counts under exactly one value.
    ShardState("state") {
        /// Leads its shard.
        Leader = "leader",
        /// Follows a leader that it knows.
        Follower = "follower",
        /// Asks for votes or pre-votes.
        Candidate = "candidate",
        /// Follows, but knows no leader.
        NoLeader = "no_leader",
    }
}

label! {
    /// A lane of the transport.
    Lane("lane") {
        /// Votes, heartbeats, read confirmations and their answers.
        Urgent = "urgent",
        /// Appends and everything else.
        Bulk = "bulk",
    }
}

label! {
    /// Why a connection was refused in the handshake.
    HandshakeRefusal("reason") {
        /// The other end speaks another version of the protocol.
        Protocol = "protocol",
        /// The other end belongs to another cluster.
        Cluster = "cluster",
        /// The message was meant for another node: a wrong address.
        WrongNode = "wrong_node",
        /// Two data folders claim the same node id.
        TwinNode = "twin_node",
        /// The other end's data folder is older than it was seen.
        WentBack = "went_back",
        /// Both ends use leases, and measure them by different times.
        Leases = "leases",
        /// The other end is no node of this cluster.
        UnknownNode = "unknown_node",
        /// The first frame held no handshake, or one that can't be read.
        Malformed = "malformed",
        /// This node does not belong to a cluster yet.
        NotInitialized = "not_initialized",
        /// The other end's certificate is that of another node.
        Certificate = "certificate",
    }
}

label! {
    /// A port of the node, by who connects there.
    Port("port") {
        /// `node.listen`.
        Clients = "clients",
        /// `node.peer_listen`.
        Nodes = "nodes",
    }
}

label! {
    /// Why a connection was refused before it could ask anything.
    ConnectionRefusal("reason") {
        /// There were as many as the port takes.
        Full = "full",
        /// There were as many from its address as the port takes from one.
        Address = "address",
        /// It did not begin within the time.
        Slow = "slow",
        /// One end spoke TLS and the other did not, or a certificate was refused.
        Tls = "tls",
        /// It spoke something else than HTTP/2.
        Protocol = "protocol",
    }
}

label! {
    /// What came of reading certificates again.
    TlsReload("result") {
        /// They are in use.
        Done = "done",
        /// Something was wrong with them; those from before stay in use.
        Refused = "refused",
    }
}

label! {
    /// What makes sure that a read returns the newest value.
    Confirmation("by") {
        /// The lease of this node, which leads the shard: nobody was asked.
        Lease = "lease",
        /// A round of heartbeats, at this node or at the leader that it asked.
        Round = "round",
    }
}

label! {
    /// How a snapshot transfer ended.
    SnapshotOutcome("result") {
        /// Complete, durable and accepted.
        Done = "done",
        /// Given up; the leader tries again.
        Failed = "failed",
        /// The content did not agree with its checksums or with itself; nothing of it was used.
        Malformed = "malformed",
        /// No longer needed: the replica caught up or the shard moved on.
        Abandoned = "abandoned",
    }
}

label! {
    /// What was used up when the node answered "busy"; a shard's own word is a [`RefusalReason`].
    BusyReason("reason") {
        /// Bytes of requests in flight on this node.
        InFlightBytes = "in_flight_bytes",
        /// Number of requests in flight on this node.
        InFlightRequests = "in_flight_requests",
        /// Free disk space is below the reserve.
        DiskFull = "disk_full",
    }
}

label! {
    /// Why a message to a peer was dropped.
    DropReason("reason") {
        /// The peer's queue was full.
        QueueFull = "queue_full",
        /// There was no connection to the peer.
        Disconnected = "disconnected",
        /// The message was larger than peers accept.
        TooLarge = "too_large",
    }
}

label! {
    /// Why a shard gave a request back without having carried it out, or without knowing whether it has.
    RefusalReason("reason") {
        /// The replica did not lead.
        NotLeader = "not_leader",
        /// The node has no replica of the shard.
        NoReplica = "no_replica",
        /// Too much was queued or not yet committed.
        Busy = "busy",
        /// The leader lost its office after it had appended the write.
        OutcomeUnknown = "outcome_unknown",
        /// Another leader's entry took the place of the write.
        Superseded = "superseded",
        /// A read's leader could not prove that it still leads.
        Unconfirmed = "unconfirmed",
        /// The state machine said no.
        State = "state",
    }
}

label! {
    /// What comparing the replicas of a shard has shown.
    ScrubOutcome("result") {
        /// Replicas with the same applied index have the same content.
        Same = "same",
        /// They have not.
        Different = "different",
        /// No two were at the same index, or answered.
        Skipped = "skipped",
    }
}

label! {
    /// One of a node's two databases.
    Database("database") {
        /// The logs of all shards.
        Log = "log",
        /// The applied state of all shards.
        State = "state",
    }
}

label! {
    /// A place among the shards of a node that were asked most, from the most asked on.
    Rank("rank") {
        /// The hottest.
        First = "1",
        /// The second.
        Second = "2",
        /// The third.
        Third = "3",
        /// The fourth.
        Fourth = "4",
        /// The fifth.
        Fifth = "5",
        /// The sixth.
        Sixth = "6",
        /// The seventh.
        Seventh = "7",
        /// The eighth.
        Eighth = "8",
        /// The ninth.
        Ninth = "9",
        /// The tenth.
        Tenth = "10",
    }
}
