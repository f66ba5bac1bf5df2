//! Tells kubelets, by an annotation of their node, how long they may keep Secrets and ConfigMaps: the larger the cluster, the
//! longer.
//!
//! Reads nodes. Writes the annotation `node.alpha.kubernetes.io/ttl`.
//! Not here: what kubelets do with it.
//! Upstream: `pkg/controller/ttl`.

use api::types::core::v1::Node;
use client::Patch;
use jiff::Timestamp;
use reconcile::{Action, Controller, Key, Plan, View, Watches};
use serde_json::json;

use crate::object;

const TTL: &str = "node.alpha.kubernetes.io/ttl";
/// From how many nodes to how many which number of seconds; the steps overlap, so that one node more or less does not change
/// all the others back and forth.
const STEPS: [(usize, usize, u32); 5] =
    [(0, 100, 0), (90, 500, 15), (450, 1000, 30), (900, 2000, 60), (1800, usize::MAX, 300)];

/// The controller.
pub struct NodeTtl;

/// What a node's annotation should be, if it is not that.
fn correction(annotation: Option<&str>, nodes: usize) -> Option<u32> {
    let current = annotation.and_then(|text| text.parse::<u32>().ok());
    let step = STEPS.iter().find(|(_, _, seconds)| Some(*seconds) == current);
    if step.is_some_and(|(low, high, _)| (*low..=*high).contains(&nodes)) {
        return None;
    }
    STEPS.iter().find(|(_, high, _)| nodes <= *high).map(|(_, _, seconds)| *seconds)
}

impl Controller for NodeTtl {
    const NAME: &'static str = "ttl-controller";

    fn watch(&self, watches: &mut Watches<'_>) {
        watches.map::<Node>(|caches, change, wake| {
            let node = &**change.object();
            let nodes = caches.informer::<Node>().len();
            if !change.is_deleted() && correction(object::annotation(node, TTL), nodes).is_some() {
                wake(Key::of(node));
            }
        });
    }

    fn plan(&self, view: &View<'_>, key: &Key, _: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(node) = view.get_key::<Node>(key) else { return plan };
        let nodes = view.informer::<Node>().len();
        if let Some(seconds) = correction(object::annotation(&*node, TTL), nodes) {
            let patch = json!({"metadata": {"annotations": {TTL: seconds.to_string()}}});
            plan.act(Action::patch(&*node, Patch::Merge(patch)));
        }
        plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_overlap() {
        for (annotation, nodes, expected) in [
            (None, 1, Some(0)),
            (Some("0"), 1, None),
            (Some("0"), 100, None),
            (Some("0"), 101, Some(15)),
            (Some("15"), 95, None),
            (Some("15"), 80, Some(0)),
            (Some("x"), 600, Some(30)),
            (Some("60"), 5000, Some(300)),
        ] {
            assert_eq!(correction(annotation, nodes), expected, "{annotation:?} of {nodes}");
        }
    }
}
