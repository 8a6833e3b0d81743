//! Starts and ends of a node: from its disk, by the rules that the node's storage has, and by crashes, failed syncs and
//! damage.

use std::rc::Rc;

use flotilla_shards::engine::{CacheCount, Engine, EngineConfig};
use flotilla_shards::lineage::Mark;
use flotilla_shards::recovery::{self, Recovered, RecoveryError};

use super::{Event, Sim};
use crate::checks::{self, Checked, Violation};
use crate::disk::Unsynced;
use crate::fault::Fault;
use crate::node::{Known, Phase};
use crate::queue::MILLIS;
use crate::rpc::{Failure, Party};
use crate::trace::Kind;

impl Sim {
    /// Starts a node from its disk.
    pub(super) fn start(&mut self, at: usize) -> Checked {
        if self.nodes[at].phase != Phase::Down {
            return Ok(());
        }
        if self.ask_around(at)? {
            self.lose(at, "its disk is an older one, and it is refused");
            return Ok(());
        }
        let replicas = match self.recover(at) {
            Ok(replicas) => replicas,
            Err(why) => {
                // Refused, as it must be: what is on the disk is not what was written.
                if self.nodes[at].log.0.borrow().is_damaged() {
                    self.lose(at, &why);
                    return Ok(());
                }
                return Err(Violation {
                    check: "recovery",
                    what: format!("node {} is refused its start after a crash: {why}", at + 1),
                });
            }
        };
        let now = self.queue.now();
        let seed = self.rng.u64(..);
        let leases = self.settings.engine.leases && !(self.settings.mixed && self.rng.bool());
        let node = &mut self.nodes[at];
        node.phase = Phase::Up;
        node.started = node.clock.monotonic(now);
        node.tick = 0;
        let config = EngineConfig {
            node: node.id,
            seed,
            leases,
            leased_before: node.leased,
            ..self.settings.engine.clone()
        };
        node.leased |= leases;
        let mut engine = Engine::new(
            config,
            node.log.clone(),
            std::sync::Arc::<CacheCount>::default(),
            0,
        );
        for found in replicas {
            self.checks.recovered(&self.nodes[at], at, &found)?;
            engine.open(found).map_err(|error| Violation {
                check: "recovery",
                what: format!("node {}: {error}", at + 1),
            })?;
        }
        let node = &mut self.nodes[at];
        node.engine = Some(engine);
        node.turn_due = true;
        let boot = node.boot;
        self.note(Kind::Recover, [at as u64, u64::from(boot), 0], || {
            format!("n{} starts for the {boot}th time", at + 1)
        });
        self.queue.after(self.settings.turn, Event::Turn(at, boot));
        self.schedule_tick(at);
        Ok(())
    }

    /// A process begins, and those who can be asked say how far they have seen its store. Returns whether it is refused.
    fn ask_around(&mut self, at: usize) -> Result<bool, Violation> {
        let node = &mut self.nodes[at];
        node.boot += 1;
        let (id, synced, went_back) = (node.id, node.synced, node.went_back);
        let mut disk = node.log.0.borrow_mut();
        let written = disk.marks.written;
        disk.starts.begin(Mark {
            start: node.boot.into(),
            written,
        });
        node.known = Known {
            starts: Rc::new(disk.starts.clone()),
            written,
            others: disk.marks.others.clone(),
        };
        drop(disk);
        let mut refused = false;
        for by in (0..self.nodes.len()).filter(|by| *by != at) {
            let cut = self.network.is_cut(at, by) || self.network.is_cut(by, at);
            if cut || self.nodes[by].phase != Phase::Up {
                continue;
            }
            let seen = self.nodes[by].known.others.seen(id);
            let starts = &self.nodes[at].known.starts;
            let refuses = seen.is_some_and(|seen| starts.follows(seen).is_err());
            // Whether it can know.
            if !went_back || self.checks.stores.knows(by, at, synced) {
                checks::judged(at, by, refuses, went_back)?;
            }
            refused |= refuses;
        }
        Ok(refused)
    }

