//! Where values come from, and what is said when one is refused.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io::Read as _;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::keys::{Config, KEYS, Key, SECTIONS};
use super::setting::Shape;

/// Bytes of a configuration file at most; the one with every key and its comments has a fifth of this.
pub(crate) const FILE_BYTES_MAX: u64 = 64 << 10;

/// Characters of a name or value that are shown; the rest is cut.
const SHOWN_CHARS_MAX: usize = 100;

/// Where a value was set. Later ones win.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// A line and column of the file, both counted from 1.
    File {
        /// The file as it was named.
        path: PathBuf,
        /// Line.
        line: usize,
        /// Column, in characters.
        column: usize,
    },
    /// An environment variable.
    Variable(String),
    /// A flag of the command line.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line, column } => write!(f, "{}:{line}:{column}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

/// One thing that is wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The file cannot be read.
    #[error("{}: cannot read the configuration file: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: String,
    },
    /// The file is longer than any configuration.
    #[error("{}: has more than {FILE_BYTES_MAX} bytes: is it a configuration file?", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The file is no TOML.
    #[error("{origin}: {message}")]
    Syntax {
        /// Where.
        origin: Origin,
        /// What the parser said.
        message: String,
    },
    /// There is no such key or section.
    #[error("{origin}: unknown {what} {name}{}", nearest.as_ref().map(|n| format!("; did you mean {n}?")).unwrap_or_default())]
    Unknown {
        /// Where.
        origin: Origin,
        /// "key", "section" or "variable".
        what: &'static str,
        /// The name that was given.
        name: String,
        /// The known name that is nearest to it.
        nearest: Option<String>,
    },
    /// The value is not of the key's kind, or out of its bounds.
    #[error("{origin}: {key} = {value}: expected {expected}")]
    Value {
        /// Where.
        origin: Origin,
        /// The key.
        key: String,
        /// The value that was given.
        value: String,
        /// What would be right.
        expected: String,
    },
    /// Two values that do not go together.
    #[error(
        "{} = {} ({}) {rule} {} = {} ({})", left.key, shown(&left.value), left.origin, right.key,
        shown(&right.value), right.origin
    )]
    Contradiction {
        /// The one.
        left: Named,
        /// What must hold between them, as the middle of the sentence.
        rule: &'static str,
        /// The other.
        right: Named,
    },
}

/// A value with its name and origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// `section.name`.
    pub key: String,
    /// The value as text.
    pub value: String,
    /// Where it was set.
    pub origin: Origin,
}

/// All that is wrong, so that one run shows it all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the configuration is not usable:\n{}", faults.iter().map(|f| format!("  {f}")).collect::<Vec<_>>().join("\n"))]
pub struct ConfigError {
    /// *Invariant*: at least one.
    pub faults: Vec<Fault>,
}

/// Where values came from, by `section.name`; those that nobody set are left out. Says nothing about the values: as a part of
/// a configuration it makes no difference.
#[derive(Clone, Debug, Default)]
pub struct Origins(BTreeMap<String, Origin>);

impl Origins {
    /// Where a value came from.
    #[must_use]
    pub fn of(&self, key: &Key) -> Origin {
        self.0.get(&key.path()).cloned().unwrap_or(Origin::Default)
    }

    pub(crate) fn set(&mut self, key: &Key, origin: Origin) {
        self.0.insert(key.path(), origin);
    }
}

