//! Recording a history: what was asked and what came of it, in the order in which it was seen.

use crate::operation::{Answer, Call, ClientId, Moment, OpId, Operation, Outcome};
use crate::text::escape;
use bytes::Bytes;
use std::collections::BTreeSet;

/// What clients asked and were told, as one host saw it.
///
/// The *order of the calls of this recorder* is the order of events: what returned before something else was invoked
/// precedes it. So [`invoke`](Self::invoke) must be called before a request can leave, [`ok`](Self::ok) after its answer
/// has come, and threads that share a recorder hold a lock for each call. The clock is for people alone.
///
/// *Invariant*: operations are numbered by their invocation, an answer has the kind of its call, and the elements that are
/// appended to a list differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    operations: Vec<Operation>,
    /// Events so far.
    events: u64,
    /// The clock of the newest event.
    now: u64,
    elements: BTreeSet<(Bytes, Bytes)>,
}

/// A recorder used wrongly, or a file that does not hold together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misuse {
    /// No such operation.
    #[error("operation {0} was never invoked")]
    NeverInvoked(OpId),
    /// Only an unknown outcome may become known.
    #[error("the outcome of operation {0} is known already")]
    KnownAlready(OpId),
    /// The answer to another call.
    #[error("operation {id} is a {call}, its answer one to {answer}")]
    WrongAnswer {
        /// The operation.
        id: OpId,
        /// Its kind.
        call: &'static str,
        /// The kind of the answer.
        answer: &'static str,
    },
    /// As many answers as keys are expected.
    #[error("operation {id} asked for {keys} keys and got {answers} answers")]
    WrongCount {
        /// The operation.
        id: OpId,
        /// Keys asked for.
        keys: usize,
        /// Answers.
        answers: usize,
    },
    /// Lists are judged by their elements.
    #[error(
        "the element \"{element}\" is appended to list \"{list}\" a second time: elements of a list must differ"
    )]
    ElementTwice {
        /// The list.
        list: String,
        /// The element.
        element: String,
    },
}

impl History {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A client is about to ask for something. `now` is in microseconds on the host's clock; it should not go back, and
    /// counts as standing still where it does.
    ///
    /// # Panics
    /// If the call breaks a rule of [`Misuse`]: the workload is wrong.
    pub fn invoke(&mut self, client: ClientId, call: Call, now: u64) -> OpId {
        match self.try_invoke(client, call, now) {
            Ok(id) => id,
            Err(misuse) => panic!("{misuse}"),
        }
    }

    /// The operation succeeded. One whose outcome was unknown may be found in the replicated log at the end, and become
    /// known so: it took effect between its invocation and now.
    ///
    /// # Panics
    /// If the answer breaks a rule of [`Misuse`]: the workload is wrong.
    pub fn ok(&mut self, id: OpId, answer: Answer, now: u64) {
        if let Err(misuse) = self.try_ok(id, answer, now) {
            panic!("{misuse}");
        }
    }

    /// The operation failed for certain: it had no effect and will have none. To be called only where the store promises so.
    ///
    /// # Panics
    /// If its outcome is known already.
    pub fn failed(&mut self, id: OpId) {
        if let Err(misuse) = self.try_failed(id) {
            panic!("{misuse}");
        }
    }

    /// Nobody knows what became of the operation. So it is also with operations that were invoked and never heard of again.
    ///
    /// # Panics
    /// If its outcome is known already.
    pub fn unknown(&mut self, id: OpId) {
        if let Err(misuse) = self.open(id).map(drop) {
            panic!("{misuse}");
        }
    }

    /// As [`invoke`](Self::invoke).
    ///
    /// # Errors
    /// See [`Misuse`].
    pub fn try_invoke(&mut self, client: ClientId, call: Call, now: u64) -> Result<OpId, Misuse> {
        if let Call::Append { list, element, .. } = &call
            && !self.elements.insert((list.clone(), element.clone()))
        {
            return Err(Misuse::ElementTwice {
                list: escape(list),
                element: escape(element),
            });
        }
        let id = OpId(self.operations.len() as u64);
        let invoked = self.event(now);
        self.operations.push(Operation {
            id,
            client,
            call,
            invoked,
            outcome: Outcome::Unknown,
        });
        Ok(id)
    }

