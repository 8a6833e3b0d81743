//! A node's turns: inputs gather, a turn takes all of them, and its outputs go where the node's worker sends them, in the
//! same order.

use std::rc::Rc;

use flotilla_shards::engine::{Outgoing, Proposal};
use flotilla_shards::lineage::Mark;
use flotilla_shards::wire;

use super::{Event, Sim};
use crate::checks::{self, Checked, Violation};
use crate::network::Frame;
use crate::node::{Input, Job, Node, Phase};
use crate::trace::Kind;
use flotilla_shards::service::call::Event as CallEvent;

impl Sim {
    /// Puts something into a node's mailbox.
    pub(super) fn input(&mut self, at: usize, input: Input) {
        let node = &mut self.nodes[at];
        if !node.is_running() {
            return;
        }
        node.inbox.push(input);
        if !node.turn_due {
            node.turn_due = true;
            let boot = node.boot;
            self.queue.after(self.settings.turn, Event::Turn(at, boot));
        }
    }

    /// The clock of a node has come to its next tick.
    pub(super) fn tick(&mut self, at: usize, generation: u64) -> Checked {
        if self.nodes[at].tick_generation != generation {
            return Ok(());
        }
        self.schedule_tick(at);
        if self.nodes[at].phase == Phase::Up {
            self.store_marks(at);
            return self.turn(at);
        }
        Ok(())
    }

    /// Schedules the next tick at which the engine has something to do, by the node's own clock.
    pub(super) fn schedule_tick(&mut self, at: usize) {
        let now = self.queue.now();
        let node = &mut self.nodes[at];
        if !node.is_running() {
            return;
        }
        node.tick_generation += 1;
        let elapsed = node.clock.monotonic(now) - node.started;
        let due = node
            .engine
            .as_mut()
            .map_or(0, |engine| engine.quiet_until());
        node.tick_due = due.max(elapsed / self.settings.tick + 1);
        let next = node.started + node.tick_due * self.settings.tick;
        if let Some(when) = node.clock.when(next, now) {
            self.queue.at(when, Event::Tick(at, node.tick_generation));
        }
    }

