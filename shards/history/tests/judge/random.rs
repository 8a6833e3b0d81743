//! Small random histories, true ones and false ones: all judges agree about them.

use crate::script::{Script, found};
use crate::twin;
use bytes::Bytes;
use fastrand::Rng;
use flotilla_history::{
    Answer, Call, Change, Condition, Level, Limits, Row, Rule, Test, Verdict, check,
};

/// What a family of histories is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Family {
    pub(crate) keys: usize,
    /// Values are 0 up to this number; 0 makes each write's value unique.
    pub(crate) values: u64,
    pub(crate) kinds: &'static [Kind],
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    Get,
    Put,
    Delete,
    Cas,
    Batch,
    BatchGet,
    Scan,
    Append,
    ReadList,
    Increment,
    ReadCounter,
}

fn key(rng: &mut Rng, family: &Family) -> Bytes {
    format!("k{}", rng.usize(..family.keys)).into()
}

fn value(rng: &mut Rng, family: &Family, written: &mut u64) -> Bytes {
    let value = if family.values == 0 {
        *written += 1;
        *written
    } else {
        rng.u64(..family.values)
    };
    value.to_string().into()
}

/// A value that a read may claim.
fn claimed(rng: &mut Rng, family: &Family, written: u64) -> Bytes {
    let most = if family.values == 0 {
        written + 2
    } else {
        family.values
    };
    rng.u64(..most.max(1)).to_string().into()
}

/// A history of a few clients. Answers are drawn at random, so that most families give both kinds.
pub(crate) fn history(rng: &mut Rng, family: &Family, operations: usize) -> Script {
    let mut script = Script::default();
    let mut busy: Vec<Option<usize>> = vec![None; 3];
    let mut process = 3;
    let mut written = 0;
    let mut elements: Vec<Bytes> = Vec::new();
    let mut increments = 0;
    let mut left = operations;
    while left > 0 || busy.iter().any(Option::is_some) {
        let client = rng.usize(..busy.len());
        match busy[client] {
            None if left == 0 => {}
            None => {
                left -= 1;
                let kind = family.kinds[rng.usize(..family.kinds.len())];
                let call = match kind {
                    Kind::Get => Call::Get {
                        key: key(rng, family),
                        level: Level::Linearizable,
                    },
                    Kind::Put => Call::Put {
                        key: key(rng, family),
                        value: value(rng, family, &mut written),
                    },
                    Kind::Delete => Call::Delete {
                        key: key(rng, family),
                    },
                    Kind::Cas | Kind::Batch => {
                        let conditions = rng.usize(if kind == Kind::Cas { 1..2 } else { 0..3 });
                        let conditions = (0..conditions)
                            .map(|_| Condition {
                                key: key(rng, family),
                                test: match rng.u8(..3) {
                                    0 => Test::Exists(rng.bool()),
                                    _ => Test::ValueEquals(claimed(rng, family, written)),
                                },
                            })
                            .collect();
                        let changes = rng.usize(if kind == Kind::Cas { 1..2 } else { 1..4 });
                        let changes = (0..changes)
                            .map(|_| match rng.u8(..4) {
                                0 => Change::Delete {
                                    key: key(rng, family),
                                },
                                _ => Change::Put {
                                    key: key(rng, family),
                                    value: value(rng, family, &mut written),
                                },
                            })
                            .collect();
                        Call::Batch {
                            conditions,
                            changes,
                        }
                    }
                    Kind::BatchGet => Call::BatchGet {
                        keys: (0..family.keys).map(|at| format!("k{at}").into()).collect(),
                        level: Level::Linearizable,
                        at_once: true,
                    },
                    Kind::Scan => Call::Scan {
                        start: "k".into(),
                        end: "l".into(),
                        reverse: false,
                        level: Level::Linearizable,
                        at_once: true,
                    },
                    Kind::Append => {
                        written += 1;
                        let element = Bytes::from(written.to_string());
                        elements.push(element.clone());
                        Call::Append {
                            list: "l".into(),
                            element,
                            session: None,
                        }
                    }
                    Kind::ReadList => Call::ReadList { list: "l".into() },
                    Kind::Increment => {
                        increments += 1;
                        Call::Increment {
                            counter: "c".into(),
                        }
                    }
                    Kind::ReadCounter => Call::ReadCounter {
                        counter: "c".into(),
                    },
                };
                busy[client] = Some(script.invoke(client as u64, call));
            }
            Some(op) => {
                busy[client] = None;
                let call = script.ops[op].call.clone();
                let writes = !matches!(
                    call,
                    Call::Get { .. }
                        | Call::BatchGet { .. }
                        | Call::Scan { .. }
                        | Call::ReadList { .. }
                        | Call::ReadCounter { .. }
                );
                match rng.u8(..12) {
                    0 => {
                        process += 1;
                        continue;
                    }
                    1 if writes => {
                        script.failed(op);
                        continue;
                    }
                    _ => {}
                }
                let maybe = |rng: &mut Rng| {
                    (rng.u8(..4) > 0).then(|| found(&claimed(rng, family, written), 0))
                };
                let answer = match &call {
                    Call::Get { .. } => Answer::Get(maybe(rng)),
                    Call::BatchGet { keys, .. } => {
                        Answer::BatchGet(keys.iter().map(|_| maybe(rng)).collect())
                    }
                    Call::Put { .. } => Answer::Put { revision: 0 },
                    Call::Delete { .. } => Answer::Delete {
                        deleted: rng.bool(),
                        revision: 0,
                    },
                    Call::Batch { conditions, .. } => {
                        if conditions.is_empty() || rng.bool() {
                            Answer::Batch {
                                revision: 0,
                                deleted: (rng.u8(..3) == 0).then(|| rng.u64(..2)),
                            }
                        } else {
                            Answer::ConditionFailed {
                                first: rng
                                    .bool()
                                    .then(|| rng.u32(..u32::try_from(conditions.len()).unwrap())),
                            }
                        }
                    }
                    Call::Scan { .. } => Answer::Scan {
                        rows: (0..family.keys)
                            .filter_map(|at| {
                                Some(Row {
                                    key: format!("k{at}").into(),
                                    value: Some(maybe(rng)?.value),
                                    revision: 0,
                                })
                            })
                            .collect(),
                        next: None,
                    },
                    Call::Append { .. } => Answer::Append,
                    Call::ReadList { .. } => {
                        let mut shown = elements.clone();
                        if rng.u8(..3) == 0 {
                            rng.shuffle(&mut shown);
                        }
                        shown.truncate(rng.usize(..=shown.len()));
                        Answer::ReadList(shown)
                    }
                    Call::Increment { .. } => Answer::Increment {
                        value: (rng.u8(..3) == 0).then(|| rng.u64(..=increments)),
                    },
                    Call::ReadCounter { .. } => Answer::ReadCounter(rng.u64(..=increments)),
                };
                script.ok(op, answer);
            }
        }
    }
    let _ = process;
    script
}

