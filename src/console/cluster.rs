//! All nodes' parts, put together by the one that is asked.
//!
//! Each node is asked once, at the same time as all others, and waited for a second at most; nodes that this one does not
//! hear from are not asked. So a page of the console takes as long as its slowest node, and never longer than that.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use flotilla_shards::{
    descriptor::Descriptor,
    ids::{NodeId, ShardId},
};
use futures_util::future::join_all;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::{sync::Mutex, time::timeout};

use super::{
    ConsoleSource, HeatPartQuery, KnownNode,
    heat::{Metric, PICTURE_ROWS, Window},
    shards::{
        ListQuery, Load, Ranked, Ranking, ReplicaRow, ShardList, ShardRow, ids, joined_ids, listed,
    },
};
use crate::{clock::wall_ms, escape::escape};

/// How long a node may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// Whoever asks how the cluster is within this time is told the same: many pages cost no more than one.
const FRESH: Duration = Duration::from_millis(900);
/// Events, and slow requests, that are told.
const NEWEST: usize = 200;
/// Hot shards that are told.
const HOTTEST: usize = 10;

/// How a node is, in its own words.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeReport {
    /// Release.
    pub version: String,
    /// Why it should get no requests, if so.
    pub not_ready: Option<String>,
    /// Since its start.
    pub uptime_seconds: u64,
    /// Replicas that it has.
    pub replicas: u64,
    /// Those that lead.
    pub leaders: u64,
    /// Those that rest.
    pub resting: u64,
    /// Shards that it leads and that lack a replica.
    pub under_replicated: u64,
    /// Those that lack so many that nothing can be written.
    pub without_quorum: u64,
    /// What it does.
    pub vitals: Vitals,
    /// The shards that were asked most of it lately.
    pub hottest: Vec<HotShard>,
}

/// What a node did between the last two looks, and has now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Vitals {
    /// What was asked of its replicas, per second.
    pub load: Load,
    /// Requests per second that it answered with an error, and that it refused as busy.
    pub errors: f64,
    /// See `errors`.
    pub busy: f64,
    /// Seconds within which half of the reads of one key, and 99 % of them, were answered; nothing where there were none.
    pub read_p50: Option<f64>,
    /// See `read_p50`.
    pub read_p99: Option<f64>,
    /// The same of writes.
    pub write_p50: Option<f64>,
    /// See `write_p50`.
    pub write_p99: Option<f64>,
    /// Processors that the process kept busy.
    pub cpu: f64,
    /// Bytes of memory that the process has, and may have.
    pub memory: u64,
    /// See `memory`.
    pub memory_limit: Option<u64>,
    /// Bytes that are free on the disk of its data, and that there are.
    pub disk_free: u64,
    /// See `disk_free`.
    pub disk_size: u64,
    /// Bytes per second that it wrote to disks.
    pub disk_written: f64,
    /// Which part of the time its threads worked, from 0 to 1.
    pub work: Work,
    /// Requests taken in and not yet answered.
    pub in_flight: u64,
    /// Commands that wait in the leaders.
    pub pending: u64,
    /// Entries that are committed and not yet applied.
    pub apply_lag: u64,
    /// Snapshots that are on their way, in both directions.
    pub snapshots: u64,
    /// Changes of leaders per second.
    pub leader_changes: f64,
}

/// What a node was busy with: parts of the time, from 0 to 1.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Work {
    /// The workers that own the shards.
    pub shards: f64,
    /// The storage writer, which writes and syncs the log.
    pub log: f64,
    /// The applier.
    pub apply: f64,
    /// Flushes of the state database.
    pub flush: f64,
}

/// A shard that is asked much, and how much.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HotShard {
    /// Which.
    pub shard: u64,
    /// First key, escaped.
    pub start: String,
    /// First key behind it, escaped; nothing is the end of the keyspace.
    pub end: String,
    /// The node that leads it, as far as known.
    pub leader: Option<u64>,
    /// Per second.
    #[serde(flatten)]
    pub load: Load,
}

/// A node, or a cluster, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Moment {
    /// When it ended, in milliseconds since 1970.
    pub at_ms: u64,
    /// What was asked, per second.
    #[serde(flatten)]
    pub load: Load,
    /// Errors per second.
    pub errors: f64,
    /// See [`Vitals`]; of a cluster, that of its slowest node.
    pub read_p99: Option<f64>,
    /// See `read_p99`.
    pub write_p99: Option<f64>,
}

