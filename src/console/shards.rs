//! Lists of shards: searched, sorted and cut into pages before anybody gets them.
//!
//! By id and by key they come from the directory, which every node has whole. By what is asked of them, or their size, each
//! node ranks the shards that it leads, and the asked node merges the heads of those lists.

use std::sync::Arc;

use flotilla_shards::{
    descriptor::Descriptor,
    ids::{NodeId, ShardId},
    range_map::RangeMap,
};
use serde::{Deserialize, Serialize};

use crate::escape::{escape, unescape};

/// Rows of one page, and how many there are without a wish.
pub(super) const PAGE_MAX: usize = 200;
const PAGE: usize = 50;
/// How far ranked lists go: who looks for more sorts by key.
pub(super) const RANKED_MAX: usize = 10_000;

/// What is asked per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// Linearizable reads.
    pub reads: f64,
    /// Writes.
    pub writes: f64,
    /// Bytes of written commands.
    pub bytes: f64,
}

impl Load {
    /// Reads and writes.
    pub fn requests(&self) -> f64 {
        self.reads + self.writes
    }

    pub(super) fn add(&mut self, other: Self) {
        self.reads += other.reads;
        self.writes += other.writes;
        self.bytes += other.bytes;
    }
}

/// One shard as one node sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ShardRow {
    /// Its id.
    pub shard: u64,
    /// First key, escaped.
    pub start: String,
    /// First key behind it, escaped; nothing is the end of the keyspace.
    pub end: String,
    /// Changes of its replicas, and of its range.
    pub epoch: (u64, u64),
    /// Nodes with a replica.
    pub nodes: Vec<u64>,
    /// The node that leads it, as far as known.
    pub leader: Option<u64>,
    /// What the node's own replica tells; nothing if it has none, or does not answer.
    pub replica: Option<ReplicaRow>,
}

/// Where a replica stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReplicaRow {
    /// Leader, follower …
    pub role: String,
    /// Its term.
    pub term: u64,
    /// Committed index.
    pub commit: u64,
    /// Applied index.
    pub applied: u64,
    /// End of the log.
    pub last: u64,
    /// Last index that was cut from the log.
    pub compacted: u64,
    /// Bytes of the log.
    pub log_bytes: u64,
    /// Bytes of keys and values in files, roughly: compressed, and without what is not flushed yet.
    pub data_bytes: u64,
    /// Whether it rests.
    pub resting: bool,
    /// Writes that wait in it.
    pub pending: u64,
    /// As leader: replicas that lag or are gone.
    pub missing: u64,
    /// What was asked of it lately.
    pub load: Load,
}

impl ShardRow {
    /// A shard as the directory has it.
    pub fn untold(shard: &Descriptor) -> Self {
        Self {
            shard: shard.shard.0,
            start: escape(shard.range.start()),
            end: escape(shard.range.end()),
            epoch: (shard.epoch.membership, shard.epoch.range),
            nodes: shard
                .replicas
                .iter()
                .map(|replica| replica.node.0)
                .collect(),
            leader: None,
            replica: None,
        }
    }
}

/// What shards are ranked by, the greatest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RankBy {
    /// Reads and writes per second.
    #[default]
    Requests,
    /// Linearizable reads per second.
    Reads,
    /// Writes per second.
    Writes,
    /// Bytes of written commands per second.
    Bytes,
    /// Bytes of keys and values in files.
    Size,
    /// Bytes of the log.
    Log,
    /// Writes that wait.
    Pending,
}

/// Asked of each node for the head of its ranked list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ranking {
    /// What by.
    pub by: RankBy,
    /// So many at most.
    pub count: usize,
    /// Only those that lack a replica.
    #[serde(default)]
    pub lacking: bool,
    /// Only those with a replica on this node.
    pub node: Option<u64>,
}

impl Ranking {
    pub(super) fn path(&self) -> String {
        let by = serde_json::json!(self.by);
        let by = by.as_str().unwrap_or_default();
        let Self { count, lacking, .. } = self;
        let node = self
            .node
            .map(|node| format!("&node={node}"))
            .unwrap_or_default();
        format!("/console/node/ranked?by={by}&count={count}&lacking={lacking}{node}")
    }
}

/// The head of a ranked list.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ranked {
    /// How long the whole list is.
    pub total: usize,
    /// Shards and what they are ranked by.
    pub shards: Vec<(u64, f64)>,
}

