//! What people look at: three dashboards. `deploy/grafana/dashboards` is made from it.

use super::describe::{Dashboard, Panel, Row, Unit::*, lines};

/// Metrics that no panel and no alert shows, and what they are there for.
pub(crate) const DETAIL: &[(&str, &str)] = &[
    (
        "flotilla_node_process_id",
        "tools that compare nodes of one process",
    ),
    (
        "flotilla_node_cpu_seconds",
        "benchmarks, which need fractions of a second",
    ),
];

pub(crate) fn dashboards() -> Vec<Dashboard> {
    vec![
        Dashboard {
            name: "flotilla-overview",
            title: "Flotilla / Overview",
            about: "Is the cluster well, what is asked of it, and who does the work.",
            by_node: false,
            rows: vec![health(), requests(), work(), resources()],
        },
        Dashboard {
            name: "flotilla-node",
            title: "Flotilla / Node",
            about: "What a node gets from its machine, its disks and its network.",
            by_node: true,
            rows: vec![
                process(),
                log(),
                databases(),
                transport(),
                connections(),
                snapshots(),
            ],
        },
        Dashboard {
            name: "flotilla-shards",
            title: "Flotilla / Shard engine",
            about: "The way of writes and reads through a node's shards.",
            by_node: true,
            rows: vec![pipeline(), consensus(), apply(), logs()],
        },
    ]
}

fn row(title: &'static str, panels: Vec<Panel>) -> Row {
    Row { title, panels }
}

fn health() -> Row {
    row("Health", vec![
        lines("Nodes", Count, "Nodes that say that they are ready, that Prometheus reaches, and that the cluster has.", &[
            ("sum(flotilla_node_ready{@})", "ready"),
            ("sum(up{@})", "up"),
            ("max(flotilla_node_peers_known{@})", "known"),
            ("min(flotilla_node_peers_reachable{@})", "reached by the loneliest"),
        ]).number(),
        lines("Shards without a leader", Count, "They take no writes and no linearizable reads.", &[
            (
                "clamp_min(max(flotilla_shard_known{@}) - sum(flotilla_shard_replicas{@,state=\"leader\"}), 0)",
                "no leader",
            ),
            ("sum(flotilla_shard_without_quorum{@})", "no quorum"),
            ("count(flotilla_node_meta_leader_known{@}) - sum(flotilla_node_meta_leader_known{@})", "nodes without meta"),
        ]).number().thresholds(1.0, 1.0),
        lines("Under-replicated shards", Count, "They serve, and lack a replica.", &[
            ("sum(flotilla_shard_under_replicated{@})", "shards"),
        ]).number().thresholds(1.0, 1_000.0),
        lines("Versions", Count, "Nodes by the version that they run.", &[
            ("count by (version) (flotilla_build_info{@})", "{{version}}"),
        ]).number(),
    ])
}

