//! What people type and what they import, of any content.

pub use super::records::fuzz::records;

use super::{
    duration, endpoint,
    escape::{escape, from_hex, to_hex, unescape},
};
use crate::config::Address;

/// A text of the command line: a key, an address, a duration. And bytes as they are shown, which can be typed again.
///
/// # Panics
/// If that does not hold.
pub fn typed(data: &[u8]) {
    let shown = escape(data);
    assert!(!shown.contains(char::is_control), "{shown:?}");
    assert_eq!(unescape(&shown).as_deref(), Ok(data));
    assert_eq!(from_hex(&to_hex(data)).as_deref(), Ok(data));

    let text = String::from_utf8_lossy(data);
    for bytes in [unescape(&text), from_hex(&text)].into_iter().flatten() {
        assert_eq!(unescape(&escape(&bytes)), Ok(bytes));
    }
    if let Some(address) = Address::parse(&text) {
        assert_eq!(Address::parse(address.as_str()), Some(address.clone()));
        assert!(endpoint(address.as_str()).is_ok() || address.port() == 0);
    }
    drop(duration(&text));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::feed;

    #[test]
    fn texts_of_any_content() {
        let seeds = [
            &b"plain key"[..],
            br#"\\\n\r\t\0\"\'\xff\u{e9}"#,
            "\u{202e}\u{feff}Ö\u{85}".as_bytes(),
            b"\x00\x7f\xff\xc3",
            b"00ff7F",
            b"[::1]:7400",
            b"node-1.example:07400",
            b"1h 30m 5us",
            b"18446744073709551615years",
        ];
        feed("typed", &seeds.map(<[u8]>::to_vec), 20_000, typed);
    }
}
