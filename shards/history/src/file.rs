//! A history as a file of JSON lines, version 1.
//!
//! ```text
//! {"flotilla_history":1}
//! {"op":0,"at":12,"client":3,"call":{"put":{"key":"a","value":"v1"}}}
//! {"op":1,"at":15,"client":4,"call":{"get":{"key":"a"}}}
//! {"op":0,"at":17,"ok":{"put":{"revision":1}}}
//! {"op":1,"at":18,"ok":{"get":{"value":"v1","revision":1}}}
//! {"op":2,"at":20,"client":3,"call":{"delete":{"key":"a"}}}
//! {"op":2,"failed":true}
//! {"operations":3}
//! ```
//!
//! The first line names the format and its version. Then come the events, in the order in which they happened: a `call`
//! begins operation `op` (numbers count up from 0), `ok` is its answer, `failed` says that it had no effect; an operation
//! without either is one whose outcome nobody knows. `at` is a clock in microseconds that never goes back. Keys, values and
//! elements are escaped text (`\\`, `\xNN`, printable ASCII). What stands inside `call` and `ok` is what [`Call`] and
//! [`Answer`] say, under the names of their fields; fields that are left out are zero, false or unknown. The last line says
//! how many operations there are, so that a file that was cut is not taken for whole.

use crate::history::{History, Misuse};
use crate::operation::{Answer, Call, ClientId, OpId, Outcome};
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, Read as _, Write};

/// Version that is written, and the only one that is read.
pub const VERSION: u32 = 1;

/// Bytes of one line at most.
const LINE_BYTES_MAX: u64 = 64 << 20;

/// Why a file is no history.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It cannot be read at all.
    #[error("cannot read the history: {0}")]
    Io(#[from] io::Error),
    /// One line is wrong.
    #[error("line {line}: {reason}")]
    Line {
        /// Its number, from 1.
        line: u64,
        /// What is wrong with it, and what was expected.
        reason: String,
    },
}

/// Every line, whatever it says.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    flotilla_history: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    op: Option<OpId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    at: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client: Option<ClientId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    call: Option<Call>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ok: Option<Answer>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failed: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    operations: Option<u64>,
}

/// What a line may say.
enum Entry {
    Call(OpId, u64, ClientId, Call),
    Ok(OpId, u64, Answer),
    Failed(OpId),
    End(u64),
}

impl History {
    /// Writes the history as a file.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let mut events: Vec<(u64, Line)> = Vec::new();
        let mut failed = Vec::new();
        for operation in self.operations() {
            let op = Some(operation.id);
            events.push((
                operation.invoked.order,
                Line {
                    op,
                    at: Some(operation.invoked.at),
                    client: Some(operation.client),
                    call: Some(operation.call.clone()),
                    ..Line::default()
                },
            ));
            match &operation.outcome {
                Outcome::Ok { answer, returned } => events.push((
                    returned.order,
                    Line {
                        op,
                        at: Some(returned.at),
                        ok: Some(answer.clone()),
                        ..Line::default()
                    },
                )),
                Outcome::Failed => failed.push(Line {
                    op,
                    failed: Some(true),
                    ..Line::default()
                }),
                Outcome::Unknown => {}
            }
        }
        events.sort_by_key(|(order, _)| *order);
        let first = Line {
            flotilla_history: Some(VERSION),
            ..Line::default()
        };
        let last = Line {
            operations: Some(self.operations().len() as u64),
            ..Line::default()
        };
        let events = events.into_iter().map(|(_, line)| line);
        for line in std::iter::once(first)
            .chain(events)
            .chain(failed)
            .chain([last])
        {
            serde_json::to_writer(&mut *out, &line)?;
            out.write_all(b"\n")?;
        }
        Ok(())
    }

    /// Reads a file.
    ///
    /// # Errors
    /// If it is not, word for word, a whole history of this version: the first line that is wrong, and what was expected.
    pub fn read(mut input: impl BufRead) -> Result<Self, ReadError> {
        let mut history = Self::new();
        let mut buffer = Vec::new();
        let mut number = 0;
        let mut ended = false;
        let mut now = 0;
        loop {
            buffer.clear();
            let read = (&mut input)
                .take(LINE_BYTES_MAX + 1)
                .read_until(b'\n', &mut buffer)?;
            number += 1;
            let wrong = |reason: String| ReadError::Line {
                line: number,
                reason,
            };
            if read == 0 {
                break;
            }
            if read as u64 > LINE_BYTES_MAX {
                return Err(wrong(format!(
                    "the line has more than {LINE_BYTES_MAX} bytes"
                )));
            }
            if ended {
                return Err(wrong(
                    "something follows the line that ends the history".to_owned(),
                ));
            }
            if number == 1 {
                header(&buffer).map_err(wrong)?;
                continue;
            }
            match entry(&buffer).map_err(wrong)? {
                Entry::End(operations) if operations == history.operations().len() as u64 => {
                    ended = true;
                }
                Entry::End(operations) => {
                    return Err(wrong(format!(
                        "the history says that it has {operations} operations, but {} were found",
                        history.operations().len()
                    )));
                }
                entry => add(&mut history, &mut now, entry).map_err(wrong)?,
            }
        }
        if !ended {
            let reason = if number == 1 {
                format!("the file is empty, expected {{\"flotilla_history\":{VERSION}}}")
            } else {
                format!(
                    "the file is cut: expected {{\"operations\":{}}} at its end, or more events before",
                    history.operations().len()
                )
            };
            return Err(ReadError::Line {
                line: number,
                reason,
            });
        }
        Ok(history)
    }
}

