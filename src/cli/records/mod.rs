//! Records in files: one key and one value each, as ndjson or csv.
//!
//! Text stands in a file as it is, in the file format's own quoting; there is no second layer of escapes that could
//! change other people's data. Bytes that are no text: ndjson has `"base64":true` in such a row, csv holds them raw.
//! With hex notation, both formats hold hex digits.

mod csv;
#[cfg(any(test, fuzzing))]
pub(super) mod fuzz;
mod ndjson;

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read as _, Seek as _, SeekFrom, Write},
    path::Path,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    escape::Notation,
    failure::{Failure, Outcome},
};

/// A key and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) key: Bytes,
    /// Absent when only keys are of interest.
    pub(super) value: Option<Bytes>,
}

/// The form of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum FileFormat {
    /// One JSON object per line: {"key":"…","value":"…"}, with "base64":true if these hold base64
    Ndjson,
    /// A header line with the columns key and value, then one record per line
    Csv,
}

impl FileFormat {
    /// The format as given, or as the file's name says.
    ///
    /// # Errors
    /// If neither tells.
    pub(super) fn of(given: Option<Self>, path: &Path) -> Outcome<Self> {
        let extension = path.extension().and_then(|extension| extension.to_str());
        match (given, extension) {
            (Some(given), _) => Ok(given),
            (None, Some("csv")) => Ok(Self::Csv),
            (None, Some("ndjson" | "jsonl" | "json")) => Ok(Self::Ndjson),
            (None, _) => Err(Failure::Usage(format!(
                "the name {} does not tell the format: add --format ndjson or --format csv",
                path.display()
            ))),
        }
    }
}

/// A place between two records of a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    /// Bytes before it.
    pub(super) offset: u64,
    /// Lines before it.
    pub(super) lines: u64,
}

/// One record of a file, or what stands in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    /// The line on which it begins, from 1.
    pub(super) line: u64,
    /// The place behind it.
    pub(super) end: Place,
    pub(super) content: Result<Record, Malformed>,
}

/// Something that is no record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Malformed {
    /// Shortened if it is long, as it may hold what stands there.
    pub(super) reason: String,
    /// What stands there, shortened if it is long.
    pub(super) text: String,
}

impl Malformed {
    /// Longer text is cut in reports.
    const TEXT_MAX: usize = 1000;

    fn new(reason: impl ToString, bytes: &[u8]) -> Self {
        let shown = |bytes: &[u8]| {
            let shown = bytes.get(..Self::TEXT_MAX).unwrap_or(bytes);
            let mut text = String::from_utf8_lossy(shown).into_owned();
            if shown.len() < bytes.len() {
                text.push('…');
            }
            text
        };
        Self {
            reason: shown(reason.to_string().as_bytes()),
            text: shown(bytes),
        }
    }
}

/// The records of a file, from some place on.
pub(super) enum Reader {
    Ndjson(ndjson::Reader<Box<dyn BufRead + Send>>),
    Csv(Box<csv::Reader<Box<dyn BufRead + Send>>>),
}

impl Reader {
    /// Reads a file from `place` on, a place that an earlier reader of the same file has given.
    ///
    /// # Errors
    /// If the file cannot be read; if it is shorter than `place`; if a csv file's header does not name the columns.
    pub(super) fn open(
        path: &Path,
        format: FileFormat,
        notation: Notation,
        place: Place,
    ) -> Outcome<Self> {
        let mut file = File::open(path).map_err(Failure::file(path))?;
        let length = file.metadata().map_err(Failure::file(path))?.len();
        if length < place.offset {
            return Err(Failure::Usage(format!(
                "{} has {length} bytes, but the state file stands at byte {}: it is another file",
                path.display(),
                place.offset
            )));
        }
        let columns = match format {
            FileFormat::Csv if place.offset > 0 => {
                let mut head = BufReader::new(&file);
                Some(csv::Columns::read(&mut head).map_err(|error| csv_failure(path, error))?)
            }
            _ => None,
        };
        file.seek(SeekFrom::Start(place.offset))
            .map_err(Failure::file(path))?;
        let input: Box<dyn BufRead + Send> = Box::new(BufReader::with_capacity(256 << 10, file));
        Self::over(path, input, format, notation, place, columns)
    }

    /// Reads standard input.
    ///
    /// # Errors
    /// If a csv header does not name the columns.
    pub(super) fn stdin(format: FileFormat, notation: Notation) -> Outcome<Self> {
        let input = Box::new(BufReader::with_capacity(256 << 10, io::stdin()));
        let name = Path::new("standard input");
        Self::over(name, input, format, notation, Place::default(), None)
    }

