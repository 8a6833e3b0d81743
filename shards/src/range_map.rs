//! Which shard holds a key. Immutable: readers share one map, a change makes a new one.

use crate::descriptor::{Descriptor, Epoch};
use crate::ids::ShardId;
use bytes::Bytes;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The descriptors of a cluster as far as known, by range and by id.
///
/// *Invariant:* the user shards ascend by start and do not overlap. There may be gaps: a route that is not known yet.
/// The meta shard is found by its id only, as its keys lie in another namespace.
#[derive(Clone, Debug, Default)]
pub struct RangeMap {
    /// User shards, ascending by start.
    shards: Vec<Arc<Descriptor>>,
    /// The first bytes of their starts: a search goes through these, which lie side by side, and not from one start to the
    /// next, each of which is a few cache misses away.
    heads: Vec<u64>,
    /// Position in `shards` by id, ascending by id.
    ids: Vec<(ShardId, usize)>,
    meta: Option<Arc<Descriptor>>,
}

/// Where the ranges fail to tile the keyspace.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TilingError {
    /// There is no shard at all.
    #[error("no shard holds any key")]
    Empty,
    /// No shard holds the keys from here on.
    #[error("no shard holds the keys from \"{}\" on", from.escape_ascii())]
    Gap {
        /// First key without a shard.
        from: Bytes,
    },
    /// Two shards hold the same keys.
    #[error("shards {left} and {right} both hold the keys from \"{}\" on", from.escape_ascii())]
    Overlap {
        /// One shard.
        left: ShardId,
        /// The other.
        right: ShardId,
        /// First key of both.
        from: Bytes,
    },
}

/// Checks that ranges, ascending by start, cover every key exactly once.
///
/// # Errors
/// The first gap or overlap.
pub fn check_tiling<'a>(
    shards: impl IntoIterator<Item = &'a Descriptor>,
) -> Result<(), TilingError> {
    let mut shards = shards.into_iter();
    let mut left = shards.next().ok_or(TilingError::Empty)?;
    if !left.range.start().is_empty() {
        return Err(TilingError::Gap { from: Bytes::new() });
    }
    for right in shards {
        if left.range.overlaps(&right.range) {
            return Err(TilingError::Overlap {
                left: left.shard,
                right: right.shard,
                from: right.range.start().clone(),
            });
        }
        if left.range.end() != right.range.start() {
            return Err(TilingError::Gap {
                from: left.range.end().clone(),
            });
        }
        left = right;
    }
    if !left.range.is_open() {
        return Err(TilingError::Gap {
            from: left.range.end().clone(),
        });
    }
    Ok(())
}

impl RangeMap {
    /// The map of these descriptors; where two contradict each other, the rules of [`RangeMap::with`] decide.
    #[must_use]
    pub fn new(descriptors: impl IntoIterator<Item = Arc<Descriptor>>) -> Self {
        Self::default().with_all(descriptors)
    }

    /// The shard that holds `key`, if its route is known.
    #[must_use]
    pub fn lookup(&self, key: &[u8]) -> Option<&Arc<Descriptor>> {
        let after = self.position(key, |start| start <= key);
        let shard = &self.shards[after.checked_sub(1)?];
        shard.range.contains(key).then_some(shard)
    }

    /// The shard that holds the greatest key below `end`; an empty end is above all keys. Where a reverse scan begins.
    #[must_use]
    pub fn lookup_before(&self, end: &[u8]) -> Option<&Arc<Descriptor>> {
        let after = if end.is_empty() {
            self.shards.len()
        } else {
            self.position(end, |start| start < end)
        };
        let shard = &self.shards[after.checked_sub(1)?];
        let reaches = shard.range.is_open() || (!end.is_empty() && &shard.range.end()[..] >= end);
        reaches.then_some(shard)
    }

    /// How many shards begin `before` the end of the search, which is at `key` or right behind it.
    fn position(&self, key: &[u8], before: impl Fn(&[u8]) -> bool) -> usize {
        // Lesser heads belong to lesser keys, greater ones to greater keys; those that are equal say nothing.
        let head = head(key);
        let from = self.heads.partition_point(|&other| other < head);
        let equal = self.heads[from..].partition_point(|&other| other == head);
        let shards = &self.shards[from..from + equal];
        from + shards.partition_point(|shard| before(&shard.range.start()[..]))
    }

