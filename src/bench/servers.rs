//! What a load costs the servers, from the metrics that they export before and after.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use flotilla_metrics::Distribution;
use futures_util::future::join_all;
use serde::Serialize;

use crate::http;

const TIMEOUT: Duration = Duration::from_secs(3);
const ANSWER_BYTES_MAX: u64 = 16 << 20;
/// Far above any number of seconds, bytes or writes: sums and differences of what is counted stay finite.
const VALUE_MAX: f64 = 1e18;
/// The stages of a write, in their order; whole requests come after them.
const STAGES: [&str; 5] = ["queue", "propose", "sync", "commit", "apply"];
/// What the time from the arrival of a request to its answer is called, before the kind of the request.
const WHOLE: &str = "whole ";

/// Whose names the metrics have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Software {
    Flotilla,
    Etcd,
}

/// One node.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    name: String,
    /// host:port of its /metrics.
    address: String,
    software: Software,
    /// If it runs on this machine and was started by us.
    process: Option<u32>,
}

impl Server {
    pub(crate) fn new(name: String, address: String, software: Software) -> Self {
        Self {
            name,
            address,
            software,
            process: None,
        }
    }
}

/// All nodes of a target.
#[derive(Debug, Clone)]
pub(crate) struct Servers {
    servers: Vec<Server>,
}

/// Readings of all nodes at one moment; `None` for a node that could not be read.
#[derive(Debug)]
pub(crate) struct Sample {
    at: Instant,
    nodes: Vec<Option<Reading>>,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Reading {
    name: String,
    /// A demo has all nodes in one process.
    process: String,
    cpu_seconds: f64,
    memory_bytes: f64,
    counts: Counts,
    /// In seconds.
    stages: BTreeMap<String, Distribution>,
}

/// What grows. `None`: the software does not tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(crate) struct Counts {
    /// Writes that syncs of the log made durable, on each node that stores them.
    pub(crate) writes: f64,
    /// Syncs of the log.
    pub(crate) fsyncs: f64,
    /// Bytes that processes caused to be written to disks.
    pub(crate) disk_bytes: Option<f64>,
    /// Messages of shards between nodes.
    pub(crate) messages: Option<f64>,
    /// What these travelled in.
    pub(crate) frames: Option<f64>,
    pub(crate) sent_bytes: f64,
}

impl Counts {
    fn join(self, other: Self, join: fn(f64, f64) -> f64) -> Self {
        let both = |a: Option<f64>, b: Option<f64>| Some(join(a?, b?));
        Self {
            writes: join(self.writes, other.writes),
            fsyncs: join(self.fsyncs, other.fsyncs),
            disk_bytes: both(self.disk_bytes, other.disk_bytes),
            messages: both(self.messages, other.messages),
            frames: both(self.frames, other.frames),
            sent_bytes: join(self.sent_bytes, other.sent_bytes),
        }
    }
}

/// Time of one stage inside the servers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct StageTime {
    pub(crate) stage: String,
    pub(crate) count: f64,
    pub(crate) mean_us: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

/// One process of a target.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Process {
    pub(crate) name: String,
    pub(crate) cpu_seconds: f64,
    /// Resident, at the end.
    pub(crate) memory_bytes: f64,
}

/// What lies between two samples.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Cost {
    pub(crate) seconds: f64,
    pub(crate) processes: Vec<Process>,
    /// Of all nodes together.
    pub(crate) counts: Counts,
    pub(crate) stages: Vec<StageTime>,
    /// Nodes that were read.
    pub(crate) nodes: usize,
    /// Nodes that could not be read: their part is missing in everything above.
    pub(crate) silent: usize,
}

impl Servers {
    pub(crate) fn new(servers: Vec<Server>) -> Self {
        Self { servers }
    }

