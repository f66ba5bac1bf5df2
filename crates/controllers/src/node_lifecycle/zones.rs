//! How fast pods may be evicted from nodes that are not ready: one node after the other in each zone, slower when much of the
//! zone is not ready, and not at all when everything is.
//!
//! Many nodes that fall silent together are more often a network that is cut than machines that died; evicting all their
//! pods at once would make an outage of it. Pure but for what it remembers. Not here: the taints.
//! Upstream: `handleDisruption`, `setLimiterInZone` and `ComputeZoneState` of `pkg/controller/nodelifecycle`.

use std::collections::{HashMap, HashSet};

use api::types::core::v1::Node;
use jiff::Timestamp;

use crate::networking::is_node_ready;
use crate::object;

/// Upstream's `--node-eviction-rate`: seconds between two nodes.
const PERIOD_SECONDS: i64 = 10;
/// Upstream's `--secondary-node-eviction-rate`, where most of a large zone is not ready.
const SLOW_PERIOD_SECONDS: i64 = 100;
/// Upstream's `--unhealthy-zone-threshold`, in percent, and its least number of nodes that are not ready.
const UNHEALTHY_PERCENT: usize = 55;
const UNHEALTHY_NODES: usize = 2;
/// Upstream's `--large-cluster-size-threshold`: a smaller zone of which most is not ready evicts nothing.
const LARGE: usize = 50;
/// When a zone that evicts nothing is looked at again. Other nodes' heartbeats do not wake one that waits.
pub(super) const LOOK_AGAIN_SECONDS: i64 = 20;

/// Region and zone.
type Zone = (String, String);

/// Which nodes' pods may be evicted. A restart forgets when the last one's were: one more may go at once.
#[derive(Default)]
pub(super) struct Evictions {
    last: HashMap<Zone, Timestamp>,
    /// Nodes that had their turn, until they are ready again.
    granted: HashSet<String>,
}

/// What may be done to a node.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    /// Its pods may be evicted.
    Evict,
    /// Not before this time.
    Wait(Timestamp),
    /// No node of the cluster is ready: then it is more likely that we are cut off than that all of them died.
    Never,
}

fn zone_of(node: &Node) -> Zone {
    let label = |name| object::labels(node).get(name).cloned().unwrap_or_default();
    (label("topology.kubernetes.io/region"), label("topology.kubernetes.io/zone"))
}

impl Evictions {
    /// The node is ready, or gone.
    pub(super) fn forget(&mut self, node: &str) {
        self.granted.remove(node);
    }

    /// Whether pods may be evicted from a node that is not ready, among all nodes.
    pub(super) fn ask<'a>(
        &mut self,
        node: &Node,
        all: impl Iterator<Item = &'a Node>,
        now: Timestamp,
    ) -> Verdict {
        let zone = zone_of(node);
        let (mut any_ready, mut ready, mut not_ready) = (false, 0, 0);
        for other in all {
            // The cache may not have the node as it is now.
            let is_ready = object::name(other) != object::name(node) && is_node_ready(other);
            any_ready |= is_ready;
            if zone_of(other) == zone {
                if is_ready { ready += 1 } else { not_ready += 1 }
            }
        }
        if !any_ready {
            return Verdict::Never;
        }
        if self.granted.contains(object::name(node)) {
            return Verdict::Evict;
        }
        let size: usize = ready + not_ready;
        let mostly = ready > 0 && not_ready > UNHEALTHY_NODES && not_ready * 100 >= size * UNHEALTHY_PERCENT;
        let period = match mostly {
            false => PERIOD_SECONDS,
            true if size > LARGE => SLOW_PERIOD_SECONDS,
            true => return Verdict::Wait(object::after(now, LOOK_AGAIN_SECONDS)),
        };
        match self.last.get(&zone).map(|last| object::after(*last, period)).filter(|next| now < *next) {
            Some(next) => Verdict::Wait(next),
            None => {
                self.last.insert(zone, now);
                self.granted.insert(object::name(node).to_owned());
                Verdict::Evict
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn nodes(zone: &str, number: usize, not_ready: usize) -> Vec<Node> {
        let node = |at: usize| {
            let status = if at < not_ready { "Unknown" } else { "True" };
            serde_json::from_value(json!({
                "metadata": {"name": format!("{zone}-{at}"), "labels": {"topology.kubernetes.io/zone": zone}},
                "status": {"conditions": [{"type": "Ready", "status": status}]},
            }))
            .unwrap()
        };
        (0..number).map(node).collect()
    }

    #[test]
    fn nodes_go_one_after_the_other() {
        // Nodes of the zone, of which are not ready, and when the first three of those may go, asked every ten seconds.
        for (what, number, not_ready, expected) in [
            ("few", 100, 10, [Some(0), Some(10), Some(20)]),
            ("two of three", 3, 2, [Some(0), Some(10), None]),
            ("most of a small zone", 10, 6, [None, None, None]),
            ("most of a large zone", 100, 60, [Some(0), Some(100), Some(200)]),
            ("a whole zone of several", 5, 5, [Some(0), Some(10), Some(20)]),
        ] {
            let mut all = nodes("a", number, not_ready);
            all.extend(nodes("b", 3, 0));
            let mut evictions = Evictions::default();
            let mut gone = [None; 3];
            for now in (0..=300).step_by(10) {
                for (node, gone) in all[..not_ready.min(3)].iter().zip(&mut gone) {
                    if evictions.ask(node, all.iter(), at(now)) == Verdict::Evict && gone.is_none() {
                        *gone = Some(now);
                    }
                }
            }
            assert_eq!(gone, expected, "{what}");
        }
    }

    #[test]
    fn nothing_goes_when_everything_is_down_and_who_came_back_has_no_turn_left() {
        let down = nodes("a", 3, 3);
        let mut evictions = Evictions::default();
        assert_eq!(evictions.ask(&down[0], down.iter(), at(0)), Verdict::Never);
        let some = nodes("a", 4, 2);
        assert_eq!(evictions.ask(&some[0], some.iter(), at(0)), Verdict::Evict);
        assert_eq!(
            evictions.ask(&some[0], some.iter(), at(1)),
            Verdict::Evict,
            "a write that failed costs no turn"
        );
        assert_eq!(evictions.ask(&some[1], some.iter(), at(1)), Verdict::Wait(at(10)));
        evictions.forget("a-0");
        assert_eq!(evictions.ask(&some[0], some.iter(), at(2)), Verdict::Wait(at(10)));
    }
}
