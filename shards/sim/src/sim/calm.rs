//! The second phase: the faults end, everything is started again, and the cluster must recover by itself. Then everything is
//! read once more, and the history of the run is judged.

use flotilla_history::{Limits, check};
use flotilla_shards::ids::ShardId;

use super::{Event, Sim};
use crate::checks::{self, Checked, Violation, ensure};
use crate::client::task::Task;
use crate::node::{DiskMood, Phase};
use crate::queue::MILLIS;
use crate::trace::Kind;

impl Sim {
    /// The faults are over.
    pub(super) fn begin_calm(&mut self) -> Checked {
        self.calm = true;
        self.note(Kind::Calm, [0; 3], || "the faults are over".into());
        self.network.heal();
        let now = self.queue.now();
        for at in 0..self.nodes.len() {
            let node = &mut self.nodes[at];
            node.disk = DiskMood::default();
            if !node.clock.is_right() {
                node.clock.set_rate(1_000_000, now);
                self.schedule_tick(at);
            }
            match self.nodes[at].phase {
                Phase::Paused => self.resume(at)?,
                Phase::Down => self.queue.after(0, Event::Start(at)),
                Phase::Up | Phase::Lost => {}
            }
        }
        self.queue.after(0, Event::Look);
        Ok(())
    }

    /// What has not settled yet.
    fn unsettled(&self) -> Option<String> {
        if let Some(client) = (self.clients.iter()).find(|client| client.task.is_some()) {
            return Some(format!("a client waits: {:?}", client.task));
        }
        let shards = self.map.ids_after(ShardId(0));
        let mut behind = shards.filter_map(|shard| checks::behind(&self.nodes, shard.shard));
        if let Some(behind) = behind.next() {
            return Some(behind);
        }
        let up = (0..self.nodes.len()).filter(|&at| self.nodes[at].phase == Phase::Up);
        let mut owed = up.filter(|&at| self.checks.requests.owed(at) > 0);
        owed.next().map(|at| {
            let owed = self.checks.requests.owed(at);
            format!("node {} owes {owed} answers", at + 1)
        })
    }

    /// Looks whether everything has settled.
    pub(super) fn look(&mut self) -> Checked {
        match self.unsettled() {
            None if !self.last_reads => {
                self.last_reads = true;
                self.queue.after(0, Event::Look);
                Ok(())
            }
            None => {
                let task = self.clients[0].workload.last().nth(self.last_read);
                self.last_read += 1;
                let client = self.last_read % self.clients.len();
                match task {
                    None => self.judge(),
                    task => {
                        self.client_begins(client, task.map(Task::of))?;
                        self.queue.after(MILLIS, Event::Look);
                        Ok(())
                    }
                }
            }
            Some(what) => {
                // The reads at the end have deadlines of their own.
                let bound = self.settings.storm + self.settings.calm;
                ensure(
                    self.last_reads || self.queue.now() < bound,
                    "convergence",
                    || format!("{} µs after the last fault: {what}", self.settings.calm),
                )?;
                let pause = if self.last_reads {
                    MILLIS
                } else {
                    100 * MILLIS
                };
                self.queue.after(pause, Event::Look);
                Ok(())
            }
        }
    }

    /// Everything is at rest: the contents of all replicas and the history of the run are judged.
    fn judge(&mut self) -> Checked {
        let shards: Vec<ShardId> = (self.map.ids_after(ShardId(0)))
            .map(|shard| shard.shard)
            .collect();
        for shard in shards {
            checks::diverged(&self.nodes, shard)?;
        }
        // The keys of a run are chosen so that this is enough; if it is not, the run has failed.
        let report = check(&self.history, &Limits::default());
        self.report.judged += self.history.operations().len() as u64;
        if !report.passed() {
            return Err(Violation {
                check: "history",
                what: report.display(&self.history).to_string(),
            });
        }
        self.done = true;
        Ok(())
    }
}
