//! Frames of peers, and chunks of snapshots.
#![no_main]

#[path = "../../shards/tests/bytes/entry.rs"]
#[allow(dead_code, reason = "seeds are for the tests")]
mod entry;
#[path = "../../shards/tests/bytes/peer.rs"]
#[allow(dead_code, reason = "seeds are for the tests")]
mod peer;
#[path = "../../shards/tests/bytes/rows.rs"]
#[allow(dead_code, reason = "seeds are for the tests")]
mod rows;
#[path = "../../shards/tests/bytes/shard.rs"]
#[allow(dead_code, reason = "seeds are for the tests")]
mod shard;

libfuzzer_sys::fuzz_target!(|data: &[u8]| peer::run(data));
