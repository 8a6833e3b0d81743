//! What one run is like, drawn from its seed.

use fastrand::Rng;
use flotilla_shards::raft::{Config, ReadOnlyOption, ReplicaId};

#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Replicas that exist, members or not.
    pub(crate) replicas: u64,
    /// The first so many of them are voters at the start, the next `learners` are learners.
    pub(crate) voters: u64,
    pub(crate) learners: u64,
    /// What all replicas have in common.
    pub(crate) config: Config,
    /// Chances in a thousand.
    pub(crate) loss: u32,
    pub(crate) duplication: u32,
    pub(crate) reordering: u32,
    /// Whether a crash may leave a part of a write.
    pub(crate) torn_writes: bool,
    /// Rates of the replicas' clocks, in thousandths.
    pub(crate) clocks: Vec<u32>,
    /// How often something bad happens, relative to normal work.
    pub(crate) crashes: u32,
    pub(crate) partitions: u32,
    pub(crate) changes: u32,
    pub(crate) compactions: u32,
    pub(crate) quiescence: u32,
    pub(crate) steps: u32,
}

impl Settings {
    pub(crate) fn new(rng: &mut Rng) -> Self {
        let replicas = rng.u64(1..=7);
        let voters = rng.u64(1..=replicas);
        let learners = rng.u64(0..=(replicas - voters).min(2));
        let often = |rng: &mut Rng, most: u32| {
            if rng.u8(..4) == 0 {
                0
            } else {
                rng.u32(1..=most)
            }
        };
        let mut config = Config {
            election_ticks: rng.u32(5..12),
            heartbeat_ticks: rng.u32(1..3),
            max_size_per_msg: [0, 40, 200, u64::MAX][rng.usize(..4)],
            max_committed_size_per_ready: [1, 60, 400, u64::MAX][rng.usize(..4)],
            max_uncommitted_size: [0, 0, 200][rng.usize(..3)],
            max_inflight_msgs: rng.usize(1..6),
            check_quorum: rng.bool(),
            pre_vote: rng.bool(),
            liveness_fixes: true,
            async_storage_writes: rng.u8(..4) > 0,
            step_down_on_removal: rng.bool(),
            disable_proposal_forwarding: rng.u8(..4) == 0,
            manual_elections: rng.u8(..4) == 0,
            manual_heartbeats: rng.u8(..4) == 0,
            ..Config::new(ReplicaId(1))
        };
        if config.max_size_per_msg <= 200 && rng.bool() {
            config.max_inflight_bytes = config.max_size_per_msg.max(1) * rng.u64(1..4);
        }
        if rng.u8(..3) == 0 {
            config.read_only = ReadOnlyOption::LeaseBased;
            config.check_quorum = true;
        }
        // Leases rest on clocks that keep to the bound; nothing else may rest on clocks at all.
        let (slow, fast) = match config.read_only {
            ReadOnlyOption::LeaseBased => (955, 1045),
            ReadOnlyOption::Safe => (200, 2_000),
        };
        Self {
            replicas,
            voters,
            learners,
            config,
            loss: often(rng, 150),
            duplication: often(rng, 150),
            reordering: often(rng, 700),
            torn_writes: rng.bool(),
            clocks: (0..replicas).map(|_| rng.u32(slow..=fast)).collect(),
            crashes: often(rng, 8),
            partitions: often(rng, 5),
            changes: often(rng, 20),
            compactions: often(rng, 30),
            quiescence: often(rng, 20),
            steps: rng.u32(1_000..16_000),
        }
    }
}
