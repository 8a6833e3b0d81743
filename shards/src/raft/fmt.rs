//! Text forms, those of etcd-raft's data-driven tests. For people and tests; nothing parses them.
//!
//! Ids are decimal where they stand alone (votes, leaders, lists of a [`ConfState`]) and hexadecimal in messages and
//! configuration strings.

use super::confchange::{ConfChangeAny, format_operations};
use super::progress::{Progress, ProgressState};
use super::raw_node::Ready;
use super::tracker::{Config, ProgressMap};
use super::types::{
    ConfState, Entry, EntryKind, HardState, Message, MessageKind, ReplicaId, Role, Snapshot,
    SnapshotMeta, SoftState,
};
use std::fmt::{self, Display, Formatter, Write as _};

/// How the data of a normal entry read as text.
pub type EntryFormatter<'a> = &'a dyn Fn(&[u8]) -> String;

impl Display for Role {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Follower => "StateFollower",
            Self::Candidate => "StateCandidate",
            Self::Leader => "StateLeader",
            Self::PreCandidate => "StatePreCandidate",
        })
    }
}

impl Display for EntryKind {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Normal => "EntryNormal",
            Self::ConfChange => "EntryConfChange",
            Self::ConfChangeV2 => "EntryConfChangeV2",
        })
    }
}

impl Display for MessageKind {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        // The variants are named for this.
        write!(f, "Msg{self:?}")
    }
}

impl Display for SoftState {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "Lead:{} State:{}", self.lead, self.role)
    }
}

impl Display for HardState {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "Term:{}", self.term)?;
        if !self.vote.is_none() {
            write!(f, " Vote:{}", self.vote)?;
        }
        write!(f, " Commit:{}", self.commit)
    }
}

impl Display for ConfState {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Voters:{} VotersOutgoing:{} Learners:{} LearnersNext:{} AutoLeave:{}",
            List(&self.voters),
            List(&self.voters_outgoing),
            List(&self.learners),
            List(&self.learners_next),
            self.auto_leave
        )
    }
}

impl Display for SnapshotMeta {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Index:{} Term:{} ConfState:{}",
            self.index, self.term, self.conf_state
        )
    }
}

/// Without the data, which are opaque.
impl Display for Snapshot {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        Display::fmt(&self.meta, f)
    }
}

/// The data of a normal entry as a quoted string.
impl Display for Entry {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        Display::fmt(&self.display(&quote), f)
    }
}

impl Display for Message {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        Display::fmt(&self.display("", &quote), f)
    }
}

impl Entry {
    /// The entry with the data of a normal entry as `formatter` puts them.
    pub fn display<'a>(&'a self, formatter: EntryFormatter<'a>) -> impl Display + 'a {
        fmt::from_fn(move |f| {
            write!(f, "{}/{} {}", self.term, self.index, self.kind)?;
            let payload = match self.kind {
                EntryKind::Normal => formatter(&self.data),
                EntryKind::ConfChange | EntryKind::ConfChangeV2 => {
                    match ConfChangeAny::decode(self.kind, &self.data) {
                        Ok(change) => format_operations(&change.into_v2().changes),
                        Err(error) => error.to_string(),
                    }
                }
            };
            let blank = if payload.is_empty() { "" } else { " " };
            write!(f, "{blank}{payload}")
        })
    }
}

impl Message {
    /// The message with every line after the first behind `indent`. No line feed at the end.
    pub fn display<'a>(
        &'a self,
        indent: &'a str,
        formatter: EntryFormatter<'a>,
    ) -> impl Display + 'a {
        fmt::from_fn(move |f| self.write(f, indent, formatter))
    }

    fn write(
        &self,
        f: &mut Formatter<'_>,
        indent: &str,
        formatter: EntryFormatter<'_>,
    ) -> fmt::Result {
        let (from, to) = (Target(self.from), Target(self.to));
        write!(
            f,
            "{from}->{to} {} Term:{} Log:{}/{}",
            self.kind, self.term, self.log_term, self.index
        )?;
        if self.reject {
            write!(f, " Rejected (Hint: {})", self.reject_hint)?;
        }
        if self.commit.0 != 0 {
            write!(f, " Commit:{}", self.commit)?;
        }
        if !self.vote.is_none() {
            write!(f, " Vote:{}", self.vote)?;
        }
        match self.entries.as_slice() {
            [] => {}
            [entry] => write!(f, " Entries:[{}]", entry.display(formatter))?,
            entries => {
                f.write_str(" Entries:[")?;
                for entry in entries {
                    write!(f, "\n{indent}  {}", entry.display(formatter))?;
                }
                write!(f, "\n{indent}]")?;
            }
        }
        if let Some(snapshot) = self
            .snapshot
            .as_ref()
            .filter(|snapshot| !snapshot.is_empty())
        {
            write!(f, "\n{indent}  Snapshot: {snapshot}")?;
        }
        if !self.responses.is_empty() {
            f.write_str(" Responses:[")?;
            let deeper = format!("{indent}  ");
            for response in &self.responses {
                write!(f, "\n{deeper}")?;
                response.write(f, &deeper, formatter)?;
            }
            write!(f, "\n{indent}]")?;
        }
        Ok(())
    }
}

/// One part per line or block; `<empty Ready>` without a line feed if there is nothing to do.
impl Display for Ready {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        Display::fmt(&self.display(&quote), f)
    }
}

