//! DefaultPreemption: where a pod fits nowhere, less important pods make room for it, as few and as unimportant as possible.
//!
//! Tries out on the scheduler's own count, pod by pod, and puts everything back. Not here: taking the victims' pods away and
//! writing down the node (the executor).
//!
//! Upstream: pkg/scheduler/framework/plugins/defaultpreemption, pkg/scheduler/framework/preemption.

use std::collections::{BTreeMap, HashMap};

use api::{
    selector::labels::Selector,
    types::{core::v1::Pod, policy::v1::PodDisruptionBudget},
};
use foundation::Randomness;
use jiff::Timestamp;

use crate::{
    cluster::{Budgets, Cluster, PodInfo},
    cycle,
    framework::{Plugin, PostFiltered, Refused, Weighted},
    terms::labels_of,
};

/// The plugin.
pub struct DefaultPreemption;

/// So many candidates are compared, or a tenth of the nodes if that is more; upstream's minCandidateNodesAbsolute and
/// minCandidateNodesPercentage.
const CANDIDATES: usize = 100;
const CANDIDATES_PERCENT: usize = 10;
const NO_VICTIMS: &str = "No preemption victims found for incoming pod";
const NOT_HELPFUL: &str = "Preemption is not helpful for scheduling";
/// Upstream adds this to each victim's priority, so that many unimportant victims do not look like none.
const PRIORITY_OFFSET: i64 = i32::MAX as i64 + 1;

/// A node where room can be made.
struct Candidate {
    node: String,
    /// The most important first.
    victims: Vec<PodInfo>,
    /// How many of them a budget would not give.
    violations: usize,
}

fn started(pod: &Pod) -> Timestamp {
    let status = pod.status.as_ref();
    // A pod that has not started yet is as young as can be.
    status.and_then(|status| status.start_time.as_ref()).map_or(Timestamp::MAX, |time| time.0)
}

/// The most important first: by priority, then who has run the longest.
fn sort_by_importance(pods: &mut [PodInfo]) {
    pods.sort_by(|a, b| {
        b.priority
            .cmp(&a.priority)
            .then_with(|| started(&a.pod).cmp(&started(&b.pod)))
            .then_with(|| a.uid().cmp(b.uid()))
    });
}

/// Whether the pod is being taken away to make room already.
fn is_being_preempted(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    pod.metadata.deletion_timestamp.is_some()
        && conditions.into_iter().any(|condition| {
            condition.type_ == "DisruptionTarget"
                && condition.status == "True"
                && condition.reason.as_deref() == Some("PreemptionByScheduler")
        })
}

/// Why the pod may not take others' room now.
fn not_eligible(pod: &PodInfo, cluster: &Cluster, refused: &Refused) -> Option<&'static str> {
    if pod.spec().preemption_policy.as_deref() == Some("Never") {
        return Some("not eligible due to preemptionPolicy=Never.");
    }
    let nominated = cluster.nominated_node(pod.uid())?;
    if refused.by_node.get(nominated).is_some_and(|rejection| rejection.unresolvable) {
        return None;
    }
    let mut pods = cluster.nodes().get(nominated)?.pods.values();
    pods.any(|other| other.priority < pod.priority && is_being_preempted(&other.pod))
        .then_some("not eligible due to a terminating pod on the nominated node.")
}

/// Divides pods by whether their budgets would give them, one after the other.
fn by_budget(pods: Vec<PodInfo>, budgets: &Budgets) -> (Vec<PodInfo>, Vec<PodInfo>) {
    let mut left: Vec<i32> = budgets
        .values()
        .map(|budget| budget.status.as_ref().and_then(|status| status.disruptions_allowed).unwrap_or(0))
        .collect();
    pods.into_iter().partition(|info| {
        let mut violates = false;
        for (budget, left) in budgets.values().zip(&mut left) {
            if !covers(budget, &info.pod) {
                continue;
            }
            let disrupted = budget.status.as_ref().and_then(|status| status.disrupted_pods.as_ref());
            let name = info.pod.metadata.name.as_deref().unwrap_or_default();
            if disrupted.is_some_and(|pods| pods.contains_key(name)) {
                continue;
            }
            *left -= 1;
            violates |= *left < 0;
        }
        violates
    })
}

fn covers(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    budget.metadata.namespace == pod.metadata.namespace
        && Selector::from_label_selector(selector)
            .is_ok_and(|selector| !selector.is_everything() && selector.matches(labels_of(pod)))
}

