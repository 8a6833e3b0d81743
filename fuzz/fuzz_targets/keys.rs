//! Keys of rows.
#![no_main]

#[path = "../../shards/tests/bytes/keys.rs"]
#[allow(dead_code, reason = "seeds are for the tests")]
mod keys;
#[path = "../../shards/tests/bytes/shard.rs"]
#[allow(dead_code, reason = "seeds are for the tests")]
mod shard;

libfuzzer_sys::fuzz_target!(|data: &[u8]| keys::run(data));
