//! What operators watch: that dashboards, alerts, runbook and code agree, that alerts fire when they should and only then,
//! and that a real Prometheus finds values for all of it in a real cluster. And what they do: their page is walked through.
//!
//! `panels` and `alerts` describe it once; `deploy/grafana/dashboards` and `deploy/prometheus/rules.yml` are made from that
//! and kept up to date by a test, as METRICS.md is.

mod agree;
mod alerts;
mod describe;
mod grafana;
mod live;
mod operations;
mod panels;
mod promql;
mod rules;
mod series;
mod tools;
