//! What a run has shown, as text and as a page of its own: figures beside the bounds that they are held against.

use std::{collections::BTreeMap, fmt::Write as _, path::PathBuf, time::Duration};

use crate::{
    chart,
    kind::{Bound, Kind, Target},
    probe::PROMPT,
    record::{BUCKET, Counts, Prompt},
    times::Times,
};

/// One round on the timeline.
#[derive(Clone, Debug)]
pub(crate) struct Band {
    pub(crate) name: String,
    /// What its faults are done to.
    pub(crate) targets: Vec<Target>,
    pub(crate) from: Duration,
    pub(crate) to: Duration,
    /// All nodes and shards serve again.
    pub(crate) served: Duration,
}

/// What struck.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Struck {
    By(Kind),
    /// Two faults at once.
    ByTwo,
}

impl Struck {
    fn name(self) -> &'static str {
        match self {
            Self::By(kind) => kind.name(),
            Self::ByTwo => "two at once",
        }
    }

    fn bound(self) -> Option<Bound> {
        match self {
            Self::By(kind) => kind.bound(),
            Self::ByTwo => Some(Bound::PartlyCutOff),
        }
    }
}

/// How long shards whose leader was struck were out of service.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recovery {
    pub(crate) faults: usize,
    pub(crate) times: Times,
    /// Shards that were served again only when the fault was over.
    pub(crate) late: usize,
}

/// What the judge says of a history.
#[derive(Clone, Debug)]
pub(crate) struct Verdict {
    pub(crate) text: String,
    pub(crate) passed: bool,
    pub(crate) file: PathBuf,
}

/// See the module.
pub(crate) struct Report {
    pub(crate) seed: u64,
    pub(crate) machine: String,
    pub(crate) election_timeout: Duration,
    pub(crate) nodes: usize,
    pub(crate) replicas: usize,
    pub(crate) shards: usize,
    /// When the last fault was over.
    pub(crate) faults_end: Duration,
    pub(crate) timeline: Vec<Counts>,
    pub(crate) bands: Vec<Band>,
    /// Faults by kind, alone or with another.
    pub(crate) injected: BTreeMap<Kind, usize>,
    pub(crate) recoveries: BTreeMap<Struck, Recovery>,
    /// Requests during rolling restarts.
    pub(crate) prompt: Prompt,
    /// Rounds that left no quorum, during which nothing may be acknowledged.
    pub(crate) quorums_gone: usize,
    pub(crate) verdicts: Vec<Verdict>,
    /// Why the run ended before its time.
    pub(crate) cut_short: Option<String>,
    /// What was wrong beside the verdicts.
    pub(crate) problems: Vec<String>,
    pub(crate) not_tested: Vec<String>,
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
    /// The word for it, and its class on the page.
    fn verdict(&self) -> (&'static str, &'static str) {
        match self.met {
            Some(true) => ("met", "good"),
            Some(false) => ("NOT MET", "bad"),
            None => ("NOT TESTED", "open"),
        }
    }
}

