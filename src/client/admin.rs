//! What operators ask: any node of the cluster, or one in particular.

use std::time::Duration;

use bytes::Bytes;
use flotilla_proto::v1::{self, admin_client::AdminClient};

use super::{
    error::{Error, Result},
    stream::{self, MAX_ANSWER_BYTES, StreamOptions},
};
use crate::answers::Connection;

/// Shards per page of [`Admin::list_shards`].
const PAGE: u32 = 1000;

/// Access to the operators' side of some nodes. Calls go to the first endpoint that answers.
#[derive(Debug, Clone)]
pub struct Admin {
    endpoints: Vec<(String, Connection)>,
    timeout: Duration,
}

impl Admin {
    /// Access through these endpoints (host:port); `timeout` bounds each call to each of them. Connects when first used.
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if there is no endpoint, or one is not host:port.
    pub fn new(
        endpoints: impl IntoIterator<Item = impl Into<String>>,
        timeout: Duration,
    ) -> Result<Self> {
        Self::with_options(endpoints, timeout, &StreamOptions::default())
    }

    /// As [`Admin::new`], with connections of another kind.
    ///
    /// # Errors
    /// As [`Admin::new`].
    pub fn with_options(
        endpoints: impl IntoIterator<Item = impl Into<String>>,
        timeout: Duration,
        options: &StreamOptions,
    ) -> Result<Self> {
        let with_channel = |endpoint: String| {
            let channel = stream::channel(&endpoint, options)?;
            Ok((endpoint, channel))
        };
        let endpoints: Vec<_> = endpoints
            .into_iter()
            .map(|endpoint| with_channel(endpoint.into()))
            .collect::<Result<_>>()?;
        if endpoints.is_empty() {
            return Err(Error::InvalidArgument {
                message: "no endpoint is given; name at least one node as host:port".to_owned(),
            });
        }
        Ok(Self { endpoints, timeout })
    }

    /// Makes a cluster; asks the first endpoint only, as the answer of another one would be for another cluster.
    ///
    /// # Errors
    /// The node's.
    pub async fn init(&self, request: v1::InitRequest) -> Result<v1::InitResponse> {
        let Some(endpoint) = self.endpoints.first() else {
            unreachable!("new() demands an endpoint");
        };
        self.one(endpoint, async |mut client| client.init(request).await)
            .await
    }

    /// The status of every endpoint, each with its own outcome, in the order given.
    pub async fn status(&self) -> Vec<(String, Result<v1::StatusResponse>)> {
        let asked = self.endpoints.iter().map(async |endpoint| {
            let status = self
                .one(endpoint, async |mut client| {
                    client.status(v1::StatusRequest {}).await
                })
                .await;
            (endpoint.0.clone(), status)
        });
        futures_util::future::join_all(asked).await
    }

    /// The nodes of the cluster.
    ///
    /// # Errors
    /// The last endpoint's if none answered.
    pub async fn list_nodes(&self) -> Result<Vec<v1::NodeInfo>> {
        let answer = self
            .any(async |mut client| client.list_nodes(v1::ListNodesRequest {}).await)
            .await?;
        Ok(answer.nodes)
    }

    /// All shards, ascending by id, as the asked node sees them.
    ///
    /// # Errors
    /// As [`Admin::list_nodes`].
    pub async fn list_shards(&self) -> Result<Vec<v1::ShardInfo>> {
        let mut shards: Vec<v1::ShardInfo> = Vec::new();
        loop {
            let after = shards.last().map_or(0, shard_id);
            let request = v1::ListShardsRequest { after, limit: PAGE };
            let page = self
                .any(async |mut client| client.list_shards(request).await)
                .await?;
            let ascends = page.shards.iter().all(|shard| shard_id(shard) > after);
            if !ascends || (page.more && page.shards.is_empty()) {
                return Err(Error::Protocol {
                    address: "the node".to_owned(),
                    message: format!("the page of shards after {after} makes no progress"),
                });
            }
            shards.extend(page.shards);
            if !page.more {
                return Ok(shards);
            }
        }
    }

    /// One shard, as every endpoint sees it.
    pub async fn show_shard(
        &self,
        which: v1::show_shard_request::Which,
    ) -> Vec<(String, Result<v1::ShardInfo>)> {
        let asked = self.endpoints.iter().map(async |endpoint| {
            let request = v1::ShowShardRequest {
                which: Some(which.clone()),
            };
            let answer = self
                .one(endpoint, async |mut client| {
                    client.show_shard(request).await
                })
                .await;
            let shard = answer.and_then(|answer| {
                answer.shard.ok_or_else(|| Error::Protocol {
                    address: endpoint.0.clone(),
                    message: "it shows a shard without content".to_owned(),
                })
            });
            (endpoint.0.clone(), shard)
        });
        futures_util::future::join_all(asked).await
    }

