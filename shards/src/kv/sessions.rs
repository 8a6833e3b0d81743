//! The sessions that a shard remembers, and the answers that it gave them (thesis 6.3).
//!
//! A client numbers the writes of its session. The first answer to each number is kept until the client says that it has
//! it; a retry gets that answer and changes nothing. All decisions rest on logged time, so every replica decides alike.
//! The table is a copy of the shard's session rows: it can be dropped and read again at any time.

use super::batch::StateBatch;
use super::machine::ApplyError;
use super::state::ShardState;
use super::view::{Order, StateView};
use crate::ids::ShardId;
use crate::keys::{self, RowKey, SessionId};
use crate::limits::{
    SESSION_ANSWERS_MAX, SESSION_EVICTIONS_MAX, SESSION_IDLE_MS, SESSION_WINDOW, SESSIONS_MAX,
};
use bytes::Bytes;
use flotilla_proto::v1::{
    CommandAnswer, SessionRecord, SessionRef, StoredAnswer, command_answer, refusal::Reason,
};
use prost::Message as _;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

/// All sessions of one shard.
///
/// *Invariant:* `by_use` has exactly one element for each session: its last use and its id. `changed` names every session
/// whose row is older than its record here, and maybe some that are gone. `answers` is the number of all kept answers.
#[derive(Debug, Default)]
pub(super) struct SessionTable {
    sessions: BTreeMap<SessionId, SessionRecord>,
    by_use: BTreeSet<(u64, SessionId)>,
    changed: BTreeSet<SessionId>,
    answers: usize,
}

/// What becomes of a session's command.
#[derive(Debug, PartialEq)]
pub(super) enum Admission {
    /// Seen for the first time: apply it and [`SessionTable::record`] the answer.
    First,
    /// Applied before: this was the answer.
    Repeat(CommandAnswer),
    /// Neither may it be applied nor is its answer known.
    Refused(Reason),
}

impl SessionTable {
    /// Reads the table from the shard's rows.
    ///
    /// # Errors
    /// A row that [`SessionTable::flush`] did not write for a shard in this state.
    pub(super) fn load<V>(view: &V, state: &ShardState) -> Result<Self, ApplyError>
    where
        V: StateView + ?Sized,
    {
        let shard = state.descriptor.shard;
        let mut table = Self::default();
        let mut damaged = None;
        view.scan(
            &keys::session_rows(shard),
            Order::Ascending,
            &mut |key, row| {
                let result = match keys::decode(Bytes::copy_from_slice(key)) {
                    Ok(RowKey::Session { session, .. }) => record(row, session, state)
                        .map(|record| (session, record))
                        .map_err(|what| ApplyError::Session {
                            shard,
                            session,
                            what,
                        }),
                    Ok(_) => {
                        unreachable!("a row of another kind in the range of sessions: {key:?}")
                    }
                    Err(error) => Err(error.into()),
                };
                match result {
                    Ok((session, record)) => {
                        table.answers += record.answers.len();
                        table.by_use.insert((record.last_used_ms, session));
                        table.sessions.insert(session, record);
                        ControlFlow::Continue(())
                    }
                    Err(error) => {
                        damaged = Some(error);
                        ControlFlow::Break(())
                    }
                }
            },
        )?;
        damaged.map_or(Ok(table), Err)
    }

    /// Opens a session under a number that was never used. False: there are too many.
    pub(super) fn open(
        &mut self,
        session: SessionId,
        clock_ms: u64,
        shard: ShardId,
        batch: &mut StateBatch,
    ) -> bool {
        self.evict(clock_ms, shard, batch);
        if self.sessions.len() >= SESSIONS_MAX {
            return false;
        }
        let record = SessionRecord {
            last_used_ms: clock_ms,
            lowest_unacknowledged: 1,
            answers: Vec::new(),
        };
        let before = self.sessions.insert(session, record);
        assert!(
            before.is_none(),
            "session {session:?} of shard {shard} opened twice: {before:?}"
        );
        self.by_use.insert((clock_ms, session));
        self.changed.insert(session);
        true
    }

    /// Forgets a session; one that does not exist is closed already.
    pub(super) fn close(&mut self, session: SessionId, shard: ShardId, batch: &mut StateBatch) {
        if let Some(record) = self.sessions.remove(&session) {
            self.by_use.remove(&(record.last_used_ms, session));
            self.answers -= record.answers.len();
            batch.delete(keys::session(shard, session));
        }
    }

