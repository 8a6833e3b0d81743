//! The report as a page that needs nothing but itself: it can be mailed, archived and read offline, in the dark and on a
//! phone.

use super::{
    Latency, Report, Summary,
    plot::{Axis, Series, draw, short},
    text::{Millis, figure},
};

/// Points of a line; longer runs are joined by neighbours.
const POINTS_MAX: usize = 400;

/// Text as HTML shows it.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// A page around a body, with the style that all our figures expect.
pub(crate) fn document(title: &str, body: &str) -> String {
    let title = escape(title);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\">\n<meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n<main>\n{body}</main>\n</html>\n"
    )
}

/// A table; the first row is its head.
pub(crate) fn table(rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut tag = "th";
    let mut text = String::from("<div class=\"wide\"><table>\n");
    for row in rows {
        let cells = row
            .iter()
            .map(|cell| format!("<{tag}>{}</{tag}>", escape(cell)));
        text += &format!("<tr>{}</tr>\n", cells.collect::<String>());
        tag = "td";
    }
    text + "</table></div>\n"
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

impl Report {
    /// The page.
    #[must_use]
    pub fn html(&self) -> String {
        let conditions = &self.conditions;
        let title = format!(
            "{} · {} · {}",
            conditions.workload, conditions.transport, conditions.target
        );
        let mut body = format!(
            "<h1>{}</h1>\n<p class=\"dim\">{}, {}. {}.</p>\n",
            escape(&title),
            escape(&conditions.date),
            escape(&conditions.machine),
            escape(&self.result.pace),
        );
        for reason in &self.partial {
            body += &format!("<p class=\"bad\">PARTIAL: {}</p>\n", escape(reason));
        }
        body += &tiles(&self.result);
        body += "<section class=\"plots\">\n";
        body += &over_time(&self.result);
        body += &percentiles(&self.result);
        body += &self.ramp_plots();
        body += &self.sweep_plot();
        body += "</section>\n";
        body += &stages(&self.result);
        body += &kinds(&self.result);
        body += &costs(&self.result);
        body += &errors(&self.result);
        body += &self.runs();
        body += &self.conditions();
        document(&format!("flotilla bench: {title}"), &body)
    }

    fn ramp_plots(&self) -> String {
        let Some(ramp) = &self.ramp else {
            return String::new();
        };
        let mut steps: Vec<&Summary> = ramp.steps.iter().collect();
        let offered = |step: &Summary| step.offered_per_second.unwrap_or_default();
        steps.sort_by(|a, b| offered(a).total_cmp(&offered(b)));
        let line = |value: fn(&Summary) -> f64| -> Vec<(f64, f64)> {
            steps
                .iter()
                .map(|step| (offered(step), value(step)))
                .collect()
        };
        let rates = || axis("offered, operations per second", false);
        let knee = match ramp.knee_per_second {
            Some(knee) => format!("Ramp: the knee is at {}/s", short(knee)),
            None => "Ramp: no rate was kept up with".to_owned(),
        };
        draw(
            &knee,
            &rates(),
            &axis("operations per second", false),
            &[
                Series {
                    name: "achieved",
                    points: line(|step| step.operations_per_second),
                },
                Series {
                    name: "offered",
                    points: line(|step| step.offered_per_second.unwrap_or_default()),
                },
            ],
        ) + &draw(
            "Latency by rate",
            &rates(),
            &axis("milliseconds", true),
            &[
                Series {
                    name: "p50",
                    points: line(|step| step.latency_us.p50 as f64 / 1000.0),
                },
                Series {
                    name: "p99",
                    points: line(|step| step.latency_us.p99 as f64 / 1000.0),
                },
            ],
        )
    }

    fn sweep_plot(&self) -> String {
        if self.sweep.is_empty() {
            return String::new();
        }
        let points = self.sweep.iter();
        let points: Vec<(f64, f64)> = points
            .map(|run| (run.shards_used as f64, run.operations_per_second))
            .collect();
        let shards = Axis {
            ticks: points
                .iter()
                .map(|(shards, _)| (*shards, short(*shards)))
                .collect(),
            ..axis("shards", true)
        };
        draw(
            "Throughput by shards",
            &shards,
            &axis("operations per second", false),
            &[Series {
                name: "achieved",
                points,
            }],
        )
    }

    /// The steps of a ramp or a sweep.
    fn runs(&self) -> String {
        let (title, runs) = match &self.ramp {
            Some(ramp) => ("Steps of the ramp", &ramp.steps),
            None => ("Runs", &self.sweep),
        };
        if runs.is_empty() {
            return String::new();
        }
        let head = row([
            "shards",
            "offered/s",
            "achieved/s",
            "p50 ms",
            "p99 ms",
            "writes per fsync",
            "server CPU µs",
            "errors",
        ]);
        let rows = runs.iter().map(|run| {
            vec![
                run.shards_used.to_string(),
                run.offered_per_second
                    .map_or_else(|| "–".to_owned(), |rate| format!("{rate:.0}")),
                format!("{:.0}", run.operations_per_second),
                Millis(run.latency_us.p50).to_string(),
                Millis(run.latency_us.p99).to_string(),
                figure(run.costs.writes_per_fsync, 1),
                figure(run.costs.server_cpu_us_per_operation, 1),
                run.errors.values().sum::<u64>().to_string(),
            ]
        });
        format!(
            "<h2>{title}</h2>\n{}",
            table(std::iter::once(head).chain(rows))
        )
    }

    fn conditions(&self) -> String {
        let of = &self.conditions;
        let disk = |disk: Option<super::Fdatasync>| {
            disk.map_or_else(
                || "not measured (--disk FOLDER)".to_owned(),
                |disk| {
                    let (p50, p99) = (Millis(disk.p50_us), Millis(disk.p99_us));
                    format!(
                        "p50 {p50} ms, p99 {p99} ms, {:.0} per second",
                        disk.per_second
                    )
                },
            )
        };
        let shards = match of.shards {
            Some(all) => format!("{} used of {all}", self.result.shards_used),
            None => "none: one group".to_owned(),
        };
        let rows = [
            ("target", format!("{}, {} nodes", of.target, of.nodes)),
            ("shards", shards),
            ("durability", of.sync.to_owned()),
            ("workload", of.workload.clone()),
            (
                "keys",
                format!("{} of {} bytes, {}", of.keys, of.key_bytes, of.distribution),
            ),
            ("values", format!("{} bytes", of.value_bytes)),
            (
                "transport",
                format!("{}, {} connections per node", of.transport, of.connections),
            ),
            ("reads", of.read.to_owned()),
            ("measured for", format!("{:.1} s", self.result.seconds)),
            ("client's machine", of.machine.clone()),
            ("fdatasync before", disk(of.fdatasync_before)),
            ("fdatasync after", disk(of.fdatasync_after)),
            ("seed", of.seed.to_string()),
            ("version", of.version.to_owned()),
            ("date", of.date.clone()),
            ("command", of.command.clone()),
        ];
        let rows = rows
            .into_iter()
            .map(|(name, value)| vec![name.to_owned(), value]);
        let head = row(["condition", "value"]);
        format!(
            "<h2>Conditions</h2>\n{}",
            table(std::iter::once(head).chain(rows))
        )
    }
}

fn axis(label: &str, logarithmic: bool) -> Axis<'_> {
    Axis {
        label,
        logarithmic,
        ticks: Vec::new(),
    }
}

