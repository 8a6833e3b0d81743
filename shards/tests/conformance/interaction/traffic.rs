//! How messages move: delivered or dropped by hand, or until nothing moves any more.

use super::{Env, Outcome, Stop};
use crate::datadriven::{Arg, Case, Checked, broken};
use flotilla_shards::raft::{Message, MessageKind, ReplicaId};

/// Rounds after which a cluster that still moves is taken to move for ever.
const MAX_ROUNDS: usize = 10_000;

#[rustfmt::skip]
const KINDS: [MessageKind; 25] = [
    MessageKind::Hup, MessageKind::Beat, MessageKind::Prop, MessageKind::App, MessageKind::AppResp, MessageKind::Vote,
    MessageKind::VoteResp, MessageKind::Snap, MessageKind::Heartbeat, MessageKind::HeartbeatResp,
    MessageKind::Unreachable, MessageKind::SnapStatus, MessageKind::CheckQuorum, MessageKind::TransferLeader,
    MessageKind::TimeoutNow, MessageKind::ReadIndex, MessageKind::ReadIndexResp, MessageKind::PreVote,
    MessageKind::PreVoteResp, MessageKind::StorageAppend, MessageKind::StorageAppendResp, MessageKind::StorageApply,
    MessageKind::StorageApplyResp, MessageKind::ForgetLeader, MessageKind::Quiesce,
];

fn message_kind(arg: &Arg) -> Checked<MessageKind> {
    let name: String = arg.value()?;
    let kind = KINDS.into_iter().find(|kind| kind.to_string() == name);
    kind.map_or_else(
        || broken(format_args!("there is no message type {name}")),
        Ok,
    )
}

/// What happens to the messages to one replica.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Recipient {
    id: ReplicaId,
    drop: bool,
}

impl Recipient {
    fn takes(self, message: &Message, kind: Option<MessageKind>) -> bool {
        // What a node sends to itself or to its storage threads never travels, so it can't get lost.
        let local = message.from == message.to
            || message.from.is_storage_thread()
            || message.to.is_storage_thread();
        message.to == self.id
            && !(self.drop && local)
            && kind.is_none_or(|kind| kind == message.kind)
    }
}

impl Env {
    pub(super) fn deliver_msgs(&mut self, case: &Case) -> Outcome {
        let mut kind = None;
        let mut recipients: Vec<Recipient> = Vec::new();
        for arg in &case.args {
            match arg.key.as_str() {
                "type" => kind = Some(message_kind(arg)?),
                "drop" => {
                    for id in arg.values()?.into_iter().map(ReplicaId) {
                        if recipients.iter().any(|recipient| recipient.id == id) {
                            return broken(format_args!(
                                "cannot both deliver and drop messages to {id}"
                            ))
                            .map_err(Stop::Broken);
                        }
                        recipients.push(Recipient { id, drop: true });
                    }
                }
                _ => {
                    let id = ReplicaId(self.position(arg)? as u64 + 1);
                    recipients.push(Recipient { id, drop: false });
                }
            }
        }
        let mut taken = 0;
        for recipient in recipients {
            taken += self.deliver(recipient, kind);
        }
        if taken == 0 {
            self.out.line("no messages");
        }
        Ok(())
    }

    /// Takes the recipient's messages out of the pool. Returns how many they were.
    fn deliver(&mut self, recipient: Recipient, kind: Option<MessageKind>) -> usize {
        let (taken, left) = std::mem::take(&mut self.messages)
            .into_iter()
            .partition(|message| recipient.takes(message, kind));
        self.messages = left;
        let taken: Vec<Message> = taken;
        let count = taken.len();
        for message in taken {
            self.out.line(format_args!(
                "{}{message}",
                if recipient.drop { "dropped: " } else { "" }
            ));
            if recipient.drop {
                continue;
            }
            if let Err(error) = self.nodes[recipient.id.0 as usize - 1].raw.step(message) {
                self.out.line(error);
            }
        }
        count
    }

    /// Puts a snapshot into the pool that the sender's group knows nothing of.
    pub(super) fn send_snapshot(&mut self, case: &Case) -> Outcome {
        let [from, to] = case.args.as_slice() else {
            return broken("expected sender and receiver").map_err(Stop::Broken);
        };
        let node = &self.nodes[self.position(from)?];
        let message = Message {
            kind: MessageKind::Snap,
            from: node.config.id,
            to: ReplicaId(self.position(to)? as u64 + 1),
            term: node.raw.status().hard_state.term,
            snapshot: Some(Box::new(node.storage.latest_snapshot())),
            ..Message::default()
        };
        self.out.write(&message);
        self.messages.push(message);
        Ok(())
    }

    pub(super) fn stabilize(&mut self, case: &Case) -> Outcome {
        let listed = self.listed(case)?;
        let before = self.out.level();
        for arg in case.args.iter().filter(|arg| !arg.values.is_empty()) {
            if arg.key != "log-level" {
                return broken(format_args!("unknown argument {}", arg.key)).map_err(Stop::Broken);
            }
            self.out.set_level(&arg.value::<String>()?)?;
        }
        let outcome = self.run_to_fixed_point(&listed);
        self.out
            .set_level(before)
            .expect("a level that was set before");
        outcome
    }

    fn run_to_fixed_point(&mut self, listed: &[usize]) -> Outcome {
        for _ in 0..MAX_ROUNDS {
            if !self.round(listed)? {
                return Ok(());
            }
        }
        broken(format_args!("still not stable after {MAX_ROUNDS} rounds")).map_err(Stop::Broken)
    }

    /// Lets each node do what there is to do, one phase after the other. Returns whether there was anything.
    fn round(&mut self, listed: &[usize]) -> Result<bool, Stop> {
        let mut busy = false;
        for &at in listed {
            if self.nodes[at].raw.has_ready() {
                busy = true;
                self.block(at, "handling Ready", |env| env.handle_ready(at))?;
            }
        }
        for &at in listed {
            let recipient = Recipient {
                id: self.nodes[at].config.id,
                drop: false,
            };
            if self
                .messages
                .iter()
                .any(|message| recipient.takes(message, None))
            {
                busy = true;
                self.block(at, "receiving messages", |env| {
                    env.deliver(recipient, None);
                    Ok(())
                })?;
            }
        }
        for &at in listed {
            if !self.nodes[at].append_work.is_empty() {
                busy = true;
                self.block(at, "processing append thread", |env| {
                    env.handle_append_work(at)
                })?;
                while !self.nodes[at].append_work.is_empty() {
                    self.indented(|env| env.handle_append_work(at))?;
                }
            }
        }
        for &at in listed {
            if !self.nodes[at].apply_work.is_empty() {
                busy = true;
                self.block(at, "processing apply thread", |env| {
                    env.handle_apply_work(at)
                })?;
                while !self.nodes[at].apply_work.is_empty() {
                    self.indented(|env| env.handle_apply_work(at))?;
                }
            }
        }
        Ok(busy)
    }
}
