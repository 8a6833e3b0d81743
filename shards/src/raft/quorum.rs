//! Quorum arithmetic: which index a set of voters has committed, and what a set of votes decides (thesis 4.3, etcd
//! `quorum/`).
//!
//! Pure functions of a voter set and a lookup per voter. What an index or a vote *is* belongs to
//! [`tracker`](super::tracker); who may change the sets belongs to [`confchange`](super::confchange).

use super::types::{Index, ReplicaId};
use smallvec::SmallVec;
use std::fmt::{self, Write as _};
use std::ops::{Deref, DerefMut};

/// A set of replicas in ascending order.
///
/// One exact-sized allocation, none when empty: sets of three to seven ids are read on every acknowledgement and
/// change a few times in a group's life, and most sets of most groups are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicaSet(Box<[ReplicaId]>);

impl ReplicaSet {
    /// Whether `id` is in the set.
    #[must_use]
    pub fn contains(&self, id: ReplicaId) -> bool {
        self.0.contains(&id)
    }

    /// Adds `id`. Returns whether it was new.
    pub fn insert(&mut self, id: ReplicaId) -> bool {
        let Err(at) = self.0.binary_search(&id) else {
            return false;
        };
        let mut ids = std::mem::take(&mut self.0).into_vec();
        ids.insert(at, id);
        self.0 = ids.into_boxed_slice();
        true
    }

    /// Removes `id`. Returns whether it was there.
    pub fn remove(&mut self, id: ReplicaId) -> bool {
        let Ok(at) = self.0.binary_search(&id) else {
            return false;
        };
        let mut ids = std::mem::take(&mut self.0).into_vec();
        ids.remove(at);
        self.0 = ids.into_boxed_slice();
        true
    }

    /// The ids in ascending order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = ReplicaId> + ExactSizeIterator + '_ {
        self.0.iter().copied()
    }

    /// The ids in ascending order.
    #[must_use]
    pub fn as_slice(&self) -> &[ReplicaId] {
        &self.0
    }

    /// Number of ids.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Number of ids that are in exactly one of the two sets.
    #[must_use]
    pub fn symmetric_difference(&self, other: &Self) -> usize {
        let only = |a: &Self, b: &Self| a.iter().filter(|&id| !b.contains(id)).count();
        only(self, other) + only(other, self)
    }
}

impl FromIterator<ReplicaId> for ReplicaSet {
    fn from_iter<I: IntoIterator<Item = ReplicaId>>(ids: I) -> Self {
        let mut ids: Vec<_> = ids.into_iter().collect();
        ids.sort_unstable();
        ids.dedup();
        Self(ids.into_boxed_slice())
    }
}

/// `(1 2 3)`, ids in hexadecimal as in etcd's configuration strings.
impl fmt::Display for ReplicaSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('(')?;
        for (i, id) in self.iter().enumerate() {
            let blank = if i == 0 { "" } else { " " };
            write!(f, "{blank}{:x}", id.0)?;
        }
        f.write_char(')')
    }
}

/// What the votes cast so far decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VoteResult {
    /// Neither won nor lost: outstanding votes decide.
    Pending,
    /// A quorum can no longer be reached.
    Lost,
    /// A quorum said yes.
    Won,
}

impl fmt::Display for VoteResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pending => "VotePending",
            Self::Lost => "VoteLost",
            Self::Won => "VoteWon",
        })
    }
}

/// Voters of which a majority decides (etcd `MajorityConfig`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MajorityConfig(pub ReplicaSet);

impl Deref for MajorityConfig {
    type Target = ReplicaSet;

    fn deref(&self) -> &ReplicaSet {
        &self.0
    }
}

impl DerefMut for MajorityConfig {
    fn deref_mut(&mut self) -> &mut ReplicaSet {
        &mut self.0
    }
}

impl FromIterator<ReplicaId> for MajorityConfig {
    fn from_iter<I: IntoIterator<Item = ReplicaId>>(ids: I) -> Self {
        Self(ids.into_iter().collect())
    }
}

impl fmt::Display for MajorityConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl MajorityConfig {
    /// The greatest index that a majority has acknowledged; a voter without one counts as 0. `Index(u64::MAX)` for
    /// the empty configuration, so that the other half of a joint one decides alone. Does not allocate for up to
    /// seven voters.
    #[must_use]
    pub fn committed_index(&self, mut acked: impl FnMut(ReplicaId) -> Option<Index>) -> Index {
        if self.is_empty() {
            return Index(u64::MAX);
        }
        let mut indexes: SmallVec<[Index; 7]> = self
            .iter()
            .map(|id| acked(id).unwrap_or_default())
            .collect();
        indexes.sort_unstable();
        // With n voters, n/2+1 acknowledge what stands at n-(n/2+1) of the ascending list, or more.
        indexes[self.len() - (self.len() / 2 + 1)]
    }

