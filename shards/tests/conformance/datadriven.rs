//! The file format of data-driven tests: cases of a directive, input lines, and the expected output.

use std::fmt::Display;
use std::ops::Range;
use std::str::FromStr;

const SEPARATOR: &str = "----";

/// A test that cannot be run as written, in contrast to one that runs and prints something else.
#[derive(Debug)]
pub(crate) struct Broken(pub(crate) String);

/// The result of something that only a wrongly written test makes fail.
pub(crate) type Checked<T> = Result<T, Broken>;

pub(crate) fn broken<T>(what: impl Display) -> Checked<T> {
    Err(Broken(what.to_string()))
}

/// One argument of a directive: `key`, `key=value` or `key=(a,b,c)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Arg {
    pub(crate) key: String,
    pub(crate) values: Vec<String>,
}

impl Arg {
    /// The key as a number.
    pub(crate) fn id<T: FromStr>(&self) -> Checked<T> {
        if !self.values.is_empty() {
            return broken(format_args!(
                "argument {}: expected a plain number",
                self.key
            ));
        }
        parse(&self.key)
    }

    /// The only value.
    pub(crate) fn value<T: FromStr>(&self) -> Checked<T> {
        match self.values.as_slice() {
            [value] => parse(value),
            values => broken(format_args!(
                "argument {}: {} values, expected one",
                self.key,
                values.len()
            )),
        }
    }

    /// All values.
    pub(crate) fn values<T: FromStr>(&self) -> Checked<Vec<T>> {
        self.values.iter().map(|value| parse(value)).collect()
    }

    /// The only value as a boolean; `key` alone means true.
    pub(crate) fn flag(&self) -> Checked<bool> {
        match self.values.as_slice() {
            [] => Ok(true),
            [value] => boolean(value),
            values => broken(format_args!(
                "argument {}: {} values, expected one",
                self.key,
                values.len()
            )),
        }
    }
}

fn parse<T: FromStr>(text: &str) -> Checked<T> {
    text.parse().or_else(|_| {
        broken(format_args!(
            "cannot read {text:?} as a {}",
            std::any::type_name::<T>()
        ))
    })
}

pub(crate) fn boolean(text: &str) -> Checked<bool> {
    match text {
        "true" | "TRUE" | "True" | "t" | "T" | "1" => Ok(true),
        "false" | "FALSE" | "False" | "f" | "F" | "0" => Ok(false),
        _ => broken(format_args!("cannot read {text:?} as a boolean")),
    }
}

/// One case of a file.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// Line of the directive, from 1.
    pub(crate) line: usize,
    /// The directive as written, continuation lines joined.
    pub(crate) directive: String,
    pub(crate) command: String,
    pub(crate) args: Vec<Arg>,
    pub(crate) input: String,
    pub(crate) expected: String,
    /// The lines of the file, from 0, that hold the expected output and its separators.
    expected_at: Range<usize>,
}

impl Case {
    pub(crate) fn arg(&self, key: &str) -> Option<&Arg> {
        self.args.iter().find(|arg| arg.key == key)
    }
}

