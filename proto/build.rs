//! Compiles the `.proto` files without an installed `protoc`.
use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

const FILES: [&str; 5] = [
    "kv.proto",
    "admin.proto",
    "peer.proto",
    "page.proto",
    "disk.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    #[cfg(feature = "services")]
    tonic_prost_build::configure()
        .build_server(false)
        .bytes(".")
        .compile_fds(protox::compile(["etcd/rpc.proto"], ["proto"])?)?;
    let files = FILES.map(|name| format!("proto/flotilla/v1/{name}"));
    let descriptors = protox::compile(files, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    generate(descriptors)
}

#[cfg(not(feature = "services"))]
fn generate(descriptors: prost_types::FileDescriptorSet) -> Result<(), Box<dyn Error>> {
    let mut config = prost_build::Config::new();
    config.bytes(["."]);
    Ok(config.compile_fds(descriptors)?)
}

#[cfg(feature = "services")]
fn generate(descriptors: prost_types::FileDescriptorSet) -> Result<(), Box<dyn Error>> {
    Ok(tonic_prost_build::configure()
        .bytes(".")
        .compile_fds(descriptors)?)
}
