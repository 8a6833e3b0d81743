//! Replicas of the crate `raft` 0.7.

use crate::harness::{ELECTION_TICKS, MAX_INFLIGHT, MAX_MESSAGE, Replica, TICKS};
use bytes::Bytes;
use raft::eraftpb::{Entry, Message, MessageType};
use raft::storage::MemStorage;
use raft::{Config, RawNode, StateRole, Storage as _};

pub(crate) struct Node(RawNode<MemStorage>);

fn apply(entries: &[Entry]) -> usize {
    entries.iter().map(|entry| entry.data.len()).sum()
}

impl Replica for Node {
    type Message = Message;

    fn new(id: u64, check_quorum: bool) -> Self {
        let config = Config {
            id,
            election_tick: ELECTION_TICKS as usize,
            heartbeat_tick: TICKS as usize,
            max_size_per_msg: MAX_MESSAGE,
            max_inflight_msgs: MAX_INFLIGHT,
            check_quorum,
            pre_vote: true,
            ..Config::default()
        };
        let storage = MemStorage::new_with_conf_state((vec![1, 2, 3], vec![]));
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        Self(RawNode::new(&config, storage, &logger).expect("a valid configuration"))
    }

    fn tick(&mut self) {
        self.0.tick();
    }

    fn campaign(&mut self) {
        self.0.campaign().expect("storage in memory");
    }

    fn beat(&mut self) {
        self.0.ping();
    }

    fn propose(&mut self, payloads: Vec<Bytes>) {
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.0.raft.id;
        let entry = |data| Entry {
            data,
            ..Entry::default()
        };
        message.entries = payloads.into_iter().map(entry).collect();
        self.0.raft.step(message).expect("leading");
    }

    fn step(&mut self, message: Message) {
        self.0.step(message).expect("a message of the protocol");
    }

    fn has_ready(&self) -> bool {
        self.0.has_ready()
    }

    fn handle_ready(&mut self, mail: &mut Vec<Message>) -> usize {
        let mut ready = self.0.ready();
        mail.extend(ready.take_messages());
        let mut applied = apply(&ready.take_committed_entries());
        {
            let mut storage = self.0.raft.raft_log.store.wl();
            storage
                .append(ready.entries())
                .expect("entries follow the log");
            if let Some(hard_state) = ready.hs() {
                storage.set_hardstate(hard_state.clone());
            }
        }
        mail.extend(ready.take_persisted_messages());
        let mut light = self.0.advance(ready);
        if let Some(commit) = light.commit_index() {
            let mut storage = self.0.raft.raft_log.store.wl();
            storage.mut_hard_state().commit = commit;
        }
        mail.extend(light.take_messages());
        applied += apply(&light.take_committed_entries());
        self.0.advance_apply();
        applied
    }

    fn receiver(message: &Message) -> u64 {
        message.to
    }

    fn is_leader(&self) -> bool {
        self.0.raft.state == StateRole::Leader
    }

    fn applied(&self) -> u64 {
        self.0.raft.raft_log.applied
    }

    fn first_index(&self) -> u64 {
        self.0.store().first_index().expect("storage in memory")
    }

    fn compact(&mut self, index: u64) {
        let compacted = self.0.raft.raft_log.store.wl().compact(index);
        compacted.expect("an index of the log");
    }
}
