//! The load generator: drives a cluster of ours, or one of etcd, with the same operations, and says what it saw, what it
//! cost, and under which conditions.
//!
//! | room | what lives there |
//! |---|---|
//! | `workload`, `choose`, `keys`, `schedule`, `ramp` | pure: which operations, on which keys, when, and where the knee is |
//! | `load` | draws operations and has a target carry them out |
//! | `target` | a cluster of ours, or of etcd |
//! | `driver`, `meter` | closed and open loops; counting |
//! | `servers`, `machine` | what it cost the servers; the machine, its disk and its processors |
//! | `report` | all of that as JSON, text and a page |
//! | `compare` | clusters of both kinds in alternating rounds, and the ratios |
//!
//! It sees a cluster from the outside, as any client does, and knows nothing of the node.

mod choose;
mod compare;
mod driver;
mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod keys;
mod load;
pub mod machine;
mod meter;
mod ramp;
mod report;
mod schedule;
mod servers;
mod target;
mod workload;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

pub(crate) use self::driver::{Progress, Stop};
pub use self::{
    choose::Distribution,
    error::{Error, Result},
    report::Report,
    target::{Read, Transport},
    workload::Ycsb,
};
pub(crate) use self::{
    compare::{Comparison, Row, compare},
    load::Rows,
    workload::{Kind, Mix},
};
use self::{
    driver::{End, Pace, Phase, Window},
    keys::Keys,
    load::{Load, Shape},
    machine::Fdatasync,
    ramp::{Next, Ramp, Step},
    report::{Conditions, RampReport, Summary},
    servers::Servers,
    target::{Etcd, Flotilla, Target},
};
use crate::client::{Client, Options, stream::StreamOptions};

/// How long the disk is measured, before and after.
const DISK: Duration = Duration::from_secs(1);
/// A ramp begins at this part of what a short closed loop reached.
const RAMP_FROM: f64 = 0.5;
/// How long that closed loop runs.
const PROBE: Duration = Duration::from_secs(3);
/// What latencies are measured at after a ramp, as a part of the knee.
const AFTER_RAMP: f64 = 0.5;
/// Before each step of a ramp.
const STEP_WARMUP: Duration = Duration::from_secs(1);
/// What keys of a store without shards begin with.
const PREFIX: &str = "b/";

/// Where the load goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    /// Nodes of ours, as host:port.
    Flotilla(Vec<String>),
    /// Members of etcd, as host:port.
    Etcd(Vec<String>),
}

/// How operations follow each other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Mode {
    /// Clients with one operation at a time.
    Closed,
    /// So many per second.
    Open(f64),
    /// Find the knee, beginning at this rate; then measure at half of it.
    Ramp(Option<f64>),
}

/// All that a user can choose.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) address: Address,
    /// How nodes of ours are connected to.
    pub(crate) stream: StreamOptions,
    /// Processes of the target on this machine, by the address of their metrics.
    pub(crate) processes: BTreeMap<String, u32>,
    /// What was typed, for the report.
    pub(crate) command: String,
    /// What the operations are called together.
    pub(crate) workload: String,
    pub(crate) mix: Mix,
    pub(crate) distribution: Distribution,
    pub(crate) transport: Transport,
    pub(crate) read: Read,
    pub(crate) mode: Mode,
    pub(crate) clients: u32,
    /// Operations in flight that end an open loop.
    pub(crate) cap: usize,
    pub(crate) warmup: Duration,
    pub(crate) measure: Duration,
    /// Of each step of a ramp.
    pub(crate) step: Duration,
    pub(crate) timeout: Duration,
    pub(crate) keys: u64,
    pub(crate) key_bytes: Option<usize>,
    pub(crate) value_bytes: u32,
    pub(crate) rows: Rows,
    pub(crate) batch_ops: u32,
    /// Shards to use; one run for each if there are several, all shards if there are none.
    pub(crate) shards: Vec<u32>,
    pub(crate) connections: u32,
    pub(crate) seed: u64,
    /// Write the keys first.
    pub(crate) fill: bool,
    /// Whose disk is measured; none: it isn't.
    pub(crate) disk: Option<PathBuf>,
}

/// What somebody who waits is told.
pub(crate) trait Watch {
    /// Something worth a line.
    fn say(&mut self, message: &str);
    /// Once per second.
    fn progress(&mut self, progress: Progress);
    /// Keys written so far.
    fn filled(&mut self, keys: u64, of: u64);
}