fn requests() -> Row {
    row("Requests", vec![
        lines("Requests", PerSecond, "Answers per second, by operation.", &[
            ("sum by (op) (rate(flotilla_request_answers_total{@}[$r]))", "{{op}}"),
        ]).stacked(),
        lines("Errors", PerSecond, "Answers that are errors, by reason; clients try most of them again by themselves.", &[
            ("sum by (result) (rate(flotilla_request_answers_total{@,result!=\"ok\"}[$r]))", "{{result}}"),
        ]).stacked(),
        lines("Latency, half of the requests", Seconds, "From arrival to answer, by operation (p50).", &[(
            "histogram_quantile(0.5, sum by (op, le) (rate(flotilla_request_latency_seconds_bucket{@}[$r])))",
            "{{op}}",
        )]).thresholds(0.05, 0.5),
        lines("Latency, all but 1 %", Seconds, "From arrival to answer, by operation (p99).", &[(
            "histogram_quantile(0.99, sum by (op, le) (rate(flotilla_request_latency_seconds_bucket{@}[$r])))",
            "{{op}}",
        )]).thresholds(0.1, 1.0),
        lines("Latency, all but 0.1 %", Seconds, "From arrival to answer, by operation (p999).", &[(
            "histogram_quantile(0.999, sum by (op, le) (rate(flotilla_request_latency_seconds_bucket{@}[$r])))",
            "{{op}}",
        )]).thresholds(0.5, 5.0),
        lines("Where writes spend their time", Seconds, "By stage (p99). ARCHITECTURE.md, the way of a put, has the stages.", &[(
            "histogram_quantile(0.99, sum by (stage, le) (rate(flotilla_write_stage_latency_seconds_bucket{@}[$r])))",
            "{{stage}}",
        )]).thresholds(0.1, 1.0),
        lines("Refused as busy", PerSecond, "Refused at the door, by what was used up, and by shards with too much in flight.", &[
            ("sum by (reason) (rate(flotilla_request_busy_total{@}[$r]))", "{{reason}}"),
            ("sum(rate(flotilla_shard_refusals_total{@,reason=\"busy\"}[$r]))", "shard"),
        ]).stacked().thresholds(1.0, 100.0),
        lines("In flight", Count, "Requests taken in and not yet answered, by node.", &[
            ("flotilla_request_in_flight{@}", "{{instance}}"),
        ]),
        lines("Bytes in flight", Bytes, "Bytes of these requests; limits.in_flight_bytes bounds them.", &[
            ("flotilla_request_in_flight_bytes{@}", "{{instance}}"),
        ]),
        lines("Data read and written", BytesPerSecond, "Keys and values read for clients, and commands applied.", &[
            ("sum(rate(flotilla_request_read_bytes_total{@}[$r]))", "read"),
            ("sum(rate(flotilla_request_written_bytes_total{@}[$r]))", "written"),
        ]),
        lines("Detours", PerSecond, "Requests passed on to the leader's node, and held until there was a leader.", &[
            ("sum by (op) (rate(flotilla_request_forwarded_total{@}[$r]))", "forwarded: {{op}}"),
            ("sum(rate(flotilla_request_held_total{@}[$r]))", "held"),
        ]),
        lines("Client streams", Count, "Streams of clients that are open, by node.", &[
            ("flotilla_request_streams_open{@}", "{{instance}}"),
        ]),
    ])
}

fn work() -> Row {
    row("Shards", vec![
        lines("Replicas by state", Count, "Every replica counts once. Candidates and replicas without a leader should be rare.", &[
            ("sum by (state) (flotilla_shard_replicas{@})", "{{state}}"),
        ]).stacked(),
        lines("Leaders by node", Count, "They do most of the work: an even spread is an even load.", &[
            ("flotilla_shard_replicas{@,state=\"leader\"}", "{{instance}}"),
        ]),
        lines("Replicas by node", Count, "All replicas of each node.", &[
            ("sum by (instance) (flotilla_shard_replicas{@})", "{{instance}}"),
        ]),
        lines("Elections", PerSecond, "Some after a node has gone; many without a cause are a slow disk or network.", &[
            ("sum(rate(flotilla_shard_elections_started_total{@}[$r]))", "started"),
            ("sum(rate(flotilla_shard_elections_won_total{@}[$r]))", "won"),
            ("sum(rate(flotilla_shard_leader_changes_total{@}[$r]))", "changes of leader seen"),
        ]),
        lines("Sleeping and awake", Count, "Idle shards rest: they cost memory alone.", &[
            ("sum(flotilla_shard_resting{@})", "sleeping"),
            ("sum(flotilla_shard_replicas{@}) - sum(flotilla_shard_resting{@})", "awake"),
        ]).stacked(),
        lines("Hot shards", PerSecond, "The ten most asked of all nodes; /shards?hottest=10 of the node has their ids.", &[
            ("topk(10, flotilla_shard_hot_requests_per_second{@})", "{{instance}} #{{rank}}"),
        ]),
    ])
}

fn resources() -> Row {
    row(
        "Machines",
        vec![
            lines(
                "Processors",
                Count,
                "Processors in use, by node.",
                &[("rate(process_cpu_seconds_total{@}[$r])", "{{instance}}")],
            ),
            lines(
                "Memory",
                Share,
                "Share of the memory that the node may have.",
                &[(
                    "process_resident_memory_bytes{@} / flotilla_node_memory_limit_bytes{@}",
                    "{{instance}}",
                )],
            )
            .thresholds(0.7, 0.85),
            lines(
                "Disk free",
                Share,
                "Share of the disk that is free.",
                &[(
                    "flotilla_disk_free_bytes{@} / flotilla_disk_size_bytes{@}",
                    "{{instance}}",
                )],
            ),
            lines(
                "Clocks",
                Seconds,
                "How far the clocks of two nodes are apart, plus the way between them.",
                &[(
                    "abs(flotilla_node_clock_offset_seconds{@})",
                    "{{instance}} to {{peer}}",
                )],
            )
            .thresholds(0.1, 0.5),
        ],
    )
}

