//! What turns bytes of any content into calls of what decodes bytes: one function for each decoder of the node, which
//! fails by panicking. No part of the product: only tests, which feed them seeded bytes for a bounded time, and the
//! targets of `cargo fuzz` see this module. The bodies live beside the decoders.

pub use crate::bench::fuzz::metrics;
pub use crate::cli::fuzz::{records, typed};
pub use crate::client::fuzz::{answers, stream};
pub use crate::config::fuzz::config;
pub use crate::server::fuzz::timeout;
pub use crate::storage::fuzz::{Disk, log_rows};
pub use crate::transport::fuzz::{handshake, snapshot_stream};

/// Takes a piece off the front: its length in one byte (or all that is left), then its bytes.
pub(crate) fn piece<'a>(data: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = data.split_first()?;
    let (piece, rest) = rest.split_at(rest.len().min(usize::from(*length)));
    *data = rest;
    Some(piece)
}

/// Takes a byte off the front; 0 when there is none.
pub(crate) fn byte(data: &mut &[u8]) -> u8 {
    let Some((first, rest)) = data.split_first() else {
        return 0;
    };
    *data = rest;
    *first
}

/// Takes a number off the front: a small one, or one of those at which counters end.
pub(crate) fn number(data: &mut &[u8]) -> u64 {
    match byte(data) {
        255 => u64::MAX,
        254 => u64::MAX - 1,
        253 => flotilla_shards::wire::POSITION_MAX,
        252 => flotilla_shards::wire::POSITION_MAX + 1,
        251 => u64::from(byte(data)) << 8 | u64::from(byte(data)),
        small => small.into(),
    }
}

/// The reverse of [`piece`].
#[cfg(test)]
pub(crate) fn pieces(pieces: &[&[u8]]) -> Vec<u8> {
    let mut data = Vec::new();
    for piece in pieces {
        data.push(u8::try_from(piece.len()).expect("seeds are short"));
        data.extend_from_slice(piece);
    }
    data
}
