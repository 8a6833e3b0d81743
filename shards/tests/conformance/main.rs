//! Runs etcd-raft's data-driven tests, and scenarios of our own in the same format, against the Raft core.
//!
//! The shared files are looked for in the folder that `RAFT_TESTDATA` names, else beside the clone. See `README.md`
//! here for our own scenarios and the commands that only they use.

#![allow(
    clippy::disallowed_methods,
    reason = "where the shared files are comes from outside"
)]

mod confchange;
mod datadriven;
mod harness;
mod interaction;
mod quorum;

use datadriven::{Broken, Case, Checked};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs, io};

/// Where the shared files are, relative to the root of the workspace.
const SHARED: &str = "../shared/raft-conformance/testdata";
const KINDS: [Kind; 3] = [Kind::Quorum, Kind::ConfChange, Kind::Interaction];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Quorum,
    ConfChange,
    Interaction,
}

impl Kind {
    fn folder(self) -> &'static str {
        match self {
            Self::Quorum => "quorum",
            Self::ConfChange => "confchange",
            Self::Interaction => "interaction",
        }
    }

    fn named(name: Option<&str>) -> Option<Self> {
        KINDS.into_iter().find(|kind| Some(kind.folder()) == name)
    }
}

fn main() -> ExitCode {
    let mut tests = Vec::new();
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let own = package.join("tests/conformance/scenarios");
    let rewrite = env::var("REWRITE").is_ok_and(|value| value == "1");
    tests.push(harness::Test::new("datadriven_format", || {
        format_tests().map(|()| String::new())
    }));
    collect(
        "scenarios",
        &own,
        Some(Kind::Interaction),
        rewrite,
        &mut tests,
    );

    let named = env::var_os("RAFT_TESTDATA")
        .filter(|value| !value.is_empty())
        .map(PathBuf::from);
    let required = named.is_some() || env::var("CI").is_ok_and(|value| value == "true");
    let workspace = package
        .parent()
        .expect("the package is a folder of the workspace");
    let shared = named.map_or_else(|| workspace.join(SHARED), |folder| workspace.join(folder));
    if shared.is_dir() || required {
        let kind = Kind::named(shared.file_name().and_then(|name| name.to_str()));
        collect("shared", &shared, kind, false, &mut tests);
    } else {
        println!("no folder {SHARED} beside this clone: etcd-raft's data-driven tests are not run");
        tests.push(harness::Test::ignored("shared"));
    }
    harness::run(tests)
}

/// Adds a test for each file below `folder`. Whatever is found there and not understood becomes a failing test:
/// nothing may be left unread.
fn collect(
    name: &str,
    folder: &Path,
    kind: Option<Kind>,
    rewrite: bool,
    tests: &mut Vec<harness::Test>,
) {
    let failing = |name: &str, why: String| harness::Test::new(name, move || Err(why.clone()));
    let mut paths = match fs::read_dir(folder)
        .and_then(|dir| dir.map(|e| Ok(e?.path())).collect::<io::Result<Vec<_>>>())
    {
        Ok(paths) => paths,
        Err(error) => {
            return tests.push(failing(
                name,
                format!("cannot read {}: {error}", folder.display()),
            ));
        }
    };
    if paths.is_empty() {
        return tests.push(failing(name, format!("{} is empty", folder.display())));
    }
    paths.sort();
    for path in paths {
        let file_name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or("?")
            .to_owned();
        let name = format!("{name}/{file_name}");
        let kind = kind.or_else(|| Kind::named(Some(&file_name)).filter(|_| path.is_dir()));
        if path.is_dir() {
            collect(&name, &path, kind, rewrite, tests);
        } else if let Some(kind) = kind {
            tests.push(harness::Test::new(&name, move || {
                run_file(kind, &path, rewrite)
            }));
        } else {
            let kinds = KINDS.map(Kind::folder).join(", ");
            tests.push(failing(
                &name,
                format!("not in a folder that says how to run it: {kinds}"),
            ));
        }
    }
}

/// Runs one case after the other on the same state.
type Runner = Box<dyn FnMut(&Case) -> Checked<String>>;

