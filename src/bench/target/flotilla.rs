//! Operations on a cluster of ours, by the client library's routes and streams.
//!
//! Nothing is tried again but what went to a node that named another leader: what fails, shows.

use std::time::Duration;

use flotilla_proto::v1::{
    self, Request, condition, kv_client::KvClient, operation, request, response,
};

use super::{Failed, Read, Transport};
use crate::{
    answers::Connection,
    bench::{
        error::{Error, Result},
        keys::Keys,
        load::Operation,
        servers::{Server, Servers, Software},
        workload::Kind,
    },
    client::{
        self, Client, Session, WriteBatch,
        stream::{self as node_stream, MAX_ANSWER_BYTES, NodeStream},
    },
};

/// A shard's leader may have changed meanwhile; more often than this, something else is wrong.
const REDIRECTS: usize = 3;
/// Clients share so many sessions: each remembers a bounded number of unanswered writes per shard.
const SESSIONS: usize = 16;

/// See the module.
pub(crate) struct Flotilla {
    client: Client,
    nodes: Vec<Node>,
    /// Nodes that hold each of the shards used; the first one led it when the run began.
    replicas: Vec<Vec<usize>>,
    transport: Transport,
    read: Read,
    sessions: Vec<Session>,
    timeout: Duration,
}

struct Node {
    address: String,
    connections: Vec<KvClient<Connection>>,
    /// For reads that do not go to the leader.
    stream: NodeStream,
}

impl From<client::Error> for Failed {
    fn from(error: client::Error) -> Self {
        Self {
            kind: error.kind(),
            message: error.to_string(),
        }
    }
}

fn connection(channel: Connection) -> KvClient<Connection> {
    KvClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES)
}

impl Flotilla {
    pub(crate) fn new(
        client: Client,
        keys: &Keys,
        transport: Transport,
        read: Read,
        connections: u32,
        timeout: Duration,
    ) -> Result<Self> {
        let options = client.stream_options().clone();
        let members = client.nodes();
        let mut nodes = Vec::with_capacity(members.len());
        for member in &members {
            let mut pool = Vec::new();
            if transport != Transport::Stream {
                for _ in 0..connections {
                    pool.push(connection(node_stream::channel(&member.address, &options)?));
                }
            }
            nodes.push(Node {
                address: member.address.clone(),
                connections: pool,
                stream: NodeStream::new(member.address.clone(), options.clone())?,
            });
        }
        let routes = client.routes();
        let place = |id| members.iter().position(|member| member.node_id == id);
        let mut replicas = Vec::new();
        for shard in 0..keys.shards() {
            let key = keys.get(shard);
            // Ascending, and without gaps.
            let after = routes.partition_point(|route| *route.descriptor.range.start() <= key);
            let route = &routes[after - 1];
            let leader = route.leader.and_then(|leader| place(leader.0));
            let all = route.descriptor.replicas.iter();
            let mut holders: Vec<usize> = all.filter_map(|replica| place(replica.node.0)).collect();
            holders.sort_by_key(|holder| Some(*holder) != leader);
            let few = read == Read::Follower && holders.len() < 2;
            if few || holders.is_empty() {
                return Err(Error::Usage(format!(
                    "shard {} has no replica for {} reads",
                    route.descriptor.shard.0,
                    read.name()
                )));
            }
            replicas.push(holders);
        }
        Ok(Self {
            sessions: (0..SESSIONS).map(|_| client.session()).collect(),
            client,
            nodes,
            replicas,
            transport,
            read,
            timeout,
        })
    }

    pub(super) fn servers(&self) -> Servers {
        let nodes = self.client.nodes().into_iter();
        let server = |node: v1::Node| {
            Server::new(
                format!("node {}", node.node_id),
                node.status_address,
                Software::Flotilla,
            )
        };
        Servers::new(nodes.map(server).collect())
    }

    pub(super) async fn perform(
        &self,
        client: usize,
        operation: &Operation,
    ) -> client::Result<bool> {
        match operation.kind {
            Kind::Session => {
                let session = &self.sessions[client % SESSIONS];
                let write = session.put(operation.key.clone(), operation.value.clone());
                write.await.map(|_| true)
            }
            Kind::Modify => {
                let found = self.read(client, operation).await?;
                self.lead(client, operation, put).await?;
                Ok(found)
            }
            Kind::Get | Kind::Scan => self.read(client, operation).await,
            Kind::Put | Kind::Insert | Kind::Batch => self
                .lead(client, operation, put)
                .await
                .map(|answer| found(&answer)),
        }
    }

    /// Writes the pairs; tried again as the client library does.
    pub(super) async fn fill(&self, operation: &Operation) -> client::Result<()> {
        let batch = operation
            .pairs()
            .fold(WriteBatch::new(), |batch, (key, value)| {
                batch.put(key.clone(), value.clone())
            });
        self.client.batch(batch).await.map(drop)
    }

    async fn read(&self, client: usize, operation: &Operation) -> client::Result<bool> {
        let request = |operation: &Operation| get(operation, self.read);
        let holders = &self.replicas[operation.shard];
        let node = match self.read {
            Read::Linearizable => {
                let answer = self.lead(client, operation, request).await?;
                return Ok(found(&answer));
            }
            Read::Follower => holders[1 + client % (holders.len() - 1)],
            Read::Serializable => holders[client % holders.len()],
        };
        let node = &self.nodes[node];
        let answer = self
            .ask(client, Some(node), &node.stream, request(operation))
            .await?;
        Ok(found(&answer))
    }

