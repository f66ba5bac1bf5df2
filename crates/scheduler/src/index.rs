//! How many pods of which sort are where: what the plugins that look at other pods ask, answered without looking at them.
//!
//! Two questions. *How many pods that match X are in each domain of label K?* is kept for the X that pending pods have asked
//! about. *Which domains hold pods that say Y about others?* is kept for all Y. Both are brought up to date with each pod
//! and node that changes, so that a decision costs what its terms cost, not what the cluster holds.
//! Pure. Not here: what the answers mean (the plugins).
//!
//! Upstream has no such index: its PreFilters walk all nodes and pods in each cycle.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use parking_lot::Mutex;

use crate::cluster::{NodeInfo, PodInfo};
use crate::terms::{Labels, Matcher, Namespaces, PodTerms, Term};

/// Counts by the value of a node label.
pub type Domains = Arc<HashMap<String, i64>>;

/// More selections than this are forgotten when another is asked for: those that nobody has asked for the longest.
const SELECTIONS: usize = 1024;

/// Which pods are counted over which domains: those that match *all* of the matchers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Selection {
    /// The pods.
    pub matchers: Vec<Matcher>,
    /// The label of nodes that makes domains.
    pub topology_key: String,
}

/// What is known of a selection.
#[derive(Clone, Debug, Default)]
pub struct Selected {
    /// Pods in each domain that has some.
    pub domains: Domains,
    /// Pods on each node that has some.
    pub nodes: Domains,
    /// How many domains there are in all.
    pub number: usize,
    /// Pods in the emptiest domain.
    pub least: i64,
    /// Whether every node is in some domain.
    pub is_everywhere: bool,
}

#[derive(Debug, Default)]
struct Kept {
    domains: Domains,
    nodes: Domains,
    /// How many domains have so many pods.
    histogram: BTreeMap<i64, usize>,
    asked: u64,
}

/// What pods say of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Saying {
    /// Must not be with.
    AntiAffinity,
    /// Must be with.
    Affinity,
    /// Wants to be with.
    PreferredAffinity,
    /// Wants not to be with.
    PreferredAntiAffinity,
}

/// The index.
#[derive(Debug, Default)]
pub struct Index {
    /// Filled when asked, hence the lock; only the scheduler's own task takes it.
    selections: Mutex<Selections>,
    sayings: HashMap<Saying, HashMap<Term, Domains>>,
    /// Nodes in each domain of each label.
    topologies: HashMap<String, HashMap<String, usize>>,
    nodes: usize,
}

#[derive(Debug, Default)]
struct Selections {
    kept: HashMap<Arc<Selection>, Kept>,
    asked: u64,
}

fn add(domains: &mut Domains, domain: &str, more: i64) -> (i64, i64) {
    let domains = Arc::make_mut(domains);
    match domains.get_mut(domain) {
        Some(count) => {
            let before = *count;
            *count += more;
            let after = *count;
            if after == 0 {
                domains.remove(domain);
            }
            (before, after)
        }
        None => {
            if more != 0 {
                domains.insert(domain.to_owned(), more);
            }
            (0, more)
        }
    }
}

impl Kept {
    fn moved(&mut self, before: i64, after: i64) {
        if let Some(number) = self.histogram.get_mut(&before) {
            *number -= 1;
            if *number == 0 {
                self.histogram.remove(&before);
            }
        }
        *self.histogram.entry(after).or_default() += 1;
    }

    fn count(&mut self, node: &str, domain: Option<&str>, more: i64) {
        add(&mut self.nodes, node, more);
        if let Some(domain) = domain {
            let (before, after) = add(&mut self.domains, domain, more);
            self.moved(before, after);
        }
    }

    /// A domain has come (1) or gone (-1), empty.
    fn domain(&mut self, change: i64) {
        let number = self.histogram.entry(0).or_default();
        *number = number.saturating_add_signed(change as isize);
        if *number == 0 {
            self.histogram.remove(&0);
        }
    }
}

fn label<'a>(labels: &'a Labels, key: &str) -> Option<&'a str> {
    labels.get(key).map(String::as_str)
}

impl Index {
    /// A node is there, with no pods yet.
    pub(crate) fn add_node(&mut self, labels: &Labels) {
        self.nodes += 1;
        self.node_labels(labels, 1);
    }

    /// A node without pods is gone.
    pub(crate) fn remove_node(&mut self, labels: &Labels) {
        self.nodes = self.nodes.saturating_sub(1);
        self.node_labels(labels, -1);
    }

