//! A test harness for tests that are found at run time, with the command line and output of the usual one as far as
//! `cargo test` and `cargo nextest` use them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

/// A named test; it says what it did, or why it failed.
pub(crate) struct Test {
    name: String,
    run: Option<Box<dyn Fn() -> Result<String, String>>>,
}

impl Test {
    pub(crate) fn new(name: &str, run: impl Fn() -> Result<String, String> + 'static) -> Self {
        Self {
            name: name.into(),
            run: Some(Box::new(run)),
        }
    }

    /// A test that cannot be run here.
    pub(crate) fn ignored(name: &str) -> Self {
        Self {
            name: name.into(),
            run: None,
        }
    }
}

/// Runs `f`, and turns a panic into its message.
pub(crate) fn catching<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(f)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        format!("panic: {}", text.unwrap_or("without a message"))
    })
}

/// Runs the tests that the command line asks for.
pub(crate) fn run(tests: Vec<Test>) -> ExitCode {
    let mut filters = Vec::new();
    let mut skips = Vec::new();
    let (mut list, mut exact, mut only_ignored) = (false, false, false);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--list" => list = true,
            "--exact" => exact = true,
            "--ignored" => only_ignored = true,
            "--skip" => skips.extend(args.next()),
            "--format" | "--test-threads" | "--color" | "--logfile" | "--shuffle-seed" | "-Z" => {
                drop(args.next())
            }
            _ if arg.starts_with('-') => {} // what changes how the usual harness prints or schedules
            _ => filters.push(arg),
        }
    }
    let matches = |test: &Test, filter: &String| {
        if exact {
            test.name == *filter
        } else {
            test.name.contains(filter)
        }
    };
    let wanted = |test: &&Test| {
        (filters.is_empty() || filters.iter().any(|filter| matches(test, filter)))
            && !skips.iter().any(|skip| matches(test, skip))
            && (!only_ignored || test.run.is_none())
    };
    let total = tests.len();
    let tests: Vec<_> = tests.iter().filter(wanted).collect();
    if list {
        tests
            .iter()
            .for_each(|test| println!("{}: test", test.name));
        return ExitCode::SUCCESS;
    }

    println!("\nrunning {} tests", tests.len());
    let (mut passed, mut ignored, mut failures) = (0, 0, Vec::new());
    for test in &tests {
        let Some(run) = &test.run else {
            println!("test {} ... ignored", test.name);
            ignored += 1;
            continue;
        };
        match catching(run).and_then(|outcome| outcome) {
            Ok(what) if what.is_empty() => println!("test {} ... ok", test.name),
            Ok(what) => println!("test {} ({what}) ... ok", test.name),
            Err(why) => {
                println!("test {} ... FAILED", test.name);
                failures.push((&test.name, why));
                continue;
            }
        }
        passed += 1;
    }
    for (name, why) in &failures {
        println!("\n---- {name} ----\n{why}");
    }
    println!(
        "\ntest result: {}. {passed} passed; {} failed; {ignored} ignored; 0 measured; {} filtered out\n",
        if failures.is_empty() { "ok" } else { "FAILED" },
        failures.len(),
        total - tests.len(),
    );
    if failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(101)
    }
}
