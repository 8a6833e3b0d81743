//! Streams of other nodes on their way to the engine.

use flotilla_proto::v1 as proto;
use flotilla_shards::wire;
use prost::Message as _;
use tonic::Status;

use super::{Shared, handshake::HandshakeError};

/// Takes frames until the other node ends the stream, or breaks a rule. A malformed frame ends its stream and nothing
/// else.
pub(super) async fn deliver(
    shared: &Shared,
    mut frames: tonic::Streaming<proto::Frame>,
) -> Result<proto::DeliverResponse, Status> {
    let patience = shared.options.handshake_timeout;
    let first = tokio::time::timeout(patience, frames.message())
        .await
        .map_err(|_| {
            let error = HandshakeError::Late(patience);
            shared.door.note(&error);
            Status::failed_precondition(error.to_string())
        })?
        .map_err(|status| malformed(shared, &status))?;
    let mut frame = first.unwrap_or_default();
    let (peer, lane) = shared.admit(frame.handshake.take())?;
    tracing::debug!(node = %peer.id, ?lane, "stream of node accepted");
    let mut stopped = std::pin::pin!(shared.stopped());
    loop {
        if frame.handshake.is_some() {
            shared.metrics.malformed_messages.inc();
            return Err(Status::invalid_argument(
                "only the first frame of a stream may hold a handshake",
            ));
        }
        peer.heard(lane, frame.messages.len(), frame.encoded_len());
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
                Ok(None) => return Ok(proto::DeliverResponse {}),
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
