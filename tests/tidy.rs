//! The house rules that a program can hold: sizes, leftovers, names, and which room may know which. `ARCHITECTURE.md`
//! has the reasons.

use std::fs;
use std::path::{Path, PathBuf};

use flotilla::exit::ExitCode;

/// Lines of one file; beyond, it has more than one subject.
const FILE_LINES_MAX: usize = 800;
/// Characters of one line, comments included; rustfmt keeps code well below.
const LINE_CHARS_MAX: usize = 130;

/// What a room must never name: a folder or file under the workspace, and prefixes of paths in its code.
const ROOMS: &[(&str, &[&str])] = &[
    // One Raft group knows neither that there are many nor what entries mean.
    (
        "shards/src/raft",
        &[
            "crate::engine",
            "crate::kv",
            "crate::meta",
            "crate::keys",
            "crate::value",
            "crate::descriptor",
            "crate::range_map",
            "crate::genesis",
            "crate::node",
            "crate::limits",
        ],
    ),
    // The core is deterministic and touches nothing.
    (
        "shards/src",
        &[
            "std::thread",
            "std::net",
            "std::fs",
            "std::time::Instant",
            "std::time::SystemTime",
            "std::collections::HashMap",
            "std::collections::HashSet",
            "tokio",
            "tonic",
            "prometheus",
            "rocksdb",
            "flotilla_metrics",
        ],
    ),
    // The judge sees what clients see.
    (
        "shards/history/src",
        &[
            "std::thread",
            "std::net",
            "std::fs",
            "std::time::Instant",
            "std::time::SystemTime",
            "std::collections::HashMap",
            "std::collections::HashSet",
            "flotilla_proto",
            "flotilla_shards",
            "flotilla_metrics",
        ],
    ),
    (
        "metrics/src",
        &[
            "flotilla_proto",
            "flotilla_shards",
            "tokio",
            "tonic",
            "rocksdb",
        ],
    ),
    (
        "src/storage",
        &[
            "tonic",
            "crate::router",
            "crate::server",
            "crate::transport",
            "crate::client",
            "crate::cli",
        ],
    ),
    (
        "src/transport",
        &[
            "rocksdb",
            "crate::storage",
            "crate::server",
            "crate::router",
            "crate::client",
            "crate::cli",
        ],
    ),
    (
        "src/router",
        &[
            "rocksdb",
            "tonic",
            "flotilla_shards::raft::RawNode",
            "crate::storage",
            "crate::cli",
        ],
    ),
    (
        "src/runtime",
        &[
            "rocksdb",
            "tonic",
            "crate::server",
            "crate::client",
            "crate::cli",
        ],
    ),
    (
        // It opens the door to other nodes, and hands their streams to the transport.
        "src/server",
        &["rocksdb", "crate::storage", "crate::cli"],
    ),
    // Both ends of connections use it, and it knows neither.
    (
        "src/tls",
        &[
            "rocksdb",
            "crate::storage",
            "crate::transport",
            "crate::runtime",
            "crate::router",
            "crate::server",
            "crate::client",
            "crate::node",
            "crate::cli",
            "crate::config",
        ],
    ),
    // A client library that anyone can use without the node.
    (
        "src/client",
        &[
            "rocksdb",
            "crate::storage",
            "crate::transport",
            "crate::runtime",
            "crate::router",
            "crate::server",
            "crate::node",
            "crate::cli",
        ],
    ),
    // A load generator sees a cluster as any client does.
    (
        "src/bench",
        &[
            "rocksdb",
            "crate::storage",
            "crate::transport",
            "crate::runtime",
            "crate::router",
            "crate::server",
            "crate::node",
            "crate::cli",
        ],
    ),
    // The commands speak to a cluster through the client, and to the node only by starting one.
    (
        "src/cli",
        &[
            "rocksdb",
            "crate::storage",
            "crate::transport",
            "crate::runtime",
            "crate::router",
            "crate::server",
        ],
    ),
    (
        "src/config",
        &[
            "tokio",
            "tonic",
            "rocksdb",
            "crate::node",
            "crate::runtime",
            "crate::storage",
            "crate::server",
        ],
    ),
    (
        "src/console",
        &[
            "tonic",
            "rocksdb",
            "crate::node",
            "crate::runtime",
            "crate::router",
            "crate::storage",
            "crate::server",
            "crate::transport",
            "crate::client",
            "crate::cli",
        ],
    ),
    (
        "src/status",
        &[
            "tonic",
            "rocksdb",
            "crate::node",
            "crate::runtime",
            "crate::storage",
            "crate::server",
        ],
    ),
];

/// Leftovers. Spelt in two parts, so that this file does not find itself.
const LEFTOVERS: &[&str] = &[
    concat!("to", "do!("),
    concat!("unimple", "mented!("),
    concat!("db", "g!("),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("HA", "CK"),
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
];

