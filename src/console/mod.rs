//! The console: what a browser shows of the whole cluster, and `flotilla top` in a terminal, served by every node.
//!
//! - [`heat`]: what was asked of which keys, and when.
//! - [`cluster`]: asks all nodes for their part and puts the answers together. A node that is gone or silent costs a short
//!   wait and is shown as such; nobody waits for it.
//! - [`shards`]: lists of shards that are searched, sorted and cut into pages here, so that no browser gets all of them.
//! - `assets`: the page itself. It is part of the binary, and asks nobody but the node that it came from.
//!
//! Two kinds of answers are apart: `/console/node/…` is a node's own part, which other nodes ask for; `/console/api/…` is of
//! the cluster, and asks all nodes for theirs. All are read-only. What is told comes from the node by [`ConsoleSource`]; this
//! room knows neither runtime nor storage. It tells keys, as bounds of shards, to whoever may reach it; never values.

pub mod cluster;
pub mod heat;
mod page;
pub mod shards;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::{
    Router,
    extract::{FromRequestParts, Path, Query},
    http::{StatusCode, request::Parts},
    response::{IntoResponse, Json, Response},
    routing::get,
};
use bytes::Bytes;
use flotilla_shards::{
    ids::{NodeId, ShardId},
    range_map::RangeMap,
};
use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{Semaphore, SemaphorePermit};

use self::{
    cluster::{Cluster, Moment, NodeReport},
    heat::{Heat, Metric, Window},
    shards::{ListQuery, Ranked, Ranking, ShardRow},
};

/// Questions that are worked on at the same time; more are answered "busy". A page that is open asks three at once.
const QUESTIONS: usize = 32;
/// The same of parts, which other nodes ask for: each has as many questions of its own.
const PARTS: usize = 256;

/// Another node of the cluster, or this one.
#[derive(Clone, Debug)]
pub struct KnownNode {
    /// Its id.
    pub node: NodeId,
    /// Where clients and nodes reach it.
    pub address: String,
    /// Where its status is served.
    pub status_address: String,
    /// Whether this node hears from it.
    pub reachable: bool,
}

/// What the node tells, and how it asks others.
pub trait ConsoleSource: Send + Sync + 'static {
    /// This node, and its cluster in hex; nothing before it is part of one.
    fn local(&self) -> Option<(NodeId, String)>;

    /// All nodes of the cluster, by id.
    fn nodes(&self) -> Vec<KnownNode>;

    /// All shards, as far as known.
    fn map(&self) -> Arc<RangeMap>;

    /// The node that leads a shard, as far as known.
    fn leader(&self, shard: ShardId) -> Option<NodeId>;

    /// How this node is.
    fn report(&self) -> NodeReport;

    /// How it was in the last minutes, the newest moment last.
    fn history(&self) -> Vec<Moment>;

    /// What was asked of its replicas.
    fn heat(&self) -> &Heat;

    /// Its replicas of some shards, as they are now. Shards without a replica here are left out.
    fn rows(&self, shards: Vec<ShardId>) -> BoxFuture<'_, Vec<ShardRow>>;

    /// The shards that this node leads, by what they are ranked by.
    fn ranked(&self, ranking: Ranking) -> BoxFuture<'_, Ranked>;

    /// A page of a node, this one included, as JSON; or why there is none.
    fn ask(&self, node: NodeId, path: String) -> BoxFuture<'_, Result<Bytes, String>>;
}

struct Shared {
    source: Arc<dyn ConsoleSource>,
    cluster: Cluster,
    questions: Semaphore,
    parts: Semaphore,
}

/// Everything below `/console/`.
pub fn router<S: Clone + Send + Sync + 'static>(source: Arc<dyn ConsoleSource>) -> Router<S> {
    let shared = Arc::new(Shared {
        cluster: Cluster::new(Arc::clone(&source)),
        source,
        questions: Semaphore::new(QUESTIONS),
        parts: Semaphore::new(PARTS),
    });
    let answers = Router::new()
        .route("/console/api/cluster", get(api_cluster))
        .route("/console/api/history", get(api_history))
        .route("/console/api/events", get(api_events))
        .route("/console/api/slow", get(api_slow))
        .route("/console/api/heat", get(api_heat))
        .route("/console/api/shards", get(api_shards))
        .route("/console/api/shards/{id}", get(api_shard))
        .route("/console/node/report", get(node_report))
        .route("/console/node/history", get(node_history))
        .route("/console/node/heat", get(node_heat))
        .route("/console/node/shards", get(node_shards))
        .route("/console/node/ranked", get(node_ranked))
        .with_state(shared);
    page::guarded(page::router().merge(answers))
}

/// A place among the questions that are worked on.
struct Turn(Arc<Shared>);

impl Turn {
    fn question(&self) -> Result<SemaphorePermit<'_>, Refusal> {
        take(&self.0.questions)
    }

    fn part(&self) -> Result<SemaphorePermit<'_>, Refusal> {
        take(&self.0.parts)
    }
}

fn take(turns: &Semaphore) -> Result<SemaphorePermit<'_>, Refusal> {
    turns
        .try_acquire()
        .map_err(|_| refusal(StatusCode::SERVICE_UNAVAILABLE, "busy: ask again"))
}

impl FromRequestParts<Arc<Shared>> for Turn {
    type Rejection = Refusal;

