//! `health`: asks the status port of a node on this machine whether it lives, or is ready. For the health checks of
//! containers, whose images have no other program that could ask.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use clap::Args;

use super::failure::{Failure, Outcome};
use crate::{
    config::{Config, StartArgs},
    http::{self, Answer},
};

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
    pub(super) async fn run(&self, timeout: Duration) -> Outcome {
        let config = Config::load(&self.start, std::env::vars_os())?;
        let address = config.node.status_listen.to_string();
        let path = if self.ready { "/ready" } else { "/health" };
        let answer = tokio::time::timeout(timeout, ask(&address, path)).await;
        let reason = match answer {
            Ok(Ok(answer)) if answer.code == 200 => return Ok(()),
            Ok(Ok(answer)) => answer.text().trim().to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {}", humantime::format_duration(timeout)),
        };
        Err(Failure::NobodyAnswers(format!("{address}: {reason}")))
    }
}

/// Asks a node that listens at `address` on this machine.
async fn ask(address: &str, path: &str) -> io::Result<Answer> {
    let mut found = tokio::net::lookup_host(address).await?;
    let mut address: SocketAddr = found
        .next()
        .ok_or_else(|| io::Error::other("the name has no address"))?;
    if address.ip().is_unspecified() {
        address.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    http::get(address, path, ANSWER_BYTES_MAX).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_node_is_asked_at_its_own_machine_wherever_it_listens() {
        let pages = axum::Router::new().route("/ready", axum::routing::get(async || "ready\n"));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let server = tokio::spawn(async move { axum::serve(listener, pages).await });
        for host in ["0.0.0.0", "127.0.0.1", "localhost"] {
            let answer = ask(&format!("{host}:{port}"), "/ready").await;
            let answer = answer.expect("it listens");
            assert_eq!((answer.code, &*answer.text()), (200, "ready\n"), "{host}");
        }
        server.abort();
    }
}