impl Report {
    /// The promises about times, each with what was measured.
    pub(crate) fn bounds(&self) -> Vec<Held> {
        let recovery = |bound: Bound, what: &str, most: u32| {
            let mut times = Times::default();
            let of_bound = self.recoveries.iter();
            for (_, recovery) in of_bound.filter(|(struck, _)| struck.bound() == Some(bound)) {
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
        let (succeeded, all) = self.prompt_counts();
        let slowest = self.prompt.times.max().unwrap_or_default();
        vec![
            recovery(Bound::Killed, "leader that ends", 2),
            recovery(
                Bound::PausedOrCutOff,
                "paused, stalled or cut-off leader",
                3,
            ),
            recovery(
                Bound::PartlyCutOff,
                "leader with one-way or single cuts, or one of two faults",
                5,
            ),
            Held {
                what: format!(
                    "rolling restart with drain: requests that succeed within {PROMPT:?}"
                ),
                measured: format!(
                    "{succeeded} of {all}, the slowest in {} ms",
                    slowest.as_millis()
                ),
                bound: "all".to_owned(),
                met: (all > 0).then_some(succeeded == all && slowest <= PROMPT),
            },
        ]
    }

    /// Whether what has nothing to do with times is as it must be, and all of it was done.
    pub(crate) fn is_right(&self) -> bool {
        self.nothing_wrong() && self.cut_short.is_none()
    }

    fn nothing_wrong(&self) -> bool {
        self.verdicts.iter().all(|verdict| verdict.passed) && self.problems.is_empty()
    }

    /// Class and words of what comes first on the page.
    fn headline(&self) -> (&'static str, String) {
        let so_far = match self.nothing_wrong() {
            true => "Nothing was lost, and a correct store could have given every answer.",
            false => "A promise was broken: see the verdicts below.",
        };
        match &self.cut_short {
            None if self.nothing_wrong() => ("good", so_far.to_owned()),
            None => ("bad", so_far.to_owned()),
            Some(why) => ("bad", format!("Cut short: {why}. Up to then: {so_far}")),
        }
    }

    fn multiple(&self, time: Duration) -> String {
        let multiple = time.as_secs_f64() / self.election_timeout.as_secs_f64();
        format!("{multiple:.2} ET")
    }

    fn some_multiple(&self, time: Option<Duration>) -> String {
        time.map_or_else(|| "–".to_owned(), |time| self.multiple(time))
    }

    /// Operations in a part of the run.
    fn total(timeline: &[Counts]) -> Counts {
        let mut total = Counts::default();
        for counts in timeline {
            total.ok += counts.ok;
            total.failed += counts.failed;
            total.unknown += counts.unknown;
        }
        total
    }

    /// Requests during rolling restarts that succeeded, and all.
    fn prompt_counts(&self) -> (usize, usize) {
        let all = self.prompt.times.len();
        (all - self.prompt.failed, all)
    }

    /// Cells of the table of faults and recovery times.
    fn recovery_rows(&self) -> Vec<[String; 7]> {
        let kinds = self.injected.keys().map(|kind| Struck::By(*kind));
        let pairs = self
            .recoveries
            .keys()
            .filter(|struck| **struck == Struck::ByTwo);
        let rows = kinds.chain(pairs.copied());
        rows.map(|struck| {
            let recovery = self.recoveries.get(&struck).cloned().unwrap_or_default();
            let injected = match struck {
                Struck::By(kind) => self.injected.get(&kind).copied().unwrap_or_default(),
                Struck::ByTwo => recovery.faults,
            };
            let times = &recovery.times;
            let gone = matches!(
                struck,
                Struck::By(Kind::KillAll | Kind::AllApart | Kind::PowerLossAll)
            );
            [
                struck.name().to_owned(),
                injected.to_string(),
                times.len().to_string(),
                self.some_multiple(times.percentile(50)),
                self.some_multiple(times.percentile(99)),
                self.some_multiple(times.max()),
                if gone {
                    "from its end".to_owned()
                } else {
                    recovery.late.to_string()
                },
            ]
        })
        .collect()
    }

    fn prompt_text(&self) -> String {
        let (succeeded, all) = self.prompt_counts();
        let millis = |time: Option<Duration>| time.unwrap_or_default().as_millis();
        let times = &self.prompt.times;
        let restarts = self
            .injected
            .get(&Kind::RollingRestart)
            .copied()
            .unwrap_or_default();
        let mut text = format!(
            "{restarts} rolling restarts of all nodes: {succeeded} of {all} requests succeeded; p50 {} ms, p99 {} ms, max {} ms",
            millis(times.percentile(50)),
            millis(times.percentile(99)),
            millis(times.max()),
        );
        for error in &self.prompt.errors {
            let _ = write!(text, "\n  failed: {error}");
        }
        text
    }

    /// Whether a cluster that has been under fire for long serves as much as before.
    fn throughput(&self) -> String {
        let third = self.timeline.len() / 3;
        let rate = |part: &[Counts]| {
            let seconds = BUCKET.as_secs_f64() * part.len().max(1) as f64;
            f64::from(Self::total(part).ok) / seconds
        };
        let (first, rest) = self.timeline.split_at(third);
        let (_, last) = rest.split_at(rest.len() - third);
        format!(
            "{:.0} operations per second succeeded in the first third, {:.0} in the last",
            rate(first),
            rate(last)
        )
    }

    fn summary(&self) -> String {
        let Counts {
            ok,
            failed,
            unknown,
        } = Self::total(&self.timeline);
        format!(
            "seed {}, {} nodes, {} shards of {} replicas, election timeout (ET) {:?}; {} faults in {} rounds and {:.0} s; {} \
             operations: {ok} ok, {failed} failed with nothing written, {unknown} with unknown outcome; {}",
            self.seed,
            self.nodes,
            self.shards,
            self.replicas,
            self.election_timeout,
            self.injected.values().sum::<usize>(),
            self.bands.len(),
            self.faults_end.as_secs_f64(),
            ok + failed + unknown,
            self.throughput(),
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
        let _ = writeln!(text, "{}", self.prompt_text());
        for held in self.bounds() {
            let (verdict, _) = held.verdict();
            let Held {
                what,
                measured,
                bound,
                ..
            } = held;
            let _ = writeln!(text, "{what}: {measured}, bound {bound}: {verdict}");
        }
        for Verdict {
            text: said, file, ..
        } in &self.verdicts
        {
            let _ = writeln!(text, "history {}: {said}", file.display());
        }
        for what in &self.not_tested {
            let _ = writeln!(text, "NOT TESTED: {what}");
        }
        for problem in &self.problems {
            let _ = writeln!(text, "WRONG: {problem}");
        }
        let _ = write!(text, "{}", self.headline().1);
        text
    }

    /// The page.
    pub(crate) fn html(&self) -> String {
        let recoveries: Vec<Vec<String>> = (self.recovery_rows().iter())
            .map(|row| row.iter().map(|cell| escape(cell)).collect())
            .collect();
        let bounds: Vec<Vec<String>> = (self.bounds().iter())
            .map(|held| {
                let (word, class) = held.verdict();
                let [what, measured, bound] =
                    [&held.what, &held.measured, &held.bound].map(|text| escape(text));
                vec![
                    what,
                    measured,
                    bound,
                    format!("<span class=\"{class}\">{word}</span>"),
                ]
            })
            .collect();
        let rounds: Vec<Vec<String>> = (self.bands.iter())
            .map(|band| {
                let seconds = |time: Duration| format!("{:.1} s", time.as_secs_f64());
                vec![
                    seconds(band.from),
                    escape(&band.name),
                    seconds(band.to - band.from),
                    seconds(band.served.saturating_sub(band.to)),
                ]
            })
            .collect();
        let legend: String = chart::TARGETS
            .iter()
            .map(|(target, name)| format!("<span>{} {name}</span> ", chart::swatch(*target)))
            .collect();
        let list = |items: &[String]| -> String {
            let items = items
                .iter()
                .map(|item| format!("<li>{}</li>\n", escape(item)));
            items.collect()
        };
        let verdicts: String = (self.verdicts.iter())
            .map(|Verdict { text, file, .. }| {
                let file = escape(&file.display().to_string());
                format!(
                    "<pre>{}</pre>\n<p>Judge it again: <code>flotilla verify {file}</code></p>\n",
                    escape(text)
                )
            })
            .collect();
        let (class, headline) = self.headline();
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n<title>Flotilla under fire, seed {seed}</title>\n\
             <style>{STYLE}</style>\n</head>\n<body>\n\
             <h1>Flotilla under fire</h1>\n<p class=\"{class}\">{headline}</p>\n<p>{summary}.</p>\n<p class=\"note\">{machine}.</p>\n\
             <h2>Timeline</h2>\n<p class=\"legend\">{legend}</p>\n\
             <div class=\"wide\">{chart}</div>\n\
             <p class=\"note\">Dark: the fault lasts. Light: it is over, and not all nodes serve yet. Two colours: two faults at \
             once.</p>\n\
             <h2>Bounds</h2>\n{bounds}\
             <h2>Faults and recovery</h2>\n{recoveries}<p class=\"note\">How long after a fault each shard that a struck node \
             led took writes again, in election timeouts (ET, <code>raft.election_timeout</code>; a follower waits one to \
             two of them before it asks for votes); with two faults at once, after the second one. It is measured by a \
             client that gives up each try after a quarter of one. Where no quorum is left, it is measured from the end of \
             the fault, for all shards; in {gone} such rounds nothing may be acknowledged while they last. A fault that \
             came with another counts in its own row, its recovery times among those of two at once.</p>\n<p>{prompt}</p>\n\
             <h2>Histories</h2>\n{verdicts}\
             <h2>Wrong</h2>\n<ul>{problems}</ul>\n<h2>NOT TESTED</h2>\n<ul>{not_tested}</ul>\n\
             <h2>Rounds</h2>\n{rounds}</body>\n</html>\n",
            seed = self.seed,
            headline = escape(&headline),
            summary = escape(&self.summary()),
            machine = escape(&self.machine),
            chart = chart::draw(&self.timeline, &self.bands),
            bounds = table(&["what", "measured", "bound", ""], &bounds),
            gone = self.quorums_gone,
            recoveries = table(&RECOVERY_TITLES, &recoveries),
            prompt = escape(&self.prompt_text()).replace('\n', "<br>"),
            problems = if self.problems.is_empty() {
                "<li>nothing</li>".to_owned()
            } else {
                list(&self.problems)
            },
            not_tested = list(&self.not_tested),
            rounds = table(&["from", "faults", "lasted", "all serve after"], &rounds),
        )
    }
}

/// A table of cells that are HTML already.
fn table(titles: &[&str], rows: &[Vec<String>]) -> String {
    let titles: String = titles
        .iter()
        .map(|title| format!("<th>{title}</th>"))
        .collect();
    let cells = |row: &Vec<String>| {
        row.iter()
            .map(|cell| format!("<td>{cell}</td>"))
            .collect::<String>()
    };
    let rows: String = rows
        .iter()
        .map(|row| format!("<tr>{}</tr>\n", cells(row)))
        .collect();
    format!("<div class=\"wide\"><table>\n<tr>{titles}</tr>\n{rows}</table></div>\n")
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

/// Colours for a light and a dark page; what is too wide for a phone scrolls by itself.
const STYLE: &str = include_str!("report.css");

/// Text as HTML shows it.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
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
            replicas: 3,
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
                targets: vec![Target::Processes],
                from: millis(1000),
                to: millis(3000),
                served: millis(4000),
            }],
            injected: BTreeMap::from([(Kind::Kill, 1), (Kind::Pause, 1), (Kind::SlowLinks, 2)]),
            recoveries: BTreeMap::from([
                (Struck::By(Kind::Kill), recovery(&[900, 2000])),
                (Struck::By(Kind::Pause), recovery(&[1000, 3001])),
                // Not what the bounds are about.
                (Struck::By(Kind::SlowLinks), recovery(&[20, 9000])),
            ]),
            prompt: Prompt::default(),
            quorums_gone: 0,
            verdicts: vec![Verdict {
                text: "passed: \"a\" < \"b\"".to_owned(),
                passed: true,
                file: PathBuf::from("some/where.jsonl"),
            }],
            cut_short: None,
            problems: Vec::new(),
            not_tested: vec!["clock steps".to_owned()],
        }
    }

    #[test]
    fn figures_are_held_against_their_bounds() {
        let mut report = report();
        let met = |report: &Report| -> Vec<Option<bool>> {
            report.bounds().into_iter().map(|held| held.met).collect()
        };
        assert_eq!(met(&report), [Some(true), Some(false), None, None]);
        report.recoveries.insert(
            Struck::ByTwo,
            report.recoveries[&Struck::By(Kind::Pause)].clone(),
        );
        assert_eq!(met(&report)[2], Some(true));
        report.prompt.add(Duration::from_millis(5), None);
        assert_eq!(met(&report)[3], Some(true));
        let mut slow = report.prompt.clone();
        slow.add(Duration::from_millis(1_001), None);
        let prompt = std::mem::replace(&mut report.prompt, slow);
        assert_eq!(met(&report)[3], Some(false));
        report.prompt = prompt;
        let failed = Some("late".to_owned());
        report.prompt.add(Duration::from_millis(7), failed);
        assert_eq!(met(&report)[3], Some(false));
        assert_eq!(report.bounds()[3].measured, "1 of 2, the slowest in 7 ms");
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
        report.verdicts[0].passed = false;
        assert!(!report.is_right());
        assert!(report.html().contains("A promise was broken"));
    }

    #[test]
    fn a_run_that_was_cut_short_is_told_of_and_is_not_right() {
        let mut report = report();
        report.cut_short = Some("the run panicked: node 1 <ended>".to_owned());
        assert!(!report.is_right());
        let html = report.html();
        assert!(html.contains(
            "Cut short: the run panicked: node 1 &lt;ended&gt;. Up to then: Nothing was lost"
        ));
        assert!(report.text().contains("Cut short: the run panicked"));
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
            "seed 7, 3 nodes, 8 shards of 3 replicas",
            "4 faults in 1 rounds and 9 s",
            "12 operations per second succeeded in the first third, 12 in the last",
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
