//! The way of one request to one shard on the node that was asked: routing, forwarding, waiting for a leader, trying again.
//!
//! The decisions are those of the node's `server::call`, without its tasks: a call is started, events come in, and each
//! gives a [`Step`] for the surroundings to do. What a request becomes (`kv::request`) and how it reads (`kv::read`)
//! is the node's own code.
#![allow(
    clippy::result_large_err,
    reason = "the protocol's error, whole; once per request"
)]

use std::sync::Arc;

use bytes::Bytes;
use flotilla_proto::v1::{self as proto, command_answer, error::Code, refusal, request, response};
use flotilla_shards::descriptor::Descriptor;
use flotilla_shards::engine::Refused;
use flotilla_shards::ids::{NodeId, ShardId};
use flotilla_shards::keys;
use flotilla_shards::kv::request::{self as rules, Proposal, RouteError};
use flotilla_shards::kv::{ShardState, StateView, read};
use flotilla_shards::limits::Limits;

use super::router::{Route, Router};
use crate::queue::{MILLIS, Micros};
use crate::rpc::{self, Failure, Party, Reply, error};

const LOOK_AGAIN: Micros = 100 * MILLIS;
const QUICK_TRIES: u32 = 3;
const PAUSE_FIRST: Micros = 5 * MILLIS;
const PAUSE_LAST: Micros = 160 * MILLIS;

/// What the local engine said.
#[derive(Clone, Debug)]
pub(crate) enum Local {
    /// The state machine's answer to a write.
    Written(proto::CommandAnswer),
    /// The local state may be read.
    ReadReady,
    /// It refused.
    Refused(Refused),
}

/// What is to be done next.
#[derive(Debug)]
pub(crate) enum Step {
    /// Propose this to the local engine.
    Propose {
        shard: ShardId,
        command: proto::Command,
        bytes: usize,
    },
    /// Ask the local engine for a read.
    AskRead(ShardId),
    /// Ask another node.
    Forward(NodeId),
    /// Wait at least until `not_before`, then for a leader other than `denied`, or until `until`; then start again.
    Hold {
        denied: Option<NodeId>,
        not_before: Micros,
        until: Micros,
    },
    /// Read the local state now.
    Read(Arc<Descriptor>),
    /// Answered.
    Done(Reply),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Nobody,
    Here,
    Node(NodeId),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Call {
    /// Whom the answer goes to, and by which name.
    pub(crate) from: Party,
    pub(crate) id: u64,
    pub(crate) kind: request::Kind,
    pub(crate) deadline: Micros,
    forwarded: bool,
    tries: u32,
    asked: Asked,
    route: Option<Arc<Descriptor>>,
    maybe_written: bool,
    /// It waits to be started again.
    held: bool,
}

fn fail(error: proto::Error) -> Step {
    Step::Done(Err(Failure::Node(error)))
}

impl Call {
    pub(crate) fn new(request: rpc::Request, now: Micros) -> Self {
        Self {
            from: request.from,
            id: request.id,
            kind: request.kind,
            deadline: now + request.timeout,
            forwarded: request.forwarded,
            tries: 0,
            asked: Asked::Nobody,
            route: None,
            maybe_written: false,
            held: false,
        }
    }

    /// Whether it waits to be started again.
    pub(crate) fn is_held(&self) -> bool {
        self.held
    }

    /// The shard that the request was last routed to.
    pub(crate) fn shard(&self) -> ShardId {
        self.route.as_ref().map_or(ShardId(0), |route| route.shard)
    }

    /// Sends the request off.
    pub(crate) fn start(&mut self, router: &Router, limits: &Limits, now: Micros) -> Step {
        if now >= self.deadline {
            return fail(self.expired());
        }
        self.tries += 1;
        self.asked = Asked::Nobody;
        self.held = false;
        let started = if rpc::is_write(&self.kind) {
            self.start_write(router, limits, now)
        } else {
            self.start_read(router, limits, now)
        };
        started.unwrap_or_else(fail)
    }

    fn start_write(
        &mut self,
        router: &Router,
        limits: &Limits,
        now: Micros,
    ) -> Result<Step, proto::Error> {
        let proposal = proposal(&self.kind, limits)?;
        let route = match proposal.route(router.map()) {
            Ok(descriptor) => router.with_leader(Arc::clone(descriptor)),
            Err(unknown @ RouteError::Unknown { .. }) => {
                return Err(error(Code::Unavailable, &unknown.to_string()));
            }
            Err(cross @ RouteError::CrossShard { .. }) => {
                return Err(error(Code::CrossShard, &cross.to_string()));
            }
        };
        let descriptor = self.route.insert(route.descriptor);
        let (shard, epoch) = (descriptor.shard, descriptor.epoch.range);
        Ok(match route.leader {
            Some(leader) if leader == router.local() => {
                let command = proposal.into_command(epoch);
                let bytes = prost::Message::encoded_len(&command);
                self.asked = Asked::Here;
                Step::Propose {
                    shard,
                    command,
                    bytes,
                }
            }
            leader if self.forwarded => fail(not_leader(leader)),
            Some(leader) => self.forward(leader),
            None if route.local => self.hold(None, now),
            None => self.forward_somewhere(now),
        })
    }

