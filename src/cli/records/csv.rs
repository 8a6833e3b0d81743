//! Comma-separated columns with a header.

use std::io::{self, BufRead, Read as _};

use bytes::Bytes;
use csv::{ByteRecord, ReaderBuilder};

use super::{Item, Malformed, Notation, Place, Record, read_line};
use crate::cli::escape::escape;

const HEADER_BYTES_MAX: usize = 64 << 10;
/// An empty line, which is no record, before all that is read: at the start of its input, the parser would take a byte order
/// mark away, but here it begins in the midst of a file, and the mark is part of a key.
const FIRST_LINE: &[u8] = b"\n";

/// Where the columns stand.
#[derive(Debug, Clone, Copy)]
pub(in crate::cli) struct Columns {
    key: usize,
    value: usize,
    count: usize,
    /// The place behind the header.
    pub(super) end: Place,
}

pub(super) enum HeaderError {
    Io(io::Error),
    Columns(String),
}

impl Columns {
    /// Takes the header line from the input.
    pub(super) fn read(input: &mut impl BufRead) -> Result<Self, HeaderError> {
        let mut line = Vec::new();
        let read = read_line(input, &mut line, HEADER_BYTES_MAX).map_err(HeaderError::Io)?;
        let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&line); // Excel begins files so
        let mut header = ByteRecord::new();
        // A line in memory cannot fail to be read; what it holds is looked at next.
        let _ = ReaderBuilder::new()
            .has_headers(false)
            .from_reader(line)
            .read_byte_record(&mut header);
        let find = |name: &str| {
            header
                .iter()
                .position(|column| column.trim_ascii().eq_ignore_ascii_case(name.as_bytes()))
        };
        match (read, find("key"), find("value")) {
            (Some(read), Some(key), Some(value)) if header.len() == 2 => Ok(Self {
                key,
                value,
                count: header.len(),
                end: Place {
                    offset: read.bytes,
                    lines: 1,
                },
            }),
            _ => Err(HeaderError::Columns(format!(
                "the first line must name the columns, \"key,value\"; it is \"{}\"",
                escape(line.get(..200).unwrap_or(line))
            ))),
        }
    }
}

/// Reads rows.
pub(in crate::cli) struct Reader<R: BufRead> {
    inner: csv::Reader<io::Chain<&'static [u8], R>>,
    columns: Columns,
    notation: Notation,
    /// Where `inner` began.
    base: Place,
    row: ByteRecord,
}

impl<R: BufRead> Reader<R> {
    pub(super) fn new(input: R, columns: Columns, notation: Notation, base: Place) -> Self {
        let inner = ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .from_reader(FIRST_LINE.chain(input));
        Self {
            inner,
            columns,
            notation,
            base,
            row: ByteRecord::new(),
        }
    }

    fn parse(&self) -> Result<Record, String> {
        let Columns {
            key, value, count, ..
        } = self.columns;
        let (Some(key), Some(value), true) = (
            self.row.get(key),
            self.row.get(value),
            self.row.len() == count,
        ) else {
            return Err(format!(
                "{} columns, expected {count}: is a comma or quote not quoted?",
                self.row.len()
            ));
        };
        let bytes = |field: &str, content: &[u8]| match self.notation {
            Notation::Escaped => Ok(Bytes::copy_from_slice(content)),
            Notation::Hex => std::str::from_utf8(content)
                .map_err(|error| error.to_string())
                .and_then(|text| self.notation.read(text).map_err(|error| error.to_string()))
                .map_err(|error| format!("column {field}: {error}")),
        };
        let record = Record {
            key: bytes("key", key)?,
            value: Some(bytes("value", value)?),
        };
        if record.key.is_empty() {
            return Err("the key is empty".to_owned());
        }
        Ok(record)
    }
}

impl<R: BufRead> Iterator for Reader<R> {
    type Item = io::Result<Item>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.inner.read_byte_record(&mut self.row) {
            Ok(true) => {}
            Ok(false) => return None,
            Err(error) => return Some(Err(error.into())),
        }
        // The reader counts lines from 1, the first line included, and stands at the line after the record.
        let position = self.inner.position();
        let end = Place {
            offset: self.base.offset + position.byte() - FIRST_LINE.len() as u64,
            lines: self.base.lines + position.line() - 2,
        };
        let begin = self
            .row
            .position()
            .map_or(position.line(), |begin| begin.line());
        Some(Ok(Item {
            line: self.base.lines + begin.max(2) - 1,
            end,
            content: self.parse().map_err(|reason| {
                let fields: Vec<&[u8]> = self.row.iter().collect();
                Malformed::new(reason, &fields.join(&b','))
            }),
        }))
    }
}
