//! A node that does what a script says. Every request of the stream, in the order of arrival, is given to the script,
//! which answers it, leaves it unanswered or breaks the connection.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use flotilla_proto::v1::{
    self, Request, Response,
    kv_server::{Kv, KvServer},
    request, response,
};
use parking_lot::Mutex;
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};
use tokio_stream::{
    StreamExt as _,
    wrappers::{ReceiverStream, TcpListenerStream},
};
use tonic::{Status, Streaming, transport::Server};

/// What the script does with a request.
pub(crate) enum Act {
    Answer(response::Kind),
    After(Duration, response::Kind),
    Silence,
    /// Ends the stream with an error status; what was not answered is lost.
    Break,
    /// Ends the stream as a node does that goes down: it has taken in what came before this request.
    Farewell,
}

impl Act {
    pub(crate) fn error(code: v1::error::Code) -> Self {
        Self::Answer(response::Kind::Error(v1::Error {
            code: code.into(),
            message: format!("scripted {}", code.as_str_name()),
            ..v1::Error::default()
        }))
    }

    pub(crate) fn put(revision: u64) -> Self {
        Self::Answer(response::Kind::Put(v1::PutResponse { revision }))
    }
}

type Script = dyn FnMut(request::Kind) -> Act + Send;

struct Shared {
    script: Mutex<Box<Script>>,
    /// All requests that ever came.
    seen: Mutex<Vec<Request>>,
    /// Number of requests of each message.
    messages: Mutex<Vec<usize>>,
    routes: Mutex<v1::RoutesResponse>,
}

/// A running fake; stops when dropped.
pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Fake {
    pub(crate) async fn start(script: impl FnMut(request::Kind) -> Act + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        Self::start_on(listener, script)
    }

    pub(crate) fn start_on(
        listener: TcpListener,
        script: impl FnMut(request::Kind) -> Act + Send + 'static,
    ) -> Self {
        let address = listener.local_addr().expect("bound");
        let shared = Arc::new(Shared {
            script: Mutex::new(Box::new(script)),
            seen: Mutex::default(),
            messages: Mutex::default(),
            routes: Mutex::default(),
        });
        let service = KvServer::new(Service(Arc::clone(&shared)));
        let server = tokio::spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            let result = Server::builder()
                .add_service(service)
                .serve_with_incoming(incoming)
                .await;
            result.expect("the fake serves until it is dropped");
        });
        Self {
            address,
            shared,
            server,
        }
    }

    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn seen(&self) -> Vec<Request> {
        self.shared.seen.lock().clone()
    }

    pub(crate) fn messages(&self) -> Vec<usize> {
        self.shared.messages.lock().clone()
    }

    pub(crate) fn set_routes(&self, routes: v1::RoutesResponse) {
        *self.shared.routes.lock() = routes;
    }
}

struct Service(Arc<Shared>);

fn unused<T>() -> Result<tonic::Response<T>, Status> {
    Err(Status::unimplemented("the fake speaks Stream and Routes"))
}

#[tonic::async_trait]
impl Kv for Service {
    type StreamStream = ReceiverStream<Result<v1::StreamResponse, Status>>;

    async fn stream(
        &self,
        request: tonic::Request<Streaming<v1::StreamRequest>>,
    ) -> Result<tonic::Response<Self::StreamStream>, Status> {
        let (sender, receiver) = mpsc::channel(64);
        let shared = Arc::clone(&self.0);
        let mut incoming = request.into_inner();
        tokio::spawn(async move {
            let mut taken_in = 0;
            while let Some(Ok(message)) = incoming.next().await {
                shared.messages.lock().push(message.requests.len());
                let mut responses = Vec::new();
                for request in message.requests {
                    shared.seen.lock().push(request.clone());
                    let id = request.id;
                    let kind = request.kind.expect("our client sends no empty request");
                    let act = (shared.script.lock())(kind);
                    match act {
                        Act::Answer(kind) => responses.push(Response {
                            id,
                            kind: Some(kind),
                        }),
                        Act::After(pause, kind) => {
                            let sender = sender.clone();
                            tokio::spawn(async move {
                                tokio::time::sleep(pause).await;
                                let responses = vec![Response {
                                    id,
                                    kind: Some(kind),
                                }];
                                let late = Ok(v1::StreamResponse {
                                    responses,
                                    taken_in: None,
                                });
                                drop(sender.send(late).await);
                            });
                        }
                        Act::Silence => {}
                        Act::Farewell => {
                            let last = v1::StreamResponse {
                                responses,
                                taken_in: Some(taken_in),
                            };
                            let _gone = sender.send(Ok(last)).await;
                            return;
                        }
                        Act::Break => {
                            let _gone = sender.send(Err(Status::aborted("scripted break"))).await;
                            return;
                        }
                    }
                    taken_in += 1;
                }
                if !responses.is_empty() {
                    let _gone = sender
                        .send(Ok(v1::StreamResponse {
                            responses,
                            taken_in: None,
                        }))
                        .await;
                }
            }
        });
        Ok(tonic::Response::new(ReceiverStream::new(receiver)))
    }

    async fn routes(
        &self,
        request: tonic::Request<v1::RoutesRequest>,
    ) -> Result<tonic::Response<v1::RoutesResponse>, Status> {
        // The smallest pages that there can be.
        let after = request.get_ref().after_shard_id;
        let mut page = self.0.routes.lock().clone();
        let id = |route: &v1::Route| route.descriptor.as_ref().map_or(0, |shard| shard.shard_id);
        page.routes.retain(|route| id(route) > after);
        page.routes.sort_by_key(id);
        if page.routes.len() > 1 {
            page.routes.truncate(1);
            page.next_after_shard_id = page.routes.first().map_or(0, id);
        }
        Ok(tonic::Response::new(page))
    }

    async fn get(
        &self,
        _: tonic::Request<v1::GetRequest>,
    ) -> Result<tonic::Response<v1::GetResponse>, Status> {
        unused()
    }

    async fn batch_get(
        &self,
        _: tonic::Request<v1::BatchGetRequest>,
    ) -> Result<tonic::Response<v1::BatchGetResponse>, Status> {
        unused()
    }

    async fn put(
        &self,
        _: tonic::Request<v1::PutRequest>,
    ) -> Result<tonic::Response<v1::PutResponse>, Status> {
        unused()
    }

    async fn delete(
        &self,
        _: tonic::Request<v1::DeleteRequest>,
    ) -> Result<tonic::Response<v1::DeleteResponse>, Status> {
        unused()
    }

    async fn scan(
        &self,
        _: tonic::Request<v1::ScanRequest>,
    ) -> Result<tonic::Response<v1::ScanResponse>, Status> {
        unused()
    }

    async fn batch(
        &self,
        _: tonic::Request<v1::BatchRequest>,
    ) -> Result<tonic::Response<v1::BatchResponse>, Status> {
        unused()
    }

    async fn open_session(
        &self,
        _: tonic::Request<v1::OpenSessionRequest>,
    ) -> Result<tonic::Response<v1::OpenSessionResponse>, Status> {
        unused()
    }

    async fn close_session(
        &self,
        _: tonic::Request<v1::CloseSessionRequest>,
    ) -> Result<tonic::Response<v1::CloseSessionResponse>, Status> {
        unused()
    }
}