/// The figures that one looks for first.
fn tiles(run: &Summary) -> String {
    let Latency { p50, p99, p999, .. } = run.latency_us;
    let millis = |micros| format!("{} ms", Millis(micros));
    let errors: u64 = run.errors.values().sum();
    let tiles = [
        ("per second", short(run.operations_per_second)),
        ("p50", millis(p50)),
        ("p99", millis(p99)),
        ("p99.9", millis(p999)),
        (
            "server CPU per operation",
            format!("{} µs", figure(run.costs.server_cpu_us_per_operation, 1)),
        ),
        ("writes per fsync", figure(run.costs.writes_per_fsync, 1)),
        ("errors", errors.to_string()),
    ];
    let tiles = tiles.map(|(name, value)| {
        format!(
            "<div><strong>{}</strong><span>{name}</span></div>",
            escape(&value)
        )
    });
    format!("<section class=\"tiles\">{}</section>\n", tiles.concat())
}

fn over_time(run: &Summary) -> String {
    let joined = run.timeline.len().div_ceil(POINTS_MAX).max(1);
    let chunks = || run.timeline.chunks(joined);
    let end = |chunk: &[super::Point]| chunk.last().map_or(0.0, |point| point.at_seconds);
    let rates = chunks().map(|chunk| {
        let sum: f64 = chunk.iter().map(|point| point.operations_per_second).sum();
        (end(chunk), sum / chunk.len() as f64)
    });
    let latency = |value: fn(&super::Point) -> u64| -> Vec<(f64, f64)> {
        let greatest = |chunk: &[super::Point]| chunk.iter().map(value).max().unwrap_or(0);
        chunks()
            .map(|chunk| (end(chunk), greatest(chunk) as f64 / 1000.0))
            .collect()
    };
    let mut series = vec![Series {
        name: "achieved",
        points: rates.collect(),
    }];
    if let Some(offered) = run.offered_per_second {
        series.push(Series {
            name: "offered",
            points: vec![(0.0, offered), (run.seconds, offered)],
        });
    }
    let seconds = || axis("seconds", false);
    draw(
        "Throughput over time",
        &seconds(),
        &axis("operations per second", false),
        &series,
    ) + &draw(
        "Latency over time",
        &seconds(),
        &axis("milliseconds", true),
        &[
            Series {
                name: "p50",
                points: latency(|point| point.p50_us),
            },
            Series {
                name: "p99",
                points: latency(|point| point.p99_us),
            },
        ],
    )
}

