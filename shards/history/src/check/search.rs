//! Whether the steps of a component fit one order: the search of Wing and Gong (1993), with the memory of configurations
//! that Lowe (2017) gave it.
//!
//! Steps are taken from a linked list of calls and returns; whatever was called before the first return that is left may
//! come next. A dead end puts the last step back and tries the next one; a configuration (the steps taken, and the state)
//! that was visited is not entered again. Four things that hold for registers keep the search short:
//!
//! - what is tried first is what leads to the first return that is left, in the order of revisions (a guess that is right
//!   for a store without faults, and no more: every other order is tried after it);
//! - a step that changes nothing and is true now is taken now, and never put back alone: later it can only be as true;
//! - a version that one step alone writes is not overwritten while somebody is left who must have seen it;
//! - what need not have happened lies apart from the list, and is tried last.

use super::step::{ByValue, Component, Expect, Seen, Step, Version};
use hashbrown::HashTable;
use smallvec::SmallVec;

/// What the search may cost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    /// How often a step may be looked at, be it to take it or to know whether another one can wait for it.
    pub steps: u64,
    /// Words of eight bytes that the memory of configurations may hold.
    pub words: usize,
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// An order that explains everything.
    Order,
    /// There is none.
    NoOrder,
    /// The budget was used up before it was known.
    BudgetExhausted,
}

/// Judges the steps of a component.
///
/// What has an order mostly has one in which each key's revisions grow, and there are few of those: they are searched first,
/// with half of the budget. That there is none of them says nothing of all the others, which then get the other half.
pub(super) fn search(component: &Component, mut budget: Budget) -> Found {
    budget.steps /= 2;
    match Search::new(component, budget, true).run() {
        Found::Order => Found::Order,
        Found::NoOrder | Found::BudgetExhausted => Search::new(component, budget, false).run(),
    }
}

/// The end of a list, and what precedes its beginning.
const HEAD: u32 = 0;

/// A linked list of calls and returns, by their place in the history. Node 0 is its head; step `i` of the required ones
/// has the nodes `1 + 2i` (call) and `2 + 2i` (return).
struct Events {
    next: Vec<u32>,
    previous: Vec<u32>,
    order: Vec<u64>,
}

impl Events {
    fn new(steps: &[&Step]) -> Self {
        let mut nodes: Vec<(u64, u32)> = Vec::with_capacity(steps.len() * 2);
        for (at, step) in (0_u32..).zip(steps) {
            nodes.push((step.invoked, call_of(at)));
            nodes.push((step.returned, call_of(at) + 1));
        }
        // Nodes of equal order stay in the order of their calls: a step that was required because of another one ends
        // with it.
        nodes.sort_by_key(|(order, node)| (*order, *node));
        let count = nodes.len() + 1;
        let mut events = Self {
            next: vec![HEAD; count],
            previous: vec![HEAD; count],
            order: vec![u64::MAX; count],
        };
        let mut last = HEAD;
        for (order, node) in nodes {
            events.order[node as usize] = order;
            events.next[last as usize] = node;
            events.previous[node as usize] = last;
            last = node;
        }
        events.previous[HEAD as usize] = last;
        events
    }

    fn unlink(&mut self, node: u32) {
        let (previous, next) = (self.previous[node as usize], self.next[node as usize]);
        self.next[previous as usize] = next;
        self.previous[next as usize] = previous;
    }

    /// Undoes the last [`unlink`](Self::unlink) that was not undone.
    fn relink(&mut self, node: u32) {
        let (previous, next) = (self.previous[node as usize], self.next[node as usize]);
        self.next[previous as usize] = node;
        self.previous[next as usize] = node;
    }
}

fn call_of(step: u32) -> u32 {
    1 + 2 * step
}

/// The required step whose call a node is; nothing for a return or the end.
fn called(node: u32) -> Option<u32> {
    (node % 2 == 1).then_some(node / 2)
}

/// A step that may come next.
#[derive(Clone, Copy)]
enum Choice {
    Required(u32),
    Optional(u32),
}

/// What may come next, in the order in which it is tried.
type Choices = SmallVec<[(Preference, Choice); 16]>;

/// What is tried first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Preference {
    /// Writes up to the revision that the first return is known to have seen or made.
    Goal(u64),
    /// The step of the first return itself.
    First,
    /// Writes of what that step must have seen.
    Help,
    /// Required writes whose revision is not known.
    Unknown,
    /// Required writes of a later revision.
    Later(u64),
    /// What need not have happened.
    Idle,
}

