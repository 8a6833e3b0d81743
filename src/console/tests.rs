//! The answers of the console, of nodes that stand side by side in one process.

use std::{
    net::SocketAddr,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use flotilla_shards::descriptor::{Descriptor, Epoch, KeyRange, Replica};
use flotilla_shards::raft::ReplicaId;
use serde_json::Value;
use tokio::net::TcpListener;

use axum::routing::get as get_page;

use super::{
    cluster::{HotShard, Vitals},
    heat::{Cell, Counts, FINE_MS},
    shards::{Load, ReplicaRow},
    *,
};
use crate::http;

const NODES: u64 = 3;

/// What all nodes know, and what happens to them.
struct World {
    map: Arc<RangeMap>,
    down: [AtomicBool; 3],
    silent: [AtomicBool; 3],
    addresses: OnceLock<Vec<SocketAddr>>,
}

/// Node 1, 2 or 3. Shard n has replicas on all, and is led by node n mod 3 + 1.
struct Node {
    id: u64,
    world: Arc<World>,
    heat: Heat,
}

fn leader_of(shard: u64) -> u64 {
    shard % NODES + 1
}

/// Shard n is written n times per second.
fn load_of(shard: u64) -> Load {
    Load {
        reads: 0.0,
        writes: shard as f64,
        bytes: 100.0,
    }
}

impl ConsoleSource for Node {
    fn local(&self) -> Option<(NodeId, String)> {
        (self.id > 0).then(|| (NodeId(self.id), "c1".to_owned()))
    }

    fn nodes(&self) -> Vec<KnownNode> {
        let known = (1..=NODES).map(|node| KnownNode {
            node: NodeId(node),
            address: format!("node-{node}:7400"),
            status_address: format!("node-{node}:7480"),
            reachable: !self.world.down[node as usize - 1].load(Relaxed),
        });
        known.collect()
    }

    fn map(&self) -> Arc<RangeMap> {
        Arc::clone(&self.world.map)
    }

    fn leader(&self, shard: ShardId) -> Option<NodeId> {
        (shard.0 != 7).then(|| NodeId(leader_of(shard.0)))
    }

    fn report(&self) -> NodeReport {
        let hot = |shard| HotShard {
            shard,
            start: shard.to_string(),
            end: String::new(),
            leader: None,
            load: load_of(shard),
        };
        NodeReport {
            version: "1.2.3".to_owned(),
            not_ready: (self.id == 2).then(|| "draining".to_owned()),
            under_replicated: self.id,
            vitals: Vitals {
                load: load_of(10 * self.id),
                ..Vitals::default()
            },
            // Shard 5 was asked of all of them.
            hottest: vec![hot(100 + self.id), hot(5)],
            ..NodeReport::default()
        }
    }

    fn history(&self) -> Vec<Moment> {
        let moment = |at_ms| Moment {
            at_ms,
            load: load_of(self.id),
            write_p99: Some(self.id as f64),
            ..Moment::default()
        };
        vec![moment(5_000), moment(10_000 * self.id)]
    }

    fn heat(&self) -> &Heat {
        &self.heat
    }

    fn rows(&self, shards: Vec<ShardId>) -> BoxFuture<'_, Vec<ShardRow>> {
        let row = |shard: &Arc<Descriptor>| ShardRow {
            replica: Some(ReplicaRow {
                role: if leader_of(shard.shard.0) == self.id {
                    "leader"
                } else {
                    "follower"
                }
                .to_owned(),
                load: load_of(shard.shard.0),
                ..ReplicaRow::default()
            }),
            ..ShardRow::untold(shard)
        };
        let rows = shards
            .iter()
            .filter_map(|shard| self.world.map.by_id(*shard).map(row));
        let rows = rows.collect();
        Box::pin(async move { rows })
    }

    fn ranked(&self, ranking: Ranking) -> BoxFuture<'_, Ranked> {
        let ids = self
            .world
            .map
            .ids_after(ShardId(1))
            .map(|shard| shard.shard.0);
        let led = ids.filter(|shard| leader_of(*shard) == self.id);
        let led = led.filter(|shard| !ranking.lacking || shard % 100 == 0);
        let ranked = led.map(|shard| (shard, load_of(shard).writes)).collect();
        Box::pin(async move { Ranked::of(ranked, ranking.count) })
    }

    fn ask(&self, node: NodeId, path: String) -> BoxFuture<'_, Result<Bytes, String>> {
        let at = node.0 as usize - 1;
        let address = self.world.addresses.get().expect("all listen")[at];
        let silent = self.world.silent[at].load(Relaxed);
        Box::pin(async move {
            if silent {
                std::future::pending::<()>().await;
            }
            match get(address, &path).await {
                (200, _, body) => Ok(body.into()),
                (code, _, body) => Err(format!("{code}: {body}")),
            }
        })
    }
}

