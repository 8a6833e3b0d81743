//! What commands print. Data goes to standard output, in one of three formats; all else goes to standard error.

use std::io::{self, BufWriter, IsTerminal as _, StdoutLock, Write as _};

use serde::Serialize;

use super::failure::{Failure, Outcome};

/// How data is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// For people: aligned columns, or lines with tabs.
    Table,
    /// One JSON document.
    Json,
    /// One JSON document per line and row.
    Ndjson,
}

/// When to use colors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Color {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl Color {
    /// Whether standard error gets colors.
    pub(super) fn on_stderr(self) -> bool {
        match self {
            Self::Auto => {
                let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
                !refused && io::stderr().is_terminal()
            }
            Self::Always => true,
            Self::Never => false,
        }
    }
}

/// Standard output, buffered.
pub(super) struct Out {
    inner: BufWriter<StdoutLock<'static>>,
}

impl Out {
    /// Takes standard output.
    pub(super) fn new() -> Self {
        Self {
            inner: BufWriter::with_capacity(64 << 10, io::stdout().lock()),
        }
    }

    /// Bytes as they are.
    ///
    /// # Errors
    /// [`Failure::PipeClosed`], or the system's error.
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> Outcome {
        self.inner.write_all(bytes).map_err(Failure::stdout)
    }

    /// A line.
    ///
    /// # Errors
    /// As [`Out::bytes`].
    pub(super) fn line(&mut self, line: impl AsRef<str>) -> Outcome {
        self.bytes(line.as_ref().as_bytes())?;
        self.bytes(b"\n")
    }

    /// One document, on one line if `format` asks for it.
    ///
    /// # Errors
    /// As [`Out::bytes`].
    pub(super) fn json(&mut self, format: Format, document: &impl Serialize) -> Outcome {
        let written = match format {
            Format::Ndjson => serde_json::to_writer(&mut self.inner, document),
            Format::Json | Format::Table => serde_json::to_writer_pretty(&mut self.inner, document),
        };
        written.map_err(|error| Failure::stdout(error.into()))?;
        self.bytes(b"\n")
    }

    /// Many rows: a table with these columns, one JSON array, or one line each.
    ///
    /// # Errors
    /// As [`Out::bytes`].
    pub(super) fn rows<R: Serialize>(
        &mut self,
        format: Format,
        columns: &[&str],
        rows: &[R],
        cells: impl Fn(&R) -> Vec<String>,
    ) -> Outcome {
        match format {
            Format::Table => {
                let mut table = table(columns);
                for row in rows {
                    table.add_row(cells(row));
                }
                self.line(table.trim_fmt())
            }
            Format::Json => self.json(format, &rows),
            Format::Ndjson => rows.iter().try_for_each(|row| self.json(format, row)),
        }
    }

    /// Hands everything to the system.
    ///
    /// # Errors
    /// As [`Out::bytes`].
    pub(super) fn flush(&mut self) -> Outcome {
        self.inner.flush().map_err(Failure::stdout)
    }
}

impl io::Write for Out {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.inner.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// A table without lines between the rows.
fn table(columns: &[&str]) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(columns);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

/// A message for the person in front of the terminal.
pub(super) fn talk(message: impl AsRef<str>) {
    // Standard error may be closed; there is nobody left to tell then.
    let _ = writeln!(io::stderr(), "{}", message.as_ref());
}
