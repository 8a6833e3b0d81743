//! A group over a network that the test holds in its hand.

use bytes::Bytes;
use flotilla_shards::raft::{
    ConfState, Config, Index, MemoryStorage, Message, MessageKind, RawNode, ReadOnlyOption,
    ReadState, ReplicaId, Role, Term,
};

/// Replicas 1 to n over a network that delivers in order, or not at all to and from those who are cut off.
pub(crate) struct Network {
    pub(crate) nodes: Vec<RawNode<MemoryStorage>>,
    pub(crate) mail: Vec<Message>,
    pub(crate) cut: Vec<ReplicaId>,
    /// Everything that was delivered.
    pub(crate) seen: Vec<Message>,
    pub(crate) read_states: Vec<(ReplicaId, ReadState)>,
}

pub(crate) fn members(n: u64) -> ConfState {
    ConfState {
        voters: (1..=n).map(ReplicaId).collect(),
        ..ConfState::default()
    }
}

pub(crate) fn config(id: u64) -> Config {
    Config {
        id: ReplicaId(id),
        check_quorum: true,
        pre_vote: true,
        max_clock_drift_permille: 0,
        seed: id,
        ..Config::default()
    }
}

pub(crate) fn leases(id: u64) -> Config {
    Config {
        read_only: ReadOnlyOption::LeaseBased,
        ..config(id)
    }
}

impl Network {
    pub(crate) fn new(n: u64, config: impl Fn(u64) -> Config) -> Self {
        let node = |id| {
            RawNode::new(&config(id), MemoryStorage::with_conf_state(members(n)))
                .expect("a valid configuration")
        };
        Self {
            nodes: (1..=n).map(node).collect(),
            mail: Vec::new(),
            cut: Vec::new(),
            seen: Vec::new(),
            read_states: Vec::new(),
        }
    }

    /// The same, with replica 1 elected and its first entry applied everywhere.
    pub(crate) fn led(n: u64, config: impl Fn(u64) -> Config) -> Self {
        let mut network = Self::new(n, config);
        network.node(1).campaign().expect("storage in memory");
        network.settle();
        assert_eq!(network.node(1).role(), Role::Leader);
        network.seen.clear();
        network
    }

    pub(crate) fn node(&mut self, id: u64) -> &mut RawNode<MemoryStorage> {
        &mut self.nodes[id as usize - 1]
    }

    /// Takes and does the work of everybody; messages wait in `mail`.
    pub(crate) fn work(&mut self) {
        for node in &mut self.nodes {
            while node.has_ready() {
                let ready = node.ready();
                let storage = node.storage_mut();
                if let Some(snapshot) = ready.snapshot {
                    storage.apply_snapshot(*snapshot).expect("a newer snapshot");
                }
                storage
                    .append(&ready.entries)
                    .expect("entries follow the log");
                if let Some(hard_state) = ready.hard_state {
                    storage.set_hard_state(hard_state);
                }
                let id = node.id();
                self.read_states
                    .extend(ready.read_states.into_iter().map(|state| (id, state)));
                self.mail.extend(ready.messages);
                node.advance();
            }
        }
    }

    /// Delivers what is in the mail. Returns whether that was anything.
    pub(crate) fn deliver(&mut self) -> bool {
        let mail = std::mem::take(&mut self.mail);
        let some = !mail.is_empty();
        for message in mail {
            if !self.cut.contains(&message.from) && !self.cut.contains(&message.to) {
                self.seen.push(message.clone());
                // Requests may be dropped, which their senders learn by timeout.
                let _ = self.node(message.to.0).step(message);
            }
        }
        some
    }

    pub(crate) fn settle(&mut self) {
        self.work();
        while self.deliver() {
            self.work();
        }
    }

    pub(crate) fn tick(&mut self) {
        for node in &mut self.nodes {
            node.tick();
        }
        self.settle();
    }

    pub(crate) fn count(&self, kind: MessageKind) -> usize {
        self.seen.iter().filter(|m| m.kind == kind).count()
    }

    /// Asks replica `id` to read; returns the answers that come of it.
    pub(crate) fn read(&mut self, id: u64) -> usize {
        let before = self.read_states.len();
        self.node(id)
            .read_index(Bytes::from_static(b"ctx"))
            .expect("a leader is known");
        self.settle();
        self.read_states.len() - before
    }
}

pub(crate) fn vote(from: u64, term: u64, context: &'static [u8]) -> Message {
    Message {
        kind: MessageKind::Vote,
        from: ReplicaId(from),
        to: ReplicaId(2),
        term: Term(term),
        log_term: Term(term),
        index: Index(100),
        context: Bytes::from_static(context),
        ..Message::default()
    }
}
