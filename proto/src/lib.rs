//! Messages of Flotilla's wire and disk. No logic lives here: the rules for what a message may say stand where it is
//! taken in (`shards::wire`, `server`, `transport`).
//!
//! The messages are plain prost structs. The feature `services` adds the gRPC clients and servers, and with them tonic
//! and tokio; only the node turns it on, so that `flotilla-shards` stays free of both.
#![allow(missing_docs, unreachable_pub, clippy::all, reason = "generated code")]

/// Version 1 of all messages, by audience: `kv.proto` (clients), `admin.proto` (operators), `peer.proto` (nodes),
/// `disk.proto` (folders and log entries).
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/flotilla.v1.rs"));

    impl Node {
        /// Where other nodes reach it.
        #[must_use]
        pub fn for_peers(&self) -> &str {
            if self.peer_address.is_empty() {
                &self.address
            } else {
                &self.peer_address
            }
        }
    }
}

/// What a load generator asks of etcd, to be compared with it.
#[cfg(feature = "services")]
pub mod etcd {
    include!(concat!(env!("OUT_DIR"), "/etcdserverpb.rs"));
}

/// The compiled descriptors of all files, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
