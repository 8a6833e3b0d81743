//! The core stays free of everything that touches the world, in its dependencies and in its sources.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// Crates that bring threads, sockets or files, or the node's own.
const FORBIDDEN_CRATES: [&str; 9] = [
    "tokio",
    "tonic",
    "hyper",
    "mio",
    "rocksdb",
    "librocksdb-sys",
    "flotilla",
    "rand",
    "getrandom",
];

/// Names that break determinism or sans-IO. `clippy.toml` refuses them by type; this also sees what clippy does not
/// compile.
const FORBIDDEN_NAMES: [&str; 11] = [
    "Instant",
    "SystemTime",
    "HashMap",
    "HashSet",
    "RandomState",
    "std::thread",
    "std::fs",
    "std::net",
    "std::env",
    "Mutex",
    "tokio",
];

#[test]
fn no_runtime_and_no_database_in_the_tree() {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "--locked",
            "--edges",
            "normal",
            "--prefix",
            "none",
        ])
        .args(["--package", "flotilla-shards", "--format", "{p}"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let tree = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo tree failed: {errors}");
    let names: Vec<&str> = tree
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert!(
        names.contains(&"prost"),
        "this is no dependency tree:\n{tree}"
    );
    for name in FORBIDDEN_CRATES {
        assert!(
            !names.contains(&name),
            "flotilla-shards depends on {name}:\n{tree}"
        );
    }
}

#[test]
fn no_clock_thread_or_hash_order_in_the_sources() {
    let mut files = Vec::new();
    collect(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut files,
    );
    assert!(files.len() > 10, "the sources were not found: {files:?}");
    let mut found = Vec::new();
    for file in files {
        for (at, line) in fs::read_to_string(&file).unwrap().lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for name in FORBIDDEN_NAMES {
                if names(code, name) {
                    found.push(format!("{}:{}: {name}", file.display(), at + 1));
                }
            }
        }
    }
    assert!(
        found.is_empty(),
        "the core may not name these:\n{}",
        found.join("\n")
    );
}

/// Whether `code` has `name` as a word of its own.
fn names(code: &str, name: &str) -> bool {
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(name).any(|(at, _)| {
        !code[..at].ends_with(part_of_word) && !code[at + name.len()..].starts_with(part_of_word)
    })
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

#[test]
fn words_are_found_and_parts_of_words_are_not() {
    assert!(names("let t: Instant = now;", "Instant"));
    assert!(names("std::thread::spawn", "std::thread"));
    assert!(!names("Instantiate", "Instant"));
    assert!(!names("my_tokio", "tokio"));
}
