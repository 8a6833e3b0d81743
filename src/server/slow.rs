//! The slow requests of a node: the newest of them in memory, for `/slow` of the status port, and a log line for some.
//!
//! A request that was fast costs one comparison here. Values never come in, keys only if `log.slow_request_keys` says so.

use std::{
    collections::VecDeque,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use flotilla_metrics::{Label as _, Operation, Outcome};
use flotilla_shards::ids::{NodeId, ShardId};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::trace::{RequestId, Stages};

/// Requests that are kept; the oldest go.
const KEPT: usize = 512;
/// Lines that are logged in one second; what is left out is counted in the next one.
const LINES_PER_SECOND: u32 = 10;

/// One slow request, as this node saw it.
#[derive(Clone, Debug)]
pub(super) struct SlowRequest {
    pub(super) ended: SystemTime,
    pub(super) id: RequestId,
    pub(super) operation: Operation,
    pub(super) outcome: Outcome,
    /// 0 if it was never routed, or went to several.
    pub(super) shard: ShardId,
    /// Empty unless keys may be shown.
    pub(super) key: Bytes,
    /// Another node passed it on to this one.
    pub(super) forwarded: bool,
    /// The node that it was passed on to last; 0 for none.
    pub(super) passed_on: NodeId,
    /// How often it was sent off, here or to another node.
    pub(super) tries: u32,
    pub(super) took: Duration,
    pub(super) stages: Stages,
}

impl SlowRequest {
    fn to_json(&self) -> Value {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let stages: serde_json::Map<String, Value> = (self.stages.named())
            .filter(|(_, micros)| *micros > 0)
            .map(|(name, micros)| (name.to_owned(), micros.into()))
            .collect();
        json!({
            "time": humantime::format_rfc3339_millis(self.ended).to_string(),
            "request_id": self.id.to_string(),
            "operation": self.operation.as_str(),
            "result": self.outcome.as_str(),
            "shard": (self.shard.0 != 0).then_some(self.shard.0),
            "key": (!self.key.is_empty()).then(|| self.key.escape_ascii().to_string()),
            "forwarded": self.forwarded,
            "passed_on_to": (self.passed_on.0 != 0).then_some(self.passed_on.0),
            "tries": self.tries,
            "micros": micros(self.took),
            "stage_micros": stages,
        })
    }

    fn log(&self, left_out: u64) {
        let stages: Vec<String> = (self.stages.named())
            .filter(|(_, micros)| *micros > 0)
            .map(|(name, micros)| format!("{name}={:?}", Duration::from_micros(micros.into())))
            .collect();
        tracing::warn!(
            target: "flotilla::slow_request",
            request_id = %self.id,
            operation = self.operation.as_str(),
            result = self.outcome.as_str(),
            shard = self.shard.0,
            key = %self.key.escape_ascii(),
            forwarded = self.forwarded,
            passed_on_to = self.passed_on.0,
            tries = self.tries,
            took = ?self.took,
            stages = stages.join(" "),
            left_out,
            "slow request"
        );
    }
}

/// The slow requests of one node.
#[derive(Debug)]
pub struct SlowRequests {
    threshold: Option<Duration>,
    keys: bool,
    newest: Mutex<Newest>,
}

#[derive(Debug, Default)]
struct Newest {
    kept: VecDeque<SlowRequest>,
    total: u64,
    /// When the present second of log lines began, and how many it has.
    second: Option<Instant>,
    lines: u32,
    left_out: u64,
}

impl SlowRequests {
    /// None yet. Requests from `threshold` on are slow; none is if it is zero. `keys` says whether their keys are kept.
    #[must_use]
    pub fn new(threshold: Duration, keys: bool) -> Self {
        Self {
            threshold: (!threshold.is_zero()).then_some(threshold),
            keys,
            newest: Mutex::default(),
        }
    }

    /// Whether keys of requests are to be kept in sight.
    pub(super) fn wants_keys(&self) -> bool {
        self.keys && self.threshold.is_some()
    }

    /// Whether a request that took so long is slow.
    pub(super) fn is_slow(&self, took: Duration) -> bool {
        self.threshold.is_some_and(|threshold| took >= threshold)
    }

    /// Takes a slow request in.
    pub(super) fn note(&self, request: SlowRequest) {
        let line = {
            let mut newest = self.newest.lock();
            let line = newest.may_log(Instant::now()).then(|| request.clone());
            newest.total += 1;
            if newest.kept.len() == KEPT {
                newest.kept.pop_front();
            }
            newest.kept.push_back(request);
            line.map(|request| (request, std::mem::take(&mut newest.left_out)))
        };
        if let Some((request, left_out)) = line {
            request.log(left_out);
        }
    }

    /// The newest of them, the newest first, `limit` at most.
    #[must_use]
    pub fn to_json(&self, limit: usize) -> Value {
        let threshold = self.threshold.unwrap_or_default();
        let (kept, total): (Vec<SlowRequest>, u64) = {
            let newest = self.newest.lock();
            let kept = newest.kept.iter().rev().take(limit);
            (kept.cloned().collect(), newest.total)
        };
        json!({
            "threshold_millis": u64::try_from(threshold.as_millis()).unwrap_or(u64::MAX),
            "total": total,
            "requests": kept.iter().map(SlowRequest::to_json).collect::<Vec<_>>(),
        })
    }
}

impl Newest {
    fn may_log(&mut self, now: Instant) -> bool {
        if (self.second).is_none_or(|began| now.duration_since(began) >= Duration::from_secs(1)) {
            self.second = Some(now);
            self.lines = 0;
        }
        let may = self.lines < LINES_PER_SECOND;
        if may {
            self.lines += 1;
        } else {
            self.left_out += 1;
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(number: u64) -> SlowRequest {
        SlowRequest {
            ended: SystemTime::UNIX_EPOCH,
            id: RequestId::from_number(number),
            operation: Operation::Put,
            outcome: Outcome::Ok,
            shard: ShardId(number),
            key: Bytes::new(),
            forwarded: false,
            passed_on: NodeId(0),
            tries: 1,
            took: Duration::from_millis(250),
            stages: Stages::default(),
        }
    }

    #[test]
    fn the_newest_are_kept_and_all_are_counted() {
        let slow = SlowRequests::new(Duration::from_millis(100), false);
        let count = KEPT as u64 + 3;
        for number in 1..=count {
            slow.note(request(number));
        }
        let page = slow.to_json(2);
        assert_eq!(page["total"], count);
        assert_eq!(page["threshold_millis"], 100);
        let shards: Vec<u64> = (page["requests"].as_array().expect("a list").iter())
            .filter_map(|request| request["shard"].as_u64())
            .collect();
        assert_eq!(shards, [count, count - 1]);
        let all = slow.to_json(usize::MAX);
        assert_eq!(all["requests"].as_array().map(Vec::len), Some(KEPT));
    }

    #[test]
    fn lines_have_a_bound_and_what_is_left_out_is_told_later() {
        let mut newest = Newest::default();
        let begin = Instant::now();
        let logged = (0..100).filter(|_| newest.may_log(begin)).count();
        assert_eq!(logged, LINES_PER_SECOND as usize);
        assert_eq!(newest.left_out, 90);
        assert!(newest.may_log(begin + Duration::from_secs(1)));
    }

    #[test]
    fn nothing_is_slow_when_it_is_switched_off() {
        let off = SlowRequests::new(Duration::ZERO, true);
        assert!(!off.is_slow(Duration::MAX) && !off.wants_keys());
        let on = SlowRequests::new(Duration::from_millis(5), true);
        assert!(on.is_slow(Duration::from_millis(5)) && on.wants_keys());
        assert!(!on.is_slow(Duration::from_micros(4999)));
    }
}
