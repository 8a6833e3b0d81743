//! Sums over all replicas, and what was asked of each: a look at the few that something happened to, however many rest.
//!
//! A turn notes whom it has visited, and a survey looks at those alone: what it found of the others before still holds. The
//! table of what was found is small and lies in one piece, so that adding it up costs little next to a walk over replicas.
//!
//! *Invariant:* whose figures differ from the table's is noted, or was missed or found again with its node since the last
//! survey, which then looks at all.

use super::{Engine, EngineConfig, Load, LogReader, liveness::Liveness, replica::Replica};
use crate::ids::ShardId;

/// Sums over the replicas of an engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Writes that wait: not yet proposed, or proposed and not yet committed.
    pub pending: u64,
    /// Shards led here that miss voters, see [`super::ReplicaStatus::missing`].
    pub under_replicated: u64,
    /// Those of them that miss too many for anything to be committed.
    pub without_quorum: u64,
    /// Bytes of all logs that are not cut, roughly.
    pub log_bytes: u64,
    /// The same of the longest.
    pub log_longest: u64,
}

impl Totals {
    /// The sums over these and others' replicas.
    #[must_use]
    pub fn and(self, others: Self) -> Self {
        Self {
            pending: self.pending + others.pending,
            under_replicated: self.under_replicated + others.under_replicated,
            without_quorum: self.without_quorum + others.without_quorum,
            log_bytes: self.log_bytes + others.log_bytes,
            log_longest: self.log_longest.max(others.log_longest),
        }
    }
}

/// A page of a survey.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// What was asked of the replicas that something happened to since they were last looked at.
    pub loads: Vec<(ShardId, Load)>,
    /// Replicas that are still to be looked at.
    pub left: usize,
}

/// What was last found of a replica.
#[derive(Clone, Copy, Debug, Default)]
struct Found {
    log_bytes: u64,
    pending: u32,
    missing: bool,
    helpless: bool,
}

/// See the module. Replicas by their place in the engine's table.
#[derive(Debug, Default)]
pub(super) struct Table {
    found: Vec<Found>,
    touched: Vec<u32>,
    /// The change of the liveness table with which the last survey began.
    liveness: u64,
}

impl<C, L: LogReader + Clone> Engine<C, L> {
    /// Looks at up to `limit` replicas that something happened to since they were last looked at. Costs as much as these:
    /// who wants to see them all asks in pages.
    pub fn survey(&mut self, limit: usize) -> Survey {
        if self.table.liveness != self.liveness.changes() {
            self.table.liveness = self.liveness.changes();
            (0..self.replicas.len()).for_each(|place| self.touch(place));
        }
        self.table
            .found
            .resize(self.replicas.len(), Found::default());
        let mut loads = Vec::with_capacity(limit.min(self.table.touched.len()));
        for _ in 0..limit {
            let Some(place) = self.table.touched.pop() else {
                // Once it held all of them.
                self.table.touched.shrink_to(limit);
                break;
            };
            let replica = &mut self.replicas[place as usize];
            replica.touched = false;
            self.table.found[place as usize] = replica.found(&self.config, &self.liveness);
            loads.push((replica.shard, replica.load));
        }
        Survey {
            loads,
            left: self.table.touched.len(),
        }
    }

    /// Sums over all replicas as of the last survey. An addition for each of them, and no look at any.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let sum = |mut sum: Totals, found: &Found| {
            sum.pending += u64::from(found.pending);
            sum.under_replicated += u64::from(found.missing);
            sum.without_quorum += u64::from(found.helpless);
            sum.log_bytes += found.log_bytes;
            sum.log_longest = sum.log_longest.max(found.log_bytes);
            sum
        };
        self.table.found.iter().fold(Totals::default(), sum)
    }

    /// Something has happened to the replica at this place.
    pub(super) fn touch(&mut self, place: usize) {
        let replica = &mut self.replicas[place];
        if !std::mem::replace(&mut replica.touched, true) {
            self.table
                .touched
                .push(u32::try_from(place).unwrap_or(u32::MAX));
        }
    }
}

impl<C, L: LogReader + Clone> Replica<C, L> {
    fn found(&self, config: &EngineConfig, liveness: &Liveness) -> Found {
        let status = self.status(config, liveness);
        Found {
            log_bytes: status.log_bytes,
            pending: u32::try_from(status.pending).unwrap_or(u32::MAX),
            missing: status.missing > 0,
            helpless: status.lacks_quorum(),
        }
    }
}
