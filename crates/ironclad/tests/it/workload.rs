//! A workload with everything a first one has, through its whole life under kubectl, on both runtimes.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

use testkit::{Cluster, Kubectl, Options, image, load, wait};

use crate::IRONCLAD;

/// A Deployment with a ConfigMap, a Secret and all three probes, and its Service.
fn manifest() -> String {
    format!(
        r#"
apiVersion: v1
kind: Namespace
metadata: {{name: shop}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: settings, namespace: shop}}
data: {{greeting: hello, page.txt: "from a config map\n"}}
---
apiVersion: v1
kind: Secret
metadata: {{name: keys, namespace: shop}}
stringData: {{password: s3cret}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web, namespace: shop, labels: {{app: web}}}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 1
      initContainers:
      - name: prepare
        image: {image}
        command: [sh, -c, "cat /config/page.txt > /www/index.html"]
        volumeMounts: [{{name: config, mountPath: /config}}, {{name: www, mountPath: /www}}]
      containers:
      - name: web
        image: {image}
        command: [sh, -c, "echo $GREETING from $POD; trap 'exit 0' TERM; httpd -f -p 8080 -h /www & wait"]
        ports: [{{name: http, containerPort: 8080}}]
        env:
        - {{name: GREETING, valueFrom: {{configMapKeyRef: {{name: settings, key: greeting}}}}}}
        - {{name: PASSWORD, valueFrom: {{secretKeyRef: {{name: keys, key: password}}}}}}
        - {{name: POD, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}
        startupProbe: {{httpGet: {{path: /, port: http}}, periodSeconds: 1, failureThreshold: 30}}
        livenessProbe: {{tcpSocket: {{port: http}}, periodSeconds: 2}}
        readinessProbe: {{exec: {{command: [test, -f, /www/index.html]}}, periodSeconds: 1}}
        resources: {{requests: {{cpu: 10m, memory: 8Mi}}, limits: {{memory: 64Mi}}}}
        volumeMounts:
        - {{name: www, mountPath: /www}}
        - {{name: keys, mountPath: /keys, readOnly: true}}
      volumes:
      - {{name: config, configMap: {{name: settings}}}}
      - {{name: keys, secret: {{secretName: keys}}}}
      - {{name: www, emptyDir: {{}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: shop}}
spec: {{selector: {{app: web}}, ports: [{{port: 80, targetPort: http}}]}}
"#,
        image = image::BUSYBOX
    )
}

fn lives_its_life(cluster: &Cluster, version: Kubectl) {
    let kubectl = |arguments: &[&str]| {
        let arguments: Vec<&str> = ["-n", "shop"].iter().chain(arguments).copied().collect();
        cluster.kubectl_of(version, &arguments)
    };
    let rolled_out = || kubectl(&["rollout", "status", "deployment/web", "--timeout=90s"]);

    let applied = cluster.apply(version, &manifest());
    assert!(applied.contains("deployment.apps/web created"), "{applied}");
    assert!(rolled_out().contains("successfully rolled out"));
    let again = cluster.apply(version, &manifest());
    assert!(again.contains("deployment.apps/web unchanged"), "{again}");

    let wide = kubectl(&["get", "pods", "-o", "wide", "--no-headers"]);
    assert_eq!(wide.lines().count(), 2, "{wide}");
    for line in wide.lines() {
        let cells: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(cells[1..4], ["1/1", "Running", "0"], "{line}");
        assert!(cells[5].starts_with("10.42."), "{line}");
        assert_eq!(cells[6], "node-1", "{line}");
    }
    let described = kubectl(&["describe", "pod", "-l", "app=web"]);
    for part in [
        "Controlled By:  ReplicaSet/web-",
        "QoS Class:                   Burstable",
        "<set to the key 'greeting' of config map 'settings'>",
        "Started",
        "Scheduled",
    ] {
        assert!(described.contains(part), "{part:?} is missing in:\n{described}");
    }
    assert!(kubectl(&["describe", "deployment", "web"]).contains("Scaled up replica set web-"));

    let pod = kubectl(&["get", "pods", "-o", "jsonpath={.items[0].metadata.name}"]);
    assert_eq!(kubectl(&["logs", &pod]), format!("hello from {pod}\n"));
    follows_logs(cluster, version, &pod);
    let told = kubectl(&["exec", &pod, "--", "sh", "-c", "echo $PASSWORD; cat /keys/password; hostname"]);
    assert_eq!(told, format!("s3cret\ns3cret{pod}\n"));
    let failed = cluster.try_kubectl(&["-n", "shop", "exec", &pod, "--", "sh", "-c", "exit 3"]);
    assert!(failed.stderr.contains("exit code 3"), "{failed:?}");
    assert_eq!(kubectl(&["exec", &pod, "--", "wget", "-qO-", "http://web"]), "from a config map\n");
    executes_as_older_clients_do(cluster, version, &pod);

    forwards_ports(cluster, version, &pod);

    kubectl(&["scale", "deployment/web", "--replicas=3"]);
    rolled_out();
    assert_eq!(kubectl(&["get", "deployment", "web", "-o", "jsonpath={.status.readyReplicas}"]), "3");

    kubectl(&["set", "image", "deployment/web", &format!("web={}", image::BUSYBOX_2)]);
    rolled_out();
    let images = || kubectl(&["get", "pods", "-l", "app=web", "-o", "jsonpath={..spec.containers[0].image}"]);
    assert!(images().contains(image::BUSYBOX_2), "{}", images());
    assert_eq!(kubectl(&["rollout", "history", "deployment/web"]).matches("<none>").count(), 2);
    kubectl(&["rollout", "undo", "deployment/web"]);
    rolled_out();
    wait::until("all pods have the first image again", || {
        let images = images();
        if images.contains(image::BUSYBOX_2) { Err(images) } else { Ok(()) }
    });

    kubectl(&["delete", "deployment/web", "service/web", "configmap/settings", "--timeout=60s"]);
    kubectl(&["wait", "--for=delete", "pod", "-l", "app=web", "--timeout=60s"]);
    cluster.kubectl_of(version, &["delete", "namespace", "shop", "--timeout=60s"]);
    let gone = cluster.try_kubectl(&["get", "namespace", "shop"]);
    assert!(gone.stderr.contains("(NotFound)"), "{gone:?}");
}

/// `logs -f` shows what a container says after the command was started.
fn follows_logs(cluster: &Cluster, version: Kubectl, pod: &str) {
    let mut follower = cluster
        .kubectl_command(version, &["-n", "shop", "logs", "-f", pod])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().starts_with("hello from"));
    cluster.kubectl_of(version, &["-n", "shop", "exec", pod, "--", "sh", "-c", "echo later > /proc/1/fd/1"]);
    assert_eq!(lines.next().unwrap().unwrap(), "later");
    follower.kill().unwrap();
    follower.wait().unwrap();
}

