//! helm v4 with a chart that has what real charts have: a CustomResourceDefinition and an object of it, hooks of every
//! phase, a test, and workloads.

use std::fs;

use serde_json::Value;
use testkit::{Cluster, Options};

use crate::IRONCLAD;

const CHART: &[(&str, &str)] = &[
    ("Chart.yaml", "{apiVersion: v2, name: shop, version: 1.0.0, appVersion: '1'}"),
    ("values.yaml", "{replicas: 1, greeting: hello}"),
    (
        "crds/widgets.yaml",
        r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.shop.example.com}
spec:
  group: shop.example.com
  scope: Namespaced
  names: {kind: Widget, plural: widgets, singular: widget, shortNames: [wd]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            required: [label]
            properties:
              label: {type: string}
              size: {type: integer, default: 3}
              parts: {type: array, x-kubernetes-list-type: set, items: {type: string}}
          status: {type: object, x-kubernetes-preserve-unknown-fields: true}
"#,
    ),
    (
        "templates/objects.yaml",
        r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: "{{ .Release.Name }}-settings"}
data: {greeting: "{{ .Values.greeting }}"}
---
apiVersion: v1
kind: Service
metadata: {name: "{{ .Release.Name }}-web"}
spec: {selector: {app: "{{ .Release.Name }}"}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: "{{ .Release.Name }}-web"}
spec:
  replicas: {{ .Values.replicas }}
  selector: {matchLabels: {app: "{{ .Release.Name }}"}}
  template:
    metadata: {labels: {app: "{{ .Release.Name }}"}}
    spec:
      containers:
      - name: web
        image: none
        ports: [{name: http, containerPort: 8080}]
        env: [{name: GREETING, value: "{{ .Values.greeting }}"}]
---
apiVersion: shop.example.com/v1
kind: Widget
metadata: {name: "{{ .Release.Name }}-widget"}
spec: {label: "{{ .Values.greeting }}", parts: [a, b]}
"#,
    ),
    (
        "templates/hooks.yaml",
        r#"
{{- range $moment := list "pre" "post" }}
{{- range $what := list "install" "upgrade" "rollback" "delete" }}
{{- $phase := printf "%s-%s" $moment $what }}
---
apiVersion: batch/v1
kind: Job
metadata:
  name: "{{ $.Release.Name }}-{{ $phase }}"
  annotations:
    helm.sh/hook: {{ $phase }}
    helm.sh/hook-delete-policy: before-hook-creation
spec:
  template:
    metadata: {annotations: {hollow.ironclad.dev/complete-after: "50"}}
    spec: {restartPolicy: Never, containers: [{name: work, image: none}]}
{{- end }}
{{- end }}
---
apiVersion: v1
kind: Pod
metadata:
  name: "{{ .Release.Name }}-test"
  annotations: {helm.sh/hook: test, hollow.ironclad.dev/complete-after: "50"}
spec: {restartPolicy: Never, containers: [{name: test, image: none}]}
"#,
    ),
];

