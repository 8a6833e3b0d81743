//! Which faults come: drawn from a seed, each kind once before any comes again, some of them two at a time.

use std::time::Duration;

use fastrand::Rng;
use flotilla_faultfs::PowerLoss;

use crate::{
    fault::Fault,
    harm::{Harm, Service},
    kind::{Bound, Kind},
};

/// One round in so many has two faults at once, where there is a second one that fits.
const PAIRS_IN: u8 = 3;
/// Seconds that clocks jump: by less and by more than anything that is measured in wall time.
const STEPS: [i64; 6] = [-86_400, -3_700, -5, 5, 3_700, 86_400];

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Round {
    pub(crate) first: Fault,
    /// What to draw a second fault from, if there is to be one.
    pair: Option<u64>,
    /// How long the cluster is left alone before.
    pub(crate) calm: Duration,
    /// Between the first fault and the second.
    pub(crate) gap: Duration,
    /// How long all faults last, if they leave a quorum: longer than it may take until the shards are served again.
    pub(crate) hold: Duration,
    /// How long they last if they don't, to see that nothing is.
    pub(crate) short_hold: Duration,
    /// Whether it is the node that leads the most shards which is struck first.
    pub(crate) strikes_most: bool,
}

/// Rounds without end.
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

    /// The next round.
    pub(crate) fn draw(&mut self) -> Round {
        if self.bag.is_empty() {
            self.bag.clone_from(&self.kinds);
            self.random.shuffle(&mut self.bag);
        }
        let kind = self.bag.pop().expect("there are kinds");
        let first = fault(kind, self.nodes, self.unit, &mut self.random);
        let random = &mut self.random;
        let pair = (random.u8(..PAIRS_IN) == 0).then(|| random.u64(..));
        let unit = self.unit;
        let mut times = |from: f64, to: f64| unit.mul_f64(from + (to - from) * random.f64());
        Round {
            first,
            pair,
            calm: times(0.5, 1.5),
            gap: times(0.0, 1.5),
            hold: match kind.bound() {
                Some(Bound::Killed | Bound::PausedOrCutOff) if pair.is_none() => times(3.2, 5.0),
                _ => times(5.2, 6.5),
            },
            short_hold: times(0.5, 2.0),
            strikes_most: random.u8(..4) > 0,
        }
    }

    /// The round's second fault, if there is one that leaves no doubt: with both, all shards must be served.
    pub(crate) fn second(&self, round: &Round, shards: &[Vec<usize>]) -> Option<Fault> {
        const TRIES: usize = 50;
        let mut random = Rng::with_seed(round.pair?);
        (0..TRIES).find_map(|_| {
            let kind = self.kinds[random.usize(..self.kinds.len())];
            let second = fault(kind, self.nodes, self.unit, &mut random);
            let both = [round.first.clone(), second];
            let harm = Harm::of(self.nodes, &both);
            let served = shards
                .iter()
                .all(|replicas| harm.service(replicas) == Service::Must);
            let [first, second] = both;
            (served && first.bears(&second)).then_some(second)
        })
    }
}

