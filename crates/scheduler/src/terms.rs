//! What a pod says about other pods: affinity terms and spread constraints, read once per pod.
//!
//! Pure. Not here: counting what matches (`index`), what follows (`plugins/inter_pod_affinity`,
//! `plugins/pod_topology_spread`).
//!
//! Upstream: pkg/scheduler/framework/types.go (`AffinityTerm`), plugins/podtopologyspread/common.go.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, OnceLock},
};

use api::{
    meta::{LabelSelector, LabelSelectorRequirement},
    selector::labels::Selector,
    types::core::v1::{Pod, PodAffinityTerm, TopologySpreadConstraint},
};

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// The labels of namespaces, by name.
pub type Namespaces = BTreeMap<String, Labels>;

/// Which pods are meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Matcher {
    /// Their namespaces, by name …
    pub namespaces: BTreeSet<String>,
    /// … or by labels.
    pub namespace_selector: Option<Selector>,
    /// Their labels.
    pub labels: Selector,
    /// Only those that are not being deleted.
    pub only_living: bool,
}

impl Matcher {
    /// Whether a pod may be one of them, as far as can be told without the labels of its namespace.
    pub fn may_match(&self, pod: &Pod) -> bool {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        (self.namespaces.contains(namespace) || self.namespace_selector.is_some())
            && self.labels.matches(labels_of(pod))
    }

    /// Whether a pod is one of them.
    pub fn matches(&self, pod: &Pod, namespaces: &Namespaces) -> bool {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let within = self.namespaces.contains(namespace)
            || self.namespace_selector.as_ref().is_some_and(|selector| {
                selector.is_everything()
                    || namespaces.get(namespace).is_some_and(|labels| selector.matches(labels))
            });
        within
            && !(self.only_living && pod.metadata.deletion_timestamp.is_some())
            && self.labels.matches(labels_of(pod))
    }
}

/// Pods, and the label of nodes that says which nodes are together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Term {
    /// The pods.
    pub matcher: Matcher,
    /// The label.
    pub topology_key: String,
}

/// A spread constraint.
#[derive(Clone, Debug, PartialEq)]
pub struct Spread {
    /// What is spread over what.
    pub term: Term,
    /// By how much one domain may exceed the emptiest.
    pub max_skew: i64,
    /// With fewer domains than this, the emptiest counts as empty.
    pub min_domains: Option<i64>,
    /// Whether it must hold, or is a wish.
    pub required: bool,
    /// Whether nodes that the pod's node affinity excludes count as well.
    pub counts_unselected_nodes: bool,
    /// Whether nodes whose taints the pod does not tolerate are left out.
    pub leaves_out_tainted_nodes: bool,
}

/// All that a pod says about others.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodTerms {
    /// Must be with.
    pub affinity: Vec<Term>,
    /// Must not be with.
    pub anti_affinity: Vec<Term>,
    /// Wants to be with, by weight.
    pub preferred_affinity: Vec<(i64, Term)>,
    /// Wants not to be with, by weight.
    pub preferred_anti_affinity: Vec<(i64, Term)>,
    /// How it is spread with its like.
    pub spread: Vec<Spread>,
}

/// The labels of a pod.
pub fn labels_of(pod: &Pod) -> &Labels {
    static NONE: OnceLock<Labels> = OnceLock::new();
    pod.metadata.labels.as_ref().unwrap_or_else(|| NONE.get_or_init(Labels::new))
}

impl PodTerms {
    /// Reads a pod. Pods that say nothing (most do) share one value.
    pub fn of(pod: &Pod) -> Arc<PodTerms> {
        static NOTHING: OnceLock<Arc<PodTerms>> = OnceLock::new();
        let terms = Self::read(pod);
        if terms == PodTerms::default() {
            return NOTHING.get_or_init(Arc::default).clone();
        }
        Arc::new(terms)
    }

