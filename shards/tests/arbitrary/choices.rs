//! The bytes of an attack, read as decisions.

use bytes::Bytes;
use flotilla_shards::raft::confchange::{
    ConfChangeAny, ConfChangeKind, ConfChangeSingle, ConfChangeTransition, ConfChangeV2,
};
use flotilla_shards::raft::{ConfState, EntryKind, ReplicaId};

/// Bytes as decisions. When they run out, all further ones are 0.
pub(super) struct Choices<'a>(pub(super) &'a [u8]);

impl Choices<'_> {
    pub(super) fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((&first, rest)) => {
                self.0 = rest;
                first
            }
            None => 0,
        }
    }

    pub(super) fn below(&mut self, bound: u8) -> u8 {
        self.byte() % bound
    }

    pub(super) fn one_in(&mut self, of: u8) -> bool {
        self.below(of) == 1
    }

    /// A number near one of `marks`, or at an end of the range, or anything.
    pub(super) fn number(&mut self, marks: &[u64]) -> u64 {
        let kind = self.byte();
        let mark = marks[usize::from(kind >> 4) % marks.len()];
        match kind % 16 {
            0 => 0,
            1 => u64::MAX,
            2 => u64::MAX - 1,
            3 => 1 << 62,
            4 => (1 << 62) + 1,
            5 => u64::from_le_bytes([(); 8].map(|()| self.byte())),
            6 => mark.saturating_sub(u64::from(self.below(8))),
            7 => mark.saturating_add(u64::from(self.below(8))),
            8 => mark.saturating_sub(1),
            9 | 10 => mark.saturating_add(1),
            _ => mark,
        }
    }

    pub(super) fn replica(&mut self) -> ReplicaId {
        ReplicaId(match self.below(16) {
            0 => 0,
            1 => self.number(&[1]),
            other => u64::from(other % 5) + 1,
        })
    }

    pub(super) fn replicas(&mut self) -> Vec<ReplicaId> {
        (0..self.below(4)).map(|_| self.replica()).collect()
    }

    pub(super) fn conf_state(&mut self) -> ConfState {
        match self.below(3) {
            0 => members(&[1, 2, 3]),
            _ => ConfState {
                voters: self.replicas(),
                voters_outgoing: if self.one_in(3) {
                    self.replicas()
                } else {
                    vec![]
                },
                learners: self.replicas(),
                learners_next: if self.one_in(3) {
                    self.replicas()
                } else {
                    vec![]
                },
                auto_leave: self.one_in(2),
            },
        }
    }

    pub(super) fn change(&mut self) -> ConfChangeV2 {
        let kinds = [
            ConfChangeKind::AddNode,
            ConfChangeKind::RemoveNode,
            ConfChangeKind::UpdateNode,
            ConfChangeKind::AddLearnerNode,
        ];
        let transitions = [
            ConfChangeTransition::Auto,
            ConfChangeTransition::JointImplicit,
            ConfChangeTransition::JointExplicit,
        ];
        ConfChangeV2 {
            transition: transitions[usize::from(self.below(3))],
            changes: (0..self.below(4))
                .map(|_| ConfChangeSingle {
                    kind: kinds[usize::from(self.below(4))],
                    id: ReplicaId(u64::from(self.below(6))),
                })
                .collect(),
            context: Bytes::new(),
        }
    }

    pub(super) fn data(&mut self) -> Bytes {
        vec![self.byte(); usize::from(self.below(40))].into()
    }

    /// Kind and data of an entry, which may not belong together.
    pub(super) fn content(&mut self) -> (EntryKind, Bytes) {
        match self.below(6) {
            0 => (EntryKind::ConfChange, self.data()),
            1 => (EntryKind::ConfChangeV2, self.data()),
            2 => ConfChangeAny::V2(self.change()).encode(),
            _ => (EntryKind::Normal, self.data()),
        }
    }
}

pub(super) fn members(voters: &[u64]) -> ConfState {
    ConfState {
        voters: voters.iter().copied().map(ReplicaId).collect(),
        ..ConfState::default()
    }
}