/// Whether a node answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// It should get requests.
    Ready,
    /// It lives, and should get none for now.
    NotReady,
    /// It is heard from, but did not answer.
    Silent,
    /// It is not heard from.
    Down,
}

/// A node as the asked one sees it, and as it sees itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeOverview {
    /// Its id.
    pub node: u64,
    /// Where clients and nodes reach it.
    pub address: String,
    /// Where its status, and so its console, is served.
    pub status_address: String,
    /// Whether it answers.
    pub state: NodeState,
    /// What is wrong.
    pub reason: Option<String>,
    /// Its own words.
    pub report: Option<NodeReport>,
}

/// How many shards are how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardCounts {
    /// All of them.
    pub known: u64,
    /// Those of which the asked node knows no leader that lives.
    pub without_leader: u64,
    /// Sums of the nodes' words, see [`NodeReport`].
    pub under_replicated: u64,
    /// See `under_replicated`.
    pub without_quorum: u64,
}

/// The cluster at a glance.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Overview {
    /// In hex.
    pub cluster_id: String,
    /// The node that was asked.
    pub asked: u64,
    /// When, in milliseconds since 1970.
    pub now_ms: u64,
    /// All nodes, by id.
    pub nodes: Vec<NodeOverview>,
    /// Shards by state.
    pub shards: ShardCounts,
    /// What was asked of all nodes, per second.
    pub load: Load,
    /// The most asked shards, the most asked first.
    pub hottest: Vec<HotShard>,
}

/// A part of the heat map, ready to be drawn.
#[derive(Debug, Serialize)]
pub struct Picture {
    #[serde(flatten)]
    window: WindowShape,
    metric: Metric,
    /// From the lowest keys upwards.
    rows: Vec<Row>,
    /// The first key behind the last row, escaped; nothing is the end of the keyspace.
    end: String,
    /// Shards of the whole keyspace.
    shards: usize,
    /// Per column: rows and what was asked of them per second. Other rows were not asked.
    columns: Vec<Vec<(u32, f64)>>,
    /// Nodes whose part is missing.
    missing: Vec<u64>,
}

#[derive(Debug, Serialize)]
struct WindowShape {
    from_ms: u64,
    width_ms: u64,
    now_ms: u64,
}

/// Some neighbouring shards.
#[derive(Debug, Serialize)]
struct Row {
    /// The one with the lowest keys, and the one with the highest.
    first: u64,
    last: u64,
    /// How many.
    shards: usize,
    /// First key, escaped.
    start: String,
}

/// A shard on all nodes.
#[derive(Debug, Serialize)]
pub struct ShardPage {
    shard: ShardRow,
    replicas: Vec<ReplicaOn>,
}

#[derive(Debug, Serialize)]
struct ReplicaOn {
    node: u64,
    /// Why there is nothing to tell.
    problem: Option<String>,
    replica: Option<ReplicaRow>,
}

/// See the module.
pub struct Cluster {
    source: Arc<dyn ConsoleSource>,
    overview: Mutex<Option<(Instant, Arc<Overview>)>>,
}

impl Cluster {
    /// Of the nodes that the source knows.
    pub fn new(source: Arc<dyn ConsoleSource>) -> Self {
        Self {
            source,
            overview: Mutex::new(None),
        }
    }

    /// Has each of some nodes answer, in their order.
    async fn ask<T: DeserializeOwned>(
        &self,
        nodes: impl IntoIterator<Item = KnownNode>,
        path: impl Fn(NodeId) -> String,
    ) -> Vec<(KnownNode, Result<T, String>)> {
        let asked = nodes.into_iter().map(async |known| {
            if !known.reachable {
                return (known, Err("it is not heard from".to_owned()));
            }
            let answer = timeout(PATIENCE, self.source.ask(known.node, path(known.node))).await;
            let answer = match answer {
                Ok(Ok(json)) => serde_json::from_slice(&json).map_err(|error| {
                    format!("it speaks otherwise; is it of another release? {error}")
                }),
                Ok(Err(error)) => Err(error),
                Err(_) => Err(format!("it did not answer within {PATIENCE:?}")),
            };
            (known, answer)
        });
        join_all(asked).await
    }

    async fn ask_all<T: DeserializeOwned>(
        &self,
        path: &str,
    ) -> Vec<(KnownNode, Result<T, String>)> {
        self.ask(self.source.nodes(), |_| path.to_owned()).await
    }