/// A step that was taken.
struct Frame {
    taken: Choice,
    /// Its place among the choices that there were.
    place: usize,
    /// Versions that it overwrote, oldest first.
    undo: SmallVec<[(u32, Version); 2]>,
    /// Taken because it was true, without a choice.
    forced: bool,
}

struct Search<'a> {
    component: &'a Component,
    budget: Budget,
    required: Vec<&'a Step>,
    optional: Vec<&'a Step>,
    events: Events,
    /// Required steps that are left.
    left: usize,
    /// Bits of the required steps that were taken, and of the optional ones.
    taken: Vec<u64>,
    used: Vec<u64>,
    /// The version of each key.
    state: Vec<Version>,
    /// Required steps that are left and can have seen no other version than this one. Kept for versions that can not come
    /// back, zero for all others.
    waiting: Vec<u32>,
    /// For each required step, the versions whose `waiting` it is counted in.
    needs: Vec<SmallVec<[Version; 2]>>,
    frames: Vec<Frame>,
    visited: Visited,
    /// Set where a key's revisions have to grow.
    growing: Option<Growing>,
}

/// For each key, the required steps that change it and whose revision is known.
struct Growing {
    /// Revision and step, ascending.
    of_key: Vec<Vec<(u64, u32)>>,
    /// How many of them, from the first on, were taken.
    taken: Vec<usize>,
}

impl Growing {
    fn new(component: &Component, required: &[&Step]) -> Self {
        let mut of_key = vec![Vec::new(); component.keys as usize];
        for (at, step) in (0_u32..).zip(required) {
            let revision = component.revision(step);
            if revision > 0 {
                let keys = step.changes.iter().map(|(key, _)| *key as usize);
                keys.for_each(|key| of_key[key].push((revision, at)));
            }
        }
        for steps in &mut of_key {
            steps.sort_unstable();
            steps.dedup();
        }
        Self {
            taken: vec![0; of_key.len()],
            of_key,
        }
    }

    /// Whether a step of this revision comes before none that is left with a smaller one.
    fn allows(&self, step: &Step, revision: u64) -> bool {
        revision == 0
            || step.changes.iter().all(|(key, _)| {
                let key = *key as usize;
                let next = self.of_key[key].get(self.taken[key]);
                next.is_none_or(|(next, _)| revision <= *next)
            })
    }

    /// Goes on to the first step on these keys that is left.
    fn take(&mut self, step: &Step, taken: &[u64]) {
        for (key, _) in &step.changes {
            let left = self.of_key[*key as usize]
                .iter()
                .skip(self.taken[*key as usize]);
            let more = left.take_while(|(_, step)| bit(taken, *step)).count();
            self.taken[*key as usize] += more;
        }
    }

    /// Goes back to this step.
    fn put_back(&mut self, step: &Step, at: (u64, u32)) {
        for (key, _) in &step.changes {
            if let Ok(place) = self.of_key[*key as usize].binary_search(&at) {
                let taken = &mut self.taken[*key as usize];
                *taken = place.min(*taken);
            }
        }
    }
}

impl<'a> Search<'a> {
    fn new(component: &'a Component, budget: Budget, growing: bool) -> Self {
        let (mut required, mut optional): (Vec<&Step>, Vec<&Step>) =
            component.steps.iter().partition(|step| step.required());
        required.sort_by_key(|step| step.invoked);
        optional.sort_by_key(|step| step.invoked);

        let mut writers = vec![0_u32; component.versions.len()];
        // Every key is absent once without anybody's doing.
        writers[..component.keys as usize].fill(1);
        for step in &component.steps {
            let mut written: SmallVec<[Version; 2]> =
                step.changes.iter().map(|(_, version)| *version).collect();
            written.sort_unstable();
            written.dedup();
            written
                .iter()
                .for_each(|version| writers[*version as usize] += 1);
        }
        let by_value = ByValue::new(component);
        let mut waiting = vec![0; component.versions.len()];
        let needs: Vec<SmallVec<[Version; 2]>> = required
            .iter()
            .map(|step| {
                let mut needs = SmallVec::new();
                if step.expect == Expect::All {
                    for (key, seen) in &step.tests {
                        if let [only] = component.candidates(&by_value, *key, *seen)[..]
                            && writers[only as usize] == 1
                            && !needs.contains(&only)
                        {
                            needs.push(only);
                            waiting[only as usize] += 1;
                        }
                    }
                }
                needs
            })
            .collect();
        Self {
            growing: growing.then(|| Growing::new(component, &required)),
            component,
            budget,
            events: Events::new(&required),
            left: required.len(),
            taken: vec![0; required.len().div_ceil(64)],
            used: vec![0; optional.len().div_ceil(64)],
            state: (0..component.keys).collect(),
            required,
            optional,
            waiting,
            needs,
            frames: Vec::new(),
            visited: Visited::default(),
        }
    }

