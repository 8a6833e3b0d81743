//! Anomalies planted into true histories: each is rejected, and the history without it is accepted.
//!
//! A plant changes as little as it needs to make the history false for certain; why it is false stands at each. All values
//! are unique, so a value names its write.

use crate::script::{Outcome, Script, found};
use crate::store::{self, Mix};
use bytes::Bytes;
use fastrand::Rng;
use flotilla_history::{Answer, Call, Change, Condition, Found, Level, Limits, Rule, Test, check};
use std::collections::{BTreeMap, BTreeSet};

/// Planted of each kind.
const EACH: usize = 45;
/// Operations that a minimal explanation may need.
const WINDOW_MAX: usize = 12;

type Plant = fn(&mut Script, &mut Rng) -> Option<()>;

const KINDS: &[(&str, Plant)] = &[
    ("stale read", stale_read),
    ("lost update", lost_update),
    ("acknowledged write gone", write_gone),
    ("failed write is seen", failed_is_seen),
    ("failed write is seen by a weak read", failed_is_seen_weakly),
    ("read from the future", future),
    ("value out of thin air", thin_air),
    ("compare and set succeeds twice", cas_twice),
    ("condition fails although true", true_condition_fails),
    ("refused batch is seen", refused_is_seen),
    ("deleted key resurrected", resurrected),
    ("delete finds nothing", delete_finds_nothing),
    ("fractured batch", fractured),
    ("stale read of a batch", stale_pair),
    ("skipped anchor", skipped_anchor),
    ("repeated anchor", repeated_anchor),
    ("anchors out of order", unordered_anchors),
    ("stale row", stale_row),
    ("duplicated append", duplicated_append),
    ("lost append", lost_append),
    ("reordered append", reordered_append),
    ("session out of order", session_out_of_order),
    ("list goes back", list_goes_back),
    ("increments lost", increment_lost),
    ("increments doubled", increment_doubled),
    ("one increment, two answers alike", increments_alike),
    ("counter goes back", counter_goes_back),
    ("replica goes back", replica_goes_back),
    ("session goes back", session_goes_back),
    ("revision names two writes", revision_twice),
    ("revision goes back", revision_back),
];

#[test]
fn planted_anomalies_are_rejected() {
    assert!(KINDS.len() >= 10 && KINDS.len() * EACH >= 1_000);
    println!(
        "{:36} {:>7} {:>8} {:>6}  found as",
        "kind", "planted", "rejected", "window"
    );
    let mut all = 0;
    for (name, plant) in KINDS {
        let (mut planted, mut rejected, mut widest) = (0, 0, 0);
        let mut rules: BTreeSet<&str> = BTreeSet::new();
        for seed in 0.. {
            assert!(seed < 5_000, "{name}: only {planted} could be planted");
            let mut rng = Rng::with_seed(seed);
            let mix = Mix {
                revisions: seed % 2 == 0,
                ..Mix::EVERYTHING
            };
            let mut script = store::run(&mut rng, mix);
            let before = script.record();
            if plant(&mut script, &mut rng).is_none() {
                continue;
            }
            let report = check(&before, &Limits::default());
            assert!(
                report.passed(),
                "{name}, seed {seed}: {}",
                report.display(&before)
            );

            planted += 1;
            let history = script.record();
            let report = check(&history, &Limits::default());
            assert!(
                !report.violations.is_empty(),
                "{name}, seed {seed}: accepted"
            );
            rejected += 1;
            for violation in &report.violations {
                rules.insert(violation.rule.name());
                widest = widest.max(violation.window.len());
                assert!(
                    violation.window.len() <= WINDOW_MAX,
                    "{name}, seed {seed}: {}",
                    report.display(&history)
                );
            }
            if planted == EACH {
                break;
            }
        }
        let rules: Vec<&str> = rules.into_iter().collect();
        println!(
            "{name:36} {planted:7} {rejected:8} {widest:6}  {}",
            rules.join(", ")
        );
        all += rejected;
    }
    println!("{:36} {all:7} {all:8}", "all");
    assert_eq!(all, KINDS.len() * EACH);
}

