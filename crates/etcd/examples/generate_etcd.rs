//! Writes `src/generated/*.rs` from `proto/*.proto`: `cargo run -p etcd --example generate_etcd`.
//!
//! Reads the proto files, writes the generated Rust. It parses with `protox` (Rust), so neither the build nor a
//! regeneration needs `protoc`. Run it after an edit of a proto file and commit the result.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = ["proto/rpc.proto", "proto/lease.proto"].map(|file| root.join(file));
    let descriptors = protox::compile(files, [root.join("proto")])?;
    tonic_prost_build::configure()
        .out_dir(root.join("src/generated"))
        .build_client(true)
        .build_server(true)
        // Keys and values are shared with the store and never copied.
        .bytes(".")
        .emit_rerun_if_changed(false)
        .compile_fds(descriptors)?;
    Ok(())
}