    fn run(mut self) -> Found {
        loop {
            // A new configuration.
            if !self.take_what_is_true() {
                return Found::BudgetExhausted;
            }
            if self.left == 0 {
                return Found::Order;
            }
            let mut place = 0;
            if !self.enter() {
                match self.put_back() {
                    Some(after) => place = after,
                    None => return Found::NoOrder,
                }
            }
            while !self.take_next(place) {
                if self.budget.steps == 0 {
                    return Found::BudgetExhausted;
                }
                match self.put_back() {
                    Some(after) => place = after,
                    None => return Found::NoOrder,
                }
            }
            if self.budget.steps == 0 || self.visited.words() > self.budget.words {
                return Found::BudgetExhausted;
            }
            self.budget.steps -= 1;
        }
    }

    /// Takes all required candidates that change nothing and are true. False if the budget is used up.
    fn take_what_is_true(&mut self) -> bool {
        let mut node = self.events.next[HEAD as usize];
        while let Some(step) = called(node) {
            let candidate = self.required[step as usize];
            if candidate.changes.is_empty() && self.is_true(candidate) {
                if self.budget.steps == 0 {
                    return false;
                }
                self.budget.steps -= 1;
                let previous = self.events.previous[node as usize];
                self.take_required(step);
                self.frames.push(Frame {
                    taken: Choice::Required(step),
                    place: 0,
                    undo: SmallVec::new(),
                    forced: true,
                });
                node = self.events.next[previous as usize];
            } else {
                node = self.events.next[node as usize];
            }
        }
        true
    }

    /// Takes the first choice from a place on that is possible.
    fn take_next(&mut self, from: usize) -> bool {
        let (choices, looks) = self.choices();
        self.budget.steps = self.budget.steps.saturating_sub(looks);
        for (place, (_, choice)) in choices.into_iter().enumerate().skip(from) {
            let candidate = match choice {
                Choice::Required(step) => {
                    // It no longer waits for what it is about to overwrite.
                    self.take_required(step);
                    self.required[step as usize]
                }
                Choice::Optional(at) => {
                    set_bit(&mut self.used, at, true);
                    self.optional[at as usize]
                }
            };
            if let Some(undo) = self.change(candidate) {
                self.frames.push(Frame {
                    taken: choice,
                    place,
                    undo,
                    forced: false,
                });
                return true;
            }
            self.put_back_choice(choice);
        }
        false
    }

