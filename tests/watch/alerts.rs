//! What somebody is called for. `deploy/prometheus/rules.yml` is made from it, `deploy/runbook.md` says what to do.

use super::describe::{Alert, Severity::*};

/// A series that nothing happens in.
const FLAT: &str = "0x120";

pub(crate) fn alerts() -> Vec<Alert> {
    vec![
        Alert {
            name: "FlotillaNodeDown",
            severity: Page,
            value: "up{@}",
            when: "== 0",
            hold: "1m",
            summary: "{{ $labels.instance }} of {{ $labels.job }} does not answer",
            labels: &[("instance", "b")],
            at: "4m",
            firing: &[
                ("up{@,instance=\"a\"}", "1x40"),
                ("up{@,instance=\"b\"}", "1x4 0x40"),
            ],
            quiet: &[
                ("up{@,instance=\"a\"}", "1x40"),
                ("up{@,instance=\"b\"}", "1x14 0x1 1x40"),
            ],
        },
        Alert {
            name: "FlotillaShardWithoutLeader",
            severity: Page,
            value: "max by (job) (flotilla_shard_known{@}) \
                - sum by (job) (flotilla_shard_replicas{@,state=\"leader\"}) \
                + sum by (job) (flotilla_shard_without_quorum{@})",
            // A node that is not scraped may lead what nobody else does; its followers know.
            when: "> 0 and sum by (job) (flotilla_shard_replicas{@,state=~\"no_leader|candidate\"}) \
                + sum by (job) (flotilla_shard_without_quorum{@}) > 0",
            hold: "30s",
            summary: "Shards of {{ $labels.job }} take no writes: they have no leader, or one without a quorum",
            labels: &[],
            at: "4m",
            firing: &[
                ("flotilla_shard_known{@,instance=\"a\"}", "9x40"),
                ("flotilla_shard_without_quorum{@,instance=\"a\"}", FLAT),
                (
                    "flotilla_shard_replicas{@,instance=\"a\",state=\"leader\"}",
                    "8x40",
                ),
                (
                    "flotilla_shard_replicas{@,instance=\"a\",state=\"no_leader\"}",
                    "1x40",
                ),
            ],
            // One node is not scraped: it leads one of them.
            quiet: &[
                ("flotilla_shard_known{@,instance=\"a\"}", "9x40"),
                ("flotilla_shard_without_quorum{@,instance=\"a\"}", FLAT),
                (
                    "flotilla_shard_replicas{@,instance=\"a\",state=\"leader\"}",
                    "8x40",
                ),
                (
                    "flotilla_shard_replicas{@,instance=\"a\",state=\"no_leader\"}",
                    FLAT,
                ),
            ],
        },
        Alert {
            name: "FlotillaNoMetaLeader",
            severity: Page,
            value: "max by (job) (flotilla_node_meta_leader_known{@})",
            when: "== 0",
            hold: "30s",
            summary: "No node of {{ $labels.job }} knows a leader of the meta shard",
            labels: &[],
            at: "4m",
            firing: &[
                (
                    "flotilla_node_meta_leader_known{@,instance=\"a\"}",
                    "1x4 0x40",
                ),
                (
                    "flotilla_node_meta_leader_known{@,instance=\"b\"}",
                    "1x4 0x40",
                ),
            ],
            quiet: &[
                ("flotilla_node_meta_leader_known{@,instance=\"a\"}", "1x40"),
                (
                    "flotilla_node_meta_leader_known{@,instance=\"b\"}",
                    "1x4 0x40",
                ),
            ],
        },
        Alert {
            name: "FlotillaUnderReplicated",
            severity: Ticket,
            value: "sum by (job) (flotilla_shard_under_replicated{@})",
            when: "> 0",
            hold: "10m",
            summary: "Shards of {{ $labels.job }} have lacked a replica for ten minutes",
            labels: &[],
            at: "14m",
            firing: &[(
                "flotilla_shard_under_replicated{@,instance=\"a\"}",
                "0x8 3x60",
            )],
            // A node was restarted.
            quiet: &[(
                "flotilla_shard_under_replicated{@,instance=\"a\"}",
                "0x8 3x20 0x40",
            )],
        },
        Alert {
            name: "FlotillaElectionStorm",
            severity: Ticket,
            value: "sum by (job) (increase(flotilla_shard_elections_started_total{@}[10m]))",
            when: "> 3 * max by (job) (flotilla_shard_known{@})",
            hold: "1m",
            summary: "Shards of {{ $labels.job }} elect leaders again and again",
            labels: &[],
            at: "14m",
            firing: &[
                ("flotilla_shard_known{@,instance=\"a\"}", "10x60"),
                (
                    "flotilla_shard_elections_started_total{@,instance=\"a\"}",
                    "0+2x60",
                ),
            ],
            // A rolling restart: each shard a few times.
            quiet: &[
                ("flotilla_shard_known{@,instance=\"a\"}", "10x60"),
                (
                    "flotilla_shard_elections_started_total{@,instance=\"a\"}",
                    "0+0x30 0+5x4 20+0x30",
                ),
            ],
        },
        Alert {
            name: "FlotillaDiskSlow",
            severity: Ticket,
            value: "histogram_quantile(0.99, sum by (job, instance, le) \
                (rate(flotilla_log_fsync_latency_seconds_bucket{@}[$r])))",
            when: "> 0.1",
            hold: "5m",
            summary: "One in a hundred log writes of {{ $labels.instance }} takes longer than 100 ms",
            labels: &[("instance", "a")],
            at: "14m",
            firing: &[
                (
                    "flotilla_log_fsync_latency_seconds_bucket{@,instance=\"a\",le=\"0.1\"}",
                    "0+90x60",
                ),
                (
                    "flotilla_log_fsync_latency_seconds_bucket{@,instance=\"a\",le=\"0.2\"}",
                    "0+100x60",
                ),
                (
                    "flotilla_log_fsync_latency_seconds_bucket{@,instance=\"a\",le=\"+Inf\"}",
                    "0+100x60",
                ),
            ],
            quiet: &[
                (
                    "flotilla_log_fsync_latency_seconds_bucket{@,instance=\"a\",le=\"0.1\"}",
                    "0+995x60",
                ),
                (
                    "flotilla_log_fsync_latency_seconds_bucket{@,instance=\"a\",le=\"0.2\"}",
                    "0+1000x60",
                ),
                (
                    "flotilla_log_fsync_latency_seconds_bucket{@,instance=\"a\",le=\"+Inf\"}",
                    "0+1000x60",
                ),
            ],
        },
        Alert {
            name: "FlotillaDiskStalled",
            severity: Page,
            value: "max_over_time(flotilla_log_write_running_seconds{@}[1m])",
            when: "> 1",
            hold: "0s",
            summary: "The disk of {{ $labels.instance }} has been at one log write for more than a second",
            labels: &[("instance", "a")],
            at: "2m",
            firing: &[(
                "flotilla_log_write_running_seconds{@,instance=\"a\"}",
                "0x6 4 0x9",
            )],
            quiet: &[(
                "flotilla_log_write_running_seconds{@,instance=\"a\"}",
                "0x6 0.4 0x9",
            )],
        },
        Alert {
            name: "FlotillaApplyLag",
            severity: Ticket,
            value: "histogram_quantile(0.99, sum by (job, instance, le) \
                (rate(flotilla_write_stage_latency_seconds_bucket{@,stage=\"apply\"}[$r])))",
            // Nothing is observed while nothing is applied at all.
            when: "> 1 or (min_over_time(flotilla_apply_lag_entries{@}[$r]) > 0 \
                and rate(flotilla_apply_entries_total{@}[$r]) == 0)",
            hold: "2m",
            summary: "{{ $labels.instance }} is slow to apply what is committed",
            labels: &[("instance", "a")],
            at: "14m",
            firing: &[
                ("flotilla_apply_lag_entries{@,instance=\"a\"}", "7x60"),
                ("flotilla_apply_entries_total{@,instance=\"a\"}", "500x60"),
            ],
            quiet: &[
                ("flotilla_apply_lag_entries{@,instance=\"a\"}", "7x60"),
                (
                    "flotilla_apply_entries_total{@,instance=\"a\"}",
                    "500+100x60",
                ),
            ],
        },
        Alert {
            name: "FlotillaWriteStall",
            severity: Ticket,
            value: "rate(flotilla_database_stall_seconds_total{@}[$r])",
            when: "> 0.1 or flotilla_database_writes_stopped{@} == 1",
            hold: "2m",
            summary: "RocksDB holds back writes to the {{ $labels.database }} of {{ $labels.instance }}",
            labels: &[("database", "state"), ("instance", "a")],
            at: "14m",
            firing: &[
                (
                    "flotilla_database_stall_seconds_total{@,instance=\"a\",database=\"state\"}",
                    "0+3x60",
                ),
                (
                    "flotilla_database_writes_stopped{@,instance=\"a\",database=\"state\"}",
                    FLAT,
                ),
            ],
            quiet: &[
                (
                    "flotilla_database_stall_seconds_total{@,instance=\"a\",database=\"state\"}",
                    "0+0.1x60",
                ),
                (
                    "flotilla_database_writes_stopped{@,instance=\"a\",database=\"state\"}",
                    FLAT,
                ),
            ],
        },
        Alert {
            name: "FlotillaBusy",
            severity: Ticket,
            value: "sum by (job, instance) (rate(flotilla_request_answers_total{@,result=\"busy\"}[$r])) \
                / sum by (job, instance) (rate(flotilla_request_answers_total{@}[$r]))",
            when: "> 0.01",
            hold: "5m",
            summary: "{{ $labels.instance }} answers more than one in a hundred requests with \"busy\"",
            labels: &[("instance", "a")],
            at: "14m",
            firing: &[
                (
                    "flotilla_request_answers_total{@,instance=\"a\",op=\"put\",result=\"busy\"}",
                    "0+10x60",
                ),
                (
                    "flotilla_request_answers_total{@,instance=\"a\",op=\"put\",result=\"ok\"}",
                    "0+90x60",
                ),
            ],
            quiet: &[
                (
                    "flotilla_request_answers_total{@,instance=\"a\",op=\"put\",result=\"busy\"}",
                    "0x20 50x40",
                ),
                (
                    "flotilla_request_answers_total{@,instance=\"a\",op=\"put\",result=\"ok\"}",
                    "0+90x60",
                ),
            ],
        },
        Alert {
            name: "FlotillaTransportDrops",
            severity: Ticket,
            value: "sum by (job, instance, peer) (rate(flotilla_transport_dropped_messages_total{@}[$r]))",
            when: "> 0",
            hold: "10m",
            summary: "{{ $labels.instance }} has dropped messages to node {{ $labels.peer }} for ten minutes",
            labels: &[("instance", "a"), ("peer", "2")],
            at: "16m",
            firing: &[(
                "flotilla_transport_dropped_messages_total{@,instance=\"a\",peer=\"2\",reason=\"queue_full\"}",
                "0+4x70",
            )],
            // The peer was restarted.
            quiet: &[(
                "flotilla_transport_dropped_messages_total{@,instance=\"a\",peer=\"2\",reason=\"disconnected\"}",
                "0x20 0+40x4 160x60",
            )],
        },
        Alert {
            name: "FlotillaDiskLow",
            severity: Ticket,
            value: "flotilla_disk_free_bytes{@} / flotilla_disk_size_bytes{@}",
            when: "< 0.15",
            hold: "5m",
            summary: "Less than 15 % of the disk of {{ $labels.instance }} is free",
            labels: &[("instance", "a")],
            at: "14m",
            firing: &[
                ("flotilla_disk_free_bytes{@,instance=\"a\"}", "14x60"),
                ("flotilla_disk_size_bytes{@,instance=\"a\"}", "100x60"),
            ],
            quiet: &[
                ("flotilla_disk_free_bytes{@,instance=\"a\"}", "16x60"),
                ("flotilla_disk_size_bytes{@,instance=\"a\"}", "100x60"),
            ],
        },
        Alert {
            name: "FlotillaDiskFull",
            severity: Page,
            value: "rate(flotilla_request_busy_total{@,reason=\"disk_full\"}[$r])",
            when: "> 0",
            hold: "0s",
            summary: "{{ $labels.instance }} refuses writes: its disk is nearly full",
            labels: &[("instance", "a"), ("reason", "disk_full")],
            at: "4m",
            firing: &[(
                "flotilla_request_busy_total{@,instance=\"a\",reason=\"disk_full\"}",
                "0+1x20",
            )],
            quiet: &[
                (
                    "flotilla_request_busy_total{@,instance=\"a\",reason=\"disk_full\"}",
                    FLAT,
                ),
                (
                    "flotilla_request_busy_total{@,instance=\"a\",reason=\"in_flight_bytes\"}",
                    "0+1x20",
                ),
            ],
        },
        Alert {
            name: "FlotillaMemoryHigh",
            severity: Ticket,
            value: "process_resident_memory_bytes{@} / flotilla_node_memory_limit_bytes{@}",
            when: "> 0.85",
            hold: "10m",
            summary: "{{ $labels.instance }} uses more than 85 % of the memory that it may have",
            labels: &[("instance", "a")],
            at: "14m",
            firing: &[
                ("process_resident_memory_bytes{@,instance=\"a\"}", "90x60"),
                (
                    "flotilla_node_memory_limit_bytes{@,instance=\"a\"}",
                    "100x60",
                ),
            ],
            quiet: &[
                (
                    "process_resident_memory_bytes{@,instance=\"a\"}",
                    "90x8 40x60",
                ),
                (
                    "flotilla_node_memory_limit_bytes{@,instance=\"a\"}",
                    "100x60",
                ),
            ],
        },
        Alert {
            name: "FlotillaClockSkew",
            severity: Ticket,
            value: "abs(flotilla_node_clock_offset_seconds{@})",
            when: "> 0.5",
            hold: "5m",
            summary: "The clocks of {{ $labels.instance }} and node {{ $labels.peer }} are more than half a second apart",
            labels: &[("instance", "a"), ("peer", "2")],
            at: "14m",
            firing: &[(
                "flotilla_node_clock_offset_seconds{@,instance=\"a\",peer=\"2\"}",
                "-2x60",
            )],
            quiet: &[(
                "flotilla_node_clock_offset_seconds{@,instance=\"a\",peer=\"2\"}",
                "0.02x60",
            )],
        },
        Alert {
            name: "FlotillaCertificateExpiry",
            severity: Ticket,
            value: "flotilla_tls_certificate_expiry_timestamp_seconds{@} - time()",
            // 0 is a node without certificates.
            when: "< 14 * 86400 and flotilla_tls_certificate_expiry_timestamp_seconds{@} > 0",
            hold: "5m",
            summary: "The certificate of {{ $labels.instance }} ceases to be valid within two weeks",
            labels: &[("instance", "a")],
            at: "14m",
            firing: &[(
                "flotilla_tls_certificate_expiry_timestamp_seconds{@,instance=\"a\"}",
                "1200000x60",
            )],
            quiet: &[
                (
                    "flotilla_tls_certificate_expiry_timestamp_seconds{@,instance=\"a\"}",
                    "1300000x60",
                ),
                (
                    "flotilla_tls_certificate_expiry_timestamp_seconds{@,instance=\"b\"}",
                    "0x60",
                ),
            ],
        },
        Alert {
            name: "FlotillaVersionSkew",
            severity: Ticket,
            value: "count by (job) (count by (job, version) (flotilla_build_info{@}))",
            when: "> 1",
            hold: "1h",
            summary: "The nodes of {{ $labels.job }} have run different versions for an hour",
            labels: &[],
            at: "70m",
            firing: &[
                (
                    "flotilla_build_info{@,instance=\"a\",version=\"1\"}",
                    "1x300",
                ),
                (
                    "flotilla_build_info{@,instance=\"b\",version=\"2\"}",
                    "1x300",
                ),
            ],
            // A rolling upgrade.
            quiet: &[
                (
                    "flotilla_build_info{@,instance=\"a\",version=\"1\"}",
                    "1x60 _x240",
                ),
                (
                    "flotilla_build_info{@,instance=\"a\",version=\"2\"}",
                    "_x61 1x240",
                ),
                (
                    "flotilla_build_info{@,instance=\"b\",version=\"2\"}",
                    "1x300",
                ),
            ],
        },
        Alert {
            name: "FlotillaChecksumMismatch",
            severity: Page,
            value: "sum by (job, instance) (increase(flotilla_state_scrubs_total{@,result=\"different\"}[1d])) \
                + sum by (job, instance) (increase(flotilla_snapshot_received_total{@,result=\"malformed\"}[1d]))",
            when: "> 0",
            hold: "0s",
            summary: "Replicas of a shard that {{ $labels.instance }} leads differ, or a snapshot that it was sent was damaged",
            labels: &[("instance", "a")],
            at: "14m",
            firing: &[
                (
                    "flotilla_state_scrubs_total{@,instance=\"a\",result=\"different\"}",
                    "0x20 1x60",
                ),
                (
                    "flotilla_snapshot_received_total{@,instance=\"a\",result=\"malformed\"}",
                    FLAT,
                ),
            ],
            quiet: &[
                (
                    "flotilla_state_scrubs_total{@,instance=\"a\",result=\"different\"}",
                    FLAT,
                ),
                (
                    "flotilla_state_scrubs_total{@,instance=\"a\",result=\"same\"}",
                    "0+1x60",
                ),
                (
                    "flotilla_snapshot_received_total{@,instance=\"a\",result=\"malformed\"}",
                    FLAT,
                ),
                (
                    "flotilla_snapshot_received_total{@,instance=\"a\",result=\"failed\"}",
                    "0x20 1x60",
                ),
            ],
        },
    ]
}