    /// What the votes decide; `None` for a voter that has not voted. The empty configuration has won.
    #[must_use]
    pub fn vote_result(&self, mut vote: impl FnMut(ReplicaId) -> Option<bool>) -> VoteResult {
        let quorum = self.len() / 2 + 1;
        let (mut yes, mut missing) = (0, 0);
        for id in self.iter() {
            match vote(id) {
                Some(true) => yes += 1,
                Some(false) => {}
                None => missing += 1,
            }
        }
        if self.is_empty() || yes >= quorum {
            VoteResult::Won
        } else if yes + missing >= quorum {
            VoteResult::Pending
        } else {
            VoteResult::Lost
        }
    }

    /// A picture of the acknowledged indexes, one bar per voter: the longer the bar, the more voters are behind.
    #[must_use]
    pub fn describe(&self, mut acked: impl FnMut(ReplicaId) -> Option<Index>) -> String {
        if self.is_empty() {
            return "<empty majority quorum>".into();
        }
        let n = self.len();
        let mut voters: Vec<_> = self.iter().map(|id| (acked(id), id, 0)).collect();
        voters.sort_unstable_by_key(|&(index, id, _)| (index.unwrap_or_default(), id));
        for i in 1..n {
            let advanced = voters[i].0.unwrap_or_default() > voters[i - 1].0.unwrap_or_default();
            voters[i].2 = if advanced { i } else { voters[i - 1].2 };
        }
        voters.sort_unstable_by_key(|&(_, id, _)| id);

        let mut picture = format!("{}    idx\n", " ".repeat(n));
        for (index, id, bar) in voters {
            let bar = match index {
                None => format!("?{}", " ".repeat(n)),
                Some(_) => format!("{}>{}", "x".repeat(bar), " ".repeat(n - bar)),
            };
            let index = index.unwrap_or_default();
            writeln!(picture, "{bar} {:>5}    (id={:x})", index.0, id.0)
                .expect("writing to a string cannot fail");
        }
        picture
    }
}

/// Two majorities that must agree while the membership changes; the outgoing one is empty unless joint (thesis 4.3,
/// etcd `JointConfig`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JointConfig {
    /// The voters that will remain.
    pub incoming: MajorityConfig,
    /// The voters before the change.
    pub outgoing: MajorityConfig,
}

impl JointConfig {
    /// Whether both halves decide.
    #[must_use]
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether `id` votes in either half.
    #[must_use]
    pub fn contains(&self, id: ReplicaId) -> bool {
        self.incoming.contains(id) || self.outgoing.contains(id)
    }

    /// The voters of both halves.
    #[must_use]
    pub fn ids(&self) -> ReplicaSet {
        self.incoming.iter().chain(self.outgoing.iter()).collect()
    }

    /// The greatest index that both halves have committed.
    #[must_use]
    pub fn committed_index(&self, mut acked: impl FnMut(ReplicaId) -> Option<Index>) -> Index {
        self.incoming
            .committed_index(&mut acked)
            .min(self.outgoing.committed_index(&mut acked))
    }

    /// Won if both halves are won, lost if one is lost.
    #[must_use]
    pub fn vote_result(&self, mut vote: impl FnMut(ReplicaId) -> Option<bool>) -> VoteResult {
        match (
            self.incoming.vote_result(&mut vote),
            self.outgoing.vote_result(&mut vote),
        ) {
            (a, b) if a == b => a,
            (VoteResult::Lost, _) | (_, VoteResult::Lost) => VoteResult::Lost,
            _ => VoteResult::Pending,
        }
    }

    /// The picture of [`MajorityConfig::describe`] over the voters of both halves.
    #[must_use]
    pub fn describe(&self, acked: impl FnMut(ReplicaId) -> Option<Index>) -> String {
        MajorityConfig(self.ids()).describe(acked)
    }
}

/// `(1 2 3)`, or `(1 2 3)&&(2 3 4)` if joint.
impl fmt::Display for JointConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.incoming)?;
        if self.is_joint() {
            write!(f, "&&{}", self.outgoing)?;
        }
        Ok(())
    }
}
