//! How nodes become a cluster.
//!
//! One node is asked to (`init`). It asks every address that it was told to join who lives there, and then tells all
//! of them the same genesis. Nothing can be agreed on before there is a cluster, so the order does it: nodes adopt one
//! after the other, in the order of their addresses, and a node never gives up a genesis for another. Whoever the first
//! node follows has won; a second `init` that runs at the same time stops there, with nothing done. A node that
//! belongs to the cluster already names the genesis, so `init` can be repeated after a failure until all have it.

use std::{collections::BTreeMap, time::Duration};

use flotilla_proto::v1::{self as proto, peer_client::PeerClient};
use flotilla_shards::{
    genesis::{Genesis, GenesisError, Split},
    ids::NodeId,
    limits,
    lineage::Mark,
};
use futures_util::future::{BoxFuture, join_all};
use tonic::Status;

use crate::{
    answers::{Connection, Readable},
    clock::wall_ms,
    tls::{self, ClientTls, identity::new_cluster},
    transport::{PROTOCOL, handshake::short_hex, innermost},
};

/// How long one node may take to say who it is, or to make a genesis durable and to begin,
const PATIENCE: Duration = Duration::from_secs(10);
/// and how much longer for each shard.
const PATIENCE_PER_SHARD: Duration = Duration::from_micros(100);

/// The node's identity, as kept in its data folder.
pub trait ClusterBootstrap: Send + Sync + 'static {
    /// Who the node is, and to which cluster it belongs.
    fn identity(&self) -> proto::IdentifyResponse;

    /// How far the store of another node was seen.
    fn seen(&self, node: NodeId) -> Option<Mark>;

    /// The addresses that the node was told to join; its own may be among them.
    fn join(&self) -> Vec<String>;

    /// What is shown to other nodes and demanded of them; none: plaintext.
    fn tls(&self) -> Option<ClientTls> {
        None
    }

    /// Makes the genesis durable and starts the engine. Called at most once, with a genesis that lists this node's
    /// store under `node`.
    ///
    /// # Errors
    /// A text for the operator; the node belongs to no cluster then.
    fn adopt(&self, genesis: Genesis, node: NodeId) -> BoxFuture<'_, Result<(), String>>;
}

/// Why a node does not adopt a genesis.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdoptError {
    /// It belongs to another cluster.
    #[error("this node belongs to cluster {ours} and can't join cluster {theirs}")]
    Foreign {
        /// Its cluster.
        ours: String,
        /// The cluster that it was told of.
        theirs: String,
    },
    /// It is another node of that cluster.
    #[error("this node is node {ours} of the cluster, not node {theirs}")]
    OtherNode {
        /// Its id.
        ours: u64,
        /// The id that it was told.
        theirs: u64,
    },
    /// The genesis does not mean this data folder.
    #[error(
        "the genesis does not list the data folder {store} of this node as node {node}: the address leads to a node \
         other than the one that was asked before, or its folder was replaced meanwhile"
    )]
    NotListed {
        /// Its store.
        store: String,
        /// The id that it was told.
        node: u64,
    },
    /// Its certificate says something else.
    #[error(
        "the certificate of this node names node {certified} of cluster {cluster}, and it was told to be node {node} of \
         cluster {theirs}: give each node the certificate that was made for it"
    )]
    Certificate {
        /// Who its certificate says that it is.
        certified: u64,
        /// In which cluster.
        cluster: String,
        /// Who it was told to be.
        node: u64,
        /// In which cluster.
        theirs: String,
    },
    /// It could not.
    #[error("the genesis could not be adopted: {0}")]
    Failed(String),
}

/// Whether a node that says this of itself may adopt the genesis. False: it has it already.
pub(super) fn may_adopt(
    identity: &proto::IdentifyResponse,
    genesis: &Genesis,
    node: NodeId,
) -> Result<bool, AdoptError> {
    if let Some(known) = &identity.genesis {
        if known.cluster_id[..] != genesis.cluster()[..] {
            return Err(AdoptError::Foreign {
                ours: short_hex(&known.cluster_id),
                theirs: short_hex(&genesis.cluster()),
            });
        }
        if identity.node_id != node.0 {
            return Err(AdoptError::OtherNode {
                ours: identity.node_id,
                theirs: node.0,
            });
        }
        return Ok(false);
    }
    if identity.certified_node != 0
        && (identity.certified_node, &identity.certified_cluster[..])
            != (node.0, &genesis.cluster()[..])
    {
        return Err(AdoptError::Certificate {
            certified: identity.certified_node,
            cluster: short_hex(&identity.certified_cluster),
            node: node.0,
            theirs: short_hex(&genesis.cluster()),
        });
    }
    let listed = genesis.nodes().iter().find(|listed| listed.id == node);
    if listed.is_none_or(|listed| identity.store_id[..] != listed.store[..]) {
        return Err(AdoptError::NotListed {
            store: short_hex(&identity.store_id),
            node: node.0,
        });
    }
    Ok(true)
}

