//! Streams of other nodes on their way to the engine.

use std::{future::ready, pin::Pin, sync::Arc};

use flotilla_proto::v1 as proto;
use flotilla_shards::{ids::NodeId, lineage::Mark, wire};
use futures_util::{Stream, StreamExt as _, stream};
use prost::Message as _;
use tonic::Status;

use super::{
    Shared,
    handshake::{Admitted, HandshakeError},
};

/// The answer to an accepted stream: nothing, until it ends. Whoever polls it takes the frames in.
pub type Delivery = Pin<Box<dyn Stream<Item = Result<proto::DeliverResponse, Status>> + Send>>;

/// Waits for the handshake of a stream and checks it.
pub(super) async fn deliver(
    shared: Arc<Shared>,
    mut frames: tonic::Streaming<proto::Frame>,
    certified: Option<NodeId>,
) -> Result<Delivery, Status> {
    let patience = shared.options.handshake_timeout;
    let first = tokio::time::timeout(patience, frames.message())
        .await
        .map_err(|_| {
            let error = HandshakeError::Late(patience);
            shared.door.note(&error);
            Status::from(error)
        })?
        .map_err(|status| malformed(&shared, &status))?;
    let mut first = first.unwrap_or_default();
    let admitted = shared.admit(first.handshake.take(), certified)?;
    tracing::debug!(node = %admitted.peer.id, lane = ?admitted.lane, "stream of node accepted");
    admitted.peer.is_back();
    let end = async move { take(&shared, &admitted, first, frames).await };
    // Nothing but the end is ever said.
    Ok(Box::pin(
        stream::once(end).filter_map(|end| ready(end.err().map(Err))),
    ))
}

/// Takes frames until the other node ends the stream, or breaks a rule. A malformed frame ends its stream and nothing
/// else.
async fn take(
    shared: &Shared,
    Admitted {
        peer, lane, start, ..
    }: &Admitted,
    mut frame: proto::Frame,
    mut frames: tonic::Streaming<proto::Frame>,
) -> Result<(), Status> {
    let (start, marks) = (*start, &shared.door.local().marks);
    let mut stopped = std::pin::pin!(shared.stopped());
    loop {
        if frame.handshake.is_some() {
            shared.metrics.malformed_messages.inc();
            return Err(Status::invalid_argument(
                "only the first frame of a stream may hold a handshake",
            ));
        }
        peer.heard(*lane, frame.messages.len(), frame.encoded_len());
        if frame.written > 0 {
            let written = frame.written;
            marks.hear(peer.id, Mark { start, written });
        }
        if let Some(alive) = frame.alive {
            peer.heard_time(alive.wall_ms);
            shared.inbound.alive(peer.id, alive.incarnation);
        }
        let mut messages = Vec::with_capacity(frame.messages.len());
        for message in frame.messages {
            let shard = message.shard_id;
            match wire::decode_message(message) {
                Ok(decoded) => messages.push(decoded),
                Err(error) => {
                    shared.metrics.malformed_messages.inc();
                    tracing::warn!(node = %peer.id, shard, %error, "malformed message: the stream is ended");
                    return Err(Status::invalid_argument(format!(
                        "message of shard {shard}: {error}"
                    )));
                }
            }
        }
        if !messages.is_empty() {
            shared.inbound.deliver(peer.id, messages);
        }
        frame = tokio::select! {
            biased;
            next = frames.message() => match next {
                Ok(Some(frame)) => frame,
                Ok(None) => return Ok(()),
                Err(status) => return Err(malformed(shared, &status)),
            },
            () = &mut stopped => return Err(Status::unavailable("the node is shutting down")),
        };
    }
}

/// Counts a stream that ended in bytes which are no frame; a connection that broke is nothing to count.
fn malformed(shared: &Shared, status: &Status) -> Status {
    if matches!(
        status.code(),
        tonic::Code::Internal | tonic::Code::OutOfRange | tonic::Code::InvalidArgument
    ) {
        shared.metrics.malformed_messages.inc();
    }
    status.clone()
}
