//! Operations on an etcd v3 cluster: the same ones, as far as it knows them.
//!
//! Everything but reads of followers and of any member goes to the member that led when the run began.

use std::time::Duration;

use bytes::Bytes;
use flotilla_proto::etcd::{
    Compare, PutRequest, RangeRequest, RequestOp, StatusRequest, TxnRequest, compare,
    kv_client::KvClient, maintenance_client::MaintenanceClient, request_op, response_op,
};
use tonic::Status;

use super::{Failed, Read};
use crate::{
    answers::Connection,
    bench::{
        error::{Error, Result},
        load::Operation,
        servers::{Server, Servers, Software},
        workload::Kind,
    },
    client::stream::{MAX_ANSWER_BYTES, StreamOptions, channel},
};

/// What etcd takes for "to the end of the keyspace".
const TO_THE_END: &[u8] = b"\0";

/// See the module.
pub(crate) struct Etcd {
    /// The leader is the first.
    members: Vec<Member>,
    version: String,
    read: Read,
    timeout: Duration,
}

struct Member {
    address: String,
    connections: Vec<KvClient<Connection>>,
}

impl Etcd {
    /// Asks the members at `addresses` (host:port) who leads.
    pub(crate) async fn connect(
        addresses: &[String],
        read: Read,
        connections: u32,
        timeout: Duration,
    ) -> Result<Self> {
        let options = StreamOptions::default();
        let mut members = Vec::with_capacity(addresses.len());
        let mut version = String::new();
        for address in addresses {
            let channels = (0..connections).map(|_| channel(address, &options));
            let channels = channels.collect::<Result<Vec<_>, _>>()?;
            let mut maintenance = MaintenanceClient::new(channels[0].clone());
            let status = tokio::time::timeout(timeout, maintenance.status(StatusRequest {})).await;
            let status = status
                .unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")))
                .map_err(|status| {
                    let reason = crate::client::reason_of(&status);
                    Error::Target(format!("etcd at {address} does not answer: {reason}"))
                })?
                .into_inner();
            let leads = status
                .header
                .is_some_and(|header| header.member_id == status.leader);
            version = status.version;
            let connection =
                |channel| KvClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES);
            let member = Member {
                address: address.clone(),
                connections: channels.into_iter().map(connection).collect(),
            };
            members.push((leads, member));
        }
        members.sort_by_key(|(leads, _)| !leads);
        match members.first() {
            Some((true, _)) => {}
            _ => {
                return Err(Error::Target(
                    "none of the etcd members that were named leads: name all of them".to_owned(),
                ));
            }
        }
        if read == Read::Follower && members.len() < 2 {
            return Err(Error::Usage(
                "reads of followers need a second etcd member in --target".to_owned(),
            ));
        }
        Ok(Self {
            members: members.into_iter().map(|(_, member)| member).collect(),
            version,
            read,
            timeout,
        })
    }

    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    pub(super) fn servers(&self) -> Servers {
        let server = |member: &Member| {
            let name = format!("etcd {}", member.address);
            Server::new(name, member.address.clone(), Software::Etcd)
        };
        Servers::new(self.members.iter().map(server).collect())
    }

    pub(super) async fn perform(
        &self,
        client: usize,
        operation: &Operation,
    ) -> Result<bool, Failed> {
        match operation.kind {
            Kind::Get | Kind::Scan => self.get(client, operation).await,
            Kind::Put | Kind::Insert | Kind::Batch => self.put(client, operation).await,
            Kind::Modify => {
                let found = self.get(client, operation).await?;
                self.put(client, operation).await?;
                Ok(found)
            }
            Kind::Session => Err(Failed {
                kind: "invalid_argument",
                message: "etcd has no sessions".to_owned(),
            }),
        }
    }

    /// Writes the pairs of an operation.
    pub(super) async fn fill(&self, operation: &Operation) -> Result<(), Failed> {
        self.put(0, operation).await.map(drop)
    }

    fn connection(&self, client: usize, member: usize) -> KvClient<Connection> {
        let connections = &self.members[member].connections;
        connections[client % connections.len()].clone()
    }

    async fn within<T>(
        &self,
        call: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Result<T, Failed> {
        match tokio::time::timeout(self.timeout, call).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(Failed {
                kind: name(status.code()),
                message: crate::client::reason_of(&status),
            }),
            Err(_) => Err(Failed {
                kind: "deadline_exceeded",
                message: format!("no answer within {:?}", self.timeout),
            }),
        }
    }

    async fn get(&self, client: usize, operation: &Operation) -> Result<bool, Failed> {
        let others = self.members.len() - 1;
        let member = match self.read {
            Read::Linearizable => 0,
            Read::Follower => 1 + client % others,
            Read::Serializable => client % self.members.len(),
        };
        let mut connection = self.connection(client, member);
        let range = |key: &Bytes| RangeRequest {
            key: key.clone(),
            serializable: self.read == Read::Serializable,
            ..RangeRequest::default()
        };
        if operation.is_packed() {
            let read = |(key, _): (&Bytes, &Bytes)| RequestOp {
                request: Some(request_op::Request::RequestRange(range(key))),
            };
            let txn = TxnRequest {
                compare: Vec::new(),
                success: operation.pairs().map(read).collect(),
            };
            let answer = self.within(connection.txn(txn)).await?;
            return Ok(answer.responses.iter().all(|one| match &one.response {
                Some(response_op::Response::ResponseRange(range)) => !range.kvs.is_empty(),
                _ => false,
            }));
        }
        let mut request = range(&operation.key);
        if operation.kind == Kind::Scan {
            request.range_end = Bytes::from_static(TO_THE_END);
            request.limit = operation.rows.into();
        }
        let answer = self.within(connection.range(request)).await?;
        Ok(!answer.kvs.is_empty())
    }

    async fn put(&self, client: usize, operation: &Operation) -> Result<bool, Failed> {
        let mut connection = self.connection(client, 0);
        let put = |(key, value): (&Bytes, &Bytes)| PutRequest {
            key: key.clone(),
            value: value.clone(),
        };
        if operation.kind != Kind::Batch && !operation.is_packed() {
            let request = put((&operation.key, &operation.value));
            return self.within(connection.put(request)).await.map(|_| true);
        }
        let exists = Compare {
            result: compare::CompareResult::Greater.into(),
            target: compare::CompareTarget::Version.into(),
            key: operation.key.clone(),
            target_union: Some(compare::TargetUnion::Version(0)),
        };
        let write = |pair| RequestOp {
            request: Some(request_op::Request::RequestPut(put(pair))),
        };
        let txn = TxnRequest {
            compare: (operation.kind == Kind::Batch)
                .then_some(exists)
                .into_iter()
                .collect(),
            success: operation.pairs().map(write).collect(),
        };
        let answer = self.within(connection.txn(txn)).await?;
        Ok(answer.succeeded)
    }
}

/// The name of a code, for counting.
fn name(code: tonic::Code) -> &'static str {
    match code {
        tonic::Code::InvalidArgument => "invalid_argument",
        tonic::Code::DeadlineExceeded => "deadline_exceeded",
        tonic::Code::ResourceExhausted => "busy",
        tonic::Code::Unavailable => "unavailable",
        tonic::Code::Internal => "internal",
        tonic::Code::Unimplemented => "protocol",
        _ => "other",
    }
}
