//! VolumeBinding: a pod goes where its volumes are or can be, and its claims that wait for it get theirs there.
//!
//! Not here: binding claims that do not wait (the volume binder), making volumes (provisioners), and the free space of
//! drivers (CSIStorageCapacity).
//! Upstream: pkg/scheduler/framework/plugins/volumebinding.

use std::collections::BTreeSet;
use std::sync::Arc;

use api::{
    types::core::v1::PersistentVolumeClaim,
    volumes::{self, is_bound, volume_name},
};

use crate::{
    cluster::{Cluster, NodeInfo, PodInfo},
    framework::{CycleState, Event, Hint, Plugin, Preparation, Rejection},
    volumes::wanted,
};

/// The plugin.
pub struct VolumeBinding;

const UNBOUND: &str = "pod has unbound immediate PersistentVolumeClaims";
const NODE_CONFLICT: &str = "node(s) didn't match PersistentVolume's node affinity";
const BIND_CONFLICT: &str = "node(s) didn't find available persistent volumes to bind";
const VOLUME_GONE: &str = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";

type Claim = Arc<PersistentVolumeClaim>;

/// The pod's claims. It has them, or is refused before.
#[derive(Default)]
struct Claims {
    bound: Vec<Claim>,
    waiting: Vec<Claim>,
}

/// The claims of a pod, or why it cannot be scheduled with them.
fn claims(pod: &PodInfo, cluster: &Cluster) -> Result<Option<Claims>, String> {
    let all = wanted(&pod.pod);
    if all.is_empty() {
        return Ok(None);
    }
    let namespace = pod.pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut claims = Claims::default();
    let mut unbound = false;
    for one in all {
        let name = &one.claim;
        let Some(claim) = cluster.volumes().claim(namespace, name) else {
            return Err(if one.is_ephemeral {
                format!(
                    "waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}"
                )
            } else {
                format!("persistentvolumeclaim {name:?} not found")
            });
        };
        if claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Lost") {
            let volume = volume_name(claim);
            return Err(format!(
                "persistentvolumeclaim {name:?} bound to non-existent persistentvolume {volume:?}"
            ));
        }
        if claim.metadata.deletion_timestamp.is_some() {
            return Err(format!("persistentvolumeclaim {name:?} is being deleted"));
        }
        let class = cluster.volumes().class_of(claim);
        if is_bound(claim) {
            claims.bound.push(claim.clone());
        } else if volume_name(claim).is_empty()
            && class.is_some_and(|class| volumes::waits_for_consumer(class))
        {
            claims.waiting.push(claim.clone());
        } else {
            unbound = true;
        }
    }
    if unbound { Err(UNBOUND.to_owned()) } else { Ok(Some(claims)) }
}

/// What is done for each waiting claim on a node.
fn decide(waiting: &[Claim], cluster: &Cluster, node: &NodeInfo) -> Result<Vec<Preparation>, &'static str> {
    let mut taken = BTreeSet::new();
    let mut decided = Vec::new();
    for claim in waiting {
        if let Some(volume) = cluster.volumes().find(claim, node, &taken) {
            taken.insert(volume.metadata.name.clone().unwrap_or_default());
            decided.push(Preparation::BindVolume { volume: volume.clone(), claim: claim.clone() });
            continue;
        }
        let class = cluster.volumes().class_of(claim).ok_or(BIND_CONFLICT)?;
        if !volumes::is_provisioned(class) || !volumes::allowed_on(class, node.labels()) {
            return Err(BIND_CONFLICT);
        }
        decided.push(Preparation::SelectNode { claim: claim.clone(), node: node.name().to_owned() });
    }
    Ok(decided)
}

fn verdict(claims: &Claims, cluster: &Cluster, node: &NodeInfo) -> Result<(), &'static str> {
    for claim in &claims.bound {
        let Some(volume) = cluster.volumes().volume(volume_name(claim)) else { return Err(VOLUME_GONE) };
        if !volumes::usable_on(volume, node.name(), node.labels()) {
            return Err(NODE_CONFLICT);
        }
    }
    decide(&claims.waiting, cluster, node).map(drop)
}

