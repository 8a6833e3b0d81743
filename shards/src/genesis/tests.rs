//! Plans, their balance, and records that are refused.

use super::*;
use crate::range_map::RangeMap;
use prost::Message as _;
use std::sync::Arc;

fn nodes(count: u64) -> Vec<proto::Node> {
    (1..=count)
        .map(|n| proto::Node {
            node_id: 0,
            address: format!("host:{n}"),
            peer_address: String::new(),
            status_address: String::new(),
            store_id: Bytes::copy_from_slice(&[n as u8; 16]),
        })
        .collect()
}

fn plan(count: u64, split: &Split, replicas: usize) -> Result<Genesis, GenesisError> {
    Genesis::plan([7; 16], nodes(count), split, replicas, 1000)
}

#[test]
fn even_splits_ascend_at_any_size() {
    for shards in [
        1,
        2,
        3,
        64,
        256,
        2999,
        3000,
        3001,
        40_000,
        189_000,
        189_001,
        GENESIS_SHARDS_MAX,
    ] {
        let keys = even_split(shards);
        assert_eq!(keys.len(), shards - 1);
        assert!(keys.is_sorted_by(|a, b| a < b), "{shards} shards");
        assert!(keys.iter().all(|key| !key.is_empty() && key.len() <= 4));
    }
}

#[test]
fn text_spreads_over_many_shards_and_no_key_over_too_few() {
    let keys = even_split(64);
    let shards_of = |first: std::ops::RangeInclusive<u8>| {
        let mut shards: Vec<usize> = first
            .flat_map(|a| (0..=255).map(move |b| [a, b]))
            .map(|key| keys.partition_point(|split| split[..] <= key[..]))
            .collect();
        shards.dedup();
        shards.len()
    };
    assert!(shards_of(b'a'..=b'z') >= 29);
    assert!(shards_of(b'0'..=b'9') >= 8);
    assert_eq!(shards_of(0..=255), 64);
    // No shard gets more than four times its share of random bytes.
    let mut shares = vec![0; 64];
    for key in 0..=u16::MAX {
        let key = key.to_be_bytes();
        shares[keys.partition_point(|split| split[..] <= key[..])] += 1;
    }
    assert!(
        shares.iter().all(|&share| share <= 4 * 65_536 / 64),
        "{shares:?}"
    );
}

#[test]
fn a_plan_is_valid_and_balanced() {
    let genesis = plan(3, &Split::Even(64), 0).unwrap();
    let message = proto::Genesis::from(&genesis);
    assert_eq!(Genesis::try_from(message), Ok(genesis.clone()));
    assert_eq!((genesis.shards().count(), genesis.user_shards()), (65, 64));
    assert!(
        genesis
            .shards()
            .map(|shard| shard.shard)
            .eq(genesis.shard_ids())
    );
    let map = RangeMap::new(genesis.shards().map(Arc::new));
    assert_eq!(map.tiles(), Ok(()));
    for node in 1..=3 {
        assert_eq!(genesis.shards_on(NodeId(node)).count(), 65);
        let first = |shard: &Descriptor| shard.replicas[0].node == NodeId(node);
        assert!((21..=22).contains(&genesis.shards().filter(first).count()));
    }
    let five = plan(5, &Split::Even(64), 3).unwrap();
    for node in 1..=5 {
        assert_eq!(five.shards_on(NodeId(node)).count(), 39);
    }
}

#[test]
fn the_factor_of_replication_is_odd_and_possible() {
    let replicas = |nodes, asked| {
        let genesis = plan(nodes, &Split::Even(1), asked)?;
        Ok(genesis
            .shards()
            .map(|shard| shard.replicas.len())
            .sum::<usize>()
            / 2)
    };
    assert_eq!(replicas(1, 0), Ok(1));
    assert_eq!(replicas(2, 0), Ok(2));
    assert_eq!(replicas(5, 0), Ok(3));
    assert_eq!(replicas(5, 5), Ok(5));
    for (nodes, replicas_asked) in [(5, 2), (3, 5)] {
        let error = replicas(nodes, replicas_asked).unwrap_err();
        assert!(matches!(error, GenesisError::Replicas { .. }), "{error}");
    }
}

#[test]
fn split_keys_are_checked() {
    let at = |keys: &[&'static [u8]]| {
        let keys = keys.iter().map(|key| Bytes::from_static(key)).collect();
        plan(3, &Split::At(keys), 0)
    };
    let genesis = at(&[b"g", b"p"]).unwrap();
    let middle = genesis.shards().nth(2).unwrap();
    assert_eq!(middle.range.to_string(), "[\"g\", \"p\")");
    assert_eq!(at(&[]).unwrap().shards().count(), 2);
    assert_eq!(at(&[b""]), Err(GenesisError::SplitKeyEmpty { at: 0 }));
    let error = at(&[b"p", b"p"]).unwrap_err().to_string();
    assert_eq!(error, "split key 1 \"p\" is not above the one before it");
    assert!(matches!(
        at(&[b"p", b"g"]),
        Err(GenesisError::SplitKeyOrder { at: 1, .. })
    ));
    let long = plan(3, &Split::At(vec![vec![b'k'; 300].into()]), 0);
    assert_eq!(
        long,
        Err(GenesisError::SplitKeyTooLong { at: 0, bytes: 300 })
    );
}