    /// The cluster at a glance.
    pub async fn overview(&self) -> Arc<Overview> {
        // Who comes meanwhile waits for the same answer.
        let mut last = self.overview.lock().await;
        if let Some((when, overview)) = &*last
            && when.elapsed() < FRESH
        {
            return Arc::clone(overview);
        }
        let overview = Arc::new(self.look().await);
        *last = Some((Instant::now(), Arc::clone(&overview)));
        overview
    }

    async fn look(&self) -> Overview {
        let (asked, cluster_id) = self.source.local().unwrap_or_default();
        let answers = self.ask_all::<NodeReport>("/console/node/report").await;
        let map = self.source.map();
        let down = |node| {
            let mut nodes = answers.iter().map(|(known, _)| known);
            nodes.any(|known| known.node == node && !known.reachable)
        };
        let leader = |shard| self.source.leader(shard).filter(|leader| !down(*leader));
        let all = || map.ids_after(ShardId(0));
        let leaderless = all().filter(|shard| leader(shard.shard).is_none());
        let mut shards = ShardCounts {
            known: all().count() as u64,
            without_leader: leaderless.count() as u64,
            ..ShardCounts::default()
        };
        let mut load = Load::default();
        let mut hot = BTreeMap::<u64, HotShard>::new();
        for report in answers
            .iter()
            .filter_map(|(_, answer)| answer.as_ref().ok())
        {
            shards.under_replicated += report.under_replicated;
            shards.without_quorum += report.without_quorum;
            load.add(report.vitals.load);
            for shard in &report.hottest {
                // What followers were asked for counts as well.
                let known = hot.entry(shard.shard).or_insert_with(|| HotShard {
                    leader: leader(ShardId(shard.shard)).map(|node| node.0),
                    load: Load::default(),
                    ..shard.clone()
                });
                known.load.add(shard.load);
            }
        }
        let mut hottest: Vec<HotShard> = hot.into_values().collect();
        hottest.sort_by(|one, other| other.load.requests().total_cmp(&one.load.requests()));
        hottest.truncate(HOTTEST);
        Overview {
            cluster_id,
            asked: asked.0,
            now_ms: wall_ms(),
            hottest,
            nodes: answers.into_iter().map(node_overview).collect(),
            shards,
            load,
        }
    }

    /// How the cluster was in the last minutes.
    pub async fn history(&self) -> Vec<Moment> {
        let answers = self.ask_all::<Vec<Moment>>("/console/node/history").await;
        let mut moments = BTreeMap::<u64, Moment>::new();
        for moment in answers
            .into_iter()
            .filter_map(|(_, answer)| answer.ok())
            .flatten()
        {
            let all = moments.entry(moment.at_ms).or_default();
            all.at_ms = moment.at_ms;
            all.load.add(moment.load);
            all.errors += moment.errors;
            // Latencies are no sums: the slowest node's is what clients complain about.
            all.read_p99 = slower(all.read_p99, moment.read_p99);
            all.write_p99 = slower(all.write_p99, moment.write_p99);
        }
        moments.into_values().collect()
    }

    /// What has happened lately on all nodes, the newest first.
    pub async fn events(&self) -> Vec<Value> {
        self.newest("/events", "events").await
    }

    /// Requests that took long lately on all nodes, the newest first.
    pub async fn slow(&self) -> Vec<Value> {
        self.newest("/slow", "requests").await
    }

    /// The newest entries of a list that each node has, with the node that has each as `on`.
    async fn newest(&self, page: &str, list: &str) -> Vec<Value> {
        let path = format!("{page}?limit={NEWEST}");
        let mut newest = Vec::new();
        for (known, answer) in self.ask_all::<Value>(&path).await {
            let Ok(mut answer) = answer else {
                continue;
            };
            let entries = answer.get_mut(list).map(Value::take);
            let Some(Value::Array(entries)) = entries else {
                continue;
            };
            for mut entry in entries.into_iter().take(NEWEST) {
                if let Some(fields) = entry.as_object_mut() {
                    fields.insert("on".to_owned(), known.node.0.into());
                    newest.push(entry);
                }
            }
        }
        // RFC 3339 with the same number of digits sorts as text does.
        newest.sort_by(|one, other| other["time"].as_str().cmp(&one["time"].as_str()));
        newest.truncate(NEWEST);
        newest
    }