impl Settings {
    /// Refuses what contradicts itself before anything is done.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub(crate) fn check(&self) -> Result {
        let usage = |message: &str| Err(Error::Usage(message.to_owned()));
        let etcd = matches!(self.address, Address::Etcd(_));
        let packable = |kind| matches!(kind, Kind::Get | Kind::Put | Kind::Insert);
        let only_written = !self
            .mix
            .kinds()
            .any(|kind| matches!(kind, Kind::Get | Kind::Scan | Kind::Modify));
        if self.transport == Transport::Batch && !self.mix.kinds().all(packable) {
            return usage("--transport batch carries get and put only");
        }
        if self.transport == Transport::Batch && self.mix.has(Kind::Insert) {
            return usage(
                "--transport batch carries no inserts: their keys lie in different shards",
            );
        }
        if self.mix.has(Kind::Session) && self.transport != Transport::Stream {
            return usage(
                "sessions go by the stream of the client library: use --transport stream",
            );
        }
        if self.mix.has(Kind::Session) && etcd {
            return usage("etcd has no sessions");
        }
        if self.transport == Transport::Stream && etcd {
            return usage("etcd has no stream of requests: use --transport unary or batch");
        }
        if !self.shards.is_empty() && etcd {
            return usage("etcd has no shards: leave --shards out");
        }
        if self.distribution == Distribution::HotShard && etcd {
            return usage("etcd has no shards: --distribution hot-shard makes no sense");
        }
        if self.read != Read::Linearizable && only_written {
            return usage("--read says how reads are answered, but nothing is read");
        }
        if matches!(self.mode, Mode::Ramp(_)) && self.shards.len() > 1 {
            return usage("--ramp and several numbers of --shards: choose one of the two");
        }
        let row = u64::from(self.value_bytes) * u64::from(self.batch_ops);
        let batches = self.transport == Transport::Batch || self.mix.has(Kind::Batch);
        if batches && row > flotilla_shards::limits::BATCH_BYTES_MAX as u64 {
            return usage("a batch of --batch-ops values of --value-bytes is larger than 8 MiB");
        }
        Ok(())
    }

    fn window(&self) -> Window {
        Window {
            warmup: self.warmup,
            measure: self.measure,
            timeout: self.timeout,
        }
    }

    fn shape(&self) -> Shape {
        Shape {
            mix: self.mix.clone(),
            distribution: self.distribution,
            transport: self.transport,
            value_bytes: self.value_bytes,
            rows: self.rows,
            batch_ops: self.batch_ops,
            seed: self.seed,
        }
    }
}

/// What a load is put on, as far as it is the same for all runs.
struct Connected {
    client: Option<Client>,
    shards: Option<usize>,
}

async fn connect(settings: &Settings) -> Result<Connected> {
    let Address::Flotilla(endpoints) = &settings.address else {
        return Ok(Connected {
            client: None,
            shards: None,
        });
    };
    let options = Options {
        timeout: settings.timeout,
        max_in_flight: settings.cap.max(settings.clients as usize) + 1,
        stream: settings.stream.clone(),
        ..Options::default()
    };
    let client = Client::connect(endpoints, options).await?;
    let shards = client.routes().len();
    if shards == 0 {
        return Err(Error::Target(
            "the cluster tells no routes; is it made? (flotilla init)".to_owned(),
        ));
    }
    Ok(Connected {
        client: Some(client),
        shards: Some(shards),
    })
}

async fn prepare(
    settings: &Settings,
    connected: &Connected,
    shards: Option<u32>,
) -> Result<Arc<Load>> {
    let (keys, target) = match (&settings.address, &connected.client) {
        (Address::Etcd(members), _) => {
            let keys = Keys::with_prefix(PREFIX, settings.keys, settings.key_bytes)?;
            let etcd = Etcd::connect(
                members,
                settings.read,
                settings.connections,
                settings.timeout,
            );
            (keys, Target::Etcd(Box::new(etcd.await?)))
        }
        (Address::Flotilla(_), Some(client)) => {
            let routes = client.routes();
            let keys = Keys::of_shards(&routes, settings.keys, shards, settings.key_bytes)?;
            let target = Flotilla::new(
                client.clone(),
                &keys,
                settings.transport,
                settings.read,
                settings.connections,
                settings.timeout,
            )?;
            (keys, Target::Flotilla(Box::new(target)))
        }
        (Address::Flotilla(_), None) => unreachable!("a cluster of ours has a client"),
    };
    let batches = settings.transport == Transport::Batch || settings.mix.has(Kind::Batch);
    let in_shard = keys.count() / keys.shards();
    if batches && in_shard < settings.batch_ops.into() {
        return Err(Error::Usage(format!(
            "batches of {} need as many keys in each of {} shards, which have {in_shard}: raise --keys or lower --batch-ops \
             or --shards",
            settings.batch_ops,
            keys.shards(),
        )));
    }
    Ok(Arc::new(Load::new(settings.shape(), keys, target)))
}

