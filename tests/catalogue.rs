//! The catalogue of how stores break, `tests/CATALOGUE.md`: each row has an entry, each test that an entry names exists, and
//! `make catalogue` runs all of them and says of each row what came of it. `MINUTES` says for how long a real cluster is
//! kept under fire, `SEED` with which faults.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const TABLE: &str = include_str!("CATALOGUE.md");
/// Kinds of rows, and how many there are of each.
const ROWS: [(char, usize); 7] = [
    ('R', 9),
    ('W', 9),
    ('M', 14),
    ('D', 11),
    ('N', 6),
    ('Q', 5),
    ('S', 12),
];
/// Long enough for each kind of fault to come once.
const CHAOS_MINUTES: &str = "3.5";
const CHAOS_SEED: &str = "1";

/// Where tests are: the name in the table, package and target for cargo, and their source.
const TARGETS: [(&str, &[&str], &str); 10] = [
    (
        "sim",
        &["flotilla-sim", "--test", "seeds"],
        "shards/sim/tests",
    ),
    (
        "cluster",
        &["flotilla", "--test", "cluster"],
        "tests/cluster",
    ),
    (
        "disks",
        &["flotilla", "--test", "disk_faults"],
        "tests/disk_faults",
    ),
    ("node", &["flotilla", "--lib"], "src"),
    ("core", &["flotilla-shards", "--lib"], "shards/src"),
    (
        "raft",
        &["flotilla-shards", "--test", "behaviours"],
        "shards/tests/behaviours",
    ),
    (
        "random",
        &["flotilla-shards", "--test", "cluster"],
        "shards/tests/cluster",
    ),
    (
        "kv",
        &["flotilla-shards", "--test", "kv_model"],
        "shards/tests/kv_model.rs",
    ),
    (
        "requests",
        &["flotilla-shards", "--test", "kv_requests"],
        "shards/tests/kv_requests.rs",
    ),
    (
        "bytes",
        &["flotilla-shards", "--test", "bytes"],
        "shards/tests/bytes",
    ),
];
/// Here a kind of fault is named instead of a test.
const CHAOS: &str = "chaos";

/// A test, or a kind of fault.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Cover {
    target: String,
    name: String,
}

struct Row {
    id: String,
    holds: String,
    covers: Vec<Cover>,
    open: String,
}

fn rows() -> Vec<Row> {
    let is_row = |line: &&str| {
        let id = line
            .strip_prefix("| ")
            .and_then(|rest| rest.split(' ').next());
        id.is_some_and(|id| id.len() > 1 && id[1..].bytes().all(|digit| digit.is_ascii_digit()))
    };
    let row = |line: &str| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [id, holds, covers, open] = cells[..] else {
            panic!("four cells: {line}");
        };
        let covers = covers
            .split(';')
            .map(str::trim)
            .filter(|cover| !cover.is_empty());
        let cover = |text: &str| {
            let (target, name) = text
                .split_once(' ')
                .unwrap_or_else(|| panic!("{id}: {text}"));
            Cover {
                target: target.to_owned(),
                name: name.to_owned(),
            }
        };
        Row {
            id: id.to_owned(),
            holds: holds.to_owned(),
            covers: covers.map(cover).collect(),
            open: open.to_owned(),
        }
    };
    TABLE.lines().filter(is_row).map(row).collect()
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn source_of(path: &Path, text: &mut String) {
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("a folder of sources") {
            source_of(&entry.expect("a folder of sources").path(), text);
        }
    } else if path.extension().is_some_and(|extension| extension == "rs") {
        text.push_str(&fs::read_to_string(path).expect("a source file"));
    }
}

/// The names of all tests in a text, each as often as it is there.
fn tests_in(text: &str) -> Vec<&str> {
    let mut tests = Vec::new();
    let mut marked = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            marked = true;
        } else if let Some((_, rest)) = line.split_once("fn ").filter(|_| marked) {
            tests.extend(rest.split('(').next());
            marked = false;
        }
    }
    tests
}

#[test]
fn each_row_has_an_entry_which_names_tests_or_says_why_there_are_none() {
    let expected = ROWS.iter().flat_map(|(kind, count)| {
        let of_kind = 1..=*count;
        of_kind.map(move |number| format!("{kind}{number}"))
    });
    let rows = rows();
    let ids: Vec<&String> = rows.iter().map(|row| &row.id).collect();
    assert_eq!(ids, expected.collect::<Vec<_>>().iter().collect::<Vec<_>>());
    for row in rows {
        assert!(!row.holds.is_empty(), "{}", row.id);
        assert!(!row.covers.is_empty() || !row.open.is_empty(), "{}", row.id);
        let distinct: BTreeSet<&Cover> = row.covers.iter().collect();
        assert_eq!(
            distinct.len(),
            row.covers.len(),
            "{} names a test twice",
            row.id
        );
    }
}