    /// Tells the processes of servers on this machine, by the address of their metrics.
    pub(crate) fn set_processes(&mut self, processes: &BTreeMap<String, u32>) {
        for server in &mut self.servers {
            server.process = processes.get(&server.address).copied();
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.servers.len()
    }

    pub(crate) async fn sample(&self) -> Sample {
        let at = Instant::now();
        let readings = self.servers.iter().map(async |server| {
            let asked = http::get(&server.address, "/metrics", ANSWER_BYTES_MAX);
            let answer = tokio::time::timeout(TIMEOUT, asked).await.ok()?.ok()?;
            (answer.code == 200).then(|| Reading::parse(server, &answer.text()))?
        });
        Sample {
            nodes: join_all(readings).await,
            at,
        }
    }
}

/// Bytes that a process of this machine has caused to be written.
fn disk_bytes(process: u32) -> Option<f64> {
    crate::process::disk_io_of(&process).map(|(_, written)| written as f64)
}

/// A page of metrics.
struct Page<'a> {
    /// Name, labels with their braces, value.
    lines: Vec<(&'a str, &'a str, f64)>,
}

impl<'a> Page<'a> {
    fn new(text: &'a str) -> Self {
        let line = |line: &'a str| {
            let (series, value) = line.rsplit_once(' ')?;
            let (name, labels) = series.split_at(series.find('{').unwrap_or(series.len()));
            let value = value.trim().parse().ok().filter(is_sane)?;
            Some((name, labels, value))
        };
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Self {
            lines: lines.filter_map(line).collect(),
        }
    }

    fn of(&self, name: &str) -> impl Iterator<Item = (&'a str, f64)> {
        self.lines
            .iter()
            .filter(move |(known, ..)| *known == name)
            .map(|(_, labels, value)| (*labels, *value))
    }

    /// Over all labels; absent if there is none.
    fn sum(&self, name: &str) -> Option<f64> {
        let values = self.of(name).map(|(_, value)| value);
        values.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
    }

    /// A family of histograms by the value of `label`, or a single one by `name` itself.
    fn histograms(&self, name: &str, label: &str) -> BTreeMap<String, Distribution> {
        let mut histograms = BTreeMap::<String, (Vec<(f64, u64)>, f64)>::new();
        let key = |labels| value_of(labels, label).unwrap_or(name).to_owned();
        for (labels, count) in self.of(&format!("{name}_bucket")) {
            let bound = value_of(labels, "le").map(|bound| match bound {
                "+Inf" => Some(f64::INFINITY),
                bound => bound.parse().ok().filter(is_sane),
            });
            if let Some(Some(bound)) = bound {
                let (buckets, _) = histograms.entry(key(labels)).or_default();
                buckets.push((bound, count as u64));
            }
        }
        for (labels, sum) in self.of(&format!("{name}_sum")) {
            histograms.entry(key(labels)).or_default().1 = sum;
        }
        let whole = |(buckets, sum)| Distribution::from_buckets(buckets, sum);
        histograms
            .into_iter()
            .map(|(key, parts)| (key, whole(parts)))
            .collect()
    }
}

fn is_sane(value: &f64) -> bool {
    (0.0..=VALUE_MAX).contains(value)
}

fn value_of<'a>(labels: &'a str, label: &str) -> Option<&'a str> {
    let pairs = labels.trim_matches(['{', '}']).split(',');
    let value = pairs
        .filter_map(|pair| pair.split_once('='))
        .find(|(name, _)| *name == label);
    value.map(|(_, value)| value.trim_matches('"'))
}

