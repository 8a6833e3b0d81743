//! Configurations of any content, from a file and from the environment.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::source::{FILE_BYTES_MAX, Layers};
use super::{Config, ConfigError, Fault, KEYS, Origin};
use crate::fuzz::{byte, piece};

const FILE: &str = "flotilla.toml";

/// What is said about one fault, in characters: more than a line would fill a screen with somebody's data.
const FAULT_CHARS_MAX: usize = 600;

/// Bytes of a line that is doubled.
const LINE_BYTES_MAX: usize = 1_000;

/// A file, an environment, or both: what is accepted can be printed and read again, what is refused is named with its
/// place.
///
/// # Panics
/// If that does not hold.
pub fn config(mut data: &[u8]) {
    let mut layers = Layers::default();
    let mut lines = 0;
    let mut file = |layers: &mut Layers, content: &[u8]| {
        lines = content.split(|byte| *byte == b'\n').count();
        layers.bytes(Path::new(FILE), content);
    };
    match byte(&mut data) % 4 {
        0 => file(&mut layers, data),
        1 => file(&mut layers, &sections(data)),
        2 => layers.variables(environment(data)),
        _ => {
            let Some(environ) = piece(&mut data) else {
                return;
            };
            file(&mut layers, &edited(data));
            layers.variables(environment(environ));
        }
    }
    match layers.done() {
        Ok(config) => accepted(&config),
        Err(error) => refused(&error, lines),
    }
}

fn accepted(config: &Config) {
    let printed = config.to_commented_toml();
    assert!(printed.len() as u64 <= FILE_BYTES_MAX, "{printed}");
    let again = Config::from_toml(Path::new(FILE), &printed);
    assert_eq!(again.as_ref(), Ok(config), "{printed}");
    let summary = config.summary();
    assert_eq!(summary.lines().count(), 1, "{summary:?}");
    config.to_json();
    config.raft.ticks();
    let limits = flotilla_shards::limits::Limits::from(&config.limits);
    assert_eq!(limits.validate(), Ok(()));
}

fn refused(error: &ConfigError, lines: usize) {
    assert!(!error.faults.is_empty());
    for fault in &error.faults {
        let text = fault.to_string();
        assert!(
            !text.contains(char::is_control),
            "more than a line: {text:?}"
        );
        assert!(text.chars().count() <= FAULT_CHARS_MAX, "{text}");
        let is_place = |origin: &Origin| match origin {
            Origin::Default => false,
            Origin::File { line, column, .. } => (1..=lines).contains(line) && *column > 0,
            Origin::Variable(name) => !name.is_empty(),
            Origin::Flag(_) => true,
        };
        assert!(
            match fault {
                Fault::Unreadable { .. } => false,
                Fault::TooLarge { .. } => true,
                Fault::Syntax { origin, .. }
                | Fault::Unknown { origin, .. }
                | Fault::Value { origin, .. } => is_place(origin),
                Fault::Contradiction { left, right, .. } =>
                    is_place(&left.origin) || is_place(&right.origin),
            },
            "no place: {fault:?}"
        );
    }
}

/// Keys of the table with values of any content, as TOML writes them or bare.
fn sections(mut data: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    while !data.is_empty() {
        let form = byte(&mut data);
        let key = &KEYS[usize::from(byte(&mut data)) % KEYS.len()];
        let Some(value) = piece(&mut data) else {
            break;
        };
        let value = String::from_utf8_lossy(value);
        let value = match form % 3 {
            0 => super::literal(key, &value),
            1 => toml::Value::String(value.into_owned()).to_string(),
            _ => value.into_owned(),
        };
        if form & 128 == 0 {
            text.extend_from_slice(format!("[{}]\n", key.section).as_bytes());
        }
        text.extend_from_slice(format!("{} = {value}\n", key.name).as_bytes());
    }
    text
}

