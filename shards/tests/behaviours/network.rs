//! A live network: every message is delivered at once, in order, until none is left. Connections can be cut, kinds of
//! messages lost, and every message looked at.

use crate::harness::*;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::{Index as At, IndexMut as AtMut};

/// Sees every message that is about to be delivered; `false` loses it.
type Hook = Box<dyn FnMut(&Message) -> bool>;

/// Replicas that can talk to each other. A message to a replica that is not here is swallowed: it is dead.
#[derive(Default)]
pub(crate) struct Network {
    nodes: BTreeMap<u64, Node>,
    cut: BTreeSet<(u64, u64)>,
    ignored: Vec<MessageKind>,
    hook: Option<Hook>,
}

impl At<u64> for Network {
    type Output = Node;

    fn index(&self, id: u64) -> &Node {
        &self.nodes[&id]
    }
}

impl AtMut<u64> for Network {
    fn index_mut(&mut self, id: u64) -> &mut Node {
        self.nodes.get_mut(&id).expect("a live node")
    }
}

impl Network {
    pub(crate) fn new(nodes: impl IntoIterator<Item = Node>) -> Self {
        let nodes = nodes.into_iter().map(|node| (node.id().0, node)).collect();
        Self {
            nodes,
            ..Self::default()
        }
    }

    /// Voters 1 to `count`, all live.
    pub(crate) fn of(count: u64) -> Self {
        Self::with(count, |_| {})
    }

    /// Voters 1 to `count`, all live, configured alike.
    pub(crate) fn with(count: u64, configure: impl Fn(&mut Config)) -> Self {
        Self::partly(count, &[], configure)
    }

    /// Voters 1 to `count`, without the dead ones.
    pub(crate) fn partly(count: u64, dead: &[u64], configure: impl Fn(&mut Config)) -> Self {
        let voters: Vec<u64> = (1..=count).collect();
        let live = voters.iter().filter(|id| !dead.contains(id));
        Self::new(live.map(|&id| Setup::new(id, &voters).with(&configure).node()))
    }

    pub(crate) fn ids(&self) -> Vec<u64> {
        self.nodes.keys().copied().collect()
    }

    /// Delivers these messages and all that follow from them. Cuts and losses concern what follows.
    pub(crate) fn send(&mut self, messages: impl IntoIterator<Item = Message>) {
        let mut queue: VecDeque<_> = messages.into_iter().collect();
        while let Some(message) = queue.pop_front() {
            if let Some(node) = self.nodes.get_mut(&message.to.0) {
                let sent = node.answer(message);
                queue.extend(self.filter(sent));
            }
        }
    }

    /// Delivers what a node has to send by itself.
    pub(crate) fn flush(&mut self, id: u64) {
        let sent = self[id].sent();
        let sent = self.filter(sent);
        self.send(sent);
    }

    /// Takes what a node sends as lost.
    pub(crate) fn lose(&mut self, id: u64) {
        self[id].sent();
    }

    fn filter(&mut self, mut messages: Vec<Message>) -> Vec<Message> {
        messages.retain(|message| {
            assert_ne!(message.kind, Hup, "a local message was sent");
            !self.cut.contains(&(message.from.0, message.to.0))
                && !self.ignored.contains(&message.kind)
                && self.hook.as_mut().is_none_or(|hook| hook(message))
        });
        messages
    }

    pub(crate) fn campaign(&mut self, id: u64) {
        self.send([msg(Hup, id, id)]);
    }

    pub(crate) fn propose(&mut self, id: u64, text: &str) {
        self.send([prop(id, id, data(text))]);
    }

    pub(crate) fn beat(&mut self, id: u64) {
        self.send([msg(Beat, id, id)]);
    }

    /// Asks node `at` to see to it that `to` leads.
    pub(crate) fn transfer(&mut self, at: u64, to: u64) {
        self.send([msg(TransferLeader, to, at)]);
    }

    pub(crate) fn read(&mut self, id: u64, context: &'static str) {
        self.send([msg(ReadIndex, id, id).context(context)]);
    }

    /// Loses all messages between two nodes.
    pub(crate) fn cut(&mut self, one: u64, other: u64) {
        self.cut.extend([(one, other), (other, one)]);
    }

    /// Loses all messages from and to a node.
    pub(crate) fn isolate(&mut self, id: u64) {
        for other in self.ids() {
            self.cut(id, other);
        }
    }

    /// Loses all messages of a kind.
    pub(crate) fn ignore(&mut self, kind: MessageKind) {
        self.ignored.push(kind);
    }

    /// Lets `hook` see every message, and decide whether it arrives.
    pub(crate) fn watch(&mut self, hook: impl FnMut(&Message) -> bool + 'static) {
        self.hook = Some(Box::new(hook));
    }

    /// From now on every message arrives again.
    pub(crate) fn heal(&mut self) {
        self.cut.clear();
        self.ignored.clear();
        self.hook = None;
    }

    /// Role and term of all live nodes.
    pub(crate) fn at(&self) -> Vec<(Role, u64)> {
        self.nodes.values().map(Node::at).collect()
    }

    pub(crate) fn commits(&self) -> Vec<u64> {
        self.nodes.values().map(Node::commit).collect()
    }

    pub(crate) fn lasts(&self) -> Vec<u64> {
        self.nodes.values().map(Node::last).collect()
    }

    pub(crate) fn logs(&self) -> Vec<Vec<u64>> {
        self.nodes.values().map(Node::terms).collect()
    }
}
