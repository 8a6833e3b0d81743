//! The client against a scripted node: real gRPC over a loopback port, with a node that misbehaves on purpose.

pub(crate) mod fake;
mod retry;
mod session;
mod stream;

use std::time::Duration;

use flotilla_proto::v1;

use self::fake::Fake;
use super::{Client, Options};

/// Long enough never to be met by a test that passes.
fn patient() -> Options {
    Options {
        timeout: Duration::from_secs(60),
        ..Options::default()
    }
}

async fn connect(fake: &Fake, options: Options) -> Client {
    Client::connect([fake.address()], options)
        .await
        .expect("the fake tells routes")
}

/// A shard [start, end) led by `leader`, with range epoch `epoch`.
fn route(
    shard_id: u64,
    start: &'static str,
    end: &'static str,
    epoch: u64,
    leader: u64,
) -> v1::Route {
    v1::Route {
        descriptor: Some(descriptor(shard_id, start, end, epoch)),
        leader,
    }
}

fn descriptor(shard_id: u64, start: &'static str, end: &'static str, epoch: u64) -> v1::Descriptor {
    v1::Descriptor {
        shard_id,
        start: start.into(),
        end: end.into(),
        epoch: Some(v1::Epoch {
            membership: 1,
            range: epoch,
        }),
        replicas: vec![v1::Replica {
            replica_id: 1,
            node_id: 1,
            learner: false,
        }],
    }
}

fn node(node_id: u64, address: String) -> v1::Node {
    v1::Node {
        node_id,
        address,
        ..v1::Node::default()
    }
}
