//! The API server: the one door to the cluster's state.
//!
//! A request runs through the filters (`filters`), is given its meaning (`request::RequestInfo`), is
//! authenticated (`authn`), authorized (`authz`), and then served by the one engine (`engine`) that works
//! for every kind from its `api::kind::Descriptor`. What a kind needs beyond that (address allocation,
//! binding, eviction, exec, …) is one file in `registry/<group>/<kind>.rs`.
//!
//! Read first: [`ApiServer`], [`Options`], [`request::RequestInfo`], `registry::Registry`.

pub mod admission;
pub mod authn;
pub mod authz;
pub mod cluster;
pub mod request;
