//! Passing requests on to the node that leads.

use std::{sync::Arc, time::Duration};

use dashmap::DashMap;
use flotilla_proto::v1 as proto;
use flotilla_shards::ids::NodeId;

use crate::{
    client::{
        self,
        stream::{NodeStream, Side, StreamOptions},
    },
    tls::ClientTls,
};

/// Called once with the other node's answer; must be quick and must not block.
pub type Forwarded = Box<dyn FnOnce(client::Result<proto::Response>) + Send>;

/// How a request gets to another node.
pub trait Forward: Send + Sync + 'static {
    /// Sends a request; `done` hears the answer, or why there is none, at latest after `timeout`. Called within a tokio
    /// runtime.
    fn forward(
        &self,
        node: &proto::Node,
        request: proto::Request,
        timeout: Duration,
        done: Forwarded,
    );
}

/// One stream per node, kept open.
#[derive(Default)]
pub struct NodeStreams {
    streams: DashMap<NodeId, Arc<NodeStream>>,
    tls: Option<ClientTls>,
}

impl NodeStreams {
    /// With what is shown to the other nodes and demanded of them.
    #[must_use]
    pub fn new(tls: Option<ClientTls>) -> Self {
        Self {
            streams: DashMap::new(),
            tls,
        }
    }

    fn stream(&self, node: &proto::Node) -> client::Result<Arc<NodeStream>> {
        let id = NodeId(node.node_id);
        if let Some(stream) = self.streams.get(&id)
            && stream.address() == node.for_peers()
        {
            return Ok(Arc::clone(&stream));
        }
        let options = StreamOptions {
            side: Side::Node,
            tls: self.tls.as_ref().map(|tls| tls.expecting(id)),
            ..StreamOptions::default()
        };
        let stream = NodeStream::new(node.for_peers(), options)?;
        let stream = Arc::new(stream);
        // Of two that are made at the same moment the later one stays; the other ends with its last request.
        self.streams.insert(id, Arc::clone(&stream));
        Ok(stream)
    }
}

impl Forward for NodeStreams {
    fn forward(
        &self,
        node: &proto::Node,
        request: proto::Request,
        timeout: Duration,
        done: Forwarded,
    ) {
        match self.stream(node) {
            Ok(stream) => stream.submit(request, timeout, done),
            Err(error) => done(Err(error)),
        }
    }
}
