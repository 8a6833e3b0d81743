//! Writes a range of keys to a file.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use bytes::Bytes;
use clap::Args;
use serde::{Deserialize, Serialize};

use super::{
    Context,
    escape::{Notation, escape, unescape},
    failure::{Failure, Outcome},
    output::{Format, Out, talk},
    progress::{Progress, Unit},
    records::{FileFormat, Record, Writer},
    resume::StateFile,
};
use crate::client::{Client, Consistency, ScanOptions, prefix_end};

/// The state is stored this often.
const STATE_PAUSE: Duration = Duration::from_secs(1);

/// Arguments of `export`.
#[derive(Debug, Args)]
#[command(after_help = "\
The file can be imported again, see `flotilla import --help` for its form.
The export is read page by page, each at a moment of its own; writes in between may be in it or not.")]
pub(super) struct Export {
    /// File to write; `-` is standard output
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Form of the file [default: by its name; ndjson for standard output]
    #[arg(long)]
    format: Option<FileFormat>,
    /// All keys that begin with this
    #[arg(long, value_name = "KEY", conflicts_with_all = ["start", "end"])]
    prefix: Option<String>,
    /// First key of the range
    #[arg(long, value_name = "KEY")]
    start: Option<String>,
    /// First key after the range
    #[arg(long, value_name = "KEY")]
    end: Option<String>,
    /// Keep the state of the export in this file, and go on from the state in it if there is one
    #[arg(long, value_name = "STATEFILE")]
    resume: Option<PathBuf>,
    /// Take what the asked nodes have: possibly old, but also without a quorum
    #[arg(long)]
    serializable: bool,
}

/// What the state file holds.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct State {
    export: PathBuf,
    format: FileFormat,
    hex: bool,
    /// The range as asked for, escaped.
    start: String,
    end: String,
    /// The range from here on is left, escaped.
    next: String,
    /// Bytes of the file that hold the rows before `next`.
    bytes: u64,
    records: u64,
    done: bool,
}

#[derive(Serialize)]
struct Summary {
    records: u64,
    records_per_second: f64,
}

impl Export {
    pub(super) async fn run(self, context: &Context, out: &mut Out) -> Outcome {
        let stdout = self.file.as_os_str() == "-";
        if stdout && self.resume.is_some() {
            return Err(Failure::Usage(
                "standard output cannot be resumed: export to a file".to_owned(),
            ));
        }
        let format = match self.format {
            None if stdout => FileFormat::Ndjson,
            given => FileFormat::of(given, &self.file)?,
        };
        let key =
            |name, text: &Option<String>| context.read(name, text.as_deref().unwrap_or_default());
        let (start, end) = match &self.prefix {
            Some(prefix) => {
                let prefix = context.read("--prefix", prefix)?;
                let end = prefix_end(&prefix);
                (prefix, end)
            }
            None => (key("--start", &self.start)?, key("--end", &self.end)?),
        };
        let fresh = State {
            export: std::path::absolute(&self.file).map_err(Failure::file(&self.file))?,
            format,
            hex: context.notation == Notation::Hex,
            start: escape(&start),
            end: escape(&end),
            next: escape(&start),
            bytes: 0,
            records: 0,
            done: false,
        };
        let (state_file, state) = match &self.resume {
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
        if state.done {
            talk("this export is complete already");
            return Ok(());
        }
        let client = context.client().await?;
        let next = unescape(&state.next)
            .map_err(|error| Failure::Usage(format!("the state file is damaged: {error}")))?;
        let scan = ScanOptions {
            start: next,
            end: end.clone(),
            consistency: if self.serializable {
                Consistency::Serializable
            } else {
                Consistency::Linearizable
            },
            ..ScanOptions::default()
        };
        let shards = Shards::of(&client, &start, &end);
        let progress = Progress::new(
            Unit::Shards,
            Some(shards.total()),
            shards.passed(&scan.start),
            state.records,
        );
        let mut run = Run {
            state,
            state_file,
            stored: Instant::now(),
            progress,
            shards,
        };
        let result = if stdout {
            run.copy(&client, scan, Counted::new(&mut *out, 0), context.notation)
                .await
        } else {
            let file = open(&self.file, run.state.bytes)?;
            let output = Counted::new(BufWriter::with_capacity(256 << 10, file), run.state.bytes);
            run.copy(&client, scan, output, context.notation).await
        };
        run.progress.finish();
        result?;
        let summary = Summary {
            records: run.state.records,
            records_per_second: run.progress.rate(run.state.records),
        };
        // Standard output may hold the data itself.
        match context.global.output {
            format if format != Format::Table && !stdout => out.json(format, &summary),
            _ => {
                talk(format!(
                    "{} records exported, {:.0} per second",
                    summary.records, summary.records_per_second
                ));
                Ok(())
            }
        }
    }
}

fn check_same(path: &Path, known: State, now: &State) -> Outcome<State> {
    let same = (&known.export, known.format, known.hex) == (&now.export, now.format, now.hex)
        && (&known.start, &known.end) == (&now.start, &now.end);
    if same && known.records <= known.bytes {
        return Ok(known);
    }
    if same {
        return Err(Failure::Usage(format!(
            "the state file {} is damaged: {} records in {} bytes; delete it to start over",
            path.display(),
            known.records,
            known.bytes
        )));
    }
    Err(Failure::Usage(format!(
        "the state file {} belongs to the export of [\"{}\", \"{}\") to {} ({:?}{}); name another state file",
        path.display(),
        known.start,
        known.end,
        known.export.display(),
        known.format,
        if known.hex { ", hex" } else { "" },
    )))
}

/// A new file, or the one of an earlier run, cut to what is known to be good.
fn open(path: &Path, keep: u64) -> Outcome<File> {
    if keep == 0 {
        return File::create(path).map_err(Failure::file(path));
    }
    let length = fs::metadata(path).map_err(Failure::file(path))?.len();
    if length < keep {
        return Err(Failure::Usage(format!(
            "{} has {length} bytes, but the state file knows of {keep}: it was changed; delete the state file to start over",
            path.display()
        )));
    }
    let file = OpenOptions::new()
        .append(true)
        .open(path)
        .map_err(Failure::file(path))?;
    file.set_len(keep).map_err(Failure::file(path))?;
    Ok(file)
}

/// The shards of the range, for showing how far the export is.
struct Shards {
    ends: Vec<Bytes>,
}

impl Shards {
    fn of(client: &Client, start: &Bytes, end: &Bytes) -> Self {
        let ends = client
            .routes()
            .into_iter()
            .map(|route| route.descriptor.range.clone())
            .filter(|range| {
                (range.is_open() || range.end() > start) && (end.is_empty() || range.start() < end)
            })
            .map(|range| range.end().clone())
            .collect();
        Self { ends }
    }

