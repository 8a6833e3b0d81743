//! Commands that etcd-raft's files don't have, for our own scenarios. `../README.md` describes them.

use super::node::Node;
use super::{Env, Outcome, Stop};
use crate::datadriven::{Case, broken};
use flotilla_shards::raft::{Index, RawNode, Storage};

impl Env {
    pub(super) fn read_index(&mut self, case: &Case) -> Outcome {
        let [_, context] = case.args.as_slice() else {
            return broken("expected a node and a context").map_err(Stop::Broken);
        };
        let context = context.key.clone();
        Ok(self.first_node(case)?.raw.read_index(context.into())?)
    }

    pub(super) fn tick(&mut self, case: &Case) -> Outcome {
        let ticks = case.args.get(1).map_or(Ok(1), |arg| arg.id())?;
        self.first_node(case)?.raw.advance_ticks(ticks);
        Ok(())
    }

    pub(super) fn heartbeat(&mut self, case: &Case) -> Outcome {
        self.first_node(case)?.raw.heartbeat_now();
        Ok(())
    }

    pub(super) fn election_due(&mut self, case: &Case) -> Outcome {
        let due = self.first_node(case)?.raw.take_election_due();
        self.out.write(if due { "due" } else { "not due" });
        Ok(())
    }

    pub(super) fn lease(&mut self, case: &Case) -> Outcome {
        let ticks = self.first_node(case)?.raw.lease_remaining_ticks();
        self.out.write(format_args!("{ticks} ticks"));
        Ok(())
    }

    pub(super) fn due(&mut self, case: &Case) -> Outcome {
        match self.first_node(case)?.raw.ticks_until_due() {
            Some(ticks) => self.out.write(format_args!("in {ticks} ticks")),
            None => self.out.write("never"),
        }
        Ok(())
    }

    pub(super) fn quiesce(&mut self, case: &Case) -> Outcome {
        let rests = self.first_node(case)?.raw.quiesce(|_| false);
        self.out.write(if rests { "quiescent" } else { "busy" });
        Ok(())
    }

    pub(super) fn wake(&mut self, case: &Case) -> Outcome {
        self.first_node(case)?.raw.wake();
        Ok(())
    }

    /// Starts a node anew from what its storage has.
    pub(super) fn restart(&mut self, case: &Case) -> Outcome {
        let at = self.first(case)?;
        let Node {
            config, storage, ..
        } = &self.nodes[at];
        let mut config = config.clone();
        for arg in &case.args[1..] {
            match arg.key.as_str() {
                "vote-hold-off" => config.vote_hold_off_ticks = arg.value()?,
                other => {
                    return broken(format_args!("unknown argument {other}")).map_err(Stop::Broken);
                }
            }
        }
        let applied = storage.latest_snapshot().meta;
        config.applied = applied.index.max(storage.first_index().prev());
        // What was applied is committed, whether or not that was written down.
        let mut hard_state = storage.log().hard_state();
        if hard_state.commit < config.applied && config.applied > Index(0) {
            hard_state.commit = config.applied;
            storage.log_mut().set_hard_state(hard_state);
        }
        storage.start_from(applied.conf_state);
        let raw = RawNode::new(&config, storage.clone())?;
        let node = &mut self.nodes[at];
        node.raw = raw;
        node.append_work.clear();
        node.apply_work.clear();
        Ok(())
    }
}
