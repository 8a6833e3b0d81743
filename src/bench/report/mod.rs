//! What a benchmark has shown, with the conditions under which it did: as values here, as text in [`text`], as a page in
//! [`html`].

pub(super) mod html;
mod plot;
mod text;

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    driver::{End, Pace, Phase},
    machine::Fdatasync,
    meter::{Latencies, Point},
    servers::StageTime,
};

/// All of it. The main result's fields stand at the top of its JSON.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    #[serde(flatten)]
    pub(crate) result: Summary,
    /// Why the result is not all that was asked for; empty if it is.
    pub(crate) partial: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ramp: Option<RampReport>,
    /// One per number of shards.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) sweep: Vec<Summary>,
    pub(crate) conditions: Conditions,
}

impl Report {
    /// What is wrong with the whole: nothing succeeded, or it is not all that was asked for.
    pub(crate) fn shortcoming(&self) -> Option<String> {
        if self.result.operations == 0 {
            let why = self.result.first_error.as_deref();
            let why = why.or_else(|| self.partial.first().map(String::as_str));
            let why = why.unwrap_or("none failed either: all were too slow");
            return Some(format!("no operation succeeded; {why}"));
        }
        (!self.partial.is_empty())
            .then(|| format!("the results are partial: {}", self.partial.join("; ")))
    }
}

/// The search for the knee.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct RampReport {
    /// The greatest rate that was kept up with.
    pub(crate) knee_per_second: Option<f64>,
    pub(crate) steps: Vec<Summary>,
}

/// Under which conditions.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Conditions {
    pub(crate) date: String,
    pub(crate) version: &'static str,
    pub(crate) command: String,
    pub(crate) target: String,
    pub(crate) nodes: usize,
    /// Absent: the target has no shards.
    pub(crate) shards: Option<usize>,
    pub(crate) sync: &'static str,
    pub(crate) workload: String,
    pub(crate) distribution: &'static str,
    pub(crate) transport: &'static str,
    pub(crate) read: &'static str,
    pub(crate) keys: u64,
    pub(crate) key_bytes: usize,
    pub(crate) value_bytes: u32,
    pub(crate) connections: u32,
    pub(crate) seed: u64,
    /// Where the client ran.
    pub(crate) machine: String,
    pub(crate) fdatasync_before: Option<Fdatasync>,
    pub(crate) fdatasync_after: Option<Fdatasync>,
}

/// One run, in the units of its field names. Figures per operation are absent if they could not be measured.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Summary {
    /// How operations followed each other.
    pub(crate) pace: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) offered_per_second: Option<f64>,
    /// Shards that were used.
    pub(crate) shards_used: u64,
    pub(crate) operations: u64,
    pub(crate) seconds: f64,
    pub(crate) operations_per_second: f64,
    pub(crate) latency_us: Latency,
    pub(crate) by_kind: BTreeMap<&'static str, KindSummary>,
    /// Operations that did not find what they looked for.
    pub(crate) missing: u64,
    pub(crate) errors: BTreeMap<&'static str, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) first_error: Option<String>,
    /// How much later than planned operations of an open loop began, p99: what the client itself adds to latencies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) late_p99_us: Option<u64>,
    #[serde(flatten)]
    pub(crate) costs: Costs,
    pub(crate) stages: Vec<StageTime>,
    pub(crate) timeline: Vec<Point>,
    /// Quantile and microseconds, ever closer to 1.
    pub(crate) quantiles: Vec<(f64, u64)>,
}

/// Operations of one kind.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct KindSummary {
    pub(crate) operations: u64,
    pub(crate) latency_us: Latency,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Latency {
    pub(crate) p50: u64,
    pub(crate) p90: u64,
    pub(crate) p99: u64,
    pub(crate) p999: u64,
    pub(crate) max: u64,
    pub(crate) mean: f64,
}

/// What an operation cost.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Costs {
    /// Over all server processes.
    pub(crate) server_cpu_us_per_operation: Option<f64>,
    pub(crate) client_cpu_us_per_operation: Option<f64>,
    /// Of each server process.
    pub(crate) servers: Vec<ServerCost>,
    /// Of each server process.
    pub(crate) server_memory_bytes: Vec<f64>,
    pub(crate) writes_per_fsync: Option<f64>,
    /// Of one node, on average.
    pub(crate) fsyncs_per_operation_and_node: Option<f64>,
    /// To disks, by all nodes.
    pub(crate) disk_bytes_per_operation: Option<f64>,
    /// Between nodes, of shards.
    pub(crate) messages_per_operation: Option<f64>,
    /// What they travelled in.
    pub(crate) frames_per_operation: Option<f64>,
    /// Between nodes.
    pub(crate) network_bytes_per_operation: Option<f64>,
    /// Nodes whose part is missing in all of this.
    pub(crate) unreadable_nodes: usize,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct ServerCost {
    pub(crate) name: String,
    pub(crate) cpu_us_per_operation: Option<f64>,
    pub(crate) memory_bytes: f64,
}

