//! What a benchmark costs the servers, from the metrics that they export.

use std::{collections::BTreeMap, time::Duration};

use flotilla_proto::v1;
use futures_util::future::join_all;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

const TIMEOUT: Duration = Duration::from_secs(3);
const ANSWER_BYTES_MAX: u64 = 16 << 20;
/// Far above any number of seconds, bytes or writes.
const VALUE_MAX: f64 = 1e18;

/// The status ports of the nodes.
pub(super) struct Servers {
    addresses: Vec<String>,
}

/// Readings of all nodes at one moment; `None` for a node that could not be read.
pub(super) struct Sample {
    nodes: Vec<Option<Reading>>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Reading {
    cpu_seconds: f64,
    /// Number and start of the process: a demo has all nodes in one.
    process: (f64, f64),
    memory_bytes: f64,
    writes: f64,
    fsyncs: f64,
}

/// What lies between two samples.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Cost {
    /// Processor time of all server processes, in seconds; absent if a node could not be read.
    pub(super) cpu_seconds: Option<f64>,
    /// Writes that were made durable per fsync, on all nodes; absent if there was no fsync.
    pub(super) writes_per_fsync: Option<f64>,
    /// Resident memory of each server process, at the end.
    pub(super) memory_bytes: Vec<f64>,
    /// Nodes that could not be read.
    pub(super) silent: usize,
}

impl Servers {
    pub(super) fn new(nodes: &[v1::Node]) -> Self {
        let addresses = nodes.iter().map(|node| node.status_address.clone());
        Self {
            addresses: addresses.collect(),
        }
    }

    pub(super) async fn sample(&self) -> Sample {
        let readings = self.addresses.iter().map(async |address| {
            let text = tokio::time::timeout(TIMEOUT, fetch(address)).await;
            Reading::parse(&text.ok()?.ok()?)
        });
        Sample {
            nodes: join_all(readings).await,
        }
    }
}

/// The body of /metrics.
async fn fetch(address: &str) -> std::io::Result<String> {
    let mut connection = TcpStream::connect(address).await?;
    let request = format!("GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n");
    connection.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    connection
        .take(ANSWER_BYTES_MAX)
        .read_to_string(&mut answer)
        .await?;
    let body = body_of(&answer).map(str::to_owned);
    body.ok_or_else(|| std::io::ErrorKind::InvalidData.into())
}

/// The body of an answer, if it is the page that was asked for.
fn body_of(answer: &str) -> Option<&str> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.lines().next()?;
    status.contains(" 200").then_some(body)
}

impl Reading {
    fn parse(text: &str) -> Option<Self> {
        let values: BTreeMap<&str, f64> = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| {
                let (name, value) = line.split_once(' ')?;
                Some((name, value.trim().parse().ok()?))
            })
            .collect();
        // Sums and differences of what is counted stay finite, too.
        let sane = |value: &f64| (0.0..=VALUE_MAX).contains(value);
        let get = |name: &str| values.get(name).copied().filter(sane);
        Some(Self {
            cpu_seconds: get("flotilla_node_cpu_seconds")?,
            process: (
                get("flotilla_node_process_id")?,
                get("process_start_time_seconds")?,
            ),
            memory_bytes: get("process_resident_memory_bytes")?,
            writes: get("flotilla_log_synced_writes_total").unwrap_or(0.0),
            fsyncs: get("flotilla_log_fsyncs_total").unwrap_or(0.0),
        })
    }
}

impl Sample {
    /// What was spent from this sample to a later one.
    pub(super) fn until(&self, after: &Self) -> Cost {
        let both: Vec<(Reading, Reading)> = self
            .nodes
            .iter()
            .zip(&after.nodes)
            .filter_map(|(before, after)| before.zip(*after))
            .collect();
        let silent = self.nodes.len() - both.len();
        let mut cpu = 0.0;
        let mut memory_bytes = Vec::new();
        for (index, (before, after)) in both.iter().enumerate() {
            let twin = |(other, _): &(Reading, Reading)| other.process == before.process;
            if !both.iter().take(index).any(twin) {
                cpu += after.cpu_seconds - before.cpu_seconds;
                memory_bytes.push(after.memory_bytes);
            }
        }
        let writes: f64 = both.iter().map(|(a, b)| b.writes - a.writes).sum();
        let fsyncs: f64 = both.iter().map(|(a, b)| b.fsyncs - a.fsyncs).sum();
        Cost {
            cpu_seconds: (silent == 0 && !both.is_empty()).then_some(cpu),
            // Whole numbers are counted; a fraction of a sync is none.
            writes_per_fsync: (fsyncs >= 1.0).then(|| writes / fsyncs),
            memory_bytes,
            silent,
        }
    }
}