pub(crate) const REGISTER: &[Kind] = &[Kind::Get, Kind::Put];
pub(crate) const DELETES: &[Kind] = &[Kind::Get, Kind::Put, Kind::Put, Kind::Delete];
pub(crate) const CAS: &[Kind] = &[Kind::Get, Kind::Put, Kind::Delete, Kind::Cas, Kind::Cas];
pub(crate) const BATCHES: &[Kind] = &[
    Kind::Get,
    Kind::Put,
    Kind::Delete,
    Kind::Batch,
    Kind::Batch,
    Kind::BatchGet,
    Kind::Scan,
];
pub(crate) const LISTS: &[Kind] = &[Kind::Append, Kind::ReadList];
pub(crate) const COUNTERS: &[Kind] = &[Kind::Increment, Kind::Increment, Kind::ReadCounter];

/// Runs seeds of one family past both judges; gives how many were true.
fn agree(family: &Family, seeds: std::ops::Range<u64>) -> usize {
    let mut accepted = 0;
    for seed in seeds {
        let mut rng = Rng::with_seed(seed);
        let operations = rng.usize(1..=8);
        let history = history(&mut rng, family, operations).record();
        let report = check(&history, &Limits::default());
        let expected = twin::linearizable(&history);
        assert_ne!(report.verdict(), Verdict::BudgetExhausted);
        assert_eq!(
            report.passed(),
            expected,
            "{family:?}, seed {seed}: the twin says {expected}, the judge {}\nall: {}",
            report.display(&history),
            history
                .operations()
                .iter()
                .map(|operation| format!("\n  {operation}"))
                .collect::<String>()
        );
        accepted += usize::from(expected);
        for violation in &report.violations {
            assert!(!violation.window.is_empty());
            assert!(violation.rule != Rule::Revision && violation.rule != Rule::Monotonic);
        }
    }
    accepted
}

/// Seeds for each family.
const SEEDS: u64 = 6_000;

#[test]
fn the_judge_agrees_with_the_twin() {
    let families = [
        ("register, unique values", 1, 0, REGISTER),
        ("register", 1, 3, REGISTER),
        ("deletes, unique values", 1, 0, DELETES),
        ("deletes", 1, 2, DELETES),
        ("compare and set, unique values", 1, 0, CAS),
        ("compare and set", 1, 3, CAS),
        ("batches of two keys, unique values", 2, 0, BATCHES),
        ("batches of two keys", 2, 2, BATCHES),
        ("batches of three keys", 3, 2, BATCHES),
        ("lists", 1, 0, LISTS),
        ("counters", 1, 0, COUNTERS),
    ];
    for (name, keys, values, kinds) in families {
        let family = Family {
            keys,
            values,
            kinds,
        };
        let accepted = agree(&family, 0..SEEDS);
        println!("{name}: {accepted} of {SEEDS} linearizable");
        // A family of one kind alone proves nothing.
        assert!(
            accepted > 300 && accepted < SEEDS as usize - 300,
            "{name}: {accepted}"
        );
    }
}
