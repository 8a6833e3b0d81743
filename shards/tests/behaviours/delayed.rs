//! Replicas with ticks, Readies and storages over a network that takes its time, from a seed.

use crate::harness::*;
use std::collections::BTreeMap;

/// Five replicas over a network with random delays.
pub(crate) struct Delayed {
    pub(crate) nodes: BTreeMap<u64, RawNode<MemoryStorage>>,
    /// Replicas that get no ticks and no messages.
    pub(crate) paused: Vec<u64>,
    in_flight: Vec<(u64, Message)>,
    now: u64,
    rng: fastrand::Rng,
}

impl Delayed {
    pub(crate) fn new(seed: u64) -> Self {
        println!("seed {seed}");
        let nodes = (1..=5)
            .map(|id| (id, Setup::new(id, &[1, 2, 3, 4, 5]).raw()))
            .collect();
        Self {
            nodes,
            paused: Vec::new(),
            in_flight: Vec::new(),
            now: 0,
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    /// Passes one tick and does what is due.
    fn tick(&mut self) {
        self.now += 1;
        let now = self.now;
        let due: Vec<_> = self
            .in_flight
            .extract_if(.., |(at, _)| *at <= now)
            .collect();
        for (_, message) in due {
            if !self.paused.contains(&message.to.0)
                && let Some(node) = self.nodes.get_mut(&message.to.0)
            {
                match node.step(message) {
                    Ok(()) | Err(Error::ProposalDropped(_)) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
        for (id, node) in &mut self.nodes {
            if !self.paused.contains(id) {
                node.tick();
                let (_, sent) = settle(node);
                self.in_flight.extend(
                    sent.into_iter()
                        .map(|message| (now + self.rng.u64(1..5), message)),
                );
            }
        }
    }

    /// Ticks until so many proposals were taken by leaders.
    pub(crate) fn propose(&mut self, count: usize) {
        let mut left = count;
        for _ in 0..10_000 {
            let leads =
                |id: &u64, node: &RawNode<_>| node.role() == Leader && !self.paused.contains(id);
            let leader = self
                .nodes
                .iter_mut()
                .find_map(|(id, node)| leads(id, node).then_some(node));
            if let Some(leader) = leader {
                left -= usize::from(leader.propose("x".into()).is_ok());
            }
            if left == 0 {
                return;
            }
            self.tick();
        }
        panic!("{left} proposals left");
    }

    /// Ticks until everybody has committed the same, everything that there is.
    pub(crate) fn converge(&mut self) {
        for _ in 0..10_000 {
            self.tick();
            let ends: Vec<_> = self
                .nodes
                .values()
                .map(|node| (node.committed(), node.last_index()))
                .collect();
            if ends
                .iter()
                .all(|&(commit, last)| commit == last && commit == ends[0].0)
            {
                return;
            }
        }
        panic!("no convergence");
    }

    /// The data entries that everybody has committed.
    pub(crate) fn agreed(&self) -> usize {
        let log = |id: u64| {
            let storage = self.nodes[&id].storage();
            storage
                .entries(Index(1), storage.last_index().next(), NO_LIMIT)
                .expect("the whole log is there")
        };
        for id in 2..=5 {
            assert_eq!(log(id), log(1));
        }
        log(1).iter().filter(|entry| !entry.data.is_empty()).count()
    }
}
