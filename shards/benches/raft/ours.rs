//! Replicas of this crate's core, with synchronous and with asynchronous writes.

use crate::harness::{ELECTION_TICKS, MAX_INFLIGHT, MAX_MESSAGE, Replica, TICKS};
use bytes::Bytes;
use flotilla_shards::raft::{
    ConfState, Config, Entry, HardState, Index, MemoryStorage, Message, RawNode, ReplicaId, Role,
    Storage as _,
};

fn node(id: u64, check_quorum: bool, async_storage_writes: bool) -> RawNode<MemoryStorage> {
    let config = Config {
        id: ReplicaId(id),
        election_ticks: ELECTION_TICKS,
        heartbeat_ticks: TICKS,
        max_size_per_msg: MAX_MESSAGE,
        max_committed_size_per_ready: u64::MAX,
        max_inflight_msgs: MAX_INFLIGHT,
        check_quorum,
        pre_vote: true,
        async_storage_writes,
        seed: id,
        ..Config::default()
    };
    let members = ConfState {
        voters: (1..=3).map(ReplicaId).collect(),
        ..ConfState::default()
    };
    RawNode::new(&config, MemoryStorage::with_conf_state(members)).expect("a valid configuration")
}

fn write(node: &mut RawNode<MemoryStorage>, entries: &[Entry], hard_state: HardState) {
    let storage = node.storage_mut();
    storage.append(entries).expect("entries follow the log");
    if !hard_state.is_empty() {
        storage.set_hard_state(hard_state);
    }
}

fn apply(entries: &[Entry]) -> usize {
    entries.iter().map(|entry| entry.data.len()).sum()
}

/// What is the same for both.
macro_rules! replica {
    () => {
        type Message = Message;

        fn tick(&mut self) {
            self.0.tick();
        }

        fn campaign(&mut self) {
            self.0.campaign().expect("storage in memory");
        }

        fn beat(&mut self) {
            self.0.heartbeat_now();
        }

        fn propose(&mut self, payloads: Vec<Bytes>) {
            self.0.propose_batch(payloads).expect("leading");
        }

        fn step(&mut self, message: Message) {
            self.0.step(message).expect("a message of the protocol");
        }

        fn has_ready(&self) -> bool {
            self.0.has_ready()
        }

        fn receiver(message: &Message) -> u64 {
            message.to.0
        }

        fn is_leader(&self) -> bool {
            self.0.role() == Role::Leader
        }

        fn applied(&self) -> u64 {
            self.0.applied().0
        }

        fn first_index(&self) -> u64 {
            self.0.storage().first_index().0
        }

        fn compact(&mut self, index: u64) {
            let compacted = self.0.storage_mut().compact(Index(index));
            compacted.expect("an index of the log");
        }
    };
}

/// A replica that writes before it goes on.
pub(crate) struct Sync(RawNode<MemoryStorage>);

impl Replica for Sync {
    replica!();

    fn new(id: u64, check_quorum: bool) -> Self {
        Self(node(id, check_quorum, false))
    }

    fn handle_ready(&mut self, mail: &mut Vec<Message>) -> usize {
        let ready = self.0.ready();
        let hard_state = ready.hard_state.unwrap_or_default();
        write(&mut self.0, &ready.entries, hard_state);
        mail.extend(ready.messages);
        let applied = apply(&ready.committed_entries);
        self.0.advance();
        applied
    }
}

/// A replica whose writes are messages, as in the node; here they are done at once.
pub(crate) struct Async(RawNode<MemoryStorage>);

impl Replica for Async {
    replica!();

    fn new(id: u64, check_quorum: bool) -> Self {
        Self(node(id, check_quorum, true))
    }

    fn handle_ready(&mut self, mail: &mut Vec<Message>) -> usize {
        let mut applied = 0;
        for message in self.0.ready().messages {
            if message.to == ReplicaId::APPEND_THREAD {
                let hard_state = HardState {
                    term: message.term,
                    vote: message.vote,
                    commit: message.commit,
                };
                write(&mut self.0, &message.entries, hard_state);
            } else if message.to == ReplicaId::APPLY_THREAD {
                applied += apply(&message.entries);
            } else {
                mail.push(message);
                continue;
            }
            for response in message.responses {
                if response.to == self.0.id() {
                    self.0.step(response).expect("an answer of the storage");
                } else {
                    mail.push(response);
                }
            }
        }
        applied
    }
}
