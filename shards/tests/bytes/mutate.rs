//! Bytes that are nearly right: pieces of seeds, with damage that decoders are known to stumble over.

use fastrand::Rng;

/// Bytes of one input at most.
const BYTES_MAX: usize = 4096;

/// A seed with a few changes.
pub(crate) fn mutated(rng: &mut Rng, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut data = seeds[rng.usize(..seeds.len())].clone();
    for _ in 0..rng.usize(1..8) {
        let at = rng.usize(..=data.len());
        let end = rng.usize(at..=data.len());
        match rng.u8(..9) {
            0 if at < data.len() => data[at] ^= 1 << rng.u8(..8),
            1 if at < data.len() => data[at] = [0, 1, 2, 0x7f, 0x80, 0xff][rng.usize(..6)],
            2 if at < data.len() => data[at] = data[at].wrapping_add([1, 255][rng.usize(..2)]),
            3 => data.insert(at, rng.u8(..)),
            4 => drop(data.drain(at..end.min(at + 8))),
            5 => data.truncate(at),
            // The greatest number, as a varint and as eight bytes.
            6 => drop(data.splice(
                at..end.min(at + 1),
                *b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            )),
            7 => {
                let piece = data[at..end].to_vec();
                let to = rng.usize(..=data.len());
                drop(data.splice(to..to, piece));
            }
            _ => {
                let other = &seeds[rng.usize(..seeds.len())];
                let from = rng.usize(..=other.len());
                let to = rng.usize(from..=other.len());
                drop(data.splice(at..end, other[from..to].to_vec()));
            }
        }
        data.truncate(BYTES_MAX);
    }
    data
}
