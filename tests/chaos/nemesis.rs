//! What is done to the cluster, and how it is undone: drawn from a seed, each kind once before any comes again.

use std::{fmt, time::Duration};

use fastrand::Rng;
use flotilla_faultfs::{PowerLoss, Stalled};
use flotilla_harness::{
    Cluster,
    net::{Net, Party},
};

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// SIGKILL, and a start later.
    Kill,
    /// SIGKILL of all nodes at once.
    KillAll,
    /// SIGSTOP, and SIGCONT later.
    Pause,
    /// SIGTERM, which drains, and a start at once.
    Drain,
    /// A node and the others don't hear each other; clients hear all.
    Isolate,
    /// As `Isolate`, and clients don't hear it either.
    Vanish,
    /// A node hears nobody, and everybody hears it.
    Deaf,
    /// A node is heard by nobody, and hears everybody.
    Mute,
    /// One link between two nodes loses everything, in one direction.
    OneWay,
    /// Two nodes don't hear each other; the third hears both.
    Bridge,
    /// No node hears another.
    AllApart,
    /// Everything to and from a node comes late.
    SlowLinks,
    /// Syncs of a node's disk hang.
    StalledDisk,
    /// A node loses its power, and with it what was not synced.
    PowerLoss,
    /// All nodes lose their power at once.
    PowerLossAll,
}

impl Kind {
    /// All kinds.
    pub(crate) const ALL: [Self; 15] = [
        Self::Kill,
        Self::KillAll,
        Self::Pause,
        Self::Drain,
        Self::Isolate,
        Self::Vanish,
        Self::Deaf,
        Self::Mute,
        Self::OneWay,
        Self::Bridge,
        Self::AllApart,
        Self::SlowLinks,
        Self::StalledDisk,
        Self::PowerLoss,
        Self::PowerLossAll,
    ];

    /// Whether it needs a disk that fails on command.
    pub(crate) fn needs_disks(self) -> bool {
        matches!(
            self,
            Self::StalledDisk | Self::PowerLoss | Self::PowerLossAll
        )
    }

    /// Whether the survivors can serve all shards while it lasts.
    pub(crate) fn leaves_a_quorum(self) -> bool {
        !matches!(self, Self::KillAll | Self::AllApart | Self::PowerLossAll)
    }

    /// What was promised for it, if anything.
    pub(crate) fn bound(self) -> Option<Bound> {
        match self {
            Self::Kill | Self::PowerLoss => Some(Bound::Killed),
            Self::Pause | Self::Isolate | Self::Vanish => Some(Bound::PausedOrCutOff),
            Self::Deaf | Self::Mute | Self::OneWay | Self::Bridge => Some(Bound::PartlyCutOff),
            Self::Drain => Some(Bound::Drained),
            _ => None,
        }
    }

    /// For people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill -9",
            Self::KillAll => "kill -9 of all",
            Self::Pause => "pause",
            Self::Drain => "restart with drain",
            Self::Isolate => "one isolated",
            Self::Vanish => "one unreachable",
            Self::Deaf => "one deaf",
            Self::Mute => "one mute",
            Self::OneWay => "one-way cut",
            Self::Bridge => "bridge",
            Self::AllApart => "all apart",
            Self::SlowLinks => "slow links",
            Self::StalledDisk => "stalled disk",
            Self::PowerLoss => "power loss",
            Self::PowerLossAll => "power loss of all",
        }
    }
}

/// What was promised for a kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Bound {
    /// Its shards serve again within 2 election timeouts at the 99th percentile.
    Killed,
    /// Within 3 election timeouts.
    PausedOrCutOff,
    /// Within 5 election timeouts: a quorum of nodes hears each other in both directions.
    PartlyCutOff,
    /// All requests succeed within a second.
    Drained,
}

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    /// The node that is struck; of several, the first.
    pub(crate) node: usize,
    /// Another node, where there is a second one.
    pub(crate) other: usize,
    /// How long it lasts.
    pub(crate) hold: Duration,
    /// How long the cluster is left alone before.
    pub(crate) calm: Duration,
    /// Of slow links.
    pub(crate) delay: Duration,
    /// Whether it is the node that leads the most shards which is struck.
    pub(crate) strikes_most: bool,
    pub(crate) loss: PowerLoss,
    pub(crate) seed: u64,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind, node, other, ..
        } = self;
        let name = kind.name();
        match kind {
            Kind::KillAll | Kind::AllApart => write!(f, "{name}"),
            Kind::OneWay => write!(f, "{name}, node {node} to {other}"),
            Kind::Bridge => write!(f, "{name}, nodes {node} and {other} apart"),
            Kind::SlowLinks => write!(f, "{name} of node {node}, {} ms", self.delay.as_millis()),
            Kind::PowerLoss => write!(f, "{name} of node {node}, {:?}", self.loss),
            Kind::PowerLossAll => write!(f, "{name}, {:?}", self.loss),
            _ => write!(f, "{name}, node {node}"),
        }
    }
}

/// Faults without end.
pub(crate) struct Nemesis {
    random: Rng,
    kinds: Vec<Kind>,
    bag: Vec<Kind>,
    nodes: usize,
    unit: Duration,
}