/// One write of a key that was acknowledged.
#[derive(Clone)]
struct Write {
    op: usize,
    value: Bytes,
    revision: u64,
}

impl Script {
    fn pick<T: Clone>(rng: &mut Rng, from: &[T]) -> Option<T> {
        (!from.is_empty()).then(|| from[rng.usize(..from.len())].clone())
    }

    fn find(&self, of: impl Fn(&Call, &Answer) -> bool) -> Vec<usize> {
        let ops = self.ops.iter().enumerate();
        ops.filter(|(_, op)| op.answer().is_some_and(|answer| of(&op.call, answer)))
            .map(|(at, _)| at)
            .collect()
    }

    fn gets(&self, of: impl Fn(&Bytes, Level) -> bool) -> Vec<usize> {
        self.find(|call, _| matches!(call, Call::Get { key, level } if of(key, *level)))
    }

    /// A linearizable get of one key, and that key.
    fn some_get(&self, rng: &mut Rng) -> Option<(usize, Bytes)> {
        let get = Self::pick(rng, &self.gets(|_, level| level == Level::Linearizable))?;
        let key = key_of(&self.ops[get].call)?;
        Some((get, key))
    }

    fn writes(&self, of: &Bytes) -> Vec<Write> {
        let ops = self.ops.iter().enumerate();
        ops.filter_map(|(op, at)| match (&at.call, at.answer()?) {
            (Call::Put { key, value }, Answer::Put { revision }) if key == of => Some(Write {
                op,
                value: value.clone(),
                revision: *revision,
            }),
            (Call::Batch { changes, .. }, Answer::Batch { revision, .. }) => {
                changes.iter().find_map(|change| match change {
                    Change::Put { key, value } if key == of => Some(Write {
                        op,
                        value: value.clone(),
                        revision: *revision,
                    }),
                    Change::Put { .. } | Change::Delete { .. } => None,
                })
            }
            _ => None,
        })
        .collect()
    }

    /// Two writes of a key, the first of which had returned before the second was invoked, which had before `until`.
    fn overwritten(&self, rng: &mut Rng, key: &Bytes, until: usize) -> Option<(Write, Write)> {
        let writes = self.writes(key);
        let mut pairs = Vec::new();
        for (one, other) in writes
            .iter()
            .flat_map(|w| writes.iter().map(move |o| (w, o)))
        {
            let before = self.ops[one.op].precedes(&self.ops[other.op])
                && self.ops[other.op].precedes(&self.ops[until]);
            if before {
                pairs.push((one.clone(), other.clone()));
            }
        }
        Self::pick(rng, &pairs)
    }

    fn answer(&mut self, op: usize, answer: Answer) {
        self.ops[op].outcome = Outcome::Ok(answer);
    }

    fn answer_get(&mut self, op: usize, write: &Write) {
        self.answer(op, Answer::Get(Some(found(&write.value, write.revision))));
    }

    fn lists(&self) -> Vec<usize> {
        self.find(|call, _| matches!(call, Call::ReadList { .. }))
    }

    fn elements(&self, read: usize) -> Vec<Bytes> {
        match self.ops[read].answer() {
            Some(Answer::ReadList(elements)) => elements.clone(),
            _ => Vec::new(),
        }
    }

    fn change_lists(&mut self, change: impl Fn(&mut Vec<Bytes>)) {
        for read in self.lists() {
            let mut elements = self.elements(read);
            change(&mut elements);
            self.answer(read, Answer::ReadList(elements));
        }
    }

    /// The acknowledged append of each element.
    fn appends(&self) -> BTreeMap<Bytes, usize> {
        let appends = self.find(|call, _| matches!(call, Call::Append { .. }));
        appends
            .into_iter()
            .filter_map(|op| match &self.ops[op].call {
                Call::Append { element, .. } => Some((element.clone(), op)),
                _ => None,
            })
            .collect()
    }

