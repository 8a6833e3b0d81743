//! Many Raft groups as one sans-IO engine.
//!
//! Inputs come by `handle_*` and the commands of the application ([`Engine::propose`], [`Engine::read`], …); they may
//! be many before one [`Engine::turn`], which visits the replicas that something happened to and gives back one batch
//! of outputs. Time is a count of ticks and, for expiry only, a wall clock in milliseconds; both are arguments.
//! Randomness comes from the seed. A turn costs what is due and what came in, never the number of replicas.
//!
//! A shard that is idle rests and has no timer (`rest`); what watches over it is one table of living nodes (`liveness`).
//!
//! What may not live here: threads, clocks, channels, disks, sockets, and what a command means (see [`crate::kv`]).
//!
//! The contract with the surroundings:
//! - `appends` are written in the order given per shard. What a [`Release`] holds leaves only after the write is
//!   durable; its local part comes back by [`Engine::handle_local`].
//! - [`Engine::handle_tick`] comes after the other inputs and before the turn, with a clock that was read after the last of
//!   them had come in: else a process that stood still could answer a read by a lease that is over.
//! - `messages` may leave at once, also before the appends of the same turn are durable (thesis 10.2.1).
//! - `applies` are applied in the order given per shard; their `done` messages come back by [`Engine::handle_local`]
//!   once the effects can be read.
//! - `leases` are known to whoever reads by them before anything else of the same output leaves.
//! - [`Output::alive`] is told to all other nodes, which hand it to [`Engine::handle_alive`].
//! - After the state database has made an applied index durable, [`Engine::handle_flushed`] lets the log be cut.

mod campaigns;
mod census;
mod io;
mod liveness;
mod log_view;
mod reads;
mod replica;
mod rest;
mod survey;
mod wheel;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::Arc,
};

use campaigns::Campaigns;
pub use census::{Load, ReplicaStatus};
pub use io::*;
use liveness::Liveness;
pub use log_view::{CacheCount, LogView};
use replica::Replica;
pub use survey::{Survey, Totals};
use wheel::Wheel;

use crate::{
    ids::{NodeId, ShardId},
    raft::{self, ConfState, Index, Message, MessageKind},
};

/// How an engine behaves. Times are in ticks of the caller.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// The own node.
    pub node: NodeId,
    /// Different at each start of the node: election jitter, and the part of read contexts that makes them unique.
    pub seed: u64,
    /// Shortest election timeout; the drawn one lies in `[election_ticks, 2 * election_ticks)`.
    pub election_ticks: u32,
    /// Interval of a leader's heartbeats.
    pub heartbeat_ticks: u32,
    /// How long a read waits for its confirmation.
    pub read_ticks: u32,
    /// Payload of one append message, in bytes.
    pub append_bytes_max: u64,
    /// Committed entries handed out at once per shard, in bytes.
    pub apply_bytes_max: u64,
    /// Appended and not yet committed, per shard, in bytes; beyond that writes are refused as busy.
    pub uncommitted_bytes_max: u64,
    /// Waiting to be proposed, per shard, in bytes; beyond that writes are refused as busy.
    pub queued_bytes_max: usize,
    /// Commands are joined to one entry up to this size in bytes; a single larger command is an entry of its own.
    pub entry_bytes_target: usize,
    /// Log writes of a shard in flight from which on its proposals gather.
    pub writes_in_flight_max: u32,
    /// Append messages on their way to one follower.
    pub inflight_messages_max: usize,
    /// The same in bytes.
    pub inflight_bytes_max: u64,
    /// Log entries that a leader keeps in memory for its followers, per shard, in bytes.
    pub cache_bytes_per_shard: u64,
    /// The log is cut when this many entries can go,
    pub compact_entries_min: u64,
    /// or when it has this many bytes.
    pub compact_bytes_min: u64,
    /// Entries that stay for followers that are a little behind.
    pub reserve_entries: u64,
    /// Size of a shard's log from which on slow followers are left to a snapshot, in bytes.
    pub log_bytes_per_shard: u64,
    /// A shard that nothing was asked of for so long goes to rest; 0: none ever does.
    pub quiesce_ticks: u32,
    /// Whether leaders answer reads by leases, which rest on clocks. All nodes that do must have the same election timeout
    /// and the same length of a tick; others may be among them.
    pub leases: bool,
    /// Whether any earlier start of this store had leases: it may have promised votes away then.
    pub leased_before: bool,
}

