//! Whose turn it is to ask for votes, or to be woken. The elections of thousands of shards (a new cluster, a dead node, a
//! cluster that is started again) must not fall upon it all at once: votes would come later than those who asked for them
//! wait, all would ask again, and none would ever be elected; or new leaders would hear nothing from their followers, and give
//! up. The same holds for resting leaders whose follower is back. So replicas that want an election queue, and how many may
//! begin in a tick depends on how many are under way: those that have come to work or to rest let the next ones begin.
//!
//! How many may be under way at once depends on the machine, and follows what it shows: a little more with every tick that is
//! in time, half as many with each that is late.
//!
//! *Invariant:* the queue is first in, first out (but for the meta shard, which does not wait) and moves on at every tick
//! whatever is under way, so that shards that nobody can win don't keep the others waiting for ever.

use std::collections::VecDeque;

/// Replicas that may be under way at once, as far as the queue decides: at first,
const UNDER_WAY_FIRST: usize = 1024;
/// and at most.
const UNDER_WAY_MAX: usize = 4096;
/// How many more may be under way after a tick that was in time.
const UNDER_WAY_STEP: usize = 64;
/// How many may begin in a tick in any case.
const PER_TICK_MIN: usize = 64;

/// See the module. Replicas by their place in the engine's table.
#[derive(Debug)]
pub(super) struct Campaigns {
    queue: VecDeque<u32>,
    /// How many may be under way.
    window: usize,
    /// How many may still begin in this tick.
    left: usize,
    /// Replicas that have begun, and neither work nor rest yet.
    pub(super) under_way: usize,
}

impl Campaigns {
    pub(super) fn new() -> Self {
        Self {
            queue: VecDeque::new(),
            window: UNDER_WAY_FIRST,
            left: UNDER_WAY_FIRST,
            under_way: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// A tick has passed, in time or not.
    pub(super) fn refill(&mut self, late: bool) {
        self.window = match late {
            true => (self.window / 2).max(PER_TICK_MIN),
            false => (self.window + UNDER_WAY_STEP).min(UNDER_WAY_MAX),
        };
        self.left = self.window.saturating_sub(self.under_way).max(PER_TICK_MIN);
    }

    /// How many resting leaders may be woken in this tick: no more than leave room for as many elections, as those shards
    /// have no leader.
    pub(super) fn room_for_wakes(&self) -> usize {
        self.left / 2
    }

    /// A replica wants an election; it must not be in the queue. `first`: before all that wait.
    pub(super) fn push(&mut self, place: u32, first: bool) {
        match first {
            true => self.queue.push_front(place),
            false => self.queue.push_back(place),
        }
    }

    /// Whose turn it is, if anybody may begin in this tick.
    pub(super) fn pop(&mut self) -> Option<u32> {
        match self.left {
            0 => None,
            _ => self.queue.pop_front(),
        }
    }

    /// A replica has begun.
    pub(super) fn begun(&mut self) {
        self.left = self.left.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin_all(campaigns: &mut Campaigns) -> usize {
        let mut begun = 0;
        while campaigns.pop().is_some() {
            campaigns.begun();
            begun += 1;
        }
        begun
    }

    #[test]
    fn what_is_under_way_holds_back_what_waits_but_never_all_of_it() {
        let mut campaigns = Campaigns::new();
        (0..5000).for_each(|place| campaigns.push(place, false));
        assert_eq!(begin_all(&mut campaigns), UNDER_WAY_FIRST);
        // None of them ends.
        campaigns.under_way = UNDER_WAY_FIRST;
        campaigns.refill(true);
        assert_eq!(begin_all(&mut campaigns), PER_TICK_MIN);
        // Most of them do.
        campaigns.under_way = 24;
        campaigns.refill(false);
        let window = UNDER_WAY_FIRST / 2 + UNDER_WAY_STEP;
        assert_eq!(begin_all(&mut campaigns), window - 24);
    }

    #[test]
    fn more_may_be_under_way_as_long_as_ticks_are_in_time() {
        let mut campaigns = Campaigns::new();
        (0..1000).for_each(|_| campaigns.refill(false));
        assert_eq!(campaigns.left, UNDER_WAY_MAX);
        campaigns.refill(true);
        assert_eq!(campaigns.left, UNDER_WAY_MAX / 2);
        (0..1000).for_each(|_| campaigns.refill(true));
        assert_eq!(
            (campaigns.left, campaigns.room_for_wakes()),
            (PER_TICK_MIN, PER_TICK_MIN / 2)
        );
    }

    #[test]
    fn who_comes_first_waits_behind_nobody() {
        let mut campaigns = Campaigns::new();
        (0..5000).for_each(|place| campaigns.push(place, false));
        campaigns.push(5000, true);
        assert_eq!(campaigns.pop(), Some(5000));
        assert_eq!(campaigns.pop(), Some(0));
    }
}
