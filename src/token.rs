//! Tokens: what a client shows to say who it is.
//!
//! A token is `flotilla_`, 16 hexadecimal digits that name it, `_`, and 64 that are the secret: 256 random bits, so a plain
//! SHA-256 of them may be kept where a password would need a slow hash. The secret is made where the token is asked for,
//! and leaves that process only as a hash, or in a request's header.

use std::fmt;

use ring::{
    digest::{SHA256, digest},
    rand::{SecureRandom as _, SystemRandom},
};

const PREFIX: &str = "flotilla_";
const SECRET_BYTES: usize = 32;
/// Of the whole text.
const LENGTH: usize = PREFIX.len() + 16 + 1 + 2 * SECRET_BYTES;

/// Why a text is no token. It is not repeated: most of it may be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "that is no token: expected flotilla_ with 16 hexadecimal digits, _ and 64 more, as `flotilla token create` prints it"
)]
pub struct Malformed;

/// A token with its secret. Its text comes out only by [`Token::reveal`].
#[derive(Clone)]
pub struct Token {
    id: u64,
    secret: [u8; SECRET_BYTES],
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({:016x})", self.id)
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        // What is optimized away would have been overwritten soon anyway; what is not is gone from core dumps.
        self.secret = std::hint::black_box([0; SECRET_BYTES]);
    }
}

impl Token {
    /// A new one. None if the system has no random numbers.
    #[must_use]
    pub fn generate() -> Option<Self> {
        let (mut id, mut secret) = ([0; 8], [0; SECRET_BYTES]);
        let random = SystemRandom::new();
        random.fill(&mut id).ok()?;
        random.fill(&mut secret).ok()?;
        Some(Self {
            id: u64::from_be_bytes(id),
            secret,
        })
    }

    /// Reads the text of one.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let (id, secret) = split(text).ok_or(Malformed)?;
        let mut bytes = [0; SECRET_BYTES];
        for (byte, digits) in bytes.iter_mut().zip(secret.chunks_exact(2)) {
            let (Some(high), Some(low)) = (digit(digits[0]), digit(digits[1])) else {
                return Err(Malformed);
            };
            *byte = high << 4 | low;
        }
        let id = id.iter().try_fold(0, |id: u64, digits| {
            Some(id << 4 | u64::from(digit(*digits)?))
        });
        Ok(Self {
            id: id.ok_or(Malformed)?,
            secret: bytes,
        })
    }

    /// The part that names it.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What the cluster keeps of the secret.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, &self.secret).as_ref());
        hash
    }

    /// The whole text, for its owner's eyes and for a header.
    #[must_use]
    pub fn reveal(&self) -> String {
        let mut text = format!("{PREFIX}{:016x}_", self.id);
        for byte in self.secret {
            text.push_str(&format!("{byte:02x}"));
        }
        text
    }
}

/// The digits of id and secret.
fn split(text: &str) -> Option<(&[u8], &[u8])> {
    let rest = text.strip_prefix(PREFIX)?.as_bytes();
    let (id, rest) = (text.len() == LENGTH).then(|| rest.split_at_checked(16))??;
    Some((id, rest.strip_prefix(b"_")?))
}

fn digit(byte: u8) -> Option<u8> {
    (byte as char)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tokens_round_trip_and_hide_themselves() {
        let token = Token::generate().expect("random numbers");
        let text = token.reveal();
        let again = Token::parse(&text).expect("it is one");
        assert_eq!((again.id(), again.hash()), (token.id(), token.hash()));
        assert_eq!(text.len(), LENGTH);
        let secret = &text[LENGTH - 64..];
        assert!(!format!("{token:?}").contains(secret));
        let other = Token::generate().expect("random numbers");
        assert_ne!(other.hash(), token.hash());
        // The known hash of 32 zero bytes.
        let zeros = format!("{PREFIX}{:016x}_{}", 7, "0".repeat(64));
        let zeros = Token::parse(&zeros).expect("it is one");
        assert_eq!(zeros.hash()[..4], [0x66, 0x68, 0x7a, 0xad]);
    }

    #[test]
    fn nonsense_is_refused_without_being_repeated() {
        let good = Token::generate().expect("random numbers").reveal();
        let mut wrong_digit = good.clone();
        wrong_digit.replace_range(LENGTH - 1.., "g");
        for text in [
            "",
            "flotilla_",
            &good[1..],
            &good[..LENGTH - 1],
            &wrong_digit,
            &format!("{good}0"),
        ] {
            let error = Token::parse(text).expect_err(text);
            assert!(!error.to_string().contains(&good[30..40]));
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_token_or_an_error(text in "(flotilla_)?[0-9a-fg_\u{e4}]{0,90}") {
            if let Ok(token) = Token::parse(&text) {
                prop_assert_eq!(token.reveal(), text.to_lowercase());
            }
        }
    }
}
