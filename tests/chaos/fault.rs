//! One fault: how it strikes, and how it is undone.

use std::{
    fmt, thread,
    time::{Duration, Instant, SystemTime},
};

use flotilla_faultfs::{PowerLoss, Stalled};
use flotilla_harness::{
    Cluster,
    clock::FELT_WITHIN,
    net::{Net, Party},
};

use crate::kind::{Kind, Target};

/// How long a node may run on whose disk is full, or whose next syncs fail. With clients about, it is a matter of moments.
const ENDS_WITHIN: Duration = Duration::from_secs(30);
/// How exactly a clock's step is seen: what a loaded machine takes to answer.
const CLOCK_EXACT_TO: Duration = Duration::from_secs(15);
/// Exit codes of a node whose disk fails, and whose disk is full.
const SYNC_FAILED: i32 = 14;
const DISK_FULL: i32 = 13;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    /// The node that is struck.
    pub(crate) node: usize,
    /// Another node, where there is a second one.
    pub(crate) other: usize,
    /// Of slow links and disks.
    pub(crate) delay: Duration,
    pub(crate) loss: PowerLoss,
    pub(crate) seed: u64,
    /// Syncs that pass before one fails.
    pub(crate) passing: u64,
    /// Seconds that a clock jumps.
    pub(crate) step: i64,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind, node, other, ..
        } = self;
        let name = kind.name();
        let delay = self.delay.as_millis();
        match kind {
            Kind::KillAll | Kind::AllApart | Kind::RollingRestart => write!(f, "{name}"),
            Kind::OneWay => write!(f, "{name}, node {node} to {other}"),
            Kind::Bridge => write!(f, "{name}, nodes {node} and {other} apart"),
            Kind::SlowLinks | Kind::SlowDisk => write!(f, "{name} of node {node}, {delay} ms"),
            Kind::PowerLoss => write!(f, "{name} of node {node}, {:?}", self.loss),
            Kind::PowerLossAll => write!(f, "{name}, {:?}", self.loss),
            Kind::FailedSync if self.loses_power_too() => {
                write!(f, "{name}, node {node}, then power loss, {:?}", self.loss)
            }
            Kind::ClockStep => write!(f, "{name} of node {node}, {:+} s", self.step),
            _ => write!(f, "{name}, node {node}"),
        }
    }
}

impl Fault {
    /// Strikes. Returns when it is in effect.
    ///
    /// # Errors
    /// It could not be injected, or did not do what it does.
    pub(crate) fn strike(&self, cluster: &mut Cluster) -> Result<(), String> {
        let Self { node, other, .. } = *self;
        let all = 0..cluster.len();
        match self.kind {
            Kind::Kill => cluster.kill(node),
            Kind::KillAll => all.for_each(|node| cluster.kill(node)),
            Kind::Pause => cluster.pause(node),
            // It takes its time and needs somebody who watches: see `Run`.
            Kind::RollingRestart => {}
            Kind::Isolate => cluster.net().isolate(node),
            Kind::Vanish => {
                cluster.net().isolate(node);
                cluster.net().cut(Party::Client, Party::Node(node));
                cluster.net().cut(Party::Node(node), Party::Client);
            }
            Kind::Deaf => others(cluster.net(), all, node, |net, one, other| {
                net.cut(other, one)
            }),
            Kind::Mute => others(cluster.net(), all, node, |net, one, other| {
                net.cut(one, other)
            }),
            Kind::OneWay => cluster.net().cut(Party::Node(node), Party::Node(other)),
            Kind::Bridge => {
                cluster.net().cut(Party::Node(node), Party::Node(other));
                cluster.net().cut(Party::Node(other), Party::Node(node));
            }
            Kind::AllApart => all.for_each(|node| cluster.net().isolate(node)),
            Kind::SlowLinks => others(cluster.net(), all, node, |net, one, other| {
                net.delay(one, other, self.delay);
                net.delay(other, one, self.delay);
            }),
            Kind::SlowDisk => cluster.disk(node).set_sync_latency(self.delay),
            Kind::StalledDisk => cluster.disk(node).stall(Stalled::Syncs, None),
            Kind::FailedSync => {
                cluster.disk(node).fail_sync(self.passing, "log");
                return self.ends_with(cluster, SYNC_FAILED);
            }
            Kind::FullDisk => {
                cluster.disk(node).fill_up();
                return self.ends_with(cluster, DISK_FULL);
            }
            Kind::PowerLoss => {
                cluster.lose_power(node, self.loss, self.seed);
            }
            Kind::PowerLossAll => {
                // All at once: nobody sees the others go.
                all.clone().for_each(|node| cluster.kill(node));
                for node in all {
                    cluster.lose_power(node, self.loss, self.seed.wrapping_add(node as u64));
                }
            }
            Kind::ClockStep => return self.step_clock(cluster, self.step),
        }
        Ok(())
    }