impl Nemesis {
    /// Faults of these kinds for so many nodes; times are drawn in multiples of the election timeout.
    pub(crate) fn new(
        seed: u64,
        kinds: Vec<Kind>,
        nodes: usize,
        election_timeout: Duration,
    ) -> Self {
        Self {
            random: Rng::with_seed(seed),
            kinds,
            bag: Vec::new(),
            nodes,
            unit: election_timeout,
        }
    }

    /// The next fault.
    pub(crate) fn draw(&mut self) -> Fault {
        if self.bag.is_empty() {
            self.bag.clone_from(&self.kinds);
            self.random.shuffle(&mut self.bag);
        }
        let kind = self.bag.pop().expect("there are kinds");
        let random = &mut self.random;
        let node = random.usize(..self.nodes);
        let other = (node + 1 + random.usize(..self.nodes - 1)) % self.nodes;
        let unit = self.unit;
        let mut times = |from: f64, to: f64| unit.mul_f64(from + (to - from) * random.f64());
        // Long enough to see the shards served again, or for a quorum that is gone, to see that nothing is.
        let hold = if kind.leaves_a_quorum() {
            times(3.0, 5.0)
        } else {
            times(0.5, 2.0)
        };
        let calm = times(0.5, 1.5);
        // A write takes several ways, and a probe must have time for them.
        let delay = times(0.01, 0.06);
        Fault {
            kind,
            node,
            other,
            hold,
            calm,
            delay,
            strikes_most: random.u8(..4) > 0,
            loss: PowerLoss::ALL[random.usize(..PowerLoss::ALL.len())],
            seed: random.u64(..),
        }
    }
}

impl Fault {
    /// Strikes. Returns when it is in effect.
    pub(crate) fn strike(&self, cluster: &mut Cluster) {
        let Self { node, other, .. } = *self;
        let all = 0..cluster.len();
        match self.kind {
            Kind::Kill => cluster.kill(node),
            Kind::KillAll => all.for_each(|node| cluster.kill(node)),
            Kind::Pause => cluster.pause(node),
            Kind::Drain => {
                let status = cluster.terminate(node);
                assert!(status.success(), "a drained node ended with {status}");
            }
            Kind::Isolate => cluster.net().isolate(node),
            Kind::Vanish => {
                cluster.net().isolate(node);
                cluster.net().cut(Party::Client, Party::Node(node));
                cluster.net().cut(Party::Node(node), Party::Client);
            }
            Kind::Deaf => others(cluster.net(), all, node, |net, one, other| {
                net.cut(other, one);
            }),
            Kind::Mute => others(cluster.net(), all, node, |net, one, other| {
                net.cut(one, other);
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
            Kind::StalledDisk => cluster.disk(node).stall(Stalled::Syncs, None),
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
        }
    }

    /// Ends it.
    pub(crate) fn heal(&self, cluster: &mut Cluster) {
        cluster.net().heal_all();
        if self.kind == Kind::StalledDisk {
            cluster.disk(self.node).heal();
        }
        if self.kind == Kind::Pause {
            cluster.resume(self.node);
        }
        for node in 0..cluster.len() {
            if !cluster.runs(node) {
                cluster.start_node(node);
            }
        }
    }

    /// Strikes another node than was drawn.
    pub(crate) fn strike_at(&mut self, node: usize) {
        if self.other == node {
            self.other = self.node;
        }
        self.node = node;
    }

    /// Whether shards that this node leads may need another leader.
    pub(crate) fn strikes(&self, node: usize) -> bool {
        let pair = matches!(self.kind, Kind::OneWay | Kind::Bridge);
        node == self.node || (pair && node == self.other)
    }

    /// Nodes whose process ends by it.
    pub(crate) fn ends(&self, nodes: usize) -> Vec<usize> {
        match self.kind {
            Kind::Kill | Kind::Drain | Kind::PowerLoss => vec![self.node],
            Kind::KillAll | Kind::PowerLossAll => (0..nodes).collect(),
            _ => Vec::new(),
        }
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

#[test]
fn the_same_seed_draws_the_same_faults_and_another_one_others() {
    let draw = |seed| {
        let mut nemesis = Nemesis::new(seed, Kind::ALL.to_vec(), 3, Duration::from_secs(1));
        (0..40).map(|_| nemesis.draw()).collect::<Vec<_>>()
    };
    assert_eq!(draw(7), draw(7));
    assert_ne!(draw(7), draw(8));
}

#[test]
fn each_kind_comes_once_before_any_comes_again_and_no_node_is_its_own_other() {
    let unit = Duration::from_millis(500);
    let kinds: Vec<Kind> = Kind::ALL
        .into_iter()
        .filter(|kind| !kind.needs_disks())
        .collect();
    let mut nemesis = Nemesis::new(1, kinds.clone(), 3, unit);
    let mut struck = [0; 3];
    for _ in 0..20 {
        let mut bag: Vec<Kind> = Vec::new();
        for _ in 0..kinds.len() {
            let fault = nemesis.draw();
            assert!(fault.node < 3 && fault.other < 3 && fault.node != fault.other);
            assert!(
                fault.hold >= unit / 2 && fault.hold <= 5 * unit,
                "{fault:?}"
            );
            struck[fault.node] += 1;
            bag.push(fault.kind);
        }
        bag.sort_unstable();
        assert_eq!(bag, kinds);
    }
    assert!(struck.iter().all(|count| *count > 20), "{struck:?}");
}
