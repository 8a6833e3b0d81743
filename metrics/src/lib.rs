//! Every metric that a Flotilla node exports: name, label values, unit and buckets, declared once, in [`Metrics`].
//!
//! This crate knows nobody. Callers hand it numbers and values of the closed enums in [`labels`]; a label with an
//! unbounded set of values (a shard, a key, a text) cannot be expressed, so the number of series does not grow with
//! the data. Names are `flotilla_<area>_<what>_<unit>` in base units (seconds, bytes); counters end in `_total`.
//!
//! Counting is one atomic addition: handles are resolved when [`Metrics::new`] registers them. The reference page
//! `METRICS.md` is generated from the declarations, and a test keeps it up to date.

pub mod family;
mod interval;
pub mod labels;
mod reference;

pub use interval::Distribution;
pub use labels::{
    BusyReason, Confirmation, ConnectionRefusal, Database, DropReason, HandshakeRefusal, Label,
    Lane, Operation, Outcome, Port, Rank, RefusalReason, ScrubOutcome, ShardState, SnapshotOutcome,
    Stage, TlsReload,
};
pub use prometheus::Error;

pub use reference::Line;

use family::{By, By2, ByPeer, Declaration, Family, PerPeer};
use prometheus::{Encoder, Opts, Registry, TextEncoder};

/// A monotonic count.
pub type Counter = prometheus::IntCounter;
/// A monotonic sum in fractions of its unit.
pub type FloatCounter = prometheus::Counter;
/// A value that goes up and down.
pub type Gauge = prometheus::IntGauge;
/// A value in fractions of its unit that goes up and down.
pub type FloatGauge = prometheus::Gauge;
/// A distribution.
pub type Histogram = prometheus::Histogram;

/// Buckets for latencies in seconds: 50 µs (a read from memory) to 10 s (the default deadline of a request).
const LATENCY: &[f64] = &[
    0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0,
    2.0, 5.0, 10.0,
];
/// Buckets for how many things travelled together.
const BATCH: &[f64] = &[
    1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0,
];
/// Buckets for sizes in bytes: 256 B to 16 MiB.
const BYTES: &[f64] = &[
    256.0,
    1024.0,
    4096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
];

