//! What a Kubernetes object *is*: the vocabulary that every other crate speaks.
//!
//! Read these first:
//! - [`Object`]: the untyped form in which objects travel through the API server;
//! - [`Status`]: the one error type of the API, with upstream's codes, reasons and messages;
//! - [`field::Path`] and [`field::Error`]: what validation returns;
//! - [`kind::Descriptor`] and [`kind::Hooks`]: all that the server knows of a kind;
//! - [`kinds::all`]: the list of the built-in kinds.
//!
//! Typed structs are those of `k8s-openapi`, reached through [`types`] and [`meta`] so that no other crate
//! depends on it.
//!
//! To add a kind: write `src/kinds/<group>/<kind>.rs` with `descriptor()` and its hooks, and add the line to
//! the group's file; discovery, storage, validation and printing follow from the descriptor.
//!
//! Everything here is pure and synchronous: no I/O, no clock, no tasks. What needs the state of the cluster
//! (address allocation, admission, quota) belongs to the API server.

pub mod addresses;
pub mod cron;
pub mod duration;
pub mod field;
mod gvk;
pub mod json;
pub mod kind;
pub mod kinds;
pub mod meta;
pub mod meta_validation;
pub mod names;
mod object;
pub mod pod_resources;
pub mod quantity;
pub mod quota;
pub mod selector;
pub mod status;
pub mod volumes;

pub use gvk::{GroupKind, GroupResource, GroupVersion, GroupVersionKind, GroupVersionResource};
pub use k8s_openapi;
pub use object::Object;
pub use status::{Reason, Status};

/// The typed objects, by group and version: `types::core::v1::Pod`.
pub mod types {
    pub use k8s_openapi::api::*;
    /// `apiextensions.k8s.io`: CustomResourceDefinition.
    pub use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions;
    /// `apiregistration.k8s.io`: APIService.
    pub use k8s_openapi::kube_aggregator::pkg::apis::apiregistration;
}
