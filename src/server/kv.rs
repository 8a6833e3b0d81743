//! The client API `flotilla.v1.Kv` over gRPC.

use std::{sync::Arc, time::Duration};

use flotilla_metrics::Operation;
use flotilla_proto::v1::{self as proto, kv_server, request, response};
use flotilla_shards::{access::rights, ids::ShardId};
use prost::Message as _;
use tonic::{Request, Response, Status, Streaming, metadata::MetadataMap};

use super::{
    Front,
    access::Caller,
    error,
    services::Services,
    stream::Answers,
    trace::{REQUEST_ID, RequestId},
};

/// Bytes of routes after which a page of them ends.
const ROUTES_BYTES: usize = 4 << 20;

/// The service; answers "not initialized" until the node is part of a cluster.
pub(super) struct KvService(pub(super) Arc<Front>);

impl KvService {
    fn services(&self) -> Result<&Arc<Services>, Status> {
        self.0
            .services()
            .ok_or_else(|| error::status(&error::not_initialized()))
    }

    async fn answer<T>(
        &self,
        request: Request<T>,
        wrap: impl FnOnce(T) -> request::Kind,
    ) -> Result<response::Kind, Status> {
        let services = self.services()?;
        let wish = wished_timeout(request.metadata());
        let id = request_id(request.metadata());
        let caller = Caller::of(&request);
        services
            .answer(&caller, wrap(request.into_inner()), wish, id)
            .await
            .map_err(|error| error::status(&error))
    }
}

/// The unary methods: each wraps its request, and unwraps the answer of the same kind.
macro_rules! unary {
    ($($method:ident: $request:ident => $response:ident as $kind:ident;)+) => {
        #[tonic::async_trait]
        impl kv_server::Kv for KvService {
            type StreamStream = Answers;

            $(
                async fn $method(
                    &self,
                    request: Request<proto::$request>,
                ) -> Result<Response<proto::$response>, Status> {
                    match self.answer(request, request::Kind::$kind).await? {
                        response::Kind::$kind(answer) => Ok(Response::new(answer)),
                        _ => Err(Status::internal("the answer is of another kind than the request")),
                    }
                }
            )+

            async fn stream(
                &self,
                request: Request<Streaming<proto::StreamRequest>>,
            ) -> Result<Response<Answers>, Status> {
                // Who opens a stream is let in; each of its requests is asked about.
                let caller = Caller::of(&request);
                answers(&self.0, caller, request.into_inner()).map(Response::new)
            }

            async fn routes(
                &self,
                request: Request<proto::RoutesRequest>,
            ) -> Result<Response<proto::RoutesResponse>, Status> {
                let services = self.services()?;
                let allowed = services.access.check(&Caller::of(&request), rights::Operation::Greet);
                let outcome = error::outcome(&allowed);
                services.metrics.requests.of(Operation::Routes, outcome).inc();
                allowed.map_err(|error| error::status(&error))?;
                let after = ShardId(request.get_ref().after_shard_id);
                Ok(Response::new(routes(services, after, ROUTES_BYTES)))
            }
        }
    };
}

unary! {
    get: GetRequest => GetResponse as Get;
    batch_get: BatchGetRequest => BatchGetResponse as BatchGet;
    put: PutRequest => PutResponse as Put;
    delete: DeleteRequest => DeleteResponse as Delete;
    scan: ScanRequest => ScanResponse as Scan;
    batch: BatchRequest => BatchResponse as Batch;
    open_session: OpenSessionRequest => OpenSessionResponse as OpenSession;
    close_session: CloseSessionRequest => CloseSessionResponse as CloseSession;
}

/// The answers to a stream of requests.
pub(super) fn answers(
    front: &Front,
    caller: Caller,
    requests: Streaming<proto::StreamRequest>,
) -> Result<Answers, Status> {
    let services = front.services();
    let services = services.ok_or_else(|| error::status(&error::not_initialized()))?;
    if services.gate.is_closed() {
        return Err(error::status(&error::shutting_down()));
    }
    let services = Arc::clone(services);
    Ok(Answers::new(services, caller, requests, front.stopping()))
}

/// The routes of users' shards behind a shard, until they have so many bytes; at least one, if there are any.
pub(super) fn routes(
    services: &Services,
    after: ShardId,
    bytes_max: usize,
) -> proto::RoutesResponse {
    let (router, map) = (&services.router, services.router.map());
    let mut page = proto::RoutesResponse {
        nodes: router
            .nodes()
            .values()
            .map(|node| (**node).clone())
            .collect(),
        ..proto::RoutesResponse::default()
    };
    let mut bytes = 0;
    for descriptor in map.ids_after(after.max(ShardId::META)) {
        if bytes >= bytes_max {
            let last = page
                .routes
                .last()
                .and_then(|route| route.descriptor.as_ref());
            page.next_after_shard_id = last.map_or(0, |descriptor| descriptor.shard_id);
            break;
        }
        let route = proto::Route {
            descriptor: Some((&**descriptor).into()),
            leader: router.leader(descriptor.shard).unwrap_or_default().0,
        };
        bytes += route.encoded_len();
        page.routes.push(route);
    }
    page
}

/// The id that a client gives its call, if it does.
fn request_id(metadata: &MetadataMap) -> RequestId {
    let text = metadata.get(REQUEST_ID).and_then(|id| id.to_str().ok());
    text.map_or_else(RequestId::default, RequestId::given)
}

/// The time that a client gives its call: gRPC's `grpc-timeout` header, up to eight digits and a unit.
pub(super) fn wished_timeout(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let count: u32 = digits.parse().ok()?;
    let unit = match unit {
        "H" => Duration::from_secs(3600),
        "M" => Duration::from_secs(60),
        "S" => Duration::from_secs(1),
        "m" => Duration::from_millis(1),
        "u" => Duration::from_micros(1),
        "n" => Duration::from_nanos(1),
        _ => return None,
    };
    unit.checked_mul(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_of_grpc_are_understood_and_others_ignored() {
        let wished = |text: &str| {
            let mut metadata = MetadataMap::new();
            metadata.insert("grpc-timeout", text.parse().expect("ascii"));
            wished_timeout(&metadata)
        };
        assert_eq!(wished("250m"), Some(Duration::from_millis(250)));
        assert_eq!(wished("2S"), Some(Duration::from_secs(2)));
        assert_eq!(
            wished("99999999H"),
            Some(Duration::from_secs(359_999_996_400))
        );
        for nonsense in ["", "m", "12", "1x", "123456789m", "-1S", "+1S"] {
            assert_eq!(wished(nonsense), None, "{nonsense:?}");
        }
    }
}
