//! A worker: the thread that owns an engine. One turn takes what is in the mailbox, lets due timers fire, and hands the
//! engine's outputs on.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crossbeam_channel::RecvTimeoutError;
use flotilla_metrics::{Confirmation, Metrics, RefusalReason, ShardState, Stage};
use flotilla_shards::{
    engine::{
        Compaction, LogAppend, Outgoing, Output, Proposal, Refused, RoleChange, SnapshotSend,
    },
    ids::ShardId,
    raft::Role,
};

use super::{
    Answer, Reply,
    inbox::{Input, Mailbox, NodeEngine, ShardRequest},
    leases::Leases,
};
use crate::clock::wall_ms;

/// Inputs taken in one turn at most, so that timers and outputs don't wait behind a flood.
const INPUTS_PER_TURN: usize = 4096;

/// Where a worker's outputs go. None of the calls may block on another output of the same worker.
pub trait Surroundings: Send {
    /// Messages that may leave at once.
    fn send(&self, messages: Vec<Outgoing>);
    /// Log writes, in order.
    fn write(&self, appends: Vec<LogAppend>);
    /// Committed entries, in order.
    fn apply(&self, applies: Vec<flotilla_shards::engine::Apply<Reply>>);
    /// Log prefixes to cut.
    fn compact(&self, compactions: Vec<Compaction>);
    /// This node lives: to be told to all others.
    fn alive(&self);
    /// Followers that need a shard's state.
    fn snapshot(&self, send: SnapshotSend);
    /// Leaders and roles that changed.
    fn changed(&self, changes: &[RoleChange]);
    /// A replica can't go on: the node must end.
    fn failed(&self, shard: ShardId, reason: String);
}

pub(super) struct Worker<S> {
    pub(super) engine: NodeEngine,
    pub(super) mailbox: Mailbox,
    pub(super) surroundings: S,
    pub(super) metrics: Arc<Metrics>,
    pub(super) tick: Duration,
    pub(super) leases: Arc<Leases>,
    pub(super) states: BTreeMap<ShardId, ShardState>,
    /// Resting replicas that the metrics know of.
    pub(super) resting: usize,
    pub(super) pulse: Pulse,
}

/// One worker's part in saying that the node lives: it does when all of its workers have said so, so that one that hangs
/// is missed as a dead node would be.
#[derive(Clone)]
pub(super) struct Pulse {
    said: Arc<[AtomicBool]>,
    worker: usize,
}

impl Pulse {
    /// One part for each of so many workers.
    pub(super) fn new(workers: usize) -> impl Iterator<Item = Self> {
        let said: Arc<[AtomicBool]> = (0..workers).map(|_| AtomicBool::new(false)).collect();
        (0..workers).map(move |worker| Self {
            said: Arc::clone(&said),
            worker,
        })
    }

    /// This worker lives. Returns whether it is the last to say so, and speaks for all.
    fn beat(&self) -> bool {
        self.said[self.worker].store(true, Relaxed);
        let all = self.said.iter().all(|said| said.load(Relaxed));
        if all {
            for said in &*self.said {
                said.store(false, Relaxed);
            }
        }
        all
    }
}

