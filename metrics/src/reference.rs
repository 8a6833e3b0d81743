//! The reference page that is generated from the declarations.

use std::fmt::Write as _;

/// What is known of one metric.
#[derive(Clone, Debug)]
pub struct Line {
    /// The exported name.
    pub name: &'static str,
    /// The field of [`Metrics`](crate::Metrics) that sets it.
    pub field: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Label names with their values; the label without values is `peer`.
    pub labels: Vec<(&'static str, &'static [&'static str])>,
    /// What is counted.
    pub help: &'static str,
}

const HEAD: &str = "# Metrics

Generated from `metrics/src/lib.rs`; `FLOTILLA_BLESS=1 cargo test -p flotilla-metrics` rewrites it.

Every node exports these at `/metrics` of its status port. No label has an unbounded set of values: `peer` is the id
of another node of the cluster, the values of all other labels are listed at the end. Beside them stand
`flotilla_build_info{version}` and, on Linux, Prometheus' usual `process_*` metrics.

| metric | kind | labels | meaning |
|---|---|---|---|
";

/// The whole page.
pub(crate) fn page(lines: &[Line]) -> String {
    let mut page = HEAD.to_owned();
    let mut sets: Vec<(&str, &[&str])> = Vec::new();
    for line in lines {
        let labels: Vec<String> = line
            .labels
            .iter()
            .map(|(name, _)| format!("`{name}`"))
            .collect();
        // Writing to a string cannot fail.
        let _ = writeln!(
            page,
            "| `{}` | {} | {} | {} |",
            line.name,
            line.kind,
            labels.join(" "),
            line.help
        );
        for set in &line.labels {
            if !set.1.is_empty() && !sets.contains(set) {
                sets.push(*set);
            }
        }
    }
    page.push_str("\n## Label values\n\n| label | values |\n|---|---|\n");
    for (name, values) in sets {
        let _ = writeln!(page, "| `{name}` | {} |", values.join(", "));
    }
    page
}
