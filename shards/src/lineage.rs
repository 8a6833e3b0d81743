//! How far a store has come, and how others tell that it went back.
//!
//! A node that is started from an older copy of its data folder has forgotten votes and entries that others count on, and
//! nothing in the folder shows it. So each store counts its synced writes and lists its starts, every message tells how
//! far its sender's store was, and whoever hears it remembers that [`Mark`], durably. A store that comes back must have
//! been at each mark that others saw: [`Lineage::follows`].
//!
//! The list of starts is what tells a copy that has gone on by itself from the store that it was copied from: its count may be
//! higher by then, but the start in which the mark was seen ended earlier in it, or is not in it at all.
//!
//! What it can't show: a mark that nobody saw who can be asked. A store counts as one failure, whether it is lost, silent
//! or went back, and a majority of the others must remember.

use std::collections::{BTreeMap, VecDeque};

use flotilla_proto::v1 as proto;

use crate::ids::NodeId;
use crate::wire::POSITION_MAX;

/// Starts that a store lists; older ones are forgotten, and marks from before them are not questioned any more.
pub const STARTS_MAX: usize = 256;

/// A moment in the life of a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// Drawn at each start.
    pub start: u64,
    /// Synced writes of the log since the store was made.
    pub written: u64,
}

/// The starts of a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lineage {
    /// Oldest first, each with what was written when it began, which never falls from one to the next.
    starts: VecDeque<Mark>,
}

/// A list of starts that no store has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineageError {
    /// More than [`STARTS_MAX`].
    #[error("it lists {0} starts, {STARTS_MAX} at most are kept")]
    TooMany(usize),
    /// The counts fall.
    #[error("a start with {next} writes follows one with {before}")]
    Falls {
        /// What was written when a start began.
        before: u64,
        /// What was written when the next one began.
        next: u64,
    },
    /// A count out of reach.
    #[error("a start has {0} writes, expected at most {POSITION_MAX}")]
    TooFar(u64),
}

/// A store was seen further than it has ever been.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "its data folder went back in time: it was seen after {} synced writes of the log, {}",
    .seen.written, Has(*.has)
)]
pub struct WentBack {
    /// Where it was seen.
    pub seen: Mark,
    /// Where the start in which it was seen ended, by its own list; `None` if the list does not have that start.
    pub has: Option<u64>,
}

struct Has(Option<u64>);

impl std::fmt::Display for Has {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(has) => write!(f, "of which it now has {has}"),
            None => f.write_str("in a run of the process that it knows nothing of"),
        }
    }
}

impl Lineage {
    /// What a store says of itself, checked.
    ///
    /// # Errors
    /// [`LineageError`] if no store could say so.
    pub fn new(starts: impl Into<VecDeque<Mark>>) -> Result<Self, LineageError> {
        let starts = starts.into();
        if starts.len() > STARTS_MAX {
            return Err(LineageError::TooMany(starts.len()));
        }
        let mut before = 0;
        for start in &starts {
            let next = start.written;
            if next < before {
                return Err(LineageError::Falls { before, next });
            }
            before = next;
        }
        if before > POSITION_MAX {
            return Err(LineageError::TooFar(before));
        }
        Ok(Self { starts })
    }

    /// A process starts from the store. `now.start` differs from that of every other start.
    pub fn begin(&mut self, now: Mark) {
        if self.starts.len() == STARTS_MAX {
            self.starts.pop_front();
        }
        self.starts.push_back(now);
    }

    /// The starts, oldest first, each with what was written when it began.
    pub fn starts(&self) -> impl ExactSizeIterator<Item = Mark> {
        self.starts.iter().copied()
    }

    /// The newest start; `None` before the first one.
    #[must_use]
    pub fn newest(&self) -> Option<Mark> {
        self.starts.back().copied()
    }

    /// Whether the store was at `seen` on its way to where it is.
    ///
    /// # Errors
    /// [`WentBack`] if it never was.
    pub fn follows(&self, seen: Mark) -> Result<(), WentBack> {
        let at = (self.starts.iter()).rposition(|start| start.start == seen.start);
        let Some(at) = at else {
            let forgotten = self.starts.len() == STARTS_MAX
                && (self.starts.front()).is_some_and(|oldest| seen.written <= oldest.written);
            return if forgotten {
                Ok(())
            } else {
                Err(WentBack { seen, has: None })
            };
        };
        // One process never goes back: what it did since it began is followed whatever it says.
        match self.starts.get(at + 1) {
            Some(next) if seen.written > next.written => Err(WentBack {
                seen,
                has: Some(next.written),
            }),
            _ => Ok(()),
        }
    }
}

impl From<Mark> for proto::StoreMark {
    fn from(mark: Mark) -> Self {
        Self {
            start: mark.start,
            written: mark.written,
        }
    }
}

impl From<proto::StoreMark> for Mark {
    fn from(mark: proto::StoreMark) -> Self {
        Self {
            start: mark.start,
            written: mark.written,
        }
    }
}

/// How far the stores of other nodes were seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acquaintances {
    seen: BTreeMap<NodeId, Mark>,
    changed: bool,
}

impl Acquaintances {
    /// Those that a store remembers.
    #[must_use]
    pub fn new(seen: BTreeMap<NodeId, Mark>) -> Self {
        Self {
            seen,
            changed: false,
        }
    }

    /// A node comes with this store.
    ///
    /// # Errors
    /// The store was seen further than it says it ever was: nothing of this node may be listened to.
    pub fn meet(&mut self, node: NodeId, lineage: &Lineage) -> Result<(), WentBack> {
        let seen = self.seen(node);
        if let Some(seen) = seen {
            lineage.follows(seen)?;
        }
        if let Some(now) = lineage.newest()
            && seen.is_none_or(|seen| seen.start != now.start)
        {
            self.seen.insert(node, now);
            self.changed = true;
        }
        Ok(())
    }

