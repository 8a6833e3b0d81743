//! Settings of one group's replica.

use super::error::ConfigError;
use super::size::NO_LIMIT;
use super::types::{Index, ReplicaId};

/// Upper bound of [`Config::election_ticks`] (exclusive), far above anything useful: sums of a few timeouts fit in 32
/// bits.
pub const MAX_ELECTION_TICKS: u32 = 1 << 28;

/// How a linearizable read makes sure that this replica still leads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ReadOnlyOption {
    /// By a round of heartbeats to a quorum; depends on no clock.
    #[default]
    Safe,
    /// By the lease that a quorum gave, which is measured in ticks from the moment of asking; falls back to a round
    /// when it has run out. Needs clocks that keep to [`Config::max_clock_drift_permille`] and ticks that are up to date
    /// whenever [`RawNode::ready`](super::RawNode::ready) is called. Replicas without it may be in the same group: no lease
    /// counts on them.
    LeaseBased,
}

/// Settings of one group's replica (etcd `Config`). All times are in ticks, whose length the embedder decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The own replica id; not 0, not a storage thread's. No default.
    pub id: ReplicaId,

    /// Ticks without hearing from a leader before an election starts; drawn anew each time from
    /// `[election_ticks, 2 * election_ticks)`. Default 10. Raise it where networks or disks stall, lower it for faster
    /// failover; keep it about ten times `heartbeat_ticks`. The same on all replicas of a group: leases rest on it.
    pub election_ticks: u32,

    /// Ticks between heartbeats of a leader. Default 1.
    pub heartbeat_ticks: u32,

    /// Last index applied to the state machine, given at a restart so that entries are not handed out again. Default
    /// 0: whatever the log was compacted to.
    pub applied: Index,

    /// Bytes of entries in one append message ([`entry_size`](super::size::entry_size)); 0 means one entry per
    /// message. Default 1 MiB. Lower it to smooth traffic to slow followers, raise it to catch up in fewer messages.
    pub max_size_per_msg: u64,

    /// Bytes of committed entries that are handed out for application and not yet acknowledged as applied. Default 0:
    /// the same as `max_size_per_msg`. Raise it where applying is slow to start and fast in bulk.
    pub max_committed_size_per_ready: u64,

    /// Bytes of data of uncommitted entries beyond which a leader drops proposals; 0 means no limit, the default.
    /// Set it so that a lost quorum can't fill the memory.
    pub max_uncommitted_size: u64,

    /// Append messages in flight to one follower. Default 256. Raise it with the product of bandwidth and delay.
    pub max_inflight_msgs: usize,

    /// Bytes of data in flight to one follower; 0 means no limit, the default; else at least `max_size_per_msg`. It
    /// bounds what a slow follower can hold in the leader's memory.
    pub max_inflight_bytes: u64,

    /// Whether a leader steps down when it hasn't heard from a quorum for an election timeout, and voters refuse votes
    /// while they hear from a leader (thesis 6.2, 4.2.3). Default false, as in etcd; switch it on in production.
    pub check_quorum: bool,

    /// Whether a candidate first asks if it could win, so that a replica that was cut off doesn't disturb the group
    /// when it returns (thesis 9.6). Default false, as in etcd; switch it on in production.
    pub pre_vote: bool,

    /// Whether two situations are resolved in which etcd-raft stays blocked. A refused vote tells the candidate what is
    /// committed: the one replica that knows of the commit which removed or demoted it may have the longest log, so that
    /// nobody could win any more. And a joint configuration whose leaving was refused during a transfer of leadership
    /// is left when the transfer is given up, not only with the next entry. Default false, as in etcd; switch it on in
    /// production.
    pub liveness_fixes: bool,

    /// Whether a commit is not worth work of its own. Followers learn of it by what is sent to them anyway, the next
    /// append or heartbeat (`skip_bcast_commit` of the crate `raft`), and it is stored with every 64th entry only, and
    /// with each change of term or vote. Default false, as in etcd. Under load it saves half of all messages and up to
    /// half of all rows of the log; when writes pause, followers apply the last ones up to two heartbeat intervals later, and
    /// after a restart up to 64 entries wait for a leader to be known as committed. And a follower that was sent entries in
    /// an interval gets no heartbeat in it.
    pub lazy_commit: bool,

    /// How reads make sure of leadership. Default [`ReadOnlyOption::Safe`].
    pub read_only: ReadOnlyOption,

    /// Whether writes to the log and applications run beside the group: they are then messages to
    /// [`ReplicaId::APPEND_THREAD`] and [`ReplicaId::APPLY_THREAD`] with the answers attached, and
    /// [`RawNode::advance`](super::RawNode::advance) is not used. Default false.
    pub async_storage_writes: bool,

    /// Whether a leader that applies its own removal or demotion steps down at once. Default false, as in etcd: it
    /// goes on until another takes over. Switch it on unless something else hands leadership over first.
    pub step_down_on_removal: bool,

    /// Whether a follower drops proposals instead of forwarding them to the leader. Default false. Switch it on if
    /// the embedder routes requests to the leader itself.
    pub disable_proposal_forwarding: bool,

    /// Whether membership changes enter the log without the check that none is pending and that they fit the present
    /// configuration. Default false. Only for embedders that do these checks when they apply; leases
    /// ([`ReadOnlyOption::LeaseBased`]) are unsound without the check.
    pub disable_conf_change_validation: bool,

    /// Seed of the generator that draws election timeouts. Default 0. Give each replica its own, or elections collide.
    pub seed: u64,

    /// By how many thousandths clocks of two replicas may differ in rate; a lease is shortened by as much. Default
    /// 100, which is far above what healthy clocks do. Below 1000.
    pub max_clock_drift_permille: u32,

    /// Ticks after a start during which no vote is granted, the own one included: before the restart this replica may
    /// have promised a leader not to. Default 0: none. With [`ReadOnlyOption::LeaseBased`] set it to `election_ticks`
    /// whenever the replica has run before.
    pub vote_hold_off_ticks: u32,

    /// Whether an election timeout only marks the election as due
    /// ([`RawNode::take_election_due`](super::RawNode::take_election_due)), so that the embedder can stagger or refuse
    /// it. Default false: the replica campaigns by itself.
    pub manual_elections: bool,

    /// Whether a leader sends heartbeats only when told to ([`RawNode::heartbeat`](super::RawNode::heartbeat_now)), so
    /// that the embedder beats for all groups at once and joins their messages. Default false: every
    /// `heartbeat_ticks`.
    pub manual_heartbeats: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            id: ReplicaId::NONE,
            election_ticks: 10,
            heartbeat_ticks: 1,
            applied: Index(0),
            max_size_per_msg: 1 << 20,
            max_committed_size_per_ready: 0,
            max_uncommitted_size: 0,
            max_inflight_msgs: 256,
            max_inflight_bytes: 0,
            check_quorum: false,
            pre_vote: false,
            liveness_fixes: false,
            lazy_commit: false,
            read_only: ReadOnlyOption::Safe,
            async_storage_writes: false,
            step_down_on_removal: false,
            disable_proposal_forwarding: false,
            disable_conf_change_validation: false,
            seed: 0,
            max_clock_drift_permille: 100,
            vote_hold_off_ticks: 0,
            manual_elections: false,
            manual_heartbeats: false,
        }
    }
}

