//! One pod's decision: filter the nodes, score those that fit, choose.
//!
//! Reads the cluster; returns a node or why there is none, in upstream's words. Pure but for the randomness it is
//! given. Not here: binding.
//!
//! Upstream: pkg/scheduler/schedule_one.go.

use std::collections::{BTreeMap, BTreeSet};

use foundation::Randomness;

use crate::{
    cluster::{Cluster, NodeInfo, PodInfo},
    framework::{CycleState, Refused, Rejection, Weighted},
};

/// With fewer nodes than this all are looked at; upstream's minFeasibleNodesToFind.
const FEW_NODES: usize = 100;

/// What became of a pod.
pub enum Outcome {
    /// It goes to this node.
    Placed {
        /// The node.
        node: String,
        /// What the plugins noted, for those that bind.
        state: CycleState,
    },
    /// It fits nowhere.
    Unschedulable(Unschedulable),
}

/// Why a pod fits nowhere.
#[derive(Clone, Debug, Default)]
pub struct Unschedulable {
    /// The message of the event and the condition.
    pub message: String,
    /// Plugins that refused it: their hints say what could help.
    pub plugins: BTreeSet<&'static str>,
    /// Node on which room is being made.
    pub nominated_node: Option<String>,
    /// Pods that have to go for it.
    pub victims: Vec<PodInfo>,
}

/// Decides where a pod goes. `start` is the node to look at first and moves on, so that with many nodes all get
/// their turn.
pub fn schedule(
    pod: &PodInfo,
    cluster: &mut Cluster,
    profile: &[Weighted],
    start: &mut usize,
    randomness: &dyn Randomness,
) -> Outcome {
    let all = cluster.nodes().len();
    if all == 0 {
        let message = "no nodes available to schedule pods".to_owned();
        return Outcome::Unschedulable(Unschedulable { message, ..Unschedulable::default() });
    }
    let mut state = CycleState::default();
    let only = match pre_filter(&mut state, pod, cluster, profile) {
        Ok(only) => only,
        Err(rejection) => {
            let reasons = rejection.reasons.join(", ");
            let plugins = BTreeSet::from([rejection.plugin]);
            let mut refused = Refused::default();
            if !rejection.unresolvable {
                let names = cluster.nodes().keys().cloned();
                refused.by_node = names.map(|name| (name, rejection.clone())).collect();
            }
            // The notes share the cluster's counts, which trying out changes.
            state.end_cycle();
            return refuse(pod, cluster, profile, reasons, plugins, &refused, randomness);
        }
    };
    // Where room was made for the pod it goes, if it fits there now.
    let nominated = cluster.nominated_node(pod.uid()).and_then(|name| cluster.nodes().get(name));
    if let Some(node) = nominated
        && only.as_ref().is_none_or(|only| only.contains(node.name()))
        && passes(&state, pod, cluster, profile, node).is_ok()
    {
        let node = node.name().to_owned();
        state.end_cycle();
        return Outcome::Placed { node, state };
    }
    let (fitting, refused) = filter(&state, pod, cluster, profile, only.as_ref(), start);
    if fitting.is_empty() {
        let mut counted: Vec<(usize, &Rejection)> =
            refused.by_node.values().map(|rejection| (1, rejection)).collect();
        let elsewhere =
            Rejection::unresolvable("NodeAffinity", "node(s) didn't satisfy plugin(s) [NodeAffinity]");
        if let Some(only) = &only {
            let number = cluster.nodes().keys().filter(|name| !only.contains(*name)).count();
            if number > 0 {
                counted.push((number, &elsewhere));
            }
        }
        let (reasons, plugins) = summary(&counted);
        state.end_cycle();
        return refuse(pod, cluster, profile, reasons, plugins, &refused, randomness);
    }
    let node = choose(&mut state, pod, cluster, profile, &fitting, randomness).name().to_owned();
    state.end_cycle();
    Outcome::Placed { node, state }
}

