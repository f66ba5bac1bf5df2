//! What the kernel is to hold for all Services together: each key once.
//!
//! Reads the Services' plans. An entry that several Services ask for is given to one of them, the same on every node:
//! allocated entries go before requested ones, older Services before younger ones. The others get it when that one lets
//! it go. Were it given to all, the kernel would refuse the whole transaction. Elements that several Services need are
//! counted. Pure. Not here: telling the kernel (`kernel`).
//!
//! Upstream: pkg/proxy/nftables, which writes the first of them that it comes to.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::Ipv4Addr,
};

use jiff::Timestamp;
use sys::nftables::Element;

use crate::{
    plan::{Backend, Claim, Elements, EntryPlan, ServicePlan},
    ruleset::{Balance, Entry, SetName},
};

/// Transport protocol number of UDP: the one whose stale connections live on without either side noticing.
pub(crate) const UDP: u8 = 17;

/// Addresses that are translated, with where to.
pub(crate) type Targets = BTreeMap<(Ipv4Addr, u16), BTreeSet<Backend>>;

/// Who asks for an entry; the least has it. No time (a Service that no server has made) is before all others.
type Claimant = (Claim, Option<Timestamp>, String);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    plans: HashMap<String, ServicePlan>,
    claims: HashMap<Entry, BTreeSet<Claimant>>,
    counts: HashMap<(SetName, Element), u32>,
}

/// What became different.
#[derive(Debug, Default)]
pub(crate) struct Change {
    /// Elements that are no longer wanted.
    pub(crate) gone: Elements,
    /// Elements that were not wanted before.
    pub(crate) fresh: Elements,
    /// Chains of the entries that changed.
    pub(crate) chains: BTreeSet<Balance>,
    /// UDP entries whose endpoints changed, with those they have now.
    pub(crate) stale: Targets,
}

impl Wanted {
    /// Puts new plans in the place of those of the same Services.
    pub(crate) fn replace(&mut self, changes: Vec<(String, ServicePlan)>) -> Change {
        let mut before: BTreeMap<Entry, Option<EntryPlan>> = BTreeMap::new();
        let mut counted: BTreeMap<(SetName, Element), u32> = BTreeMap::new();
        for (service, plan) in changes {
            let old = self.plans.remove(&service).unwrap_or_default();
            for entry in old.entries.keys().chain(plan.entries.keys()) {
                before.entry(*entry).or_insert_with(|| {
                    // The old plan is out of the map already.
                    let owner = self.owner(entry)?;
                    let plan = if owner == service { &old } else { self.plans.get(owner)? };
                    plan.entries.get(entry).cloned()
                });
            }
            for (entry, wanted) in &old.entries {
                self.unclaim(*entry, &(wanted.claim, old.created, service.clone()));
            }
            for (entry, wanted) in &plan.entries {
                let claimants = self.claims.entry(*entry).or_default();
                claimants.insert((wanted.claim, plan.created, service.clone()));
            }
            self.count(&mut counted, &old.shared, -1);
            self.count(&mut counted, &plan.shared, 1);
            if plan != ServicePlan::default() {
                self.plans.insert(service, plan);
            }
        }
        let mut change = Change::default();
        for (entry, old) in before {
            let new = self.holder(&entry).cloned();
            if new == old {
                continue;
            }
            self.count(&mut counted, old.iter().flat_map(|plan| &plan.elements), -1);
            self.count(&mut counted, new.iter().flat_map(|plan| &plan.elements), 1);
            change.chains.extend(new.as_ref().and_then(|plan| plan.chain));
            let backends = |plan: &Option<EntryPlan>| plan.as_ref().map(|plan| plan.backends.clone());
            if let Entry::Address(ip, UDP, port) = entry
                && backends(&old) != backends(&new)
            {
                change.stale.insert((ip, port), backends(&new).unwrap_or_default());
            }
        }
        for (element, before) in counted {
            let now = self.counts.get(&element).copied().unwrap_or_default();
            if now == 0 {
                self.counts.remove(&element);
            }
            match (before, now) {
                (0, 1..) => drop(change.fresh.insert(element)),
                (1.., 0) => drop(change.gone.insert(element)),
                _ => {}
            }
        }
        change
    }

    /// The chains of all entries.
    pub(crate) fn chains(&self) -> impl Iterator<Item = Balance> {
        self.claims.keys().filter_map(|entry| self.holder(entry)?.chain)
    }

    /// The elements of a set or map.
    pub(crate) fn elements_of(&self, set: SetName) -> impl Iterator<Item = &Element> {
        self.counts.keys().filter(move |(name, _)| *name == set).map(|(_, element)| element)
    }

    fn owner(&self, entry: &Entry) -> Option<&str> {
        self.claims.get(entry)?.first().map(|(_, _, service)| service.as_str())
    }

    fn holder(&self, entry: &Entry) -> Option<&EntryPlan> {
        self.plans.get(self.owner(entry)?)?.entries.get(entry)
    }

    fn unclaim(&mut self, entry: Entry, claimant: &Claimant) {
        if let Some(claimants) = self.claims.get_mut(&entry) {
            claimants.remove(claimant);
            if claimants.is_empty() {
                self.claims.remove(&entry);
            }
        }
    }

