//! Upstream's conformance tests that need controllers or kubectl, by the files they are in: the same names, the same
//! behaviour, asked of the whole program. Those of the API server alone are in its own crate.
//!
//! Most run on simulated nodes; what looks into a container (`kubectl logs`) has a real one.

mod architecture;
mod crd_publish_openapi;
mod garbage_collector;
mod guestbook;
mod kubectl;
mod kubectl_pods;
mod namespaces;
mod projected_clustertrustbundle;
mod projected_podcertificate;
mod resource_quota;
mod service_accounts;
mod validatingadmissionpolicy;

use serde_json::{Value, json};
use testkit::{Answer, Cluster, Options, wait};

use crate::IRONCLAD;

const JSON: &str = "application/json";

/// A cluster and a namespace in it, and the administrator's requests.
struct World {
    cluster: Cluster,
}

impl World {
    /// On so many simulated nodes.
    fn hollow(nodes: usize) -> Self {
        let world = Self { cluster: Cluster::start(Options::hollow(IRONCLAD, nodes)) };
        world.namespace("e2e");
        world
    }

    /// On one node that runs containers. Needs root.
    fn node() -> Self {
        let world = Self { cluster: Cluster::start(Options::node(IRONCLAD)) };
        world.namespace("e2e");
        world
    }

    /// A new namespace, once pods can be made in it.
    fn namespace(&self, name: &str) -> Value {
        let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        let made = self.create("/api/v1/namespaces", &body);
        let account = format!("/api/v1/namespaces/{name}/serviceaccounts/default");
        self.until(&account, |answer| answer.code == 200);
        made
    }

    fn get(&self, path: &str) -> Answer {
        self.cluster.send("GET", path, JSON, "")
    }

    /// A GET that finds it.
    #[track_caller]
    fn read(&self, path: &str) -> Value {
        expect(self.get(path), 200, path)
    }

    fn post(&self, path: &str, body: &Value) -> Answer {
        self.cluster.send("POST", path, JSON, body.to_string())
    }

    /// A POST that is accepted.
    #[track_caller]
    fn create(&self, path: &str, body: &Value) -> Value {
        expect(self.post(path, body), 201, path)
    }

    fn put(&self, path: &str, body: &Value) -> Answer {
        self.cluster.send("PUT", path, JSON, body.to_string())
    }

    /// A merge patch that is accepted.
    #[track_caller]
    fn patch(&self, path: &str, body: &Value) -> Value {
        let answer = self.cluster.send("PATCH", path, "application/merge-patch+json", body.to_string());
        expect(answer, 200, path)
    }

    /// A DELETE with these options that is accepted.
    #[track_caller]
    fn delete(&self, path: &str, options: Value) {
        let answer = self.cluster.send("DELETE", path, JSON, options.to_string());
        assert!(matches!(answer.code, 200 | 202), "{path}: {}", answer.body);
    }

    /// Asks until the answer is as wanted.
    fn until(&self, path: &str, wanted: impl Fn(&Answer) -> bool) -> Value {
        wait::until(path, || {
            let answer = self.get(path);
            if wanted(&answer) { Ok(answer.body) } else { Err(format!("{} {}", answer.code, answer.body)) }
        })
    }

    /// Waits until it is not there.
    fn until_gone(&self, path: &str) {
        self.until(path, |answer| answer.code == 404);
    }
}

#[track_caller]
fn expect(answer: Answer, code: u16, path: &str) -> Value {
    assert_eq!(answer.code, code, "{path}: {}", answer.body);
    answer.body
}

/// The items of a list.
fn items(list: &Value) -> &[Value] {
    list["items"].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// The options of a deletion that does this with dependents.
fn propagation(policy: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": policy})
}