/// Variables of the table with values of any content, or of any name.
fn environment(mut data: &[u8]) -> Vec<(OsString, OsString)> {
    let text = |bytes: &[u8]| OsStr::from_bytes(bytes).to_owned();
    let mut variables = Vec::new();
    while !data.is_empty() {
        let name = match byte(&mut data) {
            255 => match piece(&mut data) {
                Some(name) => text(&[b"FLOTILLA_", name].concat()),
                None => break,
            },
            key => KEYS[usize::from(key) % KEYS.len()].variable().into(),
        };
        let Some(value) = piece(&mut data) else {
            break;
        };
        variables.push((name, text(value)));
    }
    variables
}

/// The printed default, of which some lines are cut out, changed or doubled.
fn edited(mut data: &[u8]) -> Vec<u8> {
    let printed = Config::default().to_commented_toml();
    // The comments say nothing to the reader; without them most damage hits something.
    let mut lines: Vec<Vec<u8>> = printed
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(|line| line.as_bytes().to_vec())
        .collect();
    while !data.is_empty() {
        let at = usize::from(byte(&mut data)) % lines.len();
        let line = &mut lines[at];
        let column = usize::from(byte(&mut data)) % (line.len() + 1);
        match byte(&mut data) % 5 {
            0 => line.clear(),
            1 => line.truncate(column),
            2 => {
                let Some(piece) = piece(&mut data) else {
                    break;
                };
                line.splice(column..column, piece.iter().copied());
            }
            3 => {
                let Some(piece) = piece(&mut data) else {
                    break;
                };
                let equals = line.iter().position(|byte| *byte == b'=');
                line.truncate(equals.map_or(0, |at| at + 1));
                line.extend_from_slice(piece);
            }
            // Bounded, as a line that is doubled again and again would fill the memory.
            _ if line.len() > LINE_BYTES_MAX => {}
            _ => {
                let double = line.clone();
                line.push(b'\n');
                line.extend_from_slice(&double);
            }
        }
    }
    lines.join(&b'\n')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::feed;
    use crate::fuzz::pieces;

    fn seeds() -> Vec<Vec<u8>> {
        let tagged = |tag: u8, data: &[u8]| [&[tag], data].concat();
        let key = |name: &str| {
            let at = KEYS.iter().position(|key| key.path() == name);
            u8::try_from(at.expect("a key of the table")).expect("few keys")
        };
        let set = |form: u8, name: &str, value: &str| {
            [&[form, key(name)], &pieces(&[value.as_bytes()])[..]].concat()
        };
        let variable = |name: &str, value: &[u8]| [&[key(name)], &pieces(&[value])[..]].concat();
        vec![
            tagged(0, b"[raft]\nelection_timeout = \"2s\"\n"),
            tagged(
                0,
                b"node = 5\n[storag]\n\"a\\nb\" = [1, {}]\nx.y = 1979-05-27\n",
            ),
            tagged(0, b"[limits]\nkey_bytes = 99999999999999999999\n[[node]]\n"),
            tagged(0, &[b"a = ", &[b'['; 2000][..]].concat()),
            tagged(0, b"[node]\ndata = \"\"\"two\nlines\"\"\"\n"),
            tagged(1, &set(0, "node.join", "a:1,b:2")),
            tagged(1, &set(0, "raft.heartbeat_interval", "1day 2h 3ms 4us 5ns")),
            tagged(1, &set(1, "node.data", "/some\u{7f}/where\n\"\u{202e}\\")),
            tagged(
                1,
                &set(1, "log.level", "info,flotilla::transport[{a=\"b\"}]=debug"),
            ),
            tagged(1, &set(2, "limits.entry_bytes", "0x10")),
            tagged(2, &variable("node.listen", b"[::1]:0")),
            tagged(2, &variable("storage.replay_limit", b"1_000 KiB")),
            tagged(2, &variable("node.data", b"\xff")),
            tagged(2, &[&[255], &pieces(&[b"RAFT__\nX", b"1"])[..]].concat()),
            tagged(
                3,
                &[&pieces(&[b""])[..], b"\x07\x09\x02\x03abc\x05\x00\x00"].concat(),
            ),
            tagged(
                3,
                &[&pieces(&[b""])[..], b"\x09\x00\x03\x06 \"5ms\""].concat(),
            ),
        ]
    }

    #[test]
    fn configurations_of_any_content() {
        feed("config", &seeds(), 3_000, config);
    }
}
