//! Deletes pods from nodes whose NoExecute taints they do not tolerate, when their toleration ends.
//!
//! Reads pods and nodes. Deletes pods, after marking them as disrupted.
//! Not here: giving nodes their taints ([`crate::node_lifecycle`]).
//! Upstream: `pkg/controller/tainteviction`.

use std::collections::HashMap;

use api::types::core::v1::{Node, Pod, Taint, Toleration};
use client::EventType;
use jiff::Timestamp;
use parking_lot::Mutex;
use reconcile::{Action, Controller, EventSpec, Key, Plan, View, Watches};

use crate::{condition, networking, node_fit, object, pods};

/// The controller; its keys are pods.
#[derive(Default)]
pub struct TaintEviction {
    /// Since when each pod (and which of its name) has been on a node with taints that do not say since when. Lost at a
    /// restart, which only gives the pods their time once more.
    since: Mutex<HashMap<Key, (String, Timestamp)>>,
}

impl Controller for TaintEviction {
    const NAME: &'static str = "taint-eviction-controller";

    fn watch(&self, watches: &mut Watches<'_>) {
        watches.index::<Pod>(networking::BY_NODE, networking::by_node);
        watches.map::<Pod>(|caches, change, wake| {
            let pod = change.object();
            let tainted =
                caches.get::<Node>("", pods::node(pod)).is_some_and(|node| !no_execute(&node).is_empty());
            // Status changes far more often than what decides here.
            let moved = change.old().is_none_or(|old| old.spec != pod.spec);
            if change.is_deleted() || (tainted && moved) {
                wake(Key::of(&**pod));
            }
        });
        watches.map::<Node>(|caches, change, wake| {
            let new = no_execute(change.object());
            let old = change.old().map(|old| no_execute(old)).unwrap_or_default();
            if new != old {
                for pod in caches.by_index::<Pod>(networking::BY_NODE, object::name(&**change.object())) {
                    wake(Key::of(&*pod));
                }
            }
        });
    }

    fn plan(&self, view: &View<'_>, key: &Key, now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(pod) = view.get_key::<Pod>(key) else {
            self.since.lock().remove(key);
            return plan;
        };
        let node = view.get::<Node>("", pods::node(&pod));
        let taints = node.as_ref().map(|node| no_execute(node)).unwrap_or_default();
        if object::deleting(&*pod) || taints.is_empty() {
            self.since.lock().remove(key);
            return plan;
        }
        let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
        let first_seen = || {
            let mut all = self.since.lock();
            let entry = all.entry(key.clone()).or_insert_with(|| (object::uid(&*pod).to_owned(), now));
            if entry.0 != object::uid(&*pod) {
                *entry = (object::uid(&*pod).to_owned(), now);
            }
            entry.1
        };
        let mut until: Option<Timestamp> = None;
        for taint in taints {
            let end = match tolerated_seconds(taint, tolerations) {
                Tolerated::Never => Timestamp::MIN,
                Tolerated::Forever => continue,
                Tolerated::For(seconds) => {
                    let since = taint.time_added.as_ref().map_or_else(first_seen, |time| time.0);
                    // A pod that was bound to the node after it was tainted has its time from its own start.
                    object::after(since.max(object::created(&*pod)), seconds)
                }
            };
            until = Some(until.map_or(end, |earlier| earlier.min(end)));
        }
        let Some(until) = until else { return plan };
        if now < until {
            plan.requeue_at(until);
            return plan;
        }
        let message = "Taint manager: deleting due to NoExecute taint";
        plan.act(condition::disruption_target(&pod, "DeletionByTaintManager", message, None, now));
        let name = format!("{}/{}", object::namespace(&*pod), object::name(&*pod));
        plan.act(Action::delete(&*pod).with_success(EventSpec::new(
            &*pod,
            EventType::Normal,
            "TaintManagerEviction",
            format!("Marking for deletion Pod {name}"),
        )));
        plan
    }
}

fn no_execute(node: &Node) -> Vec<&Taint> {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    taints.iter().filter(|taint| taint.effect == "NoExecute").collect()
}

enum Tolerated {
    Never,
    Forever,
    For(i64),
}

/// How long a taint is tolerated: by the shortest of the tolerations that match.
fn tolerated_seconds(taint: &Taint, tolerations: &[Toleration]) -> Tolerated {
    let mut matching =
        tolerations.iter().filter(|toleration| node_fit::tolerates_taint(toleration, taint)).peekable();
    if matching.peek().is_none() {
        return Tolerated::Never;
    }
    match matching.filter_map(|toleration| toleration.toleration_seconds).min() {
        Some(seconds) => Tolerated::For(seconds.max(0)),
        None => Tolerated::Forever,
    }
}

#[cfg(test)]
mod tests {
    use reconcile::Fixture;
    use serde_json::{Value, json};

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn fixture(taints: Value, tolerations: Value) -> Fixture<TaintEviction> {
        let node: Node =
            serde_json::from_value(json!({"metadata": {"name": "n"}, "spec": {"taints": taints}})).unwrap();
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "a", "uid": "u"},
            "spec": {"nodeName": "n", "containers": [], "tolerations": tolerations},
        }))
        .unwrap();
        Fixture::new(TaintEviction::default()).with(vec![node]).with(vec![pod])
    }

    #[test]
    fn plans() {
        let taint = |key: &str| json!({"key": key, "effect": "NoExecute", "timeAdded": at(100)});
        let for_300 =
            json!({"key": "x", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300});
        let forever = json!({"operator": "Exists"});
        for (what, taints, tolerations, evicted, again) in [
            ("no taint", json!([]), json!([]), false, None),
            ("only NoSchedule", json!([{"key": "x", "effect": "NoSchedule"}]), json!([]), false, None),
            ("not tolerated", json!([taint("x")]), json!([]), true, None),
            ("tolerated for a time", json!([taint("x")]), json!([for_300]), false, Some(at(400))),
            ("tolerated for ever", json!([taint("x")]), json!([forever]), false, None),
            ("one of two", json!([taint("x"), taint("y")]), json!([for_300]), true, None),
            ("the shortest counts", json!([taint("x")]), json!([for_300, forever]), false, Some(at(400))),
        ] {
            let plan = fixture(taints, tolerations).plan("a", "p", at(200));
            let lines: Vec<_> = plan.actions().map(ToString::to_string).collect();
            let expected: &[&str] = if evicted { &["patch pods/status a/p", "delete pods a/p"] } else { &[] };
            assert_eq!(lines, expected, "{what}");
            assert_eq!(plan.requeue_at, again, "{what}");
        }
    }

    #[test]
    fn a_taint_without_a_time_counts_from_when_it_was_seen() {
        let fixture = fixture(
            json!([{"key": "x", "effect": "NoExecute"}]),
            json!([{"key": "x", "operator": "Exists", "tolerationSeconds": 10}]),
        );
        assert_eq!(fixture.plan("a", "p", at(100)).requeue_at, Some(at(110)));
        assert_eq!(fixture.plan("a", "p", at(105)).requeue_at, Some(at(110)));
        assert_eq!(fixture.lines("a", "p", at(110)).len(), 2);
    }
}