/// Tries out which pods would have to go from a node. The cluster is as before afterwards.
fn try_out(
    pod: &PodInfo,
    node: &str,
    cluster: &mut Cluster,
    profile: &[Weighted],
) -> Result<Candidate, Vec<String>> {
    let Some(info) = cluster.nodes().get(node) else { return Err(vec![NOT_HELPFUL.to_owned()]) };
    let mut lesser: Vec<PodInfo> =
        info.pods.values().filter(|other| other.priority < pod.priority).cloned().collect();
    if lesser.is_empty() {
        return Err(vec![NO_VICTIMS.to_owned()]);
    }
    sort_by_importance(&mut lesser);
    for victim in &lesser {
        cluster.remove_pod(victim.uid());
    }
    let outcome = match cycle::fits(pod, cluster, profile, node) {
        Err(rejection) => Err(rejection.reasons),
        Ok(()) => {
            // Whoever can stay, stays: first those whose budgets would be broken, then the most important.
            let (violating, given) = by_budget(lesser.clone(), cluster.budgets());
            let mut victims = Vec::new();
            let mut violations = 0;
            for (pods, breaks) in [(violating, 1), (given, 0)] {
                for other in pods {
                    cluster.set_pod(other.clone(), node);
                    if cycle::fits(pod, cluster, profile, node).is_err() {
                        cluster.remove_pod(other.uid());
                        victims.push(other);
                        violations += breaks;
                    }
                }
            }
            sort_by_importance(&mut victims);
            Ok(Candidate { node: node.to_owned(), victims, violations })
        }
    };
    for victim in lesser {
        cluster.set_pod(victim, node);
    }
    outcome
}

/// The candidate that does the least harm: budgets, then the most important victim, the sum of importance, the number, and
/// the age of the most important ones.
fn best(candidates: Vec<Candidate>) -> Option<Candidate> {
    candidates.into_iter().min_by_key(|candidate| {
        let highest = candidate.victims.first().map_or(i32::MIN, |victim| victim.priority);
        let sum: i64 = candidate.victims.iter().map(|v| i64::from(v.priority) + PRIORITY_OFFSET).sum();
        let oldest = candidate.victims.iter().filter(|victim| victim.priority == highest);
        let oldest = oldest.map(|victim| started(&victim.pod)).min().unwrap_or(Timestamp::MAX);
        (candidate.violations, highest, sum, candidate.victims.len(), std::cmp::Reverse(oldest))
    })
}