    fn node_labels(&mut self, labels: &Labels, change: isize) {
        let mut selections = self.selections.lock();
        for (key, value) in labels {
            let values = self.topologies.entry(key.clone()).or_default();
            let number = values.entry(value.clone()).or_default();
            let before = *number;
            *number = before.saturating_add_signed(change);
            let appears = (before == 0) != (*number == 0);
            if *number == 0 {
                values.remove(value);
            }
            if appears {
                for (selection, kept) in &mut selections.kept {
                    if selection.topology_key == *key {
                        kept.domain(change as i64);
                    }
                }
            }
        }
        self.topologies.retain(|_, values| !values.is_empty());
    }

    /// A pod is on a node (1) or no longer (-1).
    pub(crate) fn pod(
        &mut self,
        pod: &PodInfo,
        node: &str,
        labels: &Labels,
        namespaces: &Namespaces,
        change: i64,
    ) {
        for (selection, kept) in &mut self.selections.lock().kept {
            if selection.matchers.iter().all(|matcher| matcher.matches(&pod.pod, namespaces)) {
                kept.count(node, label(labels, &selection.topology_key), change);
            }
        }
        for (saying, weight, term) in sayings(&pod.terms) {
            let Some(domain) = label(labels, &term.topology_key) else { continue };
            let terms = self.sayings.entry(saying).or_default();
            let domains = terms.entry(term.clone()).or_default();
            add(domains, domain, weight * change);
            if domains.is_empty() {
                terms.remove(term);
            }
        }
    }

    /// The labels of namespaces have changed: selections that ask for them are counted anew when asked for again.
    pub(crate) fn namespaces_changed(&mut self) {
        self.selections.lock().kept.retain(|selection, _| {
            selection.matchers.iter().all(|matcher| matcher.namespace_selector.is_none())
        });
    }

    /// The counts of a selection; counted over all pods the first time, kept up to date from then on.
    pub fn selected(
        &self,
        selection: Selection,
        nodes: &BTreeMap<String, NodeInfo>,
        namespaces: &Namespaces,
    ) -> Selected {
        let number_of = self.topologies.get(&selection.topology_key);
        let mut selections = self.selections.lock();
        selections.asked += 1;
        let asked = selections.asked;
        if !selections.kept.contains_key(&selection) {
            if selections.kept.len() >= SELECTIONS
                && let Some(oldest) = selections.kept.iter().min_by_key(|(_, kept)| kept.asked)
            {
                let oldest = oldest.0.clone();
                selections.kept.remove(&oldest);
            }
            let mut kept = Kept::default();
            if let Some(values) = number_of {
                kept.histogram.insert(0, values.len());
            }
            for node in nodes.values() {
                let domain = label(node.labels(), &selection.topology_key);
                for pod in node.pods.values() {
                    if selection.matchers.iter().all(|matcher| matcher.matches(&pod.pod, namespaces)) {
                        kept.count(node.name(), domain, 1);
                    }
                }
            }
            selections.kept.insert(Arc::new(selection.clone()), kept);
        }
        let number = number_of.map_or(0, HashMap::len);
        let in_domains: usize = if number == self.nodes {
            // One domain per node (the host name): no need to add up.
            number
        } else {
            number_of.map_or(0, |values| values.values().sum())
        };
        match selections.kept.get_mut(&selection) {
            None => Selected::default(),
            Some(kept) => {
                kept.asked = asked;
                Selected {
                    domains: kept.domains.clone(),
                    nodes: kept.nodes.clone(),
                    number,
                    least: kept.histogram.first_key_value().map_or(0, |(least, _)| *least),
                    is_everywhere: in_domains == self.nodes,
                }
            }
        }
    }

    /// The domains of the pods that say this, for each term that says it of `pod`: sums of weights (1 for what must be).
    pub fn said_of<'a>(
        &'a self,
        saying: Saying,
        pod: &'a PodInfo,
        namespaces: &'a Namespaces,
    ) -> impl Iterator<Item = (&'a Term, &'a Domains)> {
        let terms = self.sayings.get(&saying).into_iter().flatten();
        terms.filter(move |(term, _)| term.matcher.matches(&pod.pod, namespaces))
    }
}

fn sayings(terms: &PodTerms) -> impl Iterator<Item = (Saying, i64, &Term)> {
    let once = |saying| move |term| (saying, 1_i64, term);
    let anti = terms.anti_affinity.iter().map(once(Saying::AntiAffinity));
    let with = terms.affinity.iter().map(once(Saying::Affinity));
    let wants =
        terms.preferred_affinity.iter().map(|(weight, term)| (Saying::PreferredAffinity, *weight, term));
    let avoids = terms
        .preferred_anti_affinity
        .iter()
        .map(|(weight, term)| (Saying::PreferredAntiAffinity, *weight, term));
    anti.chain(with).chain(wants).chain(avoids)
}

#[cfg(test)]
mod tests;