/// Whether a pod fits on one node.
pub(crate) fn fits(
    pod: &PodInfo,
    cluster: &Cluster,
    profile: &[Weighted],
    node: &str,
) -> Result<(), Rejection> {
    let mut state = CycleState::default();
    let only = pre_filter(&mut state, pod, cluster, profile)?;
    match cluster.nodes().get(node) {
        Some(info) if only.is_none_or(|only| only.contains(node)) => {
            passes(&state, pod, cluster, profile, info)
        }
        _ => Err(Rejection::unresolvable("NodeName", "node is not available")),
    }
}

/// Whether all filters let a pod pass: as the node is, and with those pods on it that room is being made for.
fn passes(
    state: &CycleState,
    pod: &PodInfo,
    cluster: &Cluster,
    profile: &[Weighted],
    node: &NodeInfo,
) -> Result<(), Rejection> {
    let all = |node: &NodeInfo| {
        profile.iter().try_for_each(|weighted| weighted.plugin.filter(state, pod, node, cluster))
    };
    all(node)?;
    let nominated = cluster.nominated_before(node.name(), pod);
    if nominated.is_empty() { Ok(()) } else { all(&node.with(nominated)) }
}

fn pre_filter(
    state: &mut CycleState,
    pod: &PodInfo,
    cluster: &Cluster,
    profile: &[Weighted],
) -> Result<Option<BTreeSet<String>>, Rejection> {
    let mut only: Option<BTreeSet<String>> = None;
    for weighted in profile {
        if let Some(names) = weighted.plugin.pre_filter(state, pod, cluster)? {
            only = Some(match only {
                Some(before) => before.intersection(&names).cloned().collect(),
                None => names,
            });
        }
    }
    Ok(only)
}

/// How many fitting nodes are enough to choose among: all of few, down to a twentieth of very many.
fn enough(nodes: usize) -> usize {
    if nodes < FEW_NODES {
        return nodes;
    }
    let percent = 50_usize.saturating_sub(nodes / 125).max(5);
    (nodes * percent / 100).max(FEW_NODES)
}

fn filter<'a>(
    state: &CycleState,
    pod: &PodInfo,
    cluster: &'a Cluster,
    profile: &[Weighted],
    only: Option<&BTreeSet<String>>,
    start: &mut usize,
) -> (Vec<&'a NodeInfo>, Refused) {
    let candidates: Vec<&NodeInfo> = match only {
        Some(names) => names.iter().filter_map(|name| cluster.nodes().get(name)).collect(),
        None => cluster.nodes().values().collect(),
    };
    let wanted = enough(candidates.len());
    let (mut fitting, mut refused) = (Vec::new(), Refused::default());
    let mut seen = 0;
    for step in 0..candidates.len() {
        let node = candidates[(*start + step) % candidates.len()];
        seen += 1;
        match passes(state, pod, cluster, profile, node) {
            Ok(()) => fitting.push(node),
            Err(rejection) => drop(refused.by_node.insert(node.name().to_owned(), rejection)),
        }
        if fitting.len() >= wanted {
            break;
        }
    }
    *start = if candidates.is_empty() { 0 } else { (*start + seen) % candidates.len() };
    (fitting, refused)
}

fn choose<'a>(
    state: &mut CycleState,
    pod: &PodInfo,
    cluster: &Cluster,
    profile: &[Weighted],
    nodes: &[&'a NodeInfo],
    randomness: &dyn Randomness,
) -> &'a NodeInfo {
    if let [only] = nodes {
        return only;
    }
    let mut totals = vec![0_i64; nodes.len()];
    for weighted in profile.iter().filter(|weighted| weighted.weight > 0) {
        if !weighted.plugin.pre_score(state, pod, nodes, cluster) {
            continue;
        }
        let mut scores: Vec<i64> = nodes.iter().map(|node| weighted.plugin.score(state, pod, node)).collect();
        weighted.plugin.normalize(&mut scores);
        for (total, score) in totals.iter_mut().zip(scores) {
            *total += score * weighted.weight;
        }
    }
    let best = totals.iter().copied().max().unwrap_or_default();
    let ties: Vec<usize> = (0..nodes.len()).filter(|index| totals[*index] == best).collect();
    nodes[ties[randomness.below(ties.len() as u64) as usize]]
}

