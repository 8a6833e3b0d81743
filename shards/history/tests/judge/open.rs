//! Operations whose outcome nobody knows, limits that are too narrow, and what else is easily judged wrong.

use crate::script::{Script, found, get, put};
use crate::store::{self, Mix};
use bytes::Bytes;
use fastrand::Rng;
use flotilla_history::{
    Answer, Call, Change, Condition, Level, Limits, Row, Rule, Test, Verdict, check,
};

fn verdict(script: &Script) -> Verdict {
    check(&script.record(), &Limits::default()).verdict()
}

fn read(script: &mut Script, key: &Bytes, value: Option<&str>) {
    let op = script.invoke(9, get(key));
    let value = value.map(|value| found(&Bytes::copy_from_slice(value.as_bytes()), 0));
    script.ok(op, Answer::Get(value));
}

fn cas(key: &Bytes, test: Test, value: &str) -> Call {
    Call::Batch {
        conditions: vec![Condition {
            key: key.clone(),
            test,
        }],
        changes: vec![Change::Put {
            key: key.clone(),
            value: Bytes::copy_from_slice(value.as_bytes()),
        }],
    }
}

#[test]
fn an_unknown_write_may_happen_late_or_never_but_once() {
    let key = Bytes::from("k");
    let mut script = Script::default();
    script.invoke(1, put(&key, &"late".into()));
    let other = script.invoke(2, put(&key, &"other".into()));
    script.ok(other, Answer::Put { revision: 0 });
    read(&mut script, &key, Some("other"));
    assert_eq!(verdict(&script), Verdict::Passed);
    read(&mut script, &key, Some("late"));
    assert_eq!(verdict(&script), Verdict::Passed);
    read(&mut script, &key, Some("other"));
    assert_eq!(verdict(&script), Verdict::Violated);
}

#[test]
fn an_unknown_delete_explains_an_absence() {
    let key = Bytes::from("k");
    let mut script = Script::default();
    let write = script.invoke(1, put(&key, &"v".into()));
    script.ok(write, Answer::Put { revision: 0 });
    let mut without = script.clone();
    script.invoke(2, Call::Delete { key: key.clone() });
    for script in [&mut script, &mut without] {
        read(script, &key, Some("v"));
        read(script, &key, None);
    }
    assert_eq!(verdict(&script), Verdict::Passed);
    assert_eq!(verdict(&without), Verdict::Violated);
    read(&mut script, &key, Some("v"));
    assert_eq!(verdict(&script), Verdict::Violated);
}

#[test]
fn an_unknown_write_that_nobody_saw_may_explain_a_refusal() {
    let key = Bytes::from("k");
    let mut script = Script::default();
    let write = script.invoke(1, put(&key, &"v".into()));
    script.ok(write, Answer::Put { revision: 0 });
    let refused = |script: &mut Script| {
        let test = Test::ValueEquals("v".into());
        let op = script.invoke(3, cas(&key, test, "w"));
        script.ok(op, Answer::ConditionFailed { first: Some(0) });
    };
    let mut without = script.clone();
    refused(&mut without);
    assert_eq!(verdict(&without), Verdict::Violated);
    script.invoke(2, put(&key, &"unseen".into()));
    refused(&mut script);
    assert_eq!(verdict(&script), Verdict::Passed);
}

#[test]
fn a_condition_on_a_revision_is_held_against_what_is_known() {
    let key = Bytes::from("k");
    let mut script = Script::default();
    let write = script.invoke(1, put(&key, &"v".into()));
    script.ok(write, Answer::Put { revision: 7 });
    let ok = Answer::Batch {
        revision: 8,
        deleted: None,
    };
    let mut right = script.clone();
    let op = right.invoke(2, cas(&key, Test::RevisionEquals(7), "w"));
    right.ok(op, ok.clone());
    assert_eq!(verdict(&right), Verdict::Passed);
    for wrong in [0, 6] {
        let mut script = script.clone();
        let op = script.invoke(2, cas(&key, Test::RevisionEquals(wrong), "w"));
        script.ok(op, ok.clone());
        assert_eq!(verdict(&script), Verdict::Violated, "{wrong}");
    }
}

#[test]
fn a_scan_of_several_pages_is_no_snapshot_and_one_page_is() {
    let (a, b) = (Bytes::from("a"), Bytes::from("b"));
    let scan = |at_once| Call::Scan {
        start: "a".into(),
        end: Bytes::new(),
        reverse: false,
        level: Level::Linearizable,
        at_once,
    };
    let row = |key: &Bytes, value: &str| Row {
        key: key.clone(),
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
        revision: 0,
    };
    for at_once in [false, true] {
        let mut script = Script::default();
        let scanning = script.invoke(1, scan(at_once));
        // `a` is written before `b`, so one moment cannot have `b` alone.
        for key in [&a, &b] {
            let op = script.invoke(2, put(key, &"v".into()));
            script.ok(op, Answer::Put { revision: 0 });
        }
        script.ok(
            scanning,
            Answer::Scan {
                rows: vec![row(&b, "v")],
                next: None,
            },
        );
        let expected = if at_once {
            Verdict::Violated
        } else {
            Verdict::Passed
        };
        assert_eq!(verdict(&script), expected);
    }
}

