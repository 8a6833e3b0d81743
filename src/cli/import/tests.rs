//! Whole imports against a scripted node.

use std::{collections::BTreeMap, fs, sync::Arc, time::Duration};

use flotilla_proto::v1::{self, error::Code, request, response};
use parking_lot::Mutex;

use super::*;
use crate::client::{
    Options,
    tests::fake::{Act, Fake},
};

/// What was written, by key; the last write of a key wins.
type Written = Arc<Mutex<BTreeMap<Bytes, Bytes>>>;

/// A node that keeps what is put, refuses the key "refused" and, once it holds `outage` keys, everything.
async fn node(outage: usize) -> (Fake, Written) {
    let written = Written::default();
    let inside = Arc::clone(&written);
    let fake = Fake::start(move |kind| match kind {
        request::Kind::OpenSession(_) => {
            Act::Answer(response::Kind::OpenSession(v1::OpenSessionResponse {
                shard_id: 2,
                number: 1,
            }))
        }
        request::Kind::CloseSession(_) => Act::Answer(response::Kind::CloseSession(
            v1::CloseSessionResponse::default(),
        )),
        request::Kind::Put(put) => {
            let mut written = inside.lock();
            if put.key == "refused" {
                Act::error(Code::InvalidArgument)
            } else if written.len() >= outage {
                Act::error(Code::Unavailable)
            } else {
                written.insert(put.key, put.value);
                Act::put(1)
            }
        }
        kind => panic!("unexpected {kind:?}"),
    })
    .await;
    (fake, written)
}

async fn import(fake: &Fake, file: &Path, state: Option<&Path>) -> Outcome<Summary> {
    // As long as the import of an outage takes; the others never need it.
    let options = Options {
        timeout: Duration::from_secs(3),
        ..Options::default()
    };
    let client = Client::connect([fake.address()], options).await?;
    let job = Job {
        input: Some(file.to_owned()),
        format: FileFormat::of(None, file)?,
        notation: Notation::Escaped,
        concurrency: 8,
        state: state.map(Path::to_owned),
    };
    job.run(&client).await
}

fn reported_lines(file: &Path) -> Vec<u64> {
    let report = format!("{}.rejected.ndjson", file.display());
    let text = fs::read_to_string(report).expect("a report");
    text.lines()
        .map(|line| {
            let report: serde_json::Value = serde_json::from_str(line).expect("json");
            report["line"].as_u64().expect("a number")
        })
        .collect()
}

#[tokio::test]
async fn everything_good_is_written_and_everything_else_reported() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("data.csv");
    fs::write(&file, "key,value\na,1\nb\nrefused,2\nc,3\na,4\n").expect("writable");
    let (fake, written) = node(usize::MAX).await;
    let summary = import(&fake, &file, None).await.expect("runs");
    assert_eq!((summary.written, summary.rejected), (3, 2));
    assert_eq!(summary.stopped, None);
    let verdict = summary.verdict().expect_err("two are missing");
    assert_eq!(verdict.code(), Some(crate::exit::ExitCode::Error));
    let expected = [("a", "4"), ("c", "3")];
    let expected = expected.map(|(key, value)| (Bytes::from(key), Bytes::from(value)));
    assert_eq!(*written.lock(), BTreeMap::from(expected));
    assert_eq!(reported_lines(&file), [3, 4]);
}

#[tokio::test]
async fn of_records_with_one_key_the_last_wins() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("data.csv");
    let mut text = "key,value\n".to_owned();
    for value in 0..500 {
        text.push_str(&format!("{},{value}\n", value % 3));
    }
    fs::write(&file, text).expect("writable");
    let (fake, written) = node(usize::MAX).await;
    let summary = import(&fake, &file, None).await.expect("runs");
    assert_eq!(summary.written, 500);
    let expected = [("0", "498"), ("1", "499"), ("2", "497")];
    let expected = expected.map(|(key, value)| (Bytes::from(key), Bytes::from(value)));
    assert_eq!(*written.lock(), BTreeMap::from(expected));
}

