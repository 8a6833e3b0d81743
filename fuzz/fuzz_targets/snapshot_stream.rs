//! The order of a snapshot's chunks.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| flotilla::fuzz::snapshot_stream(data));