fn fault(kind: Kind, nodes: usize, unit: Duration, random: &mut Rng) -> Fault {
    let node = random.usize(..nodes);
    Fault {
        kind,
        node,
        other: (node + 1 + random.usize(..nodes - 1)) % nodes,
        // A write takes several ways, and a probe must have time for them.
        delay: unit.mul_f64(0.01 + 0.05 * random.f64()),
        loss: PowerLoss::ALL[random.usize(..PowerLoss::ALL.len())],
        seed: random.u64(..),
        passing: random.u64(..30),
        step: STEPS[random.usize(..STEPS.len())],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIT: Duration = Duration::from_millis(500);

    fn nemesis(seed: u64, nodes: usize) -> Nemesis {
        Nemesis::new(seed, Kind::ALL.to_vec(), nodes, UNIT)
    }

    /// The nodes of each shard's replicas, as clusters of the harness have them.
    fn shards(nodes: usize) -> Vec<Vec<usize>> {
        let replicas = nodes - (nodes + 1) % 2;
        let of_shard = |shard: usize| (0..replicas).map(|at| (shard + at) % nodes).collect();
        (0..nodes).map(of_shard).collect()
    }

    #[test]
    fn the_same_seed_draws_the_same_rounds_and_another_one_others() {
        let draw = |seed| {
            let mut nemesis = nemesis(seed, 3);
            (0..40).map(|_| nemesis.draw()).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn each_kind_comes_once_before_any_comes_again_and_no_node_is_its_own_other() {
        let mut nemesis = nemesis(1, 3);
        let mut struck = [0; 3];
        for _ in 0..20 {
            let mut bag: Vec<Kind> = Vec::new();
            for _ in 0..Kind::ALL.len() {
                let round = nemesis.draw();
                let fault = round.first;
                assert!(fault.node < 3 && fault.other < 3 && fault.node != fault.other);
                let hold = round.hold;
                assert!(hold > 3 * UNIT && hold < 7 * UNIT, "{hold:?}");
                struck[fault.node] += 1;
                bag.push(fault.kind);
            }
            bag.sort_unstable();
            assert_eq!(bag, Kind::ALL);
        }
        assert!(struck.iter().all(|count| *count > 50), "{struck:?}");
    }

    #[test]
    fn of_each_fault_alone_it_is_known_whether_shards_must_be_served() {
        for nodes in 3..=5 {
            let mut nemesis = nemesis(1, nodes);
            for _ in 0..10 * Kind::ALL.len() {
                let fault = nemesis.draw().first;
                let harm = Harm::of(nodes, std::slice::from_ref(&fault));
                let none = matches!(
                    fault.kind,
                    Kind::KillAll | Kind::AllApart | Kind::PowerLossAll
                );
                let expected = if none { Service::Cannot } else { Service::Must };
                for replicas in shards(nodes) {
                    assert_eq!(harm.service(&replicas), expected, "{fault}, {nodes} nodes");
                }
            }
        }
    }

    #[test]
    fn two_faults_at_once_leave_a_quorum_and_are_not_in_each_others_way() {
        for nodes in 3..=5 {
            let mut nemesis = nemesis(2, nodes);
            let (mut wanted, mut pairs, mut both_out) = (0, 0, 0);
            for _ in 0..1_000 {
                let round = nemesis.draw();
                wanted += usize::from(round.pair.is_some());
                let Some(second) = nemesis.second(&round, &shards(nodes)) else {
                    continue;
                };
                pairs += 1;
                let harm = Harm::of(nodes, &[round.first.clone(), second.clone()]);
                both_out +=
                    usize::from(harm.touches(round.first.node) && harm.touches(second.node));
                let linked = |fault: &Fault| fault.kind.target() == crate::kind::Target::Network;
                let apart = round.first.node != second.node;
                assert!(apart || (linked(&round.first) && linked(&second)));
            }
            // Not for the four kinds that strike all nodes.
            assert!(
                pairs > wanted / 2 && pairs < wanted,
                "{pairs} of {wanted}, {nodes} nodes"
            );
            assert!(both_out > pairs / 8, "{both_out} of {pairs}, {nodes} nodes");
        }
    }

    #[test]
    fn whether_a_quorum_is_left_is_seen_by_who_hears_whom() {
        let fault = |kind, node, other| Fault {
            node,
            other,
            ..fault(kind, 5, UNIT, &mut Rng::with_seed(1))
        };
        let service = |nodes: usize, faults: &[Fault]| {
            let all: Vec<usize> = (0..nodes).collect();
            Harm::of(nodes, faults).service(&all)
        };
        use Kind::{Bridge, Isolate, Kill, Mute, OneWay, Pause};
        assert_eq!(
            service(3, &[fault(Kill, 0, 1), fault(Pause, 1, 0)]),
            Service::Cannot
        );
        assert_eq!(
            service(5, &[fault(Kill, 0, 1), fault(Pause, 1, 0)]),
            Service::Must
        );
        assert_eq!(
            service(3, &[fault(Kill, 0, 1), fault(Bridge, 1, 0)]),
            Service::Must
        );
        assert_eq!(
            service(3, &[fault(Kill, 0, 1), fault(OneWay, 1, 2)]),
            Service::Cannot
        );
        // Node 2 hears both, which don't hear each other.
        assert_eq!(service(3, &[fault(Bridge, 0, 1)]), Service::Must);
        let three = [fault(Kill, 0, 1), fault(Mute, 1, 0), fault(Isolate, 2, 0)];
        assert_eq!(service(5, &three), Service::Cannot);
        // Node 4 hears 2 and 3, which don't hear each other.
        let star = [fault(Kill, 0, 1), fault(Kill, 1, 0), fault(Bridge, 2, 3)];
        assert_eq!(service(5, &star), Service::Undecided);
        assert!(Harm::of(5, &star).touches(3) && !Harm::of(5, &star).touches(4));
    }
}