/// Reads all cases of a file.
pub(crate) fn cases(text: &str) -> Checked<Vec<Case>> {
    let lines: Vec<&str> = text.lines().collect();
    let mut cases = Vec::new();
    let mut groups: Vec<String> = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let start = at;
        let mut directive = lines[at].trim().to_owned();
        at += 1;
        if directive.is_empty() || directive.starts_with('#') {
            continue;
        }
        while let Some(head) = directive.strip_suffix('\\') {
            let Some(next) = lines.get(at) else {
                return broken(format_args!(
                    "line {}: the file ends in a continued line",
                    start + 1
                ));
            };
            directive = format!("{} {}", head.trim_end(), next.trim());
            at += 1;
        }
        let (command, args) = parse_directive(&directive)
            .map_err(|Broken(what)| Broken(format!("line {}: {what}", start + 1)))?;

        if command == "subtest" {
            // Groups only structure a file: they have no input, no output and no state.
            match args.as_slice() {
                [end] if end.key == "end" => drop(groups.pop()),
                [end, name] if end.key == "end" && groups.last() == Some(&name.key) => {
                    drop(groups.pop())
                }
                [name] => groups.push(name.key.clone()),
                _ => {
                    return broken(format_args!(
                        "line {}: malformed or unbalanced: {directive}",
                        start + 1
                    ));
                }
            }
            continue;
        }

        let Some(length) = lines[at..].iter().position(|&line| line == SEPARATOR) else {
            return broken(format_args!(
                "line {}: no {SEPARATOR} follows: {directive}",
                start + 1
            ));
        };
        let input = lines[at..at + length].join("\n").trim().to_owned();
        at += length;
        let expected_start = at;
        at += 1;
        let body = if lines.get(at) == Some(&SEPARATOR) {
            at += 1;
            let rest = lines[at..]
                .windows(2)
                .position(|pair| pair == [SEPARATOR, SEPARATOR]);
            let Some(length) = rest else {
                return broken(format_args!(
                    "line {}: the output opened by two {SEPARATOR} has no end",
                    start + 1
                ));
            };
            let body = at..at + length;
            at += length + 2;
            body
        } else {
            let length = lines[at..]
                .iter()
                .take_while(|line| !line.trim().is_empty())
                .count();
            let body = at..at + length;
            at += length;
            body
        };
        let expected = lines[body].iter().flat_map(|line| [line, "\n"]).collect();
        cases.push(Case {
            line: start + 1,
            directive,
            command,
            args,
            input,
            expected,
            expected_at: expected_start..at,
        });
    }
    Ok(cases)
}

/// The file with the expected outputs replaced, all else as it was. One output per case, or fewer: the rest stays.
pub(crate) fn rewrite(text: &str, cases: &[Case], outputs: &[String]) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let mut out = String::new();
    let mut at = 0;
    let mut push = |line: &str| {
        out.push_str(line);
        out.push('\n');
    };
    for (case, output) in cases.iter().zip(outputs) {
        lines[at..case.expected_at.start]
            .iter()
            .for_each(|line| push(line));
        let fence = if output
            .lines()
            .any(|line| line.trim().is_empty() || line == SEPARATOR)
        {
            2
        } else {
            1
        };
        (0..fence).for_each(|_| push(SEPARATOR));
        output.lines().for_each(&mut push);
        (1..fence).for_each(|_| (0..fence).for_each(|_| push(SEPARATOR)));
        at = case.expected_at.end;
    }
    lines[at..].iter().for_each(|line| push(line));
    out
}

fn parse_directive(line: &str) -> Checked<(String, Vec<Arg>)> {
    let (command, mut rest) = line.split_once(' ').unwrap_or((line, ""));
    let mut args = Vec::new();
    loop {
        rest = rest.trim_start();
        if rest.is_empty() {
            return Ok((command.to_owned(), args));
        }
        let end = rest.find([' ', '=']).unwrap_or(rest.len());
        let key = rest[..end].to_owned();
        rest = &rest[end..];
        let mut values = Vec::new();
        if let Some(value) = rest.strip_prefix('=') {
            if let Some(list) = value.strip_prefix('(') {
                (values, rest) = parse_list(list)?;
            } else {
                let end = value.find(' ').unwrap_or(value.len());
                values.push(value[..end].to_owned());
                rest = &value[end..];
            }
        }
        args.push(Arg { key, values });
    }
}

/// Values up to the closing parenthesis of the list that `text` starts in, and what follows it.
fn parse_list(text: &str) -> Checked<(Vec<String>, &str)> {
    let mut values = Vec::new();
    let (mut depth, mut from) = (0, 0);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' if depth > 0 => depth -= 1,
            ',' if depth == 0 => {
                values.push(text[from..at].trim_start().to_owned());
                from = at + 1;
            }
            ')' => {
                let last = text[from..at].trim_start();
                if !(values.is_empty() && last.is_empty()) {
                    values.push(last.to_owned());
                }
                let rest = &text[at + 1..];
                if !(rest.is_empty() || rest.starts_with(' ')) {
                    return broken(format_args!(
                        "expected a blank after a list, found {rest:?}"
                    ));
                }
                return Ok((values, rest));
            }
            _ => {}
        }
    }
    broken(format_args!("list without a closing parenthesis: ({text}"))
}
