//! The way of a call, event by event.

use super::call::{Call, Event, Failure, Step};
use super::leaders::LeaderView;
use super::*;
use crate::descriptor::{Epoch, KeyRange, Replica};
use crate::engine::Refused;
use crate::limits::Limits;
use crate::raft::ReplicaId;
use bytes::Bytes;
use flotilla_proto::v1::{self as proto, command_answer, error::Code, request, response};
use std::time::Duration;

const HERE: NodeId = NodeId(1);
const SHARD: ShardId = ShardId(7);

/// One shard with a replica on nodes 1 to 3, seen from node `local`.
struct Map {
    local: NodeId,
    map: RangeMap,
    view: LeaderView,
}

impl Map {
    fn seen_from(local: NodeId) -> Self {
        let replicas = (1..=3).map(|node| Replica {
            node: NodeId(node),
            id: ReplicaId(node),
            learner: false,
        });
        let descriptor = Descriptor {
            shard: SHARD,
            range: KeyRange::new(Bytes::new(), Bytes::new()).expect("all keys"),
            epoch: Epoch {
                membership: 1,
                range: 1,
            },
            replicas: replicas.collect(),
        };
        Self {
            local,
            map: RangeMap::new([Arc::new(descriptor)]),
            view: LeaderView::default(),
        }
    }

    fn led_by(leader: u64) -> Self {
        let mut map = Self::seen_from(HERE);
        map.view.note_leader(NodeId(leader));
        map
    }
}

impl Routes for Map {
    fn local(&self) -> NodeId {
        self.local
    }

    fn with_map<R>(&self, look: impl FnOnce(&RangeMap) -> R) -> R {
        look(&self.map)
    }

    fn leader(&self, _: ShardId) -> Option<NodeId> {
        self.view.leader()
    }

    fn note_leader(&mut self, _: ShardId, leader: NodeId) {
        self.view.note_leader(leader);
    }

    fn note_not_leader(&mut self, _: ShardId, node: NodeId) {
        self.view.note_not_leader(node);
    }

    fn update(&mut self, descriptor: Descriptor) {
        self.map = self.map.with(Arc::new(descriptor));
    }
}

fn put(session: bool) -> request::Kind {
    let session = session.then_some(proto::SessionRef {
        shard_id: SHARD.0,
        number: 1,
        sequence: 1,
        lowest_unacknowledged: 1,
    });
    request::Kind::Put(proto::PutRequest {
        key: "key".into(),
        value: "value".into(),
        session,
    })
}

fn get() -> request::Kind {
    request::Kind::Get(proto::GetRequest {
        key: "key".into(),
        ..proto::GetRequest::default()
    })
}

const START: Duration = Duration::from_secs(100);
const DEADLINE: Duration = Duration::from_secs(105);

fn call(kind: request::Kind) -> Call<Duration> {
    Call::new(kind, START, DEADLINE, false)
}

fn resume(call: &mut Call<Duration>, map: &mut Map, event: Event) -> Step<Duration> {
    call.resume(event, map, &Limits::default(), START)
}

fn code(step: &Step<Duration>) -> Code {
    match step {
        Step::Done(Err(error)) => error.code(),
        other => panic!("no error: {other:?}"),
    }
}

fn said(code: Code) -> Event {
    Event::Remote(Err(Failure::Node(error::of(code, "said"))))
}

#[test]
fn a_write_is_proposed_where_the_shard_is_led_and_answered_by_its_state() {
    let mut map = Map::led_by(1);
    let mut call = call(put(false));
    let step = resume(&mut call, &mut map, Event::Retry);
    assert!(
        matches!(step, Step::Propose { shard: SHARD, .. }),
        "{step:?}"
    );
    let answer = proto::CommandAnswer {
        kind: Some(command_answer::Kind::Write(proto::WriteAnswer {
            revision: 9,
            succeeded: true,
            ..proto::WriteAnswer::default()
        })),
    };
    let step = resume(&mut call, &mut map, Event::Written(answer));
    let Step::Done(Ok(response::Kind::Put(put))) = step else {
        panic!("{step:?}");
    };
    assert_eq!(put.revision, 9);
}

#[test]
fn a_refusal_waits_for_another_leader_and_goes_there() {
    let mut map = Map::led_by(1);
    let mut call = call(put(false));
    resume(&mut call, &mut map, Event::Retry);
    let leader = Some(NodeId(2));
    let step = resume(
        &mut call,
        &mut map,
        Event::Refused(Refused::NotLeader { leader }),
    );
    let Step::Hold(hold) = step else {
        panic!("{step:?}");
    };
    assert_eq!((hold.shard, hold.denied), (SHARD, Some(HERE)));
    assert_eq!(hold.not_before, None, "the first tries are quick");
    let step = resume(&mut call, &mut map, Event::Retry);
    assert!(matches!(step, Step::Forward(NodeId(2))), "{step:?}");
    // It names the third, and a hint is worth a hop.
    let named = proto::Error {
        leader: 3,
        ..error::of(Code::NotLeader, "said")
    };
    let step = resume(
        &mut call,
        &mut map,
        Event::Remote(Err(Failure::Node(named))),
    );
    assert!(matches!(step, Step::Hold(_)), "{step:?}");
    let step = resume(&mut call, &mut map, Event::Retry);
    assert!(matches!(step, Step::Forward(NodeId(3))), "{step:?}");
}

#[test]
fn what_was_passed_on_is_neither_passed_on_again_nor_held() {
    let mut map = Map::led_by(2);
    let mut call = Call::new(put(true), START, DEADLINE, true);
    let step = resume(&mut call, &mut map, Event::Retry);
    assert_eq!(code(&step), Code::NotLeader);
    let mut map = Map::led_by(1);
    let mut call = Call::new(put(true), START, DEADLINE, true);
    resume(&mut call, &mut map, Event::Retry);
    let step = resume(&mut call, &mut map, Event::Refused(Refused::Superseded));
    assert_eq!(code(&step), Code::Unavailable);
}

