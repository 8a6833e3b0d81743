//! Bytes decoded as a message between nodes; what passes the gate is stepped in every role.
#![no_main]

#[path = "../../shards/tests/arbitrary/attack.rs"]
#[allow(dead_code, reason = "each target runs a part of it")]
mod attack;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    attack::decode(data);
    attack::decode_damaged(data);
});