    /// A part of the heat map: all shards, or those from one to another.
    ///
    /// # Errors
    /// One of the two is not known.
    pub async fn heat(
        &self,
        window: Window,
        metric: Metric,
        between: Option<(ShardId, ShardId)>,
    ) -> Result<Picture, String> {
        let map = self.source.map();
        let shards = map.shards();
        let place = |shard: ShardId| {
            let found = map.by_id(shard).filter(|_| !shard.is_meta());
            let found = found.ok_or_else(|| format!("shard {shard} is not known"))?;
            Ok::<_, String>(place_of(shards, found))
        };
        let (from, to) = match between {
            Some((first, last)) => (place(first)?, place(last)? + 1),
            None => (0, shards.len()),
        };
        let all = &shards[from..to.max(from)];
        let count = all.len().min(PICTURE_ROWS);
        let cut = |row: usize| row * all.len() / count.max(1);
        let rows: Vec<&[Arc<Descriptor>]> =
            (0..count).map(|row| &all[cut(row)..cut(row + 1)]).collect();
        let rows: Vec<Row> = rows.into_iter().filter_map(Row::of).collect();
        let query = HeatPartQuery {
            from_ms: window.from_ms,
            width_ms: window.width_ms,
            columns: window.columns,
            metric,
            rows: joined_ids(rows.iter().map(|row| row.first)),
            end: shards.get(to).map_or(0, |shard| shard.shard.0),
        };
        let mut sums = vec![0.0; window.columns * count];
        let mut missing = Vec::new();
        for (known, part) in self.ask_all::<Vec<Vec<(u32, f64)>>>(&query.path()).await {
            match part {
                Ok(columns) => {
                    for (column, cells) in columns.into_iter().enumerate().take(window.columns) {
                        for (row, asked) in cells {
                            let row = usize::try_from(row).unwrap_or(usize::MAX);
                            if row < count {
                                sums[column * count + row] += asked;
                            }
                        }
                    }
                }
                Err(_) => missing.push(known.node.0),
            }
        }
        let columns = (0..window.columns).map(|column| {
            let sums = (0_u32..).zip(&sums[column * count..(column + 1) * count]);
            let per_second = |sum: f64| (sum / window.seconds(column) * 100.0).round() / 100.0;
            let asked = sums.filter(|(_, sum)| **sum > 0.0);
            asked.map(|(row, sum)| (row, per_second(*sum))).collect()
        });
        Ok(Picture {
            columns: columns.collect(),
            window: WindowShape {
                from_ms: window.from_ms,
                width_ms: window.width_ms,
                now_ms: window.known_ms,
            },
            metric,
            end: all
                .last()
                .map(|shard| escape(shard.range.end()))
                .unwrap_or_default(),
            shards: shards.len(),
            rows,
            missing,
        })
    }

    /// A page of the shards.
    ///
    /// # Errors
    /// What is looked for can't be meant.
    pub async fn list(&self, query: &ListQuery) -> Result<ShardList, String> {
        let map = self.source.map();
        let limit = query.limit();
        let (total, page) = match query.order()? {
            Some(by) => {
                let ranking = Ranking {
                    by,
                    count: query.offset.saturating_add(limit),
                    lacking: query.lacking,
                    node: query.node,
                };
                let path = ranking.path();
                let ranked = self.ask_all::<Ranked>(&path).await;
                let answers = ranked.into_iter().filter_map(|(_, answer)| answer.ok());
                let (total, mut all) = answers.fold((0, Vec::new()), |(total, mut all), part| {
                    all.extend(part.shards);
                    (total + part.total, all)
                });
                all.sort_by(|one, other| other.1.total_cmp(&one.1).then(one.0.cmp(&other.0)));
                let ids = all.into_iter().map(|(shard, _)| ShardId(shard));
                let shards = ids.filter_map(|shard| map.by_id(shard).cloned());
                (total, shards.skip(query.offset).take(limit).collect())
            }
            None => listed(&map, query, |shard| self.source.leader(shard))?,
        };
        Ok(ShardList {
            total,
            offset: query.offset,
            shards: self.rows(&page).await,
        })
    }

