//! The status port over a real connection.

use std::io::Write as _;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::oneshot;

use super::*;
use crate::http;

/// A node that has one shard, number 7, and is ready or not.
struct Node {
    problem: Option<String>,
    events: Events,
    metrics: Arc<Metrics>,
}

impl StatusSource for Node {
    fn ready(&self) -> Vec<ReadyCheck> {
        vec![
            ReadyCheck {
                name: "joined",
                problem: None,
            },
            ReadyCheck {
                name: "meta",
                problem: self.problem.clone(),
            },
        ]
    }

    fn status(&self) -> Value {
        json!({ "node_id": 3 })
    }

    fn shard(&self, id: u64) -> BoxFuture<'_, Option<Value>> {
        Box::pin(async move { (id == 7).then(|| json!({ "shard_id": 7 })) })
    }

    fn shards(&self, which: Which) -> BoxFuture<'_, Value> {
        Box::pin(async move { json!({ "asked": format!("{which:?}") }) })
    }

    fn slow(&self, limit: usize) -> Value {
        json!({ "limit": limit })
    }

    fn events(&self) -> &Events {
        &self.events
    }

    fn metrics(&self) -> Arc<Metrics> {
        self.metrics.disk_free_bytes.set(99);
        Arc::clone(&self.metrics)
    }
}

/// A served node, what stops it, and its address.
struct Served {
    address: std::net::SocketAddr,
    stop: oneshot::Sender<()>,
    server: tokio::task::JoinHandle<io::Result<()>>,
    _subscriber: tracing::Dispatch,
}

async fn served(problem: Option<&str>) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("address");
    let node = Node {
        problem: problem.map(str::to_owned),
        events: Events::default(),
        metrics: Arc::new(Metrics::new().expect("metrics")),
    };
    let (log, subscriber) = crate::logging::tests::detached("info");
    let (stop, stopped) = oneshot::channel();
    let stopped = async move { drop(stopped.await) };
    let pages = router(
        Arc::new(node),
        Router::new(),
        Arc::new(Config::default()),
        log,
    );
    let server = tokio::spawn(serve(listener, pages, stopped));
    Served {
        address,
        stop,
        server,
        _subscriber: subscriber,
    }
}

impl Served {
    /// Status code and body of the answer to one request.
    async fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let answer = http::ask(self.address, method, path, body, u64::MAX).await;
        let answer = answer.expect("an answer");
        (answer.code, answer.text().into_owned())
    }

    async fn get(&self, path: &str) -> (u16, String) {
        self.ask("GET", path, "").await
    }
}