impl From<&Latencies> for Latency {
    fn from(latencies: &Latencies) -> Self {
        Self {
            p50: latencies.value_at_quantile(0.5),
            p90: latencies.value_at_quantile(0.9),
            p99: latencies.value_at_quantile(0.99),
            p999: latencies.value_at_quantile(0.999),
            max: latencies.max(),
            mean: latencies.mean(),
        }
    }
}

/// Eight quantiles per decade of the part above, as far as there are operations to tell.
fn quantiles(latencies: &Latencies) -> Vec<(f64, u64)> {
    const PER_DECADE: i32 = 8;
    (0..)
        .map(|step| 10_f64.powf(-f64::from(step) / f64::from(PER_DECADE)))
        .take_while(|above| above * latencies.len() as f64 >= 1.0)
        .map(|above| (1.0 - above, latencies.value_at_quantile(1.0 - above)))
        .collect()
}

impl Summary {
    pub(crate) fn new(phase: &Phase, shards_used: u64) -> Self {
        let Phase {
            totals, timeline, ..
        } = phase;
        let seconds = phase.measured.as_secs_f64();
        let all = totals.all();
        let by_kind = totals.latencies.iter().map(|(kind, latencies)| {
            let summary = KindSummary {
                operations: latencies.len(),
                latency_us: latencies.into(),
            };
            (kind.name(), summary)
        });
        let (pace, offered, late) = match phase.pace {
            Pace::Closed { clients } => (
                format!("closed loop, {clients} clients with one operation at a time"),
                None,
                None,
            ),
            Pace::Open { rate, .. } => (
                format!("open loop, {rate:.0} operations per second at times fixed before"),
                Some(rate),
                Some(totals.late.value_at_quantile(0.99)),
            ),
        };
        Self {
            pace,
            offered_per_second: offered,
            shards_used,
            operations: totals.operations,
            seconds,
            operations_per_second: totals.operations as f64 / seconds.max(1e-6),
            latency_us: (&all).into(),
            by_kind: by_kind.collect(),
            missing: totals.missing,
            errors: phase.errors.by_kind.clone(),
            first_error: phase.errors.first.clone(),
            late_p99_us: late,
            costs: Costs::new(phase),
            stages: phase.cost.stages.clone(),
            timeline: timeline.clone(),
            quantiles: quantiles(&all),
        }
    }

    /// Why this run is not all that was asked for.
    pub(crate) fn partial(phase: &Phase, wanted: std::time::Duration) -> Option<String> {
        let measured = phase.measured.as_secs_f64();
        let wanted = wanted.as_secs_f64();
        match (phase.end, phase.pace) {
            (End::Complete, _) => None,
            (End::Overrun, Pace::Open { rate, cap }) if phase.measured.is_zero() => Some(format!(
                "the target is overloaded: more than {cap} operations were in flight at {rate:.0} per second before \
                 measuring began"
            )),
            (End::Overrun, Pace::Open { rate, cap }) => Some(format!(
                "the target is overloaded: after {measured:.1} of {wanted:.1} s more than {cap} operations were in flight at \
                 {rate:.0} per second"
            )),
            (End::Interrupted | End::Overrun, _) => {
                Some(format!("interrupted after {measured:.1} of {wanted:.1} s"))
            }
        }
    }
}

