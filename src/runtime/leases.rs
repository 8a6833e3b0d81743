//! Open leases: what a worker lets others read by without asking it.
//!
//! A worker says up to which tick of its clock a shard's lease is open; whoever is asked to read looks at that, then at the
//! clock, and then reads what is applied. So a read costs no way through a mailbox and back.
//!
//! Why that is safe: the worker closes the lease before anybody can learn of what is committed and not yet applied, and before
//! it hands over; so while it is open, the applied state has all that anybody was ever told. A reader that stands still
//! behind its look at the clock reads a newer state, never an older one.

use std::{
    sync::{
        Arc,
        atomic::{
            AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, unbounded};
use dashmap::DashMap;
use flotilla_shards::{engine::OpenLease, ids::ShardId};

/// The open leases of a worker's shards.
#[derive(Debug)]
pub(super) struct Leases {
    /// When tick 0 of the worker began.
    start: Instant,
    tick: Duration,
    /// Only shards whose lease was ever open.
    by_shard: DashMap<ShardId, Arc<Lease>>,
    /// Shards with reads that the worker has not heard of; each at most once.
    used: (Sender<Used>, Receiver<Used>),
}

type Used = (ShardId, Arc<Lease>);

#[derive(Debug, Default)]
struct Lease {
    /// Nanoseconds after the start at which it is over; 0: it is not open.
    until: AtomicU64,
    /// Reads that the worker has not heard of.
    reads: AtomicU64,
}

impl Leases {
    /// None is open. Tick 0 begins now.
    pub(super) fn new(tick: Duration) -> Self {
        Self {
            start: Instant::now(),
            tick,
            by_shard: DashMap::new(),
            used: unbounded(),
        }
    }

    /// When tick 0 began.
    pub(super) fn start(&self) -> Instant {
        self.start
    }

    /// What the engine has said, before anything else that it said leaves.
    pub(super) fn set(&self, lease: OpenLease) {
        let tick = u64::try_from(self.tick.as_nanos()).unwrap_or(u64::MAX);
        let until = lease.until.saturating_mul(tick);
        match self.by_shard.get(&lease.shard) {
            Some(known) => known.until.store(until, SeqCst),
            None => {
                let new = Arc::new(Lease {
                    until: AtomicU64::new(until),
                    ..Lease::default()
                });
                self.by_shard.insert(lease.shard, new);
            }
        }
    }

    /// Whether what is applied may be read now, for a request that came before.
    pub(super) fn may_read(&self, shard: ShardId) -> bool {
        let Some(lease) = self.by_shard.get(&shard) else {
            return false;
        };
        let until = lease.until.load(SeqCst);
        // The clock is read after the lease: the other way round, a thread that stood still in between would take a later
        // lease's end for that of the moment that it saw.
        if until == 0 || self.start.elapsed().as_nanos() >= u128::from(until) {
            return false;
        }
        if lease.reads.fetch_add(1, Relaxed) == 0 {
            // The receiver lives as long as the sender.
            let _ = self.used.0.send((shard, Arc::clone(&lease)));
        }
        true
    }

    /// Reads since this was last asked, by shard.
    pub(super) fn take_reads(&self) -> impl Iterator<Item = (ShardId, u64)> + '_ {
        let used = self.used.1.try_iter();
        used.map(|(shard, lease)| (shard, lease.reads.swap(0, Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: ShardId = ShardId(2);

    fn open(leases: &Leases, until: u64) {
        let shard = SHARD;
        leases.set(OpenLease { shard, until });
    }

    #[test]
    fn a_lease_is_open_until_its_tick_or_until_it_is_closed() {
        let leases = Leases::new(Duration::from_secs(3600));
        assert!(!leases.may_read(SHARD), "never heard of");
        open(&leases, 1);
        assert!(leases.may_read(SHARD));
        assert!(!leases.may_read(ShardId(3)));
        open(&leases, 0);
        assert!(!leases.may_read(SHARD));
        let leases = Leases::new(Duration::from_nanos(1));
        open(&leases, 1);
        while leases.start().elapsed() < Duration::from_nanos(1) {}
        assert!(!leases.may_read(SHARD), "its tick has begun");
    }

    #[test]
    fn every_read_is_told_once() {
        let leases = Leases::new(Duration::from_secs(3600));
        open(&leases, 1);
        for reads in [1, 5] {
            for _ in 0..reads {
                assert!(leases.may_read(SHARD));
            }
            assert_eq!(leases.take_reads().collect::<Vec<_>>(), [(SHARD, reads)]);
            assert_eq!(leases.take_reads().count(), 0);
        }
    }
}
