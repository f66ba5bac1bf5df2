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
    framework::{CycleState, Rejection, Weighted},
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unschedulable {
    /// The message of the event and the condition.
    pub message: String,
    /// Plugins that refused it: their hints say what could help.
    pub plugins: BTreeSet<&'static str>,
    /// Node on which room is being made.
    pub nominated_node: Option<String>,
}

/// Decides where a pod goes. `start` is the node to look at first and moves on, so that with many nodes all get
/// their turn.
pub fn schedule(
    pod: &PodInfo,
    cluster: &Cluster,
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
        Err(rejection) => return refuse(pod, cluster, profile, &state, all, vec![(all, rejection)]),
    };
    let (fitting, refused) = filter(&state, pod, cluster, profile, only.as_ref(), start);
    if fitting.is_empty() {
        let mut refused: Vec<(usize, Rejection)> =
            refused.into_iter().map(|rejection| (1, rejection)).collect();
        if let Some(only) = &only {
            let elsewhere = cluster.nodes().keys().filter(|name| !only.contains(*name)).count();
            if elsewhere > 0 {
                let reason = "node(s) didn't satisfy plugin(s) [NodeAffinity]";
                refused.push((elsewhere, Rejection::unresolvable("NodeAffinity", reason)));
            }
        }
        return refuse(pod, cluster, profile, &state, all, refused);
    }
    let node = choose(&mut state, pod, cluster, profile, &fitting, randomness).name().to_owned();
    Outcome::Placed { node, state }
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
) -> (Vec<&'a NodeInfo>, Vec<Rejection>) {
    let candidates: Vec<&NodeInfo> = match only {
        Some(names) => names.iter().filter_map(|name| cluster.nodes().get(name)).collect(),
        None => cluster.nodes().values().collect(),
    };
    let wanted = enough(candidates.len());
    let (mut fitting, mut refused) = (Vec::new(), Vec::new());
    let mut seen = 0;
    for step in 0..candidates.len() {
        let node = candidates[(*start + step) % candidates.len()];
        seen += 1;
        match profile.iter().try_for_each(|weighted| weighted.plugin.filter(state, pod, node)) {
            Ok(()) => fitting.push(node),
            Err(rejection) => refused.push(rejection),
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

fn refuse(
    pod: &PodInfo,
    cluster: &Cluster,
    profile: &[Weighted],
    state: &CycleState,
    nodes: usize,
    refused: Vec<(usize, Rejection)>,
) -> Outcome {
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    let mut plugins = BTreeSet::new();
    let by_pre_filter = refused.len() == 1 && refused[0].0 == nodes && nodes > 1;
    for (count, rejection) in refused {
        plugins.insert(rejection.plugin);
        for reason in rejection.reasons {
            *reasons.entry(reason).or_default() += count;
        }
    }
    let list: Vec<String> = reasons
        .into_iter()
        .map(|(reason, count)| if by_pre_filter { reason } else { format!("{count} {reason}") })
        .collect();
    let mut sorted = list;
    sorted.sort();
    let mut message = format!("0/{nodes} nodes are available: {}.", sorted.join(", "));
    let made_room = profile.iter().find_map(|weighted| weighted.plugin.post_filter(state, pod, cluster));
    let mut nominated_node = None;
    if let Some(made_room) = made_room {
        message.push(' ');
        message.push_str(&made_room.message);
        nominated_node = made_room.nominated_node;
    }
    Outcome::Unschedulable(Unschedulable { message, plugins, nominated_node })
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

    fn run(pod: &PodInfo, cluster: &Cluster) -> Result<String, String> {
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
            run(&pod_with(big), &cluster(nodes)).unwrap_err(),
            "0/3 nodes are available: 1 Insufficient memory, 1 node(s) had untolerated taint(s), 2 Insufficient cpu."
        );
        assert_eq!(
            run(&pod_with(json!({})), &cluster([])).unwrap_err(),
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
        assert_eq!(run(&pod_with(json!({})), &cluster).unwrap(), "b");
    }

    #[test]
    fn a_pod_goes_only_where_it_asks_to() {
        let cluster = cluster([node("a", "4", "4Gi"), node("b", "4", "4Gi")]);
        let selector = |value: &str| pod_with(json!({"nodeSelector": {"kubernetes.io/hostname": value}}));
        assert_eq!(run(&selector("b"), &cluster).unwrap(), "b");
        assert_eq!(
            run(&selector("z"), &cluster).unwrap_err(),
            "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector."
        );
    }

    #[test]
    fn of_many_nodes_only_some_are_looked_at() {
        for (nodes, wanted) in [(1, 1), (99, 99), (100, 100), (1000, 420), (5000, 500), (10_000, 500)] {
            assert_eq!(enough(nodes), wanted, "{nodes}");
        }
    }
}
