//! The simulator from the command line: runs seeds on all cores, sums them up, and tells how to see a failure again.
#![expect(
    clippy::disallowed_types,
    reason = "the runner measures time and has threads; the simulation has neither"
)]

use std::io::{self, Write as _};
use std::num::NonZero;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use flotilla_sim::{Listener, Outcome, Report, Settings, run, run_with};

/// Lines of the trace that are shown of a failed run.
const LAST_LINES: usize = 40;

/// Runs simulated Flotilla clusters, one for each seed, and holds everything that happens against the invariants.
///
/// The same seed gives the same run. Exit code 0: all held; 1: an invariant was broken; 2: wrong usage.
#[derive(Parser)]
#[command(name = "flotilla-sim", version)]
struct Arguments {
    /// Run this seed alone
    #[arg(long, conflicts_with_all = ["seeds", "from", "minutes"])]
    seed: Option<u64>,
    /// Print everything that happens in the run of --seed
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Number of seeds
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// First seed
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Run seeds for so many minutes instead of a number of them
    #[arg(long, conflicts_with = "seeds", value_parser = clap::value_parser!(u64).range(1..))]
    minutes: Option<u64>,
    /// Threads; by default as many as there are cores
    #[arg(long)]
    threads: Option<NonZero<usize>>,
    /// Measure the simulator: a cluster of NODES x SHARDS under load and without faults, for 60 simulated seconds
    #[arg(long, value_name = "NODES,SHARDS", value_parser = size, conflicts_with_all = ["seed", "minutes"])]
    measure: Option<(usize, usize)>,
}

fn size(text: &str) -> Result<(usize, usize), String> {
    let parts = text
        .split_once(',')
        .ok_or("expected NODES,SHARDS, such as 5,50")?;
    let number = |text: &str, max: usize| match text.trim().parse() {
        Ok(number) if (1..=max).contains(&number) => Ok(number),
        _ => Err(format!("\"{text}\" is no number from 1 to {max}")),
    };
    Ok((number(parts.0, 100)?, number(parts.1, 10_000)?))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some((nodes, shards)) = arguments.measure {
        return measure(nodes, shards);
    }
    match arguments.seed {
        Some(seed) => one(seed, arguments.trace),
        None => many(&arguments),
    }
}

fn one(seed: u64, trace: bool) -> ExitCode {
    let listener: Option<Listener> = trace.then(|| -> Listener {
        Box::new(|line| {
            // Whoever closed the pipe has seen enough.
            if writeln!(io::stdout(), "{line}").is_err() {
                std::process::exit(0);
            }
        })
    });
    let start = Instant::now();
    let outcome = run(seed, listener);
    println!("seed {seed}: {:?}", outcome.settings);
    println!("{}", outcome.report);
    println!(
        "trace hash {:016x}, {:.2?}",
        outcome.report.hash,
        start.elapsed()
    );
    match outcome.violation {
        None => ExitCode::SUCCESS,
        Some(violation) => {
            println!("seed {seed} FAILED: {violation}");
            ExitCode::FAILURE
        }
    }
}

fn many(arguments: &Arguments) -> ExitCode {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let threads = arguments.threads.map_or(cores, NonZero::get);
    let start = Instant::now();
    let until = arguments
        .minutes
        .map(|minutes| start + Duration::from_secs(60 * minutes));
    let last = match arguments.minutes {
        Some(_) => u64::MAX,
        None => arguments.from.saturating_add(arguments.seeds),
    };
    let next = AtomicU64::new(arguments.from);
    let stop = AtomicBool::new(false);
    let (sender, outcomes) = mpsc::channel::<(u64, Outcome, Duration)>();
    let mut total = Report::default();
    let mut busy = Duration::ZERO;
    let mut failed = Vec::new();
    thread::scope(|scope| {
        for _ in 0..threads {
            let (sender, next, stop) = (sender.clone(), &next, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed)
                    && until.is_none_or(|until| Instant::now() < until)
                {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= last {
                        return;
                    }
                    let start = Instant::now();
                    let outcome = run(seed, None);
                    if sender.send((seed, outcome, start.elapsed())).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        for (seed, outcome, time) in outcomes {
            total.add(&outcome.report);
            busy += time;
            if let Some(violation) = outcome.violation {
                println!("seed {seed} FAILED: {violation}");
                failed.push(seed);
                // More of them would hardly tell more.
                stop.store(failed.len() >= 10, Ordering::Relaxed);
            }
        }
    });
    println!("{total}");
    if arguments.minutes.is_some() {
        println!("steps of nodes and clients while each fault was in effect:");
        println!("{}", total.coverage.table(&total.faults));
        println!("never met: {:?}", total.coverage.missing());
    }
    let simulated = Duration::from_micros(total.simulated);
    println!(
        "{:.1?} on {threads} threads, {:.1} cluster-seconds per core-second",
        start.elapsed(),
        simulated.as_secs_f64() / busy.as_secs_f64()
    );
    failed.sort_unstable();
    let Some(&first) = failed.first() else {
        return ExitCode::SUCCESS;
    };
    println!(
        "{} of {} seeds failed: {failed:?}",
        failed.len(),
        total.runs
    );
    println!("the last events of seed {first}:");
    for line in last_lines(first) {
        println!("{line}");
    }
    println!("see it again: flotilla-sim --seed {first} --trace");
    ExitCode::FAILURE
}

/// The end of a run's trace: the run is made again, which gives the same events.
fn last_lines(seed: u64) -> Vec<String> {
    let (sender, lines) = mpsc::channel::<String>();
    let listener: Listener = Box::new(move |line| {
        // The receiver lives until the run is over.
        let _ = sender.send(line.to_owned());
    });
    // The same end as before: only what led to it is of interest.
    let _ = run(seed, Some(listener));
    let mut last: Vec<String> = lines.iter().collect();
    last.drain(..last.len().saturating_sub(LAST_LINES));
    last
}

fn measure(nodes: usize, shards: usize) -> ExitCode {
    let settings = Settings::steady(nodes, shards, 60);
    let start = Instant::now();
    let outcome = run_with(settings, 1, None);
    let time = start.elapsed();
    println!("{}", outcome.report);
    let simulated = Duration::from_micros(outcome.report.simulated).as_secs_f64();
    println!(
        "{nodes} nodes, {shards} shards: {:.1} operations per simulated second, {:.1} cluster-seconds per core-second",
        outcome.report.operations.ok as f64 / simulated,
        simulated / time.as_secs_f64()
    );
    if let Some(violation) = outcome.violation {
        println!("FAILED: {violation}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
