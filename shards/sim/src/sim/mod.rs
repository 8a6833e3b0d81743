//! A run: the cluster, its clients and its surroundings, driven by one queue of events.
//!
//! The parts of [`Sim`] are in files by what they simulate: a node's turns, its storage threads, its starts and ends, its
//! requests, the clients, and the faults.

mod calm;
mod clients;
mod nemesis;
mod power;
mod requests;
mod storage;
mod turn;

use std::sync::Arc;

use fastrand::Rng;
use flotilla_history::History;
use flotilla_proto::v1 as proto;
use flotilla_shards::genesis::{Genesis, Split, even_split};
use flotilla_shards::ids::NodeId;
use flotilla_shards::limits::Limits;
use flotilla_shards::range_map::RangeMap;

use crate::checks::{Checked, Checks, Violation};
use crate::client::Client;
use crate::clock::EPOCH_MS;
use crate::fault::FaultCounts;
use crate::network::{Frame, Network};
use crate::node::{Node, Phase, Transfer};
use crate::queue::Queue;
use crate::report::Report;
use crate::rpc::{Party, Reply, Request};
use crate::settings::Settings;
use crate::trace::{Kind, Listener, Trace};
use flotilla_shards::service::call::Event as CallEvent;

/// What may happen next. Events of a node carry its start: those of an earlier one are stale.
#[derive(Debug)]
pub(crate) enum Event {
    Turn(usize, u32),
    Tick(usize, u64),
    Frame(Box<Frame>),
    LogDone(usize, u32),
    ApplyDone(usize, u32),
    FlushAge(usize, u32),
    FlushDone(usize, u32),
    SnapshotOpen(Box<(usize, u32, flotilla_shards::engine::SnapshotSend)>),
    SnapshotArrives(Box<Transfer>),
    Unreachable(usize, u32, NodeId),
    Request(usize, Box<Request>),
    Reply(Party, u64, Box<Reply>),
    CallDue(usize, u32, u64),
    ClientNext(usize),
    TryOver(usize, u64),
    Nemesis(usize),
    Remedy(nemesis::Remedy),
    Start(usize),
    Resume(usize),
    Calm,
    Look,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What was drawn.
    pub settings: Settings,
    /// What happened, also if the run ended early.
    pub report: Report,
    /// The invariant that was broken, if any.
    pub violation: Option<Violation>,
}

/// See the module.
pub(crate) struct Sim {
    settings: Settings,
    rng: Rng,
    queue: Queue<Event>,
    map: Arc<RangeMap>,
    limits: Limits,
    nodes: Vec<Node>,
    network: Network,
    clients: Vec<Client>,
    checks: Checks,
    trace: Trace,
    report: Report,
    /// Whether the faults are over.
    calm: bool,
    /// Names tries of requests.
    next_try: u64,
    /// Events that came to a paused node.
    backlog: Vec<Vec<Event>>,
    /// Nodes that were replaced by other stores, or whose disks are damaged.
    lost: usize,
    faults: FaultCounts,
    /// What clients asked and were told.
    history: History,
    /// Whether everything has settled and is read once more.
    last_reads: bool,
    /// The next of these reads.
    last_read: usize,
    done: bool,
}

/// Runs a seed.
#[must_use]
pub fn run(seed: u64, listener: Option<Listener>) -> Outcome {
    let mut rng = Rng::with_seed(seed);
    let settings = Settings::draw(&mut rng);
    run_with(settings, rng.u64(..), listener)
}

/// Runs a cluster with these settings.
#[must_use]
pub fn run_with(settings: Settings, seed: u64, listener: Option<Listener>) -> Outcome {
    let mut sim = Sim::new(settings, seed, listener);
    let violation = sim.run().err();
    if let Some(violation) = &violation {
        let text = violation.to_string();
        sim.note(Kind::Fault, [u64::MAX, 0, 0], || text);
    }
    Outcome {
        report: sim.finish(),
        settings: sim.settings,
        violation,
    }
}

impl Sim {
    fn new(settings: Settings, seed: u64, listener: Option<Listener>) -> Self {
        let nodes: Vec<proto::Node> = (1..=settings.nodes)
            .map(|number| proto::Node {
                address: format!("n{number}:1"),
                store_id: vec![u8::try_from(number).unwrap_or(0); 16].into(),
                ..proto::Node::default()
            })
            .collect();
        let split = Split::At(even_split(settings.shards));
        let genesis = Genesis::plan([1; 16], nodes, &split, settings.replicas, EPOCH_MS);
        let genesis = genesis.unwrap_or_else(|error| unreachable!("drawn to be possible: {error}"));
        let map = Arc::new(RangeMap::new(genesis.shards().map(Arc::new)));
        let nodes: Vec<Node> = (genesis.nodes().iter())
            .map(|node| Node::born(node.id, &genesis, &map))
            .collect();
        let mut rng = Rng::with_seed(seed);
        let clients = (0..settings.clients)
            .map(|number| Client::new(number, &settings, &map, rng.u64(..)))
            .collect();
        Self {
            network: Network::new(&settings),
            checks: Checks::new(&settings),
            backlog: nodes.iter().map(|_| Vec::new()).collect(),
            queue: Queue::new(),
            limits: Limits::default(),
            trace: Trace::new(listener),
            report: Report::default(),
            calm: false,
            next_try: 0,
            lost: 0,
            faults: FaultCounts::default(),
            history: History::new(),
            last_reads: false,
            last_read: 0,
            done: false,
            nodes,
            clients,
            map,
            rng,
            settings,
        }
        .with_genesis(&genesis)
    }