impl Plugin for VolumeBinding {
    fn name(&self) -> &'static str {
        "VolumeBinding"
    }

    fn pre_filter(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        cluster: &Cluster,
    ) -> Result<Option<BTreeSet<String>>, Rejection> {
        let found = claims(pod, cluster).map_err(|why| Rejection::unresolvable(self.name(), why))?;
        if let Some(claims) = found {
            state.put_for_cycle(claims);
        }
        Ok(None)
    }

    fn filter(
        &self,
        state: &CycleState,
        _: &PodInfo,
        node: &NodeInfo,
        cluster: &Cluster,
    ) -> Result<(), Rejection> {
        let Some(claims) = state.get::<Claims>() else { return Ok(()) };
        verdict(claims, cluster, node).map_err(|why| Rejection::unresolvable(self.name(), why))
    }

    fn prepare(&self, pod: &PodInfo, node: &NodeInfo, cluster: &Cluster) -> Vec<Preparation> {
        match claims(pod, cluster) {
            Ok(Some(claims)) => decide(&claims.waiting, cluster, node).unwrap_or_default(),
            _ => Vec::new(),
        }
    }

    fn hint(&self, pod: &PodInfo, event: &Event<'_>) -> Hint {
        let helps = match event {
            Event::NodeAdded(_) | Event::PodUpdated(..) | Event::VolumesChanged(None) => true,
            Event::NodeUpdated(old, new) => old.metadata.labels != new.metadata.labels,
            Event::VolumesChanged(Some((namespace, name))) => {
                pod.pod.metadata.namespace.as_deref() == Some(namespace)
                    && wanted(&pod.pod).iter().any(|wanted| wanted.claim == *name)
            }
            _ => false,
        };
        if helps { Hint::Queue } else { Hint::Skip }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::framework::testing::{cluster, filter, named_pod, node};

    fn claim(spec: Value, bound: bool) -> Claim {
        let annotations = if bound { json!({volumes::BIND_COMPLETED: "yes"}) } else { json!({}) };
        let metadata = json!({"name": "c", "namespace": "default", "uid": "c", "annotations": annotations});
        Arc::new(serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap())
    }

    fn with(claim: Option<Claim>) -> Cluster {
        let mut cluster = cluster([node("a", "1", "1Gi"), node("b", "1", "1Gi")]);
        let all = cluster.volumes_mut();
        all.set_claim("default", "c", claim);
        for (name, provisioner) in [("local", "kubernetes.io/no-provisioner"), ("made", "example.com/disk")] {
            let class = json!({
                "metadata": {"name": name}, "provisioner": provisioner,
                "volumeBindingMode": "WaitForFirstConsumer",
            });
            all.set_class(name, Some(Arc::new(serde_json::from_value(class).unwrap())));
        }
        let term = json!([{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["zone-b"]}]}]);
        let volume = json!({
            "metadata": {"name": "v"},
            "spec": {
                "capacity": {"storage": "1Gi"}, "storageClassName": "local",
                "nodeAffinity": {"required": {"nodeSelectorTerms": term}},
            },
        });
        all.set_volume("v", Some(Arc::new(serde_json::from_value(volume).unwrap())));
        cluster
    }

    fn pod() -> PodInfo {
        let volumes = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]);
        named_pod("p", json!({}), json!({"volumes": volumes}))
    }

    #[test]
    fn claims_say_where_a_pod_can_go() {
        let ok = || Ok(());
        let no = |why: &str| Err(vec![why.to_owned()]);
        for (what, claim, expected) in [
            (
                "missing",
                None,
                [no("persistentvolumeclaim \"c\" not found"), no("persistentvolumeclaim \"c\" not found")],
            ),
            ("unbound", Some(claim(json!({}), false)), [no(UNBOUND), no(UNBOUND)]),
            ("bound", Some(claim(json!({"volumeName": "v"}), true)), [no(NODE_CONFLICT), ok()]),
            (
                "bound to nothing",
                Some(claim(json!({"volumeName": "x"}), true)),
                [no(VOLUME_GONE), no(VOLUME_GONE)],
            ),
            (
                "waits for a volume made by hand",
                Some(claim(json!({"storageClassName": "local"}), false)),
                [no(BIND_CONFLICT), ok()],
            ),
            (
                "waits for one to be made",
                Some(claim(json!({"storageClassName": "made"}), false)),
                [ok(), ok()],
            ),
        ] {
            let cluster = with(claim);
            let found = ["a", "b"].map(|node| filter(&VolumeBinding, &pod(), &cluster, node));
            assert_eq!(found, expected, "{what}");
        }
    }

    #[test]
    fn what_waited_is_prepared_on_the_chosen_node() {
        let cluster = with(Some(claim(json!({"storageClassName": "local"}), false)));
        let prepared = VolumeBinding.prepare(&pod(), &cluster.nodes()["b"], &cluster);
        let [Preparation::BindVolume { volume, .. }] = prepared.as_slice() else { panic!("{prepared:?}") };
        assert_eq!(volume.metadata.name.as_deref(), Some("v"));
        let cluster = with(Some(claim(json!({"storageClassName": "made"}), false)));
        let prepared = VolumeBinding.prepare(&pod(), &cluster.nodes()["a"], &cluster);
        assert!(matches!(prepared.as_slice(), [Preparation::SelectNode { node, .. }] if node == "a"));
    }

    #[test]
    fn a_volume_is_given_once() {
        let waiting = claim(json!({"storageClassName": "local"}), false);
        let mut cluster = with(Some(waiting.clone()));
        let mut other = (*waiting).clone();
        other.metadata.name = Some("other".into());
        cluster.volumes_mut().give("v", &other);
        assert_eq!(filter(&VolumeBinding, &pod(), &cluster, "b"), Err(vec![BIND_CONFLICT.to_owned()]));
    }
}