    /// Waits for the node to end by itself, and holds the way it does so against what is promised.
    fn ends_with(&self, cluster: &mut Cluster, code: i32) -> Result<(), String> {
        let begin = Instant::now();
        while !cluster.has_ended(self.node) {
            if begin.elapsed() > ENDS_WITHIN {
                return Err(format!("the node still runs {ENDS_WITHIN:?} later"));
            }
            thread::sleep(Duration::from_millis(5));
        }
        let status = cluster.wait(self.node);
        let log = cluster.logged(self.node);
        assert_eq!(status.code(), Some(code), "{self}: {log}");
        Ok(())
    }

    fn step_clock(&self, cluster: &Cluster, seconds: i64) -> Result<(), String> {
        cluster.set_clock(self.node, seconds);
        let begin = Instant::now();
        loop {
            let shown = cluster.wall_clock(self.node);
            let wanted = moved(SystemTime::now(), seconds);
            if shown.is_some_and(|shown| distance(shown, wanted) < CLOCK_EXACT_TO) {
                return Ok(());
            }
            if begin.elapsed() > FELT_WITHIN {
                return Err(format!(
                    "the node takes the time to be {shown:?}, not {wanted:?}"
                ));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// What shows whether a fault of a disk is felt: it grows.
    pub(crate) fn felt(&self, cluster: &Cluster) -> u64 {
        match self.kind {
            Kind::StalledDisk => cluster.disk(self.node).counters().stalled_calls,
            Kind::SlowDisk => cluster.disk(self.node).counters().delayed_syncs,
            _ => 0,
        }
    }

    /// Whether [`Fault::felt`] must have grown.
    pub(crate) fn must_be_felt(&self) -> bool {
        matches!(self.kind, Kind::StalledDisk | Kind::SlowDisk)
    }

    /// Whether the node that ended loses its power before it starts again: its files may then lack what a failed sync dropped.
    fn loses_power_too(&self) -> bool {
        self.kind == Kind::FailedSync && self.seed.is_multiple_of(2)
    }

    /// Ends it. Processes that it has ended do not run yet.
    pub(crate) fn heal(&self, cluster: &mut Cluster) {
        cluster.net().heal_all();
        match self.kind {
            Kind::SlowDisk | Kind::StalledDisk => cluster.disk(self.node).heal(),
            Kind::FailedSync if self.loses_power_too() => {
                cluster.lose_power(self.node, self.loss, self.seed);
            }
            Kind::FailedSync => cluster.disk(self.node).heal(),
            Kind::FullDisk => cluster.disk(self.node).set_capacity(None),
            Kind::Pause if cluster.runs(self.node) => cluster.resume(self.node),
            Kind::ClockStep => cluster.set_clock(self.node, 0),
            _ => {}
        }
    }

    /// Strikes another node than was drawn.
    pub(crate) fn strike_at(&mut self, node: usize) {
        if self.other == node {
            self.other = self.node;
        }
        self.node = node;
    }

    /// Nodes whose process ends by it.
    pub(crate) fn ends(&self, nodes: usize) -> Vec<usize> {
        match self.kind {
            Kind::Kill | Kind::PowerLoss | Kind::FailedSync | Kind::FullDisk => vec![self.node],
            Kind::KillAll | Kind::PowerLossAll | Kind::RollingRestart => (0..nodes).collect(),
            _ => Vec::new(),
        }
    }

    /// Whether another fault can strike while this one lasts, and both do what they do.
    pub(crate) fn bears(&self, second: &Self) -> bool {
        // A node that is cut off has nothing to write, one that does not run can't be stopped, and one that waits for its
        // disk can't be killed.
        let apart = self.node != second.node;
        let of_links = [self, second].map(|fault| fault.kind.target() == Target::Network);
        let all = self.kind.strikes_all() || second.kind.strikes_all();
        let fits = apart || (of_links == [true, true] && self.kind != second.kind);
        !all && !second.kind.waits_for_the_end() && fits
    }
}

fn others(
    net: &Net,
    all: std::ops::Range<usize>,
    node: usize,
    change: impl Fn(&Net, Party, Party),
) {
    for other in all.filter(|other| *other != node) {
        change(net, Party::Node(node), Party::Node(other));
    }
}

fn moved(moment: SystemTime, seconds: i64) -> SystemTime {
    let by = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 {
        moment - by
    } else {
        moment + by
    }
}

fn distance(one: SystemTime, other: SystemTime) -> Duration {
    let ahead = one.duration_since(other);
    ahead.unwrap_or_else(|behind| behind.duration())
}
