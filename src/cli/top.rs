//! `top`: the cluster at a glance, in a terminal. What is shown comes from the console's pages, through whichever node is asked.

use std::{
    io::{self, IsTerminal as _},
    time::Duration,
};

use clap::Args;
use indicatif::HumanBytes;
use ratatui::{
    DefaultTerminal, Frame,
    crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers},
    layout::{Constraint, Layout},
    style::{Color, Modifier, Style, Stylize as _},
    text::{Line, Span},
    widgets::{Cell, Row, Sparkline, Table},
};
use tokio::sync::mpsc;

use super::{
    Context, duration,
    failure::{Failure, Outcome},
    output::{Format, Out},
};
use crate::{
    client::{Admin, Error, Result},
    console::cluster::{HotShard, Moment, NodeOverview, NodeState, Overview, Vitals},
};

/// Keys that may wait to be looked at.
const KEYS: usize = 16;

/// Arguments of `top`.
#[derive(Debug, Args)]
#[command(after_help = "\
Keys: q or Esc ends, the arrows go through the nodes. Without a terminal it prints the nodes and the hot shards once.")]
pub(super) struct Top {
    /// Print once, and end
    #[arg(long)]
    once: bool,
    /// Time between two looks
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration)]
    interval: Duration,
}

/// What is shown.
struct View {
    overview: Overview,
    history: Vec<Moment>,
    /// Why this is old.
    problem: Option<String>,
    /// The first node that is shown.
    first: usize,
}

impl View {
    /// The last node that may be the first that is shown.
    fn last(&self) -> usize {
        self.overview.nodes.len().saturating_sub(1)
    }
}

impl Top {
    pub(super) async fn run(self, context: &Context, out: &mut Out) -> Outcome {
        let admin = context.admin()?;
        let view = look(&admin).await?;
        match context.global.output {
            Format::Table if !self.once && io::stdout().is_terminal() => {
                let mut terminal = ratatui::try_init().map_err(Failure::stdout)?;
                let watched = watch(&admin, &mut terminal, view, self.interval).await;
                ratatui::restore();
                watched.map_err(Failure::stdout)
            }
            Format::Table => print(&view.overview, out),
            format => out.json(format, &view.overview),
        }
    }
}

async fn page<T: serde::de::DeserializeOwned>(admin: &Admin, path: &str) -> Result<T> {
    let page = admin.page(path).await?;
    serde_json::from_slice(&page).map_err(|error| Error::Protocol {
        address: "the node".to_owned(),
        message: format!("{path}: {error}"),
    })
}

async fn look(admin: &Admin) -> Result<View> {
    let overview = page(admin, "/console/api/cluster");
    let history = page(admin, "/console/api/history");
    let (overview, history) = tokio::try_join!(overview, history)?;
    Ok(View {
        overview,
        history,
        problem: None,
        first: 0,
    })
}

/// Shows the cluster until a key ends it. A node that does not answer holds up no key.
async fn watch(
    admin: &Admin,
    terminal: &mut DefaultTerminal,
    mut view: View,
    interval: Duration,
) -> io::Result<()> {
    let (sender, mut keys) = mpsc::channel(KEYS);
    // It waits for the terminal, and so ends with the process.
    std::thread::spawn(move || {
        while let Ok(event) = event::read() {
            if sender.blocking_send(event).is_err() {
                return;
            }
        }
    });
    loop {
        let next = async {
            tokio::time::sleep(interval).await;
            look(admin).await
        };
        tokio::pin!(next);
        loop {
            terminal.draw(|frame| draw(frame, &view))?;
            tokio::select! {
                seen = &mut next => {
                    match seen {
                        Ok(seen) => view = View { first: view.first.min(seen.last()), ..seen },
                        Err(error) => view.problem = Some(error.to_string()),
                    }
                    break;
                }
                event = keys.recv() => match event {
                    Some(event) => if take(&event, &mut view) { return Ok(()) },
                    // The terminal is gone.
                    None => return Ok(()),
                },
            }
        }
    }
}

/// Does what a key says; returns whether that is to end.
fn take(event: &Event, view: &mut View) -> bool {
    let Event::Key(key) = event else {
        return false;
    };
    match key.code {
        _ if key.kind == KeyEventKind::Release => {}
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return true,
        KeyCode::Char('q') | KeyCode::Esc => return true,
        KeyCode::Down => view.first = (view.first + 1).min(view.last()),
        KeyCode::Up => view.first = view.first.saturating_sub(1),
        _ => {}
    }
    false
}