    fn scan_rows(&mut self, op: usize) -> Option<&mut Vec<flotilla_history::Row>> {
        match &mut self.ops[op].outcome {
            Outcome::Ok(Answer::Scan { rows, .. }) => Some(rows),
            _ => None,
        }
    }

    fn scans(&self) -> Vec<usize> {
        self.find(|_, answer| matches!(answer, Answer::Scan { rows, .. } if rows.len() > 2))
    }

    fn counter_reads(&self) -> Vec<usize> {
        self.find(|call, _| matches!(call, Call::ReadCounter { .. }))
    }

    fn increments(&self) -> Vec<usize> {
        let ops = self.ops.iter().enumerate();
        ops.filter(|(_, op)| {
            matches!(op.call, Call::Increment { .. }) && op.outcome != Outcome::Failed
        })
        .map(|(at, _)| at)
        .collect()
    }
}

fn key_of(call: &Call) -> Option<Bytes> {
    match call {
        Call::Get { key, .. } | Call::Put { key, .. } | Call::Delete { key } => Some(key.clone()),
        _ => None,
    }
}

/// The value had been overwritten before the read began, and nobody writes it again.
fn stale_read(script: &mut Script, rng: &mut Rng) -> Option<()> {
    let (get, key) = script.some_get(rng)?;
    let (old, _) = script.overwritten(rng, &key, get)?;
    script.answer_get(get, &old);
    Some(())
}

/// All who saw a value see an older one instead; one of them at least began after the write had returned.
fn lost_update(script: &mut Script, rng: &mut Rng) -> Option<()> {
    let (get, key) = script.some_get(rng)?;
    let (old, lost) = script.overwritten(rng, &key, get)?;
    let saw =
        |answer: &Answer| matches!(answer, Answer::Get(Some(found)) if found.value == lost.value);
    let readers = script.find(|_, answer| saw(answer));
    readers.contains(&get).then_some(())?;
    for reader in readers {
        script.answer_get(reader, &old);
    }
    Some(())
}

/// The key was written before the read began, and nobody deletes it.
fn write_gone(script: &mut Script, rng: &mut Rng) -> Option<()> {
    let (get, key) = script.some_get(rng)?;
    let deletes = |call: &Call| matches!(call, Call::Delete { key: of } if *of == key);
    if script.ops.iter().any(|op| deletes(&op.call)) {
        return None;
    }
    let written = script.writes(&key);
    written
        .iter()
        .any(|write| script.ops[write.op].precedes(&script.ops[get]))
        .then_some(())?;
    script.answer(get, Answer::Get(None));
    Some(())
}

fn plant_failed(script: &mut Script, rng: &mut Rng, weak: bool) -> Option<()> {
    let failed = |op: &crate::script::Op| match (&op.call, &op.outcome) {
        (Call::Put { key, value }, Outcome::Failed) => Some((key.clone(), value.clone())),
        _ => None,
    };
    let failed: Vec<(Bytes, Bytes)> = script.ops.iter().filter_map(failed).collect();
    let (key, value) = Script::pick(rng, &failed)?;
    let gets = script.gets(|of, level| *of == key && (level != Level::Linearizable) == weak);
    let get = Script::pick(rng, &gets)?;
    script.answer(get, Answer::Get(Some(found(&value, 0))));
    Some(())
}

/// The value is that of a write that failed.
fn failed_is_seen(script: &mut Script, rng: &mut Rng) -> Option<()> {
    plant_failed(script, rng, false)
}

/// Neither may a weak read see it.
fn failed_is_seen_weakly(script: &mut Script, rng: &mut Rng) -> Option<()> {
    plant_failed(script, rng, true)
}

/// The write of the value was invoked after the read had returned.
fn future(script: &mut Script, rng: &mut Rng) -> Option<()> {
    let get = Script::pick(rng, &script.gets(|_, _| true))?;
    let key = key_of(&script.ops[get].call)?;
    let mut later = script.writes(&key);
    later.retain(|write| script.ops[get].precedes(&script.ops[write.op]));
    let write = Script::pick(rng, &later)?;
    script.answer_get(get, &write);
    Some(())
}

