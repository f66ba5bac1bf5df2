//! An object of one version of a resource in another of its versions.
//! Upstream: apimachinery `runtime.ObjectConvertor`, apiextensions-apiserver `pkg/apiserver/conversion`.

use api::Status;
use serde_json::Value;

use super::Resource;

impl Resource {
    /// An object of `source`, which is the same resource in another group or version, as one of this.
    pub async fn converted_from(&self, source: &Self, object: &Value) -> Result<Value, Status> {
        let mut converted = object.clone();
        source.descriptor.hooks.to_storage(&mut converted);
        let descriptor = &self.descriptor;
        converted["apiVersion"] = descriptor.group_version().to_string().into();
        converted["kind"] = descriptor.kind.to_string().into();
        descriptor.hooks.from_storage(&mut converted);
        Ok(converted)
    }
}
