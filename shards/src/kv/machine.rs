//! Applies log entries to a shard.

use super::batch::StateBatch;
use super::positions::{Position, PositionsError, shard_state};
use super::sessions::{Admission, SessionTable};
use super::state::{ShardState, ShardStateError};
use super::view::{StateView, ViewError};
use super::{membership, write};
use crate::ids::ShardId;
use crate::keys::{self, KeyError, SessionId};
use crate::limits::SESSIONS_MAX;
use crate::raft::{Entry, EntryKind, Index, Term};
use crate::value::ValueError;
use flotilla_proto::v1::{
    Command, CommandAnswer, CommandBatch, Refusal, WriteBatch, command, command_answer,
    refusal::Reason,
};
use prost::Message as _;

/// Why an entry could not be applied. None of these is the entry's fault (what a client can do wrong is answered, see
/// [`StateMachine::apply_entry`]): the state is damaged or unreadable, and the node that holds it must stop.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The database failed.
    #[error(transparent)]
    View(#[from] ViewError),
    /// A row under a key that nothing writes.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A value without a legible header.
    #[error(transparent)]
    Value(#[from] ValueError),
    /// A session that cannot be read, or that the shard cannot have.
    #[error("stored session {}.{} of shard {shard} is damaged: {what}", session.opened_in, session.number)]
    Session {
        /// Whose session.
        shard: ShardId,
        /// Which one.
        session: SessionId,
        /// What is wrong.
        what: String,
    },
    /// An illegible shard state.
    #[error("shard {shard}: {source}")]
    State {
        /// Which shard.
        shard: ShardId,
        /// What is wrong.
        source: ShardStateError,
    },
    /// An illegible row of positions.
    #[error("row {row} of the shards' positions: {source}")]
    Positions {
        /// Its number.
        row: u64,
        /// What is wrong.
        source: PositionsError,
    },
    /// A position that nothing says what it belongs to.
    #[error("shard {0} has a position and no state")]
    Orphan(ShardId),
    /// The row of one shard describes another one.
    #[error("the state row of shard {shard} describes shard {found}")]
    WrongShard {
        /// Whose row was read.
        shard: ShardId,
        /// What it says.
        found: ShardId,
    },
    /// Entries are missing: log and state do not belong together.
    #[error(
        "shard {shard} has applied entry {applied} and is given entry {index}: those between are missing"
    )]
    Gap {
        /// Which shard.
        shard: ShardId,
        /// Last applied entry.
        applied: Index,
        /// The entry at hand.
        index: Index,
    },
}

/// The part of one shard's applied state that is kept in memory.
///
/// A round of applying: any number of [`StateMachine::apply_entry`] calls, of any number of shards, with one
/// [`StateBatch`]; then [`StateMachine::finish`], or that of a [`Journal`](super::Journal), for each of these shards; then
/// the batch is written. After an error batch and machine are of no use any more.
///
/// *Invariant:* in memory there is nothing that [`StateMachine::load`] would not read from the rows after `finish`.
#[derive(Debug)]
pub struct StateMachine {
    state: ShardState,
    /// Read when the first command needs it: most shards never see a session.
    sessions: Option<SessionTable>,
    changed: Changed,
}

/// What of a machine's state is newer than the rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Changed {
    #[default]
    Nothing,
    /// How far it has come, and nothing else.
    Position,
    /// Something that only the state row has.
    Row,
}

impl StateMachine {
    /// A machine whose rows are in the database as `state` says.
    #[must_use]
    pub fn new(state: ShardState) -> Self {
        Self {
            state,
            sessions: None,
            changed: Changed::Nothing,
        }
    }

    /// Reads a shard's machine from the database, as far as the shard has come there. `None` if the database has no such
    /// shard. Who has a [`Journal`](super::Journal) opens machines there, for less.
    ///
    /// # Errors
    /// If the rows cannot be read.
    pub fn load<V>(view: &V, shard: ShardId) -> Result<Option<Self>, ApplyError>
    where
        V: StateView + ?Sized,
    {
        Ok(shard_state(view, shard)?.map(Self::new))
    }

    /// How far the shard has come.
    #[must_use]
    pub fn state(&self) -> &ShardState {
        &self.state
    }

