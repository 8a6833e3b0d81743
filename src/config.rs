//! The configuration: defaults < TOML file < environment (`FLOTILLA_SECTION__KEY`) < flags.
//!
//! [`keys`] is the table that everything comes from, `setting` the types of values, `source` the layers and what is
//! said about a bad one, `check` the rules between values, [`args`] the flags. Nothing here starts or opens anything:
//! what comes out is a [`Config`] that is complete and free of contradictions, or a [`ConfigError`] that names every
//! fault with its place.

pub mod args;
mod check;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod keys;
mod setting;
mod source;

use std::ffi::OsString;
use std::fmt::Write as _;

pub use args::{DemoArgs, StartArgs};
pub use keys::{Config, KEYS, Key, Ticks};
pub use setting::{Address, LogFormat, LogLevel, Size};
pub use source::{ConfigError, Fault, Named, Origin, Origins};

use crate::tls::NodeFiles;
use keys::SECTIONS;
use setting::Shape;
use source::Layers;

/// What stands for what nobody may see.
pub(crate) const MASKED: &str = "***";

/// Whether what has this name is a secret. Each such setting must be marked as one; and reports of faults, which may come from
/// nodes of other releases, go by the name.
pub(crate) fn sounds_secret(name: &str) -> bool {
    let mut words = name.split(['_', '.', '-']);
    words.any(|word| ["secret", "password", "token", "tokens", "headers"].contains(&word))
        && !name.ends_with("_file")
}

impl Config {
    /// Reads the layers that the flags of `flotilla start` and the environment name.
    ///
    /// # Errors
    /// Every unknown name, bad value and contradiction, each with its place.
    pub fn load(
        args: &StartArgs,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigError> {
        let mut layers = Layers::default();
        if let Some(path) = &args.config {
            layers.file(path);
        }
        layers.variables(variables);
        args.overlay(&mut layers);
        layers.done()
    }

    /// Reads a file's text alone, over the defaults.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn from_toml(path: &std::path::Path, text: &str) -> Result<Self, ConfigError> {
        let mut layers = Layers::default();
        layers.text(path, text);
        layers.done()
    }

    /// The address that others reach this node at.
    pub fn advertised(&self) -> &Address {
        self.node.advertise.as_ref().unwrap_or(&self.node.listen)
    }

    /// Where other nodes connect.
    pub fn peer_listen(&self) -> Address {
        let next = || match self.node.listen.port() {
            0 => 0,
            port => port.saturating_add(1),
        };
        let default = || self.node.listen.with_port(next());
        self.node.peer_listen.clone().unwrap_or_else(default)
    }

    /// The address that other nodes are told to connect to, if peers are listened for at this port.
    pub fn peer_advertised(&self, port: u16) -> Address {
        let default = || match (&self.node.advertise, &self.node.peer_listen) {
            (Some(advertised), _) => advertised.with_port(port),
            (None, Some(listen)) => listen.with_port(port),
            (None, None) => self.node.listen.with_port(port),
        };
        self.node.peer_advertise.clone().unwrap_or_else(default)
    }

    /// The files of certificates, if there are any.
    pub fn tls_files(&self) -> Option<NodeFiles> {
        let security = &self.security;
        Some(NodeFiles {
            ca: security.ca.clone()?,
            client_ca: security.client_ca.clone(),
            cert: security.cert.clone()?,
            key: security.key.clone()?,
        })
    }

    /// The configuration as a file with a comment above each key: what it does, what a value looks like, the default,
    /// and whether a running node takes a new one.
    pub fn to_commented_toml(&self) -> String {
        let mut file = String::from(
            "# Configuration of a Flotilla node. Every key may also be set in the environment, as FLOTILLA_SECTION__KEY;\n\
             # flags of the command line win over both.\n",
        );
        for (section, title) in SECTIONS {
            file.push('\n');
            comment(&mut file, title);
            // Writing to a string cannot fail.
            let _ = writeln!(file, "[{section}]");
            for key in KEYS.iter().filter(|key| key.section == *section) {
                file.push('\n');
                comment(&mut file, key.help);
                let bounds = key
                    .bounds
                    .map(|(min, max)| format!(", from {min} to {max}"))
                    .unwrap_or_default();
                comment(&mut file, &format!("Expects {}{bounds}.", key.expected));
                let change = if key.reloadable {
                    "can be changed while the node runs"
                } else {
                    "needs a restart"
                };
                let default = literal(key, key.default);
                comment(
                    &mut file,
                    &format!("Default: {default}. A new value {change}."),
                );
                let _ = writeln!(file, "{} = {}", key.name, literal(key, &self.get(key)));
            }
        }
        file
    }

    /// All values on one line, for the log.
    pub fn summary(&self) -> String {
        KEYS.iter()
            .map(|key| format!("{}={}", key.path(), literal(key, &self.shown(key))))
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// A value as people may see it: of a secret one only whether it is set.
    pub fn shown(&self, key: &Key) -> String {
        match self.get(key) {
            value if key.secret && !value.is_empty() => MASKED.to_owned(),
            value => value,
        }
    }

    /// All values as JSON, and where they came from: `{"section": {"key": "value"}, "sources": {"section.key": "default"}}`.
    pub fn to_json(&self) -> serde_json::Value {
        let mut sections = serde_json::Map::new();
        for key in KEYS {
            let section = sections
                .entry(key.section)
                .or_insert_with(|| serde_json::Value::Object(Default::default()));
            section[key.name] = self.shown(key).into();
        }
        let source = |key: &Key| (key.path(), self.origins.of(key).to_string().into());
        let sources: serde_json::Map<_, _> = KEYS.iter().map(source).collect();
        sections.insert("sources".to_owned(), sources.into());
        sections.into()
    }
}

impl Layers {
    /// What the layers come to.
    fn done(mut self) -> Result<Config, ConfigError> {
        // A rule between values says nothing useful while one of them was refused.
        if self.faults.is_empty() {
            self.check();
        }
        if self.faults.is_empty() {
            Ok(self.config)
        } else {
            Err(ConfigError {
                faults: self.faults,
            })
        }
    }
}

/// A value as TOML writes it.
fn literal(key: &Key, text: &str) -> String {
    // On one line, whatever it holds. TOML knows all escapes of JSON, which leaves one control character as it is.
    let quoted = |text: &str| {
        let json = serde_json::Value::from(text).to_string();
        json.replace('\u{7f}', "\\u007f")
    };
    match key.shape {
        Shape::Number | Shape::Switch => text.to_owned(),
        Shape::Text | Shape::TextOrNumber => quoted(text),
        Shape::List => {
            let items: Vec<String> = text
                .split(',')
                .filter(|item| !item.is_empty())
                .map(quoted)
                .collect();
            format!("[{}]", items.join(", "))
        }
    }
}

/// Appends text as comment lines.
fn comment(file: &mut String, text: &str) {
    for line in text.lines() {
        let _ = writeln!(file, "# {}", line.trim());
    }
}

#[cfg(test)]
mod tests;
