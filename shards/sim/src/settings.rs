//! What one run is like. Each seed draws its own sizes, features and faults, none included (swarm testing).

use fastrand::Rng;
use flotilla_shards::engine::EngineConfig;
use flotilla_shards::ids::NodeId;
use flotilla_shards::kv::JournalLimits;

use crate::client::workload::Load;
use crate::fault::Fault;
use crate::queue::{MILLIS, Micros, SECOND};

/// Everything that is drawn before a run begins.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Nodes of the cluster.
    pub nodes: usize,
    /// Shards of user data; the meta shard comes on top.
    pub shards: usize,
    /// Replicas of each shard.
    pub replicas: usize,
    /// Length of a tick.
    pub tick: Micros,
    /// The engine's settings, but for node and seed.
    pub engine: EngineConfig,
    /// Whether leases are switched on and off at each start of a node.
    pub mixed: bool,
    /// Shortest time that a frame takes.
    pub delay: Micros,
    /// What is added to it, at most, drawn for each frame.
    pub jitter: Micros,
    /// Whether messages pass through their encoding on the way.
    pub encode: bool,
    /// Time from an input to the turn that takes it.
    pub turn: Micros,
    /// Time of a synced write of the log.
    pub sync: Micros,
    /// Time of a round of applying.
    pub apply: Micros,
    /// Time of a flush of the state.
    pub flush: Micros,
    /// Age of unflushed changes at which a flush begins.
    pub flush_age: Micros,
    /// Bytes of log after which a flush begins.
    pub flush_bytes: u64,
    /// When the applier writes which rows of how far shards have come.
    pub journal: JournalLimits,
    /// Mean number of rounds after which the applier closes its state machines.
    pub close: u64,
    /// Faults, each with the mean time between two of its kind; for faults of frames, with the chance in a million.
    pub faults: Vec<(Fault, u64)>,
    /// How long faults are injected.
    pub storm: Micros,
    /// How long the cluster may take to recover from the last of them.
    pub calm: Micros,
    /// Clients, one request at a time each.
    pub clients: usize,
    /// Pause of a client between two requests, on average.
    pub think: Micros,
    /// Time in which a request must be answered.
    pub timeout: Micros,
    /// Time after which a try of a request that may be repeated is given up.
    pub try_timeout: Micros,
    /// Keys of the registers.
    pub keys: usize,
    /// What clients ask for, with weights.
    pub loads: Vec<(Load, u32)>,
    /// Share of writes that are in sessions, in percent.
    pub sessions: u8,
}

impl Settings {
    /// Draws the settings of a seed.
    #[must_use]
    pub fn draw(rng: &mut Rng) -> Self {
        let nodes = *pick(
            rng,
            &[1, 2, 3, 3, 3, 3, 3, 3, 4, 4, 5, 5, 5, 5, 5, 6, 6, 7, 7, 7],
        );
        let most = if nodes >= 5 && rng.bool() { 5 } else { 3 };
        let replicas = if nodes >= 3 && rng.u8(..20) > 0 {
            most
        } else {
            1
        };
        let shards = skewed(rng, 1, 200);
        // Large clusters run shorter, so that a run costs about the same.
        let size = (shards * replicas) as u64;
        let storm = (10 * SECOND + 80 * SECOND * 40 / (40 + size)) * rng.u64(2..=6) / 4;
        let mut settings = Self {
            nodes,
            shards,
            replicas,
            tick: 50 * MILLIS,
            engine: engine(rng),
            mixed: false,
            delay: *pick(rng, &[50, 200, 1_000, 5_000]),
            jitter: *pick(rng, &[20, 500, 2_000, 20_000]),
            encode: rng.u8(..4) == 0,
            turn: *pick(rng, &[1, 20, 100, 1_000]),
            sync: *pick(rng, &[20, 150, 1_000, 10_000]),
            apply: *pick(rng, &[10, 50, 500, 5_000]),
            flush: *pick(rng, &[1_000, 20_000, 200_000]),
            flush_age: *pick(rng, &[100 * MILLIS, SECOND, 10 * SECOND]),
            flush_bytes: *pick(rng, &[1 << 10, 16 << 10, 1 << 20]),
            journal: JournalLimits::default(),
            close: 1,
            faults: Vec::new(),
            storm,
            calm: 60 * SECOND,
            clients: rng.usize(2..=10),
            think: 0,
            timeout: *pick(rng, &[SECOND, 3 * SECOND, 10 * SECOND]),
            try_timeout: *pick(rng, &[150 * MILLIS, 500 * MILLIS, 3 * SECOND]),
            keys: *pick(rng, &[4, 4, 8, 16, 48]),
            loads: loads(rng),
            sessions: *pick(rng, &[0, 50, 100]),
        };
        // About so many operations, however long the run: the judge of histories must manage them.
        let operations = *pick(rng, &[1_000, 3_000, 8_000]);
        settings.think = (settings.clients as u64 * storm / operations).max(MILLIS);
        // Drawn beside the others, so that older seeds keep the rest of their settings.
        let mut beside = rng.clone();
        settings.journal = JournalLimits {
            bytes: *pick(&mut beside, &[0, 100, 1_000, 1 << 20]),
            shards_min: *pick(&mut beside, &[1, 1, 2, 4]),
            batch_bytes: *pick(&mut beside, &[1, 300, 1 << 20]),
        };
        settings.close = *pick(&mut beside, &[1, 20, 1_000]);
        if rng.u8(..10) > 0 {
            settings.faults = faults(rng, nodes);
        }
        if settings.engine.leases {
            // Leases rest on clocks that keep to the promised drift.
            settings
                .faults
                .retain(|(fault, _)| *fault != Fault::ClockFreeze);
            settings.mixed = rng.clone().u8(..4) == 0;
        }
        settings
    }

