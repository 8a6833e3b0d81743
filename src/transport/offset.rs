//! How far another node's clock is from the own one, seen from one end.
//!
//! A node's words that it lives carry its time. The difference to the own time at their arrival is the distance of the two
//! clocks plus the way's; of the words of a window the one with the shortest way counts.

use std::time::{Duration, Instant};

use flotilla_metrics::FloatGauge;

/// Words that are compared with each other.
const WINDOW: Duration = Duration::from_secs(5);

/// One peer's.
#[derive(Debug)]
pub(super) struct ClockOffset {
    gauge: FloatGauge,
    /// The least of the window that began at that moment, in milliseconds.
    least: Option<(Instant, i64)>,
}

impl ClockOffset {
    pub(super) fn new(gauge: FloatGauge) -> Self {
        Self { gauge, least: None }
    }

    /// A word of that time has come at `own_ms`. Nodes of before this was told say 0.
    pub(super) fn heard(&mut self, now: Instant, own_ms: u64, their_ms: u64) {
        let offset = i64::try_from(i128::from(own_ms) - i128::from(their_ms));
        let Some(offset) = offset.ok().filter(|_| their_ms > 0) else {
            return;
        };
        let (began, least) = self.least.unwrap_or((now, offset));
        let least = least.min(offset);
        if now.saturating_duration_since(began) < WINDOW {
            self.least = Some((began, least));
        } else {
            self.gauge.set(least as f64 / 1_000.0);
            self.least = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_way_of_a_window_counts() {
        let gauge = FloatGauge::new("offset", "in seconds").expect("a name and a text");
        let mut offset = ClockOffset::new(gauge.clone());
        let begin = Instant::now();
        let mut hear = |seconds, way_ms: u64, ahead_ms: u64| {
            let own = 1_000_000_000 + seconds * 1_000;
            let now = begin + Duration::from_secs(seconds);
            offset.heard(now, own + way_ms, own + ahead_ms);
            gauge.get()
        };
        assert_eq!(hear(0, 40, 0), 0.0, "not known yet");
        assert_eq!(hear(2, 3, 0), 0.0);
        assert_eq!(hear(5, 700, 0), 0.003);
        assert_eq!(hear(6, 1, 2_000), 0.003);
        assert_eq!(hear(12, 9, 2_000), -1.999, "it has been set forward");
    }

    #[test]
    fn nonsense_says_nothing() {
        let gauge = FloatGauge::new("offset", "in seconds").expect("a name and a text");
        let mut offset = ClockOffset::new(gauge.clone());
        let begin = Instant::now();
        for word in [0, u64::MAX] {
            offset.heard(begin, 1, word);
            offset.heard(begin + WINDOW, 1, word);
            assert_eq!(gauge.get(), 0.0, "{word}");
        }
    }
}
