//! The kinds of faults that a run may inject. A closed list, so that the coverage report can name one that never fired.

/// One kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Frames between nodes vanish.
    Loss,
    /// Frames arrive twice.
    Duplication,
    /// Frames take much longer than others.
    Delay,
    /// Frames overtake each other.
    Reordering,
    /// Frames from earlier, also from before a restart of either side, arrive again.
    Replay,
    /// One direction between two nodes is cut.
    OneWayCut,
    /// The nodes fall into groups that can't reach each other.
    Partition,
    /// A node loses power; its unsynced writes reach the disk.
    CrashKept,
    /// A node loses power; its unsynced writes are lost.
    CrashDropped,
    /// A node loses power; some of its unsynced writes are on the disk, the next one is torn.
    CrashTorn,
    /// A node's process stands still for a while.
    Pause,
    /// A sync of the log fails: the node stops for good and starts again from what is on the disk.
    FailedSync,
    /// Writes and syncs take many times as long.
    SlowDisk,
    /// Writes and syncs don't end until the stall is over.
    StalledDisk,
    /// The disk is nearly full: the node refuses writes of clients.
    FullDisk,
    /// A bit of a stored log entry flips.
    BitFlip,
    /// A node comes back with an empty disk, and so under another identity: its replicas are lost.
    WipedDisk,
    /// A node's disk is put back to what it was some time ago: it must be refused by those who have seen it since.
    RolledBackDisk,
    /// A node's clocks run faster or slower.
    ClockRate,
    /// A node's wall clock jumps.
    ClockJump,
    /// A node's clocks stand still for a while.
    ClockFreeze,
    /// Leaderships are handed over.
    Transfer,
    /// A node hands over all its leaderships.
    Drain,
}

impl Fault {
    /// All kinds.
    pub const ALL: [Self; 23] = [
        Self::Loss,
        Self::Duplication,
        Self::Delay,
        Self::Reordering,
        Self::Replay,
        Self::OneWayCut,
        Self::Partition,
        Self::CrashKept,
        Self::CrashDropped,
        Self::CrashTorn,
        Self::Pause,
        Self::FailedSync,
        Self::SlowDisk,
        Self::StalledDisk,
        Self::FullDisk,
        Self::BitFlip,
        Self::WipedDisk,
        Self::RolledBackDisk,
        Self::ClockRate,
        Self::ClockJump,
        Self::ClockFreeze,
        Self::Transfer,
        Self::Drain,
    ];

    /// Those that happen to single frames, by chance, and not at a moment of their own.
    pub const OF_FRAMES: [Self; 5] = [
        Self::Loss,
        Self::Duplication,
        Self::Delay,
        Self::Reordering,
        Self::Replay,
    ];
}

/// How often each kind of fault fired.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FaultCounts {
    counts: [u64; Fault::ALL.len()],
    /// Faults of frames that have fired since this was last asked, as bits.
    fresh: u32,
}

impl FaultCounts {
    /// How often `fault` fired.
    #[must_use]
    pub fn of(&self, fault: Fault) -> u64 {
        self.counts[fault as usize]
    }

    pub(crate) fn note(&mut self, fault: Fault) {
        self.counts[fault as usize] += 1;
        self.fresh |= 1 << (fault as u32);
    }

    /// What has fired since this was last asked.
    pub(crate) fn take_fresh(&mut self) -> impl Iterator<Item = Fault> + use<> {
        let fresh = std::mem::take(&mut self.fresh);
        (Fault::ALL.into_iter()).filter(move |fault| fresh & (1 << (*fault as u32)) != 0)
    }

    pub(crate) fn has_fresh(&self) -> bool {
        self.fresh != 0
    }

    /// Adds the counts of another run.
    pub fn add(&mut self, other: &Self) {
        for (sum, count) in self.counts.iter_mut().zip(other.counts) {
            *sum += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_complete_and_in_order() {
        for (at, fault) in Fault::ALL.into_iter().enumerate() {
            assert_eq!(fault as usize, at);
        }
    }
}