fn process() -> Row {
    row(
        "Process",
        vec![
            lines(
                "Processors",
                Count,
                "Processors in use.",
                &[("rate(process_cpu_seconds_total{@}[$r])", "{{instance}}")],
            ),
            lines(
                "Memory",
                Bytes,
                "What the process has, and what it may have.",
                &[
                    ("process_resident_memory_bytes{@}", "{{instance}}"),
                    ("flotilla_node_memory_limit_bytes{@}", "{{instance}} limit"),
                ],
            ),
            lines(
                "Open files",
                Count,
                "File descriptors that are open, and that may be.",
                &[
                    ("process_open_fds{@}", "{{instance}}"),
                    ("process_max_fds{@}", "{{instance}} limit"),
                ],
            ),
            lines(
                "Threads",
                Count,
                "Threads of the process.",
                &[("process_threads{@}", "{{instance}}")],
            ),
            lines(
                "Up for",
                Seconds,
                "Since the start of the process.",
                &[("time() - process_start_time_seconds{@}", "{{instance}}")],
            ),
            lines(
                "Disk free",
                Bytes,
                "Of the file system that holds the data folder.",
                &[
                    ("flotilla_disk_free_bytes{@}", "{{instance}} free"),
                    ("flotilla_disk_size_bytes{@}", "{{instance}} size"),
                ],
            ),
            lines(
                "Disk traffic",
                BytesPerSecond,
                "What the process has had read from disks and written to them.",
                &[
                    (
                        "rate(flotilla_disk_read_bytes_total{@}[$r])",
                        "{{instance}} read",
                    ),
                    (
                        "rate(flotilla_disk_written_bytes_total{@}[$r])",
                        "{{instance}} written",
                    ),
                ],
            ),
            lines(
                "Clocks",
                Seconds,
                "How far the clock of another node is behind, plus the way from there.",
                &[(
                    "flotilla_node_clock_offset_seconds{@}",
                    "{{instance}} to {{peer}}",
                )],
            )
            .thresholds(0.1, 0.5),
        ],
    )
}

fn log() -> Row {
    row("Log writes", vec![
        lines("Time of a write and sync", Seconds, "p50 and p99. Every write of a client waits for one of these.", &[
            (
                "histogram_quantile(0.99, sum by (instance, le) (rate(flotilla_log_fsync_latency_seconds_bucket{@}[$r])))",
                "{{instance}} p99",
            ),
            (
                "histogram_quantile(0.5, sum by (instance, le) (rate(flotilla_log_fsync_latency_seconds_bucket{@}[$r])))",
                "{{instance}} p50",
            ),
        ]).thresholds(0.02, 0.1),
        lines("Syncs", PerSecond, "Syncs of the log.", &[("rate(flotilla_log_fsyncs_total{@}[$r])", "{{instance}}")]),
        lines("Carried by one sync", Count, "Writes of clients, and log entries, that one sync made durable (mean).", &[
            (
                "rate(flotilla_log_synced_writes_total{@}[$r]) / rate(flotilla_log_fsyncs_total{@}[$r])",
                "{{instance}} writes",
            ),
            (
                "rate(flotilla_log_entries_per_fsync_sum{@}[$r]) / rate(flotilla_log_entries_per_fsync_count{@}[$r])",
                "{{instance}} entries",
            ),
        ]),
        lines("Bytes of one sync", Bytes, "p99 of what one sync made durable.", &[(
            "histogram_quantile(0.99, sum by (instance, le) (rate(flotilla_log_bytes_per_fsync_bucket{@}[$r])))",
            "{{instance}}",
        )]),
        lines("Written", BytesPerSecond, "Entries and hard states.", &[
            ("rate(flotilla_log_written_bytes_total{@}[$r])", "{{instance}}"),
        ]),
        lines("Waiting", Count, "Writes that wait for the storage writer.", &[("flotilla_log_queue_writes{@}", "{{instance}}")]),
        lines("The write under way", Seconds, "How long it has taken so far. A stalled disk shows here.", &[
            ("flotilla_log_write_running_seconds{@}", "{{instance}}"),
        ]).thresholds(0.5, 1.0),
    ])
}

