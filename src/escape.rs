//! Keys and values as text: what may be typed, and how any bytes are shown.
//!
//! Text is shown as it is. A backslash, control characters and bytes that are no UTF-8 are shown as escapes, so that
//! what is shown can be typed again and means the same bytes.

use std::fmt::Write as _;

use bytes::Bytes;

/// Why a typed text stands for no bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason} at position {position} of {text:?}")]
pub(crate) struct Malformed {
    text: String,
    /// In characters, from 1.
    position: usize,
    reason: &'static str,
}

/// Bytes as text.
pub(crate) fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for char in chunk.valid().chars() {
            match char {
                '\\' => text.push_str(r"\\"),
                '\n' => text.push_str(r"\n"),
                '\r' => text.push_str(r"\r"),
                '\t' => text.push_str(r"\t"),
                // Invisible characters could hide what a key is; so could marks that turn the direction of text.
                char if char.is_control() || is_hidden(char) => {
                    for byte in char.encode_utf8(&mut [0; 4]).bytes() {
                        push_hex(&mut text, byte);
                    }
                }
                char => text.push(char),
            }
        }
        for byte in chunk.invalid() {
            push_hex(&mut text, *byte);
        }
    }
    text
}

fn is_hidden(char: char) -> bool {
    matches!(char, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

fn push_hex(text: &mut String, byte: u8) {
    // Writing to a string does not fail.
    let _ = write!(text, r"\x{byte:02x}");
}

/// The bytes that a typed text stands for: escapes are `\\`, `\n`, `\r`, `\t`, `\0`, `\"`, `\'`, `\xNN` (a byte) and
/// `\u{N}` (a character); everything else stands for itself.
///
/// # Errors
/// Where an escape is unknown or incomplete.
pub(crate) fn unescape(text: &str) -> Result<Bytes, Malformed> {
    let malformed = |position: usize, reason| Malformed {
        text: text.to_owned(),
        position: position + 1,
        reason,
    };
    let mut bytes = Vec::with_capacity(text.len());
    let mut chars = text.chars().enumerate();
    while let Some((start, char)) = chars.next() {
        if char != '\\' {
            bytes.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        let incomplete = || malformed(start, r"incomplete escape (a backslash is written \\)");
        match chars.next().ok_or_else(incomplete)?.1 {
            '\\' => bytes.push(b'\\'),
            'n' => bytes.push(b'\n'),
            'r' => bytes.push(b'\r'),
            't' => bytes.push(b'\t'),
            '0' => bytes.push(0),
            '"' => bytes.push(b'"'),
            '\'' => bytes.push(b'\''),
            'x' => {
                let mut byte = 0;
                for _ in 0..2 {
                    let digit = chars.next().and_then(|(_, char)| char.to_digit(16));
                    let digit =
                        digit.ok_or_else(|| malformed(start, r"\x without two hex digits"))?;
                    byte = byte * 16 + u8::try_from(digit).expect("a hex digit is below 16");
                }
                bytes.push(byte);
            }
            'u' => {
                let reason = r"\u without a character's number, as in \u{e9},";
                let rest: String = chars
                    .by_ref()
                    .map(|(_, char)| char)
                    .take_while(|char| *char != '}')
                    .take(8)
                    .collect();
                let char = rest
                    .strip_prefix('{')
                    .and_then(|digits| u32::from_str_radix(digits, 16).ok())
                    .and_then(char::from_u32)
                    .ok_or_else(|| malformed(start, reason))?;
                bytes.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
            }
            _ => {
                return Err(malformed(
                    start,
                    r"unknown escape (a backslash is written \\)",
                ));
            }
        }
    }
    Ok(bytes.into())
}

/// Bytes as hex digits.
pub(crate) fn to_hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// The bytes of hex digits.
///
/// # Errors
/// Where there is no pair of digits.
pub(crate) fn from_hex(text: &str) -> Result<Bytes, Malformed> {
    let malformed = |position, reason| Malformed {
        text: text.to_owned(),
        position: position + 1,
        reason,
    };
    let digits: Vec<u8> = text
        .chars()
        .enumerate()
        .map(|(position, char)| {
            char.to_digit(16)
                .and_then(|digit| u8::try_from(digit).ok())
                .ok_or_else(|| malformed(position, "not a hex digit"))
        })
        .collect::<Result<_, _>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(malformed(digits.len(), "an odd number of hex digits ends"));
    }
    Ok(pairs.iter().map(|[high, low]| high * 16 + low).collect())
}

/// How keys and values are shown and typed throughout a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Notation {
    /// Text with escapes.
    Escaped,
    /// Hex digits.
    Hex,
}

impl Notation {
    /// Bytes as text.
    pub(crate) fn show(self, bytes: &[u8]) -> String {
        match self {
            Self::Escaped => escape(bytes),
            Self::Hex => to_hex(bytes),
        }
    }

    /// The bytes that a typed text stands for.
    ///
    /// # Errors
    /// Where it stands for none.
    pub(crate) fn read(self, text: &str) -> Result<Bytes, Malformed> {
        match self {
            Self::Escaped => unescape(text),
            Self::Hex => from_hex(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bytes_are_shown_plainly_and_unambiguously() {
        for (bytes, text) in [
            (&b"plain key"[..], "plain key"),
            ("Öl".as_bytes(), "Öl"),
            (br"a\b", r"a\\b"),
            (b"a\nb\t\r", r"a\nb\t\r"),
            (b"\x00\x7f\xff", r"\x00\x7f\xff"),
            ("\u{202e}x".as_bytes(), r"\xe2\x80\xaex"),
            (b"say \"hi\"", "say \"hi\""),
        ] {
            assert_eq!(escape(bytes), text);
            assert_eq!(unescape(text).expect("valid"), bytes);
        }
    }

    #[test]
    fn typed_escapes() {
        for (text, bytes) in [
            (r"\x41\x0a", &b"A\n"[..]),
            (r"\u{e9}", "é".as_bytes()),
            (r#"\"\'\0"#, b"\"'\0"),
            ("", b""),
        ] {
            assert_eq!(unescape(text).expect("valid"), bytes, "{text}");
        }
    }

    #[test]
    fn a_bad_escape_is_named_with_its_place() {
        for (text, position) in [
            (r"ab\", 3),
            (r"\x4", 1),
            (r"\xzz", 1),
            (r"é\q", 2),
            (r"\u{110000}", 1),
            (r"\u41", 1),
            (r"\u{}", 1),
        ] {
            let error = unescape(text).expect_err(text).to_string();
            assert!(error.contains(&format!("position {position} ")), "{error}");
        }
        assert!(from_hex("4").is_err());
        assert!(from_hex("4g").is_err());
    }

    proptest! {
        #[test]
        fn what_is_shown_can_be_typed(bytes: Vec<u8>) {
            prop_assert_eq!(unescape(&escape(&bytes)).expect("valid"), &bytes);
            prop_assert_eq!(from_hex(&to_hex(&bytes)).expect("valid"), &bytes);
        }

        #[test]
        fn nothing_typed_panics(text: String) {
            let _ = unescape(&text);
            let _ = from_hex(&text);
        }
    }
}
