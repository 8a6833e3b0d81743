//! The flags of `flotilla bench`, and what they mean together.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use clap::{Args, Subcommand, ValueEnum as _};

use crate::{
    bench::{
        Address, Comparison, Distribution, Kind, Mix, Mode, Read, Row, Rows, Settings, Transport,
        Ycsb,
    },
    cli::{
        Context, duration, endpoint,
        failure::{Failure, Outcome},
    },
};

const VALUE_BYTES: u32 = 256;
/// Rows of a scan in mixes.
const ROWS: u32 = 100;

/// Benchmarks.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Bench {
    /// Write values
    Put(Arguments),
    /// Read values
    Get(Arguments),
    /// Read rows in order
    Scan {
        /// Rows of each scan
        #[arg(long, value_name = "N", default_value_t = ROWS, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        rows: u32,
        #[command(flatten)]
        arguments: Arguments,
    },
    /// Write several keys of one shard, if the first of them exists
    Batch(Arguments),
    /// Write values in sessions: exactly once
    Session(Arguments),
    /// Several kinds of operations, as in get=95,put=5
    Mix {
        /// Kinds (get, put, insert, scan, batch, session, modify) with their shares
        #[arg(value_name = "KIND=SHARE,…")]
        mix: Mix,
        #[command(flatten)]
        arguments: Arguments,
    },
    /// One of YCSB's core workloads: keys by Zipf (D: the latest), values of 1,000 bytes
    Ycsb {
        /// Which one
        workload: Ycsb,
        #[command(flatten)]
        arguments: Arguments,
    },
    /// Write all keys once, for later runs with --no-fill
    Fill(Arguments),
    /// Hold Flotilla against etcd on this machine: three processes of each, in alternating rounds
    Compare(Compare),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Both systems start with fresh folders in each round and are never up at the same time. Disk (fdatasync) and processor (a
fixed spin) are measured before and after each round; rounds in which they changed by more than 25 % do not count. Needs
etcd and setpriv (Debian: etcd-server, util-linux). --folder gets compare.html and compare.json.")]
pub(in crate::cli) struct Compare {
    /// What to measure [default: all]
    #[arg(long, value_name = "ROW,…", value_delimiter = ',')]
    rows: Vec<Row>,
    /// Rounds
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// How long each measurement takes
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// How long each load runs before that
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    warmup: Duration,
    /// Shards of our cluster
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    shards: u32,
    /// Where data and reports go: a folder on the disk that is to be measured
    #[arg(long, value_name = "FOLDER")]
    pub(super) folder: PathBuf,
}

impl Compare {
    pub(super) fn comparison(&self, context: &Context) -> Comparison {
        let all = || Row::value_variants().to_vec();
        Comparison {
            rows: if self.rows.is_empty() {
                all()
            } else {
                self.rows.clone()
            },
            rounds: self.rounds,
            measure: Duration::from_secs(self.seconds),
            warmup: self.warmup,
            shards: self.shards,
            folder: self.folder.clone(),
            timeout: context.global.timeout,
        }
    }
}

/// What was typed.
pub(super) fn command() -> String {
    let words = std::env::args().skip(1);
    words.fold("flotilla".to_owned(), |line, word| line + " " + &word)
}

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
The benchmark writes keys of its own into the cluster (they begin with the shards' start keys) and leaves them there.
Without --rate or --ramp each client has one operation at a time (closed loop): that shows the throughput at saturation.
With --rate operations begin at random times fixed before, and latencies count from these (open loop).
Ctrl-C ends a run with its report. docs/bench.md has examples, and says how to measure without fooling oneself.")]
pub(in crate::cli) struct Arguments {
    /// Where the load goes instead of --endpoints: etcd://HOST:PORT,…
    #[arg(long, value_name = "URL", value_parser = target)]
    target: Option<Address>,
    /// Clients, each with one operation at a time
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    clients: u32,
    /// Operations per second, begun at random times that are fixed before
    #[arg(long, value_name = "N", value_parser = rate)]
    rate: Option<f64>,
    /// Raise the rate by a tenth until less than 99 % is achieved or p99 exceeds 50 ms, then measure at half of that; begins
    /// at --rate, or at half of what --clients reach
    #[arg(long)]
    ramp: bool,
    /// How long each step of a ramp is measured
    #[arg(long, value_name = "N", default_value_t = 5, requires = "ramp", value_parser = clap::value_parser!(u64).range(1..=3600))]
    step_seconds: u64,
    /// Operations in flight that end a run with --rate or a step of a ramp: the target is overloaded
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    cap: u32,
    /// How long to measure
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// How long to run before that
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration)]
    warmup: Duration,
    /// How operations travel [default: unary; sessions: stream]
    #[arg(long, value_name = "HOW")]
    transport: Option<Transport>,
    /// Short for --transport stream
    #[arg(long, conflicts_with = "transport")]
    stream: bool,
    /// Operations of a batch
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1024))]
    batch_ops: u32,
    /// Who answers reads
    #[arg(long, value_name = "WHO", default_value = "linearizable")]
    read: Read,
    /// How often keys are touched [default: uniform; ycsb: as the workload says]
    #[arg(long, value_name = "HOW")]
    distribution: Option<Distribution>,
    /// Different keys
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    keys: u64,
    /// Bytes of each key [default: 16]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(10..=4096))]
    key_bytes: Option<u32>,
    /// Bytes of each value [default: 256; ycsb: 1000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=4_194_304))]
    value_bytes: Option<u32>,
    /// Shards to use; several numbers make one run each [default: all]
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..))]
    shards: Vec<u32>,
    /// The keys are there already: do not write them first
    #[arg(long)]
    no_fill: bool,
    /// Connections to each node; the stream has one
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1024))]
    connections: u32,
    /// Seed of keys, values and times
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Write a page with plots and conditions
    #[arg(long, value_name = "FILE")]
    pub(super) report: Option<PathBuf>,
    /// Measure the fdatasync latency of this folder's disk before and after [default: with --report the working folder's]
    #[arg(long, value_name = "FOLDER")]
    disk: Option<PathBuf>,
}

