//! The birth of a cluster: its nodes, its shards, and the state that every replica begins with.
//!
//! The genesis is a record that all nodes hold word for word. Everything at the beginning is a function of it, so nothing
//! has to be agreed on: every replica starts as if it had installed a snapshot at [`GENESIS_INDEX`], with the same
//! content as its peers. Logs therefore begin behind that index, which leaves 0 to mean "nothing at all": a replica that
//! was added later starts from there and is sent a snapshot.

use crate::descriptor::{Descriptor, DescriptorError, Epoch, KeyRange, Replica};
use crate::ids::{NodeId, ShardId};
use crate::keys;
use crate::kv::ShardState;
use crate::limits::{
    GENESIS_LISTED_MAX, GENESIS_NODES_MAX, GENESIS_SHARDS_MAX, REPLICAS_MAX, SPLIT_KEY_BYTES_MAX,
    SPLIT_KEYS_BYTES_MAX,
};
use crate::meta::{Allocator, MetaRow};
use crate::node::{Node, NodeError};
use crate::raft::{HardState, Index, ReplicaId, Term};
use crate::range_map::{TilingError, check_tiling};
use crate::value;
use bytes::{Bytes, BytesMut};
use flotilla_proto::v1 as proto;

/// Index of the snapshot that every replica is born with; the first entry comes after it.
pub const GENESIS_INDEX: Index = Index(5);
/// Term of that snapshot; the first election is for a later one.
pub const GENESIS_TERM: Term = Term(5);
/// Replicas per shard if nothing else is asked for and there are as many nodes.
pub const REPLICAS_DEFAULT: usize = 3;

/// Epoch of every shard at its birth.
const FIRST_EPOCH: Epoch = Epoch {
    membership: 1,
    range: 1,
};
/// Revision of the meta shard's first rows. Other shards are born empty, at revision 0.
const FIRST_META_REVISION: u64 = 1;

/// Names a cluster: 16 random bytes.
pub type ClusterId = [u8; 16];

/// How user shards share the keyspace at birth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Split {
    /// This many shards, see [`even_split`].
    Even(usize),
    /// A shard for each range between these keys, which ascend.
    At(Vec<Bytes>),
}

/// The checked birth record of a cluster.
///
/// *Invariant:* node ids, addresses and store ids are unique; the first shard is the meta shard; the others ascend by
/// range and tile the keyspace; replicas live on known nodes; all shards are at their first epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Genesis {
    cluster: ClusterId,
    nodes: Vec<Node>,
    shards: Shards,
    time_ms: u64,
}

/// The first shards, the meta shard included.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Shards {
    /// So many users' shards that share the keyspace by [`even_split`], with so many replicas of each [in turn](in_turn).
    Even { shards: usize, replicas: usize },
    /// Any others; and those of clusters that were made before there was a rule.
    Listed(Vec<Descriptor>),
}

