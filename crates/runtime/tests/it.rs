//! Drives the runtime over its CRI socket, with real containers. Needs root; without it the tests say so
//! and pass.

#[path = "it/harness.rs"]
mod harness;
#[path = "it/life.rs"]
mod life;
#[path = "it/outliving.rs"]
mod outliving;
#[path = "it/streams.rs"]
mod streams;
