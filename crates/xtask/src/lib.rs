//! Chores of the repository, run as `cargo xtask <chore>`.
//!
//! - [`codegen`]: generated files from their published sources;
//! - [`conformance`]: which of upstream's conformance tests have one of ours of the same name;
//! - [`protobuf`]: field numbers and what becomes of zero, out of kubectl;
//! - [`score`]: objects that come out as they went in, and manifests answered as a real server did;
//! - [`verify`]: the rules of the house that no compiler checks.
//!
//! To add a chore: a module here, a match arm in `main.rs`. Chores never run as part of the product.

pub mod codegen;
pub mod conformance;
pub mod protobuf;
pub mod score;
pub mod verify;
