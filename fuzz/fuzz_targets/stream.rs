//! What comes on the stream to a node while requests wait.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| flotilla::fuzz::stream(data));
