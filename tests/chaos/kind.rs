//! Kinds of faults, and what was promised for each.

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// SIGKILL, and a start later.
    Kill,
    /// SIGKILL of all nodes at once.
    KillAll,
    /// SIGSTOP, and SIGCONT later.
    Pause,
    /// SIGTERM, which drains, and a start at once: all nodes, one after the other.
    RollingRestart,
    /// A node and the others don't hear each other; clients hear all.
    Isolate,
    /// As `Isolate`, and clients don't hear it either.
    Vanish,
    /// A node hears nobody, and everybody hears it.
    Deaf,
    /// A node is heard by nobody, and hears everybody.
    Mute,
    /// One link between two nodes loses everything, in one direction.
    OneWay,
    /// Two nodes don't hear each other; all others hear both.
    Bridge,
    /// No node hears another.
    AllApart,
    /// Everything to and from a node comes late.
    SlowLinks,
    /// Syncs of a node's disk take longer.
    SlowDisk,
    /// Syncs of a node's disk hang.
    StalledDisk,
    /// A sync of a node's log fails, which ends the node.
    FailedSync,
    /// A node's disk is full, which ends the node.
    FullDisk,
    /// A node loses its power, and with it what was not synced.
    PowerLoss,
    /// All nodes lose their power at once.
    PowerLossAll,
    /// A node's wall clock jumps, forward or back, and returns later.
    ClockStep,
}

/// What a kind is done to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Processes,
    Network,
    Disks,
    Clocks,
    /// Nothing breaks: it is what operators do.
    Operation,
}

impl Kind {
    /// All kinds.
    pub(crate) const ALL: [Self; 19] = [
        Self::Kill,
        Self::KillAll,
        Self::Pause,
        Self::RollingRestart,
        Self::Isolate,
        Self::Vanish,
        Self::Deaf,
        Self::Mute,
        Self::OneWay,
        Self::Bridge,
        Self::AllApart,
        Self::SlowLinks,
        Self::SlowDisk,
        Self::StalledDisk,
        Self::FailedSync,
        Self::FullDisk,
        Self::PowerLoss,
        Self::PowerLossAll,
        Self::ClockStep,
    ];

    pub(crate) fn target(self) -> Target {
        match self {
            Self::Kill | Self::KillAll | Self::Pause => Target::Processes,
            Self::RollingRestart => Target::Operation,
            Self::Isolate
            | Self::Vanish
            | Self::Deaf
            | Self::Mute
            | Self::OneWay
            | Self::Bridge
            | Self::AllApart
            | Self::SlowLinks => Target::Network,
            Self::SlowDisk
            | Self::StalledDisk
            | Self::FailedSync
            | Self::FullDisk
            | Self::PowerLoss
            | Self::PowerLossAll => Target::Disks,
            Self::ClockStep => Target::Clocks,
        }
    }

    /// Whether it strikes all nodes.
    pub(crate) fn strikes_all(self) -> bool {
        matches!(
            self,
            Self::KillAll | Self::AllApart | Self::PowerLossAll | Self::RollingRestart
        )
    }

    /// Whether a node's process ends by what is wrong with its disk, after a while: only if the node has something to write.
    pub(crate) fn waits_for_the_end(self) -> bool {
        matches!(self, Self::FailedSync | Self::FullDisk)
    }

    /// What was promised for it, if anything.
    pub(crate) fn bound(self) -> Option<Bound> {
        match self {
            Self::Kill | Self::PowerLoss | Self::FailedSync | Self::FullDisk => Some(Bound::Killed),
            Self::Pause | Self::Isolate | Self::Vanish | Self::StalledDisk => {
                Some(Bound::PausedOrCutOff)
            }
            Self::Deaf | Self::Mute | Self::OneWay | Self::Bridge => Some(Bound::PartlyCutOff),
            Self::RollingRestart => Some(Bound::Drained),
            Self::KillAll
            | Self::AllApart
            | Self::PowerLossAll
            | Self::SlowLinks
            | Self::SlowDisk
            | Self::ClockStep => None,
        }
    }

    /// For people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill -9",
            Self::KillAll => "kill -9 of all",
            Self::Pause => "pause",
            Self::RollingRestart => "rolling restart",
            Self::Isolate => "one isolated",
            Self::Vanish => "one unreachable",
            Self::Deaf => "one deaf",
            Self::Mute => "one mute",
            Self::OneWay => "one-way cut",
            Self::Bridge => "bridge",
            Self::AllApart => "all apart",
            Self::SlowLinks => "slow links",
            Self::SlowDisk => "slow disk",
            Self::StalledDisk => "stalled disk",
            Self::FailedSync => "failed sync",
            Self::FullDisk => "full disk",
            Self::PowerLoss => "power loss",
            Self::PowerLossAll => "power loss of all",
            Self::ClockStep => "clock step",
        }
    }
}

/// What was promised for a kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Bound {
    /// Its shards serve again within 2 election timeouts at the 99th percentile.
    Killed,
    /// Within 3 election timeouts.
    PausedOrCutOff,
    /// Within 5 election timeouts: a quorum of nodes hears each other in both directions.
    PartlyCutOff,
    /// All requests succeed within a second.
    Drained,
}
