//! The storage threads of a node: the log writer, the applier with its flushes, and snapshots on their way. The order in
//! which they do things is that of the node's `storage::writer`, `runtime::applier` and `storage::snapshot`.

use std::collections::btree_map::Entry;
use std::rc::Rc;

use flotilla_shards::engine::{Apply, Refused, SnapshotSend};
use flotilla_shards::ids::ShardId;
use flotilla_shards::raft::{self, EntryId, SnapshotMeta};

use super::{Event, Sim};
use crate::checks::{Checked, Violation};
use crate::disk::log::{LogWrite, Marks};
use crate::node::{Applier, Handle, Input, Job, Phase, Received, Transfer, UnderWay, Unflushed};
use crate::queue::{Micros, SECOND};
use crate::trace::Kind;
use flotilla_shards::service::call::Event as CallEvent;

/// How long a writer with nothing to do waits before it stores what it knows of other stores, as in the node.
const MARKS_INTERVAL: Micros = SECOND;

/// The answers of one round of applying.
type Answers = Vec<(Handle, CallEvent)>;

fn broken(what: String) -> Violation {
    Violation {
        check: "storage",
        what,
    }
}

impl Sim {
    /// How long the disk of a node takes for something.
    fn disk_time(&mut self, at: usize, usual: Micros) -> Micros {
        let mood = self.nodes[at].disk;
        let drawn = usual / 2 + self.rng.u64(..=usual);
        let stall = mood.stalled_until.saturating_sub(self.queue.now());
        drawn * (mood.slow + 1) + stall
    }

    /// Lets the log writer take what has gathered, if it is idle.
    pub(super) fn kick_writer(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let writer = &mut node.writer;
        if writer.under_way.is_some()
            || (writer.appends.is_empty() && writer.compactions.is_empty())
        {
            return;
        }
        let appends = std::mem::take(&mut writer.appends);
        let compactions = std::mem::take(&mut writer.compactions);
        let mut write = LogWrite::new(&appends, &compactions);
        if write.sync {
            let _ = node.known.others.take_changed();
            write = write.with_marks(Marks {
                written: node.known.written + 1,
                others: node.known.others.clone(),
            });
        }
        let mut installs = 0;
        for append in &appends {
            if let Some(snapshot) = &append.snapshot {
                installs += 1;
                node.applier.queue.push_back(Job::Install {
                    shard: append.shard,
                    position: EntryId {
                        term: snapshot.meta.term,
                        index: snapshot.meta.index,
                    },
                });
            }
        }
        writer.under_way = Some(UnderWay {
            appends,
            write,
            installs,
        });
        if installs == 0 {
            self.begin_write(at);
        } else {
            self.kick_applier(at);
        }
    }

    /// What a node knows of the stores of others is made durable, if its writer has had nothing to do for a while.
    pub(super) fn store_marks(&mut self, at: usize) {
        let now = self.queue.now();
        let node = &mut self.nodes[at];
        if node.writer.under_way.is_some()
            || now < node.marks_due
            || !node.known.others.take_changed()
        {
            return;
        }
        let marks = Marks {
            written: node.known.written,
            others: node.known.others.clone(),
        };
        node.writer.under_way = Some(UnderWay {
            appends: Vec::new(),
            write: LogWrite::default().with_marks(marks),
            installs: 0,
        });
        self.begin_write(at);
    }

    fn begin_write(&mut self, at: usize) {
        self.checks.stores.writes(at);
        let sync = (self.nodes[at].writer.under_way.as_ref()).is_some_and(|write| write.write.sync);
        let usual = if sync { self.settings.sync } else { 1 };
        let time = self.disk_time(at, usual);
        let boot = self.nodes[at].boot;
        self.queue.after(time, Event::LogDone(at, boot));
    }

