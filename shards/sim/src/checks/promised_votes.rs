//! Source: scenarios R2, R3; Gray and Cheriton, "Leases" (1989). Who promised a leader not to vote keeps to it for an election
//! timeout of its own clock, whatever it is told and over restarts as well. Only a leader that hands over may release it.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_shards::engine::Outgoing;
use flotilla_shards::ids::ShardId;
use flotilla_shards::raft::raft::CAMPAIGN_TRANSFER;
use flotilla_shards::raft::{MessageKind, Term};

use super::{Checked, ensure};
use crate::node::Node;
use crate::queue::Micros;
use crate::settings::Settings;

/// The latest promise of a replica.
#[derive(Clone, Copy, Debug)]
struct Promise {
    /// Of the leader that has it.
    term: Term,
    /// When it ends by the monotonic clock of the replica's node, which goes on over restarts.
    until: Micros,
}

/// See the module.
pub(crate) struct PromisedVotes {
    tick: Micros,
    election_ticks: u64,
    by_node: Vec<BTreeMap<ShardId, Promise>>,
    /// Terms whose leaders told somebody to campaign, which may come to pass at any later time.
    given_up: BTreeSet<(ShardId, Term)>,
    /// Terms of those campaigns.
    handed_over: BTreeSet<(ShardId, Term)>,
}

impl PromisedVotes {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            tick: settings.tick,
            election_ticks: settings.engine.election_ticks.into(),
            by_node: vec![BTreeMap::new(); settings.nodes],
            given_up: BTreeSet::new(),
            handed_over: BTreeSet::new(),
        }
    }

    /// Until when a quorum is bound to a leader, by its office or by promises, if all clocks go on as they do.
    pub(super) fn bound_until(
        &self,
        nodes: &[Node],
        leader: usize,
        shard: ShardId,
        now: Micros,
    ) -> Micros {
        let Some(descriptor) = nodes[leader].router.map().by_id(shard) else {
            return now;
        };
        let voters = (descriptor.replicas.iter()).filter(|replica| !replica.learner);
        let ends = voters.map(|replica| match (replica.node.0 - 1) as usize {
            at if at == leader => Micros::MAX,
            at => self.end(&nodes[at], at, shard, now),
        });
        let mut ends: Vec<Micros> = ends.collect();
        ends.sort_unstable();
        // As many are bound for longer as it takes to a majority.
        ends[(ends.len() - 1) / 2]
    }

    /// Whether a follower is bound to a leader at `now`.
    pub(crate) fn binds(&self, node: &Node, at: usize, shard: ShardId, now: Micros) -> bool {
        self.end(node, at, shard, now) > now
    }

    /// When the promise of a follower ends that its leader may count on.
    fn end(&self, node: &Node, at: usize, shard: ShardId, now: Micros) -> Micros {
        let promise = self.by_node[at].get(&shard);
        let promise = promise.filter(|promise| !self.given_up.contains(&(shard, promise.term)));
        promise.map_or(now, |promise| {
            let end = node.clock.when(promise.until, now);
            end.unwrap_or(Micros::MAX)
        })
    }

    pub(super) fn sent(
        &mut self,
        node: &Node,
        at: usize,
        now: Micros,
        outgoing: &Outgoing,
    ) -> Checked {
        let Outgoing { shard, message, .. } = outgoing;
        match message.kind {
            MessageKind::HeartbeatResp if message.promise => {
                // In whole ticks, as the node counts.
                let end = node.tick + self.election_ticks;
                let known = self.by_node[at].get(shard);
                let promise = Promise {
                    term: message.term,
                    until: known
                        .map_or(0, |known| known.until)
                        .max(node.started + end * self.tick),
                };
                self.by_node[at].insert(*shard, promise);
                return Ok(());
            }
            MessageKind::TimeoutNow => {
                self.given_up.insert((*shard, message.term));
                return Ok(());
            }
            MessageKind::Vote if message.context == CAMPAIGN_TRANSFER => {
                self.handed_over.insert((*shard, message.term));
                return Ok(());
            }
            // Who asks for votes has given itself its own.
            MessageKind::Vote => {}
            MessageKind::VoteResp if !message.reject => {}
            _ => return Ok(()),
        }
        let Some(promise) = self.by_node[at].get(shard) else {
            return Ok(());
        };
        // A vote in a term that was promised to its leader is older than the promise, and came late from the disk.
        let kept = node.clock.monotonic(now) >= promise.until
            || promise.term >= message.term
            || self.handed_over.contains(&(*shard, message.term));
        ensure(kept, "promised_votes", || {
            format!(
                "node {}, shard {shard}: {:?} to replica {} in term {}, at {} µs of its clock and in spite of {promise:?}",
                node.id,
                message.kind,
                message.to,
                message.term,
                node.clock.monotonic(now),
            )
        })
    }
}
