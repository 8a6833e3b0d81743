//! What runs came to, one or many, and how it is told.

use std::fmt;

use crate::coverage::Coverage;
use crate::fault::{Fault, FaultCounts};
use crate::queue::{Micros, SECOND};

/// What a run came to, or several together.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Number of runs.
    pub runs: u64,
    /// Hash of all that happened; of several runs, the exclusive or of theirs.
    pub hash: u64,
    /// Simulated time.
    pub simulated: Micros,
    /// Events.
    pub events: u64,
    /// Frames between nodes.
    pub frames: u64,
    /// Committed entries.
    pub commits: u64,
    /// Terms that had a leader.
    pub elections: u64,
    /// Snapshots installed.
    pub snapshots: u64,
    /// Logs cut.
    pub compactions: u64,
    /// Replicas' states that were compared at the same index.
    pub compared: u64,
    /// Commands of sessions that were in a log twice.
    pub repeats: u64,
    /// Reads that a lease confirmed.
    pub leased: u64,
    /// Reads that an open lease answered, without the engine.
    pub read_by_open_leases: u64,
    /// Nodes that were lost for good.
    pub lost: u64,
    /// Operations of clients by how they ended.
    pub operations: Operations,
    /// Operations whose history was judged.
    pub judged: u64,
    /// Faults by kind.
    pub faults: FaultCounts,
    /// What happened while faults were in effect.
    pub coverage: Coverage,
}

/// Operations of clients by how they ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Operations {
    /// Answered.
    pub ok: u64,
    /// Known to have had no effect.
    pub failed: u64,
    /// Nobody knows.
    pub unknown: u64,
}

impl Report {
    /// Adds another one.
    pub fn add(&mut self, other: &Self) {
        self.runs += other.runs;
        self.hash ^= other.hash;
        self.simulated += other.simulated;
        self.events += other.events;
        self.frames += other.frames;
        self.commits += other.commits;
        self.elections += other.elections;
        self.snapshots += other.snapshots;
        self.compactions += other.compactions;
        self.compared += other.compared;
        self.repeats += other.repeats;
        self.leased += other.leased;
        self.read_by_open_leases += other.read_by_open_leases;
        self.lost += other.lost;
        self.operations.ok += other.operations.ok;
        self.operations.failed += other.operations.failed;
        self.operations.unknown += other.operations.unknown;
        self.judged += other.judged;
        self.faults.add(&other.faults);
        self.coverage.add(&other.coverage);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Operations {
            ok,
            failed,
            unknown,
        } = self.operations;
        writeln!(
            f,
            "{} runs, {} s of simulated time, {} events, {} frames between nodes",
            self.runs,
            self.simulated / SECOND,
            self.events,
            self.frames
        )?;
        writeln!(
            f,
            "{} elections, {} committed entries, {} compactions, {} snapshots, {} nodes lost",
            self.elections, self.commits, self.compactions, self.snapshots, self.lost
        )?;
        writeln!(
            f,
            "{} operations judged: {ok} answered, {failed} failed, {unknown} unknown",
            self.judged
        )?;
        writeln!(
            f,
            "{} states compared, {} repeated commands of sessions, {} reads by leases, {} without asking",
            self.compared, self.repeats, self.leased, self.read_by_open_leases
        )?;
        write!(f, "faults:")?;
        for fault in Fault::ALL {
            write!(f, " {fault:?} {}", self.faults.of(fault))?;
        }
        Ok(())
    }
}
