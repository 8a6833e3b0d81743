//! Operations as lines that people read in an explanation.

use crate::operation::{Answer, Call, Change, Found, Level, Operation, Outcome, Test};
use crate::text::escape;
use std::fmt;

/// Characters of one value that are shown.
const VALUE_CHARS: usize = 40;
/// Items of one list that are shown.
const ITEMS: usize = 8;

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            id,
            client,
            call,
            invoked,
            outcome,
        } = self;
        write!(f, "{id} {client} [{}, ", invoked.at)?;
        match outcome {
            Outcome::Ok { answer, returned } => {
                write!(
                    f,
                    "{}] {} -> {}",
                    returned.at,
                    show_call(call),
                    show_answer(answer)
                )
            }
            Outcome::Failed => write!(f, "failed] {}", show_call(call)),
            Outcome::Unknown => write!(f, "unknown] {}", show_call(call)),
        }
    }
}

/// A byte string, shortened in its middle.
pub(crate) fn short(bytes: &[u8]) -> String {
    let text = escape(bytes);
    if text.len() <= VALUE_CHARS {
        return text;
    }
    let half = VALUE_CHARS / 2;
    // All characters of escaped text are of one byte.
    format!("{}…{}", &text[..half], &text[text.len() - half..])
}

fn list(items: impl ExactSizeIterator<Item = String>) -> String {
    let count = items.len();
    let mut shown: Vec<String> = items.take(ITEMS).collect();
    if count > ITEMS {
        shown.push(format!("… {count} in all"));
    }
    shown.join(", ")
}

fn level(level: Level) -> String {
    match level {
        Level::Linearizable => String::new(),
        Level::Serializable => " serializable".to_owned(),
        Level::Monotonic => " monotonic".to_owned(),
        Level::Replica(replica) => format!(" at replica {replica}"),
    }
}

fn show_call(call: &Call) -> String {
    match call {
        Call::Get { key, level: of } => format!("get {}{}", short(key), level(*of)),
        Call::BatchGet {
            keys,
            level: of,
            at_once,
        } => {
            let at_once = if *at_once { " at once" } else { "" };
            let keys = list(keys.iter().map(|key| short(key)));
            format!("batch get {keys}{}{at_once}", level(*of))
        }
        Call::Put { key, value } => format!("put {} = {}", short(key), short(value)),
        Call::Delete { key } => format!("delete {}", short(key)),
        Call::Batch {
            conditions,
            changes,
        } => {
            let conditions = list(conditions.iter().map(|condition| {
                let key = short(&condition.key);
                match &condition.test {
                    Test::Exists(true) => format!("{key} exists"),
                    Test::Exists(false) => format!("{key} is absent"),
                    Test::ValueEquals(value) => format!("{key} is {}", short(value)),
                    Test::RevisionEquals(revision) => format!("{key} has revision {revision}"),
                }
            }));
            let changes = list(changes.iter().map(|change| match change {
                Change::Put { key, value } => format!("put {} = {}", short(key), short(value)),
                Change::Delete { key } => format!("delete {}", short(key)),
            }));
            if conditions.is_empty() {
                format!("batch ({changes})")
            } else {
                format!("batch if ({conditions}) then ({changes})")
            }
        }
        Call::Scan {
            start,
            end,
            reverse,
            level: of,
            at_once,
        } => {
            let reverse = if *reverse { " in reverse" } else { "" };
            let at_once = if *at_once { " at once" } else { "" };
            format!(
                "scan [{}, {}){reverse}{}{at_once}",
                short(start),
                short(end),
                level(*of)
            )
        }
        Call::Append {
            list,
            element,
            session,
        } => {
            let session = session.map_or(String::new(), |(session, sequence)| {
                format!(" as {sequence} of session {session}")
            });
            format!("append {} to {}{session}", short(element), short(list))
        }
        Call::ReadList { list } => format!("read list {}", short(list)),
        Call::Increment { counter } => format!("increment {}", short(counter)),
        Call::ReadCounter { counter } => format!("read counter {}", short(counter)),
    }
}

fn revised(text: String, revision: u64) -> String {
    if revision == 0 {
        text
    } else {
        format!("{text} @{revision}")
    }
}

fn found(found: Option<&Found>) -> String {
    found.map_or_else(
        || "absent".to_owned(),
        |found| revised(short(&found.value), found.revision),
    )
}

fn show_answer(answer: &Answer) -> String {
    match answer {
        Answer::Get(value) => found(value.as_ref()),
        Answer::BatchGet(values) => list(values.iter().map(|value| found(value.as_ref()))),
        Answer::Put { revision } => revised("ok".to_owned(), *revision),
        Answer::Delete { deleted, revision } => revised(
            if *deleted { "deleted" } else { "was absent" }.to_owned(),
            *revision,
        ),
        Answer::Batch { revision, deleted } => {
            let deleted = deleted.map_or(String::new(), |deleted| format!(", {deleted} deleted"));
            revised("done".to_owned(), *revision) + &deleted
        }
        Answer::ConditionFailed { first } => first.map_or_else(
            || "a condition failed".to_owned(),
            |first| format!("condition {first} failed"),
        ),
        Answer::Scan { rows, next } => {
            let next = next.as_ref().map_or(String::new(), |next| {
                format!("; goes on at {}", short(next))
            });
            let rows = list(rows.iter().map(|row| {
                let value = row
                    .value
                    .as_ref()
                    .map_or(String::new(), |value| format!(" = {}", short(value)));
                revised(short(&row.key) + &value, row.revision)
            }));
            format!("({rows}){next}")
        }
        Answer::Append => "ok".to_owned(),
        Answer::ReadList(elements) => {
            format!("[{}]", list(elements.iter().map(|element| short(element))))
        }
        Answer::Increment { value } => {
            value.map_or_else(|| "ok".to_owned(), |value| value.to_string())
        }
        Answer::ReadCounter(value) => value.to_string(),
    }
}
