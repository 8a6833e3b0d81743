//! The window of appends that were sent to one peer and not yet acknowledged (etcd `tracker/inflights.go`).

use super::types::Index;
use std::collections::VecDeque;

/// Room that an emptied window keeps, in messages. More is given back: a leader of thousands of idle groups must not
/// hold the high-water mark of each.
const KEPT: usize = 4;

/// A sliding window over unacknowledged appends, limited in messages and in bytes.
///
/// Memory grows with what is in flight, never with the limit, and is given back when the window runs empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inflights {
    max_count: usize,
    max_bytes: u64,
    /// Absent until the first message: most peers of most groups have nothing in flight.
    window: Option<Box<Window>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Window {
    /// Last index and bytes of each message, oldest first.
    messages: VecDeque<(Index, u64)>,
    bytes: u64,
}

impl Inflights {
    /// An empty window for `max_count` messages and `max_bytes` bytes of entry data; 0 bytes means no limit. The
    /// byte limit may be passed by one message, so that a message larger than the limit is not stuck.
    #[must_use]
    pub fn new(max_count: usize, max_bytes: u64) -> Self {
        Self {
            max_count,
            max_bytes,
            window: None,
        }
    }

    /// Notes that a message up to `index` with `bytes` of entry data was sent.
    ///
    /// # Panics
    /// If the window is full: the sender has to ask [`Self::full`] first.
    pub fn add(&mut self, index: Index, bytes: u64) {
        assert!(
            !self.full(),
            "append sent into a full window: index {index}, {self:?}"
        );
        let window = self.window.get_or_insert_default();
        window.messages.push_back((index, bytes));
        window.bytes += bytes;
    }

    /// Frees all messages up to `index`.
    pub fn free_le(&mut self, index: Index) {
        let Some(window) = &mut self.window else {
            return;
        };
        while let Some((_, bytes)) = window.messages.pop_front_if(|&mut (last, _)| last <= index) {
            window.bytes -= bytes;
        }
        if window.messages.is_empty() && window.messages.capacity() > KEPT {
            window.messages.shrink_to(KEPT);
        }
    }

    /// Whether nothing more may be sent.
    #[must_use]
    pub fn full(&self) -> bool {
        self.count() >= self.max_count || (self.max_bytes != 0 && self.bytes() >= self.max_bytes)
    }

    /// Messages in flight.
    #[must_use]
    pub fn count(&self) -> usize {
        self.window
            .as_ref()
            .map_or(0, |window| window.messages.len())
    }

    /// Bytes of entry data in flight.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.window.as_ref().map_or(0, |window| window.bytes)
    }

    /// Forgets all messages and gives the memory back.
    pub fn reset(&mut self) {
        self.window = None;
    }
}