impl Ranked {
    /// The greatest of all.
    pub fn of(mut all: Vec<(u64, f64)>, count: usize) -> Self {
        let total = all.len();
        all.sort_by(|one, other| other.1.total_cmp(&one.1).then(one.0.cmp(&other.0)));
        all.truncate(count);
        Self { total, shards: all }
    }
}

/// Which page of which list.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ListQuery {
    /// A shard's id, or a key, with escapes: the shards that are meant.
    q: String,
    /// `key`, `id`, or what they are ranked by.
    by: String,
    /// Only those with a replica on this node.
    pub(super) node: Option<u64>,
    /// Only those without a leader.
    leaderless: bool,
    /// Only those that lack a replica.
    pub(super) lacking: bool,
    pub(super) offset: usize,
    limit: Option<usize>,
}

/// A page.
#[derive(Debug, Serialize)]
pub struct ShardList {
    /// How long the whole list is.
    pub(super) total: usize,
    pub(super) offset: usize,
    pub(super) shards: Vec<ShardRow>,
}

impl ListQuery {
    pub(super) fn limit(&self) -> usize {
        self.limit.unwrap_or(PAGE).clamp(1, PAGE_MAX)
    }

    /// What the shards are ranked by, if not by id or key.
    pub(super) fn order(&self) -> Result<Option<RankBy>, String> {
        match &*self.by {
            // Ranks are given by leaders.
            _ if self.leaderless || !self.q.is_empty() => Ok(None),
            "" | "key" | "id" if self.lacking => Ok(Some(RankBy::Requests)),
            "" | "key" | "id" => Ok(None),
            by => serde_json::from_value(by.into())
                .map(Some)
                .map_err(|_| format!("by: nothing is sorted by {by:?}")),
        }
    }

    fn wants(&self, shard: &Descriptor, leader: Option<NodeId>) -> bool {
        let here = (self.node).is_none_or(|node| shard.replica_on(NodeId(node)).is_some());
        here && !(self.leaderless && leader.is_some())
    }
}

/// A page of what the directory knows, and how long the list is.
///
/// # Errors
/// What is looked for is no key.
pub(super) fn listed(
    map: &RangeMap,
    query: &ListQuery,
    leader: impl Fn(ShardId) -> Option<NodeId>,
) -> Result<(usize, Vec<Arc<Descriptor>>), String> {
    let found: Vec<&Arc<Descriptor>> = match &*query.q {
        "" if query.by == "id" => map.ids_after(ShardId(0)).collect(),
        "" => map.shards().iter().chain(map.meta()).collect(),
        // A number may be meant as either.
        q => {
            let key = unescape(q).map_err(|error| format!("key: {error}"))?;
            let id = q.parse().ok().and_then(|id| map.by_id(ShardId(id)));
            let holder = map.lookup(&key);
            let other = holder.filter(|holder| id.is_none_or(|id| id.shard != holder.shard));
            id.into_iter().chain(other).collect()
        }
    };
    let wanted = found
        .into_iter()
        .filter(|shard| query.wants(shard, leader(shard.shard)));
    let wanted: Vec<&Arc<Descriptor>> = wanted.collect();
    let page = wanted.iter().skip(query.offset).take(query.limit());
    Ok((wanted.len(), page.map(|shard| Arc::clone(shard)).collect()))
}

/// Ids as they travel.
pub(super) fn joined_ids(ids: impl IntoIterator<Item = u64>) -> String {
    let ids: Vec<String> = ids.into_iter().map(|id| id.to_string()).collect();
    ids.join(",")
}

/// Reads what [`joined_ids`] has written.
///
/// # Errors
/// It is no list of ids, or longer than allowed.
pub(super) fn ids(text: &str, count_max: usize) -> Result<Vec<ShardId>, String> {
    let ids = text.split(',').filter(|id| !id.is_empty());
    let ids = ids.map(|id| id.parse().map(ShardId));
    let ids: Result<Vec<ShardId>, _> = ids.take(count_max + 1).collect();
    match ids {
        Ok(ids) if ids.len() <= count_max => Ok(ids),
        Ok(_) => Err(format!("more than {count_max} ids")),
        Err(_) => Err(format!("{text:?} is no list of ids")),
    }
}
