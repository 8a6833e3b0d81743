//! What a run has shown, as text and as a page of its own: figures beside the bounds that they are held against.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::PathBuf, time::Duration};

use crate::{
    chart,
    nemesis::{Bound, Kind},
    probe::PROMPT,
    record::Counts,
    times::Times,
};

/// One fault on the timeline.
#[derive(Clone, Debug)]
pub(crate) struct Band {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) from: Duration,
    pub(crate) to: Duration,
    /// All nodes and shards serve again.
    pub(crate) served: Duration,
}

/// How long shards that the struck node led were out of service, for one kind of fault.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recovery {
    pub(crate) faults: usize,
    pub(crate) times: Times,
    /// Shards that were served again only when the fault was over.
    pub(crate) late: usize,
}

/// Requests while nodes drained and came back.
#[derive(Clone, Debug, Default)]
pub(crate) struct Drains {
    pub(crate) times: Times,
    failed: usize,
    /// The first errors.
    errors: Vec<String>,
}

impl Drains {
    pub(crate) fn add(&mut self, time: Duration, error: Option<String>) {
        self.times.add(time);
        if let Some(error) = error {
            self.failed += 1;
            if self.errors.len() < 5 {
                self.errors.push(error);
            }
        }
    }

    /// Requests that succeeded in time, and all.
    fn succeeded(&self) -> (usize, usize) {
        let all = self.times.len();
        (all - self.failed, all)
    }
}

/// See the module.
pub(crate) struct Report {
    pub(crate) seed: u64,
    pub(crate) machine: String,
    pub(crate) election_timeout: Duration,
    pub(crate) nodes: usize,
    pub(crate) shards: usize,
    /// When the last fault was over.
    pub(crate) faults_end: Duration,
    pub(crate) timeline: Vec<Counts>,
    pub(crate) bands: Vec<Band>,
    pub(crate) recoveries: BTreeMap<Kind, Recovery>,
    pub(crate) drains: Drains,
    /// Faults that left no quorum, during which nothing may be acknowledged.
    pub(crate) quorums_gone: usize,
    pub(crate) verdict: String,
    pub(crate) passed: bool,
    /// What was wrong beside the verdict.
    pub(crate) problems: Vec<String>,
    pub(crate) not_tested: Vec<String>,
    pub(crate) history: PathBuf,
}

/// A measured figure and what it is held against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    what: String,
    measured: String,
    bound: String,
    /// Nothing: it was not measured.
    pub(crate) met: Option<bool>,
}

impl Held {
    fn verdict(&self) -> &'static str {
        match self.met {
            Some(true) => "met",
            Some(false) => "NOT MET",
            None => "NOT TESTED",
        }
    }
}

impl Report {
    /// The promises about times, each with what was measured.
    pub(crate) fn bounds(&self) -> Vec<Held> {
        let recovery = |bound: Bound, what: &str, most: u32| {
            let mut times = Times::default();
            let of_bound = self.recoveries.iter();
            for (_, recovery) in of_bound.filter(|(kind, _)| kind.bound() == Some(bound)) {
                times.extend(&recovery.times);
            }
            let p99 = times.percentile(99);
            Held {
                what: format!("{what}: its shards serve again (p99)"),
                measured: p99.map_or_else(
                    || "no shard was struck".to_owned(),
                    |p99| format!("{} over {} shards", self.multiple(p99), times.len()),
                ),
                bound: format!("≤ {most} ET"),
                met: p99.map(|p99| p99 <= self.election_timeout * most),
            }
        };
        let (succeeded, all) = self.drains.succeeded();
        vec![
            recovery(Bound::Killed, "killed leader", 2),
            recovery(Bound::PausedOrCutOff, "paused or cut-off leader", 3),
            recovery(Bound::PartlyCutOff, "leader with one-way or single cuts", 5),
            Held {
                what: format!("restart with drain: requests that succeed within {PROMPT:?}"),
                measured: format!("{succeeded} of {all}"),
                bound: "all".to_owned(),
                met: (all > 0).then_some(succeeded == all),
            },
        ]
    }

