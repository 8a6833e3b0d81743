//! A node's clocks: a monotonic one, which ticks are counted by, and a wall clock. Both may run at another rate than
//! time does, or stand still; the wall clock may jump as well.

use crate::queue::Micros;

/// The wall clock at the beginning of every run, in milliseconds.
pub(crate) const EPOCH_MS: u64 = 1_700_000_000_000;

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    /// When the rate last changed, and what the monotonic clock said then.
    since: Micros,
    base: Micros,
    /// In millionths: 1,000,000 is right, 0 stands still.
    rate: u64,
    /// What the wall clock is off by, in milliseconds.
    off_ms: i64,
}

impl Clock {
    /// A clock that is right.
    pub(crate) fn new() -> Self {
        Self {
            since: 0,
            base: 0,
            rate: 1_000_000,
            off_ms: 0,
        }
    }

    /// What the monotonic clock says.
    pub(crate) fn monotonic(&self, now: Micros) -> Micros {
        self.base + (now - self.since) * self.rate / 1_000_000
    }

    /// What the wall clock says, in milliseconds.
    pub(crate) fn wall_ms(&self, now: Micros) -> u64 {
        let right = EPOCH_MS + self.monotonic(now) / 1_000;
        right.saturating_add_signed(self.off_ms)
    }

    /// When the monotonic clock will say `moment`, if it runs on like this.
    pub(crate) fn when(&self, moment: Micros, now: Micros) -> Option<Micros> {
        if self.rate == 0 {
            return None;
        }
        let left = moment.saturating_sub(self.monotonic(now));
        Some(now + (left * 1_000_000).div_ceil(self.rate))
    }

    /// Runs at another rate from now on.
    pub(crate) fn set_rate(&mut self, rate: u64, now: Micros) {
        self.base = self.monotonic(now);
        self.since = now;
        self.rate = rate;
    }

    /// The wall clock jumps.
    pub(crate) fn jump(&mut self, ms: i64) {
        self.off_ms = self.off_ms.saturating_add(ms);
    }

    /// Whether the rate is right.
    pub(crate) fn is_right(&self) -> bool {
        self.rate == 1_000_000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_jumps() {
        let mut clock = Clock::new();
        assert_eq!(clock.monotonic(5), 5);
        clock.set_rate(2_000_000, 10);
        assert_eq!(clock.monotonic(15), 20);
        assert_eq!(clock.when(30, 15), Some(20));
        clock.set_rate(0, 20);
        assert_eq!(clock.monotonic(99), 30);
        assert_eq!(clock.when(31, 99), None);
        clock.jump(-5);
        assert_eq!(clock.wall_ms(99), EPOCH_MS - 5);
    }
}