    /// Decides on a command of a session, and takes note of what its client has acknowledged.
    pub(super) fn admit(&mut self, reference: &SessionRef, clock_ms: u64) -> Admission {
        let session = id(reference);
        let Some(record) = self.sessions.get_mut(&session) else {
            return Admission::Refused(Reason::SessionUnknown);
        };
        if is_expired(record.last_used_ms, clock_ms) {
            // Its row goes when the next session is opened. It can't come back: the clock never does.
            return Admission::Refused(Reason::SessionUnknown);
        }
        let sequence = reference.sequence;
        let lowest = (reference.lowest_unacknowledged).max(record.lowest_unacknowledged);
        // A client that has acknowledged this very write does not expect an answer to it.
        if sequence < lowest || sequence - lowest >= SESSION_WINDOW {
            return Admission::Refused(Reason::SequenceOutOfWindow);
        }
        if record.last_used_ms != clock_ms {
            self.by_use.remove(&(record.last_used_ms, session));
            self.by_use.insert((clock_ms, session));
            record.last_used_ms = clock_ms;
            self.changed.insert(session);
        }
        if record.lowest_unacknowledged != lowest {
            record.lowest_unacknowledged = lowest;
            let forgotten = (record.answers).partition_point(|answer| answer.sequence < lowest);
            record.answers.drain(..forgotten);
            self.answers -= forgotten;
            self.changed.insert(session);
        }
        match (record.answers).binary_search_by_key(&sequence, |answer| answer.sequence) {
            Ok(at) => Admission::Repeat(record.answers[at].answer.clone().unwrap_or_default()),
            Err(_) => Admission::First,
        }
    }

    /// Keeps the answer to a command that was admitted for the first time.
    pub(super) fn record(
        &mut self,
        reference: &SessionRef,
        answer: &CommandAnswer,
        shard: ShardId,
        batch: &mut StateBatch,
    ) {
        let session = id(reference);
        let record = (self.sessions.get_mut(&session)).expect("the session was just admitted");
        let at = (record.answers).partition_point(|answer| answer.sequence < reference.sequence);
        let mut answer = answer.clone();
        if let Some(command_answer::Kind::Refused(refusal)) = &mut answer.kind {
            // Wording is no part of the state: it may change with the version.
            refusal.detail.clear();
        }
        record.answers.insert(
            at,
            StoredAnswer {
                sequence: reference.sequence,
                answer: Some(answer),
            },
        );
        self.changed.insert(session);
        self.answers += 1;
        while self.answers > SESSION_ANSWERS_MAX {
            let longest_unused = self.by_use.iter().find(|(_, other)| *other != session);
            let &(_, other) = longest_unused.expect("one session's window is below the bound");
            self.close(other, shard, batch);
        }
    }

    /// Writes the rows of all sessions that have changed since the last time.
    pub(super) fn flush(&mut self, shard: ShardId, batch: &mut StateBatch) {
        while let Some(session) = self.changed.pop_first() {
            if let Some(record) = self.sessions.get(&session) {
                batch.put(keys::session(shard, session), record.encode_to_vec().into());
            }
        }
    }

    /// Forgets sessions that have expired, the longest unused first.
    fn evict(&mut self, clock_ms: u64, shard: ShardId, batch: &mut StateBatch) {
        for _ in 0..SESSION_EVICTIONS_MAX {
            match self.by_use.first() {
                Some(&(last_used_ms, session)) if is_expired(last_used_ms, clock_ms) => {
                    self.close(session, shard, batch);
                }
                _ => return,
            }
        }
    }
}

/// Reads a session's row.
///
/// # Errors
/// What is wrong with it, and what was expected.
fn record(row: &[u8], session: SessionId, state: &ShardState) -> Result<SessionRecord, String> {
    let mut record = SessionRecord::decode(row).map_err(|error| error.to_string())?;
    let next = state.next_session;
    if session.opened_in == state.descriptor.shard && session.number >= next {
        return Err(format!("the shard has opened sessions below {next} alone"));
    }
    let answers = record.answers.len();
    if answers as u64 > SESSION_WINDOW {
        return Err(format!(
            "it has {answers} answers, expected at most {SESSION_WINDOW}"
        ));
    }
    record
        .answers
        .sort_unstable_by_key(|answer| answer.sequence);
    Ok(record)
}

fn id(reference: &SessionRef) -> SessionId {
    SessionId {
        opened_in: ShardId(reference.shard_id),
        number: reference.number,
    }
}

fn is_expired(last_used_ms: u64, clock_ms: u64) -> bool {
    clock_ms.saturating_sub(last_used_ms) > SESSION_IDLE_MS
}

