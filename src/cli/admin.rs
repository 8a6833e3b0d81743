//! What operators do: make a cluster, and look at its nodes.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use flotilla_proto::v1;
use flotilla_shards::limits::GENESIS_SHARDS_MAX;
use serde::Serialize;

use super::{
    Context,
    escape::{Notation, to_hex},
    failure::{Failure, Outcome},
    output::{Format, Out, talk},
};
use crate::client::Error;

/// How much longer than other calls `init` may take for each shard.
const PER_SHARD: Duration = Duration::from_micros(300);

/// Arguments of `init`.
#[derive(Debug, Args)]
#[command(after_help = "\
Run it once, against one node, when all nodes are up. Running it again changes nothing, and helps nodes that missed it.")]
pub(super) struct Init {
    /// Shards that share the keyspace evenly
    #[arg(long, value_name = "N", default_value_t = 64,
        value_parser = clap::value_parser!(u32).range(1..=GENESIS_SHARDS_MAX as i64))]
    shards: u32,
    /// File of keys at which to split instead, one per line, ascending; n keys make n+1 shards
    #[arg(long, value_name = "FILE", conflicts_with = "shards")]
    split_keys: Option<PathBuf>,
    /// Replicas of each shard, an odd number [default: 3, or all nodes if there are fewer]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    replicas: u32,
}

impl Init {
    pub(super) async fn run(self, context: &Context, out: &mut Out) -> Outcome {
        let split_keys = match &self.split_keys {
            Some(path) => {
                let text = std::fs::read_to_string(path).map_err(Failure::file(path))?;
                split_keys(&text, context.notation)
                    .map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))?
            }
            None => Vec::new(),
        };
        let request = v1::InitRequest {
            shards: self.shards,
            split_keys,
            replicas: self.replicas,
        };
        // The nodes write the beginnings of all shards, one node after the other.
        let timeout = context.global.timeout + PER_SHARD * self.shards;
        let admin = context.admin_of(&context.global.endpoints, timeout)?;
        let answer = admin.init(request).await?;
        let cluster = to_hex(&answer.cluster_id);
        match context.global.output {
            Format::Table if answer.existed => talk(format!(
                "the cluster {cluster} existed already: {} nodes, {} shards",
                answer.nodes.len(),
                answer.shards
            )),
            Format::Table => talk(format!(
                "made cluster {cluster}: {} nodes, {} shards",
                answer.nodes.len(),
                answer.shards
            )),
            format => {
                let nodes: Vec<_> = answer.nodes.iter().map(|node| &node.address).collect();
                out.json(
                    format,
                    &serde_json::json!({
                        "cluster_id": cluster,
                        "nodes": nodes,
                        "shards": answer.shards,
                        "existed": answer.existed,
                    }),
                )?;
            }
        }
        Ok(())
    }
}

/// The keys of a file: one per line, ascending; empty lines do not count.
fn split_keys(text: &str, notation: Notation) -> Result<Vec<bytes::Bytes>, String> {
    let mut keys: Vec<bytes::Bytes> = Vec::new();
    for (line, text) in (1..).zip(text.lines()) {
        if text.is_empty() {
            continue;
        }
        let key = notation
            .read(text)
            .map_err(|error| format!("line {line}: {error}"))?;
        if keys.last().is_some_and(|last| *last >= key) {
            return Err(format!(
                "line {line}: the key \"{text}\" is not above the one before it; sort the keys by their bytes"
            ));
        }
        keys.push(key);
    }
    if keys.is_empty() {
        return Err("it holds no key; use --shards for an even split".to_owned());
    }
    Ok(keys)
}

#[derive(Serialize)]
struct NodeStatus {
    endpoint: String,
    node: u64,
    version: String,
    cluster_id: String,
    initialized: bool,
    ready: bool,
    state: String,
    shards: u64,
    leaders: u64,
    shards_without_leader: u64,
    uptime_ms: u64,
}

