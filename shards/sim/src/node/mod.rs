//! One simulated node: the engine that a real node runs, and around it what the node's threads do, as events.
//!
//! | here | in the node |
//! |---|---|
//! | [`Engine`], state machines, recovery, range map; requests, routes, tries (`service`) | the same code |
//! | `inbox`, and turns that take all of it | `runtime::worker` |
//! | `leases`, by which calls read without asking | `runtime::leases` |
//! | [`Writer`]: gathers appends, one write and one sync, then lets go what waited | `storage::writer` |
//! | [`Applier`]: rounds, one batch, flushes, installations in order with entries | `runtime::applier` |
//! | [`NodeCall`] and [`router::Router`]: what carries out the decisions about a request | `server::call`, `router` |
//! | frames and snapshots (`sim`) | `transport` |
//! | [`Known`], and who is let in by it, by the rules of `lineage` | `marks`, `transport::handshake`, `node::neighbours` |

pub(crate) mod router;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flotilla_proto::v1::Command;
use flotilla_shards::engine::{Apply, Compaction, Engine, LogAppend};
use flotilla_shards::genesis::{self, GENESIS_INDEX, GENESIS_TERM, Genesis};
use flotilla_shards::ids::{NodeId, ShardId};
use flotilla_shards::kv::{Journal, StateBatch, StateMachine};
use flotilla_shards::lineage::{Acquaintances, Lineage};
use flotilla_shards::raft::{EntryId, Index, Message, SnapshotMeta};
use flotilla_shards::range_map::RangeMap;
use flotilla_shards::service::call::Call;

use crate::clock::Clock;
use crate::disk::log::{LogDisk, LogWrite, SharedLog};
use crate::disk::state::StateDisk;
use crate::queue::Micros;
use crate::rpc::Party;
use router::Router;

/// Received snapshots of a shard that are kept, as in the node's storage.
const KEPT: usize = 16;

/// Names a call of this start of the node: the engine's completion handle.
pub(crate) type Handle = u64;

/// The engine as the simulator runs it.
pub(crate) type SimEngine = Engine<Handle, SharedLog>;

/// What an engine is told in its next turn.
#[derive(Debug)]
pub(crate) enum Input {
    Propose {
        shard: ShardId,
        command: Command,
        bytes: usize,
        handle: Handle,
    },
    Read(ShardId, Handle),
    Peer(Vec<(ShardId, Message)>),
    Alive(NodeId, u64),
    Local(Vec<(ShardId, Message)>),
    Flushed(Vec<(ShardId, Index)>),
    Unreachable(NodeId),
    SnapshotSent {
        shard: ShardId,
        node: NodeId,
        ok: bool,
    },
    Transfer(ShardId, NodeId),
    Drain,
}

/// Whether a node takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It runs.
    Up,
    /// Its process stands still: what comes in waits.
    Paused,
    /// It does not run, and will be started again.
    Down,
    /// It does not run and can't be started from its disk, or was replaced by another store: its replicas are lost.
    Lost,
}

/// The thread that writes the log.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    pub(crate) appends: Vec<LogAppend>,
    pub(crate) compactions: Vec<Compaction>,
    pub(crate) under_way: Option<UnderWay>,
}

/// A write of the log that is not done.
#[derive(Debug)]
pub(crate) struct UnderWay {
    pub(crate) appends: Vec<LogAppend>,
    pub(crate) write: LogWrite,
    /// Snapshots that must be in the state first.
    pub(crate) installs: usize,
}

/// What a store is known by, in a process that runs from it.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// The starts of this store, the present one last.
    pub(crate) starts: Rc<Lineage>,
    /// Its synced writes.
    pub(crate) written: u64,
    /// How far those of other nodes were seen.
    pub(crate) others: Acquaintances,
}

/// What the applier is asked to do.
#[derive(Debug)]
pub(crate) enum Job {
    Apply(Apply<Handle>),
    Install { shard: ShardId, position: EntryId },
}

/// The thread that writes the state.
#[derive(Debug, Default)]
pub(crate) struct Applier {
    pub(crate) queue: VecDeque<Job>,
    pub(crate) busy: bool,
    pub(crate) machines: BTreeMap<ShardId, StateMachine>,
    pub(crate) journal: Journal,
    pub(crate) batch: StateBatch,
    pub(crate) unflushed: Unflushed,
    /// The flush under way: up to which batch, and what it brings durably.
    pub(crate) flushing: Option<(u64, Unflushed)>,
}

/// What a crash would lose from the state.
#[derive(Debug, Default)]
pub(crate) struct Unflushed {
    pub(crate) bytes: u64,
    pub(crate) since: Option<Micros>,
    pub(crate) applied: BTreeMap<ShardId, Index>,
}

/// A snapshot that was received whole.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) position: EntryId,
    pub(crate) rows: Rc<Vec<(Bytes, Bytes)>>,
}

/// A snapshot on its way.
#[derive(Debug)]
pub(crate) struct Transfer {
    pub(crate) from: usize,
    pub(crate) from_boot: u32,
    pub(crate) to: usize,
    pub(crate) shard: ShardId,
    pub(crate) message: Message,
    pub(crate) meta: SnapshotMeta,
    pub(crate) rows: Rc<Vec<(Bytes, Bytes)>>,
}