#[test]
fn each_test_that_is_named_exists_once() {
    let covers: BTreeSet<Cover> = rows().into_iter().flat_map(|row| row.covers).collect();
    let kinds = fs::read_to_string(workspace().join("tests/chaos/kind.rs")).expect("a source file");
    let mut missing = Vec::new();
    for (target, _, source) in TARGETS {
        let mut text = String::new();
        source_of(&workspace().join(source), &mut text);
        let tests = tests_in(&text);
        for cover in covers.iter().filter(|cover| cover.target == target) {
            let count = tests.iter().filter(|test| **test == cover.name).count();
            if count != 1 {
                missing.push(format!("{target} {}: {count} in {source}", cover.name));
            }
        }
    }
    for cover in covers.iter().filter(|cover| cover.target == CHAOS) {
        if !kinds.contains(&format!("=> \"{}\"", cover.name)) {
            missing.push(format!("no fault is called {}", cover.name));
        }
    }
    let known = |target: &str| target == CHAOS || TARGETS.iter().any(|(name, ..)| *name == target);
    missing.extend(
        covers
            .iter()
            .filter(|cover| !known(&cover.target))
            .map(|cover| format!("{cover:?}")),
    );
    assert!(missing.is_empty(), "{missing:#?}");
}

/// What came of a test.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Passed,
    NotTested(String),
    Failed(String),
}

/// What cargo said, and whether it was content.
fn cargo(arguments: &[&str], variables: &[(&str, String)]) -> (String, bool) {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(workspace())
        .args(arguments)
        .envs(variables.iter().cloned());
    let output = command
        .stdin(Stdio::null())
        .output()
        .expect("cargo is there");
    let text =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    (text.concat(), output.status.success())
}

/// Keeps what was said, and returns where.
fn keep(name: &str, text: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("catalogue-{name}.log"));
    fs::write(&path, text).expect("the build folder is writable");
    path
}

/// Runs these tests of a target.
fn run(target: &str, place: &[&str], names: &BTreeSet<&str>) -> BTreeMap<String, Outcome> {
    let begin = [&["test", "-p"], place, &["--"]].concat();
    let (list, _) = cargo(&[&begin[..], &["--list"]].concat(), &[]);
    let all = list.lines().filter_map(|line| line.strip_suffix(": test"));
    let wanted = all.filter(|path| {
        path.rsplit("::")
            .next()
            .is_some_and(|name| names.contains(name))
    });
    let wanted: Vec<&str> = wanted.collect();
    let (text, _) = cargo(&[&begin[..], &["--exact"], &wanted].concat(), &[]);
    let log = keep(target, &text);
    let undone = text
        .lines()
        .find_map(|line| line.strip_prefix("NOT TESTED: "));
    let outcome = |name: &&str| {
        let path = wanted
            .iter()
            .find(|path| path.rsplit("::").next() == Some(*name));
        let ended = |how: &str| {
            path.is_some_and(|path| {
                text.lines()
                    .any(|line| line.ends_with(&format!("test {path} ... {how}")))
            })
        };
        let outcome = match (ended("ok"), undone) {
            (true, None) => Outcome::Passed,
            (true, Some(why)) => Outcome::NotTested(why.to_owned()),
            (false, _) => Outcome::Failed(format!("see {}", log.display())),
        };
        ((*name).to_owned(), outcome)
    };
    names.iter().map(outcome).collect()
}

/// Keeps a real cluster under fire, and returns of each of these kinds of faults whether it came.
fn under_fire(kinds: &BTreeSet<&str>) -> BTreeMap<String, Outcome> {
    let of_environment = |name: &str, usual: &str| {
        let given = env::var(name).ok().filter(|text| !text.is_empty());
        given.unwrap_or_else(|| usual.to_owned())
    };
    let variables = [
        ("MINUTES", of_environment("MINUTES", CHAOS_MINUTES)),
        ("SEED", of_environment("SEED", CHAOS_SEED)),
        ("NODES", of_environment("NODES", "3")),
        // All of them.
        ("FAULTS", String::new()),
    ];
    let place = ["test", "-p", "flotilla", "--test", CHAOS, "--"];
    let how = ["--ignored", "--nocapture", "--exact", "as_long_as_wanted"];
    let (text, right) = cargo(&[&place[..], &how].concat(), &variables);
    let log = keep(CHAOS, &text);
    let outcome = |kind: &&str| {
        let came = text.lines().any(|line| {
            let count = line.strip_prefix(*kind).map(str::trim_start);
            count.is_some_and(|count| count.starts_with(|digit: char| digit.is_ascii_digit()))
        });
        let outcome = match (right, came) {
            (false, _) => Outcome::Failed(format!("see {}", log.display())),
            (true, true) => Outcome::Passed,
            (true, false) => {
                Outcome::NotTested(format!("\"{kind}\" did not come; see {}", log.display()))
            }
        };
        ((*kind).to_owned(), outcome)
    };
    kinds.iter().map(outcome).collect()
}

