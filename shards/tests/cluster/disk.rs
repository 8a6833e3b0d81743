//! The disk of one replica: what a crash leaves, and what has been written on top of it and not synced.

use fastrand::Rng;
use flotilla_shards::raft::{
    ConfState, Entry, EntryId, HardState, Index, MemoryStorage, Message, Snapshot, SnapshotMeta,
    Storage, StorageError, Term,
};
use std::cell::{Ref, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

/// A state machine that remembers the order of all that it applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Machine {
    pub(crate) at: EntryId,
    /// Hash over all entries applied.
    pub(crate) digest: u64,
    pub(crate) conf_state: ConfState,
}

impl Machine {
    pub(crate) fn snapshot(&self) -> Snapshot {
        let meta = SnapshotMeta {
            index: self.at.index,
            term: self.at.term,
            conf_state: self.conf_state.clone(),
        };
        Snapshot {
            meta,
            data: self.digest.to_be_bytes().to_vec().into(),
        }
    }

    pub(crate) fn from_snapshot(snapshot: &Snapshot) -> Self {
        let digest = snapshot
            .data
            .as_ref()
            .try_into()
            .expect("written by `snapshot`");
        let meta = &snapshot.meta;
        Self {
            at: EntryId {
                term: meta.term,
                index: meta.index,
            },
            digest: u64::from_be_bytes(digest),
            conf_state: meta.conf_state.clone(),
        }
    }
}

/// One write, as a group asks for it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Write {
    pub(crate) hard_state: HardState,
    pub(crate) entries: Vec<Entry>,
    pub(crate) snapshot: Option<Box<Snapshot>>,
    /// To be sent when the write is synced.
    pub(crate) responses: Vec<Message>,
}

impl Write {
    pub(crate) fn new(message: Message) -> Self {
        Self {
            hard_state: HardState {
                term: message.term,
                vote: message.vote,
                commit: message.commit,
            },
            entries: message.entries,
            snapshot: message.snapshot,
            responses: message.responses,
        }
    }

    fn put(&self, log: &mut MemoryStorage) {
        if let Some(snapshot) = &self.snapshot {
            log.apply_snapshot(Snapshot::clone(snapshot))
                .expect("snapshots only get newer");
        }
        log.append(&self.entries).expect("no holes");
        if !self.hard_state.is_empty() {
            log.set_hard_state(self.hard_state);
        }
    }
}

/// What a group reads.
#[derive(Clone, Debug)]
pub(crate) struct View(Rc<RefCell<Visible>>);

#[derive(Debug)]
struct Visible {
    log: MemoryStorage,
    /// The membership of the applied state at the last start.
    conf_state: ConfState,
    snapshot: Result<Snapshot, StorageError>,
}

impl View {
    fn log(&self) -> Ref<'_, MemoryStorage> {
        Ref::map(self.0.borrow(), |visible| &visible.log)
    }

    /// What a follower gets that needs a snapshot.
    pub(crate) fn set_snapshot(&self, snapshot: Result<Snapshot, StorageError>) {
        self.0.borrow_mut().snapshot = snapshot;
    }
}

impl Storage for View {
    fn initial_state(&self) -> Result<(HardState, ConfState), StorageError> {
        Ok((self.log().hard_state(), self.0.borrow().conf_state.clone()))
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
        self.0.borrow().snapshot.clone()
    }
}

pub(crate) struct Disk {
    view: View,
    /// What a crash leaves of the log.
    synced: MemoryStorage,
    /// Written since, in order; readable, and lost in a crash.
    unsynced: VecDeque<Write>,
    /// What a crash leaves of the state machine.
    pub(crate) flushed: Machine,
}

impl Disk {
    /// The disk of a replica that starts with this state.
    pub(crate) fn new(machine: Machine) -> Self {
        let mut synced = MemoryStorage::new();
        if machine.at.index > Index(0) {
            synced
                .apply_snapshot(machine.snapshot())
                .expect("the storage is empty");
        }
        let view = View(Rc::new(RefCell::new(Visible {
            log: synced.clone(),
            conf_state: machine.conf_state.clone(),
            snapshot: Ok(machine.snapshot()),
        })));
        Self {
            view,
            synced,
            unsynced: VecDeque::new(),
            flushed: machine,
        }
    }

    pub(crate) fn view(&self) -> View {
        self.view.clone()
    }

    pub(crate) fn hard_state(&self) -> HardState {
        self.synced.hard_state()
    }

    /// Whether a crash leaves that entry, or a state that includes it.
    pub(crate) fn has_synced(&self, id: EntryId) -> bool {
        id.index < self.synced.first_index() || self.synced.term(id.index) == Ok(id.term)
    }

    pub(crate) fn last_synced(&self) -> Index {
        self.synced.last_index()
    }

    pub(crate) fn has_unsynced(&self) -> bool {
        !self.unsynced.is_empty()
    }

    /// Writes without syncing.
    pub(crate) fn write(&mut self, write: Write) {
        write.put(&mut self.view.0.borrow_mut().log);
        self.unsynced.push_back(write);
    }

    /// Makes the oldest write durable, with the state of the machine if it brings one. Writes are synced in order.
    pub(crate) fn sync_one(&mut self) -> Option<Write> {
        let write = self.unsynced.pop_front()?;
        write.put(&mut self.synced);
        if let Some(snapshot) = &write.snapshot {
            self.flushed = Machine::from_snapshot(snapshot);
        }
        Some(write)
    }

    /// Drops the log up to `index`, which must be in the flushed state.
    pub(crate) fn compact(&mut self, index: Index) {
        assert!(
            index <= self.flushed.at.index,
            "what is not flushed is needed after a crash"
        );
        if self.unsynced.iter().all(|write| write.snapshot.is_none()) {
            self.synced.compact(index).expect("flushed, so in the log");
            self.view
                .0
                .borrow_mut()
                .log
                .compact(index)
                .expect("flushed, so in the log");
        }
    }

    pub(crate) fn first_index(&self) -> Index {
        self.synced.first_index()
    }

    /// What is there after a crash: of the writes that were under way, and of those `queued` behind, the first so
    /// many, and perhaps a part of the next.
    pub(crate) fn crash(
        &mut self,
        queued: impl IntoIterator<Item = Write>,
        torn: bool,
        rng: &mut Rng,
    ) {
        self.unsynced.extend(queued);
        for _ in 0..rng.usize(..=self.unsynced.len()) {
            self.sync_one();
        }
        if let Some(next) = self
            .unsynced
            .pop_front()
            .filter(|next| torn && next.snapshot.is_none())
        {
            // Records of one write reach the disk in order: the entries, then the hard state that speaks about them.
            self.synced
                .append(&next.entries[..rng.usize(..=next.entries.len())])
                .expect("no holes");
        }
        self.unsynced.clear();
        // The group died with its view; the next one reads what is left.
        let mut log = self.synced.clone();
        let mut hard_state = log.hard_state();
        // What is applied was committed, whether or not that was written down.
        hard_state.commit = hard_state.commit.max(self.flushed.at.index);
        log.set_hard_state(hard_state);
        self.view = View(Rc::new(RefCell::new(Visible {
            log,
            conf_state: self.flushed.conf_state.clone(),
            snapshot: Ok(self.flushed.snapshot()),
        })));
    }
}