/// Why a cluster cannot be born like this.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GenesisError {
    /// A cluster id has 16 bytes.
    #[error("the cluster id has {0} bytes, expected 16")]
    ClusterId(usize),
    /// Too many or too few.
    #[error("{count} {what} are given, expected 1 to {max}")]
    Count {
        /// Of what.
        what: &'static str,
        /// How many.
        count: usize,
        /// At most.
        max: usize,
    },
    /// A broken node.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// Two nodes that cannot be told apart.
    #[error("nodes {first} and {second} have the same {what}")]
    SameNode {
        /// One node.
        first: NodeId,
        /// The other.
        second: NodeId,
        /// What is the same.
        what: &'static str,
    },
    /// A broken descriptor.
    #[error(transparent)]
    Descriptor(#[from] DescriptorError),
    /// A list and a rule.
    #[error(
        "the shards are given twice: {listed} are listed, and the keyspace is to be split evenly"
    )]
    Twice {
        /// How many are listed.
        listed: usize,
    },
    /// Two shards with one id.
    #[error("shard {0} is given twice")]
    SameShard(ShardId),
    /// The directory has no place.
    #[error("the meta shard is missing, or it is not the first shard with all keys as its range")]
    Meta,
    /// User shards do not share the keyspace.
    #[error(transparent)]
    Tiling(#[from] TilingError),
    /// A replica on a node that is not there.
    #[error("shard {shard} has a replica on node {node}, which is not part of the cluster")]
    UnknownNode {
        /// Which shard.
        shard: ShardId,
        /// The missing node.
        node: NodeId,
    },
    /// A shard that has a history already.
    #[error("shard {shard} has epoch {epoch}, expected {FIRST_EPOCH}")]
    Epoch {
        /// Which shard.
        shard: ShardId,
        /// What it says.
        epoch: Epoch,
    },
    /// An even number of replicas bears no more failures than one less.
    #[error(
        "{replicas} replicas per shard on {nodes} nodes: expected an odd number, at most {nodes}"
    )]
    Replicas {
        /// What was asked for.
        replicas: usize,
        /// What there is.
        nodes: usize,
    },
    /// A split key that splits nothing.
    #[error("split key {at} is empty")]
    SplitKeyEmpty {
        /// Its place in the list, from 0.
        at: usize,
    },
    /// Out of order.
    #[error("split key {at} \"{}\" is not above the one before it", key.escape_ascii())]
    SplitKeyOrder {
        /// Its place in the list, from 0.
        at: usize,
        /// The key.
        key: Bytes,
    },
    /// Too long.
    #[error("split key {at} has {bytes} bytes, the limit is {SPLIT_KEY_BYTES_MAX}")]
    SplitKeyTooLong {
        /// Its place in the list, from 0.
        at: usize,
        /// Its length.
        bytes: usize,
    },
    /// All together too long.
    #[error("the split keys have {bytes} bytes, the limit is {SPLIT_KEYS_BYTES_MAX}")]
    SplitKeysTooLong {
        /// Their length.
        bytes: usize,
    },
}

impl Genesis {
    /// Plans a new cluster. Nodes get the ids 1, 2, … in the given order, whatever ids they have. Replica i of shard k
    /// (the meta shard is number 0) goes to node (k + i) mod n: every node gets its share of replicas, and of first
    /// replicas, which are meant to lead. 0 `replicas` stands for [`REPLICAS_DEFAULT`], or all nodes if there are fewer.
    ///
    /// # Errors
    /// If the nodes, the split or the number of replicas are not possible.
    pub fn plan(
        cluster: ClusterId,
        nodes: Vec<proto::Node>,
        split: &Split,
        replicas: usize,
        time_ms: u64,
    ) -> Result<Self, GenesisError> {
        check_count("nodes", nodes.len(), GENESIS_NODES_MAX)?;
        let replicas = match replicas {
            0 => REPLICAS_DEFAULT.min(nodes.len()),
            odd if odd % 2 == 1 && odd <= nodes.len() => odd,
            replicas => {
                return Err(GenesisError::Replicas {
                    replicas,
                    nodes: nodes.len(),
                });
            }
        };
        let numbered = (1..).zip(nodes);
        let nodes = numbered
            .map(|(node_id, node)| Node::try_from(proto::Node { node_id, ..node }))
            .collect::<Result<Vec<_>, _>>()?;
        let shards = match split {
            &Split::Even(shards) => Shards::Even { shards, replicas },
            Split::At(keys) => {
                check_split_keys(keys)?;
                Shards::Listed(in_turn(&nodes, replicas, keys.iter().cloned()).collect())
            }
        };
        let genesis = Self {
            cluster,
            nodes,
            shards,
            time_ms,
        };
        genesis.check()?;
        Ok(genesis)
    }

