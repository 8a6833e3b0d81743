//! What the nodes at the addresses of `--join` say of themselves: whether this data folder belongs among them, and where
//! nodes are that have moved.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use flotilla_proto::v1 as proto;
use flotilla_shards::{ids::NodeId, lineage::Mark};
use futures_util::future::join_all;
use tokio::time::{sleep, timeout};

use super::{NodeError, Shared, engine::Running};
use crate::{
    config::Config, server::bootstrap::identify_one, storage::Stores, tls::ClientTls,
    transport::handshake::short_hex,
};

/// How long a start waits for neighbours to say who they are. One that takes longer is not asked again: its handshake
/// will tell.
const START_PATIENCE: Duration = Duration::from_secs(1);
/// How often nodes that can't be reached are looked for, and how long each may take to answer.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Asks all addresses at once; who does not answer in time is left out.
async fn ask(
    addresses: BTreeSet<String>,
    asker: NodeId,
    patience: Duration,
    tls: Option<&ClientTls>,
) -> Vec<(String, proto::IdentifyResponse)> {
    let asked = addresses.into_iter().map(|address| async move {
        let answer = timeout(patience, identify_one(&address, asker, tls)).await;
        answer.ok()?.ok().map(|answer| (address, answer))
    });
    join_all(asked).await.into_iter().flatten().collect()
}

/// Before a node listens: whether its folder belongs to the cluster that it was told to join, and is the newest one.
///
/// # Errors
/// A neighbour belongs to another cluster, runs on a copy of this folder, or has seen it further than it is.
pub(super) async fn check(
    config: &Config,
    stores: &Stores,
    tls: Option<&ClientTls>,
) -> Result<(), NodeError> {
    let identity = stores.identity();
    let Some(genesis) = &identity.genesis else {
        return Ok(());
    };
    let mut addresses: BTreeSet<String> =
        config.node.join.iter().map(ToString::to_string).collect();
    let others = (genesis.nodes.iter()).filter(|node| node.node_id != identity.node_id);
    addresses.extend(others.map(|node| node.for_peers().to_owned()));
    let lineage = stores.log.marks().lineage();
    let asker = NodeId(identity.node_id);
    for (address, answer) in ask(addresses, asker, START_PATIENCE, tls).await {
        if answer.store_id == identity.store_id {
            return Err(NodeError::Twin {
                data: config.node.data.clone(),
                node: identity.node_id,
                address,
            });
        }
        match answer.genesis {
            Some(theirs) if theirs.cluster_id != genesis.cluster_id => {
                return Err(NodeError::OtherCluster {
                    data: config.node.data.clone(),
                    ours: short_hex(&genesis.cluster_id),
                    address,
                    theirs: short_hex(&theirs.cluster_id),
                });
            }
            Some(_) => {
                let seen = answer.seen.map(Mark::from);
                let followed = seen.map_or(Ok(()), |seen| lineage.follows(seen));
                followed.map_err(|why| NodeError::Outdated {
                    data: config.node.data.clone(),
                    why,
                    address,
                })?;
            }
            None => {}
        }
    }
    Ok(())
}

impl Shared {
    /// Looks for nodes that can't be reached at the addresses of `--join` that no known node has, for as long as the task
    /// lives. A node that has moved tells all others itself; this is for those who have moved as well.
    pub(super) async fn find_moved(&self) {
        loop {
            sleep(LOOK_INTERVAL).await;
            let Some(running) = self.running.get() else {
                continue;
            };
            let nodes = Arc::clone(&running.router.nodes());
            let all_reached = nodes
                .keys()
                .all(|node| running.transport.is_reachable(*node));
            let known: BTreeSet<&str> = nodes.values().map(|node| node.for_peers()).collect();
            let join = self.config.node.join.iter().map(ToString::to_string);
            let unknown: BTreeSet<String> =
                join.filter(|address| !known.contains(&**address)).collect();
            if all_reached || unknown.is_empty() {
                continue;
            }
            let identity = self.stores.identity();
            let cluster = identity.genesis.map(|genesis| genesis.cluster_id);
            let asker = NodeId(identity.node_id);
            let tls = self.tls.as_ref().map(|tls| tls.outgoing());
            for (_, answer) in ask(unknown, asker, LOOK_INTERVAL, tls.as_ref()).await {
                let same = answer.genesis.map(|genesis| genesis.cluster_id) == cluster;
                let found = nodes.get(&NodeId(answer.node_id)).filter(|_| same);
                if let Some(found) = found.filter(|found| found.store_id == answer.store_id) {
                    running.take_address(proto::Node {
                        address: answer.address,
                        peer_address: answer.peer_address,
                        status_address: answer.status_address,
                        ..(**found).clone()
                    });
                }
            }
        }
    }
}

impl Running {
    /// A known node is elsewhere now.
    fn take_address(&self, node: proto::Node) {
        tracing::info!(
            node = node.node_id,
            address = node.address,
            "a node is found at another address"
        );
        self.transport.update_peer(node.clone());
        self.router.update_node(node);
    }
}