#[test]
fn a_page_speaks_of_what_it_covered_alone() {
    let key = Bytes::from("m");
    let page = |reverse, next: &str| {
        let mut script = Script::default();
        let op = script.invoke(1, put(&key, &"v".into()));
        script.ok(op, Answer::Put { revision: 0 });
        let call = Call::Scan {
            start: "a".into(),
            end: "z".into(),
            reverse,
            level: Level::Linearizable,
            at_once: false,
        };
        let op = script.invoke(2, call);
        script.ok(
            op,
            Answer::Scan {
                rows: Vec::new(),
                next: Some(Bytes::copy_from_slice(next.as_bytes())),
            },
        );
        verdict(&script)
    };
    assert_eq!(page(false, "m"), Verdict::Passed);
    assert_eq!(page(false, "n"), Verdict::Violated);
    assert_eq!(page(true, "n"), Verdict::Passed);
    assert_eq!(page(true, "m"), Verdict::Violated);
}

#[test]
fn weak_reads_may_be_old_but_not_invented() {
    let key = Bytes::from("k");
    let mut script = Script::default();
    for (value, revision) in [("old", 1), ("new", 2)] {
        let op = script.invoke(1, put(&key, &Bytes::from(value)));
        script.ok(op, Answer::Put { revision });
    }
    let weak = |script: &mut Script, client, level, value: Option<(&str, u64)>| {
        let key = key.clone();
        let op = script.invoke(client, Call::Get { key, level });
        let value = value
            .map(|(value, revision)| found(&Bytes::copy_from_slice(value.as_bytes()), revision));
        script.ok(op, Answer::Get(value));
    };
    let (old, new) = (Some(("old", 1)), Some(("new", 2)));
    weak(&mut script, 2, Level::Serializable, new);
    weak(&mut script, 2, Level::Serializable, old);
    weak(&mut script, 2, Level::Serializable, None);
    weak(&mut script, 2, Level::Replica(3), old);
    weak(&mut script, 2, Level::Replica(4), new);
    weak(&mut script, 2, Level::Replica(3), new);
    weak(&mut script, 5, Level::Monotonic, old);
    assert_eq!(verdict(&script), Verdict::Passed);

    let rule = |client, level, value| {
        let mut script = script.clone();
        weak(&mut script, client, level, value);
        check(&script.record(), &Limits::default()).violations[0].rule
    };
    assert_eq!(rule(6, Level::Replica(4), old), Rule::Monotonic);
    assert_eq!(rule(6, Level::Replica(4), None), Rule::Monotonic);
    assert_eq!(rule(1, Level::Monotonic, old), Rule::Monotonic);
    assert_eq!(rule(2, Level::Monotonic, None), Rule::Monotonic);
    let invented = Some(("invented", 3));
    assert_eq!(rule(6, Level::Serializable, invented), Rule::OutOfThinAir);
}

#[test]
fn an_exhausted_budget_is_no_pass() {
    let mix = Mix {
        operations: 600,
        ..Mix::EVERYTHING
    };
    let history = store::run(&mut Rng::with_seed(7), mix).record();
    assert_eq!(
        check(&history, &Limits::default()).verdict(),
        Verdict::Passed
    );
    for limits in [
        Limits {
            search_steps: 20,
            ..Limits::default()
        },
        Limits {
            search_bytes: 64,
            ..Limits::default()
        },
    ] {
        let report = check(&history, &limits);
        assert_eq!(report.verdict(), Verdict::BudgetExhausted);
        assert!(!report.passed() && !report.undecided.is_empty());
        let shown = report.display(&history).to_string();
        assert!(shown.starts_with("UNDECIDED"), "{shown}");
    }
}

#[test]
fn an_explanation_shows_the_operations() {
    let key = Bytes::from("k");
    let mut script = Script::default();
    for value in ["v1", "v2"] {
        let op = script.invoke(1, put(&key, &Bytes::from(value)));
        script.ok(op, Answer::Put { revision: 0 });
    }
    read(&mut script, &key, Some("v2"));
    read(&mut script, &key, Some("v1"));
    let history = script.record();
    let report = check(&history, &Limits::default());
    let expected = "\
VIOLATED: 4 operations; 1 keys in 1 components (1 by zones, 0 by search), 0 scans, 0 weak reads, 0 lists, 0 counters

linearizable of k: from the return of #0 to the call of #3 the key can only have had the value of #0; but from the return \
of #1 to the call of #2 the key can only have had the value of #1
  #0 c1 [0, 1] put k = v1 -> ok
  #1 c1 [2, 3] put k = v2 -> ok
  #2 c9 [4, 5] get k -> v2
  #3 c9 [6, 7] get k -> v1";
    assert_eq!(report.display(&history).to_string(), expected);
}

#[test]
fn revisions_tell_which_of_two_writes_came_first() {
    let (key, other) = (Bytes::from("a"), Bytes::from("b"));
    let mut script = Script::default();
    for (key, revision) in [(&key, 1), (&other, 2)] {
        let op = script.invoke(1, put(key, &"old".into()));
        script.ok(op, Answer::Put { revision });
    }
    let both = Call::BatchGet {
        keys: vec![key.clone(), other.clone()],
        level: Level::Linearizable,
        at_once: true,
    };
    let op = script.invoke(1, both);
    let old = |revision| Some(found(&"old".into(), revision));
    script.ok(op, Answer::BatchGet(vec![old(1), old(2)]));
    for client in 100..130 {
        let call = cas(&other, Test::Exists(true), &client.to_string());
        script.invoke(client, call);
    }
    let write = script.invoke(1, put(&key, &"new".into()));
    let delete = script.invoke(2, Call::Delete { key: key.clone() });
    let deleted = Answer::Delete {
        deleted: true,
        revision: 4,
    };
    script.ok(delete, deleted);
    script.ok(write, Answer::Put { revision: 3 });
    read(&mut script, &key, None);
    // Without them, a delete that comes too early is found out after all ways in which the open batches may happen.
    let limits = Limits {
        search_steps: 1_000_000,
        ..Limits::default()
    };
    assert_eq!(check(&script.record(), &limits).verdict(), Verdict::Passed);
}
