//! How a benchmark goes on: one line that changes on a terminal, a line per second otherwise; always on standard error.

use std::{io::IsTerminal as _, time::Duration};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{
    bench::{Progress, Watch},
    cli::output::talk,
};

/// See the module.
pub(super) struct Lines {
    /// `None`: standard error is no terminal.
    bar: Option<ProgressBar>,
    filled: u64,
}

impl Lines {
    pub(super) fn new() -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = terminal.then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(5));
            let style = ProgressStyle::with_template("{spinner} {msg}");
            bar.set_style(style.expect("the template is ours"));
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Self { bar, filled: 0 }
    }

    /// Takes the changing line away; what remains to be said follows.
    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn line(&self, line: String) {
        match &self.bar {
            Some(bar) => bar.set_message(line),
            None => talk(line),
        }
    }
}

impl Watch for Lines {
    fn say(&mut self, message: &str) {
        self.filled = 0;
        match &self.bar {
            Some(bar) => bar.suspend(|| talk(message)),
            None => talk(message),
        }
    }

    fn progress(&mut self, progress: Progress) {
        let Progress {
            elapsed,
            of,
            point,
            errors,
        } = progress;
        self.line(format!(
            "{:>4.0} of {:.0} s  {:>9.0}/s  p50 {:.2} ms  p99 {:.2} ms  {errors} errors",
            elapsed.as_secs_f64(),
            of.as_secs_f64(),
            point.operations_per_second,
            point.p50_us as f64 / 1000.0,
            point.p99_us as f64 / 1000.0,
        ));
    }

    fn filled(&mut self, keys: u64, of: u64) {
        // Without a terminal, a line per tenth.
        if self.bar.is_some() || (keys - self.filled) * 10 >= of || keys == of {
            self.filled = keys;
            self.line(format!("{keys} of {of} keys are written"));
        }
    }
}