    fn over(
        path: &Path,
        mut input: Box<dyn BufRead + Send>,
        format: FileFormat,
        notation: Notation,
        place: Place,
        columns: Option<csv::Columns>,
    ) -> Outcome<Self> {
        Ok(match format {
            FileFormat::Ndjson => Self::Ndjson(ndjson::Reader::new(input, notation, place)),
            FileFormat::Csv => {
                let (columns, place) = match columns {
                    Some(columns) => (columns, place),
                    None => {
                        let columns = csv::Columns::read(&mut input)
                            .map_err(|error| csv_failure(path, error))?;
                        (columns, columns.end)
                    }
                };
                Self::Csv(Box::new(csv::Reader::new(input, columns, notation, place)))
            }
        })
    }
}

fn csv_failure(path: &Path, error: csv::HeaderError) -> Failure {
    match error {
        csv::HeaderError::Io(source) => Failure::file(path)(source),
        csv::HeaderError::Columns(reason) => {
            Failure::Usage(format!("{}: {reason}", path.display()))
        }
    }
}

impl Iterator for Reader {
    type Item = io::Result<Item>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Ndjson(reader) => reader.next(),
            Self::Csv(reader) => reader.next(),
        }
    }
}

/// Writes records as a file.
pub(super) enum Writer<W: Write> {
    Ndjson(W, Notation),
    Csv(Box<::csv::Writer<W>>, Notation),
}

impl<W: Write> Writer<W> {
    /// Writes records to `output`; `fresh` files begin with what their format begins with.
    ///
    /// # Errors
    /// If the output cannot be written.
    pub(super) fn new(
        output: W,
        format: FileFormat,
        notation: Notation,
        fresh: bool,
    ) -> io::Result<Self> {
        Ok(match format {
            FileFormat::Ndjson => Self::Ndjson(output, notation),
            FileFormat::Csv => {
                let mut writer = ::csv::WriterBuilder::new()
                    .has_headers(false)
                    .from_writer(output);
                if fresh {
                    writer.write_record(["key", "value"])?;
                }
                Self::Csv(Box::new(writer), notation)
            }
        })
    }

    /// Writes one record.
    ///
    /// # Errors
    /// If the output cannot be written.
    pub(super) fn write(&mut self, record: &Record) -> io::Result<()> {
        match self {
            Self::Ndjson(output, notation) => {
                serde_json::to_writer(&mut *output, &record.to_json(*notation, None))?;
                output.write_all(b"\n")
            }
            Self::Csv(writer, notation) => {
                let value = record.value.as_deref().unwrap_or_default();
                match notation {
                    Notation::Escaped => writer.write_record([&record.key[..], value])?,
                    Notation::Hex => {
                        writer.write_record([notation.show(&record.key), notation.show(value)])?;
                    }
                }
                Ok(())
            }
        }
    }

    /// Hands everything to the system.
    ///
    /// # Errors
    /// If the output cannot be written.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Ndjson(output, _) => output.flush(),
            Self::Csv(writer, _) => writer.flush(),
        }
    }
}

/// Reads a line of at most `max` bytes, without its end. `Ok(None)`: the input has ended. A longer line is read to its end,
/// and cut.
fn read_line(
    input: &mut impl BufRead,
    line: &mut Vec<u8>,
    max: usize,
) -> io::Result<Option<LineRead>> {
    line.clear();
    let mut bytes = input.take(max as u64).read_until(b'\n', line)? as u64;
    if bytes == 0 {
        return Ok(None);
    }
    let mut cut = false;
    let mut ended = line.pop_if(|last| *last == b'\n').is_some();
    while !ended {
        let rest = input.fill_buf()?;
        if rest.is_empty() {
            break;
        }
        let newline = rest.iter().position(|byte| *byte == b'\n');
        let used = newline.map_or(rest.len(), |at| at + 1);
        ended = newline.is_some();
        cut |= used > usize::from(ended);
        bytes += used as u64;
        input.consume(used);
    }
    line.pop_if(|last| *last == b'\r');
    Ok(Some(LineRead { bytes, cut }))
}

/// What was read as a line.
struct LineRead {
    /// Line end included.
    bytes: u64,
    /// There was more than fits.
    cut: bool,
}

#[cfg(test)]
mod tests;