/// Status code, headers and body of an answer.
async fn get(address: SocketAddr, path: &str) -> (u16, String, String) {
    let answer = http::get(address, path, u64::MAX).await.expect("an answer");
    let body = answer.text().into_owned();
    (answer.code, answer.head.to_lowercase(), body)
}

/// Three nodes that have so many shards, cut at `00000`, `00001` …
struct Nodes {
    world: Arc<World>,
    nodes: Vec<Arc<Node>>,
    address: SocketAddr,
}

impl Nodes {
    async fn new(shards: u64) -> Self {
        let replicas: Vec<Replica> = (1..=NODES).map(replica).collect();
        let key = |cut: u64| match cut {
            0 => Bytes::new(),
            cut if cut == shards => Bytes::new(),
            cut => format!("{cut:05}").into(),
        };
        let shard = |at| Descriptor {
            shard: ShardId(2 + at),
            range: KeyRange::new(key(at), key(at + 1)).expect("they ascend"),
            epoch: Epoch::default(),
            replicas: replicas.clone(),
        };
        let world = Arc::new(World {
            map: Arc::new(RangeMap::new((0..shards).map(shard).map(Arc::new))),
            down: Default::default(),
            silent: Default::default(),
            addresses: OnceLock::new(),
        });
        let mut nodes = Vec::new();
        let mut addresses = Vec::new();
        for id in 1..=NODES {
            let node = Arc::new(Node {
                id,
                world: Arc::clone(&world),
                heat: Heat::default(),
            });
            addresses.push(serve(Arc::clone(&node)).await);
            nodes.push(node);
        }
        let address = addresses[0];
        world.addresses.set(addresses).expect("once");
        Self {
            world,
            nodes,
            address,
        }
    }

    /// What node 1 answers.
    async fn ask(&self, path: &str) -> Value {
        let (code, _, body) = get(self.address, path).await;
        assert_eq!(code, 200, "{path}: {body}");
        serde_json::from_str(&body).expect("JSON")
    }

    /// The ids of a list, and its length.
    async fn list(&self, query: &str) -> (Vec<u64>, u64) {
        let list = self.ask(&format!("/console/api/shards{query}")).await;
        let rows = list["shards"].as_array().expect("rows").iter();
        let ids = rows.map(|row| row["shard"].as_u64().expect("an id"));
        (ids.collect(), list["total"].as_u64().expect("a number"))
    }
}

fn replica(node: u64) -> Replica {
    Replica {
        id: ReplicaId(node),
        node: NodeId(node),
        learner: false,
    }
}