    /// A cluster under steady load and without faults, to measure the simulator by.
    #[must_use]
    pub fn steady(nodes: usize, shards: usize, seconds: u64) -> Self {
        Self {
            nodes,
            shards,
            replicas: if nodes < 3 { 1 } else { 3 },
            tick: 50 * MILLIS,
            engine: EngineConfig::new(NodeId(1), 0),
            mixed: false,
            delay: 200,
            jitter: 200,
            encode: false,
            turn: 20,
            sync: 150,
            apply: 50,
            flush: 20_000,
            flush_age: 10 * SECOND,
            flush_bytes: 1 << 20,
            journal: JournalLimits::default(),
            close: 1_000,
            faults: Vec::new(),
            storm: seconds * SECOND,
            calm: 60 * SECOND,
            clients: 16,
            think: 20 * MILLIS,
            timeout: 10 * SECOND,
            try_timeout: 3 * SECOND,
            keys: 1000,
            loads: vec![(Load::Register, 1)],
            sessions: 50,
        }
    }

    /// Chance in a million of a fault of frames.
    pub(crate) fn chance(&self, fault: Fault) -> u64 {
        let found = self.faults.iter().find(|(kind, _)| *kind == fault);
        found.map_or(0, |&(_, chance)| chance)
    }
}

fn pick<'a, T>(rng: &mut Rng, from: &'a [T]) -> &'a T {
    &from[rng.usize(..from.len())]
}

/// A number of a size that is drawn first, so that small ones are as likely as large ones.
fn skewed(rng: &mut Rng, low: usize, high: usize) -> usize {
    let bits = (high / low).ilog2();
    let most = (low << (rng.u32(..=bits) + 1)).min(high);
    rng.usize(low..=most)
}

/// The engine's settings, often with bounds so tight that they are met all the time.
fn engine(rng: &mut Rng) -> EngineConfig {
    let mut config = EngineConfig::new(NodeId(1), 0);
    let mut tight = |chance: u8| rng.u8(..chance) == 0;
    if tight(4) {
        config.append_bytes_max = 64;
    }
    if tight(4) {
        config.apply_bytes_max = 128;
    }
    if tight(6) {
        config.uncommitted_bytes_max = 512;
    }
    if tight(6) {
        config.queued_bytes_max = 256;
    }
    if tight(4) {
        config.entry_bytes_target = 1;
    }
    if tight(4) {
        config.writes_in_flight_max = 8;
    }
    if tight(4) {
        config.inflight_messages_max = 1;
    }
    if tight(3) {
        config.cache_bytes_per_shard = 0;
    }
    if !tight(4) {
        config.compact_entries_min = 4;
    }
    if tight(2) {
        config.reserve_entries = 2;
    }
    if tight(3) {
        config.log_bytes_per_shard = 1 << 10;
    }
    // Drawn beside the others, so that older seeds keep the rest of their settings.
    let mut beside = rng.clone();
    config.quiesce_ticks = *pick(&mut beside, &[0, 1, 4, 20]);
    config.leases = beside.u8(..3) == 0;
    config
}

/// Some kinds of workloads, or all of them.
fn loads(rng: &mut Rng) -> Vec<(Load, u32)> {
    let share = *pick(rng, &[3, 6, 10]);
    let mut loads = Vec::new();
    for load in Load::ALL {
        if rng.u8(..10) < share {
            loads.push((load, rng.u32(1..=4)));
        }
    }
    if loads.is_empty() {
        loads.push((Load::Register, 1));
    }
    loads
}

fn faults(rng: &mut Rng, nodes: usize) -> Vec<(Fault, u64)> {
    let mut faults = Vec::new();
    // Each kind is in half of the runs of a seed that has faults, and some runs have few of them.
    let share = *pick(rng, &[1, 3, 5, 8]);
    for fault in Fault::ALL {
        if rng.u8(..10) >= share {
            continue;
        }
        let rare = match fault {
            // These take a node away for the rest of the run.
            Fault::BitFlip | Fault::WipedDisk | Fault::RolledBackDisk => {
                rng.u8(..3) > 0 || nodes < 3
            }
            _ => false,
        };
        if rare {
            continue;
        }
        let often = if Fault::OF_FRAMES.contains(&fault) {
            *pick(rng, &[300, 5_000, 50_000, 200_000])
        } else {
            *pick(rng, &[SECOND, 5 * SECOND, 20 * SECOND])
        };
        faults.push((fault, often));
    }
    faults
}
