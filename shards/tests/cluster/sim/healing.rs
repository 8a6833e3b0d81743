//! The calm after the storm: what a group has to do once the network works and all members are up.

use flotilla_shards::raft::confchange::ConfChangeV2;
use flotilla_shards::raft::progress::ProgressState;
use flotilla_shards::raft::{ConfState, Index, RawNode, ReplicaId, Role};

use super::Sim;
use crate::replica::Replica;

impl Sim {
    /// With a network that works and all members up, the group has to elect a leader, leave a joint configuration,
    /// and bring a new proposal to every member.
    pub(super) fn recover(&mut self) {
        self.network.calm_down();
        (0..self.replicas.len()).for_each(|at| self.wake(at));
        self.settings.clocks = vec![1000; self.replicas.len()];
        let election_ticks = u64::from(self.settings.config.election_ticks);
        let mut marker = None;
        for _ in 0..60 * election_ticks {
            let members = self.members();
            for at in 0..self.replicas.len() {
                let replica = &self.replicas[at];
                let votes = |state: &ConfState| {
                    state.voters.contains(&replica.id)
                        || state.voters_outgoing.contains(&replica.id)
                };
                let (member, voter) = (
                    members.contains(&replica.id),
                    votes(&replica.machine.conf_state),
                );
                match &replica.raw {
                    None if member || !voter => self.launch(at),
                    // A leader that is no voter any more leads for ever, unless told otherwise.
                    Some(raw) if raw.role() == Role::Leader && !voter => {
                        self.crash(at);
                        self.launch(at);
                    }
                    // Who was removed without knowing it is taken down, as in a real cluster.
                    Some(_) if !member && voter => self.crash(at),
                    _ => {}
                }
            }
            self.pass_time();
            self.settle();
            let leader = (0..self.replicas.len()).filter(|&at| self.replicas[at].is_leader());
            let Some(leader) =
                leader.max_by_key(|&at| self.replicas[at].raw.as_ref().map(RawNode::term))
            else {
                continue;
            };
            self.help_stragglers(leader);
            let conf_state = &self.replicas[leader].machine.conf_state;
            if !conf_state.voters_outgoing.is_empty() {
                if !conf_state.auto_leave {
                    let leave = ConfChangeV2::default();
                    self.call(leader, format_args!("leave"), |raw| {
                        raw.propose_conf_change(leave).map(drop)
                    });
                }
                continue;
            }
            let (term, last) = {
                let raw = self.replicas[leader].raw.as_ref();
                let raw = raw.expect("a leader is up");
                (raw.term(), raw.last_index())
            };
            match marker {
                Some((since, index)) if since == term => {
                    if self.all_applied(index) {
                        return;
                    }
                }
                _ => {
                    // What comes after the last entry of this leader was proposed after the storm.
                    self.propose(leader);
                    let raw = self.replicas[leader].raw.as_ref();
                    let taken = raw.is_some_and(|raw| raw.last_index() > last);
                    marker = taken.then_some((term, last.next()));
                }
            }
        }
        panic!("no progress after the storm: {}", self.describe());
    }

    /// The members of the newest configuration that anybody has applied.
    pub(super) fn members(&self) -> Vec<ReplicaId> {
        let newest = self
            .replicas
            .iter()
            .max_by_key(|replica| replica.machine.at.index);
        let state = &newest
            .expect("there is at least one replica")
            .machine
            .conf_state;
        [
            &state.voters,
            &state.voters_outgoing,
            &state.learners,
            &state.learners_next,
        ]
        .into_iter()
        .flatten()
        .copied()
        .collect()
    }

    /// Everything that is under way arrives.
    pub(super) fn settle(&mut self) {
        for _ in 0..10_000 {
            let mut idle = self.network.is_empty();
            for at in 0..self.replicas.len() {
                let replica = &self.replicas[at];
                let Some(raw) = &replica.raw else { continue };
                let queues = [&replica.append_work, &replica.apply_work, &replica.inbox];
                let busy = raw.has_ready()
                    || replica.disk.has_unsynced()
                    || queues.iter().any(|queue| !queue.is_empty());
                if busy {
                    idle = false;
                    self.take_ready(at);
                    self.write(at);
                    self.sync(at);
                    self.check(at);
                    self.apply(at);
                    self.read_inbox(at);
                    self.check(at);
                }
            }
            if idle {
                return;
            }
            while !self.network.is_empty() {
                self.deliver();
            }
        }
        panic!("messages without end: {}", self.describe());
    }

    /// What an embedder does that knows what became of its messages: lost snapshots are reported.
    pub(super) fn help_stragglers(&mut self, leader: usize) {
        for at in 0..self.replicas.len() {
            if self.replicas[at].raw.is_some() {
                self.set_snapshots(at, true);
            }
        }
        let Some(raw) = &self.replicas[leader].raw else {
            return;
        };
        for (id, progress) in raw.status().progress {
            if progress.state == ProgressState::Snapshot {
                self.call(leader, format_args!("snapshot to {id}: lost"), |raw| {
                    raw.report_snapshot(id, false);
                    Ok(())
                });
            }
        }
        self.settle();
    }

    pub(super) fn all_applied(&self, index: Index) -> bool {
        let members = self.members();
        let states: Vec<_> = self
            .replicas
            .iter()
            .filter(|replica| members.contains(&replica.id))
            .map(|replica| &replica.machine)
            .collect();
        states
            .iter()
            .all(|machine| machine.at.index >= index && **machine == *states[0])
    }

    pub(super) fn describe(&self) -> String {
        let describe = |replica: &Replica| {
            let role = replica.raw.as_ref().map_or(Role::Follower, RawNode::role);
            format!(
                "{}: {role} up {} {:?} {:?}\n",
                replica.id,
                replica.raw.is_some(),
                replica.machine,
                replica.raw
            )
        };
        self.replicas.iter().map(describe).collect()
    }
}
