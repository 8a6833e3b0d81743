//! One request, as often as it takes: the retry policy.
//!
//! A request is tried until it is answered, its deadline passes or an error says that trying again can't help. What may
//! be tried again depends on what a second try could do: a read, or a write with a session, does no harm; a write
//! without a session is tried again only after an error that proves that nothing was written.

use std::time::Duration;

use flotilla_proto::v1::{Request, request, response};
use tokio::time::Instant;

use super::{
    Client,
    error::{Error, Result},
    routes::Place,
    stream::answer_travels,
};

const PAUSE_FIRST: Duration = Duration::from_millis(10);
const PAUSE_LAST: Duration = Duration::from_millis(500);

/// What a second try of a request could do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// It reads.
    Read,
    /// It writes, once: a repeat is given the first answer.
    Once,
    /// It writes, each time.
    Write,
}

impl Repeat {
    /// Whether a request that ended in `error` may be sent again.
    pub(super) fn allows(self, error: &Error) -> bool {
        error.is_transient() && (self != Self::Write || error.nothing_written())
    }
}

impl Client {
    /// Sends a request to the shard at `place` until it is answered.
    ///
    /// For writes, every error but [`Error::OutcomeUnknown`] proves that nothing was written.
    pub(super) async fn call(
        &self,
        place: Place<'_>,
        repeat: Repeat,
        kind: request::Kind,
    ) -> Result<response::Kind> {
        let started = Instant::now();
        let options = &self.shared.options;
        let deadline = started + options.timeout;
        // A node that is asked later has no time to find out anything.
        let last_try = deadline - answer_travels(options.timeout);
        let Ok(permit) = tokio::time::timeout_at(deadline, self.shared.in_flight.acquire()).await
        else {
            return Err(Error::Busy {
                message: format!(
                    "{} requests of this client are in flight, the most that it may have",
                    options.max_in_flight
                ),
                retry_after: PAUSE_LAST,
            });
        };
        let _permit = permit.expect("the semaphore is never closed");
        let routes = &self.shared.routes;
        let mut maybe_written = false;
        let mut failures = 0;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // A try that hangs must leave time for another one, if another one is allowed.
            let timeout = match repeat {
                Repeat::Read | Repeat::Once => left.min(options.try_timeout),
                Repeat::Write => left,
            };
            let target = routes.target(place);
            let request = Request {
                kind: Some(kind.clone()),
                ..Request::default()
            };
            let error = match target.stream.call(request, timeout).await {
                Ok(answer) => match answer.kind {
                    Some(kind) => return Ok(kind),
                    None => Error::Protocol {
                        address: target.stream.address().to_owned(),
                        message: "an answer without content".to_owned(),
                    },
                },
                Err(error) => error,
            };
            maybe_written |= repeat != Repeat::Read && !error.nothing_written();
            let at_once = routes.learn(&target, &error) && failures < 3;
            failures += 1;
            let pause = if at_once {
                Duration::ZERO
            } else {
                pause(failures, &error, &mut self.random())
            };
            if !repeat.allows(&error) || Instant::now() + pause >= last_try {
                return Err(match error {
                    error if !maybe_written => error,
                    Error::OutcomeUnknown { message } => Error::OutcomeUnknown { message },
                    error => Error::OutcomeUnknown {
                        message: error.to_string(),
                    },
                });
            }
            if !at_once {
                tokio::time::sleep(pause).await;
                if wants_refresh(&error) {
                    // If no node answers, the request will say so itself.
                    let _ = tokio::time::timeout_at(deadline, routes.refresh()).await;
                }
            }
        }
    }
}

/// Whether the routes themselves may be wrong.
fn wants_refresh(error: &Error) -> bool {
    matches!(
        error,
        Error::NotLeader { .. }
            | Error::EpochMismatch { .. }
            | Error::Unreachable { .. }
            | Error::ConnectionLost { .. }
            | Error::NotInitialized { .. }
            | Error::ShuttingDown { .. }
            | Error::DeadlineExceeded { .. }
    )
}

/// Before try `failures + 1`: doubling, half of it random, and no less than the node asks for.
fn pause(failures: u32, error: &Error, random: &mut fastrand::Rng) -> Duration {
    let full = PAUSE_LAST.min(PAUSE_FIRST * 2_u32.pow(failures.min(10)));
    let pause = full / 2 + full.mul_f64(random.f64() / 2.0);
    match error {
        Error::Busy { retry_after, .. } => pause.max(*retry_after),
        _ => pause,
    }
}

#[cfg(test)]
mod tests {
    use flotilla_proto::v1::{self, error::Code};

    use super::*;

    fn errors() -> Vec<Error> {
        let address = "n:1".to_owned();
        let mut errors: Vec<Error> = (1..=11)
            .map(|code| {
                Error::from(v1::Error {
                    code,
                    ..v1::Error::default()
                })
            })
            .collect();
        errors.extend([
            Error::Unreachable {
                address: address.clone(),
                reason: String::new(),
            },
            Error::ConnectionLost {
                address: address.clone(),
                reason: String::new(),
            },
            Error::DeadlineExceeded {
                address: address.clone(),
                sent: true,
            },
            Error::DeadlineExceeded {
                address: address.clone(),
                sent: false,
            },
            Error::Protocol {
                address,
                message: String::new(),
            },
        ]);
        errors
    }

    fn names(repeat: Repeat) -> Vec<String> {
        errors()
            .iter()
            .filter(|error| repeat.allows(error))
            .map(|error| match error {
                Error::DeadlineExceeded { sent: true, .. } => "deadline_exceeded, sent".to_owned(),
                error => error.kind().to_owned(),
            })
            .collect()
    }

    #[test]
    fn a_write_without_session_is_repeated_only_if_nothing_was_written() {
        assert_eq!(
            names(Repeat::Write),
            [
                "not_leader",
                "epoch_mismatch",
                "busy",
                "unavailable",
                "not_initialized",
                "shutting_down",
                "unreachable",
                "deadline_exceeded",
            ]
        );
    }

    #[test]
    fn reads_and_session_writes_are_repeated_after_lost_answers_too() {
        let expected = [
            "not_leader",
            "epoch_mismatch",
            "busy",
            "unavailable",
            "outcome_unknown",
            "not_initialized",
            "shutting_down",
            "unreachable",
            "connection_lost",
            "deadline_exceeded, sent",
            "deadline_exceeded",
        ];
        assert_eq!(names(Repeat::Once), expected);
        assert_eq!(names(Repeat::Read), expected);
    }

    #[test]
    fn pauses_grow_to_a_bound_and_respect_the_node() {
        let mut random = fastrand::Rng::with_seed(1);
        let unavailable = Error::from(v1::Error {
            code: Code::Unavailable.into(),
            ..v1::Error::default()
        });
        for failures in 1..100 {
            let pause = pause(failures, &unavailable, &mut random);
            assert!(pause >= PAUSE_FIRST / 2 && pause <= PAUSE_LAST, "{pause:?}");
        }
        let busy = Error::Busy {
            message: String::new(),
            retry_after: Duration::from_secs(3),
        };
        assert_eq!(pause(1, &busy, &mut random), Duration::from_secs(3));
    }
}
