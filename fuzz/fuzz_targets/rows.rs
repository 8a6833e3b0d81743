//! Rows of the databases, and shards whose rows are damaged.
#![no_main]

#[path = "../../shards/tests/bytes/entry.rs"]
#[allow(dead_code, reason = "seeds are for the tests")]
mod entry;
#[path = "../../shards/tests/bytes/rows.rs"]
#[allow(dead_code, reason = "seeds are for the tests")]
mod rows;
#[path = "../../shards/tests/bytes/shard.rs"]
#[allow(dead_code, reason = "seeds are for the tests")]
mod shard;

libfuzzer_sys::fuzz_target!(|data: &[u8]| rows::run(data));