impl Ready {
    /// The work with the data of normal entries as `formatter` puts them.
    pub fn display<'a>(&'a self, formatter: EntryFormatter<'a>) -> impl Display + 'a {
        fmt::from_fn(move |f| {
            if self.is_empty() {
                return f.write_str("<empty Ready>");
            }
            writeln!(f, "Ready MustSync={}:", self.must_sync)?;
            if let Some(soft_state) = self.soft_state {
                writeln!(f, "{soft_state}")?;
            }
            if let Some(hard_state) = self.hard_state {
                writeln!(f, "HardState {hard_state}")?;
            }
            if !self.read_states.is_empty() {
                f.write_str("ReadStates [")?;
                for (i, state) in self.read_states.iter().enumerate() {
                    let blank = if i == 0 { "" } else { " " };
                    let bytes: Vec<_> = state.context.iter().map(u8::to_string).collect();
                    write!(f, "{blank}{{{} [{}]}}", state.index, bytes.join(" "))?;
                }
                f.write_str("]\n")?;
            }
            let list = |f: &mut Formatter<'_>, title: &str, entries: &[Entry]| {
                if !entries.is_empty() {
                    writeln!(f, "{title}:")?;
                }
                entries
                    .iter()
                    .try_for_each(|entry| writeln!(f, "{}", entry.display(formatter)))
            };
            // With asynchronous writes they are in the storage messages, and shown here as well.
            let request = |kind| self.messages.iter().find(|message| message.kind == kind);
            let append = request(MessageKind::StorageAppend);
            list(f, "Entries", append.map_or(&self.entries, |m| &m.entries))?;
            if let Some(snapshot) = append.map_or(&self.snapshot, |m| &m.snapshot) {
                writeln!(f, "Snapshot {snapshot}")?;
            }
            let apply = request(MessageKind::StorageApply);
            let committed = apply.map_or(&self.committed_entries, |m| &m.entries);
            list(f, "CommittedEntries", committed)?;
            if !self.messages.is_empty() {
                f.write_str("Messages:\n")?;
            }
            self.messages
                .iter()
                .try_for_each(|message| writeln!(f, "{}", message.display("", formatter)))
        })
    }
}

impl Display for ProgressState {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Probe => "StateProbe",
            Self::Replicate => "StateReplicate",
            Self::Snapshot => "StateSnapshot",
        })
    }
}

impl Display for Progress {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} match={} next={}",
            self.state, self.match_index, self.next
        )?;
        if self.is_learner {
            f.write_str(" learner")?;
        }
        if self.is_paused() {
            f.write_str(" paused")?;
        }
        if self.pending_snapshot.0 != 0 {
            write!(f, " pendingSnap={}", self.pending_snapshot)?;
        }
        if !self.recent_active {
            f.write_str(" inactive")?;
        }
        if self.inflights.count() > 0 {
            write!(f, " inflight={}", self.inflights.count())?;
            if self.inflights.full() {
                f.write_str("[full]")?;
            }
        }
        Ok(())
    }
}

/// One line per replica.
impl Display for ProgressMap {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (id, progress) in self.iter() {
            writeln!(f, "{id}: {progress}")?;
        }
        Ok(())
    }
}

impl Display for Config {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "voters={}", self.voters)?;
        if !self.learners.is_empty() {
            write!(f, " learners={}", self.learners)?;
        }
        if !self.learners_next.is_empty() {
            write!(f, " learners_next={}", self.learners_next)?;
        }
        if self.auto_leave {
            f.write_str(" autoleave")?;
        }
        Ok(())
    }
}

/// `[1 2 3]`
struct List<'a>(&'a [ReplicaId]);

impl Display for List<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_char('[')?;
        for (i, id) in self.0.iter().enumerate() {
            let blank = if i == 0 { "" } else { " " };
            write!(f, "{blank}{id}")?;
        }
        f.write_char(']')
    }
}

/// Sender or receiver of a message.
struct Target(ReplicaId);

impl Display for Target {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            ReplicaId::NONE => f.write_str("None"),
            ReplicaId::APPEND_THREAD => f.write_str("AppendThread"),
            ReplicaId::APPLY_THREAD => f.write_str("ApplyThread"),
            ReplicaId(id) => write!(f, "{id:x}"),
        }
    }
}

/// Bytes as a quoted string literal, in the form of Go's `%q`: printable characters as they are, escapes for the rest.
#[must_use]
pub fn quote(data: &[u8]) -> String {
    let mut out = String::with_capacity(data.len() + 2);
    out.push('"');
    for chunk in data.utf8_chunks() {
        for c in chunk.valid().chars() {
            quote_char(&mut out, c);
        }
        for byte in chunk.invalid() {
            push(&mut out, format_args!("\\x{byte:02x}"));
        }
    }
    out.push('"');
    out
}

fn quote_char(out: &mut String, c: char) {
    match c {
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        '\x07' => out.push_str("\\a"),
        '\x08' => out.push_str("\\b"),
        '\x0c' => out.push_str("\\f"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\x0b' => out.push_str("\\v"),
        '\0'..='\x1f' | '\x7f' => push(out, format_args!("\\x{:02x}", u32::from(c))),
        ' '..='~' => out.push(c),
        // Beyond ASCII, what the standard library would escape, and blanks that look like others.
        _ if c.is_whitespace() || c.escape_debug().len() > 1 => match u32::from(c) {
            code @ 0..=0xffff => push(out, format_args!("\\u{code:04x}")),
            code => push(out, format_args!("\\U{code:08x}")),
        },
        _ => out.push(c),
    }
}

fn push(out: &mut String, text: fmt::Arguments<'_>) {
    out.write_fmt(text)
        .expect("writing to a string cannot fail");
}
