//! The API server over the embedded store, driven through the in-process transport.

#[path = "it/apply.rs"]
mod apply;
#[path = "it/audit.rs"]
mod audit;
#[path = "it/bad_input.rs"]
mod bad_input;
#[path = "it/conformance.rs"]
mod conformance;
#[path = "it/custom.rs"]
mod custom;
#[path = "it/discovery.rs"]
mod discovery;
#[path = "it/dry_run.rs"]
mod dry_run;
#[path = "it/encodings.rs"]
mod encodings;
#[path = "it/encryption.rs"]
mod encryption;
#[path = "it/forms.rs"]
mod forms;
#[path = "it/legality.rs"]
mod legality;
#[path = "it/lists.rs"]
mod lists;
#[path = "it/manifests.rs"]
mod manifests;
#[path = "it/metrics.rs"]
mod metrics;
#[path = "it/objects.rs"]
mod objects;
#[path = "it/pages.rs"]
mod pages;
#[path = "it/passing_on.rs"]
mod passing_on;
#[path = "it/permissions.rs"]
mod permissions;
#[path = "it/servers.rs"]
mod servers;
#[path = "it/special.rs"]
mod special;
#[path = "it/traces.rs"]
mod traces;
#[path = "it/watches.rs"]
mod watches;
#[path = "it/websockets.rs"]
mod websockets;
#[path = "it/wire.rs"]
mod wire;
#[path = "it/world.rs"]
mod world;
