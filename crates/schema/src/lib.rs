//! Schemas: what fields an object may have, and everything that follows from knowing it.
//!
//! Read these first:
//! - [`Schema`]: the shape of one kind, built in (from the generated [`table()`]) or structural (from a
//!   CustomResourceDefinition);
//! - [`decode`]: request bytes to an object, with field validation;
//! - [`patch`]: the JSON, merge and strategic merge patches;
//! - [`protobuf`] and [`cbor`]: the other wire forms, the first of which most components of upstream speak;
//! - [`openapi`]: the documents that clients read;
//! - [`cel`]: the expressions of rules, policies and match conditions.
//!
//! The facts about built-in kinds are generated from the published OpenAPI definitions and committed; see
//! `cargo xtask codegen schema`. A new Kubernetes version is a new table, no code.
//!
//! Everything here is pure and synchronous. Defaults and validation of built-in kinds live in `api`; only
//! what a schema itself says (structural defaults and validation of custom resources) is done here.

pub mod cbor;
pub mod cel;
pub mod decode;
pub mod json;
pub mod openapi;
pub mod patch;
pub mod protobuf;
mod schema;
pub mod structural;
pub mod table;
pub mod yaml;

pub use decode::{Decoded, FieldValidation, decode, decode_value, decode_yaml};
pub use schema::Schema;
pub use structural::Structural;
pub use table::{Definition, Table, table};
pub use yaml::yaml_to_json;
