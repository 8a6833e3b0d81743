//! What has happened to a node lately, for people: kept in memory, a bounded number, gone with the process. The log has the
//! same and more; this is what a console shows and what goes into a report of a fault.
//!
//! Anybody may note an [`Event`]; nothing is decided by them.

use std::{collections::VecDeque, fmt, time::Duration};

use flotilla_shards::{
    ids::{NodeId, ShardId},
    raft::{Index, Term},
};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::{clock::wall_ms, config::Size};

/// Events that are kept of leaderships, and of all else: when a node dies thousands of leaderships change, which must not
/// push out what was before.
const KEPT: usize = 512;

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the texts say what the fields are")]
pub enum Event {
    /// The engine runs, with so many replicas.
    Started { replicas: usize },
    /// The node became part of a cluster.
    Joined { node: NodeId },
    /// Probes are told so.
    Ready,
    /// Probes are told so.
    NotReady { reason: String },
    /// The node was told to stop.
    Draining,
    /// This node was elected.
    Leads { shard: ShardId, term: Term },
    /// This node leads no more.
    StepsDown {
        shard: ShardId,
        term: Term,
        leader: Option<NodeId>,
    },
    /// A follower has a shard's state now.
    SnapshotSent { shard: ShardId, node: NodeId },
    /// It has not; Raft asks again.
    SnapshotNotSent {
        shard: ShardId,
        node: NodeId,
        reason: String,
    },
    /// A shard's state comes in.
    SnapshotBegun {
        shard: ShardId,
        node: NodeId,
        index: Index,
    },
    /// It is complete and durable.
    SnapshotReceived { shard: ShardId, node: NodeId },
    /// It broke off.
    SnapshotNotReceived { shard: ShardId, node: NodeId },
    /// Another node was heard for the first time, or again.
    NodeHeard { node: NodeId },
    /// Another node is a new process.
    NodeRestarted { node: NodeId },
    /// The connection to another node broke.
    NodeLost { node: NodeId },
    /// Another node has a new address.
    NodeMoved { node: NodeId, address: String },
    /// One write of the log takes long.
    DiskStalled { takes: Duration },
    /// The disk does its work again.
    DiskAnswers { took: Duration },
    /// Writes are refused.
    DiskLow { free: Size },
    /// Writes are taken again.
    DiskHasRoom { free: Size },
    /// Replicas of a shard were compared and are not the same.
    ReplicasDiffer { shard: ShardId, found: String },
    /// Somebody changed what is logged.
    LogLevelSet { level: String },
    /// Somebody wanted to set something that this node does not take.
    SettingRefused { setting: &'static str, why: String },
}

impl Event {
    /// The kind: one word of a closed set.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Started { .. } => "started",
            Self::Joined { .. } => "joined",
            Self::Ready => "ready",
            Self::NotReady { .. } => "not_ready",
            Self::Draining => "draining",
            Self::Leads { .. } => "leads",
            Self::StepsDown { .. } => "steps_down",
            Self::SnapshotSent { .. } => "snapshot_sent",
            Self::SnapshotNotSent { .. } => "snapshot_not_sent",
            Self::SnapshotBegun { .. } => "snapshot_begun",
            Self::SnapshotReceived { .. } => "snapshot_received",
            Self::SnapshotNotReceived { .. } => "snapshot_not_received",
            Self::NodeHeard { .. } => "node_heard",
            Self::NodeRestarted { .. } => "node_restarted",
            Self::NodeLost { .. } => "node_lost",
            Self::NodeMoved { .. } => "node_moved",
            Self::DiskStalled { .. } => "disk_stalled",
            Self::DiskAnswers { .. } => "disk_answers",
            Self::DiskLow { .. } => "disk_low",
            Self::DiskHasRoom { .. } => "disk_has_room",
            Self::ReplicasDiffer { .. } => "replicas_differ",
            Self::LogLevelSet { .. } => "log_level_set",
            Self::SettingRefused { .. } => "setting_refused",
        }
    }

    /// How much it matters: `info`, `warning` or `error`.
    #[must_use]
    pub fn severity(&self) -> &'static str {
        match self {
            Self::NotReady { .. }
            | Self::SnapshotNotSent { .. }
            | Self::SnapshotNotReceived { .. }
            | Self::NodeLost { .. }
            | Self::SettingRefused { .. } => "warning",
            Self::DiskStalled { .. } | Self::DiskLow { .. } | Self::ReplicasDiffer { .. } => {
                "error"
            }
            _ => "info",
        }
    }

    /// The shard that it is about.
    #[must_use]
    pub fn shard(&self) -> Option<ShardId> {
        match self {
            Self::Leads { shard, .. }
            | Self::StepsDown { shard, .. }
            | Self::SnapshotSent { shard, .. }
            | Self::SnapshotNotSent { shard, .. }
            | Self::SnapshotBegun { shard, .. }
            | Self::SnapshotReceived { shard, .. }
            | Self::SnapshotNotReceived { shard, .. }
            | Self::ReplicasDiffer { shard, .. } => Some(*shard),
            _ => None,
        }
    }

    /// The node that it is about beside this one.
    #[must_use]
    pub fn node(&self) -> Option<NodeId> {
        match self {
            Self::StepsDown { leader, .. } => *leader,
            Self::SnapshotSent { node, .. }
            | Self::SnapshotNotSent { node, .. }
            | Self::SnapshotBegun { node, .. }
            | Self::SnapshotReceived { node, .. }
            | Self::SnapshotNotReceived { node, .. }
            | Self::NodeHeard { node }
            | Self::NodeRestarted { node }
            | Self::NodeLost { node }
            | Self::NodeMoved { node, .. } => Some(*node),
            _ => None,
        }
    }

    fn is_of_leadership(&self) -> bool {
        matches!(self, Self::Leads { .. } | Self::StepsDown { .. })
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started { replicas } => write!(f, "started with {replicas} replicas"),
            Self::Joined { node } => write!(f, "part of a cluster now, as node {node}"),
            Self::Ready => f.write_str("ready"),
            Self::NotReady { reason } => write!(f, "not ready: {reason}"),
            Self::Draining => f.write_str("draining"),
            Self::Leads { shard, term } => write!(f, "leads shard {shard} in term {term}"),
            Self::StepsDown {
                shard,
                term,
                leader: Some(leader),
            } => write!(
                f,
                "leads shard {shard} no more: in term {term} node {leader} does"
            ),
            Self::StepsDown { shard, term, .. } => {
                write!(
                    f,
                    "leads shard {shard} no more; in term {term} no leader is known yet"
                )
            }
            Self::SnapshotSent { shard, node } => {
                write!(f, "sent a snapshot of shard {shard} to node {node}")
            }
            Self::SnapshotNotSent {
                shard,
                node,
                reason,
            } => write!(
                f,
                "could not send a snapshot of shard {shard} to node {node}: {reason}"
            ),
            Self::SnapshotBegun { shard, node, index } => write!(
                f,
                "receiving a snapshot of shard {shard} at index {index} from node {node}"
            ),
            Self::SnapshotReceived { shard, node } => {
                write!(f, "received a snapshot of shard {shard} from node {node}")
            }
            Self::SnapshotNotReceived { shard, node } => write!(
                f,
                "the snapshot of shard {shard} from node {node} broke off"
            ),
            Self::NodeHeard { node } => write!(f, "node {node} lives"),
            Self::NodeRestarted { node } => write!(f, "node {node} was restarted"),
            Self::NodeLost { node } => write!(f, "the connection to node {node} broke"),
            Self::NodeMoved { node, address } => {
                write!(f, "node {node} is reached at {address} now")
            }
            Self::DiskStalled { takes } => {
                write!(f, "the disk has been at one write for {takes:.1?}")
            }
            Self::DiskAnswers { took } => {
                write!(f, "the disk answers again, after {took:.1?}")
            }
            Self::DiskLow { free } => {
                write!(
                    f,
                    "the disk is nearly full, with {free} free: writes are refused"
                )
            }
            Self::DiskHasRoom { free } => {
                write!(
                    f,
                    "the disk has room again, with {free} free: writes are taken"
                )
            }
            Self::ReplicasDiffer { shard, found } => {
                write!(f, "replicas of shard {shard} differ: {found}")
            }
            Self::LogLevelSet { level } => write!(f, "the log level is {level} now"),
            Self::SettingRefused { setting, why } => write!(f, "{setting} was not set: {why}"),
        }
    }
}