/// SPDY instead of WebSocket: input to its end, both outputs, and the exit code.
fn executes_as_older_clients_do(cluster: &Cluster, version: Kubectl, pod: &str) {
    let script = "echo no >&2; cat; exit 3";
    let mut command =
        cluster.kubectl_command(version, &["-n", "shop", "exec", "-i", pod, "--", "sh", "-c", script]);
    command.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false");
    // Many frames.
    let input = "0123456789abcdef\n".repeat(1 << 14);
    let output = testkit::run(command, &input);
    assert!(!output.success && output.stdout == input, "{} bytes, {}", output.stdout.len(), output.stderr);
    assert!(output.stderr.contains("no\n") && output.stderr.contains("exit code 3"), "{}", output.stderr);
}

/// `port-forward` serves one connection after the other, and tells of a port where nobody listens.
fn forwards_ports(cluster: &Cluster, version: Kubectl, pod: &str) {
    let mut forwarder = cluster
        .kubectl_command(version, &["-n", "shop", "port-forward", pod, ":8080", ":9"])
        // The older one as still older ones do: SPDY without a WebSocket around it.
        .env("KUBECTL_PORT_FORWARD_WEBSOCKETS", (version != Kubectl::V1_32).to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(forwarder.stdout.take().unwrap()).lines();
    let mut complaints = BufReader::new(forwarder.stderr.take().unwrap()).lines();
    // One line each for IPv4, and for IPv6 where there is one: `Forwarding from 127.0.0.1:40123 -> 8080`.
    let mut local = |port: &str| loop {
        let line = lines.next().unwrap().unwrap();
        let rest = line.strip_prefix("Forwarding from 127.0.0.1:");
        if let Some(number) = rest.and_then(|rest| rest.strip_suffix(&format!(" -> {port}"))) {
            break std::net::SocketAddr::from(([127, 0, 0, 1], number.parse().unwrap()));
        }
    };
    let (web, nobody) = (local("8080"), local("9"));
    for _ in 0..3 {
        assert_eq!(cluster.space().within(|| load::get(web)), Ok("from a config map".to_owned()));
    }
    assert!(cluster.space().within(|| load::get(nobody)).is_err());
    let complaint = complaints.next().unwrap().unwrap();
    assert!(complaint.contains("error forwarding port 9 to pod"), "{complaint}");
    forwarder.kill().unwrap();
    forwarder.wait().unwrap();
}

#[test]
fn a_workload_lives_its_life_under_kubectl_1_32() {
    lives_its_life(&Cluster::start(Options::node(IRONCLAD)), Kubectl::V1_32);
}

#[test]
fn a_workload_lives_its_life_under_kubectl_1_37() {
    lives_its_life(&Cluster::start(Options::node(IRONCLAD)), Kubectl::V1_37);
}

#[test]
fn a_workload_lives_its_life_on_containerd() {
    lives_its_life(&Cluster::start(Options::containerd(IRONCLAD)), Kubectl::V1_37);
}

#[test]
fn a_job_runs_to_its_end_and_its_pods_go_with_it() {
    let cluster = Cluster::start(Options::node(IRONCLAD));
    cluster.apply(
        Kubectl::V1_37,
        &format!(
            "{{apiVersion: batch/v1, kind: Job, metadata: {{name: sum}}, spec: {{completions: 3, parallelism: 2, \
             template: {{spec: {{restartPolicy: Never, containers: [{{name: sum, image: {}, \
             command: [sh, -c, 'echo $((40 + 2))']}}]}}}}}}}}",
            image::BUSYBOX
        ),
    );
    cluster.kubectl(&["wait", "--for=condition=Complete", "job/sum", "--timeout=60s"]);
    assert_eq!(cluster.field(&["job", "sum"], "{.status.succeeded}"), "3");
    assert_eq!(cluster.kubectl(&["logs", "job/sum"]), "42\n");
    cluster.kubectl(&["delete", "job", "sum", "--timeout=60s"]);
    cluster.kubectl(&["wait", "--for=delete", "pod", "-l", "job-name=sum", "--timeout=60s"]);
}
