//! The run of one seed: a storm, then calm weather in which the group has to recover.

mod healing;

use crate::checks::Checks;
use crate::disk::{Machine, Write};
use crate::network::Network;
use crate::replica::Replica;
use crate::settings::Settings;
use crate::trace::Trace;
use fastrand::Rng;
use flotilla_shards::raft::confchange::{
    ConfChange, ConfChangeAny, ConfChangeKind, ConfChangeSingle, ConfChangeTransition, ConfChangeV2,
};
use flotilla_shards::raft::{
    ConfState, EntryId, Error, Index, Message, RawNode, ReadOnlyOption, ReplicaId, Role,
    StorageError, Term,
};

/// How often things happened, over all seeds of a test.
#[derive(Clone, Debug, Default)]
pub(crate) struct Coverage {
    elections: u64,
    commits: u64,
    crashes: u64,
    conf_changes: u64,
    joint: u64,
    snapshots: u64,
    compactions: u64,
    reads: u64,
    leases: u64,
    quiesced: u64,
    dropped_proposals: u64,
}

impl Coverage {
    pub(crate) fn add(&mut self, other: &Self) {
        self.elections += other.elections;
        self.commits += other.commits;
        self.crashes += other.crashes;
        self.conf_changes += other.conf_changes;
        self.joint += other.joint;
        self.snapshots += other.snapshots;
        self.compactions += other.compactions;
        self.reads += other.reads;
        self.leases += other.leases;
        self.quiesced += other.quiesced;
        self.dropped_proposals += other.dropped_proposals;
    }

    pub(crate) fn assert_complete(&self) {
        let Self {
            elections,
            commits,
            crashes,
            conf_changes,
            joint,
            snapshots,
            compactions,
            reads,
            leases,
            quiesced,
            dropped_proposals,
        } = *self;
        for count in [
            elections,
            commits,
            crashes,
            conf_changes,
            joint,
            snapshots,
            compactions,
            reads,
            leases,
            quiesced,
        ] {
            assert!(count > 50, "too little happened: {self:?}");
        }
        assert!(dropped_proposals > 0, "too little happened: {self:?}");
    }
}

pub(crate) struct Sim {
    rng: Rng,
    settings: Settings,
    replicas: Vec<Replica>,
    network: Network,
    checks: Checks,
    trace: Trace,
    coverage: Coverage,
    /// Numbers proposals and reads.
    unique: u64,
}

/// What may happen next, with how often it does relative to the others.
#[derive(Clone, Copy, Debug)]
enum Action {
    Deliver,
    Ready,
    Write,
    Sync,
    Apply,
    Inbox,
    Time,
    Propose,
    Read,
    ConfChange,
    Transfer,
    Campaign,
    Report,
    Forget,
    Quiesce,
    Wake,
    Crash,
    Restart,
    Partition,
    Heal,
    Flush,
    Compact,
    Snapshots,
}

impl Sim {
    pub(crate) fn new(seed: u64, mut trace: Trace) -> Self {
        let mut rng = Rng::with_seed(seed);
        let settings = Settings::new(&mut rng);
        trace.line(format_args!("seed {seed}: {settings:?}"));
        let ids = |from: u64, count: u64| (from..from + count).map(ReplicaId).collect();
        let conf_state = ConfState {
            voters: ids(1, settings.voters),
            learners: ids(1 + settings.voters, settings.learners),
            ..ConfState::default()
        };
        let base = EntryId {
            term: Term(1),
            index: Index(1),
        };
        let start = Machine {
            at: base,
            digest: 0,
            conf_state,
        };
        let member = |id: u64| id <= settings.voters + settings.learners;
        let mut replicas: Vec<_> = (1..=settings.replicas)
            .map(|id| {
                Replica::new(
                    ReplicaId(id),
                    if member(id) {
                        start.clone()
                    } else {
                        Machine::default()
                    },
                )
            })
            .collect();
        replicas
            .iter_mut()
            .for_each(|replica| replica.launch(&settings, &mut rng));
        Self {
            rng,
            settings,
            replicas,
            network: Network::default(),
            checks: Checks::new(base.index),
            trace,
            coverage: Coverage::default(),
            unique: 0,
        }
    }