    /// Whether what has nothing to do with times is as it must be.
    pub(crate) fn is_right(&self) -> bool {
        self.passed && self.problems.is_empty()
    }

    fn multiple(&self, time: Duration) -> String {
        let multiple = time.as_secs_f64() / self.election_timeout.as_secs_f64();
        format!("{multiple:.2} ET")
    }

    fn some_multiple(&self, time: Option<Duration>) -> String {
        time.map_or_else(|| "–".to_owned(), |time| self.multiple(time))
    }

    fn total(&self) -> Counts {
        let mut total = Counts::default();
        for counts in &self.timeline {
            total.ok += counts.ok;
            total.failed += counts.failed;
            total.unknown += counts.unknown;
        }
        total
    }

    /// Title and cells of the table of recovery times.
    fn recovery_rows(&self) -> Vec<[String; 7]> {
        let rows = self
            .recoveries
            .iter()
            .filter(|(kind, _)| **kind != Kind::Drain);
        rows.map(|(kind, recovery)| {
            let times = &recovery.times;
            [
                kind.name().to_owned(),
                recovery.faults.to_string(),
                times.len().to_string(),
                self.some_multiple(times.percentile(50)),
                self.some_multiple(times.percentile(99)),
                self.some_multiple(times.max()),
                if kind.leaves_a_quorum() {
                    recovery.late.to_string()
                } else {
                    "from its end".to_owned()
                },
            ]
        })
        .collect()
    }

    fn drain_text(&self) -> String {
        let (succeeded, all) = self.drains.succeeded();
        let millis = |time: Option<Duration>| time.unwrap_or_default().as_millis();
        let times = &self.drains.times;
        let mut text = format!(
            "{} restarts with drain: {succeeded} of {all} requests succeeded within {PROMPT:?}; p50 {} ms, p99 {} ms, max {} ms",
            self.recoveries
                .get(&Kind::Drain)
                .map_or(0, |recovery| recovery.faults),
            millis(times.percentile(50)),
            millis(times.percentile(99)),
            millis(times.max()),
        );
        for error in &self.drains.errors {
            let _ = write!(text, "\n  failed: {error}");
        }
        text
    }

    fn summary(&self) -> String {
        let Counts {
            ok,
            failed,
            unknown,
        } = self.total();
        format!(
            "seed {}, {} nodes, {} shards, election timeout (ET) {:?}; {} faults in {:.0} s; {} operations: {ok} ok, {failed} \
             failed with nothing written, {unknown} with unknown outcome",
            self.seed,
            self.nodes,
            self.shards,
            self.election_timeout,
            self.bands.len(),
            self.faults_end.as_secs_f64(),
            ok + failed + unknown,
        )
    }

