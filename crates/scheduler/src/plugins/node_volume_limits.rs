//! NodeVolumeLimits: a node attaches no more volumes of a driver than it can.
//!
//! Upstream: pkg/scheduler/framework/plugins/nodevolumelimits (csi.go).

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    cluster::{Cluster, NodeInfo, PodInfo},
    framework::{CycleState, Event, Hint, Plugin, Rejection},
    volumes::wanted,
};

/// The plugin.
pub struct NodeVolumeLimits;

const REASON: &str = "node(s) exceed max volume count";

type Handles = BTreeMap<String, BTreeSet<String>>;

/// What the pod adds.
struct Attached(Handles);

impl Plugin for NodeVolumeLimits {
    fn name(&self) -> &'static str {
        "NodeVolumeLimits"
    }

    fn pre_filter(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        cluster: &Cluster,
    ) -> Result<Option<BTreeSet<String>>, Rejection> {
        if wanted(&pod.pod).is_empty() {
            return Ok(None);
        }
        state.put_for_cycle(Attached(cluster.volumes().attached(&pod.pod)));
        Ok(None)
    }

    fn filter(
        &self,
        state: &CycleState,
        _: &PodInfo,
        node: &NodeInfo,
        cluster: &Cluster,
    ) -> Result<(), Rejection> {
        let Some(Attached(more)) = state.get::<Attached>() else { return Ok(()) };
        let volumes = cluster.volumes();
        let limits: Vec<_> =
            more.iter().filter_map(|row| Some((volumes.limit(node.name(), row.0)?, row))).collect();
        if limits.is_empty() {
            return Ok(());
        }
        let mut there = Handles::new();
        for other in node.pods.values().filter(|other| !wanted(&other.pod).is_empty()) {
            for (driver, handles) in volumes.attached(&other.pod) {
                there.entry(driver).or_default().extend(handles);
            }
        }
        let none = BTreeSet::new();
        for (limit, (driver, more)) in limits {
            let there = there.get(driver).unwrap_or(&none);
            let more = more.difference(there).count();
            if more > 0 && (there.len() + more) as i64 > limit {
                return Err(Rejection::new(self.name(), REASON));
            }
        }
        Ok(())
    }

    fn hint(&self, _: &PodInfo, event: &Event<'_>) -> Hint {
        match event {
            Event::NodeAdded(_) | Event::VolumesChanged(_) => Hint::Queue,
            Event::AssignedPodGone(gone) if !wanted(&gone.pod).is_empty() => Hint::Queue,
            _ => Hint::Skip,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::framework::testing::{cluster, filter, named_pod, node};

    #[test]
    fn drivers_have_limits() {
        let mut cluster = cluster([node("n", "1", "1Gi"), node("free", "1", "1Gi")]);
        let all = cluster.volumes_mut();
        let drivers = json!({"metadata": {"name": "n"}, "spec": {"drivers": [
            {"name": "d", "nodeID": "n", "allocatable": {"count": 1}},
        ]}});
        all.set_drivers("n", Some(Arc::new(serde_json::from_value(drivers).unwrap())));
        for name in ["one", "two"] {
            let claim =
                json!({"metadata": {"name": name, "namespace": "default"}, "spec": {"volumeName": name}});
            all.set_claim("default", name, Some(Arc::new(serde_json::from_value(claim).unwrap())));
            let csi = json!({"driver": "d", "volumeHandle": name});
            let volume = json!({"metadata": {"name": name}, "spec": {"csi": csi}});
            all.set_volume(name, Some(Arc::new(serde_json::from_value(volume).unwrap())));
        }
        let pod = |name: &str, claim: &str| {
            let volumes = json!([{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]);
            named_pod(name, json!({}), json!({"volumes": volumes}))
        };
        assert!(filter(&NodeVolumeLimits, &pod("p", "one"), &cluster, "n").is_ok());
        cluster.set_pod(pod("first", "one"), "n");
        assert!(filter(&NodeVolumeLimits, &pod("p", "one"), &cluster, "n").is_ok(), "attached already");
        assert_eq!(filter(&NodeVolumeLimits, &pod("p", "two"), &cluster, "n").unwrap_err(), [REASON]);
        assert!(filter(&NodeVolumeLimits, &pod("p", "two"), &cluster, "free").is_ok());
    }
}