/// Why there is no cluster, or not on all nodes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InitError {
    /// Nothing to join.
    #[error("this node was not told any address to join: start it with --join ADDR,ADDR,ADDR")]
    NoJoin,
    /// A cluster without the node that makes it.
    #[error(
        "this node ({0}) is not among the addresses that it was told to join: add its own address to --join"
    )]
    SelfMissing(String),
    /// Not everyone is there.
    #[error("all nodes must run when the cluster is made; not reached: {}", .0.join("; "))]
    Unreached(Vec<String>),
    /// One node under two addresses.
    #[error(
        "the addresses {first} and {second} lead to the same node: each node must be listed once, by the address that it \
         advertises"
    )]
    SameNode {
        /// One address.
        first: String,
        /// The other.
        second: String,
    },
    /// Two nodes that say the same of themselves.
    #[error(
        "the nodes at {first} and {second} both advertise the address {address}: set it for each by --advertise"
    )]
    SameAddress {
        /// One address.
        first: String,
        /// The other.
        second: String,
        /// What both say.
        address: String,
    },
    /// Nodes of two clusters.
    #[error(
        "the nodes at {first} and {second} belong to different clusters ({first_cluster} and {second_cluster}): check \
         the addresses and the data folders"
    )]
    Foreign {
        /// One address.
        first: String,
        /// Its cluster.
        first_cluster: String,
        /// The other.
        second: String,
        /// Its cluster.
        second_cluster: String,
    },
    /// A node that the cluster does not know.
    #[error(
        "the node at {address} (data folder {store}) is not part of cluster {cluster}, which exists already: it is new, \
         or its folder was wiped"
    )]
    Stranger {
        /// Its address.
        address: String,
        /// Its store.
        store: String,
        /// The cluster.
        cluster: String,
    },
    /// Another version.
    #[error(
        "the node at {address} speaks version {theirs} of the peer protocol, this one {PROTOCOL}: run the same release on all nodes"
    )]
    Protocol {
        /// Its address.
        address: String,
        /// Its version.
        theirs: u32,
    },
    /// Certificates that do not make up a cluster.
    #[error(
        "the certificate of the node at {address} names node {node}, but the nodes of a new cluster are numbered from 1 to \
         {nodes}, each once: make certificates with these ids (`flotilla cert create-node --id`)"
    )]
    Numbers {
        /// Its address.
        address: String,
        /// Its number.
        node: u64,
        /// How many nodes there are.
        nodes: usize,
    },
    /// The wish can't be fulfilled.
    #[error(transparent)]
    Genesis(#[from] GenesisError),
    /// What a node says of its cluster does not hold.
    #[error("the node at {address} names a broken genesis: {source}")]
    BrokenGenesis {
        /// Its address.
        address: String,
        /// What is wrong.
        source: GenesisError,
    },
    /// Told, and not done.
    #[error(
        "the node at {address} did not adopt the cluster: {reason}. Nodes before it have: run `flotilla init` again when \
         that is mended"
    )]
    NotAdopted {
        /// Its address.
        address: String,
        /// What it said.
        reason: String,
    },
}

impl From<InitError> for Status {
    fn from(error: InitError) -> Self {
        let text = error.to_string();
        match error {
            InitError::NoJoin | InitError::SelfMissing(_) | InitError::Genesis(_) => {
                Self::invalid_argument(text)
            }
            InitError::Unreached(_) | InitError::NotAdopted { .. } => Self::unavailable(text),
            InitError::SameNode { .. }
            | InitError::SameAddress { .. }
            | InitError::Foreign { .. }
            | InitError::Stranger { .. }
            | InitError::Protocol { .. }
            | InitError::Numbers { .. }
            | InitError::BrokenGenesis { .. } => Self::failed_precondition(text),
        }
    }
}

/// Who answered at which address, by the address that was asked.
type Answers = BTreeMap<String, proto::IdentifyResponse>;

