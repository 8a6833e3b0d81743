//! Keys that are spread evenly over shards, wherever these begin and end.

use bytes::{BufMut as _, Bytes, BytesMut};

use super::error::{Error, Result};
use crate::client::Route;

/// A set of keys: number `n` lies in shard `n` modulo the number of shards, in the order of the numbers. Numbers from
/// the count on are keys that are inserted later.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    /// What the keys of each shard begin with, and the digits that follow.
    shards: Vec<(Bytes, usize)>,
    count: u64,
}

/// Length of a key, unless a shard's start leaves too little room for the number.
const KEY_BYTES: usize = 16;
/// The fewest hex digits: enough for every number that a run can reach.
const DIGITS_MIN: usize = 10;
/// The most hex digits that a number fills; further ones would all be 0.
const DIGITS_MAX: usize = 16;

/// The greatest number that a shard must have room for: keys are inserted beyond those that are there.
const INSERTS_FACTOR: u64 = 256;
const NUMBERS_MIN: u64 = 1 << 32;
/// Zero bytes that may stand before the digits.
const ZEROS_MAX: usize = 2;

/// Digits after `start` for keys of this length.
fn digits(start: &Bytes, key_bytes: Option<usize>) -> Result<usize> {
    let wanted = key_bytes.unwrap_or(KEY_BYTES).saturating_sub(start.len());
    match key_bytes {
        Some(bytes) if wanted < DIGITS_MIN => Err(Error::Usage(format!(
            "--key-bytes {bytes} is too short: the keys of a shard begin with its start of {} bytes, and {DIGITS_MIN} \
             digits follow",
            start.len()
        ))),
        _ => Ok(wanted.max(DIGITS_MIN)),
    }
}

impl Keys {
    /// `count` keys over the first `shards` of the routes.
    pub(crate) fn of_shards(
        routes: &[Route],
        count: u64,
        shards: Option<u32>,
        key_bytes: Option<usize>,
    ) -> Result<Self> {
        let mut usable = Vec::new();
        let last = count.saturating_mul(INSERTS_FACTOR).max(NUMBERS_MIN);
        for route in routes {
            let range = &route.descriptor.range;
            // A shard may begin far below our digits, as the first one does, and end before them: then zero bytes bring us
            // into it. Or it may be too narrow to hold our keys.
            for zeros in 0..=ZEROS_MAX {
                let mut start = range.start().to_vec();
                start.resize(start.len() + zeros, 0);
                let start = Bytes::from(start);
                let digits = match digits(&start, key_bytes) {
                    Ok(digits) => digits,
                    Err(error) if zeros == 0 => return Err(error),
                    Err(_) => break,
                };
                let holds = |number| range.contains(&key(&start, digits, number));
                if holds(0) && holds(last) {
                    usable.push((start, digits));
                    break;
                }
            }
        }
        if let Some(wanted) = shards {
            if usable.len() < wanted as usize {
                return Err(Error::Usage(format!(
                    "--shards {wanted}: the cluster has {} usable shards",
                    usable.len()
                )));
            }
            usable.truncate(wanted as usize);
        }
        if usable.is_empty() {
            return Err(Error::Target(
                "no shard is wide enough for the benchmark's keys".to_owned(),
            ));
        }
        Ok(Self {
            shards: usable,
            count,
        })
    }

    /// `count` keys that begin with `prefix`, in a store without shards.
    pub(crate) fn with_prefix(
        prefix: &'static str,
        count: u64,
        key_bytes: Option<usize>,
    ) -> Result<Self> {
        let start = Bytes::from_static(prefix.as_bytes());
        let digits = digits(&start, key_bytes)?;
        Ok(Self {
            shards: vec![(start, digits)],
            count,
        })
    }

    /// Keys that are there before the run.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Shards that the keys lie in.
    pub(crate) fn shards(&self) -> u64 {
        self.shards.len() as u64
    }

    /// The place of a key's shard among those used.
    pub(crate) fn shard(&self, number: u64) -> usize {
        usize::try_from(number % self.shards()).expect("below a length")
    }

    /// The number of another key of the same shard, `steps` further on; after the last comes the first.
    pub(crate) fn neighbour(&self, number: u64, steps: u64) -> u64 {
        let shards = self.shards();
        let shard = number % shards;
        // Keys of this shard among those that are there.
        let in_shard = (self.count.saturating_sub(shard)).div_ceil(shards).max(1);
        let place = (number / shards + steps) % in_shard;
        place * shards + shard
    }

    pub(crate) fn get(&self, number: u64) -> Bytes {
        let (start, digits) = &self.shards[self.shard(number)];
        key(start, *digits, number)
    }
}

fn key(start: &Bytes, digits: usize, number: u64) -> Bytes {
    let mut key = BytesMut::with_capacity(start.len() + digits);
    key.extend_from_slice(start);
    key.put_bytes(b'0', digits.saturating_sub(DIGITS_MAX));
    for digit in (0..digits.min(DIGITS_MAX)).rev() {
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

    fn routes() -> [Route; 4] {
        [
            route(0, "", "b"),
            route(1, "b", "b\0\0\0"),
            route(2, "b\0\0\0", "c"),
            route(3, "c", ""),
        ]
    }

    #[test]
    fn keys_are_distinct_and_lie_in_their_shards() {
        let routes = routes();
        let keys = Keys::of_shards(&routes, 100, None, None).expect("three are wide enough");
        assert_eq!(keys.shards(), 3, "the second is too narrow");
        let all: BTreeSet<Bytes> = (0..100).map(|number| keys.get(number)).collect();
        assert_eq!(all.len(), 100);
        for route in [&routes[0], &routes[2], &routes[3]] {
            let inside = all
                .iter()
                .filter(|key| route.descriptor.range.contains(key));
            assert!((33..=34).contains(&inside.count()));
        }
        let some = |shards| Keys::of_shards(&routes, 100, Some(shards), None);
        assert_eq!(some(2).expect("enough").shards(), 2);
        assert!(some(4).is_err());
        let low = [route(0, "", "\0\x07"), route(1, "\0\x07", "")];
        let keys = Keys::of_shards(&low, 100, None, None).expect("both are wide enough");
        assert_eq!(keys.shards(), 2);
        assert!(
            low.iter()
                .zip([6, 7])
                .all(|(route, number)| { route.descriptor.range.contains(&keys.get(number)) })
        );
    }

    #[test]
    fn keys_are_as_long_as_wanted_and_in_the_order_of_their_numbers() {
        let keys = |bytes| Keys::of_shards(&routes(), 100, None, bytes);
        for (bytes, length) in [(None, 16), (Some(14), 14), (Some(40), 40)] {
            let keys = keys(bytes).expect("long enough");
            assert!((0..1000).all(|number| keys.get(number).len() == length));
            assert!((0..999).all(|number| keys.get(number) < keys.get(number + keys.shards())));
        }
        assert!(keys(Some(13)).is_err(), "four bytes and ten digits");
    }

    #[test]
    fn neighbours_are_all_keys_of_a_shard_in_turn() {
        let keys = Keys::of_shards(&routes(), 10, None, None).expect("wide enough");
        let around: Vec<u64> = (0..5).map(|steps| keys.neighbour(4, steps)).collect();
        assert_eq!(around, [4, 7, 1, 4, 7]);
        let few = Keys::of_shards(&routes(), 1, None, None).expect("wide enough");
        assert_eq!(few.neighbour(0, 3), 0);
    }
}
