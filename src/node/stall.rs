//! Watches how long the disk takes. A leader whose disk has stalled still sends heartbeats, so nobody else would notice: its
//! shards would be led and take no writes. So after an election timeout it hands its leaderships over, as a draining node
//! does; the disk of the successor answers, or it does the same. A disk that does not come back ends the node.

use std::time::Duration;

use super::Shared;
use crate::{
    events::Event,
    storage::{Fault, StorageError},
};

/// Looks per election timeout.
const LOOKS: u32 = 4;

/// Runs until the disk is taken for dead, else for as long as the task lives.
pub(super) async fn watch(shared: &Shared) {
    let config = &shared.config;
    let (bound, limit) = (config.raft.election_timeout, config.storage.stall_limit);
    let mut looks = tokio::time::interval(bound / LOOKS);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut stalled: Option<Duration> = None;
    loop {
        looks.tick().await;
        let Some(running) = shared.running.get() else {
            continue;
        };
        let takes = running.writer.write_takes();
        if takes >= limit {
            shared.fatal.storage(StorageError {
                fault: Fault::Stalled,
                place: "node::stall",
                detail: format!(
                    "the disk has been at one write of the log for {takes:.1?}, more than storage.stall_limit = {limit:?}"
                ),
            });
            return;
        }
        if takes >= bound {
            if stalled.is_none() {
                tracing::error!(?takes, "the disk has stalled: handing leaderships over");
                shared.events.note(Event::DiskStalled { takes });
            }
            // Again at each look: leaderships that came back, or that nobody could take before.
            running.runtime.hand_over();
            stalled = Some(takes);
        } else if let Some(took) = stalled.take() {
            tracing::warn!(?took, "the disk answers again");
            shared.events.note(Event::DiskAnswers { took });
        }
    }
}
