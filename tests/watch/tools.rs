//! Prometheus' own tools, which may not be installed.

use std::{fs, process::Command};

use super::{agree::deploy, alerts::alerts, rules};

/// Whether a program of Debian's package `prometheus` is there. If not, whoever reads the test's output is told.
pub(crate) fn installed(program: &str, what: &str) -> bool {
    let there = Command::new(program).arg("--version").output().is_ok();
    if !there {
        // Past the capture of test output: a test that says nothing would look like one that has passed.
        let message = format!(
            "NOT TESTED: {what}: {program} is not installed (apt-get install prometheus)\n"
        );
        let _ = fs::write("/dev/stderr", message);
    }
    there
}

fn promtool(arguments: &[&str]) {
    let output = Command::new("promtool")
        .args(arguments)
        .output()
        .expect("it was there a moment ago");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (said, complained) = (text(&output.stdout), text(&output.stderr));
    assert!(
        output.status.success(),
        "promtool {arguments:?}:\n{said}{complained}"
    );
}

#[test]
fn each_alert_fires_when_it_should_and_keeps_quiet_when_it_should_not() {
    if !installed("promtool", "the cases of the alerts") {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let rules = deploy("prometheus/rules.yml");
    let cases = folder.path().join("cases.yml");
    fs::write(
        &cases,
        rules::cases(&alerts(), rules.to_str().expect("a plain name")),
    )
    .expect("written");
    promtool(&["test", "rules", cases.to_str().expect("a plain name")]);
}

#[test]
fn prometheus_understands_rules_and_configurations() {
    if !installed("promtool", "rules and configurations of Prometheus") {
        return;
    }
    let file = |path| deploy(path).to_str().expect("a plain name").to_owned();
    promtool(&["check", "rules", &file("prometheus/rules.yml")]);
    promtool(&["check", "config", &file("prometheus/prometheus.yml")]);
}