/// Nobody writes the value.
fn thin_air(script: &mut Script, rng: &mut Rng) -> Option<()> {
    let get = Script::pick(rng, &script.gets(|_, _| true))?;
    script.answer(get, Answer::Get(Some(found(&"made up".into(), 0))));
    Some(())
}

/// Two conditional writes found the same value, which was written once, and both replaced it.
fn cas_twice(script: &mut Script, rng: &mut Rng) -> Option<()> {
    let batches = script
        .find(|call, _| matches!(call, Call::Batch { conditions, .. } if conditions.len() == 1));
    let of = |script: &Script, op: usize| match &script.ops[op].call {
        Call::Batch { conditions, .. } => conditions.first().cloned(),
        _ => None,
    };
    let won = |op: &usize| {
        matches!(script.ops[*op].answer(), Some(Answer::Batch { .. }))
            && of(script, *op).is_some_and(|c| matches!(c.test, Test::ValueEquals(_)))
    };
    let winners: Vec<usize> = batches.iter().copied().filter(won).collect();
    let winner = Script::pick(rng, &winners)?;
    let condition = of(script, winner)?;
    let same_key =
        |op: &usize| *op != winner && of(script, *op).is_some_and(|c| c.key == condition.key);
    let others: Vec<usize> = batches.iter().copied().filter(same_key).collect();
    let other = Script::pick(rng, &others)?;
    if let Call::Batch { conditions, .. } = &mut script.ops[other].call {
        *conditions = vec![condition];
    }
    let revision = 0;
    script.answer(
        other,
        Answer::Batch {
            revision,
            deleted: None,
        },
    );
    Some(())
}

/// A put of an anchor that is not one of the beginning.
fn anchor_put(script: &Script, rng: &mut Rng) -> Option<usize> {
    let puts =
        script.find(|call, _| matches!(call, Call::Put { key, .. } if key.starts_with(b"s")));
    let puts: Vec<usize> = puts
        .into_iter()
        .filter(|op| script.ops[*op].client != 0)
        .collect();
    Script::pick(rng, &puts)
}

/// Anchors always exist.
fn true_condition_fails(script: &mut Script, rng: &mut Rng) -> Option<()> {
    let op = anchor_put(script, rng)?;
    let Call::Put { key, value } = script.ops[op].call.clone() else {
        return None;
    };
    script.ops[op].call = Call::Batch {
        conditions: vec![Condition {
            key: key.clone(),
            test: Test::Exists(true),
        }],
        changes: vec![Change::Put { key, value }],
    };
    script.answer(op, Answer::ConditionFailed { first: Some(0) });
    Some(())
}

/// What somebody saw is said not to have been written.
fn refused_is_seen(script: &mut Script, rng: &mut Rng) -> Option<()> {
    let seen: BTreeSet<Bytes> = script
        .ops
        .iter()
        .filter_map(|op| match op.answer() {
            Some(Answer::Get(Some(found))) => Some(found.value.clone()),
            _ => None,
        })
        .collect();
    let puts_seen =
        |change: &Change| matches!(change, Change::Put { value, .. } if seen.contains(value));
    let batches = script.find(|call, answer| {
        matches!(answer, Answer::Batch { .. })
            && matches!(call, Call::Batch { conditions, changes }
                if !conditions.is_empty() && changes.iter().any(puts_seen))
    });
    let batch = Script::pick(rng, &batches)?;
    script.answer(batch, Answer::ConditionFailed { first: None });
    Some(())
}

/// The value had been written before a delete that found the key, which had returned before the read began.
fn resurrected(script: &mut Script, rng: &mut Rng) -> Option<()> {
    let (get, key) = script.some_get(rng)?;
    let deletes = script.find(|call, answer| {
        matches!(answer, Answer::Delete { deleted: true, .. })
            && key_of(call).as_ref() == Some(&key)
    });
    let mut old = Vec::new();
    for delete in deletes {
        for write in script.writes(&key) {
            let dead = script.ops[write.op].precedes(&script.ops[delete])
                && script.ops[delete].precedes(&script.ops[get]);
            if dead {
                old.push(write);
            }
        }
    }
    let old = Script::pick(rng, &old)?;
    script.answer_get(get, &old);
    Some(())
}