    /// One turn of the worker.
    pub(super) fn turn(&mut self, at: usize) -> Checked {
        let now = self.queue.now();
        self.checks.turn(&self.nodes, at, now)?;
        let node = &mut self.nodes[at];
        node.turn_due = false;
        let tick = node.tick_at(now, self.settings.tick);
        let Some(engine) = &mut node.engine else {
            return Ok(());
        };
        let inputs = std::mem::take(&mut node.inbox);
        let taken = inputs.len();
        for input in inputs {
            match input {
                Input::Propose {
                    shard,
                    command,
                    bytes,
                    handle,
                } => {
                    self.checks.asked(at, handle)?;
                    let proposal = Proposal {
                        command,
                        bytes,
                        reply: handle,
                    };
                    engine.propose(shard, proposal);
                }
                Input::Read(shard, handle) => {
                    self.checks.asked(at, handle)?;
                    engine.read(shard, handle);
                }
                Input::Peer(messages) => {
                    for (shard, message) in messages {
                        // A message that breaks the protocol is dropped, as in the node.
                        let _ = engine.handle_message(shard, message);
                    }
                }
                Input::Alive(peer, incarnation) => engine.handle_alive(peer, incarnation),
                Input::Local(messages) => {
                    for (shard, message) in messages {
                        engine.handle_local(shard, message);
                    }
                }
                Input::Flushed(flushed) => engine.handle_flushed(&flushed),
                Input::Unreachable(peer) => engine.handle_unreachable(peer),
                Input::SnapshotSent { shard, node, ok } => {
                    engine.handle_snapshot_sent(shard, node, ok);
                }
                Input::Transfer(shard, to) => {
                    engine.transfer_leader(shard, to);
                }
                Input::Drain => {
                    engine.drain();
                }
            }
        }
        // After the inputs, as in the node: a heartbeat that waited counts before the timeout that it prevents.
        if tick > node.tick {
            node.tick = tick;
            for (shard, reads) in std::mem::take(&mut node.leased_reads) {
                engine.handle_leased_reads(shard, reads);
            }
            engine.handle_tick(tick);
        }
        let out = engine.turn(node.clock.wall_ms(now));
        for lease in &out.leases {
            node.leases.insert(lease.shard, lease.until);
        }
        if engine.quiet_until() != node.tick_due {
            self.schedule_tick(at);
        }
        if taken > 0 || !out.is_empty() {
            let sizes = [
                out.messages.len() as u64,
                out.appends.len() as u64,
                out.applies.len() as u64,
            ];
            let numbers = [
                at as u64,
                taken as u64,
                sizes[0] << 32 | sizes[1] << 16 | sizes[2],
            ];
            self.note(Kind::Turn, numbers, || {
                format!(
                    "n{} takes {taken}, {sizes:?} messages, appends, applies",
                    at + 1
                )
            });
        }
        // What a turn says about the log comes first: it is what roles, messages and applications rest on.
        for append in &out.appends {
            self.checks.append(&self.nodes, at, append)?;
        }
        for change in &out.changes {
            self.role_changed(at, change)?;
        }
        if out.alive {
            self.say_alive(at);
        }
        self.send(at, out.messages)?;
        for apply in out.applies {
            self.checks
                .hand_out(&self.nodes, at, apply.shard, &apply.entries)?;
            self.nodes[at].applier.queue.push_back(Job::Apply(apply));
        }
        self.kick_applier(at);
        for compaction in &out.compactions {
            self.report.compactions += 1;
            let numbers = [at as u64, compaction.shard.0, compaction.upto.index.0];
            self.note(Kind::Compact, numbers, || {
                format!(
                    "n{} shard {} up to {}",
                    at + 1,
                    compaction.shard,
                    numbers[2]
                )
            });
            self.checks.compaction(&self.nodes[at], compaction)?;
        }
        let writer = &mut self.nodes[at].writer;
        writer.appends.extend(out.appends);
        writer.compactions.extend(out.compactions);
        self.kick_writer(at);
        for send in out.snapshots {
            let delay = self.network.latency(&mut self.rng);
            let boot = self.nodes[at].boot;
            self.queue
                .after(delay, Event::SnapshotOpen(Box::new((at, boot, send))));
        }
        for read in out.reads {
            self.report.leased += u64::from(read.leased);
            self.checks.confirmed(at, &read)?;
            self.resume_call(at, read.reply, CallEvent::ReadReady)?;
        }
        for (handle, refused) in out.refusals {
            self.checks.answered(at, handle)?;
            self.resume_call(at, handle, CallEvent::Refused(refused))?;
        }
        if let Some((shard, reason)) = out.failures.into_iter().next() {
            return self.failed(at, &format!("shard {shard}: {reason}"));
        }
        Ok(())
    }

    fn role_changed(&mut self, at: usize, change: &flotilla_shards::engine::RoleChange) -> Checked {
        let numbers = [
            at as u64,
            change.shard.0,
            change.term.0 << 4 | change.role as u64,
        ];
        self.note(Kind::Role, numbers, || {
            format!(
                "n{} shard {} {:?} in term {}, leader {:?}",
                at + 1,
                change.shard,
                change.role,
                change.term,
                change.leader.map(|leader| leader.0)
            )
        });
        let (now, length) = (self.queue.now(), self.settings.tick);
        let tick = |node: &Node| node.tick_at(now, length);
        self.checks.role(&self.nodes, tick, at, change)?;
        self.tempt(at, change);
        if self.nodes[at].router.note_change(change) {
            self.wake_calls(at, change.shard);
        }
        Ok(())
    }

    /// Packs messages into a frame for each peer and lane.
    pub(super) fn send(&mut self, at: usize, messages: Vec<Outgoing>) -> Checked {
        if messages.is_empty() {
            return Ok(());
        }
        let now = self.queue.now();
        let mut frames: Vec<Frame> = Vec::new();
        for outgoing in messages {
            self.checks.sent(&self.nodes, at, now, &outgoing)?;
            let to = (outgoing.node.0 - 1) as usize;
            let urgent = outgoing.is_urgent();
            let (shard, mut message) = (outgoing.shard, outgoing.message);
            if self.settings.encode {
                let encoded = wire::encode_message(shard, message);
                let decoded = wire::decode_message(encoded).map_err(|error| Violation {
                    check: "wire",
                    what: format!("a node's own message is refused: {error}"),
                })?;
                message = decoded.1;
            }
            let frame = frames
                .iter_mut()
                .find(|frame| frame.to == to && frame.urgent == urgent);
            match frame {
                Some(frame) => frame.messages.push((shard, message)),
                None => {
                    let mut frame = self.frame(at, to, urgent);
                    frame.messages.push((shard, message));
                    frames.push(frame);
                }
            }
        }
        for frame in frames {
            self.send_frame(frame);
        }
        Ok(())
    }

