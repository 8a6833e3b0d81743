//! The faults of a run that happen at a moment: which node they hit, how long they last, and how they end.

use flotilla_shards::engine::RoleChange;
use flotilla_shards::raft::Role;

use super::{Event, Sim};
use crate::checks::{Checked, Violation};
use crate::disk::Unsynced;
use crate::fault::Fault;
use crate::node::{Input, Phase};
use crate::queue::{MILLIS, Micros};
use crate::trace::Kind;

/// The end of a fault.
#[derive(Clone, Debug)]
pub(crate) enum Remedy {
    Mend(Vec<(usize, usize)>),
    Disk(usize),
    Clock(usize),
}

/// What a crash of this kind does to what was not synced.
fn unsynced(fault: Fault) -> Option<Unsynced> {
    match fault {
        Fault::CrashKept => Some(Unsynced::Kept),
        Fault::CrashDropped => Some(Unsynced::Dropped),
        Fault::CrashTorn => Some(Unsynced::Torn),
        _ => None,
    }
}

impl Sim {
    /// Schedules the first fault of each kind.
    pub(super) fn begin_faults(&mut self) {
        for which in 0..self.settings.faults.len() {
            if !Fault::OF_FRAMES.contains(&self.settings.faults[which].0) {
                self.schedule_fault(which);
            }
        }
    }

    fn schedule_fault(&mut self, which: usize) {
        let mean = self.settings.faults[which].1;
        let pause = self.rng.u64(mean / 4..=2 * mean);
        self.queue.after(pause, Event::Nemesis(which));
    }

    /// How long a fault lasts.
    fn spell(&mut self) -> Micros {
        match self.rng.u8(..4) {
            0 | 1 => self.rng.u64(..100 * MILLIS),
            2 => self.rng.u64(..1_500 * MILLIS),
            _ => self.rng.u64(..5_000 * MILLIS),
        }
    }

    /// A fault happens.
    pub(super) fn nemesis(&mut self, which: usize) -> Checked {
        if self.calm {
            return Ok(());
        }
        self.schedule_fault(which);
        let fault = self.settings.faults[which].0;
        let at = self.rng.usize(..self.nodes.len());
        let spell = self.spell();
        let now = self.queue.now();
        if self.inject(fault, at, spell)? {
            self.faults.note(fault);
            self.report.coverage.begin(fault, now, spell);
            self.note(Kind::Fault, [fault as u64, at as u64, spell], || {
                format!("{fault:?} at n{} for {spell} µs", at + 1)
            });
        }
        Ok(())
    }

    /// A node is about to ask for votes. Where nodes crash and leases are used, one that has promised its vote away is started
    /// anew in that moment now and then: chance alone seldom asks so early for what must not be given yet.
    pub(super) fn tempt(&mut self, candidate: usize, change: &RoleChange) {
        let faults = &self.settings.faults;
        let crash = faults
            .iter()
            .find_map(|&(fault, _)| Some((fault, unsynced(fault)?)));
        let Some((fault, unsynced)) = crash.filter(|_| {
            self.settings.engine.leases && !self.calm && change.role == Role::PreCandidate
        }) else {
            return;
        };
        let now = self.queue.now();
        let mut bound = (0..self.nodes.len()).filter(|&at| {
            let binds = (self.checks.votes).binds(&self.nodes[at], at, change.shard, now);
            at != candidate && self.nodes[at].phase == Phase::Up && binds
        });
        let Some(at) = bound.next().filter(|_| self.rng.u8(..4) == 0) else {
            return;
        };
        self.faults.note(fault);
        self.crash(at, unsynced, "the power goes for a moment");
        self.queue.after(0, Event::Start(at));
    }

