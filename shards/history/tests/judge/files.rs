//! Histories as files: what was written is read again, and what is damaged is refused with its line.

use crate::store::{self, Mix};
use fastrand::Rng;
use flotilla_history::{Answer, Call, ClientId, History, Level};

fn text(history: &History) -> String {
    let mut out = Vec::new();
    history.write(&mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn histories_round_trip() {
    for seed in 0..20 {
        let history = store::run(&mut Rng::with_seed(seed), Mix::EVERYTHING).record();
        let text = text(&history);
        let again = History::read(text.as_bytes()).unwrap();
        assert_eq!(again.operations(), history.operations());
        assert_eq!(self::text(&again), text);
    }
}

#[test]
fn the_format_is_for_ever() {
    let mut history = History::new();
    let put = Call::Put {
        key: "a\n".into(),
        value: "v1".into(),
    };
    let write = history.invoke(ClientId(3), put, 12);
    let get = Call::Get {
        key: "a\n".into(),
        level: Level::Replica(2),
    };
    let read = history.invoke(ClientId(4), get, 15);
    history.ok(write, Answer::Put { revision: 1 }, 17);
    history.ok(read, Answer::Get(None), 18);
    let delete = Call::Delete { key: "b".into() };
    let failed = history.invoke(ClientId(3), delete.clone(), 20);
    history.failed(failed);
    let open = history.invoke(ClientId(3), delete, 21);
    history.unknown(open);
    let expected = r#"{"flotilla_history":1}
{"op":0,"at":12,"client":3,"call":{"put":{"key":"a\\x0a","value":"v1"}}}
{"op":1,"at":15,"client":4,"call":{"get":{"key":"a\\x0a","level":{"replica":2}}}}
{"op":0,"at":17,"ok":{"put":{"revision":1}}}
{"op":1,"at":18,"ok":{"get":null}}
{"op":2,"at":20,"client":3,"call":{"delete":{"key":"b"}}}
{"op":3,"at":21,"client":3,"call":{"delete":{"key":"b"}}}
{"op":2,"failed":true}
{"operations":4}
"#;
    assert_eq!(text(&history), expected);
    assert_eq!(History::read(expected.as_bytes()).unwrap(), history);
}

#[test]
fn what_is_damaged_is_refused_with_its_line() {
    let first = "{\"flotilla_history\":1}\n";
    let call = "{\"op\":0,\"at\":5,\"client\":1,\"call\":{\"get\":{\"key\":\"a\"}}}\n";
    let ok = "{\"op\":0,\"at\":6,\"ok\":{\"get\":null}}\n";
    let end = "{\"operations\":1}\n";
    let read = |text: String| History::read(text.as_bytes());
    assert!(read([first, call, ok, end].concat()).is_ok());
    let cases: [(&[&str], &str); 20] = [
        (
            &[],
            "line 1: the file is empty, expected {\"flotilla_history\":1}",
        ),
        (&["hello\n"], "line 1: this is no beginning of a history"),
        (&[call], "line 1: this is no beginning of a history"),
        (
            &["{\"flotilla_history\":2}\n"],
            "line 1: the history has version 2",
        ),
        (&[first], "line 2: the file is cut"),
        (&[first, call, ok], "line 4: the file is cut"),
        (&[first, call, "{\"op\":0,\"at\""], "line 3: EOF"),
        (&[first, call, ok, end, ok], "line 5: something follows"),
        (
            &[first, call, ok, "{\"operations\":2}"],
            "line 4: the history says that it has 2",
        ),
        (&[first, ok, end], "line 2: operation #0 was never invoked"),
        (
            &[first, call, call],
            "line 3: a call of operation 0, expected 1",
        ),
        (
            &[first, call, ok, ok],
            "line 4: the outcome of operation #0 is known already",
        ),
        (
            &[first, call, "{\"op\":0,\"at\":4,\"ok\":{\"get\":null}}\n"],
            "line 3: the clock goes back to 4",
        ),
        (
            &[first, call, "{\"op\":0,\"at\":6,\"ok\":{\"put\":{}}}\n"],
            "line 3: operation #0 is a get, its answer one to put",
        ),
        (
            &[first, call, "{\"op\":0,\"failed\":false}\n"],
            "line 3: the fields do not make an event",
        ),
        (
            &[first, call, "{\"op\":0,\"at\":6,\"ok\":{\"got\":null}}\n"],
            "line 3: unknown variant `got`, expected one of",
        ),
        (
            &[
                first,
                call,
                "{\"op\":0,\"at\":6,\"ok\":{\"get\":null},\"x\":1}\n",
            ],
            "line 3: unknown field `x`",
        ),
        (
            &[
                first,
                "{\"op\":0,\"at\":5,\"client\":1,\"call\":{\"get\":{\"key\":\"\\\\z\"}}}\n",
            ],
            "line 2: \"\\\\z\" has an unknown escape",
        ),
        (
            &[
                first,
                "{\"op\":0,\"at\":5,\"client\":1,\"call\":{\"get\":{\"kee\":\"a\"}}}\n",
            ],
            "line 2: unknown field `kee`, expected `key` or `level`",
        ),
        (&[first, "\n"], "line 2: EOF"),
    ];
    for (lines, expected) in cases {
        let error = read(lines.concat()).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{lines:?}: {error}");
    }
}

#[test]
fn no_damage_panics() {
    let history = store::run(&mut Rng::with_seed(1), Mix::EVERYTHING).record();
    let text = text(&history).into_bytes();
    let mut rng = Rng::with_seed(2);
    let mut refused = 0;
    for _ in 0..2_000 {
        let mut damaged = text.clone();
        for _ in 0..rng.usize(1..4) {
            let at = rng.usize(..damaged.len());
            match rng.u8(..3) {
                0 => damaged[at] = rng.u8(..),
                1 => drop(damaged.remove(at)),
                _ => damaged.truncate(at.max(1)),
            }
        }
        refused += usize::from(History::read(&damaged[..]).is_err());
    }
    assert!(refused > 1_000, "{refused}");
}

#[test]
fn an_unknown_outcome_may_become_known() {
    let mut history = History::new();
    let put = Call::Put {
        key: "a".into(),
        value: "v".into(),
    };
    let write = history.invoke(ClientId(1), put, 1);
    history.unknown(write);
    history.ok(write, Answer::Put { revision: 4 }, 9);
    assert_eq!(
        history.operation(write).answer(),
        Some(&Answer::Put { revision: 4 })
    );
    assert!(history.try_failed(write).is_err());
}
