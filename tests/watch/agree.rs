//! Code, reference page, dashboards, rules and runbook say the same.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
};

use flotilla_metrics::{Line, Metrics};

use super::{
    alerts::alerts,
    describe::expand,
    grafana,
    panels::{DETAIL, dashboards},
    promql::{Selector, grouped_by, in_text, selectors},
    rules,
};

/// Labels that Prometheus adds.
const ADDED: [&str; 2] = ["job", "instance"];

/// A file in `deploy/`.
pub(crate) fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("deploy")
        .join(path)
}

/// Every expression of panels and alerts, with where it stands.
pub(crate) fn expressions() -> Vec<(String, String)> {
    let mut all = Vec::new();
    for dashboard in dashboards() {
        for panel in dashboard.rows.iter().flat_map(|row| &row.panels) {
            for (expression, _) in panel.queries {
                let place = format!("{}, {}", dashboard.title, panel.title);
                all.push((place, expand(expression, grafana::labels(&dashboard), "5m")));
            }
        }
    }
    for alert in alerts() {
        all.push((alert.name.to_owned(), alert.expression()));
    }
    all
}

#[test]
fn the_files_are_what_is_described() {
    let operator = deploy("kubernetes/monitoring/rules.yaml");
    let mut files = vec![
        (deploy("prometheus/rules.yml"), rules::yaml(&alerts())),
        (operator, rules::operator_yaml(&alerts())),
    ];
    for dashboard in dashboards() {
        let path = deploy(&format!("grafana/dashboards/{}.json", dashboard.name));
        files.push((path, grafana::json(&dashboard)));
    }
    let stored = fs::read_dir(deploy("grafana/dashboards")).expect("the folder is there");
    for entry in stored {
        let path = entry.expect("a file").path();
        assert!(
            files.iter().any(|(known, _)| *known == path),
            "{}: nobody describes it",
            path.display()
        );
    }
    for (path, content) in files {
        if env::var_os("FLOTILLA_BLESS").is_some() {
            fs::write(&path, &content).expect("written");
        }
        assert!(
            fs::read_to_string(&path).is_ok_and(|stored| stored == content),
            "{} is old: run FLOTILLA_BLESS=1 cargo test -p flotilla --test watch and commit it",
            path.display()
        );
    }
}

/// The metric that a name in an expression belongs to.
fn family<'a>(name: &str, declared: &'a BTreeMap<&str, Line>) -> Option<&'a Line> {
    declared.get(name).or_else(|| {
        let parts = ["_bucket", "_sum", "_count"];
        let base = parts.iter().find_map(|part| name.strip_suffix(part))?;
        declared.get(base).filter(|line| line.kind == "histogram")
    })
}

fn declared() -> BTreeMap<&'static str, Line> {
    Metrics::declared()
        .into_iter()
        .map(|line| (line.name, line))
        .collect()
}

/// What is wrong with a metric as it is used.
fn mistakes(selector: &Selector, declared: &BTreeMap<&str, Line>) -> Vec<String> {
    let name = selector.metric.as_str();
    let labels: Vec<(&str, &[&str])> = match family(name, declared) {
        Some(line) if line.kind == "histogram" && line.name == name => {
            return vec![format!(
                "{name} is a histogram: only its _bucket, _sum and _count have values"
            )];
        }
        Some(line) => line.labels.clone(),
        None if name == "up" || name.starts_with("process_") => Vec::new(),
        None if name == "flotilla_build_info" => vec![("version", &[])],
        None => return vec![format!("{name} is not declared")],
    };
    let mut wrong = Vec::new();
    if !selector.matchers.iter().any(|(label, _)| label == "job") {
        wrong.push(format!("{name} is not chosen by job"));
    }
    for (label, values) in &selector.matchers {
        if ADDED.contains(&label.as_str()) {
            continue;
        }
        match labels.iter().find(|(known, _)| known == label) {
            None => wrong.push(format!("{name} has no label {label}")),
            Some((_, known)) => {
                let strange = values
                    .iter()
                    .filter(|value| !known.is_empty() && !known.contains(&value.as_str()));
                wrong.extend(strange.map(|value| format!("{label} of {name} is never {value}")));
            }
        }
    }
    wrong
}

/// The labels that the series of an expression can have.
fn labels_of(expression: &str, declared: &BTreeMap<&str, Line>) -> BTreeSet<String> {
    let mut labels: BTreeSet<String> = ADDED.map(str::to_owned).into();
    for selector in selectors(expression) {
        if selector.metric.ends_with("_bucket") {
            labels.insert("le".to_owned());
        }
        if selector.metric == "flotilla_build_info" {
            labels.insert("version".to_owned());
        }
        let line = family(&selector.metric, declared);
        labels.extend(
            line.iter()
                .flat_map(|line| &line.labels)
                .map(|(label, _)| (*label).to_owned()),
        );
    }
    labels
}