#[tokio::test]
async fn an_import_that_stopped_goes_on_and_loses_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("data.ndjson");
    let state = folder.path().join("state.json");
    let mut text = "garbage\n".to_owned();
    for number in 0..2000 {
        text.push_str(&format!("{{\"key\":\"{number:04}\",\"value\":\"v\"}}\n"));
    }
    fs::write(&file, text).expect("writable");
    let (fake, before) = node(700).await;
    let summary = import(&fake, &file, Some(&state)).await.expect("runs");
    assert!(
        summary.stopped.is_some(),
        "the node refuses everything from 700 on"
    );
    assert_eq!(summary.written, 700);
    assert!(summary.settled_lines <= 701);
    drop(fake);
    let (fake, after) = node(usize::MAX).await;
    let summary = import(&fake, &file, Some(&state)).await.expect("goes on");
    assert_eq!(summary.stopped, None);
    assert!(
        after.lock().len() < 1400,
        "what was settled is not written again"
    );
    let mut all = before.lock().clone();
    all.extend(after.lock().clone());
    assert_eq!(all.len(), 2000);
    assert_eq!(
        reported_lines(&file),
        [1],
        "only the malformed line is left in the report"
    );
    assert_eq!((summary.written, summary.rejected), (2000, 1));
    let again = import(&fake, &file, Some(&state))
        .await
        .expect("nothing left");
    assert_eq!((again.written, again.rejected), (summary.written, 1));
}

#[test]
fn a_state_of_another_import_is_refused() {
    let state = |name: &str, hex| State {
        import: name.into(),
        format: FileFormat::Csv,
        hex,
        place: Place {
            offset: 16,
            lines: 2,
        },
        written: 1,
        rejected: 0,
    };
    let path = Path::new("state");
    assert!(check_same(path, state("a", false), &state("a", false)).is_ok());
    for other in [state("b", false), state("a", true)] {
        let failure = check_same(path, other, &state("a", false)).expect_err("another");
        assert!(matches!(failure, Failure::Usage(_)), "{failure}");
    }
}

/// Found by reading: these were counted on from, past the end of their type.
#[tokio::test]
async fn a_state_file_that_contradicts_itself_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let (file, state) = (folder.path().join("data.csv"), folder.path().join("state"));
    fs::write(&file, "key,value\na,1\n").expect("writable");
    let (fake, _) = node(usize::MAX).await;
    for (lines, written, rejected) in [
        (u64::MAX, 0, 0),
        (1, u64::MAX, 0),
        (1, 0, u64::MAX),
        (1, u64::MAX, u64::MAX),
    ] {
        let known = State {
            import: fs::canonicalize(&file).expect("it is there"),
            format: FileFormat::Csv,
            hex: false,
            place: Place { offset: 10, lines },
            written,
            rejected,
        };
        let known = serde_json::to_vec(&known).expect("a state");
        fs::write(&state, known).expect("writable");
        let failure = import(&fake, &file, Some(&state))
            .await
            .expect_err("damaged");
        assert!(failure.to_string().contains("is damaged"), "{failure}");
    }
}

#[tokio::test]
async fn a_thread_that_panics_while_it_reads_is_not_the_end_of_the_file() {
    let mut ahead = Ahead::of(std::iter::from_fn(|| -> Option<io::Result<Item>> {
        panic!("a mistake of ours")
    }));
    let error = ahead.next().await.expect("no end").expect_err("no group");
    assert!(error.to_string().contains("a mistake of ours"), "{error}");
    let mut ahead = Ahead::of(std::iter::empty());
    assert!(
        ahead
            .next()
            .await
            .is_some_and(|group| group.is_ok_and(|group| group.is_empty()))
    );
    assert!(ahead.next().await.is_none());
}