/// What a page of any content leads to.
#[cfg(any(test, fuzzing))]
pub(super) mod fuzz {
    use super::*;

    pub(in super::super) fn body_of(answer: &str) -> Option<&str> {
        super::body_of(answer)
    }

    /// All numbers that come of a page, held against a node that has done nothing, and against itself.
    pub(in super::super) fn costs(text: &str) -> Vec<f64> {
        let sample = |reading| Sample {
            nodes: vec![reading, Some(Reading::default())],
        };
        let (none, some) = (
            sample(Some(Reading::default())),
            sample(Reading::parse(text)),
        );
        let costs = [none.until(&some), some.until(&none), some.until(&some)];
        let numbers = costs.into_iter().flat_map(|cost| {
            let rest = [cost.cpu_seconds, cost.writes_per_fsync];
            cost.memory_bytes
                .into_iter()
                .chain(rest.into_iter().flatten())
        });
        numbers.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(process: f64, cpu: f64, writes: f64, fsyncs: f64) -> Option<Reading> {
        Some(Reading {
            cpu_seconds: cpu,
            process: (process, 7.0),
            memory_bytes: 1e8 + cpu * 1e7,
            writes,
            fsyncs,
        })
    }

    #[test]
    fn a_reading_takes_what_it_needs() {
        let text = "# HELP flotilla_node_cpu_seconds x\n\
            flotilla_node_cpu_seconds 1.25\n\
            flotilla_node_process_id 42\n\
            process_start_time_seconds 1700000000\n\
            process_resident_memory_bytes 1000\n\
            flotilla_requests_total{op=\"put\",result=\"ok\"} 7\n\
            flotilla_log_synced_writes_total 60\n\
            flotilla_log_fsyncs_total 2\n";
        let reading = Reading::parse(text).expect("complete");
        assert_eq!(
            (reading.cpu_seconds, reading.writes, reading.fsyncs),
            (1.25, 60.0, 2.0)
        );
        assert_eq!(Reading::parse("nothing 1\n"), None);
    }

    #[test]
    fn three_processes_add_up() {
        let before = Sample {
            nodes: vec![
                reading(1.0, 5.0, 0.0, 0.0),
                reading(2.0, 3.0, 0.0, 0.0),
                reading(3.0, 3.0, 0.0, 0.0),
            ],
        };
        let after = Sample {
            nodes: vec![
                reading(1.0, 7.0, 60.0, 2.0),
                reading(2.0, 4.0, 30.0, 1.0),
                reading(3.0, 4.0, 30.0, 1.0),
            ],
        };
        let cost = before.until(&after);
        assert_eq!(cost.cpu_seconds, Some(4.0));
        assert_eq!(cost.writes_per_fsync, Some(30.0));
        assert_eq!(cost.memory_bytes.len(), 3);
    }

    #[test]
    fn nodes_of_one_process_count_once() {
        let sample = |cpu| Sample {
            nodes: vec![
                reading(1.0, cpu, cpu, cpu),
                reading(1.0, cpu + 0.01, cpu, cpu),
            ],
        };
        let cost = sample(1.0).until(&sample(3.0));
        assert_eq!(cost.cpu_seconds, Some(2.0));
        assert_eq!(cost.memory_bytes.len(), 1);
    }

    #[test]
    fn a_node_that_cannot_be_read_is_not_guessed() {
        let sample = Sample {
            nodes: vec![reading(1.0, 1.0, 0.0, 0.0), None],
        };
        let cost = sample.until(&sample);
        assert_eq!((cost.cpu_seconds, cost.silent), (None, 1));
    }
}
