//! A history as a list of events that tests can change before it is recorded.

use bytes::Bytes;
use flotilla_history::{Answer, Call, ClientId, Found, History, Level, OpId};

#[derive(Clone, Debug)]
pub(crate) enum Event {
    Invoke(usize),
    Ok(usize),
}

#[derive(Clone, Debug)]
pub(crate) struct Op {
    pub(crate) client: u64,
    pub(crate) call: Call,
    pub(crate) outcome: Outcome,
    /// Places among the events.
    pub(crate) invoked: usize,
    pub(crate) returned: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome {
    Ok(Answer),
    Failed,
    Unknown,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Script {
    pub(crate) ops: Vec<Op>,
    pub(crate) events: Vec<Event>,
}

impl Script {
    pub(crate) fn invoke(&mut self, client: u64, call: Call) -> usize {
        let op = self.ops.len();
        self.ops.push(Op {
            client,
            call,
            outcome: Outcome::Unknown,
            invoked: self.events.len(),
            returned: usize::MAX,
        });
        self.events.push(Event::Invoke(op));
        op
    }

    pub(crate) fn ok(&mut self, op: usize, answer: Answer) {
        self.ops[op].outcome = Outcome::Ok(answer);
        self.ops[op].returned = self.events.len();
        self.events.push(Event::Ok(op));
    }

    pub(crate) fn failed(&mut self, op: usize) {
        self.ops[op].outcome = Outcome::Failed;
    }

    pub(crate) fn record(&self) -> History {
        let mut history = History::new();
        for (now, event) in (0..).zip(&self.events) {
            match event {
                Event::Invoke(op) => {
                    let Op { client, call, .. } = &self.ops[*op];
                    let id = history.invoke(ClientId(*client), call.clone(), now);
                    assert_eq!(id, OpId(*op as u64));
                }
                Event::Ok(op) => {
                    if let Outcome::Ok(answer) = &self.ops[*op].outcome {
                        history.ok(OpId(*op as u64), answer.clone(), now);
                    }
                }
            }
        }
        for (op, id) in self.ops.iter().zip(0..) {
            match op.outcome {
                Outcome::Ok(_) => {}
                Outcome::Failed => history.failed(OpId(id)),
                Outcome::Unknown => history.unknown(OpId(id)),
            }
        }
        history
    }
}

impl Op {
    pub(crate) fn answer(&self) -> Option<&Answer> {
        match &self.outcome {
            Outcome::Ok(answer) => Some(answer),
            Outcome::Failed | Outcome::Unknown => None,
        }
    }

    /// Whether this had returned before the other was invoked.
    pub(crate) fn precedes(&self, other: &Self) -> bool {
        self.returned < other.invoked
    }
}

pub(crate) fn get(key: &Bytes) -> Call {
    Call::Get {
        key: key.clone(),
        level: Level::Linearizable,
    }
}

pub(crate) fn put(key: &Bytes, value: &Bytes) -> Call {
    Call::Put {
        key: key.clone(),
        value: value.clone(),
    }
}

pub(crate) fn found(value: &Bytes, revision: u64) -> Found {
    Found {
        value: value.clone(),
        revision,
    }
}
