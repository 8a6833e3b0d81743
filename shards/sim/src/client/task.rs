//! What clients want: one task at a time, each an operation of the history and made of one or more requests. How lists and
//! counters lie in keys is decided here: a list is a value, its elements joined by commas; a counter is a number in digits;
//! both are changed by reading, and writing on the condition that nobody else has.

use bytes::Bytes;
use flotilla_history::{Answer, Call, Found, Level, Row};
use flotilla_proto::v1::{
    self as proto, BatchGetRequest, Condition, Consistency, GetRequest, GetResponse, Operation,
    PutOperation, ScanRequest, condition, error::Code, operation, request, response,
};
use flotilla_shards::range_map::RangeMap;

use super::Ended;
use super::workload;
use super::write::{Progress, Sessions, What, Write};
use crate::rpc::Failure;

/// What a task does next.
pub(crate) enum Next {
    /// Ask for this.
    Ask(request::Kind),
    /// It is over.
    Over(End),
}

/// How a task ended.
#[derive(Clone, Debug)]
pub(crate) enum End {
    Ok(Answer),
    /// It had no effect and will have none.
    Failed,
    Unknown,
    /// It was answered in a way that no answer may have.
    Wrong(String),
}

/// One task.
#[derive(Debug)]
pub(crate) struct Task {
    /// As the history knows it.
    pub(crate) call: Call,
    plan: Plan,
    /// To be asked of this node alone, and once.
    pub(crate) pinned: Option<usize>,
}

#[derive(Debug)]
enum Plan {
    /// One request that reads.
    Read(request::Kind),
    /// A scan, page by page: what is read, and where to go on.
    Scan {
        rows: Vec<Row>,
        start: Bytes,
        end: Bytes,
        reverse: bool,
        consistency: Consistency,
        limit: u32,
    },
    Write(Write),
    /// A batch over two shards: to be refused.
    Cross(Write),
    /// Reading and writing a list or counter until nobody came between.
    Change {
        key: Bytes,
        element: Bytes,
        in_session: bool,
        writing: Option<(Write, Bytes)>,
    },
}

fn consistency(level: Level) -> Consistency {
    match level {
        Level::Linearizable => Consistency::Linearizable,
        Level::Serializable | Level::Monotonic | Level::Replica(_) => Consistency::Serializable,
    }
}

impl Task {
    fn new(call: Call, plan: Plan) -> Self {
        Self {
            call,
            plan,
            pinned: None,
        }
    }

    pub(crate) fn get(key: Bytes, level: Level) -> Self {
        let request = GetRequest {
            key: key.clone(),
            consistency: consistency(level).into(),
        };
        Self::new(
            Call::Get { key, level },
            Plan::Read(request::Kind::Get(request)),
        )
    }

    /// Of keys that lie in one shard.
    pub(crate) fn batch_get(keys: Vec<Bytes>, level: Level) -> Self {
        let request = BatchGetRequest {
            keys: keys.clone(),
            consistency: consistency(level).into(),
        };
        let call = Call::BatchGet {
            keys,
            level,
            at_once: true,
        };
        Self::new(call, Plan::Read(request::Kind::BatchGet(request)))
    }

    pub(crate) fn scan(
        (start, end): (Bytes, Bytes),
        reverse: bool,
        level: Level,
        at_once: bool,
        limit: u32,
    ) -> Self {
        let plan = Plan::Scan {
            rows: Vec::new(),
            start: start.clone(),
            end: end.clone(),
            reverse,
            consistency: consistency(level),
            limit,
        };
        let call = Call::Scan {
            start,
            end,
            reverse,
            level,
            at_once,
        };
        Self::new(call, plan)
    }

    pub(crate) fn put(key: Bytes, value: Bytes, in_session: bool) -> Self {
        let what = What::Put(key.clone(), value.clone());
        Self::new(
            Call::Put { key, value },
            Plan::Write(Write::new(what, in_session)),
        )
    }

