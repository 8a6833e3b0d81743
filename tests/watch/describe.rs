//! What a dashboard and an alert are made of.
//!
//! In expressions `@` stands for the labels that choose the cluster (and in some dashboards the node), `$r` for the window
//! of rates.

/// One dashboard.
pub(crate) struct Dashboard {
    /// Name of the file, and the id that links go by.
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) about: &'static str,
    /// Whether its panels are of the nodes that are chosen, or of the whole cluster.
    pub(crate) by_node: bool,
    pub(crate) rows: Vec<Row>,
}

/// Panels under one heading.
pub(crate) struct Row {
    pub(crate) title: &'static str,
    pub(crate) panels: Vec<Panel>,
}

/// One panel.
pub(crate) struct Panel {
    pub(crate) title: &'static str,
    /// What it shows and what to make of it.
    pub(crate) about: &'static str,
    pub(crate) unit: Unit,
    pub(crate) look: Look,
    /// Expressions with their legends.
    pub(crate) queries: &'static [(&'static str, &'static str)],
    /// From where on values are drawn in yellow, and in red.
    pub(crate) thresholds: Option<(f64, f64)>,
}

/// In what values are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Count,
    PerSecond,
    Seconds,
    Bytes,
    BytesPerSecond,
    Share,
}

impl Unit {
    /// Grafana's name.
    pub(crate) fn id(self) -> &'static str {
        match self {
            Self::Count => "short",
            Self::PerSecond => "ops",
            Self::Seconds => "s",
            Self::Bytes => "bytes",
            Self::BytesPerSecond => "Bps",
            Self::Share => "percentunit",
        }
    }
}

/// How values are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// One number.
    Number,
    Lines,
    /// Lines on top of each other: parts of a whole.
    Stack,
}

/// A panel of lines.
pub(crate) fn lines(
    title: &'static str,
    unit: Unit,
    about: &'static str,
    queries: &'static [(&'static str, &'static str)],
) -> Panel {
    Panel {
        title,
        about,
        unit,
        look: Look::Lines,
        queries,
        thresholds: None,
    }
}

impl Panel {
    pub(crate) fn stacked(self) -> Self {
        Self {
            look: Look::Stack,
            ..self
        }
    }

    pub(crate) fn number(self) -> Self {
        Self {
            look: Look::Number,
            ..self
        }
    }

    pub(crate) fn thresholds(self, warning: f64, alarm: f64) -> Self {
        Self {
            thresholds: Some((warning, alarm)),
            ..self
        }
    }
}

/// Who is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Severity {
    /// Somebody, now.
    Page,
    /// Somebody, in working hours.
    Ticket,
}

/// One alert.
pub(crate) struct Alert {
    pub(crate) name: &'static str,
    pub(crate) severity: Severity,
    /// What is watched: an expression that has a value also in good times.
    pub(crate) value: &'static str,
    /// What of it is alarming: the rest of the expression.
    pub(crate) when: &'static str,
    /// For how long it must have been so.
    pub(crate) hold: &'static str,
    /// One sentence with `{{ $labels.… }}`.
    pub(crate) summary: &'static str,
    /// Labels of the alert in the case that fires, beside `job` and `severity`.
    pub(crate) labels: &'static [(&'static str, &'static str)],
    /// When both cases are looked at.
    pub(crate) at: &'static str,
    /// Series of the case that fires, in promtool's notation. `@` is `job="flotilla"`.
    pub(crate) firing: &'static [(&'static str, &'static str)],
    /// Series of a case that is close to it and must not fire.
    pub(crate) quiet: &'static [(&'static str, &'static str)],
}

impl Alert {
    pub(crate) fn expression(&self) -> String {
        expand(
            &format!("{} {}", self.value, self.when),
            "job=~\"flotilla.*\"",
            "5m",
        )
    }

    pub(crate) fn watched(&self) -> String {
        expand(self.value, "job=~\"flotilla.*\"", "5m")
    }

    /// Its heading in the runbook, as links name it.
    pub(crate) fn anchor(&self) -> String {
        self.name.to_ascii_lowercase()
    }
}

/// Fills in the labels and the window.
pub(crate) fn expand(expression: &str, labels: &str, window: &str) -> String {
    expression.replace('@', labels).replace("$r", window)
}
