//! Compares the replicas of each shard with each other, slowly and for ever: that equal indexes have equal bytes is proved
//! by nothing but looking, and a bit that has turned on a disk or in memory would be passed on by the next snapshot.
//!
//! The leader's node asks all replicas for their checksums. Only those of the same applied index can be compared: a shard
//! that is written all the time is left for the next round.

use std::time::Duration;

use flotilla_metrics::ScrubOutcome;
use flotilla_proto::v1::{self as proto, peer_client::PeerClient};
use flotilla_shards::{
    descriptor::Descriptor,
    ids::{NodeId, ShardId},
};
use futures_util::future::join_all;
use tokio::time::{sleep, timeout};

use super::{Shared, engine::Running};
use crate::{
    client::stream::{self, StreamOptions},
    events::Event,
    tls::ClientTls,
};

/// How long a node may take to read a shard.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a shard is tried whose replicas were at different indexes, and the pause before.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);
/// Pause of a node that leads nothing, at most.
const IDLE_PAUSE: Duration = Duration::from_secs(60);

/// Goes round for as long as the task lives; one round takes `storage.scrub_interval`.
pub(super) async fn watch(shared: &Shared) {
    let interval = shared.config.storage.scrub_interval;
    if interval.is_zero() {
        return std::future::pending().await;
    }
    loop {
        let Some(running) = shared.running.get() else {
            sleep(interval.min(IDLE_PAUSE)).await;
            continue;
        };
        // Listed once per round: to list them for each would cost the square of their number.
        let round = led(running);
        if round.is_empty() {
            sleep(interval.min(IDLE_PAUSE)).await;
        }
        let pause = interval / u32::try_from(round.len().max(1)).unwrap_or(u32::MAX);
        for shard in round {
            sleep(pause).await;
            if leads(running, shard) {
                let outcome = compare(shared, running, shard).await;
                shared.metrics.scrubs.of(outcome).inc();
            }
        }
    }
}

fn leads(running: &Running, shard: ShardId) -> bool {
    running.router.leader(shard) == Some(running.router.local())
}

/// The shards that this node leads, by id.
fn led(running: &Running) -> Vec<ShardId> {
    let map = running.router.map();
    let all = map.ids_after(ShardId(0)).map(|descriptor| descriptor.shard);
    all.filter(|shard| leads(running, *shard)).collect()
}

async fn compare(shared: &Shared, running: &Running, shard: ShardId) -> ScrubOutcome {
    let tls = shared.tls.as_ref().map(|tls| tls.outgoing());
    for attempt in 0..TRIES {
        if attempt > 0 {
            sleep(PAUSE).await;
        }
        let Ok(route) = running.router.by_id(shard) else {
            return ScrubOutcome::Skipped;
        };
        let sums = checksums(running, tls.as_ref(), &route.descriptor).await;
        match judge(&sums) {
            ScrubOutcome::Skipped => {}
            ScrubOutcome::Same => return ScrubOutcome::Same,
            ScrubOutcome::Different => {
                let found: Vec<String> = sums.iter().map(describe).collect();
                let found = found.join("; ");
                tracing::error!(%shard, found, "replicas of a shard differ: keep all data folders and report it");
                shared.events.note(Event::ReplicasDiffer { shard, found });
                return ScrubOutcome::Different;
            }
        }
    }
    ScrubOutcome::Skipped
}

/// A node's address, and what it says of its replica.
type Sum = (String, proto::ChecksumResponse);

/// Of all replicas that answer.
async fn checksums(
    running: &Running,
    tls: Option<&ClientTls>,
    descriptor: &Descriptor,
) -> Vec<Sum> {
    let nodes = descriptor.replicas.iter();
    let nodes = nodes.filter_map(|replica| running.router.node(replica.node));
    let nodes: Vec<_> = nodes.collect();
    let answers = join_all(
        nodes
            .iter()
            .map(|node| checksum(node, tls, descriptor.shard)),
    );
    answers.await.into_iter().flatten().collect()
}

/// Of a node's replica, if it answers.
async fn checksum(node: &proto::Node, tls: Option<&ClientTls>, shard: ShardId) -> Option<Sum> {
    let options = StreamOptions {
        tls: tls.map(|tls| tls.expecting(NodeId(node.node_id))),
        ..StreamOptions::default()
    };
    let channel = stream::channel(node.for_peers(), &options).ok()?;
    let request = proto::ChecksumRequest { shard_id: shard.0 };
    let mut client = PeerClient::new(channel);
    let answer = timeout(PATIENCE, client.checksum(request)).await;
    Some((node.address.clone(), answer.ok()?.ok()?.into_inner()))
}

fn describe((node, sum): &Sum) -> String {
    let proto::ChecksumResponse {
        applied_index,
        keys,
        checksum,
        ..
    } = sum;
    format!("{node} at index {applied_index}: {keys} keys, {checksum:08x}")
}

/// What checksums prove: two at the same index are the same or not.
fn judge(sums: &[Sum]) -> ScrubOutcome {
    let mut outcome = ScrubOutcome::Skipped;
    for (at, (_, one)) in sums.iter().enumerate() {
        for (_, other) in &sums[..at] {
            if one.applied_index == other.applied_index {
                if one != other {
                    return ScrubOutcome::Different;
                }
                outcome = ScrubOutcome::Same;
            }
        }
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(applied_index: u64, checksum: u32) -> Sum {
        let answer = proto::ChecksumResponse {
            applied_index,
            revision: applied_index,
            keys: 1,
            checksum,
        };
        ("node".to_owned(), answer)
    }

    #[test]
    fn only_equal_indexes_are_compared() {
        use ScrubOutcome::{Different, Same, Skipped};
        for (sums, outcome) in [
            (vec![], Skipped),
            (vec![sum(7, 1)], Skipped),
            (vec![sum(7, 1), sum(8, 2)], Skipped),
            (vec![sum(7, 1), sum(8, 2), sum(7, 1)], Same),
            (vec![sum(7, 1), sum(7, 1), sum(7, 2)], Different),
            (vec![sum(8, 1), sum(7, 1), sum(7, 2)], Different),
        ] {
            assert_eq!(judge(&sums), outcome, "{sums:?}");
        }
    }
}
