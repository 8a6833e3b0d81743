//! Chunks of snapshots, written to a data folder.
#![no_main]

mod disk;

libfuzzer_sys::fuzz_target!(|data: &[u8]| disk::with_disk(|disk| disk.snapshot(data)));
