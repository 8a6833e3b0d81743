//! Requests on the node that was asked: calls begin, the engine or another node answers, deadlines pass.

use super::{Event, Sim};
use crate::checks::Checked;
use crate::node::{Handle, Input, NodeCall, Phase};
use crate::queue::Micros;
use crate::rpc::{Failure, Party, Reply, Request};
use crate::trace::Kind;
use flotilla_shards::service::Routes as _;
use flotilla_shards::service::call::{Call, Event as CallEvent, Step};
use flotilla_shards::service::{error, request as rules};
use std::time::Duration;

/// The simulated clock, as calls know it.
fn moment(now: Micros) -> Duration {
    Duration::from_micros(now)
}

fn micros(moment: Duration) -> Micros {
    u64::try_from(moment.as_micros()).unwrap_or(u64::MAX)
}

impl Sim {
    /// Sends a request to a node.
    pub(super) fn request_to(&mut self, at: usize, request: Request) {
        let delay = self.network.latency(&mut self.rng);
        self.queue
            .after(delay, Event::Request(at, Box::new(request)));
    }

    pub(super) fn request_arrives(&mut self, at: usize, request: Request) -> Checked {
        if let Party::Node(from, _) = request.from
            && (self.network.is_cut(from, at) || self.network.is_cut(at, from))
        {
            // The stream is stuck; the asker's deadline is the only end.
            return Ok(());
        }
        match self.nodes[at].phase {
            Phase::Up => {}
            Phase::Paused => {
                self.backlog[at].push(Event::Request(at, Box::new(request)));
                return Ok(());
            }
            Phase::Down | Phase::Lost => {
                self.reply_to(
                    request.from,
                    request.id,
                    Err(Failure::Unreachable("the node is down".to_owned())),
                );
                return Ok(());
            }
        }
        let now = self.queue.now();
        let node = &mut self.nodes[at];
        let handle = node.next_call;
        node.next_call += 1;
        let boot = node.boot;
        let Request {
            id,
            from,
            kind,
            forwarded,
            timeout,
        } = request;
        let deadline = now + timeout;
        let call = NodeCall {
            from,
            id,
            call: Call::new(kind, moment(now), moment(deadline), forwarded),
            held: false,
        };
        self.queue.at(deadline, Event::CallDue(at, boot, handle));
        self.note(Kind::Request, [at as u64, handle, call.id], || {
            format!(
                "n{} call {handle} is try {} of {:?}",
                at + 1,
                call.id,
                call.from
            )
        });
        self.nodes[at].calls.insert(handle, call);
        self.resume_call(at, handle, CallEvent::Retry)
    }

    /// Something came back to a call. Those that have passed their deadline are gone.
    pub(super) fn resume_call(&mut self, at: usize, handle: Handle, event: CallEvent) -> Checked {
        let now = self.queue.now();
        let node = &mut self.nodes[at];
        let Some(found) = node.calls.get_mut(&handle) else {
            return Ok(());
        };
        found.held = false;
        let step = (found.call).resume(event, &mut node.router, &self.limits, moment(now));
        match step {
            Step::Propose {
                shard,
                command,
                bytes,
            } => {
                if self.nodes[at].disk.full {
                    let busy = error::busy("the disk is nearly full");
                    return self.resume_call(at, handle, CallEvent::Busy(busy));
                }
                self.input(
                    at,
                    Input::Propose {
                        shard,
                        command,
                        bytes,
                        handle,
                    },
                );
            }
            Step::Confirm(shard) => {
                let tick = node.tick_at(now, self.settings.tick);
                if node.leases.get(&shard).is_some_and(|until| tick < *until) {
                    *node.leased_reads.entry(shard).or_default() += 1;
                    self.report.read_by_open_leases += 1;
                    self.checks.open_lease(&self.nodes, at, now, shard)?;
                    return self.resume_call(at, handle, CallEvent::ReadReady);
                }
                self.input(at, Input::Read(shard, handle));
            }
            Step::Forward(leader) => {
                let request = Request {
                    id: handle,
                    from: Party::Node(at, node.boot),
                    kind: found.call.kind().clone(),
                    forwarded: true,
                    timeout: micros(found.call.deadline()).saturating_sub(now),
                };
                self.request_to((leader.0 - 1) as usize, request);
            }
            Step::Hold(hold) => {
                found.held = true;
                let boot = node.boot;
                let leader = node.router.leader(hold.shard);
                let known = leader.is_some() && leader != hold.denied;
                let not_before = hold.not_before.map_or(now, micros);
                let when = if known || not_before > now {
                    not_before
                } else {
                    node.waiting.entry(hold.shard).or_default().insert(handle);
                    micros(hold.until)
                };
                self.queue.at(when, Event::CallDue(at, boot, handle));
            }
            Step::Read(descriptor) => {
                let kind = found.call.kind();
                let answer = rules::read(kind, &descriptor, &node.state, &self.limits);
                return self.finish_call(at, handle, answer.map_err(Failure::Node));
            }
            Step::Done(reply) => {
                return self.finish_call(at, handle, reply.map_err(Failure::Node));
            }
        }
        Ok(())
    }

    fn finish_call(&mut self, at: usize, handle: Handle, reply: Reply) -> Checked {
        let Some(call) = self.nodes[at].calls.remove(&handle) else {
            return Ok(());
        };
        let ok = u64::from(reply.is_ok());
        self.note(Kind::Answer, [at as u64, handle, ok], || {
            format!("n{} call {handle}: {reply:?}", at + 1)
        });
        if let Party::Node(to, _) = call.from
            && (self.network.is_cut(at, to) || self.network.is_cut(to, at))
        {
            return Ok(());
        }
        self.reply_to(call.from, call.id, reply);
        Ok(())
    }

    /// A deadline, or the end of a wait.
    pub(super) fn call_due(&mut self, at: usize, handle: Handle) -> Checked {
        let now = self.queue.now();
        let node = &mut self.nodes[at];
        let Some(NodeCall { call, held, .. }) = node.calls.get(&handle) else {
            return Ok(());
        };
        if now >= micros(call.deadline()) {
            let error = call.expired(moment(now));
            return self.finish_call(at, handle, Err(Failure::Node(error)));
        }
        if !held {
            return Ok(());
        }
        if let Some(waiting) = node.waiting.get_mut(&call.shard()) {
            waiting.remove(&handle);
        }
        self.resume_call(at, handle, CallEvent::Retry)
    }

    /// A leader became known: those who wait for one go on.
    pub(super) fn wake_calls(&mut self, at: usize, shard: flotilla_shards::ids::ShardId) {
        let boot = self.nodes[at].boot;
        if let Some(waiting) = self.nodes[at].waiting.remove(&shard) {
            for handle in waiting {
                self.queue.after(0, Event::CallDue(at, boot, handle));
            }
        }
    }
}
