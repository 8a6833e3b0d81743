//! The second phase: the faults end, everything is started again, and the cluster must recover by itself.

use super::{Event, Sim};
use crate::checks::{self, Checked, Violation};
use crate::node::Phase;
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
            node.disk = crate::node::DiskMood::default();
            if !node.clock.is_right() {
                node.clock.set_rate(1_000_000, now);
                self.schedule_tick(at);
            }
            match self.nodes[at].phase {
                Phase::Paused => self.resume(at),
                Phase::Down => self.queue.after(0, Event::Start(at)),
                Phase::Up | Phase::Lost => {}
            }
        }
        self.queue.after(0, Event::Look);
        Ok(())
    }

    /// Looks whether everything has settled.
    pub(super) fn look(&mut self) -> Checked {
        let waiting = (self.clients.iter()).filter(|client| client.task.is_some());
        let mut behind = (waiting.count() > 0).then(|| "a client waits".to_owned());
        let shards = self.map.ids_after(flotilla_shards::ids::ShardId(0));
        let shards: Vec<_> = shards.map(|descriptor| descriptor.shard).collect();
        if behind.is_none() {
            behind = shards
                .iter()
                .find_map(|&shard| checks::behind(&self.nodes, shard));
        }
        if behind.is_none() {
            let up = (0..self.nodes.len()).filter(|&at| self.nodes[at].phase == Phase::Up);
            let owed = up.map(|at| (at, self.checks.requests.owed(at)));
            behind = (owed.filter(|(_, owed)| *owed > 0))
                .map(|(at, owed)| format!("node {} owes {owed} answers", at + 1))
                .next();
        }
        match behind {
            None => {
                for shard in shards {
                    checks::diverged(&self.nodes, shard)?;
                }
                self.done = true;
                Ok(())
            }
            Some(what) if self.queue.now() >= self.settings.storm + self.settings.calm => {
                // Requests of shards without a majority are answered by their deadlines, but their engines may owe them.
                Err(Violation {
                    check: "convergence",
                    what: format!("{} µs after the last fault: {what}", self.settings.calm),
                })
            }
            Some(_) => {
                self.queue.after(100 * MILLIS, Event::Look);
                Ok(())
            }
        }
    }
}
