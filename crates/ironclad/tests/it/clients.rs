//! Clients and operators written with other people's libraries (the official Python and JavaScript clients, kopf), and an
//! operator that others wrote: the one of Dask, as it is published.
//!
//! What the clients do and expect is in `tests/clients`, in their own languages.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::json;
use testkit::{Cluster, Kubectl, Options, image, tools, wait};

use crate::IRONCLAD;

fn script(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/clients");
    folder.join(name).canonicalize().unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Each part of a script says so when it held: one that is skipped does not go unnoticed.
fn held(said: &str) -> Vec<&str> {
    said.lines().filter_map(|line| line.strip_prefix("held: ")).collect()
}

#[test]
fn the_official_python_client_creates_patches_lists_watches_and_executes() {
    let cluster = Cluster::start(Options::node(IRONCLAD));
    let said = cluster.python(&script("client.py"), &[image::BUSYBOX]);
    let parts =
        ["basics", "patches", "lists_and_watches", "pods", "access", "custom_objects", "everything", "end"];
    assert_eq!(held(&said), parts, "{said}");
}

#[test]
fn the_official_javascript_client_creates_patches_lists_watches_and_executes() {
    let cluster = Cluster::start(Options::node(IRONCLAD));
    let said = cluster.javascript(&script("client.cjs"), &[image::BUSYBOX]);
    let parts = ["basics", "patches", "listsAndWatches", "pods", "customObjects", "end"];
    assert_eq!(held(&said), parts, "{said}");
}

const GARAGES: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: garages.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {kind: Garage, plural: garages, singular: garage}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    additionalPrinterColumns:
    - {name: Cars, type: integer, jsonPath: .spec.cars}
    - {name: Ready, type: integer, jsonPath: .status.ready}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            required: [cars]
            properties: {cars: {type: integer, minimum: 0}, colour: {type: string, default: red}}
          status: {type: object, x-kubernetes-preserve-unknown-fields: true}
"#;

/// The operator as a process beside the cluster, which ends with its value.
struct Operator(Child);

impl Operator {
    fn start(cluster: &Cluster, handlers: &[&str]) -> Operator {
        let log = fs::File::create(cluster.folder().join("operator.log")).unwrap();
        let mut arguments = vec!["-m", "kopf", "run", "--standalone", "--namespace=default"];
        arguments.extend_from_slice(handlers);
        let mut command: Command = cluster.client_command(Path::new("python3"), &arguments);
        command.env("PYTHONPATH", tools::python_packages());
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        Operator(command.spawn().unwrap())
    }

    /// What it has said.
    fn told(cluster: &Cluster) -> String {
        fs::read_to_string(cluster.folder().join("operator.log")).unwrap()
    }

    /// Waits until the objects have the value; what the operator said is in the message if they never do.
    fn expect(cluster: &Cluster, object: &[&str], path: &str, value: &str) {
        wait::until(&format!("{object:?} has {value} at {path}"), || {
            let found = cluster.field(object, path);
            if found == value { Ok(()) } else { Err(format!("{found}\n{}", Operator::told(cluster))) }
        });
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        // timeout(1) hands the signal on.
        let _ = sys::process::kill(self.0.id().cast_signed(), 15);
        let _ = self.0.wait();
    }
}

#[test]
fn an_operator_written_with_kopf_keeps_the_children_of_its_custom_resources() {
    let cluster = Cluster::start(Options::hollow(IRONCLAD, 1));
    cluster.apply(Kubectl::V1_37, GARAGES);
    let operator = Operator::start(&cluster, &[script("operator.py").to_str().unwrap()]);
    let expect = |object: &[&str], path: &str, value: &str| Operator::expect(&cluster, object, path, value);
    let garage = ["garage", "one"];
    cluster.apply(
        Kubectl::V1_37,
        "{apiVersion: example.com/v1, kind: Garage, metadata: {name: one}, spec: {cars: 2}}",
    );
    expect(&garage, "{.status.ready}", "2");
    expect(&garage, "{.status.cars}/{.status.create.built}", "2/true");
    expect(&garage, "{.metadata.finalizers}", r#"["garages.example.com/finalizer"]"#);
    let uid = cluster.field(&garage, "{.metadata.uid}");
    for child in [["deployment", "one"], ["configmap", "one-plan"]] {
        expect(&child, "{.metadata.ownerReferences[0].uid}", &uid);
    }
    expect(&["deployment", "one"], "{.spec.template.spec.containers[0].env[0].value}", "red");
    let row = cluster.kubectl(&["get", "garages", "--no-headers"]);
    assert_eq!(row.split_whitespace().collect::<Vec<_>>(), ["one", "2", "2"]);

    cluster.kubectl(&["patch", "garage", "one", "--type=merge", "--patch={\"spec\":{\"cars\":3}}"]);
    expect(&garage, "{.status.before}/{.status.cars}/{.status.ready}", "2/3/3");
    let generation = cluster.field(&garage, "{.metadata.generation}");
    assert_eq!(generation, "2", "only what users write in the specification counts");
    let built =
        ["events", "--field-selector=involvedObject.kind=Garage,involvedObject.name=one,reason=Built"];
    expect(&built, "{.items[*].message}", "for 2 cars");

    cluster.kubectl(&["delete", "garage", "one", "--timeout=60s"]);
    expect(&["configmap", "one-left"], "{.metadata.name}", "one-left");
    for child in [["deployment", "one"], ["configmap", "one-plan"]] {
        expect(&child, "{.metadata.name}", "");
    }
    drop(operator);
}

const SUMS: &str = r#"
apiVersion: kubernetes.dask.org/v1
kind: DaskCluster
metadata: {name: sums}
spec:
  worker:
    replicas: 2
    spec:
      containers:
      - {name: worker, image: dask, args: [dask-worker, --name, $(DASK_WORKER_NAME)]}
  scheduler:
    spec:
      containers:
      - name: scheduler
        image: dask
        args: [dask-scheduler]
        ports: [{name: tcp-comm, containerPort: 8786}, {name: http-dashboard, containerPort: 8787}]
    service:
      type: ClusterIP
      selector: {dask.org/cluster-name: sums, dask.org/component: scheduler}
      ports:
      - {name: tcp-comm, port: 8786, targetPort: tcp-comm}
      - {name: http-dashboard, port: 8787, targetPort: http-dashboard}
"#;

/// Its definitions are close to a megabyte of schemas; it follows them with kopf and writes with kr8s, pykube and the
/// official client.
#[test]
fn the_operator_of_dask_runs_unchanged() {
    let cluster = Cluster::start(Options::hollow(IRONCLAD, 1));
    let chart = "dask_kubernetes/operator/deployment/helm/dask-kubernetes-operator/crds";
    cluster.kubectl(&["create", "-f", tools::python_packages().join(chart).to_str().unwrap()]);
    let _operator = Operator::start(&cluster, &["-m", "dask_kubernetes.operator.controller"]);
    let expect = |object: &[&str], path: &str, value: &str| Operator::expect(&cluster, object, path, value);

    cluster.apply(Kubectl::V1_37, SUMS);
    // Two of its handlers set the phase: the one of the scheduler's Service that it runs, the one of the creation, when it
    // is done, that it is pending. They may come in this order, and then the Service has to change once more.
    expect(&["daskworkergroup", "sums-default"], "{.metadata.ownerReferences[*].name}", "sums");
    let changes = std::cell::Cell::new(0);
    wait::until("the cluster runs", || {
        let phase = cluster.field(&["daskcluster", "sums"], "{.status.phase}");
        if phase == "Running" {
            return Ok(());
        }
        changes.set(changes.get() + 1);
        let condition = json!({"type": "Seen", "status": "True", "reason": "Seen", "message": changes.get().to_string(),
            "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let status = json!({"status": {"conditions": [condition]}}).to_string();
        cluster.kubectl(&[
            "patch",
            "service",
            "sums-scheduler",
            "--subresource=status",
            "--type=merge",
            "-p",
            &status,
        ]);
        Err(format!("{phase}\n{}", Operator::told(&cluster)))
    });
    expect(&["daskworkergroup", "sums-default"], "{.spec.worker.replicas}", "2");
    let ready = |component: &str, value: &str| {
        let label = format!("--selector=dask.org/cluster-name=sums,dask.org/component={component}");
        expect(&["deployments", &label], "{.items[*].status.readyReplicas}", value);
    };
    ready("scheduler", "1");
    ready("worker", "1 1");
    let uid = cluster.field(&["daskcluster", "sums"], "{.metadata.uid}");
    for child in
        [["daskworkergroup", "sums-default"], ["deployment", "sums-scheduler"], ["service", "sums-scheduler"]]
    {
        expect(&child, "{.metadata.ownerReferences[0].uid}", &uid);
    }
    let row = cluster.kubectl(&["get", "dsk", "--no-headers"]);
    assert_eq!(row.split_whitespace().take(3).collect::<Vec<_>>(), ["sums", "2", "Running"]);

    cluster.kubectl(&["scale", "daskworkergroup", "sums-default", "--replicas=4"]);
    ready("worker", "1 1 1 1");

    cluster.kubectl(&["delete", "daskcluster", "sums", "--timeout=60s"]);
    // Everything follows its owner: the deployments of the workers are the group's, the group is the cluster's.
    for left in ["daskclusters", "daskworkergroups", "deployments", "pods"] {
        wait::until(&format!("{left} are gone"), || match cluster.field(&[left], "{.items[*].metadata}") {
            found if found.is_empty() => Ok(()),
            found => Err(format!("{found}\n{}", cluster.log())),
        });
    }
}
