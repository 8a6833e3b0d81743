//! One node: the group under test, its storage, and the queues of its storage threads.

use super::{Env, Outcome, Stop, fail};
use crate::datadriven::{Case, broken};
use flotilla_shards::raft::config::{Config, ReadOnlyOption};
use flotilla_shards::raft::size::NO_LIMIT;
use flotilla_shards::raft::storage::{MemoryStorage, Storage, StorageError};
use flotilla_shards::raft::{
    ConfState, Entry, HardState, Index, Message, RawNode, ReplicaId, Snapshot, SnapshotMeta, Term,
};
use std::cell::{Ref, RefCell, RefMut};
use std::collections::VecDeque;
use std::rc::Rc;

pub(super) struct Node {
    pub(super) raw: RawNode<NodeStorage>,
    pub(super) config: Config,
    pub(super) storage: NodeStorage,
    pub(super) append_work: VecDeque<Message>,
    pub(super) apply_work: VecDeque<Message>,
}

/// The stable storage of a node, shared between the group, which reads it, and the environment, which writes it.
#[derive(Clone, Default)]
pub(super) struct NodeStorage {
    log: Rc<RefCell<MemoryStorage>>,
    history: Rc<RefCell<Vec<Snapshot>>>,
    /// The membership to start from; that of the log's snapshot if absent.
    start: Rc<RefCell<Option<ConfState>>>,
}

impl NodeStorage {
    pub(super) fn log(&self) -> Ref<'_, MemoryStorage> {
        self.log.borrow()
    }

    pub(super) fn log_mut(&self) -> RefMut<'_, MemoryStorage> {
        self.log.borrow_mut()
    }

    /// The applied state.
    pub(super) fn latest_snapshot(&self) -> Snapshot {
        self.history
            .borrow()
            .last()
            .cloned()
            .expect("a node starts with a snapshot")
    }

    /// Sets the membership that the next start begins with.
    pub(super) fn start_from(&self, conf_state: ConfState) {
        *self.start.borrow_mut() = Some(conf_state);
    }

    pub(super) fn push_snapshot(&self, snapshot: Snapshot) {
        self.history.borrow_mut().push(snapshot);
    }
}

impl Storage for NodeStorage {
    fn initial_state(&self) -> Result<(HardState, ConfState), StorageError> {
        let (hard_state, conf_state) = self.log().initial_state()?;
        Ok((
            hard_state,
            self.start.borrow().clone().unwrap_or(conf_state),
        ))
    }

    fn entries(&self, low: Index, high: Index, max_size: u64) -> Result<Vec<Entry>, StorageError> {
        self.log().entries(low, high, max_size)
    }

    fn term(&self, index: Index) -> Result<Term, StorageError> {
        self.log().term(index)
    }

    fn first_index(&self) -> Index {
        self.log().first_index()
    }

    fn last_index(&self) -> Index {
        self.log().last_index()
    }

    fn snapshot(&self) -> Result<Snapshot, StorageError> {
        Ok(self.latest_snapshot())
    }
}

impl Env {
    pub(super) fn add_nodes(&mut self, case: &Case) -> Outcome {
        let Some((count, options)) = case.args.split_first() else {
            return broken("expected a number of nodes").map_err(Stop::Broken);
        };
        let count: usize = count.id()?;
        let mut bootstrap = None;
        let mut config = Config {
            election_ticks: 3,
            heartbeat_ticks: 1,
            max_size_per_msg: NO_LIMIT,
            max_inflight_msgs: (1 << 31) - 1,
            ..Config::default()
        };
        let ids = |values: Vec<u64>| values.into_iter().map(ReplicaId).collect();
        for arg in options {
            let meta = || SnapshotMeta {
                term: Term(1),
                ..SnapshotMeta::default()
            };
            match arg.key.as_str() {
                "voters" => {
                    bootstrap.get_or_insert_with(meta).conf_state.voters = ids(arg.values()?)
                }
                "learners" => {
                    bootstrap.get_or_insert_with(meta).conf_state.learners = ids(arg.values()?)
                }
                "index" => {
                    config.applied = Index(arg.value()?);
                    bootstrap.get_or_insert_with(meta).index = config.applied;
                }
                "inflight" => config.max_inflight_msgs = arg.value()?,
                "async-storage-writes" => config.async_storage_writes = arg.flag()?,
                "prevote" => config.pre_vote = arg.flag()?,
                "liveness-fixes" => config.liveness_fixes = arg.flag()?,
                "checkquorum" => config.check_quorum = arg.flag()?,
                "max-committed-size-per-ready" => {
                    config.max_committed_size_per_ready = arg.value()?
                }
                "disable-conf-change-validation" => {
                    config.disable_conf_change_validation = arg.flag()?
                }
                "step-down-on-removal" => config.step_down_on_removal = arg.flag()?,
                "read-only" => {
                    config.read_only = match arg.value::<String>()?.as_str() {
                        "safe" => ReadOnlyOption::Safe,
                        "lease-based" => ReadOnlyOption::LeaseBased,
                        other => return fail(format!("invalid read-only option {other:?}")),
                    }
                }
                // Of our own
                "election-tick" => config.election_ticks = arg.value()?,
                "heartbeat-tick" => config.heartbeat_ticks = arg.value()?,
                "max-clock-drift-permille" => config.max_clock_drift_permille = arg.value()?,
                "manual-elections" => config.manual_elections = arg.flag()?,
                "manual-heartbeats" => config.manual_heartbeats = arg.flag()?,
                _ => {}
            }
        }
        for _ in 0..count {
            let storage = NodeStorage::default();
            storage.push_snapshot(Snapshot {
                meta: bootstrap.clone().unwrap_or_default(),
                ..Snapshot::default()
            });
            if let Some(meta) = &bootstrap {
                if meta.index <= Index(1) {
                    return fail("index must be specified as > 1 due to bootstrap");
                }
                storage
                    .log_mut()
                    .apply_snapshot(storage.latest_snapshot())?;
            }
            config.id = ReplicaId(self.nodes.len() as u64 + 1);
            config.seed = config.id.0;
            self.nodes.push(Node {
                raw: RawNode::new(&config, storage.clone())?,
                config: config.clone(),
                storage,
                append_work: VecDeque::new(),
                apply_work: VecDeque::new(),
            });
        }
        Ok(())
    }
}
