//! `ironclad uninstall`.

use std::fs;

use testkit::{Cluster, Kubectl, Options, image};

use crate::IRONCLAD;

#[test]
fn uninstall_leaves_no_trace() {
    let mut cluster = Cluster::start(Options::node(IRONCLAD));
    let space = |script: &str| cluster.space().output("sh", &["-c", script]);
    let pods = "find /sys/fs/cgroup -depth -type d -name 'pod*' | sort";
    cluster.apply(
        Kubectl::V1_37,
        &format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: web}}, spec: {{containers: [{{name: web, image: {}, \
             command: [httpd, -f, -p, '8080'], ports: [{{containerPort: 8080, hostPort: 18080}}], \
             volumeMounts: [{{name: scratch, mountPath: /scratch}}]}}], \
             volumes: [{{name: scratch, emptyDir: {{medium: Memory}}}}]}}}}",
            image::BUSYBOX
        ),
    );
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/web", "--timeout=60s"]);
    let uid = cluster.field(&["pod", "web"], "{.metadata.uid}");
    assert!(space(pods).contains(&uid), "the pod has control groups");
    assert!(!space("nft list tables").is_empty());

    let output = cluster.ironclad(&["uninstall"]);
    assert!(output.success, "{}", output.stderr);

    assert_eq!(space("nft list tables"), "", "no rules are left");
    let links = space("ip -brief link");
    let names: Vec<&str> = links.lines().filter_map(|line| line.split(['@', ' ']).next()).collect();
    assert_eq!(names, ["lo", "uplink", "eth0"], "no links are left");
    let data = cluster.data_dir();
    let mounts = space("cat /proc/self/mountinfo");
    assert!(!mounts.contains(&*data.to_string_lossy()), "no mounts are left: {mounts}");
    assert!(!mounts.contains("nsfs"), "no namespaces are left: {mounts}");
    assert!(!space(pods).contains(&uid), "no control groups are left");
    assert!(cluster.space().processes("httpd -f").is_empty(), "no containers are left");
    assert!(
        cluster.space().processes(&data.to_string_lossy()).is_empty(),
        "neither server nor supervisors are left"
    );
    assert!(!data.exists(), "no files are left");
    let run = cluster.space().root().join("run/ironclad");
    assert_eq!(fs::read_dir(run).map_or(0, Iterator::count), 0, "no runtime state is left");
    cluster.forget_server();
}
