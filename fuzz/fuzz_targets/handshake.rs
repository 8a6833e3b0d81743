//! What other nodes say of themselves.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| flotilla::fuzz::handshake(data));
