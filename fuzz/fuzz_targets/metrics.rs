//! Metrics of a node, as the benchmark reads them.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| flotilla::fuzz::metrics(data));