/// Parses one line of JSON.
fn parse(line: &[u8]) -> Result<Line, String> {
    serde_json::from_slice(line).map_err(|error| {
        // The message names line 1 of what it was given: our line. The column is worth keeping.
        let text = error.to_string();
        let what = text.split(" at line ").next().unwrap_or(&text);
        format!("{what} (column {})", error.column())
    })
}

fn header(line: &[u8]) -> Result<(), String> {
    let expected = format!("expected {{\"flotilla_history\":{VERSION}}}");
    match parse(line) {
        Ok(Line {
            flotilla_history: Some(VERSION),
            op: None,
            at: None,
            client: None,
            call: None,
            ok: None,
            failed: None,
            operations: None,
        }) => Ok(()),
        Ok(Line {
            flotilla_history: Some(version),
            ..
        }) if version != VERSION => Err(format!(
            "the history has version {version}, this program reads version {VERSION}"
        )),
        Ok(_) => Err(format!("this is no beginning of a history, {expected}")),
        Err(reason) => Err(format!(
            "this is no beginning of a history, {expected}: {reason}"
        )),
    }
}

fn entry(line: &[u8]) -> Result<Entry, String> {
    match parse(line)? {
        Line {
            op: Some(op),
            at: Some(at),
            client: Some(client),
            call: Some(call),
            flotilla_history: None,
            ok: None,
            failed: None,
            operations: None,
        } => Ok(Entry::Call(op, at, client, call)),
        Line {
            op: Some(op),
            at: Some(at),
            ok: Some(answer),
            flotilla_history: None,
            client: None,
            call: None,
            failed: None,
            operations: None,
        } => Ok(Entry::Ok(op, at, answer)),
        Line {
            op: Some(op),
            failed: Some(true),
            flotilla_history: None,
            at: None,
            client: None,
            call: None,
            ok: None,
            operations: None,
        } => Ok(Entry::Failed(op)),
        Line {
            operations: Some(operations),
            flotilla_history: None,
            op: None,
            at: None,
            client: None,
            call: None,
            ok: None,
            failed: None,
        } => Ok(Entry::End(operations)),
        _ => Err(
            "the fields do not make an event, expected op, at, client and call; or op, at and ok; or op and \
             \"failed\":true; or operations alone"
                .to_owned(),
        ),
    }
}

fn add(history: &mut History, now: &mut u64, entry: Entry) -> Result<(), String> {
    let mut advance = |at: u64| {
        if at < *now {
            return Err(format!(
                "the clock goes back to {at}, expected {now} or later"
            ));
        }
        *now = at;
        Ok(())
    };
    let misuse = |misuse: Misuse| misuse.to_string();
    match entry {
        Entry::Call(op, at, client, call) => {
            advance(at)?;
            let expected = history.operations().len() as u64;
            if op.0 != expected {
                return Err(format!(
                    "a call of operation {}, expected {expected}: operations are numbered in the order of their calls",
                    op.0
                ));
            }
            history
                .try_invoke(client, call, at)
                .map(drop)
                .map_err(misuse)
        }
        Entry::Ok(op, at, answer) => {
            advance(at)?;
            history.try_ok(op, answer, at).map_err(misuse)
        }
        Entry::Failed(op) => history.try_failed(op).map_err(misuse),
        Entry::End(_) => Ok(()),
    }
}
