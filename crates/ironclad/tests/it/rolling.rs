//! A rolling update under load.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
};

use testkit::{Cluster, Kubectl, Options, image, load, wait};

use crate::IRONCLAD;

/// Three web servers that say which version they are; each goes on serving for a second after it was told to end, as
/// every well-behaved server does, because proxies learn of an end a little later.
fn manifest() -> String {
    format!(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: 3
  selector: {{matchLabels: {{app: web}}}}
  strategy: {{rollingUpdate: {{maxUnavailable: 0, maxSurge: 1}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 5
      containers:
      - name: web
        image: {image}
        command: [sh, -c, "mkdir /tmp/www; echo $VERSION > /tmp/www/index.html; trap 'exit 0' TERM; httpd -f -p 8080 -h /tmp/www & wait"]
        env: [{{name: VERSION, value: "one"}}]
        readinessProbe: {{httpGet: {{path: /, port: 8080}}, periodSeconds: 1}}
        lifecycle: {{preStop: {{sleep: {{seconds: 1}}}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec: {{selector: {{app: web}}, ports: [{{port: 80, targetPort: 8080}}]}}
"#,
        image = image::BUSYBOX
    )
}

#[test]
fn a_rolling_update_fails_no_request() {
    let cluster = Cluster::start(Options::node(IRONCLAD));
    cluster.apply(Kubectl::V1_37, &manifest());
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=90s"]);
    let address: SocketAddr =
        format!("{}:80", cluster.field(&["service", "web"], "{.spec.clusterIP}")).parse().unwrap();
    wait::until("the Service answers", || cluster.space().within(|| load::get(address)));
    let stop = AtomicBool::new(false);
    let report = std::thread::scope(|scope| {
        let client = scope.spawn(|| cluster.space().within(|| load::run(address, &stop)));
        // The client must end also when an assertion below fails, or the test would hang.
        let update = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            cluster.kubectl(&["set", "env", "deployment/web", "VERSION=two"]);
            cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=90s"]);
            wait::until("only new pods are left", || {
                let pods = cluster.kubectl(&["get", "pods", "-l", "app=web", "--no-headers"]);
                if pods.lines().count() == 3 { Ok(()) } else { Err(pods) }
            });
        }));
        stop.store(true, Ordering::Relaxed);
        let report = client.join().unwrap();
        update.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        report
    });
    assert!(report.failures.is_empty(), "{} answered, failed: {:#?}", report.answered, report.failures);
    assert_eq!(report.answers, ["one", "two"], "{} answered", report.answered);
}
