//! The names of the cgroups that pods live in (cgroupfs driver).
//! Upstream: `pkg/kubelet/cm/pod_container_manager_linux.go`.

use api::types::core::v1::Pod;

use super::resources::{Qos, qos};

/// `<root>/kubepods[/burstable|/besteffort]/pod<uid>`: the parent of the pod's containers. `root` is an absolute path
/// below the mounted hierarchies, empty or without a slash at its end.
pub fn of_pod(root: &str, pod: &Pod) -> String {
    let uid = super::uid(pod);
    match qos(pod) {
        Qos::Guaranteed => format!("{root}/kubepods/pod{uid}"),
        Qos::Burstable => format!("{root}/kubepods/burstable/pod{uid}"),
        Qos::BestEffort => format!("{root}/kubepods/besteffort/pod{uid}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pods_are_below_the_root_by_their_class() {
        let pod = |resources: serde_json::Value| -> Pod {
            serde_json::from_value(json!({
                "metadata": {"uid": "1"}, "spec": {"containers": [{"name": "a", "resources": resources}]}}))
            .unwrap()
        };
        let guaranteed = json!({"cpu": "1", "memory": "1Mi"});
        for (resources, root, expected) in [
            (json!({}), "", "/kubepods/besteffort/pod1"),
            (json!({"requests": {"cpu": "1"}}), "/node-1", "/node-1/kubepods/burstable/pod1"),
            (json!({"requests": guaranteed, "limits": guaranteed}), "/a/b", "/a/b/kubepods/pod1"),
        ] {
            assert_eq!(of_pod(root, &pod(resources)), expected);
        }
    }
}