    /// A write of the log has ended: what waited for it is let go.
    pub(super) fn log_done(&mut self, at: usize) -> Checked {
        let node = &mut self.nodes[at];
        if node.disk.fail_sync
            && node
                .writer
                .under_way
                .as_ref()
                .is_some_and(|write| write.write.sync)
        {
            return self.sync_failed(at);
        }
        let Some(UnderWay { appends, write, .. }) = node.writer.under_way.take() else {
            return Ok(());
        };
        let numbers = [at as u64, write.entries as u64, u64::from(write.sync)];
        node.marks_due = self.queue.now() + MARKS_INTERVAL;
        if let Some(written) = write.written() {
            node.known.written = written;
            node.synced += u64::from(!appends.is_empty());
            self.checks.stores.synced(at);
        }
        node.log.0.borrow_mut().complete(write);
        self.note(Kind::Log, numbers, || {
            format!(
                "n{} wrote {} entries, synced: {}",
                at + 1,
                numbers[1],
                numbers[2]
            )
        });
        let (mut messages, mut local) = (Vec::new(), Vec::new());
        for append in appends {
            messages.extend(append.release.messages);
            local.extend(append.release.local);
        }
        self.send(at, messages)?;
        if !local.is_empty() {
            self.input(at, Input::Local(local));
        }
        self.kick_writer(at);
        Ok(())
    }

    /// Lets the applier take what is in its queue, if it is idle.
    pub(super) fn kick_applier(&mut self, at: usize) {
        let applier = &mut self.nodes[at].applier;
        if applier.busy || applier.queue.is_empty() {
            return;
        }
        applier.busy = true;
        let time = self.disk_time(at, self.settings.apply);
        let boot = self.nodes[at].boot;
        self.queue.after(time, Event::ApplyDone(at, boot));
    }

    /// The applier has done what was in its queue.
    pub(super) fn apply_done(&mut self, at: usize) -> Checked {
        self.nodes[at].applier.busy = false;
        let jobs = std::mem::take(&mut self.nodes[at].applier.queue);
        let mut round = Round::default();
        for job in jobs {
            match job {
                Job::Apply(apply) => self.apply(at, apply, &mut round)?,
                Job::Install { shard, position } => {
                    self.write_round(at, &mut round)?;
                    self.install(at, shard, position)?;
                }
            }
        }
        self.write_round(at, &mut round)?;
        self.kick_applier(at);
        Ok(())
    }

    fn apply(&mut self, at: usize, apply: Apply<Handle>, round: &mut Round) -> Checked {
        let Apply {
            shard,
            entries,
            waiters,
            done,
            ..
        } = apply;
        let node = &mut self.nodes[at];
        let Applier {
            machines,
            journal,
            batch,
            ..
        } = &mut node.applier;
        let machine = match machines.entry(shard) {
            Entry::Occupied(machine) => machine.into_mut(),
            Entry::Vacant(slot) => {
                let opened = (journal.open(&node.state, shard))
                    .map_err(|error| broken(format!("node {}: {error}", at + 1)))?;
                slot.insert(opened.ok_or_else(|| {
                    broken(format!("node {}: shard {shard} has no state", at + 1))
                })?)
            }
        };
        round.note(shard);
        let mut waiters = waiters.into_iter().peekable();
        for entry in entries {
            if entry.index <= machine.state().applied_index {
                continue;
            }
            while let Some((_, handles)) = waiters.next_if(|waiter| waiter.0.index < entry.index) {
                round.refuse(handles, &Refused::OutcomeUnknown);
            }
            let mut answers = Vec::new();
            machine
                .apply_entry(&node.state, batch, &entry, &mut answers)
                .map_err(|error| broken(format!("node {}, shard {shard}: {error}", at + 1)))?;
            round.bytes += entry.data.len() as u64 + size_of::<raft::Entry>() as u64;
            self.checks.answers(shard, &entry, &answers)?;
            if let Some((waiting, handles)) =
                waiters.next_if(|waiter| waiter.0.index == entry.index)
            {
                if waiting.term != entry.term {
                    round.refuse(handles, &Refused::Superseded);
                } else if handles.len() == answers.len() {
                    let words = answers.into_iter().map(CallEvent::Written);
                    round.answers.extend(handles.into_iter().zip(words));
                } else {
                    return Err(broken(format!(
                        "node {}, shard {shard}, entry {}: {} wait for {} answers",
                        at + 1,
                        entry.index,
                        handles.len(),
                        answers.len()
                    )));
                }
            }
        }
        for (_, handles) in waiters {
            round.refuse(handles, &Refused::OutcomeUnknown);
        }
        round
            .done
            .extend(done.into_iter().map(|message| (shard, message)));
        Ok(())
    }

