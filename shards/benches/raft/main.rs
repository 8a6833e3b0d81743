//! The Raft core against the published crate `raft` 0.7, the anchor: what each of them costs, measured in one run.
//!
//! `cargo bench -p flotilla-shards --bench raft` (or `make bench`) runs every work for both, side by side, and ends with
//! a table of the ratios ours / theirs of the medians. Below 1 is faster. Only the ratio means something: both
//! numbers of it come from the same machine and the same minute.
//!
//! # What keeps it fair
//!
//! - One harness (`harness`) drives both: the same three replicas, the same order of taking work and of delivering
//!   messages, the same vectors for the mail. What differs is in `ours` and `anchor`: how a replica is called.
//! - Both write synchronously in the way that their documentation shows (`ready`, write, send, apply, advance), to the
//!   storage in memory that comes with them, without a disk. That of `raft` takes an uncontended lock on each access.
//! - The same settings: pre-vote and, but for elections, check of the quorum; one size of messages, windows and
//!   payloads; no limit on what is handed out for application.
//! - Payloads are made anew for every entry on both sides and end up in the same type, `Bytes`. A batch enters in
//!   one call. The anchor's own `propose` takes one entry at a time and copies it, so that its batches are given to its
//!   `step` instead, which is faster.
//! - Logs are compacted at the same length on both sides.
//!
//! The node uses the asynchronous form of writing alone, which the anchor has in another shape. `ours-async` shows that
//! ours costs about the same.

mod anchor;
mod harness;
mod ours;

use criterion::{BatchSize, BenchmarkGroup, Criterion, Throughput, measurement::WallTime};
use harness::{Cluster, Replica, TICKS};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Names of the sides, as in the reports.
const OURS: &str = "ours";
const OURS_ASYNC: &str = "ours-async";
const ANCHOR: &str = "raft-0.7";

fn main() {
    let folder = report_folder();
    let mut criterion = Criterion::default()
        .output_directory(&folder)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3))
        .sample_size(50)
        .configure_from_args();
    let mut works = Vec::new();
    works.push(work(&mut criterion, "tick", ticks, ticks, ticks));
    works.push(work(
        &mut criterion,
        "heartbeat",
        heartbeats,
        heartbeats,
        heartbeats,
    ));
    for batch in [1, 16, 256] {
        let name = format!("commit-{batch}");
        works.push(work(
            &mut criterion,
            &name,
            commits(batch),
            commits(batch),
            commits(batch),
        ));
    }
    works.push(work(
        &mut criterion,
        "election",
        elections,
        elections,
        elections,
    ));
    criterion.final_summary();
    print_ratios(&folder, &works);
}

type Group<'a> = BenchmarkGroup<'a, WallTime>;

/// Runs one work for all sides, one after the other. Returns its name.
fn work(
    criterion: &mut Criterion,
    name: &str,
    ours: impl FnOnce(&mut Group<'_>, &str, Cluster<ours::Sync>),
    ours_async: impl FnOnce(&mut Group<'_>, &str, Cluster<ours::Async>),
    anchor: impl FnOnce(&mut Group<'_>, &str, Cluster<anchor::Node>),
) -> String {
    let check_quorum = name != "election";
    let mut group = criterion.benchmark_group(name);
    anchor(&mut group, ANCHOR, Cluster::new(check_quorum));
    ours(&mut group, OURS, Cluster::new(check_quorum));
    ours_async(&mut group, OURS_ASYNC, Cluster::new(check_quorum));
    group.finish();
    name.to_owned()
}

/// A tick of each replica of a group that has nothing to do. So that it may go on for ever, every [`TICKS`] ticks a
/// heartbeat is due and delivered, which is too rare to be seen.
fn ticks<R: Replica>(group: &mut Group<'_>, side: &str, mut cluster: Cluster<R>) {
    group.throughput(Throughput::Elements(u64::from(TICKS)));
    group.bench_function(side, |bencher| bencher.iter(|| cluster.tick_to_heartbeat()));
}

/// The leader beats, the followers answer, the leader takes it in.
fn heartbeats<R: Replica>(group: &mut Group<'_>, side: &str, mut cluster: Cluster<R>) {
    group.bench_function(side, |bencher| bencher.iter(|| cluster.heartbeat_round()));
}

/// From the proposal of a batch to its application by all three.
fn commits<R: Replica>(batch: usize) -> impl FnOnce(&mut Group<'_>, &str, Cluster<R>) {
    move |group, side, mut cluster| {
        group.throughput(Throughput::Elements(batch as u64));
        group.bench_function(side, |bencher| {
            bencher.iter_batched(
                || harness::payloads(batch),
                |payloads| cluster.commit(payloads),
                BatchSize::SmallInput,
            );
        });
    }
}

/// Pre-vote, vote, and the first commit of the term on all three. Each one in turn is elected.
fn elections<R: Replica>(group: &mut Group<'_>, side: &str, mut cluster: Cluster<R>) {
    group.bench_function(side, |bencher| bencher.iter(|| cluster.elect_next()));
}

/// Where criterion keeps its reports: beside the profile folders of the build.
fn report_folder() -> PathBuf {
    let exe = std::env::current_exe().expect("the path of this program");
    let target = exe
        .ancestors()
        .nth(3)
        .expect("a program in <target>/<profile>/deps");
    target.join("criterion")
}

/// Prints ours / theirs for every work that has been measured.
fn print_ratios(folder: &Path, works: &[String]) {
    let median = |work: &str, side: &str| {
        let path = folder.join(work).join(side).join("new/estimates.json");
        let text = std::fs::read_to_string(path).ok()?;
        median_of(&text)
    };
    println!(
        "{:<12}{ANCHOR:>14}{OURS:>14}{:>8}{OURS_ASYNC:>14}{:>8}",
        "median, ns", "ratio", "ratio"
    );
    for work in works {
        let (Some(theirs), Some(ours), Some(ours_async)) = (
            median(work, ANCHOR),
            median(work, OURS),
            median(work, OURS_ASYNC),
        ) else {
            println!("{work:<12}    not measured");
            continue;
        };
        println!(
            "{work:<12}{theirs:>14.1}{ours:>14.1}{:>8.2}{ours_async:>14.1}{:>8.2}",
            ours / theirs,
            ours_async / theirs
        );
    }
}

/// The point estimate of the median in one of criterion's files of estimates.
fn median_of(estimates: &str) -> Option<f64> {
    let (_, median) = estimates.split_once("\"median\":")?;
    let (_, value) = median.split_once("\"point_estimate\":")?;
    value.split([',', '}']).next()?.trim().parse().ok()
}