impl Reading {
    fn parse(server: &Server, text: &str) -> Option<Self> {
        let page = Page::new(text);
        let count = |name: &str| page.sum(name).unwrap_or(0.0);
        let memory_bytes = page.sum("process_resident_memory_bytes")?;
        let start = page.sum("process_start_time_seconds")?;
        let name = server.name.clone();
        Some(match server.software {
            Software::Flotilla => Self {
                name,
                process: format!("{} {start}", page.sum("flotilla_node_process_id")?),
                cpu_seconds: page.sum("flotilla_node_cpu_seconds")?,
                memory_bytes,
                counts: Counts {
                    writes: count("flotilla_log_synced_writes_total"),
                    fsyncs: count("flotilla_log_fsyncs_total"),
                    disk_bytes: page.sum("flotilla_disk_written_bytes_total"),
                    messages: Some(count("flotilla_transport_sent_messages_total")),
                    frames: Some(count("flotilla_transport_sent_frames_total")),
                    sent_bytes: count("flotilla_transport_sent_bytes_total"),
                },
                stages: {
                    let mut stages =
                        page.histograms("flotilla_write_stage_latency_seconds", "stage");
                    let requests = page.histograms("flotilla_request_latency_seconds", "op");
                    let whole = |(op, time)| (format!("{WHOLE}{op}"), time);
                    stages.extend(requests.into_iter().map(whole));
                    stages
                },
            },
            Software::Etcd => Self {
                name,
                process: format!("{} {start}", server.address),
                cpu_seconds: page.sum("process_cpu_seconds_total")?,
                memory_bytes,
                counts: Counts {
                    writes: count("etcd_server_proposals_applied_total"),
                    fsyncs: count("etcd_disk_wal_fsync_duration_seconds_count"),
                    disk_bytes: server.process.and_then(disk_bytes),
                    messages: None,
                    frames: None,
                    sent_bytes: count("etcd_network_peer_sent_bytes_total"),
                },
                stages: [
                    ("WAL fsync", "etcd_disk_wal_fsync_duration_seconds"),
                    (
                        "backend commit",
                        "etcd_disk_backend_commit_duration_seconds",
                    ),
                ]
                .into_iter()
                .filter_map(|(stage, metric)| {
                    let (_, buckets) = page.histograms(metric, "").pop_first()?;
                    Some((stage.to_owned(), buckets))
                })
                .collect(),
            },
        })
    }
}

impl Sample {
    /// What was spent from this sample to a later one.
    pub(crate) fn until(&self, after: &Self) -> Cost {
        let both: Vec<(&Reading, &Reading)> = self
            .nodes
            .iter()
            .zip(&after.nodes)
            .filter_map(|(before, after)| before.as_ref().zip(after.as_ref()))
            // A process that was restarted begins anew at 0.
            .filter(|(before, after)| before.process == after.process)
            .collect();
        let mut cost = Cost {
            seconds: after.at.duration_since(self.at).as_secs_f64(),
            nodes: both.len(),
            silent: self.nodes.len() - both.len(),
            ..Cost::default()
        };
        let minus = |a: f64, b: f64| a - b;
        let plus = |a: f64, b: f64| a + b;
        let mut stages = BTreeMap::<&str, Distribution>::new();
        for (index, (before, after)) in both.iter().enumerate() {
            let twin = |(other, _): &(&Reading, &Reading)| other.process == before.process;
            let again = both.iter().take(index).any(twin);
            let mut counts = after.counts.join(before.counts, minus);
            if again {
                // Of the process, which was counted already.
                counts.disk_bytes = counts.disk_bytes.map(|_| 0.0);
            }
            cost.counts = match index {
                0 => counts,
                _ => cost.counts.join(counts, plus),
            };
            for (stage, upto_now) in &after.stages {
                let before = before.stages.get(stage).cloned().unwrap_or_default();
                let spent = upto_now.since(&before);
                let total = match stages.remove(stage.as_str()) {
                    Some(total) => total.plus(&spent),
                    None => spent,
                };
                stages.insert(stage, total);
            }
            if !again {
                cost.processes.push(Process {
                    name: after.name.clone(),
                    cpu_seconds: after.cpu_seconds - before.cpu_seconds,
                    memory_bytes: after.memory_bytes,
                });
            }
        }
        cost.stages = stages
            .into_iter()
            .filter_map(|(stage, spent)| {
                Some(StageTime {
                    stage: stage.to_owned(),
                    count: spent.count() as f64,
                    mean_us: spent.sum() / spent.count() as f64 * 1e6,
                    p50_us: spent.quantile(0.5)? * 1e6,
                    p99_us: spent.quantile(0.99)? * 1e6,
                })
            })
            .collect();
        let place = |stage: &str| STAGES.iter().position(|known| *known == stage);
        cost.stages
            .sort_by_key(|time| place(&time.stage).unwrap_or(STAGES.len()));
        cost
    }
}