#[derive(Debug)]
struct Noted {
    number: u64,
    wall_ms: u64,
    event: Event,
}

impl Noted {
    fn to_json(&self) -> Value {
        let time = std::time::UNIX_EPOCH + Duration::from_millis(self.wall_ms);
        json!({
            "number": self.number,
            "time": humantime::format_rfc3339_millis(time).to_string(),
            "kind": self.event.kind(),
            "severity": self.event.severity(),
            "shard": self.event.shard().map(|shard| shard.0),
            "node": self.event.node().map(|node| node.0),
            "text": self.event.to_string(),
        })
    }
}

/// The newest events of one node.
#[derive(Debug, Default)]
pub struct Events {
    newest: Mutex<Newest>,
}

#[derive(Debug, Default)]
struct Newest {
    last: u64,
    leaderships: VecDeque<Noted>,
    others: VecDeque<Noted>,
}

impl Events {
    /// Notes an event.
    pub fn note(&self, event: Event) {
        self.note_all([event]);
    }

    /// Notes what happened at the same time.
    pub fn note_all(&self, events: impl IntoIterator<Item = Event>) {
        let wall_ms = wall_ms();
        let mut newest = self.newest.lock();
        for event in events {
            newest.last += 1;
            let number = newest.last;
            let kept = match event.is_of_leadership() {
                true => &mut newest.leaderships,
                false => &mut newest.others,
            };
            if kept.len() == KEPT {
                kept.pop_front();
            }
            kept.push_back(Noted {
                number,
                wall_ms,
                event,
            });
        }
    }

