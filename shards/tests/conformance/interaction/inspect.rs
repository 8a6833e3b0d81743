//! What is looked at: logs, roles, progress.

use super::{Env, Outcome};
use crate::datadriven::{Case, broken};
use flotilla_shards::raft::Index;
use flotilla_shards::raft::size::NO_LIMIT;
use flotilla_shards::raft::storage::Storage;

impl Env {
    pub(super) fn compact(&mut self, case: &Case) -> Outcome {
        let index = case
            .args
            .get(1)
            .map_or_else(|| broken("expected a node and an index"), |arg| arg.id())?;
        self.first_node(case)?
            .storage
            .log_mut()
            .compact(Index(index))?;
        self.raft_log(case)
    }

    /// The log in stable storage.
    pub(super) fn raft_log(&mut self, case: &Case) -> Outcome {
        let node = &self.nodes[self.first(case)?];
        let log = node.storage.log();
        let (first, last) = (log.first_index(), log.last_index());
        if last < first {
            self.out.write(format_args!(
                "log is empty: first index={first}, last index={last}"
            ));
            return Ok(());
        }
        for entry in log.entries(first, last.next(), NO_LIMIT)? {
            self.out.line(entry);
        }
        Ok(())
    }

    pub(super) fn raft_state(&mut self) -> Outcome {
        for node in &self.nodes {
            let status = node.raw.status();
            let voter = if status.config.voters.contains(status.id) {
                "(Voter)"
            } else {
                "(Non-Voter)"
            };
            let (soft, term) = (status.soft_state, status.hard_state.term);
            self.out.line(format_args!(
                "{}: {} {voter} Term:{term} Lead:{}",
                status.id, soft.role, soft.lead
            ));
        }
        Ok(())
    }

    pub(super) fn status(&mut self, case: &Case) -> Outcome {
        let node = &self.nodes[self.first(case)?];
        let status = node.raw.status();
        for (id, progress) in &status.progress {
            self.out.line(format_args!("{id}: {progress}"));
        }
        Ok(())
    }
}
