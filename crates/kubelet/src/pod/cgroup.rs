//! The names of the cgroups that pods live in (cgroupfs driver).
//! Upstream: `pkg/kubelet/cm/pod_container_manager_linux.go`.

use api::types::core::v1::Pod;

use super::resources::{Qos, qos};

/// `/kubepods[/burstable|/besteffort]/pod<uid>`: the parent of the pod's containers.
pub fn of_pod(pod: &Pod) -> String {
    let uid = super::uid(pod);
    match qos(pod) {
        Qos::Guaranteed => format!("/kubepods/pod{uid}"),
        Qos::Burstable => format!("/kubepods/burstable/pod{uid}"),
        Qos::BestEffort => format!("/kubepods/besteffort/pod{uid}"),
    }
}