    /// Applies one committed entry. Appends one answer per command of the entry to `answers`, in order; an entry that
    /// cannot be understood at all gives exactly one, a refusal as malformed. Entries without commands give none, nor do
    /// entries that are in the state already: these are skipped, as the log is replayed from an earlier position after
    /// a restart.
    ///
    /// What a command may be refused for is decided from the log alone, so every replica gives the same answer. A command that
    /// only puts, outside of a session, does not read the database.
    ///
    /// # Errors
    /// If the node can't go on, see [`ApplyError`].
    pub fn apply_entry<V>(
        &mut self,
        view: &V,
        batch: &mut StateBatch,
        entry: &Entry,
        answers: &mut Vec<CommandAnswer>,
    ) -> Result<(), ApplyError>
    where
        V: StateView + ?Sized,
    {
        if entry.index <= self.state.applied_index {
            return Ok(());
        }
        if entry.index != self.state.applied_index.next() {
            return Err(ApplyError::Gap {
                shard: self.state.descriptor.shard,
                applied: self.state.applied_index,
                index: entry.index,
            });
        }
        match entry.kind {
            // A new leader's first entry.
            EntryKind::Normal if entry.data.is_empty() => {}
            EntryKind::Normal => match CommandBatch::decode(entry.data.clone()) {
                Ok(commands) => {
                    self.state.clock_ms = self.state.clock_ms.max(commands.time_ms);
                    answers.reserve(commands.commands.len());
                    for command in commands.commands {
                        answers.push(self.apply_command(view, batch, command)?);
                    }
                }
                Err(error) => answers.push(refused(
                    Reason::Malformed,
                    format!("the log entry holds no commands: {error}"),
                )),
            },
            EntryKind::ConfChange | EntryKind::ConfChangeV2 => {
                let outcome =
                    membership::apply(&self.state.conf_state, &self.state.descriptor, entry);
                // What cannot be applied changes nothing, on every replica alike.
                if let Ok((conf_state, descriptor)) = outcome {
                    self.state.conf_state = conf_state;
                    self.state.descriptor = descriptor;
                    self.changed = Changed::Row;
                }
            }
        }
        self.advance(entry.index, entry.term);
        Ok(())
    }

    /// Ends a round: adds the rows of the shard's own state, and of the sessions that changed, to the batch.
    pub fn finish(&mut self, batch: &mut StateBatch) {
        if self.finish_sessions(batch) != Changed::Nothing {
            self.put_row(batch);
        }
    }

    /// As [`StateMachine::finish`], but returns the position, to be written elsewhere, if nothing else has changed.
    pub(super) fn finish_apart(&mut self, batch: &mut StateBatch) -> Option<Position> {
        match self.finish_sessions(batch) {
            Changed::Nothing => None,
            Changed::Position => Some(self.state.position()),
            Changed::Row => {
                self.put_row(batch);
                None
            }
        }
    }

    fn finish_sessions(&mut self, batch: &mut StateBatch) -> Changed {
        if let Some(sessions) = &mut self.sessions {
            sessions.flush(self.state.descriptor.shard, batch);
        }
        std::mem::take(&mut self.changed)
    }

    fn put_row(&self, batch: &mut StateBatch) {
        let key = keys::state(self.state.descriptor.shard);
        batch.put(key, self.state.encode());
    }

    fn advance(&mut self, index: Index, term: Term) {
        assert!(
            term >= self.state.applied_term,
            "the term falls to {term} at entry {index}: {:?}",
            self.state
        );
        self.state.applied_index = index;
        self.state.applied_term = term;
        self.changed = self.changed.max(Changed::Position);
    }

