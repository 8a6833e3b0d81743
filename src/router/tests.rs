//! The router against a twin without maps, and its waiters against the clock.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use flotilla_shards::{
    descriptor::{Epoch, KeyRange, Replica},
    raft::{ReplicaId, Role, Term},
    service::request as rules,
};
use proptest::prelude::*;

use super::*;

fn descriptor(shard: u64, start: &str, end: &str, range_epoch: u64) -> Arc<Descriptor> {
    Arc::new(Descriptor {
        shard: ShardId(shard),
        range: KeyRange::new(
            Bytes::copy_from_slice(start.as_bytes()),
            Bytes::copy_from_slice(end.as_bytes()),
        )
        .expect("a range"),
        epoch: Epoch {
            membership: 1,
            range: range_epoch,
        },
        replicas: [1, 2, 3]
            .map(|id| Replica {
                id: ReplicaId(id),
                node: NodeId(id),
                learner: false,
            })
            .to_vec(),
    })
}

fn change(shard: u64, role: Role, leader: Option<u64>) -> RoleChange {
    RoleChange {
        shard: ShardId(shard),
        role,
        term: Term(1),
        leader: leader.map(NodeId),
    }
}

fn router() -> Router {
    let descriptors = [
        descriptor(2, "", "g", 1),
        descriptor(3, "g", "p", 1),
        descriptor(4, "p", "", 1),
    ];
    let nodes = [1, 2, 3].map(|id| proto::Node {
        node_id: id,
        address: format!("node-{id}:7000"),
        ..proto::Node::default()
    });
    Router::new(NodeId(1), descriptors, nodes)
}

#[test]
fn keys_find_their_shard_and_hints_their_leader() {
    let router = router();
    let route = rules::route_key(b"h", &&router).expect("a route");
    assert_eq!(route.descriptor.shard, ShardId(3));
    assert!(route.local);
    assert_eq!(route.leader, None);

    router.note_leader(ShardId(3), NodeId(2));
    assert_eq!(router.leader(ShardId(3)), Some(NodeId(2)));
    router.note_change(&change(3, Role::Follower, Some(3)));
    assert_eq!(router.leader(ShardId(3)), Some(NodeId(3)));
    router.note_leader(ShardId(3), NodeId(2));
    assert_eq!(router.leader(ShardId(3)), Some(NodeId(2)));
    router.note_not_leader(ShardId(3), NodeId(2));
    assert_eq!(
        router.leader(ShardId(3)),
        Some(NodeId(3)),
        "the replica's own view is left"
    );

    router.note_change(&change(3, Role::Leader, Some(1)));
    router.note_leader(ShardId(3), NodeId(2));
    assert_eq!(
        router.leader(ShardId(3)),
        Some(NodeId(1)),
        "a leader knows itself"
    );
    assert_eq!(
        router.local_shards(),
        LocalShards {
            replicas: 3,
            leaders: 1,
            without_leader: 2
        }
    );
}

#[test]
fn a_newer_descriptor_replaces_a_stale_route_and_an_older_one_does_not() {
    let router = router();
    router.update(descriptor(3, "g", "k", 2));
    router.update(descriptor(5, "k", "p", 2));
    assert_eq!(
        rules::route_key(b"m", &&router).map(|r| r.descriptor.shard),
        Ok(ShardId(5))
    );
    router.update(descriptor(3, "g", "p", 1));
    assert_eq!(
        rules::route_key(b"m", &&router).map(|r| r.descriptor.shard),
        Ok(ShardId(5))
    );
    assert_eq!(
        router.by_id(ShardId(9)).map(|r| r.descriptor.shard),
        Err(RouteError::UnknownShard(ShardId(9)))
    );
}

#[test]
fn a_gap_is_an_error_that_names_the_key() {
    let router = Router::new(NodeId(1), [descriptor(2, "c", "g", 1)], []);
    let error = rules::route_key(b"a", &&router).expect_err("a gap");
    assert_eq!(error.message, "no shard is known for the key \"a\"");
    let before = |end: &'static [u8]| {
        let scan = proto::ScanRequest {
            end: end.into(),
            reverse: true,
            ..proto::ScanRequest::default()
        };
        rules::route_scan(&scan, &&router)
            .map(|route| route.descriptor.shard)
            .map_err(|error| error.message)
    };
    assert!(before(b"").is_err());
    assert_eq!(before(b"g"), Ok(ShardId(2)));
}