    /// The shard with this id, the meta shard included.
    #[must_use]
    pub fn by_id(&self, shard: ShardId) -> Option<&Arc<Descriptor>> {
        if shard.is_meta() {
            return self.meta.as_ref();
        }
        let at = self.ids.binary_search_by_key(&shard, |&(id, _)| id).ok()?;
        Some(&self.shards[self.ids[at].1])
    }

    /// The shard that begins where this one ends, if its route is known.
    #[must_use]
    pub fn next_after(&self, descriptor: &Descriptor) -> Option<&Arc<Descriptor>> {
        if descriptor.range.is_open() {
            return None;
        }
        self.lookup(descriptor.range.end())
    }

    /// User shards, ascending by range.
    #[must_use]
    pub fn shards(&self) -> &[Arc<Descriptor>] {
        &self.shards
    }

    /// The meta shard's descriptor, if known.
    #[must_use]
    pub fn meta(&self) -> Option<&Arc<Descriptor>> {
        self.meta.as_ref()
    }

    /// The next page of all shards in the order of their ids, the meta shard included: those with an id above `after`.
    pub fn ids_after(&self, after: ShardId) -> impl Iterator<Item = &Arc<Descriptor>> {
        let from = self.ids.partition_point(|&(id, _)| id <= after);
        let meta = self.meta.iter().filter(move |_| after < ShardId::META);
        meta.chain(self.ids[from..].iter().map(|&(_, at)| &self.shards[at]))
    }

    /// Whether every key has exactly one shard.
    ///
    /// # Errors
    /// The first gap.
    pub fn tiles(&self) -> Result<(), TilingError> {
        check_tiling(self.shards.iter().map(|shard| &**shard))
    }

    /// The map after learning of one more descriptor, see [`RangeMap::with_all`]. Costs a copy of the whole map: for
    /// more than one descriptor use that.
    #[must_use]
    pub fn with(&self, descriptor: Arc<Descriptor>) -> Self {
        self.with_all([descriptor])
    }

    /// The map after learning of more descriptors. Of one shard the newer epoch stays. Of two shards that overlap (one
    /// was split from, or merged into, the other) the one with the greater range epoch stays, and at equal epochs the
    /// one that was known; the loser is forgotten whole, as part of it would be a guess.
    #[must_use]
    pub fn with_all(&self, descriptors: impl IntoIterator<Item = Arc<Descriptor>>) -> Self {
        let mut map = self.clone();
        let mut news: Vec<Arc<Descriptor>> = Vec::new();
        for descriptor in descriptors {
            if descriptor.shard.is_meta() {
                let newer = (map.meta.as_ref())
                    .is_none_or(|known| descriptor.epoch.is_newer_than(known.epoch));
                if newer {
                    map.meta = Some(descriptor);
                }
            } else {
                news.push(descriptor);
            }
        }
        if let [descriptor] = &news[..] {
            // The common case: one shard's replicas have changed, all positions stay.
            if let Ok(found) = (map.ids).binary_search_by_key(&descriptor.shard, |&(id, _)| id) {
                let known = &mut map.shards[map.ids[found].1];
                if !descriptor.epoch.is_newer_than(known.epoch) {
                    return map;
                }
                if known.range == descriptor.range {
                    *known = Arc::clone(descriptor);
                    return map;
                }
            }
        }
        if !news.is_empty() {
            map.settle(news);
        }
        map
    }