fn databases() -> Row {
    row(
        "Databases (RocksDB)",
        vec![
            lines(
                "On disk",
                Bytes,
                "Bytes of the files.",
                &[(
                    "flotilla_database_disk_bytes{@}",
                    "{{instance}} {{database}}",
                )],
            ),
            lines(
                "Files in level 0",
                Count,
                "A read may have to look into each of them.",
                &[(
                    "flotilla_database_level0_files{@}",
                    "{{instance}} {{database}}",
                )],
            ),
            lines(
                "Compaction debt",
                Bytes,
                "What compactions still have to rewrite, as RocksDB estimates it.",
                &[(
                    "flotilla_database_compaction_debt_bytes{@}",
                    "{{instance}} {{database}}",
                )],
            ),
            lines(
                "Flushes and compactions",
                BytesPerSecond,
                "Bytes that background jobs read and write.",
                &[
                    (
                        "rate(flotilla_database_flushed_bytes_total{@}[$r])",
                        "{{instance}} {{database}} flushed",
                    ),
                    (
                        "rate(flotilla_database_compaction_written_bytes_total{@}[$r])",
                        "{{instance}} {{database}} compacted",
                    ),
                    (
                        "rate(flotilla_database_compaction_read_bytes_total{@}[$r])",
                        "{{instance}} {{database}} read for it",
                    ),
                ],
            ),
            lines(
                "Jobs",
                Count,
                "Flushes and compactions that run, and full memtables that wait.",
                &[
                    (
                        "flotilla_database_running_jobs{@}",
                        "{{instance}} {{database}} running",
                    ),
                    (
                        "flotilla_database_full_memtables{@}",
                        "{{instance}} {{database}} waiting",
                    ),
                ],
            ),
            lines(
                "Write amplification",
                Count,
                "Bytes written to files per byte flushed, since the start.",
                &[(
                    "(flotilla_database_flushed_bytes_total{@} + flotilla_database_compaction_written_bytes_total{@}) \
                / clamp_min(flotilla_database_flushed_bytes_total{@}, 1)",
                    "{{instance}} {{database}}",
                )],
            ),
            lines(
                "Writes held back",
                Share,
                "Share of the time; 1 also while no writes are taken at all.",
                &[
                    (
                        "rate(flotilla_database_stall_seconds_total{@}[$r])",
                        "{{instance}} {{database}} slowed",
                    ),
                    (
                        "flotilla_database_writes_stopped{@}",
                        "{{instance}} {{database}} stopped",
                    ),
                ],
            )
            .thresholds(0.01, 0.1),
            lines(
                "Found in the cache",
                Share,
                "Share of the blocks that reads wanted.",
                &[(
                    "rate(flotilla_database_cache_hits_total{@}[$r]) / (rate(flotilla_database_cache_hits_total{@}[$r]) \
                + rate(flotilla_database_cache_misses_total{@}[$r]))",
                    "{{instance}} {{database}}",
                )],
            ),
            lines(
                "In memory",
                Bytes,
                "Memtables and cached blocks.",
                &[
                    (
                        "flotilla_database_memtable_bytes{@}",
                        "{{instance}} {{database}} memtables",
                    ),
                    (
                        "flotilla_database_cache_bytes{@}",
                        "{{instance}} {{database}} cache",
                    ),
                ],
            ),
            lines(
                "Flushes of the state",
                Seconds,
                "Time that one takes (p99).",
                &[(
                    "histogram_quantile(0.99, sum by (instance, le) (rate(flotilla_state_flush_latency_seconds_bucket{@}[$r])))",
                    "{{instance}}",
                )],
            ),
            lines(
                "Comparisons of replicas",
                PerSecond,
                "By outcome. A different one pages somebody; skipped ones were written all the time.",
                &[(
                    "rate(flotilla_state_scrubs_total{@}[$r])",
                    "{{instance}} {{result}}",
                )],
            ),
            lines(
                "Flushes of the state, number",
                PerSecond,
                "How often the state is made durable.",
                &[("rate(flotilla_state_flushes_total{@}[$r])", "{{instance}}")],
            ),
        ],
    )
}