    /// Returns the hash of all that happened.
    pub(crate) fn run(mut self) -> (u64, Coverage) {
        for _ in 0..self.settings.steps {
            let action = self.choose();
            self.act(action);
        }
        self.trace.line(format_args!("calm"));
        self.recover();
        self.coverage.commits += self.checks.committed().0 - 1;
        self.coverage.elections += self.checks.elections();
        (self.trace.hash(), self.coverage)
    }

    fn choose(&mut self) -> Action {
        let Settings {
            crashes,
            partitions,
            changes,
            compactions,
            quiescence,
            ..
        } = self.settings;
        let weights = [
            (Action::Deliver, 300),
            (Action::Ready, 250),
            (Action::Write, 100),
            (Action::Sync, 80),
            (Action::Apply, 60),
            (Action::Inbox, 100),
            (Action::Time, 60),
            (Action::Propose, 40),
            (Action::Read, 30),
            (Action::ConfChange, changes),
            (Action::Transfer, changes.min(4)),
            (Action::Campaign, 1),
            (Action::Report, 4),
            (Action::Forget, 1),
            (Action::Quiesce, quiescence),
            (Action::Wake, quiescence),
            (Action::Crash, crashes),
            (Action::Restart, 3 * crashes),
            (Action::Partition, partitions),
            (Action::Heal, 2 * partitions),
            (Action::Flush, compactions),
            (Action::Compact, compactions),
            (Action::Snapshots, compactions.min(4)),
        ];
        let mut at = self
            .rng
            .u32(..weights.iter().map(|&(_, weight)| weight).sum::<u32>());
        for (action, weight) in weights {
            match at.checked_sub(weight) {
                Some(rest) => at = rest,
                None => return action,
            }
        }
        unreachable!("a number below the sum of all weights")
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Deliver => return self.deliver(),
            Action::Time => return self.pass_time(),
            Action::Partition => {
                self.network
                    .partition(self.settings.replicas, &mut self.rng);
                return self.trace.line(format_args!("partition"));
            }
            Action::Heal => {
                self.network.heal();
                return self.trace.line(format_args!("heal"));
            }
            _ => {}
        }
        let Some(at) = self.pick(action) else { return };
        let up = self.replicas[at].raw.is_some();
        match action {
            Action::Restart if !up => self.launch(at),
            _ if !up => return,
            Action::Ready => self.take_ready(at),
            Action::Write => self.write(at),
            Action::Sync => self.sync(at),
            Action::Apply => self.apply(at),
            Action::Inbox => self.read_inbox(at),
            Action::Propose => self.propose(at),
            Action::Read => self.ask_read(at),
            Action::ConfChange => self.propose_change(at),
            Action::Transfer => {
                let to = ReplicaId(self.rng.u64(1..=self.settings.replicas));
                self.call(at, format_args!("transfer to {to}"), |raw| {
                    raw.transfer_leader(to);
                    Ok(())
                });
            }
            Action::Campaign => self.call(at, format_args!("campaign"), RawNode::campaign),
            Action::Report => {
                let of = ReplicaId(self.rng.u64(1..=self.settings.replicas));
                match self.rng.u8(..3) {
                    0 => self.call(at, format_args!("{of} is unreachable"), |raw| {
                        raw.report_unreachable(of);
                        Ok(())
                    }),
                    ok => self.call(at, format_args!("snapshot to {of}: {}", ok == 1), |raw| {
                        raw.report_snapshot(of, ok == 1);
                        Ok(())
                    }),
                }
            }
            Action::Forget => self.call(at, format_args!("forget the leader"), |raw| {
                raw.forget_leader();
                Ok(())
            }),
            Action::Quiesce => self.quiesce(at),
            Action::Wake => self.wake(at),
            Action::Crash => self.crash(at),
            Action::Flush => {
                let replica = &mut self.replicas[at];
                replica.disk.flushed = replica.machine.clone();
            }
            Action::Compact => self.compact(at),
            Action::Snapshots => {
                let available = self.rng.u8(..3) > 0;
                self.set_snapshots(at, available);
            }
            _ => {}
        }
        self.check(at);
    }

    /// The first replica, from a random one on, that has such work to do.
    fn pick(&mut self, action: Action) -> Option<usize> {
        let count = self.replicas.len();
        let from = self.rng.usize(..count);
        let able = |&at: &usize| {
            let replica = &self.replicas[at];
            match action {
                Action::Ready => replica.raw.as_ref().is_some_and(RawNode::has_ready),
                Action::Write => !replica.append_work.is_empty(),
                Action::Sync => replica.disk.has_unsynced(),
                Action::Apply => !replica.apply_work.is_empty(),
                Action::Inbox => !replica.inbox.is_empty(),
                Action::Restart => replica.raw.is_none(),
                _ => true,
            }
        };
        (from..from + count).map(|at| at % count).find(able)
    }

    /// Checks a replica that something was done to, and all leases.
    fn check(&mut self, at: usize) {
        let replicas = &self.replicas;
        if let Some(raw) = &replicas[at].raw {
            self.checks.replica(raw, replicas[at].start, |id| {
                &replicas[id.0 as usize - 1].disk
            });
        }
        if self.settings.config.read_only == ReadOnlyOption::LeaseBased {
            for raw in replicas.iter().filter_map(|replica| replica.raw.as_ref()) {
                self.coverage.leases += u64::from(self.checks.lease(raw));
            }
        }
    }

    /// Asks something of a replica that is up.
    fn call(
        &mut self,
        at: usize,
        what: std::fmt::Arguments<'_>,
        call: impl FnOnce(&mut RawNode<crate::disk::View>) -> Result<(), Error>,
    ) {
        self.trace.line(format_args!("{}: {what}", at + 1));
        if let Some(raw) = &mut self.replicas[at].raw {
            let outcome = call(raw);
            self.tolerate(outcome);
        }
    }

    /// Requests may be dropped, and answers may come from who was removed; nothing else may fail.
    fn tolerate(&mut self, outcome: Result<(), Error>) {
        match outcome {
            Ok(()) | Err(Error::StepPeerNotFound | Error::ReadDropped(_)) => {}
            Err(Error::ProposalDropped(_)) => self.coverage.dropped_proposals += 1,
            Err(error) => panic!("a correct cluster caused: {error}"),
        }
    }

    fn deliver(&mut self) {
        let Some(message) = self.network.next(&self.settings, &mut self.rng) else {
            return;
        };
        self.trace.line(format_args!(
            "{message} round {} {:?}",
            message.round, message.context
        ));
        let at = message.to.0 as usize - 1;
        if let Some(raw) = &mut self.replicas[at].raw {
            let outcome = raw.step(message);
            self.tolerate(outcome);
            self.check(at);
        }
    }

    fn pass_time(&mut self) {
        for at in 0..self.replicas.len() {
            let ticks = self.replicas[at].pass_time(self.settings.clocks[at]);
            let id = self.replicas[at].id;
            let Some(raw) = self.replicas[at].raw.as_mut() else {
                continue;
            };
            let mut left = ticks;
            while left > 0 {
                // Together or one by one.
                let passed = self.rng.u32(1..=left);
                left -= passed;
                raw.advance_ticks(passed);
                // The embedder decides about elections and heartbeats, sensibly or not.
                if raw.take_election_due() && self.rng.u8(..4) > 0 {
                    raw.campaign().expect("the log is in memory");
                }
                if self.settings.config.manual_heartbeats && self.rng.u8(..5) > 0 {
                    raw.heartbeat_now();
                }
            }
            self.trace.line(format_args!("{id}: {ticks} ticks"));
            self.check(at);
        }
    }

    fn take_ready(&mut self, at: usize) {
        let replica = &mut self.replicas[at];
        let Some(raw) = replica.raw.as_mut().filter(|raw| raw.has_ready()) else {
            return;
        };
        let ready = raw.ready();
        self.trace.line(format_args!("{}: {ready}", replica.id));
        for state in &ready.read_states {
            self.coverage.reads += 1;
            self.checks.read_answered(replica.id, replica.start, state);
        }
        if self.settings.config.async_storage_writes {
            for message in ready.messages {
                match message.to {
                    ReplicaId::APPEND_THREAD => self.replicas[at].append_work.push_back(message),
                    ReplicaId::APPLY_THREAD => self.replicas[at].apply_work.push_back(message),
                    _ => self.send(at, message),
                }
            }
            return;
        }
        let must_sync = ready.must_sync || ready.snapshot.is_some();
        let responses = Vec::new();
        let hard_state = ready.hard_state.unwrap_or_default();
        replica.disk.write(Write {
            hard_state,
            entries: ready.entries,
            snapshot: ready.snapshot,
            responses,
        });
        if self.rng.u32(..200) < self.settings.crashes && !self.network.calm {
            return self.crash(at);
        }
        if must_sync || self.rng.bool() {
            self.sync_all(at);
        }
        self.apply_entries(at, &ready.committed_entries);
        for message in ready.messages {
            self.send(at, message);
        }
        if let Some(raw) = &mut self.replicas[at].raw {
            raw.advance();
        }
    }

    fn send(&mut self, at: usize, message: Message) {
        self.checks.sent(&message, &self.replicas[at].disk);
        self.network.send(message, &self.settings, &mut self.rng);
    }

    /// The append thread takes up some writes.
    fn write(&mut self, at: usize) {
        let replica = &mut self.replicas[at];
        for _ in 0..self.rng.usize(1..4) {
            if let Some(message) = replica.append_work.pop_front() {
                self.trace
                    .line(format_args!("{}: writes {message}", replica.id));
                replica.disk.write(Write::new(message));
            }
        }
    }

    /// The append thread makes durable what it wrote, and answers.
    fn sync(&mut self, at: usize) {
        if self.replicas[at].disk.has_unsynced() {
            self.trace.line(format_args!("{}: syncs", at + 1));
            self.sync_all(at);
        }
    }

    fn sync_all(&mut self, at: usize) {
        while let Some(write) = self.replicas[at].disk.sync_one() {
            let replica = &mut self.replicas[at];
            self.checks.durable(replica.id, &replica.disk);
            if write.snapshot.is_some() {
                self.coverage.snapshots += 1;
                replica.install(replica.disk.flushed.clone());
                self.checks.applied(replica.id, &replica.machine);
                replica
                    .disk
                    .view()
                    .set_snapshot(Ok(replica.machine.snapshot()));
            }
            for response in write.responses {
                if response.to == self.replicas[at].id {
                    self.replicas[at].inbox.push_back(response);
                } else {
                    self.send(at, response);
                }
            }
        }
    }

    /// The apply thread takes up one batch.
    fn apply(&mut self, at: usize) {
        let Some(mut message) = self.replicas[at].apply_work.pop_front() else {
            return;
        };
        self.trace.line(format_args!(
            "{}: applies up to {:?}",
            at + 1,
            message.entries.last()
        ));
        let responses = std::mem::take(&mut message.responses);
        self.apply_entries(at, &message.entries);
        self.replicas[at].inbox.extend(responses);
    }

    fn apply_entries(&mut self, at: usize, entries: &[flotilla_shards::raft::Entry]) {
        // A synchronous replica learns here what is committed, before the next check.
        self.check(at);
        let replica = &mut self.replicas[at];
        let id = replica.id;
        for entry in entries {
            let at = EntryId {
                term: entry.term,
                index: entry.index,
            };
            let durable = replica.disk.has_synced(at);
            assert!(durable, "replica {id} applies {at:?} before it is durable");
        }
        let before = replica.machine.conf_state.clone();
        replica.apply(entries, |machine| self.checks.applied(id, machine));
        if replica.machine.conf_state != before {
            self.coverage.conf_changes += 1;
            self.coverage.joint +=
                u64::from(!replica.machine.conf_state.voters_outgoing.is_empty());
        }
        if !entries.is_empty() {
            replica
                .disk
                .view()
                .set_snapshot(Ok(replica.machine.snapshot()));
        }
    }

    fn read_inbox(&mut self, at: usize) {
        let replica = &mut self.replicas[at];
        let (Some(raw), Some(message)) = (&mut replica.raw, replica.inbox.pop_front()) else {
            return;
        };
        self.trace.line(format_args!("{message}"));
        let outcome = raw.step(message);
        self.tolerate(outcome);
    }

    fn propose(&mut self, at: usize) {
        let batch: Vec<_> = (0..self.rng.usize(1..4))
            .map(|_| {
                self.unique += 1;
                let mut data = self.unique.to_string().into_bytes();
                data.resize(data.len() + self.rng.usize(..30), b'.');
                data.into()
            })
            .collect();
        self.call(at, format_args!("propose {batch:?}"), |raw| {
            raw.propose_batch(batch.clone()).map(drop)
        });
    }

    fn ask_read(&mut self, at: usize) {
        self.unique += 1;
        let context = self.unique;
        self.checks
            .read_asked(context, self.replicas[at].id, self.replicas[at].start);
        self.call(at, format_args!("read {context}"), |raw| {
            raw.read_index(context.to_be_bytes().to_vec().into())
        });
    }

    fn propose_change(&mut self, at: usize) {
        let rng = &mut self.rng;
        let kinds = [
            ConfChangeKind::AddNode,
            ConfChangeKind::RemoveNode,
            ConfChangeKind::AddLearnerNode,
        ];
        let mut changes: Vec<_> = (0..rng.usize(..4))
            .map(|_| {
                let kind = kinds[[0, 0, 1, 2][rng.usize(..4)]];
                ConfChangeSingle {
                    kind,
                    id: ReplicaId(rng.u64(1..=self.settings.replicas)),
                }
            })
            .collect();
        let transitions = [
            ConfChangeTransition::Auto,
            ConfChangeTransition::JointImplicit,
            ConfChangeTransition::JointExplicit,
        ];
        let change: ConfChangeAny = match changes.pop() {
            Some(change) if changes.is_empty() && rng.bool() => ConfChange {
                change,
                ..ConfChange::default()
            }
            .into(),
            last => {
                changes.extend(last);
                let transition = if changes.is_empty() {
                    transitions[0]
                } else {
                    transitions[rng.usize(..3)]
                };
                ConfChangeV2 {
                    transition,
                    changes,
                    ..ConfChangeV2::default()
                }
                .into()
            }
        };
        self.call(at, format_args!("propose {change:?}"), |raw| {
            raw.propose_conf_change(change.clone()).map(drop)
        });
    }

    /// An idle leader lets its timers rest, and tells those followers that it reaches at once. Who doesn't hear of it
    /// will sooner or later campaign, and wake the others.
    fn quiesce(&mut self, at: usize) {
        let replica = &mut self.replicas[at];
        let Some(raw) = replica
            .raw
            .as_mut()
            .filter(|raw| raw.role() == Role::Leader)
        else {
            return;
        };
        if !raw.quiesce(|_| false) {
            return;
        }
        let (leader, term, commit) = (raw.id(), raw.term(), raw.committed());
        self.coverage.quiesced += 1;
        self.trace.line(format_args!("{leader}: rests"));
        for other in 0..self.replicas.len() {
            let Some(raw) = self.replicas[other].raw.as_mut() else {
                continue;
            };
            let told = self.rng.u8(..5) > 0;
            let agrees = (raw.leader(), raw.term(), raw.committed()) == (leader, term, commit);
            if other != at && told && agrees {
                let rests = raw.quiesce(|_| false);
                self.trace
                    .line(format_args!("{}: rests: {rests}", other + 1));
            }
        }
    }

    fn wake(&mut self, at: usize) {
        if let Some(raw) = &mut self.replicas[at].raw {
            raw.wake();
            self.trace.line(format_args!("{}: wakes", at + 1));
        }
    }

    fn crash(&mut self, at: usize) {
        self.trace.line(format_args!("{}: crash", at + 1));
        self.coverage.crashes += 1;
        let replica = &mut self.replicas[at];
        replica.crash(&self.settings, &mut self.rng);
        self.checks.durable(replica.id, &replica.disk);
    }

    fn launch(&mut self, at: usize) {
        self.trace.line(format_args!("{}: start", at + 1));
        self.replicas[at].launch(&self.settings, &mut self.rng);
    }

    fn compact(&mut self, at: usize) {
        let Replica {
            raw: Some(raw),
            disk,
            ..
        } = &mut self.replicas[at]
        else {
            return;
        };
        // What the group has not been told to be applied, it may still look at.
        let (first, last) = (disk.first_index(), disk.flushed.at.index.min(raw.applied()));
        if last >= first {
            let index = Index(self.rng.u64(first.0..=last.0));
            disk.compact(index);
            self.coverage.compactions += 1;
            self.trace.line(format_args!("{}: compact {index}", at + 1));
        }
    }

    fn set_snapshots(&mut self, at: usize, available: bool) {
        let replica = &self.replicas[at];
        let unavailable = Err(StorageError::SnapshotTemporarilyUnavailable);
        replica.disk.view().set_snapshot(if available {
            Ok(replica.machine.snapshot())
        } else {
            unavailable
        });
    }
}
