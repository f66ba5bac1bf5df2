//! VolumeRestrictions: a claim of mode ReadWriteOncePod has one pod.
//!
//! Not here: disks of single clouds named in the pod itself, which only drivers mount nowadays.
//! Upstream: pkg/scheduler/framework/plugins/volumerestrictions.

use std::collections::BTreeSet;

use crate::{
    cluster::{Cluster, NodeInfo, PodInfo},
    framework::{CycleState, Event, Hint, Plugin, Rejection},
    volumes::wanted,
};

/// The plugin.
pub struct VolumeRestrictions;

const REASON: &str =
    "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode";

/// Some claim of the pod is another's.
struct Taken;

impl Plugin for VolumeRestrictions {
    fn name(&self) -> &'static str {
        "VolumeRestrictions"
    }

    fn pre_filter(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        cluster: &Cluster,
    ) -> Result<Option<BTreeSet<String>>, Rejection> {
        let namespace = pod.pod.metadata.namespace.as_deref().unwrap_or_default();
        let is_taken = wanted(&pod.pod).into_iter().any(|one| {
            let claim = cluster.volumes().claim(namespace, &one.claim);
            let is_single = claim.is_some_and(|claim| {
                let modes = claim.spec.as_ref().and_then(|spec| spec.access_modes.as_deref());
                modes.is_some_and(|modes| modes.iter().any(|mode| mode == "ReadWriteOncePod"))
            });
            is_single && cluster.uses_of_claim(namespace, &one.claim) > 0
        });
        if is_taken {
            state.put_for_cycle(Taken);
        }
        Ok(None)
    }

    fn filter(&self, state: &CycleState, _: &PodInfo, _: &NodeInfo, _: &Cluster) -> Result<(), Rejection> {
        match state.get::<Taken>() {
            Some(Taken) => Err(Rejection::new(self.name(), REASON)),
            None => Ok(()),
        }
    }

    fn hint(&self, pod: &PodInfo, event: &Event<'_>) -> Hint {
        let own = || wanted(&pod.pod).into_iter().map(|one| one.claim).collect::<BTreeSet<_>>();
        let helps = match event {
            Event::AssignedPodGone(gone) => {
                gone.pod.metadata.namespace == pod.pod.metadata.namespace
                    && wanted(&gone.pod).iter().any(|one| own().contains(&one.claim))
            }
            Event::VolumesChanged(Some((_, name))) => own().contains(*name),
            _ => false,
        };
        if helps { Hint::Queue } else { Hint::Skip }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::framework::testing::{cluster, filter, named_pod, node};

    #[test]
    fn a_claim_for_one_pod_has_one() {
        let mut cluster = cluster([node("n", "1", "1Gi")]);
        let claim = json!({
            "metadata": {"name": "c", "namespace": "default"}, "spec": {"accessModes": ["ReadWriteOncePod"]},
        });
        let claim = Arc::new(serde_json::from_value(claim).unwrap());
        cluster.volumes_mut().set_claim("default", "c", Some(claim));
        let pod = |name: &str| {
            let volumes = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]);
            named_pod(name, json!({}), json!({"volumes": volumes}))
        };
        assert!(filter(&VolumeRestrictions, &pod("p"), &cluster, "n").is_ok());
        cluster.set_pod(pod("first"), "n");
        assert_eq!(filter(&VolumeRestrictions, &pod("p"), &cluster, "n").unwrap_err(), [REASON]);
        cluster.remove_pod("first");
        assert!(filter(&VolumeRestrictions, &pod("p"), &cluster, "n").is_ok());
    }
}
