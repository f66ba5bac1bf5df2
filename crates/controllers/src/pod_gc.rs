//! Deletes pods that nobody else will: on nodes that are gone, marked for deletion before they had a node, on nodes declared
//! out of service, and the oldest terminated ones beyond a bound.
//!
//! Reads pods and nodes. Deletes pods, after marking them as disrupted.
//! Not here: pods whose owner is gone (the garbage collector), pods on nodes that are only unreachable (taint eviction).
//! Upstream: `pkg/controller/podgc`, which looks every 20 s; here changes wake it, and the only timer is the quarantine.

use std::collections::HashMap;
use std::sync::Arc;

use api::types::core::v1::{Node, Pod};
use client::DeleteOptions;
use jiff::Timestamp;
use parking_lot::Mutex;
use reconcile::{Action, Controller, Key, Plan, View, Watches};

use crate::{condition, networking, object, pods};

/// Upstream's `--terminated-pod-gc-threshold`.
const TERMINATED: usize = 12_500;
/// Upstream's quarantine: a node that vanished may be registering anew.
const QUARANTINE_SECONDS: i64 = 40;
/// The key of the bound on terminated pods. No pod can be called so.
const BOUND: &str = "#terminated";
const BY_PHASE: &str = "terminated";
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// The controller; its keys are pods, and [`BOUND`].
#[derive(Default)]
pub struct PodGc {
    /// Since when each node is missing. A memory that a restart may lose: the quarantine then begins anew.
    missing: Arc<Missing>,
}

/// Since when which nodes are missing.
#[derive(Default)]
struct Missing(Mutex<HashMap<String, Timestamp>>);

impl Missing {
    /// A node is missing now: since when?
    fn since(&self, node: &str, now: Timestamp) -> Timestamp {
        *self.0.lock().entry(node.to_owned()).or_insert(now)
    }

    /// No pod is left on it. Who makes a pod chooses the name of its node, so the names must not stay.
    fn forget(&self, node: &str, is_needed: impl FnOnce() -> bool) {
        if self.0.lock().contains_key(node) && !is_needed() {
            self.0.lock().remove(node);
        }
    }

    /// A node is there: should it go again, its quarantine begins anew.
    fn is_back(&self, node: &str) {
        self.0.lock().remove(node);
    }
}

impl Controller for PodGc {
    const NAME: &'static str = "pod-garbage-collector-controller";

    fn watch(&self, watches: &mut Watches<'_>) {
        watches.read::<Node>();
        watches.index::<Pod>(networking::BY_NODE, networking::by_node);
        watches.index::<Pod>(
            BY_PHASE,
            |pod| {
                if pods::is_terminal(pod) { vec![String::new()] } else { Vec::new() }
            },
        );
        let missing = self.missing.clone();
        watches.map::<Pod>(move |caches, change, wake| {
            let pod = &**change.object();
            if change.is_deleted() {
                let node = pods::node(pod);
                missing.forget(node, || caches.informer::<Pod>().index_len(networking::BY_NODE, node) > 0);
                return;
            }
            if pods::is_terminal(pod) && caches.informer::<Pod>().index_len(BY_PHASE, "") > TERMINATED {
                wake(Key::cluster(BOUND));
            }
            let node = pods::node(pod);
            let nobodys = if node.is_empty() {
                object::deleting(pod)
            } else {
                object::deleting(pod) || caches.get::<Node>("", node).is_none()
            };
            if nobodys {
                wake(Key::of(pod));
            }
        });
        let missing = self.missing.clone();
        watches.map::<Node>(move |caches, change, wake| {
            if !change.is_deleted() {
                missing.is_back(object::name(&**change.object()));
            }
            if change.is_deleted() || out_of_service(change.object()) {
                for pod in caches.by_index::<Pod>(networking::BY_NODE, object::name(&**change.object())) {
                    wake(Key::of(&*pod));
                }
            }
        });
    }

    fn plan(&self, view: &View<'_>, key: &Key, now: Timestamp) -> Plan {
        if key.as_str() == BOUND {
            return bound(view, TERMINATED);
        }
        let mut plan = Plan::nothing();
        let Some(pod) = view.get_key::<Pod>(key) else { return plan };
        let node = pods::node(&pod);
        if node.is_empty() {
            if object::deleting(&*pod) {
                plan.act(delete(&pod));
            }
            return plan;
        }
        if let Some(node) = view.get::<Node>("", node) {
            self.missing.is_back(object::name(&*node));
            if object::deleting(&*pod) && out_of_service(&node) && !networking::is_node_ready(&node) {
                end(&mut plan, &pod, "PodGC: node is out of service", now);
            }
            return plan;
        }
        let since = self.missing.since(node, now);
        let until = object::after(since, QUARANTINE_SECONDS);
        if now < until {
            plan.requeue_at(until);
            return plan;
        }
        // The cache may lag: only the server's word is final.
        let path = client::Endpoint::of::<Node>().path(None, Some(node), None);
        match view.answers().get(&path) {
            None => {
                plan.ask(path);
            }
            Some(Err(status)) if status.is_not_found() => {
                end(&mut plan, &pod, "PodGC: node no longer exists", now);
            }
            Some(Ok(_)) => self.missing.is_back(node),
            Some(Err(_)) => plan.retry = true,
        }
        plan
    }
}

/// Ends a pod whose kubelet will not: marks it failed unless it has ended, and deletes it at once.
fn end(plan: &mut Plan, pod: &Pod, message: &str, now: Timestamp) {
    if !pods::is_terminal(pod) {
        plan.act(condition::disruption_target(pod, "DeletionByPodGC", message, Some("Failed"), now));
    }
    plan.act(delete(pod));
}

