//! What a command prints.

use super::{Outcome, fail};
use std::fmt::{Display, Write as _};

const LEVELS: [&str; 6] = ["DEBUG", "INFO", "WARN", "ERROR", "FATAL", "NONE"];

/// The output of the running command. There is no logger here, so of the levels only `none` matters: it silences
/// everything but errors.
pub(super) struct Output {
    text: String,
    level: &'static str,
}

impl Output {
    pub(super) fn new() -> Self {
        Self {
            text: String::new(),
            level: LEVELS[0],
        }
    }

    pub(super) fn clear(&mut self) {
        self.text.clear();
    }

    pub(super) fn level(&self) -> &'static str {
        self.level
    }

    pub(super) fn set_level(&mut self, name: &str) -> Outcome {
        match LEVELS
            .into_iter()
            .find(|level| level.eq_ignore_ascii_case(name))
        {
            Some(level) => {
                self.level = level;
                Ok(())
            }
            None => fail(format!(
                "log levels must be either of [{}]",
                LEVELS.join(" ")
            )),
        }
    }

    fn is_silent(&self) -> bool {
        self.level == "NONE"
    }

    pub(super) fn write(&mut self, text: impl Display) {
        if !self.is_silent() {
            write!(self.text, "{text}").expect("writing to a string cannot fail");
        }
    }

    pub(super) fn line(&mut self, text: impl Display) {
        self.write(format_args!("{text}\n"));
    }

    /// A position to indent from.
    pub(super) fn mark(&self) -> usize {
        self.text.len()
    }

    /// Indents what was written since `mark`, and ends its last line.
    pub(super) fn indent_from(&mut self, mark: usize) {
        let block = self.text.split_off(mark);
        for line in block.lines() {
            self.line(format_args!("  {line}"));
        }
    }

    /// The result of a command.
    pub(super) fn finish(&mut self, error: Option<String>) -> String {
        match error {
            Some(error) if self.is_silent() => return error,
            Some(error) => self.text.push_str(&error),
            None => {}
        }
        if self.text.is_empty() {
            "ok".into()
        } else {
            std::mem::take(&mut self.text)
        }
    }
}
