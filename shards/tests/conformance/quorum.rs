//! Runner of the quorum files: commit index and vote result of majority and joint configurations.

use crate::datadriven::{Broken, Case, Checked, broken};
use flotilla_shards::raft::quorum::{JointConfig, MajorityConfig, VoteResult};
use flotilla_shards::raft::{Index, ReplicaId};
use std::collections::BTreeMap;

pub(crate) fn run(case: &Case) -> Checked<String> {
    let mut joint = false;
    let mut config = JointConfig::default();
    let mut ids = Vec::new();
    let mut values: Option<&[String]> = None;
    for arg in &case.args {
        match arg.key.as_str() {
            "cfg" => config.incoming = voters(&arg.values::<u64>()?, &mut ids),
            "cfgj" => {
                joint = true;
                if arg.values != ["zero"] {
                    config.outgoing = voters(&arg.values::<u64>()?, &mut ids);
                }
            }
            "idx" | "votes" => values = Some(&arg.values),
            other => return broken(format_args!("unknown argument {other}")),
        }
    }
    let values = values.unwrap_or_default();
    if values.len() != ids.len() {
        let kind = if case.command == "vote" {
            "votes"
        } else {
            "indexes"
        };
        return Ok(format!(
            "error: mismatched input ({kind}) for voters {ids:?}: {values:?}\n"
        ));
    }
    match case.command.as_str() {
        "committed" => {
            let acked = known(&ids, values, |value| match value.parse() {
                Ok(0) | Err(_) => broken(format_args!("cannot read {value:?} as an index")),
                Ok(index) => Ok(Index(index)),
            })?;
            Ok(committed(&config, joint, &acked))
        }
        "vote" => {
            let votes = known(&ids, values, |value| match value {
                "y" => Ok(true),
                "n" => Ok(false),
                _ => broken(format_args!("cannot read {value:?} as a vote")),
            })?;
            Ok(vote(&config, joint, &votes))
        }
        other => broken(format_args!("unknown command {other}")),
    }
}

fn voters(values: &[u64], ids: &mut Vec<ReplicaId>) -> MajorityConfig {
    let voters = values.iter().map(|&id| ReplicaId(id));
    for id in voters.clone() {
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    voters.collect()
}

/// The values that are not `_`, by id.
fn known<T>(
    ids: &[ReplicaId],
    values: &[String],
    read: impl Fn(&str) -> Checked<T>,
) -> Result<BTreeMap<ReplicaId, T>, Broken> {
    let known = ids.iter().zip(values).filter(|&(_, value)| value != "_");
    known.map(|(&id, value)| Ok((id, read(value)?))).collect()
}

fn committed(config: &JointConfig, joint: bool, acked: &BTreeMap<ReplicaId, Index>) -> String {
    let lookup = |id: ReplicaId| acked.get(&id).copied();
    let JointConfig { incoming, outgoing } = config;
    let index = if joint {
        let index = config.committed_index(lookup);
        assert_eq!(
            swapped(config).committed_index(lookup),
            index,
            "the halves of a joint quorum are interchangeable"
        );
        index
    } else {
        let index = incoming.committed_index(lookup);
        assert_eq!(
            committed_naively(incoming, acked),
            index,
            "two ways to count a majority"
        );
        let with = |outgoing: MajorityConfig| JointConfig {
            incoming: incoming.clone(),
            outgoing,
        };
        assert_eq!(
            with(MajorityConfig::default()).committed_index(lookup),
            index,
            "joined with nobody"
        );
        assert_eq!(
            with(incoming.clone()).committed_index(lookup),
            index,
            "joined with itself"
        );
        for (&id, &was) in acked
            .iter()
            .filter(|&(&id, &was)| was < index && incoming.contains(id))
        {
            for lower in [was.prev(), Index(0)] {
                let lookup = |other| {
                    if other == id {
                        Some(lower)
                    } else {
                        lookup(other)
                    }
                };
                assert_eq!(
                    incoming.committed_index(lookup),
                    index,
                    "{id} is below the result and went further down"
                );
            }
        }
        index
    };
    let picture = if joint {
        config.describe(lookup)
    } else {
        incoming.describe(lookup)
    };
    assert!(joint || outgoing.is_empty());
    match index {
        Index(u64::MAX) => format!("{picture}∞\n"),
        index => format!("{picture}{index}\n"),
    }
}

/// The greatest index that a majority has acknowledged, by trying each.
fn committed_naively(config: &MajorityConfig, acked: &BTreeMap<ReplicaId, Index>) -> Index {
    if config.is_empty() {
        return Index(u64::MAX);
    }
    let enough = |index| {
        config
            .iter()
            .filter(|id| acked.get(id) >= Some(&index))
            .count()
            > config.len() / 2
    };
    acked
        .values()
        .copied()
        .filter(|&index| enough(index))
        .max()
        .unwrap_or_default()
}

fn vote(config: &JointConfig, joint: bool, votes: &BTreeMap<ReplicaId, bool>) -> String {
    let lookup = |id: ReplicaId| votes.get(&id).copied();
    let result: VoteResult = if joint {
        let result = config.vote_result(lookup);
        assert_eq!(
            swapped(config).vote_result(lookup),
            result,
            "the halves of a joint quorum are interchangeable"
        );
        result
    } else {
        config.incoming.vote_result(lookup)
    };
    format!("{result}\n")
}

fn swapped(config: &JointConfig) -> JointConfig {
    JointConfig {
        incoming: config.outgoing.clone(),
        outgoing: config.incoming.clone(),
    }
}