    /// For the terminal.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("{}\n", self.summary());
        let titles = RECOVERY_TITLES.map(str::to_owned);
        for row in [titles].into_iter().chain(self.recovery_rows()) {
            let [kind, faults, shards, p50, p99, max, late] = row;
            let _ = writeln!(
                text,
                "{kind:18} {faults:>6} {shards:>7} {p50:>9} {p99:>9} {max:>9} {late:>21}"
            );
        }
        let _ = writeln!(text, "{}", self.drain_text());
        for held in self.bounds() {
            let verdict = held.verdict();
            let Held {
                what,
                measured,
                bound,
                ..
            } = held;
            let _ = writeln!(text, "{what}: {measured}, bound {bound}: {verdict}");
        }
        let _ = writeln!(text, "history: {}", self.verdict);
        for problem in &self.problems {
            let _ = writeln!(text, "WRONG: {problem}");
        }
        let _ = write!(text, "history file: {}", self.history.display());
        text
    }

    /// The page.
    pub(crate) fn html(&self) -> String {
        let cells = |tag: &str, cells: &[String]| {
            let cells = cells
                .iter()
                .map(|cell| format!("<{tag}>{}</{tag}>", escape(cell)));
            format!("<tr>{}</tr>\n", cells.collect::<String>())
        };
        let table = |titles: &[&str], rows: &[Vec<String>]| {
            let titles: Vec<String> = titles.iter().map(|title| (*title).to_owned()).collect();
            let rows: String = rows.iter().map(|row| cells("td", row)).collect();
            format!("<table>\n{}{rows}</table>\n", cells("th", &titles))
        };
        let recoveries: Vec<Vec<String>> =
            self.recovery_rows().into_iter().map(Vec::from).collect();
        let bounds = self.bounds();
        let bounds: Vec<Vec<String>> = bounds
            .iter()
            .map(|held| {
                vec![
                    held.what.clone(),
                    held.measured.clone(),
                    held.bound.clone(),
                    held.verdict().to_owned(),
                ]
            })
            .collect();
        let legend: String = chart::LEGEND
            .iter()
            .map(|(name, kind)| format!("{} {name} &nbsp; ", chart::swatch(*kind)))
            .collect();
        let list = |items: &[String]| -> String {
            let items = items
                .iter()
                .map(|item| format!("<li>{}</li>\n", escape(item)));
            items.collect()
        };
        let (class, headline) = if self.is_right() {
            (
                "good",
                "Nothing was lost, and a correct store could have given every answer.",
            )
        } else {
            ("bad", "A promise was broken: see the verdict below.")
        };
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>Flotilla under fire</title>\n<style>{STYLE}</style>\n\
             <h1>Flotilla under fire</h1>\n<p class=\"{class}\">{headline}</p>\n<p>{summary}.<br>{machine}.</p>\n\
             <h2>Timeline</h2>\n<p>{legend} Dark: the fault lasts. Light: it is over, and not all nodes serve yet.</p>\n\
             <div class=\"wide\">{chart}</div>\n\
             <h2>Bounds</h2>\n{bounds}\
             <h2>Recovery</h2>\n<p>How long after a fault each shard that the struck node led took writes again, in election \
             timeouts (ET, <code>raft.election_timeout</code>; a follower waits one to two of them before it asks for votes). It \
             is measured by a client that gives up each try after a quarter of one. Where no quorum is left, it is measured \
             from the end of the fault, for all shards; in {gone} such faults nothing may be acknowledged while they last.</p>\n\
             {recoveries}<p>{drain}</p>\n\
             <h2>History</h2>\n<pre>{verdict}</pre>\n<p>Judge it again: <code>flotilla verify {file}</code></p>\n\
             <h2>Wrong</h2>\n<ul>{problems}</ul>\n<h2>NOT TESTED</h2>\n<ul>{not_tested}</ul>\n</html>\n",
            summary = escape(&self.summary()),
            machine = escape(&self.machine),
            chart = chart::draw(&self.timeline, &self.bands),
            bounds = table(&["what", "measured", "bound", ""], &bounds),
            gone = self.quorums_gone,
            recoveries = table(&RECOVERY_TITLES, &recoveries),
            drain = escape(&self.drain_text()).replace('\n', "<br>"),
            verdict = escape(&self.verdict),
            file = escape(&self.history.display().to_string()),
            problems = if self.problems.is_empty() {
                "<li>nothing</li>".to_owned()
            } else {
                list(&self.problems)
            },
            not_tested = list(&self.not_tested),
        )
    }
}

const RECOVERY_TITLES: [&str; 7] = [
    "fault",
    "faults",
    "shards",
    "p50",
    "p99",
    "max",
    "only when it was over",
];

const STYLE: &str = "body{font:14px/1.45 system-ui,sans-serif;margin:24px auto;max-width:1120px;padding:0 16px;color:#111}\
h1{margin:0}table{border-collapse:collapse;margin:8px 0}th,td{border-bottom:1px solid #ccc;padding:3px 14px 3px 0;\
text-align:left}\
td:not(:first-child){font-variant-numeric:tabular-nums}pre{white-space:pre-wrap;background:#f4f4f4;padding:8px}\
.wide{overflow-x:auto}.swatch{display:inline-block;width:11px;height:11px;opacity:.6}.good{color:#196b3a;font-weight:600}\
.bad{color:#b00020;font-weight:600}";