    fn with_genesis(mut self, genesis: &Genesis) -> Self {
        let text = format!("{:?}", self.settings);
        self.note(Kind::Start, [0; 3], || text);
        let shards: Vec<_> = genesis.shards().collect();
        if let Err(violation) = self.checks.born(&shards) {
            unreachable!("{violation}");
        }
        self
    }

    fn run(&mut self) -> Checked {
        for at in 0..self.nodes.len() {
            self.queue.at(0, Event::Start(at));
        }
        for client in 0..self.clients.len() {
            let pause = self.rng.u64(..=self.settings.think);
            self.queue.after(pause, Event::ClientNext(client));
        }
        self.begin_faults();
        self.queue.at(self.settings.storm, Event::Calm);
        while !self.done {
            let Some(event) = self.queue.pop() else {
                break;
            };
            self.dispatch(event)?;
        }
        Ok(())
    }

    fn finish(&mut self) -> Report {
        Report {
            runs: 1,
            lost: self.lost as u64,
            hash: self.trace.hash(),
            simulated: self.queue.now(),
            events: self.trace.events(),
            commits: self.checks.committed.count(),
            elections: self.checks.election.count(),
            compared: self.checks.state_hash.compared(),
            repeats: self.checks.sessions.repeats(),
            faults: self.faults.clone(),
            ..self.report.clone()
        }
    }

    fn note(&mut self, kind: Kind, numbers: [u64; 3], text: impl FnOnce() -> String) {
        let now = self.queue.now();
        if self.faults.has_fresh() {
            for fault in self.faults.take_fresh() {
                self.report.coverage.begin(fault, now, 0);
            }
        }
        self.report.coverage.note(kind, now);
        self.trace.event(now, kind, numbers, text);
    }

    /// Whether a node takes events of this start now. If it stands still the event is kept for later.
    fn awake(&mut self, at: usize, boot: u32, event: impl FnOnce() -> Event) -> bool {
        let node = &self.nodes[at];
        if node.boot != boot {
            return false;
        }
        match node.phase {
            Phase::Up => true,
            Phase::Paused => {
                self.backlog[at].push(event());
                false
            }
            Phase::Down | Phase::Lost => false,
        }
    }

    fn dispatch(&mut self, event: Event) -> Checked {
        match event {
            Event::Turn(at, boot) => {
                if self.awake(at, boot, || Event::Turn(at, boot)) {
                    return self.turn(at);
                }
            }
            Event::Tick(at, generation) => return self.tick(at, generation),
            Event::Frame(frame) => return self.frame_arrives(frame),
            Event::LogDone(at, boot) => {
                if self.awake(at, boot, || Event::LogDone(at, boot)) {
                    return self.log_done(at);
                }
            }
            Event::ApplyDone(at, boot) => {
                if self.awake(at, boot, || Event::ApplyDone(at, boot)) {
                    return self.apply_done(at);
                }
            }
            Event::FlushAge(at, boot) => {
                if self.awake(at, boot, || Event::FlushAge(at, boot)) {
                    return self.flush_age(at);
                }
            }
            Event::FlushDone(at, boot) => {
                if self.awake(at, boot, || Event::FlushDone(at, boot)) {
                    return self.flush_done(at);
                }
            }
            Event::SnapshotOpen(open) => self.snapshot_open(*open),
            Event::SnapshotArrives(transfer) => self.snapshot_arrives(*transfer),
            Event::Unreachable(at, boot, node) => {
                if self.awake(at, boot, || Event::Unreachable(at, boot, node)) {
                    self.input(at, crate::node::Input::Unreachable(node));
                }
            }
            Event::Request(at, request) => return self.request_arrives(at, *request),
            Event::Reply(Party::Node(at, boot), id, reply) => {
                let kept = reply.clone();
                if self.awake(at, boot, || Event::Reply(Party::Node(at, boot), id, kept)) {
                    return self.resume_call(at, id, CallEvent::Remote(*reply));
                }
            }
            Event::Reply(Party::Client(client), id, reply) => {
                return self.client_reply(client, id, *reply);
            }
            Event::CallDue(at, boot, handle) => {
                if self.awake(at, boot, || Event::CallDue(at, boot, handle)) {
                    return self.call_due(at, handle);
                }
            }
            Event::ClientNext(client) => return self.client_next(client),
            Event::TryOver(client, id) => return self.try_over(client, id),
            Event::Nemesis(which) => return self.nemesis(which),
            Event::Remedy(remedy) => self.remedy(remedy),
            Event::Start(at) => return self.start(at),
            Event::Resume(at) => return self.resume(at),
            Event::Calm => return self.begin_calm(),
            Event::Look => return self.look(),
        }
        Ok(())
    }
}