    pub(crate) fn delete(key: Bytes, in_session: bool) -> Self {
        let what = What::Delete(key.clone());
        Self::new(
            Call::Delete { key },
            Plan::Write(Write::new(what, in_session)),
        )
    }

    pub(crate) fn batch(
        conditions: Vec<flotilla_history::Condition>,
        changes: Vec<flotilla_history::Change>,
        in_session: bool,
    ) -> Self {
        let what = What::Batch(
            conditions.iter().map(to_condition).collect(),
            changes.iter().map(to_operation).collect(),
        );
        let call = Call::Batch {
            conditions,
            changes,
        };
        Self::new(call, Plan::Write(Write::new(what, in_session)))
    }

    /// As a batch, of keys in two shards.
    pub(crate) fn cross(changes: Vec<flotilla_history::Change>) -> Self {
        let mut task = Self::batch(Vec::new(), changes, false);
        task.plan = match task.plan {
            Plan::Write(write) => Plan::Cross(write),
            plan => plan,
        };
        task
    }

    pub(crate) fn append(list: Bytes, element: Bytes, session: Option<(u64, u64)>) -> Self {
        let plan = Plan::Change {
            key: list.clone(),
            element: element.clone(),
            in_session: session.is_some(),
            writing: None,
        };
        let call = Call::Append {
            list,
            element,
            session,
        };
        Self::new(call, plan)
    }

    pub(crate) fn increment(counter: Bytes, in_session: bool) -> Self {
        let plan = Plan::Change {
            key: counter.clone(),
            element: Bytes::new(),
            in_session,
            writing: None,
        };
        Self::new(Call::Increment { counter }, plan)
    }

    pub(crate) fn read_list(list: Bytes) -> Self {
        let Self { plan, .. } = Self::get(list.clone(), Level::Linearizable);
        Self::new(Call::ReadList { list }, plan)
    }

    pub(crate) fn read_counter(counter: Bytes) -> Self {
        let Self { plan, .. } = Self::get(counter.clone(), Level::Linearizable);
        Self::new(Call::ReadCounter { counter }, plan)
    }

    /// Whether the write must be refused.
    pub(crate) fn is_cross(&self) -> bool {
        matches!(self.plan, Plan::Cross(_))
    }

    /// After a request of it has ended; none at the beginning.
    pub(crate) fn advance(
        &mut self,
        ended: Option<Ended>,
        sessions: &mut Sessions,
        map: &RangeMap,
    ) -> Next {
        match &mut self.plan {
            Plan::Read(kind) => match ended {
                None => Next::Ask(kind.clone()),
                Some(Ended::Answered(answer)) => Next::Over(self.read(answer)),
                Some(Ended::Failed(_) | Ended::Unknown) => Next::Over(End::Failed),
            },
            Plan::Scan { .. } => self.scan_on(ended),
            Plan::Write(write) => {
                let progress = match ended {
                    None => Progress::Ask(write.begin(sessions, map)),
                    Some(ended) => write.ended(ended, sessions, map),
                };
                match progress {
                    Progress::Ask(kind) => Next::Ask(kind),
                    Progress::Over(ended) => Next::Over(self.written(ended)),
                }
            }
            Plan::Cross(write) => match ended {
                None => Next::Ask(write.begin(sessions, map)),
                Some(Ended::Answered(answer)) => Next::Over(End::Wrong(format!(
                    "a batch over two shards was answered: {answer:?}"
                ))),
                // Lost on its way, as far as the client knows.
                Some(Ended::Failed(_) | Ended::Unknown) => Next::Over(End::Failed),
            },
            Plan::Change { .. } => self.change_on(ended, sessions, map),
        }
    }

