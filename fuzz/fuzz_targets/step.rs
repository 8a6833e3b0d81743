//! Arbitrary messages and actions at a replica in an arbitrary state.
#![no_main]

#[path = "../../shards/tests/arbitrary/attack.rs"]
#[allow(dead_code, reason = "each target runs a part of it")]
mod attack;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    attack::step(data);
});