impl EngineConfig {
    /// The defaults for a node; ticks are meant to be 50 ms.
    #[must_use]
    pub fn new(node: NodeId, seed: u64) -> Self {
        Self {
            node,
            seed,
            election_ticks: 10,
            heartbeat_ticks: 2,
            read_ticks: 20,
            append_bytes_max: 1 << 20,
            apply_bytes_max: 1 << 20,
            uncommitted_bytes_max: 32 << 20,
            queued_bytes_max: 32 << 20,
            entry_bytes_target: 1 << 20,
            writes_in_flight_max: 1,
            inflight_messages_max: 256,
            inflight_bytes_max: 16 << 20,
            cache_bytes_per_shard: 4 << 20,
            compact_entries_min: 4096,
            compact_bytes_min: 4 << 20,
            reserve_entries: 1024,
            log_bytes_per_shard: 64 << 20,
            quiesce_ticks: 4,
            leases: false,
            leased_before: false,
        }
    }

    /// How often a node says that it lives: four times in an election timeout, after which it counts as dead.
    pub(crate) fn alive_ticks(&self) -> u32 {
        (self.election_ticks / 4).max(self.heartbeat_ticks)
    }
}

/// Why an input was not taken.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// The node has no replica of the shard. The sender's view is old, or the shard is not created yet.
    #[error("no replica of {0} on this node")]
    NoReplica(ShardId),
    /// The replica refused the message; see the source.
    #[error("{shard}: {error}")]
    Raft {
        /// Whose replica.
        shard: ShardId,
        /// Why.
        error: raft::Error,
    },
    /// A replica of the shard is open already.
    #[error("a replica of {0} is open already")]
    Exists(ShardId),
}

/// See the module. `C` is the caller's completion handle, `L` reads what is no longer in memory.
#[derive(Debug)]
pub struct Engine<C, L: LogReader> {
    config: EngineConfig,
    reader: L,
    cache: Arc<CacheCount>,
    replicas: Vec<Replica<C, L>>,
    /// Membership of the replica opened last: most have the same, and share it.
    conf_state: Arc<ConfState>,
    places: BTreeMap<ShardId, u32>,
    wheel: Wheel,
    dirty: Vec<u32>,
    next_batch: u64,
    /// Read batches by the tick at which their time is over; ascending, since all have the same time.
    reads_due: VecDeque<(u64, u32, u64)>,
    liveness: Liveness,
    /// Change of the liveness table that the sweep over resting replicas is for, and where it has got to.
    sweep: (u64, u32),
    /// Replicas that rest.
    resting: usize,
    campaigns: Campaigns,
    table: survey::Table,
    /// When this node next says that it lives.
    alive_due: u64,
    /// Ticks that may pass at once, as [`Engine::quiet_until`] said last.
    planned: u64,
    out: Output<C>,
}

/// Resting replicas that a tick wakes at most: the elections of a dead node's thousands of shards come in batches that
/// share log writes and frames.
const WAKES_PER_TICK: usize = 1024;
/// Replicas that a tick compares with the liveness table at most.
const CHECKS_PER_TICK: usize = 64 * 1024;

impl<C, L: LogReader + Clone> Engine<C, L> {
    /// An engine without replicas, at tick `now`. The counters may be shared with other engines.
    #[must_use]
    pub fn new(config: EngineConfig, reader: L, cache: Arc<CacheCount>, now: u64) -> Self {
        let window = u64::from(config.election_ticks);
        Self {
            config,
            reader,
            cache,
            replicas: Vec::new(),
            conf_state: Arc::default(),
            places: BTreeMap::new(),
            wheel: Wheel::new(now),
            dirty: Vec::new(),
            next_batch: 1,
            reads_due: VecDeque::new(),
            liveness: Liveness::new(window),
            sweep: (0, u32::MAX),
            resting: 0,
            campaigns: Campaigns::new(),
            table: survey::Table::default(),
            alive_due: now,
            planned: 1,
            out: Output::default(),
        }
    }

    /// Counters of the entry cache.
    #[must_use]
    pub fn cache(&self) -> &CacheCount {
        &self.cache
    }

    /// Makes room for so many more replicas, and no more than that.
    pub fn reserve(&mut self, replicas: usize) {
        self.replicas.reserve_exact(replicas);
    }

