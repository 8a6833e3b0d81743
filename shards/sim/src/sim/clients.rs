//! The clients of a run: tasks begin, tries are sent and answered, and what clients are told is recorded.

use bytes::Bytes;
use flotilla_history::{Answer, Call, ClientId, Level};

use super::{Event, Sim};
use crate::checks::{Checked, Violation, ensure};
use crate::client::task::{End, Next, Task};
use crate::client::{Ended, Move};
use crate::fault::Fault;
use crate::queue::SECOND;
use crate::rpc::{self, Party, Reply, Request};
use crate::trace::Kind;
use flotilla_shards::service::request as rules;

impl Sim {
    /// A client begins its next task, or goes on after a pause.
    pub(super) fn client_next(&mut self, client: usize) -> Checked {
        let now = self.queue.now();
        if self.clients[client].pending.is_some() {
            let next = self.clients[client].again(now);
            return self.client_move(client, next);
        }
        if self.calm || self.clients[client].task.is_some() {
            return Ok(());
        }
        self.client_begins(client, None)
    }

    /// A client begins a task, by default its workload's next one.
    pub(super) fn client_begins(&mut self, client: usize, task: Option<Task>) -> Checked {
        let now = self.queue.now();
        self.clients[client].begin(task, now);
        let Some(task) = &mut self.clients[client].task else {
            return Ok(());
        };
        if let (Some(at), Call::Get { level, .. }) = (task.pinned, &mut task.call) {
            let boot = self.nodes[at].boot;
            *level = Level::Replica(((at as u64 + 1) << 32) + u64::from(boot));
            self.clients[client].pinned_boot = boot;
        }
        let Some(task) = &self.clients[client].task else {
            return Ok(());
        };
        let call = task.call.clone();
        let operation = if task.is_cross() {
            None
        } else {
            Some(
                self.history
                    .invoke(ClientId(client as u64), call.clone(), now),
            )
        };
        let bound = read_key(&call).map_or(0, |key| self.checks.reads.bound(key));
        self.clients[client].operation = operation;
        self.clients[client].bound = bound;
        let number = operation.map_or(u64::MAX, |operation| operation.0);
        self.note(Kind::Invoke, [client as u64, bound, number], || {
            format!("c{client} {call:?}")
        });
        let next = self.clients[client].advance(None);
        self.client_does(client, next)
    }

    fn client_does(&mut self, client: usize, next: Next) -> Checked {
        let now = self.queue.now();
        match next {
            // A task of many requests ends with its time.
            Next::Ask(_) if now >= self.clients[client].deadline => {
                let next = self.clients[client].advance(Some(Ended::Failed(rpc::late())));
                self.client_does_last(client, next)
            }
            Next::Ask(kind) => {
                let next = self.clients[client].ask(kind, now);
                self.client_move(client, next)
            }
            Next::Over(end) => self.task_over(client, end),
        }
    }

    fn client_does_last(&mut self, client: usize, next: Next) -> Checked {
        match next {
            Next::Over(end) => self.task_over(client, end),
            Next::Ask(kind) => Err(Violation {
                check: "requests",
                what: format!("client {client} asks {kind:?} after its deadline"),
            }),
        }
    }

    fn client_move(&mut self, client: usize, next: Move) -> Checked {
        match next {
            Move::Send { to, kind, timeout } => {
                self.next_try += 1;
                let id = self.next_try;
                self.clients[client].sent(id);
                self.queue.after(timeout, Event::TryOver(client, id));
                let request = Request {
                    id,
                    from: Party::Client(client),
                    kind,
                    forwarded: false,
                    timeout,
                };
                self.request_to(to, request);
                Ok(())
            }
            Move::Pause(pause) => {
                self.queue.after(pause, Event::ClientNext(client));
                Ok(())
            }
            Move::Ended(ended) => {
                let next = self.clients[client].advance(Some(ended));
                self.client_does(client, next)
            }
        }
    }

    /// A try was answered.
    pub(super) fn client_reply(&mut self, client: usize, id: u64, reply: Reply) -> Checked {
        if !self.clients[client].waits_for(id) {
            return Ok(());
        }
        if reply.is_ok() && self.network.doubles(&mut self.rng) {
            self.ask_again(client);
        }
        let now = self.queue.now();
        let next = self.clients[client].reply(reply, now);
        self.client_move(client, next)
    }