    /// Everything that changes something and may come next, which depends on the configuration alone; and how many looks it
    /// took to know.
    fn choices(&self) -> (Choices, u64) {
        let mut choices = Choices::new();
        let mut window = SmallVec::<[u32; 16]>::new();
        let mut node = self.events.next[HEAD as usize];
        while let Some(step) = called(node) {
            window.push(step);
            node = self.events.next[node as usize];
        }
        let first_return = self.events.order[node as usize];
        let first = (node != HEAD).then(|| (node - 2) / 2);
        let goal = first.map_or(0, |step| self.goal(self.required[step as usize]));
        let helps = |step: &Step| {
            first.is_some_and(|first| self.serves(step, self.required[first as usize]))
        };
        for step in &window {
            let candidate = self.required[*step as usize];
            if candidate.changes.is_empty() || !self.is_true(candidate) || !self.grows(candidate) {
                continue;
            }
            let preference = match self.component.revision(candidate) {
                known if known > 0 && known <= goal => Preference::Goal(known),
                _ if first == Some(*step) => Preference::First,
                _ if helps(candidate) => Preference::Help,
                0 => Preference::Unknown,
                known => Preference::Later(known),
            };
            choices.push((preference, Choice::Required(*step)));
        }
        let open = (0..).zip(&self.optional);
        let open = open.take_while(|(_, step)| step.invoked <= first_return);
        let open = open.filter(|(at, _)| !bit(&self.used, *at));
        let open: SmallVec<[(u32, &Step); 16]> = open.map(|(at, step)| (at, *step)).collect();
        for (at, candidate) in &open {
            if !self.is_true(candidate) || !self.grows(candidate) {
                continue;
            }
            let preference = match self.component.revision(candidate) {
                known if known > 0 && known <= goal => Preference::Goal(known),
                _ if helps(candidate) => Preference::Help,
                _ => Preference::Idle,
            };
            // A write of one key that asks for nothing can wait until just before the first step that sees what it
            // wrote: whatever comes in between does not know the difference.
            let can_wait = candidate.tests.is_empty() && candidate.changes.len() == 1;
            let seen_next = || {
                let others = open.iter().filter(|(other, _)| other != at);
                let required = window.iter().map(|step| self.required[*step as usize]);
                required
                    .chain(others.map(|(_, step)| *step))
                    .any(|step| self.serves(candidate, step))
            };
            if !can_wait || seen_next() {
                choices.push((preference, Choice::Optional(*at)));
            }
        }
        // Stable: the earlier call first.
        choices.sort_by_key(|(preference, _)| *preference);
        // At worst each open step is held against all that may come next.
        let next = window.len() + open.len();
        (choices, (next + open.len() * next) as u64)
    }

    /// Whether revisions go on growing where they have to.
    fn grows(&self, step: &Step) -> bool {
        let revision = self.component.revision(step);
        self.growing
            .as_ref()
            .is_none_or(|growing| growing.allows(step, revision))
    }

    /// Whether what `write` writes may decide what `step` sees.
    fn serves(&self, write: &Step, step: &Step) -> bool {
        write.changes.iter().any(|(key, version)| {
            let counts =
                step.deleted.is_some() && step.changes.iter().any(|(other, _)| other == key);
            let sees = |(other, seen): &(u32, Seen)| {
                let now = self.component.info(self.state[*key as usize]);
                other == key
                    && (step.expect != Expect::All
                        || (seen.holds(now) != Some(true)
                            && seen.holds(self.component.info(*version)) != Some(false)))
            };
            counts || step.tests.iter().any(sees)
        })
    }

    /// The revision at which a step can be taken, as far as it is known, or 0.
    fn goal(&self, step: &Step) -> u64 {
        let seen = step.tests.iter().filter_map(|(_, seen)| match seen {
            Seen::Value(_, revision) | Seen::Revision(revision) => Some(*revision),
            Seen::Exists(_) => None,
        });
        seen.chain([self.component.revision(step)])
            .max()
            .unwrap_or_default()
    }

    /// Puts back the newest step that was a choice, and all that was taken without one since. Gives the place of the
    /// choice that comes after it; nothing if there is none left.
    fn put_back(&mut self) -> Option<usize> {
        loop {
            let frame = self.frames.pop()?;
            for (key, version) in frame.undo.iter().rev() {
                self.state[*key as usize] = *version;
            }
            self.put_back_choice(frame.taken);
            if !frame.forced {
                return Some(frame.place + 1);
            }
        }
    }

    fn put_back_choice(&mut self, choice: Choice) {
        match choice {
            Choice::Required(step) => self.put_back_required(step),
            Choice::Optional(at) => set_bit(&mut self.used, at, false),
        }
    }

    fn take_required(&mut self, step: u32) {
        let call = call_of(step);
        self.events.unlink(call);
        self.events.unlink(call + 1);
        set_bit(&mut self.taken, step, true);
        self.left -= 1;
        for version in &self.needs[step as usize] {
            self.waiting[*version as usize] -= 1;
        }
        if let Some(growing) = &mut self.growing {
            growing.take(self.required[step as usize], &self.taken);
        }
    }

    fn put_back_required(&mut self, step: u32) {
        let call = call_of(step);
        self.events.relink(call + 1);
        self.events.relink(call);
        set_bit(&mut self.taken, step, false);
        self.left += 1;
        for version in &self.needs[step as usize] {
            self.waiting[*version as usize] += 1;
        }
        if let Some(growing) = &mut self.growing {
            let taken = self.required[step as usize];
            growing.put_back(taken, (self.component.revision(taken), step));
        }
    }

