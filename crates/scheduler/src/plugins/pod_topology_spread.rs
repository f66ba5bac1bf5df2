//! PodTopologySpread: pods of a kind are spread over zones, nodes or whatever label makes domains.
//!
//! Not here: constraints for pods that have none of their own (upstream's defaults by Service or ReplicaSet).
//! Upstream: pkg/scheduler/framework/plugins/podtopologyspread.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::{node_affinity, taint_toleration};
use crate::{
    cluster::{Cluster, NodeInfo, PodInfo},
    framework::{CycleState, Event, Hint, MAX_SCORE, Plugin, Rejection},
    index::{Domains, Selected, Selection},
    terms::Spread,
};

/// The plugin.
pub struct PodTopologySpread;

const REASON: &str = "node(s) didn't match pod topology spread constraints";
const MISSING_LABEL: &str = "node(s) didn't match pod topology spread constraints (missing required label)";
/// The domain that each node is by itself.
const HOST: &str = "kubernetes.io/hostname";
/// The score of a node that a constraint says nothing of.
const IGNORED: i64 = i64::MIN;

/// A constraint with what is there.
struct Counted {
    constraint: Spread,
    domains: Domains,
    /// Pods in the emptiest domain.
    least: i64,
    /// The pod itself, if it is one of those that are spread.
    itself: i64,
    /// For scores: more domains weigh more.
    weight: f64,
}

struct Filtering(Vec<Counted>);
struct Scoring(Vec<Counted>);

/// Which nodes count, where not simply all do.
fn counts(pod: &PodInfo, constraint: &Spread, node: &NodeInfo) -> bool {
    (constraint.counts_unselected_nodes || node_affinity::allows(pod.spec(), &node.node))
        && (!constraint.leaves_out_tainted_nodes || !taint_toleration::keeps_away(pod.spec(), &node.node))
}

fn selects_nodes(pod: &PodInfo) -> bool {
    let spec = pod.spec();
    let required = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .is_some_and(|affinity| affinity.required_during_scheduling_ignored_during_execution.is_some());
    required || spec.node_selector.as_ref().is_some_and(|selector| !selector.is_empty())
}

/// Counts the pods of each constraint of one sort.
fn count(pod: &PodInfo, cluster: &Cluster, required: bool) -> Vec<Counted> {
    let constraints: Vec<&Spread> =
        pod.terms.spread.iter().filter(|constraint| constraint.required == required).collect();
    let selected: Vec<Selected> = constraints
        .iter()
        .map(|constraint| {
            cluster.selected(Selection {
                matchers: vec![constraint.term.matcher.clone()],
                topology_key: constraint.term.topology_key.clone(),
            })
        })
        .collect();
    // Nodes that lack the label of any constraint count for none.
    let all_have_all = selected.iter().all(|selected| selected.is_everywhere);
    constraints
        .iter()
        .zip(selected)
        .map(|(constraint, selected)| {
            let simple = all_have_all
                && !constraint.leaves_out_tainted_nodes
                && (constraint.counts_unselected_nodes || !selects_nodes(pod));
            let (domains, number, least) = if simple {
                (selected.domains, selected.number, selected.least)
            } else {
                among(pod, constraint, &constraints, &selected, cluster)
            };
            let too_few = constraint.min_domains.is_some_and(|least| (number as i64) < least);
            let namespaces = cluster.namespaces();
            Counted {
                itself: i64::from(constraint.term.matcher.matches(&pod.pod, namespaces)),
                constraint: (*constraint).clone(),
                domains,
                least: if too_few { 0 } else { least },
                weight: ((number + 2) as f64).ln(),
            }
        })
        .collect()
}

/// The counts over those nodes that count: domains, their number, pods in the emptiest.
fn among(
    pod: &PodInfo,
    constraint: &Spread,
    all: &[&Spread],
    selected: &Selected,
    cluster: &Cluster,
) -> (Domains, usize, i64) {
    let mut domains: HashMap<String, i64> = HashMap::new();
    for node in cluster.nodes().values() {
        let has_all = all.iter().all(|one| node.labels().contains_key(&one.term.topology_key));
        let Some(domain) = node.labels().get(&constraint.term.topology_key) else { continue };
        if has_all && counts(pod, constraint, node) {
            *domains.entry(domain.clone()).or_default() +=
                selected.nodes.get(node.name()).copied().unwrap_or_default();
        }
    }
    let (number, least) = (domains.len(), domains.values().copied().min().unwrap_or_default());
    (Domains::new(domains), number, least)
}

