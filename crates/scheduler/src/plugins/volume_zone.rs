//! VolumeZone: a pod goes to the zone and region that its bound volumes are labelled with.
//!
//! Upstream: pkg/scheduler/framework/plugins/volumezone.

use std::collections::BTreeSet;

use api::volumes::volume_name;

use crate::{
    cluster::{Cluster, NodeInfo, PodInfo},
    framework::{CycleState, Event, Hint, Plugin, Rejection},
    volumes::wanted,
};

/// The plugin.
pub struct VolumeZone;

const REASON: &str = "node(s) had no available volume zone";
/// Each label with the name it had before.
const LABELS: [(&str, &str); 2] = [
    ("topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"),
    ("topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region"),
];

/// What nodes must be labelled with: key, its other name, and the values that will do.
struct Zones(Vec<(&'static str, &'static str, BTreeSet<String>)>);

impl Plugin for VolumeZone {
    fn name(&self) -> &'static str {
        "VolumeZone"
    }

    fn pre_filter(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        cluster: &Cluster,
    ) -> Result<Option<BTreeSet<String>>, Rejection> {
        let namespace = pod.pod.metadata.namespace.as_deref().unwrap_or_default();
        let mut zones = Vec::new();
        for one in wanted(&pod.pod) {
            let claim = cluster.volumes().claim(namespace, &one.claim);
            let Some(volume) = claim.and_then(|claim| cluster.volumes().volume(volume_name(claim))) else {
                continue;
            };
            let labels = volume.metadata.labels.iter().flatten();
            for (label, value) in labels {
                let known = LABELS.iter().find(|(new, old)| label == new || label == old);
                if let Some((new, old)) = known {
                    // Volumes that are in several zones name them all.
                    zones.push((*new, *old, value.split("__").map(str::to_owned).collect()));
                }
            }
        }
        if !zones.is_empty() {
            state.put_for_cycle(Zones(zones));
        }
        Ok(None)
    }

    fn filter(&self, state: &CycleState, _: &PodInfo, node: &NodeInfo, _: &Cluster) -> Result<(), Rejection> {
        let Some(Zones(zones)) = state.get::<Zones>() else { return Ok(()) };
        let labels = node.labels();
        let is_anywhere =
            LABELS.iter().any(|(new, old)| labels.contains_key(*new) || labels.contains_key(*old));
        // A cluster of one zone need not label its nodes.
        if !is_anywhere {
            return Ok(());
        }
        let fits = zones.iter().all(|(new, old, values)| {
            labels.get(*new).or_else(|| labels.get(*old)).is_some_and(|value| values.contains(value))
        });
        if fits { Ok(()) } else { Err(Rejection::unresolvable(self.name(), REASON)) }
    }

    fn hint(&self, _: &PodInfo, event: &Event<'_>) -> Hint {
        match event {
            Event::NodeAdded(_) | Event::VolumesChanged(_) => Hint::Queue,
            Event::NodeUpdated(old, new) if old.metadata.labels != new.metadata.labels => Hint::Queue,
            _ => Hint::Skip,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::framework::testing::{cluster, filter, named_pod, node_labelled};

    #[test]
    fn volumes_have_zones() {
        const ZONE: &str = "topology.kubernetes.io/zone";
        let mut cluster = cluster([
            node_labelled("east", json!({ZONE: "e"})),
            node_labelled("west", json!({ZONE: "w"})),
            node_labelled("plain", json!({})),
        ]);
        let claim = json!({"metadata": {"name": "c", "namespace": "default"}, "spec": {"volumeName": "v"}});
        let volume = json!({"metadata": {"name": "v", "labels": {ZONE: "w__x"}}});
        let all = cluster.volumes_mut();
        all.set_claim("default", "c", Some(Arc::new(serde_json::from_value(claim).unwrap())));
        all.set_volume("v", Some(Arc::new(serde_json::from_value(volume).unwrap())));
        let volumes = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]);
        let pod = named_pod("p", json!({}), json!({"volumes": volumes}));
        let fits = |node: &str| filter(&VolumeZone, &pod, &cluster, node).is_ok();
        assert_eq!([fits("east"), fits("west"), fits("plain")], [false, true, true]);
    }
}
