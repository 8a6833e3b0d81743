//! What operators ask: `flotilla.v1.Admin`. Each node answers for itself; nothing here changes clients' data.
//!
//! Each method asks first whether its caller may (`admit`, `admit_to_shard`); what changes anything leaves a line in the audit
//! log, whatever came of it.

use std::sync::Arc;

use flotilla_proto::v1::{self as proto, admin_server, error::Code};
use flotilla_shards::{
    access::rights::Operation,
    descriptor::Descriptor,
    ids::{NodeId, ShardId},
    kv::{StateView, read},
    service::request as rules,
};
use futures_util::future::join_all;
use tonic::{Request, Response, Status};

use super::{Front, access::Caller, audit, bootstrap, error, pages, services::Services};

/// Shards of one page of a list.
const PAGE_MAX: usize = 1000;

/// The service.
pub(super) struct AdminService(pub(super) Arc<Front>);

impl AdminService {
    /// Lets a caller in who may do this.
    fn admit(&self, caller: &Caller, operation: Operation<'_>) -> Result<&Arc<Services>, Status> {
        let services = self.0.services();
        let services = services.ok_or_else(|| error::status(&error::not_initialized()))?;
        let allowed = services.access.check(caller, operation);
        allowed.map_err(|error| error::status(&error))?;
        Ok(services)
    }

    /// Makes the cluster.
    async fn make(
        &self,
        request: proto::InitRequest,
    ) -> Result<Response<proto::InitResponse>, Status> {
        let _one_at_a_time = self.0.initializing().lock().await;
        let (own, join) = (self.0.bootstrap().identity(), self.0.bootstrap().join());
        // On a task of its own: an operator who gives up half way does not leave half a cluster behind.
        let tls = self.0.bootstrap().tls();
        let init =
            tokio::spawn(async move { bootstrap::init(own, join, request, tls.as_ref()).await });
        let answer = init
            .await
            .map_err(|error| Status::internal(format!("init broke off: {error}")))??;
        Ok(Response::new(answer))
    }

    async fn hand_over(
        &self,
        caller: &Caller,
        shard: ShardId,
        node: NodeId,
    ) -> Result<Response<proto::TransferLeaderResponse>, Status> {
        let services = self.admit(caller, Operation::Greet)?;
        let descriptor = services.admit_to_shard(caller, services.descriptor(shard))?;
        match descriptor.replica_on(node) {
            Some(replica) if !replica.learner => {}
            _ => {
                return Err(error::status(&error::of(
                    Code::InvalidArgument,
                    format!("node {node} has no voting replica of shard {shard}"),
                )));
            }
        }
        if !services.runtime.transfer_leader(shard, node).await {
            let leader = services.router.leader(shard);
            return Err(error::status(&error::not_leader(shard, leader)));
        }
        Ok(Response::new(proto::TransferLeaderResponse {}))
    }

    async fn change(
        &self,
        caller: &Caller,
        change: proto::ChangeAccessRequest,
    ) -> Result<Response<proto::ChangeAccessResponse>, Status> {
        let services = self.admit(caller, Operation::Cluster)?;
        let changed = services.change_access(change).await;
        changed
            .map(Response::new)
            .map_err(|error| error::status(&error))
    }
}

impl Services {
    /// Lets a caller in who may act on this shard. Whether there is such a shard is told to those only who may act on all.
    fn admit_to_shard(
        &self,
        caller: &Caller,
        found: Result<Arc<Descriptor>, Status>,
    ) -> Result<Arc<Descriptor>, Status> {
        let allowed = match &found {
            Ok(descriptor) => self
                .access
                .check(caller, Operation::Shard(&descriptor.range)),
            Err(_) => self.access.check(caller, Operation::Cluster),
        };
        allowed.map_err(|error| error::status(&error))?;
        found
    }

    fn descriptor(&self, shard: ShardId) -> Result<Arc<Descriptor>, Status> {
        let route = self.router.by_id(shard);
        route
            .map(|route| route.descriptor)
            .map_err(|error| error::status(&error.into()))
    }

    async fn shard_info(&self, descriptor: &Descriptor) -> proto::ShardInfo {
        let shard = descriptor.shard;
        let local = match descriptor.replica_on(self.router.local()) {
            Some(_) => self.runtime.replica_info(shard).await,
            None => None,
        };
        proto::ShardInfo {
            descriptor: Some(descriptor.into()),
            leader: self.router.leader(shard).unwrap_or_default().0,
            local,
        }
    }
}