    fn start_read(
        &mut self,
        router: &Router,
        limits: &Limits,
        now: Micros,
    ) -> Result<Step, proto::Error> {
        let route = route_read(&self.kind, router, limits)?;
        let descriptor = self.route.insert(route.descriptor);
        let shard = descriptor.shard;
        Ok(match route.leader {
            _ if route.local && rpc::is_serializable(&self.kind) => {
                Step::Read(Arc::clone(descriptor))
            }
            _ if route.local => {
                self.asked = Asked::Here;
                Step::AskRead(shard)
            }
            leader if self.forwarded => fail(not_leader(leader)),
            Some(leader) => self.forward(leader),
            None => self.forward_somewhere(now),
        })
    }

    fn forward(&mut self, leader: NodeId) -> Step {
        self.asked = Asked::Node(leader);
        Step::Forward(leader)
    }

    fn forward_somewhere(&mut self, now: Micros) -> Step {
        let replicas = self.route.as_ref().map_or(&[][..], |route| &route.replicas);
        let mut turn = replicas.iter().cycle().skip(self.tries as usize);
        match turn.next().map(|replica| replica.node) {
            Some(node) => self.forward(node),
            None => self.hold(None, now),
        }
    }

    /// What follows from the local engine's word.
    pub(crate) fn local(&mut self, word: Local, router: &mut Router, now: Micros) -> Step {
        self.asked = Asked::Nobody;
        match word {
            Local::ReadReady => match &self.route {
                Some(route) => Step::Read(Arc::clone(route)),
                None => unreachable!("a read was asked without a route"),
            },
            Local::Written(answer) => self.written(router, answer, now),
            Local::Refused(refused) => self.refused(router, refused, now),
        }
    }

    fn written(&mut self, router: &Router, answer: proto::CommandAnswer, now: Micros) -> Step {
        match finish_write(&self.kind, self.shard(), answer) {
            Err(error) if error.code() == Code::EpochMismatch && self.may_retry(now) => {
                let used = self.route.as_ref().map(|route| route.epoch.range);
                let newest = router.map().by_id(self.shard());
                match newest {
                    Some(newest) if Some(newest.epoch.range) != used => self.hold(None, now),
                    _ => fail(error),
                }
            }
            result => Step::Done(result.map_err(Failure::Node)),
        }
    }

    fn refused(&mut self, router: &mut Router, refused: Refused, now: Micros) -> Step {
        let shard = self.shard();
        let here = router.local();
        match refused {
            Refused::NotLeader { leader } => {
                if let Some(leader) = leader {
                    router.note_leader(shard, leader);
                }
                self.try_elsewhere(here, Refused::NotLeader { leader }, now)
            }
            Refused::NoReplica { .. } | Refused::Superseded => {
                self.try_elsewhere(here, refused, now)
            }
            Refused::Unconfirmed if self.may_retry(now) => {
                self.tries = self.tries.max(QUICK_TRIES);
                self.hold(None, now)
            }
            Refused::OutcomeUnknown if rpc::is_repeatable(&self.kind) && self.may_retry(now) => {
                self.maybe_written = true;
                self.hold(None, now)
            }
            Refused::Unconfirmed | Refused::OutcomeUnknown | Refused::Busy | Refused::State(_) => {
                fail(self.final_error(refusal_error(refused)))
            }
        }
    }

    fn try_elsewhere(&mut self, here: NodeId, refused: Refused, now: Micros) -> Step {
        if self.may_retry(now) {
            self.hold(Some(here), now)
        } else {
            fail(self.final_error(refusal_error(refused)))
        }
    }