    /// Returns whether the fault could happen there now.
    fn inject(&mut self, fault: Fault, at: usize, spell: Micros) -> Result<bool, Violation> {
        let running = self.nodes[at].is_running();
        match fault {
            Fault::CrashKept | Fault::CrashDropped | Fault::CrashTorn if running => {
                let Some(unsynced) = unsynced(fault) else {
                    return Ok(false);
                };
                // Now and then the power of several nodes goes at once.
                let all = self.rng.u8(..8) == 0;
                for other in 0..self.nodes.len() {
                    if (other == at || all) && self.nodes[other].is_running() {
                        self.crash(other, unsynced, "the power goes");
                        self.queue.after(spell, Event::Start(other));
                    }
                }
            }
            Fault::Pause if self.nodes[at].phase == Phase::Up => {
                self.nodes[at].phase = Phase::Paused;
                self.queue.after(spell, Event::Resume(at));
            }
            Fault::FailedSync if running => {
                // Counted when a sync meets it.
                self.nodes[at].disk.fail_sync = true;
                return Ok(false);
            }
            Fault::SlowDisk => {
                self.nodes[at].disk.slow = self.rng.u64(1..100);
                self.queue.after(spell, Event::Remedy(Remedy::Disk(at)));
            }
            Fault::StalledDisk => {
                self.nodes[at].disk.stalled_until = self.queue.now() + spell;
            }
            Fault::FullDisk => {
                self.nodes[at].disk.full = true;
                self.queue.after(spell, Event::Remedy(Remedy::Disk(at)));
            }
            Fault::BitFlip if running && self.may_lose(at) => {
                let mut disk = self.nodes[at].log.0.borrow_mut();
                return Ok(disk.damage(&mut self.rng).is_some());
            }
            Fault::WipedDisk if self.may_lose(at) => {
                if running {
                    self.crash(at, Unsynced::Dropped, "its disk is replaced");
                }
                self.lose(at, "it comes back with another store and is refused");
            }
            Fault::RolledBackDisk => return self.roll_back(at),
            Fault::OneWayCut if self.nodes.len() > 1 => {
                let to = (at + 1 + self.rng.usize(..self.nodes.len() - 1)) % self.nodes.len();
                self.cut(vec![(at, to)], spell);
            }
            Fault::Partition if self.nodes.len() > 1 => {
                let sides: Vec<u8> = self.nodes.iter().map(|_| self.rng.u8(..2)).collect();
                let bridge = self.rng.u8(..3) == 0;
                let mut links = Vec::new();
                for from in 0..sides.len() {
                    for to in 0..sides.len() {
                        // Sometimes one node reaches both sides.
                        let bridged = bridge && (from == at || to == at);
                        if sides[from] != sides[to] && !bridged {
                            links.push((from, to));
                        }
                    }
                }
                if links.is_empty() {
                    return Ok(false);
                }
                self.cut(links, spell);
            }
            Fault::ClockRate | Fault::ClockFreeze if running => {
                let rates = match self.settings.engine.leases {
                    // Two of these differ by less than what leases allow for.
                    true => [960_000, 970_000, 990_000, 1_010_000, 1_030_000, 1_040_000],
                    false => [500_000, 900_000, 990_000, 1_010_000, 1_100_000, 2_000_000],
                };
                let rate = match fault {
                    Fault::ClockFreeze => 0,
                    _ => rates[self.rng.usize(..rates.len())],
                };
                let now = self.queue.now();
                self.nodes[at].clock.set_rate(rate, now);
                self.schedule_tick(at);
                self.queue.after(spell, Event::Remedy(Remedy::Clock(at)));
            }
            Fault::ClockJump => {
                let far = self.rng.i64(-10_000_000..10_000_000);
                let near = self.rng.i64(-2_000..2_000);
                let ms = if self.rng.bool() { near } else { far };
                self.nodes[at].clock.jump(ms);
            }
            Fault::Transfer if running => {
                let shards: Vec<_> = self
                    .map
                    .ids_after(flotilla_shards::ids::ShardId(0))
                    .collect();
                let shard = shards[self.rng.usize(..shards.len())];
                let replicas = &shard.replicas;
                let to = replicas[self.rng.usize(..replicas.len())].node;
                let leader = replicas.iter().map(|replica| (replica.node.0 - 1) as usize);
                let shard = shard.shard;
                // Asked of everybody: whoever leads does it.
                for node in leader.collect::<Vec<_>>() {
                    self.input(node, Input::Transfer(shard, to));
                }
            }
            Fault::Drain if running => self.input(at, Input::Drain),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Keeps an image of a node's disk, or puts it back if somebody is there who must know that it is an older one.
    /// Without such a witness nobody can tell, as when a majority of disks is replaced.
    fn roll_back(&mut self, at: usize) -> Result<bool, Violation> {
        let node = &mut self.nodes[at];
        let Some((log, state, synced)) = node.image.take() else {
            if node.phase != Phase::Lost {
                node.image = Some((node.log.0.borrow().image(), node.state.image(), node.synced));
            }
            return Ok(false);
        };
        let node_runs = node.is_running();
        let witness = (0..self.nodes.len()).any(|by| {
            by != at
                && self.nodes[by].phase == Phase::Up
                && !(self.network.is_cut(at, by) || self.network.is_cut(by, at))
                && self.checks.stores.knows(by, at, synced)
        });
        if !witness || !node_runs || !self.may_lose(at) {
            return Ok(false);
        }
        self.crash(at, Unsynced::Kept, "its disk is put back to an older image");
        let node = &mut self.nodes[at];
        *node.log.0.borrow_mut() = log;
        (node.state, node.synced) = (state, synced);
        node.went_back = true;
        self.start(at)?;
        Ok(true)
    }

    fn cut(&mut self, links: Vec<(usize, usize)>, spell: Micros) {
        for &(from, to) in &links {
            self.network.set_cut(from, to, true);
        }
        self.queue.after(spell, Event::Remedy(Remedy::Mend(links)));
    }

    /// Whether a node's replicas may be lost: every shard keeps a majority of replicas that never were.
    fn may_lose(&self, at: usize) -> bool {
        self.lost == 0
            && self.settings.replicas >= 3
            && self.nodes[at].phase != Phase::Lost
            && self
                .nodes
                .iter()
                .all(|node| !node.log.0.borrow().is_damaged())
    }

    /// A fault ends.
    pub(super) fn remedy(&mut self, remedy: Remedy) {
        match remedy {
            Remedy::Mend(links) => {
                for (from, to) in links {
                    self.network.set_cut(from, to, false);
                }
            }
            Remedy::Disk(at) => {
                self.nodes[at].disk.slow = 0;
                self.nodes[at].disk.full = false;
            }
            Remedy::Clock(at) => {
                let now = self.queue.now();
                self.nodes[at].clock.set_rate(1_000_000, now);
                self.schedule_tick(at);
            }
        }
    }
}
