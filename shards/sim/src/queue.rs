//! What happens when: the events of a run in the order of simulated time, and of their scheduling at equal times.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// Simulated time in microseconds since the run began.
pub type Micros = u64;

/// One millisecond.
pub const MILLIS: Micros = 1_000;
/// One second.
pub const SECOND: Micros = 1_000_000;

struct Scheduled<E> {
    at: Micros,
    sequence: u64,
    event: E,
}

impl<E> PartialEq for Scheduled<E> {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.sequence) == (other.at, other.sequence)
    }
}

impl<E> Eq for Scheduled<E> {}

impl<E> PartialOrd for Scheduled<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Scheduled<E> {
    /// The heap gives its greatest element first, which is to be the earliest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.sequence).cmp(&(self.at, self.sequence))
    }
}

/// Events to come.
pub(crate) struct Queue<E> {
    heap: BinaryHeap<Scheduled<E>>,
    now: Micros,
    sequence: u64,
}

impl<E> Queue<E> {
    pub(crate) fn new() -> Self {
        Self {
            heap: BinaryHeap::new(),
            now: 0,
            sequence: 0,
        }
    }

    /// The time of the last event.
    pub(crate) fn now(&self) -> Micros {
        self.now
    }

    /// Schedules an event so many microseconds from now.
    pub(crate) fn after(&mut self, delay: Micros, event: E) {
        self.at(self.now + delay, event);
    }

    /// Schedules an event; the past is now.
    pub(crate) fn at(&mut self, at: Micros, event: E) {
        self.sequence += 1;
        self.heap.push(Scheduled {
            at: at.max(self.now),
            sequence: self.sequence,
            event,
        });
    }

    /// The next event, whose time becomes now.
    pub(crate) fn pop(&mut self) -> Option<E> {
        let next = self.heap.pop()?;
        self.now = next.at;
        Some(next.event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn earlier_first_and_equal_times_in_order() {
        let mut queue = Queue::new();
        queue.at(5, 'c');
        queue.at(3, 'a');
        queue.at(5, 'd');
        queue.at(4, 'b');
        let mut order = String::new();
        while let Some(event) = queue.pop() {
            order.push(event);
        }
        assert_eq!(order, "abcd");
        queue.at(1, 'e');
        assert_eq!((queue.pop(), queue.now()), (Some('e'), 5));
    }
}
