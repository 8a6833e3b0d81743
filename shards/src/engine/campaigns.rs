//! Whose turn it is to ask for votes. The elections of thousands of shards (a new cluster, a dead node, a cluster that is
//! started again) must not fall upon it all at once: votes would come later than those who asked for them wait, all would
//! ask again, and none would ever be elected. So replicas that want an election queue, and how many may begin in a tick
//! depends on how many are under way: those that end let the next ones begin.
//!
//! *Invariant:* the queue is first in, first out and moves on at every tick whatever is under way, so that shards that
//! nobody can win don't keep the others waiting for ever.

use std::collections::VecDeque;

/// Elections of an engine's replicas that may be under way, as far as the queue decides.
const UNDER_WAY_MAX: usize = 1024;
/// How many may begin in a tick in any case.
const PER_TICK_MIN: usize = 64;

/// See the module. Replicas by their place in the engine's table.
#[derive(Debug)]
pub(super) struct Campaigns {
    queue: VecDeque<u32>,
    /// How many may still begin in this tick.
    left: usize,
    /// Replicas that are candidates.
    pub(super) under_way: usize,
}

impl Campaigns {
    pub(super) fn new() -> Self {
        Self {
            queue: VecDeque::new(),
            left: UNDER_WAY_MAX,
            under_way: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// A tick has passed.
    pub(super) fn refill(&mut self) {
        self.left = UNDER_WAY_MAX
            .saturating_sub(self.under_way)
            .max(PER_TICK_MIN);
    }

    /// A replica wants an election; it must not be in the queue.
    pub(super) fn push(&mut self, place: u32) {
        self.queue.push_back(place);
    }

    /// Whose turn it is, if anybody may begin in this tick.
    pub(super) fn pop(&mut self) -> Option<u32> {
        match self.left {
            0 => None,
            _ => self.queue.pop_front(),
        }
    }

    /// An election has begun.
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
        (0..5000).for_each(|place| campaigns.push(place));
        assert_eq!(begin_all(&mut campaigns), UNDER_WAY_MAX);
        // None of them ends.
        campaigns.under_way = UNDER_WAY_MAX;
        campaigns.refill();
        assert_eq!(begin_all(&mut campaigns), PER_TICK_MIN);
        // Most of them do.
        campaigns.under_way = 24;
        campaigns.refill();
        assert_eq!(campaigns.pop(), Some((UNDER_WAY_MAX + PER_TICK_MIN) as u32));
        campaigns.begun();
        assert_eq!(begin_all(&mut campaigns), UNDER_WAY_MAX - 24 - 1);
    }
}
