//! What is exported, and that the reference page tells the truth about it.

use std::collections::BTreeSet;
use std::path::Path;

use flotilla_metrics::{Lane, Metrics, Operation, Outcome, ShardState};

#[test]
fn reference_page_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("METRICS.md");
    let page = Metrics::reference();
    if std::env::var_os("FLOTILLA_BLESS").is_some() {
        std::fs::write(&path, &page).expect("write METRICS.md");
    }
    let stored = std::fs::read_to_string(&path).expect("read METRICS.md");
    assert!(
        stored == page,
        "METRICS.md is old: run FLOTILLA_BLESS=1 cargo test -p flotilla-metrics and commit it"
    );
}

#[test]
fn names_follow_the_rules_and_are_unique() {
    let page = Metrics::reference();
    let mut seen = BTreeSet::new();
    for line in page.lines().filter(|line| line.starts_with("| `flotilla_")) {
        let mut cells = line.split(" | ");
        let name = cells
            .next()
            .expect("name")
            .trim_start_matches("| ")
            .trim_matches('`');
        let kind = cells.next().expect("kind");
        assert_eq!(
            kind == "counter",
            name.ends_with("_total"),
            "{name} is a {kind}"
        );
        assert!(
            name.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'),
            "{name}"
        );
        assert!(name.split('_').count() >= 3, "{name} lacks area or unit");
        for wrong in ["_ms", "_micros", "_kb", "_mib"] {
            assert!(!name.contains(wrong), "{name} is not in base units");
        }
        assert!(seen.insert(name.to_owned()), "{name} is declared twice");
    }
    assert!(
        seen.len() > 60,
        "only {} metrics found on the page",
        seen.len()
    );
}

#[test]
fn counts_reach_the_exported_text() {
    let metrics = Metrics::new().expect("register");
    metrics.requests.of(Operation::Put, Outcome::Busy).inc_by(3);
    metrics.shards.of(ShardState::NoLeader).set(7);
    metrics.log_fsync_seconds.observe(0.003);
    let peer = metrics.sent_bytes.peer(2);
    peer.of(Lane::Bulk).inc_by(4096);

    let text = metrics.render().expect("render");
    let has = |line: &str| {
        assert!(
            text.lines().any(|l| l == line),
            "{line} is missing in\n{text}"
        )
    };
    has(r#"flotilla_request_answers_total{op="put",result="busy"} 3"#);
    has(r#"flotilla_request_answers_total{op="get",result="ok"} 0"#);
    has(r#"flotilla_shard_replicas{state="no_leader"} 7"#);
    has(r#"flotilla_log_fsync_latency_seconds_bucket{le="0.005"} 1"#);
    has(r#"flotilla_log_fsync_latency_seconds_bucket{le="0.002"} 0"#);
    has(r#"flotilla_transport_sent_bytes_total{lane="bulk",peer="2"} 4096"#);
    has(concat!(
        "flotilla_build_info{version=\"",
        env!("CARGO_PKG_VERSION"),
        "\"} 1"
    ));
    #[cfg(target_os = "linux")]
    for name in [
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_open_fds",
    ] {
        assert!(
            text.lines().any(|l| l.starts_with(&format!("{name} "))),
            "{name} is missing"
        );
    }

    metrics.forget_peer(2);
    assert!(!metrics.render().expect("render").contains("peer=\"2\""));
}

#[test]
fn every_series_of_the_text_stands_in_the_reference() {
    let text = Metrics::new().expect("register").render().expect("render");
    let page = Metrics::reference();
    for line in text
        .lines()
        .filter_map(|l| l.strip_prefix("# TYPE flotilla_"))
    {
        let name = format!("flotilla_{}", line.split(' ').next().expect("name"));
        assert!(
            page.contains(&format!("`{name}")),
            "{name} is not in the reference"
        );
    }
}
