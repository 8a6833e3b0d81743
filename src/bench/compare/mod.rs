//! Flotilla and etcd side by side: three processes of each, never at the same time, driven by the same load generator in
//! alternating rounds, and the ratios of what was measured.
//!
//! Absolute figures of a small machine say little, and the machine changes while one measures. So a ratio is formed within
//! a round, disk and processor are measured before and after it, a round in which they changed is dropped, and the median
//! of the ratios counts.

mod bare;
mod cluster;
mod page;
mod rows;

use std::{path::PathBuf, time::Duration};

use serde::Serialize;

use self::cluster::Cluster;
pub(crate) use self::rows::Row;
use super::{
    Distribution, Kind, Mix, Mode, Read, Report, Result, Rows, Settings, Stop, Transport, Watch,
    error::Error,
    machine::{self, Fdatasync},
    run,
};
use crate::client::stream::StreamOptions;

/// How long the disk is measured before and after a round.
const DISK: Duration = Duration::from_secs(2);
/// A round counts if neither calibrator changed by more than this factor.
const STEADY: f64 = 1.25;
/// Operations in flight at saturation: unary, and on streams (16 of 64 operations).
const CLIENTS: u32 = 512;
const STREAM_CLIENTS: u32 = 16 * 64;
const KEYS: u64 = 100_000;
const VALUE_BYTES: u32 = 256;
/// Shards of the cluster whose flatness is measured, and how many of them are active.
const FLAT_SHARDS: u32 = 10_000;
const FLAT_ACTIVE: [u32; 4] = [16, 64, 256, FLAT_SHARDS];
/// Connections of unary clients to each node.
const CONNECTIONS: u32 = 8;

/// What to compare, and how long.
#[derive(Debug, Clone)]
pub(crate) struct Comparison {
    pub(crate) rows: Vec<Row>,
    pub(crate) rounds: u32,
    /// Of each measurement.
    pub(crate) measure: Duration,
    pub(crate) warmup: Duration,
    /// Of our cluster.
    pub(crate) shards: u32,
    /// Where the clusters keep their data, and where the report goes.
    pub(crate) folder: PathBuf,
    pub(crate) timeout: Duration,
}

/// What one system has shown in a round; what was not measured is absent.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Measures {
    put: Option<Run>,
    put_stream: Option<Run>,
    get: Option<Run>,
    get_stream: Option<Run>,
    /// By lease.
    get_lease: Option<Run>,
    one: Option<Run>,
    /// Rows per second of the slowest of three bare writers.
    bare: Option<f64>,
    /// Operations per second.
    knee: Option<f64>,
    /// At the knee.
    knee_writes_per_fsync: Option<f64>,
    half: Option<Run>,
    /// Active shards and operations per second.
    flat: Vec<(u64, f64)>,
}

/// The figures of one run that rows are made of.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Run {
    per_second: f64,
    p50_us: f64,
    p99_us: f64,
    server_cpu_us: Option<f64>,
    client_cpu_us: Option<f64>,
    writes_per_fsync: Option<f64>,
    fsyncs_per_operation_and_node: Option<f64>,
    disk_bytes_per_operation: Option<f64>,
    server_memory_bytes: f64,
    errors: u64,
}

impl From<&Report> for Run {
    fn from(report: &Report) -> Self {
        let result = &report.result;
        let costs = &result.costs;
        Self {
            per_second: result.operations_per_second,
            p50_us: result.latency_us.p50 as f64,
            p99_us: result.latency_us.p99 as f64,
            server_cpu_us: costs.server_cpu_us_per_operation,
            client_cpu_us: costs.client_cpu_us_per_operation,
            writes_per_fsync: costs.writes_per_fsync,
            fsyncs_per_operation_and_node: costs.fsyncs_per_operation_and_node,
            disk_bytes_per_operation: costs.disk_bytes_per_operation,
            server_memory_bytes: costs.server_memory_bytes.iter().sum(),
            errors: result.errors.values().sum(),
        }
    }
}

/// How fast the machine was at a moment.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Calibration {
    fdatasync: Fdatasync,
    spin_ms: f64,
}

/// One round.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Round {
    before: Calibration,
    after: Calibration,
    flotilla: Measures,
    etcd: Measures,
    /// It has what was measured until then.
    interrupted: bool,
}

