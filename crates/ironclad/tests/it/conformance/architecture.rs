//! test/e2e/architecture/conformance.go.

use super::{World, items};

/// Conformance: [sig-architecture] Conformance Tests should have at least two untainted nodes [Conformance]
#[test]
fn should_have_at_least_two_untainted_nodes() {
    let world = World::hollow(2);
    let nodes = world.read("/api/v1/nodes");
    let usable = items(&nodes).iter().filter(|node| {
        let ready = node["status"]["conditions"].as_array().is_some_and(|conditions| {
            conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
        });
        let taints = node["spec"]["taints"].as_array().map(Vec::as_slice).unwrap_or_default();
        let tainted =
            taints.iter().any(|taint| taint["effect"] == "NoSchedule" || taint["effect"] == "NoExecute");
        ready && !tainted && node["spec"]["unschedulable"] != true
    });
    assert!(usable.count() >= 2, "{nodes}");
}
