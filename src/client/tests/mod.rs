//! The client against a scripted node: real gRPC over a loopback port, with a node that misbehaves on purpose.

mod fake;
mod stream;
