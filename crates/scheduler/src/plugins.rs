//! The plugins of the default profile, in upstream's order and with upstream's weights.
//!
//! Not here: what each does; see its file. Not there yet: VolumeRestrictions, NodeVolumeLimits, VolumeBinding,
//! VolumeZone, PodTopologySpread, InterPodAffinity, DynamicResources, DefaultPreemption (docs/status.md).
//!
//! Upstream: pkg/scheduler/apis/config/v1/default_plugins.go.

mod default_binder;
mod image_locality;
mod node_affinity;
mod node_name;
mod node_ports;
mod node_resources_balanced_allocation;
mod node_resources_fit;
mod node_unschedulable;
mod priority_sort;
mod scheduling_gates;
mod taint_toleration;

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
        row(node_resources_balanced_allocation::NodeResourcesBalancedAllocation, 1),
        row(image_locality::ImageLocality, 1),
        row(default_binder::DefaultBinder, 0),
    ]
}
