//! Brings the kernel from one set of plans to the next, by differences.
//!
//! Reads plans; writes nftables transactions and deletes stale UDP connections. Elements that several Services
//! need are counted. Not here: what a Service needs (`plan`), when to look (`executor`).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::Ipv4Addr,
};

use sys::{
    conntrack::{Connection, Conntrack},
    netlink,
    nftables::{Batch, Element, Family, Nftables},
};

use crate::{
    plan::ServicePlan,
    ruleset::{self, Balance, SetName, Settings, TABLE},
};

/// Transport protocol number of UDP: the one whose stale connections live on without either side noticing.
const UDP: u8 = 17;

/// What the kernel was last told.
#[derive(Debug)]
pub struct Kernel {
    nftables: Nftables,
    settings: Settings,
    plans: HashMap<String, ServicePlan>,
    counts: HashMap<(SetName, Element), u32>,
    chains: BTreeSet<Balance>,
    built: bool,
    /// UDP targets whose connections are still to be forgotten, with the endpoints that connections may lead to.
    stale: Targets,
}

/// Addresses that are translated, with where to.
type Targets = BTreeMap<(Ipv4Addr, u16), BTreeSet<(Ipv4Addr, u16)>>;

impl Kernel {
    /// Opens the kernel's tables in the calling thread's network namespace. Changes nothing yet.
    pub fn open(settings: Settings) -> Result<Self, netlink::Error> {
        Ok(Self {
            nftables: Nftables::open()?,
            settings,
            plans: HashMap::new(),
            counts: HashMap::new(),
            chains: BTreeSet::new(),
            built: false,
            stale: Targets::new(),
        })
    }

    /// Puts new plans in the place of those of the same Services, in one transaction. The first call replaces the
    /// whole table. After an error the next call rebuilds everything from what is known.
    pub fn apply(&mut self, changes: Vec<(String, ServicePlan)>) -> Result<(), netlink::Error> {
        let mut touched: BTreeMap<(SetName, Element), u32> = BTreeMap::new();
        for (service, plan) in changes {
            let old = self.plans.remove(&service).unwrap_or_default();
            for (target, _) in
                old.udp.iter().filter(|(target, backends)| plan.udp.get(target) != Some(backends))
            {
                self.stale.insert(*target, plan.udp.get(target).cloned().unwrap_or_default());
            }
            for (target, backends) in plan.udp.iter().filter(|(target, _)| !old.udp.contains_key(target)) {
                self.stale.insert(*target, backends.clone());
            }
            for entry in &old.elements {
                let count = self.counts.entry(entry.clone()).or_default();
                touched.entry(entry.clone()).or_insert(*count);
                *count = count.saturating_sub(1);
            }
            for entry in &plan.elements {
                let count = self.counts.entry(entry.clone()).or_default();
                touched.entry(entry.clone()).or_insert(*count);
                *count += 1;
            }
            if !plan.elements.is_empty() {
                self.plans.insert(service, plan);
            }
        }
        let batch = if self.built { self.difference(&touched) } else { Ok(self.everything()) };
        for (entry, _) in touched {
            if self.counts.get(&entry) == Some(&0) {
                self.counts.remove(&entry);
            }
        }
        // What is counted now is what is wanted: whatever kept it from the kernel, the next call writes all of it.
        let outcome = batch.and_then(|batch| self.nftables.commit(&batch));
        self.built = outcome.is_ok();
        outcome?;
        if !self.stale.is_empty() {
            forget_stale(&self.stale)?;
            self.stale.clear();
        }
        Ok(())
    }

    fn everything(&mut self) -> Batch {
        let mut batch = ruleset::build(&self.settings);
        self.chains = self.plans.values().flat_map(|plan| plan.chains.iter().copied()).collect();
        for chain in &self.chains {
            ruleset::add_balance(&mut batch, chain, &self.settings);
        }
        for set in SetName::ALL {
            let wanted = self.counts.iter().filter(|((name, _), count)| *name == set && **count > 0);
            batch.add_elements(set.as_str(), wanted.map(|((_, element), _)| element));
        }
        batch
    }

