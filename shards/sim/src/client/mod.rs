//! A simulated client: it asks for one thing at a time, and tries as the client library does until it is answered, its
//! time is over, or nothing more can be done.
//!
//! What it wants is in [`workload`], of what requests that is made in [`task`] and [`write`]; how often a request is sent,
//! where to, and what a failure means is here: how often is the client library's own code, where to follows the rules of
//! its `routes`.

pub(crate) mod task;
pub mod workload;
pub(crate) mod write;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use flotilla_history::OpId;
use flotilla_proto::v1::{error::Code, request, response};
use flotilla_shards::ids::{NodeId, ShardId};
use flotilla_shards::range_map::RangeMap;

use crate::queue::{Micros, SECOND};
use crate::rpc::{self, Failure};
use crate::settings::Settings;
use flotilla_shards::service::request as rules;
use flotilla_shards::service::retry::{Failed, Repeat, Tries};
use task::{Next, Task};
use workload::{Mix, Workload};
use write::Sessions;

/// Time for the reads at the end of a run.
const CALM_TIMEOUT: Micros = 30 * SECOND;

fn repeat_of(kind: &request::Kind) -> Repeat {
    // A session that is opened twice costs the shard a little memory: as harmless as a read.
    if !rules::is_write(kind) || matches!(kind, request::Kind::OpenSession(_)) {
        Repeat::Read
    } else if rules::is_repeatable(kind) {
        Repeat::Once
    } else {
        Repeat::Write
    }
}

/// How a request ended, retries included.
#[derive(Clone, Debug)]
pub(crate) enum Ended {
    Answered(response::Kind),
    /// It proves that nothing was written.
    Failed(Failure),
    /// A write may have happened, or may still.
    Unknown,
}

/// A request that is being tried.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) kind: request::Kind,
    tries: Tries,
    shard: Option<ShardId>,
    deadline: Micros,
    /// The try that is under way; 0 while it pauses.
    try_id: u64,
    target: usize,
    leads: bool,
}

/// What a client does next.
pub(crate) enum Move {
    /// Send the pending request to this node, as a try of this number, and wait so long.
    Send {
        to: usize,
        kind: request::Kind,
        timeout: Micros,
    },
    /// Be called again after a pause.
    Pause(Micros),
    /// The request has ended.
    Ended(Ended),
}

/// See the module.
pub(crate) struct Client {
    pub(crate) rng: Rng,
    nodes: usize,
    map: Arc<RangeMap>,
    leaders: BTreeMap<ShardId, usize>,
    turn: usize,
    timeout: Micros,
    try_timeout: Micros,
    pub(crate) task: Option<Task>,
    pub(crate) pending: Option<Pending>,
    /// When the task must be over.
    pub(crate) deadline: Micros,
    pub(crate) workload: Workload,
    sessions: Sessions,
    /// The task as the history knows it.
    pub(crate) operation: Option<OpId>,
    /// Revision that the read under way must see at least.
    pub(crate) bound: u64,
    /// Start of the node that the task under way is pinned to.
    pub(crate) pinned_boot: u32,
}

impl Client {
    pub(crate) fn new(number: usize, settings: &Settings, map: &Arc<RangeMap>, seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        Self {
            workload: Workload::new(
                number,
                Mix {
                    loads: settings.loads.clone(),
                    keys: settings.keys,
                    sessions: settings.sessions,
                    name: "",
                },
                map,
            ),
            sessions: Sessions::default(),
            operation: None,
            pinned_boot: 0,
            turn: rng.usize(..settings.nodes),
            rng,
            nodes: settings.nodes,
            map: Arc::clone(map),
            leaders: BTreeMap::new(),
            timeout: settings.timeout,
            try_timeout: settings.try_timeout,
            task: None,
            pending: None,
            deadline: 0,
            bound: 0,
        }
    }

    /// Begins a task, by default the workload's next one.
    pub(crate) fn begin(&mut self, task: Option<Task>, now: Micros) {
        // A task that is asked for from outside goes over all shards and is not in a hurry.
        let timeout = task.as_ref().map_or(self.timeout, |_| CALM_TIMEOUT);
        self.deadline = now + timeout;
        self.task = Some(task.unwrap_or_else(|| Task::of(self.workload.next(&mut self.rng))));
    }

    /// What the task does next, after a request of it has ended.
    pub(crate) fn advance(&mut self, ended: Option<Ended>) -> Next {
        match &mut self.task {
            Some(task) => task.advance(ended, &mut self.sessions, &self.map),
            None => unreachable!("only a client with a task is advanced"),
        }
    }

    /// Begins a request.
    pub(crate) fn ask(&mut self, kind: request::Kind, now: Micros) -> Move {
        let shard = self.shard_of(&kind);
        self.pending = Some(Pending {
            tries: Tries::new(repeat_of(&kind)),
            kind,
            shard,
            deadline: self.deadline,
            try_id: 0,
            target: 0,
            leads: false,
        });
        self.try_now(now)
    }