#[test]
fn replicas_are_born_equal() {
    let genesis = plan(3, &Split::Even(2), 3).unwrap();
    assert!(genesis.rows(NodeId(1)).eq(genesis.rows(NodeId(3))));
    let state = genesis.shard_state(&genesis.shards().nth(1).unwrap());
    assert_eq!(state.applied_index, GENESIS_INDEX);
    assert_eq!(state.conf_state.voters.len(), 3);
    assert_eq!(
        (state.revision, state.clock_ms, state.next_session),
        (0, 1000, 1)
    );
    assert_eq!(ShardState::decode(state.encode()), Ok(state));
    let directory: Vec<_> = genesis.directory().collect();
    assert!(directory.contains(&MetaRow::Next(Allocator::Node, 4)));
    assert!(directory.contains(&MetaRow::Next(Allocator::Shard, 4)));
    assert_eq!(genesis.rows(NodeId(1)).count(), 3 + directory.len());
    assert_eq!(genesis.rows(NodeId(9)).count(), 0);
}

#[test]
fn broken_records_are_refused() {
    let listed = plan(3, &Split::At(even_split(2)), 3).unwrap();
    let genesis = proto::Genesis::from(&listed);
    let broken = |change: &dyn Fn(&mut proto::Genesis)| {
        let mut message = genesis.clone();
        change(&mut message);
        Genesis::try_from(message).unwrap_err().to_string()
    };
    assert!(broken(&|m| m.cluster_id = Bytes::new()).contains("0 bytes"));
    assert!(broken(&|m| m.nodes.clear()).contains("0 nodes"));
    assert!(broken(&|m| m.nodes[1].node_id = 1).contains("same id"));
    assert!(broken(&|m| m.nodes[1].address = "host:1".into()).contains("same address"));
    assert!(broken(&|m| m.nodes[1].store_id = m.nodes[0].store_id.clone()).contains("store id"));
    assert!(broken(&|m| m.nodes[2].node_id = 9).contains("node 3, which is not part"));
    assert!(broken(&|m| m.shards.clear()).contains("0 shards"));
    assert!(broken(&|m| m.shards.truncate(1)).contains("no shard holds any key"));
    assert!(broken(&|m| m.shards.truncate(2)).contains("no shard holds the keys from"));
    assert!(broken(&|m| m.shards[2].shard_id = 2).contains("shard 2 is given twice"));
    assert!(broken(&|m| m.shards.swap(0, 1)).contains("meta shard"));
    assert!(broken(&|m| m.shards[0].end = "x".into()).contains("meta shard"));
    assert!(broken(&|m| m.shards[1].end = "zzz".into()).contains("both hold"));
    assert!(broken(&|m| m.shards[1].epoch = None).contains("no epoch"));
    assert!(
        broken(&|m| {
            m.shards[1].epoch = Some(proto::Epoch {
                membership: 1,
                range: 2,
            });
        })
        .contains("epoch 2.1")
    );
}

/// Folders hold the rule, not the shards: what follows from it must never change.
#[test]
fn a_rule_stands_for_the_same_shards_for_ever() {
    for (count, shards, replicas, expected) in [
        (3, 64, 0, 1_513_166_540),
        (5, 3_001, 5, 1_613_544_994),
        (4, 190_000, 3, 4_285_676_607),
    ] {
        let even = plan(count, &Split::Even(shards), replicas).unwrap();
        let message = proto::Genesis::from(&even);
        assert!(message.shards.is_empty());
        assert_eq!(Genesis::try_from(message), Ok(even.clone()));
        let mut sum = crc32fast::Hasher::new();
        for shard in even.shards() {
            sum.update(&proto::Descriptor::from(&shard).encode_to_vec());
        }
        assert_eq!(sum.finalize(), expected, "{count} nodes, {shards} shards");
        if shards < GENESIS_LISTED_MAX {
            let listed = plan(count, &Split::At(even_split(shards)), replicas).unwrap();
            assert!(even.shards().eq(listed.shards()));
        }
    }
}

#[test]
fn broken_rules_are_refused() {
    let genesis = proto::Genesis::from(&plan(3, &Split::Even(2), 3).unwrap());
    let broken = |change: &dyn Fn(&mut proto::Genesis, &mut proto::EvenSplit)| {
        let mut message = genesis.clone();
        let mut even = message.even.unwrap();
        change(&mut message, &mut even);
        message.even = Some(even);
        Genesis::try_from(message).unwrap_err().to_string()
    };
    assert!(broken(&|_, even| even.shards = 0).contains("0 shards are given"));
    assert!(broken(&|_, even| even.shards = 1_000_001).contains("expected 1 to 1000000"));
    assert!(broken(&|_, even| even.replicas = 0).contains("0 replicas per shard"));
    assert!(broken(&|_, even| even.replicas = 4).contains("4 replicas per shard on 3 nodes"));
    let listed = plan(3, &Split::At(even_split(2)), 3).unwrap();
    let listed = proto::Genesis::from(&listed).shards;
    assert!(broken(&|message, _| message.shards.clone_from(&listed)).contains("3 are listed"));
}
