//! Writes the records of a file to the cluster: many at once, each exactly once.
//!
//! One thread reads and parses the file; one task keeps a bounded number of writes in flight. The place up to which all
//! records are settled (acknowledged by the cluster, or reported as rejected) is what an interrupted import goes on from.

mod rejects;
mod settled;

use std::{
    collections::{HashSet, VecDeque},
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use bytes::Bytes;
use clap::Args;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use serde::{Deserialize, Serialize};
use tokio::{sync::mpsc, task::JoinHandle};

use self::{
    rejects::{Rejected, Rejects},
    settled::{Fate, Settled},
};
use super::{
    Context,
    escape::Notation,
    failure::{Failure, Outcome},
    output::{Format, Out, talk},
    progress::{Progress, Unit},
    records::{FileFormat, Item, Place, Reader, Record},
    resume::StateFile,
};
use crate::client::{self, Client, Error, Session};

/// Items that travel together from the reading thread, and such groups on the way.
const GROUP: usize = 256;
const GROUPS_AHEAD: usize = 4;
/// The state is stored this often.
const STATE_PAUSE: Duration = Duration::from_secs(1);

/// Arguments of `import`.
#[derive(Debug, Args)]
#[command(after_help = "\
ndjson: one {\"key\":\"…\",\"value\":\"…\"} per line, text as it is; with \"base64\":true both hold base64.
csv: a header line key,value, then one record per line. With --hex, keys and values of both hold hex digits.
Of records with the same key the last one stays. Every record is written exactly once, also through a node's death.
What cannot be written is reported in FILE.rejected.ndjson with line and reason, and the exit code is 1.
If the cluster is out of reach for longer than --timeout, the import stops; with --resume it goes on from there.")]
pub(super) struct Import {
    /// File to read; `-` is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Form of the file [default: by its name; ndjson for standard input]
    #[arg(long)]
    format: Option<FileFormat>,
    /// Keep the state of the import in this file, and go on from the state in it if there is one
    #[arg(long, value_name = "STATEFILE")]
    resume: Option<PathBuf>,
    /// Writes in flight at once
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u16).range(1..=4096))]
    concurrency: u16,
}

impl Import {
    pub(super) async fn run(self, context: &Context, out: &mut Out) -> Outcome {
        let stdin = self.file.as_os_str() == "-";
        if stdin && self.resume.is_some() {
            return Err(Failure::Usage(
                "standard input cannot be resumed: write it to a file first".to_owned(),
            ));
        }
        let format = match self.format {
            None if stdin => FileFormat::Ndjson,
            given => FileFormat::of(given, &self.file)?,
        };
        if !stdin {
            // Said before the cluster is asked.
            fs::metadata(&self.file).map_err(Failure::file(&self.file))?;
        }
        let job = Job {
            input: (!stdin).then_some(self.file),
            format,
            notation: context.notation,
            concurrency: self.concurrency.into(),
            state: self.resume,
        };
        let summary = job.run(&context.client().await?).await?;
        match context.global.output {
            Format::Table => talk(summary.to_string()),
            format => out.json(format, &summary)?,
        }
        summary.verdict()
    }
}

/// One import.
#[derive(Debug)]
pub(super) struct Job {
    /// `None`: standard input.
    pub(super) input: Option<PathBuf>,
    pub(super) format: FileFormat,
    pub(super) notation: Notation,
    pub(super) concurrency: usize,
    pub(super) state: Option<PathBuf>,
}

/// What an import has done, this run and those that it goes on from.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    /// Acknowledged by the cluster.
    pub(super) written: u64,
    /// Reported in the file of rejected records.
    pub(super) rejected: u64,
    rejected_file: Option<PathBuf>,
    /// Why the import ended before the file did.
    pub(super) stopped: Option<String>,
    /// All lines up to this one are settled.
    settled_lines: u64,
    seconds: f64,
    records_per_second: f64,
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} records written, {:.0} per second",
            self.written, self.records_per_second
        )
    }
}

impl Summary {
    /// Success only if every record was written.
    pub(super) fn verdict(&self) -> Outcome {
        let rejected = match &self.rejected_file {
            Some(path) if self.rejected > 0 => {
                format!(
                    "{} records were not written, see {}",
                    self.rejected,
                    path.display()
                )
            }
            _ => String::new(),
        };
        match &self.stopped {
            Some(reason) => Err(Failure::Incomplete(format!(
                "the import stopped: {reason}; all lines up to {} are settled, later ones may or may not be written{}{rejected}",
                self.settled_lines,
                if rejected.is_empty() { "" } else { "; " }
            ))),
            None if self.rejected > 0 => Err(Failure::Incomplete(rejected)),
            None => Ok(()),
        }
    }
}

