//! The report for a terminal.

use std::fmt::{self, Write as _};

use super::{Latency, Report, Summary};

/// Width of the names on the left.
const NAMES: usize = 22;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = Lines(f);
        if let Some(ramp) = &self.ramp {
            lines.head("offered/s   achieved/s       p50       p99  writes/fsync  errors")?;
            for step in &ramp.steps {
                lines.step(step, step.offered_per_second.unwrap_or_default())?;
            }
            let knee = match ramp.knee_per_second {
                Some(knee) => format!("{knee:.0} per second; what follows is at half of it"),
                None => "none: no rate was kept up with; what follows is the last step".to_owned(),
            };
            lines.line("knee", knee)?;
        }
        if !self.sweep.is_empty() {
            lines.head("   shards       rate/s       p50       p99  writes/fsync  errors")?;
            for run in &self.sweep {
                lines.step(run, run.shards_used as f64)?;
            }
            lines.line("below", "the last of these")?;
        }
        lines.summary(&self.result)?;
        for (name, disk) in [
            ("fdatasync before", self.conditions.fdatasync_before),
            ("fdatasync after", self.conditions.fdatasync_after),
        ] {
            if let Some(disk) = disk {
                let (p50, p99) = (Millis(disk.p50_us), Millis(disk.p99_us));
                let rate = disk.per_second;
                lines.line(
                    name,
                    format!("p50 {p50}  p99 {p99} ms, {rate:.0} per second"),
                )?;
            }
        }
        for reason in &self.partial {
            lines.line("PARTIAL", reason)?;
        }
        Ok(())
    }
}

/// Writes lines, each but the first after a line break.
struct Lines<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl Lines<'_, '_> {
    fn line(&mut self, name: &str, text: impl fmt::Display) -> fmt::Result {
        writeln!(self.0, "{name:NAMES$}{text}")
    }

    fn head(&mut self, text: &str) -> fmt::Result {
        writeln!(self.0, "{text}")
    }

    fn step(&mut self, run: &Summary, key: f64) -> fmt::Result {
        writeln!(
            self.0,
            "{key:>9.0} {:>12.0} {:>9} {:>9} {:>13} {:>7}",
            run.operations_per_second,
            Millis(run.latency_us.p50),
            Millis(run.latency_us.p99),
            figure(run.costs.writes_per_fsync, 1),
            run.errors.values().sum::<u64>(),
        )
    }

    fn summary(&mut self, run: &Summary) -> fmt::Result {
        let costs = &run.costs;
        self.line("pace", &run.pace)?;
        self.line("operations", run.operations)?;
        self.line(
            "throughput",
            format!("{:.0} per second", run.operations_per_second),
        )?;
        self.line("latency", run.latency_us)?;
        if run.by_kind.len() > 1 {
            for (kind, summary) in &run.by_kind {
                let (latency, operations) = (summary.latency_us, summary.operations);
                self.line(
                    &format!("  {kind}"),
                    format!("{latency}, {operations} operations"),
                )?;
            }
        }
        if let Some(late) = run.late_p99_us {
            let late = Millis(late);
            self.line(
                "  begun late",
                format!("p99 {late} ms: the client's part of the latency"),
            )?;
        }
        self.line(
            "server CPU",
            format!(
                "{} µs per operation, all nodes together{}",
                figure(costs.server_cpu_us_per_operation, 1),
                each(
                    costs
                        .servers
                        .iter()
                        .map(|server| figure(server.cpu_us_per_operation, 1))
                ),
            ),
        )?;
        self.line(
            "client CPU",
            format!(
                "{} µs per operation",
                figure(costs.client_cpu_us_per_operation, 1)
            ),
        )?;
        self.line("writes per fsync", figure(costs.writes_per_fsync, 1))?;
        self.line(
            "fsyncs",
            format!(
                "{} per operation and node",
                figure(costs.fsyncs_per_operation_and_node, 3)
            ),
        )?;
        self.line(
            "written to disks",
            format!(
                "{} bytes per operation",
                figure(costs.disk_bytes_per_operation, 0)
            ),
        )?;
        self.line(
            "between nodes",
            format!(
                "{} messages in {} frames, {} bytes per operation",
                figure(costs.messages_per_operation, 2),
                figure(costs.frames_per_operation, 3),
                figure(costs.network_bytes_per_operation, 0),
            ),
        )?;
        let memory = costs.server_memory_bytes.iter();
        let memory: Vec<String> = memory
            .map(|bytes| format!("{:.0} MiB", bytes / 1024.0 / 1024.0))
            .collect();
        match memory.is_empty() {
            true => self.line("server memory", "unknown")?,
            false => self.line("server memory", memory.join(", "))?,
        }
        if run.missing > 0 {
            let missing = run.missing;
            self.line("found nothing", format!("{missing} operations"))?;
        }
        if costs.unreadable_nodes > 0 {
            let nodes = costs.unreadable_nodes;
            self.line(
                "note",
                format!("the metrics of {nodes} nodes could not be read"),
            )?;
        }
        for (kind, count) in &run.errors {
            self.line("errors", format!("{count} {kind}"))?;
        }
        if let Some(error) = &run.first_error {
            self.line("first error", error)?;
        }
        Ok(())
    }
}

pub(super) fn figure(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "unknown".to_owned(), |value| format!("{value:.digits$}"))
}

/// Several figures in parentheses; nothing if there is one.
fn each(figures: impl Iterator<Item = String>) -> String {
    let mut text = String::new();
    let mut count = 0;
    for figure in figures {
        let comma = if count > 0 { ", " } else { "" };
        // Writing to a string cannot fail.
        let _ = write!(text, "{comma}{figure}");
        count += 1;
    }
    if count > 1 {
        format!(" ({text})")
    } else {
        String::new()
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "p50 {}  p90 {}  p99 {}  p99.9 {}  max {}  mean {:.2} ms",
            Millis(self.p50),
            Millis(self.p90),
            Millis(self.p99),
            Millis(self.p999),
            Millis(self.max),
            self.mean / 1000.0
        )
    }
}

/// Microseconds, shown in milliseconds.
pub(super) struct Millis(pub(super) u64);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:.2}", self.0 as f64 / 1000.0))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::report;

    #[test]
    fn a_report_says_what_matters_and_that_it_is_partial() {
        let text = report().to_string();
        for part in [
            "throughput            1000 per second",
            "p99 2.00",
            "server CPU            1500.0 µs per operation, all nodes together (500.0, 1000.0)",
            "writes per fsync      30.0",
            "written to disks      unknown bytes per operation",
            "2.00 messages in 0.500 frames",
            "errors                3 busy",
            "first error           too much",
            "knee                  900 per second",
            "PARTIAL               interrupted",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }
}
