//! The types of settings: how each is written, read back and refused. All sources (file, environment, flags) hand over
//! text, so that a value means the same wherever it stands.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// A type that a setting can have.
pub(crate) trait Setting: Sized {
    /// What a value looks like, as the end of the sentence "expected …".
    const EXPECTED: &'static str;
    /// Which TOML values may hold it; text always may.
    const SHAPE: Shape = Shape::Text;

    /// Reads a value, or nothing if the text is no such value.
    fn read(text: &str) -> Option<Self>;

    /// Writes it so that [`Setting::read`] gives it back.
    fn write(&self) -> String;
}

/// The TOML form of a setting beside quoted text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Quoted text only.
    Text,
    /// A bare number.
    Number,
    /// Quoted text or a bare number.
    TextOrNumber,
    /// `true` or `false`.
    Switch,
    /// A list of quoted texts.
    List,
}

/// A number of bytes, written with a binary unit: `64MiB`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Size(pub u64);

const UNITS: [(&str, u32); 5] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10), ("B", 0)];

impl Size {
    /// The number of bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }

    /// The number of bytes as a length in memory; on a 32-bit machine at most what that can address.
    pub fn len(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    /// Whether it is no byte at all.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = |(_, shift): &(&str, u32)| self.0 != 0 && self.0.trailing_zeros() >= *shift;
        let (unit, shift) = UNITS.into_iter().find(exact).unwrap_or(("B", 0));
        write!(f, "{}{unit}", self.0 >> shift)
    }
}

impl fmt::Debug for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Setting for Size {
    const EXPECTED: &'static str = "a size such as \"64MiB\" (units: B, KiB, MiB, GiB, TiB)";
    const SHAPE: Shape = Shape::TextOrNumber;

    fn read(text: &str) -> Option<Self> {
        let (digits, shift) = UNITS
            .into_iter()
            .find_map(|(unit, shift)| {
                text.strip_suffix(unit)
                    .map(|digits| (digits.trim_end(), shift))
            })
            .unwrap_or((text, 0));
        u64::read(digits)?.checked_mul(1 << shift).map(Size)
    }

    fn write(&self) -> String {
        self.to_string()
    }
}

impl Setting for Duration {
    const EXPECTED: &'static str = "a duration such as \"150ms\", \"10s\" or \"5m\"";

    fn read(text: &str) -> Option<Self> {
        humantime::parse_duration(text).ok()
    }

    fn write(&self) -> String {
        humantime::format_duration(*self).to_string()
    }
}

/// Digits only: no sign, no exponent; `_` between digits as TOML has it.
fn digits(text: &str) -> Option<String> {
    let plain = text.replace('_', "");
    (!plain.is_empty() && plain.bytes().all(|byte| byte.is_ascii_digit())).then_some(plain)
}

impl Setting for u64 {
    const EXPECTED: &'static str = "a whole number";
    const SHAPE: Shape = Shape::Number;

    fn read(text: &str) -> Option<Self> {
        digits(text)?.parse().ok()
    }

    fn write(&self) -> String {
        self.to_string()
    }
}

impl Setting for usize {
    const EXPECTED: &'static str = "a whole number";
    const SHAPE: Shape = Shape::Number;

    fn read(text: &str) -> Option<Self> {
        digits(text)?.parse().ok()
    }

    fn write(&self) -> String {
        self.to_string()
    }
}

impl Setting for bool {
    const EXPECTED: &'static str = "true or false";
    const SHAPE: Shape = Shape::Switch;

    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn write(&self) -> String {
        self.to_string()
    }
}

impl Setting for PathBuf {
    const EXPECTED: &'static str = "a path";

    fn read(text: &str) -> Option<Self> {
        (!text.is_empty() && !text.contains('\0')).then(|| PathBuf::from(text))
    }

    fn write(&self) -> String {
        self.display().to_string()
    }
}

impl Setting for Option<PathBuf> {
    const EXPECTED: &'static str = "a path, or \"\" for none";

    fn read(text: &str) -> Option<Self> {
        if text.is_empty() {
            Some(None)
        } else {
            PathBuf::read(text).map(Some)
        }
    }

    fn write(&self) -> String {
        self.as_ref().map_or_else(String::new, Setting::write)
    }
}

/// A `host:port`; the host is a name, an IPv4 address or an IPv6 address in brackets. Not resolved yet.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    text: String,
    port: u16,
}

impl Address {
    /// Reads a `host:port`, or nothing if the text is none.
    pub fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let port: u16 = digits(port)?.parse().ok()?;
        let sound = match host.strip_prefix('[') {
            Some(inner) => inner
                .strip_suffix(']')
                .is_some_and(|ip| ip.parse::<std::net::Ipv6Addr>().is_ok()),
            None => {
                !host.is_empty()
                    && host
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
            }
        };
        sound.then(|| Self {
            text: format!("{host}:{port}"),
            port,
        })
    }

    /// As `host:port`.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The host, an IPv6 address in brackets.
    pub fn host(&self) -> &str {
        self.text.rsplit_once(':').map_or("", |(host, _)| host)
    }

    /// The port; 0 means any free one.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The same host with another port.
    pub fn with_port(&self, port: u16) -> Self {
        Self {
            text: format!("{}:{port}", self.host()),
            port,
        }
    }

    /// Whether only this machine can connect there.
    pub fn is_loopback(&self) -> bool {
        let host = self.host().trim_matches(['[', ']']);
        host == "localhost" || (host.parse::<std::net::IpAddr>()).is_ok_and(|ip| ip.is_loopback())
    }

    /// Whether the host means "all interfaces", so that no other machine can use it to reach this one.
    pub fn is_unspecified(&self) -> bool {
        matches!(self.host(), "0.0.0.0" | "[::]")
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::str::FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(text).ok_or_else(|| format!("{text:?} is not {}", Self::EXPECTED))
    }
}