/// Anchors always exist.
fn delete_finds_nothing(script: &mut Script, rng: &mut Rng) -> Option<()> {
    let op = anchor_put(script, rng)?;
    let key = key_of(&script.ops[op].call)?;
    script.ops[op].call = Call::Delete { key };
    script.answer(
        op,
        Answer::Delete {
            deleted: false,
            revision: 0,
        },
    );
    Some(())
}

/// A read of the pair, and two batches of which the first had returned before the second was invoked.
fn pair_read(script: &Script, rng: &mut Rng) -> Option<(usize, [Write; 2], [Write; 2])> {
    let reads = script.find(|call, _| matches!(call, Call::BatchGet { .. }));
    let read = Script::pick(rng, &reads)?;
    let [left, right] = store::pair();
    let (old, new) = script.overwritten(rng, &left, read)?;
    let of = |op: usize| {
        script
            .writes(&right)
            .into_iter()
            .find(|write| write.op == op)
    };
    let (old_right, new_right) = (of(old.op)?, of(new.op)?);
    Some((read, [old, old_right], [new, new_right]))
}

fn found_write(write: &Write) -> Option<Found> {
    Some(found(&write.value, write.revision))
}

/// The two keys are written together alone, and these values of them were not.
fn fractured(script: &mut Script, rng: &mut Rng) -> Option<()> {
    let (read, [old, _], [_, new]) = pair_read(script, rng)?;
    script.answer(
        read,
        Answer::BatchGet(vec![found_write(&old), found_write(&new)]),
    );
    Some(())
}

/// The values are of one batch, but another had replaced them before the read began.
fn stale_pair(script: &mut Script, rng: &mut Rng) -> Option<()> {
    let (read, [left, right], _) = pair_read(script, rng)?;
    script.answer(
        read,
        Answer::BatchGet(vec![found_write(&left), found_write(&right)]),
    );
    Some(())
}

/// Anchors always exist.
fn skipped_anchor(script: &mut Script, rng: &mut Rng) -> Option<()> {
    let scan = Script::pick(rng, &script.scans())?;
    let rows = script.scan_rows(scan)?;
    rows.remove(rng.usize(..rows.len()));
    Some(())
}

/// A scan gives every key once.
fn repeated_anchor(script: &mut Script, rng: &mut Rng) -> Option<()> {
    let scan = Script::pick(rng, &script.scans())?;
    let rows = script.scan_rows(scan)?;
    let at = rng.usize(..rows.len());
    let row = rows[at].clone();
    rows.insert(rng.usize(at..rows.len()) + 1, row);
    Some(())
}

/// A scan gives keys in order.
fn unordered_anchors(script: &mut Script, rng: &mut Rng) -> Option<()> {
    let scan = Script::pick(rng, &script.scans())?;
    let rows = script.scan_rows(scan)?;
    let at = rng.usize(1..rows.len());
    rows.swap(at - 1, at);
    Some(())
}

/// The row's value had been overwritten before the scan began.
fn stale_row(script: &mut Script, rng: &mut Rng) -> Option<()> {
    let scan = Script::pick(rng, &script.scans())?;
    let at = rng.usize(..script.scan_rows(scan)?.len());
    let key = script.scan_rows(scan)?[at].key.clone();
    let (old, _) = script.overwritten(rng, &key, scan)?;
    let row = &mut script.scan_rows(scan)?[at];
    row.value = Some(old.value);
    row.revision = old.revision;
    Some(())
}

/// An element that was appended once is there twice.
fn duplicated_append(script: &mut Script, rng: &mut Rng) -> Option<()> {
    let read = Script::pick(rng, &script.lists())?;
    let mut elements = script.elements(read);
    let element = Script::pick(rng, &elements)?;
    elements.insert(rng.usize(..=elements.len()), element);
    script.answer(read, Answer::ReadList(elements));
    Some(())
}