impl Cost {
    /// Of all processes; absent if a node could not be read.
    pub(crate) fn cpu_seconds(&self) -> Option<f64> {
        let all = self.silent == 0 && !self.processes.is_empty();
        all.then(|| {
            self.processes
                .iter()
                .map(|process| process.cpu_seconds)
                .sum()
        })
    }

    /// Absent if there was no fsync.
    pub(crate) fn writes_per_fsync(&self) -> Option<f64> {
        // Whole numbers are counted; a fraction of a sync is none.
        (self.counts.fsyncs >= 1.0).then(|| self.counts.writes / self.counts.fsyncs)
    }
}

/// What a page of any content leads to.
#[cfg(any(test, fuzzing))]
pub(super) mod fuzz {
    use super::*;

    /// All numbers that come of a page, held against a node that has done nothing, and against itself.
    pub(in super::super) fn costs(text: &str) -> Vec<f64> {
        let mut numbers = Vec::new();
        for software in [Software::Flotilla, Software::Etcd] {
            let server = Server::new(String::new(), String::new(), software);
            let sample = |reading: &Option<Reading>| Sample {
                at: Instant::now(),
                nodes: vec![reading.clone(), Some(Reading::default())],
            };
            let read = Reading::parse(&server, text);
            let idle = read.as_ref().map(|read| Reading {
                process: read.process.clone(),
                ..Reading::default()
            });
            let (none, some) = (sample(&idle), sample(&read));
            for cost in [none.until(&some), some.until(&none), some.until(&some)] {
                let Counts {
                    writes,
                    fsyncs,
                    disk_bytes,
                    messages,
                    frames,
                    sent_bytes,
                } = cost.counts;
                numbers.extend([writes, fsyncs, sent_bytes]);
                let rest = [
                    disk_bytes,
                    messages,
                    frames,
                    cost.cpu_seconds(),
                    cost.writes_per_fsync(),
                ];
                numbers.extend(rest.into_iter().flatten());
                numbers.extend(cost.processes.iter().map(|process| process.memory_bytes));
                let times = cost.stages.iter();
                numbers.extend(
                    times.flat_map(|time| [time.count, time.mean_us, time.p50_us, time.p99_us]),
                );
            }
        }
        numbers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(process: &str, cpu: f64, writes: f64, fsyncs: f64) -> Option<Reading> {
        Some(Reading {
            name: "n".to_owned(),
            process: process.to_owned(),
            cpu_seconds: cpu,
            memory_bytes: 1e8 + cpu * 1e7,
            counts: Counts {
                writes,
                fsyncs,
                disk_bytes: Some(writes * 100.0),
                ..Counts::default()
            },
            stages: BTreeMap::new(),
        })
    }

    fn sample(nodes: Vec<Option<Reading>>) -> Sample {
        Sample {
            at: Instant::now(),
            nodes,
        }
    }

    #[test]
    fn a_reading_takes_what_it_needs() {
        let text = "# HELP flotilla_node_cpu_seconds x\n\
            flotilla_node_cpu_seconds 1.25\n\
            flotilla_node_process_id 42\n\
            process_start_time_seconds 1700000000\n\
            process_resident_memory_bytes 1000\n\
            flotilla_requests_total{op=\"put\",result=\"ok\"} 7\n\
            flotilla_transport_sent_messages_total{lane=\"urgent\",peer=\"2\"} 7\n\
            flotilla_transport_sent_messages_total{lane=\"bulk\",peer=\"3\"} 8\n\
            flotilla_log_synced_writes_total 60\n\
            flotilla_log_fsyncs_total 2\n";
        let server = Server::new("n".to_owned(), String::new(), Software::Flotilla);
        let reading = Reading::parse(&server, text).expect("complete");
        assert_eq!(reading.cpu_seconds, 1.25);
        let counts = reading.counts;
        assert_eq!((counts.writes, counts.fsyncs), (60.0, 2.0));
        assert_eq!((counts.messages, counts.disk_bytes), (Some(15.0), None));
        assert_eq!(Reading::parse(&server, "nothing 1\n"), None);
    }

    #[test]
    fn etcd_is_read_by_its_own_names() {
        let text = "process_cpu_seconds_total 3.5\n\
            process_start_time_seconds 1.7e+09\n\
            process_resident_memory_bytes 2.5e+07\n\
            etcd_server_proposals_applied_total 12\n\
            etcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.001\"} 3\n\
            etcd_disk_wal_fsync_duration_seconds_bucket{le=\"+Inf\"} 4\n\
            etcd_disk_wal_fsync_duration_seconds_sum 0.25\n\
            etcd_disk_wal_fsync_duration_seconds_count 4\n\
            etcd_network_peer_sent_bytes_total{To=\"a\"} 100\n\
            etcd_network_peer_sent_bytes_total{To=\"b\"} 50\n";
        let server = Server::new("e".to_owned(), String::new(), Software::Etcd);
        let reading = Reading::parse(&server, text).expect("complete");
        assert_eq!(reading.cpu_seconds, 3.5);
        assert_eq!(
            (reading.counts.fsyncs, reading.counts.sent_bytes),
            (4.0, 150.0)
        );
        let syncs = &reading.stages["WAL fsync"];
        assert_eq!((syncs.count(), syncs.sum()), (4, 0.25));
    }

    #[test]
    fn stages_are_told_apart_and_their_quantiles_lie_within_their_buckets() {
        let page = |a: u32, b: u32| {
            format!(
                "h_bucket{{stage=\"sync\",le=\"0.001\"}} {a}\n\
                 h_bucket{{stage=\"sync\",le=\"0.002\"}} {b}\n\
                 h_bucket{{stage=\"sync\",le=\"+Inf\"}} {b}\n\
                 h_sum{{stage=\"sync\"}} {b}\n\
                 h_bucket{{stage=\"queue\",le=\"0.001\"}} 1\n"
            )
        };
        let read = |text: &str| Page::new(text).histograms("h", "stage");
        let before = read(&page(10, 20));
        let after = read(&page(60, 120));
        assert_eq!(after.len(), 2);
        let spent = after["sync"].since(&before["sync"]);
        assert_eq!((spent.count(), spent.sum()), (100, 100.0));
        let quantile = |part| spent.quantile(part).expect("something was counted");
        assert!((quantile(0.25) - 0.0005).abs() < 1e-9);
        assert!((quantile(0.75) - 0.0015).abs() < 1e-9);
    }

    #[test]
    fn three_processes_add_up() {
        let before = sample(vec![
            reading("1", 5.0, 0.0, 0.0),
            reading("2", 3.0, 0.0, 0.0),
            reading("3", 3.0, 0.0, 0.0),
        ]);
        let after = sample(vec![
            reading("1", 7.0, 60.0, 2.0),
            reading("2", 4.0, 30.0, 1.0),
            reading("3", 4.0, 30.0, 1.0),
        ]);
        let cost = before.until(&after);
        assert_eq!(cost.cpu_seconds(), Some(4.0));
        assert_eq!(cost.writes_per_fsync(), Some(30.0));
        assert_eq!(cost.processes.len(), 3);
    }

    #[test]
    fn nodes_of_one_process_count_once() {
        let twice = |cpu| {
            sample(vec![
                reading("1", cpu, cpu, cpu),
                reading("1", cpu + 0.01, cpu, cpu),
            ])
        };
        let cost = twice(1.0).until(&twice(3.0));
        assert_eq!(cost.cpu_seconds(), Some(2.0));
        assert_eq!(cost.counts.disk_bytes, Some(200.0));
        assert_eq!(cost.processes.len(), 1);
    }

    #[test]
    fn a_node_that_cannot_be_read_or_was_restarted_is_not_guessed() {
        let before = sample(vec![
            reading("1", 1.0, 0.0, 0.0),
            None,
            reading("3", 9.0, 9.0, 9.0),
        ]);
        let after = sample(vec![
            reading("1", 1.0, 0.0, 0.0),
            reading("2", 1.0, 0.0, 0.0),
            reading("4", 1.0, 0.0, 0.0),
        ]);
        let cost = before.until(&after);
        assert_eq!((cost.cpu_seconds(), cost.silent), (None, 2));
    }
}
