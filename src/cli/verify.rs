//! Judges a history of what clients asked and were told, as a test, a simulator or a chaos run recorded it.

use std::{
    fs::File,
    io::{self, BufReader},
    path::PathBuf,
};

use clap::Args;
use flotilla_history::{History, Limits, Report, Verdict, check};
use serde_json::{Value, json};

use super::{
    Context,
    failure::{Failure, Outcome},
    output::{Format, Out},
};

/// Arguments of `verify`.
#[derive(Debug, Args)]
#[command(after_help = "\
The file has one event per line: what was asked, what was answered; its form is described with the library flotilla-history.
Exit codes: 0 a correct store could have said all of this; 1 it could not, or the limits of the search were too narrow to
know; 2 the file cannot be read as a history.")]
pub(super) struct Verify {
    /// File to read; `-` is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// How often the search for one order may look at a step, for each key or connected keys
    #[arg(long, value_name = "N", default_value_t = Limits::default().search_steps)]
    search_steps: u64,
    /// Memory of that search, in MiB
    #[arg(
        long,
        value_name = "MIB",
        default_value_t = 1024,
        value_parser = clap::value_parser!(u32).range(1..=1 << 20)
    )]
    search_memory: u32,
}

impl Verify {
    pub(super) fn run(&self, context: &Context, out: &mut Out) -> Outcome {
        let history = self.read()?;
        let limits = Limits {
            search_steps: self.search_steps,
            search_bytes: usize::try_from(u64::from(self.search_memory) << 20)
                .unwrap_or(usize::MAX),
            ..Limits::default()
        };
        let report = check(&history, &limits);
        match context.global.output {
            Format::Table => out.line(report.display(&history).to_string())?,
            format => out.json(format, &document(&report, &history, context))?,
        }
        match report.verdict() {
            Verdict::Passed => Ok(()),
            Verdict::Violated => Err(Failure::Incomplete(format!(
                "no correct store could have answered so: {} promises are broken",
                report.violations.len()
            ))),
            Verdict::BudgetExhausted => Err(Failure::Incomplete(format!(
                "not judged to the end: the search gave up on {} of {} components; give it more with --search-steps and \
                 --search-memory, or record shorter histories",
                report.undecided.len(),
                report.judged.components
            ))),
        }
    }

    fn read(&self) -> Outcome<History> {
        let stdin = self.file.as_os_str() == "-";
        let read = if stdin {
            History::read(io::stdin().lock())
        } else {
            File::open(&self.file)
                .map_err(flotilla_history::ReadError::from)
                .and_then(|file| History::read(BufReader::new(file)))
        };
        let name = if stdin {
            "standard input".to_owned()
        } else {
            self.file.display().to_string()
        };
        read.map_err(|error| Failure::Usage(format!("{name}: {error}")))
    }
}

/// The report for machines.
fn document(report: &Report, history: &History, context: &Context) -> Value {
    let keys = |keys: &[bytes::Bytes]| -> Vec<String> {
        keys.iter().map(|key| context.show(key)).collect()
    };
    let violations: Vec<Value> = report
        .violations
        .iter()
        .map(|violation| {
            let operations: Vec<Value> = violation
                .window
                .iter()
                .map(|id| json!({ "op": id.0, "text": history.operation(*id).to_string() }))
                .collect();
            json!({
                "rule": violation.rule.name(),
                "keys": keys(&violation.keys),
                "explanation": violation.explanation,
                "operations": operations,
            })
        })
        .collect();
    let undecided: Vec<Value> = report
        .undecided
        .iter()
        .map(|undecided| json!({ "keys": keys(&undecided.keys), "steps": undecided.operations }))
        .collect();
    let judged = report.judged;
    json!({
        "verdict": match report.verdict() {
            Verdict::Passed => "passed",
            Verdict::Violated => "violated",
            Verdict::BudgetExhausted => "budget exhausted",
        },
        "operations": report.operations,
        "keys": judged.keys,
        "components": judged.components,
        "by_zones": judged.by_zones,
        "by_search": judged.by_search,
        "scans": judged.scans,
        "weak_reads": judged.weak_reads,
        "lists": judged.lists,
        "counters": judged.counters,
        "violations": violations,
        "undecided": undecided,
    })
}
