//! How often a client tries one request: until it is answered, its time is over, or an error says that trying again
//! can't help.

use std::time::Duration;

const PAUSE_FIRST: Duration = Duration::from_millis(10);
const PAUSE_LAST: Duration = Duration::from_millis(500);
/// So many failures in a row may be followed by another try at once, if each of them named a better node.
const QUICK_FAILURES: u32 = 3;

/// What a second try of a request could do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// It reads.
    Read,
    /// It writes, once: a repeat is given the first answer.
    Once,
    /// It writes, each time.
    Write,
}

/// What a failed try proves, and asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failed {
    /// The same request may succeed later or at another node.
    pub transient: bool,
    /// Nothing was written by this try.
    pub nothing_written: bool,
    /// It told of a node that should know better.
    pub named_another: bool,
    /// No earlier than this.
    pub retry_after: Duration,
}

/// The tries of one request.
#[derive(Debug, Clone)]
pub struct Tries {
    repeat: Repeat,
    failures: u32,
    maybe_written: bool,
}

impl Tries {
    /// None yet.
    #[must_use]
    pub fn new(repeat: Repeat) -> Self {
        Self {
            repeat,
            failures: 0,
            maybe_written: false,
        }
    }

    /// What a second try could do.
    #[must_use]
    pub fn repeat(&self) -> Repeat {
        self.repeat
    }

    /// How long to wait for the answer of the next try, of the time that is `left`: one that hangs must leave time for
    /// another one, if another one is allowed.
    #[must_use]
    pub fn time(&self, left: Duration, per_try: Duration) -> Duration {
        match self.repeat {
            Repeat::Read | Repeat::Once => left.min(per_try),
            Repeat::Write => left,
        }
    }

    /// A try has failed. The pause before the next one, in which half is random, so that clients don't come all at
    /// once; nothing if there may be none. A write that can't be told from its repeat is not repeated unless nothing
    /// was written.
    pub fn failed(&mut self, failed: Failed, random: &mut fastrand::Rng) -> Option<Duration> {
        self.maybe_written |= self.repeat != Repeat::Read && !failed.nothing_written;
        let at_once = failed.named_another && self.failures < QUICK_FAILURES;
        self.failures += 1;
        let pause = if at_once {
            Duration::ZERO
        } else {
            self.pause(random).max(failed.retry_after)
        };
        let harmless = self.repeat != Repeat::Write || failed.nothing_written;
        (failed.transient && harmless).then_some(pause)
    }

    /// Doubles with each failure, up to a bound.
    fn pause(&self, random: &mut fastrand::Rng) -> Duration {
        let full = PAUSE_LAST.min(PAUSE_FIRST * 2_u32.pow(self.failures.min(10)));
        let spread = u64::try_from(full.as_micros() / 2).unwrap_or(u64::MAX);
        full / 2 + Duration::from_micros(random.u64(0..=spread))
    }

    /// Whether a try so far may have written: then the last error does not say how the request ended.
    #[must_use]
    pub fn maybe_written(&self) -> bool {
        self.maybe_written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGAIN: Failed = Failed {
        transient: true,
        nothing_written: true,
        named_another: false,
        retry_after: Duration::ZERO,
    };

    #[test]
    fn what_may_be_tried_again_depends_on_what_a_second_try_could_do() {
        let mut random = fastrand::Rng::with_seed(1);
        for repeat in [Repeat::Read, Repeat::Once, Repeat::Write] {
            for (transient, nothing_written) in
                [(true, true), (true, false), (false, true), (false, false)]
            {
                let mut tries = Tries::new(repeat);
                let failed = Failed {
                    transient,
                    nothing_written,
                    ..AGAIN
                };
                let again = tries.failed(failed, &mut random).is_some();
                let harmless = nothing_written || repeat != Repeat::Write;
                assert_eq!(again, transient && harmless, "{repeat:?}, {failed:?}");
                let unknown = !nothing_written && repeat != Repeat::Read;
                assert_eq!(tries.maybe_written(), unknown, "{repeat:?}, {failed:?}");
                // It stays so whatever comes later.
                tries.failed(AGAIN, &mut random);
                assert_eq!(tries.maybe_written(), unknown);
            }
        }
    }

    #[test]
    fn pauses_grow_to_a_bound_and_respect_the_node() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut tries = Tries::new(Repeat::Read);
        for _ in 1..100 {
            let pause = tries.failed(AGAIN, &mut random).expect("transient");
            assert!(pause >= PAUSE_FIRST / 2 && pause <= PAUSE_LAST, "{pause:?}");
        }
        let busy = Failed {
            retry_after: Duration::from_secs(3),
            ..AGAIN
        };
        assert_eq!(
            tries.failed(busy, &mut random),
            Some(Duration::from_secs(3))
        );
    }

    #[test]
    fn a_better_node_is_asked_at_once_but_not_for_ever() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut tries = Tries::new(Repeat::Read);
        let named = Failed {
            named_another: true,
            ..AGAIN
        };
        let quick = (0..10).filter(|_| tries.failed(named, &mut random) == Some(Duration::ZERO));
        assert_eq!(quick.count(), 3);
    }
}