#[tokio::test]
async fn pages_tell_what_the_node_says() {
    let node = served(None).await;
    assert_eq!(node.get("/health").await, (200, "ok\n".to_owned()));
    assert_eq!(node.get("/ready").await, (200, "ready\n".to_owned()));
    assert_eq!(
        node.get("/ready?verbose").await,
        (200, "[ok] joined\n[ok] meta\n".to_owned())
    );
    assert_eq!(
        node.get("/status").await,
        (200, r#"{"node_id":3}"#.to_owned())
    );
    assert_eq!(
        node.get("/shards/7").await,
        (200, r#"{"shard_id":7}"#.to_owned())
    );
    let (code, metrics) = node.get("/metrics").await;
    assert!(
        code == 200 && metrics.contains("flotilla_disk_free_bytes 99"),
        "{metrics}"
    );
    let (code, config) = node.get("/config").await;
    assert!(
        code == 200 && config.contains(r#""key_bytes":"4KiB""#),
        "{config}"
    );
    let (code, index) = node.get("/").await;
    assert!(code == 200 && index.contains("/log-level"));
}

#[tokio::test]
async fn a_node_that_is_not_ready_still_lives_and_says_why() {
    let node = served(Some("no leader of the meta shard")).await;
    assert_eq!(node.get("/health").await.0, 200);
    assert_eq!(
        node.get("/ready").await,
        (503, "no leader of the meta shard\n".to_owned())
    );
    let (code, verbose) = node.get("/ready?verbose").await;
    assert_eq!(
        (code, verbose.as_str()),
        (503, "[ok] joined\n[no] meta: no leader of the meta shard\n")
    );
}

#[tokio::test]
async fn the_log_level_is_changed_or_refused() {
    let node = served(None).await;
    assert_eq!(node.get("/log-level").await, (200, "info\n".to_owned()));
    assert_eq!(
        node.ask("PUT", "/log-level", "debug\n").await,
        (200, "debug\n".to_owned())
    );
    assert_eq!(node.get("/log-level").await, (200, "debug\n".to_owned()));
    assert!(node.get("/config").await.1.contains(r#""level":"debug""#));
    let (code, error) = node.ask("PUT", "/log-level", "=,=").await;
    assert!(code == 400 && error.contains("is not"), "{error}");
    assert_eq!(
        node.ask("PUT", "/log-level", &"x".repeat(BODY_BYTES_MAX + 1))
            .await
            .0,
        413
    );
    assert_eq!(node.get("/log-level").await, (200, "debug\n".to_owned()));
}

#[test]
fn other_machines_may_look_and_not_touch() {
    let mut config = Config::default();
    let may = |asker: &str, config: &Config| may_change(asker.parse().expect("an address"), config);
    for here in ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"] {
        assert!(may(here, &config), "{here}");
    }
    for elsewhere in ["10.0.0.1", "0.0.0.0", "fe80::1", "::ffff:10.0.0.1"] {
        assert!(!may(elsewhere, &config), "{elsewhere}");
    }
    config.node.status_remote_debug = true;
    assert!(may("10.0.0.1", &config));
}

#[test]
fn pages_of_other_sites_do_not_get_at_a_node_through_a_browser() {
    let of_other_site = |site: Option<&'static str>| {
        let headers = site.map(|site| {
            (
                header::HeaderName::from_static("sec-fetch-site"),
                header::HeaderValue::from_static(site),
            )
        });
        is_of_other_site(&headers.into_iter().collect())
    };
    for own in [None, Some("none"), Some("same-origin")] {
        assert!(!of_other_site(own), "{own:?}");
    }
    for other in ["cross-site", "same-site"] {
        assert!(of_other_site(Some(other)), "{other}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_profile_shows_what_was_busy() {
    use prost::Message as _;

    let node = served(None).await;
    for wrong in ["0", "61", "x", "-1"] {
        let path = format!("/debug/pprof/profile?seconds={wrong}");
        assert_eq!(node.get(&path).await.0, 400, "{wrong}");
    }
    let turn = profile::RUNNING.lock().await;
    let (code, why) = node.get("/debug/pprof/profile?seconds=1").await;
    assert!(code == 429 && why.contains("one at a time"), "{code} {why}");
    drop(turn);
    let stop = Arc::new(AtomicBool::new(false));
    let busy = Arc::clone(&stop);
    let busy = std::thread::spawn(move || spin_until(&busy));
    let path = "/debug/pprof/profile?seconds=1";
    // A busy machine may have given it no time in a second.
    for look in 1.. {
        let answer = http::get(node.address, path, u64::MAX).await.expect("HTTP");
        assert_eq!(answer.code, 200, "{}", answer.text());
        let profile = pprof::Profile::decode(&*answer.body).expect("a profile");
        let samples: i64 = profile.sample.iter().map(|sample| sample.value[0]).sum();
        let name = |function: &pprof::Function| &profile.string_table[function.name as usize];
        let mut names = profile.function.iter().map(name);
        if names.any(|name| name.contains("spin_until")) {
            assert!(samples > 0 && !profile.location.is_empty());
            assert_eq!(profile.sample_type.len(), 2);
            break;
        }
        assert!(look < 30, "{:?}", profile.string_table);
    }
    stop.store(true, Ordering::Relaxed);
    busy.join().expect("the busy thread ends");
}

/// Uses processor time, outside of the C library.
#[inline(never)]
fn spin_until(stop: &AtomicBool) {
    let mut number = 1_u64;
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..1000 {
            number = std::hint::black_box(number.wrapping_mul(6_364_136_223_846_793_005) + 1);
        }
    }
}

#[tokio::test]
async fn who_has_no_heap_profile_says_what_would_give_one() {
    let (code, body) = served(None).await.get("/debug/pprof/heap").await;
    assert!(
        code == 501 && body.contains("--heap-profiling"),
        "{code} {body}"
    );
}

#[tokio::test]
async fn what_somebody_set_and_what_was_refused_are_events() {
    let node = served(None).await;
    node.ask("PUT", "/log-level", "debug").await;
    node.ask("PUT", "/log-level", "=,=").await;
    let (code, page) = node.get("/events").await;
    assert_eq!(code, 200);
    let page: Value = serde_json::from_str(&page).expect("JSON");
    assert_eq!(page["events"][0]["text"], "the log level is debug now");
    assert_eq!(page["events"][1]["kind"], "setting_refused");
    let (_, newer) = node.get("/events?after=1&limit=9").await;
    let newer: Value = serde_json::from_str(&newer).expect("JSON");
    assert_eq!(newer["events"].as_array().map(Vec::len), Some(1));
    assert_eq!(
        node.get("/slow?limit=3").await,
        (200, r#"{"limit":3}"#.to_owned())
    );
    assert_eq!(node.get("/slow?limit=x").await.0, 400);
}

#[tokio::test]
async fn shards_are_listed_in_pages_that_have_a_bound() {
    let node = served(None).await;
    for (query, which) in [
        (
            "",
            Which::After {
                shard: 0,
                limit: ROWS,
            },
        ),
        ("?after=7&limit=2", Which::After { shard: 7, limit: 2 }),
        (
            "?limit=99999999",
            Which::After {
                shard: 0,
                limit: ROWS_MAX,
            },
        ),
        ("?limit=0", Which::After { shard: 0, limit: 1 }),
        ("?hottest=10", Which::Hottest(10)),
    ] {
        let (code, body) = node.get(&format!("/shards{query}")).await;
        let asked = json!({ "asked": format!("{which:?}") }).to_string();
        assert_eq!((code, body), (200, asked), "{query}");
    }
    assert_eq!(node.get("/shards?after=x").await.0, 400);
}

#[tokio::test]
async fn wrong_paths_are_refused_with_a_reason() {
    let node = served(None).await;
    for (path, code, reason) in [
        ("/shards/8", 404, "no replica of shard 8"),
        ("/shards/x", 400, "not a whole number"),
        ("/nothing", 404, "no such page"),
    ] {
        let (got, body) = node.get(path).await;
        assert!(got == code && body.contains(reason), "{path}: {got} {body}");
    }
    assert_eq!(node.ask("POST", "/health", "").await.0, 405);
}

#[tokio::test]
async fn stopping_ends_the_server_although_a_client_hangs_on() {
    let node = served(None).await;
    let mut idle = TcpStream::connect(node.address).expect("connect");
    idle.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n")
        .expect("half a request");
    node.stop.send(()).expect("the server waits");
    node.server.await.expect("task").expect("server");
    assert!(
        TcpStream::connect(node.address).is_err(),
        "the port is closed"
    );
}
