//! What a replica's log and state may look like after a crash, and what follows from it: a table.
//!
//! Log and state are two databases with syncs of their own, so a crash finds each at another moment. The cases below
//! are all there are; a test tries every combination and demands that exactly one case fits. What no crash can leave
//! behind is corruption: it refuses the start rather than to vote with a shortened memory.
//!
//! The node's storage and the simulator's model disk both start through [`recover`].

use std::sync::Arc;

use crate::{
    engine::RecoveredReplica,
    ids::ShardId,
    kv::ShardState,
    raft::{EntryId, HardState, Index, Term},
};

/// A shard's log as found on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecoveredLog {
    /// Last hard state written; zero if none was.
    pub hard_state: HardState,
    /// Where the log begins.
    pub compacted: EntryId,
    /// Where it ends; equal to `compacted` if it is empty.
    pub last: EntryId,
    /// Bytes of rows between the two.
    pub bytes: u64,
}

/// A replica that may be opened.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// What the engine is given.
    pub replica: RecoveredReplica,
    /// The log must first be made to begin behind the applied position, durably and with the replica's hard state: an
    /// installation of a snapshot was interrupted. Says which case it is.
    pub reset: Option<&'static str>,
}

/// What was found cannot come from a crash, or could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecoveryError<E> {
    /// The log could not be read.
    #[error(transparent)]
    Read(E),
    /// Entries or votes that nothing says what they belong to.
    #[error("shard {0} has a log and no state")]
    Orphan(ShardId),
    /// Log and state contradict each other.
    #[error("shard {shard}: {label}: {log:?}, applied {applied:?}")]
    Corrupt {
        /// Which shard.
        shard: ShardId,
        /// Which case of the table.
        label: &'static str,
        /// What its log has.
        log: RecoveredLog,
        /// What its state has.
        applied: EntryId,
    },
}

/// Puts logs and states together, both ascending by shard. `term_at` reads the term of an entry that is in the log.
///
/// # Errors
/// See [`RecoveryError`]; nothing of the folder may be used then.
pub fn recover<E>(
    logs: impl IntoIterator<Item = (ShardId, RecoveredLog)>,
    states: impl IntoIterator<Item = ShardState>,
    mut term_at: impl FnMut(ShardId, Index) -> Result<Term, E>,
) -> Result<Vec<Recovered>, RecoveryError<E>> {
    let mut logs = logs.into_iter().peekable();
    let mut replicas = Vec::new();
    for state in states {
        let shard = state.descriptor.shard;
        if let Some((orphan, _)) = logs.next_if(|log| log.0 < shard) {
            return Err(RecoveryError::Orphan(orphan));
        }
        let log = logs
            .next_if(|log| log.0 == shard)
            .map(|log| log.1)
            .unwrap_or_default();
        let applied = EntryId {
            index: state.applied_index,
            term: state.applied_term,
        };
        let inside = log.compacted.index < applied.index && applied.index <= log.last.index;
        let term = if inside {
            Some(term_at(shard, applied.index).map_err(RecoveryError::Read)?)
        } else {
            None
        };
        let (verdict, label) = judge(&log, applied, term);
        let mut recovered = Recovered {
            replica: RecoveredReplica {
                descriptor: Arc::new(state.descriptor),
                conf_state: state.conf_state,
                hard_state: log.hard_state,
                compacted: log.compacted,
                last: log.last,
                applied,
                log_bytes: log.bytes,
            },
            reset: None,
        };
        let replica = &mut recovered.replica;
        match verdict {
            Verdict::Open => {}
            Verdict::RaiseCommit => replica.hard_state = raised(log.hard_state, applied),
            Verdict::ResetLog => {
                replica.hard_state = raised(log.hard_state, applied);
                (replica.compacted, replica.last, replica.log_bytes) = (applied, applied, 0);
                recovered.reset = Some(label);
            }
            Verdict::Corrupt => {
                return Err(RecoveryError::Corrupt {
                    shard,
                    label,
                    log,
                    applied,
                });
            }
        }
        replicas.push(recovered);
    }
    match logs.next() {
        Some((orphan, _)) => Err(RecoveryError::Orphan(orphan)),
        None => Ok(replicas),
    }
}

