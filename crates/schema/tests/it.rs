//! Properties of decoding and patching that hold for any input: no panic, bounded nesting, and what is canonical
//! stays as it is.

#[path = "it/fixtures.rs"]
mod fixtures;
#[path = "it/properties.rs"]
mod properties;
