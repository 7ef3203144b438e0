//! Generates the messages and services from `proto/`, without a protobuf compiler on the machine.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(
        ["opentelemetry/proto/collector/trace/v1/trace_service.proto", "tempo.proto"],
        ["proto"],
    )?;
    let mut config = prost_build::Config::new();
    // Maps print in the order of their keys.
    config.btree_map(["."]);
    config.include_file("messages.rs");
    tonic_prost_build::configure().compile_fds_with_config(descriptors, config)?;
    Ok(())
}