#[test]
fn everything_watched_is_declared_with_these_labels() {
    let declared = declared();
    let mut wrong = Vec::new();
    for (place, expression) in expressions() {
        let known = labels_of(&expression, &declared);
        let found = selectors(&expression);
        assert!(!found.is_empty(), "{place}: no metric in {expression}");
        let mistakes = found
            .iter()
            .flat_map(|selector| mistakes(selector, &declared));
        wrong.extend(mistakes.map(|mistake| format!("{place}: {mistake}")));
        let strange = grouped_by(&expression)
            .into_iter()
            .filter(|label| !known.contains(label));
        wrong.extend(strange.map(|label| format!("{place}: nothing has the label {label}")));
    }
    for dashboard in dashboards() {
        for panel in dashboard.rows.iter().flat_map(|row| &row.panels) {
            for (expression, legend) in panel.queries {
                let strange = in_text(legend)
                    .into_iter()
                    .filter(|label| !survives(label, expression, &declared));
                wrong.extend(
                    strange.map(|label| format!("{}: no {label} for the legend", panel.title)),
                );
            }
        }
    }
    for alert in alerts() {
        let strange = in_text(alert.summary)
            .into_iter()
            .filter(|label| !survives(label, alert.value, &declared));
        wrong.extend(strange.map(|label| format!("{}: no {label} for the summary", alert.name)));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Whether the result of an expression still has a label.
fn survives(label: &str, expression: &str, declared: &BTreeMap<&str, Line>) -> bool {
    let grouped = grouped_by(expression);
    // `clamp_min(` aggregates nothing.
    let mut words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let aggregated = words.any(|word| ["sum", "max", "min", "count"].contains(&word));
    labels_of(expression, declared).contains(label)
        && (grouped.contains(label) || (grouped.is_empty() && !aggregated))
}

#[test]
fn mistakes_are_found() {
    let declared = declared();
    let count = |expression: &str| -> usize {
        let found = selectors(expression);
        found
            .iter()
            .map(|selector| mistakes(selector, &declared).len())
            .sum()
    };
    assert_eq!(
        count("flotilla_shard_replicas{job=\"x\",state=\"leader\"}"),
        0
    );
    assert_eq!(
        count("flotilla_shard_replicas{job=\"x\",state=~\"leader|king\"}"),
        1
    );
    assert_eq!(count("flotilla_shard_replicas{job=\"x\",shard=\"7\"}"), 1);
    assert_eq!(count("flotilla_shard_replicas"), 1);
    assert_eq!(count("flotilla_shard_nonsense{job=\"x\"}"), 1);
    assert_eq!(count("flotilla_log_fsync_latency_seconds{job=\"x\"}"), 1);
    assert_eq!(
        count("flotilla_log_fsync_latency_seconds_bucket{job=\"x\"}"),
        0
    );
    assert!(!survives(
        "instance",
        "sum(flotilla_shard_resting{job=\"x\"})",
        &declared
    ));
    assert!(survives(
        "peer",
        "flotilla_transport_connected{job=\"x\"}",
        &declared
    ));
}

#[test]
fn every_metric_is_watched_or_has_a_reason_not_to_be() {
    let declared = declared();
    let mut unseen: BTreeSet<&str> = declared.keys().copied().collect();
    for (_, expression) in expressions() {
        for selector in selectors(&expression) {
            if let Some(line) = family(&selector.metric, &declared) {
                unseen.remove(line.name);
            }
        }
    }
    let detail: BTreeSet<&str> = DETAIL.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        unseen, detail,
        "metrics without a panel, and those that may be so"
    );
}

#[test]
fn every_alert_has_its_place_in_the_runbook_and_no_place_is_without_alert() {
    let runbook = fs::read_to_string(deploy("runbook.md")).expect("deploy/runbook.md");
    let sections: Vec<&str> = runbook.split("\n## ").skip(1).collect();
    let titles: Vec<&str> = sections
        .iter()
        .filter_map(|section| section.lines().next())
        .collect();
    let alerts = alerts();
    let names: Vec<&str> = alerts.iter().map(|alert| alert.name).collect();
    assert_eq!(
        titles, names,
        "sections of the runbook, and alerts, in the same order"
    );
    for section in sections {
        for part in ["**Means**", "**Look**", "**Do**"] {
            assert!(section.contains(part), "{part} is missing: {section}");
        }
    }
}

#[test]
fn panels_are_told_apart() {
    for dashboard in dashboards() {
        let mut seen = BTreeSet::new();
        for panel in dashboard.rows.iter().flat_map(|row| &row.panels) {
            assert!(
                seen.insert(panel.title),
                "{}: two panels {}",
                dashboard.title,
                panel.title
            );
            assert!(
                panel.about.ends_with('.') && !panel.queries.is_empty(),
                "{}",
                panel.title
            );
        }
    }
}

#[test]
fn documents_name_metrics_that_exist() {
    let declared = declared();
    let root = deploy("..");
    let mut looked_at = 0;
    for path in ["README.md", "ARCHITECTURE.md", "deploy/runbook.md"] {
        let text = fs::read_to_string(root.join(path)).expect("a document");
        for name in text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')) {
            if name.starts_with("flotilla_") && name != "flotilla_build_info" {
                looked_at += 1;
                assert!(
                    family(name, &declared).is_some(),
                    "{path}: {name} is not declared"
                );
            }
        }
    }
    assert!(
        looked_at > 0,
        "no metric is named anywhere: the test looks in the wrong place"
    );
}