/// The reasons with how many nodes gave each, and the plugins that gave them.
fn summary(refused: &[(usize, &Rejection)]) -> (String, BTreeSet<&'static str>) {
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    let mut plugins = BTreeSet::new();
    for (count, rejection) in refused {
        plugins.insert(rejection.plugin);
        for reason in &rejection.reasons {
            *reasons.entry(reason).or_default() += count;
        }
    }
    let mut list: Vec<String> =
        reasons.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    list.sort();
    (list.join(", "), plugins)
}

fn refuse(
    pod: &PodInfo,
    cluster: &mut Cluster,
    profile: &[Weighted],
    reasons: String,
    plugins: BTreeSet<&'static str>,
    refused: &Refused,
    randomness: &dyn Randomness,
) -> Outcome {
    let mut why = Unschedulable {
        message: format!("0/{} nodes are available: {reasons}.", cluster.nodes().len()),
        plugins,
        ..Unschedulable::default()
    };
    let made_room = profile
        .iter()
        .find_map(|weighted| weighted.plugin.post_filter(pod, cluster, refused, profile, randomness));
    if let Some(made_room) = made_room {
        if !made_room.message.is_empty() {
            why.message.push(' ');
            why.message.push_str(&made_room.message);
        }
        why.nominated_node = made_room.nominated_node;
        why.victims = made_room.victims;
    }
    Outcome::Unschedulable(why)
}

#[cfg(test)]
mod tests {
    use foundation::SeededRandomness;
    use serde_json::json;

    use super::*;
    use crate::{
        framework::testing::{cluster, node, node_with, pod_with},
        plugins,
    };

    fn run(pod: &PodInfo, cluster: &mut Cluster) -> Result<String, String> {
        let profile = plugins::default_profile();
        match schedule(pod, cluster, &profile, &mut 0, &SeededRandomness::new(1)) {
            Outcome::Placed { node, .. } => Ok(node),
            Outcome::Unschedulable(why) => Err(why.message),
        }
    }

    #[test]
    fn the_message_counts_reasons_as_upstream_does() {
        let taint = json!({"taints": [{"key": "dedicated", "value": "x", "effect": "NoSchedule"}]});
        let room = json!({"allocatable": {"cpu": "8", "memory": "8Gi", "pods": "10"}});
        let nodes = [node("a", "1", "1Gi"), node("b", "1", "8Gi"), node_with("c", taint, room)];
        let big =
            json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "2", "memory": "2Gi"}}}]});
        assert_eq!(
            run(&pod_with(big), &mut cluster(nodes)).unwrap_err(),
            "0/3 nodes are available: 1 Insufficient memory, 1 node(s) had untolerated taint(s), 2 Insufficient cpu. \
             preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling."
        );
        assert_eq!(
            run(&pod_with(json!({})), &mut cluster([])).unwrap_err(),
            "no nodes available to schedule pods"
        );
    }

    #[test]
    fn the_emptier_node_is_chosen() {
        let mut cluster = cluster([node("a", "4", "4Gi"), node("b", "4", "4Gi")]);
        let load =
            json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "2", "memory": "2Gi"}}}]});
        let mut other = pod_with(load);
        std::sync::Arc::make_mut(&mut other.pod).metadata.uid = Some("other".into());
        cluster.set_pod(other, "a");
        assert_eq!(run(&pod_with(json!({})), &mut cluster).unwrap(), "b");
    }

    #[test]
    fn a_pod_goes_only_where_it_asks_to() {
        let mut cluster = cluster([node("a", "4", "4Gi"), node("b", "4", "4Gi")]);
        let selector = |value: &str| pod_with(json!({"nodeSelector": {"kubernetes.io/hostname": value}}));
        assert_eq!(run(&selector("b"), &mut cluster).unwrap(), "b");
        assert_eq!(
            run(&selector("z"), &mut cluster).unwrap_err(),
            "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector. preemption: 0/2 nodes are \
             available: 2 Preemption is not helpful for scheduling."
        );
    }

    #[test]
    fn of_many_nodes_only_some_are_looked_at() {
        for (nodes, wanted) in [(1, 1), (99, 99), (100, 100), (1000, 420), (5000, 500), (10_000, 500)] {
            assert_eq!(enough(nodes), wanted, "{nodes}");
        }
    }
}
