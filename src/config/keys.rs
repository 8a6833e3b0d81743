//! The table of all settings. It is the one place that knows them: the structs, the defaults, the checks of single
//! values, the commented file of `flotilla config default` and the names in the environment all come from it.

use std::path::PathBuf;
use std::time::Duration;

use super::setting::{Address, LogFormat, LogLevel, Setting, Shape, Size};
use super::source::Origins;

/// One setting, as the table describes it.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// The section of the file.
    pub section: &'static str,
    /// The name within the section.
    pub name: &'static str,
    /// What it does.
    pub help: &'static str,
    /// What a value looks like.
    pub expected: &'static str,
    /// Smallest and greatest value, if it has bounds.
    pub bounds: Option<(&'static str, &'static str)>,
    /// The default, as text.
    pub default: &'static str,
    /// Whether a running node takes a new value; others need a restart.
    pub reloadable: bool,
    /// Whether nobody may be shown the value.
    pub secret: bool,
    /// How TOML may hold it.
    pub(crate) shape: Shape,
}

impl Key {
    /// `section.name`.
    pub fn path(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    /// The environment variable that sets it.
    pub fn variable(&self) -> String {
        format!("FLOTILLA_{}__{}", self.section, self.name).to_ascii_uppercase()
    }
}

/// Reads a value and holds it against its bounds; the error is what was expected.
fn read<T: Setting>(
    text: &str,
    bounds: Option<(&str, &str)>,
    within: impl Fn(&T, &T, &T) -> bool,
) -> Result<T, String> {
    let value = T::read(text).ok_or_else(|| T::EXPECTED.to_owned())?;
    match bounds.map(|(min, max)| (min, max, T::read(min), T::read(max))) {
        Some((min, max, Some(least), Some(most))) if !within(&value, &least, &most) => {
            Err(format!("a value from {min} to {max}"))
        }
        _ => Ok(value),
    }
}

/// Declares the sections and their settings. `live` marks what a running node can change, `secret` what nobody may see.
macro_rules! settings {
    ($($(#[doc = $title:literal])+ $section:ident: $struct:ident {
        $($(#[doc = $help:literal])+ $name:ident: $type:ty = $default:literal
            $(in $min:literal ..= $max:literal)? $(, $mark:ident)*;)+
    })+) => {
        /// The configuration of a node.
        #[derive(Clone, Debug, PartialEq)]
        pub struct Config {
            $($(#[doc = $title])+ pub $section: $struct,)+
            /// Where each value came from.
            pub origins: Origins,
        }

        $(
            $(#[doc = $title])+
            #[derive(Clone, Debug, PartialEq)]
            pub struct $struct { $($(#[doc = $help])+ pub $name: $type,)+ }
        )+

        /// Every setting, in the order of the file.
        pub const KEYS: &[Key] = &[$($(Key {
            section: stringify!($section),
            name: stringify!($name),
            help: concat!($($help, "\n"),+),
            expected: <$type as Setting>::EXPECTED,
            bounds: settings!(@bounds $($min, $max)?),
            default: $default,
            reloadable: settings!(@live $($mark)*),
            secret: settings!(@secret $($mark)*),
            shape: <$type as Setting>::SHAPE,
        },)+)+];

        /// The sections with their titles, in the order of the file.
        pub const SECTIONS: &[(&str, &str)] = &[$((stringify!($section), concat!($($title, "\n"),+))),+];

        impl Default for Config {
            fn default() -> Self {
                Self { $($section: $struct { $(
                    $name: <$type as Setting>::read($default).expect("every default of the table can be read"),
                )+ },)+ origins: Origins::default() }
            }
        }

        impl Config {
            /// Sets one value from text. The error says what was expected.
            pub(crate) fn set(&mut self, key: &Key, text: &str) -> Result<(), String> {
                match (key.section, key.name) {
                    $($((stringify!($section), stringify!($name)) => {
                        self.$section.$name = read(text, key.bounds, settings!(@within $($min)?))?;
                    })+)+
                    _ => unreachable!("{} is in the table of keys but not in the configuration", key.path()),
                }
                Ok(())
            }

            /// One value as text.
            pub fn get(&self, key: &Key) -> String {
                match (key.section, key.name) {
                    $($((stringify!($section), stringify!($name)) => self.$section.$name.write(),)+)+
                    _ => unreachable!("{} is in the table of keys but not in the configuration", key.path()),
                }
            }
        }
    };
    (@bounds) => { None };
    (@bounds $min:literal, $max:literal) => { Some(($min, $max)) };
    (@live) => { false };
    (@live live $($more:ident)*) => { true };
    (@live secret $($more:ident)*) => { settings!(@live $($more)*) };
    (@secret) => { false };
    (@secret secret $($more:ident)*) => { true };
    (@secret live $($more:ident)*) => { settings!(@secret $($more)*) };
    (@within) => { |_, _, _| true };
    (@within $min:literal) => { |value, least, most| (least..=most).contains(&value) };
}

settings! {
    /// The node: where its data lies and how it is reached.
    node: Node {
        /// Folder that holds everything the node keeps. One process at a time uses it.
        data: PathBuf = "data";
        /// Where clients connect (gRPC). Port 0 takes any free one.
        listen: Address = "127.0.0.1:7400";
        /// The address that clients and other nodes are told to reach this node at; empty: the same as `listen`.
        advertise: Option<Address> = "";
        /// Where other nodes connect (gRPC); empty: the host of `listen` with the next port.
        peer_listen: Option<Address> = "";
        /// The address that other nodes are told to connect to; empty: the host of `advertise` with the port of `peer_listen`.
        peer_advertise: Option<Address> = "";
        /// Where /metrics, /health, /ready and /status are served (HTTP).
        status_listen: Address = "127.0.0.1:7480";
        /// Whether other machines may do on the status port what changes or burdens the node: set the log level, take
        /// profiles. Processes of this machine may in any case.
        status_remote_debug: bool = "false";
        /// The addresses between nodes (those of `peer_advertise`) of all that make up the cluster when it is initialized;
        /// this node's own is among them.
        join: Vec<Address> = "";
        /// Threads that run shards; 0: one per core, at most 8.
        workers: usize = "0" in "0" ..= "256";
        /// How long a stopping node waits for leaderships to move and requests to end.
        drain_timeout: Duration = "20s" in "0s" ..= "10m";
    }
    /// Raft: the consensus of each shard. All nodes of a cluster should have the same values here.
    raft: Raft {
        /// How often a leader that has nothing else to send tells its followers that it lives.
        heartbeat_interval: Duration = "100ms" in "10ms" ..= "10s";
        /// How long a follower waits for its leader before it asks for votes; each wait is drawn from one to two times
        /// this. More than twice the heartbeat interval.
        election_timeout: Duration = "1s" in "50ms" ..= "2m";
        /// A shard that nothing was asked of for so long rests: it sends nothing and has no timer until something is. 0s:
        /// none ever rests.
        quiesce_after: Duration = "200ms" in "0s" ..= "1h";
        /// Whether a leader reads without asking its followers while their promise lasts not to vote for another (its lease).
        /// This rests on clocks: those of all nodes must run at rates that differ by less than a tenth, and none may stand
        /// still while the process goes on (a machine that is suspended, migrated or restored while it runs). Where they
        /// don't, reads may return old values. Nodes with leases must have the same `heartbeat_interval` and
        /// `election_timeout`, and refuse each other otherwise: switch leases off everywhere before a change of these.
        /// Nodes without may be among them.
        leases: bool = "false";
        /// Bytes of entries in one append message to one follower.
        append_bytes: Size = "1MiB" in "4KiB" ..= "16MiB";
        /// Append messages on their way to one follower of one shard before its acknowledgements are awaited.
        inflight_appends: usize = "256" in "1" ..= "4096";
        /// Bytes of those messages.
        inflight_bytes: Size = "16MiB" in "64KiB" ..= "1GiB";
        /// Bytes of entries that one shard may have proposed and not committed; beyond, writes are answered "busy".
        uncommitted_bytes: Size = "32MiB" in "64KiB" ..= "1GiB";
        /// Memory for the newest entries of one shard, from which followers are served; older ones come from disk.
        cache_bytes: Size = "4MiB" in "64KiB" ..= "1GiB";
        /// Applied entries that stay in a shard's log for followers that are a little behind.
        reserve_entries: u64 = "1024" in "16" ..= "10000000";
        /// Size of a shard's log from which on followers that are behind are left to a snapshot.
        log_bytes: Size = "64MiB" in "1MiB" ..= "64GiB";
    }
    /// Storage: the log, which is synced before anything is acknowledged, and the state database.
    storage: Storage {
        /// Bytes of log that a restart may have to replay; the state database is flushed before there are more.
        replay_limit: Size = "256MiB" in "1MiB" ..= "64GiB";
        /// The state database is flushed at least this often while there are writes.
        flush_age: Duration = "2m" in "1s" ..= "1d";
        /// Memory for writes of the log database before they are moved to its files; there are up to three of these.
        log_memtable: Size = "16MiB" in "1MiB" ..= "4GiB";
        /// Memory for writes of the state database before they are flushed; there are up to three of these.
        state_memtable: Size = "32MiB" in "1MiB" ..= "4GiB";
        /// Memory for blocks of the state database that were read.
        state_cache: Size = "64MiB" in "1MiB" ..= "1TiB";
        /// Threads that flush and compact, for both databases together.
        background_jobs: usize = "2" in "1" ..= "64";
        /// Files that each of the two databases keeps open.
        open_files: usize = "512" in "16" ..= "1000000";
        /// Disk space that must stay free: with less, writes are refused, reads go on.
        disk_reserve: Size = "256MiB" in "0B" ..= "16TiB";
        /// How long the disk may be at one write of the log before the node takes it for dead and ends. Leaderships go
        /// to other nodes long before: after one `raft.election_timeout`.
        stall_limit: Duration = "15s" in "1s" ..= "1d";
        /// In so long the replicas of all shards are compared once, by checksums for which each replica is read as a whole.
        /// 0s: never.
        scrub_interval: Duration = "1d" in "0s" ..= "365d";
    }
    /// Limits of requests. Those of sizes can be lowered, not raised: what one node accepts, all others must be able to
    /// read. All nodes of a cluster should have the same values here.
    limits: Limits {
        /// Longest key.
        key_bytes: Size = "4KiB" in "1B" ..= "4KiB";
        /// Longest value.
        value_bytes: Size = "4MiB" in "1B" ..= "4MiB";
        /// Operations in one batch, conditions in one batch, keys in one batched get.
        batch_ops: usize = "1024" in "1" ..= "1024";
        /// Bytes of keys and values in one batch, conditions included.
        batch_bytes: Size = "8MiB" in "1B" ..= "8MiB";
        /// Bytes of values in the answer to one batched get.
        batch_get_bytes: Size = "8MiB" in "1B" ..= "8MiB";
        /// Rows in one page of a scan.
        scan_rows: usize = "10000" in "1" ..= "10000";
        /// Bytes of keys and values after which a page of a scan ends; a page holds at least one row.
        scan_bytes: Size = "4MiB" in "1B" ..= "4MiB";
        /// Bytes of one log entry: one command of the largest size, or many small ones.
        entry_bytes: Size = "16MiB" in "1KiB" ..= "16MiB";
        /// Requests that the node has taken in and not answered; beyond, it answers "busy".
        in_flight_requests: usize = "65536" in "16" ..= "10000000";
        /// Bytes of requests that the node has taken in and not answered; beyond, it answers "busy".
        in_flight_bytes: Size = "128MiB" in "1MiB" ..= "64GiB";
        /// How long the node works on a request that came without a timeout of its own.
        request_timeout: Duration = "5s" in "100ms" ..= "10m";
        /// The longest time that a client may ask for.
        request_timeout_max: Duration = "1m" in "100ms" ..= "1h";
        /// Connections of clients, and as many of nodes; beyond, new ones are closed at once.
        connections: usize = "4096" in "16" ..= "1000000";
        /// Connections from one IP address, to each of the two ports.
        connections_per_address: usize = "256" in "1" ..= "1000000";
        /// Calls that a connection may have open at the same time, streams included; beyond, they wait at the client.
        calls_per_connection: usize = "1024" in "1" ..= "65536";
        /// Bytes of large requests that have not arrived in full, and as much again of large answers that clients do not take;
        /// beyond, such requests and answers are refused as busy.
        unfinished_bytes: Size = "256MiB" in "64MiB" ..= "64GiB";
        /// How long a large request may take to arrive, and a large answer to be taken; then it ends, or its connection.
        unfinished_timeout: Duration = "30s" in "1s" ..= "1h";
        /// How long a new connection may take until TLS and HTTP/2 have begun.
        handshake_timeout: Duration = "5s" in "100ms" ..= "1m";
    }
    /// Security: certificates, which `flotilla cert` makes. Without them connections are plaintext, which is refused where
    /// other machines could connect, unless `insecure` says that it is wanted. Files that change are read again.
    security: Security {
        /// Certificates of the authorities that nodes' certificates come from (PEM).
        ca: Option<PathBuf> = "";
        /// This node's certificate, with those between it and the authority behind it (PEM).
        cert: Option<PathBuf> = "";
        /// Its private key (PEM).
        key: Option<PathBuf> = "";
        /// Certificates of the authorities that clients' certificates come from; empty: the same as `ca`.
        client_ca: Option<PathBuf> = "";
        /// Whether clients must show a certificate.
        require_client_certificate: bool = "true";
        /// Whether plaintext is wanted where other machines can connect: whoever reaches the ports can read and change
        /// everything.
        insecure: bool = "false";
    }
    /// Access: users, tokens and roles, which `flotilla auth`, `user`, `role` and `token` manage.
    access: Access {
        /// Whether this node does what they say once `flotilla auth enable` was said. `false` lets everyone do everything on
        /// this node: the way back in when no admin has a token any more.
        enforce: bool = "true";
        /// How long this node goes on with users and roles that the meta shard does not confirm; after that it refuses clients.
        max_age: Duration = "5m" in "5s" ..= "24h";
    }
    /// Transport: the connections between nodes.
    transport: Transport {
        /// Bytes of messages that wait for one peer in one lane; beyond, they are dropped and Raft sends them again.
        queue_bytes: Size = "64MiB" in "1MiB" ..= "4GiB";
        /// How long connecting to a peer may take.
        connect_timeout: Duration = "2s" in "50ms" ..= "1m";
        /// Longest wait between two attempts to reach a peer.
        reconnect_max: Duration = "2s" in "100ms" ..= "1m";
        /// Bytes per second that this node sends as snapshots, over all of them.
        snapshot_rate: Size = "64MiB" in "64KiB" ..= "16GiB";
        /// Snapshots that this node sends, and that it receives, at the same time.
        snapshots: usize = "2" in "1" ..= "64";
    }
    /// Log lines.
    log: Log {
        /// What is logged: a level, or a list such as "info,flotilla::transport=debug".
        level: LogLevel = "info", live;
        /// "text", "json", or "auto": text on a terminal, JSON otherwise.
        format: LogFormat = "auto";
        /// Requests that take this long are logged, with the time that each stage took, and listed at /slow of the status
        /// port. 0s: none.
        slow_request: Duration = "100ms" in "0s" ..= "1h";
        /// Whether keys may be shown there. Values never are.
        slow_request_keys: bool = "false";
    }
}

/// The clock of the shards: all their times are multiples of one tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticks {
    /// Length of one.
    pub tick: Duration,
    /// Ticks between two heartbeats.
    pub heartbeat: u32,
    /// Shortest election timeout in ticks.
    pub election: u32,
    /// After how many ticks an idle shard rests; 0 for never.
    pub quiesce: u32,
}

impl Raft {
    /// Two ticks per heartbeat; all other times are rounded up.
    pub fn ticks(&self) -> Ticks {
        let tick = self.heartbeat_interval / 2;
        let ticks = |time: Duration| {
            u32::try_from(time.as_nanos().div_ceil(tick.as_nanos().max(1))).unwrap_or(u32::MAX)
        };
        Ticks {
            tick,
            heartbeat: 2,
            election: ticks(self.election_timeout),
            quiesce: ticks(self.quiesce_after),
        }
    }
}

impl From<&Limits> for flotilla_shards::limits::Limits {
    fn from(limits: &Limits) -> Self {
        Self {
            key_bytes: limits.key_bytes.len(),
            value_bytes: limits.value_bytes.len(),
            batch_ops: limits.batch_ops,
            batch_bytes: limits.batch_bytes.len(),
            scan_rows: limits.scan_rows,
            scan_bytes: limits.scan_bytes.len(),
            batch_get_bytes: limits.batch_get_bytes.len(),
            entry_bytes: limits.entry_bytes.len(),
        }
    }
}