#[cfg(test)]
mod tests {
    use super::super::memory::MemoryState;
    use super::*;
    use crate::descriptor::{Descriptor, Epoch, KeyRange};
    use crate::raft::{Index, Term};
    use flotilla_proto::v1::{Refusal, WriteAnswer};

    const SHARD: ShardId = ShardId(2);

    /// A shard that has opened sessions below `next_session`.
    fn opened_below(next_session: u64) -> ShardState {
        let descriptor = Descriptor {
            shard: SHARD,
            range: KeyRange::all(),
            epoch: Epoch {
                membership: 1,
                range: 1,
            },
            replicas: Vec::new(),
        };
        ShardState {
            applied_index: Index(1),
            applied_term: Term(1),
            revision: 0,
            clock_ms: 0,
            next_session,
            conf_state: descriptor.conf_state(),
            descriptor,
        }
    }

    fn session(number: u64) -> SessionId {
        SessionId {
            opened_in: SHARD,
            number,
        }
    }

    fn reference(number: u64, sequence: u64, lowest_unacknowledged: u64) -> SessionRef {
        SessionRef {
            shard_id: SHARD.0,
            number,
            sequence,
            lowest_unacknowledged,
        }
    }

    fn answer(revision: u64) -> CommandAnswer {
        CommandAnswer {
            kind: Some(command_answer::Kind::Write(WriteAnswer {
                succeeded: true,
                revision,
                ..WriteAnswer::default()
            })),
        }
    }

    fn opened(clock_ms: u64) -> SessionTable {
        let mut table = SessionTable::default();
        assert!(table.open(session(1), clock_ms, SHARD, &mut StateBatch::default()));
        table
    }

    fn record(table: &mut SessionTable, reference: &SessionRef, answer: &CommandAnswer) {
        table.record(reference, answer, SHARD, &mut StateBatch::default());
    }

    #[test]
    fn a_repeat_gets_the_first_answer() {
        let mut table = opened(10);
        for sequence in [2, 1] {
            assert_eq!(
                table.admit(&reference(1, sequence, 1), 10),
                Admission::First
            );
            record(
                &mut table,
                &reference(1, sequence, 1),
                &answer(sequence + 100),
            );
        }
        assert_eq!(
            table.admit(&reference(1, 2, 1), 10),
            Admission::Repeat(answer(102))
        );
        assert_eq!(
            table.admit(&reference(1, 1, 1), 10),
            Admission::Repeat(answer(101))
        );
        assert_eq!(table.admit(&reference(1, 3, 2), 10), Admission::First);
        let out = Admission::Refused(Reason::SequenceOutOfWindow);
        assert_eq!(
            table.admit(&reference(1, 1, 1), 10),
            out,
            "acknowledged: the answer is gone"
        );
        assert_eq!(
            table.admit(&reference(1, 2, 1), 10),
            Admission::Repeat(answer(102))
        );
    }

    #[test]
    fn the_window_is_bounded() {
        let out = Admission::Refused(Reason::SequenceOutOfWindow);
        let mut table = opened(10);
        assert_eq!(table.admit(&reference(1, 0, 0), 10), out);
        assert_eq!(table.admit(&reference(1, 5, 6), 10), out);
        assert_eq!(table.admit(&reference(1, 1024, 1), 10), Admission::First);
        assert_eq!(table.admit(&reference(1, 1025, 1), 10), out);
        assert_eq!(table.admit(&reference(1, 1025, 2), 10), Admission::First);
        assert_eq!(table.admit(&reference(1, u64::MAX, 0), 10), out);
        assert_eq!(
            table.admit(&reference(1, u64::MAX, u64::MAX), 10),
            Admission::First
        );
    }

    #[test]
    fn logged_time_alone_expires() {
        let mut table = opened(10);
        assert_eq!(
            table.admit(&reference(1, 1, 1), 10 + SESSION_IDLE_MS),
            Admission::First
        );
        let late = 11 + 2 * SESSION_IDLE_MS;
        let unknown = Admission::Refused(Reason::SessionUnknown);
        assert_eq!(table.admit(&reference(1, 1, 1), late), unknown);
        assert_eq!(table.admit(&reference(2, 1, 1), late), unknown);
        let mut batch = StateBatch::default();
        assert!(table.open(session(2), late, SHARD, &mut batch));
        assert_eq!(table.sessions.keys().collect::<Vec<_>>(), [&session(2)]);
        let rows: Vec<_> = batch.rows().collect();
        assert_eq!(rows, [(&keys::session(SHARD, session(1))[..], None)]);
    }