    fn read(pod: &Pod) -> PodTerms {
        let Some(spec) = &pod.spec else { return PodTerms::default() };
        let mut terms = PodTerms::default();
        let (with, without) = match &spec.affinity {
            Some(affinity) => (affinity.pod_affinity.clone(), affinity.pod_anti_affinity.clone()),
            None => (None, None),
        };
        if let Some(with) = with {
            let required = with.required_during_scheduling_ignored_during_execution;
            terms.affinity = required.iter().flatten().map(|one| term(pod, one)).collect();
            let preferred = with.preferred_during_scheduling_ignored_during_execution;
            terms.preferred_affinity = preferred
                .iter()
                .flatten()
                .map(|one| (i64::from(one.weight), term(pod, &one.pod_affinity_term)))
                .collect();
        }
        if let Some(without) = without {
            let required = without.required_during_scheduling_ignored_during_execution;
            terms.anti_affinity = required.iter().flatten().map(|one| term(pod, one)).collect();
            let preferred = without.preferred_during_scheduling_ignored_during_execution;
            terms.preferred_anti_affinity = preferred
                .iter()
                .flatten()
                .map(|one| (i64::from(one.weight), term(pod, &one.pod_affinity_term)))
                .collect();
        }
        terms.spread =
            spec.topology_spread_constraints.iter().flatten().map(|one| spread(pod, one)).collect();
        terms
    }

    /// Whether the pod says nothing about others.
    pub fn is_empty(&self) -> bool {
        *self == PodTerms::default()
    }
}

fn own_namespace(pod: &Pod) -> String {
    pod.metadata.namespace.clone().unwrap_or_default()
}

/// A selector with the pod's own values of some labels added to what it asks for. None selects nothing.
fn selector(
    pod: &Pod,
    selector: Option<&LabelSelector>,
    same: Option<&Vec<String>>,
    other: Option<&Vec<String>>,
) -> Selector {
    let Some(mut whole) = selector.cloned() else { return Selector::nothing() };
    for (keys, operator) in [(same, "In"), (other, "NotIn")] {
        for key in keys.into_iter().flatten() {
            let Some(value) = labels_of(pod).get(key) else { continue };
            whole.match_expressions.get_or_insert_default().push(LabelSelectorRequirement {
                key: key.clone(),
                operator: operator.to_owned(),
                values: Some(vec![value.clone()]),
            });
        }
    }
    // What validation has let through parses.
    Selector::from_label_selector(Some(&whole)).unwrap_or_else(|_| Selector::nothing())
}

fn term(pod: &Pod, term: &PodAffinityTerm) -> Term {
    let namespaces: BTreeSet<String> = term.namespaces.iter().flatten().cloned().collect();
    let namespaces = if namespaces.is_empty() && term.namespace_selector.is_none() {
        BTreeSet::from([own_namespace(pod)])
    } else {
        namespaces
    };
    let by_labels = term.namespace_selector.as_ref();
    Term {
        matcher: Matcher {
            namespaces,
            namespace_selector: by_labels.and_then(|one| Selector::from_label_selector(Some(one)).ok()),
            labels: selector(
                pod,
                term.label_selector.as_ref(),
                term.match_label_keys.as_ref(),
                term.mismatch_label_keys.as_ref(),
            ),
            only_living: false,
        },
        topology_key: term.topology_key.clone(),
    }
}

fn spread(pod: &Pod, constraint: &TopologySpreadConstraint) -> Spread {
    Spread {
        term: Term {
            matcher: Matcher {
                namespaces: BTreeSet::from([own_namespace(pod)]),
                namespace_selector: None,
                labels: selector(
                    pod,
                    constraint.label_selector.as_ref(),
                    constraint.match_label_keys.as_ref(),
                    None,
                ),
                only_living: true,
            },
            topology_key: constraint.topology_key.clone(),
        },
        max_skew: constraint.max_skew.into(),
        min_domains: constraint.min_domains.map(i64::from),
        required: constraint.when_unsatisfiable == "DoNotSchedule",
        counts_unselected_nodes: constraint.node_affinity_policy.as_deref() == Some("Ignore"),
        leaves_out_tainted_nodes: constraint.node_taints_policy.as_deref() == Some("Honor"),
    }
}
