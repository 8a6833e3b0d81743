//! The status port: plain HTTP for probes, Prometheus and people.
//!
//! `/health` says that the process lives, and depends on nothing else: a probe that asked about quorums would have a
//! supervisor restart healthy nodes because others failed. `/ready` says whether this node should get requests. What
//! the answers hold comes from the node by [`StatusSource`]; this module knows only HTTP.

use std::future::{Future, IntoFuture as _};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, put};
use flotilla_metrics::Metrics;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use crate::config::{Config, LogLevel};
use crate::events::{Event, Events};
use crate::logging::LogControl;

/// Open connections get this long to end once the server is told to stop.
const GRACE: Duration = Duration::from_secs(2);
/// Bytes of a request's body; a log level is all that is ever sent.
const BODY_BYTES_MAX: usize = 4 * 1024;

/// One condition of being ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadyCheck {
    /// Short name: `joined`, `meta`, `draining` …
    pub name: &'static str,
    /// What is wrong; nothing if the condition holds.
    pub problem: Option<String>,
}

/// Rows of a list of shards, and how many there are without a wish.
const ROWS_MAX: usize = 10_000;
const ROWS: usize = 1_000;

/// Which shards to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// A page of all of them, by id.
    After {
        /// Those behind this one.
        shard: u64,
        /// So many at most, at least one.
        limit: usize,
    },
    /// So many of those that were asked most in the last seconds, the most asked first.
    Hottest(usize),
}

/// What the node tells about itself.
pub trait StatusSource: Send + Sync + 'static {
    /// All conditions of being ready, in the order in which they should be read. The node is ready if all hold.
    fn ready(&self) -> Vec<ReadyCheck>;

    /// Version, ids, address, counts: the same facts as `Admin.Status`, as a JSON object.
    fn status(&self) -> Value;

    /// Shards that this node has a replica of, as it sees them: `shards`, and as `next` the id to go on after, if there
    /// may be more.
    fn shards(&self, which: Which) -> BoxFuture<'_, Value>;

    /// One shard as this node sees it, or nothing if it has no replica of it.
    fn shard(&self, id: u64) -> BoxFuture<'_, Option<Value>>;

    /// The newest slow requests, the newest first: `requests`.
    fn slow(&self, limit: usize) -> Value;

    /// What has happened lately.
    fn events(&self) -> &Events;

    /// The metrics, with gauges brought up to date. May block.
    fn metrics(&self) -> Arc<Metrics>;
}

struct Shared {
    source: Arc<dyn StatusSource>,
    config: Arc<Config>,
    log: LogControl,
}

/// Serves the status port until `stop` ends, then closes it.
///
/// # Errors
/// The listener failed.
pub async fn serve(
    listener: TcpListener,
    app: Router,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let stopping = Arc::new(Notify::new());
    let stopped = Arc::clone(&stopping);
    let stop = async move {
        stop.await;
        stopping.notify_one();
    };
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    let server = axum::serve(listener, app).with_graceful_shutdown(stop);
    let patience = async {
        stopped.notified().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        result = server.into_future() => result,
        // A client that keeps its connection busy must not keep the node.
        () = patience => Ok(()),
    }
}

/// All pages: the node's own, and those of the console.
pub fn router(
    source: Arc<dyn StatusSource>,
    console: Router,
    configuration: Arc<Config>,
    log: LogControl,
) -> Router {
    let shared = Arc::new(Shared {
        source,
        config: configuration,
        log,
    });
    // What changes or burdens the node.
    let guarded = Router::new()
        .route("/log-level", put(set_log_level).post(set_log_level))
        .route("/debug/pprof/profile", get(profile::cpu))
        .route("/debug/pprof/heap", get(profile::heap))
        .route_layer(middleware::from_fn_with_state(Arc::clone(&shared), guard));
    Router::new()
        .merge(guarded)
        .route("/", get(index))
        .route("/health", get(|| async { "ok\n" }))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .route("/config", get(config))
        .route("/log-level", get(log_level))
        .route("/events", get(events))
        .route("/slow", get(slow))
        .route("/shards", get(shards))
        .route("/shards/{id}", get(shard))
        .fallback(|| async { refusal(StatusCode::NOT_FOUND, "no such page; / lists them") })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(shared)
        .merge(console)
}

/// Whether an asker may change or burden the node.
fn may_change(asker: IpAddr, config: &Config) -> bool {
    asker.to_canonical().is_loopback() || config.node.status_remote_debug
}

/// Whether a browser asks because a page of somebody else told it to: it may sit at this machine, who wrote that page does not.
fn is_of_other_site(headers: &HeaderMap) -> bool {
    let site = headers.get("sec-fetch-site");
    site.is_some_and(|site| site != "none" && site != "same-origin")
}

/// Lets through who sits at this machine, others if they may.
async fn guard(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    if is_of_other_site(request.headers()) {
        return refusal(StatusCode::FORBIDDEN, "not for pages of other sites");
    }
    if may_change(peer.ip(), &shared.config) {
        return next.run(request).await;
    }
    refusal(
        StatusCode::FORBIDDEN,
        "only for processes of the node's own machine, unless node.status_remote_debug is set",
    )
}

