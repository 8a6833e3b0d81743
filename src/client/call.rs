//! One request, as often as it takes: the retry policy.
//!
//! The rules are in [`flotilla_shards::service::retry`]: a read, or a write with a session, does no harm when it is tried
//! again; a write without a session is tried again only after an error that proves that nothing was written.

use std::time::Duration;

use flotilla_proto::v1::{Request, request, response};
pub(super) use flotilla_shards::service::retry::Repeat;
use flotilla_shards::service::retry::{Failed, Tries};
use tokio::time::Instant;

use super::{
    Client,
    error::{Error, Result},
    routes::Place,
    stream::answer_travels,
};

/// When a request that found no place among those in flight should come back.
const CROWDED: Duration = Duration::from_millis(500);

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
                retry_after: CROWDED,
            });
        };
        let _permit = permit.expect("the semaphore is never closed");
        let routes = &self.shared.routes;
        let mut tries = Tries::new(repeat);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = tries.time(left, options.try_timeout);
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
            let failed = failed(&error, routes.learn(&target, &error));
            let pause = tries.failed(failed, &mut self.random());
            let pause = pause.filter(|pause| Instant::now() + *pause < last_try);
            let Some(pause) = pause else {
                if wants_refresh(&error) {
                    self.refresh_later();
                }
                return Err(match error {
                    error if !tries.maybe_written() => error,
                    Error::OutcomeUnknown { message } => Error::OutcomeUnknown { message },
                    error => Error::OutcomeUnknown {
                        message: error.to_string(),
                    },
                });
            };
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
                if wants_refresh(&error) {
                    // If no node answers, the request will say so itself.
                    let _ = tokio::time::timeout_at(deadline, routes.refresh()).await;
                }
            }
        }
    }

    /// Reads the routes again for those that come next, beside them.
    fn refresh_later(&self) {
        if self.shared.routes.begin_refresh_later() {
            let client = self.clone();
            tokio::spawn(async move { client.shared.routes.refresh_later().await });
        }
    }
}

/// What a try that ended in `error` proves.
fn failed(error: &Error, named_another: bool) -> Failed {
    Failed {
        transient: error.is_transient(),
        nothing_written: error.nothing_written(),
        named_another,
        retry_after: match error {
            Error::Busy { retry_after, .. } => *retry_after,
            _ => Duration::ZERO,
        },
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
            | Error::Unavailable { .. }
            | Error::OutcomeUnknown { .. }
            | Error::DeadlineExceeded { .. }
    )
}

#[cfg(test)]
mod tests {
    use flotilla_proto::v1;

    use super::*;

    fn errors() -> Vec<Error> {
        let address = "n:1".to_owned();
        let mut errors: Vec<Error> = (1..=13)
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
        let mut random = fastrand::Rng::with_seed(1);
        let mut again = |error: &&Error| {
            let mut tries = Tries::new(repeat);
            tries.failed(failed(error, false), &mut random).is_some()
        };
        errors()
            .iter()
            .filter(&mut again)
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
}