    /// The rows of some shards, each as its leader sees it; where that does not answer, as this node does.
    async fn rows(&self, page: &[Arc<Descriptor>]) -> Vec<ShardRow> {
        let nodes = self.source.nodes();
        let (local, _) = self.source.local().unwrap_or_default();
        let teller = |shard: &Descriptor| match self.source.leader(shard.shard) {
            Some(leader)
                if nodes
                    .iter()
                    .any(|node| node.node == leader && node.reachable) =>
            {
                leader
            }
            _ => local,
        };
        let mut by_node = BTreeMap::<NodeId, Vec<u64>>::new();
        for shard in page {
            by_node
                .entry(teller(shard))
                .or_default()
                .push(shard.shard.0);
        }
        let tellers = nodes.iter().filter(|node| by_node.contains_key(&node.node));
        let path = |node| shard_path(by_node.get(&node).into_iter().flatten().copied());
        let answers = self.ask::<Vec<ShardRow>>(tellers.cloned(), path).await;
        let rows = answers.into_iter().filter_map(|(_, answer)| answer.ok());
        let told: BTreeMap<u64, ShardRow> = rows.flatten().map(|row| (row.shard, row)).collect();
        let row = |shard: &Arc<Descriptor>| {
            let told = told.get(&shard.shard.0).cloned();
            let row = told.unwrap_or_else(|| ShardRow::untold(shard));
            ShardRow {
                leader: self.source.leader(shard.shard).map(|node| node.0),
                ..row
            }
        };
        page.iter().map(row).collect()
    }

    /// One shard, and its replicas as each node sees its own.
    pub async fn shard(&self, id: ShardId) -> Option<ShardPage> {
        let shard = self.source.map().by_id(id).cloned()?;
        let holds = |node: &KnownNode| shard.replica_on(node.node).is_some();
        let nodes = self.source.nodes().into_iter().filter(holds);
        let answers = self
            .ask::<Vec<ShardRow>>(nodes, |_| shard_path([id.0]))
            .await;
        let replicas = answers.into_iter().map(|(known, answer)| {
            let (replica, problem) = match answer {
                Ok(mut rows) => (rows.pop().and_then(|row| row.replica), None),
                Err(problem) => (None, Some(problem)),
            };
            ReplicaOn {
                node: known.node.0,
                problem,
                replica,
            }
        });
        let replicas: Vec<ReplicaOn> = replicas.collect();
        let mut rows = self.rows(&[shard]).await;
        Some(ShardPage {
            shard: rows.pop()?,
            replicas,
        })
    }
}

impl Row {
    fn of(shards: &[Arc<Descriptor>]) -> Option<Self> {
        let (first, last) = (shards.first()?, shards.last()?);
        Some(Self {
            first: first.shard.0,
            last: last.shard.0,
            shards: shards.len(),
            start: escape(first.range.start()),
        })
    }
}

fn shard_path(shards: impl IntoIterator<Item = u64>) -> String {
    format!("/console/node/shards?ids={}", joined_ids(shards))
}

fn place_of(shards: &[Arc<Descriptor>], shard: &Descriptor) -> usize {
    shards.partition_point(|other| other.range.start() < shard.range.start())
}

fn slower(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    one.into_iter().chain(other).reduce(f64::max)
}

fn node_overview((known, answer): (KnownNode, Result<NodeReport, String>)) -> NodeOverview {
    let (state, reason, report) = match answer {
        Ok(report) => match report.not_ready.clone() {
            None => (NodeState::Ready, None, Some(report)),
            reason => (NodeState::NotReady, reason, Some(report)),
        },
        Err(reason) if known.reachable => (NodeState::Silent, Some(reason), None),
        Err(reason) => (NodeState::Down, Some(reason), None),
    };
    NodeOverview {
        node: known.node.0,
        address: known.address,
        status_address: known.status_address,
        state,
        reason,
        report,
    }
}

/// This node's part of a picture.
///
/// # Errors
/// The rows are not of shards that this node knows, or too many.
pub(super) fn heat_part(
    source: &dyn ConsoleSource,
    query: &HeatPartQuery,
) -> Result<Vec<Vec<(u32, f32)>>, String> {
    let map = source.map();
    let shards = map.shards();
    let window = Window {
        from_ms: query.from_ms,
        width_ms: query.width_ms,
        columns: query.columns.min(Window::COLUMNS_MAX),
        known_ms: u64::MAX,
    };
    let mut rows = Vec::new();
    for id in ids(&query.rows, PICTURE_ROWS)? {
        let shard = map.by_id(id).filter(|_| !id.is_meta());
        let shard = shard.ok_or_else(|| format!("shard {id} is not known here"))?;
        rows.push(place_of(shards, shard));
    }
    let end = map.by_id(ShardId(query.end));
    rows.push(end.map_or(shards.len(), |end| place_of(shards, end)));
    if !rows.is_sorted() {
        return Err("the rows do not ascend by their keys".to_owned());
    }
    Ok(source.heat().picture(&window, query.metric, shards, &rows))
}
