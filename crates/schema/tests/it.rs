//! Properties of decoding and patching that hold for any input: no panic, bounded nesting, and what is canonical
//! stays as it is.

#[path = "it/differences.rs"]
mod differences;
#[path = "it/expressions.rs"]
mod expressions;
#[path = "it/fixtures.rs"]
mod fixtures;
#[path = "it/forms.rs"]
mod forms;
#[path = "it/properties.rs"]
mod properties;
#[path = "it/sample.rs"]
mod sample;
