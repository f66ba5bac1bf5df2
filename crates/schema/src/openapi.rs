//! The OpenAPI documents that clients read.

use std::sync::Arc;

use api::GroupVersion;
use api::kind::Descriptor;
use serde_json::Value;

/// The whole API as OpenAPI v2 (`/openapi/v2`, JSON).
pub fn v2(descriptors: &[Arc<Descriptor>]) -> Value {
    let _ = descriptors;
    Value::Null
}

/// An OpenAPI v2 document in gnostic's protobuf form
/// (`application/com.github.proto-openapi.spec.v2.v1.0+protobuf`).
pub fn v2_protobuf(document: &Value) -> Vec<u8> {
    let _ = document;
    Vec::new()
}

/// The index of the OpenAPI v3 documents (`/openapi/v3`).
pub fn v3_index(descriptors: &[Arc<Descriptor>]) -> Value {
    let _ = descriptors;
    Value::Null
}

/// The OpenAPI v3 document of one group version (`/openapi/v3/apis/apps/v1`).
pub fn v3(group_version: &GroupVersion, descriptors: &[Arc<Descriptor>]) -> Value {
    let _ = (group_version, descriptors);
    Value::Null
}
