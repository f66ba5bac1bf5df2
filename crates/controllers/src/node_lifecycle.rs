//! Notices nodes that have fallen silent, and turns the conditions of nodes into taints.
//!
//! Reads nodes, their leases and their pods. Writes node conditions (to Unknown), node taints, and the Ready condition of
//! pods on nodes that are not ready.
//! Not here: evicting pods by those taints ([`crate::taint_eviction`]).
//! Upstream: `pkg/controller/nodelifecycle`, which looks every 5 s; here heartbeats wake it and a timer is set for the moment
//! at which a node will have been silent for too long.

mod taints;
mod zones;

use std::collections::HashMap;

use api::meta::Time;
use api::types::coordination::v1::Lease;
use api::types::core::v1::{Node, NodeCondition, Pod};
use client::{EventType, Patch};
use jiff::Timestamp;
use parking_lot::Mutex;
use reconcile::{Action, Controller, EventSpec, Key, Plan, View, Watches};
use serde_json::json;

use self::zones::{Evictions, Verdict};
use crate::networking::{self, is_node_ready, node_condition};
use crate::{object, pods};

/// Upstream's `--node-monitor-grace-period`.
const GRACE_SECONDS: i64 = 50;
/// Upstream's `--node-startup-grace-period`.
const STARTUP_GRACE_SECONDS: i64 = 60;
const LEASES: &str = "kube-node-lease";
/// The conditions that nobody vouches for once the kubelet is silent.
const VOUCHED: &[&str] = &["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// The controller; its keys are nodes.
#[derive(Default)]
pub struct NodeLifecycle {
    /// When each node's heartbeat was last seen to change. By our own clock: a node whose clock is wrong is not a dead one.
    /// A restart may lose it; every node then has its grace once more.
    heartbeats: Mutex<HashMap<String, Heartbeat>>,
    evictions: Mutex<Evictions>,
}

#[derive(Clone, PartialEq)]
struct Heartbeat {
    lease: Option<Timestamp>,
    ready: Option<Timestamp>,
    seen: Timestamp,
}

impl Controller for NodeLifecycle {
    const NAME: &'static str = "node-controller";

    fn watch(&self, watches: &mut Watches<'_>) {
        watches.primary::<Node>();
        watches.index::<Pod>(networking::BY_NODE, networking::by_node);
        watches.map::<Lease>(|_, change, wake| {
            if object::namespace(&**change.object()) == LEASES {
                wake(Key::cluster(object::name(&**change.object())));
            }
        });
        // A pod that became ready on a node that is not: only then is there something to do.
        watches.map::<Pod>(|caches, change, wake| {
            let pod = change.object();
            if !change.is_deleted()
                && pods::is_ready(pod)
                && caches.get::<Node>("", pods::node(pod)).is_some_and(|node| !is_node_ready(&node))
            {
                wake(Key::cluster(pods::node(pod)));
            }
        });
    }

    fn plan(&self, view: &View<'_>, key: &Key, now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(node) = view.get_key::<Node>(key) else {
            self.heartbeats.lock().remove(key.name());
            self.evictions.lock().forget(key.name());
            return plan;
        };
        let (heartbeat, new) = self.heartbeat(view, &node, now);
        if new {
            let name = object::name(&*node);
            let message = format!("Node {name} event: Registered Node {name} in Controller");
            plan.events.push(EventSpec::new(&*node, EventType::Normal, "RegisteredNode", message));
        }
        let deadline = object::after(heartbeat.seen, grace(&node));
        let mut node = Node::clone(&node);
        if now >= deadline {
            let silent = silent(&node, now);
            if silent.status != node.status {
                if is_node_ready(&node) {
                    let message = format!("Node {} status is now: NodeNotReady", object::name(&node));
                    plan.events.push(EventSpec::new(&node, EventType::Normal, "NodeNotReady", message));
                }
                plan.act(Action::update_status(&silent));
                node = silent;
            }
        } else {
            plan.requeue_at(deadline);
        }
        // After a write of the status the node is another one: the change wakes us, and the taints come then. Somebody else's
        // taint, set meanwhile, would be lost otherwise.
        if plan.steps.is_empty() {
            let evict = self.may_evict(&mut plan, view, &node, now);
            if let Some(wanted) = taints::wanted(&node, evict, now) {
                let metadata = taints::precondition(&node);
                let patch = json!({"metadata": metadata, "spec": {"taints": wanted}});
                plan.act(Action::patch(&node, Patch::Merge(patch)));
            }
        }
        if node_condition(&node, "Ready").is_some_and(|condition| condition.status != "True") {
            mark_pods(&mut plan, view, &node, now);
        }
        plan
    }
}