fn draw(frame: &mut Frame<'_>, view: &View) {
    let overview = &view.overview;
    // A line of titles each, and one between them.
    let hot = lines(overview.hottest.len().max(1)).saturating_add(1);
    let nodes = lines(overview.nodes.len().saturating_sub(view.first)).saturating_add(2);
    let rows = Layout::vertical([
        Constraint::Length(3),
        Constraint::Length(4),
        Constraint::Max(nodes),
        Constraint::Min(hot.min(6)),
        Constraint::Length(1),
    ]);
    let [head, load, nodes, hot, foot] = rows.areas(frame.area());
    frame.render_widget(ratatui::widgets::Paragraph::new(summary(view)), head);
    let [reads, writes] = Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1)])
        .spacing(2)
        .areas(load);
    for (area, name, color, pick) in [
        (
            reads,
            "reads",
            Color::Blue,
            (|moment: &Moment| moment.load.reads) as fn(&Moment) -> f64,
        ),
        (writes, "writes", Color::Yellow, |moment: &Moment| {
            moment.load.writes
        }),
    ] {
        let skipped = view.history.len().saturating_sub(area.width.into());
        let values = view
            .history
            .iter()
            .skip(skipped)
            .map(|moment| pick(moment).round() as u64);
        let values: Vec<u64> = values.collect();
        let title = format!(
            "{name} {}/s",
            count(values.last().copied().unwrap_or(0) as f64)
        );
        let [line, graph] =
            Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(area);
        frame.render_widget(Line::from(title.dim()), line);
        frame.render_widget(Sparkline::default().data(values).style(color), graph);
    }
    frame.render_widget(node_table(overview, view.first), nodes);
    frame.render_widget(hot_table(&overview.hottest), hot);
    let foot_line = match &view.problem {
        Some(problem) => Line::from(format!("old: {problem}").red()),
        None => Line::from("q ends · arrows go through the nodes".dim()),
    };
    frame.render_widget(foot_line, foot);
}

fn lines(count: usize) -> u16 {
    count.try_into().unwrap_or(u16::MAX)
}

fn summary(view: &View) -> Vec<Line<'static>> {
    let overview = &view.overview;
    let (nodes, shards) = (&overview.nodes, &overview.shards);
    let ready = nodes
        .iter()
        .filter(|node| node.state == NodeState::Ready)
        .count();
    let alarming = |text: String, bad: bool| if bad { text.red().bold() } else { text.into() };
    let cluster = overview.cluster_id.get(..8).unwrap_or(&overview.cluster_id);
    let led = match shards.without_leader {
        0 => "all have a leader".to_owned(),
        some => format!("{some} without a leader"),
    };
    let lacking = match (shards.without_quorum, shards.under_replicated) {
        (0, 0) => "none lacks a replica".to_owned(),
        (0, some) => format!("{some} lack a replica"),
        (stuck, _) => format!("{stuck} can't be written"),
    };
    vec![
        Line::from(vec![
            "flotilla ".bold(),
            Span::from(format!(
                "cluster {cluster}, as node {} sees it",
                overview.asked
            ))
            .dim(),
        ]),
        Line::from(vec![
            alarming(
                format!("{ready}/{} nodes ready", nodes.len()),
                ready < nodes.len(),
            ),
            "   ".into(),
            format!("{} shards, ", shards.known).into(),
            alarming(led, shards.without_leader > 0),
            ", ".into(),
            alarming(lacking, shards.without_quorum + shards.under_replicated > 0),
        ]),
        Line::from(format!(
            "{} requests/s   {}/s written",
            count(overview.load.requests()),
            HumanBytes(overview.load.bytes as u64)
        )),
    ]
}

/// Columns of the nodes: title, width, and what is shown.
const NODE_COLUMNS: [(&str, u16); 11] = [
    ("NODE", 4),
    ("STATE", 9),
    ("LEADS", 5),
    ("REQ/S", 6),
    ("READ P99", 8),
    ("WRITE P99", 9),
    ("CPU", 5),
    ("MEMORY", 10),
    ("WORK", 4),
    ("LOG", 4),
    ("APPLY", 5),
];