    fn apply_command<V>(
        &mut self,
        view: &V,
        batch: &mut StateBatch,
        command: Command,
    ) -> Result<CommandAnswer, ApplyError>
    where
        V: StateView + ?Sized,
    {
        // Before anything else: a command that was routed by an old range must not use up its sequence here, as the
        // client sends it again to where it belongs.
        let epoch = self.state.descriptor.epoch.range;
        if command.range_epoch != epoch {
            return Ok(refused(
                Reason::EpochMismatch,
                format!(
                    "routed by range epoch {}, the shard is at {epoch}",
                    command.range_epoch
                ),
            ));
        }
        match (command.kind, command.session) {
            (Some(command::Kind::Write(commands)), None) => {
                write::apply(&mut self.state, view, batch, &commands)
            }
            (Some(command::Kind::Write(commands)), Some(session)) => {
                self.write_in_session(view, batch, &commands, &session)
            }
            (Some(command::Kind::OpenSession(_)), None) => self.open_session(view, batch),
            (Some(command::Kind::CloseSession(_)), Some(session)) => {
                let shard = self.state.descriptor.shard;
                let session = SessionId {
                    opened_in: ShardId(session.shard_id),
                    number: session.number,
                };
                self.sessions(view)?.close(session, shard, batch);
                Ok(answer(command_answer::Kind::SessionClosed(true)))
            }
            (Some(command::Kind::OpenSession(_)), Some(_)) => Ok(refused(
                Reason::Malformed,
                "a session is opened outside of any session".into(),
            )),
            (Some(command::Kind::CloseSession(_)), None) => Ok(refused(
                Reason::Malformed,
                "the session to close is not named".into(),
            )),
            (None, _) => Ok(refused(
                Reason::Malformed,
                "the kind of the command is not known to this version".into(),
            )),
        }
    }

    fn write_in_session<V>(
        &mut self,
        view: &V,
        batch: &mut StateBatch,
        commands: &WriteBatch,
        session: &flotilla_proto::v1::SessionRef,
    ) -> Result<CommandAnswer, ApplyError>
    where
        V: StateView + ?Sized,
    {
        let clock_ms = self.state.clock_ms;
        match self.sessions(view)?.admit(session, clock_ms) {
            Admission::First => {}
            Admission::Repeat(answer) => return Ok(answer),
            Admission::Refused(reason) => {
                let detail = format!(
                    "session {}.{}, sequence {}",
                    session.shard_id, session.number, session.sequence
                );
                return Ok(refused(reason, detail));
            }
        }
        let answer = write::apply(&mut self.state, view, batch, commands)?;
        if uses_up_sequence(&answer) {
            let shard = self.state.descriptor.shard;
            self.sessions(view)?.record(session, &answer, shard, batch);
        }
        Ok(answer)
    }

    fn open_session<V>(
        &mut self,
        view: &V,
        batch: &mut StateBatch,
    ) -> Result<CommandAnswer, ApplyError>
    where
        V: StateView + ?Sized,
    {
        let (shard, clock_ms) = (self.state.descriptor.shard, self.state.clock_ms);
        let number = self.state.next_session;
        let session = SessionId {
            opened_in: shard,
            number,
        };
        if !self.sessions(view)?.open(session, clock_ms, shard, batch) {
            return Ok(refused(
                Reason::TooManySessions,
                format!(
                    "shard {shard} has {SESSIONS_MAX} sessions: close some, or wait until they expire"
                ),
            ));
        }
        self.state.next_session += 1;
        self.changed = Changed::Row;
        Ok(answer(command_answer::Kind::SessionOpened(number)))
    }

    fn sessions<V>(&mut self, view: &V) -> Result<&mut SessionTable, ApplyError>
    where
        V: StateView + ?Sized,
    {
        let sessions = match self.sessions.take() {
            Some(sessions) => sessions,
            // No unwritten batch can hold rows that are missing here: only a loaded table writes sessions.
            None => SessionTable::load(view, &self.state)?,
        };
        Ok(self.sessions.insert(sessions))
    }
}

/// Whether a retry gets this answer again. A command that was refused for where it was sent has not happened yet: the
/// client sends it elsewhere. Any other answer is final, also a refusal: a duplicate that the network delivers late must
/// not do what the client was told has failed.
fn uses_up_sequence(answer: &CommandAnswer) -> bool {
    match &answer.kind {
        Some(command_answer::Kind::Refused(refusal)) => refusal.reason() != Reason::OutOfRange,
        _ => true,
    }
}

pub(super) fn answer(kind: command_answer::Kind) -> CommandAnswer {
    CommandAnswer { kind: Some(kind) }
}

pub(super) fn refused(reason: Reason, detail: String) -> CommandAnswer {
    answer(command_answer::Kind::Refused(Refusal {
        reason: reason.into(),
        detail,
    }))
}