/// One thing that happens to a router.
#[derive(Clone, Debug)]
enum Event {
    Change(u64, bool, Option<u64>),
    Hint(u64, u64),
    Denied(u64, u64),
}

fn event() -> impl Strategy<Value = Event> {
    let shard = 2..5_u64;
    let node = 1..4_u64;
    prop_oneof![
        (shard.clone(), any::<bool>(), proptest::option::of(2..4_u64))
            .prop_map(|(shard, leads, leader)| Event::Change(shard, leads, leader)),
        (shard.clone(), node.clone()).prop_map(|(shard, node)| Event::Hint(shard, node)),
        (shard, node).prop_map(|(shard, node)| Event::Denied(shard, node)),
    ]
}

proptest! {
    /// The twin knows nothing of maps and stripes: lists of claims, newest last.
    #[test]
    fn the_router_agrees_with_its_dumb_twin(
        events in proptest::collection::vec(event(), 0..40),
        keys in proptest::collection::vec("[a-z]{0,2}", 8),
    ) {
        let router = router();
        let ranges = [(2, "", "g"), (3, "g", "p"), (4, "p", "\u{7f}")];
        let mut claims: BTreeMap<u64, (bool, Option<u64>, Option<u64>)> = BTreeMap::new();
        for event in events {
            match event {
                Event::Change(shard, leads, leader) => {
                    let (role, leader) = if leads { (Role::Leader, Some(1)) } else { (Role::Follower, leader) };
                    router.note_change(&change(shard, role, leader));
                    claims.insert(shard, (leads, leader, None));
                }
                Event::Hint(shard, node) => {
                    router.note_leader(ShardId(shard), NodeId(node));
                    let claim = claims.entry(shard).or_default();
                    if !claim.0 {
                        claim.2 = Some(node);
                    }
                }
                Event::Denied(shard, node) => {
                    router.note_not_leader(ShardId(shard), NodeId(node));
                    let claim = claims.entry(shard).or_default();
                    if claim.2 == Some(node) {
                        claim.2 = None;
                    }
                }
            }
            for key in &keys {
                let shard = ranges
                    .iter()
                    .find(|(_, start, end)| *start <= key.as_str() && key.as_str() < *end)
                    .map(|(shard, ..)| *shard)
                    .expect("the ranges tile");
                let route = rules::route_key(key.as_bytes(), &&router).expect("a route");
                prop_assert_eq!(route.descriptor.shard.0, shard);
                let expected = claims.get(&shard).and_then(|claim| claim.2.or(claim.1));
                prop_assert_eq!(route.leader.map(|node| node.0), expected);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_wakeup_is_lost() {
    let router = Arc::new(router());
    let far = Instant::now() + Duration::from_secs(60);
    for round in 0..200_u64 {
        let shard = ShardId(2 + round % 3);
        router.note_change(&change(shard.0, Role::Follower, None));
        let waiters: Vec<_> = (0..8)
            .map(|_| {
                let router = Arc::clone(&router);
                tokio::spawn(async move { router.wait_for_leader(shard, None, far).await })
            })
            .collect();
        // No pause: the change races with the waiters' registration.
        router.note_change(&change(shard.0, Role::Follower, Some(2)));
        for waiter in waiters {
            assert_eq!(waiter.await.expect("a task"), Ok(Some(NodeId(2))));
        }
    }
    assert_eq!(router.waiters.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn waiting_ends_at_its_deadline_and_skips_who_denied() {
    let router = Arc::new(router());
    let until = Instant::now() + Duration::from_secs(1);
    assert_eq!(
        router.wait_for_leader(ShardId(2), None, until).await,
        Ok(None)
    );
    assert_eq!(Instant::now(), until);

    router.note_leader(ShardId(2), NodeId(3));
    let until = Instant::now() + Duration::from_secs(1);
    let waiting = router.wait_for_leader(ShardId(2), Some(NodeId(3)), until);
    let naming = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        router.note_leader(ShardId(2), NodeId(2));
    };
    let (leader, ()) = tokio::join!(waiting, naming);
    assert_eq!(leader, Ok(Some(NodeId(2))));
    assert!(Instant::now() < until);
}

#[tokio::test]
async fn waiters_are_bounded() {
    let router = router();
    router.waiters.store(WAITERS_MAX, Ordering::Relaxed);
    let waited = router
        .wait_for_leader(ShardId(2), None, Instant::now())
        .await;
    assert_eq!(waited, Err(RouteError::TooManyWaiters));
    assert_eq!(router.waiters.load(Ordering::Relaxed), WAITERS_MAX);
}