    fn total(&self) -> u64 {
        self.ends.len().max(1) as u64
    }

    /// Shards that lie before `key`.
    fn passed(&self, key: &Bytes) -> u64 {
        let before = |end: &&Bytes| !end.is_empty() && *end <= key;
        self.ends.iter().take_while(before).count() as u64
    }
}

struct Run {
    state: State,
    state_file: Option<StateFile>,
    stored: Instant,
    progress: Progress,
    shards: Shards,
}

impl Run {
    async fn copy<W: Write>(
        &mut self,
        client: &Client,
        scan: ScanOptions,
        output: Counted<W>,
        notation: Notation,
    ) -> Outcome {
        let path = self.state.export.clone();
        let fresh = self.state.bytes == 0;
        let bytes = output.bytes.clone();
        let mut writer = Writer::new(output, self.state.format, notation, fresh)
            .map_err(|error| write_failure(&path, error))?;
        let mut scan = client.scan(scan);
        let interrupted = tokio::signal::ctrl_c();
        tokio::pin!(interrupted);
        loop {
            let page = tokio::select! {
                page = scan.next_page() => page,
                _ = &mut interrupted => {
                    writer.flush().map_err(|error| write_failure(&path, error))?;
                    self.store(bytes.get())?;
                    return Err(Failure::Incomplete(format!("interrupted after {} records", self.state.records)));
                }
            };
            let page = match page {
                Ok(Some(page)) => page,
                Ok(None) => break,
                Err(error) => {
                    writer
                        .flush()
                        .map_err(|error| write_failure(&path, error))?;
                    self.store(bytes.get())?;
                    return Err(error.into());
                }
            };
            for row in page {
                let mut next = row.key.to_vec();
                let record = Record {
                    key: row.key,
                    value: Some(row.value),
                };
                writer
                    .write(&record)
                    .map_err(|error| write_failure(&path, error))?;
                next.push(0); // the least key above this one
                self.state.next = escape(&next);
                self.state.records += 1;
                self.progress
                    .update(self.shards.passed(&next.into()), self.state.records);
            }
            writer
                .flush()
                .map_err(|error| write_failure(&path, error))?;
            if self.stored.elapsed() >= STATE_PAUSE {
                self.store(bytes.get())?;
            }
        }
        writer
            .flush()
            .map_err(|error| write_failure(&path, error))?;
        self.state.done = true;
        self.store(bytes.get())
    }

    /// Everything written so far must have been handed to the system before.
    fn store(&mut self, bytes: u64) -> Outcome {
        self.stored = Instant::now();
        self.state.bytes = bytes;
        match &self.state_file {
            Some(file) => file.store(&self.state),
            None => Ok(()),
        }
    }
}

fn write_failure(path: &Path, error: io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        Failure::PipeClosed
    } else {
        Failure::file(path)(error)
    }
}

/// Counts the bytes that pass.
struct Counted<W> {
    inner: W,
    bytes: std::rc::Rc<std::cell::Cell<u64>>,
}

impl<W> Counted<W> {
    fn new(inner: W, bytes: u64) -> Self {
        Self {
            inner,
            bytes: std::rc::Rc::new(bytes.into()),
        }
    }
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.bytes.set(self.bytes.get() + written as u64);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Found by reading: these were counted on from, past the end of their type.
    #[test]
    fn a_state_file_that_contradicts_itself_is_refused() {
        let state = |records, bytes| State {
            export: "file".into(),
            format: FileFormat::Csv,
            hex: false,
            start: String::new(),
            end: String::new(),
            next: "k".to_owned(),
            bytes,
            records,
            done: false,
        };
        let check = |known| check_same(Path::new("state"), known, &state(0, 0));
        assert_eq!(check(state(3, 20)).expect("sound").records, 3);
        let failure = check(state(u64::MAX, 20)).expect_err("damaged");
        assert!(failure.to_string().contains("is damaged"), "{failure}");
    }
}