impl PartialEq for Origins {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// The layers while they are laid over each other.
#[derive(Default)]
pub(crate) struct Layers {
    pub(crate) config: Config,
    pub(crate) faults: Vec<Fault>,
}

impl Layers {
    /// Lays the values of a file on top.
    pub(crate) fn file(&mut self, path: &Path) {
        let mut content = Vec::new();
        let read = std::fs::File::open(path)
            .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut content));
        match read {
            Ok(_) => self.bytes(path, &content),
            Err(error) => {
                self.faults.push(Fault::Unreadable {
                    path: path.to_owned(),
                    error: error.to_string(),
                });
            }
        }
    }

    /// Lays the values of a file's content on top.
    pub(crate) fn bytes(&mut self, path: &Path, content: &[u8]) {
        if content.len() as u64 > FILE_BYTES_MAX {
            let path = path.to_owned();
            return self.faults.push(Fault::TooLarge { path });
        }
        match std::str::from_utf8(content) {
            Ok(text) => self.text(path, text),
            Err(error) => {
                let before = content.get(..error.valid_up_to()).unwrap_or_default();
                self.faults.push(Fault::Syntax {
                    origin: place(path, &String::from_utf8_lossy(before)),
                    message: "not UTF-8, the encoding of TOML".to_owned(),
                });
            }
        }
    }

    /// Lays the values of a file's text on top.
    pub(crate) fn text(&mut self, path: &Path, text: &str) {
        let origin = |span: Range<usize>| place(path, text.get(..span.start).unwrap_or(text));
        let table = match DeTable::parse(text) {
            Ok(table) => table.into_inner(),
            Err(error) => {
                let origin = origin(error.span().unwrap_or(0..0));
                return self.faults.push(Fault::Syntax {
                    origin,
                    message: shown(error.message()),
                });
            }
        };
        let before = self.faults.len();
        for (section, content) in &table {
            let name = section.get_ref().as_ref();
            let known = SECTIONS.iter().any(|(section, _)| *section == name);
            match content.get_ref() {
                DeValue::Table(keys) if known => {
                    for (key, value) in keys {
                        let (place, value_place) = (origin(key.span()), origin(value.span()));
                        self.entry(name, key.get_ref(), value.get_ref(), place, value_place);
                    }
                }
                _ if known => self.faults.push(Fault::Value {
                    origin: origin(content.span()),
                    key: name.to_owned(),
                    value: content.get_ref().type_str().to_owned(),
                    expected: format!("a section: [{name}]"),
                }),
                DeValue::Table(_) => {
                    let nearest = nearest(
                        name,
                        SECTIONS.iter().map(|(section, _)| (*section).to_owned()),
                    );
                    let (origin, name) = (origin(section.span()), shown(name));
                    self.faults.push(Fault::Unknown {
                        origin,
                        what: "section",
                        name,
                        nearest,
                    });
                }
                _ => self.unknown_key(name, origin(section.span())),
            }
        }
        // The parser's tables are sorted by name; people read files from the top.
        self.faults[before..].sort_by_cached_key(Fault::origin);
    }

    fn entry(
        &mut self,
        section: &str,
        name: &str,
        value: &DeValue<'_>,
        place: Origin,
        value_place: Origin,
    ) {
        let Some(key) = find(section, name) else {
            return self.unknown_key(&format!("{section}.{name}"), place);
        };
        match text_of(value, key.shape) {
            Ok(text) => self.set(key, &text, value_place),
            Err(given) => {
                let expected = key.expected.to_owned();
                self.faults.push(Fault::Value {
                    origin: value_place,
                    key: key.path(),
                    value: shown(&given),
                    expected,
                });
            }
        }
    }

    fn unknown_key(&mut self, name: &str, origin: Origin) {
        let nearest = nearest(name, KEYS.iter().map(Key::path));
        self.faults.push(Fault::Unknown {
            origin,
            what: "key",
            name: shown(name),
            nearest,
        });
    }

    /// Lays those of the variables on top that are named `FLOTILLA_SECTION__KEY`; others that begin with `FLOTILLA_`
    /// belong to the command line.
    pub(crate) fn variables(&mut self, variables: impl IntoIterator<Item = (OsString, OsString)>) {
        let mut ours: Vec<(String, OsString)> = variables
            .into_iter()
            .map(|(name, value)| (name.to_string_lossy().into_owned(), value))
            .filter(|(name, _)| name.starts_with("FLOTILLA_") && name.contains("__"))
            .collect();
        ours.sort();
        for (name, value) in ours {
            let key = KEYS.iter().find(|key| key.variable() == name);
            let nearest = nearest(&name, KEYS.iter().map(Key::variable));
            let name = shown(&name);
            let origin = Origin::Variable(name.clone());
            match (key, value.to_str()) {
                (Some(key), Some(value)) => self.set(key, value, origin),
                (Some(key), None) => self.faults.push(Fault::Value {
                    origin,
                    key: key.path(),
                    value: shown(&format!("\"{}\"", value.to_string_lossy())),
                    expected: "UTF-8".to_owned(),
                }),
                (None, _) => {
                    self.faults.push(Fault::Unknown {
                        origin,
                        what: "variable",
                        name,
                        nearest,
                    });
                }
            }
        }
    }

    /// Lays one flag on top.
    pub(crate) fn flag(&mut self, section: &str, name: &str, flag: &'static str, value: &str) {
        let key = find(section, name).expect("flags stand for keys of the table");
        self.set(key, value, Origin::Flag(flag));
    }

    fn set(&mut self, key: &Key, text: &str, origin: Origin) {
        match self.config.set(key, text) {
            Ok(()) => {
                self.config.origins.set(key, origin);
            }
            Err(expected) => {
                let value = shown(&format!("{text:?}"));
                self.faults.push(Fault::Value {
                    origin,
                    key: key.path(),
                    value,
                    expected,
                });
            }
        }
    }

    /// A value with its name and origin.
    pub(crate) fn named(&self, section: &str, name: &str) -> Named {
        let key = find(section, name).expect("rules are about keys of the table");
        Named {
            key: key.path(),
            value: self.config.get(key),
            origin: self.config.origins.of(key),
        }
    }
}