async fn serve(node: Arc<Node>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    // Pages of the status port that are not of this room.
    let entry =
        |minute| json!({ "time": format!("2026-11-26T04:{minute:02}:00.000Z"), "number": minute });
    let list =
        |name: &str| json!({ name: [entry(node.id), entry(10 * node.id), "nonsense"], "last": 2 });
    let (events, slow) = (list("events"), list("requests"));
    let app: Router = router(node);
    let app = app
        .route("/events", get_page(move || async move { Json(events) }))
        .route("/slow", get_page(move || async move { Json(slow) }));
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

#[tokio::test]
async fn the_page_comes_whole_and_tells_the_browser_to_ask_nobody_else() {
    let nodes = Nodes::new(1).await;
    let (code, head, _) = get(nodes.address, "/console").await;
    assert!(
        code == 308 && head.contains("location: /console/"),
        "{head}"
    );
    let (code, head, page) = get(nodes.address, "/console/").await;
    assert_eq!(code, 200);
    for header in [
        "content-type: text/html; charset=utf-8",
        "content-security-policy: default-src 'none'; script-src 'self'",
        "frame-ancestors 'none'",
        "x-content-type-options: nosniff",
        "referrer-policy: no-referrer",
        "cache-control: no-store",
    ] {
        assert!(head.contains(header), "{header}: {head}");
    }
    assert!(page.contains("src=\"/console/app.js\"") && !page.contains("://"));
    for (path, kind, _) in super::page::ASSETS {
        let (code, head, content) = get(nodes.address, path).await;
        let told = head.contains("content-security-policy") && head.contains(kind);
        assert!(code == 200 && told, "{path}: {head}");
        // The name of a form, which nobody is asked for.
        let content = content.replace("http://www.w3.org/2000/svg", "");
        assert!(!content.contains("://"), "{path} names another place");
        assert!(!content.contains("innerHTML"), "{path}: keys are no markup");
    }
    assert_eq!(get(nodes.address, "/console/nothing").await.0, 404);
}

#[tokio::test]
async fn a_node_that_is_gone_or_silent_is_shown_and_not_waited_for() {
    let nodes = Nodes::new(10).await;
    let overview = nodes.ask("/console/api/cluster").await;
    let states = |overview: &Value| -> Vec<String> {
        let nodes = overview["nodes"].as_array().expect("nodes").iter();
        nodes
            .map(|node| node["state"].as_str().expect("a state").to_owned())
            .collect()
    };
    assert_eq!(states(&overview), ["ready", "not_ready", "ready"]);
    assert_eq!(overview["nodes"][1]["reason"], "draining");
    assert_eq!(overview["asked"], 1);
    assert_eq!(overview["load"]["writes"], 60.0);
    assert_eq!(
        overview["shards"],
        json!({ "known": 10, "without_leader": 1, "under_replicated": 6, "without_quorum": 0 })
    );
    let hottest = overview["hottest"].as_array().expect("shards");
    let shown = |hot: &Value| json!([hot["shard"], hot["writes"], hot["start"], hot["leader"]]);
    let shown: Vec<Value> = hottest.iter().map(shown).collect();
    assert_eq!(shown[0], json!([103, 103.0, "103", 2]));
    assert_eq!(shown[3], json!([5, 15.0, "5", 3]), "of all three nodes");

    nodes.world.down[1].store(true, Relaxed);
    nodes.world.silent[2].store(true, Relaxed);
    let begin = std::time::Instant::now();
    let overview = loop {
        // The last answer is good for a moment.
        let overview = nodes.ask("/console/api/cluster").await;
        if states(&overview)[1] == "down" {
            break overview;
        }
        assert!(begin.elapsed().as_secs() < 60, "{overview}");
    };
    assert_eq!(states(&overview), ["ready", "down", "silent"]);
    assert_eq!(overview["nodes"][1]["report"], Value::Null);
    assert_eq!(overview["load"]["writes"], 10.0);
    // The shards that node 2 leads: 4, 10; and 7, which has none.
    assert_eq!(overview["shards"]["without_leader"], 2 + 1);
}

#[tokio::test]
async fn moments_of_all_nodes_are_put_together() {
    let nodes = Nodes::new(1).await;
    let moments = nodes.ask("/console/api/history").await;
    let moments: Vec<Moment> = serde_json::from_value(moments).expect("moments");
    let shown = |moment: &Moment| (moment.at_ms, moment.load.writes, moment.write_p99);
    let shown: Vec<_> = moments.iter().map(shown).collect();
    assert_eq!(shown[0], (5_000, 6.0, Some(3.0)));
    assert_eq!(
        shown[1..],
        [10_000, 20_000, 30_000].map(|at| (at, (at / 10_000) as f64, Some((at / 10_000) as f64)))
    );
}

#[tokio::test]
async fn the_newest_of_all_nodes_come_first() {
    let nodes = Nodes::new(1).await;
    for page in ["/console/api/events", "/console/api/slow"] {
        let newest = nodes.ask(page).await;
        let entries = newest.as_array().expect("entries").iter();
        let shown: Vec<Value> = entries
            .map(|entry| json!([entry["number"], entry["on"]]))
            .collect();
        let expected = [[30, 3], [20, 2], [10, 1], [3, 3], [2, 2], [1, 1]].map(|pair| json!(pair));
        assert_eq!(shown, expected, "{page}");
    }
    nodes.world.down[2].store(true, Relaxed);
    let newest = nodes.ask("/console/api/events").await;
    assert_eq!(newest[0]["on"], 2, "{newest}");
}

#[tokio::test]
async fn ten_thousand_shards_are_searched_sorted_and_paged() {
    let nodes = Nodes::new(10_000).await;
    for (query, ids, total) in [
        ("?limit=2", vec![2, 3], 10_000),
        ("?offset=9999", vec![10_001], 10_000),
        ("?offset=10000", vec![], 10_000),
        ("?by=id&offset=5&limit=1", vec![7], 10_000),
        ("?q=00600x", vec![602], 1),
        (r"?q=\x30\x3000%5Cx37", vec![9], 1),
        ("?q=9999", vec![9_999, 10_001], 2),
        ("?by=writes&limit=3", vec![10_001, 10_000, 9_999], 10_000),
        ("?by=requests&offset=4&limit=2", vec![9_997, 9_996], 10_000),
        ("?lacking=true&limit=2", vec![10_000, 9_900], 100),
        ("?leaderless=true", vec![7], 1),
        ("?node=9", vec![], 0),
        ("?node=2&limit=1", vec![2], 10_000),
    ] {
        assert_eq!(nodes.list(query).await, (ids, total), "{query}");
    }
    assert_eq!(nodes.list("").await.0.len(), 50);
    assert_eq!(nodes.list("?limit=100000").await.0.len(), 200);
    for (query, reason) in [
        ("?by=beauty", "nothing is sorted by"),
        (r"?q=%5Cq", "unknown escape"),
        ("?limit=x", "limit"),
        ("?colour=red", "colour"),
    ] {
        let (code, _, body) = get(nodes.address, &format!("/console/api/shards{query}")).await;
        assert!(
            code == 400 && body.contains(reason),
            "{query}: {code} {body}"
        );
    }
}

#[tokio::test]
async fn a_shard_is_told_by_its_leader_and_by_each_replica() {
    let nodes = Nodes::new(10).await;
    nodes.world.down[2].store(true, Relaxed);
    let page = nodes.ask("/console/api/shards/4").await;
    assert_eq!(
        (&page["shard"]["leader"], &page["shard"]["replica"]["role"]),
        (&json!(2), &json!("leader"))
    );
    let replicas = page["replicas"].as_array().expect("replicas");
    let roles: Vec<&Value> = replicas.iter().map(|on| &on["replica"]["role"]).collect();
    assert_eq!(roles, [&json!("follower"), &json!("leader"), &Value::Null]);
    assert_eq!(replicas[2]["problem"], "it is not heard from");
    // The leader of shard 5 is gone: the asked node's own replica is better than nothing.
    let page = nodes.ask("/console/api/shards/5").await;
    assert_eq!(
        (&page["shard"]["leader"], &page["shard"]["replica"]["role"]),
        (&json!(3), &json!("follower"))
    );
    assert_eq!(get(nodes.address, "/console/api/shards/99").await.0, 404);
    assert_eq!(get(nodes.address, "/console/api/shards/x").await.0, 400);
}

/// Has a node be asked something of a shard just now.
fn ask_of(node: &Node, shard: u64, writes: u64) {
    let load = flotilla_shards::engine::Load {
        writes,
        ..Default::default()
    };
    let shard = node.world.map.by_id(ShardId(shard)).expect("known");
    let slot = crate::clock::wall_ms() / FINE_MS - 2;
    let cell = Cell::new(
        Arc::clone(shard),
        Counts::between(Default::default(), load, 1),
    );
    node.heat.note(slot..slot + 1, &[cell]);
}

#[tokio::test]
async fn the_map_of_all_nodes_shows_the_hot_keys_and_zooms_to_a_shard() {
    let nodes = Nodes::new(1_000).await;
    ask_of(&nodes.nodes[0], 600, 100);
    ask_of(&nodes.nodes[1], 600, 150);
    ask_of(&nodes.nodes[2], 601, 5);
    let hot = |picture: &Value| -> Vec<(String, f64)> {
        let columns: Vec<Vec<(usize, f64)>> =
            serde_json::from_value(picture["columns"].clone()).expect("columns");
        let cells = columns.into_iter().flatten();
        cells
            .map(|(row, asked)| (picture["rows"][row]["first"].to_string(), asked))
            .collect()
    };
    let picture = nodes.ask("/console/api/heat?minutes=5&metric=writes").await;
    assert_eq!(picture["rows"].as_array().map(Vec::len), Some(128));
    assert_eq!(
        (&picture["shards"], &picture["missing"]),
        (&json!(1_000), &json!([]))
    );
    assert_eq!(
        hot(&picture),
        [("595".to_owned(), 51.0)],
        "250 and 5 in five seconds"
    );

    let zoomed = nodes
        .ask("/console/api/heat?minutes=5&first=599&last=602")
        .await;
    assert_eq!(zoomed["rows"].as_array().map(Vec::len), Some(4));
    assert_eq!(
        zoomed["rows"][1],
        json!({ "first": 600, "last": 600, "shards": 1, "start": "00598" })
    );
    assert_eq!(
        hot(&zoomed),
        [("600".to_owned(), 50.0), ("601".to_owned(), 1.0)]
    );
    assert!(hot(&nodes.ask("/console/api/heat?metric=reads").await).is_empty());

    nodes.world.down[1].store(true, Relaxed);
    let picture = nodes.ask("/console/api/heat?first=600&last=600").await;
    assert_eq!(
        (hot(&picture), &picture["missing"]),
        (vec![("600".to_owned(), 20.0)], &json!([2]))
    );
    for query in ["?first=5&last=99999", "?first=1&last=5"] {
        assert_eq!(
            get(nodes.address, &format!("/console/api/heat{query}"))
                .await
                .0,
            404
        );
    }
    let (code, _, body) = get(
        nodes.address,
        "/console/node/heat?from_ms=0&width_ms=0&columns=99999999&metric=reads&rows=9,5&end=0",
    )
    .await;
    assert!(code == 400 && body.contains("do not ascend"), "{body}");
}

#[tokio::test]
async fn before_there_is_a_cluster_there_is_a_page_that_says_so() {
    let world = Arc::new(World {
        map: Arc::default(),
        down: Default::default(),
        silent: Default::default(),
        addresses: OnceLock::new(),
    });
    let alone = Arc::new(Node {
        id: 0,
        world,
        heat: Heat::default(),
    });
    let address = serve(alone).await;
    assert_eq!(get(address, "/console/").await.0, 200);
    for path in [
        "/console/api/cluster",
        "/console/api/heat",
        "/console/node/report",
    ] {
        let (code, _, body) = get(address, path).await;
        assert!(
            code == 409 && body.contains("flotilla init"),
            "{path}: {body}"
        );
    }
}