    fn read(&self, answer: response::Kind) -> End {
        match (&self.call, answer) {
            (Call::Get { .. }, response::Kind::Get(got)) => End::Ok(Answer::Get(found(got))),
            (Call::BatchGet { keys, .. }, response::Kind::BatchGet(got))
                if got.results.len() == keys.len() =>
            {
                End::Ok(Answer::BatchGet(
                    got.results.into_iter().map(found).collect(),
                ))
            }
            (Call::ReadList { .. }, response::Kind::Get(got)) => {
                End::Ok(Answer::ReadList(elements(&got.value.unwrap_or_default())))
            }
            (Call::ReadCounter { .. }, response::Kind::Get(got)) => {
                match number(&got.value.unwrap_or_default()) {
                    Some(number) => End::Ok(Answer::ReadCounter(number)),
                    None => End::Wrong("a counter is no number".into()),
                }
            }
            (call, answer) => End::Wrong(format!("{answer:?} is no answer to {call:?}")),
        }
    }

    fn scan_on(&mut self, ended: Option<Ended>) -> Next {
        let Plan::Scan {
            rows,
            start,
            end,
            reverse,
            consistency,
            limit,
        } = &mut self.plan
        else {
            unreachable!("called for a scan");
        };
        match ended {
            None => {}
            Some(Ended::Answered(response::Kind::Scan(page))) => {
                let rows_of_page = page.rows.into_iter().map(|row| Row {
                    key: row.key,
                    value: Some(row.value),
                    revision: row.revision,
                });
                // Lists and counters are no registers, and are read by tasks of their own.
                rows.extend(rows_of_page.filter(|row| !workload::is_composite(&row.key)));
                let done = match page.next {
                    None => true,
                    Some(next) if *reverse => {
                        *end = next;
                        *end <= *start
                    }
                    Some(next) => {
                        *start = next;
                        !end.is_empty() && *start >= *end
                    }
                };
                if done {
                    return Next::Over(End::Ok(Answer::Scan {
                        rows: std::mem::take(rows),
                        next: None,
                    }));
                }
            }
            Some(Ended::Answered(other)) => {
                return Next::Over(End::Wrong(format!("{other:?} is no answer to a scan")));
            }
            Some(Ended::Failed(_) | Ended::Unknown) => return Next::Over(End::Failed),
        }
        Next::Ask(request::Kind::Scan(ScanRequest {
            start: start.clone(),
            end: end.clone(),
            limit: *limit,
            reverse: *reverse,
            keys_only: false,
            consistency: (*consistency).into(),
        }))
    }

    fn written(&self, ended: Ended) -> End {
        let answer = match ended {
            Ended::Answered(answer) => answer,
            Ended::Failed(failure) => return failed(&failure),
            Ended::Unknown => return End::Unknown,
        };
        match answer {
            response::Kind::Put(put) => End::Ok(Answer::Put {
                revision: put.revision,
            }),
            response::Kind::Delete(delete) => End::Ok(Answer::Delete {
                deleted: delete.deleted,
                revision: if delete.deleted { delete.revision } else { 0 },
            }),
            response::Kind::Batch(batch) if batch.succeeded => End::Ok(Answer::Batch {
                revision: batch.revision,
                deleted: Some(batch.deleted),
            }),
            response::Kind::Batch(batch) => End::Ok(Answer::ConditionFailed {
                first: Some(batch.failed_condition),
            }),
            other => End::Wrong(format!("{other:?} is no answer to {:?}", self.call)),
        }
    }