fn transport() -> Row {
    row("Transport", vec![
        lines("Sent", BytesPerSecond, "Messages of shards, by peer and lane.", &[
            ("rate(flotilla_transport_sent_bytes_total{@}[$r])", "{{instance}} to {{peer}} {{lane}}"),
        ]),
        lines("Received", BytesPerSecond, "Messages of shards, by peer and lane.", &[
            ("rate(flotilla_transport_received_bytes_total{@}[$r])", "{{instance}} from {{peer}} {{lane}}"),
        ]),
        lines("Messages", PerSecond, "Messages of shards in both directions, by peer.", &[
            ("sum by (instance, peer) (rate(flotilla_transport_sent_messages_total{@}[$r]))", "{{instance}} to {{peer}}"),
            (
                "sum by (instance, peer) (rate(flotilla_transport_received_messages_total{@}[$r]))",
                "{{instance}} from {{peer}}",
            ),
        ]),
        lines("Frames", PerSecond, "What messages travel in: far fewer than messages under load.", &[
            ("sum by (instance, peer) (rate(flotilla_transport_sent_frames_total{@}[$r]))", "{{instance}} to {{peer}}"),
        ]),
        lines("Queues", Bytes, "Bytes that wait to be sent; transport.queue_bytes bounds each.", &[
            ("flotilla_transport_queue_bytes{@}", "{{instance}} to {{peer}} {{lane}}"),
        ]),
        lines("Dropped", PerSecond, "Messages that were not sent. Raft sends them again.", &[(
            "sum by (instance, peer, reason) (rate(flotilla_transport_dropped_messages_total{@}[$r]))",
            "{{instance}} to {{peer}} {{reason}}",
        )]).thresholds(1.0, 100.0),
        lines("Connections", Count, "1 for each that stands.", &[
            ("flotilla_transport_connected{@}", "{{instance}} to {{peer}} {{lane}}"),
        ]),
        lines("Trouble", PerSecond, "Attempts to connect, refused handshakes, messages that make no sense.", &[
            ("sum by (instance, peer) (rate(flotilla_transport_connects_total{@}[$r]))", "{{instance}} connects to {{peer}}"),
            ("sum by (instance, reason) (rate(flotilla_transport_handshakes_refused_total{@}[$r]))", "{{instance}} refused: {{reason}}"),
            ("rate(flotilla_transport_malformed_messages_total{@}[$r])", "{{instance}} malformed"),
        ]),
    ])
}

fn connections() -> Row {
    row("Connections, certificates, users", vec![
        lines("Open connections", Count, "By port; limits.connections bounds each.", &[
            ("flotilla_connection_open{@}", "{{instance}} {{port}}"),
        ]),
        lines("Refused connections", PerSecond, "Before they could ask anything; the log says why.", &[(
            "sum by (instance, port, reason) (rate(flotilla_connection_refused_total{@}[$r]))",
            "{{instance}} {{port}}: {{reason}}",
        )]).thresholds(0.1, 10.0),
        lines("Certificates are valid for", Seconds, "0 for nodes without certificates.", &[(
            "clamp_min(flotilla_tls_certificate_expiry_timestamp_seconds{@} - time(), 0)",
            "{{instance}}",
        )]),
        lines("Certificates read again", PerSecond, "As their files have changed; refused ones are not used, those from before are.", &[
            ("rate(flotilla_tls_reloads_total{@}[$r])", "{{instance}} {{result}}"),
        ]),
        lines("Callers have to say who they are", Count, "1 or 0, as far as each node knows.", &[
            ("flotilla_access_enforced{@}", "{{instance}}"),
        ]),
        lines("Users and roles were confirmed before", Seconds, "Beyond access.max_age a node refuses clients.", &[
            ("flotilla_access_age_seconds{@}", "{{instance}}"),
        ]).thresholds(30.0, 240.0),
    ])
}

