//! Runner of the interaction files: several nodes, a pool of messages between them, and their storage, driven by
//! commands.
//!
//! `mod` holds the environment and the table of commands, `node` one node with its storage, `ready` what is done with
//! what a node puts out, `traffic` how messages move, `propose` what is asked of a node, `inspect` what is looked at,
//! `extra` the commands of our own scenarios.

mod extra;
mod inspect;
mod node;
mod output;
mod propose;
mod ready;
mod traffic;

use crate::datadriven::{Arg, Broken, Case, Checked, broken};
use flotilla_shards::raft::storage::StorageError;
use flotilla_shards::raft::{Error, Message};
use node::Node;
use output::Output;

/// The state of one file.
pub(crate) struct Env {
    /// The node at position `i` has id `i + 1`.
    nodes: Vec<Node>,
    /// Messages between nodes, first in, first out.
    messages: Vec<Message>,
    out: Output,
}

/// Why a command stopped.
#[derive(Debug)]
enum Stop {
    /// The file is wrong.
    Broken(Broken),
    /// The command failed, which the file may expect.
    Failed(String),
}

impl From<Broken> for Stop {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<StorageError> for Stop {
    fn from(error: StorageError) -> Self {
        Self::Failed(error.to_string())
    }
}

type Outcome = Result<(), Stop>;

fn fail(text: impl Into<String>) -> Outcome {
    Err(Stop::Failed(text.into()))
}

impl Env {
    pub(crate) fn new() -> Self {
        Self {
            nodes: Vec::new(),
            messages: Vec::new(),
            out: Output::new(),
        }
    }

    /// Runs one command and gives back what it printed.
    pub(crate) fn run(&mut self, case: &Case) -> Checked<String> {
        self.out.clear();
        let error = match self.command(case) {
            Ok(()) => None,
            Err(Stop::Failed(error)) => Some(error),
            Err(Stop::Broken(broken)) => return Err(broken),
        };
        Ok(self.out.finish(error))
    }

    fn command(&mut self, case: &Case) -> Outcome {
        match case.command.as_str() {
            "_breakpoint" => Ok(()),
            "add-nodes" => self.add_nodes(case),
            "campaign" => self.campaign(case),
            "compact" => self.compact(case),
            "deliver-msgs" => self.deliver_msgs(case),
            "forget-leader" => self.forget_leader(case),
            "log-level" => self.log_level(case),
            "process-append-thread" => {
                self.each_node(case, "processing append thread", Self::handle_append_work)
            }
            "process-apply-thread" => {
                self.each_node(case, "processing apply thread", Self::handle_apply_work)
            }
            "process-ready" => self.each_node(case, "handling Ready", Self::handle_ready),
            "propose" => self.propose(case),
            "propose-conf-change" => self.propose_conf_change(case),
            "raft-log" => self.raft_log(case),
            "raft-state" => self.raft_state(),
            "report-unreachable" => self.report_unreachable(case),
            "send-snapshot" => self.send_snapshot(case),
            "set-randomized-election-timeout" => self.set_randomized_election_timeout(case),
            "stabilize" => self.stabilize(case),
            "status" => self.status(case),
            "tick-election" => self.tick_election(case),
            "tick-heartbeat" => self.tick_heartbeat(case),
            "transfer-leadership" => self.transfer_leadership(case),
            // Of our own
            "election-due" => self.election_due(case),
            "heartbeat" => self.heartbeat(case),
            "lease" => self.lease(case),
            "next-timeout" => self.due(case),
            "quiesce" => self.quiesce(case),
            "read-index" => self.read_index(case),
            "restart" => self.restart(case),
            "tick" => self.tick(case),
            "wake" => self.wake(case),
            _ => fail("unknown command"),
        }
    }

    /// The position of the node that `arg` names by its id.
    fn position(&self, arg: &Arg) -> Checked<usize> {
        self.position_of(arg.id()?)
    }

    fn position_of(&self, id: usize) -> Checked<usize> {
        if (1..=self.nodes.len()).contains(&id) {
            Ok(id - 1)
        } else {
            broken(format_args!("there is no node {id}"))
        }
    }

    /// The position of the node that the first argument names.
    fn first(&self, case: &Case) -> Checked<usize> {
        case.args.first().map_or_else(
            || broken("expected the id of a node"),
            |arg| self.position(arg),
        )
    }

    /// The node that the first argument names.
    fn first_node(&mut self, case: &Case) -> Checked<&mut Node> {
        let at = self.first(case)?;
        Ok(&mut self.nodes[at])
    }

    /// The positions of the nodes that the plain numbers among the arguments name; all nodes if there is none.
    fn listed(&self, case: &Case) -> Checked<Vec<usize>> {
        let listed: Vec<_> = case
            .args
            .iter()
            .filter(|arg| arg.values.is_empty())
            .map(|arg| self.position(arg))
            .collect::<Checked<_>>()?;
        Ok(if listed.is_empty() {
            (0..self.nodes.len()).collect()
        } else {
            listed
        })
    }

    /// Does `step` for each node listed, as indented blocks if they are several.
    fn each_node(
        &mut self,
        case: &Case,
        what: &str,
        step: fn(&mut Self, usize) -> Outcome,
    ) -> Outcome {
        match self.listed(case)?.as_slice() {
            &[at] => step(self, at),
            several => several
                .iter()
                .try_for_each(|&at| self.block(at, what, |env| step(env, at))),
        }
    }

    /// Writes a header and runs `step` with its output indented below.
    fn block(&mut self, at: usize, what: &str, step: impl FnOnce(&mut Self) -> Outcome) -> Outcome {
        self.out.line(format_args!("> {} {what}", at + 1));
        self.indented(step)
    }

    fn indented(&mut self, step: impl FnOnce(&mut Self) -> Outcome) -> Outcome {
        let from = self.out.mark();
        let outcome = step(self);
        self.out.indent_from(from);
        outcome
    }

    fn log_level(&mut self, case: &Case) -> Outcome {
        match case.args.first() {
            Some(arg) if arg.values.is_empty() => self.out.set_level(&arg.key),
            _ => Err(Broken("expected the name of a level".into()).into()),
        }
    }
}