impl<S: Surroundings> Worker<S> {
    pub(super) fn run(mut self) {
        for shard in self.engine.shards() {
            self.states.insert(shard, ShardState::NoLeader);
            self.metrics.shards.of(ShardState::NoLeader).inc();
        }
        let start = self.leases.start();
        let mut tick = 0;
        let mut going = true;
        self.turn();
        while going {
            let next = u32::try_from(self.engine.quiet_until()).unwrap_or(u32::MAX);
            let next = start + self.tick * next;
            let wait = next.saturating_duration_since(Instant::now());
            let first = match self.mailbox.receiver.recv_timeout(wait) {
                Ok(input) => Some(input),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let begin = Instant::now();
            if let Some(input) = first {
                going &= self.take(input, begin);
                for _ in 1..INPUTS_PER_TURN {
                    let Ok(input) = self.mailbox.receiver.try_recv() else {
                        break;
                    };
                    going &= self.take(input, begin);
                }
            }
            // After the inputs: a heartbeat that waited in the mailbox counts before the timeout that it prevents. And a clock
            // that was read before the last of them came in could be from before a pause of this process, and a lease, by
            // which a read is answered that began after it, long over.
            let elapsed = start.elapsed().as_nanos() / self.tick.as_nanos();
            let now = u32::try_from(elapsed).unwrap_or(u32::MAX);
            if now > tick {
                tick = now;
                self.count_leased_reads();
                self.engine.handle_tick(u64::from(tick));
                self.report_cache();
                self.report_resting();
            }
            self.turn();
            let time = begin.elapsed().as_secs_f64();
            self.metrics.turn_seconds.observe(time);
        }
    }

    /// Feeds one input to the engine; false means stop.
    fn take(&mut self, input: Input, now: Instant) -> bool {
        match input {
            Input::Request(shard, ShardRequest::Write { command, bytes }, mut reply) => {
                reply.stage(&self.metrics, Stage::Queue, now);
                let proposal = Proposal {
                    command,
                    bytes,
                    reply,
                };
                self.engine.propose(shard, proposal);
            }
            Input::Request(shard, ShardRequest::Read, reply) => self.engine.read(shard, reply),
            Input::Peer { messages, bytes } => {
                self.mailbox.peer_bytes.fetch_sub(bytes, Relaxed);
                for (shard, message) in messages {
                    if let Err(error) = self.engine.handle_message(shard, message) {
                        tracing::debug!(%shard, %error, "message of a peer dropped");
                    }
                }
            }
            Input::Local(messages) => {
                for (shard, message) in messages {
                    self.engine.handle_local(shard, message);
                }
            }
            Input::Flushed(flushed) => self.engine.handle_flushed(&flushed),
            Input::Alive { node, incarnation } => self.engine.handle_alive(node, incarnation),
            Input::Unreachable(node) => self.engine.handle_unreachable(node),
            Input::SnapshotSent { shard, node, ok } => {
                self.engine.handle_snapshot_sent(shard, node, ok);
            }
            Input::Ask(ask) => ask(&mut self.engine),
            Input::Stop => return false,
        }
        true
    }

    fn turn(&mut self) {
        let (metrics, now) = (&self.metrics, Instant::now());
        let mut out = self.engine.turn_with(wall_ms(), |reply: &mut Reply| {
            reply.stage(metrics, Stage::Propose, now);
        });
        if out.is_empty() {
            return;
        }
        // Before all else: what is said below must not be known to anybody while a lease is open that rests on its contrary.
        for lease in &out.leases {
            self.leases.set(*lease);
        }
        if out.alive && self.pulse.beat() {
            self.surroundings.alive();
        }
        if !out.changes.is_empty() {
            self.surroundings.changed(&out.changes);
            self.count_changes(&out.changes);
        }
        // Messages first: appends travel to the followers while the own write is being synced (thesis 10.2.1).
        if !out.messages.is_empty() {
            self.surroundings.send(std::mem::take(&mut out.messages));
        }
        // Entries before log writes: a snapshot among the writes replaces the state that the entries lead to.
        if !out.applies.is_empty() {
            self.hand_out_applies(&mut out);
        }
        if !out.appends.is_empty() {
            self.surroundings.write(std::mem::take(&mut out.appends));
        }
        if !out.compactions.is_empty() {
            self.surroundings
                .compact(std::mem::take(&mut out.compactions));
        }
        for send in out.snapshots {
            self.surroundings.snapshot(send);
        }
        if !out.reads.is_empty() {
            self.metrics.reads_per_round.observe(out.reads.len() as f64);
            let leased = out.reads.iter().filter(|read| read.leased).count();
            let asked = out.reads.len() - leased;
            (self.metrics.reads.of(Confirmation::Lease)).inc_by(leased as u64);
            (self.metrics.reads.of(Confirmation::Round)).inc_by(asked as u64);
        }
        for read in out.reads {
            read.reply.send(Ok(Answer::ReadReady(read.index)));
        }
        for (reply, refused) in out.refusals {
            self.metrics.refusals.of(refusal_reason(&refused)).inc();
            reply.send(Err(refused));
        }
        for (shard, reason) in out.failures {
            self.surroundings.failed(shard, reason);
        }
    }

    fn hand_out_applies(&mut self, out: &mut Output<Reply>) {
        let now = Instant::now();
        for apply in &mut out.applies {
            for (_, replies) in &mut apply.waiters {
                self.metrics
                    .commands_per_entry
                    .observe(replies.len() as f64);
                self.metrics.proposals.inc_by(replies.len() as u64);
                for reply in replies {
                    reply.stage(&self.metrics, Stage::Commit, now);
                }
            }
        }
        self.surroundings.apply(std::mem::take(&mut out.applies));
    }

    fn count_changes(&mut self, changes: &[RoleChange]) {
        for change in changes {
            let state = match (change.role, change.leader) {
                (Role::Leader, _) => ShardState::Leader,
                (Role::Candidate | Role::PreCandidate, _) => ShardState::Candidate,
                (Role::Follower, Some(_)) => ShardState::Follower,
                (Role::Follower, None) => ShardState::NoLeader,
            };
            if change.role == Role::Candidate {
                self.metrics.elections_started.inc();
            }
            if change.role == Role::Leader {
                self.metrics.elections_won.inc();
            }
            if change.leader.is_some() {
                self.metrics.leader_changes.inc();
            }
            self.metrics.shards.of(state).inc();
            if let Some(old) = self.states.insert(change.shard, state) {
                self.metrics.shards.of(old).dec();
            }
        }
    }

    fn count_leased_reads(&mut self) {
        for (shard, reads) in self.leases.take_reads() {
            self.metrics.reads.of(Confirmation::Lease).inc_by(reads);
            self.engine.handle_leased_reads(shard, reads);
        }
    }

    fn report_resting(&mut self) {
        let resting = self.engine.resting();
        let change = resting as i64 - self.resting as i64;
        if change != 0 {
            self.metrics.shards_resting.add(change);
            self.resting = resting;
        }
    }

    fn report_cache(&self) {
        let cache = self.engine.cache();
        self.metrics
            .log_cache_bytes
            .set(cache.bytes.load(Relaxed) as i64);
        let add = |counter: &flotilla_metrics::Counter, total: u64| {
            counter.inc_by(total.saturating_sub(counter.get()));
        };
        add(&self.metrics.log_cache_hits, cache.hits.load(Relaxed));
        add(&self.metrics.log_cache_misses, cache.misses.load(Relaxed));
    }
}

fn refusal_reason(refused: &Refused) -> RefusalReason {
    match refused {
        Refused::NotLeader { .. } => RefusalReason::NotLeader,
        Refused::NoReplica { .. } => RefusalReason::NoReplica,
        Refused::Busy => RefusalReason::Busy,
        Refused::OutcomeUnknown => RefusalReason::OutcomeUnknown,
        Refused::Superseded => RefusalReason::Superseded,
        Refused::Unconfirmed => RefusalReason::Unconfirmed,
        Refused::State(_) => RefusalReason::State,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_lives_when_all_its_workers_say_so() {
        let pulses: Vec<Pulse> = Pulse::new(3).collect();
        for _ in 0..2 {
            assert!(!pulses[0].beat());
            assert!(
                !pulses[0].beat(),
                "one worker does not speak for the others"
            );
            assert!(!pulses[2].beat());
            assert!(pulses[1].beat());
        }
        assert!(Pulse::new(1).all(|alone| alone.beat() && alone.beat()));
    }
}