    /// Whether what a step saw is so now.
    fn is_true(&self, step: &Step) -> bool {
        let holds =
            |(key, seen): &(u32, Seen)| seen.holds(self.component.info(self.state[*key as usize]));
        match step.expect {
            Expect::All => step.tests.iter().all(|test| holds(test) != Some(false)),
            Expect::FirstFails(first) => {
                let (before, rest) = step.tests.split_at(first);
                before.iter().all(|test| holds(test) != Some(false))
                    && rest.first().is_some_and(|test| holds(test) != Some(true))
            }
            Expect::SomeFails => step.tests.iter().any(|test| holds(test) != Some(true)),
        }
    }

    /// Makes a step's changes, unless they contradict its answer or take away what somebody must have seen. Gives what it
    /// overwrote.
    fn change(&mut self, step: &Step) -> Option<SmallVec<[(u32, Version); 2]>> {
        let mut undo = SmallVec::new();
        let mut deleted = 0;
        for (key, version) in &step.changes {
            let now = &mut self.state[*key as usize];
            let absent = *key;
            if *version == absent && *now != absent {
                deleted += 1;
            }
            undo.push((*key, *now));
            *now = *version;
        }
        let answered = step.deleted.is_none_or(|count| count == deleted);
        let lost = |(key, before): &(u32, Version)| {
            self.state[*key as usize] != *before && self.waiting[*before as usize] > 0
        };
        if answered && !undo.iter().any(lost) {
            return Some(undo);
        }
        for (key, version) in undo.iter().rev() {
            self.state[*key as usize] = *version;
        }
        None
    }

    /// Notes the configuration. False if it was visited before.
    fn enter(&mut self) -> bool {
        // All required steps before this one were taken.
        let first = self
            .taken
            .iter()
            .position(|word| *word != u64::MAX)
            .unwrap_or(self.taken.len());
        let last = self.taken.iter().rposition(|word| *word != 0);
        let window = last.map_or(0, |last| (last + 1).saturating_sub(first));
        let used = self
            .used
            .iter()
            .rposition(|word| *word != 0)
            .map_or(0, |last| last + 1);
        let scratch = &mut self.visited.scratch;
        scratch.clear();
        scratch.extend([first as u64, window as u64, used as u64]);
        scratch.extend_from_slice(&self.taken[first..first + window]);
        scratch.extend_from_slice(&self.used[..used]);
        scratch.extend(self.state.chunks(2).map(|pair| {
            pair.iter()
                .fold(0, |word, version| word << 32 | u64::from(*version))
        }));
        self.visited.insert_scratch()
    }
}

fn bit(words: &[u64], at: u32) -> bool {
    words[at as usize / 64] >> (at % 64) & 1 == 1
}

fn set_bit(words: &mut [u64], at: u32, value: bool) {
    let mask = 1 << (at % 64);
    if value {
        words[at as usize / 64] |= mask;
    } else {
        words[at as usize / 64] &= !mask;
    }
}

/// Configurations that were visited, one behind the other in one piece of memory.
#[derive(Default)]
struct Visited {
    words: Vec<u64>,
    /// Start and length of each.
    table: HashTable<(usize, usize)>,
    scratch: Vec<u64>,
}

impl Visited {
    fn words(&self) -> usize {
        self.words.len()
    }

    /// Adds `scratch`. False if it is there already.
    fn insert_scratch(&mut self) -> bool {
        let hash = hash(&self.scratch);
        let words = &self.words;
        let same =
            |(start, length): &(usize, usize)| words[*start..*start + *length] == self.scratch[..];
        if self.table.find(hash, same).is_some() {
            return false;
        }
        let entry = (self.words.len(), self.scratch.len());
        self.words.extend_from_slice(&self.scratch);
        let words = &self.words;
        self.table.insert_unique(hash, entry, |(start, length)| {
            self::hash(&words[*start..*start + *length])
        });
        true
    }
}

/// A hash that is the same in every run: multiply and fold, word by word.
fn hash(words: &[u64]) -> u64 {
    words.iter().fold(0x9e37_79b9_7f4a_7c15, |hash, word| {
        let product = u128::from(hash ^ word) * 0xd6e8_feb8_6659_fd93;
        (product as u64) ^ (product >> 64) as u64
    })
}
