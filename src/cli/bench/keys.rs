//! Keys that are spread evenly over shards, wherever these begin and end.

use bytes::{BufMut as _, Bytes, BytesMut};

use crate::{
    cli::failure::{Failure, Outcome},
    client::Route,
};

/// A set of keys: number `n` lies in shard `n` modulo the number of shards.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    starts: Vec<Bytes>,
    count: u64,
}

/// What follows a shard's start: the number in 16 hex digits.
const DIGITS: usize = 16;

impl Keys {
    /// `count` keys over the first `shards` of the routes.
    pub(super) fn new(routes: &[Route], count: u64, shards: Option<u32>) -> Outcome<Self> {
        // A shard may be too narrow to hold our keys: one that ends within what begins with its start.
        let holds_all = |route: &&Route| {
            let range = &route.descriptor.range;
            range.contains(&key(range.start(), 0)) && range.contains(&key(range.start(), count))
        };
        let starts: Vec<Bytes> = routes
            .iter()
            .filter(holds_all)
            .map(|route| route.descriptor.range.start().clone())
            .take(shards.map_or(usize::MAX, |shards| shards as usize))
            .collect();
        if let Some(wanted) = shards
            && starts.len() < wanted as usize
        {
            return Err(Failure::Usage(format!(
                "--shards {wanted}: the cluster has {} usable shards",
                starts.len()
            )));
        }
        if starts.is_empty() {
            return Err(Failure::Incomplete(
                "no shard is wide enough for the benchmark's keys".to_owned(),
            ));
        }
        Ok(Self { starts, count })
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn shards(&self) -> usize {
        self.starts.len()
    }

    pub(super) fn get(&self, number: u64) -> Bytes {
        let shard = usize::try_from(number % self.starts.len() as u64).expect("below a length");
        key(&self.starts[shard], number)
    }
}

fn key(start: &Bytes, number: u64) -> Bytes {
    let mut key = BytesMut::with_capacity(start.len() + DIGITS);
    key.extend_from_slice(start);
    for digit in (0..DIGITS as u32).rev() {
        let nibble = (number >> (4 * digit)) as u8 & 0xf;
        key.put_u8(b"0123456789abcdef"[usize::from(nibble)]);
    }
    key.freeze()
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Arc};

    use flotilla_shards::{
        descriptor::{Descriptor, Epoch, KeyRange},
        ids::ShardId,
    };

    use super::*;

    fn route(number: u64, start: &'static str, end: &'static str) -> Route {
        Route {
            descriptor: Arc::new(Descriptor {
                shard: ShardId(number + 2),
                range: KeyRange::new(start.into(), end.into()).expect("ascending"),
                epoch: Epoch::default(),
                replicas: Vec::new(),
            }),
            leader: None,
        }
    }

    #[test]
    fn keys_are_distinct_and_lie_in_their_shards() {
        let routes = [
            route(0, "", "b"),
            route(1, "b", "b0"),
            route(2, "b0", "c"),
            route(3, "c", ""),
        ];
        let keys = Keys::new(&routes, 100, None).expect("three are wide enough");
        assert_eq!(keys.shards(), 3, "[b, b0) is too narrow");
        let all: BTreeSet<Bytes> = (0..100).map(|number| keys.get(number)).collect();
        assert_eq!(all.len(), 100);
        for route in [&routes[0], &routes[2], &routes[3]] {
            let inside = all
                .iter()
                .filter(|key| route.descriptor.range.contains(key));
            assert!((33..=34).contains(&inside.count()));
        }
        assert_eq!(
            Keys::new(&routes, 100, Some(2)).expect("enough").shards(),
            2
        );
        assert!(Keys::new(&routes, 100, Some(4)).is_err());
    }
}