    /// A frame of this process without content.
    fn frame(&self, from: usize, to: usize, urgent: bool) -> Frame {
        let Node { known, synced, .. } = &self.nodes[from];
        Frame {
            from,
            to,
            urgent,
            messages: Vec::new(),
            alive: None,
            starts: Rc::clone(&known.starts),
            written: known.written,
            synced: *synced,
        }
    }

    fn send_frame(&mut self, frame: Frame) {
        self.report.frames += 1;
        let (now, queue) = (self.queue.now(), &mut self.queue);
        self.network
            .send(frame, now, &mut self.rng, &mut self.faults, |at, frame| {
                queue.at(at, Event::Frame(Box::new(frame)))
            });
    }

    /// Tells all other nodes that this one lives.
    fn say_alive(&mut self, at: usize) {
        let alive = Some(u64::from(self.nodes[at].boot));
        for to in (0..self.nodes.len()).filter(|to| *to != at) {
            let frame = Frame {
                alive,
                ..self.frame(at, to, true)
            };
            self.send_frame(frame);
        }
    }

    /// A frame is let in by the store that it comes from. Those of earlier processes, which were let in when their streams
    /// began, may come late.
    fn admit(&mut self, frame: &Frame) -> Checked {
        let Frame { from, to, .. } = *frame;
        let (sender, others) = (self.nodes[from].id, &mut self.nodes[to].known.others);
        let Some(start) = frame.starts.newest() else {
            return Ok(());
        };
        let seen = others.seen(sender).map(|seen| seen.start);
        if seen > Some(start.start) {
            return Ok(());
        }
        if seen < Some(start.start) {
            // A process from an older disk is refused before it sends anything, see `start`.
            let refused = others.meet(sender, &frame.starts).is_err();
            checks::judged(from, to, refused, false)?;
        }
        let mark = Mark {
            written: frame.written,
            ..start
        };
        others.hear(sender, mark);
        self.checks.stores.heard(to, from, frame.synced);
        Ok(())
    }

    /// Gives what arrived to the process.
    pub(super) fn take_frame(&mut self, frame: Frame) -> Checked {
        self.admit(&frame)?;
        if let Some(incarnation) = frame.alive {
            let from = self.nodes[frame.from].id;
            self.input(frame.to, Input::Alive(from, incarnation));
        }
        if !frame.messages.is_empty() {
            self.input(frame.to, Input::Peer(frame.messages));
        }
        Ok(())
    }

    pub(super) fn frame_arrives(&mut self, frame: Box<Frame>) -> Checked {
        let (from, to) = (frame.from, frame.to);
        if self.network.is_cut(from, to) {
            return Ok(());
        }
        match self.nodes[to].phase {
            Phase::Up => {
                let numbers = [from as u64, to as u64, frame.messages.len() as u64];
                self.note(Kind::Frame, numbers, || {
                    let shown: Vec<String> = (frame.messages.iter())
                        .map(|(shard, message)| {
                            format!(
                                "s{shard} {:?} t{} i{} c{}{}",
                                message.kind,
                                message.term,
                                message.index,
                                message.commit,
                                if message.reject { " rejected" } else { "" }
                            )
                        })
                        .collect();
                    format!("n{} -> n{}: {}", from + 1, to + 1, shown.join(", "))
                });
                return self.take_frame(*frame);
            }
            Phase::Paused => self.backlog[to].push(Event::Frame(frame)),
            // The connection is refused, of which the sender learns; a store that is not known is refused too.
            Phase::Down | Phase::Lost => {
                let boot = self.nodes[from].boot;
                let node = self.nodes[to].id;
                let delay = self.network.latency(&mut self.rng);
                self.queue
                    .after(delay, Event::Unreachable(from, boot, node));
            }
        }
        Ok(())
    }
}
