//! Upstream's conformance tests of the API server, by the files they are in: the same names, the same behaviour,
//! asked of a server in process.

#[path = "conformance/aggregated_discovery.rs"]
mod aggregated_discovery;
#[path = "conformance/aggregator.rs"]
mod aggregator;
#[path = "conformance/certificates.rs"]
mod certificates;
#[path = "conformance/chunking.rs"]
mod chunking;
#[path = "conformance/core_events.rs"]
mod core_events;
#[path = "conformance/crd_conversion_webhook.rs"]
mod crd_conversion_webhook;
#[path = "conformance/crd_publish_openapi.rs"]
mod crd_publish_openapi;
#[path = "conformance/custom_resource_definition.rs"]
mod custom_resource_definition;
#[path = "conformance/discovery.rs"]
mod discovery;
#[path = "conformance/events.rs"]
mod events;
#[path = "conformance/field_validation.rs"]
mod field_validation;
#[path = "conformance/flowcontrol.rs"]
mod flowcontrol;
#[path = "conformance/lifecycle.rs"]
mod lifecycle;
#[path = "conformance/mutatingadmissionpolicy.rs"]
mod mutatingadmissionpolicy;
#[path = "conformance/namespaces.rs"]
mod namespaces;
#[path = "conformance/pod_certificate_requests.rs"]
pub mod pod_certificate_requests;
#[path = "conformance/projected_clustertrustbundle.rs"]
mod projected_clustertrustbundle;
#[path = "conformance/resource_quota.rs"]
mod resource_quota;
#[path = "conformance/server_version.rs"]
mod server_version;
#[path = "conformance/service_accounts.rs"]
mod service_accounts;
#[path = "conformance/storage_version_migration.rs"]
mod storage_version_migration;
#[path = "conformance/subjectreviews.rs"]
mod subjectreviews;
#[path = "conformance/table_conversion.rs"]
mod table_conversion;
#[path = "conformance/validatingadmissionpolicy.rs"]
mod validatingadmissionpolicy;
#[path = "conformance/watch.rs"]
mod watch;
#[path = "conformance/webhook.rs"]
pub mod webhook;
#[path = "conformance/webhook_configurations.rs"]
mod webhook_configurations;
#[path = "conformance/webhook_server.rs"]
pub mod webhook_server;
