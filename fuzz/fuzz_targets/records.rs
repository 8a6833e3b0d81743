//! Files to import.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| flotilla::fuzz::records(data));
