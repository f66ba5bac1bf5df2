//! InterPodAffinity: a pod goes where the pods are that it must or wants to be with, and not where those are that it (or
//! they) will not be with.
//!
//! Upstream: pkg/scheduler/framework/plugins/interpodaffinity.

use std::collections::{BTreeSet, HashMap};

use crate::{
    cluster::{Cluster, NodeInfo, PodInfo},
    framework::{CycleState, Event, Hint, MAX_SCORE, Plugin, Rejection},
    index::{Domains, Saying, Selection},
    terms::Term,
};

/// The plugin.
pub struct InterPodAffinity;

const AFFINITY: &str = "node(s) didn't match pod affinity rules";
const ANTI_AFFINITY: &str = "node(s) didn't match pod anti-affinity rules";
const EXISTING: &str = "node(s) didn't satisfy existing pods anti-affinity rules";
/// What a pod that must be with this one adds to a node's score; upstream's hardPodAffinityWeight.
const REQUIRED_WEIGHT: i64 = 1;

/// Counts over the domains of one label.
struct Counts {
    topology_key: String,
    domains: Domains,
}

impl Counts {
    fn on(&self, node: &NodeInfo) -> Option<i64> {
        let domain = node.labels().get(&self.topology_key)?;
        Some(self.domains.get(domain).copied().unwrap_or_default())
    }
}

/// What filtering needs.
struct Filtering {
    /// Pods that match all that this one must be with, for each of its terms.
    affinity: Vec<Counts>,
    /// No such pod is anywhere, and this one would be its own first.
    is_first: bool,
    anti_affinity: Vec<Counts>,
    /// Domains of the pods that will not be with this one, by label.
    existing: HashMap<String, Vec<Domains>>,
}

/// What scoring needs: counts with their weight.
struct Scoring(Vec<(i64, Counts)>);

fn counts(cluster: &Cluster, matchers: &[&Term], topology_key: &str) -> Counts {
    let selection = Selection {
        matchers: matchers.iter().map(|term| term.matcher.clone()).collect(),
        topology_key: topology_key.to_owned(),
    };
    Counts { topology_key: topology_key.to_owned(), domains: cluster.selected(selection).domains }
}