fn percentiles(run: &Summary) -> String {
    // Each decade of the part above is as wide as the others.
    let place = |quantile: f64| 1.0 / (1.0 - quantile).max(1e-12);
    let points: Vec<(f64, f64)> = run
        .quantiles
        .iter()
        .map(|(quantile, micros)| (place(*quantile), *micros as f64 / 1000.0))
        .collect();
    let last = points.last().map_or(1.0, |(at, _)| *at);
    let marks = [
        (0.5, "p50"),
        (0.9, "p90"),
        (0.99, "p99"),
        (0.999, "p99.9"),
        (0.9999, "p99.99"),
        (0.999_99, "p99.999"),
    ];
    let ticks = marks
        .iter()
        .map(|(quantile, name)| (place(*quantile), (*name).to_owned()));
    let ticks = ticks.filter(|(at, _)| *at <= last * 1.3 + 1.0).collect();
    draw(
        "Latency percentiles",
        &Axis {
            label: "part of the operations that were at most so slow",
            logarithmic: true,
            ticks,
        },
        &axis("milliseconds", true),
        &[Series {
            name: "all operations",
            points,
        }],
    )
}

fn stages(run: &Summary) -> String {
    if run.stages.is_empty() {
        return String::new();
    }
    let longest = run
        .stages
        .iter()
        .map(|stage| stage.p99_us)
        .fold(1.0, f64::max);
    let width = |micros: f64| micros / longest * 100.0;
    let mut text = String::from(
        "<h2>Where the time goes inside the servers</h2>\n<div class=\"wide\"><table>\n<tr><th>stage</th><th>times</th>\
         <th>mean ms</th><th>p50 ms</th><th>p99 ms</th><th class=\"bars\">p50 and p99</th></tr>\n",
    );
    for stage in &run.stages {
        let millis = |micros: f64| format!("{:.2}", micros / 1000.0);
        text += &format!(
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td class=\"bars\"><div class=\"bar\">\
             <i class=\"far\" style=\"width:{:.1}%\"></i><i style=\"width:{:.1}%\"></i></div></td></tr>\n",
            escape(&stage.stage),
            short(stage.count),
            millis(stage.mean_us),
            millis(stage.p50_us),
            millis(stage.p99_us),
            width(stage.p99_us),
            width(stage.p50_us),
        );
    }
    text + "</table></div>\n<p class=\"dim\">From the servers' own metrics, over all nodes; percentiles are read from \
            buckets and are rough. Sync runs beside commit, and on followers too; whole requests contain all stages.</p>\n"
}