    #[test]
    fn there_are_so_many_and_no_more() {
        let (mut table, mut batch) = (SessionTable::default(), StateBatch::default());
        for number in 0..SESSIONS_MAX as u64 {
            assert!(table.open(session(number), 10, SHARD, &mut batch));
        }
        assert!(!table.open(session(u64::MAX), 10, SHARD, &mut batch));
        table.close(session(7), SHARD, &mut batch);
        assert!(table.open(session(u64::MAX), 10, SHARD, &mut batch));
        // One opening does not pay for all that have expired.
        let late = 11 + SESSION_IDLE_MS;
        assert!(table.open(session(u64::MAX - 1), late, SHARD, &mut batch));
        assert_eq!(
            table.sessions.len(),
            SESSIONS_MAX - SESSION_EVICTIONS_MAX + 1
        );
    }

    #[test]
    fn kept_answers_are_bounded_over_all_sessions() {
        let (mut table, mut batch) = (SessionTable::default(), StateBatch::default());
        let full = SESSION_ANSWERS_MAX as u64 / SESSION_WINDOW;
        for number in 0..=full {
            assert!(table.open(session(number), number, SHARD, &mut batch));
            for sequence in 1..=SESSION_WINDOW {
                let reference = reference(number, sequence, 1);
                assert_eq!(table.admit(&reference, number), Admission::First);
                record(&mut table, &reference, &answer(sequence));
            }
        }
        // The first session had to go, and nothing else.
        assert_eq!(table.sessions.len() as u64, full);
        assert_eq!(table.answers, SESSION_ANSWERS_MAX);
        let unknown = Admission::Refused(Reason::SessionUnknown);
        assert_eq!(table.admit(&reference(0, 1, 1), full), unknown);
        assert_eq!(
            table.admit(&reference(1, 9, 9), full),
            Admission::Repeat(answer(9))
        );
        assert_eq!(table.answers, SESSION_ANSWERS_MAX - 8);
        let mut batch = StateBatch::default();
        table.flush(SHARD, &mut batch);
        let mut state = MemoryState::default();
        state.write(&batch);
        assert_eq!(
            SessionTable::load(&state, &opened_below(1 << 40))
                .unwrap()
                .answers,
            table.answers
        );
    }

    #[test]
    fn the_table_comes_back_from_its_rows() {
        let mut table = opened(10);
        assert_eq!(table.admit(&reference(1, 1, 1), 20), Admission::First);
        let refused = |detail: &str| CommandAnswer {
            kind: Some(command_answer::Kind::Refused(Refusal {
                reason: Reason::TooManyKeys.into(),
                detail: detail.into(),
            })),
        };
        record(&mut table, &reference(1, 1, 1), &refused("wording"));
        let mut batch = StateBatch::default();
        table.flush(SHARD, &mut batch);
        let mut state = MemoryState::default();
        state.write(&batch);
        let mut again = SessionTable::load(&state, &opened_below(1 << 40)).unwrap();
        assert_eq!(again.sessions, table.sessions);
        assert_eq!(again.by_use, table.by_use);
        assert_eq!(
            again.admit(&reference(1, 1, 1), 20),
            Admission::Repeat(refused(""))
        );

        state.put(
            keys::session(SHARD, session(9)),
            Bytes::from_static(b"\xff\xff"),
        );
        let error = SessionTable::load(&state, &opened_below(1 << 40)).unwrap_err();
        let expected = "stored session 2.9 of shard 2 is damaged";
        assert!(error.to_string().starts_with(expected), "{error}");
    }

    #[test]
    fn rows_that_the_shard_cannot_have_written_are_refused() {
        let refusal = |record: SessionRecord| {
            let mut rows = MemoryState::default();
            rows.put(
                keys::session(SHARD, session(5)),
                record.encode_to_vec().into(),
            );
            let load = |next| SessionTable::load(&rows, &opened_below(next));
            let unopened = load(5).unwrap_err().to_string();
            let end = "is damaged: the shard has opened sessions below 5 alone";
            assert!(unopened.ends_with(end), "{unopened}");
            load(6).map(drop).map_err(|error| error.to_string())
        };
        assert_eq!(refusal(SessionRecord::default()), Ok(()));
        let answers = vec![StoredAnswer::default(); usize::try_from(SESSION_WINDOW).unwrap() + 1];
        let many = refusal(SessionRecord {
            answers,
            ..SessionRecord::default()
        });
        let end = "is damaged: it has 1025 answers, expected at most 1024";
        assert!(many.unwrap_err().ends_with(end));
    }
}
