//! What faults take away while they last, and whether shards must be served all the same.

use crate::{fault::Fault, kind::Kind};

/// Whether a shard is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    /// A quorum of its replicas runs, and hears each other in both directions.
    Must,
    /// No replica hears, and is heard by, as many as it would need.
    Cannot,
    /// Neither: it may have a leader that hears a quorum, whose members don't hear each other.
    Undecided,
}

/// Nodes that are out of order, and links that are cut.
#[derive(Clone, Debug)]
pub(crate) struct Harm {
    out: Vec<bool>,
    /// By sender, then by receiver.
    cut: Vec<Vec<bool>>,
}

impl Harm {
    /// That of faults at the same time.
    pub(crate) fn of(nodes: usize, faults: &[Fault]) -> Self {
        let mut harm = Self {
            out: vec![false; nodes],
            cut: vec![vec![false; nodes]; nodes],
        };
        for fault in faults {
            harm.add(fault);
        }
        harm
    }

    fn add(&mut self, fault: &Fault) {
        let (node, nodes) = (fault.node, self.out.len());
        match fault.kind {
            Kind::Kill
            | Kind::Pause
            | Kind::StalledDisk
            | Kind::FailedSync
            | Kind::FullDisk
            | Kind::PowerLoss => self.out[node] = true,
            Kind::KillAll | Kind::PowerLossAll => self.out.fill(true),
            Kind::Isolate | Kind::Vanish => {
                self.deafen(node);
                self.mute(node);
            }
            Kind::Deaf => self.deafen(node),
            Kind::Mute => self.mute(node),
            Kind::OneWay => self.cut[node][fault.other] = true,
            Kind::Bridge => {
                self.cut[node][fault.other] = true;
                self.cut[fault.other][node] = true;
            }
            Kind::AllApart => (0..nodes).for_each(|node| self.deafen(node)),
            // All is slower, or is another time, or is about to be handed over, and goes on.
            Kind::SlowLinks | Kind::SlowDisk | Kind::ClockStep | Kind::RollingRestart => {}
        }
    }

    fn deafen(&mut self, node: usize) {
        for from in (0..self.cut.len()).filter(|from| *from != node) {
            self.cut[from][node] = true;
        }
    }

    fn mute(&mut self, node: usize) {
        for to in (0..self.cut.len()).filter(|to| *to != node) {
            self.cut[node][to] = true;
        }
    }

    fn hear_each_other(&self, one: usize, other: usize) -> bool {
        !self.cut[one][other] && !self.cut[other][one]
    }

    /// Whether a shard with replicas on these nodes is served.
    pub(crate) fn service(&self, replicas: &[usize]) -> Service {
        let up: Vec<usize> = replicas
            .iter()
            .copied()
            .filter(|node| !self.out[*node])
            .collect();
        let quorum = replicas.len() / 2 + 1;
        let heard_by = |node: usize| {
            up.iter()
                .filter(|other| self.hear_each_other(node, **other))
                .count()
        };
        if up.iter().all(|node| heard_by(*node) < quorum) {
            return Service::Cannot;
        }
        // All sets of nodes; there are five nodes at most.
        let connected = (0..1_usize << up.len()).any(|set| {
            let members: Vec<usize> = (up.iter().enumerate())
                .filter(|(at, _)| set >> at & 1 == 1)
                .map(|(_, node)| *node)
                .collect();
            let mutual = |one: &usize| {
                members
                    .iter()
                    .all(|other| self.hear_each_other(*one, *other))
            };
            members.len() >= quorum && members.iter().all(mutual)
        });
        if connected {
            Service::Must
        } else {
            Service::Undecided
        }
    }

    /// Whether shards that this node leads may need another leader.
    pub(crate) fn touches(&self, node: usize) -> bool {
        let cut = (0..self.cut.len()).any(|other| !self.hear_each_other(node, other));
        self.out[node] || cut
    }
}