fn delete(pod: &Pod) -> Action {
    Action::delete_with(pod, DeleteOptions::uid(object::uid(pod)).with_grace_period(0))
}

fn out_of_service(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    taints.iter().any(|taint| taint.key == OUT_OF_SERVICE)
}

/// Deletes the oldest terminated pods beyond the bound, evicted ones first.
fn bound(view: &View<'_>, threshold: usize) -> Plan {
    let mut plan = Plan::nothing();
    let mut terminated = view.by_index::<Pod>(BY_PHASE, "");
    let Some(excess) = terminated.len().checked_sub(threshold).filter(|excess| *excess > 0) else {
        return plan;
    };
    let evicted = |pod: &Pod| pod.status.as_ref().and_then(|s| s.reason.as_deref()) == Some("Evicted");
    terminated.sort_by_key(|pod| (!evicted(pod), object::created(&**pod)));
    plan.parallel(terminated.iter().take(excess).map(|pod| delete(pod)).collect());
    plan
}

#[cfg(test)]
mod tests {
    use reconcile::Fixture;
    use serde_json::{Value, json};

    use super::*;

    fn pod(meta: Value, node: &str, phase: &str) -> Pod {
        let mut meta = meta;
        meta["namespace"] = json!("a");
        meta["uid"] = json!("u");
        serde_json::from_value(json!({
            "metadata": meta,
            "spec": {"nodeName": node, "containers": []},
            "status": {"phase": phase},
        }))
        .unwrap()
    }

    const LATER: &str = "2026-01-01T00:00:00Z";

    #[test]
    fn plans_for_one_pod() {
        let gone = ["patch pods/status a/p", "delete pods a/p"];
        let node: Node = serde_json::from_value(json!({"metadata": {"name": "n"}})).unwrap();
        let dead: Node = serde_json::from_value(json!({
            "metadata": {"name": "n"},
            "spec": {"taints": [{"key": OUT_OF_SERVICE, "effect": "NoExecute"}]},
            "status": {"conditions": [{"type": "Ready", "status": "Unknown"}]},
        }))
        .unwrap();
        let deleting = json!({"name": "p", "deletionTimestamp": LATER});
        for (what, pod, nodes, expected) in [
            ("it runs", pod(json!({"name": "p"}), "n", "Running"), vec![node.clone()], &[][..]),
            ("waits for a node", pod(json!({"name": "p"}), "", "Pending"), vec![], &[]),
            ("marked before it had a node", pod(deleting.clone(), "", "Pending"), vec![], &gone[1..]),
            ("its kubelet will end it", pod(deleting.clone(), "n", "Running"), vec![node], &[]),
            ("its node is out of service", pod(deleting, "n", "Running"), vec![dead], &gone),
        ] {
            let fixture = Fixture::new(PodGc::default()).with(vec![pod]).with(nodes);
            assert_eq!(fixture.lines("a", "p", Timestamp::UNIX_EPOCH), expected, "{what}");
        }
    }

    #[test]
    fn a_node_that_goes_again_has_its_quarantine_again() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let missing = Missing::default();
        assert_eq!((missing.since("n", at(1)), missing.since("n", at(2))), (at(1), at(1)));
        missing.is_back("n");
        assert_eq!(missing.since("n", at(3)), at(3));
    }

    #[test]
    fn a_node_that_never_was_is_forgotten_with_its_last_pod() {
        let pods = |names: &[&str]| -> Vec<Pod> {
            names.iter().map(|name| pod(json!({"name": name, "uid": name}), "invented", "Running")).collect()
        };
        let known = |fixture: &Fixture<PodGc>| fixture.controller().missing.0.lock().len();
        let fixture = Fixture::new(PodGc::default()).with(pods(&["p", "q"]));
        fixture.plan("a", "p", Timestamp::UNIX_EPOCH);
        let fixture = fixture.with(pods(&["q"]));
        assert_eq!(known(&fixture), 1, "one is left");
        let fixture = fixture.with(pods(&[]));
        assert_eq!(known(&fixture), 0);
    }

    #[test]
    fn a_missing_node_is_asked_for_after_the_quarantine() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let fixture = Fixture::new(PodGc::default()).with(vec![pod(json!({"name": "p"}), "n", "Running")]);
        let plan = fixture.plan("a", "p", at(100));
        assert_eq!((plan.actions().count(), plan.requeue_at), (0, Some(at(140))));
        let plan = fixture.plan("a", "p", at(140));
        assert_eq!((plan.actions().count(), plan.questions), (0, vec!["/api/v1/nodes/n".to_owned()]));
        let fixture = fixture.with_answer(
            "/api/v1/nodes/n",
            Err(api::Status::service_unavailable("the server is overloaded")),
        );
        let plan = fixture.plan("a", "p", at(140));
        assert_eq!((plan.actions().count(), plan.retry), (0, true), "that is no answer");
        let missing = api::Status::not_found(&api::GroupResource::new("", "nodes"), "n");
        let fixture = fixture.with_answer("/api/v1/nodes/n", Err(missing));
        assert_eq!(fixture.lines("a", "p", at(140)), ["patch pods/status a/p", "delete pods a/p"]);
        let fixture = fixture.with_answer("/api/v1/nodes/n", Ok(json!({})));
        assert!(fixture.lines("a", "p", at(140)).is_empty(), "the node is back");
    }
}
