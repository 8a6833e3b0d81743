//! What operators see of shards: all of them, or one with its replicas.

use std::collections::BTreeMap;

use clap::{ArgGroup, Args, Subcommand};
use flotilla_proto::v1;
use serde::Serialize;

use super::{
    Context,
    admin::optional,
    escape::Notation,
    failure::{Failure, Outcome},
    output::{Format, Out, talk},
};
use crate::client::Error;

/// Commands about shards.
#[derive(Debug, Subcommand)]
pub(super) enum Shard {
    /// List the shards
    Ls,
    /// Show one shard as each of its nodes sees it
    Show(Show),
}

#[derive(Serialize)]
struct ShardRow {
    shard: u64,
    start: String,
    end: String,
    epoch: String,
    leader: u64,
    replicas: Vec<ReplicaRow>,
}

#[derive(Serialize)]
struct ReplicaRow {
    replica: u64,
    node: u64,
    learner: bool,
}

impl ShardRow {
    fn new(info: &v1::ShardInfo, notation: Notation) -> Self {
        let descriptor = info.descriptor.clone().unwrap_or_default();
        let epoch = descriptor.epoch.unwrap_or_default();
        Self {
            shard: descriptor.shard_id,
            start: notation.show(&descriptor.start),
            end: notation.show(&descriptor.end),
            epoch: format!("{}.{}", epoch.range, epoch.membership),
            leader: info.leader,
            replicas: descriptor
                .replicas
                .iter()
                .map(|replica| ReplicaRow {
                    replica: replica.replica_id,
                    node: replica.node_id,
                    learner: replica.learner,
                })
                .collect(),
        }
    }

    /// The bounds as a person reads them: nothing is "from the first key", "to the last key".
    fn bounds(&self) -> [String; 2] {
        const META: u64 = 1;
        match (self.shard, self.end.as_str()) {
            (META, _) => ["(directory)".to_owned(), String::new()],
            (_, "") => [self.start.clone(), "(end)".to_owned()],
            (_, end) => [self.start.clone(), end.to_owned()],
        }
    }

    fn nodes(&self) -> String {
        let node = |replica: &ReplicaRow| {
            format!(
                "{}{}",
                replica.node,
                if replica.learner { " (learner)" } else { "" }
            )
        };
        self.replicas
            .iter()
            .map(node)
            .collect::<Vec<_>>()
            .join(", ")
    }
}

/// `shard ls`.
pub(super) async fn list(context: &Context, out: &mut Out) -> Outcome {
    let shards = context.admin()?.list_shards().await?;
    let rows: Vec<ShardRow> = shards
        .iter()
        .map(|info| ShardRow::new(info, context.notation))
        .collect();
    let columns = ["SHARD", "START", "END", "EPOCH", "LEADER", "NODES"];
    out.rows(context.global.output, &columns, &rows, |row| {
        let [start, end] = row.bounds();
        vec![
            row.shard.to_string(),
            start,
            end,
            row.epoch.clone(),
            optional(row.leader),
            row.nodes(),
        ]
    })
}

/// Arguments of `shard show`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("which").required(true).args(["key", "id"]))]
pub(super) struct Show {
    /// A key of the shard
    key: Option<String>,
    /// The shard's id
    #[arg(long, value_name = "N")]
    id: Option<u64>,
    /// Also compute the checksum of each replica's data
    #[arg(long)]
    checksum: bool,
}

#[derive(Serialize)]
struct ShardView {
    #[serde(flatten)]
    shard: ShardRow,
    views: Vec<ReplicaView>,
}

#[derive(Serialize)]
struct ReplicaView {
    node: u64,
    address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    role: String,
    term: u64,
    commit: u64,
    applied: u64,
    last_index: u64,
    compacted: u64,
    revision: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    checksum: Option<Checksum>,
}

#[derive(Serialize, Clone, Copy)]
struct Checksum {
    applied: u64,
    keys: u64,
    checksum: u32,
}

