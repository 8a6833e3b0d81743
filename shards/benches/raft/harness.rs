//! Three replicas in memory, driven in the same way whatever they are.

use bytes::Bytes;

/// Bytes of an entry's data.
const PAYLOAD: usize = 256;
/// Bytes of entries in one message at most.
pub(crate) const MAX_MESSAGE: u64 = 1 << 20;
/// Messages in flight to one follower at most.
pub(crate) const MAX_INFLIGHT: usize = 256;
/// Ticks between heartbeats.
pub(crate) const TICKS: u32 = 100_000;
/// Ticks of an election timeout.
pub(crate) const ELECTION_TICKS: u32 = 10 * TICKS;
/// Length of a log at which it is compacted.
const LOG_ENTRIES: u64 = 8192;

/// What the harness asks of a replica and its storage.
pub(crate) trait Replica {
    type Message;

    /// Replica `id` of the group `1..=3`, with an empty log.
    fn new(id: u64, check_quorum: bool) -> Self;
    fn tick(&mut self);
    fn campaign(&mut self);
    /// Lets a leader send heartbeats.
    fn beat(&mut self);
    fn propose(&mut self, payloads: Vec<Bytes>);
    fn step(&mut self, message: Self::Message);
    fn has_ready(&self) -> bool;
    /// Takes a `Ready` and does what it says; the messages to others are put into `mail`. Returns bytes applied.
    fn handle_ready(&mut self, mail: &mut Vec<Self::Message>) -> usize;
    fn receiver(message: &Self::Message) -> u64;
    fn is_leader(&self) -> bool;
    fn applied(&self) -> u64;
    fn first_index(&self) -> u64;
    /// Drops the log up to `index`.
    fn compact(&mut self, index: u64);
}

pub(crate) struct Cluster<R: Replica> {
    replicas: Vec<R>,
    mail: Vec<R::Message>,
    leader: usize,
}

/// Fresh data for `count` entries.
pub(crate) fn payloads(count: usize) -> Vec<Bytes> {
    (0..count).map(|_| Bytes::from(vec![7; PAYLOAD])).collect()
}

impl<R: Replica> Cluster<R> {
    /// Three replicas, of which the first one leads.
    pub(crate) fn new(check_quorum: bool) -> Self {
        let mut cluster = Self {
            replicas: (1..=3).map(|id| R::new(id, check_quorum)).collect(),
            mail: Vec::new(),
            leader: 0,
        };
        cluster.elect(0);
        cluster
    }

    /// Lets everybody work until nobody has anything to do. Returns bytes applied.
    fn settle(&mut self) -> usize {
        let mut applied = 0;
        loop {
            for replica in &mut self.replicas {
                if replica.has_ready() {
                    applied += replica.handle_ready(&mut self.mail);
                }
            }
            if self.mail.is_empty() {
                return applied;
            }
            for message in self.mail.drain(..) {
                self.replicas[R::receiver(&message) as usize - 1].step(message);
            }
        }
    }

    pub(crate) fn tick_to_heartbeat(&mut self) -> usize {
        for _ in 0..TICKS {
            for replica in &mut self.replicas {
                replica.tick();
            }
        }
        assert!(
            self.replicas[self.leader].has_ready(),
            "a heartbeat was due"
        );
        self.settle()
    }

    pub(crate) fn heartbeat_round(&mut self) -> usize {
        self.replicas[self.leader].beat();
        self.settle()
    }

    pub(crate) fn commit(&mut self, payloads: Vec<Bytes>) -> usize {
        let expected = 3 * payloads.len() * PAYLOAD;
        self.replicas[self.leader].propose(payloads);
        let applied = self.settle();
        assert_eq!(applied, expected, "bytes applied by three replicas");
        self.compact();
        applied
    }

    pub(crate) fn elect_next(&mut self) {
        self.elect((self.leader + 1) % self.replicas.len());
    }

    fn elect(&mut self, next: usize) {
        self.replicas[next].campaign();
        self.settle();
        assert!(self.replicas[next].is_leader(), "an election was lost");
        self.leader = next;
        self.compact();
    }

    fn compact(&mut self) {
        let applied = self.replicas[self.leader].applied();
        if applied < self.replicas[self.leader].first_index() + LOG_ENTRIES {
            return;
        }
        for replica in &mut self.replicas {
            assert_eq!(replica.applied(), applied, "a replica is behind");
            replica.compact(applied);
        }
    }
}