impl Fault {
    fn origin(&self) -> Option<Origin> {
        match self {
            Self::Syntax { origin, .. }
            | Self::Unknown { origin, .. }
            | Self::Value { origin, .. } => Some(origin.clone()),
            Self::Unreadable { .. } | Self::TooLarge { .. } | Self::Contradiction { .. } => None,
        }
    }
}

/// Where a file goes on behind `before`.
fn place(path: &Path, before: &str) -> Origin {
    Origin::File {
        path: path.to_owned(),
        line: before.bytes().filter(|byte| *byte == b'\n').count() + 1,
        column: before.chars().rev().take_while(|c| *c != '\n').count() + 1,
    }
}

/// What somebody wrote, as a part of a line: control characters are escaped, and what is long is cut.
fn shown(text: &str) -> String {
    let escaped = |char: char| {
        let (control, plain) = match char.is_control() {
            true => (Some(char.escape_default()), None),
            false => (None, Some(char)),
        };
        control.into_iter().flatten().chain(plain)
    };
    let mut chars = text.chars().flat_map(escaped);
    let mut shown: String = chars.by_ref().take(SHOWN_CHARS_MAX).collect();
    if chars.next().is_some() {
        shown.push('…');
    }
    shown
}

/// The text of a TOML value, or what was there instead of one of the right shape.
fn text_of(value: &DeValue<'_>, shape: Shape) -> Result<String, String> {
    match (value, shape) {
        (DeValue::String(text), Shape::Text | Shape::TextOrNumber) => Ok(text.to_string()),
        (DeValue::Integer(number), Shape::Number | Shape::TextOrNumber) if number.radix() == 10 => {
            Ok(number.as_str().to_owned())
        }
        (DeValue::Boolean(switch), Shape::Switch) => Ok(switch.to_string()),
        (DeValue::Array(items), Shape::List) => {
            let texts: Option<Vec<&str>> =
                items.iter().map(|item| item.get_ref().as_str()).collect();
            let plain = |texts: &Vec<&str>| texts.iter().all(|text| !text.contains(','));
            texts
                .filter(plain)
                .map(|texts| texts.join(","))
                .ok_or_else(|| "a list of other things".to_owned())
        }
        (DeValue::String(text), _) => Err(format!("{text:?}")),
        (DeValue::Integer(number), _) => Err(number.as_str().to_owned()),
        (DeValue::Boolean(switch), _) => Err(switch.to_string()),
        (other, _) => Err(other.type_str().to_owned()),
    }
}

/// The key of that name.
pub(crate) fn find(section: &str, name: &str) -> Option<&'static Key> {
    KEYS.iter()
        .find(|key| key.section == section && key.name == name)
}

/// The known name that a misspelt one most likely means.
fn nearest(name: &str, known: impl Iterator<Item = String>) -> Option<String> {
    let score = |candidate: &String| strsim::jaro_winkler(name, candidate);
    known
        .max_by(|a, b| score(a).total_cmp(&score(b)))
        .filter(|best| score(best) > 0.7)
}
