//! The matrix: each request and each method, by each caller.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use flotilla_proto::v1::{
    self as proto, Condition, DeleteOperation, DeleteRangeOperation, Operation, PutOperation,
    change_access_request::Change, operation, request, response,
};
use prost::Message as _;

use super::{
    CALLERS, Guarded, Letters, Verdict, expected, keys, may_key, of_answer, of_status, within,
};

/// Whether somebody with these rights may do it.
type May = Box<dyn Fn(Letters) -> bool>;
type Case = (request::Kind, May);

/// Every request about these keys, with whether somebody with these rights may make it.
fn requests() -> Vec<Case> {
    use request::Kind;
    let mut all: Vec<Case> = Vec::new();
    let mut add = |kind, may: May| all.push((kind, may));
    let reads = |inside: bool| move |letters| may_key(letters, 'r', inside);
    let writes = |inside: bool| move |letters| may_key(letters, 'w', inside);
    let put = |key: &Bytes| {
        operation::Kind::Put(PutOperation {
            key: key.clone(),
            value: "new".into(),
        })
    };
    let delete = |key: &Bytes| operation::Kind::Delete(DeleteOperation { key: key.clone() });
    let batch = |conditions: &[&Bytes], operations: Vec<operation::Kind>| {
        let condition = |key: &&Bytes| Condition {
            key: (*key).clone(),
            test: Some(proto::condition::Test::Exists(true)),
        };
        let operations = operations
            .into_iter()
            .map(|kind| Operation { kind: Some(kind) });
        Kind::Batch(proto::BatchRequest {
            conditions: conditions.iter().map(condition).collect(),
            operations: operations.collect(),
            session: None,
        })
    };
    for (key, inside) in keys() {
        for consistency in [0, 1] {
            let get = proto::GetRequest {
                key: key.clone(),
                consistency,
            };
            add(Kind::Get(get), Box::new(reads(inside)));
        }
        let value = Bytes::from_static(b"new");
        let session = Some(proto::SessionRef {
            shard_id: 2,
            number: 1,
            sequence: 1,
            lowest_unacknowledged: 1,
        });
        for session in [None, session] {
            let put = proto::PutRequest {
                key: key.clone(),
                value: value.clone(),
                session,
            };
            add(Kind::Put(put), Box::new(writes(inside)));
            let delete = proto::DeleteRequest {
                key: key.clone(),
                session,
            };
            add(Kind::Delete(delete), Box::new(writes(inside)));
        }
        let open = proto::OpenSessionRequest { key: key.clone() };
        add(Kind::OpenSession(open), Box::new(writes(inside)));
        let close = proto::CloseSessionRequest {
            key: key.clone(),
            shard_id: 2,
            number: 1,
        };
        add(Kind::CloseSession(close), Box::new(writes(inside)));
    }
    for (one, one_inside) in keys() {
        for (two, two_inside) in keys() {
            let both = one_inside && two_inside;
            let get = proto::BatchGetRequest {
                keys: vec![one.clone(), two.clone()],
                consistency: 0,
            };
            add(Kind::BatchGet(get), Box::new(reads(both)));
            let covered = within(&one, &two) || (one == two && one_inside);
            for (reverse, keys_only) in [(false, false), (true, false), (false, true)] {
                let scan = proto::ScanRequest {
                    start: one.clone(),
                    end: two.clone(),
                    reverse,
                    keys_only,
                    ..proto::ScanRequest::default()
                };
                add(
                    Kind::Scan(scan),
                    Box::new(reads(
                        covered || (one_inside && !two.is_empty() && two < one),
                    )),
                );
            }
            add(
                batch(&[], vec![put(&one), delete(&two)]),
                Box::new(writes(both)),
            );
            let may = move |letters| reads(one_inside)(letters) && writes(two_inside)(letters);
            add(batch(&[&one], vec![put(&two)]), Box::new(may));
            let cleared = operation::Kind::DeleteRange(DeleteRangeOperation {
                start: one.clone(),
                end: two.clone(),
            });
            let covered = covered || (one_inside && !two.is_empty() && two < one);
            add(batch(&[], vec![cleared]), Box::new(writes(covered)));
            // The last of many, and each pair with each third key.
            for (three, three_inside) in keys() {
                let operations = vec![put(&one), delete(&three)];
                let may = move |letters| {
                    reads(two_inside)(letters) && writes(one_inside && three_inside)(letters)
                };
                add(batch(&[&two], operations), Box::new(may));
                let get = proto::BatchGetRequest {
                    keys: vec![one.clone(), two.clone(), three.clone()],
                    consistency: 1,
                };
                add(Kind::BatchGet(get), Box::new(reads(both && three_inside)));
                let conditions = batch(&[&one, &two], vec![put(&three)]);
                let may = move |letters| reads(both)(letters) && writes(three_inside)(letters);
                add(conditions, Box::new(may));
            }
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_of_a_stream_is_decided_on_and_what_is_refused_tells_nothing() {
    let guarded = Guarded::new().await;
    let requests = requests();
    let kinds: Vec<request::Kind> = requests.iter().map(|(kind, _)| kind.clone()).collect();
    let mut cases = 0;
    // With an empty store, and with one that has all keys.
    let mut refusals: Vec<BTreeMap<(usize, &str), proto::Error>> = Vec::new();
    for filled in [false, true] {
        if filled {
            for (key, _) in keys().into_iter().filter(|(key, _)| !key.is_empty()) {
                let put = request::Kind::Put(proto::PutRequest {
                    key,
                    value: "old".into(),
                    session: None,
                });
                let answers = guarded.stream("root", &[put]).await;
                assert_eq!(of_answer(&answers[0]), Verdict::Through);
            }
        }
        let mut refused = BTreeMap::new();
        for (caller, letters) in CALLERS {
            let before = guarded.node.machine.submitted();
            let answers = guarded.stream(caller, &kinds).await;
            for (at, (answer, (kind, may))) in answers.into_iter().zip(&requests).enumerate() {
                let verdict = expected(caller, may(letters));
                assert_eq!(
                    of_answer(&answer),
                    verdict,
                    "{caller}: {kind:?}: {answer:?}"
                );
                if let (true, response::Kind::Error(mut error)) =
                    (verdict != Verdict::Through, answer)
                {
                    // Each has another one.
                    error.request_id.clear();
                    refused.insert((at, caller), error);
                }
                cases += 1;
            }
            if letters.is_empty() {
                assert_eq!(
                    guarded.node.machine.submitted(),
                    before,
                    "{caller} moved something"
                );
            }
        }
        refusals.push(refused);
    }
    assert!(cases >= 50_000, "{cases} cases");
    assert!(
        refusals[0] == refusals[1],
        "a refusal depends on what the store holds"
    );
    for error in refusals[0].values() {
        assert!(!error.message.contains("app/"), "{}", error.message);
    }
}

/// What a method is for: who may call it.
#[derive(Clone, Copy, Debug)]
enum Use {
    /// Data: by permission on the keys of the request.
    Data,
    /// Opened by everyone, each request in it is decided on.
    Stream,
    /// Every user.
    Users,
    /// Admins of everything.
    Cluster,
    /// Admins of the shard's range.
    Shard,
    /// Other nodes, at a service of their own.
    Nodes,
}

/// Every method. A new one without a row here fails the test below.
const METHODS: [(&str, Use); 28] = [
    ("Kv.Get", Use::Data),
    ("Kv.BatchGet", Use::Data),
    ("Kv.Put", Use::Data),
    ("Kv.Delete", Use::Data),
    ("Kv.Scan", Use::Data),
    ("Kv.Batch", Use::Data),
    ("Kv.OpenSession", Use::Data),
    ("Kv.CloseSession", Use::Data),
    ("Kv.Stream", Use::Stream),
    ("Kv.Routes", Use::Users),
    ("Admin.Init", Use::Cluster),
    ("Admin.Status", Use::Cluster),
    ("Admin.ListNodes", Use::Users),
    ("Admin.ListShards", Use::Cluster),
    ("Admin.ShowShard", Use::Shard),
    ("Admin.TransferLeader", Use::Shard),
    ("Admin.Checksum", Use::Shard),
    ("Admin.Page", Use::Cluster),
    ("Admin.WhoAmI", Use::Users),
    ("Admin.ShowAccess", Use::Cluster),
    ("Admin.ChangeAccess", Use::Cluster),
    ("Peer.Deliver", Use::Nodes),
    ("Peer.InstallSnapshot", Use::Nodes),
    ("Peer.Identify", Use::Nodes),
    ("Peer.Adopt", Use::Nodes),
    ("Peer.Page", Use::Nodes),
    ("Peer.Forward", Use::Nodes),
    ("Peer.Checksum", Use::Nodes),
];

/// The methods that the node's descriptors name.
fn declared() -> BTreeSet<String> {
    let files = prost_types::FileDescriptorSet::decode(flotilla_proto::DESCRIPTORS);
    let files = files.expect("the descriptors decode").file;
    let ours = files.iter().filter(|file| file.package() == "flotilla.v1");
    let services = ours.flat_map(|file| &file.service);
    let methods = services.flat_map(|service| {
        let methods = service.method.iter();
        methods.map(|method| format!("{}.{}", service.name(), method.name()))
    });
    methods.collect()
}

/// Calls a method that is not about data.
async fn call(guarded: &Guarded, caller: &str, method: &str) -> Verdict {
    let node = &guarded.node;
    let (mut kv, mut admin) = (node.kv().await, node.admin().await);
    // Nothing comes of these even where they are let in: they name what is not there.
    match method {
        "Kv.Routes" => of_status(
            &kv.routes(guarded.request(caller, proto::RoutesRequest::default()))
                .await,
        ),
        "Admin.Init" => of_status(
            &admin
                .init(guarded.request(caller, proto::InitRequest::default()))
                .await,
        ),
        "Admin.Status" => of_status(
            &admin
                .status(guarded.request(caller, proto::StatusRequest {}))
                .await,
        ),
        "Admin.ListNodes" => of_status(
            &admin
                .list_nodes(guarded.request(caller, proto::ListNodesRequest {}))
                .await,
        ),
        "Admin.ListShards" => {
            let list = proto::ListShardsRequest::default();
            of_status(&admin.list_shards(guarded.request(caller, list)).await)
        }
        "Admin.Page" => {
            let page = proto::PageRequest {
                path: "/console/api/none".to_owned(),
            };
            of_status(&admin.page(guarded.request(caller, page)).await)
        }
        "Admin.WhoAmI" => of_status(
            &admin
                .who_am_i(guarded.request(caller, proto::WhoAmIRequest {}))
                .await,
        ),
        "Admin.ShowAccess" => {
            let show = proto::ShowAccessRequest {};
            of_status(&admin.show_access(guarded.request(caller, show)).await)
        }
        "Admin.ChangeAccess" => {
            let change = proto::ChangeAccessRequest {
                change: Some(Change::DeleteRole("none".into())),
            };
            of_status(&admin.change_access(guarded.request(caller, change)).await)
        }
        other => panic!("no call for {other}"),
    }
}

/// Calls a method that is about one shard.
async fn call_shard(guarded: &Guarded, caller: &str, method: &str, shard_id: u64) -> Verdict {
    let mut admin = guarded.node.admin().await;
    match method {
        "Admin.ShowShard" => {
            let show = proto::ShowShardRequest {
                which: Some(proto::show_shard_request::Which::ShardId(shard_id)),
            };
            of_status(&admin.show_shard(guarded.request(caller, show)).await)
        }
        "Admin.TransferLeader" => {
            let transfer = proto::TransferLeaderRequest {
                shard_id,
                node_id: 99,
            };
            of_status(
                &admin
                    .transfer_leader(guarded.request(caller, transfer))
                    .await,
            )
        }
        "Admin.Checksum" => {
            let checksum = proto::ChecksumRequest { shard_id };
            of_status(&admin.checksum(guarded.request(caller, checksum)).await)
        }
        other => panic!("no call for {other}"),
    }
}

/// Asks for data by a method of its own.
async fn call_data(
    guarded: &Guarded,
    caller: &str,
    kind: request::Kind,
) -> (&'static str, Verdict) {
    use request::Kind;
    let mut kv = guarded.node.kv().await;
    match kind {
        Kind::Get(get) => (
            "Kv.Get",
            of_status(&kv.get(guarded.request(caller, get)).await),
        ),
        Kind::BatchGet(get) => (
            "Kv.BatchGet",
            of_status(&kv.batch_get(guarded.request(caller, get)).await),
        ),
        Kind::Put(put) => (
            "Kv.Put",
            of_status(&kv.put(guarded.request(caller, put)).await),
        ),
        Kind::Delete(delete) => (
            "Kv.Delete",
            of_status(&kv.delete(guarded.request(caller, delete)).await),
        ),
        Kind::Scan(scan) => (
            "Kv.Scan",
            of_status(&kv.scan(guarded.request(caller, scan)).await),
        ),
        Kind::Batch(batch) => (
            "Kv.Batch",
            of_status(&kv.batch(guarded.request(caller, batch)).await),
        ),
        Kind::OpenSession(open) => (
            "Kv.OpenSession",
            of_status(&kv.open_session(guarded.request(caller, open)).await),
        ),
        Kind::CloseSession(close) => (
            "Kv.CloseSession",
            of_status(&kv.close_session(guarded.request(caller, close)).await),
        ),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_method_has_its_row_and_does_what_the_row_says() {
    let known: BTreeSet<String> = METHODS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(
        declared(),
        known,
        "a method without a row, or a row without a method"
    );
    let guarded = Guarded::new().await;
    // A part of all requests, each kind among them.
    let sample = || {
        requests()
            .into_iter()
            .step_by(37)
            .chain(requests().into_iter().take(72))
    };
    let mut met = BTreeSet::new();
    for (caller, letters) in CALLERS {
        for (method, used) in METHODS {
            match used {
                Use::Users => {
                    let verdict = call(&guarded, caller, method).await;
                    assert_eq!(verdict, expected(caller, true), "{caller}: {method}");
                }
                Use::Cluster => {
                    let verdict = call(&guarded, caller, method).await;
                    let may = letters.contains('A');
                    assert_eq!(verdict, expected(caller, may), "{caller}: {method}");
                }
                // The meta shard, one whose range is wider than the prefix, and one that is not there.
                Use::Shard => {
                    for shard in [1, 2, 77] {
                        let verdict = call_shard(&guarded, caller, method, shard).await;
                        let may = letters.contains('A');
                        assert_eq!(verdict, expected(caller, may), "{caller}: {method} {shard}");
                    }
                }
                // By the requests below, by the test above, and by nobody who has no certificate of a node.
                Use::Data | Use::Stream | Use::Nodes => {}
            }
        }
        for (kind, may) in sample() {
            let shown = format!("{kind:?}");
            let (method, verdict) = call_data(&guarded, caller, kind).await;
            assert_eq!(
                verdict,
                expected(caller, may(letters)),
                "{caller}: {method}: {shown}"
            );
            met.insert(method);
        }
    }
    let data = METHODS.iter().filter(|(_, used)| matches!(used, Use::Data));
    assert_eq!(met, data.map(|(name, _)| *name).collect());
}
