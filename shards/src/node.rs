//! A node as the cluster knows it.

use crate::ids::NodeId;
use crate::limits::ADDRESS_BYTES_MAX;
use bytes::Bytes;
use flotilla_proto::v1 as proto;

/// Drawn once when a data folder is made: tells a wiped or copied folder from the real one.
pub type StoreId = [u8; 16];

/// A node's identity and where it can be reached.
///
/// *Invariant:* the id is not 0; addresses are `host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Given by the genesis.
    pub id: NodeId,
    /// Where clients reach it.
    pub address: String,
    /// Where other nodes reach it; empty: the same as `address`.
    pub peer_address: String,
    /// Where its HTTP status server is; empty if it has none.
    pub status_address: String,
    /// Its data folder.
    pub store: StoreId,
}

/// Why a message describes no node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// No such node.
    #[error("a node has id 0, expected an id from 1")]
    Id,
    /// Not `host:port`.
    #[error("node {node}: {field} \"{address}\" is not host:port")]
    Address {
        /// Which node.
        node: NodeId,
        /// Which of its addresses.
        field: &'static str,
        /// What it says, cut off if it is too long.
        address: String,
    },
    /// Not 16 bytes.
    #[error("node {node}: the store id has {bytes} bytes, expected 16")]
    Store {
        /// Which node.
        node: NodeId,
        /// How long it is.
        bytes: usize,
    },
}

impl TryFrom<proto::Node> for Node {
    type Error = NodeError;

    fn try_from(message: proto::Node) -> Result<Self, Self::Error> {
        let id = NodeId(message.node_id);
        if id == NodeId::NONE {
            return Err(NodeError::Id);
        }
        let check = |field, address: &str| {
            if is_host_and_port(address) {
                return Ok(());
            }
            Err(NodeError::Address {
                node: id,
                field,
                address: address
                    .chars()
                    .take(80)
                    .flat_map(char::escape_debug)
                    .collect(),
            })
        };
        check("address", &message.address)?;
        for (field, address) in [
            ("peer_address", &message.peer_address),
            ("status_address", &message.status_address),
        ] {
            if !address.is_empty() {
                check(field, address)?;
            }
        }
        Ok(Self {
            id,
            address: message.address,
            peer_address: message.peer_address,
            status_address: message.status_address,
            store: message.store_id[..]
                .try_into()
                .map_err(|_| NodeError::Store {
                    node: id,
                    bytes: message.store_id.len(),
                })?,
        })
    }
}

impl From<&Node> for proto::Node {
    fn from(node: &Node) -> Self {
        Self {
            node_id: node.id.0,
            address: node.address.clone(),
            peer_address: node.peer_address.clone(),
            status_address: node.status_address.clone(),
            store_id: Bytes::copy_from_slice(&node.store),
        }
    }
}

fn is_host_and_port(address: &str) -> bool {
    address.len() <= ADDRESS_BYTES_MAX
        && (address.rsplit_once(':')).is_some_and(|(host, port)| {
            !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_round_trip_and_broken_ones_are_refused() {
        let message = proto::Node {
            node_id: 3,
            address: "[::1]:7001".into(),
            peer_address: "[::1]:7002".into(),
            status_address: String::new(),
            store_id: Bytes::from_static(&[7; 16]),
        };
        let node = Node::try_from(message.clone()).unwrap();
        assert_eq!(proto::Node::from(&node), message);
        let broken = |change: &dyn Fn(&mut proto::Node)| {
            let mut message = message.clone();
            change(&mut message);
            Node::try_from(message).unwrap_err().to_string()
        };
        assert!(broken(&|m| m.node_id = 0).contains("id 0"));
        assert!(broken(&|m| m.address = "host".into()).contains("\"host\" is not host:port"));
        assert!(broken(&|m| m.address = "host:0".into()).contains("not host:port"));
        assert!(broken(&|m| m.address = ":1".into()).contains("not host:port"));
        // Found by the fuzz target `handshake`: it goes into logs.
        assert!(broken(&|m| m.address = "a\nb".into()).contains(r#""a\nb" is not"#));
        assert!(broken(&|m| m.address = format!("{}:1", "h".repeat(600))).len() < 200);
        assert!(broken(&|m| m.status_address = "x:y".into()).contains("status_address"));
        assert!(broken(&|m| m.peer_address = "x".into()).contains("peer_address"));
        assert!(broken(&|m| m.store_id = Bytes::new()).contains("0 bytes"));
    }
}
