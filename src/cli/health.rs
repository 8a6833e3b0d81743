//! `health`: asks the status port of a node on this machine whether it lives, or is ready. For the health checks of
//! containers, whose images have no other program that could ask.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, ToSocketAddrs as _},
    time::Duration,
};

use clap::Args;

use super::failure::{Failure, Outcome};
use crate::config::{Config, StartArgs};

/// Bytes of the answer that are read: a line and what HTTP puts before it.
const ANSWER_BYTES_MAX: u64 = 4096;

/// Arguments of `health`.
#[derive(Debug, Args)]
#[command(after_help = "\
Asks the node that `flotilla start` with the same file, environment and flags would run. Exit code 0: yes; 4: no, or no answer.")]
pub(super) struct Health {
    /// Ask whether it should get requests, not only whether it lives
    #[arg(long)]
    ready: bool,
    #[command(flatten)]
    start: StartArgs,
}

impl Health {
    pub(super) fn run(&self, timeout: Duration) -> Outcome {
        let config = Config::load(&self.start, std::env::vars_os())?;
        let address = config.node.status_listen.to_string();
        let path = if self.ready { "/ready" } else { "/health" };
        match ask(&address, path, timeout) {
            Ok((200, _)) => Ok(()),
            Ok((_, reason)) => Err(Failure::NobodyAnswers(format!("{address}: {reason}"))),
            Err(error) => Err(Failure::NobodyAnswers(format!("{address}: {error}"))),
        }
    }
}

/// Where a node that listens at `address` is reached from its own machine.
fn reached_at(address: &str) -> io::Result<SocketAddr> {
    let mut found = address.to_socket_addrs()?;
    let mut address = found
        .next()
        .ok_or_else(|| io::Error::other("the name has no address"))?;
    if address.ip().is_unspecified() {
        address.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    Ok(address)
}

/// Status code and text of the answer to one request.
fn ask(address: &str, path: &str, timeout: Duration) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&reached_at(address)?, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    // By version 1.0 the body comes in one piece, and the connection ends with it.
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let code = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    let code = code
        .ok_or_else(|| io::Error::other("the answer is not HTTP; is this a node's status port?"))?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok((code, body.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use super::*;

    /// What somebody is told who asks a server that answers like this.
    fn told(answer: &'static str) -> io::Result<(u16, String)> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = format!("0.0.0.0:{}", listener.local_addr().expect("bound").port());
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("somebody asks");
            let mut request = [0; 64];
            let bytes = stream.read(&mut request).expect("a request");
            stream
                .write_all(answer.as_bytes())
                .expect("the asker waits");
            String::from_utf8_lossy(&request[..bytes]).into_owned()
        });
        let told = ask(&address, "/ready", Duration::from_secs(10));
        assert!(server.join().expect("no panic").starts_with("GET /ready "));
        told
    }

    #[test]
    fn a_node_is_asked_at_its_own_machine_wherever_it_listens() {
        let yes = told("HTTP/1.0 200 OK\r\nx: y\r\n\r\nready\n").expect("HTTP");
        assert_eq!(yes, (200, "ready".to_owned()));
        let no = told("HTTP/1.0 503 Service Unavailable\r\n\r\ndraining\n").expect("HTTP");
        assert_eq!(no, (503, "draining".to_owned()));
        for nonsense in ["", "\0\u{7f}", "SSH-2.0"] {
            assert!(told(nonsense).is_err(), "{nonsense:?}");
        }
    }
}
