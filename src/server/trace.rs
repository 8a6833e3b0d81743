//! What is noted of a request while it is on its way: its id, and how much of its time went where.
//!
//! Everything is read off clocks that were looked at anyway, and lies in the request's own bookkeeping: no allocation, no
//! lock. An id that the client did not give is made when somebody needs it: another node, an error, the slow-request log.

use std::{
    fmt,
    hash::{BuildHasher as _, Hasher as _, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use flotilla_shards::ids::{NodeId, ShardId};
use tokio::time::Instant;

use crate::runtime::StageTimes;

/// The metadata in which clients give ids to their requests, and errors carry them back.
pub(super) const REQUEST_ID: &str = "x-request-id";
/// The longest id that is taken from a client.
const ID_BYTES_MAX: usize = 128;

/// Names one request, also on the node that it is passed on to.
#[derive(Clone, Debug, Default)]
pub(super) enum RequestId {
    /// Nobody needed one yet.
    #[default]
    Unmade,
    /// Made by this node.
    Made(u64),
    /// Given by the client, or by the node that passed the request on.
    Given(Arc<str>),
}

impl RequestId {
    /// An id that came with a request. One that can't stand in a log line is as good as none.
    pub(super) fn given(text: &str) -> Self {
        let sound = (1..=ID_BYTES_MAX).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_graphic());
        if sound {
            Self::Given(text.into())
        } else {
            Self::Unmade
        }
    }

    #[cfg(test)]
    pub(super) fn from_number(number: u64) -> Self {
        Self::Made(number)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unmade => Ok(()),
            Self::Made(number) => write!(f, "{number:016x}"),
            Self::Given(text) => f.write_str(text),
        }
    }
}

/// Makes ids: counts up from a random number, so that two nodes, or starts of one, hardly ever make the same.
#[derive(Debug)]
pub struct RequestIds(AtomicU64);

impl Default for RequestIds {
    fn default() -> Self {
        Self(AtomicU64::new(RandomState::new().build_hasher().finish()))
    }
}

impl RequestIds {
    fn make(&self) -> RequestId {
        RequestId::Made(self.0.fetch_add(1, Ordering::Relaxed))
    }
}

/// Microseconds of a request by what it waited for. The rest of its time went into its way through this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stages {
    /// The four of a write on its leader, as in `flotilla_write_stage_latency_seconds`.
    engine: StageTimes,
    /// Until a read was known to be of the newest state.
    confirm: u32,
    /// Reading the local state.
    read: u32,
    /// Until another node answered.
    forward: u32,
    /// Until there was a leader to ask.
    hold: u32,
    /// A write that the engine never answered.
    unanswered: u32,
}

impl Stages {
    /// Name and microseconds of each.
    pub(super) fn named(&self) -> impl Iterator<Item = (&'static str, u32)> + use<> {
        let StageTimes {
            queue,
            propose,
            commit,
            apply,
        } = self.engine;
        [
            ("queue", queue),
            ("propose", propose),
            ("commit", commit),
            ("apply", apply),
            ("confirm", self.confirm),
            ("read", self.read),
            ("forward", self.forward),
            ("hold", self.hold),
            ("unanswered", self.unanswered),
        ]
        .into_iter()
    }

    fn each(&mut self, other: &Self, take: impl Fn(u32, u32) -> u32) {
        let StageTimes {
            queue,
            propose,
            commit,
            apply,
        } = &mut self.engine;
        let theirs = other.engine;
        for (mine, other) in [
            (queue, theirs.queue),
            (propose, theirs.propose),
            (commit, theirs.commit),
            (apply, theirs.apply),
            (&mut self.confirm, other.confirm),
            (&mut self.read, other.read),
            (&mut self.forward, other.forward),
            (&mut self.hold, other.hold),
            (&mut self.unanswered, other.unanswered),
        ] {
            *mine = take(*mine, other);
        }
    }
}

/// What a request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    Nothing,
    /// A write in the local engine.
    Write,
    /// A read in the local engine.
    Confirm,
    /// The local state database.
    Read,
    /// Another node.
    Forward(NodeId),
    /// A leader.
    Hold,
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Trace {
    pub(super) id: RequestId,
    /// Another node passed the request on; it may not travel further.
    pub(super) forwarded: bool,
    /// Its keys are those of the meta shard.
    pub(super) meta: bool,
    /// Its first key, if keys may be shown.
    pub(super) key: Bytes,
    pub(super) shard: ShardId,
    pub(super) passed_on: NodeId,
    pub(super) tries: u32,
    pub(super) stages: Stages,
    wait: Wait,
    since: Instant,
}

impl Trace {
    pub(super) fn new(id: RequestId, forwarded: bool, now: Instant) -> Self {
        Self {
            id,
            forwarded,
            meta: false,
            key: Bytes::new(),
            shard: ShardId(0),
            passed_on: NodeId(0),
            tries: 0,
            stages: Stages::default(),
            wait: Wait::Nothing,
            since: now,
        }
    }