fn snapshots() -> Row {
    row(
        "Snapshots",
        vec![
            lines(
                "Transfers",
                PerSecond,
                "Sent to followers that were too far behind, and received, by outcome.",
                &[
                    (
                        "rate(flotilla_snapshot_sent_total{@}[$r])",
                        "{{instance}} sent: {{result}}",
                    ),
                    (
                        "rate(flotilla_snapshot_received_total{@}[$r])",
                        "{{instance}} received: {{result}}",
                    ),
                ],
            ),
            lines(
                "Traffic",
                BytesPerSecond,
                "Bytes of snapshots; transport.snapshot_rate bounds what is sent.",
                &[
                    (
                        "rate(flotilla_snapshot_sent_bytes_total{@}[$r])",
                        "{{instance}} sent",
                    ),
                    (
                        "rate(flotilla_snapshot_received_bytes_total{@}[$r])",
                        "{{instance}} received",
                    ),
                ],
            ),
            lines(
                "Running",
                Count,
                "Transfers under way, in both directions.",
                &[("flotilla_snapshot_running{@}", "{{instance}}")],
            ),
            lines(
                "Time of a transfer",
                Seconds,
                "p99.",
                &[(
                    "histogram_quantile(0.99, sum by (instance, le) (rate(flotilla_snapshot_transfer_seconds_bucket{@}[$r])))",
                    "{{instance}}",
                )],
            ),
        ],
    )
}

fn pipeline() -> Row {
    row("Writes and reads", vec![
        lines("Proposals", PerSecond, "Commands of clients that entered a leader's log.", &[
            ("rate(flotilla_shard_proposals_total{@}[$r])", "{{instance}}"),
        ]),
        lines("Waiting commands", Count, "Not yet proposed, or proposed and not yet committed.", &[
            ("flotilla_shard_pending_commands{@}", "{{instance}}"),
        ]),
        lines("Given back", PerSecond, "Requests that shards gave back, by reason. not_leader is an old route: the client is told the new one.", &[
            ("sum by (instance, reason) (rate(flotilla_shard_refusals_total{@}[$r]))", "{{instance}} {{reason}}"),
        ]),
        lines("Commands per entry", Count, "p99. They gather while the shard's last write is being synced.", &[(
            "histogram_quantile(0.99, sum by (instance, le) (rate(flotilla_shard_commands_per_entry_bucket{@}[$r])))",
            "{{instance}}",
        )]),
        lines("Where writes spend their time", Seconds, "By stage (p99).", &[(
            "histogram_quantile(0.99, sum by (instance, stage, le) (rate(flotilla_write_stage_latency_seconds_bucket{@}[$r])))",
            "{{instance}} {{stage}}",
        )]).thresholds(0.1, 1.0),
        lines("Reads confirmed at once", Count, "p99 of the linearizable reads that one turn of a worker confirmed.", &[(
            "histogram_quantile(0.99, sum by (instance, le) (rate(flotilla_shard_reads_per_round_bucket{@}[$r])))",
            "{{instance}}",
        )]),
        lines("Linearizable reads", PerSecond, "By what confirmed them: a lease (raft.leases), or a round of heartbeats.", &[
            ("sum by (instance, by) (rate(flotilla_shard_reads_total{@}[$r]))", "{{instance}} {{by}}"),
        ]),
        lines("A worker's turn", Seconds, "p99. What comes in meanwhile waits for the next one.", &[(
            "histogram_quantile(0.99, sum by (instance, le) (rate(flotilla_shard_turn_seconds_bucket{@}[$r])))",
            "{{instance}}",
        )]).thresholds(0.05, 0.5),
        lines("Hot shards", PerSecond, "The ten most asked of each node; its /shards?hottest=10 has their ids.", &[
            ("flotilla_shard_hot_requests_per_second{@}", "{{instance}} #{{rank}}"),
        ]),
    ])
}