/// Declares the fields of [`Metrics`]: the doc comment is the exported help text and the line of the reference.
macro_rules! metrics {
    ($($(#[doc = $help:literal])+ $field:ident: $family:ty = $name:literal $(in $buckets:ident)?;)+) => {
        /// All metrics of one node. Made once, shared by reference.
        #[derive(Debug)]
        pub struct Metrics {
            registry: Registry,
            $(
                $(#[doc = $help])+
                #[doc = ""]
                #[doc = concat!("Exported as `", $name, "`.")]
                pub $field: $family,
            )+
        }

        impl Metrics {
            /// Registers everything.
            ///
            /// # Errors
            /// A declaration breaks Prometheus' rules; a test rules this out.
            pub fn new() -> Result<Self, Error> {
                let registry = Registry::new();
                $(let $field = <$family as Family>::register(&registry, &Declaration {
                    name: $name,
                    help: concat!($($help),+).trim_ascii(),
                    buckets: metrics!(@buckets $($buckets)?),
                })?;)+
                register_process(&registry)?;
                Ok(Self { registry, $($field),+ })
            }

            /// Every metric with kind, labels and meaning, in the order of their declaration.
            pub fn declared() -> Vec<Line> {
                vec![$(Line {
                    name: $name,
                    field: stringify!($field),
                    kind: <$family as Family>::KIND,
                    labels: <$family as Family>::labels(),
                    help: concat!($($help),+).trim_ascii(),
                }),+]
            }

            /// The reference page: every metric with kind, labels and meaning, as Markdown.
            pub fn reference() -> String {
                reference::page(&Self::declared())
            }
        }
    };
    (@buckets) => { &[] };
    (@buckets $buckets:ident) => { $buckets };
}

metrics! {
    // Requests of clients.

    /// Requests answered, by operation and result.
    requests: By2<Counter, Operation, Outcome> = "flotilla_request_answers_total";
    /// Whether callers have to say who they are, as far as this node knows: 1 or 0.
    access_enforced: Gauge = "flotilla_access_enforced";
    /// Time since the node's copy of users and roles was last confirmed.
    access_age: FloatGauge = "flotilla_access_age_seconds";
    /// Time from the arrival of a request until its answer, by operation.
    request_seconds: By<Histogram, Operation> = "flotilla_request_latency_seconds" in LATENCY;
    /// Time that a write spends in each stage; see `ARCHITECTURE.md`, the way of a put.
    stage_seconds: By<Histogram, Stage> = "flotilla_write_stage_latency_seconds" in LATENCY;
    /// Requests that the node refused at its door, by what was used up.
    busy: By<Counter, BusyReason> = "flotilla_request_busy_total";
    /// Requests taken in and not yet answered.
    in_flight_requests: Gauge = "flotilla_request_in_flight";
    /// Bytes of requests taken in and not yet answered.
    in_flight_bytes: Gauge = "flotilla_request_in_flight_bytes";
    /// Requests that were passed on to the node that leads the shard, by operation.
    forwarded: By<Counter, Operation> = "flotilla_request_forwarded_total";
    /// Requests that were held because the shard had no known leader.
    held: Counter = "flotilla_request_held_total";
    /// Keys and values that were read for clients, in bytes.
    read_bytes: Counter = "flotilla_request_read_bytes_total";
    /// Commands of clients that were applied, in bytes; counted where the shard leads.
    written_bytes: Counter = "flotilla_request_written_bytes_total";
    /// Bidirectional client streams that are open.
    streams: Gauge = "flotilla_request_streams_open";

    // Shards and the consensus of each.

    /// Replicas on this node by state; every replica counts once.
    shards: By<Gauge, ShardState> = "flotilla_shard_replicas";
    /// Replicas on this node that rest: idle, up to date, without timers or messages.
    shards_resting: Gauge = "flotilla_shard_resting";
    /// Elections that a replica of this node started (pre-votes that failed are not counted).
    elections_started: Counter = "flotilla_shard_elections_started_total";
    /// Elections that a replica of this node won.
    elections_won: Counter = "flotilla_shard_elections_won_total";
    /// Changes of a shard's leader as seen by this node.
    leader_changes: Counter = "flotilla_shard_leader_changes_total";
    /// Client commands that entered a leader's log.
    proposals: Counter = "flotilla_shard_proposals_total";
    /// Requests that a shard gave back, by reason.
    refusals: By<Counter, RefusalReason> = "flotilla_shard_refusals_total";
    /// Client commands that wait in the leaders of this node: not yet proposed, or proposed and not yet committed.
    pending_commands: Gauge = "flotilla_shard_pending_commands";
    /// Shards led by this node that lack a replica: its node is silent, or it needs a snapshot.
    under_replicated: Gauge = "flotilla_shard_under_replicated";
    /// Shards led by this node that lack so many replicas that nothing can be committed.
    without_quorum: Gauge = "flotilla_shard_without_quorum";
    /// Shards of the cluster, as far as this node knows them.
    shards_known: Gauge = "flotilla_shard_known";
    /// Requests per second of the ten most asked shards of this node, by rank; `/shards?hottest=10` has their ids.
    hot_shards: By<FloatGauge, Rank> = "flotilla_shard_hot_requests_per_second";
    /// Client commands per log entry.
    commands_per_entry: Histogram = "flotilla_shard_commands_per_entry" in BATCH;
    /// Time that one turn of a worker took.
    turn_seconds: Histogram = "flotilla_shard_turn_seconds" in LATENCY;
    /// Linearizable reads that were confirmed in one turn of a worker.
    reads_per_round: Histogram = "flotilla_shard_reads_per_round" in BATCH;
    /// Linearizable reads by what confirmed them.
    reads: By<Counter, Confirmation> = "flotilla_shard_reads_total";

    // The log.

    /// Entries written to the log, of all shards.
    log_entries: Counter = "flotilla_log_entries_total";
    /// Bytes of entries and hard states written to the log.
    log_bytes: Counter = "flotilla_log_written_bytes_total";
    /// Syncs of the log.
    log_fsyncs: Counter = "flotilla_log_fsyncs_total";
    /// Client commands that syncs of the log made durable on this node, also as a follower; divided by
    /// `flotilla_log_fsyncs_total` it gives the writes per sync.
    log_synced_writes: Counter = "flotilla_log_synced_writes_total";
    /// Entries, of all shards, that one sync made durable.
    log_entries_per_fsync: Histogram = "flotilla_log_entries_per_fsync" in BATCH;
    /// Bytes that one sync made durable.
    log_bytes_per_fsync: Histogram = "flotilla_log_bytes_per_fsync" in BYTES;
    /// Time of one write and sync of the log.
    log_fsync_seconds: Histogram = "flotilla_log_fsync_latency_seconds" in LATENCY;
    /// Writes that wait for the storage writer.
    log_queue: Gauge = "flotilla_log_queue_writes";
    /// Logs cut at the front, one per shard and cut.
    log_compactions: Counter = "flotilla_log_compactions_total";
    /// Entries removed by cutting logs at the front.
    log_compacted_entries: Counter = "flotilla_log_compacted_entries_total";
    /// Bytes of entries in the logs of all shards that have not been cut yet.
    log_live_bytes: Gauge = "flotilla_log_live_bytes";
    /// Bytes of entries in the longest log of a shard.
    log_longest_bytes: Gauge = "flotilla_log_longest_bytes";
    /// How long the disk has been at the write of the log that is under way; 0 if none is.
    log_write_running: FloatGauge = "flotilla_log_write_running_seconds";
    /// Bytes of the log that a restart would replay.
    log_replay_bytes: Gauge = "flotilla_log_replay_bytes";
    /// Entries that a follower needed and that were in memory.
    log_cache_hits: Counter = "flotilla_log_cache_hits_total";
    /// Entries that a follower needed and that had to be read from disk.
    log_cache_misses: Counter = "flotilla_log_cache_misses_total";
    /// Bytes of entries kept in memory for followers.
    log_cache_bytes: Gauge = "flotilla_log_cache_bytes";

    // Applying, and the state database.

    /// Committed entries applied.
    apply_entries: Counter = "flotilla_apply_entries_total";
    /// Batches in which they were applied, each for many shards.
    apply_batches: Counter = "flotilla_apply_batches_total";
    /// Client commands applied on this node, also as a follower.
    apply_commands: Counter = "flotilla_apply_commands_total";
    /// Entries per batch.
    apply_entries_per_batch: Histogram = "flotilla_apply_entries_per_batch" in BATCH;
    /// Time to apply one batch.
    apply_seconds: Histogram = "flotilla_apply_batch_latency_seconds" in LATENCY;
    /// Entries, of all shards, that are committed and not yet applied.
    apply_lag: Gauge = "flotilla_apply_lag_entries";
    /// Flushes of the state database.
    state_flushes: Counter = "flotilla_state_flushes_total";
    /// Time of one flush of the state database.
    state_flush_seconds: Histogram = "flotilla_state_flush_latency_seconds" in LATENCY;
    /// Comparisons of the replicas of a shard that this node leads, by outcome.
    scrubs: By<Counter, ScrubOutcome> = "flotilla_state_scrubs_total";

    // Both databases, and the disk that they lie on.

    /// Bytes of a database's files.
    database_disk_bytes: By<Gauge, Database> = "flotilla_database_disk_bytes";
    /// Bytes of writes that a database holds in memory until the next flush.
    database_memtable_bytes: By<Gauge, Database> = "flotilla_database_memtable_bytes";
    /// Memtables that are full and wait to be flushed.
    database_full_memtables: By<Gauge, Database> = "flotilla_database_full_memtables";
    /// Files in level 0, each of which a read may have to look into.
    database_level0_files: By<Gauge, Database> = "flotilla_database_level0_files";
    /// Bytes that compactions still have to rewrite, as RocksDB estimates it.
    database_compaction_debt: By<Gauge, Database> = "flotilla_database_compaction_debt_bytes";
    /// Flushes and compactions that are running.
    database_jobs: By<Gauge, Database> = "flotilla_database_running_jobs";
    /// Whether RocksDB takes no writes until it has flushed or compacted (1) or does (0).
    database_stopped: By<Gauge, Database> = "flotilla_database_writes_stopped";
    /// Time that writes were held back, all writers together.
    database_stall_seconds: By<FloatCounter, Database> = "flotilla_database_stall_seconds_total";
    /// Bytes written to the files by flushes.
    database_flushed_bytes: By<Counter, Database> = "flotilla_database_flushed_bytes_total";
    /// Bytes read by compactions.
    database_compaction_read_bytes: By<Counter, Database> = "flotilla_database_compaction_read_bytes_total";
    /// Bytes written by compactions; with those of the flushes, divided by those of the flushes, the write amplification.
    database_compaction_written_bytes: By<Counter, Database> = "flotilla_database_compaction_written_bytes_total";
    /// Blocks that a read found in the cache.
    database_cache_hits: By<Counter, Database> = "flotilla_database_cache_hits_total";
    /// Blocks that a read had to take from the files.
    database_cache_misses: By<Counter, Database> = "flotilla_database_cache_misses_total";
    /// Bytes of blocks in the cache.
    database_cache_bytes: By<Gauge, Database> = "flotilla_database_cache_bytes";
    /// Bytes that the data folder's file system has free for this process.
    disk_free_bytes: Gauge = "flotilla_disk_free_bytes";
    /// Bytes of the data folder's file system.
    disk_size_bytes: Gauge = "flotilla_disk_size_bytes";
    /// Bytes that the process had read from disks.
    disk_read_bytes: Counter = "flotilla_disk_read_bytes_total";
    /// Bytes that the process has written to disks.
    disk_written_bytes: Counter = "flotilla_disk_written_bytes_total";

    // Transport.

    /// Bytes of messages sent, by peer and lane.
    sent_bytes: ByPeer<Counter, Lane> = "flotilla_transport_sent_bytes_total";
    /// Messages of shards sent, by peer and lane.
    sent_messages: ByPeer<Counter, Lane> = "flotilla_transport_sent_messages_total";
    /// Frames sent, by peer and lane; each carries messages of many shards.
    sent_frames: ByPeer<Counter, Lane> = "flotilla_transport_sent_frames_total";
    /// Bytes of messages received, by peer and lane.
    received_bytes: ByPeer<Counter, Lane> = "flotilla_transport_received_bytes_total";
    /// Messages of shards received, by peer and lane.
    received_messages: ByPeer<Counter, Lane> = "flotilla_transport_received_messages_total";
    /// Messages of shards that were not sent, by peer and reason.
    dropped_messages: ByPeer<Counter, DropReason> = "flotilla_transport_dropped_messages_total";
    /// Bytes that wait to be sent, by peer and lane.
    queue_bytes: ByPeer<Gauge, Lane> = "flotilla_transport_queue_bytes";
    /// Whether there is a connection (1) or not (0), by peer and lane.
    connected: ByPeer<Gauge, Lane> = "flotilla_transport_connected";
    /// Attempts to connect, by peer and lane; one that goes on growing means a peer that can't be reached.
    connects: ByPeer<Counter, Lane> = "flotilla_transport_connects_total";
    /// Connections of other nodes that this node refused, by reason.
    handshakes_refused: By<Counter, HandshakeRefusal> = "flotilla_transport_handshakes_refused_total";
    /// Messages received that could not be understood.
    malformed_messages: Counter = "flotilla_transport_malformed_messages_total";

    // Connections, and the certificates that they rest on.

    /// Connections that are open, by port, those that have not begun included.
    connections: By<Gauge, Port> = "flotilla_connection_open";
    /// Connections that were refused before they could ask anything, by port and reason.
    connections_refused: By2<Counter, Port, ConnectionRefusal> = "flotilla_connection_refused_total";
    /// When this node's certificate ceases to be valid, in seconds since 1970; 0 if it has none.
    certificate_expiry: Gauge = "flotilla_tls_certificate_expiry_timestamp_seconds";
    /// Certificates that were read again because their files have changed, by what came of it.
    tls_reloads: By<Counter, TlsReload> = "flotilla_tls_reloads_total";

    // Snapshots.

    /// Snapshots sent to followers, by how the transfer ended.
    snapshots_sent: By<Counter, SnapshotOutcome> = "flotilla_snapshot_sent_total";
    /// Snapshots received, by how the transfer ended.
    snapshots_received: By<Counter, SnapshotOutcome> = "flotilla_snapshot_received_total";
    /// Bytes of snapshots sent.
    snapshot_sent_bytes: Counter = "flotilla_snapshot_sent_bytes_total";
    /// Bytes of snapshots received.
    snapshot_received_bytes: Counter = "flotilla_snapshot_received_bytes_total";
    /// Transfers of snapshots that are running, in both directions.
    snapshots_running: Gauge = "flotilla_snapshot_running";
    /// Time of a complete transfer, from the first chunk until the content is durable.
    snapshot_seconds: Histogram = "flotilla_snapshot_transfer_seconds" in LATENCY;

    // The node.

    /// Whether the node is ready to serve (1) or not (0); `/ready?verbose` says why not.
    ready: Gauge = "flotilla_node_ready";
    /// Nodes of the cluster, this one included.
    nodes_known: Gauge = "flotilla_node_peers_known";
    /// Nodes of the cluster that this node hears from, itself included.
    nodes_reachable: Gauge = "flotilla_node_peers_reachable";
    /// Whether this node knows a leader of the meta shard (1) or not (0).
    meta_leader_known: Gauge = "flotilla_node_meta_leader_known";
    /// How far another node's clock is behind this node's, plus the time that its word took to get here: the least of
    /// the words of some seconds. Negative if it is ahead.
    clock_offset: PerPeer<FloatGauge> = "flotilla_node_clock_offset_seconds";
    /// Memory that the process may use: the limit of its control group, or all that the machine has.
    memory_limit_bytes: Gauge = "flotilla_node_memory_limit_bytes";
    /// Number of the process; a demo has all its nodes in one.
    process_id: Gauge = "flotilla_node_process_id";
    /// Processor time that the process has used. As `process_cpu_seconds_total`, in fractions of a second.
    cpu_seconds: FloatGauge = "flotilla_node_cpu_seconds";
}

/// Metrics of the operating system's view of this process, and the version.
fn register_process(registry: &Registry) -> Result<(), Error> {
    #[cfg(target_os = "linux")]
    registry.register(Box::new(
        prometheus::process_collector::ProcessCollector::for_self(),
    ))?;
    let opts = Opts::new(
        "flotilla_build_info",
        "Always 1; the version of this node is in the label.",
    )
    .const_label("version", env!("CARGO_PKG_VERSION"));
    let build = Gauge::with_opts(opts)?;
    build.set(1);
    registry.register(Box::new(build))
}

impl Metrics {
    /// Content type of what [`Metrics::render`] returns.
    pub const CONTENT_TYPE: &'static str = prometheus::TEXT_FORMAT;

    /// Everything as Prometheus' text format.
    ///
    /// # Errors
    /// A collected value cannot be written in that format.
    pub fn render(&self) -> Result<String, Error> {
        let mut text = Vec::with_capacity(64 * 1024);
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        String::from_utf8(text)
            .map_err(|error| Error::Msg(format!("the exported text is not UTF-8: {error}")))
    }

    /// Takes a node that left the cluster out of the exported text.
    pub fn forget_peer(&self, node: u64) {
        for family in [
            &self.sent_bytes,
            &self.sent_messages,
            &self.sent_frames,
            &self.received_bytes,
            &self.received_messages,
            &self.connects,
        ] {
            family.forget(node);
        }
        self.dropped_messages.forget(node);
        self.queue_bytes.forget(node);
        self.connected.forget(node);
        self.clock_offset.forget(node);
    }
}