    fn difference(&mut self, touched: &BTreeMap<(SetName, Element), u32>) -> Result<Batch, netlink::Error> {
        let mut batch = Batch::new(Family::Ip, TABLE);
        let now = |entry| self.counts.get(entry).copied().unwrap_or_default();
        let mut gone: BTreeMap<SetName, Vec<&Element>> = BTreeMap::new();
        let mut fresh: BTreeMap<SetName, Vec<&Element>> = BTreeMap::new();
        for (entry, before) in touched {
            match (*before, now(entry)) {
                (0, 1..) => fresh.entry(entry.0).or_default().push(&entry.1),
                (1.., 0) => gone.entry(entry.0).or_default().push(&entry.1),
                _ => {}
            }
        }
        // A chain stays once it is made: there are as many as different numbers of endpoints, and the next
        // scaling needs it again.
        let wanted = self.plans.values().flat_map(|plan| plan.chains.iter().copied());
        let new: BTreeSet<Balance> = wanted.filter(|chain| !self.chains.contains(chain)).collect();
        for chain in &new {
            ruleset::add_balance(&mut batch, chain, &self.settings);
        }
        self.chains.extend(new);
        for (set, elements) in &gone {
            batch.delete_elements(set.as_str(), elements.iter().copied());
        }
        let targets =
            gone.get(&SetName::ServiceEndpoints).into_iter().chain(gone.get(&SetName::NodePortEndpoints));
        if targets.into_iter().flatten().next().is_some() {
            self.forget_clients(&mut batch, &gone)?;
        }
        for (set, elements) in &fresh {
            batch.add_elements(set.as_str(), elements.iter().copied());
        }
        Ok(batch)
    }

    /// Clients that stay with an endpoint must not stay with one that is gone.
    fn forget_clients(
        &mut self,
        batch: &mut Batch,
        gone: &BTreeMap<SetName, Vec<&Element>>,
    ) -> Result<(), netlink::Error> {
        if !self.chains.iter().any(|chain| chain.affinity.is_some()) {
            return Ok(());
        }
        let pairs = [
            (SetName::ServiceEndpoints, SetName::Affinity, 12),
            (SetName::NodePortEndpoints, SetName::NodePortAffinity, 8),
        ];
        for (endpoints, affinity, entry_length) in pairs {
            // (address, protocol, port) of the Service and the target it lost.
            let lost: BTreeSet<(&[u8], &[u8])> = gone
                .get(&endpoints)
                .into_iter()
                .flatten()
                .filter_map(|element| match &element.data {
                    Some(sys::nftables::Data::Value(target)) => {
                        Some((element.key.get(..entry_length)?, target.as_slice()))
                    }
                    _ => None,
                })
                .collect();
            if lost.is_empty() {
                continue;
            }
            let stale: Vec<Element> = self
                .nftables
                .elements(Family::Ip, TABLE, affinity.as_str())?
                .into_iter()
                .filter(|(key, target)| {
                    let entry = key.get(4..).unwrap_or_default();
                    target.as_deref().is_some_and(|target| lost.contains(&(entry, target)))
                })
                .map(|(key, _)| Element { key, data: None })
                .collect();
            batch.delete_elements(affinity.as_str(), &stale);
        }
        Ok(())
    }

    /// Removes the table: packets are no longer translated.
    pub fn remove(&mut self) -> Result<(), netlink::Error> {
        self.built = false;
        self.nftables.delete_table(Family::Ip, TABLE)
    }
}

/// Deletes UDP connections to Services that lead to no current endpoint: clients that send from one port would
/// otherwise talk to nobody for as long as they send.
fn forget_stale(udp: &Targets) -> Result<(), netlink::Error> {
    let stale = |connection: &Connection| {
        connection.original.protocol == UDP
            && udp
                .get(&connection.original.destination)
                .is_some_and(|backends| !backends.contains(&connection.reply.source))
    };
    Conntrack::open()?.delete_where(stale).map(drop)
}