    /// What follows from another node's answer.
    pub(crate) fn remote(&mut self, reply: Reply, router: &mut Router, now: Micros) -> Step {
        let asked = std::mem::replace(&mut self.asked, Asked::Nobody);
        let failure = match reply {
            Ok(kind) => return Step::Done(Ok(kind)),
            Err(failure) => failure,
        };
        let Asked::Node(node) = asked else {
            unreachable!("an answer of another node came to a call that asked {asked:?}");
        };
        let write = rpc::is_write(&self.kind);
        let shard = self.shard();
        let elsewhere = match &failure {
            Failure::Node(error) => match error.code() {
                Code::NotLeader => {
                    router.note_not_leader(shard, node);
                    router.note_leader(shard, NodeId(error.leader));
                    true
                }
                Code::EpochMismatch => {
                    if let Some(Ok(descriptor)) = error.descriptor.clone().map(Descriptor::try_from)
                    {
                        router.update(descriptor);
                    }
                    true
                }
                Code::NotInitialized | Code::ShuttingDown | Code::OutcomeUnknown => true,
                _ => false,
            },
            Failure::Unreachable => {
                router.note_not_leader(shard, node);
                true
            }
            Failure::ConnectionLost => true,
            Failure::Late => false,
        };
        let harmless = !write || failure.nothing_written() || rpc::is_repeatable(&self.kind);
        if !(harmless && elsewhere && self.may_retry(now)) {
            let error = failure.into_proto(write);
            return fail(self.final_error(error));
        }
        if write && !failure.nothing_written() {
            self.maybe_written = true;
        }
        self.hold(Some(node), now)
    }

    fn may_retry(&self, now: Micros) -> bool {
        !self.forwarded && now < self.deadline
    }

    fn hold(&mut self, denied: Option<NodeId>, now: Micros) -> Step {
        self.held = true;
        let not_before = self.tries.checked_sub(QUICK_TRIES).map_or(now, |late| {
            let pause = PAUSE_FIRST.saturating_mul(2_u64.saturating_pow(late.min(8)));
            (now + pause.min(PAUSE_LAST)).min(self.deadline)
        });
        Step::Hold {
            denied,
            not_before,
            until: (now + LOOK_AGAIN).min(self.deadline),
        }
    }

    fn final_error(&self, last: proto::Error) -> proto::Error {
        if self.maybe_written {
            error(Code::OutcomeUnknown, "an earlier try may have been applied")
        } else {
            last
        }
    }

