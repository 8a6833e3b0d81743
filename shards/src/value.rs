//! The stored form of a user's value: what the system knows about it, then the value itself.
//!
//! ```text
//! format (1 byte, now 1) · length of header (varint) · ValueHeader (protobuf) · value
//! ```
//!
//! The header grows by protobuf's rules: a field that is added later (expiry) is absent from old rows, and costs nothing
//! where it is not used. The format byte changes only if that is not enough.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flotilla_proto::v1::ValueHeader;
use prost::Message as _;

const FORMAT: u8 = 1;

/// Bytes that precede a value at most.
pub const HEADER_BYTES_MAX: usize = 16;

/// A value with what the system knows about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    /// Number of the write, among the writes of its shard, that wrote it.
    pub revision: u64,
    /// What the user put; shares the bytes of the row.
    pub value: Bytes,
}

/// Why a row's value cannot be read: it was written by another version, or damaged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// A row has at least its format byte.
    #[error("stored value is empty, expected a format byte")]
    Empty,
    /// Not written by this version.
    #[error(
        "stored value has format {0}, expected {FORMAT}: written by another version, or damaged"
    )]
    Format(u8),
    /// The header does not parse.
    #[error("header of stored value is damaged: {0}")]
    Header(prost::DecodeError),
}

/// Appends the stored form of `value`.
pub fn encode(out: &mut BytesMut, revision: u64, value: &[u8]) {
    out.reserve(HEADER_BYTES_MAX + value.len());
    out.put_u8(FORMAT);
    ValueHeader { revision }
        .encode_length_delimited(out)
        .expect("a BytesMut grows as needed");
    out.put_slice(value);
}

/// Reads the stored form.
///
/// # Errors
/// If it was not made by [`encode`].
pub fn decode(mut row: Bytes) -> Result<Versioned, ValueError> {
    let header = take_header(&mut row)?;
    Ok(Versioned {
        revision: header.revision,
        value: row,
    })
}

/// Reads the stored form without sharing its bytes: the revision, and the value as part of `row`.
///
/// # Errors
/// If it was not made by [`encode`].
pub fn split(mut row: &[u8]) -> Result<(u64, &[u8]), ValueError> {
    let header = take_header(&mut row)?;
    Ok((header.revision, row))
}

fn take_header(row: &mut impl Buf) -> Result<ValueHeader, ValueError> {
    if !row.has_remaining() {
        return Err(ValueError::Empty);
    }
    match row.get_u8() {
        FORMAT => ValueHeader::decode_length_delimited(row).map_err(ValueError::Header),
        format => Err(ValueError::Format(format)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn values_round_trip(revision: u64, value: Vec<u8>) {
            let mut out = BytesMut::new();
            encode(&mut out, revision, &value);
            prop_assert!(out.len() <= HEADER_BYTES_MAX + value.len());
            let row = out.freeze();
            prop_assert_eq!(split(&row).unwrap(), (revision, &value[..]));
            prop_assert_eq!(decode(row).unwrap(), Versioned { revision, value: value.into() });
        }

        #[test]
        fn any_bytes_are_a_value_or_an_error(row in proptest::collection::vec(any::<u8>(), 0..32)) {
            let whole = decode(row.clone().into());
            prop_assert_eq!(split(&row).map(|(revision, value)| (revision, value.to_vec())),
                whole.map(|versioned| (versioned.revision, versioned.value.to_vec())));
        }
    }

    #[test]
    fn headers_of_later_versions_are_understood() {
        // A header with an unknown field 2, as a later version may write it.
        let row = Bytes::from_static(b"\x01\x04\x08\x07\x10\x63value");
        assert_eq!(
            decode(row).unwrap(),
            Versioned {
                revision: 7,
                value: "value".into()
            }
        );
        assert_eq!(
            decode(Bytes::from_static(b"\x09")),
            Err(ValueError::Format(9))
        );
        assert_eq!(decode(Bytes::new()), Err(ValueError::Empty));
        assert!(matches!(
            decode(Bytes::from_static(b"\x01\x7f")),
            Err(ValueError::Header(_))
        ));
    }

    #[test]
    fn the_layout_is_for_ever() {
        let mut out = BytesMut::new();
        encode(&mut out, 300, b"v");
        assert_eq!(&out[..], b"\x01\x03\x08\xac\x02v");
    }
}