    /// Names the cluster.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// The first nodes.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The first shards; the meta shard comes first, the others ascend by range.
    pub fn shards(&self) -> impl Iterator<Item = Descriptor> + '_ {
        let (even, listed) = match &self.shards {
            Shards::Even { shards, replicas } => {
                let shards = in_turn(&self.nodes, *replicas, even_keys(*shards));
                (Some(shards), &[][..])
            }
            Shards::Listed(shards) => (None, &shards[..]),
        };
        even.into_iter().flatten().chain(listed.iter().cloned())
    }

    /// The ids of [`Genesis::shards`], which cost less to tell.
    pub fn shard_ids(&self) -> impl Iterator<Item = ShardId> + '_ {
        let (even, listed) = match &self.shards {
            Shards::Even { shards, .. } => (1 + *shards as u64, &[][..]),
            Shards::Listed(shards) => (0, &shards[..]),
        };
        let even = (0..even).map(|number| ShardId(ShardId::META.0 + number));
        even.chain(listed.iter().map(|descriptor| descriptor.shard))
    }

    /// How many shards the users have.
    #[must_use]
    pub fn user_shards(&self) -> usize {
        match &self.shards {
            Shards::Even { shards, .. } => *shards,
            // The meta shard is not the users'.
            Shards::Listed(shards) => shards.len().saturating_sub(1),
        }
    }

    /// When the cluster was born, in milliseconds of the wall clock.
    #[must_use]
    pub fn time_ms(&self) -> u64 {
        self.time_ms
    }

    /// The shards that have a replica on `node`.
    pub fn shards_on(&self, node: NodeId) -> impl Iterator<Item = Descriptor> + '_ {
        (self.shards()).filter(move |descriptor| descriptor.replica_on(node).is_some())
    }

    /// The state that a shard is born with.
    #[must_use]
    pub fn shard_state(&self, descriptor: &Descriptor) -> ShardState {
        ShardState {
            applied_index: GENESIS_INDEX,
            applied_term: GENESIS_TERM,
            revision: if descriptor.shard.is_meta() {
                FIRST_META_REVISION
            } else {
                0
            },
            clock_ms: self.time_ms,
            next_session: 1,
            conf_state: descriptor.conf_state(),
            descriptor: descriptor.clone(),
        }
    }

    /// The rows of the state database that a node is born with: the state of each shard that it has a replica of, and
    /// the directory if it has one of the meta shard. Its log database is born with [`hard_state`] and the log cut at
    /// [`GENESIS_INDEX`] of [`GENESIS_TERM`], for the same shards.
    pub fn rows(&self, node: NodeId) -> impl Iterator<Item = (Bytes, Bytes)> + '_ {
        self.shards_on(node).flat_map(|descriptor| {
            let state = self.shard_state(&descriptor);
            let state = (keys::state(descriptor.shard), state.encode());
            let directory = descriptor.shard.is_meta().then(|| self.directory());
            let directory = directory.into_iter().flatten().map(|row| {
                let mut stored = BytesMut::new();
                value::encode(&mut stored, FIRST_META_REVISION, &row.value());
                (keys::data(ShardId::META, &row.key()), stored.freeze())
            });
            std::iter::once(state).chain(directory)
        })
    }

    /// The first rows of the directory.
    pub fn directory(&self) -> impl Iterator<Item = MetaRow> + '_ {
        let next_node = self.nodes.iter().map(|node| node.id.0).max();
        let next_shard = self.shard_ids().map(|shard| shard.0).max();
        let next = |last: Option<u64>| last.map_or(1, |last| last.saturating_add(1));
        let nodes = self.nodes.iter().cloned().map(MetaRow::Node);
        let shards = self.shards().map(MetaRow::Shard);
        let allocators = [
            MetaRow::Next(Allocator::Node, next(next_node)),
            MetaRow::Next(Allocator::Shard, next(next_shard)),
        ];
        nodes.chain(shards).chain(allocators)
    }

    fn check(&self) -> Result<(), GenesisError> {
        check_count("nodes", self.nodes.len(), GENESIS_NODES_MAX)?;
        let mut nodes: Vec<&Node> = self.nodes.iter().collect();
        check_unique("id", &mut nodes, |node| &node.id)?;
        check_unique("address", &mut nodes, |node| &node.address)?;
        check_unique("store id", &mut nodes, |node| &node.store)?;
        match &self.shards {
            Shards::Listed(shards) => self.check_listed(shards),
            &Shards::Even { shards, replicas } => {
                check_count("shards", shards, GENESIS_SHARDS_MAX)?;
                if (1..=self.nodes.len().min(REPLICAS_MAX)).contains(&replicas) {
                    return Ok(());
                }
                let nodes = self.nodes.len();
                Err(GenesisError::Replicas { replicas, nodes })
            }
        }
    }

    fn check_listed(&self, shards: &[Descriptor]) -> Result<(), GenesisError> {
        // One more for the meta shard.
        check_count("shards", shards.len(), GENESIS_LISTED_MAX + 1)?;
        let mut ids: Vec<ShardId> = shards.iter().map(|shard| shard.shard).collect();
        ids.sort_unstable();
        if let Some(pair) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(GenesisError::SameShard(pair[0]));
        }
        match shards.split_first() {
            Some((meta, users)) if meta.shard.is_meta() && meta.range == KeyRange::all() => {
                check_tiling(users)?;
            }
            _ => return Err(GenesisError::Meta),
        }
        let mut node_ids: Vec<NodeId> = self.nodes.iter().map(|node| node.id).collect();
        node_ids.sort_unstable();
        for descriptor in shards {
            let shard = descriptor.shard;
            if descriptor.epoch != FIRST_EPOCH {
                let epoch = descriptor.epoch;
                return Err(GenesisError::Epoch { shard, epoch });
            }
            for &Replica { node, .. } in &descriptor.replicas {
                if node_ids.binary_search(&node).is_err() {
                    return Err(GenesisError::UnknownNode { shard, node });
                }
            }
        }
        Ok(())
    }
}

