//! Bytes as text in a history file: printable ASCII stands for itself, a backslash is `\\`, any other byte `\xNN`.
//! There is one way to write every byte string, so that files can be compared.

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serializer, de::Error as _};
use std::borrow::Cow;
use std::fmt::Write as _;

/// Bytes as they stand in a file and in explanations.
pub(crate) fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b'\\' => text.push_str(r"\\"),
            b' '..=b'~' => text.push(char::from(*byte)),
            _ => write!(text, r"\x{byte:02x}").expect("a string grows as needed"),
        }
    }
    text
}

/// The bytes that a text stands for.
///
/// # Errors
/// What is wrong with the text, and what was expected.
pub(crate) fn unescape(text: &str) -> Result<Bytes, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = match (first, after) {
            (b'\\', [b'\\', after @ ..]) => {
                bytes.push(b'\\');
                after
            }
            (b'\\', [b'x', high, low, after @ ..]) => {
                let digit = |digit: &u8| char::from(*digit).to_digit(16);
                let (Some(high), Some(low)) = (digit(high), digit(low)) else {
                    return Err(format!(
                        r"{text:?} has \x without two hex digits, as in \x0a"
                    ));
                };
                bytes.push(u8::try_from(high * 16 + low).expect("two hex digits are a byte"));
                after
            }
            (b'\\', _) => {
                return Err(format!(
                    r"{text:?} has an unknown escape, expected \\ or \xNN"
                ));
            }
            (b' '..=b'~', after) => {
                bytes.push(*first);
                after
            }
            _ => {
                return Err(format!(
                    r"{text:?} has characters beyond printable ASCII, expected \xNN for each byte of them"
                ));
            }
        };
    }
    Ok(bytes.into())
}

/// For serde: one byte string.
pub(crate) fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&escape(bytes))
}

/// For serde: one byte string.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    let text = Cow::<'de, str>::deserialize(deserializer)?;
    unescape(&text).map_err(D::Error::custom)
}

/// For serde: a byte string that may be missing.
pub(crate) mod optional {
    use super::{Bytes, Cow, Deserialize, Deserializer, Serializer, escape, unescape};
    use serde::de::Error as _;

    #[allow(clippy::ref_option, reason = "serde calls it so")]
    pub(crate) fn serialize<S: Serializer>(
        bytes: &Option<Bytes>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match bytes {
            Some(bytes) => serializer.serialize_str(&escape(bytes)),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Bytes>, D::Error> {
        let text = Option::<Cow<'de, str>>::deserialize(deserializer)?;
        text.map(|text| unescape(&text).map_err(D::Error::custom))
            .transpose()
    }
}

/// For serde: a list of byte strings.
pub(crate) mod list {
    use super::{Bytes, Cow, Deserialize, Deserializer, Serializer, escape, unescape};
    use serde::de::Error as _;

    pub(crate) fn serialize<S: Serializer>(
        list: &[Bytes],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(list.iter().map(|bytes| escape(bytes)))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<Bytes>, D::Error> {
        let texts = Vec::<Cow<'de, str>>::deserialize(deserializer)?;
        texts
            .iter()
            .map(|text| unescape(text).map_err(D::Error::custom))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_round_trips_in_one_way() {
        let all: Vec<u8> = (0..=255).collect();
        let text = escape(&all);
        assert!(text.is_ascii());
        assert_eq!(unescape(&text), Ok(Bytes::from(all)));
        assert_eq!(escape(b"a\\b\n\"z"), r#"a\\b\x0a"z"#);
    }

    #[test]
    fn nonsense_is_named() {
        for (text, part) in [
            (r"a\", "unknown escape"),
            (r"\n", "unknown escape"),
            (r"\x4", "unknown escape"),
            (r"\xg0", "hex digits"),
            ("\u{e9}", "printable ASCII"),
            ("a\tb", "printable ASCII"),
        ] {
            let error = unescape(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