/// Measures the disk, if wanted.
async fn disk(settings: &Settings, watch: &mut dyn Watch) -> Result<Option<Fdatasync>> {
    let Some(folder) = settings.disk.clone() else {
        return Ok(None);
    };
    watch.say(&format!("measuring the disk of {}", folder.display()));
    let measured = tokio::task::spawn_blocking(move || machine::fdatasync(&folder, DISK));
    let measured = measured
        .await
        .map_err(|error| Error::Incomplete(format!("measuring the disk broke off: {error}")))?;
    measured.map(Some)
}

/// Writes the keys of a load; false if it was to end meanwhile.
async fn fill(load: &Load, watch: &mut dyn Watch, stop: &mut Stop) -> Result<bool> {
    let of = load.keys.count();
    watch.say(&format!("writing {of} keys"));
    tokio::select! {
        filled = load.fill(|keys| watch.filled(keys, of)) => filled.map(|()| true),
        () = driver::stopped(stop) => Ok(false),
    }
}

/// Writes the keys and nothing else.
///
/// # Errors
/// The target's.
pub(crate) async fn fill_only(
    settings: &Settings,
    watch: &mut dyn Watch,
    stop: &mut Stop,
) -> Result {
    settings.check()?;
    let connected = connect(settings).await?;
    let load = prepare(settings, &connected, settings.shards.first().copied()).await?;
    match fill(&load, watch, stop).await? {
        true => Ok(()),
        false => Err(Error::Incomplete(
            "interrupted: not all keys are written".to_owned(),
        )),
    }
}

/// Runs what the settings ask for.
///
/// # Errors
/// What keeps it from beginning. What happens later is in the report, beside what was counted until then.
pub(crate) async fn run(
    settings: &Settings,
    watch: &mut dyn Watch,
    stop: &mut Stop,
) -> Result<Report> {
    settings.check()?;
    let connected = connect(settings).await?;
    let counts: Vec<Option<u32>> = match settings.shards.is_empty() {
        true => vec![None],
        false => settings.shards.iter().copied().map(Some).collect(),
    };
    // All are made before the first begins: a number of shards that does not exist shows now.
    let mut loads = Vec::new();
    for shards in &counts {
        loads.push(prepare(settings, &connected, *shards).await?);
    }
    let before = disk(settings, watch).await?;
    let mut course = Course {
        settings,
        watch,
        stop,
        partial: Vec::new(),
    };
    let mut runs = Vec::new();
    let mut ramp = None;
    for load in &loads {
        if settings.fill && !fill(load, course.watch, course.stop).await? {
            course
                .partial
                .push("interrupted while keys were written".to_owned());
        }
        let (found, phase) = match settings.mode {
            Mode::Closed => (None, course.closed(load, settings.window()).await),
            Mode::Open(rate) => (None, course.open(load, rate, settings.window(), true).await),
            Mode::Ramp(from) => course.ramp(load, from).await,
        };
        ramp = found;
        runs.push(Summary::new(&phase, load.keys.shards()));
        if phase.end != End::Complete {
            break;
        }
    }
    let partial = course.partial;
    let after = match *stop.borrow() {
        true => None,
        false => disk(settings, watch).await?,
    };
    let load = loads.last().expect("there is at least one");
    let result = runs.last().expect("there is at least one").clone();
    Ok(Report {
        conditions: conditions(settings, &connected, load, before, after),
        sweep: if runs.len() > 1 { runs } else { Vec::new() },
        result,
        partial,
        ramp,
    })
}

/// Runs of one command.
struct Course<'a> {
    settings: &'a Settings,
    watch: &'a mut dyn Watch,
    stop: &'a mut Stop,
    partial: Vec<String>,
}