impl Config {
    /// The defaults for replica `id`.
    #[must_use]
    pub fn new(id: ReplicaId) -> Self {
        Self {
            id,
            ..Self::default()
        }
    }

    /// Checks the fields, alone and against each other.
    ///
    /// # Errors
    /// The first contradiction found.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.id.is_none() || self.id.is_storage_thread() {
            return Err(ConfigError::Id(self.id));
        }
        if self.heartbeat_ticks == 0 {
            return Err(ConfigError::HeartbeatTicks);
        }
        if self.election_ticks <= self.heartbeat_ticks {
            return Err(ConfigError::ElectionTicks {
                election: self.election_ticks,
                heartbeat: self.heartbeat_ticks,
            });
        }
        if self.election_ticks >= MAX_ELECTION_TICKS {
            return Err(ConfigError::ElectionTicksTooLarge(self.election_ticks));
        }
        if self.max_inflight_msgs == 0 {
            return Err(ConfigError::MaxInflightMsgs);
        }
        if self.max_inflight_bytes != 0 && self.max_inflight_bytes < self.max_size_per_msg {
            return Err(ConfigError::MaxInflightBytes {
                inflight: self.max_inflight_bytes,
                msg: self.max_size_per_msg,
            });
        }
        if self.read_only == ReadOnlyOption::LeaseBased && !self.check_quorum {
            return Err(ConfigError::LeaseWithoutCheckQuorum);
        }
        if self.max_clock_drift_permille >= 1000 {
            return Err(ConfigError::ClockDrift(self.max_clock_drift_permille));
        }
        Ok(())
    }

    /// Ticks for which a leader may rely on the quorum's answer to a round, counted from the tick in which it was
    /// sent.
    ///
    /// A follower refuses votes until it has counted `election_ticks` ticks, of which the first may follow at once on
    /// the message, so the promise holds for `election_ticks - 1` full ticks of the follower's clock, and for less by
    /// the drift on the leader's.
    #[must_use]
    pub fn lease_ticks(&self) -> u32 {
        let full = u64::from(self.election_ticks.saturating_sub(1));
        let kept = full * u64::from(1000 - self.max_clock_drift_permille.min(1000)) / 1000;
        u32::try_from(kept).unwrap_or(u32::MAX)
    }

    /// [`Config::max_committed_size_per_ready`] with its default put in.
    #[must_use]
    pub(crate) fn max_applying_size(&self) -> u64 {
        match self.max_committed_size_per_ready {
            0 => self.max_size_per_msg,
            size => size,
        }
    }

    /// [`Config::max_uncommitted_size`] with its default put in.
    #[must_use]
    pub(crate) fn uncommitted_limit(&self) -> u64 {
        match self.max_uncommitted_size {
            0 => NO_LIMIT,
            size => size,
        }
    }
}
