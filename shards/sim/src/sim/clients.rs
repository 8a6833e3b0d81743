//! The clients of a run: tasks begin, tries are sent and answered, and what clients are told is recorded.

use flotilla_proto::v1::{request, response};

use super::{Event, Sim};
use crate::checks::Checked;
use crate::client::task::{self, End, Next};
use crate::client::{Ended, Move};
use crate::rpc::{Failure, Party, Reply, Request};
use crate::trace::Kind;

impl Sim {
    /// A client begins its next task, or goes on after a pause.
    pub(super) fn client_next(&mut self, client: usize) -> Checked {
        let now = self.queue.now();
        if self.clients[client].pending.is_some() {
            let next = self.clients[client].again(now);
            return self.client_move(client, next);
        }
        if self.calm {
            return Ok(());
        }
        self.clients[client].begin(now);
        let (key, read) = {
            let Some(task) = &self.clients[client].task else {
                return Ok(());
            };
            (task.key.clone(), matches!(task.kind, request::Kind::Get(_)))
        };
        let bound = if read {
            self.checks.reads.bound(&key)
        } else {
            0
        };
        self.clients[client].bound = bound;
        let text = self.clients[client]
            .task
            .as_ref()
            .map(|task| format!("{:?}", task.kind));
        self.note(Kind::Invoke, [client as u64, bound, 0], || {
            format!("c{client} {}", text.unwrap_or_default())
        });
        let next = self.clients[client].advance(None);
        self.client_does(client, next)
    }

    fn client_does(&mut self, client: usize, next: Next) -> Checked {
        let now = self.queue.now();
        match next {
            Next::Ask(kind) => {
                let next = self.clients[client].ask(kind, now);
                self.client_move(client, next)
            }
            Next::Over(result) => self.task_over(client, &result),
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
            Move::Ended(ended) => self.request_ended(client, ended),
        }
    }

    fn request_ended(&mut self, client: usize, ended: Ended) -> Checked {
        let next = self.clients[client].advance(Some(ended));
        self.client_does(client, next)
    }

    /// A try was answered.
    pub(super) fn client_reply(&mut self, client: usize, id: u64, reply: Reply) -> Checked {
        if !self.clients[client].waits_for(id) {
            return Ok(());
        }
        let now = self.queue.now();
        let next = self.clients[client].reply(reply, now);
        self.client_move(client, next)
    }

    /// The time of a try is over.
    pub(super) fn try_over(&mut self, client: usize, id: u64) -> Checked {
        self.client_reply(client, id, Err(Failure::Late))
    }

    fn task_over(&mut self, client: usize, result: &End) -> Checked {
        let now = self.queue.now();
        let Some(task) = self.clients[client].task.take() else {
            return Ok(());
        };
        let operations = &mut self.report.operations;
        let code = match result {
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
        };
        self.note(Kind::Return, [client as u64, code, 0], || {
            format!("c{client} {result:?}")
        });
        let deadline = self.clients[client].deadline;
        crate::checks::ensure(now <= deadline, "requests", || {
            format!("client {client} was answered at {now}, after its deadline {deadline}")
        })?;
        if let End::Ok(answer) = result {
            let revision = task::revision(answer);
            match answer {
                response::Kind::Get(_) => {
                    let bound = self.clients[client].bound;
                    self.checks.reads.check(&task.key, bound, revision)?;
                }
                _ => self.checks.reads.written(&task.key, revision.unwrap_or(0)),
            }
        }
        if !self.calm {
            let think = self.settings.think;
            let pause = self.rng.u64(..=2 * think);
            self.queue.after(pause, Event::ClientNext(client));
        }
        Ok(())
    }
}
