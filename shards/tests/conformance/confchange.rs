//! Runner of the confchange files: configuration changes on a bare tracker.

use crate::datadriven::{Case, Checked, broken};
use flotilla_shards::raft::Index;
use flotilla_shards::raft::confchange::{Changer, parse_operations};
use flotilla_shards::raft::tracker::ProgressTracker;

/// The configuration of one file.
pub(crate) struct Runner {
    tracker: ProgressTracker,
    last_index: Index,
}

impl Runner {
    pub(crate) fn new() -> Self {
        Self {
            tracker: ProgressTracker::new(10, 0),
            last_index: Index(0),
        }
    }

    pub(crate) fn run(&mut self, case: &Case) -> Checked<String> {
        let output = self.change(case)?;
        self.last_index = self.last_index.next();
        Ok(output)
    }

    fn change(&mut self, case: &Case) -> Checked<String> {
        let changes = match parse_operations(&case.input) {
            Ok(changes) => changes,
            Err(error) => return Ok(format!("{error}\n")),
        };
        let changer = Changer {
            tracker: &self.tracker,
            last_index: self.last_index,
        };
        let outcome = match case.command.as_str() {
            "simple" => changer.simple(&changes),
            "enter-joint" => {
                let auto_leave = case.arg("autoleave").map_or(Ok(false), |arg| arg.flag())?;
                changer.enter_joint(auto_leave, &changes)
            }
            "leave-joint" if !changes.is_empty() => {
                return Ok("this command takes no input\n".into());
            }
            "leave-joint" => changer.leave_joint(),
            other => return broken(format_args!("unknown command {other}")),
        };
        Ok(match outcome {
            Ok((config, progress)) => {
                (self.tracker.config, self.tracker.progress) = (config, progress);
                format!("{}\n{}", self.tracker.config, self.tracker.progress)
            }
            Err(error) => format!("{error}\n"),
        })
    }
}