/// Where the state's applied index lies in the log, and whether the terms agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Applied {
    /// Below the beginning of the log.
    Cut,
    /// At the position before the first entry, or at an entry; the same term there.
    Same,
    /// At the position before the first entry; another term there.
    OtherAtFront,
    /// At an entry of another term.
    OtherInside,
    /// Behind the last entry.
    Beyond,
}

/// Where the hard state's commit index lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Commit {
    /// Below the applied index.
    BelowApplied,
    /// At the applied index or above, and in the log.
    InLog,
    /// Behind the last entry.
    BeyondLog,
}

/// What the table looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Facts {
    applied: Applied,
    commit: Commit,
    /// Whether the hard state's term is at least that of the last entry.
    term_known: bool,
}

/// What to do with a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Open it as it is; what is committed and not applied is replayed.
    Open,
    /// Open it with the commit index raised to the applied one.
    RaiseCommit,
    /// Let the log begin behind the applied position, with nothing in it.
    ResetLog,
    /// Don't open it.
    Corrupt,
}

struct Case {
    label: &'static str,
    fits: fn(Facts) -> bool,
    verdict: Verdict,
}

const CASES: [Case; 9] = [
    Case {
        label: "everything written arrived; at most the last entries are not applied yet",
        fits: |f| f.term_known && f.applied == Applied::Same && f.commit == Commit::InLog,
        verdict: Verdict::Open,
    },
    Case {
        label: "the state was flushed, and the commit index that led there was not synced",
        fits: |f| f.term_known && f.applied == Applied::Same && f.commit == Commit::BelowApplied,
        verdict: Verdict::RaiseCommit,
    },
    Case {
        label: "a snapshot ahead of the log was installed, and the log was not cut yet",
        fits: |f| f.term_known && f.applied == Applied::Beyond && f.commit != Commit::BeyondLog,
        verdict: Verdict::ResetLog,
    },
    Case {
        label: "a snapshot that contradicts the log's uncommitted end was installed, and the log was not cut yet",
        fits: |f| {
            f.term_known && f.applied == Applied::OtherInside && f.commit == Commit::BelowApplied
        },
        verdict: Verdict::ResetLog,
    },
    Case {
        label: "the term of the last entry is newer than the hard state: votes may be lost",
        fits: |f| !f.term_known,
        verdict: Verdict::Corrupt,
    },
    Case {
        label: "the log was cut above what the state database holds",
        fits: |f| f.term_known && f.applied == Applied::Cut,
        verdict: Verdict::Corrupt,
    },
    Case {
        label: "the log ends below its commit index: acknowledged entries are lost",
        fits: |f| {
            f.term_known
                && f.commit == Commit::BeyondLog
                && f.applied != Applied::Cut
                && f.applied != Applied::OtherAtFront
        },
        verdict: Verdict::Corrupt,
    },
    Case {
        label: "the log begins behind another entry than the state ends with",
        fits: |f| f.term_known && f.applied == Applied::OtherAtFront,
        verdict: Verdict::Corrupt,
    },
    Case {
        label: "a committed entry differs from the one that was applied",
        fits: |f| f.term_known && f.applied == Applied::OtherInside && f.commit == Commit::InLog,
        verdict: Verdict::Corrupt,
    },
];

