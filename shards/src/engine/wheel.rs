//! The timer wheel: which replicas have something due at which tick.
//!
//! A turn costs what is due, not the number of replicas. Timers are lazy: one that is put off (a heartbeat came) is not
//! taken out but found stale when it fires, and armed anew. So each replica has at most one live entry, named by the
//! tick at which it fires; all others are ignored.

/// Slots of the ring. A deadline further away than this fires early once per round and is armed again.
const SLOTS: u64 = 256;

/// Items (positions in the engine's table) by tick.
#[derive(Debug)]
pub(super) struct Wheel {
    slots: Vec<Vec<u32>>,
    now: u64,
}

impl Wheel {
    pub(super) fn new(now: u64) -> Self {
        Self {
            slots: (0..SLOTS).map(|_| Vec::new()).collect(),
            now,
        }
    }

    /// The tick up to which everything has fired.
    pub(super) fn now(&self) -> u64 {
        self.now
    }

    /// Enters an item; returns the tick at which it fires, which is earlier than `at` if that lies beyond the ring.
    pub(super) fn arm(&mut self, item: u32, at: u64) -> u64 {
        let at = at.clamp(self.now + 1, self.now + SLOTS - 1);
        self.slots[(at % SLOTS) as usize].push(item);
        at
    }

    /// Moves on by one tick and gives what fires at it. The buffer comes back by [`Wheel::recycle`].
    pub(super) fn advance(&mut self) -> Vec<u32> {
        self.now += 1;
        std::mem::take(&mut self.slots[(self.now % SLOTS) as usize])
    }

    /// Gives a drained buffer back to the slot of the present tick, so that a steady load allocates nothing.
    pub(super) fn recycle(&mut self, mut buffer: Vec<u32>) {
        let slot = &mut self.slots[(self.now % SLOTS) as usize];
        if slot.is_empty() {
            buffer.clear();
            // A burst (all elections of a dead node) must not pin its memory for ever.
            buffer.shrink_to(1024);
            *slot = buffer;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn fires_at_the_armed_tick_and_not_before() {
        let mut wheel = Wheel::new(1000);
        assert_eq!(wheel.arm(7, 1003), 1003);
        assert!(wheel.advance().is_empty());
        assert!(wheel.advance().is_empty());
        assert_eq!(wheel.advance(), vec![7]);
    }

    #[test]
    fn the_past_fires_next_and_the_far_future_early() {
        let mut wheel = Wheel::new(10);
        assert_eq!(wheel.arm(1, 3), 11);
        assert_eq!(wheel.arm(2, 10_000), 10 + SLOTS - 1);
        assert_eq!(wheel.advance(), vec![1]);
    }

    #[test]
    fn agrees_with_a_sorted_map() {
        let mut random = fastrand::Rng::with_seed(4);
        let mut wheel = Wheel::new(0);
        let mut twin: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
        for item in 0..20_000u32 {
            if random.u32(..4) == 0 {
                let mut fired = wheel.advance();
                fired.sort_unstable();
                assert_eq!(fired, twin.remove(&wheel.now()).unwrap_or_default());
                wheel.recycle(fired);
            } else {
                let at = wheel.arm(item, wheel.now() + random.u64(0..400));
                twin.entry(at).or_default().push(item);
            }
        }
    }
}
