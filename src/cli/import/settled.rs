//! How far an import is, when records are settled in any order.

use std::collections::VecDeque;

use crate::cli::records::Place;

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Written,
    Rejected,
}

/// Finds the place up to which everything is settled, while records are settled in any order.
#[derive(Debug)]
pub(super) struct Settled {
    place: Place,
    /// Records before the place.
    written: u64,
    rejected: u64,
    /// Ticket of the first element of `open`.
    first: u64,
    /// The place behind each record, and its fate once it is settled. *Invariant:* the first one is not.
    open: VecDeque<(Place, Option<Fate>)>,
}

impl Settled {
    /// Everything before `place` is settled: so many records were written and rejected.
    pub(super) fn new(place: Place, written: u64, rejected: u64) -> Self {
        Self {
            place,
            written,
            rejected,
            first: 0,
            open: VecDeque::new(),
        }
    }

    /// A ticket for the next record, which ends at `end`.
    pub(super) fn begin(&mut self, end: Place) -> u64 {
        self.open.push_back((end, None));
        self.first + self.open.len() as u64 - 1
    }

    pub(super) fn end(&mut self, ticket: u64, fate: Fate) {
        let index = usize::try_from(ticket - self.first).expect("tickets are few");
        let before = self.open[index].1.replace(fate);
        assert_eq!(before, None, "ticket {ticket} ended twice: {self:?}");
        while let Some((end, fate)) = self.open.pop_front_if(|(_, fate)| fate.is_some()) {
            self.first += 1;
            self.place = end;
            match fate {
                Some(Fate::Rejected) => self.rejected += 1,
                Some(Fate::Written) | None => self.written += 1,
            }
        }
    }

    pub(super) fn place(&self) -> Place {
        self.place
    }

    /// Records before the place that were written.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Records before the place that were rejected.
    pub(super) fn rejected(&self) -> u64 {
        self.rejected
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(lines: u64) -> Place {
        Place {
            offset: lines * 10,
            lines,
        }
    }

    #[test]
    fn the_settled_place_waits_for_the_slowest() {
        let mut settled = Settled::new(place(3), 3, 0);
        let tickets: Vec<u64> = (4..=8).map(|line| settled.begin(place(line))).collect();
        settled.end(tickets[1], Fate::Written);
        settled.end(tickets[2], Fate::Rejected);
        assert_eq!(settled.place(), place(3));
        assert_eq!((settled.written(), settled.rejected()), (3, 0));
        settled.end(tickets[0], Fate::Written);
        assert_eq!(settled.place(), place(6));
        let late = settled.begin(place(9));
        settled.end(tickets[4], Fate::Written);
        settled.end(tickets[3], Fate::Written);
        assert_eq!(settled.place(), place(8));
        settled.end(late, Fate::Written);
        assert_eq!(settled.place(), place(9));
        assert_eq!((settled.written(), settled.rejected()), (8, 1));
    }
}