/// Runs all cases of a file. Says how many they were, or describes the first that failed.
fn run_file(kind: Kind, path: &Path, rewrite: bool) -> Result<String, String> {
    let text = fs::read_to_string(path)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let cases = datadriven::cases(&text).map_err(|Broken(what)| what)?;
    if cases.is_empty() {
        return Err("no case in this file".into());
    }
    let mut run: Runner = match kind {
        Kind::Quorum => Box::new(quorum::run),
        Kind::ConfChange => {
            let mut runner = confchange::Runner::new();
            Box::new(move |case| runner.run(case))
        }
        Kind::Interaction => {
            let mut env = interaction::Env::new();
            Box::new(move |case| env.run(case))
        }
    };
    let mut outputs = Vec::new();
    for (number, case) in (1..).zip(&cases) {
        let describe = |what: &str| {
            let at = format!(
                "{}:{}: case {number} of {}",
                path.display(),
                case.line,
                cases.len()
            );
            let input = if case.input.is_empty() {
                String::new()
            } else {
                format!("{}\n", case.input)
            };
            format!("{at}\n{}\n{input}{what}", case.directive)
        };
        let mut output = harness::catching(|| run(case))
            .map_err(|panic| describe(&panic))?
            .map_err(|Broken(what)| describe(&format!("broken test: {what}")))?;
        if !output.is_empty() && !output.ends_with('\n') {
            output.push('\n');
        }
        let same = match kind {
            Kind::Interaction => normalised(&output) == normalised(&case.expected),
            Kind::Quorum | Kind::ConfChange => output == case.expected,
        };
        if !same && !rewrite {
            return Err(describe(&format!(
                "---- expected\n{}---- got\n{output}",
                case.expected
            )));
        }
        outputs.push(if same { case.expected.clone() } else { output });
    }
    if rewrite {
        let rewritten = datadriven::rewrite(&text, &cases, &outputs);
        if rewritten != text {
            fs::write(path, rewritten)
                .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        }
    }
    Ok(format!("{} cases", cases.len()))
}

/// What is compared: all but the lines of the reference's logger, and no lone `ok`, which only says that nothing was
/// written.
fn normalised(output: &str) -> Vec<&str> {
    let lines: Vec<_> = output
        .lines()
        .filter(|line| !is_logger_line(line))
        .collect();
    if lines == ["ok"] { Vec::new() } else { lines }
}

fn is_logger_line(line: &str) -> bool {
    let line = line.trim_start_matches(' ');
    ["DEBUG ", "INFO ", "WARN ", "ERROR ", "FATAL "]
        .iter()
        .any(|level| line.starts_with(level))
}

/// The format itself, where the files do not use it.
fn format_tests() -> Result<(), String> {
    let text = "# comment\nfirst 1 a=(2, (3,4),5) b= c=7 \\\n  d\nin\n\n# put\n----\n----\none\n\ntwo\n----\n----\n\n\
                subtest x\nsecond\n----\n  out\nsubtest y\n\nsubtest end x\nthird\n----\n";
    let cases = datadriven::cases(text).map_err(|Broken(what)| what)?;
    let [first, second, third] = cases.as_slice() else {
        return Err(format!("three cases, got {cases:?}"));
    };
    assert_eq!(
        (first.line, first.command.as_str(), first.input.as_str()),
        (2, "first", "in\n\n# put")
    );
    let args: Vec<_> = first
        .args
        .iter()
        .map(|arg| (arg.key.as_str(), arg.values.join("|")))
        .collect();
    let expected = [
        ("1", ""),
        ("a", "2|(3,4)|5"),
        ("b", ""),
        ("c", "7"),
        ("d", ""),
    ];
    assert_eq!(args, expected.map(|(key, values)| (key, values.to_owned())));
    assert_eq!(first.expected, "one\n\ntwo\n");
    assert_eq!(
        (second.expected.as_str(), third.expected.as_str()),
        ("  out\nsubtest y\n", "")
    );
    let outputs = [first.expected.clone(), "new\n".into(), String::new()];
    assert_eq!(
        datadriven::rewrite(text, &cases, &outputs),
        text.replace("  out\nsubtest y\n", "new\n")
    );
    for wrong in [
        "a\n",
        "a\n----\n----\nx\n----\n",
        "a b=(1\n----\n",
        "a b=(1)c\n----\n",
        "a \\",
    ] {
        assert!(datadriven::cases(wrong).is_err(), "accepted: {wrong:?}");
    }
    assert_eq!(normalised("  INFO x\nok\n"), normalised(""));
    assert_ne!(normalised("INFOx\n"), normalised(""));
    Ok(())
}