impl Round {
    /// Whether it came to its end, and the machine was equally fast before and after.
    fn is_steady(&self) -> bool {
        let near = |a: f64, b: f64| a.max(b) <= a.min(b) * STEADY;
        let (before, after) = (self.before, self.after);
        !self.interrupted
            && near(before.fdatasync.per_second, after.fdatasync.per_second)
            && near(before.spin_ms, after.spin_ms)
    }

    /// Median latency of an fdatasync during the round, as far as it was measured.
    fn fdatasync_p50_us(&self) -> f64 {
        let (before, after) = (self.before.fdatasync, self.after.fdatasync);
        f64::midpoint(before.p50_us as f64, after.p50_us as f64)
    }
}

/// All rounds, with the conditions.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Compared {
    date: String,
    machine: String,
    command: String,
    etcd: String,
    shards: u32,
    seconds: f64,
    rows: Vec<Row>,
    rounds: Vec<Round>,
    /// Why it is not all that was asked for.
    partial: Vec<String>,
}

/// The systems, in the order of odd rounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum System {
    Flotilla,
    Etcd,
}

/// Compares.
///
/// # Errors
/// If a cluster does not start, or no round came to its end.
pub(crate) async fn compare(
    comparison: &Comparison,
    command: String,
    watch: &mut dyn Watch,
    stop: &mut Stop,
) -> Result<Compared> {
    std::fs::create_dir_all(&comparison.folder)
        .map_err(Error::io(comparison.folder.display().to_string()))?;
    let now = std::time::SystemTime::now();
    let mut compared = Compared {
        date: humantime::format_rfc3339_seconds(now).to_string(),
        machine: machine::describe(),
        command,
        etcd: cluster::etcd_version()?,
        shards: comparison.shards,
        seconds: comparison.measure.as_secs_f64(),
        rows: comparison.rows.clone(),
        rounds: Vec::new(),
        partial: Vec::new(),
    };
    if comparison.rows.contains(&Row::Bare) {
        bare::check()?;
    }
    for number in 1..=comparison.rounds {
        watch.say(&format!("round {number} of {}", comparison.rounds));
        match round(comparison, number, watch, stop).await {
            Ok(round) => {
                let interrupted = round.interrupted;
                compared.rounds.push(round);
                if interrupted {
                    let partial = format!("interrupted in round {number}");
                    compared.partial.push(partial);
                    break;
                }
            }
            // What is measured so far is kept.
            Err(error) => {
                compared
                    .partial
                    .push(format!("round {number} failed: {error}"));
                break;
            }
        }
    }
    if compared.rounds.is_empty() {
        return Err(Error::Incomplete(compared.partial.join("; ")));
    }
    Ok(compared)
}

async fn calibrate(comparison: &Comparison) -> Result<Calibration> {
    let folder = comparison.folder.clone();
    let measured = tokio::task::spawn_blocking(move || {
        Ok(Calibration {
            fdatasync: machine::fdatasync(&folder, DISK)?,
            spin_ms: machine::spin().as_secs_f64() * 1000.0,
        })
    });
    measured
        .await
        .unwrap_or_else(|error| Err(Error::Incomplete(format!("calibration broke off: {error}"))))
}

/// One round.
async fn round(
    comparison: &Comparison,
    number: u32,
    watch: &mut dyn Watch,
    stop: &mut Stop,
) -> Result<Round> {
    let before = calibrate(comparison).await?;
    let mut measures = [Measures::default(), Measures::default()];
    let mut order = [System::Flotilla, System::Etcd];
    if number.is_multiple_of(2) {
        order.reverse();
    }
    for system in order {
        measures[system as usize] = Bout {
            comparison,
            system,
            watch,
            stop,
            measures: Measures::default(),
        }
        .run()
        .await?;
        if *stop.borrow() {
            break;
        }
    }
    let interrupted = *stop.borrow();
    let after = match interrupted {
        true => before,
        false => calibrate(comparison).await?,
    };
    let [flotilla, etcd] = measures;
    Ok(Round {
        before,
        after,
        flotilla,
        etcd,
        interrupted,
    })
}

/// One system's part of a round.
struct Bout<'a> {
    comparison: &'a Comparison,
    system: System,
    watch: &'a mut dyn Watch,
    stop: &'a mut Stop,
    measures: Measures,
}

