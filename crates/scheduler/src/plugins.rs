//! The plugins of the default profile, in upstream's order and with upstream's weights.
//!
//! Not here: what each does; see its file. Not there yet: DynamicResources (docs/status.md).
//!
//! Upstream: pkg/scheduler/apis/config/v1/default_plugins.go.

mod default_binder;
mod default_preemption;
mod image_locality;
mod inter_pod_affinity;
mod node_affinity;
mod node_name;
mod node_ports;
mod node_resources_balanced_allocation;
mod node_resources_fit;
mod node_unschedulable;
mod node_volume_limits;
mod pod_topology_spread;
mod priority_sort;
mod scheduling_gates;
mod taint_toleration;
mod volume_binding;
mod volume_restrictions;
mod volume_zone;

use crate::framework::{Plugin, Weighted};

/// The default profile.
pub fn default_profile() -> Vec<Weighted> {
    fn row(plugin: impl Plugin + 'static, weight: i64) -> Weighted {
        Weighted { plugin: Box::new(plugin), weight }
    }
    vec![
        row(scheduling_gates::SchedulingGates, 0),
        row(priority_sort::PrioritySort, 0),
        row(node_unschedulable::NodeUnschedulable, 0),
        row(node_name::NodeName, 0),
        row(taint_toleration::TaintToleration, 3),
        row(node_affinity::NodeAffinity, 2),
        row(node_ports::NodePorts, 0),
        row(node_resources_fit::NodeResourcesFit, 1),
        row(volume_restrictions::VolumeRestrictions, 0),
        row(node_volume_limits::NodeVolumeLimits, 0),
        row(volume_binding::VolumeBinding, 0),
        row(volume_zone::VolumeZone, 0),
        row(pod_topology_spread::PodTopologySpread, 2),
        row(inter_pod_affinity::InterPodAffinity, 2),
        row(default_preemption::DefaultPreemption, 0),
        row(node_resources_balanced_allocation::NodeResourcesBalancedAllocation, 1),
        row(image_locality::ImageLocality, 1),
        row(default_binder::DefaultBinder, 0),
    ]
}