    /// The request's id.
    pub(super) fn id(&mut self, ids: &RequestIds) -> &RequestId {
        if let RequestId::Unmade = self.id {
            self.id = ids.make();
        }
        &self.id
    }

    /// From now on the request waits for this.
    pub(super) fn wait(&mut self, wait: Wait, now: Instant) {
        match wait {
            Wait::Write | Wait::Confirm => self.tries += 1,
            Wait::Forward(node) => {
                self.tries += 1;
                self.passed_on = node;
            }
            Wait::Read | Wait::Hold | Wait::Nothing => {}
        }
        (self.wait, self.since) = (wait, now);
    }

    /// What it waited for has come, for a write with the engine's own times.
    pub(super) fn settle(&mut self, engine: Option<StageTimes>, now: Instant) {
        let micros = micros(now.saturating_duration_since(self.since));
        let stages = &mut self.stages;
        let stage = match std::mem::replace(&mut self.wait, Wait::Nothing) {
            Wait::Nothing => return,
            Wait::Write => match engine {
                Some(engine) => {
                    let more = Stages {
                        engine,
                        ..Stages::default()
                    };
                    return stages.each(&more, u32::saturating_add);
                }
                None => &mut stages.unanswered,
            },
            Wait::Confirm => &mut stages.confirm,
            Wait::Read => &mut stages.read,
            Wait::Forward(_) => &mut stages.forward,
            Wait::Hold => &mut stages.hold,
        };
        *stage = stage.saturating_add(micros);
    }

    /// The trace of one of several parts that are worked on at the same time.
    pub(super) fn part(&mut self, ids: &RequestIds, now: Instant) -> Self {
        Self::new(self.id(ids).clone(), self.forwarded, now)
    }

    /// Takes in a part that has ended: of each stage the longest wait counts.
    pub(super) fn join(&mut self, part: &Self) {
        self.stages.each(&part.stages, u32::max);
        self.tries += part.tries;
        if part.passed_on != NodeId(0) {
            self.passed_on = part.passed_on;
        }
        self.shard = part.shard;
    }
}

fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> impl Fn(Instant) -> Instant {
        move |begin| begin + Duration::from_millis(millis)
    }

    fn stage(trace: &Trace, name: &str) -> u32 {
        let mut named = trace.stages.named();
        named.find(|(known, _)| *known == name).expect("a stage").1
    }

    #[test]
    fn each_wait_counts_under_its_own_name_and_adds_up() {
        let begin = Instant::now();
        let mut trace = Trace::new(RequestId::default(), false, begin);
        trace.wait(Wait::Hold, begin);
        trace.settle(None, at(5)(begin));
        trace.wait(Wait::Forward(NodeId(3)), at(5)(begin));
        trace.settle(None, at(12)(begin));
        trace.wait(Wait::Hold, at(12)(begin));
        trace.settle(None, at(13)(begin));
        trace.wait(Wait::Write, at(13)(begin));
        let engine = StageTimes {
            queue: 1,
            propose: 2,
            commit: 3,
            apply: 4,
        };
        trace.settle(Some(engine), at(40)(begin));
        // Nothing is waited for: nothing counts.
        trace.settle(None, at(90)(begin));
        let named: Vec<_> = trace.stages.named().filter(|(_, time)| *time > 0).collect();
        let expected = [
            ("queue", 1),
            ("propose", 2),
            ("commit", 3),
            ("apply", 4),
            ("forward", 7000),
            ("hold", 6000),
        ];
        assert_eq!(named, expected);
        assert_eq!((trace.tries, trace.passed_on), (2, NodeId(3)));
    }

    #[test]
    fn a_write_that_is_not_answered_is_told_apart() {
        let begin = Instant::now();
        let mut trace = Trace::new(RequestId::default(), false, begin);
        trace.wait(Wait::Write, begin);
        trace.settle(None, at(9)(begin));
        assert_eq!(stage(&trace, "unanswered"), 9000);
    }

    #[test]
    fn of_parts_at_the_same_time_the_longest_counts() {
        let (begin, ids) = (Instant::now(), RequestIds::default());
        let mut whole = Trace::new(RequestId::default(), false, begin);
        for millis in [4, 9, 2] {
            let mut part = whole.part(&ids, begin);
            assert_eq!(part.id.to_string(), whole.id.to_string());
            part.wait(Wait::Confirm, begin);
            part.settle(None, at(millis)(begin));
            whole.join(&part);
        }
        assert_eq!((stage(&whole, "confirm"), whole.tries), (9000, 3));
    }

    #[test]
    fn ids_of_clients_are_taken_if_they_fit_into_a_line() {
        assert_eq!(RequestId::given("a-7/ü").to_string(), "");
        assert_eq!(RequestId::given("a b").to_string(), "");
        assert_eq!(RequestId::given("").to_string(), "");
        assert_eq!(RequestId::given(&"x".repeat(129)).to_string(), "");
        assert_eq!(RequestId::given("a-7/b").to_string(), "a-7/b");
        let ids = RequestIds::default();
        let (one, two) = (ids.make().to_string(), ids.make().to_string());
        assert!(one.len() == 16 && one != two);
    }
}