/// How long a node may be silent.
fn grace(node: &Node) -> i64 {
    if node_condition(node, "Ready").is_none() { STARTUP_GRACE_SECONDS } else { GRACE_SECONDS }
}

impl NodeLifecycle {
    /// Whether the node may have taints that evict its pods.
    fn may_evict(&self, plan: &mut Plan, view: &View<'_>, node: &Node, now: Timestamp) -> bool {
        let mut evictions = self.evictions.lock();
        if is_node_ready(node) {
            evictions.forget(object::name(node));
            return true;
        }
        // A node that has said nothing yet gets none: it has not used a turn either.
        if node_condition(node, "Ready").is_none() {
            return true;
        }
        let all = view.list::<Node>();
        let is_evicting = taints::evicts(node);
        match evictions.ask(node, all.iter().map(|other| &**other), now) {
            Verdict::Evict => true,
            Verdict::Never => {
                // Another node that comes back does not wake this one.
                plan.requeue_at(object::after(now, zones::LOOK_AGAIN_SECONDS));
                false
            }
            // One taint takes another's place: the pods are going already.
            Verdict::Wait(_) if is_evicting => true,
            Verdict::Wait(until) => {
                plan.requeue_at(until);
                false
            }
        }
    }

    /// The node's heartbeat as last seen to change, and whether the node is new to us.
    fn heartbeat(&self, view: &View<'_>, node: &Node, now: Timestamp) -> (Heartbeat, bool) {
        let name = object::name(node);
        let lease = view.get::<Lease>(LEASES, name).and_then(|lease| {
            lease.spec.as_ref().and_then(|spec| spec.renew_time.as_ref()).map(|time| time.0)
        });
        let ready = node_condition(node, "Ready")
            .and_then(|condition| condition.last_heartbeat_time.as_ref())
            .map(|time| time.0);
        let mut all = self.heartbeats.lock();
        match all.get_mut(name) {
            Some(known) => {
                if (known.lease, known.ready) != (lease, ready) {
                    *known = Heartbeat { lease, ready, seen: now };
                }
                (known.clone(), false)
            }
            None => {
                let first = Heartbeat { lease, ready, seen: now };
                all.insert(name.to_owned(), first.clone());
                (first, true)
            }
        }
    }
}

/// The node with every condition that its kubelet vouched for set to Unknown.
fn silent(node: &Node, now: Timestamp) -> Node {
    let mut updated = node.clone();
    let conditions = updated.status.get_or_insert_default().conditions.get_or_insert_default();
    let now = Time(object::seconds(now));
    for kind in VOUCHED {
        match conditions.iter_mut().find(|condition| condition.type_ == *kind) {
            Some(condition) if condition.status != "Unknown" => {
                condition.status = "Unknown".to_owned();
                condition.reason = Some("NodeStatusUnknown".to_owned());
                condition.message = Some("Kubelet stopped posting node status.".to_owned());
                condition.last_transition_time = Some(now.clone());
            }
            Some(_) => {}
            None => conditions.push(NodeCondition {
                type_: (*kind).to_owned(),
                status: "Unknown".to_owned(),
                reason: Some("NodeStatusNeverUpdated".to_owned()),
                message: Some("Kubelet never posted node status.".to_owned()),
                last_heartbeat_time: node.metadata.creation_timestamp.clone(),
                last_transition_time: Some(now.clone()),
            }),
        }
    }
    updated
}

/// Pods on a node that is not ready are not either, whatever they said last.
fn mark_pods(plan: &mut Plan, view: &View<'_>, node: &Node, now: Timestamp) {
    let ready = view.by_index::<Pod>(networking::BY_NODE, object::name(node));
    let actions = ready
        .iter()
        .filter(|pod| pods::is_ready(pod))
        .map(|pod| {
            let patch = json!({
                "metadata": {"uid": object::uid(&**pod)},
                "status": {"conditions": [{
                    "type": "Ready",
                    "status": "False",
                    "lastTransitionTime": Time(object::seconds(now)),
                }]},
            });
            Action::patch_status(&**pod, Patch::Strategic(patch)).with_success(EventSpec::new(
                &**pod,
                EventType::Warning,
                "NodeNotReady",
                "Node is not ready",
            ))
        })
        .collect();
    plan.parallel(actions);
}