impl Plugin for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }

    fn pre_filter(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        cluster: &Cluster,
    ) -> Result<Option<BTreeSet<String>>, Rejection> {
        let mut existing: HashMap<String, Vec<Domains>> = HashMap::new();
        for (term, domains) in cluster.said_of(Saying::AntiAffinity, pod) {
            existing.entry(term.topology_key.clone()).or_default().push(domains.clone());
        }
        let all: Vec<&Term> = pod.terms.affinity.iter().collect();
        let affinity: Vec<Counts> =
            all.iter().map(|term| counts(cluster, &all, &term.topology_key)).collect();
        let is_own = || all.iter().all(|term| term.matcher.matches(&pod.pod, cluster.namespaces()));
        state.put_for_cycle(Filtering {
            is_first: affinity.iter().all(|counts| counts.domains.is_empty()) && is_own(),
            affinity,
            anti_affinity: pod
                .terms
                .anti_affinity
                .iter()
                .map(|term| counts(cluster, &[term], &term.topology_key))
                .collect(),
            existing,
        });
        Ok(None)
    }

    fn filter(&self, state: &CycleState, _: &PodInfo, node: &NodeInfo, _: &Cluster) -> Result<(), Rejection> {
        let Some(filtering) = state.get::<Filtering>() else { return Ok(()) };
        let in_domains = filtering.affinity.iter().map(|counts| counts.on(node));
        let is_with = in_domains.clone().all(|count| count.is_some_and(|count| count > 0));
        if !is_with && !(filtering.is_first && in_domains.clone().all(|count| count.is_some())) {
            return Err(Rejection::unresolvable(self.name(), AFFINITY));
        }
        if filtering.anti_affinity.iter().any(|counts| counts.on(node).is_some_and(|count| count > 0)) {
            return Err(Rejection::new(self.name(), ANTI_AFFINITY));
        }
        for (key, domains) in &filtering.existing {
            if let Some(domain) = node.labels().get(key)
                && domains.iter().any(|domains| domains.contains_key(domain))
            {
                return Err(Rejection::new(self.name(), EXISTING));
            }
        }
        Ok(())
    }

    fn pre_score(&self, state: &mut CycleState, pod: &PodInfo, _: &[&NodeInfo], cluster: &Cluster) -> bool {
        let mut scoring = Vec::new();
        for (sign, terms) in [(1, &pod.terms.preferred_affinity), (-1, &pod.terms.preferred_anti_affinity)] {
            for (weight, term) in terms {
                scoring.push((sign * weight, counts(cluster, &[term], &term.topology_key)));
            }
        }
        for (saying, weight) in [
            (Saying::PreferredAffinity, 1),
            (Saying::PreferredAntiAffinity, -1),
            (Saying::Affinity, REQUIRED_WEIGHT),
        ] {
            for (term, domains) in cluster.said_of(saying, pod) {
                let topology_key = term.topology_key.clone();
                scoring.push((weight, Counts { topology_key, domains: domains.clone() }));
            }
        }
        let has_any = !scoring.is_empty();
        state.put_for_cycle(Scoring(scoring));
        has_any
    }

    fn score(&self, state: &CycleState, _: &PodInfo, node: &NodeInfo) -> i64 {
        let counts = state.get::<Scoring>().into_iter().flat_map(|scoring| &scoring.0);
        counts.map(|(weight, counts)| weight * counts.on(node).unwrap_or_default()).sum()
    }

    fn normalize(&self, scores: &mut [i64]) {
        let least = scores.iter().copied().min().unwrap_or_default();
        let spread = scores.iter().copied().max().unwrap_or_default() - least;
        for score in scores {
            *score = if spread == 0 { 0 } else { (*score - least) * MAX_SCORE / spread };
        }
    }

    fn hint(&self, pod: &PodInfo, event: &Event<'_>) -> Hint {
        let (with, without) = (&pod.terms.affinity, &pod.terms.anti_affinity);
        let is_wanted = |other: &PodInfo| with.iter().any(|term| term.matcher.may_match(&other.pod));
        let is_avoided = |other: &PodInfo| without.iter().any(|term| term.matcher.may_match(&other.pod));
        let avoids =
            |other: &PodInfo| other.terms.anti_affinity.iter().any(|term| term.matcher.may_match(&pod.pod));
        let helps = match event {
            Event::AssignedPodAdded(new) => is_wanted(new),
            Event::AssignedPodGone(old) => is_avoided(old) || avoids(old),
            Event::AssignedPodUpdated(old, new) => {
                is_wanted(new) && !is_wanted(old) || is_avoided(old) && !is_avoided(new)
            }
            Event::NodeAdded(_) | Event::PodUpdated(..) | Event::NamespacesChanged => true,
            Event::NodeUpdated(old, new) => old.metadata.labels != new.metadata.labels,
            Event::NodeGone(_) | Event::VolumesChanged(_) => false,
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

    fn term(app: &str, key: &str) -> Value {
        json!({"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": key})
    }

    fn required(kind: &str, terms: Value) -> Value {
        json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": terms}}})
    }

    fn preferred(kind: &str, term: Value) -> Value {
        let preferred = json!([{"weight": 10, "podAffinityTerm": term}]);
        json!({"affinity": {kind: {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}})
    }

    /// Three nodes, each a zone of its own; `db` runs on `a`.
    fn with_db(spec: Value) -> Cluster {
        let mut cluster = cluster([node("a", "4", "4Gi"), node("b", "4", "4Gi"), node("c", "4", "4Gi")]);
        cluster.set_pod(named_pod("db", json!({"app": "db"}), spec), "a");
        cluster
    }

    fn fits(cluster: &Cluster, pod: &PodInfo) -> Vec<Result<(), String>> {
        ["a", "b", "c"]
            .iter()
            .map(|name| filter(&InterPodAffinity, pod, cluster, name).map_err(|reasons| reasons.join(",")))
            .collect()
    }

    #[test]
    fn what_must_be_with_others_goes_to_them() {
        let cluster = with_db(json!({}));
        let no = || Err(AFFINITY.to_owned());
        let pod = |app: &str, to: &str, key: &str| {
            named_pod("web", json!({"app": app}), required("podAffinity", json!([term(to, key)])))
        };
        assert_eq!(fits(&cluster, &pod("web", "db", "zone")), [Ok(()), no(), no()]);
        assert_eq!(fits(&cluster, &pod("web", "none", "zone")), [no(), no(), no()]);
        assert_eq!(
            fits(&cluster, &pod("web", "web", "zone")),
            [Ok(()), Ok(()), Ok(())],
            "the first of its kind"
        );
        assert_eq!(fits(&cluster, &pod("web", "web", "rack")), [no(), no(), no()], "nodes have no rack");
    }

    #[test]
    fn what_must_not_be_with_others_stays_away_and_is_kept_away() {
        let alone = || required("podAntiAffinity", json!([term("db", "kubernetes.io/hostname")]));
        let web = named_pod("web", json!({"app": "web"}), alone());
        assert_eq!(fits(&with_db(json!({})), &web), [Err(ANTI_AFFINITY.to_owned()), Ok(()), Ok(())]);
        let shy = required("podAntiAffinity", json!([term("web", "zone")]));
        let plain = named_pod("web", json!({"app": "web"}), json!({}));
        let mut cluster = with_db(shy);
        assert_eq!(fits(&cluster, &plain), [Err(EXISTING.to_owned()), Ok(()), Ok(())]);
        cluster.remove_pod("db");
        assert_eq!(fits(&cluster, &plain), [Ok(()), Ok(()), Ok(())]);
    }

    #[test]
    fn namespaces_are_chosen_by_name_and_by_label() {
        let mut cluster = with_db(json!({}));
        let mut far = named_pod("far", json!({"app": "cache"}), json!({}));
        std::sync::Arc::make_mut(&mut far.pod).metadata.namespace = Some("other".into());
        cluster.set_pod(far, "b");
        cluster.set_namespace("other", Some([("team".to_owned(), "x".to_owned())].into()));
        let no = || Err(AFFINITY.to_owned());
        for (what, extra, expected) in [
            ("its own", json!({}), [no(), no(), no()]),
            ("by name", json!({"namespaces": ["other"]}), [no(), Ok(()), no()]),
            ("all", json!({"namespaceSelector": {}}), [no(), Ok(()), no()]),
            ("by label", json!({"namespaceSelector": {"matchLabels": {"team": "x"}}}), [no(), Ok(()), no()]),
            ("by another", json!({"namespaceSelector": {"matchLabels": {"team": "y"}}}), [no(), no(), no()]),
        ] {
            let mut term = term("cache", "zone");
            for (key, value) in extra.as_object().unwrap() {
                term[key] = value.clone();
            }
            let pod = named_pod("web", json!({}), required("podAffinity", json!([term])));
            assert_eq!(fits(&cluster, &pod), expected, "{what}");
        }
    }

    #[test]
    fn wishes_are_scores() {
        let near = named_pod("web", json!({"app": "web"}), preferred("podAffinity", term("db", "zone")));
        assert_eq!(scores(&InterPodAffinity, &near, &with_db(json!({}))), [100, 0, 0]);
        let far = named_pod("web", json!({"app": "web"}), preferred("podAntiAffinity", term("db", "zone")));
        assert_eq!(scores(&InterPodAffinity, &far, &with_db(json!({}))), [0, 100, 100]);
        let plain = named_pod("web", json!({"app": "web"}), json!({}));
        let wished = with_db(preferred("podAffinity", term("web", "zone")));
        assert_eq!(scores(&InterPodAffinity, &plain, &wished), [100, 0, 0], "others' wishes count too");
        assert_eq!(scores(&InterPodAffinity, &plain, &with_db(json!({}))), Vec::<i64>::new());
    }

    #[test]
    fn only_what_matters_wakes() {
        let pod = named_pod("web", json!({}), required("podAffinity", json!([term("db", "zone")])));
        let db = named_pod("db", json!({"app": "db"}), json!({}));
        let other = named_pod("o", json!({"app": "o"}), json!({}));
        assert_eq!(InterPodAffinity.hint(&pod, &Event::AssignedPodAdded(&db)), Hint::Queue);
        assert_eq!(InterPodAffinity.hint(&pod, &Event::AssignedPodAdded(&other)), Hint::Skip);
        assert_eq!(InterPodAffinity.hint(&pod, &Event::AssignedPodGone(&db)), Hint::Skip);
    }
}