    /// Writes what a round changes, then tells everybody who waits for it.
    fn write_round(&mut self, at: usize, round: &mut Round) -> Checked {
        if round.shards.is_empty() {
            return Ok(());
        }
        let round = std::mem::take(round);
        let now = self.queue.now();
        let node = &mut self.nodes[at];
        let Applier {
            machines,
            journal,
            batch,
            unflushed,
            ..
        } = &mut node.applier;
        let count = round.shards.len();
        let mut applied = Vec::with_capacity(count);
        for shard in round.shards {
            if let Some(machine) = machines.get_mut(&shard) {
                journal.finish(machine, count, batch);
                let index = machine.state().applied_index;
                unflushed.applied.insert(shard, index);
                applied.push((shard, index));
            }
        }
        journal.end_round(batch);
        unflushed.bytes += round.bytes;
        let first = unflushed.since.is_none();
        unflushed.since.get_or_insert(now);
        node.state.write(batch, applied.clone());
        batch.clear();
        if self.rng.u64(..self.settings.close) == 0 {
            machines.clear();
        }
        let full = node.applier.unflushed.bytes >= self.settings.flush_bytes / 2;
        let boot = node.boot;
        if first {
            self.queue
                .after(self.settings.flush_age, Event::FlushAge(at, boot));
        }
        for &(shard, index) in &applied {
            self.note(Kind::Apply, [at as u64, shard.0, index.0], || {
                format!("n{} shard {shard} has applied {index}", at + 1)
            });
            self.checks.state(&self.nodes[at], shard, index)?;
        }
        for (handle, word) in round.answers {
            self.checks.answered(at, handle)?;
            self.resume_call(at, handle, word)?;
        }
        if !round.done.is_empty() {
            self.input(at, Input::Local(round.done));
        }
        if self.nodes[at].applier.journal.is_full() {
            self.checkpoint(at)?;
        }
        if full {
            self.begin_flush(at)?;
        }
        Ok(())
    }

    /// Writes the state rows of all shards that are further than these.
    fn checkpoint(&mut self, at: usize) -> Checked {
        let node = &mut self.nodes[at];
        let written = node.state.checkpoint(&mut node.applier.journal);
        written.map_err(|error| broken(format!("node {}: {error}", at + 1)))
    }

    fn install(&mut self, at: usize, shard: ShardId, position: EntryId) -> Checked {
        let node = &mut self.nodes[at];
        let kept = node.received.get(&shard);
        let found = kept.and_then(|kept| kept.iter().find(|known| known.position == position));
        let here = node.state.position(shard);
        if here != Some(position) {
            let Some(rows) = found.map(|found| Rc::clone(&found.rows)) else {
                return Err(broken(format!(
                    "node {}, shard {shard}: the snapshot at {position:?} is to be installed and is not there",
                    at + 1
                )));
            };
            node.state.install(shard, &rows);
        }
        if let Some(kept) = node.received.get_mut(&shard) {
            kept.retain(|known| known.position.index > position.index);
        }
        node.applier.machines.remove(&shard);
        self.report.snapshots += 1;
        self.checks.applied.installed(at, shard, position.index);
        self.note(
            Kind::Snapshot,
            [at as u64, shard.0, position.index.0],
            || format!("n{} shard {shard} installed {position:?}", at + 1),
        );
        self.checks.state(&self.nodes[at], shard, position.index)?;
        let under_way = self.nodes[at].writer.under_way.as_mut();
        if let Some(write) = under_way {
            write.installs -= 1;
            if write.installs == 0 {
                self.begin_write(at);
            }
        }
        Ok(())
    }

    /// The oldest unflushed change has reached its age.
    pub(super) fn flush_age(&mut self, at: usize) -> Checked {
        self.begin_flush(at)
    }

    fn begin_flush(&mut self, at: usize) -> Checked {
        let applier = &self.nodes[at].applier;
        if applier.flushing.is_some() || applier.unflushed.since.is_none() {
            return Ok(());
        }
        self.checkpoint(at)?;
        let node = &mut self.nodes[at];
        let flushed = std::mem::take(&mut node.applier.unflushed);
        node.applier.flushing = Some((node.state.written(), flushed));
        let time = self.disk_time(at, self.settings.flush);
        let boot = self.nodes[at].boot;
        self.queue.after(time, Event::FlushDone(at, boot));
        Ok(())
    }