/// The append had returned before the read began, and no read shows it.
fn lost_append(script: &mut Script, rng: &mut Rng) -> Option<()> {
    let read = Script::pick(rng, &script.lists())?;
    let mut lost = script.appends();
    lost.retain(|_, op| script.ops[*op].precedes(&script.ops[read]));
    let lost = Script::pick(rng, &lost.into_keys().collect::<Vec<_>>())?;
    script.change_lists(|elements| elements.retain(|element| *element != lost));
    Some(())
}

/// The first append had returned before the second was invoked, but all reads show them the other way round.
fn reordered_append(script: &mut Script, rng: &mut Rng) -> Option<()> {
    let read = Script::pick(rng, &script.lists())?;
    let appends = script.appends();
    let mut elements = script.elements(read);
    elements.retain(|element| appends.contains_key(element));
    let (one, other) = (Script::pick(rng, &elements)?, Script::pick(rng, &elements)?);
    script.ops[appends[&one]]
        .precedes(&script.ops[appends[&other]])
        .then_some(())?;
    script.change_lists(|elements| {
        let place = |of: &Bytes| elements.iter().position(|element| element == of);
        if let (Some(one), Some(other)) = (place(&one), place(&other)) {
            elements.swap(one, other);
        }
    });
    Some(())
}

/// Two elements of a session stand against their sequences.
fn session_out_of_order(script: &mut Script, rng: &mut Rng) -> Option<()> {
    let read = Script::pick(rng, &script.lists())?;
    let appends = script.appends();
    let mut elements = script.elements(read);
    elements.retain(|element| appends.contains_key(element));
    let session = |script: &Script, element: &Bytes| match &script.ops[appends[element]].call {
        Call::Append { session, .. } => *session,
        _ => None,
    };
    let (one, other) = (Script::pick(rng, &elements)?, Script::pick(rng, &elements)?);
    let (of_one, of_other) = (session(script, &one)?, session(script, &other)?);
    (one != other && of_one.0 == of_other.0).then_some(())?;
    for (element, new) in [(&one, of_other), (&other, of_one)] {
        if let Call::Append { session, .. } = &mut script.ops[appends[element]].call {
            *session = Some(new);
        }
    }
    Some(())
}

/// A read that began after another had returned shows less.
fn list_goes_back(script: &mut Script, rng: &mut Rng) -> Option<()> {
    let lists = script.lists();
    let (one, other) = (Script::pick(rng, &lists)?, Script::pick(rng, &lists)?);
    script.ops[one].precedes(&script.ops[other]).then_some(())?;
    let mut elements = script.elements(one);
    elements.pop()?;
    script.answer(other, Answer::ReadList(elements));
    Some(())
}

/// The read misses one of the increments that had returned before it began.
fn increment_lost(script: &mut Script, rng: &mut Rng) -> Option<()> {
    let read = Script::pick(rng, &script.counter_reads())?;
    let increments = script.increments();
    let before = increments
        .iter()
        .filter(|op| script.ops[**op].precedes(&script.ops[read]))
        .count() as u64;
    script.answer(read, Answer::ReadCounter(before.checked_sub(1)?));
    Some(())
}

/// The read counts more than all that had been invoked before it returned.
fn increment_doubled(script: &mut Script, rng: &mut Rng) -> Option<()> {
    let read = Script::pick(rng, &script.counter_reads())?;
    let increments = script.increments();
    let invoked = increments
        .iter()
        .filter(|op| script.ops[**op].invoked < script.ops[read].returned)
        .count() as u64;
    script.answer(read, Answer::ReadCounter(invoked + 1));
    Some(())
}

