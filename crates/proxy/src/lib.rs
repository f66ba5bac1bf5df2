//! kube-proxy's duty: packets to a Service reach one of its endpoints.
//!
//! Read first: [`plan`] (which endpoints a Service has, as map elements), [`ruleset`] (the fixed shape of the
//! rules), `executor` (the one place that talks to the kernel). A change of one Service or EndpointSlice is planned
//! alone and becomes one small transaction; `wanted` keeps what several Services need or ask for.
//!
//! Not here: pods' own addresses (`network`), names (`dns`).
//!
//! Upstream: pkg/proxy and pkg/proxy/nftables.

pub mod plan;
pub mod ruleset;

mod executor;
pub mod kernel;
mod wanted;

pub use executor::{Handle, Options, start, uninstall};