impl Course<'_> {
    async fn phase(&mut self, load: &Arc<Load>, pace: Pace, window: Window, asked: bool) -> Phase {
        let mut servers: Servers = load.target.servers();
        servers.set_processes(&self.settings.processes);
        let watch = &mut self.watch;
        let tell = |progress| watch.progress(progress);
        let phase = driver::run(load, &servers, pace, window, self.stop, tell).await;
        let partial = Summary::partial(&phase, window.measure);
        // A step of a ramp may well be too much: that is what it looks for.
        if asked || phase.end == End::Interrupted {
            self.partial.extend(partial);
        }
        phase
    }

    async fn closed(&mut self, load: &Arc<Load>, window: Window) -> Phase {
        let clients = self.settings.clients;
        self.watch.say(&format!(
            "{clients} clients, {} shards; warming up for {}",
            load.keys.shards(),
            humantime::format_duration(window.warmup)
        ));
        self.phase(load, Pace::Closed { clients }, window, true)
            .await
    }

    async fn open(&mut self, load: &Arc<Load>, rate: f64, window: Window, asked: bool) -> Phase {
        self.watch.say(&format!(
            "{rate:.0} operations per second, {} shards; warming up for {}",
            load.keys.shards(),
            humantime::format_duration(window.warmup)
        ));
        let cap = self.settings.cap;
        self.phase(load, Pace::Open { rate, cap }, window, asked)
            .await
    }

    async fn ramp(&mut self, load: &Arc<Load>, from: Option<f64>) -> (Option<RampReport>, Phase) {
        let mut report = RampReport::default();
        let window = Window {
            warmup: STEP_WARMUP,
            measure: self.settings.step,
            timeout: self.settings.timeout,
        };
        let from = match from {
            Some(from) => from,
            None => {
                self.watch.say("a short closed loop tells where to begin");
                let window = Window {
                    measure: PROBE,
                    ..window
                };
                let probe = self.closed(load, window).await;
                let reached = probe.totals.operations as f64 / PROBE.as_secs_f64();
                if probe.end != End::Complete || reached == 0.0 {
                    return (Some(report), probe);
                }
                reached * RAMP_FROM
            }
        };
        let mut ramp = Ramp::new(from);
        loop {
            let rate = ramp.rate();
            let phase = self.open(load, rate, window, false).await;
            let summary = Summary::new(&phase, load.keys.shards());
            let step = Step {
                offered: rate,
                // One that was cut short did not keep up, whatever it had achieved until then.
                achieved: match phase.end {
                    End::Complete => summary.operations_per_second,
                    _ => 0.0,
                },
                p99: Duration::from_micros(summary.latency_us.p99),
            };
            report.steps.push(summary);
            if phase.end == End::Interrupted {
                return (Some(report), phase);
            }
            match ramp.step(&step) {
                Next::Rate(_) => {}
                Next::Knee(None) => {
                    self.partial
                        .push("no rate was kept up with: there is no knee".to_owned());
                    return (Some(report), phase);
                }
                Next::Knee(Some(knee)) => {
                    report.knee_per_second = Some(knee);
                    self.watch
                        .say(&format!("the knee is at {knee:.0} per second"));
                    let window = self.settings.window();
                    let phase = self.open(load, knee * AFTER_RAMP, window, true).await;
                    return (Some(report), phase);
                }
            }
        }
    }
}

fn conditions(
    settings: &Settings,
    connected: &Connected,
    load: &Load,
    before: Option<Fdatasync>,
    after: Option<Fdatasync>,
) -> Conditions {
    let now = std::time::SystemTime::now();
    Conditions {
        date: humantime::format_rfc3339_seconds(now).to_string(),
        version: env!("CARGO_PKG_VERSION"),
        command: settings.command.clone(),
        target: match &load.target {
            Target::Flotilla(_) => "flotilla".to_owned(),
            Target::Etcd(etcd) => format!("etcd {}", etcd.version()),
        },
        nodes: load.target.servers().len(),
        shards: connected.shards,
        sync: "a majority has synced its log before a write is answered",
        workload: settings.workload.clone(),
        distribution: settings.distribution.name(),
        transport: settings.transport.name(),
        read: settings.read.name(),
        keys: settings.keys,
        key_bytes: load.keys.get(0).len(),
        value_bytes: settings.value_bytes,
        connections: settings.connections,
        seed: settings.seed,
        machine: machine::describe(),
        fdatasync_before: before,
        fdatasync_after: after,
    }
}
