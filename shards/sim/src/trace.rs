//! What happened, as a hash of every event and, if somebody listens, as text.
//!
//! The hash is made of numbers and not of text, so that a run whose text nobody reads costs little; the same seed gives
//! the same hash in every process.

use crate::queue::Micros;

/// Takes the lines of a trace.
pub type Listener = Box<dyn FnMut(&str)>;

/// See the module.
pub(crate) struct Trace {
    hash: u64,
    events: u64,
    listener: Option<Listener>,
}

impl Trace {
    pub(crate) fn new(listener: Option<Listener>) -> Self {
        Self {
            hash: 0xcbf2_9ce4_8422_2325,
            events: 0,
            listener,
        }
    }

    /// Notes an event. `text` is only made if somebody listens.
    pub(crate) fn event(
        &mut self,
        now: Micros,
        kind: Kind,
        numbers: [u64; 3],
        text: impl FnOnce() -> String,
    ) {
        self.events += 1;
        let [a, b, c] = numbers;
        for number in [now, kind as u64, a, b, c] {
            self.hash = mix(self.hash, number);
        }
        if let Some(listener) = &mut self.listener {
            let (seconds, micros) = (now / 1_000_000, now % 1_000_000);
            listener(&format!("{seconds:4}.{micros:06} {kind:<9?} {}", text()));
        }
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    /// Number of events so far.
    pub(crate) fn events(&self) -> u64 {
        self.events
    }
}

/// Kinds of events; the numbers are part of the hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Start,
    Turn,
    Role,
    Log,
    Apply,
    Flush,
    Compact,
    Snapshot,
    Frame,
    Request,
    Answer,
    Fault,
    Crash,
    Recover,
    Invoke,
    Return,
    Calm,
}

/// Continues a hash by a number.
pub(crate) fn mix(hash: u64, number: u64) -> u64 {
    let product =
        u128::from(hash.rotate_left(29) ^ number ^ 0xf39c_c060_5ced_c835) * 0x9e37_79b9_7f4a_7c15;
    (product as u64) ^ (product >> 64) as u64
}

/// Hash of bytes: the same in every process, which the standard hasher does not promise.
pub(crate) fn hash_bytes(seed: u64, bytes: &[u8]) -> u64 {
    let mut chunks = bytes.chunks_exact(8);
    let mut hash = mix(seed, bytes.len() as u64);
    for chunk in &mut chunks {
        hash = mix(
            hash,
            u64::from_le_bytes(chunk.try_into().unwrap_or_default()),
        );
    }
    let mut last = [0; 8];
    last[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
    mix(hash, u64::from_le_bytes(last))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn length_order_and_every_byte_count() {
        let inputs: [&[u8]; 8] = [
            b"",
            b"\0",
            b"\0\0",
            b"a",
            b"ab",
            b"ba",
            b"12345678",
            b"12345678\0",
        ];
        let hashes: BTreeSet<u64> = inputs.iter().map(|bytes| hash_bytes(1, bytes)).collect();
        assert_eq!(hashes.len(), inputs.len());
        assert_ne!(mix(1, 2), mix(2, 1));
        assert_ne!(mix(0, 0), mix(1, 0));
    }
}