fn kinds(run: &Summary) -> String {
    if run.by_kind.len() < 2 {
        return String::new();
    }
    let head = row([
        "operation",
        "operations",
        "p50 ms",
        "p90 ms",
        "p99 ms",
        "p99.9 ms",
        "max ms",
    ]);
    let rows = run.by_kind.iter().map(|(kind, of)| {
        let latency = of.latency_us;
        let times = [
            latency.p50,
            latency.p90,
            latency.p99,
            latency.p999,
            latency.max,
        ];
        let cells = [(*kind).to_owned(), of.operations.to_string()];
        cells
            .into_iter()
            .chain(times.map(|time| Millis(time).to_string()))
            .collect()
    });
    format!(
        "<h2>By operation</h2>\n{}",
        table(std::iter::once(head).chain(rows))
    )
}

fn costs(run: &Summary) -> String {
    let costs = &run.costs;
    let head = row(["process", "CPU µs per operation", "resident memory"]);
    let servers = costs.servers.iter().map(|server| {
        vec![
            server.name.clone(),
            figure(server.cpu_us_per_operation, 1),
            format!("{:.0} MiB", server.memory_bytes / 1024.0 / 1024.0),
        ]
    });
    let client = vec![
        "client".to_owned(),
        figure(costs.client_cpu_us_per_operation, 1),
        "–".to_owned(),
    ];
    let processes = std::iter::once(head).chain(servers).chain([client]);
    let counts = [
        ("writes per fsync", figure(costs.writes_per_fsync, 1)),
        (
            "fsyncs per operation and node",
            figure(costs.fsyncs_per_operation_and_node, 4),
        ),
        (
            "bytes written to disks per operation",
            figure(costs.disk_bytes_per_operation, 0),
        ),
        (
            "messages between nodes per operation",
            figure(costs.messages_per_operation, 2),
        ),
        (
            "frames between nodes per operation",
            figure(costs.frames_per_operation, 3),
        ),
        (
            "bytes between nodes per operation",
            figure(costs.network_bytes_per_operation, 0),
        ),
    ];
    let counts = counts
        .into_iter()
        .map(|(name, value)| vec![name.to_owned(), value]);
    let counts = std::iter::once(row(["count", "value"])).chain(counts);
    let note = match costs.unreadable_nodes {
        0 => String::new(),
        nodes => format!("<p class=\"bad\">The metrics of {nodes} nodes could not be read.</p>\n"),
    };
    format!(
        "<h2>What an operation costs</h2>\n{note}{}{}",
        table(processes),
        table(counts)
    )
}

fn errors(run: &Summary) -> String {
    let mut text = String::new();
    if run.missing > 0 {
        text += &format!("<p>{} operations found nothing.</p>\n", run.missing);
    }
    if !run.errors.is_empty() {
        let head = row(["error", "times"]);
        let rows = run.errors.iter();
        let rows = rows.map(|(kind, count)| vec![(*kind).to_owned(), count.to_string()]);
        let first = run.first_error.as_deref().unwrap_or_default();
        let table = table(std::iter::once(head).chain(rows));
        text += &format!(
            "<h2>Errors</h2>\n{table}<p>The first one: {}</p>\n",
            escape(first)
        );
    }
    text
}

