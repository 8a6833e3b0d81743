//! One JSON object per line.

use std::{
    borrow::Cow,
    io::{self, BufRead},
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Item, Malformed, Notation, Place, Record, read_line};

/// The greatest value, each byte of it as a JSON escape of six, and room for the rest.
const LINE_BYTES_MAX: usize = 32 << 20;

/// A row as it stands in the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::cli) struct Row<'a> {
    #[serde(borrow)]
    key: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    value: Option<Cow<'a, str>>,
    /// Key and value hold base64.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    base64: bool,
    /// Shown by reading commands; not written by `import`, as the cluster counts by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    revision: Option<u64>,
}

impl Record {
    /// The record as a row of ndjson.
    pub(in crate::cli) fn to_json(&self, notation: Notation, revision: Option<u64>) -> Row<'_> {
        if notation == Notation::Hex {
            return Row {
                key: notation.show(&self.key).into(),
                value: self
                    .value
                    .as_deref()
                    .map(|value| notation.show(value).into()),
                base64: false,
                revision,
            };
        }
        let key = std::str::from_utf8(&self.key);
        let value = self.value.as_deref().map(std::str::from_utf8).transpose();
        if let (Ok(key), Ok(value)) = (key, value) {
            return Row {
                key: key.into(),
                value: value.map(Into::into),
                base64: false,
                revision,
            };
        }
        Row {
            key: BASE64.encode(&self.key).into(),
            value: self
                .value
                .as_deref()
                .map(|value| BASE64.encode(value).into()),
            base64: true,
            revision,
        }
    }
}

/// Reads rows.
pub(in crate::cli) struct Reader<R> {
    input: R,
    notation: Notation,
    place: Place,
    line: Vec<u8>,
}

impl<R: BufRead> Reader<R> {
    pub(super) fn new(input: R, notation: Notation, place: Place) -> Self {
        Self {
            input,
            notation,
            place,
            line: Vec::new(),
        }
    }

    fn parse(&self) -> Result<Record, String> {
        let row: Row<'_> = serde_json::from_slice(&self.line).map_err(|error| {
            // The message names line 1 of what it was given: our line. The column is worth keeping.
            let text = error.to_string();
            let what = text.split(" at line ").next().unwrap_or(&text);
            format!("{what} (column {})", error.column())
        })?;
        let bytes = |field: &str, text: &str| -> Result<Bytes, String> {
            match (self.notation, row.base64) {
                (_, true) => BASE64
                    .decode(text)
                    .map(Bytes::from)
                    .map_err(|error| format!("field {field}: {error}")),
                (Notation::Hex, false) => self
                    .notation
                    .read(text)
                    .map_err(|error| format!("field {field}: {error}")),
                (Notation::Escaped, false) => Ok(Bytes::copy_from_slice(text.as_bytes())),
            }
        };
        let value = row.value.as_deref().ok_or("the field value is missing")?;
        let record = Record {
            key: bytes("key", &row.key)?,
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
        loop {
            let read = match read_line(&mut self.input, &mut self.line, LINE_BYTES_MAX) {
                Ok(read) => read?,
                Err(error) => return Some(Err(error)),
            };
            self.place.offset += read.bytes;
            self.place.lines += 1;
            if self.line.trim_ascii().is_empty() && !read.cut {
                continue;
            }
            let content = if read.cut {
                Err(format!("the line has more than {LINE_BYTES_MAX} bytes"))
            } else {
                self.parse()
            };
            return Some(Ok(Item {
                line: self.place.lines,
                end: self.place,
                content: content.map_err(|reason| Malformed::new(reason, &self.line)),
            }));
        }
    }
}
