//! The cluster's DNS.
//!
//! Read first: [`zone`] (what a name means: a pure function over Services and EndpointSlices), [`message`] (queries and
//! answers as bytes), [`forward`] (names outside the cluster), [`server`] (sockets).
//!
//! Not here: the address under which pods find it (a Service like any other, made by the role that starts this).
//!
//! Upstream: the Kubernetes DNS specification 1.1; CoreDNS with its kubernetes, forward and cache plugins.

pub mod forward;
pub mod message;
mod metrics;
pub mod server;
pub mod zone;

pub use server::{Clients, Error, Options, start};
