//! ComponentStatuses: the health of the store, in the deprecated form that `kubectl get cs` reads.
//! Upstream: pkg/registry/core/componentstatus.

use api::Status;
use async_trait::async_trait;
use serde_json::{Value, json};

use crate::engine::Call;
use crate::registry::Rest;

/// `componentstatuses`.
pub(in crate::registry) struct ComponentStatuses;

#[async_trait]
impl Rest for ComponentStatuses {
    async fn items(&self, call: &Call) -> Result<Option<Vec<Value>>, Status> {
        let store = &call.server.storage.store;
        let condition = match store.status().await.map(|status| status.alarm) {
            Ok(None) => {
                // What is slow is healthy, but not what people want.
                let warnings = store.warnings().await.unwrap_or_default();
                let message = if warnings.is_empty() { "ok".to_owned() } else { warnings.join("; ") };
                json!({"type": "Healthy", "status": "True", "message": message})
            }
            Ok(Some(alarm)) => json!({"type": "Healthy", "status": "False", "message": alarm}),
            Err(error) => json!({"type": "Healthy", "status": "False", "error": error.to_string()}),
        };
        Ok(Some(vec![json!({
            "apiVersion": "v1", "kind": "ComponentStatus", "metadata": {"name": "etcd-0"},
            "conditions": [condition],
        })]))
    }
}
