//! What is done with the Ready of a node, and by its storage threads.

use super::node::Node;
use super::{Env, Outcome, Stop, fail};
use flotilla_shards::raft::confchange::ConfChangeAny;
use flotilla_shards::raft::{Entry, EntryKind, HardState, ReplicaId, Snapshot};

impl Env {
    /// Takes one Ready and handles it.
    pub(super) fn handle_ready(&mut self, at: usize) -> Outcome {
        let node = &mut self.nodes[at];
        let ready = node.raw.ready();
        self.out.write(&ready);
        let sync = !node.config.async_storage_writes;
        if sync {
            node.store(
                ready.hard_state.unwrap_or_default(),
                &ready.entries,
                ready.snapshot.as_deref(),
            )?;
            node.apply(&ready.committed_entries)?;
        }
        for message in ready.messages {
            assert!(
                !(sync && message.to.is_storage_thread()),
                "storage message of a synchronous node: {message}"
            );
            match message.to {
                ReplicaId::APPEND_THREAD => node.append_work.push_back(message),
                ReplicaId::APPLY_THREAD => node.apply_work.push_back(message),
                _ => self.messages.push(message),
            }
        }
        if sync {
            node.raw.advance();
        }
        Ok(())
    }

    /// Handles one message of the append thread.
    pub(super) fn handle_append_work(&mut self, at: usize) -> Outcome {
        let node = &mut self.nodes[at];
        let Some(mut message) = node.append_work.pop_front() else {
            self.out.write("no append work to perform");
            return Ok(());
        };
        let responses = std::mem::take(&mut message.responses);
        self.out.line(format_args!("Processing:\n{message}"));
        let hard_state = HardState {
            term: message.term,
            vote: message.vote,
            commit: message.commit,
        };
        node.store(hard_state, &message.entries, message.snapshot.as_deref())?;
        self.respond(responses);
        Ok(())
    }

    /// Handles one message of the apply thread.
    pub(super) fn handle_apply_work(&mut self, at: usize) -> Outcome {
        let node = &mut self.nodes[at];
        let Some(mut message) = node.apply_work.pop_front() else {
            self.out.write("no apply work to perform");
            return Ok(());
        };
        let responses = std::mem::take(&mut message.responses);
        self.out.line(format_args!("Processing:\n{message}"));
        node.apply(&message.entries)?;
        self.respond(responses);
        Ok(())
    }

    fn respond(&mut self, responses: Vec<flotilla_shards::raft::Message>) {
        self.out.line("Responses:");
        for response in responses {
            self.out.line(&response);
            self.messages.push(response);
        }
    }
}

impl Node {
    /// Writes to the stable storage.
    fn store(
        &mut self,
        hard_state: HardState,
        entries: &[Entry],
        snapshot: Option<&Snapshot>,
    ) -> Outcome {
        let mut log = self.storage.log_mut();
        if !hard_state.is_empty() {
            log.set_hard_state(hard_state);
        }
        if let Some(snapshot) = snapshot {
            if !entries.is_empty() {
                return fail("can't apply snapshot and entries at the same time");
            }
            return Ok(log.apply_snapshot(snapshot.clone())?);
        }
        Ok(log.append(entries)?)
    }

    /// Applies committed entries. The state after each of them is kept as a snapshot.
    fn apply(&mut self, entries: &[Entry]) -> Outcome {
        for entry in entries {
            let mut snapshot = self.storage.latest_snapshot();
            let update = if entry.kind == EntryKind::Normal {
                entry.data.clone()
            } else {
                let change = ConfChangeAny::decode(entry.kind, &entry.data);
                let change = change
                    .map_err(|error| Stop::Failed(error.to_string()))?
                    .into_v2();
                snapshot.meta.conf_state = self.raw.apply_conf_change(&change)?;
                change.context
            };
            snapshot.meta.index = entry.index;
            snapshot.meta.term = entry.term;
            snapshot.data = [snapshot.data, update].concat().into();
            self.storage.push_snapshot(snapshot);
        }
        Ok(())
    }
}