#[cfg(test)]
mod tests {
    use reconcile::Fixture;
    use serde_json::Value;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn node(name: &str, ready: &str, taints: Value) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": name, "uid": name, "resourceVersion": "1"},
            "spec": {"taints": taints},
            "status": {"conditions": [{"type": "Ready", "status": ready, "lastHeartbeatTime": at(0)}]},
        }))
        .unwrap()
    }

    #[test]
    fn a_silent_node_becomes_unknown_after_its_grace() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "a", "uid": "u"},
            "spec": {"nodeName": "n", "containers": []},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
        }))
        .unwrap();
        let nodes = vec![node("n", "True", json!(null)), node("other", "True", json!(null))];
        let fixture = Fixture::new(NodeLifecycle::default()).with(nodes).with(vec![pod]);
        let plan = fixture.plan("", "n", at(100));
        assert_eq!((plan.actions().count(), plan.requeue_at), (0, Some(at(150))));
        assert_eq!(plan.events[0].message, "Node n event: Registered Node n in Controller");
        let plan = fixture.plan("", "n", at(150));
        let lines: Vec<_> = plan.actions().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            ["update nodes/status n", "patch pods/status a/p"],
            "the taints come with the next plan"
        );
        let written: Node = plan.actions().next().unwrap().object().unwrap();
        let ready = node_condition(&written, "Ready").unwrap();
        assert_eq!((ready.status.as_str(), ready.reason.as_deref()), ("Unknown", Some("NodeStatusUnknown")));
        assert_eq!(plan.events[0].message, "Node n status is now: NodeNotReady");
        let mut written = written;
        written.metadata.resource_version = Some("2".to_owned());
        let fixture = fixture.with(vec![written, node("other", "True", json!(null))]);
        let plan = fixture.plan("", "n", at(151));
        let patch = plan.actions().next().unwrap().patch_body().unwrap();
        assert_eq!(patch["metadata"]["resourceVersion"], "2", "no taint that somebody else sets is lost");
        assert_eq!(patch["spec"]["taints"].as_array().map(Vec::len), Some(2));
    }

    #[test]
    fn a_heartbeat_begins_the_grace_anew() {
        let lease = |seconds: i64| -> Lease {
            let renew = api::meta::MicroTime(at(seconds));
            serde_json::from_value(json!({
                "metadata": {"name": "n", "namespace": LEASES},
                "spec": {"renewTime": renew},
            }))
            .unwrap()
        };
        let fixture = Fixture::new(NodeLifecycle::default())
            .with(vec![node("n", "True", json!(null))])
            .with(vec![lease(1)]);
        fixture.plan("", "n", at(100));
        let fixture = fixture.with(vec![lease(2)]);
        assert_eq!(fixture.plan("", "n", at(140)).requeue_at, Some(at(190)));
        assert_eq!(fixture.lines("", "n", at(189)), Vec::<String>::new());
        assert_ne!(fixture.lines("", "n", at(190)), Vec::<String>::new());
    }

    #[test]
    fn nothing_is_evicted_when_every_node_is_down() {
        let effects = |nodes: Vec<Node>| -> Vec<String> {
            let fixture = Fixture::new(NodeLifecycle::default()).with(nodes);
            let plan = fixture.plan("", "n", at(100));
            let patch =
                plan.actions().next().and_then(|action| action.patch_body().cloned()).unwrap_or_default();
            let taints = patch["spec"]["taints"].as_array().cloned().unwrap_or_default();
            taints.iter().map(|taint| taint["effect"].as_str().unwrap().to_owned()).collect()
        };
        let down = |name: &str| node(name, "Unknown", json!(null));
        assert_eq!(effects(vec![down("n"), down("other")]), ["NoSchedule"]);
        assert_eq!(effects(vec![down("n"), node("other", "True", json!(null))]), ["NoSchedule", "NoExecute"]);
    }

    #[test]
    fn a_ready_node_loses_the_taint_it_registered_with() {
        let taints = json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}, {"key": "mine", "effect": "NoSchedule"}]);
        let fixture = Fixture::new(NodeLifecycle::default()).with(vec![node("n", "True", taints)]);
        let plan = fixture.plan("", "n", at(0));
        let patch = plan.actions().next().unwrap().patch_body().unwrap();
        assert_eq!(patch["spec"]["taints"], json!([{"key": "mine", "effect": "NoSchedule"}]));
        assert_eq!(patch["metadata"]["resourceVersion"], "1");
    }
}