/// Makes a cluster of all nodes at `join`, or completes one that was made in part.
pub(super) async fn init(
    own: proto::IdentifyResponse,
    join: Vec<String>,
    wish: proto::InitRequest,
    tls: Option<&ClientTls>,
) -> Result<proto::InitResponse, InitError> {
    if join.is_empty() {
        return Err(InitError::NoJoin);
    }
    let answers = identify(join, tls).await?;
    check_twins(&answers)?;
    if !answers
        .values()
        .any(|answer| answer.store_id == own.store_id)
    {
        return Err(InitError::SelfMissing(own.address));
    }
    let found = existing(&answers)?;
    let existed = found.is_some();
    let genesis = match found {
        Some(genesis) => genesis,
        None => plan(&answers, &wish)?,
    };
    for node in genesis.nodes() {
        let at = answers
            .iter()
            .find(|(_, answer)| answer.store_id[..] == node.store[..]);
        // Nodes of the cluster that are not in the list are those that joined later, or they are asked some other time.
        let Some((address, answer)) = at else {
            continue;
        };
        if answer.genesis.is_none() {
            adopt(address, &genesis, node.id, tls).await?;
        }
    }
    Ok(proto::InitResponse {
        cluster_id: genesis.cluster().to_vec().into(),
        nodes: genesis.nodes().iter().map(proto::Node::from).collect(),
        shards: u32::try_from(genesis.user_shards()).unwrap_or(u32::MAX),
        existed,
    })
}

async fn client(
    address: &str,
    patience: Duration,
    tls: Option<&ClientTls>,
) -> Result<PeerClient<Connection>, String> {
    let endpoint = tls::client::endpoint(address, tls)
        .map_err(|error| innermost(&error))?
        .connect_timeout(PATIENCE)
        .timeout(patience);
    let connected = tls::client::connect(&endpoint, tls).await;
    let channel = connected.map_err(|error| innermost(&error))?;
    Ok(
        PeerClient::new(Readable::new(channel))
            .max_decoding_message_size(limits::MESSAGE_BYTES_MAX),
    )
}

/// What a node said, or why it said nothing: that its end refuses our certificate comes with its first answer.
fn reason(status: &Status) -> String {
    match std::error::Error::source(status) {
        Some(source) => innermost(source),
        None if status.code() == tonic::Code::Unimplemented => {
            "this port is not for nodes: name that of node.peer_listen, which is the next one if nothing else is said"
                .to_owned()
        }
        None => status.message().to_owned(),
    }
}

/// Asks who lives at an address.
///
/// # Errors
/// Why there is no answer, for the operator.
pub async fn identify_one(
    address: &str,
    asker: NodeId,
    tls: Option<&ClientTls>,
) -> Result<proto::IdentifyResponse, String> {
    let mut client = client(address, PATIENCE, tls).await?;
    let request = proto::IdentifyRequest { node_id: asker.0 };
    let answer = client.identify(request).await;
    let answer = answer.map_err(|status| reason(&status))?;
    Ok(answer.into_inner())
}

/// Asks a node, at its address between nodes, for a page of its status port.
///
/// # Errors
/// Why there is no answer, for the operator.
pub async fn page_of(
    address: &str,
    path: String,
    tls: Option<&ClientTls>,
) -> Result<proto::PageResponse, String> {
    let mut client = client(address, PATIENCE, tls).await?;
    let answer = client.page(proto::PageRequest { path }).await;
    let answer = answer.map_err(|status| reason(&status))?;
    Ok(answer.into_inner())
}

/// Asks all addresses who lives there.
async fn identify(join: Vec<String>, tls: Option<&ClientTls>) -> Result<Answers, InitError> {
    let asked = join.into_iter().map(|address| async move {
        let answer = identify_one(&address, NodeId(0), tls).await;
        (address, answer)
    });
    let mut answers = Answers::new();
    let mut unreached = Vec::new();
    for (address, answer) in join_all(asked).await {
        match answer {
            Ok(answer) => {
                answers.insert(address, answer);
            }
            Err(reason) => unreached.push(format!("{address} ({reason})")),
        }
    }
    if !unreached.is_empty() {
        return Err(InitError::Unreached(unreached));
    }
    for (address, answer) in &answers {
        if answer.protocol != PROTOCOL {
            return Err(InitError::Protocol {
                address: address.clone(),
                theirs: answer.protocol,
            });
        }
    }
    Ok(answers)
}

