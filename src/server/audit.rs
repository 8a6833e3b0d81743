//! The audit log: one line for each thing that operators do with the cluster, or try to: who, what, from where, and what came
//! of it. The lines have the target `audit`, which no log level turns off (see `logging`).
//!
//! What was done is always told: it is bounded by what the cluster can do. What was refused costs the caller nothing, so only
//! so many such lines leave per second; the next one says how many did not.

use std::{fmt::Display, sync::Arc};

use flotilla_proto::v1 as proto;
use flotilla_shards::access::change::Change;
use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::Status;

use super::{access::Caller, services::Services};

/// Refusals per second that get a line.
const REFUSALS_PER_SECOND: u32 = 10;

/// Bounds the lines about refusals.
#[derive(Debug, Default)]
pub struct Audit(Mutex<Refusals>);

#[derive(Debug, Default)]
struct Refusals {
    /// When the second began.
    since: Option<Instant>,
    told: u32,
    untold: u64,
}

impl Audit {
    /// Whether a refusal gets a line, and how many before it got none.
    fn refusal(&self, now: Instant) -> Option<u64> {
        let mut refusals = self.0.lock();
        let second = std::time::Duration::from_secs(1);
        if refusals.since.is_none_or(|since| now - since >= second) {
            refusals.since = Some(now);
            refusals.told = 0;
        }
        if refusals.told == REFUSALS_PER_SECOND {
            refusals.untold += 1;
            return None;
        }
        refusals.told += 1;
        Some(std::mem::take(&mut refusals.untold))
    }
}

/// A caller as the log names it. Before there is a cluster there are no services, and nobody is asked who he is.
pub(super) fn who(services: Option<&Arc<Services>>, caller: &Caller) -> String {
    match services {
        Some(services) => services.access.name(caller),
        None => "unknown".to_owned(),
    }
}

/// A change of the access tables, as the log tells it.
pub(super) fn access(change: &proto::ChangeAccessRequest) -> String {
    match Change::try_from(change.clone()) {
        Ok(change) => change.to_string(),
        Err(_) => "change who may do what, in a way that makes no sense".to_owned(),
    }
}

/// Writes the line about one action.
pub(super) fn note<T>(
    services: Option<&Arc<Services>>,
    caller: &Caller,
    action: impl Display,
    result: &Result<T, Status>,
) {
    note_as(services, &who(services, caller), caller, action, result);
}

/// As [`note`], where the action may have changed who the caller is.
pub(super) fn note_as<T>(
    services: Option<&Arc<Services>>,
    who: &str,
    caller: &Caller,
    action: impl Display,
    result: &Result<T, Status>,
) {
    let from = caller
        .from()
        .map_or_else(|| "unknown".to_owned(), |from| from.to_string());
    match result {
        Ok(_) => {
            tracing::info!(target: "audit", who, %from, %action, result = "done", "admin action")
        }
        Err(status) => {
            let untold = match services {
                Some(services) => services.audit.refusal(Instant::now()),
                None => Some(0),
            };
            if let Some(untold) = untold {
                let (code, reason) = (status.code(), status.message());
                tracing::warn!(
                    target: "audit", who, %from, %action, result = ?code, reason, untold, "admin action"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn refusals_are_told_up_to_a_bound_and_counted_beyond() {
        let (audit, now) = (Audit::default(), Instant::now());
        let told = |after| {
            (0..100)
                .filter_map(|_| audit.refusal(now + after))
                .collect::<Vec<_>>()
        };
        assert_eq!(told(Duration::ZERO), [0; 10]);
        assert!(told(Duration::from_millis(999)).is_empty());
        let mut next = [0; 10];
        next[0] = 190;
        assert_eq!(told(Duration::from_secs(1)), next);
    }
}
