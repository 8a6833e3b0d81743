//! Requests on the node that was asked: calls begin, the engine or another node answers, deadlines pass.

use super::{Event, Sim};
use crate::checks::Checked;
use crate::node::call::{self, Call, Local, Step};
use crate::node::{Handle, Input, Phase};
use crate::rpc::{Failure, Party, Reply, Request};
use crate::trace::Kind;

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
                self.reply_to(request.from, request.id, Err(Failure::Unreachable));
                return Ok(());
            }
        }
        let now = self.queue.now();
        let node = &mut self.nodes[at];
        let handle = node.next_call;
        node.next_call += 1;
        let boot = node.boot;
        let call = Call::new(request, now);
        self.queue
            .at(call.deadline, Event::CallDue(at, boot, handle));
        self.note(Kind::Request, [at as u64, handle, call.id], || {
            format!(
                "n{} call {handle} is try {} of {:?}",
                at + 1,
                call.id,
                call.from
            )
        });
        self.nodes[at].calls.insert(handle, call);
        self.start_call(at, handle)
    }

    fn start_call(&mut self, at: usize, handle: Handle) -> Checked {
        let now = self.queue.now();
        let node = &mut self.nodes[at];
        let Some(call) = node.calls.get_mut(&handle) else {
            return Ok(());
        };
        let step = call.start(&node.router, &self.limits, now);
        self.step(at, handle, step)
    }

    /// Does what a call asks for.
    fn step(&mut self, at: usize, handle: Handle, step: Step) -> Checked {
        match step {
            Step::Propose {
                shard,
                command,
                bytes,
            } => {
                if self.nodes[at].disk.full {
                    let busy = call::busy("the disk is nearly full");
                    return self.finish_call(at, handle, Err(Failure::Node(busy)));
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
            Step::AskRead(shard) => self.input(at, Input::Read(shard, handle)),
            Step::Forward(leader) => {
                let now = self.queue.now();
                let node = &self.nodes[at];
                let Some(call) = node.calls.get(&handle) else {
                    return Ok(());
                };
                let request = Request {
                    id: handle,
                    from: Party::Node(at, node.boot),
                    kind: call.kind.clone(),
                    forwarded: true,
                    timeout: call.deadline.saturating_sub(now),
                };
                self.request_to((leader.0 - 1) as usize, request);
            }
            Step::Hold {
                denied,
                not_before,
                until,
            } => {
                let now = self.queue.now();
                let node = &mut self.nodes[at];
                let boot = node.boot;
                let Some(call) = node.calls.get(&handle) else {
                    return Ok(());
                };
                let shard = call.shard();
                let leader = node.router.leader(shard);
                let known = leader.is_some() && leader != denied;
                let when = if known || not_before > now {
                    not_before
                } else {
                    node.waiting.entry(shard).or_default().insert(handle);
                    until
                };
                self.queue.at(when, Event::CallDue(at, boot, handle));
            }
            Step::Read(descriptor) => {
                let node = &self.nodes[at];
                let Some(call) = node.calls.get(&handle) else {
                    return Ok(());
                };
                let answer =
                    call::read_state(&call.kind, descriptor.shard, &node.state, &self.limits);
                return self.finish_call(at, handle, answer.map_err(Failure::Node));
            }
            Step::Done(reply) => return self.finish_call(at, handle, reply),
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

    /// The engine's word on a call. Those that have passed their deadline are gone.
    pub(super) fn engine_says(&mut self, at: usize, handle: Handle, word: Local) -> Checked {
        let now = self.queue.now();
        let node = &mut self.nodes[at];
        let Some(call) = node.calls.get_mut(&handle) else {
            return Ok(());
        };
        let step = call.local(word, &mut node.router, now);
        self.step(at, handle, step)
    }

    /// Another node's answer to a call that was passed on.
    pub(super) fn forwarded_reply(&mut self, at: usize, handle: Handle, reply: Reply) -> Checked {
        let now = self.queue.now();
        let node = &mut self.nodes[at];
        let Some(call) = node.calls.get_mut(&handle) else {
            return Ok(());
        };
        let step = call.remote(reply, &mut node.router, now);
        self.step(at, handle, step)
    }

    /// A deadline, or the end of a wait.
    pub(super) fn call_due(&mut self, at: usize, handle: Handle) -> Checked {
        let now = self.queue.now();
        let node = &mut self.nodes[at];
        let Some(call) = node.calls.get(&handle) else {
            return Ok(());
        };
        if now >= call.deadline {
            let error = call.expired();
            return self.finish_call(at, handle, Err(Failure::Node(error)));
        }
        if !call.is_held() {
            return Ok(());
        }
        if let Some(waiting) = node.waiting.get_mut(&call.shard()) {
            waiting.remove(&handle);
        }
        self.start_call(at, handle)
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