impl Plugin for DefaultPreemption {
    fn name(&self) -> &'static str {
        "DefaultPreemption"
    }

    fn post_filter(
        &self,
        pod: &PodInfo,
        cluster: &mut Cluster,
        refused: &Refused,
        profile: &[Weighted],
        randomness: &dyn Randomness,
    ) -> Option<PostFiltered> {
        if let Some(why) = not_eligible(pod, cluster, refused) {
            let nominated_node = cluster.nominated_node(pod.uid()).map(str::to_owned);
            let message = format!("preemption: {why}");
            return Some(PostFiltered { nominated_node, message, victims: Vec::new() });
        }
        let all = cluster.nodes().len();
        let mut nodes: Vec<&String> = refused
            .by_node
            .iter()
            .filter(|(_, rejection)| !rejection.unresolvable)
            .map(|(node, _)| node)
            .collect();
        nodes.sort();
        let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
        if all > nodes.len() {
            reasons.insert(NOT_HELPFUL.to_owned(), all - nodes.len());
        }
        let wanted = (nodes.len() * CANDIDATES_PERCENT / 100).max(CANDIDATES);
        let first = if nodes.is_empty() { 0 } else { randomness.below(nodes.len() as u64) as usize };
        let mut candidates = Vec::new();
        let mut hopeless: HashMap<String, Vec<String>> = HashMap::new();
        for step in 0..nodes.len() {
            let node = nodes[(first + step) % nodes.len()];
            match try_out(pod, node, cluster, profile) {
                Ok(candidate) => candidates.push(candidate),
                Err(reasons) => drop(hopeless.insert(node.clone(), reasons)),
            }
            if candidates.len() >= wanted {
                break;
            }
        }
        if let Some(Candidate { node, victims, .. }) = best(candidates) {
            let count = victims.len();
            let message = format!(
                "preemption: found a potential placement for pod on node {node}, preempting {count} victims"
            );
            return Some(PostFiltered { nominated_node: Some(node), message, victims });
        }
        for reason in hopeless.into_values().flatten() {
            *reasons.entry(reason).or_default() += 1;
        }
        let mut list: Vec<String> =
            reasons.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        list.sort();
        let message = format!("preemption: 0/{all} nodes are available: {}.", list.join(", "));
        Some(PostFiltered { nominated_node: None, message, victims: Vec::new() })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use foundation::SeededRandomness;
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        framework::testing::{cluster, named_pod, node},
        plugins::default_profile,
    };

    /// A pod of a priority that asks for so many CPUs.
    fn pod(name: &str, priority: i32, cpu: &str) -> PodInfo {
        let containers = json!([{"name": "c", "resources": {"requests": {"cpu": cpu}}}]);
        named_pod(name, json!({"app": name}), json!({"priority": priority, "containers": containers}))
    }

    fn budget(app: &str, allowed: i32) -> Arc<PodDisruptionBudget> {
        let value = json!({
            "metadata": {"name": app, "namespace": "default"},
            "spec": {"selector": {"matchLabels": {"app": app}}},
            "status": {"disruptionsAllowed": allowed},
        });
        Arc::new(serde_json::from_value(value).unwrap())
    }

    /// What happens to a pod that asks for four CPUs, on nodes of four.
    fn preempt(
        placed: &[(&str, i32, &str, &str)],
        budgets: Value,
        preemptor: PodInfo,
    ) -> (String, Vec<String>) {
        let mut nodes: Vec<&str> = placed.iter().map(|(_, _, _, node)| *node).collect();
        nodes.sort();
        nodes.dedup();
        let mut cluster = cluster(nodes.into_iter().map(|name| node(name, "4", "4Gi")));
        for (name, priority, cpu, node) in placed {
            cluster.set_pod(pod(name, *priority, cpu), node);
        }
        let budgets = budgets.as_object().unwrap();
        for (app, allowed) in budgets {
            cluster.set_budget(app, Some(budget(app, allowed.as_i64().unwrap() as i32)));
        }
        let profile = default_profile();
        let outcome = cycle::schedule(&preemptor, &mut cluster, &profile, &mut 0, &SeededRandomness::new(1));
        for (name, _, _, node) in placed {
            assert!(cluster.nodes()[*node].pods.contains_key(*name), "everything is put back");
        }
        let cycle::Outcome::Unschedulable(why) = outcome else { panic!("there was room") };
        let mut victims: Vec<String> = why.victims.iter().map(|victim| victim.uid().to_owned()).collect();
        victims.sort();
        (why.nominated_node.unwrap_or(why.message), victims)
    }

    #[test]
    fn it_says_where_room_is_made() {
        let mut cluster = cluster([node("n", "4", "4Gi")]);
        cluster.set_pod(pod("a", 1, "4"), "n");
        let (profile, random) = (default_profile(), SeededRandomness::new(1));
        let outcome = cycle::schedule(&pod("big", 100, "4"), &mut cluster, &profile, &mut 0, &random);
        let cycle::Outcome::Unschedulable(why) = outcome else { panic!("there was room") };
        assert_eq!(
            why.message,
            "0/1 nodes are available: 1 Insufficient cpu. preemption: found a potential placement for pod on node n, \
             preempting 1 victims"
        );
    }

    #[test]
    fn the_least_harm_is_done() {
        let big = || pod("big", 100, "4");
        let none = json!({});
        for (what, placed, budgets, node, victims) in [
            (
                "the least important",
                vec![("a", 5, "4", "n"), ("b", 9, "4", "m")],
                none.clone(),
                "n",
                vec!["a"],
            ),
            (
                "the fewest",
                vec![("a", 5, "2", "n"), ("b", 5, "2", "n"), ("c", 5, "4", "m")],
                none.clone(),
                "m",
                vec!["c"],
            ),
            ("no budget's", vec![("a", 1, "4", "n"), ("b", 50, "4", "m")], json!({"a": 0}), "m", vec!["b"]),
            (
                "what a budget gives",
                vec![("a", 1, "4", "n"), ("b", 50, "4", "m")],
                json!({"a": 1}),
                "n",
                vec!["a"],
            ),
            (
                "what can stay stays",
                vec![("a", 1, "3", "n"), ("b", 2, "500m", "n")],
                none,
                "n",
                vec!["a", "b"],
            ),
        ] {
            let (found, taken) = preempt(&placed, budgets, big());
            assert_eq!(
                (found.as_str(), taken),
                (node, victims.iter().map(ToString::to_string).collect()),
                "{what}"
            );
        }
        let half = pod("half", 100, "2");
        let (_, taken) = preempt(&[("a", 1, "2", "n"), ("b", 9, "2", "n")], json!({}), half);
        assert_eq!(taken, ["a"]);
    }

    #[test]
    fn why_there_is_no_room_to_be_made_is_said() {
        let (message, _) = preempt(&[("a", 100, "4", "n")], json!({}), pod("big", 100, "4"));
        assert_eq!(
            message,
            "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims \
             found for incoming pod."
        );
        let (message, _) = preempt(&[("a", 1, "4", "n")], json!({}), pod("huge", 100, "5"));
        assert_eq!(
            message,
            "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 Preemption is not \
             helpful for scheduling."
        );
        let mut meek = pod("big", 100, "4");
        Arc::make_mut(&mut meek.pod).spec.as_mut().unwrap().preemption_policy = Some("Never".into());
        let (message, _) = preempt(&[("a", 1, "4", "n")], json!({}), meek);
        assert_eq!(
            message,
            "0/1 nodes are available: 1 Insufficient cpu. preemption: not eligible due to preemptionPolicy=Never."
        );
    }
}