/// Each increment makes a value of its own.
fn increments_alike(script: &mut Script, rng: &mut Rng) -> Option<()> {
    let told = script.find(|_, answer| matches!(answer, Answer::Increment { value: Some(_) }));
    let (one, other) = (Script::pick(rng, &told)?, Script::pick(rng, &told)?);
    (one != other).then_some(())?;
    let answer = script.ops[one].answer()?.clone();
    script.answer(other, answer);
    Some(())
}

/// A read that began after another had returned shows less.
fn counter_goes_back(script: &mut Script, rng: &mut Rng) -> Option<()> {
    let reads = script.counter_reads();
    let (one, other) = (Script::pick(rng, &reads)?, Script::pick(rng, &reads)?);
    script.ops[one].precedes(&script.ops[other]).then_some(())?;
    let Some(Answer::ReadCounter(value)) = script.ops[one].answer() else {
        return None;
    };
    let less = value.checked_sub(1)?;
    script.answer(other, Answer::ReadCounter(less));
    Some(())
}

/// Two weak reads of one key that may not go back: the later one gets an older version than the earlier one.
fn goes_back(
    script: &mut Script,
    rng: &mut Rng,
    claims: impl Fn(Level) -> bool,
    same_client: bool,
) -> Option<()> {
    let gets = script.gets(|_, level| claims(level));
    let mut choices = Vec::new();
    for (one, other) in gets.iter().flat_map(|g| gets.iter().map(move |o| (*g, *o))) {
        let (earlier, later) = (&script.ops[one], &script.ops[other]);
        let alike = earlier.call == later.call && (!same_client || earlier.client == later.client);
        if let Some(Answer::Get(Some(found))) = earlier.answer()
            && alike
            && earlier.precedes(later)
        {
            let mut older = script.writes(&key_of(&later.call)?);
            older.retain(|write| write.revision < found.revision && write.revision > 0);
            choices.extend(older.into_iter().map(|write| (other, write)));
        }
    }
    let (read, older) = Script::pick(rng, &choices)?;
    script.answer_get(read, &older);
    Some(())
}

/// The answers of one replica never go back.
fn replica_goes_back(script: &mut Script, rng: &mut Rng) -> Option<()> {
    goes_back(
        script,
        rng,
        |level| matches!(level, Level::Replica(_)),
        false,
    )
}

/// The reads of one session never go back.
fn session_goes_back(script: &mut Script, rng: &mut Rng) -> Option<()> {
    goes_back(script, rng, |level| level == Level::Monotonic, true)
}

/// Two puts of one key: all have revisions of their own.
fn two_puts(script: &Script, rng: &mut Rng) -> Option<(Write, Write)> {
    let key = match rng.bool() {
        true => store::key(0),
        false => store::anchor(0),
    };
    let mut writes = script.writes(&key);
    writes.retain(|write| {
        write.revision > 1 && matches!(script.ops[write.op].call, Call::Put { .. })
    });
    let (one, other) = (Script::pick(rng, &writes)?, Script::pick(rng, &writes)?);
    (one.op != other.op).then_some((one, other))
}

/// A revision is that of one write.
fn revision_twice(script: &mut Script, rng: &mut Rng) -> Option<()> {
    let (one, other) = two_puts(script, rng)?;
    let revision = one.revision;
    script.answer(other.op, Answer::Put { revision });
    Some(())
}

/// The later write has a lower revision.
fn revision_back(script: &mut Script, rng: &mut Rng) -> Option<()> {
    let (one, other) = two_puts(script, rng)?;
    script.ops[one.op]
        .precedes(&script.ops[other.op])
        .then_some(())?;
    let revision = one.revision - 1;
    script.answer(other.op, Answer::Put { revision });
    Some(())
}

#[test]
fn rules_have_names_of_their_own() {
    let rules = [
        Rule::Linearizable,
        Rule::OutOfThinAir,
        Rule::FailedIsSeen,
        Rule::FromTheFuture,
        Rule::Revision,
        Rule::Monotonic,
        Rule::Scan,
        Rule::List,
        Rule::Counter,
    ];
    let names: BTreeSet<&str> = rules.iter().map(|rule| rule.name()).collect();
    assert_eq!(names.len(), rules.len());
}