    /// The newest `limit` of those that came after number `after`, in the order in which they happened.
    #[must_use]
    pub fn to_json(&self, after: u64, limit: usize) -> Value {
        let newest = self.newest.lock();
        let Newest {
            leaderships,
            others,
            last,
        } = &*newest;
        let mut found: Vec<&Noted> = (leaderships.iter().chain(others))
            .filter(|noted| noted.number > after)
            .collect();
        found.sort_unstable_by_key(|noted| noted.number);
        let found = &found[found.len().saturating_sub(limit)..];
        let events: Vec<Value> = found.iter().map(|noted| noted.to_json()).collect();
        json!({ "events": events, "last": last })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(page: &Value) -> Vec<&str> {
        let events = page["events"].as_array().expect("a list");
        (events.iter())
            .map(|event| event["text"].as_str().expect("a text"))
            .collect()
    }

    #[test]
    fn a_flood_of_leaderships_leaves_everything_else() {
        let events = Events::default();
        events.note(Event::Started { replicas: 3 });
        let leads = |shard| Event::Leads {
            shard: ShardId(shard),
            term: Term(6),
        };
        events.note_all((1..=10_000).map(leads));
        events.note(Event::NodeLost { node: NodeId(2) });
        let page = events.to_json(0, usize::MAX);
        let texts = texts(&page);
        assert_eq!(texts.len(), KEPT + 2);
        assert_eq!(texts[0], "started with 3 replicas");
        assert_eq!(texts[KEPT], "leads shard 10000 in term 6");
        assert_eq!(texts[KEPT + 1], "the connection to node 2 broke");
        assert_eq!(page["last"], 10_002);
    }

    #[test]
    fn whoever_knows_some_asks_for_those_after() {
        let events = Events::default();
        events.note_all([Event::Ready, Event::Draining]);
        assert_eq!(texts(&events.to_json(1, 9)), ["draining"]);
        assert_eq!(texts(&events.to_json(0, 1)), ["draining"]);
        assert_eq!(texts(&events.to_json(2, 9)), [""; 0]);
    }
}
