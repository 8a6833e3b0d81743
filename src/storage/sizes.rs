//! How many bytes lie between two positions of a log, roughly and cheaply.

use std::collections::VecDeque;

use flotilla_shards::raft::Index;

/// Distance of two marks in bytes: the error of any answer.
const STEP: u64 = 64 * 1024;

/// Running size of one shard's log. Instead of a size per entry it keeps a mark every [`STEP`] bytes, so a log at its
/// bound of some MiB costs some hundred marks, and a short one none.
#[derive(Debug, Default)]
pub(super) struct Sizes {
    /// Bytes appended since the log was opened.
    total: u64,
    /// Value of `total` at the front of the log.
    front: u64,
    /// Index of the last entry, behind which is `total`; 0 if there is none.
    end: Index,
    /// Value of `total` behind the entry at that index, below `end`; both ascending.
    marks: VecDeque<(Index, u64)>,
}

impl Sizes {
    /// Bytes between front and end.
    pub(super) fn bytes(&self) -> u64 {
        self.total - self.front
    }

    /// An entry was appended at the end.
    pub(super) fn push(&mut self, index: Index, bytes: u64) {
        let before = self.marks.back().map_or(self.front, |last| last.1);
        if self.end != Index(0) && self.total + bytes - before >= STEP {
            self.marks.push_back((self.end, self.total));
        }
        self.total += bytes;
        self.end = index;
    }

    /// The entries from `from` on were cut off.
    pub(super) fn truncate(&mut self, from: Index) {
        while self.end >= from && self.end != Index(0) {
            (self.end, self.total) = self.marks.pop_back().unwrap_or((Index(0), self.front));
        }
    }

    /// The entries up to and including `upto` were cut off.
    pub(super) fn compact(&mut self, upto: Index) {
        if self.end <= upto {
            self.clear();
            return;
        }
        while let Some((_, total)) = self.marks.pop_front_if(|mark| mark.0 <= upto) {
            self.front = total;
        }
    }

    /// The log is empty.
    pub(super) fn clear(&mut self) {
        self.marks = VecDeque::new();
        self.end = Index(0);
        self.front = self.total;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The dumb twin: one size per entry.
    #[test]
    fn answers_are_off_by_two_steps_at_most() {
        let seed = 0x51_2e5;
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut sizes, mut model) = (Sizes::default(), VecDeque::<(u64, u64)>::new());
        let mut next = 1;
        for step in 0..20_000 {
            match random.u32(..100) {
                0 if !model.is_empty() => {
                    let from = model[random.usize(..model.len())].0;
                    model.retain(|entry| entry.0 < from);
                    sizes.truncate(Index(from));
                    next = from;
                }
                1..=4 if !model.is_empty() => {
                    let upto = model[random.usize(..model.len())].0;
                    model.retain(|entry| entry.0 > upto);
                    sizes.compact(Index(upto));
                }
                _ => {
                    let bytes = random.u64(20..40_000);
                    model.push_back((next, bytes));
                    sizes.push(Index(next), bytes);
                    next += 1;
                }
            }
            if model.is_empty() {
                sizes.clear();
                assert_eq!(sizes.bytes(), 0);
            }
            let exact: u64 = model.iter().map(|entry| entry.1).sum();
            assert!(
                sizes.bytes().abs_diff(exact) <= 2 * STEP,
                "step {step} of seed {seed}: {} instead of {exact}",
                sizes.bytes()
            );
        }
    }
}
