//! The server ends, by force or in order, and comes back; pods do not notice.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
};

use testkit::{Cluster, Kubectl, Options, image, load, wait};

use crate::IRONCLAD;

/// A text in the command line of the test's server, and nowhere else.
const MARK: &str = "httpd -f -p 8080 -h /tmp";

fn start_web_server(cluster: &Cluster) -> SocketAddr {
    let manifest = format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: web}}, spec: {{terminationGracePeriodSeconds: 1, containers: \
         [{{name: web, image: {}, command: [httpd, -f, -p, '8080', -h, /tmp], \
         lifecycle: {{postStart: {{exec: {{command: [sh, -c, 'echo here > /tmp/index.html']}}}}}}}}]}}}}",
        image::BUSYBOX
    );
    cluster.apply(Kubectl::V1_37, &manifest);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/web", "--timeout=60s"]);
    format!("{}:8080", cluster.field(&["pod", "web"], "{.status.podIP}")).parse().unwrap()
}

#[test]
fn killing_the_server_disturbs_no_pod_and_the_next_start_adopts_them() {
    let mut cluster = Cluster::start(Options::node(IRONCLAD));
    let address = start_web_server(&cluster);
    let before = cluster.space().processes(MARK);
    assert!(!before.is_empty(), "the web server's process is not found");
    let (containers, restarts) =
        (cluster.field(&["pod", "web"], "{.metadata.uid}"), cluster.restarts("default"));
    assert_eq!(restarts.len(), 1);

    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Opened here: the server's restart needs the cluster for itself.
        let root = std::fs::File::open(cluster.space().root().join("proc/1/ns/net")).unwrap();
        let client = scope.spawn({
            let stop = &stop;
            move || sys::netlink::within(&root, || load::run(address, stop)).unwrap()
        });
        let outage = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            cluster.kill_server();
            cluster.start_server();
        }));
        stop.store(true, Ordering::Relaxed);
        let report = client.join().unwrap();
        outage.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        assert!(report.failures.is_empty(), "{:#?}", report.failures);
        assert_eq!(report.answers, ["here"]);
    });

    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/web", "--timeout=60s"]);
    assert_eq!(cluster.space().processes(MARK), before, "the same processes run");
    assert_eq!(cluster.field(&["pod", "web"], "{.metadata.uid}"), containers);
    assert_eq!(cluster.restarts("default"), restarts, "the same containers, none restarted");
    // An adopted container is as good as any other.
    assert_eq!(cluster.kubectl(&["exec", "web", "--", "echo", "yes"]), "yes\n");
    cluster.kubectl(&["delete", "pod", "web", "--timeout=60s"]);
    assert!(cluster.space().processes(MARK).is_empty());
}

#[test]
fn an_orderly_stop_leaves_pods_running_and_a_second_start_goes_on() {
    let mut cluster = Cluster::start(Options::node(IRONCLAD));
    let address = start_web_server(&cluster);
    let before = cluster.space().processes(MARK);
    cluster.stop_server();
    assert_eq!(cluster.space().within(|| load::get(address)), Ok("here".to_owned()));
    cluster.start_server();
    assert_eq!(cluster.space().processes(MARK), before);
    assert_eq!(cluster.field(&["pod", "web"], "{.status.phase}"), "Running");
}

#[test]
fn stop_pods_takes_the_pods_along() {
    let mut cluster = Cluster::start(Options::node(IRONCLAD).flag("--stop-pods"));
    start_web_server(&cluster);
    cluster.stop_server();
    wait::until("no process is left", || match cluster.space().processes(MARK) {
        left if left.is_empty() => Ok(()),
        left => Err(format!("{left:?}")),
    });
}
