//! The model disk of a node: a log and a state store with the batch semantics of the node's `storage`, and what a crash
//! leaves of them.

pub(crate) mod log;
pub(crate) mod state;

/// What becomes of writes that were not synced when a node crashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unsynced {
    /// All of them reached the disk.
    Kept,
    /// None did.
    Dropped,
    /// Some did, in order; the next one is torn, which its checksum tells: it is cut off, and all behind it.
    Torn,
}

impl Unsynced {
    /// How many of `writes` survive.
    pub(crate) fn survivors(self, writes: usize, rng: &mut fastrand::Rng) -> usize {
        match self {
            Self::Kept => writes,
            Self::Dropped => 0,
            Self::Torn => rng.usize(..=writes),
        }
    }
}
