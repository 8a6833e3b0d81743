//! Read requests on their way through a leader, and the rounds of heartbeats that confirm it (thesis 6.4, etcd
//! `read_only.go`).
//!
//! A round is the leader's own number, unique in its term; a caller's context is never a key (etcd-io/raft#397).
//! Answers are kept per voter as the latest round that it confirmed, so that one confirmed round confirms all requests
//! that were made before it was sent. A round's number also holds the tick in which it was sent: from that moment,
//! and not from the answer, a voter's promise counts that leases rest on. Whether it promised anything is noted apart, as
//! who keeps no promises confirms reads all the same.

use super::quorum::JointConfig;
use super::types::{Index, ReplicaId};
use bytes::Bytes;
use smallvec::SmallVec;
use std::collections::VecDeque;

/// Requests that a leader holds at most; more are refused. A leader that can't reach a quorum would collect them
/// without end.
pub const MAX_PENDING_READS: usize = 1 << 16;

/// The answer to a read request of this replica: once `index` is applied, the read is linearizable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadState {
    /// What must be applied before reading.
    pub index: Index,
    /// What the caller gave with the request.
    pub context: Bytes,
    /// Whether the lease of this replica confirmed it, and nobody was asked.
    pub leased: bool,
}

/// A request that a leader holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReadRequest {
    /// Who asked; the leader itself for a local request.
    pub(crate) from: ReplicaId,
    pub(crate) context: Bytes,
    /// Commit index when the request was taken.
    pub(crate) index: Index,
    /// The round that confirms it, or any later one; 0 while it waits for the first commit of the term.
    round: u64,
}

impl ReadRequest {
    pub(crate) fn new(from: ReplicaId, context: Bytes) -> Self {
        Self {
            from,
            context,
            index: Index(0),
            round: 0,
        }
    }
}

/// Requests, rounds and their confirmations during one term of leadership.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReadOnly {
    /// Requests in order of arrival, hence of rounds. While the leader has committed nothing in its term, they wait
    /// here with round 0.
    requests: VecDeque<ReadRequest>,
    /// Requests that came while the lease held: whether it still does is looked at when their answers leave.
    leased: Vec<ReadRequest>,
    /// The last round started: ticks in office in the upper half, a counter below.
    round: u64,
    /// What each replica confirmed.
    acks: SmallVec<[Ack; 2]>,
}

/// The latest rounds that a replica confirmed.
#[derive(Clone, Copy, Debug)]
struct Ack {
    from: ReplicaId,
    round: u64,
    /// The latest one for which it promised not to vote; 0 for none.
    promised: u64,
}

/// Ticks in office at which a round was sent.
pub(crate) fn sent_at(round: u64) -> u64 {
    round >> 32
}

impl ReadOnly {
    pub(crate) fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.requests.len() + self.leased.len() >= MAX_PENDING_READS
    }

    pub(crate) fn last_round(&self) -> u64 {
        self.round
    }

    /// Starts a round that is sent `ticks` ticks after the election.
    pub(crate) fn start_round(&mut self, ticks: u64) -> u64 {
        // Beyond 2^32 ticks in office the time of sending reads too early, which makes leases shorter: the safe side.
        let tick = ticks.min(u64::from(u32::MAX)) << 32;
        let next = self.round + 1;
        assert!(
            sent_at(next) <= sent_at(tick),
            "2^32 rounds of read confirmation in one tick: {self:?}"
        );
        self.round = next.max(tick);
        self.round
    }

    /// Holds a request until `round` is confirmed; round 0 holds it until [`ReadOnly::assign`].
    pub(crate) fn add(&mut self, mut request: ReadRequest, index: Index, round: u64) {
        request.index = index;
        request.round = round;
        self.requests.push_back(request);
    }

    /// Holds a request until its answer can leave.
    pub(crate) fn add_leased(&mut self, mut request: ReadRequest, index: Index) {
        request.index = index;
        self.leased.push(request);
    }

    pub(crate) fn has_leased(&self) -> bool {
        !self.leased.is_empty()
    }

    /// Takes the requests that came while the lease held.
    pub(crate) fn take_leased(&mut self) -> Vec<ReadRequest> {
        std::mem::take(&mut self.leased)
    }

    /// Takes the requests that wait for the first commit of the term.
    pub(crate) fn take_waiting(&mut self) -> VecDeque<ReadRequest> {
        match self.requests.front() {
            Some(first) if first.round == 0 => std::mem::take(&mut self.requests),
            _ => VecDeque::new(),
        }
    }

    /// Notes that `from` confirmed `round`, and whether it promised not to vote.
    pub(crate) fn acknowledge(&mut self, from: ReplicaId, round: u64, promise: bool) {
        let promised = if promise { round } else { 0 };
        match self.acks.iter_mut().find(|ack| ack.from == from) {
            Some(ack) => {
                ack.round = ack.round.max(round);
                ack.promised = ack.promised.max(promised);
            }
            None => self.acks.push(Ack {
                from,
                round,
                promised,
            }),
        }
    }

    fn acked(&self, id: ReplicaId) -> Option<&Ack> {
        self.acks.iter().find(|ack| ack.from == id)
    }

    /// The latest round for which `id` promised not to vote.
    pub(crate) fn promised(&self, id: ReplicaId) -> Option<u64> {
        let promised = self.acked(id).map(|ack| ack.promised);
        promised.filter(|round| *round != 0)
    }

    /// Takes the next request that a quorum of `voters` has confirmed, the leader `own` among them.
    pub(crate) fn confirmed_round(&self, voters: &JointConfig, own: ReplicaId) -> u64 {
        let acked = |id| {
            let round = if id == own {
                Some(self.round)
            } else {
                self.acked(id).map(|ack| ack.round)
            };
            round.map(Index)
        };
        voters.committed_index(acked).0
    }

    /// Takes the first request if `round` confirms it.
    pub(crate) fn pop_confirmed(&mut self, round: u64) -> Option<ReadRequest> {
        let request = self
            .requests
            .pop_front_if(|request| request.round != 0 && request.round <= round);
        if self.requests.is_empty() && self.requests.capacity() > 0 {
            // An idle leader holds no buffer.
            self.requests = VecDeque::new();
        }
        request
    }
}
