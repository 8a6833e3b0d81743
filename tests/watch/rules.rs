//! Alerts as Prometheus reads them, and their cases as promtool does.

use std::fmt::Write as _;

use super::describe::{Alert, Severity};

/// Where the runbook is read.
const RUNBOOK: &str = "https://github.com/flotilla-db/flotilla/blob/main/deploy/runbook.md";

/// A text as YAML: JSON's form is one of YAML's.
fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a text")
}

fn severity(alert: &Alert) -> &'static str {
    match alert.severity {
        Severity::Page => "page",
        Severity::Ticket => "ticket",
    }
}

fn runbook(alert: &Alert) -> String {
    format!("{RUNBOOK}#{}", alert.anchor())
}

const HEAD: &str = "\
# Generated from tests/watch/alerts.rs; FLOTILLA_BLESS=1 cargo test -p flotilla --test watch rewrites it.
# They look at jobs whose name begins with \"flotilla\"; one job is one cluster. severity: page calls somebody now, ticket
# in working hours. runbook.md says for each what it means, what to look at and what to do.
";

/// `rules.yml`.
pub(crate) fn yaml(alerts: &[Alert]) -> String {
    HEAD.to_owned() + &groups(alerts)
}

/// The same for the Prometheus operator of Kubernetes.
pub(crate) fn operator_yaml(alerts: &[Alert]) -> String {
    let mut text = format!(
        "{HEAD}apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n  name: flotilla\nspec:\n"
    );
    for line in groups(alerts).lines() {
        let _ = writeln!(text, "  {line}");
    }
    text
}

fn groups(alerts: &[Alert]) -> String {
    let mut text = "groups:\n  - name: flotilla\n    rules:\n".to_owned();
    for alert in alerts {
        let (name, expression) = (alert.name, quoted(&alert.expression()));
        let (hold, severity) = (alert.hold, severity(alert));
        let (summary, runbook) = (quoted(alert.summary), quoted(&runbook(alert)));
        // Writing to a string can't fail.
        let _ = write!(
            text,
            "      - alert: {name}
        expr: {expression}
        for: {hold}
        labels:
          severity: {severity}
        annotations:
          summary: {summary}
          runbook_url: {runbook}
"
        );
    }
    text
}

/// The cases of all alerts, for `promtool test rules`.
pub(crate) fn cases(alerts: &[Alert], rules: &str) -> String {
    let mut text = format!(
        "rule_files: [{}]\nevaluation_interval: 15s\ntests:\n",
        quoted(rules)
    );
    for alert in alerts {
        for (case, series, fires) in [("fires", alert.firing, true), ("quiet", alert.quiet, false)]
        {
            let _ = writeln!(
                text,
                "  - name: {} {case}\n    interval: 15s\n    input_series:",
                alert.name
            );
            for (name, values) in series {
                let name = quoted(&name.replace('@', "job=\"flotilla\""));
                let _ = writeln!(
                    text,
                    "      - series: {name}\n        values: {}",
                    quoted(values)
                );
            }
            let _ = writeln!(
                text,
                "    alert_rule_test:\n      - eval_time: {}\n        alertname: {}",
                alert.at, alert.name
            );
            if fires {
                text.push_str(&expected(alert));
            }
        }
    }
    text
}

fn expected(alert: &Alert) -> String {
    let mut labels = vec![("job", "flotilla"), ("severity", severity(alert))];
    // `reason` and the like are labels of the series that the alert keeps.
    labels.extend(alert.labels);
    let mut summary = alert.summary.to_owned();
    let mut list = String::new();
    for (label, value) in labels {
        summary = summary.replace(&format!("{{{{ $labels.{label} }}}}"), value);
        let _ = writeln!(list, "              {label}: {}", quoted(value));
    }
    format!(
        "        exp_alerts:
          - exp_labels:
{list}            exp_annotations:
              summary: {}
              runbook_url: {}
",
        quoted(&summary),
        quoted(&runbook(alert)),
    )
}