impl Bout<'_> {
    fn wants(&self, rows: &[Row]) -> bool {
        rows.iter().any(|row| self.comparison.rows.contains(row))
    }

    async fn run(mut self) -> Result<Measures> {
        let Comparison { folder, shards, .. } = self.comparison;
        let ours = self.system == System::Flotilla;
        let mut here = vec![
            Row::Unary,
            Row::Stream,
            Row::Get,
            Row::GetStream,
            Row::One,
            Row::Half,
        ];
        here.push(match ours {
            // What the bare writers are held against.
            true => Row::Bare,
            // What our gets by lease are held against.
            false => Row::GetLease,
        });
        if self.wants(&here) {
            let cluster = match self.system {
                System::Flotilla => Cluster::flotilla(folder, *shards, &[]).await?,
                System::Etcd => Cluster::etcd(folder).await?,
            };
            self.on_one_cluster(&cluster, ours).await?;
        }
        if ours && self.wants(&[Row::Bare]) && !*self.stop.borrow() {
            self.watch.say("three bare writers of RocksDB");
            let (folder, measure) = (folder.clone(), self.comparison.measure);
            let measured = tokio::task::spawn_blocking(move || bare::slowest(&folder, measure));
            self.measures.bare = Some(measured.await.unwrap_or_else(|error| {
                Err(Error::Incomplete(format!("the writers broke off: {error}")))
            })?);
        }
        if ours && self.wants(&[Row::GetLease]) && !*self.stop.borrow() {
            let leases = [("FLOTILLA_RAFT__LEASES", "true")];
            let cluster = Cluster::flotilla(folder, *shards, &leases).await?;
            let get = self.settings(&cluster, Kind::Get);
            self.measures.get_lease = self.once("get, lease", get).await?;
        }
        if ours && self.wants(&[Row::Flat]) && !*self.stop.borrow() {
            let cluster = Cluster::flotilla(folder, FLAT_SHARDS, &[]).await?;
            for active in FLAT_ACTIVE {
                let mut settings = streamed(self.settings(&cluster, Kind::Put));
                settings.shards = vec![active];
                let what = format!("put, stream, {active} shards");
                if let Some(run) = self.once(&what, settings).await? {
                    self.measures.flat.push((active.into(), run.per_second));
                }
            }
        }
        Ok(self.measures)
    }

    /// All rows but the flat one. What etcd does not have, is measured of ours alone.
    async fn on_one_cluster(&mut self, cluster: &Cluster, ours: bool) -> Result {
        let put = self.settings(cluster, Kind::Put);
        let get = self.settings(cluster, Kind::Get);
        if self.wants(&[Row::Unary, Row::Stream]) {
            self.measures.put = self.once("put", put.clone()).await?;
        }
        if ours && self.wants(&[Row::Stream, Row::Bare]) {
            let settings = streamed(put.clone());
            self.measures.put_stream = self.once("put, stream", settings).await?;
        }
        let gets = match ours {
            true => &[Row::Get, Row::GetStream][..],
            false => &[Row::Get, Row::GetStream, Row::GetLease],
        };
        if self.wants(gets) {
            self.measures.get = self.once("get", get.clone()).await?;
        }
        if ours && self.wants(&[Row::GetStream]) {
            let settings = Settings {
                // They were written for the unary gets.
                fill: false,
                ..streamed(get)
            };
            self.measures.get_stream = self.once("get, stream", settings).await?;
        }
        if self.wants(&[Row::One]) {
            let settings = Settings {
                clients: 1,
                ..put.clone()
            };
            self.measures.one = self.once("one put in flight", settings).await?;
        }
        if self.wants(&[Row::Half]) {
            let settings = Settings {
                mode: Mode::Ramp(None),
                ..put
            };
            self.half(settings).await?;
        }
        Ok(())
    }

    fn settings(&self, cluster: &Cluster, kind: Kind) -> Settings {
        let measure = self.comparison.measure;
        Settings {
            address: cluster.address(),
            stream: StreamOptions::default(),
            processes: cluster.processes(),
            command: String::new(),
            workload: kind.name().to_owned(),
            mix: Mix::only(kind),
            distribution: Distribution::Uniform,
            transport: Transport::Unary,
            read: Read::Linearizable,
            mode: Mode::Closed,
            clients: CLIENTS,
            cap: 10_000,
            warmup: self.comparison.warmup,
            measure,
            step: (measure / 4).max(Duration::from_secs(2)),
            timeout: self.comparison.timeout,
            keys: KEYS,
            key_bytes: None,
            value_bytes: VALUE_BYTES,
            rows: Rows::Exactly(1),
            batch_ops: 1,
            shards: Vec::new(),
            connections: CONNECTIONS,
            seed: 1,
            fill: kind == Kind::Get,
            disk: None,
        }
    }

    /// One run; nothing if there is no time left for it, or if it was interrupted.
    async fn once(&mut self, what: &str, settings: Settings) -> Result<Option<Run>> {
        Ok(self.report(what, settings).await?.as_ref().map(Run::from))
    }

    async fn report(&mut self, what: &str, settings: Settings) -> Result<Option<Report>> {
        if *self.stop.borrow() {
            return Ok(None);
        }
        self.watch.say(&format!("{:?}: {what}", self.system));
        let report = run(&settings, self.watch, self.stop).await?;
        Ok((!*self.stop.borrow()).then_some(report))
    }

    /// Finds the knee, and the latency at half of it.
    async fn half(&mut self, settings: Settings) -> Result {
        let Some(report) = self
            .report("ramp to the knee, then half of it", settings)
            .await?
        else {
            return Ok(());
        };
        let Some(ramp) = &report.ramp else {
            return Ok(());
        };
        let Some(knee) = ramp.knee_per_second else {
            return Ok(());
        };
        let at = ramp
            .steps
            .iter()
            .rev()
            .find(|step| step.offered_per_second == Some(knee));
        self.measures.knee = Some(knee);
        self.measures.knee_writes_per_fsync = at.and_then(|step| step.costs.writes_per_fsync);
        self.measures.half = Some(Run::from(&report));
        Ok(())
    }
}

