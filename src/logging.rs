//! Log lines: `tracing` events on stderr, as text on a terminal and as JSON otherwise, with times in RFC 3339 and UTC.
//! What is logged can be changed while the process runs.
//!
//! Levels: ERROR means that a human must look; WARN, that something is not as it should be and the node copes; INFO,
//! one line per event that changes what the node is or does (never one per heartbeat or request); DEBUG and TRACE are for
//! whoever hunts a fault.

use std::io::IsTerminal as _;

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use crate::config::{LogFormat, LogLevel};

/// Changes what is logged.
#[derive(Clone, Debug)]
pub struct LogControl {
    filter: reload::Handle<EnvFilter, Registry>,
}

/// Why logging could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The process has a subscriber already.
    #[error("logging is set up already: {0}")]
    Twice(String),
    /// The filter cannot be used.
    #[error("the log level cannot be changed: {0}")]
    Filter(String),
}

impl LogControl {
    /// Sets logging up for the whole process.
    ///
    /// # Errors
    /// It was set up before.
    pub fn install(level: &LogLevel, format: LogFormat) -> Result<Self, LogError> {
        let terminal = std::io::stderr().is_terminal();
        let json = match format {
            LogFormat::Auto => !terminal,
            LogFormat::Text => false,
            LogFormat::Json => true,
        };
        let colours = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let (control, filter) = Self::new(level)?;
        let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(colours);
        let lines = if json {
            lines.json().flatten_event(true).boxed()
        } else {
            lines.boxed()
        };
        let subscriber = tracing_subscriber::registry().with(filter).with(lines);
        subscriber
            .try_init()
            .map_err(|error| LogError::Twice(error.to_string()))?;
        Ok(control)
    }

    /// A control and the filter that it controls.
    fn new(level: &LogLevel) -> Result<(Self, reload::Layer<EnvFilter, Registry>), LogError> {
        let (filter, handle) = reload::Layer::new(filter(level)?);
        Ok((Self { filter: handle }, filter))
    }

    /// What is logged, as text that [`LogLevel::parse`] reads.
    ///
    /// # Errors
    /// The subscriber is gone.
    pub fn level(&self) -> Result<String, LogError> {
        let wanted = |filter: &EnvFilter| {
            let all = filter.to_string();
            let directives: Vec<&str> = all.split(',').filter(|one| *one != AUDIT).collect();
            directives.join(",")
        };
        self.filter
            .with_current(wanted)
            .map_err(|error| LogError::Filter(error.to_string()))
    }

    /// Logs from now on what `level` says.
    ///
    /// # Errors
    /// The subscriber is gone.
    pub fn set_level(&self, level: &LogLevel) -> Result<(), LogError> {
        self.filter
            .reload(filter(level)?)
            .map_err(|error| LogError::Filter(error.to_string()))
    }
}

/// What operators do is logged whatever else is.
const AUDIT: &str = "audit=info";

fn filter(level: &LogLevel) -> Result<EnvFilter, LogError> {
    EnvFilter::try_new(format!("{AUDIT},{}", level.as_str()))
        .map_err(|error| LogError::Filter(error.to_string()))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A control with a subscriber of its own, for tests that run beside others. Keep the second alive.
    pub(crate) fn detached(level: &str) -> (LogControl, tracing::Dispatch) {
        let level = LogLevel::parse(level).expect("level");
        let (control, filter) = LogControl::new(&level).expect("filter");
        (
            control,
            tracing::Dispatch::new(tracing_subscriber::registry().with(filter)),
        )
    }

    #[test]
    fn the_level_changes_at_run_time() {
        let (control, subscriber) = detached("info");
        tracing::dispatcher::with_default(&subscriber, || {
            assert!(!tracing::enabled!(tracing::Level::DEBUG));
            control
                .set_level(&LogLevel::parse("warn,flotilla=debug").expect("level"))
                .expect("change");
            assert!(tracing::enabled!(target: "flotilla::status", tracing::Level::DEBUG));
            assert!(!tracing::enabled!(target: "other", tracing::Level::INFO));
            assert!(tracing::enabled!(target: "audit", tracing::Level::INFO));
        });
        let read_back = control.level().expect("level");
        assert!(
            LogLevel::parse(&read_back).is_some() && !read_back.contains("audit"),
            "{read_back}"
        );
    }

    #[test]
    fn nonsense_is_no_level() {
        assert_eq!(LogLevel::parse("info,=,=="), None);
        assert_eq!(LogLevel::parse(""), None);
    }
}
