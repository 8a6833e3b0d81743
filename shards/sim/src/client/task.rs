//! What clients want: one task at a time, each an operation of the history and made of one or more requests.

use bytes::Bytes;
use flotilla_history::{Answer, Call, Found, Level, Row};
use flotilla_proto::v1::{
    self as proto, BatchGetRequest, Condition, Consistency, GetRequest, GetResponse, Operation,
    PutOperation, ScanRequest, condition, error::Code, operation, request, response,
};
use flotilla_shards::range_map::RangeMap;

use super::Ended;
use super::workload::{self, Wish, elements, number};
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
    /// What a workload has drawn.
    pub(crate) fn of(wish: Wish) -> Self {
        let Wish {
            call,
            in_session,
            cross,
            pinned,
            page_rows,
        } = wish;
        let write = |what| Plan::Write(Write::new(what, in_session));
        let change = |key: &Bytes| Plan::Change {
            key: key.clone(),
            in_session,
            writing: None,
        };
        let plan = match &call {
            Call::Get { key, level } => Plan::Read(request::Kind::Get(GetRequest {
                key: key.clone(),
                consistency: consistency(*level).into(),
            })),
            Call::BatchGet { keys, level, .. } => {
                Plan::Read(request::Kind::BatchGet(BatchGetRequest {
                    keys: keys.clone(),
                    consistency: consistency(*level).into(),
                }))
            }
            Call::ReadList { list: key } | Call::ReadCounter { counter: key } => {
                Plan::Read(read_of(key))
            }
            Call::Scan {
                start,
                end,
                reverse,
                level,
                ..
            } => Plan::Scan {
                rows: Vec::new(),
                start: start.clone(),
                end: end.clone(),
                reverse: *reverse,
                consistency: consistency(*level),
                limit: page_rows,
            },
            Call::Put { key, value } => write(What::Put(key.clone(), value.clone())),
            Call::Delete { key } => write(What::Delete(key.clone())),
            Call::Batch {
                conditions,
                changes,
            } => {
                let what = What::Batch(
                    conditions.iter().map(to_condition).collect(),
                    changes.iter().map(to_operation).collect(),
                );
                if cross {
                    Plan::Cross(Write::new(what, in_session))
                } else {
                    write(what)
                }
            }
            Call::Append { list: key, .. } | Call::Increment { counter: key } => change(key),
        };
        Self { call, plan, pinned }
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
            let Some(value) = workload::changed(&self.call, &old) else {
                return Next::Over(End::Wrong("a counter is no number".into()));
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