#[test]
fn a_plain_write_that_may_be_appended_is_not_tried_again() {
    let lost = || Failure::ConnectionLost("lost".to_owned());
    let endings: [(u64, fn() -> Event); 3] = [
        (1, || Event::Refused(Refused::OutcomeUnknown)),
        (1, || Event::Dropped),
        (2, || said(Code::OutcomeUnknown)),
    ];
    for (leader, event) in endings {
        let mut map = Map::led_by(leader);
        let mut call = call(put(false));
        resume(&mut call, &mut map, Event::Retry);
        let step = resume(&mut call, &mut map, event());
        assert_eq!(code(&step), Code::OutcomeUnknown, "{:?}", event());
    }
    let mut map = Map::led_by(2);
    let mut plain = call(put(false));
    resume(&mut plain, &mut map, Event::Retry);
    let step = resume(&mut plain, &mut map, Event::Remote(Err(lost())));
    assert_eq!(code(&step), Code::OutcomeUnknown);
    // A read does no harm, and nor does what was not sent.
    let mut read = call(get());
    let mut map = Map::seen_from(NodeId(9));
    map.view.note_leader(NodeId(2));
    resume(&mut read, &mut map, Event::Retry);
    let step = resume(&mut read, &mut map, Event::Remote(Err(lost())));
    assert!(matches!(step, Step::Hold(_)), "{step:?}");
    let mut map = Map::led_by(2);
    let mut plain = call(put(false));
    resume(&mut plain, &mut map, Event::Retry);
    let unreachable = Failure::Unreachable("down".to_owned());
    let step = resume(&mut plain, &mut map, Event::Remote(Err(unreachable)));
    assert!(matches!(step, Step::Hold(_)), "{step:?}");
    assert_eq!(map.view.leader(), None, "the hint is forgotten");
}

#[test]
fn a_sessions_write_goes_on_and_never_claims_that_nothing_was_written_after_a_try_that_may_have() {
    for end in [
        || Event::Busy(error::busy("full")),
        || Event::Refused(Refused::Busy),
    ] {
        let mut map = Map::led_by(1);
        let mut call = call(put(true));
        resume(&mut call, &mut map, Event::Retry);
        let step = resume(&mut call, &mut map, Event::Refused(Refused::OutcomeUnknown));
        assert!(matches!(step, Step::Hold(_)), "{step:?}");
        let step = resume(&mut call, &mut map, Event::Retry);
        assert!(matches!(step, Step::Propose { .. }), "{step:?}");
        let step = resume(&mut call, &mut map, end());
        assert_eq!(code(&step), Code::OutcomeUnknown, "{step:?}");
    }
}

#[test]
fn a_busy_leader_is_not_asked_again_and_its_client_is_told() {
    let mut map = Map::led_by(2);
    let mut call = call(put(true));
    resume(&mut call, &mut map, Event::Retry);
    let step = resume(&mut call, &mut map, said(Code::Busy));
    assert_eq!(code(&step), Code::Busy);
}

#[test]
fn the_end_of_time_says_what_was_waited_for() {
    let late = DEADLINE + Duration::from_millis(1);
    let mut map = Map::led_by(1);
    let mut write = call(put(false));
    resume(&mut write, &mut map, Event::Retry);
    let error = write.expired(late);
    assert_eq!(error.code(), Code::OutcomeUnknown);
    assert!(error.message.contains("5001 ms"), "{}", error.message);
    let mut read = call(get());
    resume(&mut read, &mut map, Event::Retry);
    let error = read.expired(late);
    assert_eq!(error.code(), Code::Unavailable);
    assert!(error.message.contains("no quorum"), "{}", error.message);
    // Nobody was asked: nothing was done.
    let mut map = Map::seen_from(HERE);
    let mut write = call(put(false));
    let step = resume(&mut write, &mut map, Event::Retry);
    assert!(matches!(step, Step::Hold(_)), "{step:?}");
    let error = write.expired(late);
    assert_eq!(error.code(), Code::Unavailable);
    let step = write.resume(Event::Retry, &mut map, &Limits::default(), late);
    assert_eq!(code(&step), Code::Unavailable);
}

#[test]
fn later_tries_pause_up_to_a_bound_and_within_the_deadline() {
    let mut map = Map::led_by(1);
    let mut call = call(put(true));
    let mut pauses = Vec::new();
    for _ in 0..12 {
        resume(&mut call, &mut map, Event::Retry);
        let step = resume(&mut call, &mut map, Event::Refused(Refused::OutcomeUnknown));
        let Step::Hold(hold) = step else {
            panic!("{step:?}");
        };
        assert!(hold.until <= DEADLINE);
        pauses.push(hold.not_before.map(|moment| moment - START));
    }
    let millis = |ms| Some(Duration::from_millis(ms));
    let expected = [None, None, millis(5), millis(10), millis(20), millis(40)];
    assert_eq!(pauses[..6], expected);
    assert_eq!(pauses[11], millis(160));
}

#[test]
fn who_has_no_replica_asks_each_in_turn() {
    let mut map = Map::seen_from(NodeId(9));
    let mut call = call(get());
    let mut asked = Vec::new();
    for _ in 0..3 {
        let step = resume(&mut call, &mut map, Event::Retry);
        let Step::Forward(node) = step else {
            panic!("{step:?}");
        };
        asked.push(node.0);
        resume(&mut call, &mut map, said(Code::NotInitialized));
    }
    asked.sort_unstable();
    assert_eq!(asked, [1, 2, 3]);
}
