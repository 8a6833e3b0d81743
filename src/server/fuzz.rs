//! What clients write into the headers of their calls, of any content.

use std::time::Duration;

use tonic::metadata::{AsciiMetadataValue, MetadataMap};

use super::kv::wished_timeout;

/// A header that says how long a call may take: it is understood if, and only if, it is one of gRPC's.
///
/// # Panics
/// If that does not hold.
pub fn timeout(data: &[u8]) {
    let Ok(value) = AsciiMetadataValue::try_from(data) else {
        return;
    };
    let mut metadata = MetadataMap::new();
    metadata.insert("grpc-timeout", value);
    let nanoseconds = match data.split_last() {
        Some((unit, digits))
            if (1..=8).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit) =>
        {
            let count = digits
                .iter()
                .fold(0, |sum, digit| sum * 10 + u128::from(digit - b'0'));
            let unit: Option<u128> = match unit {
                b'H' => Some(3_600_000_000_000),
                b'M' => Some(60_000_000_000),
                b'S' => Some(1_000_000_000),
                b'm' => Some(1_000_000),
                b'u' => Some(1_000),
                b'n' => Some(1),
                _ => None,
            };
            unit.map(|unit| count * unit)
        }
        _ => None,
    };
    let understood = wished_timeout(&metadata).as_ref().map(Duration::as_nanos);
    assert_eq!(understood, nanoseconds);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::feed;

    #[test]
    fn timeouts_of_any_content() {
        let seeds = [
            "1H",
            "99999999H",
            "250m",
            "0n",
            "00000001u",
            "5S",
            "+5M",
            "123456789m",
            "",
        ];
        let seeds = seeds.map(|seed| seed.as_bytes().to_vec());
        feed("timeout", &seeds, 50_000, timeout);
    }
}
