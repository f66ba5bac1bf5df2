//! Which handler of the runtime a pod runs with, and what that handler can do.
//!
//! A RuntimeClass names a handler; the runtime says which it has and what they support, and is asked with every report
//! on the node. Upstream: `pkg/kubelet/runtimeclass`, `pkg/kubelet/userns`, `pkg/kubelet/kubelet_pods.go`.

use api::types::core::v1::{Pod, VolumeMount};
use api::types::node::v1::RuntimeClass;
use client::Client;
use cri::v1;
use parking_lot::RwLock;

use crate::pod::spec;

/// What the runtime has said of its handlers; empty until it was asked.
#[derive(Debug, Default)]
pub struct Handlers(RwLock<Vec<v1::RuntimeHandler>>);

impl Handlers {
    /// Takes over what the runtime says now.
    pub fn replace(&self, handlers: &[v1::RuntimeHandler]) {
        // Mostly nothing changes, and readers need not wait then.
        if *self.0.read() != handlers {
            *self.0.write() = handlers.to_vec();
        }
    }

    /// What the handler `name` supports; nothing if it is not known.
    pub fn features(&self, name: &str) -> v1::RuntimeHandlerFeatures {
        let handlers = self.0.read();
        let found = handlers.iter().find(|handler| handler.name == name);
        found.and_then(|handler| handler.features).unwrap_or_default()
    }
}

/// The handler that the pod's class names; empty for the runtime's default.
pub async fn of_pod(client: &Client, pod: &Pod) -> Result<String, String> {
    let Some(class) = spec(pod).runtime_class_name.clone().filter(|name| !name.is_empty()) else {
        return Ok(String::new());
    };
    match client.get::<RuntimeClass>(None, &class).await {
        Ok(found) => Ok(found.handler),
        Err(error) if error.is_not_found() => Err(error.to_string()),
        Err(error) => Err(format!("failed to lookup RuntimeClass {class}: {error}")),
    }
}

/// Why a pod that wants a user namespace of its own cannot run, if it wants one: ranges of user IDs are not given out
/// here, so such a pod must not run as if it had asked for nothing.
pub fn user_namespace(pod: &Pod, handler: &str) -> Result<(), String> {
    match (spec(pod).host_users, handler) {
        (None | Some(true), _) => Ok(()),
        (Some(false), "") => {
            Err("can't set `spec.hostUsers: false`, runtime does not support user namespaces".to_owned())
        }
        (Some(false), handler) => Err(format!(
            "can't set `spec.hostUsers: false`, RuntimeClass handler {handler:?} does not support user namespaces"
        )),
    }
}

/// Whether a mount is read-only with all that is mounted below it.
pub fn recursive_read_only(mount: &VolumeMount, supported: bool) -> Result<bool, String> {
    let name = &mount.name;
    let mode = match mount.recursive_read_only.as_deref() {
        None | Some("Disabled") => return Ok(false),
        Some(mode) => mode,
    };
    if mount.read_only != Some(true) {
        return Err(format!("volume {name:?} requested recursive read-only mode, but it is not read-only"));
    }
    if let Some(propagation) = mount.mount_propagation.as_deref().filter(|p| *p != "None") {
        return Err(format!(
            "volume {name:?} requested recursive read-only mode, but it is not compatible with propagation {propagation:?}"
        ));
    }
    match mode {
        "IfPossible" => Ok(supported),
        "Enabled" if supported => Ok(true),
        "Enabled" => Err(format!(
            "volume {name:?} requested recursive read-only mode, but it is not supported by the runtime"
        )),
        mode => Err(format!("unknown recursive read-only mode {mode:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_user_namespace_is_had_or_refused() {
        for (users, handler, ok) in [(None, "", true), (Some(true), "", true), (Some(false), "x", false)] {
            let pod: Pod =
                serde_json::from_value(json!({"spec": {"containers": [], "hostUsers": users}})).unwrap();
            assert_eq!(user_namespace(&pod, handler).is_ok(), ok, "{users:?}");
        }
    }

    #[test]
    fn a_recursive_read_only_mount_is_had_or_refused() {
        for (mode, read_only, propagation, supported, want) in [
            (None, false, None, true, Ok(false)),
            (Some("Disabled"), true, None, true, Ok(false)),
            (Some("IfPossible"), true, None, false, Ok(false)),
            (Some("IfPossible"), true, Some("None"), true, Ok(true)),
            (Some("Enabled"), true, None, true, Ok(true)),
            (Some("Enabled"), true, None, false, Err("is not supported by the runtime")),
            (Some("Enabled"), false, None, true, Err("it is not read-only")),
            (Some("Enabled"), true, Some("Bidirectional"), true, Err("with propagation \"Bidirectional\"")),
        ] {
            let mount: VolumeMount = serde_json::from_value(json!({"name": "v", "mountPath": "/v",
                "readOnly": read_only, "recursiveReadOnly": mode, "mountPropagation": propagation}))
            .unwrap();
            match (recursive_read_only(&mount, supported), want) {
                (Err(text), Err(end)) => assert!(text.ends_with(end), "{text}"),
                (got, want) => assert_eq!(got, want.map_err(str::to_owned), "{mode:?}"),
            }
        }
    }
}
