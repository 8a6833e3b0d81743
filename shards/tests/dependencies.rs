//! The core stays free of everything that touches the world, also by way of its dependencies. Its sources are held to
//! that by `clippy.toml` and by the house rules' test.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

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