impl Costs {
    fn new(phase: &Phase) -> Self {
        let Phase { totals, cost, .. } = phase;
        let operations = totals.operations as f64;
        let some = operations > 0.0;
        // The servers were read a little before and after: what they did is taken per second.
        let scale = phase.measured.as_secs_f64() / cost.seconds.max(1e-6);
        let per_operation = |amount: f64| some.then(|| amount * scale / operations);
        let server = |process: &super::servers::Process| ServerCost {
            name: process.name.clone(),
            cpu_us_per_operation: per_operation(process.cpu_seconds * 1e6),
            memory_bytes: process.memory_bytes,
        };
        let counts = cost.counts;
        let read = |amount: f64| (cost.nodes > 0).then_some(amount);
        Self {
            server_cpu_us_per_operation: cost
                .cpu_seconds()
                .and_then(|seconds| per_operation(seconds * 1e6)),
            client_cpu_us_per_operation: some
                .then(|| phase.client_cpu.as_secs_f64() * 1e6 / operations),
            servers: cost.processes.iter().map(server).collect(),
            server_memory_bytes: cost.processes.iter().map(|one| one.memory_bytes).collect(),
            writes_per_fsync: cost.writes_per_fsync(),
            fsyncs_per_operation_and_node: read(counts.fsyncs)
                .and_then(per_operation)
                .map(|all| all / cost.nodes as f64),
            disk_bytes_per_operation: counts.disk_bytes.and_then(per_operation),
            messages_per_operation: counts.messages.and_then(per_operation),
            frames_per_operation: counts.frames.and_then(per_operation),
            network_bytes_per_operation: read(counts.sent_bytes).and_then(per_operation),
            unreadable_nodes: cost.silent,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bench::{
        driver::Pace,
        meter::{Ended, Meter, Stage},
        servers::{Cost, Counts, Process},
        target::Failed,
        workload::Kind,
    };

    /// A thousand gets and puts in a second, by two processes.
    fn phase() -> Phase {
        let meter = Meter::new([Kind::Get, Kind::Put]);
        meter.enter(Stage::Measuring);
        let ended = |kind, result| Ended {
            kind,
            weight: 1,
            measured: true,
            time: Duration::from_millis(2),
            late: Some(Duration::from_micros(90)),
            result,
        };
        for number in 0..1000 {
            let kind = if number % 2 == 0 {
                Kind::Get
            } else {
                Kind::Put
            };
            meter.ended(number, ended(kind, Ok(number > 0)));
        }
        for _ in 0..3 {
            let failed = Failed {
                kind: "busy",
                message: "too much".to_owned(),
            };
            meter.ended(0, ended(Kind::Put, Err(failed)));
        }
        let mut totals = meter.totals();
        let second = Duration::from_secs(1);
        let point = meter.collect(&mut totals, Duration::ZERO, second);
        let process = |name: &str, cpu_seconds| Process {
            name: name.to_owned(),
            cpu_seconds,
            memory_bytes: 64e6,
        };
        Phase {
            pace: Pace::Open {
                rate: 1000.0,
                cap: 10,
            },
            measured: second,
            totals,
            errors: meter.errors(),
            timeline: vec![point],
            client_cpu: Duration::from_millis(20),
            cost: Cost {
                seconds: 2.0,
                processes: vec![process("node 1", 1.0), process("node 2", 2.0)],
                counts: Counts {
                    writes: 1200.0,
                    fsyncs: 40.0,
                    disk_bytes: None,
                    messages: Some(4000.0),
                    frames: Some(1000.0),
                    sent_bytes: 1e6,
                },
                stages: vec![StageTime {
                    stage: "sync".to_owned(),
                    count: 40.0,
                    mean_us: 200.0,
                    p50_us: 150.0,
                    p99_us: 900.0,
                }],
                nodes: 2,
                silent: 0,
            },
            end: End::Interrupted,
        }
    }

    /// A report with everything in it that there can be.
    pub(crate) fn report() -> Report {
        let result = Summary::new(&phase(), 8);
        Report {
            partial: Summary::partial(&phase(), Duration::from_secs(5))
                .into_iter()
                .collect(),
            ramp: Some(RampReport {
                knee_per_second: Some(900.0),
                steps: vec![result.clone()],
            }),
            sweep: vec![result.clone(), result.clone()],
            result,
            conditions: Conditions {
                date: "2026-01-02T03:04:05Z".to_owned(),
                version: "0",
                command: "flotilla bench".to_owned(),
                target: "flotilla".to_owned(),
                nodes: 2,
                shards: Some(64),
                sync: "yes",
                workload: "get=1,put=1".to_owned(),
                distribution: "uniform",
                transport: "unary",
                read: "linearizable",
                keys: 10,
                key_bytes: 16,
                value_bytes: 256,
                connections: 4,
                seed: 1,
                machine: "a machine".to_owned(),
                fdatasync_before: Some(Fdatasync {
                    per_second: 5000.0,
                    p50_us: 200,
                    p99_us: 300,
                }),
                fdatasync_after: None,
            },
        }
    }

    #[test]
    fn costs_are_per_operation_although_servers_were_read_for_longer() {
        let costs = report().result.costs;
        // Three seconds in two, for a thousand operations per second.
        assert_eq!(costs.server_cpu_us_per_operation, Some(1500.0));
        assert_eq!(costs.client_cpu_us_per_operation, Some(20.0));
        assert_eq!(costs.fsyncs_per_operation_and_node, Some(0.01));
        assert_eq!(costs.messages_per_operation, Some(2.0));
        assert_eq!(costs.disk_bytes_per_operation, None);
    }

    #[test]
    fn the_json_has_the_result_at_its_top() {
        let json = serde_json::to_value(report()).expect("plain values");
        for field in [
            "operations",
            "operations_per_second",
            "latency_us",
            "server_cpu_us_per_operation",
            "writes_per_fsync",
        ] {
            assert!(!json[field].is_null(), "{field}");
        }
        assert_eq!(
            json["latency_us"]["p99"],
            json["by_kind"]["get"]["latency_us"]["p99"]
        );
        assert_eq!(json["missing"], 1);
        assert_eq!(json["late_p99_us"], 90);
    }

    #[test]
    fn a_run_without_success_or_cut_short_says_so() {
        let mut report = report();
        assert!(
            report
                .shortcoming()
                .expect("interrupted")
                .contains("interrupted after 1.0 of 5.0 s")
        );
        report.partial.clear();
        assert_eq!(report.shortcoming(), None);
        report.result.operations = 0;
        assert!(report.shortcoming().expect("nothing").contains("too much"));
    }

    #[test]
    fn quantiles_go_as_far_as_there_are_operations() {
        let quantiles = report().result.quantiles;
        let (last, _) = quantiles.last().expect("some");
        assert!((0.998..0.9991).contains(last), "{last}");
        assert!(quantiles.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1));
    }
}