    /// Asks the node that leads the operation's shard.
    async fn lead(
        &self,
        client: usize,
        operation: &Operation,
        kind: impl Fn(&Operation) -> request::Kind,
    ) -> client::Result<response::Kind> {
        let mut redirects = 0;
        loop {
            let target = self.client.target(&operation.key);
            let address = target.stream.address();
            let node = match self.transport {
                Transport::Stream => None,
                _ => self.nodes.iter().find(|node| node.address == address),
            };
            match self
                .ask(client, node, &target.stream, kind(operation))
                .await
            {
                Ok(answer) => return Ok(answer),
                Err(error) => {
                    let told = self.client.learn(&target, &error);
                    if !told || redirects == REDIRECTS {
                        return Err(error);
                    }
                    redirects += 1;
                }
            }
        }
    }

    async fn ask(
        &self,
        client: usize,
        node: Option<&Node>,
        stream: &NodeStream,
        kind: request::Kind,
    ) -> client::Result<response::Kind> {
        let address = stream.address();
        if self.transport == Transport::Stream {
            let request = Request {
                kind: Some(kind),
                ..Request::default()
            };
            let answer = stream.call(request, self.timeout).await?.kind;
            return answer.ok_or_else(|| client::Error::Protocol {
                address: address.to_owned(),
                message: "an answer without content".to_owned(),
            });
        }
        let mut connection = match node {
            Some(node) => node.connections[client % node.connections.len()].clone(),
            // An endpoint under a name that the cluster does not use itself.
            None => connection(stream.channel()),
        };
        match tokio::time::timeout(self.timeout, unary(&mut connection, kind)).await {
            Ok(answer) => answer.map_err(|status| client::Error::from_status(address, &status)),
            Err(_) => Err(client::Error::DeadlineExceeded {
                address: address.to_owned(),
                sent: true,
            }),
        }
    }
}

async fn unary(
    connection: &mut KvClient<Connection>,
    kind: request::Kind,
) -> Result<response::Kind, tonic::Status> {
    use request::Kind as Ask;
    use response::Kind as Answer;
    Ok(match kind {
        Ask::Get(get) => Answer::Get(connection.get(get).await?.into_inner()),
        Ask::BatchGet(get) => Answer::BatchGet(connection.batch_get(get).await?.into_inner()),
        Ask::Put(put) => Answer::Put(connection.put(put).await?.into_inner()),
        Ask::Scan(scan) => Answer::Scan(connection.scan(scan).await?.into_inner()),
        Ask::Batch(batch) => Answer::Batch(connection.batch(batch).await?.into_inner()),
        Ask::Delete(_) | Ask::OpenSession(_) | Ask::CloseSession(_) => {
            return Err(tonic::Status::internal("no load asks for this"));
        }
    })
}

/// The request of an operation that reads.
fn get(operation: &Operation, read: Read) -> request::Kind {
    let consistency = match read {
        Read::Linearizable | Read::Follower => v1::Consistency::Linearizable,
        Read::Serializable => v1::Consistency::Serializable,
    }
    .into();
    match operation.kind {
        Kind::Scan => request::Kind::Scan(v1::ScanRequest {
            start: operation.key.clone(),
            limit: operation.rows,
            consistency,
            ..v1::ScanRequest::default()
        }),
        _ if operation.is_packed() => request::Kind::BatchGet(v1::BatchGetRequest {
            keys: operation.pairs().map(|(key, _)| key.clone()).collect(),
            consistency,
        }),
        _ => request::Kind::Get(v1::GetRequest {
            key: operation.key.clone(),
            consistency,
        }),
    }
}

/// The request of an operation that writes.
fn put(operation: &Operation) -> request::Kind {
    if operation.kind != Kind::Batch && !operation.is_packed() {
        return request::Kind::Put(v1::PutRequest {
            key: operation.key.clone(),
            value: operation.value.clone(),
            session: None,
        });
    }
    let exists = v1::Condition {
        key: operation.key.clone(),
        test: Some(condition::Test::Exists(true)),
    };
    let put = |(key, value): (&bytes::Bytes, &bytes::Bytes)| v1::Operation {
        kind: Some(operation::Kind::Put(v1::PutOperation {
            key: key.clone(),
            value: value.clone(),
        })),
    };
    request::Kind::Batch(v1::BatchRequest {
        conditions: (operation.kind == Kind::Batch)
            .then_some(exists)
            .into_iter()
            .collect(),
        operations: operation.pairs().map(put).collect(),
        session: None,
    })
}

/// Whether the answer has what was looked for.
fn found(answer: &response::Kind) -> bool {
    match answer {
        response::Kind::Get(answer) => answer.value.is_some(),
        response::Kind::BatchGet(answer) => answer.results.iter().all(|one| one.value.is_some()),
        response::Kind::Scan(answer) => !answer.rows.is_empty(),
        response::Kind::Batch(answer) => answer.succeeded,
        _ => true,
    }
}
