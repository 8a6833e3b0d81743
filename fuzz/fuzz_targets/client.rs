//! Frames of clients.
#![no_main]

#[path = "../../shards/tests/bytes/client.rs"]
#[allow(dead_code, reason = "seeds are for the tests")]
mod client;
#[path = "../../shards/tests/bytes/shard.rs"]
#[allow(dead_code, reason = "seeds are for the tests")]
mod shard;

libfuzzer_sys::fuzz_target!(|data: &[u8]| client::run(data));
