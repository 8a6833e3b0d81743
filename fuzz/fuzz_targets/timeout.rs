//! How long a call may take, as its headers say.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| flotilla::fuzz::timeout(data));