    /// The error of a call whose time is over.
    pub(crate) fn expired(&self) -> proto::Error {
        let write = rpc::is_write(&self.kind);
        if write && (self.asked != Asked::Nobody || self.maybe_written) {
            error(
                Code::OutcomeUnknown,
                "no quorum confirmed the write in time",
            )
        } else {
            error(Code::Unavailable, "no leader or no quorum in time")
        }
    }
}

fn not_leader(leader: Option<NodeId>) -> proto::Error {
    proto::Error {
        leader: leader.unwrap_or_default().0,
        ..error(Code::NotLeader, "this node does not lead the shard")
    }
}

fn refusal_error(refused: Refused) -> proto::Error {
    let text = refused.to_string();
    match refused {
        Refused::NotLeader { leader } => not_leader(leader),
        Refused::NoReplica { .. } => not_leader(None),
        Refused::Busy => busy(&text),
        Refused::OutcomeUnknown => error(Code::OutcomeUnknown, &text),
        Refused::Superseded | Refused::Unconfirmed => error(Code::Unavailable, &text),
        Refused::State(refusal) => state_refusal(refusal),
    }
}

/// The node is busy.
pub(crate) fn busy(text: &str) -> proto::Error {
    proto::Error {
        retry_after_ms: 50,
        ..error(Code::Busy, text)
    }
}

fn state_refusal(refusal: proto::Refusal) -> proto::Error {
    use refusal::Reason;
    match refusal.reason() {
        Reason::EpochMismatch | Reason::OutOfRange => error(Code::EpochMismatch, &refusal.detail),
        Reason::SessionUnknown => error(Code::SessionUnknown, &refusal.detail),
        Reason::TooManySessions => busy(&refusal.detail),
        Reason::SequenceOutOfWindow | Reason::TooManyKeys | Reason::Malformed => {
            error(Code::InvalidArgument, &refusal.detail)
        }
        Reason::Unspecified => error(Code::Internal, &refusal.detail),
    }
}

fn invalid(reason: &rules::RequestError) -> proto::Error {
    error(Code::InvalidArgument, &reason.to_string())
}

fn proposal(kind: &request::Kind, limits: &Limits) -> Result<Proposal, proto::Error> {
    match kind.clone() {
        request::Kind::Put(put) => Proposal::put(put, limits),
        request::Kind::Delete(delete) => Proposal::delete(delete, limits),
        request::Kind::Batch(batch) => Proposal::batch(batch, limits),
        request::Kind::OpenSession(open) => Proposal::open_session(open, limits),
        request::Kind::CloseSession(close) => Proposal::close_session(close, limits),
        request::Kind::Get(_) | request::Kind::BatchGet(_) | request::Kind::Scan(_) => {
            unreachable!("a read has no command")
        }
    }
    .map_err(|reason| invalid(&reason))
}

fn route_read(
    kind: &request::Kind,
    router: &Router,
    limits: &Limits,
) -> Result<Route, proto::Error> {
    let map = router.map();
    let found = match kind {
        request::Kind::Get(get) => {
            rules::get(get, limits).map_err(|reason| invalid(&reason))?;
            map.lookup(&get.key)
        }
        request::Kind::BatchGet(get) => {
            rules::batch_get(get, limits).map_err(|reason| invalid(&reason))?;
            map.lookup(get.keys.first().unwrap_or(&Bytes::new()))
        }
        request::Kind::Scan(scan) => {
            rules::scan(scan, limits).map_err(|reason| invalid(&reason))?;
            if scan.reverse {
                map.lookup_before(&scan.end)
            } else {
                map.lookup(&scan.start)
            }
        }
        _ => unreachable!("a write has no read"),
    };
    let descriptor = found.ok_or_else(|| error(Code::Unavailable, "no shard is known"))?;
    Ok(router.with_leader(Arc::clone(descriptor)))
}

/// Makes a client's answer of the state machine's.
fn finish_write(
    kind: &request::Kind,
    shard: ShardId,
    answer: proto::CommandAnswer,
) -> Result<response::Kind, proto::Error> {
    use command_answer::Kind as Answer;
    match (kind, answer.kind) {
        (_, Some(Answer::Refused(refusal))) => Err(state_refusal(refusal)),
        (request::Kind::Put(_), Some(Answer::Write(write))) => {
            Ok(response::Kind::Put(proto::PutResponse {
                revision: write.revision,
            }))
        }
        (request::Kind::Delete(_), Some(Answer::Write(write))) => {
            Ok(response::Kind::Delete(proto::DeleteResponse {
                revision: write.revision,
                deleted: write.deleted > 0,
            }))
        }
        (request::Kind::Batch(_), Some(Answer::Write(write))) => {
            Ok(response::Kind::Batch(proto::BatchResponse {
                succeeded: write.succeeded,
                revision: write.revision,
                deleted: write.deleted,
                failed_condition: write.failed_condition,
            }))
        }
        (request::Kind::OpenSession(_), Some(Answer::SessionOpened(number))) => {
            Ok(response::Kind::OpenSession(proto::OpenSessionResponse {
                shard_id: shard.0,
                number,
            }))
        }
        (request::Kind::CloseSession(_), Some(Answer::SessionClosed(_))) => {
            Ok(response::Kind::CloseSession(proto::CloseSessionResponse {}))
        }
        (_, Some(_)) => Err(error(
            Code::InvalidArgument,
            "the session's sequence was used for another kind of request",
        )),
        (_, None) => Err(error(Code::Internal, "the state machine's answer is empty")),
    }
}

/// Reads a node's state for a request that was routed to `shard`.
pub(crate) fn read_state(
    kind: &request::Kind,
    shard: ShardId,
    view: &impl StateView,
    limits: &Limits,
) -> Result<response::Kind, proto::Error> {
    let internal = |text: String| error(Code::Internal, &text);
    let row = view
        .get(&keys::state(shard))
        .map_err(|failure| internal(failure.to_string()))?;
    let row = row.ok_or_else(|| not_leader(None))?;
    let state = ShardState::decode(row).map_err(|failure| internal(failure.to_string()))?;
    let descriptor = state.descriptor;
    let answer = match kind {
        request::Kind::Get(get) => read::get(view, &descriptor, &get.key).map(response::Kind::Get),
        request::Kind::BatchGet(get) => read::batch_get(view, &descriptor, &get.keys, limits)
            .map(|results| response::Kind::BatchGet(proto::BatchGetResponse { results })),
        request::Kind::Scan(scan) => {
            let page = rules::scan(scan, limits).map_err(|reason| invalid(&reason))?;
            read::scan(view, &descriptor, &page, limits).map(response::Kind::Scan)
        }
        _ => unreachable!("a write has no read"),
    };
    answer.map_err(|failure| match failure {
        read::ReadError::View(_) | read::ReadError::Value(_) => internal(failure.to_string()),
        read::ReadError::OutOfRange { .. } => proto::Error {
            descriptor: Some((&descriptor).into()),
            ..error(Code::EpochMismatch, &failure.to_string())
        },
        read::ReadError::TooLarge { .. } => error(Code::InvalidArgument, &failure.to_string()),
    })
}