/// The verdict on a row, and what is to be said of it beside.
fn verdict(row: &Row, outcomes: &BTreeMap<Cover, Outcome>) -> (&'static str, Vec<String>) {
    let of_row = || row.covers.iter().map(|cover| (cover, &outcomes[cover]));
    let mut remarks: Vec<String> = of_row()
        .filter_map(|(Cover { target, name }, outcome)| match outcome {
            Outcome::Passed => None,
            Outcome::NotTested(why) => Some(format!("{target} {name}: NOT TESTED: {why}")),
            Outcome::Failed(why) => Some(format!("{target} {name}: FAILED: {why}")),
        })
        .collect();
    let verdict = match of_row().map(|(_, outcome)| outcome).max() {
        None => "NOT COVERED YET",
        Some(Outcome::Passed) if row.open.is_empty() => "passed",
        Some(Outcome::Passed) => "passed in part",
        Some(Outcome::NotTested(_)) => "NOT TESTED",
        Some(Outcome::Failed(_)) => "FAILED",
    };
    if !row.open.is_empty() {
        remarks.push(format!("not covered: {}", row.open));
    }
    (verdict, remarks)
}

#[test]
fn a_row_is_as_good_as_the_worst_of_its_tests_and_says_what_is_open() {
    let cover = |name: &str| Cover {
        target: "sim".to_owned(),
        name: name.to_owned(),
    };
    let row = |covers: &[&str], open: &str| Row {
        id: "R1".to_owned(),
        holds: "something".to_owned(),
        covers: covers.iter().map(|name| cover(name)).collect(),
        open: open.to_owned(),
    };
    let outcomes = BTreeMap::from([
        (cover("good"), Outcome::Passed),
        (cover("undone"), Outcome::NotTested("no FUSE".to_owned())),
        (cover("bad"), Outcome::Failed("see there".to_owned())),
    ]);
    let verdict = |covers: &[&str], open| verdict(&row(covers, open), &outcomes);
    assert_eq!(verdict(&["good"], ""), ("passed", Vec::new()));
    let open = || "not covered: splits".to_owned();
    assert_eq!(
        verdict(&["good"], "splits"),
        ("passed in part", vec![open()])
    );
    assert_eq!(verdict(&[], "splits"), ("NOT COVERED YET", vec![open()]));
    let undone = "sim undone: NOT TESTED: no FUSE".to_owned();
    assert_eq!(
        verdict(&["good", "undone"], ""),
        ("NOT TESTED", vec![undone.clone()])
    );
    let bad = "sim bad: FAILED: see there".to_owned();
    assert_eq!(
        verdict(&["bad", "undone"], "splits"),
        ("FAILED", vec![bad, undone, open()])
    );
}

#[test]
#[ignore = "runs most tests that there are, for ten minutes or so: make catalogue"]
fn all_rows() {
    let rows = rows();
    let mut outcomes = BTreeMap::new();
    let of_target = |target: &str| -> BTreeSet<&str> {
        let covers = rows.iter().flat_map(|row| &row.covers);
        covers
            .filter(|cover| cover.target == target)
            .map(|cover| &*cover.name)
            .collect()
    };
    let mut note = |target: &str, found: BTreeMap<String, Outcome>| {
        for (name, outcome) in found {
            let target = target.to_owned();
            outcomes.insert(Cover { target, name }, outcome);
        }
    };
    for (target, place, _) in TARGETS {
        eprintln!("running: {target}");
        note(target, run(target, place, &of_target(target)));
    }
    eprintln!("running: {CHAOS}");
    note(CHAOS, under_fire(&of_target(CHAOS)));

    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut text = String::new();
    for row in &rows {
        let (verdict, remarks) = verdict(row, &outcomes);
        *counts.entry(verdict).or_default() += 1;
        text.push_str(&format!("{:4}{verdict:16} {}\n", row.id, row.holds));
        for Cover { target, name } in &row.covers {
            text.push_str(&format!("{:20} by {target} {name}\n", ""));
        }
        for remark in remarks {
            text.push_str(&format!("{:20} {remark}\n", ""));
        }
    }
    let counts_text: Vec<String> = counts
        .iter()
        .map(|(verdict, count)| format!("{count} {verdict}"))
        .collect();
    let log = keep("rows", &text);
    let said = writeln!(
        io::stderr(),
        "{text}{} rows: {}; {}",
        rows.len(),
        counts_text.join(", "),
        log.display()
    );
    said.expect("somebody listens");
    assert!(!counts.contains_key("FAILED"), "a row has failed");
}