    /// As [`ok`](Self::ok).
    ///
    /// # Errors
    /// See [`Misuse`].
    pub fn try_ok(&mut self, id: OpId, answer: Answer, now: u64) -> Result<(), Misuse> {
        let operation = self.open(id)?;
        fits(operation, &answer)?;
        let returned = self.event(now);
        self.open(id)?.outcome = Outcome::Ok { answer, returned };
        Ok(())
    }

    /// As [`failed`](Self::failed).
    ///
    /// # Errors
    /// See [`Misuse`].
    pub fn try_failed(&mut self, id: OpId) -> Result<(), Misuse> {
        self.open(id)?.outcome = Outcome::Failed;
        Ok(())
    }

    /// All operations, in the order of their invocation.
    #[must_use]
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// One operation.
    ///
    /// # Panics
    /// If it is of another history.
    #[must_use]
    pub fn operation(&self, id: OpId) -> &Operation {
        let at = usize::try_from(id.0).unwrap_or(usize::MAX);
        self.operations
            .get(at)
            .unwrap_or_else(|| panic!("operation {id} is of another history"))
    }

    fn event(&mut self, now: u64) -> Moment {
        self.now = self.now.max(now);
        let order = self.events;
        self.events += 1;
        Moment {
            order,
            at: self.now,
        }
    }

    /// An operation whose outcome may still be set.
    fn open(&mut self, id: OpId) -> Result<&mut Operation, Misuse> {
        let at = usize::try_from(id.0).unwrap_or(usize::MAX);
        let operation = self
            .operations
            .get_mut(at)
            .ok_or(Misuse::NeverInvoked(id))?;
        if operation.outcome == Outcome::Unknown {
            Ok(operation)
        } else {
            Err(Misuse::KnownAlready(id))
        }
    }
}

/// Whether an answer is one to the operation's call.
fn fits(operation: &Operation, answer: &Answer) -> Result<(), Misuse> {
    let id = operation.id;
    match (&operation.call, answer) {
        (Call::Get { .. }, Answer::Get(_))
        | (Call::Put { .. }, Answer::Put { .. })
        | (Call::Delete { .. }, Answer::Delete { .. })
        | (Call::Batch { .. }, Answer::Batch { .. })
        | (Call::Scan { .. }, Answer::Scan { .. })
        | (Call::Append { .. }, Answer::Append)
        | (Call::ReadList { .. }, Answer::ReadList(_))
        | (Call::Increment { .. }, Answer::Increment { .. })
        | (Call::ReadCounter { .. }, Answer::ReadCounter(_)) => Ok(()),
        (Call::BatchGet { keys, .. }, Answer::BatchGet(answers)) => {
            if keys.len() == answers.len() {
                Ok(())
            } else {
                Err(Misuse::WrongCount {
                    id,
                    keys: keys.len(),
                    answers: answers.len(),
                })
            }
        }
        (Call::Batch { conditions, .. }, Answer::ConditionFailed { first })
            if first.is_none_or(|first| (first as usize) < conditions.len()) =>
        {
            Ok(())
        }
        (call, answer) => Err(Misuse::WrongAnswer {
            id,
            call: call.name(),
            answer: answer.name(),
        }),
    }
}

impl Call {
    /// Its name in a file.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Get { .. } => "get",
            Self::BatchGet { .. } => "batch_get",
            Self::Put { .. } => "put",
            Self::Delete { .. } => "delete",
            Self::Batch { .. } => "batch",
            Self::Scan { .. } => "scan",
            Self::Append { .. } => "append",
            Self::ReadList { .. } => "read_list",
            Self::Increment { .. } => "increment",
            Self::ReadCounter { .. } => "read_counter",
        }
    }
}

impl Answer {
    /// Its name in a file.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Get(_) => "get",
            Self::BatchGet(_) => "batch_get",
            Self::Put { .. } => "put",
            Self::Delete { .. } => "delete",
            Self::Batch { .. } => "batch",
            Self::ConditionFailed { .. } => "condition_failed",
            Self::Scan { .. } => "scan",
            Self::Append => "append",
            Self::ReadList(_) => "read_list",
            Self::Increment { .. } => "increment",
            Self::ReadCounter(_) => "read_counter",
        }
    }
}
