//! Simulated nodes: a whole cluster without root.

use testkit::{Cluster, Kubectl, Options};

use crate::IRONCLAD;

#[test]
fn simulated_nodes_run_pods_in_name_only() {
    let cluster = Cluster::start(Options::hollow(IRONCLAD, 3));
    assert_eq!(cluster.kubectl(&["get", "nodes", "--no-headers"]).lines().count(), 3);
    cluster.apply(
        Kubectl::V1_37,
        "{apiVersion: apps/v1, kind: Deployment, metadata: {name: many}, spec: {replicas: 30, selector: \
         {matchLabels: {app: many}}, template: {metadata: {labels: {app: many}}, spec: {containers: [{name: one, \
         image: none, resources: {requests: {cpu: 10m}}}]}}}}",
    );
    cluster.kubectl(&["rollout", "status", "deployment/many", "--timeout=90s"]);
    let nodes =
        cluster.kubectl(&["get", "pods", "-o", "jsonpath={range .items[*]}{.spec.nodeName}{\"\\n\"}{end}"]);
    let mut nodes: Vec<&str> = nodes.lines().collect();
    assert_eq!(nodes.len(), 30);
    nodes.sort_unstable();
    nodes.dedup();
    assert_eq!(nodes.len(), 3, "the scheduler spreads them over all nodes: {nodes:?}");
    cluster.kubectl(&["delete", "deployment", "many", "--timeout=60s"]);
    cluster.kubectl(&["wait", "--for=delete", "pod", "-l", "app=many", "--timeout=60s"]);
}

#[test]
fn a_restart_keeps_every_object() {
    let mut cluster = Cluster::start(Options::hollow(IRONCLAD, 1));
    cluster.kubectl(&["create", "configmap", "kept", "--from-literal=a=b"]);
    let before = cluster.field(&["configmap", "kept"], "{.metadata.uid}/{.metadata.resourceVersion}");
    cluster.kill_server();
    cluster.start_server();
    assert_eq!(cluster.field(&["configmap", "kept"], "{.metadata.uid}/{.metadata.resourceVersion}"), before);
}