fn node_cells(node: &NodeOverview) -> [String; 11] {
    let state = match node.state {
        NodeState::Ready => "ready",
        NodeState::NotReady => "not ready",
        NodeState::Silent => "silent",
        NodeState::Down => "DOWN",
    };
    let mut cells = [const { String::new() }; 11];
    (cells[0], cells[1]) = (node.node.to_string(), state.to_owned());
    if let Some(report) = &node.report {
        let Vitals {
            load,
            read_p99,
            write_p99,
            cpu,
            memory,
            work,
            ..
        } = &report.vitals;
        let part = |part: f64| format!("{:.0}%", part * 100.0);
        let figures = [
            report.leaders.to_string(),
            count(load.requests()),
            latency(*read_p99),
            latency(*write_p99),
            format!("{cpu:.2}"),
            HumanBytes(*memory).to_string(),
            part(work.shards),
            part(work.log),
            part(work.apply),
        ];
        for (cell, figure) in cells[2..].iter_mut().zip(figures) {
            *cell = figure;
        }
    }
    cells
}

fn node_table(overview: &Overview, first: usize) -> Table<'static> {
    let row = |node: &NodeOverview| {
        let color = match node.state {
            NodeState::Ready => Style::new(),
            NodeState::NotReady => Style::new().yellow(),
            NodeState::Silent | NodeState::Down => Style::new().red().bold(),
        };
        Row::new(node_cells(node)).style(color)
    };
    let rows = overview.nodes.iter().skip(first).map(row);
    let widths = NODE_COLUMNS.map(|(_, width)| Constraint::Length(width));
    table(rows, widths, NODE_COLUMNS.map(|(title, _)| title))
}

const HOT_COLUMNS: [&str; 6] = [
    "SHARD",
    "LEADER",
    "READS/S",
    "WRITES/S",
    "WRITTEN/S",
    "KEYS",
];

fn hot_cells(row: &HotShard) -> [String; 6] {
    let bound = |bound: &str, open: &str| match bound {
        "" => open.to_owned(),
        bound => bound.to_owned(),
    };
    [
        row.shard.to_string(),
        row.leader
            .map_or_else(|| "none".to_owned(), |node| node.to_string()),
        count(row.load.reads),
        count(row.load.writes),
        HumanBytes(row.load.bytes as u64).to_string(),
        format!(
            "{} … {}",
            bound(&row.start, "start"),
            bound(&row.end, "end")
        ),
    ]
}

fn hot_table(hottest: &[HotShard]) -> Table<'static> {
    let widths = [7, 6, 8, 8, 11].map(Constraint::Length);
    let widths = widths.into_iter().chain([Constraint::Fill(1)]);
    table(
        hottest.iter().map(|row| Row::new(hot_cells(row))),
        widths,
        HOT_COLUMNS,
    )
}

fn table<const N: usize>(
    rows: impl Iterator<Item = Row<'static>>,
    widths: impl IntoIterator<Item = Constraint>,
    titles: [&'static str; N],
) -> Table<'static> {
    let head = Row::new(titles.map(Cell::from));
    let head = head.style(Style::new().add_modifier(Modifier::DIM));
    Table::new(rows, widths).header(head).column_spacing(1)
}

/// Prints what a terminal would show.
fn print(overview: &Overview, out: &mut Out) -> Outcome {
    let titles = NODE_COLUMNS.iter().map(|(title, _)| *title);
    let columns: Vec<&str> = titles.chain(["WHY"]).collect();
    out.rows(Format::Table, &columns, &overview.nodes, |node| {
        let why = node.reason.clone().unwrap_or_default();
        node_cells(node).into_iter().chain([why]).collect()
    })?;
    out.line("")?;
    out.rows(Format::Table, &HOT_COLUMNS, &overview.hottest, |row| {
        hot_cells(row).into()
    })
}

/// A rate in three digits or so.
fn count(value: f64) -> String {
    match value {
        value if value >= 999_500.0 => format!("{:.1}M", value / 1e6),
        value if value >= 9_995.0 => format!("{:.1}k", value / 1e3),
        value if value >= 99.95 || value == 0.0 => format!("{value:.0}"),
        value => format!("{value:.1}"),
    }
}

