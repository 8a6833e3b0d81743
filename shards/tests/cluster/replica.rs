//! One replica: the group under test, its disk, its state machine, and the queues between them.

use crate::disk::{Disk, Machine, View, Write};
use crate::settings::Settings;
use fastrand::Rng;
use flotilla_shards::raft::confchange::ConfChangeAny;
use flotilla_shards::raft::{
    Config, Entry, EntryId, EntryKind, Error, Message, RawNode, ReadOnlyOption, ReplicaId, Role,
};
use std::collections::VecDeque;

pub(crate) struct Replica {
    pub(crate) id: ReplicaId,
    /// `None` while it is down.
    pub(crate) raw: Option<RawNode<View>>,
    pub(crate) disk: Disk,
    pub(crate) machine: Machine,
    /// Writes to the log that were asked for and not begun.
    pub(crate) append_work: VecDeque<Message>,
    pub(crate) apply_work: VecDeque<Message>,
    /// What the storage threads answered, in order.
    pub(crate) inbox: VecDeque<Message>,
    /// How often it was started.
    pub(crate) start: u64,
    clock: u32,
}

impl Replica {
    pub(crate) fn new(id: ReplicaId, machine: Machine) -> Self {
        Self {
            id,
            raw: None,
            disk: Disk::new(machine.clone()),
            machine,
            append_work: VecDeque::new(),
            apply_work: VecDeque::new(),
            inbox: VecDeque::new(),
            start: 0,
            clock: 0,
        }
    }

    pub(crate) fn is_leader(&self) -> bool {
        self.raw
            .as_ref()
            .is_some_and(|raw| raw.role() == Role::Leader)
    }

    pub(crate) fn launch(&mut self, settings: &Settings, rng: &mut Rng) {
        let lease = settings.config.read_only == ReadOnlyOption::LeaseBased;
        let config = Config {
            id: self.id,
            applied: self.disk.flushed.at.index,
            seed: rng.u64(..),
            // It may have promised a leader not to vote before it went down.
            vote_hold_off_ticks: if lease && self.start > 0 {
                settings.config.election_ticks
            } else {
                0
            },
            ..settings.config.clone()
        };
        self.start += 1;
        self.machine = self.disk.flushed.clone();
        self.raw = Some(
            RawNode::new(&config, self.disk.view())
                .expect("what a crash leaves can be started from"),
        );
    }

    pub(crate) fn crash(&mut self, settings: &Settings, rng: &mut Rng) {
        self.raw = None;
        let queued: Vec<_> = self.append_work.drain(..).map(Write::new).collect();
        self.disk.crash(queued, settings.torn_writes, rng);
        self.apply_work.clear();
        self.inbox.clear();
    }

    /// Lets time pass on the replica's clock. Returns the ticks.
    pub(crate) fn pass_time(&mut self, rate: u32) -> u32 {
        self.clock += rate;
        let ticks = self.clock / 1000;
        self.clock %= 1000;
        ticks
    }

    /// Applies committed entries to the machine, except those that a received snapshot stands in for. Calls `applied`
    /// after each.
    pub(crate) fn apply(&mut self, entries: &[Entry], mut applied: impl FnMut(&Machine)) {
        let Some(raw) = &mut self.raw else { return };
        for entry in entries {
            // With a snapshot under way the membership in force is the snapshot's already.
            if entry.index <= self.machine.at.index || entry.index < raw.raft.log().first_index() {
                continue;
            }
            assert_eq!(
                entry.index,
                self.machine.at.index.next(),
                "replica {}: applied out of order",
                self.id
            );
            if entry.kind != EntryKind::Normal {
                let change =
                    ConfChangeAny::decode(entry.kind, &entry.data).expect("written by this core");
                match raw.apply_conf_change(&change.into_v2()) {
                    Ok(conf_state) => self.machine.conf_state = conf_state,
                    Err(Error::ConfChange(_)) => {} // without effect, everywhere
                    Err(error) => panic!("replica {}: {error}", self.id),
                }
            }
            let digest = crate::trace::fnv(self.machine.digest, &entry.term.0.to_be_bytes());
            self.machine.digest = crate::trace::fnv(digest, &entry.data);
            self.machine.at = EntryId {
                term: entry.term,
                index: entry.index,
            };
            applied(&self.machine);
        }
    }

    /// Takes over the state of a snapshot that was written.
    pub(crate) fn install(&mut self, machine: Machine) {
        if machine.at.index > self.machine.at.index {
            self.machine = machine;
        }
    }
}
