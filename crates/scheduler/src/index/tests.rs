//! Whether what is kept is what counting anew gives, whatever happens.

use foundation::{Randomness, SeededRandomness};
use serde_json::json;

use super::*;
use crate::cluster::Cluster;
use crate::framework::testing::{named_pod, node_labelled};

fn selection(app: &str, key: &str) -> Selection {
    let pod = named_pod(
        "asks",
        json!({}),
        json!({"affinity": {"podAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [{
                "labelSelector": {"matchLabels": {"app": app}}, "topologyKey": key,
            }],
        }}}),
    );
    let term = pod.terms.affinity[0].clone();
    Selection { matchers: vec![term.matcher], topology_key: term.topology_key }
}

#[test]
fn what_is_kept_is_what_is_there() {
    let randomness = SeededRandomness::new(7);
    let mut cluster = Cluster::default();
    let asked = || ["x", "y"].into_iter().flat_map(|app| ["zone", "host"].map(|key| selection(app, key)));
    for step in 0..2_000 {
        let (pod, node) = (format!("p{}", randomness.below(40)), format!("n{}", randomness.below(8)));
        match randomness.below(10) {
            0..5 => {
                let app = if randomness.below(2) == 0 { "x" } else { "y" };
                cluster.set_pod(named_pod(&pod, json!({"app": app}), json!({})), &node);
            }
            5..7 => drop(cluster.remove_pod(&pod)),
            7 => cluster.remove_node(&node),
            _ => {
                let zone = format!("z{}", randomness.below(3));
                cluster.set_node(node_labelled(&node, json!({"zone": zone, "host": node})));
            }
        }
        for selection in asked() {
            let kept = cluster.selected(selection.clone());
            let mut fresh: HashMap<String, i64> = HashMap::new();
            let mut all: BTreeMap<String, i64> = BTreeMap::new();
            for node in cluster.nodes().values() {
                let domain = node.labels()[&selection.topology_key].clone();
                let pods = node.pods.values();
                let number = pods
                    .filter(|pod| selection.matchers[0].matches(&pod.pod, cluster.namespaces()))
                    .count() as i64;
                *all.entry(domain.clone()).or_default() += number;
                if number > 0 {
                    *fresh.entry(domain).or_default() += number;
                }
            }
            assert_eq!(*kept.domains, fresh, "step {step}");
            assert_eq!(kept.least, all.values().copied().min().unwrap_or(0), "step {step}");
            assert_eq!(kept.number, all.len(), "step {step}");
            assert!(kept.is_everywhere);
        }
    }
}
