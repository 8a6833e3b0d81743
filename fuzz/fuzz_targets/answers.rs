//! Answers of nodes to unary calls and streams, as the client reads them.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| flotilla::fuzz::answers(data));
