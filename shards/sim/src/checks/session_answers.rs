//! Source: thesis 6.3; scenarios W3 (dragonboat#45, #60, #356; atomix PR#341). All replicas give the same answers to an
//! entry's commands, and the command of a session with one sequence number has one result in the whole cluster, however
//! often it is in the log.

use std::collections::BTreeMap;

use flotilla_proto::v1::{CommandAnswer, CommandBatch, command, command_answer, refusal::Reason};
use flotilla_shards::ids::ShardId;
use flotilla_shards::raft::{Entry, EntryKind, Index};
use prost::Message as _;

use super::{Checked, ensure};
use crate::trace::hash_bytes;

const CHECK: &str = "session_answers";

/// Entries of a shard whose answers are remembered.
const KEPT: usize = 4096;

/// See the module.
#[derive(Default)]
pub(crate) struct SessionAnswers {
    entries: BTreeMap<ShardId, BTreeMap<Index, u64>>,
    /// By where the session was opened, its number, the sequence.
    results: BTreeMap<(u64, u64, u64), CommandAnswer>,
    repeats: u64,
}

impl SessionAnswers {
    /// How often a command of a session was found to be in the log again.
    pub(crate) fn repeats(&self) -> u64 {
        self.repeats
    }

    pub(super) fn entry(
        &mut self,
        shard: ShardId,
        entry: &Entry,
        answers: &[CommandAnswer],
    ) -> Checked {
        let hash =
            (answers.iter()).fold(0, |hash, answer| hash_bytes(hash, &answer.encode_to_vec()));
        let known = self.entries.entry(shard).or_default();
        if let Some(expected) = known.get(&entry.index) {
            return ensure(*expected == hash, CHECK, || {
                format!(
                    "shard {shard}: two replicas answer the commands of entry {} differently: {answers:?}",
                    entry.index
                )
            });
        }
        known.insert(entry.index, hash);
        if known.len() > KEPT {
            known.pop_first();
        }
        self.first(shard, entry, answers)
    }

    /// The first replica that applied an entry tells what its commands led to.
    fn first(&mut self, shard: ShardId, entry: &Entry, answers: &[CommandAnswer]) -> Checked {
        if entry.kind != EntryKind::Normal || entry.data.is_empty() {
            return Ok(());
        }
        let Ok(batch) = CommandBatch::decode(entry.data.clone()) else {
            return Ok(());
        };
        for (command, answer) in batch.commands.iter().zip(answers) {
            let (Some(session), Some(command::Kind::Write(_))) = (&command.session, &command.kind)
            else {
                continue;
            };
            if let Some(command_answer::Kind::Refused(refusal)) = &answer.kind
                && matches!(
                    refusal.reason(),
                    Reason::EpochMismatch
                        | Reason::OutOfRange
                        | Reason::SessionUnknown
                        | Reason::SequenceOutOfWindow
                )
            {
                continue; // neither executed nor answered by memory
            }
            let key = (session.shard_id, session.number, session.sequence);
            let mut result = answer.clone();
            if let Some(command_answer::Kind::Refused(refusal)) = &mut result.kind {
                refusal.detail.clear();
            }
            match self.results.get(&key) {
                None => {
                    self.results.insert(key, result);
                }
                Some(known) => {
                    self.repeats += 1;
                    ensure(*known == result, CHECK, || {
                        format!(
                            "shard {shard}, entry {}: sequence {} of session {}.{} had the result {known:?}, and now \
                             has {result:?}",
                            entry.index, session.sequence, session.shard_id, session.number
                        )
                    })?;
                }
            }
        }
        Ok(())
    }
}