#[tonic::async_trait]
impl admin_server::Admin for AdminService {
    async fn init(
        &self,
        request: Request<proto::InitRequest>,
    ) -> Result<Response<proto::InitResponse>, Status> {
        let caller = Caller::of(&request);
        // Before there is a cluster there is nobody who could be asked for.
        let answer = match self.0.services() {
            Some(_) => match self.admit(&caller, Operation::Cluster) {
                Ok(_) => self.make(request.into_inner()).await,
                Err(status) => Err(status),
            },
            None => self.make(request.into_inner()).await,
        };
        audit::note(self.0.services(), &caller, "init", &answer);
        answer
    }

    async fn status(
        &self,
        request: Request<proto::StatusRequest>,
    ) -> Result<Response<proto::StatusResponse>, Status> {
        if self.0.services().is_some() {
            self.admit(&Caller::of(&request), Operation::Cluster)?;
        }
        let identity = self.0.bootstrap().identity();
        let local = self
            .0
            .services()
            .map(|services| services.router.local_shards())
            .unwrap_or_default();
        let readiness = self.0.readiness();
        Ok(Response::new(proto::StatusResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster_id: identity
                .genesis
                .map(|genesis| genesis.cluster_id)
                .unwrap_or_default(),
            node_id: identity.node_id,
            address: identity.address,
            initialized: self.0.services().is_some(),
            ready: readiness.is_ok(),
            not_ready_reason: readiness.err().unwrap_or_default(),
            shards: local.replicas,
            leaders: local.leaders,
            shards_without_leader: local.without_leader,
            uptime_ms: u64::try_from(self.0.uptime().as_millis()).unwrap_or(u64::MAX),
        }))
    }

    async fn list_nodes(
        &self,
        request: Request<proto::ListNodesRequest>,
    ) -> Result<Response<proto::ListNodesResponse>, Status> {
        // The nodes are among the routes, which every user needs.
        let services = self.admit(&Caller::of(&request), Operation::Greet)?;
        let router = &services.router;
        let mut counts = std::collections::BTreeMap::<NodeId, (u64, u64)>::new();
        for descriptor in router.map().ids_after(ShardId(0)) {
            for replica in &descriptor.replicas {
                counts.entry(replica.node).or_default().1 += 1;
            }
            if let Some(leader) = router.leader(descriptor.shard) {
                counts.entry(leader).or_default().0 += 1;
            }
        }
        let nodes = router.nodes();
        let nodes = nodes.iter().map(|(id, node)| {
            let (leaders, replicas) = counts.get(id).copied().unwrap_or_default();
            proto::NodeInfo {
                node: Some((**node).clone()),
                reachable: services.transport.is_reachable(*id),
                leaders,
                replicas,
            }
        });
        Ok(Response::new(proto::ListNodesResponse {
            nodes: nodes.collect(),
        }))
    }

    async fn list_shards(
        &self,
        request: Request<proto::ListShardsRequest>,
    ) -> Result<Response<proto::ListShardsResponse>, Status> {
        let services = self.admit(&Caller::of(&request), Operation::Cluster)?;
        let proto::ListShardsRequest { after, limit } = request.into_inner();
        let limit = match limit as usize {
            0 => PAGE_MAX,
            limit => limit.min(PAGE_MAX),
        };
        let mut page: Vec<Arc<Descriptor>> = services
            .router
            .map()
            .ids_after(ShardId(after))
            .take(limit + 1)
            .cloned()
            .collect();
        let more = page.len() > limit;
        page.truncate(limit);
        let infos = page.iter().map(|shard| services.shard_info(shard));
        Ok(Response::new(proto::ListShardsResponse {
            shards: join_all(infos).await,
            more,
        }))
    }

    async fn show_shard(
        &self,
        request: Request<proto::ShowShardRequest>,
    ) -> Result<Response<proto::ShowShardResponse>, Status> {
        use proto::show_shard_request::Which;
        let caller = Caller::of(&request);
        let services = self.admit(&caller, Operation::Greet)?;
        let found = match request.into_inner().which {
            Some(Which::ShardId(shard)) => services.descriptor(ShardId(shard)),
            Some(Which::Key(key)) => {
                let route = rules::route_key(&key, &services.router.as_ref());
                route
                    .map(|route| route.descriptor)
                    .map_err(|error| error::status(&error))
            }
            None => Err(Status::invalid_argument("neither key nor shard_id is set")),
        };
        let descriptor = services.admit_to_shard(&caller, found)?;
        Ok(Response::new(proto::ShowShardResponse {
            shard: Some(services.shard_info(&descriptor).await),
        }))
    }

    async fn transfer_leader(
        &self,
        request: Request<proto::TransferLeaderRequest>,
    ) -> Result<Response<proto::TransferLeaderResponse>, Status> {
        let caller = Caller::of(&request);
        let proto::TransferLeaderRequest { shard_id, node_id } = request.into_inner();
        let (shard, node) = (ShardId(shard_id), NodeId(node_id));
        let answer = self.hand_over(&caller, shard, node).await;
        let action = format_args!("transfer the lead of shard {shard} to node {node}");
        audit::note(self.0.services(), &caller, action, &answer);
        answer
    }

    async fn page(
        &self,
        request: Request<proto::PageRequest>,
    ) -> Result<Response<proto::PageResponse>, Status> {
        self.admit(&Caller::of(&request), Operation::Cluster)?;
        self.0.page(request.into_inner(), pages::OF_OPERATORS).await
    }

    async fn checksum(
        &self,
        request: Request<proto::ChecksumRequest>,
    ) -> Result<Response<proto::ChecksumResponse>, Status> {
        let caller = Caller::of(&request);
        let services = self.admit(&caller, Operation::Greet)?;
        let shard = ShardId(request.into_inner().shard_id);
        services.admit_to_shard(&caller, services.descriptor(shard))?;
        checksum(services, shard).await.map(Response::new)
    }

    async fn who_am_i(
        &self,
        request: Request<proto::WhoAmIRequest>,
    ) -> Result<Response<proto::WhoAmIResponse>, Status> {
        let caller = Caller::of(&request);
        let services = self.admit(&caller, Operation::Greet)?;
        Ok(Response::new(services.access.who(&caller)))
    }

    async fn show_access(
        &self,
        request: Request<proto::ShowAccessRequest>,
    ) -> Result<Response<proto::ShowAccessResponse>, Status> {
        let services = self.admit(&Caller::of(&request), Operation::Cluster)?;
        let shown = services.show_access().await;
        shown
            .map(Response::new)
            .map_err(|error| error::status(&error))
    }

    async fn change_access(
        &self,
        request: Request<proto::ChangeAccessRequest>,
    ) -> Result<Response<proto::ChangeAccessResponse>, Status> {
        let caller = Caller::of(&request);
        let change = request.into_inner();
        // Who it was is asked before: it may be the caller itself that goes.
        let (services, action) = (self.0.services(), audit::access(&change));
        let who = audit::who(services, &caller);
        let answer = self.change(&caller, change).await;
        audit::note_as(services, &who, &caller, action, &answer);
        answer
    }
}

/// Reads all of a shard, on a thread that may block.
pub(super) async fn checksum(
    services: &Arc<Services>,
    shard: ShardId,
) -> Result<proto::ChecksumResponse, Status> {
    services.descriptor(shard)?;
    let services = Arc::clone(services);
    let reading = tokio::task::spawn_blocking(move || read_all(&services, shard));
    let answer = reading
        .await
        .map_err(|error| Status::internal(format!("the read broke off: {error}")))?;
    answer.map_err(|error| error::status(&error))
}

/// Reads all of a shard at one moment.
fn read_all(services: &Services, shard: ShardId) -> Result<proto::ChecksumResponse, proto::Error> {
    let mut answer = Err(error::of(Code::Internal, "the state database gave no view"));
    services.state.with_view(&mut |view: &dyn StateView| {
        answer = rules::shard_state(view, shard).and_then(|state| {
            let sum =
                read::checksum(view, &state.descriptor).map_err(|error| rules::internal(&error))?;
            Ok(proto::ChecksumResponse {
                applied_index: state.applied_index.0,
                revision: state.revision,
                keys: sum.keys,
                checksum: sum.crc32,
            })
        });
    });
    answer
}