fn consensus() -> Row {
    row(
        "Consensus",
        vec![
            lines(
                "Replicas by state",
                Count,
                "Every replica counts once.",
                &[("flotilla_shard_replicas{@}", "{{instance}} {{state}}")],
            ),
            lines(
                "Elections",
                PerSecond,
                "Started and won by replicas of the node.",
                &[
                    (
                        "rate(flotilla_shard_elections_started_total{@}[$r])",
                        "{{instance}} started",
                    ),
                    (
                        "rate(flotilla_shard_elections_won_total{@}[$r])",
                        "{{instance}} won",
                    ),
                ],
            ),
            lines(
                "Sleeping",
                Count,
                "Replicas without timers and messages, as nothing is asked of them.",
                &[("flotilla_shard_resting{@}", "{{instance}}")],
            ),
            lines(
                "Shards that lack replicas",
                Count,
                "As their leaders see it.",
                &[
                    (
                        "flotilla_shard_under_replicated{@}",
                        "{{instance}} under-replicated",
                    ),
                    (
                        "flotilla_shard_without_quorum{@}",
                        "{{instance}} without quorum",
                    ),
                ],
            )
            .thresholds(1.0, 1_000.0),
        ],
    )
}

fn apply() -> Row {
    row(
        "Applying",
        vec![
            lines(
                "Committed, not yet applied",
                Count,
                "Entries of all shards.",
                &[("flotilla_apply_lag_entries{@}", "{{instance}}")],
            ),
            lines(
                "Applied",
                PerSecond,
                "Entries, and the commands of clients in them.",
                &[
                    (
                        "rate(flotilla_apply_entries_total{@}[$r])",
                        "{{instance}} entries",
                    ),
                    (
                        "rate(flotilla_apply_commands_total{@}[$r])",
                        "{{instance}} commands",
                    ),
                ],
            ),
            lines(
                "Time of a batch",
                Seconds,
                "p99. One batch is of many shards.",
                &[(
                    "histogram_quantile(0.99, sum by (instance, le) (rate(flotilla_apply_batch_latency_seconds_bucket{@}[$r])))",
                    "{{instance}}",
                )],
            ),
            lines(
                "Batches",
                PerSecond,
                "How often the state database is written.",
                &[("rate(flotilla_apply_batches_total{@}[$r])", "{{instance}}")],
            ),
            lines(
                "Entries per batch",
                Count,
                "p99.",
                &[(
                    "histogram_quantile(0.99, sum by (instance, le) (rate(flotilla_apply_entries_per_batch_bucket{@}[$r])))",
                    "{{instance}}",
                )],
            ),
        ],
    )
}

fn logs() -> Row {
    row(
        "Logs of the shards",
        vec![
            lines(
                "Not cut yet",
                Bytes,
                "Entries of all shards, and of the longest log.",
                &[
                    ("flotilla_log_live_bytes{@}", "{{instance}} all"),
                    ("flotilla_log_longest_bytes{@}", "{{instance}} longest"),
                ],
            ),
            lines(
                "Replayed after a crash",
                Bytes,
                "What a start would have to apply again; storage.replay_limit bounds it.",
                &[("flotilla_log_replay_bytes{@}", "{{instance}}")],
            ),
            lines(
                "Entries",
                PerSecond,
                "Written, and removed by cutting logs at the front.",
                &[
                    (
                        "rate(flotilla_log_entries_total{@}[$r])",
                        "{{instance}} written",
                    ),
                    (
                        "rate(flotilla_log_compacted_entries_total{@}[$r])",
                        "{{instance}} cut",
                    ),
                ],
            ),
            lines(
                "Cuts",
                PerSecond,
                "Logs that were cut at the front.",
                &[(
                    "rate(flotilla_log_compactions_total{@}[$r])",
                    "{{instance}}",
                )],
            ),
            lines(
                "Entries for followers",
                PerSecond,
                "From memory, or from disk for followers that are behind.",
                &[
                    (
                        "rate(flotilla_log_cache_hits_total{@}[$r])",
                        "{{instance}} memory",
                    ),
                    (
                        "rate(flotilla_log_cache_misses_total{@}[$r])",
                        "{{instance}} disk",
                    ),
                ],
            ),
            lines(
                "Entries in memory",
                Bytes,
                "Kept for followers; raft.cache_bytes bounds it per shard.",
                &[("flotilla_log_cache_bytes{@}", "{{instance}}")],
            ),
        ],
    )
}
