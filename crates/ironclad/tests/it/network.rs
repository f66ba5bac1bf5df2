//! Names and addresses as pods see them.

use testkit::{Cluster, Kubectl, Options, image, load, wait};

use crate::IRONCLAD;

const MANIFEST: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: IMAGE
        command: [sh, -c, "mkdir /tmp/www; hostname > /tmp/www/index.html; trap 'exit 0' TERM; httpd -f -p 8080 -h /tmp/www & wait"]
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, targetPort: 8080, nodePort: 30080}]}
---
apiVersion: v1
kind: Service
metadata: {name: headless}
spec: {clusterIP: None, selector: {app: web}, ports: [{name: http, port: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec: {selector: {app: nobody}, ports: [{port: 80}]}
"#;

#[test]
fn services_are_reached_by_name_address_and_node_port() {
    let cluster = Cluster::start(Options::node(IRONCLAD));
    cluster.apply(Kubectl::V1_37, &MANIFEST.replace("IMAGE", image::BUSYBOX));
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=90s"]);
    let from_pod = |command: &str| {
        let output = cluster.try_kubectl(&["exec", "deploy/web", "--", "sh", "-c", command]);
        if output.success { Ok(output.stdout) } else { Err(output.stderr) }
    };
    for name in ["web", "web.default", "web.default.svc", "web.default.svc.cluster.local", "headless:8080"] {
        let answer = wait::until(name, || from_pod(&format!("wget -qO- http://{name}")));
        assert!(answer.starts_with("web-"), "{name}: {answer}");
    }
    let addresses = from_pod("nslookup headless.default.svc.cluster.local").unwrap();
    for address in cluster
        .kubectl(&["get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].status.podIP}"])
        .split_whitespace()
    {
        assert!(addresses.contains(address), "{address} is missing in {addresses}");
    }
    let missing = from_pod("nslookup nothing.default.svc.cluster.local").unwrap_err();
    assert!(!missing.is_empty());

    let at_node_port = || cluster.space().within(|| load::get("10.77.0.2:30080".parse().unwrap()));
    wait::until("the node port answers", at_node_port);
    let mut answers: Vec<String> = (0..40).map(|_| at_node_port().unwrap()).collect();
    answers.sort();
    answers.dedup();
    assert_eq!(answers.len(), 2, "both pods answer: {answers:?}");

    // A Service without endpoints refuses at once instead of letting callers wait.
    let nobody = format!("{}:80", cluster.field(&["service", "nobody"], "{.spec.clusterIP}"));
    wait::until("nobody is refused", || {
        match cluster.space().within(|| load::get(nobody.parse().unwrap())) {
            Err(error) if error.contains("refused") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

#[test]
fn a_pod_reaches_itself_through_its_service() {
    let cluster = Cluster::start(Options::node(IRONCLAD));
    cluster.apply(
        Kubectl::V1_37,
        &MANIFEST.replace("IMAGE", image::BUSYBOX).replace("replicas: 2", "replicas: 1"),
    );
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=90s"]);
    wait::until("the pod's own answer comes back", || {
        let output = cluster.try_kubectl(&["exec", "deploy/web", "--", "wget", "-qO-", "http://web"]);
        if output.success { Ok(()) } else { Err(output.stderr) }
    });
}