fn chart(cluster: &Cluster) -> String {
    let folder = cluster.folder().join("shop");
    for (name, content) in CHART {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    folder.to_str().unwrap().to_owned()
}

/// The release's revision and status as helm tells them.
fn release(cluster: &Cluster, name: &str) -> (String, String) {
    let list: Value = serde_json::from_str(&cluster.helm(&["list", "-o", "json"])).unwrap();
    let release = list.as_array().unwrap().iter().find(|release| release["name"] == name);
    let release = release.unwrap_or_else(|| panic!("{name} is not in {list}"));
    (release["revision"].as_str().unwrap().to_owned(), release["status"].as_str().unwrap().to_owned())
}

fn expect(cluster: &Cluster, name: &str, revision: &str, greeting: &str, replicas: &str) {
    assert_eq!(release(cluster, name), (revision.to_owned(), "deployed".to_owned()));
    let of = |kind: &str, suffix: &str, path: &str| cluster.field(&[kind, &format!("{name}-{suffix}")], path);
    assert_eq!(of("configmap", "settings", "{.data.greeting}"), greeting);
    assert_eq!(of("widget", "widget", "{.spec.label}/{.spec.size}"), format!("{greeting}/3"));
    assert_eq!(of("deployment", "web", "{.spec.template.spec.containers[0].env[0].value}"), greeting);
    assert_eq!(
        of("deployment", "web", "{.spec.replicas}/{.status.availableReplicas}"),
        format!("{replicas}/{replicas}")
    );
}

fn ran(cluster: &Cluster, job: &str) -> bool {
    cluster.field(&["job", job], "{.status.conditions[?(@.type=='Complete')].status}") == "True"
}

/// Whether the hooks before and after have done their work.
fn hooks_ran(cluster: &Cluster, phase: &str) -> bool {
    ["pre", "post"].iter().all(|moment| ran(cluster, &format!("shop-{moment}-{phase}")))
}

#[test]
fn helm_installs_upgrades_rolls_back_and_deletes_a_chart_with_hooks_and_definitions() {
    let cluster = Cluster::start(Options::hollow(IRONCLAD, 1));
    let chart = chart(&cluster);
    let wait = ["--wait", "--timeout=90s"];
    let helm = |arguments: &[&str]| cluster.helm(&[arguments, &wait].concat());

    let told = helm(&["install", "shop", &chart]);
    assert!(told.contains("STATUS: deployed"), "{told}");
    expect(&cluster, "shop", "1", "hello", "1");
    assert!(hooks_ran(&cluster, "install"));
    assert!(!ran(&cluster, "shop-post-upgrade"), "only the hooks of the phase run");
    let tested = cluster.helm(&["test", "shop"]);
    assert!(tested.contains("Succeeded"), "{tested}");

    helm(&["upgrade", "shop", &chart, "--set=greeting=bye,replicas=2"]);
    expect(&cluster, "shop", "2", "bye", "2");
    assert!(hooks_ran(&cluster, "upgrade"));

    // What another has changed since is a conflict, which the user decides.
    cluster.kubectl(&["scale", "deployment", "shop-web", "--replicas=3"]);
    let refused = cluster.try_helm(&["upgrade", "shop", &chart, "--set=greeting=again,replicas=1"]);
    assert!(!refused.success, "{refused:?}");
    let conflict = "conflict with \"kubectl-1.37\" with subresource \"scale\" using apps/v1: .spec.replicas";
    assert!(refused.stderr.contains(conflict), "{}", refused.stderr);
    helm(&["upgrade", "shop", &chart, "--set=greeting=again,replicas=1", "--force-conflicts"]);
    expect(&cluster, "shop", "4", "again", "1");

    helm(&["rollback", "shop", "2"]);
    expect(&cluster, "shop", "5", "bye", "2");
    assert!(hooks_ran(&cluster, "rollback"));
    let history = cluster.helm(&["history", "shop"]);
    assert!(history.contains("Rollback to 2"), "{history}");

    helm(&["uninstall", "shop"]);
    assert!(hooks_ran(&cluster, "delete"));
    for object in ["deployment/shop-web", "service/shop-web", "configmap/shop-settings", "widget/shop-widget"]
    {
        let gone = cluster.try_kubectl(&["get", object]);
        assert!(gone.stderr.contains("(NotFound)"), "{object}: {gone:?}");
    }
    assert_eq!(cluster.kubectl(&["get", "secrets", "-l", "owner=helm", "-o", "name"]), "");
    assert_eq!(
        cluster.kubectl(&["get", "crd", "-o", "name"]).lines().count(),
        1,
        "helm leaves definitions alone"
    );
}

#[test]
fn helm_without_server_side_apply_patches_as_helm_3_did() {
    let cluster = Cluster::start(Options::hollow(IRONCLAD, 1));
    let chart = chart(&cluster);
    let how = ["--server-side=false", "--no-hooks", "--wait", "--timeout=90s"];
    let helm = |arguments: &[&str]| cluster.helm(&[arguments, &how].concat());
    helm(&["install", "old", &chart]);
    expect(&cluster, "old", "1", "hello", "1");
    // A three-way merge: what another has added stays.
    cluster.kubectl(&["set", "env", "deployment/old-web", "OTHER=kept"]);
    helm(&["upgrade", "old", &chart, "--set=greeting=bye,replicas=2"]);
    expect(&cluster, "old", "2", "bye", "2");
    let kept = cluster.field(&["deployment", "old-web"], "{.spec.template.spec.containers[0].env[1].value}");
    assert_eq!(kept, "kept");
    helm(&["rollback", "old", "1"]);
    expect(&cluster, "old", "3", "hello", "1");
    cluster.helm(&["uninstall", "old", "--no-hooks", "--wait"]);
    assert_eq!(cluster.kubectl(&["get", "deployments,widgets", "-o", "name"]), "");
}
