//! Pages of a node's status port, for whoever reaches its other one: nodes, whose status ports may be open to their own machine
//! only, and `flotilla top`.

use flotilla_proto::v1 as proto;
use futures_util::future::BoxFuture;
use tonic::{Response, Status};

use super::Front;

/// What nodes may ask each other for: a node's own part, never what would make it ask again.
pub(super) const OF_NODES: &[&str] = &["/console/node/", "/events", "/slow"];
/// What operators may ask for.
pub(super) const OF_OPERATORS: &[&str] = &["/console/api/"];

/// Where pages come from.
pub trait Pages: Send + Sync + 'static {
    /// The answer to a GET of this path and query.
    fn page(&self, path: String) -> BoxFuture<'_, proto::PageResponse>;
}

impl Front {
    /// Answers a request for a page, if it is one of those that may be asked for.
    pub(super) async fn page(
        &self,
        request: proto::PageRequest,
        allowed: &[&str],
    ) -> Result<Response<proto::PageResponse>, Status> {
        let proto::PageRequest { path } = request;
        if !allowed.iter().any(|start| path.starts_with(start)) {
            return Err(Status::invalid_argument(format!(
                "no such page: only those below {} can be asked for",
                allowed.join(", ")
            )));
        }
        match self.pages() {
            Some(pages) => Ok(Response::new(pages.page(path).await)),
            None => Err(Status::unavailable("the node is starting")),
        }
    }
}
