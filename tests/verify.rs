//! `flotilla verify`: what it says about histories, and how it ends.

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Output, Stdio},
};

use flotilla_history::{Answer, Call, ClientId, Condition, Found, History, Level, Test};

/// A key is written twice, and then read.
fn history(read: &'static str) -> Vec<u8> {
    let mut history = History::new();
    for (value, now) in [("v1", 0), ("v2", 10)] {
        let put = Call::Put {
            key: "a key\n".into(),
            value: value.into(),
        };
        let op = history.invoke(ClientId(1), put, now);
        history.ok(op, Answer::Put { revision: 0 }, now + 5);
    }
    let get = Call::Get {
        key: "a key\n".into(),
        level: Level::Linearizable,
    };
    let op = history.invoke(ClientId(2), get, 20);
    let found = Found {
        value: read.into(),
        revision: 0,
    };
    history.ok(op, Answer::Get(Some(found)), 25);
    written(&history)
}

fn written(history: &History) -> Vec<u8> {
    let mut file = Vec::new();
    history.write(&mut file).expect("memory takes it");
    file
}

fn verify(args: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_flotilla"))
        .arg("verify")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    // It may have ended before it read everything.
    let _ = child
        .stdin
        .take()
        .expect("a pipe was asked for")
        .write_all(input);
    child.wait_with_output().expect("it ends")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_true_history_passes() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("history.ndjson");
    std::fs::write(&file, history("v2")).expect("written");
    let output = verify(&[file.to_str().expect("text")], b"");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(text(&output.stdout).starts_with("passed: 3 operations; 1 keys"));
    assert!(output.stderr.is_empty());
}

#[test]
fn a_false_history_fails_and_is_explained() {
    let output = verify(&["-"], &history("v1"));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let shown = text(&output.stdout);
    for part in [
        "VIOLATED",
        "linearizable of a key\\x0a: from the return of #0 to the call of #2",
        "#1 c1 [10, 15] put a key\\x0a = v2 -> ok",
        "#2 c2 [20, 25] get a key\\x0a -> v1",
    ] {
        assert!(shown.contains(part), "{part} is not in:\n{shown}");
    }
    assert!(text(&output.stderr).contains("error: no correct store could have answered so"));
}

#[test]
fn machines_get_json() {
    let output = verify(&["-", "-w", "json"], &history("v1"));
    assert_eq!(output.status.code(), Some(1));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a document");
    assert_eq!(report["verdict"], "violated");
    assert_eq!(report["violations"][0]["rule"], "linearizable");
    assert_eq!(report["violations"][0]["keys"][0], "a key\\n");
    assert_eq!(report["violations"][0]["operations"][2]["op"], 2);

    let output = verify(&["-", "-w", "ndjson"], &history("v2"));
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stdout).lines().count(), 1);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a document");
    assert_eq!(report["verdict"], "passed");
}

#[test]
fn what_is_no_history_is_refused_with_its_line() {
    let mut damaged = history("v2");
    let second = damaged
        .iter()
        .position(|byte| *byte == b'\n')
        .expect("lines")
        + 1;
    damaged[second] = b'[';
    for (args, input, expected) in [
        (["-"], &damaged[..], "standard input: line 2: "),
        (["-"], b"", "standard input: line 1: the file is empty"),
        (
            ["-"],
            &history("v2")[..60],
            "standard input: line 2: EOF while parsing",
        ),
        (["/no/such/file"], b"", "/no/such/file: cannot read"),
    ] {
        let output = verify(&args, input);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(output.stdout.is_empty());
        assert!(text(&output.stderr).contains(expected), "{output:?}");
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = verify(&[folder.to_str().expect("text")], b"");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn a_search_that_gives_up_is_a_failure() {
    let mut history = History::new();
    let mut open = Vec::new();
    for value in ["a", "b", "c"] {
        let cas = Call::Batch {
            conditions: vec![Condition {
                key: "k".into(),
                test: Test::Exists(false),
            }],
            changes: vec![flotilla_history::Change::Put {
                key: "k".into(),
                value: value.into(),
            }],
        };
        open.push(history.invoke(ClientId(0), cas, 0));
    }
    for (op, answer) in open.into_iter().zip([
        Answer::ConditionFailed { first: Some(0) },
        Answer::ConditionFailed { first: Some(0) },
        Answer::Batch {
            revision: 0,
            deleted: None,
        },
    ]) {
        history.ok(op, answer, 1);
    }
    let file = written(&history);
    assert_eq!(verify(&["-"], &file).status.code(), Some(0));
    let output = verify(&["-", "--search-steps", "1"], &file);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output.stdout).starts_with("UNDECIDED"));
    assert!(text(&output.stderr).contains("--search-steps"));
    let output = verify(&["-", "--search-steps", "1", "-w", "json"], &file);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a document");
    assert_eq!(report["verdict"], "budget exhausted");
}
