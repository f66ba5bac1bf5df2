//! Gives every node its own part of the ranges that pods' addresses come from.
//!
//! Reads nodes. Writes `spec.podCIDR` and `spec.podCIDRs`, once per node.
//! Not here: addresses of single pods (the node's own IPAM), routes between nodes (the network).
//! Upstream: `pkg/controller/nodeipam/ipam` (range allocator). One key stands for all nodes: two nodes that were planned
//! apart could be given the same part before the cache shows either.

use std::collections::BTreeSet;
use std::net::IpAddr;

use api::types::core::v1::Node;
use client::{EventType, Patch};
use jiff::Timestamp;
use reconcile::{Action, Controller, EventSpec, Key, Plan, View, Watches};
use serde_json::json;

use crate::object;

/// Why ranges cannot be given out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not a range.
    #[error("cluster range {0:?} is not valid")]
    Range(String),
    /// The nodes' parts would be larger than the whole, or too many to number.
    #[error("a node range of /{mask} does not fit into cluster range {range:?}")]
    Mask {
        /// The whole.
        range: String,
        /// The size of a part.
        mask: u8,
    },
}

/// A range and the size of its parts.
#[derive(Clone, Debug)]
struct Range {
    base: u128,
    v4: bool,
    mask: u8,
    parts: u64,
}

impl Range {
    fn parse(text: &str, mask_v4: u8, mask_v6: u8) -> Result<Range, Error> {
        let (address, length) = api::names::parse_cidr(text).ok_or_else(|| Error::Range(text.to_owned()))?;
        let (bits, v4) = match address {
            IpAddr::V4(v4) => (u128::from(u32::from(v4)), true),
            IpAddr::V6(v6) => (u128::from(v6), false),
        };
        let (width, mask) = if v4 { (32, mask_v4) } else { (128, mask_v6) };
        // Upstream allows at most 2^16 parts of an IPv6 range; it is a bound on the work of one search.
        if mask > width || mask < length || mask - length > 24 {
            return Err(Error::Mask { range: text.to_owned(), mask });
        }
        let host = u32::from(width - length);
        let base = if host == 128 { 0 } else { bits >> host << host };
        Ok(Range { base, v4, mask, parts: 1 << (mask - length) })
    }

    /// The part of this number.
    fn part(&self, index: u64) -> String {
        let width = if self.v4 { 32 } else { 128 };
        let bits = self.base + (u128::from(index) << (width - u32::from(self.mask)));
        let address: IpAddr = if self.v4 {
            IpAddr::from((bits as u32).to_be_bytes())
        } else {
            IpAddr::from(bits.to_be_bytes())
        };
        format!("{address}/{}", self.mask)
    }
}

/// The controller.
pub struct NodeIpam {
    ranges: Vec<Range>,
}

impl NodeIpam {
    /// Gives out parts of `ranges`, of the size that the mask of their family says.
    pub fn new(ranges: &[String], mask_v4: u8, mask_v6: u8) -> Result<NodeIpam, Error> {
        let ranges =
            ranges.iter().map(|range| Range::parse(range, mask_v4, mask_v6)).collect::<Result<_, _>>()?;
        Ok(NodeIpam { ranges })
    }
}

impl Controller for NodeIpam {
    const NAME: &'static str = "node-ipam-controller";
    const WORKERS: usize = 1;

    fn watch(&self, watches: &mut Watches<'_>) {
        watches.map::<Node>(|_, change, wake| {
            // Heartbeats change nodes all the time; only these changes matter here.
            if change.is_deleted() || cidrs(change.object()).is_empty() {
                wake(Key::cluster("nodes"));
            }
        });
    }

    fn plan(&self, view: &View<'_>, _: &Key, _: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let nodes = view.list::<Node>();
        let mut used: BTreeSet<String> =
            nodes.iter().flat_map(|node| cidrs(node)).map(str::to_owned).collect();
        let mut next = vec![0; self.ranges.len()];
        for node in nodes.iter().filter(|node| cidrs(node).is_empty() && !object::deleting(&***node)) {
            let mut parts = Vec::new();
            for (range, next) in self.ranges.iter().zip(&mut next) {
                let free = (*next..range.parts).find(|index| !used.contains(&range.part(*index)));
                let Some(index) = free else { break };
                *next = index + 1;
                parts.push(range.part(index));
            }
            if parts.len() < self.ranges.len() || parts.is_empty() {
                let message = format!("Node {} status is now: CIDRNotAvailable", object::name(&**node));
                plan.events.push(EventSpec::new(&**node, EventType::Normal, "CIDRNotAvailable", message));
                continue;
            }
            used.extend(parts.iter().cloned());
            plan.act(Action::patch(
                &**node,
                Patch::Strategic(json!({"spec": {"podCIDR": parts[0], "podCIDRs": parts}})),
            ));
        }
        plan
    }
}

fn cidrs(node: &Node) -> Vec<&str> {
    let Some(spec) = &node.spec else { return Vec::new() };
    match &spec.pod_cidrs {
        Some(all) if !all.is_empty() => all.iter().map(String::as_str).collect(),
        _ => spec.pod_cidr.as_deref().filter(|cidr| !cidr.is_empty()).into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use reconcile::Fixture;

    use super::*;

    fn node(name: &str, cidr: Option<&str>) -> Node {
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"podCIDR": cidr}})).unwrap()
    }

    fn ipam(ranges: &[&str], mask: u8) -> NodeIpam {
        let ranges: Vec<String> = ranges.iter().map(|range| (*range).to_owned()).collect();
        NodeIpam::new(&ranges, mask, 64).unwrap()
    }

    fn given(ipam: NodeIpam, nodes: Vec<Node>) -> Vec<(String, serde_json::Value)> {
        let plan = Fixture::new(ipam).with(nodes).plan("", "nodes", Timestamp::UNIX_EPOCH);
        plan.actions()
            .map(|action| (action.name.clone(), action.patch_body().unwrap()["spec"]["podCIDRs"].clone()))
            .collect()
    }

    #[test]
    fn the_lowest_free_part_is_given() {
        let nodes = vec![node("a", Some("10.42.0.0/24")), node("b", None), node("c", None)];
        assert_eq!(
            given(ipam(&["10.42.0.0/16"], 24), nodes),
            [("b".to_owned(), json!(["10.42.1.0/24"])), ("c".to_owned(), json!(["10.42.2.0/24"]))]
        );
    }

    #[test]
    fn both_families_are_given_together() {
        assert_eq!(
            given(ipam(&["10.42.0.0/16", "fd00::/56"], 24), vec![node("a", None)]),
            [("a".to_owned(), json!(["10.42.0.0/24", "fd00::/64"]))]
        );
    }

    #[test]
    fn nothing_is_given_twice_when_all_is_used() {
        let nodes = vec![node("a", Some("10.0.0.0/25")), node("b", Some("10.0.0.128/25")), node("c", None)];
        let plan =
            Fixture::new(ipam(&["10.0.0.0/24"], 25)).with(nodes).plan("", "nodes", Timestamp::UNIX_EPOCH);
        assert_eq!(plan.actions().count(), 0);
        assert_eq!(plan.events[0].reason, "CIDRNotAvailable");
    }

    #[test]
    fn wrong_settings_are_refused() {
        for (range, mask) in [("10.0.0.0/16", 8), ("10.0.0.0/33", 24), ("x", 24)] {
            assert!(NodeIpam::new(&[range.to_owned()], mask, 64).is_err(), "{range} {mask}");
        }
    }
}