fn latency(seconds: Option<f64>) -> String {
    match seconds {
        None => "-".to_owned(),
        Some(seconds) if seconds < 0.001 => format!("{:.0}µs", seconds * 1e6),
        Some(seconds) if seconds < 1.0 => format!("{:.1}ms", seconds * 1e3),
        Some(seconds) => format!("{seconds:.1}s"),
    }
}

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend, crossterm::event::KeyEvent};

    use super::*;
    use crate::console::{
        cluster::{NodeReport, ShardCounts},
        shards::Load,
    };

    fn view(nodes: u64) -> View {
        let load = |writes| Load {
            reads: 2.0,
            writes,
            bytes: 3000.0,
        };
        let node = |node| {
            let vitals = Vitals {
                load: load(12_345.0),
                write_p99: Some(0.0123),
                cpu: 0.5,
                memory: 300 << 20,
                ..Vitals::default()
            };
            let report = NodeReport {
                leaders: 21,
                vitals,
                ..NodeReport::default()
            };
            NodeOverview {
                node,
                address: format!("10.0.0.{node}:7400"),
                status_address: String::new(),
                state: if node == 2 {
                    NodeState::Down
                } else {
                    NodeState::Ready
                },
                reason: (node == 2).then(|| "it is not heard from".to_owned()),
                report: (node != 2).then_some(report),
            }
        };
        let hot = |shard| HotShard {
            shard,
            load: load(shard as f64),
            start: "m".to_owned(),
            end: String::new(),
            leader: Some(1),
        };
        let moment = |at| Moment {
            at_ms: at,
            load: load(at as f64),
            ..Moment::default()
        };
        View {
            overview: Overview {
                cluster_id: "0123456789abcdef".to_owned(),
                asked: 1,
                now_ms: 0,
                nodes: (1..=nodes).map(node).collect(),
                shards: ShardCounts {
                    known: 10_000,
                    without_leader: 7,
                    ..ShardCounts::default()
                },
                load: load(50_000.0),
                hottest: (40..50).map(hot).collect(),
            },
            history: (0..300).map(moment).collect(),
            problem: None,
            first: 0,
        }
    }

    fn shown(view: &View, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("in memory");
        terminal.draw(|frame| draw(frame, view)).expect("in memory");
        let buffer = terminal.backend().buffer().clone();
        let row = |y| {
            (0..width)
                .map(|x| buffer[(x, y)].symbol())
                .collect::<String>()
        };
        (0..height).map(|y| row(y).trim_end().to_owned()).collect()
    }

    #[test]
    fn a_terminal_of_the_usual_size_shows_nodes_load_and_hot_shards() {
        let lines = shown(&view(3), 80, 24);
        let text = lines.join("\n");
        for part in [
            "flotilla cluster 01234567, as node 1 sees it",
            "2/3 nodes ready   10000 shards, 7 without a leader, none lacks a replica",
            "50.0k requests/s   2.93 KiB/s written",
            "writes 299/s",
            "NODE STATE     LEADS REQ/S  READ P99 WRITE P99 CPU   MEMORY     WORK LOG  APPLY",
            "1    ready     21    12.3k  -        12.3ms    0.50  300.00 MiB 0%   0%   0%",
            "2    DOWN",
            "SHARD   LEADER READS/S",
            "40      1      2.0      40.0     2.93 KiB    m … end",
            "q ends",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
        assert!(lines.iter().any(|line| line.contains('█')), "{text}");
        assert!(lines.iter().all(|line| line.chars().count() <= 80));
    }

    #[test]
    fn no_size_of_a_terminal_is_too_small_or_too_large() {
        for (width, height) in [(1, 1), (20, 5), (40, 12), (80, 24), (300, 100)] {
            for nodes in [0, 1, 3, 100] {
                let lines = shown(&view(nodes), width, height);
                assert_eq!(lines.len(), usize::from(height));
            }
        }
    }

    #[test]
    fn keys_end_it_and_go_through_the_nodes() {
        let mut view = view(100);
        let press = |code| Event::Key(KeyEvent::new(code, KeyModifiers::NONE));
        for _ in 0..60 {
            assert!(!take(&press(KeyCode::Down), &mut view));
        }
        let text = shown(&view, 80, 24).join("\n");
        assert!(
            text.contains("\n61   ready") && !text.contains("\n60   ready"),
            "{text}"
        );
        for _ in 0..99 {
            assert!(!take(&press(KeyCode::Up), &mut view));
        }
        assert_eq!(view.first, 0);
        let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert!(take(&Event::Key(interrupt), &mut view));
        assert!(take(&press(KeyCode::Char('q')), &mut view));
        assert!(!take(&Event::Resize(3, 4), &mut view));
        view.problem = Some("no answer".to_owned());
        assert!(shown(&view, 80, 24).join("\n").contains("old: no answer"));
    }

    #[test]
    fn figures_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (7.25, "7.2"),
            (99.96, "100"),
            (9_994.0, "9994"),
            (12_345.0, "12.3k"),
            (2e6, "2.0M"),
        ] {
            assert_eq!(count(value), text);
        }
        for (seconds, text) in [
            (None, "-"),
            (Some(0.000_05), "50µs"),
            (Some(0.012), "12.0ms"),
            (Some(2.0), "2.0s"),
        ] {
            assert_eq!(latency(seconds), text);
        }
    }
}