const STYLE: &str = "\
:root{--bg:#fff;--fg:#16202a;--dim:#5b6875;--grid:#dfe5ea;--card:#f5f7f9;--s0:#0a6cb4;--s1:#c8500a;--s2:#12805c;--bad:#b3261e}\
@media(prefers-color-scheme:dark){:root{--bg:#12181f;--fg:#e4e9ee;--dim:#96a3b0;--grid:#2a343f;--card:#1a222b;--s0:#5cb3f0;\
--s1:#f0995a;--s2:#5fd0a8;--bad:#ff8a80}}\
*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,sans-serif}\
main{max-width:1080px;margin:0 auto;padding:20px 16px 48px}h1{font-size:1.5rem;line-height:1.25;margin:0 0 4px}\
h2{font-size:1.1rem;margin:28px 0 8px}p{margin:6px 0}.dim{color:var(--dim)}.bad{color:var(--bad);font-weight:600}\
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(130px,1fr));gap:10px;margin:18px 0}\
.tiles div{background:var(--card);border-radius:8px;padding:10px 12px}\
.tiles strong{display:block;font-size:1.3rem;font-variant-numeric:tabular-nums}.tiles span{color:var(--dim);font-size:.85rem}\
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr));gap:14px}\
figure{margin:0;background:var(--card);border-radius:8px;padding:10px}figcaption{font-size:.9rem}svg{display:block;width:100%;\
height:auto}svg text{font:12.5px system-ui,sans-serif;fill:var(--dim)}.end{text-anchor:end}.mid{text-anchor:middle}\
.grid{stroke:var(--grid);stroke-width:1;fill:none}.line{fill:none;stroke-width:2;stroke-linejoin:round}\
.line.s0{stroke:var(--s0)}.line.s1{stroke:var(--s1)}.line.s2{stroke:var(--s2)}.dot.s0{fill:var(--s0)}.dot.s1{fill:var(--s1)}\
.dot.s2{fill:var(--s2)}.key{margin-left:10px;white-space:nowrap}.key i{display:inline-block;width:10px;height:10px;\
border-radius:5px;margin-right:4px}.key .s0{background:var(--s0)}.key .s1{background:var(--s1)}.key .s2{background:var(--s2)}\
.wide{overflow-x:auto}table{border-collapse:collapse;margin:6px 0}\
th,td{border-bottom:1px solid var(--grid);padding:4px 18px 4px 0;\
text-align:left;vertical-align:top;font-variant-numeric:tabular-nums}th{color:var(--dim);font-weight:500}\
td:first-child{white-space:nowrap}.bars{width:40%;min-width:140px}.bar{position:relative;height:14px;margin-top:4px}\
.bar i{position:absolute;left:0;top:0;height:100%;background:var(--s0);border-radius:3px;min-width:2px}\
.bar .far{background:var(--s0);opacity:.3}";

#[cfg(test)]
mod tests {
    use super::super::tests::report;

    #[test]
    fn a_page_is_whole_and_asks_for_nothing_from_outside() {
        let page = report().html();
        assert!(page.starts_with("<!DOCTYPE html>") && page.trim_end().ends_with("</html>"));
        for outside in ["http:", "https:", "src=", "href=", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
        for part in [
            "Throughput over time",
            "Latency percentiles",
            "Conditions",
            "PARTIAL",
            "sync",
        ] {
            assert!(page.contains(part), "{part}");
        }
        for part in ["Throughput by shards", "the knee is at"] {
            assert!(page.contains(part), "{part}");
        }
        assert!(!page.contains("NaN"));
        for tag in ["table", "figure", "svg", "section", "div", "tr"] {
            let opened = page.matches(&format!("<{tag}>")).count()
                + page.matches(&format!("<{tag} ")).count();
            assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
        }
    }

    #[test]
    fn what_comes_from_outside_is_text() {
        let mut report = report();
        report.conditions.command = "<script>".to_owned();
        report.result.first_error = Some("<b>".to_owned());
        let page = report.html();
        assert!(!page.contains("<script>") && page.contains("&lt;script&gt;"));
        assert!(page.contains("&lt;b&gt;"));
    }
}
