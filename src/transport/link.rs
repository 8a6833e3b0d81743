//! The task that keeps one lane to one peer connected.

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    sync::Arc,
    time::Duration,
};

use flotilla_proto::v1::{self as proto, peer_client::PeerClient};
use tokio::time::{sleep, timeout};

use super::{
    Shared, TransportOptions,
    handshake::{Repeats, is_outdated},
    innermost,
    peers::Peer,
    queue::Frames,
};
use crate::answers::Readable;

/// Tries that may fail before it is told: the first ones do in the ordinary course of starts and stops.
const QUIET_FAILURES: u32 = 2;

/// How long the other node may take to accept a stream or refuse it. It answers at once, if it is able to.
const ACCEPT_TIMEOUT: Duration = Duration::from_secs(10);

/// How a connection ended.
enum End {
    /// The transport is stopped.
    Stopped,
    /// The peer has another address now.
    Moved,
    /// Anything else, as text for the operator.
    Broken(String),
}

/// Connects, sends, and connects again, until the transport is stopped.
pub(super) async fn run(shared: Arc<Shared>, peer: Arc<Peer>, lane: proto::Lane) {
    let mut node = peer.node.subscribe();
    let mut repeats = Repeats::default();
    let mut failures = 0_u32;
    let mut random = fastrand::Rng::with_seed(RandomState::new().build_hasher().finish());
    loop {
        let address = node.borrow_and_update().for_peers().to_owned();
        peer.connects[lane as usize].inc();
        let end = tokio::select! {
            end = connection(&shared, &peer, lane, &address, &mut failures) => end,
            () = shared.stopped() => End::Stopped,
            // The sender lives as long as the peer.
            _ = node.changed() => End::Moved,
        };
        if peer.link_down(lane) {
            shared.inbound.unreachable(peer.id);
        }
        // What waits was for the connection that ended, and is stale when the next one stands.
        peer.lane(lane).discard();
        match end {
            End::Stopped => return,
            End::Moved => {
                failures = 0;
                continue;
            }
            End::Broken(cause) => {
                if failures >= QUIET_FAILURES && repeats.is_news(&cause) {
                    tracing::warn!(node = %peer.id, address, ?lane, cause, "no connection to node; trying again");
                }
            }
        }
        let pause = backoff(&shared.options, failures, &mut random);
        failures = failures.saturating_add(1);
        tokio::select! {
            () = sleep(pause) => peer.lane(lane).discard(),
            () = peer.returned(lane) => peer.lane(lane).discard(),
            () = shared.stopped() => return,
            _ = node.changed() => failures = 0,
        }
    }
}

/// One connection from its beginning to its end.
async fn connection(
    shared: &Shared,
    peer: &Peer,
    lane: proto::Lane,
    address: &str,
    failures: &mut u32,
) -> End {
    let channel = match shared.connect(peer.id, address).await {
        Ok(channel) => channel,
        Err(reason) => return End::Broken(reason),
    };
    let frames = Frames::new(
        Arc::clone(peer.lane(lane)),
        shared.handshake(peer.id, lane),
        shared.options.frame_bytes,
        shared.options.max_frame_bytes,
        Arc::clone(&shared.door.local().marks),
    );
    let mut client = PeerClient::new(Readable::new(channel));
    let accepted = timeout(ACCEPT_TIMEOUT, client.deliver(frames)).await;
    let Ok(accepted) = accepted else {
        return End::Broken("the node does not answer a handshake".to_owned());
    };
    let result = match accepted {
        Ok(answer) => {
            *failures = 0;
            peer.link_up(lane);
            tracing::info!(node = %peer.id, address, ?lane, "connected to node");
            // The peer says nothing while all is well.
            answer.into_inner().message().await
        }
        Err(status) => Err(status),
    };
    match result {
        Ok(_) => End::Broken("the node ended the stream".to_owned()),
        Err(status) if status.code() == tonic::Code::FailedPrecondition => {
            if is_outdated(&status) {
                shared.inbound.outdated(status.message().to_owned());
            }
            End::Broken(format!("refused: {}", status.message()))
        }
        Err(status) => End::Broken(innermost(&status)),
    }
}

/// Pause before try `failures + 1`: doubling, half of it random, so that the nodes of a cluster that restarts do not
/// fall upon each other at the same moment.
fn backoff(options: &TransportOptions, failures: u32, random: &mut fastrand::Rng) -> Duration {
    let doubled = 2_u32.saturating_pow(failures.min(16));
    let full = (options.backoff_first.saturating_mul(doubled)).min(options.backoff_last);
    full / 2 + full.mul_f64(random.f64() / 2.0)
}
