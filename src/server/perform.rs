//! Requests from their beginning to their end: those of one shard by a [`Call`], those of several as calls to each.

use std::sync::Arc;

use flotilla_proto::v1::{self as proto, error::Code, request, response};
use flotilla_shards::{
    descriptor::{Descriptor, KeyRange},
    ids::ShardId,
    kv::StateView,
    limits::Limits,
    service::request as rules,
};
use futures_util::future::{BoxFuture, FutureExt as _, join_all};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};

use super::{
    call::{Call, Completion, Event, Step, hold},
    error, request as requests,
    services::Services,
    trace::Trace,
};
use crate::runtime::StageTimes;

/// Completes a call that has a task of its own.
pub(super) struct Channel(oneshot::Sender<(Event, Option<StageTimes>)>);

impl Completion for Channel {
    fn complete(self, event: Event, times: Option<StageTimes>) {
        // Nobody listens any more once the deadline has passed.
        let _ = self.0.send((event, times));
    }
}

impl Services {
    /// Answers one request, and notes in its trace where its time went. Whether its caller may ask was decided before.
    pub(super) async fn perform(
        self: &Arc<Self>,
        kind: request::Kind,
        deadline: Instant,
        trace: &mut Trace,
    ) -> Result<response::Kind, proto::Error> {
        match kind {
            // The meta shard is one, and not cut.
            kind if trace.meta => self.call(kind, deadline, trace).await,
            request::Kind::Scan(scan) => self.scan(scan, deadline, trace).await,
            request::Kind::BatchGet(get) => self.batch_get(get, deadline, trace).await,
            kind => self.call(kind, deadline, trace).await,
        }
    }

    /// Drives a call to one shard.
    async fn call(
        self: &Arc<Self>,
        kind: request::Kind,
        deadline: Instant,
        trace: &mut Trace,
    ) -> Result<response::Kind, proto::Error> {
        let mut call = Call::new(kind, Instant::now(), deadline, trace);
        let (mut event, mut times) = (Event::Retry, None);
        loop {
            let mut receiver = None;
            let step = call.resume(self, trace, event, times, || {
                let (sender, waiting) = oneshot::channel();
                receiver = Some(waiting);
                Channel(sender)
            });
            (event, times) = match step {
                Step::Done(result) => return result,
                Step::Read(descriptor) => {
                    // Held until this task goes on, which has the answer counted: what was read and waits for that has a
                    // bound.
                    let _turn = match call.kind() {
                        request::Kind::Get(_) => None,
                        _ => match timeout_at(deadline, self.long_reads.acquire()).await {
                            Ok(turn) => turn.ok(),
                            Err(_) => return Err(call.expired()),
                        },
                    };
                    let result = self.read(call.into_kind(), descriptor).await;
                    trace.settle(None, Instant::now());
                    return result;
                }
                Step::Hold(wait) => (hold(wait, &self.router).await, None),
                Step::Pending => {
                    let waiting = receiver.expect("a call that is pending has made its completion");
                    match timeout_at(call.deadline(), waiting).await {
                        Ok(Ok(came)) => came,
                        Ok(Err(_)) => (Event::Dropped, None),
                        Err(_) => return Err(call.expired()),
                    }
                }
            };
        }
    }

    /// Reads the local state. Point reads happen on the spot, longer ones on a thread that may block.
    async fn read(
        self: &Arc<Self>,
        kind: request::Kind,
        descriptor: Arc<Descriptor>,
    ) -> Result<response::Kind, proto::Error> {
        if let request::Kind::Get(_) = kind {
            return self.read_now(&kind, &descriptor);
        }
        let this = Arc::clone(self);
        tokio::task::spawn_blocking(move || this.read_now(&kind, &descriptor))
            .await
            .unwrap_or_else(|error| {
                Err(error::of(
                    Code::Internal,
                    format!("the read broke off: {error}"),
                ))
            })
    }

    /// Reads the local state on this thread.
    pub(super) fn read_now(
        &self,
        kind: &request::Kind,
        descriptor: &Descriptor,
    ) -> Result<response::Kind, proto::Error> {
        let mut result = None;
        let limits = match descriptor.shard.is_meta() {
            // Its rows are the cluster's own, and not held against what was configured for clients.
            true => &Limits::default(),
            false => &self.limits,
        };
        self.state.with_view(&mut |view: &dyn StateView| {
            result = Some(rules::read(kind, descriptor, view, limits));
        });
        let result = result
            .unwrap_or_else(|| Err(error::of(Code::Internal, "the state database gave no view")));
        match &result {
            Ok(answer) => self.metrics.read_bytes.inc_by(requests::read_bytes(answer)),
            Err(error) => {
                if error.code() == Code::Internal {
                    let text = &error.message;
                    tracing::error!(error = text, "a request met an error of this node");
                }
                self.mend_route(error);
            }
        }
        result
    }