/// What the state file holds.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct State {
    import: PathBuf,
    format: FileFormat,
    hex: bool,
    #[serde(rename = "settled")]
    place: Place,
    written: u64,
    rejected: u64,
}

impl Job {
    /// Runs the import to its end, to the first record that the cluster does not take in time, or to Ctrl-C.
    ///
    /// # Errors
    /// If a file cannot be read or written. That records were not written is part of the summary.
    pub(super) async fn run(self, client: &Client) -> Outcome<Summary> {
        let name = match &self.input {
            Some(path) => fs::canonicalize(path).map_err(Failure::file(path))?,
            None => "stdin".into(),
        };
        let fresh = State {
            import: name,
            format: self.format,
            hex: self.notation == Notation::Hex,
            place: Place::default(),
            written: 0,
            rejected: 0,
        };
        let (state_file, state) = match &self.state {
            Some(path) => {
                let (file, known) = StateFile::open::<State>(path)?;
                let state = match known {
                    Some(known) => check_same(path, known, &fresh)?,
                    None => fresh,
                };
                (Some(file), state)
            }
            None => (None, fresh),
        };
        let (length, reader) = match &self.input {
            Some(path) => {
                let length = fs::metadata(path).map_err(Failure::file(path))?.len();
                let reader = Reader::open(path, self.format, self.notation, state.place)?;
                (Some(length), reader)
            }
            None => (None, Reader::stdin(self.format, self.notation)?),
        };
        let rejects = Rejects::new(self.input.as_deref(), state.place.lines)?;
        let progress = Progress::new(Unit::Bytes, length, state.place.offset, state.written);
        let run = Run {
            session: client.session(),
            concurrency: self.concurrency,
            settled: Settled::new(state.place, state.written, state.rejected),
            written: state.written,
            rejected: state.rejected,
            state,
            state_file,
            stored: Instant::now(),
            rejects,
            progress,
            stopped: None,
        };
        run.run(Ahead::of(reader)).await
    }
}

fn check_same(path: &Path, known: State, now: &State) -> Outcome<State> {
    if (&known.import, known.format, known.hex) == (&now.import, now.format, now.hex) {
        // A line has a byte at least, and so has a record.
        let records = known.written.checked_add(known.rejected);
        let Place { offset, lines } = known.place;
        if lines <= offset && records.is_some_and(|records| records <= offset) {
            return Ok(known);
        }
        return Err(Failure::Usage(format!(
            "the state file {} is damaged: {lines} lines, {} written and {} rejected records in {offset} bytes; delete it to start over",
            path.display(),
            known.written,
            known.rejected
        )));
    }
    Err(Failure::Usage(format!(
        "the state file {} belongs to the import of {} ({:?}{}), not of {}; name another state file",
        path.display(),
        known.import.display(),
        known.format,
        if known.hex { ", hex" } else { "" },
        now.import.display()
    )))
}

/// What is read on a thread of its own, a bounded way ahead.
struct Ahead {
    groups: mpsc::Receiver<io::Result<Vec<Item>>>,
    reading: JoinHandle<()>,
}

impl Ahead {
    fn of(items: impl Iterator<Item = io::Result<Item>> + Send + 'static) -> Self {
        let (sender, groups) = mpsc::channel(GROUPS_AHEAD);
        let reading = tokio::task::spawn_blocking(move || {
            let mut group = Vec::with_capacity(GROUP);
            for item in items {
                match item {
                    Ok(item) => group.push(item),
                    Err(error) => {
                        // Nobody waits: the import has stopped.
                        let _ = sender.blocking_send(Ok(group));
                        let _ = sender.blocking_send(Err(error));
                        return;
                    }
                }
                if group.len() == GROUP
                    && sender
                        .blocking_send(Ok(std::mem::take(&mut group)))
                        .is_err()
                {
                    return;
                }
            }
            let _ = sender.blocking_send(Ok(group));
        });
        Self { groups, reading }
    }

    /// The next group, or none at the end of the input. Not to be asked again after an error.
    async fn next(&mut self) -> Option<io::Result<Vec<Item>>> {
        if let Some(group) = self.groups.recv().await {
            return Some(group);
        }
        // A thread that panicked has not come to the end.
        let ended = (&mut self.reading).await;
        ended.err().map(|error| Err(io::Error::other(error)))
    }
}

/// An import in progress.
struct Run {
    session: Session,
    concurrency: usize,
    settled: Settled,
    /// Acknowledged, settled or not.
    written: u64,
    /// Reported, settled or not.
    rejected: u64,
    state: State,
    state_file: Option<StateFile>,
    stored: Instant,
    rejects: Rejects,
    progress: Progress,
    stopped: Option<String>,
}