    /// A flush has ended: the engine may cut logs.
    pub(super) fn flush_done(&mut self, at: usize) -> Checked {
        let node = &mut self.nodes[at];
        let Some((upto, Unflushed { applied, .. })) = node.applier.flushing.take() else {
            return Ok(());
        };
        node.state.flush(upto);
        self.note(Kind::Flush, [at as u64, upto, 0], || {
            format!("n{} flushed up to batch {upto}", at + 1)
        });
        self.input(at, Input::Flushed(applied.into_iter().collect()));
        let unflushed = &self.nodes[at].applier.unflushed;
        let age = self.queue.now() - unflushed.since.unwrap_or(self.queue.now());
        if unflushed.bytes >= self.settings.flush_bytes / 2 || age >= self.settings.flush_age {
            self.begin_flush(at)?;
        }
        Ok(())
    }

    /// A snapshot's turn to be sent has come: it is as new as can be.
    pub(super) fn snapshot_open(&mut self, (at, boot, send): (usize, u32, SnapshotSend)) {
        if self.nodes[at].boot != boot || !self.nodes[at].is_running() {
            return;
        }
        let SnapshotSend {
            node,
            shard,
            mut message,
        } = send;
        let Some((state, rows)) = self.nodes[at].state.export(shard) else {
            self.input(
                at,
                Input::SnapshotSent {
                    shard,
                    node,
                    ok: false,
                },
            );
            return;
        };
        let meta = SnapshotMeta {
            index: state.applied_index,
            term: state.applied_term,
            conf_state: state.conf_state,
        };
        if let Some(snapshot) = &mut message.snapshot {
            snapshot.meta = meta.clone();
        }
        let time = self.network.latency(&mut self.rng) + rows.len() as u64;
        let transfer = Transfer {
            from: at,
            from_boot: boot,
            to: (node.0 - 1) as usize,
            shard,
            message,
            meta,
            rows: Rc::new(rows),
        };
        self.queue
            .after(time, Event::SnapshotArrives(Box::new(transfer)));
    }

    /// A snapshot has come whole, or its stream broke.
    pub(super) fn snapshot_arrives(&mut self, transfer: Transfer) {
        let (from, to, shard) = (transfer.from, transfer.to, transfer.shard);
        if self.nodes[to].phase == Phase::Paused {
            self.backlog[to].push(Event::SnapshotArrives(Box::new(transfer)));
            return;
        }
        let broken = self.network.is_cut(from, to)
            || self.network.is_cut(to, from)
            || self.nodes[to].phase != Phase::Up;
        if !broken {
            let position = EntryId {
                term: transfer.meta.term,
                index: transfer.meta.index,
            };
            self.note(Kind::Snapshot, [from as u64, to as u64, shard.0], || {
                format!("n{} -> n{} shard {shard} at {position:?}", from + 1, to + 1)
            });
            let rows = transfer.rows;
            self.nodes[to].receive(shard, Received { position, rows });
            self.input(to, Input::Peer(vec![(shard, transfer.message)]));
        }
        if self.nodes[from].boot == transfer.from_boot {
            let node = self.nodes[to].id;
            self.input(
                from,
                Input::SnapshotSent {
                    shard,
                    node,
                    ok: !broken,
                },
            );
        }
    }
}

/// What is going to be written as one, and what waits for it.
#[derive(Default)]
struct Round {
    shards: Vec<ShardId>,
    answers: Answers,
    done: Vec<(ShardId, raft::Message)>,
    bytes: u64,
}

impl Round {
    fn note(&mut self, shard: ShardId) {
        if !self.shards.contains(&shard) {
            self.shards.push(shard);
        }
    }

    fn refuse(&mut self, handles: Vec<Handle>, why: &Refused) {
        let words = handles
            .into_iter()
            .map(|handle| (handle, CallEvent::Refused(why.clone())));
        self.answers.extend(words);
    }
}