/// `status`: every endpoint and every node that they know of, each with its own answer.
pub(super) async fn status(context: &Context, out: &mut Out) -> Outcome {
    let admin = context.admin()?;
    let mut answers = admin.status().await;
    if answers.iter().any(|(_, answer)| answer.is_ok()) {
        // A node that is not part of a cluster yet knows no others; its own line says so.
        let nodes = admin.list_nodes().await.unwrap_or_default();
        let others: Vec<String> = nodes
            .into_iter()
            .filter_map(|info| info.node)
            .map(|node| node.address)
            .filter(|address| answers.iter().all(|(asked, _)| asked != address))
            .collect();
        if !others.is_empty() {
            let timeout = context.global.timeout.min(Duration::from_secs(3));
            let others = context.admin_of(others, timeout)?;
            // An endpoint under another name (localhost, 127.0.0.1) is the node that has answered already.
            for (endpoint, answer) in others.status().await {
                let twin = answer.as_ref().is_ok_and(|status| {
                    answers.iter().any(|(_, known)| {
                        known.as_ref().is_ok_and(|known| {
                            known.initialized
                                && (known.node_id, &known.cluster_id)
                                    == (status.node_id, &status.cluster_id)
                        })
                    })
                });
                if !twin {
                    answers.push((endpoint, answer));
                }
            }
        }
    }
    let silent: Vec<_> = answers
        .iter()
        .filter_map(|(_, answer)| answer.as_ref().err().map(Error::to_string))
        .collect();
    if silent.len() == answers.len() {
        return Err(Failure::NobodyAnswers(silent.join("; ")));
    }
    let rows: Vec<NodeStatus> = answers.into_iter().map(node_status).collect();
    let columns = [
        "ENDPOINT",
        "NODE",
        "STATE",
        "SHARDS",
        "LEADERS",
        "NO LEADER",
        "UPTIME",
        "VERSION",
    ];
    out.rows(context.global.output, &columns, &rows, |row| {
        vec![
            row.endpoint.clone(),
            optional(row.node),
            row.state.clone(),
            row.shards.to_string(),
            row.leaders.to_string(),
            row.shards_without_leader.to_string(),
            humantime::format_duration(Duration::from_secs(row.uptime_ms / 1000)).to_string(),
            row.version.clone(),
        ]
    })
}

fn node_status((endpoint, answer): (String, Result<v1::StatusResponse, Error>)) -> NodeStatus {
    match answer {
        Ok(status) => NodeStatus {
            endpoint,
            node: status.node_id,
            cluster_id: to_hex(&status.cluster_id),
            initialized: status.initialized,
            ready: status.ready,
            state: if status.ready {
                "ready".to_owned()
            } else if !status.initialized {
                "waits for `flotilla init`".to_owned()
            } else {
                format!("not ready: {}", status.not_ready_reason)
            },
            shards: status.shards,
            leaders: status.leaders,
            shards_without_leader: status.shards_without_leader,
            uptime_ms: status.uptime_ms,
            version: status.version,
        },
        Err(error) => NodeStatus {
            endpoint,
            node: 0,
            version: String::new(),
            cluster_id: String::new(),
            initialized: false,
            ready: false,
            state: error.to_string(),
            shards: 0,
            leaders: 0,
            shards_without_leader: 0,
            uptime_ms: 0,
        },
    }
}

/// Commands about nodes.
#[derive(Debug, Subcommand)]
pub(super) enum Node {
    /// List the nodes
    Ls,
}

#[derive(Serialize)]
struct NodeRow {
    node: u64,
    address: String,
    status_address: String,
    reachable: bool,
    leaders: u64,
    replicas: u64,
}

/// `node ls`.
pub(super) async fn list_nodes(context: &Context, out: &mut Out) -> Outcome {
    let nodes = context.admin()?.list_nodes().await?;
    let rows: Vec<NodeRow> = nodes
        .into_iter()
        .map(|info| {
            let node = info.node.unwrap_or_default();
            NodeRow {
                node: node.node_id,
                address: node.address,
                status_address: node.status_address,
                reachable: info.reachable,
                leaders: info.leaders,
                replicas: info.replicas,
            }
        })
        .collect();
    let columns = [
        "NODE",
        "ADDRESS",
        "STATUS ADDRESS",
        "REACHABLE",
        "LEADERS",
        "REPLICAS",
    ];
    out.rows(context.global.output, &columns, &rows, |row| {
        vec![
            row.node.to_string(),
            row.address.clone(),
            row.status_address.clone(),
            if row.reachable { "yes" } else { "NO" }.to_owned(),
            row.leaders.to_string(),
            row.replicas.to_string(),
        ]
    })
}

/// A number as shown, where 0 means that there is none.
pub(super) fn optional(number: u64) -> String {
    if number == 0 {
        "-".to_owned()
    } else {
        number.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_keys_must_ascend() {
        let keys = split_keys("a\n\nb\\x00\n", Notation::Escaped).expect("valid");
        assert_eq!(keys, [&b"a"[..], b"b\0"]);
        for (text, part) in [
            ("b\na\n", "line 2"),
            ("a\na\n", "line 2"),
            ("a\n\\q\n", "line 2"),
            ("\n", "no key"),
        ] {
            let error = split_keys(text, Notation::Escaped).expect_err(text);
            assert!(error.contains(part), "{error}");
        }
    }
}
