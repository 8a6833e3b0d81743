//! What is asked of a node: elections, proposals, time, leadership.

use super::{Env, Outcome, Stop, fail};
use crate::datadriven::{Case, boolean, broken};
use flotilla_shards::raft::ReplicaId;
use flotilla_shards::raft::confchange::{
    ConfChange, ConfChangeAny, ConfChangeTransition, ConfChangeV2, parse_operations,
};

impl Env {
    pub(super) fn campaign(&mut self, case: &Case) -> Outcome {
        Ok(self.first_node(case)?.raw.campaign()?)
    }

    pub(super) fn forget_leader(&mut self, case: &Case) -> Outcome {
        self.first_node(case)?.raw.forget_leader();
        Ok(())
    }

    pub(super) fn propose(&mut self, case: &Case) -> Outcome {
        let [_, word] = case.args.as_slice() else {
            return broken("expected a node and one word").map_err(Stop::Broken);
        };
        self.first_node(case)?
            .raw
            .propose(word.key.clone().into())?;
        Ok(())
    }

    pub(super) fn propose_conf_change(&mut self, case: &Case) -> Outcome {
        let at = self.first(case)?;
        let mut v1 = false;
        let mut transition = ConfChangeTransition::Auto;
        for arg in &case.args[1..] {
            for value in &arg.values {
                match (arg.key.as_str(), value.as_str()) {
                    ("v1", value) => v1 = boolean(value)?,
                    ("transition", "auto") => transition = ConfChangeTransition::Auto,
                    ("transition", "implicit") => transition = ConfChangeTransition::JointImplicit,
                    ("transition", "explicit") => transition = ConfChangeTransition::JointExplicit,
                    ("transition", other) => return fail(format!("unknown transition {other}")),
                    (other, _) => return fail(format!("unknown command {other}")),
                }
            }
        }
        let changes = match parse_operations(&case.input) {
            Ok(changes) => changes,
            Err(error) => return fail(error.to_string()),
        };
        let change: ConfChangeAny = if v1 {
            match changes.as_slice() {
                &[change] if transition == ConfChangeTransition::Auto => ConfChange {
                    change,
                    ..ConfChange::default()
                }
                .into(),
                [] => return broken("a v1 change needs an operation").map_err(Stop::Broken),
                _ => return fail("v1 conf change can only have one operation and no transition"),
            }
        } else {
            ConfChangeV2 {
                transition,
                changes,
                ..ConfChangeV2::default()
            }
            .into()
        };
        self.nodes[at].raw.propose_conf_change(change)?;
        Ok(())
    }

    pub(super) fn report_unreachable(&mut self, case: &Case) -> Outcome {
        let [on, reported] = case.args.as_slice() else {
            return fail(
                "must specify exactly two node indexes: node on which to report, and reported node",
            );
        };
        let (on, reported) = (self.position(on)?, self.position(reported)?);
        self.nodes[on]
            .raw
            .report_unreachable(ReplicaId(reported as u64 + 1));
        Ok(())
    }

    pub(super) fn transfer_leadership(&mut self, case: &Case) -> Outcome {
        let (Some(from), Some(to)) = (case.arg("from"), case.arg("to")) else {
            return broken("expected from= and to=").map_err(Stop::Broken);
        };
        let from = self.position_of(from.value()?)?;
        self.nodes[from].raw.transfer_leader(ReplicaId(to.value()?));
        Ok(())
    }

    pub(super) fn tick_election(&mut self, case: &Case) -> Outcome {
        let node = self.first_node(case)?;
        (0..node.config.election_ticks).for_each(|_| node.raw.tick());
        Ok(())
    }

    pub(super) fn tick_heartbeat(&mut self, case: &Case) -> Outcome {
        let node = self.first_node(case)?;
        (0..node.config.heartbeat_ticks).for_each(|_| node.raw.tick());
        Ok(())
    }

    pub(super) fn set_randomized_election_timeout(&mut self, case: &Case) -> Outcome {
        let timeout = case
            .arg("timeout")
            .map_or_else(|| broken("expected timeout="), |arg| arg.value())?;
        if timeout == 0 {
            return broken("the timeout must not be 0").map_err(Stop::Broken);
        }
        self.first_node(case)?
            .raw
            .raft
            .set_randomized_election_timeout(timeout);
        Ok(())
    }
}
