//! What an idle replica costs, counted by the allocator. One test in a process of its own: the counters are global.

use bytes::Bytes;
use flotilla_shards::raft::{
    ConfState, Config, Entry, HardState, Index, MemoryStorage, Message, RawNode, ReadOnlyOption,
    ReplicaId, Role, Snapshot, Storage, StorageError, Term,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;
use std::cell::RefCell;
use std::rc::Rc;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Upper bounds in bytes, from the issue that asked for the core; half of them is the goal.
const FOLLOWER_LIMIT: usize = 1024;
const LEADER_LIMIT: usize = 1536;

/// A log that the test holds as well, so that it stays when the replica is dropped: what is measured is the core.
struct Log(Rc<RefCell<MemoryStorage>>);

impl Storage for Log {
    fn initial_state(&self) -> Result<(HardState, ConfState), StorageError> {
        self.0.borrow().initial_state()
    }

    fn entries(&self, low: Index, high: Index, max: u64) -> Result<Vec<Entry>, StorageError> {
        self.0.borrow().entries(low, high, max)
    }

    fn term(&self, index: Index) -> Result<Term, StorageError> {
        self.0.borrow().term(index)
    }

    fn first_index(&self) -> Index {
        self.0.borrow().first_index()
    }

    fn last_index(&self) -> Index {
        self.0.borrow().last_index()
    }

    fn snapshot(&self) -> Result<Snapshot, StorageError> {
        self.0.borrow().snapshot()
    }
}

fn group(logs: &[Rc<RefCell<MemoryStorage>>], read_only: ReadOnlyOption) -> Vec<RawNode<Log>> {
    let node = |(id, log): (u64, &Rc<RefCell<MemoryStorage>>)| {
        let config = Config {
            id: ReplicaId(id),
            check_quorum: true,
            pre_vote: true,
            read_only,
            async_storage_writes: true,
            seed: id,
            ..Config::default()
        };
        RawNode::new(&config, Log(Rc::clone(log))).expect("a valid configuration")
    };
    (1..).zip(logs).map(node).collect()
}

/// Lets everybody work until nobody has anything to do.
fn settle(nodes: &mut [RawNode<Log>]) {
    loop {
        let mut mail = Vec::new();
        for node in nodes.iter_mut() {
            while node.has_ready() {
                mail.extend(node.ready().messages);
            }
        }
        if mail.is_empty() {
            return;
        }
        for message in mail {
            deliver(nodes, message);
        }
    }
}

fn deliver(nodes: &mut [RawNode<Log>], message: Message) {
    if message.to.is_storage_thread() {
        let node = &mut nodes[message.from.0 as usize - 1];
        if message.to == ReplicaId::APPEND_THREAD {
            let mut log = node.storage().0.borrow_mut();
            log.append(&message.entries)
                .expect("entries follow the log");
        }
        for response in message.responses {
            deliver(nodes, response);
        }
    } else {
        let node = &mut nodes[message.to.0 as usize - 1];
        node.step(message).expect("a message of the protocol");
    }
}

/// Bytes of the heap and of the struct itself that a replica held.
fn cost(node: RawNode<Log>) -> usize {
    let own = size_of_val(&node) - size_of::<Log>();
    let region = Region::new(ALLOCATOR);
    drop(node);
    own + region.change().bytes_deallocated
}

#[test]
fn an_idle_replica_is_small() {
    for read_only in [ReadOnlyOption::Safe, ReadOnlyOption::LeaseBased] {
        let members = ConfState {
            voters: (1..=3).map(ReplicaId).collect(),
            ..ConfState::default()
        };
        let log = || MemoryStorage::with_conf_state(members.clone());
        let logs = [(); 3].map(|()| Rc::new(RefCell::new(log())));
        let mut nodes = group(&logs, read_only);
        nodes[0].campaign().expect("storage in memory");
        settle(&mut nodes);
        // Work that makes buffers grow: batches, reads, a busy window; then some quiet heartbeats.
        for round in 0..50 {
            let batch = vec![Bytes::from_static(&[7; 100]); 64];
            nodes[0].propose_batch(batch).expect("leading");
            nodes[0]
                .propose(Bytes::from_static(b"one more"))
                .expect("leading");
            nodes[round % 3]
                .read_index(Bytes::from_static(b"read"))
                .expect("a leader is known");
            settle(&mut nodes);
        }
        for _ in 0..5 {
            for node in &mut nodes {
                node.tick();
            }
            settle(&mut nodes);
        }
        assert_eq!(nodes[0].role(), Role::Leader);
        assert_eq!(nodes[0].applied(), Index(1 + 50 * 65));
        let follower = cost(nodes.pop().expect("three replicas"));
        let leader = cost(nodes.swap_remove(0));
        println!("{read_only:?}: follower {follower} bytes, leader of three {leader} bytes");
        assert!(follower <= FOLLOWER_LIMIT, "follower: {follower} bytes");
        assert!(leader <= LEADER_LIMIT, "leader: {leader} bytes");
    }
}
