//! Upstream's conformance tests of the API server, by the files they are in: the same names, the same behaviour,
//! asked of a server in process.

#[path = "conformance/aggregated_discovery.rs"]
mod aggregated_discovery;
#[path = "conformance/certificates.rs"]
mod certificates;
#[path = "conformance/core_events.rs"]
mod core_events;
#[path = "conformance/discovery.rs"]
mod discovery;
#[path = "conformance/events.rs"]
mod events;
#[path = "conformance/flowcontrol.rs"]
mod flowcontrol;
#[path = "conformance/lifecycle.rs"]
mod lifecycle;
#[path = "conformance/projected_clustertrustbundle.rs"]
mod projected_clustertrustbundle;
#[path = "conformance/server_version.rs"]
mod server_version;
#[path = "conformance/service_accounts.rs"]
mod service_accounts;
#[path = "conformance/subjectreviews.rs"]
mod subjectreviews;