impl TryFrom<proto::Genesis> for Genesis {
    type Error = GenesisError;

    fn try_from(message: proto::Genesis) -> Result<Self, Self::Error> {
        let cluster = (message.cluster_id[..].try_into())
            .map_err(|_| GenesisError::ClusterId(message.cluster_id.len()))?;
        let nodes = message.nodes.into_iter().map(Node::try_from);
        let listed = message.shards.len();
        let shards = match message.even {
            Some(_) if listed > 0 => return Err(GenesisError::Twice { listed }),
            Some(even) => Shards::Even {
                shards: even.shards as usize,
                replicas: even.replicas as usize,
            },
            None => {
                let shards = message.shards.into_iter().map(Descriptor::try_from);
                Shards::Listed(shards.collect::<Result<_, _>>()?)
            }
        };
        let genesis = Self {
            cluster,
            nodes: nodes.collect::<Result<_, _>>()?,
            shards,
            time_ms: message.time_ms,
        };
        genesis.check()?;
        Ok(genesis)
    }
}

impl From<&Genesis> for proto::Genesis {
    fn from(genesis: &Genesis) -> Self {
        let (even, listed) = match &genesis.shards {
            &Shards::Even { shards, replicas } => {
                // Both are bounded far below.
                let [shards, replicas] = [shards, replicas].map(|count| count as u32);
                (Some(proto::EvenSplit { shards, replicas }), &[][..])
            }
            Shards::Listed(shards) => (None, &shards[..]),
        };
        Self {
            cluster_id: Bytes::copy_from_slice(&genesis.cluster),
            nodes: genesis.nodes.iter().map(proto::Node::from).collect(),
            shards: listed.iter().map(proto::Descriptor::from).collect(),
            time_ms: genesis.time_ms,
            even,
        }
    }
}

/// The shards between `keys`, which ascend, the meta shard first. Replica i of shard k (the meta shard is number 0) is on
/// node (k + i) mod n, in the order of the list. Stored records count on it: it must stay as it is.
fn in_turn(
    nodes: &[Node],
    replicas: usize,
    keys: impl Iterator<Item = Bytes>,
) -> impl Iterator<Item = Descriptor> {
    let mut start = Bytes::new();
    let users = keys.chain([Bytes::new()]).map(move |end| {
        let start = std::mem::replace(&mut start, end.clone());
        KeyRange::new(start, end).expect("split keys ascend")
    });
    let ranges = std::iter::once(KeyRange::all()).chain(users);
    (0..).zip(ranges).map(move |(number, range)| Descriptor {
        shard: ShardId(ShardId::META.0 + number as u64),
        range,
        epoch: FIRST_EPOCH,
        replicas: (0..replicas)
            .map(|at| Replica {
                id: ReplicaId(at as u64 + 1),
                node: nodes[(number + at) % nodes.len()].id,
                learner: false,
            })
            .collect(),
    })
}