/// What the disk does at the moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DiskMood {
    /// Times that it is slower than usual, less one.
    pub(crate) slow: u64,
    pub(crate) stalled_until: Micros,
    pub(crate) full: bool,
    pub(crate) fail_sync: bool,
}

/// A request that a node works on.
#[derive(Debug)]
pub(crate) struct NodeCall {
    /// Whom the answer goes to, and by which name.
    pub(crate) from: Party,
    pub(crate) id: u64,
    pub(crate) call: Call<Duration>,
    /// It waits to be started again.
    pub(crate) held: bool,
}

/// See the module.
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) phase: Phase,
    /// Counts the starts.
    pub(crate) boot: u32,
    pub(crate) engine: Option<SimEngine>,
    pub(crate) inbox: Vec<Input>,
    pub(crate) turn_due: bool,
    pub(crate) clock: Clock,
    /// What the monotonic clock said at the start, which ticks are counted from.
    pub(crate) started: Micros,
    pub(crate) tick: u64,
    /// Tells a scheduled tick from one that a change of the clock has overtaken.
    pub(crate) tick_generation: u64,
    /// For which tick the worker sleeps, if nothing comes in.
    pub(crate) tick_due: u64,
    pub(crate) log: SharedLog,
    pub(crate) state: StateDisk,
    pub(crate) received: BTreeMap<ShardId, Vec<Received>>,
    pub(crate) disk: DiskMood,
    pub(crate) known: Known,
    /// When the writer, if it has nothing else to do, stores what it knows of other stores.
    pub(crate) marks_due: Micros,
    /// Whether its store was ever used with leases.
    pub(crate) leased: bool,
    /// Synced writes of its log, as the checks count them.
    pub(crate) synced: u64,
    /// An older image of log and state, with the count of then.
    pub(crate) image: Option<(LogDisk, StateDisk, u64)>,
    /// Whether its disk was put back to that.
    pub(crate) went_back: bool,
    pub(crate) writer: Writer,
    pub(crate) applier: Applier,
    pub(crate) router: Router,
    pub(crate) calls: BTreeMap<Handle, NodeCall>,
    pub(crate) next_call: Handle,
    /// The first tick at which the open lease of a shard is over, as its engine has said.
    pub(crate) leases: BTreeMap<ShardId, u64>,
    /// Reads that open leases have answered and the engine has not heard of.
    pub(crate) leased_reads: BTreeMap<ShardId, u64>,
    /// Calls that wait for a leader.
    pub(crate) waiting: BTreeMap<ShardId, BTreeSet<Handle>>,
}

impl Node {
    /// A node of a new cluster, not started yet.
    pub(crate) fn born(id: NodeId, genesis: &Genesis, map: &Arc<RangeMap>) -> Self {
        let shards = genesis.shards_on(id).map(|descriptor| descriptor.shard);
        let position = EntryId {
            index: GENESIS_INDEX,
            term: GENESIS_TERM,
        };
        let log = LogDisk::born(shards, position, genesis::hard_state());
        Self {
            id,
            phase: Phase::Down,
            boot: 0,
            engine: None,
            inbox: Vec::new(),
            turn_due: false,
            clock: Clock::new(),
            started: 0,
            tick: 0,
            tick_generation: 0,
            tick_due: 0,
            log: SharedLog(Rc::new(RefCell::new(log))),
            state: StateDisk::born(Arc::clone(map), genesis.rows(id)),
            received: BTreeMap::new(),
            disk: DiskMood::default(),
            known: Known::default(),
            marks_due: 0,
            leased: false,
            synced: 0,
            image: None,
            went_back: false,
            writer: Writer::default(),
            applier: Applier::default(),
            router: Router::new(id, Arc::clone(map)),
            calls: BTreeMap::new(),
            next_call: 1,
            leases: BTreeMap::new(),
            leased_reads: BTreeMap::new(),
            waiting: BTreeMap::new(),
        }
    }

    /// The tick that its clock is at.
    pub(crate) fn tick_at(&self, now: Micros, length: Micros) -> u64 {
        (self.clock.monotonic(now) - self.started) / length
    }

    /// Whether it runs, paused or not.
    pub(crate) fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Up | Phase::Paused)
    }

    /// Forgets all that a process has in memory.
    pub(crate) fn forget(&mut self, map: &Arc<RangeMap>) {
        self.engine = None;
        self.inbox.clear();
        self.turn_due = false;
        self.received.clear();
        self.known = Known::default();
        self.writer = Writer::default();
        self.applier = Applier::default();
        self.router = Router::new(self.id, Arc::clone(map));
        self.calls.clear();
        self.leases.clear();
        self.leased_reads.clear();
        self.waiting.clear();
    }

    /// Keeps a received snapshot, and some before it.
    pub(crate) fn receive(&mut self, shard: ShardId, received: Received) {
        let kept = self.received.entry(shard).or_default();
        kept.retain(|known| known.position != received.position);
        kept.push(received);
        kept.sort_by_key(|known| std::cmp::Reverse(known.position.index));
        kept.truncate(KEPT);
    }
}