/// `etcd://host:port,…`
fn target(text: &str) -> Result<Address, String> {
    let members = text.strip_prefix("etcd://").ok_or_else(|| {
        "expected etcd://HOST:PORT,…; clusters of ours are named by --endpoints".to_owned()
    })?;
    let members = members.split(',').map(endpoint);
    Ok(Address::Etcd(members.collect::<Result<_, _>>()?))
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (1.0..=10_000_000.0).contains(&rate) => Ok(rate),
        _ => Err("expected operations per second, 1 to 10000000".to_owned()),
    }
}

impl Bench {
    /// What was asked for, of everything that puts one load on a cluster.
    pub(super) fn settings(self, context: &Context) -> Outcome<(Settings, Arguments)> {
        let (arguments, mix) = match &self {
            Self::Compare(_) => unreachable!("a comparison has settings of its own"),
            Self::Put(arguments) | Self::Fill(arguments) => (arguments, Mix::only(Kind::Put)),
            Self::Get(arguments) => (arguments, Mix::only(Kind::Get)),
            Self::Scan { arguments, .. } => (arguments, Mix::only(Kind::Scan)),
            Self::Batch(arguments) => (arguments, Mix::only(Kind::Batch)),
            Self::Session(arguments) => (arguments, Mix::only(Kind::Session)),
            Self::Mix { mix, arguments } => (arguments, mix.clone()),
            Self::Ycsb {
                workload,
                arguments,
            } => (arguments, workload.mix()),
        };
        let arguments = arguments.clone();
        let mut settings = arguments.settings(context, mix)?;
        match self {
            Self::Scan { rows, .. } => settings.rows = Rows::Exactly(rows),
            Self::Ycsb { workload, .. } => {
                settings.rows = Rows::UpTo(ROWS);
                let letter = format!("{workload:?}");
                settings.workload = format!("YCSB {letter}: {}", settings.mix);
                if arguments.distribution.is_none() {
                    settings.distribution = workload.distribution();
                }
                if arguments.value_bytes.is_none() {
                    settings.value_bytes = Ycsb::VALUE_BYTES;
                }
            }
            _ => {}
        }
        Ok((settings, arguments))
    }
}

impl Arguments {
    pub(super) fn settings(&self, context: &Context, mix: Mix) -> Outcome<Settings> {
        let sessions = mix.has(Kind::Session);
        let settings = Settings {
            address: match &self.target {
                Some(target) => target.clone(),
                None => Address::Flotilla(context.global.endpoints.clone()),
            },
            stream: context.stream.clone(),
            processes: BTreeMap::new(),
            command: command(),
            workload: mix.to_string(),
            distribution: self.distribution.unwrap_or(Distribution::Uniform),
            transport: match self.transport {
                Some(transport) => transport,
                None if self.stream || sessions => Transport::Stream,
                None => Transport::Unary,
            },
            read: self.read,
            mode: match (self.ramp, self.rate) {
                (true, from) => Mode::Ramp(from),
                (false, Some(rate)) => Mode::Open(rate),
                (false, None) => Mode::Closed,
            },
            clients: self.clients,
            cap: self.cap as usize,
            warmup: self.warmup,
            measure: Duration::from_secs(self.seconds),
            step: Duration::from_secs(self.step_seconds),
            timeout: context.global.timeout,
            keys: self.keys,
            key_bytes: self.key_bytes.map(|bytes| bytes as usize),
            value_bytes: self.value_bytes.unwrap_or(VALUE_BYTES),
            rows: Rows::Exactly(ROWS),
            batch_ops: self.batch_ops,
            shards: self.shards.clone(),
            connections: self.connections,
            seed: self.seed,
            fill: mix.wants_keys() && !self.no_fill,
            disk: self.disk.clone().or_else(|| {
                let reported = self.report.is_some();
                reported.then(|| PathBuf::from("."))
            }),
            mix,
        };
        settings.check().map_err(Failure::from)?;
        Ok(settings)
    }
}
