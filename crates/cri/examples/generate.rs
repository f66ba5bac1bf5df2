//! Writes `src/generated/runtime.v1.rs` from `proto/cri.proto`: `cargo run -p cri --example generate`.
//!
//! Reads the proto file, writes the generated Rust. It parses with `protox` (Rust), so neither the
//! build nor a regeneration needs `protoc`. Run it after an edit of the proto file and commit the result.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let descriptors = protox::compile([root.join("proto/cri.proto")], [root.join("proto")])?;
    tonic_prost_build::configure()
        .out_dir(root.join("src/generated"))
        .build_client(true)
        .build_server(true)
        .emit_rerun_if_changed(false)
        // A method a server leaves out answers `Unimplemented`, as in a Go server built against an older CRI.
        .generate_default_stubs(true)
        .compile_fds(descriptors)?;
    Ok(())
}