    /// Lets known and new descriptors compete for the keyspace.
    fn settle(&mut self, news: Vec<Arc<Descriptor>>) {
        let known = std::mem::take(&mut self.shards).into_iter();
        let mut claims: Vec<(bool, Arc<Descriptor>)> = known
            .map(|shard| (false, shard))
            .chain(news.into_iter().map(|shard| (true, shard)))
            .collect();
        // Of each shard the newest; at equal epochs the known one.
        claims.sort_unstable_by_key(|(new, shard)| {
            let Epoch { range, membership } = shard.epoch;
            (shard.shard, Reverse((range, membership)), *new)
        });
        claims.dedup_by_key(|(_, shard)| shard.shard);
        // The strongest claims first; each gets its range unless a stronger one overlaps it.
        claims.sort_by_key(|(new, shard)| (Reverse(shard.epoch.range), *new));
        let mut kept: BTreeMap<Bytes, Arc<Descriptor>> = BTreeMap::new();
        for (_, claim) in claims {
            let start = claim.range.start().clone();
            let before = kept.range::<Bytes, _>(..=&start).next_back();
            let after = kept.range::<Bytes, _>(&start..).next();
            let mut neighbours = before.into_iter().chain(after);
            if !neighbours.any(|(_, other)| other.range.overlaps(&claim.range)) {
                kept.insert(start, claim);
            }
        }
        self.shards = kept.into_values().collect();
        self.heads = (self.shards.iter())
            .map(|shard| head(shard.range.start()))
            .collect();
        self.ids = (self.shards.iter().enumerate())
            .map(|(at, shard)| (shard.shard, at))
            .collect();
        self.ids.sort_unstable();
    }
}

