//! Single keys and ranges: put, get, delete, cas, scan.

use std::io::Read as _;

use bytes::Bytes;
use clap::{ArgGroup, Args};
use serde_json::json;

use super::{
    Context,
    failure::{Failure, Outcome},
    output::{Format, Out, talk},
    records::Record,
};
use crate::client::{Consistency, ScanOptions, WriteBatch, prefix_end};

/// Arguments of `put`.
#[derive(Debug, Args)]
pub(super) struct Put {
    /// Key
    key: String,
    /// Value; `-` takes standard input as it is
    #[arg(allow_hyphen_values = true)]
    value: String,
}

impl Put {
    pub(super) async fn run(self, context: &Context, out: &mut Out) -> Outcome {
        let key = context.read("KEY", &self.key)?;
        let value = value(context, "VALUE", &self.value)?;
        let revision = context.client().await?.put(key, value).await?;
        match context.global.output {
            Format::Table => talk(format!("written, revision {revision}")),
            format => out.json(format, &json!({ "revision": revision }))?,
        }
        Ok(())
    }
}

/// Arguments of `get`.
#[derive(Debug, Args)]
pub(super) struct Get {
    /// Key
    key: String,
    /// Take what the asked node has: possibly old, but also without a quorum
    #[arg(long)]
    serializable: bool,
    /// Print the value's bytes as they are, without a line end
    #[arg(long, conflicts_with = "output")]
    raw: bool,
}

impl Get {
    pub(super) async fn run(self, context: &Context, out: &mut Out) -> Outcome {
        let key = context.read("KEY", &self.key)?;
        let client = context.client().await?;
        let found = client
            .get_with(key.clone(), consistency(self.serializable))
            .await?;
        let Some(found) = found else {
            return Err(Failure::NotFound(format!(
                "there is no key \"{}\"",
                context.show(&key)
            )));
        };
        if self.raw {
            return out.bytes(&found.value);
        }
        match context.global.output {
            Format::Table => out.line(context.show(&found.value)),
            format => {
                let record = Record {
                    key,
                    value: Some(found.value),
                };
                out.json(
                    format,
                    &record.to_json(context.notation, Some(found.revision)),
                )
            }
        }
    }
}

/// Arguments of `delete`.
#[derive(Debug, Args)]
pub(super) struct Delete {
    /// Key
    key: String,
}

impl Delete {
    pub(super) async fn run(self, context: &Context, out: &mut Out) -> Outcome {
        let key = context.read("KEY", &self.key)?;
        let answer = context.client().await?.delete(key.clone()).await?;
        match context.global.output {
            Format::Table if answer.deleted => {
                talk(format!("deleted, revision {}", answer.revision));
            }
            Format::Table => talk(format!("there was no key \"{}\"", context.show(&key))),
            format => out.json(
                format,
                &json!({ "deleted": answer.deleted, "revision": answer.revision }),
            )?,
        }
        Ok(())
    }
}

/// Arguments of `cas`.
#[derive(Debug, Args)]
#[command(after_help = "\
Exactly one condition is given. If it does not hold, nothing is written and the exit code is 1.
The write is made in a session: it is applied once, even if its answer is lost and it has to be sent again.")]
#[command(group = ArgGroup::new("condition").required(true).args(["expect", "absent", "exists", "revision"]))]
pub(super) struct Cas {
    /// Key
    key: String,
    /// Only if the key has this value
    #[arg(long, value_name = "VALUE", allow_hyphen_values = true)]
    expect: Option<String>,
    /// Only if the key does not exist
    #[arg(long)]
    absent: bool,
    /// Only if the key exists, whatever its value
    #[arg(long)]
    exists: bool,
    /// Only if the key's value has this revision, as `get -w json` shows it
    #[arg(long, value_name = "N")]
    revision: Option<u64>,
    /// The value to write; `-` takes standard input as it is
    #[arg(long, value_name = "VALUE", allow_hyphen_values = true)]
    value: String,
}