impl Setting for Address {
    const EXPECTED: &'static str = "an address such as \"10.0.0.1:7400\"";

    fn read(text: &str) -> Option<Self> {
        Self::parse(text)
    }

    fn write(&self) -> String {
        self.text.clone()
    }
}

impl Setting for Option<Address> {
    const EXPECTED: &'static str = "an address such as \"10.0.0.1:7400\", or \"\" for none";

    fn read(text: &str) -> Option<Self> {
        if text.is_empty() {
            Some(None)
        } else {
            Address::parse(text).map(Some)
        }
    }

    fn write(&self) -> String {
        self.as_ref().map_or_else(String::new, Address::to_string)
    }
}

impl Setting for Vec<Address> {
    const EXPECTED: &'static str =
        "a list of addresses such as [\"10.0.0.1:7400\", \"10.0.0.2:7400\"]";
    const SHAPE: Shape = Shape::List;

    fn read(text: &str) -> Option<Self> {
        text.split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(Address::parse)
            .collect()
    }

    fn write(&self) -> String {
        self.iter()
            .map(Address::as_str)
            .collect::<Vec<_>>()
            .join(",")
    }
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// One line of text per event.
    Text,
    /// One JSON object per line.
    Json,
}

impl Setting for LogFormat {
    const EXPECTED: &'static str = "\"auto\", \"text\" or \"json\"";

    fn read(text: &str) -> Option<Self> {
        match text {
            "auto" => Some(Self::Auto),
            "text" => Some(Self::Text),
            "json" => Some(Self::Json),
            _ => None,
        }
    }

    fn write(&self) -> String {
        match self {
            Self::Auto => "auto",
            Self::Text => "text",
            Self::Json => "json",
        }
        .to_owned()
    }
}

/// What is logged: a level, or a list of levels per module in the syntax of tracing's filters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLevel(String);

impl LogLevel {
    /// Reads a filter, or nothing if the text is none.
    pub fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    /// The filter's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for LogLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let filter = match text {
            "" => Err("it is empty".to_owned()),
            text => tracing_subscriber::EnvFilter::try_new(text).map_err(|error| error.to_string()),
        };
        match filter {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(why) => Err(format!("{text:?} is not {}: {why}", Self::EXPECTED)),
        }
    }
}

impl Setting for LogLevel {
    const EXPECTED: &'static str = "\"error\", \"warn\", \"info\", \"debug\", \"trace\", or a list such as \"info,flotilla::transport=debug\"";

    fn read(text: &str) -> Option<Self> {
        Self::parse(text)
    }

    fn write(&self) -> String {
        self.0.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_and_write() {
        for (text, bytes) in [
            ("0B", 0),
            ("1B", 1),
            ("4KiB", 4096),
            ("64MiB", 64 << 20),
            ("3TiB", 3 << 40),
        ] {
            assert_eq!(Size::read(text), Some(Size(bytes)));
            assert_eq!(Size(bytes).to_string(), text);
        }
        assert_eq!(Size::read("1000"), Some(Size(1000)));
        assert_eq!(Size::read("1_000 KiB"), Some(Size(1_024_000)));
        assert_eq!(Size(1536).to_string(), "1536B");
        for wrong in [
            "",
            "MiB",
            "1.5MiB",
            "-1B",
            "+1",
            "64MB",
            "64 mib",
            "17179869184GiB",
            "99999999999999999999",
        ] {
            assert_eq!(Size::read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn addresses_read() {
        for sound in ["127.0.0.1:7400", "[::1]:0", "node-1.example_x:65535"] {
            assert_eq!(
                Address::parse(sound).map(|a| a.to_string()).as_deref(),
                Some(sound)
            );
        }
        for wrong in [
            "",
            "host",
            ":80",
            "host:",
            "host:65536",
            "::1:80",
            "[::1:80",
            "a b:1",
            "http://a:1",
            "h:+1",
        ] {
            assert_eq!(Address::parse(wrong), None, "{wrong}");
        }
        let list = Vec::<Address>::read("a:1, b:2").expect("list");
        assert_eq!(list.write(), "a:1,b:2");
        assert!(Address::parse("[::]:1").is_some_and(|a| a.is_unspecified()));
        for (address, own) in [
            ("127.64.1.2:1", true),
            ("[::1]:1", true),
            ("localhost:1", true),
            ("0.0.0.0:1", false),
            ("[::]:1", false),
            ("10.0.0.1:1", false),
            ("localhost.example:1", false),
        ] {
            let address = Address::parse(address).expect("sound");
            assert_eq!(address.is_loopback(), own, "{address}");
        }
    }
}