/// Names that say nothing about the thing.
const EMPTY_NAMES: &[&str] = &["Manager", "Helper", "Util"];

struct Source {
    /// Relative to the workspace, with `/`.
    path: String,
    text: String,
}

fn workspace() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file of the workspace.
fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    for folder in ["src", "tests", "benches", "shards", "metrics", "proto"] {
        collect(&workspace().join(folder), &mut found);
    }
    assert!(
        found.len() > 20,
        "only {} files found: the rules look in the wrong place",
        found.len()
    );
    found
}

fn collect(folder: &Path, found: &mut Vec<Source>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries {
        let path = entry.expect("folder entry").path();
        if path.is_dir() {
            if path.file_name().is_none_or(|name| name != "target") {
                collect(&path, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("source file");
            let path = path
                .strip_prefix(workspace())
                .expect("inside the workspace");
            found.push(Source {
                path: path.to_string_lossy().replace('\\', "/"),
                text,
            });
        }
    }
}

/// Fails with all that was found.
fn assert_none(what: &str, mut found: Vec<String>) {
    found.sort();
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

/// Lines with their numbers, comments left out.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().map(|(at, line)| (at + 1, line));
    lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
}

#[test]
fn files_have_one_subject_and_say_which() {
    let mut found = Vec::new();
    for source in sources() {
        let lines = source.text.lines().count();
        if lines > FILE_LINES_MAX {
            found.push(format!(
                "{}: {lines} lines, at most {FILE_LINES_MAX}",
                source.path
            ));
        }
        if !source
            .text
            .lines()
            .next()
            .is_some_and(|line| line.starts_with("//! "))
        {
            found.push(format!(
                "{}: does not begin with //! and what lives here",
                source.path
            ));
        }
    }
    assert_none("files that need a cut or an introduction", found);
}

#[test]
fn nothing_is_left_over() {
    let mut found = Vec::new();
    for source in sources() {
        for (at, line) in source.text.lines().enumerate() {
            for leftover in LEFTOVERS
                .iter()
                .filter(|leftover| line.contains(**leftover))
            {
                found.push(format!("{}:{}: {leftover}", source.path, at + 1));
            }
            if line.chars().count() > LINE_CHARS_MAX && !line.contains('"') {
                found.push(format!(
                    "{}:{}: longer than {LINE_CHARS_MAX} characters",
                    source.path,
                    at + 1
                ));
            }
        }
    }
    assert_none("leftovers", found);
}

#[test]
fn names_say_what_a_thing_is() {
    let mut found = Vec::new();
    for source in sources()
        .iter()
        .filter(|source| !source.path.ends_with("tidy.rs"))
    {
        for (at, line) in code_lines(&source.text) {
            let mut words = line.split_whitespace().skip_while(|w| w.starts_with("pub"));
            let declares = words
                .next()
                .is_some_and(|word| ["struct", "enum", "trait", "mod"].contains(&word));
            let name = words.next().unwrap_or_default();
            for empty in EMPTY_NAMES
                .iter()
                .filter(|empty| declares && name.contains(**empty))
            {
                found.push(format!(
                    "{}:{at}: {name}: {empty} names nothing",
                    source.path
                ));
            }
        }
    }
    assert_none("empty names", found);
}

/// All paths that a file names: those of its `use` lines, spelt out, and those inside its code.
fn named_paths(source: &Source) -> Vec<(usize, String)> {
    let mut paths = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (at, line) in code_lines(&source.text) {
        let line = line.trim();
        let declaration = line
            .strip_prefix("pub ")
            .or_else(|| line.strip_prefix("pub(crate) "))
            .unwrap_or(line);
        match (&mut open, declaration.strip_prefix("use ")) {
            (Some((_, text)), _) => text.push_str(line),
            (none, Some(rest)) => *none = Some((at, rest.to_owned())),
            (None, None) => inline_paths(line).for_each(|path| paths.push((at, path.to_owned()))),
        }
        if let Some((at, text)) = open.take_if(|(_, text)| text.ends_with(';')) {
            expand("", text.trim_end_matches(';'), &mut |path| {
                paths.push((at, absolute(&source.path, path)))
            });
        }
    }
    paths
}

/// Words with `::` in them.
fn inline_paths(line: &str) -> impl Iterator<Item = &str> {
    let part = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    line.split(move |c| !part(c))
        .filter(|word| word.contains("::"))
}

/// Spells `a::{b, c::{d}}` out.
fn expand(prefix: &str, tree: &str, give: &mut impl FnMut(&str)) {
    match tree.split_once('{') {
        None => give(&format!(
            "{prefix}{}",
            tree.split(" as ").next().unwrap_or(tree).trim()
        )),
        Some((head, body)) => {
            let prefix = format!("{prefix}{}", head.trim());
            let body = body.strip_suffix('}').unwrap_or(body);
            let (mut depth, mut start) = (0_i32, 0);
            for (at, c) in body.char_indices().chain([(body.len(), ',')]) {
                match c {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    ',' if depth == 0 => {
                        let item = body[start..at].trim();
                        if !item.is_empty() {
                            expand(&prefix, item, give);
                        }
                        start = at + 1;
                    }
                    _ => {}
                }
            }
        }
    }
}

/// A path that begins with `super` or `self`, as one that begins with `crate`.
fn absolute(file: &str, path: &str) -> String {
    let inside = file.split_once("src/").map_or(file, |(_, inside)| inside);
    let module = inside.trim_end_matches(".rs").trim_end_matches("/mod");
    let mut modules: Vec<&str> = module
        .split('/')
        .filter(|m| !["lib", "main"].contains(m))
        .collect();
    let mut rest = path;
    let mut relative = false;
    if let Some(after) = rest.strip_prefix("self::") {
        (rest, relative) = (after, true);
    }
    while let Some(after) = rest.strip_prefix("super::") {
        (rest, relative) = (after, true);
        modules.pop();
    }
    if !relative {
        return path.to_owned();
    }
    let mut parts = vec!["crate"];
    parts.extend(modules);
    parts.push(rest);
    parts.join("::")
}

/// What a file names although its room may not know it.
fn trespasses(source: &Source) -> Vec<String> {
    let in_room = |room: &str| {
        source
            .path
            .strip_prefix(room)
            .is_some_and(|rest| rest.starts_with('/') || rest == ".rs")
    };
    let mut found = Vec::new();
    for (room, forbidden) in ROOMS.iter().filter(|(room, _)| in_room(room)) {
        for (at, path) in named_paths(source) {
            let hits = |prefix: &str| {
                path.strip_prefix(prefix)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
            };
            if forbidden.iter().any(|prefix| hits(prefix)) {
                found.push(format!("{}:{at}: {path} is not for {room}", source.path));
            }
        }
    }
    found
}

#[test]
fn rooms_know_only_what_they_may() {
    assert_none(
        "a room knows too much",
        sources().iter().flat_map(trespasses).collect(),
    );
}

#[test]
fn a_trespass_is_found_however_it_is_written() {
    let trespass = |path: &str, text: &str| {
        trespasses(&Source {
            path: path.to_owned(),
            text: text.to_owned(),
        })
        .len()
    };
    assert_eq!(trespass("src/server/kv.rs", "use crate::storage::Log;"), 1);
    assert_eq!(
        trespass(
            "src/server/kv.rs",
            "use crate::{\n    router::Router,\n    storage::{Log, State},\n};"
        ),
        2
    );
    assert_eq!(
        trespass("src/server/kv.rs", "use super::super::storage;"),
        1
    );
    assert_eq!(
        trespass(
            "src/server/kv.rs",
            "    let log = crate::storage::Log::open();"
        ),
        1
    );
    assert_eq!(trespass("src/server.rs", "pub use rocksdb as r;"), 1);
    assert_eq!(
        trespass("shards/src/raft/log.rs", "use crate::kv::{self, Command};"),
        1 + 1
    );
    assert_eq!(
        trespass(
            "shards/src/engine/mod.rs",
            "use std::{thread, time::Duration};"
        ),
        1
    );

    assert_eq!(
        trespass(
            "src/server/kv.rs",
            "use crate::router::Router;\n// as crate::storage::Log does\n"
        ),
        0
    );
    assert_eq!(trespass("src/servers.rs", "use crate::storage::Log;"), 0);
    assert_eq!(
        trespass("src/server/kv.rs", "use crate::storage_limits::Max;"),
        0
    );
    assert_eq!(
        trespass("shards/src/raft/log.rs", "use super::types::Index;"),
        0
    );
}

#[test]
fn the_readme_lists_every_exit_code() {
    let readme = fs::read_to_string(workspace().join("README.md")).expect("README.md");
    let missing = ExitCode::ALL
        .iter()
        .map(|(code, meaning)| format!("| {} | {meaning} |", code.code()));
    assert_none(
        "exit codes that the README lacks",
        missing.filter(|row| !readme.contains(row)).collect(),
    );
}

#[test]
fn every_metric_is_set_somewhere() {
    let node: Vec<String> = sources()
        .into_iter()
        .filter(|source| source.path.starts_with("src/") && !source.path.contains("tests"))
        // A name on a line of its own belongs to the line before.
        .map(|source| source.text.split_whitespace().collect())
        .collect();
    let is_set = |field: &str| {
        let name = format!(".{field}");
        node.iter().any(|text| {
            let mut hits = text
                .match_indices(&name)
                .map(|(at, _)| &text[at + name.len()..]);
            hits.any(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
        })
    };
    let declared = flotilla_metrics::Metrics::declared();
    let idle = declared.iter().filter(|metric| !is_set(metric.field));
    assert_none(
        "metrics that nobody sets",
        idle.map(|metric| metric.name.to_owned()).collect(),
    );
}
