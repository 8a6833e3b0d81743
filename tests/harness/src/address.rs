//! Addresses that no other test on this machine uses.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    process,
    sync::atomic::{AtomicU16, Ordering},
};

/// A loopback address of this process alone (127.64.0.0/10, by process id), so that tests that run at the same time
/// can't meet; with a port below those that the system gives to outgoing connections, so that a node that was killed
/// finds its port free when it comes back. The next port belongs to it as well: there a node listens for other nodes.
pub fn fresh() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(10_000);
    let [_, high, middle, low] = process::id().to_be_bytes();
    let own = Ipv4Addr::new(127, 64 | (high & 63), middle, low);
    loop {
        let port = NEXT.fetch_add(2, Ordering::Relaxed);
        if !is_taken_everywhere(port) && !is_taken_everywhere(port + 1) {
            return SocketAddr::from((own, port));
        }
    }
}

/// Where a node with this address listens for other nodes.
pub fn of_peers(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip(), address.port() + 1)
}

/// Whether somebody listens at this port of all addresses. To try it out would not do: a process that another test starts
/// at that moment would inherit the socket, and hold it for a while.
fn is_taken_everywhere(port: u16) -> bool {
    const LISTENS: &str = "0A";
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(fs::read_to_string);
    let tables: Vec<String> = tables.into_iter().flatten().collect();
    tables.iter().flat_map(|table| table.lines()).any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let address = fields.get(1).and_then(|own| own.split_once(':'));
        let wanted = address.is_some_and(|(ip, own)| {
            ip.bytes().all(|digit| digit == b'0') && u16::from_str_radix(own, 16) == Ok(port)
        });
        wanted && fields.get(3) == Some(&LISTENS)
    })
}
