//! The result of a benchmark.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::Serialize;

use super::{load::Measured, servers::Cost};

/// The result, in the units of its field names.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) operations: u64,
    seconds: f64,
    operations_per_second: f64,
    latency_us: Latency,
    errors: BTreeMap<&'static str, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) first_error: Option<String>,
    /// Over all server processes.
    server_cpu_us_per_operation: Option<f64>,
    client_cpu_us_per_operation: Option<f64>,
    writes_per_fsync: Option<f64>,
    /// Of each server process.
    server_memory_bytes: Vec<f64>,
    unreadable_nodes: usize,
}

#[derive(Debug, Serialize)]
struct Latency {
    p50: u64,
    p90: u64,
    p99: u64,
    p999: u64,
    max: u64,
    mean: f64,
}

impl Report {
    pub(super) fn new(measured: &Measured, client_cpu: Duration, cost: Cost) -> Self {
        let latencies = &measured.latencies;
        let operations = latencies.len();
        let seconds = measured.elapsed.as_secs_f64();
        let per_operation =
            |cpu_seconds: f64| (operations > 0).then(|| cpu_seconds * 1e6 / operations as f64);
        Self {
            operations,
            seconds,
            operations_per_second: operations as f64 / seconds,
            latency_us: Latency {
                p50: latencies.value_at_quantile(0.5),
                p90: latencies.value_at_quantile(0.9),
                p99: latencies.value_at_quantile(0.99),
                p999: latencies.value_at_quantile(0.999),
                max: latencies.max(),
                mean: latencies.mean(),
            },
            errors: measured.errors.by_kind.clone(),
            first_error: measured.errors.first.clone(),
            server_cpu_us_per_operation: cost.cpu_seconds.and_then(per_operation),
            client_cpu_us_per_operation: per_operation(client_cpu.as_secs_f64()),
            writes_per_fsync: cost.writes_per_fsync,
            server_memory_bytes: cost.memory_bytes,
            unreadable_nodes: cost.silent,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_unknown = |value: Option<f64>| match value {
            Some(value) => format!("{value:.1}"),
            None => "unknown".to_owned(),
        };
        let Latency {
            p50,
            p90,
            p99,
            p999,
            max,
            mean,
        } = self.latency_us;
        writeln!(f, "operations            {}", self.operations)?;
        writeln!(
            f,
            "throughput            {:.0} per second",
            self.operations_per_second
        )?;
        writeln!(
            f,
            "latency               p50 {}  p90 {}  p99 {}  p99.9 {}  max {}  mean {:.2} ms",
            Millis(p50),
            Millis(p90),
            Millis(p99),
            Millis(p999),
            Millis(max),
            mean / 1000.0
        )?;
        writeln!(
            f,
            "server CPU            {} µs per operation, all nodes together",
            or_unknown(self.server_cpu_us_per_operation)
        )?;
        writeln!(
            f,
            "client CPU            {} µs per operation",
            or_unknown(self.client_cpu_us_per_operation)
        )?;
        writeln!(
            f,
            "writes per fsync      {}",
            or_unknown(self.writes_per_fsync)
        )?;
        let memory: Vec<String> = self
            .server_memory_bytes
            .iter()
            .map(|bytes| format!("{:.0} MiB", bytes / 1024.0 / 1024.0))
            .collect();
        let memory = if memory.is_empty() {
            "unknown".to_owned()
        } else {
            memory.join(", ")
        };
        write!(f, "server memory         {memory}")?;
        if self.unreadable_nodes > 0 {
            write!(
                f,
                "\nnote                  the metrics of {} nodes could not be read",
                self.unreadable_nodes
            )?;
        }
        for (kind, count) in &self.errors {
            write!(f, "\nerrors                {count} {kind}")?;
        }
        if let Some(error) = &self.first_error {
            write!(f, "\nfirst error           {error}")?;
        }
        Ok(())
    }
}

/// Microseconds, shown in milliseconds.
struct Millis(u64);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2}", self.0 as f64 / 1000.0)
    }
}