/// The first bytes of a key as a number: of two keys the lesser one's is never the greater.
fn head(key: &[u8]) -> u64 {
    let mut head = [0; 8];
    let bytes = key.len().min(head.len());
    head[..bytes].copy_from_slice(&key[..bytes]);
    u64::from_be_bytes(head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::descriptor::{KeyRange, Replica};
    use crate::ids::NodeId;
    use crate::raft::ReplicaId;
    use proptest::prelude::*;

    fn shard(id: u64, start: &[u8], end: &[u8], range: u64) -> Arc<Descriptor> {
        Arc::new(Descriptor {
            shard: ShardId(id),
            range: KeyRange::new(Bytes::copy_from_slice(start), Bytes::copy_from_slice(end))
                .unwrap(),
            epoch: Epoch {
                membership: 1,
                range,
            },
            replicas: vec![Replica {
                id: ReplicaId(1),
                node: NodeId(1),
                learner: false,
            }],
        })
    }

    #[test]
    fn lookup_at_and_around_boundaries() {
        let map = RangeMap::new([
            shard(2, b"", b"g", 1),
            shard(3, b"g", b"p", 1),
            shard(4, b"p", b"", 1),
            shard(1, b"", b"", 1),
        ]);
        let at = |key: &[u8]| map.lookup(key).unwrap().shard.0;
        assert_eq!(
            (at(b""), at(b"f\xff"), at(b"g"), at(b"o"), at(b"p")),
            (2, 2, 3, 3, 4)
        );
        let before = |key: &[u8]| map.lookup_before(key).unwrap().shard.0;
        assert_eq!(
            (before(b""), before(b"p"), before(b"p\0"), before(b"g")),
            (4, 3, 4, 2)
        );
        assert_eq!(map.tiles(), Ok(()));
        assert_eq!(
            map.next_after(map.by_id(ShardId(2)).unwrap())
                .unwrap()
                .shard,
            ShardId(3)
        );
        assert!(map.next_after(map.by_id(ShardId(4)).unwrap()).is_none());
        assert_eq!(map.by_id(ShardId::META).unwrap().shard, ShardId::META);
        let ids: Vec<_> = map.ids_after(ShardId(0)).map(|d| d.shard.0).collect();
        assert_eq!(ids, [1, 2, 3, 4]);
        let ids: Vec<_> = map.ids_after(ShardId(2)).map(|d| d.shard.0).collect();
        assert_eq!(ids, [3, 4]);
    }

    #[test]
    fn keys_that_begin_alike_are_told_apart() {
        let starts: [&[u8]; 6] = [
            b"",
            b"account",
            b"account\0",
            b"account/1",
            b"account/12",
            b"account/2",
        ];
        let ends = starts[1..].iter().chain(&starts[..1]);
        let shards = starts.iter().zip(ends).zip(2..);
        let map = RangeMap::new(shards.map(|((start, end), id)| shard(id, start, end, 1)));
        let at = |key: &[u8]| map.lookup(key).unwrap().shard.0;
        for (start, id) in starts.iter().zip(2..) {
            assert_eq!(at(start), id, "{}", start.escape_ascii());
            let behind = [start, &b"\0\0"[..]].concat();
            let last = starts.iter().rposition(|start| **start <= behind[..]);
            assert_eq!(at(&behind), last.unwrap() as u64 + 2);
            if !start.is_empty() {
                assert_eq!(map.lookup_before(start).unwrap().shard.0, id - 1);
            }
        }
        assert_eq!((at(b"account/11"), at(b"account/3")), (5, 7));
    }

    #[test]
    fn a_split_replaces_the_parent() {
        let old = RangeMap::new([shard(2, b"", b"", 1)]);
        let half = old.with(shard(3, b"m", b"", 2));
        assert!(
            half.lookup(b"a").is_none(),
            "the old parent is no longer believed"
        );
        assert_eq!(half.tiles(), Err(TilingError::Gap { from: Bytes::new() }));
        let new = half.with(shard(2, b"", b"m", 2));
        assert_eq!(new.tiles(), Ok(()));
        // Late news of the old parent change nothing.
        let late = new.with(shard(2, b"", b"", 1));
        assert_eq!(late.shards(), new.shards());
        assert_eq!(
            old.lookup(b"z").unwrap().shard,
            ShardId(2),
            "maps are immutable"
        );
    }

    #[test]
    fn gaps_and_overlaps_are_named() {
        assert_eq!(RangeMap::default().tiles(), Err(TilingError::Empty));
        let gap = RangeMap::new([shard(2, b"", b"g", 1), shard(3, b"h", b"", 1)]);
        assert_eq!(gap.tiles(), Err(TilingError::Gap { from: "g".into() }));
        let open = RangeMap::new([shard(2, b"", b"g", 1)]);
        assert_eq!(open.tiles(), Err(TilingError::Gap { from: "g".into() }));
        let (a, b) = (shard(2, b"", b"g", 1), shard(3, b"f", b"", 1));
        let overlap = check_tiling([&*a, &*b]);
        assert!(
            matches!(overlap, Err(TilingError::Overlap { .. })),
            "{overlap:?}"
        );
    }

    /// The dumb twin: a list of descriptors, searched from front to back.
    #[derive(Default)]
    struct Twin(Vec<Arc<Descriptor>>);

    impl Twin {
        fn learn(&mut self, news: &Arc<Descriptor>) {
            if let Some(at) = self.0.iter().position(|known| known.shard == news.shard) {
                if !news.epoch.is_newer_than(self.0[at].epoch) {
                    return;
                }
                self.0.remove(at);
            }
            let rival = |known: &Arc<Descriptor>| known.range.overlaps(&news.range);
            if (self.0.iter()).any(|known| rival(known) && known.epoch.range >= news.epoch.range) {
                return;
            }
            self.0.retain(|known| !rival(known));
            self.0.push(Arc::clone(news));
        }

        fn lookup(&self, key: &[u8]) -> Option<ShardId> {
            (self.0.iter())
                .find(|known| known.range.contains(key))
                .map(|known| known.shard)
        }
    }

    fn news() -> impl Strategy<Value = Arc<Descriptor>> {
        let key = || proptest::collection::vec(0u8..6, 0..2);
        (2u64..9, key(), key(), 1u64..5).prop_filter_map("empty range", |(id, a, b, epoch)| {
            KeyRange::new(a.clone().into(), b.clone().into()).ok()?;
            Some(shard(id, &a, &b, epoch))
        })
    }

    proptest! {
        #[test]
        fn lookups_agree_with_a_list(
            all in proptest::collection::vec(news(), 0..12),
            keys in proptest::collection::vec(proptest::collection::vec(0u8..7, 0..3), 8),
        ) {
            let (mut map, mut twin) = (RangeMap::default(), Twin::default());
            for news in &all {
                map = map.with(Arc::clone(news));
                twin.learn(news);
            }
            for key in &keys {
                prop_assert_eq!(map.lookup(key).map(|d| d.shard), twin.lookup(key));
            }
            for shard in map.shards() {
                prop_assert!(map.by_id(shard.shard).is_some_and(|d| Arc::ptr_eq(d, shard)));
            }
            for pair in map.shards().windows(2) {
                prop_assert!(!pair[0].range.overlaps(&pair[1].range));
            }
        }
    }
}