    /// A node that was met tells how far its store is. Words of an earlier start, which may still be on their way, are
    /// passed over.
    pub fn hear(&mut self, node: NodeId, mark: Mark) {
        if let Some(seen) = self.seen.get_mut(&node)
            && seen.start == mark.start
            && seen.written < mark.written
        {
            seen.written = mark.written;
            self.changed = true;
        }
    }

    /// How far a node's store was seen.
    #[must_use]
    pub fn seen(&self, node: NodeId) -> Option<Mark> {
        self.seen.get(&node).copied()
    }

    /// All of it.
    pub fn iter(&self) -> impl Iterator<Item = (NodeId, Mark)> {
        self.seen.iter().map(|(&node, &mark)| (node, mark))
    }

    /// Whether anything is new since this was last asked: then it is to be stored.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(start: u64, written: u64) -> Mark {
        Mark { start, written }
    }

    /// A store with these starts, and so many writes before each of them.
    fn store(starts: &[(u64, u64)]) -> Lineage {
        let mut lineage = Lineage::default();
        for &(start, written) in starts {
            lineage.begin(mark(start, written));
        }
        lineage
    }

    #[test]
    fn a_store_follows_every_mark_that_it_was_at() {
        let mut lineage = Lineage::default();
        assert_eq!(lineage.newest(), None);
        let (mut seen, mut written) = (Vec::new(), 0);
        for start in 10..20 {
            lineage.begin(mark(start, written));
            for _ in 0..3 {
                seen.push(mark(start, written));
                written += 1;
            }
            for &mark in &seen {
                assert_eq!(lineage.follows(mark), Ok(()));
            }
        }
    }

    #[test]
    fn an_older_copy_does_not_follow_what_was_seen_later() {
        // Copied in its second run after 15 writes, and started again.
        let copy = store(&[(1, 0), (2, 10), (4, 15)]);
        let went_back = copy.follows(mark(2, 16)).unwrap_err();
        assert_eq!((went_back.seen, went_back.has), (mark(2, 16), Some(15)));
        assert!(
            went_back
                .to_string()
                .ends_with("after 16 synced writes of the log, of which it now has 15")
        );
        assert_eq!(copy.follows(mark(3, 15)).unwrap_err().has, None);
        assert_eq!(copy.follows(mark(2, 15)), Ok(()));
    }

    #[test]
    fn nor_after_it_has_gone_on_by_itself() {
        let mut copy = store(&[(1, 0), (2, 10)]);
        for start in 100..100 + STARTS_MAX as u64 - 2 {
            copy.begin(mark(start, 15 + 1000 * (start - 100)));
            assert!(copy.follows(mark(2, 16)).is_err());
            assert!(copy.follows(mark(3, 20)).is_err());
        }
    }

    #[test]
    fn marks_from_before_the_list_are_not_questioned() {
        let mut lineage = Lineage::default();
        for start in 0..2 * STARTS_MAX as u64 {
            lineage.begin(mark(start, 2 * start));
        }
        assert_eq!(lineage.starts().len(), STARTS_MAX);
        assert_eq!(lineage.follows(mark(3, 7)), Ok(()));
        assert!(lineage.follows(mark(1_000_000, 1000)).is_err());
    }

    #[test]
    fn who_was_seen_further_is_not_met_again() {
        let node = NodeId(3);
        let mut others = Acquaintances::default();
        let mut lineage = store(&[(1, 0)]);
        assert_eq!(others.meet(node, &lineage), Ok(()));
        assert!(others.take_changed() && !others.take_changed());
        let mut back = lineage.clone();
        for (from, heard) in [
            (node, mark(1, 12)),
            (node, mark(1, 11)),
            (node, mark(9, 40)),
            (NodeId(4), mark(1, 40)),
        ] {
            others.hear(from, heard);
        }
        assert_eq!(others.seen(node), Some(mark(1, 12)));
        assert_eq!(others.seen(NodeId(4)), None);
        // Another stream of the same run, which began before the newest words.
        assert_eq!(others.meet(node, &lineage), Ok(()));
        assert_eq!(others.seen(node), Some(mark(1, 12)));
        assert!(others.take_changed());

        lineage.begin(mark(2, 12));
        assert_eq!(others.meet(node, &lineage), Ok(()));
        others.hear(node, mark(1, 13));
        assert_eq!(others.seen(node), Some(mark(2, 12)));
        back.begin(mark(3, 11));
        assert!(others.meet(node, &back).is_err());
        assert_eq!(others.seen(node), Some(mark(2, 12)));
        assert_eq!(others.iter().collect::<Vec<_>>(), [(node, mark(2, 12))]);
    }

    #[test]
    fn what_no_store_says_is_refused() {
        let falls = LineageError::Falls { before: 5, next: 4 };
        assert_eq!(Lineage::new(vec![mark(1, 5), mark(2, 4)]), Err(falls));
        let many = vec![Mark::default(); STARTS_MAX + 1];
        assert_eq!(
            Lineage::new(many),
            Err(LineageError::TooMany(STARTS_MAX + 1))
        );
        let far = vec![mark(1, POSITION_MAX + 1)];
        assert_eq!(
            Lineage::new(far),
            Err(LineageError::TooFar(POSITION_MAX + 1))
        );
        let lineage = store(&[(1, 5), (2, 5), (3, 9)]);
        let again = Lineage::new(lineage.starts().collect::<Vec<_>>());
        assert_eq!(again, Ok(lineage));
    }
}