    /// Adds to the counts of elements; `before` keeps what they were first.
    fn count<'a>(
        &mut self,
        before: &mut BTreeMap<(SetName, Element), u32>,
        elements: impl IntoIterator<Item = &'a (SetName, Element)>,
        more: i32,
    ) {
        for element in elements {
            let count = self.counts.entry(element.clone()).or_default();
            before.entry(element.clone()).or_insert(*count);
            *count = count.saturating_add_signed(more);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use api::types::{core::v1::Service, discovery::v1::EndpointSlice};
    use serde_json::{Value, json};

    use super::*;
    use crate::plan::{self, Here};

    /// A Service made at a second of the epoch, with one endpoint.
    fn planned(created: i64, spec: &Value, endpoint: &str) -> ServicePlan {
        let created = Timestamp::from_second(created).unwrap().to_string();
        let service: Service = serde_json::from_value(
            json!({"metadata": {"name": "s", "creationTimestamp": created}, "spec": spec}),
        )
        .unwrap();
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": {"name": "s-1"}, "addressType": "IPv4", "endpoints": [{"addresses": [endpoint]}],
            "ports": [{"name": "", "port": 8080, "protocol": "TCP"}, {"name": "", "port": 53, "protocol": "UDP"}],
        }))
        .unwrap();
        plan::plan(&service, &[Arc::new(slice)], &Here { node_name: "here".into() })
    }

    fn spec(cluster_ip: &str, external: &[&str]) -> Value {
        json!({"clusterIPs": [cluster_ip], "externalIPs": external,
            "ports": [{"port": 80}, {"port": 53, "protocol": "UDP"}]})
    }

    /// Where an address leads at port 80. Panics if the kernel would have to refuse what is wanted.
    fn target(wanted: &Wanted, ip: &str) -> Option<String> {
        let mut keys = BTreeSet::new();
        for (set, element) in wanted.counts.keys() {
            assert!(keys.insert((*set, element.key.clone())), "two values for one key of {set:?}");
        }
        let key = Entry::Address(ip.parse().unwrap(), 6, 80).key();
        let found = wanted.elements_of(SetName::ServiceEndpoints).find(|e| e.key.starts_with(&key))?;
        let Some(sys::nftables::Data::Value(target)) = &found.data else { return None };
        Some(format!("{}.{}.{}.{}", target[0], target[1], target[2], target[3]))
    }

    #[test]
    fn one_service_has_what_several_ask_for() {
        const SHARED: &str = "192.0.2.1";
        let older = || planned(1, &spec("10.43.0.1", &[SHARED]), "10.42.0.1");
        let younger = || planned(2, &spec("10.43.0.2", &[SHARED]), "10.42.0.2");
        let thief = || planned(0, &spec("10.43.0.3", &["10.43.0.2"]), "10.42.0.3");
        let own = || planned(3, &spec("10.43.0.4", &["10.43.0.4"]), "10.42.0.4");
        let gone = ServicePlan::default;
        let cases = [
            ("the older one", vec![("z", older()), ("a", younger())], SHARED, Some("10.42.0.1")),
            ("whatever comes first", vec![("a", younger()), ("z", older())], SHARED, Some("10.42.0.1")),
            (
                "the next when that goes",
                vec![("z", older()), ("a", younger()), ("z", gone())],
                SHARED,
                Some("10.42.0.2"),
            ),
            ("nobody", vec![("z", older()), ("a", younger()), ("a", gone()), ("z", gone())], SHARED, None),
            (
                "whose cluster address it is",
                vec![("t", thief()), ("a", younger())],
                "10.43.0.2",
                Some("10.42.0.2"),
            ),
            ("its own as an external one", vec![("o", own())], "10.43.0.4", Some("10.42.0.4")),
        ];
        for (name, steps, ip, expected) in cases {
            // One by one and all at once lead to the same.
            let mut stepwise = Wanted::default();
            for (service, plan) in steps.clone() {
                stepwise.replace(vec![(service.to_owned(), plan)]);
                target(&stepwise, ip);
            }
            assert_eq!(target(&stepwise, ip).as_deref(), expected, "{name}");
            let mut at_once = Wanted::default();
            at_once.replace(steps.into_iter().map(|(service, plan)| (service.to_owned(), plan)).collect());
            assert_eq!(at_once.counts, stepwise.counts, "{name}");
        }
    }

    #[test]
    fn a_change_says_what_is_different() {
        let mut wanted = Wanted::default();
        let of = |endpoint| planned(1, &spec("10.43.0.1", &[]), endpoint);
        let first = wanted.replace(vec![("s".into(), of("10.42.0.1"))]);
        assert_eq!((first.gone.len(), first.chains.len()), (0, 1));
        let same = wanted.replace(vec![("s".into(), of("10.42.0.1"))]);
        assert!(same.gone.is_empty() && same.fresh.is_empty() && same.stale.is_empty(), "{same:?}");
        let moved = wanted.replace(vec![("s".into(), of("10.42.0.2"))]);
        // The pod's hairpin, and the target of both ports.
        assert_eq!((moved.gone.len(), moved.fresh.len()), (3, 3), "{moved:?}");
        let now: BTreeSet<Backend> = [("10.42.0.2".parse().unwrap(), 53)].into();
        assert_eq!(moved.stale, [(("10.43.0.1".parse().unwrap(), 53), now)].into());
        let gone = wanted.replace(vec![("s".into(), ServicePlan::default())]);
        assert_eq!(gone.gone.len(), first.fresh.len());
        assert!(wanted.counts.is_empty() && wanted.claims.is_empty() && wanted.plans.is_empty());
    }
}
