//! A comparison as text and as a page.

use std::fmt;

use super::{
    Compared, Measures, Round, Run,
    rows::{Held, median},
};
use crate::bench::report::html::{document, escape, table};

const UNSTEADY: &str = "No round counts: it was interrupted, or disk or processor changed by more than a quarter during it. The \
                        figures are of all rounds and prove nothing; measure again on a quiet machine.";

/// Takes a run out of what a system has shown.
type Take = fn(&Measures) -> Option<Run>;

/// What is shown of each run beside the ratios.
const RUNS: [(&str, Take); 7] = [
    ("put", |measures| measures.put),
    ("put, stream", |measures| measures.put_stream),
    ("get", |measures| measures.get),
    ("get, stream", |measures| measures.get_stream),
    ("get, lease", |measures| measures.get_lease),
    ("put, one in flight", |measures| measures.one),
    ("put, half of the knee", |measures| measures.half),
];

impl Held {
    fn figure(&self) -> String {
        self.median
            .map_or_else(|| "–".to_owned(), |median| format!("{median:.2}"))
    }

    fn each(&self) -> String {
        let rounds: Vec<String> = self
            .rounds
            .iter()
            .map(|value| format!("{value:.2}"))
            .collect();
        rounds.join(" ")
    }
}

impl Compared {
    fn summary(&self) -> String {
        let (rounds, steady) = self.counting();
        let count = if steady { rounds.len() } else { 0 };
        format!(
            "{} of {} rounds count; {:.0} s per measurement; three nodes each, Flotilla with {} shards, etcd {}",
            count,
            self.rounds.len(),
            self.seconds,
            self.shards,
            self.etcd,
        )
    }

    /// Medians of the absolute figures, of both systems.
    fn absolutes(&self) -> Vec<Vec<String>> {
        let (rounds, _) = self.counting();
        let mut lines = Vec::new();
        for (what, run) in RUNS {
            for system in ["Flotilla", "etcd"] {
                let of = |round: &Round| match system {
                    "etcd" => run(&round.etcd),
                    _ => run(&round.flotilla),
                };
                let runs: Vec<Run> = rounds.iter().filter_map(|round| of(round)).collect();
                let middle = |value: fn(&Run) -> Option<f64>, scale: f64, digits: usize| {
                    let values: Vec<f64> = runs.iter().filter_map(value).collect();
                    median(&values).map_or_else(
                        || "–".to_owned(),
                        |value| format!("{:.digits$}", value / scale),
                    )
                };
                if runs.is_empty() {
                    continue;
                }
                lines.push(vec![
                    what.to_owned(),
                    system.to_owned(),
                    middle(|run| Some(run.per_second), 1.0, 0),
                    middle(|run| Some(run.p50_us), 1000.0, 2),
                    middle(|run| Some(run.p99_us), 1000.0, 2),
                    middle(|run| run.server_cpu_us, 1.0, 1),
                    middle(|run| run.client_cpu_us, 1.0, 1),
                    middle(|run| run.writes_per_fsync, 1.0, 1),
                    middle(|run| run.fsyncs_per_operation_and_node, 1.0, 3),
                    middle(|run| run.disk_bytes_per_operation, 1.0, 0),
                    middle(|run| Some(run.server_memory_bytes), 1024.0 * 1024.0, 0),
                    middle(|run| Some(run.errors as f64), 1.0, 0),
                ]);
            }
        }
        lines
    }