    /// Checksum of a shard on every endpoint.
    pub async fn checksum(&self, shard_id: u64) -> Vec<(String, Result<v1::ChecksumResponse>)> {
        let asked = self.endpoints.iter().map(async |endpoint| {
            let request = v1::ChecksumRequest { shard_id };
            let answer = self
                .one(endpoint, async |mut client| client.checksum(request).await)
                .await;
            (endpoint.0.clone(), answer)
        });
        futures_util::future::join_all(asked).await
    }

    /// Hands a shard's leadership to another node.
    ///
    /// # Errors
    /// As [`Admin::list_nodes`].
    pub async fn transfer_leader(&self, shard_id: u64, node_id: u64) -> Result<()> {
        let request = v1::TransferLeaderRequest { shard_id, node_id };
        self.any(async |mut client| client.transfer_leader(request).await)
            .await
            .map(drop)
    }

    /// A page of the console, below `/console/api/`: what a node tells of the whole cluster, as JSON.
    ///
    /// # Errors
    /// As [`Admin::list_nodes`].
    pub async fn page(&self, path: &str) -> Result<Bytes> {
        let request = v1::PageRequest {
            path: path.to_owned(),
        };
        let answer = self
            .any(async |mut client| client.page(request.clone()).await)
            .await?;
        let message = || String::from_utf8_lossy(&answer.body).into_owned();
        match answer.code {
            200 => Ok(answer.body),
            409 => Err(Error::NotInitialized { message: message() }),
            503 => Err(Error::Busy {
                message: message(),
                retry_after: Duration::from_secs(1),
            }),
            code => Err(Error::InvalidArgument {
                message: format!("{path}: {code} {}", message()),
            }),
        }
    }

    /// Who the cluster takes this caller for.
    ///
    /// # Errors
    /// As [`Admin::list_nodes`].
    pub async fn who_am_i(&self) -> Result<v1::WhoAmIResponse> {
        self.any(async |mut client| client.who_am_i(v1::WhoAmIRequest {}).await)
            .await
    }

    /// All roles, users and tokens, without the tokens' secrets.
    ///
    /// # Errors
    /// As [`Admin::list_nodes`].
    pub async fn show_access(&self) -> Result<v1::ShowAccessResponse> {
        self.any(async |mut client| client.show_access(v1::ShowAccessRequest {}).await)
            .await
    }

    /// Changes roles, users or tokens, or whether they are enforced. After an error that leaves the outcome open no other
    /// endpoint is asked.
    ///
    /// # Errors
    /// The node's.
    pub async fn change_access(
        &self,
        change: v1::change_access_request::Change,
    ) -> Result<v1::ChangeAccessResponse> {
        let request = v1::ChangeAccessRequest {
            change: Some(change),
        };
        let mut result = None;
        for endpoint in &self.endpoints {
            let request = request.clone();
            let asked = self.one(endpoint, async |mut client| {
                client.change_access(request).await
            });
            match asked.await {
                Err(error) if error.is_transient() && error.nothing_written() => {
                    result = Some(Err(error));
                }
                other => return other,
            }
        }
        result.unwrap_or_else(|| unreachable!("new() demands an endpoint"))
    }

    async fn any<T>(
        &self,
        call: impl AsyncFn(AdminClient<Connection>) -> Result<tonic::Response<T>, tonic::Status>,
    ) -> Result<T> {
        let mut result = None;
        for endpoint in &self.endpoints {
            match self.one(endpoint, &call).await {
                Err(error) if error.is_transient() => result = Some(Err(error)),
                other => return other,
            }
        }
        result.unwrap_or_else(|| unreachable!("new() demands an endpoint"))
    }

    async fn one<T>(
        &self,
        (address, channel): &(String, Connection),
        call: impl AsyncFnOnce(AdminClient<Connection>) -> Result<tonic::Response<T>, tonic::Status>,
    ) -> Result<T> {
        let client = AdminClient::new(channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES);
        match tokio::time::timeout(self.timeout, call(client)).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(Error::from_status(address, &status)),
            Err(_) => Err(Error::DeadlineExceeded {
                address: address.clone(),
                sent: true,
            }),
        }
    }
}

fn shard_id(shard: &v1::ShardInfo) -> u64 {
    shard
        .descriptor
        .as_ref()
        .map_or(0, |descriptor| descriptor.shard_id)
}
