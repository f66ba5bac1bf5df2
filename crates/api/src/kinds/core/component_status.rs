//! ComponentStatus: the health of a part of the control plane, made up when asked for. Deprecated upstream.
//! Upstream: pkg/registry/core/componentstatus.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use crate::kind::{Column, Descriptor, Scope, Typed, Verbs};
use crate::kinds::optional::{items, text};
use crate::kinds::row;
use crate::types::core::v1::ComponentStatus;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        short_names: vec!["cs".into()],
        verbs: Verbs::GET.and(Verbs::LIST),
        columns: vec![
            Column::object_name(),
            Column::new("Status", "string", "Status of the component conditions"),
            Column::new("Message", "string", "Message of the component conditions"),
            Column::new("Error", "string", "Error of the component conditions"),
        ],
        hooks: Arc::new(Typed::<ComponentStatus>::new().cells(cells)),
        deprecated: Some("v1 ComponentStatus is deprecated in v1.19+".into()),
        ..Descriptor::new("", "v1", "ComponentStatus", "componentstatuses", Scope::Cluster)
    }
}

fn cells(status: &ComponentStatus, _: Timestamp) -> Vec<Value> {
    let healthy = items(&status.conditions).iter().find(|condition| condition.type_ == "Healthy");
    let state = match healthy.map(|condition| &*condition.status) {
        Some("True") => "Healthy",
        Some(_) => "Unhealthy",
        None => "Unknown",
    };
    let message = healthy.map_or("", |condition| text(&condition.message));
    let error = healthy.map_or("", |condition| text(&condition.error));
    vec![row::name(&status.metadata), state.into(), message.into(), error.into()]
}
