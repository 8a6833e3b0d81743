//! Dashboards as Grafana reads them.

use serde_json::{Value, json};

use super::describe::{Dashboard, Look, Panel, expand};

/// Of the data source that `deploy/grafana/provisioning` makes.
const SOURCE: &str = "prometheus";
/// Grafana's grid: 24 columns.
const WIDTH: usize = 24;
const PANEL_WIDTH: usize = 8;
const PANEL_HEIGHT: usize = 8;

/// The labels that choose what a dashboard is of.
pub(crate) fn labels(dashboard: &Dashboard) -> &'static str {
    match dashboard.by_node {
        true => "job=\"$job\",instance=~\"$instance\"",
        false => "job=\"$job\"",
    }
}

fn source() -> Value {
    json!({ "type": "prometheus", "uid": SOURCE })
}

/// The file.
pub(crate) fn json(dashboard: &Dashboard) -> String {
    let mut panels = Vec::new();
    let (mut y, mut id) = (0, 1);
    for row in &dashboard.rows {
        panels.push(json!({
            "id": id, "type": "row", "title": row.title, "collapsed": false, "panels": [],
            "gridPos": { "x": 0, "y": y, "w": WIDTH, "h": 1 },
        }));
        (id, y) = (id + 1, y + 1);
        let numbers = row
            .panels
            .iter()
            .filter(|panel| panel.look == Look::Number)
            .count();
        let width = if numbers == row.panels.len() {
            WIDTH / numbers
        } else {
            PANEL_WIDTH
        };
        let per_line = WIDTH / width;
        for (at, panel) in row.panels.iter().enumerate() {
            let place = json!({
                "x": at % per_line * width, "y": y + at / per_line * PANEL_HEIGHT, "w": width, "h": PANEL_HEIGHT,
            });
            panels.push(panel_json(panel, id, place, labels(dashboard)));
            id += 1;
        }
        y += row.panels.len().div_ceil(per_line) * PANEL_HEIGHT;
    }
    let page = json!({
        "uid": dashboard.name,
        "title": dashboard.title,
        "description": dashboard.about,
        "tags": ["flotilla"],
        "schemaVersion": 39,
        "editable": true,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": { "from": "now-1h", "to": "now" },
        "timezone": "browser",
        "links": [{
            "type": "dashboards", "tags": ["flotilla"], "title": "Flotilla", "asDropdown": false,
            "includeVars": true, "keepTime": true, "targetBlank": false, "icon": "external link",
        }],
        "templating": { "list": variables(dashboard) },
        "panels": panels,
    });
    serde_json::to_string_pretty(&page).expect("text keys only") + "\n"
}

fn variables(dashboard: &Dashboard) -> Vec<Value> {
    let variable = |name: &str, label: &str, query: &str, many: bool| {
        json!({
            "name": name, "label": label, "type": "query", "datasource": source(),
            "query": { "query": query, "refId": name }, "definition": query,
            "refresh": 2, "sort": 1, "multi": many, "includeAll": many, "allValue": if many { ".*" } else { "" },
            "current": if many { json!({ "text": "All", "value": "$__all" }) } else { json!({}) },
        })
    };
    let mut variables = vec![variable(
        "job",
        "Cluster",
        "label_values(flotilla_node_ready, job)",
        false,
    )];
    if dashboard.by_node {
        let nodes = "label_values(flotilla_node_ready{job=\"$job\"}, instance)";
        variables.push(variable("instance", "Node", nodes, true));
    }
    variables
}

fn panel_json(panel: &Panel, id: usize, place: Value, labels: &str) -> Value {
    let targets: Vec<Value> = (panel.queries.iter().zip('A'..))
        .map(|((expression, legend), letter)| {
            json!({
                "refId": letter.to_string(), "datasource": source(), "legendFormat": legend,
                "expr": expand(expression, labels, "$__rate_interval"),
            })
        })
        .collect();
    let mut steps = vec![json!({ "color": "green", "value": null })];
    if let Some((warning, alarm)) = panel.thresholds {
        if warning < alarm {
            steps.push(json!({ "color": "yellow", "value": warning }));
        }
        steps.push(json!({ "color": "red", "value": alarm }));
    }
    let (kind, options) = match panel.look {
        Look::Number => (
            "stat",
            json!({
                "reduceOptions": { "calcs": ["lastNotNull"], "fields": "", "values": false },
                "colorMode": "value", "graphMode": "area", "textMode": "value_and_name", "orientation": "auto",
            }),
        ),
        Look::Lines | Look::Stack => (
            "timeseries",
            json!({
                "legend": { "displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "max"] },
                "tooltip": { "mode": "multi", "sort": "desc" },
            }),
        ),
    };
    let stacking = if panel.look == Look::Stack {
        "normal"
    } else {
        "none"
    };
    let drawn = if panel.thresholds.is_some() {
        "dashed"
    } else {
        "off"
    };
    json!({
        "id": id,
        "type": kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": source(),
        "gridPos": place,
        "targets": targets,
        "options": options,
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit.id(),
                "thresholds": { "mode": "absolute", "steps": steps },
                "custom": {
                    "axisSoftMin": 0,
                    "drawStyle": "line", "lineWidth": 1, "fillOpacity": if stacking == "normal" { 30 } else { 5 },
                    "showPoints": "never", "spanNulls": false,
                    "stacking": { "mode": stacking, "group": "A" },
                    "thresholdsStyle": { "mode": drawn },
                },
            },
            "overrides": [],
        },
    })
}