/// Text as HTML shows it.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// The machine that it ran on.
pub(crate) fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let value = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.map_or("unknown", |line| {
            line.trim_start_matches([' ', '\t', ':']).trim()
        })
        .to_owned()
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "{cores} cores ({}), {} memory, Linux {}, {}",
        value(&read("/proc/cpuinfo"), "model name"),
        value(&read("/proc/meminfo"), "MemTotal"),
        read("/proc/sys/kernel/osrelease").trim(),
        if cfg!(debug_assertions) {
            "with debug assertions"
        } else {
            "release"
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let millis = Duration::from_millis;
        let recovery = |times: &[u64]| {
            let mut recovery = Recovery {
                faults: 1,
                ..Recovery::default()
            };
            times
                .iter()
                .for_each(|time| recovery.times.add(millis(*time)));
            recovery
        };
        Report {
            seed: 7,
            machine: "a machine".to_owned(),
            election_timeout: millis(1000),
            nodes: 3,
            shards: 8,
            faults_end: millis(9000),
            timeline: vec![
                Counts {
                    ok: 3,
                    failed: 2,
                    unknown: 1
                };
                40
            ],
            bands: vec![Band {
                name: "kill <1>".to_owned(),
                kind: Kind::Kill,
                from: millis(1000),
                to: millis(3000),
                served: millis(4000),
            }],
            recoveries: BTreeMap::from([
                (Kind::Kill, recovery(&[900, 2000])),
                (Kind::Pause, recovery(&[1000, 3001])),
                // Not what the bounds are about.
                (Kind::SlowLinks, recovery(&[20, 9000])),
            ]),
            drains: Drains::default(),
            quorums_gone: 0,
            verdict: "passed: \"a\" < \"b\"".to_owned(),
            passed: true,
            problems: Vec::new(),
            not_tested: vec!["clock steps".to_owned()],
            history: PathBuf::from("some/where.jsonl"),
        }
    }

    #[test]
    fn figures_are_held_against_their_bounds() {
        let mut report = report();
        let met = |report: &Report| -> Vec<Option<bool>> {
            report.bounds().into_iter().map(|held| held.met).collect()
        };
        assert_eq!(met(&report), [Some(true), Some(false), None, None]);
        report.drains.add(Duration::from_millis(5), None);
        assert_eq!(met(&report)[3], Some(true));
        report
            .drains
            .add(Duration::from_secs(1), Some("late".to_owned()));
        assert_eq!(met(&report)[3], Some(false));
        assert_eq!(report.bounds()[3].measured, "1 of 2");
        report.recoveries.clear();
        assert_eq!(met(&report)[..3], [None, None, None]);
    }

    #[test]
    fn a_broken_promise_is_no_matter_of_times() {
        let mut report = report();
        assert!(report.is_right());
        report.problems.push("rows differ".to_owned());
        assert!(!report.is_right());
        assert!(report.text().contains("WRONG: rows differ"));
        report.problems.clear();
        report.passed = false;
        assert!(!report.is_right());
        assert!(report.html().contains("A promise was broken"));
    }

    #[test]
    fn the_page_says_what_was_measured_and_what_was_not() {
        let html = report().html();
        for part in [
            "kill &lt;1&gt;",
            "2.00 ET",
            "3.00 ET",
            "9.00 ET",
            "NOT MET",
            "&quot;a&quot; &lt; &quot;b&quot;",
            "<li>clock steps</li>",
            "seed 7, 3 nodes, 8 shards",
            "240 operations: 120 ok, 80 failed with nothing written, 40 with unknown outcome",
            "flotilla verify some/where.jsonl",
            "<svg",
        ] {
            assert!(html.contains(part), "{part} is not in {html}");
        }
        // Nothing is loaded from elsewhere.
        assert!(!html.contains("src=") && !html.contains("href="));
    }
}
