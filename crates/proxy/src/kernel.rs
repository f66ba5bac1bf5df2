//! Brings the kernel from one set of plans to the next, by differences.
//!
//! Reads plans; writes nftables transactions and deletes stale UDP connections. Not here: what a Service needs (`plan`),
//! which of several Services has what they all ask for (`wanted`), when to look (`executor`).

use std::collections::{BTreeMap, BTreeSet};

use sys::{
    conntrack::{Connection, Conntrack},
    netlink,
    nftables::{Batch, Element, Family, Nftables},
};

use crate::{
    plan::ServicePlan,
    ruleset::{self, Balance, SetName, Settings, TABLE},
    wanted::{Change, Targets, UDP, Wanted},
};

/// What the kernel was last told.
#[derive(Debug)]
pub struct Kernel {
    nftables: Nftables,
    settings: Settings,
    wanted: Wanted,
    chains: BTreeSet<Balance>,
    built: bool,
    /// UDP targets whose connections are still to be forgotten, with the endpoints that connections may lead to.
    stale: Targets,
}

impl Kernel {
    /// Opens the kernel's tables in the calling thread's network namespace. Changes nothing yet.
    pub fn open(settings: Settings) -> Result<Self, netlink::Error> {
        Ok(Self {
            nftables: Nftables::open()?,
            settings,
            wanted: Wanted::default(),
            chains: BTreeSet::new(),
            built: false,
            stale: Targets::new(),
        })
    }

    /// Puts new plans in the place of those of the same Services, in one transaction. The first call replaces the
    /// whole table. After an error the next call rebuilds everything from what is known.
    pub fn apply(&mut self, changes: Vec<(String, ServicePlan)>) -> Result<(), netlink::Error> {
        let change = self.wanted.replace(changes);
        self.stale.extend(change.stale.clone());
        let batch = if self.built { self.difference(&change) } else { Ok(self.everything()) };
        // `wanted` has the change: whatever kept it from the kernel, the next call writes all of it.
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
        self.chains = self.wanted.chains().collect();
        for chain in &self.chains {
            ruleset::add_balance(&mut batch, chain, &self.settings);
        }
        for set in SetName::ALL {
            batch.add_elements(set.as_str(), self.wanted.elements_of(set));
        }
        batch
    }

    fn difference(&mut self, change: &Change) -> Result<Batch, netlink::Error> {
        let mut batch = Batch::new(Family::Ip, TABLE);
        let mut gone: BTreeMap<SetName, Vec<&Element>> = BTreeMap::new();
        let mut fresh: BTreeMap<SetName, Vec<&Element>> = BTreeMap::new();
        for (set, element) in &change.gone {
            gone.entry(*set).or_default().push(element);
        }
        for (set, element) in &change.fresh {
            fresh.entry(*set).or_default().push(element);
        }
        // A chain stays once it is made: there are as many as different numbers of endpoints, and the next
        // scaling needs it again.
        let new: BTreeSet<Balance> = change.chains.difference(&self.chains).copied().collect();
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
