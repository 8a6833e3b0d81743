//! Measures a cluster from the outside: a closed loop of clients, and what it cost the servers.
//!
//! This is the quick look that an operator takes. Closed loops hide waiting time behind slow answers, so its
//! percentiles describe the cluster at saturation only.

#[cfg(any(test, fuzzing))]
pub(super) mod fuzz;
mod keys;
mod load;
mod report;
mod servers;

use std::time::Duration;

use clap::{Args, Subcommand};

use self::{
    keys::Keys,
    load::{Kind, Load, Way},
    report::Report,
    servers::Servers,
};
use super::{
    Context, duration,
    failure::{Failure, Outcome},
    output::{Format, Out, talk},
};
use crate::process::cpu_time;

/// Benchmarks.
#[derive(Debug, Subcommand)]
pub(super) enum Bench {
    /// Write values of random keys
    Put(Arguments),
    /// Read values of random keys, linearizably; they are written before
    Get(Arguments),
}

#[derive(Debug, Args)]
#[command(after_help = "\
The benchmark writes keys of its own into the cluster (they begin with the shards' start keys) and leaves them there.
Unary: each client makes one gRPC call at a time, to the leader of the key's shard.
Stream: each client has one request at a time in flight on the stream to that leader's node; they share messages.")]
pub(super) struct Arguments {
    /// Clients, each with one request at a time
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    clients: u32,
    /// How long to measure
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// How long to run before that
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration)]
    warmup: Duration,
    /// Bytes of each value
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(0..=4_194_304))]
    value_bytes: u32,
    /// Use the multiplexed stream of the client library
    #[arg(long)]
    stream: bool,
    /// Different keys
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    keys: u64,
    /// Shards to use [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    shards: Option<u32>,
    /// Connections to each node; the stream has one
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1024))]
    connections: u32,
    /// Seed of the random keys
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

impl Bench {
    pub(super) async fn run(self, context: &Context, out: &mut Out) -> Outcome {
        let (kind, arguments) = match self {
            Self::Put(arguments) => (Kind::Put, arguments),
            Self::Get(arguments) => (Kind::Get, arguments),
        };
        let client = context.client().await?;
        let routes = client.routes();
        if routes.is_empty() {
            return Err(Failure::NobodyAnswers(
                "the cluster tells no routes; is it made? (flotilla init)".to_owned(),
            ));
        }
        let keys = Keys::new(&routes, arguments.keys, arguments.shards)?;
        let shards = keys.shards();
        let servers = Servers::new(&client.nodes());
        let load = Load::new(
            client,
            kind,
            if arguments.stream {
                Way::Stream
            } else {
                Way::Unary {
                    connections: arguments.connections as usize,
                }
            },
            keys,
            arguments.value_bytes as usize,
            arguments.seed,
        )?;
        if kind == Kind::Get {
            talk(format!("writing {} keys", arguments.keys));
            load.fill().await?;
        }
        let running = load.start(arguments.clients);
        talk(format!(
            "{} clients, {shards} shards; warming up for {}",
            arguments.clients,
            humantime::format_duration(arguments.warmup)
        ));
        tokio::time::sleep(arguments.warmup).await;
        let before = servers.sample().await;
        let client_before = cpu_time();
        running.measure();
        let mut last = 0;
        for second in 1..=arguments.seconds {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let done = running.done();
            talk(format!(
                "{second:>4} s  {:>9}/s  {} errors",
                done - last,
                running.errors()
            ));
            last = done;
        }
        let measured = running.stop();
        let client_cpu = cpu_time().saturating_sub(client_before);
        let after = servers.sample().await;
        let report = Report::new(&measured, client_cpu, before.until(&after));
        match context.global.output {
            Format::Table => out.line(report.to_string())?,
            format => out.json(format, &report)?,
        }
        running.join().await;
        if report.operations == 0 {
            return Err(Failure::Incomplete(format!(
                "no operation succeeded; {}",
                report
                    .first_error
                    .as_deref()
                    .unwrap_or("none failed either: all were too slow")
            )));
        }
        Ok(())
    }
}