    /// The page.
    pub(crate) fn html(&self) -> String {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let mut body = format!(
            "<h1>Flotilla and etcd side by side</h1>\n<p class=\"dim\">{}, {}.</p>\n<p>{}.</p>\n",
            escape(&self.date),
            escape(&self.machine),
            escape(&self.summary()),
        );
        if !self.counting().1 {
            body += &format!("<p class=\"bad\">{UNSTEADY}</p>\n");
        }
        for reason in &self.partial {
            body += &format!("<p class=\"bad\">PARTIAL: {}</p>\n", escape(reason));
        }
        let head = words(&[
            "row",
            "what",
            "median",
            "must",
            "goal",
            "meets",
            "each round",
        ]);
        let lines = self.held().into_iter().map(|held| {
            let row = format!("{:?}", held.row).to_lowercase();
            let (median, each) = (held.figure(), held.each());
            vec![
                row,
                held.what.to_owned(),
                median,
                held.must,
                held.goal,
                held.verdict.to_owned(),
                each,
            ]
        });
        body += "<h2>Ratios</h2>\n";
        body += &table(std::iter::once(head).chain(lines));
        let head = words(&[
            "load",
            "system",
            "per second",
            "p50 ms",
            "p99 ms",
            "server CPU µs",
            "client CPU µs",
            "writes per fsync",
            "fsyncs per operation and node",
            "disk bytes per operation",
            "memory MiB",
            "errors",
        ]);
        body += "<h2>Figures</h2>\n<p class=\"dim\">Medians over the same rounds. They depend on the machine; the ratios \
                 do so less.</p>\n";
        body += &table(std::iter::once(head).chain(self.absolutes()));
        let head = words(&[
            "round",
            "fdatasync/s before",
            "after",
            "fdatasync p50 ms before",
            "after",
            "spin ms before",
            "after",
            "knee Flotilla/s",
            "etcd/s",
            "puts per second by active shards",
            "counts",
        ]);
        let rounds = self.rounds.iter().enumerate().map(|(number, round)| {
            let (before, after) = (round.before, round.after);
            let knee = |measures: &Measures| {
                measures
                    .knee
                    .map_or_else(|| "–".to_owned(), |knee| format!("{knee:.0}"))
            };
            let flat = round.flotilla.flat.iter();
            let flat: Vec<String> = flat
                .map(|(shards, rate)| format!("{shards}: {rate:.0}"))
                .collect();
            vec![
                (number + 1).to_string(),
                format!("{:.0}", before.fdatasync.per_second),
                format!("{:.0}", after.fdatasync.per_second),
                format!("{:.2}", before.fdatasync.p50_us as f64 / 1000.0),
                format!("{:.2}", after.fdatasync.p50_us as f64 / 1000.0),
                format!("{:.0}", before.spin_ms),
                format!("{:.0}", after.spin_ms),
                knee(&round.flotilla),
                knee(&round.etcd),
                flat.join(", "),
                match (round.is_steady(), round.interrupted) {
                    (true, _) => "yes",
                    (false, true) => "no: interrupted",
                    (false, false) => "no: not steady",
                }
                .to_owned(),
            ]
        });
        body += "<h2>Rounds</h2>\n";
        body += &table(std::iter::once(head).chain(rounds));
        body += &format!("<p>Command: <code>{}</code></p>\n", escape(&self.command));
        document("Flotilla and etcd side by side", &body)
    }

    /// The JSON: rounds as they were measured, and what came of them.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::json!({ "results": self.held(), "steady": self.counting().1, "measured": self })
    }

    /// What keeps it from being what was asked for.
    pub(crate) fn shortcoming(&self) -> Option<String> {
        (!self.partial.is_empty())
            .then(|| format!("the results are partial: {}", self.partial.join("; ")))
    }
}

impl fmt::Display for Compared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.summary())?;
        writeln!(f, "{}", self.machine)?;
        writeln!(
            f,
            "\n{:70} {:>8} {:>8} {:>8}  meets         each round",
            "", "median", "must", "goal"
        )?;
        for held in self.held() {
            writeln!(
                f,
                "{:70} {:>8} {:>8} {:>8}  {:12}  {}",
                held.what,
                held.figure(),
                held.must,
                held.goal,
                held.verdict,
                held.each()
            )?;
        }
        writeln!(
            f,
            "\n{:22} {:9} {:>9} {:>8} {:>8} {:>10} {:>10} {:>7} {:>9} {:>8} {:>7} {:>7}",
            "",
            "",
            "per s",
            "p50 ms",
            "p99 ms",
            "server µs",
            "client µs",
            "w/fsync",
            "fsyncs/op",
            "disk B",
            "MiB",
            "errors"
        )?;
        for cells in self.absolutes() {
            if let [
                what,
                system,
                rate,
                p50,
                p99,
                server,
                client,
                writes,
                fsyncs,
                disk,
                memory,
                errors,
            ] = &cells[..]
            {
                writeln!(
                    f,
                    "{what:22} {system:9} {rate:>9} {p50:>8} {p99:>8} {server:>10} {client:>10} {writes:>7} {fsyncs:>9} \
                     {disk:>8} {memory:>7} {errors:>7}"
                )?;
            }
        }
        if !self.counting().1 {
            writeln!(f, "\n{UNSTEADY}")?;
        }
        for reason in &self.partial {
            writeln!(f, "\nPARTIAL: {reason}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::*;

    #[test]
    fn both_forms_say_what_was_met_and_what_does_not_count() {
        let compared = compared(vec![
            round(3000.0, 1000.0, 100.0),
            round(9000.0, 1000.0, 300.0),
        ]);
        let (text, page) = (compared.to_string(), compared.html());
        for form in [&text, &page] {
            assert!(form.contains("1 of 2 rounds count"), "{form}");
            assert!(form.contains("3.00") && form.contains("goal"), "{form}");
            assert!(!form.contains("prove nothing"), "{form}");
        }
        assert!(page.contains("no: not steady") && !page.contains("http"));
        let unsteady = super::super::tests::compared(vec![round(1.0, 1.0, 300.0)]);
        assert!(
            unsteady.to_string().contains("prove nothing")
                && unsteady.html().contains("prove nothing")
        );
    }
}
