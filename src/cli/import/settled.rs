//! How far an import is, when records are settled in any order.

use std::collections::VecDeque;

use crate::cli::records::Place;

/// Finds the place up to which everything is settled, while records are settled in any order.
#[derive(Debug)]
pub(super) struct Settled {
    place: Place,
    /// Ticket of the first element of `open`.
    first: u64,
    /// The place behind each record, and whether it is settled. *Invariant:* the first one is not.
    open: VecDeque<(Place, bool)>,
}

impl Settled {
    pub(super) fn new(place: Place) -> Self {
        Self {
            place,
            first: 0,
            open: VecDeque::new(),
        }
    }

    /// A ticket for the next record, which ends at `end`.
    pub(super) fn begin(&mut self, end: Place) -> u64 {
        self.open.push_back((end, false));
        self.first + self.open.len() as u64 - 1
    }

    pub(super) fn end(&mut self, ticket: u64) {
        let index = usize::try_from(ticket - self.first).expect("tickets are few");
        let (_, settled) = &mut self.open[index];
        assert!(!*settled, "ticket {ticket} ended twice: {self:?}");
        *settled = true;
        while let Some((end, _)) = self.open.pop_front_if(|(_, settled)| *settled) {
            self.first += 1;
            self.place = end;
        }
    }

    pub(super) fn place(&self) -> Place {
        self.place
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
        let mut settled = Settled::new(place(3));
        let tickets: Vec<u64> = (4..=8).map(|line| settled.begin(place(line))).collect();
        settled.end(tickets[1]);
        settled.end(tickets[2]);
        assert_eq!(settled.place(), place(3));
        settled.end(tickets[0]);
        assert_eq!(settled.place(), place(6));
        let late = settled.begin(place(9));
        settled.end(tickets[4]);
        settled.end(tickets[3]);
        assert_eq!(settled.place(), place(8));
        settled.end(late);
        assert_eq!(settled.place(), place(9));
    }
}
