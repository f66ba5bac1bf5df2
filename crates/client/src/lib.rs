//! The one way to the API: typed and dynamic requests over a [`Transport`], shared informers, events and
//! leader election.
//!
//! Every component of Ironclad (controllers, scheduler, kubelet, proxy, DNS, the command line) speaks to the
//! API server through this crate and holds no other channel to it. In one process the transport is a function
//! call into the server's filter chain; across machines it is HTTPS. Nothing here knows which.
//!
//! Read first:
//! - [`Transport`]: one request in, one response out. [`HttpsTransport`] is the one for the wire,
//!   [`ManyServers`] the one for a cluster with several API servers.
//! - [`Client`]: `get`, `list`, `create`, `update`, `patch`, `delete`, `watch` over any kind of `k8s-openapi`,
//!   and the same over a [`Endpoint`] for kinds known only at run time.
//! - [`Informers`] and [`Informer`]: the caches, one per kind and selector in the whole process. A consumer reads
//!   `Arc`s out of them and either listens synchronously or holds a [`Subscription`] that coalesces per key.
//! - [`EventRecorder`], [`LeaderElector`].
//!
//! **Invariants.** No component is named here. Time and randomness come from `foundation`. A cache never misses a
//! delete: whatever is gone after a relist is delivered as deleted. Memory of a slow subscriber is bounded by the
//! number of distinct objects, not by the number of changes.
//!
//! To add one more call for a subresource: a method in `client/subresources.rs`. To add another transport: implement
//! [`Transport`].

mod client;
mod error;
mod events;
pub mod fake;
mod https;
mod informer;
pub mod kubeconfig;
mod leader;
mod metrics;
mod path;
mod resource;
mod servers;
mod transport;
mod watch;

pub use client::{
    Accept, Client, DeleteOptions, List, ListOptions, Patch, Preconditions, Propagation, TokenReview,
};
pub use error::Error;
pub use events::{EventRecorder, EventType, RecorderOptions};
pub use https::{Config, HttpsTransport, Identity, trust};
pub use informer::{Change, Informer, Informers, InformersOptions, Listener, Subscription};
pub use leader::{LeaderElector, LeaderElectorOptions, Leadership};
pub use path::Endpoint;
pub use resource::{
    Cached, ObjectReferenceOf, PartialMetadata, Resource, cache_key, key_of, object_reference, split_key,
};
pub use servers::{ManyServers, ManyServersOptions};
pub use transport::{Body, BoxError, Transport, TransportError, empty_body, full_body};
pub use watch::{WatchEvent, WatchStream};