impl Show {
    pub(super) async fn run(self, context: &Context, out: &mut Out) -> Outcome {
        use v1::show_shard_request::Which;
        let which = match (&self.key, self.id) {
            (Some(key), _) => Which::Key(context.read("KEY", key)?),
            (None, Some(id)) => Which::ShardId(id),
            (None, None) => unreachable!("clap demands one of them"),
        };
        let nodes: BTreeMap<u64, String> = context
            .admin()?
            .list_nodes()
            .await?
            .into_iter()
            .filter_map(|info| info.node)
            .map(|node| (node.node_id, node.address))
            .collect();
        let answers = context
            .admin_of(nodes.values(), context.global.timeout)?
            .show_shard(which)
            .await;
        // Of all views of the descriptor the newest.
        let newest = answers
            .iter()
            .filter_map(|(_, answer)| answer.as_ref().ok())
            .max_by_key(|info| {
                let epoch = info
                    .descriptor
                    .as_ref()
                    .and_then(|descriptor| descriptor.epoch);
                let epoch = epoch.unwrap_or_default();
                (epoch.range, epoch.membership, info.local.is_some())
            });
        let Some(newest) = newest else {
            return Err(nobody_shows(answers));
        };
        let shard = ShardRow::new(newest, context.notation);
        let mut checksums = self.checksums(context, &shard, &nodes).await?;
        let views = shard
            .replicas
            .iter()
            .map(|replica| {
                let address = nodes.get(&replica.node).cloned().unwrap_or_default();
                let answer = answers.iter().find(|(asked, _)| *asked == address);
                let (local, error) = match answer {
                    Some((_, Ok(info))) => (info.local.clone(), None),
                    Some((_, Err(error))) => (None, Some(error.to_string())),
                    None => (None, Some("the node's address is not known".to_owned())),
                };
                let local = local.unwrap_or_default();
                ReplicaView {
                    node: replica.node,
                    checksum: checksums.remove(&address),
                    address,
                    error,
                    role: local.role,
                    term: local.term,
                    commit: local.commit,
                    applied: local.applied,
                    last_index: local.last_index,
                    compacted: local.compacted,
                    revision: local.revision,
                }
            })
            .collect();
        self.print(context, out, &ShardView { shard, views })
    }

    async fn checksums(
        &self,
        context: &Context,
        shard: &ShardRow,
        nodes: &BTreeMap<u64, String>,
    ) -> Outcome<BTreeMap<String, Checksum>> {
        if !self.checksum {
            return Ok(BTreeMap::new());
        }
        let holders = shard
            .replicas
            .iter()
            .filter_map(|replica| nodes.get(&replica.node));
        let answers = context
            .admin_of(holders, context.global.timeout)?
            .checksum(shard.shard)
            .await;
        let mut checksums = BTreeMap::new();
        for (address, answer) in answers {
            match answer {
                Ok(answer) => {
                    let checksum = Checksum {
                        applied: answer.applied_index,
                        keys: answer.keys,
                        checksum: answer.checksum,
                    };
                    checksums.insert(address, checksum);
                }
                Err(error) => talk(format!("no checksum from {address}: {error}")),
            }
        }
        Ok(checksums)
    }

    fn print(&self, context: &Context, out: &mut Out, view: &ShardView) -> Outcome {
        if context.global.output != Format::Table {
            return out.json(context.global.output, view);
        }
        let shard = &view.shard;
        let [start, end] = shard.bounds();
        out.line(format!(
            "shard {}  range [{start}, {end})  epoch {}  leader {}",
            shard.shard,
            shard.epoch,
            optional(shard.leader)
        ))?;
        let mut columns = vec![
            "NODE",
            "ADDRESS",
            "ROLE",
            "TERM",
            "COMMIT",
            "APPLIED",
            "LAST",
            "COMPACTED",
            "REVISION",
        ];
        if self.checksum {
            columns.extend(["KEYS", "CHECKSUM", "AT"]);
        }
        out.rows(Format::Table, &columns, &view.views, |view| {
            let mut cells = vec![
                view.node.to_string(),
                view.address.clone(),
                view.error.clone().unwrap_or_else(|| view.role.clone()),
                view.term.to_string(),
                view.commit.to_string(),
                view.applied.to_string(),
                view.last_index.to_string(),
                view.compacted.to_string(),
                view.revision.to_string(),
            ];
            if let Some(checksum) = view.checksum {
                cells.extend([
                    checksum.keys.to_string(),
                    format!("{:08x}", checksum.checksum),
                    checksum.applied.to_string(),
                ]);
            }
            cells
        })
    }
}

/// No node knows the shard, or none answers.
fn nobody_shows(answers: Vec<(String, Result<v1::ShardInfo, Error>)>) -> Failure {
    let mut errors: Vec<Error> = answers
        .into_iter()
        .filter_map(|(_, answer)| answer.err())
        .collect();
    match errors
        .iter()
        .position(|error| matches!(error, Error::InvalidArgument { .. }))
    {
        Some(refusal) => Failure::NotFound(errors.swap_remove(refusal).to_string()),
        None => {
            let errors: Vec<_> = errors.iter().map(Error::to_string).collect();
            Failure::NobodyAnswers(errors.join("; "))
        }
    }
}
