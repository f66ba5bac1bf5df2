//! Drives the runtime over its CRI socket, with real containers. Needs root; without it the tests say so
//! and pass.

#![expect(clippy::unwrap_used, reason = "a test that meets an error is to fail")]

#[path = "it/faults.rs"]
mod faults;
#[path = "it/harness.rs"]
mod harness;
#[path = "it/images.rs"]
mod images;
#[path = "it/isolation.rs"]
mod isolation;
#[path = "it/life.rs"]
mod life;
#[path = "it/outliving.rs"]
mod outliving;
#[path = "it/streams.rs"]
mod streams;