    fn change_on(&mut self, ended: Option<Ended>, sessions: &mut Sessions, map: &RangeMap) -> Next {
        let Plan::Change {
            key,
            element,
            in_session,
            writing,
        } = &mut self.plan
        else {
            unreachable!("called for a change");
        };
        let Some(ended) = ended else {
            return Next::Ask(read_of(key));
        };
        let Some((write, value)) = writing else {
            let got = match ended {
                Ended::Answered(response::Kind::Get(got)) => got,
                Ended::Answered(other) => {
                    return Next::Over(End::Wrong(format!("{other:?} is no answer to a get")));
                }
                Ended::Failed(_) | Ended::Unknown => return Next::Over(End::Failed),
            };
            let (revision, old) = (got.revision, got.value.unwrap_or_default());
            let value: Bytes = if matches!(self.call, Call::Increment { .. }) {
                let Some(number) = number(&old) else {
                    return Next::Over(End::Wrong("a counter is no number".into()));
                };
                (number + 1).to_string().into()
            } else if old.is_empty() {
                element.clone()
            } else {
                [&old[..], b",", element].concat().into()
            };
            let condition = Condition {
                key: key.clone(),
                test: Some(condition::Test::RevisionEquals(revision)),
            };
            let what = What::Batch(vec![condition], vec![put_of(key.clone(), value.clone())]);
            let mut write = Write::new(what, *in_session);
            let kind = write.begin(sessions, map);
            *writing = Some((write, value));
            return Next::Ask(kind);
        };
        match write.ended(ended, sessions, map) {
            Progress::Ask(kind) => Next::Ask(kind),
            Progress::Over(Ended::Answered(response::Kind::Batch(batch))) if batch.succeeded => {
                let value = number(value);
                Next::Over(End::Ok(match self.call {
                    Call::Increment { .. } => Answer::Increment { value },
                    _ => Answer::Append,
                }))
            }
            // Somebody came between: again from the beginning.
            Progress::Over(Ended::Answered(response::Kind::Batch(_))) => {
                *writing = None;
                Next::Ask(read_of(key))
            }
            Progress::Over(Ended::Answered(other)) => {
                Next::Over(End::Wrong(format!("{other:?} is no answer to a batch")))
            }
            Progress::Over(Ended::Failed(failure)) => Next::Over(failed(&failure)),
            Progress::Over(Ended::Unknown) => Next::Over(End::Unknown),
        }
    }
}

/// A write that failed. What the client's own requests break is not among the errors that may come.
fn failed(failure: &Failure) -> End {
    match failure {
        Failure::Node(error) if matches!(error.code(), Code::InvalidArgument | Code::Internal) => {
            End::Wrong(format!("a write was refused: {error:?}"))
        }
        _ => End::Failed,
    }
}

fn read_of(key: &Bytes) -> request::Kind {
    request::Kind::Get(GetRequest {
        key: key.clone(),
        consistency: Consistency::Linearizable.into(),
    })
}

fn put_of(key: Bytes, value: Bytes) -> Operation {
    Operation {
        kind: Some(operation::Kind::Put(PutOperation { key, value })),
    }
}

fn to_condition(condition: &flotilla_history::Condition) -> Condition {
    use flotilla_history::Test;
    Condition {
        key: condition.key.clone(),
        test: Some(match &condition.test {
            Test::Exists(exists) => condition::Test::Exists(*exists),
            Test::ValueEquals(value) => condition::Test::ValueEquals(value.clone()),
            Test::RevisionEquals(revision) => condition::Test::RevisionEquals(*revision),
        }),
    }
}

fn to_operation(change: &flotilla_history::Change) -> Operation {
    use flotilla_history::Change;
    match change.clone() {
        Change::Put { key, value } => put_of(key, value),
        Change::Delete { key } => Operation {
            kind: Some(operation::Kind::Delete(proto::DeleteOperation { key })),
        },
    }
}

fn found(got: GetResponse) -> Option<Found> {
    got.value.map(|value| Found {
        value,
        revision: got.revision,
    })
}

/// The elements of a list's value.
fn elements(value: &Bytes) -> Vec<Bytes> {
    if value.is_empty() {
        return Vec::new();
    }
    let parts = value.split(|byte| *byte == b',');
    parts.map(|part| value.slice_ref(part)).collect()
}

/// The number in a counter's value; 0 if there is none.
fn number(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return Some(0);
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// The key that decides on the shard of a batch.
pub(crate) fn first_key(conditions: &[Condition], operations: &[Operation]) -> Bytes {
    let condition = conditions.first().map(|condition| &condition.key);
    let operation = operations.first().and_then(|operation| {
        Some(match operation.kind.as_ref()? {
            operation::Kind::Put(put) => &put.key,
            operation::Kind::Delete(delete) => &delete.key,
            operation::Kind::DeleteRange(range) => &range.start,
        })
    });
    condition.or(operation).cloned().unwrap_or_default()
}