/// Raft's hard state of every replica at birth.
#[must_use]
pub fn hard_state() -> HardState {
    HardState {
        term: GENESIS_TERM,
        vote: ReplicaId::NONE,
        commit: GENESIS_INDEX,
    }
}

/// The keys between `shards` shards that share typical keys evenly.
///
/// Keys are mostly text, and a split by the value of bytes alone would put all of it on an eighth of the shards. So
/// each byte of a key is given a weight (lower-case letters and digits the most, then capitals, then other printable
/// characters, then the rest), and the shards get equal weights. Text spreads over three quarters of the shards; keys
/// with evenly distributed bytes still use all of them, the busiest getting four times its share. For anything better
/// there are split keys of one's own.
///
/// Stored records count on it: it must stay as it is.
#[must_use]
pub fn even_split(shards: usize) -> Vec<Bytes> {
    even_keys(shards).collect()
}

fn even_keys(shards: usize) -> impl Iterator<Item = Bytes> {
    // The heaviest two bytes have (16 / 919)² of all weight, one part in 3,299, so that two bytes tell the parts of
    // 3,000 shards apart; three do for 189,000, and four for 10 millions.
    const { assert!(GENESIS_SHARDS_MAX <= 10_000_000) };
    let length = match shards {
        ..=3_000 => 2,
        3_001..=189_000 => 3,
        _ => 4,
    };
    let total: u64 = (0..=u8::MAX).map(weight).sum();
    (1..shards as u64).map(move |part| {
        // How far into the weights the key lies, as a fraction.
        let (mut rest, mut whole) = (part, shards as u64);
        let mut key = Vec::with_capacity(length);
        for _ in 0..length {
            rest *= total;
            for byte in 0..=u8::MAX {
                let share = weight(byte) * whole;
                if rest < share {
                    key.push(byte);
                    whole = share;
                    break;
                }
                rest -= share;
            }
        }
        while key.last() == Some(&0) {
            key.pop();
        }
        key.into()
    })
}

const fn weight(byte: u8) -> u64 {
    match byte {
        b'a'..=b'z' => 16,
        b'0'..=b'9' => 12,
        b'A'..=b'Z' => 6,
        b' '..=b'~' => 2,
        _ => 1,
    }
}

fn check_split_keys(keys: &[Bytes]) -> Result<(), GenesisError> {
    check_count("shards", keys.len() + 1, GENESIS_LISTED_MAX)?;
    for (at, key) in keys.iter().enumerate() {
        if key.is_empty() {
            return Err(GenesisError::SplitKeyEmpty { at });
        }
        if key.len() > SPLIT_KEY_BYTES_MAX {
            let bytes = key.len();
            return Err(GenesisError::SplitKeyTooLong { at, bytes });
        }
        if at > 0 && keys[at - 1] >= *key {
            let key = key.clone();
            return Err(GenesisError::SplitKeyOrder { at, key });
        }
    }
    let bytes = keys.iter().map(Bytes::len).sum();
    if bytes > SPLIT_KEYS_BYTES_MAX {
        return Err(GenesisError::SplitKeysTooLong { bytes });
    }
    Ok(())
}

fn check_count(what: &'static str, count: usize, max: usize) -> Result<(), GenesisError> {
    if (1..=max).contains(&count) {
        Ok(())
    } else {
        Err(GenesisError::Count { what, count, max })
    }
}

fn check_unique<T: Ord>(
    what: &'static str,
    nodes: &mut [&Node],
    part: impl Fn(&Node) -> &T,
) -> Result<(), GenesisError> {
    nodes.sort_by(|a, b| part(a).cmp(part(b)));
    match nodes.windows(2).find(|pair| part(pair[0]) == part(pair[1])) {
        None => Ok(()),
        Some(pair) => Err(GenesisError::SameNode {
            first: pair[0].id,
            second: pair[1].id,
            what,
        }),
    }
}

#[cfg(test)]
mod tests;