fn streamed(settings: Settings) -> Settings {
    Settings {
        transport: Transport::Stream,
        clients: STREAM_CLIENTS,
        ..settings
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn run(per_second: f64, p99_us: f64, server_cpu_us: f64) -> Run {
        Run {
            per_second,
            p50_us: p99_us / 2.0,
            p99_us,
            server_cpu_us: Some(server_cpu_us),
            client_cpu_us: None,
            writes_per_fsync: Some(70.0),
            fsyncs_per_operation_and_node: Some(0.9),
            disk_bytes_per_operation: None,
            server_memory_bytes: 1e8,
            errors: 0,
        }
    }

    pub(crate) fn round(ours: f64, etcds: f64, spin_after: f64) -> Round {
        let calibration = |spin_ms| Calibration {
            fdatasync: Fdatasync {
                per_second: 5000.0,
                p50_us: 200,
                p99_us: 300,
            },
            spin_ms,
        };
        let measures = |per_second, cpu| Measures {
            put: Some(run(per_second, 1000.0, cpu)),
            one: Some(run(10.0, 1000.0, cpu)),
            ..Measures::default()
        };
        Round {
            before: calibration(100.0),
            after: calibration(spin_after),
            flotilla: measures(ours, 30.0),
            etcd: measures(etcds, 120.0),
            interrupted: false,
        }
    }

    pub(crate) fn compared(rounds: Vec<Round>) -> Compared {
        Compared {
            date: "2026-01-02T03:04:05Z".to_owned(),
            machine: "a machine".to_owned(),
            command: "flotilla bench compare".to_owned(),
            etcd: "3".to_owned(),
            shards: 1000,
            seconds: 20.0,
            rows: vec![Row::Unary, Row::One],
            rounds,
            partial: Vec::new(),
        }
    }

    #[test]
    fn a_round_counts_if_the_machine_was_the_same_before_and_after() {
        assert!(round(1.0, 1.0, 124.0).is_steady());
        assert!(!round(1.0, 1.0, 126.0).is_steady());
        assert!(!round(1.0, 1.0, 79.0).is_steady());
        let mut cut_short = round(1.0, 1.0, 100.0);
        cut_short.interrupted = true;
        assert!(!cut_short.is_steady());
    }
}