/// A write that has ended.
struct Ended {
    ticket: u64,
    line: u64,
    record: Record,
    result: client::Result<u64>,
}

async fn write(session: Session, ticket: u64, line: u64, record: Record) -> Ended {
    let value = record.value.clone().unwrap_or_default();
    let result = session.put(record.key.clone(), value).await;
    Ended {
        ticket,
        line,
        record,
        result,
    }
}

impl Run {
    async fn run(mut self, mut items: Ahead) -> Outcome<Summary> {
        let mut writes = FuturesUnordered::new();
        // Two writes of one key are not in flight together: the later record has to win.
        let mut keys: HashSet<Bytes> = HashSet::new();
        let mut queue: VecDeque<Item> = VecDeque::new();
        let mut more = true;
        let interrupted = tokio::signal::ctrl_c();
        tokio::pin!(interrupted);
        let mut watch_interrupt = true;
        loop {
            if self.stopped.is_some() {
                queue.clear();
                more = false;
            }
            while writes.len() < self.concurrency
                && let Some(item) = queue.front()
            {
                match &item.content {
                    Ok(record) if keys.contains(&record.key) => break,
                    Ok(_) | Err(_) => {}
                }
                let item = queue.pop_front().expect("front() saw it");
                let ticket = self.settled.begin(item.end);
                match item.content {
                    Ok(record) => {
                        keys.insert(record.key.clone());
                        writes.push(write(self.session.clone(), ticket, item.line, record));
                    }
                    Err(malformed) => {
                        self.reject(item.line, Rejected::Malformed(malformed))?;
                        self.settled.end(ticket, Fate::Rejected);
                    }
                }
            }
            if queue.is_empty() && !more && writes.is_empty() {
                break;
            }
            tokio::select! {
                Some(ended) = writes.next(), if !writes.is_empty() => {
                    keys.remove(&ended.record.key);
                    self.end(ended)?;
                }
                group = items.next(), if queue.is_empty() && more => match group {
                    Some(Ok(group)) => queue.extend(group),
                    Some(Err(error)) => self.stopped = Some(format!("the input cannot be read: {error}")),
                    None => more = false,
                },
                _ = &mut interrupted, if watch_interrupt => {
                    watch_interrupt = false;
                    self.stopped = Some("interrupted".to_owned());
                }
            }
            self.show()?;
        }
        self.finish().await
    }

    fn end(&mut self, ended: Ended) -> Outcome {
        match ended.result {
            Ok(_) => {
                self.written += 1;
                self.settled.end(ended.ticket, Fate::Written);
                Ok(())
            }
            Err(error @ (Error::InvalidArgument { .. } | Error::CrossShard { .. })) => {
                self.reject(ended.line, Rejected::Refused(&ended.record, &error))?;
                self.settled.end(ended.ticket, Fate::Rejected);
                Ok(())
            }
            Err(error) => {
                // Not this record's fault: without the cluster there is no point in going on. It stays unsettled.
                self.reject(ended.line, Rejected::Refused(&ended.record, &error))?;
                self.stopped.get_or_insert_with(|| error.to_string());
                Ok(())
            }
        }
    }

    fn reject(&mut self, line: u64, rejected: Rejected<'_>) -> Outcome {
        self.rejected += 1;
        self.rejects.write(line, rejected)
    }

    fn show(&mut self) -> Outcome {
        self.progress
            .update(self.settled.place().offset, self.written);
        if self.stored.elapsed() >= STATE_PAUSE {
            self.stored = Instant::now();
            self.store()?;
        }
        Ok(())
    }

    fn store(&mut self) -> Outcome {
        // The state must not claim that a record was reported which then was not.
        self.rejects.flush()?;
        self.state.place = self.settled.place();
        self.state.written = self.settled.written();
        self.state.rejected = self.settled.rejected();
        match &self.state_file {
            Some(file) => file.store(&self.state),
            None => Ok(()),
        }
    }

    async fn finish(mut self) -> Outcome<Summary> {
        self.store()?;
        self.progress.finish();
        if self.stopped.is_none()
            && let Err(error) = self.session.close().await
        {
            // Shards forget sessions by themselves, later.
            talk(format!("note: the session was not closed: {error}"));
        }
        let rate = self.progress.rate(self.written);
        Ok(Summary {
            written: self.written,
            rejected: self.rejected,
            rejected_file: (self.rejected > 0).then_some(self.rejects.path),
            stopped: self.stopped,
            settled_lines: self.settled.place().lines,
            seconds: self.progress.seconds(),
            records_per_second: rate,
        })
    }
}

#[cfg(test)]
mod tests;