/// An error as JSON.
fn refusal(status: StatusCode, message: impl Into<String>) -> Response {
    (status, Json(json!({ "error": message.into() }))).into_response()
}

async fn index() -> &'static str {
    "Flotilla\n\
     \n\
     /console/        the whole cluster, for browsers\n\
     /health          the process lives\n\
     /ready           the node should get requests; /ready?verbose says why not\n\
     /metrics         Prometheus\n\
     /status          version, ids, counts\n\
     /config          the configuration in force, and where it came from\n\
     /log-level       what is logged; PUT or POST changes it\n\
     /debug/pprof/profile?seconds=N   where processor time goes, for pprof\n\
     /debug/pprof/heap                where memory comes from, for pprof\n\
     /events          what has happened lately; ?after=NUMBER&limit=N\n\
     /slow            requests that took long; ?limit=N\n\
     /shards          the shards of this node; ?after=ID&limit=N turns pages, ?hottest=N has the most asked\n\
     /shards/{id}     one shard as this node sees it\n"
}

#[derive(serde::Deserialize)]
struct Verbosity {
    verbose: Option<String>,
}

async fn ready(State(shared): State<Arc<Shared>>, Query(query): Query<Verbosity>) -> Response {
    let checks = shared.source.ready();
    let ready = checks.iter().all(|check| check.problem.is_none());
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let line = |check: &ReadyCheck| match &check.problem {
        None => format!("[ok] {}\n", check.name),
        Some(problem) => format!("[no] {}: {problem}\n", check.name),
    };
    let text = if query.verbose.is_some() {
        checks.iter().map(line).collect()
    } else {
        checks
            .iter()
            .find_map(|check| check.problem.clone())
            .map_or_else(|| "ready\n".to_owned(), |why| why + "\n")
    };
    (status, text).into_response()
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    // Not on a thread that others wait for: databases whose disk is stuck are asked, too.
    let source = Arc::clone(&shared.source);
    let rendered = tokio::task::spawn_blocking(move || source.metrics().render());
    let Ok(rendered) = rendered.await else {
        return refusal(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the metrics were not read",
        );
    };
    match rendered {
        Ok(text) => ([(header::CONTENT_TYPE, Metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => refusal(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

async fn status(State(shared): State<Arc<Shared>>) -> Json<Value> {
    Json(shared.source.status())
}

async fn config(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let mut config = shared.config.to_json();
    if let Ok(level) = shared.log.level() {
        // The one value that may have changed since the start.
        config["log"]["level"] = level.into();
    }
    Json(config)
}

async fn log_level(State(shared): State<Arc<Shared>>) -> Response {
    match shared.log.level() {
        Ok(level) => (level + "\n").into_response(),
        Err(error) => refusal(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

async fn set_log_level(State(shared): State<Arc<Shared>>, body: String) -> Response {
    let level = match body.trim().parse::<LogLevel>() {
        Ok(level) => level,
        Err(expected) => {
            let why = format!("log level: {expected}");
            let setting = "log.level";
            shared.source.events().note(Event::SettingRefused {
                setting,
                why: why.clone(),
            });
            return refusal(StatusCode::BAD_REQUEST, why);
        }
    };
    if let Err(error) = shared.log.set_level(&level) {
        return refusal(StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
    }
    tracing::info!(level = level.as_str(), "the log level was changed");
    shared.source.events().note(Event::LogLevelSet {
        level: level.as_str().to_owned(),
    });
    (level.as_str().to_owned() + "\n").into_response()
}

#[derive(serde::Deserialize)]
struct NewestQuery {
    after: Option<u64>,
    limit: Option<usize>,
}

async fn events(
    State(shared): State<Arc<Shared>>,
    Query(query): Query<NewestQuery>,
) -> Json<Value> {
    let limit = query.limit.unwrap_or(ROWS);
    Json(
        shared
            .source
            .events()
            .to_json(query.after.unwrap_or(0), limit),
    )
}

async fn slow(State(shared): State<Arc<Shared>>, Query(query): Query<NewestQuery>) -> Json<Value> {
    Json(shared.source.slow(query.limit.unwrap_or(ROWS)))
}

#[derive(serde::Deserialize)]
struct ShardsQuery {
    after: Option<u64>,
    limit: Option<usize>,
    hottest: Option<usize>,
}

async fn shards(
    State(shared): State<Arc<Shared>>,
    Query(query): Query<ShardsQuery>,
) -> Json<Value> {
    let rows = |wish: usize| wish.clamp(1, ROWS_MAX);
    let which = match query.hottest {
        Some(count) => Which::Hottest(rows(count)),
        None => Which::After {
            shard: query.after.unwrap_or(0),
            limit: rows(query.limit.unwrap_or(ROWS)),
        },
    };
    Json(shared.source.shards(which).await)
}

async fn shard(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Response {
    let Ok(number) = id.parse::<u64>() else {
        return refusal(
            StatusCode::BAD_REQUEST,
            format!("shard id: {id:?} is not a whole number"),
        );
    };
    match shared.source.shard(number).await {
        Some(shard) => Json(shard).into_response(),
        None => refusal(
            StatusCode::NOT_FOUND,
            format!("this node has no replica of shard {number}"),
        ),
    }
}

mod pprof;
mod profile;
#[cfg(test)]
mod tests;