impl Facts {
    /// `term_at_applied` is the term of the log's entry at the applied index, if it has one.
    fn new(log: &RecoveredLog, applied: EntryId, term_at_applied: Option<Term>) -> Self {
        let front = log.compacted.index;
        let position = if applied.index < front {
            Applied::Cut
        } else if applied.index == front {
            if applied.term == log.compacted.term {
                Applied::Same
            } else {
                Applied::OtherAtFront
            }
        } else if applied.index > log.last.index {
            Applied::Beyond
        } else if term_at_applied == Some(applied.term) {
            Applied::Same
        } else {
            Applied::OtherInside
        };
        let commit = log.hard_state.commit;
        Self {
            applied: position,
            commit: if commit > log.last.index {
                Commit::BeyondLog
            } else if commit < applied.index {
                Commit::BelowApplied
            } else {
                Commit::InLog
            },
            // A log without entries says nothing: its front may come from a snapshot of a term not yet seen here.
            term_known: log.last == log.compacted || log.hard_state.term >= log.last.term,
        }
    }
}

/// Looks a replica up in the table. Returns the label of its case too.
fn judge(
    log: &RecoveredLog,
    applied: EntryId,
    term_at_applied: Option<Term>,
) -> (Verdict, &'static str) {
    let facts = Facts::new(log, applied, term_at_applied);
    let case = CASES.iter().find(|case| (case.fits)(facts));
    let case = case.unwrap_or_else(|| {
        panic!("no recovery case for {facts:?} of {log:?} with {applied:?} applied")
    });
    (case.verdict, case.label)
}

/// The hard state that goes with a log that was reset to `applied`, or whose commit index was raised to it.
fn raised(found: HardState, applied: EntryId) -> HardState {
    let mut state = found;
    if state.term < applied.term {
        // The snapshot came from a leader of that term or a later one; whom to vote for there is open.
        state = HardState {
            term: applied.term,
            ..HardState::default()
        };
    }
    state.commit = found.commit.max(applied.index);
    state
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn at(index: u64, term: u64) -> EntryId {
        EntryId {
            index: Index(index),
            term: Term(term),
        }
    }

    #[test]
    fn exactly_one_case_fits_every_combination_and_every_case_occurs() {
        let mut seen = BTreeSet::new();
        // Positions 0..=4 in every order, terms before and after each, an entry of the same and of another term.
        for front in 0..=4 {
            for last in front..=4 {
                for applied in 0..=4 {
                    for commit in 0..=4 {
                        for term in 0..=3 {
                            for (front_term, last_term) in [(1, 1), (1, 2), (2, 2)] {
                                let last_term = if last == front { front_term } else { last_term };
                                let log = RecoveredLog {
                                    hard_state: HardState {
                                        term: Term(term),
                                        commit: Index(commit),
                                        ..HardState::default()
                                    },
                                    compacted: at(front, front_term),
                                    last: at(last, last_term),
                                    bytes: 0,
                                };
                                for applied_term in 1..=3 {
                                    for found in [None, Some(Term(1)), Some(Term(2))] {
                                        let facts =
                                            Facts::new(&log, at(applied, applied_term), found);
                                        let fitting: Vec<_> = CASES
                                            .iter()
                                            .filter(|case| (case.fits)(facts))
                                            .map(|c| c.label)
                                            .collect();
                                        assert_eq!(fitting.len(), 1, "{facts:?}: {fitting:#?}");
                                        seen.insert(fitting[0]);
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
        for case in &CASES {
            assert!(seen.contains(case.label), "never occurs: {}", case.label);
        }
    }

    #[test]
    fn a_new_replica_opens() {
        let (verdict, _) = judge(&RecoveredLog::default(), EntryId::default(), None);
        assert_eq!(verdict, Verdict::Open);
    }

    #[test]
    fn a_raised_hard_state_keeps_the_vote_of_its_term_only() {
        let vote = crate::raft::ReplicaId(3);
        let found = HardState {
            term: Term(5),
            vote,
            commit: Index(2),
        };
        assert_eq!(
            raised(found, at(9, 4)),
            HardState {
                commit: Index(9),
                ..found
            }
        );
        assert_eq!(
            raised(found, at(9, 6)),
            HardState {
                term: Term(6),
                commit: Index(9),
                ..HardState::default()
            }
        );
    }
}