    /// An old route is mended by the error that it led to.
    pub(super) fn mend_route(&self, error: &proto::Error) {
        if let Some(descriptor) = error.descriptor.clone()
            && let Ok(descriptor) = Descriptor::try_from(descriptor)
        {
            self.router.update(Arc::new(descriptor));
        }
    }

    /// Gets many keys: one call per shard, all at the same time.
    async fn batch_get(
        self: &Arc<Self>,
        get: proto::BatchGetRequest,
        deadline: Instant,
        trace: &mut Trace,
    ) -> Result<response::Kind, proto::Error> {
        rules::check_batch_get(&get, &self.limits)?;
        let consistency = get.consistency;
        let mut parts: Vec<(ShardId, Vec<usize>, proto::BatchGetRequest)> = Vec::new();
        for (position, key) in get.keys.iter().enumerate() {
            let shard = rules::route_key(key, &self.router.as_ref())?
                .descriptor
                .shard;
            match parts.iter_mut().find(|(known, ..)| *known == shard) {
                Some((_, positions, part)) => {
                    positions.push(position);
                    part.keys.push(key.clone());
                }
                None => {
                    let part = proto::BatchGetRequest {
                        keys: vec![key.clone()],
                        consistency,
                    };
                    parts.push((shard, vec![position], part));
                }
            }
        }
        let mut results = vec![proto::GetResponse::default(); get.keys.len()];
        let mut bytes = 0;
        let calls = parts.into_iter().map(|(_, positions, part)| {
            let mut trace = trace.part(&self.request_ids, Instant::now());
            async move {
                let keys = part.keys.len();
                let kind = request::Kind::BatchGet(part);
                let got = match self.call(kind, deadline, &mut trace).await {
                    Ok(response::Kind::BatchGet(got)) if got.results.len() == keys => {
                        Ok((positions, got.results))
                    }
                    Ok(_) => Err(error::of(
                        Code::Internal,
                        "the answer does not fit the batched get",
                    )),
                    Err(error) => Err(error),
                };
                (trace, got)
            }
        });
        let calls: Vec<_> = calls.collect();
        let several = calls.len() > 1;
        let (traces, got): (Vec<_>, Vec<_>) = join_all(calls).await.into_iter().unzip();
        for part in &traces {
            trace.join(part);
        }
        if several {
            trace.shard = ShardId(0);
        }
        for part in got {
            let (positions, got) = part?;
            for (position, result) in positions.into_iter().zip(got) {
                bytes += result.value.as_ref().map_or(0, bytes::Bytes::len);
                results[position] = result;
            }
        }
        if bytes > self.limits.batch_get_bytes {
            return Err(rules::batch_get_too_large(bytes, &self.limits));
        }
        Ok(response::Kind::BatchGet(proto::BatchGetResponse {
            results,
        }))
    }

    /// Scans: shard by shard until the page is full. Each shard's part is read at one moment; the page as a whole is
    /// not.
    fn scan<'a>(
        self: &'a Arc<Self>,
        mut scan: proto::ScanRequest,
        deadline: Instant,
        trace: &'a mut Trace,
    ) -> BoxFuture<'a, Result<response::Kind, proto::Error>> {
        async move {
            rules::check_scan(&mut scan, &self.limits)?;
            let mut page = proto::ScanResponse::default();
            let mut bytes = 0;
            loop {
                let shard = rules::route_scan(&scan, &self.router.as_ref())?.descriptor;
                let Some(part) = rules::clip(&scan, &shard.range) else {
                    return Ok(response::Kind::Scan(page));
                };
                let kind = request::Kind::Scan(part);
                let response::Kind::Scan(part) = self.call(kind, deadline, trace).await? else {
                    return Err(error::of(
                        Code::Internal,
                        "the answer does not fit the scan",
                    ));
                };
                let rows = u32::try_from(part.rows.len()).unwrap_or(u32::MAX);
                bytes += requests::rows_bytes(&part.rows);
                page.rows.extend(part.rows);
                scan.limit = scan.limit.saturating_sub(rows);
                page.next = part.next.or_else(|| continuation(&scan, &shard.range));
                let Some(next) = page.next.clone() else {
                    return Ok(response::Kind::Scan(page));
                };
                // A page may end early at a shard's border: so that it can't grow to twice its size with the next one.
                if scan.limit == 0 || bytes >= self.limits.scan_bytes / 2 {
                    return Ok(response::Kind::Scan(page));
                }
                if scan.reverse {
                    scan.end = next;
                } else {
                    scan.start = next;
                }
            }
        }
        .boxed()
    }
}

/// Where a scan goes on behind a shard that it has read to its end; none if there is nothing more to read.
fn continuation(scan: &proto::ScanRequest, shard: &KeyRange) -> Option<bytes::Bytes> {
    if scan.reverse {
        (shard.start() > &scan.start).then(|| shard.start().clone())
    } else {
        let more = !shard.is_open() && (scan.end.is_empty() || shard.end() < &scan.end);
        more.then(|| shard.end().clone())
    }
}