impl Cas {
    pub(super) async fn run(self, context: &Context, out: &mut Out) -> Outcome {
        let key = context.read("KEY", &self.key)?;
        let new = value(context, "--value", &self.value)?;
        let batch = WriteBatch::new();
        let (batch, broken) = if let Some(expected) = &self.expect {
            let expected = context.read("--expect", expected)?;
            let broken = format!("does not have the value \"{}\"", context.show(&expected));
            (batch.if_value(key.clone(), expected), broken)
        } else if let Some(revision) = self.revision {
            let broken = format!("does not have revision {revision}");
            (batch.if_revision(key.clone(), revision), broken)
        } else if self.absent {
            (batch.if_exists(key.clone(), false), "exists".to_owned())
        } else {
            let broken = "does not exist".to_owned();
            (batch.if_exists(key.clone(), true), broken)
        };
        let session = context.client().await?.session();
        let answer = session.batch(batch.put(key.clone(), new)).await?;
        if let Err(error) = session.close().await {
            // The shard forgets the session by itself, later.
            talk(format!("note: the session was not closed: {error}"));
        }
        let succeeded = answer.failed_condition.is_none();
        if context.global.output != Format::Table {
            out.json(
                context.global.output,
                &json!({ "succeeded": succeeded, "revision": answer.revision }),
            )?;
        }
        if !succeeded {
            return Err(Failure::Condition(format!(
                "nothing was written: key \"{}\" {broken}",
                context.show(&key)
            )));
        }
        if context.global.output == Format::Table {
            talk(format!("written, revision {}", answer.revision));
        }
        Ok(())
    }
}

/// Arguments of `scan`.
#[derive(Debug, Args)]
#[command(after_help = "\
Rows are printed as they come: `key<TAB>value`, or with -w ndjson in the form that `import` reads.
The pages of a scan are each read at a moment of their own; writes in between may be seen or not.")]
pub(super) struct Scan {
    /// First key of the range [default: the first of all]
    start: Option<String>,
    /// First key after the range [default: to the last of all]
    end: Option<String>,
    /// All keys that begin with this
    #[arg(long, value_name = "KEY", conflicts_with_all = ["start", "end"])]
    prefix: Option<String>,
    /// Rows at most
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// From the last key to the first
    #[arg(long)]
    reverse: bool,
    /// Print keys without values
    #[arg(long)]
    keys_only: bool,
    /// Take what the asked nodes have: possibly old, but also without a quorum
    #[arg(long)]
    serializable: bool,
}

impl Scan {
    pub(super) async fn run(self, context: &Context, out: &mut Out) -> Outcome {
        let (start, end) = match &self.prefix {
            Some(prefix) => {
                let prefix = context.read("--prefix", prefix)?;
                let end = prefix_end(&prefix);
                (prefix, end)
            }
            None => (
                context.read("START", self.start.as_deref().unwrap_or_default())?,
                context.read("END", self.end.as_deref().unwrap_or_default())?,
            ),
        };
        if !end.is_empty() && start > end {
            return Err(Failure::Usage(format!(
                "END \"{}\" is not above START \"{}\"; for descending order use --reverse",
                context.show(&end),
                context.show(&start)
            )));
        }
        let mut scan = context.client().await?.scan(ScanOptions {
            start,
            end,
            limit: self.limit,
            page_rows: 0,
            reverse: self.reverse,
            keys_only: self.keys_only,
            consistency: consistency(self.serializable),
        });
        let format = context.global.output;
        let mut first = true;
        if format == Format::Json {
            out.bytes(b"[")?;
        }
        while let Some(page) = scan.next_page().await? {
            for row in page {
                let record = Record {
                    key: row.key,
                    value: (!self.keys_only).then_some(row.value),
                };
                match format {
                    Format::Table => {
                        let mut line = context.show(&record.key);
                        if let Some(value) = &record.value {
                            line.push('\t');
                            line.push_str(&context.show(value));
                        }
                        out.line(line)?;
                    }
                    Format::Json | Format::Ndjson => {
                        if format == Format::Json {
                            out.bytes(if first { b"\n" } else { b"," })?;
                        }
                        let row = record.to_json(context.notation, Some(row.revision));
                        out.json(Format::Ndjson, &row)?;
                    }
                }
                first = false;
            }
            out.flush()?;
        }
        if format == Format::Json {
            out.line("]")?;
        }
        Ok(())
    }
}

fn consistency(serializable: bool) -> Consistency {
    if serializable {
        Consistency::Serializable
    } else {
        Consistency::Linearizable
    }
}

/// A value as typed, or standard input.
fn value(context: &Context, name: &str, text: &str) -> Outcome<Bytes> {
    if text != "-" {
        return context.read(name, text);
    }
    let mut value = Vec::new();
    std::io::stdin()
        .lock()
        .read_to_end(&mut value)
        .map_err(Failure::file("standard input"))?;
    Ok(value.into())
}