/// No node may be there twice.
fn check_twins(answers: &Answers) -> Result<(), InitError> {
    let mut by_store = BTreeMap::new();
    let mut by_address = BTreeMap::new();
    for (address, answer) in answers {
        if let Some(first) = by_store.insert(&answer.store_id, address) {
            return Err(InitError::SameNode {
                first: first.clone(),
                second: address.clone(),
            });
        }
        if let Some(first) = by_address.insert(&answer.address, address) {
            return Err(InitError::SameAddress {
                first: first.clone(),
                second: address.clone(),
                address: answer.address.clone(),
            });
        }
    }
    Ok(())
}

/// The genesis that some of the nodes have already; all others must be part of it.
fn existing(answers: &Answers) -> Result<Option<Genesis>, InitError> {
    let mut found: Option<(&String, &proto::Genesis)> = None;
    for (address, answer) in answers {
        let Some(genesis) = &answer.genesis else {
            continue;
        };
        match found {
            None => found = Some((address, genesis)),
            Some((first, known)) if known.cluster_id != genesis.cluster_id => {
                return Err(InitError::Foreign {
                    first: first.clone(),
                    first_cluster: short_hex(&known.cluster_id),
                    second: address.clone(),
                    second_cluster: short_hex(&genesis.cluster_id),
                });
            }
            Some(_) => {}
        }
    }
    let Some((named_by, genesis)) = found else {
        return Ok(None);
    };
    let genesis =
        Genesis::try_from(genesis.clone()).map_err(|source| InitError::BrokenGenesis {
            address: named_by.clone(),
            source,
        })?;
    for (address, answer) in answers {
        let mut nodes = genesis.nodes().iter();
        if !nodes.any(|node| node.store[..] == answer.store_id[..]) {
            return Err(InitError::Stranger {
                address: address.clone(),
                store: short_hex(&answer.store_id),
                cluster: short_hex(&genesis.cluster()),
            });
        }
    }
    Ok(Some(genesis))
}

/// A new cluster of all nodes. Its id and theirs are those in their certificates; without any, the cluster's is drawn and
/// theirs go by the order of the advertised addresses.
fn plan(answers: &Answers, wish: &proto::InitRequest) -> Result<Genesis, InitError> {
    let mut nodes: Vec<(u64, &String, proto::Node)> = (answers.iter())
        .map(|(asked, answer)| {
            let node = proto::Node {
                node_id: 0,
                address: answer.address.clone(),
                peer_address: answer.peer_address.clone(),
                status_address: answer.status_address.clone(),
                store_id: answer.store_id.clone(),
            };
            (answer.certified_node, asked, node)
        })
        .collect();
    nodes.sort_by(|a, b| (a.0, &a.2.address).cmp(&(b.0, &b.2.address)));
    let certified = nodes.iter().any(|(id, ..)| *id != 0);
    let odd = (1..).zip(&nodes).find(|(number, (id, ..))| id != number);
    if let Some((_, (node, address, _))) = odd.filter(|_| certified) {
        return Err(InitError::Numbers {
            address: (*address).clone(),
            node: *node,
            nodes: nodes.len(),
        });
    }
    // A certificate of another cluster does not get as far as to answer.
    let cluster = (answers.values())
        .find_map(|answer| answer.certified_cluster[..].try_into().ok())
        .unwrap_or_else(new_cluster);
    let nodes = nodes.into_iter().map(|(.., node)| node).collect();
    let split = if wish.split_keys.is_empty() {
        Split::Even(wish.shards as usize)
    } else {
        Split::At(wish.split_keys.clone())
    };
    let genesis = Genesis::plan(cluster, nodes, &split, wish.replicas as usize, wall_ms());
    Ok(genesis?)
}

/// Tells one node.
async fn adopt(
    address: &str,
    genesis: &Genesis,
    node: NodeId,
    tls: Option<&ClientTls>,
) -> Result<(), InitError> {
    let told = async {
        let request = proto::AdoptRequest {
            genesis: Some(genesis.into()),
            node_id: node.0,
        };
        let shards = u32::try_from(genesis.user_shards()).unwrap_or(u32::MAX);
        let patience = PATIENCE + PATIENCE_PER_SHARD * shards;
        let mut client = client(address, patience, tls).await?;
        let answer = client.adopt(request).await;
        answer.map_err(|status| reason(&status))
    };
    told.await
        .map(drop)
        .map_err(|reason| InitError::NotAdopted {
            address: address.to_owned(),
            reason,
        })
}