    /// A session's write that was answered comes once more, at any node and much later: it must not be done again
    /// (scenarios W4).
    fn ask_again(&mut self, client: usize) {
        let Some(pending) = &self.clients[client].pending else {
            return;
        };
        let kind = pending.kind.clone();
        if !rules::is_write(&kind) || !rules::is_repeatable(&kind) {
            return;
        }
        self.faults.note(Fault::Duplication);
        let at = self.rng.usize(..self.nodes.len());
        let pause = self.rng.u64(..2 * SECOND);
        let request = Request {
            // Nobody waits for the answer.
            id: 0,
            from: Party::Client(client),
            kind,
            forwarded: false,
            timeout: SECOND,
        };
        self.queue
            .after(pause, Event::Request(at, Box::new(request)));
    }

    /// The time of a try is over.
    pub(super) fn try_over(&mut self, client: usize, id: u64) -> Checked {
        self.client_reply(client, id, Err(rpc::late()))
    }

    fn task_over(&mut self, client: usize, mut end: End) -> Checked {
        let now = self.queue.now();
        let Some(task) = self.clients[client].task.take() else {
            return Ok(());
        };
        if let Some(at) = task.pinned
            && self.nodes[at].boot != self.clients[client].pinned_boot
        {
            // Another start of the node may have answered, which promises nothing.
            end = End::Failed;
        }
        let operations = &mut self.report.operations;
        let code = match &end {
            End::Ok(_) => {
                operations.ok += 1;
                0
            }
            End::Failed => {
                operations.failed += 1;
                1
            }
            End::Unknown => {
                operations.unknown += 1;
                2
            }
            End::Wrong(_) => 3,
        };
        let text = format!("{end:?}");
        self.note(Kind::Return, [client as u64, code, 0], || {
            format!("c{client} {text}")
        });
        let deadline = self.clients[client].deadline;
        ensure(now <= deadline, "requests", || {
            format!("client {client} was answered at {now}, after its deadline {deadline}")
        })?;
        let operation = self.clients[client].operation.take();
        match end {
            End::Ok(answer) => {
                self.judge_at_once(client, &task.call, &answer)?;
                if let Some(operation) = operation {
                    self.history.ok(operation, answer, now);
                }
            }
            End::Failed => {
                if let Some(operation) = operation {
                    self.history.failed(operation);
                }
                ensure(!self.last_reads, "final_reads", || {
                    format!("{:?} fails in calm weather", task.call)
                })?;
            }
            End::Unknown => {
                if let Some(operation) = operation {
                    self.history.unknown(operation);
                }
            }
            End::Wrong(what) => {
                return Err(Violation {
                    check: "workload",
                    what,
                });
            }
        }
        if !self.calm {
            let think = self.settings.think;
            let pause = self.rng.u64(..=2 * think);
            self.queue.after(pause, Event::ClientNext(client));
        }
        Ok(())
    }

    /// What one answer tells by itself.
    fn judge_at_once(&mut self, client: usize, call: &Call, answer: &Answer) -> Checked {
        if let Some(what) = self.clients[client].workload.observe(call, answer) {
            return Err(Violation {
                check: "workload",
                what,
            });
        }
        match (call, answer) {
            (Call::Put { key, .. }, Answer::Put { revision }) => {
                self.checks.reads.written(key, *revision);
            }
            (Call::Delete { key }, Answer::Delete { revision, .. }) => {
                self.checks.reads.written(key, *revision);
            }
            (Call::Get { key, .. }, Answer::Get(found)) if read_key(call).is_some() => {
                let bound = self.clients[client].bound;
                let found = found.as_ref().map(|found| found.revision);
                self.checks.reads.check(key, bound, found)?;
            }
            _ => {}
        }
        Ok(())
    }
}

/// The key of a linearizable get.
fn read_key(call: &Call) -> Option<&Bytes> {
    match call {
        Call::Get {
            key,
            level: Level::Linearizable,
        } => Some(key),
        _ => None,
    }
}
