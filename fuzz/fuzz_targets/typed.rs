//! Keys, addresses and durations as they are typed.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| flotilla::fuzz::typed(data));