    fn shard_of(&self, kind: &request::Kind) -> Option<ShardId> {
        let found = match kind {
            request::Kind::Get(get) => self.map.lookup(&get.key),
            request::Kind::BatchGet(get) => {
                self.map.lookup(get.keys.first().unwrap_or(&Bytes::new()))
            }
            request::Kind::Put(put) => self.map.lookup(&put.key),
            request::Kind::Delete(delete) => self.map.lookup(&delete.key),
            request::Kind::Scan(scan) if scan.reverse => self.map.lookup_before(&scan.end),
            request::Kind::Scan(scan) => self.map.lookup(&scan.start),
            request::Kind::OpenSession(open) => self.map.lookup(&open.key),
            request::Kind::CloseSession(close) => self.map.lookup(&close.key),
            request::Kind::Batch(batch) => {
                let key = task::first_key(&batch.conditions, &batch.operations);
                self.map.lookup(&key)
            }
        };
        found.map(|descriptor| descriptor.shard)
    }

    /// The leader's node if it is known, else any node.
    fn try_now(&mut self, now: Micros) -> Move {
        let Some(pending) = &mut self.pending else {
            unreachable!("a try needs a request");
        };
        let pinned = self.task.as_ref().and_then(|task| task.pinned);
        let leader = pending.shard.and_then(|shard| self.leaders.get(&shard));
        // Now and then a linearizable read goes to any node, where there may be a follower to serve it.
        let wander = pending.tries.repeat() == Repeat::Read && self.rng.u8(..3) == 0;
        let leader = leader.filter(|_| !wander).copied();
        pending.leads = leader.is_some();
        pending.target = pinned.or(leader).unwrap_or_else(|| {
            self.turn += 1;
            self.turn % self.nodes
        });
        let left = pending.deadline.saturating_sub(now);
        let time = (pending.tries).time(
            Duration::from_micros(left),
            Duration::from_micros(self.try_timeout),
        );
        let timeout = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        Move::Send {
            to: pending.target,
            kind: pending.kind.clone(),
            timeout,
        }
    }

    /// Notes by which number the try that was just sent is known.
    pub(crate) fn sent(&mut self, try_id: u64) {
        if let Some(pending) = &mut self.pending {
            pending.try_id = try_id;
        }
    }

    /// Whether an answer to this try is still waited for.
    pub(crate) fn waits_for(&self, try_id: u64) -> bool {
        (self.pending.as_ref()).is_some_and(|pending| try_id != 0 && pending.try_id == try_id)
    }

    /// The pause is over.
    pub(crate) fn again(&mut self, now: Micros) -> Move {
        self.try_now(now)
    }

    /// The try has ended.
    pub(crate) fn reply(&mut self, reply: rpc::Reply, now: Micros) -> Move {
        let Some(pending) = &mut self.pending else {
            unreachable!("only a client that waits is answered");
        };
        pending.try_id = 0;
        let failure = match reply {
            Ok(kind) => {
                self.pending = None;
                return Move::Ended(Ended::Answered(kind));
            }
            Err(failure) => failure,
        };
        let (shard, leads, deadline) = (pending.shard, pending.leads, pending.deadline);
        let failed = Failed {
            transient: rpc::is_transient(&failure),
            nothing_written: failure.nothing_written(),
            named_another: self.learn(shard, leads, &failure),
            retry_after: match &failure {
                Failure::Node(error) if error.code() == Code::Busy => {
                    Duration::from_millis(error.retry_after_ms.into())
                }
                _ => Duration::ZERO,
            },
        };
        let Some(pending) = &mut self.pending else {
            unreachable!("it is there, see above");
        };
        let pause = pending.tries.failed(failed, &mut self.rng);
        let pause = pause.map(|pause| u64::try_from(pause.as_micros()).unwrap_or(u64::MAX));
        let pinned = self.task.as_ref().is_some_and(|task| task.pinned.is_some());
        match pause {
            Some(pause) if !pinned && now + pause < deadline => Move::Pause(pause),
            _ => {
                let unknown = pending.tries.maybe_written();
                self.pending = None;
                Move::Ended(match unknown {
                    true => Ended::Unknown,
                    false => Ended::Failed(failure),
                })
            }
        }
    }

    /// Takes from a failure what it says about routes. True: enough to try again at once.
    fn learn(&mut self, shard: Option<ShardId>, leads: bool, failure: &Failure) -> bool {
        let Some(shard) = shard else {
            return false;
        };
        match failure {
            Failure::Node(error) if error.code() == Code::NotLeader => {
                let leader = NodeId(error.leader);
                if leader == NodeId::NONE {
                    self.leaders.remove(&shard);
                    return false;
                }
                let at = (leader.0 - 1) as usize;
                self.leaders.insert(shard, at) != Some(at)
            }
            Failure::Node(error)
                if matches!(error.code(), Code::ShuttingDown | Code::Unavailable) && leads =>
            {
                self.leaders.remove(&shard);
                false
            }
            Failure::Unreachable(_) | Failure::ConnectionLost(_) | Failure::Late(_) if leads => {
                self.leaders.remove(&shard);
                false
            }
            _ => false,
        }
    }
}
