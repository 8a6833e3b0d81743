//! How far a long command has come: a bar on a terminal, a line now and then otherwise; always on standard error.

use std::{
    io::IsTerminal as _,
    time::{Duration, Instant},
};

use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::output::talk;

/// Without a terminal, one line this often.
const LINE_PAUSE: Duration = Duration::from_secs(5);

/// What the position counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    /// Bytes of a file.
    Bytes,
    /// Shards of the cluster.
    Shards,
}

/// Shows records done, their rate and, if the total is known, the part of the way and the time left.
#[derive(Debug)]
pub(super) struct Progress {
    unit: Unit,
    total: Option<u64>,
    started: Instant,
    records_before: u64,
    /// `None`: standard error is no terminal.
    bar: Option<ProgressBar>,
    last_line: Instant,
}

impl Progress {
    /// Begins at `position` of `total`, with `records` done by an earlier run.
    pub(super) fn new(unit: Unit, total: Option<u64>, position: u64, records: u64) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = terminal.then(|| {
            let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr_with_hz(5));
            let template = match total {
                Some(_) => "{wide_bar} {percent:>3}%  {msg}  ETA {eta}",
                None => "{spinner} {msg}  {elapsed}",
            };
            bar.set_style(ProgressStyle::with_template(template).expect("the template is ours"));
            bar.set_position(position);
            bar.reset_eta();
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        let now = Instant::now();
        Self {
            unit,
            total,
            started: now,
            records_before: records,
            bar,
            last_line: now,
        }
    }

    /// Tells the position, in units, and the records done.
    pub(super) fn update(&mut self, position: u64, records: u64) {
        match &self.bar {
            Some(bar) => {
                bar.set_position(position);
                bar.set_message(self.count(records));
            }
            None if self.last_line.elapsed() >= LINE_PAUSE => {
                self.last_line = Instant::now();
                talk(self.line(position, records));
            }
            None => {}
        }
    }

    /// Takes the bar away; what remains to be said follows.
    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// Records done since the start of this run, per second.
    pub(super) fn rate(&self, records: u64) -> f64 {
        (records - self.records_before) as f64 / self.seconds()
    }

    /// How long this run has taken, above 0.
    pub(super) fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64().max(0.001)
    }

    fn count(&self, records: u64) -> String {
        format!(
            "{} records  {:.0}/s",
            HumanCount(records),
            self.rate(records)
        )
    }

    fn line(&self, position: u64, records: u64) -> String {
        let way = |units: u64| match self.unit {
            Unit::Bytes => HumanBytes(units).to_string(),
            Unit::Shards => format!("{units} shards"),
        };
        let of_total = match self.total {
            Some(total) => format!("  {} of {}", way(position), way(total)),
            None => String::new(),
        };
        format!("{}{of_total}", self.count(records))
    }
}