    /// Opens a replica that was found on disk.
    ///
    /// # Errors
    /// If it is open already, or what was found contradicts itself.
    pub fn open(&mut self, found: RecoveredReplica) -> Result<(), InputError> {
        let shard = found.descriptor.shard;
        if self.places.contains_key(&shard) {
            return Err(InputError::Exists(shard));
        }
        if *self.conf_state != found.conf_state {
            self.conf_state = Arc::new(found.conf_state.clone());
        }
        let view = LogView::new(
            shard,
            self.reader.clone(),
            Arc::clone(&self.cache),
            Arc::clone(&self.conf_state),
            &found,
        );
        // Different for each replica of a group and each group of a node, so that their timeouts differ.
        let seed =
            self.config.seed ^ shard.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ self.config.node.0;
        let replica = Replica::open(&self.config, seed, self.wheel.now(), found, view)
            .map_err(|error| InputError::Raft { shard, error })?;
        let place = u32::try_from(self.replicas.len()).unwrap_or(u32::MAX);
        self.replicas.push(replica);
        self.places.insert(shard, place);
        self.mark(place);
        Ok(())
    }

    /// Shards of which this engine has a replica, ascending.
    pub fn shards(&self) -> impl Iterator<Item = ShardId> + '_ {
        self.places.keys().copied()
    }

    /// As leader: the tick at which the lease of a shard ends, if it has one.
    #[must_use]
    pub fn lease_end(&self, shard: ShardId) -> Option<u64> {
        let place = *self.places.get(&shard)?;
        self.replicas[place as usize].lease_end()
    }

    /// Where a replica stands.
    #[must_use]
    pub fn status(&self, shard: ShardId) -> Option<ReplicaStatus> {
        let place = *self.places.get(&shard)?;
        Some(self.replicas[place as usize].status(&self.config, &self.liveness))
    }

    /// Where the replicas of the next `limit` shards behind `after` stand, by shard. Costs as much as there are: who asks
    /// for all of them asks in pages.
    #[must_use]
    pub fn census(&self, after: ShardId, limit: usize) -> Vec<ReplicaStatus> {
        let behind = (Bound::Excluded(after), Bound::Unbounded);
        let places = self.places.range(behind).take(limit);
        let replicas = places.map(|(_, &place)| &self.replicas[place as usize]);
        replicas
            .map(|replica| replica.status(&self.config, &self.liveness))
            .collect()
    }

    /// Lets time pass up to tick `now`: whoever has a timer due gets it. Going back is ignored.
    pub fn handle_tick(&mut self, now: u64) {
        let passed = now.saturating_sub(self.wheel.now());
        // What came in since the tick before took longer than a tick: there is more of it than this node can do.
        self.campaigns.refill(passed > self.planned + 1);
        while self.wheel.now() < now {
            let fired = self.wheel.advance();
            let tick = self.wheel.now();
            for &place in &fired {
                let replica = &mut self.replicas[place as usize];
                if replica.armed == tick {
                    replica.armed = 0;
                    // Before the clock moves on: the word that it rests is the last heartbeat.
                    replica.maybe_rest(&self.config, &self.liveness, tick, &mut self.out);
                    replica.catch_up(tick);
                    self.mark(place);
                }
            }
            self.wheel.recycle(fired);
        }
        while let Some(&(due, place, batch)) = self.reads_due.front() {
            if due > now {
                break;
            }
            self.reads_due.pop_front();
            self.replicas[place as usize].expire_reads(batch, &mut self.out);
        }
        if self.config.quiesce_ticks > 0 {
            self.liveness.advance(passed, self.planned);
            self.sweep_resting();
            if now >= self.alive_due {
                self.alive_due = now + u64::from(self.config.alive_ticks());
                self.out.alive = true;
            }
        }
        self.planned = 1;
    }

    /// The tick before which [`Engine::handle_tick`] has nothing to do unless something comes in. More than one tick away
    /// only while all replicas rest, so that a node full of idle shards sleeps from one word to the next.
    pub fn quiet_until(&mut self) -> u64 {
        let now = self.wheel.now();
        let sweeps = self.sweep.0 != self.liveness.changes() || self.sweep.1 != u32::MAX;
        let rests = self.config.quiesce_ticks > 0
            && self.resting == self.replicas.len()
            && self.dirty.is_empty()
            && self.reads_due.is_empty()
            && self.campaigns.is_empty()
            && !sweeps;
        let mut ticks = 1;
        if rests {
            let death = self.liveness.ticks_until_death().unwrap_or(u64::MAX);
            ticks = self.alive_due.saturating_sub(now).min(death).max(1);
        }
        self.planned = ticks;
        now + ticks
    }

    /// Takes another node's word that it lives ([`Output::alive`]). `incarnation` differs at each of its starts.
    pub fn handle_alive(&mut self, node: NodeId, incarnation: u64) {
        self.liveness.heard(node, incarnation);
    }

    /// Replicas that rest: idle, up to date, without a timer.
    #[must_use]
    pub fn resting(&self) -> usize {
        self.resting
    }

    /// Goes on comparing the resting replicas with the liveness table; from the start whenever the table has changed.
    fn sweep_resting(&mut self) {
        if self.sweep.0 != self.liveness.changes() {
            self.sweep = (self.liveness.changes(), 0);
        }
        let (mut woken, mut checked) = (0, 0);
        let now = self.wheel.now();
        let (mut leaders, leaders_max) = (0, self.campaigns.room_for_wakes());
        while woken < WAKES_PER_TICK && leaders < leaders_max && checked < CHECKS_PER_TICK {
            let place = self.sweep.1;
            let Some(replica) = self.replicas.get_mut(place as usize) else {
                self.sweep.1 = u32::MAX;
                return;
            };
            if replica.check_rest(now, &self.liveness) {
                if replica.is_leader() {
                    leaders += 1;
                    self.campaigns.begun();
                }
                self.mark(place);
                woken += 1;
            }
            checked += 1;
            self.sweep.1 += 1;
        }
    }

    /// Takes a message from another node's replica.
    ///
    /// # Errors
    /// If there is no such replica here, or the message breaks the protocol. Nothing has changed then.
    pub fn handle_message(&mut self, shard: ShardId, message: Message) -> Result<(), InputError> {
        let place = self.visit(shard)?;
        self.replicas[place as usize]
            .step(message)
            .map_err(|error| InputError::Raft { shard, error })
    }

    /// Takes the answer of a local thread: the local part of a [`Release`], or the `done` of an [`Apply`].
    pub fn handle_local(&mut self, shard: ShardId, message: Message) {
        if let Ok(place) = self.visit(shard) {
            self.replicas[place as usize].step_local(message, &mut self.out);
        }
    }

    /// Takes news of the state database: what is applied up to these indexes is durable there.
    pub fn handle_flushed(&mut self, flushed: &[(ShardId, Index)]) {
        for &(shard, index) in flushed {
            if let Some(&place) = self.places.get(&shard) {
                self.replicas[place as usize].flushed(&self.config, index, &mut self.out);
                self.touch(place as usize);
            }
        }
    }

    /// The link to a node is broken: appends to it are held back until it is heard from.
    pub fn handle_unreachable(&mut self, node: NodeId) {
        for place in 0..self.replicas.len() {
            // The one walk over all replicas: once per broken link, and only leaders have anything to do.
            if self.replicas[place].is_leader() {
                self.replicas[place].report_unreachable(node);
            }
        }
    }

    /// The outcome of a [`SnapshotSend`].
    pub fn handle_snapshot_sent(&mut self, shard: ShardId, node: NodeId, ok: bool) {
        if let Ok(place) = self.visit(shard) {
            self.replicas[place as usize].report_snapshot(node, ok);
        }
    }

    /// Asks for a write. Answered by an [`Apply`] or a refusal.
    pub fn propose(&mut self, shard: ShardId, proposal: Proposal<C>) {
        match self.visit(shard) {
            Ok(place) => {
                self.replicas[place as usize].propose(&self.config, proposal, &mut self.out);
            }
            Err(_) => {
                let refusal = (proposal.reply, Refused::NoReplica { shard });
                self.out.refusals.push(refusal);
            }
        }
    }

    /// Asks for a linearizable read of the local state, at the leader or at a follower. Answered by a [`ConfirmedRead`]
    /// or a refusal.
    pub fn read(&mut self, shard: ShardId, reply: C) {
        match self.visit(shard) {
            Ok(place) => self.replicas[place as usize].read(reply),
            Err(_) => self
                .out
                .refusals
                .push((reply, Refused::NoReplica { shard })),
        }
    }

    /// So many reads of a shard were answered by its open lease ([`Output::leases`]), without asking here.
    pub fn handle_leased_reads(&mut self, shard: ShardId, reads: u64) {
        if let Ok(place) = self.visit(shard) {
            self.replicas[place as usize].leased_reads(reads);
        }
    }

    /// Hands a shard's leadership to the replica on `node`. Returns whether it was begun.
    pub fn transfer_leader(&mut self, shard: ShardId, node: NodeId) -> bool {
        self.visit(shard)
            .is_ok_and(|place| self.replicas[place as usize].transfer_leader(node))
    }

    /// Hands over all leaderships that someone else can take, each to the follower that is furthest. Returns how many of
    /// these this node still has.
    pub fn drain(&mut self) -> usize {
        let mut leading = 0;
        for place in 0..self.replicas.len() {
            let replica = &mut self.replicas[place];
            if !replica.is_leader() {
                continue;
            }
            replica.catch_up(self.wheel.now());
            if let Some(node) = replica.successor(&self.liveness) {
                leading += 1;
                replica.transfer_leader(node);
            }
            self.mark(u32::try_from(place).unwrap_or(u32::MAX));
        }
        leading
    }

    /// Visits the replicas that something happened to since the last turn and gives all outputs. `now_ms` is the wall
    /// clock that new entries carry.
    pub fn turn(&mut self, now_ms: u64) -> Output<C> {
        self.turn_with(now_ms, |_| {})
    }

    /// As [`Engine::turn`]. `on_proposed` sees each write that has become part of an entry in this turn, for those who
    /// measure how long that took.
    pub fn turn_with(&mut self, now_ms: u64, mut on_proposed: impl FnMut(&mut C)) -> Output<C> {
        loop {
            let mut dirty = std::mem::take(&mut self.dirty);
            for place in dirty.drain(..) {
                self.touch(place as usize);
                let replica = &mut self.replicas[place as usize];
                replica.dirty = false;
                // What happened since the last tick was taken in before the clock was looked at. What leaves now may rest on
                // it: leases, and the promises behind them.
                replica.catch_up(self.wheel.now());
                let asked = replica.turn(
                    &self.config,
                    now_ms,
                    &mut self.next_batch,
                    &mut self.out,
                    &mut on_proposed,
                );
                let now = replica.clock;
                replica.maybe_rest(&self.config, &self.liveness, now, &mut self.out);
                let rests = replica.node.is_quiescent();
                match (replica.rest.counted, rests) {
                    (false, true) => self.resting += 1,
                    (true, false) => self.resting -= 1,
                    _ => {}
                }
                replica.rest.counted = rests;
                if self.config.leases {
                    replica.report_lease(&mut self.out);
                }
                if replica.wants_campaign() && !replica.queued_campaign {
                    replica.queued_campaign = true;
                    // The directory of all others first: nothing is routed without it.
                    self.campaigns.push(place, replica.shard.is_meta());
                }
                let settling = replica.is_settling(&self.config);
                match (replica.counted_settling, settling) {
                    (false, true) => self.campaigns.under_way += 1,
                    (true, false) => self.campaigns.under_way -= 1,
                    _ => {}
                }
                replica.counted_settling = settling;
                if let Some(batch) = asked {
                    let due = self.wheel.now() + u64::from(self.config.read_ticks);
                    self.reads_due.push_back((due, place, batch));
                }
                // Who waits for its turn to campaign needs no timer to tell that it should, again and again: with a million
                // shards in the queue nothing else would get done.
                let waits = replica.queued_campaign && !replica.is_leader();
                if let Some(due) = replica.due().filter(|_| !waits)
                    && (replica.armed == 0 || due < replica.armed)
                {
                    replica.armed = self.wheel.arm(place, due);
                }
            }
            self.dirty = dirty;
            if !self.begin_campaigns() {
                break;
            }
        }
        self.liveness.end_turn();
        std::mem::take(&mut self.out)
    }

    /// Lets those campaign whose turn it is. Returns whether anybody did.
    fn begin_campaigns(&mut self) -> bool {
        let mut any = false;
        while let Some(place) = self.campaigns.pop() {
            let replica = &mut self.replicas[place as usize];
            replica.queued_campaign = false;
            if replica.campaign(self.wheel.now()) {
                self.campaigns.begun();
                any = true;
            }
            self.mark(place);
        }
        any
    }

    fn visit(&mut self, shard: ShardId) -> Result<u32, InputError> {
        let place = *self
            .places
            .get(&shard)
            .ok_or(InputError::NoReplica(shard))?;
        let replica = &mut self.replicas[place as usize];
        replica.catch_up(self.wheel.now());
        replica.vouch(&self.config, &self.liveness);
        self.mark(place);
        Ok(place)
    }

    fn mark(&mut self, place: u32) {
        let replica = &mut self.replicas[place as usize];
        if !replica.dirty {
            replica.dirty = true;
            self.dirty.push(place);
        }
    }
}

/// Whether a message of this kind may come from another node.
#[must_use]
pub fn travels(kind: MessageKind) -> bool {
    use MessageKind as K;
    !matches!(
        kind,
        K::Hup
            | K::Beat
            | K::Unreachable
            | K::SnapStatus
            | K::CheckQuorum
            | K::StorageAppend
            | K::StorageAppendResp
            | K::StorageApply
            | K::StorageApplyResp
            | K::ForgetLeader
    )
}
