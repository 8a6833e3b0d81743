//! Starts with rows of any content in both databases.
#![no_main]

mod disk;

libfuzzer_sys::fuzz_target!(|data: &[u8]| disk::with_disk(|disk| disk.recovery(data)));