impl Plugin for PodTopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }

    fn pre_filter(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        cluster: &Cluster,
    ) -> Result<Option<BTreeSet<String>>, Rejection> {
        if pod.terms.spread.iter().any(|constraint| constraint.required) {
            state.put_for_cycle(Filtering(count(pod, cluster, true)));
        }
        Ok(None)
    }

    fn filter(&self, state: &CycleState, _: &PodInfo, node: &NodeInfo, _: &Cluster) -> Result<(), Rejection> {
        for counted in state.get::<Filtering>().into_iter().flat_map(|filtering| &filtering.0) {
            let Some(domain) = node.labels().get(&counted.constraint.term.topology_key) else {
                return Err(Rejection::unresolvable(self.name(), MISSING_LABEL));
            };
            let there = counted.domains.get(domain).copied().unwrap_or_default();
            if there + counted.itself - counted.least > counted.constraint.max_skew {
                return Err(Rejection::new(self.name(), REASON));
            }
        }
        Ok(())
    }

    fn pre_score(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        nodes: &[&NodeInfo],
        cluster: &Cluster,
    ) -> bool {
        if pod.terms.spread.iter().all(|constraint| constraint.required) {
            return false;
        }
        let mut counted = count(pod, cluster, false);
        for one in &mut counted {
            // The weight is by the domains that there is a choice of.
            let key = &one.constraint.term.topology_key;
            let number = if key == HOST {
                nodes.len()
            } else {
                nodes.iter().filter_map(|node| node.labels().get(key)).collect::<HashSet<_>>().len()
            };
            one.weight = ((number + 2) as f64).ln();
        }
        state.put_for_cycle(Scoring(counted));
        true
    }

    fn score(&self, state: &CycleState, _: &PodInfo, node: &NodeInfo) -> i64 {
        let mut score = 0.0;
        for counted in state.get::<Scoring>().into_iter().flat_map(|scoring| &scoring.0) {
            let Some(domain) = node.labels().get(&counted.constraint.term.topology_key) else {
                return IGNORED;
            };
            let there = counted.domains.get(domain).copied().unwrap_or_default();
            score += there as f64 * counted.weight + (counted.constraint.max_skew - 1) as f64;
        }
        score.round() as i64
    }

    fn normalize(&self, scores: &mut [i64]) {
        let known = || scores.iter().copied().filter(|score| *score != IGNORED);
        let (least, most) = (known().min().unwrap_or_default(), known().max().unwrap_or_default());
        for score in scores {
            *score = match (*score, most) {
                (IGNORED, _) => 0,
                (_, 0) => MAX_SCORE,
                (score, most) => MAX_SCORE * (most + least - score) / most,
            };
        }
    }

    fn hint(&self, pod: &PodInfo, event: &Event<'_>) -> Hint {
        let counts = |other: &PodInfo| {
            pod.terms.spread.iter().any(|constraint| constraint.term.matcher.may_match(&other.pod))
        };
        let has_all = |labels: Option<&crate::terms::Labels>| {
            let mut keys = pod.terms.spread.iter().map(|constraint| &constraint.term.topology_key);
            keys.all(|key| labels.is_some_and(|labels| labels.contains_key(key)))
        };
        let helps = match event {
            Event::AssignedPodAdded(other) | Event::AssignedPodGone(other) => counts(other),
            Event::AssignedPodUpdated(old, new) => counts(old) != counts(new),
            Event::NodeAdded(node) | Event::NodeGone(node) => has_all(node.metadata.labels.as_ref()),
            Event::NodeUpdated(old, new) => {
                old.metadata.labels != new.metadata.labels || old.spec != new.spec
            }
            Event::PodUpdated(..) => true,
            Event::NamespacesChanged | Event::VolumesChanged(_) => false,
        };
        if helps { Hint::Queue } else { Hint::Skip }
    }

    fn looks_at_new_pods(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::framework::testing::{cluster, filter, named_pod, node, scores};

    fn constraint(key: &str, max_skew: i32, when: &str) -> Value {
        json!({
            "topologyKey": key, "maxSkew": max_skew, "whenUnsatisfiable": when,
            "labelSelector": {"matchLabels": {"app": "web"}},
        })
    }

    fn web(name: &str, constraints: Value) -> PodInfo {
        named_pod(name, json!({"app": "web"}), json!({"topologySpreadConstraints": constraints}))
    }

    /// Zones a, b, c of one node each, with so many pods.
    fn spread_over(numbers: [usize; 3]) -> Cluster {
        let names = ["a", "b", "c"];
        let mut cluster = cluster(names.map(|name| node(name, "9", "9Gi")));
        for (name, number) in names.iter().zip(numbers) {
            for index in 0..number {
                cluster.set_pod(web(&format!("{name}{index}"), json!([])), name);
            }
        }
        cluster
    }

    fn fits(cluster: &Cluster, pod: &PodInfo) -> [bool; 3] {
        ["a", "b", "c"].map(|name| filter(&PodTopologySpread, pod, cluster, name).is_ok())
    }

    #[test]
    fn no_domain_gets_too_far_ahead() {
        for (numbers, skew, expected) in [
            ([0, 0, 0], 1, [true, true, true]),
            ([1, 0, 0], 1, [false, true, true]),
            ([2, 1, 1], 1, [false, true, true]),
            ([3, 1, 0], 2, [false, true, true]),
            ([3, 1, 0], 4, [true, true, true]),
        ] {
            let pod = web("new", json!([constraint("zone", skew, "DoNotSchedule")]));
            assert_eq!(fits(&spread_over(numbers), &pod), expected, "{numbers:?} by {skew}");
        }
    }

    #[test]
    fn counts_follow_pods_and_nodes() {
        let pod = web("new", json!([constraint("zone", 1, "DoNotSchedule")]));
        let mut cluster = spread_over([1, 1, 0]);
        assert_eq!(fits(&cluster, &pod), [false, false, true]);
        cluster.remove_pod("a0");
        assert_eq!(fits(&cluster, &pod), [true, false, true]);
        cluster.set_pod(web("x", json!([])), "a");
        cluster.set_pod(web("y", json!([])), "c");
        assert_eq!(fits(&cluster, &pod), [true, true, true]);
        cluster.set_node(node("d", "1", "1Gi"));
        assert_eq!(fits(&cluster, &pod), [false, false, false], "a new empty zone comes first");
        cluster.remove_node("d");
        assert_eq!(fits(&cluster, &pod), [true, true, true]);
    }

    #[test]
    fn fewer_domains_than_asked_count_as_empty() {
        let mut wish = constraint("zone", 1, "DoNotSchedule");
        wish["minDomains"] = 5.into();
        assert_eq!(fits(&spread_over([1, 1, 1]), &web("new", json!([wish]))), [false, false, false]);
    }

    #[test]
    fn nodes_the_pod_does_not_choose_do_not_count() {
        let mut pod = web("new", json!([constraint("zone", 1, "DoNotSchedule")]));
        let spec = std::sync::Arc::make_mut(&mut pod.pod).spec.as_mut().unwrap();
        let zones = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["zone-c"]}]}],
        }}});
        spec.affinity = serde_json::from_value(zones).unwrap();
        assert_eq!(fits(&spread_over([1, 1, 0]), &pod)[..2], [true, true]);
    }

    #[test]
    fn a_missing_label_is_said() {
        let pod = web("new", json!([constraint("rack", 1, "DoNotSchedule")]));
        let refused = filter(&PodTopologySpread, &pod, &spread_over([0, 0, 0]), "a").unwrap_err();
        assert_eq!(refused, [MISSING_LABEL]);
    }

    #[test]
    fn the_emptier_domain_is_better() {
        let pod = web("new", json!([constraint("zone", 1, "ScheduleAnyway")]));
        let scores = scores(&PodTopologySpread, &pod, &spread_over([4, 2, 0]));
        assert!(scores[0] < scores[1] && scores[1] < scores[2], "{scores:?}");
        assert_eq!(scores[2], 100);
    }
}