    /// Only a member of a cluster has something to tell.
    async fn from_request_parts(_: &mut Parts, shared: &Arc<Shared>) -> Result<Self, Refusal> {
        match shared.source.local() {
            Some(_) => Ok(Self(Arc::clone(shared))),
            None => Err(refusal(
                StatusCode::CONFLICT,
                "this node is not part of a cluster yet: run `flotilla init`",
            )),
        }
    }
}

/// Why there is no answer; JSON on its way out.
struct Refusal {
    status: StatusCode,
    message: String,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, Json(json!({ "error": self.message }))).into_response()
    }
}

fn refusal(status: StatusCode, message: impl Into<String>) -> Refusal {
    let message = message.into();
    Refusal { status, message }
}

async fn api_cluster(turn: Turn) -> Result<Response, Refusal> {
    let _turn = turn.question()?;
    Ok(Json(&*turn.0.cluster.overview().await).into_response())
}

async fn api_history(turn: Turn) -> Result<Response, Refusal> {
    let _turn = turn.question()?;
    Ok(Json(turn.0.cluster.history().await).into_response())
}

async fn api_events(turn: Turn) -> Result<Response, Refusal> {
    let _turn = turn.question()?;
    Ok(Json(turn.0.cluster.events().await).into_response())
}

async fn api_slow(turn: Turn) -> Result<Response, Refusal> {
    let _turn = turn.question()?;
    Ok(Json(turn.0.cluster.slow().await).into_response())
}

/// Which part of the heat map to draw.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeatQuery {
    /// So many of the last minutes, at most a day.
    #[serde(default = "quarter_of_an_hour")]
    minutes: u64,
    #[serde(default)]
    metric: Metric,
    /// The first and the last shard to draw, in the order of keys.
    first: Option<u64>,
    last: Option<u64>,
}

fn quarter_of_an_hour() -> u64 {
    15
}

async fn api_heat(turn: Turn, Query(query): Query<HeatQuery>) -> Result<Response, Refusal> {
    let _turn = turn.question()?;
    let window = Window::before(crate::clock::wall_ms(), query.minutes);
    let shards = query.first.map(ShardId).zip(query.last.map(ShardId));
    let picture = turn.0.cluster.heat(window, query.metric, shards).await;
    let picture = picture.map_err(|error| refusal(StatusCode::NOT_FOUND, error))?;
    Ok(Json(picture).into_response())
}

async fn api_shards(turn: Turn, Query(query): Query<ListQuery>) -> Result<Response, Refusal> {
    let _turn = turn.question()?;
    let list = turn.0.cluster.list(&query).await;
    let list = list.map_err(|error| refusal(StatusCode::BAD_REQUEST, error))?;
    Ok(Json(list).into_response())
}

async fn api_shard(turn: Turn, Path(id): Path<u64>) -> Result<Response, Refusal> {
    let _turn = turn.question()?;
    match turn.0.cluster.shard(ShardId(id)).await {
        Some(shard) => Ok(Json(shard).into_response()),
        None => Err(refusal(
            StatusCode::NOT_FOUND,
            format!("shard {id} is not known"),
        )),
    }
}

async fn node_report(turn: Turn) -> Result<Json<NodeReport>, Refusal> {
    let _turn = turn.part()?;
    Ok(Json(turn.0.source.report()))
}

async fn node_history(turn: Turn) -> Result<Json<Vec<Moment>>, Refusal> {
    let _turn = turn.part()?;
    Ok(Json(turn.0.source.history()))
}

/// Asked of each node for its part of a picture: window and rows are those of who draws it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeatPartQuery {
    from_ms: u64,
    width_ms: u64,
    columns: usize,
    metric: Metric,
    /// The first shard of each row, separated by commas.
    rows: String,
    /// The first shard behind the last row; 0 where that is the end of the keyspace.
    end: u64,
}

impl HeatPartQuery {
    fn path(&self) -> String {
        let Self {
            from_ms,
            width_ms,
            columns,
            rows,
            end,
            ..
        } = self;
        let metric = self.metric.name();
        format!(
            "/console/node/heat?from_ms={from_ms}&width_ms={width_ms}&columns={columns}&metric={metric}&rows={rows}&end={end}"
        )
    }
}

async fn node_heat(
    turn: Turn,
    Query(query): Query<HeatPartQuery>,
) -> Result<Json<Vec<Vec<(u32, f32)>>>, Refusal> {
    let _turn = turn.part()?;
    let part = cluster::heat_part(&*turn.0.source, &query);
    part.map(Json)
        .map_err(|error| refusal(StatusCode::BAD_REQUEST, error))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IdsQuery {
    ids: String,
}

async fn node_shards(
    turn: Turn,
    Query(query): Query<IdsQuery>,
) -> Result<Json<Vec<ShardRow>>, Refusal> {
    let _turn = turn.part()?;
    let ids = shards::ids(&query.ids, shards::PAGE_MAX);
    let ids = ids.map_err(|error| refusal(StatusCode::BAD_REQUEST, error))?;
    Ok(Json(turn.0.source.rows(ids).await))
}

async fn node_ranked(turn: Turn, Query(ranking): Query<Ranking>) -> Result<Json<Ranked>, Refusal> {
    let _turn = turn.part()?;
    let count = ranking.count.min(shards::RANKED_MAX);
    Ok(Json(
        turn.0.source.ranked(Ranking { count, ..ranking }).await,
    ))
}
