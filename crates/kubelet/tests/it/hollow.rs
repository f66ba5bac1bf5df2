//! Hollow nodes against an API server in memory.

use api::types::coordination::v1::Lease;
use api::types::core::v1::{Node, Pod};
use client::fake::FakeApi;
use foundation::{SystemClock, Tasks};
use kubelet::hollow;
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn nodes_register_and_run_pods_in_name_only() {
    let api = FakeApi::new();
    let tasks = Tasks::new("test");
    let client = super::api_server::client(&api);
    let nodes = hollow::start(20, hollow::Options::default(), client, &tasks, SystemClock::shared());
    nodes.ready().await;
    assert_eq!(api.objects::<Node>().len(), 20);
    api.wait_for::<Lease>(|leases| leases.len() == 20).await;
    for (name, policy) in [("web", "Always"), ("job", "Never")] {
        let pod = json!({"metadata": {"name": name, "namespace": "default", "uid": name},
            "spec": {"nodeName": "hollow-7", "restartPolicy": policy, "containers": [{"name": "c", "image": "img"}]},
            "status": {"phase": "Pending"}});
        api.insert::<Pod>(serde_json::from_value(pod).unwrap());
    }
    let phase = |pods: &[Pod], name: &str| {
        let pod = pods.iter().find(|pod| pod.metadata.name.as_deref() == Some(name));
        pod.and_then(|pod| pod.status.clone()?.phase)
    };
    let pods = api
        .wait_for::<Pod>(|pods| {
            phase(pods, "web").as_deref() == Some("Running")
                && phase(pods, "job").as_deref() == Some("Succeeded")
        })
        .await;
    let ips: Vec<_> = pods.iter().filter_map(|pod| pod.status.clone()?.pod_ip).collect();
    assert_eq!(ips.len(), 2);
    assert_ne!(ips[0], ips[1]);
    nodes.stop(std::time::Duration::from_secs(5)).await;
}
