//! What nodes say to each other over gRPC: `flotilla.v1.Peer`. Raft's messages go to the transport; what is here is
//! the part before a cluster exists.

use std::sync::Arc;

use flotilla_proto::v1::{self as proto, peer_server};
use flotilla_shards::{
    genesis::Genesis,
    ids::{NodeId, ShardId},
};
use tonic::{Request, Response, Status, Streaming};

use super::{Front, access, admin, bootstrap::AdoptError, error, kv, pages, stream::Answers};
use crate::{
    tls::{Caller, Identity},
    transport::{Delivery, Transport},
};

/// The service.
pub(super) struct PeerService(pub(super) Arc<Front>);

impl PeerService {
    fn transport(&self) -> Result<&Transport, Status> {
        match self.0.services() {
            Some(services) => Ok(&services.transport),
            None => {
                let refused = &self.0.metrics().handshakes_refused;
                refused
                    .of(flotilla_metrics::HandshakeRefusal::NotInitialized)
                    .inc();
                Err(Status::failed_precondition(
                    "this node is not part of a cluster yet",
                ))
            }
        }
    }
}

/// The node that the certificate of a request's connection names; none without certificates, when the door lets everybody
/// in. With them it lets nodes in alone.
fn certified<T>(request: &Request<T>) -> Option<NodeId> {
    match request.extensions().get::<Caller>()?.identity {
        Some(Identity::Node(node)) => Some(node),
        _ => None,
    }
}

#[tonic::async_trait]
impl peer_server::Peer for PeerService {
    type DeliverStream = Delivery;
    type ForwardStream = Answers;

    async fn deliver(
        &self,
        request: Request<Streaming<proto::Frame>>,
    ) -> Result<Response<Delivery>, Status> {
        let transport = self.transport()?;
        let certified = certified(&request);
        transport
            .deliver(request.into_inner(), certified)
            .await
            .map(Response::new)
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<proto::SnapshotChunk>>,
    ) -> Result<Response<proto::InstallSnapshotResponse>, Status> {
        let transport = self.transport()?;
        let certified = certified(&request);
        transport
            .install_snapshot(request.into_inner(), certified)
            .await
            .map(Response::new)
    }

    async fn forward(
        &self,
        request: Request<Streaming<proto::StreamRequest>>,
    ) -> Result<Response<Answers>, Status> {
        kv::answers(&self.0, access::Caller::node(), request.into_inner()).map(Response::new)
    }

    async fn checksum(
        &self,
        request: Request<proto::ChecksumRequest>,
    ) -> Result<Response<proto::ChecksumResponse>, Status> {
        let services = self.0.services();
        let services = services.ok_or_else(|| error::status(&error::not_initialized()))?;
        let shard = ShardId(request.into_inner().shard_id);
        admin::checksum(services, shard).await.map(Response::new)
    }

    async fn identify(
        &self,
        request: Request<proto::IdentifyRequest>,
    ) -> Result<Response<proto::IdentifyResponse>, Status> {
        let bootstrap = self.0.bootstrap();
        let asker = NodeId(request.into_inner().node_id);
        Ok(Response::new(proto::IdentifyResponse {
            seen: bootstrap.seen(asker).map(Into::into),
            ..bootstrap.identity()
        }))
    }

    async fn page(
        &self,
        request: Request<proto::PageRequest>,
    ) -> Result<Response<proto::PageResponse>, Status> {
        self.0.page(request.into_inner(), pages::OF_NODES).await
    }

    async fn adopt(
        &self,
        request: Request<proto::AdoptRequest>,
    ) -> Result<Response<proto::AdoptResponse>, Status> {
        let proto::AdoptRequest { genesis, node_id } = request.into_inner();
        let genesis = genesis.ok_or_else(|| Status::invalid_argument("genesis is not set"))?;
        let genesis = Genesis::try_from(genesis)
            .map_err(|error| Status::invalid_argument(format!("genesis: {error}")))?;
        self.0
            .adopt(genesis, NodeId(node_id))
            .await
            .map_err(|error| match error {
                AdoptError::Foreign { .. } | AdoptError::OtherNode { .. } => {
                    Status::failed_precondition(error.to_string())
                }
                AdoptError::NotListed { .. } | AdoptError::Certificate { .. } => {
                    Status::invalid_argument(error.to_string())
                }
                AdoptError::Failed(_) => Status::internal(error.to_string()),
            })?;
        Ok(Response::new(proto::AdoptResponse {}))
    }
}