    fn recover(
        &mut self,
        at: usize,
    ) -> Result<Vec<flotilla_shards::engine::RecoveredReplica>, String> {
        let node = &mut self.nodes[at];
        let logs = node.log.0.borrow().recover()?;
        let states = node.state.replicas().map_err(|error| error.to_string())?;
        let recovered = recovery::recover(logs, states, |shard, index| {
            flotilla_shards::engine::LogReader::term(&node.log, shard, index)
        });
        let recovered = recovered.map_err(|error: RecoveryError<String>| error.to_string())?;
        let mut replicas = Vec::with_capacity(recovered.len());
        for Recovered { replica, reset } in recovered {
            if reset.is_some() {
                node.log.0.borrow_mut().reset(
                    replica.descriptor.shard,
                    replica.applied,
                    replica.hard_state,
                );
            }
            replicas.push(replica);
        }
        let journal = node.state.recover(self.settings.journal);
        node.applier.journal = journal.map_err(|error| error.to_string())?;
        Ok(replicas)
    }

    /// A node's process ends, and with it all that was not on the disk, as `unsynced` says.
    pub(super) fn crash(&mut self, at: usize, unsynced: Unsynced, why: &str) {
        let node = &mut self.nodes[at];
        if !node.is_running() {
            return;
        }
        let under_way = node.writer.under_way.take().and_then(|write| {
            // A write that waits for an installation has not begun.
            (write.installs == 0).then_some(write.write)
        });
        (node.log.0.borrow_mut()).crash(under_way, unsynced, &mut self.rng);
        node.state.crash(unsynced, &mut self.rng);
        node.disk.fail_sync = false;
        node.phase = Phase::Down;
        node.boot += 1;
        // Connections break; whether the other ends learn of it depends on what was first.
        let calls = std::mem::take(&mut node.calls);
        node.forget(&self.map);
        self.backlog[at].clear();
        for call in calls.into_values() {
            if self.rng.bool() {
                self.reply_to(
                    call.from,
                    call.id,
                    Err(Failure::ConnectionLost("the node stopped".to_owned())),
                );
            }
        }
        self.checks.ended(at);
        let text = format!("n{} ends: {why}, unsynced writes {unsynced:?}", at + 1);
        self.note(Kind::Crash, [at as u64, unsynced as u64, 0], || text);
    }

    /// A failed sync: the node fences itself and never goes on with the same open files.
    pub(super) fn sync_failed(&mut self, at: usize) -> Checked {
        self.faults.note(Fault::FailedSync);
        self.crash(at, Unsynced::Torn, "a sync failed");
        let pause = self.rng.u64(50 * MILLIS..2_000 * MILLIS);
        self.queue.after(pause, Event::Start(at));
        Ok(())
    }

    /// The engine can't go on with what it read.
    pub(super) fn failed(&mut self, at: usize, reason: &str) -> Checked {
        if !self.nodes[at].log.0.borrow().is_damaged() {
            return Err(Violation {
                check: "engine",
                what: format!("node {} stopped: {reason}", at + 1),
            });
        }
        self.crash(at, Unsynced::Kept, reason);
        self.lose(at, reason);
        Ok(())
    }

    /// The node's replicas are gone for good.
    pub(super) fn lose(&mut self, at: usize, why: &str) {
        self.nodes[at].phase = Phase::Lost;
        self.lost += 1;
        let text = format!("n{} is lost: {why}", at + 1);
        self.note(Kind::Crash, [at as u64, 9, 0], || text);
    }

    /// A paused process goes on: what came meanwhile is there at once.
    pub(super) fn resume(&mut self, at: usize) -> Checked {
        if self.nodes[at].phase != Phase::Paused {
            return Ok(());
        }
        self.nodes[at].phase = Phase::Up;
        let boot = self.nodes[at].boot;
        self.note(Kind::Fault, [at as u64, u64::from(boot), 1], || {
            format!("n{} goes on", at + 1)
        });
        for event in std::mem::take(&mut self.backlog[at]) {
            match event {
                // Already in the process' sockets.
                Event::Frame(frame) => self.take_frame(*frame)?,
                event => self.queue.after(0, event),
            }
        }
        self.schedule_tick(at);
        Ok(())
    }

    /// Sends the end of a try to whoever asked.
    pub(super) fn reply_to(&mut self, to: Party, id: u64, reply: crate::rpc::Reply) {
        let delay = self.network.latency(&mut self.rng);
        self.queue
            .after(delay, Event::Reply(to, id, Box::new(reply)));
    }
}
